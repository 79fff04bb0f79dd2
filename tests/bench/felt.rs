//! Latencies while a job writes: of a follower, of a query for the last 1,000 lines, of a job's state.

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
use crate::rivals;
use crate::server::{Server, scratch};

/// Lines of one write of the paced writer.
const LINES_PER_WRITE: usize = 50;
/// Lines the follower must have behind the filler.
const FILL: u64 = 20_000;
/// Lines of one burst to one job, and to many.
const BURST: u64 = 200_000;
const BURST_OF_MANY: u64 = 500_000;

#[derive(Default)]
struct Load {
    stop: AtomicBool,
    /// What is asked meanwhile counts.
    is_on: AtomicBool,
}

/// How the writer goes about it.
#[derive(Clone, Copy)]
struct Pace {
    /// Lines; 0: bursts, as fast as the daemon takes them.
    per_second: u64,
    between_bursts: Duration,
    /// The lines are of these in turns. Only the first is looked at.
    jobs: u64,
}

impl Pace {
    fn burst(&self) -> u64 {
        if self.jobs > 1 { BURST_OF_MANY } else { BURST }
    }
}

/// A table of what they feel at each of these rates, lines a second; 0: bursts as fast as the daemon takes them, with `between_bursts` of silence.
pub fn run(rates: &[u64], length: Duration, between_bursts: Duration, jobs: u64) {
    println!("{:<44} {:>9} {:>9} {:>9} {:>8}", "while a job writes (ms)", "p50", "p99", "max", "samples");
    for rate in rates {
        let dir = scratch("felt");
        let server = Server::start(&dir, false);
        let raw = rivals::raw_syncs(&scratch("raw"), Duration::from_secs(1));
        let pace = Pace { per_second: *rate, between_bursts, jobs: jobs.max(1) };
        let name = match rate {
            0 => format!("bursts of {} lines, {} jobs", pace.burst(), pace.jobs),
            _ => format!("{rate} lines/s, {} jobs", pace.jobs),
        };
        let late = rivals::late_wakes(Duration::from_secs(2));
        println!("{name} (fdatasync of 512 B appended: {raw:.0}/s; a sleeping thread wakes late by {late:.2} ms, p99)");
        for (what, mut times) in measure(&server, pace, length) {
            times.sort_by(f64::total_cmp);
            let at = |q: f64| times.get(((times.len().max(1) - 1) as f64 * q) as usize).copied().unwrap_or(0.0);
            println!("  {what:<42} {:>9.2} {:>9.2} {:>9.2} {:>8}", at(0.5), at(0.99), at(1.0), times.len());
        }
    }
}

/// Milliseconds by what was asked. Writer, follower and asker have a thread and a connection each.
fn measure(server: &Server, pace: Pace, length: Duration) -> Vec<(&'static str, Vec<f64>)> {
    let begun = Instant::now();
    let load = Load::default();
    let (mut follows, mut tails, mut states) = (Vec::new(), Vec::new(), Vec::new());
    let filled = std::sync::Barrier::new(3);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| on_a_thread(write(server, begun, pace, &load, &filled)));
        let following = scope.spawn(|| on_a_thread(follow(server, begun, &load.stop, &filled)));
        on_a_thread(async {
            filled.wait();
            let client = connect(server).await;
            let until = Instant::now() + length;
            while Instant::now() < until {
                if !load.is_on.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                tails.push(last_thousand(&client).await);
                let asked = Instant::now();
                client.get_job(output::get(&output::name(0))).await.expect("the job is known");
                states.push(asked.elapsed().as_secs_f64() * 1e3);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            load.stop.store(true, Ordering::Relaxed);
        });
        let lines = writing.join().expect("the writer ends");
        follows = following.join().expect("the follower ends");
        println!("  {lines} lines written, {} followed", follows.len());
    });
    vec![
        ("follow: from the write to the follower", follows),
        ("the last 1,000 lines", tails),
        ("a job's state", states),
    ]
}

fn on_a_thread<T>(what: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(what)
}

async fn connect(server: &Server) -> Client {
    Client::connect(Addr::Unix(server.grpc())).await.expect("gRPC answers")
}

async fn last_thousand(client: &Client) -> f64 {
    let asked = Instant::now();
    let request = QueryLogsRequest { job_id: output::name(0), tail: 1_000, ..QueryLogsRequest::default() };
    let mut pages = client.query_logs(request).await.expect("the job is known");
    let mut lines = 0;
    while let Some(page) = pages.next().await {
        lines += page.expect("the query goes on").records.len();
    }
    assert_eq!(lines, 1_000);
    asked.elapsed().as_secs_f64() * 1e3
}

/// Milliseconds from the write of each line to its arrival here.
async fn follow(server: &Server, begun: Instant, stop: &AtomicBool, filled: &std::sync::Barrier) -> Vec<f64> {
    filled.wait();
    let client = connect(server).await;
    let request =
        QueryLogsRequest { job_id: output::name(0), offset: FILL, follow: true, limit: 1_000, ..Default::default() };
    let mut pages = client.query_logs(request).await.expect("the job is known");
    let mut seen = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let Ok(Some(page)) = tokio::time::timeout(Duration::from_millis(200), pages.next()).await else { continue };
        let now_us = begun.elapsed().as_micros() as f64;
        for record in page.expect("the follow goes on").records {
            let Some(Content::Chunk(chunk)) = record.content else { continue };
            let at = chunk.split(|byte| *byte == b' ').next().and_then(|text| std::str::from_utf8(text).ok());
            if let Some(at_us) = at.and_then(|text| text.parse::<f64>().ok()) {
                seen.push((now_us - at_us) / 1e3);
            }
        }
    }
    seen
}

/// Sends frames that were built beforehand, as the writer does; only the time stamps are put in as they go.
async fn write(server: &Server, begun: Instant, pace: Pace, load: &Load, filled: &std::sync::Barrier) -> u64 {
    let client = connect(server).await;
    let mut to = UnixStream::connect(output::socket(server)).await.expect("the socket accepts");
    let mut corpus = Corpus::new(7);
    let jobs: Vec<String> = (0..pace.jobs).map(|job| output::name(job as usize)).collect();
    let mut frames = |count: u64, jobs: &[String]| -> Vec<Frame> {
        let of = |at: u64| Frame::new(&jobs[at as usize % jobs.len()], at / jobs.len() as u64, &corpus.line());
        (0..count).map(of).collect()
    };
    let mut fill = frames(FILL, &jobs[..1]);
    let mut burst = frames(pace.burst(), &jobs);
    let mut sent = send(&mut to, &mut fill, begun).await;
    arrived(&client, &jobs[0], sent).await;
    filled.wait();
    let (mut due, mut bursts) = (Instant::now(), 0);
    while !load.stop.load(Ordering::Relaxed) {
        load.is_on.store(true, Ordering::Relaxed);
        for frames in burst.chunks_mut(LINES_PER_WRITE) {
            sent += send(&mut to, frames, begun).await;
            if let Some(wait) = (LINES_PER_WRITE as u64 * 1_000_000_000).checked_div(pace.per_second) {
                due += Duration::from_nanos(wait);
                tokio::time::sleep_until(due.into()).await;
                if load.stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
        bursts += 1;
        if pace.per_second == 0 {
            let fill = if pace.jobs == 1 { FILL } else { 0 };
            arrived(&client, &jobs[jobs.len() - 1], fill + bursts * pace.burst() / pace.jobs).await;
            load.is_on.store(false, Ordering::Relaxed);
            tokio::time::sleep(pace.between_bursts).await;
        }
    }
    sent - FILL
}

async fn arrived(client: &Client, job: &str, lines: u64) {
    while client.get_job(output::get(job)).await.map_or(0, |job| job.log_count) < lines {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn send(to: &mut UnixStream, frames: &mut [Frame], begun: Instant) -> u64 {
    let stamp = format!("{:0width$}", begun.elapsed().as_micros(), width = STAMP.len());
    let mut bytes = Vec::with_capacity(frames.len() * 256);
    for frame in &mut *frames {
        let at = frame.stamp..frame.stamp + STAMP.len();
        frame.bytes.get_mut(at).expect("the stamp is in the frame").copy_from_slice(stamp.as_bytes());
        bytes.extend_from_slice(&frame.bytes);
    }
    to.write_all(&bytes).await.expect("the daemon reads");
    frames.len() as u64
}

/// Where the microseconds since the run began go.
const STAMP: &str = "############";

struct Frame {
    bytes: Vec<u8>,
    stamp: usize,
}

impl Frame {
    fn new(job: &str, sequence: u64, line: &str) -> Self {
        let line = LogLine {
            job_uuid: job.into(),
            stream: StreamType::Stdout.into(),
            timestamp: 1_760_000_000_000_000_000,
            sequence,
            content: format!("{STAMP} {line}").into_bytes().into(),
        };
        let message = IpcMessage {
            version: 1,
            r#type: MessageType::Log.into(),
            job_uuid: job.into(),
            timestamp: line.timestamp,
            sequence,
            data: line.encode_to_vec().into(),
        };
        let mut bytes = (message.encoded_len() as u32).to_be_bytes().to_vec();
        message.encode(&mut bytes).expect("a vector grows");
        let stamp = bytes.windows(STAMP.len()).position(|window| window == STAMP.as_bytes());
        Self { stamp: stamp.expect("the content is in the frame"), bytes }
    }
}
