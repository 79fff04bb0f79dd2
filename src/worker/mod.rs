//! The worker: Lease in, Outcome out.
//!
//! Owns: one attempt: guard the address, fetch, digest, upload, classify. Must not know: the database, the queue, other attempts.
//!
//! ```text
//! target (is this a URL we fetch?) → robots (does its site want that?) → guard, resolve (may we talk to that address?)
//!        → client (by which way?) → errand (hops, by hand) → fetch (the body, over several connections if it breaks; range)
//!        → run (digest, upload, complete) → classify (what does a failure mean?)
//! ```

mod classify;
mod client;
mod course;
mod errand;
mod fetch;
mod found;
mod goal;
mod guard;
mod headers;
mod kind;
pub mod proxy;
mod range;
mod resolve;
mod robots;
mod rules;
mod run;
mod send;
mod target;

#[cfg(test)]
mod fetch_test;
#[cfg(test)]
mod h2_test;
#[cfg(test)]
mod hostile_test;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trap_test;
#[cfg(test)]
mod way_test;

pub use guard::Guard;
pub use target::{host_part, host_port};

pub use crate::model::Validators;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::model::{Failure, StoredObject, TaskRef, TaskSpec};
use crate::objects::{self, Objects, Place};
use proxy::Proxies;

/// What operators set about downloads (config `worker:`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Name resolution, connection and TLS together.
    pub connect_timeout_ms: u64,
    /// Silence of an origin, before its headers or between two pieces of its body.
    pub idle_timeout_ms: u64,
    /// An origin that stays below this over `pace_window_ms` of waiting is given up.
    pub bytes_per_second_min: u64,
    /// The stretch of waiting over which an origin's pace is judged.
    pub pace_window_ms: u64,
    /// The largest body of any resource; a resource may ask for less, not for more.
    pub max_bytes: u64,
    pub redirects_max: u32,
    /// How often in a row, each time without 64 KiB of progress, a body that broke off is continued within one attempt.
    pub resumes_max: u32,
    /// Whether a site's robots.txt is read and obeyed.
    pub robots: bool,
    /// Sent unless a manifest brings its own.
    pub user_agent: String,
    /// Networks (CIDR) that downloads may reach although they are not public. Empty: none.
    pub allow_networks: Vec<String>,
    /// Networks (CIDR) that no download may reach, whatever else is allowed. Empty: none.
    pub deny_networks: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 10_000,
            idle_timeout_ms: 30_000,
            bytes_per_second_min: 100,
            pace_window_ms: 60_000,
            max_bytes: 5 * 1024 * 1024 * 1024,
            redirects_max: 5,
            resumes_max: 3,
            robots: false,
            user_agent: concat!("fetchbox/", env!("CARGO_PKG_VERSION")).into(),
            allow_networks: Vec::new(),
            deny_networks: Vec::new(),
        }
    }
}

impl Options {
    /// The first thing wrong, as `key: why`.
    pub fn check(&self) -> Result<(), String> {
        self.faults().into_iter().next().map_or(Ok(()), Err)
    }

    /// Everything wrong, each as `key: why`.
    pub fn faults(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, networks) in [("allow_networks", &self.allow_networks), ("deny_networks", &self.deny_networks)] {
            found.extend(guard::networks(networks).err().map(|error| format!("worker.{name}: {error}")));
        }
        for (name, value) in [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
            ("pace_window_ms", self.pace_window_ms),
            ("max_bytes", self.max_bytes),
        ] {
            if value == 0 {
                found.push(format!("worker.{name}: must be greater than 0"));
            }
        }
        if self.redirects_max > 20 {
            found.push("worker.redirects_max: must be at most 20".into());
        }
        if http::HeaderValue::from_str(&self.user_agent).is_err() {
            found.push("worker.user_agent: cannot be sent as a header".into());
        }
        found
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
    /// The daemon died during the attempt before: its object may be there already.
    pub interrupted: bool,
    /// What an earlier attempt has safely in the object store.
    pub kept: Option<Kept>,
    /// What stands at the place since an earlier job, for a task that asks to be downloaded only if it changed.
    pub known: Option<Known>,
}

/// An upload that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub begun: Begun,
    /// In order, without gaps.
    pub parts: Vec<PartStored>,
    /// The whole body was sent and its completion was asked for: its digest and size.
    pub completing: Option<Whole>,
}

/// A whole body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    pub sha256: [u8; 32],
    pub size_bytes: u64,
}

/// What is recorded of an upload when it begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Begun {
    /// S3: the multipart upload's id. Local: the stage.
    pub upload_id: String,
    /// The mark of the try that began it; it stands in the object's metadata.
    pub stage: String,
    /// Where it is sent: not the final place for an object whose key is its digest.
    pub place: Place,
    /// Every part but the last has this many bytes.
    pub part_bytes: u64,
    /// Without a strong one the upload cannot go on in a later attempt.
    pub validators: Validators,
    /// SHA-256 of the URL that the redirects ended at: the upload goes on only with a body from there. None: not recorded.
    pub landed: Option<[u8; 32]>,
    /// What the origin declared of the whole body.
    pub total_bytes: Option<u64>,
    pub content_type: String,
    pub metadata: std::collections::BTreeMap<String, String>,
}

/// One part that is safely in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartStored {
    /// From 0.
    pub index: u32,
    /// What the store calls it.
    pub part_id: String,
    /// Bytes of the body up to its end.
    pub end_bytes: u64,
    /// The SHA-256 state after these bytes, as sha2 serialises it.
    pub digest_state: Vec<u8>,
}

/// An object of an earlier job, and the version of the resource it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    pub object: StoredObject,
    pub validators: Validators,
}

#[derive(Debug, Clone)]
pub enum Outcome {
    Stored(Box<Stored>),
    Failed {
        failure: Failure,
        /// What the other side asked for.
        retry_after: Option<Duration>,
    },
    /// Stopped from outside before it ended; nothing is known against the resource.
    Released,
}

/// An object is at its place.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    pub object: StoredObject,
    pub validators: Validators,
    /// How it went: host, proxy, redirects, resumed_at, not_changed, found; for the job's log.
    pub context: std::collections::BTreeMap<String, String>,
}

/// What a running attempt must ask or tell the queue. Each call returns when it is durable.
#[async_trait]
pub trait Progress: Send + Sync {
    /// Whether the lease still holds: asked before an object is completed.
    async fn still_mine(&self) -> bool;
    async fn upload_begun(&self, begun: &Begun) -> Result<(), LeaseLost>;
    async fn part_stored(&self, upload_id: &str, part: &PartStored) -> Result<(), LeaseLost>;
    /// Before the completion is asked for: after it a later attempt can find the object and knows what it must be.
    async fn completing(&self, upload_id: &str, whole: &Whole) -> Result<(), LeaseLost>;
    /// Completed or aborted: nothing is left to continue.
    async fn upload_ended(&self, upload_id: &str);
}

#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the lease is no longer held")]
pub struct LeaseLost;

/// Permission to talk to a host. `host` is normalised `host:port`.
#[async_trait]
pub trait HostGate: Send + Sync {
    /// Waits for a place and for the host's rate; the place is free again when the permit is dropped.
    async fn enter(&self, host: &str) -> Result<Permit, NotNow>;
    /// The host is to be left alone for so long, because it said so.
    fn throttled(&self, host: &str, wait: Duration);
    /// What became of a request to it: any answer below 500 but 429 is `true`; a connection that failed or broke, a silence,
    /// a 5xx is `false`.
    fn heard(&self, host: &str, is_well: bool);
}

/// Nothing may be sent to the host now, for longer than an attempt waits.
#[derive(Debug, Clone, Copy)]
pub struct NotNow {
    pub why: WhyNot,
    /// When it is tried again.
    pub retry_after: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyNot {
    /// It is well: its own pause, its rate or its places are what must be waited for.
    Busy,
    /// It has not answered for so long.
    Down(Duration),
}

/// Held while a request to a host runs. Carries whatever its giver wants dropped at the end.
pub struct Permit(pub Option<Box<dyn std::any::Any + Send + Sync>>);

/// Cheap to clone; all clones share one connection pool.
#[derive(Clone)]
pub struct Worker {
    options: Arc<Options>,
    guard: Arc<Guard>,
    net: Arc<dyn resolve::Net>,
    /// For direct connections.
    client: reqwest::Client,
    /// Each request over a connection of its own.
    anew: reqwest::Client,
    /// Of proxies, by their number.
    clients: Arc<proxy::Clients>,
    proxies: Proxies,
    robots: Arc<robots::Robots>,
    objects: Objects,
    clock: Clock,
}

impl Worker {
    /// The error is for the operator: which setting, and why.
    pub fn new(options: Options, objects: Objects, clock: Clock) -> Result<Self, String> {
        Self::on(Arc::new(resolve::System), options, objects, clock)
    }

    fn on(net: Arc<dyn resolve::Net>, options: Options, objects: Objects, clock: Clock) -> Result<Self, String> {
        options.check()?;
        objects::install_tls_provider();
        let guard = Arc::new(Guard::new(&options.allow_networks, &options.deny_networks)?);
        let (client, anew) = client::direct(&options, &guard, &net)?;
        let robots = Arc::new(robots::Robots::new(&options.user_agent));
        let (clients, proxies) = (Arc::default(), Proxies::none());
        Ok(Self { options: Arc::new(options), guard, net, client, anew, clients, proxies, robots, objects, clock })
    }

    /// Tasks that demand a proxy get one of these.
    pub fn with_proxies(self, proxies: Proxies) -> Self {
        Self { proxies, ..self }
    }
}
