//! Reading the queue: what may start, now and later.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{DueCursor, DueEntry, Plan, Reader, ReadyEntry, ReadyPage, just_after, key_of};
use crate::model::{JobId, Priority, Refusal, TaskIndex, TaskSpec};
use crate::store::QueueKey;
use crate::store::keys::{self, Family, Key, Space};
use crate::store::records::{self, ReadyRow};

/// Entries looked at for one page: an entry without tasks costs a read all the same.
const READY_ROWS_MAX: usize = 1_024;

impl Reader {
    pub fn plan(&self, id: JobId) -> Result<Option<Arc<Plan>>, Refusal> {
        let Some(row) = self.job_row(id)? else { return Ok(None) };
        let tasks = self.spec(id, &row)?.into_tasks()?;
        Ok(Some(Arc::new(Plan {
            job: id,
            job_type: row.job_type()?,
            tenant: row.tenant()?,
            priority: row.priority(),
            bytes: 512 + tasks.iter().map(memory_of).sum::<usize>(),
            tasks,
            trace_id: row.trace_id,
            created_at_ms: row.created_at_ms,
            manifest_bucket: row.manifest_bucket,
            manifest_key: row.manifest_key,
            manifest_stored: row.manifest_stored,
        })))
    }

    /// Ready entries of one class with sequences above `after`, until `tasks` tasks are found.
    pub fn ready_after(&self, priority: Priority, after: u64, tasks: usize) -> Result<ReadyPage, Refusal> {
        let floor = self.ready_floor.get(keys::class_index(priority)).copied().unwrap_or(0);
        let first = floor.max(after.saturating_add(1));
        let (from, until) = (keys::ready(priority, first), keys::ready(priority, u64::MAX));
        let mut page = ReadyPage { entries: Vec::new(), next_seq: after.max(first.saturating_sub(1)), end: true };
        let mut found = 0;
        let mut rows = self.spaces.range(Space::Queue, &from.bytes, &until.bytes);
        for seen in 0.. {
            if found >= tasks || seen >= READY_ROWS_MAX {
                page.end = rows.next().is_none();
                break;
            }
            let Some(row) = rows.next() else { break };
            let (key, value) = row?;
            let seq = key_of(Family::Ready, &key, |fields| fields.u8().and_then(|_| fields.u64()))?;
            page.next_seq = seq;
            let job = records::decode::<ReadyRow>("ready", &value)?.job()?;
            // Deleted between the two reads: its entry is gone as well.
            let Some(plan) = self.plan(job)? else { continue };
            let ready = self.never_leased(&plan)?;
            found += ready.len().max(1);
            page.entries.push(ReadyEntry { key: QueueKey::Ready { priority, seq }, plan, tasks: ready });
        }
        Ok(page)
    }

    /// The manifest's task first, then the resources', as far as they have no row.
    fn never_leased(&self, plan: &Plan) -> Result<Vec<TaskIndex>, Refusal> {
        let prefix: Key = keys::tasks_of(plan.job);
        let mut diverged = BTreeSet::new();
        for row in self.spaces.range(Space::Ledger, &prefix.bytes, &keys::after_prefix(&prefix.bytes)) {
            let (key, _) = row?;
            diverged.insert(key_of(Family::Task, &key, |fields| fields.task())?.index);
        }
        let manifest = (!plan.manifest_stored).then_some(TaskIndex::MANIFEST);
        let resources = (0..plan.tasks.len()).filter_map(|index| u16::try_from(index).ok()).map(TaskIndex);
        Ok(manifest.into_iter().chain(resources).filter(|index| !diverged.contains(index)).collect())
    }

    /// Tasks due up to `until_ms`, in order of time, after `from`.
    pub fn due_after(&self, from: DueCursor, until_ms: i64, rows: usize) -> Result<Vec<DueEntry>, Refusal> {
        let first = match from.task {
            Some(task) => just_after(&keys::due(from.at_ms, task)),
            None => keys::due_from(from.at_ms),
        };
        let until = keys::due_from(until_ms.saturating_add(1));
        if first >= until {
            return Ok(Vec::new());
        }
        let entry = |row: Result<(fjall::UserKey, fjall::UserValue), Refusal>| {
            let (key, _) = row?;
            let id = key_of(Family::Due, &key, |fields| fields.timed_task())?;
            Ok(DueEntry { at_ms: id.died_at_ms, task: id.task })
        };
        self.rows(Space::Queue, &first, &until, rows).map(entry).collect()
    }

    /// Jobs whose finalize hook is owed, with the revision it is owed for.
    pub fn owed_after(&self, after: JobId, rows: usize) -> Result<Vec<(JobId, u64)>, Refusal> {
        let from = just_after(&keys::owed(after));
        let owed = |row: Result<(fjall::UserKey, fjall::UserValue), Refusal>| {
            let (key, value) = row?;
            let revision: [u8; 8] = value.as_ref().try_into().map_err(|_| records::damaged("owed row"))?;
            Ok((key_of(Family::Owed, &key, |fields| fields.job())?, u64::from_be_bytes(revision)))
        };
        self.rows(Space::Queue, &from, &keys::end_of(Family::Owed), rows).map(owed).collect()
    }

    /// The revision whose finalize hook the job owes, if it does.
    pub fn owed(&self, id: JobId) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.spaces.get(&keys::owed(id))? else { return Ok(None) };
        let revision: [u8; 8] = value.as_ref().try_into().map_err(|_| records::damaged("owed row"))?;
        Ok(Some(u64::from_be_bytes(revision)))
    }
}

/// About what a planned task occupies in memory.
fn memory_of(task: &TaskSpec) -> usize {
    let headers: usize = task.headers.iter().map(|header| header.name.len() + header.value.len() + 48).sum();
    let pairs: usize =
        task.tags.iter().chain(&task.object_metadata).map(|(key, value)| key.len() + value.len() + 64).sum();
    size_of::<TaskSpec>() + task.resource_id.len() + task.url.len() + headers + pairs
}
