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
    /// Tenants with a host that may be open, by the turn of their next start.
    ring: BTreeSet<(u64, TenantKey)>,
    /// By what they hold.
    sizes: BTreeSet<(usize, TenantKey)>,
    /// Of the last start.
    turn: u64,
    /// Counts starts and openings: the order in which a tenant goes round its hosts.
    visit: u64,
}

#[derive(Debug, Default)]
struct Share {
    turn: u64,
    /// Everything it holds, oldest first.
    held: BTreeMap<Order, Arc<Lane>>,
    /// Hosts that may be open, the one it was at least recently first.
    open: BTreeSet<(u64, Site)>,
    /// When it was last at each host it waits at.
    visits: HashMap<Site, u64>,
}

impl Shares {
    pub fn add(&mut self, tenant: TenantKey, order: Order, lane: &Arc<Lane>) {
        let joins = self.turn + 1;
        let share = self.tenants.entry(tenant).or_insert_with(|| Share { turn: joins, ..Share::default() });
        self.sizes.remove(&(share.held.len(), tenant));
        share.held.insert(order, lane.clone());
        self.sizes.insert((share.held.len(), tenant));
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
            self.shut(tenant, site);
            if let Some(share) = self.tenants.get_mut(&tenant) {
                share.visits.remove(site);
            }
        }
        if self.tenants.get(&tenant).is_some_and(|share| share.held.is_empty()) {
            self.tenants.remove(&tenant);
        }
    }

    /// The tenant's host may be open.
    pub fn open(&mut self, tenant: TenantKey, site: &Site) {
        let Some(share) = self.tenants.get_mut(&tenant) else { return };
        self.visit += 1;
        // A host that is new to it comes last.
        let visit = *share.visits.entry(site.clone()).or_insert(self.visit);
        if share.open.insert((visit, site.clone())) && share.open.len() == 1 {
            // One that could not start gathers no claims.
            share.turn = share.turn.max(self.turn);
            self.ring.insert((share.turn, tenant));
        }
    }

    /// Nothing of the tenant can start at the host now.
    pub fn shut(&mut self, tenant: TenantKey, site: &Site) {
        let Some(share) = self.tenants.get_mut(&tenant) else { return };
        let Some(visit) = share.visits.get(site) else { return };
        if share.open.remove(&(*visit, site.clone())) && share.open.is_empty() {
            self.ring.remove(&(share.turn, tenant));
        }
    }

    /// Whose turn it is, and where.
    pub fn next(&self) -> Option<(TenantKey, Site)> {
        let (_, tenant) = self.ring.first()?;
        let (_, site) = self.tenants.get(tenant)?.open.first()?;
        Some((*tenant, site.clone()))
    }

    /// Something started at the host that the tenant brought.
    pub fn started(&mut self, tenant: TenantKey, site: &Site) {
        let Some(share) = self.tenants.get_mut(&tenant) else { return };
        self.visit += 1;
        if let Some(visit) = share.visits.get_mut(site) {
            let was_open = share.open.remove(&(*visit, site.clone()));
            *visit = self.visit;
            if was_open {
                share.open.insert((*visit, site.clone()));
            }
        }
        let was_in = self.ring.remove(&(share.turn, tenant));
        self.turn = self.turn.max(share.turn);
        share.turn += 1;
        if was_in {
            self.ring.insert((share.turn, tenant));
        }
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
}
