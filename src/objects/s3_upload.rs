//! One object on its way into S3: a single PUT while it fits one part, a multipart upload beyond.
//!
//! Owns: equal parts, and finding out what became of a request whose answer did not arrive.
//! Must not know: where the bytes come from, who remembers the parts.

use std::sync::Arc;

use bytes::Bytes;
use object_store::aws::AmazonS3;
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::path::Path;
use object_store::{Attributes, PutMultipartOptions, PutPayload};

use super::gather::Gathered;
use super::s3::{self, S3};
use super::s3_error::{classify, is_of_no_use};
use super::{Error, ErrorKind, Head, Label, Part, Place, Unfinished};

/// S3's own limit.
const PARTS_MAX: u64 = 10_000;
const MIB: u64 = 1024 * 1024;

/// Equal parts large enough that `bytes_max` needs no more than 10,000 of them.
pub(super) fn part_bytes(configured: u64, bytes_max: u64) -> u64 {
    configured.max(bytes_max.div_ceil(PARTS_MAX).div_ceil(MIB) * MIB)
}

pub(super) struct S3Upload {
    s3: S3,
    client: Arc<AmazonS3>,
    place: Place,
    path: Path,
    attributes: Attributes,
    /// Stands in the object's metadata: by it we know our own object again.
    stage: String,
    part_bytes: u64,
    /// At most one part.
    gathered: Gathered,
    sent_bytes: u64,
    upload_id: Option<String>,
    parts: Vec<PartId>,
    /// The store does not know the upload.
    is_gone: bool,
    is_doubtful: bool,
}

impl S3Upload {
    /// `stage` is unique to this try; `bytes_max` decides the part size.
    pub(super) fn begin(s3: &S3, place: &Place, label: &Label, stage: &str, bytes_max: u64) -> Result<Self, Error> {
        let mut attributes = s3::attributes(label)?;
        s3::insert(&mut attributes, s3::ATTEMPT, stage.to_owned());
        let part_bytes = part_bytes(s3.part_bytes_min(), bytes_max);
        Ok(Self {
            client: s3.client(&place.bucket)?,
            path: s3::path(place)?,
            part_bytes,
            gathered: Gathered::new(s3.buffers(), part_bytes.min(bytes_max)),
            s3: s3.clone(),
            place: place.clone(),
            attributes,
            stage: stage.to_owned(),
            sent_bytes: 0,
            upload_id: None,
            parts: Vec::new(),
            is_gone: false,
            is_doubtful: false,
        })
    }

    /// Asks the store nothing: whether it still knows the upload shows with the next part.
    pub(super) fn resume(s3: &S3, place: &Place, unfinished: &Unfinished) -> Result<Self, Error> {
        let begun = Self::begin(s3, place, &Label::default(), &unfinished.stage, 0)?;
        Ok(Self {
            part_bytes: unfinished.part_bytes,
            gathered: Gathered::new(s3.buffers(), unfinished.part_bytes),
            sent_bytes: unfinished.parts.last().map_or(0, |part| part.end_bytes),
            upload_id: Some(unfinished.upload_id.clone()),
            parts: unfinished.parts.iter().map(|part| PartId { content_id: part.id.clone() }).collect(),
            ..begun
        })
    }

    pub(super) fn part_bytes(&self) -> u64 {
        self.part_bytes
    }

    pub(super) fn room(&self) -> u64 {
        self.part_bytes.saturating_sub(self.gathered.bytes())
    }

    pub(super) fn upload_id(&self) -> Option<&str> {
        self.upload_id.as_deref()
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }

    pub(super) fn can_go_on(&self) -> bool {
        self.upload_id.is_some() && !self.is_gone
    }

    pub(super) fn gather(&mut self, bytes: Bytes) {
        self.gathered.push(bytes);
    }

    pub(super) fn redirect(&mut self, place: &Place) -> Result<bool, Error> {
        if self.upload_id.is_some() {
            return Ok(false);
        }
        self.path = s3::path(place)?;
        self.client = self.s3.client(&place.bucket)?;
        self.place = place.clone();
        Ok(true)
    }

    pub(super) async fn begin_parts(&mut self) -> Result<String, Error> {
        let options = PutMultipartOptions { attributes: self.attributes.clone(), ..PutMultipartOptions::default() };
        let begun = self.client.create_multipart_opts(&self.path, options).await.map_err(|error| classify(&error))?;
        self.upload_id = Some(begun.clone());
        Ok(begun)
    }

    pub(super) async fn store_part(&mut self) -> Result<Part, Error> {
        let index = self.parts.len();
        if index as u64 >= PARTS_MAX {
            return Err(Error::new(ErrorKind::Rejected, format!("more than {PARTS_MAX} parts")));
        }
        let id = self.upload_id.clone().unwrap_or_default();
        let body = self.take();
        let bytes = body.content_length() as u64;
        let kept = body.clone();
        let part = self.client.put_part(&self.path, &id, index, body).await.map_err(|error| self.told(&error))?;
        self.reuse(kept);
        let content_id = part.content_id.clone();
        self.parts.push(part);
        self.sent_bytes += bytes;
        Ok(Part { index: u32::try_from(index).unwrap_or(u32::MAX), id: content_id, end_bytes: self.sent_bytes })
    }

    /// All that is gathered, without copying it once more.
    fn take(&mut self) -> PutPayload {
        self.gathered.take().into_iter().collect()
    }

    /// What was sent is stored: its memory is free.
    fn reuse(&mut self, sent: PutPayload) {
        // More than one piece is no buffer, and would be copied into one here.
        if sent.as_ref().len() == 1 {
            self.gathered.reuse(sent.into());
        }
    }

    fn told(&mut self, error: &object_store::Error) -> Error {
        self.is_gone |= is_of_no_use(error);
        classify(error)
    }

    pub(super) async fn complete(&mut self, sha256: [u8; 32]) -> Result<Head, Error> {
        if self.upload_id.is_some() { self.complete_parts().await } else { self.put_whole(sha256).await }
    }

    async fn put_whole(&mut self, sha256: [u8; 32]) -> Result<Head, Error> {
        s3::insert(&mut self.attributes, s3::SHA256, base16ct::lower::encode_string(&sha256));
        let body = self.take();
        self.sent_bytes = body.content_length() as u64;
        let kept = body.clone();
        match s3::put(&self.client, &self.path, body, self.attributes.clone()).await {
            Ok(head) => {
                self.reuse(kept);
                Ok(Head { sha256: Some(sha256), ..head })
            }
            Err(error) => self.settled(error).await,
        }
    }

    async fn complete_parts(&mut self) -> Result<Head, Error> {
        if self.gathered.bytes() > 0 {
            self.store_part().await?;
        }
        let id = self.upload_id.clone().unwrap_or_default();
        let head = match self.client.complete_multipart(&self.path, &id, self.parts.clone()).await {
            Ok(put) => Head { size_bytes: self.sent_bytes, etag: s3::unquoted(put.e_tag.as_deref()), sha256: None },
            Err(error) => {
                let error = self.told(&error);
                self.settled(error).await?
            }
        };
        self.upload_id = None;
        Ok(head)
    }

    /// After an error nobody knows whether the object was made: the answer alone may have been lost. The object itself knows:
    /// it is ours if it has our size and carries this very try's mark.
    async fn settled(&mut self, error: Error) -> Result<Head, Error> {
        match self.s3.written(&self.place, &self.stage, self.sent_bytes).await {
            Ok(Some(head)) => {
                tracing::info!(key = %self.place.key, %error, "the answer to an upload was lost; the object is there");
                Ok(head)
            }
            Ok(None) => Err(error),
            Err(_) => {
                // A store that does not know the upload has told enough.
                self.is_doubtful = !self.is_gone;
                Err(error)
            }
        }
    }

    pub(super) async fn abort(&mut self) -> Result<(), Error> {
        self.take();
        let Some(id) = &self.upload_id else { return Ok(()) };
        self.s3.abort(&self.place, id).await?;
        self.upload_id = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_body_fits_ten_thousand_parts() {
        assert_eq!(part_bytes(8 * MIB, 5 * 1024 * MIB), 8 * MIB);
        let tib = 1024 * 1024 * MIB;
        let part = part_bytes(8 * MIB, tib);
        assert_eq!(part, 105 * MIB);
        assert!(tib.div_ceil(part) <= PARTS_MAX);
        assert_eq!(part_bytes(8 * MIB, 0), 8 * MIB);
    }
}
