//! What an operator's monitoring sees: numbers that move with the work, and a readiness that tells the truth.

use crate::harness::host::Host;
use crate::harness::manifest::{resource, submission};
use crate::harness::origin::{Behaviour, Origin};
use crate::harness::s3::S3Double;
use crate::harness::{ask, eventually, http_get, on_s3, pb};

/// The sum over all label sets of one name; histograms by their `_count`.
async fn value(host: &Host, name: &str) -> f64 {
    let (status, text) = http_get(host.http(), "/metrics").await;
    assert_eq!(status, 200);
    let of_name = |line: &&str| line.split(['{', ' ']).next() == Some(name);
    text.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

async fn labelled(host: &Host, line_start: &str) -> f64 {
    let (_, text) = http_get(host.http(), "/metrics").await;
    let line = text.lines().find(|line| line.starts_with(line_start));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_move_as_a_job_runs() {
    let origin = Origin::start().await;
    origin.on("/ok", Behaviour::body(100, 1));
    origin.on("/flaky", Behaviour::body(100, 2).fail_first(1, 503));
    origin.on("/gone", Behaviour::status(404));
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    assert_eq!(value(&host, "fetchbox_jobs_accepted_total").await, 0.0);

    let pause = |action: pb::ControlAction| pb::ControlQueueRequest { action: action.into(), ..Default::default() };
    client.control_queue(pause(pb::ControlAction::Pause)).await.unwrap();
    let resources: Vec<_> = ["/ok", "/flaky", "/gone"].map(|path| resource(&path[1..], &origin.url(path))).into();
    let job_id = host.ipc().await.submit(submission(&resources)).await.unwrap().job_id;
    eventually("the queue's depth", || async { (value(&host, "fetchbox_queue_depth").await >= 3.0).then_some(()) })
        .await;
    client.control_queue(pause(pb::ControlAction::Resume)).await.unwrap();
    let job = ask::end_of(&client, &job_id).await;
    assert_eq!((job.resources_completed, job.resources_failed), (2, 1));

    assert_eq!(value(&host, "fetchbox_jobs_accepted_total").await, 1.0);
    assert_eq!(value(&host, "fetchbox_tasks_completed_total").await, 2.0);
    assert_eq!(labelled(&host, "fetchbox_tasks_failed_total{code=\"DOWNLOAD_NOT_FOUND\"}").await, 1.0);
    assert_eq!(value(&host, "fetchbox_worker_dlq_total").await, 1.0);
    assert_eq!(labelled(&host, "fetchbox_ingest_jobs_total{result=\"accepted\"}").await, 1.0);
    assert_eq!(value(&host, "fetchbox_worker_download_failures_total").await, 2.0);
    assert_eq!(value(&host, "fetchbox_worker_bytes_stored_total").await, 200.0);
    for moved in [
        "fetchbox_ingest_bytes_total",
        "fetchbox_ingest_duration_seconds_count",
        "fetchbox_api_requests_total",
        "fetchbox_operator_requests_total",
        "fetchbox_worker_download_latency_seconds_count",
        "fetchbox_ledger_jobs_created_total",
        "fetchbox_ledger_jobs_updated_total",
        "fetchbox_ledger_logs_written_total",
        "fetchbox_commit_latency_seconds_count",
        "fetchbox_commit_groups_total",
    ] {
        assert!(value(&host, moved).await > 0.0, "{moved} does not move");
    }
    eventually("the gauges", || async {
        let depth = value(&host, "fetchbox_queue_depth").await;
        let busy =
            value(&host, "fetchbox_worker_busy_count").await + value(&host, "fetchbox_worker_tasks_inflight").await;
        let letters = value(&host, "fetchbox_dlq_size").await;
        (depth == 0.0 && busy == 0.0 && letters == 1.0).then_some(())
    })
    .await;
    assert!(!http_get(host.http(), "/metrics").await.1.contains(&job_id), "a job id is a label");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_falls_with_the_object_store_and_comes_back_and_tasks_wait_meanwhile() {
    let origin = Origin::start().await;
    origin.on("/", Behaviour::body(100, 1));
    let s3 = S3Double::start(&["things"]).await;
    let host = Host::start(|config| {
        on_s3(config, &s3, "things");
        config.storage.retries_max = 0;
    })
    .await;
    let first = http_get(host.http(), "/health/ready").await;
    assert_eq!(first.0, 200, "{}", first.1);

    s3.set_unreachable(true);
    let client = host.client().await;
    let job_id = ask::submit(&client, submission(&[resource("a", &origin.url("/a"))])).await;
    let ready = |wanted: u16| {
        let at = host.http();
        move || async move { (http_get(at, "/health/ready").await.0 == wanted).then_some(()) }
    };
    eventually("not ready", ready(503)).await;
    assert_eq!(http_get(host.http(), "/health/live").await.0, 200, "unready is not dead");
    assert_eq!(labelled(&host, "service_ready{service=\"objects\"}").await, 0.0);
    eventually("the alarm", || {
        let client = client.clone();
        async move { (!ask::stats(&client).await.storage_alarm.is_empty()).then_some(()) }
    })
    .await;
    assert_eq!(ask::letters(&client, pb::DeadLetterSelector::default()).await.len(), 0, "parked is not dead");

    s3.set_unreachable(false);
    eventually("ready again", ready(200)).await;
    let job = ask::end_of(&client, &job_id).await;
    assert_eq!(job.state(), pb::JobState::Completed);
    let task = &ask::tasks(&client, &job_id).await[0];
    assert_eq!(task.state(), pb::TaskState::Done);
    assert!(task.attempts <= 1, "waiting for our own store used up {} attempts", task.attempts);
}
