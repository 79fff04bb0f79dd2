//! Some records of one job and kind, as they came in one batch.
//!
//! Owns: their ordinals, and what they cost in memory. Must not know: where they are kept.

use bytes::Bytes;

use super::codec::{self, Window};
use crate::model::{OutputKind, OutputRecord, Refusal};

/// Records of one job and kind from one batch; their ordinals follow each other.
#[derive(Debug, Clone)]
pub struct Chunk {
    pub batch: u64,
    pub first: u64,
    pub count: u64,
    pub body: Bytes,
}

/// What a chunk costs besides its bytes, on average: 56 in a queue that grows by doubling.
pub const CHUNK_OVERHEAD_BYTES: usize = 80;

impl Chunk {
    pub fn weight(&self) -> usize {
        CHUNK_OVERHEAD_BYTES + self.body.len()
    }

    /// Behind its last ordinal.
    pub fn end(&self) -> u64 {
        self.first + self.count
    }

    /// Of records that stand in a batch already; their ordinals follow each other.
    pub fn of(batch: u64, records: &[OutputRecord]) -> Option<Self> {
        let first = records.first()?.ordinal;
        let body = codec::encode(records.iter().map(|record| (record.ordinal - first, &record.entry)));
        Some(Self { batch, first, count: records.len() as u64, body: body.into() })
    }

    pub fn records(&self, kind: OutputKind) -> Result<Vec<OutputRecord>, Refusal> {
        self.records_in(kind, Window::ALL)
    }

    pub fn records_in(&self, kind: OutputKind, window: Window) -> Result<Vec<OutputRecord>, Refusal> {
        codec::decode(kind, self.first, &self.body, window)
    }
}
