//! Handlers: what a job type does with a manifest.
//!
//! Owns: the `JobHandler` trait, the registry by job type, default and gallery handlers, object places, the stored manifest's
//! form, and the rules for URLs, headers and keys.
//! Must not know: the database, the network, who submitted.

mod default;
mod document;
mod gallery;
mod hook;
mod place;
mod registry;
pub mod rules;
mod settings;

use async_trait::async_trait;

pub use default::{DefaultHandler, plan};
pub use document::{checksum_text, manifest_json};
pub use gallery::GalleryHandler;
pub use hook::run_hook;
pub use place::{
    digest_folder, is_others_place, is_some_digests_place, is_some_jobs_place, manifest_key, resource_folder,
    resource_key, shown_key,
};
pub use registry::Registry;
pub use settings::{Options, ProxySettings, SettingsError, StorageSettings, TypeSettings};

use crate::model::{Job, Manifest, TaskSpec};

/// Hooks of a job type. Each runs within the type's `timeout_ms`; a panic counts as a retryable error.
///
/// An error of `prepare` or `build_tasks` refuses the job before anything is stored; one of `finalize` is tried again.
/// A hook must not block its thread: a limit can end only what awaits.
#[async_trait]
pub trait JobHandler: Send + Sync {
    /// Looks at the manifest before anything is planned, and may change it. What it returns is what is stored and planned; it
    /// must pass the same checks as the client's, which decide about idempotency as it came.
    async fn prepare(&self, manifest: Manifest, settings: &TypeSettings) -> Result<Manifest, HandlerError> {
        let _ = settings;
        Ok(manifest)
    }

    /// One task for each thing to download: at least one, ids unique, none at all for external types. A `key_prefix` should
    /// contain `{job_id}`, or objects of two jobs may share a key.
    async fn build_tasks(&self, manifest: &Manifest, settings: &TypeSettings) -> Result<Vec<TaskSpec>, HandlerError>;

    /// Called at least once after the job turned terminal, maybe again after a crash: effects must be idempotent.
    async fn finalize(&self, job: &Job) -> Result<(), HandlerError> {
        let _ = job;
        Ok(())
    }

    /// False promises that `prepare` returns the manifest as it came, which saves checking it a second time.
    fn changes_manifest(&self) -> bool {
        true
    }
}

/// Why a hook did not do its work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HandlerError {
    /// Reaches the client.
    pub message: String,
    /// False: the manifest is at fault, and the same one will fail again.
    pub retryable: bool,
}

impl HandlerError {
    /// The manifest is at fault: the client gets INVALID_PAYLOAD.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { message: message.into(), retryable: false }
    }

    /// May pass by itself: the client gets HANDLER_FAILED.
    pub fn retryable(message: impl Into<String>) -> Self {
        Self { message: message.into(), retryable: true }
    }
}
