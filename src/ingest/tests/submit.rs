//! What is accepted becomes the right job.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt as _;

use super::*;
use crate::handler::HandlerError;
use crate::model::{Manifest, RefusalCode, TaskSpec};

const WHOLE: &str = r#"{
  "manifest_version": "v1",
  "metadata": { "z": 1.50, "a": [ 1, {"k": "\u00e9"} ] },
  "resources": [
    { "id": "a.jpg", "url": "https://example.org/a.jpg?x=1#f",
      "headers": {"Authorization": "Bearer x", "X-Empty": ""}, "tags": {"colour": "red"},
      "checksum": "sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
      "mime_hint": "image/jpeg", "max_bytes": 1000,
      "storage_hint": {"bucket": "allowed", "key_prefix": "pics/", "metadata": {"origin": "here"}},
      "proxy_hint": {"primary_pool": "eu", "fallbacks": ["eu"]} },
    { "name": "b", "url": "http://example.org/b", "headers": [{"name": "X-A", "value": "1"}, {"name": "X-A", "value": "2"}],
      "checksum": null, "max_bytes": 0 }
  ],
  "attributes": {"depth": 3},
  "storage": {"manifest_file": "m/{job_id}.json"}
}"#;

#[test]
fn nothing_a_manifest_says_is_lost_on_the_way() {
    let job = prepare(json(WHOLE)).unwrap();
    assert_eq!(job.manifest.metadata_json, r#"{ "z": 1.50, "a": [ 1, {"k": "\u00e9"} ] }"#);
    assert_eq!(job.manifest.attributes_json, r#"{"depth": 3}"#);
    assert_eq!((job.manifest_bucket.as_str(), job.manifest_key), ("fetchbox", format!("m/{}.json", job.id)));
    let [a, b] = job.tasks.as_slice() else { panic!("{:?}", job.tasks) };
    assert_eq!((a.resource_id.as_str(), a.url.as_str()), ("a.jpg", "https://example.org/a.jpg?x=1#f"));
    assert_eq!((a.bucket.as_deref(), a.key_prefix.as_deref()), (Some("allowed"), Some("pics")));
    assert_eq!(a.checksum.unwrap()[..4], [0xba, 0x78, 0x16, 0xbf]);
    assert_eq!((a.mime_hint.as_deref(), a.max_bytes), (Some("image/jpeg"), Some(1_000)));
    assert_eq!((a.tags["colour"].as_str(), a.object_metadata["origin"].as_str()), ("red", "here"));
    assert_eq!(a.proxy_hint.as_ref().unwrap().primary_pool, "eu");
    assert_eq!(a.headers.len(), 2);
    assert_eq!((b.resource_id.as_str(), b.checksum, b.max_bytes), ("b", None, None));
    assert_eq!(b.headers.iter().map(|header| header.value.as_str()).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(job.open_tasks_max, 10_000_000);
    assert_eq!(job.now_ms, 1_800_000_000_000);
}

#[test]
fn a_dry_run_names_every_object() {
    let answer = validate(json(WHOLE));
    assert_eq!(answer.violations, []);
    let places: Vec<(&str, &str)> = answer.tasks.iter().map(|task| (task.bucket.as_str(), task.key.as_str())).collect();
    assert_eq!(places, [("allowed", "pics/a.jpg"), ("fetchbox", "resources/default/{job_id}/b")]);
}

#[test]
fn a_dry_run_names_every_violation() {
    let answer = validate(json(r#"{"manifest_version":"v2","resources":[{"id":"..","url":"ftp://h/"}]}"#));
    let paths: Vec<&str> = answer.violations.iter().map(|violation| violation.path.as_str()).collect();
    assert_eq!(paths, ["manifest_version", "resources[0].id", "resources[0].url"]);
    assert!(answer.tasks.is_empty());
}

#[test]
fn a_trace_travels_with_the_job() {
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let with = |parent: &str| Submission { trace_parent: parent.into(), ..with_resource("") };
    assert_eq!(prepare(with(parent)).unwrap().trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(prepare(with("")).unwrap().trace_id, "");
    assert!(prepare(with(&format!("{}-later", parent.replacen("00", "01", 1)))).is_ok());
    let zeros = "0".repeat(32);
    let wrong = [
        "x".to_owned(),
        parent.to_uppercase(),
        format!("{parent}-more"),
        parent.replacen("00", "ff", 1),
        parent.replace("4bf92f3577b34da6a3ce929d0e0e4736", &zeros),
        parent.replace("00f067aa0ba902b7", "0000000000000000"),
        parent.replace("-01", ""),
    ];
    for parent in wrong {
        assert_eq!(paths(prepare(with(&parent))), ["trace_parent"], "{parent}");
    }
}

#[test]
fn an_external_job_has_no_resources_and_no_object() {
    let external = |text: &str| Submission { job_type: "external".into(), ..json(text) };
    let job = prepare(external(r#"{"manifest_version":"v1","metadata":{"n":1}}"#)).unwrap();
    assert!(job.external && job.tasks.is_empty());
    assert_eq!((job.manifest_bucket.as_str(), job.manifest_key.as_str()), ("", ""));
    let with = r#"{"manifest_version":"v1","resources":[{"id":"a","url":"http://h/"}]}"#;
    assert_eq!(paths(prepare(external(with))), ["resources"]);
    assert_eq!(paths(prepare(json(r#"{"manifest_version":"v1","resources":[]}"#))), ["resources"]);
    assert_eq!(paths(prepare(json(r#"{"manifest_version":"v1"}"#))), ["resources"]);
}

#[test]
fn a_job_type_nobody_serves_is_refused_as_such() {
    let options = crate::handler::Options { handlers_only: true, ..Default::default() };
    let intake = intake_with(Options::default(), Registry::new(options, []).unwrap());
    let refusal = intake.prepare(with_resource("")).now_or_never().unwrap().unwrap_err();
    assert_eq!(refusal.code, RefusalCode::UnsupportedJobType);
}

#[test]
fn a_thousand_resources_are_a_job_and_one_more_is_none() {
    let manifest = |count: usize| {
        let resources: Vec<String> = (0..count).map(|n| format!(r#"{{"id":"r{n}","url":"http://h/{n}"}}"#)).collect();
        json(format!(r#"{{"manifest_version":"v1","resources":[{}]}}"#, resources.join(",")))
    };
    assert_eq!(prepare(manifest(1_000)).unwrap().tasks.len(), 1_000);
    let refusal = prepare(manifest(1_001)).unwrap_err();
    assert_eq!(refusal.violations.len(), 1);
    assert!(refusal.violations[0].message.contains("1001 entries"), "{refusal}");
}

#[test]
fn job_ids_grow_with_every_submission() {
    let intake = intake();
    let mut last = JobId::MIN;
    for _ in 0..100 {
        let id = intake.prepare(with_resource("")).now_or_never().unwrap().unwrap().id;
        assert!(id > last);
        last = id;
    }
}

/// Each hook does what the test says.
struct Odd {
    prepare: fn(Manifest) -> Result<Manifest, HandlerError>,
    build: fn(&Manifest) -> Result<Vec<TaskSpec>, HandlerError>,
}

#[async_trait]
impl JobHandler for Odd {
    async fn prepare(&self, manifest: Manifest, _: &TypeSettings) -> Result<Manifest, HandlerError> {
        (self.prepare)(manifest)
    }

    async fn build_tasks(&self, manifest: &Manifest, _: &TypeSettings) -> Result<Vec<TaskSpec>, HandlerError> {
        (self.build)(manifest)
    }
}

fn one_task(_: &Manifest) -> Result<Vec<TaskSpec>, HandlerError> {
    Ok(vec![TaskSpec { resource_id: "own".into(), url: "http://own/".into(), ..TaskSpec::default() }])
}

async fn through(handler: Odd) -> Result<NewJob, Refusal> {
    intake_of(handler).prepare(with_resource("")).await
}

#[tokio::test]
async fn a_handlers_manifest_and_tasks_are_what_is_stored() {
    let prepare = |mut manifest: Manifest| {
        manifest.metadata_json = r#"{"seen":true}"#.into();
        Ok(manifest)
    };
    let job = through(Odd { prepare, build: one_task }).await.unwrap();
    assert_eq!(job.manifest.metadata_json, r#"{"seen":true}"#);
    assert_eq!(job.tasks[0].resource_id, "own");
}

#[tokio::test]
async fn a_handler_cannot_smuggle_in_what_a_client_may_not_send() {
    let made: [fn(Manifest) -> Result<Manifest, HandlerError>; 4] = [
        |manifest| Ok(Manifest { metadata_json: "no json".into(), ..manifest }),
        |manifest| Ok(Manifest { metadata_json: r#"{},"attributes":{}"#.into(), ..manifest }),
        |manifest| Ok(Manifest { resources: Vec::new(), ..manifest }),
        |mut manifest| {
            manifest.resources[0].url = "file:///etc/passwd".into();
            Ok(manifest)
        },
    ];
    for prepare in made {
        let refusal = through(Odd { prepare, build: one_task }).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Handler, "{refusal}");
    }
}

#[tokio::test]
async fn a_handler_that_fails_panics_or_refuses_costs_one_submission() {
    type Build = fn(&Manifest) -> Result<Vec<TaskSpec>, HandlerError>;
    let build: [Build; 3] = [
        |_| Err(HandlerError::retryable("database away")),
        |_| panic!("bug"),
        |_| Err(HandlerError::refused("no such album")),
    ];
    let codes = [RefusalCode::Handler, RefusalCode::Handler, RefusalCode::InvalidPayload];
    for (build, code) in build.into_iter().zip(codes) {
        let refusal = through(Odd { prepare: Ok, build }).await.unwrap_err();
        assert_eq!(refusal.code, code, "{refusal}");
    }
}

struct Stuck;

#[async_trait]
impl JobHandler for Stuck {
    async fn build_tasks(&self, _: &Manifest, _: &TypeSettings) -> Result<Vec<TaskSpec>, HandlerError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_handler_that_hangs_is_given_up() {
    let settings = TypeSettings { handler: "stuck".into(), timeout_ms: 20, ..TypeSettings::default() };
    let stuck: Arc<dyn JobHandler> = Arc::new(Stuck);
    let types = BTreeMap::from([("default".to_owned(), settings)]);
    let intake = intake_with(Options::default(), Registry::new(types, [("stuck".to_owned(), stuck)]).unwrap());
    let refusal = intake.prepare(with_resource("")).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Handler);
    assert!(refusal.message.contains("20 ms"), "{refusal}");
}

#[test]
fn a_log_of_a_submission_shows_no_credential() {
    let submission = with_resource(r#","headers":{"Authorization":"secret"}"#);
    assert!(!format!("{submission:?}").contains("secret"));
    let job = prepare(submission).unwrap();
    assert!(!format!("{job:?}").contains("secret"));
}
