//! The scheduled sweep: everything at its configured age, in bounded ticks, and the ledger's size under its cap.
//!
//! Owns: the schedule, the cursors between passes. Must not know: what is old (see `policy`), how one step works (see `walk`).

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::model::{CleanupKind, Refusal};
use crate::store::Sizes;

use super::policy::{Cutoffs, Idle};
use super::walk::{Cursors, Order, Walk};
use super::world::World as _;
use super::{Inner, keyspace_bytes};

/// The first pass waits for the daemon to have started properly.
const FIRST_AFTER_MS: u64 = 60_000;
const PIECE: Duration = Duration::from_secs(30);
/// Rows one tick looks at. Between ticks a request may take its turn.
const TICK_ROWS_MAX: usize = 10_000;
const BETWEEN_TICKS: Duration = Duration::from_secs(1);
/// A pass goes on where the last one ended; once a day one begins anew and sees what was active when it was passed.
const ANEW_EVERY_MS: i64 = 86_400_000;

/// Runs the schedule. One a daemon.
pub struct Sweeper {
    inner: Arc<Inner>,
    cursors: Cursors,
    began_anew_at_ms: i64,
}

impl Sweeper {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, cursors: Cursors::default(), began_anew_at_ms: i64::MIN }
    }

    /// Sweeps on schedule until `stop`, by the interval the first time after a minute, and gives space back to the disk. Returns within
    /// one step of `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let inner = self.inner.clone();
        tokio::join!(self.sweeps(&stop), super::room::give_back(&inner, &stop));
    }

    async fn sweeps(mut self, stop: &CancellationToken) {
        // Nothing is being staged yet: what lies there and is not recorded is of a process that was killed.
        if let Err(refusal) = self.inner.live.sweep_staging(self.inner.clock.now_ms(), false).await {
            tracing::warn!(%refusal, "staged files of an earlier run could not be swept");
        }
        let mut first = true;
        while let Some(at_ms) = next_ms(&self.inner.options, self.inner.clock.now_ms(), std::mem::take(&mut first)) {
            if !self.wait_until(at_ms, stop).await {
                return;
            }
            if let Err(refusal) = self.pass(stop).await {
                tracing::warn!(%refusal, "the retention sweep stopped early and goes on at its next time");
            }
        }
        stop.cancelled().await;
    }

    /// In short pieces, so that a clock that is set is noticed. False: stopped.
    async fn wait_until(&self, at_ms: i64, stop: &CancellationToken) -> bool {
        loop {
            let left_ms = u64::try_from(at_ms.saturating_sub(self.inner.clock.now_ms())).unwrap_or(0);
            if left_ms == 0 {
                return !stop.is_cancelled();
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(Duration::from_millis(left_ms).min(PIECE)) => {}
            }
        }
    }

    #[cfg(test)]
    pub async fn once(mut self) -> Result<(), Refusal> {
        self.pass(&CancellationToken::new()).await
    }

    async fn pass(&mut self, stop: &CancellationToken) -> Result<(), Refusal> {
        let now_ms = self.inner.clock.now_ms();
        // A clock that went back begins anew as well.
        let age_ms = now_ms.saturating_sub(self.began_anew_at_ms);
        if !(0..ANEW_EVERY_MS).contains(&age_ms) {
            self.cursors = Cursors::default();
            self.began_anew_at_ms = now_ms;
        }
        let order = scheduled(&self.inner.options, now_ms);
        let walk = Walk::new(order, self.cursors.clone());
        let walk = self.ticks(walk, stop).await?;
        let done = walk.is_done();
        let (report, cursors) = walk.finish();
        self.cursors = cursors;
        log(&report);
        if done && !stop.is_cancelled() {
            self.keep_under_cap(stop).await?;
            self.keep_output_under_cap(stop).await?;
        }
        Ok(())
    }

    /// Steps until the walk is done or `stop`, and lets others have their turn now and then.
    async fn ticks(&self, mut walk: Walk, stop: &CancellationToken) -> Result<Walk, Refusal> {
        while !walk.is_done() {
            let turn = self.inner.turn.lock().await;
            let mut examined = 0;
            while !walk.is_done() && examined < TICK_ROWS_MAX {
                if stop.is_cancelled() {
                    return Ok(walk);
                }
                examined += self.inner.step(&mut walk).await?;
                tokio::task::yield_now().await;
            }
            drop(turn);
            if walk.is_done() {
                break;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(walk),
                () = tokio::time::sleep(BETWEEN_TICKS) => {}
            }
        }
        Ok(walk)
    }

    /// Deleted rows keep their space until a compaction. So the size is only believed after one, or one cleanup would be paid for
    /// again and again with jobs that need not go.
    async fn keep_under_cap(&self, stop: &CancellationToken) -> Result<(), Refusal> {
        let cap = self.inner.options.ledger_bytes_max;
        let excess = |inner: &Inner| keyspace_bytes(&inner.live.reader.sizes()).saturating_sub(cap);
        if cap == 0 || excess(&self.inner) == 0 {
            return Ok(());
        }
        self.inner.compact_if_needed().await?;
        let ledger_excess_bytes = excess(&self.inner);
        if ledger_excess_bytes == 0 {
            return Ok(());
        }
        let order = Order {
            cutoffs: Cutoffs::default(),
            kinds: [CleanupKind::Jobs].into(),
            dlq_bytes_max: 0,
            ledger_excess_bytes,
            tidies: false,
            ..scheduled(&self.inner.options, self.inner.clock.now_ms())
        };
        let walk = self.ticks(Walk::new(order, Cursors::default()), stop).await?;
        let jobs = walk.deleted(CleanupKind::Jobs);
        tracing::warn!(
            jobs,
            excess_bytes = ledger_excess_bytes,
            "the ledger outgrew its cap: oldest ended jobs were deleted"
        );
        if stop.is_cancelled() {
            return Ok(());
        }
        self.inner.compact_if_needed().await
    }

    /// The same for output alone, and for the share of the disk that may be used: by whomever, so all that can go may go.
    async fn keep_output_under_cap(&self, stop: &CancellationToken) -> Result<(), Refusal> {
        let excess = |inner: &Inner| output_excess(&inner.options, &inner.live.reader.sizes());
        if excess(&self.inner) == 0 {
            return Ok(());
        }
        super::room::compact_output(&self.inner, stop).await?;
        let output_excess_bytes = excess(&self.inner);
        if output_excess_bytes == 0 {
            return Ok(());
        }
        let order = Order {
            kinds: Default::default(),
            output_excess_bytes,
            tidies: false,
            ..scheduled(&self.inner.options, self.inner.clock.now_ms())
        };
        let walk = self.ticks(Walk::new(order, Cursors::default()), stop).await?;
        let (report, _) = walk.finish();
        log(&report);
        tracing::warn!(
            records = report.deleted.values().sum::<u64>(),
            bytes = report.reclaimed_bytes,
            excess_bytes = output_excess_bytes,
            "output outgrew its cap or its disk: that of the oldest ended jobs was deleted"
        );
        if stop.is_cancelled() {
            return Ok(());
        }
        super::room::compact_output(&self.inner, stop).await
    }
}

/// Bytes of output beyond its cap, or beyond what may be used of the disk.
fn output_excess(options: &super::Options, sizes: &Sizes) -> u64 {
    let output = sizes.keyspaces.get("output").copied().unwrap_or(0);
    let beyond = |cap: u64, used: u64| if cap == 0 { 0 } else { used.saturating_sub(cap) };
    let allowed = sizes.disk_bytes / 100 * u64::from(options.disk_percent_max);
    let used = sizes.disk_bytes.saturating_sub(sizes.free_disk_bytes);
    beyond(options.output_bytes_max, output).max(beyond(allowed, used)).min(output)
}

/// When the next sweep is due; None: none is scheduled.
fn next_ms(options: &super::Options, now_ms: i64, first: bool) -> Option<i64> {
    if let Ok(Some(schedule)) = options.cron() {
        return schedule.next_after_ms(now_ms);
    }
    let wait_ms = if first { options.interval_ms.min(FIRST_AFTER_MS) } else { options.interval_ms };
    (wait_ms > 0).then(|| now_ms.saturating_add(i64::try_from(wait_ms).unwrap_or(i64::MAX)))
}

fn scheduled(options: &super::Options, now_ms: i64) -> Order {
    Order {
        cutoffs: Cutoffs::configured(options, now_ms),
        kinds: CleanupKind::ALL.into_iter().collect(),
        dry_run: false,
        max: None,
        dlq_bytes_max: options.dlq_bytes_max,
        ledger_excess_bytes: 0,
        output_excess_bytes: 0,
        idle: Idle::configured(options, now_ms),
        tidies: true,
        rows: options.rows(),
    }
}

fn log(report: &crate::model::CleanupReport) {
    if report.deleted.values().any(|count| *count > 0) {
        let deleted: Vec<String> =
            report.deleted.iter().map(|(kind, count)| format!("{}={count}", kind.name())).collect();
        tracing::info!(deleted = deleted.join(" "), "retention swept");
    }
}
