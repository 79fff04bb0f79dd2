//! Prune: rows are deleted, never those of an active job. What to delete and when is retention's to say.
//!
//! Owns: which rows belong to a job, a letter, a key. Must not know: ages, schedules.

use super::keys::{self, Family, Key, Space};
use super::prune_output::{prune_kind, prune_output};
use super::queue::drop_letter;
use super::records::{IdempotencyRow, JobRow};
use super::tx::Tx;
use super::verbs::Prune;
use crate::model::{JobId, JobName, Refusal, TaskRef};

/// Log records deleted by one item in one group: a longer log takes several rounds, so that no group grows without bound.
pub const LOGS_PER_ITEM_MAX: u64 = 10_000;

/// How many things are really gone: jobs, log records, keys, letters, sources.
pub fn prune(tx: &mut Tx<'_>, item: &Prune) -> Result<u64, Refusal> {
    match item {
        Prune::Job(id) => prune_job(tx, *id).map(u64::from),
        Prune::Logs { job, until } => {
            let Some(mut row) = terminal(tx, *job)? else { return Ok(0) };
            let deleted = prune_logs(tx, *job, &mut row, *until);
            if deleted > 0 {
                tx.put_row(keys::job(*job), &row);
            }
            Ok(deleted)
        }
        Prune::Output { job, kind, until } => match terminal(tx, *job)? {
            Some(_) => prune_kind(tx, *job, *kind, *until),
            None => Ok(0),
        },
        Prune::Idempotency(id) => {
            let Some(mut row) = tx.job(*id)? else { return Ok(0) };
            let freed = free_key(tx, *id, &mut row)?;
            if freed {
                tx.put_row(keys::job(*id), &row);
            }
            Ok(u64::from(freed))
        }
        Prune::DeadLetter(id) => drop_letter(tx, *id).map(u64::from),
        Prune::FailureRow(id) => {
            let known = tx.get(&keys::failure(*id))?.is_some();
            if known {
                tx.delete(keys::failure(*id));
            }
            Ok(u64::from(known))
        }
        Prune::Source(hash) => {
            let known = tx.get(&keys::source(*hash))?.is_some();
            if known {
                tx.delete(keys::source(*hash));
            }
            Ok(u64::from(known))
        }
    }
}

fn terminal(tx: &Tx<'_>, id: JobId) -> Result<Option<JobRow>, Refusal> {
    let Some(row) = tx.job(id)? else { return Ok(None) };
    Ok(row.job_state()?.is_terminal().then_some(row))
}

/// True when the job is gone whole.
fn prune_job(tx: &mut Tx<'_>, id: JobId) -> Result<bool, Refusal> {
    let Some(mut row) = terminal(tx, id)? else { return Ok(false) };
    let logs = row.log_count;
    prune_logs(tx, id, &mut row, logs);
    if row.logs_from < row.log_count {
        tx.put_row(keys::job(id), &row);
        return Ok(false);
    }
    if !prune_output(tx, id)? {
        tx.put_row(keys::job(id), &row);
        return Ok(false);
    }
    if let Some(name) = JobName::parse(&row.name) {
        tx.delete(keys::name(&name));
    }
    free_key(tx, id, &mut row)?;
    for (key, _) in tx.scan(&keys::tasks_of(id), usize::from(u16::MAX))? {
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
    tx.delete(keys::job(id));
    tx.touched.insert(id);
    Ok(true)
}

/// Deletes from the oldest record on.
fn prune_logs(tx: &mut Tx<'_>, id: JobId, row: &mut JobRow, until: u64) -> u64 {
    let end = until.min(row.log_count).min(row.logs_from.saturating_add(LOGS_PER_ITEM_MAX));
    let from = row.logs_from;
    for offset in from..end {
        tx.delete(keys::log(id, offset));
    }
    row.logs_from = row.logs_from.max(end);
    end.saturating_sub(from)
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
