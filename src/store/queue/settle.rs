//! Settle: the end of an attempt. Task, job, counters, log line, dead letter and indexes move in one batch, once.

use prost::Message;

use super::{end_if_done, make_due, spec_of};
use crate::model::{DeadLetterId, Failure, Refusal, TaskRef};
use crate::store::keys;
use crate::store::records::{
    AttemptRow, DeadLetterRow, FailedRow, FailureRow, JobRow, ObjectRow, TaskRow, TaskSpecRow,
};
use crate::store::tx::Tx;
use crate::store::uploads;
use crate::store::{End, Settled, Settlement};

/// Settling twice, or with an epoch that is not the present one, changes nothing.
pub fn settle(tx: &mut Tx<'_>, settlement: Settlement) -> Result<Settled, Refusal> {
    let Settlement { task, epoch, now_ms, started_at_ms, end, log } = settlement;
    let row = tx.task(task)?.filter(|row| row.state == TaskRow::LEASED && row.epoch == epoch);
    let Some(mut row) = row else { return Ok(Settled::Stale) };
    let Some(mut job) = tx.job(task.job)? else { return Ok(Settled::Stale) };
    tx.delete(keys::lease(epoch));
    tx.unleased.push(epoch);
    tx.tally.tasks_leased = tx.tally.tasks_leased.saturating_sub(1);
    row.updated_at_ms = now_ms;
    match end {
        End::Stored { object, validators: _, context } => {
            job.completed += 1;
            job.bytes_stored += object.size_bytes;
            close(tx, &mut row, TaskRow::DONE, now_ms);
            if row.uploads {
                row.uploads = uploads::became(tx, task, object.sha256, object.size_bytes)?;
            }
            row.object = Some(ObjectRow::from_object(object));
            row.done_context = context;
            row.interrupted = 0;
            tx.put_task(task, &row);
        }
        End::ManifestStored => {
            job.manifest_stored = true;
            close(tx, &mut row, TaskRow::DONE, now_ms);
            // The job's own flag says it; a row for it would only be one more to keep.
            tx.delete(keys::task(task));
        }
        End::Retry { failure, not_before_ms } => {
            record_failure(tx, task, &mut row, &mut job, &failure, started_at_ms, not_before_ms);
            row.interrupted = 0;
            make_due(tx, task, &mut row, not_before_ms);
        }
        End::Released { failure, not_before_ms } => {
            if let Some(failure) = failure.as_ref().map(FailureRow::from_failure) {
                row.failure = Some(failure.clone());
                let (number, failure) = (row.attempts, Some(failure));
                row.push_uncounted(AttemptRow { number, started_at_ms, failure, not_before_ms });
            }
            row.attempts = row.attempts.saturating_sub(1);
            make_due(tx, task, &mut row, not_before_ms);
        }
        End::Dead(failure) if task.is_manifest() => {
            record_failure(tx, task, &mut row, &mut job, &failure, started_at_ms, 0);
            job.manifest_refused = true;
            close(tx, &mut row, TaskRow::DEAD, now_ms);
            // As when it is stored. There is no dead letter: it is no resource, and a retry of the job tries it again.
            tx.delete(keys::task(task));
        }
        End::Dead(failure) => {
            record_failure(tx, task, &mut row, &mut job, &failure, started_at_ms, 0);
            job.failed += 1;
            close(tx, &mut row, TaskRow::DEAD, now_ms);
            bury(tx, task, &row, &job, &failure, now_ms)?;
            tx.put_task(task, &row);
        }
    }
    if let Some(log) = log {
        tx.append_log(task.job, &mut job, log);
    }
    let ended = end_if_done(tx, task.job, &mut job, now_ms)?;
    tx.put_job(task.job, job, now_ms);
    Ok(Settled::Applied { ended })
}

fn close(tx: &mut Tx<'_>, row: &mut TaskRow, state: u32, now_ms: i64) {
    row.state = state;
    row.at_ms = now_ms;
    tx.tally.tasks_open = tx.tally.tasks_open.saturating_sub(1);
}

/// In the task's history, among the job's last errors, and in the index of recent failures.
fn record_failure(
    tx: &mut Tx<'_>,
    task: TaskRef,
    row: &mut TaskRow,
    job: &mut JobRow,
    failure: &Failure,
    started_at_ms: i64,
    not_before_ms: i64,
) {
    row.charge(failure.code.budget());
    let failure_row = FailureRow::from_failure(failure);
    row.failure = Some(failure_row.clone());
    row.push_tried(AttemptRow {
        number: row.attempts,
        started_at_ms,
        failure: Some(failure_row.clone()),
        not_before_ms,
    });
    job.push_error(failure_row.clone());
    let failed = FailedRow { job_type: job.job_type.clone(), tenant: job.tenant.clone(), failure: Some(failure_row) };
    tx.put_row(keys::failure(DeadLetterId { died_at_ms: failure.at_ms, task }), &failed);
}

/// Writes the dead letter, whole enough to be tried again without its job.
fn bury(
    tx: &mut Tx<'_>,
    task: TaskRef,
    row: &TaskRow,
    job: &JobRow,
    failure: &Failure,
    now_ms: i64,
) -> Result<(), Refusal> {
    let spec = spec_of(tx, task.job, job)?.task(usize::from(task.index.0))?;
    let letter = DeadLetterRow {
        job_type: job.job_type.clone(),
        tenant: job.tenant.clone(),
        spec: Some(TaskSpecRow::from_spec(&spec)),
        failure: Some(FailureRow::from_failure(failure)),
        attempts: row.attempts,
        replay_of: row.replay_of.clone(),
    };
    let key = keys::dead_letter(DeadLetterId { died_at_ms: now_ms, task });
    let bytes = letter.encode_to_vec();
    tx.tally.count_letter(failure.code, true, (key.bytes.len() + bytes.len()) as u64);
    tx.put(key, bytes);
    Ok(())
}
