//! The demo's folder: fresh each time, and nobody else's.
//!
//! Owns: recognising, locking, emptying it. Must not know: what the daemon puts into it.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use super::super::exit::{Exit, Failure, Result};

/// Only a folder with this file in it is ever emptied.
const MARKER: &str = ".fetchbox-demo";

pub struct Folder {
    data_dir: PathBuf,
    /// Locked: two demos do not share a folder.
    _marker: File,
}

impl Folder {
    /// A folder with nothing in it but our marker.
    pub fn claim(path: &Path) -> Result<Self> {
        let fault = |error: std::io::Error| Failure::failed(format_args!("{}: {error}", path.display()));
        let marker = path.join(MARKER);
        std::fs::create_dir_all(path).map_err(fault)?;
        let empty = std::fs::read_dir(path).map_err(fault)?.next().is_none();
        if !empty && !marker.is_file() {
            return Err(Failure::failed(format_args!(
                "{} is not an earlier demo's folder; it is left alone",
                path.display()
            ))
            .hint("name another one with --dir"));
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&marker).map_err(fault)?;
        if lock.try_lock().is_err() {
            return Err(Failure::new(Exit::Temporary, format_args!("another demo is running in {}", path.display()))
                .hint("name another folder with --dir"));
        }
        let data_dir = path.join("data");
        match std::fs::remove_dir_all(&data_dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fault(error)),
            _ => {}
        }
        Ok(Self { data_dir, _marker: lock })
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_the_demos_is_never_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("data").join("thesis.tex");
        std::fs::create_dir(dir.path().join("data")).unwrap();
        std::fs::write(&precious, "years").unwrap();
        assert!(Folder::claim(dir.path()).is_err());
        assert!(precious.exists());
    }

    #[test]
    fn a_demo_starts_fresh_and_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("demo");
        let first = Folder::claim(&path).unwrap();
        std::fs::create_dir(first.data_dir()).unwrap();
        std::fs::write(first.data_dir().join("old"), "").unwrap();
        assert!(Folder::claim(&path).is_err(), "two demos at once");
        drop(first);
        let again = Folder::claim(&path).unwrap();
        assert!(!again.data_dir().exists());
    }
}
