//! How many attempts talk to each host, and which hosts asked for a pause.
//!
//! Pure. Holds an entry only for hosts in use or paused, so it needs no eviction but a cap on pauses.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Hosts that can be paused at once: some 20 MB. Beyond it the pause that ends first is forgotten.
const PAUSES_MAX: usize = 100_000;

#[derive(Debug)]
pub(super) struct HostTable {
    per_host: u32,
    hosts: HashMap<Arc<str>, Host>,
    /// The same pauses in order of their end.
    pauses: BTreeSet<(i64, Arc<str>)>,
}

#[derive(Debug, Default)]
struct Host {
    in_use: u32,
    /// Running attempts that wait here after a redirect: they go before new ones.
    waiting: u32,
    paused_until_ms: i64,
}

impl Host {
    fn is_idle(&self) -> bool {
        self.in_use == 0 && self.waiting == 0 && self.paused_until_ms == 0
    }
}

impl HostTable {
    pub fn new(per_host: u32) -> Self {
        Self { per_host: per_host.max(1), hosts: HashMap::new(), pauses: BTreeSet::new() }
    }

    /// The host asked for a pause that is not over.
    pub fn is_paused(&self, host: &str, now_ms: i64) -> bool {
        self.hosts.get(host).is_some_and(|h| h.paused_until_ms > now_ms)
    }

    /// A new attempt may start.
    pub fn is_open(&self, host: &str, now_ms: i64) -> bool {
        self.hosts
            .get(host)
            .is_none_or(|h| h.in_use.saturating_add(h.waiting) < self.per_host && h.paused_until_ms <= now_ms)
    }

    /// Takes a place for a new attempt; the caller has asked [`Self::is_open`].
    pub fn reserve(&mut self, host: &Arc<str>) {
        self.hosts.entry(host.clone()).or_default().in_use += 1;
    }

    pub fn release(&mut self, host: &str) {
        self.change(host, |h| h.in_use = h.in_use.saturating_sub(1));
    }

    /// A running attempt was redirected here and will wait.
    pub fn queue(&mut self, host: &Arc<str>) {
        self.hosts.entry(host.clone()).or_default().waiting += 1;
    }

    pub fn unqueue(&mut self, host: &str) {
        self.change(host, |h| h.waiting = h.waiting.saturating_sub(1));
    }

    /// Takes a place for an attempt that waits by [`Self::queue`]. A pause does not hold it: it stops new attempts only.
    pub fn try_hop(&mut self, host: &str) -> bool {
        let Some(entry) = self.hosts.get_mut(host) else { return false };
        let free = entry.in_use < self.per_host;
        entry.in_use += u32::from(free);
        free
    }

    /// No new attempt before `until_ms`; an earlier, longer pause stays.
    pub fn pause(&mut self, host: &Arc<str>, until_ms: i64) {
        let entry = self.hosts.entry(host.clone()).or_default();
        if entry.paused_until_ms >= until_ms {
            return;
        }
        self.pauses.remove(&(entry.paused_until_ms, host.clone()));
        entry.paused_until_ms = until_ms;
        self.pauses.insert((until_ms, host.clone()));
        if self.pauses.len() > PAUSES_MAX {
            self.forget_first_pause();
        }
    }

    /// Drops pauses that are over.
    pub fn expire(&mut self, now_ms: i64) {
        while self.next_open_ms().is_some_and(|until| until <= now_ms) {
            self.forget_first_pause();
        }
    }

    /// When the next pause ends.
    pub fn next_open_ms(&self) -> Option<i64> {
        self.pauses.first().map(|(until, _)| *until)
    }

    fn forget_first_pause(&mut self) {
        if let Some((_, host)) = self.pauses.pop_first() {
            self.change(&host, |h| h.paused_until_ms = 0);
        }
    }

    fn change(&mut self, host: &str, change: impl FnOnce(&mut Host)) {
        if let Some(entry) = self.hosts.get_mut(host) {
            change(entry);
            if entry.is_idle() {
                self.hosts.remove(host);
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crawl_of_a_million_hosts_leaves_nothing_behind() {
        let mut table = HostTable::new(2);
        for i in 0..1_000 {
            let host: Arc<str> = format!("h{i}:443").into();
            table.reserve(&host);
            table.pause(&host, i);
            table.release(&host);
        }
        table.expire(1_000);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_redirected_attempt_goes_before_a_new_one() {
        let mut table = HostTable::new(1);
        let host: Arc<str> = "a:80".into();
        table.reserve(&host);
        table.queue(&host);
        assert!(!table.try_hop(&host));
        table.release(&host);
        assert!(!table.is_open(&host, 0), "the free place is spoken for");
        assert!(table.try_hop(&host));
        table.unqueue(&host);
        assert!(!table.is_open(&host, 0));
        table.release(&host);
        assert!(table.is_open(&host, 0));
    }

    #[test]
    fn a_shorter_pause_does_not_cut_a_longer_one() {
        let mut table = HostTable::new(1);
        let host: Arc<str> = "a:80".into();
        table.pause(&host, 100);
        table.pause(&host, 50);
        table.expire(60);
        assert!(table.is_paused(&host, 60) && !table.is_open(&host, 60));
        table.expire(100);
        assert!(table.is_open(&host, 100));
    }
}
