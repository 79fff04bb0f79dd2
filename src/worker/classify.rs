//! What an answer, or the lack of one, means for the task: from statuses and errors to failure codes.
//!
//! Owns: the tables, pure. Must not know: how a request is made.

use std::error::Error as StdError;
use std::io;
use std::time::{Duration, UNIX_EPOCH};

use http::HeaderValue;

use super::resolve::{Blocked, LookupFailed, NoHost};
use crate::model::{Failure, FailureCode};
use crate::objects::{self, ErrorKind};

/// Nobody means to be asked again in more than a day; a larger number is a mistake or a trap.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3_600);
const CAUSE_CHARS_MAX: usize = 300;

/// Why an attempt failed, before who, when and how often are known.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) retry_after: Option<Duration>,
}

impl Failed {
    pub(super) fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self { failure: Failure::new(code, message), retry_after: None }
    }

    pub(super) fn with(self, key: &str, value: impl std::fmt::Display) -> Self {
        Self { failure: self.failure.with(key, value), ..self }
    }
}

impl From<objects::Error> for Failed {
    fn from(error: objects::Error) -> Self {
        let code = match error.kind {
            ErrorKind::Unavailable => FailureCode::StorageUnavailable,
            ErrorKind::Denied => FailureCode::StorageDenied,
            ErrorKind::Full => FailureCode::StorageFull,
            ErrorKind::Rejected => FailureCode::UploadRejected,
            ErrorKind::Failed => FailureCode::UploadFailed,
        };
        Self::new(code, error.message)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Body,
    Redirect,
    Failure(FailureCode),
}

/// `asks_to_wait`: a Retry-After came with it.
pub(super) fn answer(status: u16, asks_to_wait: bool) -> Answer {
    Answer::Failure(match status {
        200 | 203 => return Answer::Body,
        301 | 302 | 303 | 307 | 308 => return Answer::Redirect,
        401 | 403 | 407 => FailureCode::AuthRejected,
        404 | 410 => FailureCode::DownloadNotFound,
        408 => FailureCode::DownloadTimeout,
        429 => FailureCode::DownloadThrottled,
        503 if asks_to_wait => FailureCode::DownloadThrottled,
        400..=499 => FailureCode::DownloadClientError,
        500..=599 => FailureCode::DownloadServerError,
        _ => FailureCode::DownloadUnexpectedStatus,
    })
}

/// Whether a request that got no answer says something about the host. What was refused here, or has no address, does not.
pub(super) fn is_the_hosts(code: FailureCode) -> bool {
    matches!(
        code,
        FailureCode::DownloadConnect
            | FailureCode::DownloadTls
            | FailureCode::DownloadTimeout
            | FailureCode::DownloadInterrupted
    )
}

/// Seconds or an HTTP date in any of its three forms; None: neither.
pub(super) fn retry_after(value: &HeaderValue, now_ms: i64) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().map_or(RETRY_AFTER_MAX, Duration::from_secs)
    } else {
        let now = UNIX_EPOCH + Duration::from_millis(u64::try_from(now_ms).unwrap_or(0));
        httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// Why a request got no answer.
pub(super) fn request(error: reqwest::Error) -> Failed {
    let error = error.without_url();
    let code = if let Some(code) = find(&error, name_cause) {
        code
    } else if error.is_connect() {
        // The handshake is a part of connecting: what is wrong with it is told apart by its own error type.
        let tls = find(&error, |cause| cause.is::<rustls::Error>().then_some(FailureCode::DownloadTls));
        tls.unwrap_or(FailureCode::DownloadConnect)
    } else if error.is_timeout() {
        FailureCode::DownloadTimeout
    } else if error.is_builder() {
        FailureCode::DownloadBadUrl
    } else {
        FailureCode::DownloadInterrupted
    };
    match find(&error, unreadable_head) {
        Some(what) => Failed::new(code, format!("{what}: {}", describe(&error))),
        None => Failed::new(code, describe(&error)),
    }
}

/// An answer came and makes no sense: whoever reads of a broken connection would look in the wrong place. The client library has
/// a hundred headers for an answer, and some 400 KiB for its head.
fn unreadable_head(cause: &(dyn StdError + 'static)) -> Option<&'static str> {
    let error = cause.downcast_ref::<hyper::Error>().filter(|error| error.is_parse())?;
    Some(if error.is_parse_too_large() {
        "the head of the answer is too large, or has more than 100 headers"
    } else {
        "the head of the answer is not valid HTTP"
    })
}

/// The connection ended before anything was heard: over one that was used before, that says nothing of the origin, which may close
/// after any answer without saying so.
pub(super) fn is_unanswered(error: &reqwest::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    let ended = |cause: &(dyn StdError + 'static)| {
        let by_hyper = cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message);
        let by_system = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        (by_hyper || matches!(by_system, Some(BrokenPipe | ConnectionAborted | ConnectionReset))).then_some(())
    };
    !error.is_connect() && find(error, ended).is_some()
}

/// Why a body broke off. `declared`: its length had been told.
pub(super) fn body(error: reqwest::Error, declared: bool) -> Failed {
    let error = error.without_url();
    let ended = find(&error, |cause| {
        let io = cause.downcast_ref::<io::Error>()?;
        (io.kind() == io::ErrorKind::UnexpectedEof).then_some(())
    });
    let code = if error.is_timeout() {
        FailureCode::DownloadTimeout
    } else if ended.is_some() && declared {
        FailureCode::DownloadLengthMismatch
    } else {
        FailureCode::DownloadInterrupted
    };
    Failed::new(code, describe(&error))
}

fn name_cause(cause: &(dyn StdError + 'static)) -> Option<FailureCode> {
    if cause.is::<Blocked>() {
        Some(FailureCode::DownloadBlockedAddress)
    } else if cause.is::<NoHost>() {
        Some(FailureCode::DownloadNoHost)
    } else if cause.is::<LookupFailed>() {
        Some(FailureCode::DownloadDns)
    } else {
        None
    }
}

/// The first answer of `test` along the chain of causes. An `io::Error` hides what it wraps from `source`, so it is opened.
fn find<T>(error: &(dyn StdError + 'static), test: impl Fn(&(dyn StdError + 'static)) -> Option<T>) -> Option<T> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = test(cause) {
            return Some(found);
        }
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => cause.source(),
        };
    }
    None
}

/// The chain of causes as one line, without what repeats the line so far.
fn describe(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = cause.source();
    }
    text.chars().take(CAUSE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RetryClass;

    #[test]
    fn every_status_has_a_meaning_and_only_hopeful_ones_are_tried_again() {
        let code = |status, wait| match answer(status, wait) {
            Answer::Failure(code) => code,
            other => panic!("{status} is {other:?}"),
        };
        for status in [200, 203] {
            assert_eq!(answer(status, false), Answer::Body);
        }
        for status in [301, 302, 303, 307, 308] {
            assert_eq!(answer(status, false), Answer::Redirect);
        }
        for status in [400, 401, 402, 403, 404, 405, 406, 407, 409, 410, 411, 413, 414, 416, 418, 421, 422, 451] {
            assert_eq!(code(status, false).class(), RetryClass::Permanent, "{status}");
        }
        for status in [408, 500, 501, 502, 503, 504, 520, 599] {
            assert_eq!(code(status, false).class(), RetryClass::Transient, "{status}");
        }
        for status in [429, 503] {
            assert_eq!(code(status, true).class(), RetryClass::Throttled, "{status}");
        }
        assert_eq!(code(429, false), FailureCode::DownloadThrottled);
        for status in [100, 201, 202, 204, 205, 206, 300, 304, 305, 600, 999] {
            assert_eq!(code(status, false), FailureCode::DownloadUnexpectedStatus, "{status}");
        }
    }

    #[test]
    fn what_an_origin_asks_is_waited_but_not_for_ever() {
        let now = 784_111_777_000; // Sun, 06 Nov 1994 08:49:37 GMT
        let wait = |text: &str| retry_after(&HeaderValue::from_str(text).unwrap(), now).map(|wait| wait.as_secs());
        assert_eq!(wait("120"), Some(120));
        assert_eq!(wait(" 0 "), Some(0));
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:00 GMT"), Some(0));
        assert_eq!(wait("Sunday, 06-Nov-94 08:50:37 GMT"), Some(60), "as written before 1995");
        assert_eq!(wait("Sun Nov  6 08:50:37 1994"), Some(60), "as C's asctime writes it");
        assert_eq!(wait("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(wait("Fri, 31 Dec 9999 23:59:59 GMT"), Some(86_400));
        assert_eq!(wait("99999999"), Some(86_400));
        assert_eq!(wait("99999999999999999999999"), Some(86_400));
        for bad in ["soon", "-5", "+5", "", "Sun, 06 Nov 1994 08:50:37", "1.5", "Sun, 99 Nov 1994 08:50:37 GMT"] {
            assert_eq!(wait(bad), None, "{bad:?}");
        }
    }
}
