//! Identifiers: small, ordered, validated once at the door and trusted afterwards.

use std::fmt;
use std::str::FromStr;

/// A job's identity: a UUIDv7 minted by this daemon, so that byte order is order of acceptance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId([u8; 16]);

impl JobId {
    pub const MIN: JobId = JobId([0; 16]);
    pub const MAX: JobId = JobId([0xff; 16]);

    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The Unix milliseconds in the first 48 bits: when the id was minted.
    pub fn minted_at_ms(&self) -> i64 {
        let mut wide = [0u8; 8];
        wide[2..].copy_from_slice(&self.0[..6]);
        i64::from_be_bytes(wide)
    }

    /// The lowest id that can be minted at `ms`: where a time range starts in id order.
    pub fn first_at_ms(ms: i64) -> Self {
        let wide = ms.clamp(0, (1 << 48) - 1).to_be_bytes();
        let mut id = [0u8; 16];
        id[..6].copy_from_slice(&wide[2..]);
        Self(id)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for JobId {
    type Err = InvalidId;

    /// Takes the hyphenated lower-case form only: one job, one spelling.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let id = uuid::Uuid::try_parse(text).map_err(|_| InvalidId)?;
        let job = Self(id.into_bytes());
        if job.to_string() == text { Ok(job) } else { Err(InvalidId) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id this daemon could have given")]
pub struct InvalidId;

/// A task's place in its job. `MANIFEST` is the one task each job with resources has besides them: storing the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskIndex(pub u16);

impl TaskIndex {
    pub const MANIFEST: TaskIndex = TaskIndex(u16::MAX);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskRef {
    pub job: JobId,
    pub index: TaskIndex,
}

impl TaskRef {
    pub fn manifest(job: JobId) -> Self {
        Self { job, index: TaskIndex::MANIFEST }
    }

    pub fn is_manifest(&self) -> bool {
        self.index == TaskIndex::MANIFEST
    }

    /// The name of what the attempt of this epoch stages: one path segment, unique for ever.
    pub fn stage(&self, epoch: u64) -> String {
        format!("{self}-{epoch}")
    }

    /// Reads [`TaskRef::stage`] back; None for a name of any other origin.
    pub fn of_stage(stage: &str) -> Option<(Self, u64)> {
        let (task, epoch) = stage.rsplit_once('-')?;
        let (job, index) = task.rsplit_once('.')?;
        let found = (Self { job: job.parse().ok()?, index: TaskIndex(index.parse().ok()?) }, epoch.parse().ok()?);
        (found.0.stage(found.1) == stage).then_some(found)
    }
}

impl fmt::Display for TaskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_manifest() { write!(f, "{}.manifest", self.job) } else { write!(f, "{}.{}", self.job, self.index.0) }
    }
}

/// A dead letter's identity: when it died and which task it was, so that byte order is order of death.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeadLetterId {
    pub died_at_ms: i64,
    pub task: TaskRef,
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.died_at_ms, self.task.job, self.task.index.0)
    }
}

impl FromStr for DeadLetterId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (died, rest) = text.split_once('-').ok_or(InvalidId)?;
        let (job, index) = rest.rsplit_once('-').ok_or(InvalidId)?;
        let id = Self {
            died_at_ms: died.parse().map_err(|_| InvalidId)?,
            task: TaskRef { job: job.parse()?, index: TaskIndex(index.parse().map_err(|_| InvalidId)?) },
        };
        if id.to_string() == text { Ok(id) } else { Err(InvalidId) }
    }
}

macro_rules! slug {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Takes `[a-z0-9][a-z0-9._-]{0,63}`; empty means `default`.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let text = if text.is_empty() { "default" } else { text };
                if is_slug(text) { Ok(Self(text.into())) } else { Err(InvalidId) }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self("default".into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

slug!(
    /// Selects the handler and its settings.
    JobType
);
slug!(
    /// Who the job belongs to.
    Tenant
);

fn is_slug(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.len() <= 64 && bytes.first().is_some_and(plain) && bytes.iter().all(|b| plain(b) || b"._-".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_id_has_one_spelling() {
        let id = JobId::first_at_ms(1_700_000_000_123);
        assert_eq!(id.to_string().parse::<JobId>().unwrap(), id);
        assert_eq!(id.minted_at_ms(), 1_700_000_000_123);
        assert!(id.to_string().to_uppercase().replace('-', "").parse::<JobId>().is_err());
        assert!("../x".parse::<JobId>().is_err());
    }

    #[test]
    fn a_dead_letter_id_survives_its_text() {
        let id = DeadLetterId { died_at_ms: 5, task: TaskRef { job: JobId::first_at_ms(9), index: TaskIndex(7) } };
        assert_eq!(id.to_string().parse::<DeadLetterId>().unwrap(), id);
        assert!("5-x-7".parse::<DeadLetterId>().is_err());
    }

    #[test]
    fn a_stage_tells_whose_it_is() {
        let task = TaskRef { job: JobId::first_at_ms(9), index: TaskIndex(7) };
        assert_eq!(TaskRef::of_stage(&task.stage(12)), Some((task, 12)));
        for other in ["", "x-1", "task-2", &format!("{task}-x"), &format!("{task}-012"), &format!("a{task}-1")] {
            assert_eq!(TaskRef::of_stage(other), None, "{other}");
        }
    }

    #[test]
    fn a_job_type_cannot_be_a_path() {
        for bad in ["../x", "A", "a/b", ".a", "-a", &"a".repeat(65), "a b", "é"] {
            assert!(JobType::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(JobType::parse("").unwrap().as_str(), "default");
    }
}
