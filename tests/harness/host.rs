//! A daemon in this process: the same `daemon::build` as main, on temporary sockets, with a temporary data directory.
//!
//! Owns: starting, stopping and restarting it. Must not know: its rooms.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fetchbox::client::ipc::IpcClient;
use fetchbox::client::{Addr, Client, Options};
use fetchbox::config::Config;
use fetchbox::daemon::{self, Addresses, Ended, Listeners, StartError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::in_time;

pub struct Host {
    dir: tempfile::TempDir,
    config: Config,
    running: Option<Running>,
}

struct Running {
    addresses: Addresses,
    stop: CancellationToken,
    task: JoinHandle<Ended>,
}

impl Host {
    pub async fn start(change: impl FnOnce(&mut Config)) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let mut config = super::config(&dir.path().join("d"));
        change(&mut config);
        let mut host = Host { dir, config, running: None };
        host.resume().await;
        host
    }

    /// Starts it again where it stood.
    pub async fn resume(&mut self) {
        self.try_resume().await.unwrap_or_else(|error| panic!("the daemon does not start: {error}"));
    }

    pub async fn try_resume(&mut self) -> Result<(), StartError> {
        assert!(self.running.is_none(), "it runs");
        let daemon = daemon::build(self.config.clone(), Listeners::default()).await?;
        let addresses = daemon.addresses().clone();
        let stop = CancellationToken::new();
        let task = tokio::spawn(daemon.run(stop.clone()));
        self.running = Some(Running { addresses, stop, task });
        Ok(())
    }

    /// As SIGTERM does.
    pub async fn stop(&mut self) -> Ended {
        let running = self.running.take().expect("it does not run");
        running.stop.cancel();
        in_time("the drain", running.task).await.expect("the daemon panicked")
    }

    pub async fn restart(&mut self) {
        assert_eq!(self.stop().await, Ended::Drained);
        self.resume().await;
    }

    /// For the next start.
    pub fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
    }

    fn addresses(&self) -> &Addresses {
        &self.running.as_ref().expect("it does not run").addresses
    }

    pub async fn client(&self) -> Client {
        Client::connect(Addr::Unix(self.addresses().grpc_unix.clone().unwrap())).await.unwrap()
    }

    pub async fn tcp_client(&self) -> Client {
        Client::connect(Addr::Http(self.addresses().grpc_tcp.unwrap().to_string())).await.unwrap()
    }

    pub fn grpc_tcp(&self) -> SocketAddr {
        self.addresses().grpc_tcp.unwrap()
    }

    pub async fn ipc(&self) -> IpcClient {
        IpcClient::connect(self.ipc_path(), &Options::default()).await.unwrap()
    }

    pub fn ipc_path(&self) -> &Path {
        self.addresses().ipc.as_ref().unwrap()
    }

    pub fn joblet_path(&self) -> &Path {
        self.addresses().joblet.as_ref().unwrap()
    }

    pub fn http(&self) -> SocketAddr {
        self.addresses().http.unwrap()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("d")
    }

    /// The embedded store's folder: bucket folders in it.
    pub fn objects(&self) -> PathBuf {
        self.data_dir().join("objects")
    }
}

/// How long a daemon that a test simply left may take to end before its folder goes.
const LEAVE: Duration = Duration::from_secs(3);

impl Drop for Host {
    /// Waits for the daemon: one that still writes would leave its folder behind.
    fn drop(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        running.stop.cancel();
        if std::thread::panicking() {
            return;
        }
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                if tokio::time::timeout(LEAVE, &mut running.task).await.is_err() {
                    running.task.abort();
                    let _ = running.task.await;
                }
            });
        });
    }
}
