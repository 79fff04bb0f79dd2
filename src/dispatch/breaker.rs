//! The circuit breaker of one host: after many failures in a row nothing is sent but a probe now and then.
//!
//! `closed → open{until} → half-open: one probe → closed | open{twice as long}`. A host without a success for longer than
//! `give_up_ms` is *given up*: its tasks are let through to fail at once, so that jobs end and say why, and the probes go on.
//! Pure. Must not know: hosts' names, tasks, who asks.

/// A probe that has not been heard of for so long does not keep others from probing.
const PROBE_MS: i64 = 60_000;

#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Failures in a row that open it; 0: never.
    pub failures: u32,
    pub min_ms: i64,
    pub max_ms: i64,
    pub give_up_ms: i64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Breaker {
    failures: u32,
    first_ms: i64,
    last_ms: i64,
    /// Opened, and not yet closed again.
    open: Option<Open>,
}

#[derive(Debug, Clone)]
struct Open {
    until_ms: i64,
    delay_ms: i64,
    probe: Probe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    None,
    /// Picked, and its request has not left.
    Picked {
        until_ms: i64,
    },
    Out {
        until_ms: i64,
    },
}

/// Whether a request may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    Yes,
    /// Not now. Since when there was no success, and when it is probed next.
    Wait {
        since_ms: i64,
        until_ms: i64,
    },
    /// The same, and given up.
    Down {
        since_ms: i64,
        until_ms: i64,
    },
}

impl Breaker {
    /// What became of a request.
    pub fn heard(&mut self, is_well: bool, rules: &Rules, now_ms: i64) {
        if is_well {
            *self = Self::default();
            return;
        }
        if rules.failures == 0 {
            return;
        }
        if self.failures == 0 {
            self.first_ms = now_ms;
        }
        self.failures = self.failures.saturating_add(1);
        self.last_ms = now_ms;
        match &mut self.open {
            None if self.failures >= rules.failures => {
                let until_ms = now_ms.saturating_add(rules.min_ms);
                self.open = Some(Open { until_ms, delay_ms: rules.min_ms, probe: Probe::None });
            }
            None => {}
            // Requests that were under way when it opened tell nothing new: only the probe does.
            Some(open) => match open.probe {
                Probe::None | Probe::Picked { .. } => {}
                Probe::Out { .. } => {
                    open.delay_ms = open.delay_ms.saturating_mul(2).min(rules.max_ms);
                    open.until_ms = now_ms.saturating_add(open.delay_ms);
                    open.probe = Probe::None;
                }
            },
        }
    }

    /// Until when nothing may leave; None: closed, or a probe may.
    pub fn shut_until_ms(&self, now_ms: i64) -> Option<i64> {
        let open = self.open.as_ref()?;
        let until_ms = match open.probe {
            Probe::None => open.until_ms,
            Probe::Picked { until_ms } | Probe::Out { until_ms } => until_ms.max(open.until_ms),
        };
        (until_ms > now_ms).then_some(until_ms)
    }

    /// Its tasks wait.
    pub fn is_shut(&self, rules: &Rules, now_ms: i64) -> bool {
        self.shut_until_ms(now_ms).is_some() && !self.is_given_up(rules, now_ms)
    }

    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    fn is_given_up(&self, rules: &Rules, now_ms: i64) -> bool {
        self.open.is_some() && now_ms.saturating_sub(self.first_ms) >= rules.give_up_ms
    }

    /// A task was picked: it is the probe if one is due.
    pub fn picked(&mut self, now_ms: i64) {
        if self.shut_until_ms(now_ms).is_none()
            && let Some(open) = &mut self.open
        {
            open.probe = Probe::Picked { until_ms: now_ms.saturating_add(PROBE_MS) };
        }
    }

    /// A request wants to leave. `was_picked`: it is the first of an attempt that was picked for this host.
    pub fn leave(&mut self, was_picked: bool, rules: &Rules, now_ms: i64) -> Leave {
        let is_given_up = self.is_given_up(rules, now_ms);
        let shut = self.shut_until_ms(now_ms);
        let Some(open) = &mut self.open else { return Leave::Yes };
        let is_probe = shut.is_none() || (was_picked && matches!(open.probe, Probe::Picked { .. }));
        if is_probe {
            open.probe = Probe::Out { until_ms: now_ms.saturating_add(PROBE_MS) };
            return Leave::Yes;
        }
        let until_ms = shut.unwrap_or(now_ms);
        if is_given_up {
            Leave::Down { since_ms: self.first_ms, until_ms }
        } else if was_picked {
            // Picked before it opened.
            Leave::Yes
        } else {
            Leave::Wait { since_ms: self.first_ms, until_ms }
        }
    }

    /// Nobody talks to the host any more: a probe that said nothing is over.
    pub fn quiet(&mut self) {
        if let Some(open) = &mut self.open {
            open.probe = Probe::None;
        }
    }

    /// The next time at which an answer above changes by itself.
    pub fn next_change_ms(&self, rules: &Rules, now_ms: i64) -> Option<i64> {
        if self.failures == 0 {
            return None;
        }
        let give_up = self.open.is_some().then(|| self.first_ms.saturating_add(rules.give_up_ms));
        let times = [self.shut_until_ms(now_ms), give_up, Some(self.forgotten_ms(rules))];
        times.into_iter().flatten().filter(|at| *at > now_ms).min()
    }

    /// Failures that are long ago count no more: a host nobody asks for need not be remembered.
    pub fn forget(&mut self, rules: &Rules, now_ms: i64) {
        if self.failures > 0 && now_ms >= self.forgotten_ms(rules) {
            *self = Self::default();
        }
    }

    fn forgotten_ms(&self, rules: &Rules) -> i64 {
        let until_ms = self.open.as_ref().map_or(0, |open| open.until_ms);
        self.last_ms.max(until_ms).saturating_add(rules.give_up_ms.max(rules.max_ms))
    }

    /// Nothing is remembered.
    pub fn is_clean(&self) -> bool {
        self.failures == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { failures: 3, min_ms: 1_000, max_ms: 8_000, give_up_ms: 60_000 };

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            breaker.heard(false, &RULES, 0);
        }
        breaker
    }

    #[test]
    fn a_host_that_fails_now_and_then_is_never_shut() {
        let mut breaker = Breaker::default();
        for now in 0..100 {
            breaker.heard(now % 3 == 2, &RULES, now);
            assert!(!breaker.is_shut(&RULES, now));
        }
    }

    #[test]
    fn a_dead_host_is_probed_ever_more_rarely_by_one_at_a_time() {
        let mut breaker = opened();
        assert!(breaker.is_shut(&RULES, 999) && !breaker.is_shut(&RULES, 1_000));
        let (mut now, mut waits) = (1_000, Vec::new());
        for _ in 0..5 {
            breaker.picked(now);
            assert!(breaker.is_shut(&RULES, now), "one probe at a time");
            let until_ms = now + PROBE_MS;
            assert_eq!(breaker.leave(false, &RULES, now), Leave::Wait { since_ms: 0, until_ms });
            assert_eq!(breaker.leave(true, &RULES, now), Leave::Yes);
            breaker.heard(false, &RULES, now);
            let Leave::Wait { until_ms: until, .. } = breaker.leave(false, &RULES, now) else { panic!("open") };
            waits.push(until - now);
            now = until;
        }
        assert_eq!(waits, [2_000, 4_000, 8_000, 8_000, 8_000]);
    }

    #[test]
    fn the_first_success_opens_everything() {
        let mut breaker = opened();
        breaker.picked(1_000);
        assert_eq!(breaker.leave(true, &RULES, 1_000), Leave::Yes);
        breaker.heard(true, &RULES, 1_001);
        assert!(breaker.is_clean() && !breaker.is_shut(&RULES, 1_001));
        assert_eq!(breaker.leave(false, &RULES, 1_001), Leave::Yes);
    }

    #[test]
    fn a_probe_that_says_nothing_does_not_shut_the_host_for_ever() {
        let mut breaker = opened();
        breaker.picked(1_000);
        breaker.quiet();
        assert!(!breaker.is_shut(&RULES, 1_000));
        breaker.picked(1_000);
        assert!(!breaker.is_shut(&RULES, 1_000 + PROBE_MS));
    }

    #[test]
    fn tasks_of_a_host_that_stays_dead_are_told_so_and_the_probes_go_on() {
        let mut breaker = opened();
        let mut now = 1_000;
        while now < RULES.give_up_ms {
            breaker.picked(now);
            assert_eq!(breaker.leave(true, &RULES, now), Leave::Yes);
            breaker.heard(false, &RULES, now);
            let Leave::Wait { until_ms: until, .. } = breaker.leave(false, &RULES, now) else { break };
            now = until;
        }
        assert!(!breaker.is_shut(&RULES, RULES.give_up_ms), "its tasks are let through");
        breaker.picked(70_000);
        assert_eq!(breaker.leave(true, &RULES, 70_000), Leave::Yes, "the probe");
        let down = breaker.leave(true, &RULES, 70_001);
        assert_eq!(down, Leave::Down { since_ms: 0, until_ms: 70_000 + PROBE_MS });
        breaker.heard(true, &RULES, 70_002);
        assert_eq!(breaker.leave(true, &RULES, 70_003), Leave::Yes);
    }

    #[test]
    fn a_host_nobody_asks_for_is_forgotten() {
        let mut breaker = opened();
        let at = breaker.next_change_ms(&RULES, RULES.give_up_ms).unwrap();
        breaker.forget(&RULES, at);
        assert!(breaker.is_clean());
    }
}
