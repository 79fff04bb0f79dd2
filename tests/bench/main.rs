//! Benchmarks, side by side and interleaved: each table of `docs/benchmarks.md` names the command here that made it.
//!
//! `cargo run --release --example bench -- enqueue|saturate|kept|urls|big|output|felt|search`. They start the release binary, and Debian's redis-server
//! and rclone where they are installed, on sockets of their own. Nothing here asserts a time: a benchmark is read, not passed.

// Figures are rounded and a failed step may end the run: nobody depends on this program staying up.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
#![allow(clippy::indexing_slicing, clippy::expect_used, clippy::disallowed_methods)]

mod big;
mod corpus;
mod enqueue;
mod felt;
mod kept;
mod load;
mod output;
mod process;
mod rivals;
mod search;
mod server;
mod stubs;
mod urls;

// The same ones as in the tests.
#[path = "../harness/flood.rs"]
mod flood;
#[path = "../harness/null_s3.rs"]
mod null_s3;
#[path = "../harness/s3.rs"]
mod s3;

use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "\
bench enqueue [--rounds N] [--seconds N] [--shapes N]
      saturate [--seconds N]
      kept [--jobs N] [--rounds N]
      urls [--rounds N] [--rclone PATH] [--files N] [--stores null,s3s-fs] [--sizes 0,1,2] [--alone]
      big [--objects N] [--size 2GiB]
      output [--rounds N]
      felt [--rates 20000,100000,0] [--seconds N] [--between-ms N] [--jobs N]
      search [--size 5GiB] [--jobs N]";

/// `100`, `64KiB`, `10MiB`, `2GiB`.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text.get(digits.len()..)? {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    Some(digits.parse::<u64>().ok()? << shift)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let text = |name: &str| {
        let position = args.iter().position(|arg| arg == name);
        position.and_then(|at| args.get(at + 1)).cloned()
    };
    let number = |name: &str, default: u64| text(name).and_then(|text| size(&text)).unwrap_or(default);
    let force = args.iter().any(|arg| arg == "--force");
    if let Some(load) = server::load_average().filter(|load| *load > 1.0 && !force) {
        eprintln!("the load average is {load:.2}: figures would mislead (--force runs all the same)");
        return ExitCode::from(75);
    }
    match args.first().map(String::as_str) {
        Some("enqueue") => enqueue::run(number("--rounds", 9), number("--seconds", 1), number("--shapes", 5) as usize),
        Some("saturate") => enqueue::saturate(number("--seconds", 60)),
        Some("kept") => kept::run(number("--jobs", 1_000_000), number("--rounds", 20)),
        Some("urls") => {
            let list = |name: &str, default: &str| -> Vec<String> {
                text(name).unwrap_or_else(|| default.to_owned()).split(',').map(str::to_owned).collect()
            };
            urls::run(&urls::Plan {
                rounds: number("--rounds", 5),
                rclone: text("--rclone").map(Into::into),
                files: text("--files").and_then(|text| text.parse().ok()),
                stores: list("--stores", "null,s3s-fs"),
                sizes: list("--sizes", "0,1,2").iter().filter_map(|at| at.parse().ok()).collect(),
                alone: args.iter().any(|arg| arg == "--alone"),
            });
        }
        Some("big") => big::run(number("--objects", 8), number("--size", 2 << 30)),
        Some("output") => output::run(number("--rounds", 3)),
        Some("felt") => {
            let rates = text("--rates").unwrap_or_else(|| "20000,100000,0".to_owned());
            let rates: Vec<u64> = rates.split(',').filter_map(|rate| rate.parse().ok()).collect();
            let (seconds, between) = (number("--seconds", 8), number("--between-ms", 300));
            felt::run(&rates, Duration::from_secs(seconds), Duration::from_millis(between), number("--jobs", 1));
        }
        Some("search") => search::run(number("--size", 5 << 30), number("--jobs", 1_000) as usize),
        Some(verb) if stubs::serve(verb) => {}
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    }
    ExitCode::SUCCESS
}
