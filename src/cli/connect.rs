//! How a verb finds its daemon.
//!
//! Owns: the order in which addresses are looked for, and what a client's error means to a shell. Must not know: the verbs.

use std::path::{Path, PathBuf};

use super::args::Global;
use super::exit::{Exit, Failure, Result};
use crate::client::ipc::IpcClient;
use crate::client::{self, Client};
use crate::config::{self, Config};

/// Where a daemon may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doors {
    /// gRPC: a Unix socket's path or `host:port`.
    pub grpc: String,
    /// The native socket; none when the daemon was named by `--addr`, or has none.
    pub ipc: Option<PathBuf>,
}

/// `--addr` or FETCHBOX_ADDR, else what the daemon's configuration says.
pub fn doors(global: &Global) -> Result<Doors> {
    if let Some(addr) = &global.addr {
        return Ok(Doors { grpc: addr.clone(), ipc: None });
    }
    let config = config(global)?;
    let ipc = config.listen.ipc_path(&config.data_dir);
    let unix = config.listen.grpc_unix_path(&config.data_dir).map(|path| path.display().to_string());
    let tcp = || config.listen.grpc_tcp.at().filter(|at| at.port() != 0).map(|at| at.to_string());
    let grpc = unix.or_else(tcp).ok_or_else(|| {
        Failure::new(Exit::Config, "the configuration switches every gRPC listener off")
            .hint("name the daemon with --addr")
    })?;
    Ok(Doors { grpc, ipc })
}

/// The configuration with `--data-dir` laid over it.
pub fn config(global: &Global) -> Result<Config> {
    let mut config = config::load(global.config.as_deref(), std::env::vars_os()).map_err(bad_config)?;
    if let Some(dir) = &global.data_dir {
        config.data_dir.clone_from(dir);
    }
    Ok(config)
}

pub fn bad_config(invalid: config::Invalid) -> Failure {
    Failure::new(Exit::Config, invalid)
}

/// A gRPC client. Connecting happens here, so that a missing daemon is told before anything else.
pub async fn grpc(global: &Global) -> Result<Client> {
    let doors = doors(global)?;
    Client::connect(&doors.grpc).await.map_err(|error| unreachable_daemon(&doors.grpc, error))
}

pub async fn ipc(path: &Path) -> Result<IpcClient> {
    IpcClient::connect(path).await.map_err(|error| unreachable_daemon(&path.display().to_string(), error))
}

fn unreachable_daemon(at: &str, error: client::Error) -> Failure {
    Failure::new(Exit::Temporary, format_args!("no daemon answers at {at}: {error}"))
        .hint("start one with `fetchbox serve`, or name it with --data-dir or --addr")
}

/// What a daemon's refusal means to a shell.
pub fn refused(error: client::Error) -> Failure {
    let retry = error.retryable();
    let exit = match error.code() {
        "DATA_LOSS" => Exit::Damaged,
        _ if retry => Exit::Temporary,
        _ => Exit::Failed,
    };
    let hint = match (retry, error.retry_after()) {
        (true, Some(wait)) => format!("a retry can help, after {wait:?}"),
        (true, None) => "a retry can help".to_owned(),
        (false, _) => String::new(),
    };
    Failure::new(exit, error).hint(hint)
}

/// Whether the same command may succeed in a moment.
pub fn passing(failure: &Failure) -> bool {
    failure.exit == Exit::Temporary
}
