//! What retention reads and deletes, as a seam: the store and the objects in a daemon, plain maps in tests.
//!
//! Owns: the seam and its live side. Must not know: what is old.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::model::{DeadLetter, DeadLetterId, Job, JobId, OutputKind, Refusal, RefusalCode, Task, TaskIndex, TaskRef};
use crate::objects::{self, ErrorKind, Objects, Place};
use crate::store::{BlockHead, Prune, Reader, Standing, Store, UploadRecord};

use super::policy::Idle;

/// Records that are deleted together or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub first: u64,
    pub last: u64,
    /// Fewer than its ordinals where lines of the job's own stand among them.
    pub records: u64,
    pub bytes: u64,
}

/// The sealer's turn for a few jobs takes milliseconds; after this the unsealed part counts as one block.
const SEAL_PATIENCE: Duration = Duration::from_secs(10);

/// Reads are short: callers ask for at most 1,000 rows at a time.
pub trait World: Send + Sync {
    fn job(&self, id: JobId) -> Result<Option<Job>, Refusal>;
    /// Oldest first.
    fn jobs_after(&self, after: JobId, rows: usize) -> Result<Vec<Job>, Refusal>;
    fn tasks(&self, id: JobId, from: TaskIndex, rows: usize) -> Result<Vec<Task>, Refusal>;
    fn standing(&self, task: TaskRef) -> Result<Standing, Refusal>;
    /// The oldest ordinal of the kind that is kept, and behind the last one given: everything between is there.
    fn kept(&self, id: JobId, kind: OutputKind) -> Result<(u64, u64), Refusal>;
    /// Blocks with ordinals from `from` on, oldest first.
    fn blocks(&self, id: JobId, kind: OutputKind, from: u64, rows: usize) -> Result<Vec<Block>, Refusal>;
    /// The first ordinal that is not in a block yet, if there is any.
    fn tail_from(&self, id: JobId, kind: OutputKind) -> Option<u64>;
    fn has_tail(&self, id: JobId) -> bool;
    /// Has the output of these jobs put into blocks, as far as it is not: else what goes whole would depend on the moment.
    fn seal(&self, jobs: Vec<JobId>) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// False: it has ended, was heard of meanwhile or is gone.
    fn end_idle(&self, id: JobId, idle: Idle) -> impl Future<Output = Result<bool, Refusal>> + Send;
    /// Jobs of which a part is deleted already, among `rows` behind `after`, and where to go on.
    fn leaving_after(&self, after: JobId, rows: usize) -> Result<(Vec<JobId>, Option<JobId>), Refusal>;
    fn has_key(&self, id: JobId) -> Result<bool, Refusal>;
    fn letter(&self, id: DeadLetterId) -> Result<Option<DeadLetter>, Refusal>;
    /// Oldest first.
    fn letters_after(&self, after: Option<DeadLetterId>, rows: usize) -> Result<Vec<DeadLetter>, Refusal>;
    fn letter_bytes(&self, id: DeadLetterId) -> Result<u64, Refusal>;
    fn letters_bytes_total(&self) -> u64;
    /// Rows of the recent failures, oldest first.
    fn failures_after(&self, after: Option<DeadLetterId>, rows: usize) -> Result<Vec<DeadLetterId>, Refusal>;
    /// Behind `after`, in the order of their keys.
    fn uploads(&self, after: Option<(TaskRef, u64)>, rows: usize) -> Result<Vec<UploadRecord>, Refusal>;
    /// Versions of objects that are known, and when each was last seen to be true.
    fn sources_after(&self, after: Option<[u8; 16]>, rows: usize) -> Result<Vec<([u8; 16], i64)>, Refusal>;

    /// How many jobs, records, keys, letters, failures and sources were really deleted; what is active or gone by now is passed
    /// over.
    fn prune(&self, items: Vec<Prune>) -> impl Future<Output = Result<u64, Refusal>> + Send;
    /// Aborts the upload and forgets it.
    fn drop_upload(&self, upload: UploadRecord) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// Multipart uploads of our own jobs that the store has and no row records, begun before `before_ms`: a kill between the
    /// two left them. How many; aborts unless `dry_run`.
    fn sweep_unrecorded(&self, before_ms: i64, dry_run: bool) -> impl Future<Output = Result<u64, Refusal>> + Send;
    /// Staged files last written before `before_ms` that no row records: how many, how many bytes. Deletes unless `dry_run`.
    fn sweep_staging(&self, before_ms: i64, dry_run: bool) -> impl Future<Output = Result<(u64, u64), Refusal>> + Send;
    fn delete_object(&self, place: Place) -> impl Future<Output = Result<(), Refusal>> + Send;
}

/// An upload is recorded a moment after it was begun: one younger than this may be on its way into the records.
const UNRECORDED_AGE_MIN_MS: i64 = 3_600_000;
/// Recorded uploads held against the store's own list.
const RECORDED_MAX: usize = 100_000;

/// The daemon's own.
#[derive(Clone)]
pub struct Live {
    pub store: Store,
    pub reader: Reader,
    pub objects: Objects,
    pub clock: Clock,
}

impl Live {
    /// A bucket may be shared, also with another FetchBox: an upload is ours when its key is one we make for a job that we have.
    /// A job's id somewhere in a key is no proof: a backup of our objects has it too.
    fn is_ours(&self, key: &str) -> Result<bool, Refusal> {
        let Some((job_type, id)) = self.objects.below_prefix(key).and_then(job_of) else { return Ok(false) };
        let job = self.reader.job(id)?;
        Ok(job.is_some_and(|job| job_type.is_none_or(|name| name == job.job_type.as_str())))
    }
}

/// The job, and its type where that is told, of a key in our own layout.
fn job_of(key: &str) -> Option<(Option<&str>, JobId)> {
    let mut segments = key.split('/');
    if let (Some("resources" | "manifests"), Some(job_type), Some(job), Some(_)) =
        (segments.next(), segments.next(), segments.next(), segments.next())
        && let Ok(job) = job.parse()
    {
        return Some((Some(job_type), job));
    }
    let mut from_end = key.rsplit('/');
    let (stage, folder) = (from_end.next()?, from_end.next()?);
    if folder != ".incoming" {
        return None;
    }
    TaskRef::of_stage(stage).map(|(task, _)| (None, task.job))
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
    fn standing(&self, task: TaskRef) -> Result<Standing, Refusal> {
        self.reader.standing(task)
    }
    fn kept(&self, id: JobId, kind: OutputKind) -> Result<(u64, u64), Refusal> {
        self.reader.kept(id, kind)
    }
    fn blocks(&self, id: JobId, kind: OutputKind, from: u64, rows: usize) -> Result<Vec<Block>, Refusal> {
        let heads = self.reader.heads_of(id, kind, from, rows)?.into_iter();
        let block = |head: BlockHead| Block {
            first: head.first,
            last: head.last,
            records: head.count(),
            bytes: head.stored_bytes,
        };
        Ok(heads.map(block).collect())
    }
    fn tail_from(&self, id: JobId, kind: OutputKind) -> Option<u64> {
        self.reader.tail(id, kind).first()
    }
    fn has_tail(&self, id: JobId) -> bool {
        self.reader.has_tail(id)
    }
    async fn seal(&self, jobs: Vec<JobId>) -> Result<(), Refusal> {
        let store = self.store.clone();
        let sealed = tokio::task::spawn_blocking(move || store.seal_now(&jobs, SEAL_PATIENCE)).await;
        sealed.map_err(|error| Refusal::new(RefusalCode::Internal, format!("sealing: {error}")))
    }
    async fn end_idle(&self, id: JobId, idle: Idle) -> Result<bool, Refusal> {
        self.store.end_idle(id, idle.since_ms, idle.phase()).await
    }
    fn leaving_after(&self, after: JobId, rows: usize) -> Result<(Vec<JobId>, Option<JobId>), Refusal> {
        self.reader.leaving_after(after, rows)
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
    fn uploads(&self, after: Option<(TaskRef, u64)>, rows: usize) -> Result<Vec<UploadRecord>, Refusal> {
        self.reader.uploads(after, rows)
    }
    fn sources_after(&self, after: Option<[u8; 16]>, rows: usize) -> Result<Vec<([u8; 16], i64)>, Refusal> {
        self.reader.sources_after(after, rows)
    }

    async fn prune(&self, items: Vec<Prune>) -> Result<u64, Refusal> {
        self.store.prune(items).await
    }
    async fn drop_upload(&self, upload: UploadRecord) -> Result<(), Refusal> {
        let place = Place { bucket: upload.bucket, key: upload.key };
        self.objects.abort(&place, &upload.upload_id).await.map_err(|error| refuse(&place, &error))?;
        // Completed, and not yet moved to the key made of its digest: nobody else has this name.
        if place.key.ends_with(&format!(".incoming/{}", upload.stage)) {
            self.objects.delete(&place).await.map_err(|error| refuse(&place, &error))?;
        }
        self.store.upload_ended(upload.task, upload.epoch).await
    }
    async fn sweep_unrecorded(&self, before_ms: i64, dry_run: bool) -> Result<u64, Refusal> {
        let before_ms = before_ms.min(self.clock.now_ms().saturating_sub(UNRECORDED_AGE_MIN_MS));
        let listed = self.objects.list_uploads().await;
        let listed = listed.map_err(|error| Refusal::new(code_of(error.kind), format!("uploads: {error}")))?;
        let recorded = self.reader.uploads(None, RECORDED_MAX)?;
        if recorded.len() == RECORDED_MAX {
            // Not all of them are seen, so none can be called unrecorded.
            return Ok(0);
        }
        let recorded: HashSet<&str> = recorded.iter().map(|upload| upload.upload_id.as_str()).collect();
        let mut swept = 0;
        for upload in listed.unwrap_or_default() {
            if upload.initiated_at_ms >= before_ms
                || recorded.contains(upload.upload_id.as_str())
                || !self.is_ours(&upload.place.key)?
            {
                continue;
            }
            if !dry_run {
                let aborted = self.objects.abort(&upload.place, &upload.upload_id).await;
                aborted.map_err(|error| refuse(&upload.place, &error))?;
            }
            swept += 1;
        }
        Ok(swept)
    }
    async fn sweep_staging(&self, before_ms: i64, dry_run: bool) -> Result<(u64, u64), Refusal> {
        let reader = self.reader.clone();
        // A row that cannot be read keeps its file: it may be the only copy of what was downloaded.
        let recorded = move |stage: &str| {
            TaskRef::of_stage(stage).is_some_and(|(task, epoch)| reader.has_upload(task, epoch).unwrap_or(true))
        };
        let swept = self.objects.sweep_staging(before_ms, dry_run, Arc::new(recorded)).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Else the sweep aborts the upload of whoever copies our objects somewhere else.
    #[test]
    fn a_key_is_ours_by_its_layout_and_not_by_an_id_in_it() {
        let job = JobId::first_at_ms(9);
        let stage = TaskRef { job, index: TaskIndex(7) }.stage(12);
        for area in ["resources", "manifests"] {
            assert_eq!(job_of(&format!("{area}/news/{job}/a/b")), Some((Some("news"), job)));
        }
        for folder in ["", "a/", "resources/x/y/"] {
            assert_eq!(job_of(&format!("{folder}.incoming/{stage}")), Some((None, job)), "{folder}");
        }
        for other in [
            format!("backup/resources/news/{job}/a"),
            format!("{job}/a"),
            format!("resources/{job}/a/b"),
            format!("resources/news/{job}"),
            format!("resources/news/x/{job}"),
            format!("old/{stage}"),
            format!(".incoming/{stage}/x"),
            format!(".incoming/{job}"),
            stage,
        ] {
            assert_eq!(job_of(&other), None, "{other}");
        }
    }
}
