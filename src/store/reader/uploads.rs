//! Reading what attempts have left in the object store.

use fjall::{UserKey, UserValue};

use super::{Reader, UploadRecord, just_after, key_of};
use crate::model::{Refusal, TaskRef};
use crate::store::keys::{self, Family, Space};
use crate::store::records::{self, PartRow, SourceRow, TaskRow, UploadRow};
use crate::store::{Left, Source, UploadPart};

/// Where a task stands, as far as its uploads are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// An attempt runs.
    Leased,
    /// Another attempt will come.
    Open,
    /// Ended, or its job is gone.
    Closed,
}

type Row = Result<(UserKey, UserValue), Refusal>;

impl Reader {
    /// What earlier attempts left. One read of the task's row for almost every task.
    pub fn left(&self, task: TaskRef) -> Result<Left, Refusal> {
        let row: Option<TaskRow> = self.row(Family::Task, &keys::task(task))?;
        let Some(row) = row else { return Ok(Left::default()) };
        let upload = if row.uploads { self.kept_upload(task)? } else { None };
        Ok(Left { interrupted: row.interrupted > 0, upload })
    }

    /// The task's upload that was begun last, with its parts in order.
    fn kept_upload(&self, task: TaskRef) -> Result<Option<(UploadRecord, Vec<UploadPart>)>, Refusal> {
        let prefix = keys::uploads_of(task);
        let mut rows = self.spaces.range(Space::Queue, &prefix.bytes, &keys::after_prefix(&prefix.bytes));
        let Some(last) = rows.next_back() else { return Ok(None) };
        let upload = upload(last)?;
        let prefix = keys::parts_of(task, upload.epoch);
        let parts = self.spaces.range(Space::Queue, &prefix.bytes, &keys::after_prefix(&prefix.bytes));
        let parts = parts.map(part).collect::<Result<Vec<_>, _>>()?;
        Ok(Some((upload, parts)))
    }

    /// Up to `rows` recorded uploads behind `after`, in the order of their keys.
    pub fn uploads(&self, after: Option<(TaskRef, u64)>, rows: usize) -> Result<Vec<UploadRecord>, Refusal> {
        let from = match after {
            Some((task, epoch)) => just_after(&keys::upload(task, epoch)),
            None => vec![Family::Upload as u8],
        };
        self.rows(Space::Queue, &from, &keys::end_of(Family::Upload), rows).map(upload).collect()
    }

    /// Whether an upload of this attempt is recorded.
    pub fn has_upload(&self, task: TaskRef, epoch: u64) -> Result<bool, Refusal> {
        Ok(self.spaces.get(&keys::upload(task, epoch))?.is_some())
    }

    pub fn standing(&self, task: TaskRef) -> Result<Standing, Refusal> {
        let Some(job) = self.job_row(task.job)? else { return Ok(Standing::Closed) };
        let row: Option<TaskRow> = self.row(Family::Task, &keys::task(task))?;
        Ok(match row {
            Some(row) if row.state == TaskRow::LEASED => Standing::Leased,
            Some(row) if row.is_open() => Standing::Open,
            None if !job.job_state()?.is_terminal() => Standing::Open,
            Some(_) | None => Standing::Closed,
        })
    }

    /// What is known of the object that was asked for at this place from this URL.
    pub fn source(&self, bucket: &str, place: &str, url: &str) -> Result<Option<Source>, Refusal> {
        let row: Option<SourceRow> = self.row(Family::Source, &keys::source(keys::source_hash(bucket, place, url)))?;
        row.map(SourceRow::into_source).transpose()
    }

    /// Hashes behind `after` in their order, and when each was last seen to be true.
    pub fn sources_after(&self, after: Option<[u8; 16]>, rows: usize) -> Result<Vec<([u8; 16], i64)>, Refusal> {
        let from = after.map_or_else(|| vec![Family::Source as u8], |hash| just_after(&keys::source(hash)));
        let read = |row: Row| {
            let (key, value) = row?;
            let hash = key_of(Family::Source, &key, |fields| fields.hash())?;
            Ok((hash, records::decode::<SourceRow>("source", &value)?.at_ms))
        };
        self.rows(Space::Ledger, &from, &keys::end_of(Family::Source), rows).map(read).collect()
    }
}

fn upload(row: Row) -> Result<UploadRecord, Refusal> {
    let (key, value) = row?;
    let (task, epoch) = key_of(Family::Upload, &key, |fields| Some((fields.task()?, fields.u64()?)))?;
    records::decode::<UploadRow>("upload", &value)?.into_record(task, epoch)
}

fn part(row: Row) -> Result<UploadPart, Refusal> {
    let (key, value) = row?;
    let index = key_of(Family::UploadPart, &key, |fields| {
        fields.task()?;
        fields.u64()?;
        fields.u32()
    })?;
    Ok(records::decode::<PartRow>("part", &value)?.into_part(index))
}
