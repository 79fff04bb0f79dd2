//! Places at hosts while attempts run: the first host's place is taken by the pick, redirects move it.
//!
//! An attempt holds at most one place at a time and gives it up before it waits for another: two crowds of attempts that are
//! redirected to each other's host cannot block one another. Must not know: tasks, the store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::hosts::HostTable;
use super::inbox::Inbox;
use crate::clock::Clock;
use crate::worker::{HostDown, HostGate, Permit};

/// The host table, shared between the loop and running attempts.
pub(super) struct Hosts {
    table: Mutex<HostTable>,
    /// For attempts that wait after a redirect: at most as many as run.
    freed: Notify,
    /// For the loop.
    inbox: Arc<Inbox>,
    clock: Clock,
}

impl Hosts {
    pub fn new(per_host: u32, clock: Clock, inbox: Arc<Inbox>) -> Arc<Self> {
        Arc::new(Self { table: Mutex::new(HostTable::new(per_host)), freed: Notify::new(), inbox, clock })
    }

    pub fn table(&self) -> MutexGuard<'_, HostTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn release(&self, host: &str) {
        self.table().release(host);
        self.freed.notify_waiters();
        self.inbox.poke();
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
    /// Permits for it that the attempt holds.
    permits: u32,
    /// Counts the places this attempt has had: a permit of an earlier one gives nothing back.
    turn: u64,
}

impl AttemptGate {
    /// `host` is where the pick has reserved a place.
    pub fn holding(hosts: Arc<Hosts>, host: Option<Arc<str>>) -> Self {
        Self(Arc::new(GateInner { hosts, held: Mutex::new(Place { host, permits: 0, turn: 0 }) }))
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
        let host = {
            let mut held = self.held();
            if when(&mut held) { held.host.take() } else { None }
        };
        if let Some(host) = host {
            self.hosts.release(&host);
        }
    }

    fn shares(&self, host: &str) -> Option<u64> {
        let mut held = self.held();
        (held.host.as_deref() == Some(host)).then(|| {
            held.permits += 1;
            held.turn
        })
    }

    fn took(&self, host: Arc<str>) -> u64 {
        let mut held = self.held();
        *held = Place { host: Some(host), permits: 1, turn: held.turn + 1 };
        held.turn
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

/// Counts an attempt as waiting for as long as it does, also when it is stopped meanwhile.
struct Waiting<'a>(&'a Hosts, &'a str);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.table().unqueue(self.1);
        self.0.inbox.poke();
    }
}

#[async_trait]
impl HostGate for AttemptGate {
    async fn enter(&self, host: &str) -> Result<Permit, HostDown> {
        let permit = |turn| Permit(Some(Box::new(HopPermit { gate: self.0.clone(), turn })));
        if let Some(turn) = self.0.shares(host) {
            return Ok(permit(turn));
        }
        self.0.leave(|_| true);
        let hosts = &self.0.hosts;
        let name: Arc<str> = host.into();
        hosts.table().queue(&name);
        let _waiting = Waiting(hosts, &name);
        loop {
            let freed = hosts.freed.notified();
            tokio::pin!(freed);
            // Registered before looking: a place freed in between is not missed.
            freed.as_mut().enable();
            if hosts.table().try_hop(host) {
                return Ok(permit(self.0.took(name.clone())));
            }
            freed.await;
        }
    }

    fn throttled(&self, host: &str, wait: Duration) {
        let hosts = &self.0.hosts;
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX).min(PAUSE_MAX_MS);
        hosts.table().pause(&host.into(), hosts.clock.now_ms().saturating_add(wait_ms));
        hosts.inbox.poke();
    }

    fn heard(&self, _: &str, _: bool) {}
}

/// No host is left alone for longer than this, whatever it asks for.
const PAUSE_MAX_MS: i64 = 24 * 60 * 60 * 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(per_host: u32) -> Arc<Hosts> {
        Hosts::new(per_host, Clock::manual(0), Arc::new(Inbox::default()))
    }

    fn picked(hosts: &Arc<Hosts>, host: &str) -> AttemptGate {
        let host: Arc<str> = host.into();
        hosts.table().reserve(&host);
        AttemptGate::holding(hosts.clone(), Some(host))
    }

    #[tokio::test]
    async fn crowds_redirected_to_each_other_do_not_block_for_ever() {
        let hosts = hosts(2);
        let mut crowd = tokio::task::JoinSet::new();
        for (from, to) in [("a:80", "b:80"), ("a:80", "b:80"), ("b:80", "a:80"), ("b:80", "a:80")] {
            let gate = picked(&hosts, from);
            crowd.spawn(async move {
                let first = gate.enter(from).await.unwrap();
                tokio::task::yield_now().await;
                let second = gate.enter(to).await.unwrap();
                drop((first, second));
            });
        }
        tokio::time::timeout(Duration::from_secs(5), crowd.join_all()).await.expect("nobody waits for ever");
        assert_eq!(hosts.table().len(), 0);
    }

    #[tokio::test]
    async fn a_place_is_free_when_its_permit_is_dropped_and_not_twice() {
        let hosts = hosts(1);
        let gate = picked(&hosts, "a:80");
        let first = gate.enter("a:80").await.unwrap();
        let again = gate.enter("a:80").await.unwrap();
        drop(first);
        assert_eq!(hosts.table().in_use("a:80"), 1, "a redirect within the host shares the place");
        drop(again);
        assert_eq!(hosts.table().in_use("a:80"), 0);
        let other = picked(&hosts, "a:80");
        drop(gate);
        assert_eq!(hosts.table().in_use("a:80"), 1);
        drop(other);
        assert_eq!(hosts.table().len(), 0);
    }

    #[tokio::test]
    async fn an_attempt_stopped_while_it_waits_leaves_no_queue() {
        let hosts = hosts(1);
        let holder = picked(&hosts, "b:80");
        let gate = picked(&hosts, "a:80");
        let waiting = tokio::time::timeout(Duration::from_millis(10), gate.enter("b:80")).await;
        assert!(waiting.is_err());
        drop((holder, gate));
        assert_eq!(hosts.table().len(), 0);
    }
}
