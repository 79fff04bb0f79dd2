//! Lease: an attempt is counted before it runs, and gets an epoch that fences every older result.

use super::{make_due, spec_of};
use crate::model::{Failure, FailureCode, JobState, LogLevel, NewLog, Refusal, TaskRef};
use crate::store::keys::{self, Family, Fields, Key, Space};
use crate::store::records::{AttemptRow, FailureRow, JobRow, LeaseRow, TaskRow};
use crate::store::tx::{Rows, Tx};
use crate::store::{End, Lease, LeaseWant, QueueKey, Settlement};

/// Leases what is wanted, and deletes entries of which nothing is left to lease.
pub fn lease_all(
    tx: &mut Tx<'_>,
    wants: Vec<LeaseWant>,
    spent: Vec<QueueKey>,
    now_ms: i64,
) -> Result<Vec<Option<Lease>>, Refusal> {
    let leases = wants.into_iter().map(|want| lease(tx, want, now_ms)).collect::<Result<_, _>>()?;
    for key in spent {
        if let QueueKey::Ready { priority, seq, .. } = key {
            tx.spent.push((keys::class_index(priority), seq));
            tx.delete(keys::of(key));
        }
    }
    Ok(leases)
}

/// None where the task is not to be had any more.
fn lease(tx: &mut Tx<'_>, want: LeaseWant, now_ms: i64) -> Result<Option<Lease>, Refusal> {
    let Some(mut job) = tx.job(want.task.job)? else {
        return forget(tx, want.from);
    };
    let known = tx.task(want.task)?;
    let Some(mut row) = leasable(tx, &job, &want, known)? else {
        return forget(tx, want.from);
    };
    if let QueueKey::Due { .. } = want.from {
        tx.delete(keys::of(want.from));
    }
    let epoch = tx.tally.next_epoch;
    tx.tally.next_epoch += 1;
    tx.tally.tasks_leased += 1;
    row.state = TaskRow::LEASED;
    row.at_ms = want.until_ms;
    row.epoch = epoch;
    row.attempts += 1;
    row.updated_at_ms = now_ms;
    tx.put_task(want.task, &row);
    tx.put_row(keys::lease(epoch), &LeaseRow::new(want.task));
    tx.leased.push(epoch);
    if job.job_state()? == JobState::Queued {
        tx.tally.count_state(Some(JobState::Queued), Some(JobState::InProgress));
        job.set_state(JobState::InProgress);
        tx.put_job(want.task.job, job, now_ms);
    }
    Ok(Some(Lease { task: want.task, epoch, attempt: row.attempts, tried: row.tried_before() }))
}

/// The task's row if it may be leased from where the caller found it.
fn leasable(tx: &Tx<'_>, job: &JobRow, want: &LeaseWant, known: Option<TaskRow>) -> Result<Option<TaskRow>, Refusal> {
    if job.job_state()?.is_terminal() || (want.task.is_manifest() && !job.is_manifest_open()) {
        return Ok(None);
    }
    Ok(match (want.from, known) {
        // Never leased before: ready by having no row.
        (QueueKey::Ready { .. }, None) => Some(TaskRow::default()),
        (QueueKey::Ready { .. }, Some(_)) => None,
        (QueueKey::Due { at_ms, .. }, Some(row)) => {
            let waits = row.state == TaskRow::RETRY_WAIT && row.at_ms == at_ms;
            (waits && tx.get(&keys::of(want.from))?.is_some()).then_some(row)
        }
        (QueueKey::Due { .. }, None) => None,
    })
}

/// A due entry whose task is elsewhere is of no use to anybody.
fn forget(tx: &mut Tx<'_>, from: QueueKey) -> Result<Option<Lease>, Refusal> {
    if let QueueKey::Due { .. } = from
        && tx.get(&keys::of(from))?.is_some()
    {
        tx.delete(keys::of(from));
    }
    Ok(None)
}

/// Boot: nobody holds a lease of a process that is gone. One group of at most `limit`; returns how many.
pub fn void_leases(
    tx: &mut Tx<'_>,
    floor: u64,
    now_ms: i64,
    interrupted_max: u32,
    limit: usize,
) -> Result<u64, Refusal> {
    let mut voided = 0;
    for (key, value) in leases_from(tx, floor, limit)? {
        let epoch = Fields::of(Family::Lease, &key).and_then(|mut fields| fields.u64());
        let epoch = epoch.ok_or_else(|| crate::store::records::damaged("lease key"))?;
        let task = crate::store::records::decode::<LeaseRow>("lease", &value)?.task()?;
        void(tx, task, epoch, now_ms, interrupted_max)?;
        voided += 1;
    }
    Ok(voided)
}

fn leases_from(tx: &Tx<'_>, floor: u64, limit: usize) -> Result<Rows, Refusal> {
    // Leases are few (as many as ran at once); only the tombstones below the floor are many.
    let from = keys::lease(floor);
    tx.scan_range(&from, &Key { space: Space::Queue, bytes: keys::end_of(Family::Lease) }, limit)
}

fn void(tx: &mut Tx<'_>, task: TaskRef, epoch: u64, now_ms: i64, interrupted_max: u32) -> Result<(), Refusal> {
    let row = tx.task(task)?.filter(|row| row.state == TaskRow::LEASED && row.epoch == epoch);
    let Some(mut row) = row else {
        tx.delete(keys::lease(epoch));
        tx.unleased.push(epoch);
        return Ok(());
    };
    row.interrupted += 1;
    let message = format!("the daemon stopped while attempt {} ran", row.attempts);
    if row.interrupted > interrupted_max && !task.is_manifest() {
        let message = format!("{message}, {} times in a row", row.interrupted);
        let mut failure = Failure::new(FailureCode::SystemPoison, message);
        failure.at_ms = now_ms;
        failure.attempt = row.attempts;
        let end = End::Dead(failure);
        super::settle(tx, Settlement { task, epoch, now_ms, started_at_ms: row.updated_at_ms, end, log: None })?;
        return Ok(());
    }
    tx.delete(keys::lease(epoch));
    tx.unleased.push(epoch);
    tx.tally.tasks_leased = tx.tally.tasks_leased.saturating_sub(1);
    let mut failure = Failure::new(FailureCode::SystemInterrupted, message);
    failure.at_ms = now_ms;
    failure.attempt = row.attempts;
    let failure_row = FailureRow::from_failure(&failure);
    row.failure = Some(failure_row.clone());
    let (number, started_at_ms) = (row.attempts, row.updated_at_ms);
    row.push_uncounted(AttemptRow { number, started_at_ms, failure: Some(failure_row), not_before_ms: now_ms });
    tell(tx, task, &failure, now_ms);
    // The resource did nothing wrong: the attempt is not held against it.
    row.attempts = row.attempts.saturating_sub(1);
    row.updated_at_ms = now_ms;
    make_due(tx, task, &mut row, now_ms);
    Ok(())
}

/// In the job's log, as at the end of any other attempt. A damaged row takes the line, or the resource's name in it: a start must not
/// fail for that.
fn tell(tx: &mut Tx<'_>, task: TaskRef, failure: &Failure, now_ms: i64) {
    let Ok(Some(mut job)) = tx.job(task.job) else { return };
    let spec = spec_of(tx, task.job, &job).and_then(|spec| spec.task(usize::from(task.index.0)));
    let resource_id = spec.map_or_else(|_| String::new(), |spec| spec.resource_id);
    let log = NewLog {
        level: LogLevel::Warn,
        message: format!("{}; it is made again and does not count", failure.message),
        timestamp_ms: now_ms,
        resource_id,
        fields: [("attempt", failure.attempt.to_string()), ("code", failure.code.as_str().to_owned())]
            .map(|(key, value)| (key.to_owned(), value))
            .into(),
        ..NewLog::default()
    };
    tx.append_log(task.job, &mut job, log);
    tx.put_job(task.job, job, now_ms);
}
