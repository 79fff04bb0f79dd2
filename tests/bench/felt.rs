//! Latencies while a job writes: of a follower, of a query for the last 1,000 lines, of a job's state.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fetchbox::client::{Addr, Client};
use fetchbox::proto::fetchbox::v1::{QueryLogsRequest, log_record::Content};
use fetchbox::proto::joblet::ipc::{IpcMessage, LogLine, MessageType, StreamType};
use futures_util::StreamExt as _;
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use crate::output::{self, Corpus};

/// How long each is measured.
const LENGTH: Duration = Duration::from_secs(8);
/// Lines of one write of the paced writer.
const LINES_PER_WRITE: u64 = 50;
/// Lines the follower must have behind the filler.
const FILL: u64 = 20_000;

/// Milliseconds by what was asked.
pub async fn measure(grpc: &Path, socket: &Path, per_second: u64) -> Vec<(&'static str, Vec<f64>)> {
    let client = Client::connect(Addr::Unix(grpc.to_owned())).await.expect("gRPC answers");
    let job = output::name(0);
    let mut writer = UnixStream::connect(socket).await.expect("the socket accepts");
    let begun = Instant::now();
    let mut corpus = Corpus::new(7);
    let mut sequence = 0;
    let mut bytes = Vec::new();
    for _ in 0..FILL {
        frame(&mut bytes, &job, &mut sequence, &mut corpus, begun);
    }
    writer.write_all(&bytes).await.expect("the daemon reads");
    while client.get_job(output::get(&job)).await.map_or(0, |job| job.log_count) < FILL {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let follower = tokio::spawn(follow(client.clone(), job.clone(), begun));
    let stopped = Arc::clone(&stop);
    let writing = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(write(writer, output::name(0), sequence, corpus, begun, per_second, stopped))
    });
    let (mut tails, mut states) = (Vec::new(), Vec::new());
    while begun.elapsed() < LENGTH {
        let asked = Instant::now();
        let request = QueryLogsRequest { job_id: job.clone(), tail: 1_000, ..QueryLogsRequest::default() };
        let mut pages = client.query_logs(request).await.expect("the job is known");
        let mut lines = 0;
        while let Some(page) = pages.next().await {
            lines += page.expect("the query goes on").records.len();
        }
        assert_eq!(lines, 1_000);
        tails.push(asked.elapsed().as_secs_f64() * 1e3);
        let asked = Instant::now();
        client.get_job(output::get(&job)).await.expect("the job is known");
        states.push(asked.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let written = writing.join().expect("the writer ends");
    tokio::time::sleep(Duration::from_millis(500)).await;
    follower.abort();
    let followed = client.get_job(output::get(&job)).await.map_or(0, |job| job.log_count);
    println!("  {written} lines written, {followed} kept so far");
    let seen = SEEN.lock().map(|mut seen| std::mem::take(&mut *seen)).unwrap_or_default();
    vec![("follow: from the write to the follower", seen), ("the last 1,000 lines", tails), ("a job's state", states)]
}

static SEEN: std::sync::Mutex<Vec<f64>> = std::sync::Mutex::new(Vec::new());

async fn follow(client: Client, job: String, begun: Instant) {
    let request = QueryLogsRequest { job_id: job, offset: FILL, follow: true, limit: 1_000, ..Default::default() };
    let mut pages = client.query_logs(request).await.expect("the job is known");
    while let Some(Ok(page)) = pages.next().await {
        let now_us = begun.elapsed().as_micros() as f64;
        let mut seen = SEEN.lock().expect("nobody panics with it");
        for record in page.records {
            let Some(Content::Chunk(chunk)) = record.content else { continue };
            let at = chunk.split(|byte| *byte == b' ').next().and_then(|text| std::str::from_utf8(text).ok());
            if let Some(at_us) = at.and_then(|text| text.parse::<f64>().ok()) {
                seen.push((now_us - at_us) / 1e3);
            }
        }
    }
}

async fn write(
    mut to: UnixStream,
    job: String,
    mut sequence: u64,
    mut corpus: Corpus,
    begun: Instant,
    per_second: u64,
    stop: Arc<AtomicBool>,
) -> u64 {
    let mut due = Instant::now();
    let mut bytes = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        bytes.clear();
        for _ in 0..LINES_PER_WRITE {
            frame(&mut bytes, &job, &mut sequence, &mut corpus, begun);
        }
        to.write_all(&bytes).await.expect("the daemon reads");
        if let Some(wait) = (LINES_PER_WRITE * 1_000_000_000).checked_div(per_second) {
            due += Duration::from_nanos(wait);
            tokio::time::sleep_until(due.into()).await;
        }
    }
    sequence
}

/// A line that begins with the microseconds since the run began.
fn frame(into: &mut Vec<u8>, job: &str, sequence: &mut u64, corpus: &mut Corpus, begun: Instant) {
    let content = format!("{} {}", begun.elapsed().as_micros(), corpus.line());
    let line = LogLine {
        job_uuid: job.into(),
        stream: StreamType::Stdout.into(),
        timestamp: 1_760_000_000_000_000_000,
        sequence: *sequence,
        content: content.into_bytes().into(),
    };
    let message = IpcMessage {
        version: 1,
        r#type: MessageType::Log.into(),
        job_uuid: job.into(),
        timestamp: line.timestamp,
        sequence: *sequence,
        data: line.encode_to_vec().into(),
    };
    *sequence += 1;
    into.extend_from_slice(&(message.encoded_len() as u32).to_be_bytes());
    message.encode(into).expect("a vector grows");
}
