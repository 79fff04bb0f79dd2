//! At start: what the batch rows hold and no block does becomes the tails again.
//!
//! Owns: telling sealed from unsealed records after a crash. Must not know: how the process ended.

use std::collections::HashMap;

use super::batch::{Committed, read_batches};
use super::{Tails, block, codec, tails::Chunk};
use crate::model::{JobId, OutputKind, Refusal};
use crate::store::keys::{self, Family, Fields, Space};
use crate::store::records::{self, JobRow, damaged};
use crate::store::spaces::Spaces;

/// Fills `tails`. A block is committed with the deletion of its batches, but a batch lives as long as any job needs it: so what is in a
/// block already is left out.
pub fn recover(spaces: &Spaces, tails: &Tails) -> Result<(), Refusal> {
    let mut sealed: HashMap<(JobId, OutputKind), u64> = HashMap::new();
    let rows = spaces.range(Space::Output, &[Family::Batch as u8], &keys::end_of(Family::Batch)).map(|row| {
        let (key, value) = row?;
        let batch = Fields::of(Family::Batch, &key).and_then(|mut fields| fields.u64());
        Ok((batch.ok_or_else(|| damaged("a Batch key"))?, value.to_vec()))
    });
    read_batches(rows, |batch, row| {
        let Committed { chunks, .. } = row.unpack(batch)?;
        let mut open = Vec::new();
        for (job, kind, chunk) in chunks {
            let end = match sealed.get(&(job, kind)) {
                Some(end) => *end,
                None => {
                    let end = sealed_end(spaces, job, kind)?;
                    sealed.insert((job, kind), end);
                    end
                }
            };
            if chunk.first >= end {
                open.push((job, kind, chunk));
            } else if chunk.end() > end {
                open.extend(rest(kind, &chunk, end)?.map(|chunk| (job, kind, chunk)));
            }
        }
        tails.add(Committed { batch, chunks: open });
        Ok(())
    })
}

/// Behind the last record that is in a block or was deleted.
fn sealed_end(spaces: &Spaces, job: JobId, kind: OutputKind) -> Result<u64, Refusal> {
    let Some(row) = spaces.get(&keys::job(job))? else { return Ok(u64::MAX) };
    let deleted = records::decode::<JobRow>("job", &row)?.kept_from(kind);
    let (from, until) = (keys::block_head(job, kind, 0), keys::block_head(job, kind, u64::MAX));
    let last = spaces.range(Space::Output, &from.bytes, &until.bytes).next_back();
    let sealed = last.map_or(Ok(0), |row| row.and_then(|(key, value)| Ok(block::read_head(&key, &value)?.last + 1)))?;
    Ok(sealed.max(deleted))
}

/// The part of a chunk that is not in a block.
fn rest(kind: OutputKind, chunk: &Chunk, end: u64) -> Result<Option<Chunk>, Refusal> {
    let records: Vec<_> = chunk.records(kind)?.into_iter().filter(|record| record.ordinal >= end).collect();
    let Some(first) = records.first().map(|record| record.ordinal) else { return Ok(None) };
    let body = codec::encode(records.iter().map(|record| (record.ordinal - first, &record.entry)));
    Ok(Some(Chunk { batch: chunk.batch, first, count: records.len() as u64, body: body.into() }))
}
