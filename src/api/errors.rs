//! Refusals on the wire: the one place where a code becomes a gRPC status or an `ErrorDetail`.
//!
//! Owns: the table. Must not know: who refuses, or why. `docs/protocol.md` shows the same table to clients.

use prost::Message as _;
use tonic::{Code, Status};

use crate::model::{Refusal, RefusalCode};
use crate::proto::fetchbox::v1 as pb;
use crate::proto::{ERROR_DETAIL_TYPE_URL, google};

/// Bytes of the status details on gRPC. They travel in HTTP/2 trailers, base64-encoded, and common clients refuse more than 8 KiB of those.
const GRPC_DETAIL_BYTES_MAX: usize = 3_584;
/// Bytes of a message that travels in trailers, where it may triple by percent-encoding.
const GRPC_MESSAGE_BYTES_MAX: usize = 640;
/// Violations in one answer. A manifest has at most 1,000 resources; somebody who breaks each of them twice knows enough.
const FIELDS_MAX: usize = 1_000;

/// Which gRPC code says the same.
pub(super) fn grpc_code(code: RefusalCode) -> Code {
    match code {
        RefusalCode::InvalidPayload => Code::InvalidArgument,
        RefusalCode::Unauthorized => Code::Unauthenticated,
        RefusalCode::UnsupportedJobType => Code::PermissionDenied,
        RefusalCode::PayloadTooLarge | RefusalCode::RateLimited | RefusalCode::StorageFull => Code::ResourceExhausted,
        RefusalCode::NotFound => Code::NotFound,
        RefusalCode::AlreadyExists => Code::AlreadyExists,
        RefusalCode::IllegalState => Code::FailedPrecondition,
        RefusalCode::OutOfRange => Code::OutOfRange,
        RefusalCode::Stale => Code::Aborted,
        RefusalCode::DataLoss => Code::DataLoss,
        RefusalCode::Unavailable | RefusalCode::Draining => Code::Unavailable,
        RefusalCode::Handler | RefusalCode::Internal => Code::Internal,
        RefusalCode::Unimplemented => Code::Unimplemented,
    }
}

/// The refusal as IPC answers and batch items carry it: with every violation.
pub(super) fn detail(refusal: &Refusal) -> pb::ErrorDetail {
    let mut detail = pb::ErrorDetail {
        code: refusal.code.as_str().to_owned(),
        message: refusal.message.clone(),
        job_id: refusal.job_id.clone(),
        context: Default::default(),
        retryable: refusal.code.retryable(),
        retry_after_ms: refusal.retry_after.map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        fields: refusal
            .violations
            .iter()
            .take(FIELDS_MAX)
            .map(|violation| pb::FieldViolation { path: violation.path.clone(), message: violation.message.clone() })
            .collect(),
    };
    note_omitted(&mut detail, refusal.violations.len());
    detail
}

/// The refusal as a gRPC status whose details are a `google.rpc.Status` holding one `Any` of `ErrorDetail`.
pub(super) fn status(refusal: &Refusal) -> Status {
    let code = grpc_code(refusal.code);
    let mut detail = detail(refusal);
    cut(&mut detail.message, GRPC_MESSAGE_BYTES_MAX);
    while detail.encoded_len() > GRPC_DETAIL_BYTES_MAX && !detail.fields.is_empty() {
        detail.fields.truncate(detail.fields.len() * 3 / 4);
        note_omitted(&mut detail, refusal.violations.len());
    }
    let message = detail.message.clone();
    let any = prost_types::Any { type_url: ERROR_DETAIL_TYPE_URL.to_owned(), value: detail.encode_to_vec() };
    let details = google::rpc::Status { code: code.into(), message: String::new(), details: vec![any] };
    Status::with_details(code, message, details.encode_to_vec().into())
}

fn note_omitted(detail: &mut pb::ErrorDetail, total: usize) {
    if detail.fields.len() < total {
        detail.context.insert("fields_total".to_owned(), total.to_string());
    }
}

/// Shortens to at most `bytes`, on a character's border.
fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = (0..=bytes).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::Violation;

    fn detail_in(status: &Status) -> pb::ErrorDetail {
        let outer = google::rpc::Status::decode(status.details()).unwrap();
        assert_eq!(outer.code, i32::from(status.code()));
        assert_eq!(outer.details[0].type_url, ERROR_DETAIL_TYPE_URL);
        pb::ErrorDetail::decode(outer.details[0].value.as_slice()).unwrap()
    }

    #[test]
    fn each_code_reaches_a_client_as_the_status_the_documentation_promises() {
        let promised = [
            ("INVALID_PAYLOAD", Code::InvalidArgument, false),
            ("UNAUTHORIZED", Code::Unauthenticated, false),
            ("UNSUPPORTED_JOB_TYPE", Code::PermissionDenied, false),
            ("PAYLOAD_TOO_LARGE", Code::ResourceExhausted, false),
            ("RATE_LIMITED", Code::ResourceExhausted, true),
            ("STORAGE_FULL", Code::ResourceExhausted, true),
            ("NOT_FOUND", Code::NotFound, false),
            ("ALREADY_EXISTS", Code::AlreadyExists, false),
            ("ILLEGAL_STATE", Code::FailedPrecondition, false),
            ("OUT_OF_RANGE", Code::OutOfRange, false),
            ("STALE_REVISION", Code::Aborted, false),
            ("DATA_LOSS", Code::DataLoss, false),
            ("UNAVAILABLE", Code::Unavailable, true),
            ("DRAINING", Code::Unavailable, true),
            ("HANDLER_FAILED", Code::Internal, true),
            ("UNIMPLEMENTED", Code::Unimplemented, false),
            ("INTERNAL", Code::Internal, false),
        ];
        assert_eq!(promised.len(), RefusalCode::ALL.len());
        let document = include_str!("../../docs/protocol.md");
        for (refused, (text, code, retryable)) in RefusalCode::ALL.into_iter().zip(promised) {
            let refusal =
                Refusal::new(refused, "why").with_job("some-job").with_retry_after(Duration::from_millis(1_500));
            let status = status(&refusal);
            assert_eq!(status.code(), code, "{text}");
            assert_eq!(status.message(), "why");
            let told = detail_in(&status);
            assert_eq!(told, detail(&refusal));
            assert_eq!((told.code.as_str(), told.retryable), (text, retryable));
            assert_eq!((told.job_id.as_str(), told.retry_after_ms), ("some-job", 1_500));
            let grpc = format!("{code:?}");
            let row = document.lines().find(|line| line.starts_with(&format!("| `{text}` |")));
            let row = row.unwrap_or_else(|| panic!("docs/protocol.md has no row for {text}"));
            let told_code = row.split('|').nth(2).unwrap_or_default().replace(['_', '`', ' '], "").to_lowercase();
            assert_eq!(told_code, grpc.to_lowercase(), "{row}");
            let told_retry = row.split('|').nth(3).unwrap_or_default().trim().starts_with("yes");
            assert_eq!(told_retry, retryable, "{row}");
        }
    }

    #[test]
    fn a_thousand_violations_do_not_break_a_grpc_client_and_are_whole_on_the_socket() {
        let violations: Vec<Violation> = (0..900)
            .map(|at| Violation { path: format!("resources[{at}].url"), message: "muß http oder https sein".into() })
            .collect();
        let refusal = Refusal::violations(violations);
        assert_eq!(detail(&refusal).fields.len(), 900);
        let status = status(&refusal);
        assert!(status.details().len() <= GRPC_DETAIL_BYTES_MAX + 128, "{}", status.details().len());
        let told = detail_in(&status);
        assert!(told.fields.len() > 20);
        assert_eq!(told.context["fields_total"], "900");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let mut text = "ä".repeat(1_000);
        cut(&mut text, 641);
        assert_eq!(text.chars().count(), 321);
    }
}
