//! One attempt as its steps see it, and what it has left in the store so far.
//!
//! Owns: what the steps share. Must not know: what they do.

use std::sync::atomic::{AtomicBool, Ordering};

use super::classify::Failed;
use super::goal::Goal;
use super::{Assignment, HostGate, Progress};
use crate::objects::{Place, Upload};

/// Why an attempt ended without an object.
pub(super) enum Ended {
    Failed(Box<Failed>),
    /// The lease went to somebody else, or the attempt was stopped.
    Lost,
}

impl From<Failed> for Ended {
    fn from(failed: Failed) -> Self {
        Ended::Failed(Box::new(failed))
    }
}

/// One attempt as its steps see it.
pub(super) struct Run<'a> {
    pub(super) assignment: &'a Assignment,
    pub(super) goal: Goal,
    pub(super) progress: &'a dyn Progress,
    pub(super) gate: &'a dyn HostGate,
    pub(super) traces: &'a mut Traces,
    /// Set while the object is being made: a stop then waits a little.
    pub(super) completing: &'a AtomicBool,
}

/// What an attempt leaves in the store, kept outside of it so that it can be stopped at any point.
#[derive(Default)]
pub(super) struct Traces {
    pub(super) upload: Option<Upload>,
    /// The upload the queue knows of: this attempt's, or the one it was to go on with.
    pub(super) recorded: Option<Recorded>,
}

pub(super) struct Recorded {
    pub(super) upload_id: String,
    pub(super) place: Place,
    /// What it makes is moved to another key, and must not stay behind.
    pub(super) is_incoming: bool,
    /// A later attempt could go on with it: parts are stored, and the version of the body can be told from another.
    pub(super) can_go_on: bool,
}

impl Run<'_> {
    pub(super) fn set_completing(&self) {
        self.completing.store(true, Ordering::Relaxed);
    }
}

pub(super) fn stored_at(failed: Failed, place: &Place) -> Failed {
    failed.with("bucket", &place.bucket).with("key", &place.key)
}
