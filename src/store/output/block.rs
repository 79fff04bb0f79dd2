//! Sealed blocks: records of one job and kind, compressed, with a head that says what they hold.
//!
//! Owns: both rows, building and reading them. Must not know: when to seal.
//!
//! The first part begins with a few numbers, so that the parts alone bring a lost head back.

use bytes::Bytes;
use prost::Message;

use super::TextFilter;
use super::codec::{self, Window};
use super::edges::{self, Edges};
use super::pack::{pack, unpack};
use crate::model::{JobId, LogStream, OutputKind, OutputRecord, Refusal};
use crate::store::keys::{self, Family, Fields, Key};
use crate::store::records::{self, damaged};

/// What a block holds, without reading it.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockHead {
    pub job: JobId,
    pub kind: OutputKind,
    /// Ordinals of the first and the last record.
    pub first: u64,
    pub last: u64,
    /// Of the records' own times, Unix ns.
    pub time_min_ns: i64,
    pub time_max_ns: i64,
    /// Of streams JOB, STDOUT and STDERR; other kinds count as the first.
    pub records: [u64; 3],
    /// Bytes of the records' data.
    pub data_bytes: u64,
    /// Bytes of the block's rows, the head's included.
    pub stored_bytes: u64,
    /// The sender's count at the last record.
    pub last_sequence: u64,
    /// Streams that are in the middle of a line where the block ends, though their last bytes may stand in an older block: 1 STDOUT, 2
    /// STDERR, 3 both. Such a line goes on in a later block, and the filter of neither knows it whole.
    pub open_streams: u8,
    /// What text the data may contain; of logs.
    pub filter: TextFilter,
    /// How standard output and standard error enter and leave it; of logs.
    pub edges: Edges,
    pub(super) body_bytes: u64,
    pub(in crate::store) parts: u16,
}

impl BlockHead {
    pub fn count(&self) -> u64 {
        self.records.iter().sum()
    }
}

#[derive(Clone, PartialEq, Message)]
struct HeadRow {
    #[prost(uint64, tag = "1")]
    last: u64,
    #[prost(int64, tag = "2")]
    time_min_ns: i64,
    #[prost(int64, tag = "3")]
    time_max_ns: i64,
    #[prost(uint64, repeated, tag = "4")]
    records: Vec<u64>,
    #[prost(uint64, tag = "5")]
    data_bytes: u64,
    #[prost(uint64, tag = "6")]
    packed_bytes: u64,
    #[prost(uint64, tag = "7")]
    last_sequence: u64,
    #[prost(bytes = "vec", tag = "8")]
    filter: Vec<u8>,
    #[prost(uint64, tag = "9")]
    body_bytes: u64,
    #[prost(uint32, tag = "10")]
    parts: u32,
    #[prost(uint32, tag = "11")]
    open_streams: u32,
    #[prost(message, repeated, tag = "12")]
    edges: Vec<edges::EdgeRow>,
}

/// What stands in front of a block's first part, behind its own length.
#[derive(Clone, PartialEq, Message)]
struct Front {
    #[prost(uint64, tag = "1")]
    body_bytes: u64,
    #[prost(uint32, tag = "2")]
    open_streams: u32,
}

/// What a block is written as.
pub type BlockRows = Vec<(Key, Vec<u8>)>;

/// The streams that are in the middle of a line behind this record.
pub fn open_behind(open: u8, record: &OutputRecord) -> u8 {
    let bit = match record.entry.stream {
        LogStream::Job => return open,
        LogStream::Stdout => 1,
        LogStream::Stderr => 2,
    };
    match record.entry.data.last() {
        None => open,
        Some(b'\n') => open & !bit,
        Some(_) => open | bit,
    }
}

/// Head and rows of a block, the head's first. `records` are not empty and in order; `open` are the streams that are in the middle of a line
/// behind them. `body`: the records' bytes, if somebody has them already.
pub fn build(
    job: JobId,
    kind: OutputKind,
    records: &[OutputRecord],
    body: Option<Bytes>,
    open: u8,
    level: i32,
) -> Result<BlockRows, Refusal> {
    let Some(first) = records.first() else { return Err(damaged("an empty block")) };
    let base = first.ordinal;
    let body = body.unwrap_or_else(|| {
        codec::encode(records.iter().map(|record| (record.ordinal.wrapping_sub(base), &record.entry))).into()
    });
    let front = Front { body_bytes: body.len() as u64, open_streams: u32::from(open) };
    let parts = pack(front.encode_length_delimited_to_vec(), std::iter::once(&*body), level)?;
    let head = head_row(kind, records, &front, &parts).ok_or_else(|| damaged("an empty block"))?;
    let mut rows = Vec::with_capacity(parts.len() + 1);
    rows.push((keys::block_head(job, kind, base), head.encode_to_vec()));
    for (part, bytes) in parts.into_iter().enumerate() {
        rows.push((keys::block(job, kind, base, u16::try_from(part).unwrap_or(u16::MAX)), bytes));
    }
    Ok(rows)
}

/// What the records say about themselves.
fn head_row(kind: OutputKind, records: &[OutputRecord], front: &Front, parts: &[impl AsRef<[u8]>]) -> Option<HeadRow> {
    let last = records.last()?;
    let mut row = HeadRow {
        last: last.ordinal,
        time_min_ns: i64::MAX,
        time_max_ns: i64::MIN,
        packed_bytes: parts.iter().map(|part| part.as_ref().len() as u64).sum(),
        last_sequence: last.entry.sequence,
        body_bytes: front.body_bytes,
        parts: u32::try_from(parts.len()).unwrap_or(u32::MAX),
        open_streams: front.open_streams,
        ..HeadRow::default()
    };
    let mut counts = [0u64; 3];
    for OutputRecord { entry, .. } in records {
        let at = match entry.stream {
            LogStream::Job => 0,
            LogStream::Stdout => 1,
            LogStream::Stderr => 2,
        };
        if let Some(count) = counts.get_mut(at) {
            *count += 1;
        }
        row.time_min_ns = row.time_min_ns.min(entry.time_ns);
        row.time_max_ns = row.time_max_ns.max(entry.time_ns);
        row.data_bytes += entry.data.len() as u64;
    }
    row.records = counts.to_vec();
    if kind == OutputKind::Log {
        row.filter = TextFilter::of(records).into_bytes();
        row.edges = edges::to_rows(&edges::edges_of(records));
    }
    Some(row)
}

/// The head's row again, from the parts of a block alone, with the block's records.
pub fn rebuild_head(
    job: JobId,
    kind: OutputKind,
    first: u64,
    parts: &[impl AsRef<[u8]>],
) -> Result<(Vec<u8>, Vec<OutputRecord>), Refusal> {
    let joined: Bytes = parts.iter().flat_map(|part| part.as_ref()).copied().collect();
    let what = || damaged(block_name(job, kind, first));
    let (front, body) = open_parts(&joined).ok_or_else(what)?;
    let records = codec::decode(kind, first, &body, Window::ALL)?;
    if records.first().map(|record| record.ordinal) != Some(first) {
        return Err(what());
    }
    let row = head_row(kind, &records, &front, parts).ok_or_else(what)?;
    Ok((row.encode_to_vec(), records))
}

fn block_name(job: JobId, kind: OutputKind, first: u64) -> String {
    format!("block {first} of {} of job {job}", kind.name())
}

fn open_parts(joined: &[u8]) -> Option<(Front, Bytes)> {
    let mut rest = joined;
    let front = Front::decode_length_delimited(&mut rest).ok()?;
    let body = unpack(rest, front.body_bytes)?;
    Some((front, body))
}

pub fn read_head(key: &[u8], value: &[u8]) -> Result<BlockHead, Refusal> {
    let place = Fields::of(Family::BlockHead, key).and_then(|mut fields| fields.block());
    let (job, kind, first) = place.ok_or_else(|| damaged("a BlockHead key"))?;
    let row: HeadRow = records::decode("block head", value)?;
    let mut counts = [0; 3];
    for (count, read) in counts.iter_mut().zip(&row.records) {
        *count = *read;
    }
    let parts = u16::try_from(row.parts).map_err(|_| damaged("a block's number of parts"))?;
    Ok(BlockHead {
        job,
        kind,
        first,
        last: row.last,
        time_min_ns: row.time_min_ns,
        time_max_ns: row.time_max_ns,
        records: counts,
        data_bytes: row.data_bytes,
        stored_bytes: row.packed_bytes.saturating_add((key.len() + value.len()) as u64),
        last_sequence: row.last_sequence,
        open_streams: u8::try_from(row.open_streams).unwrap_or(u8::MAX),
        filter: TextFilter::from_bytes(row.filter),
        edges: edges::from_rows(row.edges),
        body_bytes: row.body_bytes,
        parts,
    })
}

/// The block's records within the window. None: it is gone, or was replaced while it was read.
pub fn read_block(
    head: &BlockHead,
    window: Window,
    mut get: impl FnMut(&Key) -> Result<Option<fjall::UserValue>, Refusal>,
) -> Result<Option<Vec<OutputRecord>>, Refusal> {
    let mut joined = Vec::new();
    let mut only = None;
    for part in 0..head.parts {
        let Some(bytes) = get(&keys::block(head.job, head.kind, head.first, part))? else { return Ok(None) };
        if head.parts == 1 {
            only = Some(bytes);
        } else {
            joined.extend_from_slice(&bytes);
        }
    }
    let packed = only.as_deref().unwrap_or(&joined);
    let opened = open_parts(packed).filter(|(front, _)| front.body_bytes == head.body_bytes);
    let Some((_, body)) = opened else { return Err(damaged(block_name(head.job, head.kind, head.first))) };
    codec::decode(head.kind, head.first, &body, window).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NewOutput;

    fn record(ordinal: u64, stream: LogStream, data: &'static [u8]) -> OutputRecord {
        let time_ns = 7 + i64::try_from(ordinal % 3).unwrap();
        let data = Bytes::from_static(data);
        OutputRecord {
            ordinal,
            entry: NewOutput { kind: OutputKind::Log, stream, time_ns, sequence: ordinal, label: None, data },
        }
    }

    #[test]
    fn a_lost_head_comes_back_from_the_block_alone() {
        let job = JobId::from_bytes([1; 16]);
        let records: Vec<OutputRecord> = (0..300)
            .map(|n| {
                record(40 + n * 2, if n % 2 == 0 { LogStream::Stdout } else { LogStream::Stderr }, b"a line of it\n")
            })
            .collect();
        let rows = build(job, OutputKind::Log, &records, None, 2, 1).unwrap();
        let parts: Vec<&[u8]> = rows[1..].iter().map(|(_, value)| value.as_slice()).collect();
        let (head, read) = rebuild_head(job, OutputKind::Log, 40, &parts).unwrap();
        assert_eq!(head, rows[0].1);
        assert_eq!(read, records);
        let head = read_head(&rows[0].0.bytes, &head).unwrap();
        assert_eq!((head.last, head.count(), head.open_streams), (638, 300, 2));
        assert_eq!((head.time_min_ns, head.time_max_ns), (7, 9));
        assert!(rebuild_head(job, OutputKind::Log, 40, &[&parts[0][..parts[0].len() - 1]]).is_err());
    }

    #[test]
    fn a_stream_is_open_until_its_line_ends() {
        let behind = |open, stream, data| open_behind(open, &record(0, stream, data));
        assert_eq!(behind(0, LogStream::Stdout, b"half"), 1);
        assert_eq!(behind(1, LogStream::Stderr, b"whole\n"), 1);
        assert_eq!(behind(1, LogStream::Stdout, b""), 1);
        assert_eq!(behind(3, LogStream::Stdout, b"end\n"), 2);
        assert_eq!(behind(2, LogStream::Job, b""), 2);
    }
}
