//! Numbers and times as a person reads them, and tasks and failures without what must never be shown.
//!
//! Owns: wording of values. Must not know: whose life is told.

use crate::model::{Failure, Header, Task, TaskSpec, TaskState, clean_text, shown_url};

/// RFC 3339 in UTC.
pub fn when(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map_or_else(|_| format!("{at_ms} ms"), |time| time.to_string())
}

pub fn span(ms: i64) -> String {
    let ms = ms.max(0);
    let (seconds, minutes, hours) = (ms / 1_000, ms / 60_000, ms / 3_600_000);
    match (hours, minutes, seconds) {
        (48.., _, _) => format!("{} d", hours / 24),
        (1.., _, _) => format!("{hours} h {} min", minutes % 60),
        (0, 1.., _) => format!("{minutes} min {} s", seconds % 60),
        (0, 0, 1..) => format!("{seconds}.{} s", ms % 1_000 / 100),
        _ => format!("{ms} ms"),
    }
}

pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    let (mut tenths, mut unit) = (bytes / 100, "kB");
    for next in UNITS.iter().skip(1) {
        if tenths < 10_000 {
            break;
        }
        tenths /= 1_000;
        unit = next;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

pub fn plural(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

/// The failure's own words, or what its code means where it has none.
pub fn sentence(failure: &Failure) -> String {
    let words = if failure.message.is_empty() { failure.code.meaning() } else { &failure.message };
    if words.ends_with(['.', '!', '?']) { words.to_owned() } else { format!("{words}.") }
}

/// "DOWNLOAD_NOT_FOUND at example.org:443"
pub fn code_at(failure: &Failure) -> String {
    match failure.host() {
        "" => failure.code.as_str().to_owned(),
        host => format!("{} at {host}", failure.code.as_str()),
    }
}

pub fn clean_failure(failure: &Failure) -> Failure {
    let context = failure.context.iter().map(|(key, value)| (key.clone(), clean_text(value))).collect();
    Failure { message: clean_text(&failure.message), context, ..failure.clone() }
}

/// The task without header values and without what URLs may hide.
pub fn clean_task(task: Task) -> Task {
    let hidden = |header: Header| Header { name: header.name, value: "…".into() };
    let headers = task.spec.headers.into_iter().map(hidden).collect();
    let state = match task.state {
        TaskState::Dead { failure } => TaskState::Dead { failure: clean_failure(&failure) },
        state @ (TaskState::Ready
        | TaskState::Leased { .. }
        | TaskState::RetryWait { .. }
        | TaskState::Done { .. }
        | TaskState::Canceled) => state,
    };
    let last_failure = task.last_failure.as_ref().map(clean_failure);
    let spec = TaskSpec { url: shown_url(&task.spec.url), headers, ..task.spec };
    Task { spec, state, last_failure, ..task }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_read_like_a_person_would_say_them() {
        assert_eq!(when(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        let spans = [0, 999, 12_345, 200_000, 7_500_000, 900_000_000].map(span);
        assert_eq!(spans, ["0 ms", "999 ms", "12.3 s", "3 min 20 s", "2 h 5 min", "10 d"]);
        let sizes = [999, 1_234, 1_234_567, 41_943_040, 5_000_000_000, u64::MAX].map(size);
        assert_eq!(sizes[..5], ["999 B", "1.2 kB", "1.2 MB", "41.9 MB", "5.0 GB"]);
    }
}
