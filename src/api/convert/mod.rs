//! Messages ↔ nouns. Pure.
//!
//! Owns: every field's meaning on the wire, and the checks that only the wire needs (a number that is no enum value, an id that is no
//! id). Must not know: sockets, gRPC, rooms' decisions.

mod answers;
mod logs;
mod metrics;
mod persist;
mod requests;

pub(super) use answers::*;
pub(super) use logs::*;
pub(super) use metrics::*;
pub(super) use persist::*;
pub(super) use requests::*;

use crate::model::{CleanupKind, JobState, LogLevel, LogStream, Priority};
use crate::proto::fetchbox::v1 as pb;

pub(super) fn job_state(state: JobState) -> pb::JobState {
    match state {
        JobState::Queued => pb::JobState::Queued,
        JobState::InProgress => pb::JobState::InProgress,
        JobState::Partial => pb::JobState::Partial,
        JobState::Completed => pb::JobState::Completed,
        JobState::Failed => pb::JobState::Failed,
        JobState::Canceled => pb::JobState::Canceled,
    }
}

/// None: `UNKNOWN`.
fn job_state_in(state: pb::JobState) -> Option<JobState> {
    match state {
        pb::JobState::Unknown => None,
        pb::JobState::Queued => Some(JobState::Queued),
        pb::JobState::InProgress => Some(JobState::InProgress),
        pb::JobState::Partial => Some(JobState::Partial),
        pb::JobState::Completed => Some(JobState::Completed),
        pb::JobState::Failed => Some(JobState::Failed),
        pb::JobState::Canceled => Some(JobState::Canceled),
    }
}

/// The names of `model::TaskState::name`; None: `UNKNOWN`.
fn task_state_in(state: pb::TaskState) -> Option<&'static str> {
    match state {
        pb::TaskState::Unknown => None,
        pb::TaskState::Ready => Some("ready"),
        pb::TaskState::Leased => Some("leased"),
        pb::TaskState::RetryWait => Some("retry_wait"),
        pb::TaskState::Done => Some("done"),
        pb::TaskState::Dead => Some("dead"),
        pb::TaskState::Canceled => Some("canceled"),
    }
}

fn priority(priority: Priority) -> pb::Priority {
    match priority {
        Priority::Low => pb::Priority::Low,
        Priority::Normal => pb::Priority::Normal,
        Priority::High => pb::Priority::High,
    }
}

fn priority_in(priority: pb::Priority) -> Priority {
    match priority {
        pb::Priority::Unspecified | pb::Priority::Normal => Priority::Normal,
        pb::Priority::Low => Priority::Low,
        pb::Priority::High => Priority::High,
    }
}

fn log_level(level: LogLevel) -> pb::LogLevel {
    match level {
        LogLevel::Trace => pb::LogLevel::Trace,
        LogLevel::Debug => pb::LogLevel::Debug,
        LogLevel::Info => pb::LogLevel::Info,
        LogLevel::Warn => pb::LogLevel::Warn,
        LogLevel::Error => pb::LogLevel::Error,
    }
}

fn log_level_in(level: pb::LogLevel) -> LogLevel {
    match level {
        pb::LogLevel::Trace => LogLevel::Trace,
        pb::LogLevel::Debug => LogLevel::Debug,
        pb::LogLevel::Info => LogLevel::Info,
        pb::LogLevel::Warn => LogLevel::Warn,
        pb::LogLevel::Error => LogLevel::Error,
    }
}

fn log_stream(stream: LogStream) -> pb::LogStream {
    match stream {
        LogStream::Job => pb::LogStream::Job,
        LogStream::Stdout => pb::LogStream::Stdout,
        LogStream::Stderr => pb::LogStream::Stderr,
    }
}

fn log_stream_in(stream: pb::LogStream) -> LogStream {
    match stream {
        pb::LogStream::Job => LogStream::Job,
        pb::LogStream::Stdout => LogStream::Stdout,
        pb::LogStream::Stderr => LogStream::Stderr,
    }
}

/// None: `UNSPECIFIED`.
fn cleanup_kind_in(kind: pb::CleanupKind) -> Option<CleanupKind> {
    match kind {
        pb::CleanupKind::Unspecified => None,
        pb::CleanupKind::Jobs => Some(CleanupKind::Jobs),
        pb::CleanupKind::Logs => Some(CleanupKind::Logs),
        pb::CleanupKind::Idempotency => Some(CleanupKind::Idempotency),
        pb::CleanupKind::Dlq => Some(CleanupKind::Dlq),
        pb::CleanupKind::Queue => Some(CleanupKind::Queue),
        pb::CleanupKind::Uploads => Some(CleanupKind::Uploads),
        pb::CleanupKind::Metrics => Some(CleanupKind::Metrics),
        pb::CleanupKind::Events => Some(CleanupKind::Events),
    }
}

#[cfg(test)]
mod tests;
