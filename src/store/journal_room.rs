//! Room for and after journals: a start reads all of them, and after a burst of output they would stay on the disk for long.
//!
//! Owns: when memtables are written to tables so that old journal files can go, and when a new file is begun for that.
//! Must not know: what is in them.
//!
//! The database removes a journal file once every keyspace has written what stands in it to tables, and begins a new file when it writes a
//! table and the present file is beyond 64 MB; there is no other way to make it begin one. So all memtables are written as soon as there
//! is more than one file: a keyspace with few rows would hold on to the older ones, and a start would take twice as long. The pause behind
//! a burst of output is used to write a table, so that the next burst has none in its midst. When output was
//! written and it is quiet, the present file is filled up with rows that mean nothing, if that gives back enough, and rarely enough that
//! a disk does not notice.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::keys::{self, Space};
use super::spaces::Spaces;
use super::{journal, output::Tails, published::Published};

/// Beyond this many bytes the database begins a new file.
const FILE_BYTES: u64 = 64_000_000;
/// Journals that occupy less are left alone.
const WORTH_BYTES: u64 = 2 << 20;
/// Turns, of a second, without a commit before the present file is filled up.
const QUIET_TURNS: u64 = 3;
/// Between two fillings: 64 MB in five minutes are 18 GB a day at most, and that only if each five minutes have a burst and a silence.
const FILL_EVERY_TURNS: u64 = 300;
/// Between two rounds of writing memtables while much is written.
const WRITE_EVERY_TURNS: u64 = 5;
/// Records packed since tables were last written here, some 2 MB of table: then a pause is used to write one, because in the midst of the next
/// burst a commit's sync would wait for those of the table, 10 ms and more.
const PAUSE_BYTES: u64 = 16 << 20;
/// Filled in one turn: they stand in a memtable until it is written.
const FILL_BYTES: u64 = 16 << 20;
/// Filled in one commit: others wait for it.
const FILL_STEP_BYTES: usize = 1 << 20;

pub struct JournalRoom {
    database: PathBuf,
    turn: u64,
    /// The last group at the turn before.
    sequence: u64,
    quiet: u64,
    written_at: u64,
    filled_at: Option<u64>,
    /// Of [`Tails::sealed_bytes`], when tables were last written here.
    sealed_bytes: u64,
    /// While a file is filled up: its number, and how much may still be written into it.
    filling: Option<(u64, u64)>,
    /// It cannot be known or changed here: left to the database.
    off: bool,
}

/// The journal files: the newest one's number, how many there are, and bytes on disk of the newest and of all.
struct Files {
    newest: u64,
    count: usize,
    newest_bytes: u64,
    bytes: u64,
}

impl JournalRoom {
    pub fn new(database: PathBuf) -> Self {
        Self {
            database,
            turn: 0,
            sequence: 0,
            quiet: 0,
            written_at: 0,
            filled_at: None,
            sealed_bytes: 0,
            filling: None,
            off: false,
        }
    }

    /// Once a second.
    pub fn turn(&mut self, spaces: &Spaces, published: &Published, tails: &Tails) {
        self.turn += 1;
        let sequence = published.sequence();
        let quiet = tails.bytes() == 0 && sequence == self.sequence;
        self.quiet = if quiet { self.quiet + 1 } else { 0 };
        self.sequence = sequence;
        if self.off || published.fault().is_some() {
            return;
        }
        if let Err(why) = self.look(spaces, published, tails) {
            tracing::warn!(%why, "journal files are left to the database");
            self.off = true;
        }
    }

    fn look(&mut self, spaces: &Spaces, published: &Published, tails: &Tails) -> Result<(), String> {
        let files = self.files().map_err(|error| format!("{}: {error}", self.database.display()))?;
        if let Some((number, left)) = self.filling {
            if files.newest != number || left == 0 {
                // A new file was begun: what is left in memory is all that still needs the old one.
                self.filling = None;
                return self.write_tables(spaces, tails);
            }
            let bytes = left.min(FILL_BYTES);
            self.filling = Some((number, left - bytes));
            return fill(spaces, bytes);
        }
        let waited = self.turn - self.written_at >= WRITE_EVERY_TURNS;
        if files.count > 1 && files.bytes - files.newest_bytes >= WORTH_BYTES && waited {
            return self.write_tables(spaces, tails);
        }
        let sealed = tails.sealed_bytes();
        if tails.is_settled() && sealed - self.sealed_bytes >= PAUSE_BYTES {
            self.sealed_bytes = sealed;
            return spaces.write_table(Space::Output);
        }
        let long_ago = self.filled_at.is_none_or(|at| self.turn - at >= FILL_EVERY_TURNS);
        let worth = tails.is_used() && files.count == 1 && files.newest_bytes >= WORTH_BYTES;
        if worth && long_ago && self.quiet >= QUIET_TURNS && published.short_of_room().is_none() {
            self.filled_at = Some(self.turn);
            let missing = FILE_BYTES.saturating_sub(files.newest_bytes) + FILL_STEP_BYTES as u64;
            self.filling = Some((files.newest, missing));
            return self.write_tables(spaces, tails);
        }
        Ok(())
    }

    fn write_tables(&mut self, spaces: &Spaces, tails: &Tails) -> Result<(), String> {
        (self.written_at, self.sealed_bytes) = (self.turn, tails.sealed_bytes());
        spaces.write_tables()
    }

    fn files(&self) -> std::io::Result<Files> {
        let mut files = Files { newest: 0, count: 0, newest_bytes: 0, bytes: 0 };
        for (number, path) in journal::files(&self.database)? {
            let metadata = match std::fs::metadata(&path) {
                // Removed between the two looks.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                other => other?,
            };
            // A file is made longer than what is in it; blocks are what it occupies, in units of 512 bytes.
            let bytes = metadata.blocks() * 512;
            files = Files { newest: number, count: files.count + 1, newest_bytes: bytes, bytes: files.bytes + bytes };
        }
        Ok(files)
    }
}

/// Writes rows without a meaning and deletes them, then their memtable: that is when the database looks at the file's size.
fn fill(spaces: &Spaces, bytes: u64) -> Result<(), String> {
    let failed = |error: fjall::Error| error.to_string();
    let key = keys::filler();
    let value = Some(vec![0; FILL_STEP_BYTES]);
    for _ in 0..bytes.div_ceil(FILL_STEP_BYTES as u64) {
        spaces.commit(std::iter::once((&key, &value))).map_err(failed)?;
    }
    spaces.commit(std::iter::once((&key, &None))).map_err(failed)?;
    spaces.write_table(Space::Output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{JobId, OutputKind};
    use crate::store::output::{Chunk, Committed, Done, Options as OutputOptions};
    use crate::telemetry::Metrics;

    #[tokio::test]
    async fn the_table_behind_a_burst_is_written_in_the_pause_and_not_in_the_next_burst() {
        let dir = tempfile::tempdir().unwrap();
        let opened = crate::store::open(dir.path(), &crate::store::Options::default(), Metrics::new()).unwrap();
        let (spaces, published) = (&opened.store.spaces, &opened.store.published);
        let row = Some(vec![7; 1 << 20]);
        spaces.commit(std::iter::once((&keys::filler(), &row))).unwrap();
        let before = spaces.sizes().0;
        let tails = Tails::new(OutputOptions::default());
        let mut room = JournalRoom::new(dir.path().join("db"));
        let (job, kind) = (JobId::MIN, OutputKind::Log);
        let burst = |batch: u64, bytes: u64| {
            let body = vec![0; usize::try_from(bytes).unwrap()].into();
            let chunks = vec![Chunk { batch, first: batch, count: 1, body }];
            tails.add(Committed { batch, rows: 1, chunks: vec![(job, kind, chunks[0].clone())] });
            tails.sealed(vec![Done { job, kind, chunks, rest: None }]);
        };
        let written = || spaces.sizes().0 != before;
        burst(1, PAUSE_BYTES);
        tails.tick();
        room.turn(spaces, published, &tails);
        assert_eq!(room.sealed_bytes, 0, "something came in the last second");
        tails.tick();
        room.turn(spaces, published, &tails);
        assert_eq!(room.sealed_bytes, PAUSE_BYTES);
        let table = async {
            while !written() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), table).await.expect("no table was written");
        burst(2, PAUSE_BYTES - 1);
        (0..2).for_each(|_| tails.tick());
        room.turn(spaces, published, &tails);
        assert_eq!(room.sealed_bytes, PAUSE_BYTES, "too little for a table of its own");
    }
}
