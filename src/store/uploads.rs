//! Upload verbs: what an attempt has safely in the object store, so that a later one can go on.
//!
//! Owns: upload rows, one row a part, and the versions of objects that are known. Must not know: how bytes are sent.

use super::keys::{self, Family, Key};
use super::records::{PartRow, SourceRow, TaskRow, UploadRow};
use super::tx::Tx;
use super::verbs::{Source, UploadPart, UploadRecord};
use crate::model::{Refusal, RefusalCode, TaskRef};

/// Parts one upload can have: S3's own limit.
const PARTS_MAX: usize = 10_000;
/// Uploads one task can have left behind: one for each attempt at most.
const UPLOADS_MAX: usize = 1_000;

/// STALE unless the attempt that begins it holds the lease.
pub fn begun(tx: &mut Tx<'_>, upload: &UploadRecord) -> Result<(), Refusal> {
    let row = tx.task(upload.task)?;
    let held = row.filter(|row| row.state == TaskRow::LEASED && row.epoch == upload.epoch);
    let mut row = held.ok_or_else(|| stale(upload.task, "the attempt holds no lease any more"))?;
    if !row.uploads {
        row.uploads = true;
        tx.put_task(upload.task, &row);
    }
    tx.put_row(keys::upload(upload.task, upload.epoch), &UploadRow::new(upload));
    Ok(())
}

/// STALE when the upload was aborted meanwhile.
pub fn part_stored(tx: &mut Tx<'_>, task: TaskRef, epoch: u64, part: UploadPart) -> Result<(), Refusal> {
    if tx.get(&keys::upload(task, epoch))?.is_none() {
        return Err(stale(task, "the upload is not recorded any more"));
    }
    tx.put_row(keys::upload_part(task, epoch, part.index), &PartRow::new(part));
    Ok(())
}

/// STALE when the upload was aborted meanwhile.
pub fn completing(tx: &mut Tx<'_>, task: TaskRef, epoch: u64, sha256: [u8; 32], size: u64) -> Result<(), Refusal> {
    let key = keys::upload(task, epoch);
    let row: Option<UploadRow> = tx.row(Family::Upload, &key)?;
    let mut row = row.ok_or_else(|| stale(task, "the upload is not recorded any more"))?;
    row.sha256 = sha256.to_vec();
    row.size_bytes = size;
    tx.put_row(key, &row);
    Ok(())
}

/// The row and its parts; nothing when they are gone already.
pub fn ended(tx: &mut Tx<'_>, task: TaskRef, epoch: u64) -> Result<(), Refusal> {
    let key = keys::upload(task, epoch);
    if tx.get(&key)?.is_some() {
        tx.delete(key);
        let parts = keys::parts_of(task, epoch);
        for (bytes, _) in tx.scan(&parts, PARTS_MAX)? {
            tx.delete(Key { space: parts.space, bytes });
        }
    }
    Ok(())
}

/// The upload that became the object of a task, the last one whose completion was asked for with this digest and size. Any other
/// may still be open in the object store: it stays recorded until the sweep has aborted it. Returns whether one does.
pub fn became(tx: &mut Tx<'_>, task: TaskRef, sha256: [u8; 32], size: u64) -> Result<bool, Refusal> {
    let rows = tx.scan(&keys::uploads_of(task), UPLOADS_MAX)?;
    let count = rows.len();
    for (bytes, value) in rows.into_iter().rev() {
        let row: UploadRow = super::records::decode("upload", &value)?;
        if row.sha256 == sha256 && row.size_bytes == size {
            let epoch = keys::Fields::of(Family::Upload, &bytes).and_then(|mut fields| {
                fields.task()?;
                fields.u64()
            });
            ended(tx, task, epoch.ok_or_else(|| super::records::damaged("an upload key"))?)?;
            return Ok(count > 1);
        }
    }
    Ok(count > 0)
}

pub fn remember(tx: &mut Tx<'_>, hash: [u8; 16], source: Source) {
    tx.put_row(keys::source(hash), &SourceRow::new(source));
}

fn stale(task: TaskRef, why: &str) -> Refusal {
    Refusal::new(RefusalCode::Stale, format!("task {task}: {why}")).with_job(task.job)
}
