//! Which files there are, and where they stand.
//!
//! Owns: names of folders and files, finding them in a tree. Must not know: what stands in a file.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::model::JobName;
use crate::proto::joblet::{ipc, persist};

/// One of the files that a job may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    Stdout,
    Stderr,
    Metrics,
    Exec,
    Connect,
    File,
    Accept,
    SocketData,
    Mmap,
    Mprotect,
}

impl FileKind {
    pub const ALL: [FileKind; 10] = [
        FileKind::Stdout,
        FileKind::Stderr,
        FileKind::Metrics,
        FileKind::Exec,
        FileKind::Connect,
        FileKind::File,
        FileKind::Accept,
        FileKind::SocketData,
        FileKind::Mmap,
        FileKind::Mprotect,
    ];

    pub fn folder(self) -> &'static str {
        match self {
            FileKind::Stdout | FileKind::Stderr => "logs",
            FileKind::Metrics => "metrics",
            FileKind::Exec
            | FileKind::Connect
            | FileKind::File
            | FileKind::Accept
            | FileKind::SocketData
            | FileKind::Mmap
            | FileKind::Mprotect => "events",
        }
    }

    pub fn file_name(self) -> &'static str {
        match self {
            FileKind::Stdout => "stdout.log.gz",
            FileKind::Stderr => "stderr.log.gz",
            FileKind::Metrics => "metrics.jsonl.gz",
            FileKind::Exec => "exec_events.jsonl.gz",
            FileKind::Connect => "connect_events.jsonl.gz",
            FileKind::File => "file_events.jsonl.gz",
            FileKind::Accept => "accept_events.jsonl.gz",
            FileKind::SocketData => "socket_data_events.jsonl.gz",
            FileKind::Mmap => "mmap_events.jsonl.gz",
            FileKind::Mprotect => "mprotect_events.jsonl.gz",
        }
    }

    fn of_file(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.file_name() == name)
    }

    /// Of a log: which stream. The file says it: joblet puts whatever is not standard output into the other one.
    pub fn stream(self) -> persist::StreamType {
        match self {
            FileKind::Stdout => persist::StreamType::Stdout,
            FileKind::Stderr => persist::StreamType::Stderr,
            FileKind::Metrics
            | FileKind::Exec
            | FileKind::Connect
            | FileKind::File
            | FileKind::Accept
            | FileKind::SocketData
            | FileKind::Mmap
            | FileKind::Mprotect => persist::StreamType::Unspecified,
        }
    }

    pub fn message_type(self) -> ipc::MessageType {
        match self {
            FileKind::Stdout | FileKind::Stderr => ipc::MessageType::Log,
            FileKind::Metrics => ipc::MessageType::Metric,
            FileKind::Exec => ipc::MessageType::ExecEvent,
            FileKind::Connect => ipc::MessageType::ConnectEvent,
            FileKind::File => ipc::MessageType::FileEvent,
            FileKind::Accept => ipc::MessageType::AcceptEvent,
            FileKind::SocketData => ipc::MessageType::SocketDataEvent,
            FileKind::Mmap => ipc::MessageType::MmapEvent,
            FileKind::Mprotect => ipc::MessageType::MprotectEvent,
        }
    }
}

/// The folders below the one that is named on the command line.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

/// What one job has of one kind. Two files where an early joblet put events beside the logs, and a later one went on elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub job: JobName,
    pub kind: FileKind,
    pub paths: Vec<PathBuf>,
}

/// Something in the tree that is none of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oddity {
    pub path: PathBuf,
    pub why: &'static str,
}

/// By job, then by kind.
#[derive(Debug, Default)]
pub struct Found {
    pub sources: Vec<Source>,
    pub odd: Vec<Oddity>,
}

impl Tree {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where a job's file of a kind is written.
    pub fn place(&self, job: &JobName, kind: FileKind) -> PathBuf {
        self.root.join(kind.folder()).join(job.as_str()).join(kind.file_name())
    }

    /// Looks through all three folders; those that are missing are empty.
    ///
    /// # Errors
    /// None of the three can be read.
    pub fn find(&self) -> io::Result<Found> {
        let mut odd = Vec::new();
        let mut jobs: BTreeSet<JobName> = BTreeSet::new();
        let mut folders = Vec::new();
        let mut any = false;
        // Events last: what an early version left among the logs is the older part.
        for name in ["logs", "metrics", "events"] {
            let folder = self.root.join(name);
            let entries = match std::fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", folder.display()))),
            };
            any = true;
            for entry in entries {
                let entry = entry?;
                let path = entry.path();
                match entry.file_name().to_str().and_then(JobName::parse) {
                    _ if !entry.file_type()?.is_dir() => odd.push(Oddity { path, why: "is no folder" }),
                    None => odd.push(Oddity { path, why: "is no job's name" }),
                    Some(job) => {
                        jobs.insert(job);
                    }
                }
            }
            folders.push(folder);
        }
        if !any {
            let why = format!("{} has none of the folders logs, metrics and events", self.root.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        let mut sources = Vec::new();
        for job in jobs {
            let mut files: BTreeMap<FileKind, Vec<PathBuf>> = BTreeMap::new();
            for folder in &folders {
                of_job(&folder.join(job.as_str()), &mut files, &mut odd)?;
            }
            sources.extend(files.into_iter().map(|(kind, paths)| Source { job: job.clone(), kind, paths }));
        }
        odd.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(Found { sources, odd })
    }
}

fn of_job(folder: &Path, files: &mut BTreeMap<FileKind, Vec<PathBuf>>, odd: &mut Vec<Oddity>) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", folder.display()))),
    };
    for entry in entries {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        match FileKind::of_file(&name) {
            // An export that was broken off leaves its temporary file.
            None if name.starts_with('.') => {}
            None => odd.push(Oddity { path, why: "is none of the files a job has" }),
            // A link may lead anywhere.
            Some(_) if !entry.file_type()?.is_file() => odd.push(Oddity { path, why: "is no plain file" }),
            Some(kind) => files.entry(kind).or_default().push(path),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(root: &Path, path: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }

    #[test]
    fn every_file_has_its_own_place() {
        let tree = Tree::new(Path::new("/x"));
        let job = JobName::parse("j-1").unwrap();
        let places: BTreeSet<_> = FileKind::ALL.into_iter().map(|kind| tree.place(&job, kind)).collect();
        assert_eq!(places.len(), FileKind::ALL.len());
        assert_eq!(tree.place(&job, FileKind::Stderr), Path::new("/x/logs/j-1/stderr.log.gz"));
        assert_eq!(tree.place(&job, FileKind::SocketData), Path::new("/x/events/j-1/socket_data_events.jsonl.gz"));
    }

    #[test]
    fn whatever_is_no_file_of_a_job_is_named_and_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        touch(root, "logs/a/stdout.log.gz");
        touch(root, "logs/a/exec_events.jsonl.gz");
        touch(root, "events/a/exec_events.jsonl.gz");
        touch(root, "metrics/b/metrics.jsonl.gz");
        touch(root, "logs/a/.stdout.log.gz.part");
        touch(root, "logs/a/core.17");
        touch(root, "logs/..hidden/stdout.log.gz");
        touch(root, "logs/plain");
        std::os::unix::fs::symlink("/etc/passwd", root.join("logs/a/stderr.log.gz")).unwrap();
        let found = Tree::new(root).find().unwrap();
        let seen: Vec<_> =
            found.sources.iter().map(|source| (source.job.as_str(), source.kind, source.paths.len())).collect();
        assert_eq!(seen, [("a", FileKind::Stdout, 1), ("a", FileKind::Exec, 2), ("b", FileKind::Metrics, 1)]);
        assert!(found.sources[1].paths[0].starts_with(root.join("logs")), "the older part first");
        let odd: Vec<_> = found.odd.iter().map(|odd| odd.path.strip_prefix(root).unwrap().to_str().unwrap()).collect();
        assert_eq!(odd, ["logs/..hidden", "logs/a/core.17", "logs/a/stderr.log.gz", "logs/plain"]);
    }

    #[test]
    fn a_folder_that_is_no_export_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Tree::new(dir.path()).find().unwrap_err().to_string().contains("logs, metrics and events"));
    }
}
