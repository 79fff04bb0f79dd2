//! An object store that fails in the middle of an upload: good parts are kept, a doubtful completion is settled by looking, and
//! a store that refuses everything makes tasks wait.

use std::time::Duration;

use crate::harness::checker::{Checker, Shelf, Truth};
use crate::harness::host::Host;
use crate::harness::manifest::{path_of, resource, submission};
use crate::harness::origin::{Behaviour, Origin};
use crate::harness::s3::{Fault, Moment, S3Double, Which};
use crate::harness::{ask, eventually, on_s3, pb};

const BUCKET: &str = "things";
const PART: u64 = 5 * 1024 * 1024;
const BODY: usize = 3 * PART as usize + 1_000;

fn body(path: &str) -> Behaviour {
    Behaviour::body(BODY, path.len() as u64).versioned("\"v1\"")
}

fn truth(task: &pb::DownloadTask) -> Option<Truth> {
    let body = body(path_of(&task.url));
    Some(Truth::Stored { sha256: body.sha256(), size_bytes: body.len() })
}

struct World {
    origin: Origin,
    s3: S3Double,
    host: Host,
}

impl World {
    async fn new(retries_max: u32) -> World {
        let origin = Origin::start().await;
        origin.on_fn("/", |seen| body(&seen.path));
        let s3 = S3Double::start(&[BUCKET]).await;
        let host = Host::start(|config| {
            on_s3(config, &s3, BUCKET);
            config.storage.multipart_bytes = PART;
            config.storage.retries_max = retries_max;
            config.dispatch.park_min_ms = 10;
            config.dispatch.park_max_ms = 50;
        })
        .await;
        World { origin, s3, host }
    }

    /// One resource to its end, which must be a good one, once.
    async fn stored(&self) -> pb::Job {
        let client = self.host.client().await;
        let job_id = ask::submit(&client, submission(&[resource("a", &self.origin.url("/a"))])).await;
        let end = ask::end_of(&client, &job_id).await;
        assert_eq!((end.state(), end.resources_completed), (pb::JobState::Completed, 1), "{end:?}");
        let objects = Shelf::S3(&self.s3, BUCKET);
        Checker { objects, acks: &[], truth: &truth, orphans_allowed: false }.check(&client).await;
        assert!(ask::letters(&client, pb::DeadLetterSelector::default()).await.is_empty());
        assert_eq!(self.s3.open_uploads(), 0, "an upload is left open");
        end
    }

    fn fetched_bytes(&self) -> u64 {
        self.origin.sent("/a").iter().map(|sent| sent.bytes).sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_slows_down_or_fails_on_parts_costs_neither_the_upload_nor_a_second_download() {
    for fault in
        [Fault::Answer(503, "SlowDown"), Fault::Answer(500, "InternalError"), Fault::DropRequest, Fault::DropReply]
    {
        let world = World::new(3).await;
        world.s3.fault(Which::Part, 2, fault.clone());
        world.stored().await;
        assert_eq!(world.s3.count(&Which::CreateMultipart), 1, "{fault:?}: the upload was begun again");
        assert_eq!(world.fetched_bytes(), BODY as u64, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_fail_beyond_the_attempt_are_sent_by_the_next_one_to_the_same_upload() {
    let world = World::new(0).await;
    // The first part is safe by then.
    let mut first = world.s3.hold(Which::Part, Some(1), Moment::Done);
    let watch = async {
        first.reached().await;
        world.s3.fault(Which::Part, 5, Fault::Answer(503, "SlowDown"));
        first.go_on();
    };
    tokio::join!(watch, world.stored());
    assert_eq!(world.s3.count(&Which::CreateMultipart), 1, "the upload was begun again");
    assert_eq!(world.s3.count(&Which::Abort), 0, "good parts were thrown away");
    let answers = world.origin.sent("/a");
    let again: u64 = answers.iter().skip(1).map(|sent| PART.saturating_sub(sent.from).min(sent.bytes)).sum();
    assert_eq!(again, 0, "a part that was safe was fetched again: {answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_in_doubt_is_settled_by_looking_and_no_good_part_is_thrown_away() {
    let faults = [
        (1, Fault::Answer(500, "InternalError")),
        (6, Fault::Answer(500, "InternalError")),
        (1, Fault::OkWithError("InternalError")),
        (6, Fault::OkWithError("InternalError")),
        // The retry of a lost answer meets an upload that is no longer there.
        (1, Fault::DropReply),
        (1, Fault::DropRequest),
    ];
    for (times, fault) in faults {
        let world = World::new(1).await;
        world.s3.fault(Which::Complete, times, fault.clone());
        world.stored().await;
        let seen = format!("{times} × {fault:?}");
        assert_eq!(world.s3.count(&Which::CreateMultipart), 1, "{seen}: the upload was begun again");
        assert_eq!(world.s3.count(&Which::Abort), 0, "{seen}: good parts were thrown away");
        assert_eq!(world.fetched_bytes(), BODY as u64, "{seen}: the body was fetched again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_make_jobs_wait_with_an_alarm_and_bury_nothing() {
    let world = World::new(0).await;
    // Whatever is asked of it, until it heals.
    world.s3.fault(Which::Any, u32::MAX, Fault::Answer(403, "ExpiredToken"));
    let client = world.host.client().await;
    let many: Vec<_> = (0..20).map(|at| resource(&format!("r{at}"), &world.origin.url(&format!("/{at}")))).collect();
    let job_id = ask::submit(&client, submission(&many)).await;
    let alarm = eventually("the alarm", || async {
        let alarm = ask::stats(&client).await.storage_alarm;
        (!alarm.is_empty()).then_some(alarm)
    })
    .await;
    assert!(alarm.contains("STORAGE_DENIED") || alarm.contains("ExpiredToken"), "{alarm}");
    // Long enough for every attempt a resource has, were they counted.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(ask::letters(&client, pb::DeadLetterSelector::default()).await.is_empty());
    assert!(!ask::is_terminal(&ask::job(&client, &job_id).await));
    let asked = world.s3.requests();
    assert!(asked < 200, "{asked} requests to a store that refuses everything");
    world.s3.heal();
    let end = ask::end_of(&client, &job_id).await;
    assert_eq!((end.state(), end.resources_completed), (pb::JobState::Completed, 20), "{end:?}");
    eventually("the alarm to end", || async { ask::stats(&client).await.storage_alarm.is_empty().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_gone_makes_jobs_wait_until_it_is_back() {
    let origin = Origin::start().await;
    origin.on_fn("/", |seen| body(&seen.path));
    let s3 = S3Double::start(&[]).await;
    let host = Host::start(|config| {
        on_s3(config, &s3, BUCKET);
        (config.dispatch.park_min_ms, config.dispatch.park_max_ms) = (10, 50);
    })
    .await;
    let client = host.client().await;
    let job_id = ask::submit(&client, submission(&[resource("a", &origin.url("/a"))])).await;
    eventually("the alarm", || async { (!ask::stats(&client).await.storage_alarm.is_empty()).then_some(()) }).await;
    s3.make_bucket(BUCKET);
    assert_eq!(ask::end_of(&client, &job_id).await.state(), pb::JobState::Completed);
    assert!(ask::letters(&client, pb::DeadLetterSelector::default()).await.is_empty());
}
