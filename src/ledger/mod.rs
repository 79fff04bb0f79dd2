//! The out-door: every question about jobs is answered here. Read only by type.
//!
//! Owns: paging, filters, watching, following, explaining. Must not know: how to change anything.

use futures_util::stream::BoxStream;

use crate::model::{
    DeadLetter, DeadLetterId, DeadLetterSelector, Failure, Job, JobId, JobState, JobType, LogLevel, LogRecord,
    LogStream, Manifest, Refusal, Task, Tenant,
};

#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub tenant: Option<Tenant>,
    pub job_type: Option<JobType>,
    pub states: Vec<JobState>,
    pub created_from_ms: i64,
    pub created_until_ms: i64,
    pub id_prefix: String,
}

#[derive(Debug, Clone)]
pub struct Page<T> {
    pub items: Vec<T>,
    /** Empty: the end. */
    pub next_token: String,
}

/// `size` 0 means 100, at most 1000. `token` as an earlier page gave it; works after a restart.
#[derive(Debug, Clone, Default)]
pub struct PageRequest {
    pub size: u32,
    pub token: String,
}

#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    pub offset: u64,
    pub limit: u32,
    pub min_level: LogLevel,
    pub streams: Vec<LogStream>,
    pub resource_id: String,
    pub from_ms: i64,
    pub until_ms: i64,
    pub text: String,
    pub tail: u32,
}

#[derive(Debug, Clone)]
pub struct LogPage {
    pub records: Vec<LogRecord>,
    pub next_offset: u64,
    pub end: bool,
}

#[derive(Debug, Clone, Default)]
pub struct FailureFilter {
    pub tenant: Option<Tenant>,
    pub job_type: Option<JobType>,
    pub code_prefix: String,
    pub host: String,
}

#[derive(Debug, Clone)]
pub struct RecentFailure {
    pub job: JobId,
    pub job_type: JobType,
    pub tenant: Tenant,
    pub failure: Failure,
}

#[derive(Debug, Clone)]
pub struct LifeEvent {
    pub at_ms: i64,
    pub what: String,
    pub message: String,
    pub failure: Option<Failure>,
}

#[derive(Debug, Clone)]
pub struct TaskStory {
    pub task: Task,
    pub summary: String,
    pub events: Vec<LifeEvent>,
}

#[derive(Debug, Clone)]
pub struct JobStory {
    pub job: Job,
    pub summary: String,
    pub events: Vec<LifeEvent>,
    pub tasks: Vec<TaskStory>,
}

/// Clonable handle.
#[derive(Clone)]
pub struct Ledger {}

impl Ledger {
    pub fn job(&self, _id: JobId) -> Result<Job, Refusal> {
        todo!()
    }
    pub fn manifest(&self, _id: JobId) -> Result<Manifest, Refusal> {
        todo!()
    }
    pub fn jobs(&self, _filter: &JobFilter, _page: &PageRequest) -> Result<Page<Job>, Refusal> {
        todo!()
    }
    /// Snapshots with a revision above `after_revision`, the last one terminal.
    pub fn watch(&self, _id: JobId, _after_revision: u64) -> BoxStream<'static, Result<Job, Refusal>> {
        todo!()
    }
    /// `states`: names as `TaskState::name`; empty means all.
    pub fn tasks(&self, _id: JobId, _states: &[&'static str], _page: &PageRequest) -> Result<Page<Task>, Refusal> {
        todo!()
    }
    pub fn logs(&self, _id: JobId, _query: &LogQuery) -> Result<LogPage, Refusal> {
        todo!()
    }
    /// History, then live, without gap or duplicate; ends when the job is terminal and everything was sent.
    pub fn follow(&self, _id: JobId, _query: LogQuery) -> BoxStream<'static, Result<LogPage, Refusal>> {
        todo!()
    }
    pub fn failures(&self, _filter: &FailureFilter, _page: &PageRequest) -> Result<Page<RecentFailure>, Refusal> {
        todo!()
    }
    pub fn dead_letters(
        &self,
        _selector: &DeadLetterSelector,
        _page: &PageRequest,
    ) -> Result<Page<DeadLetter>, Refusal> {
        todo!()
    }
    pub fn dead_letter(&self, _id: DeadLetterId) -> Result<DeadLetter, Refusal> {
        todo!()
    }
    pub fn explain_job(&self, _id: JobId) -> Result<JobStory, Refusal> {
        todo!()
    }
    pub fn explain_task(&self, _id: JobId, _resource_id: &str) -> Result<TaskStory, Refusal> {
        todo!()
    }
    pub fn counters(&self) -> crate::store::Counters {
        todo!()
    }
    pub fn sizes(&self) -> crate::store::Sizes {
        todo!()
    }
    pub fn controls(&self) -> crate::model::Controls {
        todo!()
    }
    pub fn sequence(&self) -> u64 {
        todo!()
    }
    /// Why the store does not serve; None while it does.
    pub fn fault(&self) -> Option<String> {
        todo!()
    }
}
