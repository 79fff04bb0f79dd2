//! Reading the output of jobs: blocks first, then what is not sealed.
//!
//! Owns: joining the two without a gap and without a record twice. Must not know: what is looked for.
//!
//! The tail is taken before any block is read: what is sealed meanwhile stands in a block *and* in the tail taken, so blocks are cut at
//! the tail's first ordinal.

use super::{Reader, key_of};
use crate::model::{JobId, JobName, LogRecord, NewLog, OutputKind, OutputRecord, Refusal};
use crate::store::keys::{self, Family, Space};
use crate::store::output::{BlockHead, Tail, Window, read_block, read_head};
use crate::store::records::{NameRow, damaged};

/// What one read may give: it ends at the first of the two that is reached, but gives at least one record where there is one.
#[derive(Debug, Clone, Copy)]
pub struct OutputLimit {
    pub rows: usize,
    pub bytes: usize,
}

#[derive(Debug, Clone, Default)]
pub struct OutputSlice {
    pub records: Vec<OutputRecord>,
    /// Where to go on.
    pub next: u64,
    /// Nothing stood behind `next` when this was read.
    pub end: bool,
}

impl OutputSlice {
    /// What of a block or a chunk can be of use: one record more than there is room for shows that there are more.
    fn window(&self, limit: OutputLimit) -> Window {
        Window { from: self.next, rows: limit.rows.saturating_sub(self.records.len()).saturating_add(1) }
    }
}

/// Records of a job's one sequence.
#[derive(Debug, Clone, Default)]
pub struct LogSlice {
    pub records: Vec<LogRecord>,
    pub next: u64,
    pub end: bool,
}

/// Own lines read at a time: at most 16 MiB.
const LINES: usize = 256;
/// Block heads read at a time.
const HEADS: usize = 64;
/// Times that one block is replaced while it is read: each takes a commit, and a read far less.
const REPLACED_MAX: usize = 16;

impl Reader {
    /// The job of this id, or the one that another program calls so.
    pub fn find_job(&self, text: &str) -> Result<Option<JobId>, Refusal> {
        if let Ok(id) = text.parse::<JobId>()
            && self.job_row(id)?.is_some()
        {
            return Ok(Some(id));
        }
        let Some(name) = JobName::parse(text) else { return Ok(None) };
        let Some(row) = self.row::<NameRow>(Family::Name, &keys::name(&name))? else { return Ok(None) };
        if row.name != name.as_str() {
            return Ok(None);
        }
        let id = row.job()?;
        Ok(self.job_row(id)?.filter(|row| !row.leaving).map(|_| id))
    }

    /// What is committed and not in a block, as it stands now.
    pub fn tail(&self, id: JobId, kind: OutputKind) -> Tail {
        self.tails.tail(id, kind)
    }

    pub fn has_tail(&self, id: JobId) -> bool {
        self.tails.has_tail(id)
    }

    /// Jobs with output of the kind that is not in a block, in order of their ids.
    #[cfg(test)]
    pub fn jobs_with_tail(&self, kind: OutputKind) -> Vec<JobId> {
        self.tails.jobs(kind)
    }

    /// Bytes of output in memory, and for how many seconds the oldest of it has waited for the sealer.
    pub fn unsealed(&self) -> (usize, u64) {
        (self.tails.bytes(), self.tails.lag_ticks())
    }

    /// Up to `rows` heads of all jobs and kinds, in order of job, kind and ordinal, behind the one named.
    pub fn heads_after(&self, after: Option<(JobId, OutputKind, u64)>, rows: usize) -> Result<Vec<BlockHead>, Refusal> {
        let from = after.map_or(vec![Family::BlockHead as u8], |(job, kind, first)| {
            keys::block_head(job, kind, first.saturating_add(1)).bytes
        });
        self.heads(&from, &keys::end_of(Family::BlockHead), rows)
    }

    /// Heads of one job and kind that hold ordinals from `from` on, oldest first.
    pub fn heads_of(&self, id: JobId, kind: OutputKind, from: u64, rows: usize) -> Result<Vec<BlockHead>, Refusal> {
        let mut heads = Vec::new();
        // The block that begins below `from` may reach beyond it.
        let first = self.head_before(id, kind, from.saturating_add(1))?.filter(|head| head.last >= from);
        let start = first.as_ref().map_or(from, |head| head.first.saturating_add(1));
        heads.extend(first);
        let (low, high) = (keys::block_head(id, kind, start), keys::block_head(id, kind, u64::MAX));
        heads.extend(self.heads(&low.bytes, &high.bytes, rows.saturating_sub(heads.len()))?);
        Ok(heads)
    }

    /// The last block that begins below `before`.
    pub fn head_before(&self, id: JobId, kind: OutputKind, before: u64) -> Result<Option<BlockHead>, Refusal> {
        let (low, high) = (keys::block_head(id, kind, 0), keys::block_head(id, kind, before));
        let last = self.spaces.range(Space::Output, &low.bytes, &high.bytes).next_back();
        last.map(|row| row.and_then(|(key, value)| read_head(&key, &value))).transpose()
    }

    fn heads(&self, from: &[u8], until: &[u8], rows: usize) -> Result<Vec<BlockHead>, Refusal> {
        let head = |row: Result<(fjall::UserKey, fjall::UserValue), Refusal>| {
            let (key, value) = row?;
            key_of(Family::BlockHead, &key, |fields| fields.block())?;
            read_head(&key, &value)
        };
        self.spaces.range(Space::Output, from, until).take(rows).map(head).collect()
    }

    /// The records of a block: empty when it is gone meanwhile. One that grew since its head was read is read with its new head; then
    /// records may follow that the head does not know of.
    pub fn block(&self, head: &BlockHead) -> Result<Vec<OutputRecord>, Refusal> {
        self.block_in(head, Window::ALL)
    }

    fn block_in(&self, head: &BlockHead, window: Window) -> Result<Vec<OutputRecord>, Refusal> {
        let mut head = head.clone();
        let mut read = read_block(&head, window, |key| self.spaces.get(key));
        for _ in 0..REPLACED_MAX {
            if let Ok(Some(records)) = read {
                return Ok(records);
            }
            // Replaced between its head and its parts, or gone.
            let key = keys::block_head(head.job, head.kind, head.first);
            let Some(value) = self.spaces.get(&key)? else { return Ok(Vec::new()) };
            let now = read_head(&key.bytes, &value)?;
            let same = now == head;
            head = now;
            let again = read_block(&head, window, |key| self.spaces.get(key));
            if same && again.is_err() {
                return Err(again.err().unwrap_or_else(|| damaged("a block")));
            }
            read = again;
        }
        read?.ok_or_else(|| damaged(format!("block {} of {} of job {}", head.first, head.kind.name(), head.job)))
    }

    /// Records with ordinals from `from` on, in order. `want` false passes a block over unread.
    pub fn output(
        &self,
        id: JobId,
        kind: OutputKind,
        from: u64,
        limit: OutputLimit,
        want: &dyn Fn(&BlockHead) -> bool,
    ) -> Result<OutputSlice, Refusal> {
        self.output_of(id, kind, &self.tail(id, kind), from, limit, want)
    }

    fn output_of(
        &self,
        id: JobId,
        kind: OutputKind,
        tail: &Tail,
        from: u64,
        limit: OutputLimit,
        want: &dyn Fn(&BlockHead) -> bool,
    ) -> Result<OutputSlice, Refusal> {
        let sealed_end = tail.first().unwrap_or(u64::MAX);
        let mut slice = OutputSlice { records: Vec::new(), next: from, end: false };
        let mut bytes = 0;
        while slice.next < sealed_end {
            let heads = self.heads_of(id, kind, slice.next, HEADS)?;
            let last = heads.len() < HEADS;
            for head in heads {
                if head.first >= sealed_end {
                    break;
                }
                if want(&head) {
                    let mut records = self.block_in(&head, slice.window(limit))?;
                    records.retain(|record| record.ordinal < sealed_end);
                    if fill(&mut slice, records, limit, &mut bytes) {
                        return Ok(slice);
                    }
                }
                slice.next = slice.next.max((head.last + 1).min(sealed_end));
            }
            if last {
                break;
            }
        }
        for chunk in tail.chunks() {
            if chunk.end() <= slice.next {
                continue;
            }
            let records = chunk.records_in(kind, slice.window(limit))?;
            if fill(&mut slice, records, limit, &mut bytes) {
                return Ok(slice);
            }
            slice.next = slice.next.max(chunk.end());
        }
        slice.end = true;
        Ok(slice)
    }

    /// Of a job's `count` records, those that can be read: all, or all below what was committed a moment ago.
    pub fn readable_logs(&self, id: JobId, count: u64) -> u64 {
        self.tails.pending(id).map_or(count, |pending| pending.min(count))
    }

    /// The job's own lines from `from` on, and whether the limit ended them.
    fn lines_of(&self, id: JobId, from: u64, limit: OutputLimit) -> Result<(Vec<LogRecord>, bool), Refusal> {
        let (mut lines, mut bytes, mut next) = (Vec::new(), 0, from);
        while lines.len() < limit.rows && bytes < limit.bytes {
            let rows = (limit.rows - lines.len()).min(LINES);
            let read = self.logs(id, next, rows)?;
            let is_last = read.len() < rows;
            bytes += read.iter().map(|line| 128 + line.entry.message.len()).sum::<usize>();
            next = read.last().map_or(next, |line| line.offset + 1);
            lines.extend(read);
            if is_last {
                return Ok((lines, false));
            }
        }
        Ok((lines, true))
    }

    /// Records of the job's one sequence, its own lines and its output together, with offsets from `from` on. `want` false passes a
    /// block of output over unread.
    ///
    /// Lines and output are two reads. Both end at an offset fixed before them, below which everything is visible to both: else
    /// what is committed between the two would be passed over.
    pub fn log_slice(
        &self,
        id: JobId,
        from: u64,
        limit: OutputLimit,
        want: &dyn Fn(&BlockHead) -> bool,
    ) -> Result<LogSlice, Refusal> {
        let count = self.job_row(id)?.map_or(0, |row| row.log_count);
        let (tail, pending) = self.tails.logs(id);
        let visible = pending.map_or(count, |pending| pending.min(count));
        let output = self.output_of(id, OutputKind::Log, &tail, from, limit, want)?;
        let (lines, is_cut) = self.lines_of(id, from, limit)?;
        let mut horizon = visible;
        if !output.end {
            horizon = horizon.min(output.next);
        }
        if is_cut {
            horizon = horizon.min(lines.last().map_or(from, |line| line.offset + 1));
        }
        let mut records: Vec<LogRecord> =
            output.records.into_iter().map(|record| log_record(id, record)).chain(lines).collect();
        records.retain(|record| record.offset < horizon);
        records.sort_by_key(|record| record.offset);
        if records.len() > limit.rows {
            records.truncate(limit.rows);
            horizon = records.last().map_or(from, |record| record.offset + 1);
        }
        let next = horizon.max(from);
        Ok(LogSlice { records, next, end: next >= visible })
    }
}

/// Adds records until a limit is reached: true then.
fn fill(slice: &mut OutputSlice, records: Vec<OutputRecord>, limit: OutputLimit, bytes: &mut usize) -> bool {
    for record in records {
        if slice.records.len() >= limit.rows || (*bytes >= limit.bytes && !slice.records.is_empty()) {
            return true;
        }
        *bytes += record.entry.weight();
        slice.next = record.ordinal + 1;
        slice.records.push(record);
    }
    false
}

/// A record of output as one of the job's sequence.
pub fn log_record(job: JobId, record: OutputRecord) -> LogRecord {
    let OutputRecord { ordinal, entry } = record;
    let timestamp_ms = entry.time_ns.div_euclid(1_000_000);
    let labeled = entry.label.map(|label| *label);
    let entry_line = NewLog { timestamp_ms, ..labeled.unwrap_or_default() };
    LogRecord { job, offset: ordinal, stream: entry.stream, entry: entry_line, chunk: entry.data }
}
