//! The read side: has no way to write. Every scan is bounded by its arguments; a damaged row is an error, never a short list.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::QueueKey;
use crate::model::{
    Attempt, Controls, DeadLetter, DeadLetterId, Failure, Job, JobId, JobState, JobType, LogRecord, Manifest, Priority,
    Refusal, Task, TaskIndex, TaskRef, TaskSpec, Tenant,
};

#[derive(Clone)]
pub struct Reader {}

/// What dispatch needs of a job to run its tasks.
#[derive(Debug, Clone)]
pub struct Plan {
    pub job: JobId,
    pub job_type: JobType,
    pub tenant: Tenant,
    pub priority: Priority,
    pub trace_id: String,
    pub created_at_ms: i64,
    pub manifest_bucket: String,
    pub manifest_key: String,
    pub manifest_stored: bool,
    pub tasks: Vec<TaskSpec>,
    /// About what this plan occupies in memory.
    pub bytes: usize,
}

/// One entry of the ready index: tasks of one job that may start.
#[derive(Debug, Clone)]
pub struct ReadyEntry {
    pub key: QueueKey,
    pub plan: Arc<Plan>,
    /// Those of the entry that are still ready, in order; the manifest's own may be among them.
    pub tasks: Vec<TaskIndex>,
}

#[derive(Debug, Clone)]
pub struct ReadyPage {
    pub entries: Vec<ReadyEntry>,
    /// Continue after this sequence.
    pub next_seq: u64,
    /// Nothing stood behind `next_seq` when the page was read.
    pub end: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueCursor {
    pub at_ms: i64,
    pub task: Option<TaskRef>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueEntry {
    pub at_ms: i64,
    pub task: TaskRef,
}

/// A multipart upload somebody has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadRecord {
    pub task: TaskRef,
    pub epoch: u64,
    pub bucket: String,
    pub key: String,
    pub upload_id: String,
    pub begun_at_ms: i64,
}

/// Totals kept with each commit group: exact, and free to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    pub jobs: BTreeMap<JobState, u64>,
    /// Tasks not ended, manifest tasks included.
    pub tasks_open: u64,
    pub tasks_leased: u64,
    pub dead_letters: BTreeMap<String, u64>,
    pub dead_letter_bytes: u64,
}

#[derive(Debug, Clone, Default)]
pub struct Sizes {
    pub keyspaces: BTreeMap<&'static str, u64>,
    pub journal_bytes: u64,
    pub free_disk_bytes: u64,
}

/// Wakes when one job changes.
pub struct JobWatch {}

impl JobWatch {
    /// Returns after the next commit that touched the job since the last call (or since the watch was made).
    pub async fn changed(&mut self) {
        todo!()
    }
}

impl Reader {
    pub fn job(&self, _id: JobId) -> Result<Option<Job>, Refusal> {
        todo!()
    }
    /// Up to `rows` jobs with ids below `before` and at or above `floor`, newest first.
    pub fn jobs_before(&self, _before: JobId, _floor: JobId, _rows: usize) -> Result<Vec<Job>, Refusal> {
        todo!()
    }
    /// Up to `rows` jobs with ids above `after`, oldest first.
    pub fn jobs_after(&self, _after: JobId, _rows: usize) -> Result<Vec<Job>, Refusal> {
        todo!()
    }
    pub fn last_job_id(&self) -> Result<Option<JobId>, Refusal> {
        todo!()
    }
    pub fn manifest(&self, _id: JobId) -> Result<Option<Manifest>, Refusal> {
        todo!()
    }
    pub fn plan(&self, _id: JobId) -> Result<Option<Arc<Plan>>, Refusal> {
        todo!()
    }
    /// Resource tasks from `from` on, in order.
    pub fn tasks(&self, _id: JobId, _from: TaskIndex, _rows: usize) -> Result<Vec<Task>, Refusal> {
        todo!()
    }
    pub fn task(&self, _task: TaskRef) -> Result<Option<Task>, Refusal> {
        todo!()
    }
    /// Failed attempts of one task, oldest first, the last ten.
    pub fn attempts(&self, _task: TaskRef) -> Result<Vec<Attempt>, Refusal> {
        todo!()
    }
    pub fn logs(&self, _id: JobId, _from: u64, _rows: usize) -> Result<Vec<LogRecord>, Refusal> {
        todo!()
    }
    /// Letters after `after`, oldest first.
    pub fn dead_letters(&self, _after: Option<DeadLetterId>, _rows: usize) -> Result<Vec<DeadLetter>, Refusal> {
        todo!()
    }
    pub fn dead_letter(&self, _id: DeadLetterId) -> Result<Option<DeadLetter>, Refusal> {
        todo!()
    }
    /// Failed attempts of all jobs before `before`, newest first.
    pub fn failures_before(
        &self,
        _before: Option<DeadLetterId>,
        _rows: usize,
    ) -> Result<Vec<(DeadLetterId, JobType, Tenant, Failure)>, Refusal> {
        todo!()
    }
    /// The same, oldest first.
    pub fn failures_after(
        &self,
        _after: Option<DeadLetterId>,
        _rows: usize,
    ) -> Result<Vec<(DeadLetterId, JobType, Tenant, Failure)>, Refusal> {
        todo!()
    }

    /// Ready entries of one class with sequences above `after`, up to about `tasks` tasks.
    pub fn ready_after(&self, _priority: Priority, _after: u64, _tasks: usize) -> Result<ReadyPage, Refusal> {
        todo!()
    }
    /// Tasks due up to `until_ms`, in order of time, after `from`.
    pub fn due_after(&self, _from: DueCursor, _until_ms: i64, _rows: usize) -> Result<Vec<DueEntry>, Refusal> {
        todo!()
    }
    /// Jobs whose finalize hook is owed.
    pub fn owed_after(&self, _after: JobId, _rows: usize) -> Result<Vec<JobId>, Refusal> {
        todo!()
    }
    /// Whether a submission with the job's idempotency key would still be answered with this job.
    pub fn has_idempotency_key(&self, _id: JobId) -> Result<bool, Refusal> {
        todo!()
    }
    /// What the letter adds to [`Counters::dead_letter_bytes`]; 0 when it is gone.
    pub fn dead_letter_bytes(&self, _id: DeadLetterId) -> Result<u64, Refusal> {
        todo!()
    }
    pub fn uploads(&self, _rows: usize) -> Result<Vec<UploadRecord>, Refusal> {
        todo!()
    }

    pub fn controls(&self) -> Controls {
        todo!()
    }
    pub fn counters(&self) -> Counters {
        todo!()
    }
    /// Highest durable commit group.
    pub fn sequence(&self) -> u64 {
        todo!()
    }
    pub fn sizes(&self) -> Sizes {
        todo!()
    }
    /// None while the store serves; else why it does not.
    pub fn fault(&self) -> Option<String> {
        todo!()
    }

    pub fn watch_job(&self, _id: JobId) -> JobWatch {
        todo!()
    }
    /// Ticks when a commit may have given dispatch something to do.
    pub fn queue_watch(&self) -> tokio::sync::watch::Receiver<u64> {
        todo!()
    }
    /// Becomes true when the store can serve no longer.
    pub fn fault_watch(&self) -> tokio::sync::watch::Receiver<bool> {
        todo!()
    }
}
