//! The composition root: a configuration becomes a running daemon, and a signal ends it.
//!
//! Owns: the order in which rooms are built, started, drained and closed; every top-level task. Must not know: what a room
//! does inside, the process's arguments and signals.
//!
//! ```text
//! lock ─▶ listeners ─▶ store (recovers) ─▶ objects, worker, dispatcher, ingest, ledger, retention ─▶ doors
//! signal ─▶ intake closed ─▶ doors closed, output that had arrived committed ─▶ dispatcher finishes or releases
//!        ─▶ store synced and closed ─▶ lock free
//! ```

mod background;
mod build;
mod dirs;
mod error;
mod health;
mod offline;
mod pulse;
mod sockets;
mod tasks;

use std::fmt::Write as _;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

pub use build::build;
pub use error::{StartError, StartErrorKind};
pub use offline::{Report, check, salvage};
pub use sockets::{Addresses, Listeners};

use crate::api::Api;
use crate::clock::Clock;
use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::retention::Sweeper;
use crate::store::StoreGuard;
use background::Background;
use tasks::Tasks;

/// Of the deadline, this much is kept for closing the store after everybody else has ended.
const CLOSING_MS: u64 = 2_000;

/// Everything is built and recovered, nothing runs yet.
pub struct Daemon {
    config: Config,
    addresses: Addresses,
    listeners: Listeners,
    api: Api,
    dispatcher: Dispatcher,
    sweeper: Sweeper,
    pulse: pulse::Pulse,
    condition: health::Condition,
    guard: StoreGuard,
    dir: dirs::DataDir,
}

/// How a daemon's run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// As asked: everything in flight finished or was released, the store is closed.
    Drained,
    /// As asked, but these did not end within the deadline. Nothing acknowledged is lost.
    Unfinished(String),
    /// The store cannot serve, or a part died. Nothing acknowledged is lost; only a restart helps.
    Fault(String),
}

impl Daemon {
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// For whoever started us: where everything listens, one line.
    pub fn ready_line(&self) -> String {
        let mut line = "fetchbox ready".to_owned();
        let Addresses { ipc, grpc_unix, grpc_tcp, http, joblet } = &self.addresses;
        for (name, path) in [("ipc", ipc), ("grpc", grpc_unix), ("joblet", joblet)] {
            if let Some(path) = path {
                let _ = write!(line, " {name}={}", path.display());
            }
        }
        for (name, at) in [("grpc_tcp", grpc_tcp), ("http", http)] {
            if let Some(at) = at {
                let _ = write!(line, " {name}={at}");
            }
        }
        let _ = write!(line, " data_dir={}", self.dir.root().display());
        line
    }

    /// Serves until `shutdown` is cancelled or the store fails, then drains within the configured deadline.
    pub async fn run(self, shutdown: CancellationToken) -> Ended {
        let Daemon { config, addresses, listeners, api, dispatcher, sweeper, pulse, condition, guard, dir } = self;
        let mut faults = pulse.reader.fault_watch();
        let background = match Background::start() {
            Ok(background) => background,
            Err(error) => return Ended::Fault(format!("no threads: {error}")),
        };
        let mut tasks = Tasks::new();

        let doors = tasks.group();
        // The spool's writer ends after the doors: what they had let in is durable before the store closes.
        tasks.spawn_on(background.handle(), "output", api.ingest.output_writer().run(doors.clone()));
        open_doors(&mut tasks, &background, &doors, listeners, &api, &config);
        let workers = tasks.group();
        let wait = Duration::from_millis(config.drain_deadline_ms.saturating_sub(CLOSING_MS).max(1));
        // Attempts that take longer are handed back to the queue, which takes a moment too.
        let grace = wait.mul_f64(0.75);
        let stop = workers.clone();
        tasks.spawn("dispatcher", async move {
            if let Err(refusal) = dispatcher.run(stop, grace).await {
                tracing::error!(%refusal, "the dispatcher stopped");
            }
        });
        tasks.spawn("retention", sweeper.run(workers.clone()));
        let heart = tasks.group();
        tasks.spawn("pulse", pulse.clone().run(heart.clone()));

        pulse::notify(&[NotifyState::Ready]);
        tracing::info!(data_dir = %dir.root().display(), ?addresses, "ready");

        let fault = tokio::select! {
            () = shutdown.cancelled() => None,
            fault = faults.wait_for(Option::is_some) => {
                let why = fault.ok().and_then(|why| why.clone());
                Some(why.unwrap_or_else(|| "the store has stopped".to_owned()))
            }
            ended = tasks.next() => Some(format!("{ended} ended by itself")),
        };
        match &fault {
            Some(why) => tracing::error!(why, "not serving any longer; draining"),
            None => tracing::info!("draining"),
        }
        pulse::notify(&[NotifyState::Stopping]);
        condition.stop();
        api.ingest.close();
        drop(api);
        doors.cancel();
        workers.cancel();
        heart.cancel();
        let unfinished = tasks.drain(Clock::instant() + wait).await;
        drop((condition, pulse));
        // It joins threads and syncs: not on a runtime thread. The lock goes last.
        let closed = tokio::task::spawn_blocking(move || drop((guard, dir)));
        let closing = Duration::from_millis(CLOSING_MS.min(config.drain_deadline_ms));
        let closed = tokio::time::timeout(closing, closed).await.is_ok();
        end(fault, unfinished, closed)
    }
}

fn open_doors(
    tasks: &mut Tasks,
    background: &Background,
    stop: &CancellationToken,
    listeners: Listeners,
    api: &Api,
    config: &Config,
) {
    use crate::api::{grpc, http, ipc, joblet};
    macro_rules! open {
        ($name:literal, $listener:expr, $serve:path, $options:expr) => {
            if let Some(listener) = $listener {
                let (api, options, stop) = (api.clone(), $options.clone(), stop.clone());
                tasks.spawn($name, async move { $serve(listener, api, &options, stop).await });
            }
        };
    }
    open!("ipc", listeners.ipc, ipc::serve, config.api.ipc);
    open!("grpc on the unix socket", listeners.grpc_unix, grpc::serve_grpc_unix, config.api.grpc);
    open!("grpc on tcp", listeners.grpc_tcp, grpc::serve_grpc_tcp, config.api.grpc);
    open!("http", listeners.http, http::serve, config.api.http);
    if let Some(listener) = listeners.joblet {
        let serve = joblet::serve(listener, api, &config.api.joblet, stop.clone());
        tasks.spawn_on(background.handle(), "joblet", serve);
    }
}

fn end(fault: Option<String>, mut unfinished: Vec<&'static str>, closed: bool) -> Ended {
    if !closed {
        unfinished.push("store");
    }
    let ended = match (fault, unfinished.is_empty()) {
        (Some(why), _) => Ended::Fault(why),
        (None, true) => Ended::Drained,
        (None, false) => Ended::Unfinished(unfinished.join(", ")),
    };
    match &ended {
        Ended::Drained => tracing::info!("stopped"),
        Ended::Unfinished(what) => tracing::warn!(what, "stopped at the deadline"),
        Ended::Fault(why) => tracing::error!(why, "stopped after a fault"),
    }
    ended
}
