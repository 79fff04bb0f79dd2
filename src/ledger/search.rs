//! A search over the output of many jobs: newest job first, each from its first record on.
//!
//! Owns: the order, the steps of bounded work it is cut into, what a token must hold to go on. Must not know: how a block is ruled out
//! (see `plan`, `pattern`), how lines are joined (see `lines`).

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::Semaphore;

use super::lines::{Joiner, Line};
use super::lists::within;
use super::pattern::Pattern;
use super::plan::{Plan, Seen};
use super::token::{self, Kind};
use super::{Progress, SearchHit, SearchPage, SearchQuery};
use crate::model::{Job, JobId, LogStream, OutputKind, OutputRecord, Refusal, RefusalCode};
use crate::store::{BlockHead, Edges, Reader, TextFilter, edge_index, edges_of};

/// Hits of an answer that does not say how many.
const HITS_DEFAULT: u32 = 100;
/// Work of one step, in bytes of text looked through: some ten milliseconds, then others have their turn.
const STEP_COST: usize = 8 << 20;
/// What a byte costs more with a regular expression, a head and a job's row cost, a line costs besides its bytes.
const REGEX_COST: usize = 8;
const HEAD_COST: usize = 4 << 10;
const ROW_COST: usize = 1 << 10;
const LINE_COST: usize = 32;
/// Bytes of hits of one step: a message that every client takes.
const HITS_BYTES_MAX: usize = 1 << 20;
/// Heads, and rows of jobs, read at a time.
const HEADS: usize = 64;
const ROWS: usize = 256;
const STREAMS: [LogStream; 2] = [LogStream::Stdout, LogStream::Stderr];
const CURSOR_BYTES: usize = 45;

/// Steps of all searches that may run at once: half of what a small machine has.
pub fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(2))
}

/// How far a job was searched: behind this byte of this record. Behind all records, the streams' open lines follow, in order.
type Position = (u64, u64);
const JOB_DONE: Position = (u64::MAX, u64::MAX);

/// A place in a search that survives a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    job: JobId,
    /// Records are read again from here: a line that was open at the position begins here.
    from: u64,
    position: Position,
    /// Streams whose open line is passed over.
    discard: [bool; 2],
}

pub struct Search {
    reader: Reader,
    pattern: Pattern,
    query: SearchQuery,
    wanted: [bool; 2],
    /// Jobs named, newest first; None: all.
    named: Option<Vec<JobId>>,
    /// Jobs below are left.
    before: JobId,
    candidates: VecDeque<Job>,
    jobs_end: bool,
    job: Option<InJob>,
    left: usize,
    progress: Progress,
    fingerprint: [u8; 4],
}

/// A block to be read, or passed over.
struct Block {
    head: BlockHead,
    from: u64,
    until: u64,
}

struct InJob {
    id: JobId,
    shown: String,
    /// Heads are read from here on.
    next: u64,
    plan: Plan<Block>,
    tail: VecDeque<OutputRecord>,
    /// Records of the block, or the tail, that is looked through.
    records: VecDeque<OutputRecord>,
    /// In the first of them.
    at: usize,
    joiners: [Joiner; 2],
    position: Option<Position>,
    /// Where an earlier answer ended, and which open lines it passed over.
    resumed: Option<[bool; 2]>,
    from: u64,
}

/// What a step found.
pub struct Step {
    pub page: SearchPage,
    pub is_last: bool,
}

/// # Errors
/// INVALID_PAYLOAD: neither text nor regex, or both; a pattern that cannot be used; a token of another search.
pub fn prepare(reader: Reader, query: &SearchQuery, token: &str) -> Result<Search, Refusal> {
    let mut patterns = Pattern::of(&query.text, &query.regex, query.ignore_case)?;
    let Some(pattern) = patterns.pop() else {
        return Err(Refusal::invalid("text", "one of text and regex is required"));
    };
    if !patterns.is_empty() {
        return Err(Refusal::invalid("regex", "at most one of text and regex"));
    }
    let wanted = STREAMS.map(|stream| query.streams.is_empty() || query.streams.contains(&stream));
    let named = (!query.jobs.is_empty()).then(|| {
        let mut jobs = query.jobs.clone();
        jobs.sort_unstable_by(|a, b| b.cmp(a));
        jobs.dedup();
        jobs
    });
    let fingerprint = fingerprint(query);
    let cursor = match token::read::<CURSOR_BYTES>(Kind::Search, token)? {
        Some(bytes) => Some(unpack(&bytes, fingerprint).ok_or_else(token::foreign)?),
        None => None,
    };
    let limit = if query.limit == 0 { HITS_DEFAULT } else { query.limit };
    let mut search = Search {
        reader,
        pattern,
        query: query.clone(),
        wanted,
        named,
        before: JobId::MAX,
        candidates: VecDeque::new(),
        jobs_end: false,
        job: None,
        left: usize::try_from(limit).unwrap_or(usize::MAX),
        progress: Progress::default(),
        fingerprint,
    };
    if let Some(cursor) = cursor {
        search.before = cursor.job;
        if cursor.position != JOB_DONE
            && let Some(job) = search.reader.job(cursor.job)?
        {
            search.job = Some(search.enter(&job, Some(cursor)));
        }
    }
    Ok(search)
}

/// Steps one after the other, on threads that may block, until nothing is left or the limit is reached.
pub fn run(search: Search, turns: Arc<Semaphore>) -> BoxStream<'static, Result<SearchPage, Refusal>> {
    let stopped = || Refusal::new(RefusalCode::Unavailable, "the daemon is stopping");
    stream::unfold(Some((search, turns)), move |state| async move {
        let (mut search, turns) = state?;
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return Some((Err(stopped()), None)) };
        let step = tokio::task::spawn_blocking(move || {
            let step = search.step();
            drop(turn);
            (search, step)
        });
        match step.await {
            Ok((search, Ok(step))) => {
                let rest = (!step.is_last).then_some((search, turns));
                Some((Ok(step.page), rest))
            }
            Ok((_, Err(refusal))) => Some((Err(refusal), None)),
            Err(_) => Some((Err(stopped()), None)),
        }
    })
    .boxed()
}

impl Search {
    /// A bounded piece of work.
    pub fn step(&mut self) -> Result<Step, Refusal> {
        let mut found = Found { hits: Vec::new(), bytes: 0, cost: 0 };
        let mut is_last = false;
        while !is_last && found.cost < STEP_COST && found.bytes < HITS_BYTES_MAX && found.hits.len() < self.left {
            if let Some(mut job) = self.job.take() {
                if self.search(&mut job, &mut found)? {
                    self.before = job.id;
                } else {
                    self.job = Some(job);
                }
            } else {
                match self.next_job(&mut found)? {
                    Some(job) => self.job = Some(self.enter(&job, None)),
                    None => is_last = self.jobs_end,
                }
            }
        }
        self.left -= found.hits.len().min(self.left);
        let mut next_token = String::new();
        if self.left == 0 {
            if !is_last {
                next_token = token::write(Kind::Search, &pack(self.cursor(), self.fingerprint));
            }
            is_last = true;
        }
        Ok(Step { page: SearchPage { hits: found.hits, next_token, progress: self.progress }, is_last })
    }

    fn cursor(&self) -> Cursor {
        match &self.job {
            None => Cursor { job: self.before, from: 0, position: JOB_DONE, discard: [false; 2] },
            Some(job) => job.cursor(),
        }
    }

    /// None: none of those looked at; `jobs_end` says whether any is left.
    fn next_job(&mut self, found: &mut Found) -> Result<Option<Job>, Refusal> {
        if self.candidates.is_empty() {
            let jobs = match &self.named {
                Some(named) => {
                    let next = named.iter().find(|id| **id < self.before).copied();
                    self.before = next.unwrap_or(JobId::MIN);
                    self.jobs_end = next.is_none();
                    next.map(|id| self.reader.job(id)).transpose()?.flatten().into_iter().collect()
                }
                None => {
                    let jobs = self.reader.jobs_before(self.before, JobId::MIN, ROWS)?;
                    self.jobs_end = jobs.is_empty();
                    jobs
                }
            };
            found.cost += ROW_COST * jobs.len().max(1);
            self.candidates = jobs.into();
        }
        let Some(job) = self.candidates.pop_front() else { return Ok(None) };
        self.before = job.id;
        let query = &self.query;
        let fits = job.output_bytes > 0
            && query.tenant.as_ref().is_none_or(|tenant| *tenant == job.tenant)
            && query.job_type.as_ref().is_none_or(|job_type| *job_type == job.job_type);
        Ok(fits.then_some(job))
    }

    fn enter(&self, job: &Job, cursor: Option<Cursor>) -> InJob {
        let from = cursor.map_or(0, |cursor| cursor.from);
        InJob {
            id: job.id,
            shown: job.public_id(),
            next: from,
            plan: Plan::new(self.pattern.all(), self.wanted),
            tail: VecDeque::new(),
            records: VecDeque::new(),
            at: 0,
            joiners: Default::default(),
            position: cursor.map(|cursor| cursor.position),
            resumed: cursor.map(|cursor| cursor.discard),
            from,
        }
    }

    /// Goes on in a job. True: it was searched to its end.
    fn search(&mut self, job: &mut InJob, found: &mut Found) -> Result<bool, Refusal> {
        if !job.records.is_empty() {
            self.look_through(job, found);
        } else if let Some(block) = job.plan.next() {
            if block.read {
                let Block { head, from, until } = block.block;
                found.cost += usize::try_from(head.data_bytes).unwrap_or(usize::MAX);
                let records = self.reader.block(&head)?.into_iter();
                let wanted = |record: &OutputRecord| (from..until).contains(&record.ordinal) && self.wants(record);
                job.records = records.filter(wanted).collect();
            } else {
                self.progress.blocks_skipped += 1;
                for (joiner, open) in job.joiners.iter_mut().zip(block.open_behind) {
                    if let Some(is_open) = open {
                        joiner.lose(is_open);
                    }
                }
            }
        } else if !job.plan.is_closed() {
            self.read_heads(job, found)?;
        } else if !job.tail.is_empty() {
            job.records = std::mem::take(&mut job.tail);
        } else {
            return Ok(self.look_at_open_lines(job, found));
        }
        Ok(false)
    }

    fn wants(&self, record: &OutputRecord) -> bool {
        edge_index(record.entry.stream).and_then(|at| self.wanted.get(at)).copied().unwrap_or(false)
    }

    /// The next heads; behind the last one what is not sealed.
    fn read_heads(&mut self, job: &mut InJob, found: &mut Found) -> Result<(), Refusal> {
        let heads = self.reader.heads_of(job.id, OutputKind::Log, job.next, HEADS)?;
        found.cost += HEAD_COST * heads.len().max(1);
        let is_full = heads.len() == HEADS;
        for head in heads {
            self.add_head(job, head, u64::MAX);
        }
        if is_full {
            return Ok(());
        }
        // The tail before the blocks that it may become meanwhile: those are cut where it begins.
        let tail = self.reader.tail(job.id, OutputKind::Log);
        let sealed_end = tail.first().unwrap_or(u64::MAX);
        for head in self.reader.heads_of(job.id, OutputKind::Log, job.next, usize::MAX)? {
            if head.first < sealed_end {
                self.add_head(job, head, sealed_end);
            }
        }
        let mut records = Vec::new();
        for chunk in tail.chunks().iter().filter(|chunk| chunk.end() > job.next) {
            let of = chunk.records(OutputKind::Log)?.into_iter();
            records.extend(of.filter(|record| record.ordinal >= job.next && self.wants(record)));
        }
        let edges = edges_of(&records);
        let has = STREAMS.map(|stream| self.needed_at_start(&records, stream));
        job.plan.add_tail(&edges, has, |before, behind| self.pattern.needed_across(before, behind));
        found.cost += records.iter().map(|record| record.entry.data.len()).sum::<usize>();
        job.tail = records.into();
        Ok(())
    }

    fn add_head(&mut self, job: &mut InJob, mut head: BlockHead, sealed_end: u64) {
        let (from, until) = (job.next.max(head.first), head.last.saturating_add(1).min(sealed_end));
        let is_part = from > head.first || until <= head.last;
        job.next = job.next.max(until);
        self.progress.blocks += 1;
        let [_, stdout, stderr] = head.records;
        let is_wanted = [stdout, stderr].iter().zip(self.wanted).any(|(count, wanted)| *count > 0 && wanted);
        let ms = |ns: i64| ns.div_euclid(1_000_000);
        let in_time = (self.query.from_ms == 0 || ms(head.time_max_ns) >= self.query.from_ms)
            && (self.query.until_ms == 0 || ms(head.time_min_ns) < self.query.until_ms);
        let has = self.pattern.needed_in(&head.filter);
        let edges: Edges = std::mem::take(&mut head.edges);
        // Heads wait in the plan: without what was taken from them.
        head.filter = TextFilter::default();
        let seen = Seen { block: Block { head, from, until }, edges, has, may_begin: is_wanted && in_time, is_part };
        job.plan.add(seen, |before, behind| self.pattern.needed_across(before, behind));
    }

    /// What of a match's needs stands in the first line of a stream, which a block before may have begun.
    fn needed_at_start(&self, records: &[OutputRecord], stream: LogStream) -> u32 {
        let mut line = Vec::new();
        for record in records.iter().filter(|record| record.entry.stream == stream) {
            let data = &record.entry.data;
            let end = memchr::memchr(b'\n', data);
            line.extend_from_slice(end.and_then(|end| data.get(..end)).unwrap_or(data));
            if end.is_some() {
                break;
            }
        }
        self.pattern.needed_in_text(&line)
    }

    fn look_through(&mut self, job: &mut InJob, found: &mut Found) {
        while let Some(record) = job.records.front() {
            let (ordinal, entry) = (record.ordinal, &record.entry);
            let Some(stream) = edge_index(entry.stream) else {
                job.records.pop_front();
                continue;
            };
            loop {
                let here = (ordinal, job.at as u64);
                if let Some(discard) = job.resumed
                    && job.position.is_none_or(|position| here >= position)
                {
                    job.resumed = None;
                    for (joiner, _) in job.joiners.iter_mut().zip(discard).filter(|(_, discard)| *discard) {
                        joiner.lose(true);
                    }
                }
                let before = job.at;
                let Some(joiner) = job.joiners.get_mut(stream) else { break };
                let Some(line) = joiner.next(ordinal, entry.time_ns, &entry.data, &mut job.at) else {
                    self.progress.bytes_searched += job.at.saturating_sub(before) as u64;
                    break;
                };
                self.progress.bytes_searched += job.at.saturating_sub(before) as u64;
                let position = (ordinal, job.at as u64);
                // An earlier answer had it.
                if job.position.is_none_or(|reached| position > reached) {
                    job.position = Some(position);
                    self.look_at(line, entry.stream, &job.shown, found);
                    if found.is_full(self.left) {
                        return;
                    }
                }
            }
            job.records.pop_front();
            job.at = 0;
            job.from = ordinal + 1;
        }
    }

    fn look_at(&self, line: Line<'_>, stream: LogStream, shown: &str, found: &mut Found) {
        let times = if self.pattern.is_regex() { REGEX_COST } else { 1 };
        found.cost += LINE_COST + line.bytes.len() * times;
        let timestamp_ms = line.time_ns.div_euclid(1_000_000);
        if within(timestamp_ms, self.query.from_ms, self.query.until_ms)
            && self.pattern.find(line.bytes).is_some_and(|at| line.owns(at))
        {
            found.bytes += 64 + line.bytes.len();
            let (job_id, line_bytes) = (shown.to_owned(), line.bytes.to_vec());
            found.hits.push(SearchHit { job_id, offset: line.offset, stream, timestamp_ms, line: line_bytes });
        }
    }

    /// Lines that have not ended are looked at as they stand. True: both were.
    fn look_at_open_lines(&self, job: &mut InJob, found: &mut Found) -> bool {
        for ((joiner, stream), number) in job.joiners.iter_mut().zip(STREAMS).zip(0u64..) {
            let position = (u64::MAX, number);
            if job.position.is_some_and(|reached| reached >= position) {
                continue;
            }
            if found.is_full(self.left) {
                return false;
            }
            if let Some(line) = joiner.last() {
                self.look_at(line, stream, &job.shown, found);
            }
            job.position = Some(position);
        }
        true
    }
}

impl InJob {
    fn cursor(&self) -> Cursor {
        let unread = self.records.front().or(self.tail.front()).map(|record| record.ordinal);
        let unread = match (self.records.front(), self.plan.first()) {
            (None, Some(block)) => block.from,
            (_, _) => unread.unwrap_or(self.next),
        };
        let open = self.joiners.iter().filter_map(Joiner::begins_at).min();
        Cursor {
            job: self.id,
            from: open.map_or(unread, |open| open.min(unread)),
            position: self.position.unwrap_or((0, 0)),
            discard: [0, 1].map(|at: usize| self.joiners.get(at).is_some_and(Joiner::discards)),
        }
    }
}

struct Found {
    hits: Vec<SearchHit>,
    bytes: usize,
    cost: usize,
}

impl Found {
    fn is_full(&self, left: usize) -> bool {
        self.hits.len() >= left || self.bytes >= HITS_BYTES_MAX || self.cost >= STEP_COST
    }
}

/// FNV-1a over what makes two searches the same: a token of one is refused by the other.
fn fingerprint(query: &SearchQuery) -> [u8; 4] {
    let shape = format!("{:?}", SearchQuery { limit: 0, ..query.clone() });
    let hash = shape.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.to_be_bytes()
}

fn pack(cursor: Cursor, fingerprint: [u8; 4]) -> Vec<u8> {
    let Cursor { job, from, position, discard: [stdout, stderr] } = cursor;
    let mut bytes = job.as_bytes().to_vec();
    for number in [from, position.0, position.1] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes.push(u8::from(stdout) | u8::from(stderr) << 1);
    bytes.extend_from_slice(&fingerprint);
    bytes
}

fn unpack(bytes: &[u8; CURSOR_BYTES], fingerprint: [u8; 4]) -> Option<Cursor> {
    let (job, rest) = bytes.split_first_chunk::<16>()?;
    let (from, rest) = rest.split_first_chunk::<8>()?;
    let (record, rest) = rest.split_first_chunk::<8>()?;
    let (at, rest) = rest.split_first_chunk::<8>()?;
    let (flags, of) = rest.split_first()?;
    let cursor = Cursor {
        job: JobId::from_bytes(*job),
        from: u64::from_be_bytes(*from),
        position: (u64::from_be_bytes(*record), u64::from_be_bytes(*at)),
        discard: [flags & 1 != 0, flags & 2 != 0],
    };
    (of == fingerprint).then_some(cursor)
}

#[cfg(test)]
mod tests;
