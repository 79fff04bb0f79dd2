//! The open database: its four keyspaces, read and written as rows.
//!
//! Owns: every call into Fjall after opening. A damaged block is an error with DATA_LOSS, never a short list.
//! Must not know: what rows mean, groups, waiting.

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, UserKey, UserValue};

use super::keys::{Key, Space};
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

    /// Lets what is in memory be written to tables, without waiting for it.
    pub fn write_tables(&self) -> Result<(), String> {
        Space::ALL.into_iter().try_for_each(|space| self.write_table(space))
    }

    /// The same of one keyspace.
    pub fn write_table(&self, space: Space) -> Result<(), String> {
        self.keyspace(space).rotate_memtable().map(drop).map_err(|error| format!("{}: {error}", space.name()))
    }

    /// Writes everything to tables and merges them, so that deleted rows give their space back.
    pub fn compact(&self) -> Result<(), Refusal> {
        for space in Space::ALL {
            let keyspace = self.keyspace(space);
            keyspace.rotate_memtable_and_wait().map_err(|error| read_fault(space, &error))?;
            keyspace.major_compact().map_err(|error| read_fault(space, &error))?;
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
