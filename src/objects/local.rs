//! Objects as files: `{root}/{bucket}/{key}`, staged under `{root}/.staging`, synced, renamed into place, the folder synced.
//!
//! Owns: what stands there. Must not know: S3, how a file is written (see `local_upload`). Content type, metadata and digest are
//! not kept beside a file: the ledger has them.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::folders::{self, Folders, from_errno};
use super::gather::Buffers;
use super::{Error, ErrorKind, Head, KeepStage, Place};

pub(super) const STAGING: &str = ".staging";
/// Bytes read at a time.
const READ_BYTES: usize = 1024 * 1024;

/// What a look at an object's bytes showed.
pub(super) enum Stands {
    Nothing,
    /// Something else, or something that cannot be read.
    Other,
    Same(Head),
}

#[derive(Clone)]
pub(super) struct Local(pub(super) Arc<Shared>);

/// Bytes gathered before a thread is asked to write them.
pub(super) const WRITE_BYTES: u64 = 1024 * 1024;
/// With the piece that came last.
const GATHERED_BYTES: u64 = WRITE_BYTES + WRITE_BYTES / 2;

pub(super) struct Shared {
    pub(super) folders: Folders,
    /// Names of staged files some upload of this process holds. Bounded by the uploads in flight.
    live: Mutex<HashSet<String>>,
    /// Of what is written at once.
    pub(super) buffers: Buffers,
}

impl Shared {
    pub(super) fn live(&self) -> MutexGuard<'_, HashSet<String>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Local {
    pub(super) fn new(root: &Path) -> Result<Self, Error> {
        Ok(Self(Arc::new(Shared {
            folders: Folders::new(root)?,
            live: Mutex::default(),
            buffers: Buffers::of(GATHERED_BYTES),
        })))
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

    /// Whether what stands at `place` has this digest, and this size if one is given: it is read.
    pub(super) async fn compare(&self, place: &Place, sha256: [u8; 32], bytes: Option<u64>) -> Result<Stands, Error> {
        let (shared, place) = (self.0.clone(), place.clone());
        blocking(move || {
            let (folder, name) = split(&place);
            let Some(dir) = shared.folders.open(&folder)? else { return Ok(Stands::Nothing) };
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let mut file = match rustix::fs::openat(&dir, name, flags, Mode::empty()) {
                Ok(file) => std::fs::File::from(file),
                Err(Errno::NOENT) => return Ok(Stands::Nothing),
                Err(Errno::LOOP) => return Ok(Stands::Other),
                Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::IO)) => {
                    tracing::warn!(key = %place.key, %errno, "an object cannot be read");
                    return Ok(Stands::Other);
                }
                Err(errno) => return Err(from_errno(errno, &place.key)),
            };
            let stat = rustix::fs::fstat(&file).map_err(|errno| from_errno(errno, &place.key))?;
            if !is_file(&stat) || bytes.is_some_and(|bytes| size_of(&stat) != bytes) {
                return Ok(Stands::Other);
            }
            match digest_of(&mut file) {
                Ok(found) if found == sha256 => {}
                Ok(_) => return Ok(Stands::Other),
                Err(error) => {
                    // One bad sector is one damaged object: nothing else has to wait for it.
                    tracing::warn!(key = %place.key, %error, "an object cannot be read");
                    return Ok(Stands::Other);
                }
            }
            // It may have been renamed a moment before a power cut: now it is there for good.
            folders::sync(&dir)?;
            Ok(Stands::Same(head_of(&stat)))
        })
        .await
    }

    /// Removes a staged file that no upload of this process holds.
    pub(super) async fn abort(&self, stage: &str) -> Result<(), Error> {
        let (shared, stage) = (self.0.clone(), stage.to_owned());
        blocking(move || {
            let Some(dir) = shared.folders.open(&[STAGING])? else { return Ok(()) };
            let live = shared.live();
            if live.contains(&stage) {
                return Err(Error::new(ErrorKind::Failed, format!("{stage} is being written")));
            }
            match rustix::fs::unlinkat(&dir, stage.as_str(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(from_errno(errno, STAGING)),
            }
        })
        .await
    }

    pub(super) async fn sweep(&self, before_ms: i64, dry_run: bool, keep: KeepStage) -> Result<(u64, u64), Error> {
        let shared = self.0.clone();
        blocking(move || sweep(&shared, before_ms, dry_run, &keep)).await
    }
}

fn sweep(shared: &Shared, before_ms: i64, dry_run: bool, keep: &KeepStage) -> Result<(u64, u64), Error> {
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
        let text = name.to_string_lossy();
        if live.contains(text.as_ref()) || keep(&text) {
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

fn digest_of(file: &mut std::fs::File) -> std::io::Result<[u8; 32]> {
    let (mut digest, mut buffer) = (Sha256::new(), vec![0; READ_BYTES]);
    loop {
        let read = file.read(&mut buffer)?;
        match buffer.get(..read) {
            Some(piece) if !piece.is_empty() => digest.update(piece),
            Some(_) | None => return Ok(digest.finalize().into()),
        }
    }
}

/// The folders from the root down, and the file's name. Keys were checked: there is at least one segment.
pub(super) fn split(place: &Place) -> (Vec<&str>, &str) {
    let mut segments: Vec<&str> = std::iter::once(place.bucket.as_str()).chain(place.key.split('/')).collect();
    let name = segments.pop().unwrap_or_default();
    (segments, name)
}

pub(super) fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_file()
}

pub(super) fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn modified_ms(stat: &Stat) -> i64 {
    let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    stat.st_mtime.saturating_mul(1_000).saturating_add(nanos / 1_000_000)
}

pub(super) fn head_of(stat: &Stat) -> Head {
    let etag = format!("{:x}-{:x}.{:x}-{:x}", stat.st_ino, stat.st_mtime, stat.st_mtime_nsec, stat.st_size);
    Head { size_bytes: size_of(stat), etag, sha256: None }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::new(ErrorKind::Failed, format!("file work ended early: {error}"))))
}
