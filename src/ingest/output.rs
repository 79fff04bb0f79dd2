//! The output of jobs on its way in: senders that nobody answers and appends that are answered after their sync, through one spool.
//!
//! ```text
//! OutputSource ─packets─▶ ┌───────┐             ┌────────┐ one batch in flight
//! append_output ─calls──▶ │ spool │ ─by job, ─▶ │ writer │ ─▶ store ─▶ callers' answers
//!        (room first)     └───────┘   in order  └────────┘
//! ```
//! Owns: the doors of the spool, what is refused at once. Must not know: wires.

mod group;
mod source;
mod spool;
mod writer;

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

pub use self::source::{Arrived, Closed, OutputSource};
pub use self::spool::Pass as OutputPass;
pub use self::writer::OutputWriter;

use self::spool::{Call, Item};
use super::raw::NewRecord;
use super::{DRAINING_RETRY, Ingest, draining, update};
use crate::clock::Clock;
use crate::model::{JobId, JobName, JobType, LogStream, NewLog, NewOutput, OutputKind, Refusal, RefusalCode, Tenant};
use crate::store::NamedJob;
use crate::telemetry::Metrics;

pub(super) use self::spool::Spool;

/// Section `ingest.output`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputOptions {
    /// Bytes of output taken in and not yet durable, of all senders together. While it is full, sockets are not read and appends
    /// wait. A single message that is larger is taken alone. Senders that nobody answers use it only while the disk stalls.
    pub buffer_bytes: usize,
}

impl Default for OutputOptions {
    fn default() -> Self {
        Self { buffer_bytes: 64 << 20 }
    }
}

/// The counters of output, whichever door it came by.
pub struct Traffic {
    pub metrics: Arc<Metrics>,
}

impl Traffic {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }

    pub fn refused(&self, reason: &'static str, count: u64) {
        self.metrics.persist_refused.with_label_values(&[reason]).inc_by(count);
    }
}

impl Ingest {
    /// The job that another program calls so; made, and running from now on, if there is none.
    pub async fn open_job(&self, name: &str) -> Result<JobId, Refusal> {
        self.while_open()?;
        if let Some(known) = self.inner.reader.find_job(name)? {
            return Ok(known);
        }
        let invalid =
            || Refusal::invalid("job_uuid", "must be 1 to 128 of A-Z a-z 0-9 . _ - and begin with one of A-Z a-z 0-9");
        let name = JobName::parse(name).ok_or_else(invalid)?;
        let named = NamedJob {
            name,
            id: self.inner.intake.mint(),
            job_type: JobType::parse("joblet").unwrap_or_default(),
            tenant: Tenant::default(),
            now_ms: self.inner.intake.now_ms(),
        };
        let ids = self.inner.store.open_named(vec![named]).await?;
        ids.first().copied().ok_or_else(|| Refusal::new(RefusalCode::Internal, "the job was not made"))
    }

    /// Appends records to one job, in order; answered after the sync. Returns the ordinal of the first record of the first record's
    /// kind. Waits while the spool is full. Appends of one caller keep their order if each is polled before the next one begins.
    /// `expected`: that ordinal; where it would be another, nothing is appended. The records are of one kind then.
    pub async fn append_output(
        &self,
        job: JobId,
        records: Vec<NewOutput>,
        expected: Option<u64>,
    ) -> Result<u64, Refusal> {
        self.while_open()?;
        if let Some((free, wanted)) = self.inner.reader.short_of_output_room() {
            return Err(no_room(free, wanted));
        }
        let at = Clock::instant();
        let bytes = records.iter().map(NewOutput::weight).sum();
        let stopping = || draining("the daemon is stopping");
        let lease = self.inner.spool.lease(bytes).await.ok_or_else(stopping)?;
        let (done, answer) = oneshot::channel();
        self.inner
            .spool
            .put(Item::Call(Call { job, records, expected, bytes, at, done, lease }))
            .map_err(|_| stopping())?;
        answer
            .await
            .unwrap_or_else(|_| Err(Refusal::new(RefusalCode::Unavailable, "the store stopped before it answered")))
    }

    /// Lines and pieces of output in one append, 1 to 1000, at most 8 MiB in all. Returns the first offset; the others follow it
    /// without gaps.
    pub async fn append_records(&self, job: JobId, records: Vec<NewRecord>) -> Result<u64, Refusal> {
        if records.iter().all(|record| matches!(record, NewRecord::Line(_))) {
            let line = |record| match record {
                NewRecord::Line(line) => Some(line),
                NewRecord::Chunk { .. } => None,
            };
            return self.append_logs(job, records.into_iter().filter_map(line).collect()).await;
        }
        self.while_open()?;
        let records = update::check_output(records, self.inner.intake.now_ms())?;
        self.existing(job)?;
        self.append_output(job, records.into_iter().map(output).collect(), None).await
    }

    /// A sender whose records nobody acknowledges. Its pass keeps the writer waiting for it at shutdown.
    pub fn output_source(&self, pass: &OutputPass) -> OutputSource {
        let inner = &self.inner;
        OutputSource::new(inner.spool.clone(), inner.traffic.clone(), inner.clock.clone(), pass.clone())
    }

    /// For a door of such senders, from before it opens until its last sender is gone. None: the daemon stops.
    pub fn output_pass(&self) -> Option<OutputPass> {
        self.inner.spool.pass()
    }

    /// The one who commits what is appended; nothing is before it runs.
    pub fn output_writer(&self) -> OutputWriter {
        let inner = &self.inner;
        OutputWriter {
            spool: inner.spool.clone(),
            store: inner.store.clone(),
            reader: inner.reader.clone(),
            clock: inner.clock.clone(),
            ids: inner.intake.ids(),
            traffic: inner.traffic.clone(),
            names: HashMap::new(),
            batch_bytes: writer::BATCH_BYTES,
            commit_us: Arc::default(),
            followed: Default::default(),
        }
    }
}

fn output(record: NewRecord) -> NewOutput {
    let (stream, label, data) = match record {
        NewRecord::Line(line) => (LogStream::Job, line, bytes::Bytes::new()),
        NewRecord::Chunk { stream, label, chunk } => (stream, label, chunk),
    };
    let time_ns = label.timestamp_ms.saturating_mul(1_000_000);
    // Where nothing but the bytes and the time was said, nothing else is stored.
    let is_bare = label == NewLog { timestamp_ms: label.timestamp_ms, ..NewLog::default() };
    let label = (stream == LogStream::Job || !is_bare).then(|| Box::new(label));
    NewOutput { kind: OutputKind::Log, stream, time_ns, sequence: 0, label, data }
}

pub(super) fn no_room(free: u64, wanted: u64) -> Refusal {
    let message = format!("{free} bytes are free on the data disk; output is taken again from {wanted} on");
    Refusal::new(RefusalCode::StorageFull, message).with_retry_after(2 * DRAINING_RETRY)
}
