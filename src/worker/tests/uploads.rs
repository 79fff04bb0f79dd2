//! Attempts that die, and the ones after them.

use std::sync::Arc;

use tokio::sync::Notify;

use super::*;

const PART: usize = 5 * MIB;
const BODY: usize = 2 * PART + 3 * MIB;

/// Where an attempt dies: before or after the n-th call of this kind is durable.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Death {
    Never,
    Begun,
    Part { n: u32, recorded: bool },
    Completing { recorded: bool },
}

/// A queue that survives its process.
struct Ledger {
    death: Mutex<Death>,
    died: Notify,
    kept: Mutex<Option<Kept>>,
    ended: Mutex<u32>,
}

impl Ledger {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            death: Mutex::new(Death::Never),
            died: Notify::new(),
            kept: Mutex::default(),
            ended: Mutex::default(),
        })
    }

    fn kept(&self) -> Option<Kept> {
        self.kept.lock().unwrap().clone()
    }

    async fn may_die(&self, at: Death) {
        if *self.death.lock().unwrap() == at {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
    }

    fn change(&self, upload_id: &str, change: impl FnOnce(&mut Kept)) -> Result<(), LeaseLost> {
        let mut kept = self.kept.lock().unwrap();
        let kept = kept.as_mut().filter(|kept| kept.begun.upload_id == upload_id).ok_or(LeaseLost)?;
        change(kept);
        Ok(())
    }
}

#[async_trait]
impl Progress for Ledger {
    async fn still_mine(&self) -> bool {
        true
    }

    async fn upload_begun(&self, begun: &Begun) -> Result<(), LeaseLost> {
        *self.kept.lock().unwrap() = Some(Kept { begun: begun.clone(), parts: Vec::new(), completing: None });
        self.may_die(Death::Begun).await;
        Ok(())
    }

    async fn part_stored(&self, upload_id: &str, part: &PartStored) -> Result<(), LeaseLost> {
        self.may_die(Death::Part { n: part.index, recorded: false }).await;
        self.change(upload_id, |kept| {
            assert_eq!(kept.parts.len(), part.index as usize, "a part is recorded before the next one is sent");
            kept.parts.push(part.clone());
        })?;
        self.may_die(Death::Part { n: part.index, recorded: true }).await;
        Ok(())
    }

    async fn completing(&self, upload_id: &str, whole: &Whole) -> Result<(), LeaseLost> {
        self.may_die(Death::Completing { recorded: false }).await;
        self.change(upload_id, |kept| kept.completing = Some(*whole))?;
        self.may_die(Death::Completing { recorded: true }).await;
        Ok(())
    }

    async fn upload_ended(&self, upload_id: &str) {
        let mut kept = self.kept.lock().unwrap();
        if kept.as_ref().is_some_and(|kept| kept.begun.upload_id == upload_id) {
            *kept = None;
            *self.ended.lock().unwrap() += 1;
        }
    }
}

struct Lives {
    folder: tempfile::TempDir,
    server: S3Double,
    origin: Origin,
    ledger: Arc<Ledger>,
    on_s3: bool,
    epoch: u64,
    /// What the next attempt is told besides.
    spec: TaskSpec,
    key: &'static str,
    interrupted: bool,
    known: Option<Known>,
}

impl Lives {
    async fn new(on_s3: bool) -> Self {
        let origin = Origin::start().await;
        let spec = TaskSpec { url: origin.url("/"), ..TaskSpec::default() };
        Self {
            folder: tempfile::tempdir().unwrap(),
            server: S3Double::start(&["fetchbox"]).await,
            origin,
            ledger: Ledger::new(),
            on_s3,
            epoch: 0,
            spec,
            key: "resources/x",
            interrupted: false,
            known: None,
        }
    }

    fn objects(&self) -> Objects {
        let local = objects::Options {
            root: self.folder.path().join("objects"),
            multipart_bytes: PART as u64,
            retries_max: 0,
            ..objects::Options::default()
        };
        let options = match self.on_s3 {
            false => local,
            true => objects::Options {
                kind: Kind::S3,
                endpoint: Some(self.server.endpoint()),
                access_key_id_file: Some(self.server.access_key_id_file()),
                secret_access_key_file: Some(self.server.secret_access_key_file()),
                ..local
            },
        };
        Objects::new(options).unwrap()
    }

    /// One process: None when it died as told. What it held stays as a kill leaves it.
    async fn live(&mut self, death: Death) -> Option<Outcome> {
        self.live_until(death, CancellationToken::new()).await
    }

    async fn live_until(&mut self, death: Death, stop: CancellationToken) -> Option<Outcome> {
        *self.ledger.death.lock().unwrap() = death;
        self.epoch += 1;
        let place = Place { bucket: "fetchbox".into(), key: self.key.into() };
        let assignment = Assignment {
            epoch: self.epoch,
            place,
            interrupted: self.interrupted,
            kept: self.ledger.kept(),
            known: self.known.clone(),
            ..assignment(self.spec.clone())
        };
        // A body that breaks off ends the attempt: what goes on here is the upload, in the next one.
        let worker = worker(self.objects(), |options| options.resumes_max = 0);
        let ledger = self.ledger.clone();
        let run = tokio::spawn(async move { worker.run(assignment, &*ledger, &Queue::default(), stop).await });
        tokio::select! {
            outcome = run => Some(outcome.unwrap()),
            () = self.ledger.died.notified() => None,
        }
    }

    async fn stored(&mut self) -> Stored {
        match self.live(Death::Never).await {
            Some(Outcome::Stored(stored)) => *stored,
            other => panic!("{other:?}"),
        }
    }

    async fn failed(&mut self) -> Failure {
        failed(self.live(Death::Never).await.unwrap())
    }

    fn object(&self, key: &str) -> Option<Vec<u8>> {
        match self.on_s3 {
            true => self.server.object("fetchbox", key),
            false => std::fs::read(self.folder.path().join("objects/fetchbox").join(key)).ok(),
        }
    }

    /// Files staged, or uploads under way.
    fn open(&self) -> usize {
        match self.on_s3 {
            true => self.server.open_uploads(),
            false => std::fs::read_dir(self.folder.path().join("objects/.staging")).map_or(0, Iterator::count),
        }
    }

    /// Bytes the origin sent, by request.
    fn sent(&self) -> Vec<u64> {
        self.origin.sent("/").iter().map(|sent| sent.bytes).collect()
    }
}

#[tokio::test]
async fn an_upload_goes_on_after_a_death_at_any_point_and_fetches_nothing_twice_that_was_safe() {
    let whole = BODY as u64;
    let rest = |parts: usize| whole - (parts * PART) as u64;
    for on_s3 in [true, false] {
        for (death, again) in [
            (Death::Begun, Some(whole)),
            (Death::Part { n: 0, recorded: false }, Some(whole)),
            (Death::Part { n: 0, recorded: true }, Some(rest(1))),
            (Death::Part { n: 1, recorded: false }, Some(rest(1))),
            (Death::Part { n: 1, recorded: true }, Some(rest(2))),
            (Death::Part { n: 2, recorded: false }, Some(rest(2))),
            (Death::Part { n: 2, recorded: true }, None),
            (Death::Completing { recorded: false }, None),
            (Death::Completing { recorded: true }, None),
        ] {
            let mut lives = Lives::new(on_s3).await;
            let behaviour = Behaviour::body(BODY, 1).versioned("\"v1\"").header("Content-Type", "image/png");
            lives.origin.on("/", behaviour.clone());
            let case = format!("s3: {on_s3}, {death:?}");
            assert!(lives.live(death).await.is_none(), "{case}: it lives");
            let object = lives.stored().await.object;
            assert_eq!((object.sha256, object.size_bytes), (behaviour.sha256(), whole), "{case}");
            assert_eq!(object.content_type, "image/png", "{case}");
            let bytes: [u8; 32] = Sha256::digest(lives.object("resources/x").unwrap()).into();
            assert_eq!(bytes, behaviour.sha256(), "{case}");
            assert_eq!(lives.sent().get(1).copied(), again, "{case}");
            assert_eq!(lives.open(), 0, "{case}: something is left");
            let creations = lives.server.count(&Which::CreateMultipart);
            assert!(!on_s3 || creations == if again == Some(whole) { 2 } else { 1 }, "{case}: {creations}");
            // Stored and not settled: the third life only looks.
            let found = lives.stored().await;
            assert_eq!((found.object.sha256, &found.context["found"][..]), (behaviour.sha256(), "true"), "{case}");
            assert_eq!(lives.sent().get(1).copied(), again, "{case}");
        }
    }
}

#[tokio::test]
async fn two_versions_are_never_spliced() {
    for on_s3 in [true, false] {
        for (first, second) in [("\"v1\"", "\"v2\""), ("W/\"v1\"", "W/\"v1\"")] {
            let mut lives = Lives::new(on_s3).await;
            lives.origin.on_fn("/", move |seen| match seen.hit {
                1 => Behaviour::body(BODY, 1).versioned(first),
                _ => Behaviour::body(BODY, 2).versioned(second),
            });
            lives.live(Death::Part { n: 1, recorded: true }).await;
            let object = lives.stored().await.object;
            assert_eq!(object.sha256, Behaviour::body(BODY, 2).sha256(), "s3: {on_s3}");
            assert_eq!(lives.object("resources/x").unwrap(), origin::seeded(BODY, 2));
            assert_eq!(lives.open(), 0, "s3: {on_s3}: the old upload is left");
        }
    }
}

#[tokio::test]
async fn a_failure_that_may_pass_keeps_what_was_stored_and_one_that_will_not_removes_it() {
    for on_s3 in [true, false] {
        let mut lives = Lives::new(on_s3).await;
        lives.origin.on_fn("/", |seen| match seen.hit {
            1 => Behaviour::body(BODY, 1).versioned("\"v1\"").close_after(PART + MIB),
            2 => Behaviour::status(503),
            3 => Behaviour::body(BODY, 1).versioned("\"v1\""),
            _ => Behaviour::status(404),
        });
        lives.failed().await;
        assert_eq!(lives.failed().await.code, FailureCode::DownloadServerError);
        assert_eq!((lives.open(), lives.ledger.kept().unwrap().parts.len()), (1, 1), "s3: {on_s3}");
        assert!(lives.live(Death::Part { n: 1, recorded: true }).await.is_none());
        assert_eq!(lives.sent()[2], (BODY - PART) as u64, "s3: {on_s3}");
        assert_eq!(lives.failed().await.code, FailureCode::DownloadNotFound);
        assert_eq!((lives.open(), lives.ledger.kept()), (0, None), "s3: {on_s3}");
    }
}

#[tokio::test]
async fn a_stop_keeps_what_a_later_attempt_can_use() {
    for (etag, open) in [("\"v1\"", 1), ("W/\"v1\"", 0)] {
        for on_s3 in [true, false] {
            let mut lives = Lives::new(on_s3).await;
            lives.origin.on("/", Behaviour::body(BODY, 1).versioned(etag).hang_after(PART + 2 * MIB));
            let (stop, ledger) = (CancellationToken::new(), lives.ledger.clone());
            let stopper = stop.clone();
            tokio::spawn(async move {
                while ledger.kept().is_none_or(|kept| kept.parts.is_empty()) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                stopper.cancel();
            });
            let outcome = lives.live_until(Death::Never, stop).await;
            assert!(matches!(outcome, Some(Outcome::Released)), "{outcome:?}");
            assert_eq!((lives.open(), usize::from(lives.ledger.kept().is_some())), (open, open), "{etag}, s3: {on_s3}");
        }
    }
}

#[tokio::test]
async fn a_completion_in_doubt_is_asked_about_before_anything_is_aborted() {
    for fault in [Fault::DropReply, Fault::DropRequest, Fault::Answer(500, "x"), Fault::OkWithError("InternalError")] {
        let mut lives = Lives::new(true).await;
        let behaviour = Behaviour::body(BODY, 1);
        lives.origin.on("/", behaviour.clone());
        lives.server.fault(Which::Complete, 1, fault.clone());
        lives.server.fault(Which::Head, 1, Fault::Answer(503, "SlowDown"));
        assert_eq!(lives.failed().await.code, FailureCode::UploadFailed, "{fault:?}: the store takes others");
        lives.server.heal();
        assert_eq!(lives.stored().await.object.sha256, behaviour.sha256(), "{fault:?}");
        let calls = [Which::CreateMultipart, Which::Abort].map(|which| lives.server.count(&which));
        assert_eq!((calls, lives.origin.hits("/")), ([1, 0], 1), "{fault:?}");
        assert_eq!(lives.open(), 0, "{fault:?}");
    }
}

#[tokio::test]
async fn an_upload_the_store_has_forgotten_is_begun_again() {
    let mut lives = Lives::new(true).await;
    let behaviour = Behaviour::body(BODY, 1).versioned("\"v1\"");
    lives.origin.on("/", behaviour.clone());
    for death in [Death::Part { n: 1, recorded: true }, Death::Completing { recorded: true }] {
        lives.live(death).await;
        let begun = lives.ledger.kept().unwrap().begun;
        lives.objects().abort(&begun.place, &begun.upload_id).await.unwrap();
        if death == (Death::Part { n: 1, recorded: true }) {
            // It shows with the next part, and the attempt after that has nothing to go on with.
            assert_eq!(lives.failed().await.code, FailureCode::UploadFailed);
            assert_eq!(lives.ledger.kept(), None);
        }
    }
    assert_eq!(lives.stored().await.object.sha256, behaviour.sha256());
    assert_eq!(lives.open(), 0);
}

#[tokio::test]
async fn an_object_a_killed_attempt_had_put_whole_is_found_by_its_mark() {
    let mut lives = Lives::new(true).await;
    lives.origin.on("/", Behaviour::body(100, 1).header("Content-Type", "image/png"));
    let first = lives.stored().await.object;
    lives.interrupted = true;
    let found = lives.stored().await;
    assert_eq!((found.object, lives.origin.hits("/")), (first, 1));
    assert_eq!(found.context["found"], "true");
    // Somebody else's object at the place is none of ours.
    let place = Place { bucket: "fetchbox".into(), key: "resources/x".into() };
    let label = objects::Label { sha256: [7; 32], ..objects::Label::default() };
    lives.objects().put(&place, bytes::Bytes::from_static(b"other"), &label).await.unwrap();
    lives.stored().await;
    assert_eq!(lives.origin.hits("/"), 2);
}

fn content_key(folder: &str, sha256: [u8; 32]) -> String {
    let digits = base16ct::lower::encode_string(&sha256);
    format!("{folder}sha256/{}/{digits}", &digits[..2])
}

#[tokio::test]
async fn the_same_bytes_are_stored_once_under_their_digest() {
    for on_s3 in [true, false] {
        for (size, checksum) in [(100, false), (BODY, false), (BODY, true)] {
            let mut lives = Lives::new(on_s3).await;
            let behaviour = Behaviour::body(size, 1).versioned("\"v1\"");
            lives.origin.on("/", behaviour.clone());
            (lives.spec.content_addressed, lives.key) = (true, "all");
            lives.spec.checksum = checksum.then(|| behaviour.sha256());
            let case = format!("s3: {on_s3}, {size} bytes, checksum: {checksum}");
            let first = lives.stored().await;
            let key = content_key("all/", behaviour.sha256());
            assert_eq!((&first.object.key, first.object.sha256), (&key, behaviour.sha256()), "{case}");
            assert!(!first.context.contains_key("reused"), "{case}");
            assert_eq!(lives.object(&key).unwrap(), origin::seeded(size, 1), "{case}");
            // Another task, of another job.
            *lives.ledger.kept.lock().unwrap() = None;
            let second = lives.stored().await;
            assert_eq!((&second.object.key, &second.context["reused"][..]), (&key, "true"), "{case}");
            assert_eq!(second.object.size_bytes, size as u64, "{case}");
            assert_eq!(lives.origin.hits("/"), if checksum { 1 } else { 2 }, "{case}");
            assert_eq!(lives.open(), 0, "{case}");
            if on_s3 {
                assert_eq!(lives.server.keys("fetchbox"), [key], "{case}: something is left");
            }
        }
    }
}

/// Else a job is told that it has the bytes it asked for, and has what somebody else wrote there.
#[tokio::test]
async fn a_damaged_object_is_replaced_and_not_taken_for_what_its_digest_says() {
    for checksum in [true, false] {
        let mut lives = Lives::new(false).await;
        let behaviour = Behaviour::body(100_000, 1);
        lives.origin.on("/", behaviour.clone());
        (lives.spec.content_addressed, lives.key) = (true, "all");
        lives.spec.checksum = checksum.then(|| behaviour.sha256());
        let key = content_key("all/", behaviour.sha256());
        let file = lives.folder.path().join("objects/fetchbox").join(&key);
        lives.stored().await;
        for damaged in [b"oops".to_vec(), origin::seeded(100_000, 2)] {
            std::fs::write(&file, damaged).unwrap();
            let again = lives.stored().await;
            assert!(!again.context.contains_key("reused"), "checksum: {checksum}");
            assert_eq!((&again.object.key, again.object.sha256), (&key, behaviour.sha256()));
            assert_eq!(lives.object(&key).unwrap(), origin::seeded(100_000, 1), "checksum: {checksum}");
        }
        assert_eq!(lives.stored().await.context["reused"], "true", "checksum: {checksum}");
        assert_eq!((lives.origin.hits("/"), lives.open()), (if checksum { 3 } else { 4 }, 0));
    }
}

#[tokio::test]
async fn an_object_on_its_way_to_its_digest_arrives_after_a_death_and_nothing_stays_on_the_way() {
    for fault in [Which::Put, Which::Complete] {
        let mut lives = Lives::new(true).await;
        let behaviour = Behaviour::body(BODY, 1);
        lives.origin.on("/", behaviour.clone());
        (lives.spec.content_addressed, lives.key) = (true, "");
        // The copy is a PUT: whole at its first key, and not moved.
        lives.server.fault(fault, 1, Fault::Answer(503, "SlowDown"));
        assert_eq!(lives.failed().await.code, FailureCode::StorageUnavailable, "{fault:?}");
        lives.server.heal();
        let object = lives.stored().await.object;
        assert_eq!((object.key.clone(), object.sha256), (content_key("", behaviour.sha256()), behaviour.sha256()));
        assert_eq!((lives.server.keys("fetchbox"), lives.origin.hits("/")), (vec![object.key], 1), "{fault:?}");
        assert_eq!(lives.open(), 0);
    }
}

#[tokio::test]
async fn a_resource_that_has_not_changed_is_not_downloaded_while_its_object_stands() {
    for on_s3 in [true, false] {
        let mut lives = Lives::new(on_s3).await;
        lives.origin.on("/", Behaviour::body(100_000, 1).versioned("\"v1\""));
        let first = lives.stored().await;
        lives.known = Some(Known { object: first.object.clone(), validators: first.validators });
        let second = lives.stored().await;
        assert_eq!((&second.object, &second.context["not_changed"][..]), (&first.object, "true"), "s3: {on_s3}");
        assert_eq!(lives.sent(), [100_000, 0]);
        // Replaced by somebody, then removed: what we know of it is worth nothing.
        let place = Place { bucket: "fetchbox".into(), key: "resources/x".into() };
        let other = bytes::Bytes::from(vec![7; 100_000]);
        lives.objects().put(&place, other, &objects::Label::default()).await.unwrap();
        assert!(!lives.stored().await.context.contains_key("not_changed"));
        lives.objects().delete(&place).await.unwrap();
        assert_eq!(lives.stored().await.object.sha256, first.object.sha256);
        assert_eq!(lives.sent(), [100_000, 0, 0, 100_000, 0, 100_000], "s3: {on_s3}");
        lives.origin.on("/", Behaviour::body(50, 2).versioned("\"v2\""));
        assert_eq!(lives.stored().await.object.size_bytes, 50);
    }
}

/// Else a task is done with bytes its manifest forbids, or with an object where nobody looks for it.
#[tokio::test]
async fn an_object_that_is_not_what_a_task_asks_for_is_not_kept_because_the_origin_has_no_newer_one() {
    let mut lives = Lives::new(true).await;
    lives.origin.on("/", Behaviour::body(100_000, 1).versioned("\"v1\""));
    let first = lives.stored().await;
    lives.known = Some(Known { object: first.object.clone(), validators: first.validators });
    let plain = lives.spec.clone();
    lives.spec = TaskSpec { checksum: Some([7; 32]), ..plain.clone() };
    assert_eq!(lives.failed().await.code, FailureCode::DownloadChecksum);
    lives.spec = TaskSpec { max_bytes: Some(99_999), ..plain.clone() };
    assert_eq!(lives.failed().await.code, FailureCode::DownloadTooLarge);
    lives.spec = TaskSpec { checksum: Some(first.object.sha256), max_bytes: Some(100_000), ..plain.clone() };
    assert!(lives.stored().await.context.contains_key("not_changed"));
    lives.spec = TaskSpec { content_addressed: true, ..plain };
    lives.key = "elsewhere";
    assert_eq!(lives.stored().await.object.key, content_key("elsewhere/", first.object.sha256));
}

/// Else an upload that was begun from one mirror goes on with the bytes of another that numbers its versions alike.
#[tokio::test]
async fn a_body_from_elsewhere_is_not_joined_although_its_tag_is_equal() {
    for (second, seed) in [("/two", 2), ("/one?signed=again", 1), ("/one", 1)] {
        let mut lives = Lives::new(false).await;
        lives.origin.on_fn("/", move |seen| Behaviour::redirect(302, if seen.hit == 1 { "/one" } else { second }));
        lives.origin.on("/one", Behaviour::body(BODY, 1).versioned("\"v1\""));
        lives.origin.on("/two", Behaviour::body(BODY, 2).versioned("\"v1\""));
        lives.live(Death::Part { n: 1, recorded: true }).await;
        let stored = lives.stored().await;
        assert_eq!(stored.object.sha256, Behaviour::body(BODY, seed).sha256(), "{second}");
        assert_eq!(stored.context.contains_key("continued_at"), second == "/one", "{second}");
    }
}
