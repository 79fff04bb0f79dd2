//! The protobuf types as the verbs use them.
//!
//! Owns: their JSON text and the words of their enums. Must not know: how they travel.

use crate::client;
pub use crate::client::json::Named;
pub use crate::proto::fetchbox::v1::*;

use super::args::{KindArg, PriorityArg, StateArg};
use super::args_output::{LevelArg, StreamArg};
use super::exit::{Exit, Failure, Result};

/// One line, camelCase, zero values printed, enums by name.
pub fn json<M: Named>(message: &M) -> Result<String> {
    client::json::line(message).map_err(Failure::failed)
}

#[derive(Debug, Clone, Copy)]
pub enum Switch {
    Pause,
    Resume,
    Drain,
}

impl From<Switch> for ControlAction {
    fn from(switch: Switch) -> Self {
        match switch {
            Switch::Pause => ControlAction::Pause,
            Switch::Resume => ControlAction::Resume,
            Switch::Drain => ControlAction::Drain,
        }
    }
}

impl From<StateArg> for JobState {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Queued => JobState::Queued,
            StateArg::InProgress => JobState::InProgress,
            StateArg::Partial => JobState::Partial,
            StateArg::Completed => JobState::Completed,
            StateArg::Failed => JobState::Failed,
            StateArg::Canceled => JobState::Canceled,
        }
    }
}

impl From<PriorityArg> for Priority {
    fn from(priority: PriorityArg) -> Self {
        match priority {
            PriorityArg::Low => Priority::Low,
            PriorityArg::Normal => Priority::Normal,
            PriorityArg::High => Priority::High,
        }
    }
}

impl From<LevelArg> for LogLevel {
    fn from(level: LevelArg) -> Self {
        match level {
            LevelArg::Trace => LogLevel::Trace,
            LevelArg::Debug => LogLevel::Debug,
            LevelArg::Info => LogLevel::Info,
            LevelArg::Warn => LogLevel::Warn,
            LevelArg::Error => LogLevel::Error,
        }
    }
}

impl From<StreamArg> for LogStream {
    fn from(stream: StreamArg) -> Self {
        match stream {
            StreamArg::Job => LogStream::Job,
            StreamArg::Stdout => LogStream::Stdout,
            StreamArg::Stderr => LogStream::Stderr,
        }
    }
}

impl From<KindArg> for CleanupKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Jobs => CleanupKind::Jobs,
            KindArg::Logs => CleanupKind::Logs,
            KindArg::Idempotency => CleanupKind::Idempotency,
            KindArg::Dlq => CleanupKind::Dlq,
            KindArg::Queue => CleanupKind::Queue,
            KindArg::Uploads => CleanupKind::Uploads,
            KindArg::Metrics => CleanupKind::Metrics,
            KindArg::Events => CleanupKind::Events,
        }
    }
}

/// `JOB_STATE_IN_PROGRESS` → `in progress`. Numbers a newer daemon may send read as `unknown`.
pub fn job_state(number: i32) -> String {
    plain(JobState::try_from(number).unwrap_or_default().as_str_name(), "JOB_STATE_")
}

pub fn task_state(number: i32) -> String {
    plain(TaskState::try_from(number).unwrap_or_default().as_str_name(), "TASK_STATE_")
}

pub fn priority(number: i32) -> String {
    match Priority::try_from(number).unwrap_or_default() {
        Priority::Unspecified => "normal".to_owned(),
        known => plain(known.as_str_name(), "PRIORITY_"),
    }
}

/// `INFO`.
pub fn level(number: i32) -> &'static str {
    let name = LogLevel::try_from(number).unwrap_or(LogLevel::Info).as_str_name();
    name.strip_prefix("LOG_LEVEL_").unwrap_or(name)
}

/// `stdout`.
pub fn stream(number: i32) -> String {
    plain(LogStream::try_from(number).unwrap_or_default().as_str_name(), "LOG_STREAM_")
}

fn plain(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase().replace('_', " ")
}

pub fn is_terminal(job: &Job) -> bool {
    match job.state() {
        JobState::Unknown | JobState::Queued | JobState::InProgress => false,
        JobState::Partial | JobState::Completed | JobState::Failed | JobState::Canceled => true,
    }
}

/// How a verb that waited for a job ends: completed is the only good end.
pub fn verdict(job: &Job) -> Result {
    match job.state() {
        JobState::Completed => Ok(()),
        _ => Err(Failure::silent(Exit::Failed)),
    }
}
