//! Retention over a real store and a real folder of objects.

use tempfile::TempDir;

use super::*;
use crate::model::{
    DeadLetterSelector, Failure, FailureCode, JobName, JobState, LogStream, Manifest, NewLog, NewOutput, OutputKind,
    OutputShare, Priority, StoredObject, TaskSpec, Tenant,
};
use crate::store::{self, End, Idempotency, LeaseWant, NewJob, Settlement, StoreGuard, TenantKey};

const DAY_MS: i64 = 86_400_000;
const NOW_MS: i64 = 100 * DAY_MS;

struct Site {
    store: Store,
    reader: Reader,
    retention: Retention,
    _guard: StoreGuard,
    /// Dropped last: the store still writes when its guard goes.
    _dir: TempDir,
}

fn site() -> Site {
    site_with(Options::default()).0
}

fn site_with(options: Options) -> (Site, Sweeper) {
    let dir = tempfile::tempdir().unwrap();
    let opened = store::open(dir.path(), &store::Options::default(), Metrics::new()).unwrap();
    let root = dir.path().join("objects");
    let objects = Objects::new(crate::objects::Options { root, ..Default::default() }).unwrap();
    let (store, reader) = (opened.store.clone(), opened.reader.clone());
    let clock = Clock::manual(NOW_MS);
    let parts = (store.clone(), reader.clone());
    let (sweeper, retention) = Retention::new(options, parts.0, parts.1, objects, clock, Metrics::new());
    (Site { _dir: dir, store, reader, retention, _guard: opened.guard }, sweeper)
}

impl Site {
    /// One resource each; what has an idempotency key is told by its number.
    async fn admit(&self, n: u8, day: i64) -> JobId {
        let now_ms = day * DAY_MS + i64::from(n);
        let id = JobId::first_at_ms(now_ms);
        let job = NewJob {
            id,
            job_type: Default::default(),
            tenant: Default::default(),
            priority: Priority::Normal,
            trace_id: String::new(),
            external: false,
            idempotency: Some(Idempotency { key: [n; 16], body: [7; 32] }),
            manifest: Manifest { metadata_json: "{}".into(), attributes_json: "{}".into(), ..Manifest::default() },
            tasks: vec![TaskSpec { resource_id: "r0".into(), url: "http://h/0".into(), ..TaskSpec::default() }],
            manifest_bucket: "fetchbox".into(),
            manifest_key: format!("manifests/{n}"),
            now_ms,
            open_tasks_max: 1_000_000,
            parallel_max: 0,
        };
        let (send, wait) = tokio::sync::oneshot::channel();
        self.store.admit(job, move |result| send.send(result).unwrap());
        wait.await.unwrap().unwrap().job
    }

    /// A job that another program named and that put out 40 records of noise on that day.
    async fn noisy(&self, name: &str, day: i64, ended: bool) -> JobId {
        let now_ms = day * DAY_MS;
        let job = crate::store::NamedJob {
            name: JobName::parse(name).unwrap(),
            id: JobId::first_at_ms(now_ms),
            job_type: Default::default(),
            tenant: Tenant::default(),
            now_ms,
        };
        let id = self.store.open_named(vec![job]).await.unwrap()[0];
        let mut rng = fastrand::Rng::with_seed(day.unsigned_abs());
        let mut record = || NewOutput {
            kind: OutputKind::Log,
            stream: LogStream::Stdout,
            time_ns: 1,
            sequence: 0,
            label: None,
            data: (0..4_000).map(|_| rng.u8(..)).collect::<Vec<u8>>().into(),
        };
        let shares = [OutputShare { job: id, expected: None, records: (0..40).map(|_| record()).collect() }];
        let (send, wait) = tokio::sync::oneshot::channel();
        self.store.append_output(store::OutputBatch::new(&shares, now_ms), move |result| send.send(result).unwrap());
        wait.await.unwrap().unwrap();
        if ended {
            let state = Some(JobState::Completed);
            let (phase, failure, expected_revision) = (None, None, None);
            let change = store::StatusChange { job: id, state, phase, failure, expected_revision, now_ms };
            self.store.update_status(change).await.unwrap();
        }
        id
    }

    /// Records of output that are kept.
    fn left(&self, id: JobId) -> u64 {
        let (from, end) = self.reader.kept(id, OutputKind::Log).unwrap();
        end - from
    }

    /// Runs everything that is ready: resources end as `end` says, manifests are stored.
    async fn work(&self, now_ms: i64, end: impl Fn() -> End) {
        let page = self.reader.ready_after(Priority::Normal, TenantKey::of(&Tenant::default()), 0, 1_000).unwrap();
        let wants = page.entries.iter().flat_map(|entry| {
            let task = |index: &_| crate::model::TaskRef { job: entry.plan.job, index: *index };
            entry.tasks.iter().map(move |index| LeaseWant { task: task(index), from: entry.key, until_ms: now_ms + 1 })
        });
        let spent = page.entries.iter().map(|entry| entry.key).collect();
        let leases = self.store.lease(wants.collect(), spent, now_ms).await.unwrap();
        let settlements = leases.into_iter().flatten().map(|lease| Settlement {
            task: lease.task,
            epoch: lease.epoch,
            now_ms,
            started_at_ms: now_ms,
            end: if lease.task.is_manifest() { End::ManifestStored } else { end() },
            log: Some(NewLog { message: "a line".into(), ..NewLog::default() }),
        });
        self.store.settle(settlements.collect()).await.unwrap();
    }
}

fn stored() -> End {
    let object = StoredObject { bucket: "fetchbox".into(), key: "resources/x".into(), ..Default::default() };
    End::Stored { object, validators: Default::default(), context: Default::default() }
}

fn dead() -> End {
    End::Dead(Failure::new(FailureCode::DownloadNotFound, "404"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_over_the_real_store_reports_what_the_real_run_then_deletes() {
    let site = site();
    for n in 0..5 {
        site.admit(n, 10).await;
    }
    site.work(11 * DAY_MS, stored).await;
    for n in 5..8 {
        site.admit(n, 80).await;
    }
    site.work(81 * DAY_MS, dead).await;
    let active = site.admit(9, 1).await;

    for (asked, jobs, keys, letters) in [(None, 5, 3, 0), (Some(0), 3, 0, 3)] {
        let cleanup = Cleanup { older_than_days: asked, ..Cleanup::default() };
        let dry = site.retention.cleanup(Cleanup { dry_run: true, ..cleanup.clone() }).await.unwrap();
        let real = site.retention.cleanup(cleanup.clone()).await.unwrap();
        assert_eq!(dry, real);
        assert_eq!(real.deleted[&CleanupKind::Jobs], jobs, "{real:?}");
        assert_eq!(real.deleted[&CleanupKind::Idempotency], keys, "{real:?}");
        assert_eq!(real.deleted[&CleanupKind::Dlq], letters, "{real:?}");
        let again = site.retention.cleanup(cleanup).await.unwrap();
        assert_eq!(again.deleted.values().sum::<u64>(), 0, "{again:?}");
    }
    assert!(site.reader.has_idempotency_key(active).unwrap());
    assert_eq!(site.reader.jobs_after(JobId::MIN, 10).unwrap().len(), 1);
    assert_eq!(site.reader.counters().dead_letter_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_go_alone_and_once_and_compaction_answers() {
    let site = site();
    let id = site.admit(1, 10).await;
    site.work(11 * DAY_MS, stored).await;
    let lines = site.reader.job(id).unwrap().unwrap().log_count;
    assert!(lines > 0);
    let cleanup = Cleanup { kinds: [CleanupKind::Logs].into(), compact: true, ..Cleanup::default() };
    assert_eq!(site.retention.cleanup(cleanup.clone()).await.unwrap().deleted[&CleanupKind::Logs], lines);
    assert_eq!(site.retention.cleanup(cleanup).await.unwrap().deleted[&CleanupKind::Logs], 0);
    assert!(site.reader.logs(id, 0, 10).unwrap().is_empty() && site.reader.job(id).unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_job_frees_its_key_and_a_purged_letter_is_gone() {
    let site = site();
    let id = site.admit(1, 10).await;
    assert_eq!(site.retention.delete_job(id, true).await.unwrap_err().code, RefusalCode::IllegalState);
    site.work(11 * DAY_MS, dead).await;
    // Only the manifest was stored; that it has no object here is fine.
    assert_eq!(site.retention.delete_job(id, true).await.unwrap(), 1);
    assert_eq!(site.retention.delete_job(id, true).await.unwrap_err().code, RefusalCode::NotFound);
    let again = site.admit(1, 12).await;
    assert_ne!(again, id);
    let all = DeadLetterSelector { job: Some(id), ..DeadLetterSelector::default() };
    assert_eq!(site.retention.purge(all.clone()).await.unwrap(), (1, 1));
    assert_eq!(site.retention.purge(all).await.unwrap(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_open_task_has_staged_is_kept_and_what_an_ended_one_left_is_removed() {
    let site = site();
    let staging = site._dir.path().join("objects/.staging");
    std::fs::create_dir_all(&staging).unwrap();
    let id = site.admit(1, 10).await;
    let task = crate::model::TaskRef { job: id, index: crate::model::TaskIndex(0) };
    let page = site.reader.ready_after(Priority::Normal, TenantKey::of(&Tenant::default()), 0, 10).unwrap();
    let want = LeaseWant { task, from: page.entries[0].key, until_ms: NOW_MS };
    let lease = site.store.lease(vec![want], Vec::new(), NOW_MS).await.unwrap()[0].unwrap();
    let mut upload = fake::upload_at(task, &task.stage(lease.epoch), 10 * DAY_MS);
    (upload.epoch, upload.bucket, upload.stage) = (lease.epoch, "fetchbox".into(), task.stage(lease.epoch));
    site.store.upload_begun(upload.clone()).await.unwrap();
    std::fs::write(staging.join(&upload.stage), b"a part").unwrap();
    std::fs::write(staging.join(task.stage(lease.epoch + 1)), b"of a killed process").unwrap();
    let cleanup = Cleanup { older_than_days: Some(0), kinds: [CleanupKind::Uploads].into(), ..Cleanup::default() };
    let swept = site.retention.cleanup(cleanup.clone()).await.unwrap();
    assert_eq!(swept.deleted[&CleanupKind::Uploads], 1, "the file nobody knows");
    assert!(staging.join(&upload.stage).exists(), "an attempt is writing it");

    let failure = Failure::new(FailureCode::DownloadNotFound, "404");
    let settlement = Settlement {
        task,
        epoch: lease.epoch,
        now_ms: NOW_MS,
        started_at_ms: NOW_MS,
        end: End::Dead(failure),
        log: None,
    };
    site.store.settle(vec![settlement]).await.unwrap();
    let young = Cleanup { older_than_days: None, ..cleanup };
    assert_eq!(site.retention.cleanup(young).await.unwrap().deleted[&CleanupKind::Uploads], 1);
    assert_eq!(std::fs::read_dir(&staging).unwrap().count(), 0);
    assert!(site.reader.uploads(None, 10).unwrap().is_empty());
}

#[test]
fn a_request_without_kinds_cleans_them_all_at_their_configured_ages() {
    let day = 86_400_000;
    let order = asked(&Options::default(), &Cleanup::default(), 100 * day);
    assert_eq!(order.kinds.len(), CleanupKind::ALL.len());
    assert_eq!((order.cutoffs.jobs, order.cutoffs.dlq), (Some(70 * day), Some(10 * day)));
    assert_eq!((order.max, order.dry_run), (None, false));
    let one = Cleanup { older_than_days: Some(3), max_deletes: 9, ..Cleanup::default() };
    let order = asked(&Options::default(), &one, 100 * day);
    assert_eq!((order.cutoffs.queue, order.max), (Some(97 * day), Some(9)));
}

#[test]
fn a_batch_the_store_would_refuse_is_refused_at_start() {
    assert!(Options::default().check().is_ok());
    for batch in [0, 1_001] {
        assert!(Options { batch, ..Options::default() }.check().unwrap_err().starts_with("retention.batch"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_beyond_its_cap_goes_from_the_oldest_ended_job_and_running_ones_keep_theirs() {
    let (site, sweeper) = site_with(Options { output_bytes_max: 400_000, idle_hours: 0, ..Options::default() });
    let running = site.noisy("running", 95, false).await;
    let mut ended = Vec::new();
    for day in 96..100 {
        ended.push(site.noisy(&format!("job-{day}"), day, true).await);
    }
    // What is still in memory takes no place on the disk.
    tokio::task::block_in_place(|| {
        site.store.seal_now(&[&ended[..], &[running]].concat(), std::time::Duration::from_secs(60));
        site.store.compact_output()
    })
    .unwrap();
    sweeper.once().await.unwrap();
    let left: Vec<u64> = ended.iter().map(|id| site.left(*id)).collect();
    assert_eq!((site.left(running), left), (40, vec![0, 0, 0, 40]), "160 kB each, and one block each");
    assert_eq!(site.reader.jobs_after(JobId::MIN, 10).unwrap().len(), 5, "no job goes for it");
    let bytes = site.reader.sizes().keyspaces["output"];
    assert!(bytes <= 400_000, "{bytes} bytes are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_another_program_is_deleted_running_and_its_name_is_free() {
    let site = site();
    let (a, ours) = (site.noisy("a", 99, false).await, site.admit(1, 10).await);
    assert_eq!(site.retention.delete_output_job(ours).await.unwrap_err().code, RefusalCode::IllegalState);
    site.retention.delete_output_job(a).await.unwrap();
    assert_eq!(site.retention.delete_output_job(a).await.unwrap_err().code, RefusalCode::NotFound);
    assert_eq!(site.reader.find_job("a").unwrap(), None);
    assert!(!site.reader.has_tail(a) && site.reader.heads_after(None, 10).unwrap().is_empty());
}

#[test]
fn a_schedule_that_means_nothing_is_refused_by_its_key() {
    let bad = Options { schedule: "every night".into(), ..Options::default() };
    assert!(bad.check().unwrap_err().starts_with("retention.schedule: "));
    assert!(Options { schedule: "0 2 * * *".into(), ..Options::default() }.check().is_ok());
    assert!(Options { disk_percent_max: 101, ..Options::default() }.check().unwrap_err().starts_with("retention.disk"));
}
