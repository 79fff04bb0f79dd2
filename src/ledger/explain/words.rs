//! Numbers, times and addresses as a person reads them, and what must never be shown taken out.
//!
//! Owns: wording of values, redaction. Must not know: whose life is told.

use crate::model::{Failure, FailureCode, Header, Task, TaskSpec, TaskState};

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

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn plural(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

/// "DOWNLOAD_NOT_FOUND at example.org:443"
pub fn code_at(failure: &Failure) -> String {
    match failure.host() {
        "" => failure.code.as_str().to_owned(),
        host => format!("{} at {host}", failure.code.as_str()),
    }
}

/// What an operator can do about a resource that was given up.
pub fn advice(code: FailureCode) -> &'static str {
    match code {
        FailureCode::AuthRejected => "Submit it again with credentials the origin accepts.",
        FailureCode::HandlerFailed => "Look at the job type's handler in the daemon's log, then replay it.",
        FailureCode::DownloadBlockedAddress => {
            "If the address is meant, add its network to worker.allow_networks and replay it."
        }
        FailureCode::DownloadBadUrl | FailureCode::DownloadRedirects => {
            "Submit it again with a URL that can be fetched."
        }
        FailureCode::DownloadDns
        | FailureCode::DownloadNoHost
        | FailureCode::DownloadConnect
        | FailureCode::DownloadTls
        | FailureCode::DownloadTimeout
        | FailureCode::DownloadInterrupted
        | FailureCode::DownloadServerError
        | FailureCode::DownloadThrottled
        | FailureCode::DownloadHostDown
        | FailureCode::DownloadUnexpectedStatus
        | FailureCode::DownloadLengthMismatch => "Replay it when the origin is well again.",
        FailureCode::DownloadEncoding | FailureCode::DownloadClientError => {
            "Ask the origin's operator; replaying alone will not help."
        }
        FailureCode::DownloadTooLarge => "Submit it again with a larger max_bytes if the size is meant.",
        FailureCode::DownloadChecksum => {
            "Compare the manifest's checksum with what the origin serves, then submit it again."
        }
        FailureCode::DownloadNotFound => "Check the URL; replay it if the origin has the resource again.",
        FailureCode::DownloadRobots => "Leave it, or ask the site; replaying alone will not help.",
        FailureCode::DownloadNoProxy => "Configure a proxy pool that serves it, then replay it.",
        FailureCode::UploadRejected => "Check bucket, key and permissions of the object store, then replay it.",
        FailureCode::UploadFailed
        | FailureCode::StorageUnavailable
        | FailureCode::StorageDenied
        | FailureCode::StorageFull => "Replay it when the object store takes objects again.",
        FailureCode::SystemInterrupted | FailureCode::SystemLeaseExpired => {
            "Replay it; if it dies again, look at the daemon's log."
        }
        FailureCode::SystemPanic | FailureCode::SystemPoison => {
            "Keep the daemon's log and report it before replaying it."
        }
    }
}

/// Without user info, query and fragment: each of them may carry a secret.
pub fn shown_url(text: &str) -> String {
    let Ok(mut url) = url::Url::parse(text) else { return "(a URL that cannot be read)".into() };
    let secret = url.query().is_some() || url.fragment().is_some();
    url.set_query(None);
    url.set_fragment(None);
    // Fails only for URLs that cannot have user info.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    if secret { format!("{url}?…") } else { url.to_string() }
}

/// Each URL in a text as [`shown_url`] shows it.
pub fn clean_text(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("http://").into_iter().chain(rest.find("https://")).min() {
        let (before, from) = rest.split_at(at);
        let end = from
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ')' | '<' | '>' | '`'))
            .unwrap_or(from.len());
        let (url, behind) = from.split_at(end);
        out.push_str(before);
        out.push_str(&shown_url(url));
        rest = behind;
    }
    out.push_str(rest);
    out
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
    fn no_secret_of_a_url_is_told() {
        assert_eq!(shown_url("https://me:pw@a.example:8443/x/y?sig=s3cret#part"), "https://a.example:8443/x/y?…");
        let text = "GET http://u:pw@h/p?t=s3cret: reset (see https://h2/?k=s3cret) and http://plain/x";
        let clean = clean_text(text);
        assert!(!clean.contains("s3cret") && !clean.contains("pw"), "{clean}");
        assert!(
            clean.contains("http://h/p") && clean.contains("(see https://h2/?…)") && clean.ends_with("http://plain/x")
        );
        assert_eq!(clean_text("é http://"), "é (a URL that cannot be read)");
    }

    #[test]
    fn times_and_sizes_read_like_a_person_would_say_them() {
        assert_eq!(when(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        let spans = [0, 999, 12_345, 200_000, 7_500_000, 900_000_000].map(span);
        assert_eq!(spans, ["0 ms", "999 ms", "12.3 s", "3 min 20 s", "2 h 5 min", "10 d"]);
        let sizes = [999, 1_234, 1_234_567, 41_943_040, 5_000_000_000, u64::MAX].map(size);
        assert_eq!(sizes[..5], ["999 B", "1.2 kB", "1.2 MB", "41.9 MB", "5.0 GB"]);
    }
}
