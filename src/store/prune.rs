//! Prune: rows are deleted, never those of an active job. What to delete and when is retention's to say.
//!
//! Owns: which rows belong to a job, a letter, a key; how many go in one group. Must not know: ages, schedules.

use super::keys::{self, Family, Key, Space};
use super::prune_output::{prune_kind, prune_output};
use super::queue::drop_letter;
use super::records::{IdempotencyRow, JobRow, NameRow};
use super::tx::Tx;
use super::verbs::{Prune, Pruned};
use crate::model::{JobId, JobName, JobState, OutputKind, Refusal, TaskRef};

/// Rows deleted in one group, about: some milliseconds that others wait. What is more takes further groups.
const ROWS_PER_GROUP: usize = 10_000;

/// As many of the items as fit into one group. Those of an earlier group may stand among them: they are passed over.
pub fn prune_some(tx: &mut Tx<'_>, items: &[Prune]) -> Result<Pruned, Refusal> {
    let (mut pruned, mut budget) = (Pruned::default(), ROWS_PER_GROUP);
    for item in items {
        if budget == 0 {
            pruned.more = true;
            break;
        }
        let one = prune(tx, item, &mut budget)?;
        pruned.gone += one.gone;
        pruned.more |= one.more;
    }
    Ok(pruned)
}

fn prune(tx: &mut Tx<'_>, item: &Prune, budget: &mut usize) -> Result<Pruned, Refusal> {
    match item {
        Prune::Job(id) => match terminal(tx, *id)? {
            Some(row) => prune_job(tx, *id, row, budget),
            None => Ok(Pruned::default()),
        },
        Prune::Named(id) => match tx.job(*id)? {
            Some(mut row) if !row.name.is_empty() => {
                let state = row.job_state()?;
                if !state.is_terminal() {
                    tx.tally.count_state(Some(state), Some(JobState::Canceled));
                    row.set_state(JobState::Canceled);
                    row.completed_at_ms = row.updated_at_ms.max(row.output_at_ms);
                }
                prune_job(tx, *id, row, budget)
            }
            Some(_) | None => Ok(Pruned::default()),
        },
        Prune::Output { job, kind, until } => match terminal(tx, *job)? {
            Some(row) if !row.leaving => prune_kind(tx, *job, row, *kind, *until, budget),
            Some(_) | None => Ok(Pruned::default()),
        },
        Prune::Idempotency(id) => {
            let Some(mut row) = tx.job(*id)? else { return Ok(Pruned::default()) };
            let freed = free_key(tx, *id, &mut row)?;
            if freed {
                tx.put_job_row(*id, &row);
            }
            Ok(Pruned::one(freed))
        }
        Prune::DeadLetter(id) => drop_letter(tx, *id).map(Pruned::one),
        Prune::FailureRow(id) => drop_row(tx, keys::failure(*id)),
        Prune::Source(hash) => drop_row(tx, keys::source(*hash)),
    }
}

fn drop_row(tx: &mut Tx<'_>, key: Key) -> Result<Pruned, Refusal> {
    let known = tx.get(&key)?.is_some();
    if known {
        tx.delete(key);
    }
    Ok(Pruned::one(known))
}

fn terminal(tx: &Tx<'_>, id: JobId) -> Result<Option<JobRow>, Refusal> {
    let Some(row) = tx.job(id)? else { return Ok(None) };
    Ok(row.job_state()?.is_terminal().then_some(row))
}

fn prune_job(tx: &mut Tx<'_>, id: JobId, mut row: JobRow, budget: &mut usize) -> Result<Pruned, Refusal> {
    if !prune_output(tx, id, budget)? {
        leave(tx, id, row);
        return Ok(Pruned { gone: 0, more: true });
    }
    if let Some(name) = JobName::parse(&row.name) {
        let key = keys::name(&name);
        // Another job may have the name by now.
        let known: Option<NameRow> = tx.row(Family::Name, &key)?;
        if known.is_some_and(|known| known.job == id.as_bytes()) {
            tx.delete(key);
        }
    }
    free_key(tx, id, &mut row)?;
    let tasks = tx.scan(&keys::tasks_of(id), usize::from(u16::MAX))?;
    *budget = budget.saturating_sub(2 + tasks.len());
    for (key, _) in tasks {
        tx.delete(Key { space: Space::Ledger, bytes: key });
    }
    tx.delete(keys::task(TaskRef::manifest(id)));
    if row.inline_spec.is_empty() {
        tx.delete(keys::spec(id));
    }
    if tx.get(&keys::owed(id))?.is_some() {
        tx.delete(keys::owed(id));
    }
    tx.tally.count_state(Some(row.job_state()?), None);
    tx.delete_job_row(id);
    tx.touched.insert(id);
    Ok(Pruned::one(true))
}

/// Nothing more comes to a job of which a part is gone, and what is left of it counts for nothing.
fn leave(tx: &mut Tx<'_>, id: JobId, mut row: JobRow) {
    row.leaving = true;
    for kind in OutputKind::ALL {
        let end = row.records_of(kind);
        if end > 0 {
            row.set_kept_from(kind, end);
        }
    }
    tx.put_job_row(id, &row);
    tx.touched.insert(id);
}

/// Frees the job's idempotency key unless another job holds it by now.
fn free_key(tx: &mut Tx<'_>, id: JobId, row: &mut JobRow) -> Result<bool, Refusal> {
    if row.idempotency.is_empty() {
        return Ok(false);
    }
    let key = keys::idempotency(&row.idempotency);
    row.idempotency.clear();
    let known: Option<IdempotencyRow> = tx.row(Family::Idempotency, &key)?;
    let ours = known.is_some_and(|known| known.job == id.as_bytes());
    if ours {
        tx.delete(key);
    }
    Ok(ours)
}
