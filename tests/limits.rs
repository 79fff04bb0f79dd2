//! What is refused before it hurts: a disk that is nearly full, more open tasks than allowed, an object store without room.

use crate::harness::host::Host;
use crate::harness::manifest::{resource, submission};
use crate::harness::origin::{Behaviour, Origin};
use crate::harness::s3::{Fault, S3Double, Which};
use crate::harness::{ask, eventually, pb};
use fetchbox::client::Error;
use fetchbox::objects;

fn refused(error: Error) -> pb::ErrorDetail {
    match error {
        Error::Refused { detail, .. } => *detail,
        other => panic!("not a refusal: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nearly_full_disk_refuses_new_jobs_before_a_write_can_fail() {
    let host = Host::start(|config| {
        // The whole disk must stay free: it never is.
        config.store.free_min_bytes = u64::MAX;
        config.store.free_min_percent = 100;
    })
    .await;
    let client = host.client().await;
    let error = client.submit_job(submission(&[resource("a", "http://127.0.0.1:9/a")])).await.unwrap_err();
    let detail = refused(error);
    assert_eq!((detail.code.as_str(), detail.retryable), ("STORAGE_FULL", true));
    assert!(detail.retry_after_ms > 0);
    assert!(ask::stats(&client).await.jobs_by_state.values().all(|count| *count == 0), "nothing was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_open_tasks_than_allowed_are_told_to_come_back() {
    let origin = Origin::start().await;
    origin.on("/", Behaviour::body(10, 1));
    // Two resources and the manifest itself.
    let host = Host::start(|config| config.ingest.open_tasks_max = 3).await;
    let client = host.client().await;
    let control = |action: pb::ControlAction| pb::ControlQueueRequest { action: action.into(), ..Default::default() };
    client.control_queue(control(pb::ControlAction::Pause)).await.unwrap();
    let job = |path: &str| submission(&[resource("a", &origin.url(path)), resource("b", &origin.url(path))]);
    let first = ask::submit(&client, job("/1")).await;
    let detail = refused(client.submit_job(job("/2")).await.unwrap_err());
    assert_eq!((detail.code.as_str(), detail.retryable), ("RATE_LIMITED", true));
    assert!(detail.retry_after_ms > 0);
    client.control_queue(control(pb::ControlAction::Resume)).await.unwrap();
    ask::job_when(&client, &first, ask::is_terminal).await;
    ask::submit(&client, job("/2")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_object_store_makes_tasks_wait_and_buries_none() {
    let origin = Origin::start().await;
    origin.on("/", Behaviour::body(10, 1));
    let s3 = S3Double::start(&["things"]).await;
    let host = Host::start(|config| {
        config.storage.kind = objects::Kind::S3;
        config.storage.bucket = "things".to_owned();
        config.storage.endpoint = Some(s3.endpoint());
        config.storage.access_key_id_file = Some(s3.access_key_id_file());
        config.storage.secret_access_key_file = Some(s3.secret_access_key_file());
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
