//! Does it get slower with the jobs it keeps? The same calls against a daemon with few and one with many, in turns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fetchbox::client::{Addr, Client, Options, ipc::IpcClient};
use fetchbox::proto::fetchbox::v1::{
    GetJobRequest, JobState, JobStatus, ListJobsRequest, Manifest, SubmitJobRequest, UpdateJobStatusRequest,
    WatchJobRequest, submit_job_request::Source,
};
use futures_util::StreamExt;

use crate::load::{self, Shape};
use crate::server::{Server, scratch};

/// Measurements of one call in one turn.
const CALLS_PER_ROUND: usize = 50;
const CALLS: [&str; 4] = ["submit", "get", "list page of 100", "watch"];

pub fn run(many: u64, rounds: u64) {
    let dirs = [scratch("kept-few"), scratch("kept-many")];
    let kept = [1_000, many];
    for (dir, kept) in dirs.iter().zip(kept) {
        let server = Server::start(dir, true);
        server.cli(&["pause"]);
        fill(&server, kept);
    }
    let servers: Vec<Server> = dirs.iter().map(|dir| Server::start(dir, false)).collect();
    for (server, kept) in servers.iter().zip(kept) {
        let settled = server.settle();
        println!(
            "restart with {kept} jobs: ready after {:.2} s, quiet after {:.1} s, resident {} MiB",
            server.ready_after.as_secs_f64(),
            settled.as_secs_f64(),
            server.memory().0 >> 20
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut figures = vec![vec![Vec::new(); CALLS.len()]; servers.len()];
    runtime.block_on(async {
        let mut probes = Vec::new();
        for server in &servers {
            probes.push(Probe::new(server).await);
        }
        for _ in 0..rounds {
            for (probe, figures) in probes.iter().zip(&mut figures) {
                probe.round(figures).await;
            }
        }
    });
    println!(
        "{:<20} {:>12} {:>12} {:>7} {:>12} {:>12} {:>7}",
        "ms", "p50 few", "p50 many", "ratio", "p99 few", "p99 many", "ratio"
    );
    for (index, call) in CALLS.iter().enumerate() {
        let quantile = |server: usize, q: f64| {
            let mut times = figures[server][index].clone();
            times.sort_by(f64::total_cmp);
            times[((times.len() - 1) as f64 * q) as usize]
        };
        let (few, many) = (quantile(0, 0.5), quantile(1, 0.5));
        let (few99, many99) = (quantile(0, 0.99), quantile(1, 0.99));
        println!(
            "{call:<20} {few:>12.3} {many:>12.3} {:>7.2} {few99:>12.3} {many99:>12.3} {:>7.2}",
            many / few,
            many99 / few99
        );
    }
}

/// Half the jobs stay queued, half are external ones that were completed.
fn fill(server: &Server, kept: u64) {
    let shape = Shape { connections: 16, window: 64, resources: 1 };
    let mut queued = 0;
    while queued < kept / 2 {
        let length = if kept > 100_000 { Duration::from_secs(1) } else { Duration::from_millis(5) };
        queued += load::run(&server.socket(), shape, length).acknowledged;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client =
            Arc::new(IpcClient::connect(server.socket(), &Options::default()).await.expect("the socket accepts"));
        let done = futures_util::stream::iter(0..kept / 2).for_each_concurrent(60, |_| {
            let client = Arc::clone(&client);
            async move {
                let job = client.submit(external()).await.expect("accepted");
                client.update_status(moved(&job.job_id, JobState::Completed)).await.expect("moved");
            }
        });
        done.await;
    });
    eprintln!("kept: {queued} queued, {} completed", kept / 2);
}

fn external() -> SubmitJobRequest {
    let manifest = Manifest { manifest_version: "v1".into(), ..Manifest::default() };
    SubmitJobRequest {
        job_type: "external".into(),
        source: Some(Source::Manifest(manifest)),
        ..SubmitJobRequest::default()
    }
}

fn moved(job_id: &str, state: JobState) -> UpdateJobStatusRequest {
    let status = JobStatus { job_id: job_id.into(), state: state.into(), ..JobStatus::default() };
    UpdateJobStatusRequest { status: Some(status), ..UpdateJobStatusRequest::default() }
}

struct Probe {
    ipc: IpcClient,
    grpc: Client,
}

impl Probe {
    async fn new(server: &Server) -> Self {
        let ipc = IpcClient::connect(server.socket(), &Options::default()).await.expect("the socket accepts");
        let grpc = Client::connect(Addr::Unix(server.grpc())).await.expect("gRPC answers");
        Self { ipc, grpc }
    }

    async fn round(&self, figures: &mut [Vec<f64>]) {
        for _ in 0..CALLS_PER_ROUND {
            let begun = Instant::now();
            let job = self.ipc.submit(external()).await.expect("accepted");
            figures[0].push(begun.elapsed().as_secs_f64() * 1e3);

            let begun = Instant::now();
            self.grpc.get_job(GetJobRequest { job_id: job.job_id.clone() }).await.expect("known");
            figures[1].push(begun.elapsed().as_secs_f64() * 1e3);

            let begun = Instant::now();
            self.grpc
                .list_jobs(ListJobsRequest { page_size: 100, ..ListJobsRequest::default() })
                .await
                .expect("a page");
            figures[2].push(begun.elapsed().as_secs_f64() * 1e3);

            let request = WatchJobRequest { job_id: job.job_id.clone(), after_revision: 0 };
            let mut watch = self.grpc.watch_job(request).await.expect("a stream");
            watch.next().await.expect("a snapshot").expect("a snapshot");
            let begun = Instant::now();
            self.ipc.update_status(moved(&job.job_id, JobState::Completed)).await.expect("moved");
            watch.next().await.expect("the end").expect("the end");
            figures[3].push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
}
