//! What the verbs take and give.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::model::{
    DeadLetterId, Failure, Job, JobId, JobState, JobType, Manifest, NewLog, OutputKind, Priority, Refusal,
    StoredObject, TaskIndex, TaskRef, TaskSpec, Tenant, Validators,
};

/// A job that passed every check.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub id: JobId,
    pub job_type: JobType,
    pub tenant: Tenant,
    pub priority: Priority,
    pub trace_id: String,
    /// Has no resources; moved by clients.
    pub external: bool,
    pub idempotency: Option<Idempotency>,
    pub manifest: Manifest,
    /// One per resource task, in order. A handler may plan other tasks than the manifest's resources.
    pub tasks: Vec<TaskSpec>,
    pub manifest_bucket: String,
    pub manifest_key: String,
    pub now_ms: i64,
    /// RATE_LIMITED when more tasks than this would be open.
    pub open_tasks_max: u64,
    /// Attempts of the job's resources that may run at once; 0: no limit of its own.
    pub parallel_max: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idempotency {
    /// First half of SHA-256 over tenant, job type and key.
    pub key: [u8; 16],
    /// SHA-256 of the manifest's canonical form.
    pub body: [u8; 32],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    pub job: JobId,
    pub manifest_key: String,
    pub resource_count: u32,
    pub duplicate: bool,
}

/// A tenant as the ready index sorts it: the first eight bytes of the SHA-256 of its name. Two tenants with one key would
/// share their turns and nothing else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantKey(pub u64);

impl TenantKey {
    pub fn of(tenant: &Tenant) -> Self {
        let digest: [u8; 32] = Sha256::digest(tenant.as_str().as_bytes()).into();
        Self(digest.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte)))
    }
}

/// Where in the queue a task was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QueueKey {
    Ready { priority: Priority, tenant: TenantKey, seq: u64 },
    Due { at_ms: i64, task: TaskRef },
}

#[derive(Debug, Clone, Copy)]
pub struct LeaseWant {
    pub task: TaskRef,
    pub from: QueueKey,
    pub until_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub task: TaskRef,
    /// Greater than every epoch before it: a result that names an older one is refused.
    pub epoch: u64,
    /// Counts from 1.
    pub attempt: u32,
    pub tried: Tried,
}

/// What came of ends and beginnings that went into one group: each half stands for itself.
#[derive(Debug)]
pub struct Turned {
    pub settled: Result<Vec<Settled>, Refusal>,
    /// None where the task is no longer to be had.
    pub leased: Result<Vec<Option<Lease>>, Refusal>,
}

/// What has failed of a task before, by the budget it was charged to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tried {
    pub downloads: u32,
    pub uploads: u32,
    pub throttled: u32,
}

#[derive(Debug, Clone)]
pub struct Settlement {
    pub task: TaskRef,
    pub epoch: u64,
    pub now_ms: i64,
    pub started_at_ms: i64,
    pub end: End,
    /// The attempt's line in the job's log, written in the same batch.
    pub log: Option<NewLog>,
}

#[derive(Debug, Clone)]
pub enum End {
    /// A resource's object is in the store.
    Stored {
        object: StoredObject,
        /// Which version of the resource it is.
        validators: Validators,
        /// How the attempt went, as [`crate::model::Way`] tells it.
        context: std::collections::BTreeMap<String, String>,
    },
    /// The manifest task only.
    ManifestStored,
    /// Failed, to be tried again.
    Retry { failure: Failure, not_before_ms: i64 },
    /// Not counted as an attempt: storage is parked, or the daemon stops.
    Released { failure: Option<Failure>, not_before_ms: i64 },
    /// Given up: a dead letter is written.
    Dead(Failure),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// `ended`: the job's terminal state if this was its last open task.
    Applied {
        ended: Option<JobState>,
    },
    Stale,
}

#[derive(Debug, Clone)]
pub struct Canceled {
    pub job: Job,
    /// Attempts that run now and should be stopped; their results will be refused.
    pub running: Vec<TaskRef>,
}

/// The job a dead letter is replayed into when its own is not kept any more.
#[derive(Debug, Clone)]
pub struct FreshJob {
    pub id: JobId,
    pub manifest_bucket: String,
    pub manifest_key: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    pub job: JobId,
    pub task: TaskIndex,
}

/// A client's change of a job. For a job with resources only phase and message.
#[derive(Debug, Clone)]
pub struct StatusChange {
    pub job: JobId,
    /// None: leave it.
    pub state: Option<JobState>,
    pub phase: Option<String>,
    pub failure: Option<Failure>,
    /// None: whatever it is.
    pub expected_revision: Option<u64>,
    pub now_ms: i64,
}

/// One thing to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prune {
    /// A terminal job with everything of it; its dead letters stay.
    Job(JobId),
    /// A job that another program named, with everything of it, whatever its state.
    Named(JobId),
    /// A terminal job's records of one kind with ordinals below `until`; of logs also its own lines. Blocks go whole: one that reaches
    /// beyond ends it.
    Output {
        job: JobId,
        kind: OutputKind,
        until: u64,
    },
    /// The idempotency key of a job.
    Idempotency(JobId),
    DeadLetter(DeadLetterId),
    /// One recent-failure row.
    FailureRow(DeadLetterId),
    /// What is known of an object's version, by its hash.
    Source([u8; 16]),
}

/// What one group has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many things are really gone: jobs, records, keys, letters, sources.
    pub gone: u64,
    /// The same items again find more.
    pub more: bool,
}

impl Pruned {
    pub fn one(gone: bool) -> Self {
        Self { gone: u64::from(gone), more: false }
    }
}

/// An upload somebody has begun. Its key is its task and the epoch of the attempt that began it, also when a later attempt
/// continues it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadRecord {
    pub task: TaskRef,
    pub epoch: u64,
    pub bucket: String,
    pub key: String,
    /// S3: the multipart upload's id. Local: the stage.
    pub upload_id: String,
    pub begun_at_ms: i64,
    /// The mark of the attempt that began it.
    pub stage: String,
    /// Every part but the last has this many bytes.
    pub part_bytes: u64,
    /// As the origin sent them; empty: none.
    pub etag: String,
    pub last_modified: String,
    /// SHA-256 of the URL that its redirects ended at.
    pub landed: Option<[u8; 32]>,
    /// What the origin declared of the whole body.
    pub total_bytes: Option<u64>,
    pub content_type: String,
    pub metadata: BTreeMap<String, String>,
    /// The whole body's SHA-256 and size, once its completion was asked for.
    pub completing: Option<([u8; 32], u64)>,
}

/// One part of an upload that is safely in the object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadPart {
    /// From 0.
    pub index: u32,
    pub part_id: String,
    /// Bytes of the body up to its end.
    pub end_bytes: u64,
    pub digest_state: Vec<u8>,
}

/// An object, and by what its origin tells the version it holds from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub object: StoredObject,
    pub etag: String,
    pub last_modified: String,
    /// When it was last seen to be true, Unix ms.
    pub at_ms: i64,
}

/// What earlier attempts of a task have left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Left {
    /// The daemon died during the attempt before.
    pub interrupted: bool,
    /// The upload begun last, with its parts in order.
    pub upload: Option<(UploadRecord, Vec<UploadPart>)>,
}
