//! What doors hand over: a manifest or an append as it came, before anything of it is believed.
//!
//! Owns: the shapes. Must not know: which encoding a client used beyond naming it. `Debug` of a manifest shows sizes, never
//! contents: header values and bodies may hold credentials.

use std::fmt;

use crate::model::{LogStream, NewLog, Priority};

/// A manifest as it came.
#[derive(Clone)]
pub enum Source {
    /// At most 5,000,000 bytes.
    Json(Vec<u8>),
    /// At most 5,000,000 bytes once inflated.
    JsonGzip(Vec<u8>),
    /// Already decoded from protobuf, not yet validated.
    Fields(Box<RawManifest>),
}

impl Source {
    /// Bytes as submitted; of decoded fields their texts.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Source::Json(bytes) | Source::JsonGzip(bytes) => bytes.len(),
            Source::Fields(raw) => raw.text_bytes(),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Json(bytes) => write!(f, "Json({} bytes)", bytes.len()),
            Source::JsonGzip(bytes) => write!(f, "JsonGzip({} bytes)", bytes.len()),
            Source::Fields(raw) => write!(f, "Fields({raw:?})"),
        }
    }
}

/// The fields of a manifest before validation, whatever encoding they came in. Empty texts mean absent.
#[derive(Clone, Default, PartialEq)]
pub struct RawManifest {
    pub manifest_version: String,
    /// Empty means `{}`.
    pub metadata_json: String,
    /// Empty means `{}`.
    pub attributes_json: String,
    pub resources: Vec<RawResource>,
    pub manifest_file: String,
    pub resource_key_prefix: String,
}

#[derive(Clone, Default, PartialEq)]
pub struct RawResource {
    pub id: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub tags: Vec<(String, String)>,
    pub checksum: String,
    pub mime_hint: String,
    /// 0: the worker's own limit.
    pub max_bytes: u64,
    pub storage_hint: Option<RawStorageHint>,
    /// Primary pool and fallbacks.
    pub proxy_hint: Option<(String, Vec<String>)>,
    pub revalidate: bool,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct RawStorageHint {
    pub bucket: String,
    pub key_prefix: String,
    pub metadata: Vec<(String, String)>,
    pub content_addressed: bool,
}

impl RawManifest {
    /// About what the manifest would be as JSON without its punctuation.
    pub(super) fn text_bytes(&self) -> usize {
        let own = [&self.manifest_version, &self.metadata_json, &self.attributes_json, &self.manifest_file];
        own.iter().map(|text| text.len()).sum::<usize>()
            + self.resource_key_prefix.len()
            + self.resources.iter().map(RawResource::text_bytes).sum::<usize>()
    }
}

impl RawResource {
    fn text_bytes(&self) -> usize {
        let pairs = |pairs: &[(String, String)]| pairs.iter().map(|(a, b)| a.len() + b.len()).sum::<usize>();
        let own = [&self.id, &self.url, &self.checksum, &self.mime_hint];
        let storage = self
            .storage_hint
            .as_ref()
            .map_or(0, |hint| hint.bucket.len() + hint.key_prefix.len() + pairs(&hint.metadata));
        let proxy = self
            .proxy_hint
            .as_ref()
            .map_or(0, |(primary, fallbacks)| primary.len() + fallbacks.iter().map(String::len).sum::<usize>());
        own.iter().map(|text| text.len()).sum::<usize>() + pairs(&self.headers) + pairs(&self.tags) + storage + proxy
    }
}

impl fmt::Debug for RawManifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "manifest of {} resources, {} bytes", self.resources.len(), self.text_bytes())
    }
}

impl fmt::Debug for RawResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "resource of {} bytes", self.text_bytes())
    }
}

/// One job to accept.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Empty means `default`.
    pub job_type: String,
    /// Empty means `default`.
    pub tenant: String,
    /// Empty: none. At most 256 bytes.
    pub idempotency_key: String,
    /// W3C traceparent; empty: none.
    pub trace_parent: String,
    pub priority: Priority,
    pub source: Source,
}

/// One record of an append, as a client sent it.
#[derive(Debug, Clone, PartialEq)]
pub enum NewRecord {
    /// A line about the job.
    Line(NewLog),
    /// A piece of what it wrote. Of `label` the message is not used.
    Chunk { stream: LogStream, label: NewLog, chunk: bytes::Bytes },
}
