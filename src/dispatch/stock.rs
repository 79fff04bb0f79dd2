//! Tasks leased a moment before there is a place for them, so that no place waits for the disk.
//!
//! Owns: how many are leased ahead (as many as places come free in a moment, at the present pace), and that none waits here for
//! long. Pure. Must not know: how leasing is done, who runs.
//!
//! While attempts are quick, a place that had to wait for a lease call would be empty half of the time, and each call would
//! bring one or two picks. While they are slow nothing is leased ahead: the next pick is made when its place is there.

use std::collections::VecDeque;

use super::lane::Candidate;
use crate::store::Lease;

/// About what a lease call takes with the turn before it, generously: so many ends ahead are provided for.
const AHEAD_MS: i64 = 4;
/// A stretch over which ends are counted.
const SLOT_MS: i64 = 8;
/// What waits for longer than this is given back: the pace is over, and others may have come that go first.
const STALE_MS: i64 = 100;

/// A task with its lease. Its place and turn at its host are reserved.
#[derive(Debug)]
pub(super) struct Ahead {
    pub candidate: Candidate,
    pub lease: Lease,
    since_ms: i64,
}

#[derive(Debug, Default)]
pub(super) struct Stock {
    waiting: VecDeque<Ahead>,
    turnover: Turnover,
}

impl Stock {
    pub fn push(&mut self, candidate: Candidate, lease: Lease, now_ms: i64) {
        self.waiting.push_back(Ahead { candidate, lease, since_ms: now_ms });
    }

    /// In the order they were picked.
    pub fn pop(&mut self) -> Option<Ahead> {
        self.waiting.pop_front()
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The first has waited for too long, and so has what follows it.
    pub fn is_stale(&self, now_ms: i64) -> bool {
        self.stale_at_ms().is_some_and(|at_ms| at_ms <= now_ms)
    }

    pub fn stale_at_ms(&self) -> Option<i64> {
        self.waiting.front().map(|first| first.since_ms.saturating_add(STALE_MS))
    }

    /// An attempt came to its end.
    pub fn ended(&mut self, now_ms: i64) {
        self.turnover.count(now_ms);
    }

    /// How many places will be free by the time a lease call that begins now is answered.
    pub fn ahead(&self, now_ms: i64) -> usize {
        self.turnover.within(AHEAD_MS, now_ms)
    }
}

/// Ends in this stretch of time and in the one before it.
#[derive(Debug, Default)]
struct Turnover {
    slot: i64,
    now: u32,
    before: u32,
}

impl Turnover {
    fn count(&mut self, now_ms: i64) {
        let slot = now_ms.div_euclid(SLOT_MS);
        if slot != self.slot {
            self.before = if slot == self.slot + 1 { self.now } else { 0 };
            (self.slot, self.now) = (slot, 0);
        }
        self.now = self.now.saturating_add(1);
    }

    /// Ends to be expected within so many milliseconds; fewer rather than more.
    fn within(&self, ms: i64, now_ms: i64) -> usize {
        let ends = match now_ms.div_euclid(SLOT_MS) - self.slot {
            0 => i64::from(self.before) + i64::from(self.now),
            1 => i64::from(self.now),
            _ => 0,
        };
        usize::try_from(ends * ms / (SLOT_MS + now_ms.rem_euclid(SLOT_MS) + 1)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_leased_ahead_as_end_in_a_moment_and_none_while_attempts_are_slow() {
        let mut quick = Stock::default();
        for at in 0..1_000 {
            // Five a millisecond.
            quick.ended(at / 5);
        }
        let ahead = quick.ahead(199);
        assert!((15..=20).contains(&ahead), "{ahead}");
        assert_eq!(quick.ahead(250), 0, "nothing ended for a while");
        let mut slow = Stock::default();
        for at in (0..1_000).step_by(10) {
            slow.ended(at);
            assert_eq!(slow.ahead(at), 0, "at {at}");
        }
    }
}
