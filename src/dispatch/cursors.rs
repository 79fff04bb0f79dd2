//! How far the ready index of one class was read, tenant by tenant.
//!
//! A cursor is kept only for a tenant that has unread rows: news of new rows name their first sequence, so nothing is read twice
//! and no tombstone is walked over again. Pure. Must not know: what the rows hold, who holds what.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::store::{ReadyTenants, TenantKey};

/// Tenants with unread rows known at once. Further ones are found by searching the index once these are fewer.
const TENANTS_MAX: usize = 4_096;
/// Tenants looked at for one read: those that may hold no more are passed over.
const LOOKS_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Cursors {
    /// Rows above this sequence are unread.
    unread: BTreeMap<TenantKey, u64>,
    /// Tenants take turns in being read.
    last: TenantKey,
    /// The index is searched for tenants from here on.
    search: Option<TenantKey>,
    /// Some tenants could not be noted.
    is_cut: bool,
}

impl Default for Cursors {
    /// At boot nothing is known: the whole index is searched.
    fn default() -> Self {
        Self { unread: BTreeMap::new(), last: TenantKey(0), search: Some(TenantKey(0)), is_cut: false }
    }
}

impl Cursors {
    /// The tenant has new rows from `first` on.
    pub fn note(&mut self, tenant: TenantKey, first: u64) {
        let before = first.saturating_sub(1);
        if let Some(after) = self.unread.get_mut(&tenant) {
            *after = before.min(*after);
        } else if self.unread.len() < TENANTS_MAX {
            self.unread.insert(tenant, before);
        } else {
            self.is_cut = true;
        }
    }

    /// Some news were lost.
    pub fn look_again(&mut self) {
        self.is_cut = true;
    }

    /// From where on to search for tenants, if that is to be done.
    pub fn search(&mut self) -> Option<TenantKey> {
        if self.unread.len() >= TENANTS_MAX / 2 {
            return None;
        }
        if self.search.is_none() && self.is_cut {
            self.is_cut = false;
            self.search = Some(TenantKey(0));
        }
        self.search
    }

    pub fn found(&mut self, found: ReadyTenants) {
        self.search = found.next;
        for (tenant, first) in found.tenants {
            self.note(tenant, first);
        }
    }

    /// Up to `max` tenants whose turn it is to be read, with the sequence to read after.
    pub fn next(&mut self, max: usize, wants: impl Fn(TenantKey) -> bool) -> Vec<(TenantKey, u64)> {
        let behind = self.unread.range((Bound::Excluded(self.last), Bound::Unbounded));
        let around = behind.chain(self.unread.range(..=self.last));
        let mut chosen = Vec::new();
        let mut last = self.last;
        for (&tenant, &after) in around.take(LOOKS_MAX) {
            last = tenant;
            if wants(tenant) {
                chosen.push((tenant, after));
                if chosen.len() >= max {
                    break;
                }
            }
        }
        self.last = last;
        chosen
    }

    /// The tenant's rows above `from` were read up to `next_seq`; `is_end`: there were no more.
    pub fn read(&mut self, tenant: TenantKey, from: u64, next_seq: u64, is_end: bool) {
        let Some(after) = self.unread.get_mut(&tenant) else { return };
        if *after < from {
            // Rows before these became known meanwhile.
            return;
        }
        if is_end {
            self.unread.remove(&tenant);
        } else {
            *after = next_seq.max(*after);
        }
    }

    /// All that is known of the tenant was read.
    pub fn is_read(&self, tenant: TenantKey) -> bool {
        !self.unread.contains_key(&tenant)
    }

    /// How many have unread rows.
    pub fn tenants(&self) -> usize {
        self.unread.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(tenants: impl Iterator<Item = u64>, next: Option<u64>) -> ReadyTenants {
        let tenants = tenants.map(|tenant| (TenantKey(tenant), 1)).collect();
        ReadyTenants { tenants, next: next.map(TenantKey), damaged: Vec::new() }
    }

    #[test]
    fn every_tenant_is_read_in_turn_whatever_another_has_queued() {
        let mut cursors = Cursors::default();
        cursors.found(found(1..=10, None));
        let mut order = Vec::new();
        for _ in 0..5 {
            let next = cursors.next(4, |_| true);
            next.iter().for_each(|(tenant, after)| cursors.read(*tenant, *after, after + 100, false));
            order.extend(next.into_iter().map(|(tenant, _)| tenant.0));
        }
        assert_eq!(order, (1..=10).chain(1..=10).collect::<Vec<_>>());
    }

    #[test]
    fn what_was_read_is_not_read_again_when_more_comes() {
        let mut cursors = Cursors::default();
        cursors.note(TenantKey(7), 5);
        cursors.read(TenantKey(7), 4, 900, true);
        assert_eq!(cursors.tenants(), 0, "nothing is kept of a tenant that is read whole");
        cursors.note(TenantKey(7), 901);
        assert_eq!(cursors.next(4, |_| true), [(TenantKey(7), 900)]);
    }

    #[test]
    fn older_rows_that_are_found_during_a_read_are_not_lost() {
        let mut cursors = Cursors::default();
        cursors.note(TenantKey(7), 5);
        cursors.found(found(7..8, None));
        cursors.read(TenantKey(7), 4, 5, true);
        assert_eq!(cursors.next(4, |_| true), [(TenantKey(7), 0)]);
    }

    #[test]
    fn more_tenants_than_are_remembered_are_found_later() {
        let mut cursors = Cursors::default();
        assert_eq!(cursors.search(), Some(TenantKey(0)));
        cursors.found(found(0..3_000, Some(3_000)));
        assert_eq!(cursors.search(), None, "enough for now");
        (3_000..6_000).for_each(|tenant| cursors.note(TenantKey(tenant), 1));
        (0..4_000).for_each(|tenant| cursors.read(TenantKey(tenant), 0, 9, true));
        assert_eq!(cursors.search(), Some(TenantKey(3_000)));
        cursors.found(found(3_000..3_500, None));
        assert_eq!(cursors.search(), Some(TenantKey(0)), "some were missed: once more from the start");
        cursors.found(found(4_096..6_000, None));
        assert_eq!(cursors.search(), None);
    }
}
