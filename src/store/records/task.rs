//! Task rows, failures, objects, dead letters.

use prost::Message;

use super::spec::TaskSpecRow;
use super::{Pairs, damaged, digest};
use crate::model::{
    Attempt, Budget, DeadLetter, DeadLetterId, Failure, FailureCode, JobType, Refusal, StoredObject, TaskState, Tenant,
};
use crate::store::Tried;

#[derive(Clone, PartialEq, Message)]
pub struct FailureRow {
    #[prost(string, tag = "1")]
    pub code: String,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(string, tag = "3")]
    pub resource_id: String,
    #[prost(int64, tag = "4")]
    pub at_ms: i64,
    #[prost(uint32, tag = "5")]
    pub attempt: u32,
    #[prost(btree_map = "string, string", tag = "6")]
    pub context: Pairs,
}

impl FailureRow {
    pub fn from_failure(failure: &Failure) -> Self {
        Self {
            code: failure.code.as_str().to_owned(),
            message: failure.message.clone(),
            resource_id: failure.resource_id.clone(),
            at_ms: failure.at_ms,
            attempt: failure.attempt,
            context: failure.context.clone(),
        }
    }

    pub fn into_failure(self) -> Result<Failure, Refusal> {
        let code = FailureCode::parse(&self.code).ok_or_else(|| damaged(format!("failure code {:?}", self.code)))?;
        Ok(Failure {
            code,
            message: self.message,
            resource_id: self.resource_id,
            at_ms: self.at_ms,
            attempt: self.attempt,
            context: self.context,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct ObjectRow {
    #[prost(string, tag = "1")]
    pub bucket: String,
    #[prost(string, tag = "2")]
    pub key: String,
    #[prost(string, tag = "3")]
    pub etag: String,
    #[prost(uint64, tag = "4")]
    pub size_bytes: u64,
    #[prost(bytes = "vec", tag = "5")]
    pub sha256: Vec<u8>,
    #[prost(string, tag = "6")]
    pub content_type: String,
}

impl ObjectRow {
    pub fn from_object(object: StoredObject) -> Self {
        Self {
            bucket: object.bucket,
            key: object.key,
            etag: object.etag,
            size_bytes: object.size_bytes,
            sha256: object.sha256.to_vec(),
            content_type: object.content_type,
        }
    }

    pub fn into_object(self) -> Result<StoredObject, Refusal> {
        Ok(StoredObject {
            sha256: digest("object", &self.sha256)?,
            bucket: self.bucket,
            key: self.key,
            etag: self.etag,
            size_bytes: self.size_bytes,
            content_type: self.content_type,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct AttemptRow {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(int64, tag = "2")]
    pub started_at_ms: i64,
    #[prost(message, optional, tag = "3")]
    pub failure: Option<FailureRow>,
    #[prost(int64, tag = "4")]
    pub not_before_ms: i64,
}

impl AttemptRow {
    pub fn into_attempt(self) -> Result<Attempt, Refusal> {
        let failure = self.failure.ok_or_else(|| damaged("attempt without failure"))?.into_failure()?;
        Ok(Attempt {
            number: self.number,
            started_at_ms: self.started_at_ms,
            failure,
            not_before_ms: self.not_before_ms,
        })
    }
}

/// A task that has diverged from plain ready.
#[derive(Clone, PartialEq, Message)]
pub struct TaskRow {
    /// See [`TaskRow::READY`] and its neighbours.
    #[prost(uint32, tag = "1")]
    pub state: u32,
    /// Leased: until; retry-wait: not before; done, dead, canceled: since.
    #[prost(int64, tag = "2")]
    pub at_ms: i64,
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    #[prost(uint32, tag = "4")]
    pub attempts: u32,
    /// Times in a row that the daemon died while the task was leased.
    #[prost(uint32, tag = "5")]
    pub interrupted: u32,
    #[prost(message, optional, tag = "6")]
    pub object: Option<ObjectRow>,
    /// Done: how the attempt went that stored it.
    #[prost(btree_map = "string, string", tag = "15")]
    pub done_context: Pairs,
    /// The latest failure.
    #[prost(message, optional, tag = "7")]
    pub failure: Option<FailureRow>,
    /// The last ten failed attempts.
    #[prost(message, repeated, tag = "8")]
    pub tried: Vec<AttemptRow>,
    #[prost(string, tag = "9")]
    pub replay_of: String,
    #[prost(int64, tag = "10")]
    pub updated_at_ms: i64,
    /// Some attempt recorded an upload that nobody has said to be over.
    #[prost(bool, tag = "11")]
    pub uploads: bool,
    /// Failed attempts by the budget they were charged to.
    #[prost(uint32, tag = "20")]
    pub failed_downloads: u32,
    #[prost(uint32, tag = "21")]
    pub failed_uploads: u32,
    #[prost(uint32, tag = "22")]
    pub throttled: u32,
}

impl TaskRow {
    pub const LEASED: u32 = 2;
    pub const RETRY_WAIT: u32 = 3;
    pub const DONE: u32 = 4;
    pub const DEAD: u32 = 5;
    pub const CANCELED: u32 = 6;
    pub const TRIED_MAX: usize = 10;

    pub fn is_open(&self) -> bool {
        self.state < Self::DONE
    }

    pub fn charge(&mut self, budget: Budget) {
        let count = match budget {
            Budget::Download => &mut self.failed_downloads,
            Budget::Upload => &mut self.failed_uploads,
            Budget::Throttled => &mut self.throttled,
            Budget::None => return,
        };
        *count = count.saturating_add(1);
    }

    pub fn tried_before(&self) -> Tried {
        Tried { downloads: self.failed_downloads, uploads: self.failed_uploads, throttled: self.throttled }
    }

    /// Fresh budgets.
    pub fn forget_tried(&mut self) {
        (self.failed_downloads, self.failed_uploads, self.throttled) = (0, 0, 0);
    }

    pub fn push_tried(&mut self, attempt: AttemptRow) {
        if self.tried.len() >= Self::TRIED_MAX {
            self.tried.remove(0);
        }
        self.tried.push(attempt);
    }

    /// One that counts for nothing. The same again takes the place of the one before: an outage of a night is one entry.
    pub fn push_uncounted(&mut self, attempt: AttemptRow) {
        let code = |row: &AttemptRow| row.failure.as_ref().map(|failure| failure.code.clone());
        match self.tried.last_mut() {
            Some(last) if last.number == attempt.number && code(last) == code(&attempt) => *last = attempt,
            _ => self.push_tried(attempt),
        }
    }

    pub fn task_state(&self) -> Result<TaskState, Refusal> {
        Ok(match self.state {
            Self::LEASED => TaskState::Leased { until_ms: self.at_ms, epoch: self.epoch },
            Self::RETRY_WAIT => TaskState::RetryWait { not_before_ms: self.at_ms },
            Self::DONE => {
                let object = self.object.clone().ok_or_else(|| damaged("done task without object"))?;
                TaskState::Done { object: object.into_object()? }
            }
            Self::DEAD => {
                let failure = self.failure.clone().ok_or_else(|| damaged("dead task without failure"))?;
                TaskState::Dead { failure: failure.into_failure()? }
            }
            Self::CANCELED => TaskState::Canceled,
            other => return Err(damaged(format!("task state {other}"))),
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct DeadLetterRow {
    #[prost(string, tag = "1")]
    pub job_type: String,
    #[prost(string, tag = "2")]
    pub tenant: String,
    #[prost(message, optional, tag = "3")]
    pub spec: Option<TaskSpecRow>,
    #[prost(message, optional, tag = "4")]
    pub failure: Option<FailureRow>,
    #[prost(uint32, tag = "5")]
    pub attempts: u32,
    #[prost(string, tag = "6")]
    pub replay_of: String,
}

impl DeadLetterRow {
    pub fn into_letter(self, id: DeadLetterId) -> Result<DeadLetter, Refusal> {
        Ok(DeadLetter {
            id,
            job_type: JobType::parse(&self.job_type).map_err(|_| damaged("dead letter's job type"))?,
            tenant: Tenant::parse(&self.tenant).map_err(|_| damaged("dead letter's tenant"))?,
            spec: self.spec.ok_or_else(|| damaged("dead letter without task"))?.into_spec()?,
            failure: self.failure.ok_or_else(|| damaged("dead letter without failure"))?.into_failure()?,
            attempts: self.attempts,
            replay_of: self.replay_of,
        })
    }
}

/// A failed attempt in the index of recent failures.
#[derive(Clone, PartialEq, Message)]
pub struct FailedRow {
    #[prost(string, tag = "1")]
    pub job_type: String,
    #[prost(string, tag = "2")]
    pub tenant: String,
    #[prost(message, optional, tag = "3")]
    pub failure: Option<FailureRow>,
}

impl FailedRow {
    pub fn into_parts(self) -> Result<(JobType, Tenant, Failure), Refusal> {
        Ok((
            JobType::parse(&self.job_type).map_err(|_| damaged("failure's job type"))?,
            Tenant::parse(&self.tenant).map_err(|_| damaged("failure's tenant"))?,
            self.failure.ok_or_else(|| damaged("failure row without failure"))?.into_failure()?,
        ))
    }
}
