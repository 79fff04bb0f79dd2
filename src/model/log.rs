//! A job's record sequence.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::JobId;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum LogLevel {
    Trace,
    Debug,
    #[default]
    Info,
    Warn,
    Error,
}

impl LogLevel {
    pub const ALL: [LogLevel; 5] = [LogLevel::Trace, LogLevel::Debug, LogLevel::Info, LogLevel::Warn, LogLevel::Error];

    pub fn name(self) -> &'static str {
        match self {
            LogLevel::Trace => "TRACE",
            LogLevel::Debug => "DEBUG",
            LogLevel::Info => "INFO",
            LogLevel::Warn => "WARN",
            LogLevel::Error => "ERROR",
        }
    }
}

/// Which of a job's streams a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum LogStream {
    #[default]
    Job,
    Stdout,
    Stderr,
}

/// A record before it has its offset.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NewLog {
    pub resource_id: String,
    pub level: LogLevel,
    pub timestamp_ms: i64,
    pub message: String,
    pub fields: BTreeMap<String, String>,
    pub trace_id: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LogRecord {
    pub job: JobId,
    /// Counts from 0 within the job, without gaps.
    pub offset: u64,
    pub stream: LogStream,
    pub entry: NewLog,
    /// What the job wrote to standard output or standard error; empty for stream `Job`.
    pub chunk: Bytes,
}
