//! The daemon's heartbeat: gauges once a second, and the watchdog only while there is progress.
//!
//! Owns: what "alive" means to systemd. Must not know: what the parts do.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::dispatch::Dispatch;
use crate::store::Reader;
use crate::telemetry::Metrics;

const BEAT: Duration = Duration::from_secs(1);
/// A dispatcher that has not turned for this long is stuck: it turns at least once a second when idle.
const STUCK_MS: i64 = 15_000;

#[derive(Clone)]
pub struct Pulse {
    pub clock: Clock,
    pub reader: Reader,
    pub dispatch: Dispatch,
    pub metrics: Metrics,
}

impl Pulse {
    pub async fn run(self, stop: CancellationToken) {
        // Half of what systemd grants, as sd_watchdog_enabled(3) advises.
        let every = sd_notify::watchdog_enabled().map(|granted| granted / 2);
        let mut beat = tokio::time::interval(BEAT.min(every.unwrap_or(BEAT)));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beat.tick() => {}
            }
            self.gauges();
            if every.is_some() && self.dispatcher_stuck().is_none() && self.reader.fault().is_none() {
                notify(&[NotifyState::Watchdog]);
            }
        }
    }

    pub fn gauges(&self) {
        let counters = self.reader.counters();
        let depth = counters.tasks_open.saturating_sub(counters.tasks_leased);
        self.metrics.queue_depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
        let dead: u64 = counters.dead_letters.values().sum();
        self.metrics.dlq_size.set(i64::try_from(dead).unwrap_or(i64::MAX));
    }

    /// For how long the dispatcher has stood still, once that is too long.
    pub fn dispatcher_stuck(&self) -> Option<i64> {
        let still = self.clock.now_ms().saturating_sub(self.dispatch.status().last_turn_ms);
        (still > STUCK_MS).then_some(still)
    }
}

/// Tells systemd, if it started us. A lost message is not worth more than a line.
pub fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
