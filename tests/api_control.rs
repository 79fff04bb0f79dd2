//! The switches an operator turns and the cleaning up: durable, exact, and never at the cost of an active job.

use std::collections::BTreeMap;

use fetchbox::client::Client;

use crate::harness::checker::{self, Checker, Shelf};
use crate::harness::host::Host;
use crate::harness::manifest::{keyed, resource, submission};
use crate::harness::origin::{Behaviour, Origin};
use crate::harness::{ask, few_at_once, pb};

async fn control(client: &Client, action: pb::ControlAction) -> pb::ControlQueueResponse {
    client.control_queue(pb::ControlQueueRequest { action: action.into(), ..Default::default() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlives_a_restart_and_a_resume_ends_it() {
    let origin = Origin::start().await;
    origin.on("/", Behaviour::body(10, 1));
    let mut host = Host::start(|_| {}).await;
    let client = host.client().await;
    assert!(control(&client, pb::ControlAction::Pause).await.paused);
    let job_id = ask::submit(&client, submission(&[resource("a", &origin.url("/a"))])).await;
    drop(client);
    host.restart().await;
    let client = host.client().await;
    let stats = ask::stats(&client).await;
    assert!(stats.paused && stats.queue_depth >= 1, "{stats:?}");
    assert_eq!((origin.hits_total(), ask::job(&client, &job_id).await.state()), (0, pb::JobState::Queued));
    assert!(!control(&client, pb::ControlAction::Resume).await.paused);
    assert_eq!(ask::end_of(&client, &job_id).await.state(), pb::JobState::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_host_waits_while_the_others_are_served() {
    let (slow, fast) = (Origin::start().await, Origin::start().await);
    slow.on("/", Behaviour::body(10, 1));
    fast.on("/", Behaviour::body(10, 2));
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    let of_host = |action: pb::ControlAction| pb::ControlQueueRequest {
        action: action.into(),
        host: slow.host(),
        ..Default::default()
    };
    let now = client.control_queue(of_host(pb::ControlAction::Pause)).await.unwrap();
    assert_eq!((now.paused, now.paused_hosts), (false, vec![slow.host()]));
    let resources = [resource("slow", &slow.url("/a")), resource("fast", &fast.url("/a"))];
    let job_id = ask::submit(&client, submission(&resources)).await;
    ask::job_when(&client, &job_id, |job| job.resources_completed == 1).await;
    assert_eq!((slow.hits_total(), fast.hits_total()), (0, 1));
    client.control_queue(of_host(pb::ControlAction::Resume)).await.unwrap();
    assert_eq!(ask::end_of(&client, &job_id).await.state(), pb::JobState::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_refuses_intake_and_works_the_queue_empty() {
    let origin = Origin::start().await;
    origin.on("/", Behaviour::body(10, 1).delay_ms(50));
    let mut host = Host::start(|config| few_at_once(config, 2)).await;
    let client = host.client().await;
    let resources: Vec<_> = (0..8).map(|at| resource(&format!("r{at}"), &origin.url(&format!("/{at}")))).collect();
    let job_id = ask::submit(&client, submission(&resources)).await;
    assert!(control(&client, pb::ControlAction::Drain).await.draining);
    let late = keyed(submission(&resources), "late");
    for error in
        [client.submit_job(late.clone()).await.unwrap_err(), host.ipc().await.submit(late.clone()).await.unwrap_err()]
    {
        assert_eq!(error.code(), "DRAINING");
        assert!(error.retryable() && error.retry_after().is_some(), "{error:?}");
    }
    assert_eq!(ask::end_of(&client, &job_id).await.state(), pb::JobState::Completed);
    drop(client);
    host.restart().await;
    let client = host.client().await;
    assert_eq!(client.submit_job(late.clone()).await.unwrap_err().code(), "DRAINING", "after a restart");
    control(&client, pb::ControlAction::Resume).await;
    assert!(!client.submit_job(late).await.unwrap().duplicate);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_does_exactly_what_its_dry_run_said_and_never_touches_an_active_job() {
    let origin = Origin::start().await;
    origin.on("/", Behaviour::body(10, 1));
    origin.on("/gone", Behaviour::status(404));
    origin.on("/hold", Behaviour::silent());
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    let mut ended = Vec::new();
    for at in 0..5 {
        let resources = [resource("a", &origin.url("/a")), resource("g", &origin.url("/gone"))];
        ended.push(ask::submit(&client, keyed(submission(&resources), &format!("key {at}"))).await);
    }
    for job_id in &ended {
        ask::end_of(&client, job_id).await;
    }
    let active = ask::submit(&client, submission(&[resource("h", &origin.url("/hold"))])).await;
    ask::job_when(&client, &active, |job| job.state() == pb::JobState::InProgress).await;

    let cleanup = |older_than_days: Option<u32>, dry_run: bool| pb::CleanupOldDataRequest {
        older_than_days,
        dry_run,
        ..Default::default()
    };
    let positive = |deleted: std::collections::HashMap<String, u64>| -> BTreeMap<String, u64> {
        deleted.into_iter().filter(|(_, count)| *count > 0).collect()
    };
    let young = client.cleanup_old_data(cleanup(None, false)).await.unwrap();
    assert_eq!(positive(young.deleted), BTreeMap::new(), "nothing is as old as its retention");
    let dry = positive(client.cleanup_old_data(cleanup(Some(0), true)).await.unwrap().deleted);
    assert_eq!((dry.get("JOBS"), dry.get("DLQ")), (Some(&5), Some(&5)), "{dry:?}");
    assert_eq!(ask::jobs(&client).await.len(), 6, "a dry run deletes nothing");
    let real = positive(client.cleanup_old_data(cleanup(Some(0), false)).await.unwrap().deleted);
    assert_eq!(real, dry);
    let left = ask::jobs(&client).await;
    assert_eq!(left.iter().map(|job| &job.job_id).collect::<Vec<_>>(), [&active]);
    assert_eq!(ask::letters(&client, pb::DeadLetterSelector::default()).await.len(), 0);
    let resources = [resource("a", &origin.url("/a")), resource("g", &origin.url("/gone"))];
    let again = client.submit_job(keyed(submission(&resources), "key 0")).await.unwrap();
    assert!(!again.duplicate, "the key went with its job");
    let again = positive(client.cleanup_old_data(cleanup(Some(0), true)).await.unwrap().deleted);
    assert!(again.get("JOBS").is_none_or(|count| *count <= 1), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_cleanup_says_that_more_is_left() {
    let origin = Origin::start().await;
    origin.on("/", Behaviour::body(10, 1));
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    for _ in 0..4 {
        let job_id = ask::submit(&client, submission(&[resource("a", &origin.url("/a"))])).await;
        ask::end_of(&client, &job_id).await;
    }
    let request = pb::CleanupOldDataRequest {
        older_than_days: Some(0),
        kinds: vec![pb::CleanupKind::Jobs.into()],
        max_deletes: 3,
        compact: true,
        ..Default::default()
    };
    let first = client.cleanup_old_data(request.clone()).await.unwrap();
    assert_eq!((first.deleted.get("JOBS"), first.more), (Some(&3), true));
    let second = client.cleanup_old_data(request).await.unwrap();
    assert_eq!((second.deleted.get("JOBS"), second.more), (Some(&1), false));
}

#[tokio::test(flavor = "multi_thread")]
async fn higher_priority_runs_first_and_retries_survive_a_restart() {
    let origin = Origin::start().await;
    origin.on("/", Behaviour::body(10, 1));
    origin.on("/flaky", Behaviour::body(10, 2).fail_first(1, 503));
    let mut host = Host::start(|config| {
        few_at_once(config, 1);
        config.dispatch.backoff_min_ms = 1_500;
        config.dispatch.backoff_max_ms = 3_000;
    })
    .await;
    let client = host.client().await;
    control(&client, pb::ControlAction::Pause).await;
    let low = pb::SubmitJobRequest {
        priority: pb::Priority::Low.into(),
        ..submission(&[resource("a", &origin.url("/low"))])
    };
    let high = pb::SubmitJobRequest {
        priority: pb::Priority::High.into(),
        ..submission(&[resource("a", &origin.url("/high"))])
    };
    let low = ask::submit(&client, low).await;
    let high = ask::submit(&client, high).await;
    control(&client, pb::ControlAction::Resume).await;
    ask::end_of(&client, &low).await;
    ask::end_of(&client, &high).await;
    let at = |path: &str| origin.requests(path)[0].at;
    assert!(at("/high") < at("/low"));

    let flaky = ask::submit(&client, submission(&[resource("a", &origin.url("/flaky"))])).await;
    ask::job_when(&client, &flaky, |job| !job.errors.is_empty()).await;
    drop(client);
    host.restart().await;
    let client = host.client().await;
    let job = ask::end_of(&client, &flaky).await;
    assert_eq!((job.state(), origin.hits("/flaky")), (pb::JobState::Completed, 2));
    let truth = |_: &pb::DownloadTask| None;
    Checker { objects: Shelf::Folder(host.objects()), acks: &[], truth: &truth, orphans_allowed: false }
        .check(&client)
        .await;
    drop(client);
    host.stop().await;
    checker::data_is_clean(&host.data_dir()).await;
}
