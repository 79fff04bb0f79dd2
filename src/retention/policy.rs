//! What may go: pure decisions from ages and `now`.
//!
//! Owns: ages, cutoffs, the verdict on each job, letter and upload. Must not know: how anything is read or deleted.

use std::collections::BTreeSet;

use crate::model::{CleanupKind, Job, JobId};
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
            idempotency: age(options.idempotency_days, DAY_MS),
            dlq: age(options.dlq_days, DAY_MS),
            queue: age(options.queue_days, DAY_MS),
            uploads: age(options.uploads_hours, HOUR_MS),
        }
    }

    /// One age for every kind, where 0 means whatever has ended, even if a clock that went back dates it into the future.
    pub fn asked(older_than_days: u32, now_ms: i64) -> Self {
        let cutoff = Some(if older_than_days == 0 { i64::MAX } else { before(now_ms, older_than_days, DAY_MS) });
        Self { jobs: cutoff, logs: cutoff, idempotency: cutoff, dlq: cutoff, queue: cutoff, uploads: cutoff }
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    /// The job with everything of it; nothing of it is counted under another kind.
    Whole,
    /// Only these.
    Parts {
        logs: bool,
        key: bool,
    },
}

/// What of a job may go when `kinds` are cleaned.
pub fn judge(job: &Job, cutoffs: &Cutoffs, kinds: &BTreeSet<CleanupKind>) -> Verdict {
    if !job.state.is_terminal() {
        return Verdict::Keep;
    }
    let asked = |kind, at_ms, cutoff| kinds.contains(&kind) && is_past(at_ms, cutoff);
    if asked(CleanupKind::Jobs, job.completed_at_ms, cutoffs.jobs) {
        return Verdict::Whole;
    }
    let logs = asked(CleanupKind::Logs, job.completed_at_ms, cutoffs.logs) && job.log_count > 0;
    let key = asked(CleanupKind::Idempotency, job.created_at_ms, cutoffs.idempotency);
    if logs || key { Verdict::Parts { logs, key } } else { Verdict::Keep }
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

/// About what deleting the job gives back: rows, not objects.
pub fn job_bytes(job: &Job) -> u64 {
    1_000 + 500 * u64::from(job.total) + LOG_BYTES * job.log_count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{JobState, TaskIndex, TaskRef};
    use crate::retention::fake::{job_at, upload_at};

    fn all() -> BTreeSet<CleanupKind> {
        CleanupKind::ALL.into_iter().collect()
    }

    proptest! {
        #[test]
        fn nothing_active_and_nothing_younger_than_its_age_ever_goes(
            state in 0usize..6, created in 0i64..200 * DAY_MS, took in 0i64..60 * DAY_MS, now in 0i64..300 * DAY_MS,
            ages: [u8; 3], asked: Option<u8>,
        ) {
            let mut job = job_at(JobState::ALL[state], created, created + took);
            job.log_count = 5;
            let [jobs_days, logs_days, idempotency_days] = ages.map(u32::from);
            let options = Options { jobs_days, logs_days, idempotency_days, ..Options::default() };
            let cutoffs = match asked {
                Some(days) => Cutoffs::asked(u32::from(days), now),
                None => Cutoffs::configured(&options, now),
            };
            let old = |at: i64, days: u32| match asked {
                Some(days) => days == 0 || now - at > i64::from(days) * DAY_MS,
                None => days > 0 && now - at > i64::from(days) * DAY_MS,
            };
            let terminal = job.state.is_terminal();
            match judge(&job, &cutoffs, &all()) {
                Verdict::Keep => prop_assert!(!terminal || !old(job.completed_at_ms, jobs_days)),
                Verdict::Whole => {
                    prop_assert!(terminal && old(job.completed_at_ms, jobs_days));
                    prop_assert!(asked == Some(0) || job.id < ids_end(cutoffs.jobs));
                }
                Verdict::Parts { logs, key } => {
                    prop_assert!(terminal && (logs || key) && !old(job.completed_at_ms, jobs_days));
                    prop_assert_eq!(logs, old(job.completed_at_ms, logs_days));
                    prop_assert_eq!(key, old(job.created_at_ms, idempotency_days));
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
