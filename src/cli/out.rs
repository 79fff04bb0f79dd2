//! Where the verbs print: tables for people, one JSON object per line for scripts.
//!
//! Owns: stdout, and that a closed pipe ends the command quietly. Must not know: what is printed.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{Table, presets};

use super::args::Output;
use super::exit::Result;
use super::wire;

/// One per command.
#[derive(Debug, Clone, Copy)]
pub struct Out {
    output: Output,
}

impl Out {
    pub fn new(output: Output) -> Self {
        Self { output }
    }

    pub fn is_json(self) -> bool {
        self.output == Output::Json
    }

    /// Somebody looks at it: progress bars and colours make sense.
    pub fn is_tty(self) -> bool {
        !self.is_json() && io::stdout().is_terminal() && io::stderr().is_terminal()
    }

    pub fn line(self, text: impl fmt::Display) -> Result {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()?;
        Ok(())
    }

    /// As it is, nothing added.
    pub fn raw(self, bytes: &[u8]) -> Result {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(())
    }

    /// Bytes from outside would drive a terminal; a file or a pipe takes them as they are.
    pub fn to_terminal(self) -> bool {
        io::stdout().is_terminal()
    }

    /// One object, one line, in the protobuf's JSON mapping.
    pub fn json<M: wire::Named>(self, message: &M) -> Result {
        self.line(wire::json(message)?)
    }

    pub fn table(self, table: &Table) -> Result {
        self.line(table.trim_fmt())
    }
}

/// An empty table. Rows stay whole on one line each: ids and digests are there to be copied.
pub fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.map(str::to_uppercase));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// To stderr, never failing: there is nobody left to tell.
pub fn complain(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
