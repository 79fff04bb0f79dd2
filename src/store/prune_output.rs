//! Deleting output: a job's whole, or records of one kind from the oldest on.
//!
//! Owns: which rows belong to it, and where a deletion may end. Must not know: ages, reasons.
//!
//! Blocks are deleted by what their heads say: they are never read for it.

use super::output::{BlockHead, read_head};
use super::verbs::Pruned;
use crate::model::{JobId, OutputKind, Refusal};
use crate::store::keys::{self, Family};
use crate::store::records::JobRow;
use crate::store::tx::Tx;

/// Heads read in one group: their text filters are some kilobytes each.
const HEADS_MAX: usize = 1_000;

/// Deletes a job's records of every kind. False: there is more, call again.
pub fn prune_output(tx: &mut Tx<'_>, id: JobId, budget: &mut usize) -> Result<bool, Refusal> {
    let heads_max = HEADS_MAX.min(*budget);
    let heads = tx.scan(&keys::output_of(Family::BlockHead, id), heads_max)?;
    let full = heads.len() == heads_max;
    for (key, value) in heads {
        drop_block(tx, &read_head(&key, &value)?, budget);
    }
    // What has a head is gone with it; a block may have lost its head only in a salvaged directory.
    for family in [Family::Log, Family::Rollup, Family::Block] {
        if full || *budget == 0 {
            return Ok(false);
        }
        let prefix = keys::output_of(family, id);
        let end = keys::Key { space: prefix.space, bytes: keys::after_prefix(&prefix.bytes) };
        let rows = tx.scan_keys(&prefix, &end, *budget)?;
        *budget -= rows.len();
        for key in rows {
            tx.delete(key);
        }
    }
    if *budget == 0 {
        return Ok(false);
    }
    // What is not sealed goes with its batches; the tails forget it after the commit.
    tx.forgotten.push((id, None));
    Ok(true)
}

/// Deletes records with ordinals below `until`, oldest first, lines of the job's own among them; with the last metric the roll-ups. It
/// ends before a block that reaches beyond.
pub fn prune_kind(
    tx: &mut Tx<'_>,
    id: JobId,
    mut row: JobRow,
    kind: OutputKind,
    until: u64,
    budget: &mut usize,
) -> Result<Pruned, Refusal> {
    let (from, count) = (row.kept_from(kind), row.records_of(kind));
    let mut end = until.min(count);
    if end <= from {
        return Ok(Pruned::default());
    }
    if kind == OutputKind::Metric && end == count && !prune_rollups(tx, id, budget)? {
        return Ok(Pruned { gone: 0, more: true });
    }
    let heads_max = HEADS_MAX.min(*budget).max(1);
    let rows = tx.scan_range(&keys::block_head(id, kind, from), &keys::block_head(id, kind, end), heads_max)?;
    let full = rows.len() == heads_max;
    let mut heads = Vec::with_capacity(rows.len());
    for (key, value) in rows {
        let head = read_head(&key, &value)?;
        if head.last >= end {
            end = head.first;
            break;
        }
        heads.push(head);
    }
    let mut horizon = end;
    if let Some(last) = heads.last().filter(|_| full) {
        horizon = end.min(last.last + 1);
    }
    if kind == OutputKind::Log {
        horizon = prune_lines(tx, id, from, horizon, &heads, budget)?;
    }
    for head in heads.iter().filter(|head| head.last < horizon) {
        drop_block(tx, head, budget);
    }
    row.set_kept_from(kind, horizon);
    tx.put_job_row(id, &row);
    tx.touched.insert(id);
    if horizon == count {
        tx.forgotten.push((id, Some((kind, count))));
    }
    Ok(Pruned { gone: horizon - from, more: horizon < end })
}

/// Deletes lines from `from` up to `horizon`, or as far as the budget allows; never into the middle of a block. Returns how far.
fn prune_lines(
    tx: &mut Tx<'_>,
    id: JobId,
    from: u64,
    horizon: u64,
    heads: &[BlockHead],
    budget: &mut usize,
) -> Result<u64, Refusal> {
    let limit = (*budget).max(1);
    let mut lines = tx.scan_keys(&keys::log(id, from), &keys::log(id, horizon), limit)?;
    let mut reached = horizon;
    let last = lines.last().and_then(|key| keys::Fields::of(Family::Log, &key.bytes)).and_then(|mut fields| {
        fields.job()?;
        fields.u64()
    });
    if let Some(last) = last.filter(|_| lines.len() == limit) {
        reached = last + 1;
        // A block's lines go with it, however many they are.
        if let Some(head) = heads.iter().find(|head| head.first < reached && reached <= head.last) {
            lines.extend(tx.scan_keys(&keys::log(id, reached), &keys::log(id, head.last), usize::MAX)?);
            reached = head.last + 1;
        }
    }
    *budget = budget.saturating_sub(lines.len());
    for key in lines {
        tx.delete(key);
    }
    Ok(reached)
}

/// False: there are more.
fn prune_rollups(tx: &mut Tx<'_>, id: JobId, budget: &mut usize) -> Result<bool, Refusal> {
    let prefix = keys::output_of(Family::Rollup, id);
    let end = keys::Key { space: prefix.space, bytes: keys::after_prefix(&prefix.bytes) };
    let rows = tx.scan_keys(&prefix, &end, *budget)?;
    *budget -= rows.len();
    for key in rows {
        tx.delete(key);
    }
    Ok(*budget > 0)
}

fn drop_block(tx: &mut Tx<'_>, head: &BlockHead, budget: &mut usize) {
    tx.delete(keys::block_head(head.job, head.kind, head.first));
    for part in 0..head.parts {
        tx.delete(keys::block(head.job, head.kind, head.first, part));
    }
    *budget = budget.saturating_sub(1 + usize::from(head.parts));
}
