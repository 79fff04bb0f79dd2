//! What can be typed: every verb, flag and default, as clap types.
//!
//! Owns: the command line's grammar and its help texts. Must not know: what the verbs do.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::ages::parse_age;
use super::args_output::{Export, Import, Logs, Metrics, Search};

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 64 usage, 65 damaged data, 75 temporary (unreachable, locked, port in use), 78 bad configuration.";

/// FetchBox: manifests in, objects out, and every resource's story kept.
#[derive(Debug, Parser)]
#[command(name = "fetchbox", version, propagate_version = true, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// Configuration file. Without one the defaults apply.
    #[arg(long, global = true, value_name = "FILE", env = "FETCHBOX_CONFIG", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Data directory; its run/ folder holds the sockets. Overrides the configuration.
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub data_dir: Option<PathBuf>,
    /// Daemon to talk to: a socket's path or HOST:PORT of its gRPC listener.
    #[arg(long, global = true, value_name = "ADDR", env = "FETCHBOX_ADDR", help_heading = "Global options")]
    pub addr: Option<String>,
    /// What to print: tables for people, or one JSON object per line.
    #[arg(long, global = true, value_enum, default_value_t, help_heading = "Global options")]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    #[default]
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the daemon in the foreground.
    Serve,
    /// Hand over a manifest (JSON or YAML).
    Submit(Submit),
    /// List jobs, newest first.
    Jobs(Jobs),
    /// Show one job, or cancel, retry, delete it.
    Job(Box<Job>),
    /// Print a job's log and its output.
    Logs(Logs),
    /// Find lines in the output of many jobs. Exit 1 if there is none.
    Search(Search),
    /// A job's use of processor, memory, disk and network: numbers and a small chart.
    Metrics(Metrics),
    /// Write jobs' output as joblet's files. The daemon keeps running.
    Export(Export),
    /// Take over joblet's files, or an export. Run it again after a break: nothing is taken twice.
    Import(Import),
    /// Resources that were given up: list, show, replay, purge.
    Dlq(Dlq),
    /// Delete what is older than its retention. Active jobs are never touched.
    Cleanup(Cleanup),
    /// Queue depth, jobs by state, dead letters by code, sizes.
    Stats,
    /// Start nothing new; intake stays open. Survives a restart.
    Pause(Scope),
    /// Undo pause and drain.
    Resume(Scope),
    /// Refuse intake and work the queue empty; the process stays. Survives a restart.
    Drain,
    /// Verify a stopped daemon's data directory, or salvage what is readable.
    Check(Check),
    /// Ask the daemon how it is: exit 0 ready, 75 not.
    Health,
    /// Run in place of joblet-persist, with joblet's own configuration: -config FILE, or `version`.
    Persist {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Work with the configuration.
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// See it work: a small origin, the real daemon and a job of 24 resources, in ./fetchbox-demo.
    Demo(Demo),
    /// Print a shell completion script.
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub struct Submit {
    /// Manifest file, or - for standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Job type: selects the handler.
    #[arg(long, default_value = "")]
    pub job_type: String,
    #[arg(long, default_value = "")]
    pub tenant: String,
    #[arg(long, value_enum, default_value_t)]
    pub priority: PriorityArg,
    /// The same key with the same manifest gives the same job. Without one a random key protects this command's own retries.
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Send the manifest compressed.
    #[arg(long)]
    pub gzip: bool,
    /// Stay until the job ends: exit 0 if it completed, else 1.
    #[arg(long, conflicts_with = "validate")]
    pub watch: bool,
    /// Store nothing: print what is wrong with the manifest, or what would be done.
    #[arg(long)]
    pub validate: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum PriorityArg {
    Low,
    #[default]
    Normal,
    High,
}

#[derive(Debug, Args)]
pub struct Jobs {
    #[arg(long, default_value = "")]
    pub tenant: String,
    #[arg(long, default_value = "")]
    pub job_type: String,
    /// Only jobs in this state; may be repeated.
    #[arg(long = "state", value_enum)]
    pub states: Vec<StateArg>,
    /// Only jobs accepted within this time, for example 90s, 15m, 12h, 7d.
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    pub since: Option<i64>,
    /// Only jobs whose id starts like this.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub id_prefix: String,
    /// At most this many.
    #[arg(long, short = 'n', default_value_t = 20)]
    pub limit: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StateArg {
    Queued,
    InProgress,
    Partial,
    Completed,
    Failed,
    Canceled,
}

#[derive(Debug, Args)]
pub struct Job {
    #[arg(value_name = "ID")]
    pub id: String,
    /// Tell the job's life: attempts, waits and why, where the objects are.
    #[arg(long, group = "action")]
    pub explain: bool,
    /// List the job's resources.
    #[arg(long, group = "action")]
    pub tasks: bool,
    /// Print the manifest as it was accepted.
    #[arg(long, group = "action")]
    pub manifest: bool,
    /// Follow the job until it ends: exit 0 if it completed, else 1.
    #[arg(long, group = "action")]
    pub watch: bool,
    /// Cancel what has not ended.
    #[arg(long, group = "action")]
    pub cancel: bool,
    /// Queue failed and canceled resources again.
    #[arg(long, group = "action")]
    pub retry: bool,
    /// Delete the (ended) job from the ledger.
    #[arg(long, group = "action")]
    pub delete: bool,
    /// With --explain or --retry: this resource only; --retry takes several.
    #[arg(long = "resource", value_name = "RESOURCE")]
    pub resources: Vec<String>,
    /// With --cancel: written into the job's log.
    #[arg(long, requires = "cancel", default_value = "")]
    pub reason: String,
    /// With --delete: delete the stored objects too.
    #[arg(long, requires = "delete")]
    pub objects: bool,
}

#[derive(Debug, Args)]
pub struct Dlq {
    #[command(subcommand)]
    pub verb: DlqVerb,
}

#[derive(Debug, Subcommand)]
pub enum DlqVerb {
    /// List dead letters, oldest first.
    List {
        #[command(flatten)]
        selector: Selector,
        /// At most this many.
        #[arg(long, short = 'n', default_value_t = 50)]
        limit: u32,
    },
    /// Show one dead letter.
    Show {
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Queue dead resources again.
    Replay(Change),
    /// Delete dead letters.
    Purge(Change),
}

#[derive(Debug, Args)]
pub struct Change {
    /// Dead letters by id.
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    #[command(flatten)]
    pub selector: Selector,
    /// At most this many.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub max: u32,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// Needed when nothing restricts the selection.
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Clone, Default, Args)]
pub struct Selector {
    /// Only of this job.
    #[arg(long, value_name = "JOB", default_value = "")]
    pub job: String,
    /// Only failure codes that start like this, for example DOWNLOAD_.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub code: String,
    /// Only of this host:port.
    #[arg(long, value_name = "HOST", default_value = "")]
    pub host: String,
    /// Only those that died longer ago than this, for example 7d.
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    pub older_than: Option<i64>,
}

#[derive(Debug, Args)]
pub struct Cleanup {
    /// Instead of each kind's configured age. 0 means everything that has ended.
    #[arg(long, value_name = "DAYS")]
    pub older_than_days: Option<u32>,
    /// Only this kind; may be repeated.
    #[arg(long = "kind", value_enum)]
    pub kinds: Vec<KindArg>,
    /// Only say what would be deleted.
    #[arg(long)]
    pub dry_run: bool,
    /// Stop after this many deletions.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub max: u64,
    /// Give the space back to the file system before answering.
    #[arg(long)]
    pub compact: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindArg {
    Jobs,
    Logs,
    Idempotency,
    Dlq,
    Queue,
    Uploads,
    Metrics,
    Events,
}

#[derive(Debug, Args)]
pub struct Scope {
    /// Only this job type.
    #[arg(long, default_value = "", conflicts_with = "host")]
    pub job_type: String,
    /// Only this host:port.
    #[arg(long, default_value = "")]
    pub host: String,
}

#[derive(Debug, Args)]
pub struct Check {
    /// The data directory, instead of --data-dir.
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Copy what is readable into this new directory, and list what is not.
    #[arg(long, value_name = "DIR")]
    pub salvage: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Print ok, or every problem.
    Check {
        /// Instead of --config.
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub struct Demo {
    /// Where the demo works. Emptied first, if it is an earlier demo's.
    #[arg(long, value_name = "DIR", default_value = "fetchbox-demo")]
    pub dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_grammar_has_no_contradiction() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_job_can_be_told_one_thing_at_a_time() {
        let both = Cli::try_parse_from(["fetchbox", "job", "x", "--cancel", "--delete"]);
        assert!(both.is_err());
        let alone = Cli::try_parse_from(["fetchbox", "job", "x", "--objects"]);
        assert!(alone.is_err(), "--objects says what to delete, it deletes nothing by itself");
    }
}
