//! The sealer: turns tails into blocks, a few at a time, and lets go of batch rows that nothing needs any more.
//!
//! Owns: its thread's turn, merging with a small last block. Must not know: who appends, what is in the records.

use std::sync::Arc;
use std::time::Duration;

use super::committer::{Committer, Request};
use super::keys::{self, Family, Key, Space};
use super::output::{BlockHead, Due, Tails, build_block, read_block, read_head, recompute_rollups};
use super::published::Published;
use super::spaces::Spaces;
use super::tx::Tx;
use super::records::{self, JobRow};
use crate::model::{JobId, OutputKind, OutputRecord, Refusal, RefusalCode};

/// One tick of waiting.
const TICK: Duration = Duration::from_secs(1);
/// Records sealed in one commit: some tens of milliseconds of compression, and a group that others wait for only shortly.
const ROUND_BYTES: usize = 4 << 20;

pub struct Sealer {
    pub spaces: Spaces,
    pub committer: Arc<Committer>,
    pub published: Arc<Published>,
    pub tails: Arc<Tails>,
}

/// One block to be committed.
struct Sealed {
    job: JobId,
    rows: Vec<(Key, Vec<u8>)>,
    /// Of the block it replaces, beyond those it writes anew.
    gone: Vec<Key>,
}

impl Sealer {
    /// One turn: waits for work, at most a second, and does it. `all`: seals whatever is there without waiting.
    pub fn turn(&self, all: bool) -> bool {
        let due = self.tails.due(TICK, all, ROUND_BYTES);
        if due.is_empty() && self.tails.spent_with(&[]).is_empty() {
            return false;
        }
        if let Err(refusal) = self.seal(&due) {
            if refusal.code == RefusalCode::Stale {
                tracing::debug!(%refusal, "sealing again");
            } else if self.published.fault().is_none() {
                // Nothing is lost: the batches stay. Trying at once again would only spin.
                tracing::error!(%refusal, "output could not be sealed");
            }
            self.tails.rest(TICK);
        }
        true
    }

    fn seal(&self, due: &[Due]) -> Result<(), Refusal> {
        let mut sealed = Vec::with_capacity(due.len());
        let mut kept = Vec::with_capacity(due.len());
        for due in due {
            let from = self.kept_from(due)?;
            kept.push((due.job, due.kind, from));
            sealed.extend(self.build(due, from)?);
        }
        let spent = self.tails.spent_with(due);
        let batches = self.batch_keys(&spent)?;
        let jobs: Vec<JobId> = due.iter().map(|due| due.job).collect();
        let metrics = due.iter().filter(|due| due.kind == OutputKind::Metric);
        let rollups = recompute_rollups(&self.spaces, metrics)?;
        let bytes = sealed.iter().flat_map(|block| &block.rows).map(|(_, value)| value.len()).sum();
        let (tell, told) = std::sync::mpsc::channel();
        let change = move |tx: &mut Tx<'_>| {
            for (job, kind, from) in kept {
                if tx.job(job)?.is_some_and(|row| row.kept_from(kind) != from) {
                    // Else a block read before the deletion would bring its records back.
                    return Err(Refusal::new(RefusalCode::Stale, format!("output of job {job} was deleted meanwhile")));
                }
            }
            for block in sealed {
                // A job deleted meanwhile takes its output with it.
                if tx.get(&keys::job(block.job))?.is_none() {
                    continue;
                }
                for key in block.gone {
                    tx.delete(key);
                }
                for (key, value) in block.rows {
                    tx.put(key, value);
                }
            }
            for (job, key, value) in rollups {
                if tx.get(&keys::job(job))?.is_some() {
                    tx.put(key, value);
                }
            }
            for key in batches {
                tx.delete(key);
            }
            // Readers between block and tail look again.
            tx.touched.extend(jobs);
            Ok(())
        };
        let done = move |result: Result<(), Refusal>| drop(tell.send(result));
        self.committer.submit(Box::new(Request { change: Some(change), result: None, done }), bytes, false);
        let stopped = || Refusal::new(RefusalCode::Unavailable, "the store has stopped");
        told.recv().unwrap_or_else(|_| Err(stopped()))?;
        self.tails.sealed(due);
        self.tails.forget_batches(&spent);
        Ok(())
    }

    /// The oldest ordinal kept; that of a job that is gone does not matter.
    fn kept_from(&self, due: &Due) -> Result<u64, Refusal> {
        let row = self.spaces.get(&keys::job(due.job))?;
        row.map_or(Ok(0), |row| Ok(records::decode::<JobRow>("job", &row)?.kept_from(due.kind)))
    }

    /// None: everything of it was deleted.
    fn build(&self, due: &Due, from: u64) -> Result<Option<Sealed>, Refusal> {
        let mut records: Vec<OutputRecord> = Vec::new();
        for chunk in &due.chunks {
            records.extend(chunk.records(due.kind)?.into_iter().filter(|record| record.ordinal >= from));
        }
        if records.is_empty() {
            return Ok(None);
        }
        let mut gone = Vec::new();
        if let Some(first) = records.first().map(|record| record.ordinal)
            && let Some(last) = self.last_block(due.job, due.kind, first)?
            && last.data_bytes < (self.tails.options.block_bytes / 2) as u64
            && let Some(mut merged) = read_block(&last, |key| Ok(self.spaces.get(key)?.map(|v| v.to_vec().into())))?
        {
            gone.extend((0..last.parts).map(|part| keys::block(due.job, due.kind, last.first, part)));
            merged.append(&mut records);
            records = merged;
        }
        let (_, rows) = build_block(due.job, due.kind, &records, self.tails.options.compression_level)?;
        Ok(Some(Sealed { job: due.job, rows, gone }))
    }

    fn last_block(&self, job: JobId, kind: OutputKind, before: u64) -> Result<Option<BlockHead>, Refusal> {
        let (from, until) = (keys::block_head(job, kind, 0), keys::block_head(job, kind, before));
        let last = self.spaces.range(Space::Output, &from.bytes, &until.bytes).next_back();
        last.map(|row| row.and_then(|(key, value)| read_head(&key, &value))).transpose()
    }

    /// Every part of these batch rows.
    fn batch_keys(&self, batches: &[u64]) -> Result<Vec<Key>, Refusal> {
        let mut found = Vec::new();
        for batch in batches {
            let (from, until) = (keys::batch(*batch, 0), keys::batch(batch + 1, 0));
            for row in self.spaces.range(Space::Output, &from.bytes, &until.bytes) {
                found.push(Key { space: Space::Output, bytes: row?.0.to_vec() });
            }
        }
        debug_assert!(found.iter().all(|key| key.bytes.first() == Some(&(Family::Batch as u8))));
        Ok(found)
    }
}
