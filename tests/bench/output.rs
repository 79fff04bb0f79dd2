//! The output of jobs over joblet's socket: bursts from a writer in Python, and what others feel meanwhile.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fetchbox::client::{Addr, Client};
use fetchbox::proto::fetchbox::v1::{GetJobRequest, LogRecord, LogStream, QueryLogsRequest, log_record::Content};
use futures_util::StreamExt as _;

use crate::corpus;
use crate::process;
use crate::rivals;
use crate::server::{Server, scratch};

/// What the original does on such a machine, lines a second: one job, 500 jobs.
const ORIGINAL: [f64; 2] = [22_000.0, 350.0];

/// Its job in the burst.
pub fn name(job: usize) -> String {
    format!("00000000-0000-4000-8000-{job:012x}")
}

pub fn run(rounds: u64) {
    println!(
        "{:<28} {:>10} {:>9} {:>8} {:>12} {:>9} {:>6} {:>8} {:>9}",
        "burst", "lines/s", "original", "ratio", "lines/CPU-s", "peak MiB", "files", "B/line", "sent in s"
    );
    for round in 0..rounds {
        println!("fdatasync of 512 B appended: {:.0}/s", rivals::raw_syncs(&scratch("raw"), Duration::from_secs(1)));
        burst(200_000, 1, ORIGINAL[0], round);
        burst(500_000, 500, ORIGINAL[1], round);
    }
}

/// Lines of one seed.
pub struct Corpus {
    rng: u64,
    time_ms: u64,
}

impl Corpus {
    pub fn new(seed: u64) -> Self {
        Self { rng: seed, time_ms: 1_760_000_000_000 }
    }

    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        corpus::line(&mut self.rng, &mut self.time_ms, &mut line);
        String::from_utf8(line).expect("the corpus is text")
    }
}

fn corpus_lines(count: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut corpus = Corpus::new(seed);
    (0..count).map(|_| corpus.line().into_bytes()).collect()
}

struct Writer {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Writer {
    fn ready(socket: &Path, lines: &Path, jobs: usize) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/burst.py");
        let mut child = Command::new("python3")
            .arg(script)
            .args([socket, lines])
            .arg(jobs.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let mut said = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut ready = String::new();
        said.read_line(&mut ready).expect("the writer speaks");
        Self { child, said }
    }

    fn go(&mut self) {
        self.child.stdin.as_mut().expect("stdin is piped").write_all(b"\n").expect("the writer listens");
    }

    /// Seconds until everything was handed to the kernel.
    fn sent(mut self) -> f64 {
        let mut seconds = String::new();
        self.said.read_line(&mut seconds).expect("the writer speaks");
        self.go();
        let _ = self.child.wait();
        seconds.trim().parse().unwrap_or(0.0)
    }
}

fn burst(lines: usize, jobs: usize, original: f64, round: u64) {
    let dir = scratch(&format!("output-{jobs}"));
    let contents = corpus_lines(lines, round + 1);
    let file = dir.with_extension("lines");
    std::fs::write(&file, contents.concat()).expect("the lines can be written");
    let server = Server::start(&dir, false);
    let mut writer = Writer::ready(&socket(&server), &file, jobs);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = runtime.block_on(Client::connect(Addr::Unix(server.grpc()))).expect("gRPC answers");
    let cpu = process::cpu_seconds(server.pid());
    let (files, files_most) = (open_files(server.pid()), std::cell::Cell::new(0));
    let begun = Instant::now();
    writer.go();
    let last = (lines / jobs) as u64;
    runtime.block_on(async {
        // The last line of the last job is the last line written.
        while tail(&client, &name(jobs - 1), 1).await.last().is_none_or(|record| record.offset + 1 < last) {
            files_most.set(files_most.get().max(open_files(server.pid())));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let cpu_seconds = process::cpu_seconds(server.pid()) - cpu;
    let sent = writer.sent();
    runtime.block_on(async {
        for job in 0..jobs {
            let expected: Vec<&Vec<u8>> = contents.iter().skip(job).step_by(jobs).collect();
            check(&client, &name(job), &expected).await;
        }
    });
    let peak = server.memory().1 >> 20;
    let stored = settled_bytes(&dir) as f64 / lines as f64;
    let cpu_after = process::cpu_seconds(server.pid()) - cpu;
    println!(
        "{:<28} {:>10.0} {original:>9.0} {:>8.1} {:>12.0} {peak:>9} {:>6} {stored:>8.1} {sent:>9.2}",
        format!("{lines} lines, {jobs} jobs"),
        lines as f64 / seconds,
        lines as f64 / seconds / original,
        lines as f64 / cpu_seconds,
        files_most.get().max(files),
    );
    println!("    {seconds:.2} s, {cpu_seconds:.2} CPU-s; with sealing and one full query {cpu_after:.2} CPU-s");
    let _ = std::fs::remove_file(&file);
}

pub fn socket(server: &Server) -> PathBuf {
    server.dir.join("run/persist-ipc.sock")
}

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// How long the folder must have stayed as large as it is: journals and tables without use are given back some seconds apart.
const SETTLED: Duration = Duration::from_secs(25);
/// What the daemon writes for itself meanwhile.
const SETTLED_BYTES: u64 = 64 << 10;

/// Bytes of the folder once they do not change any more.
fn settled_bytes(dir: &Path) -> u64 {
    let (mut bytes, mut since) = (0, Instant::now());
    let begun = Instant::now();
    while since.elapsed() < SETTLED && begun.elapsed() < 4 * SETTLED {
        let now = allocated(dir);
        if now.abs_diff(bytes) > SETTLED_BYTES {
            (bytes, since) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    bytes
}

/// As `du` counts: what files occupy, not how long they are.
fn allocated(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => allocated(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

async fn tail(client: &Client, job: &str, count: u32) -> Vec<LogRecord> {
    let request = QueryLogsRequest { job_id: job.into(), tail: count, ..QueryLogsRequest::default() };
    let Ok(mut pages) = client.query_logs(request).await else { return Vec::new() };
    let mut records = Vec::new();
    while let Some(Ok(page)) = pages.next().await {
        records.extend(page.records);
    }
    records
}

/// Every line, in order, byte for byte.
async fn check(client: &Client, job: &str, expected: &[&Vec<u8>]) {
    let mut at = 0;
    let mut request = QueryLogsRequest {
        job_id: job.into(),
        limit: 1_000,
        streams: vec![LogStream::Stdout.into()],
        ..QueryLogsRequest::default()
    };
    loop {
        let mut pages = client.query_logs(request.clone()).await.expect("the job is known");
        let mut end = false;
        while let Some(page) = pages.next().await {
            let page = page.expect("the query goes on");
            for record in page.records {
                assert_eq!(
                    record.content.as_ref(),
                    expected.get(at).map(|line| Content::Chunk((*line).clone().into())).as_ref()
                );
                at += 1;
            }
            request.offset = page.next_offset;
            end = page.end;
        }
        if end {
            break;
        }
    }
    assert_eq!(at, expected.len(), "lines of {job}");
}

/// The state of a job, for [`crate::felt`].
pub fn get(job: &str) -> GetJobRequest {
    GetJobRequest { job_id: job.into() }
}
