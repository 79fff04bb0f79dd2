//! What running jobs put out, record by record, as joblet's programs ask for it.
//!
//! Owns: filters over records, pages bounded by bytes, where the last N records begin, waiting for more. Must not know: any wire, lines.

use super::Ledger;
use super::live::{Source as _, StoreWake};
use super::pattern::Pattern;
use crate::model::{Job, JobId, LogStream, OutputKind, OutputRecord, Refusal};
use crate::store::{BlockHead, OutputLimit};

/// Which records of a job's output. Everything that is set must hold.
#[derive(Debug, Clone)]
pub struct OutputQuery {
    pub kind: OutputKind,
    /// Of logs; None: standard output and standard error.
    pub stream: Option<LogStream>,
    /// Of the record's own time, Unix ns, both included; 0 and below: open.
    pub from_ns: i64,
    pub until_ns: i64,
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
pub struct OutputPage {
    pub records: Vec<OutputRecord>,
    /// The ordinal from which to go on.
    pub next: u64,
    /// Nothing stood behind `next`.
    pub end: bool,
}

/// A page ends at the first of the two that is reached; one record may be larger than a page.
const PAGE: OutputLimit = OutputLimit { rows: 4_096, bytes: 1 << 20 };
/// Jobs read at a time.
const JOBS: usize = 256;

impl OutputQuery {
    pub fn new(kind: OutputKind) -> Self {
        Self { kind, stream: None, from_ns: 0, until_ns: 0, patterns: Vec::new() }
    }

    /// Only records whose data contain the text and match the expression, where they are not empty.
    pub fn look_for(&mut self, text: &str, regex: &str, ignore_case: bool) -> Result<(), Refusal> {
        self.patterns = Pattern::of(text, regex, ignore_case)?;
        Ok(())
    }

    fn keeps(&self, record: &OutputRecord) -> bool {
        let entry = &record.entry;
        let of_stream = match (self.kind, self.stream) {
            (OutputKind::Log, None) => entry.stream != LogStream::Job,
            (OutputKind::Log, Some(stream)) => entry.stream == stream,
            _ => true,
        };
        of_stream
            && (self.from_ns <= 0 || entry.time_ns >= self.from_ns)
            && (self.until_ns <= 0 || entry.time_ns <= self.until_ns)
            && self.patterns.iter().all(|pattern| pattern.is_match(&entry.data))
    }

    /// False: no record of the block is kept.
    fn wants(&self, head: &BlockHead) -> bool {
        let [_, stdout, stderr] = head.records;
        let of_stream = match (self.kind, self.stream) {
            (OutputKind::Log, None) => stdout + stderr > 0,
            (OutputKind::Log, Some(LogStream::Stdout)) => stdout > 0,
            (OutputKind::Log, Some(LogStream::Stderr)) => stderr > 0,
            _ => true,
        };
        of_stream
            && (self.from_ns <= 0 || head.time_max_ns >= self.from_ns)
            && (self.until_ns <= 0 || head.time_min_ns <= self.until_ns)
            && self.patterns.iter().all(|pattern| pattern.may_match(&head.filter))
    }
}

impl Ledger {
    /// The job of this id, or the one that another program calls so.
    pub fn find(&self, text: &str) -> Result<Option<Job>, Refusal> {
        self.reader.find_job(text)?.map_or(Ok(None), |id| self.reader.job(id))
    }

    /// Records with ordinals in `from..until` that the query keeps, in order.
    pub fn output(&self, id: JobId, query: &OutputQuery, from: u64, until: u64) -> Result<OutputPage, Refusal> {
        let slice = self.reader.output(id, query.kind, from, PAGE, &|head| query.wants(head))?;
        let mut records = slice.records;
        records.retain(|record| record.ordinal < until && query.keeps(record));
        Ok(OutputPage { records, next: slice.next.max(from), end: slice.end || slice.next >= until })
    }

    /// Refuses a follow that would begin behind the end of what the job has.
    pub fn begin(&self, job: &Job, kind: OutputKind, from: u64) -> Result<(), Refusal> {
        if from <= job.records_of(kind) {
            return Ok(());
        }
        // A record can be read a moment before it is counted, and who has read it may ask for the next one. The tail first: what goes
        // from it until the job is read is counted.
        let tail_end = self.reader.tail(job.id, kind).chunks().last().map_or(0, |chunk| chunk.end());
        // Deleted meanwhile: the follow itself finds that out.
        let Some(job) = self.reader.job(job.id)? else { return Ok(()) };
        let end = job.records_of(kind).max(tail_end);
        if from > end { Err(super::behind_the_end(&job, from, end)) } else { Ok(()) }
    }

    /// Where the last `count` records below `until` begin that the query keeps.
    pub fn output_tail(&self, id: JobId, query: &OutputQuery, until: u64, count: u64) -> Result<u64, Refusal> {
        let tail = self.reader.tail(id, query.kind);
        let mut left = count;
        let mut first = until;
        let mut take = |records: Vec<OutputRecord>, below: u64| {
            for record in records.into_iter().rev() {
                if left > 0 && record.ordinal < below && query.keeps(&record) {
                    (left, first) = (left - 1, record.ordinal);
                }
            }
            left == 0
        };
        for chunk in tail.chunks().iter().rev() {
            if take(chunk.records(query.kind)?, until) {
                return Ok(first);
            }
        }
        let sealed_end = tail.first().unwrap_or(u64::MAX).min(until);
        let mut before = sealed_end;
        while let Some(head) = self.reader.head_before(id, query.kind, before)? {
            if query.wants(&head) && take(self.reader.block(&head)?, sealed_end) {
                return Ok(first);
            }
            before = head.first;
        }
        // Fewer than asked for: all of them.
        Ok(0)
    }

    /// Wakes for what is committed to the job from now on.
    pub fn output_watch(&self, id: JobId) -> StoreWake {
        self.reader.wake(id)
    }

    /// Jobs that ever had output or that another program names, newest first.
    pub fn output_jobs(&self, mut each: impl FnMut(Job)) -> Result<(), Refusal> {
        let mut before = JobId::MAX;
        loop {
            let jobs = self.reader.jobs_before(before, JobId::MIN, JOBS)?;
            let Some(last) = jobs.last().map(|job| job.id) else { return Ok(()) };
            jobs.into_iter().filter(|job| job.output_at_ms > 0 || job.name.is_some()).for_each(&mut each);
            before = last;
        }
    }
}
