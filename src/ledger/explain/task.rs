//! One resource's life: from its attempts and its present state to events and a sentence.
//!
//! Owns: the telling. Must not know: where the rows come from.

use super::words::{advice, clean_failure, clean_task, code_at, hex, plural, shown_url, size, span, when};
use crate::ledger::{LifeEvent, TaskStory};
use crate::model::{Attempt, DeadLetterId, Failure, Job, StoredObject, Task, TaskState};

pub fn event(at_ms: i64, what: &str, message: impl Into<String>) -> LifeEvent {
    LifeEvent { at_ms, what: what.to_owned(), message: message.into(), failure: None }
}

/// `attempts`: the failed ones that are kept, oldest first. `letter`: the dead letter, where it is still kept.
pub fn story(job: &Job, task: Task, attempts: &[Attempt], letter: Option<DeadLetterId>) -> TaskStory {
    let mut events = vec![event(job.created_at_ms, "accepted", format!("To fetch: {}", shown_url(&task.spec.url)))];
    if !task.replay_of.is_empty() {
        let died_at_ms = task.replay_of.parse::<DeadLetterId>().map_or(0, |id| id.died_at_ms);
        let message = format!("Queued again from dead letter {}.", task.replay_of);
        events.push(event(died_at_ms.max(job.created_at_ms), "replayed", message));
    }
    if let Some(first) = attempts.first().filter(|first| first.number > 1) {
        let message = format!("{} before this are no longer kept.", plural(u64::from(first.number) - 1, "attempt"));
        events.push(event(first.started_at_ms.max(job.created_at_ms), "omitted", message));
    }
    for attempt in attempts {
        events.extend(attempt_events(attempt));
    }
    events.extend(present(&task, letter));
    events.sort_by_key(|event| event.at_ms);
    TaskStory { summary: summary(&task), task: clean_task(task), events }
}

pub fn attempt_events(attempt: &Attempt) -> [LifeEvent; 2] {
    let failure = clean_failure(&attempt.failure);
    let number = attempt.number;
    let ended_at_ms = failure.at_ms.max(attempt.started_at_ms);
    let status = failure.context.get("status").map_or_else(String::new, |status| format!(", status {status}"));
    let decision = if attempt.not_before_ms > 0 {
        let wait = span(attempt.not_before_ms - ended_at_ms);
        format!("The next one not before {} ({wait} later).", when(attempt.not_before_ms))
    } else {
        "No further attempt.".to_owned()
    };
    let message = format!(
        "Attempt {number} failed after {}: {}{status}: {} {decision}",
        span(ended_at_ms - attempt.started_at_ms),
        code_at(&failure),
        sentence(&failure),
    );
    [
        event(attempt.started_at_ms, "started", format!("Attempt {number} started.")),
        LifeEvent { failure: Some(failure), ..event(ended_at_ms, "failed", message) },
    ]
}

/// The failure's own words, or what its code means where it has none.
fn sentence(failure: &Failure) -> String {
    let words = if failure.message.is_empty() { failure.code.meaning() } else { &failure.message };
    if words.ends_with(['.', '!', '?']) { words.to_owned() } else { format!("{words}.") }
}

/// What is true now.
fn present(task: &Task, letter: Option<DeadLetterId>) -> Vec<LifeEvent> {
    let at_ms = task.updated_at_ms;
    let next = task.attempts + 1;
    match &task.state {
        TaskState::Ready => vec![event(at_ms, "waiting", format!("Attempt {next} waits for its turn."))],
        TaskState::Leased { until_ms, .. } => {
            vec![event(at_ms, "running", format!("Attempt {} runs; it has until {}.", task.attempts, when(*until_ms)))]
        }
        TaskState::RetryWait { not_before_ms } => {
            vec![event(at_ms, "waiting", format!("Attempt {next} may start at {}.", when(*not_before_ms)))]
        }
        TaskState::Done { object } => vec![event(at_ms, "stored", format!("Stored at {}.", place(object)))],
        TaskState::Dead { failure } => {
            let failure = clean_failure(failure);
            let kept = match letter {
                Some(id) => format!(" Its dead letter is {id}."),
                None => String::new(),
            };
            let message = format!(
                "Given up after {}: {}. {} {}{kept}",
                plural(u64::from(task.attempts), "attempt"),
                code_at(&failure),
                failure.code.meaning(),
                advice(failure.code),
            );
            let at_ms = at_ms.max(failure.at_ms);
            vec![LifeEvent { failure: Some(failure), ..event(at_ms, "dead", message) }]
        }
        TaskState::Canceled => vec![event(at_ms, "canceled", "Canceled before it was stored.")],
    }
}

pub fn place(object: &StoredObject) -> String {
    let kind = if object.content_type.is_empty() { String::new() } else { format!(", {}", object.content_type) };
    let (bucket, key, bytes) = (&object.bucket, &object.key, object.size_bytes);
    format!("{bucket}/{key} ({}, {bytes} bytes{kind}, SHA-256 {})", size(bytes), hex(&object.sha256))
}

fn summary(task: &Task) -> String {
    let tries = plural(u64::from(task.attempts), "attempt");
    let because =
        task.last_failure.as_ref().map_or_else(String::new, |failure| format!(", after {}", code_at(failure)));
    match &task.state {
        TaskState::Ready => format!("waits for its turn{because}"),
        TaskState::Leased { .. } => format!("attempt {} runs{because}", task.attempts),
        TaskState::RetryWait { not_before_ms } => {
            format!("waits until {} for attempt {}{because}", when(*not_before_ms), task.attempts + 1)
        }
        TaskState::Done { object } => format!("stored after {tries} at {}", place(object)),
        TaskState::Dead { failure } => {
            format!("dead after {tries} ({}): {}", code_at(failure), failure.code.meaning())
        }
        TaskState::Canceled => format!("canceled after {tries}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{job, task};
    use super::*;
    use crate::model::{FailureCode, Header};

    fn failed(number: u32, code: FailureCode, not_before_ms: i64) -> Attempt {
        let mut failure = Failure::new(code, "GET http://h:80/x?token=s3cret went wrong").with("host", "h:80");
        failure = failure.with("status", 503);
        failure.at_ms = 10_000 * i64::from(number) + 500;
        Attempt { number, started_at_ms: 10_000 * i64::from(number), failure, not_before_ms }
    }

    #[test]
    fn a_dead_resource_tells_each_attempt_why_it_died_and_what_to_do() {
        let dead = failed(2, FailureCode::DownloadServerError, 0).failure;
        let mut task = task(0, TaskState::Dead { failure: dead });
        task.attempts = 2;
        task.spec.headers = vec![Header { name: "authorization".into(), value: "Bearer s3cret".into() }];
        task.spec.url = "http://me:pw@h:80/x?token=s3cret".into();
        let attempts =
            [failed(1, FailureCode::DownloadServerError, 15_000), failed(2, FailureCode::DownloadServerError, 0)];
        let letter = DeadLetterId { died_at_ms: 20_500, task: task.task };
        let story = story(&job(1), task, &attempts, Some(letter));
        let whats: Vec<&str> = story.events.iter().map(|e| e.what.as_str()).collect();
        assert_eq!(whats, ["accepted", "started", "failed", "started", "failed", "dead"]);
        let failed = &story.events[2].message;
        assert!(failed.contains("DOWNLOAD_SERVER_ERROR at h:80, status 503"), "{failed}");
        assert!(failed.contains("not before 1970-01-01T00:00:15Z (4.5 s later)"), "{failed}");
        let end = &story.events[5].message;
        assert!(end.contains("2 attempts") && end.contains("5xx") && end.contains("Replay it"), "{end}");
        assert!(end.contains(&letter.to_string()), "{end}");
        let told = format!("{story:?}{}", story.task.spec.headers[0].value);
        assert!(!told.contains("s3cret") && !told.contains("me:pw"), "{told}");
    }

    #[test]
    fn a_stored_resource_tells_where_its_object_is() {
        let object = StoredObject {
            bucket: "b".into(),
            key: "k/x".into(),
            size_bytes: 5,
            sha256: [0xab; 32],
            ..Default::default()
        };
        let story = story(&job(1), task(0, TaskState::Done { object }), &[], None);
        assert_eq!(story.events.last().unwrap().what, "stored");
        for part in ["b/k/x", "5 bytes", &"ab".repeat(32)] {
            assert!(story.summary.contains(part), "{}", story.summary);
        }
    }

    #[test]
    fn a_waiting_resource_tells_until_when_and_why() {
        let mut task = task(0, TaskState::RetryWait { not_before_ms: 60_000 });
        task.attempts = 1;
        task.last_failure = Some(failed(1, FailureCode::DownloadThrottled, 60_000).failure);
        let story = story(&job(1), task, &[], None);
        assert_eq!(story.summary, "waits until 1970-01-01T00:01:00Z for attempt 2, after DOWNLOAD_THROTTLED at h:80");
    }

    #[test]
    fn a_replayed_resource_names_the_letter_it_came_from() {
        let mut task = task(0, TaskState::Ready);
        let letter = DeadLetterId { died_at_ms: 7_000, task: task.task };
        task.replay_of = letter.to_string();
        let story = story(&job(1), task, &[failed(4, FailureCode::DownloadDns, 0)], None);
        let replayed = story.events.iter().find(|e| e.what == "replayed").unwrap();
        assert!(replayed.message.contains(&letter.to_string()) && replayed.at_ms == 7_000);
        assert!(story.events.iter().any(|e| e.what == "omitted" && e.message.starts_with("3 attempts")));
    }
}
