//! The store on a real database in a temporary folder: what is acknowledged is there after reopening, and damage is named.

use std::path::Path;

use crate::model::*;
use crate::store::*;
use crate::telemetry::Metrics;

mod counts;
mod output;
mod prune;
mod uploads;

pub(super) fn reopen(dir: &Path) -> Opened {
    open(dir, &Options::default(), Metrics::new()).unwrap()
}

pub(super) fn new_job(n: u64, resources: usize) -> NewJob {
    let tasks: Vec<TaskSpec> = (0..resources)
        .map(|i| TaskSpec { resource_id: format!("r{i}"), url: format!("http://h/{n}/{i}"), ..TaskSpec::default() })
        .collect();
    let resources = tasks
        .iter()
        .map(|task| Resource { id: task.resource_id.clone(), url: task.url.clone(), ..Resource::default() })
        .collect();
    let mut id = *JobId::first_at_ms(1_000).as_bytes();
    id[8..].copy_from_slice(&n.to_be_bytes());
    NewJob {
        id: JobId::from_bytes(id),
        job_type: JobType::default(),
        tenant: Tenant::default(),
        priority: Priority::Normal,
        trace_id: String::new(),
        external: false,
        idempotency: Some(Idempotency { key: [u8::try_from(n % 256).unwrap(); 16], body: [7; 32] }),
        manifest: Manifest {
            metadata_json: "{}".into(),
            attributes_json: "{}".into(),
            resources,
            ..Manifest::default()
        },
        tasks,
        manifest_bucket: "fetchbox".into(),
        manifest_key: format!("manifests/{n}"),
        now_ms: 1_000,
        open_tasks_max: 1_000_000,
        parallel_max: 0,
    }
}

pub(super) async fn admit(store: &Store, job: NewJob) -> Result<Admitted, Refusal> {
    let (send, wait) = tokio::sync::oneshot::channel();
    store.admit(job, move |result| send.send(result).unwrap());
    wait.await.unwrap()
}

async fn lease_all(opened: &Opened) -> Vec<Lease> {
    let page = opened.reader.ready_after(Priority::Normal, TenantKey::of(&Tenant::default()), 0, 1_000).unwrap();
    let mut wants = Vec::new();
    for entry in &page.entries {
        for index in &entry.tasks {
            let task = TaskRef { job: entry.plan.job, index: *index };
            wants.push(LeaseWant { task, from: entry.key, until_ms: 9_000 });
        }
    }
    let spent = page.entries.iter().map(|entry| entry.key).collect();
    opened.store.lease(wants, spent, 2_000).await.unwrap().into_iter().flatten().collect()
}

pub(super) fn settlement(lease: &Lease, end: End) -> Settlement {
    Settlement {
        task: lease.task,
        epoch: lease.epoch,
        now_ms: 3_000,
        started_at_ms: 2_000,
        end,
        log: Some(NewLog::default()),
    }
}

fn done(lease: &Lease) -> Settlement {
    let stored = End::Stored {
        object: StoredObject::default(),
        validators: Validators::default(),
        context: std::collections::BTreeMap::from([("proxy".to_owned(), "eu".to_owned())]),
    };
    let end = if lease.task.is_manifest() { End::ManifestStored } else { stored };
    settlement(lease, end)
}

fn dead(lease: &Lease) -> Settlement {
    let mut failure = Failure::new(FailureCode::DownloadNotFound, "404").with("host", "h:80");
    failure.at_ms = 3_000;
    settlement(lease, End::Dead(failure))
}

pub(super) fn checked(dir: &Path) {
    let report = check(dir).unwrap();
    assert!(report.is_clean(), "{:#?}", report.problems);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_job_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let opened = reopen(dir.path());
    let jobs: Vec<_> = (1..=20).map(|n| new_job(n, 3)).collect();
    for job in &jobs {
        assert!(!admit(&opened.store, job.clone()).await.unwrap().duplicate);
    }
    assert!(admit(&opened.store, new_job(3, 3)).await.unwrap().duplicate);
    let other = NewJob { idempotency: Some(Idempotency { key: [3; 16], body: [8; 32] }), ..new_job(90, 1) };
    assert_eq!(admit(&opened.store, other).await.unwrap_err().code, RefusalCode::AlreadyExists);
    drop(opened);
    checked(dir.path());
    let opened = reopen(dir.path());
    for job in &jobs {
        assert_eq!(opened.reader.job(job.id).unwrap().unwrap().state, JobState::Queued);
        assert_eq!(opened.reader.manifest(job.id).unwrap().unwrap(), job.manifest);
    }
    assert_eq!(opened.reader.counters().tasks_open, 80);
    assert_eq!(lease_all(&opened).await.len(), 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_counts_once_and_only_from_the_lease_that_holds() {
    let dir = tempfile::tempdir().unwrap();
    let opened = reopen(dir.path());
    let job = new_job(1, 2);
    admit(&opened.store, job.clone()).await.unwrap();
    let leases = lease_all(&opened).await;
    assert_eq!(leases.len(), 3, "the manifest and two resources");
    let stale = Lease { epoch: leases[1].epoch + 100, ..leases[1] };
    assert_eq!(opened.store.settle(vec![done(&stale)]).await.unwrap(), [Settled::Stale]);
    let first = opened.store.settle(vec![done(&leases[0]), done(&leases[1]), done(&leases[1])]).await.unwrap();
    assert_eq!(first, [Settled::Applied { ended: None }, Settled::Applied { ended: None }, Settled::Stale]);
    let last = opened.store.settle(vec![dead(&leases[2])]).await.unwrap();
    assert_eq!(last, [Settled::Applied { ended: Some(JobState::Partial) }]);
    let seen = opened.reader.job(job.id).unwrap().unwrap();
    assert_eq!((seen.completed, seen.failed, seen.log_count), (1, 1, 3));
    assert_eq!(opened.reader.owed_after(JobId::MIN, 9).unwrap(), [(job.id, seen.revision)]);
    opened.store.finalized(job.id, seen.revision, None).await.unwrap();
    assert!(opened.reader.owed_after(JobId::MIN, 9).unwrap().is_empty());
    drop(opened);
    checked(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_in_flight_at_a_crash_run_again_without_losing_an_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let opened = reopen(dir.path());
    admit(&opened.store, new_job(1, 2)).await.unwrap();
    let leases = lease_all(&opened).await;
    drop(opened);
    checked(dir.path());
    let opened = reopen(dir.path());
    assert_eq!(opened.store.void_leases(5_000, 20).await.unwrap(), 3);
    let cut = opened.reader.attempts(TaskRef { job: new_job(1, 2).id, index: TaskIndex(0) }).unwrap();
    assert_eq!((cut.len(), cut[0].number, cut[0].failure.code), (1, 1, FailureCode::SystemInterrupted));
    let told = opened.reader.logs(new_job(1, 2).id, 0, 9).unwrap();
    assert_eq!(told.iter().filter(|line| line.entry.message.contains("daemon stopped")).count(), 3, "{told:?}");
    assert_eq!(opened.store.settle(vec![done(&leases[0])]).await.unwrap(), [Settled::Stale]);
    let due = opened.reader.due_after(DueCursor { at_ms: 0, task: None }, 5_000, 9).unwrap();
    assert_eq!(due.len(), 3);
    let want = |entry: &DueEntry| LeaseWant {
        task: entry.task,
        from: QueueKey::Due { at_ms: entry.at_ms, task: entry.task },
        until_ms: 9_000,
    };
    let again = opened.store.lease(due.iter().map(want).collect(), vec![], 6_000).await.unwrap();
    assert!(again.iter().flatten().all(|lease| lease.attempt == 1 && lease.epoch > 3));
    assert_eq!(again.iter().flatten().count(), 3);
    let twice = opened.store.lease(due.iter().map(want).collect(), vec![], 6_000).await.unwrap();
    assert!(twice.iter().all(Option::is_none));
    drop(opened);
    checked(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_retry_and_replay_keep_every_counter_true() {
    let dir = tempfile::tempdir().unwrap();
    let opened = reopen(dir.path());
    let (a, b) = (new_job(1, 3), new_job(2, 2));
    admit(&opened.store, a.clone()).await.unwrap();
    let canceled = opened.store.cancel(a.id, "no".into(), 1_500).await.unwrap();
    assert_eq!((canceled.job.state, canceled.job.canceled), (JobState::Queued, 3));
    let due = opened.reader.due_after(DueCursor { at_ms: 0, task: None }, 2_000, 9).unwrap();
    assert_eq!(due.iter().map(|entry| entry.task).collect::<Vec<_>>(), [TaskRef::manifest(a.id)]);
    let from = QueueKey::Due { at_ms: due[0].at_ms, task: due[0].task };
    let lease =
        opened.store.lease(vec![LeaseWant { task: due[0].task, from, until_ms: 9 }], vec![], 2_000).await.unwrap();
    opened.store.settle(vec![done(&lease[0].unwrap())]).await.unwrap();
    assert_eq!(opened.reader.job(a.id).unwrap().unwrap().state, JobState::Canceled);
    let (job, reopened) = opened.store.retry(a.id, vec![], 2_500).await.unwrap();
    assert_eq!((job.state, reopened), (JobState::InProgress, 3));

    admit(&opened.store, b.clone()).await.unwrap();
    let leases = lease_all(&opened).await;
    let ends = leases.iter().map(|lease| if lease.task.is_manifest() { done(lease) } else { dead(lease) }).collect();
    opened.store.settle(ends).await.unwrap();
    let letters = opened.reader.dead_letters(None, 9).unwrap();
    assert_eq!(letters.len(), 2);
    let fresh = |n| FreshJob { id: new_job(n, 1).id, manifest_bucket: "b".into(), manifest_key: "k".into() };
    assert_eq!(opened.store.replay(letters[0].id, fresh(70), 4_000).await.unwrap().job, b.id);
    assert!(opened.store.replay(letters[0].id, fresh(71), 4_000).await.is_err(), "a letter is replayed once");
    assert_eq!(opened.store.prune(vec![Prune::Job(b.id)]).await.unwrap(), 0, "an active job is not deleted");
    drop(opened);
    checked(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_manifest_the_store_refuses_for_good_ends_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let opened = reopen(dir.path());
    let job = new_job(1, 1);
    admit(&opened.store, job.clone()).await.unwrap();
    let refused = |lease: &Lease| {
        let mut failure = Failure::new(FailureCode::UploadRejected, "no such folder");
        failure.at_ms = 3_000;
        settlement(lease, End::Dead(failure))
    };
    let ends = lease_all(&opened).await;
    let ends = ends.iter().map(|lease| if lease.task.is_manifest() { refused(lease) } else { done(lease) }).collect();
    opened.store.settle(ends).await.unwrap();
    let ended = opened.reader.job(job.id).unwrap().unwrap();
    assert_eq!((ended.state, ended.completed, ended.manifest_stored), (JobState::Partial, 1, false));
    assert_eq!(ended.errors.last().unwrap().code, FailureCode::UploadRejected);
    assert!(opened.reader.dead_letters(None, 9).unwrap().is_empty(), "it is no resource");
    assert!(lease_all(&opened).await.is_empty(), "nothing is tried again by itself");
    assert_eq!(opened.reader.counters().tasks_open, 0);

    let (job, reopened) = opened.store.retry(job.id, vec![], 4_000).await.unwrap();
    assert_eq!((job.state, reopened), (JobState::InProgress, 0));
    let due = opened.reader.due_after(DueCursor { at_ms: 0, task: None }, 5_000, 9).unwrap();
    let from = QueueKey::Due { at_ms: due[0].at_ms, task: due[0].task };
    let want = LeaseWant { task: due[0].task, from, until_ms: 9_000 };
    let lease = opened.store.lease(vec![want], vec![], 5_000).await.unwrap()[0].unwrap();
    opened.store.settle(vec![done(&lease)]).await.unwrap();
    assert_eq!(opened.reader.job(job.id).unwrap().unwrap().state, JobState::Completed);
    assert_eq!(opened.store.prune(vec![Prune::Job(job.id)]).await.unwrap(), 1);
    drop(opened);
    checked(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_outlives_its_job_and_is_replayed_in_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let opened = reopen(dir.path());
    let job = new_job(1, 1);
    admit(&opened.store, job.clone()).await.unwrap();
    let leases = lease_all(&opened).await;
    opened.store.settle(vec![done(&leases[0]), dead(&leases[1])]).await.unwrap();
    assert_eq!(opened.store.prune(vec![Prune::Job(job.id)]).await.unwrap(), 1);
    assert!(opened.reader.job(job.id).unwrap().is_none());
    assert!(!admit(&opened.store, new_job(4, 1)).await.unwrap().duplicate);
    let letter = opened.reader.dead_letters(None, 9).unwrap().remove(0);
    let fresh = FreshJob { id: new_job(70, 1).id, manifest_bucket: "b".into(), manifest_key: "k".into() };
    let replayed = opened.store.replay(letter.id, fresh, 4_000).await.unwrap();
    let task = opened.reader.task(TaskRef { job: replayed.job, index: replayed.task }).unwrap().unwrap();
    assert_eq!(task.replay_of, letter.id.to_string());
    assert_eq!(task.spec.url, job.tasks[0].url);
    drop(opened);
    checked(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_a_synced_journal_never_loses_a_job_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let opened = reopen(&home);
    for n in 1..=40 {
        admit(&opened.store, new_job(n, 2)).await.unwrap();
    }
    drop(opened);
    let (_, journal) = journal::files(&home.join("db")).unwrap().pop().unwrap();
    let audit = journal::audit(&home.join("db"), |_| ()).unwrap();
    assert_eq!(audit.last.map(|(sequence, _)| sequence), Some(40));
    assert_eq!(audit.damage, None);
    let used = std::fs::read(&journal).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    let mut rng = fastrand::Rng::with_seed(7);
    // The first group's own bytes too: then no journal says how far it went.
    for round in 0..20 {
        let bit = if round < 4 { rng.usize(0..200 * 8) } else { rng.usize(0..used * 8) };
        let bytes = std::fs::read(&journal).unwrap();
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&journal, &flipped).unwrap();
        match open(&home, &Options::default(), Metrics::new()) {
            Ok(_) => panic!("bit {bit} was not noticed"),
            Err(OpenError::Damaged(_)) => {}
            Err(other) => panic!("bit {bit}: {other}"),
        }
        assert_eq!(std::fs::read(&journal).unwrap(), flipped, "a refusal changes nothing");
        std::fs::write(&journal, &bytes).unwrap();
    }
    assert_eq!(reopen(&home).reader.counters().tasks_open, 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_readable_of_a_damaged_directory_is_salvaged() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let opened = reopen(&home);
    for n in 1..=10 {
        admit(&opened.store, new_job(n, 2)).await.unwrap();
    }
    drop(opened);
    let (_, journal) = journal::files(&home.join("db")).unwrap().pop().unwrap();
    let mut bytes = std::fs::read(&journal).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[used / 2] ^= 1;
    std::fs::write(&journal, &bytes).unwrap();
    assert!(!check(&home).unwrap().is_clean());
    let into = dir.path().join("saved");
    let report = salvage(&home, &into).unwrap();
    assert!(report.jobs >= 3 && report.jobs < 10, "{report:?}");
    assert!(!report.lost.is_empty());
    checked(&into);
    assert_eq!(reopen(&into).reader.jobs_after(JobId::MIN, 99).unwrap().len() as u64, report.jobs);
}

#[test]
fn a_first_start_that_was_killed_half_way_does_not_lock_the_user_out() {
    let dir = tempfile::tempdir().unwrap();
    drop(reopen(dir.path()));
    std::fs::remove_file(dir.path().join("db/version")).unwrap();
    assert_eq!(reopen(dir.path()).reader.sequence(), 0);
}

#[test]
fn a_foreign_or_half_gone_directory_is_refused_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    drop(reopen(dir.path()));
    std::fs::write(dir.path().join("VERSION"), "fetchbox-data 9\n").unwrap();
    let refused = |dir: &Path| open(dir, &Options::default(), Metrics::new()).err().unwrap().to_string();
    assert!(refused(dir.path()).contains("fetchbox-data 9"));
    // The version before is taken over.
    std::fs::write(dir.path().join("VERSION"), "fetchbox-data 2\n").unwrap();
    drop(reopen(dir.path()));
    assert_eq!(std::fs::read_to_string(dir.path().join("VERSION")).unwrap(), open::VERSION);
    std::fs::remove_file(dir.path().join("mark")).unwrap();
    assert!(refused(dir.path()).contains("mark"));
}

#[tokio::test]
async fn pages_leave_no_job_out_however_jobs_are_spread_over_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = reopen(dir.path());
    let (mut jobs, mut ms) = (Vec::new(), 1_000);
    // More than are kept in memory.
    for n in 0..3_000u64 {
        // A burst, a steady while, a silent day.
        ms += [0, 7, 86_400_000][[60, 96].iter().filter(|until| n % 97 >= **until).count()];
        let mut id = *JobId::first_at_ms(ms).as_bytes();
        id[8..].copy_from_slice(&n.to_be_bytes());
        jobs.push(NamedJob {
            name: JobName::parse(&format!("job-{n}")).unwrap(),
            id: JobId::from_bytes(id),
            job_type: JobType::default(),
            tenant: Tenant::default(),
            now_ms: ms,
        });
    }
    let mut ids = opened.store.open_named(jobs).await.unwrap();
    for deleted in [0, 1, 700, 1_500, 2_990] {
        assert_eq!(opened.store.prune(vec![Prune::Named(ids.remove(deleted))]).await.unwrap(), 1);
    }
    for size in [1, 100, 7, 599, 600, 1_000, 61] {
        for floor in [0, 450, 2_950] {
            let (mut before, mut seen) = (JobId::MAX, Vec::new());
            loop {
                let page = opened.reader.jobs_before(before, ids[floor], size).unwrap();
                seen.extend(page.iter().map(|job| job.id));
                match page.last() {
                    Some(oldest) if page.len() == size => before = oldest.id,
                    _ => break,
                }
            }
            assert!(seen.iter().rev().eq(&ids[floor..]), "pages of {size} down to {floor}: {} jobs", seen.len());
        }
        if size == 599 {
            drop(opened);
            opened = reopen(dir.path());
        }
    }
}
