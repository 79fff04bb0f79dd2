//! Handlers: what a job type does with a manifest.
//!
//! Owns: the `JobHandler` trait, the registry by job type, default and gallery handlers, object places.
//! Must not know: the database, the network, who submitted.

use async_trait::async_trait;
use std::collections::BTreeMap;

use crate::model::{Header, Job, JobType, Manifest, ProxyHint, TaskSpec};

/// Settings of one job type (config `handlers.{job_type}`).
#[derive(Debug, Clone, Default)]
pub struct TypeSettings {
    pub handler: String,
    pub external: bool,
    pub headers: Vec<Header>,
    pub bucket: Option<String>,
    pub key_prefix: Option<String>,
    pub proxy: Option<ProxyHint>,
}

/// Hooks of a job type. Errors refuse the job (prepare, build) or are retried (finalize).
#[async_trait]
pub trait JobHandler: Send + Sync {
    /// Looks at the manifest before anything is planned, and may change it.
    async fn prepare(&self, manifest: Manifest, settings: &TypeSettings) -> Result<Manifest, HandlerError> {
        let _ = settings;
        Ok(manifest)
    }
    /// One task for each thing to download.
    async fn build_tasks(&self, manifest: &Manifest, settings: &TypeSettings) -> Result<Vec<TaskSpec>, HandlerError>;
    /// Called at least once after the job turned terminal.
    async fn finalize(&self, job: &Job) -> Result<(), HandlerError> {
        let _ = job;
        Ok(())
    }
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct HandlerError {
    pub message: String,
    pub retryable: bool,
}

/// Job type → handler and settings.
#[derive(Clone, Default)]
pub struct Registry {}

impl Registry {
    /// None: the job type is not served.
    pub fn get(&self, _job_type: &JobType) -> Option<(std::sync::Arc<dyn JobHandler>, std::sync::Arc<TypeSettings>)> {
        todo!()
    }
}

/// `manifests/{job_type}/{job_id}/metadata.json` or the client's own layout, under the configured prefix.
pub fn manifest_key(_storage_prefix: &str, _manifest: &Manifest, _job_type: &JobType, _job: &str) -> String {
    todo!()
}
/// `resources/{job_type}/{job_id}/{resource_id}` or the task's own prefix, under the configured prefix.
pub fn resource_key(_storage_prefix: &str, _spec: &TaskSpec, _job_type: &JobType, _job: &str) -> String {
    todo!()
}

#[allow(dead_code)]
type Unused = BTreeMap<String, String>;
