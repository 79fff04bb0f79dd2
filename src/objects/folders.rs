//! Folders beneath the local store's root, walked one component at a time so that no symbolic link is ever followed.
//!
//! Owns: opening and durably making folders, and what a file system's errors mean. Must not know: objects, uploads.
//! Everything here blocks the calling thread.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Error, ErrorKind};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Enough for the jobs in flight with all their resources; beyond it a few folders are synced once more than needed.
const SYNCED_MAX: usize = 4_096;

pub(super) struct Folders {
    root: PathBuf,
    /// Folders whose own entry this process knows to be on disk.
    synced: Mutex<HashSet<String>>,
}

impl Folders {
    /// Makes the root if it is missing. Later on a missing root is an error, because it then is a disk that went away.
    pub(super) fn new(root: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(root).map_err(|error| from_io(&error, "the object folder cannot be made"))?;
        Ok(Self { root: root.to_owned(), synced: Mutex::default() })
    }

    /// None: one of the folders does not exist.
    pub(super) fn open(&self, segments: &[&str]) -> Result<Option<OwnedFd>, Error> {
        let mut dir = self.open_root()?;
        for segment in segments {
            dir = match rustix::fs::openat(&dir, *segment, FOLDER, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => return Err(from_errno(errno, &format!("folder {segment}"))),
            };
        }
        Ok(Some(dir))
    }

    /// Makes what is missing. When it returns, every folder on the way survives a power cut.
    pub(super) fn make(&self, segments: &[&str]) -> Result<OwnedFd, Error> {
        let mut dir = self.open_root()?;
        let mut path = String::new();
        for segment in segments {
            path.push('/');
            path.push_str(segment);
            let (next, made) = enter_or_make(&dir, segment)?;
            // A folder we did not make may have been made a moment ago, by a thread or a process that did not come to sync it.
            if made || !self.synced().contains(&path) {
                sync(&dir)?;
                let mut synced = self.synced();
                if synced.len() >= SYNCED_MAX {
                    synced.clear();
                }
                synced.insert(path.clone());
            }
            dir = next;
        }
        Ok(dir)
    }

    fn open_root(&self) -> Result<OwnedFd, Error> {
        // The root itself may be a link: the operator chose it.
        let flags = FOLDER.difference(OFlags::NOFOLLOW);
        rustix::fs::open(&self.root, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => Error::new(ErrorKind::Unavailable, "the object folder is gone"),
            errno => from_errno(errno, "the object folder"),
        })
    }

    fn synced(&self) -> MutexGuard<'_, HashSet<String>> {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn enter_or_make(dir: &OwnedFd, segment: &str) -> Result<(OwnedFd, bool), Error> {
    let enter = || rustix::fs::openat(dir, segment, FOLDER, Mode::empty());
    let failed = |errno| from_errno(errno, &format!("folder {segment}"));
    match enter() {
        Ok(next) => return Ok((next, false)),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(failed(errno)),
    }
    match rustix::fs::mkdirat(dir, segment, Mode::from_raw_mode(0o750)) {
        Ok(()) | Err(Errno::EXIST) => enter().map(|next| (next, true)).map_err(failed),
        Err(errno) => Err(failed(errno)),
    }
}

/// Puts a folder's entries on disk.
pub(super) fn sync(dir: &OwnedFd) -> Result<(), Error> {
    rustix::fs::fsync(dir).map_err(|errno| from_errno(errno, "syncing a folder"))
}

pub(super) fn from_errno(errno: Errno, what: &str) -> Error {
    Error::new(kind_of(errno), format!("{what}: {}", std::io::Error::from(errno)))
}

pub(super) fn from_io(error: &std::io::Error, what: &str) -> Error {
    let kind = error.raw_os_error().map_or(ErrorKind::Failed, |raw| kind_of(Errno::from_raw_os_error(raw)));
    Error::new(kind, format!("{what}: {error}"))
}

fn kind_of(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOSPC | Errno::DQUOT => ErrorKind::Full,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => ErrorKind::Denied,
        // A link or a file where a folder must be, a folder where the object must be, a name this file system cannot hold.
        Errno::LOOP
        | Errno::NOTDIR
        | Errno::ISDIR
        | Errno::NOTEMPTY
        | Errno::NAMETOOLONG
        | Errno::INVAL
        | Errno::FBIG => ErrorKind::Rejected,
        Errno::IO | Errno::STALE | Errno::NODEV | Errno::NXIO | Errno::XDEV => ErrorKind::Unavailable,
        _ => ErrorKind::Failed,
    }
}
