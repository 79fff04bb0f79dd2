//! The native socket against work that the test controls: what clients see of framing, window, deadlines and shutdown.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::requests::{Reply, Work};
use super::*;
use crate::api::frame::put_frame;
use crate::api::incoming::listen_unix;
use crate::client::ipc::IpcClient;
use crate::model::RefusalCode;
use crate::proto::fetchbox::v1::{self as pb, ipc_request, ipc_response};

/// Replies that the work has not sent yet.
type Held = Arc<Mutex<VecDeque<Reply>>>;

/// A served socket whose pings are answered at once and whose submits are held until the test answers them.
struct Served {
    _folder: tempfile::TempDir,
    path: std::path::PathBuf,
    held: Held,
    server: Arc<Server>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn pong() -> ipc_response::Body {
    ipc_response::Body::Pong(pb::Pong { serving: true, ..Default::default() })
}

fn accepted(number: u32) -> ipc_response::Body {
    ipc_response::Body::Submit(pb::SubmitJobResponse { resource_count: number, ..Default::default() })
}

fn serve_test(options: Options) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ipc.sock");
    let listener = listen_unix(&path).unwrap();
    let held = Held::default();
    let holding = held.clone();
    let work: Work = Arc::new(move |body, _, reply: Reply| {
        match body {
            ipc_request::Body::Submit(_) => holding.lock().unwrap().push_back(reply),
            ipc_request::Body::AppendLogs(append) => {
                return Some(Box::pin(async move {
                    tokio::task::yield_now().await;
                    let count = u32::try_from(append.records.len()).unwrap();
                    reply.send(Ok(ipc_response::Body::AppendLogs(pb::AppendLogsResponse { first_offset: 0, count })));
                }));
            }
            _ => reply.send(Ok(pong())),
        }
        None
    });
    let server = Arc::new(Server::new(Box::new(move || work.clone()), &Metrics::new(), &options));
    let stop = CancellationToken::new();
    let (serving, stopping) = (server.clone(), stop.clone());
    let task = tokio::spawn(async move { serve_with(listener, serving, &options, stopping).await });
    Served { _folder: folder, path, held, server, stop, task }
}

impl Served {
    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.unwrap()
    }

    /// Waits until the work holds this many requests.
    async fn holds(&self, count: usize) {
        while self.held.lock().unwrap().len() < count {
            tokio::task::yield_now().await;
        }
    }

    fn answer_all(&self) {
        for (number, reply) in self.held.lock().unwrap().drain(..).enumerate() {
            reply.send(Ok(accepted(u32::try_from(number).unwrap())));
        }
    }
}

fn request(request_id: u64, body: ipc_request::Body) -> Vec<u8> {
    let mut frame = Vec::new();
    put_frame(&mut frame, &pb::IpcRequest { version: 1, request_id, trace_parent: String::new(), body: Some(body) });
    frame
}

fn ping(request_id: u64) -> Vec<u8> {
    request(request_id, ipc_request::Body::Ping(pb::Ping {}))
}

fn submit(request_id: u64) -> Vec<u8> {
    request(request_id, ipc_request::Body::Submit(pb::SubmitJobRequest::default()))
}

async fn read_answer(stream: &mut UnixStream) -> pb::IpcResponse {
    let len = stream.read_u32().await.unwrap();
    let mut body = vec![0; len as usize];
    stream.read_exact(&mut body).await.unwrap();
    pb::IpcResponse::decode(body.as_slice()).unwrap()
}

fn error_of(answer: pb::IpcResponse) -> (u64, String, String) {
    let Some(ipc_response::Body::Error(detail)) = answer.body else { panic!("no error: {answer:?}") };
    let path = detail.fields.first().map(|field| field.path.clone()).unwrap_or_default();
    (answer.request_id, detail.code, path)
}

async fn is_closed(stream: &mut UnixStream) -> bool {
    matches!(stream.read(&mut [0; 16]).await, Ok(0) | Err(_))
}

#[tokio::test]
async fn a_ping_is_the_bytes_that_the_documentation_shows() {
    let document = include_str!("../../../docs/protocol.md");
    let shown = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
    assert!(document.contains(&shown(&ping(1))), "{}", shown(&ping(1)));
    let pong = pb::Pong { timestamp_ms: 1_800_000_000_000, version: "0.1.0".into(), serving: true };
    let mut answer = Vec::new();
    let body = Some(ipc_response::Body::Pong(pong));
    put_frame(&mut answer, &pb::IpcResponse { request_id: 1, credits: 64, body });
    assert!(document.contains(&shown(&answer)), "{}", shown(&answer));
}

#[tokio::test]
async fn answers_carry_the_id_of_their_request_in_whatever_order_they_come() {
    let served = serve_test(Options::default());
    let mut stream = served.connect().await;
    stream.write_all(&[submit(7), ping(8), submit(9)].concat()).await.unwrap();
    let first = read_answer(&mut stream).await;
    assert_eq!((first.request_id, first.credits), (8, 64));
    served.holds(2).await;
    let later = served.held.lock().unwrap().pop_back().unwrap();
    later.send(Ok(accepted(0)));
    assert_eq!(read_answer(&mut stream).await.request_id, 9);
    served.answer_all();
    assert_eq!(read_answer(&mut stream).await.request_id, 7);
}

#[tokio::test]
async fn a_frame_of_nothing_and_one_too_large_are_answered_and_end_the_connection() {
    let served = serve_test(Options { frame_bytes_max: 1_000, ..Options::default() });
    for (broken, code) in [(0_u32, "INVALID_PAYLOAD"), (1_001, "PAYLOAD_TOO_LARGE"), (u32::MAX, "PAYLOAD_TOO_LARGE")] {
        let mut stream = served.connect().await;
        let bytes = [submit(1), ping(2), broken.to_be_bytes().to_vec(), vec![9; 100_000]].concat();
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(read_answer(&mut stream).await.request_id, 2);
        assert_eq!(error_of(read_answer(&mut stream).await), (0, code.into(), String::new()));
        served.holds(1).await;
        served.answer_all();
        assert_eq!(read_answer(&mut stream).await.request_id, 1, "an earlier request lost its answer");
        assert!(is_closed(&mut stream).await);
    }
}

#[tokio::test]
async fn a_broken_body_or_envelope_is_answered_and_the_connection_goes_on() {
    let served = serve_test(Options::default());
    let mut stream = served.connect().await;
    let envelope = |version, request_id, body| {
        let mut frame = Vec::new();
        put_frame(&mut frame, &pb::IpcRequest { version, request_id, trace_parent: String::new(), body });
        frame
    };
    let ping_body = Some(ipc_request::Body::Ping(pb::Ping {}));
    let bad = [
        (vec![0, 0, 0, 3, 0xff, 0xff, 0xff], (0, "body")),
        (envelope(2, 5, ping_body.clone()), (5, "version")),
        (envelope(0, 6, ping_body.clone()), (6, "version")),
        (envelope(1, 0, ping_body), (0, "request_id")),
        (envelope(1, 7, None), (7, "body")),
    ];
    for (bytes, (id, path)) in bad {
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(error_of(read_answer(&mut stream).await), (id, "INVALID_PAYLOAD".into(), path.into()));
    }
    stream.write_all(&ping(8)).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.request_id, 8);
}

#[tokio::test]
async fn no_more_than_the_window_is_taken_up_before_answers_leave() {
    let served = serve_test(Options { window: 4, ..Options::default() });
    let mut stream = served.connect().await;
    stream.write_all(&(1..=10).flat_map(submit).collect::<Vec<u8>>()).await.unwrap();
    served.holds(4).await;
    let mut other = served.connect().await;
    other.write_all(&ping(1)).await.unwrap();
    read_answer(&mut other).await;
    assert_eq!(served.held.lock().unwrap().len(), 4, "the window was ignored");
    let mut answered = Vec::new();
    for round in [4, 4, 2] {
        served.holds(round).await;
        served.answer_all();
        for _ in 0..round {
            let answer = read_answer(&mut stream).await;
            assert_eq!(answer.credits, 4);
            answered.push(answer.request_id);
        }
    }
    answered.sort_unstable();
    assert_eq!(answered, (1..=10).collect::<Vec<u64>>());
}

#[tokio::test]
async fn requests_sent_before_a_client_stops_sending_are_still_answered() {
    let served = serve_test(Options { window: 2, ..Options::default() });
    let mut stream = served.connect().await;
    stream.write_all(&(1..=5).flat_map(submit).collect::<Vec<u8>>()).await.unwrap();
    stream.shutdown().await.unwrap();
    for round in [2, 2, 1] {
        served.holds(round).await;
        served.answer_all();
        for _ in 0..round {
            read_answer(&mut stream).await;
        }
    }
    assert!(is_closed(&mut stream).await);
}

#[tokio::test]
async fn half_a_frame_and_then_silence_ends_the_connection_but_idling_does_not() {
    let served = serve_test(Options { frame_timeout_ms: 60, ..Options::default() });
    let mut idle = served.connect().await;
    let mut half = served.connect().await;
    let mut slow_after_good = served.connect().await;
    half.write_all(&ping(1)[..5]).await.unwrap();
    slow_after_good.write_all(&[ping(1), vec![0, 0]].concat()).await.unwrap();
    read_answer(&mut slow_after_good).await;
    assert!(is_closed(&mut half).await);
    assert!(is_closed(&mut slow_after_good).await);
    idle.write_all(&ping(2)).await.unwrap();
    assert_eq!(read_answer(&mut idle).await.request_id, 2);
}

#[tokio::test]
async fn a_client_that_never_reads_is_dropped_in_the_end() {
    let served = serve_test(Options { unread_timeout_ms: 60, ..Options::default() });
    let mut stream = served.connect().await;
    let pings: Vec<u8> = (1..=1_000).flat_map(ping).collect();
    let mut sent = 0;
    while stream.write_all(&pings).await.is_ok() {
        sent += 1;
        assert!(sent < 10_000, "taken without end");
    }
    assert_eq!(served.server.unread.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn those_who_leave_too_much_unread_together_are_dropped_before_their_time() {
    let served = serve_test(Options { unread_bytes_max: 0, window: 4_096, ..Options::default() });
    let mut stream = served.connect().await;
    // Refusals are larger than what was asked: the socket's own buffer fills, then ours.
    let mut bad = Vec::new();
    put_frame(&mut bad, &pb::IpcRequest { version: 2, request_id: 1, trace_parent: "x".repeat(10), body: None });
    let many = bad.repeat(1_000);
    let mut sent = 0;
    while stream.write_all(&many).await.is_ok() {
        sent += 1;
        assert!(sent < 10_000, "taken without end");
    }
}

#[tokio::test]
async fn a_large_request_waits_until_others_have_left_room() {
    let size = 200_000;
    let options = Options { large_frames_bytes_max: 0, frame_bytes_max: size + 1_000, ..Options::default() };
    let served = serve_test(options);
    let large = move |id| {
        let manifest_json = vec![b'x'; size];
        let source = Some(pb::submit_job_request::Source::ManifestJson(manifest_json));
        request(id, ipc_request::Body::Submit(pb::SubmitJobRequest { source, ..Default::default() }))
    };
    let (mut first, mut second) = (served.connect().await, served.connect().await);
    first.write_all(&large(1)).await.unwrap();
    served.holds(1).await;
    let sending = tokio::spawn(async move {
        second.write_all(&large(2)).await.unwrap();
        second
    });
    let mut small = served.connect().await;
    for id in 1..50 {
        small.write_all(&ping(id)).await.unwrap();
        read_answer(&mut small).await;
    }
    assert_eq!(served.held.lock().unwrap().len(), 1, "the second was taken up although there was no room");
    served.answer_all();
    assert_eq!(read_answer(&mut first).await.request_id, 1);
    served.holds(1).await;
    served.answer_all();
    assert_eq!(read_answer(&mut sending.await.unwrap()).await.request_id, 2);
    assert_eq!(served.server.large.available_permits(), size + 1_004);
}

#[tokio::test]
async fn a_dropped_request_is_answered_as_unavailable() {
    let served = serve_test(Options::default());
    let mut stream = served.connect().await;
    stream.write_all(&submit(3)).await.unwrap();
    served.holds(1).await;
    served.held.lock().unwrap().clear();
    let (id, code, _) = error_of(read_answer(&mut stream).await);
    assert_eq!((id, code.as_str()), (3, RefusalCode::Unavailable.as_str()));
}

#[tokio::test]
async fn at_shutdown_what_is_in_flight_is_answered_and_the_rest_is_not_begun() {
    let served = serve_test(Options::default());
    let mut stream = served.connect().await;
    stream.write_all(&submit(1)).await.unwrap();
    served.holds(1).await;
    let mut idle = served.connect().await;
    idle.write_all(&ping(1)).await.unwrap();
    read_answer(&mut idle).await;
    served.stop.cancel();
    assert!(is_closed(&mut idle).await);
    served.answer_all();
    assert_eq!(read_answer(&mut stream).await.request_id, 1);
    assert!(is_closed(&mut stream).await);
    served.task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_requests_from_many_callers_each_get_their_own_answer() {
    let served = serve_test(Options::default());
    let client = IpcClient::connect(&served.path, &crate::client::Options::default()).await.unwrap();
    let calls = (0..3_000_usize).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let records = vec![pb::LogRecord::default(); number % 50];
            let answer = client.append_logs(pb::AppendLogsRequest { job_id: String::new(), records }).await.unwrap();
            assert_eq!(answer.count as usize, number % 50);
            assert!(client.ping().await.unwrap().serving);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn a_caller_learns_that_the_daemon_went_away() {
    let served = serve_test(Options::default());
    let client = IpcClient::connect(&served.path, &crate::client::Options::default()).await.unwrap();
    client.ping().await.unwrap();
    served.stop.cancel();
    served.task.await.unwrap();
    assert!(client.ping().await.unwrap_err().retryable());
    let absent = IpcClient::connect(served.path.with_extension("not"), &crate::client::Options::default()).await;
    assert!(absent.err().is_some_and(|error| error.retryable()));
}
