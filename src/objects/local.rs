//! Objects as files: `{root}/{bucket}/{key}`, staged under `{root}/.staging`, synced, renamed into place, the folder synced.
//!
//! Owns: the staged file's life. Must not know: S3. Content type, metadata and digest are not kept beside a file: the ledger has
//! them. Files are written by blocking threads in pieces of a mebibyte, so that a small object costs one hand-off.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::folders::{self, Folders, from_errno, from_io};
use super::{Error, ErrorKind, Head, Place};

const STAGING: &str = ".staging";
/// Bytes gathered before a thread is asked to write them.
const WRITE_BYTES: usize = 1024 * 1024;

#[derive(Clone)]
pub(super) struct Local(Arc<Shared>);

struct Shared {
    folders: Folders,
    /// Names of staged files some upload of this process holds. Bounded by the uploads in flight.
    live: Mutex<HashSet<String>>,
}

impl Shared {
    fn live(&self) -> MutexGuard<'_, HashSet<String>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Local {
    pub(super) fn new(root: &Path) -> Result<Self, Error> {
        Ok(Self(Arc::new(Shared { folders: Folders::new(root)?, live: Mutex::default() })))
    }

    /// Touches nothing yet: the staged file is made with the first piece.
    pub(super) fn begin(&self, place: &Place, stage: &str) -> Result<LocalUpload, Error> {
        if !self.0.live().insert(stage.to_owned()) {
            return Err(Error::new(ErrorKind::Failed, format!("{stage} is being written already")));
        }
        let staged = Staged { shared: self.0.clone(), name: stage.to_owned(), file: Mutex::new(Stage::None) };
        Ok(LocalUpload {
            place: place.clone(),
            staged: Some(Arc::new(staged)),
            gathered: Vec::new(),
            gathered_bytes: 0,
        })
    }

    pub(super) async fn head(&self, place: &Place) -> Result<Option<Head>, Error> {
        let (shared, place) = (self.0.clone(), place.clone());
        blocking(move || {
            let (folder, name) = split(&place);
            let Some(dir) = shared.folders.open(&folder)? else { return Ok(None) };
            match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if is_file(&stat) => Ok(Some(head_of(&stat))),
                Ok(_) | Err(Errno::NOENT) => Ok(None),
                Err(errno) => Err(from_errno(errno, &place.key)),
            }
        })
        .await
    }

    pub(super) async fn delete(&self, place: &Place) -> Result<(), Error> {
        let (shared, place) = (self.0.clone(), place.clone());
        blocking(move || {
            let (folder, name) = split(&place);
            let Some(dir) = shared.folders.open(&folder)? else { return Ok(()) };
            match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
                Ok(()) => folders::sync(&dir),
                Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(from_errno(errno, &place.key)),
            }
        })
        .await
    }

    pub(super) async fn sweep(&self, before_ms: i64, dry_run: bool) -> Result<(u64, u64), Error> {
        let shared = self.0.clone();
        blocking(move || sweep(&shared, before_ms, dry_run)).await
    }
}

fn sweep(shared: &Shared, before_ms: i64, dry_run: bool) -> Result<(u64, u64), Error> {
    let Some(dir) = shared.folders.open(&[STAGING])? else { return Ok((0, 0)) };
    let entries = rustix::fs::Dir::read_from(&dir).map_err(|errno| from_errno(errno, STAGING))?;
    let (mut files, mut bytes) = (0, 0);
    for entry in entries {
        let entry = entry.map_err(|errno| from_errno(errno, STAGING))?;
        let name = entry.file_name();
        let Ok(stat) = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if !is_file(&stat) || modified_ms(&stat) >= before_ms {
            continue;
        }
        // Held while unlinking: a new upload cannot take the name in between.
        let live = shared.live();
        if live.contains(name.to_string_lossy().as_ref()) {
            continue;
        }
        if !dry_run {
            match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(from_errno(errno, STAGING)),
            }
        }
        files += 1;
        bytes += size_of(&stat);
    }
    Ok((files, bytes))
}

pub(super) struct LocalUpload {
    place: Place,
    /// None once completed or aborted.
    staged: Option<Arc<Staged>>,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
}

impl LocalUpload {
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.gathered_bytes += bytes.len();
        self.gathered.push(bytes);
        if self.gathered_bytes < WRITE_BYTES {
            return Ok(());
        }
        let (staged, pieces) = (self.staged()?, std::mem::take(&mut self.gathered));
        self.gathered_bytes = 0;
        blocking(move || staged.write(&pieces)).await
    }

    pub(super) async fn complete(&mut self) -> Result<Head, Error> {
        let (staged, pieces) = (self.staged()?, std::mem::take(&mut self.gathered));
        let place = self.place.clone();
        let head = blocking(move || {
            staged.write(&pieces)?;
            staged.place(&place)
        })
        .await?;
        self.staged = None;
        Ok(head)
    }

    pub(super) async fn abort(&mut self) -> Result<(), Error> {
        self.gathered.clear();
        // Unlinking a large file takes time: not on this thread.
        let staged = self.staged.take();
        blocking(move || {
            drop(staged);
            Ok(())
        })
        .await
    }

    fn staged(&self) -> Result<Arc<Staged>, Error> {
        self.staged.clone().ok_or_else(|| Error::new(ErrorKind::Failed, "this upload has ended"))
    }
}

/// A file under `.staging`. Whoever drops the last handle removes it, also when that is a thread whose upload is long gone.
struct Staged {
    shared: Arc<Shared>,
    name: String,
    file: Mutex<Stage>,
}

enum Stage {
    None,
    Open(File),
    /// Renamed to its place.
    Placed,
}

impl Staged {
    fn write(&self, pieces: &[Bytes]) -> Result<(), Error> {
        let mut state = self.file();
        if let Stage::None = *state {
            *state = Stage::Open(self.create()?);
        }
        let Stage::Open(file) = &mut *state else { return Err(Error::new(ErrorKind::Failed, "this upload has ended")) };
        pieces.iter().try_for_each(|piece| file.write_all(piece)).map_err(|error| from_io(&error, "writing an object"))
    }

    fn place(&self, place: &Place) -> Result<Head, Error> {
        let mut state = self.file();
        let Stage::Open(file) = &*state else { return Err(Error::new(ErrorKind::Failed, "this upload has ended")) };
        file.sync_all().map_err(|error| from_io(&error, "syncing an object"))?;
        let stat = rustix::fs::fstat(file).map_err(|errno| from_errno(errno, "a staged object"))?;
        let (folder, name) = split(place);
        let to = self.shared.folders.make(&folder)?;
        let from = self.staging()?;
        rustix::fs::renameat(&from, self.name.as_str(), &to, name).map_err(|errno| from_errno(errno, &place.key))?;
        *state = Stage::Placed;
        folders::sync(&to)?;
        Ok(head_of(&stat))
    }

    fn create(&self) -> Result<File, Error> {
        let staging = self.staging()?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&staging, self.name.as_str(), flags, Mode::from_raw_mode(0o640));
        let file = match open() {
            // Nobody in this process holds the name, so a process that was killed left it.
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&staging, self.name.as_str(), AtFlags::empty()).and_then(|()| open())
            }
            file => file,
        };
        file.map(File::from).map_err(|errno| from_errno(errno, "staging an object"))
    }

    fn staging(&self) -> Result<OwnedFd, Error> {
        self.shared.folders.make(&[STAGING])
    }

    fn file(&self) -> MutexGuard<'_, Stage> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let left_over = matches!(*self.file(), Stage::Open(_));
        if left_over && let Ok(Some(staging)) = self.shared.folders.open(&[STAGING]) {
            // What cannot be removed now is swept later.
            let _ = rustix::fs::unlinkat(&staging, self.name.as_str(), AtFlags::empty());
        }
        self.shared.live().remove(&self.name);
    }
}

/// The folders from the root down, and the file's name. Keys were checked: there is at least one segment.
fn split(place: &Place) -> (Vec<&str>, &str) {
    let mut segments: Vec<&str> = std::iter::once(place.bucket.as_str()).chain(place.key.split('/')).collect();
    let name = segments.pop().unwrap_or_default();
    (segments, name)
}

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_file()
}

fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn modified_ms(stat: &Stat) -> i64 {
    let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    stat.st_mtime.saturating_mul(1_000).saturating_add(nanos / 1_000_000)
}

fn head_of(stat: &Stat) -> Head {
    let etag = format!("{:x}-{:x}.{:x}-{:x}", stat.st_ino, stat.st_mtime, stat.st_mtime_nsec, stat.st_size);
    Head { size_bytes: size_of(stat), etag, sha256: None }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::new(ErrorKind::Failed, format!("file work ended early: {error}"))))
}
