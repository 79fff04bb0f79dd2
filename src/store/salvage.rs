//! Salvage: copies everything readable of a damaged data directory into a new one, and lists what is not.
//!
//! Owns: reading around damage. Never changes the damaged directory: the database is opened on a copy, because opening it cuts
//! its journal. Must not know: how the damage came about.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::keys::{self, Family, Key, Space};
use super::mark::{Mark, MarkFile};
use super::open::{OpenError, Options, VERSION, open_database, recover};
use super::records::{CountersRow, JobRow, MarkRow, QueueRow};
use super::report::SalvageReport;
use super::spaces::Spaces;
use super::tally::Tally;
use super::{check::rebuild_tally, journal, salvage_output};

/// Rows written in one batch.
const ROWS_PER_BATCH: usize = 10_000;

/// Writes what is readable of `dir` into the empty or missing folder `into`.
pub fn salvage(dir: &Path, into: &Path) -> Result<SalvageReport, OpenError> {
    let io_at = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| OpenError::Io { path, source }
    };
    let mut report = SalvageReport::default();
    if into.exists() && fs::read_dir(into).map_err(io_at(into))?.next().is_some() {
        let taken = io::Error::new(io::ErrorKind::AlreadyExists, "the folder for the salvage is not empty");
        return Err(io_at(into)(taken));
    }
    let copy = into.join("db.damaged-copy");
    copy_tree(&dir.join("db"), &copy).map_err(io_at(&copy))?;
    let mark = MarkFile::read(&dir.join("mark")).ok().flatten();
    let newest = mark.map_or(0, |mark| mark.sequence);

    // What the tables hold, and the journal as far as the database itself can read it.
    let mut rows: BTreeMap<Key, Option<Vec<u8>>> = BTreeMap::new();
    let damage = journal::audit(&copy, |_| ()).map_err(io_at(&copy))?;
    if let Some(damage) = &damage.damage {
        report.lost.push(format!("journal: {damage}"));
        fs::OpenOptions::new()
            .write(true)
            .open(&damage.file)
            .and_then(|file| file.set_len(damage.offset))
            .map_err(io_at(&damage.file))?;
        for (_, path) in
            journal::files(&copy).map_err(io_at(&copy))?.into_iter().filter(|(_, path)| *path > damage.file)
        {
            fs::remove_file(&path).map_err(io_at(&path))?;
        }
    } else if let Some(torn) = &damage.torn {
        report.lost.push(format!("journal: {} bytes at the end of {}", torn.lost_bytes, torn.file.display()));
        fs::OpenOptions::new()
            .write(true)
            .open(&torn.file)
            .and_then(|file| file.set_len(torn.good_bytes))
            .map_err(io_at(&torn.file))?;
    }
    let source = match open_database(&copy, &Options::default()) {
        Ok(spaces) => {
            read_rows(&spaces, &mut rows, &mut report);
            Some(spaces)
        }
        Err(error) => {
            report.lost.push(format!("tables: {error}"));
            None
        }
    };
    let group_of = |space| {
        let bytes = rows.get(&keys::mark(space))?.as_ref()?;
        <MarkRow as prost::Message>::decode(bytes.as_slice()).ok().map(|row| row.sequence)
    };
    let last = Space::ALL.into_iter().filter_map(group_of).max().unwrap_or(0);
    if last < newest {
        report.lost.push(format!("groups {} to {newest} were acknowledged and cannot be read", last + 1));
    }
    write_rows(into, rows, source.as_ref(), &mut report)?;
    drop(source);
    fs::remove_dir_all(&copy).map_err(io_at(&copy))?;
    Ok(report)
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Reads each keyspace; behind a damaged block it goes on with the next family. Output is too much to be held: it is copied later.
fn read_rows(spaces: &Spaces, rows: &mut BTreeMap<Key, Option<Vec<u8>>>, report: &mut SalvageReport) {
    for space in Space::ALL {
        let here = |family: &Family| family.space().is_none_or(|home| home == space);
        for family in
            Family::ALL.into_iter().filter(|family| here(family) && !salvage_output::FAMILIES.contains(family))
        {
            for row in spaces.range(space, &[family as u8], &keys::end_of(family)) {
                match row {
                    Ok((key, value)) => {
                        rows.insert(Key { space, bytes: key.to_vec() }, Some(value.to_vec()));
                    }
                    Err(refusal) => {
                        report.lost.push(format!("{} {family:?}: {}", space.name(), refusal.message));
                        break;
                    }
                }
            }
        }
    }
}

/// A new data directory whose counters are what the rows say.
fn write_rows(
    into: &Path,
    mut rows: BTreeMap<Key, Option<Vec<u8>>>,
    output: Option<&Spaces>,
    report: &mut SalvageReport,
) -> Result<(), OpenError> {
    let damaged = |error: fjall::Error| OpenError::Damaged(error.to_string());
    let io_at = |source| OpenError::Io { path: into.to_owned(), source };
    let queue = rows.get(&keys::mark(Space::Queue)).cloned().flatten();
    let queue: Option<MarkRow> = queue.and_then(|bytes| prost::Message::decode(bytes.as_slice()).ok());
    rows.retain(|key, _| key.bytes.first() != Some(&(Family::Mark as u8)));
    report.rows = rows.len() as u64;
    let is_job = |key: &Key| key.bytes.first() == Some(&(Family::Job as u8));
    report.jobs = rows.keys().filter(|key| is_job(key)).count() as u64;
    for (key, value) in rows.iter().filter(|(key, _)| is_job(key)) {
        let readable = value.as_deref().is_some_and(|value| <JobRow as prost::Message>::decode(value).is_ok());
        if !readable {
            report.lost.push(format!("job row {:02x?}", key.bytes));
        }
    }
    let mut file = MarkFile::create(&into.join("mark")).map_err(io_at)?;
    fs::write(into.join("VERSION"), VERSION).map_err(io_at)?;
    let spaces = open_database(&into.join("db"), &Options::default())?;
    let all: Vec<_> = rows.into_iter().collect();
    for batch in all.chunks(ROWS_PER_BATCH) {
        spaces.commit(batch.iter().map(|(key, value)| (key, value))).map_err(damaged)?;
    }
    if let Some(output) = output {
        salvage_output::copy(output, &spaces, report).map_err(damaged)?;
    }
    let mut tally: Tally = rebuild_tally(&spaces);
    let queue = queue.and_then(|row| row.queue).unwrap_or_default();
    tally.next_epoch = queue.next_epoch.max(1);
    let marks = Space::ALL.map(|space| {
        let row = MarkRow {
            sequence: 1,
            chain: vec![0; 32],
            counters: (space == Space::Ledger).then(|| CountersRow::new(&tally)),
            queue: (space == Space::Queue).then(|| QueueRow {
                next_epoch: tally.next_epoch,
                next_ready: queue.next_ready.clone(),
                ready_floor: vec![1; 3],
                lease_floor: 0,
            }),
        };
        (keys::mark(space), Some(prost::Message::encode_to_vec(&row)))
    });
    spaces.commit(marks.iter().map(|(key, value)| (key, value))).map_err(damaged)?;
    let mark = Mark { sequence: 1, chain: [0; 32], spaces: [1; Space::ALL.len()] };
    file.write(&mark).and_then(|()| file.sync_handle()?.sync_all()).map_err(io_at)?;
    recover(&spaces, &mark).map(drop)
}
