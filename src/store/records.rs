//! What the keys' values hold: protobuf messages, so that a field can be added and old data stay readable.
//!
//! Owns: the value encoding and its translation to and from the model. A number, once used, keeps its meaning for ever.
//! Must not know: keys, transactions, who asks.

mod job;
mod queue;
mod spec;
mod task;
mod upload;

pub use job::{JobRow, LogRow, NameRow, priority_number};
pub use queue::{ControlsRow, CountersRow, IdempotencyRow, LeaseRow, MarkRow, QueueRow, ReadyRow};
pub use spec::{SpecRow, TaskSpecRow};
pub use task::{AttemptRow, DeadLetterRow, FailedRow, FailureRow, ObjectRow, TaskRow};
pub use upload::{PartRow, SourceRow, UploadRow};

use prost::Message;

use crate::model::{Refusal, RefusalCode};

/// A row that cannot be read. Says which, so that `check` and a person can find it.
pub fn damaged(what: impl std::fmt::Display) -> Refusal {
    Refusal::new(
        RefusalCode::DataLoss,
        format!("{what} is damaged and cannot be read; stop the daemon and run `fetchbox check`"),
    )
}

/// Decodes a row; a damaged one is DATA_LOSS, never a default.
pub fn decode<M: Message + Default>(what: &str, bytes: &[u8]) -> Result<M, Refusal> {
    M::decode(bytes).map_err(|error| damaged(format!("{what} row ({error})")))
}

/// 32 bytes of a digest, or DATA_LOSS.
pub fn digest(what: &str, bytes: &[u8]) -> Result<[u8; 32], Refusal> {
    bytes.try_into().map_err(|_| damaged(format!("{what} digest")))
}

/// Maps are written sorted, so that equal rows are equal bytes.
pub type Pairs = std::collections::BTreeMap<String, String>;
