//! The real binary as a process of its own: started, killed, asked to stop, started again on what is left.
//!
//! Owns: the process and its data directory. Must not know: what the test does with it.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use fetchbox::client::ipc::IpcClient;
use fetchbox::client::{Addr, Client, Options};
use fetchbox::config::Config;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::in_time;

/// Where a daemon lives between its lives.
pub struct Home {
    dir: tempfile::TempDir,
    pub config: Config,
}

/// A daemon that ended without becoming ready.
#[derive(Debug)]
pub struct NotStarted {
    /// None: by a signal.
    pub code: Option<i32>,
    pub stderr: String,
}

pub struct Binary {
    child: Child,
    data: PathBuf,
    stderr: PathBuf,
    pub ready_line: String,
}

impl Home {
    pub fn new() -> Home {
        let dir = tempfile::tempdir().unwrap();
        let config = super::config(&dir.path().join("d"));
        Home { dir, config }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.config.data_dir.clone()
    }

    pub fn objects(&self) -> PathBuf {
        self.data_dir().join("objects")
    }

    fn config_file(&self) -> PathBuf {
        let file = self.dir.path().join("fetchbox.yml");
        std::fs::write(&file, serde_yaml::to_string(&self.config).unwrap()).unwrap();
        file
    }

    pub async fn start(&self) -> Binary {
        self.try_start().await.unwrap_or_else(|ended| panic!("the daemon did not start: {ended:?}"))
    }

    pub async fn try_start(&self) -> Result<Binary, NotStarted> {
        let stderr = self.dir.path().join("stderr");
        let mut command = fetchbox();
        command.arg("serve").arg("--config").arg(self.config_file());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(std::fs::File::create(&stderr).unwrap());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let mut ready_line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        in_time("the ready line", stdout.read_line(&mut ready_line)).await.unwrap();
        if ready_line.is_empty() {
            let status = in_time("the exit", child.wait()).await.unwrap();
            let stderr = std::fs::read_to_string(&stderr).unwrap_or_default();
            return Err(NotStarted { code: status.code(), stderr });
        }
        Ok(Binary { child, data: self.data_dir(), stderr, ready_line })
    }

    /// A verb that talks to this daemon, or works on its stopped data directory.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = fetchbox();
        command.arg("--config").arg(self.config_file()).args(arguments).stdin(Stdio::null());
        in_time("the verb", command.output()).await.unwrap()
    }
}

/// The binary under test, with nothing of the caller's environment that could change it.
pub fn fetchbox() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fetchbox"));
    let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FETCHBOX"));
    for (name, _) in ours {
        command.env_remove(name);
    }
    command.env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM");
    command
}

impl Binary {
    pub async fn client(&self) -> Client {
        Client::connect(Addr::Unix(self.data.join("run/grpc.sock"))).await.unwrap()
    }

    pub async fn ipc(&self) -> IpcClient {
        IpcClient::connect(self.ipc_path(), &Options::default()).await.unwrap()
    }

    pub fn ipc_path(&self) -> PathBuf {
        self.data.join("run/fetchbox.sock")
    }

    pub fn joblet_path(&self) -> PathBuf {
        self.data.join("run/persist-ipc.sock")
    }

    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// kill -9, and wait until it is gone.
    pub async fn kill(mut self) {
        self.child.start_kill().unwrap();
        in_time("the kill", self.child.wait()).await.unwrap();
    }

    /// SIGTERM: exit code and how long it took.
    pub async fn terminate(mut self) -> (Option<i32>, Duration) {
        let began = Instant::now();
        self.signal(rustix::process::Signal::TERM);
        let status = in_time("the drain", self.child.wait()).await.unwrap();
        (status.code(), began.elapsed())
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("it runs"), signal).unwrap();
    }

    /// Resident memory now, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most that ever was resident, in bytes.
    pub fn resident_most_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}
