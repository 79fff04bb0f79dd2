//! `serve`: the daemon in the foreground.
//!
//! Owns: from a configuration to a running daemon to an exit code, and the process's signals. Must not know: the rooms.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::args::Global;
use super::exit::{Exit, Failure, Result};
use super::{connect, out};
use crate::config::Config;
use crate::daemon::{self, Ended, Listeners, StartError, StartErrorKind};
use crate::telemetry;

/// Signals this close together count once.
const ONE_WISH: Duration = Duration::from_millis(100);

pub async fn run(global: &Global) -> Result {
    let config = connect::config(global)?;
    telemetry::init(&config.log).map_err(|message| Failure::new(Exit::Config, message))?;
    let stdout = out::Out::new(super::args::Output::Table);
    with(config, |line| stdout.line(line)).await
}

/// A daemon to its end; `ready` is given the line that says where it listens. Logging is set up already.
pub async fn with(config: Config, ready: impl FnOnce(String) -> Result) -> Result {
    let shutdown = CancellationToken::new();
    // Before anything is opened: a signal during a long recovery must not kill it half-way.
    watch_signals(shutdown.clone()).map_err(|error| Failure::new(Exit::Temporary, error))?;
    let daemon = daemon::build(config, Listeners::default()).await.map_err(|error| start_failure(&error))?;
    ready(daemon.ready_line())?;
    match daemon.run(shutdown).await {
        Ended::Drained => Ok(()),
        Ended::Unfinished(what) => Err(Failure::failed(format_args!("stopped before everything had ended: {what}"))
            .hint("nothing acknowledged is lost; what was in flight runs again at the next start")),
        Ended::Fault(why) => Err(Failure::failed(format_args!("the store failed: {why}"))
            .hint("restart it: everything acknowledged is on disk and is checked at the start")),
    }
}

pub fn start_failure(error: &StartError) -> Failure {
    let (exit, hint) = match error.kind {
        StartErrorKind::Damaged => (
            Exit::Damaged,
            "look at it with `fetchbox check`, save what is readable with `fetchbox check --salvage DIR`",
        ),
        StartErrorKind::Temporary => (Exit::Temporary, ""),
        StartErrorKind::SetUp => (Exit::Config, ""),
    };
    Failure::new(exit, error).hint(hint)
}

/// The first SIGTERM or SIGINT drains. The second one ends the process at once with code 1: what was acknowledged is on
/// disk, and the next start takes up the rest.
pub fn watch_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let name = first_of(&mut term, &mut int).await;
        tracing::info!(signal = name, "draining; a second signal stops at once");
        shutdown.cancel();
        // `timeout` and some supervisors signal the process and then its group: that is one wish, not two. What came
        // meanwhile stays with the old listeners.
        tokio::time::sleep(ONE_WISH).await;
        let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
            return;
        };
        let name = first_of(&mut term, &mut int).await;
        out::complain(format_args!("fetchbox: second signal ({name}), stopping without draining"));
        std::process::exit(Exit::Failed as i32);
    });
    Ok(())
}

async fn first_of(term: &mut Signal, int: &mut Signal) -> &'static str {
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    }
}
