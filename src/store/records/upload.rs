//! Uploads on their way, their parts, and the objects whose version is known.

use prost::Message;

use super::super::verbs::{Source, UploadPart, UploadRecord};
use super::task::ObjectRow;
use super::{Pairs, damaged, digest};
use crate::model::{Refusal, TaskRef};

#[derive(Clone, PartialEq, Message)]
pub struct UploadRow {
    #[prost(string, tag = "1")]
    pub bucket: String,
    #[prost(string, tag = "2")]
    pub key: String,
    #[prost(string, tag = "3")]
    pub upload_id: String,
    #[prost(int64, tag = "4")]
    pub begun_at_ms: i64,
    #[prost(string, tag = "5")]
    pub stage: String,
    #[prost(uint64, tag = "6")]
    pub part_bytes: u64,
    #[prost(string, tag = "7")]
    pub etag: String,
    #[prost(string, tag = "8")]
    pub last_modified: String,
    #[prost(uint64, optional, tag = "9")]
    pub total_bytes: Option<u64>,
    #[prost(string, tag = "10")]
    pub content_type: String,
    #[prost(btree_map = "string, string", tag = "11")]
    pub metadata: Pairs,
    /// Of the whole body, from the moment its completion is asked for; empty before.
    #[prost(bytes = "vec", tag = "12")]
    pub sha256: Vec<u8>,
    #[prost(uint64, tag = "13")]
    pub size_bytes: u64,
    /// SHA-256 of the URL that the redirects ended at; None in rows of versions that did not look.
    #[prost(bytes = "vec", optional, tag = "14")]
    pub landed: Option<Vec<u8>>,
}

impl UploadRow {
    pub fn new(upload: &UploadRecord) -> Self {
        Self {
            bucket: upload.bucket.clone(),
            key: upload.key.clone(),
            upload_id: upload.upload_id.clone(),
            begun_at_ms: upload.begun_at_ms,
            stage: upload.stage.clone(),
            part_bytes: upload.part_bytes,
            etag: upload.etag.clone(),
            last_modified: upload.last_modified.clone(),
            total_bytes: upload.total_bytes,
            content_type: upload.content_type.clone(),
            metadata: upload.metadata.clone(),
            sha256: upload.completing.map_or_else(Vec::new, |(sha256, _)| sha256.to_vec()),
            size_bytes: upload.completing.map_or(0, |(_, size_bytes)| size_bytes),
            landed: upload.landed.map(|landed| landed.to_vec()),
        }
    }

    pub fn into_record(self, task: TaskRef, epoch: u64) -> Result<UploadRecord, Refusal> {
        let sha256 = (!self.sha256.is_empty()).then(|| digest("upload", &self.sha256)).transpose()?;
        Ok(UploadRecord {
            task,
            epoch,
            completing: sha256.map(|sha256| (sha256, self.size_bytes)),
            bucket: self.bucket,
            key: self.key,
            upload_id: self.upload_id,
            begun_at_ms: self.begun_at_ms,
            stage: self.stage,
            part_bytes: self.part_bytes,
            etag: self.etag,
            last_modified: self.last_modified,
            landed: self.landed.map(|landed| digest("upload", &landed)).transpose()?,
            total_bytes: self.total_bytes,
            content_type: self.content_type,
            metadata: self.metadata,
        })
    }
}

/// About 200 bytes, however many parts there are.
#[derive(Clone, PartialEq, Message)]
pub struct PartRow {
    #[prost(string, tag = "1")]
    pub part_id: String,
    #[prost(uint64, tag = "2")]
    pub end_bytes: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub digest_state: Vec<u8>,
}

impl PartRow {
    pub fn new(part: UploadPart) -> Self {
        Self { part_id: part.part_id, end_bytes: part.end_bytes, digest_state: part.digest_state }
    }

    pub fn into_part(self, index: u32) -> UploadPart {
        UploadPart { index, part_id: self.part_id, end_bytes: self.end_bytes, digest_state: self.digest_state }
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct SourceRow {
    #[prost(message, optional, tag = "1")]
    pub object: Option<ObjectRow>,
    #[prost(string, tag = "2")]
    pub etag: String,
    #[prost(string, tag = "3")]
    pub last_modified: String,
    /// When it was last seen to be true.
    #[prost(int64, tag = "4")]
    pub at_ms: i64,
}

impl SourceRow {
    pub fn new(source: Source) -> Self {
        Self {
            object: Some(ObjectRow::from_object(source.object)),
            etag: source.etag,
            last_modified: source.last_modified,
            at_ms: source.at_ms,
        }
    }

    pub fn into_source(self) -> Result<Source, Refusal> {
        Ok(Source {
            object: self.object.ok_or_else(|| damaged("source without object"))?.into_object()?,
            etag: self.etag,
            last_modified: self.last_modified,
            at_ms: self.at_ms,
        })
    }
}
