//! How long output is kept: a cleanup deletes exactly what its dry run said, active jobs keep everything, and the disk gets its room back.
//!
//! Jobs of any age are needed, so the data directory is filled through the store before the daemon starts on it, and counted after it
//! has stopped.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use fetchbox::model::{JobId, JobName, JobState, LogStream, NewLog, NewOutput, OutputKind, OutputShare, Tenant};
use fetchbox::store::{self, NamedJob, OutputBatch, OutputLimit, Reader, StatusChange, Store};
use fetchbox::telemetry::Metrics;
use futures_util::TryStreamExt as _;

use super::harness::host::Host;
use super::harness::{eventually, pb, rounds, seed};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
const OUTPUT: [pb::CleanupKind; 3] = [pb::CleanupKind::Logs, pb::CleanupKind::Metrics, pb::CleanupKind::Events];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Ended,
    /// Nobody has ended it and nothing comes any more.
    Silent,
    Running,
}

/// What a job must have.
#[derive(Debug, Clone)]
struct Kept {
    id: JobId,
    fate: Fate,
    /// Ended, or last heard of.
    age_ms: i64,
    /// Logs with lines, metrics, events.
    counts: [u64; 3],
    gone: bool,
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// Runs `fill` on a store in the folder, apart from this test's own runtime.
fn with_store<T: Send>(dir: &Path, fill: impl AsyncFnOnce(&Store, &Reader) -> T + Send) -> T {
    std::thread::scope(|scope| {
        let filled = scope.spawn(|| {
            std::fs::create_dir_all(dir).unwrap();
            let output = store::output::Options { block_bytes: 16 << 10, ..Default::default() };
            let options = store::Options { output, ..Default::default() };
            let opened = store::open(dir, &options, Metrics::new()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(fill(&opened.store, &opened.reader))
        });
        filled.join().unwrap()
    })
}

async fn open_job(store: &Store, name: String, now_ms: i64) -> JobId {
    let mut id = *JobId::first_at_ms(now_ms).as_bytes();
    id[8..].copy_from_slice(&fastrand::u64(..).to_be_bytes());
    let job = NamedJob {
        name: JobName::parse(&name).unwrap(),
        id: JobId::from_bytes(id),
        job_type: Default::default(),
        tenant: Tenant::default(),
        now_ms,
    };
    store.open_named(vec![job]).await.unwrap()[0]
}

async fn append(store: &Store, shares: &[OutputShare], now_ms: i64) {
    let (send, wait) = tokio::sync::oneshot::channel();
    store.append_output(OutputBatch::new(shares, now_ms), move |result| send.send(result).unwrap());
    assert!(wait.await.unwrap().unwrap().iter().all(Result::is_ok));
}

async fn say(store: &Store, job: JobId, at_ms: i64, lines: u64) {
    let line = |n| NewLog { message: format!("line {n}"), timestamp_ms: at_ms, ..NewLog::default() };
    store.append_logs(job, (0..lines).map(line).collect()).await.unwrap();
}

fn record(rng: &mut Rng, kind: OutputKind, bytes: usize) -> NewOutput {
    let data: Vec<u8> = (0..bytes).map(|_| rng.u8(..)).collect();
    NewOutput { kind, stream: LogStream::Stdout, time_ns: 1, sequence: 0, label: None, data: data.into() }
}

fn class(kind: OutputKind) -> usize {
    match kind {
        OutputKind::Log => 0,
        OutputKind::Metric => 1,
        _ => 2,
    }
}

/// Two jobs that share their batches: sealed, unsealed or half of each.
async fn pair(store: &Store, rng: &mut Rng, n: usize, records: u64) -> Vec<Kept> {
    let fate = [Fate::Ended, Fate::Ended, Fate::Silent, Fate::Running][rng.usize(0..4)];
    let age_ms = match fate {
        Fate::Ended => rng.i64(0..60) * DAY_MS + DAY_MS / 2,
        Fate::Silent => rng.i64(2..60) * DAY_MS + DAY_MS / 2,
        Fate::Running => rng.i64(0..20) * HOUR_MS,
    };
    let heard_ms = now_ms() - age_ms;
    let mut jobs = Vec::new();
    for side in ["a", "b"] {
        let id = open_job(store, format!("job-{n}{side}"), heard_ms - HOUR_MS).await;
        jobs.push(Kept { id, fate, age_ms, counts: [0; 3], gone: false });
    }
    let kinds = [OutputKind::Log, OutputKind::Log, OutputKind::Metric, OutputKind::Exec, OutputKind::Other];
    let rounds = rng.u64(1..6);
    let seal_after = rng.u64(0..=rounds);
    for round in 0..rounds {
        let mut shares = Vec::new();
        for job in &mut jobs {
            let mut batch = Vec::new();
            for _ in 0..(records / rounds / 2).max(1) {
                let kind = kinds[rng.usize(..kinds.len())];
                batch.push(record(rng, kind, 40));
                job.counts[class(kind)] += 1;
            }
            shares.push(OutputShare { job: job.id, expected: None, records: batch });
            let lines = rng.u64(0..20);
            if lines > 0 {
                say(store, job.id, heard_ms, lines).await;
                job.counts[0] += lines;
            }
        }
        append(store, &shares, heard_ms).await;
        if round + 1 == seal_after {
            store.seal_now(&jobs.iter().map(|job| job.id).collect::<Vec<_>>(), Duration::from_secs(60));
        }
    }
    if fate == Fate::Ended {
        for job in &jobs {
            let state = Some([JobState::Completed, JobState::Failed, JobState::Canceled][rng.usize(0..3)]);
            let (phase, failure) = (None, None);
            let change = StatusChange { job: job.id, state, phase, failure, expected_revision: None, now_ms: heard_ms };
            store.update_status(change).await.unwrap();
        }
    }
    jobs
}

/// What a cleanup must delete, and what then is left.
fn expect(jobs: &mut [Kept], kinds: &[pb::CleanupKind], older_than_days: Option<u32>) -> BTreeMap<String, u64> {
    let mut deleted = BTreeMap::new();
    let past = |age_ms: i64, usual: i64| match older_than_days {
        Some(0) => true,
        Some(days) => age_ms > i64::from(days) * DAY_MS,
        None => age_ms > usual * DAY_MS,
    };
    let mut count = |kind: &str, n: u64| *deleted.entry(kind.to_owned()).or_default() += n;
    for job in jobs.iter_mut().filter(|job| !job.gone && job.fate != Fate::Running) {
        if kinds.contains(&pb::CleanupKind::Jobs) && past(job.age_ms, 30) {
            (job.gone, job.counts) = (true, [0; 3]);
            count("JOBS", 1);
            continue;
        }
        for (at, (kind, usual)) in OUTPUT.into_iter().zip([30, 30, 7]).enumerate() {
            if kinds.contains(&kind) && past(job.age_ms, usual) {
                count(kind.as_str_name().trim_start_matches("CLEANUP_KIND_"), std::mem::take(&mut job.counts[at]));
            }
        }
    }
    positive(deleted)
}

fn positive(counts: impl IntoIterator<Item = (String, u64)>) -> BTreeMap<String, u64> {
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// A cleanup, held against its dry run.
async fn cleanup(host: &Host, request: pb::CleanupOldDataRequest) -> pb::CleanupOldDataResponse {
    let client = host.client().await;
    let dry = client.cleanup_old_data(pb::CleanupOldDataRequest { dry_run: true, ..request.clone() }).await.unwrap();
    let real = client.cleanup_old_data(request.clone()).await.unwrap();
    let timeless =
        |answer: &pb::CleanupOldDataResponse| pb::CleanupOldDataResponse { duration_ms: 0, ..answer.clone() };
    assert_eq!(timeless(&dry), timeless(&real), "{request:?}");
    real
}

/// Every record that is there, counted one by one.
fn recount(dir: &Path, jobs: &[Kept]) {
    let report = store::check(dir).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    with_store(dir, async |_, reader| {
        let limit = OutputLimit { rows: usize::MAX, bytes: usize::MAX };
        for job in jobs {
            assert_eq!(reader.job(job.id).unwrap().is_none(), job.gone, "{job:?}");
            let mut found = [0; 3];
            for kind in OutputKind::ALL {
                let slice = reader.output(job.id, kind, 0, limit, &|_| true).unwrap();
                assert!(slice.end);
                found[class(kind)] += slice.records.len() as u64;
            }
            found[0] += reader.logs(job.id, 0, usize::MAX).unwrap().len() as u64;
            assert_eq!(found, job.counts, "{job:?}");
        }
        let of_nobody = |id: JobId| reader.job(id).unwrap().is_none();
        assert!(!reader.heads_after(None, usize::MAX).unwrap().into_iter().any(|head| of_nobody(head.job)));
    });
}

/// A stopped sweep, and jobs of every fate.
async fn filled(rng: &mut Rng, records: u64, pairs: usize) -> (Host, Vec<Kept>) {
    let mut jobs = Vec::new();
    let host = Host::start(|config| {
        config.retention.interval_ms = 0;
        let dir = config.data_dir.clone();
        jobs = with_store(&dir, async |store, _| {
            let mut jobs = Vec::new();
            for n in 0..pairs {
                jobs.extend(pair(store, rng, n, records / pairs as u64).await);
            }
            jobs
        });
    })
    .await;
    (host, jobs)
}

fn records() -> u64 {
    u64::from(rounds("FETCHBOX_KEPT_RECORDS", 50_000))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_deletes_what_its_dry_run_said_of_every_kind_and_nothing_of_an_active_job() {
    let mut rng = Rng::with_seed(seed());
    let (mut host, mut jobs) = filled(&mut rng, records() / 2, 20).await;
    let all = [pb::CleanupKind::Jobs, OUTPUT[0], OUTPUT[1], OUTPUT[2]];
    for (round, older_than_days) in [Some(50), Some(40), None, Some(20), Some(3), Some(0)].into_iter().enumerate() {
        let kinds: Vec<_> = all.into_iter().filter(|_| rng.bool()).collect();
        let kinds = if kinds.is_empty() { all.to_vec() } else { kinds };
        let asked = kinds.iter().map(|kind| *kind as i32).collect();
        let request = pb::CleanupOldDataRequest { older_than_days, kinds: asked, ..Default::default() };
        let expected = expect(&mut jobs, &kinds, older_than_days);
        assert_eq!(positive(cleanup(&host, request.clone()).await.deleted), expected, "round {round}: {request:?}");
        assert_eq!(positive(cleanup(&host, request).await.deleted), BTreeMap::new());
        if round == 2 {
            host.restart().await;
        }
    }
    assert!(jobs.iter().any(|job| job.fate == Fate::Running), "the seed has no running job");
    host.stop().await;
    recount(&host.data_dir(), &jobs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_cleanup_never_exceeds_its_limit_and_in_the_end_everything_is_gone_once() {
    let mut rng = Rng::with_seed(seed());
    let (mut host, mut jobs) = filled(&mut rng, records() / 2, 10).await;
    let kinds = OUTPUT.iter().map(|kind| *kind as i32).collect::<Vec<_>>();
    let request = pb::CleanupOldDataRequest { older_than_days: Some(0), kinds, ..Default::default() };
    let mut deleted = BTreeMap::new();
    let mut add = |answer: pb::CleanupOldDataResponse| {
        let sum: u64 = answer.deleted.values().sum();
        for (kind, count) in answer.deleted {
            *deleted.entry(kind).or_insert(0) += count;
        }
        sum
    };
    for _ in 0..15 {
        let max_deletes = rng.u64(1..2_000);
        let answer = cleanup(&host, pb::CleanupOldDataRequest { max_deletes, ..request.clone() }).await;
        assert!(add(answer) <= max_deletes);
    }
    let rest = cleanup(&host, request).await;
    assert!(!rest.more);
    add(rest);
    assert_eq!(positive(deleted), expect(&mut jobs, &OUTPUT, Some(0)));
    host.stop().await;
    recount(&host.data_dir(), &jobs);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_ends_what_nobody_ends_and_deletes_by_age_without_being_asked() {
    let mut rng = Rng::with_seed(seed());
    let (mut host, mut jobs) = filled(&mut rng, records() / 10, 10).await;
    host.stop().await;
    host.configure(|config| config.retention.interval_ms = 50);
    host.resume().await;
    let client = host.client().await;
    let all = [pb::CleanupKind::Jobs, OUTPUT[0], OUTPUT[1], OUTPUT[2]];
    expect(&mut jobs, &all, None);
    let gone = jobs.iter().filter(|job| job.gone).count();
    let silent: Vec<_> = jobs.iter().filter(|job| job.fate == Fate::Silent && !job.gone).cloned().collect();
    eventually("the sweep", async || {
        let answer = client.list_jobs(pb::ListJobsRequest { page_size: 1_000, ..Default::default() }).await.unwrap();
        let ended = silent.iter().all(|job| {
            answer
                .jobs
                .iter()
                .any(|found| found.phase == "no output for 24 h" && found.job_id.contains(&job.id.to_string()))
                || answer.jobs.iter().filter(|found| found.phase == "no output for 24 h").count() == silent.len()
        });
        (answer.jobs.len() == jobs.len() - gone && ended).then_some(())
    })
    .await;
    // One more pass has gone through every kind when this one has ended.
    let nothing = pb::CleanupOldDataRequest::default();
    eventually("the kinds", async || {
        let dry =
            client.cleanup_old_data(pb::CleanupOldDataRequest { dry_run: true, ..nothing.clone() }).await.unwrap();
        positive(dry.deleted).is_empty().then_some(())
    })
    .await;
    host.stop().await;
    recount(&host.data_dir(), &jobs);
}

/// What the files under the folder occupy.
fn used(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let each = entries.flatten().map(|entry| match entry.metadata() {
        Ok(file) if file.is_dir() => used(&entry.path()),
        Ok(file) => file.blocks() * 512,
        Err(_) => 0,
    });
    each.sum()
}

/// The last lines of a running job, and how long the question took.
async fn look(host: &Host, job: JobId) -> Duration {
    let client = host.client().await;
    let request = pb::QueryLogsRequest { job_id: job.to_string(), tail: 50, ..Default::default() };
    let began = Instant::now();
    let page = client.query_logs(request).await.unwrap().try_next().await.unwrap().unwrap();
    let took = began.elapsed();
    let expected = (50..100).map(|n| Some(pb::log_record::Content::Message(format!("line {n}"))));
    assert!(page.records.into_iter().map(|record| record.content).eq(expected), "the last lines are others");
    took
}

fn told(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    println!("{what}: {} queries, median {:?}, p99 {:?}", times.len(), at(50), at(99));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_has_its_room_back_soon_after_a_cleanup_and_queries_stay_right_meanwhile() {
    let mut rng = Rng::with_seed(seed());
    let (each, mut running) = (records() / 100, JobId::MIN);
    let host = Host::start(|config| {
        config.retention.interval_ms = 0;
        running = with_store(&config.data_dir.clone(), async |store, _| {
            let at_ms = now_ms() - DAY_MS;
            let mut ended = Vec::new();
            for n in 0..100 {
                let job = open_job(store, format!("old-{n}"), at_ms).await;
                for begin in (0..each).step_by(500) {
                    let records =
                        (begin..each.min(begin + 500)).map(|_| record(&mut rng, OutputKind::Log, 400)).collect();
                    append(store, &[OutputShare { job, expected: None, records }], at_ms).await;
                    while !store.wait_for_output_room(Duration::from_secs(1)) {}
                }
                let change = StatusChange {
                    job,
                    state: Some(JobState::Completed),
                    phase: None,
                    failure: None,
                    expected_revision: None,
                    now_ms: at_ms,
                };
                store.update_status(change).await.unwrap();
                ended.push(job);
            }
            // Sealing is not what is looked at.
            store.seal_now(&ended, Duration::from_secs(120));
            let running = open_job(store, "running".to_owned(), now_ms()).await;
            append(
                store,
                &[OutputShare {
                    job: running,
                    expected: None,
                    records: vec![record(&mut rng, OutputKind::Log, 400); 99],
                }],
                now_ms(),
            )
            .await;
            say(store, running, now_ms(), 100).await;
            running
        });
    })
    .await;
    let request = pb::CleanupOldDataRequest { older_than_days: Some(0), dry_run: true, ..Default::default() };
    let dry = host.client().await.cleanup_old_data(request.clone()).await.unwrap();
    let before = used(&host.data_dir());
    let mut times = Vec::new();
    for _ in 0..200 {
        times.push(look(&host, running).await);
    }
    told("before", times);
    let (stop, began) = (std::sync::atomic::AtomicBool::new(false), Instant::now());
    let asking = async {
        let mut times = Vec::new();
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            times.push(look(&host, running).await);
        }
        times
    };
    let cleaning = async {
        let real = pb::CleanupOldDataRequest { dry_run: false, ..request };
        let real = host.client().await.cleanup_old_data(real).await.unwrap();
        println!("deleted in {:?}: {:?}, {} bytes", began.elapsed(), real.deleted, real.reclaimed_bytes);
        assert_eq!((&real.deleted, real.deleted["JOBS"]), (&dry.deleted, 100));
        assert!(real.reclaimed_bytes > each * 100 * 400);
        let left = eventually("the room", async || {
            let (left, tables) = (used(&host.data_dir()), used(&host.data_dir().join("db/keyspaces")));
            let back = left < before.saturating_sub(real.reclaimed_bytes * 9 / 10);
            (back && tables < real.reclaimed_bytes / 10).then_some(left)
        })
        .await;
        println!("room back after {:?}: {before} bytes, now {left}", began.elapsed());
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let (times, ()) = tokio::join!(asking, cleaning);
    told("meanwhile", times);
}
