//! The mark: a small file outside the database that knows the highest group ever acknowledged.
//!
//! Owns: two checksummed slots written in turn. A group's mark is written after the group's sync and before its answers leave, so
//! the mark is never ahead of the truth; a kill loses none of it. It is itself synced every 50 ms, not each
//! time: after a power cut it may be a little behind, which weakens the check and never invents a loss.
//! Must not know: what a group holds, how the database is opened.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::keys::Space;

const MAGIC: &[u8; 8] = b"FBXMARK1";
/// One slot per page: a torn page can hurt only one of them.
const SLOT_STRIDE: u64 = 4_096;
const BODY_BYTES: usize = 8 + 8 + 32 + 8 * Space::ALL.len();
const SLOT_BYTES: usize = BODY_BYTES + 32;

/// What the mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// The highest acknowledged group.
    pub sequence: u64,
    /// Its chained hash.
    pub chain: [u8; 32],
    /// By keyspace: the last acknowledged group that touched it.
    pub spaces: [u64; Space::ALL.len()],
}

pub struct MarkFile {
    file: File,
    next_slot: u64,
}

impl MarkFile {
    /// Makes a new file that says "nothing yet", synced.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len(2 * SLOT_STRIDE)?;
        let mut mark = Self { file, next_slot: 0 };
        mark.write(&Mark::default())?;
        mark.write(&Mark::default())?;
        mark.file.sync_all()?;
        Ok(mark)
    }

    /// Opens the file and reads the newer good slot; None when neither is good.
    pub fn open(path: &Path) -> io::Result<(Self, Option<Mark>)> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let slots = [read_slot(&file, 0)?, read_slot(&file, 1)?];
        let newest = slots.iter().flatten().max_by_key(|mark| mark.sequence).copied();
        // The next write must not hit the newer slot.
        let next_slot = u64::from(slots[0].is_some() && slots[0] == newest);
        Ok((Self { file, next_slot }, newest))
    }

    /// Reads the mark without the right to change it.
    pub fn read(path: &Path) -> io::Result<Option<Mark>> {
        let file = File::open(path)?;
        let slots = [read_slot(&file, 0)?, read_slot(&file, 1)?];
        Ok(slots.into_iter().flatten().max_by_key(|mark| mark.sequence))
    }

    /// Into the page cache: safe from a kill at once, from a power cut after the next sync.
    pub fn write(&mut self, mark: &Mark) -> io::Result<()> {
        self.file.write_all_at(&encode(mark), self.next_slot * SLOT_STRIDE)?;
        self.next_slot = 1 - self.next_slot;
        Ok(())
    }

    /// A handle for syncing from another thread.
    pub fn sync_handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

fn encode(mark: &Mark) -> [u8; SLOT_BYTES] {
    let mut body = Vec::with_capacity(SLOT_BYTES);
    body.extend_from_slice(MAGIC);
    body.extend_from_slice(&mark.sequence.to_be_bytes());
    body.extend_from_slice(&mark.chain);
    for space in mark.spaces {
        body.extend_from_slice(&space.to_be_bytes());
    }
    let sum = Sha256::digest(&body);
    body.extend_from_slice(&sum);
    let mut slot = [0u8; SLOT_BYTES];
    slot.copy_from_slice(&body);
    slot
}

fn read_slot(file: &File, slot: u64) -> io::Result<Option<Mark>> {
    let mut bytes = [0u8; SLOT_BYTES];
    match file.read_exact_at(&mut bytes, slot * SLOT_STRIDE) {
        Ok(()) => Ok(decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn decode(slot: &[u8; SLOT_BYTES]) -> Option<Mark> {
    let (body, sum) = slot.split_at(BODY_BYTES);
    if Sha256::digest(body).as_slice() != sum {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let mut number = || {
        let (head, tail) = rest.split_first_chunk::<8>()?;
        rest = tail;
        Some(u64::from_be_bytes(*head))
    };
    let sequence = number()?;
    let (chain, mut rest) = rest.split_first_chunk::<32>()?;
    let mut spaces = [0; Space::ALL.len()];
    for space in &mut spaces {
        let (head, tail) = rest.split_first_chunk::<8>()?;
        *space = u64::from_be_bytes(*head);
        rest = tail;
    }
    Some(Mark { sequence, chain: *chain, spaces })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(sequence: u64) -> Mark {
        Mark { sequence, chain: [u8::try_from(sequence % 251).unwrap(); 32], spaces: [sequence, 1, 2, 3] }
    }

    #[test]
    fn the_newest_mark_survives_damage_to_the_other_slot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        let mut file = MarkFile::create(&path).unwrap();
        for sequence in 1..=7 {
            file.write(&mark(sequence)).unwrap();
        }
        let (mut file, newest) = MarkFile::open(&path).unwrap();
        assert_eq!(newest, Some(mark(7)));
        file.write(&mark(8)).unwrap();
        assert_eq!(MarkFile::read(&path).unwrap(), Some(mark(8)));
        // Seven is still there: the write went to the older slot.
        for slot in 0..2 {
            let copy = dir.path().join("copy");
            std::fs::copy(&path, &copy).unwrap();
            let file = OpenOptions::new().write(true).open(&copy).unwrap();
            file.write_all_at(&[0xff], slot * SLOT_STRIDE + 20).unwrap();
            let left = MarkFile::read(&copy).unwrap().unwrap().sequence;
            assert!(left == 7 || left == 8, "{left}");
        }
    }

    #[test]
    fn a_mark_with_any_flipped_bit_is_not_believed() {
        let good = encode(&mark(9));
        for bit in 0..SLOT_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad), None, "bit {bit}");
        }
    }
}
