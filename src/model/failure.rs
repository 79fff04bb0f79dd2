//! Why a resource could not be stored, and what that means for the next attempt.
//!
//! One exhaustive table: code → retry class. `docs/failures.md` tells it to people.

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

/// What a failed attempt is charged to. Each budget is used up by its own kind of failure only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Budget {
    Download,
    Upload,
    Throttled,
    /// Nothing: the task did nothing wrong.
    None,
}

impl FailureCode {
    pub fn budget(self) -> Budget {
        match self.class() {
            RetryClass::Parked => Budget::None,
            RetryClass::Throttled => Budget::Throttled,
            RetryClass::Transient | RetryClass::Unlikely | RetryClass::Permanent => {
                if self.as_str().starts_with("UPLOAD_") { Budget::Upload } else { Budget::Download }
            }
        }
    }
}

macro_rules! failure_codes {
    ($($variant:ident = $text:literal, $class:ident, $meaning:literal;)*) => {
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

            /// One sentence for a person.
            pub fn meaning(self) -> &'static str {
                match self { $(FailureCode::$variant => $meaning,)* }
            }

            pub fn parse(text: &str) -> Option<FailureCode> {
                match text { $($text => Some(FailureCode::$variant),)* _ => None }
            }
        }
    };
}

failure_codes! {
    AuthRejected = "AUTH_REJECTED", Permanent, "The origin answered 401, 403 or 407: it wants other credentials.";
    HandlerFailed = "HANDLER_FAILED", Transient, "The job type's handler returned an error.";
    DownloadBlockedAddress = "DOWNLOAD_BLOCKED_ADDRESS", Permanent, "The URL leads to an address that is not public and not allowed; nothing was sent.";
    DownloadBadUrl = "DOWNLOAD_BAD_URL", Permanent, "The URL, or one it redirects to, cannot be fetched over http or https.";
    DownloadDns = "DOWNLOAD_DNS", Transient, "The host's name could not be resolved now.";
    DownloadNoHost = "DOWNLOAD_NO_HOST", Unlikely, "The host's name does not exist.";
    DownloadConnect = "DOWNLOAD_CONNECT", Transient, "No connection to the origin.";
    DownloadTls = "DOWNLOAD_TLS", Unlikely, "The TLS handshake with the origin failed.";
    DownloadTimeout = "DOWNLOAD_TIMEOUT", Transient, "The origin was silent for longer than the idle timeout.";
    DownloadInterrupted = "DOWNLOAD_INTERRUPTED", Transient, "The connection broke before the body was whole.";
    DownloadLengthMismatch = "DOWNLOAD_LENGTH_MISMATCH", Transient, "The body's length is not the one the origin declared.";
    DownloadEncoding = "DOWNLOAD_ENCODING", Permanent, "The origin sent a content encoding although identity was asked for.";
    DownloadTooLarge = "DOWNLOAD_TOO_LARGE", Permanent, "The body is larger than max_bytes.";
    DownloadChecksum = "DOWNLOAD_CHECKSUM_MISMATCH", Permanent, "The body's SHA-256 is not the one the manifest names.";
    DownloadRedirects = "DOWNLOAD_TOO_MANY_REDIRECTS", Permanent, "More than five redirects, or one from https to http.";
    DownloadNotFound = "DOWNLOAD_NOT_FOUND", Permanent, "The origin answered 404 or 410.";
    DownloadClientError = "DOWNLOAD_CLIENT_ERROR", Permanent, "The origin answered another 4xx.";
    DownloadServerError = "DOWNLOAD_SERVER_ERROR", Transient, "The origin answered 5xx.";
    DownloadThrottled = "DOWNLOAD_THROTTLED", Throttled, "The origin answered 429, or 503 with Retry-After.";
    DownloadUnexpectedStatus = "DOWNLOAD_UNEXPECTED_STATUS", Unlikely, "The origin answered something that is neither a body nor an error.";
    DownloadHostDown = "DOWNLOAD_HOST_DOWN", Transient, "The host has not answered for long; nothing is sent to it until a probe succeeds.";
    DownloadRobots = "DOWNLOAD_ROBOTS", Permanent, "The site's robots.txt does not allow it.";
    DownloadNoProxy = "DOWNLOAD_NO_PROXY", Transient, "The task demands a proxy and none of its pools serves now; it is never fetched directly instead.";
    UploadRejected = "UPLOAD_REJECTED", Permanent, "The object store refuses this object.";
    UploadFailed = "UPLOAD_FAILED", Transient, "The object store did not take the object; it may next time.";
    StorageUnavailable = "STORAGE_UNAVAILABLE", Parked, "The object store cannot be reached.";
    StorageDenied = "STORAGE_DENIED", Parked, "The object store refuses our credentials or the bucket is gone.";
    StorageFull = "STORAGE_FULL", Parked, "The object store has no room.";
    SystemInterrupted = "SYSTEM_INTERRUPTED", Transient, "The daemon stopped while the attempt ran.";
    SystemLeaseExpired = "SYSTEM_LEASE_EXPIRED", Transient, "The attempt took longer than its lease.";
    SystemPanic = "SYSTEM_PANIC", Unlikely, "The attempt hit a bug in FetchBox; please report it.";
    SystemPoison = "SYSTEM_POISON", Permanent, "The daemon died each time it ran this task.";
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
}
