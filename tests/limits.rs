//! Limits that protect what was acknowledged: new work is refused in time, with a wait; old work goes on.

use crate::harness::host::Host;
use crate::harness::manifest::{keyed, resource, submission};
use crate::harness::origin::{Behaviour, Origin};
use crate::harness::s3::{Fault, S3Double, Which};
use crate::harness::{ask, eventually, http_get, on_s3, pb};

#[tokio::test(flavor = "multi_thread")]
async fn a_nearly_full_disk_refuses_new_jobs_and_finishes_the_old_ones() {
    let origin = Origin::start().await;
    origin.on("/", Behaviour::body(10, 1));
    let mut host = Host::start(|_| {}).await;
    let client = host.client().await;
    let pause = pb::ControlQueueRequest { action: pb::ControlAction::Pause.into(), ..Default::default() };
    client.control_queue(pause).await.unwrap();
    let old = ask::submit(&client, submission(&[resource("a", &origin.url("/old"))])).await;
    drop(client);
    host.stop().await;
    // No disk is as empty as that.
    host.configure(|config| (config.store.free_min_bytes, config.store.free_min_percent) = (u64::MAX, 100));
    host.resume().await;
    let client = host.client().await;
    let new = keyed(submission(&[resource("a", &origin.url("/new"))]), "new");
    for error in
        [client.submit_job(new.clone()).await.unwrap_err(), host.ipc().await.submit(new.clone()).await.unwrap_err()]
    {
        assert_eq!(error.code(), "STORAGE_FULL", "{error}");
        assert!(error.retryable() && error.retry_after().is_some(), "{error:?}");
    }
    let resume = pb::ControlQueueRequest { action: pb::ControlAction::Resume.into(), ..Default::default() };
    client.control_queue(resume).await.unwrap();
    assert_eq!(ask::end_of(&client, &old).await.state(), pb::JobState::Completed);
    assert_eq!(ask::jobs(&client).await.len(), 1);
    drop(client);
    host.stop().await;
    host.configure(|config| config.store.free_min_percent = 0);
    host.resume().await;
    assert!(!host.client().await.submit_job(new).await.unwrap().duplicate, "a refused job left its key behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_open_resources_than_allowed_are_told_to_wait() {
    let origin = Origin::start().await;
    origin.on("/", Behaviour::body(10, 1));
    let host = Host::start(|config| config.ingest.open_tasks_max = 8).await;
    let client = host.client().await;
    let pause = pb::ControlQueueRequest { action: pb::ControlAction::Pause.into(), ..Default::default() };
    client.control_queue(pause).await.unwrap();
    let five: Vec<_> = (0..5).map(|at| resource(&format!("r{at}"), &origin.url(&format!("/{at}")))).collect();
    let first = ask::submit(&client, submission(&five)).await;
    let error = client.submit_job(keyed(submission(&five), "second")).await.unwrap_err();
    assert_eq!(error.code(), "RATE_LIMITED", "{error}");
    assert!(error.retryable() && error.retry_after().is_some(), "{error:?}");
    let resume = pb::ControlQueueRequest { action: pb::ControlAction::Resume.into(), ..Default::default() };
    client.control_queue(resume).await.unwrap();
    ask::end_of(&client, &first).await;
    let second = client.submit_job(keyed(submission(&five), "second")).await.unwrap();
    assert!(!second.duplicate);
    assert_eq!(ask::end_of(&client, &second.job_id).await.state(), pb::JobState::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_are_not_public_are_refused_unless_allowed_and_no_packet_leaves() {
    let origin = Origin::start().await;
    origin.on("/", Behaviour::body(10, 1));
    let host = Host::start(|config| config.worker.allow_networks = vec![]).await;
    let client = host.client().await;
    let port = origin.addr().port();
    let forms =
        ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::1]"];
    let resources: Vec<_> = forms
        .iter()
        .enumerate()
        .map(|(at, host)| resource(&format!("r{at}"), &format!("http://{host}:{port}/x")))
        .collect();
    let job_id = ask::submit(&client, submission(&resources)).await;
    let job = ask::end_of(&client, &job_id).await;
    assert_eq!((job.state(), job.resources_failed as usize), (pb::JobState::Failed, forms.len()));
    for task in ask::tasks(&client, &job_id).await {
        let error = task.error.unwrap_or_default();
        assert_eq!((error.code.as_str(), task.attempts), ("DOWNLOAD_BLOCKED_ADDRESS", 1), "{:?}", task.spec);
    }
    assert_eq!(origin.hits_total(), 0, "a request left");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_http_door_knows_its_paths_and_no_others() {
    let host = Host::start(|_| {}).await;
    for (path, status) in
        [("/metrics", 200), ("/health/live", 200), ("/health/ready", 200), ("/", 404), ("/../etc/passwd", 404)]
    {
        let (got, body) = http_get(host.http(), path).await;
        assert!(got == status || (status == 404 && (400..500).contains(&got)), "{path}: {got} {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_object_store_makes_tasks_wait_and_buries_none() {
    let origin = Origin::start().await;
    origin.on("/", Behaviour::body(10, 1));
    let s3 = S3Double::start(&["things"]).await;
    let host = Host::start(|config| {
        on_s3(config, &s3, "things");
        config.storage.retries_max = 0;
        config.dispatch.park_min_ms = 10;
        config.dispatch.park_max_ms = 50;
    })
    .await;
    s3.fault(Which::Put, 6, Fault::Answer(507, "XMinioStorageFull"));
    let client = host.client().await;
    let resources: Vec<_> = (0..5).map(|at| resource(&format!("r{at}"), &origin.url(&format!("/{at}")))).collect();
    let job_id = ask::submit(&client, submission(&resources)).await;
    let job = ask::job_when(&client, &job_id, ask::is_terminal).await;
    assert_eq!(job.state(), pb::JobState::Completed, "{job:?}");
    assert!(ask::letters(&client, pb::DeadLetterSelector::default()).await.is_empty());
    eventually("the alarm to end", || async { ask::stats(&client).await.storage_alarm.is_empty().then_some(()) }).await;
}
