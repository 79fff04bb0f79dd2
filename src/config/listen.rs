//! Where the daemon listens, as an operator writes it.
//!
//! Owns: the `listen` section and its scalar types. Must not know: how a socket is opened.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Native protocol. `auto` is `run/fetchbox.sock` in the data directory.
    pub ipc: UnixAt,
    /// gRPC over a Unix socket. `auto` is `run/grpc.sock` in the data directory.
    pub grpc_unix: UnixAt,
    /// gRPC over TCP, loopback only.
    pub grpc_tcp: TcpAt,
    /// Health, metrics and the HTTP door, loopback only.
    pub http: TcpAt,
    /// Where other programs hand over the output of their jobs. `auto` is `run/persist-ipc.sock` in the data directory.
    pub joblet: UnixAt,
    /// Permissions of the Unix sockets.
    pub socket_mode: SocketMode,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            ipc: UnixAt::Auto,
            grpc_unix: UnixAt::Auto,
            grpc_tcp: TcpAt::At(SocketAddr::from(([127, 0, 0, 1], 50052))),
            http: TcpAt::At(SocketAddr::from(([127, 0, 0, 1], 9092))),
            joblet: UnixAt::Auto,
            socket_mode: SocketMode(0o660),
        }
    }
}

impl Listen {
    pub fn ipc_path(&self, data_dir: &Path) -> Option<PathBuf> {
        self.ipc.path(data_dir, "fetchbox.sock")
    }

    pub fn grpc_unix_path(&self, data_dir: &Path) -> Option<PathBuf> {
        self.grpc_unix.path(data_dir, "grpc.sock")
    }

    /// Every Unix socket that is opened.
    pub fn unix_paths(&self, data_dir: &Path) -> Vec<PathBuf> {
        [self.ipc_path(data_dir), self.grpc_unix_path(data_dir), self.joblet_path(data_dir)]
            .into_iter()
            .flatten()
            .collect()
    }

    pub fn joblet_path(&self, data_dir: &Path) -> Option<PathBuf> {
        self.joblet.path(data_dir, "persist-ipc.sock")
    }
}

/// `auto`, `off` or a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum UnixAt {
    Auto,
    Off,
    Path(PathBuf),
}

impl UnixAt {
    fn path(&self, data_dir: &Path, name: &str) -> Option<PathBuf> {
        match self {
            UnixAt::Auto => Some(data_dir.join("run").join(name)),
            UnixAt::Off => None,
            UnixAt::Path(path) => Some(path.clone()),
        }
    }
}

impl TryFrom<String> for UnixAt {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "auto" => Ok(UnixAt::Auto),
            "off" => Ok(UnixAt::Off),
            "" => Err("is empty: write a path, `auto` or `off`".to_owned()),
            // An abstract socket has no permissions: anybody could connect.
            path if path.starts_with('@') || path.contains('\0') => {
                Err(format!("`{}` is an abstract socket, which has no permissions", path.escape_default()))
            }
            path => Ok(UnixAt::Path(PathBuf::from(path))),
        }
    }
}

impl From<UnixAt> for String {
    fn from(at: UnixAt) -> String {
        match at {
            UnixAt::Auto => "auto".to_owned(),
            UnixAt::Off => "off".to_owned(),
            UnixAt::Path(path) => path.display().to_string(),
        }
    }
}

/// `off` or `IP:PORT`; port 0 lets the system choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TcpAt {
    Off,
    At(SocketAddr),
}

impl TcpAt {
    pub fn at(self) -> Option<SocketAddr> {
        match self {
            TcpAt::Off => None,
            TcpAt::At(at) => Some(at),
        }
    }
}

impl TryFrom<String> for TcpAt {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "off" {
            return Ok(TcpAt::Off);
        }
        let at = SocketAddr::from_str(&text)
            .map_err(|_| format!("`{text}` is neither `off` nor an address like 127.0.0.1:50052"))?;
        Ok(TcpAt::At(at))
    }
}

impl From<TcpAt> for String {
    fn from(at: TcpAt) -> String {
        at.at().map_or_else(|| "off".to_owned(), |at| at.to_string())
    }
}

/// File permissions, written as text in octal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SocketMode(pub u32);

impl TryFrom<String> for SocketMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = (3..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 && digits => Ok(SocketMode(mode)),
            _ => Err(format!("`{text}` is not a mode like \"0660\"")),
        }
    }
}

impl From<SocketMode> for String {
    fn from(mode: SocketMode) -> String {
        format!("0{:03o}", mode.0)
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0{:03o}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_stand_in_the_data_directory_unless_told_otherwise() {
        let listen = Listen::default();
        let dir = Path::new("/srv/box");
        assert_eq!(listen.ipc_path(dir), Some(PathBuf::from("/srv/box/run/fetchbox.sock")));
        let off = Listen { grpc_unix: UnixAt::Off, ..listen };
        assert_eq!(off.grpc_unix_path(dir), None);
    }

    #[test]
    fn an_address_that_cannot_be_listened_on_is_named() {
        assert!(TcpAt::try_from("localhost".to_owned()).unwrap_err().contains("localhost"));
        assert!(UnixAt::try_from("@abstract".to_owned()).is_err());
        assert_eq!(TcpAt::try_from("off".to_owned()), Ok(TcpAt::Off));
    }

    #[test]
    fn a_mode_is_octal_or_refused() {
        assert_eq!(SocketMode::try_from("0660".to_owned()), Ok(SocketMode(0o660)));
        assert_eq!(String::from(SocketMode(0o600)), "0600");
        for bad in ["", "9", "0999", "66", "rw-rw----", "10000", "+660"] {
            assert!(SocketMode::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
