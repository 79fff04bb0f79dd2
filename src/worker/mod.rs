//! The worker: Lease in, Outcome out.
//!
//! Owns: one attempt: guard the address, fetch, digest, upload, classify. Must not know: the database, the queue, other attempts.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::model::{Failure, StoredObject, TaskRef, TaskSpec};
use crate::objects::Place;

#[derive(Debug, Clone)]
pub struct Options {}

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

#[derive(Clone)]
pub struct Worker {}

impl Worker {
    /// Runs one attempt to its end. Never panics outward; never holds more than its stated buffers.
    pub async fn run(
        &self,
        _assignment: Assignment,
        _progress: &dyn Progress,
        _gate: &dyn HostGate,
        _stop: CancellationToken,
    ) -> Outcome {
        todo!()
    }
    /// Stores a job's manifest (JSON). Storage errors only; the caller retries for ever.
    pub async fn store_manifest(&self, _place: Place, _json: Bytes) -> Outcome {
        todo!()
    }
}
