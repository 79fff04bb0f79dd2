//! Killed at each point of an upload: one object, the right bytes, nothing that was safely uploaded fetched again, nothing left
//! behind in the store.
//!
//! `FETCHBOX_UPLOAD_KILLS=50 cargo test --test it uploads_killed::` kills so often at each point.

use std::time::Duration;

use crate::harness::binary::{Binary, Home};
use crate::harness::checker::{self, Checker, Shelf, Truth};
use crate::harness::manifest::{path_of, resource, submission};
use crate::harness::origin::{Behaviour, Origin, Sent};
use crate::harness::s3::{Held, Moment, S3Double, Which};
use crate::harness::{ask, eventually, on_s3, pb, rounds, seed};

const BUCKET: &str = "things";
/// The smallest S3 takes.
const PART: u64 = 5 * 1024 * 1024;
/// Four parts and a bit.
const BODY: usize = 4 * PART as usize + 300_000;

#[derive(Clone, Copy, Debug)]
enum Point {
    /// The store has a part, and we do not know.
    PartSent,
    /// A part is in the ledger, the next one is on its way.
    PartRecorded,
    /// The store was asked to complete and never did.
    CompleteSent,
    /// The store has made the object, and we do not know.
    CompleteMade,
    /// We know, or are just being told.
    CompleteAnswered,
    /// The ledger knows, or is just being told.
    Settling,
    Settled,
}

const POINTS: [Point; 7] = [
    Point::PartSent,
    Point::PartRecorded,
    Point::CompleteSent,
    Point::CompleteMade,
    Point::CompleteAnswered,
    Point::Settling,
    Point::Settled,
];

/// The body a path has: another for each.
fn body(path: &str) -> Behaviour {
    let seed = path.bytes().fold(11, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    Behaviour::body(BODY, seed)
}

fn truth(task: &pb::DownloadTask) -> Option<Truth> {
    let body = body(path_of(&task.url));
    Some(Truth::Stored { sha256: body.sha256(), size_bytes: body.len() })
}

struct World {
    origin: Origin,
    s3: S3Double,
    home: Home,
    rng: fastrand::Rng,
    /// Body bytes that were asked for although they were safely uploaded.
    twice: u64,
}

impl World {
    async fn new() -> World {
        let s3 = S3Double::start(&[BUCKET]).await;
        let mut home = Home::new();
        on_s3(&mut home.config, &s3, BUCKET);
        home.config.storage.multipart_bytes = PART;
        World { origin: Origin::start().await, s3, home, rng: fastrand::Rng::with_seed(seed()), twice: 0 }
    }

    fn hold(&mut self, point: Point) -> Held {
        match point {
            Point::PartSent => self.s3.hold(Which::Part, Some(self.rng.u32(1..=4)), Moment::Done),
            Point::PartRecorded => self.s3.hold(Which::Part, Some(self.rng.u32(2..=4)), Moment::Arrived),
            Point::CompleteSent => self.s3.hold(Which::Complete, None, Moment::Arrived),
            Point::CompleteMade => self.s3.hold(Which::Complete, None, Moment::Done),
            Point::CompleteAnswered | Point::Settling | Point::Settled => {
                self.s3.hold(Which::Complete, None, Moment::Answered)
            }
        }
    }

    /// One life that ends at this point of the upload of `path`. Returns the job and the bytes that were safe then.
    async fn die_at(&mut self, point: Point, path: &str) -> (String, u64) {
        let parts_before = self.s3.parts_stored();
        let mut held = self.hold(point);
        let daemon = self.home.start().await;
        let job_id = submit(&daemon, &self.origin.url(path)).await;
        held.reached().await;
        match point {
            // From the store's view the part before is recorded; give the ledger the moment it takes.
            Point::PartRecorded => tokio::time::sleep(Duration::from_millis(50)).await,
            Point::CompleteAnswered => tokio::time::sleep(Duration::from_micros(self.rng.u64(0..3_000))).await,
            Point::Settling => tokio::time::sleep(Duration::from_millis(self.rng.u64(3..40))).await,
            Point::Settled => {
                ask::job_when(&daemon.client().await, &job_id, |job| job.resources_completed == 1).await;
            }
            Point::PartSent | Point::CompleteSent | Point::CompleteMade => {}
        }
        daemon.kill().await;
        drop(held);
        let parts = self.s3.parts_stored() - parts_before;
        (job_id, (parts * PART).min(BODY as u64))
    }

    /// The next life: the job ends well.
    async fn finish(&mut self, point: Point, path: &str, job_id: &str, safe: u64) {
        let before = self.origin.sent(path).len();
        let daemon = self.home.start().await;
        let client = daemon.client().await;
        let end = ask::end_of(&client, job_id).await;
        assert_eq!(end.state(), pb::JobState::Completed, "{point:?}: {end:?}");
        let after = self.origin.sent(path).split_off(before);
        let twice = again(&after, safe);
        assert!(twice <= PART, "{point:?}: {safe} bytes were safe, and {twice} of them were fetched again: {after:?}");
        self.twice += twice;
        let ours = |key: &String| key.contains(job_id);
        let keys: Vec<String> = self.s3.keys(BUCKET).into_iter().filter(ours).collect();
        assert_eq!(keys.len(), 2, "{point:?}: an object and a manifest, not {keys:?}");
        drop(client);
        daemon.kill().await;
    }

    /// What one last life must find, and leave.
    async fn check(self, jobs: usize) {
        let daemon = self.home.start().await;
        let client = daemon.client().await;
        let objects = Shelf::S3(&self.s3, BUCKET);
        Checker { objects, acks: &[], truth: &truth, orphans_allowed: false }.check(&client).await;
        assert_eq!(ask::jobs(&client).await.len(), jobs);
        let open = self.s3.open_uploads();
        let swept = sweep_uploads(&daemon).await;
        assert_eq!(self.s3.open_uploads(), 0, "{open} uploads were open, the sweep ended {swept}");
        println!("{jobs} kills: {} bytes fetched again, {open} uploads open before the sweep", self.twice);
        drop(client);
        assert_eq!(daemon.terminate().await.0, Some(0));
        checker::data_is_clean(&self.home.data_dir()).await;
    }
}

/// Of the first `safe` bytes, how many these answers carried.
fn again(answers: &[Sent], safe: u64) -> u64 {
    answers.iter().map(|sent| (sent.from + sent.bytes).min(safe).saturating_sub(sent.from)).sum()
}

async fn submit(daemon: &Binary, url: &str) -> String {
    ask::submit(&daemon.client().await, submission(&[resource("a", url)])).await
}

async fn sweep_uploads(daemon: &Binary) -> u64 {
    let request = pb::CleanupOldDataRequest {
        older_than_days: Some(0),
        kinds: vec![pb::CleanupKind::Uploads.into()],
        ..Default::default()
    };
    let swept = daemon.client().await.cleanup_old_data(request).await.unwrap();
    swept.deleted.values().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_point_of_an_upload_leaves_one_right_object_and_nothing_safe_is_fetched_again() {
    let mut world = World::new().await;
    world.origin.on_fn("/", |seen| body(&seen.path).versioned("\"v1\""));
    let kills = rounds("FETCHBOX_UPLOAD_KILLS", 2);
    let mut jobs = 0;
    for round in 0..kills {
        for point in POINTS {
            let path = format!("/{point:?}/{round}");
            let (job_id, safe) = world.die_at(point, &path).await;
            world.finish(point, &path, &job_id, safe).await;
            jobs += 1;
        }
    }
    world.check(jobs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_mid_upload_from_an_origin_without_versions_begins_again_and_leaves_nothing_behind() {
    let mut world = World::new().await;
    world.origin.on_fn("/", |seen| body(&seen.path));
    for (at, point) in [Point::PartSent, Point::PartRecorded].into_iter().enumerate() {
        let path = format!("/plain/{at}");
        let (job_id, _) = world.die_at(point, &path).await;
        // Nothing can be known of these bytes: none is safe.
        world.finish(point, &path, &job_id, 0).await;
    }
    world.check(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_changed_between_two_lives_gives_the_new_version_and_never_a_mixture() {
    let mut world = World::new().await;
    world.origin.on_fn("/", |seen| match seen.hit {
        1 => Behaviour::body(BODY, 1).versioned("\"v1\""),
        _ => body(&seen.path).versioned("\"v2\""),
    });
    let (job_id, _) = world.die_at(Point::PartRecorded, "/changed").await;
    world.finish(Point::PartRecorded, "/changed", &job_id, 0).await;
    world.check(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_mid_download_into_the_local_folder_leaves_one_right_object_and_no_staged_file() {
    const CUT: usize = 3 * PART as usize;
    let origin = Origin::start().await;
    origin.on_fn("/", |seen| {
        let whole = body(&seen.path).versioned("\"v1\"");
        if seen.hit == 1 { whole.hang_after(CUT) } else { whole }
    });
    let home = Home::new();
    let daemon = home.start().await;
    let job_id = submit(&daemon, &origin.url("/local")).await;
    eventually("the first bytes", || async {
        (origin.sent("/local").first().is_some_and(|sent| sent.bytes == CUT as u64)).then_some(())
    })
    .await;
    daemon.kill().await;
    let daemon = home.start().await;
    let client = daemon.client().await;
    let end = ask::end_of(&client, &job_id).await;
    assert_eq!(end.state(), pb::JobState::Completed, "{end:?}");
    println!("fetched again: {}", again(&origin.sent("/local").split_off(1), CUT as u64));
    let objects = Shelf::Folder(home.objects());
    Checker { objects, acks: &[], truth: &truth, orphans_allowed: false }.check(&client).await;
    sweep_uploads(&daemon).await;
    let staged = checker::files(&home.objects().join(".staging"));
    assert!(staged.is_empty(), "{staged:?}");
    drop(client);
    assert_eq!(daemon.terminate().await.0, Some(0));
    checker::data_is_clean(&home.data_dir()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_stood_still_for_longer_than_a_lease_settles_each_task_once() {
    let mut world = World::new().await;
    world.home.config.dispatch.lease_ms = 1_000;
    world.origin.on_fn("/", |seen| body(&seen.path).versioned("\"v1\""));
    // Stopped with a part on its way, with a completion on its way, and with one done and unanswered.
    let moments = [
        (Which::Part, Some(2), Moment::Arrived),
        (Which::Complete, None, Moment::Arrived),
        (Which::Complete, None, Moment::Done),
    ];
    let daemon = world.home.start().await;
    let client = daemon.client().await;
    for (at, (which, part, moment)) in moments.into_iter().enumerate() {
        let mut held = world.s3.hold(which, part, moment);
        let job_id = submit(&daemon, &world.origin.url(&format!("/stopped/{at}"))).await;
        held.reached().await;
        daemon.signal(rustix::process::Signal::STOP);
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        held.go_on();
        daemon.signal(rustix::process::Signal::CONT);
        let end = ask::end_of(&client, &job_id).await;
        assert_eq!((end.state(), end.resources_completed), (pb::JobState::Completed, 1), "{which:?}: {end:?}");
    }
    drop(client);
    daemon.kill().await;
    world.check(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_always_takes_the_daemon_with_it_is_given_up_and_says_why() {
    let origin = Origin::start().await;
    origin.on("/", Behaviour::silent());
    let mut home = Home::new();
    home.config.dispatch.interrupted_max = 2;
    let mut job_id = String::new();
    for life in 1..=3 {
        let daemon = home.start().await;
        if life == 1 {
            job_id = submit(&daemon, &origin.url("/poison")).await;
        }
        // It dies while the request is out.
        eventually("the attempt", || async { (origin.hits("/poison") >= life).then_some(()) }).await;
        daemon.kill().await;
    }
    let daemon = home.start().await;
    let client = daemon.client().await;
    let end = ask::end_of(&client, &job_id).await;
    assert_eq!(end.state(), pb::JobState::Failed, "{end:?}");
    let letters = ask::letters(&client, pb::DeadLetterSelector::default()).await;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].failure_code.starts_with("SYSTEM_"), "{letters:?}");
    assert_eq!(origin.hits("/poison"), 3, "what takes the daemon with it is not tried for ever");
    // Queued again twice it is queued once.
    let again = pb::ReplayDeadLettersRequest {
        selector: Some(pb::DeadLetterSelector { job_id: job_id.clone(), ..Default::default() }),
    };
    let first = client.replay_dead_letters(again.clone()).await.unwrap();
    let second = client.replay_dead_letters(again).await.unwrap();
    assert_eq!((first.replayed, second.replayed), (1, 0));
    drop(client);
    daemon.kill().await;
}
