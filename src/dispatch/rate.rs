//! How often requests may leave: the generic cell rate algorithm, one number of state.
//!
//! Pure. Must not know: hosts, attempts, clocks.

/// Requests are planned this much slower than the rate says, so that what the way to the origin takes now and then longer cannot
/// push one more into a window than the rate allows.
const MARGIN: f64 = 1.05;
/// A request may be planned this far ahead: its attempt then waits for its moment, and no turn of the loop is lost.
pub(super) const LEAD_US: i64 = 50_000;

/// At most `burst + per_second * t` requests in any `t` seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    /// Between two requests in the long run; 0: no limit.
    interval_us: i64,
    /// How much earlier than evenly spaced a request may come.
    tolerance_us: i64,
}

impl Rate {
    /// `per_second` 0: no limit.
    pub fn new(per_second: f64, burst: u32) -> Self {
        if per_second <= 0.0 || !per_second.is_finite() {
            return Self { interval_us: 0, tolerance_us: 0 };
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "validated to be between one in an hour and a million a second: exact"
        )]
        let interval_us = ((1_000_000.0 * MARGIN / per_second).ceil() as i64).max(1);
        // One of the burst is kept for requests that the way to the origin bunches.
        let planned = i64::from(burst.saturating_sub(1).max(1));
        Self { interval_us, tolerance_us: interval_us.saturating_mul(planned - 1) }
    }
}

/// The state: when the next request would be due if all came evenly spaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pace {
    due_us: i64,
}

impl Pace {
    /// When the next request may leave if `before` others leave now: `now_us`, or later.
    pub fn slot_us(&self, rate: &Rate, before: u32, now_us: i64) -> i64 {
        let mut due = self.due_us(rate, now_us);
        if before > 0 {
            due = due.max(now_us).saturating_add(rate.interval_us.saturating_mul(i64::from(before)));
        }
        now_us.max(due.saturating_sub(rate.tolerance_us))
    }

    /// One request leaves at `at_us`, which is no earlier than its slot.
    pub fn take(&mut self, rate: &Rate, at_us: i64, now_us: i64) {
        self.due_us = self.due_us(rate, now_us).max(at_us).saturating_add(rate.interval_us);
    }

    /// From when on the past does not matter.
    pub fn rested_us(&self) -> i64 {
        self.due_us
    }

    /// Never further ahead than a request planned at the last moment can have put it: a clock that goes back stops nobody.
    fn due_us(&self, rate: &Rate, now_us: i64) -> i64 {
        let most = now_us.saturating_add(LEAD_US).saturating_add(rate.tolerance_us).saturating_add(rate.interval_us);
        self.due_us.min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_window_ever_holds_more_than_burst_and_rate_allow(
            per_second in 0.2f64..500.0, burst in 1u32..20, gaps in prop::collection::vec(0i64..400_000, 1..300),
        ) {
            let rate = Rate::new(per_second, burst);
            let mut pace = Pace::default();
            let (mut now, mut last) = (1_000_000_000, 0);
            let mut sent: Vec<i64> = Vec::new();
            for gap in gaps {
                now += gap;
                let at = pace.slot_us(&rate, 0, now);
                // One that would have to wait longer comes again later.
                if at <= now + LEAD_US {
                    pace.take(&rate, at, now);
                    prop_assert!(at >= last, "order");
                    last = at;
                    sent.push(at);
                }
            }
            for (i, first) in sent.iter().enumerate() {
                for (j, end) in sent.iter().enumerate().skip(i) {
                    #[expect(clippy::cast_precision_loss, reason = "minutes in microseconds: exact")]
                    let (n, seconds) = ((j - i + 1) as f64, (end - first) as f64 / 1e6);
                    prop_assert!(n <= f64::from(burst) + per_second * seconds + 1e-6, "{n} in {seconds} s");
                }
            }
        }
    }

    #[test]
    fn a_steady_stream_gets_nearly_all_its_rate() {
        let rate = Rate::new(10.0, 1);
        let (mut pace, mut sent) = (Pace::default(), 0);
        for now in (0..10_000_000).step_by(1_000) {
            let at = pace.slot_us(&rate, 0, now);
            if at <= now {
                pace.take(&rate, at, now);
                sent += 1;
            }
        }
        assert!((93..=96).contains(&sent), "{sent} in ten seconds");
    }

    #[test]
    fn a_clock_that_goes_back_a_day_does_not_stop_a_host_for_a_day() {
        let rate = Rate::new(1.0, 1);
        let mut pace = Pace::default();
        pace.take(&rate, 86_400_000_000, 86_400_000_000);
        assert!(pace.slot_us(&rate, 0, 0) < 2_000_000);
    }

    #[test]
    fn no_rate_never_waits() {
        let rate = Rate::new(0.0, 1);
        let mut pace = Pace::default();
        pace.take(&rate, 5, 5);
        assert_eq!(pace.slot_us(&rate, 1_000, 5), 5);
    }
}
