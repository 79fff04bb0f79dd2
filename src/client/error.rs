//! Why a call did not succeed, and whether to try again.
//!
//! Owns: reading statuses and their details. Must not know: which call it was.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use prost::Message as _;
use tonic::{Code, Status};

use crate::proto::fetchbox::v1::ErrorDetail;
use crate::proto::{ERROR_DETAIL_TYPE_URL, google};

/// What went wrong, by what the caller can do about it.
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// No connection, or it broke. Whether the request was done is unknown: send it again with the same idempotency key.
    Unreachable { message: String },
    /// The daemon's own answer: nothing of the request was kept, unless the code is UNAVAILABLE.
    Refused {
        /// As a gRPC client would see it, over the native socket too where the code is known.
        grpc_code: Code,
        detail: Box<ErrorDetail>,
    },
    /// The other side does not speak as documented: not a FetchBox, or of another version.
    Protocol { message: String },
}

impl Error {
    pub(super) fn unreachable(place: impl fmt::Display, error: impl std::error::Error) -> Self {
        Error::Unreachable { message: format!("{place}: {}", chain(&error)) }
    }

    /// Whether sending the same again can succeed.
    pub fn retryable(&self) -> bool {
        match self {
            Error::Unreachable { .. } => true,
            Error::Refused { detail, .. } => detail.retryable,
            Error::Protocol { .. } => false,
        }
    }

    /// How long the daemon asks to wait first.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Refused { detail, .. } if detail.retry_after_ms > 0 => {
                Some(Duration::from_millis(detail.retry_after_ms))
            }
            Error::Refused { .. } | Error::Unreachable { .. } | Error::Protocol { .. } => None,
        }
    }

    /// The daemon's code, such as `NOT_FOUND`; empty when it did not answer.
    pub fn code(&self) -> &str {
        match self {
            Error::Refused { detail, .. } => &detail.code,
            Error::Unreachable { .. } | Error::Protocol { .. } => "",
        }
    }

    /// A refusal that came over the native socket.
    pub(super) fn refused(detail: ErrorDetail) -> Self {
        Error::Refused { grpc_code: code_of(&detail.code), detail: Box::new(detail) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unreachable { message } => write!(f, "not reachable: {message}"),
            Error::Refused { detail, .. } => {
                write!(f, "{}: {}", detail.code, detail.message)?;
                // The message of a refusal names the first violations already.
                for field in detail.fields.iter().skip(3) {
                    write!(f, "\n  {}: {}", field.path, field.message)?;
                }
                Ok(())
            }
            Error::Protocol { message } => write!(f, "unexpected answer: {message}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        if let Some(detail) = detail_in(&status) {
            return Error::Refused { grpc_code: status.code(), detail: Box::new(detail) };
        }
        let message = match status.source() {
            Some(source) => format!("{}: {}", status.message(), chain(source)),
            None => status.message().to_owned(),
        };
        match status.code() {
            // Without our details these are the transport's words, not the daemon's.
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Internal => {
                Error::Unreachable { message }
            }
            code => Error::Protocol { message: format!("{code:?}: {message}") },
        }
    }
}

fn detail_in(status: &Status) -> Option<ErrorDetail> {
    let outer = google::rpc::Status::decode(status.details()).ok()?;
    let any = outer.details.iter().find(|any| any.type_url == ERROR_DETAIL_TYPE_URL)?;
    ErrorDetail::decode(any.value.as_slice()).ok()
}

/// The table of docs/protocol.md, for refusals that did not come by gRPC.
fn code_of(code: &str) -> Code {
    match code {
        "INVALID_PAYLOAD" => Code::InvalidArgument,
        "UNAUTHORIZED" => Code::Unauthenticated,
        "UNSUPPORTED_JOB_TYPE" => Code::PermissionDenied,
        "PAYLOAD_TOO_LARGE" | "RATE_LIMITED" | "STORAGE_FULL" => Code::ResourceExhausted,
        "NOT_FOUND" => Code::NotFound,
        "ALREADY_EXISTS" => Code::AlreadyExists,
        "ILLEGAL_STATE" => Code::FailedPrecondition,
        "OUT_OF_RANGE" => Code::OutOfRange,
        "STALE_REVISION" => Code::Aborted,
        "DATA_LOSS" => Code::DataLoss,
        "UNAVAILABLE" | "DRAINING" => Code::Unavailable,
        "HANDLER_FAILED" | "INTERNAL" => Code::Internal,
        "UNIMPLEMENTED" => Code::Unimplemented,
        _ => Code::Unknown,
    }
}

/// An error with everything behind it, outermost first.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RefusalCode;

    #[test]
    fn every_code_of_the_daemon_is_known_here() {
        for code in RefusalCode::ALL {
            assert_ne!(code_of(code.as_str()), Code::Unknown, "{}", code.as_str());
        }
    }

    #[test]
    fn an_error_tells_whether_to_try_again() {
        let detail =
            ErrorDetail { code: "RATE_LIMITED".into(), retryable: true, retry_after_ms: 50, ..Default::default() };
        let error = Error::refused(detail);
        assert!(error.retryable());
        assert_eq!(error.retry_after(), Some(Duration::from_millis(50)));
        assert!(Error::from(Status::unavailable("connection refused")).retryable());
        assert!(!Error::from(Status::unimplemented("what?")).retryable());
    }
}
