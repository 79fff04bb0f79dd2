//! Records of one job and kind as bytes, column by column: what is alike stands together and compresses well.
//!
//! Owns: the byte form, version 1. Must not know: compression, keys, ordinals' meaning.
//!
//! `version, count, column lengths`, then the columns: ordinals, flags, times, sequences, data lengths, labels, data. Numbers are
//! varints of the difference to the record before, so that a run of equal steps is a run of zeros.

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{decode_varint, encode_varint};

use crate::model::{LogStream, NewLog, NewOutput, OutputKind, OutputRecord, Refusal};
use crate::store::records::{LogRow, damaged};

const VERSION: u8 = 1;
const COLUMNS: usize = 7;
const STREAM_BITS: u8 = 0b11;
const HAS_LABEL: u8 = 0b100;
/// What a record takes besides its data and its message, mostly.
const RECORD_BYTES: usize = 8;

/// About what a record takes; fields of its label are not counted.
pub fn encoded_bytes(record: &NewOutput) -> usize {
    let label = record.label.as_ref().map_or(0, |label| label.message.len());
    RECORD_BYTES + record.data.len() + label
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

fn stream_bits(stream: LogStream) -> u8 {
    match stream {
        LogStream::Job => 0,
        LogStream::Stdout => 1,
        LogStream::Stderr => 2,
    }
}

/// Records as bytes; see [`Encoder::encode`].
pub fn encode<'a>(records: impl Iterator<Item = (u64, &'a NewOutput)> + Clone) -> Vec<u8> {
    let mut bytes = Vec::new();
    Encoder::default().encode(records, &mut bytes);
    bytes
}

/// Where columns grow: used again for one piece after another.
#[derive(Default)]
pub struct Encoder {
    columns: [Vec<u8>; COLUMNS - 1],
}

impl Encoder {
    /// Puts the records behind what stands in `bytes`. Ordinals are relative: a reader adds the base it knows. The data are written once, to
    /// where they stay.
    pub fn encode<'a>(&mut self, records: impl Iterator<Item = (u64, &'a NewOutput)> + Clone, bytes: &mut Vec<u8>) {
        self.columns.iter_mut().for_each(Vec::clear);
        let [ordinals, flags, times, sequences, lengths, labels] = &mut self.columns;
        let (mut count, mut next, mut time, mut sequence, mut data_bytes) = (0u64, 0u64, 0i64, 0u64, 0usize);
        for (ordinal, record) in records.clone() {
            put_varint(ordinal.wrapping_sub(next), ordinals);
            next = ordinal.wrapping_add(1);
            let label = record.label.as_ref();
            flags.push(stream_bits(record.stream) | if label.is_some() { HAS_LABEL } else { 0 });
            put_varint(zigzag(record.time_ns.wrapping_sub(time)), times);
            time = record.time_ns;
            put_varint(zigzag(record.sequence.wrapping_sub(sequence).wrapping_sub(1).cast_signed()), sequences);
            sequence = record.sequence;
            put_varint(record.data.len() as u64, lengths);
            if let Some(label) = label {
                let row = LogRow::from_log(label.as_ref().clone());
                put_varint(row.encoded_len() as u64, labels);
                row.encode_raw(labels);
            }
            data_bytes += record.data.len();
            count += 1;
        }
        bytes.reserve(64 + data_bytes + self.columns.iter().map(Vec::len).sum::<usize>());
        bytes.push(VERSION);
        put_varint(count, bytes);
        for length in self.columns.iter().map(Vec::len).chain([data_bytes]) {
            put_varint(length as u64, bytes);
        }
        for column in &self.columns {
            bytes.extend_from_slice(column);
        }
        for (_, record) in records {
            bytes.extend_from_slice(&record.data);
        }
    }
}

/// Most numbers here are small.
fn put_varint(value: u64, to: &mut Vec<u8>) {
    match u8::try_from(value) {
        Ok(small @ 0..0x80) => to.push(small),
        _ => encode_varint(value, to),
    }
}

/// Which of the records are wanted: those from this ordinal on, and no more than so many.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub from: u64,
    pub rows: usize,
}

impl Window {
    pub const ALL: Self = Self { from: 0, rows: usize::MAX };
}

/// Reads records back; their data are slices of `bytes`. Records outside of the window cost a few numbers each, or nothing.
/// DATA_LOSS when what is read is not what [`encode`] writes.
pub fn decode(kind: OutputKind, base: u64, bytes: &Bytes, window: Window) -> Result<Vec<OutputRecord>, Refusal> {
    read(kind, base, bytes, window).ok_or_else(|| damaged("a piece of output"))
}

fn varint(from: &mut &[u8]) -> Option<u64> {
    decode_varint(from).ok()
}

fn read(kind: OutputKind, base: u64, bytes: &Bytes, window: Window) -> Option<Vec<OutputRecord>> {
    let mut rest: &[u8] = bytes;
    let (version, tail) = rest.split_first()?;
    if *version != VERSION {
        return None;
    }
    rest = tail;
    let count = usize::try_from(varint(&mut rest)?).ok()?;
    let mut lengths = [0usize; COLUMNS];
    for length in &mut lengths {
        *length = usize::try_from(varint(&mut rest)?).ok()?;
    }
    let mut at = bytes.len() - rest.len();
    let mut column = [Bytes::new(), Bytes::new(), Bytes::new(), Bytes::new(), Bytes::new(), Bytes::new(), Bytes::new()];
    for (column, length) in column.iter_mut().zip(lengths) {
        let end = at.checked_add(length).filter(|end| *end <= bytes.len())?;
        *column = bytes.slice(at..end);
        at = end;
    }
    let [ordinals, flags, times, sequences, sizes, labels, data] = &column;
    let mut ordinals: &[u8] = ordinals;
    let mut times: &[u8] = times;
    let mut sequences: &[u8] = sequences;
    let mut sizes: &[u8] = sizes;
    let mut labels: &[u8] = labels;
    if flags.len() != count {
        return None;
    }
    let (mut next, mut time, mut sequence, mut from) = (0u64, 0i64, 0u64, 0usize);
    // No more than this many are passed over.
    let below = usize::try_from(window.from.saturating_sub(base)).unwrap_or(usize::MAX);
    let mut records = Vec::with_capacity(count.saturating_sub(below).min(window.rows));
    for flag in flags {
        if records.len() >= window.rows {
            break;
        }
        let ordinal = next.wrapping_add(varint(&mut ordinals)?);
        next = ordinal.wrapping_add(1);
        time = time.wrapping_add(unzigzag(varint(&mut times)?));
        sequence = sequence.wrapping_add(1).wrapping_add(unzigzag(varint(&mut sequences)?).cast_unsigned());
        let end = from.checked_add(usize::try_from(varint(&mut sizes)?).ok()?).filter(|end| *end <= data.len())?;
        let label = if flag & HAS_LABEL == 0 { None } else { Some(label(&mut labels)?) };
        let start = std::mem::replace(&mut from, end);
        let ordinal = base.wrapping_add(ordinal);
        if ordinal < window.from {
            continue;
        }
        let stream = match flag & STREAM_BITS {
            0 => LogStream::Job,
            1 => LogStream::Stdout,
            2 => LogStream::Stderr,
            _ => return None,
        };
        let label = match label {
            Some(row) => Some(Box::new(read_label(row)?)),
            None => None,
        };
        let entry = NewOutput { kind, stream, time_ns: time, sequence, label, data: data.slice(start..end) };
        records.push(OutputRecord { ordinal, entry });
    }
    Some(records)
}

fn label<'a>(labels: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(labels)?).ok()?;
    let (row, rest) = labels.split_at_checked(length)?;
    *labels = rest;
    Some(row)
}

fn read_label(row: &[u8]) -> Option<NewLog> {
    LogRow::decode(row).ok()?.into_log().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_output() -> impl Strategy<Value = NewOutput> {
        let stream = prop_oneof![Just(LogStream::Job), Just(LogStream::Stdout), Just(LogStream::Stderr)];
        let data = prop::collection::vec(any::<u8>(), 0..200);
        (stream, any::<i64>(), any::<u64>(), proptest::option::of("[a-zä]{0,20}"), data).prop_map(
            |(stream, time_ns, sequence, message, data)| NewOutput {
                kind: OutputKind::Log,
                stream,
                time_ns,
                sequence,
                label: message.map(|message| Box::new(NewLog { message, ..NewLog::default() })),
                data: data.into(),
            },
        )
    }

    proptest! {
        #[test]
        fn what_a_job_wrote_is_read_back_byte_for_byte(
            entries in prop::collection::vec((0u64..5, any_output()), 0..40), base in 0u64..1_000_000,
            skipped in 0u64..100, rows in 0usize..50,
        ) {
            let mut ordinal = 0;
            let records: Vec<(u64, NewOutput)> = entries.into_iter().map(|(gap, entry)| {
                ordinal += gap + 1;
                (ordinal, entry)
            }).collect();
            let bytes = encode(records.iter().map(|(ordinal, entry)| (*ordinal, entry)));
            let bytes = bytes.into();
            let back = decode(OutputKind::Log, base, &bytes, Window::ALL).unwrap();
            let expected: Vec<OutputRecord> = records.into_iter()
                .map(|(ordinal, entry)| OutputRecord { ordinal: base + ordinal, entry }).collect();
            prop_assert_eq!(&back, &expected);
            let window = Window { from: base + skipped, rows };
            let part = decode(OutputKind::Log, base, &bytes, window).unwrap();
            let expected: Vec<_> =
                expected.into_iter().filter(|record| record.ordinal >= window.from).take(rows).collect();
            prop_assert_eq!(part, expected);
        }

        #[test]
        fn damaged_bytes_are_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = bytes;
            bytes.insert(0, VERSION);
            let _ = decode(OutputKind::Log, 0, &bytes.into(), Window::ALL);
        }
    }
}
