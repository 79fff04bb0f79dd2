//! The in-door: everything that changes the ledger from outside comes through here.
//!
//! Owns: validation with every violation at once, canonical form and idempotency, expansion by handler, intake limits.
//! Must not know: wire formats of the API, gRPC, sockets, the dispatcher.
//!
//! A submission's way: `raw` (as it came) → `gzip`, `json` (fields) → `check` (manifest) → `canon` (is it the same as before)
//! → handler hooks → `vet` (what they planned) → the store. The output of running jobs goes by `output`.

mod admit;
mod canon;
mod check;
mod found;
mod gzip;
mod json;
mod output;
mod raw;
#[cfg(test)]
mod tests;
mod update;
mod vet;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use self::output::{Arrived, Closed, OutputOptions, OutputPass, OutputSource, OutputWriter};
pub use self::raw::{NewRecord, RawManifest, RawResource, RawStorageHint, Source, Submission};
pub use crate::handler::manifest_json;

use self::admit::Intake;
use self::output::{Spool, Traffic};
use crate::clock::{Clock, JobIds};
use crate::handler::Registry;
use crate::model::{Failure, Job, JobId, JobState, NewLog, Refusal, RefusalCode, Violation};
use crate::store::{Admitted, NewJob, Reader, StatusChange, Store};
use crate::telemetry::{Counter, Metrics};

/// Bytes of an idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
/// Bytes of one log message.
pub const LOG_BYTES_MAX: usize = 64 * 1024;
/// When a client that met a closed door should knock again.
const DRAINING_RETRY: Duration = Duration::from_secs(5);

/// Config section `ingest`. What is skipped there belongs to other sections and is filled in when the daemon is put together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// With more tasks open than this, new jobs are refused with RATE_LIMITED.
    pub open_tasks_max: u64,
    /// The output of running jobs.
    pub output: OutputOptions,
    /// `storage.bucket`
    #[serde(skip)]
    pub bucket: String,
    /// `storage.prefix`: stands before every key.
    #[serde(skip)]
    pub key_prefix: String,
    /// `storage.allowed_buckets`: what a client may name besides `bucket`.
    #[serde(skip)]
    pub allowed_buckets: BTreeSet<String>,
    /// Names of the configured proxy pools.
    #[serde(skip)]
    pub proxy_pools: BTreeSet<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            open_tasks_max: 10_000_000,
            output: OutputOptions::default(),
            bucket: "fetchbox".to_owned(),
            key_prefix: String::new(),
            allowed_buckets: BTreeSet::new(),
            proxy_pools: BTreeSet::new(),
        }
    }
}

/// A dry run's answer.
#[derive(Debug, Clone, Default)]
pub struct Validation {
    /// At most 100, and one more that counts the rest.
    pub violations: Vec<Violation>,
    /// Empty if there are violations.
    pub tasks: Vec<PlannedTask>,
}

#[derive(Debug, Clone)]
pub struct PlannedTask {
    pub resource_id: String,
    pub url: String,
    pub bucket: String,
    /// `{job_id}` stands where the job's id would, `{aa}` and `{sha256}` where the digest would.
    pub key: String,
}

/// A client's status update, checked but not applied.
#[derive(Debug, Clone)]
pub struct StatusUpdate {
    pub job: JobId,
    pub state: Option<JobState>,
    pub phase: Option<String>,
    pub failure: Option<Failure>,
    pub expected_revision: Option<u64>,
}

/// Clonable handle.
#[derive(Clone)]
pub struct Ingest {
    inner: Arc<Inner>,
}

struct Inner {
    intake: Intake,
    store: Store,
    reader: Reader,
    open: AtomicBool,
    counts: Counts,
    spool: Arc<Spool>,
    traffic: Arc<Traffic>,
    clock: Clock,
}

impl Ingest {
    pub fn new(
        options: Options,
        store: Store,
        reader: Reader,
        registry: Registry,
        clock: Clock,
        ids: impl Into<Arc<JobIds>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let spool = Arc::new(Spool::new(options.output.buffer_bytes));
        let traffic = Arc::new(Traffic::new(metrics.clone()));
        let intake = Intake::new(options, registry, clock.clone(), ids.into());
        let (open, counts) = (AtomicBool::new(true), Counts::of(metrics));
        Self { inner: Arc::new(Inner { intake, store, reader, open, counts, spool, traffic, clock }) }
    }

    /// Validates, expands, admits. `done` is called once, maybe on the committer's thread, and must not block.
    ///
    /// With a handler that awaits nothing this is done at its first poll; the answer comes by `done` after the sync.
    pub async fn submit(&self, submission: Submission, done: impl FnOnce(Result<Admitted, Refusal>) + Send + 'static) {
        let began = Clock::instant();
        let inner = &self.inner;
        inner.counts.metrics.ingest_bytes.inc_by(submission.source.bytes() as u64);
        match self.prepared(submission).await {
            Ok(job) => {
                let keyed = job.idempotency.is_some();
                let inner = inner.clone();
                self.inner.store.admit(job, move |answer| {
                    inner.counts.answered(&answer, keyed, began);
                    done(answer);
                });
            }
            Err(refusal) => {
                let answer = Err(refusal);
                inner.counts.answered(&answer, false, began);
                done(answer);
            }
        }
    }

    /// The same for callers that wait.
    pub async fn submit_and_wait(&self, submission: Submission) -> Result<Admitted, Refusal> {
        let (tell, told) = tokio::sync::oneshot::channel();
        self.submit(submission, move |answer| drop(tell.send(answer))).await;
        told.await
            .unwrap_or_else(|_| Err(Refusal::new(RefusalCode::Unavailable, "the store stopped before it answered")))
    }

    /// A dry run: nothing is stored, and a closed door does not matter.
    pub async fn validate(&self, submission: Submission) -> Result<Validation, Refusal> {
        self.inner.intake.validate(submission).await
    }

    /// 1 to 1000 records, each at most 64 KiB, 8 MiB in all. Returns the first offset.
    pub async fn append_logs(&self, job: JobId, mut records: Vec<NewLog>) -> Result<u64, Refusal> {
        self.while_open()?;
        update::check_records(&mut records, self.inner.intake.now_ms())?;
        self.existing(job)?;
        self.inner.store.append_logs(job, records).await
    }

    /// Moves an external job, or sets phase and message of one with resources.
    pub async fn update_status(&self, update: StatusUpdate) -> Result<Job, Refusal> {
        self.while_open()?;
        update::check_update(&update)?;
        let job = self.existing(update.job)?;
        let StatusUpdate { job, state, phase, failure, expected_revision } = update::legal(update, &job)?;
        let now_ms = self.inner.intake.now_ms();
        let failure =
            failure.map(|failure| if failure.at_ms > 0 { failure } else { Failure { at_ms: now_ms, ..failure } });
        self.inner.store.update_status(StatusChange { job, state, phase, failure, expected_revision, now_ms }).await
    }

    /// Shutdown: from now on everything is refused with DRAINING.
    pub fn close(&self) {
        self.inner.open.store(false, Ordering::Release);
    }

    /// Whether a submission would be looked at.
    pub fn is_open(&self) -> bool {
        self.while_open().is_ok() && !self.inner.reader.controls().draining
    }

    async fn prepared(&self, submission: Submission) -> Result<NewJob, Refusal> {
        self.while_open()?;
        if self.inner.reader.controls().draining {
            return Err(draining("intake is drained until an operator resumes it"));
        }
        self.inner.intake.prepare(submission).await
    }

    fn while_open(&self) -> Result<(), Refusal> {
        if self.inner.open.load(Ordering::Acquire) { Ok(()) } else { Err(draining("the daemon is stopping")) }
    }

    /// Asked before the committer is: what cannot succeed takes no place in a group.
    fn existing(&self, job: JobId) -> Result<Job, Refusal> {
        self.inner.reader.job(job)?.ok_or_else(|| Refusal::not_found(format_args!("job {job}")).with_job(job))
    }
}

fn draining(why: &str) -> Refusal {
    Refusal::new(RefusalCode::Draining, why).with_retry_after(DRAINING_RETRY)
}

/// Labels are looked up once: this runs for every submission.
struct Counts {
    metrics: Arc<Metrics>,
    accepted: Counter,
    duplicate: Counter,
    rejected: Counter,
    unavailable: Counter,
}

impl Counts {
    fn of(metrics: Arc<Metrics>) -> Self {
        let result = |name: &str| metrics.ingest_jobs.with_label_values(&[name]);
        Self {
            accepted: result("accepted"),
            duplicate: result("duplicate"),
            // The client's to change.
            rejected: result("rejected"),
            // Ours: the same request may succeed later.
            unavailable: result("unavailable"),
            metrics,
        }
    }

    fn answered(&self, answer: &Result<Admitted, Refusal>, keyed: bool, began: Instant) {
        self.metrics.ingest_duration.observe(began.elapsed().as_secs_f64());
        match answer {
            Ok(admitted) if admitted.duplicate => {
                self.duplicate.inc();
                self.metrics.ledger_idempotency_hits.inc();
            }
            Ok(_) => {
                self.accepted.inc();
                self.metrics.jobs_accepted.inc();
                if keyed {
                    self.metrics.ledger_idempotency_misses.inc();
                }
            }
            // The key was known, with another body.
            Err(refusal) if refusal.code == RefusalCode::AlreadyExists => {
                self.rejected.inc();
                self.metrics.ledger_idempotency_hits.inc();
            }
            Err(refusal) if refusal.code.retryable() => self.unavailable.inc(),
            Err(_) => self.rejected.inc(),
        }
    }
}
