//! Places and turns at hosts while attempts run: the first host's are taken by the pick, redirects move them.
//!
//! An attempt holds at most one place at a time and gives it up before it waits for another: two crowds of attempts that are
//! redirected to each other's host cannot block one another. Every request is counted here at the moment it leaves.
//! Must not know: tasks, the store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::hosts::{Entry, HOLD_MAX_MS, HostTable, Standing, crowded};
use super::inbox::Inbox;
use super::limits::Rules;
use crate::clock::Clock;
use crate::worker::{HostGate, NotNow, Permit};

/// The host table, shared between the loop and running attempts.
pub(super) struct Hosts {
    table: Mutex<HostTable>,
    /// For requests that wait for a place: at most as many as attempts run.
    freed: Notify,
    /// For the loop.
    inbox: Arc<Inbox>,
    clock: Clock,
    /// For how long one may wait that comes from another host.
    hold_max: Duration,
}

impl Hosts {
    pub fn new(rules: Rules, clock: Clock, inbox: Arc<Inbox>) -> Arc<Self> {
        let hold_max = Duration::from_millis(HOLD_MAX_MS.unsigned_abs());
        Arc::new(Self { table: Mutex::new(HostTable::new(rules)), freed: Notify::new(), inbox, clock, hold_max })
    }

    pub fn table(&self) -> MutexGuard<'_, HostTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a pick's place and turn back: nothing was sent.
    pub fn cancel(&self, host: &Arc<str>) {
        self.table().unreserve(host);
        self.release(host);
    }

    /// Nothing that the host asked for or has shown holds anybody back any more.
    pub fn lift(&self, host: &str) {
        let now_ms = self.clock.steady_ms();
        self.table().lift(&host.into(), now_ms);
        self.freed.notify_waiters();
    }

    fn release(&self, host: &Arc<str>) {
        let is_news = {
            let mut table = self.table();
            table.release(host);
            table.has_opened()
        };
        self.freed.notify_waiters();
        // The loop that found no host shut has nothing to look for.
        if is_news {
            self.inbox.poke();
        }
    }
}

/// One attempt's view of the hosts.
pub(super) struct AttemptGate(Arc<GateInner>);

struct GateInner {
    hosts: Arc<Hosts>,
    held: Mutex<Place>,
}

#[derive(Debug, Default)]
struct Place {
    host: Option<Arc<str>>,
    /// The pick's turn there was not used yet.
    is_fresh: bool,
    /// Permits for it that the attempt holds.
    permits: u32,
    /// Counts the places this attempt has had: a permit of an earlier one gives nothing back.
    turn: u64,
}

impl AttemptGate {
    /// `host` is where the pick has reserved a place and a turn.
    pub fn holding(hosts: Arc<Hosts>, host: Option<Arc<str>>) -> Self {
        let place = Place { is_fresh: host.is_some(), host, permits: 0, turn: 0 };
        Self(Arc::new(GateInner { hosts, held: Mutex::new(place) }))
    }
}

impl Drop for AttemptGate {
    fn drop(&mut self) {
        self.0.leave(|_| true);
    }
}

impl GateInner {
    fn held(&self) -> MutexGuard<'_, Place> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the place back if `when` says so.
    fn leave(&self, when: impl FnOnce(&mut Place) -> bool) {
        let (host, is_fresh) = {
            let mut held = self.held();
            if !when(&mut held) {
                return;
            }
            (held.host.take(), std::mem::take(&mut held.is_fresh))
        };
        match host {
            Some(host) if is_fresh => self.hosts.cancel(&host),
            Some(host) => self.hosts.release(&host),
            None => {}
        }
    }

    /// One more permit of the place the attempt has at `host`, if it has one there, and how it stands.
    fn shares(self: &Arc<Self>, host: &str) -> Option<(HopPermit, Standing)> {
        let mut held = self.held();
        if held.host.as_deref() != Some(host) {
            return None;
        }
        held.permits += 1;
        let standing = if held.is_fresh { Standing::Picked } else { Standing::Inside };
        Some((HopPermit { gate: self.clone(), turn: held.turn }, standing))
    }

    /// The request leaves: the pick's turn is used, or a place was taken from outside.
    fn went(self: &Arc<Self>, host: &Arc<str>, shared: Option<HopPermit>) -> HopPermit {
        let mut held = self.held();
        match shared {
            Some(permit) => {
                held.is_fresh &= permit.turn != held.turn;
                drop(held);
                permit
            }
            None => {
                *held = Place { host: Some(host.clone()), is_fresh: false, permits: 1, turn: held.turn + 1 };
                HopPermit { gate: self.clone(), turn: held.turn }
            }
        }
    }
}

struct HopPermit {
    gate: Arc<GateInner>,
    turn: u64,
}

impl Drop for HopPermit {
    fn drop(&mut self) {
        self.gate.leave(|place| {
            if place.turn != self.turn {
                return false;
            }
            place.permits = place.permits.saturating_sub(1);
            place.permits == 0
        });
    }
}

/// Counts a request as waiting for as long as it does, also when its attempt is stopped meanwhile.
struct Waiting<'a> {
    hosts: &'a Hosts,
    host: &'a Arc<str>,
    /// Not too many were there before it.
    may_wait: bool,
}

impl<'a> Waiting<'a> {
    fn new(hosts: &'a Hosts, host: &'a Arc<str>) -> Self {
        let may_wait = hosts.table().queue(host);
        Self { hosts, host, may_wait }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.hosts.table().unqueue(self.host);
        self.hosts.inbox.poke();
    }
}

#[async_trait]
impl HostGate for AttemptGate {
    async fn enter(&self, host: &str) -> Result<Permit, NotNow> {
        let hosts = &self.0.hosts;
        let name: Arc<str> = host.into();
        let (shared, standing) = match self.0.shares(host) {
            Some((permit, standing)) => (Some(permit), standing),
            None => (None, Standing::Outside),
        };
        if standing == Standing::Outside {
            self.0.leave(|_| true);
        }
        // A pick has its turn: it is counted already.
        let waiting = (standing != Standing::Picked).then(|| Waiting::new(hosts, &name));
        // One from another host holds a place among all that run while it waits: slow hosts must not come to hold them all.
        // Those that have a place here are as few as the host's places.
        let is_guest = standing == Standing::Outside;
        let mut may_wait = !is_guest || waiting.as_ref().is_some_and(|waiting| waiting.may_wait);
        let over = tokio::time::sleep(hosts.hold_max);
        tokio::pin!(over);
        loop {
            let freed = hosts.freed.notified();
            tokio::pin!(freed);
            // Registered before looking: a place freed in between is not missed.
            freed.as_mut().enable();
            let now_ms = hosts.clock.steady_ms();
            let (entry, is_news) = {
                let mut table = hosts.table();
                let entry = table.enter(&name, standing, now_ms);
                (entry, table.has_opened())
            };
            if is_news {
                hosts.inbox.poke();
            }
            match entry {
                Entry::Go { at_ms } => {
                    let permit = self.0.went(&name, shared);
                    drop(waiting);
                    if at_ms > now_ms {
                        tokio::time::sleep(until(at_ms, now_ms)).await;
                    }
                    return Ok(Permit(Some(Box::new(permit))));
                }
                Entry::Refused(not_now) => return Err(not_now),
                Entry::Later { .. } | Entry::Full if !may_wait => return Err(crowded(entry, now_ms)),
                Entry::Later { at_ms } => tokio::select! {
                    () = tokio::time::sleep(until(at_ms, now_ms)) => {}
                    () = freed => {}
                    () = over.as_mut(), if is_guest => may_wait = false,
                },
                Entry::Full => tokio::select! {
                    () = freed => {}
                    () = over.as_mut(), if is_guest => may_wait = false,
                },
            }
        }
    }

    fn throttled(&self, host: &str, wait: Duration) {
        let hosts = &self.0.hosts;
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX).min(PAUSE_MAX_MS);
        hosts.table().pause(&host.into(), hosts.clock.steady_ms().saturating_add(wait_ms));
        hosts.inbox.poke();
    }

    fn heard(&self, host: &str, is_well: bool) {
        let hosts = &self.0.hosts;
        let is_news = {
            let mut table = hosts.table();
            table.heard(&host.into(), is_well, hosts.clock.steady_ms()) || table.has_opened()
        };
        if is_news {
            // Only now may those that wait for a probe's end go.
            hosts.freed.notify_waiters();
            hosts.inbox.poke();
        }
    }
}

/// No host is left alone for longer than this, whatever it asks for.
const PAUSE_MAX_MS: i64 = 24 * 60 * 60 * 1_000;

fn until(at_ms: i64, now_ms: i64) -> Duration {
    Duration::from_millis(at_ms.saturating_sub(now_ms).max(1).unsigned_abs())
}

#[cfg(test)]
#[path = "gate_test.rs"]
mod tests;
