//! One commit's output of all jobs as one row: grouped, encoded and compressed before the committer sees it.
//!
//! Owns: the batch row. Must not know: who appends, ordinals before the commit gives them.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;

use super::{codec, tails::Chunk};
use crate::model::{JobId, NewOutput, OutputKind, OutputShare, Refusal};
use crate::store::records::{self, damaged};

/// Fast: the row lives for seconds.
const LEVEL: i32 = 1;

/// One job's records of one kind.
pub struct Piece {
    pub job: JobId,
    pub kind: OutputKind,
    pub count: u64,
    /// Bytes of the records' data.
    pub data_bytes: u64,
    /// Encoded, not compressed: what the tail keeps.
    pub body: Bytes,
}

/// Appends of many jobs, ready to be committed as one row.
pub struct OutputBatch {
    pub(in crate::store) pieces: Vec<Piece>,
    pub(in crate::store) packed: Vec<u8>,
    pub(in crate::store) now_ms: i64,
}

impl OutputBatch {
    /// Compresses: not for a thread that others wait for. `now_ms`: when the output came. Pieces stand in the order of `shares`, each share's kinds in
    /// the order of their first record.
    pub fn new(shares: &[OutputShare], now_ms: i64) -> Self {
        let mut pieces: Vec<Piece> = Vec::with_capacity(shares.len());
        for share in shares {
            let mut kinds: Vec<OutputKind> = Vec::new();
            for record in &share.records {
                if !kinds.contains(&record.kind) {
                    kinds.push(record.kind);
                }
            }
            pieces.extend(kinds.into_iter().map(|kind| piece(share, kind)));
        }
        let mut joined = Vec::with_capacity(pieces.iter().map(|piece| piece.body.len()).sum());
        for piece in &pieces {
            joined.extend_from_slice(&piece.body);
        }
        let packed = zstd::bulk::compress(&joined, LEVEL).unwrap_or_default();
        Self { pieces, packed, now_ms }
    }

    /// About what the verb writes.
    pub fn bytes(&self) -> usize {
        self.packed.len() + 300 * self.pieces.len()
    }
}

fn piece(share: &OutputShare, kind: OutputKind) -> Piece {
    let of_kind = || share.records.iter().filter(|record| record.kind == kind);
    let numbered = of_kind().enumerate().map(|(at, record): (usize, &NewOutput)| (at as u64, record));
    Piece {
        job: share.job,
        kind,
        count: of_kind().count() as u64,
        data_bytes: of_kind().map(|record| record.data.len() as u64).sum(),
        body: codec::encode(numbered).into(),
    }
}

/// A batch as it stands in the database.
#[derive(Clone, PartialEq, Message)]
pub struct BatchRow {
    #[prost(message, repeated, tag = "1")]
    pub pieces: Vec<PieceRow>,
    #[prost(bytes = "vec", tag = "2")]
    pub packed: Vec<u8>,
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
    /// The job was gone when the batch was committed: these records are nobody's.
    #[prost(bool, tag = "6")]
    pub void: bool,
}

/// A batch after its commit: what the tails take over.
pub struct Committed {
    pub batch: u64,
    pub chunks: Vec<(JobId, OutputKind, Chunk)>,
}

impl BatchRow {
    /// What the row holds, for a start after a crash.
    pub fn unpack(&self, batch: u64) -> Result<Committed, Refusal> {
        let what = || damaged(format!("output batch {batch}"));
        let total =
            self.pieces.iter().try_fold(0u64, |sum, piece| sum.checked_add(piece.body_bytes)).ok_or_else(what)?;
        let joined = unpack(&self.packed, usize::try_from(total).map_err(|_| what())?).ok_or_else(what)?;
        let (mut at, mut chunks) = (0, Vec::new());
        for piece in &self.pieces {
            let end = at + usize::try_from(piece.body_bytes).map_err(|_| what())?;
            let body = joined.slice(at..end);
            at = end;
            if piece.void {
                continue;
            }
            let job = piece.job.as_slice().try_into().map(JobId::from_bytes).map_err(|_| what())?;
            let kind = u8::try_from(piece.kind).ok().and_then(OutputKind::from_number).ok_or_else(what)?;
            chunks.push((job, kind, Chunk { batch, first: piece.first, count: piece.count, body }));
        }
        Ok(Committed { batch, chunks })
    }
}

/// Exactly `bytes` bytes, or None.
pub fn unpack(packed: &[u8], bytes: usize) -> Option<Bytes> {
    let unpacked = zstd::bulk::decompress(packed, bytes).ok()?;
    (unpacked.len() == bytes).then(|| unpacked.into())
}

/// Reads the parts of all batches together, in order; `each` gets each whole row.
pub fn read_batches(
    rows: impl Iterator<Item = Result<(u64, Vec<u8>), Refusal>>,
    mut each: impl FnMut(u64, BatchRow) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let mut open: Option<(u64, Vec<u8>)> = None;
    for row in rows {
        let (batch, part) = row?;
        match &mut open {
            Some((known, bytes)) if *known == batch => bytes.extend_from_slice(&part),
            _ => {
                if let Some((known, bytes)) = open.replace((batch, part)) {
                    each(known, records::decode("output batch", &bytes)?)?;
                }
            }
        }
    }
    open.map_or(Ok(()), |(known, bytes)| each(known, records::decode("output batch", &bytes)?))
}

/// How many chunks of each batch there are.
pub fn count_by_batch<'a>(chunks: impl Iterator<Item = &'a Chunk>) -> HashMap<u64, usize> {
    let mut counts = HashMap::new();
    for chunk in chunks {
        *counts.entry(chunk.batch).or_default() += 1;
    }
    counts
}
