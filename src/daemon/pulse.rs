//! The daemon's heartbeat: the watchdog is fed only while there is progress.
//!
//! Owns: what "alive" means to systemd. Must not know: what the parts do.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::dispatch::Dispatch;
use crate::store::Reader;

const BEAT_MIN: Duration = Duration::from_millis(10);
const BEAT_MAX: Duration = Duration::from_secs(5);
/// A dispatcher that has not turned for this long is stuck: it turns at least once a second when idle.
const STUCK_MS: i64 = 15_000;

#[derive(Clone)]
pub struct Pulse {
    pub clock: Clock,
    pub reader: Reader,
    pub dispatch: Dispatch,
}

impl Pulse {
    pub async fn run(self, stop: CancellationToken) {
        // Without a watchdog there is nobody to feed.
        let Some(granted) = sd_notify::watchdog_enabled() else { return stop.cancelled().await };
        // Half of what systemd grants, as sd_watchdog_enabled(3) advises.
        let mut beat = tokio::time::interval((granted / 2).clamp(BEAT_MIN, BEAT_MAX));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beat.tick() => {}
            }
            if self.dispatcher_stuck().is_none() && self.reader.fault().is_none() {
                notify(&[NotifyState::Watchdog]);
            }
        }
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
