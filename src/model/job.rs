//! A job as clients see it, and the rule by which it ends.

use super::{Failure, JobId, JobName, JobType, OutputKind, Tenant};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobState {
    Queued,
    InProgress,
    Partial,
    Completed,
    Failed,
    Canceled,
}

impl JobState {
    pub const ALL: [JobState; 6] = [
        JobState::Queued,
        JobState::InProgress,
        JobState::Partial,
        JobState::Completed,
        JobState::Failed,
        JobState::Canceled,
    ];

    pub fn is_terminal(self) -> bool {
        match self {
            JobState::Queued | JobState::InProgress => false,
            JobState::Partial | JobState::Completed | JobState::Failed | JobState::Canceled => true,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::InProgress => "in_progress",
            JobState::Partial => "partial",
            JobState::Completed => "completed",
            JobState::Failed => "failed",
            JobState::Canceled => "canceled",
        }
    }

    /// Where a client may move an external job. A terminal state is left by nobody.
    pub fn may_become(self, next: JobState) -> bool {
        match self {
            JobState::Queued => true,
            JobState::InProgress => next != JobState::Queued,
            JobState::Partial | JobState::Completed | JobState::Failed | JobState::Canceled => false,
        }
    }
}

/// Higher classes are started first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
}

/// A snapshot of one job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub id: JobId,
    pub job_type: JobType,
    pub tenant: Tenant,
    pub priority: Priority,
    pub state: JobState,
    pub phase: String,
    pub total: u32,
    pub completed: u32,
    pub failed: u32,
    pub canceled: u32,
    pub manifest_bucket: String,
    pub manifest_key: String,
    pub manifest_stored: bool,
    /// The most recent failures, newest last, at most [`Job::ERRORS_MAX`].
    pub errors: Vec<Failure>,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
    /// 0 while the job is not terminal.
    pub completed_at_ms: i64,
    pub log_count: u64,
    pub bytes_stored: u64,
    pub revision: u64,
    pub trace_id: String,
    /// No resources of its own: moved by clients.
    pub external: bool,
    pub cancel_requested: bool,
    /// What another program calls the job, if it does: the id that clients see.
    pub name: Option<JobName>,
    /// Records of other kinds than logs that were ever appended, by [`super::OutputKind::index`]; missing: none.
    pub output_counts: Vec<u64>,
    /// Bytes of output that were ever appended.
    pub output_bytes: u64,
    /// When output came last, Unix ms; 0: never.
    pub output_at_ms: i64,
}

impl Job {
    pub const ERRORS_MAX: usize = 10;

    /// The id that clients see and use.
    pub fn public_id(&self) -> String {
        self.name.as_ref().map_or_else(|| self.id.to_string(), ToString::to_string)
    }

    /// When anything was last heard of it: a change, a line, output.
    pub fn heard_ms(&self) -> i64 {
        self.created_at_ms.max(self.updated_at_ms).max(self.output_at_ms)
    }

    /// Behind the last ordinal of the kind that was ever given.
    pub fn records_of(&self, kind: OutputKind) -> u64 {
        if kind == OutputKind::Log {
            return self.log_count;
        }
        self.output_counts.get(kind.index()).copied().unwrap_or(0)
    }
}

/// How a job with resources ends once no task is open. A manifest that could not be stored counts as one that failed.
pub fn outcome_of(completed: u32, failed: u32, canceled: u32) -> JobState {
    match (completed, failed, canceled) {
        (_, _, 1..) => JobState::Canceled,
        (_, 0, 0) => JobState::Completed,
        (0, _, 0) => JobState::Failed,
        (_, _, 0) => JobState::Partial,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_with_one_lost_resource_is_never_called_completed() {
        assert_eq!(outcome_of(3, 0, 0), JobState::Completed);
        assert_eq!(outcome_of(2, 1, 0), JobState::Partial);
        assert_eq!(outcome_of(0, 3, 0), JobState::Failed);
        assert_eq!(outcome_of(2, 0, 1), JobState::Canceled);
    }

    #[test]
    fn a_terminal_state_is_final_for_clients() {
        for from in JobState::ALL {
            for to in JobState::ALL {
                assert!(!(from.is_terminal() && from.may_become(to)), "{from:?} → {to:?}");
            }
        }
    }
}
