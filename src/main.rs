//! The binary: everything it does stands in the library.
#![forbid(unsafe_code)]

/// Bodies come in pieces that one thread allocates and another frees: with the C library's allocator threads wait for each other's
/// arenas, which takes a fifth of the time of a small download.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    fetchbox::cli::main()
}
