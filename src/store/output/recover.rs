//! At start: what the batch rows hold and no block does becomes the tails again.
//!
//! Owns: telling sealed from unsealed records after a crash. Must not know: how the process ended.

use std::collections::HashMap;

use super::batch::read_batches;
use super::{Tails, block, tails::Chunk};
use crate::model::{JobId, OutputKind, Refusal};
use crate::store::keys::{self, Family, Space};
use crate::store::records::{self, JobRow};
use crate::store::spaces::Spaces;

/// Fills `tails`. A block is committed with the deletion of its batches, but a batch lives as long as any job needs it: so what is in a
/// block already is left out. Of a job that is gone nothing is kept.
pub fn recover(spaces: &Spaces, tails: &Tails) -> Result<(), Refusal> {
    let mut sealed: HashMap<(JobId, OutputKind), u64> = HashMap::new();
    let rows = spaces.range(Space::Output, &[Family::Batch as u8], &keys::end_of(Family::Batch));
    read_batches(rows, |_, found| {
        let mut committed = found?.unpack(|job, kind, chunk| {
            let end = match sealed.get(&(job, kind)) {
                Some(end) => *end,
                None => {
                    let row = spaces.get(&keys::job(job))?;
                    let row = row.map(|row| records::decode::<JobRow>("job", &row)).transpose()?;
                    // What was deleted does not come back with a batch that another job still needs.
                    let end = match row {
                        Some(row) => sealed_end(spaces, job, kind)?.max(row.kept_from(kind)),
                        None => u64::MAX,
                    };
                    sealed.insert((job, kind), end);
                    end
                }
            };
            Ok(chunk.end() > end)
        })?;
        let mut chunks = Vec::with_capacity(committed.chunks.len());
        for (job, kind, chunk) in committed.chunks {
            let end = sealed.get(&(job, kind)).copied().unwrap_or(0);
            chunks.extend(open_part(kind, chunk, end)?.map(|chunk| (job, kind, chunk)));
        }
        committed.chunks = chunks;
        tails.add(committed);
        Ok(())
    })
}

/// Behind the last record that is in a block.
pub fn sealed_end(spaces: &Spaces, job: JobId, kind: OutputKind) -> Result<u64, Refusal> {
    let (from, until) = (keys::block_head(job, kind, 0), keys::block_head(job, kind, u64::MAX));
    let last = spaces.range(Space::Output, &from.bytes, &until.bytes).next_back();
    last.map_or(Ok(0), |row| row.and_then(|(key, value)| Ok(block::read_head(&key, &value)?.last.saturating_add(1))))
}

/// The part of a chunk that is not in a block.
fn open_part(kind: OutputKind, chunk: Chunk, end: u64) -> Result<Option<Chunk>, Refusal> {
    if chunk.first >= end {
        return Ok(Some(chunk));
    }
    let records = chunk.records(kind)?;
    let open = records.iter().position(|record| record.ordinal >= end).and_then(|at| records.get(at..));
    Ok(open.and_then(|open| Chunk::of(chunk.batch, open)))
}
