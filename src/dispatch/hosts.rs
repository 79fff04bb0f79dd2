//! What may be sent to each host now: places, rate, pauses it asked for, its circuit breaker; and the rate of all together.
//!
//! Pure. A host has an entry only while there is something to remember of it: attempts that talk or wait, a pause, a rate's debt,
//! failures. Each entry that changes by time alone stands in `wakes`, so nothing is looked for. Must not know: tasks, lanes, time.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::breaker::{Breaker, Leave};
use super::limits::{HostRules, Rules};
use super::rate::{LEAD_US, Pace};
use crate::worker::{NotNow, WhyNot};

/// Hosts remembered at once: some 40 MB. Beyond it the one is forgotten that would be soonest, unless it is in use.
const HOSTS_MAX: usize = 100_000;
/// An attempt that runs waits so long for a host that is paused or shut; when it would be longer, it fails and comes back then.
pub(super) const HOLD_MAX_MS: i64 = 30_000;
/// What is refused because too many wait comes back no sooner.
const CROWD_PAUSE_MS: i64 = 5_000;

#[derive(Debug)]
pub(super) struct HostTable {
    rules: Rules,
    hosts: HashMap<Arc<str>, Host>,
    /// When an entry may change by itself.
    wakes: BTreeSet<(i64, Arc<str>)>,
    /// Hosts somebody watched that may be open now.
    opened: Vec<Arc<str>>,
    /// The rate over all hosts, and the picks whose first request has not left.
    pace: Pace,
    reserved: u32,
    /// The latest time this table was told.
    now_ms: i64,
}

#[derive(Debug)]
struct Host {
    rules: HostRules,
    in_use: u32,
    /// Of these, picks whose first request has not left.
    reserved: u32,
    /// Requests of running attempts that wait here: they go before new attempts.
    waiting: u32,
    pace: Pace,
    paused_until_ms: i64,
    breaker: Breaker,
    /// Somebody found it shut and wants to hear when it may be open.
    is_watched: bool,
    wake_ms: i64,
}

/// Why nothing is sent to a host now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// From the wall clock where it leaves the dispatcher.
    pub until_ms: i64,
    /// By a Retry-After; else it does not answer.
    pub has_asked: bool,
}

/// How an attempt stands towards the host it wants to send a request to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was picked for it: place and turn are reserved.
    Picked,
    /// It has a place there.
    Inside,
    /// It comes from another host.
    Outside,
}

/// Whether a request may leave.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entry {
    /// At this time, a moment from now. It is counted.
    Go {
        at_ms: i64,
    },
    /// Ask again then; nothing is held for it.
    Later {
        at_ms: i64,
    },
    /// Ask again when a place is free.
    Full,
    Refused(NotNow),
}

impl Host {
    fn is_used(&self) -> bool {
        self.in_use > 0 || self.waiting > 0
    }

    fn is_shut(&self, rules: &Rules, now_ms: i64) -> bool {
        self.paused_until_ms > now_ms || self.breaker.is_shut(&rules.breaker, now_ms)
    }

    fn is_open(&self, rules: &Rules, now_ms: i64) -> bool {
        let before = self.reserved.saturating_add(self.waiting);
        !self.is_shut(rules, now_ms)
            && self.in_use.saturating_add(self.waiting) < self.rules.in_flight
            && self.pace.slot_us(&self.rules.rate, before, micros(now_ms)) <= micros(now_ms) + LEAD_US
    }

    /// The next time at which something above changes by itself.
    fn next_change_ms(&self, rules: &Rules, now_ms: i64) -> Option<i64> {
        let rested_ms = millis_up(self.pace.rested_us());
        let before = self.reserved.saturating_add(self.waiting);
        let slot_us = self.pace.slot_us(&self.rules.rate, before, micros(now_ms));
        let slot_ms = self.is_watched.then(|| millis_up(slot_us - LEAD_US));
        let breaker = self.breaker.next_change_ms(&rules.breaker, now_ms);
        let times = [Some(rested_ms), slot_ms, Some(self.paused_until_ms), breaker];
        times.into_iter().flatten().filter(|at| *at > now_ms).min()
    }
}

impl HostTable {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            hosts: HashMap::new(),
            wakes: BTreeSet::new(),
            opened: Vec::new(),
            pace: Pace::default(),
            reserved: 0,
            now_ms: 0,
        }
    }

    /// The host asked for a pause that is not over, or its breaker is open.
    pub fn is_shut(&self, host: &str, now_ms: i64) -> bool {
        self.hosts.get(host).is_some_and(|h| h.is_shut(&self.rules, now_ms))
    }

    /// A new attempt may start there, as far as this host alone goes.
    pub fn is_open(&self, host: &str, now_ms: i64) -> bool {
        self.hosts.get(host).is_none_or(|h| h.is_open(&self.rules, now_ms))
    }

    /// A new attempt may start, as far as the rate of all hosts together goes.
    pub fn has_turn(&self, now_ms: i64) -> bool {
        self.pace.slot_us(&self.rules.rate, self.reserved, micros(now_ms)) <= micros(now_ms) + LEAD_US
    }

    /// The host was found not open: [`Self::take_opened`] will name it.
    pub fn watch(&mut self, host: &Arc<str>, now_ms: i64) {
        self.change(host, now_ms, |h, _| h.is_watched = true);
    }

    /// Hosts that were watched and may be open now.
    pub fn take_opened(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.opened)
    }

    pub fn has_opened(&self) -> bool {
        !self.opened.is_empty()
    }

    /// Takes a place and a turn for a new attempt; the caller has asked [`Self::is_open`] and [`Self::has_turn`].
    pub fn reserve(&mut self, host: &Arc<str>, now_ms: i64) {
        self.reserved += 1;
        self.change(host, now_ms, |h, _| {
            h.in_use += 1;
            h.reserved += 1;
            h.breaker.picked(now_ms);
        });
    }

    /// A reserved turn is given back: no request was sent.
    pub fn unreserve(&mut self, host: &Arc<str>) {
        self.reserved = self.reserved.saturating_sub(1);
        self.change(host, self.now_ms, |h, _| h.reserved = h.reserved.saturating_sub(1));
    }

    pub fn release(&mut self, host: &Arc<str>) {
        self.change(host, self.now_ms, |h, _| {
            h.in_use = h.in_use.saturating_sub(1);
            if h.in_use == 0 {
                h.breaker.quiet();
            }
        });
    }

    /// A request will wait here. False: too many do, and one from another host should not.
    pub fn queue(&mut self, host: &Arc<str>) -> bool {
        let mut may_wait = true;
        self.change(host, self.now_ms, |h, rules| {
            h.waiting += 1;
            may_wait = h.waiting <= rules.waiting_max;
        });
        may_wait
    }

    pub fn unqueue(&mut self, host: &Arc<str>) {
        self.change(host, self.now_ms, |h, _| h.waiting = h.waiting.saturating_sub(1));
    }

    /// A request wants to leave. After [`Entry::Go`] it is counted, and one that came from outside has a place.
    pub fn enter(&mut self, host: &Arc<str>, standing: Standing, now_ms: i64) -> Entry {
        // Those with a reserved turn go before one without.
        let before = if standing == Standing::Picked { 0 } else { self.reserved };
        let turn_us = self.pace.slot_us(&self.rules.rate, before, micros(now_ms));
        let mut entry = Entry::Full;
        self.change(host, now_ms, |h, rules| {
            entry = h.enter(rules, standing, turn_us, now_ms);
        });
        if let Entry::Go { at_ms } = entry {
            self.pace.take(&self.rules.rate, micros(at_ms), micros(now_ms));
            self.reserved -= u32::from(standing == Standing::Picked && self.reserved > 0);
        }
        entry
    }

    /// No request before `until_ms`; an earlier, longer pause stays.
    pub fn pause(&mut self, host: &Arc<str>, until_ms: i64) {
        self.change(host, self.now_ms, |h, _| h.paused_until_ms = h.paused_until_ms.max(until_ms));
    }

    /// Until when nothing is sent there, and why. None: only rates and places hold anything back.
    pub fn hold(&self, host: &str, now_ms: i64) -> Option<Hold> {
        let host = self.hosts.get(host)?;
        if host.paused_until_ms > now_ms {
            return Some(Hold { until_ms: host.paused_until_ms, has_asked: true });
        }
        host.breaker.shut_until_ms(now_ms).map(|until_ms| Hold { until_ms, has_asked: false })
    }

    /// Somebody knows better: the pause it asked for and the failures it has shown are forgotten.
    pub fn lift(&mut self, host: &Arc<str>, now_ms: i64) {
        if self.hosts.contains_key(host) {
            self.change(host, now_ms, |h, _| (h.paused_until_ms, h.breaker) = (0, Breaker::default()));
        }
    }

    /// What became of a request. False: nothing new, the host was well before.
    pub fn heard(&mut self, host: &Arc<str>, is_well: bool, now_ms: i64) -> bool {
        if is_well && self.hosts.get(host).is_none_or(|h| h.breaker.is_clean()) {
            return false;
        }
        self.change(host, now_ms, |h, rules| h.breaker.heard(is_well, &rules.breaker, now_ms));
        true
    }

    /// Time passes: forgets what is over and tells of hosts that may be open again.
    pub fn expire(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
        while let Some((at_ms, host)) = self.wakes.first().cloned()
            && at_ms <= now_ms
        {
            self.change(&host, now_ms, |h, _| h.wake_ms = 0);
            self.wakes.remove(&(at_ms, host));
        }
    }

    /// When something may be open that is not; always later than `now_ms`, if [`Self::expire`] was called with it.
    pub fn next_open_ms(&self, now_ms: i64) -> Option<i64> {
        let slot_us = self.pace.slot_us(&self.rules.rate, self.reserved, micros(now_ms));
        let turn_ms = (!self.has_turn(now_ms)).then(|| millis_up(slot_us - LEAD_US).max(now_ms + 1));
        self.wakes.first().map(|(at, _)| (*at).max(now_ms + 1)).into_iter().chain(turn_ms).min()
    }

    /// Hosts that asked for a pause, and hosts whose breaker is open. Looks at every entry.
    pub fn counts(&self, now_ms: i64) -> (u64, u64) {
        let count = |is: &dyn Fn(&Host) -> bool| self.hosts.values().filter(|h| is(h)).count() as u64;
        (count(&|h| h.paused_until_ms > now_ms), count(&|h| h.breaker.is_open()))
    }

    /// Changes an entry, then keeps its place in time, tells who watched it, and forgets it when nothing is left to remember.
    fn change(&mut self, host: &Arc<str>, now_ms: i64, change: impl FnOnce(&mut Host, &Rules)) {
        let is_new = !self.hosts.contains_key(host);
        let rules = &self.rules;
        let entry = self.hosts.entry(host.clone()).or_insert_with(|| Host {
            rules: rules.of(host),
            in_use: 0,
            reserved: 0,
            waiting: 0,
            pace: Pace::default(),
            paused_until_ms: 0,
            breaker: Breaker::default(),
            is_watched: false,
            wake_ms: 0,
        });
        change(entry, rules);
        entry.breaker.forget(&rules.breaker, now_ms);
        if entry.is_watched && entry.is_open(rules, now_ms) {
            entry.is_watched = false;
            self.opened.push(host.clone());
        }
        let wake_ms = entry.next_change_ms(rules, now_ms).unwrap_or(0);
        if wake_ms != entry.wake_ms {
            self.wakes.remove(&(entry.wake_ms, host.clone()));
            entry.wake_ms = wake_ms;
            if wake_ms > 0 {
                self.wakes.insert((wake_ms, host.clone()));
            }
        }
        if wake_ms == 0 && !entry.is_used() && !entry.is_watched && entry.breaker.is_clean() {
            self.hosts.remove(host);
        } else if is_new && self.hosts.len() > HOSTS_MAX {
            self.forget_soonest();
        }
    }

    fn forget_soonest(&mut self) {
        // At most as many are in use as attempts run.
        let unused = self.wakes.iter().find(|(_, host)| self.hosts.get(host).is_none_or(|h| !h.is_used())).cloned();
        let Some((at_ms, host)) = unused else { return };
        if self.hosts.remove(&host).is_some_and(|h| h.is_watched) {
            self.opened.push(host.clone());
        }
        self.wakes.remove(&(at_ms, host));
    }

    #[cfg(test)]
    pub fn in_use(&self, host: &str) -> u32 {
        self.hosts.get(host).map_or(0, |h| h.in_use)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.hosts.len()
    }
}

impl Host {
    /// `turn_us`: when the rate of all hosts together lets it go.
    fn enter(&mut self, rules: &Rules, standing: Standing, turn_us: i64, now_ms: i64) -> Entry {
        if self.paused_until_ms > now_ms {
            // The host is well: it is no outage.
            return held_until(self.paused_until_ms, WhyNot::Busy, now_ms);
        }
        if standing == Standing::Outside && self.in_use >= self.rules.in_flight {
            return Entry::Full;
        }
        let before = if standing == Standing::Picked { 0 } else { self.reserved };
        let at_us = self.pace.slot_us(&self.rules.rate, before, micros(now_ms)).max(turn_us);
        let at_ms = millis_up(at_us);
        if at_us > micros(now_ms) + LEAD_US {
            return Entry::Later { at_ms };
        }
        match self.breaker.leave(standing == Standing::Picked, &rules.breaker, now_ms) {
            Leave::Yes => {
                self.pace.take(&self.rules.rate, micros(at_ms), micros(now_ms));
                self.reserved -= u32::from(standing == Standing::Picked && self.reserved > 0);
                self.in_use += u32::from(standing == Standing::Outside);
                Entry::Go { at_ms }
            }
            Leave::Wait { since_ms, until_ms } => {
                held_until(until_ms, WhyNot::Down(duration(now_ms.saturating_sub(since_ms))), now_ms)
            }
            Leave::Down { since_ms, until_ms } => Entry::Refused(NotNow {
                why: WhyNot::Down(duration(now_ms.saturating_sub(since_ms))),
                retry_after: duration(until_ms.saturating_sub(now_ms)),
            }),
        }
    }
}

/// Held for a short wait, refused for a long one.
fn held_until(until_ms: i64, why: WhyNot, now_ms: i64) -> Entry {
    let wait_ms = until_ms.saturating_sub(now_ms);
    if wait_ms <= HOLD_MAX_MS {
        Entry::Later { at_ms: until_ms }
    } else {
        Entry::Refused(NotNow { why, retry_after: duration(wait_ms) })
    }
}

/// The host is well, there are only too many who want something of it.
pub(super) fn crowded(entry: Entry, now_ms: i64) -> NotNow {
    let wait_ms = match entry {
        Entry::Later { at_ms } => at_ms.saturating_sub(now_ms),
        Entry::Full | Entry::Go { .. } | Entry::Refused(_) => 0,
    };
    NotNow { why: WhyNot::Busy, retry_after: duration(wait_ms.max(CROWD_PAUSE_MS)) }
}

fn micros(ms: i64) -> i64 {
    ms.saturating_mul(1_000)
}

/// Rounded up: nothing leaves early.
fn millis_up(us: i64) -> i64 {
    us.saturating_add(999).div_euclid(1_000)
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

#[cfg(test)]
#[path = "hosts_test.rs"]
mod tests;
