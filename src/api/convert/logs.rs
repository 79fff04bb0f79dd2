//! A page of a log as messages.
//!
//! Owns: how a record looks to clients, and where a page that is too large for one message is cut. Must not know: who asked.
//!
//! Records are written as bytes at once (see `proto::log_page`): the fields and their order are those of `LogRecord` in `model.proto`.

use prost::encoding::{WireType, btree_map, encode_key, encode_varint, string};

use super::{log_level, log_stream};
use crate::ledger::LogPage;
use crate::model::{LogRecord, LogStream};
use crate::proto::fetchbox::v1::QueryLogsResponse;
use crate::proto::log_page::put_record;

/// Bytes of one message of a QueryLogs stream: most clients refuse more than 4 MiB.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// One page as messages of about a megabyte; at least one, even when the page is empty.
///
/// `behind` counts up from what the page knows: a page of a plain query knows 0. `job_id` is the one that clients see.
pub(crate) fn log_messages(page: &LogPage, job_id: &str) -> Vec<QueryLogsResponse> {
    let mut messages = Vec::new();
    let (mut encoded, mut one) = (Vec::new(), Vec::new());
    for record in &page.records {
        one.clear();
        put(record, job_id, &mut one);
        if encoded.len() + one.len() > MESSAGE_BYTES_MAX && !encoded.is_empty() {
            let next_offset = record.offset;
            let behind = if page.behind == 0 { 0 } else { page.behind + page.next_offset.saturating_sub(next_offset) };
            let encoded = std::mem::take(&mut encoded).into();
            messages.push(QueryLogsResponse { encoded, next_offset, behind, ..QueryLogsResponse::default() });
        }
        put_record(&one, &mut encoded);
    }
    let (next_offset, end, behind) = (page.next_offset, page.end, page.behind);
    messages.push(QueryLogsResponse { records: Vec::new(), next_offset, end, behind, encoded: encoded.into() });
    messages
}

/// Zero and empty fields are left out, but not the content: being there, it says which it is.
fn put(record: &LogRecord, job_id: &str, to: &mut Vec<u8>) {
    let entry = &record.entry;
    number(1, record.offset, to);
    text(2, job_id, to);
    text(3, &entry.resource_id, to);
    number(4, log_stream(record.stream) as u64, to);
    number(5, log_level(entry.level) as u64, to);
    number(6, entry.timestamp_ms.cast_unsigned(), to);
    if !entry.fields.is_empty() {
        let (put, len) = (string::encode, string::encoded_len);
        btree_map::encode(put, len, put, len, 7, &entry.fields, to);
    }
    text(8, &entry.trace_id, to);
    match record.stream {
        LogStream::Job => bytes(9, entry.message.as_bytes(), to),
        LogStream::Stdout | LogStream::Stderr => bytes(10, &record.chunk, to),
    }
}

fn number(tag: u32, value: u64, to: &mut Vec<u8>) {
    if value != 0 {
        encode_key(tag, WireType::Varint, to);
        encode_varint(value, to);
    }
}

fn text(tag: u32, value: &str, to: &mut Vec<u8>) {
    if !value.is_empty() {
        bytes(tag, value.as_bytes(), to);
    }
}

fn bytes(tag: u32, value: &[u8], to: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, to);
    encode_varint(value.len() as u64, to);
    to.extend_from_slice(value);
}
