//! The records of one job and kind, out of its files.
//!
//! Owns: going from file to file, and telling the report what could not be read. Must not know: who wants them.

use std::path::{Path, PathBuf};

use super::import_report::{FileReport, Place};
use super::joblet_files::{Entry, FileKind, Piece, Pieces, Source};
use crate::model::JobName;

pub struct Records {
    job: JobName,
    kind: FileKind,
    /// The next one last.
    paths: Vec<PathBuf>,
    open: Option<(PathBuf, Pieces)>,
}

impl Records {
    pub fn of(source: Source) -> Self {
        let Source { job, kind, mut paths } = source;
        paths.reverse();
        Self { job, kind, paths, open: None }
    }

    /// The next that can be read. What cannot be goes into the report.
    pub fn next(&mut self, report: &mut FileReport) -> Option<Entry> {
        loop {
            let Some((path, pieces)) = &mut self.open else {
                let path = self.paths.pop()?;
                match Pieces::open(&path) {
                    Ok(pieces) => self.open = Some((path, pieces)),
                    Err(error) => report.problem(Place { path: &path, member: 0, line: 0 }, &error),
                }
                continue;
            };
            let (kind, job) = (self.kind, &self.job);
            let entry = match pieces.next() {
                None => {
                    self.open = None;
                    continue;
                }
                Some(Piece::Line(line)) => Entry::parse(kind, job, line),
                Some(Piece::Break(torn)) => {
                    report.problem(
                        Place { path, member: torn.member, line: torn.line },
                        &format_args!("torn: {}", torn.why),
                    );
                    continue;
                }
            };
            match entry {
                Ok(entry) => return Some(entry),
                Err(bad) => {
                    let place = Place { path, member: pieces.member(), line: pieces.line() };
                    report.problem(place, &format_args!("no record: {bad}"));
                }
            }
        }
    }

    /// Where the last record stood.
    pub fn place(&self) -> Place<'_> {
        match &self.open {
            Some((path, pieces)) => Place { path, member: pieces.member(), line: pieces.line() },
            None => Place { path: Path::new(""), member: 0, line: 0 },
        }
    }
}
