//! The object store behind one type: S3 and a local directory.
//!
//! Owns: how bytes become an object, and what an object store's errors mean. Must not know: jobs' state, the database, origins.
//!
//! An object is either whole and durable at its key or not there at all: local files are staged, synced and renamed; S3 objects
//! appear with one PUT or with the completion of a multipart upload.

mod folders;
mod gather;
mod key;
mod local;
mod local_upload;
mod options;
mod part;
mod s3;
mod s3_error;
mod s3_list;
mod s3_upload;
mod secrets;
#[cfg(test)]
mod tests;
mod upload;
mod verdict;

pub use options::{Kind, Options};
pub use part::{Part, Unfinished};
pub use s3_list::Listed;
pub use upload::Upload;

use std::collections::BTreeMap;
use std::sync::{Arc, Once};
use std::time::Duration;

use bytes::Bytes;

use crate::clock;

use local::Stands;
use local_upload::LocalUpload;
use s3_upload::S3Upload;

/// What S3 copies in one request.
const COPY_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;

/// Whether a staged file of this name is somebody's who will come back for it.
pub type KeepStage = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Where an object stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub bucket: String,
    pub key: String,
}

/// What is written beside the bytes. The local directory keeps the bytes only.
#[derive(Debug, Clone, Default)]
pub struct Label {
    pub content_type: String,
    /// Names of `[A-Za-z0-9_.-]`; values outside printable ASCII are stored percent-encoded.
    pub metadata: BTreeMap<String, String>,
    /// All zero while it is not known yet.
    pub sha256: [u8; 32],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub size_bytes: u64,
    /// Without quotes. Local: made of inode, modification time and size.
    pub etag: String,
    /// The digest that stands in the object's user metadata. None for local objects and for multipart uploads whose digest
    /// was not known when they began.
    pub sha256: Option<[u8; 32]>,
}

/// The store, cheap to clone.
#[derive(Clone)]
pub struct Objects {
    backend: Backend,
    options: Arc<Options>,
    probes: Arc<verdict::Probes>,
}

#[derive(Clone)]
enum Backend {
    Local(local::Local),
    S3(s3::S3),
}

impl Objects {
    /// Reads credentials and opens (or makes) the local root. Talks to no server.
    pub fn new(options: Options) -> Result<Self, Error> {
        options.check().map_err(|message| Error { kind: ErrorKind::Rejected, message })?;
        let options = Arc::new(options);
        let backend = match options.kind {
            Kind::Local => Backend::Local(local::Local::new(&options.root)?),
            Kind::S3 => Backend::S3(s3::S3::new(options.clone())?),
        };
        Ok(Self { backend, options, probes: Arc::default() })
    }

    /// Every file with a secret that [`Objects::new`] would fail on, as `key: why`. Reads them.
    pub fn secret_faults(options: &Options) -> Vec<String> {
        secrets::faults(options)
    }

    /// The whole object at once. Durable and visible when it returns; never half-visible.
    pub async fn put(&self, place: &Place, bytes: Bytes, label: &Label) -> Result<Head, Error> {
        let mut upload = self.begin(place, label.clone(), &clock::random_token(), bytes.len() as u64)?;
        let stored = async {
            pour(&mut upload, bytes).await?;
            upload.complete(label.sha256).await
        };
        match stored.await {
            Ok(head) => Ok(head),
            Err(error) => {
                // The object's error is what matters; a part left over is swept or expires.
                let _ = upload.abort().await;
                Err(error)
            }
        }
    }

    /// Starts an object that comes in pieces. `stage` is unique to this try and one path segment long: it names the staged
    /// file, and the upload's mark in S3 metadata. `bytes_max` is the most that will be written: it decides the part size.
    pub fn begin(&self, place: &Place, label: Label, stage: &str, bytes_max: u64) -> Result<Upload, Error> {
        self.admit(place)?;
        key::check_segment(stage)?;
        Ok(match &self.backend {
            Backend::Local(local) => {
                let part_bytes = s3_upload::part_bytes(self.options.multipart_bytes, bytes_max);
                Upload::local(LocalUpload::begin(&local.0, place, stage, part_bytes)?)
            }
            Backend::S3(s3) => Upload::s3(S3Upload::begin(s3, place, &label, stage, bytes_max)?),
        })
    }

    /// Goes on behind the last part of an upload begun by an earlier attempt. None: nothing is left of it.
    pub async fn resume(&self, place: &Place, unfinished: &Unfinished) -> Result<Option<Upload>, Error> {
        self.admit(place)?;
        key::check_segment(&unfinished.stage)?;
        Ok(match &self.backend {
            Backend::Local(local) => LocalUpload::resume(&local.0, place, unfinished).await?.map(Upload::local),
            Backend::S3(s3) => Some(Upload::s3(S3Upload::resume(s3, place, unfinished)?)),
        })
    }

    /// What stands at `place`, if it is what the try `stage` was to put there. S3 knows it by its mark and size; a local file is
    /// read.
    pub async fn written(
        &self,
        place: &Place,
        stage: &str,
        sha256: [u8; 32],
        size_bytes: u64,
    ) -> Result<Option<Head>, Error> {
        self.admit(place)?;
        match &self.backend {
            Backend::Local(local) => Ok(match local.compare(place, sha256, Some(size_bytes)).await? {
                Stands::Same(head) => Some(head),
                Stands::Nothing | Stands::Other => None,
            }),
            Backend::S3(s3) => s3.written(place, stage, size_bytes).await,
        }
    }

    /// What stands at `place`, a key made of this digest, with this size if one is given. S3 tells the digest that it was given, or
    /// is believed; a local file tells none, and anybody may have written to it: it is read.
    pub async fn of_digest(
        &self,
        place: &Place,
        sha256: [u8; 32],
        size_bytes: Option<u64>,
    ) -> Result<Option<Head>, Error> {
        self.admit(place)?;
        let local = match &self.backend {
            Backend::Local(local) => local,
            Backend::S3(s3) => {
                let same = |head: &Head| {
                    size_bytes.is_none_or(|bytes| head.size_bytes == bytes)
                        && head.sha256.is_none_or(|found| found == sha256)
                };
                return Ok(s3.head(place).await?.map(|seen| seen.head).filter(same));
            }
        };
        match local.compare(place, sha256, size_bytes).await? {
            Stands::Same(head) => Ok(Some(head)),
            Stands::Nothing => Ok(None),
            Stands::Other => {
                tracing::warn!(bucket = %place.bucket, key = %place.key, "an object is not what its key says; it is replaced");
                Ok(None)
            }
        }
    }

    /// What stands at `place` with its content type, if a try whose stage begins with `mark` wrote it and its digest is known.
    /// A local file cannot say who wrote it: None.
    pub async fn written_by(&self, place: &Place, mark: &str) -> Result<Option<(Head, String)>, Error> {
        self.admit(place)?;
        let Backend::S3(s3) = &self.backend else { return Ok(None) };
        let seen = s3.head(place).await?;
        let ours = |seen: &s3::Seen| {
            seen.head.sha256.is_some() && seen.attempt.as_deref().is_some_and(|stage| stage.starts_with(mark))
        };
        Ok(seen.filter(ours).map(|seen| (seen.head, seen.content_type)))
    }

    /// Moves a whole object within its bucket.
    pub async fn rename(&self, from: &Place, to: &Place, size_bytes: u64) -> Result<Option<Head>, Error> {
        self.admit(from)?;
        self.admit(to)?;
        // A local upload is told its place before it is completed.
        let Backend::S3(s3) = &self.backend else { return Ok(None) };
        Self::check_rename(size_bytes)?;
        s3.copy(from, to).await?;
        // The source is the only copy until the other one is seen whole: some stores answer 200 and have copied nothing.
        let Some(seen) = s3.head(to).await?.filter(|seen| seen.head.size_bytes == size_bytes) else {
            return Err(Error::new(ErrorKind::Unavailable, "an object just copied cannot be seen whole"));
        };
        s3.delete(from).await?;
        Ok(Some(seen.head))
    }

    /// Whether [`Objects::rename`] can move so large an object.
    pub fn check_rename(size_bytes: u64) -> Result<(), Error> {
        if size_bytes <= COPY_BYTES_MAX {
            return Ok(());
        }
        let message = format!(
            "{size_bytes} bytes are more than the 5 GiB that S3 copies in one request, which a key made of the digest needs; \
             give the resource a checksum, so that its key is known from the start, or let it have a plain key"
        );
        Err(Error::new(ErrorKind::Rejected, message))
    }

    /// Whether an object is moved by copying, after it was completed.
    pub fn copies(&self) -> bool {
        matches!(self.backend, Backend::S3(_))
    }

    /// None: nothing stands there.
    pub async fn head(&self, place: &Place) -> Result<Option<Head>, Error> {
        self.admit(place)?;
        match &self.backend {
            Backend::Local(local) => local.head(place).await,
            Backend::S3(s3) => Ok(s3.head(place).await?.map(|seen| seen.head)),
        }
    }

    /// Deleting what is not there is fine.
    pub async fn delete(&self, place: &Place) -> Result<(), Error> {
        self.admit(place)?;
        match &self.backend {
            Backend::Local(local) => local.delete(place).await,
            Backend::S3(s3) => s3.delete(place).await,
        }
    }

    /// Aborts an upload nobody will finish, by the id it was recorded with. Unknown uploads are fine.
    pub async fn abort(&self, place: &Place, upload_id: &str) -> Result<(), Error> {
        self.admit(place)?;
        match &self.backend {
            Backend::Local(local) => {
                key::check_segment(upload_id)?;
                local.abort(upload_id).await
            }
            Backend::S3(s3) => s3.abort(place, upload_id).await,
        }
    }

    /// Put, head and delete of a small object in the default bucket, within `probe_timeout_ms`.
    pub async fn probe(&self) -> Result<(), Error> {
        self.probe_of(&self.options.bucket).await
    }

    async fn probe_of(&self, bucket: &str) -> Result<(), Error> {
        let limit = Duration::from_millis(self.options.probe_timeout_ms);
        tokio::time::timeout(limit, self.probe_unbounded(bucket)).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unavailable, format!("no answer to a probe within {} ms", limit.as_millis())))
        })
    }

    async fn probe_unbounded(&self, bucket: &str) -> Result<(), Error> {
        let token = clock::random_token();
        // Under the prefix, because that may be all our credentials allow.
        let key = match self.options.prefix.trim_matches('/') {
            "" => format!(".fetchbox-probe/{token}"),
            prefix => format!("{prefix}/.fetchbox-probe/{token}"),
        };
        let place = Place { bucket: bucket.to_owned(), key };
        let label = Label { content_type: "text/plain".into(), ..Label::default() };
        self.put(&place, Bytes::from(token), &label).await?;
        let seen = self.head(&place).await;
        self.delete(&place).await?;
        match seen? {
            Some(_) => Ok(()),
            None => Err(Error::new(ErrorKind::Unavailable, "an object just written cannot be seen")),
        }
    }

    /// Staged files last written before `before_ms` (Unix ms) that neither this process writes nor `keep` names: how many, how
    /// many bytes. Deletes unless `dry_run`. S3 has none.
    pub async fn sweep_staging(&self, before_ms: i64, dry_run: bool, keep: KeepStage) -> Result<(u64, u64), Error> {
        match &self.backend {
            Backend::Local(local) => local.sweep(before_ms, dry_run, keep).await,
            Backend::S3(_) => Ok((0, 0)),
        }
    }

    /// Multipart uploads under way below our prefix, in every bucket that says so of those we may write to, the first ten thousand
    /// of each. None: no bucket does (or the store has no such thing).
    pub async fn list_uploads(&self) -> Result<Option<Vec<Listed>>, Error> {
        let Backend::S3(s3) = &self.backend else { return Ok(None) };
        let mut all: Option<Vec<Listed>> = None;
        for bucket in std::iter::once(&self.options.bucket).chain(&self.options.allowed_buckets) {
            // One bucket that is gone, or may not be listed, says nothing about the others.
            if let Some(listed) = s3_list::uploads(s3, bucket).await? {
                all.get_or_insert_default().extend(listed);
            }
        }
        Ok(all)
    }

    /// The rest of a key below our prefix. None: it does not stand there.
    pub fn below_prefix<'a>(&self, key: &'a str) -> Option<&'a str> {
        match self.options.prefix.trim_matches('/') {
            "" => Some(key),
            prefix => key.strip_prefix(prefix)?.strip_prefix('/'),
        }
    }

    fn admit(&self, place: &Place) -> Result<(), Error> {
        key::check(place)?;
        if place.bucket == self.options.bucket || self.options.allowed_buckets.contains(&place.bucket) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Rejected, format!("bucket {} is not in storage.allowed_buckets", place.bucket)))
    }
}

/// Feeds a whole body to an upload, in parts where it needs them.
async fn pour(upload: &mut Upload, mut bytes: Bytes) -> Result<(), Error> {
    while !bytes.is_empty() {
        if upload.room() == 0 {
            if upload.upload_id().is_none() {
                upload.begin_parts().await?;
            }
            upload.store_part().await?;
        }
        let fits = usize::try_from(upload.room()).unwrap_or(usize::MAX).min(bytes.len());
        upload.write(bytes.split_to(fits)).await?;
    }
    Ok(())
}

/// Makes ring the TLS provider of this process. Every client of ours needs it before it is built; asking twice is free.
pub fn install_tls_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that somebody installed one before us, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: ErrorKind,
    pub message: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
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
