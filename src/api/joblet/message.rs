//! One message of joblet's wire, read where it lies: nothing is copied and nothing allocated.
//!
//! Owns: the fields that every message has, by their numbers in `proto/joblet/ipc.proto`. Must not know: jobs, what a record is for.

use std::ops::Range;

use bytes::Bytes;
use prost::Message as _;

use crate::model::{LogStream, OutputKind};
use crate::proto::joblet::ipc;

/// Why a message is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// It is no IPCMessage.
    Body,
    /// It is one, and what it carries is not what it says.
    Data,
}

/// A message as it is kept, but for its job's name, which stands at `job` in the body.
#[derive(Debug, PartialEq)]
pub struct Message {
    pub job: Range<usize>,
    pub kind: OutputKind,
    pub stream: LogStream,
    pub time_ns: i64,
    pub sequence: u64,
    pub data: Bytes,
}

/// The value of a field that we may want.
enum Value {
    Number(u64),
    /// Where its bytes lie.
    Bytes(Range<usize>),
    Fixed,
}

/// The fields of a message in the order of the wire.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            if shift == 63 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn skip(&mut self, bytes: usize) -> Option<Range<usize>> {
        let end = self.at.checked_add(bytes).filter(|end| *end <= self.bytes.len())?;
        Some(std::mem::replace(&mut self.at, end)..end)
    }

    /// None: this is no message. Some(None): it ends here.
    fn next(&mut self) -> Option<Option<(u64, Value)>> {
        if self.at == self.bytes.len() {
            return Some(None);
        }
        let tag = self.varint().filter(|tag| (8..=u64::from(u32::MAX)).contains(tag))?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.skip(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.skip(length)?)
            }
            5 => self.skip(4).map(|_| Value::Fixed)?,
            // Groups, which no proto3 message has.
            _ => return None,
        };
        Some(Some((tag >> 3, value)))
    }
}

/// Reads the body of one frame. `body` is shared, not copied.
pub fn read(body: &Bytes) -> Result<Message, Unreadable> {
    let (number, mut message) = envelope(body).ok_or(Unreadable::Body)?;
    message.kind = u8::try_from(number).ok().and_then(OutputKind::from_number).unwrap_or(OutputKind::Other);
    match message.kind {
        OutputKind::Log => log(&mut message).ok_or(Unreadable::Data)?,
        // Of a type we do not know: whole, so that a later version can read it.
        OutputKind::Other => message.data = body.clone(),
        OutputKind::Metric
        | OutputKind::Exec
        | OutputKind::Connect
        | OutputKind::Accept
        | OutputKind::SocketData
        | OutputKind::Mmap
        | OutputKind::Mprotect
        | OutputKind::File => {
            let stamp = stamp(message.kind, &message.data).ok_or(Unreadable::Data)?;
            message.time_ns = stamp.time_ns.unwrap_or(message.time_ns);
            message.sequence = stamp.sequence.unwrap_or(message.sequence);
        }
    }
    Ok(message)
}

fn envelope(body: &Bytes) -> Option<(u64, Message)> {
    let mut fields = Fields { bytes: body, at: 0 };
    let (mut number, mut data) = (0, 0..0);
    let (kind, stream) = (OutputKind::Other, LogStream::Stdout);
    let mut message = Message { job: 0..0, kind, stream, time_ns: 0, sequence: 0, data: Bytes::new() };
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Number(_)) => {}
            (2, Value::Number(value)) => number = value,
            (3, Value::Bytes(at)) => message.job = at,
            (4, Value::Number(value)) => message.time_ns = value.cast_signed(),
            (5, Value::Number(value)) => message.sequence = value,
            (6, Value::Bytes(at)) => data = at,
            (1..=6, _) => return None,
            _ => {}
        }
    }
    message.data = body.slice(data);
    Some((number, message))
}

fn log(message: &mut Message) -> Option<()> {
    let mut fields = Fields { bytes: &message.data, at: 0 };
    let mut content = 0..0;
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Bytes(_)) => {}
            // What is not said is standard output.
            (2, Value::Number(value)) => {
                message.stream = if value == 2 { LogStream::Stderr } else { LogStream::Stdout };
            }
            (3, Value::Number(value)) if value != 0 => message.time_ns = value.cast_signed(),
            (4, Value::Number(value)) if value != 0 => message.sequence = value,
            (5, Value::Bytes(at)) => content = at,
            (3 | 4, Value::Number(_)) => {}
            (1..=5, _) => return None,
            _ => {}
        }
    }
    message.data = message.data.slice(content);
    Some(())
}

/// What a metric or an event says of itself; None: nothing, or 0.
#[derive(Debug, Default, PartialEq)]
pub struct Stamp {
    pub time_ns: Option<i64>,
    pub sequence: Option<u64>,
}

/// Time and sequence in the data of a metric or an event. None: it is no such message, and is taken by no door.
pub fn stamp(kind: OutputKind, data: &[u8]) -> Option<Stamp> {
    if kind == OutputKind::Metric {
        ipc::Metric::decode(data).ok()?;
    }
    let mut fields = Fields { bytes: data, at: 0 };
    let mut stamp = Stamp::default();
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (2, Value::Number(value)) if value != 0 => stamp.time_ns = Some(value.cast_signed()),
            (3, Value::Number(value)) if value != 0 => stamp.sequence = Some(value),
            (2 | 3, Value::Number(_)) => {}
            (2 | 3, _) => return None,
            _ => {}
        }
    }
    Some(stamp)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn envelope_of(number: i32, data: Vec<u8>) -> ipc::IpcMessage {
        ipc::IpcMessage {
            version: 1,
            r#type: number,
            job_uuid: "j".into(),
            timestamp: 7,
            sequence: 8,
            data: data.into(),
        }
    }

    fn encoded(message: &impl prost::Message) -> Bytes {
        message.encode_to_vec().into()
    }

    proptest! {
        #[test]
        fn every_chunk_is_read_as_it_was_written(
            job in "[ -~]{0,40}", stream in 0..4, (outer, inside) in any::<(i64, i64)>(), sequence in any::<u64>(),
            content in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let line = ipc::LogLine {
                job_uuid: "another".into(), stream, timestamp: inside, sequence, content: content.clone().into(),
            };
            let sent = ipc::IpcMessage {
                version: 1, r#type: 1, job_uuid: job.clone(), timestamp: outer, sequence: 3, data: encoded(&line),
            };
            let body = encoded(&sent);
            let got = read(&body).unwrap();
            prop_assert_eq!(&body[got.job.clone()], job.as_bytes());
            prop_assert_eq!(got.stream, if stream == 2 { LogStream::Stderr } else { LogStream::Stdout });
            prop_assert_eq!(got.time_ns, if inside == 0 { outer } else { inside });
            prop_assert_eq!(got.sequence, if sequence == 0 { 3 } else { sequence });
            prop_assert_eq!(got.data, content);
        }

        #[test]
        fn whatever_comes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&Bytes::from(bytes.clone()));
            let _ = read(&encoded(&envelope_of(1, bytes.clone())));
            let _ = read(&encoded(&envelope_of(5, bytes)));
        }
    }

    #[test]
    fn metrics_and_events_keep_their_bytes() {
        let metric = ipc::Metric { job_uuid: "j".into(), timestamp: 40, sequence: 41, data: None };
        let event =
            ipc::SocketDataEvent { timestamp: 50, sequence: 0, protocol: "tcp".into(), bytes: 9, ..Default::default() };
        for (number, data, time, sequence) in [(2, encoded(&metric), 40, 41), (6, encoded(&event), 50, 8)] {
            let got = read(&encoded(&envelope_of(number, data.to_vec()))).unwrap();
            assert_eq!((got.kind as i32, got.time_ns, got.sequence), (number, time, sequence));
            assert_eq!(got.data, data);
        }
    }

    #[test]
    fn a_message_of_a_later_version_is_kept_whole() {
        for number in [0, 10, 250, -1] {
            let body = encoded(&envelope_of(number, vec![0xff; 9]));
            let got = read(&body).unwrap();
            assert_eq!((got.kind, got.data, got.sequence), (OutputKind::Other, body, 8));
        }
    }

    #[test]
    fn what_is_no_message_is_told_from_what_carries_none() {
        assert_eq!(read(&Bytes::from_static(b"\xff\xff")), Err(Unreadable::Body));
        assert_eq!(read(&encoded(&envelope_of(1, vec![0xff]))), Err(Unreadable::Data));
        assert_eq!(read(&encoded(&envelope_of(2, vec![0x22, 1, 0xff]))), Err(Unreadable::Data));
    }
}
