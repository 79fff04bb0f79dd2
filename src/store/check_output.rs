//! Check of the jobs' output: batches, heads, blocks, names, and that no ordinal is missing between them.
//!
//! Owns: what must hold of the output's rows. Must not know: how to mend them (see `salvage_output`).

use std::collections::{BTreeMap, BTreeSet};

use super::keys::{self, Family, Fields, Space};
use super::output::{Counts, FoundPiece, read_batches, read_head, rebuild_head};
use super::records::{self, JobRow, NameRow, damaged};
use super::report::CheckReport;
use super::spaces::Spaces;
use crate::model::{JobId, JobName, OutputKind, Refusal};

/// What a job's row says of its records, and the batches beyond it.
struct Said {
    counts: Counts,
    /// By kind: what is below was deleted.
    from: [u64; OutputKind::ALL.len()],
    has_output: bool,
}

impl Said {
    fn of(&self, kind: OutputKind) -> u64 {
        self.counts.end(kind)
    }

    /// How many there are, with a piece of a batch that came after the job's row was written.
    fn with(&mut self, piece: &FoundPiece<'_>) -> u64 {
        if piece.chunk.first == self.of(piece.kind) {
            self.has_output = true;
            self.counts.add(piece.kind, piece.chunk.end(), piece.data_bytes, piece.now_ms);
        }
        self.of(piece.kind)
    }

    fn kept_from(&self, kind: OutputKind) -> u64 {
        self.from.get(kind.index()).copied().unwrap_or(0)
    }
}

#[derive(Default)]
pub struct OutputWalk {
    jobs: BTreeMap<JobId, Said>,
    /// First and last ordinals of what blocks and batches hold.
    held: BTreeMap<(JobId, OutputKind), Vec<(u64, u64)>>,
    /// Parts that each head names.
    parts: BTreeMap<(JobId, OutputKind, u64), u16>,
    strangers: BTreeSet<JobId>,
}

impl OutputWalk {
    pub fn see_job(
        &mut self,
        spaces: &Spaces,
        report: &mut CheckReport,
        id: JobId,
        row: &JobRow,
    ) -> Result<(), Refusal> {
        let has_output = row.output_bytes > 0 || row.output_at_ms > 0;
        let from = OutputKind::ALL.map(|kind| row.kept_from(kind));
        self.jobs.insert(id, Said { counts: Counts::of(row), from, has_output });
        if !row.name.is_empty() {
            let name = JobName::parse(&row.name).ok_or_else(|| damaged(format!("the name of job {id}")))?;
            if spaces.get(&keys::name(&name))?.is_none() {
                report.problem(format!("job {id} is called {name} and cannot be found by that name"));
            }
        }
        Ok(())
    }

    /// Names stand behind the jobs.
    pub fn see_name(&self, spaces: &Spaces, report: &mut CheckReport, key: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let row: NameRow = records::decode("name", value)?;
        let (id, name) = (row.job()?, JobName::parse(&row.name).ok_or_else(|| damaged("a name"))?);
        if keys::name(&name).bytes != key {
            report.problem(format!("the name {name} stands at another name's place"));
        }
        let job = spaces.get(&keys::job(id))?;
        let job = job.map(|value| records::decode::<JobRow>("job", &value)).transpose()?;
        if job.is_none_or(|job| job.name != row.name) {
            report.problem(format!("the name {name} leads to job {id}, which is gone or has another name"));
        }
        Ok(())
    }

    pub fn see_head(
        &mut self,
        spaces: &Spaces,
        report: &mut CheckReport,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), Refusal> {
        let head = read_head(key, value)?;
        let place = (head.job, head.kind, head.first);
        let name = format!("block {} of {} of job {}", head.first, head.kind.name(), head.job);
        self.parts.insert(place, head.parts);
        self.hold(report, head.job, head.kind, head.first, head.last);
        let mut parts = Vec::new();
        for part in 0..head.parts {
            match spaces.get(&keys::block(head.job, head.kind, head.first, part))? {
                Some(bytes) => parts.push(bytes),
                None => {
                    report.problem(format!("{name} lacks part {part}"));
                    return Ok(());
                }
            }
        }
        let (row, records) = rebuild_head(head.job, head.kind, head.first, &parts)?;
        let mut found = read_head(key, &row)?;
        // What the filter says is another version's to choose; that it never says no to what is there is not.
        found.filter = head.filter.clone();
        found.stored_bytes = head.stored_bytes;
        report.output_records += records.len() as u64;
        if found != head {
            report.problem(format!("the head of {name} does not say what the block holds"));
        }
        if records.is_sorted_by(|a, b| a.ordinal < b.ordinal) {
            let probe = records.iter().find(|record| record.entry.data.len() >= 8);
            if probe.is_some_and(|record| !head.filter.may_contain(&record.entry.data, false)) {
                report.problem(format!("the text filter of {name} denies what the block holds"));
            }
        } else {
            report.problem(format!("the records of {name} are out of order"));
        }
        Ok(())
    }

    /// Blocks stand behind the heads.
    pub fn see_block(&self, report: &mut CheckReport, key: &[u8]) -> Result<(), Refusal> {
        let place = Fields::of(Family::Block, key).and_then(|mut fields| Some((fields.block()?, fields.u16()?)));
        let ((job, kind, first), part) = place.ok_or_else(|| damaged("a Block key"))?;
        if self.parts.get(&(job, kind, first)).is_none_or(|parts| part >= *parts) {
            report.problem(format!("part {part} of block {first} of {} of job {job} has no head", kind.name()));
        }
        Ok(())
    }

    fn hold(&mut self, report: &mut CheckReport, job: JobId, kind: OutputKind, first: u64, last: u64) {
        let Some(said) = self.jobs.get(&job) else {
            if self.strangers.insert(job) {
                report.problem(format!("there is output of job {job}, which is gone"));
            }
            return;
        };
        if last < first || last >= said.of(kind) {
            let (kind, counted) = (kind.name(), said.of(kind));
            report.problem(format!("job {job} counts {counted} records of {kind}, and {first} to {last} are there"));
        }
        let held = self.held.entry((job, kind)).or_default();
        if held.last().is_some_and(|before| before.1 >= first) {
            report.problem(format!("two blocks hold record {first} of {} of job {job}", kind.name()));
        }
        held.push((first, last));
    }

    /// What is not sealed, and whether anything is missing in between.
    pub fn finish(mut self, spaces: &Spaces, report: &mut CheckReport) {
        let mut open: BTreeMap<(JobId, OutputKind), Vec<(u64, u64)>> = BTreeMap::new();
        let rows = spaces.range(Space::Output, &[Family::Batch as u8], &keys::end_of(Family::Batch));
        let read = read_batches(rows, |_, found| {
            let unpacked = found.and_then(|found| {
                found.unpack(|piece| {
                    let FoundPiece { job, kind, chunk, .. } = piece;
                    let records = chunk.records(kind)?;
                    let last = chunk.first.wrapping_add(chunk.count).wrapping_sub(1);
                    let counted = self.jobs.get_mut(&job).map(|said| said.with(&piece));
                    if records.len() as u64 != chunk.count
                        || records.first().is_none_or(|record| record.ordinal != chunk.first)
                        || records.last().is_none_or(|record| record.ordinal != last)
                        || counted.is_some_and(|counted| last >= counted)
                    {
                        return Err(damaged(format!("output batch {} ({} of job {job})", chunk.batch, kind.name())));
                    }
                    // Of a job that is gone, or sealed by now: such a row goes with the last chunk that is neither.
                    if counted.is_some() {
                        open.entry((job, kind)).or_default().push((chunk.first, last));
                    }
                    Ok(false)
                })
            });
            if let Err(refusal) = unpacked {
                report.problem(refusal.message);
            }
            Ok(())
        });
        if let Err(refusal) = read {
            report.problem(format!("output: {}", refusal.message));
        }
        for (place, chunks) in open {
            // A batch stays for those of its chunks that are not sealed: the others are in blocks, or were deleted.
            let sealed_end =
                self.held.get(&place).and_then(|held| held.last()).map_or(0, |(_, last)| last.saturating_add(1));
            let from = self.jobs.get(&place.0).map_or(0, |said| said.kept_from(place.1)).max(sealed_end);
            let left = chunks.iter().map(|(first, last)| last.saturating_add(1).saturating_sub(from.max(*first)));
            report.output_records += left.sum::<u64>();
            self.held.entry(place).or_default().extend(chunks);
        }
        for ((job, kind), held) in &self.held {
            if let (Some(said), Some((first, _))) = (self.jobs.get(job), held.first()) {
                let mut next = *first;
                for (first, last) in held.iter().copied().chain([(said.of(*kind), said.of(*kind))]) {
                    if first > next {
                        missing(spaces, report, said, (*job, *kind), next..first);
                    }
                    next = next.max(last.saturating_add(1));
                }
            }
        }
        for (id, said) in &self.jobs {
            let logs = said.of(OutputKind::Log);
            // What was appended as output may have been pruned; the job's own lines go with `logs_from`.
            if logs > said.kept_from(OutputKind::Log) && !said.has_output {
                missing(spaces, report, said, (*id, OutputKind::Log), logs - 1..logs);
            }
        }
    }
}

/// Ordinals that no block and no batch holds: the job's own lines, or lost.
fn missing(
    spaces: &Spaces,
    report: &mut CheckReport,
    said: &Said,
    place: (JobId, OutputKind),
    ordinals: std::ops::Range<u64>,
) {
    let (job, kind) = place;
    for ordinal in ordinals.clone() {
        if ordinal < said.kept_from(kind)
            || kind == OutputKind::Log && matches!(spaces.get(&keys::log(job, ordinal)), Ok(Some(_)))
        {
            continue;
        }
        let (count, until) = (kind.name(), ordinals.end - 1);
        report.problem(format!("job {job} lacks records of {count} from {ordinal} to {until} or before"));
        return;
    }
}
