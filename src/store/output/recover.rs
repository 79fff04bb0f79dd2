//! At start: what the batch rows hold and no block does becomes the tails again; what they hold and no job's row counts is counted.
//!
//! Owns: telling sealed from unsealed records, and counted from uncounted ones, after a crash. Must not know: how the process ended.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::batch::read_batches;
use super::counts::Counts;
use super::{Chunk, Tails, block};
use crate::model::{JobId, OutputKind, Refusal};
use crate::store::keys::{self, Family, Space};
use crate::store::records::{self, JobRow};
use crate::store::spaces::Spaces;

/// A job of which there are batches.
struct Known {
    row: JobRow,
    counts: Counts,
    /// By kind: behind the last record that is in a block or was deleted.
    sealed: HashMap<OutputKind, u64>,
}

/// Fills `tails`. A block is committed with the deletion of its batches, but a batch lives as long as any job needs it: so what is in a
/// block already is left out. Of a job that is gone nothing is kept.
pub fn recover(spaces: &Spaces, tails: &Tails) -> Result<(), Refusal> {
    let mut jobs: HashMap<JobId, Option<Known>> = HashMap::new();
    let rows = spaces.range(Space::Output, &[Family::Batch as u8], &keys::end_of(Family::Batch));
    read_batches(rows, |_, found| {
        let mut committed = found?.unpack(|piece| {
            let known = match jobs.entry(piece.job) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => place.insert(read_job(spaces, piece.job)?),
            };
            let Some(known) = known else { return Ok(false) };
            if piece.chunk.end() > known.counts.end(piece.kind) {
                known.counts.add(piece.kind, piece.chunk.end(), piece.data_bytes, piece.now_ms);
            }
            Ok(piece.chunk.end() > known.sealed_end(spaces, piece.job, piece.kind)?)
        })?;
        let mut chunks = Vec::with_capacity(committed.chunks.len());
        for (job, kind, chunk) in committed.chunks {
            let known = jobs.get(&job).and_then(Option::as_ref);
            let end = known.and_then(|known| known.sealed.get(&kind)).copied().unwrap_or(0);
            chunks.extend(open_part(kind, chunk, end)?.map(|chunk| (job, kind, chunk)));
        }
        committed.chunks = chunks;
        tails.add(committed);
        Ok(())
    })?;
    let behind = jobs.into_iter().filter_map(|(job, known)| {
        let Known { row, counts, .. } = known?;
        (!row.leaving && counts != Counts::of(&row)).then_some((job, Some(counts)))
    });
    tails.counts.take_over(behind);
    Ok(())
}

fn read_job(spaces: &Spaces, job: JobId) -> Result<Option<Known>, Refusal> {
    let row = spaces.get(&keys::job(job))?;
    let row = row.map(|row| records::decode::<JobRow>("job", &row)).transpose()?;
    Ok(row.map(|row| Known { counts: Counts::of(&row), row, sealed: HashMap::new() }))
}

impl Known {
    fn sealed_end(&mut self, spaces: &Spaces, job: JobId, kind: OutputKind) -> Result<u64, Refusal> {
        if let Some(end) = self.sealed.get(&kind) {
            return Ok(*end);
        }
        // What was deleted does not come back with a batch that another job still needs.
        let end = sealed_end(spaces, job, kind)?.max(self.row.kept_from(kind));
        self.sealed.insert(kind, end);
        Ok(end)
    }
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
