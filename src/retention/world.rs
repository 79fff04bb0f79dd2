//! What retention reads and deletes, as a seam: the store and the objects in a daemon, plain maps in tests.
//!
//! Owns: the seam and its live side. Must not know: what is old.

use std::future::Future;

use crate::model::{DeadLetter, DeadLetterId, Job, JobId, Refusal, RefusalCode, Task, TaskIndex, TaskRef};
use crate::objects::{self, ErrorKind, Objects, Place};
use crate::store::{Prune, Reader, Store, UploadRecord};

/// Reads are short: callers ask for at most 1,000 rows at a time.
pub trait World: Send + Sync {
    fn job(&self, id: JobId) -> Result<Option<Job>, Refusal>;
    /// Oldest first.
    fn jobs_after(&self, after: JobId, rows: usize) -> Result<Vec<Job>, Refusal>;
    fn tasks(&self, id: JobId, from: TaskIndex, rows: usize) -> Result<Vec<Task>, Refusal>;
    /// Whether a lease of this epoch holds the task now.
    fn holds_lease(&self, task: TaskRef, epoch: u64) -> Result<bool, Refusal>;
    /// The oldest log offset that is kept; the job's `log_count` when none is.
    fn logs_from(&self, id: JobId) -> Result<u64, Refusal>;
    fn has_key(&self, id: JobId) -> Result<bool, Refusal>;
    fn letter(&self, id: DeadLetterId) -> Result<Option<DeadLetter>, Refusal>;
    /// Oldest first.
    fn letters_after(&self, after: Option<DeadLetterId>, rows: usize) -> Result<Vec<DeadLetter>, Refusal>;
    fn letter_bytes(&self, id: DeadLetterId) -> Result<u64, Refusal>;
    fn letters_bytes_total(&self) -> u64;
    /// Rows of the recent failures, oldest first.
    fn failures_after(&self, after: Option<DeadLetterId>, rows: usize) -> Result<Vec<DeadLetterId>, Refusal>;
    fn uploads(&self, rows: usize) -> Result<Vec<UploadRecord>, Refusal>;

    /// How many jobs, log records, keys, letters and failures were really deleted; what is active or gone by now is passed
    /// over.
    fn prune(&self, items: Vec<Prune>) -> impl Future<Output = Result<u64, Refusal>> + Send;
    /// Aborts the upload and forgets it.
    fn drop_upload(&self, upload: UploadRecord) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// Staged files last written before `before_ms`: how many, how many bytes. Deletes unless `dry_run`.
    fn sweep_staging(&self, before_ms: i64, dry_run: bool) -> impl Future<Output = Result<(u64, u64), Refusal>> + Send;
    fn delete_object(&self, place: Place) -> impl Future<Output = Result<(), Refusal>> + Send;
}

/// The daemon's own.
#[derive(Clone)]
pub struct Live {
    pub store: Store,
    pub reader: Reader,
    pub objects: Objects,
}

impl World for Live {
    fn job(&self, id: JobId) -> Result<Option<Job>, Refusal> {
        self.reader.job(id)
    }
    fn jobs_after(&self, after: JobId, rows: usize) -> Result<Vec<Job>, Refusal> {
        self.reader.jobs_after(after, rows)
    }
    fn tasks(&self, id: JobId, from: TaskIndex, rows: usize) -> Result<Vec<Task>, Refusal> {
        self.reader.tasks(id, from, rows)
    }
    fn holds_lease(&self, task: TaskRef, epoch: u64) -> Result<bool, Refusal> {
        self.reader.holds_lease(task, epoch)
    }
    fn logs_from(&self, id: JobId) -> Result<u64, Refusal> {
        self.reader.logs_from(id)
    }
    fn has_key(&self, id: JobId) -> Result<bool, Refusal> {
        self.reader.has_idempotency_key(id)
    }
    fn letter(&self, id: DeadLetterId) -> Result<Option<DeadLetter>, Refusal> {
        self.reader.dead_letter(id)
    }
    fn letters_after(&self, after: Option<DeadLetterId>, rows: usize) -> Result<Vec<DeadLetter>, Refusal> {
        self.reader.dead_letters(after, rows)
    }
    fn letter_bytes(&self, id: DeadLetterId) -> Result<u64, Refusal> {
        self.reader.dead_letter_bytes(id)
    }
    fn letters_bytes_total(&self) -> u64 {
        self.reader.counters().dead_letter_bytes
    }
    fn failures_after(&self, after: Option<DeadLetterId>, rows: usize) -> Result<Vec<DeadLetterId>, Refusal> {
        Ok(self.reader.failures_after(after, rows)?.into_iter().map(|(id, ..)| id).collect())
    }
    fn uploads(&self, rows: usize) -> Result<Vec<UploadRecord>, Refusal> {
        self.reader.uploads(rows)
    }

    async fn prune(&self, items: Vec<Prune>) -> Result<u64, Refusal> {
        self.store.prune(items).await
    }
    async fn drop_upload(&self, upload: UploadRecord) -> Result<(), Refusal> {
        let place = Place { bucket: upload.bucket.clone(), key: upload.key.clone() };
        self.objects.abort(&place, &upload.upload_id).await.map_err(|error| refuse(&place, &error))?;
        self.store.upload_ended(upload).await
    }
    async fn sweep_staging(&self, before_ms: i64, dry_run: bool) -> Result<(u64, u64), Refusal> {
        let swept = self.objects.sweep_staging(before_ms, dry_run).await;
        swept.map_err(|error| Refusal::new(code_of(error.kind), format!("staged files: {error}")))
    }
    async fn delete_object(&self, place: Place) -> Result<(), Refusal> {
        self.objects.delete(&place).await.map_err(|error| refuse(&place, &error))
    }
}

fn refuse(place: &Place, error: &objects::Error) -> Refusal {
    Refusal::new(code_of(error.kind), format!("object {}/{}: {error}", place.bucket, place.key))
}

fn code_of(kind: ErrorKind) -> RefusalCode {
    match kind {
        ErrorKind::Unavailable | ErrorKind::Failed | ErrorKind::Denied | ErrorKind::Full => RefusalCode::Unavailable,
        // The same deletion would be refused again.
        ErrorKind::Rejected => RefusalCode::IllegalState,
    }
}
