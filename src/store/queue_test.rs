//! The ready index by tenant, budgets and limits of jobs, on a real database.

use super::tests::{admit, checked, new_job, reopen, settlement};
use crate::model::*;
use crate::store::*;

fn of(name: &str) -> Tenant {
    Tenant::parse(name).unwrap()
}

/// The tenants' names and the sequences the search finds first, page by page.
fn found(reader: &Reader, page: usize) -> Vec<(TenantKey, u64)> {
    let (mut all, mut from) = (Vec::new(), Some(TenantKey(0)));
    while let Some(at) = from {
        let found = reader.ready_tenants(Priority::Normal, at, page).unwrap();
        assert!(found.tenants.len() <= page);
        all.extend(found.tenants);
        from = found.next;
    }
    all
}

fn jobs(reader: &Reader, tenant: &str, after: u64) -> Vec<JobId> {
    let page = reader.ready_after(Priority::Normal, TenantKey::of(&of(tenant)), after, 1_000).unwrap();
    page.entries.iter().map(|entry| entry.plan.job).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_found_and_read_whatever_another_has_queued() {
    let dir = tempfile::tempdir().unwrap();
    let opened = reopen(dir.path());
    for n in 1..=60 {
        let tenant = if n % 20 == 0 { format!("small-{n}") } else { "large".to_owned() };
        admit(&opened.store, NewJob { tenant: of(&tenant), idempotency: None, ..new_job(n, 1) }).await.unwrap();
    }
    let news = opened.store.take_ready_news();
    assert_eq!((news.first.len(), news.is_cut), (4, false));
    assert_eq!(news.first[&(1, TenantKey::of(&of("small-40")))], 40);
    assert!(opened.store.take_ready_news().first.is_empty(), "told once");
    for page in [1, 2, 100] {
        let found = found(&opened.reader, page);
        assert_eq!(found.len(), 4);
        assert!(
            found.contains(&(TenantKey::of(&of("small-20")), 20)) && found.contains(&(TenantKey::of(&of("large")), 1))
        );
    }
    assert!(opened.reader.ready_tenants(Priority::High, TenantKey(0), 9).unwrap().tenants.is_empty());
    assert_eq!(jobs(&opened.reader, "small-60", 0), [new_job(60, 1).id]);
    assert_eq!(jobs(&opened.reader, "large", 58), [new_job(59, 1).id]);

    // What is canceled or spent is not found again, also after a restart.
    opened.store.cancel(new_job(20, 1).id, String::new(), 2_000).await.unwrap();
    let key = QueueKey::Ready { priority: Priority::Normal, tenant: TenantKey::of(&of("small-40")), seq: 40 };
    let wants = [TaskIndex(0), TaskIndex::MANIFEST].map(|index| LeaseWant {
        task: TaskRef { job: new_job(40, 1).id, index },
        from: key,
        until_ms: 9_000,
    });
    opened.store.lease(wants.to_vec(), vec![key], 2_000).await.unwrap();
    drop(opened);
    checked(dir.path());
    assert_eq!(found(&reopen(dir.path()).reader, 2).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_cannot_be_read_does_not_hide_those_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let opened = reopen(dir.path());
    for n in 1..=4 {
        admit(&opened.store, new_job(n, 1)).await.unwrap();
    }
    let tenant = TenantKey::of(&Tenant::default());
    let gone = new_job(3, 1).id;
    let spoil = move |tx: &mut super::tx::Tx<'_>| {
        tx.put(keys::ready(Priority::Normal, tenant, 1), vec![0xff; 5]);
        tx.put(keys::job(new_job(2, 1).id), vec![0xff; 5]);
        tx.delete(keys::job(gone));
        Ok(())
    };
    opened.store.change(100, spoil).await.unwrap();
    let page = opened.reader.ready_after(Priority::Normal, tenant, 0, 1_000).unwrap();
    assert_eq!(page.entries.iter().map(|entry| entry.plan.job).collect::<Vec<_>>(), [new_job(4, 1).id]);
    assert_eq!(page.damaged.len(), 2);
    assert_eq!(page.gone, [QueueKey::Ready { priority: Priority::Normal, tenant, seq: 3 }]);
    assert!(page.end);
    drop(opened);
    assert!(!check(dir.path()).unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_failure_is_counted_apart_and_a_jobs_limit_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let opened = reopen(dir.path());
    let job = NewJob { parallel_max: 3, ..new_job(1, 1) };
    admit(&opened.store, job.clone()).await.unwrap();
    let tenant = TenantKey::of(&Tenant::default());
    let task = TaskRef { job: job.id, index: TaskIndex(0) };
    let mut from = QueueKey::Ready { priority: Priority::Normal, tenant, seq: 1 };
    let codes = [
        FailureCode::DownloadThrottled,
        FailureCode::UploadFailed,
        FailureCode::DownloadTls,
        FailureCode::DownloadThrottled,
        FailureCode::DownloadTimeout,
    ];
    for (at_ms, code) in (5_000..).zip(codes) {
        let want = LeaseWant { task, from, until_ms: 9_000 };
        let lease = opened.store.lease(vec![want], vec![], 4_000).await.unwrap()[0].unwrap();
        let failure = Failure { at_ms, ..Failure::new(code, "x") };
        let end = End::Retry { failure, not_before_ms: at_ms };
        opened.store.settle(vec![settlement(&lease, end)]).await.unwrap();
        from = QueueKey::Due { at_ms, task };
    }
    drop(opened);
    checked(dir.path());
    let opened = reopen(dir.path());
    assert_eq!(opened.reader.plan(job.id).unwrap().unwrap().parallel_max, 3);
    let want = LeaseWant { task, from, until_ms: 9_000 };
    let lease = opened.store.lease(vec![want], vec![], 6_000).await.unwrap()[0].unwrap();
    assert_eq!(lease.tried, Tried { downloads: 2, uploads: 1, throttled: 2 });
    assert_eq!(lease.attempt, 6);
    let dead = End::Dead(Failure { at_ms: 6_500, ..Failure::new(FailureCode::DownloadNotFound, "404") });
    opened.store.settle(vec![settlement(&lease, dead)]).await.unwrap();
    opened.store.retry(job.id, vec![], 7_000).await.unwrap();
    let want = LeaseWant { task, from: QueueKey::Due { at_ms: 7_000, task }, until_ms: 9_000 };
    let lease = opened.store.lease(vec![want], vec![], 7_000).await.unwrap()[0].unwrap();
    assert_eq!((lease.tried, lease.attempt), (Tried::default(), 1), "a retry starts anew");
}
