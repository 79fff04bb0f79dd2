//! One object on its way into the store, whichever store that is.

use bytes::Bytes;

use super::local::LocalUpload;
use super::s3_upload::S3Upload;
use super::{Error, Head};

/// Bytes go in by `write`; the object appears with `complete` and not before. Dropped without either, a local upload removes its
/// staged file and an S3 upload leaves its parts to whoever remembers its id.
pub struct Upload(Inner);

enum Inner {
    Local(LocalUpload),
    S3(Box<S3Upload>),
}

impl Upload {
    pub(super) fn local(upload: LocalUpload) -> Self {
        Self(Inner::Local(upload))
    }

    pub(super) fn s3(upload: S3Upload) -> Self {
        Self(Inner::S3(Box::new(upload)))
    }

    /// Takes the next bytes; keeps at most one part of them in memory. `Some(id)`: a multipart upload was begun just now and
    /// nothing has been sent to it; the caller makes the id durable before it writes on.
    pub async fn write(&mut self, bytes: Bytes) -> Result<Option<String>, Error> {
        match &mut self.0 {
            Inner::Local(upload) => upload.write(bytes).await.map(|()| None),
            Inner::S3(upload) => upload.write(bytes).await,
        }
    }

    /// The multipart upload's id, while there is one that is neither completed nor aborted.
    pub fn upload_id(&self) -> Option<&str> {
        match &self.0 {
            Inner::Local(_) => None,
            Inner::S3(upload) => upload.upload_id(),
        }
    }

    /// Makes the object durable and visible. When it fails, the object may be there all the same only if the store could not
    /// be asked any more; `abort` is then still the right thing to do.
    pub async fn complete(&mut self, sha256: [u8; 32]) -> Result<Head, Error> {
        match &mut self.0 {
            Inner::Local(upload) => upload.complete().await,
            Inner::S3(upload) => upload.complete(sha256).await,
        }
    }

    /// Removes what was written so far. After a success of `complete` it does nothing.
    pub async fn abort(&mut self) -> Result<(), Error> {
        match &mut self.0 {
            Inner::Local(upload) => upload.abort().await,
            Inner::S3(upload) => upload.abort().await,
        }
    }
}
