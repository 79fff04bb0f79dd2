//! Whole attempts against an origin on loopback and stores that really store.

use std::sync::Mutex;

use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::model::{FailureCode, Header, JobId, ProxyHint, TaskIndex};
use crate::objects::{Kind, Objects};

#[allow(clippy::duplicate_mod)]
#[path = "../../tests/harness/origin.rs"]
pub(super) mod origin;
#[allow(clippy::duplicate_mod)]
#[path = "../../tests/harness/s3.rs"]
mod s3_server;

use origin::{Behaviour, Origin};
use s3_server::{Fault, S3Double, Which};

mod uploads;

const MIB: usize = 1024 * 1024;

/// Stands in for the queue and the politeness rules, and remembers.
#[derive(Default)]
struct Queue {
    lost: bool,
    refuses_upload: bool,
    events: Mutex<Vec<String>>,
}

impl Queue {
    fn note(&self, event: String) {
        self.events.lock().unwrap().push(event);
    }

    fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }
}

#[async_trait]
impl Progress for Queue {
    async fn still_mine(&self) -> bool {
        !self.lost
    }

    async fn upload_begun(&self, _: &Begun) -> Result<(), LeaseLost> {
        self.note("begun".into());
        if self.refuses_upload { Err(LeaseLost) } else { Ok(()) }
    }

    async fn part_stored(&self, _: &str, _: &PartStored) -> Result<(), LeaseLost> {
        Ok(())
    }

    async fn completing(&self, _: &str, _: &Whole) -> Result<(), LeaseLost> {
        Ok(())
    }

    async fn upload_ended(&self, _: &str) {
        self.note("ended".into());
    }
}

#[async_trait]
impl HostGate for Queue {
    async fn enter(&self, host: &str) -> Result<Permit, NotNow> {
        self.note(format!("enter {host}"));
        Ok(Permit(None))
    }

    fn throttled(&self, host: &str, wait: Duration) {
        self.note(format!("throttled {host} {}", wait.as_secs()));
    }

    fn heard(&self, _: &str, _: bool) {}
}

struct Bench {
    folder: tempfile::TempDir,
    origin: Origin,
    worker: Worker,
    queue: Queue,
}

impl Bench {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("objects");
        let objects = Objects::new(objects::Options { root, ..objects::Options::default() }).unwrap();
        Self { folder, origin: Origin::start().await, worker: worker(objects, change), queue: Queue::default() }
    }

    async fn run(&self, spec: TaskSpec) -> Outcome {
        self.worker.run(assignment(spec), &self.queue, &self.queue, CancellationToken::new()).await
    }

    async fn get(&self, path: &str) -> Outcome {
        self.run(TaskSpec { url: self.origin.url(path), ..TaskSpec::default() }).await
    }

    fn object(&self) -> Option<Vec<u8>> {
        std::fs::read(self.folder.path().join("objects/fetchbox/resources/x")).ok()
    }

    /// Nothing at the key, nothing staged.
    fn assert_nothing_stored(&self) {
        assert_eq!(self.object(), None);
        let staged = std::fs::read_dir(self.folder.path().join("objects/.staging"));
        assert_eq!(staged.map_or(0, Iterator::count), 0, "a staged file is left");
    }
}

fn worker(objects: Objects, change: impl FnOnce(&mut Options)) -> Worker {
    let mut options = Options { allow_networks: vec!["127.0.0.0/8".into()], ..Options::default() };
    change(&mut options);
    Worker::new(options, objects, Clock::system()).unwrap()
}

fn assignment(spec: TaskSpec) -> Assignment {
    let task = TaskRef { job: JobId::first_at_ms(1), index: TaskIndex(0) };
    let place = Place { bucket: "fetchbox".into(), key: "resources/x".into() };
    Assignment {
        task,
        epoch: 1,
        attempt: 2,
        spec: TaskSpec { resource_id: "x".into(), ..spec },
        place,
        interrupted: false,
        kept: None,
        known: None,
    }
}

fn stored(outcome: Outcome) -> StoredObject {
    match outcome {
        Outcome::Stored(stored) => stored.object,
        other => panic!("{other:?}"),
    }
}

fn failed(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Failed { failure, .. } => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_resource_is_stored_whole_with_its_digest_and_type() {
    let bench = Bench::new().await;
    let behaviour = Behaviour::body(3 * MIB + 5, 1).header("Content-Type", "image/png");
    bench.origin.on("/x", behaviour.clone());
    let object = stored(bench.get("/x").await);
    assert_eq!((object.sha256, object.size_bytes), (behaviour.sha256(), behaviour.len()));
    assert_eq!(object.content_type, "image/png");
    let stored_bytes: [u8; 32] = Sha256::digest(bench.object().unwrap()).into();
    assert_eq!(stored_bytes, behaviour.sha256());
    assert_eq!(bench.origin.served("/x"), [behaviour.sha256()]);
    let request = &bench.origin.requests("/x")[0];
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    assert!(request.header("user-agent").unwrap().starts_with("fetchbox/"));
    assert_eq!(bench.queue.events(), [format!("enter {}", bench.origin.host())]);
    for (path, behaviour) in [
        ("/empty", Behaviour::body(0, 1)),
        ("/chunked", Behaviour::body(100_000, 2).chunked()),
        ("/unsaid", Behaviour::body(100_000, 3).without_length()),
        ("/slow", Behaviour::body(50, 4).delay_ms(30).pieces(10, 10)),
    ] {
        bench.origin.on(path, behaviour.clone());
        assert_eq!(stored(bench.get(path).await).sha256, behaviour.sha256(), "{path}");
    }
}

#[tokio::test]
async fn each_answer_becomes_its_failure_and_leaves_nothing_behind() {
    let bench = Bench::with(|options| options.idle_timeout_ms = 300).await;
    let big = Behaviour::body(2 * MIB, 1);
    for (path, behaviour, code) in [
        ("/404", Behaviour::status(404), FailureCode::DownloadNotFound),
        ("/410", Behaviour::status(410), FailureCode::DownloadNotFound),
        ("/401", Behaviour::status(401), FailureCode::AuthRejected),
        ("/400", Behaviour::status(400), FailureCode::DownloadClientError),
        ("/500", Behaviour::status(500), FailureCode::DownloadServerError),
        ("/503", Behaviour::status(503), FailureCode::DownloadServerError),
        ("/204", Behaviour::status(206), FailureCode::DownloadUnexpectedStatus),
        ("/304", Behaviour::status(302), FailureCode::DownloadUnexpectedStatus),
        ("/gzip", Behaviour::body(10, 1).header("Content-Encoding", "gzip"), FailureCode::DownloadEncoding),
        ("/short", big.clone().says_length(3 * MIB as u64), FailureCode::DownloadLengthMismatch),
        ("/closed", big.clone().close_after(MIB), FailureCode::DownloadLengthMismatch),
        ("/reset", big.clone().reset_after(MIB), FailureCode::DownloadInterrupted),
        ("/torn", big.clone().chunked().close_after(MIB), FailureCode::DownloadInterrupted),
        ("/hang", big.clone().hang_after(MIB), FailureCode::DownloadTimeout),
    ] {
        bench.origin.on(path, behaviour);
        let failure = failed(bench.get(&format!("{path}?secret=1")).await);
        assert_eq!(failure.code, code, "{path}: {failure}");
        assert_eq!(failure.host(), bench.origin.host());
        assert_eq!(failure.context["url"], bench.origin.url(path), "queries stay out of sight");
        assert_eq!((failure.attempt, failure.resource_id.as_str()), (2, "x"));
        assert!(failure.at_ms > 0 && !failure.message.contains("secret"));
        bench.assert_nothing_stored();
    }
}

/// Else somebody looks for a broken line where the origin talks nonsense.
#[tokio::test]
async fn an_answer_whose_head_cannot_be_read_is_not_told_as_a_broken_connection() {
    let bench = Bench::new().await;
    let answer = || Behaviour::body(5, 1);
    let many = (0..150).fold(answer(), |answer, at| answer.header(&format!("X-{at}"), "a"));
    for (path, behaviour, what) in [
        ("/many", many, "more than 100 headers"),
        ("/long", answer().header("X-Big", "a".repeat(1_000_000)), "too large"),
        ("/length", answer().without_length().header("Content-Length", "+5"), "not valid HTTP"),
        ("/lengths", answer().header("Content-Length", "3"), "not valid HTTP"),
        ("/status", Behaviour::status(99), "not valid HTTP"),
    ] {
        bench.origin.on(path, behaviour);
        let failure = failed(bench.get(path).await);
        assert_eq!(failure.code, FailureCode::DownloadInterrupted, "{path}: {failure}");
        assert!(failure.message.starts_with("the head of the answer") && failure.message.contains(what), "{failure}");
    }
    bench.assert_nothing_stored();
}

#[tokio::test]
async fn an_origin_that_is_not_there_is_told_from_one_that_is_silent() {
    let bench = Bench::with(|options| (options.connect_timeout_ms, options.idle_timeout_ms) = (100, 100)).await;
    let gone = Origin::start().await;
    let url = gone.url("/");
    drop(gone);
    tokio::task::yield_now().await;
    let failure = failed(bench.run(TaskSpec { url, ..TaskSpec::default() }).await);
    assert_eq!(failure.code, FailureCode::DownloadConnect, "{failure}");
    bench.origin.on("/", Behaviour::silent());
    assert_eq!(failed(bench.get("/").await).code, FailureCode::DownloadTimeout);
    let url = format!("https://{}/", bench.origin.host());
    let failure = failed(bench.run(TaskSpec { url, ..TaskSpec::default() }).await);
    assert!(matches!(failure.code, FailureCode::DownloadTls | FailureCode::DownloadConnect), "{failure}");
}

#[tokio::test]
async fn a_body_larger_than_allowed_is_refused_by_its_header_or_as_it_comes() {
    let bench = Bench::with(|options| options.max_bytes = MIB as u64).await;
    bench.origin.on("/said", Behaviour::body(2 * MIB, 1));
    bench.origin.on("/unsaid", Behaviour::body(2 * MIB, 1).chunked());
    bench.origin.on("/endless", Behaviour::endless());
    bench.origin.on("/fits", Behaviour::body(MIB, 1));
    for path in ["/said", "/unsaid", "/endless"] {
        assert_eq!(failed(bench.get(path).await).code, FailureCode::DownloadTooLarge, "{path}");
        bench.assert_nothing_stored();
    }
    stored(bench.get("/fits").await);
    let small = TaskSpec { url: bench.origin.url("/fits"), max_bytes: Some(10), ..TaskSpec::default() };
    assert_eq!(failed(bench.run(small).await).code, FailureCode::DownloadTooLarge);
    let greedy = TaskSpec { url: bench.origin.url("/said"), max_bytes: Some(u64::MAX), ..TaskSpec::default() };
    assert_eq!(failed(bench.run(greedy).await).code, FailureCode::DownloadTooLarge);
}

#[tokio::test]
async fn a_body_with_the_wrong_digest_never_appears() {
    let bench = Bench::new().await;
    let behaviour = Behaviour::body(2 * MIB, 1);
    bench.origin.on("/x", behaviour.clone());
    let spec = |checksum| TaskSpec { url: bench.origin.url("/x"), checksum: Some(checksum), ..TaskSpec::default() };
    let failure = failed(bench.run(spec([7; 32])).await);
    assert_eq!(failure.code, FailureCode::DownloadChecksum);
    assert_eq!(failure.context["sha256_wanted"], "07".repeat(32));
    bench.assert_nothing_stored();
    stored(bench.run(spec(behaviour.sha256())).await);
}

#[tokio::test]
async fn redirects_are_followed_by_the_same_rules_as_the_first_request() {
    let bench = Bench::new().await;
    let other = Origin::start().await;
    other.on("/end", Behaviour::body(10, 1));
    bench.origin.on("/start", Behaviour::redirect(301, "/next"));
    bench.origin.on("/next", Behaviour::redirect(307, other.url("/end")));
    let headers = [("Authorization", "Bearer x"), ("X-Api-Key", "k"), ("Referer", "http://gallery.example/")];
    let headers = headers.map(|(name, value)| Header { name: name.into(), value: value.into() }).to_vec();
    let spec = TaskSpec { url: bench.origin.url("/start"), headers, ..TaskSpec::default() };
    stored(bench.run(spec).await);
    let (near, far) = (&bench.origin.requests("/next")[0], &other.requests("/end")[0]);
    assert_eq!((near.header("authorization"), near.header("x-api-key")), (Some("Bearer x"), Some("k")));
    assert_eq!((far.header("authorization"), far.header("x-api-key")), (None, None));
    assert_eq!(far.header("referer"), Some("http://gallery.example/"));
    let enter = |origin: &Origin| format!("enter {}", origin.host());
    assert_eq!(bench.queue.events(), [enter(&bench.origin), enter(&bench.origin), enter(&other)]);

    bench.origin.on("/loop", Behaviour::redirect(302, "/loop"));
    assert_eq!(failed(bench.get("/loop").await).code, FailureCode::DownloadRedirects);
    assert_eq!(bench.origin.hits("/loop"), 6);
    bench.origin.on("/file", Behaviour::redirect(302, "file:///etc/passwd"));
    assert_eq!(failed(bench.get("/file").await).code, FailureCode::DownloadBadUrl);
}

#[tokio::test]
async fn nothing_is_sent_to_an_inner_address_by_url_name_or_redirect() {
    let bench = Bench::with(|options| options.allow_networks = vec!["127.0.0.1/32".into()]).await;
    let closed = Bench::with(|options| options.allow_networks.clear()).await;
    closed.origin.on("/", Behaviour::body(1, 1));
    let port = closed.origin.addr().port();
    for host in ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "localhost", "LOCALHOST"] {
        let failure =
            failed(closed.run(TaskSpec { url: format!("http://{host}:{port}/"), ..TaskSpec::default() }).await);
        assert_eq!(failure.code, FailureCode::DownloadBlockedAddress, "{host}: {failure}");
    }
    assert_eq!(closed.origin.hits_total(), 0);
    for to in ["http://127.0.0.2:1/", "http://169.254.169.254/latest/meta-data/", "http://[::1]:1/", "http://10.0.0.1/"]
    {
        bench.origin.on("/", Behaviour::redirect(302, to));
        let failure = failed(bench.get("/").await);
        assert_eq!(failure.code, FailureCode::DownloadBlockedAddress, "{to}: {failure}");
    }
}

#[tokio::test]
async fn a_host_that_asks_for_a_pause_is_heard() {
    let bench = Bench::new().await;
    bench.origin.on("/429", Behaviour::status(429).header("Retry-After", "7"));
    bench.origin.on("/503", Behaviour::status(503).header("Retry-After", "9"));
    bench.origin.on("/bare", Behaviour::status(429));
    for (path, wait) in [("/429", Some(7)), ("/503", Some(9)), ("/bare", None)] {
        match bench.get(path).await {
            Outcome::Failed { failure, retry_after } => {
                assert_eq!(failure.code, FailureCode::DownloadThrottled);
                assert_eq!(retry_after.map(|wait| wait.as_secs()), wait, "{path}");
            }
            other => panic!("{other:?}"),
        }
    }
    let heard: Vec<String> = bench.queue.events().into_iter().filter(|event| event.starts_with("throttled")).collect();
    let host = bench.origin.host();
    assert_eq!(heard, [format!("throttled {host} 7"), format!("throttled {host} 9"), format!("throttled {host} 1")]);
}

#[tokio::test]
async fn a_stopped_attempt_lets_go_at_once_and_cleans_up() {
    let bench = Bench::new().await;
    bench.origin.on("/", Behaviour::body(4 * MIB, 1).hang_after(3 * MIB));
    let stop = CancellationToken::new();
    let spec = TaskSpec { url: bench.origin.url("/"), ..TaskSpec::default() };
    let staged = bench.folder.path().join("objects/.staging");
    let begun = Clock::instant();
    let run = bench.worker.run(assignment(spec), &bench.queue, &bench.queue, stop.clone());
    let stopper = async {
        while std::fs::read_dir(&staged).map_or(0, Iterator::count) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
    };
    let (outcome, ()) = tokio::join!(run, stopper);
    assert!(matches!(outcome, Outcome::Released), "{outcome:?}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    bench.assert_nothing_stored();
}

#[tokio::test]
async fn an_attempt_whose_lease_is_gone_stores_nothing() {
    let mut bench = Bench::new().await;
    bench.queue.lost = true;
    bench.origin.on("/", Behaviour::body(10, 1));
    assert!(matches!(bench.get("/").await, Outcome::Released));
    bench.assert_nothing_stored();
}

#[tokio::test]
async fn a_task_that_demands_a_proxy_is_not_sent_directly() {
    let bench = Bench::new().await;
    let hint = ProxyHint { primary_pool: "eu".into(), ..ProxyHint::default() };
    let spec = TaskSpec { url: bench.origin.url("/"), proxy_hint: Some(hint), ..TaskSpec::default() };
    assert_eq!(failed(bench.run(spec).await).code, FailureCode::DownloadNoProxy);
    assert_eq!(bench.origin.hits_total(), 0);
}

#[tokio::test]
async fn a_manifest_is_stored_as_json() {
    let bench = Bench::new().await;
    let place = Place { bucket: "fetchbox".into(), key: "resources/x".into() };
    let object = stored(bench.worker.store_manifest(place, bytes::Bytes::from_static(b"{}")).await);
    assert_eq!((object.size_bytes, object.content_type.as_str()), (2, "application/json"));
    assert_eq!(bench.object().unwrap(), b"{}");
    std::fs::remove_dir_all(bench.folder.path().join("objects")).unwrap();
    let place = Place { bucket: "fetchbox".into(), key: "y".into() };
    let failure = failed(bench.worker.store_manifest(place, bytes::Bytes::new()).await);
    assert_eq!(failure.code, FailureCode::StorageUnavailable);
}

async fn s3_bench(server: &S3Double) -> Bench {
    let objects = Objects::new(objects::Options {
        kind: Kind::S3,
        endpoint: Some(server.endpoint()),
        access_key_id_file: Some(server.access_key_id_file()),
        secret_access_key_file: Some(server.secret_access_key_file()),
        multipart_bytes: 5 * MIB as u64,
        retries_max: 1,
        ..objects::Options::default()
    });
    Bench { worker: worker(objects.unwrap(), |_| {}), ..Bench::new().await }
}

#[tokio::test]
async fn large_bodies_reach_s3_in_parts_that_the_queue_knows_of() {
    let server = S3Double::start(&["fetchbox"]).await;
    let bench = s3_bench(&server).await;
    let behaviour = Behaviour::body(12 * MIB, 1);
    bench.origin.on("/", behaviour.clone());
    let object = stored(bench.get("/").await);
    assert_eq!((object.sha256, object.size_bytes), (behaviour.sha256(), behaviour.len()));
    let stored_bytes: [u8; 32] = Sha256::digest(server.object("fetchbox", "resources/x").unwrap()).into();
    assert_eq!(stored_bytes, behaviour.sha256());
    assert_eq!(bench.queue.events()[1..], ["begun"], "it is known until the task is settled");
    assert_eq!(server.open_uploads(), 0);
}

#[tokio::test]
async fn an_upload_that_fails_is_aborted_and_named_after_the_store() {
    let server = S3Double::start(&["fetchbox"]).await;
    let bench = s3_bench(&server).await;
    bench.origin.on("/", Behaviour::body(12 * MIB, 1));
    for (which, fault, code) in [
        (Which::Part, Fault::Answer(503, "SlowDown"), FailureCode::StorageUnavailable),
        (Which::Complete, Fault::Answer(403, "AccessDenied"), FailureCode::UploadRejected),
        (Which::CreateMultipart, Fault::Answer(400, "KeyTooLongError"), FailureCode::UploadRejected),
    ] {
        server.fault(which, 9, fault);
        let failure = failed(bench.get("/").await);
        assert_eq!(failure.code, code, "{which:?}: {failure}");
        assert_eq!(failure.context["key"], "resources/x");
        server.heal();
        assert_eq!(server.open_uploads(), 0, "{which:?}");
        assert_eq!(server.object("fetchbox", "resources/x"), None);
    }
    let events = bench.queue.events();
    let count = |name: &str| events.iter().filter(|event| *event == name).count();
    assert_eq!((count("begun"), count("ended")), (2, 2));
}

#[tokio::test]
async fn a_stopped_attempt_leaves_no_parts_in_s3() {
    let server = S3Double::start(&["fetchbox"]).await;
    let bench = s3_bench(&server).await;
    bench.origin.on("/", Behaviour::body(12 * MIB, 1).hang_after(11 * MIB));
    let stop = CancellationToken::new();
    let spec = TaskSpec { url: bench.origin.url("/"), ..TaskSpec::default() };
    let run = bench.worker.run(assignment(spec), &bench.queue, &bench.queue, stop.clone());
    let stopper = async {
        while server.count(&Which::Part) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
    };
    let (outcome, ()) = tokio::join!(run, stopper);
    assert!(matches!(outcome, Outcome::Released), "{outcome:?}");
    assert_eq!(bench.queue.events()[1..], ["begun", "ended"]);
    assert_eq!(server.object("fetchbox", "resources/x"), None);
}

#[tokio::test]
async fn an_upload_the_queue_did_not_record_is_not_carried_on() {
    let server = S3Double::start(&["fetchbox"]).await;
    let mut bench = s3_bench(&server).await;
    bench.queue.refuses_upload = true;
    bench.origin.on("/", Behaviour::body(12 * MIB, 1));
    assert!(matches!(bench.get("/").await, Outcome::Released));
    assert_eq!((server.count(&Which::Part), server.open_uploads()), (0, 0));
}

#[test]
fn settings_that_cannot_work_are_named() {
    let told = |change: fn(&mut Options)| {
        let mut options = Options::default();
        change(&mut options);
        options.check().unwrap_err()
    };
    assert!(Options::default().check().is_ok());
    assert!(told(|o| o.allow_networks = vec!["10/8".into()]).starts_with("worker.allow_networks"));
    assert!(told(|o| o.max_bytes = 0).starts_with("worker.max_bytes"));
    assert!(told(|o| o.user_agent = "a\nb".into()).starts_with("worker.user_agent"));
}
