//! Which files there are, and where they stand.
//!
//! Owns: names of folders and files, finding them in a tree. Must not know: what stands in a file.

use std::collections::BTreeMap;
use std::ffi::OsString;
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
    pub why: String,
}

impl Oddity {
    fn new(path: PathBuf, why: impl ToString) -> Self {
        Self { path, why: why.to_string() }
    }
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

    /// Looks through all three folders; those that are missing are empty. What cannot be read is odd, and the rest is found all the same.
    /// The root may be a link; below it none is followed, because it may lead anywhere.
    ///
    /// # Errors
    /// None of the three is there.
    pub fn find(&self) -> io::Result<Found> {
        let mut odd = Vec::new();
        let mut jobs: BTreeMap<JobName, Vec<PathBuf>> = BTreeMap::new();
        let mut any = false;
        // Events last: what an early version left among the logs is the older part.
        for name in ["logs", "metrics", "events"] {
            let folder = self.root.join(name);
            match std::fs::symlink_metadata(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                _ => any = true,
            }
            for (name, path) in children(&folder, &mut odd) {
                match name.to_str().and_then(JobName::parse) {
                    _ if !is(&path, std::fs::FileType::is_dir) => odd.push(Oddity::new(path, "is no folder")),
                    None => odd.push(Oddity::new(path, "is no job's name")),
                    Some(job) => jobs.entry(job).or_default().push(path),
                }
            }
        }
        if !any {
            let why = format!("{} has none of the folders logs, metrics and events", self.root.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        let mut sources = Vec::new();
        for (job, folders) in jobs {
            let mut files: BTreeMap<FileKind, Vec<PathBuf>> = BTreeMap::new();
            for folder in &folders {
                of_job(folder, &mut files, &mut odd);
            }
            sources.extend(files.into_iter().map(|(kind, paths)| Source { job: job.clone(), kind, paths }));
        }
        odd.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(Found { sources, odd })
    }
}

fn of_job(folder: &Path, files: &mut BTreeMap<FileKind, Vec<PathBuf>>, odd: &mut Vec<Oddity>) {
    for (name, path) in children(folder, odd) {
        let name = name.to_string_lossy();
        match FileKind::of_file(&name) {
            // An export that was broken off leaves its temporary file.
            None if name.starts_with('.') => {}
            None => odd.push(Oddity::new(path, "is none of the files a job has")),
            Some(_) if !is(&path, std::fs::FileType::is_file) => odd.push(Oddity::new(path, "is no plain file")),
            Some(kind) => files.entry(kind).or_default().push(path),
        }
    }
}

/// What a folder holds. A folder that is none, or cannot be read to its end, is odd.
fn children(folder: &Path, odd: &mut Vec<Oddity>) -> Vec<(OsString, PathBuf)> {
    let unreadable = |error: io::Error| Oddity::new(folder.to_owned(), format_args!("cannot be read: {error}"));
    let mut found = Vec::new();
    let mut look = || {
        if !std::fs::symlink_metadata(folder)?.is_dir() {
            return Ok(false);
        }
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            found.push((entry.file_name(), entry.path()));
        }
        Ok(true)
    };
    match look() {
        Ok(true) => {}
        Ok(false) => odd.push(Oddity::new(folder.to_owned(), "is no folder")),
        Err(error) => odd.push(unreadable(error)),
    }
    found
}

/// Of the thing itself: a link is neither file nor folder.
fn is(path: &Path, what: fn(&std::fs::FileType) -> bool) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| what(&found.file_type()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt as _;

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
    fn one_folder_that_cannot_be_read_leaves_the_rest_of_its_job_and_the_other_jobs() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        touch(root, "logs/jf");
        touch(root, "metrics/jf/metrics.jsonl.gz");
        touch(root, "logs/zz/stdout.log.gz");
        touch(root, "logs/shut/stdout.log.gz");
        touch(root, "events");
        let shut = root.join("logs/shut");
        std::fs::set_permissions(&shut, std::fs::Permissions::from_mode(0o000)).unwrap();
        // Nothing is shut for root.
        let is_root = std::fs::read_dir(&shut).is_ok();
        let found = Tree::new(root).find().unwrap();
        std::fs::set_permissions(&shut, std::fs::Permissions::from_mode(0o700)).unwrap();
        let mut seen: Vec<_> = found.sources.iter().map(|source| (source.job.as_str(), source.kind)).collect();
        seen.retain(|(job, _)| *job != "shut" || !is_root);
        assert_eq!(seen, [("jf", FileKind::Metrics), ("zz", FileKind::Stdout)]);
        let mut odd: Vec<_> = found.odd.iter().map(|odd| (odd.path.clone(), odd.why.as_str())).collect();
        if !is_root {
            let (path, why) = odd.pop().unwrap();
            assert!(path == shut && why.contains("cannot be read"), "{why}");
        }
        assert_eq!(odd, [(root.join("events"), "is no folder"), (root.join("logs/jf"), "is no folder")]);
    }

    #[test]
    fn no_link_is_followed_wherever_it_stands() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (&dir.path().join("root"), &dir.path().join("outside"));
        touch(outside, "stdout.log.gz");
        touch(outside, "js/exec_events.jsonl.gz");
        touch(root, "metrics/js/metrics.jsonl.gz");
        touch(root, "logs/other/stderr.log.gz");
        std::os::unix::fs::symlink(outside, root.join("logs/js")).unwrap();
        std::os::unix::fs::symlink(outside.join("stdout.log.gz"), root.join("logs/other/stdout.log.gz")).unwrap();
        std::os::unix::fs::symlink(outside, root.join("events")).unwrap();
        let found = Tree::new(root).find().unwrap();
        let seen: Vec<_> = found.sources.iter().map(|source| (source.job.as_str(), source.kind)).collect();
        assert_eq!(seen, [("js", FileKind::Metrics), ("other", FileKind::Stderr)]);
        let odd: Vec<_> = found.odd.iter().map(|odd| odd.path.strip_prefix(root).unwrap().to_str().unwrap()).collect();
        assert_eq!(odd, ["events", "logs/js", "logs/other/stdout.log.gz"]);
    }

    #[test]
    fn a_folder_that_is_no_export_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Tree::new(dir.path()).find().unwrap_err().to_string().contains("logs, metrics and events"));
    }
}
