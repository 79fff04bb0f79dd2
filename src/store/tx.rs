//! A commit group while it is being built: what the verbs of one group see and change.
//!
//! Owns: the overlay of rows not yet written, undo of a verb that failed, the group's totals. Must not know: syncing, waiting,
//! who asked.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use prost::Message;

use super::TenantKey;
use super::keys::{self, Family, Key};
use super::output::{Committed, Counts, LiveCounts};
use super::recent::Recent;
use super::records::{self, JobRow, LogRow, TaskRow};
use super::spaces::Spaces;
use super::tally::Tally;
use crate::model::{Controls, JobId, NewLog, OutputKind, Refusal, TaskRef};

/// Keys and values, in key order.
pub type Rows = Vec<(Vec<u8>, Vec<u8>)>;

pub struct Tx<'a> {
    spaces: &'a Spaces,
    recent: &'a Recent,
    live: &'a LiveCounts,
    overlay: BTreeMap<Key, Option<Vec<u8>>>,
    /// What the running verb replaced, for undo.
    undo: Vec<(Key, Option<Option<Vec<u8>>>)>,
    /// Jobs' output beyond their rows after this group; None: the row says it all.
    counts: BTreeMap<JobId, Option<Counts>>,
    undo_counts: Vec<(JobId, Option<Option<Counts>>)>,
    pub tally: Tally,
    /// The switches, when this group turned one.
    pub controls: Option<Controls>,
    /// Epochs given and ended by this group.
    pub leased: Vec<u64>,
    pub unleased: Vec<u64>,
    /// Ready entries of which nothing is left, as class and sequence.
    pub spent: Vec<(usize, u64)>,
    /// Ready entries added by this group, as class, tenant and sequence.
    pub readied: Vec<(usize, TenantKey, u64)>,
    /// Jobs accepted by this group.
    pub created: Vec<JobId>,
    /// Jobs whose watchers wake after the commit.
    pub touched: BTreeSet<JobId>,
    /// Dispatch may have something to do.
    pub queue_moved: bool,
    /// Output of this group: the tails take it over after the commit.
    pub output: Vec<Committed>,
    /// Jobs whose unsealed output goes; with a kind only that, below the ordinal.
    pub forgotten: Vec<(JobId, Option<(OutputKind, u64)>)>,
}

impl<'a> Tx<'a> {
    pub fn new(spaces: &'a Spaces, recent: &'a Recent, live: &'a LiveCounts, tally: Tally) -> Self {
        Self {
            spaces,
            recent,
            live,
            overlay: BTreeMap::new(),
            undo: Vec::new(),
            counts: BTreeMap::new(),
            undo_counts: Vec::new(),
            tally,
            controls: None,
            leased: Vec::new(),
            unleased: Vec::new(),
            spent: Vec::new(),
            readied: Vec::new(),
            created: Vec::new(),
            touched: BTreeSet::new(),
            queue_moved: false,
            output: Vec::new(),
            forgotten: Vec::new(),
        }
    }

    /// Runs one verb: on an error nothing of it stays.
    pub fn verb<T>(&mut self, verb: impl FnOnce(&mut Self) -> Result<T, Refusal>) -> Result<T, Refusal> {
        self.undo.clear();
        self.undo_counts.clear();
        let tally = self.tally;
        let lengths =
            (self.leased.len(), self.unleased.len(), self.spent.len(), self.created.len(), self.readied.len());
        let output = (self.output.len(), self.forgotten.len());
        let result = verb(self);
        if result.is_err() {
            self.tally = tally;
            self.leased.truncate(lengths.0);
            self.unleased.truncate(lengths.1);
            self.spent.truncate(lengths.2);
            self.created.truncate(lengths.3);
            self.readied.truncate(lengths.4);
            self.output.truncate(output.0);
            self.forgotten.truncate(output.1);
            for (key, before) in std::mem::take(&mut self.undo).into_iter().rev() {
                match before {
                    Some(before) => self.overlay.insert(key, before),
                    None => self.overlay.remove(&key),
                };
            }
            for (job, before) in std::mem::take(&mut self.undo_counts).into_iter().rev() {
                match before {
                    Some(before) => self.counts.insert(job, before),
                    None => self.counts.remove(&job),
                };
            }
        }
        result
    }

    pub fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, Refusal> {
        if let Some(value) = self.overlay.get(key) {
            return Ok(value.clone());
        }
        if let Some(value) = self.recent.get(key) {
            return Ok(Some(value));
        }
        Ok(self.spaces.get(key)?.map(|value| value.to_vec()))
    }

    pub fn put(&mut self, key: Key, value: Vec<u8>) {
        self.set(key, Some(value));
    }

    pub fn put_row(&mut self, key: Key, row: &impl Message) {
        self.set(key, Some(row.encode_to_vec()));
    }

    pub fn delete(&mut self, key: Key) {
        self.set(key, None);
    }

    fn set(&mut self, key: Key, value: Option<Vec<u8>>) {
        let before = self.overlay.insert(key.clone(), value);
        self.undo.push((key, before));
    }

    /// Rows whose keys begin with `prefix`, at most `limit`, this group's own changes included.
    pub fn scan(&self, prefix: &Key, limit: usize) -> Result<Rows, Refusal> {
        let end = Key { space: prefix.space, bytes: keys::after_prefix(&prefix.bytes) };
        self.scan_range(prefix, &end, limit)
    }

    /// The same from one key up to, not including, another of the same keyspace.
    pub fn scan_range(&self, from: &Key, end: &Key, limit: usize) -> Result<Rows, Refusal> {
        let changed: Vec<_> = self.overlay.range((Bound::Included(from), Bound::Excluded(end))).collect();
        let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for row in self.spaces.range(from.space, &from.bytes, &end.bytes) {
            if rows.len() >= limit.saturating_add(changed.len()) {
                break;
            }
            let (key, value) = row?;
            rows.insert(key.to_vec(), value.to_vec());
        }
        for (key, value) in changed {
            match value {
                Some(value) => rows.insert(key.bytes.clone(), value.clone()),
                None => rows.remove(&key.bytes),
            };
        }
        Ok(rows.into_iter().take(limit).collect())
    }

    /// Only the keys, for deletions: values may be large.
    pub fn scan_keys(&self, from: &Key, end: &Key, limit: usize) -> Result<Vec<Key>, Refusal> {
        let changed: Vec<_> = self.overlay.range((Bound::Included(from), Bound::Excluded(end))).collect();
        let mut found = BTreeSet::new();
        for row in self.spaces.range(from.space, &from.bytes, &end.bytes) {
            if found.len() >= limit.saturating_add(changed.len()) {
                break;
            }
            found.insert(Key { space: from.space, bytes: row?.0.to_vec() });
        }
        for (key, value) in changed {
            if value.is_some() {
                found.insert(key.clone())
            } else {
                found.remove(key)
            };
        }
        Ok(found.into_iter().take(limit).collect())
    }

    pub fn row<M: Message + Default>(&self, family: Family, key: &Key) -> Result<Option<M>, Refusal> {
        let what = format!("{family:?}");
        self.get(key)?.map(|bytes| records::decode(&what, &bytes)).transpose()
    }

    /// With all of its output counted.
    pub fn job(&self, id: JobId) -> Result<Option<JobRow>, Refusal> {
        let mut row: Option<JobRow> = self.row(Family::Job, &keys::job(id))?;
        if let (Some(row), Some(counts)) = (&mut row, self.counts_beyond(id)) {
            counts.raise(row);
        }
        Ok(row)
    }

    /// What the job's row does not say yet.
    fn counts_beyond(&self, id: JobId) -> Option<Counts> {
        self.counts.get(&id).copied().unwrap_or_else(|| self.live.get(id))
    }

    pub fn is_job_row_behind(&self, id: JobId) -> bool {
        self.counts_beyond(id).is_some()
    }

    /// The job's output so far, unless it is gone or being deleted.
    pub fn counts(&self, id: JobId) -> Result<Option<Counts>, Refusal> {
        match self.counts_beyond(id) {
            Some(counts) => Ok(Some(counts)),
            None => Ok(self.staying_job(id)?.map(|row| Counts::of(&row))),
        }
    }

    pub fn set_counts(&mut self, id: JobId, counts: Counts) {
        let before = self.counts.insert(id, Some(counts));
        self.undo_counts.push((id, before));
    }

    /// Writes the row of [`Self::job`], in which all output is counted.
    pub fn put_job_row(&mut self, id: JobId, row: &JobRow) {
        self.put_row(keys::job(id), row);
        self.forget_counts(id);
    }

    pub fn delete_job_row(&mut self, id: JobId) {
        self.delete(keys::job(id));
        self.forget_counts(id);
    }

    fn forget_counts(&mut self, id: JobId) {
        if !self.is_job_row_behind(id) {
            return;
        }
        let before = self.counts.insert(id, None);
        self.undo_counts.push((id, before));
    }

    /// What this group says of jobs' output; None: their rows say it all.
    pub fn take_counts(&mut self) -> BTreeMap<JobId, Option<Counts>> {
        std::mem::take(&mut self.counts)
    }

    /// The job, unless it is being deleted.
    pub fn staying_job(&self, id: JobId) -> Result<Option<JobRow>, Refusal> {
        Ok(self.job(id)?.filter(|row| !row.leaving))
    }

    /// NOT_FOUND when there is none.
    pub fn job_or_refuse(&self, id: JobId) -> Result<JobRow, Refusal> {
        self.staying_job(id)?.ok_or_else(|| self.no_job(id))
    }

    /// The id that clients see. The row of a job that is being deleted still tells it.
    pub fn shown(&self, id: JobId) -> String {
        self.job(id).ok().flatten().map_or_else(|| id.to_string(), |row| row.shown(id))
    }

    pub fn no_job(&self, id: JobId) -> Refusal {
        let shown = self.shown(id);
        Refusal::not_found(format!("job {shown}")).with_job(shown)
    }

    /// Writes a changed job: one revision further, its watchers woken.
    pub fn put_job(&mut self, id: JobId, mut row: JobRow, now_ms: i64) {
        row.revision += 1;
        row.updated_at_ms = now_ms.max(row.updated_at_ms);
        self.put_job_row(id, &row);
        self.touched.insert(id);
    }

    pub fn task(&self, task: TaskRef) -> Result<Option<TaskRow>, Refusal> {
        self.row(Family::Task, &keys::task(task))
    }

    pub fn put_task(&mut self, task: TaskRef, row: &TaskRow) {
        self.put_row(keys::task(task), row);
    }

    /// Appends to the job's record sequence; `row` is the job's, to be written by the caller.
    pub fn append_log(&mut self, id: JobId, row: &mut JobRow, log: NewLog) {
        self.put_row(keys::log(id, row.log_count), &LogRow::from_log(log));
        row.log_count += 1;
    }

    /// The group's rows, in key order.
    pub fn take_changes(&mut self) -> BTreeMap<Key, Option<Vec<u8>>> {
        std::mem::take(&mut self.overlay)
    }
}
