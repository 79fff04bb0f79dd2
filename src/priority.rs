//! How threads whose work nobody waits for stand back behind those that answer.
//!
//! Owns: their priority, and how long they keep a core from others. Must not know: what they do.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::clock::Clock;

/// Bytes of records handled before others may have the core: 0.05 to 0.4 ms of work, whatever is done with them. Left to itself, the
/// system lets a thread run until the next tick of its clock, 4 ms on many machines, however low its priority and whoever waits.
pub const GIVE_WAY_BYTES: usize = 64 << 10;
/// Whoever only had to answer is done sooner. What takes the core for longer wants it for itself, and gets its share as it is.
const ANSWERED_WITHIN: Duration = Duration::from_millis(3);
/// So many times as long as such a one had the core, none is offered: then what is given away is some 6 %.
const KEEP_FACTOR: u32 = 16;

thread_local! {
    static COURTESY: Cell<Courtesy> = const { Cell::new(Courtesy { handled: 0, keep_until: None }) };
}

/// What a thread still has to do before it gives way.
#[derive(Debug, Clone, Copy)]
struct Courtesy {
    handled: usize,
    keep_until: Option<Instant>,
}

impl Courtesy {
    /// True: it is time to ask whether the core may be kept.
    fn is_due(&mut self, bytes: usize) -> bool {
        self.handled = self.handled.saturating_add(bytes);
        let due = self.handled >= GIVE_WAY_BYTES;
        if due {
            self.handled = 0;
        }
        due
    }

    fn keeps(&self, now: Instant) -> bool {
        self.keep_until.is_some_and(|until| now < until)
    }

    /// The core was away from `gave` to `back`.
    fn gave(&mut self, gave: Instant, back: Instant) {
        let away = back.saturating_duration_since(gave);
        self.keep_until = (away > ANSWERED_WITHIN).then(|| back + away * KEEP_FACTOR);
    }
}

/// Lowers the priority of this thread by `nice`, where threads have one of their own: whoever answers and commits comes first. Without
/// that, nothing is lost but the order.
pub fn stand_back(nice: i32) {
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::nice(nice)
    {
        tracing::debug!(%error, "a thread keeps its priority");
    }
}

/// To be called wherever many records are handled, with the bytes of those that were: every [`GIVE_WAY_BYTES`] whoever waits for this
/// core has it. It costs nothing where nobody does.
pub fn give_way(bytes: usize) {
    let mut courtesy = COURTESY.get();
    if courtesy.is_due(bytes) {
        let now = Clock::instant();
        if !courtesy.keeps(now) {
            std::thread::yield_now();
            courtesy.gave(now, Clock::instant());
        }
    }
    COURTESY.set(courtesy);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_is_offered_to_those_that_answer_and_kept_from_those_that_only_run() {
        let mut courtesy = Courtesy { handled: 0, keep_until: None };
        assert!(!courtesy.is_due(GIVE_WAY_BYTES - 1));
        assert!(courtesy.is_due(1));
        assert!(!courtesy.is_due(1));
        let now = Clock::instant();
        let ms = Duration::from_millis;
        courtesy.gave(now, now + ms(1));
        assert!(!courtesy.keeps(now + ms(1)), "it was answered");
        courtesy.gave(now, now + ms(5));
        assert!(courtesy.keeps(now + ms(5)));
        assert!(courtesy.keeps(now + ms(84)));
        assert!(!courtesy.keeps(now + ms(85)), "who waits now may be another");
    }
}
