//! What people read about a resource's life, and what a job type's settings do to it, on whole daemons.

use fetchbox::handler::{StorageSettings, TypeSettings};
use fetchbox::telemetry::{Log, LogFormat};

use crate::harness::binary::Home;
use crate::harness::host::Host;
use crate::harness::manifest::{document, raw, resource, submission, typed};
use crate::harness::origin::{Behaviour, Origin};
use crate::harness::{ask, eventually, pb};

async fn lines(client: &fetchbox::client::Client, job_id: &str) -> Vec<pb::LogRecord> {
    use futures_util::TryStreamExt as _;
    let request = pb::QueryLogsRequest { job_id: job_id.to_owned(), limit: 1_000, ..Default::default() };
    client.query_logs(request).await.unwrap().try_next().await.unwrap().unwrap().records
}

fn message(record: &pb::LogRecord) -> &str {
    match record.content.as_ref().unwrap() {
        pb::log_record::Content::Message(text) => text,
        pb::log_record::Content::Chunk(_) => panic!("a chunk"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_was_asked_to_wait_and_then_stored_is_told_with_its_job() {
    let origin = Origin::start().await;
    origin.on("/busy", Behaviour::body(1_234, 1).fail_first(1, 429).fail_header("Retry-After", "1"));
    origin.on("/plain", Behaviour::body(10, 2));
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    let resources = [resource("busy", &origin.url("/busy?sig=hush")), resource("plain", &origin.url("/plain"))];
    let trace_parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned();
    let job_id = ask::submit(&client, pb::SubmitJobRequest { trace_parent, ..submission(&resources) }).await;
    let job = ask::end_of(&client, &job_id).await;
    assert_eq!(job.state(), pb::JobState::Completed);
    assert_eq!(job.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");

    let story = client.explain_job(pb::ExplainJobRequest { job_id: job_id.clone() }).await.unwrap();
    assert_eq!(story.tasks.len(), 1, "the other one has no story: {story:?}");
    let told = &story.tasks[0];
    let whats: Vec<&str> = told.events.iter().map(|event| event.what.as_str()).collect();
    assert_eq!(whats, ["accepted", "started", "failed", "started", "stored"], "{told:#?}");
    let waited = &told.events[2].message;
    assert!(waited.contains("DOWNLOAD_THROTTLED") && waited.contains("asked to wait"), "{waited}");
    let stored = &told.events[4].message;
    let task = told.task.as_ref().unwrap();
    let object = task.object.as_ref().unwrap();
    for part in ["Attempt 2 stored it after ", "1,234 bytes", object.key.as_str(), object.sha256.as_str()] {
        assert!(stored.contains(part), "{stored}");
    }
    assert!(task.context.contains_key("took_ms") && task.context["host"] == origin.host(), "{:?}", task.context);
    assert!(!format!("{:?}", story.events).contains("hush"));

    let lines = lines(&client, &job_id).await;
    let of_busy: Vec<&pb::LogRecord> = lines.iter().filter(|line| line.resource_id == "busy").collect();
    assert_eq!(of_busy.len(), 2, "one line for each attempt: {of_busy:?}");
    assert!(message(of_busy[0]).ends_with(" s, as the origin asked"), "{}", message(of_busy[0]));
    assert!(message(of_busy[1]).starts_with("stored 1,234 bytes as "), "{}", message(of_busy[1]));
    assert_eq!(of_busy[1].fields["attempt"], "2");
    assert!(lines.iter().all(|line| line.trace_id == job.trace_id), "{lines:?}");
    assert!(!format!("{lines:?}").contains("hush"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_host_is_named_as_the_reason_why_nothing_happens() {
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    let control = |action: pb::ControlAction| pb::ControlQueueRequest {
        action: action.into(),
        host: "127.0.0.1:9".to_owned(),
        ..Default::default()
    };
    client.control_queue(control(pb::ControlAction::Pause)).await.unwrap();
    let job_id = ask::submit(&client, submission(&[resource("a", "http://127.0.0.1:9/a")])).await;
    let whole = client.explain_job(pb::ExplainJobRequest { job_id: job_id.clone() }).await.unwrap();
    assert!(whole.summary.contains("1 waiting (host 127.0.0.1:9 is paused"), "{}", whole.summary);
    let request = pb::ExplainTaskRequest { job_id, resource_id: "a".to_owned() };
    let story = client.explain_task(request).await.unwrap();
    assert!(story.summary.contains("host 127.0.0.1:9 is paused"), "{}", story.summary);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gallery_gets_its_headers_its_bucket_and_its_limits_from_the_configuration() {
    let origin = Origin::start().await;
    origin.on("/1.jpg", Behaviour::body(100, 1));
    origin.on("/notes.txt", Behaviour::body(100, 2));
    origin.on("/huge.jpg", Behaviour::body(5_000, 3));
    let host = Host::start(|config| {
        config.storage.allowed_buckets.push("images".to_owned());
        let gallery = TypeSettings {
            handler: "gallery".to_owned(),
            headers: [("X-Purpose".to_owned(), "gallery".to_owned())].into(),
            storage: StorageSettings { bucket: Some("images".to_owned()), ..StorageSettings::default() },
            max_bytes: Some(1_000),
            ..TypeSettings::default()
        };
        config.handlers.types.insert("gallery".to_owned(), gallery);
    })
    .await;
    let client = host.client().await;
    let resources = ["1.jpg", "notes.txt", "huge.jpg"].map(|name| resource(name, &origin.url(&format!("/{name}"))));
    let mut manifest = document(&resources);
    manifest["metadata"]["gallery_url"] = "https://gallery.example/42".into();
    let job_id = ask::submit(&client, typed(raw(manifest.to_string()), "gallery")).await;
    let job = ask::end_of(&client, &job_id).await;
    assert_eq!((job.resources_completed, job.resources_failed), (2, 1));
    let buckets: Vec<String> = ask::tasks(&client, &job_id)
        .await
        .iter()
        .filter_map(|task| Some(task.object.as_ref()?.bucket.clone()))
        .collect();
    assert_eq!(buckets, ["images", "fetchbox"]);
    assert_eq!(job.last_error.unwrap().code, "DOWNLOAD_TOO_LARGE");
    for path in ["/1.jpg", "/notes.txt"] {
        let seen = &origin.requests(path)[0];
        assert_eq!(seen.header("referer"), Some("https://gallery.example/42"), "{path}");
        assert_eq!(seen.header("x-purpose"), Some("gallery"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_where_objects_named_by_their_digest_will_stand() {
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    let addressed = serde_json::json!({ "content_addressed": true });
    let resources = [resource("a", "http://example.com/a").with("storage_hint", addressed).with("revalidate", true)];
    let plan = client.validate_manifest(submission(&resources)).await.unwrap();
    assert_eq!(plan.tasks[0].key, "sha256/{aa}/{sha256}", "{plan:?}");
    let wrong = [resource("a", "http://example.com/a").with("revalidate", "yes")];
    let plan = client.validate_manifest(submission(&wrong)).await.unwrap();
    let paths: Vec<&str> = plan.violations.iter().map(|violation| violation.path.as_str()).collect();
    assert_eq!(paths, ["resources[0].revalidate"]);
    let control = pb::ControlQueueRequest { action: pb::ControlAction::Pause.into(), ..Default::default() };
    client.control_queue(control).await.unwrap();
    let job_id = ask::submit(&client, submission(&resources)).await;
    let spec = ask::tasks(&client, &job_id).await[0].spec.clone().unwrap();
    assert!(spec.revalidate && spec.storage_hint.unwrap().content_addressed);
    assert_eq!(spec.key, "sha256/{aa}/{sha256}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_one_warning_and_a_retry_is_none() {
    let origin = Origin::start().await;
    origin.on("/gone", Behaviour::status(410));
    origin.on("/flaky", Behaviour::body(10, 1).fail_first(1, 500));
    let mut home = Home::new();
    home.config.log = Log { format: LogFormat::Json, filter: "info,fetchbox=debug".to_owned() };
    let daemon = home.start().await;
    let client = daemon.client().await;
    let resources =
        [resource("gone", &origin.url("/gone?sig=hush")), resource("flaky", &origin.url("/flaky?sig=hush"))];
    let trace_parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned();
    let job_id = ask::submit(&client, pb::SubmitJobRequest { trace_parent, ..submission(&resources) }).await;
    ask::end_of(&client, &job_id).await;
    // Told just after it is durable, so perhaps just after the job has ended.
    let told = || async { Some(daemon.stderr()).filter(|said| said.contains("stored 10 bytes")) };
    let said = eventually("the last line", told).await;
    assert!(!said.contains("hush"), "{said}");
    let lines: Vec<serde_json::Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let about = |resource: &str, level: &str| {
        let is_about = |line: &&serde_json::Value| line["resource"] == resource && line["level"] == level;
        lines.iter().filter(is_about).cloned().collect::<Vec<_>>()
    };
    let [warning] = &about("gone", "WARN")[..] else { panic!("{said}") };
    assert_eq!(warning["job_id"], job_id.as_str());
    assert_eq!(warning["task_id"], format!("{job_id}.0"));
    assert_eq!(warning["attempt"], "1");
    assert_eq!(warning["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(warning["code"], "DOWNLOAD_NOT_FOUND");
    assert_eq!(warning["host"], origin.host());
    assert!(about("flaky", "WARN").is_empty(), "{said}");
    assert_eq!(about("flaky", "DEBUG").len(), 2, "the retry and the end: {said}");
}
