//! Where the object of an attempt is to stand: a place known from the start, or one made of the digest.
//!
//! Pure. Must not know: stores, origins.

use super::{Assignment, Whole};
use crate::model::StoredObject;
use crate::objects::{Head, Place};

pub(super) struct Goal {
    bucket: String,
    /// A plain key, or the folder above digests.
    key: String,
    stage: String,
    by_content: bool,
}

impl Goal {
    pub(super) fn of(assignment: &Assignment) -> Self {
        Self {
            bucket: assignment.place.bucket.clone(),
            key: assignment.place.key.clone(),
            stage: assignment.task.stage(assignment.epoch),
            by_content: assignment.spec.content_addressed,
        }
    }

    pub(super) fn stage(&self) -> &str {
        &self.stage
    }

    /// The key is the digest: what stands there is to have these bytes, whoever wrote it.
    pub(super) fn by_content(&self) -> bool {
        self.by_content
    }

    /// `{prefix}/sha256/{two digits}/{sha256}` for an object that is known by its content, else the plain place.
    pub(super) fn place(&self, sha256: &[u8; 32]) -> Place {
        if !self.by_content {
            return Place { bucket: self.bucket.clone(), key: self.key.clone() };
        }
        let digits = base16ct::lower::encode_string(sha256);
        let folder = digits.get(..2).unwrap_or_default();
        self.under(&format!("sha256/{folder}/{digits}"))
    }

    /// Where it is sent while its digest is not known.
    pub(super) fn first_place(&self, wanted: Option<&[u8; 32]>) -> Place {
        match wanted {
            None if self.by_content => self.under(&format!("{INCOMING}/{}", self.stage)),
            None => self.place(&[0; 32]),
            Some(sha256) => self.place(sha256),
        }
    }

    /// It is moved from there to its key once its digest is known.
    pub(super) fn is_incoming(&self, place: &Place) -> bool {
        self.by_content && place.key.rsplit('/').nth(1) == Some(INCOMING)
    }

    /// An upload to `place` can still become this object: the layout has not changed since it was begun.
    pub(super) fn may_come_from(&self, place: &Place) -> bool {
        if self.by_content { place.bucket == self.bucket } else { place.bucket == self.bucket && place.key == self.key }
    }

    fn under(&self, rest: &str) -> Place {
        let key = match self.key.trim_matches('/') {
            "" => rest.to_owned(),
            folder => format!("{folder}/{rest}"),
        };
        Place { bucket: self.bucket.clone(), key }
    }

    pub(super) fn object(&self, whole: &Whole, head: Head, content_type: String) -> StoredObject {
        let Place { bucket, key } = self.place(&whole.sha256);
        let (size_bytes, sha256) = (whole.size_bytes, whole.sha256);
        StoredObject { bucket, key, etag: head.etag, size_bytes, sha256, content_type }
    }
}

/// The folder of objects on their way to a key made of their digest.
const INCOMING: &str = ".incoming";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_have_one_key_below_their_prefix() {
        let goal = |key: &str| Goal { bucket: "b".into(), key: key.into(), stage: "t-1".into(), by_content: true };
        let digits = "ab".repeat(32);
        assert_eq!(goal("p/q").place(&[0xab; 32]).key, format!("p/q/sha256/ab/{digits}"));
        assert_eq!(goal("").place(&[0xab; 32]).key, format!("sha256/ab/{digits}"));
        assert_eq!(goal("").first_place(None).key, ".incoming/t-1");
        assert_eq!(goal("p").first_place(None).key, "p/.incoming/t-1");
        assert_eq!(goal("p").first_place(Some(&[0xab; 32])).key, format!("p/sha256/ab/{digits}"));
        let plain = Goal { by_content: false, ..goal("k") };
        assert_eq!((plain.first_place(None).key, plain.place(&[1; 32]).key), ("k".to_owned(), "k".to_owned()));
    }
}
