//! Log queries: what a query keeps, and one page of it.
//!
//! Owns: the filter, reading on. Must not know: rows and blocks beyond their heads, where a tail begins (see `tail`), following (see `live`).

use std::cell::Cell;
use std::collections::VecDeque;

use super::lists::within;
use super::pattern::Pattern;
use super::scan::{PAGE_BYTES_MAX, page_rows};
use super::{LogPage, LogQuery};
use crate::model::{Job, JobId, LogLevel, LogRecord, LogStream, Refusal};
use crate::store::{BlockHead, LogSlice, OutputLimit, Reader};

/// Records one page looks at, kept or not. They come from blocks of some two thousand, unpacked in half a millisecond: these are a
/// few tens of milliseconds. (Lists look at 10,000 rows, each of which is a read of its own.)
pub const EXAMINED_MAX: usize = 100_000;
/// Bytes of those records: the same time, for large ones.
const EXAMINED_BYTES_MAX: usize = 32 << 20;
/// A block passed over costs its head: about as much as so many of its records.
const HEAD_COST: usize = 16;
/// Blocks one read may pass over before it looks into one, so that it ends.
const HEADS_MAX: usize = 2_048;
/// How much slower a regular expression may be than looking for a text.
const REGEX_COST: usize = 8;
/// One read: what a few blocks hold, so that hardly any of them is unpacked twice.
pub const SLICE: OutputLimit = OutputLimit { rows: 8_192, bytes: PAGE_BYTES_MAX };

/// A job's record sequence. The store's reader; tests bring their own.
pub trait Records: Clone + Send + Sync + 'static {
    fn job(&self, id: JobId) -> Result<Option<Job>, Refusal>;
    /// The first offset at which nothing can be read yet, of a job that has `log_count`: what was committed a moment ago counts already.
    fn readable(&self, id: JobId, log_count: u64) -> u64;
    /// Records from `from` on that `filter` may keep, and how many blocks were passed over.
    fn slice(&self, id: JobId, from: u64, limit: OutputLimit, filter: &Filter) -> Result<(LogSlice, usize), Refusal>;
    /// Of the last block of output that begins below `before`: its first and last offset, and whether the filter wants it.
    fn block_before(&self, id: JobId, before: u64, filter: &Filter) -> Result<Option<(u64, u64, bool)>, Refusal>;
    /// The oldest offset that may be kept.
    fn kept_from(&self, id: JobId) -> Result<u64, Refusal>;
}

impl Records for Reader {
    fn job(&self, id: JobId) -> Result<Option<Job>, Refusal> {
        Reader::job(self, id)
    }

    fn readable(&self, id: JobId, log_count: u64) -> u64 {
        self.readable_logs(id, log_count)
    }

    fn slice(&self, id: JobId, from: u64, limit: OutputLimit, filter: &Filter) -> Result<(LogSlice, usize), Refusal> {
        let passed = Cell::new(0);
        let want = |head: &BlockHead| {
            let wanted = filter.wants(head) || passed.get() >= HEADS_MAX;
            passed.set(passed.get() + usize::from(!wanted));
            wanted
        };
        let slice = self.log_slice(id, from, limit, &want)?;
        Ok((slice, passed.get()))
    }

    fn block_before(&self, id: JobId, before: u64, filter: &Filter) -> Result<Option<(u64, u64, bool)>, Refusal> {
        let head = self.head_before(id, crate::model::OutputKind::Log, before)?;
        Ok(head.map(|head| (head.first, head.last, filter.wants(&head))))
    }

    fn kept_from(&self, id: JobId) -> Result<u64, Refusal> {
        self.logs_from(id)
    }
}

/// What a query keeps.
#[derive(Debug, Clone)]
pub struct Filter {
    min_level: LogLevel,
    streams: Vec<LogStream>,
    resource_id: String,
    from_ms: i64,
    until_ms: i64,
    patterns: Vec<Pattern>,
}

impl Filter {
    /// # Errors
    /// INVALID_PAYLOAD for patterns that cannot be used.
    pub fn new(query: &LogQuery) -> Result<Self, Refusal> {
        Ok(Self {
            min_level: query.min_level,
            streams: query.streams.clone(),
            resource_id: query.resource_id.clone(),
            from_ms: query.from_ms,
            until_ms: query.until_ms,
            patterns: Pattern::of(&query.text, &query.regex, query.ignore_case)?,
        })
    }

    /// Output that says no level counts as INFO: nobody said it was less.
    pub fn keeps(&self, record: &LogRecord) -> bool {
        record.entry.level >= self.min_level
            && self.has_stream(record.stream)
            && (self.resource_id.is_empty() || self.resource_id == record.entry.resource_id)
            && within(record.entry.timestamp_ms, self.from_ms, self.until_ms)
            && self.patterns.iter().all(|pattern| {
                (!record.chunk.is_empty() && pattern.is_match(&record.chunk))
                    || ((record.chunk.is_empty() || !record.entry.message.is_empty())
                        && pattern.is_match(record.entry.message.as_bytes()))
            })
    }

    /// False: no record of the block is kept.
    pub fn wants(&self, head: &BlockHead) -> bool {
        let [own, stdout, stderr] = head.records;
        let counts = [(LogStream::Job, own), (LogStream::Stdout, stdout), (LogStream::Stderr, stderr)];
        let ms = |ns: i64| ns.div_euclid(1_000_000);
        let late_enough = self.from_ms == 0 || ms(head.time_max_ns) >= self.from_ms;
        let early_enough = self.until_ms == 0 || ms(head.time_min_ns) < self.until_ms;
        counts.into_iter().any(|(stream, count)| count > 0 && self.has_stream(stream))
            && late_enough
            && early_enough
            && self.patterns.iter().all(|pattern| pattern.may_match(&head.filter))
    }

    pub fn has_stream(&self, stream: LogStream) -> bool {
        self.streams.is_empty() || self.streams.contains(&stream)
    }

    pub fn keeps_all(&self) -> bool {
        self.min_level == LogLevel::Trace
            && self.streams.is_empty()
            && self.resource_id.is_empty()
            && (self.from_ms, self.until_ms) == (0, 0)
            && self.patterns.is_empty()
    }

    fn cost(&self, record: &LogRecord) -> usize {
        let times = if self.patterns.iter().any(Pattern::is_regex) { REGEX_COST } else { 1 };
        weigh(record).saturating_mul(times)
    }

    /// A record to be kept: a piece of a large block must not hold the whole of it.
    pub fn detached(&self, mut record: LogRecord) -> LogRecord {
        if !self.keeps_all() {
            record.chunk = bytes::Bytes::copy_from_slice(&record.chunk);
        }
        record
    }
}

/// About the bytes a record adds to an answer.
pub fn weigh(record: &LogRecord) -> usize {
    let fields = record.entry.fields.iter().map(|(key, value)| key.len() + value.len() + 4);
    128 + record.entry.message.len() + record.chunk.len() + fields.sum::<usize>()
}

/// What a read may still look at.
pub struct Budget {
    rows: usize,
    bytes: usize,
}

impl Budget {
    pub fn new(rows: usize) -> Self {
        Self { rows, bytes: EXAMINED_BYTES_MAX }
    }

    pub fn is_spent(&self) -> bool {
        self.rows == 0 || self.bytes == 0
    }

    fn looked_at(&mut self, filter: &Filter, record: &LogRecord) {
        self.rows = self.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(filter.cost(record));
    }

    pub fn passed_over(&mut self, blocks: usize) {
        self.rows = self.rows.saturating_sub(blocks.saturating_mul(HEAD_COST));
    }
}

/// One read's kept records.
pub struct Kept {
    pub records: VecDeque<LogRecord>,
    pub next: u64,
    pub end: bool,
}

/// Reads on from `from`: one slice of at most `rows` records.
pub fn read<R: Records>(
    source: &R,
    id: JobId,
    filter: &Filter,
    from: u64,
    rows: usize,
    budget: &mut Budget,
) -> Result<Kept, Refusal> {
    let limit = OutputLimit { rows: rows.min(SLICE.rows).min(budget.rows).max(1), ..SLICE };
    let (slice, passed) = source.slice(id, from, limit, filter)?;
    budget.passed_over(passed);
    if filter.keeps_all() {
        slice.records.iter().for_each(|record| budget.looked_at(filter, record));
        return Ok(Kept { records: slice.records.into(), next: slice.next, end: slice.end });
    }
    let mut records = VecDeque::with_capacity(slice.records.len());
    for record in slice.records {
        budget.looked_at(filter, &record);
        if filter.keeps(&record) {
            records.push_back(filter.detached(record));
        }
    }
    Ok(Kept { records, next: slice.next, end: slice.end })
}

/// Up to `limit` kept records from `offset` on. May stop short, even empty, when much was looked at in vain.
pub fn forward<R: Records>(
    source: &R,
    id: JobId,
    filter: &Filter,
    offset: u64,
    limit: u32,
) -> Result<LogPage, Refusal> {
    let limit = page_rows(limit);
    let mut page = LogPage { records: Vec::new(), next_offset: offset, end: false, behind: 0 };
    let mut bytes = 0;
    let mut budget = Budget::new(EXAMINED_MAX);
    while !budget.is_spent() && page.records.len() < limit {
        let rows = if filter.keeps_all() { limit - page.records.len() } else { SLICE.rows };
        let kept = read(source, id, filter, page.next_offset, rows, &mut budget)?;
        for record in kept.records {
            let weight = weigh(&record);
            // A record heavier than a page is a page.
            if page.records.len() == limit || (bytes + weight > PAGE_BYTES_MAX && !page.records.is_empty()) {
                return Ok(page);
            }
            bytes += weight;
            page.next_offset = record.offset + 1;
            page.records.push(record);
        }
        page.next_offset = page.next_offset.max(kept.next);
        if kept.end {
            page.end = true;
            break;
        }
    }
    Ok(page)
}

#[cfg(test)]
pub mod tests;
