//! What may go: pure decisions from ages and `now`.
//!
//! Owns: ages, cutoffs, the verdict on each job, letter and upload. Must not know: how anything is read or deleted.

use std::collections::BTreeSet;

use crate::model::{CleanupKind, Job, JobId, OutputKind};
use crate::store::{Standing, UploadRecord};

use super::Options;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// What is strictly older than this goes, Unix ms; None: nothing ever does.
pub type Cutoff = Option<i64>;

/// One cutoff a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cutoffs {
    pub jobs: Cutoff,
    pub logs: Cutoff,
    pub metrics: Cutoff,
    pub events: Cutoff,
    pub idempotency: Cutoff,
    pub dlq: Cutoff,
    pub queue: Cutoff,
    pub uploads: Cutoff,
}

impl Cutoffs {
    /// As configured, where an age of 0 means never.
    pub fn configured(options: &Options, now_ms: i64) -> Self {
        let age = |count: u32, unit_ms: i64| (count > 0).then(|| before(now_ms, count, unit_ms));
        Self {
            jobs: age(options.jobs_days, DAY_MS),
            logs: age(options.logs_days, DAY_MS),
            metrics: age(options.metrics_days, DAY_MS),
            events: age(options.events_days, DAY_MS),
            idempotency: age(options.idempotency_days, DAY_MS),
            dlq: age(options.dlq_days, DAY_MS),
            queue: age(options.queue_days, DAY_MS),
            uploads: age(options.uploads_hours, HOUR_MS),
        }
    }

    /// One age for every kind, where 0 means whatever has ended, even if a clock that went back dates it into the future.
    pub fn asked(older_than_days: u32, now_ms: i64) -> Self {
        let cutoff = Some(if older_than_days == 0 { i64::MAX } else { before(now_ms, older_than_days, DAY_MS) });
        Self {
            jobs: cutoff,
            logs: cutoff,
            metrics: cutoff,
            events: cutoff,
            idempotency: cutoff,
            dlq: cutoff,
            queue: cutoff,
            uploads: cutoff,
        }
    }
}

fn before(now_ms: i64, count: u32, unit_ms: i64) -> i64 {
    now_ms.saturating_sub(i64::from(count).saturating_mul(unit_ms))
}

/// Whether something of that time is old enough.
pub fn is_past(at_ms: i64, cutoff: Cutoff) -> bool {
    cutoff.is_some_and(|cutoff| at_ms < cutoff)
}

/// Jobs with this id and above are too young to be looked at: nothing ends before it was accepted.
pub fn ids_end(cutoff: Cutoff) -> JobId {
    match cutoff {
        None => JobId::MIN,
        Some(i64::MAX) => JobId::MAX,
        Some(cutoff) => JobId::first_at_ms(cutoff),
    }
}

/// From when on a job that another program named and nobody ends counts as ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// Not heard of since then, Unix ms.
    pub since_ms: i64,
    pub hours: u32,
}

impl Idle {
    /// None: never.
    pub fn configured(options: &Options, now_ms: i64) -> Option<Self> {
        let hours = options.idle_hours;
        (hours > 0).then(|| Self { since_ms: before(now_ms, hours, HOUR_MS), hours })
    }

    /// What the job then says of itself.
    pub fn phase(&self) -> String {
        format!("no output for {} h", self.hours)
    }
}

/// Whether it is still to be ended.
pub fn is_idle(job: &Job, idle: Option<Idle>) -> bool {
    job.name.is_some() && !job.state.is_terminal() && idle.is_some_and(|idle| job.heard_ms() < idle.since_ms)
}

/// Where the age of a job and its output begins: at its end, or where output came later than that. None: it is active.
pub fn ended_ms(job: &Job, idle: Option<Idle>) -> Option<i64> {
    if job.state.is_terminal() {
        return Some(job.completed_at_ms.max(job.output_at_ms));
    }
    is_idle(job, idle).then(|| job.heard_ms())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    /// The job with everything of it; nothing of it is counted under another kind.
    Whole,
    /// Only these.
    Parts(Parts),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts {
    pub logs: bool,
    pub metrics: bool,
    pub events: bool,
    pub key: bool,
}

/// What of a job may go when `kinds` are cleaned.
pub fn judge(job: &Job, idle: Option<Idle>, cutoffs: &Cutoffs, kinds: &BTreeSet<CleanupKind>) -> Verdict {
    let Some(ended_ms) = ended_ms(job, idle) else { return Verdict::Keep };
    let asked = |kind, at_ms, cutoff| kinds.contains(&kind) && is_past(at_ms, cutoff);
    if asked(CleanupKind::Jobs, ended_ms, cutoffs.jobs) {
        return Verdict::Whole;
    }
    let any = |kind, cutoff| asked(kind, ended_ms, cutoff) && output_of(kind).any(|kind| job.records_of(kind) > 0);
    let parts = Parts {
        logs: any(CleanupKind::Logs, cutoffs.logs),
        metrics: any(CleanupKind::Metrics, cutoffs.metrics),
        events: any(CleanupKind::Events, cutoffs.events),
        key: asked(CleanupKind::Idempotency, job.created_at_ms, cutoffs.idempotency),
    };
    if parts == Parts::default() { Verdict::Keep } else { Verdict::Parts(parts) }
}

/// The records that a kind of cleanup is about; those of LOGS are the job's own lines as well.
pub fn output_of(kind: CleanupKind) -> impl Iterator<Item = OutputKind> {
    OutputKind::ALL.into_iter().filter(move |output| match kind {
        CleanupKind::Logs => *output == OutputKind::Log,
        CleanupKind::Metrics => *output == OutputKind::Metric,
        CleanupKind::Events => output.is_event(),
        CleanupKind::Jobs | CleanupKind::Idempotency | CleanupKind::Dlq | CleanupKind::Queue | CleanupKind::Uploads => {
            false
        }
    })
}

/// Nobody will finish the upload: its task has ended, or waits for another attempt for longer than uploads are kept.
pub fn is_abandoned(upload: &UploadRecord, standing: Standing, cutoff: Cutoff) -> bool {
    match standing {
        Standing::Leased => false,
        Standing::Open => is_past(upload.begun_at_ms, cutoff),
        Standing::Closed => true,
    }
}

/// About what deleting one log record, one idempotency key, one failure or one upload row gives back.
pub const LOG_BYTES: u64 = 150;
pub const KEY_BYTES: u64 = 100;
pub const FAILURE_BYTES: u64 = 300;
pub const UPLOAD_BYTES: u64 = 300;

/// About what deleting the job gives back: rows, not objects, and no output.
pub fn job_bytes(job: &Job, lines: u64) -> u64 {
    1_000 + 500 * u64::from(job.total) + LOG_BYTES * lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{JobName, JobState, TaskIndex, TaskRef};
    use crate::retention::fake::{job_at, upload_at};

    fn all() -> BTreeSet<CleanupKind> {
        CleanupKind::ALL.into_iter().collect()
    }

    proptest! {
        #[test]
        fn nothing_active_and_nothing_younger_than_its_age_ever_goes(
            state in 0usize..6, created in 0i64..200 * DAY_MS, took in 0i64..60 * DAY_MS, now in 0i64..300 * DAY_MS,
            later in 0i64..30 * DAY_MS, ages in any::<[u8; 5]>(), idle_hours in 0u32..500, named in any::<bool>(),
            asked: Option<u8>,
        ) {
            let mut job = job_at(JobState::ALL[state], created, created + took);
            let terminal = job.state.is_terminal();
            (job.log_count, job.output_counts, job.output_at_ms) = (5, vec![0, 4, 3], created + later);
            job.name = named.then(|| JobName::parse("n").unwrap());
            let [jobs_days, logs_days, metrics_days, events_days, idempotency_days] = ages.map(u32::from);
            let options = Options {
                jobs_days, logs_days, metrics_days, events_days, idempotency_days, idle_hours, ..Options::default()
            };
            let cutoffs = match asked {
                Some(days) => Cutoffs::asked(u32::from(days), now),
                None => Cutoffs::configured(&options, now),
            };
            let old = |at: i64, days: u32| match asked {
                Some(days) => days == 0 || now - at > i64::from(days) * DAY_MS,
                None => days > 0 && now - at > i64::from(days) * DAY_MS,
            };
            let heard = created + took.max(later);
            let silent = named && idle_hours > 0 && now - heard > i64::from(idle_hours) * HOUR_MS;
            let idle = Idle::configured(&options, now);
            prop_assert_eq!(is_idle(&job, idle), !terminal && silent);
            match judge(&job, idle, &cutoffs, &all()) {
                Verdict::Keep => prop_assert!(!(terminal || silent) || !old(heard, jobs_days)),
                Verdict::Whole => {
                    prop_assert!((terminal || silent) && old(heard, jobs_days));
                    prop_assert!(asked == Some(0) || job.id < ids_end(cutoffs.jobs));
                }
                Verdict::Parts(parts) => {
                    prop_assert!((terminal || silent) && !old(heard, jobs_days));
                    prop_assert_eq!(parts.logs, old(heard, logs_days));
                    prop_assert_eq!(parts.metrics, old(heard, metrics_days));
                    prop_assert_eq!(parts.events, old(heard, events_days));
                    prop_assert_eq!(parts.key, old(job.created_at_ms, idempotency_days));
                }
            }
        }
    }

    #[test]
    fn an_age_of_zero_means_never_in_the_config_and_everything_in_a_request() {
        let options = Options { jobs_days: 0, ..Options::default() };
        assert_eq!(Cutoffs::configured(&options, 5).jobs, None);
        assert!(!is_past(i64::MIN, None));
        assert!(is_past(1_000, Cutoffs::asked(0, 5).jobs));
        assert_eq!(ids_end(Cutoffs::asked(0, 5).jobs), JobId::MAX);
    }

    #[test]
    fn a_running_upload_is_never_aborted_and_one_of_an_ended_task_always() {
        let task = TaskRef { job: JobId::MIN, index: TaskIndex(0) };
        let upload = upload_at(task, "u", 10);
        assert!(!is_abandoned(&upload, Standing::Leased, Some(i64::MAX)));
        assert!(is_abandoned(&upload, Standing::Open, Some(11)) && !is_abandoned(&upload, Standing::Open, Some(10)));
        assert!(!is_abandoned(&upload, Standing::Open, None));
        assert!(is_abandoned(&upload, Standing::Closed, None));
    }
}
