//! One resource's life: from its attempts and its present state to events and a sentence.
//!
//! Owns: the telling. Must not know: where the rows come from.

use base16ct::lower;

use super::words::{clean_failure, clean_task, code_at, plural, sentence, size, span, when};
use crate::ledger::{LifeEvent, TaskStory};
use crate::model::{
    Attempt, DeadLetterId, Failure, FailureCode, Job, RetryClass, StoredObject, Task, TaskSpec, TaskState, Way,
    clean_text, grouped, shown_url,
};

/// A shorter wait for a turn is not worth a word.
const QUEUED_MS_MIN: i64 = 1_000;

pub fn event(at_ms: i64, what: &str, message: impl Into<String>) -> LifeEvent {
    LifeEvent { at_ms, what: what.to_owned(), message: message.into(), failure: None }
}

/// `attempts`: the failed ones that are kept, oldest first. `letter`: the dead letter, where it is still kept. `held`: why it does
/// not start although it could.
pub fn story(
    job: &Job,
    task: Task,
    attempts: &[Attempt],
    letter: Option<DeadLetterId>,
    held: Option<String>,
) -> TaskStory {
    let mut events = vec![event(job.created_at_ms, "accepted", wanted(&task.spec))];
    if !task.replay_of.is_empty() {
        let died_at_ms = task.replay_of.parse::<DeadLetterId>().map_or(0, |id| id.died_at_ms);
        let message = format!("Queued again from dead letter {}.", task.replay_of);
        events.push(event(died_at_ms.max(job.created_at_ms), "replayed", message));
    }
    if let Some(first) = attempts.first().filter(|first| first.number > 1) {
        let message = format!("{} before this are no longer kept.", plural(u64::from(first.number) - 1, "attempt"));
        events.push(event(first.started_at_ms.max(job.created_at_ms), "omitted", message));
    }
    // Since when the next attempt could start; not known behind a gap, or in another life.
    let mut ready_ms = task.replay_of.is_empty().then_some((1, job.created_at_ms));
    for attempt in attempts {
        let since_ms = ready_ms.filter(|(number, _)| *number == attempt.number).map(|(_, at_ms)| at_ms);
        events.extend(attempt_events(attempt, since_ms));
        ready_ms = Some((attempt.number.saturating_add(u32::from(counts(&attempt.failure))), attempt.not_before_ms));
    }
    let since_ms = ready_ms.filter(|(number, _)| *number == task.attempts).map(|(_, at_ms)| at_ms);
    events.extend(present(&task, letter, since_ms, held.as_deref()));
    events.sort_by_key(|event| event.at_ms);
    TaskStory { summary: summary(&task, held.as_deref()), task: clean_task(task), events }
}

/// What is to be done, in one sentence.
fn wanted(spec: &TaskSpec) -> String {
    let mut text = format!("To fetch: {}", shown_url(&spec.url));
    if let Some(hint) = &spec.proxy_hint {
        text.push_str(&format!(", through proxy pool {}", hint.primary_pool));
        if !hint.fallbacks.is_empty() {
            text.push_str(&format!(" (or {})", hint.fallbacks.join(", ")));
        }
    }
    if spec.revalidate {
        text.push_str(", unless it has not changed");
    }
    if spec.content_addressed {
        text.push_str(", to be stored under its digest");
    }
    text
}

/// `since_ms`: since when it could start; None: not known.
pub fn attempt_events(attempt: &Attempt, since_ms: Option<i64>) -> [LifeEvent; 2] {
    let failure = clean_failure(&attempt.failure);
    let number = attempt.number;
    let ended_at_ms = failure.at_ms.max(attempt.started_at_ms);
    let next = if failure.code == FailureCode::SystemInterrupted {
        "It does not count and is made again.".to_owned()
    } else if attempt.not_before_ms > 0 {
        let wait = span(attempt.not_before_ms - ended_at_ms);
        let asked = match failure.code.class() {
            RetryClass::Throttled => "The other side asked to wait: the next one",
            RetryClass::Parked => "It does not count. The next one",
            RetryClass::Transient | RetryClass::Unlikely | RetryClass::Permanent => "The next one",
        };
        format!("{asked} not before {} ({wait} later).", when(attempt.not_before_ms))
    } else {
        "No further attempt.".to_owned()
    };
    let message = if failure.code == FailureCode::SystemInterrupted {
        // Nobody saw when it ended.
        format!("Attempt {number} was cut off: {} {next}", sentence(&failure))
    } else {
        format!(
            "Attempt {number} failed after {}{}: {}{}: {} {next}",
            span(ended_at_ms - attempt.started_at_ms),
            received(&failure),
            code_at(&failure),
            detail(&failure),
            sentence(&failure),
        )
    };
    [
        started(number, attempt.started_at_ms, since_ms),
        LifeEvent { failure: Some(failure), ..event(ended_at_ms, "failed", message) },
    ]
}

fn started(number: u32, at_ms: i64, since_ms: Option<i64>) -> LifeEvent {
    let queued_ms = since_ms.filter(|since| *since > 0).map_or(0, |since| at_ms - since);
    let queued = match queued_ms {
        QUEUED_MS_MIN.. => format!(" after it waited {} for its turn", span(queued_ms)),
        _ => String::new(),
    };
    event(at_ms, "started", format!("Attempt {number} started{queued}."))
}

/// " and 524,288 bytes"
fn received(failure: &Failure) -> String {
    let bytes = failure.context.get("bytes").and_then(|bytes| bytes.parse().ok()).filter(|bytes| *bytes > 0);
    bytes.map_or_else(String::new, |bytes| format!(" and {} bytes", grouped(bytes)))
}

/// Whether the attempt was one of those that are counted.
fn counts(failure: &Failure) -> bool {
    failure.code != FailureCode::SystemInterrupted && failure.code.class() != RetryClass::Parked
}

/// ", status 503 when it was asked for the rest after DOWNLOAD_INTERRUPTED, through proxy eu"
fn detail(failure: &Failure) -> String {
    let told = |key: &str, words: &str| failure.context.get(key).map(|value| format!("{words} {}", clean_text(value)));
    let broke_off = told("broke_off", " when the origin was asked for the rest after");
    let status = told("status", ", status").unwrap_or_default() + &broke_off.unwrap_or_default();
    match Way(&failure.context).to_string() {
        way if way.is_empty() => status,
        way => format!("{status}, {way}"),
    }
}

/// What is true now.
fn present(task: &Task, letter: Option<DeadLetterId>, since_ms: Option<i64>, held: Option<&str>) -> Vec<LifeEvent> {
    let at_ms = task.updated_at_ms;
    let next = task.attempts + 1;
    match &task.state {
        TaskState::Ready => {
            let why = held.map_or_else(String::new, |held| format!(": {held}"));
            vec![event(at_ms, "waiting", format!("Attempt {next} waits for its turn{why}."))]
        }
        TaskState::Leased { until_ms, .. } => {
            let runs = format!("Attempt {} runs; it has until {}.", task.attempts, when(*until_ms));
            vec![event(at_ms, "running", runs)]
        }
        TaskState::RetryWait { not_before_ms } => {
            let why = held.map_or_else(String::new, |held| format!(" at the earliest: {held}"));
            vec![event(at_ms, "waiting", format!("Attempt {next} may start at {}{why}.", when(*not_before_ms)))]
        }
        TaskState::Done { object } => stored(task, object, since_ms),
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
                failure.code.action(),
            );
            let at_ms = at_ms.max(failure.at_ms);
            vec![LifeEvent { failure: Some(failure), ..event(at_ms, "dead", message) }]
        }
        TaskState::Canceled => vec![event(at_ms, "canceled", "Canceled before it was stored.")],
    }
}

/// The attempt that made it, as far as its row tells.
fn stored(task: &Task, object: &StoredObject, since_ms: Option<i64>) -> Vec<LifeEvent> {
    let way = Way(&task.done_context);
    let place = place(object);
    let Some(took_ms) = way.took_ms() else {
        return vec![event(task.updated_at_ms, "stored", format!("Stored at {place}."))];
    };
    let words = match way.to_string() {
        words if words.is_empty() => words,
        words => format!(", {words}"),
    };
    let (number, took) = (task.attempts, span(took_ms));
    let message = if way.is_not_changed() {
        format!("Attempt {number} was told after {took} that it has not changed{words}. It stands at {place}.")
    } else {
        format!("Attempt {number} stored it after {took}{words}. It stands at {place}.")
    };
    let started = started(number, task.updated_at_ms.saturating_sub(took_ms), since_ms);
    vec![started, event(task.updated_at_ms, "stored", message)]
}

pub fn place(object: &StoredObject) -> String {
    let kind = if object.content_type.is_empty() { String::new() } else { format!(", {}", object.content_type) };
    let (bucket, key, bytes) = (&object.bucket, &object.key, object.size_bytes);
    format!(
        "{bucket}/{key} ({}, {} bytes{kind}, SHA-256 {})",
        size(bytes),
        grouped(bytes),
        lower::encode_string(&object.sha256)
    )
}

fn summary(task: &Task, held: Option<&str>) -> String {
    let tries = plural(u64::from(task.attempts), "attempt");
    let because = match (held, &task.last_failure) {
        (Some(held), _) => format!(": {held}"),
        (None, Some(failure)) => format!(", after {}", code_at(failure)),
        (None, None) => String::new(),
    };
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
    use crate::model::{FailureCode, Header, ProxyHint};

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
        let story = story(&job(1), task, &attempts, Some(letter), None);
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
    fn a_resource_whose_daemon_died_is_not_said_to_have_waited() {
        let mut cut = failed(1, FailureCode::SystemInterrupted, 20_000);
        cut.failure.message = "the daemon stopped while attempt 1 ran".into();
        cut.failure.at_ms = 20_000;
        let mut task = task(0, TaskState::Done { object: StoredObject::default() });
        (task.attempts, task.updated_at_ms) = (1, 20_700);
        task.done_context = [("took_ms", "500"), ("continued_at", "8388608"), ("resumed_at", "8388608")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let story = story(&job(1), task, &[cut], None, None);
        let told: Vec<&str> = story.events.iter().map(|event| event.message.as_str()).collect();
        assert_eq!(told[1], "Attempt 1 started after it waited 9.0 s for its turn.");
        assert_eq!(
            told[2],
            "Attempt 1 was cut off: the daemon stopped while attempt 1 ran. It does not count and is made again."
        );
        assert_eq!(told[3], "Attempt 1 started.");
        let way = "continued at byte 8,388,608 with what an earlier attempt had stored. It stands";
        assert!(told[4].contains(way), "{}", told[4]);
    }

    #[test]
    fn a_body_that_broke_off_is_told_with_what_came_after_it() {
        let mut attempt = failed(2, FailureCode::DownloadServerError, 0);
        attempt.failure = attempt.failure.with("broke_off", "DOWNLOAD_INTERRUPTED").with("bytes", 10_000_000);
        let [_, told] = attempt_events(&attempt, None);
        let text = "and 10,000,000 bytes: DOWNLOAD_SERVER_ERROR at h:80, status 503 when the origin was asked for the rest after \
                    DOWNLOAD_INTERRUPTED";
        assert!(told.message.contains(text), "{}", told.message);
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
        let story = story(&job(1), task(0, TaskState::Done { object }), &[], None, None);
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
        let story = story(&job(1), task, &[], None, None);
        assert_eq!(story.summary, "waits until 1970-01-01T00:01:00Z for attempt 2, after DOWNLOAD_THROTTLED at h:80");
    }

    #[test]
    fn a_replayed_resource_names_the_letter_it_came_from() {
        let mut task = task(0, TaskState::Ready);
        let letter = DeadLetterId { died_at_ms: 7_000, task: task.task };
        task.replay_of = letter.to_string();
        let story = story(&job(1), task, &[failed(4, FailureCode::DownloadDns, 0)], None, None);
        let replayed = story.events.iter().find(|e| e.what == "replayed").unwrap();
        assert!(replayed.message.contains(&letter.to_string()) && replayed.at_ms == 7_000);
        assert!(story.events.iter().any(|e| e.what == "omitted" && e.message.starts_with("3 attempts")));
    }

    /// Seconds after the job was accepted, at 1 s.
    fn attempt(number: u32, from_ms: i64, to_ms: i64, failure: Failure, not_before_ms: i64) -> Attempt {
        let failure = Failure { at_ms: 1_000 + to_ms, attempt: number, ..failure.with("host", "cdn.example:443") };
        Attempt { number, started_at_ms: 1_000 + from_ms, failure, not_before_ms }
    }

    #[test]
    fn a_resource_that_was_throttled_broke_off_went_on_through_a_proxy_and_was_stored_reads_as_a_story() {
        let throttled = Failure::new(FailureCode::DownloadThrottled, "the origin answered 429").with("status", 429);
        let broke = Failure::new(FailureCode::DownloadInterrupted, "connection reset").with("bytes", 524_288);
        let attempts = [
            attempt(1, 20, 140, throttled.with("proxy", "eu"), 4_140),
            attempt(2, 3_150, 5_150, broke.with("proxy", "eu").with("status", 200), 6_950),
        ];
        let object = StoredObject {
            bucket: "images".into(),
            key: "galleries/42/1.jpg".into(),
            size_bytes: 1_048_576,
            sha256: [0xab; 32],
            content_type: "image/jpeg".into(),
            ..Default::default()
        };
        let mut task = task(0, TaskState::Done { object });
        task.spec.url = "https://cdn.example/1.jpg?sig=s3cret".into();
        task.spec.proxy_hint = Some(ProxyHint { primary_pool: "eu".into(), fallbacks: vec!["us".into()] });
        (task.attempts, task.updated_at_ms) = (3, 11_300);
        let way = [("proxy", "eu"), ("resumed_at", "524288"), ("took_ms", "1300")];
        task.done_context = way.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let story = story(&job(1), task, &attempts, None, None);
        let told: Vec<String> = story
            .events
            .iter()
            .map(|event| format!("{} {}: {}", event.at_ms - 1_000, event.what, event.message))
            .collect();
        let digest = "ab".repeat(32);
        let place = format!("images/galleries/42/1.jpg (1.0 MB, 1,048,576 bytes, image/jpeg, SHA-256 {digest})");
        let expected = [
            "0 accepted: To fetch: https://cdn.example/1.jpg?…, through proxy pool eu (or us)".to_owned(),
            "20 started: Attempt 1 started.".to_owned(),
            "140 failed: Attempt 1 failed after 120 ms: DOWNLOAD_THROTTLED at cdn.example:443, status 429, through proxy eu: \
             the origin answered 429. The other side asked to wait: the next one not before 1970-01-01T00:00:04.14Z (3.0 s later)."
                .to_owned(),
            "3150 started: Attempt 2 started.".to_owned(),
            "5150 failed: Attempt 2 failed after 2.0 s and 524,288 bytes: DOWNLOAD_INTERRUPTED at cdn.example:443, status 200, \
             through proxy eu: connection reset. The next one not before 1970-01-01T00:00:06.95Z (800 ms later)."
                .to_owned(),
            "9000 started: Attempt 3 started after it waited 3.0 s for its turn.".to_owned(),
            format!(
                "10300 stored: Attempt 3 stored it after 1.3 s, through proxy eu, resumed at byte 524,288. It stands at {place}."
            ),
        ];
        assert_eq!(told, expected);
        assert_eq!(story.summary, format!("stored after 3 attempts at {place}"));
    }

    #[test]
    fn a_resource_that_has_not_changed_says_so() {
        let object = StoredObject { bucket: "b".into(), key: "k".into(), ..Default::default() };
        let mut task = task(0, TaskState::Done { object });
        task.done_context =
            [("not_changed", "true"), ("took_ms", "80")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let story = story(&job(1), task, &[], None, None);
        let end = &story.events.last().unwrap().message;
        assert!(end.starts_with("Attempt 1 was told after 80 ms that it has not changed. It stands at b/k"), "{end}");
    }

    #[test]
    fn a_resource_that_is_held_back_says_by_what() {
        let held = Some("the queue is paused".to_owned());
        let story = story(&job(1), task(0, TaskState::Ready), &[], None, held);
        assert_eq!(story.summary, "waits for its turn: the queue is paused");
        assert!(story.events.last().unwrap().message.ends_with("waits for its turn: the queue is paused."));
    }
}
