//! What a check and a salvage have to say.
//!
//! Owns: both reports. Must not know: how they come about.

/// Problems named before the list is cut.
const PROBLEMS_MAX: usize = 100;

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    pub sequence: u64,
    pub journal_batches: u64,
    pub jobs: u64,
    pub tasks_open: u64,
    pub dead_letters: u64,
    /// The jobs' own lines.
    pub log_records: u64,
    /// What jobs put out, of every kind, sealed or not.
    pub output_records: u64,
    /// Empty: everything holds. The first hundred.
    pub problems: Vec<String>,
    pub problem_count: u64,
}

impl CheckReport {
    pub fn problem(&mut self, text: impl Into<String>) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text.into());
        }
    }

    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }
}

/// What a salvage did.
#[derive(Debug, Default)]
pub struct SalvageReport {
    pub rows: u64,
    pub jobs: u64,
    /// What could not be kept, one line each.
    pub lost: Vec<String>,
}
