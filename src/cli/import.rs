//! `import`: joblet's files into a running daemon, as often as one likes.
//!
//! Owns: what is there already and what is new, batches, the report. Must not know: gzip, JSON, how records are kept.
//!
//! Each file is compared with what the daemon has of it, record by record. Where that is the file's beginning, the rest is appended;
//! where it differs, the file is left out: nothing is ever put between or before records that are there. The daemon refuses a batch when
//! anybody else has appended since: what was compared would not be what it is put behind.

use std::time::Duration;

use futures_util::StreamExt as _;

use super::args::Global;
use super::args_output::Import;
use super::connect;
use super::exit::{Exit, Failure, Result};
use super::import_report::{FileReport, Total};
use super::joblet_files::{Entry, Source, Tree, kept, next_ordinal};
use super::out::Out;
use super::records::Records;
use crate::client::Error;
use crate::client::persist::Persist;
use crate::proto::joblet::persist as pb;

/// What the daemon takes in one request.
const BATCH_RECORDS_MAX: usize = 1_000;
/// A larger record goes alone.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// About what a record's other fields take.
const RECORD_BYTES: usize = 32;
/// A daemon that is busy says so before it has taken anything: then the same may be sent again.
const RETRIES_MAX: u32 = 50;
const RETRY_WAIT: Duration = Duration::from_millis(200);

pub async fn run(global: &Global, args: &Import, out: Out) -> Result {
    let found = Tree::new(&args.dir).find().map_err(Failure::failed)?;
    let persist = connect::grpc(global).await?.persist();
    let mut total = Total::default();
    for odd in &found.odd {
        total.odd(&odd.path, &odd.why, out)?;
    }
    for source in found.sources {
        let mut report = FileReport::new(&source);
        one(&persist, source, &mut report).await?;
        total.add(&report, out)?;
    }
    total.tell(out)?;
    if total.is_whole() { Ok(()) } else { Err(Failure::silent(Exit::Failed)) }
}

async fn one(persist: &Persist, source: Source, report: &mut FileReport) -> Result {
    let (job, kind) = (source.job.clone(), source.kind);
    let mut records = Records::of(source);
    // Asked before the comparison: a record that the comparison did not see makes it another one.
    let next = next_ordinal(persist, &job, kind).await.map_err(connect::refused)?;
    let mut there = kept(persist, &job, kind).await.map_err(connect::refused)?;
    while let Some(theirs) = there.next().await {
        let theirs = theirs.map_err(connect::refused)?;
        // The daemon may have more than the file: it goes on receiving, the file does not.
        let Some(ours) = records.next(report) else { return Ok(()) };
        if ours != theirs {
            report.differs(records.place(), report.there + 1, &difference(&ours, &theirs));
            return Ok(());
        }
        report.there += 1;
    }
    drop(there);
    let mut batch = Batch { next, records: Vec::new(), bytes: 0 };
    while let Some(entry) = records.next(report) {
        let bytes = entry.data.len() + RECORD_BYTES;
        if batch.records.len() >= BATCH_RECORDS_MAX || batch.bytes + bytes > BATCH_BYTES_MAX {
            report.new += batch.send(persist, job.as_str()).await?;
        }
        batch.bytes += bytes;
        batch.records.push(entry.record(kind));
    }
    report.new += batch.send(persist, job.as_str()).await?;
    Ok(())
}

struct Batch {
    /// The ordinal of its first record.
    next: u64,
    records: Vec<pb::OutputRecord>,
    bytes: usize,
}

impl Batch {
    async fn send(&mut self, persist: &Persist, job: &str) -> Result<u64> {
        if self.records.is_empty() {
            return Ok(0);
        }
        let records = std::mem::take(&mut self.records);
        self.bytes = 0;
        let expected_ordinal = Some(self.next);
        let request = pb::AppendRecordsRequest { job_uuid: job.to_owned(), create: true, records, expected_ordinal };
        let mut tries = 0;
        loop {
            match persist.append_records(request.clone()).await {
                Ok(answer) => {
                    self.next += u64::from(answer.count);
                    return Ok(answer.count.into());
                }
                Err(error @ Error::Refused { .. }) if error.retryable() && tries < RETRIES_MAX => {
                    tries += 1;
                    tokio::time::sleep(error.retry_after().unwrap_or(RETRY_WAIT)).await;
                }
                Err(error) if error.code() == "ILLEGAL_STATE" => {
                    return Err(Failure::failed(format_args!("job {job}: somebody else appends to it: {error}"))
                        .hint("when they are done, run the same import again: it goes on where this one stopped"));
                }
                // Whether it was taken is not known: the next run looks.
                Err(error) => {
                    let failure = connect::refused(error);
                    return Err(Failure::new(failure.exit, format_args!("job {job}: {}", failure.message))
                        .hint("run the same import again: it goes on where this one stopped"));
                }
            }
        }
    }
}

/// In words: which of the three is another one.
fn difference(ours: &Entry, theirs: &Entry) -> String {
    if ours.timestamp != theirs.timestamp {
        format!("time {} here, {} in the daemon", ours.timestamp, theirs.timestamp)
    } else if ours.sequence != theirs.sequence {
        format!("sequence {} here, {} in the daemon", ours.sequence, theirs.sequence)
    } else {
        format!("other content, {} bytes here, {} in the daemon", ours.data.len(), theirs.data.len())
    }
}
