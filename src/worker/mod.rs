//! The worker: Lease in, Outcome out.
//!
//! Owns: one attempt: guard the address, fetch, digest, upload, classify. Must not know: the database, the queue, other attempts.
//!
//! ```text
//! target (is this a URL we fetch?) → guard (may we talk to that address?) → fetch (one GET, redirects by hand)
//!        → run (digest, upload, complete) → classify (what does a failure mean?)
//! ```

mod classify;
mod fetch;
mod guard;
mod headers;
mod kind;
mod resolve;
mod run;
mod target;
#[cfg(test)]
mod tests;

pub use guard::Guard;
pub use target::host_port;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::model::{Failure, StoredObject, TaskRef, TaskSpec};
use crate::objects::{self, Objects, Place};

/// What operators set about downloads (config `worker:`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Name resolution, connection and TLS together.
    pub connect_timeout_ms: u64,
    /// Silence of an origin, before its headers or between two pieces of its body.
    pub idle_timeout_ms: u64,
    /// An origin that stays below this over a minute of waiting is given up.
    pub bytes_per_second_min: u64,
    /// The largest body of any resource; a resource may ask for less, not for more.
    pub max_bytes: u64,
    pub redirects_max: u32,
    /// Sent unless a manifest brings its own.
    pub user_agent: String,
    /// Networks (CIDR) that downloads may reach although they are not public. Empty: none.
    pub allow_networks: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 10_000,
            idle_timeout_ms: 30_000,
            bytes_per_second_min: 100,
            max_bytes: 5 * 1024 * 1024 * 1024,
            redirects_max: 5,
            user_agent: concat!("fetchbox/", env!("CARGO_PKG_VERSION")).into(),
            allow_networks: Vec::new(),
        }
    }
}

impl Options {
    /// The first thing wrong, as `key: why`.
    pub fn check(&self) -> Result<(), String> {
        Guard::new(&self.allow_networks).map_err(|error| format!("worker.allow_networks: {error}"))?;
        for (name, value) in [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
            ("max_bytes", self.max_bytes),
        ] {
            if value == 0 {
                return Err(format!("worker.{name}: must be greater than 0"));
            }
        }
        if self.redirects_max > 20 {
            return Err("worker.redirects_max: must be at most 20".into());
        }
        if http::HeaderValue::from_str(&self.user_agent).is_err() {
            return Err("worker.user_agent: cannot be sent as a header".into());
        }
        Ok(())
    }
}

/// One attempt to run.
#[derive(Debug, Clone)]
pub struct Assignment {
    pub task: TaskRef,
    pub epoch: u64,
    pub attempt: u32,
    pub spec: TaskSpec,
    pub place: Place,
}

#[derive(Debug, Clone)]
pub enum Outcome {
    Stored(StoredObject),
    Failed {
        failure: Failure,
        /// What the other side asked for.
        retry_after: Option<Duration>,
    },
    /// Stopped from outside before it ended; nothing is known against the resource.
    Released,
}

/// What a running attempt must ask or tell the queue. Each call returns when it is durable.
#[async_trait]
pub trait Progress: Send + Sync {
    /// Whether the lease still holds: asked before an object is completed.
    async fn still_mine(&self) -> bool;
    async fn upload_begun(&self, place: &Place, upload_id: &str) -> Result<(), LeaseLost>;
    async fn upload_ended(&self, place: &Place, upload_id: &str);
}

#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the lease is no longer held")]
pub struct LeaseLost;

/// Permission to talk to a host. `host` is normalised `host:port`.
#[async_trait]
pub trait HostGate: Send + Sync {
    /// Waits for a place; the place is free again when the permit is dropped.
    async fn enter(&self, host: &str) -> Permit;
    /// The host asked for a pause.
    fn throttled(&self, host: &str, wait: Duration);
}

/// Held while a request to a host runs. Carries whatever its giver wants dropped at the end.
pub struct Permit(pub Option<Box<dyn std::any::Any + Send + Sync>>);

/// Cheap to clone; all clones share one connection pool.
#[derive(Clone)]
pub struct Worker {
    options: Arc<Options>,
    guard: Arc<Guard>,
    client: reqwest::Client,
    objects: Objects,
    clock: Clock,
}

impl Worker {
    /// The error is for the operator: which setting, and why.
    pub fn new(options: Options, objects: Objects, clock: Clock) -> Result<Self, String> {
        options.check()?;
        objects::install_tls_provider();
        let guard = Arc::new(Guard::new(&options.allow_networks)?);
        let client = fetch::client(&options, guard.clone())?;
        Ok(Self { options: Arc::new(options), guard, client, objects, clock })
    }
}
