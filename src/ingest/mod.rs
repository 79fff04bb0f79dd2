//! The in-door: everything that changes the ledger from outside comes through here.
//!
//! Owns: validation with every violation at once, canonical form and idempotency, expansion by handler, intake limits.
//! Must not know: wire formats of the API, gRPC, sockets, the dispatcher.

use crate::model::{Failure, Job, JobId, JobState, Manifest, NewLog, Refusal, Violation};
use crate::store::Admitted;

#[derive(Debug, Clone)]
pub struct Options {}

/// A manifest as it came.
#[derive(Debug, Clone)]
pub enum Source {
    Json(Vec<u8>),
    JsonGzip(Vec<u8>),
    /// Already decoded from protobuf, not yet validated.
    Fields(Box<RawManifest>),
}

/// The fields of a manifest before validation, whatever encoding they came in.
#[derive(Debug, Clone, Default)]
pub struct RawManifest {
    pub manifest_version: String,
    pub metadata_json: String,
    pub attributes_json: String,
    pub resources: Vec<RawResource>,
    pub manifest_file: String,
    pub resource_key_prefix: String,
}

#[derive(Debug, Clone, Default)]
pub struct RawResource {
    pub id: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub tags: Vec<(String, String)>,
    pub checksum: String,
    pub mime_hint: String,
    pub max_bytes: u64,
    pub storage_hint: Option<RawStorageHint>,
    pub proxy_hint: Option<(String, Vec<String>)>,
}

#[derive(Debug, Clone, Default)]
pub struct RawStorageHint {
    pub bucket: String,
    pub key_prefix: String,
    pub metadata: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
pub struct Submission {
    pub job_type: String,
    pub tenant: String,
    pub idempotency_key: String,
    pub trace_parent: String,
    pub priority: crate::model::Priority,
    pub source: Source,
}

/// A dry run's answer.
#[derive(Debug, Clone, Default)]
pub struct Validation {
    pub violations: Vec<Violation>,
    pub tasks: Vec<PlannedTask>,
}

#[derive(Debug, Clone)]
pub struct PlannedTask {
    pub resource_id: String,
    pub url: String,
    pub bucket: String,
    pub key: String,
}

/// A client's status update, checked but not applied.
#[derive(Debug, Clone)]
pub struct StatusUpdate {
    pub job: JobId,
    pub state: Option<JobState>,
    pub phase: Option<String>,
    pub failure: Option<Failure>,
    pub expected_revision: Option<u64>,
}

/// Clonable handle.
#[derive(Clone)]
pub struct Ingest {}

impl Ingest {
    /// Validates, expands, admits. `done` is called once, maybe on the committer's thread, and must not block.
    pub async fn submit(
        &self,
        _submission: Submission,
        _done: impl FnOnce(Result<Admitted, Refusal>) + Send + 'static,
    ) {
        todo!()
    }
    /// The same for callers that wait.
    pub async fn submit_and_wait(&self, _submission: Submission) -> Result<Admitted, Refusal> {
        todo!()
    }
    pub async fn validate(&self, _submission: Submission) -> Result<Validation, Refusal> {
        todo!()
    }
    /// 1 to 1000 records, each at most 64 KiB. Returns the first offset.
    pub async fn append_logs(&self, _job: JobId, _records: Vec<NewLog>) -> Result<u64, Refusal> {
        todo!()
    }
    pub async fn update_status(&self, _update: StatusUpdate) -> Result<Job, Refusal> {
        todo!()
    }
    /// Shutdown: from now on everything is refused with DRAINING.
    pub fn close(&self) {
        todo!()
    }
    pub fn is_open(&self) -> bool {
        todo!()
    }
}

/// The JSON under which a job's manifest is stored: product shape, metadata verbatim.
pub fn manifest_json(_manifest: &Manifest) -> Vec<u8> {
    todo!()
}
