//! A stopped daemon's data directory: verified, or saved as far as it can be read.
//!
//! Owns: that nobody does either beside a running daemon. Must not know: how rows look.

use std::path::Path;

use super::dirs::DataDir;
use super::error::{StartError, StartErrorKind};
use crate::store::{self, CheckReport, SalvageReport};

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Everything acknowledged is there and consistent.
    pub ok: bool,
    pub summary: String,
    /// One line for each thing that is wrong or missing.
    pub findings: Vec<String>,
}

/// Verifies chain, indexes and counters. Changes nothing.
///
/// # Errors
/// `Temporary` while a daemon runs on it, `SetUp` when there is no database.
pub fn check(data_dir: &Path) -> Result<Report, StartError> {
    let _held = claim_existing(data_dir)?;
    store::check(data_dir).map(Report::from).map_err(StartError::from)
}

/// Copies what is readable into the new data directory `into`, and lists what is not.
///
/// # Errors
/// As [`check`]; `SetUp` when `into` is not empty.
pub fn salvage(data_dir: &Path, into: &Path) -> Result<Report, StartError> {
    let _held = claim_existing(data_dir)?;
    let occupied = std::fs::read_dir(into).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        let message = format!("{} is not empty; salvage writes into a new directory", into.display());
        return Err(StartError::new(StartErrorKind::SetUp, message));
    }
    store::salvage(data_dir, into).map(Report::from).map_err(StartError::from)
}

fn claim_existing(data_dir: &Path) -> Result<DataDir, StartError> {
    if !data_dir.join("db").is_dir() {
        let message = format!("{} holds no database", data_dir.display());
        return Err(StartError::new(StartErrorKind::SetUp, message));
    }
    DataDir::claim(data_dir)
}

impl From<CheckReport> for Report {
    fn from(report: CheckReport) -> Self {
        let ok = report.is_clean();
        let CheckReport { sequence, jobs, tasks_open, dead_letters, problems, problem_count, .. } = report;
        let (log_records, output_records) = (report.log_records, report.output_records);
        let verdict = if ok { "everything holds".to_owned() } else { format!("{problem_count} problems") };
        let summary = format!(
            "{verdict}: {jobs} jobs, {tasks_open} open tasks, {dead_letters} dead letters, {log_records} log lines, \
             {output_records} records of output, group {sequence}"
        );
        let mut findings = problems;
        let untold = problem_count.saturating_sub(findings.len() as u64);
        if untold > 0 {
            findings.push(format!("and {untold} more"));
        }
        Self { ok, summary, findings }
    }
}

impl From<SalvageReport> for Report {
    fn from(report: SalvageReport) -> Self {
        let SalvageReport { rows, jobs, lost } = report;
        let summary = format!("kept {jobs} jobs ({rows} rows); {} could not be kept", lost.len());
        Self { ok: lost.is_empty(), summary, findings: lost }
    }
}
