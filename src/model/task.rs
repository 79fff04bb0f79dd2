//! A task: one resource's way from ready to its end.
//!
//! `Ready → Leased → Done | RetryWait → … | Dead | Canceled`. Each state carries what is true only in it.

use std::collections::BTreeMap;

use super::{Failure, Header, ProxyHint, TaskRef};

/// What to fetch and where to put it, fixed when the job is accepted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskSpec {
    pub resource_id: String,
    pub url: String,
    pub headers: Vec<Header>,
    pub tags: BTreeMap<String, String>,
    pub checksum: Option<[u8; 32]>,
    pub mime_hint: Option<String>,
    pub max_bytes: Option<u64>,
    pub proxy_hint: Option<ProxyHint>,
    /// None: the configured bucket.
    pub bucket: Option<String>,
    /// Key prefix without a trailing slash; None: `resources/{job_type}/{job_id}`. The key is `{prefix}/{resource_id}`.
    pub key_prefix: Option<String>,
    /// User metadata written with the object.
    pub object_metadata: BTreeMap<String, String>,
    /// The key is `{prefix}/sha256/{two digits}/{sha256}`: the same bytes are stored once.
    pub content_addressed: bool,
    /// Not downloaded again while the origin says that the object at the place is still this version.
    pub revalidate: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum TaskState {
    Ready,
    Leased { until_ms: i64, epoch: u64 },
    RetryWait { not_before_ms: i64 },
    Done { object: StoredObject },
    Dead { failure: Failure },
    Canceled,
}

impl TaskState {
    pub fn is_open(&self) -> bool {
        match self {
            TaskState::Ready | TaskState::Leased { .. } | TaskState::RetryWait { .. } => true,
            TaskState::Done { .. } | TaskState::Dead { .. } | TaskState::Canceled => false,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            TaskState::Ready => "ready",
            TaskState::Leased { .. } => "leased",
            TaskState::RetryWait { .. } => "retry_wait",
            TaskState::Done { .. } => "done",
            TaskState::Dead { .. } => "dead",
            TaskState::Canceled => "canceled",
        }
    }
}

/// By what an origin tells one version of a resource from another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    /// As sent, quotes and `W/` included; empty: none.
    pub etag: String,
    /// As sent; empty: none.
    pub last_modified: String,
}

impl Validators {
    /// The entity tag, if it stands for these very bytes.
    pub fn strong_etag(&self) -> Option<&str> {
        (self.etag.starts_with('"') && self.etag.len() > 2).then_some(self.etag.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredObject {
    pub bucket: String,
    pub key: String,
    pub etag: String,
    pub size_bytes: u64,
    pub sha256: [u8; 32],
    pub content_type: String,
}

/// A task as a reader sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub task: TaskRef,
    pub spec: TaskSpec,
    pub state: TaskState,
    /// Attempts that were started, released ones not counted.
    pub attempts: u32,
    /// Ready or retry-wait after a failure: the latest one.
    pub last_failure: Option<Failure>,
    /// The dead letter this task was replayed from.
    pub replay_of: String,
    pub updated_at_ms: i64,
    /// How the attempt that stored it went, as [`super::Way`] tells it; empty while it is not stored.
    pub done_context: BTreeMap<String, String>,
}

/// One attempt that did not store the resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    pub number: u32,
    pub started_at_ms: i64,
    pub failure: Failure,
    /// When the next one may start; 0: never.
    pub not_before_ms: i64,
}
