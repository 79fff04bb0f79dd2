//! Retention: what may be deleted and when, and the sweep that does it in bounded steps.
//!
//! Owns: policy (pure, takes now), sweep, cleanup by request, delete, purge. Must not know: how rows look, any wire.

use crate::model::{Cleanup, CleanupReport, DeadLetterSelector, JobId, Refusal};

#[derive(Debug, Clone)]
pub struct Options {}

/// Clonable handle.
#[derive(Clone)]
pub struct Retention {}

impl Retention {
    pub async fn cleanup(&self, _cleanup: Cleanup) -> Result<CleanupReport, Refusal> {
        todo!()
    }
    /// Terminal jobs only. Returns how many objects were deleted.
    pub async fn delete_job(&self, _job: JobId, _objects_too: bool) -> Result<u32, Refusal> {
        todo!()
    }
    /// (matched, purged)
    pub async fn purge(&self, _selector: DeadLetterSelector) -> Result<(u32, u32), Refusal> {
        todo!()
    }
}
