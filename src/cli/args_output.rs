//! What can be typed about jobs' output: logs, search, metrics, export, import.
//!
//! Owns: these verbs' flags and help texts. Must not know: what the verbs do.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ages::parse_age;

#[derive(Debug, Args)]
pub struct Logs {
    #[arg(value_name = "ID")]
    pub id: String,
    /// Stay, and print lines as they come, until the job ends.
    #[arg(long, short)]
    pub follow: bool,
    /// Of the job's own lines: this level and above.
    #[arg(long, value_enum, default_value_t)]
    pub level: LevelArg,
    /// Start with the last N records, at most 1000.
    #[arg(long, value_name = "N")]
    pub tail: Option<u32>,
    /// Only what is not older than this, for example 90s, 15m, 12h, 7d.
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    pub since: Option<i64>,
    /// Only this stream; may be repeated. Without `job` the output comes as the job wrote it, byte for byte.
    #[arg(long = "stream", value_enum, value_name = "STREAM")]
    pub streams: Vec<StreamArg>,
    /// Only lines about this resource.
    #[arg(long, default_value = "")]
    pub resource: String,
    /// Only records that contain this text.
    #[arg(long, default_value = "")]
    pub text: String,
    /// Only records that match this regular expression.
    #[arg(long, value_name = "REGEX", default_value = "")]
    pub grep: String,
    /// For --text and --grep: upper and lower case are the same.
    #[arg(long, short)]
    pub ignore_case: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LevelArg {
    #[default]
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StreamArg {
    /// The job's own lines.
    Job,
    Stdout,
    Stderr,
}

#[derive(Debug, Args)]
pub struct Search {
    /// The text to find, or with --regex a regular expression.
    #[arg(value_name = "PATTERN")]
    pub pattern: String,
    #[arg(long, short = 'e')]
    pub regex: bool,
    /// Upper and lower case are the same.
    #[arg(long, short)]
    pub ignore_case: bool,
    /// Only in this job; may be repeated.
    #[arg(long = "job", value_name = "ID")]
    pub jobs: Vec<String>,
    /// Only in jobs of this type.
    #[arg(long, default_value = "")]
    pub job_type: String,
    #[arg(long, default_value = "")]
    pub tenant: String,
    /// Only this stream, stdout or stderr.
    #[arg(long = "stream", value_enum, value_name = "STREAM")]
    pub streams: Vec<StreamArg>,
    /// Only what is not older than this, for example 90s, 15m, 12h, 7d.
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    pub since: Option<i64>,
    /// At most this many lines.
    #[arg(long, short = 'n', default_value_t = 100)]
    pub limit: u32,
}

#[derive(Debug, Args)]
pub struct Metrics {
    #[arg(value_name = "ID")]
    pub id: String,
    /// One value for each stretch of this length, at least 1s.
    #[arg(long, value_name = "AGE", value_parser = parse_age, default_value = "10s")]
    pub step: i64,
    /// Only what is not older than this, for example 90s, 15m, 12h, 7d.
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    pub since: Option<i64>,
    /// Only this one, for example cpu_usage; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub series: Vec<String>,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["jobs", "all"])))]
pub struct Export {
    /// Only this job; may be repeated.
    #[arg(long = "job", value_name = "ID")]
    pub jobs: Vec<String>,
    /// Every job there is.
    #[arg(long)]
    pub all: bool,
    /// Where to write. Files of the same jobs are replaced.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct Import {
    /// The folder that holds logs, metrics and events.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use crate::cli::args::Cli;

    #[test]
    fn the_help_says_how_many_records_a_tail_has_at_most() {
        let mut command = Cli::command();
        let logs = command.find_subcommand_mut("logs").unwrap();
        assert!(logs.render_long_help().to_string().contains("at most 1000"));
    }

    #[test]
    fn an_export_says_of_which_jobs() {
        assert!(Cli::try_parse_from(["fetchbox", "export", "d"]).is_err());
        assert!(Cli::try_parse_from(["fetchbox", "export", "--all", "--job", "j", "d"]).is_err());
        assert!(Cli::try_parse_from(["fetchbox", "export", "--job", "j", "--job", "k", "d"]).is_ok());
    }
}
