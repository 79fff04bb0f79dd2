//! Bytes no well-meaning client sends, on the native socket: each gets its answer, nothing is stored halfway, others are served.

use std::sync::Arc;

use prost::Message as _;
use tokio::task::JoinSet;

use crate::harness::binary::Home;
use crate::harness::host::Host;
use crate::harness::manifest::{keyed, resource, submission};
use crate::harness::wire::{Wire, frame, request};
use crate::harness::{ask, pb};

const FRAME_BYTES_MAX: u32 = 8 * 1024 * 1024;
const MIB: u64 = 1024 * 1024;

fn submit_body(key: &str) -> pb::ipc_request::Body {
    pb::ipc_request::Body::Submit(keyed(submission(&[resource("a", "http://127.0.0.1:9/a")]), key))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_nothing_is_answered_once_and_the_connection_ends() {
    let host = Host::start(|_| {}).await;
    let mut wire = Wire::connect(host.ipc_path()).await;
    wire.send(&[0; 4]).await;
    let (id, error) = wire.refusal().await;
    assert_eq!((id, error.code.as_str()), (0, "INVALID_PAYLOAD"));
    assert!(wire.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_length_is_refused_before_a_byte_of_its_body() {
    let host = Host::start(|_| {}).await;
    for length in [FRAME_BYTES_MAX + 1, 0x8000_0000, u32::MAX] {
        let mut wire = Wire::connect(host.ipc_path()).await;
        wire.send(&length.to_be_bytes()).await;
        let (id, error) = wire.refusal().await;
        assert_eq!((id, error.code.as_str()), (0, "PAYLOAD_TOO_LARGE"), "{length}");
        assert!(wire.is_closed().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_cut_anywhere_stores_nothing() {
    let host = Host::start(|_| {}).await;
    let whole = frame(&request(1, submit_body("cut")));
    for cut in [1, 3, 4, 5, whole.len() / 2, whole.len() - 1] {
        let mut wire = Wire::connect(host.ipc_path()).await;
        wire.send(&whole[..cut]).await;
        wire.finish().await;
        assert!(wire.is_closed().await, "cut at {cut}");
    }
    assert_eq!(ask::jobs(&host.client().await).await.len(), 0);
    let accepted = host.ipc().await.submit(keyed(submission(&[resource("b", "http://127.0.0.1:9/b")]), "cut")).await;
    assert!(!accepted.unwrap().duplicate, "the key of a request that never came whole was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_whole_before_the_client_hung_up_is_kept() {
    let host = Host::start(|_| {}).await;
    let mut wire = Wire::connect(host.ipc_path()).await;
    wire.send_frame(&request(1, submit_body("hung up"))).await;
    wire.finish().await;
    let answer = wire.receive().await.expect("an answer although nothing more is sent");
    assert!(matches!(answer.body, Some(pb::ipc_response::Body::Submit(_))), "{answer:?}");
    assert_eq!(ask::jobs(&host.client().await).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_request_is_an_error_and_the_connection_goes_on() {
    let host = Host::start(|_| {}).await;
    let mut wire = Wire::connect(host.ipc_path()).await;
    let nested = (0..200).fold(vec![0x52, 0], |inner, _| {
        let mut outer = vec![0x52];
        prost::encoding::encode_varint(inner.len() as u64, &mut outer);
        outer.extend(inner);
        outer
    });
    let bodies: [&[u8]; 7] = [
        &[0xff; 40],
        b"{\"version\":1}",
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0x08],
        &[0x52, 0x7f, 1],
        b"GET / HTTP/1.1\r\n\r\n",
        &nested,
    ];
    for body in bodies {
        wire.send_frame(body).await;
        let (_, error) = wire.refusal().await;
        assert_eq!(error.code, "INVALID_PAYLOAD", "{body:?}");
        assert!(!error.retryable);
        wire.ping().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_versions_bodies_and_the_id_zero_are_refused_with_their_id() {
    let host = Host::start(|_| {}).await;
    let mut wire = Wire::connect(host.ipc_path()).await;
    let ping = || Some(pb::ipc_request::Body::Ping(pb::Ping {}));
    for version in [0, 2, u32::MAX] {
        let made = pb::IpcRequest { version, request_id: 7, trace_parent: String::new(), body: ping() };
        wire.send_frame(&made.encode_to_vec()).await;
        let (id, error) = wire.refusal().await;
        assert_eq!((id, error.code.as_str()), (7, "INVALID_PAYLOAD"), "version {version}");
    }
    wire.send_frame(
        &pb::IpcRequest { version: 1, request_id: 0, trace_parent: String::new(), body: ping() }.encode_to_vec(),
    )
    .await;
    let (id, error) = wire.refusal().await;
    assert_eq!((id, error.code.as_str()), (0, "INVALID_PAYLOAD"));
    wire.send_frame(
        &pb::IpcRequest { version: 1, request_id: 8, trace_parent: String::new(), body: None }.encode_to_vec(),
    )
    .await;
    let (id, error) = wire.refusal().await;
    assert_eq!((id, error.code.as_str()), (8, "INVALID_PAYLOAD"));
    wire.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_requests_is_answered_whole_however_it_is_cut_into_packets() {
    let host = Host::start(|_| {}).await;
    let mut wire = Wire::connect(host.ipc_path()).await;
    let bytes: Vec<u8> = (1..=64).flat_map(|id| frame(&request(id, submit_body(&format!("window {id}"))))).collect();
    for piece in bytes.chunks(997) {
        wire.send(piece).await;
    }
    let mut ids: Vec<u64> = Vec::new();
    for _ in 0..64 {
        let response = wire.receive().await.unwrap();
        assert!(matches!(response.body, Some(pb::ipc_response::Body::Submit(_))), "{response:?}");
        assert!(response.credits > 0);
        ids.push(response.request_id);
    }
    ids.sort_unstable();
    assert_eq!(ids, (1..=64).collect::<Vec<_>>());
}

/// One of the ways a connection can be hostile. Returns without caring what came back.
async fn hostile(path: Arc<std::path::PathBuf>, at: usize, bomb: Arc<Vec<u8>>) {
    let mut wire = Wire::connect(&path).await;
    match at % 8 {
        0 => wire.send(&[0; 4]).await,
        1 => wire.send(&u32::MAX.to_be_bytes()).await,
        2 => wire.send(&[0, 0x7f]).await,
        3 => {
            wire.send(&FRAME_BYTES_MAX.to_be_bytes()).await;
            wire.send(&[b'x'; 100_000]).await;
        }
        4 => {
            for _ in 0..50 {
                wire.send_frame(&[0xff; 64]).await;
            }
        }
        5 => {
            let submit = pb::SubmitJobRequest {
                source: Some(pb::submit_job_request::Source::ManifestJsonGzip(bomb.to_vec())),
                ..Default::default()
            };
            for id in 1..4 {
                wire.send_frame(&request(id, pb::ipc_request::Body::Submit(submit.clone()))).await;
            }
        }
        6 => {
            // Asks, and never reads.
            for id in 1..200 {
                wire.send_frame(&request(id, pb::ipc_request::Body::Ping(pb::Ping {}))).await;
            }
        }
        _ => {
            let deep = format!("{{\"manifest_version\":\"v1\",\"metadata\":{}1", "[".repeat(200_000));
            let source = Some(pb::submit_job_request::Source::ManifestJson(deep.into_bytes()));
            let submit = pb::SubmitJobRequest { source, ..Default::default() };
            wire.send_frame(&request(1, pb::ipc_request::Body::Submit(submit))).await;
        }
    }
    // Stays open, as a hostile client would, until the test ends.
    std::future::pending::<()>().await;
}

/// Spaces that inflate to 64 MiB.
fn gzip_bomb() -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..64 {
        encoder.write_all(&vec![b' '; MIB as usize]).unwrap();
    }
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_hostile_connections_neither_fill_the_memory_nor_stop_the_service() {
    let home = Home::new();
    let daemon = home.start().await;
    let (path, bomb) = (Arc::new(daemon.ipc_path()), Arc::new(gzip_bomb()));
    let mut crowd = JoinSet::new();
    for at in 0..1_000 {
        crowd.spawn(hostile(path.clone(), at, bomb.clone()));
    }
    let mut most = 0;
    let ipc = daemon.ipc().await;
    for at in 0..100 {
        let manifest = keyed(submission(&[resource("a", "http://127.0.0.1:9/a")]), &format!("honest {at}"));
        ipc.submit(manifest).await.unwrap();
        most = most.max(daemon.resident_bytes());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(most <= 200 * MIB, "{} MiB resident", most / MIB);
    println!("{} MiB resident at most", most / MIB);
    crowd.abort_all();
    assert_eq!(ask::jobs(&daemon.client().await).await.len(), 100, "only the honest client's jobs are kept");
    assert!(!daemon.stderr().contains("panicked"), "{}", daemon.stderr());
    let (code, _) = daemon.terminate().await;
    assert_eq!(code, Some(0));
}
