//! What an S3 error means: one table, from the code in the answer's body, else from its status.
//!
//! `object_store` keeps status and body of a failed request to itself and shows them only as text, so the text is read here, and
//! nowhere else; the tests hold real answers against it.

use std::error::Error as StdError;

use object_store::client::{HttpError, HttpErrorKind};

use super::{Error, ErrorKind};

/// Each half of a message: what was asked, and what was answered.
const MESSAGE_CHARS_MAX: usize = 300;

pub(super) fn classify(error: &object_store::Error) -> Error {
    let text = error.to_string();
    let kind = match transport(error) {
        Some(kind) => kind,
        None => from_answer(code_in(&text), status_in(&text), error),
    };
    Error::new(kind, without_body(&text))
}

/// Of an answer's body its code and message: stores write access keys, tokens and what was signed into the other elements, and
/// proxies whole pages.
fn without_body(text: &str) -> String {
    let short = |text: &str| text.chars().take(MESSAGE_CHARS_MAX).collect::<String>();
    let Some((asked, answer)) = text.split_once(STATUS).map(|(asked, answer)| (asked, Some(answer))).or_else(|| {
        let (asked, _) = text.split_once(ERROR_RESPONSE)?;
        Some((asked, None))
    }) else {
        // No answer is quoted; what looks like one is cut off.
        return short(text.split('<').next().unwrap_or_default().trim_end());
    };
    let mut told = short(asked);
    match answer {
        Some(answer) => told.extend([STATUS, answer.split([':', '<']).next().unwrap_or_default().trim_end()]),
        None => told.push_str(ERROR_RESPONSE.trim_end_matches([':', ' '])),
    }
    for (name, before) in [("Code", ": "), ("Message", ", ")] {
        if let Some(element) = element(text, name) {
            told.push_str(before);
            told.push_str(&short(element));
        }
    }
    told
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
        && matches!(told_code(&error.message), Some("AccessDenied" | "AllAccessDisabled") | None)
        && status_in(&error.message).is_none_or(|status| status == 403)
}

/// A failure that may be one request's alone, or its object's. A store that asks for fewer requests means all of them, even where
/// it takes a small one.
pub(super) fn may_be_one_request(error: &Error) -> bool {
    error.kind == ErrorKind::Unavailable
        && !told_code(&error.message).is_some_and(asks_for_less)
        && status_in(&error.message) != Some(429)
}

fn asks_for_less(code: &str) -> bool {
    matches!(code, "SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "TooManyRequests")
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
                // A kept connection that was closed before the request went out has no kind of its own.
                HttpErrorKind::Unknown if was_not_sent(http) => ErrorKind::Unavailable,
                // Decode, unknown, and kinds that do not exist yet.
                _ => ErrorKind::Failed,
            });
        }
        next = cause.source();
    }
    None
}

/// As the HTTP client words it, whatever lay behind it.
fn was_not_sent(error: &HttpError) -> bool {
    error.source().is_some_and(|cause| cause.to_string().starts_with("error sending request"))
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
const STATUS: &str = "status code: ";
/// A failure inside an answer of 200.
const ERROR_RESPONSE: &str = "error response: ";

fn status_in(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once(STATUS)?;
    rest.get(..3)?.parse().ok()
}

/// `…<Code>SlowDown</Code>…`
fn code_in(text: &str) -> Option<&str> {
    element(text, "Code")
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    // Up to whatever comes next: an element inside is not what we asked for.
    rest.split_once('<').map(|(content, _)| content.trim())
}

/// The code as [`without_body`] writes it: `…status code: 403 Forbidden: AccessDenied, Access Denied`.
fn told_code(message: &str) -> Option<&str> {
    let (_, answer) = message.split_once(STATUS).or_else(|| message.split_once("error response"))?;
    let (_, told) = answer.split_once(": ")?;
    told.split(',').next()
}

#[cfg(test)]
mod tests {
    use std::io;

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

    #[test]
    fn a_request_that_found_its_connection_closed_uses_up_no_attempt() {
        let told = |text: &str| {
            let source = HttpError::new(HttpErrorKind::Unknown, io::Error::other(text.to_owned()));
            transport(&object_store::Error::Generic { store: "S3", source: source.into() })
        };
        assert_eq!(told("error sending request"), Some(ErrorKind::Unavailable));
        assert_eq!(told("request or response body error"), Some(ErrorKind::Failed));
    }

    /// Else whoever reads a log or a dead letter reads the key id, the token and what was signed.
    #[test]
    fn of_an_answer_its_code_and_message_are_told_and_nothing_else() {
        let told = |text: String| {
            let error = object_store::Error::Generic { store: "S3", source: text.into() };
            classify(&error).message
        };
        let body = |code: &str| {
            format!(
                "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>It is so</Message>\
                 <AWSAccessKeyId>AKIASECRET</AWSAccessKeyId><Token-0>s3cret</Token-0><StringToSign>s3cret</StringToSign></Error>"
            )
        };
        let denied =
            told(format!("PUT http://s3/b/k - Server returned non-2xx status code: 403 Forbidden: {}", body("X")));
        assert_eq!(
            denied,
            "Generic S3 error: PUT http://s3/b/k - Server returned non-2xx status code: 403 Forbidden: X, It is so"
        );
        let inside = told(format!("Server returned error response: {}", body("InternalError")));
        assert_eq!(inside, "Generic S3 error: Server returned error response: InternalError, It is so");
        let page = told("Server returned non-2xx status code: 502 Bad Gateway: token=s3cret <html>s3cret".to_owned());
        assert_eq!(page, "Generic S3 error: Server returned non-2xx status code: 502 Bad Gateway");
        assert_eq!(told("cannot read <a>s3cret".to_owned()), "Generic S3 error: cannot read");
        let long = format!("{} status code: 403 Forbidden: {}", "x".repeat(2_000), body("ExpiredToken"));
        assert!(!may_be_one_object(&Error::new(ErrorKind::Denied, told(long.clone()))), "however long the key is");
        let denied = told(long.replace("ExpiredToken", "AccessDenied"));
        assert!(may_be_one_object(&Error::new(ErrorKind::Denied, denied)));
    }
}
