//! The store: one Fjall database, one committer, and a mark outside it that knows what was acknowledged.
//!
//! Owns: keys, records, the commit group, boot recovery, every durable verb. Must not know: who calls, sockets, clocks.

mod reader;
mod verbs;

pub use reader::{Counters, DueCursor, DueEntry, JobWatch, Plan, Reader, ReadyEntry, ReadyPage, Sizes, UploadRecord};
pub use verbs::{
    Admitted, Canceled, End, Idempotency, Lease, LeaseWant, NewJob, Prune, QueueKey, Replayed, Settled, Settlement,
    StatusChange,
};

use crate::model::{ControlChange, Controls, DeadLetterId, Job, JobId, NewLog, Refusal};

#[derive(Debug, Clone)]
pub struct Options {}

/// The write side. Cheap to clone. Every verb is one atomic, durable change: when it answers, it is synced.
#[derive(Clone)]
pub struct Store {}

impl Store {
    /// Accepts a job: manifest, tasks, idempotency key and queue entry at once. `done` runs on the committer's thread
    /// after the sync and must not block.
    pub fn admit(&self, _job: NewJob, _done: impl FnOnce(Result<Admitted, Refusal>) + Send + 'static) {
        todo!()
    }

    /// Starts attempts: each is counted before it runs. `None` where the task is no longer to be had (canceled, deleted, taken).
    /// `spent` are ready entries of which nothing is left to lease after this.
    pub async fn lease(
        &self,
        _wants: Vec<LeaseWant>,
        _spent: Vec<QueueKey>,
        _now_ms: i64,
    ) -> Result<Vec<Option<Lease>>, Refusal> {
        todo!()
    }

    /// Ends attempts. Settling twice, or with an epoch that is not the present one, changes nothing and says `Stale`.
    pub async fn settle(&self, _settlements: Vec<Settlement>) -> Result<Vec<Settled>, Refusal> {
        todo!()
    }

    /// Boot: every lease is void. Its task is due at once; one interrupted more than `interrupted_max` times in a row dies as
    /// SYSTEM_POISON. Returns how many were voided.
    pub async fn void_leases(&self, _now_ms: i64, _interrupted_max: u32) -> Result<u64, Refusal> {
        todo!()
    }

    /// The job's finalize hook has returned: it is owed no longer.
    pub async fn finalized(&self, _job: JobId, _log: Option<NewLog>) -> Result<(), Refusal> {
        todo!()
    }

    /// Cancels every open resource task. The job turns terminal at once if its manifest is stored, else as soon as it is.
    pub async fn cancel(&self, _job: JobId, _reason: String, _now_ms: i64) -> Result<Canceled, Refusal> {
        todo!()
    }

    /// Queues failed and canceled resources again (all, or those named) with fresh attempts. Returns the job and how many.
    pub async fn retry(&self, _job: JobId, _resource_ids: Vec<String>, _now_ms: i64) -> Result<(Job, u32), Refusal> {
        todo!()
    }

    /// Queues one dead letter's resource again: in its job while that is kept, else in a new job `fresh`. The letter is gone after.
    pub async fn replay(&self, _letter: DeadLetterId, _fresh: JobId, _now_ms: i64) -> Result<Replayed, Refusal> {
        todo!()
    }

    pub async fn update_status(&self, _change: StatusChange) -> Result<Job, Refusal> {
        todo!()
    }

    /// Appends to the job's record sequence; returns the first offset.
    pub async fn append_logs(&self, _job: JobId, _records: Vec<NewLog>) -> Result<u64, Refusal> {
        todo!()
    }

    /// Turns the durable switches.
    pub async fn control(&self, _change: ControlChange) -> Result<Controls, Refusal> {
        todo!()
    }

    /// An upload was begun: recorded so that it is aborted if nobody finishes it.
    pub async fn upload_begun(&self, _upload: UploadRecord) -> Result<(), Refusal> {
        todo!()
    }

    /// The upload was completed or aborted.
    pub async fn upload_ended(&self, _upload: UploadRecord) -> Result<(), Refusal> {
        todo!()
    }

    /// Deletes rows: jobs whole, logs, keys, letters. Refuses to touch active jobs. One call, at most 1,000 items, one group.
    pub async fn prune(&self, _items: Vec<Prune>) -> Result<u64, Refusal> {
        todo!()
    }

    /// Gives freed space back to the file system. Blocks the calling thread for seconds.
    pub fn compact(&self) -> Result<(), Refusal> {
        todo!()
    }
}
