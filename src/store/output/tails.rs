//! What is committed and not sealed yet, by job and kind, in memory.
//!
//! Owns: the tails, which batch rows they still need, the bound that makes appends wait. Must not know: rows, threads.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::batch::{Committed, count_by_batch};
use super::codec;
use crate::model::{JobId, OutputKind, OutputRecord, Refusal};

/// Records of one job and kind from one batch; their ordinals follow each other.
#[derive(Debug, Clone)]
pub struct Chunk {
    pub batch: u64,
    pub first: u64,
    pub count: u64,
    pub body: Bytes,
}

/// What a chunk costs besides its bytes.
const CHUNK_OVERHEAD_BYTES: usize = 128;

impl Chunk {
    fn weight(&self) -> usize {
        CHUNK_OVERHEAD_BYTES + self.body.len()
    }

    /// Behind its last ordinal.
    pub fn end(&self) -> u64 {
        self.first + self.count
    }

    pub fn records(&self, kind: OutputKind) -> Result<Vec<OutputRecord>, Refusal> {
        codec::decode(kind, self.first, &self.body)
    }
}

#[derive(Default)]
struct Growing {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    /// When its oldest chunk came.
    since_tick: u64,
}

#[derive(Default)]
struct State {
    by: HashMap<(JobId, OutputKind), Growing>,
    bytes: usize,
    /// Chunks of each batch that are not sealed.
    batches: BTreeMap<u64, usize>,
    tick: u64,
    /// Jobs with logs in the group that is being committed: their first offset in it. What is behind it may be in the database and
    /// not yet here.
    pending: HashMap<JobId, u64>,
    /// Jobs with a tail that somebody wants sealed now.
    asked: HashSet<JobId>,
}

/// The unsealed records of one job and kind as they stood at one moment.
#[derive(Debug, Clone, Default)]
pub struct Tail {
    chunks: Vec<Chunk>,
}

impl Tail {
    /// Ordinals below are in blocks; None: nothing is unsealed.
    pub fn first(&self) -> Option<u64> {
        self.chunks.first().map(|chunk| chunk.first)
    }

    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }
}

/// What the sealer is to turn into one block.
pub struct Due {
    pub job: JobId,
    pub kind: OutputKind,
    pub chunks: Vec<Chunk>,
}

pub struct Tails {
    state: Mutex<State>,
    /// Rings when a tail may be due, and when room was made.
    bell: Condvar,
    next_batch: AtomicU64,
    pub options: super::Options,
}

impl Tails {
    pub fn new(options: super::Options) -> Self {
        Self { state: Mutex::default(), bell: Condvar::new(), next_batch: AtomicU64::new(1), options }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn next_batch(&self) -> u64 {
        self.next_batch.fetch_add(1, Ordering::Relaxed)
    }

    /// Called before the commit of what [`Tails::add`] then takes over.
    pub fn announce(&self, committed: &[Committed]) {
        let mut state = self.lock();
        for (job, kind, chunk) in committed.iter().flat_map(|committed| &committed.chunks) {
            if *kind == OutputKind::Log {
                let first = state.pending.entry(*job).or_insert(chunk.first);
                *first = chunk.first.min(*first);
            }
        }
    }

    /// Everything announced is here.
    pub fn settled(&self) {
        self.lock().pending.clear();
    }

    /// A job's unsealed logs, and the first offset that is committed but not here yet.
    pub fn logs(&self, job: JobId) -> (Tail, Option<u64>) {
        let state = self.lock();
        let chunks = state.by.get(&(job, OutputKind::Log)).map(|tail| tail.chunks.iter().cloned().collect());
        (Tail { chunks: chunks.unwrap_or_default() }, state.pending.get(&job).copied())
    }

    /// A batch that was read back at start, or is committed: its number is not given again.
    pub fn add(&self, committed: Committed) {
        self.next_batch.fetch_max(committed.batch + 1, Ordering::Relaxed);
        let mut state = self.lock();
        let tick = state.tick;
        let mut full = false;
        *state.batches.entry(committed.batch).or_default() += committed.chunks.len();
        for (job, kind, chunk) in committed.chunks {
            let weight = chunk.weight();
            let tail = state.by.entry((job, kind)).or_default();
            if tail.chunks.is_empty() {
                tail.since_tick = tick;
            }
            tail.bytes += weight;
            tail.chunks.push_back(chunk);
            full |= tail.bytes >= self.options.block_bytes;
            state.bytes += weight;
        }
        full |= state.bytes > self.options.tail_bytes_max;
        drop(state);
        if full {
            self.bell.notify_all();
        }
    }

    pub fn tail(&self, job: JobId, kind: OutputKind) -> Tail {
        let state = self.lock();
        let chunks = state.by.get(&(job, kind)).map(|tail| tail.chunks.iter().cloned().collect());
        Tail { chunks: chunks.unwrap_or_default() }
    }

    /// Jobs with unsealed records of the kind, in order.
    pub fn jobs(&self, kind: OutputKind) -> Vec<JobId> {
        let mut jobs: Vec<JobId> = self.lock().by.keys().filter(|key| key.1 == kind).map(|key| key.0).collect();
        jobs.sort_unstable();
        jobs
    }

    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Seconds that the oldest unsealed output has waited, about.
    pub fn lag_ticks(&self) -> u64 {
        let state = self.lock();
        state.by.values().map(|tail| state.tick - tail.since_tick).max().unwrap_or(0)
    }

    /// Blocks while the sealer is far behind, at most `patience`. False: still no room.
    pub fn wait_for_room(&self, patience: Duration) -> bool {
        let limit = 2 * self.options.tail_bytes_max;
        let (state, _) = self
            .bell
            .wait_timeout_while(self.lock(), patience, |state| state.bytes > limit)
            .unwrap_or_else(PoisonError::into_inner);
        state.bytes <= limit
    }

    /// Waits for work for the sealer: what is full, what is too old, and the largest while memory is short. At most `bytes_max` of
    /// it. `all`: whatever there is, for a store that closes. One call is one tick when nothing was full.
    pub fn due(&self, wait: Duration, all: bool, bytes_max: usize) -> Vec<Due> {
        let mut state = self.lock();
        if !all && !state.is_pressing(&self.options) {
            let (woken, timeout) = self.bell.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if timeout.timed_out() {
                state.tick += 1;
            }
        }
        state.pick(&self.options, all, bytes_max)
    }

    /// Waits without looking for work.
    pub fn rest(&self, wait: Duration) {
        drop(self.bell.wait_timeout(self.lock(), wait));
    }

    /// The batches that no unsealed chunk but these needs, those included that nothing needs any more.
    pub fn spent_with(&self, due: &[Due]) -> Vec<u64> {
        let counts = count_by_batch(due.iter().flat_map(|due| &due.chunks));
        let state = self.lock();
        let needed = |batch: &u64| counts.get(batch).copied().unwrap_or(0);
        state.batches.iter().filter(|(batch, all)| **all <= needed(batch)).map(|(batch, _)| *batch).collect()
    }

    /// The rows of these batches are deleted.
    pub fn forget_batches(&self, batches: &[u64]) {
        let mut state = self.lock();
        for batch in batches {
            state.batches.remove(batch);
        }
    }

    /// The chunks are in blocks, or their job is gone.
    pub fn sealed(&self, due: &[Due]) {
        let mut state = self.lock();
        for Due { job, kind, chunks } in due {
            let ids: HashSet<(u64, u64)> = chunks.iter().map(|chunk| (chunk.batch, chunk.first)).collect();
            let tick = state.tick;
            let Some(tail) = state.by.get_mut(&(*job, *kind)) else { continue };
            let before = tail.bytes;
            let mut released = Vec::new();
            tail.chunks.retain(|chunk| {
                let gone = ids.contains(&(chunk.batch, chunk.first));
                if gone {
                    released.push((chunk.batch, chunk.weight()));
                }
                !gone
            });
            tail.bytes = before - released.iter().map(|(_, weight)| weight).sum::<usize>();
            tail.since_tick = tick;
            if tail.chunks.is_empty() {
                state.by.remove(&(*job, *kind));
            }
            for (batch, weight) in released {
                state.bytes -= weight;
                if let Some(count) = state.batches.get_mut(&batch) {
                    *count = count.saturating_sub(1);
                }
            }
        }
        let State { asked, by, .. } = &mut *state;
        asked.retain(|job| has_tail(by, *job));
        drop(state);
        self.bell.notify_all();
    }

    /// Drops what is unsealed of a job; with a kind only that, below the ordinal.
    pub fn forget(&self, job: JobId, which: Option<(OutputKind, u64)>) {
        let mut due = self.of_job(job, which.map(|(kind, _)| kind));
        if let Some((_, until)) = which {
            due.iter_mut().for_each(|due| due.chunks.retain(|chunk| chunk.end() <= until));
        }
        self.sealed(&due);
    }

    pub fn has_tail(&self, job: JobId) -> bool {
        has_tail(&self.lock().by, job)
    }

    /// Has these jobs sealed however young their output is, and blocks until they are, at most `patience`.
    pub fn seal_now(&self, jobs: &[JobId], patience: Duration) {
        let mut state = self.lock();
        let State { asked, by, .. } = &mut *state;
        asked.extend(jobs.iter().filter(|job| has_tail(by, **job)));
        self.bell.notify_all();
        let waits = |state: &mut State| jobs.iter().any(|job| state.asked.contains(job));
        drop(self.bell.wait_timeout_while(state, patience, waits));
    }

    /// Everything unsealed of a job, to be dropped with it; with `kind` only that.
    pub fn of_job(&self, job: JobId, kind: Option<OutputKind>) -> Vec<Due> {
        let state = self.lock();
        let of = state.by.iter().filter(|((id, of), _)| *id == job && kind.is_none_or(|kind| kind == *of));
        of.map(|((job, kind), tail)| Due { job: *job, kind: *kind, chunks: tail.chunks.iter().cloned().collect() })
            .collect()
    }
}

fn has_tail(by: &HashMap<(JobId, OutputKind), Growing>, job: JobId) -> bool {
    OutputKind::ALL.into_iter().any(|kind| by.contains_key(&(job, kind)))
}

impl State {
    fn is_pressing(&self, options: &super::Options) -> bool {
        !self.asked.is_empty() || self.bytes > options.tail_bytes_max || self.by.values().any(|tail| tail.bytes >= options.block_bytes)
    }

    fn pick(&self, options: &super::Options, all: bool, bytes_max: usize) -> Vec<Due> {
        let patience_ticks = options.seal_after_ms.div_ceil(1_000);
        // A batch row lives until the last of its chunks is sealed: the oldest one's owners are due with it.
        let mut waiting: Vec<(bool, usize, &(JobId, OutputKind), &Growing)> = Vec::new();
        for (key, tail) in &self.by {
            let old = all || self.asked.contains(&key.0) || self.tick - tail.since_tick >= patience_ticks;
            waiting.push((old || tail.bytes >= options.block_bytes, tail.bytes, key, tail));
        }
        waiting
            .sort_unstable_by_key(|(due, bytes, key, _)| (std::cmp::Reverse(*due), std::cmp::Reverse(*bytes), **key));
        let mut left_over = self.bytes;
        let (mut picked, mut bytes) = (Vec::new(), 0);
        for (due, _, (job, kind), tail) in waiting {
            if bytes >= bytes_max || !(due || left_over > options.tail_bytes_max) {
                break;
            }
            let (mut chunks, mut block) = (Vec::new(), 0);
            for chunk in &tail.chunks {
                chunks.push(chunk.clone());
                block += chunk.weight();
                if block >= options.block_bytes {
                    break;
                }
            }
            bytes += block;
            left_over -= block;
            picked.push(Due { job: *job, kind: *kind, chunks });
        }
        picked
    }
}
