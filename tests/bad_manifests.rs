//! Manifests that are wrong, one field at a time and all at once: a code, a path for each violation, and nothing stored.

use fetchbox::client::Error;
use fetchbox::client::ipc::IpcClient;
use serde_json::{Value, json};

use crate::harness::host::Host;
use crate::harness::manifest::{Resource, document, keyed, raw, resource, submission, typed};
use crate::harness::{ask, pb};

const URL: &str = "http://127.0.0.1:9/x";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn refused(ipc: &IpcClient, request: pb::SubmitJobRequest) -> pb::ErrorDetail {
    match ipc.submit(request).await {
        Ok(accepted) => panic!("accepted as {}", accepted.job_id),
        Err(error) => detail_of(error),
    }
}

fn detail_of(error: Error) -> pb::ErrorDetail {
    match error {
        Error::Refused { detail, .. } => *detail,
        Error::Unreachable { .. } | Error::Protocol { .. } => panic!("no refusal: {error}"),
    }
}

fn paths(error: &pb::ErrorDetail) -> Vec<&str> {
    error.fields.iter().map(|field| field.path.as_str()).collect()
}

/// A manifest whose only fault is at `path`.
fn wrong_at() -> Vec<(&'static str, Value)> {
    let one = |resource: Resource| document(&[resource]);
    let fine = || resource("a", URL);
    let top = |key: &str, value: Value| {
        let mut made = one(fine());
        made[key] = value;
        made
    };
    let headers = |name: &str, value: &str| one(fine().with("headers", json!([{ "name": name, "value": value }])));
    let eleven: Vec<Value> = (0..11).map(|at| json!({ "name": format!("X-{at}"), "value": "v" })).collect();
    let many: Vec<Resource> = (0..1_001).map(|at| resource(&format!("r{at}"), URL)).collect();
    vec![
        ("manifest_version", top("manifest_version", json!("v2"))),
        ("manifest_version", top("manifest_version", json!(""))),
        ("metadata", top("metadata", json!([]))),
        ("attributes", top("attributes", json!("x"))),
        ("resources", top("resources", json!([]))),
        ("resources", document(&many)),
        ("resources[0].id", one(resource("", URL))),
        ("resources[0].id", one(resource("../x", URL))),
        ("resources[0].id", one(resource("a/b", URL))),
        ("resources[0].id", one(resource(".hidden", URL))),
        ("resources[0].id", one(resource("nul\0", URL))),
        ("resources[0].id", one(resource("ü", URL))),
        ("resources[0].id", one(resource(&"l".repeat(129), URL))),
        ("resources[1].id", document(&[fine(), fine()])),
        ("resources[0].url", one(resource("a", ""))),
        ("resources[0].url", one(resource("a", "/relative"))),
        ("resources[0].url", one(resource("a", "ftp://example.com/x"))),
        ("resources[0].url", one(resource("a", "file:///etc/passwd"))),
        ("resources[0].url", one(resource("a", "javascript:alert(1)"))),
        ("resources[0].url", one(resource("a", "http://user:hush@example.com/"))),
        ("resources[0].url", one(resource("a", "http://user@example.com/"))),
        ("resources[0].url", one(resource("a", "http://example.com/\n"))),
        ("resources[0].url", one(resource("a", "http://exam\tple.com/"))),
        ("resources[0].url", one(resource("a", "http://example.com/\u{1}"))),
        ("resources[0].url", one(resource("a", "http://"))),
        ("resources[0].url", one(resource("a", "http://[::1"))),
        ("resources[0].url", one(resource("a", "http://example.com:99999/"))),
        ("resources[0].url", one(resource("a", &format!("http://example.com/{}", "x".repeat(8_192))))),
        ("resources[0].headers", one(fine().with("headers", eleven))),
        ("resources[0].headers[0]", headers("X-A", "a\r\nHost: evil")),
        ("resources[0].headers[0]", headers("X-A", "a\0b")),
        ("resources[0].headers[0]", headers("X-A\r\nHost", "evil")),
        ("resources[0].headers[0]", headers("bad name", "v")),
        ("resources[0].headers[0]", headers("", "v")),
        ("resources[0].headers[0]", headers("If-None-Match", "\"v1\"")),
        ("resources[0].headers[0]", headers("Transfer-Encoding", "chunked")),
        ("resources[0].headers[0]", headers("X-A", &"v".repeat(1_024))),
        ("resources[0].checksum", one(fine().with("checksum", "md5:00"))),
        ("resources[0].checksum", one(fine().with("checksum", "sha256:12"))),
        ("resources[0].checksum", one(fine().with("checksum", format!("sha256:{}", "g".repeat(64))))),
        ("resources[0].storage_hint", one(fine().with("storage_hint", json!({ "bucket": "somebody-elses" })))),
        ("resources[0].storage_hint", one(fine().with("storage_hint", json!({ "key_prefix": "../up" })))),
        ("storage", top("storage", json!({ "manifest_file": "../../etc/passwd" }))),
        ("storage", top("storage", json!({ "resource_key_prefix": "/absolute" }))),
        ("storage", top("storage", json!({ "resource_key_prefix": "a//b" }))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_field_is_named_and_nothing_is_stored() {
    let host = Host::start(|_| {}).await;
    let ipc = host.ipc().await;
    for (path, manifest) in wrong_at() {
        let text = manifest.to_string();
        let shown: String = text.chars().take(200).collect();
        let error = refused(&ipc, raw(text)).await;
        assert_eq!(error.code, "INVALID_PAYLOAD", "{shown}: {error:?}");
        assert!(!error.retryable);
        assert!(paths(&error).iter().any(|told| told.starts_with(path)), "{path} in {shown}: {:?}", paths(&error));
        assert!(!format!("{error:?}").contains("hush"), "a password is repeated: {error:?}");
    }
    let client = host.client().await;
    assert_eq!(ask::jobs(&client).await.len(), 0);
    assert_eq!(ask::stats(&client).await.queue_depth, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_wrong_is_reported_at_once_by_every_door() {
    let host = Host::start(|_| {}).await;
    let resources = [
        resource("../x", "ftp://example.com/x"),
        resource("twice", URL),
        resource("twice", URL),
        resource("sum", URL).with("checksum", "md5:00"),
    ];
    let mut manifest = document(&resources);
    manifest["manifest_version"] = json!("v9");
    manifest["metadata"] = json!([]);
    let wanted = [
        "manifest_version",
        "metadata",
        "resources[0].id",
        "resources[0].url",
        "resources[2].id",
        "resources[3].checksum",
    ];
    let request = raw(manifest.to_string());
    let by_socket = refused(&host.ipc().await, request.clone()).await;
    let by_grpc = host.client().await.submit_job(request.clone()).await.unwrap_err();
    let by_grpc = detail_of(by_grpc);
    let dry = host.client().await.validate_manifest(request).await.unwrap();
    assert!(!dry.valid);
    let dry: Vec<&str> = dry.violations.iter().map(|violation| violation.path.as_str()).collect();
    for path in wanted {
        for (door, told) in [("socket", &paths(&by_socket)), ("gRPC", &paths(&by_grpc)), ("dry run", &dry)] {
            assert!(told.iter().any(|told| told.starts_with(path)), "{door} does not name {path}: {told:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_manifest_at_all_is_refused() {
    let host = Host::start(|_| {}).await;
    let ipc = host.ipc().await;
    let mut surprise = document(&[resource("a", URL)]);
    surprise["surprise"] = json!(1);
    let twice = r#"{"manifest_version":"v1","manifest_version":"v1","resources":[{"id":"a","url":"http://x/"}]}"#;
    let documents: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"{".to_vec(),
        b"{}".to_vec(),
        vec![0xff, 0xfe],
        b"[".repeat(200_000),
        surprise.to_string().into_bytes(),
        twice.as_bytes().to_vec(),
        b"{\"manifest_version\":\"v1\",\"resources\":{}}".to_vec(),
        b"{\"manifest_version\":\"v1\",\"resources\":[null]}".to_vec(),
        b"{\"manifest_version\":\"v1\",\"resources\":[{\"id\":\"a\",\"url\":\"http://x/\",\"max_bytes\":-1}]}".to_vec(),
    ];
    for text in documents {
        let shown = String::from_utf8_lossy(&text[..text.len().min(60)]).into_owned();
        assert_eq!(refused(&ipc, raw(text)).await.code, "INVALID_PAYLOAD", "{shown}");
    }
    assert_eq!(refused(&ipc, pb::SubmitJobRequest::default()).await.code, "INVALID_PAYLOAD", "no source");
    assert_eq!(ask::jobs(&host.client().await).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn job_types_tenants_and_keys_that_could_be_paths_are_refused() {
    let host = Host::start(|_| {}).await;
    let ipc = host.ipc().await;
    let fine = || submission(&[resource("a", URL)]);
    for job_type in ["../x", "A", "a b", "a/b", &"l".repeat(65)] {
        let code = refused(&ipc, typed(fine(), job_type)).await.code;
        assert!(["INVALID_PAYLOAD", "UNSUPPORTED_JOB_TYPE"].contains(&code.as_str()), "{job_type}: {code}");
    }
    assert_eq!(
        refused(&ipc, pb::SubmitJobRequest { tenant: "../x".to_owned(), ..fine() }).await.code,
        "INVALID_PAYLOAD"
    );
    assert_eq!(refused(&ipc, keyed(fine(), &"k".repeat(257))).await.code, "INVALID_PAYLOAD");
    let strict = Host::start(|config| config.handlers.handlers_only = true).await;
    let error = refused(&strict.ipc().await, typed(fine(), "nobody-configured-this")).await;
    assert_eq!(error.code, "UNSUPPORTED_JOB_TYPE");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gzip_bomb_costs_no_memory_and_broken_gzip_is_named() {
    let host = Host::start(|_| {}).await;
    let ipc = host.ipc().await;
    let packed = |bytes: Vec<u8>| pb::SubmitJobRequest {
        source: Some(pb::submit_job_request::Source::ManifestJsonGzip(bytes)),
        ..Default::default()
    };
    let bomb = gzip(&vec![b' '; 64 * 1024 * 1024]);
    assert!(bomb.len() < 100_000);
    assert_eq!(refused(&ipc, packed(bomb)).await.code, "PAYLOAD_TOO_LARGE");
    let whole = gzip(document(&[resource("a", URL)]).to_string().as_bytes());
    let mut wrong_sum = whole.clone();
    let sum_at = wrong_sum.len() - 8;
    wrong_sum[sum_at] ^= 1;
    for broken in [b"not gzip".to_vec(), vec![], whole[..whole.len() - 9].to_vec(), wrong_sum, gzip(&whole)] {
        assert_eq!(refused(&ipc, packed(broken)).await.code, "INVALID_PAYLOAD");
    }
    assert_eq!(refused(&ipc, raw(vec![b' '; 5_000_001])).await.code, "PAYLOAD_TOO_LARGE");
    ipc.submit(packed(whole)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_means_one_manifest_however_it_is_written() {
    let mut host = Host::start(|_| {}).await;
    let ipc = host.ipc().await;
    let manifest = document(&[resource("a", URL).with("tags", json!({ "x": "1", "y": "2" }))]);
    let first = ipc.submit(keyed(raw(manifest.to_string()), "key")).await.unwrap();
    assert!(!first.duplicate);
    let pretty = keyed(raw(serde_json::to_string_pretty(&manifest).unwrap()), "key");
    let other_order = r#"{"resources":[{"tags":{"y":"2","x":"1"},"url":"http://127.0.0.1:9/x","id":"a"}],"metadata":{"made_by":"a test"},"manifest_version":"v1"}"#;
    let packed = pb::SubmitJobRequest {
        source: Some(pb::submit_job_request::Source::ManifestJsonGzip(gzip(other_order.as_bytes()))),
        idempotency_key: "key".to_owned(),
        priority: pb::Priority::High.into(),
        ..Default::default()
    };
    for same in [pretty.clone(), keyed(raw(other_order), "key"), packed] {
        let again = ipc.submit(same).await.unwrap();
        assert_eq!((again.job_id.as_str(), again.duplicate), (first.job_id.as_str(), true));
    }
    let other = keyed(submission(&[resource("a", "http://127.0.0.1:9/other")]), "key");
    let error = refused(&ipc, other.clone()).await;
    assert_eq!((error.code.as_str(), error.job_id.as_str()), ("ALREADY_EXISTS", first.job_id.as_str()));
    let elsewhere = ipc.submit(pb::SubmitJobRequest { tenant: "other".to_owned(), ..other }).await.unwrap();
    assert_ne!(elsewhere.job_id, first.job_id);
    drop(ipc);
    host.restart().await;
    let again = host.ipc().await.submit(pretty).await.unwrap();
    assert_eq!((again.job_id, again.duplicate), (first.job_id, true), "after a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_keys_at_the_same_moment_make_one_job() {
    let host = Host::start(|_| {}).await;
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let ipc = host.ipc().await;
        racers.spawn(async move { ipc.submit(keyed(submission(&[resource("a", URL)]), "race")).await.unwrap() });
    }
    let answers = racers.join_all().await;
    assert_eq!(answers.iter().filter(|answer| !answer.duplicate).count(), 1);
    assert!(answers.iter().all(|answer| answer.job_id == answers[0].job_id));
    assert_eq!(ask::jobs(&host.client().await).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_are_paths_or_strangers_are_refused_by_every_question() {
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    for bad in ["", "../../etc/passwd", "a/b", "\0", &"x".repeat(10_000), "0190A7C2-0000-7000-8000-000000000000"] {
        let error = client.get_job(pb::GetJobRequest { job_id: bad.to_owned() }).await.unwrap_err();
        assert!(["INVALID_PAYLOAD", "NOT_FOUND"].contains(&error.code()), "{bad:?}: {error}");
        let delete = pb::DeleteJobRequest { job_id: bad.to_owned(), delete_objects: true };
        let error = client.delete_job(delete).await.unwrap_err();
        assert!(["INVALID_PAYLOAD", "NOT_FOUND"].contains(&error.code()), "{bad:?}: {error}");
    }
    let unknown = "0190a7c2-0000-7000-8000-000000000000";
    let error = client.get_job(pb::GetJobRequest { job_id: unknown.to_owned() }).await.unwrap_err();
    assert_eq!(error.code(), "NOT_FOUND");
    let token = pb::ListJobsRequest { page_token: "../x".to_owned(), ..Default::default() };
    assert_eq!(client.list_jobs(token).await.unwrap_err().code(), "INVALID_PAYLOAD");
    let size = pb::ListJobsRequest { page_size: 1_001, ..Default::default() };
    assert_eq!(client.list_jobs(size).await.unwrap_err().code(), "INVALID_PAYLOAD");
}
