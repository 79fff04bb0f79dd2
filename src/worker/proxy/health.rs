//! Whether a proxy is used now: failures in a row, cooling off, and the one request that tries it again.
//!
//! Owns: the decisions, pure: time comes in. Must not know: connections, pools' names.

/// The numbers health follows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) failures_max: u32,
    pub(super) cool_off_min_ms: i64,
    pub(super) cool_off_max_ms: i64,
}

impl Limits {
    /// Doubles with each time in a row.
    fn cool_off_ms(self, trips: u32) -> i64 {
        let doubled = 1_i64.checked_shl(trips.saturating_sub(1).min(40)).unwrap_or(i64::MAX);
        self.cool_off_min_ms.saturating_mul(doubled).min(self.cool_off_max_ms)
    }
}

/// How sure it is that the proxy is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nobody else can be: it does not answer, or does not want us.
    Its,
    /// The origin behind it may be.
    Maybe,
}

/// One proxy. The default is well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Health {
    /// In a row.
    failures: u32,
    /// How often it cooled off in a row; 0: it is in use.
    trips: u32,
    until_ms: i64,
    /// It cools off for failures that may have been others'.
    in_doubt: bool,
}

impl Health {
    /// Whether a request may be sent now. One that is sent while it cools off is its probe.
    pub(super) fn take(&mut self, now_ms: i64, limits: Limits) -> Option<Taken> {
        if self.trips == 0 {
            return Some(Taken::Usual);
        }
        if self.wait_ms(now_ms, limits) > 0 {
            return None;
        }
        // Nobody follows the probe for one more cooling off: if it is never heard of, the next one goes then.
        self.until_ms = now_ms.saturating_add(limits.cool_off_ms(self.trips));
        Some(Taken::Probe)
    }

    /// Whether it may be used when nothing better is left: it answers, and what failed may have been the origins.
    pub(super) fn may_serve(&self) -> bool {
        self.trips == 0 || self.in_doubt
    }

    /// Milliseconds until it is tried again; 0: now.
    pub(super) fn wait_ms(&self, now_ms: i64, limits: Limits) -> i64 {
        if self.trips == 0 {
            return 0;
        }
        match self.until_ms.saturating_sub(now_ms) {
            // The wall clock went back: no cooling off is as long as that.
            wait if wait > limits.cool_off_max_ms => 0,
            wait => wait.max(0),
        }
    }

    /// True if it was cooling off.
    pub(super) fn well(&mut self) -> bool {
        std::mem::take(self).trips > 0
    }

    /// How long it cools off from now, if it begins to.
    pub(super) fn failed(&mut self, fault: Fault, taken: Taken, now_ms: i64, limits: Limits) -> Option<i64> {
        self.failures = self.failures.saturating_add(1);
        let begins = match (self.trips, taken) {
            (0, _) => self.failures >= limits.failures_max,
            (_, Taken::Probe) => true,
            // It was sent before: it says nothing new.
            (_, Taken::Usual) => false,
        };
        if !begins {
            return None;
        }
        self.trips = self.trips.saturating_add(1);
        self.in_doubt = fault == Fault::Maybe;
        let wait = limits.cool_off_ms(self.trips);
        self.until_ms = now_ms.saturating_add(wait);
        Some(wait)
    }
}

/// As what a request goes to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Usual,
    Probe,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { failures_max: 3, cool_off_min_ms: 10_000, cool_off_max_ms: 300_000 };

    fn failed(health: &mut Health, taken: Taken, now_ms: i64) -> Option<i64> {
        health.failed(Fault::Its, taken, now_ms, LIMITS)
    }

    #[test]
    fn the_third_failure_in_a_row_counts_and_a_success_forgets() {
        let mut health = Health::default();
        for now in 0..2 {
            assert_eq!(failed(&mut health, Taken::Usual, now), None);
        }
        assert!(!health.well());
        for now in 0..2 {
            assert_eq!(failed(&mut health, Taken::Usual, now), None);
        }
        assert_eq!(failed(&mut health, Taken::Usual, 2), Some(10_000));
        assert_eq!((health.take(3, LIMITS), health.wait_ms(3, LIMITS)), (None, 9_999));
    }

    #[test]
    fn one_probe_goes_after_each_wait_and_waits_double_to_the_longest() {
        let mut health = Health::default();
        (0..3).for_each(|_| _ = failed(&mut health, Taken::Usual, 0));
        // Requests that were on their way when it began change nothing.
        (0..30).for_each(|_| assert_eq!(failed(&mut health, Taken::Usual, 5), None));
        let mut now = 10_000;
        for wait in [20_000, 40_000, 80_000, 160_000, 300_000, 300_000] {
            assert_eq!(health.take(now - 1, LIMITS), None);
            assert_eq!(health.take(now, LIMITS), Some(Taken::Probe));
            assert_eq!(health.take(now, LIMITS), None, "one probe at a time");
            assert_eq!(failed(&mut health, Taken::Probe, now), Some(wait));
            now += wait;
        }
        assert_eq!(health.take(now, LIMITS), Some(Taken::Probe));
        assert_eq!(health.take(now + 300_000, LIMITS), Some(Taken::Probe), "a lost probe is replaced");
        assert!(health.well());
        assert_eq!(health, Health::default());
    }

    #[test]
    fn a_proxy_whose_origins_may_be_dead_serves_when_nothing_else_does() {
        let mut health = Health::default();
        (0..3).for_each(|_| _ = health.failed(Fault::Maybe, Taken::Usual, 0, LIMITS));
        assert!(health.take(1, LIMITS).is_none() && health.may_serve());
        assert_eq!(health.take(10_000, LIMITS), Some(Taken::Probe));
        failed(&mut health, Taken::Probe, 10_000);
        assert!(!health.may_serve());
    }

    #[test]
    fn a_clock_that_goes_back_a_year_does_not_shut_a_proxy_out() {
        let mut health = Health::default();
        (0..3).for_each(|_| _ = failed(&mut health, Taken::Usual, 40_000_000_000));
        assert_eq!(health.take(1_000, LIMITS), Some(Taken::Probe));
    }

    proptest! {
        #[test]
        fn no_history_shuts_a_proxy_out_for_longer_than_the_longest_wait(
            steps in proptest::collection::vec((0u8..4, 0i64..400_000), 0..60),
        ) {
            let (mut health, mut now, mut taken) = (Health::default(), 0, Taken::Usual);
            for (step, later) in steps {
                now += later;
                match step {
                    0 => _ = health.well(),
                    1 => _ = health.failed(Fault::Its, taken, now, LIMITS),
                    2 => _ = health.failed(Fault::Maybe, taken, now, LIMITS),
                    _ => taken = health.take(now, LIMITS).unwrap_or(taken),
                }
                prop_assert!((0..=300_000).contains(&health.wait_ms(now, LIMITS)));
                prop_assert!(health.clone().take(now + 300_000, LIMITS).is_some());
            }
        }
    }
}
