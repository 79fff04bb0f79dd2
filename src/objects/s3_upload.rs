//! One object on its way into S3: a single PUT while it fits one part, a multipart upload beyond.
//!
//! Owns: cutting equal parts, and finding out what became of a request whose answer did not arrive.
//! Must not know: where the bytes come from.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use object_store::aws::AmazonS3;
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::path::Path;
use object_store::{Attributes, PutMultipartOptions, PutPayload};

use super::s3::{self, S3};
use super::s3_error::classify;
use super::{Error, ErrorKind, Head, Label, Place};

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
    /// At most one part and the last piece.
    gathered: VecDeque<Bytes>,
    gathered_bytes: u64,
    sent_bytes: u64,
    upload_id: Option<String>,
    parts: Vec<PartId>,
}

impl S3Upload {
    /// `stage` is unique to this try; `bytes_max` decides the part size.
    pub(super) fn begin(s3: &S3, place: &Place, label: &Label, stage: &str, bytes_max: u64) -> Result<Self, Error> {
        let mut attributes = s3::attributes(label)?;
        s3::insert(&mut attributes, s3::ATTEMPT, stage.to_owned());
        Ok(Self {
            client: s3.client(&place.bucket)?,
            path: s3::path(place)?,
            part_bytes: part_bytes(s3.part_bytes_min(), bytes_max),
            s3: s3.clone(),
            place: place.clone(),
            attributes,
            stage: stage.to_owned(),
            gathered: VecDeque::new(),
            gathered_bytes: 0,
            sent_bytes: 0,
            upload_id: None,
            parts: Vec::new(),
        })
    }

    pub(super) fn upload_id(&self) -> Option<&str> {
        self.upload_id.as_deref()
    }

    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<Option<String>, Error> {
        self.gathered_bytes += bytes.len() as u64;
        self.gathered.push_back(bytes);
        if self.gathered_bytes <= self.part_bytes {
            return Ok(None);
        }
        if self.upload_id.is_none() {
            let options = PutMultipartOptions { attributes: self.attributes.clone(), ..PutMultipartOptions::default() };
            let begun =
                self.client.create_multipart_opts(&self.path, options).await.map_err(|error| classify(&error))?;
            self.upload_id = Some(begun.clone());
            return Ok(Some(begun));
        }
        self.send_full_parts().await?;
        Ok(None)
    }

    /// Keeps the last part back, whole or not: an upload must not end with an empty one.
    async fn send_full_parts(&mut self) -> Result<(), Error> {
        while self.gathered_bytes > self.part_bytes {
            let part = self.cut(self.part_bytes);
            self.send(part).await?;
        }
        Ok(())
    }

    async fn send(&mut self, part: PutPayload) -> Result<(), Error> {
        let index = self.parts.len();
        if index as u64 >= PARTS_MAX {
            return Err(Error::new(ErrorKind::Rejected, format!("more than {PARTS_MAX} parts")));
        }
        let id = self.upload_id.clone().unwrap_or_default();
        let bytes = part.content_length() as u64;
        let part = self.client.put_part(&self.path, &id, index, part).await.map_err(|error| classify(&error))?;
        self.parts.push(part);
        self.sent_bytes += bytes;
        Ok(())
    }

    /// The first `limit` gathered bytes, without copying them.
    fn cut(&mut self, limit: u64) -> PutPayload {
        let mut part = Vec::with_capacity(self.gathered.len());
        let mut left = limit;
        while left > 0 {
            let Some(mut piece) = self.gathered.pop_front() else { break };
            if piece.len() as u64 > left {
                // Smaller than a piece, so it fits.
                let rest = piece.split_off(usize::try_from(left).unwrap_or(usize::MAX));
                self.gathered.push_front(rest);
            }
            left -= piece.len() as u64;
            part.push(piece);
        }
        self.gathered_bytes -= limit - left;
        part.into_iter().collect()
    }

    pub(super) async fn complete(&mut self, sha256: [u8; 32]) -> Result<Head, Error> {
        if self.upload_id.is_some() { self.complete_parts().await } else { self.put_whole(sha256).await }
    }

    async fn put_whole(&mut self, sha256: [u8; 32]) -> Result<Head, Error> {
        s3::insert(&mut self.attributes, s3::SHA256, s3::hex(&sha256));
        let body = self.cut(self.gathered_bytes);
        self.sent_bytes = body.content_length() as u64;
        match s3::put(&self.client, &self.path, body, self.attributes.clone()).await {
            Ok(head) => Ok(Head { sha256: Some(sha256), ..head }),
            Err(error) => self.settled(error).await,
        }
    }

    async fn complete_parts(&mut self) -> Result<Head, Error> {
        self.send_full_parts().await?;
        let last = self.cut(self.gathered_bytes);
        self.send(last).await?;
        let id = self.upload_id.clone().unwrap_or_default();
        let parts = std::mem::take(&mut self.parts);
        let head = match self.client.complete_multipart(&self.path, &id, parts).await {
            Ok(put) => Head { size_bytes: self.sent_bytes, etag: s3::unquoted(put.e_tag.as_deref()), sha256: None },
            Err(error) => self.settled(classify(&error)).await?,
        };
        self.upload_id = None;
        Ok(head)
    }

    /// After an error nobody knows whether the object was made: the answer alone may have been lost. The object itself knows:
    /// it is ours if it has our size and carries this very try's mark.
    async fn settled(&self, error: Error) -> Result<Head, Error> {
        match self.s3.head(&self.place).await {
            Ok(Some(seen))
                if seen.head.size_bytes == self.sent_bytes && seen.attempt.as_deref() == Some(self.stage.as_str()) =>
            {
                tracing::info!(key = %self.place.key, %error, "the answer to an upload was lost; the object is there");
                Ok(seen.head)
            }
            Ok(_) | Err(_) => Err(error),
        }
    }

    pub(super) async fn abort(&mut self) -> Result<(), Error> {
        self.gathered.clear();
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
