//! Which bucket names and keys can be objects at all: the same rule for both backends, so that a key never means two things.

use super::{Error, ErrorKind, Place};

/// S3's own limit.
const KEY_BYTES_MAX: usize = 1_024;
/// What a file name can be on every Linux file system.
const SEGMENT_BYTES_MAX: usize = 255;

pub(super) fn check(place: &Place) -> Result<(), Error> {
    check_bucket(&place.bucket)?;
    check_key(&place.key)
}

/// A name that is one folder, never hidden, never a way up.
pub(super) fn check_bucket(bucket: &str) -> Result<(), Error> {
    let plain = |b: &u8| b.is_ascii_alphanumeric();
    let bytes = bucket.as_bytes();
    let fits = (1..=63).contains(&bytes.len())
        && bytes.first().is_some_and(plain)
        && bytes.iter().all(|b| plain(b) || b"._-".contains(b));
    if fits { Ok(()) } else { Err(rejected(format!("{bucket:?} is not a bucket name"))) }
}

/// Slash-separated segments, none of them empty, `.` or `..`, no control characters.
pub(super) fn check_key(key: &str) -> Result<(), Error> {
    if key.len() > KEY_BYTES_MAX {
        return Err(rejected(format!("a key of {} bytes is longer than {KEY_BYTES_MAX}", key.len())));
    }
    key.split('/').try_for_each(check_segment)
}

pub(super) fn check_segment(segment: &str) -> Result<(), Error> {
    if matches!(segment, "" | "." | "..") {
        return Err(rejected(format!("a key may not have the segment {segment:?}")));
    }
    if segment.contains('/') || segment.chars().any(char::is_control) {
        return Err(rejected("a key may not have control characters"));
    }
    if segment.len() > SEGMENT_BYTES_MAX {
        return Err(rejected(format!("a key may not have a segment longer than {SEGMENT_BYTES_MAX} bytes")));
    }
    Ok(())
}

fn rejected(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Rejected, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_can_never_leave_its_bucket() {
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a/.", "a\0b", "a\nb", &"a/".repeat(600)] {
            assert!(check_key(bad).is_err(), "{bad:?}");
        }
        assert!(check_key(&"a".repeat(256)).is_err());
        for good in ["a", "resources/default/x/y.tar.gz", "...", "a..b", ".fetchbox-probe/x", "é/ü"] {
            assert!(check_key(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_bucket_is_one_visible_folder() {
        for bad in ["", ".staging", "..", "a/b", "-a", "a b", &"a".repeat(64)] {
            assert!(check_bucket(bad).is_err(), "{bad:?}");
        }
        assert!(check_bucket("fetchbox").is_ok());
    }
}
