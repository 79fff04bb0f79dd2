//! What operators set about storage (config `storage:`), and what cannot be true of it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::key;

const MIB: u64 = 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A directory on this machine.
    #[default]
    Local,
    S3,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    pub kind: Kind,
    /// Where everything goes that names no bucket of its own.
    pub bucket: String,
    /// Stands before every key, without slashes at its ends; may be empty.
    pub prefix: String,
    /// `http://` or `https://` address of an S3-compatible store; none: Amazon's own. Buckets are addressed as paths.
    pub endpoint: Option<String>,
    pub region: String,
    /// Files holding the two halves of the credentials. None: the machine's own role.
    pub access_key_id_file: Option<PathBuf>,
    pub secret_access_key_file: Option<PathBuf>,
    /// Buckets besides `bucket` that a manifest or a job type may name.
    pub allowed_buckets: Vec<String>,
    /// The local store's folder, set by whoever composes the daemon: `{data_dir}/objects`.
    #[serde(skip)]
    pub root: PathBuf,
    /// S3: bodies larger than this go up in parts of this size. It is also what one upload keeps in memory.
    pub multipart_bytes: u64,
    /// S3: whether each request carries a digest of its body for the store to verify. It costs a second pass over all bytes;
    /// without it TLS is what protects them on their way.
    pub sign_payload: bool,
    pub connect_timeout_ms: u64,
    /// S3: for one request, a whole part included.
    pub request_timeout_ms: u64,
    /// S3: how often one request is sent again before the attempt fails.
    pub retries_max: u32,
    /// For the put, head and delete of a readiness check together.
    pub probe_timeout_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kind: Kind::Local,
            bucket: "fetchbox".into(),
            prefix: String::new(),
            endpoint: None,
            region: "us-east-1".into(),
            access_key_id_file: None,
            secret_access_key_file: None,
            allowed_buckets: Vec::new(),
            root: PathBuf::from("objects"),
            multipart_bytes: 8 * MIB,
            sign_payload: false,
            connect_timeout_ms: 5_000,
            request_timeout_ms: 300_000,
            retries_max: 3,
            probe_timeout_ms: 5_000,
        }
    }
}

impl Options {
    /// The first thing wrong, as `key: why`.
    pub fn check(&self) -> Result<(), String> {
        self.faults().into_iter().next().map_or(Ok(()), Err)
    }

    /// Everything wrong, each as `key: why`.
    pub fn faults(&self) -> Vec<String> {
        let mut found = Vec::new();
        let buckets = std::iter::once(("bucket", &self.bucket))
            .chain(self.allowed_buckets.iter().map(|bucket| ("allowed_buckets", bucket)));
        for (key, bucket) in buckets {
            found.extend(key::check_bucket(bucket).err().map(|error| format!("storage.{key}: {error}")));
        }
        if !self.prefix.is_empty() {
            found.extend(key::check_key(&self.prefix).err().map(|error| format!("storage.prefix: {error}")));
        }
        // S3 takes no smaller parts (but the last) and no larger ones.
        if !(5 * MIB..=5 * 1024 * MIB).contains(&self.multipart_bytes) {
            found.push("storage.multipart_bytes: must be between 5 MiB and 5 GiB".into());
        }
        for (name, value) in [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("request_timeout_ms", self.request_timeout_ms),
            ("probe_timeout_ms", self.probe_timeout_ms),
        ] {
            if value == 0 {
                found.push(format!("storage.{name}: must be greater than 0"));
            }
        }
        found.extend(self.endpoint.as_deref().and_then(endpoint_fault).map(|why| format!("storage.endpoint: {why}")));
        match (&self.access_key_id_file, &self.secret_access_key_file) {
            (Some(_), Some(_)) | (None, None) => {}
            (Some(_), None) => found.push("storage.secret_access_key_file: missing beside access_key_id_file".into()),
            (None, Some(_)) => found.push("storage.access_key_id_file: missing beside secret_access_key_file".into()),
        }
        found
    }
}

fn endpoint_fault(endpoint: &str) -> Option<String> {
    let parsed = match url::Url::parse(endpoint) {
        Ok(parsed) => parsed,
        Err(error) => return Some(error.to_string()),
    };
    if !matches!(parsed.scheme(), "http" | "https") || parsed.host().is_none() {
        return Some("must be an http or https URL".to_owned());
    }
    let has_user = !parsed.username().is_empty() || parsed.password().is_some();
    has_user.then(|| "credentials belong in the two files, not in the URL".to_owned())
}
