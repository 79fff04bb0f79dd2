//! What an import did, file by file.
//!
//! Owns: counting, what is told of problems and how many of them. Must not know: how files are read or sent.

use std::fmt;
use std::path::{Path, PathBuf};

use super::exit::Result;
use super::joblet_files::Source;
use super::out::Out;
use super::words;

/// Told of one file. The rest is counted: a file of noise has a problem on every line.
const TOLD_MAX: usize = 20;

/// Where in a file, counted from 1; 0 where it does not matter.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub path: &'a Path,
    pub member: u64,
    pub line: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    path: PathBuf,
    member: u64,
    line: u64,
    why: String,
}

#[derive(Debug)]
pub struct FileReport {
    job: String,
    path: PathBuf,
    /// Appended now.
    pub new: u64,
    /// Found in the daemon.
    pub there: u64,
    left_out: bool,
    problems: Vec<Problem>,
    problem_count: u64,
}

impl FileReport {
    pub fn new(source: &Source) -> Self {
        Self {
            job: source.job.to_string(),
            path: source.paths.first().cloned().unwrap_or_default(),
            new: 0,
            there: 0,
            left_out: false,
            problems: Vec::new(),
            problem_count: 0,
        }
    }

    pub fn problem(&mut self, at: Place<'_>, why: &dyn fmt::Display) {
        self.problem_count += 1;
        if self.problems.len() < TOLD_MAX {
            let Place { path, member, line } = at;
            self.problems.push(Problem { path: path.to_owned(), member, line, why: why.to_string() });
        }
    }

    /// The daemon has something else there: nothing more is taken from the file.
    pub fn differs(&mut self, at: Place<'_>, record: u64, how: &str) {
        self.left_out = true;
        self.problem(at, &format_args!("left out: record {record} is another one ({how})"));
    }

    fn json(&self) -> serde_json::Value {
        let problem = |p: &Problem| serde_json::json!({ "path": p.path.display().to_string(), "member": p.member, "line": p.line, "why": p.why });
        let problems: Vec<_> = self.problems.iter().map(problem).collect();
        serde_json::json!({
            "job": self.job,
            "path": self.path.display().to_string(),
            "new": self.new,
            "there": self.there,
            "leftOut": self.left_out,
            "problemCount": self.problem_count,
            "problems": problems,
        })
    }
}

#[derive(Debug, Default)]
pub struct Total {
    files: u64,
    new: u64,
    there: u64,
    problems: u64,
}

impl Total {
    pub fn is_whole(&self) -> bool {
        self.problems == 0
    }

    /// Something in the tree that was not looked into.
    pub fn odd(&mut self, path: &Path, why: &str, out: Out) -> Result {
        self.problems += 1;
        let path = path.display().to_string();
        if out.is_json() {
            return out.line(serde_json::json!({ "path": path, "leftOut": true, "why": why }));
        }
        out.line(format_args!("{}: left out: {why}", words::tame(&path)))
    }

    pub fn add(&mut self, report: &FileReport, out: Out) -> Result {
        self.files += 1;
        self.new += report.new;
        self.there += report.there;
        self.problems += report.problem_count;
        if out.is_json() {
            return out.line(report.json());
        }
        let name = words::tame(&report.path.display().to_string());
        out.line(format_args!("{name}: {} new, {} there already", report.new, report.there))?;
        for Problem { path, member, line, why } in &report.problems {
            let path = words::tame(&path.display().to_string());
            let place = if *member > 0 { format!("{path}, member {member}, line {line}") } else { path };
            out.line(format_args!("  {place}: {}", words::tame(why)))?;
        }
        let untold = report.problem_count.saturating_sub(report.problems.len() as u64);
        if untold > 0 {
            out.line(format_args!("  and {untold} more"))?;
        }
        Ok(())
    }

    pub fn tell(&self, out: Out) -> Result {
        let Total { files, new, there, problems } = self;
        if out.is_json() {
            return out.line(serde_json::json!({ "files": files, "new": new, "there": there, "problems": problems }));
        }
        let end =
            if self.is_whole() { "everything was readable".to_owned() } else { words::count(*problems, "problem") };
        let (files, new) = (words::count(*files, "file"), words::count(*new, "new record"));
        out.line(format_args!("{files}: {new}, {there} there already; {end}"))
    }
}
