//! Reading jobs, tasks, logs, dead letters and failures.

use super::{Reader, just_after, key_of};
use crate::model::{
    Attempt, DeadLetter, DeadLetterId, Failure, Job, JobId, JobType, LogRecord, Manifest, OutputKind, Refusal, Task,
    TaskIndex, TaskRef, TaskSpec, TaskState, Tenant,
};
use crate::store::keys::{self, Family, Space};
use crate::store::records::{
    self, AttemptRow, DeadLetterRow, FailedRow, FailureRow, JobRow, LogRow, SpecRow, TaskRow, damaged,
};

impl Reader {
    /// With all of its output counted.
    pub(super) fn job_row(&self, id: JobId) -> Result<Option<JobRow>, Refusal> {
        let counts = self.tails.counts.get(id);
        let mut row: Option<JobRow> = self.row(Family::Job, &keys::job(id))?;
        if let (Some(row), Some(counts)) = (&mut row, counts) {
            counts.raise(row);
        }
        Ok(row)
    }

    pub fn job(&self, id: JobId) -> Result<Option<Job>, Refusal> {
        self.job_row(id)?.map(|row| row.into_job(id)).transpose()
    }

    /// Up to `rows` jobs with ids below `before` and at or above `floor`, newest first.
    pub fn jobs_before(&self, before: JobId, floor: JobId, rows: usize) -> Result<Vec<Job>, Refusal> {
        self.counted(|reader| reader.job_rows_before(before, floor, rows))
    }

    fn job_rows_before(&self, before: JobId, floor: JobId, rows: usize) -> Result<Vec<(JobId, JobRow)>, Refusal> {
        let (from, until) = (keys::job(floor).bytes, keys::job(before).bytes);
        let newest = self.recent.newest(&from, &until, rows);
        let lately = newest.rows.into_iter().map(|(key, row)| job_of(Ok((key.into(), row.into()))));
        let mut jobs = lately.collect::<Result<Vec<_>, _>>()?;
        let until = newest.floor.min(until);
        if jobs.len() < rows && from < until {
            let older = self.spaces.range(Space::Ledger, &from, &until).rev().take(rows - jobs.len()).map(job_of);
            jobs.extend(older.collect::<Result<Vec<_>, _>>()?);
        }
        Ok(jobs)
    }

    /// Up to `rows` jobs with ids above `after`, oldest first.
    pub fn jobs_after(&self, after: JobId, rows: usize) -> Result<Vec<Job>, Refusal> {
        let from = just_after(&keys::job(after));
        self.counted(|reader| reader.rows(Space::Ledger, &from, &keys::end_of(Family::Job), rows).map(job_of).collect())
    }

    /// The jobs of these rows with all of their output counted.
    fn counted(&self, read: impl FnOnce(&Self) -> Result<Vec<(JobId, JobRow)>, Refusal>) -> Result<Vec<Job>, Refusal> {
        let live = &self.tails.counts;
        let written = live.written();
        let rows = read(self)?;
        let counted = rows.into_iter().map(|(id, mut row)| {
            match live.get(id) {
                Some(counts) => counts.raise(&mut row),
                // The row may have been read before its counts were written to it, and these looked for afterwards.
                None if live.written() != written => row = self.job_row(id)?.unwrap_or(row),
                None => {}
            }
            row.into_job(id)
        });
        counted.collect()
    }

    pub fn last_job_id(&self) -> Result<Option<JobId>, Refusal> {
        let from = keys::job(JobId::MIN).bytes;
        let last = self.spaces.range(Space::Ledger, &from, &keys::end_of(Family::Job)).next_back();
        last.map(|row| key_of(Family::Job, &row?.0, |fields| fields.job())).transpose()
    }

    /// Whether a submission with the job's idempotency key would still be answered with this job.
    pub fn has_idempotency_key(&self, id: JobId) -> Result<bool, Refusal> {
        let Some(row) = self.job_row(id)? else { return Ok(false) };
        if row.idempotency.is_empty() {
            return Ok(false);
        }
        let known: Option<records::IdempotencyRow> =
            self.row(Family::Idempotency, &keys::idempotency(&row.idempotency))?;
        Ok(known.is_some_and(|known| known.job == id.as_bytes()))
    }

    pub(super) fn spec(&self, id: JobId, job: &JobRow) -> Result<SpecRow, Refusal> {
        if !job.inline_spec.is_empty() {
            return records::decode("spec", &job.inline_spec);
        }
        let row = self.row(Family::Spec, &keys::spec(id))?;
        row.ok_or_else(|| damaged(format!("the manifest of job {id}")))
    }

    pub fn manifest(&self, id: JobId) -> Result<Option<Manifest>, Refusal> {
        let Some(job) = self.job_row(id)? else { return Ok(None) };
        self.spec(id, &job)?.into_manifest().map(Some)
    }

    /// Resource tasks from `from` on, in order.
    pub fn tasks(&self, id: JobId, from: TaskIndex, rows: usize) -> Result<Vec<Task>, Refusal> {
        let Some(job) = self.job_row(id)? else { return Ok(Vec::new()) };
        let specs = self.spec(id, &job)?.into_tasks()?;
        let mut tasks = Vec::new();
        for (index, spec) in specs.into_iter().enumerate().skip(usize::from(from.0)).take(rows) {
            let task = TaskRef { job: id, index: TaskIndex(u16::try_from(index).unwrap_or(u16::MAX)) };
            let row: Option<TaskRow> = self.row(Family::Task, &keys::task(task))?;
            tasks.push(task_of(task, spec, row, &job)?);
        }
        Ok(tasks)
    }

    pub fn task(&self, task: TaskRef) -> Result<Option<Task>, Refusal> {
        let Some(job) = self.job_row(task.job)? else { return Ok(None) };
        if u32::from(task.index.0) >= job.total {
            return Ok(None);
        }
        let spec = self.spec(task.job, &job)?.task(usize::from(task.index.0))?;
        let row: Option<TaskRow> = self.row(Family::Task, &keys::task(task))?;
        task_of(task, spec, row, &job).map(Some)
    }

    /// Failed attempts of one task, oldest first, the last ten.
    pub fn attempts(&self, task: TaskRef) -> Result<Vec<Attempt>, Refusal> {
        let row: Option<TaskRow> = self.row(Family::Task, &keys::task(task))?;
        row.unwrap_or_default().tried.into_iter().map(AttemptRow::into_attempt).collect()
    }

    /// Whether a lease of this epoch holds the task now.
    pub fn holds_lease(&self, task: TaskRef, epoch: u64) -> Result<bool, Refusal> {
        let row: Option<TaskRow> = self.row(Family::Task, &keys::task(task))?;
        Ok(row.is_some_and(|row| row.state == TaskRow::LEASED && row.epoch == epoch))
    }

    /// Up to `rows` records from offset `from` on, or from the oldest that is kept.
    pub fn logs(&self, id: JobId, from: u64, rows: usize) -> Result<Vec<LogRecord>, Refusal> {
        let (first, end) = (keys::log(id, from), keys::log(id, u64::MAX));
        let record = |row: Result<(fjall::UserKey, fjall::UserValue), Refusal>| {
            let (key, value) = row?;
            let (job, offset) = key_of(Family::Log, &key, |fields| Some((fields.job()?, fields.u64()?)))?;
            records::decode::<LogRow>("log", &value)?.into_record(job, offset)
        };
        self.rows(Space::Output, &first.bytes, &end.bytes, rows).map(record).collect()
    }

    /// The oldest offset that is kept.
    pub fn logs_from(&self, id: JobId) -> Result<u64, Refusal> {
        Ok(self.job_row(id)?.map_or(0, |row| row.logs_from))
    }

    /// The oldest ordinal of the kind that is kept, and the end of those ever given.
    pub fn kept(&self, id: JobId, kind: OutputKind) -> Result<(u64, u64), Refusal> {
        Ok(self.job_row(id)?.map_or((0, 0), |row| (row.kept_from(kind), row.records_of(kind))))
    }

    /// Of up to `rows` jobs behind `after` those that are being deleted, and the last one looked at: None at the end.
    pub fn leaving_after(&self, after: JobId, rows: usize) -> Result<(Vec<JobId>, Option<JobId>), Refusal> {
        let mut leaving = Vec::new();
        let (mut last, mut seen) = (after, 0);
        for row in self.rows(Space::Ledger, &just_after(&keys::job(after)), &keys::end_of(Family::Job), rows) {
            let (key, value) = row?;
            last = key_of(Family::Job, &key, |fields| fields.job())?;
            if records::decode::<JobRow>("job", &value)?.leaving {
                leaving.push(last);
            }
            seen += 1;
        }
        Ok((leaving, (seen == rows).then_some(last)))
    }

    /// Letters after `after`, oldest first.
    pub fn dead_letters(&self, after: Option<DeadLetterId>, rows: usize) -> Result<Vec<DeadLetter>, Refusal> {
        let from = after.map_or(vec![Family::DeadLetter as u8], |id| just_after(&keys::dead_letter(id)));
        let letter = |row: Result<(fjall::UserKey, fjall::UserValue), Refusal>| {
            let (key, value) = row?;
            let id = key_of(Family::DeadLetter, &key, |fields| fields.timed_task())?;
            records::decode::<DeadLetterRow>("dead letter", &value)?.into_letter(id)
        };
        self.rows(Space::Dlq, &from, &keys::end_of(Family::DeadLetter), rows).map(letter).collect()
    }

    pub fn dead_letter(&self, id: DeadLetterId) -> Result<Option<DeadLetter>, Refusal> {
        let row: Option<DeadLetterRow> = self.row(Family::DeadLetter, &keys::dead_letter(id))?;
        row.map(|row| row.into_letter(id)).transpose()
    }

    /// What the letter adds to [`super::Counters::dead_letter_bytes`]; 0 when it is gone.
    pub fn dead_letter_bytes(&self, id: DeadLetterId) -> Result<u64, Refusal> {
        let key = keys::dead_letter(id);
        Ok(self.spaces.get(&key)?.map_or(0, |value| (key.bytes.len() + value.len()) as u64))
    }

    /// Failed attempts of all jobs before `before`, newest first.
    pub fn failures_before(
        &self,
        before: Option<DeadLetterId>,
        rows: usize,
    ) -> Result<Vec<(DeadLetterId, JobType, Tenant, Failure)>, Refusal> {
        let until = before.map_or(keys::end_of(Family::Failure), |id| keys::failure(id).bytes);
        self.spaces.range(Space::Queue, &[Family::Failure as u8], &until).rev().take(rows).map(failure_of).collect()
    }

    /// The same, oldest first.
    pub fn failures_after(
        &self,
        after: Option<DeadLetterId>,
        rows: usize,
    ) -> Result<Vec<(DeadLetterId, JobType, Tenant, Failure)>, Refusal> {
        let from = after.map_or(vec![Family::Failure as u8], |id| just_after(&keys::failure(id)));
        self.rows(Space::Queue, &from, &keys::end_of(Family::Failure), rows).map(failure_of).collect()
    }
}

fn job_of(row: Result<(fjall::UserKey, fjall::UserValue), Refusal>) -> Result<(JobId, JobRow), Refusal> {
    let (key, value) = row?;
    let id = key_of(Family::Job, &key, |fields| fields.job())?;
    Ok((id, records::decode::<JobRow>("job", &value)?))
}

fn failure_of(
    row: Result<(fjall::UserKey, fjall::UserValue), Refusal>,
) -> Result<(DeadLetterId, JobType, Tenant, Failure), Refusal> {
    let (key, value) = row?;
    let id = key_of(Family::Failure, &key, |fields| fields.timed_task())?;
    let (job_type, tenant, failure) = records::decode::<FailedRow>("failure", &value)?.into_parts()?;
    Ok((id, job_type, tenant, failure))
}

/// A task without a row is ready: nothing has happened to it yet.
fn task_of(task: TaskRef, spec: TaskSpec, row: Option<TaskRow>, job: &JobRow) -> Result<Task, Refusal> {
    let Some(row) = row else {
        return Ok(Task {
            task,
            spec,
            state: TaskState::Ready,
            attempts: 0,
            last_failure: None,
            replay_of: String::new(),
            updated_at_ms: job.created_at_ms,
            done_context: Default::default(),
        });
    };
    Ok(Task {
        task,
        spec,
        state: row.task_state()?,
        attempts: row.attempts,
        last_failure: row.failure.map(FailureRow::into_failure).transpose()?,
        replay_of: row.replay_of,
        updated_at_ms: row.updated_at_ms,
        done_context: row.done_context,
    })
}
