//! The configuration: every room's options in one tree, from defaults, a file and the environment.
//!
//! Owns: sections, precedence, checks across sections. Must not know: what a room does with its options.

mod check;
pub mod joblet;
mod listen;
mod load;
mod problem;
mod secrets;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use listen::{Listen, SocketMode, TcpAt, UnixAt};
pub use load::{load, load_with_secrets};
pub use problem::{Invalid, Problem};

use crate::telemetry::Log;
use crate::worker::proxy;
use crate::{api, dispatch, handler, ingest, objects, retention, store, worker};

/// `config.example.yml` says what each key means.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub data_dir: PathBuf,
    pub listen: Listen,
    pub storage: objects::Options,
    pub worker: worker::Options,
    pub proxies: proxy::Options,
    pub dispatch: dispatch::Options,
    pub ingest: ingest::Options,
    pub handlers: handler::Options,
    pub retention: retention::Options,
    pub store: store::Options,
    pub api: api::Options,
    /// From the signal to the exit, at most.
    pub drain_deadline_ms: u64,
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("fetchbox-data"),
            listen: Listen::default(),
            storage: objects::Options::default(),
            worker: worker::Options::default(),
            proxies: proxy::Options::default(),
            dispatch: dispatch::Options::default(),
            ingest: ingest::Options::default(),
            handlers: handler::Options::default(),
            retention: retention::Options::default(),
            store: store::Options::default(),
            api: api::Options::default(),
            drain_deadline_ms: 20_000,
            log: Log::default(),
        }
    }
}

impl Config {
    /// What only the whole can tell: every problem, none if it may be run.
    pub fn problems(&self) -> Vec<Problem> {
        check::problems(self)
    }

    /// Each file with a secret that the daemon would need and cannot have. Reads them.
    pub fn secret_problems(&self) -> Vec<Problem> {
        secrets::problems(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_yaml::Value;

    use super::*;

    const EXAMPLE: &str = include_str!("../../config.example.yml");

    #[test]
    fn the_example_is_the_defaults_key_by_key() {
        let example: Value = serde_yaml::from_str(EXAMPLE).unwrap();
        let defaults = serde_yaml::to_value(Config::default()).unwrap();
        let mut differences = Vec::new();
        compare("", &example, &defaults, &mut differences);
        assert!(differences.is_empty(), "config.example.yml:\n{}", differences.join("\n"));
        let parsed: Config = serde_yaml::from_str(EXAMPLE).unwrap();
        assert_eq!(serde_yaml::to_value(parsed).unwrap(), defaults);
    }

    fn compare(path: &str, example: &Value, default: &Value, differences: &mut Vec<String>) {
        let (Value::Mapping(shown), Value::Mapping(real)) = (example, default) else {
            if example != default {
                differences.push(format!("{path}: shows {example:?}, the default is {default:?}"));
            }
            return;
        };
        for (key, value) in real {
            let path = format!("{path}.{}", key.as_str().unwrap());
            match shown.get(key) {
                Some(example) => compare(&path, example, value, differences),
                None => differences.push(format!("{path}: is missing, its default is {value:?}")),
            }
        }
    }

    #[test]
    fn every_key_of_the_example_says_what_it_is_for() {
        let mut before = "";
        for (number, line) in EXAMPLE.lines().enumerate() {
            let text = line.trim();
            if !text.is_empty() && !text.starts_with('#') && !text.starts_with('-') {
                assert!(
                    before.starts_with('#') || line.contains(" #"),
                    "config.example.yml:{}: `{text}` has no comment",
                    number + 1
                );
            }
            before = text;
        }
    }

    #[test]
    fn the_defaults_have_no_problem() {
        assert_eq!(Config::default().problems(), []);
    }
}
