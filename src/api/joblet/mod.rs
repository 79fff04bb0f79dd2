//! The joblet socket: the output of jobs, one way. Nothing is ever written to the peer.
//!
//! ```text
//! socket ─▶ Input (frames) ─▶ message ─▶ OutputSource ─▶ the spool (waits while it is full)
//! ```
//! Owns: connections, their deadlines and memory, what is refused. Must not know: how output becomes durable.

mod connection;
mod input;
pub(super) mod message;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Api;
use super::incoming::Gate;
use crate::telemetry::{Counter, Metrics};

/// Between the accepts at shutdown: how long a connection that stands in the backlog may take to show itself.
const LAST_LOOK: Duration = Duration::from_millis(20);

/// Limits of the joblet socket.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Open connections; more wait to be accepted. One is what each sender has.
    pub connections_max: usize,
    /// The largest message; a larger one ends its connection. Of messages above 1 MiB so much is read at once, over all connections.
    pub frame_bytes_max: usize,
    /// From a message's first byte to its last. Between messages there is no limit.
    pub frame_timeout_ms: u64,
    /// At shutdown: for reading and handing over what had arrived.
    pub drain_timeout_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections_max: 64,
            // What joblet's own receiver takes.
            frame_bytes_max: 128 << 20,
            frame_timeout_ms: 30_000,
            drain_timeout_ms: 5_000,
        }
    }
}

/// What every connection shares.
struct Server {
    frame_bytes_max: usize,
    frame_timeout: Duration,
    /// One permit per byte of a frame that outgrew what a connection buffers on its own account.
    large: Arc<Semaphore>,
    received: Counter,
    bytes: Counter,
    metrics: Metrics,
}

impl Server {
    fn new(options: &Options, metrics: &Metrics) -> Self {
        let frame_bytes_max = options.frame_bytes_max.clamp(1, u32::MAX as usize / 2);
        Self {
            frame_bytes_max,
            frame_timeout: Duration::from_millis(options.frame_timeout_ms),
            large: Arc::new(Semaphore::new(frame_bytes_max + input::HEADER_BYTES)),
            received: metrics.persist_received.clone(),
            bytes: metrics.persist_bytes_received.clone(),
            metrics: metrics.clone(),
        }
    }
}

/// Serves until `stop`; then takes what had arrived, also on connections nobody had accepted yet, and hands it over, within the drain
/// timeout. From this call on, not from the first poll, the writer of output waits for it.
pub fn serve(
    listener: UnixListener,
    api: &Api,
    options: &Options,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    let pass = api.ingest.output_pass();
    let server = Arc::new(Server::new(options, &api.metrics));
    let drain_timeout = Duration::from_millis(options.drain_timeout_ms);
    let gate = Gate::new(listener, "joblet", options.connections_max);
    let ingest = api.ingest.clone();
    async move {
        let Some(pass) = pass else { return };
        let mut connections = JoinSet::new();
        loop {
            let seated = tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                seated = gate.next() => seated,
            };
            let source = ingest.output_source(&pass);
            connections.spawn(connection::run(seated, source, server.clone(), stop.clone()));
        }
        let ended = tokio::time::timeout(drain_timeout, async {
            while let Ok(seated) = tokio::time::timeout(LAST_LOOK, gate.next()).await {
                let source = ingest.output_source(&pass);
                connections.spawn(connection::run(seated, source, server.clone(), stop.clone()));
            }
            while connections.join_next().await.is_some() {}
        });
        if ended.await.is_err() {
            tracing::warn!(open = connections.len(), "output still came in, or could not be handed over, at shutdown");
        }
        connections.shutdown().await;
    }
}
