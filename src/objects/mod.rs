//! The object store behind one type: S3 and a local directory.
//!
//! Owns: how bytes become an object, and what an object store's errors mean. Must not know: jobs' state, the database, origins.

use bytes::Bytes;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
pub struct Options {}

/// Where an object stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub bucket: String,
    pub key: String,
}

/// What is written beside the bytes.
#[derive(Debug, Clone, Default)]
pub struct Label {
    pub content_type: String,
    pub metadata: BTreeMap<String, String>,
    pub sha256: [u8; 32],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub size_bytes: u64,
    pub etag: String,
    /// The digest we wrote as user metadata (S3) or know otherwise.
    pub sha256: Option<[u8; 32]>,
}

#[derive(Clone)]
pub struct Objects {}

impl Objects {
    /// The whole object at once. Durable and visible when it returns; never half-visible.
    pub async fn put(&self, _place: &Place, _bytes: Bytes, _label: &Label) -> Result<Head, Error> {
        todo!()
    }
    pub async fn head(&self, _place: &Place) -> Result<Option<Head>, Error> {
        todo!()
    }
    pub async fn delete(&self, _place: &Place) -> Result<(), Error> {
        todo!()
    }
    /// Aborts a multipart upload nobody will finish. Unknown uploads are fine.
    pub async fn abort(&self, _place: &Place, _upload_id: &str) -> Result<(), Error> {
        todo!()
    }
    /// Put, head and delete of a small object.
    pub async fn probe(&self) -> Result<(), Error> {
        todo!()
    }
    /// Staged files older than `older_than_ms` that no process continues (local only): how many, how many bytes. Deletes unless `dry_run`.
    pub async fn sweep_staging(&self, _before_ms: i64, _dry_run: bool) -> Result<(u64, u64), Error> {
        todo!()
    }
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: ErrorKind,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Cannot be reached, answers 5xx, times out.
    Unavailable,
    /// Credentials refused, bucket gone.
    Denied,
    /// No room.
    Full,
    /// This object is refused.
    Rejected,
    /// May pass: one request failed.
    Failed,
}
