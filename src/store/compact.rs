//! Giving space back to the file system: tables are merged, the journal's file in use becomes an old one, which goes when the tables hold
//! what it holds, and the tables that a merge has replaced are let go.
//!
//! Owns: what is written for it. Must not know: when it is worth it.
//!
//! The database begins a new file only behind 64 MB, and until then keeps the old one with all that was deleted since. So it is filled up,
//! in groups between which others have theirs.

use std::time::Duration;

use super::committer::Request;
use super::spaces::Spaces;
use super::tx::Tx;
use super::{Store, keys};
use crate::model::{Refusal, RefusalCode};

/// Behind this the database begins a new file (64 MB), with room for the frames around the rows.
const FILE_BYTES: u64 = 65_000_000;
/// A file with less in it is not worth filling up.
const WORTH_BYTES: u64 = 4 << 20;
const ROW_BYTES: usize = 1 << 20;
/// For the sealer, which stands back on a busy machine: without it some megabytes stay until the next merge.
const SPENT_PATIENCE: Duration = Duration::from_secs(30);
/// Tables that were replaced and still stand are let go if they are as large as this together.
const REPLACED_BYTES: u64 = 2 << 20;
/// Seconds after tables have changed until that is looked at, doubled with each further look up to the second number: letting go
/// writes a small table, and a reader may hold the others for long.
const LOOK_AFTER: u64 = 5;
const LOOK_AFTER_MAX: u64 = 320;
/// On a fuller disk nothing is written for it: a table that cannot be finished would stop the database.
const FREE_BYTES_MIN: u64 = 16 << 20;

/// Lets go of what the database's own merges leave behind.
#[derive(Default)]
pub struct ReplacedTables {
    /// Of all tables, when they had last changed by much.
    tables_bytes: u64,
    since: u64,
    after: u64,
}

impl ReplacedTables {
    /// Once a second.
    pub fn turn(&mut self, spaces: &Spaces, free_bytes: u64) {
        let tables_bytes = spaces.sizes().0.iter().sum::<u64>();
        if tables_bytes.abs_diff(self.tables_bytes) >= REPLACED_BYTES {
            *self = Self { tables_bytes, since: 0, after: LOOK_AFTER };
        }
        self.since += 1;
        if self.since < self.after.max(LOOK_AFTER) {
            return;
        }
        (self.since, self.after) = (0, (2 * self.after).clamp(LOOK_AFTER, LOOK_AFTER_MAX));
        let failed = match spaces.replaced_bytes() {
            Ok(bytes) if bytes < REPLACED_BYTES || free_bytes < FREE_BYTES_MIN => return,
            Ok(_) => spaces.let_go_of_tables().err(),
            Err(error) => Some(error),
        };
        if let Some(why) = failed {
            tracing::warn!(%why, "tables that were replaced stay until the next ones are written");
        }
    }
}

impl Store {
    /// Gives freed space back to the file system. Blocks the calling thread for seconds.
    pub fn compact(&self) -> Result<(), Refusal> {
        self.settle_rows()?;
        self.spaces.compact(&keys::Space::ALL)?;
        self.let_go_of_tables().map(drop)
    }

    /// The same of the keyspace that holds output, and of the journal's files. What it returns is of [`Store::let_go_of_tables`].
    pub fn compact_output(&self) -> Result<u64, Refusal> {
        // What was deleted before it was in blocks stands in batches, which the sealer deletes.
        self.tails.wait_for_spent(SPENT_PATIENCE);
        self.turn_journal()?;
        self.settle_rows()?;
        self.spaces.compact(&[keys::Space::Output])?;
        self.let_go_of_tables()
    }

    /// Blocks for some hundred milliseconds.
    fn turn_journal(&self) -> Result<(), Refusal> {
        let used = self.spaces.journal_in_use_bytes();
        let used = used.map_err(|error| Refusal::new(RefusalCode::Unavailable, format!("the journal: {error}")))?;
        if used < WORTH_BYTES {
            return Ok(());
        }
        for _ in 0..FILE_BYTES.saturating_sub(used).div_ceil(ROW_BYTES as u64) {
            self.write(|tx| tx.put(keys::filler(), vec![0; ROW_BYTES]))?;
        }
        Ok(())
    }

    /// Before a merge: with a new row in the memtable, a flush waits for the tables that are still being written; a merge that comes
    /// before them leaves what they hold where it is.
    fn settle_rows(&self) -> Result<(), Refusal> {
        self.write(|tx| tx.delete(keys::filler()))
    }

    /// Tables that were merged into others go, but for those a reader is in the middle of: bytes of tables that still stand. Blocks for
    /// some milliseconds.
    pub fn let_go_of_tables(&self) -> Result<u64, Refusal> {
        let failed = |why| Refusal::new(RefusalCode::Unavailable, format!("replaced tables: {why}"));
        self.spaces.let_go_of_tables().map_err(failed)?;
        self.spaces.replaced_bytes().map_err(failed)
    }

    fn write(&self, change: impl FnOnce(&mut Tx<'_>) + Send + 'static) -> Result<(), Refusal> {
        let (tell, told) = std::sync::mpsc::channel();
        let change = move |tx: &mut Tx<'_>| {
            change(tx);
            Ok(())
        };
        let done = move |result: Result<(), Refusal>| drop(tell.send(result));
        self.committer.submit(Box::new(Request { change: Some(change), result: None, done }), ROW_BYTES, false);
        let stopped = |_| Err(Refusal::new(RefusalCode::Unavailable, "the store has stopped"));
        told.recv().unwrap_or_else(stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Options;
    use crate::telemetry::Metrics;

    #[test]
    fn a_quiet_daemon_gives_back_the_tables_that_were_merged_into_others() {
        let dir = tempfile::tempdir().unwrap();
        let opened = crate::store::open(dir.path(), &Options::default(), Metrics::new()).unwrap();
        let spaces = &opened.store.spaces;
        let key = |n: u8| keys::block(crate::model::JobId::from_bytes([n; 16]), crate::model::OutputKind::Log, 0, 0);
        let mut rng = fastrand::Rng::with_seed(3);
        for n in 0..4 {
            let row = Some((0..1 << 20).map(|_| rng.u8(..)).collect::<Vec<u8>>());
            spaces.commit(std::iter::once((&key(n), &row))).unwrap();
            spaces.flush().unwrap();
        }
        spaces.compact(&[keys::Space::Output]).unwrap();
        assert!(spaces.replaced_bytes().unwrap() >= REPLACED_BYTES, "nothing to let go of");
        let mut replaced = ReplacedTables::default();
        for _ in 0..=LOOK_AFTER {
            replaced.turn(spaces, 0);
        }
        assert!(spaces.replaced_bytes().unwrap() >= REPLACED_BYTES, "written to a full disk");
        for _ in 0..3 * LOOK_AFTER {
            replaced.turn(spaces, u64::MAX);
        }
        assert!(spaces.replaced_bytes().unwrap() < REPLACED_BYTES, "they still stand");
        for n in 0..4 {
            assert_eq!(spaces.get(&key(n)).unwrap().unwrap().len(), 1 << 20);
        }
    }
}
