//! Ledger verbs: what clients and operators change about jobs, logs and switches.
//!
//! Owns: status updates, log appends, controls, finalize. Must not know: tasks' moves, retention's reasons.

use super::keys;
use super::queue::end_job;
use super::records::{ControlsRow, FailureRow};
use super::tx::Tx;
use super::verbs::StatusChange;
use crate::model::{ControlChange, Controls, Job, JobId, JobState, NewLog, Refusal, RefusalCode};

pub fn update_status(tx: &mut Tx<'_>, change: StatusChange) -> Result<Job, Refusal> {
    let id = change.job;
    let mut job = tx.job_or_refuse(id)?;
    if let Some(expected) = change.expected_revision.filter(|expected| *expected != job.revision) {
        let shown = job.shown(id);
        let message = format!("job {shown} is at revision {}, not {expected}", job.revision);
        return Err(Refusal::new(RefusalCode::Stale, message).with_job(shown));
    }
    let present = job.job_state()?;
    if let Some(next) = change.state.filter(|next| *next != present) {
        let shown = job.shown(id);
        let illegal = |message: String| Err(Refusal::new(RefusalCode::IllegalState, message).with_job(&shown));
        if !job.external {
            return illegal(format!("job {shown} has resources: its state follows from them"));
        }
        if !present.may_become(next) {
            return illegal(format!("job {shown} is {} and cannot become {}", present.name(), next.name()));
        }
        if next.is_terminal() {
            end_job(tx, id, &mut job, next, change.now_ms)?;
        } else {
            tx.tally.count_state(Some(present), Some(next));
            job.set_state(next);
        }
    }
    if let Some(phase) = change.phase {
        job.phase = phase;
    }
    if let Some(failure) = change.failure {
        job.push_error(FailureRow::from_failure(&failure));
    }
    tx.put_job(id, job, change.now_ms);
    tx.job_or_refuse(id)?.into_job(id)
}

/// Ends a job that another program named and of which nobody has heard since `silent_since_ms`: it has ended when it was last heard of.
/// False: it has ended, goes on or is gone.
pub fn end_idle(tx: &mut Tx<'_>, id: JobId, silent_since_ms: i64, phase: &str) -> Result<bool, Refusal> {
    let Some(mut row) = tx.staying_job(id)? else { return Ok(false) };
    let job = row.clone().into_job(id)?;
    let heard_ms = job.heard_ms();
    if job.name.is_none() || job.state.is_terminal() || heard_ms >= silent_since_ms {
        return Ok(false);
    }
    end_job(tx, id, &mut row, JobState::Completed, heard_ms)?;
    row.phase = phase.to_owned();
    tx.put_job(id, row, heard_ms);
    Ok(true)
}

/// Returns the first offset.
pub fn append_logs(tx: &mut Tx<'_>, id: JobId, records: Vec<NewLog>) -> Result<u64, Refusal> {
    let mut job = tx.job_or_refuse(id)?;
    let first = job.log_count;
    let now_ms = records.iter().map(|log| log.timestamp_ms).max().unwrap_or(0);
    for log in records {
        tx.append_log(id, &mut job, log);
    }
    tx.put_job(id, job, now_ms);
    Ok(first)
}

pub fn control(tx: &mut Tx<'_>, present: &Controls, change: &ControlChange) -> Result<Controls, Refusal> {
    let base = tx.controls.clone().unwrap_or_else(|| present.clone());
    let next = base.after(change);
    if next.paused_hosts.len() > Controls::PAUSED_MAX || next.paused_job_types.len() > Controls::PAUSED_MAX {
        let message = format!("at most {} hosts and job types can be paused by name", Controls::PAUSED_MAX);
        return Err(Refusal::new(RefusalCode::RateLimited, message));
    }
    tx.put_row(keys::controls(), &ControlsRow::new(&next));
    tx.controls = Some(next.clone());
    Ok(next)
}

/// The hook that was owed for `revision` has returned; a later end of the job owes another.
pub fn finalized(tx: &mut Tx<'_>, id: JobId, revision: u64, log: Option<NewLog>) -> Result<(), Refusal> {
    if tx.get(&keys::owed(id))?.is_some_and(|owed| owed == revision.to_be_bytes()) {
        tx.delete(keys::owed(id));
    }
    if let (Some(log), Some(mut job)) = (log, tx.job(id)?) {
        let now_ms = log.timestamp_ms;
        tx.append_log(id, &mut job, log);
        tx.put_job(id, job, now_ms);
    }
    Ok(())
}
