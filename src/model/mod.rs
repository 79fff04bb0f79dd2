//! The nouns of FetchBox and their state machines.
//!
//! Owns: identifiers, manifests and their limits, jobs, tasks, failures, log records, refusals. Everything here is plain data and
//! pure functions: same input, same answer.
//! Must not know: files, sockets, clocks, threads, any wire or storage encoding.

mod failure;
mod id;
mod job;
mod log;
mod manifest;
mod output;
mod redact;
mod refusal;
mod select;
pub mod series;
mod task;
mod way;

pub use failure::{Budget, Failure, FailureCode, RetryClass};
pub use id::{DeadLetterId, JobId, JobType, TaskIndex, TaskRef, Tenant};
pub use job::{Job, JobState, Priority, outcome_of};
pub use log::{LogLevel, LogRecord, LogStream, NewLog};
pub use manifest::{
    HEADER_BYTES_MAX, HEADERS_MAX, Header, MANIFEST_BYTES_MAX, Manifest, ProxyHint, RESOURCE_ID_BYTES_MAX,
    RESOURCES_MAX, Resource, StorageHint, StorageLayout, URL_BYTES_MAX,
};
pub use output::{JobName, NewOutput, OutputKind, OutputRecord, OutputShare};
pub use redact::{clean_text, shown_url};
pub use refusal::{Refusal, RefusalCode, Violation};
pub use select::{Cleanup, CleanupKind, CleanupReport, ControlChange, Controls, DeadLetter, DeadLetterSelector};
pub use task::{Attempt, StoredObject, Task, TaskSpec, TaskState, Validators};
pub use way::{Way, grouped};
