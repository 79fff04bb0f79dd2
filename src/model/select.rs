//! What operators choose: dead letters, things to clean up, switches to turn.

use std::collections::{BTreeMap, BTreeSet};

use super::{DeadLetterId, Failure, JobId, JobType, TaskSpec, Tenant};

/// A resource that was given up, with everything needed to try it again after its job is gone.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    pub id: DeadLetterId,
    pub job_type: JobType,
    pub tenant: Tenant,
    pub spec: TaskSpec,
    pub failure: Failure,
    pub attempts: u32,
    /// The dead letter this one was already a replay of.
    pub replay_of: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterSelector {
    pub ids: Vec<DeadLetterId>,
    pub job: Option<JobId>,
    pub code_prefix: String,
    pub host: String,
    pub before_ms: i64,
    /// 0: no limit.
    pub max: u32,
    pub dry_run: bool,
    pub confirm_all: bool,
}

impl DeadLetterSelector {
    /// Picks everything: needs `confirm_all` where it changes something.
    pub fn is_unrestricted(&self) -> bool {
        self.ids.is_empty()
            && self.job.is_none()
            && self.code_prefix.is_empty()
            && self.host.is_empty()
            && self.before_ms == 0
            && self.max == 0
    }

    /// `max` and `dry_run` are the caller's to apply.
    pub fn matches(&self, letter: &DeadLetter) -> bool {
        (self.ids.is_empty() || self.ids.contains(&letter.id))
            && self.job.is_none_or(|job| job == letter.id.task.job)
            && letter.failure.code.as_str().starts_with(&self.code_prefix)
            && (self.host.is_empty() || letter.failure.host() == self.host)
            && (self.before_ms == 0 || letter.id.died_at_ms < self.before_ms)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CleanupKind {
    Jobs,
    Logs,
    Idempotency,
    Dlq,
    Queue,
    Uploads,
    /// Metric samples and roll-ups.
    Metrics,
    Events,
}

impl CleanupKind {
    pub const ALL: [CleanupKind; 8] = [
        CleanupKind::Jobs,
        CleanupKind::Logs,
        CleanupKind::Idempotency,
        CleanupKind::Dlq,
        CleanupKind::Queue,
        CleanupKind::Uploads,
        CleanupKind::Metrics,
        CleanupKind::Events,
    ];

    pub fn name(self) -> &'static str {
        match self {
            CleanupKind::Jobs => "JOBS",
            CleanupKind::Logs => "LOGS",
            CleanupKind::Idempotency => "IDEMPOTENCY",
            CleanupKind::Dlq => "DLQ",
            CleanupKind::Queue => "QUEUE",
            CleanupKind::Uploads => "UPLOADS",
            CleanupKind::Metrics => "METRICS",
            CleanupKind::Events => "EVENTS",
        }
    }
}

/// A cleanup as asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cleanup {
    /// None: each kind's configured age.
    pub older_than_days: Option<u32>,
    /// Empty: all kinds.
    pub kinds: BTreeSet<CleanupKind>,
    pub dry_run: bool,
    /// 0: no limit.
    pub max_deletes: u64,
    pub compact: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CleanupReport {
    pub deleted: BTreeMap<CleanupKind, u64>,
    /// The jobs that were deleted, as clients know them; the first [`Self::JOBS_MAX`].
    pub jobs: Vec<String>,
    pub reclaimed_bytes: u64,
    pub more: bool,
}

impl CleanupReport {
    /// Names of up to 128 bytes: some 1.3 MB, well within a message.
    pub const JOBS_MAX: usize = 10_000;
}

/// The durable switches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Controls {
    pub paused: bool,
    pub draining: bool,
    pub paused_job_types: BTreeSet<JobType>,
    pub paused_hosts: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlChange {
    Pause,
    PauseJobType(JobType),
    PauseHost(String),
    Drain,
    /// Undoes everything.
    Resume,
    ResumeJobType(JobType),
    ResumeHost(String),
}

impl Controls {
    /// At most this many paused hosts and job types each: the record is read at every decision.
    pub const PAUSED_MAX: usize = 1_000;

    /// The switches after `change`.
    pub fn after(mut self, change: &ControlChange) -> Controls {
        match change {
            ControlChange::Pause => self.paused = true,
            ControlChange::PauseJobType(job_type) => {
                self.paused_job_types.insert(job_type.clone());
            }
            ControlChange::PauseHost(host) => {
                self.paused_hosts.insert(host.clone());
            }
            ControlChange::Drain => self.draining = true,
            ControlChange::Resume => self = Controls::default(),
            ControlChange::ResumeJobType(job_type) => {
                self.paused_job_types.remove(job_type);
            }
            ControlChange::ResumeHost(host) => {
                self.paused_hosts.remove(host);
            }
        }
        self
    }
}
