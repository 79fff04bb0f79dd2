//! What an S3 error means: one table, from the code in the answer's body, else from its status.
//!
//! `object_store` keeps status and body of a failed request to itself and shows them only as text, so the text is read here, and
//! nowhere else; the tests hold real answers against it.

use std::error::Error as StdError;

use object_store::client::{HttpError, HttpErrorKind};

use super::{Error, ErrorKind};

/// Keeps a store's HTML error page out of logs and rows.
const MESSAGE_CHARS_MAX: usize = 400;

pub(super) fn classify(error: &object_store::Error) -> Error {
    let text = error.to_string();
    let kind = match transport(error) {
        Some(kind) => kind,
        None => from_answer(code_in(&text), status_in(&text), error),
    };
    Error::new(kind, text.chars().take(MESSAGE_CHARS_MAX).collect::<String>())
}

pub(super) fn is_unknown_upload(error: &object_store::Error) -> bool {
    match code_in(&error.to_string()) {
        Some(code) => code == "NoSuchUpload" || code == "NoSuchKey",
        None => matches!(error, object_store::Error::NotFound { .. }),
    }
}

/// Nothing can be made of the upload any more: it is unknown, or its parts are not what we were told.
pub(super) fn is_of_no_use(error: &object_store::Error) -> bool {
    let text = error.to_string();
    is_unknown_upload(error) || matches!(code_in(&text), Some("InvalidPart" | "InvalidPartOrder" | "EntityTooSmall"))
}

/// A refusal that may be about one key alone: a policy, a lock. One that names credentials or the bucket is about everything.
pub(super) fn may_be_one_object(error: &Error) -> bool {
    error.kind == ErrorKind::Denied
        && matches!(code_in(&error.message), Some("AccessDenied" | "AllAccessDisabled") | None)
        && status_in(&error.message).is_none_or(|status| status == 403)
}

/// No answer came.
fn transport(error: &object_store::Error) -> Option<ErrorKind> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(http) = cause.downcast_ref::<HttpError>() {
            return Some(match http.kind() {
                HttpErrorKind::Connect
                | HttpErrorKind::Timeout
                | HttpErrorKind::Request
                | HttpErrorKind::Interrupted => ErrorKind::Unavailable,
                // Decode, unknown, and kinds that do not exist yet.
                _ => ErrorKind::Failed,
            });
        }
        next = cause.source();
    }
    None
}

fn from_answer(code: Option<&str>, status: Option<u16>, error: &object_store::Error) -> ErrorKind {
    if let Some(kind) = code.and_then(from_code) {
        return kind;
    }
    if let Some(status) = status {
        return from_status(status);
    }
    match error {
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => ErrorKind::Denied,
        object_store::Error::InvalidPath { .. } => ErrorKind::Rejected,
        // Asked for an answer elsewhere: the region or the endpoint is not the bucket's.
        error if error.to_string().contains("redirect without LOCATION") => ErrorKind::Denied,
        _ => ErrorKind::Failed,
    }
}

/// Codes that say more, or something else, than their status does.
fn from_code(code: &str) -> Option<ErrorKind> {
    Some(match code {
        "SlowDown"
        | "InternalError"
        | "ServiceUnavailable"
        | "RequestTimeout"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "TooManyRequests"
        | "XMinioServerNotInitialized" => ErrorKind::Unavailable,
        "AccessDenied"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "RequestTimeTooSkewed"
        | "NoSuchBucket"
        | "InvalidBucketName"
        | "AuthorizationHeaderMalformed"
        | "PermanentRedirect"
        | "TemporaryRedirect"
        | "AllAccessDisabled"
        | "AccountProblem" => ErrorKind::Denied,
        "QuotaExceeded"
        | "InsufficientStorage"
        | "XMinioStorageFull"
        | "XMinioAdminBucketQuotaExceeded"
        | "EntityTooLargeForQuota" => ErrorKind::Full,
        // The upload was aborted or taken apart behind our back: the next attempt begins a new one.
        "NoSuchUpload"
        | "InvalidPart"
        | "InvalidPartOrder"
        | "IncompleteBody"
        | "BadDigest"
        | "OperationAborted"
        | "XAmzContentSHA256Mismatch"
        | "ConditionalRequestConflict" => ErrorKind::Failed,
        "EntityTooLarge"
        | "EntityTooSmall"
        | "KeyTooLongError"
        | "InvalidObjectName"
        | "MetadataTooLarge"
        | "MaxMessageLengthExceeded" => ErrorKind::Rejected,
        _ => return None,
    })
}

fn from_status(status: u16) -> ErrorKind {
    match status {
        401 | 403 | 300..=399 => ErrorKind::Denied,
        // On a write only the bucket can be what is not found.
        404 => ErrorKind::Denied,
        408 | 425 | 429 => ErrorKind::Unavailable,
        409 | 412 => ErrorKind::Failed,
        507 => ErrorKind::Full,
        501 => ErrorKind::Rejected,
        400..=499 => ErrorKind::Rejected,
        500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Failed,
    }
}

/// `…status code: 503 Service Unavailable: …`
fn status_in(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// `…<Code>SlowDown</Code>…`
fn code_in(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<Code>")?;
    rest.split_once("</Code>").map(|(code, _)| code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_down_parks_and_a_refused_object_does_not() {
        let told = |text: &str| {
            let error = object_store::Error::Generic { store: "S3", source: text.to_owned().into() };
            classify(&error).kind
        };
        let answer = |status: &str, code: &str| {
            told(&format!("Server returned non-2xx status code: {status}: <Error><Code>{code}</Code></Error>"))
        };
        assert_eq!(answer("503 Service Unavailable", "SlowDown"), ErrorKind::Unavailable);
        assert_eq!(answer("500 Internal Server Error", "Weird"), ErrorKind::Unavailable);
        assert_eq!(answer("400 Bad Request", "RequestTimeout"), ErrorKind::Unavailable);
        assert_eq!(answer("400 Bad Request", "ExpiredToken"), ErrorKind::Denied);
        assert_eq!(answer("400 Bad Request", "KeyTooLongError"), ErrorKind::Rejected);
        assert_eq!(answer("400 Bad Request", "Weird"), ErrorKind::Rejected);
        assert_eq!(answer("403 Forbidden", "AccessDenied"), ErrorKind::Denied);
        assert_eq!(answer("404 Not Found", "NoSuchBucket"), ErrorKind::Denied);
        assert_eq!(answer("404 Not Found", "NoSuchUpload"), ErrorKind::Failed);
        assert_eq!(answer("507 Insufficient Storage", "X"), ErrorKind::Full);
        assert_eq!(answer("301 Moved Permanently", "PermanentRedirect"), ErrorKind::Denied);
        assert_eq!(told("Server returned error response: <Error><Code>InternalError</Code>"), ErrorKind::Unavailable);
        assert_eq!(told("Received redirect without LOCATION, …"), ErrorKind::Denied);
        assert_eq!(told("Got invalid multipart response"), ErrorKind::Failed);
    }
}
