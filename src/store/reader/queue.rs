//! Reading the queue: what may start, now and later.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{DueCursor, DueEntry, Plan, Reader, ReadyEntry, ReadyPage, TenantKey, just_after, key_of};
use crate::model::{JobId, Priority, Refusal, RefusalCode, TaskIndex, TaskSpec};
use crate::store::QueueKey;
use crate::store::keys::{self, Family, Key, Space};
use crate::store::records::{self, ReadyRow};

/// Entries looked at for one page: an entry without tasks costs a read all the same.
const READY_ROWS_MAX: usize = 1_024;

/// Tenants that have ready entries.
#[derive(Debug, Clone, Default)]
pub struct ReadyTenants {
    /// Each with its first sequence.
    pub tenants: Vec<(TenantKey, u64)>,
    /// Where the search goes on, if there may be more.
    pub next: Option<TenantKey>,
    /// What could not be read and was passed over.
    pub damaged: Vec<Refusal>,
}

impl Reader {
    pub fn plan(&self, id: JobId) -> Result<Option<Arc<Plan>>, Refusal> {
        let Some(row) = self.job_row(id)? else { return Ok(None) };
        let tasks = self.spec(id, &row)?.into_tasks()?;
        let manifest_open = row.is_manifest_open();
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
            manifest_open,
            parallel_max: row.parallel_max,
        })))
    }

    /// Up to `max` tenants of a class that have ready entries, from `from` on. Seeks once for each tenant, over the tombstones of
    /// its consumed entries: for boot, not for each look.
    pub fn ready_tenants(&self, priority: Priority, from: TenantKey, max: usize) -> Result<ReadyTenants, Refusal> {
        let until = keys::ready_end(priority);
        let first = |tenant| {
            let from = keys::ready(priority, TenantKey(tenant), 0);
            self.spaces.range(Space::Queue, &from.bytes, &until).next().transpose()
        };
        let mut found = ReadyTenants { next: Some(from), ..ReadyTenants::default() };
        while let Some(tenant) = found.next {
            if found.tenants.len() >= max {
                break;
            }
            found.next = match first(tenant.0) {
                Ok(None) => None,
                Ok(Some((key, _))) => {
                    let (_, tenant, seq) = key_of(Family::Ready, &key, |fields| fields.ready())?;
                    found.tenants.push((tenant, seq));
                    tenant.0.checked_add(1).map(TenantKey)
                }
                Err(refusal) => {
                    found.damaged.push(only_damage(refusal)?);
                    past_damage(tenant.0, |tenant| first(tenant).is_ok()).map(TenantKey)
                }
            };
        }
        Ok(found)
    }

    /// Ready entries of one tenant in one class with sequences above `after`, until `tasks` tasks are found. What is damaged is
    /// passed over and named: it must not hide what stands behind it.
    pub fn ready_after(
        &self,
        priority: Priority,
        tenant: TenantKey,
        after: u64,
        tasks: usize,
    ) -> Result<ReadyPage, Refusal> {
        let floor = self.ready_floor.get(keys::class_index(priority)).copied().unwrap_or(0);
        let first = floor.max(after.saturating_add(1));
        let until = keys::ready(priority, tenant, u64::MAX).bytes;
        let open = |seq| self.spaces.range(Space::Queue, &keys::ready(priority, tenant, seq).bytes, &until);
        let mut page = ReadyPage { next_seq: after.max(first.saturating_sub(1)), end: true, ..ReadyPage::default() };
        let mut found = 0;
        let mut rows = open(first);
        for seen in 0.. {
            if found >= tasks || seen >= READY_ROWS_MAX {
                page.end = rows.next().is_none();
                break;
            }
            let (key, value) = match rows.next() {
                None => break,
                Some(Ok(row)) => row,
                Some(Err(refusal)) => {
                    page.damaged.push(only_damage(refusal)?);
                    let Some(seq) = past_damage(page.next_seq, |seq| open(seq).next().is_none_or(|row| row.is_ok()))
                    else {
                        break;
                    };
                    page.next_seq = seq - 1;
                    rows = open(seq);
                    continue;
                }
            };
            let (_, _, seq) = key_of(Family::Ready, &key, |fields| fields.ready())?;
            page.next_seq = seq;
            let key = QueueKey::Ready { priority, tenant, seq };
            match self.ready_entry(key, &value) {
                Ok(Some(entry)) => {
                    found += entry.tasks.len().max(1);
                    page.entries.push(entry);
                }
                // Deleted, also between the two reads.
                Ok(None) => page.gone.push(key),
                Err(refusal) => page.damaged.push(only_damage(refusal)?),
            }
        }
        Ok(page)
    }

    fn ready_entry(&self, key: QueueKey, value: &[u8]) -> Result<Option<ReadyEntry>, Refusal> {
        let job = records::decode::<ReadyRow>("ready", value)?.job()?;
        let Some(plan) = self.plan(job)? else { return Ok(None) };
        let tasks = self.never_leased(&plan)?;
        Ok(Some(ReadyEntry { key, plan, tasks }))
    }

    /// The manifest's task first, then the resources', as far as they have no row.
    fn never_leased(&self, plan: &Plan) -> Result<Vec<TaskIndex>, Refusal> {
        let prefix: Key = keys::tasks_of(plan.job);
        let mut diverged = BTreeSet::new();
        for row in self.spaces.range(Space::Ledger, &prefix.bytes, &keys::after_prefix(&prefix.bytes)) {
            let (key, _) = row?;
            diverged.insert(key_of(Family::Task, &key, |fields| fields.task())?.index);
        }
        let manifest = plan.manifest_open.then_some(TaskIndex::MANIFEST);
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

/// Damage is passed over; a disk that does not answer is not.
fn only_damage(refusal: Refusal) -> Result<Refusal, Refusal> {
    if refusal.code == RefusalCode::DataLoss { Ok(refusal) } else { Err(refusal) }
}

/// The lowest sequence above `after` that `is_readable`, if there is one: doubling steps, then halves.
fn past_damage(after: u64, is_readable: impl Fn(u64) -> bool) -> Option<u64> {
    let mut bad = after;
    let mut good = (0..u64::BITS).map(|bit| after.saturating_add(1 << bit)).find(|seq| {
        let readable = is_readable(*seq);
        if !readable {
            bad = *seq;
        }
        readable
    })?;
    while good - bad > 1 {
        let middle = bad + (good - bad) / 2;
        if is_readable(middle) { good = middle } else { bad = middle }
    }
    Some(good)
}

/// About what a planned task occupies in memory.
fn memory_of(task: &TaskSpec) -> usize {
    let headers: usize = task.headers.iter().map(|header| header.name.len() + header.value.len() + 48).sum();
    let pairs: usize =
        task.tags.iter().chain(&task.object_metadata).map(|(key, value)| key.len() + value.len() + 64).sum();
    size_of::<TaskSpec>() + task.resource_id.len() + task.url.len() + headers + pairs
}

#[cfg(test)]
mod tests {
    use super::past_damage;

    #[test]
    fn behind_a_damaged_block_reading_goes_on_where_it_ends() {
        assert_eq!(past_damage(7, |seq| seq >= 5_000), Some(5_000));
        assert_eq!(past_damage(7, |seq| seq > 8), Some(9));
        assert_eq!(past_damage(7, |_| false), None);
        assert_eq!(past_damage(u64::MAX - 1, |_| true), Some(u64::MAX));
    }
}
