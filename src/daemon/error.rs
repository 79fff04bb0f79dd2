//! Why a daemon did not start, or did not end well.
//!
//! Owns: the kinds a caller must tell apart. Must not know: exit codes' numbers; the command line maps kinds to them.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartErrorKind {
    /// The data directory does not hold what was acknowledged.
    Damaged,
    /// Locked or in use: the same start can succeed later.
    Temporary,
    /// Configuration, permissions, paths: somebody has to change something.
    SetUp,
}

/// A daemon that did not start. Nothing of it is left running.
#[derive(Debug, Clone)]
pub struct StartError {
    pub kind: StartErrorKind,
    /// What and where, in one sentence.
    pub message: String,
}

impl StartError {
    pub fn new(kind: StartErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StartError {}
