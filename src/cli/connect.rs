//! How a verb finds its daemon.
//!
//! Owns: the order in which addresses are looked for, and what a client's error means to a shell. Must not know: the verbs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::Global;
use super::exit::{Exit, Failure, Result};
use crate::client::ipc::IpcClient;
use crate::client::{self, Addr, Client, Options};
use crate::config::{self, Config};

/// Where a daemon may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doors {
    pub grpc: Addr,
    /// The native socket; none when the daemon was named by `--addr`, or has none.
    pub ipc: Option<PathBuf>,
}

/// `--addr` or FETCHBOX_ADDR, else what the daemon's configuration says.
pub fn doors(global: &Global) -> Result<Doors> {
    if let Some(addr) = &global.addr {
        return Ok(Doors { grpc: parse(addr)?, ipc: None });
    }
    let config = config(global)?;
    let ipc = config.listen.ipc_path(&config.data_dir);
    let unix = config.listen.grpc_unix_path(&config.data_dir).map(Addr::Unix);
    let tcp = || config.listen.grpc_tcp.at().filter(|at| at.port() != 0).map(|at| Addr::Http(at.to_string()));
    let grpc = unix.or_else(tcp).ok_or_else(|| {
        Failure::new(Exit::Config, "the configuration switches every gRPC listener off")
            .hint("name the daemon with --addr")
    })?;
    Ok(Doors { grpc, ipc })
}

/// `unix:PATH`, `http://HOST:PORT`, and both without their schemes.
fn parse(text: &str) -> Result<Addr> {
    let whole = match text {
        path if path.starts_with(['/', '.']) => format!("unix:{path}"),
        named if named.starts_with("unix:") || named.contains("://") => named.to_owned(),
        host => format!("http://{host}"),
    };
    whole.parse().map_err(|error| {
        Failure::new(Exit::Usage, error)
            .hint("for example --addr ./fetchbox-data/run/grpc.sock or --addr 127.0.0.1:50052")
    })
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
    Client::connect_with(doors.grpc, &patience()).await.map_err(unreachable_daemon)
}

pub async fn ipc(path: &Path) -> Result<IpcClient> {
    IpcClient::connect(path, &patience()).await.map_err(unreachable_daemon)
}

/// A person waits: long enough for a daemon that restarts, not for one that is not there.
fn patience() -> Options {
    Options { connect_timeout_ms: 1_500, ..Options::default() }
}

fn unreachable_daemon(error: client::Error) -> Failure {
    Failure::new(Exit::Temporary, format_args!("no daemon answers: {error}"))
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

/// For requests that only read: how long to wait before a broken stream is taken up again.
pub const RESUME_WAIT: Duration = Duration::from_millis(500);

/// Whether the same command may succeed in a moment.
pub fn passing(failure: &Failure) -> bool {
    failure.exit == Exit::Temporary
}
