//! A manifest that passed every check, and the limits it was checked against.

use std::collections::BTreeMap;

/// Bytes of a manifest after decompression.
pub const MANIFEST_BYTES_MAX: usize = 5_000_000;
pub const RESOURCES_MAX: usize = 1_000;
pub const RESOURCE_ID_BYTES_MAX: usize = 128;
pub const HEADERS_MAX: usize = 10;
/// Bytes of one header's name and value together.
pub const HEADER_BYTES_MAX: usize = 1_024;
/// What common servers and proxies accept in a request line.
pub const URL_BYTES_MAX: usize = 8_192;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifest {
    /// A JSON object, byte for byte as the client sent it.
    pub metadata_json: String,
    /// A JSON object.
    pub attributes_json: String,
    pub resources: Vec<Resource>,
    pub storage: StorageLayout,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resource {
    pub id: String,
    pub url: String,
    pub headers: Vec<Header>,
    pub tags: BTreeMap<String, String>,
    /// SHA-256 the body must have.
    pub checksum: Option<[u8; 32]>,
    pub mime_hint: Option<String>,
    pub max_bytes: Option<u64>,
    pub storage_hint: Option<StorageHint>,
    pub proxy_hint: Option<ProxyHint>,
    /// Downloaded only if it changed since the object at the same place was stored.
    pub revalidate: bool,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    pub name: String,
    pub value: String,
}

impl std::fmt::Debug for Header {
    /// Values may be credentials: they never reach a log by way of `{:?}`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: <{} bytes>", self.name, self.value.len())
    }
}

/// The client's own layout; empty fields mean the default layout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorageLayout {
    pub manifest_file: Option<String>,
    pub resource_key_prefix: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorageHint {
    pub bucket: Option<String>,
    pub key_prefix: Option<String>,
    pub metadata: BTreeMap<String, String>,
    /// The key is made from the body's digest: the same bytes are stored once.
    pub content_addressed: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyHint {
    pub primary_pool: String,
    pub fallbacks: Vec<String>,
}
