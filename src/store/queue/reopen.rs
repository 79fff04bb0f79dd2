//! Retry and replay: closed tasks get another life, with fresh attempts.

use super::admit::{Admission, admit};
use super::{drop_letter, make_due, spec_of};
use crate::model::{
    DeadLetterId, Job, JobId, JobState, Manifest, NewLog, Priority, Refusal, RefusalCode, Resource, StorageHint,
    TaskIndex, TaskRef, TaskSpec,
};
use crate::store::keys::{self, Family};
use crate::store::records::{DeadLetterRow, JobRow, TaskRow};
use crate::store::tx::Tx;
use crate::store::{FreshJob, NewJob, Replayed};

/// Failed and canceled resources, all or those named.
pub fn retry(tx: &mut Tx<'_>, id: JobId, names: &[String], now_ms: i64) -> Result<(Job, u32), Refusal> {
    let mut job = tx.job_or_refuse(id)?;
    if job.external {
        return Err(
            Refusal::new(RefusalCode::IllegalState, "an external job has nothing to retry").with_job(job.shown(id))
        );
    }
    let spec = spec_of(tx, id, &job)?;
    let mut unknown: Vec<&String> = names.iter().collect();
    let mut reopened = 0;
    for (index, task) in spec.into_tasks()?.iter().enumerate() {
        unknown.retain(|name| **name != task.resource_id);
        if names.is_empty() || names.contains(&task.resource_id) {
            let index = TaskIndex(u16::try_from(index).unwrap_or(u16::MAX));
            reopened += u32::from(reopen(tx, TaskRef { job: id, index }, &mut job, "", now_ms)?);
        }
    }
    if let Some(name) = unknown.first() {
        return Err(Refusal::not_found(format!("resource {name:?} of job {id}")).with_job(id));
    }
    let is_manifest_tried = names.is_empty() && reopen_manifest(tx, id, &mut job, now_ms)?;
    if reopened > 0 || is_manifest_tried {
        let what = if reopened > 0 { format!("{reopened} resources are") } else { "the manifest is".to_owned() };
        let message = format!("{what} tried again");
        tx.append_log(id, &mut job, NewLog { message, timestamp_ms: now_ms, ..NewLog::default() });
        tx.put_job(id, job, now_ms);
    }
    Ok((tx.job_or_refuse(id)?.into_job(id)?, reopened))
}

/// Opens one dead or canceled task; false when it is neither.
fn reopen(tx: &mut Tx<'_>, task: TaskRef, job: &mut JobRow, replay_of: &str, now_ms: i64) -> Result<bool, Refusal> {
    let Some(mut row) = tx.task(task)? else { return Ok(false) };
    match row.state {
        TaskRow::DEAD => {
            job.failed = job.failed.saturating_sub(1);
            drop_letter(tx, DeadLetterId { died_at_ms: row.at_ms, task })?;
        }
        TaskRow::CANCELED => job.canceled = job.canceled.saturating_sub(1),
        _ => return Ok(false),
    }
    row.attempts = 0;
    row.forget_tried();
    row.interrupted = 0;
    row.updated_at_ms = now_ms;
    if !replay_of.is_empty() {
        replay_of.clone_into(&mut row.replay_of);
    }
    make_due(tx, task, &mut row, now_ms);
    tx.tally.tasks_open += 1;
    revive(tx, task.job, job)?;
    reopen_manifest(tx, task.job, job, now_ms)?;
    Ok(true)
}

/// False: it was not refused.
fn reopen_manifest(tx: &mut Tx<'_>, id: JobId, job: &mut JobRow, now_ms: i64) -> Result<bool, Refusal> {
    if !std::mem::take(&mut job.manifest_refused) {
        return Ok(false);
    }
    make_due(tx, TaskRef::manifest(id), &mut TaskRow::default(), now_ms);
    tx.tally.tasks_open += 1;
    revive(tx, id, job)?;
    Ok(true)
}

/// The job goes on, whether it had ended or not.
fn revive(tx: &mut Tx<'_>, id: JobId, job: &mut JobRow) -> Result<(), Refusal> {
    if job.job_state()?.is_terminal() {
        tx.tally.count_state(Some(job.job_state()?), Some(JobState::InProgress));
        job.set_state(JobState::InProgress);
        job.completed_at_ms = 0;
        tx.delete(keys::owed(id));
    }
    job.cancel_requested = false;
    job.phase.clear();
    Ok(())
}

/// In the job while it is kept, else in a new job of this one resource.
pub fn replay(tx: &mut Tx<'_>, id: DeadLetterId, fresh: FreshJob, now_ms: i64) -> Result<Replayed, Refusal> {
    let key = keys::dead_letter(id);
    let row: Option<DeadLetterRow> = tx.row(Family::DeadLetter, &key)?;
    let row = row.ok_or_else(|| Refusal::not_found(format!("dead letter {id}")))?;
    if let Some(mut job) = tx.job(id.task.job)?
        && reopen(tx, id.task, &mut job, &id.to_string(), now_ms)?
    {
        // The letter of a task that died again since is another one.
        drop_letter(tx, id)?;
        let message = "a dead resource is replayed".to_owned();
        tx.append_log(id.task.job, &mut job, NewLog { message, timestamp_ms: now_ms, ..NewLog::default() });
        tx.put_job(id.task.job, job, now_ms);
        return Ok(Replayed { job: id.task.job, task: id.task.index });
    }
    let letter = row.into_letter(id)?;
    let job = NewJob {
        id: fresh.id,
        job_type: letter.job_type,
        tenant: letter.tenant,
        priority: Priority::Normal,
        trace_id: String::new(),
        external: false,
        idempotency: None,
        manifest: manifest_of(&letter.spec),
        manifest_bucket: fresh.manifest_bucket,
        manifest_key: fresh.manifest_key,
        tasks: vec![letter.spec],
        now_ms,
        open_tasks_max: u64::MAX,
        parallel_max: 0,
    };
    admit(tx, Admission::new(job))?;
    let task = TaskRef { job: fresh.id, index: TaskIndex(0) };
    drop_letter(tx, id)?;
    mark_lineage(tx, task, id, now_ms);
    Ok(Replayed { job: fresh.id, task: task.index })
}

/// The new job's task starts from the due index, because its row must name where it came from.
fn mark_lineage(tx: &mut Tx<'_>, task: TaskRef, id: DeadLetterId, now_ms: i64) {
    let mut row = TaskRow { replay_of: id.to_string(), updated_at_ms: now_ms, ..TaskRow::default() };
    make_due(tx, task, &mut row, now_ms);
}

fn manifest_of(spec: &TaskSpec) -> Manifest {
    let hint = StorageHint {
        bucket: spec.bucket.clone(),
        key_prefix: spec.key_prefix.clone(),
        metadata: spec.object_metadata.clone(),
        content_addressed: spec.content_addressed,
    };
    let resource = Resource {
        id: spec.resource_id.clone(),
        url: spec.url.clone(),
        headers: spec.headers.clone(),
        tags: spec.tags.clone(),
        checksum: spec.checksum,
        mime_hint: spec.mime_hint.clone(),
        max_bytes: spec.max_bytes,
        storage_hint: Some(hint),
        proxy_hint: spec.proxy_hint.clone(),
        revalidate: spec.revalidate,
    };
    Manifest {
        metadata_json: "{}".to_owned(),
        attributes_json: "{}".to_owned(),
        resources: vec![resource],
        ..Manifest::default()
    }
}
