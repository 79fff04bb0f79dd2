//! The one invariant checker: run after every whole and every crash test.
//!
//! Owns: what must be true whatever happened. It knows what the test was promised (its own log of acknowledgements, on another
//! path than the daemon's data) and what the origin would have served; the rest it asks the daemon as a client does, and the
//! object store's folder behind everybody's back.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fetchbox::client::Client;
use sha2::{Digest as _, Sha256};

use super::s3::S3Server;
use super::{ask, eventually, hex, pb};

/// Faults shown before the rest is only counted.
const SHOWN_MAX: usize = 20;

/// A promise the daemon made.
#[derive(Debug, Clone)]
pub struct Ack {
    pub key: String,
    pub job_id: String,
    pub resource_ids: Vec<String>,
}

/// Every acknowledgement, written down as it came.
pub struct AckLog {
    file: Mutex<std::fs::File>,
    path: tempfile::TempPath,
}

impl AckLog {
    pub fn new() -> AckLog {
        let (file, path) = tempfile::NamedTempFile::new().unwrap().into_parts();
        AckLog { file: Mutex::new(file), path }
    }

    fn file(&self) -> MutexGuard<'_, std::fs::File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn record(&self, key: &str, job_id: &str, resource_ids: &[String]) {
        // One write for the whole line: a reader beside us never sees half of it.
        let line = format!("{key} {job_id} {}\n", resource_ids.join(","));
        self.file().write_all(line.as_bytes()).unwrap();
    }

    pub fn read(&self) -> Vec<Ack> {
        self.file().sync_data().unwrap();
        let text = std::fs::read_to_string(&self.path).unwrap();
        let line = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            let (key, job_id) = (words.next()?, words.next()?);
            let resource_ids = words.next()?.split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect();
            Some(Ack { key, job_id, resource_ids })
        };
        text.lines().map(|text| line(text).unwrap_or_else(|| panic!("ack log: {text}"))).collect()
    }
}

/// What must have become of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Truth {
    Stored {
        sha256: [u8; 32],
        size_bytes: u64,
    },
    /// Given up with this code.
    Dead(&'static str),
}

/// The object store, seen behind the daemon's back.
pub enum Shelf<'a> {
    /// Bucket folders stand in it.
    Folder(PathBuf),
    S3(&'a S3Server, &'a str),
}

/// Bucket and key.
type Place = (String, String);

impl Shelf<'_> {
    fn read(&self, place: &Place) -> Option<Vec<u8>> {
        match self {
            Shelf::Folder(folder) => std::fs::read(folder.join(&place.0).join(&place.1)).ok(),
            Shelf::S3(server, _) => server.object(&place.0, &place.1),
        }
    }

    fn all(&self) -> Vec<Place> {
        match self {
            Shelf::S3(server, bucket) => {
                server.keys(bucket).into_iter().map(|key| ((*bucket).to_owned(), key)).collect()
            }
            Shelf::Folder(folder) => {
                let place = |file: &PathBuf| {
                    let inside = file.strip_prefix(folder).ok()?.to_str()?;
                    inside.split_once('/').map(|(bucket, key)| (bucket.to_owned(), key.to_owned()))
                };
                files(folder).iter().filter_map(place).collect()
            }
        }
    }
}

pub struct Checker<'a> {
    pub objects: Shelf<'a>,
    pub acks: &'a [Ack],
    pub truth: &'a dyn Fn(&pb::DownloadTask) -> Option<Truth>,
    /// Objects of deleted jobs may be left in the store.
    pub orphans_allowed: bool,
}

impl Checker<'_> {
    /// Expects every job to have ended. Panics with all that is wrong.
    pub async fn check(&self, client: &Client) {
        let mut faults = Faults::default();
        let jobs = ask::jobs(client).await;
        let by_id: BTreeMap<&str, &pb::Job> = jobs.iter().map(|job| (job.job_id.as_str(), job)).collect();
        faults.that(by_id.len() == jobs.len(), || "a job is listed twice".to_owned());
        self.acknowledged(&by_id, &mut faults);

        let letters = ask::letters(client, pb::DeadLetterSelector::default()).await;
        let dead: BTreeSet<(String, String)> = letters
            .iter()
            .filter_map(|letter| letter.task.as_ref())
            .map(|task| (task.job_id.clone(), task.resource_id.clone()))
            .collect();
        faults.that(dead.len() == letters.len(), || "a resource has two dead letters".to_owned());

        let mut owned: BTreeSet<Place> = BTreeSet::new();
        for job in &jobs {
            let tasks = ask::tasks(client, &job.job_id).await;
            self.job(job, &tasks, &dead, &mut owned, &mut faults);
            let manifest = client.get_manifest(pb::GetJobRequest { job_id: job.job_id.clone() }).await;
            match manifest {
                Ok(manifest) => faults.that(manifest.resources.len() == tasks.len(), || {
                    format!("{}: {} tasks for {} resources", job.job_id, tasks.len(), manifest.resources.len())
                }),
                Err(error) => faults.add(format!("{}: its manifest cannot be read: {error}", job.job_id)),
            }
        }
        let stats = ask::stats(client).await;
        totals(&jobs, &letters, &stats, &mut faults);
        if !self.orphans_allowed {
            for place in self.objects.all() {
                faults.that(owned.contains(&place), || format!("{place:?} belongs to no job"));
            }
        }
        faults.none();
    }

    fn acknowledged(&self, jobs: &BTreeMap<&str, &pb::Job>, faults: &mut Faults) {
        let mut keys: BTreeMap<&str, &str> = BTreeMap::new();
        for ack in self.acks {
            match jobs.get(ack.job_id.as_str()) {
                None => faults.add(format!("LOST: job {} was acknowledged under key {}", ack.job_id, ack.key)),
                Some(job) => faults.that(job.resources_total as usize == ack.resource_ids.len(), || {
                    format!("{}: {} resources of {}", ack.job_id, job.resources_total, ack.resource_ids.len())
                }),
            }
            let first = keys.entry(&ack.key).or_insert(&ack.job_id);
            let one = *first == ack.job_id;
            faults.that(one, || format!("key {} was acknowledged as {first} and as {}", ack.key, ack.job_id));
        }
    }

    fn job(
        &self,
        job: &pb::Job,
        tasks: &[pb::Task],
        dead: &BTreeSet<(String, String)>,
        owned: &mut BTreeSet<Place>,
        faults: &mut Faults,
    ) {
        let id = &job.job_id;
        faults.that(ask::is_terminal(job), || format!("{id} has not ended: {:?} {}", job.state(), job.phase));
        let ids: BTreeSet<&String> = tasks.iter().map(|task| &task.task_id).collect();
        faults.that(ids.len() == tasks.len(), || format!("{id}: a task is listed twice"));
        let count = |state: pb::TaskState| tasks.iter().filter(|task| task.state() == state).count() as u32;
        let (done, given_up, canceled) =
            (count(pb::TaskState::Done), count(pb::TaskState::Dead), count(pb::TaskState::Canceled));
        let told = (job.resources_total, job.resources_completed, job.resources_failed, job.resources_canceled);
        let real = (tasks.len() as u32, done, given_up, canceled);
        faults.that(told == real, || format!("{id}: counts {told:?}, its tasks are {real:?}"));
        faults.that(done + given_up + canceled == tasks.len() as u32, || format!("{id}: has open tasks"));
        if !tasks.is_empty() {
            let wanted = outcome(done, given_up, canceled);
            faults.that(job.state() == wanted, || format!("{id} is {:?} and should be {wanted:?}", job.state()));
            self.manifest_object(job, tasks, owned, faults);
        }
        let stored: u64 = tasks.iter().filter_map(|task| task.object.as_ref()).map(|object| object.size_bytes).sum();
        faults.that(job.bytes_stored == stored, || format!("{id}: {} bytes stored, not {stored}", job.bytes_stored));
        for task in tasks {
            self.task(id, task, dead, owned, faults);
        }
    }

    fn task(
        &self,
        job: &str,
        task: &pb::Task,
        dead: &BTreeSet<(String, String)>,
        owned: &mut BTreeSet<Place>,
        faults: &mut Faults,
    ) {
        let spec = task.spec.clone().unwrap_or_default();
        let name = format!("{job} {} ({})", spec.resource_id, spec.url);
        let truth = (self.truth)(&spec);
        let is_dead = dead.contains(&(job.to_owned(), spec.resource_id));
        match (task.state(), &task.object, &task.error) {
            (pb::TaskState::Done, Some(object), _) => {
                let place = (object.bucket.clone(), object.key.clone());
                match self.objects.read(&place) {
                    None => faults.add(format!("{name}: done, and there is no object {place:?}")),
                    Some(bytes) => {
                        let (digest, size) = (Sha256::digest(&bytes), bytes.len() as u64);
                        let same = hex(&digest) == object.sha256 && size == object.size_bytes;
                        faults.that(same, || format!("{name}: the object is not what the ledger says"));
                        let served = Truth::Stored { sha256: digest.into(), size_bytes: size };
                        let right = truth.is_none_or(|truth| truth == served);
                        faults.that(right, || format!("{name}: the object is not what the origin served"));
                    }
                }
                faults.that(!is_dead, || format!("{name}: done, and has a dead letter"));
                faults.that(owned.insert(place), || format!("{name}: shares its object with another"));
            }
            (pb::TaskState::Dead, None, Some(error)) => {
                let right = match &truth {
                    Some(Truth::Dead(code)) => error.code == *code,
                    Some(Truth::Stored { .. }) => false,
                    None => true,
                };
                faults.that(right, || format!("{name}: dead by {} ({}), not {truth:?}", error.code, error.message));
                faults.that(is_dead, || format!("{name}: dead, and has no dead letter"));
            }
            (pb::TaskState::Canceled, None, _) => {}
            (state, object, error) => faults.add(format!("{name}: {state:?} with {object:?} and {error:?}")),
        }
        faults.that(task.lease_expires_ms == 0, || format!("{name}: a lease outlives its owner"));
    }

    fn manifest_object(&self, job: &pb::Job, tasks: &[pb::Task], owned: &mut BTreeSet<Place>, faults: &mut Faults) {
        let place = (job.manifest_bucket.clone(), job.manifest_key.clone());
        let read = self.objects.read(&place).ok_or_else(|| format!("there is no {place:?}"));
        let parsed = read
            .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).map_err(|error| error.to_string()));
        match parsed {
            Err(error) => faults.add(format!("{}: its stored manifest: {error}", job.job_id)),
            Ok(manifest) => {
                let listed = manifest["resources"].as_array().map_or(0, Vec::len);
                faults.that(listed == tasks.len(), || {
                    format!("{}: the stored manifest lists {listed} of {}", job.job_id, tasks.len())
                });
            }
        }
        owned.insert(place);
    }
}

/// How a job with these ends must have ended.
fn outcome(done: u32, dead: u32, canceled: u32) -> pb::JobState {
    match (done, dead, canceled) {
        (_, _, 1..) => pb::JobState::Canceled,
        (_, 0, 0) => pb::JobState::Completed,
        (0, _, 0) => pb::JobState::Failed,
        (_, _, 0) => pb::JobState::Partial,
    }
}

/// GetStats is the fold over what the lists say.
fn totals(jobs: &[pb::Job], letters: &[pb::DeadLetterTask], stats: &pb::GetStatsResponse, faults: &mut Faults) {
    let told: u64 = stats.jobs_by_state.values().sum();
    faults.that(told == jobs.len() as u64, || format!("stats count {told} jobs of {}", jobs.len()));
    let mut by_state: BTreeMap<String, u64> = BTreeMap::new();
    for job in jobs {
        let name = job.state().as_str_name().trim_start_matches("JOB_STATE_").to_lowercase();
        *by_state.entry(name).or_default() += 1;
    }
    for (state, count) in &by_state {
        let spelled = |key: &&String| key.to_lowercase().trim_start_matches("job_state_") == state;
        let told = stats.jobs_by_state.keys().find(spelled).map_or(0, |key| stats.jobs_by_state[key]);
        faults.that(told == *count, || format!("stats count {told} jobs {state} of {count}"));
    }
    let mut by_code: BTreeMap<&str, u64> = BTreeMap::new();
    for letter in letters {
        *by_code.entry(letter.failure_code.as_str()).or_default() += 1;
    }
    faults.that(stats.dlq_size == letters.len() as u64, || {
        format!("stats count {} dead letters of {}", stats.dlq_size, letters.len())
    });
    for (code, count) in &by_code {
        let told = stats.dlq_by_code.get(*code).copied().unwrap_or(0);
        faults.that(told == *count, || format!("stats count {told} letters of {code}, not {count}"));
    }
    let busy = (stats.queue_depth, stats.tasks_in_flight);
    faults.that(busy == (0, 0), || format!("nothing is open, but depth and flight are {busy:?}"));
}

/// Every file of every bucket; what begins with a dot is the store's own.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            if entry.path().is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found
}

/// After a stop: chain, indexes and counters of the data directory.
///
/// A child that another test spawns right now holds our descriptors, the directory's lock among them, until it execs: that
/// moment is waited out.
pub async fn data_is_clean(data_dir: &Path) {
    let report = eventually("the directory's lock", || async {
        match fetchbox::daemon::check(data_dir) {
            Ok(report) => Some(report),
            Err(error) if error.to_string().contains("in use by another") => None,
            Err(error) => panic!("fetchbox check: {error}"),
        }
    })
    .await;
    assert!(report.ok, "fetchbox check: {}\n{}", report.summary, report.findings.join("\n"));
}

#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, fault: String) {
        self.0.push(fault);
    }

    fn that(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.0.push(otherwise());
        }
    }

    fn none(self) {
        let more = self.0.len().saturating_sub(SHOWN_MAX);
        let shown: Vec<String> = self.0.into_iter().take(SHOWN_MAX).collect();
        assert!(shown.is_empty(), "\n{}\n({more} more)", shown.join("\n"));
    }
}
