//! `demo`: the whole product in one command, on loopback, in a folder of its own.
//!
//! Owns: the order of the show and its folder. Must not know: anything a client could not know; the daemon is the real one.

mod folder;
mod manifest;
mod origin;
mod report;

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::args::Demo;
use super::exit::{Exit, Failure, Result};
use super::out::Out;
use super::serve::{start_failure, watch_signals};
use super::{connect, show, watch, wire};
use crate::client::ipc::IpcClient;
use crate::client::{Addr, Client, Options};
use crate::config::{Config, Listen, TcpAt};
use crate::daemon::{self, Addresses, Ended, Listeners};
use crate::{clock, telemetry};

/// Nothing in the demo takes longer, unless something is broken.
const DEADLINE: Duration = Duration::from_secs(60);

pub async fn run(args: &Demo, out: Out) -> Result {
    // The demo talks to people: its own lines are the log.
    let quiet = telemetry::Log { filter: "error".to_owned(), ..telemetry::Log::default() };
    telemetry::init(&quiet).map_err(Failure::failed)?;
    let shutdown = CancellationToken::new();
    watch_signals(shutdown.clone()).map_err(Failure::failed)?;

    let folder = folder::Folder::claim(&args.dir)?;
    let origin = origin::Origin::start().await.map_err(|error| Failure::new(Exit::Temporary, error))?;
    let config = config(folder.data_dir());
    let daemon = daemon::build(config, Listeners::default()).await.map_err(|error| start_failure(&error))?;
    let addresses = daemon.addresses().clone();

    let stop = shutdown.clone();
    let running = tokio::spawn(daemon.run(stop));
    let shown = tokio::select! {
        shown = tokio::time::timeout(DEADLINE, play(&origin, &addresses, folder.data_dir(), out)) => {
            shown.unwrap_or_else(|_| Err(Failure::failed(format_args!("the demo did not end within {DEADLINE:?}"))))
        }
        () = shutdown.cancelled() => Err(Failure::failed("interrupted")),
    };
    shutdown.cancel();
    let ended = running.await.map_err(|error| Failure::failed(format_args!("the daemon: {error}")))?;
    origin.stop().await;
    match (ended, shown) {
        // What the client saw then is only the echo.
        (Ended::Fault(why), _) => Err(Failure::failed(format_args!("the daemon failed: {why}"))),
        (_, Err(failure)) => Err(failure),
        (Ended::Unfinished(what), Ok(())) => Err(Failure::failed(format_args!("the daemon did not drain: {what}"))),
        (Ended::Drained, Ok(())) => report::goodbye(&args.dir, out),
    }
}

/// The embedded defaults, but for what a demo beside another daemon needs.
fn config(data_dir: &Path) -> Config {
    let any_port = TcpAt::At(std::net::SocketAddr::from(([127, 0, 0, 1], 0)));
    let mut config = Config {
        data_dir: data_dir.to_owned(),
        listen: Listen { grpc_tcp: any_port, http: any_port, ..Listen::default() },
        ..Config::default()
    };
    // The origin stands on this machine; everywhere else that is refused.
    config.worker.allow_networks = vec!["127.0.0.0/8".to_owned()];
    // Seconds to minutes in earnest.
    config.dispatch.backoff_min_ms = 300;
    config.dispatch.backoff_max_ms = 1_500;
    config
}

async fn play(origin: &origin::Origin, at: &Addresses, data_dir: &Path, out: Out) -> Result {
    let (Some(ipc), Some(grpc)) = (&at.ipc, &at.grpc_unix) else {
        return Err(Failure::failed("the demo's daemon has no sockets"));
    };
    report::opening(origin, at, out)?;
    let request = wire::SubmitJobRequest {
        idempotency_key: clock::random_token(),
        source: Some(wire::submit_job_request::Source::ManifestJson(manifest::json(origin))),
        ..Default::default()
    };
    let socket = IpcClient::connect(ipc, &Options::default()).await.map_err(connect::refused)?;
    let accepted = socket.submit(request).await.map_err(connect::refused)?;
    report::accepted(&accepted, out)?;

    let client = Client::connect(Addr::Unix(grpc.clone())).await.map_err(connect::refused)?;
    let last = progress(&client, &accepted.job_id, out).await?;
    report::results(&client, &last, origin, data_dir, out).await
}

/// The job's log and its progress at once, until it has ended.
async fn progress(client: &Client, job_id: &str, out: Out) -> Result<wire::Job> {
    let bar = out.is_tty().then(|| watch::bar(0));
    let say = |text: String| match &bar {
        Some(bar) => {
            bar.println(text);
            Ok(())
        }
        None if out.is_json() => Ok(()),
        None => out.line(text),
    };
    let query = wire::QueryLogsRequest {
        job_id: job_id.to_owned(),
        follow: true,
        min_level: wire::LogLevel::Warn as i32,
        ..Default::default()
    };
    let mut logs = client.query_logs(query).await.map_err(connect::refused)?;
    let watched = wire::WatchJobRequest { job_id: job_id.to_owned(), after_revision: 0 };
    let mut jobs = client.watch_job(watched).await.map_err(connect::refused)?;
    let mut last = wire::Job::default();
    let (mut logs_open, mut jobs_open) = (true, true);
    while logs_open || jobs_open {
        tokio::select! {
            page = logs.next(), if logs_open => match page.transpose().map_err(connect::refused)? {
                Some(page) => page.records.iter().try_for_each(|record| say(format!("  {}", show::log_words(record))))?,
                None => logs_open = false,
            },
            job = jobs.next(), if jobs_open => match job.transpose().map_err(connect::refused)? {
                Some(job) => {
                    match &bar {
                        Some(bar) => watch::update(bar, &job),
                        None if out.is_json() => out.json(&job)?,
                        None if step(&last, &job) => say(format!("  {}", watch::line(&job)))?,
                        None => {}
                    }
                    last = job;
                }
                None => jobs_open = false,
            },
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    if wire::is_terminal(&last) { Ok(last) } else { Err(Failure::failed("the job's stream ended before the job")) }
}

/// Without a terminal: a line for each quarter and for the end, not for each resource.
fn step(before: &wire::Job, now: &wire::Job) -> bool {
    let quarter = |job: &wire::Job| {
        let ended = job.resources_completed + job.resources_failed;
        ended * 4 / job.resources_total.max(1)
    };
    before.state != now.state || quarter(before) != quarter(now)
}
