//! What is committed and not sealed yet, by job and kind, in memory.
//!
//! Owns: the tails, which batch rows they still need, the bound that makes appends wait. Must not know: rows, threads.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::batch::{Committed, count_by_batch};
use super::chunk::{CHUNK_OVERHEAD_BYTES, Chunk};
use super::counts::LiveCounts;
use super::slab::Slab;
use crate::model::{JobId, OutputKind};

#[derive(Default)]
struct Growing {
    chunks: VecDeque<Chunk>,
    slab: Slab,
    /// Of the records, without what the chunks cost besides.
    body_bytes: usize,
    /// When its oldest chunk came, or the last of it was sealed.
    since_tick: u64,
    /// It could not be read once: left to its batches and the next start.
    stuck: bool,
}

impl Growing {
    fn weight(&self) -> usize {
        self.body_bytes + CHUNK_OVERHEAD_BYTES * self.chunks.len()
    }
}

/// What is known of a batch whose rows are in the database.
#[derive(Default, Clone, Copy)]
struct Rows {
    /// Chunks of it that are not sealed.
    open: usize,
    rows: u16,
}

#[derive(Default)]
struct State {
    by: HashMap<(JobId, OutputKind), Growing>,
    bytes: usize,
    batches: BTreeMap<u64, Rows>,
    /// Seconds, about, since the store was opened.
    tick: u64,
    /// When much output last came: more than a 64th of `tail_bytes_max` in a tick.
    came_tick: u64,
    /// Since the tick.
    came_bytes: usize,
    /// It is a pause, and what waits is sealed until nothing does.
    packing: bool,
    /// Of records, since the store was opened.
    sealed_bytes: u64,
    closing: bool,
    /// Jobs with logs in the group that is being committed: their first offset in it. What is behind it may be in the database and
    /// not yet here.
    pending: HashMap<JobId, u64>,
    /// Jobs whose tails somebody wants sealed now.
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

/// What the sealer is to turn into blocks.
pub struct Due {
    pub job: JobId,
    pub kind: OutputKind,
    pub chunks: Vec<Chunk>,
    /// All of it, though it ends within a line: it is too old, or memory is short.
    pub whole: bool,
}

/// What was sealed of a [`Due`].
pub struct Done {
    pub job: JobId,
    pub kind: OutputKind,
    /// As many of its chunks as are in blocks whole.
    pub chunks: Vec<Chunk>,
    /// What is left of the chunk behind them, and takes its place.
    pub rest: Option<Chunk>,
}

pub struct Tails {
    state: Mutex<State>,
    /// Rings when a tail may be due, and when room was made.
    bell: Condvar,
    next_batch: AtomicU64,
    pub counts: LiveCounts,
    pub options: super::Options,
}

impl Tails {
    pub fn new(options: super::Options) -> Self {
        Self {
            state: Mutex::default(),
            bell: Condvar::new(),
            next_batch: AtomicU64::new(1),
            counts: LiveCounts::default(),
            options,
        }
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

    /// The first offset of the job's logs that is committed but not here yet.
    pub fn pending(&self, job: JobId) -> Option<u64> {
        self.lock().pending.get(&job).copied()
    }

    /// A batch that was read back at start, or is committed: its number is not given again.
    pub fn add(&self, committed: Committed) {
        self.next_batch.fetch_max(committed.batch + 1, Ordering::Relaxed);
        let mut state = self.lock();
        let tick = state.tick;
        state.came_bytes += committed.chunks.iter().map(|(.., chunk)| chunk.weight()).sum::<usize>();
        if state.came_bytes > self.options.tail_bytes_max / 64 {
            (state.came_tick, state.packing) = (tick, false);
        }
        let rows = state.batches.entry(committed.batch).or_default();
        rows.open += committed.chunks.len();
        rows.rows = committed.rows;
        for (job, kind, mut chunk) in committed.chunks {
            state.bytes += chunk.weight();
            let tail = state.by.entry((job, kind)).or_default();
            if tail.chunks.is_empty() {
                tail.since_tick = tick;
            }
            chunk.body = tail.slab.keep(chunk.body, tail.body_bytes);
            tail.body_bytes += chunk.body.len();
            tail.chunks.push_back(chunk);
        }
        let crowded = state.bytes > self.options.tail_bytes_max / 2;
        drop(state);
        if crowded {
            self.bell.notify_all();
        }
    }

    /// A second has passed.
    pub fn tick(&self) {
        let mut state = self.lock();
        state.tick += 1;
        state.came_bytes = 0;
        if state.is_calm() && state.unsealed_bytes() > self.options.tail_bytes_max / 8 {
            state.packing = true;
        }
        drop(state);
        self.bell.notify_all();
    }

    /// The first ordinal that is in no block.
    pub fn first(&self, job: JobId, kind: OutputKind) -> Option<u64> {
        self.lock().by.get(&(job, kind)).and_then(|tail| tail.chunks.front()).map(|chunk| chunk.first)
    }

    /// There was output since the store was opened, or before and not sealed.
    pub fn is_used(&self) -> bool {
        self.next_batch.load(Ordering::Relaxed) > 1
    }

    pub fn ticks(&self) -> u64 {
        self.lock().tick
    }

    /// The store closes: nobody waits any more.
    pub fn close(&self) {
        self.lock().closing = true;
        self.bell.notify_all();
    }

    pub fn is_closing(&self) -> bool {
        self.lock().closing
    }

    pub fn tail(&self, job: JobId, kind: OutputKind) -> Tail {
        let state = self.lock();
        let chunks = state.by.get(&(job, kind)).map(|tail| tail.chunks.iter().cloned().collect());
        Tail { chunks: chunks.unwrap_or_default() }
    }

    /// Jobs with unsealed records of the kind, in order.
    #[cfg(test)]
    pub fn jobs(&self, kind: OutputKind) -> Vec<JobId> {
        let mut jobs: Vec<JobId> = self.lock().by.keys().filter(|key| key.1 == kind).map(|key| key.0).collect();
        jobs.sort_unstable();
        jobs
    }

    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// It is a pause, and what was to be sealed in it is.
    pub fn is_settled(&self) -> bool {
        let state = self.lock();
        state.is_calm() && !state.packing
    }

    /// Bytes of records that were sealed since the store was opened.
    pub fn sealed_bytes(&self) -> u64 {
        self.lock().sealed_bytes
    }

    /// Seconds that the oldest unsealed output has waited, about.
    pub fn lag_ticks(&self) -> u64 {
        let state = self.lock();
        state.by.values().map(|tail| state.tick - tail.since_tick).max().unwrap_or(0)
    }

    /// The sealer does not keep up: half of what may wait beyond the first bound does.
    pub fn is_behind(&self) -> bool {
        self.lock().bytes > self.options.tail_bytes_max / 4 * 5
    }

    /// Blocks while the sealer is far behind, at most `patience`. False: still no room.
    pub fn wait_for_room(&self, patience: Duration) -> bool {
        let limit = self.options.tail_bytes_max / 2 * 3;
        let crowded = |state: &mut State| state.bytes > limit && !state.closing;
        let waited = self.bell.wait_timeout_while(self.lock(), patience, crowded);
        waited.unwrap_or_else(PoisonError::into_inner).0.bytes <= limit
    }

    /// Waits for work for the sealer: what is full, what is too old, all in a pause, and the largest while memory is short. About `bytes_max` of it;
    /// nothing when the bell was rung for something else, or `wait` is over.
    pub fn due(&self, wait: Duration, bytes_max: usize) -> Vec<Due> {
        let mut state = self.lock();
        if !state.closing && !state.is_pressing(&self.options) {
            state = self.bell.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.closing { Vec::new() } else { state.pick(&self.options, bytes_max) }
    }

    /// Waits, whatever bells ring, unless the store closes.
    pub fn rest(&self, wait: Duration) {
        drop(self.bell.wait_timeout_while(self.lock(), wait, |state| !state.closing));
    }

    /// The batches that no unsealed chunk but these needs, those included that nothing needs any more; with the number of their rows.
    pub fn spent_with(&self, done: &[Done]) -> Vec<(u64, u16)> {
        let counts = count_by_batch(done.iter().flat_map(|done| &done.chunks));
        let state = self.lock();
        let needed = |batch: &u64| counts.get(batch).copied().unwrap_or(0);
        let spent = state.batches.iter().filter(|(batch, rows)| rows.open <= needed(batch));
        spent.map(|(batch, rows)| (*batch, rows.rows)).collect()
    }

    /// The rows of these batches are deleted.
    pub fn forget_batches(&self, batches: &[(u64, u16)]) {
        let mut state = self.lock();
        for (batch, _) in batches {
            state.batches.remove(batch);
        }
        drop(state);
        self.bell.notify_all();
    }

    /// Blocks until the sealer has deleted the rows of batches that nothing needs any more, at most `patience`.
    pub fn wait_for_spent(&self, patience: Duration) {
        let waits = |state: &mut State| !state.closing && state.batches.values().any(|rows| rows.open == 0);
        drop(self.bell.wait_timeout_while(self.lock(), patience, waits));
    }

    /// The chunks are in blocks.
    pub fn sealed(&self, done: Vec<Done>) {
        let mut state = self.lock();
        for done in done {
            state.release(done);
        }
        state.forget_asked();
        drop(state);
        self.bell.notify_all();
    }

    /// A tail that could not be read: it is not tried again, so that the others are sealed.
    pub fn set_aside(&self, job: JobId, kind: OutputKind) {
        let mut state = self.lock();
        if let Some(tail) = state.by.get_mut(&(job, kind)) {
            tail.stuck = true;
        }
        state.forget_asked();
        drop(state);
        self.bell.notify_all();
    }

    /// Whether the sealer will put anything of the job into blocks.
    pub fn has_tail(&self, job: JobId) -> bool {
        self.lock().has_tail(job)
    }

    /// Has these jobs sealed however young their output is, and blocks until they are, at most `patience`.
    pub fn seal_now(&self, jobs: &[JobId], patience: Duration) {
        let mut state = self.lock();
        let open: Vec<JobId> = jobs.iter().copied().filter(|job| state.has_tail(*job)).collect();
        state.asked.extend(&open);
        self.bell.notify_all();
        let waits = |state: &mut State| !state.closing && open.iter().any(|job| state.asked.contains(job));
        drop(self.bell.wait_timeout_while(state, patience, waits));
    }

    /// The job is gone, or this kind of its output below an ordinal: so is what was not sealed of it.
    pub fn forget(&self, job: JobId, which: Option<(OutputKind, u64)>) {
        let mut state = self.lock();
        let (kind, until) = which.map_or((None, u64::MAX), |(kind, until)| (Some(kind), until));
        let kinds = OutputKind::ALL.into_iter().filter(|of| kind.is_none_or(|kind| kind == *of));
        for kind in kinds {
            if let Some(tail) = state.by.get(&(job, kind)) {
                let chunks = tail.chunks.iter().filter(|chunk| chunk.end() <= until).cloned().collect();
                state.release(Done { job, kind, chunks, rest: None });
            }
        }
        state.forget_asked();
        drop(state);
        self.bell.notify_all();
    }
}

impl State {
    /// Takes chunks out of a tail. Those that went with their job meanwhile are no longer there.
    fn release(&mut self, done: Done) {
        let Some(tail) = self.by.get_mut(&(done.job, done.kind)) else { return };
        let before = tail.weight();
        for chunk in &done.chunks {
            // They are the oldest, so each is the first one when its turn comes.
            let first =
                tail.chunks.front().is_some_and(|front| front.first == chunk.first && front.batch == chunk.batch);
            if let Some(gone) = first.then(|| tail.chunks.pop_front()).flatten() {
                tail.body_bytes -= gone.body.len();
                self.sealed_bytes += gone.body.len() as u64;
                if let Some(rows) = self.batches.get_mut(&gone.batch) {
                    rows.open = rows.open.saturating_sub(1);
                }
            }
        }
        if let Some(rest) = done.rest
            && let Some(front) = tail.chunks.front_mut()
            && front.batch == rest.batch
            && front.first < rest.first
            && front.end() == rest.end()
        {
            self.sealed_bytes += front.body.len().saturating_sub(rest.body.len()) as u64;
            tail.body_bytes = tail.body_bytes + rest.body.len() - front.body.len();
            *front = rest;
        }
        tail.since_tick = self.tick;
        self.bytes = self.bytes + tail.weight() - before;
        if tail.chunks.is_empty() {
            self.by.remove(&(done.job, done.kind));
        }
    }

    fn has_tail(&self, job: JobId) -> bool {
        OutputKind::ALL.into_iter().any(|kind| self.by.get(&(job, kind)).is_some_and(|tail| !tail.stuck))
    }

    /// Those whose wish is fulfilled.
    fn forget_asked(&mut self) {
        let mut asked = std::mem::take(&mut self.asked);
        asked.retain(|job| self.has_tail(*job));
        self.asked = asked;
    }

    /// Full tails are packed once a second while there is room: a burst is taken in first.
    fn is_pressing(&self, options: &super::Options) -> bool {
        let crowded = self.bytes > options.tail_bytes_max / 2;
        let mut tails = self.by.values().filter(|tail| !tail.stuck);
        !self.asked.is_empty()
            || tails.any(|tail| tail.body_bytes >= options.block_bytes && crowded || self.is_old(tail, options))
            || self.bytes > options.tail_bytes_max && self.by.values().any(|tail| !tail.stuck)
    }

    fn is_old(&self, tail: &Growing, options: &super::Options) -> bool {
        // What is left of a burst is packed in the pause behind it: the next one finds room.
        self.packing || self.tick - tail.since_tick >= options.seal_after_ms.div_ceil(1_000)
    }

    /// Little came for a second.
    fn is_calm(&self) -> bool {
        self.tick > self.came_tick + 1
    }

    /// Without those that are left to the next start.
    fn unsealed_bytes(&self) -> usize {
        self.by.values().filter(|tail| !tail.stuck).map(Growing::weight).sum()
    }

    /// A batch's rows live until the last of its chunks is sealed: so the old ones first, however small, then the largest.
    fn pick(&mut self, options: &super::Options, bytes_max: usize) -> Vec<Due> {
        self.packing &= self.by.values().any(|tail| !tail.stuck);
        let mut waiting = Vec::new();
        let mut short = self.bytes > options.tail_bytes_max;
        for (key, tail) in self.by.iter().filter(|(_, tail)| !tail.stuck) {
            let old = self.is_old(tail, options) || self.asked.contains(&key.0);
            let full = tail.body_bytes >= options.block_bytes;
            if old || full || short {
                waiting.push((!old, !full, std::cmp::Reverse(tail.body_bytes), key, tail));
            }
        }
        waiting.sort_unstable_by_key(|(young, part, bytes, key, _)| (*young, *part, *bytes, **key));
        let due = waiting.iter().filter(|(young, part, ..)| !*young || !*part).count();
        // One job alone may fill the round.
        let each = options.block_bytes.max(bytes_max / due.max(1));
        let mut left_over = self.bytes;
        let (mut picked, mut bytes) = (Vec::new(), 0);
        for (young, part, _, (job, kind), tail) in waiting {
            short &= left_over > options.tail_bytes_max;
            if bytes >= bytes_max || !(!young || !part || short) {
                break;
            }
            let (mut chunks, mut taken) = (Vec::new(), 0);
            for chunk in &tail.chunks {
                if taken >= each {
                    break;
                }
                taken += chunk.body.len();
                chunks.push(chunk.clone());
            }
            bytes += taken;
            left_over = left_over.saturating_sub(taken + CHUNK_OVERHEAD_BYTES * chunks.len());
            let whole = chunks.len() == tail.chunks.len() && (!young || part);
            picked.push(Due { job: *job, kind: *kind, chunks, whole });
        }
        picked
    }
}
