//! Why a resource could not be stored, and what that means for the next attempt.
//!
//! One exhaustive table: code, what it means, what the queue does about it, whose attempts it uses up, what an operator does.
//! `docs/failures.md` shows the same table; a test compares them.

use std::collections::BTreeMap;
use std::fmt;

/// What the queue does with a failure of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryClass {
    /// May pass by itself: retried with backoff until the attempts are used up.
    Transient,
    /// Like transient, but with few attempts: it hardly ever passes.
    Unlikely,
    /// The other side asks to wait: retried no sooner than it said.
    Throttled,
    /// The same request will fail again: dead now.
    Permanent,
    /// Our own side cannot take objects now: the task waits and no attempt is counted.
    Parked,
}

/// What a failed attempt is charged to. Each budget is used up by its own kind of failure only: an object store that refuses
/// must not eat what the origin was given, nor an origin that only asks to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Budget {
    Download,
    Upload,
    Throttled,
    /// Nothing: given up at once, or not counted at all.
    None,
}

macro_rules! failure_codes {
    ($($variant:ident = $text:literal, $class:ident, $budget:ident, $meaning:literal, $action:literal;)*) => {
        /// Each way a task can fail.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum FailureCode { $(#[doc = $meaning] $variant,)* }

        impl FailureCode {
            pub const ALL: &'static [FailureCode] = &[$(FailureCode::$variant,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(FailureCode::$variant => $text,)* }
            }

            pub fn class(self) -> RetryClass {
                match self { $(FailureCode::$variant => RetryClass::$class,)* }
            }

            pub fn budget(self) -> Budget {
                match self { $(FailureCode::$variant => Budget::$budget,)* }
            }

            /// One sentence for a person.
            pub fn meaning(self) -> &'static str {
                match self { $(FailureCode::$variant => $meaning,)* }
            }

            /// What an operator does about a resource that was given up for it.
            pub fn action(self) -> &'static str {
                match self { $(FailureCode::$variant => $action,)* }
            }

            pub fn parse(text: &str) -> Option<FailureCode> {
                match text { $($text => Some(FailureCode::$variant),)* _ => None }
            }
        }
    };
}

failure_codes! {
    ValidationFailed = "VALIDATION_FAILED", Permanent, None,
        "What the job was given is not valid, says the client that runs it.",
        "Correct what the message names and submit it again.";
    AuthRejected = "AUTH_REJECTED", Permanent, None,
        "The origin answered 401, 403 or 407: it wants other credentials.",
        "Give the resource the right headers, or its job type default headers, and submit it again.";
    HandlerFailed = "HANDLER_FAILED", Transient, None,
        "The job type's handler returned an error.",
        "Read the handler's message in the job's log; it is tried again by itself.";
    DownloadBlockedAddress = "DOWNLOAD_BLOCKED_ADDRESS", Permanent, None,
        "The URL leads to an address that is not public and not allowed; nothing was sent.",
        "If the address is meant, add its network to `worker.allow_networks`, restart and replay it. Otherwise ask who submitted it.";
    DownloadBadUrl = "DOWNLOAD_BAD_URL", Permanent, None,
        "The URL, or one it redirects to, cannot be fetched over http or https.",
        "Submit it again with a URL that can be fetched.";
    DownloadDns = "DOWNLOAD_DNS", Transient, Download,
        "The host's name could not be resolved now.",
        "Look at this machine's resolver if many hosts are concerned; then replay it.";
    DownloadNoHost = "DOWNLOAD_NO_HOST", Unlikely, Download,
        "The host's name does not exist.",
        "Check the spelling of the host; replay it once the host exists.";
    DownloadConnect = "DOWNLOAD_CONNECT", Transient, Download,
        "No connection to the origin.",
        "Is the origin up, is a firewall between? Replay it once the origin answers.";
    DownloadTls = "DOWNLOAD_TLS", Unlikely, Download,
        "The TLS handshake with the origin failed.",
        "Look at the origin's certificate, and at this machine's clock and root certificates; then replay it.";
    DownloadTimeout = "DOWNLOAD_TIMEOUT", Transient, Download,
        "The origin was silent for longer than the idle timeout, or slower than the least pace.",
        "Raise `worker.idle_timeout_ms` or lower `worker.bytes_per_second_min` if that is normal for it; then replay it.";
    DownloadInterrupted = "DOWNLOAD_INTERRUPTED", Transient, Download,
        "The connection broke before the body was whole, or the head of the answer could not be read.",
        "Replay it. If it always breaks at the same byte, a proxy or the origin cuts long answers. If the message tells of the head of the answer, it is not valid HTTP or has more than 100 headers: tell the origin's owner.";
    DownloadLengthMismatch = "DOWNLOAD_LENGTH_MISMATCH", Transient, Download,
        "The body's length is not the one the origin declared.",
        "The origin, or something before it, lies about the length: tell its owner, then replay it.";
    DownloadEncoding = "DOWNLOAD_ENCODING", Permanent, None,
        "The origin sent a content or transfer coding (other than chunks) although identity was asked for.",
        "The origin ignores `Accept-Encoding: identity`: submit another URL of it.";
    DownloadTooLarge = "DOWNLOAD_TOO_LARGE", Permanent, None,
        "The body is larger than max_bytes.",
        "If the size is meant, raise `worker.max_bytes` and replay it, or submit it again with a larger `max_bytes`.";
    DownloadChecksum = "DOWNLOAD_CHECKSUM_MISMATCH", Permanent, None,
        "The body's SHA-256 is not the one the manifest names.",
        "The content changed or the manifest is wrong: find out which before you submit it again.";
    DownloadRedirects = "DOWNLOAD_TOO_MANY_REDIRECTS", Permanent, None,
        "More redirects than are followed, or one from https to http.",
        "Submit it again with the URL at the end of the chain.";
    DownloadNotFound = "DOWNLOAD_NOT_FOUND", Permanent, None,
        "The origin answered 404 or 410.",
        "It is gone: purge the dead letter, or replay it when it is back.";
    DownloadClientError = "DOWNLOAD_CLIENT_ERROR", Permanent, None,
        "The origin answered another 4xx.",
        "Read the status: the request itself is wrong for this origin, and replaying alone will not help.";
    DownloadServerError = "DOWNLOAD_SERVER_ERROR", Transient, Download,
        "The origin answered 5xx.",
        "Replay it when the origin is well again.";
    DownloadThrottled = "DOWNLOAD_THROTTLED", Throttled, Throttled,
        "The origin answered 429, or 503 with Retry-After.",
        "The queue waits as told. If it goes on for long, lower `dispatch.per_host`; then replay it.";
    DownloadUnexpectedStatus = "DOWNLOAD_UNEXPECTED_STATUS", Unlikely, Download,
        "The origin answered something that is neither a body nor an error.",
        "Read the status and look at the URL by hand.";
    DownloadHostDown = "DOWNLOAD_HOST_DOWN", Transient, Download,
        "The host has not answered for long; nothing is sent to it until a probe succeeds.",
        "Is the host up? Its other resources wait; replay it once the host answers.";
    DownloadRobots = "DOWNLOAD_ROBOTS", Permanent, None,
        "The site's robots.txt does not allow it.",
        "Leave it, or ask the site: replaying alone will not help.";
    DownloadNoProxy = "DOWNLOAD_NO_PROXY", Transient, Download,
        "The task demands a proxy and none of its pools serves now; it is never fetched directly instead.",
        "Look at the proxy pools, then replay it.";
    UploadRejected = "UPLOAD_REJECTED", Permanent, None,
        "The object store refuses this object.",
        "Read the store's message: a key, a header or a size it does not take. Then submit it again.";
    UploadFailed = "UPLOAD_FAILED", Transient, Upload,
        "The object store did not take the object; it may next time.",
        "Look at the object store's own log, then replay it.";
    StorageUnavailable = "STORAGE_UNAVAILABLE", Parked, None,
        "The object store cannot be reached.",
        "Bring the object store or the way to it back. Tasks go on by themselves.";
    StorageDenied = "STORAGE_DENIED", Parked, None,
        "The object store refuses our credentials or the bucket is gone.",
        "Renew the credentials or create the bucket. Tasks go on by themselves.";
    StorageFull = "STORAGE_FULL", Parked, None,
        "The object store has no room.",
        "Make room. Tasks go on by themselves.";
    SystemInterrupted = "SYSTEM_INTERRUPTED", Transient, None,
        "The daemon stopped while the attempt ran.",
        "Nothing: the attempt is made again.";
    SystemLeaseExpired = "SYSTEM_LEASE_EXPIRED", Transient, Download,
        "The attempt took longer than its lease.",
        "If it repeats, the resource is too slow for its lease: look at the origin, then replay it.";
    SystemPanic = "SYSTEM_PANIC", Unlikely, Download,
        "The attempt hit a bug in FetchBox; please report it.",
        "Keep the daemon's log and report it before you replay it.";
    SystemPoison = "SYSTEM_POISON", Permanent, None,
        "The daemon died each time it ran this task.",
        "Keep the daemon's log and report it. Replay it only after the fault is mended.";
}

/// A failure with everything an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: FailureCode,
    pub message: String,
    pub resource_id: String,
    pub at_ms: i64,
    pub attempt: u32,
    /// host, status, proxy, bytes, … never header values.
    pub context: BTreeMap<String, String>,
}

impl Failure {
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            resource_id: String::new(),
            at_ms: 0,
            attempt: 0,
            context: BTreeMap::new(),
        }
    }

    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.context.insert(key.to_owned(), value.to_string());
        self
    }

    /// `host:port` the failure is about, empty when it is about none.
    pub fn host(&self) -> &str {
        self.context.get("host").map_or("", String::as_str)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_code_has_one_text_and_a_known_family() {
        let mut seen = std::collections::BTreeSet::new();
        for code in FailureCode::ALL {
            assert!(seen.insert(code.as_str()), "{} twice", code.as_str());
            assert_eq!(FailureCode::parse(code.as_str()), Some(*code));
            let family = ["VALIDATION_", "AUTH_", "HANDLER_", "DOWNLOAD_", "UPLOAD_", "STORAGE_", "SYSTEM_"];
            assert!(family.iter().any(|f| code.as_str().starts_with(f)), "{}", code.as_str());
        }
    }

    #[test]
    fn what_is_tried_again_always_runs_out_of_something_and_what_is_not_uses_up_nothing() {
        for code in FailureCode::ALL {
            let counted = code.budget() != Budget::None;
            // A hook has no attempts, and how often the daemon died is counted by the store itself.
            let elsewhere = matches!(code, FailureCode::HandlerFailed | FailureCode::SystemInterrupted);
            match code.class() {
                RetryClass::Transient | RetryClass::Unlikely | RetryClass::Throttled => {
                    assert!(counted || elsewhere, "{}", code.as_str());
                }
                RetryClass::Permanent | RetryClass::Parked => assert!(!counted, "{}", code.as_str()),
            }
            for sentence in [code.meaning(), code.action()] {
                assert!(sentence.ends_with('.'), "{sentence}");
            }
        }
    }
}
