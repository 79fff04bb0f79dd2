//! The data directory: made, locked, and never shared.
//!
//! Owns: folders and their permissions, the lock that keeps a second process out. Must not know: what stands in the files.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::error::{StartError, StartErrorKind};

/// A data directory that is ours as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    /// Held for its lock; the system frees it even when we are killed.
    _lock: File,
}

impl DataDir {
    /// Makes the folders that are missing and takes the lock.
    ///
    /// # Errors
    /// `Temporary` when another process holds it; `SetUp` when it cannot be made or written.
    pub fn claim(root: &Path) -> Result<Self, StartError> {
        make_folder(root)?;
        let lock = lock(root)?;
        let run = root.join("run");
        make_folder(&run)?;
        // An earlier umask may have made it too open or too tight: it guards the sockets.
        std::fs::set_permissions(&run, Permissions::from_mode(0o750)).map_err(|error| set_up(&run, &error))?;
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
}

fn make_folder(path: &Path) -> Result<(), StartError> {
    let made = DirBuilder::new().recursive(true).mode(0o750).create(path);
    made.map_err(|error| set_up(path, &error))
}

fn set_up(path: &Path, error: &std::io::Error) -> StartError {
    StartError::new(StartErrorKind::SetUp, format!("{}: {error}", path.display()))
}

fn lock(root: &Path) -> Result<File, StartError> {
    let path = root.join("lock");
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(&path);
    let mut file = opened.map_err(|error| set_up(&path, &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(taken(root, &mut file)),
        Err(TryLockError::Error(error)) => return Err(set_up(&path, &error)),
    }
    // The number is for people only: the lock itself is what counts.
    let note = format!("{}\n", std::process::id());
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(note.as_bytes()));
    written.map_err(|error| set_up(&path, &error))?;
    Ok(file)
}

fn taken(root: &Path, file: &mut File) -> StartError {
    let mut owner = String::new();
    let _ = file.take(32).read_to_string(&mut owner);
    let owner = match owner.trim() {
        "" => String::new(),
        pid => format!(" (process {pid})"),
    };
    let message = format!("the data directory {} is in use by another fetchbox{owner}", root.display());
    StartError::new(StartErrorKind::Temporary, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_kept_out_and_told_who_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        let first = DataDir::claim(&root).unwrap();
        let refused = DataDir::claim(&root).unwrap_err();
        assert_eq!(refused.kind, StartErrorKind::Temporary);
        assert!(refused.message.contains(&std::process::id().to_string()), "{}", refused.message);
        assert!(refused.message.contains("data"), "{}", refused.message);
        drop(first);
        DataDir::claim(&root).unwrap();
    }

    #[test]
    fn strangers_cannot_reach_the_sockets_folder() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        std::fs::create_dir_all(root.join("run")).unwrap();
        std::fs::set_permissions(root.join("run"), Permissions::from_mode(0o777)).unwrap();
        let _held = DataDir::claim(&root).unwrap();
        let mode = std::fs::metadata(root.join("run")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o750);
    }

    #[test]
    fn a_path_that_is_a_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let refused = DataDir::claim(&file).unwrap_err();
        assert_eq!(refused.kind, StartErrorKind::SetUp);
        assert!(refused.message.contains("file"), "{}", refused.message);
    }
}
