//! Opening the doors: Unix sockets with their permissions, TCP on loopback.
//!
//! Owns: how a listener is bound and what becomes of a stale socket. Must not know: what is spoken on it.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixSocket};

use super::dirs::DataDir;
use super::error::{StartError, StartErrorKind};
use crate::config::{Config, Listen};

/// Connections the system keeps for us until we accept them: a full Unix backlog answers EAGAIN to clients.
const BACKLOG: u32 = 4096;

/// The daemon's listeners. Those that are given are used; the others are opened as configured.
#[derive(Debug, Default)]
pub struct Listeners {
    pub ipc: Option<UnixListener>,
    pub grpc_unix: Option<UnixListener>,
    pub grpc_tcp: Option<TcpListener>,
    pub http: Option<TcpListener>,
    pub joblet: Option<UnixListener>,
}

/// Where it listens, for the ready line and for tests that asked for port 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    pub ipc: Option<PathBuf>,
    pub grpc_unix: Option<PathBuf>,
    pub grpc_tcp: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
    pub joblet: Option<PathBuf>,
}

impl Listeners {
    /// Opens what is configured and was not given. Needs the data directory: only its owner may remove a stale socket.
    pub fn open(self, config: &Config, dir: &DataDir) -> Result<Self, StartError> {
        let Listen { grpc_tcp, http, socket_mode, .. } = config.listen;
        let unix = |given: Option<UnixListener>, path: Option<PathBuf>| match (given, path) {
            (Some(given), _) => Ok(Some(given)),
            (None, Some(path)) => bind_unix(&path, socket_mode.0).map(Some),
            (None, None) => Ok(None),
        };
        let tcp = |given: Option<TcpListener>, key: &str, at: Option<SocketAddr>| match (given, at) {
            (Some(given), _) => Ok(Some(given)),
            (None, Some(at)) => bind_tcp(key, at).map(Some),
            (None, None) => Ok(None),
        };
        Ok(Self {
            ipc: unix(self.ipc, config.listen.ipc_path(dir.root()))?,
            grpc_unix: unix(self.grpc_unix, config.listen.grpc_unix_path(dir.root()))?,
            grpc_tcp: tcp(self.grpc_tcp, "listen.grpc_tcp", grpc_tcp.at())?,
            http: tcp(self.http, "listen.http", http.at())?,
            joblet: unix(self.joblet, config.listen.joblet_path(dir.root()))?,
        })
    }

    pub fn addresses(&self) -> Addresses {
        let path = |listener: &UnixListener| listener.local_addr().ok()?.as_pathname().map(Path::to_owned);
        Addresses {
            ipc: self.ipc.as_ref().and_then(path),
            grpc_unix: self.grpc_unix.as_ref().and_then(path),
            grpc_tcp: self.grpc_tcp.as_ref().and_then(|listener| listener.local_addr().ok()),
            http: self.http.as_ref().and_then(|listener| listener.local_addr().ok()),
            joblet: self.joblet.as_ref().and_then(path),
        }
    }
}

fn bind_unix(path: &Path, mode: u32) -> Result<UnixListener, StartError> {
    remove_stale(path)?;
    let bind = || {
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        // Between bind and listen nobody can connect: the permissions are right before the door opens.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|error| cannot(&path.display().to_string(), &error))
}

/// Removes a socket nobody listens on. Anything else that stands there is left alone.
fn remove_stale(path: &Path) -> Result<(), StartError> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot(&path.display().to_string(), &error)),
    };
    if !found.file_type().is_socket() {
        let message = format!("{} exists and is not a socket; it is left alone", path.display());
        return Err(StartError::new(StartErrorKind::SetUp, message));
    }
    // The lock covers the data directory only: a configured path may be another daemon's.
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let message = format!("another process listens on {}", path.display());
        return Err(StartError::new(StartErrorKind::Temporary, message));
    }
    std::fs::remove_file(path).map_err(|error| cannot(&path.display().to_string(), &error))
}

fn bind_tcp(key: &str, at: SocketAddr) -> Result<TcpListener, StartError> {
    if !at.ip().is_loopback() {
        let message = format!("{key}: {at} is not loopback, and there is no TLS to protect it");
        return Err(StartError::new(StartErrorKind::SetUp, message));
    }
    let bind = || {
        let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restart must not wait for the old connections' TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(at)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|error| cannot(&format!("{key}: {at}"), &error))
}

fn cannot(place: &str, error: &io::Error) -> StartError {
    let kind = match error.kind() {
        io::ErrorKind::AddrInUse => StartErrorKind::Temporary,
        _ => StartErrorKind::SetUp,
    };
    StartError::new(kind, format!("{place}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_left_by_a_crash_does_not_keep_the_daemon_from_starting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        drop(bind_unix(&path, 0o660).unwrap());
        assert!(path.exists(), "a closed listener leaves its socket behind");
        let again = bind_unix(&path, 0o660).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        drop(again);
    }

    #[tokio::test]
    async fn a_living_socket_and_a_plain_file_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let _alive = bind_unix(&path, 0o600).unwrap();
        assert_eq!(bind_unix(&path, 0o600).unwrap_err().kind, StartErrorKind::Temporary);
        let file = dir.path().join("precious");
        std::fs::write(&file, "data").unwrap();
        assert_eq!(bind_unix(&file, 0o600).unwrap_err().kind, StartErrorKind::SetUp);
        assert_eq!(std::fs::read(&file).unwrap(), b"data");
    }

    #[tokio::test]
    async fn a_port_in_use_is_temporary_and_named() {
        let taken = bind_tcp("listen.http", SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let at = taken.local_addr().unwrap();
        let refused = bind_tcp("listen.http", at).unwrap_err();
        assert_eq!(refused.kind, StartErrorKind::Temporary);
        assert!(refused.message.contains(&at.to_string()), "{refused}");
    }

    #[tokio::test]
    async fn nothing_listens_beyond_loopback() {
        let refused = bind_tcp("listen.http", SocketAddr::from(([0, 0, 0, 0], 0))).unwrap_err();
        assert_eq!(refused.kind, StartErrorKind::SetUp);
    }
}
