//! Verbs that need no daemon: `check` and `config check`.
//!
//! Owns: what they print and how they exit. Must not know: how a data directory is read.

use std::path::PathBuf;

use super::args::{Check, Global};
use super::exit::{Exit, Failure, Result};
use super::out::Out;
use super::{connect, serve};
use crate::{config, daemon};

/// Works on a stopped daemon's data directory only: it takes the daemon's lock.
pub fn check(global: &Global, args: &Check, out: Out) -> Result {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => connect::config(global)?.data_dir,
    };
    let report = match &args.salvage {
        None => daemon::check(&dir),
        Some(into) => daemon::salvage(&dir, into),
    };
    let report = report.map_err(|error| serve::start_failure(&error))?;
    if out.is_json() {
        let findings: Vec<_> = report.findings.iter().map(|finding| serde_json::json!(finding)).collect();
        out.line(serde_json::json!({ "ok": report.ok, "summary": report.summary, "findings": findings }))?;
    } else {
        out.line(&report.summary)?;
        report.findings.iter().try_for_each(|finding| out.line(format_args!("  {finding}")))?;
    }
    if report.ok { Ok(()) } else { Err(Failure::silent(Exit::Damaged)) }
}

pub fn config_check(global: &Global, file: Option<PathBuf>, out: Out) -> Result {
    let file = file.or_else(|| global.config.clone());
    match config::load_with_secrets(file.as_deref(), std::env::vars_os()) {
        Ok(_) if out.is_json() => out.line(serde_json::json!({ "ok": true, "problems": [] })),
        Ok(_) => out.line("ok"),
        Err(invalid) if out.is_json() => {
            let problem = |p: &config::Problem| serde_json::json!({ "place": p.place, "message": p.message });
            let problems: Vec<_> = invalid.problems.iter().map(problem).collect();
            out.line(serde_json::json!({ "ok": false, "problems": problems }))?;
            Err(Failure::silent(Exit::Config))
        }
        Err(invalid) => Err(connect::bad_config(invalid)),
    }
}
