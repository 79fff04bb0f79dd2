//! The dispatcher's decisions: what to read, what to start, how an attempt ends, when to look again.
//!
//! Pure and sync: the same events in the same order give the same actions. Times are steady, but for those that are stored or
//! come from the store. Must not know: the store, the worker, time.

use super::backoff::Policy;
use super::class::Limits;
use super::hosts::HostTable;
use super::lane::{Candidate, Gates};
use super::parking::{Allowance, Parking};
use super::reads::{Fetched, Reads};
use super::settle::{Attempted, Judge};
use super::stock::{Ahead, Stock};
use super::window::{Taken, Window};
use super::{Options, millis};
use crate::model::{Controls, TaskRef};
use crate::store::{End, Lease, ReadyNews, Settlement};
use crate::worker::Outcome;

#[derive(Debug)]
pub(super) struct Planner {
    in_flight: usize,
    window: Window,
    judge: Judge,
    controls: Controls,
    /// Picks of the one lease call that may be under way.
    leasing: usize,
    /// Leased, and no place was free yet.
    stock: Stock,
    running: usize,
    /// No lease call before this: the committer is busy.
    hold_until_ms: i64,
    /// The last choice left places free.
    is_short: bool,
    /// What the wall clock shows more than the steady one.
    wall_ahead_ms: i64,
    park_max_ms: i64,
}

impl Planner {
    pub fn new(options: &Options, controls: Controls) -> Self {
        let parking = Parking::new(millis(options.park_min_ms), millis(options.park_max_ms));
        Self {
            in_flight: options.in_flight.max(1) as usize,
            window: Window::new(limits(options)),
            judge: Judge::new(policy(options), parking),
            controls,
            leasing: 0,
            stock: Stock::default(),
            running: 0,
            hold_until_ms: 0,
            is_short: false,
            wall_ahead_ms: 0,
            park_max_ms: millis(options.park_max_ms.max(options.park_min_ms)).max(1),
        }
    }

    /// The wall clock shows so much more than the steady one, or less: it was set, or the machine slept.
    pub fn wall_is_ahead(&mut self, by_ms: i64) {
        self.wall_ahead_ms = by_ms;
    }

    pub fn controls_changed(&mut self, controls: Controls) {
        self.controls = controls;
        self.window.controls_changed();
    }

    pub fn ready_changed(&mut self, news: &ReadyNews) {
        self.window.ready_changed(news);
    }

    /// A task became due at `at_ms` by other hands than ours.
    pub fn due_changed(&mut self, at_ms: i64) {
        self.window.pull_back(at_ms);
    }

    /// A new row could be picked now.
    pub fn wants_news(&self, now_ms: i64) -> bool {
        !self.controls.paused && self.in_flight + self.ahead(now_ms) > self.running + self.stock.len()
    }

    pub fn wanted(&mut self, hosts: &HostTable, now_ms: i64) -> Reads {
        let gates = Gates { controls: &self.controls, hosts, now_ms, wall_ms: self.wall_ms(now_ms) };
        if self.is_short {
            self.window.make_room(&gates);
        }
        self.window.wanted(&gates)
    }

    pub fn absorb(&mut self, fetched: Fetched, hosts: &HostTable, now_ms: i64) {
        let wall_ms = self.wall_ms(now_ms);
        self.window.absorb(fetched, &Gates { controls: &self.controls, hosts, now_ms, wall_ms });
    }

    /// The next lease call, if there is one to make. Places at hosts are reserved for its picks.
    pub fn choose(&mut self, hosts: &mut HostTable, now_ms: i64) -> Option<Taken> {
        if self.leasing > 0 || now_ms < self.hold_until_ms {
            return None;
        }
        let wall_ms = self.wall_ms(now_ms);
        let allowance = self.allowance(wall_ms);
        let places = self.places(allowance, now_ms);
        if places == 0 && self.window.spent_waiting() == 0 {
            self.is_short = false;
            return None;
        }
        let taken = self.window.take(places, &self.controls, hosts, now_ms);
        self.is_short = taken.picks.len() < places;
        if let (Allowance::One, Some(probe)) = (allowance, taken.picks.first()) {
            self.judge.parking.probing(probe.task, wall_ms);
        }
        self.leasing = taken.picks.len();
        (!taken.picks.is_empty() || !taken.spent.is_empty()).then_some(taken)
    }

    /// The lease call was refused as a whole and may pass later.
    pub fn lease_refused(&mut self, taken: Taken, hosts: &mut HostTable, retry_at_ms: i64) {
        self.leasing = 0;
        self.hold_until_ms = retry_at_ms;
        for pick in &taken.picks {
            self.judge.parking.ended(pick.task);
            if let Some(host) = &pick.lane.host {
                hosts.unreserve(host);
                hosts.release(host);
            }
        }
        self.window.give_back(taken);
    }

    /// The lease call was answered; [`Self::had`] or [`Self::not_had`] follows for each pick.
    pub fn lease_answered(&mut self) {
        self.leasing = 0;
    }

    /// The task is ours; it starts when [`Self::start_next`] gives it out.
    pub fn had(&mut self, candidate: Candidate, lease: Lease, now_ms: i64) {
        self.stock.push(candidate, lease, now_ms);
    }

    /// The next task to start, if there is a place for it.
    pub fn start_next(&mut self) -> Option<Ahead> {
        let next = if self.running < self.in_flight { self.stock.pop() } else { None };
        self.running += usize::from(next.is_some());
        next
    }

    /// A leased task that is to be given back without a start: one that has waited for too long, or `all` of them. For what
    /// becomes of it, it counts as started: [`Self::given_back`] follows.
    pub fn give_back(&mut self, all: bool, now_ms: i64) -> Option<Ahead> {
        let next = if all || self.stock.is_stale(now_ms) { self.stock.pop() } else { None };
        self.running += usize::from(next.is_some());
        next
    }

    /// Attempts end so quickly that calls may wait for more of them, and half of the places are taken meanwhile.
    pub fn is_quick(&self, now_ms: i64) -> bool {
        self.ahead(now_ms) > 1 && self.running >= self.in_flight.div_ceil(2)
    }

    /// The task was gone. Its place and turn at its host are the caller's to release.
    pub fn not_had(&mut self, task: TaskRef) {
        self.judge.parking.ended(task);
        self.window.forget(task);
    }

    /// An attempt came to its end: what to write about it. `now_ms` is the wall clock's.
    pub fn ended(&mut self, attempted: &Attempted, outcome: Outcome, now_ms: i64, unit: f64) -> Settlement {
        self.running = self.running.saturating_sub(1);
        self.stock.ended(now_ms.saturating_sub(self.wall_ahead_ms));
        self.judge.settlement(attempted, outcome, now_ms, unit)
    }

    /// One of [`Self::give_back`] did not start: what to write about it.
    pub fn given_back(&mut self, attempted: &Attempted, now_ms: i64) -> Settlement {
        self.running = self.running.saturating_sub(1);
        self.judge.given_back(attempted, now_ms)
    }

    /// A settlement is durable, or was refused as stale.
    pub fn settled(&mut self, task: TaskRef, end: &End) {
        self.window.forget(task);
        match end {
            End::Retry { not_before_ms, .. } | End::Released { not_before_ms, .. } => {
                self.window.pull_back(*not_before_ms);
            }
            End::Stored { .. } | End::ManifestStored | End::Dead(_) => {}
        }
    }

    /// When there may be something to do without anything happening before; always later than `now_ms`.
    pub fn next_look_ms(&self, hosts: &HostTable, now_ms: i64) -> Option<i64> {
        let steady = |wall_ms: i64| wall_ms.saturating_sub(self.wall_ahead_ms);
        let parked = match self.allowance(self.wall_ms(now_ms)) {
            Allowance::Wait(until_ms) => Some(steady(until_ms)),
            Allowance::One | Allowance::All => None,
        };
        let times = [
            self.window.next_due_ms().map(steady),
            self.window.next_aside_ms(),
            self.stock.stale_at_ms(),
            hosts.next_open_ms(now_ms),
            parked,
            Some(self.hold_until_ms),
        ];
        times.into_iter().flatten().filter(|at| *at > now_ms).min()
    }

    pub fn running(&self) -> usize {
        self.running
    }

    /// Places that are taken or will be at once.
    pub fn busy(&self) -> usize {
        (self.running + self.leasing + self.stock.len()).min(self.in_flight)
    }

    /// Leased tasks that wait for a place.
    pub fn stocked(&self) -> usize {
        self.stock.len()
    }

    pub fn alarm(&self) -> &str {
        self.judge.parking.alarm()
    }

    /// How long the oldest task has waited that could start.
    pub fn lag_ms(&self, hosts: &HostTable, now_ms: i64) -> u64 {
        let wall_ms = self.wall_ms(now_ms);
        let gates = Gates { controls: &self.controls, hosts, now_ms, wall_ms };
        let oldest = if self.controls.paused { None } else { self.window.oldest_ms(&gates) };
        oldest.map_or(0, |since| u64::try_from(wall_ms.saturating_sub(since)).unwrap_or(0))
    }

    fn wall_ms(&self, now_ms: i64) -> i64 {
        now_ms.saturating_add(self.wall_ahead_ms)
    }

    /// Storage is parked by the wall clock, for tasks are stored with its times: set back, it must not be parked for longer.
    fn allowance(&self, wall_ms: i64) -> Allowance {
        match self.judge.parking.allowance(wall_ms) {
            Allowance::Wait(until_ms) if until_ms.saturating_sub(wall_ms) > self.park_max_ms => Allowance::One,
            allowance => allowance,
        }
    }

    /// How many more than there are places for may be leased. With as many again as there are places, hosts that are slow would come
    /// to hold twice as many of them.
    fn ahead(&self, now_ms: i64) -> usize {
        self.stock.ahead(now_ms).min(self.in_flight / 2)
    }

    fn places(&self, allowance: Allowance, now_ms: i64) -> usize {
        if self.controls.paused {
            return 0;
        }
        let taken = self.running + self.stock.len();
        match allowance {
            Allowance::All => (self.in_flight + self.ahead(now_ms)).saturating_sub(taken),
            Allowance::One => self.in_flight.saturating_sub(taken).min(1),
            Allowance::Wait(_) => 0,
        }
    }

    /// Puts so little aside that tests come to the bound.
    #[cfg(test)]
    pub fn bound_aside(mut self, aside: usize) -> Self {
        self.window.bound_aside(aside);
        self
    }

    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.window.held()
    }
}

/// The numbers retries follow.
pub(super) fn policy(options: &Options) -> Policy {
    Policy {
        attempts_max: options.attempts_max,
        upload_attempts_max: options.upload_attempts_max,
        unlikely_attempts_max: options.unlikely_attempts_max,
        throttled_attempts_max: options.throttled_attempts_max,
        min_ms: millis(options.backoff_min_ms),
        max_ms: millis(options.backoff_max_ms),
    }
}

fn limits(options: &Options) -> Limits {
    let tasks = (options.window_tasks as usize / 3).max(1);
    let in_flight = options.in_flight.max(1) as usize;
    // Hosts that are full hold at most half a class together, so that there is always room for others.
    let full_hosts = in_flight.div_ceil(options.per_host.max(1) as usize);
    Limits {
        tasks,
        bytes: usize::try_from(options.window_bytes / 3).unwrap_or(usize::MAX).max(1),
        per_host: (tasks / (2 * full_hosts)).max(1),
        aside: ASIDE_MAX,
        aside_min: ASIDE_MIN,
    }
}

/// About 30 MB of keys.
const ASIDE_MAX: usize = 100_000;
/// Of these, what each tenant may have however many tenants there are.
const ASIDE_MIN: usize = 16;
