//! `QueryLogsResponse`, written by hand: a server puts records that are bytes already, a client reads them as records.
//!
//! Owns: its wire form, which is that of `ledger.proto`. Must not know: where records come from.
//!
//! A page has a thousand records and a follower takes hundreds of pages a second: as an object each, with a copy of the job's id and a
//! length that is counted twice, they were the larger part of what a follow costs.

use bytes::{Buf, BufMut, Bytes};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, bool, encode_key, encode_varint, encoded_len_varint, message, uint64};

use super::fetchbox::v1::LogRecord;

/// One page of a job's log.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QueryLogsResponse {
    pub records: Vec<LogRecord>,
    /// Ask again from here, or resume a broken follow here.
    pub next_offset: u64,
    /// Without follow: nothing more stands behind `next_offset` now.
    pub end: bool,
    /// With follow: records that are there and were not sent yet. A reader that is too slow sees this grow; nothing is lost to it.
    pub behind: u64,
    /// Records in front of `records`, each as [`put_record`] writes it. Empty in what was received.
    pub encoded: Bytes,
}

const RECORDS: u32 = 1;
const NEXT_OFFSET: u32 = 2;
const END: u32 = 3;
const BEHIND: u32 = 4;

/// One of a page's records, whose message is `record`.
pub fn put_record(record: &[u8], to: &mut Vec<u8>) {
    encode_key(RECORDS, WireType::LengthDelimited, to);
    encode_varint(record.len() as u64, to);
    to.extend_from_slice(record);
}

impl prost::Message for QueryLogsResponse {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.encoded);
        message::encode_repeated(RECORDS, &self.records, buf);
        if self.next_offset != 0 {
            uint64::encode(NEXT_OFFSET, &self.next_offset, buf);
        }
        if self.end {
            bool::encode(END, &self.end, buf);
        }
        if self.behind != 0 {
            uint64::encode(BEHIND, &self.behind, buf);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            RECORDS => message::merge_repeated(wire_type, &mut self.records, buf, ctx),
            NEXT_OFFSET => uint64::merge(wire_type, &mut self.next_offset, buf, ctx),
            END => bool::merge(wire_type, &mut self.end, buf, ctx),
            BEHIND => uint64::merge(wire_type, &mut self.behind, buf, ctx),
            _ => prost::encoding::skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        let number = |value: u64| if value == 0 { 0 } else { 1 + encoded_len_varint(value) };
        self.encoded.len()
            + message::encoded_len_repeated(RECORDS, &self.records)
            + number(self.next_offset)
            + number(u64::from(self.end))
            + number(self.behind)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_reflect::{DescriptorPool, DynamicMessage};

    use super::*;

    #[test]
    fn other_clients_read_the_page_that_the_proto_file_describes() {
        let record = |offset| LogRecord { offset, job_id: "j".to_owned(), ..LogRecord::default() };
        let mut encoded = Vec::new();
        put_record(&record(4).encode_to_vec(), &mut encoded);
        let page = QueryLogsResponse {
            records: vec![record(5)],
            next_offset: 6,
            end: true,
            behind: 300,
            encoded: encoded.into(),
        };
        let bytes = page.encode_to_vec();
        assert_eq!(bytes.len(), page.encoded_len());
        let pool = DescriptorPool::decode(super::super::DESCRIPTORS).unwrap();
        let described = pool.get_message_by_name("fetchbox.v1.QueryLogsResponse").unwrap();
        let read = DynamicMessage::decode(described, bytes.as_slice()).unwrap();
        assert_eq!(read.unknown_fields().count(), 0);
        let number = |name: &str| read.get_field_by_name(name).unwrap().as_u64();
        assert_eq!((number("next_offset"), number("behind")), (Some(6), Some(300)));
        assert_eq!(read.get_field_by_name("end").unwrap().as_bool(), Some(true));
        assert_eq!(read.get_field_by_name("records").unwrap().as_list().unwrap().len(), 2);
        // And back.
        let again = QueryLogsResponse::decode(read.encode_to_vec().as_slice()).unwrap();
        assert_eq!(again.records, [record(4), record(5)]);
        assert_eq!((again.next_offset, again.end, again.behind), (6, true, 300));
    }
}
