//! Sealed blocks: records of one job and kind, compressed, with a head that says what they hold.
//!
//! Owns: both rows, building and reading them. Must not know: when to seal.

use bytes::Bytes;
use prost::Message;

use super::batch::unpack;
use super::edges::{self, Edges};
use super::{PART_BYTES, TextFilter, codec};
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
    #[prost(message, repeated, tag = "11")]
    edges: Vec<edges::EdgeRow>,
}

/// What a block is written as.
pub type BlockRows = Vec<(Key, Vec<u8>)>;

/// Head and rows of a block. `records` are not empty and in order.
pub fn build(
    job: JobId,
    kind: OutputKind,
    records: &[OutputRecord],
    level: i32,
) -> Result<(BlockHead, BlockRows), Refusal> {
    let (Some(first), Some(last)) = (records.first(), records.last()) else {
        return Err(damaged("an empty block"));
    };
    let base = first.ordinal;
    let body = codec::encode(records.iter().map(|record| (record.ordinal - base, &record.entry)));
    let packed = zstd::bulk::compress(&body, level).map_err(|error| damaged(format!("a block ({error})")))?;
    let mut counts = [0u64; 3];
    for record in records {
        let at = match record.entry.stream {
            LogStream::Job => 0,
            LogStream::Stdout => 1,
            LogStream::Stderr => 2,
        };
        if let Some(count) = counts.get_mut(at) {
            *count += 1;
        }
    }
    let filter = if kind == OutputKind::Log { TextFilter::of(records) } else { TextFilter::default() };
    let times = || records.iter().map(|record| record.entry.time_ns);
    let row = HeadRow {
        last: last.ordinal,
        time_min_ns: times().min().unwrap_or(0),
        time_max_ns: times().max().unwrap_or(0),
        records: counts.to_vec(),
        data_bytes: records.iter().map(|record| record.entry.data.len() as u64).sum(),
        packed_bytes: packed.len() as u64,
        last_sequence: last.entry.sequence,
        filter: filter.as_bytes().to_vec(),
        body_bytes: body.len() as u64,
        parts: u32::try_from(packed.len().div_ceil(PART_BYTES)).unwrap_or(u32::MAX),
        edges: if kind == OutputKind::Log { edges::to_rows(&edges::edges_of(records)) } else { Vec::new() },
    };
    let key = keys::block_head(job, kind, base);
    let head = read_head(&key.bytes, &row.encode_to_vec())?;
    let mut rows = vec![(key, row.encode_to_vec())];
    for (part, bytes) in packed.chunks(PART_BYTES).enumerate() {
        rows.push((keys::block(job, kind, base, u16::try_from(part).unwrap_or(u16::MAX)), bytes.to_vec()));
    }
    Ok((head, rows))
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
        stored_bytes: row.packed_bytes + (key.len() + value.len()) as u64,
        last_sequence: row.last_sequence,
        filter: TextFilter::from_bytes(row.filter),
        edges: edges::from_rows(row.edges),
        body_bytes: row.body_bytes,
        parts,
    })
}

/// The block's records. None: it is gone, or was replaced while it was read.
pub fn read_block(
    head: &BlockHead,
    mut get: impl FnMut(&Key) -> Result<Option<Bytes>, Refusal>,
) -> Result<Option<Vec<OutputRecord>>, Refusal> {
    let mut packed = Bytes::new();
    for part in 0..head.parts {
        let Some(bytes) = get(&keys::block(head.job, head.kind, head.first, part))? else { return Ok(None) };
        packed = if part == 0 { bytes } else { [packed, bytes].concat().into() };
    }
    let bytes = usize::try_from(head.body_bytes).map_err(|_| damaged("a block's size"))?;
    let Some(body) = unpack(&packed, bytes) else {
        return Err(damaged(format!("block {} of {} of job {}", head.first, head.kind.name(), head.job)));
    };
    codec::decode(head.kind, head.first, &body).map(Some)
}
