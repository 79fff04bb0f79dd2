//! The on-disk schema: every key family, its keyspace and its bytes.
//!
//! Owns: key encoding and decoding; integers are big-endian, so that byte order is the order meant.
//! Must not know: what the values hold (see `records`), who reads them.

use sha2::{Digest as _, Sha256};

use crate::model::{DeadLetterId, JobId, JobName, OutputKind, Priority, TaskIndex, TaskRef};

use super::{QueueKey, TenantKey};

/// The four keyspaces. Each keeps its own tree of tables, so each can be flushed, and lost, apart from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    Ledger,
    Queue,
    Dlq,
    Output,
}

impl Space {
    pub const ALL: [Space; 4] = [Space::Ledger, Space::Queue, Space::Dlq, Space::Output];

    pub fn name(self) -> &'static str {
        match self {
            Space::Ledger => "ledger",
            Space::Queue => "queue",
            Space::Dlq => "dlq",
            Space::Output => "output",
        }
    }

    pub fn index(self) -> usize {
        match self {
            Space::Ledger => 0,
            Space::Queue => 1,
            Space::Dlq => 2,
            Space::Output => 3,
        }
    }
}

/// The first byte of every key. `docs/storage.md` holds the same table for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// Every keyspace: sequence and chain of the last group that touched it; in `ledger` also the counters, in `queue` the allocators.
    Mark = 0x00,
    /// ledger: `job` → job row, with its manifest inside while that is small.
    Job = 0x01,
    /// ledger: `job` → manifest and planned tasks, when too large for the job row.
    Spec = 0x02,
    /// ledger: `job, index` → task row, from its first lease on; a task without a row is ready.
    Task = 0x03,
    /// ledger: `key hash` → job and body digest.
    Idempotency = 0x04,
    /// ledger: `hash of place and URL` → the object there and the version of the resource it holds.
    Source = 0x05,
    /// ledger: `hash of name` → the job that another program calls so.
    Name = 0x06,
    /// queue: `class, tenant hash, sequence` → job with tasks never leased.
    Ready = 0x10,
    /// queue: `time, job, index` → nothing; a task that may start at that time.
    Due = 0x11,
    /// queue: `epoch` → task that is leased.
    Lease = 0x12,
    /// queue: `job` → revision whose finalize hook is owed.
    Owed = 0x13,
    /// queue: `time, job, index` → a failed attempt.
    Failure = 0x14,
    /// queue: `job, index, epoch` → a multipart upload somebody has begun.
    Upload = 0x15,
    /// queue: the durable switches.
    Controls = 0x16,
    /// queue: `job, index, epoch, part` → a part that is safely in the object store.
    UploadPart = 0x17,
    /// dlq: `time, job, index` → dead letter.
    DeadLetter = 0x20,
    /// output: `job, offset` → log record.
    Log = 0x30,
    /// output: `batch, part` → one commit's output of all jobs, compressed; gone when all of it is in blocks.
    Batch = 0x31,
    /// output: `job, kind, first ordinal` → what a block holds and what its text may contain.
    BlockHead = 0x32,
    /// output: `job, kind, first ordinal, part` → compressed records.
    Block = 0x33,
    /// output: `job, resolution, time` → a step's metrics.
    Rollup = 0x34,
}

impl Family {
    pub const ALL: [Family; 21] = [
        Family::Mark,
        Family::Job,
        Family::Spec,
        Family::Task,
        Family::Idempotency,
        Family::Source,
        Family::Name,
        Family::Ready,
        Family::Due,
        Family::Lease,
        Family::Owed,
        Family::Failure,
        Family::Upload,
        Family::Controls,
        Family::UploadPart,
        Family::DeadLetter,
        Family::Log,
        Family::Batch,
        Family::BlockHead,
        Family::Block,
        Family::Rollup,
    ];

    /// Where the family lives; `Mark` lives in every keyspace.
    pub fn space(self) -> Option<Space> {
        match self {
            Family::Mark => None,
            Family::Job | Family::Spec | Family::Task | Family::Idempotency | Family::Source | Family::Name => {
                Some(Space::Ledger)
            }
            Family::Ready
            | Family::Due
            | Family::Lease
            | Family::Owed
            | Family::Failure
            | Family::Upload
            | Family::Controls
            | Family::UploadPart => Some(Space::Queue),
            Family::DeadLetter => Some(Space::Dlq),
            Family::Log | Family::Batch | Family::BlockHead | Family::Block | Family::Rollup => Some(Space::Output),
        }
    }
}

/// A key with its keyspace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub space: Space,
    pub bytes: Vec<u8>,
}

fn key(space: Space, family: Family, parts: &[&[u8]]) -> Key {
    let mut bytes = Vec::with_capacity(32);
    bytes.push(family as u8);
    for part in parts {
        bytes.extend_from_slice(part);
    }
    Key { space, bytes }
}

pub const MARK: [u8; 1] = [Family::Mark as u8];

pub fn mark(space: Space) -> Key {
    key(space, Family::Mark, &[])
}

/// A row that means nothing: what fills up a journal file. Beside the mark, where no scan goes.
pub fn filler() -> Key {
    key(Space::Output, Family::Mark, &[&[0]])
}

pub fn job(id: JobId) -> Key {
    key(Space::Ledger, Family::Job, &[id.as_bytes()])
}

pub fn spec(id: JobId) -> Key {
    key(Space::Ledger, Family::Spec, &[id.as_bytes()])
}

pub fn task(task: TaskRef) -> Key {
    key(Space::Ledger, Family::Task, &[task.job.as_bytes(), &task.index.0.to_be_bytes()])
}

/// What all task keys of a job begin with.
pub fn tasks_of(id: JobId) -> Key {
    key(Space::Ledger, Family::Task, &[id.as_bytes()])
}

pub fn idempotency(hash: &[u8]) -> Key {
    key(Space::Ledger, Family::Idempotency, &[hash])
}

/// High before normal before low.
fn class(priority: Priority) -> u8 {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

pub fn class_index(priority: Priority) -> usize {
    usize::from(class(priority))
}

pub fn ready(priority: Priority, tenant: TenantKey, seq: u64) -> Key {
    key(Space::Queue, Family::Ready, &[&[class(priority)], &tenant.0.to_be_bytes(), &seq.to_be_bytes()])
}

/// Where the class's entries end.
pub fn ready_end(priority: Priority) -> Vec<u8> {
    key(Space::Queue, Family::Ready, &[&[class(priority) + 1]]).bytes
}

/// Times before 1970 do not occur; clamped so that order holds whatever a clock says.
fn time(at_ms: i64) -> [u8; 8] {
    u64::try_from(at_ms).unwrap_or(0).to_be_bytes()
}

pub fn due(at_ms: i64, task: TaskRef) -> Key {
    key(Space::Queue, Family::Due, &[&time(at_ms), task.job.as_bytes(), &task.index.0.to_be_bytes()])
}

/// Where tasks due at `at_ms` or later begin.
pub fn due_from(at_ms: i64) -> Vec<u8> {
    key(Space::Queue, Family::Due, &[&time(at_ms)]).bytes
}

pub fn lease(epoch: u64) -> Key {
    key(Space::Queue, Family::Lease, &[&epoch.to_be_bytes()])
}

pub fn owed(id: JobId) -> Key {
    key(Space::Queue, Family::Owed, &[id.as_bytes()])
}

pub fn failure(id: DeadLetterId) -> Key {
    key(Space::Queue, Family::Failure, &[&time(id.died_at_ms), id.task.job.as_bytes(), &id.task.index.0.to_be_bytes()])
}

pub fn upload(task: TaskRef, epoch: u64) -> Key {
    key(Space::Queue, Family::Upload, &[task.job.as_bytes(), &task.index.0.to_be_bytes(), &epoch.to_be_bytes()])
}

/// What all upload keys of a task begin with.
pub fn uploads_of(task: TaskRef) -> Key {
    key(Space::Queue, Family::Upload, &[task.job.as_bytes(), &task.index.0.to_be_bytes()])
}

pub fn upload_part(task: TaskRef, epoch: u64, part: u32) -> Key {
    let mut key = parts_of(task, epoch);
    key.bytes.extend_from_slice(&part.to_be_bytes());
    key
}

/// What all part keys of an upload begin with.
pub fn parts_of(task: TaskRef, epoch: u64) -> Key {
    key(Space::Queue, Family::UploadPart, &[task.job.as_bytes(), &task.index.0.to_be_bytes(), &epoch.to_be_bytes()])
}

pub fn source(hash: [u8; 16]) -> Key {
    key(Space::Ledger, Family::Source, &[&hash])
}

/// Of the place an object is asked to stand at and what is asked of its origin: the URL, with the headers that are sent to it.
pub fn source_hash(bucket: &str, place: &str, asked: &str) -> [u8; 16] {
    let mut digest = Sha256::new();
    for part in [bucket, place, asked] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let digest: [u8; 32] = digest.finalize().into();
    std::array::from_fn(|at| digest.get(at).copied().unwrap_or_default())
}

pub fn controls() -> Key {
    key(Space::Queue, Family::Controls, &[])
}

pub fn dead_letter(id: DeadLetterId) -> Key {
    key(Space::Dlq, Family::DeadLetter, &[&time(id.died_at_ms), id.task.job.as_bytes(), &id.task.index.0.to_be_bytes()])
}

pub fn log(id: JobId, offset: u64) -> Key {
    key(Space::Output, Family::Log, &[id.as_bytes(), &offset.to_be_bytes()])
}

pub fn name(name: &JobName) -> Key {
    let digest: [u8; 32] = Sha256::digest(name.as_str().as_bytes()).into();
    key(Space::Ledger, Family::Name, &[digest.get(..16).unwrap_or_default()])
}

pub fn batch(batch: u64, part: u16) -> Key {
    key(Space::Output, Family::Batch, &[&batch.to_be_bytes(), &part.to_be_bytes()])
}

pub fn block_head(id: JobId, kind: OutputKind, first: u64) -> Key {
    key(Space::Output, Family::BlockHead, &[id.as_bytes(), &[kind as u8], &first.to_be_bytes()])
}

pub fn block(id: JobId, kind: OutputKind, first: u64, part: u16) -> Key {
    key(Space::Output, Family::Block, &[id.as_bytes(), &[kind as u8], &first.to_be_bytes(), &part.to_be_bytes()])
}

/// `resolution`: seconds of a step.
pub fn rollup(id: JobId, resolution_s: u16, at_ms: i64) -> Key {
    key(Space::Output, Family::Rollup, &[id.as_bytes(), &resolution_s.to_be_bytes(), &time(at_ms)])
}

/// What all keys of a job in this family of the output begin with.
pub fn output_of(family: Family, id: JobId) -> Key {
    key(Space::Output, family, &[id.as_bytes()])
}

pub fn of(queue_key: QueueKey) -> Key {
    match queue_key {
        QueueKey::Ready { priority, tenant, seq } => ready(priority, tenant, seq),
        QueueKey::Due { at_ms, task } => due(at_ms, task),
    }
}

/// The smallest key greater than every key of `family`: where its scans end.
pub fn end_of(family: Family) -> Vec<u8> {
    vec![family as u8 + 1]
}

/// The smallest key greater than every key that begins with `prefix`.
pub fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// Reads a key's fields from its front. Every method answers None when the key is too short.
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// None when the key is of another family.
    pub fn of(family: Family, key: &'a [u8]) -> Option<Self> {
        let (first, rest) = key.split_first()?;
        (*first == family as u8).then_some(Self(rest))
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[b]| b)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.take::<2>().map(u16::from_be_bytes)
    }

    /// Job, kind and first ordinal of a block.
    pub fn block(&mut self) -> Option<(JobId, OutputKind, u64)> {
        Some((self.job()?, OutputKind::from_number(self.u8()?)?, self.u64()?))
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.take::<4>().map(u32::from_be_bytes)
    }

    /// The hash of a source key.
    pub fn hash(&mut self) -> Option<[u8; 16]> {
        self.take::<16>()
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.take::<8>().map(u64::from_be_bytes)
    }

    /// Class, tenant and sequence of a ready entry.
    pub fn ready(&mut self) -> Option<(u8, TenantKey, u64)> {
        Some((self.u8()?, TenantKey(self.u64()?), self.u64()?))
    }

    pub fn time(&mut self) -> Option<i64> {
        self.u64().and_then(|ms| i64::try_from(ms).ok())
    }

    pub fn job(&mut self) -> Option<JobId> {
        self.take::<16>().map(JobId::from_bytes)
    }

    pub fn task(&mut self) -> Option<TaskRef> {
        let job = self.job()?;
        let index = self.take::<2>().map(u16::from_be_bytes)?;
        Some(TaskRef { job, index: TaskIndex(index) })
    }

    pub fn timed_task(&mut self) -> Option<DeadLetterId> {
        let died_at_ms = self.time()?;
        Some(DeadLetterId { died_at_ms, task: self.task()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_task() -> impl Strategy<Value = TaskRef> {
        (any::<[u8; 16]>(), any::<u16>())
            .prop_map(|(job, index)| TaskRef { job: JobId::from_bytes(job), index: TaskIndex(index) })
    }

    proptest! {
        #[test]
        fn due_keys_sort_by_time_then_task_and_read_back(a in 0i64.., b in 0i64.., t in any_task(), u in any_task()) {
            let (x, y) = (due(a, t), due(b, u));
            prop_assert_eq!((a, t).cmp(&(b, u)), x.cmp(&y));
            let read = Fields::of(Family::Due, &x.bytes).and_then(|mut f| f.timed_task());
            prop_assert_eq!(read, Some(DeadLetterId { died_at_ms: a, task: t }));
        }

        #[test]
        fn log_keys_sort_by_offset_within_a_job(job in any::<[u8; 16]>(), a: u64, b: u64) {
            let id = JobId::from_bytes(job);
            prop_assert_eq!(a.cmp(&b), log(id, a).cmp(&log(id, b)));
        }

        #[test]
        fn job_and_task_keys_read_back_and_sort(t in any_task(), u in any_task()) {
            prop_assert_eq!(t.cmp(&u), task(t).cmp(&task(u)));
            prop_assert_eq!(t.job.cmp(&u.job), job(t.job).cmp(&job(u.job)));
            prop_assert_eq!(Fields::of(Family::Task, &task(t).bytes).and_then(|mut f| f.task()), Some(t));
        }

        #[test]
        fn part_keys_sort_by_upload_then_part_and_read_back(t in any_task(), e: u64, f: u64, p: u32, q: u32) {
            let (x, y) = (upload_part(t, e, p), upload_part(t, f, q));
            prop_assert_eq!((e, p).cmp(&(f, q)), x.cmp(&y));
            let read = |fields: &mut Fields<'_>| Some((fields.task()?, fields.u64()?, fields.u32()?));
            prop_assert_eq!(Fields::of(Family::UploadPart, &x.bytes).and_then(|mut fields| read(&mut fields)), Some((t, e, p)));
        }

        #[test]
        fn a_damaged_key_is_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            for family in Family::ALL {
                if let Some(mut fields) = Fields::of(family, &bytes) {
                    let _ = fields.timed_task();
                }
            }
        }
    }

    #[test]
    fn urgent_jobs_sort_before_patient_ones() {
        let (a, b) = (TenantKey(1), TenantKey(u64::MAX));
        assert!(ready(Priority::High, b, 9) < ready(Priority::Normal, a, 1));
        assert!(ready(Priority::Normal, b, 9) < ready(Priority::Low, a, 1));
        assert!(ready(Priority::Low, a, 1) < ready(Priority::Low, a, 256));
        assert!(ready(Priority::Low, a, 256) < ready(Priority::Low, b, 1));
        assert!(ready(Priority::Low, b, u64::MAX).bytes < ready_end(Priority::Low));
        assert!(ready_end(Priority::High) <= ready(Priority::Normal, TenantKey(0), 0).bytes);
        let read = Fields::of(Family::Ready, &ready(Priority::Normal, b, 7).bytes).and_then(|mut f| f.ready());
        assert_eq!(read, Some((1, b, 7)));
    }

    #[test]
    fn families_are_distinct_and_a_scan_ends_where_the_next_begins() {
        for pair in Family::ALL.windows(2) {
            assert!((pair[0] as u8) < (pair[1] as u8));
        }
        assert!(end_of(Family::Job) > job(JobId::MAX).bytes);
        assert!(after_prefix(&tasks_of(JobId::MAX).bytes) > task(TaskRef::manifest(JobId::MAX)).bytes);
    }
}
