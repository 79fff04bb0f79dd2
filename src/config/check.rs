//! What only the whole configuration can tell: every contradiction at once.
//!
//! Owns: checks across sections, and calling each room's own. Must not know: files, the environment.

use std::net::SocketAddr;
use std::path::Path;

use super::{Config, Problem};
use crate::model::JobType;

/// `sun_path` holds 108 bytes, the last one zero.
const UNIX_PATH_BYTES_MAX: usize = 107;

pub fn problems(config: &Config) -> Vec<Problem> {
    let mut found = Vec::new();
    listen(config, &mut found);
    rooms(config, &mut found);
    handlers(config, &mut found);
    if config.drain_deadline_ms == 0 {
        found.push(Problem::at("drain_deadline_ms", "must be greater than 0: stopping needs time to sync"));
    }
    if config.data_dir.as_os_str().is_empty() {
        found.push(Problem::at("data_dir", "is empty"));
    }
    if let Err(message) = config.log.check() {
        found.push(Problem::at("log.filter", message));
    }
    found
}

fn listen(config: &Config, found: &mut Vec<Problem>) {
    let listen = &config.listen;
    let ipc = listen.ipc_path(&config.data_dir);
    let grpc = listen.grpc_unix_path(&config.data_dir);
    for (key, path) in [("listen.ipc", &ipc), ("listen.grpc_unix", &grpc)] {
        if let Some(path) = path {
            found.extend(long_path(key, path));
        }
    }
    if ipc.is_some() && ipc == grpc {
        found.push(Problem::at("listen.grpc_unix", "is the same path as listen.ipc"));
    }
    let (grpc, http) = (listen.grpc_tcp.at(), listen.http.at());
    for (key, at) in [("listen.grpc_tcp", grpc), ("listen.http", http)] {
        if let Some(at) = at.filter(|at| !at.ip().is_loopback()) {
            let message = format!("{at} is not loopback, and there is no TLS to protect it: use 127.0.0.1 or [::1]");
            found.push(Problem::at(key, message));
        }
    }
    if grpc.is_some_and(|at: SocketAddr| at.port() != 0 && Some(at) == http) {
        found.push(Problem::at("listen.http", "is the same address as listen.grpc_tcp"));
    }
}

fn long_path(key: &str, path: &Path) -> Option<Problem> {
    let bytes = path.as_os_str().len();
    (bytes > UNIX_PATH_BYTES_MAX).then(|| {
        let message = format!(
            "{} has {bytes} bytes; the system allows {UNIX_PATH_BYTES_MAX} for a Unix socket. Choose a shorter data_dir or path",
            path.display()
        );
        Problem::at(key, message)
    })
}

/// Each room knows what cannot be true of its own options.
fn rooms(config: &Config, found: &mut Vec<Problem>) {
    let checks = [("storage", config.storage.check())];
    for (section, result) in checks {
        if let Err(text) = result {
            found.push(told(section, &text));
        }
    }
}

/// `key: why` as rooms say it.
fn told(section: &str, text: &str) -> Problem {
    match text.split_once(": ") {
        Some((key, why)) if key.starts_with(section) => Problem::at(key, why),
        _ => Problem::at(section, text),
    }
}

fn handlers(config: &Config, found: &mut Vec<Problem>) {
    for (name, _settings) in &config.handlers {
        if name.is_empty() || JobType::parse(name).is_err() {
            found.push(Problem::at(
                format!("handlers.{name}"),
                "is not a job type: [a-z0-9][a-z0-9._-]{0,63}",
            ));
        }
    }
}
