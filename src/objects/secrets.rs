//! The two halves of an object store's credentials, from files.
//!
//! Owns: reading them. Must not know: what they open.

use std::io::Read as _;
use std::path::Path;

use super::{Kind, Options};

/// Far more than either half has. Somebody may name a device or a disk image.
const SECRET_BYTES_MAX: u64 = 4_096;

/// Without `Debug`, so that nobody prints it.
pub(super) struct Credentials {
    pub(super) id: String,
    pub(super) secret: String,
}

impl Credentials {
    /// None: the machine's own role. The errors are `key: why`, one for each file, with its path and nothing of what it holds.
    pub(super) fn read(options: &Options) -> Result<Option<Self>, Vec<String>> {
        let (Some(id), Some(secret)) = (&options.access_key_id_file, &options.secret_access_key_file) else {
            return Ok(None);
        };
        let told = |key: &str, file: &Path| secret_of(file).map_err(|why| format!("storage.{key}: {why}"));
        match (told("access_key_id_file", id), told("secret_access_key_file", secret)) {
            (Ok(id), Ok(secret)) => Ok(Some(Self { id, secret })),
            (id, secret) => Err([id.err(), secret.err()].into_iter().flatten().collect()),
        }
    }
}

/// Every file with a secret that the store would need and cannot have, as `key: why`.
pub(super) fn faults(options: &Options) -> Vec<String> {
    match options.kind {
        Kind::Local => Vec::new(),
        Kind::S3 => Credentials::read(options).err().unwrap_or_default(),
    }
}

fn secret_of(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|open| open.take(SECRET_BYTES_MAX).read_to_string(&mut text));
    match (read, text.trim()) {
        (Err(error), _) => Err(format!("{}: {error}", file.display())),
        (Ok(_), "") => Err(format!("{}: is empty", file.display())),
        (Ok(_), secret) => Ok(secret.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_that_cannot_be_read_is_told_and_nothing_of_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &[u8]| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let with = |id, secret| Options {
            kind: Kind::S3,
            access_key_id_file: Some(id),
            secret_access_key_file: Some(secret),
            ..Options::default()
        };
        let both = with(file("id", b" me\n"), file("secret", b"hush\n"));
        let read = Credentials::read(&both).ok().flatten().unwrap();
        assert_eq!((read.id.as_str(), read.secret.as_str()), ("me", "hush"));
        assert!(Credentials::read(&Options::default()).is_ok_and(|none| none.is_none()));

        let neither = with(dir.path().join("gone"), file("empty", b"\n"));
        let [id, secret] = faults(&neither).try_into().unwrap();
        assert!(id.starts_with("storage.access_key_id_file: ") && id.contains("gone"), "{id}");
        assert!(secret.starts_with("storage.secret_access_key_file: ") && secret.contains("empty"), "{secret}");
        let garbled = with(file("id", b"me"), file("garbled", b"hush\xff"));
        let [garbled] = faults(&garbled).try_into().unwrap();
        assert!(garbled.contains("garbled: ") && !garbled.contains("hush"), "{garbled}");
        assert_eq!(faults(&Options { kind: Kind::Local, ..neither }), [""; 0], "a folder needs none");
    }
}
