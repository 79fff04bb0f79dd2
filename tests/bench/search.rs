//! Text search over much output: a literal that occurs three times, beside reading everything.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use fetchbox::client::{Addr, Client};
use fetchbox::proto::fetchbox::v1::{SearchLogsRequest, SearchProgress};
use fetchbox::proto::joblet::ipc::{IpcMessage, LogLine, MessageType, StreamType};
use futures_util::StreamExt as _;
use prost::Message as _;

use crate::output::{self, Corpus};
use crate::process;
use crate::server::{Server, scratch};

/// Lines a chunk holds: what a program writes at once.
const LINES_PER_CHUNK: usize = 16;
const NEEDLE: &str = "order 7f3a-zebra-41 rejected";

pub fn run(bytes: u64, jobs: usize) {
    let dir = scratch("output-search");
    let server = Server::start(&dir, false);
    let begun = Instant::now();
    fill(&server, bytes, jobs);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = Client::connect(Addr::Unix(server.grpc())).await.expect("gRPC answers");
        println!("{} MiB of text over {jobs} jobs in {:.1} s", bytes >> 20, begun.elapsed().as_secs_f64());
        server.settle();
        println!("resident at most {} MiB while that was taken in", server.memory().1 >> 20);
        for (what, text, regex) in [
            ("a literal that occurs 3 times", NEEDLE, ""),
            ("the same as a regular expression", "", "order [0-9a-f]{4}-zebra-4\\d rejected"),
            ("a literal that occurs nowhere", "no such words anywhere", ""),
            // Nothing can be ruled out: every block is read.
            ("reading everything", "", "[^ -~\\n\\t]{7}"),
        ] {
            let cpu = process::cpu_seconds(server.pid());
            let asked = Instant::now();
            let (hits, progress) = search(&client, text, regex).await;
            let seconds = asked.elapsed().as_secs_f64();
            println!(
                "{what:<36} {hits:>4} hits {seconds:>8.3} s {:>7.2} CPU-s {:>7} blocks {:>6.2} % skipped {:>7} MiB read",
                process::cpu_seconds(server.pid()) - cpu,
                progress.blocks,
                progress.blocks_skipped as f64 * 100.0 / progress.blocks.max(1) as f64,
                progress.bytes_searched >> 20,
            );
        }
    });
    println!("resident at most {} MiB in all", server.memory().1 >> 20);
}

fn fill(server: &Server, bytes: u64, jobs: usize) {
    let mut socket = UnixStream::connect(server.dir.join("run/persist-ipc.sock")).expect("the socket accepts");
    let mut corpus = Corpus::new(3);
    let (mut written, mut chunk, mut sequence) = (0u64, 0u64, vec![0u64; jobs]);
    let chunks = bytes / (121 * LINES_PER_CHUNK as u64);
    let needles = [chunks / 7, chunks / 2, chunks / 7 * 6];
    let mut buffer = Vec::new();
    while written < bytes {
        let job = (chunk % jobs as u64) as usize;
        let mut content = String::new();
        for _ in 0..LINES_PER_CHUNK {
            content.push_str(&corpus.line());
        }
        if needles.contains(&chunk) {
            content.push_str(NEEDLE);
            content.push('\n');
        }
        written += content.len() as u64;
        let name = output::name(job);
        let line = LogLine {
            job_uuid: name.clone(),
            stream: StreamType::Stdout.into(),
            timestamp: 1_760_000_000_000_000_000,
            sequence: sequence[job],
            content: content.into_bytes().into(),
        };
        let message = IpcMessage {
            version: 1,
            r#type: MessageType::Log.into(),
            job_uuid: name,
            timestamp: line.timestamp,
            sequence: sequence[job],
            data: line.encode_to_vec().into(),
        };
        sequence[job] += 1;
        chunk += 1;
        buffer.extend_from_slice(&(message.encoded_len() as u32).to_be_bytes());
        message.encode(&mut buffer).expect("a vector grows");
        if buffer.len() > 1 << 20 {
            socket.write_all(&buffer).expect("the daemon reads");
            buffer.clear();
        }
    }
    socket.write_all(&buffer).expect("the daemon reads");
    wait_for(server, jobs, &sequence);
}

/// Until every job has every chunk.
fn wait_for(server: &Server, jobs: usize, counts: &[u64]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = Client::connect(Addr::Unix(server.grpc())).await.expect("gRPC answers");
        for (job, count) in (0..jobs).zip(counts) {
            while client.get_job(output::get(&output::name(job))).await.map_or(0, |job| job.log_count) < *count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
}

async fn search(client: &Client, text: &str, regex: &str) -> (usize, SearchProgress) {
    let mut request =
        SearchLogsRequest { text: text.into(), regex: regex.into(), limit: 10_000, ..SearchLogsRequest::default() };
    let (mut hits, mut total) = (0, SearchProgress::default());
    loop {
        let mut answers = client.search_logs(request.clone()).await.expect("the search begins");
        let (mut progress, mut token) = (SearchProgress::default(), String::new());
        while let Some(answer) = answers.next().await {
            let answer = answer.expect("the search goes on");
            hits += answer.hits.len();
            progress = answer.progress.unwrap_or(progress);
            token = answer.next_page_token;
        }
        total.blocks += progress.blocks;
        total.blocks_skipped += progress.blocks_skipped;
        total.bytes_searched += progress.bytes_searched;
        if token.is_empty() {
            return (hits, total);
        }
        request.page_token = token;
    }
}
