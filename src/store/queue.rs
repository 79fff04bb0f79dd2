//! Queue verbs: admit, lease, settle, and everything that opens or closes tasks.
//!
//! Owns: the moves of a task and its job in one batch. Must not know: syncing, callers, clocks.

mod admit;
mod cancel;
mod lease;
mod reopen;
mod settle;

pub use admit::{Admission, admit};
pub use cancel::cancel;
pub use lease::{lease_all, void_leases};
pub use reopen::{replay, retry};
pub use settle::settle;

use super::keys::{self, Family};
use super::records::{self, DeadLetterRow, JobRow, SpecRow, TaskRow};
use super::tx::Tx;
use crate::model::{DeadLetterId, FailureCode, JobId, JobState, Refusal, TaskRef, outcome_of};

/// Ends the job if no task is open any more. The finalize hook is owed from this batch on.
fn end_if_done(tx: &mut Tx<'_>, id: JobId, job: &mut JobRow, now_ms: i64) -> Result<Option<JobState>, Refusal> {
    if job.open_tasks() > 0 {
        return Ok(None);
    }
    let lost = job.failed + u32::from(job.manifest_refused);
    let state = outcome_of(job.completed, lost, job.canceled);
    end_job(tx, id, job, state, now_ms)?;
    Ok(Some(state))
}

/// Makes the job terminal and its finalize hook owed.
pub fn end_job(tx: &mut Tx<'_>, id: JobId, job: &mut JobRow, state: JobState, now_ms: i64) -> Result<(), Refusal> {
    tx.tally.count_state(Some(job.job_state()?), Some(state));
    job.set_state(state);
    job.phase.clear();
    job.completed_at_ms = now_ms;
    // `put_job` will write the row one revision further.
    tx.put(keys::owed(id), (job.revision + 1).to_be_bytes().to_vec());
    Ok(())
}

/// Removes a dead letter, if it is there.
pub fn drop_letter(tx: &mut Tx<'_>, id: DeadLetterId) -> Result<bool, Refusal> {
    let key = keys::dead_letter(id);
    let Some(bytes) = tx.get(&key)? else { return Ok(false) };
    let row: DeadLetterRow = records::decode("dead letter", &bytes)?;
    let code = row.failure.as_ref().and_then(|failure| FailureCode::parse(&failure.code));
    if let Some(code) = code {
        tx.tally.count_letter(code, false, (key.bytes.len() + bytes.len()) as u64);
    }
    tx.delete(key);
    Ok(true)
}

/// The job's manifest and planned tasks.
fn spec_of(tx: &Tx<'_>, id: JobId, job: &JobRow) -> Result<SpecRow, Refusal> {
    if !job.inline_spec.is_empty() {
        return records::decode("spec", &job.inline_spec);
    }
    let row = tx.row::<SpecRow>(Family::Spec, &keys::spec(id))?;
    row.ok_or_else(|| records::damaged(format!("the manifest of job {id}")))
}

/// Makes a task due at `at_ms`, wherever it stood before.
fn make_due(tx: &mut Tx<'_>, task: TaskRef, row: &mut TaskRow, at_ms: i64) {
    row.state = TaskRow::RETRY_WAIT;
    row.at_ms = at_ms;
    tx.put_task(task, row);
    tx.put(keys::due(at_ms, task), Vec::new());
    tx.queue_moved = true;
}
