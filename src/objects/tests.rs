//! The store against a real folder, a real S3 protocol server, and a store that fails.

use std::os::unix::fs::symlink;
use std::path::Path;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::*;

#[expect(clippy::duplicate_mod, reason = "one double serves several rooms")]
#[path = "../../tests/harness/s3.rs"]
mod s3_server;

use s3_server::{Fault, S3Double, Which};

const MIB: usize = 1024 * 1024;

fn local(root: &Path) -> Objects {
    let root = root.join("objects");
    Objects::new(Options { root, allowed_buckets: vec!["other".into()], ..Options::default() }).unwrap()
}

fn remote(server: &s3_server::S3Server, change: impl FnOnce(&mut Options)) -> Objects {
    let mut options = Options {
        kind: Kind::S3,
        endpoint: Some(server.endpoint()),
        access_key_id_file: Some(server.access_key_id_file()),
        secret_access_key_file: Some(server.secret_access_key_file()),
        allowed_buckets: vec!["other".into()],
        multipart_bytes: 5 * MIB as u64,
        retries_max: 1,
        ..Options::default()
    };
    change(&mut options);
    Objects::new(options).unwrap()
}

fn place(key: &str) -> Place {
    Place { bucket: "fetchbox".into(), key: key.into() }
}

fn label(bytes: &[u8]) -> Label {
    Label { content_type: "text/plain".into(), sha256: digest(bytes), ..Label::default() }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn body(bytes: usize) -> Bytes {
    (0..bytes).map(|i| u8::try_from((i * 31 + i / 251) % 256).unwrap()).collect::<Vec<u8>>().into()
}

/// Writes in pieces as a download would; returns the upload id if there was one.
async fn fill(upload: &mut Upload, bytes: &Bytes) -> Result<Option<String>, Error> {
    for piece in bytes.chunks(300_000) {
        pour(upload, bytes.slice_ref(piece)).await?;
    }
    Ok(upload.upload_id().map(str::to_owned))
}

fn none() -> KeepStage {
    Arc::new(|_| false)
}

#[tokio::test]
async fn a_local_object_is_a_plain_file_at_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let objects = local(folder.path());
    let bytes = body(3 * MIB + 7);
    let mut upload = objects.begin(&place("a/b/c.bin"), Label::default(), "task-1", 0).unwrap();
    assert_eq!(fill(&mut upload, &bytes).await.unwrap(), None);
    assert_eq!(objects.head(&place("a/b/c.bin")).await.unwrap(), None, "visible before it is complete");
    let head = upload.complete(digest(&bytes)).await.unwrap();
    assert_eq!(head.size_bytes, bytes.len() as u64);
    assert_eq!(objects.head(&place("a/b/c.bin")).await.unwrap(), Some(head));
    assert_eq!(std::fs::read(folder.path().join("objects/fetchbox/a/b/c.bin")).unwrap(), bytes);
    assert_eq!(std::fs::read_dir(folder.path().join("objects/.staging")).unwrap().count(), 0);
    objects.put(&place("a/b/c.bin"), Bytes::from_static(b"new"), &label(b"new")).await.unwrap();
    assert_eq!(std::fs::read(folder.path().join("objects/fetchbox/a/b/c.bin")).unwrap(), b"new");
    objects.delete(&place("a/b/c.bin")).await.unwrap();
    objects.delete(&place("a/b/c.bin")).await.unwrap();
    objects.delete(&place("no/such/folder")).await.unwrap();
    assert_eq!(objects.head(&place("a/b/c.bin")).await.unwrap(), None);
    assert_eq!(objects.head(&place("a/b")).await.unwrap(), None, "a folder is no object");
    objects.put(&place("empty"), Bytes::new(), &label(b"")).await.unwrap();
    assert_eq!(objects.head(&place("empty")).await.unwrap().unwrap().size_bytes, 0);
    objects.probe().await.unwrap();
}

#[tokio::test]
async fn an_aborted_or_dropped_upload_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let objects = local(folder.path());
    let staging = folder.path().join("objects/.staging");
    let staged = || std::fs::read_dir(&staging).map_or(0, Iterator::count);
    let mut upload = objects.begin(&place("x"), Label::default(), "task-1", 0).unwrap();
    assert!(objects.begin(&place("x"), Label::default(), "task-1", 0).is_err(), "two writers, one file");
    fill(&mut upload, &body(2 * MIB)).await.unwrap();
    assert_eq!(staged(), 1);
    upload.abort().await.unwrap();
    assert_eq!(staged(), 0);
    assert!(upload.complete([0; 32]).await.is_err());
    let mut upload = objects.begin(&place("x"), Label::default(), "task-1", 0).unwrap();
    fill(&mut upload, &body(2 * MIB)).await.unwrap();
    drop(upload);
    assert_eq!(staged(), 0);
    assert_eq!(objects.head(&place("x")).await.unwrap(), None);
}

#[tokio::test]
async fn what_a_killed_process_staged_is_swept_and_what_is_being_written_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let objects = local(folder.path());
    let staging = folder.path().join("objects/.staging");
    assert_eq!(objects.sweep_staging(i64::MAX, false, none()).await.unwrap(), (0, 0));
    std::fs::create_dir_all(&staging).unwrap();
    std::fs::write(staging.join("task-1"), b"12345").unwrap();
    std::fs::write(staging.join("task-2"), b"left by a killed process").unwrap();
    std::fs::write(staging.join("task-3"), b"recorded").unwrap();
    let mut upload = objects.begin(&place("x"), Label::default(), "task-2", 0).unwrap();
    let bytes = body(MIB);
    fill(&mut upload, &bytes).await.unwrap();
    assert_eq!(objects.sweep_staging(0, false, none()).await.unwrap(), (0, 0), "too young");
    let recorded: KeepStage = Arc::new(|name| name == "task-3");
    assert_eq!(objects.sweep_staging(i64::MAX, true, recorded.clone()).await.unwrap(), (1, 5));
    assert_eq!(objects.sweep_staging(i64::MAX, false, recorded).await.unwrap(), (1, 5));
    assert!(staging.join("task-3").exists(), "somebody comes back for it");
    objects.abort(&place("x"), "task-3").await.unwrap();
    objects.abort(&place("x"), "task-3").await.unwrap();
    assert!(!staging.join("task-3").exists());
    assert!(objects.abort(&place("x"), "task-2").await.is_err(), "it is being written");
    assert!(!staging.join("task-1").exists());
    upload.complete(digest(&bytes)).await.unwrap();
    assert_eq!(std::fs::read(folder.path().join("objects/fetchbox/x")).unwrap(), bytes);
}

#[tokio::test]
async fn a_symbolic_link_never_leads_out_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let objects = local(folder.path());
    let outside = folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), b"secret").unwrap();
    let bucket = folder.path().join("objects/fetchbox");
    std::fs::create_dir(&bucket).unwrap();
    symlink(&outside, bucket.join("link")).unwrap();
    symlink(outside.join("secret"), bucket.join("file")).unwrap();
    symlink(&outside, folder.path().join("objects/other")).unwrap();
    let error = objects.put(&place("link/new"), Bytes::from_static(b"x"), &label(b"x")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Rejected);
    let elsewhere = Place { bucket: "other".into(), key: "new".into() };
    assert_eq!(objects.put(&elsewhere, Bytes::new(), &label(b"")).await.unwrap_err().kind, ErrorKind::Rejected);
    assert!(objects.head(&place("link/secret")).await.is_err());
    assert_eq!(objects.head(&place("file")).await.unwrap(), None);
    assert!(objects.delete(&place("link/secret")).await.is_err());
    objects.put(&place("file"), Bytes::from_static(b"x"), &label(b"x")).await.unwrap();
    assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}

#[tokio::test]
async fn keys_and_buckets_that_are_paths_are_refused_before_the_disk_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let objects = local(folder.path());
    for key in ["../x", "a/../../x", "/x", "a//b", "a/", "", "a\0b", ".", &"x".repeat(300)] {
        let error = objects.put(&place(key), Bytes::from_static(b"x"), &label(b"x")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Rejected, "{key:?}");
    }
    for bucket in ["..", ".staging", "unlisted", "a/b"] {
        let place = Place { bucket: bucket.into(), key: "x".into() };
        assert_eq!(objects.head(&place).await.unwrap_err().kind, ErrorKind::Rejected, "{bucket:?}");
    }
    assert!(objects.begin(&place("x"), Label::default(), "../x", 0).is_err());
    assert_eq!(std::fs::read_dir(folder.path().join("objects")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_disk_that_went_away_parks_uploads() {
    let folder = tempfile::tempdir().unwrap();
    let objects = local(folder.path());
    std::fs::remove_dir_all(folder.path().join("objects")).unwrap();
    let error = objects.put(&place("x"), Bytes::from_static(b"x"), &label(b"x")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(objects.probe().await.unwrap_err().kind, ErrorKind::Unavailable);
    assert!(!folder.path().join("objects").exists(), "written beside the mount point");
}

#[tokio::test]
async fn a_folder_where_the_object_belongs_refuses_this_object_only() {
    let folder = tempfile::tempdir().unwrap();
    let objects = local(folder.path());
    objects.put(&place("a/b"), Bytes::from_static(b"x"), &label(b"x")).await.unwrap();
    for key in ["a", "a/b/c"] {
        let error = objects.put(&place(key), Bytes::from_static(b"x"), &label(b"x")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Rejected, "{key}: {error}");
    }
    assert_eq!(std::fs::read_dir(folder.path().join("objects/.staging")).unwrap().count(), 0);
}

#[tokio::test]
async fn s3_takes_small_bodies_whole_and_large_ones_in_parts() {
    let server = S3Double::start(&["fetchbox", "other"]).await;
    let objects = remote(&server, |_| {});
    for (key, size) in [("none", 0), ("small", 100), ("one-part", 5 * MIB), ("large", 12 * MIB + 1)] {
        let bytes = body(size);
        let label = Label { content_type: "image/png".into(), ..Label::default() };
        let mut upload = objects.begin(&place(key), label, "task-1", 0).unwrap();
        let begun = fill(&mut upload, &bytes).await.unwrap();
        assert_eq!(begun.is_some(), size > 5 * MIB, "{key}");
        assert_eq!(upload.upload_id().map(str::to_owned), begun);
        assert_eq!(server.object("fetchbox", key), None, "visible before it is complete");
        let head = upload.complete(digest(&bytes)).await.unwrap();
        assert_eq!(upload.upload_id(), None);
        assert_eq!(server.object("fetchbox", key).unwrap(), bytes);
        let seen = objects.head(&place(key)).await.unwrap().unwrap();
        assert_eq!((seen.size_bytes, &seen.etag), (size as u64, &head.etag), "{key}");
        assert_eq!(seen.sha256, begun.is_none().then(|| digest(&bytes)), "{key}");
    }
    assert_eq!(server.count(&Which::Part), 3);
    let other = Place { bucket: "other".into(), key: "small".into() };
    objects.put(&other, body(9), &label(&body(9))).await.unwrap();
    assert_eq!(server.object("other", "small").unwrap(), body(9));
    objects.delete(&other).await.unwrap();
    objects.delete(&other).await.unwrap();
    assert_eq!(objects.head(&other).await.unwrap(), None);
    objects.probe().await.unwrap();
    assert_eq!(server.open_uploads(), 0);
}

#[tokio::test]
async fn a_lost_answer_to_a_complete_is_no_lost_object() {
    let server = S3Double::start(&["fetchbox"]).await;
    let objects = remote(&server, |_| {});
    let bytes = body(6 * MIB);
    server.fault(Which::Complete, 1, Fault::DropReply);
    let mut upload = objects.begin(&place("x"), Label::default(), "task-1", 0).unwrap();
    fill(&mut upload, &bytes).await.unwrap();
    let head = upload.complete(digest(&bytes)).await.unwrap();
    assert_eq!(head.size_bytes, bytes.len() as u64);
    assert_eq!(server.object("fetchbox", "x").unwrap(), bytes);
    server.fault(Which::Put, 2, Fault::DropReply);
    objects.put(&place("y"), body(10), &label(&body(10))).await.unwrap();
}

#[tokio::test]
async fn an_older_object_of_the_same_size_is_not_taken_for_the_new_one() {
    let server = S3Double::start(&["fetchbox"]).await;
    let objects = remote(&server, |_| {});
    let mut first = objects.begin(&place("x"), Label::default(), "task-1", 0).unwrap();
    fill(&mut first, &body(6 * MIB)).await.unwrap();
    first.complete(digest(&body(6 * MIB))).await.unwrap();
    server.fault(Which::Complete, 2, Fault::OkWithError("InternalError"));
    let mut second = objects.begin(&place("x"), Label::default(), "task-2", 0).unwrap();
    fill(&mut second, &body(6 * MIB)).await.unwrap();
    let error = second.complete(digest(&body(6 * MIB))).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    second.abort().await.unwrap();
    second.abort().await.unwrap();
    assert_eq!(server.open_uploads(), 0);
}

#[tokio::test]
async fn each_trouble_of_a_store_is_told_apart() {
    let server = S3Double::start(&["fetchbox"]).await;
    let objects = remote(&server, |_| {});
    let put = async || objects.put(&place("x"), body(10), &label(&body(10))).await.map_err(|error| error.kind);
    for (fault, kind) in [
        (Fault::Answer(503, "SlowDown"), ErrorKind::Unavailable),
        (Fault::Answer(500, "InternalError"), ErrorKind::Unavailable),
        (Fault::Answer(403, "AccessDenied"), ErrorKind::Denied),
        (Fault::Answer(401, "Unauthorized"), ErrorKind::Denied),
        (Fault::Answer(404, "NoSuchBucket"), ErrorKind::Denied),
        (Fault::Answer(400, "KeyTooLongError"), ErrorKind::Rejected),
        (Fault::Answer(507, "XMinioStorageFull"), ErrorKind::Full),
        (Fault::Answer(409, "OperationAborted"), ErrorKind::Failed),
        (Fault::DropRequest, ErrorKind::Unavailable),
    ] {
        server.fault(Which::Put, 9, fault.clone());
        assert_eq!(put().await.unwrap_err(), kind, "{fault:?}");
        server.heal();
    }
    server.fault(Which::Put, 1, Fault::Answer(503, "SlowDown"));
    put().await.expect("one bad answer is tried again");
    server.set_unreachable(true);
    assert_eq!(put().await.unwrap_err(), ErrorKind::Unavailable);
    assert_eq!(objects.probe().await.unwrap_err().kind, ErrorKind::Unavailable);
    server.set_unreachable(false);
    objects.probe().await.unwrap();
    let elsewhere = remote(&server, |options| options.bucket = "gone".into());
    assert_eq!(elsewhere.probe().await.unwrap_err().kind, ErrorKind::Denied);
    std::fs::write(server.secret_access_key_file(), "wrong").unwrap();
    assert_eq!(remote(&server, |_| {}).probe().await.unwrap_err().kind, ErrorKind::Denied);
}

/// What another process would find of an upload that was left.
async fn leave(objects: &Objects, bytes: &Bytes, parts: usize) -> Unfinished {
    let mut upload = objects.begin(&place("x"), Label::default(), "task-1", 0).unwrap();
    let mut unfinished =
        Unfinished { stage: "task-1".into(), part_bytes: upload.part_bytes(), ..Unfinished::default() };
    let part_bytes = usize::try_from(upload.part_bytes()).unwrap();
    for at in 0..parts {
        upload.write(bytes.slice(at * part_bytes..(at + 1) * part_bytes)).await.unwrap();
        if at == 0 {
            unfinished.upload_id = upload.begin_parts().await.unwrap();
        }
        unfinished.parts.push(upload.store_part().await.unwrap());
    }
    // Written and not stored: lost with the process.
    upload.write(bytes.slice(parts * part_bytes..parts * part_bytes + 2 * MIB)).await.unwrap();
    upload.leave().await;
    unfinished
}

#[tokio::test]
async fn an_upload_goes_on_behind_its_last_part_in_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let server = S3Double::start(&["fetchbox"]).await;
    let bytes = body(17 * MIB);
    let in_folder = || {
        let root = folder.path().join("objects");
        Objects::new(Options { root, multipart_bytes: 5 * MIB as u64, ..Options::default() }).unwrap()
    };
    for open in [&in_folder as &dyn Fn() -> Objects, &|| remote(&server, |_| {})] {
        let unfinished = leave(&open(), &bytes, 2).await;
        let objects = open();
        let mut upload = objects.resume(&place("x"), &unfinished).await.unwrap().unwrap();
        assert_eq!(upload.upload_id(), Some(unfinished.upload_id.as_str()));
        fill(&mut upload, &bytes.slice(10 * MIB..)).await.unwrap();
        assert_eq!(objects.head(&place("x")).await.unwrap(), None, "visible before it is complete");
        upload.complete(digest(&bytes)).await.unwrap();
        let written = objects.written(&place("x"), "task-1", digest(&bytes), bytes.len() as u64).await.unwrap();
        assert_eq!(written.unwrap().size_bytes, bytes.len() as u64);
        assert_eq!(objects.written(&place("x"), "task-1", digest(&bytes), 1).await.unwrap(), None);
        assert_eq!(objects.written(&place("y"), "task-1", digest(&bytes), 1).await.unwrap(), None);
    }
    assert_eq!(server.object("fetchbox", "x").unwrap(), bytes);
    assert_eq!(std::fs::read(folder.path().join("objects/fetchbox/x")).unwrap(), bytes);
    assert_eq!(server.count(&Which::CreateMultipart), 1);
    // Nothing is left of it: a new one must begin.
    let gone = Unfinished { upload_id: "task-1".into(), stage: "task-1".into(), ..Unfinished::default() };
    assert!(in_folder().resume(&place("x"), &gone).await.unwrap().is_none());
    let mut short = leave(&in_folder(), &bytes, 1).await;
    short.parts[0].end_bytes = 100 * MIB as u64;
    assert!(in_folder().resume(&place("x"), &short).await.unwrap().is_none(), "shorter than was recorded");
}

#[tokio::test]
async fn an_object_that_may_exist_is_told_from_one_that_does_not() {
    let server = S3Double::start(&["fetchbox"]).await;
    let objects = remote(&server, |options| options.retries_max = 0);
    let bytes = body(6 * MIB);
    for (head, doubtful) in [(None, false), (Some(Fault::Answer(503, "SlowDown")), true)] {
        let mut upload = objects.begin(&place("x"), Label::default(), "task-1", 0).unwrap();
        fill(&mut upload, &bytes).await.unwrap();
        server.fault(Which::Complete, 1, Fault::DropRequest);
        if let Some(fault) = head {
            server.fault(Which::Head, 1, fault);
        }
        upload.complete(digest(&bytes)).await.unwrap_err();
        assert_eq!((upload.is_doubtful(), upload.can_go_on()), (doubtful, true));
        upload.abort().await.unwrap();
        server.heal();
    }
    let mut upload = objects.begin(&place("x"), Label::default(), "task-1", 0).unwrap();
    let id = fill(&mut upload, &bytes).await.unwrap().unwrap();
    objects.abort(&place("x"), &id).await.unwrap();
    upload.complete(digest(&bytes)).await.unwrap_err();
    assert!(!upload.can_go_on() && !upload.is_doubtful(), "the store does not know it");
}

#[tokio::test]
async fn a_key_that_is_forbidden_is_told_from_a_store_that_is() {
    let server = S3Double::start(&["fetchbox"]).await;
    let objects = remote(&server, |options| options.retries_max = 0);
    let denied = async || objects.put(&place("x"), body(10), &label(&body(10))).await.unwrap_err();
    server.fault(Which::Put, 1, Fault::Answer(403, "AccessDenied"));
    assert_eq!(objects.judged(denied().await, &place("x")).await.kind, ErrorKind::Rejected);
    server.fault(Which::Put, 1, Fault::Answer(403, "ExpiredToken"));
    assert_eq!(objects.judged(denied().await, &place("x")).await.kind, ErrorKind::Denied);
    server.fault(Which::Any, 9, Fault::Answer(403, "AccessDenied"));
    assert_eq!(objects.judged(denied().await, &place("x")).await.kind, ErrorKind::Denied);
}

/// Any document without an upload in it.
fn empty_list() -> Fault {
    Fault::OkWithError("none")
}

#[tokio::test]
async fn a_store_that_cannot_list_uploads_says_so_and_is_left_alone() {
    let server = S3Double::start(&["fetchbox", "other"]).await;
    assert_eq!(remote(&server, |_| {}).list_uploads().await.unwrap(), None);
    // Else uploads pile up in all buckets because one of them has another policy.
    for answers in
        [[Fault::Answer(403, "AccessDenied"), empty_list()], [empty_list(), Fault::Answer(404, "NoSuchBucket")]]
    {
        for answer in answers {
            server.fault(Which::Get, 1, answer);
        }
        assert_eq!(remote(&server, |_| {}).list_uploads().await.unwrap(), Some(Vec::new()));
    }
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(local(folder.path()).list_uploads().await.unwrap(), None);
}

#[tokio::test]
async fn aborting_an_upload_nobody_knows_is_fine() {
    let server = S3Double::start(&["fetchbox"]).await;
    let objects = remote(&server, |_| {});
    objects.abort(&place("x"), "9f0b6f0e-5ad0-4b2c-8d5f-111111111111").await.unwrap();
    let mut upload = objects.begin(&place("x"), Label::default(), "task-1", 0).unwrap();
    let id = fill(&mut upload, &body(6 * MIB)).await.unwrap().unwrap();
    drop(upload);
    assert_eq!(server.open_uploads(), 1);
    objects.abort(&place("x"), &id).await.unwrap();
    objects.abort(&place("x"), &id).await.unwrap();
    assert_eq!(server.open_uploads(), 0);
}

#[test]
fn contradictory_settings_are_named() {
    let told = |change: fn(&mut Options)| {
        let mut options = Options::default();
        change(&mut options);
        options.check().unwrap_err()
    };
    assert!(Options::default().check().is_ok());
    assert!(told(|o| o.bucket = "../x".into()).starts_with("storage.bucket"));
    assert!(told(|o| o.prefix = "/x".into()).starts_with("storage.prefix"));
    assert!(told(|o| o.multipart_bytes = 1).starts_with("storage.multipart_bytes"));
    assert!(told(|o| o.endpoint = Some("ftp://x".into())).starts_with("storage.endpoint"));
    assert!(told(|o| o.endpoint = Some("http://u:p@x".into())).starts_with("storage.endpoint"));
    assert!(told(|o| o.access_key_id_file = Some("x".into())).starts_with("storage.secret_access_key_file"));
}

/// Else a copy that was not made loses the only object there is.
#[tokio::test]
async fn an_object_is_not_removed_before_it_is_seen_whole_where_it_was_moved_to() {
    let server = S3Double::start(&["fetchbox"]).await;
    let objects = remote(&server, |options| options.retries_max = 0);
    let (from, to) = (place("from"), place("to"));
    objects.put(&from, body(100), &label(&body(100))).await.unwrap();
    server.fault(Which::Head, 1, Fault::Answer(404, "NoSuchKey"));
    assert_eq!(objects.rename(&from, &to, 100).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(objects.rename(&from, &to, 99).await.unwrap_err().kind, ErrorKind::Unavailable, "another size");
    assert_eq!(server.object("fetchbox", "from").unwrap(), body(100));
    assert_eq!(objects.rename(&from, &to, 100).await.unwrap().unwrap().size_bytes, 100);
    assert_eq!(server.keys("fetchbox"), ["to"]);
}

/// Else the broken policy of one bucket buries every task that writes to it, or one object stops all the others.
#[tokio::test]
async fn an_error_is_judged_by_the_bucket_it_was_met_in() {
    let server = S3Double::start(&["fetchbox"]).await;
    let objects = remote(&server, |options| options.retries_max = 0);
    let other = Place { bucket: "other".into(), key: "x".into() };
    let error = |kind, message: &str| Error::new(kind, message);
    let denied = || error(ErrorKind::Denied, "status code: 403 Forbidden: AccessDenied, no");
    assert_eq!(objects.judged(denied(), &other).await.kind, ErrorKind::Denied, "nothing can be written there");
    assert_eq!(objects.judged(denied(), &place("x")).await.kind, ErrorKind::Rejected);
    let down = || error(ErrorKind::Unavailable, "status code: 500 Internal Server Error: InternalError, no");
    assert_eq!(objects.judged(down(), &other).await.kind, ErrorKind::Unavailable);
    assert_eq!(objects.judged(down(), &place("x")).await.kind, ErrorKind::Failed);
    let slow = error(ErrorKind::Unavailable, "status code: 503 Service Unavailable: SlowDown, no");
    assert_eq!(objects.judged(slow, &place("x")).await.kind, ErrorKind::Unavailable);

    let down = error(ErrorKind::Unavailable, "connection refused");
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let before = server.count(&Which::Put);
    server.fault(Which::Put, 1, Fault::Answer(500, "InternalError"));
    for _ in 0..5 {
        assert_eq!(objects.judged(down.clone(), &place("x")).await.kind, ErrorKind::Unavailable);
    }
    assert_eq!(server.count(&Which::Put), before + 1, "one probe answers all of a second");
}
