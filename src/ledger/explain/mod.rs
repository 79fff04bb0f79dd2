//! The life of a job or of one resource, told so that a person understands it.
//!
//! Owns: what is read for a story, within bounds. Must not know: how to change anything.

mod held;
mod job;
mod task;
mod words;

use std::collections::BTreeMap;

pub use held::Present;

use super::scan::{EXAMINED_MAX, READ_ROWS_MAX};
use super::{JobStory, LifeEvent, TaskStory};
use crate::model::{DeadLetterId, Job, JobId, LogLevel, LogRecord, Refusal, Task, TaskIndex, TaskRef, TaskState, Way};
use crate::store::Reader;

/// Stories of resources within a job's own.
const TASKS_MAX: usize = 100;
/// The job's own log lines within its story.
const LINES_MAX: usize = 100;
/// Lines of one read. One may have 64 KiB: this bounds a read to 16 MiB.
const OWN_LINES_READ: usize = 256;

pub fn job(reader: &Reader, job: Job, present: &Present<'_>) -> Result<JobStory, Refusal> {
    let mut gathered = job::Gathered::default();
    let mut told = BTreeMap::new();
    walk(reader, job.id, |task| {
        gathered.add(&task);
        if let Some(rank) = rank(&task) {
            told.insert((rank, task.task.index), task);
        }
        if told.len() > TASKS_MAX {
            told.pop_last();
        }
        true
    })?;
    let mut events = job::events(&job, &gathered, &own_lines(reader, &job)?);
    let held = common_reason(reader, &job, present, told.values());
    let mut tasks = Vec::new();
    for task in told.into_values() {
        tasks.push(of_task(reader, &job, task, present)?);
    }
    for story in &tasks {
        let is_named = |event: &&LifeEvent| matches!(event.what.as_str(), "started" | "failed" | "dead" | "stored");
        let named = story.events.iter().filter(is_named);
        events.extend(named.cloned().map(|mut event| {
            event.message = format!("{}: {}", story.task.spec.resource_id, event.message);
            event
        }));
    }
    let tried =
        if job.external || job.manifest_stored { Vec::new() } else { reader.attempts(TaskRef::manifest(job.id))? };
    for attempt in &tried {
        events.extend(task::attempt_events(attempt, None).map(|mut event| {
            event.message = format!("manifest: {}", event.message);
            event
        }));
    }
    // Of one that was refused only the job tells any more.
    let refused = job.errors.iter().rev().find(|failure| failure.resource_id.is_empty());
    let manifest_failure = tried.last().map(|attempt| &attempt.failure).or(refused);
    let summary = job::summary(&job, &gathered, manifest_failure, held.as_deref());
    Ok(JobStory { summary, events: job::arrange(events), tasks, job: clean(job) })
}

/// The one reason for which all that wait do not start; None: there is none, or there are several.
fn common_reason<'a>(
    reader: &Reader,
    job: &Job,
    present: &Present<'_>,
    tasks: impl Iterator<Item = &'a Task>,
) -> Option<String> {
    let controls = reader.controls();
    let waits = |task: &&Task| matches!(task.state, TaskState::Ready | TaskState::RetryWait { .. });
    let mut reasons = tasks.filter(waits).map(|task| held::reason(&controls, present, &job.job_type, task));
    let first = reasons.next()??;
    reasons.all(|other| other.as_ref() == Some(&first)).then_some(first)
}

/// NOT_FOUND when the job has no such resource.
pub fn resource(reader: &Reader, job: &Job, resource_id: &str, present: &Present<'_>) -> Result<TaskStory, Refusal> {
    let mut found = None;
    walk(reader, job.id, |task| {
        if task.spec.resource_id == resource_id {
            found = Some(task);
        }
        found.is_none()
    })?;
    let shown = job.public_id();
    let missing = || Refusal::not_found(format!("resource {resource_id:?} of job {shown}")).with_job(&shown);
    of_task(reader, job, found.ok_or_else(missing)?, present)
}

fn of_task(reader: &Reader, job: &Job, task: Task, present: &Present<'_>) -> Result<TaskStory, Refusal> {
    let attempts = reader.attempts(task.task)?;
    let letter = letter_of(reader, &task)?;
    let held = held::reason(&reader.controls(), present, &job.job_type, &task);
    Ok(task::story(job, task, &attempts, letter, held))
}

/// A letter is named by when its task died.
fn letter_of(reader: &Reader, task: &Task) -> Result<Option<DeadLetterId>, Refusal> {
    let TaskState::Dead { failure } = &task.state else { return Ok(None) };
    for died_at_ms in [task.updated_at_ms, failure.at_ms] {
        let id = DeadLetterId { died_at_ms, task: task.task };
        if reader.dead_letter(id)?.is_some() {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// Calls `each` with the job's resources until it answers false.
fn walk(reader: &Reader, id: JobId, mut each: impl FnMut(Task) -> bool) -> Result<(), Refusal> {
    let (mut from, mut examined) = (TaskIndex(0), 0);
    while examined < EXAMINED_MAX {
        let tasks = reader.tasks(id, from, READ_ROWS_MAX)?;
        let end = tasks.len() < READ_ROWS_MAX;
        examined += tasks.len();
        for task in tasks {
            from = TaskIndex(task.task.index.0.saturating_add(1));
            if !each(task) {
                return Ok(());
            }
        }
        if end {
            return Ok(());
        }
    }
    Ok(())
}

/// Which resources' stories matter first; None: it was stored, and there is nothing to tell about it.
fn rank(task: &Task) -> Option<u8> {
    match task.state {
        TaskState::Done { .. } => {
            let is_told = task.attempts > 1 || task.last_failure.is_some() || Way(&task.done_context).is_eventful();
            is_told.then_some(5)
        }
        TaskState::Dead { .. } => Some(0),
        TaskState::RetryWait { .. } => Some(1),
        TaskState::Leased { .. } => Some(2),
        TaskState::Ready => Some(3),
        TaskState::Canceled => Some(4),
    }
}

/// The latest lines about the job itself; those about a resource repeat its attempts.
fn own_lines(reader: &Reader, job: &Job) -> Result<Vec<LogRecord>, Refusal> {
    let from = job.log_count.saturating_sub(READ_ROWS_MAX as u64);
    let mut lines = Vec::new();
    for start in (from..job.log_count).step_by(OWN_LINES_READ) {
        lines.extend(reader.logs(job.id, start, OWN_LINES_READ)?);
    }
    lines.retain(|line| line.entry.resource_id.is_empty() && line.entry.level >= LogLevel::Info);
    // Where old lines were deleted two reads overlap.
    lines.sort_by_key(|line| line.offset);
    lines.dedup_by_key(|line| line.offset);
    lines.drain(..lines.len().saturating_sub(LINES_MAX));
    Ok(lines)
}

fn clean(job: Job) -> Job {
    let errors = job.errors.iter().map(words::clean_failure).collect();
    Job { errors, ..job }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::model::{JobState, Priority, TaskSpec};

    /// A job of `total` resources, accepted at 1 s.
    pub fn job(total: u32) -> Job {
        Job {
            id: JobId::MIN,
            job_type: Default::default(),
            tenant: Default::default(),
            priority: Priority::Normal,
            state: JobState::InProgress,
            phase: String::new(),
            total,
            completed: 0,
            failed: 0,
            canceled: 0,
            manifest_bucket: "b".into(),
            manifest_key: "k".into(),
            manifest_stored: false,
            errors: Vec::new(),
            created_at_ms: 1_000,
            updated_at_ms: 1_000,
            completed_at_ms: 0,
            log_count: 0,
            bytes_stored: 0,
            revision: 1,
            trace_id: String::new(),
            external: false,
            cancel_requested: false,
            name: None,
            output_counts: Vec::new(),
            output_bytes: 0,
            output_at_ms: 0,
        }
    }

    pub fn task(index: u16, state: TaskState) -> Task {
        Task {
            task: TaskRef { job: JobId::MIN, index: TaskIndex(index) },
            spec: TaskSpec { resource_id: format!("r{index}"), url: "http://h:80/x".into(), ..TaskSpec::default() },
            state,
            attempts: 1,
            last_failure: None,
            replay_of: String::new(),
            updated_at_ms: 50_000,
            done_context: Default::default(),
        }
    }

    #[test]
    fn dead_resources_are_told_before_those_that_only_wait() {
        let rank_of = |state| rank(&task(0, state));
        assert!(rank_of(TaskState::RetryWait { not_before_ms: 1 }) < rank_of(TaskState::Ready));
        assert!(rank_of(TaskState::Ready) < rank_of(TaskState::Canceled));
        let done = || task(0, TaskState::Done { object: Default::default() });
        assert_eq!(rank(&done()), None, "one download, one upload: nothing to tell");
        let again = Task { attempts: 2, ..done() };
        assert!(rank(&again) > rank_of(TaskState::Canceled));
        let resumed = BTreeMap::from([("resumed_at".to_owned(), "7".to_owned())]);
        assert_eq!(rank(&Task { done_context: resumed, ..done() }), rank(&again));
    }
}
