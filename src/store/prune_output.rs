//! Deleting output: a job's whole, or blocks of one kind from the oldest on.
//!
//! Owns: which rows belong to it. Must not know: ages, reasons.

use super::output::read_head;
use crate::model::{JobId, OutputKind, Refusal};
use crate::store::keys::{self, Family, Key, Space};
use crate::store::tx::Tx;

/// Rows deleted by one call: a larger job takes several groups.
const ROWS_MAX: usize = 2_000;

/// Deletes a job's output of every kind. False: there is more, call again.
pub fn prune_output(tx: &mut Tx<'_>, id: JobId) -> Result<bool, Refusal> {
    for family in [Family::BlockHead, Family::Block, Family::Rollup] {
        let rows = tx.scan(&keys::output_of(family, id), ROWS_MAX)?;
        let full = rows.len() == ROWS_MAX;
        for (key, _) in rows {
            tx.delete(Key { space: Space::Output, bytes: key });
        }
        if full {
            return Ok(false);
        }
    }
    // What is not sealed goes with its batches; the tails forget it after the commit.
    tx.forgotten.push((id, None));
    Ok(true)
}

/// Deletes blocks of one kind whose last ordinal is below `until`, oldest first, and with metrics their roll-ups; then what is unsealed
/// if `until` is the end. How many records are gone. Its caller keeps the job's row.
pub fn prune_kind(tx: &mut Tx<'_>, id: JobId, kind: OutputKind, until: u64) -> Result<u64, Refusal> {
    let from = keys::block_head(id, kind, 0);
    let end = keys::block_head(id, kind, until);
    let mut gone = 0;
    for (key, value) in tx.scan_range(&from, &end, ROWS_MAX)? {
        let head = read_head(&key, &value)?;
        if head.last >= until {
            break;
        }
        gone += head.count();
        tx.delete(Key { space: Space::Output, bytes: key });
        for part in 0..head.parts {
            tx.delete(keys::block(id, kind, head.first, part));
        }
    }
    Ok(gone)
}
