//! Benchmarks, side by side and interleaved: each table of `docs/benchmarks.md` names the command here that made it.
//!
//! `cargo run --release --example bench -- enqueue|saturate|kept`. They start the release binary, and Debian's redis-server where it
//! is installed, on sockets of their own. Nothing here asserts a time: a benchmark is read, not passed.

// Figures are rounded and a failed step may end the run: nobody depends on this program staying up.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
#![allow(clippy::indexing_slicing, clippy::expect_used, clippy::disallowed_methods)]

mod enqueue;
mod kept;
mod load;
mod rivals;
mod server;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: u64| {
        let position = args.iter().position(|arg| arg == name);
        position.and_then(|at| args.get(at + 1)).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let force = args.iter().any(|arg| arg == "--force");
    if let Some(load) = server::load_average().filter(|load| *load > 1.0 && !force) {
        eprintln!("the load average is {load:.2}: figures would mislead (--force runs all the same)");
        return ExitCode::from(75);
    }
    match args.first().map(String::as_str) {
        Some("enqueue") => enqueue::run(number("--rounds", 3), number("--seconds", 4)),
        Some("saturate") => enqueue::saturate(number("--seconds", 60)),
        Some("kept") => kept::run(number("--jobs", 1_000_000), number("--rounds", 20)),
        _ => {
            eprintln!(
                "bench enqueue [--rounds N] [--seconds N] | saturate [--seconds N] | kept [--jobs N] [--rounds N]"
            );
            return ExitCode::from(64);
        }
    }
    ExitCode::SUCCESS
}
