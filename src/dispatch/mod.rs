//! The dispatcher: who runs when.
//!
//! Owns: the ready window, leases, per-host limits, backoff, settling, finalize, cancel, retry, replay, control.
//! Must not know: how a download works, how rows look, any wire.
//!
//! ```text
//! store ─ready, due─▶ window ─picks─▶ lease ─▶ stock ─▶ attempts ─outcomes─▶ settle ─▶ store
//! ```
//! One loop (`engine`) owns all state. What it decides is pure (`plan`, `window`, `backoff`, `hosts`, `parking`, `settle`):
//! events in, actions out. What it does to the world is one trait (`effects`).

mod attempt;
mod backoff;
mod breaker;
mod calls;
mod class;
mod cursors;
mod effects;
mod engine;
#[cfg(test)]
mod engine_test;
#[cfg(test)]
mod fair_test;
mod finalize;
mod gate;
mod handle;
mod hosts;
mod inbox;
mod lane;
mod leases;
mod limits;
#[cfg(test)]
mod model_queue;
#[cfg(test)]
mod model_test;
mod parking;
mod plan;
mod rate;
mod reads;
mod replay;
mod settle;
mod shares;
mod stock;
mod tally;
mod wait;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use handle::Dispatch;
pub use limits::HostOptions;

use crate::clock::{Clock, JobIds};
use crate::handler::Registry;
use crate::model::{JobId, Manifest, Refusal, RefusalCode, Violation};
use crate::store::{Reader, Store};
use crate::telemetry::Metrics;
use crate::worker::Worker;

/// How much runs at once, and how failures are retried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Attempts that run at once.
    pub in_flight: u32,
    /// Of them, at one host.
    pub per_host: u32,
    /// Requests a second to all hosts together, redirects and the like included; 0: no limit.
    pub per_second: f64,
    /// Requests a second to one host; 0: no limit but what the host asks for.
    pub per_host_per_second: f64,
    /// Requests that may come to a host at once after a rest. One of them is kept for what the network bunches.
    pub per_host_burst: u32,
    /// What is different for some hosts, by `host` or `host:port`.
    pub hosts: BTreeMap<String, HostOptions>,
    /// Failures in a row after which a host is left alone; 0: never.
    pub breaker_failures: u32,
    /// For how long, the first time. It doubles with each probe that fails.
    pub breaker_min_ms: u64,
    /// And at most.
    pub breaker_max_ms: u64,
    /// After so long without a success a host's tasks are let through to fail, so that their jobs end.
    pub breaker_give_up_ms: u64,
    /// Attempts of a task whose failures may pass by themselves.
    pub attempts_max: u32,
    /// Attempts of a task whose failure hardly ever passes (no such host, broken TLS).
    pub unlikely_attempts_max: u32,
    /// Attempts of a task whose upload failures may pass by themselves.
    pub upload_attempts_max: u32,
    /// Attempts of a task whose origin keeps asking to wait.
    pub throttled_attempts_max: u32,
    /// Shortest wait before the next attempt.
    pub backoff_min_ms: u64,
    /// Longest wait before the next attempt, unless the origin asks for more.
    pub backoff_max_ms: u64,
    /// What is shown as a lease's end. Nothing happens when it passes: an attempt is bounded by the worker's timeouts, and
    /// only one process opens a data directory, so a lease ends by its settlement or at the next start.
    pub lease_ms: u64,
    /// A task during which the daemon died more often than this in a row is given up.
    pub interrupted_max: u32,
    /// Tasks kept in memory to choose from.
    pub window_tasks: u32,
    /// About how much memory they may take.
    pub window_bytes: u64,
    /// While the object store takes nothing: the first wait before it is asked again.
    pub park_min_ms: u64,
    /// And the longest.
    pub park_max_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            in_flight: 32,
            per_host: 16,
            per_second: 0.0,
            per_host_per_second: 0.0,
            per_host_burst: 2,
            hosts: BTreeMap::new(),
            breaker_failures: 10,
            breaker_min_ms: 5_000,
            breaker_max_ms: 300_000,
            breaker_give_up_ms: 600_000,
            attempts_max: 5,
            unlikely_attempts_max: 2,
            upload_attempts_max: 8,
            throttled_attempts_max: 20,
            backoff_min_ms: 1_000,
            backoff_max_ms: 300_000,
            lease_ms: 3_600_000,
            interrupted_max: 20,
            window_tasks: 4_096,
            window_bytes: 64 * 1024 * 1024,
            park_min_ms: 1_000,
            park_max_ms: 60_000,
        }
    }
}

impl Options {
    /// What makes no sense, by field name.
    pub fn violations(&self) -> Vec<Violation> {
        let zero = [
            ("in_flight", self.in_flight),
            ("per_host", self.per_host),
            ("attempts_max", self.attempts_max),
            ("unlikely_attempts_max", self.unlikely_attempts_max),
            ("upload_attempts_max", self.upload_attempts_max),
            ("throttled_attempts_max", self.throttled_attempts_max),
            ("window_tasks", self.window_tasks),
        ];
        let wrong = |path: &str, message: &str| Violation { path: path.to_owned(), message: message.to_owned() };
        let mut found: Vec<Violation> =
            zero.iter().filter(|(_, value)| *value == 0).map(|(path, _)| wrong(path, "must be at least 1")).collect();
        if self.backoff_min_ms > self.backoff_max_ms {
            found.push(wrong("backoff_min_ms", "must not be greater than backoff_max_ms"));
        }
        if self.park_min_ms > self.park_max_ms {
            found.push(wrong("park_min_ms", "must not be greater than park_max_ms"));
        }
        found.extend(limits::violations(self));
        found
    }
}

/// What operators and health ask about.
#[derive(Debug, Clone, Default)]
pub struct Status {
    pub in_flight: u64,
    /// Age of the oldest task that could start.
    pub lag_ms: u64,
    /// Hosts that asked for a pause that is not over.
    pub hosts_paused: u64,
    /// Hosts whose circuit breaker is open.
    pub hosts_down: u64,
    /// Jobs of which something in the queue cannot be read, since the start.
    pub unreadable: u64,
    /// Why storage is parked; empty while it works.
    pub storage_alarm: String,
    /// Unix ms of the loop's last turn: stands still when the dispatcher hangs.
    pub last_turn_ms: i64,
}

/// What a replay did.
#[derive(Debug, Clone, Default)]
pub struct ReplayReport {
    pub matched: u32,
    pub replayed: u32,
    /// Jobs that have tasks again, the first thousand.
    pub jobs: Vec<JobId>,
}

/// What the dispatcher works with.
pub struct Deps {
    pub store: Store,
    pub reader: Reader,
    pub worker: Worker,
    pub registry: Registry,
    pub clock: Clock,
    /// The minter that also serves the in-door: replayed letters of deleted jobs need new ids.
    pub ids: Arc<JobIds>,
    pub metrics: Metrics,
    /// Where objects go that name no bucket.
    pub default_bucket: String,
    /// Prefix of every key; may be empty.
    pub storage_prefix: String,
    /// A manifest as the JSON that is stored at its key, metadata verbatim.
    pub manifest_json: fn(&Manifest) -> Vec<u8>,
}

/// The loop, before it runs.
pub struct Dispatcher {
    engine: engine::Engine<effects::Live>,
    finalizer: finalize::Finalizer,
}

impl Dispatcher {
    /// Starts nothing and reads nothing; the handle works at once.
    pub fn new(options: Options, deps: Deps) -> (Dispatcher, Dispatch) {
        let inbox = Arc::new(inbox::Inbox::default());
        let leases = Arc::new(leases::Leases::default());
        let board = Arc::new(handle::Board::default());
        // Until the loop's first turn it counts as just turned: a daemon that starts is not stuck.
        board.write(|status| status.last_turn_ms = deps.clock.now_ms());
        let (owed, news) = finalize::news();
        let hosts = gate::Hosts::new(limits::Rules::new(&options), deps.clock.clone(), inbox.clone());
        let handle = handle::Inner {
            store: deps.store.clone(),
            reader: deps.reader.clone(),
            clock: deps.clock.clone(),
            ids: deps.ids,
            default_bucket: deps.default_bucket.clone(),
            storage_prefix: deps.storage_prefix.clone(),
            inbox: inbox.clone(),
            leases: leases.clone(),
            owed: owed.clone(),
            board: board.clone(),
            hosts: hosts.clone(),
        };
        let finalizer = finalize::Finalizer {
            store: deps.store.clone(),
            reader: deps.reader.clone(),
            registry: deps.registry,
            clock: deps.clock.clone(),
            policy: plan::policy(&options),
            news,
        };
        let live = effects::Live {
            store: deps.store,
            reader: deps.reader,
            worker: deps.worker,
            clock: deps.clock.clone(),
            leases: leases.clone(),
            owed,
            default_bucket: deps.default_bucket,
            storage_prefix: deps.storage_prefix,
            manifest_json: deps.manifest_json,
        };
        let shared = engine::Shared { clock: deps.clock, metrics: deps.metrics, inbox, leases, board, hosts };
        let engine = engine::Engine::new(options, live, shared);
        (Dispatcher { engine, finalizer }, Dispatch { inner: Arc::new(handle) })
    }

    /// Works until `stop`: then nothing new starts, running attempts have `stop_grace` to end and are stopped after it, and
    /// every result is settled before this returns.
    ///
    /// # Errors
    /// The store can serve no longer: the process should exit and start again.
    pub async fn run(self, stop: CancellationToken, stop_grace: Duration) -> Result<(), Refusal> {
        let finalizer_stop = CancellationToken::new();
        let finalizer = tokio::spawn(self.finalizer.run(finalizer_stop.clone()));
        // Also when this future is dropped.
        let finalizer_stop = finalizer_stop.drop_guard();
        let ended = self.engine.run(stop, stop_grace).await;
        drop(finalizer_stop);
        if let Err(error) = finalizer.await {
            tracing::error!(%error, "the finalizer ended badly");
        }
        ended
    }
}

fn millis(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// Runs a read where it may block.
async fn off_thread<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| Refusal::new(RefusalCode::Internal, format!("a read did not end: {error}")))
}

/// The committer has too much to do: the same call may pass in a moment.
fn is_busy(refusal: &Refusal) -> bool {
    match refusal.code {
        RefusalCode::RateLimited | RefusalCode::StorageFull | RefusalCode::Draining => true,
        RefusalCode::InvalidPayload
        | RefusalCode::Unauthorized
        | RefusalCode::UnsupportedJobType
        | RefusalCode::PayloadTooLarge
        | RefusalCode::NotFound
        | RefusalCode::AlreadyExists
        | RefusalCode::IllegalState
        | RefusalCode::OutOfRange
        | RefusalCode::Stale
        | RefusalCode::DataLoss
        | RefusalCode::Unavailable
        | RefusalCode::Handler
        | RefusalCode::Unimplemented
        | RefusalCode::Internal => false,
    }
}

/// How long to wait after a busy refusal: as told, within bounds.
fn pause_of(refusal: &Refusal) -> Duration {
    let asked = refusal.retry_after.unwrap_or(Duration::from_millis(50));
    asked.clamp(Duration::from_millis(5), Duration::from_secs(5))
}
