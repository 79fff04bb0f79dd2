//! Jobs, tasks and their stories as text for people.
//!
//! Owns: layout and wording. Must not know: where the messages come from, stdout.

use std::fmt::Write as _;

use comfy_table::Table;

use super::out::table;
use super::{now_ms, wire, words};

/// A job at a glance, several lines.
pub fn job(job: &wire::Job) -> String {
    let now = now_ms();
    let mut text = format!("job {}  {}", job.job_id, wire::job_state(job.state).to_uppercase());
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = write!(text, "\n  {name:<11} {value}");
        }
    };
    row("type", format!("{}, tenant {}, priority {}", job.job_type, job.tenant, wire::priority(job.priority)));
    row("phase", words::tame(&job.phase));
    let canceled = match job.resources_canceled {
        0 => String::new(),
        some => format!(", {some} canceled"),
    };
    row(
        "resources",
        format!(
            "{} of {} stored, {} failed{canceled}, {}",
            job.resources_completed,
            job.resources_total,
            job.resources_failed,
            words::bytes(job.bytes_stored)
        ),
    );
    row("accepted", format!("{} ({})", words::time(job.created_at_ms), words::ago(job.created_at_ms, now)));
    if job.completed_at_ms != 0 {
        let took = job.completed_at_ms.saturating_sub(job.created_at_ms).unsigned_abs();
        row("ended", format!("{} (after {})", words::time(job.completed_at_ms), words::duration(took)));
    }
    if !job.manifest_key.is_empty() {
        row("manifest", format!("{}/{}", job.manifest_bucket, job.manifest_key));
    }
    row("log", words::count(job.log_count, "line"));
    row("trace", job.trace_id.clone());
    if let Some(error) = &job.last_error {
        row("last error", failure(error));
    }
    text
}

/// `CODE resource: message (host …)`, one line.
pub fn failure(failure: &wire::FailureInfo) -> String {
    let mut text = failure.code.clone();
    if !failure.resource_id.is_empty() {
        let _ = write!(text, " {}", words::tame(&failure.resource_id));
    }
    let _ = write!(text, ": {}", words::tame(&failure.message));
    text
}

pub fn tasks(tasks: &[wire::Task]) -> Table {
    let now = now_ms();
    let mut rows = table(["resource", "state", "attempts", "size", "sha256", "where or why"]);
    for task in tasks {
        let resource = task.spec.as_ref().map_or("", |spec| spec.resource_id.as_str());
        let (size, digest, place) = match (&task.object, &task.error) {
            (Some(object), _) => {
                (words::bytes(object.size_bytes), words::short(&object.sha256, 13), object_place(object))
            }
            (None, Some(error)) => (String::new(), String::new(), words::short(&failure(error), 100)),
            (None, None) => Default::default(),
        };
        let state = match (wire::task_state(task.state), task.not_before_ms) {
            (state, 0) => state,
            (state, at) if at > now => format!("{state}, {}", words::ago(at, now)),
            (state, _) => state,
        };
        rows.add_row([resource.to_owned(), state, task.attempts.to_string(), size, digest, place]);
    }
    rows
}

fn object_place(object: &wire::StoredObject) -> String {
    format!("{}/{}", object.bucket, object.key)
}

/// A job's life, the resources there is something to tell about below it.
pub fn story(story: &wire::ExplainJobResponse) -> String {
    let mut text = words::tame(&story.summary);
    // What belongs to a resource stands in its own story.
    let told: Vec<String> = story.tasks.iter().filter_map(|task| Some(format!("{}: ", id_of(task)?))).collect();
    let own = story.events.iter().filter(|event| !told.iter().any(|id| event.message.starts_with(id.as_str())));
    events(&mut text, own, "  ");
    for task in &story.tasks {
        let _ = write!(text, "\n\n{}", task_story(task));
    }
    text
}

fn id_of(story: &wire::ExplainTaskResponse) -> Option<&str> {
    Some(story.task.as_ref()?.spec.as_ref()?.resource_id.as_str())
}

pub fn task_story(story: &wire::ExplainTaskResponse) -> String {
    let task = story.task.as_ref();
    let spec = task.and_then(|task| task.spec.as_ref());
    let mut text =
        spec.map_or_else(String::new, |spec| format!("{}  {}", words::tame(&spec.resource_id), words::tame(&spec.url)));
    let _ = write!(text, "\n  {}", words::tame(&story.summary));
    events(&mut text, story.events.iter(), "    ");
    text.trim_start().to_owned()
}

/// The first with its date and time, the others with how much later they were.
fn events<'a>(text: &mut String, events: impl Iterator<Item = &'a wire::LifeEvent>, indent: &str) {
    let mut first = None;
    for event in events {
        let at = match first {
            Some(first) => words::later(event.timestamp_ms, first),
            None => words::time(event.timestamp_ms),
        };
        first.get_or_insert(event.timestamp_ms);
        let _ = write!(text, "\n{indent}{at:>19}  {:<9} {}", words::tame(&event.what), words::tame(&event.message));
        // The story's words may already hold the failure; never say it twice.
        if let Some(failed) = event.failure.as_ref().filter(|failed| !event.message.contains(&failed.code)) {
            let _ = write!(text, " [{}]", failed.code);
        }
    }
}

/// One line of a job's log, everything in it.
pub fn log_line(record: &wire::LogRecord) -> String {
    let mut text = format!("{} {}", words::time(record.timestamp_ms), log_words(record));
    let mut fields: Vec<_> = record.fields.iter().collect();
    fields.sort();
    for (name, value) in fields {
        let _ = write!(text, " {}={}", words::tame(name), words::tame(value));
    }
    text
}

/// One line of a job's output among the job's own lines.
pub fn output_line(record: &wire::LogRecord, line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
    format!("{} {:<6}| {}", words::time(record.timestamp_ms), wire::stream(record.stream), words::tame(&text))
}

/// Output for a terminal: its lines stay, nothing else in it moves anything.
pub fn tamed_output(chunk: &[u8]) -> String {
    let text = String::from_utf8_lossy(chunk);
    text.chars().map(|c| if c.is_control() && c != '\t' && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// A line that a search found.
pub fn hit(hit: &wire::SearchHit) -> String {
    let record = wire::LogRecord { timestamp_ms: hit.timestamp_ms, stream: hit.stream, ..wire::LogRecord::default() };
    format!("{} {}", words::tame(&hit.job_id), output_line(&record, &hit.line))
}

/// Level, resource and message of a log line.
pub fn log_words(record: &wire::LogRecord) -> String {
    let message = match &record.content {
        Some(wire::log_record::Content::Message(message)) => words::tame(message),
        Some(wire::log_record::Content::Chunk(chunk)) => words::tame(&String::from_utf8_lossy(chunk)),
        None => String::new(),
    };
    let mut text = format!("{:<5} ", wire::level(record.level));
    if !record.resource_id.is_empty() {
        let _ = write!(text, "{}: ", words::tame(&record.resource_id));
    }
    text.push_str(&message);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(timestamp_ms: i64, what: &str, message: &str) -> wire::LifeEvent {
        wire::LifeEvent { timestamp_ms, what: what.into(), message: message.into(), failure: None }
    }

    #[test]
    fn a_story_tells_each_thing_once_and_how_long_after_the_start_it_was() {
        let spec = wire::DownloadTask { resource_id: "a".into(), url: "http://h/a".into(), ..Default::default() };
        let own = vec![event(1_000, "accepted", "To fetch: http://h/a"), event(4_250, "failed", "Attempt 1 failed.")];
        let task = wire::ExplainTaskResponse {
            task: Some(wire::Task { spec: Some(spec), ..Default::default() }),
            summary: "waits".into(),
            events: own,
        };
        let told = story(&wire::ExplainJobResponse {
            summary: "0 of 1 stored".into(),
            events: vec![
                event(1_000, "accepted", "1 resource accepted."),
                event(4_250, "failed", "a: Attempt 1 failed."),
                event(62_000, "log", "canceled"),
            ],
            tasks: vec![task],
            ..Default::default()
        });
        let lines: Vec<&str> = told.lines().map(str::trim).collect();
        assert!(lines[1].ends_with("accepted  1 resource accepted."), "{told}");
        assert_eq!(lines[2], "+1 min 1 s  log       canceled");
        assert_eq!(lines[4..6], ["a  http://h/a", "waits"]);
        assert!(lines[6].ends_with("accepted  To fetch: http://h/a"), "{told}");
        assert_eq!(lines[7], "+3.2 s  failed    Attempt 1 failed.");
    }
}
