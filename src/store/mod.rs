//! The store: one Fjall database, one committer, and a mark outside it that knows what was acknowledged.
//!
//! Owns: keys, records, the commit group, boot recovery, every durable verb. Must not know: who calls, sockets, clocks; times
//! come in with the verbs.
//!
//! ```text
//! verb ─▶ committer ─▶ one batch: rows + mark row ─▶ sync ─▶ mark file ─▶ answers, watches
//!                                                              │
//! reader ◀──────────────── Fjall ◀─────────────────────────────┘
//! ```

mod append;
mod check;
mod check_output;
mod committer;
mod compact;
mod journal;
mod journal_room;
pub mod keys;
mod ledger;
mod mark;
mod open;
pub mod output;
mod prune;
mod prune_output;
mod published;
mod queue;
#[cfg(test)]
mod queue_test;
mod reader;
mod recent;
mod records;
mod report;
mod salvage;
mod salvage_output;
mod sealer;
mod spaces;
mod tally;
#[cfg(test)]
mod tests;
mod tx;
mod uploads;
mod verbs;

use std::sync::Arc;
use std::time::Duration;

pub use append::NamedJob;
pub use check::check;
pub use open::{OpenError, Opened, Options, StoreGuard, open};
pub use output::{BlockHead, Edge, Edges, OutputBatch, ROLLUPS_S, Rollup, Tail, TextFilter, edge_index, edges_of};
pub use published::{JobWatch, ReadyNews};
pub use reader::{
    Counters, DueCursor, DueEntry, LogSlice, OutputLimit, OutputSlice, Plan, Reader, ReadyEntry, ReadyPage,
    ReadyTenants, Sizes, Standing,
};
pub use report::{CheckReport, SalvageReport};
pub use salvage::salvage;
pub use verbs::{
    Admitted, Canceled, End, FreshJob, Idempotency, Lease, LeaseWant, Left, NewJob, Prune, QueueKey, Replayed, Settled,
    Settlement, Source, StatusChange, TenantKey, Tried, Turned, UploadPart, UploadRecord,
};

use committer::{Committer, Request};
use published::Published;
use tokio::sync::oneshot;
use tx::Tx;

use crate::model::{ControlChange, Controls, DeadLetterId, Job, JobId, NewLog, Refusal, RefusalCode, TaskRef};

/// Leases voided in one group at boot.
const VOID_PER_GROUP: usize = 1_000;

/// The write side. Cheap to clone. Every verb is one atomic, durable change: when it answers, it is synced.
#[derive(Clone)]
pub struct Store {
    committer: Arc<Committer>,
    published: Arc<Published>,
    spaces: spaces::Spaces,
    tails: Arc<output::Tails>,
}

type Answer<T> = oneshot::Receiver<Result<T, Refusal>>;

/// A verb, and where its result will be.
fn awaited<T, F>(change: F) -> (Box<dyn committer::Verb>, Answer<T>)
where
    T: Send + 'static,
    F: FnOnce(&mut Tx<'_>) -> Result<T, Refusal> + Send + 'static,
{
    let (answer, wait) = oneshot::channel();
    let done = move |result| {
        // A caller that went away does not need the answer; the change stands.
        let _ = answer.send(result);
    };
    (Box::new(Request { change: Some(change), result: None, done }), wait)
}

async fn answered<T>(answer: Answer<T>) -> Result<T, Refusal> {
    answer.await.unwrap_or_else(|_| Err(Refusal::new(RefusalCode::Unavailable, "the store has stopped")))
}

impl Store {
    /// Makes a change and waits for its sync. `bytes`: about what it writes.
    async fn change<T, F>(&self, bytes: usize, change: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T, Refusal> + Send + 'static,
    {
        self.change_by(true, bytes, change).await
    }

    /// The same, always by the committer's thread: for threads that stand back.
    async fn change_aside<T, F>(&self, bytes: usize, change: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T, Refusal> + Send + 'static,
    {
        self.change_by(false, bytes, change).await
    }

    async fn change_by<T, F>(&self, may_commit: bool, bytes: usize, change: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T, Refusal> + Send + 'static,
    {
        let (verb, answer) = awaited(change);
        self.committer.submit(verb, bytes, may_commit);
        answered(answer).await
    }

    /// Accepts a job: manifest, tasks, idempotency key and queue entry at once. `done` runs after the sync, on the committer's
    /// thread or the caller's, and must not block.
    pub fn admit(&self, job: NewJob, done: impl FnOnce(Result<Admitted, Refusal>) + Send + 'static) {
        if let Some((free, wanted)) = self.published.short_of_room() {
            let message = format!("{free} bytes are free on the data disk and {wanted} must stay free");
            let refusal = Refusal::new(RefusalCode::StorageFull, message);
            done(Err(refusal.with_retry_after(Duration::from_secs(10))));
            return;
        }
        let admission = queue::Admission::new(job);
        let bytes = admission.bytes();
        let change = move |tx: &mut Tx<'_>| queue::admit(tx, admission);
        self.committer.submit(Box::new(Request { change: Some(change), result: None, done }), bytes, true);
    }

    /// Ends attempts and starts others, in one group. An end's task, job counters, log line, indexes and dead letter move at once.
    /// An attempt that starts is counted before it runs; `None` where the task is no longer to be had (canceled, deleted, taken).
    /// `spent` are ready entries of which nothing is left to lease after this.
    pub async fn settle_and_lease(
        &self,
        settlements: Vec<Settlement>,
        wants: Vec<LeaseWant>,
        spent: Vec<QueueKey>,
        now_ms: i64,
    ) -> Turned {
        let mut verbs = Vec::new();
        let settled = (!settlements.is_empty()).then(|| {
            let bytes = 1_024 * settlements.len();
            let (verb, answer) = awaited(move |tx| {
                settlements.into_iter().map(|settlement| queue::settle(tx, settlement)).collect::<Result<Vec<_>, _>>()
            });
            verbs.push((verb, bytes));
            answer
        });
        let leased = (!wants.is_empty() || !spent.is_empty()).then(|| {
            let bytes = 256 * (wants.len() + spent.len());
            let (verb, answer) = awaited(move |tx| queue::lease_all(tx, wants, spent, now_ms));
            verbs.push((verb, bytes));
            answer
        });
        self.committer.submit_together(verbs);
        let settled = match settled {
            Some(answer) => answered(answer).await,
            None => Ok(Vec::new()),
        };
        let leased = match leased {
            Some(answer) => answered(answer).await,
            None => Ok(Vec::new()),
        };
        Turned { settled, leased }
    }

    /// [`Self::settle_and_lease`] that only starts attempts.
    pub async fn lease(
        &self,
        wants: Vec<LeaseWant>,
        spent: Vec<QueueKey>,
        now_ms: i64,
    ) -> Result<Vec<Option<Lease>>, Refusal> {
        self.settle_and_lease(Vec::new(), wants, spent, now_ms).await.leased
    }

    /// [`Self::settle_and_lease`] that only ends attempts.
    pub async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Settled>, Refusal> {
        self.settle_and_lease(settlements, Vec::new(), Vec::new(), 0).await.settled
    }

    /// Tenants that were given ready entries since the last call. For the one dispatcher that keeps the cursors.
    pub fn take_ready_news(&self) -> ReadyNews {
        self.published.take_ready()
    }

    /// Boot: every lease is void. Its task is due at once; one interrupted more than `interrupted_max` times in a row dies
    /// as SYSTEM_POISON. Returns how many were voided.
    pub async fn void_leases(&self, now_ms: i64, interrupted_max: u32) -> Result<u64, Refusal> {
        let floor = self.committer.with_core(|core| core.floors.leased.first().copied().unwrap_or(0));
        let mut total = 0;
        loop {
            let change = move |tx: &mut Tx<'_>| queue::void_leases(tx, floor, now_ms, interrupted_max, VOID_PER_GROUP);
            let voided = self.change(1_024 * VOID_PER_GROUP, change).await?;
            total += voided;
            if voided < VOID_PER_GROUP as u64 {
                return Ok(total);
            }
        }
    }

    /// The finalize hook owed for `revision` has returned.
    pub async fn finalized(&self, job: JobId, revision: u64, log: Option<NewLog>) -> Result<(), Refusal> {
        self.change(256, move |tx| ledger::finalized(tx, job, revision, log)).await
    }

    /// Cancels every open resource task. The job turns terminal at once if its manifest is stored, else as soon as it is.
    pub async fn cancel(&self, job: JobId, reason: String, now_ms: i64) -> Result<Canceled, Refusal> {
        self.change(64 << 10, move |tx| queue::cancel(tx, job, &reason, now_ms)).await
    }

    /// Queues failed and canceled resources again (all, or those named) with fresh attempts. Returns the job and how many.
    pub async fn retry(&self, job: JobId, resource_ids: Vec<String>, now_ms: i64) -> Result<(Job, u32), Refusal> {
        self.change(64 << 10, move |tx| queue::retry(tx, job, &resource_ids, now_ms)).await
    }

    /// Queues one dead letter's resource again: in its job while that is kept, else in a new job. The letter is gone after.
    pub async fn replay(&self, letter: DeadLetterId, fresh: FreshJob, now_ms: i64) -> Result<Replayed, Refusal> {
        self.change(4_096, move |tx| queue::replay(tx, letter, fresh, now_ms)).await
    }

    /// Compare-and-set on the revision; legal transitions only.
    pub async fn update_status(&self, change: StatusChange) -> Result<Job, Refusal> {
        self.change(1_024, move |tx| ledger::update_status(tx, change)).await
    }

    /// Appends to the job's record sequence; returns the first offset.
    pub async fn append_logs(&self, job: JobId, records: Vec<NewLog>) -> Result<u64, Refusal> {
        let bytes = records.iter().map(|record| 128 + record.message.len()).sum();
        self.change(bytes, move |tx| ledger::append_logs(tx, job, records)).await
    }

    /// Commits output of many jobs as one row. `done` gets for each piece of the batch its first ordinal, or why the piece was not
    /// appended; it runs after the sync, on the committer's thread, and must not block. The caller's thread, which may be one that stands
    /// back, never commits: a busy machine would have everybody wait for it.
    pub fn append_output(
        &self,
        batch: OutputBatch,
        done: impl FnOnce(Result<Vec<Result<u64, Refusal>>, Refusal>) + Send + 'static,
    ) {
        let (tails, bytes) = (Arc::clone(&self.tails), batch.bytes());
        // Numbered where it is committed, so that the numbers have the order of the commits.
        let change = move |tx: &mut Tx<'_>| append::append(tx, tails.next_batch(), batch);
        self.committer.submit(Box::new(Request { change: Some(change), result: None, done }), bytes, false);
    }

    /// Blocks while the sealer is far behind, at most `patience`. False: still no room for output.
    pub fn wait_for_output_room(&self, patience: Duration) -> bool {
        self.tails.wait_for_room(patience)
    }

    /// The jobs that other programs call so, in order; those nobody knows yet are made and run from now on.
    pub async fn open_named(&self, jobs: Vec<NamedJob>) -> Result<Vec<JobId>, Refusal> {
        self.change_aside(512 * jobs.len(), move |tx| append::open_named(tx, jobs)).await
    }

    /// Turns the durable switches.
    pub async fn control(&self, change: ControlChange) -> Result<Controls, Refusal> {
        let published = Arc::clone(&self.published);
        self.change(1_024, move |tx| ledger::control(tx, &published.controls(), &change)).await
    }

    /// An upload was begun: recorded so that a later attempt continues it, or that it is aborted if nobody does. STALE unless
    /// the attempt of its epoch holds the task.
    pub async fn upload_begun(&self, upload: UploadRecord) -> Result<(), Refusal> {
        self.change(768, move |tx| uploads::begun(tx, &upload)).await
    }

    /// One more part of the upload begun in `epoch` is safely in the object store. STALE when the upload is gone.
    pub async fn part_stored(&self, task: TaskRef, epoch: u64, part: UploadPart) -> Result<(), Refusal> {
        self.change(256, move |tx| uploads::part_stored(tx, task, epoch, part)).await
    }

    /// All parts are there and the object is about to be made of them. STALE when the upload is gone.
    pub async fn upload_completing(
        &self,
        task: TaskRef,
        epoch: u64,
        sha256: [u8; 32],
        size_bytes: u64,
    ) -> Result<(), Refusal> {
        self.change(768, move |tx| uploads::completing(tx, task, epoch, sha256, size_bytes)).await
    }

    /// The upload was aborted, or is of no use any more.
    pub async fn upload_ended(&self, task: TaskRef, epoch: u64) -> Result<(), Refusal> {
        self.change(256, move |tx| uploads::ended(tx, task, epoch)).await
    }

    /// Which version of `url` the object asked for at `bucket` and `place` holds. Replaces what was known before.
    pub async fn remember_source(&self, bucket: &str, place: &str, url: &str, source: Source) -> Result<(), Refusal> {
        let hash = keys::source_hash(bucket, place, url);
        self.change(512, move |tx| {
            uploads::remember(tx, hash, source);
            Ok(())
        })
        .await
    }

    /// Deletes: jobs whole, records, keys, letters; never of active jobs but what is named so. Takes as many groups as it needs, so that
    /// none is long; what comes in between goes on. At most 1,000 items. Returns how many things are gone.
    pub async fn prune(&self, items: Vec<Prune>) -> Result<u64, Refusal> {
        let items: Arc<[Prune]> = items.into();
        let mut gone = 0;
        loop {
            let again = Arc::clone(&items);
            let pruned = self.change(1_024 * items.len(), move |tx| prune::prune_some(tx, &again)).await?;
            gone += pruned.gone;
            if !pruned.more {
                return Ok(gone);
            }
        }
    }

    /// Ends a job that another program named if nobody has heard of it since. False: it has ended, goes on or is gone.
    pub async fn end_idle(&self, job: JobId, silent_since_ms: i64, phase: String) -> Result<bool, Refusal> {
        self.change(512, move |tx| ledger::end_idle(tx, job, silent_since_ms, &phase)).await
    }

    /// Has the unsealed output of these jobs sealed. Blocks, at most `patience`.
    pub fn seal_now(&self, jobs: &[JobId], patience: Duration) {
        self.tails.seal_now(jobs, patience);
    }
}
