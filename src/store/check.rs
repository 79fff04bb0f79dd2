//! Check: reads a stopped data directory whole and says what does not hold. Changes nothing.
//!
//! Owns: the invariants of the rows among each other. Must not know: how to mend them (see `salvage`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::TenantKey;
use super::check_output::OutputWalk;
use super::keys::{Family, Fields, Space};
use super::mark::MarkFile;
use super::open::{OpenError, Options, open_database, recover};
use super::records::{
    self, DeadLetterRow, IdempotencyRow, JobRow, LeaseRow, PartRow, ReadyRow, SourceRow, SpecRow, TaskRow, UploadRow,
};
use super::report::CheckReport;
use super::spaces::Spaces;
use super::tally::Tally;
use super::{journal, open::is_readable};
use crate::model::{FailureCode, JobId, JobState, Refusal, TaskRef};

/// Verifies the chain, every row, the indexes and the counters of `dir`. The caller holds the directory's lock.
pub fn check(dir: &Path) -> Result<CheckReport, OpenError> {
    let mut report = CheckReport::default();
    let io_at = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { path, source }
    };
    let version = std::fs::read_to_string(dir.join("VERSION")).map_err(io_at(&dir.join("VERSION")))?;
    if !is_readable(&version) {
        return Err(OpenError::Version { path: dir.join("VERSION"), found: version });
    }
    let mark = MarkFile::read(&dir.join("mark")).map_err(io_at(&dir.join("mark")))?;
    let Some(mark) = mark else {
        report.problem("the mark is damaged in both slots");
        return Ok(report);
    };
    let database = dir.join("db");
    if !database.exists() {
        if mark.sequence > 0 {
            report.problem(format!("{} is missing", database.display()));
        }
        return Ok(report);
    }
    let audit = journal::audit(&database, |_| ()).map_err(io_at(&database))?;
    report.journal_batches = audit.batches;
    if let Some(damage) = &audit.damage {
        report.problem(format!("the journal is damaged: {damage}"));
    }
    if let Some((last, _)) = audit.last
        && last < mark.sequence
    {
        report.problem(format!("the journal ends with group {last} and group {} was acknowledged", mark.sequence));
    }
    if !report.is_clean() || audit.torn.is_some() {
        if let Some(torn) = audit.torn {
            let end = format!("{}: {} bytes at the end are unreadable", torn.file.display(), torn.lost_bytes);
            if !report.is_clean() {
                report.problem(end);
            }
        }
        if !report.is_clean() {
            // Opening the database would cut the journal at the damage.
            return Ok(report);
        }
    }
    let spaces = open_database(&database, &Options::default())?;
    match recover(&spaces, &mark) {
        Ok(state) => {
            report.sequence = state.mark.sequence;
            walk(&spaces, &state.tally, &mut report);
        }
        Err(OpenError::Damaged(why)) => report.problem(why),
        Err(error) => return Err(error),
    }
    Ok(report)
}

/// Everything the rows say, to be compared with the counters.
#[derive(Default)]
struct Walk {
    jobs: BTreeMap<JobId, (JobState, u32, bool)>,
    tally: Tally,
    /// By job: done, dead, canceled, with any row at all.
    tasks: BTreeMap<JobId, [u32; 4]>,
    leased: BTreeSet<(u64, TaskRef)>,
    waiting: BTreeSet<(i64, TaskRef)>,
    dead: BTreeSet<(i64, TaskRef)>,
    ready: BTreeSet<JobId>,
    uploads: BTreeSet<(TaskRef, u64)>,
    /// None: the jobs' output is not looked at.
    output: Option<OutputWalk>,
}

fn walk(spaces: &Spaces, counted: &Tally, report: &mut CheckReport) {
    let mut seen = Walk { output: Some(OutputWalk::default()), ..Walk::default() };
    for space in Space::ALL {
        for row in spaces.range(space, &[0], &[u8::MAX]) {
            let outcome = row.and_then(|(key, value)| see(&mut seen, spaces, report, &key, &value));
            if let Err(refusal) = outcome {
                report.problem(format!("{}: {}", space.name(), refusal.message));
                if refusal.code == crate::model::RefusalCode::Unavailable {
                    break;
                }
            }
        }
    }
    compare(&seen, counted, report);
    if let Some(output) = seen.output {
        output.finish(spaces, report);
    }
}

fn see(seen: &mut Walk, spaces: &Spaces, report: &mut CheckReport, key: &[u8], value: &[u8]) -> Result<(), Refusal> {
    let family = Family::ALL.into_iter().find(|family| key.first() == Some(&(*family as u8)));
    let family = family.ok_or_else(|| records::damaged("a key of no family"))?;
    let bad_key = || records::damaged(format!("a {family:?} key"));
    let mut fields = Fields::of(family, key).ok_or_else(bad_key)?;
    match family {
        Family::Job => {
            let id = fields.job().ok_or_else(bad_key)?;
            see_job(seen, spaces, report, id, &records::decode("job", value)?)?;
        }
        Family::Task => see_task(seen, fields.task().ok_or_else(bad_key)?, &records::decode("task", value)?)?,
        Family::Spec => drop(records::decode::<SpecRow>("spec", value)?.into_manifest()?),
        Family::Idempotency => drop(records::decode::<IdempotencyRow>("idempotency", value)?),
        Family::Ready => {
            let id = records::decode::<ReadyRow>("ready", value)?.job()?;
            fields.ready().ok_or_else(bad_key)?;
            // The entry of a job that is deleted meanwhile is of no use and does no harm.
            if let Some(row) = spaces.get(&super::keys::job(id))? {
                let job: JobRow = records::decode("job", &row)?;
                let place = super::keys::ready(job.priority(), TenantKey::of(&job.tenant()?), job.ready_seq);
                if place.bytes != key {
                    report.problem(format!("job {id} stands at another place of the ready index than its row says"));
                }
            }
            seen.ready.insert(id);
        }
        Family::Due => {
            let due = fields.timed_task().ok_or_else(bad_key)?;
            if !seen.waiting.remove(&(due.died_at_ms, due.task)) {
                report.problem(format!("task {} is due and does not wait", due.task));
            }
        }
        Family::Lease => {
            let task = records::decode::<LeaseRow>("lease", value)?.task()?;
            if !seen.leased.remove(&(fields.u64().ok_or_else(bad_key)?, task)) {
                report.problem(format!("task {task} has a lease and is not leased"));
            }
        }
        Family::DeadLetter => {
            let id = fields.timed_task().ok_or_else(bad_key)?;
            let row: DeadLetterRow = records::decode("dead letter", value)?;
            let code = row.failure.as_ref().and_then(|failure| FailureCode::parse(&failure.code));
            let code = code.ok_or_else(|| records::damaged("a dead letter's code"))?;
            seen.tally.count_letter(code, true, (key.len() + value.len()) as u64);
            report.dead_letters += 1;
            seen.dead.remove(&(id.died_at_ms, id.task));
        }
        Family::Log => report.log_records += 1,
        // One whose task has ended or is gone is no fault: the next sweep aborts it.
        Family::Upload => {
            let (task, epoch) = fields.task().zip(fields.u64()).ok_or_else(bad_key)?;
            records::decode::<UploadRow>("upload", value)?.into_record(task, epoch)?;
            seen.uploads.insert((task, epoch));
        }
        Family::UploadPart => {
            let (task, epoch) = fields.task().zip(fields.u64()).ok_or_else(bad_key)?;
            let index = fields.u32().ok_or_else(bad_key)?;
            records::decode::<PartRow>("part", value)?;
            if !seen.uploads.contains(&(task, epoch)) {
                report.problem(format!("part {index} of task {task} belongs to no upload"));
            }
        }
        Family::Name => seen.output.as_ref().map_or(Ok(()), |output| output.see_name(spaces, report, key, value))?,
        Family::BlockHead => {
            seen.output.as_mut().map_or(Ok(()), |output| output.see_head(spaces, report, key, value))?;
        }
        Family::Block => seen.output.as_ref().map_or(Ok(()), |output| output.see_block(report, key))?,
        // Batches are read when everything else has been seen.
        Family::Batch | Family::Rollup => {}
        Family::Source => drop(records::decode::<SourceRow>("source", value)?.into_source()?),
        Family::Mark | Family::Owed | Family::Failure | Family::Controls => {}
    }
    Ok(())
}

fn see_job(seen: &mut Walk, spaces: &Spaces, report: &mut CheckReport, id: JobId, row: &JobRow) -> Result<(), Refusal> {
    let state = row.job_state()?;
    report.jobs += 1;
    seen.tally.count_state(None, Some(state));
    seen.tally.tasks_open += u64::from(row.open_tasks());
    if state.is_terminal() && row.open_tasks() > 0 && !row.external {
        report.problem(format!("job {id} is {} with {} open tasks", state.name(), row.open_tasks()));
    }
    if row.inline_spec.is_empty() && spaces.get(&super::keys::spec(id))?.is_none() {
        report.problem(format!("job {id} has no manifest"));
    }
    if let Some(output) = &mut seen.output {
        output.see_job(spaces, report, id, row)?;
    }
    seen.jobs.insert(id, (state, row.completed + row.failed + row.canceled, row.external));
    Ok(())
}

fn see_task(seen: &mut Walk, task: TaskRef, row: &TaskRow) -> Result<(), Refusal> {
    row.task_state()?;
    let counts = seen.tasks.entry(task.job).or_default();
    match row.state {
        TaskRow::LEASED => {
            seen.leased.insert((row.epoch, task));
            seen.tally.tasks_leased += 1;
        }
        TaskRow::RETRY_WAIT => {
            seen.waiting.insert((row.at_ms, task));
        }
        TaskRow::DONE => counts[0] += 1,
        TaskRow::DEAD => {
            counts[1] += 1;
            seen.dead.insert((row.at_ms, task));
        }
        _ => counts[2] += 1,
    }
    Ok(())
}

fn compare(seen: &Walk, counted: &Tally, report: &mut CheckReport) {
    for (epoch, task) in &seen.leased {
        report.problem(format!("task {task} is leased by epoch {epoch} and the lease is not indexed"));
    }
    for (at_ms, task) in &seen.waiting {
        report.problem(format!("task {task} waits until {at_ms} and is not in the due index: it would never run"));
    }
    for (id, (state, closed, external)) in &seen.jobs {
        let rows = seen.tasks.get(id).copied().unwrap_or_default();
        let closed_rows: u32 = rows[..3].iter().sum();
        if closed_rows != *closed && !external {
            report.problem(format!("job {id} counts {closed} ended tasks and {closed_rows} have"));
        }
        if *state == JobState::Queued && !external && !seen.ready.contains(id) && !seen.tasks.contains_key(id) {
            report.problem(format!("job {id} is queued and not in the ready index: it would never run"));
        }
    }
    report.tasks_open = seen.tally.tasks_open;
    let same = seen.tally.jobs == counted.jobs
        && seen.tally.tasks_open == counted.tasks_open
        && seen.tally.tasks_leased == counted.tasks_leased
        && seen.tally.dead_letters == counted.dead_letters
        && seen.tally.dead_letter_bytes == counted.dead_letter_bytes;
    if !same {
        report.problem(format!("the counters differ from the rows: counted {counted:?}, found {:?}", seen.tally));
    }
}

/// What the counters would be, from the rows alone. Unreadable rows count as nothing.
pub fn rebuild_tally(spaces: &Spaces) -> Tally {
    let mut seen = Walk::default();
    let mut ignored = CheckReport::default();
    for space in Space::ALL {
        for (key, value) in spaces.range(space, &[0], &[u8::MAX]).flatten() {
            // Problems are what salvage is for; the rows that can be read are counted.
            let _ = see(&mut seen, spaces, &mut ignored, &key, &value);
        }
    }
    seen.tally
}
