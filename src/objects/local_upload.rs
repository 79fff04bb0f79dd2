//! One object on its way into the local directory: a staged file that grows, is renamed to its place, or goes.
//!
//! Owns: the staged file's life, and where its synced parts end. Must not know: S3, who remembers the parts. Files are written by
//! blocking threads in pieces of a mebibyte, so that a small object costs one hand-off.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::folders::{self, from_errno, from_io};
use super::gather::Gathered;
use super::local::{STAGING, Shared, WRITE_BYTES, blocking, head_of, is_file, size_of, split};
use super::{Error, ErrorKind, Head, Part, Place, Unfinished};

pub(super) struct LocalUpload {
    place: Place,
    stage: String,
    /// None once completed or aborted.
    staged: Option<Arc<Staged>>,
    gathered: Gathered,
    part_bytes: u64,
    /// Bytes since the last part's end.
    in_part_bytes: u64,
    end_bytes: u64,
    parts: u32,
    has_parts: bool,
}

impl LocalUpload {
    /// Touches nothing yet: the staged file is made with the first piece.
    pub(super) fn begin(shared: &Arc<Shared>, place: &Place, stage: &str, part_bytes: u64) -> Result<Self, Error> {
        if !shared.live().insert(stage.to_owned()) {
            return Err(Error::new(ErrorKind::Failed, format!("{stage} is being written already")));
        }
        let staged = Staged { shared: shared.clone(), name: stage.to_owned(), file: Mutex::new(Stage::None) };
        Ok(Self {
            place: place.clone(),
            stage: stage.to_owned(),
            staged: Some(Arc::new(staged)),
            gathered: Gathered::new(&shared.buffers, WRITE_BYTES),
            part_bytes,
            in_part_bytes: 0,
            end_bytes: 0,
            parts: 0,
            has_parts: false,
        })
    }

    /// None: the staged file is gone, or shorter than was recorded.
    pub(super) async fn resume(
        shared: &Arc<Shared>,
        place: &Place,
        unfinished: &Unfinished,
    ) -> Result<Option<Self>, Error> {
        let begun = Self::begin(shared, place, &unfinished.stage, unfinished.part_bytes)?;
        let end_bytes = unfinished.parts.last().map_or(0, |part| part.end_bytes);
        let staged = begun.staged()?;
        if !blocking(move || staged.reopen(end_bytes)).await? {
            return Ok(None);
        }
        let parts = u32::try_from(unfinished.parts.len()).unwrap_or(u32::MAX);
        Ok(Some(Self { end_bytes, parts, has_parts: true, ..begun }))
    }

    pub(super) fn part_bytes(&self) -> u64 {
        self.part_bytes
    }

    pub(super) fn room(&self) -> u64 {
        self.part_bytes.saturating_sub(self.in_part_bytes)
    }

    pub(super) fn upload_id(&self) -> Option<&str> {
        (self.has_parts && self.staged.is_some()).then_some(self.stage.as_str())
    }

    pub(super) fn redirect(&mut self, place: &Place) {
        self.place = place.clone();
    }

    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.in_part_bytes += bytes.len() as u64;
        self.gathered.push(bytes);
        if self.gathered.bytes() < WRITE_BYTES {
            return Ok(());
        }
        let (staged, pieces) = (self.staged()?, self.take());
        let written = blocking(move || staged.write(&pieces).map(|()| pieces)).await?;
        if let Ok([buffer]) = <[Bytes; 1]>::try_from(written) {
            self.gathered.reuse(buffer);
        }
        Ok(())
    }

    /// The staged file is on disk, with its name, when it returns.
    pub(super) async fn begin_parts(&mut self) -> Result<String, Error> {
        let (staged, pieces) = (self.staged()?, self.take());
        blocking(move || {
            staged.write(&pieces)?;
            folders::sync(&staged.staging()?)
        })
        .await?;
        self.has_parts = true;
        Ok(self.stage.clone())
    }

    pub(super) async fn store_part(&mut self) -> Result<Part, Error> {
        let (staged, pieces) = (self.staged()?, self.take());
        blocking(move || staged.write(&pieces).and_then(|()| staged.sync())).await?;
        self.end_bytes += std::mem::take(&mut self.in_part_bytes);
        let index = self.parts;
        self.parts = self.parts.saturating_add(1);
        Ok(Part { index, id: String::new(), end_bytes: self.end_bytes })
    }

    pub(super) async fn complete(&mut self) -> Result<Head, Error> {
        let (staged, pieces) = (self.staged()?, self.take());
        let place = self.place.clone();
        let head = blocking(move || {
            staged.write(&pieces)?;
            staged.place(&place)
        })
        .await?;
        self.staged = None;
        Ok(head)
    }

    /// The staged file stays for a later attempt.
    pub(super) async fn leave(self) {
        let Some(staged) = self.staged else { return };
        // A thread may be writing still: what it adds is cut when the upload goes on.
        let _ = blocking(move || {
            *staged.file() = Stage::Ended;
            Ok(())
        })
        .await;
    }

    pub(super) async fn abort(&mut self) -> Result<(), Error> {
        self.take();
        let Some(staged) = self.staged.take() else { return Ok(()) };
        // Unlinking a large file takes time: not on this thread. And a thread that writes still is waited for.
        blocking(move || {
            staged.remove(&mut staged.file());
            Ok(())
        })
        .await
    }

    fn take(&mut self) -> Vec<Bytes> {
        self.gathered.take()
    }

    fn staged(&self) -> Result<Arc<Staged>, Error> {
        self.staged.clone().ok_or_else(has_ended)
    }
}

fn has_ended() -> Error {
    Error::new(ErrorKind::Failed, "this upload has ended")
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
    /// Renamed to its place, or left for a later attempt.
    Ended,
}

impl Staged {
    fn write(&self, pieces: &[Bytes]) -> Result<(), Error> {
        let mut state = self.file();
        if let Stage::None = *state {
            *state = Stage::Open(self.create()?);
        }
        let Stage::Open(file) = &mut *state else { return Err(has_ended()) };
        pieces.iter().try_for_each(|piece| file.write_all(piece)).map_err(|error| from_io(&error, "writing an object"))
    }

    fn sync(&self) -> Result<(), Error> {
        let state = self.file();
        let Stage::Open(file) = &*state else { return Err(has_ended()) };
        file.sync_data().map_err(|error| from_io(&error, "syncing an object"))
    }

    /// Opens what an earlier attempt staged and cuts what it had not synced; false when there is less than `end_bytes`.
    fn reopen(&self, end_bytes: u64) -> Result<bool, Error> {
        let mut state = self.file();
        let staging = self.staging()?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = match rustix::fs::openat(&staging, self.name.as_str(), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(from_errno(errno, "opening a staged object")),
        };
        let stat = rustix::fs::fstat(&file).map_err(|errno| from_errno(errno, "a staged object"))?;
        let is_there = is_file(&stat) && size_of(&stat) >= end_bytes;
        if is_there {
            let cut = file.set_len(end_bytes).and_then(|()| file.seek(SeekFrom::Start(end_bytes)));
            cut.map_err(|error| from_io(&error, "opening a staged object"))?;
        }
        // Dropped without an end it goes, whichever way this ends.
        *state = Stage::Open(file);
        Ok(is_there)
    }

    /// What cannot be removed now is swept later.
    fn remove(&self, state: &mut Stage) {
        if let Stage::Open(_) = std::mem::replace(state, Stage::Ended)
            && let Ok(Some(staging)) = self.shared.folders.open(&[STAGING])
        {
            let _ = rustix::fs::unlinkat(&staging, self.name.as_str(), AtFlags::empty());
        }
    }

    fn place(&self, place: &Place) -> Result<Head, Error> {
        let mut state = self.file();
        let Stage::Open(file) = &*state else { return Err(has_ended()) };
        file.sync_all().map_err(|error| from_io(&error, "syncing an object"))?;
        let stat = rustix::fs::fstat(file).map_err(|errno| from_errno(errno, "a staged object"))?;
        let (folder, name) = split(place);
        let to = self.shared.folders.make(&folder)?;
        let from = self.staging()?;
        rustix::fs::renameat(&from, self.name.as_str(), &to, name).map_err(|errno| from_errno(errno, &place.key))?;
        *state = Stage::Ended;
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
        self.remove(&mut self.file());
        self.shared.live().remove(&self.name);
    }
}
