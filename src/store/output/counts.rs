//! How much output jobs have beyond what their rows say. A row is not written anew with every batch: the batches themselves say it
//! until the sealer, or whoever changes the job, writes the row.
//!
//! Owns: these numbers in memory, and how a row is brought up to them. Must not know: records, who appends.
//!
//! Numbers only grow, and those here are whole, not differences: so a row that was read a moment earlier or later than its counts is
//! brought up to the larger of both.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::model::{JobId, OutputKind};
use crate::store::records::JobRow;

/// What was ever appended to one job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Behind the last ordinal given, by kind.
    ends: [u64; OutputKind::ALL.len()],
    bytes: u64,
    at_ms: i64,
}

impl Counts {
    pub fn of(row: &JobRow) -> Self {
        Self {
            ends: OutputKind::ALL.map(|kind| row.records_of(kind)),
            bytes: row.output_bytes,
            at_ms: row.output_at_ms,
        }
    }

    pub fn end(&self, kind: OutputKind) -> u64 {
        self.ends.get(kind.index()).copied().unwrap_or(0)
    }

    /// Adds records of a kind up to `end`.
    pub fn add(&mut self, kind: OutputKind, end: u64, data_bytes: u64, now_ms: i64) {
        if let Some(known) = self.ends.get_mut(kind.index()) {
            *known = end.max(*known);
        }
        self.bytes += data_bytes;
        self.at_ms = now_ms.max(self.at_ms);
    }

    /// Brings the row up to these.
    pub fn raise(&self, row: &mut JobRow) {
        for kind in OutputKind::ALL {
            if self.end(kind) > row.records_of(kind) {
                row.set_records_of(kind, self.end(kind));
            }
        }
        row.output_bytes = self.bytes.max(row.output_bytes);
        row.output_at_ms = self.at_ms.max(row.output_at_ms);
    }
}

/// The jobs whose rows are behind. One that is here is kept and not being deleted: either would have written its row.
#[derive(Debug, Default)]
pub struct LiveCounts {
    jobs: RwLock<HashMap<JobId, Counts>>,
    written: AtomicU64,
}

impl LiveCounts {
    /// To be asked before the job's row is read: what is gone from here is in the row.
    pub fn get(&self, job: JobId) -> Option<Counts> {
        self.jobs.read().unwrap_or_else(PoisonError::into_inner).get(&job).copied()
    }

    /// After a commit; None: the job's row was written, or deleted.
    pub fn take_over(&self, changed: impl IntoIterator<Item = (JobId, Option<Counts>)>) {
        let mut jobs = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        for (job, counts) in changed {
            match counts {
                Some(counts) => drop(jobs.insert(job, counts)),
                None if jobs.remove(&job).is_some() => drop(self.written.fetch_add(1, Ordering::AcqRel)),
                None => {}
            }
        }
    }

    /// Changes whenever something goes from here: what was read of many rows in between may be older than what is left.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }
}
