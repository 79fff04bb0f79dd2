//! Retention: what may be deleted and when, and the sweep that does it in bounded steps.
//!
//! Owns: policy (pure, takes now), sweep, cleanup by request, delete, purge. Must not know: how rows look, any wire.
//!
//! `policy` decides, `walk` goes through everything once in short steps, `sweep` walks on a schedule, `world` is the seam to store
//! and objects, `remove` deletes what somebody names, `schedule` says when, `room` gives the space of what is gone back to the disk.

#[cfg(test)]
mod fake;
mod policy;
mod remove;
mod room;
mod schedule;
mod sweep;
mod walk;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::model::{Cleanup, CleanupKind, CleanupReport, DeadLetterSelector, JobId, Refusal, RefusalCode};
use crate::objects::Objects;
use crate::store::{Reader, Sizes, Store};
use crate::telemetry::Metrics;

use policy::{Cutoffs, Idle};
use room::Room;
use schedule::Schedule;
pub use sweep::Sweeper;
use walk::{Cursors, Order, Walk};
use world::Live;

/// How long what is kept (config `retention:`). An age or a size of 0 means for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Ended jobs with their tasks, manifests and logs.
    pub jobs_days: u32,
    /// Lines and log output of ended jobs.
    pub logs_days: u32,
    /// Metric samples of ended jobs, with their roll-ups.
    pub metrics_days: u32,
    /// Events of ended jobs.
    pub events_days: u32,
    /// Without output for so long, a job that another program named and nobody ended counts as ended. 0: never.
    pub idle_hours: u32,
    /// How long the key of an ended job still answers with it, counted from its acceptance.
    pub idempotency_days: u32,
    pub dlq_days: u32,
    /// The list of recent failures.
    pub queue_days: u32,
    /// Uploads and staged files that nobody continues.
    pub uploads_hours: u32,
    /// Dead letters beyond this go, oldest first.
    pub dlq_bytes_max: u64,
    /// When the database is larger, ended jobs go, oldest first. Checked by the scheduled sweep only.
    pub ledger_bytes_max: u64,
    /// When output is larger, that of ended jobs goes, the oldest job's first. Checked by the scheduled sweep only.
    pub output_bytes_max: u64,
    /// When more of the data disk is used, output of ended jobs goes likewise, as long as that helps. Percent; 0: whatever is used.
    pub disk_percent_max: u8,
    /// Rows read and deleted at a time, 1 to 1000.
    pub batch: u32,
    /// Between two scheduled sweeps; 0: none is scheduled.
    pub interval_ms: u64,
    /// When sweeps run, as cron has it, in UTC; used instead of the interval. Empty: the interval counts.
    pub schedule: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            jobs_days: 30,
            logs_days: 30,
            metrics_days: 30,
            events_days: 7,
            idle_hours: 24,
            idempotency_days: 14,
            dlq_days: 90,
            queue_days: 7,
            uploads_hours: 24,
            dlq_bytes_max: 10_000_000_000,
            ledger_bytes_max: 50_000_000_000,
            output_bytes_max: 50_000_000_000,
            disk_percent_max: 0,
            batch: 500,
            interval_ms: 3_600_000,
            schedule: String::new(),
        }
    }
}

impl Options {
    const BATCH_MAX: u32 = 1_000;

    /// The first thing wrong, as `key: why`.
    pub fn check(&self) -> Result<(), String> {
        self.faults().into_iter().next().map_or(Ok(()), Err)
    }

    /// Everything wrong, each as `key: why`.
    pub fn faults(&self) -> Vec<String> {
        let mut found = Vec::new();
        if !(1..=Self::BATCH_MAX).contains(&self.batch) {
            found.push(format!("retention.batch: {} is not between 1 and {}", self.batch, Self::BATCH_MAX));
        }
        if self.disk_percent_max > 100 {
            found.push(format!("retention.disk_percent_max: {} is not between 0 and 100", self.disk_percent_max));
        }
        found.extend(self.cron().err().map(|why| format!("retention.schedule: {why}")));
        found
    }

    fn cron(&self) -> Result<Option<Schedule>, String> {
        cron(&self.schedule)
    }

    fn rows(&self) -> usize {
        self.batch.clamp(1, Self::BATCH_MAX) as usize
    }
}

/// What is wrong with a schedule, in words. An empty one is none.
pub fn check_schedule(text: &str) -> Result<(), String> {
    cron(text).map(drop)
}

fn cron(text: &str) -> Result<Option<Schedule>, String> {
    (!text.trim().is_empty()).then(|| Schedule::parse(text)).transpose()
}

/// Clonable handle.
#[derive(Clone)]
pub struct Retention {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    live: Live,
    clock: Clock,
    metrics: Metrics,
    /// One cleanup at a time, so that two do not count the same rows. Others wait in order.
    turn: tokio::sync::Mutex<()>,
    /// Something was deleted since the last compaction. True at start: nobody knows.
    dirty: AtomicBool,
    room: Room,
}

impl Retention {
    pub fn new(
        options: Options,
        store: Store,
        reader: Reader,
        objects: Objects,
        clock: Clock,
        metrics: Metrics,
    ) -> (Sweeper, Retention) {
        let live = Live { store, reader, objects, clock: clock.clone() };
        let turn = tokio::sync::Mutex::new(());
        let inner = Arc::new(Inner {
            options,
            live,
            clock,
            metrics,
            turn,
            dirty: AtomicBool::new(true),
            room: Room::default(),
        });
        (Sweeper::new(inner.clone()), Retention { inner })
    }

    /// Deletes what is past its age, in short steps between which other work goes on. A second cleanup waits for the first, a
    /// scheduled one lets requests in between. Dropped or failed half-way, it has deleted what it has deleted and the same request
    /// goes on from there.
    ///
    /// A dry run reports what a real one would delete. `reclaimed_bytes` is an estimate from the rows; after a real run with
    /// `compact` it is by how much the database shrank.
    pub async fn cleanup(&self, cleanup: Cleanup) -> Result<CleanupReport, Refusal> {
        let _turn = self.inner.turn.lock().await;
        let compact = cleanup.compact && !cleanup.dry_run;
        let before = keyspace_bytes(&self.inner.live.reader.sizes());
        let order = asked(&self.inner.options, &cleanup, self.inner.clock.now_ms());
        let mut walk = Walk::new(order, Cursors::default());
        while !walk.is_done() {
            self.inner.step(&mut walk).await?;
            tokio::task::yield_now().await;
        }
        let (mut report, _) = walk.finish();
        if compact {
            self.inner.compact().await?;
            report.reclaimed_bytes = before.saturating_sub(keyspace_bytes(&self.inner.live.reader.sizes()));
        }
        Ok(report)
    }

    /// Terminal jobs only (ILLEGAL_STATE otherwise); frees the idempotency key. Returns how many objects were deleted: none unless
    /// `objects_too`, which deletes them before the job's rows. Objects that another job stored at the same key go with them.
    pub async fn delete_job(&self, job: JobId, objects_too: bool) -> Result<u32, Refusal> {
        let bytes = self.weigh(job).await?;
        let objects = remove::job(&self.inner.live, job, objects_too, self.inner.options.rows()).await?;
        self.inner.freed(bytes);
        Ok(objects)
    }

    /// A job that another program named, with all its output, whatever its state; any other only when it has ended. What arrives for it
    /// from then on makes a new job of the name.
    pub async fn delete_output_job(&self, job: JobId) -> Result<(), Refusal> {
        let known = self.inner.live.reader.job(job)?;
        if known.is_some_and(|known| known.name.is_none()) {
            return self.delete_job(job, false).await.map(drop);
        }
        let bytes = self.weigh(job).await?;
        remove::named(&self.inner.live, job).await?;
        self.inner.freed(bytes);
        Ok(())
    }

    async fn weigh(&self, job: JobId) -> Result<u64, Refusal> {
        match self.inner.live.reader.job(job)? {
            Some(job) => walk::weigh(&self.inner.live, &job, self.inner.options.rows()).await,
            None => Ok(0),
        }
    }

    /// (matched, purged). At most `selector.max`, oldest first; a dry run purges none. INVALID_PAYLOAD for a selector that names
    /// nothing and does not `confirm_all`.
    pub async fn purge(&self, selector: DeadLetterSelector) -> Result<(u32, u32), Refusal> {
        remove::letters(&self.inner.live, &selector, self.inner.options.rows()).await
    }
}

fn asked(options: &Options, cleanup: &Cleanup, now_ms: i64) -> Order {
    let every = || CleanupKind::ALL.into_iter().collect();
    Order {
        cutoffs: match cleanup.older_than_days {
            Some(days) => Cutoffs::asked(days, now_ms),
            None => Cutoffs::configured(options, now_ms),
        },
        kinds: if cleanup.kinds.is_empty() { every() } else { cleanup.kinds.clone() },
        dry_run: cleanup.dry_run,
        max: (cleanup.max_deletes > 0).then_some(cleanup.max_deletes),
        dlq_bytes_max: options.dlq_bytes_max,
        ledger_excess_bytes: 0,
        output_excess_bytes: 0,
        idle: Idle::configured(options, now_ms),
        tidies: false,
        rows: options.rows(),
    }
}

fn keyspace_bytes(sizes: &Sizes) -> u64 {
    sizes.keyspaces.values().sum()
}

impl Inner {
    /// One step of a walk, counted.
    async fn step(&self, walk: &mut Walk) -> Result<usize, Refusal> {
        if walk.is_dry() {
            return walk.step(&self.live).await;
        }
        let totals = |walk: &Walk| (walk.deleted(CleanupKind::Jobs), walk.deleted(CleanupKind::Logs));
        let (jobs, logs) = totals(walk);
        let bytes = walk.report().reclaimed_bytes;
        let examined = walk.step(&self.live).await;
        // Also after an error: what was deleted before it is gone.
        let (jobs_now, logs_now) = totals(walk);
        self.metrics.ledger_pruned_jobs.inc_by(jobs_now - jobs);
        self.metrics.ledger_pruned_logs.inc_by(logs_now - logs);
        if walk.report().deleted.values().any(|count| *count > 0) {
            self.freed(walk.report().reclaimed_bytes - bytes);
        }
        examined
    }

    /// Rows of about so many bytes are gone.
    fn freed(&self, bytes: u64) {
        self.dirty.store(true, Ordering::Relaxed);
        self.room.add(bytes);
    }

    async fn compact_if_needed(&self) -> Result<(), Refusal> {
        let _turn = self.turn.lock().await;
        if self.dirty.load(Ordering::Relaxed) { self.compact().await } else { Ok(()) }
    }

    async fn compact(&self) -> Result<(), Refusal> {
        self.dirty.store(false, Ordering::Relaxed);
        let store = self.live.store.clone();
        let done = tokio::task::spawn_blocking(move || store.compact()).await;
        let failed = |error| Refusal::new(RefusalCode::Internal, format!("compaction: {error}"));
        done.map_err(failed).flatten().inspect_err(|_| self.dirty.store(true, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests;
