//! The release binary as a child process on a data directory of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::process;

pub struct Server {
    child: Child,
    pub dir: PathBuf,
    /// From the spawn to the ready line.
    pub ready_after: Duration,
    keep: bool,
}

impl Server {
    /// Starts on `dir` and waits for the ready line.
    pub fn start(dir: &Path, keep: bool) -> Self {
        Self::start_with(dir, keep, &[])
    }

    /// The same with more of the configuration set, as the environment sets it.
    pub fn start_with(dir: &Path, keep: bool, settings: &[(String, String)]) -> Self {
        let begun = Instant::now();
        let mut child = Command::new(binary())
            .args(["serve", "--data-dir"])
            .arg(dir)
            .env("FETCHBOX__LISTEN__GRPC_TCP", "off")
            .env("FETCHBOX__LISTEN__HTTP", "off")
            .env("FETCHBOX__LOG__FILTER", "warn")
            .env("FETCHBOX__HANDLERS__EXTERNAL__EXTERNAL", "true")
            // A paused queue under full load passes the default within a minute, and refusals are not what is measured.
            .env("FETCHBOX__INGEST__OPEN_TASKS_MAX", "1000000000")
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the release binary starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut lines = BufReader::new(stdout).lines();
        let ready = lines.next().and_then(Result::ok).unwrap_or_default();
        assert!(ready.contains("ready"), "no ready line: {ready:?}");
        Self { child, dir: dir.to_owned(), ready_after: begun.elapsed(), keep }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/fetchbox.sock")
    }

    pub fn grpc(&self) -> PathBuf {
        self.dir.join("run/grpc.sock")
    }

    /// Runs a verb of the command line against this daemon.
    pub fn cli(&self, args: &[&str]) {
        let status = Command::new(binary()).arg("--data-dir").arg(&self.dir).args(args).stdout(Stdio::null()).status();
        assert!(status.is_ok_and(|status| status.success()), "fetchbox {args:?}");
    }

    /// Waits until the process has written nothing for two seconds (a restart's flushes and merges have ended); returns how long
    /// that took.
    pub fn settle(&self) -> Duration {
        let written = || {
            let io = std::fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap_or_default();
            io.lines().find(|line| line.starts_with("write_bytes")).map(str::to_owned)
        };
        let begun = Instant::now();
        let (mut last, mut since) = (written(), Instant::now());
        while since.elapsed() < Duration::from_secs(2) && begun.elapsed() < Duration::from_secs(120) {
            std::thread::sleep(Duration::from_millis(100));
            let now = written();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        begun.elapsed()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident bytes now and at their highest.
    pub fn memory(&self) -> (u64, u64) {
        process::memory(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.child.wait();
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Beside this program: `target/release/fetchbox`.
pub fn binary() -> PathBuf {
    let mut path = std::env::current_exe().expect("this program has a path");
    path.pop();
    if path.ends_with("examples") {
        path.pop();
    }
    let path = path.join("fetchbox");
    assert!(path.exists(), "{} is missing: cargo build --release", path.display());
    path
}

pub fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// A fresh folder on the disk that is measured.
pub fn scratch(name: &str) -> PathBuf {
    let base = std::env::var_os("FETCHBOX_BENCH_DIR").map_or_else(|| binary().with_file_name("bench"), PathBuf::from);
    let dir = base.join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("the scratch folder can be made");
    dir
}
