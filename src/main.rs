//! The binary: everything it does stands in the library.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    fetchbox::cli::main()
}
