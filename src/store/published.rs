//! What the committer tells everybody after each group: totals, switches, who should look again.
//!
//! Owns: the readers' copy of the totals, watches per job, the queue's and the fault's watch. Must not know: rows, verbs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::TenantKey;
use super::tally::Tally;
use crate::model::{Controls, JobId};

/// Tenants remembered between two looks of the dispatcher, of all classes: some 10 MB. Beyond it the index is scanned.
const READY_NEWS_MAX: usize = 100_000;

/// What became ready since the dispatcher looked last.
#[derive(Debug, Default)]
pub struct ReadyNews {
    /// By class (high first) and tenant: the lowest new sequence.
    pub first: BTreeMap<(usize, TenantKey), u64>,
    /// There were too many to remember: the index must be scanned.
    pub is_cut: bool,
}

pub struct Published {
    ready: Mutex<ReadyNews>,
    sequence: AtomicU64,
    tally: Mutex<Tally>,
    controls: Mutex<Arc<Controls>>,
    jobs: Mutex<HashMap<JobId, watch::Sender<u64>>>,
    queue: watch::Sender<u64>,
    fault: watch::Sender<Option<String>>,
    free_bytes: AtomicU64,
    free_wanted: AtomicU64,
    disk_bytes: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Published {
    pub fn new(sequence: u64, tally: Tally, controls: Controls) -> Self {
        Self {
            ready: Mutex::default(),
            sequence: AtomicU64::new(sequence),
            tally: Mutex::new(tally),
            controls: Mutex::new(Arc::new(controls)),
            jobs: Mutex::default(),
            queue: watch::Sender::new(sequence),
            fault: watch::Sender::new(None),
            free_bytes: AtomicU64::new(u64::MAX),
            free_wanted: AtomicU64::new(0),
            disk_bytes: AtomicU64::new(0),
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

    /// Called before [`Self::publish`] rings the queue's bell.
    pub fn note_ready(&self, readied: &[(usize, TenantKey, u64)]) {
        if readied.is_empty() {
            return;
        }
        let mut news = lock(&self.ready);
        for &(class, tenant, seq) in readied {
            if news.first.len() >= READY_NEWS_MAX && !news.first.contains_key(&(class, tenant)) {
                news.is_cut = true;
                continue;
            }
            let first = news.first.entry((class, tenant)).or_insert(seq);
            *first = seq.min(*first);
        }
    }

    pub fn take_ready(&self) -> ReadyNews {
        std::mem::take(&mut *lock(&self.ready))
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

    pub fn set_disk(&self, disk_bytes: u64, free_bytes: u64, wanted_bytes: u64) {
        self.disk_bytes.store(disk_bytes, Ordering::Relaxed);
        self.free_bytes.store(free_bytes, Ordering::Relaxed);
        self.free_wanted.store(wanted_bytes, Ordering::Relaxed);
    }

    /// Of the data disk; 0: not known.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes.load(Ordering::Relaxed)
    }

    pub fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that must stay free and do not, as (free, wanted).
    pub fn short_of_room(&self) -> Option<(u64, u64)> {
        let (free, wanted) = (self.free_bytes(), self.free_wanted.load(Ordering::Relaxed));
        (free < wanted).then_some((free, wanted))
    }

    /// The same for output, which stops a quarter earlier: jobs are to have what is left.
    pub fn short_of_output_room(&self) -> Option<(u64, u64)> {
        let (free, wanted) = (self.free_bytes(), self.free_wanted.load(Ordering::Relaxed));
        let wanted = wanted.saturating_add(wanted / 4);
        (free < wanted).then_some((free, wanted))
    }

    pub fn is_any_watched(&self, mut ids: impl Iterator<Item = JobId>) -> bool {
        let jobs = lock(&self.jobs);
        !jobs.is_empty() && ids.any(|id| jobs.contains_key(&id))
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
