//! Salvage of the jobs' output: block by block and batch by batch, because it is more than memory holds.
//!
//! Owns: what of it is whole, and heads made anew from their blocks. Must not know: how the damage came about.

use std::collections::BTreeSet;

use fjall::{UserKey, UserValue};

use super::keys::{self, Family, Fields, Key, Space};
use super::output::{Window, batch_keys, read_batches, read_block, read_head, rebuild_head};
use super::report::SalvageReport;
use super::spaces::Spaces;
use crate::model::{JobId, OutputKind, Refusal};

pub const FAMILIES: [Family; 4] = [Family::Batch, Family::BlockHead, Family::Block, Family::Rollup];

/// Bytes written in one batch.
const BATCH_BYTES: usize = 8 << 20;
/// First byte and job of a key of the output.
const JOB_PREFIX_BYTES: usize = 17;

/// Copies what is whole and belongs to a job that `to` has.
pub fn copy(from: &Spaces, to: &Spaces, report: &mut SalvageReport) -> Result<(), fjall::Error> {
    let mut copy = Copy { from, to, report, rows: Vec::new(), bytes: 0, strangers: BTreeSet::new() };
    copy.batches()?;
    copy.blocks()?;
    copy.heads();
    copy.rollups()?;
    copy.write()
}

struct Copy<'a> {
    from: &'a Spaces,
    to: &'a Spaces,
    report: &'a mut SalvageReport,
    rows: Vec<(Key, Option<Vec<u8>>)>,
    bytes: usize,
    strangers: BTreeSet<JobId>,
}

/// Parts of one block, as they were found.
struct Parts {
    job: JobId,
    kind: OutputKind,
    first: u64,
    found: Vec<(u16, UserValue)>,
}

impl Copy<'_> {
    fn put(&mut self, key: Key, value: Vec<u8>) -> Result<(), fjall::Error> {
        self.bytes += key.bytes.len() + value.len();
        self.rows.push((key, Some(value)));
        self.report.rows += 1;
        if self.bytes >= BATCH_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), fjall::Error> {
        self.bytes = 0;
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() { Ok(()) } else { self.to.commit(rows.iter().map(|(key, value)| (key, value))) }
    }

    fn lost(&mut self, what: impl Into<String>) {
        self.report.lost.push(what.into());
    }

    /// False, and named once, for a job whose row is lost.
    fn has_job(&mut self, job: JobId) -> bool {
        let known = matches!(self.to.get(&keys::job(job)), Ok(Some(_)));
        if !known && self.strangers.insert(job) {
            self.lost(format!("output of job {job}, which is gone"));
        }
        known
    }

    /// Only whole ones: a database with a batch that cannot be read is not served.
    fn batches(&mut self) -> Result<(), fjall::Error> {
        let mut whole: Vec<(u64, u16)> = Vec::new();
        let (mut lost, mut damage) = (Vec::new(), None);
        let rows = self.from.range(Space::Output, &[Family::Batch as u8], &keys::end_of(Family::Batch));
        let readable = rows.map_while(|row| row.map_err(|refusal| damage = Some(refusal.message)).ok()).map(Ok);
        let read = read_batches(readable, |batch, found| {
            match found.and_then(|found| found.unpack(|piece| piece.chunk.records(piece.kind).map(|_| false))) {
                Ok(committed) => whole.push((batch, committed.rows)),
                Err(refusal) => lost.push(refusal.message),
            }
            Ok(())
        });
        lost.extend(damage.into_iter().chain(read.err().map(|refusal| refusal.message)));
        self.report.lost.extend(lost.into_iter().map(|why| format!("output Batch: {why}")));
        for key in whole.into_iter().flat_map(|(batch, rows)| batch_keys(batch, rows)) {
            if let Ok(Some(value)) = self.from.get(&key) {
                self.put(key, value.to_vec())?;
            }
        }
        Ok(())
    }

    fn blocks(&mut self) -> Result<(), fjall::Error> {
        let mut open: Option<Parts> = None;
        let mut scan = Scan::new(self.from, Family::Block);
        while let Some(row) = scan.next() {
            let (key, value) = match row {
                Ok(row) => row,
                Err(refusal) => {
                    self.lost(format!("output Block: {}", refusal.message));
                    continue;
                }
            };
            let place = Fields::of(Family::Block, &key).and_then(|mut fields| Some((fields.block()?, fields.u16()?)));
            let Some(((job, kind, first), part)) = place else {
                self.lost("output Block: a key that cannot be read");
                continue;
            };
            match &mut open {
                Some(parts) if (parts.job, parts.kind, parts.first) == (job, kind, first) => {
                    parts.found.push((part, value));
                }
                _ => {
                    if let Some(whole) = open.replace(Parts { job, kind, first, found: vec![(part, value)] }) {
                        self.block(&whole)?;
                    }
                }
            }
        }
        open.map_or(Ok(()), |parts| self.block(&parts))
    }

    /// A block with its head; a head that is lost, or says something else, is made anew.
    fn block(&mut self, parts: &Parts) -> Result<(), fjall::Error> {
        let Parts { job, kind, first, found } = parts;
        if !self.has_job(*job) {
            return Ok(());
        }
        let key = keys::block_head(*job, *kind, *first);
        let known = self.from.get(&key).ok().flatten();
        let good = known.filter(|value| {
            let head = read_head(&key.bytes, value);
            let read = head.and_then(|head| {
                let part =
                    |key: &Key| Ok(found.iter().find(|(part, _)| is_part(key, *part)).map(|(_, value)| value.clone()));
                Ok((head.last, head.count(), read_block(&head, Window::ALL, part)?))
            });
            matches!(read, Ok((last, count, Some(records)))
                if records.last().is_some_and(|record| record.ordinal == last) && records.len() as u64 == count)
        });
        let head = match good {
            Some(value) => value.to_vec(),
            None => {
                let values: Vec<&UserValue> = found.iter().map(|(_, value)| value).collect();
                match rebuild_head(*job, *kind, *first, &values) {
                    Ok((row, _)) => {
                        tracing::warn!(%job, kind = kind.name(), first, "a block's head was made anew from the block");
                        row
                    }
                    Err(refusal) => {
                        self.lost(refusal.message);
                        return Ok(());
                    }
                }
            }
        };
        self.put(key, head)?;
        for (part, value) in found {
            self.put(keys::block(*job, *kind, *first, *part), value.to_vec())?;
        }
        Ok(())
    }

    /// Names the heads whose blocks are lost.
    fn heads(&mut self) {
        let mut scan = Scan::new(self.from, Family::BlockHead);
        while let Some(row) = scan.next() {
            // One that cannot be read was made anew, or its block is lost as well.
            let Ok((key, _)) = row else { continue };
            let place = Fields::of(Family::BlockHead, &key).and_then(|mut fields| fields.block());
            if let Some((job, kind, first)) = place
                && !matches!(self.from.get(&keys::block(job, kind, first, 0)), Ok(Some(_)))
            {
                self.lost(format!("block {first} of {} of job {job} has a head and no records", kind.name()));
            }
        }
    }

    fn rollups(&mut self) -> Result<(), fjall::Error> {
        let mut scan = Scan::new(self.from, Family::Rollup);
        while let Some(row) = scan.next() {
            match row {
                Ok((key, value)) => {
                    let job = Fields::of(Family::Rollup, &key).and_then(|mut fields| fields.job());
                    if job.is_some_and(|job| self.has_job(job)) {
                        self.put(Key { space: Space::Output, bytes: key.to_vec() }, value.to_vec())?;
                    }
                }
                Err(refusal) => self.lost(format!("output Rollup: {}", refusal.message)),
            }
        }
        Ok(())
    }
}

fn is_part(key: &Key, part: u16) -> bool {
    key.bytes.ends_with(&part.to_be_bytes())
}

/// A family of the output; behind damage it goes on with the next job.
struct Scan<'a> {
    from: &'a Spaces,
    rows: Box<dyn Iterator<Item = Result<(UserKey, UserValue), Refusal>>>,
    end: Vec<u8>,
    /// Of the last key that could be read.
    job: Vec<u8>,
}

impl<'a> Scan<'a> {
    fn new(from: &'a Spaces, family: Family) -> Self {
        let end = keys::end_of(family);
        Self { from, rows: Box::new(from.range(Space::Output, &[family as u8], &end)), end, job: Vec::new() }
    }

    fn next(&mut self) -> Option<Result<(UserKey, UserValue), Refusal>> {
        let row = self.rows.next()?;
        match &row {
            Ok((key, _)) => self.job = key.get(..JOB_PREFIX_BYTES).unwrap_or_default().to_vec(),
            Err(_) if self.job.is_empty() => self.rows = Box::new(std::iter::empty()),
            Err(_) => {
                let next = keys::after_prefix(&std::mem::take(&mut self.job));
                self.rows = Box::new(self.from.range(Space::Output, &next, &self.end));
            }
        }
        Some(row)
    }
}
