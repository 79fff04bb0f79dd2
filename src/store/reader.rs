//! The read side: has no way to write. Every scan is bounded by its arguments; a damaged row is an error, never a short list.
//!
//! Owns: rows → model for everybody outside the committer. Must not know: verbs, groups, who asks.

mod jobs;
mod metrics;
mod output;
mod queue;
mod uploads;

pub use output::{LogSlice, OutputLimit, OutputSlice};
pub use uploads::Standing;

pub use queue::ReadyTenants;

use std::collections::BTreeMap;
use std::sync::Arc;

use fjall::{UserKey, UserValue};
use prost::Message;
use tokio::sync::watch;

use super::keys::{Family, Fields, Key, Space};
use super::output::Tails;
use super::published::{JobWatch, Published};
use super::recent::Recent;
use super::records::{self, damaged};
use super::spaces::Spaces;
use super::{QueueKey, TenantKey, UploadRecord};
use crate::model::{
    Controls, FailureCode, JobId, JobState, JobType, Priority, Refusal, TaskIndex, TaskRef, TaskSpec, Tenant,
};

#[derive(Clone)]
pub struct Reader {
    spaces: Spaces,
    published: Arc<Published>,
    /// By class: at boot no ready entry stood below.
    ready_floor: [u64; 3],
    pub(super) tails: Arc<Tails>,
    recent: Arc<Recent>,
}

/// What dispatch needs of a job to run its tasks.
#[derive(Debug, Clone)]
pub struct Plan {
    pub job: JobId,
    pub job_type: JobType,
    pub tenant: Tenant,
    pub priority: Priority,
    pub trace_id: String,
    pub created_at_ms: i64,
    pub manifest_bucket: String,
    pub manifest_key: String,
    pub manifest_open: bool,
    pub tasks: Vec<TaskSpec>,
    /// Attempts of the job's resources that may run at once; 0: no limit of its own.
    pub parallel_max: u32,
    /// About what this plan occupies in memory.
    pub bytes: usize,
}

/// One entry of the ready index: tasks of one job that may start.
#[derive(Debug, Clone)]
pub struct ReadyEntry {
    pub key: QueueKey,
    pub plan: Arc<Plan>,
    /// Those of the entry that are still ready, the manifest's own first, then in order.
    pub tasks: Vec<TaskIndex>,
}

#[derive(Debug, Clone, Default)]
pub struct ReadyPage {
    pub entries: Vec<ReadyEntry>,
    /// Entries whose job is not kept any more: nothing of them is left to lease.
    pub gone: Vec<QueueKey>,
    /// What could not be read and was passed over.
    pub damaged: Vec<Refusal>,
    /// Continue after this sequence.
    pub next_seq: u64,
    /// Nothing stood behind `next_seq` when the page was read.
    pub end: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueCursor {
    pub at_ms: i64,
    pub task: Option<TaskRef>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueEntry {
    pub at_ms: i64,
    pub task: TaskRef,
}

/// Totals kept with each commit group: exact, and free to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    pub jobs: BTreeMap<JobState, u64>,
    /// Tasks not ended, manifest tasks included.
    pub tasks_open: u64,
    pub tasks_leased: u64,
    /// By failure code.
    pub dead_letters: BTreeMap<String, u64>,
    pub dead_letter_bytes: u64,
}

#[derive(Debug, Clone, Default)]
pub struct Sizes {
    pub keyspaces: BTreeMap<&'static str, u64>,
    pub journal_bytes: u64,
    pub free_disk_bytes: u64,
    /// 0: not known.
    pub disk_bytes: u64,
}

impl Reader {
    pub(super) fn new(
        spaces: Spaces,
        published: Arc<Published>,
        ready_floor: [u64; 3],
        tails: Arc<Tails>,
        recent: Arc<Recent>,
    ) -> Self {
        Self { spaces, published, ready_floor, tails, recent }
    }

    fn row<M: Message + Default>(&self, family: Family, key: &Key) -> Result<Option<M>, Refusal> {
        let what = format!("{family:?}");
        self.spaces.get(key)?.map(|bytes| records::decode(&what, &bytes)).transpose()
    }

    /// Up to `rows` rows of a family in `from..until`.
    fn rows(
        &self,
        space: Space,
        from: &[u8],
        until: &[u8],
        rows: usize,
    ) -> impl Iterator<Item = Result<(UserKey, UserValue), Refusal>> + use<> {
        self.spaces.range(space, from, until).take(rows)
    }

    pub fn controls(&self) -> Controls {
        Controls::clone(&self.published.controls())
    }

    pub fn counters(&self) -> Counters {
        let tally = self.published.tally();
        let letters = FailureCode::ALL.iter().zip(tally.dead_letters).filter(|(_, count)| *count > 0);
        Counters {
            jobs: JobState::ALL.into_iter().zip(tally.jobs).collect(),
            tasks_open: tally.tasks_open,
            tasks_leased: tally.tasks_leased,
            dead_letters: letters.map(|(code, count)| (code.as_str().to_owned(), count)).collect(),
            dead_letter_bytes: tally.dead_letter_bytes,
        }
    }

    /// Highest durable commit group.
    pub fn sequence(&self) -> u64 {
        self.published.sequence()
    }

    pub fn sizes(&self) -> Sizes {
        let (tables, journal_bytes) = self.spaces.sizes();
        Sizes {
            keyspaces: Space::ALL.into_iter().map(Space::name).zip(tables).collect(),
            journal_bytes,
            free_disk_bytes: self.published.free_bytes(),
            disk_bytes: self.published.disk_bytes(),
        }
    }

    /// None while the store serves; else why it does not.
    pub fn fault(&self) -> Option<String> {
        self.published.fault()
    }

    /// Why new jobs are refused for want of disk, as (free, wanted) bytes.
    pub fn short_of_room(&self) -> Option<(u64, u64)> {
        self.published.short_of_room()
    }

    /// Why output is not taken for want of disk, as (free, wanted) bytes: earlier than new jobs.
    pub fn short_of_output_room(&self) -> Option<(u64, u64)> {
        self.published.short_of_output_room()
    }

    /// Whether anybody waits for changes of one of these jobs.
    pub fn is_any_watched(&self, ids: impl Iterator<Item = JobId>) -> bool {
        self.published.is_any_watched(ids)
    }

    pub fn watch_job(&self, id: JobId) -> JobWatch {
        self.published.watch_job(id)
    }

    /// Ticks when a commit may have given dispatch something to do, and when the store stops serving.
    pub fn queue_watch(&self) -> watch::Receiver<u64> {
        self.published.queue_watch()
    }

    /// Says why, once the store can serve no longer.
    pub fn fault_watch(&self) -> watch::Receiver<Option<String>> {
        self.published.fault_watch()
    }
}

/// Reads a key's fields, or DATA_LOSS.
fn key_of<T>(family: Family, key: &[u8], read: impl FnOnce(&mut Fields<'_>) -> Option<T>) -> Result<T, Refusal> {
    Fields::of(family, key).and_then(|mut fields| read(&mut fields)).ok_or_else(|| damaged(format!("a {family:?} key")))
}

/// The smallest key greater than `key`: where a scan goes on.
fn just_after(key: &Key) -> Vec<u8> {
    let mut next = key.bytes.clone();
    next.push(0);
    next
}
