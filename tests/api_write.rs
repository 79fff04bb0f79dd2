//! Changes to jobs and dead letters: each does what it says, once, and says no where it must.

use fetchbox::client::Client;
use fetchbox::handler::TypeSettings;
use futures_util::TryStreamExt as _;

use crate::harness::checker::files;
use crate::harness::host::Host;
use crate::harness::manifest::{keyed, raw, resource, submission, typed};
use crate::harness::origin::{Behaviour, Origin};
use crate::harness::{ask, eventually, pb};

fn selector() -> pb::DeadLetterSelector {
    pb::DeadLetterSelector::default()
}

async fn replay(client: &Client, selector: pb::DeadLetterSelector) -> pb::ReplayDeadLettersResponse {
    client.replay_dead_letters(pb::ReplayDeadLettersRequest { selector: Some(selector) }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_dead_letter_completes_its_job_and_is_gone() {
    let origin = Origin::start().await;
    origin.on("/ok", Behaviour::body(10, 1));
    origin.on("/gone", Behaviour::status(404));
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    let resources = [resource("ok", &origin.url("/ok")), resource("gone", &origin.url("/gone"))];
    let job_id = ask::submit(&client, submission(&resources)).await;
    let before = ask::end_of(&client, &job_id).await;
    assert_eq!(before.state(), pb::JobState::Partial);
    let letter = ask::letters(&client, selector()).await.remove(0);
    let shown = client.get_dead_letter(pb::GetDeadLetterRequest { id: letter.id.clone() }).await.unwrap();
    assert_eq!((shown.failure_code.as_str(), shown.attempts), ("DOWNLOAD_NOT_FOUND", 1));
    assert_eq!(shown.task.unwrap().url, origin.url("/gone"));

    origin.on("/gone", Behaviour::body(20, 2));
    let unsaid = client.replay_dead_letters(pb::ReplayDeadLettersRequest { selector: Some(selector()) }).await;
    assert_eq!(unsaid.unwrap_err().code(), "INVALID_PAYLOAD", "everything at once needs confirm_all");
    let by_code = || pb::DeadLetterSelector { code_prefix: "DOWNLOAD_".to_owned(), ..selector() };
    let dry = replay(&client, pb::DeadLetterSelector { dry_run: true, ..by_code() }).await;
    assert_eq!((dry.matched, dry.replayed), (1, 0));
    assert_eq!(ask::letters(&client, selector()).await.len(), 1);
    let done = replay(&client, by_code()).await;
    assert_eq!((done.matched, done.replayed, done.job_ids), (1, 1, vec![job_id.clone()]));
    let after = ask::job_when(&client, &job_id, |job| job.state() == pb::JobState::Completed).await;
    assert_eq!((after.resources_completed, after.resources_failed), (2, 0));
    assert!(after.revision > before.revision);
    assert_eq!(ask::letters(&client, selector()).await.len(), 0);
    let task = ask::tasks(&client, &job_id).await.remove(1);
    assert_eq!((task.state(), task.replay_of), (pb::TaskState::Done, letter.id));
    assert_eq!(origin.hits("/ok"), 1, "what was stored is not fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_outlives_its_job_and_can_be_replayed_into_a_new_one() {
    let origin = Origin::start().await;
    origin.on("/gone", Behaviour::status(404));
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    let job_id = ask::submit(&client, submission(&[resource("gone", &origin.url("/gone"))])).await;
    assert_eq!(ask::end_of(&client, &job_id).await.state(), pb::JobState::Failed);
    client.delete_job(pb::DeleteJobRequest { job_id: job_id.clone(), delete_objects: false }).await.unwrap();
    origin.on("/gone", Behaviour::body(20, 2));
    let letter = ask::letters(&client, selector()).await.remove(0);
    let done = replay(&client, pb::DeadLetterSelector { ids: vec![letter.id], ..selector() }).await;
    assert_eq!(done.replayed, 1);
    assert_ne!(done.job_ids[0], job_id);
    assert_eq!(ask::end_of(&client, &done.job_ids[0]).await.state(), pb::JobState::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn purged_letters_are_those_the_dry_run_counted() {
    let origin = Origin::start().await;
    origin.on("/", Behaviour::status(404));
    origin.on("/denied", Behaviour::status(403));
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    let resources: Vec<_> = (0..6)
        .map(|at| {
            resource(&format!("r{at}"), &origin.url(&if at < 2 { format!("/denied{at}") } else { format!("/{at}") }))
        })
        .collect();
    let job_id = ask::submit(&client, submission(&resources)).await;
    ask::end_of(&client, &job_id).await;
    let purge = |selector: pb::DeadLetterSelector| {
        let client = client.clone();
        async move { client.purge_dead_letters(pb::PurgeDeadLettersRequest { selector: Some(selector) }).await }
    };
    let auth = || pb::DeadLetterSelector { code_prefix: "AUTH_".to_owned(), ..selector() };
    let dry = purge(pb::DeadLetterSelector { dry_run: true, ..auth() }).await.unwrap();
    assert_eq!((dry.matched, dry.purged), (2, 0));
    assert_eq!(purge(auth()).await.unwrap().purged, 2);
    let one = pb::DeadLetterSelector { job_id: job_id.clone(), max: 1, ..selector() };
    assert_eq!(purge(one).await.unwrap().purged, 1);
    assert_eq!(purge(selector()).await.unwrap_err().code(), "INVALID_PAYLOAD");
    let all = pb::DeadLetterSelector { confirm_all: true, ..selector() };
    assert_eq!(purge(all).await.unwrap().purged, 3);
    let stats = ask::stats(&client).await;
    assert_eq!((stats.dlq_size, ask::letters(&client, selector()).await.len()), (0, 0));
    assert_eq!(ask::job(&client, &job_id).await.resources_failed, 6, "the job's own history stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canceled_job_ends_at_once_stays_ended_and_can_be_retried() {
    let origin = Origin::start().await;
    origin.on("/ok", Behaviour::body(10, 1));
    origin.on("/hold", Behaviour::silent());
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    let resources = [resource("ok", &origin.url("/ok")), resource("hold", &origin.url("/hold"))];
    let job_id = ask::submit(&client, submission(&resources)).await;
    ask::job_when(&client, &job_id, |job| job.resources_completed == 1).await;
    eventually("the held request", || async { (origin.hits("/hold") == 1).then_some(()) }).await;
    let cancel = pb::CancelJobRequest { job_id: job_id.clone(), reason: "not wanted".to_owned() };
    client.cancel_job(cancel.clone()).await.unwrap();
    let job = ask::end_of(&client, &job_id).await;
    assert_eq!((job.state(), job.resources_completed, job.resources_canceled), (pb::JobState::Canceled, 1, 1));
    assert_eq!(ask::letters(&client, selector()).await.len(), 0, "canceled is not dead");
    let again = client.cancel_job(cancel).await;
    assert!(again.is_ok() || again.unwrap_err().code() == "ILLEGAL_STATE");

    origin.on("/hold", Behaviour::body(20, 2));
    let retry = pb::RetryJobRequest { job_id: job_id.clone(), resource_ids: vec![] };
    let retried = client.retry_job(retry.clone()).await.unwrap();
    assert_eq!(retried.requeued, 1);
    let job = ask::job_when(&client, &job_id, |job| job.state() == pb::JobState::Completed).await;
    assert_eq!((job.resources_completed, job.resources_canceled), (2, 0));
    assert_eq!(origin.hits("/ok"), 1);
    let nothing = client.retry_job(retry).await;
    assert!(nothing.is_err() || nothing.unwrap().requeued == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_job_is_gone_frees_its_key_and_takes_its_objects_only_when_asked() {
    let origin = Origin::start().await;
    origin.on("/", Behaviour::body(10, 1));
    origin.on("/hold", Behaviour::silent());
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    let make = |key: &str| keyed(submission(&[resource("a", &origin.url("/a"))]), key);
    let delete = |job_id: &str, delete_objects| pb::DeleteJobRequest { job_id: job_id.to_owned(), delete_objects };

    let active = ask::submit(&client, submission(&[resource("h", &origin.url("/hold"))])).await;
    assert_eq!(client.delete_job(delete(&active, true)).await.unwrap_err().code(), "ILLEGAL_STATE");

    let kept = ask::submit(&client, make("kept")).await;
    ask::end_of(&client, &kept).await;
    client.delete_job(delete(&kept, false)).await.unwrap();
    let gone = client.get_job(pb::GetJobRequest { job_id: kept.clone() }).await.unwrap_err();
    assert_eq!(gone.code(), "NOT_FOUND");
    let of = |id: &str| files(&host.objects()).into_iter().filter(|file| file.to_string_lossy().contains(id)).count();
    assert_eq!(of(&kept), 2, "the object and the manifest stay");
    let again = client.submit_job(make("kept")).await.unwrap();
    assert!(!again.duplicate, "the key is free");
    ask::end_of(&client, &again.job_id).await;
    let deleted = client.delete_job(delete(&again.job_id, true)).await.unwrap();
    assert!(deleted.objects_deleted >= 1);
    assert_eq!(of(&again.job_id), 0);
    assert_eq!(client.delete_job(delete(&again.job_id, true)).await.unwrap_err().code(), "NOT_FOUND");
    ask::job(&client, &active).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_job_moves_only_forward_and_only_from_the_revision_its_client_saw() {
    let host = Host::start(|config| {
        config.handlers.types.insert("outside".to_owned(), TypeSettings { external: true, ..Default::default() });
    })
    .await;
    let client = host.client().await;
    let empty = || raw(r#"{"manifest_version":"v1","resources":[]}"#);
    let job_id = ask::submit(&client, typed(empty(), "outside")).await;
    assert_eq!(
        client.submit_job(empty()).await.unwrap_err().code(),
        "INVALID_PAYLOAD",
        "only external types may be empty"
    );
    let seen = ask::job(&client, &job_id).await;
    assert_eq!(seen.state(), pb::JobState::Queued);
    let update = |state: pb::JobState, expected_revision| {
        let status = pb::JobStatus {
            job_id: job_id.clone(),
            state: state.into(),
            phase: "compiling".to_owned(),
            ..Default::default()
        };
        let request = pb::UpdateJobStatusRequest { status: Some(status), expected_revision };
        let client = client.clone();
        async move { client.update_job_status(request).await }
    };
    let running = update(pb::JobState::InProgress, seen.revision).await.unwrap();
    assert_eq!((running.state(), running.phase.as_str()), (pb::JobState::InProgress, "compiling"));
    assert_eq!(update(pb::JobState::Completed, seen.revision).await.unwrap_err().code(), "STALE_REVISION");
    let done = update(pb::JobState::Failed, running.revision).await.unwrap();
    assert_eq!(done.state(), pb::JobState::Failed);
    assert!(done.completed_at_ms > 0);
    assert_eq!(update(pb::JobState::InProgress, 0).await.unwrap_err().code(), "ILLEGAL_STATE");
    let fresh = host.client().await;
    assert_eq!(ask::end_of(&fresh, &job_id).await.state(), pb::JobState::Failed);

    let with_tasks = ask::submit(&fresh, submission(&[resource("a", "http://127.0.0.1:9/a")])).await;
    let status = pb::JobStatus { job_id: with_tasks, state: pb::JobState::Completed.into(), ..Default::default() };
    let request = pb::UpdateJobStatusRequest { status: Some(status), expected_revision: 0 };
    assert_eq!(fresh.update_job_status(request).await.unwrap_err().code(), "ILLEGAL_STATE");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_that_cannot_be_kept_are_refused_whole() {
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    let job_id = ask::submit(&client, submission(&[resource("a", "http://127.0.0.1:9/a")])).await;
    let message =
        |text: String| pb::LogRecord { content: Some(pb::log_record::Content::Message(text)), ..Default::default() };
    let append = |records: Vec<pb::LogRecord>| {
        let client = client.clone();
        let request = pb::AppendLogsRequest { job_id: job_id.clone(), records };
        async move { client.append_logs(request).await.map_err(|error| error.code().to_owned()) }
    };
    let stdout = pb::LogRecord { stream: pb::LogStream::Stdout.into(), ..message("x".to_owned()) };
    assert_eq!(append(vec![message("fine".to_owned()), stdout]).await.unwrap_err(), "INVALID_PAYLOAD");
    assert_eq!(append(vec![]).await.unwrap_err(), "INVALID_PAYLOAD");
    let too_many = (0..1_001).map(|at| message(at.to_string())).collect();
    assert_eq!(append(too_many).await.unwrap_err(), "INVALID_PAYLOAD");
    let long = append(vec![message("x".repeat(65 * 1024))]).await.unwrap_err();
    assert!(["INVALID_PAYLOAD", "PAYLOAD_TOO_LARGE"].contains(&long.as_str()), "{long}");
    let query = pb::QueryLogsRequest { job_id: job_id.clone(), text: "fine".to_owned(), ..Default::default() };
    let page = client.query_logs(query).await.unwrap().try_next().await.unwrap().unwrap();
    assert_eq!(page.records.len(), 0, "half of a refused request was kept");
}
