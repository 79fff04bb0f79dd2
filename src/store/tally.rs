//! Totals and allocators: exact after each group, written with it.
//!
//! Owns: how they are counted. Must not know: rows, groups.

use crate::model::{FailureCode, JobState};

/// Totals and allocators, small enough to be copied before each verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// By position in [`JobState::ALL`].
    pub jobs: [u64; JobState::ALL.len()],
    pub tasks_open: u64,
    pub tasks_leased: u64,
    /// By position in [`FailureCode::ALL`].
    pub dead_letters: [u64; FailureCode::ALL.len()],
    pub dead_letter_bytes: u64,
    pub next_epoch: u64,
    /// By class, high first.
    pub next_ready: [u64; 3],
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            jobs: [0; JobState::ALL.len()],
            tasks_open: 0,
            tasks_leased: 0,
            dead_letters: [0; FailureCode::ALL.len()],
            dead_letter_bytes: 0,
            next_epoch: 1,
            next_ready: [1; 3],
        }
    }
}

impl Tally {
    /// Moves a job between the state counters.
    pub fn count_state(&mut self, from: Option<JobState>, to: Option<JobState>) {
        for (state, count) in JobState::ALL.into_iter().zip(&mut self.jobs) {
            if from == Some(state) {
                *count = count.saturating_sub(1);
            }
            if to == Some(state) {
                *count += 1;
            }
        }
    }

    pub fn count_letter(&mut self, code: FailureCode, added: bool, bytes: u64) {
        if let Some(count) = self.dead_letters.get_mut(code as usize) {
            *count = if added { *count + 1 } else { count.saturating_sub(1) };
        }
        let total = &mut self.dead_letter_bytes;
        *total = if added { *total + bytes } else { total.saturating_sub(bytes) };
    }
}
