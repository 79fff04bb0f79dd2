//! One commit's output of all jobs as one batch: grouped, encoded and compressed before the committer sees it.
//!
//! Owns: the batch's rows: part 0 says whose records follow, the parts behind it are the records, compressed. Must not know: who
//! appends, ordinals before the commit gives them.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use fjall::UserValue;
use prost::Message;

use super::chunk::Chunk;
use super::codec::{Encoder, encoded_bytes};
use super::pack::{pack, unpack};
use super::slab::SLAB_BYTES;
use crate::model::{JobId, NewOutput, OutputKind, OutputShare, Refusal};
use crate::priority::give_way;
use crate::store::keys::{self, Family, Fields};
use crate::store::records::{self, damaged};

/// Fast: the rows live for seconds.
const LEVEL: i32 = 1;

/// One job's records of one kind.
pub struct Piece {
    pub job: JobId,
    pub kind: OutputKind,
    /// The ordinal that the first record must get.
    pub expected: Option<u64>,
    pub count: u64,
    /// Bytes of the records' data.
    pub data_bytes: u64,
    /// Encoded, not compressed. One of less than a slab lies in the batch's buffer with others: the tails copy it to where the job's lie.
    pub body: Bytes,
}

/// Appends of many jobs, ready to be committed at once.
pub struct OutputBatch {
    pub(in crate::store) pieces: Vec<Piece>,
    /// An error refuses the append.
    pub(in crate::store) packed: Result<Vec<Vec<u8>>, Refusal>,
    pub(in crate::store) now_ms: i64,
}

impl OutputBatch {
    /// Compresses: not for a thread that others wait for. `now_ms`: when the output came. Pieces stand in the order of `shares`, each
    /// share's kinds in the order of their first record; a share without records has none.
    pub fn new(shares: &[OutputShare], now_ms: i64) -> Self {
        let mut encoder = Encoder::default();
        let mut pieces: Vec<Piece> = Vec::with_capacity(shares.len());
        let small = shares.iter().map(weight).filter(|bytes| *bytes < SLAB_BYTES);
        let mut shared = Vec::with_capacity(small.sum());
        // Places of small pieces, and where their bodies lie.
        let mut spans: Vec<(usize, Range<usize>)> = Vec::new();
        for share in shares {
            let mut kinds: Vec<OutputKind> = Vec::new();
            for record in &share.records {
                if kinds.last() != Some(&record.kind) && !kinds.contains(&record.kind) {
                    kinds.push(record.kind);
                }
            }
            let is_small = weight(share) < SLAB_BYTES;
            for kind in kinds {
                let mut own = Vec::new();
                let from = shared.len();
                encoder.encode(numbered(share, kind), if is_small { &mut shared } else { &mut own });
                if shared.len() - from >= SLAB_BYTES {
                    // Larger than it looked: in the tails it would keep all of the buffer alive.
                    own = shared.split_off(from);
                }
                if shared.len() > from {
                    spans.push((pieces.len(), from..shared.len()));
                }
                give_way(own.len().max(shared.len() - from));
                pieces.push(piece(share, kind, own.into()));
            }
        }
        let shared = Bytes::from(shared);
        for (place, span) in spans {
            if let Some(piece) = pieces.get_mut(place) {
                piece.body = shared.slice(span);
            }
        }
        let packed = pack(Vec::new(), pieces.iter().map(|piece| &*piece.body), LEVEL);
        Self { pieces, packed, now_ms }
    }

    /// About what the verb writes.
    pub fn bytes(&self) -> usize {
        let packed = self.packed.as_ref().map_or(0, |parts| parts.iter().map(Vec::len).sum());
        packed + 300 * self.pieces.len()
    }
}

fn piece(share: &OutputShare, kind: OutputKind, body: Bytes) -> Piece {
    let of_kind = || share.records.iter().filter(|record| record.kind == kind);
    Piece {
        job: share.job,
        kind,
        expected: share.expected,
        count: of_kind().count() as u64,
        data_bytes: of_kind().map(|record| record.data.len() as u64).sum(),
        body,
    }
}

fn weight(share: &OutputShare) -> usize {
    share.records.iter().map(encoded_bytes).sum()
}

fn numbered(share: &OutputShare, kind: OutputKind) -> impl Iterator<Item = (u64, &NewOutput)> + Clone {
    let of_kind = share.records.iter().filter(move |record| record.kind == kind);
    of_kind.enumerate().map(|(at, record)| (at as u64, record))
}

/// Part 0: whose records the batch holds.
#[derive(Clone, PartialEq, Message)]
pub struct BatchRow {
    #[prost(message, repeated, tag = "1")]
    pub pieces: Vec<PieceRow>,
    /// Rows behind this one.
    #[prost(uint32, tag = "3")]
    pub parts: u32,
    /// When the output came.
    #[prost(int64, tag = "4")]
    pub now_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct PieceRow {
    #[prost(bytes = "vec", tag = "1")]
    pub job: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub kind: u32,
    #[prost(uint64, tag = "3")]
    pub first: u64,
    #[prost(uint64, tag = "4")]
    pub count: u64,
    #[prost(uint64, tag = "5")]
    pub body_bytes: u64,
    /// When the batch was committed, the job was gone, or had other records than expected: these are nobody's.
    #[prost(bool, tag = "6")]
    pub void: bool,
    /// Bytes of the records' data.
    #[prost(uint64, tag = "7")]
    pub data_bytes: u64,
}

/// A batch after its commit: what the tails take over.
pub struct Committed {
    pub batch: u64,
    /// Rows of it, all parts together.
    pub rows: u16,
    pub chunks: Vec<(JobId, OutputKind, Chunk)>,
}

/// One job's records of one kind in a batch that was found.
pub struct FoundPiece<'a> {
    pub job: JobId,
    pub kind: OutputKind,
    pub chunk: &'a Chunk,
    pub data_bytes: u64,
    /// When they came.
    pub now_ms: i64,
}

/// A batch as it was found in the database.
pub struct Found {
    batch: u64,
    row: BatchRow,
    rows: u16,
    packed: Vec<u8>,
}

impl Found {
    /// What it holds, for a start after a crash. `keep` is asked for each piece before its bytes are copied: a chunk that is still needed
    /// does not keep the whole batch in memory.
    pub fn unpack(&self, mut keep: impl FnMut(FoundPiece<'_>) -> Result<bool, Refusal>) -> Result<Committed, Refusal> {
        let what = || damaged(format!("output batch {}", self.batch));
        if u32::from(self.rows) != self.row.parts + 1 {
            return Err(damaged(format!("output batch {} ({} of its rows)", self.batch, self.rows)));
        }
        let sum = |sum: u64, piece: &PieceRow| sum.checked_add(piece.body_bytes);
        let total = self.row.pieces.iter().try_fold(0, sum).ok_or_else(what)?;
        let joined = unpack(&self.packed, total).ok_or_else(what)?;
        let (mut at, mut chunks) = (0, Vec::new());
        for piece in &self.row.pieces {
            let end = at + usize::try_from(piece.body_bytes).map_err(|_| what())?;
            let body = joined.slice(at..end);
            at = end;
            if piece.void {
                continue;
            }
            let job = piece.job.as_slice().try_into().map(JobId::from_bytes).map_err(|_| what())?;
            let kind = u8::try_from(piece.kind).ok().and_then(OutputKind::from_number).ok_or_else(what)?;
            let mut chunk = Chunk { batch: self.batch, first: piece.first, count: piece.count, body };
            let (data_bytes, now_ms) = (piece.data_bytes, self.row.now_ms);
            if keep(FoundPiece { job, kind, chunk: &chunk, data_bytes, now_ms })? {
                chunk.body = Bytes::copy_from_slice(&chunk.body);
                chunks.push((job, kind, chunk));
            }
        }
        Ok(Committed { batch: self.batch, rows: self.rows, chunks })
    }
}

/// Joins the rows of batches, which come in order; `each` gets each batch.
pub fn read_batches<V: AsRef<[u8]>>(
    rows: impl Iterator<Item = Result<(V, UserValue), Refusal>>,
    mut each: impl FnMut(u64, Result<Found, Refusal>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let mut open: Option<Found> = None;
    for row in rows {
        let (key, value) = row?;
        let number = Fields::of(Family::Batch, key.as_ref()).and_then(|mut fields| fields.u64().zip(fields.u16()));
        let (batch, part) = number.ok_or_else(|| damaged("a Batch key"))?;
        match &mut open {
            Some(found) if found.batch == batch && found.rows == part => {
                found.packed.extend_from_slice(&value);
                found.rows += 1;
            }
            _ if part == 0 => match records::decode("output batch", &value) {
                Ok(row) => {
                    if let Some(found) = open.replace(Found { batch, row, rows: 1, packed: Vec::new() }) {
                        each(found.batch, Ok(found))?;
                    }
                }
                Err(refusal) => each(batch, Err(refusal))?,
            },
            _ => {
                each(batch, Err(damaged(format!("part {part} of output batch {batch}, which misses one before it,"))))?;
            }
        }
    }
    open.map_or(Ok(()), |found| each(found.batch, Ok(found)))
}

/// The keys of a batch's rows.
pub fn batch_keys(batch: u64, rows: u16) -> impl Iterator<Item = keys::Key> {
    (0..rows).map(move |part| keys::batch(batch, part))
}

/// How many chunks of each batch there are.
pub fn count_by_batch<'a>(chunks: impl Iterator<Item = &'a Chunk>) -> HashMap<u64, usize> {
    let mut counts = HashMap::new();
    for chunk in chunks {
        *counts.entry(chunk.batch).or_default() += 1;
    }
    counts
}
