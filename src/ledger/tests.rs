//! The ledger over a real store: a job's life as a person would hear it.

use super::*;
use crate::model::{FailureCode, NewLog, Priority, StoredObject, TaskRef, TaskSpec};
use crate::store::{self, End, LeaseWant, NewJob, Opened, QueueKey, Settlement, TenantKey};
use crate::telemetry::Metrics;

async fn admit(opened: &Opened, id: JobId, resources: usize) {
    let spec =
        |n| TaskSpec { resource_id: format!("r{n}"), url: "http://u:pw@h:80/x?t=s3cret".into(), ..Default::default() };
    let job = NewJob {
        id,
        job_type: Default::default(),
        tenant: Default::default(),
        priority: Priority::Normal,
        trace_id: "t1".into(),
        external: false,
        idempotency: None,
        manifest: Manifest { metadata_json: "{}".into(), attributes_json: "{}".into(), ..Manifest::default() },
        tasks: (0..resources).map(spec).collect(),
        manifest_bucket: "b".into(),
        manifest_key: "m".into(),
        now_ms: id.minted_at_ms(),
        open_tasks_max: 1_000_000,
        parallel_max: 0,
    };
    let (send, wait) = tokio::sync::oneshot::channel();
    opened.store.admit(job, move |result| send.send(result).unwrap());
    wait.await.unwrap().unwrap();
}

/// Leases `tasks` and ends each as `end` says.
async fn run(opened: &Opened, tasks: Vec<(TaskRef, QueueKey)>, now_ms: i64, end: impl Fn(TaskRef) -> End) {
    let wants = tasks.iter().map(|(task, from)| LeaseWant { task: *task, from: *from, until_ms: now_ms + 9_000 });
    let leases = opened.store.lease(wants.collect(), Vec::new(), now_ms).await.unwrap();
    let settlements = leases.into_iter().flatten().map(|lease| Settlement {
        task: lease.task,
        epoch: lease.epoch,
        now_ms: now_ms + 500,
        started_at_ms: now_ms,
        end: if lease.task.is_manifest() { End::ManifestStored } else { end(lease.task) },
        log: Some(NewLog { message: "tried".into(), resource_id: "r".into(), ..NewLog::default() }),
    });
    opened.store.settle(settlements.collect()).await.unwrap();
}

fn failed(code: FailureCode, at_ms: i64) -> Failure {
    let failure = Failure::new(code, "GET http://h:80/x?t=s3cret went wrong").with("host", "h:80").with("status", 404);
    Failure { at_ms, ..failure }
}

const WELL: Present<'static> = Present { storage_alarm: "", host: &|_| None };

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_explained_from_what_the_store_kept() {
    let dir = tempfile::tempdir().unwrap();
    let opened = store::open(dir.path(), &store::Options::default(), Metrics::new()).unwrap();
    let ledger = Ledger::new(opened.reader.clone());
    let id = JobId::first_at_ms(1_000);
    admit(&opened, id, 4).await;

    let entry = opened
        .reader
        .ready_after(Priority::Normal, TenantKey::of(&Tenant::default()), 0, 100)
        .unwrap()
        .entries
        .remove(0);
    let ready = entry.tasks.iter().map(|index| (TaskRef { job: id, index: *index }, entry.key));
    let stored = || StoredObject { bucket: "b".into(), key: "k".into(), size_bytes: 7, ..Default::default() };
    // 0 is stored, 1 dies at once, 2 is to be tried again, 3 is not started.
    let first = ready.filter(|(task, _)| task.index.0 != 3).collect();
    run(&opened, first, 2_000, |task| match task.index.0 {
        0 => End::Stored { object: stored(), validators: Default::default(), context: Default::default() },
        1 => End::Dead(failed(FailureCode::DownloadNotFound, 2_400)),
        _ => End::Retry { failure: failed(FailureCode::DownloadTimeout, 2_400), not_before_ms: 60_000 },
    })
    .await;

    let story = ledger.explain_job(id, &WELL).unwrap();
    assert_eq!(story.summary, "1 of 4 stored, 1 dead (DOWNLOAD_NOT_FOUND at h:80), 2 waiting");
    let told: Vec<&str> = story.tasks.iter().map(|task| task.task.spec.resource_id.as_str()).collect();
    assert_eq!(told, ["r1", "r2", "r3"]);
    assert!(story.events.windows(2).all(|pair| pair[0].at_ms <= pair[1].at_ms));
    assert!(!format!("{story:?}").contains("s3cret"));

    let dead = ledger.explain_task(id, "r1", &WELL).unwrap();
    let letter = ledger.dead_letters(&DeadLetterSelector::default(), &PageRequest::default()).unwrap().items.remove(0);
    let end = dead.events.last().unwrap();
    assert!(end.what == "dead" && end.message.contains(&letter.id.to_string()), "{end:?}");
    let waiting = ledger.explain_task(id, "r2", &WELL).unwrap();
    assert!(
        waiting.summary.contains("1970-01-01T00:01:00Z") && waiting.summary.contains("DOWNLOAD_TIMEOUT"),
        "{}",
        waiting.summary
    );
    assert_eq!(ledger.explain_task(id, "r9", &WELL).unwrap_err().code, crate::model::RefusalCode::NotFound);
    let failures = ledger.failures(&FailureFilter::default(), &PageRequest { size: 1, ..Default::default() }).unwrap();
    assert_eq!((failures.items.len(), failures.next_token.is_empty()), (1, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_the_real_lists_work_after_a_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let open = || store::open(dir.path(), &store::Options::default(), Metrics::new()).unwrap();
    let opened = open();
    for at in 1..=5 {
        admit(&opened, JobId::first_at_ms(at * 1_000), 3).await;
    }
    let page = |size, token: &str| PageRequest { size, token: token.into() };
    let (all, tasks_of) = (JobFilter::default(), JobId::first_at_ms(1_000));
    let ledger = Ledger::new(opened.reader.clone());
    let jobs = ledger.jobs(&all, &page(2, "")).unwrap();
    let tasks = ledger.tasks(tasks_of, &[], &page(2, "")).unwrap();
    assert_eq!(jobs.items.iter().map(|job| job.created_at_ms).collect::<Vec<_>>(), [5_000, 4_000]);
    drop((ledger, opened));

    let ledger = Ledger::new(open().reader);
    let rest = ledger.jobs(&all, &page(9, &jobs.next_token)).unwrap();
    assert_eq!(rest.items.iter().map(|job| job.created_at_ms).collect::<Vec<_>>(), [3_000, 2_000, 1_000]);
    assert!(rest.next_token.is_empty());
    let rest = ledger.tasks(tasks_of, &["ready"], &page(9, &tasks.next_token)).unwrap();
    assert_eq!(rest.items.iter().map(|task| task.task.index.0).collect::<Vec<_>>(), [2]);
    assert!(ledger.tasks(JobId::first_at_ms(2_000), &[], &page(9, &tasks.next_token)).is_err());
}
