//! From a file and the environment to a `Config`.
//!
//! Owns: precedence (defaults < file < environment) and telling where each mistake stands. Must not know: what the keys mean.

use std::ffi::OsString;
use std::path::Path;

use serde_yaml::{Mapping, Value};

use super::Config;
use super::problem::{Invalid, Problem};

/// `FETCHBOX__WORKER__IN_FLIGHT` sets `worker.in_flight`.
const PREFIX: &str = "FETCHBOX__";

/// Reads `file` if there is one, lays the environment over it and checks the whole.
///
/// # Errors
/// Every problem found; those of a file that cannot be read as a configuration hide the later ones.
pub fn load(file: Option<&Path>, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Config, Invalid> {
    checked(file, env, Config::problems)
}

/// As [`load`], and reads the files with secrets as the daemon's start does.
///
/// # Errors
/// As [`load`]; each of those files that cannot be used is a problem too.
pub fn load_with_secrets(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Config, Invalid> {
    checked(file, env, |config| [config.problems(), config.secret_problems()].concat())
}

fn checked(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    check: impl Fn(&Config) -> Vec<Problem>,
) -> Result<Config, Invalid> {
    let tree = match file {
        Some(path) => read(path).map_err(|problem| Invalid { problems: vec![problem] })?,
        None => Value::Mapping(Mapping::new()),
    };
    let (config, mut problems) = overlay(tree, env);
    problems.extend(check(&config));
    if problems.is_empty() { Ok(config) } else { Err(Invalid { problems }) }
}

fn read(path: &Path) -> Result<Value, Problem> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| Problem::at(&name, error.to_string()))?;
    let located = |error: &serde_yaml::Error| locate(&name, error);
    // The untyped tree knows duplicate keys, the typed reading knows lines: a value tree has forgotten them.
    let tree: Value = serde_yaml::from_str(&text).map_err(|error| located(&error))?;
    if tree.is_null() {
        return Ok(Value::Mapping(Mapping::new()));
    }
    serde_yaml::from_str::<Config>(&text).map_err(|error| located(&error))?;
    Ok(tree)
}

pub(super) fn locate(name: &str, error: &serde_yaml::Error) -> Problem {
    let message = error.to_string();
    let Some(at) = error.location() else { return Problem::at(name, message) };
    let (line, column) = (at.line(), at.column());
    let said = format!(" at line {line} column {column}");
    Problem::at(format!("{name}:{line}:{column}"), message.replace(&said, ""))
}

/// Applies each variable by itself, so that a mistake is blamed on the one that made it.
pub(super) fn overlay(tree: Value, env: impl IntoIterator<Item = (OsString, OsString)>) -> (Config, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut config = match serde_yaml::from_value(tree.clone()) {
        Ok(config) => config,
        Err(error) => {
            problems.push(Problem::at("configuration", error.to_string()));
            Config::default()
        }
    };
    let mut tree = tree;
    let mut variables: Vec<_> =
        env.into_iter().filter(|(name, _)| name.as_encoded_bytes().starts_with(PREFIX.as_bytes())).collect();
    variables.sort();
    for (name, value) in variables {
        match apply(&tree, &name, value) {
            Ok((next, read)) => (tree, config) = (next, read),
            Err(problem) => problems.push(problem),
        }
    }
    (config, problems)
}

/// The tree and the configuration with one variable more.
fn apply(tree: &Value, name: &OsString, value: OsString) -> Result<(Value, Config), Problem> {
    let place = format!("environment {}", name.to_string_lossy());
    let text = value.into_string().map_err(|_| Problem::at(&place, "is not UTF-8"))?;
    let keys = name.to_string_lossy()[PREFIX.len()..].to_ascii_lowercase();
    let keys: Vec<&str> = keys.split("__").collect();
    if keys.iter().any(|key| key.is_empty()) {
        return Err(Problem::at(place, "does not name a key: write FETCHBOX__SECTION__KEY"));
    }
    // YAML first, so that numbers and lists work; then as plain text, so that a bucket may be called 2026.
    let typed = serde_yaml::from_str(&text).unwrap_or_else(|_| Value::String(text.clone()));
    let mut first = None;
    for candidate in [typed, Value::String(text)] {
        let mut next = tree.clone();
        set(&mut next, &keys, candidate).map_err(|message| Problem::at(&place, message))?;
        match serde_yaml::from_value(next.clone()) {
            Ok(config) => return Ok((next, config)),
            Err(error) => first = first.or(Some(error)),
        }
    }
    let message = first.map(|error| error.to_string()).unwrap_or_default();
    Err(Problem::at(place, message))
}

fn set(tree: &mut Value, keys: &[&str], value: Value) -> Result<(), String> {
    let [key, rest @ ..] = keys else {
        *tree = value;
        return Ok(());
    };
    if tree.is_null() {
        *tree = Value::Mapping(Mapping::new());
    }
    let Value::Mapping(map) = tree else { return Err(format!("`{key}` is looked for in something without keys")) };
    set(map.entry(Value::String((*key).to_owned())).or_insert(Value::Null), rest, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str, env: &[(&str, &str)]) -> Result<Config, Invalid> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.yml");
        std::fs::write(&file, text).unwrap();
        let result = load(Some(&file), env.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))));
        result.map_err(|mut invalid| {
            for problem in &mut invalid.problems {
                problem.place = problem.place.replace(&format!("{}/", dir.path().display()), "");
            }
            invalid
        })
    }

    fn problem(text: &str, env: &[(&str, &str)]) -> Problem {
        let mut problems = load_text(text, env).unwrap_err().problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.remove(0)
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(load_text("", &[]).unwrap().data_dir, Config::default().data_dir);
        assert_eq!(load_text("# nothing\n", &[]).unwrap().data_dir, Config::default().data_dir);
    }

    #[test]
    fn a_misspelt_key_is_shown_with_file_line_and_column() {
        let problem = problem("data_dir: /x\nlisten:\n  htpp: off\n", &[]);
        assert_eq!(problem.place, "c.yml:3:3");
        assert!(problem.message.contains("htpp") && problem.message.contains("expected one of"), "{}", problem.message);
        assert!(!problem.message.contains("at line"), "{}", problem.message);
    }

    #[test]
    fn a_key_written_twice_is_refused_with_its_place() {
        for text in ["data_dir: /x\ndata_dir: /y\n", "handlers:\n  a: {}\n  a: {}\n"] {
            let problem = problem(text, &[]);
            assert!(problem.place.starts_with("c.yml:"), "{problem:?}");
            assert!(problem.message.contains("duplicate"), "{problem:?}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_refused_with_its_place() {
        let wrong = problem("drain_deadline_ms: soon\n", &[]);
        assert!(wrong.place.starts_with("c.yml:1:"), "{wrong:?}");
        let wrong = problem("listen:\n  http: nowhere\n", &[]);
        assert!(wrong.place.starts_with("c.yml:2:"), "{wrong:?}");
        assert!(wrong.message.contains("nowhere"), "{wrong:?}");
        let broken = problem("listen: [\n", &[]);
        assert!(broken.place.starts_with("c.yml:"), "{broken:?}");
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let config = load_text(
            "data_dir: /file\ndrain_deadline_ms: 1000\n",
            &[
                ("FETCHBOX__DATA_DIR", "/env"),
                ("FETCHBOX__LISTEN__HTTP", "off"),
                ("FETCHBOX__LISTEN__SOCKET_MODE", "0600"),
                ("FETCHBOX__STORAGE__BUCKET", "2026"),
                ("FETCHBOX__WORKER__ALLOW_NETWORKS", "[127.0.0.0/8, \"::1/128\"]"),
                ("FETCHBOX_ADDR", "not ours"),
            ],
        )
        .unwrap();
        assert_eq!(config.data_dir, Path::new("/env"));
        assert_eq!(config.drain_deadline_ms, 1000);
        assert_eq!(config.listen.http, super::super::TcpAt::Off);
        assert_eq!(config.listen.socket_mode.0, 0o600);
        assert_eq!(config.storage.bucket, "2026");
        assert_eq!(config.worker.allow_networks.len(), 2);
    }

    #[test]
    fn every_wrong_variable_is_blamed_by_name() {
        let invalid = load_text(
            "",
            &[("FETCHBOX__LISTEN__HTPP", "off"), ("FETCHBOX__NOPE", "1"), ("FETCHBOX__DRAIN_DEADLINE_MS", "soon")],
        )
        .unwrap_err();
        let places: Vec<_> = invalid.problems.iter().map(|p| p.place.as_str()).collect();
        assert_eq!(
            places,
            [
                "environment FETCHBOX__DRAIN_DEADLINE_MS",
                "environment FETCHBOX__LISTEN__HTPP",
                "environment FETCHBOX__NOPE"
            ]
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let invalid = load(Some(Path::new("/nonexistent/f.yml")), []).unwrap_err();
        assert!(invalid.to_string().contains("/nonexistent/f.yml"), "{invalid}");
    }
}
