//! Cancel: every open resource task ends; the job ends with it, or as soon as its manifest is stored.

use super::{end_if_done, end_job, make_due};
use crate::model::{JobId, JobState, NewLog, Refusal, RefusalCode, TaskIndex, TaskRef};
use crate::store::keys;
use crate::store::records::{JobRow, TaskRow};
use crate::store::tx::Tx;
use crate::store::{Canceled, TenantKey};

pub fn cancel(tx: &mut Tx<'_>, id: JobId, reason: &str, now_ms: i64) -> Result<Canceled, Refusal> {
    let mut job = tx.job_or_refuse(id)?;
    let state = job.job_state()?;
    if state == JobState::Canceled || job.cancel_requested {
        // Asked twice: the answer is the same.
        return Ok(Canceled { job: job.into_job(id)?, running: Vec::new() });
    }
    if state.is_terminal() {
        let shown = job.shown(id);
        let message = format!("job {shown} has already ended as {}", state.name());
        return Err(Refusal::new(RefusalCode::IllegalState, message).with_job(shown));
    }
    job.cancel_requested = true;
    let running = if job.external { Vec::new() } else { cancel_tasks(tx, id, &mut job, now_ms)? };
    let message = if reason.is_empty() { "canceled".to_owned() } else { format!("canceled: {reason}") };
    tx.append_log(id, &mut job, NewLog { message, timestamp_ms: now_ms, ..NewLog::default() });
    if job.external {
        end_job(tx, id, &mut job, JobState::Canceled, now_ms)?;
    } else if end_if_done(tx, id, &mut job, now_ms)?.is_none() {
        "canceled; storing the manifest".clone_into(&mut job.phase);
    }
    tx.put_job(id, job, now_ms);
    let job = tx.job_or_refuse(id)?.into_job(id)?;
    Ok(Canceled { job, running })
}

fn cancel_tasks(tx: &mut Tx<'_>, id: JobId, job: &mut JobRow, now_ms: i64) -> Result<Vec<TaskRef>, Refusal> {
    let mut running = Vec::new();
    for index in 0..job.total {
        let index = TaskIndex(u16::try_from(index).unwrap_or(u16::MAX));
        let task = TaskRef { job: id, index };
        let mut row = tx.task(task)?.unwrap_or_default();
        if !row.is_open() {
            continue;
        }
        match row.state {
            TaskRow::LEASED => {
                tx.delete(keys::lease(row.epoch));
                tx.unleased.push(row.epoch);
                tx.tally.tasks_leased = tx.tally.tasks_leased.saturating_sub(1);
                running.push(task);
            }
            TaskRow::RETRY_WAIT => tx.delete(keys::due(row.at_ms, task)),
            _ => {}
        }
        row.state = TaskRow::CANCELED;
        row.at_ms = now_ms;
        row.updated_at_ms = now_ms;
        tx.put_task(task, &row);
        tx.tally.tasks_open = tx.tally.tasks_open.saturating_sub(1);
        job.canceled += 1;
    }
    tx.delete(keys::ready(job.priority(), TenantKey::of(&job.tenant()?), job.ready_seq));
    tx.spent.push((keys::class_index(job.priority()), job.ready_seq));
    if job.is_manifest_open() {
        let manifest = TaskRef::manifest(id);
        // Its place in the ready index is gone: let it run now.
        if tx.task(manifest)?.is_none() {
            make_due(tx, manifest, &mut TaskRow::default(), now_ms);
        }
    }
    tx.queue_moved = true;
    Ok(running)
}
