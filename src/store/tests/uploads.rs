//! What is recorded of uploads survives, is fenced, and goes with its task.

use super::*;

fn upload(lease: &Lease) -> UploadRecord {
    UploadRecord {
        task: lease.task,
        epoch: lease.epoch,
        bucket: "b".into(),
        key: "k".into(),
        upload_id: "id".into(),
        begun_at_ms: 2_000,
        stage: lease.task.stage(lease.epoch),
        part_bytes: 8,
        etag: "\"v1\"".into(),
        last_modified: "then".into(),
        landed: Some([9; 32]),
        total_bytes: Some(20),
        content_type: "image/png".into(),
        metadata: [("a".to_owned(), "b".to_owned())].into(),
        completing: None,
    }
}

fn part(index: u32) -> UploadPart {
    let end_bytes = u64::from(index + 1) * 8;
    UploadPart { index, part_id: format!("\"{index}\""), end_bytes, digest_state: vec![7; 106] }
}

fn done_with(lease: &Lease, sha256: [u8; 32], size_bytes: u64) -> Settlement {
    let object = StoredObject { sha256, size_bytes, ..StoredObject::default() };
    settlement(lease, End::Stored { object, validators: Validators::default(), context: Default::default() })
}

/// A job of one resource whose task is leased.
async fn leased(opened: &Opened) -> Lease {
    admit(&opened.store, new_job(1, 1)).await.unwrap();
    lease_all(opened).await.into_iter().find(|lease| !lease.task.is_manifest()).unwrap()
}

async fn lease_again(opened: &Opened, task: TaskRef) -> Lease {
    let from = DueCursor { at_ms: 0, task: None };
    let due = opened.reader.due_after(from, i64::MAX - 1, 10).unwrap();
    let at_ms = due.into_iter().find(|entry| entry.task == task).unwrap().at_ms;
    let want = LeaseWant { task, from: QueueKey::Due { at_ms, task }, until_ms: 9_000 };
    opened.store.lease(vec![want], Vec::new(), 5_000).await.unwrap()[0].unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_and_its_parts_are_there_for_the_attempt_after_a_death_and_go_with_the_task() {
    let dir = tempfile::tempdir().unwrap();
    let opened = reopen(dir.path());
    let lease = leased(&opened).await;
    assert_eq!(opened.reader.left(lease.task).unwrap(), Left::default());
    opened.store.upload_begun(upload(&lease)).await.unwrap();
    for index in 0..3 {
        opened.store.part_stored(lease.task, lease.epoch, part(index)).await.unwrap();
    }
    drop(opened);
    checked(dir.path());

    let opened = reopen(dir.path());
    opened.store.void_leases(4_000, 20).await.unwrap();
    let left = opened.reader.left(lease.task).unwrap();
    assert!(left.interrupted);
    assert_eq!(left.upload, Some((upload(&lease), (0..3).map(part).collect())));
    // The next attempt goes on under the epoch of the one that began it.
    let second = lease_again(&opened, lease.task).await;
    opened.store.part_stored(lease.task, lease.epoch, part(3)).await.unwrap();
    opened.store.upload_completing(lease.task, lease.epoch, [9; 32], 20).await.unwrap();
    let (kept, parts) = opened.reader.left(lease.task).unwrap().upload.unwrap();
    assert_eq!((kept.completing, parts.len()), (Some(([9; 32], 20)), 4));
    assert!(opened.reader.has_upload(lease.task, lease.epoch).unwrap());
    opened.store.settle(vec![done_with(&second, [9; 32], 20)]).await.unwrap();
    assert_eq!(opened.reader.left(lease.task).unwrap(), Left::default());
    assert!(opened.reader.uploads(None, 10).unwrap().is_empty());
    drop(opened);
    checked(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_records_an_upload_without_the_lease_or_a_part_of_an_upload_that_was_aborted() {
    let dir = tempfile::tempdir().unwrap();
    let opened = reopen(dir.path());
    let lease = leased(&opened).await;
    let stale = Lease { epoch: lease.epoch + 100, ..lease };
    assert_eq!(opened.store.upload_begun(upload(&stale)).await.unwrap_err().code, RefusalCode::Stale);
    assert_eq!(opened.store.part_stored(lease.task, 1, part(0)).await.unwrap_err().code, RefusalCode::Stale);
    opened.store.upload_begun(upload(&lease)).await.unwrap();
    opened.store.part_stored(lease.task, lease.epoch, part(0)).await.unwrap();
    for _ in 0..2 {
        opened.store.upload_ended(lease.task, lease.epoch).await.unwrap();
    }
    let late = opened.store.part_stored(lease.task, lease.epoch, part(1)).await;
    assert_eq!(late.unwrap_err().code, RefusalCode::Stale);
    let late = opened.store.upload_completing(lease.task, lease.epoch, [0; 32], 1).await;
    assert_eq!(late.unwrap_err().code, RefusalCode::Stale);
    assert_eq!(opened.reader.left(lease.task).unwrap().upload, None);
    drop(opened);
    checked(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upload_of_a_dead_task_stays_recorded_until_somebody_has_aborted_it() {
    let dir = tempfile::tempdir().unwrap();
    let opened = reopen(dir.path());
    let lease = leased(&opened).await;
    opened.store.upload_begun(upload(&lease)).await.unwrap();
    assert_eq!(opened.reader.standing(lease.task).unwrap(), Standing::Leased);
    opened.store.settle(vec![dead(&lease)]).await.unwrap();
    assert_eq!(opened.reader.standing(lease.task).unwrap(), Standing::Closed);
    assert_eq!(opened.reader.uploads(None, 10).unwrap(), [upload(&lease)]);
    assert!(opened.reader.uploads(Some((lease.task, lease.epoch)), 10).unwrap().is_empty());
    drop(opened);
    checked(dir.path());
}

#[test]
fn a_parts_row_is_small_however_many_came_before() {
    let row = crate::store::records::PartRow::new(UploadPart { end_bytes: u64::MAX, ..part(9_999) });
    assert!(prost::Message::encoded_len(&row) < 256);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_of_an_object_is_known_by_place_and_url() {
    let dir = tempfile::tempdir().unwrap();
    let opened = reopen(dir.path());
    let source = |at_ms| Source {
        object: StoredObject { key: "k".into(), ..StoredObject::default() },
        etag: "\"v1\"".into(),
        last_modified: String::new(),
        at_ms,
    };
    opened.store.remember_source("b", "k", "http://a/", source(1)).await.unwrap();
    opened.store.remember_source("b", "k", "http://a/", source(2)).await.unwrap();
    drop(opened);
    checked(dir.path());
    let opened = reopen(dir.path());
    assert_eq!(opened.reader.source("b", "k", "http://a/").unwrap(), Some(source(2)));
    assert_eq!(opened.reader.source("b", "k", "http://b/").unwrap(), None);
    assert_eq!(opened.reader.source("bk", "", "http://a/").unwrap(), None);
    let known = opened.reader.sources_after(None, 10).unwrap();
    assert_eq!(known.iter().map(|(_, at_ms)| *at_ms).collect::<Vec<_>>(), [2]);
    assert!(opened.reader.sources_after(Some(known[0].0), 10).unwrap().is_empty());
    assert_eq!(opened.store.prune(vec![Prune::Source(known[0].0)]).await.unwrap(), 1);
    assert_eq!(opened.store.prune(vec![Prune::Source(known[0].0)]).await.unwrap(), 0);
}

/// Else the parts of an upload that could not be aborted are paid for until somebody looks into the bucket.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_did_not_become_the_object_stays_recorded_for_the_sweep() {
    let dir = tempfile::tempdir().unwrap();
    let opened = reopen(dir.path());
    let first = leased(&opened).await;
    opened.store.upload_begun(upload(&first)).await.unwrap();
    opened.store.part_stored(first.task, first.epoch, part(0)).await.unwrap();
    opened.store.void_leases(4_000, 20).await.unwrap();
    let second = lease_again(&opened, first.task).await;
    opened.store.upload_begun(upload(&second)).await.unwrap();
    opened.store.part_stored(second.task, second.epoch, part(0)).await.unwrap();
    opened.store.upload_completing(second.task, second.epoch, [9; 32], 20).await.unwrap();
    opened.store.settle(vec![done_with(&second, [9; 32], 20)]).await.unwrap();
    assert_eq!(opened.reader.uploads(None, 10).unwrap(), [upload(&first)]);
    assert_eq!(opened.reader.standing(first.task).unwrap(), Standing::Closed, "the sweep takes it");
    drop(opened);
    checked(dir.path());
}
