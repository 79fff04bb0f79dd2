//! What text a block may contain, small enough to be read instead of the block.
//!
//! Owns: the filter's bytes and what they promise: never a false no. Must not know: blocks, queries.

use crate::model::OutputRecord;

/// Empty: may contain anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextFilter(Vec<u8>);

impl TextFilter {
    pub fn of(records: &[OutputRecord]) -> Self {
        let _ = records;
        Self::default()
    }

    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// False only when no stream of the block contains `text`. `ignore_case`: in ASCII.
    pub fn may_contain(&self, text: &[u8], ignore_case: bool) -> bool {
        let _ = (text, ignore_case);
        true
    }
}
