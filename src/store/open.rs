//! Opening a data directory: what must hold before a single request is served.
//!
//! Owns: the layout version, the order of the checks, the committer's and the housekeeper's threads. Must not know: verbs.
//!
//! Order: version → mark → journals audited, unacknowledged torn tail cut → database opened with panics caught → each
//! keyspace at least as far as the mark says → serve.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::committer::{Committer, Core, Floors};
use super::compact::ReplacedTables;
use super::journal_room::JournalRoom;
use super::keys::{self, Family, Key, Space};
use super::mark::{Mark, MarkFile};
use super::output::{self, Tails};
use super::published::Published;
use super::reader::Reader;
use super::recent::{NEWEST_MAX, Recent};
use super::records::{self, ControlsRow, MarkRow};
use super::sealer::Sealer;
use super::spaces::Spaces;
use super::tally::Tally;
use super::{Store, journal};
use crate::model::{Controls, Refusal};
use crate::telemetry::Metrics;

/// What the data directory's `VERSION` file says. Another version is refused, not guessed at.
pub const VERSION: &str = "fetchbox-data 3\n";
/// The version before, whose rows are read as they are. It would not count output that only batches name, so it must not read ours.
const EARLIER: &str = "fetchbox-data 2\n";
/// How long the mark may wait for its own sync. A sync of the mark holds up the group that is being synced beside it by as much again: at
/// 50 ms that is one group of a hundred. What waits is only vouched for later; a kill loses none of it.
const MARK_SYNC_EVERY: Duration = Duration::from_millis(50);
const DISK_LOOK_EVERY: Duration = Duration::from_secs(1);

/// Section `store` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// New jobs are refused when less is free on the data disk. The smaller of this and `free_min_percent` counts.
    pub free_min_bytes: u64,
    pub free_min_percent: u8,
    /// Blocks of tables kept in memory.
    pub cache_bytes: u64,
    /// Journals on disk before the oldest is flushed away: bounds how long opening takes. At least 64 MiB.
    pub journal_bytes_max: u64,
    pub output: output::Options,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            free_min_bytes: 1 << 30,
            free_min_percent: 5,
            cache_bytes: 32 << 20,
            journal_bytes_max: 128 << 20,
            output: output::Options::default(),
        }
    }
}

/// Why a data directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path} was written by another version: it says {found:?}, this binary reads {VERSION:?}")]
    Version { path: PathBuf, found: String },
    #[error("{0}\nNothing was changed. Run `fetchbox check`; `fetchbox check --salvage DIR` keeps what is readable")]
    Damaged(String),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
}

pub struct Opened {
    pub store: Store,
    pub reader: Reader,
    /// Keeps the store's threads; dropped last, it closes the store cleanly.
    pub guard: StoreGuard,
    /// Bytes nobody was told about, cut from a torn journal.
    pub torn_bytes: u64,
}

/// Closing: what waits is committed, the mark is synced, the threads end.
pub struct StoreGuard {
    committer: Arc<Committer>,
    tails: Arc<Tails>,
    stop: Arc<(Mutex<bool>, Condvar)>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for StoreGuard {
    fn drop(&mut self) {
        self.tails.close();
        self.committer.close();
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a store thread panicked");
            }
        }
    }
}

/// Opens the data directory `dir`, creating it when it is empty. The caller holds the directory's lock.
pub fn open(dir: &Path, options: &Options, metrics: Metrics) -> Result<Opened, OpenError> {
    let (mut mark_file, mark) = open_mark(dir)?;
    let database = dir.join("db");
    let cut = prepare_journals(&database, &mark)?;
    let opened = open_or_begin_anew(&database, options, &mark).and_then(|spaces| {
        let state = recover(&spaces, &mark)?;
        Ok((spaces, state))
    });
    let (spaces, state) = match opened {
        Ok(opened) => {
            cut.forget();
            opened
        }
        Err(error) => {
            cut.undo()?;
            return Err(error);
        }
    };
    let torn_bytes = cut.lost_bytes;
    if state.mark.sequence > mark.sequence {
        // Groups that were synced and not acknowledged: they stand, and are acknowledged from now on.
        mark_file.write(&state.mark).map_err(|source| OpenError::Io { path: dir.join("mark"), source })?;
    }
    let sync = mark_file.sync_handle().map_err(|source| OpenError::Io { path: dir.join("mark"), source })?;
    let published = Arc::new(Published::new(state.mark.sequence, state.tally, state.controls));
    let tails = Arc::new(Tails::new(options.output.clone()));
    output::recover(&spaces, &tails).map_err(|refusal| OpenError::Damaged(refusal.message))?;
    let recent = Arc::new(newest_jobs(&spaces));
    let committer = Committer::new(Core {
        spaces: spaces.clone(),
        mark_file,
        mark: state.mark,
        tally: state.tally,
        floors: state.floors.clone(),
        published: Arc::clone(&published),
        metrics,
        tails: Arc::clone(&tails),
        recent: Arc::clone(&recent),
    });
    let sealer = Sealer {
        spaces: spaces.clone(),
        committer: Arc::clone(&committer),
        published: Arc::clone(&published),
        tails: Arc::clone(&tails),
        journals: JournalRoom::new(database),
        replaced: ReplacedTables::default(),
    };
    let stop = Arc::new((Mutex::new(false), Condvar::new()));
    let threads = spawn_threads(&committer, &published, sealer, &stop, sync, dir, options)
        .map_err(|source| OpenError::Io { path: dir.to_owned(), source })?;
    Ok(Opened {
        reader: Reader::new(spaces.clone(), Arc::clone(&published), state.floors.ready, Arc::clone(&tails), recent),
        store: Store { committer: Arc::clone(&committer), published, spaces, tails: Arc::clone(&tails) },
        guard: StoreGuard { committer, tails, stop, threads },
        torn_bytes,
    })
}

/// What cannot be read is found by whoever asks for it, not by the start.
fn newest_jobs(spaces: &Spaces) -> Recent {
    let (first, end) = ([Family::Job as u8], keys::end_of(Family::Job));
    let rows = spaces.range(Space::Ledger, &first, &end).rev().take(NEWEST_MAX);
    let rows: Result<_, _> = rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect();
    rows.map_or_else(|_| Recent::unknown(), Recent::new)
}

fn io_at(path: &Path) -> impl FnOnce(std::io::Error) -> OpenError + '_ {
    move |source| OpenError::Io { path: path.to_owned(), source }
}

/// Version and mark; makes both in an empty directory.
fn open_mark(dir: &Path) -> Result<(MarkFile, Mark), OpenError> {
    let (version, mark, database) = (dir.join("VERSION"), dir.join("mark"), dir.join("db"));
    match fs::read_to_string(&version) {
        Ok(found) if found == VERSION => {}
        Ok(found) if found == EARLIER => write_version(dir, &version)?,
        Ok(found) => return Err(OpenError::Version { path: version, found: found.chars().take(80).collect() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if database.exists() {
                return Err(OpenError::Damaged(format!("{} is missing beside a database", version.display())));
            }
            let file = MarkFile::create(&mark).map_err(io_at(&mark))?;
            drop(file);
            write_version(dir, &version)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            return Err(OpenError::Version { path: version, found: "bytes that are no text".to_owned() });
        }
        Err(error) => return Err(io_at(&version)(error)),
    }
    let missing =
        |what: &str| OpenError::Damaged(format!("{} {what}: what was acknowledged cannot be known", mark.display()));
    let (file, known) = match MarkFile::open(&mark) {
        Ok(opened) => opened,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing("is missing")),
        Err(error) => return Err(io_at(&mark)(error)),
    };
    let known = known.ok_or_else(|| missing("is damaged in both slots"))?;
    if known.sequence > 0 && !database.exists() {
        let gone = format!("{} is missing and {} groups were acknowledged", database.display(), known.sequence);
        return Err(OpenError::Damaged(gone));
    }
    Ok((file, known))
}

fn write_version(dir: &Path, version: &Path) -> Result<(), OpenError> {
    let new = version.with_extension("new");
    fs::write(&new, VERSION).map_err(io_at(&new))?;
    fs::File::open(&new).and_then(|file| file.sync_all()).map_err(io_at(&new))?;
    fs::rename(&new, version).map_err(io_at(version))?;
    fs::File::open(dir).and_then(|file| file.sync_all()).map_err(io_at(dir))
}

pub fn is_readable(version: &str) -> bool {
    [VERSION, EARLIER].contains(&version)
}

/// A torn tail that was cut.
#[derive(Debug, Default)]
struct Cut {
    lost_bytes: u64,
    /// The whole file, kept aside until it is certain that nothing acknowledged stood in it.
    kept: Option<(PathBuf, PathBuf)>,
}

impl Cut {
    fn forget(&self) {
        if let Some((copy, _)) = &self.kept
            && let Err(error) = fs::remove_file(copy)
        {
            tracing::warn!(%error, file = %copy.display(), "a journal's copy stays behind");
        }
    }

    /// The directory turned out to be damaged: it is left as it was found.
    fn undo(&self) -> Result<(), OpenError> {
        let Some((copy, file)) = &self.kept else { return Ok(()) };
        fs::rename(copy, file).map_err(io_at(file))
    }
}

/// Audits the journals; cuts a torn tail that nobody was told about.
fn prepare_journals(database: &Path, mark: &Mark) -> Result<Cut, OpenError> {
    if !database.exists() {
        return Ok(Cut::default());
    }
    let audit = journal::audit(database, |_| ()).map_err(io_at(database))?;
    if let Some(damage) = audit.damage {
        return Err(OpenError::Damaged(format!("the journal is damaged: {damage}")));
    }
    if let Some((behind, _)) = audit.last.filter(|(behind, _)| *behind < mark.sequence) {
        return Err(OpenError::Damaged(format!(
            "the journal ends with group {behind} and group {} was acknowledged{}",
            mark.sequence,
            audit.torn.map_or(String::new(), |torn| format!(" ({} bytes behind it are unreadable)", torn.lost_bytes)),
        )));
    }
    let Some(torn) = audit.torn else { return Ok(Cut::default()) };
    let mut cut = Cut { lost_bytes: torn.lost_bytes, kept: None };
    if audit.last.is_none() && mark.sequence > 0 {
        // No journal says how far it went. Whether the tables hold everything is known only after opening.
        let copy = torn.file.with_extension("jnl.torn");
        fs::copy(&torn.file, &copy).map_err(io_at(&copy))?;
        cut.kept = Some((copy, torn.file.clone()));
    }
    tracing::warn!(file = %torn.file.display(), bytes = torn.lost_bytes, "cutting a torn, unacknowledged journal tail");
    let file = fs::OpenOptions::new().write(true).open(&torn.file).map_err(io_at(&torn.file))?;
    file.set_len(torn.good_bytes).and_then(|()| file.sync_all()).map_err(io_at(&torn.file))?;
    Ok(cut)
}

/// A first start that was killed half-way leaves a database that cannot be opened and in which nothing was ever acknowledged.
fn open_or_begin_anew(database: &Path, options: &Options, mark: &Mark) -> Result<Spaces, OpenError> {
    match open_database(database, options) {
        Err(error @ (OpenError::Damaged(_) | OpenError::Io { .. })) if mark.sequence == 0 => {
            tracing::warn!(%error, "a first start did not end; beginning anew");
            fs::remove_dir_all(database).map_err(io_at(database))?;
            open_database(database, options)
        }
        opened => opened,
    }
}

/// Fjall may panic on damage: a panic is a refusal, with its words.
pub fn open_database(database: &Path, options: &Options) -> Result<Spaces, OpenError> {
    let open = || {
        let opened = fjall::Database::builder(database)
            .cache_size(options.cache_bytes)
            .max_journaling_size(options.journal_bytes_max.max(64 << 20))
            // The audit hashes the rows as they stand in the journal: it does not unpack.
            .journal_compression(fjall::CompressionType::None)
            .manual_journal_persist(true)
            .worker_threads(2)
            .open()?;
        Spaces::new(opened)
    };
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(spaces)) => Ok(spaces),
        Ok(Err(fjall::Error::Locked)) => Err(OpenError::Locked(database.to_owned())),
        Ok(Err(fjall::Error::Io(source))) => Err(OpenError::Io { path: database.to_owned(), source }),
        Ok(Err(error)) => Err(OpenError::Damaged(format!("the database cannot be opened: {error}"))),
        Err(panic) => {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            let words = words.unwrap_or_else(|| "no words".to_owned());
            Err(OpenError::Damaged(format!("the database cannot be opened: {words}")))
        }
    }
}

/// What the recovered rows say.
pub struct Recovered {
    pub mark: Mark,
    pub tally: Tally,
    pub floors: Floors,
    pub controls: Controls,
}

/// Compares every keyspace with the mark and reads totals and floors.
pub fn recover(spaces: &Spaces, known: &Mark) -> Result<Recovered, OpenError> {
    let damaged = |refusal: Refusal| OpenError::Damaged(refusal.message);
    let mut state = Recovered {
        mark: Mark::default(),
        tally: Tally::default(),
        floors: Floors { ready: [1; 3], ..Floors::default() },
        controls: Controls::default(),
    };
    for (space, acknowledged) in Space::ALL.into_iter().zip(known.spaces) {
        let bytes = spaces.get(&keys::mark(space)).map_err(damaged)?;
        let row = bytes.map(|bytes| records::decode::<MarkRow>("mark", &bytes)).transpose().map_err(damaged)?;
        let row = row.unwrap_or_default();
        if row.sequence < acknowledged {
            return Err(OpenError::Damaged(format!(
                "the {} keyspace ends with group {} and group {acknowledged} was acknowledged",
                space.name(),
                row.sequence
            )));
        }
        if let Some(last) = state.mark.spaces.get_mut(space.index()) {
            *last = row.sequence;
        }
        if row.sequence > state.mark.sequence {
            state.mark.sequence = row.sequence;
            state.mark.chain = records::digest("chain", &row.chain).map_err(damaged)?;
        }
        if let Some(counters) = &row.counters {
            counters.fill(&mut state.tally).map_err(damaged)?;
        }
        if let Some(queue) = &row.queue {
            state.tally.next_epoch = queue.next_epoch;
            copy_into(&mut state.tally.next_ready, &queue.next_ready);
            copy_into(&mut state.floors.ready, &queue.ready_floor);
            state.floors.leased.extend(leases(spaces, queue.lease_floor).map_err(damaged)?);
        }
    }
    if state.mark.sequence == known.sequence && known.sequence > 0 && state.mark.chain != known.chain {
        return Err(OpenError::Damaged(format!("group {} is not the one that was acknowledged", known.sequence)));
    }
    if let Some(bytes) = spaces.get(&keys::controls()).map_err(damaged)? {
        let row: ControlsRow = records::decode("controls", &bytes).map_err(damaged)?;
        state.controls = row.into_controls().map_err(damaged)?;
    }
    Ok(state)
}

fn copy_into(target: &mut [u64; 3], source: &[u64]) {
    for (target, source) in target.iter_mut().zip(source) {
        *target = *source;
    }
}

/// Epochs that are held: as many as ran at once when the process ended.
fn leases(spaces: &Spaces, floor: u64) -> Result<Vec<u64>, Refusal> {
    let from: Key = keys::lease(floor);
    let mut epochs = Vec::new();
    for row in spaces.range(Space::Queue, &from.bytes, &keys::end_of(Family::Lease)) {
        let (key, _) = row?;
        let epoch = keys::Fields::of(Family::Lease, &key).and_then(|mut fields| fields.u64());
        epochs.push(epoch.ok_or_else(|| records::damaged("lease key"))?);
    }
    Ok(epochs)
}

fn spawn_threads(
    committer: &Arc<Committer>,
    published: &Arc<Published>,
    sealer: Sealer,
    stop: &Arc<(Mutex<bool>, Condvar)>,
    mark: fs::File,
    dir: &Path,
    options: &Options,
) -> std::io::Result<Vec<JoinHandle<()>>> {
    let commits = Arc::clone(committer);
    let (published, stop) = (Arc::clone(published), Arc::clone(stop));
    let (dir, options) = (dir.to_owned(), options.clone());
    look_at_disk(&dir, &options, &published);
    let finished = Arc::new(AtomicBool::new(false));
    let committer_done = Arc::clone(&finished);
    let tails = Arc::clone(&sealer.tails);
    Ok(vec![
        std::thread::Builder::new().name("sealer".to_owned()).spawn(move || sealer.run())?,
        std::thread::Builder::new().name("committer".to_owned()).spawn(move || {
            commits.run();
            committer_done.store(true, Ordering::Release);
        })?,
        std::thread::Builder::new()
            .name("housekeeper".to_owned())
            .spawn(move || keep_house(&published, &tails, &stop, &finished, &mark, &dir, &options))?,
    ])
}

/// Syncs the mark behind the groups, watches the disk's free space and counts seconds for the tails.
fn keep_house(
    published: &Published,
    tails: &Tails,
    stop: &(Mutex<bool>, Condvar),
    committer_done: &AtomicBool,
    mark: &fs::File,
    dir: &Path,
    options: &Options,
) {
    let mut synced = 0;
    let mut since_look = Duration::ZERO;
    loop {
        let stopping = stop.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopping, _) = stop.1.wait_timeout(stopping, MARK_SYNC_EVERY).unwrap_or_else(PoisonError::into_inner);
        let last_round = *stopping && committer_done.load(Ordering::Acquire);
        drop(stopping);
        let sequence = published.sequence();
        if sequence != synced {
            if let Err(error) = mark.sync_data() {
                published.set_fault(format!("the mark could not be synced: {error}"));
            }
            synced = sequence;
        }
        since_look += MARK_SYNC_EVERY;
        if since_look >= DISK_LOOK_EVERY {
            look_at_disk(dir, options, published);
            tails.tick();
            since_look = Duration::ZERO;
        }
        if last_round {
            return;
        }
    }
}

fn look_at_disk(dir: &Path, options: &Options, published: &Published) {
    match rustix::fs::statvfs(dir) {
        Ok(disk) => {
            let total = disk.f_blocks.saturating_mul(disk.f_frsize);
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let wanted = options.free_min_bytes.min(total / 100 * u64::from(options.free_min_percent));
            published.set_disk(total, free, wanted);
        }
        Err(error) => tracing::warn!(%error, dir = %dir.display(), "the disk's free space is unknown"),
    }
}
