//! The open database: its four keyspaces, read and written as rows.
//!
//! Owns: every call into Fjall after opening. A damaged block is an error with DATA_LOSS, never a short list.
//! Must not know: what rows mean, groups, waiting.

use std::os::unix::fs::MetadataExt as _;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, UserKey, UserValue};

use super::keys::{self, Key, Space};
use super::records::damaged;
use crate::model::{Refusal, RefusalCode};

#[derive(Clone)]
pub struct Spaces {
    database: Database,
    keyspaces: [Keyspace; Space::ALL.len()],
}

impl Spaces {
    /// Opens or creates the keyspaces.
    pub fn new(database: Database) -> Result<Self, fjall::Error> {
        let open = |space: Space| {
            database.keyspace(space.name(), || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES))
        };
        let keyspaces = [open(Space::Ledger)?, open(Space::Queue)?, open(Space::Dlq)?, open(Space::Output)?];
        Ok(Self { database, keyspaces })
    }

    fn keyspace(&self, space: Space) -> &Keyspace {
        let [ledger, queue, dlq, output] = &self.keyspaces;
        match space {
            Space::Ledger => ledger,
            Space::Queue => queue,
            Space::Dlq => dlq,
            Space::Output => output,
        }
    }

    /// The database's own number of a keyspace, as its journal writes it.
    pub fn number(&self, space: Space) -> u64 {
        self.keyspace(space).id()
    }

    pub fn get(&self, key: &Key) -> Result<Option<UserValue>, Refusal> {
        self.keyspace(key.space).get(&key.bytes).map_err(|error| read_fault(key.space, &error))
    }

    /// Rows in `from..until`, in key order.
    pub fn range(
        &self,
        space: Space,
        from: &[u8],
        until: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(UserKey, UserValue), Refusal>> + use<> {
        self.keyspace(space)
            .range(from.to_vec()..until.to_vec())
            .map(move |guard| guard.into_inner().map_err(|error| read_fault(space, &error)))
    }

    /// One atomic batch over all keyspaces, synced when it returns.
    pub fn commit<'r>(&self, rows: impl Iterator<Item = (&'r Key, &'r Option<Vec<u8>>)>) -> Result<(), fjall::Error> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in rows {
            let keyspace = self.keyspace(key.space);
            match value {
                Some(value) => batch.insert(keyspace, key.bytes.as_slice(), value.as_slice()),
                None => batch.remove(keyspace, key.bytes.as_slice()),
            }
        }
        batch.commit()
    }

    /// Bytes of tables by keyspace, and of the journals.
    pub fn sizes(&self) -> ([u64; Space::ALL.len()], u64) {
        let tables = Space::ALL.map(|space| self.keyspace(space).disk_space());
        (tables, self.database.journal_disk_space().unwrap_or(0))
    }

    /// Bytes of tables that were merged into others and still stand on the disk, over all keyspaces. Counts those being written as well.
    pub fn replaced_bytes(&self) -> Result<u64, String> {
        let mut bytes = 0_u64;
        for keyspace in &self.keyspaces {
            let folder = keyspace.path().join("tables");
            let failed = |error| format!("{}: {error}", folder.display());
            let mut there = 0;
            for file in std::fs::read_dir(&folder).map_err(failed)? {
                // Removed between the two looks: not there.
                there += file.map_err(failed)?.metadata().map_or(0, |file| file.len());
            }
            bytes += there.saturating_sub(keyspace.disk_space());
        }
        Ok(bytes)
    }

    /// Lets what is in memory be written to tables, without waiting for it.
    pub fn write_tables(&self) -> Result<(), String> {
        Space::ALL.into_iter().try_for_each(|space| self.write_table(space))
    }

    /// The same of one keyspace.
    pub fn write_table(&self, space: Space) -> Result<(), String> {
        self.keyspace(space).rotate_memtable().map(drop).map_err(|error| format!("{}: {error}", space.name()))
    }

    /// The database keeps the tables it has merged until something is written after the merge and then a memtable rotated: on a quiet
    /// daemon that would be never. What no reader is in the middle of is gone when this returns; does not wait for the small table.
    pub fn let_go_of_tables(&self) -> Result<(), String> {
        for _ in 0..2 {
            self.commit(std::iter::once((&keys::filler(), &None))).map_err(|error| error.to_string())?;
        }
        self.write_table(Space::Output)
    }

    /// What the journal's file in use holds.
    pub fn journal_in_use_bytes(&self) -> std::io::Result<u64> {
        let Some(folder) = self.keyspace(Space::Output).path().ancestors().nth(2) else { return Ok(0) };
        // The file is as long as it will get from the start: only what it occupies tells.
        let last = super::journal::files(folder)?.pop();
        last.map_or(Ok(0), |(_, file)| Ok(std::fs::metadata(file)?.blocks() * 512))
    }

    /// Writes everything to tables, so that the journal's old files go, and merges those of `spaces`, so that deleted rows give their
    /// space back.
    pub fn compact(&self, spaces: &[Space]) -> Result<(), Refusal> {
        self.flush()?;
        // What was written meanwhile may hold on to a file that the first flush made an old one.
        self.flush()?;
        for space in spaces {
            self.keyspace(*space).major_compact().map_err(|error| read_fault(*space, &error))?;
        }
        Ok(())
    }

    /// Writes everything to tables. A keyspace without new rows is not waited for, even if its earlier ones are still being written.
    pub fn flush(&self) -> Result<(), Refusal> {
        for space in Space::ALL {
            self.keyspace(space).rotate_memtable_and_wait().map_err(|error| read_fault(space, &error))?;
        }
        Ok(())
    }
}

/// A keyspace's rows in memory before they are written as a table. Bounds replay at boot together with the journal's size.
const MEMTABLE_BYTES: u64 = 32 << 20;

fn read_fault(space: Space, error: &fjall::Error) -> Refusal {
    match error {
        fjall::Error::Io(error) => {
            Refusal::new(RefusalCode::Unavailable, format!("the {} keyspace cannot be read: {error}", space.name()))
        }
        error => damaged(format!("a block of the {} keyspace ({error})", space.name())),
    }
}
