//! What running jobs put out: pieces of their streams, metric samples, kernel events.
//!
//! Owns: the kinds, one record, the names of jobs that other programs minted. Must not know: how records are packed, any wire.

use bytes::Bytes;

use super::{JobId, LogStream, NewLog};

/// What a record is. The numbers are those of joblet's wire and stand in keys: they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum OutputKind {
    /// A piece of standard output or standard error.
    Log = 1,
    Metric = 2,
    Exec = 3,
    Connect = 4,
    Accept = 5,
    SocketData = 6,
    Mmap = 7,
    Mprotect = 8,
    File = 9,
    /// Of a type this version does not know: the whole message, as it came.
    Other = 255,
}

impl OutputKind {
    pub const ALL: [OutputKind; 10] = [
        OutputKind::Log,
        OutputKind::Metric,
        OutputKind::Exec,
        OutputKind::Connect,
        OutputKind::Accept,
        OutputKind::SocketData,
        OutputKind::Mmap,
        OutputKind::Mprotect,
        OutputKind::File,
        OutputKind::Other,
    ];

    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// Position in [`OutputKind::ALL`].
    pub fn index(self) -> usize {
        match self {
            OutputKind::Other => Self::ALL.len() - 1,
            known => usize::from(known as u8) - 1,
        }
    }

    pub fn is_event(self) -> bool {
        !matches!(self, OutputKind::Log | OutputKind::Metric)
    }

    pub fn name(self) -> &'static str {
        match self {
            OutputKind::Log => "log",
            OutputKind::Metric => "metric",
            OutputKind::Exec => "exec",
            OutputKind::Connect => "connect",
            OutputKind::Accept => "accept",
            OutputKind::SocketData => "socket_data",
            OutputKind::Mmap => "mmap",
            OutputKind::Mprotect => "mprotect",
            OutputKind::File => "file",
            OutputKind::Other => "other",
        }
    }
}

/// A record before it has its ordinal.
#[derive(Debug, Clone, PartialEq)]
pub struct NewOutput {
    pub kind: OutputKind,
    /// Of a log. `Job`: a line that a client appended about the job in one call with its output; `label` holds it.
    pub stream: LogStream,
    /// As the sender says, Unix nanoseconds.
    pub time_ns: i64,
    /// The sender's count; 0 where it has none.
    pub sequence: u64,
    /// Level, resource, fields, trace and, for stream `Job`, the message. None: nothing but the data.
    pub label: Option<Box<NewLog>>,
    /// A log's bytes; of other kinds the sender's message as it came.
    pub data: Bytes,
}

impl NewOutput {
    /// About what it occupies in memory.
    pub fn weight(&self) -> usize {
        let label = self.label.as_ref().map_or(0, |label| 256 + label.message.len());
        std::mem::size_of::<OutputRecord>() + self.data.len() + label
    }
}

/// A record as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputRecord {
    /// Logs: the offset in the job's one record sequence, which its own lines share, so numbers may be missing here. Other kinds:
    /// counts from 0 within job and kind.
    pub ordinal: u64,
    pub entry: NewOutput,
}

/// The records of one append that belong to one job, in order. Their kinds may be mixed.
#[derive(Debug, Clone)]
pub struct OutputShare {
    pub job: JobId,
    /// The ordinal that the first record must get, or none of them is appended. They are of one kind then.
    pub expected: Option<u64>,
    pub records: Vec<NewOutput>,
}

/// A job as another program calls it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobName(Box<str>);

impl JobName {
    pub const BYTES_MAX: usize = 128;

    /// Takes `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`: nothing that is a path, ends a line or hides.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let plain = |b: &u8| b.is_ascii_alphanumeric();
        let fits = bytes.len() <= Self::BYTES_MAX
            && bytes.first().is_some_and(plain)
            && bytes.iter().all(|b| plain(b) || b"._-".contains(b));
        fits.then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for JobName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_keep_their_numbers() {
        for (index, kind) in OutputKind::ALL.into_iter().enumerate() {
            assert_eq!(OutputKind::from_number(kind as u8), Some(kind));
            assert_eq!(kind.index(), index);
        }
        assert_eq!(OutputKind::from_number(10), None);
    }

    #[test]
    fn a_job_cannot_be_named_as_a_path() {
        for bad in ["", "../x", ".x", "a/b", "a\0b", "a b", "é", "-a", &"a".repeat(129)] {
            assert_eq!(JobName::parse(bad), None, "{bad:?}");
        }
        for good in ["1", "job-17", "0198c1f2-7c1e-4d2a-9d4e-0123456789ab", &"a".repeat(128)] {
            assert_eq!(JobName::parse(good).unwrap().as_str(), good);
        }
    }
}
