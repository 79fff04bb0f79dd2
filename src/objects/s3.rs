//! Objects in S3 and whatever speaks its protocol, by way of `object_store`.
//!
//! Owns: one client for each bucket, single requests. Must not know: files.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base16ct::{lower, mixed};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::multipart::MultipartStore as _;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientOptions, GetOptions, ObjectStore as _, ObjectStoreExt as _, PutOptions,
    PutPayload, RetryConfig,
};

use super::gather::Buffers;
use super::s3_error::{classify, is_unknown_upload};
use super::secrets::Credentials;
use super::{Error, ErrorKind, Head, Label, Options, Place};

/// User metadata: the object's SHA-256 in hexadecimal.
pub(super) const SHA256: &str = "sha256";
/// User metadata: which try wrote the object.
pub(super) const ATTEMPT: &str = "fetchbox-attempt";

#[derive(Clone)]
pub(super) struct S3(Arc<Shared>);

struct Shared {
    options: Arc<Options>,
    credentials: Option<Credentials>,
    /// One for each bucket used so far; the allowed ones bound it.
    clients: Mutex<HashMap<String, Arc<AmazonS3>>>,
    /// Of one part each.
    buffers: Buffers,
}

/// An object as a HEAD shows it.
pub(super) struct Seen {
    pub(super) head: Head,
    pub(super) attempt: Option<String>,
    pub(super) content_type: String,
}

impl S3 {
    pub(super) fn new(options: Arc<Options>) -> Result<Self, Error> {
        super::install_tls_provider();
        let unread = |faults: Vec<String>| Error::new(ErrorKind::Denied, faults.join("; "));
        let credentials = Credentials::read(&options).map_err(unread)?;
        let buffers = Buffers::of(options.multipart_bytes);
        let s3 = Self(Arc::new(Shared { options, credentials, clients: Mutex::default(), buffers }));
        // Built now, so that settings no client can be made of are found at the start.
        s3.client(&s3.0.options.bucket)?;
        Ok(s3)
    }

    pub(super) fn buffers(&self) -> &Buffers {
        &self.0.buffers
    }

    /// Equal parts of at least this many bytes.
    pub(super) fn part_bytes_min(&self) -> u64 {
        self.0.options.multipart_bytes
    }

    pub(super) async fn head(&self, place: &Place) -> Result<Option<Seen>, Error> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        let found = match self.client(&place.bucket)?.get_opts(&path(place)?, options).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(classify(&error)),
        };
        let metadata = |name: &'static str| {
            let value = found.attributes.get(&Attribute::Metadata(Cow::Borrowed(name)));
            value.map(|value| value.as_ref().to_owned())
        };
        let head = Head {
            size_bytes: found.meta.size,
            etag: unquoted(found.meta.e_tag.as_deref()),
            sha256: metadata(SHA256).and_then(|text| digest_of(&text)),
        };
        let content_type = found.attributes.get(&Attribute::ContentType);
        let content_type = content_type.map_or_else(String::new, |value| value.as_ref().to_owned());
        Ok(Some(Seen { head, attempt: metadata(ATTEMPT), content_type }))
    }

    /// What stands at `place` if this try wrote it.
    pub(super) async fn written(&self, place: &Place, stage: &str, bytes: u64) -> Result<Option<Head>, Error> {
        let seen = self.head(place).await?;
        let ours = |seen: &Seen| seen.head.size_bytes == bytes && seen.attempt.as_deref() == Some(stage);
        Ok(seen.filter(ours).map(|seen| seen.head))
    }

    /// The store copies by itself; what stood at `to` is replaced. Both in one bucket.
    pub(super) async fn copy(&self, from: &Place, to: &Place) -> Result<(), Error> {
        let client = self.client(&from.bucket)?;
        client.copy(&path(from)?, &path(to)?).await.map_err(|error| classify(&error))
    }

    pub(super) async fn delete(&self, place: &Place) -> Result<(), Error> {
        match self.client(&place.bucket)?.delete(&path(place)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(classify(&error)),
        }
    }

    pub(super) async fn abort(&self, place: &Place, upload_id: &str) -> Result<(), Error> {
        match self.client(&place.bucket)?.abort_multipart(&path(place)?, &upload_id.to_owned()).await {
            Ok(()) => Ok(()),
            Err(error) if is_unknown_upload(&error) => Ok(()),
            Err(error) => Err(classify(&error)),
        }
    }

    pub(super) fn client(&self, bucket: &str) -> Result<Arc<AmazonS3>, Error> {
        let mut clients = self.0.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(bucket) {
            return Ok(client.clone());
        }
        let client = Arc::new(self.build(bucket)?);
        clients.insert(bucket.to_owned(), client.clone());
        Ok(client)
    }

    pub(super) fn options(&self) -> &Options {
        &self.0.options
    }

    pub(super) fn client_options(&self) -> ClientOptions {
        let options = &self.0.options;
        let plain = options.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        ClientOptions::new()
            .with_allow_http(plain)
            // Without TLS there is nothing to verify, and the machine may have no certificates at all.
            .with_no_system_certificates(plain)
            .with_connect_timeout(Duration::from_millis(options.connect_timeout_ms))
            .with_timeout(Duration::from_millis(options.request_timeout_ms))
    }

    fn build(&self, bucket: &str) -> Result<AmazonS3, Error> {
        let options = &self.0.options;
        // Modest: an attempt that fails is tried again by the queue, which remembers it over restarts.
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(2),
                base: 2.0,
            },
            max_retries: options.retries_max as usize,
            retry_timeout: Duration::from_secs(60),
        };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(&options.region)
            .with_client_options(self.client_options())
            .with_retry(retry)
            .with_unsigned_payload(!options.sign_payload)
            // One DELETE an object is what every compatible store knows.
            .with_disable_bulk_delete(true);
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
        }
        if let Some(credentials) = &self.0.credentials {
            builder = builder.with_access_key_id(&credentials.id).with_secret_access_key(&credentials.secret);
        }
        builder.build().map_err(|error| Error::new(ErrorKind::Denied, format!("no S3 client can be made: {error}")))
    }
}

/// One PUT.
pub(super) async fn put(
    client: &AmazonS3,
    path: &Path,
    body: PutPayload,
    attributes: Attributes,
) -> Result<Head, Error> {
    let size_bytes = body.content_length() as u64;
    let options = PutOptions { attributes, ..PutOptions::default() };
    let put = client.put_opts(path, body, options).await.map_err(|error| classify(&error))?;
    Ok(Head { size_bytes, etag: unquoted(put.e_tag.as_deref()), sha256: None })
}

/// Headers must not be able to make a request invalid: the client below us would panic on one.
pub(super) fn attributes(label: &Label) -> Result<Attributes, Error> {
    let mut attributes = Attributes::new();
    for (name, value) in &label.metadata {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(Error::new(ErrorKind::Rejected, format!("{name:?} cannot be the name of object metadata")));
        }
        insert(&mut attributes, &name.to_ascii_lowercase(), header_safe(value));
    }
    if !label.content_type.is_empty() {
        attributes.insert(Attribute::ContentType, header_safe(&label.content_type).into());
    }
    if label.sha256 != [0; 32] {
        insert(&mut attributes, SHA256, lower::encode_string(&label.sha256));
    }
    Ok(attributes)
}

pub(super) fn insert(attributes: &mut Attributes, name: &str, value: String) {
    attributes.insert(Attribute::Metadata(Cow::Owned(name.to_owned())), value.into());
}

fn header_safe(value: &str) -> String {
    value.trim().bytes().fold(String::with_capacity(value.len()), |mut safe, byte| {
        match byte {
            b' '..=b'~' => safe.push(char::from(byte)),
            byte => safe.push_str(&format!("%{byte:02X}")),
        }
        safe
    })
}

pub(super) fn path(place: &Place) -> Result<Path, Error> {
    Path::parse(&place.key).map_err(|error| Error::new(ErrorKind::Rejected, error.to_string()))
}

pub(super) fn unquoted(etag: Option<&str>) -> String {
    etag.unwrap_or_default().trim_matches('"').to_owned()
}

fn digest_of(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    // Of another length it is not one either.
    (mixed::decode(text, &mut digest).ok()?.len() == digest.len()).then_some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_cannot_break_a_request() {
        let metadata = [("Source".to_owned(), "a\r\nx: y é".to_owned())].into();
        let label = Label { content_type: "text/plain\n".into(), metadata, sha256: [0xab; 32] };
        let attributes = attributes(&label).unwrap();
        let value = |name: &'static str| attributes.get(&Attribute::Metadata(name.into())).unwrap().as_ref().to_owned();
        assert_eq!(value("source"), "a%0D%0Ax: y %C3%A9");
        assert_eq!(digest_of(&value(SHA256)), Some([0xab; 32]));
        assert_eq!(attributes.get(&Attribute::ContentType).unwrap().as_ref(), "text/plain");
        let bad = Label { metadata: [("a b".to_owned(), String::new())].into(), ..Label::default() };
        assert_eq!(super::attributes(&bad).unwrap_err().kind, ErrorKind::Rejected);
    }
}
