//! joblet's configuration file, as far as its persist service reads it, as a `Config` of ours.
//!
//! Owns: that file's keys and what each becomes. Must not know: where the file is looked for, what rooms do with their options.
//!
//! The file belongs to another program, with sections we do not know and keys of versions we have not seen: those are passed over, and
//! named where they stand in our section. A value that cannot be what its key says is an error, with its line.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};
use serde_yaml::Value;

use super::problem::{Invalid, Problem};
use super::{Config, Listen, TcpAt, UnixAt};
use crate::retention;

/// What joblet's core waits for its child to end, and a reserve.
const DRAIN_DEADLINE_MS: u64 = 8_000;

/// What the file says, in our words.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// What was passed over, or works otherwise here.
    pub warnings: Vec<Problem>,
}

#[derive(Deserialize)]
struct Root {
    persist: Option<Persist>,
    ipc: Option<RootIpc>,
    logging: Option<Logging>,
    /// Only a file that is nothing but the persist section has these at the top.
    storage: Option<Storage>,
}

#[derive(Deserialize)]
struct RootIpc {
    socket: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Logging {
    level: Option<String>,
}

#[derive(Deserialize, Default)]
struct Persist {
    server: Option<Server>,
    ipc: Option<Ipc>,
    storage: Option<Storage>,
    retention: Option<Retention>,
    compression: Option<Compression>,
    monitoring: Option<Monitoring>,
}

#[derive(Deserialize, Default)]
struct Server {
    grpc_socket: Option<PathBuf>,
    grpc_address: Option<String>,
}

#[derive(Deserialize, Default)]
struct Ipc {
    socket: Option<PathBuf>,
    max_message_size: Option<usize>,
}

#[derive(Deserialize, Default)]
struct Storage {
    r#type: Option<String>,
    base_dir: Option<PathBuf>,
    local: Option<Local>,
    retention: Option<Retention>,
    compression: Option<Compression>,
}

#[derive(Deserialize, Default)]
struct Local {
    logs: Option<Folder>,
    // Read for their types only: everything is kept in one place.
    #[serde(rename = "metrics")]
    _metrics: Option<Folder>,
    #[serde(rename = "events")]
    _events: Option<Folder>,
}

#[derive(Deserialize, Default)]
struct Folder {
    directory: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
struct Retention {
    logs_days: Option<u32>,
    metrics_days: Option<u32>,
    cleanup_schedule: Option<Cron>,
    archive_before_delete: Option<bool>,
}

/// Looked at while it is read, so that a wrong one is told with its line.
#[derive(Clone)]
struct Cron(String);

impl<'de> Deserialize<'de> for Cron {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Cron;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("five fields as cron has them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cron, E> {
                retention::check_schedule(text).map_err(E::custom)?;
                Ok(Cron(text.to_owned()))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[derive(Deserialize, Default)]
struct Compression {
    enabled: Option<bool>,
    level: Option<i32>,
}

#[derive(Deserialize, Default)]
struct Monitoring {
    enabled: Option<bool>,
    bind_address: Option<String>,
}

/// Keys that mean something here, and keys of joblet's that need no word: what they tune does not exist.
const KNOWN: &[&str] = &[
    "server.grpc_socket",
    "server.grpc_address",
    "server.max_connections",
    "server.tls",
    "ipc.socket",
    "ipc.max_message_size",
    "ipc.max_connections",
    "ipc.read_buffer",
    "ipc.write_buffer",
    "ipc.buffer_size",
    "ipc.worker_count",
    "ipc.batch_size",
    "ipc.backpressure_timeout",
    "ipc.backpressure_mode",
    "storage.type",
    "storage.base_dir",
    "storage.local.logs",
    "storage.local.metrics",
    "storage.local.events",
    "storage.local.max_open_files",
    "storage.local.file_handle_ttl",
    "storage.cloudwatch",
    "storage.s3",
    "storage.retention.logs_days",
    "storage.retention.metrics_days",
    "storage.retention.cleanup_schedule",
    "storage.retention.archive_before_delete",
    "storage.compression",
    "retention.logs_days",
    "retention.metrics_days",
    "retention.cleanup_schedule",
    "retention.archive_before_delete",
    "compression",
    "monitoring.enabled",
    "monitoring.bind_address",
];

/// Reads `file` if there is one; `FETCHBOX__…` of the environment goes over it, as it does over our own file.
///
/// # Errors
/// The file cannot be read, or says something that cannot be.
pub fn load(file: Option<&Path>, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Loaded, Invalid> {
    let invalid = |problem| Invalid { problems: vec![problem] };
    let mut warnings = Vec::new();
    let mut problems = Vec::new();
    let (persist, shared, log) = match file {
        None => (Persist::default(), None, None),
        Some(path) => read(path, &mut warnings).map_err(invalid)?,
    };
    let base = told(persist, shared, log, &mut warnings, &mut problems);
    let tree = serde_yaml::to_value(&base).map_err(|error| invalid(Problem::at("configuration", error.to_string())))?;
    let (config, more) = super::load::overlay(tree, env);
    problems.extend(more);
    problems.extend(config.problems());
    if problems.is_empty() { Ok(Loaded { config, warnings }) } else { Err(Invalid { problems }) }
}

type Sections = (Persist, Option<PathBuf>, Option<String>);

/// The section, the socket that core and persist share, and the level of both their logs.
fn read(path: &Path, warnings: &mut Vec<Problem>) -> Result<Sections, Problem> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| Problem::at(&name, error.to_string()))?;
    let located = |error: &serde_yaml::Error| super::load::locate(&name, error);
    let root: Option<Root> = serde_yaml::from_str(&text).map_err(|error| located(&error))?;
    let Some(root) = root else { return Ok((Persist::default(), None, None)) };
    let whole = root.persist.is_none() && root.storage.is_some();
    let persist = match root.persist {
        Some(persist) => persist,
        None if whole => serde_yaml::from_str(&text).map_err(|error| located(&error))?,
        None => Persist::default(),
    };
    // Typed reading passes over what it does not know; the tree tells what that was.
    match serde_yaml::from_str::<Value>(&text) {
        Ok(tree) if whole => unknown("", &tree, &["logging", "security", "version"], warnings),
        Ok(tree) => tree.get("persist").into_iter().for_each(|section| unknown("", section, &[], warnings)),
        Err(error) => warnings.push(located(&error)),
    }
    let shared = root.ipc.and_then(|ipc| ipc.socket);
    Ok((persist, shared, root.logging.and_then(|logging| logging.level)))
}

/// Every key below `path` that is neither known nor on the way to a known one.
fn unknown(path: &str, tree: &Value, besides: &[&str], warnings: &mut Vec<Problem>) {
    let Value::Mapping(map) = tree else { return };
    for (key, value) in map {
        let key = key.as_str().unwrap_or("?");
        let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        if KNOWN.contains(&path.as_str()) || besides.contains(&key) {
            continue;
        }
        if KNOWN.iter().any(|known| known.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with('.'))) {
            unknown(&path, value, &[], warnings);
        } else {
            warnings.push(Problem::at(format!("persist.{path}"), "is not known here and changes nothing"));
        }
    }
}

fn told(
    persist: Persist,
    shared: Option<PathBuf>,
    level: Option<String>,
    warnings: &mut Vec<Problem>,
    problems: &mut Vec<Problem>,
) -> Config {
    let Persist { server, ipc, storage, retention, compression, monitoring } = persist;
    let (server, ipc, storage) = (server.unwrap_or_default(), ipc.unwrap_or_default(), storage.unwrap_or_default());
    let mut config = Config { drain_deadline_ms: DRAIN_DEADLINE_MS, ..Config::default() };
    let some = |path: PathBuf| (!path.as_os_str().is_empty()).then_some(path);

    let socket = ipc.socket.and_then(some).or_else(|| shared.and_then(some));
    let grpc = server.grpc_socket.and_then(some);
    config.listen = Listen {
        ipc: UnixAt::Off,
        joblet: UnixAt::Path(socket.unwrap_or_else(|| PathBuf::from("/opt/joblet/run/persist-ipc.sock"))),
        grpc_unix: UnixAt::Path(grpc.unwrap_or_else(|| PathBuf::from("/opt/joblet/run/persist-grpc.sock"))),
        grpc_tcp: loopback("persist.server.grpc_address", server.grpc_address.as_deref(), warnings),
        http: TcpAt::Off,
        ..config.listen
    };
    if let Some(monitoring) = monitoring.filter(|monitoring| monitoring.enabled != Some(false)) {
        config.listen.http = match monitoring.bind_address.as_deref() {
            None | Some("") => Listen::default().http,
            named => loopback("persist.monitoring.bind_address", named, warnings),
        };
    }
    if let Some(bytes) = ipc.max_message_size.filter(|bytes| *bytes > 0) {
        config.api.joblet.frame_bytes_max = bytes;
    }

    if let Some(kind) = storage.r#type.filter(|kind| !kind.is_empty() && kind != "local") {
        let message = format!("{kind:?} is not there: everything is kept locally");
        warnings.push(Problem::at("persist.storage.type", message));
    }
    let logs = storage.local.and_then(|local| local.logs).and_then(|logs| logs.directory).and_then(some);
    // Beside the folders of the original, on the disk that was chosen for them.
    let beside = logs.as_deref().and_then(Path::parent).map(Path::to_owned).and_then(some);
    let folder = storage.base_dir.and_then(some).or(beside).unwrap_or_else(|| PathBuf::from("/opt/joblet"));
    config.data_dir = folder.join("fetchbox");

    let ages = retention.or(storage.retention).unwrap_or_default();
    if ages.archive_before_delete == Some(true) {
        let message = "nothing is archived before it is deleted: `fetchbox export` writes joblet's files at any time";
        warnings.push(Problem::at("persist.retention.archive_before_delete", message));
    }
    config.retention = kept(&ages, config.retention.clone());
    if let Some(compression) = compression.or(storage.compression) {
        packed(&compression, warnings);
    }
    if let Some(level) = level.filter(|level| !level.is_empty()) {
        match level.to_ascii_lowercase().as_str() {
            "debug" => config.log.filter = "debug,fjall=warn,lsm_tree=warn,h2=info,hyper=info".to_owned(),
            "info" => {}
            "warn" | "warning" => "warn".clone_into(&mut config.log.filter),
            "error" => "error".clone_into(&mut config.log.filter),
            _ => problems.push(Problem::at("logging.level", format!("{level:?} is none of debug, info, warn, error"))),
        }
    }
    config
}

/// An age of 0 means for ever, there as here. Events go with the logs: joblet has no age of their own for them.
fn kept(ages: &Retention, defaults: retention::Options) -> retention::Options {
    let logs_days = ages.logs_days.unwrap_or(7);
    let metrics_days = ages.metrics_days.unwrap_or(30);
    // What is left of a job goes when the last of its parts may.
    let jobs_days = if logs_days == 0 || metrics_days == 0 { 0 } else { logs_days.max(metrics_days) };
    let schedule = ages.cleanup_schedule.as_ref().map_or("0 2 * * *", |cron| &cron.0).to_owned();
    retention::Options { jobs_days, logs_days, metrics_days, events_days: logs_days, schedule, ..defaults }
}

/// Blocks are always compressed; there is nothing to set.
fn packed(compression: &Compression, warnings: &mut Vec<Problem>) {
    if compression.enabled == Some(false) {
        let message = "output is always kept compressed";
        warnings.push(Problem::at("persist.compression.enabled", message));
    }
    if compression.level.is_some_and(|level| !(-1..=9).contains(&level)) {
        let message = "is no level of gzip; it is not used here";
        warnings.push(Problem::at("persist.compression.level", message));
    }
}

/// Nothing listens beyond loopback: joblet's own TLS is not there to protect it. The original's core does not need it.
fn loopback(key: &str, address: Option<&str>, warnings: &mut Vec<Problem>) -> TcpAt {
    let Some(address) = address.filter(|address| !address.is_empty()) else { return TcpAt::Off };
    let numeric = address.replace("localhost", "127.0.0.1");
    match numeric.parse::<SocketAddr>() {
        Ok(at) if at.ip().is_loopback() => TcpAt::At(at),
        Ok(_) | Err(_) => {
            let message =
                format!("{address:?} is not IP:PORT on loopback and is not opened: there is no TLS to protect it");
            warnings.push(Problem::at(key, message));
            TcpAt::Off
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Result<Loaded, Invalid> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("joblet-config.yml");
        std::fs::write(&file, text).unwrap();
        load(Some(&file), [])
    }

    fn warned(loaded: &Loaded) -> Vec<&str> {
        loaded.warnings.iter().map(|warning| warning.place.as_str()).collect()
    }

    const WHOLE: &str = "
version: \"3.0\"
server:
  address: \"0.0.0.0\"
  port: 50051
  nodeId: n1
security:
  serverCert: |
    -----BEGIN CERTIFICATE-----
    MIIFLDCCAxSgAwIBAgIUd
    -----END CERTIFICATE-----
monitoring:
  bind_address: \"127.0.0.1:9090\"
logging:
  level: \"DEBUG\"
  outputs: [{type: file}]
ipc:
  enabled: true
  socket: /srv/joblet/run/core.sock
  reconnect_delay: 5s
persist:
  server:
    grpc_socket: /srv/joblet/run/grpc.sock
    max_connections: 500
    shard: 7
  ipc:
    max_message_size: 1048576
  storage:
    type: cloudwatch
    local:
      logs: {directory: /data/joblet/logs, rotation: {max_size_mb: 100}}
      metrics: {directory: /data/joblet/metrics}
    cloudwatch: {region: eu-1, anything: [1, 2]}
    tiering: {hot: 1}
  retention:
    logs_days: 3
    metrics_days: 9
    cleanup_schedule: \"30 4 * * *\"
    archive_before_delete: true
";

    #[test]
    fn the_section_is_read_and_the_rest_of_the_file_is_not_in_the_way() {
        let loaded = load_text(WHOLE).unwrap();
        let config = &loaded.config;
        assert_eq!(config.listen.joblet, UnixAt::Path("/srv/joblet/run/core.sock".into()), "core and persist share it");
        assert_eq!(config.listen.grpc_unix, UnixAt::Path("/srv/joblet/run/grpc.sock".into()));
        assert_eq!((config.listen.grpc_tcp, config.listen.http), (TcpAt::Off, TcpAt::Off));
        assert_eq!(config.listen.ipc, UnixAt::Off);
        assert_eq!(config.data_dir, Path::new("/data/joblet/fetchbox"));
        assert_eq!(config.api.joblet.frame_bytes_max, 1_048_576);
        let kept = &config.retention;
        assert_eq!((kept.logs_days, kept.events_days, kept.metrics_days, kept.jobs_days), (3, 3, 9, 9));
        assert_eq!(kept.schedule, "30 4 * * *");
        assert!(config.log.filter.starts_with("debug,"));
        assert!(config.drain_deadline_ms < 10_000, "joblet's core kills after 10 s");
        assert_eq!(
            warned(&loaded),
            [
                "persist.server.shard",
                "persist.storage.tiering",
                "persist.storage.type",
                "persist.retention.archive_before_delete"
            ]
        );
    }

    #[test]
    fn without_a_file_or_a_section_joblets_defaults_apply() {
        for loaded in [load(None, []).unwrap(), load_text("server: {port: 50051}\n").unwrap(), load_text("").unwrap()] {
            let config = &loaded.config;
            assert_eq!(config.listen.joblet, UnixAt::Path("/opt/joblet/run/persist-ipc.sock".into()));
            assert_eq!(config.listen.grpc_unix, UnixAt::Path("/opt/joblet/run/persist-grpc.sock".into()));
            assert_eq!(config.data_dir, Path::new("/opt/joblet/fetchbox"));
            assert_eq!((config.retention.logs_days, config.retention.jobs_days), (7, 30));
            assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        }
    }

    #[test]
    fn a_file_that_is_only_the_section_is_read_as_one() {
        let loaded = load_text("ipc: {socket: /x/i}\nserver: {grpc_socket: /x/g}\nstorage: {base_dir: /x}\n").unwrap();
        assert_eq!(loaded.config.listen.joblet, UnixAt::Path("/x/i".into()));
        assert_eq!(loaded.config.listen.grpc_unix, UnixAt::Path("/x/g".into()));
        assert_eq!(loaded.config.data_dir, Path::new("/x/fetchbox"));
    }

    #[test]
    fn a_value_that_cannot_be_is_refused_with_its_line() {
        for (text, line) in [
            ("persist:\n  ipc:\n    max_message_size: lots\n", ":3:"),
            ("persist:\n  retention:\n    logs_days: -1\n", ":3:"),
            ("persist:\n  storage:\n    local:\n      logs: 7\n", ":4:"),
            ("persist:\n  retention:\n    logs_days: 7\n    cleanup_schedule: often\n", ":4:23"),
            ("storage:\n  type: local\nretention: {cleanup_schedule: 60 * * * *}\n", ":3:31"),
            ("persist: [\n", ":"),
        ] {
            let told = load_text(text).unwrap_err().to_string();
            assert!(told.contains(&format!("joblet-config.yml{line}")), "{told}");
        }
        let wrong = load_text("persist: {retention: {cleanup_schedule: often}}\n").unwrap_err().to_string();
        assert!(wrong.contains("persist.retention.cleanup_schedule: \"often\" has 1 fields"), "{wrong}");
        assert!(!wrong.contains("retention.schedule"), "one key, the file's own: {wrong}");
        assert!(load_text("logging: {level: loud}\n").unwrap_err().to_string().contains("loud"));
        assert!(load(Some(Path::new("/nowhere/joblet-config.yml")), []).unwrap_err().to_string().contains("/nowhere"));
    }

    #[test]
    fn nothing_listens_beyond_loopback_and_the_start_does_not_fail_for_it() {
        let loaded = load_text("persist: {server: {grpc_address: \":50052\"}}\n").unwrap();
        assert_eq!(loaded.config.listen.grpc_tcp, TcpAt::Off);
        assert_eq!(warned(&loaded), ["persist.server.grpc_address"]);
        let loaded =
            load_text("persist: {server: {grpc_address: \"localhost:0\"}, monitoring: {enabled: true}}\n").unwrap();
        assert_eq!(loaded.config.listen.grpc_tcp, TcpAt::At(SocketAddr::from(([127, 0, 0, 1], 0))));
        assert_eq!(loaded.config.listen.http, Listen::default().http);
    }

    #[test]
    fn the_environment_goes_over_the_file() {
        let env = [(OsString::from("FETCHBOX__DATA_DIR"), OsString::from("/elsewhere"))];
        assert_eq!(load(None, env).unwrap().config.data_dir, Path::new("/elsewhere"));
    }
}
