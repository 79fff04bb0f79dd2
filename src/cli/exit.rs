//! How a verb ends: the exit code, and the words on stderr.
//!
//! Owns: the table of exit codes and the mapping of every error to one of them. Must not know: the verbs.

use std::fmt;
use std::io;

/// What scripts and service managers see. Numbers as in sysexits.h where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Ok = 0,
    /// Done, and the answer is no: a job that failed, a refused request.
    Failed = 1,
    Usage = 64,
    /// The data directory does not hold what was acknowledged.
    Damaged = 65,
    /// Try again later: unreachable, locked, port in use, overloaded.
    Temporary = 75,
    /// The configuration or the machine's set-up is wrong.
    Config = 78,
}

/// Why a verb did not do what it was asked.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    /// What and where.
    pub message: String,
    /// What to do about it; empty when nothing is known.
    pub hint: String,
}

pub type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string(), hint: String::new() }
    }

    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Ends with this code and says nothing: everything has been said.
    pub fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            return Ok(());
        }
        write!(f, "fetchbox: {}", self.message)?;
        for line in self.hint.lines() {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

/// Output errors. A reader that has seen enough (`| head`) is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::silent(Exit::Ok),
            _ => Self::failed(format_args!("writing the output: {error}")),
        }
    }
}
