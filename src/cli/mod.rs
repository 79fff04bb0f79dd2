//! The verbs: what a person or a script can ask for on the command line.
//!
//! Owns: arguments, printing, exit codes. Must not know: rooms behind the API; it speaks to a daemon as any client would.

mod admin;
mod ages;
mod args;
mod args_output;
mod chart;
mod connect;
mod demo;
mod dlq;
mod exit;
mod export;
mod import;
mod import_report;
mod joblet_files;
mod jobs;
mod logs;
mod metrics;
mod offline;
mod out;
mod persist;
mod pieces;
mod records;
mod search;
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
    let told = |result: Result| match result {
        Ok(()) => Exit::Ok,
        Err(failure) => {
            if !failure.message.is_empty() {
                out::complain(&failure);
            }
            failure.exit
        }
    };
    // joblet's core starts its persist service by that name and with flags of its own kind.
    if let Some(arguments) = persist::asked_for(std::env::args_os()) {
        return ExitCode::from(told(persist(&arguments)) as u8);
    }
    let exit = match Cli::try_parse() {
        Ok(cli) => told(run(cli)),
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
        Verb::Search(search) => one_thread()?.block_on(search::run(&global, search, out)),
        Verb::Metrics(metrics) => one_thread()?.block_on(metrics::run(&global, metrics, out)),
        Verb::Export(export) => one_thread()?.block_on(export::run(&global, export, out)),
        Verb::Import(import) => one_thread()?.block_on(import::run(&global, &import, out)),
        Verb::Persist { arguments } => persist(&arguments),
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

fn persist(arguments: &[std::ffi::OsString]) -> Result {
    match persist::order(arguments)? {
        persist::Order::Say(text) => out::Out::new(args::Output::Table).line(text),
        persist::Order::Serve { file } => many_threads()?.block_on(persist::run(file)),
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
