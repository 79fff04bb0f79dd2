//! Reads the database's journal files before the database does.
//!
//! Opening a database with a damaged journal cuts the journal at the damage and goes on with what stood before it. So the files are
//! audited first, read only: every batch whole, sequences without a hole, the hash chain unbroken, and the end no
//! earlier than the mark. Only a tail nobody was told about may be cut.
//!
//! Owns: the byte form of Fjall 3 journals (a start tag with count and seqno, items, an end tag with an xxh3 of the items and a
//! trailer) and the chained hash over a group. Must not know: what the rows mean.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use prost::Message;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::Xxh3;

use super::keys::MARK;
use super::records::MarkRow;

const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const TRAILER: [u8; 4] = *b"FJL\x03";
const TYPE_VALUE: u8 = 0;
/// A batch is one commit group: bounded by the committer far below this. Guards against allocating what a flipped length says.
const VALUE_BYTES_MAX: u32 = 64 << 20;

/// What the journals hold.
#[derive(Debug, Default)]
pub struct Audit {
    pub batches: u64,
    /// Sequence and chain of the last group read.
    pub last: Option<(u64, [u8; 32])>,
    /// By the database's keyspace number: the last group that touched it.
    pub spaces: BTreeMap<u64, u64>,
    /// The newest file's readable length, when something unreadable stands behind it.
    pub torn: Option<Torn>,
    pub damage: Option<Damage>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    pub file: PathBuf,
    pub good_bytes: u64,
    pub lost_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub file: PathBuf,
    pub offset: u64,
    pub what: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}: {}", self.file.display(), self.offset, self.what)
    }
}

/// One entry of a group.
pub struct Item {
    pub keyspace: u64,
    pub key: Vec<u8>,
    /// None: deleted.
    pub value: Option<Vec<u8>>,
}

struct Batch {
    seqno: u64,
    items: Vec<Item>,
    bytes: u64,
}

/// Chains groups: each hash covers the one before it, the sequence and every row written.
pub struct Chain(Sha256);

impl Chain {
    pub fn new(previous: &[u8; 32], sequence: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(previous);
        hash.update(sequence.to_be_bytes());
        Self(hash)
    }

    pub fn add(&mut self, keyspace: u64, key: &[u8], value: Option<&[u8]>) {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.0.update(keyspace.to_be_bytes());
        self.0.update([u8::from(value.is_some())]);
        self.0.update(length(key));
        self.0.update(key);
        if let Some(value) = value {
            self.0.update(length(value));
            self.0.update(value);
        }
    }

    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// The journal files of a database folder, oldest first.
pub fn files(database: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(database)? {
        let path = entry?.path();
        let id = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".jnl"));
        if let Some(id) = id.and_then(|id| id.parse().ok()) {
            files.push((id, path));
        }
    }
    files.sort();
    Ok(files)
}

/// Reads every journal. Stops at the first damage, or at a torn end of the newest file. `each` sees every good group.
pub fn audit(database: &Path, mut each: impl FnMut(&[Item])) -> io::Result<Audit> {
    let files = files(database)?;
    let mut audit = Audit::default();
    let mut last_seqno = None;
    for (position, (id, path)) in files.iter().enumerate() {
        let newest = position + 1 == files.len();
        let adjacent = position.checked_sub(1).and_then(|p| files.get(p)).is_some_and(|(before, _)| before + 1 == *id);
        if !adjacent {
            // Nothing is known about what an evicted journal ended with.
            audit.last = None;
        }
        let length = std::fs::metadata(path)?.len();
        let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
        let mut offset = 0;
        let broken = loop {
            match read_batch(&mut reader)? {
                Ok(batch) => {
                    if let Err(what) = check_batch(&mut audit, &mut last_seqno, &batch) {
                        audit.damage = Some(Damage { file: path.clone(), offset, what });
                        return Ok(audit);
                    }
                    each(&batch.items);
                    offset += batch.bytes;
                }
                Err(broken) => break broken,
            }
        };
        let clean = match broken {
            Broken::End => true,
            Broken::Zeros => rest_is_zero(path, offset)?,
            Broken::What(_) => false,
        };
        if clean {
            continue;
        }
        let what = match broken {
            Broken::What(what) => what,
            Broken::End | Broken::Zeros => "rows behind a hole".to_owned(),
        };
        if newest {
            audit.torn = Some(Torn { file: path.clone(), good_bytes: offset, lost_bytes: length - offset });
        } else {
            audit.damage = Some(Damage { file: path.clone(), offset, what });
        }
        return Ok(audit);
    }
    Ok(audit)
}

fn rest_is_zero(path: &Path, offset: u64) -> io::Result<bool> {
    use std::io::{Seek, SeekFrom};
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut chunk = vec![0u8; 1 << 20];
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok(true);
        }
        if chunk.iter().take(read).any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
}

/// Sequences without a hole, hashes that chain, seqnos that grow.
fn check_batch(audit: &mut Audit, last_seqno: &mut Option<u64>, batch: &Batch) -> Result<(), String> {
    if last_seqno.is_some_and(|last| batch.seqno <= last) {
        return Err(format!("seqno {} does not follow {}", batch.seqno, last_seqno.unwrap_or(0)));
    }
    *last_seqno = Some(batch.seqno);
    audit.batches += 1;
    let mut group = None;
    for item in batch.items.iter().filter(|item| item.key == MARK) {
        let row =
            item.value.as_deref().map(MarkRow::decode).and_then(Result::ok).ok_or("a group's mark is unreadable")?;
        let chain: [u8; 32] = row.chain.as_slice().try_into().map_err(|_| "a group's chain is unreadable")?;
        if *group.get_or_insert((row.sequence, chain)) != (row.sequence, chain) {
            return Err("a group's marks differ".to_owned());
        }
        audit.spaces.insert(item.keyspace, row.sequence);
    }
    let Some((sequence, chain)) = group else { return Ok(()) };
    if let Some((last, previous)) = audit.last {
        if sequence != last + 1 {
            return Err(format!("group {sequence} stands behind group {last}"));
        }
        let mut expected = Chain::new(&previous, sequence);
        for item in batch.items.iter().filter(|item| item.key != MARK) {
            expected.add(item.keyspace, &item.key, item.value.as_deref());
        }
        if expected.finish() != chain {
            return Err(format!("group {sequence} does not match its chained hash"));
        }
    }
    audit.last = Some((sequence, chain));
    Ok(())
}

enum Broken {
    /// Exactly at the end of the file.
    End,
    /// Zeros where a batch would start: the file is preallocated.
    Zeros,
    What(String),
}

/// Outer: the disk cannot be read. Inner: what stands there is no whole batch.
fn read_batch(reader: &mut impl Read) -> io::Result<Result<Batch, Broken>> {
    let mut bytes = Counted { inner: reader, read: 0 };
    match parse_batch(&mut bytes) {
        Ok(batch) => Ok(batch),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Ok(Err(if bytes.read == 0 { Broken::End } else { Broken::What("a batch is cut off".to_owned()) }))
        }
        Err(error) => Err(error),
    }
}

struct Counted<'a, R> {
    inner: &'a mut R,
    read: u64,
}

impl<R: Read> Counted<'_, R> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        let mut filled = 0;
        while filled < N {
            let count = self.inner.read(bytes.get_mut(filled..).unwrap_or_default())?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += count;
            self.read += count as u64;
        }
        Ok(bytes)
    }

    fn bytes(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.inner.take(length as u64).read_to_end(&mut bytes)?;
        self.read += read as u64;
        if read == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

fn parse_batch<R: Read>(reader: &mut Counted<'_, R>) -> io::Result<Result<Batch, Broken>> {
    let what = |text: &str| Ok(Err(Broken::What(text.to_owned())));
    match reader.array::<1>()? {
        [TAG_START] => {}
        [0] => return Ok(Err(Broken::Zeros)),
        _ => return what("no batch starts here"),
    }
    let count = u32::from_le_bytes(reader.array()?);
    let seqno = u64::from_le_bytes(reader.array()?);
    let mut sum = Xxh3::new();
    let mut items = Vec::new();
    loop {
        match reader.array::<1>()? {
            [TAG_ITEM] => {}
            [TAG_END] => break,
            _ => return what("a batch holds something that is no item"),
        }
        let head: [u8; 20] = reader.array()?;
        let [value_type, compression, ..] = head;
        let keyspace = le_u64(&head, 2);
        let key_length = usize::from(u16::from_le_bytes([head[10], head[11]]));
        let value_length = le_u32(&head, 16);
        if compression != 0 || value_length != le_u32(&head, 12) || value_length > VALUE_BYTES_MAX {
            return what("an item's lengths cannot be right");
        }
        let key = reader.bytes(key_length)?;
        let value = reader.bytes(value_length as usize)?;
        for part in [&[TAG_ITEM][..], &head, &key, &value] {
            sum.update(part);
        }
        items.push(Item { keyspace, key, value: (value_type == TYPE_VALUE).then_some(value) });
    }
    if u64::from_le_bytes(reader.array()?) != sum.digest() {
        return what("a batch does not match its checksum");
    }
    if reader.array::<4>()? != TRAILER {
        return what("a batch has no trailer");
    }
    if items.len() != count as usize {
        return what("a batch has another number of items than it says");
    }
    Ok(Ok(Batch { seqno, items, bytes: reader.read }))
}

fn le_u64(head: &[u8; 20], at: usize) -> u64 {
    let bytes = head.get(at..).and_then(|rest| rest.first_chunk::<8>());
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn le_u32(head: &[u8; 20], at: usize) -> u32 {
    let bytes = head.get(at..).and_then(|rest| rest.first_chunk::<4>());
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
