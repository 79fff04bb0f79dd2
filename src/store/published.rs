//! What the committer tells everybody after each group: totals, switches, who should look again.
//!
//! Owns: the readers' copy of the totals, watches per job, the queue's and the fault's watch. Must not know: rows, verbs.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::tally::Tally;
use crate::model::{Controls, JobId};

pub struct Published {
    sequence: AtomicU64,
    tally: Mutex<Tally>,
    controls: Mutex<Arc<Controls>>,
    jobs: Mutex<HashMap<JobId, watch::Sender<u64>>>,
    queue: watch::Sender<u64>,
    fault: watch::Sender<Option<String>>,
    free_bytes: AtomicU64,
    free_wanted: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Published {
    pub fn new(sequence: u64, tally: Tally, controls: Controls) -> Self {
        Self {
            sequence: AtomicU64::new(sequence),
            tally: Mutex::new(tally),
            controls: Mutex::new(Arc::new(controls)),
            jobs: Mutex::default(),
            queue: watch::Sender::new(sequence),
            fault: watch::Sender::new(None),
            free_bytes: AtomicU64::new(u64::MAX),
            free_wanted: AtomicU64::new(0),
        }
    }

    pub fn publish(
        &self,
        sequence: u64,
        tally: Tally,
        controls: Option<Controls>,
        touched: &BTreeSet<JobId>,
        queue_moved: bool,
    ) {
        *lock(&self.tally) = tally;
        self.sequence.store(sequence, Ordering::Release);
        let controls_moved = controls.is_some();
        if let Some(controls) = controls {
            *lock(&self.controls) = Arc::new(controls);
        }
        let jobs = lock(&self.jobs);
        if !jobs.is_empty() {
            for watch in touched.iter().filter_map(|id| jobs.get(id)) {
                watch.send_replace(sequence);
            }
        }
        drop(jobs);
        if queue_moved || controls_moved {
            self.queue.send_replace(sequence);
        }
    }

    pub fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }

    pub fn tally(&self) -> Tally {
        *lock(&self.tally)
    }

    pub fn controls(&self) -> Arc<Controls> {
        lock(&self.controls).clone()
    }

    pub fn fault(&self) -> Option<String> {
        self.fault.borrow().clone()
    }

    /// The first fault stays.
    pub fn set_fault(&self, why: String) {
        self.fault.send_if_modified(|fault| {
            let first = fault.is_none();
            fault.get_or_insert(why);
            first
        });
        self.queue.send_modify(|_| ());
    }

    pub fn fault_watch(&self) -> watch::Receiver<Option<String>> {
        self.fault.subscribe()
    }

    pub fn queue_watch(&self) -> watch::Receiver<u64> {
        self.queue.subscribe()
    }

    pub fn set_free(&self, free_bytes: u64, wanted_bytes: u64) {
        self.free_bytes.store(free_bytes, Ordering::Relaxed);
        self.free_wanted.store(wanted_bytes, Ordering::Relaxed);
    }

    pub fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that must stay free and do not, as (free, wanted).
    pub fn short_of_room(&self) -> Option<(u64, u64)> {
        let (free, wanted) = (self.free_bytes(), self.free_wanted.load(Ordering::Relaxed));
        (free < wanted).then_some((free, wanted))
    }

    /// Wakes when the job changes. The entry goes with its last watcher.
    pub fn watch_job(self: &Arc<Self>, id: JobId) -> JobWatch {
        let receiver = lock(&self.jobs).entry(id).or_insert_with(|| watch::Sender::new(0)).subscribe();
        JobWatch { receiver, id, published: Arc::clone(self) }
    }
}

/// Wakes when one job changes.
pub struct JobWatch {
    receiver: watch::Receiver<u64>,
    id: JobId,
    published: Arc<Published>,
}

impl JobWatch {
    /// Returns after the next commit that touched the job since the last call, or since the watch was made.
    pub async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for JobWatch {
    fn drop(&mut self) {
        let mut jobs = lock(&self.published.jobs);
        if jobs.get(&self.id).is_some_and(|sender| sender.receiver_count() <= 1) {
            jobs.remove(&self.id);
        }
    }
}
