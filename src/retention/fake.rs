//! A small world in memory, for tests: what a cleanup would find and what it left.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard};

use super::policy::{self, Idle};
use super::world::{Block, World};
use crate::model::{
    DeadLetter, DeadLetterId, Failure, FailureCode, Job, JobId, JobState, OutputKind, Priority, Refusal, RefusalCode,
    Task, TaskIndex, TaskRef, TaskSpec, TaskState,
};
use crate::objects::Place;
use crate::store::{Prune, Standing, UploadRecord};

/// What one letter weighs here.
pub const LETTER_BYTES: u64 = 100;

#[derive(Default, Clone)]
pub struct State {
    pub jobs: BTreeMap<JobId, Job>,
    pub tasks: BTreeMap<TaskRef, Task>,
    /// First ordinal kept; a job and kind without an entry has all.
    pub kept: BTreeMap<(JobId, OutputKind), u64>,
    pub blocks: BTreeMap<(JobId, OutputKind), Vec<Block>>,
    /// First ordinal that is not in a block.
    pub tails: BTreeMap<(JobId, OutputKind), u64>,
    pub leaving: BTreeSet<JobId>,
    pub keys: BTreeSet<JobId>,
    pub letters: BTreeMap<DeadLetterId, DeadLetter>,
    pub failures: BTreeSet<DeadLetterId>,
    pub uploads: Vec<UploadRecord>,
    pub sources: BTreeMap<[u8; 16], i64>,
    /// Times of uploads the store has and no row records.
    pub unrecorded: Vec<i64>,
    /// Times of last writing.
    pub staged: Vec<i64>,
    pub objects_deleted: Vec<Place>,
    pub objects_fail: bool,
    /// The most rows ever asked for in one read.
    pub read_most: usize,
    pub commits: usize,
}

#[derive(Default)]
pub struct Fake(Mutex<State>);

pub fn job_at(state: JobState, created_at_ms: i64, completed_at_ms: i64) -> Job {
    Job {
        id: JobId::first_at_ms(created_at_ms),
        job_type: Default::default(),
        tenant: Default::default(),
        priority: Priority::Normal,
        state,
        phase: String::new(),
        total: 2,
        completed: 0,
        failed: 0,
        canceled: 0,
        manifest_bucket: "b".into(),
        manifest_key: String::new(),
        manifest_stored: false,
        errors: Vec::new(),
        created_at_ms,
        updated_at_ms: completed_at_ms,
        completed_at_ms,
        log_count: 0,
        bytes_stored: 0,
        revision: 1,
        trace_id: String::new(),
        external: false,
        cancel_requested: false,
        name: None,
        output_counts: Vec::new(),
        output_bytes: 0,
        output_at_ms: 0,
    }
}

pub fn upload_at(task: TaskRef, id: &str, begun_at_ms: i64) -> UploadRecord {
    UploadRecord {
        task,
        epoch: 1,
        bucket: "b".into(),
        key: "k".into(),
        upload_id: id.into(),
        begun_at_ms,
        stage: task.stage(1),
        part_bytes: 8,
        etag: String::new(),
        last_modified: String::new(),
        landed: None,
        total_bytes: None,
        content_type: String::new(),
        metadata: BTreeMap::new(),
        completing: None,
    }
}

pub fn letter_at(died_at_ms: i64, job: JobId) -> DeadLetter {
    DeadLetter {
        id: DeadLetterId { died_at_ms, task: TaskRef { job, index: TaskIndex(0) } },
        job_type: Default::default(),
        tenant: Default::default(),
        spec: TaskSpec::default(),
        failure: Failure::new(FailureCode::DownloadNotFound, "404"),
        attempts: 1,
        replay_of: String::new(),
    }
}

impl Fake {
    pub fn with(state: State) -> Self {
        Self(Mutex::new(state))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn add(&self, job: Job) -> JobId {
        let id = job.id;
        self.state().jobs.insert(id, job);
        id
    }

    pub fn add_letter(&self, letter: DeadLetter) -> DeadLetterId {
        let id = letter.id;
        self.state().letters.insert(id, letter);
        id
    }

    pub fn add_task(&self, job: JobId, index: u16, state: TaskState) {
        let task = TaskRef { job, index: TaskIndex(index) };
        let row = Task {
            task,
            spec: TaskSpec::default(),
            state,
            attempts: 1,
            last_failure: None,
            replay_of: String::new(),
            updated_at_ms: 0,
            done_context: Default::default(),
        };
        self.state().tasks.insert(task, row);
    }

    fn reading(&self, rows: usize) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.read_most = state.read_most.max(rows);
        state
    }
}

fn behind<K: Ord + Copy>(after: Option<K>) -> (Bound<K>, Bound<K>) {
    (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

impl State {
    pub fn kept_from(&self, id: JobId, kind: OutputKind) -> u64 {
        self.kept.get(&(id, kind)).copied().unwrap_or(0)
    }

    /// Where a deletion ends that is to end here: before the block it would cut.
    fn cut(&self, id: JobId, kind: OutputKind, until: u64) -> u64 {
        let none = Vec::new();
        let blocks = self.blocks.get(&(id, kind)).unwrap_or(&none);
        blocks.iter().find(|block| block.first < until && until <= block.last).map_or(until, |block| block.first)
    }

    /// As the store does it: what is active or gone is passed over.
    fn prune(&mut self, item: &Prune) -> u64 {
        let terminal = |id: &JobId| self.jobs.get(id).filter(|job| job.state.is_terminal()).cloned();
        match item {
            Prune::Job(id) | Prune::Named(id) => {
                let named = matches!(item, Prune::Named(_)) && self.jobs.get(id).is_some_and(|job| job.name.is_some());
                if !named && terminal(id).is_none() {
                    return 0;
                }
                self.keys.remove(id);
                self.jobs.remove(id);
                self.leaving.remove(id);
                self.blocks.retain(|(job, _), _| job != id);
                self.tails.retain(|(job, _), _| job != id);
                1
            }
            Prune::Output { job, kind, until } => {
                let Some(job) = terminal(job) else { return 0 };
                let from = self.kept_from(job.id, *kind);
                let end = self.cut(job.id, *kind, (*until).min(job.records_of(*kind))).max(from);
                self.kept.insert((job.id, *kind), end);
                if let Some(blocks) = self.blocks.get_mut(&(job.id, *kind)) {
                    blocks.retain(|block| block.last >= end);
                }
                if end == job.records_of(*kind) {
                    self.tails.remove(&(job.id, *kind));
                }
                end - from
            }
            Prune::Idempotency(id) => u64::from(self.keys.remove(id)),
            Prune::DeadLetter(id) => u64::from(self.letters.remove(id).is_some()),
            Prune::FailureRow(id) => u64::from(self.failures.remove(id)),
            Prune::Source(hash) => u64::from(self.sources.remove(hash).is_some()),
        }
    }
}

impl World for Fake {
    fn job(&self, id: JobId) -> Result<Option<Job>, Refusal> {
        Ok(self.state().jobs.get(&id).cloned())
    }
    fn jobs_after(&self, after: JobId, rows: usize) -> Result<Vec<Job>, Refusal> {
        Ok(self.reading(rows).jobs.range(behind(Some(after))).take(rows).map(|(_, job)| job.clone()).collect())
    }
    fn tasks(&self, id: JobId, from: TaskIndex, rows: usize) -> Result<Vec<Task>, Refusal> {
        let state = self.reading(rows);
        let range = state.tasks.range(TaskRef { job: id, index: from }..TaskRef::manifest(id));
        Ok(range.take(rows).map(|(_, task)| task.clone()).collect())
    }
    fn standing(&self, task: TaskRef) -> Result<Standing, Refusal> {
        let state = self.state();
        let active = state.jobs.get(&task.job).is_some_and(|job| !job.state.is_terminal());
        Ok(match state.tasks.get(&task).map(|task| &task.state) {
            Some(TaskState::Leased { .. }) => Standing::Leased,
            Some(state) if state.is_open() => Standing::Open,
            None if active => Standing::Open,
            Some(_) | None => Standing::Closed,
        })
    }
    fn kept(&self, id: JobId, kind: OutputKind) -> Result<(u64, u64), Refusal> {
        let state = self.state();
        Ok(state.jobs.get(&id).map_or((0, 0), |job| (state.kept_from(id, kind), job.records_of(kind))))
    }
    fn blocks(&self, id: JobId, kind: OutputKind, from: u64, rows: usize) -> Result<Vec<Block>, Refusal> {
        let state = self.reading(rows);
        let blocks = state.blocks.get(&(id, kind)).into_iter().flatten();
        Ok(blocks.filter(|block| block.last >= from).take(rows).copied().collect())
    }
    fn tail_from(&self, id: JobId, kind: OutputKind) -> Option<u64> {
        self.state().tails.get(&(id, kind)).copied()
    }
    fn has_tail(&self, id: JobId) -> bool {
        self.state().tails.keys().any(|(job, _)| *job == id)
    }
    async fn seal(&self, jobs: Vec<JobId>) -> Result<(), Refusal> {
        let mut state = self.state();
        for ((id, kind), first) in std::mem::take(&mut state.tails) {
            if !jobs.contains(&id) {
                state.tails.insert((id, kind), first);
                continue;
            }
            let last = state.jobs[&id].records_of(kind) - 1;
            let block = Block { first, last, records: last + 1 - first, bytes: 10 * (last + 1 - first) };
            state.blocks.entry((id, kind)).or_default().push(block);
        }
        Ok(())
    }
    async fn end_idle(&self, id: JobId, idle: Idle) -> Result<bool, Refusal> {
        let mut state = self.state();
        let Some(job) = state.jobs.get_mut(&id) else { return Ok(false) };
        if !policy::is_idle(job, Some(idle)) {
            return Ok(false);
        }
        (job.state, job.completed_at_ms, job.phase) = (JobState::Completed, job.heard_ms(), idle.phase());
        Ok(true)
    }
    fn leaving_after(&self, after: JobId, rows: usize) -> Result<(Vec<JobId>, Option<JobId>), Refusal> {
        let jobs = self.jobs_after(after, rows)?;
        let last = jobs.last().map(|job| job.id).filter(|_| jobs.len() == rows);
        let ids = jobs.iter().map(|job| job.id);
        Ok((ids.filter(|id| self.state().leaving.contains(id)).collect(), last))
    }
    fn has_key(&self, id: JobId) -> Result<bool, Refusal> {
        Ok(self.state().keys.contains(&id))
    }
    fn letter(&self, id: DeadLetterId) -> Result<Option<DeadLetter>, Refusal> {
        Ok(self.state().letters.get(&id).cloned())
    }
    fn letters_after(&self, after: Option<DeadLetterId>, rows: usize) -> Result<Vec<DeadLetter>, Refusal> {
        Ok(self.reading(rows).letters.range(behind(after)).take(rows).map(|(_, letter)| letter.clone()).collect())
    }
    fn letter_bytes(&self, id: DeadLetterId) -> Result<u64, Refusal> {
        Ok(if self.state().letters.contains_key(&id) { LETTER_BYTES } else { 0 })
    }
    fn letters_bytes_total(&self) -> u64 {
        LETTER_BYTES * self.state().letters.len() as u64
    }
    fn failures_after(&self, after: Option<DeadLetterId>, rows: usize) -> Result<Vec<DeadLetterId>, Refusal> {
        Ok(self.reading(rows).failures.range(behind(after)).take(rows).copied().collect())
    }
    fn uploads(&self, after: Option<(TaskRef, u64)>, rows: usize) -> Result<Vec<UploadRecord>, Refusal> {
        let behind = |upload: &&UploadRecord| after.is_none_or(|after| (upload.task, upload.epoch) > after);
        let mut uploads: Vec<UploadRecord> = self.reading(rows).uploads.iter().filter(behind).cloned().collect();
        uploads.sort_by_key(|upload| (upload.task, upload.epoch));
        uploads.truncate(rows);
        Ok(uploads)
    }
    fn sources_after(&self, after: Option<[u8; 16]>, rows: usize) -> Result<Vec<([u8; 16], i64)>, Refusal> {
        let state = self.reading(rows);
        let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        Ok(state.sources.range::<[u8; 16], _>(behind).take(rows).map(|(hash, at_ms)| (*hash, *at_ms)).collect())
    }

    async fn prune(&self, items: Vec<Prune>) -> Result<u64, Refusal> {
        assert!(items.len() <= 1_000, "one group takes at most 1,000 items");
        let mut state = self.state();
        state.commits += 1;
        Ok(items.iter().map(|item| state.prune(item)).sum())
    }
    async fn drop_upload(&self, upload: UploadRecord) -> Result<(), Refusal> {
        self.state().uploads.retain(|known| *known != upload);
        Ok(())
    }
    async fn sweep_unrecorded(&self, before_ms: i64, dry_run: bool) -> Result<u64, Refusal> {
        let mut state = self.state();
        let due = state.unrecorded.iter().filter(|at| **at < before_ms).count() as u64;
        if !dry_run {
            state.unrecorded.retain(|at| *at >= before_ms);
        }
        Ok(due)
    }
    async fn sweep_staging(&self, before_ms: i64, dry_run: bool) -> Result<(u64, u64), Refusal> {
        let mut state = self.state();
        let due = state.staged.iter().filter(|at| **at < before_ms).count() as u64;
        if !dry_run {
            state.staged.retain(|at| *at >= before_ms);
        }
        Ok((due, due * 10))
    }
    async fn delete_object(&self, place: Place) -> Result<(), Refusal> {
        let mut state = self.state();
        if state.objects_fail {
            return Err(Refusal::new(RefusalCode::Unavailable, "no answer"));
        }
        state.objects_deleted.push(place);
        Ok(())
    }
}
