//! What only the whole configuration can tell: every contradiction at once.
//!
//! Owns: checks across sections, and calling each room's own. Must not know: files, the environment.

use std::net::SocketAddr;
use std::path::Path;

use super::Config;
use super::problem::Problem;
use crate::handler::{Registry, SettingsError};

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
    let joblet = listen.joblet_path(&config.data_dir);
    for (key, path) in [("listen.ipc", &ipc), ("listen.grpc_unix", &grpc), ("listen.joblet", &joblet)] {
        if let Some(path) = path {
            found.extend(long_path(key, path));
        }
    }
    if ipc.is_some() && ipc == grpc {
        found.push(Problem::at("listen.grpc_unix", "is the same path as listen.ipc"));
    }
    if joblet.is_some() && (joblet == ipc || joblet == grpc) {
        found.push(Problem::at("listen.joblet", "is the same path as another listener's"));
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
    let faults = [
        ("storage", config.storage.faults()),
        ("worker", config.worker.faults()),
        ("retention", config.retention.faults()),
    ];
    for (section, faults) in faults {
        found.extend(faults.iter().map(|text| told(section, text)));
    }
    found.extend(
        config
            .dispatch
            .violations()
            .into_iter()
            .map(|violation| Problem::at(format!("dispatch.{}", violation.path), violation.message)),
    );
    let proxies = config.proxies.violations().into_iter();
    found.extend(proxies.map(|violation| Problem::at(format!("proxies.{}", violation.path), violation.message)));
    if config.ingest.open_tasks_max == 0 {
        found.push(Problem::at("ingest.open_tasks_max", "must be at least 1: nothing could be submitted"));
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
    if let Err(SettingsError(violations)) = Registry::new(config.handlers.clone(), []) {
        found.extend(violations.into_iter().map(|violation| Problem::at(violation.path, violation.message)));
    }
    let unknown = config.handlers.unknown_pools(&config.proxies.pool_names());
    found.extend(unknown.into_iter().map(|violation| Problem::at(violation.path, violation.message)));
    let storage = &config.storage;
    for (name, settings) in &config.handlers.types {
        let Some(bucket) = &settings.storage.bucket else { continue };
        if *bucket != storage.bucket && !storage.allowed_buckets.contains(bucket) {
            let message = format!("{bucket:?} is neither storage.bucket nor in storage.allowed_buckets");
            found.push(Problem::at(format!("handlers.{name}.storage.bucket"), message));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{TcpAt, UnixAt};
    use crate::handler::{ProxySettings, TypeSettings};

    fn places(config: &Config) -> Vec<String> {
        problems(config).into_iter().map(|problem| problem.place).collect()
    }

    #[test]
    fn every_contradiction_is_told_at_once() {
        let mut config = Config { data_dir: PathBuf::from(format!("/{}", "d".repeat(100))), ..Config::default() };
        config.listen.grpc_tcp = TcpAt::At(SocketAddr::from(([0, 0, 0, 0], 1)));
        config.drain_deadline_ms = 0;
        config.storage.connect_timeout_ms = 0;
        config.storage.endpoint = Some("ftp://x".to_owned());
        config.worker.max_bytes = 0;
        config.worker.redirects_max = 21;
        config.retention.batch = 0;
        config.retention.disk_percent_max = 101;
        config.log.filter = "a=b=c".to_owned();
        let mut gallery = TypeSettings { handler: "galery".to_owned(), ..TypeSettings::default() };
        gallery.storage.bucket = Some("elsewhere".to_owned());
        gallery.proxy = Some(ProxySettings { primary: "eu".to_owned(), fallbacks: vec![] });
        config.handlers.types.insert("gallery".to_owned(), gallery);
        assert_eq!(
            places(&config),
            [
                "listen.ipc",
                "listen.grpc_unix",
                "listen.joblet",
                "listen.grpc_tcp",
                "storage.connect_timeout_ms",
                "storage.endpoint",
                "worker.max_bytes",
                "worker.redirects_max",
                "retention.batch",
                "retention.disk_percent_max",
                "handlers.gallery.handler",
                "handlers.gallery.proxy.primary",
                "handlers.gallery.storage.bucket",
                "drain_deadline_ms",
                "log.filter",
            ]
        );
    }

    #[test]
    fn a_socket_path_that_is_too_long_is_told_with_path_and_limit() {
        let fits = PathBuf::from(format!("/{}", "s".repeat(106)));
        let mut config = Config::default();
        config.listen.ipc = UnixAt::Path(fits.clone());
        assert_eq!(problems(&config), []);
        config.listen.ipc = UnixAt::Path(fits.join("x"));
        let [problem] = problems(&config).try_into().unwrap();
        assert!(problem.message.contains("109 bytes") && problem.message.contains("107"), "{problem:?}");
    }

    #[test]
    fn two_doors_do_not_share_an_address() {
        let mut config = Config::default();
        config.listen.http = config.listen.grpc_tcp;
        config.listen.ipc = UnixAt::Path(PathBuf::from("/tmp/s"));
        config.listen.grpc_unix = UnixAt::Path(PathBuf::from("/tmp/s"));
        assert_eq!(places(&config), ["listen.grpc_unix", "listen.http"]);
    }
}
