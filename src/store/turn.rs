//! Turning the journal: the file in use becomes an old one, which goes when the tables hold what it holds. And letting go of the tables
//! that a merge has replaced.
//!
//! Owns: what is written for both. Must not know: when it is worth it.
//!
//! The database begins a new file only behind 64 MB, and until then keeps the old one with all that was deleted since. So it is filled up,
//! in groups between which others have theirs.

use super::committer::Request;
use super::tx::Tx;
use super::{Store, keys};
use crate::model::{Refusal, RefusalCode};

/// Behind this the database begins a new file (64 MB), with room for the frames around the rows.
const FILE_BYTES: u64 = 65_000_000;
/// A file with less in it is not worth filling up.
const WORTH_BYTES: u64 = 4 << 20;
const ROW_BYTES: usize = 1 << 20;

impl Store {
    /// Blocks for some hundred milliseconds.
    pub(super) fn turn_journal(&self) -> Result<(), Refusal> {
        let used = self.spaces.journal_in_use_bytes();
        let used = used.map_err(|error| Refusal::new(RefusalCode::Unavailable, format!("the journal: {error}")))?;
        if used < WORTH_BYTES {
            return Ok(());
        }
        for _ in 0..FILE_BYTES.saturating_sub(used).div_ceil(ROW_BYTES as u64) {
            self.write(|tx| tx.put(keys::filler(), vec![0; ROW_BYTES]))?;
        }
        self.write(|tx| tx.delete(keys::filler()))
    }

    /// The database keeps the tables it has merged until something is written after the merge and then a memtable rotated: on a quiet
    /// daemon that would be never.
    pub(super) fn let_go_of_tables(&self) -> Result<(), Refusal> {
        for _ in 0..2 {
            self.write(|tx| tx.delete(keys::filler()))?;
        }
        self.spaces.flush()
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
