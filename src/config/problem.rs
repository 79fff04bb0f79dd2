//! What is wrong with a configuration, and where.
//!
//! Owns: how problems are told. Must not know: how they are found.

use std::fmt;

/// One mistake: where, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `fetchbox.yml:3:5`, an environment variable's name, or a key path.
    pub place: String,
    pub message: String,
}

impl Problem {
    pub fn at(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into() }
    }
}

/// A configuration nobody should run with. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    pub problems: Vec<Problem>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [one] => write!(f, "bad configuration: {}: {}", one.place, one.message),
            many => {
                write!(f, "bad configuration, {} problems:", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  {}: {}", problem.place, problem.message))
            }
        }
    }
}

impl std::error::Error for Invalid {}
