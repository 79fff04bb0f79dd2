//! The loop's rim: everything it does to the world, as one trait that tests inject, and the real one over store and worker.
//!
//! Must not know: when and why something is done.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::attempt::{Before, LeaseProgress, abandon, remember};
use super::finalize::Owed;
use super::gate::AttemptGate;
use super::lane::{Candidate, Row};
use super::leases::Leases;
use super::off_thread;
use super::reads::{DuePage, DueRead, Fetched, Reads};
use crate::clock::Clock;
use crate::handler;
use crate::model::{Controls, JobId, Manifest, Refusal, RefusalCode, TaskIndex, TaskRef, TaskSpec};
use crate::objects::Place;
use crate::store::{DueCursor, Lease, LeaseWant, Plan, QueueKey, Reader, ReadyNews, Settlement, Store, Turned};
use crate::worker::{Assignment, Outcome, Worker};

/// An attempt that has its lease.
pub(super) struct Start {
    pub candidate: Candidate,
    pub lease: Lease,
    pub gate: AttemptGate,
    pub stop: CancellationToken,
}

/// Totals for the gauges.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Depths {
    pub waiting: u64,
    pub dead_letters: u64,
}

/// What the loop does outside itself.
pub(super) trait Effects: Send + Sync + 'static {
    fn void_leases(&self, now_ms: i64, interrupted_max: u32) -> impl Future<Output = Result<u64, Refusal>> + Send;
    /// What could be read, and why the rest could not.
    fn read(&self, reads: Reads) -> impl Future<Output = (Fetched, Option<Refusal>)> + Send;
    /// Ends attempts and starts others, in one group of the store; each half has its own answer.
    fn settle_and_lease(
        &self,
        settlements: Vec<Settlement>,
        wants: Vec<LeaseWant>,
        spent: Vec<QueueKey>,
        now_ms: i64,
    ) -> impl Future<Output = Turned> + Send;
    fn attempt(self: Arc<Self>, start: Start) -> impl Future<Output = Outcome> + Send;
    fn controls(&self) -> Controls;
    /// Ticks when there may be new rows.
    fn work(&self) -> watch::Receiver<u64>;
    /// Tenants that were given ready rows since the last call.
    fn ready_news(&self) -> ReadyNews;
    fn depths(&self) -> Depths;
    /// The job turned terminal: its finalize hook is owed.
    fn job_ended(&self, job: JobId);
}

/// The real rim.
pub(super) struct Live {
    pub store: Store,
    pub reader: Reader,
    pub worker: Worker,
    pub clock: Clock,
    pub leases: Arc<Leases>,
    pub owed: Owed,
    pub default_bucket: String,
    pub storage_prefix: String,
    pub manifest_json: fn(&Manifest) -> Vec<u8>,
}

impl Effects for Live {
    async fn void_leases(&self, now_ms: i64, interrupted_max: u32) -> Result<u64, Refusal> {
        self.store.void_leases(now_ms, interrupted_max).await
    }

    async fn read(&self, reads: Reads) -> (Fetched, Option<Refusal>) {
        let reader = self.reader.clone();
        off_thread(move || read_all(&reader, &reads))
            .await
            .unwrap_or_else(|refusal| (Fetched::default(), Some(refusal)))
    }

    async fn settle_and_lease(
        &self,
        settlements: Vec<Settlement>,
        wants: Vec<LeaseWant>,
        spent: Vec<QueueKey>,
        now_ms: i64,
    ) -> Turned {
        self.store.settle_and_lease(settlements, wants, spent, now_ms).await
    }

    async fn attempt(self: Arc<Self>, start: Start) -> Outcome {
        let Start { candidate, lease, gate, stop } = start;
        let Some(spec) = &candidate.spec else {
            return tokio::select! {
                outcome = self.manifest(&candidate) => outcome,
                () = stop.cancelled() => Outcome::Released,
            };
        };
        let place = self.place(spec, &candidate);
        let before = Before::read(&self.reader, lease.task, spec, &place);
        let progress = LeaseProgress {
            store: self.store.clone(),
            clock: self.clock.clone(),
            leases: self.leases.clone(),
            task: lease.task,
            epoch: lease.epoch,
            kept: before.kept.as_ref().map(|kept| (kept.begun.upload_id.clone(), before.kept_epoch)),
        };
        let assignment = Assignment {
            task: lease.task,
            epoch: lease.epoch,
            attempt: lease.attempt,
            spec: spec.as_ref().clone(),
            place: place.clone(),
            interrupted: before.interrupted,
            kept: before.kept,
            known: before.known,
        };
        let outcome = self.worker.run(assignment, &progress, &gate, stop).await;
        match &outcome {
            Outcome::Stored(stored) => remember(&self.store, self.clock.now_ms(), spec, &place, stored).await,
            Outcome::Released => abandon(&self.store, &self.reader, &self.worker, lease.task).await,
            Outcome::Failed { .. } => {}
        }
        outcome
    }

    fn controls(&self) -> Controls {
        self.reader.controls()
    }

    fn work(&self) -> watch::Receiver<u64> {
        self.reader.queue_watch()
    }

    fn ready_news(&self) -> ReadyNews {
        self.store.take_ready_news()
    }

    fn depths(&self) -> Depths {
        let counters = self.reader.counters();
        Depths {
            waiting: counters.tasks_open.saturating_sub(counters.tasks_leased),
            dead_letters: counters.dead_letters.values().sum(),
        }
    }

    fn job_ended(&self, job: JobId) {
        self.owed.push(job);
    }
}

impl Live {
    /// Where the task's object is to stand; for one that is known by its content, the folder above digests.
    fn place(&self, spec: &TaskSpec, candidate: &Candidate) -> Place {
        let (job_type, job) = (&candidate.job.job_type, candidate.task.job.to_string());
        let key = match (&spec.key_prefix, spec.content_addressed) {
            (_, false) => handler::resource_key(&self.storage_prefix, spec, job_type, &job),
            (None, true) => self.storage_prefix.clone(),
            (prefix, true) => handler::resource_folder(&self.storage_prefix, prefix.as_deref(), job_type, &job),
        };
        Place {
            bucket: spec.bucket.clone().unwrap_or_else(|| self.default_bucket.clone()),
            key: key.trim_matches('/').to_owned(),
        }
    }

    async fn manifest(&self, candidate: &Candidate) -> Outcome {
        let (reader, job, to_json) = (self.reader.clone(), candidate.task.job, self.manifest_json);
        let read = off_thread(move || reader.manifest(job).map(|found| found.map(|manifest| to_json(&manifest)))).await;
        let json = match read.and_then(|read| read) {
            Ok(Some(json)) => json,
            // The job is gone: the settlement will say so.
            Ok(None) => return Outcome::Released,
            Err(refusal) => {
                let message = format!("the manifest cannot be read: {}", refusal.message);
                let failure = crate::model::Failure::new(crate::model::FailureCode::UploadFailed, message);
                return Outcome::Failed { failure, retry_after: None };
            }
        };
        let place = Place { bucket: candidate.job.manifest_bucket.clone(), key: candidate.job.manifest_key.clone() };
        self.worker.store_manifest(place, Bytes::from(json)).await
    }
}

/// Tenants found in one search of the ready index.
const TENANTS_PAGE: usize = 512;

/// Each source by itself: one that is damaged does not hide the others.
fn read_all(reader: &Reader, reads: &Reads) -> (Fetched, Option<Refusal>) {
    let mut fetched = Fetched::default();
    let mut trouble = None;
    for (priority, from) in &reads.tenants {
        match reader.ready_tenants(*priority, *from, TENANTS_PAGE) {
            Ok(mut found) => {
                fetched.damaged.append(&mut found.damaged);
                fetched.tenants.push((*priority, found));
            }
            Err(refusal) => trouble = Some(refusal),
        }
    }
    for read in &reads.ready {
        match reader.ready_after(read.priority, read.tenant, read.after, read.tasks) {
            Ok(mut page) => {
                fetched.damaged.append(&mut page.damaged);
                fetched.ready.push((*read, page));
            }
            Err(refusal) => trouble = Some(refusal),
        }
    }
    for (priority, key) in &reads.again {
        // A row that cannot be read is not asked for again until the next start: the others must go on.
        let row = read_row(reader, *key).unwrap_or_else(|refusal| {
            trouble = Some(refusal);
            None
        });
        fetched.again.push((*priority, *key, row));
    }
    if let Some(read) = reads.due {
        match read_due(reader, read, &mut fetched.damaged) {
            Ok(page) => fetched.due = Some(page),
            Err(refusal) => trouble = Some(refusal),
        }
    }
    (fetched, trouble)
}

fn read_row(reader: &Reader, key: QueueKey) -> Result<Option<Row>, Refusal> {
    match key {
        QueueKey::Ready { priority, tenant, seq } => {
            let page = reader.ready_after(priority, tenant, seq.saturating_sub(1), 1)?;
            let entry = page.entries.into_iter().find(|entry| entry.key == key);
            Ok(entry.map(|entry| Row { key, plan: entry.plan, tasks: entry.tasks }))
        }
        QueueKey::Due { task, .. } => Ok(reader.plan(task.job)?.map(|plan| Row { key, plan, tasks: vec![task.index] })),
    }
}

fn read_due(reader: &Reader, read: DueRead, damaged: &mut Vec<Refusal>) -> Result<DuePage, Refusal> {
    let entries = reader.due_after(read.from, read.until_ms, read.rows)?;
    let next = entries.last().map_or(read.from, |entry| DueCursor { at_ms: entry.at_ms, task: Some(entry.task) });
    let end = if entries.len() < read.rows {
        let after_now = DueCursor { at_ms: read.until_ms, task: Some(LAST_TASK) }.max(next);
        Some(reader.due_after(after_now, i64::MAX, 1)?.first().map(|entry| entry.at_ms))
    } else {
        None
    };
    let mut plans: HashMap<JobId, Option<Arc<Plan>>> = HashMap::new();
    let mut rows = Vec::with_capacity(entries.len());
    for entry in entries {
        let job = entry.task.job;
        let plan = match plans.get(&job) {
            Some(plan) => plan.clone(),
            None => {
                let plan = match reader.plan(job) {
                    Err(refusal) if refusal.code == RefusalCode::DataLoss => {
                        damaged.push(refusal);
                        None
                    }
                    plan => plan?,
                };
                plans.entry(job).or_insert(plan).clone()
            }
        };
        if let Some(plan) = plan {
            let key = QueueKey::Due { at_ms: entry.at_ms, task: entry.task };
            rows.push(Row { key, plan, tasks: vec![entry.task.index] });
        }
    }
    Ok(DuePage { rows, next, end })
}

const LAST_TASK: TaskRef = TaskRef { job: JobId::MAX, index: TaskIndex(u16::MAX) };
