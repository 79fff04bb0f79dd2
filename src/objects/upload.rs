//! One object on its way into the store, whichever store that is.

use bytes::Bytes;

use super::local_upload::LocalUpload;
use super::s3_upload::S3Upload;
use super::{Error, Head, Part, Place};

/// Bytes gather until a part is whole. A body that fits one part needs nothing but `write` and `complete`; for a longer one the
/// caller begins parts, makes the id durable, and then stores part after part:
///
/// ```text
/// write… (room is 0 and more comes) → begin_parts → store_part → write… → store_part … → complete
/// ```
/// The object appears with `complete` and not before. Dropped without an end, a local upload removes its staged file and an S3
/// upload leaves its parts to whoever remembers its id.
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

    /// Every part but the last has this many bytes. It is also what an S3 upload keeps in memory.
    pub fn part_bytes(&self) -> u64 {
        match &self.0 {
            Inner::Local(upload) => upload.part_bytes(),
            Inner::S3(upload) => upload.part_bytes(),
        }
    }

    /// Bytes that still fit the part in hand.
    pub fn room(&self) -> u64 {
        match &self.0 {
            Inner::Local(upload) => upload.room(),
            Inner::S3(upload) => upload.room(),
        }
    }

    /// Takes the next bytes, at most `room` of them.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        match &mut self.0 {
            Inner::Local(upload) => upload.write(bytes).await,
            Inner::S3(upload) => {
                upload.gather(bytes);
                Ok(())
            }
        }
    }

    /// What the upload is known by, from `begin_parts` on until it is completed or aborted.
    pub fn upload_id(&self) -> Option<&str> {
        match &self.0 {
            Inner::Local(upload) => upload.upload_id(),
            Inner::S3(upload) => upload.upload_id(),
        }
    }

    /// Begins an upload of parts and returns its id. No part has been stored yet: the caller makes the id durable first.
    pub async fn begin_parts(&mut self) -> Result<String, Error> {
        match &mut self.0 {
            Inner::Local(upload) => upload.begin_parts().await,
            Inner::S3(upload) => upload.begin_parts().await,
        }
    }

    /// Stores what is in hand as the next part. It is durable when this returns.
    pub async fn store_part(&mut self) -> Result<Part, Error> {
        match &mut self.0 {
            Inner::Local(upload) => upload.store_part().await,
            Inner::S3(upload) => upload.store_part().await,
        }
    }

    /// Makes the object appear elsewhere than was said at first. False: too late, the store has been told the place.
    pub fn redirect(&mut self, place: &Place) -> Result<bool, Error> {
        match &mut self.0 {
            Inner::Local(upload) => {
                upload.redirect(place);
                Ok(true)
            }
            Inner::S3(upload) => upload.redirect(place),
        }
    }

    /// Makes the object durable and visible. After an error the object is not there, unless [`Upload::is_doubtful`].
    pub async fn complete(&mut self, sha256: [u8; 32]) -> Result<Head, Error> {
        match &mut self.0 {
            Inner::Local(upload) => upload.complete().await,
            Inner::S3(upload) => upload.complete(sha256).await,
        }
    }

    /// A completion was sent, its answer did not arrive, and the store could not be asked what became of it. Nothing may be
    /// aborted before it has said.
    pub fn is_doubtful(&self) -> bool {
        match &self.0 {
            Inner::Local(_) => false,
            Inner::S3(upload) => upload.is_doubtful(),
        }
    }

    /// A later attempt can go on with the parts stored so far. False once the store has said that it does not know the upload.
    pub fn can_go_on(&self) -> bool {
        match &self.0 {
            Inner::Local(upload) => upload.upload_id().is_some(),
            Inner::S3(upload) => upload.can_go_on(),
        }
    }

    /// Lets go of it and removes nothing: a later attempt goes on with what is stored.
    pub async fn leave(self) {
        match self.0 {
            Inner::Local(upload) => upload.leave().await,
            Inner::S3(_) => {}
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
