//! The daemon in the place of joblet's own persist service.
//!
//! Owns: being called by that name, its flags, which configuration file it is. Must not know: what the file's keys mean.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::exit::{Exit, Failure, Result};
use super::{connect, out, serve};
use crate::config::joblet;

/// Names under which joblet's core starts it.
const NAMES: [&str; 2] = ["persist", "joblet-persist"];
const USAGE: &str = "usage: persist [-config FILE]\n       persist version";

/// What the arguments behind the name ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    Say(String),
    Serve { file: Option<PathBuf> },
}

/// The arguments behind the name, when it is that name: the program's own, or its first argument.
pub fn asked_for(mut arguments: impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    let own = arguments.next()?;
    let named = Path::new(&own).file_name().and_then(OsStr::to_str).is_some_and(|name| NAMES.contains(&name));
    if !named && arguments.next()? != "persist" {
        return None;
    }
    Some(arguments.collect())
}

/// Flags as Go reads them: one dash or two, the value behind `=` or in the next argument.
pub fn order(arguments: &[OsString]) -> Result<Order> {
    let usage = |what: String| Failure::new(Exit::Usage, what).hint(USAGE);
    let mut file = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(text) = argument.to_str() else {
            return Err(usage(format!("persist: {} is no argument", argument.display())));
        };
        let flag = text.strip_prefix("--").or_else(|| text.strip_prefix('-'));
        match flag.map(|flag| flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)))) {
            None if text == "version" => return Ok(Order::Say(version())),
            Some(("version", None)) => return Ok(Order::Say(version())),
            Some(("h" | "help", None)) => return Ok(Order::Say(USAGE.to_owned())),
            Some(("config", Some(value))) => file = Some(PathBuf::from(value)),
            Some(("config", None)) => match rest.next() {
                Some(value) => file = Some(PathBuf::from(value)),
                None => return Err(usage("persist: -config needs a file".to_owned())),
            },
            None | Some(_) => return Err(usage(format!("persist: {text:?} is neither a flag nor `version`"))),
        }
    }
    Ok(Order::Serve { file })
}

fn version() -> String {
    format!("persist version {} (fetchbox)", env!("CARGO_PKG_VERSION"))
}

pub async fn run(file: Option<PathBuf>) -> Result {
    let file = chosen(file, std::env::var_os("JOBLET_CONFIG_PATH"), &places());
    let joblet::Loaded { config, warnings } =
        joblet::load(file.as_deref(), std::env::vars_os()).map_err(connect::bad_config)?;
    crate::telemetry::init(&config.log).map_err(|message| Failure::new(Exit::Config, message))?;
    match &file {
        Some(file) => tracing::info!(file = %file.display(), "joblet's configuration"),
        None => tracing::info!("no joblet-config.yml was found: joblet's defaults apply"),
    }
    for warning in warnings {
        tracing::warn!(place = warning.place, "{}", warning.message);
    }
    for socket in config.listen.unix_paths(&config.data_dir) {
        if let Some(folder) = socket.parent()
            && let Err(error) = std::fs::create_dir_all(folder)
        {
            return Err(Failure::new(Exit::Config, format_args!("{}: {error}", folder.display())));
        }
    }
    // Nobody may be reading: joblet's core need not.
    serve::with(config, |line| {
        let _ = out::Out::new(super::args::Output::Table).line(line);
        Ok(())
    })
    .await
}

/// The file of the flag, or that of the variable: whoever names a file means it, and one that is missing is an error. Only without either
/// the first of `places` where there is one.
fn chosen(flag: Option<PathBuf>, variable: Option<OsString>, places: &[PathBuf]) -> Option<PathBuf> {
    let named = flag.or_else(|| variable.filter(|path| !path.is_empty()).map(PathBuf::from));
    named.or_else(|| places.iter().find(|place| place.is_file()).cloned())
}

/// Where joblet and its installation have it, in this order.
fn places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    // A link has been put where the original stood: its folder counts, not that of the file it leads to.
    let called = std::env::args_os().next().map(PathBuf::from).filter(|path| path.components().count() > 1);
    if let Some(folder) = called.or_else(|| std::env::current_exe().ok()).as_deref().and_then(Path::parent) {
        places.push(folder.join("joblet-config.yml"));
        places.push(folder.join("config/joblet-config.yml"));
        places.push(folder.join("../config/joblet-config.yml"));
    }
    places.push(PathBuf::from("/opt/joblet/config/joblet-config.yml"));
    places.push(PathBuf::from("/etc/joblet/joblet-config.yml"));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn it_answers_to_both_names_and_as_a_verb() {
        let asked = |text: &str| asked_for(arguments(text).into_iter());
        assert_eq!(asked("/opt/joblet/bin/persist -config /x"), Some(arguments("-config /x")));
        assert_eq!(asked("joblet-persist"), Some(vec![]));
        assert_eq!(asked("fetchbox persist version"), Some(arguments("version")));
        assert_eq!(asked("fetchbox serve"), None);
        assert_eq!(asked("fetchbox"), None);
        assert_eq!(asked("/srv/persist/fetchbox jobs"), None);
    }

    #[test]
    fn a_file_that_the_environment_names_is_not_passed_over_when_it_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("joblet-config.yml");
        std::fs::write(&there, "persist: {}\n").unwrap();
        let places = [dir.path().join("no"), there.clone()];
        let missing = PathBuf::from("/nowhere/joblet-config.yml");
        let variable = || Some(missing.clone().into_os_string());
        assert_eq!(chosen(None, variable(), &places), Some(missing.clone()));
        assert_eq!(chosen(Some("/flag".into()), variable(), &places), Some("/flag".into()));
        for unset in [None, Some(OsString::new())] {
            assert_eq!(chosen(None, unset, &places), Some(there.clone()));
        }
        assert_eq!(chosen(None, None, &places[..1]), None);
    }

    #[test]
    fn flags_are_read_as_joblet_gives_them() {
        let file = |path: &str| Order::Serve { file: Some(PathBuf::from(path)) };
        for text in ["-config /x", "--config /x", "-config=/x", "--config=/x"] {
            assert_eq!(order(&arguments(text)).unwrap(), file("/x"), "{text}");
        }
        assert_eq!(order(&[]).unwrap(), Order::Serve { file: None });
        assert!(
            matches!(order(&arguments("version")).unwrap(), Order::Say(line) if line.starts_with("persist version "))
        );
        for wrong in ["-config", "-x", "serve", "--config=/x extra"] {
            assert_eq!(order(&arguments(wrong)).unwrap_err().exit, Exit::Usage, "{wrong}");
        }
    }
}
