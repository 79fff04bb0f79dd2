//! One priority class of the window: its candidates by lane, its place in the ready index, what it put aside.
//!
//! Pure. Must not know: other classes, running attempts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::lane::{Aside, Candidate, Gates, Lane, Order};
use crate::model::Priority;
use crate::store::QueueKey;

/// Bounds of one class.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub tasks: usize,
    pub bytes: usize,
    /// Candidates of one host.
    pub per_host: usize,
    /// Lane entries of rows put aside, of all classes: some 300 bytes each.
    pub aside: usize,
}

#[derive(Debug)]
pub(super) struct Class {
    pub priority: Priority,
    lanes: HashMap<Arc<Lane>, BTreeMap<Order, Candidate>>,
    /// First candidate of each lane: what a pick looks at.
    heads: BTreeSet<(Order, Arc<Lane>)>,
    /// Candidates held per host, over all lanes.
    hosts: HashMap<Arc<str>, usize>,
    held: usize,
    bytes: usize,
    pub aside: Aside,
    /// The ready index was read up to this sequence.
    pub after: u64,
    /// Nothing stood behind `after` when it was read last.
    pub at_end: bool,
    /// Picks that went to a higher class while this one held something.
    pub passed: u32,
}

impl Class {
    pub fn new(priority: Priority) -> Self {
        Self {
            priority,
            lanes: HashMap::new(),
            heads: BTreeSet::new(),
            hosts: HashMap::new(),
            held: 0,
            bytes: 0,
            aside: Aside::default(),
            after: 0,
            at_end: false,
            passed: 0,
        }
    }

    pub fn insert(&mut self, candidate: Candidate) {
        let order = Order::of(candidate.task);
        let lane_key = candidate.lane.clone();
        self.held += 1;
        self.bytes += candidate.bytes;
        if let Some(host) = &lane_key.host {
            *self.hosts.entry(host.clone()).or_default() += 1;
        }
        let lane = self.lanes.entry(lane_key.clone()).or_default();
        let first = lane.first_key_value().map(|(first, _)| *first);
        lane.insert(order, candidate);
        if first.is_none_or(|first| order < first) {
            if let Some(first) = first {
                self.heads.remove(&(first, lane_key.clone()));
            }
            self.heads.insert((order, lane_key));
        }
    }

    pub fn remove(&mut self, lane_key: &Arc<Lane>, order: Order) -> Option<Candidate> {
        let lane = self.lanes.get_mut(lane_key)?;
        let candidate = lane.remove(&order)?;
        let next = lane.first_key_value().map(|(next, _)| *next);
        if next.is_none() {
            self.lanes.remove(lane_key);
        }
        if self.heads.remove(&(order, lane_key.clone()))
            && let Some(next) = next
        {
            self.heads.insert((next, lane_key.clone()));
        }
        self.held -= 1;
        self.bytes -= candidate.bytes;
        if let Some(host) = &lane_key.host
            && let Some(held) = self.hosts.get_mut(host)
        {
            *held -= 1;
            if *held == 0 {
                self.hosts.remove(host);
            }
        }
        Some(candidate)
    }

    /// The candidate that may start before all others of the class.
    pub fn first_open(&self, gates: &Gates<'_>) -> Option<(Order, Arc<Lane>)> {
        self.heads.iter().find(|(_, lane)| gates.is_open(lane)).cloned()
    }

    /// Where the queue has a held candidate.
    pub fn peek(&self, lane: &Arc<Lane>, order: Order) -> Option<QueueKey> {
        Some(self.lanes.get(lane)?.get(&order)?.from)
    }

    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    pub fn held(&self) -> usize {
        self.held
    }

    /// One more candidate fits.
    pub fn has_room(&self, limits: &Limits) -> bool {
        self.held < limits.tasks && (self.bytes < limits.bytes || self.held == 0)
    }

    /// Enough has left to read more: reading one by one would cost a read for each pick.
    pub fn wants_more(&self, limits: &Limits) -> bool {
        self.held < limits.tasks - limits.tasks / 4 && (self.bytes < limits.bytes - limits.bytes / 4 || self.held == 0)
    }

    /// The host of the lane may hold one more: no host may fill the class and keep others out.
    pub fn fits(&self, lane: &Lane, limits: &Limits) -> bool {
        self.kept(lane) < limits.per_host
    }

    /// Rows set aside that should come back now: of lanes that are not shut and run low.
    pub fn returning(&self, rows: usize, limits: &Limits, gates: &Gates<'_>) -> Vec<QueueKey> {
        self.aside.oldest(rows, |lane| !gates.is_shut(lane) && self.kept(lane) <= limits.per_host / 2)
    }

    /// Candidates of lanes that are shut: they take the room of others.
    pub fn shut(&self, gates: &Gates<'_>) -> Vec<(Arc<Lane>, Order)> {
        let shut = self.lanes.iter().filter(|(lane, _)| gates.is_shut(lane));
        shut.flat_map(|(lane, held)| held.keys().map(move |order| (lane.clone(), *order))).collect()
    }

    /// Since when the oldest candidate waits that no switch or pause holds.
    pub fn oldest_ms(&self, gates: &Gates<'_>) -> Option<i64> {
        let heads = self.heads.iter().filter(|(_, lane)| !gates.is_shut(lane));
        heads.filter_map(|(order, lane)| Some(self.lanes.get(lane)?.get(order)?.since_ms)).min()
    }

    fn kept(&self, lane: &Lane) -> usize {
        lane.host.as_ref().and_then(|host| self.hosts.get(host)).copied().unwrap_or(0)
    }
}
