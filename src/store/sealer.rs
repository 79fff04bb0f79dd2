//! The sealer: turns tails into blocks, a few at a time, and lets go of batch rows that nothing needs any more.
//!
//! Owns: its thread's turns, where blocks end, merging with a small last block. Must not know: who appends, what is in the records.
//!
//! A round reads, builds, commits, and then takes what it sealed out of the tails. Between the last two a record stands in a block *and* in a
//! tail: readers cut blocks at the tail they took first. A record never moves to a block of another key: a block only grows.

use std::sync::Arc;
use std::time::Duration;

use super::committer::{Committer, Request};
use super::compact::ReplacedTables;
use super::journal_room::JournalRoom;
use super::keys::{self, Key, Space};
use super::output::{
    BlockRows, Chunk, Done, Due, Tails, Window, batch_keys, build_block, encoded_bytes, open_behind, read_block,
    read_head, recompute_rollups,
};
use super::published::Published;
use super::spaces::Spaces;
use super::tx::Tx;
use crate::model::{JobId, OutputKind, OutputRecord, Refusal, RefusalCode};
use crate::priority::{give_way, stand_back};

/// How long one turn waits for work.
const TICK: Duration = Duration::from_secs(1);
/// Records sealed in one commit: some tens of milliseconds of compression, and a group that others wait for only shortly, 2 ms.
const ROUND_BYTES: usize = 2 << 20;
/// A last block that is this many times what follows is left as it is: so that a record is written anew a few times only, however
/// slowly its job goes on.
const MERGE_RATIO: u64 = 32;
/// zstd's level while more comes than can be packed at the level that is asked for.
const FAST_LEVEL: i32 = 1;
/// How far the sealer stands back where the cores are all busy: to a tenth of what a thread that answers gets, and never to nothing.
const NICE: i32 = 10;
/// After a failure, doubled with each further one: nothing is lost meanwhile, the batches stay.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

pub struct Sealer {
    pub spaces: Spaces,
    pub committer: Arc<Committer>,
    pub published: Arc<Published>,
    pub tails: Arc<Tails>,
    pub journals: JournalRoom,
    pub replaced: ReplacedTables,
}

/// Blocks of one job and kind to be committed.
struct Sealed {
    job: JobId,
    kind: OutputKind,
    /// Its first ordinal that is in no block yet.
    first: u64,
    blocks: Vec<BlockRows>,
    /// The head of the block that the first of them replaces, as it was read: when it has changed or gone meanwhile, this is built anew.
    replaced: Option<(Key, Vec<u8>)>,
    /// Parts of that block.
    gone: Vec<Key>,
}

impl Sealer {
    /// The thread: returns when the store closes. What is not sealed then is read back from its batches: closing does not wait for it.
    pub fn run(mut self) {
        stand_back(NICE);
        let (mut failures, mut tick) = (0, 0);
        while !self.tails.is_closing() {
            let now = self.tails.ticks();
            if now != tick {
                tick = now;
                self.journals.turn(&self.spaces, &self.published, &self.tails);
                if self.published.fault().is_none() {
                    self.replaced.turn(&self.spaces, self.published.free_bytes());
                }
            }
            let due = self.tails.due(TICK, ROUND_BYTES);
            if due.is_empty() && self.tails.spent_with(&[]).is_empty() {
                continue;
            }
            match self.seal(&due) {
                Ok(()) => failures = 0,
                // A block it was about to replace has changed: built anew at once.
                Err(refusal) if refusal.code == RefusalCode::Stale && failures == 0 => failures = 1,
                Err(refusal) => {
                    if self.published.fault().is_none() && !self.tails.is_closing() {
                        tracing::error!(%refusal, "output could not be sealed; it stays in its batches");
                    }
                    let wait = RETRY_AFTER.saturating_mul(1 << failures.min(6)).min(RETRY_AFTER_MAX);
                    failures += 1;
                    self.tails.rest(wait);
                }
            }
        }
    }

    fn seal(&self, due: &[Due]) -> Result<(), Refusal> {
        let (mut sealed, mut done) = (Vec::with_capacity(due.len()), Vec::with_capacity(due.len()));
        for due in due {
            match self.build(due) {
                Ok((blocks, chunks)) => {
                    sealed.push(blocks);
                    done.push(chunks);
                }
                Err(refusal) if refusal.code == RefusalCode::DataLoss => {
                    let kind = due.kind.name();
                    tracing::error!(%refusal, job = %due.job, kind, "output stays in its batches until the next start");
                    self.tails.set_aside(due.job, due.kind);
                }
                Err(refusal) => return Err(refusal),
            }
        }
        let spent = self.tails.spent_with(&done);
        let jobs: Vec<JobId> = done.iter().map(|done| done.job).collect();
        let metrics = due.iter().filter(|due| due.kind == OutputKind::Metric);
        let rollups = recompute_rollups(&self.spaces, metrics)?;
        let rows = sealed.iter().flat_map(|sealed| &sealed.blocks).flatten();
        let bytes = rows.map(|(_, value)| value.len()).sum();
        let batches: Vec<Key> = spent.iter().flat_map(|(batch, rows)| batch_keys(*batch, *rows)).collect();
        let (tell, told) = std::sync::mpsc::channel();
        let tails = Arc::clone(&self.tails);
        let change = move |tx: &mut Tx<'_>| {
            for sealed in sealed {
                put(tx, &tails, sealed)?;
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
        let answer = move |result: Result<(), Refusal>| drop(tell.send(result));
        self.committer.submit(Box::new(Request { change: Some(change), result: None, done: answer }), bytes, false);
        let stopped = || Refusal::new(RefusalCode::Unavailable, "the store has stopped");
        told.recv().unwrap_or_else(|_| Err(stopped()))?;
        self.tails.sealed(done);
        self.tails.forget_batches(&spent);
        Ok(())
    }

    fn build(&self, due: &Due) -> Result<(Sealed, Done), Refusal> {
        let mut fresh: Vec<OutputRecord> = Vec::new();
        for chunk in &due.chunks {
            fresh.extend(chunk.records(due.kind)?);
            give_way(chunk.body.len());
        }
        let Some(first) = fresh.first().map(|record| record.ordinal) else {
            return Err(super::records::damaged(format!("a piece of output of job {}", due.job)));
        };
        let mut sealed =
            Sealed { job: due.job, kind: due.kind, first, blocks: Vec::new(), replaced: None, gone: Vec::new() };
        let fresh_bytes = fresh.iter().map(|record| encoded_bytes(&record.entry)).sum::<usize>() as u64;
        let (before, open) = self.merged(due, first, fresh_bytes, &mut sealed)?;
        let merged = before.len();
        let records = if merged == 0 { fresh } else { before.into_iter().chain(fresh).collect() };
        let cuts = cuts(&records, merged, open, self.tails.options.block_bytes, due.whole);
        let mut from = 0;
        let wanted = self.tails.options.compression_level;
        // Sooner than appends wait for it.
        let level = if self.tails.is_behind() { wanted.min(FAST_LEVEL) } else { wanted };
        for (until, open) in &cuts {
            let part = records.get(from..*until).unwrap_or_default();
            // A chunk that becomes a block as it is.
            let body = match due.chunks.as_slice() {
                [only] if merged == 0 && part.len() == records.len() => Some(only.body.clone()),
                _ => None,
            };
            sealed.blocks.push(build_block(due.job, due.kind, part, body, *open, level)?);
            from = *until;
        }
        Ok((sealed, done(due, &records, merged, from)))
    }

    /// The records of the block just before `first` if it is small, and the streams that are open before what is built.
    fn merged(
        &self,
        due: &Due,
        first: u64,
        fresh_bytes: u64,
        sealed: &mut Sealed,
    ) -> Result<(Vec<OutputRecord>, u8), Refusal> {
        let (from, until) = (keys::block_head(due.job, due.kind, 0), keys::block_head(due.job, due.kind, first));
        let mut before = self.spaces.range(Space::Output, &from.bytes, &until.bytes).rev();
        let Some((key, value)) = before.next().transpose()? else { return Ok((Vec::new(), 0)) };
        let head = read_head(&key, &value)?;
        let small = (self.tails.options.block_bytes / 2) as u64;
        if head.data_bytes >= small || head.data_bytes > fresh_bytes.saturating_mul(MERGE_RATIO) {
            return Ok((Vec::new(), head.open_streams));
        }
        // A damaged one is left alone for `fetchbox check` to find; what follows gets a block of its own.
        let records = read_block(&head, Window::ALL, |key| self.spaces.get(key)).unwrap_or_else(|refusal| {
            tracing::warn!(%refusal, "a block is not merged with what follows it");
            None
        });
        let Some(records) = records else { return Ok((Vec::new(), head.open_streams)) };
        let open = match before.next().transpose()? {
            Some((key, value)) => read_head(&key, &value)?.open_streams,
            None => 0,
        };
        sealed.gone.extend((0..head.parts).map(|part| keys::block(head.job, head.kind, head.first, part)));
        sealed.replaced = Some((Key { space: Space::Output, bytes: key.to_vec() }, value.to_vec()));
        Ok((records, open))
    }
}

/// Where blocks end, behind the record of this index, each with the streams that are open there. The first one holds all that is
/// merged, and more; the last one may end before the records do. Blocks end where lines end, if one does in their second half, so that few lines stand in two of them.
fn cuts(records: &[OutputRecord], merged: usize, open: u8, block_bytes: usize, whole: bool) -> Vec<(usize, u8)> {
    let mut cuts = Vec::new();
    let (mut open, mut bytes) = (open, 0);
    // Behind the last record that ends all lines: its index, and bytes up to there.
    let mut closed: Option<(usize, usize)> = None;
    let mut from = 0;
    for (at, record) in records.iter().enumerate() {
        let size = encoded_bytes(&record.entry);
        // A record that would make the block much too large begins the next one.
        if at > from.max(merged) && bytes + size > 2 * block_bytes {
            cuts.push((at, open));
            (from, bytes, closed) = (at, 0, None);
        }
        open = open_behind(open, record);
        bytes += size;
        if at < merged {
            continue;
        }
        if open == 0 {
            closed = Some((at + 1, bytes));
        }
        if bytes >= block_bytes {
            match closed.filter(|(_, below)| *below >= block_bytes / 2) {
                Some((until, below)) => {
                    cuts.push((until, 0));
                    (from, bytes) = (until, bytes - below);
                }
                None => {
                    cuts.push((at + 1, open));
                    (from, bytes) = (at + 1, 0);
                }
            }
            closed = None;
        }
    }
    if from < records.len() {
        match closed {
            _ if whole => cuts.push((records.len(), open)),
            // The rest waits for what ends its lines, and fills the next block.
            _ if !cuts.is_empty() => {}
            Some((until, _)) => cuts.push((until, 0)),
            None => cuts.push((records.len(), open)),
        }
    }
    cuts
}

/// What of `due` is sealed when the first `until` of the records are, of which `merged` were so before.
fn done(due: &Due, records: &[OutputRecord], merged: usize, until: usize) -> Done {
    let mut done = Done { job: due.job, kind: due.kind, chunks: Vec::with_capacity(due.chunks.len()), rest: None };
    let mut from = merged;
    for chunk in &due.chunks {
        let end = from.saturating_add(usize::try_from(chunk.count).unwrap_or(usize::MAX));
        if end > until {
            if from < until {
                done.rest = records.get(until..end).and_then(|open| Chunk::of(chunk.batch, open));
            }
            break;
        }
        done.chunks.push(chunk.clone());
        from = end;
    }
    done
}

fn put(tx: &mut Tx<'_>, tails: &Tails, sealed: Sealed) -> Result<(), Refusal> {
    // A job deleted meanwhile takes its output with it.
    let Some(row) = tx.job(sealed.job)? else { return Ok(()) };
    if row.kept_from(sealed.kind) > sealed.first || tails.first(sealed.job, sealed.kind) != Some(sealed.first) {
        // What came behind it is still to be sealed: built anew without what is gone.
        let message = format!("output of job {} was deleted while it was sealed", sealed.job);
        return Err(Refusal::new(RefusalCode::Stale, message));
    }
    if let Some((key, value)) = &sealed.replaced
        && tx.get(key)?.as_ref() != Some(value)
    {
        let message = format!("a block of job {} changed while it was merged", sealed.job);
        return Err(Refusal::new(RefusalCode::Stale, message));
    }
    for key in sealed.gone {
        tx.delete(key);
    }
    // The batches may go now that count what the row does not.
    if tx.is_job_row_behind(sealed.job) {
        tx.put_job_row(sealed.job, &row);
    }
    for (key, value) in sealed.blocks.into_iter().flatten() {
        tx.put(key, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LogStream, NewOutput};

    fn records(texts: &[&'static str]) -> Vec<OutputRecord> {
        let record = |(ordinal, text): (usize, &&'static str)| {
            let data = bytes::Bytes::from_static(text.as_bytes());
            let (kind, stream) = (OutputKind::Log, LogStream::Stdout);
            let entry = NewOutput { kind, stream, time_ns: 0, sequence: 0, label: None, data };
            OutputRecord { ordinal: ordinal as u64, entry }
        };
        texts.iter().enumerate().map(record).collect()
    }

    #[test]
    fn blocks_end_where_lines_end() {
        let records = records(&["aaaaaaaaaa\n", "bbbbbbbbbb\n", "cc", "cccccc\n", "dddd", "dddddddd\n", "e"]);
        assert_eq!(cuts(&records, 0, 0, 40, false), [(2, 0), (6, 0)]);
        assert_eq!(cuts(&records, 0, 0, 40, true), [(2, 0), (6, 0), (7, 1)]);
        // Too little for a block: up to its last line, or all of it.
        assert_eq!(cuts(&records, 0, 0, 400, false), [(6, 0)]);
        assert_eq!(cuts(&records, 0, 0, 400, true), [(7, 1)]);
    }

    #[test]
    fn a_line_without_an_end_does_not_hold_blocks_back() {
        let records = records(&["aaaaaaaaaa"; 8]);
        assert_eq!(cuts(&records, 0, 0, 40, false), [(3, 1), (6, 1)]);
        assert_eq!(cuts(&records[..2], 0, 0, 40, false), [(2, 1)]);
        // What was in a block stays in one.
        assert_eq!(cuts(&records[..2], 1, 0, 400, false), [(2, 1)]);
    }

    #[test]
    fn one_large_record_has_a_block_of_its_own() {
        let large: &'static str = Box::leak("x".repeat(1_000).into_boxed_str());
        let records = records(&["a\n", large, "b\n"]);
        assert_eq!(cuts(&records, 0, 0, 100, true), [(1, 0), (2, 1), (3, 0)]);
    }
}
