//! The native socket: pipelined frames in, answers out in whatever order they are ready.
//!
//! ```text
//! socket ─▶ FrameBuffer ─▶ requests ─▶ ingest ─▶ committer thread ─┐ Reply
//!        ◀─ one write ◀── Outbox ◀─────────────────────────────────┘
//! ```
//! One task per connection and none per request: answers are encoded where they are decided, queued in the connection's outbox, and the
//! task is woken once for all of them. Reading stops while a connection has its window of requests unanswered: that is the back-pressure.
//! Owns: connections, window, deadlines, memory of the socket. Must not know: what a request does.

mod connection;
mod outbox;
mod requests;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Api;
use super::frame::FRAME_BYTES_MAX;
use super::incoming::Gate;
use crate::telemetry::Metrics;

/// Limits of the native socket.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Open connections; more wait to be accepted.
    pub connections_max: usize,
    /// Requests of one connection that may be unanswered: what clients see as `credits`.
    pub window: u32,
    /// The largest frame's body.
    pub frame_bytes_max: usize,
    /// Bytes that all frames above 32 KiB together may occupy; one that does not fit waits for its turn.
    pub large_frames_bytes_max: usize,
    /// Bytes of answers that all clients together may leave unread before the worst of them are dropped early.
    pub unread_bytes_max: usize,
    /// From a frame's first byte to its last.
    pub frame_timeout_ms: u64,
    /// How long a client may leave its answers unread while there is no room for more.
    pub unread_timeout_ms: u64,
    /// At shutdown: how long requests in flight may take to be answered.
    pub drain_timeout_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections_max: 4_096,
            window: 64,
            frame_bytes_max: FRAME_BYTES_MAX,
            large_frames_bytes_max: 64 * 1024 * 1024,
            unread_bytes_max: 32 * 1024 * 1024,
            frame_timeout_ms: 30_000,
            unread_timeout_ms: 30_000,
            drain_timeout_ms: 5_000,
        }
    }
}

/// What every connection shares.
struct Server {
    /// Made anew for each connection, so that its reference count is touched by nobody else.
    work: Box<dyn Fn() -> requests::Work + Send + Sync>,
    window: u32,
    frame_bytes_max: usize,
    frame_timeout: Duration,
    unread_timeout: Duration,
    drain_timeout: Duration,
    /// One permit per byte of a frame that outgrew its connection's own buffer, held until the request is answered.
    large: Arc<Semaphore>,
    /// Answers that stalled clients have not read.
    unread: AtomicUsize,
    unread_bytes_max: usize,
    counted: requests::Counted,
}

impl Server {
    fn new(work: Box<dyn Fn() -> requests::Work + Send + Sync>, metrics: &Metrics, options: &Options) -> Self {
        let frame_bytes_max = options.frame_bytes_max.clamp(1, u32::MAX as usize / 2);
        // Less than one whole frame would let that frame wait for ever.
        let large = options.large_frames_bytes_max.clamp(frame_bytes_max + 4, Semaphore::MAX_PERMITS);
        Self {
            counted: requests::Counted::new(metrics),
            work,
            window: options.window.max(1),
            frame_bytes_max,
            frame_timeout: Duration::from_millis(options.frame_timeout_ms),
            unread_timeout: Duration::from_millis(options.unread_timeout_ms),
            drain_timeout: Duration::from_millis(options.drain_timeout_ms),
            large: Arc::new(Semaphore::new(large)),
            unread: AtomicUsize::new(0),
            unread_bytes_max: options.unread_bytes_max,
        }
    }
}

/// Serves until `stop`; then accepts no more, answers what is in flight, and returns at the latest after the drain timeout.
pub async fn serve(listener: UnixListener, api: Api, options: &Options, stop: CancellationToken) {
    let metrics = api.metrics.clone();
    let server = Server::new(Box::new(move || requests::rooms(api.clone())), &metrics, options);
    serve_with(listener, Arc::new(server), options, stop).await;
}

async fn serve_with(listener: UnixListener, server: Arc<Server>, options: &Options, stop: CancellationToken) {
    let gate = Gate::new(listener, "ipc", options.connections_max);
    let connections = TaskTracker::new();
    loop {
        let seated = tokio::select! {
            () = stop.cancelled() => break,
            seated = gate.next() => seated,
        };
        if let Ok(peer) = seated.io.peer_cred() {
            tracing::debug!(uid = peer.uid(), gid = peer.gid(), pid = peer.pid(), "ipc connection");
        }
        connections.spawn(connection::run(seated, server.clone(), stop.clone()));
    }
    drop(gate);
    connections.close();
    if tokio::time::timeout(server.drain_timeout, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "ipc connections were still waiting for answers at shutdown");
    }
}

#[cfg(test)]
mod tests;
