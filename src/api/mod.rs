//! The doors: bytes ↔ model.
//!
//! ```text
//! ipc   u32 frames on a Unix socket ─┐
//! grpc  every service of proto/     ─┼─▶ convert ─▶ ingest · ledger · dispatch · retention
//! http  /metrics, /health           ─┘      errors ◀─ Refusal
//! ```
//! Owns: framing, back-pressure towards clients, translation of requests, answers and refusals, limits on connections.
//! Must not know: the store, rows, handlers, how anything is decided. A new transport is a new file here and nothing else.

mod answer;
mod append;
mod convert;
mod door;
mod errors;
pub mod frame;
pub mod grpc;
mod grpc_health;
mod grpc_job;
mod grpc_joblet;
mod grpc_ledger;
mod grpc_persist;
mod health;
pub mod http;
pub mod incoming;
pub mod ipc;
pub mod joblet;
mod pages;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use health::{Check, Health};

use crate::clock::Clock;
use crate::dispatch::Dispatch;
use crate::ingest::Ingest;
use crate::ledger::Ledger;
use crate::model::{JobId, JobName, JobType, Refusal, RefusalCode, TaskSpec};
use crate::retention::Retention;
use crate::telemetry::Metrics;

/// Limits of every door. The daemon's configuration says which doors are open and where.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    pub ipc: ipc::Options,
    pub joblet: joblet::Options,
    pub grpc: grpc::Options,
    pub http: http::Options,
}

/// The handles every door works through. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    pub ingest: Ingest,
    pub ledger: Ledger,
    pub dispatch: Dispatch,
    pub retention: Retention,
    pub metrics: Metrics,
    pub clock: Clock,
    pub health: Health,
    pub places: Places,
}

impl Api {
    /// Whether new work would be taken now.
    pub(crate) fn serving(&self) -> bool {
        self.ingest.is_open() && self.ledger.fault().is_none() && !self.ledger.controls().draining
    }

    /// The job that a client calls so: our own id, or the name another program gave it. Every door reads every job id here.
    ///
    /// # Errors
    /// NOT_FOUND when there is no such job, INVALID_PAYLOAD with `path` when the text can be neither.
    pub(crate) fn job_id(&self, path: &str, text: &str) -> Result<JobId, Refusal> {
        if text.is_empty() {
            return Err(Refusal::invalid(path, "is required"));
        }
        if text.parse::<JobId>().is_err() && JobName::parse(text).is_none() {
            return Err(Refusal::invalid(path, "is no job's id: a lower-case UUID with hyphens, or the name of a job"));
        }
        let unknown = || Refusal { job_id: text.to_owned(), ..Refusal::not_found(format!("job {text}")) };
        self.ledger.find_job(text)?.ok_or_else(unknown)
    }

    /// The same where something may be left of a job that is gone, its dead letters for instance.
    pub(crate) fn job_id_of_old(&self, path: &str, text: &str) -> Result<JobId, Refusal> {
        let found = self.job_id(path, text);
        match (&found, text.parse()) {
            (Err(refusal), Ok(id)) if refusal.code == RefusalCode::NotFound => Ok(id),
            (_, _) => found,
        }
    }

    /// The readiness checks, shown on `service_ready` as well.
    pub(crate) async fn readiness(&self) -> Vec<Check> {
        let checks = self.health.ready().await;
        for check in &checks {
            self.metrics.service_ready.with_label_values(&[check.name.as_str()]).set(i64::from(check.ok));
        }
        checks
    }
}

/// Where the object of a task goes: bucket and key. Only the handlers' rules know, so the daemon passes them in.
#[derive(Clone)]
pub struct Places(Arc<PlaceFn>);

type PlaceFn = dyn Fn(&TaskSpec, &JobType, JobId) -> (String, String) + Send + Sync;

impl Places {
    pub fn new(place: impl Fn(&TaskSpec, &JobType, JobId) -> (String, String) + Send + Sync + 'static) -> Self {
        Self(Arc::new(place))
    }

    pub(crate) fn of(&self, spec: &TaskSpec, job_type: &JobType, job: JobId) -> (String, String) {
        (self.0)(spec, job_type, job)
    }
}
