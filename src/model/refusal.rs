//! Why a request was not done, in the words every door uses.

use std::fmt;
use std::time::Duration;

/// The API's error codes. Doors translate them; nobody else invents one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    InvalidPayload,
    Unauthorized,
    UnsupportedJobType,
    PayloadTooLarge,
    RateLimited,
    /// The disk is nearly full: new work waits until there is room.
    StorageFull,
    NotFound,
    AlreadyExists,
    IllegalState,
    /// A follow would begin behind the job's end.
    OutOfRange,
    /// The revision or epoch the caller saw is not the present one.
    Stale,
    DataLoss,
    Unavailable,
    /// Not accepting new work: `drain` is in force or the daemon is stopping.
    Draining,
    Handler,
    /// A part of the surface that this version does not serve.
    Unimplemented,
    Internal,
}

impl RefusalCode {
    pub const ALL: [RefusalCode; 17] = [
        RefusalCode::InvalidPayload,
        RefusalCode::Unauthorized,
        RefusalCode::UnsupportedJobType,
        RefusalCode::PayloadTooLarge,
        RefusalCode::RateLimited,
        RefusalCode::StorageFull,
        RefusalCode::NotFound,
        RefusalCode::AlreadyExists,
        RefusalCode::IllegalState,
        RefusalCode::OutOfRange,
        RefusalCode::Stale,
        RefusalCode::DataLoss,
        RefusalCode::Unavailable,
        RefusalCode::Draining,
        RefusalCode::Handler,
        RefusalCode::Unimplemented,
        RefusalCode::Internal,
    ];

    /// The string clients see.
    pub fn as_str(self) -> &'static str {
        match self {
            RefusalCode::InvalidPayload => "INVALID_PAYLOAD",
            RefusalCode::Unauthorized => "UNAUTHORIZED",
            RefusalCode::UnsupportedJobType => "UNSUPPORTED_JOB_TYPE",
            RefusalCode::PayloadTooLarge => "PAYLOAD_TOO_LARGE",
            RefusalCode::RateLimited => "RATE_LIMITED",
            RefusalCode::StorageFull => "STORAGE_FULL",
            RefusalCode::NotFound => "NOT_FOUND",
            RefusalCode::AlreadyExists => "ALREADY_EXISTS",
            RefusalCode::IllegalState => "ILLEGAL_STATE",
            RefusalCode::OutOfRange => "OUT_OF_RANGE",
            RefusalCode::Stale => "STALE_REVISION",
            RefusalCode::DataLoss => "DATA_LOSS",
            RefusalCode::Unavailable => "UNAVAILABLE",
            RefusalCode::Draining => "DRAINING",
            RefusalCode::Handler => "HANDLER_FAILED",
            RefusalCode::Unimplemented => "UNIMPLEMENTED",
            RefusalCode::Internal => "INTERNAL",
        }
    }

    /// Whether the same request can succeed later without being changed.
    pub fn retryable(self) -> bool {
        match self {
            RefusalCode::RateLimited
            | RefusalCode::StorageFull
            | RefusalCode::Unavailable
            | RefusalCode::Draining
            | RefusalCode::Handler => true,
            RefusalCode::InvalidPayload
            | RefusalCode::Unauthorized
            | RefusalCode::UnsupportedJobType
            | RefusalCode::PayloadTooLarge
            | RefusalCode::NotFound
            | RefusalCode::AlreadyExists
            | RefusalCode::IllegalState
            | RefusalCode::OutOfRange
            | RefusalCode::Stale
            | RefusalCode::DataLoss
            | RefusalCode::Unimplemented
            | RefusalCode::Internal => false,
        }
    }
}

/// One thing wrong with a request, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// For example `resources[3].url`.
    pub path: String,
    pub message: String,
}

/// A request that was not done. Nothing of it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: RefusalCode,
    pub message: String,
    pub job_id: String,
    pub violations: Vec<Violation>,
    pub retry_after: Option<Duration>,
}

impl Refusal {
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), job_id: String::new(), violations: Vec::new(), retry_after: None }
    }

    pub fn not_found(what: impl fmt::Display) -> Self {
        Self::new(RefusalCode::NotFound, format!("{what} does not exist"))
    }

    /// `INVALID_PAYLOAD` with one violation.
    pub fn invalid(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::violations(vec![Violation { path: path.into(), message: message.into() }])
    }

    /// `INVALID_PAYLOAD` with all of them, the first ones in the message.
    pub fn violations(violations: Vec<Violation>) -> Self {
        let shown: Vec<String> = violations.iter().take(3).map(|v| format!("{}: {}", v.path, v.message)).collect();
        let more = violations.len().saturating_sub(shown.len());
        let tail = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        Self { violations, ..Self::new(RefusalCode::InvalidPayload, format!("{}{tail}", shown.join("; "))) }
    }

    pub fn with_job(mut self, job_id: impl fmt::Display) -> Self {
        self.job_id = job_id.to_string();
        self
    }

    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl std::error::Error for Refusal {}
