//! A thousand resources from an origin that does what origins do, and every count, letter and byte at the end is right.

use std::collections::BTreeMap;

use fetchbox::config::Config;

use crate::harness::checker::{self, Ack, Checker, Shelf, Truth};
use crate::harness::host::Host;
use crate::harness::manifest::{Resource, path_of, resource, submission};
use crate::harness::origin::{Behaviour, Origin};
use crate::harness::s3::S3Server;
use crate::harness::{ask, hex, on_s3, pb};

const RESOURCES: usize = 1_000;
const MIB: usize = 1024 * 1024;
/// What the manifest allows the resources whose body is larger.
const CAP_BYTES: u64 = 1_000;

/// The kind of resource at this place of the manifest.
fn kind(at: usize) -> &'static str {
    match at % 100 {
        0..=4 => "slow",
        5..=14 => "flaky",
        15..=19 => "missing",
        20..=22 => "huge",
        23..=24 => "huge-chunked",
        25..=29 => "wrong",
        30..=34 => "checked",
        _ => "plain",
    }
}

/// `/{kind}/{at}`, or a body of 40 MiB for `/big/{at}`.
fn behaviour(path: &str) -> Behaviour {
    let mut parts = path.split('/').skip(1);
    let (kind, at) = (parts.next().unwrap_or(""), parts.next().and_then(|at| at.parse().ok()).unwrap_or(0_usize));
    let body = Behaviour::body(500 + at % 400, at as u64);
    match kind {
        "slow" => body.delay_ms(300),
        "flaky" => body.fail_first(2, 500),
        "missing" => Behaviour::status(404),
        "huge" => Behaviour::body(5_000, at as u64),
        "huge-chunked" => Behaviour::body(5_000, at as u64).chunked(),
        "big" => Behaviour::body(40 * MIB, at as u64),
        _ => body,
    }
}

fn truth(task: &pb::DownloadTask) -> Option<Truth> {
    let path = path_of(&task.url);
    let behaviour = behaviour(path);
    Some(match path.split('/').nth(1).unwrap() {
        "missing" => Truth::Dead("DOWNLOAD_NOT_FOUND"),
        "huge" | "huge-chunked" => Truth::Dead("DOWNLOAD_TOO_LARGE"),
        "wrong" => Truth::Dead("DOWNLOAD_CHECKSUM_MISMATCH"),
        _ => Truth::Stored { sha256: behaviour.sha256(), size_bytes: behaviour.len() },
    })
}

fn resources(origin: &Origin, big: usize) -> Vec<Resource> {
    let one = |at: usize| {
        let kind = if at < big { "big" } else { kind(at) };
        let path = format!("/{kind}/{at}");
        let made = resource(&format!("r{at:04}"), &origin.url(&path));
        match kind {
            "huge" | "huge-chunked" => made.with("max_bytes", CAP_BYTES),
            "wrong" => made.with("checksum", format!("sha256:{}", hex(&[7; 32]))),
            "checked" => made.with("checksum", format!("sha256:{}", hex(&behaviour(&path).sha256()))),
            _ => made,
        }
    };
    (0..RESOURCES).map(one).collect()
}

/// The test both stores must pass. Returns the daemon still running.
async fn a_thousand_resources(origin: &Origin, big: usize, change: impl FnOnce(&mut Config)) -> (Host, pb::Job, Ack) {
    origin.on_fn("/", |seen| behaviour(&seen.path));
    let host = Host::start(change).await;
    let client = host.client().await;
    let resources = resources(origin, big);
    let accepted = host.ipc().await.submit(submission(&resources)).await.unwrap();
    assert_eq!(accepted.resource_count as usize, RESOURCES);
    let job = ask::end_of(&client, &accepted.job_id).await;

    let expected = |wanted: fn(&Truth) -> bool| {
        let specs = resources
            .iter()
            .map(|r| pb::DownloadTask { url: r.0["url"].as_str().unwrap().to_owned(), ..Default::default() });
        specs.filter(|spec| wanted(&truth(spec).unwrap())).count() as u32
    };
    assert_eq!(job.state(), pb::JobState::Partial);
    assert_eq!(job.resources_completed, expected(|truth| matches!(truth, Truth::Stored { .. })));
    assert_eq!(job.resources_failed, expected(|truth| matches!(truth, Truth::Dead(_))));
    assert_eq!((job.resources_total as usize, job.resources_canceled), (RESOURCES, 0));
    assert!(job.errors.len() <= 10 && job.last_error.is_some(), "{:?}", job.errors);

    let ids = resources.iter().map(|r| r.0["id"].as_str().unwrap().to_owned()).collect();
    (host, job, Ack { key: String::new(), job_id: accepted.job_id, resource_ids: ids })
}

/// What the origin was asked agrees with what each kind of resource costs.
fn requests_are_as_few_as_they_can_be(origin: &Origin, big: usize) {
    for at in big..RESOURCES {
        let path = format!("/{}/{at}", kind(at));
        let wanted = if kind(at) == "flaky" { 3 } else { 1 };
        assert_eq!(origin.hits(&path), wanted, "requests to {path}");
    }
}

async fn letters_match(host: &Host, job: &pb::Job) {
    let client = host.client().await;
    let letters = ask::letters(&client, pb::DeadLetterSelector { job_id: job.job_id.clone(), ..Default::default() });
    let letters = letters.await;
    assert_eq!(letters.len() as u32, job.resources_failed);
    let mut by_code: BTreeMap<String, usize> = BTreeMap::new();
    for letter in &letters {
        *by_code.entry(letter.failure_code.clone()).or_default() += 1;
        assert_eq!(letter.attempts, 1, "a permanent failure is not tried again: {letter:?}");
        let failure = letter.failure.clone().unwrap_or_default();
        assert!(failure.context.contains_key("host"), "{failure:?}");
        assert!(!letter.failure_message.is_empty() && letter.failed_at_ms > 0);
    }
    let wanted = ["DOWNLOAD_CHECKSUM_MISMATCH", "DOWNLOAD_NOT_FOUND", "DOWNLOAD_TOO_LARGE"];
    assert_eq!(by_code.keys().collect::<Vec<_>>(), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixed_manifest_ends_partial_and_the_folder_holds_exactly_what_the_origin_served() {
    let origin = Origin::start().await;
    let (mut host, job, ack) = a_thousand_resources(&origin, 0, |_| {}).await;
    requests_are_as_few_as_they_can_be(&origin, 0);
    letters_match(&host, &job).await;
    let checker =
        Checker { objects: Shelf::Folder(host.objects()), acks: &[ack], truth: &truth, orphans_allowed: false };
    checker.check(&host.client().await).await;
    host.restart().await;
    checker.check(&host.client().await).await;
    host.stop().await;
    checker::data_is_clean(&host.data_dir()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixed_manifest_ends_the_same_in_s3_with_three_objects_of_forty_mebibytes() {
    let origin = Origin::start().await;
    let s3 = S3Server::start(&["things"]).await;
    let storage = |config: &mut Config| {
        on_s3(config, &s3, "things");
    };
    let (mut host, job, ack) = a_thousand_resources(&origin, 3, storage).await;
    requests_are_as_few_as_they_can_be(&origin, 3);
    letters_match(&host, &job).await;
    assert_eq!(s3.open_uploads(), 0, "multipart uploads were left open");
    let checker = Checker { objects: Shelf::S3(&s3, "things"), acks: &[ack], truth: &truth, orphans_allowed: false };
    checker.check(&host.client().await).await;
    host.stop().await;
    checker::data_is_clean(&host.data_dir()).await;
}
