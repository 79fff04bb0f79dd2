//! The committer: many callers, one atomic batch, one sync.
//!
//! Owns: the bounded queue of verbs, the commit group, its chain and mark, the answers, the first fault. While a group syncs, the next
//! one gathers; there is no artificial delay. A caller that finds the committer idle commits on its own thread, because a
//! hand-off would cost half as much again as the sync.
//! Must not know: what a verb does.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::keys::{self, Family, Space};
use super::mark::{Mark, MarkFile};
use super::output::Tails;
use super::recent::Recent;
use super::records::{CountersRow, MarkRow, QueueRow};
use super::spaces::Spaces;
use super::tally::Tally;
use super::tx::Tx;
use super::{journal::Chain, published::Published};
use crate::model::{Refusal, RefusalCode};
use crate::telemetry::Metrics;

/// Verbs in one group: beyond this the sync is paid for many times over and only latency grows.
const GROUP_VERBS_MAX: usize = 1_024;
/// Bytes that verbs bring into one group, about.
const GROUP_BYTES_MAX: usize = 1 << 20;
/// Verbs waiting: sixteen full groups, some hundred milliseconds of work.
const WAITING_VERBS_MAX: usize = 16 * GROUP_VERBS_MAX;
/// Bytes waiting: two dozen of the largest manifests.
const WAITING_BYTES_MAX: usize = 128 << 20;

/// A verb with the caller that waits for it.
pub trait Verb: Send {
    fn apply(&mut self, tx: &mut Tx<'_>);
    /// Called once, after the sync or instead of it.
    fn answer(self: Box<Self>, fault: Option<Refusal>);
}

/// The one form of verb: a change and what to do with its result.
pub struct Request<T, F, D> {
    pub change: Option<F>,
    pub result: Option<Result<T, Refusal>>,
    pub done: D,
}

impl<T, F, D> Verb for Request<T, F, D>
where
    T: Send,
    F: FnOnce(&mut Tx<'_>) -> Result<T, Refusal> + Send,
    D: FnOnce(Result<T, Refusal>) + Send,
{
    fn apply(&mut self, tx: &mut Tx<'_>) {
        if let Some(change) = self.change.take() {
            self.result = Some(tx.verb(change));
        }
    }

    fn answer(self: Box<Self>, fault: Option<Refusal>) {
        let result = match (fault, self.result) {
            (Some(fault), _) => Err(fault),
            (None, Some(result)) => result,
            (None, None) => Err(Refusal::new(RefusalCode::Internal, "the change was not applied")),
        };
        (self.done)(result);
    }
}

#[derive(Default)]
struct Waiting {
    verbs: VecDeque<(Box<dyn Verb>, usize)>,
    bytes: usize,
    closed: bool,
}

impl Waiting {
    /// Why nothing more can be taken now.
    fn refusal(&self) -> Option<Refusal> {
        if self.closed {
            return Some(Refusal::new(RefusalCode::Unavailable, "the store is closed"));
        }
        let is_full = self.verbs.len() >= WAITING_VERBS_MAX || self.bytes >= WAITING_BYTES_MAX;
        is_full.then(|| {
            let busy = Refusal::new(RefusalCode::RateLimited, "too many changes are waiting for the disk");
            busy.with_retry_after(Duration::from_millis(100))
        })
    }

    fn push(&mut self, verb: Box<dyn Verb>, bytes: usize) {
        self.bytes += bytes;
        self.verbs.push_back((verb, bytes));
    }
}

pub struct Committer {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    core: Mutex<Core>,
    /// Verbs in the last group: one or none means that nobody is competing.
    last_group: AtomicUsize,
}

/// What only one thread at a time may change.
pub struct Core {
    pub spaces: Spaces,
    pub mark_file: MarkFile,
    pub mark: Mark,
    pub tally: Tally,
    pub floors: Floors,
    pub published: Arc<Published>,
    pub metrics: Metrics,
    pub tails: Arc<Tails>,
    pub recent: Arc<Recent>,
}

/// Where scans of the queue's consumed families begin, so that boot does not walk over tombstones.
#[derive(Debug, Clone, Default)]
pub struct Floors {
    /// By class: every ready entry below is spent.
    pub ready: [u64; 3],
    /// Spent entries above the floor.
    pub spent: [BTreeSet<u64>; 3],
    /// Epochs given and not ended.
    pub leased: BTreeSet<u64>,
}

/// Spent entries remembered while an older one is open. Beyond it the floor stays low, which costs a longer scan at boot.
const SPENT_MAX: usize = 100_000;

impl Floors {
    fn spend(&mut self, class: usize, seq: u64) {
        let (Some(floor), Some(spent)) = (self.ready.get_mut(class), self.spent.get_mut(class)) else { return };
        if seq < *floor || (spent.len() >= SPENT_MAX && seq != *floor) {
            return;
        }
        spent.insert(seq);
        while spent.remove(floor) {
            *floor += 1;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Committer {
    pub fn new(core: Core) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::new(Waiting::default()),
            arrived: Condvar::new(),
            core: Mutex::new(core),
            last_group: AtomicUsize::new(0),
        })
    }

    /// Commits now when nobody else is at it and the caller `may_commit`, else queues. `bytes`: about what the verb will write.
    pub fn submit(&self, verb: Box<dyn Verb>, bytes: usize, may_commit: bool) {
        let mut waiting = lock(&self.waiting);
        if let Some(refusal) = waiting.refusal() {
            drop(waiting);
            verb.answer(Some(refusal));
            return;
        }
        if may_commit
            && waiting.verbs.is_empty()
            && self.last_group.load(Ordering::Relaxed) <= 1
            && let Ok(mut core) = self.core.try_lock()
        {
            drop(waiting);
            core.commit(vec![verb]);
            return;
        }
        waiting.push(verb, bytes);
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Queues verbs that are to share a sync; all of them or none.
    pub fn submit_together(&self, verbs: Vec<(Box<dyn Verb>, usize)>) {
        let mut waiting = lock(&self.waiting);
        if let Some(refusal) = waiting.refusal() {
            drop(waiting);
            verbs.into_iter().for_each(|(verb, _)| verb.answer(Some(refusal.clone())));
            return;
        }
        verbs.into_iter().for_each(|(verb, bytes)| waiting.push(verb, bytes));
        drop(waiting);
        self.arrived.notify_one();
    }

    /// The committer's thread: returns when the queue is closed and empty.
    pub fn run(&self) {
        loop {
            let group = {
                let mut waiting = lock(&self.waiting);
                while waiting.verbs.is_empty() && !waiting.closed {
                    // Idle for a moment: the next lone caller may commit by itself again.
                    let (next, timeout) = self
                        .arrived
                        .wait_timeout(waiting, Duration::from_millis(5))
                        .unwrap_or_else(PoisonError::into_inner);
                    waiting = next;
                    if timeout.timed_out() && waiting.verbs.is_empty() && !waiting.closed {
                        self.last_group.store(0, Ordering::Relaxed);
                        waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                    }
                }
                if waiting.verbs.is_empty() {
                    return;
                }
                take_group(&mut waiting)
            };
            self.last_group.store(group.len(), Ordering::Relaxed);
            lock(&self.core).commit(group);
        }
    }

    /// No more verbs; what waits is still committed.
    pub fn close(&self) {
        lock(&self.waiting).closed = true;
        self.arrived.notify_all();
    }

    /// Waits for the group in progress, then runs `look` with nothing moving.
    pub fn with_core<T>(&self, look: impl FnOnce(&mut Core) -> T) -> T {
        look(&mut lock(&self.core))
    }
}

fn take_group(waiting: &mut Waiting) -> Vec<Box<dyn Verb>> {
    let mut group = Vec::with_capacity(waiting.verbs.len().min(GROUP_VERBS_MAX));
    let mut bytes = 0;
    while group.len() < GROUP_VERBS_MAX && bytes < GROUP_BYTES_MAX {
        let Some((verb, size)) = waiting.verbs.pop_front() else { break };
        bytes += size;
        waiting.bytes -= size;
        group.push(verb);
    }
    group
}

impl Core {
    /// Applies, writes, syncs, marks, publishes, answers: in this order.
    fn commit(&mut self, mut group: Vec<Box<dyn Verb>>) {
        let fault = match self.published.fault() {
            Some(fault) => Some(not_serving(&fault)),
            None => match catch_unwind(AssertUnwindSafe(|| self.apply(&mut group))) {
                Ok(Ok(())) => None,
                Ok(Err(why)) => Some(self.fail(why)),
                Err(_) => Some(self.fail("a change panicked inside the commit".to_owned())),
            },
        };
        for verb in group {
            verb.answer(fault.clone());
        }
    }

    /// The first fault is the last: nothing is written after it.
    fn fail(&self, why: String) -> Refusal {
        tracing::error!(%why, "the store stops serving");
        self.published.set_fault(why.clone());
        not_serving(&why)
    }

    fn apply(&mut self, group: &mut [Box<dyn Verb>]) -> Result<(), String> {
        let mut tx = Tx::new(&self.spaces, &self.recent, &self.tails.counts, self.tally);
        for verb in group.iter_mut() {
            verb.apply(&mut tx);
        }
        let mut changes = tx.take_changes();
        if changes.is_empty() {
            return Ok(());
        }
        let timer = self.metrics.commit_latency.start_timer();
        let sequence = self.mark.sequence + 1;
        let mut chain = Chain::new(&self.mark.chain, sequence);
        for (key, value) in &changes {
            chain.add(self.spaces.number(key.space), &key.bytes, value.as_deref());
        }
        let chain = chain.finish();
        for (class, seq) in &tx.spent {
            self.floors.spend(*class, *seq);
        }
        self.floors.leased.extend(&tx.leased);
        for epoch in &tx.unleased {
            self.floors.leased.remove(epoch);
        }
        let mut next = Mark { sequence, chain, spaces: self.mark.spaces };
        let mut touched: BTreeSet<Space> = changes.keys().map(|key| key.space).collect();
        if tx.tally != self.tally {
            touched.extend([Space::Ledger, Space::Queue]);
        }
        for space in touched {
            let row = MarkRow {
                sequence,
                chain: chain.to_vec(),
                counters: (space == Space::Ledger).then(|| CountersRow::new(&tx.tally)),
                queue: (space == Space::Queue).then(|| queue_row(&tx.tally, &self.floors)),
            };
            changes.insert(keys::mark(space), Some(prost::Message::encode_to_vec(&row)));
            if let Some(last) = next.spaces.get_mut(space.index()) {
                *last = sequence;
            }
        }
        if !tx.output.is_empty() {
            self.tails.announce(&tx.output);
        }
        self.spaces.commit(changes.iter()).map_err(|error| format!("a commit could not be synced: {error}"))?;
        self.mark_file.write(&next).map_err(|error| format!("the mark could not be written: {error}"))?;
        timer.observe_duration();
        self.metrics.commit_groups.inc();
        self.mark = next;
        self.tally = tx.tally;
        self.count_rows(&changes, tx.created.len() as u64);
        // The tails first: who sees a count can read what it counts.
        let has_output = !tx.output.is_empty();
        for committed in tx.output.drain(..) {
            self.tails.add(committed);
        }
        let counts = tx.take_counts();
        if !counts.is_empty() {
            self.tails.counts.take_over(counts);
        }
        if has_output {
            self.tails.settled();
        }
        for (job, which) in tx.forgotten.drain(..) {
            self.tails.forget(job, which);
        }
        self.recent.note(&changes);
        self.published.note_ready(&tx.readied);
        self.published.publish(sequence, self.tally, tx.controls.take(), &tx.touched, tx.queue_moved);
        Ok(())
    }

    fn count_rows(&self, changes: &std::collections::BTreeMap<keys::Key, Option<Vec<u8>>>, created: u64) {
        let of = |family: Family| {
            let written = |(key, value): &(&keys::Key, &Option<Vec<u8>>)| {
                key.bytes.first() == Some(&(family as u8)) && value.is_some()
            };
            changes.iter().filter(written).count() as u64
        };
        self.metrics.ledger_jobs_created.inc_by(created);
        self.metrics.ledger_jobs_updated.inc_by(of(Family::Job).saturating_sub(created));
        self.metrics.ledger_logs_written.inc_by(of(Family::Log));
    }
}

fn queue_row(tally: &Tally, floors: &Floors) -> QueueRow {
    QueueRow {
        next_epoch: tally.next_epoch,
        next_ready: tally.next_ready.to_vec(),
        ready_floor: floors.ready.to_vec(),
        lease_floor: floors.leased.first().copied().unwrap_or(tally.next_epoch),
    }
}

fn not_serving(why: &str) -> Refusal {
    let refusal = Refusal::new(RefusalCode::Unavailable, format!("the store does not serve: {why}"));
    refusal.with_retry_after(Duration::from_secs(5))
}
