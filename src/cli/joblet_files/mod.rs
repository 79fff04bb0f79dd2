//! joblet's files: gzip members of one JSON object per line, in three folders of one folder per job.
//!
//! Owns: the layout, what a line says, reading torn files, writing whole ones. Must not know: the verbs, the command line.
//!
//! ```text
//! DIR/logs/JOB/{stdout,stderr}.log.gz   DIR/metrics/JOB/metrics.jsonl.gz   DIR/events/JOB/{exec,connect,…}_events.jsonl.gz
//! ```

mod kept;
mod layout;
mod line;
mod members;
mod survey;
mod writer;

pub use kept::{kept, next_ordinal};
pub use layout::{FileKind, Source, Tree};
pub use line::Entry;
pub use members::{Piece, Pieces};
pub use writer::FileWriter;
