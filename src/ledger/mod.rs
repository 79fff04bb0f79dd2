//! The out-door: every question about jobs is answered here. Read only by type.
//!
//! Owns: paging, filters, watching, following, explaining. Must not know: how to change anything.
//!
//! Every list is paged: a page looks at no more than 10,000 rows (of a log: 100,000 records), weighs about 2 MiB at most unless a
//! single record weighs more, and may be short, even empty, with a token. List functions are synchronous and may take tens of milliseconds: callers decide where they run.

mod explain;
mod lines;
mod lists;
mod live;
mod logs;
mod metrics;
mod output;
mod pattern;
mod plan;
mod required;
mod scan;
mod search;
mod tail;
mod token;

use std::sync::Arc;

use futures_util::stream::BoxStream;
use tokio::sync::Semaphore;

pub use explain::Present;
pub use live::StoreWake;
pub use metrics::{MetricPage, MetricPoint, MetricQuery};
pub use output::{OutputPage, OutputQuery};
pub use tail::Tail;

use crate::model::{
    Controls, DeadLetter, DeadLetterId, DeadLetterSelector, Failure, Job, JobId, JobState, JobType, LogLevel,
    LogRecord, LogStream, Manifest, Refusal, RefusalCode, Task, Tenant,
};
use crate::store::{Counters, Reader, Sizes};

/// Everything that is set must hold.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub tenant: Option<Tenant>,
    pub job_type: Option<JobType>,
    /// Any of these; none means all.
    pub states: Vec<JobState>,
    /// Created at or after, Unix ms; 0 = open.
    pub created_from_ms: i64,
    /// Created before, Unix ms; 0 = open.
    pub created_until_ms: i64,
    /// The beginning of a job id as it is written; empty = any.
    pub id_prefix: String,
}

#[derive(Debug, Clone)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Empty: the end.
    pub next_token: String,
}

/// `size` 0 means 100, more than 1000 means 1000. `token` as an earlier page gave it; works after a restart.
#[derive(Debug, Clone, Default)]
pub struct PageRequest {
    pub size: u32,
    pub token: String,
}

/// Which records of a job's log. Everything that is set must hold.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    pub offset: u64,
    /// Records of a page: 0 means 100, at most 1000.
    pub limit: u32,
    pub min_level: LogLevel,
    /// Any of these; none means all.
    pub streams: Vec<LogStream>,
    pub resource_id: String,
    /// At or after, Unix ms; 0 = open.
    pub from_ms: i64,
    /// Before, Unix ms; 0 = open.
    pub until_ms: i64,
    /// The message or the chunk contains it, letter by letter.
    pub text: String,
    /// The message or the chunk matches this regular expression.
    pub regex: String,
    /// For both.
    pub ignore_case: bool,
    /// Not 0: the last so many records (at most 1000) instead of those from `offset`.
    pub tail: u32,
}

#[derive(Debug, Clone)]
pub struct LogPage {
    pub records: Vec<LogRecord>,
    /// Where to go on.
    pub next_offset: u64,
    /// Nothing stands behind `next_offset` now. Never set by a follow, which ends instead.
    pub end: bool,
    /// Of a follow: records that are there and were not given yet, kept or not.
    pub behind: u64,
}

/// What to look for in the lines of many jobs' output. One of `text` and `regex` is set.
#[derive(Debug, Clone, Default)]
pub struct SearchQuery {
    pub text: String,
    pub regex: String,
    pub ignore_case: bool,
    /// None means all.
    pub jobs: Vec<JobId>,
    pub job_type: Option<JobType>,
    pub tenant: Option<Tenant>,
    /// Of standard output and standard error; none means both.
    pub streams: Vec<LogStream>,
    /// Lines that begin at or after, Unix ms; 0 = open.
    pub from_ms: i64,
    /// Before, Unix ms; 0 = open.
    pub until_ms: i64,
    /// Lines: 0 means 100.
    pub limit: u32,
}

/// A line that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchHit {
    /// The id that clients see.
    pub job_id: String,
    /// Of the record in which the line begins.
    pub offset: u64,
    pub stream: LogStream,
    pub timestamp_ms: i64,
    /// Without its end; of a line above 64 KiB the part with the match.
    pub line: Vec<u8>,
}

/// So far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    pub blocks: u64,
    /// Of these, not read: their filter, time or streams ruled them out.
    pub blocks_skipped: u64,
    pub bytes_searched: u64,
}

#[derive(Debug, Clone)]
pub struct SearchPage {
    pub hits: Vec<SearchHit>,
    /// Set where the search stopped at its limit; in the last page only.
    pub next_token: String,
    pub progress: Progress,
}

#[derive(Debug, Clone, Default)]
pub struct FailureFilter {
    pub tenant: Option<Tenant>,
    pub job_type: Option<JobType>,
    pub code_prefix: String,
    pub host: String,
}

/// One failed attempt.
#[derive(Debug, Clone)]
pub struct RecentFailure {
    pub job: JobId,
    pub job_type: JobType,
    pub tenant: Tenant,
    pub failure: Failure,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct LifeEvent {
    pub at_ms: i64,
    /// One word: accepted, replayed, started, failed, waiting, running, stored, dead, canceled, log, omitted, or a job's end.
    pub what: String,
    /// A sentence or two for a person.
    pub message: String,
    pub failure: Option<Failure>,
}

/// A resource's life. Its task shows no header values and no URL's user info or query.
#[derive(Debug, Clone)]
pub struct TaskStory {
    pub task: Task,
    pub summary: String,
    pub events: Vec<LifeEvent>,
}

/// A job's life.
#[derive(Debug, Clone)]
pub struct JobStory {
    pub job: Job,
    /// One sentence.
    pub summary: String,
    /// In order of time, at most 1000.
    pub events: Vec<LifeEvent>,
    /// Resources that are not stored, dead ones first, then those that were stored only after something happened; at most 100.
    pub tasks: Vec<TaskStory>,
}

/// Clonable handle. Answers NOT_FOUND for jobs and letters that do not exist, DATA_LOSS for damaged rows.
#[derive(Clone)]
pub struct Ledger {
    reader: Reader,
    followers: Arc<live::Followers>,
    searches: Arc<Semaphore>,
}

impl Ledger {
    pub fn new(reader: Reader) -> Self {
        Self { reader, followers: live::Followers::new(), searches: search::turns() }
    }

    /// The job that clients call so: its id, or the name that another program gave it.
    pub fn find_job(&self, text: &str) -> Result<Option<JobId>, Refusal> {
        self.reader.find_job(text)
    }

    pub fn job(&self, id: JobId) -> Result<Job, Refusal> {
        self.reader.job(id)?.ok_or_else(|| no_job(id))
    }

    /// As it was accepted.
    pub fn manifest(&self, id: JobId) -> Result<Manifest, Refusal> {
        self.reader.manifest(id)?.ok_or_else(|| no_job(id))
    }

    /// Newest first.
    pub fn jobs(&self, filter: &JobFilter, page: &PageRequest) -> Result<Page<Job>, Refusal> {
        lists::jobs(&self.reader, filter, page)
    }

    /// Snapshots with a revision above `after_revision`, the last one terminal. May skip revisions, never goes back. A job
    /// deleted meanwhile ends it with NOT_FOUND.
    pub fn watch(&self, id: JobId, after_revision: u64) -> BoxStream<'static, Result<Job, Refusal>> {
        live::watch(self.reader.clone(), id, after_revision)
    }

    /// Resources in the order of the manifest. `states`: names as `TaskState::name`; empty means all.
    pub fn tasks(&self, id: JobId, states: &[&'static str], page: &PageRequest) -> Result<Page<Task>, Refusal> {
        self.job(id)?;
        lists::tasks(&self.reader, id, states, page)
    }

    /// One page from `query.offset` on.
    pub fn logs(&self, id: JobId, query: &LogQuery) -> Result<LogPage, Refusal> {
        let filter = logs::Filter::new(query)?;
        self.job(id)?;
        logs::forward(&self.reader, id, &filter, query.offset, query.limit)
    }

    /// The next page of a tail, if enough was looked at, and what is left of it.
    pub fn tail(&self, id: JobId, tail: Tail) -> Result<(Option<LogPage>, Option<Tail>), Refusal> {
        let log_count = self.job(id)?.log_count;
        tail.page(&self.reader, id, log_count)
    }

    /// History, then live, without gap or duplicate; ends when the job is terminal and everything was sent. A page without
    /// records only tells how far it is. OUT_OF_RANGE when it would begin behind the end.
    pub fn follow(&self, id: JobId, query: LogQuery) -> BoxStream<'static, Result<LogPage, Refusal>> {
        live::follow(self.reader.clone(), id, query, Arc::clone(&self.followers))
    }

    /// Lines of output that match, newest job first, each job's in the order in which they ended. Pages come as the search goes on, with
    /// or without hits; the last one has a token if the limit was reached.
    pub fn search(
        &self,
        query: &SearchQuery,
        token: &str,
    ) -> Result<BoxStream<'static, Result<SearchPage, Refusal>>, Refusal> {
        let search = search::prepare(self.reader.clone(), query, token)?;
        Ok(search::run(search, Arc::clone(&self.searches)))
    }

    /// Failed attempts of all jobs, newest first.
    pub fn failures(&self, filter: &FailureFilter, page: &PageRequest) -> Result<Page<RecentFailure>, Refusal> {
        lists::failures(&self.reader, filter, page)
    }

    /// Oldest first. `selector.max` holds over all pages together.
    pub fn dead_letters(&self, selector: &DeadLetterSelector, page: &PageRequest) -> Result<Page<DeadLetter>, Refusal> {
        lists::dead_letters(&self.reader, selector, page)
    }

    pub fn dead_letter(&self, id: DeadLetterId) -> Result<DeadLetter, Refusal> {
        self.reader.dead_letter(id)?.ok_or_else(|| Refusal::not_found(format!("dead letter {id}")))
    }

    /// The job's life, and that of its resources with something to tell.
    pub fn explain_job(&self, id: JobId, present: &Present<'_>) -> Result<JobStory, Refusal> {
        explain::job(&self.reader, self.job(id)?, present)
    }

    /// One resource's life.
    pub fn explain_task(&self, id: JobId, resource_id: &str, present: &Present<'_>) -> Result<TaskStory, Refusal> {
        explain::resource(&self.reader, &self.job(id)?, resource_id, present)
    }

    pub fn counters(&self) -> Counters {
        self.reader.counters()
    }

    pub fn sizes(&self) -> Sizes {
        self.reader.sizes()
    }

    pub fn controls(&self) -> Controls {
        self.reader.controls()
    }

    /// Highest durable commit group.
    pub fn sequence(&self) -> u64 {
        self.reader.sequence()
    }

    /// Why the store does not serve; None while it does.
    pub fn fault(&self) -> Option<String> {
        self.reader.fault()
    }
}

/// Who waited there would miss what the job has from its beginning on: the position is that of another job, which had the name before.
fn behind_the_end(job: &Job, from: u64, end: u64) -> Refusal {
    let id = job.public_id();
    let message =
        format!("offset {from} is behind the end of job {id}, which is {end}: it is not the job this was read from");
    Refusal::new(RefusalCode::OutOfRange, message).with_job(id)
}

fn no_job(id: impl std::fmt::Display) -> Refusal {
    Refusal::not_found(format!("job {id}")).with_job(id)
}

#[cfg(test)]
mod tests;
