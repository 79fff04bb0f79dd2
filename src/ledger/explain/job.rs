//! A job's life: one sentence from its counters and its resources, and the events that led there.
//!
//! Owns: the telling. Must not know: where the rows come from.

use std::collections::BTreeMap;

use super::task::event;
use super::words::{clean_failure, code_at, plural, size, span};
use crate::ledger::LifeEvent;
use crate::model::{Failure, Job, LogRecord, Task, TaskState, Way, clean_text};

/// Events of one story.
pub const EVENTS_MAX: usize = 1_000;
/// Kinds of failure named in the sentence.
const GROUPS_SHOWN: usize = 3;

/// What is remembered of a job's tasks: gathered one by one, so that a large job costs no memory.
#[derive(Debug, Default)]
pub struct Gathered {
    running: u64,
    /// When the first of those that wait for a retry may start.
    next_try_ms: Option<i64>,
    first_stored_ms: Option<i64>,
    last_stored_ms: i64,
    /// By code and host.
    dead: BTreeMap<String, u64>,
    replayed: u64,
    unchanged: u64,
    reused: u64,
}

impl Gathered {
    pub fn add(&mut self, task: &Task) {
        self.replayed += u64::from(!task.replay_of.is_empty());
        match &task.state {
            TaskState::Ready | TaskState::Canceled => {}
            TaskState::Leased { .. } => self.running += 1,
            TaskState::RetryWait { not_before_ms } => {
                self.next_try_ms = Some(self.next_try_ms.map_or(*not_before_ms, |ms| ms.min(*not_before_ms)));
            }
            TaskState::Done { .. } => {
                let at_ms = task.updated_at_ms;
                self.first_stored_ms = Some(self.first_stored_ms.map_or(at_ms, |ms| ms.min(at_ms)));
                self.last_stored_ms = self.last_stored_ms.max(at_ms);
                let way = Way(&task.done_context);
                self.unchanged += u64::from(way.is_not_changed());
                self.reused += u64::from(way.is_reused());
            }
            TaskState::Dead { failure } => *self.dead.entry(code_at(failure)).or_default() += 1,
        }
    }

    /// " (5 not changed, 2 already there)"
    fn saved(&self) -> String {
        let parts = [(self.unchanged, "not changed"), (self.reused, "already there")];
        let parts: Vec<String> =
            parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
    }

    /// "DOWNLOAD_NOT_FOUND at a:80", or "3 × … , 2 × …, and 4 of other kinds".
    fn dead_kinds(&self) -> String {
        let mut kinds: Vec<(&String, &u64)> = self.dead.iter().collect();
        kinds.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        if let [(kind, _)] = kinds[..] {
            return kind.clone();
        }
        let others: u64 = kinds.iter().skip(GROUPS_SHOWN).map(|(_, count)| **count).sum();
        let shown = kinds.iter().take(GROUPS_SHOWN).map(|(kind, count)| format!("{count} × {kind}"));
        let others = (others > 0).then(|| format!("and {others} of other kinds"));
        shown.chain(others).collect::<Vec<_>>().join(", ")
    }
}

/// `held`: why what waits does not start, where one reason holds for all of it.
pub fn summary(job: &Job, gathered: &Gathered, manifest_failure: Option<&Failure>, held: Option<&str>) -> String {
    let mut parts = Vec::new();
    if job.external {
        parts.push(format!("external job, {}", job.state.name().replace('_', " ")));
        parts.push(plural(job.log_count, "log record"));
    } else {
        parts.push(format!("{} of {} stored{}", job.completed, job.total, gathered.saved()));
        parts.extend(counted(job.failed, "dead").map(|text| match gathered.dead_kinds() {
            kinds if kinds.is_empty() => text,
            kinds => format!("{text} ({kinds})"),
        }));
        parts.extend(counted(job.canceled, "canceled"));
        let open = u64::from(job.total.saturating_sub(job.completed + job.failed + job.canceled));
        let running = gathered.running.min(open);
        parts.extend((running > 0).then(|| format!("{running} running")));
        let why = held.map_or_else(String::new, |held| format!(" ({held})"));
        parts.extend((open > running).then(|| format!("{} waiting{why}", open - running)));
    }
    if !job.phase.is_empty() {
        parts.push(format!("phase \"{}\"", clean_text(&job.phase)));
    }
    if !job.external && !job.manifest_stored {
        let why = manifest_failure.map_or_else(String::new, |failure| format!(" ({})", code_at(failure)));
        let what = if job.state.is_terminal() { "refused by the object store" } else { "not stored yet" };
        parts.push(format!("its manifest {what}{why}"));
    }
    let body = parts.join(", ");
    if !job.state.is_terminal() {
        return body;
    }
    format!("{} after {}: {body}", job.state.name(), span(job.completed_at_ms - job.created_at_ms))
}

fn counted(count: u32, what: &str) -> Option<String> {
    (count > 0).then(|| format!("{count} {what}"))
}

/// The job's own events, without those of its tasks' attempts.
pub fn events(job: &Job, gathered: &Gathered, lines: &[LogRecord]) -> Vec<LifeEvent> {
    let what = if job.external { "An external job".to_owned() } else { plural(u64::from(job.total), "resource") };
    let trace = if job.trace_id.is_empty() { String::new() } else { format!(", trace {}", job.trace_id) };
    let accepted = format!("{what} accepted from tenant {} as job type {}{trace}.", job.tenant, job.job_type);
    let mut events = vec![event(job.created_at_ms, "accepted", accepted)];
    if gathered.replayed > 0 {
        let message = format!("{} queued again from dead letters.", plural(gathered.replayed, "resource"));
        events.push(event(job.created_at_ms, "replayed", message));
    }
    if let Some(first_ms) = gathered.first_stored_ms {
        events.push(event(first_ms, "stored", "The first resource was stored."));
        if job.completed > 1 {
            let message =
                format!("Resource {} of {} was stored, {} so far.", job.completed, job.total, size(job.bytes_stored));
            events.push(event(gathered.last_stored_ms, "stored", message));
        }
    }
    if let Some(next_ms) = gathered.next_try_ms.filter(|_| !job.state.is_terminal()) {
        events.push(event(next_ms, "waiting", "The next retry may start."));
    }
    events.extend(lines.iter().map(|line| event(line.entry.timestamp_ms, "log", clean_text(&line.entry.message))));
    if job.external {
        events.extend(job.errors.iter().map(|failure| {
            let failure = clean_failure(failure);
            LifeEvent { failure: Some(failure.clone()), ..event(failure.at_ms, "failed", failure.to_string()) }
        }));
    }
    if job.cancel_requested && !job.state.is_terminal() {
        events.push(event(job.updated_at_ms, "canceled", "Canceled; what runs is being stopped."));
    }
    if job.state.is_terminal() {
        let took = span(job.completed_at_ms - job.created_at_ms);
        let manifest = match job.manifest_stored {
            true => format!(" Its manifest is at {}/{}.", job.manifest_bucket, job.manifest_key),
            false => String::new(),
        };
        let message = format!("Ended {} after {took}.{manifest}", job.state.name());
        events.push(event(job.completed_at_ms, job.state.name(), message));
    }
    events
}

/// In order of time; of too many the first and the latest.
pub fn arrange(mut events: Vec<LifeEvent>) -> Vec<LifeEvent> {
    events.sort_by_key(|event| event.at_ms);
    if events.len() > EVENTS_MAX {
        let cut = events.len() - EVENTS_MAX + 1;
        let message = format!("{cut} events are left out here; explain a single resource to see all of its own.");
        let at_ms = events.get(1).map_or(0, |event| event.at_ms);
        events.splice(1..=cut, [event(at_ms, "omitted", message)]);
    }
    events
}

#[cfg(test)]
mod tests {
    use super::super::tests::{job, task};
    use super::*;
    use crate::model::{FailureCode, JobState, StoredObject};

    fn dead(host: &str) -> TaskState {
        TaskState::Dead { failure: Failure::new(FailureCode::DownloadNotFound, "404").with("host", host) }
    }

    fn gathered(states: Vec<TaskState>) -> Gathered {
        let mut gathered = Gathered::default();
        for (index, state) in states.into_iter().enumerate() {
            gathered.add(&task(u16::try_from(index).unwrap(), state));
        }
        gathered
    }

    #[test]
    fn one_sentence_tells_how_far_a_job_is_and_what_is_wrong() {
        let mut job = job(20);
        (job.completed, job.failed, job.manifest_stored) = (7, 1, true);
        let running = TaskState::Leased { until_ms: 9, epoch: 1 };
        let told = summary(&job, &gathered(vec![dead("127.0.0.1:8080")]), None, None);
        assert_eq!(told, "7 of 20 stored, 1 dead (DOWNLOAD_NOT_FOUND at 127.0.0.1:8080), 12 waiting");
        job.failed = 3;
        let told = summary(&job, &gathered(vec![dead("a:80"), dead("b:80"), dead("b:80"), running]), None, None);
        assert_eq!(
            told,
            "7 of 20 stored, 3 dead (2 × DOWNLOAD_NOT_FOUND at b:80, 1 × DOWNLOAD_NOT_FOUND at a:80), 1 running, 9 waiting"
        );
    }

    #[test]
    fn an_ended_job_tells_how_and_after_how_long() {
        let mut job = job(2);
        (job.completed, job.failed, job.manifest_stored) = (1, 1, true);
        (job.state, job.completed_at_ms) = (JobState::Partial, job.created_at_ms + 72_000);
        let told = summary(&job, &gathered(vec![dead("a:80")]), None, None);
        assert_eq!(told, "partial after 1 min 12 s: 1 of 2 stored, 1 dead (DOWNLOAD_NOT_FOUND at a:80)");
        let events = arrange(events(&job, &gathered(vec![TaskState::Done { object: StoredObject::default() }]), &[]));
        assert_eq!(events.first().unwrap().what, "accepted");
        assert_eq!(events.last().unwrap().what, "partial");
    }

    #[test]
    fn a_job_that_only_waits_for_its_manifest_says_so() {
        let mut job = job(1);
        job.completed = 1;
        let failure = Failure::new(FailureCode::StorageFull, "full");
        let told = summary(&job, &Gathered::default(), Some(&failure), None);
        assert_eq!(told, "1 of 1 stored, its manifest not stored yet (STORAGE_FULL)");
    }

    #[test]
    fn a_story_is_cut_in_the_middle_and_says_so() {
        let events = arrange((0..2_500).map(|at| event(at, "failed", "")).collect());
        assert_eq!(events.len(), EVENTS_MAX);
        assert_eq!((events[0].at_ms, events[1].what.as_str(), events[999].at_ms), (0, "omitted", 2_499));
        assert!(events[1].message.starts_with("1501 "), "{}", events[1].message);
    }
}
