//! Job rows and log rows.

use bytes::Bytes;
use prost::Message;

use super::{FailureRow, Pairs, damaged};
use crate::model::{
    Job, JobId, JobName, JobState, JobType, LogLevel, LogRecord, LogStream, NewLog, OutputKind, Priority, Refusal,
    Tenant,
};

#[derive(Clone, PartialEq, Message)]
pub struct JobRow {
    #[prost(string, tag = "1")]
    pub job_type: String,
    #[prost(string, tag = "2")]
    pub tenant: String,
    #[prost(uint32, tag = "3")]
    pub priority: u32,
    #[prost(uint32, tag = "4")]
    pub state: u32,
    #[prost(string, tag = "5")]
    pub phase: String,
    #[prost(uint32, tag = "6")]
    pub total: u32,
    #[prost(uint32, tag = "7")]
    pub completed: u32,
    #[prost(uint32, tag = "8")]
    pub failed: u32,
    #[prost(uint32, tag = "9")]
    pub canceled: u32,
    #[prost(string, tag = "10")]
    pub manifest_bucket: String,
    #[prost(string, tag = "11")]
    pub manifest_key: String,
    #[prost(bool, tag = "12")]
    pub manifest_stored: bool,
    #[prost(message, repeated, tag = "13")]
    pub errors: Vec<FailureRow>,
    #[prost(int64, tag = "14")]
    pub created_at_ms: i64,
    #[prost(int64, tag = "15")]
    pub updated_at_ms: i64,
    #[prost(int64, tag = "16")]
    pub completed_at_ms: i64,
    /// Offset the next log record gets.
    #[prost(uint64, tag = "17")]
    pub log_count: u64,
    #[prost(uint64, tag = "18")]
    pub bytes_stored: u64,
    #[prost(uint64, tag = "19")]
    pub revision: u64,
    #[prost(string, tag = "20")]
    pub trace_id: String,
    #[prost(bool, tag = "21")]
    pub external: bool,
    #[prost(bool, tag = "22")]
    pub cancel_requested: bool,
    /// Hash of the idempotency key, empty without one or after it was freed.
    #[prost(bytes = "vec", tag = "23")]
    pub idempotency: Vec<u8>,
    /// Where in the ready index the job was put.
    #[prost(uint64, tag = "24")]
    pub ready_seq: u64,
    /// The spec row's bytes, when they are few.
    #[prost(bytes = "vec", tag = "25")]
    pub inline_spec: Vec<u8>,
    /// Log records below this offset were deleted.
    #[prost(uint64, tag = "26")]
    pub logs_from: u64,
    /// Attempts of its resources that may run at once; 0: no limit of its own.
    #[prost(uint32, tag = "40")]
    pub parallel_max: u32,
    /// What another program calls the job; empty: nobody does.
    #[prost(string, tag = "41")]
    pub name: String,
    /// By kind: records of output ever appended. Logs are counted in `log_count` instead.
    #[prost(uint64, repeated, tag = "42")]
    pub output_counts: Vec<u64>,
    /// Bytes of output ever appended.
    #[prost(uint64, tag = "43")]
    pub output_bytes: u64,
    /// When output came last.
    #[prost(int64, tag = "44")]
    pub output_at_ms: i64,
    /// By kind: output below this ordinal was deleted. Of logs `logs_from` says it.
    #[prost(uint64, repeated, tag = "50")]
    pub output_from: Vec<u64>,
    /// It is being deleted group by group: nothing more is taken for it, and its name is free.
    #[prost(bool, tag = "51")]
    pub leaving: bool,
    /// The object store will never take its manifest.
    #[prost(bool, tag = "52")]
    pub manifest_refused: bool,
}

impl JobRow {
    /// The id that clients see, as [`Job::public_id`].
    pub fn shown(&self, id: JobId) -> String {
        if self.name.is_empty() { id.to_string() } else { self.name.clone() }
    }

    /// Behind the last ordinal given.
    pub fn records_of(&self, kind: OutputKind) -> u64 {
        if kind == OutputKind::Log {
            return self.log_count;
        }
        self.output_counts.get(kind.index()).copied().unwrap_or(0)
    }

    pub fn set_records_of(&mut self, kind: OutputKind, end: u64) {
        if kind == OutputKind::Log {
            self.log_count = end;
            return;
        }
        set_of_kind(&mut self.output_counts, kind, end);
    }

    /// The oldest ordinal that is kept.
    pub fn kept_from(&self, kind: OutputKind) -> u64 {
        let from = if kind == OutputKind::Log {
            self.logs_from
        } else {
            self.output_from.get(kind.index()).copied().unwrap_or(0)
        };
        from.min(self.records_of(kind))
    }

    pub fn set_kept_from(&mut self, kind: OutputKind, from: u64) {
        if kind == OutputKind::Log {
            self.logs_from = from;
            return;
        }
        set_of_kind(&mut self.output_from, kind, from);
    }

    pub fn job_state(&self) -> Result<JobState, Refusal> {
        state_from(self.state).ok_or_else(|| damaged(format!("job state {}", self.state)))
    }

    pub fn set_state(&mut self, state: JobState) {
        self.state = state_number(state);
    }

    pub fn priority(&self) -> Priority {
        match self.priority {
            1 => Priority::Low,
            3 => Priority::High,
            _ => Priority::Normal,
        }
    }

    pub fn job_type(&self) -> Result<JobType, Refusal> {
        JobType::parse(&self.job_type).map_err(|_| damaged("job type"))
    }

    pub fn tenant(&self) -> Result<Tenant, Refusal> {
        Tenant::parse(&self.tenant).map_err(|_| damaged("tenant"))
    }

    /// Its manifest is still to be stored.
    pub fn is_manifest_open(&self) -> bool {
        !self.external && !self.manifest_stored && !self.manifest_refused
    }

    /// Tasks that have not ended, the manifest's own included.
    pub fn open_tasks(&self) -> u32 {
        let manifest = u32::from(self.is_manifest_open());
        (manifest + self.total).saturating_sub(self.completed + self.failed + self.canceled)
    }

    pub fn push_error(&mut self, failure: FailureRow) {
        if self.errors.len() >= Job::ERRORS_MAX {
            self.errors.remove(0);
        }
        self.errors.push(failure);
    }

    pub fn into_job(self, id: JobId) -> Result<Job, Refusal> {
        Ok(Job {
            id,
            state: self.job_state()?,
            job_type: self.job_type()?,
            tenant: self.tenant()?,
            priority: self.priority(),
            phase: self.phase,
            total: self.total,
            completed: self.completed,
            failed: self.failed,
            canceled: self.canceled,
            manifest_bucket: self.manifest_bucket,
            manifest_key: self.manifest_key,
            manifest_stored: self.manifest_stored,
            errors: self.errors.into_iter().map(FailureRow::into_failure).collect::<Result<_, _>>()?,
            created_at_ms: self.created_at_ms,
            updated_at_ms: self.updated_at_ms,
            completed_at_ms: self.completed_at_ms,
            log_count: self.log_count,
            bytes_stored: self.bytes_stored,
            revision: self.revision,
            trace_id: self.trace_id,
            external: self.external,
            cancel_requested: self.cancel_requested,
            name: JobName::parse(&self.name),
            output_counts: self.output_counts,
            output_bytes: self.output_bytes,
            output_at_ms: self.output_at_ms,
        })
    }
}

/// Of numbers by kind, which end with the last one that is not 0.
fn set_of_kind(numbers: &mut Vec<u64>, kind: OutputKind, number: u64) {
    if numbers.len() <= kind.index() {
        numbers.resize(kind.index() + 1, 0);
    }
    if let Some(known) = numbers.get_mut(kind.index()) {
        *known = number;
    }
}

pub fn priority_number(priority: Priority) -> u32 {
    match priority {
        Priority::Low => 1,
        Priority::Normal => 2,
        Priority::High => 3,
    }
}

pub fn state_number(state: JobState) -> u32 {
    match state {
        JobState::Queued => 1,
        JobState::InProgress => 2,
        JobState::Partial => 3,
        JobState::Completed => 4,
        JobState::Failed => 5,
        JobState::Canceled => 6,
    }
}

pub fn state_from(number: u32) -> Option<JobState> {
    JobState::ALL.into_iter().find(|state| state_number(*state) == number)
}

/// Which job another program calls so.
#[derive(Clone, PartialEq, Message)]
pub struct NameRow {
    #[prost(bytes = "vec", tag = "1")]
    pub job: Vec<u8>,
    /// The key holds its hash only.
    #[prost(string, tag = "2")]
    pub name: String,
}

impl NameRow {
    pub fn job(&self) -> Result<JobId, Refusal> {
        self.job.as_slice().try_into().map(JobId::from_bytes).map_err(|_| damaged("name"))
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct LogRow {
    #[prost(string, tag = "1")]
    pub resource_id: String,
    #[prost(uint32, tag = "2")]
    pub level: u32,
    #[prost(int64, tag = "3")]
    pub timestamp_ms: i64,
    #[prost(string, tag = "4")]
    pub message: String,
    #[prost(btree_map = "string, string", tag = "5")]
    pub fields: Pairs,
    #[prost(string, tag = "6")]
    pub trace_id: String,
}

impl LogRow {
    pub fn from_log(log: NewLog) -> Self {
        let level = LogLevel::ALL.iter().position(|l| *l == log.level).unwrap_or(0);
        Self {
            resource_id: log.resource_id,
            level: u32::try_from(level).unwrap_or(0),
            timestamp_ms: log.timestamp_ms,
            message: log.message,
            fields: log.fields,
            trace_id: log.trace_id,
        }
    }

    pub fn into_log(self) -> Result<NewLog, Refusal> {
        let index = usize::try_from(self.level).unwrap_or(usize::MAX);
        let level = *LogLevel::ALL.get(index).ok_or_else(|| damaged("log level"))?;
        Ok(NewLog {
            resource_id: self.resource_id,
            level,
            timestamp_ms: self.timestamp_ms,
            message: self.message,
            fields: self.fields,
            trace_id: self.trace_id,
        })
    }

    pub fn into_record(self, job: JobId, offset: u64) -> Result<LogRecord, Refusal> {
        let entry = self.into_log()?;
        Ok(LogRecord { job, offset, stream: LogStream::Job, entry, chunk: Bytes::new() })
    }
}
