//! In place of joblet-persist: by its name, with joblet's own file, on its sockets, and gone when joblet wants it gone.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fetchbox::client::{Addr, Client};
use fetchbox::proto::joblet::persist as pb;
use futures_util::StreamExt as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::harness::joblet::{Sender, chunk};
use crate::harness::{binary, eventually, in_time};

/// joblet's core kills what has not ended by then.
const CORE_WAITS: Duration = Duration::from_secs(10);

struct Installed {
    dir: tempfile::TempDir,
}

impl Installed {
    /// As joblet is: `bin/persist` beside `config/`, with sections that are not ours.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("bin")).unwrap();
        std::fs::create_dir_all(at("config")).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_fetchbox"), at("bin/persist")).unwrap();
        let root = dir.path().display();
        let text = format!(
            "version: \"3.0\"\nserver: {{address: 0.0.0.0, port: 50051}}\nipc:\n  enabled: true\n  socket: {root}/run/ipc.sock\n\
             security:\n  serverKey: |\n    -----BEGIN\n    x\n    -----END\npersist:\n  server:\n    grpc_socket: {root}/run/grpc.sock\n    \
             shard: 7\n  storage:\n    type: local\n    local:\n      logs: {{directory: {root}/logs}}\n  retention: {{logs_days: 3}}\n"
        );
        std::fs::write(at("config/joblet-config.yml"), text).unwrap();
        Self { dir }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.at("bin/persist"));
        command.env_clear().current_dir(self.dir.path()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn start(&self) -> Child {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(std::fs::File::create(self.at("stderr")).unwrap());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        in_time("the ready line", stdout.read_line(&mut line)).await.unwrap();
        assert!(line.starts_with("fetchbox ready"), "{line}{}", std::fs::read_to_string(self.at("stderr")).unwrap());
        // Nobody reads any further, as it is with joblet's core.
        drop(stdout);
        child
    }

    async fn client(&self) -> Client {
        Client::connect(Addr::Unix(self.at("run/grpc.sock"))).await.unwrap()
    }
}

async fn stop(mut child: Child) {
    let pid = rustix::process::Pid::from_raw(child.id().unwrap() as i32).unwrap();
    let began = Instant::now();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = in_time("the exit", child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() < CORE_WAITS, "joblet would have killed it: {:?}", began.elapsed());
}

async fn contents(client: &Client, job: &str) -> Vec<Vec<u8>> {
    let request = pb::QueryLogsRequest { job_uuid: job.to_owned(), ..Default::default() };
    let lines = client.persist().query_logs(request).await.unwrap();
    lines.map(|line| line.unwrap().content).collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn joblets_core_finds_its_persist_service_and_gets_its_output_back() {
    let installed = Installed::new();
    let child = installed.start().await;
    let client = installed.client().await;
    assert!(client.persist().ping(pb::PingRequest {}).await.unwrap().healthy);
    let mut core = Sender::connect(&installed.at("run/ipc.sock")).await;
    core.send(&chunk("job-1", false, 0, &b"hello from a job\n"[..])).await;
    let stored = eventually("the record", || async {
        let found = contents(&client, "job-1").await;
        (!found.is_empty()).then_some(found)
    });
    assert_eq!(stored.await, [b"hello from a job\n"]);

    let data = installed.at("fetchbox");
    assert!(data.join("db").is_dir(), "kept beside joblet's own folders");
    let sockets: Vec<_> =
        std::fs::read_dir(data.join("run")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(sockets.is_empty(), "no other door is open: {sockets:?}");
    // What arrives just before the signal is kept as well.
    core.send(&chunk("job-1", false, 1, &b"last words\n"[..])).await;
    stop(child).await;
    let told = std::fs::read_to_string(installed.at("stderr")).unwrap();
    assert!(told.contains("persist.server.shard"), "a key nobody knows is named: {told}");

    let child = installed.start().await;
    let kept = contents(&installed.client().await, "job-1").await;
    assert_eq!(kept, [&b"hello from a job\n"[..], b"last words\n"]);
    stop(child).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_says_something_impossible_is_refused_with_its_line() {
    let installed = Installed::new();
    let file = installed.at("wrong.yml");
    std::fs::write(&file, "persist:\n  ipc:\n    max_message_size: lots\n").unwrap();
    for flag in ["-config", "--config"] {
        let output = in_time("the exit", installed.command().arg(flag).arg(&file).output()).await.unwrap();
        assert_eq!(output.status.code(), Some(78));
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("wrong.yml:3:"), "{told}");
    }
    let missing = in_time("the exit", installed.command().arg("-config=nowhere.yml").output()).await.unwrap();
    assert_eq!(missing.status.code(), Some(78), "whoever names a file means it");
    // Although the installation has one, which would be found by itself.
    let mut named = installed.command();
    named.env("JOBLET_CONFIG_PATH", installed.at("nowhere.yml"));
    let missing = in_time("the exit", named.output()).await.unwrap();
    assert_eq!(missing.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("nowhere.yml"), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_version_can_be_asked_by_either_name() {
    let installed = Installed::new();
    let by_name = in_time("the exit", installed.command().arg("version").output()).await.unwrap();
    let as_verb = in_time("the exit", binary::fetchbox().args(["persist", "version"]).output()).await.unwrap();
    assert!(by_name.status.success() && as_verb.status.success());
    assert!(String::from_utf8_lossy(&by_name.stdout).starts_with("persist version "), "{by_name:?}");
    assert_eq!(by_name.stdout, as_verb.stdout);
}
