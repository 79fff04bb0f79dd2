//! Questions about jobs: watched, listed, followed and explained without a gap, a duplicate or a lie, over restarts too.

use futures_util::TryStreamExt as _;
use std::collections::BTreeSet;

use crate::harness::host::Host;
use crate::harness::manifest::{raw, resource, submission, typed};
use crate::harness::origin::{Behaviour, Origin};
use crate::harness::{ask, few_at_once, in_time, pb};

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_never_goes_back_ends_with_the_job_and_can_be_resumed() {
    let origin = Origin::start().await;
    origin.on("/", Behaviour::body(10, 1).delay_ms(50));
    let host = Host::start(|config| few_at_once(config, 2)).await;
    let client = host.client().await;
    let resources: Vec<_> = (0..10).map(|at| resource(&format!("r{at}"), &origin.url(&format!("/{at}")))).collect();
    let job_id = ask::submit(&client, submission(&resources)).await;
    let request = pb::WatchJobRequest { job_id: job_id.clone(), after_revision: 0 };
    let mut stream = client.watch_job(request).await.unwrap();
    let mut seen: Vec<pb::Job> = Vec::new();
    in_time("the watch", async {
        while let Some(job) = stream.try_next().await.unwrap() {
            seen.push(job);
        }
    })
    .await;
    assert!(seen.windows(2).all(|pair| pair[0].revision < pair[1].revision));
    assert!(seen.windows(2).all(|pair| pair[0].resources_completed <= pair[1].resources_completed));
    let last = seen.last().unwrap();
    assert_eq!(last.state(), pb::JobState::Completed);
    assert!(seen[..seen.len() - 1].iter().all(|job| !ask::is_terminal(job)), "terminal is the end");

    let resume = |after_revision| pb::WatchJobRequest { job_id: job_id.clone(), after_revision };
    let mut stream = client.watch_job(resume(last.revision - 1)).await.unwrap();
    assert_eq!(stream.try_next().await.unwrap().unwrap().revision, last.revision);
    assert!(stream.try_next().await.unwrap().is_none());
    // Everything was seen: the stream ends instead of waiting for ever.
    let mut stream = client.watch_job(resume(last.revision)).await.unwrap();
    assert!(in_time("the end", stream.try_next()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_give_every_job_once_newest_first_and_a_token_survives_a_restart() {
    let mut host = Host::start(|_| {}).await;
    let client = host.client().await;
    let pause = pb::ControlQueueRequest { action: pb::ControlAction::Pause.into(), ..Default::default() };
    client.control_queue(pause).await.unwrap();
    let mut mine = Vec::new();
    for at in 0..25 {
        let mut request = submission(&[resource("a", "http://127.0.0.1:9/a")]);
        request.tenant = if at % 5 == 0 { "five".to_owned() } else { String::new() };
        mine.push(ask::submit(&client, request).await);
    }
    mine.reverse();
    let first = client.list_jobs(pb::ListJobsRequest { page_size: 10, ..Default::default() }).await.unwrap();
    let ids = |page: &pb::ListJobsResponse| page.jobs.iter().map(|job| job.job_id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&first), mine[..10]);
    drop(client);
    host.restart().await;
    let client = host.client().await;
    // Newer jobs do not disturb a listing that has begun.
    let newest = ask::submit(&client, submission(&[resource("a", "http://127.0.0.1:9/a")])).await;
    let next = pb::ListJobsRequest { page_size: 10, page_token: first.next_page_token, ..Default::default() };
    assert_eq!(ids(&client.list_jobs(next).await.unwrap()), mine[10..20]);
    let all: Vec<String> = ask::jobs(&client).await.into_iter().map(|job| job.job_id).collect();
    assert_eq!(all[0], newest);
    assert_eq!(all[1..], mine);

    let list = |request: pb::ListJobsRequest| {
        let client = client.clone();
        async move { client.list_jobs(request).await.unwrap().jobs }
    };
    assert_eq!(list(pb::ListJobsRequest { tenant: "five".to_owned(), ..Default::default() }).await.len(), 5);
    assert_eq!(list(pb::ListJobsRequest { tenant: "nobody".to_owned(), ..Default::default() }).await.len(), 0);
    let queued = pb::ListJobsRequest { states: vec![pb::JobState::Queued.into()], ..Default::default() };
    assert_eq!(list(queued).await.len(), 26);
    let failed = pb::ListJobsRequest { states: vec![pb::JobState::Failed.into()], ..Default::default() };
    assert_eq!(list(failed).await.len(), 0);
    let prefix = pb::ListJobsRequest { id_prefix: mine[3].clone(), ..Default::default() };
    assert_eq!(list(prefix).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_log_joins_history_and_live_without_gap_or_duplicate() {
    let host = Host::start(|config| {
        config
            .handlers
            .types
            .insert("outside".to_owned(), fetchbox::handler::TypeSettings { external: true, ..Default::default() });
    })
    .await;
    let client = host.client().await;
    let empty = raw(r#"{"manifest_version":"v1","resources":[]}"#);
    let job_id = ask::submit(&client, typed(empty, "outside")).await;
    let line = |at: usize| pb::LogRecord {
        level: if at.is_multiple_of(10) { pb::LogLevel::Error.into() } else { pb::LogLevel::Info.into() },
        content: Some(pb::log_record::Content::Message(format!("line {at}"))),
        ..Default::default()
    };
    let append = |from: usize, count: usize| pb::AppendLogsRequest {
        job_id: job_id.clone(),
        records: (from..from + count).map(line).collect(),
    };
    let first = client.append_logs(append(0, 500)).await.unwrap();
    let follower = tokio::spawn({
        let (client, job_id) = (client.clone(), job_id.clone());
        async move { ask::followed_log(&client, &job_id).await }
    });
    for at in 0..100 {
        let answer = client.append_logs(append(500 + at * 5, 5)).await.unwrap();
        assert_eq!(answer.first_offset, first.first_offset + 500 + at as u64 * 5);
    }
    let status = pb::JobStatus { job_id: job_id.clone(), state: pb::JobState::Completed.into(), ..Default::default() };
    client.update_job_status(pb::UpdateJobStatusRequest { status: Some(status), expected_revision: 0 }).await.unwrap();
    let heard = follower.await.unwrap();
    let offsets: Vec<u64> = heard.iter().map(|record| record.offset).collect();
    assert_eq!(offsets, (0..heard.len() as u64).collect::<Vec<_>>());
    let said: Vec<String> = heard
        .iter()
        .filter_map(|record| match &record.content {
            Some(pb::log_record::Content::Message(text)) if text.starts_with("line ") => Some(text.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(said, (0..1_000).map(|at| format!("line {at}")).collect::<Vec<_>>());

    let query = |request: pb::QueryLogsRequest| {
        let client = client.clone();
        async move { client.query_logs(request).await.unwrap().try_next().await.unwrap().unwrap() }
    };
    let of_job = || pb::QueryLogsRequest { job_id: job_id.clone(), limit: 1_000, ..Default::default() };
    let errors = query(pb::QueryLogsRequest { min_level: pb::LogLevel::Error.into(), ..of_job() }).await;
    assert_eq!(errors.records.len(), 100);
    let found = query(pb::QueryLogsRequest { text: "line 77".to_owned(), ..of_job() }).await;
    assert_eq!(found.records.len(), 11, "line 77 and line 770 to 779");
    let page = query(pb::QueryLogsRequest { offset: 10, limit: 5, ..of_job() }).await;
    assert_eq!((page.records[0].offset, page.records.len(), page.next_offset), (10, 5, 15));
    let tail = query(pb::QueryLogsRequest { tail: 3, ..of_job() }).await;
    assert_eq!(tail.records.last().unwrap().offset, heard.len() as u64 - 1);
    assert_eq!(tail.records.len(), 3);
    let job = ask::job(&client, &job_id).await;
    assert_eq!(job.log_count, heard.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_of_a_resource_tells_each_attempt_and_why() {
    let origin = Origin::start().await;
    origin.on("/flaky", Behaviour::body(10, 1).fail_first(2, 500));
    origin.on("/gone", Behaviour::status(410));
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    let resources = [resource("flaky", &origin.url("/flaky")), resource("gone", &origin.url("/gone?token=hush"))];
    let job_id = ask::submit(&client, submission(&resources)).await;
    ask::end_of(&client, &job_id).await;
    let explain = |id: &str| pb::ExplainTaskRequest { job_id: job_id.clone(), resource_id: id.to_owned() };
    let story = client.explain_task(explain("flaky")).await.unwrap();
    let failures = story.events.iter().filter(|event| event.failure.is_some()).count();
    assert_eq!(failures, 2, "{story:?}");
    assert_eq!(story.task.as_ref().unwrap().attempts, 3);
    assert!(story.events.windows(2).all(|pair| pair[0].timestamp_ms <= pair[1].timestamp_ms));
    assert!(!story.summary.is_empty());
    let story = client.explain_task(explain("gone")).await.unwrap();
    assert_eq!(story.task.as_ref().unwrap().state(), pb::TaskState::Dead);
    let whole = client.explain_job(pb::ExplainJobRequest { job_id: job_id.clone() }).await.unwrap();
    assert!(!whole.summary.is_empty() && !whole.events.is_empty());
    let told: BTreeSet<String> =
        whole.tasks.iter().map(|task| task.task.as_ref().unwrap().spec.as_ref().unwrap().resource_id.clone()).collect();
    assert_eq!(told, BTreeSet::from(["flaky", "gone"].map(str::to_owned)), "every resource with something to tell");
    let error = client.explain_task(explain("nobody")).await.unwrap_err();
    assert_eq!(error.code(), "NOT_FOUND");
    let failures = client.list_recent_failures(pb::ListRecentFailuresRequest::default()).await.unwrap().failures;
    assert_eq!(failures.len(), 3, "{failures:?}");
    assert!(failures.iter().all(|failure| failure.job_id == job_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_the_plan_and_keeps_nothing() {
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    let resources = [resource("a", "http://example.com/a"), resource("b", "https://example.com/b")];
    let plan = client.validate_manifest(submission(&resources)).await.unwrap();
    assert!(plan.valid && plan.violations.is_empty(), "{plan:?}");
    let keys: Vec<&str> = plan.tasks.iter().map(|task| task.key.as_str()).collect();
    assert_eq!(keys, ["resources/default/{job_id}/a", "resources/default/{job_id}/b"]);
    assert_eq!(ask::jobs(&client).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_comes_back_as_it_was_accepted_byte_for_byte() {
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    let metadata = r#"{ "z": 1.50e3,  "a": [ ] , "ü": "\u00fc" }"#;
    let text =
        format!(r#"{{"manifest_version":"v1","metadata":{metadata},"resources":[{{"id":"a","url":"http://x/"}}]}}"#);
    let job_id = ask::submit(&client, raw(text)).await;
    let kept = client.get_manifest(pb::GetJobRequest { job_id }).await.unwrap();
    assert_eq!(String::from_utf8(kept.metadata_json).unwrap(), metadata);
    assert_eq!((kept.manifest_version.as_str(), kept.resources.len()), ("v1", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_over_tcp_answers_as_over_the_unix_socket() {
    let host = Host::start(|_| {}).await;
    let unix = host.client().await;
    let tcp = host.tcp_client().await;
    let job_id = ask::submit(&tcp, submission(&[resource("a", "http://127.0.0.1:9/a")])).await;
    assert_eq!(ask::job(&unix, &job_id).await.job_id, ask::job(&tcp, &job_id).await.job_id);
    let health = tcp.get_health(pb::GetHealthRequest {}).await.unwrap();
    assert!(health.live && health.ready, "{health:?}");
}
