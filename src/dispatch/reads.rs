//! What the window wants read of the queue, and what comes back.
//!
//! Must not know: what is done with it, how it is read.

use super::lane::Row;
use crate::model::{Priority, Refusal};
use crate::store::{DueCursor, QueueKey, ReadyPage, ReadyTenants, TenantKey};

/// What is to be read next.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Tenants with ready rows, from these on.
    pub tenants: Vec<(Priority, TenantKey)>,
    pub ready: Vec<ReadyRead>,
    /// Rows put aside before.
    pub again: Vec<(Priority, QueueKey)>,
    pub due: Option<DueRead>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ReadyRead {
    pub priority: Priority,
    pub tenant: TenantKey,
    pub after: u64,
    pub tasks: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct DueRead {
    pub from: DueCursor,
    pub until_ms: i64,
    pub rows: usize,
}

impl Reads {
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty() && self.ready.is_empty() && self.again.is_empty() && self.due.is_none()
    }
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    pub tenants: Vec<(Priority, ReadyTenants)>,
    pub ready: Vec<(ReadyRead, ReadyPage)>,
    /// What could not be read and was passed over.
    pub damaged: Vec<Refusal>,
    /// None: the row is gone.
    pub again: Vec<(Priority, QueueKey, Option<Row>)>,
    pub due: Option<DuePage>,
}

#[derive(Debug)]
pub(super) struct DuePage {
    pub rows: Vec<Row>,
    pub next: DueCursor,
    /// When the first task behind `next` is due, if the page reached the present.
    pub end: Option<Option<i64>>,
}
