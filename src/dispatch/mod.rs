//! The dispatcher: who runs when.
//!
//! Owns: the ready window, leases, per-host limits, backoff, settling, finalize, cancel, retry, replay, control.
//! Must not know: how a download works, how rows look, any wire.

use crate::model::{ControlChange, Controls, DeadLetterSelector, Job, JobId, Refusal};

#[derive(Debug, Clone)]
pub struct Options {}

/// What operators and health ask about.
#[derive(Debug, Clone, Default)]
pub struct Status {
    pub in_flight: u64,
    /// Age of the oldest task that could start.
    pub lag_ms: u64,
    /// Why storage is parked; empty while it works.
    pub storage_alarm: String,
    /// Unix ms of the loop's last turn: stands still when the dispatcher hangs.
    pub last_turn_ms: i64,
}

#[derive(Debug, Clone, Default)]
pub struct ReplayReport {
    pub matched: u32,
    pub replayed: u32,
    pub jobs: Vec<JobId>,
}

/// Clonable handle.
#[derive(Clone)]
pub struct Dispatch {}

impl Dispatch {
    pub async fn cancel(&self, _job: JobId, _reason: String) -> Result<Job, Refusal> {
        todo!()
    }
    pub async fn retry(&self, _job: JobId, _resource_ids: Vec<String>) -> Result<(Job, u32), Refusal> {
        todo!()
    }
    pub async fn replay(&self, _selector: DeadLetterSelector) -> Result<ReplayReport, Refusal> {
        todo!()
    }
    pub async fn control(&self, _change: ControlChange) -> Result<Controls, Refusal> {
        todo!()
    }
    pub fn status(&self) -> Status {
        todo!()
    }
}
