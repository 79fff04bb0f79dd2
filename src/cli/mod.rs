//! The verbs: what a person or a script can ask for on the command line.
//!
//! Owns: arguments, printing, exit codes. Must not know: rooms behind the API; it speaks to a daemon as any client would.

mod admin;
mod args;
mod connect;
mod demo;
mod dlq;
mod exit;
mod jobs;
mod logs;
mod offline;
mod out;
mod serve;
mod show;
mod submit;
mod watch;
mod wire;
mod words;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};

use args::{Cli, ConfigVerb, Verb};
use exit::{Exit, Failure, Result};
use out::Out;

use crate::clock::Clock;

/// Parses the command line, does what it says, and turns the end into an exit code.
pub fn main() -> ExitCode {
    let exit = match Cli::try_parse() {
        Ok(cli) => match run(cli) {
            Ok(()) => Exit::Ok,
            Err(failure) => {
                if !failure.message.is_empty() {
                    out::complain(&failure);
                }
                failure.exit
            }
        },
        Err(error) => {
            // Printing can fail only on a closed pipe.
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Ok,
                _ => Exit::Usage,
            }
        }
    };
    ExitCode::from(exit as u8)
}

fn run(cli: Cli) -> Result {
    let Cli { global, verb } = cli;
    let out = Out::new(global.output);
    match verb {
        Verb::Serve => many_threads()?.block_on(serve::run(&global)),
        Verb::Demo(demo) => many_threads()?.block_on(demo::run(&demo, out)),
        Verb::Check(check) => offline::check(&global, &check, out),
        Verb::Config { verb: ConfigVerb::Check { file } } => offline::config_check(&global, file, out),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fetchbox", &mut script);
            out.line(String::from_utf8_lossy(&script).trim_end())
        }
        Verb::Submit(submit) => one_thread()?.block_on(submit::run(&global, submit, out)),
        Verb::Jobs(jobs) => one_thread()?.block_on(jobs::list(&global, jobs, out)),
        Verb::Job(job) => one_thread()?.block_on(jobs::one(&global, *job, out)),
        Verb::Logs(logs) => one_thread()?.block_on(logs::run(&global, logs, out)),
        Verb::Dlq(dlq) => one_thread()?.block_on(dlq::run(&global, dlq.verb, out)),
        Verb::Cleanup(cleanup) => one_thread()?.block_on(admin::cleanup(&global, cleanup, out)),
        Verb::Stats => one_thread()?.block_on(admin::stats(&global, out)),
        Verb::Pause(scope) => one_thread()?.block_on(admin::control(&global, wire::Switch::Pause, scope, out)),
        Verb::Resume(scope) => one_thread()?.block_on(admin::control(&global, wire::Switch::Resume, scope, out)),
        Verb::Drain => {
            let everything = args::Scope { job_type: String::new(), host: String::new() };
            one_thread()?.block_on(admin::control(&global, wire::Switch::Drain, everything, out))
        }
        Verb::Health => one_thread()?.block_on(admin::health(&global, out)),
    }
}

/// For the daemon: one worker thread for each core.
fn many_threads() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("fetchbox").build().map_err(no_runtime)
}

/// For a client: starts in no time.
fn one_thread() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_runtime)
}

fn no_runtime(error: std::io::Error) -> Failure {
    Failure::new(Exit::Temporary, format_args!("cannot start the runtime: {error}"))
}

/// Wall time for ages and relative times.
fn now_ms() -> i64 {
    Clock::system().now_ms()
}
