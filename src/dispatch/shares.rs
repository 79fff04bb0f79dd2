//! Tenants of one class: how much of it each holds, whose turn it is, and which of its hosts may be open.
//!
//! Pure. Must not know: candidates, hosts' state.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::lane::{Lane, Order, Site};
use crate::store::TenantKey;

#[derive(Debug, Default)]
pub(super) struct Shares {
    tenants: HashMap<TenantKey, Share>,
    /// Tenants with a host that may be open: by the load of the best of them, then by turn.
    ring: BTreeSet<(u32, u64, TenantKey)>,
    /// By what they hold.
    sizes: BTreeSet<(usize, TenantKey)>,
    /// Of the last start.
    turn: u64,
    /// Counts visits: the order in which a tenant goes round its hosts.
    visit: u64,
}

#[derive(Debug, Default)]
struct Share {
    turn: u64,
    /// Everything it holds, oldest first.
    held: BTreeMap<Order, Arc<Lane>>,
    /// Hosts that may be open, the best first.
    open: BTreeSet<(Rank, Site)>,
    /// Of each host it waits at.
    ranks: HashMap<Site, Rank>,
    /// Its place in the ring.
    place: Option<(u32, u64)>,
}

/// Fewest attempts under way first, then the one it was at least recently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    load: u32,
    visit: u64,
}

impl Shares {
    /// `load`: attempts under way at the lane's host.
    pub fn add(&mut self, tenant: TenantKey, order: Order, lane: &Arc<Lane>, load: u32) {
        let joins = self.turn;
        self.visit += 1;
        // A host that is new to it comes last.
        let rank = Rank { load, visit: self.visit };
        let share = self.tenants.entry(tenant).or_insert_with(|| Share { turn: joins, ..Share::default() });
        self.sizes.remove(&(share.held.len(), tenant));
        share.held.insert(order, lane.clone());
        self.sizes.insert((share.held.len(), tenant));
        share.ranks.entry(lane.host.clone()).or_insert(rank);
        self.open(tenant, &lane.host);
    }

    /// `gone`: the host at which it holds nothing any more.
    pub fn remove(&mut self, tenant: TenantKey, order: Order, gone: Option<&Site>) {
        let Some(share) = self.tenants.get_mut(&tenant) else { return };
        self.sizes.remove(&(share.held.len(), tenant));
        share.held.remove(&order);
        if !share.held.is_empty() {
            self.sizes.insert((share.held.len(), tenant));
        }
        if let Some(site) = gone {
            if let Some(rank) = share.ranks.remove(site) {
                share.open.remove(&(rank, site.clone()));
            }
            self.settle(tenant);
        }
        if self.tenants.get(&tenant).is_some_and(|share| share.held.is_empty()) {
            self.tenants.remove(&tenant);
        }
    }

    /// The tenant's host may be open.
    pub fn open(&mut self, tenant: TenantKey, site: &Site) {
        let Some(share) = self.tenants.get_mut(&tenant) else { return };
        let Some(rank) = share.ranks.get(site) else { return };
        share.open.insert((*rank, site.clone()));
        self.settle(tenant);
    }

    /// Nothing of the tenant can start at the host now.
    pub fn shut(&mut self, tenant: TenantKey, site: &Site) {
        let Some(share) = self.tenants.get_mut(&tenant) else { return };
        let Some(rank) = share.ranks.get(site) else { return };
        share.open.remove(&(*rank, site.clone()));
        self.settle(tenant);
    }

    /// So many attempts are under way at the host.
    pub fn load(&mut self, tenant: TenantKey, site: &Site, load: u32) {
        self.rank(tenant, site, |rank| rank.load = load);
    }

    /// Whose turn it is, and where.
    pub fn next(&self) -> Option<(TenantKey, Site)> {
        let (_, _, tenant) = self.ring.first()?;
        let (_, site) = self.tenants.get(tenant)?.open.first()?;
        Some((*tenant, site.clone()))
    }

    /// Something started at the host that the tenant brought.
    pub fn started(&mut self, tenant: TenantKey, site: &Site) {
        if let Some(share) = self.tenants.get_mut(&tenant) {
            // Who could not start for long gathers no claims.
            self.turn = self.turn.max(share.turn);
            share.turn = self.turn + 1;
        }
        self.visit += 1;
        let visit = self.visit;
        self.rank(tenant, site, |rank| rank.visit = visit);
    }

    pub fn held(&self, tenant: TenantKey) -> usize {
        self.tenants.get(&tenant).map_or(0, |share| share.held.len())
    }

    /// What the tenant with the most holds.
    pub fn most(&self) -> usize {
        self.sizes.last().map_or(0, |(held, _)| *held)
    }

    /// The youngest candidate of the tenant with the most.
    pub fn newest_of_most(&self) -> Option<(Order, Arc<Lane>)> {
        let (_, tenant) = self.sizes.last()?;
        let (order, lane) = self.tenants.get(tenant)?.held.last_key_value()?;
        Some((*order, lane.clone()))
    }

    /// How many tenants hold anything.
    pub fn count(&self) -> usize {
        self.tenants.len()
    }

    fn rank(&mut self, tenant: TenantKey, site: &Site, change: impl FnOnce(&mut Rank)) {
        let Some(share) = self.tenants.get_mut(&tenant) else { return };
        let Some(rank) = share.ranks.get_mut(site) else { return };
        let was_open = share.open.remove(&(*rank, site.clone()));
        change(rank);
        if was_open {
            share.open.insert((*rank, site.clone()));
        }
        self.settle(tenant);
    }

    /// Puts the tenant where it belongs in the ring.
    fn settle(&mut self, tenant: TenantKey) {
        let Some(share) = self.tenants.get_mut(&tenant) else { return };
        let place = share.open.first().map(|(rank, _)| (rank.load, share.turn));
        if place == share.place {
            return;
        }
        if let Some((load, turn)) = std::mem::replace(&mut share.place, place) {
            self.ring.remove(&(load, turn, tenant));
        }
        if let Some((load, turn)) = place {
            self.ring.insert((load, turn, tenant));
        }
    }
}
