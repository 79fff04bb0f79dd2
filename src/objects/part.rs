//! What is left of an upload when its process is gone, and what a later one needs to go on.

/// One part that is safely in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// From 0.
    pub index: u32,
    /// What the store calls it; local: nothing.
    pub id: String,
    /// Bytes of the body up to its end.
    pub end_bytes: u64,
}

/// An upload of an earlier attempt, as it was recorded.
#[derive(Debug, Clone, Default)]
pub struct Unfinished {
    pub upload_id: String,
    /// The mark of the try that began it.
    pub stage: String,
    pub part_bytes: u64,
    /// In order, without gaps.
    pub parts: Vec<Part>,
}
