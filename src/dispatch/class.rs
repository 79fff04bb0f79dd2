//! One priority class of the window: its candidates by host and tenant, whose turn it is, what it put aside.
//!
//! Who starts next, in this order: at the host with the fewest attempts under way, so that a slow one does not fill the places;
//! among tenants that wait at such hosts in turn, each going round its own. At the host found so, the tenants that wait there
//! take turns, whoever's turn brought it: each has the same part of the host. Hosts that are found shut leave the order until
//! they are said to be open again, so a pick does not look at them. Pure. Must not know: other classes, running attempts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::lane::{Aside, Candidate, Gates, Lane, Order, Site, Skipped};
use super::shares::Shares;
use crate::model::{JobId, Priority};
use crate::store::{QueueKey, TenantKey};

/// Bounds of one class.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub tasks: usize,
    pub bytes: usize,
    /// Candidates of one host.
    pub per_host: usize,
    /// Lane entries of rows put aside, of all classes: some 300 bytes each.
    pub aside: usize,
    /// Of these, what each tenant may have however many tenants there are.
    pub aside_min: usize,
}

/// Rows passed over are looked after no more often than this: reading them again may mean reading the whole queue.
const SKIPPED_LOOK_MS: i64 = 1_000;
/// And so often when it is not sure that anything of them can start.
const SKIPPED_LATE_MS: i64 = 15_000;

/// More lanes than these put aside are looked through only so often: one look at ten thousand costs a millisecond.
const LANES_FREELY: usize = 256;
const LOOK_PAUSE_MS: i64 = 100;

#[derive(Debug)]
pub(super) struct Class {
    pub priority: Priority,
    sites: HashMap<Site, SiteQueue>,
    pub shares: Shares,
    /// Candidates of jobs that limit their own attempts, and where.
    limited: HashMap<JobId, BTreeMap<Site, usize>>,
    held: usize,
    bytes: usize,
    pub aside: Aside,
    /// Not before this are many lanes put aside looked through again.
    look_again_ms: i64,
    /// What could not be put aside any more: ready rows of each tenant by sequence, due ones by time.
    skipped: HashMap<TenantKey, Skipped<u64>>,
    skipped_due: Option<Skipped<i64>>,
    skipped_look_ms: i64,
    /// Picks that went to a higher class while this one held something.
    pub passed: u32,
}

/// Who waits at a host.
#[derive(Debug, Default)]
struct SiteQueue {
    held: usize,
    /// Of the last start.
    turn: u64,
    tenants: BTreeMap<TenantKey, TenantQueue>,
}

#[derive(Debug, Default)]
struct TenantQueue {
    held: usize,
    /// Of its next start here: the lowest goes first.
    turn: u64,
    lanes: HashMap<Arc<Lane>, BTreeMap<Order, Candidate>>,
    /// First candidate of each lane.
    heads: BTreeSet<(Order, Arc<Lane>)>,
}

impl TenantQueue {
    fn first(&self, is_open: impl Fn(&Lane) -> bool) -> Option<&(Order, Arc<Lane>)> {
        self.heads.iter().find(|(_, lane)| is_open(lane))
    }

    fn newest(&self) -> Option<(Order, Arc<Lane>)> {
        let last =
            |(lane, held): (&Arc<Lane>, &BTreeMap<Order, Candidate>)| Some((*held.last_key_value()?.0, lane.clone()));
        self.lanes.iter().filter_map(last).max()
    }
}

/// What a look for the next pick found.
pub(super) enum Found {
    /// This candidate, and the tenant that brought the host.
    Pick(Order, Arc<Lane>, TenantKey),
    /// This host is not open: it is out of the order until it is said to be.
    Shut(Arc<str>),
    Nothing,
}

impl Class {
    pub fn new(priority: Priority) -> Self {
        Self {
            priority,
            sites: HashMap::new(),
            shares: Shares::default(),
            limited: HashMap::new(),
            held: 0,
            bytes: 0,
            aside: Aside::default(),
            look_again_ms: 0,
            skipped: HashMap::new(),
            skipped_due: None,
            skipped_look_ms: 0,
            passed: 0,
        }
    }

    /// `load`: attempts under way at the candidate's host.
    pub fn insert(&mut self, candidate: Candidate, load: u32) {
        let order = Order::of(candidate.task);
        let key = candidate.lane.clone();
        self.held += 1;
        self.bytes += candidate.bytes;
        if let Some((job, _)) = key.own {
            *self.limited.entry(job).or_default().entry(key.host.clone()).or_default() += 1;
        }
        let site = self.sites.entry(key.host.clone()).or_default();
        site.held += 1;
        let joins = site.turn + 1;
        let queue = site.tenants.entry(key.tenant).or_insert_with(|| TenantQueue { turn: joins, ..Default::default() });
        queue.held += 1;
        let lane = queue.lanes.entry(key.clone()).or_default();
        let first = lane.first_key_value().map(|(first, _)| *first);
        lane.insert(order, candidate);
        if first.is_none_or(|first| order < first) {
            if let Some(first) = first {
                queue.heads.remove(&(first, key.clone()));
            }
            queue.heads.insert((order, key.clone()));
        }
        self.shares.add(key.tenant, order, &key, load);
    }

    pub fn remove(&mut self, key: &Arc<Lane>, order: Order) -> Option<Candidate> {
        let site = self.sites.get_mut(&key.host)?;
        let queue = site.tenants.get_mut(&key.tenant)?;
        let lane = queue.lanes.get_mut(key)?;
        let candidate = lane.remove(&order)?;
        let next = lane.first_key_value().map(|(next, _)| *next);
        if next.is_none() {
            queue.lanes.remove(key);
        }
        if queue.heads.remove(&(order, key.clone()))
            && let Some(next) = next
        {
            queue.heads.insert((next, key.clone()));
        }
        self.held -= 1;
        self.bytes -= candidate.bytes;
        site.held -= 1;
        queue.held -= 1;
        let is_last_here = queue.held == 0;
        if is_last_here {
            site.tenants.remove(&key.tenant);
        }
        if site.held == 0 {
            self.sites.remove(&key.host);
        }
        self.shares.remove(key.tenant, order, is_last_here.then_some(&key.host));
        if let Some((job, _)) = key.own
            && let Some(sites) = self.limited.get_mut(&job)
        {
            if let Some(held) = sites.get_mut(&key.host) {
                *held -= 1;
                if *held == 0 {
                    sites.remove(&key.host);
                }
            }
            if sites.is_empty() {
                self.limited.remove(&job);
            }
        }
        Some(candidate)
    }

    /// A start: like [`Self::remove`], and turns move on.
    pub fn start(&mut self, key: &Arc<Lane>, order: Order, brought_by: TenantKey) -> Option<Candidate> {
        if let Some(site) = self.sites.get_mut(&key.host)
            && let Some(queue) = site.tenants.get_mut(&key.tenant)
        {
            site.turn = queue.turn;
            queue.turn += 1;
        }
        self.shares.started(brought_by, &key.host);
        self.remove(key, order)
    }

    /// One step towards the candidate that starts next. `may_run`: the lane's job may have one more attempt.
    /// `only_store`: no host may be asked now.
    pub fn look(&mut self, gates: &Gates<'_>, only_store: bool, may_run: impl Fn(&Lane) -> bool) -> Found {
        let is_open = |lane: &Lane| gates.is_on(lane) && may_run(lane);
        if only_store {
            return match self.first_at(&None, is_open) {
                Some((order, lane)) => {
                    let tenant = lane.tenant;
                    Found::Pick(order, lane, tenant)
                }
                None => Found::Nothing,
            };
        }
        while let Some((tenant, site)) = self.shares.next() {
            if let Some(host) = site.as_ref().filter(|host| !gates.is_host_open(host)).cloned() {
                self.shares.shut(tenant, &site);
                return Found::Shut(host);
            }
            let own = self.sites.get(&site).and_then(|queue| queue.tenants.get(&tenant)?.first(is_open));
            if own.is_none() {
                // Held back by a switch or its job's limit: not its turn until that changes.
                self.shares.shut(tenant, &site);
                continue;
            }
            if let Some((order, lane)) = self.first_at(&site, is_open) {
                return Found::Pick(order, lane, tenant);
            }
        }
        Found::Nothing
    }

    fn first_at(&self, site: &Site, is_open: impl Fn(&Lane) -> bool) -> Option<(Order, Arc<Lane>)> {
        let waiting = self.sites.get(site)?.tenants.values();
        let firsts = waiting.filter_map(|queue| Some((queue.turn, queue.first(&is_open)?)));
        firsts.min().map(|(_, first)| first.clone())
    }

    /// So many attempts are under way at the host.
    pub fn load(&mut self, site: &Site, load: u32) {
        if let Some(queue) = self.sites.get(site) {
            for tenant in queue.tenants.keys() {
                self.shares.load(*tenant, site, load);
            }
        }
    }

    /// The host may be open again.
    pub fn reopen(&mut self, site: &Site) {
        if let Some(queue) = self.sites.get(site) {
            for tenant in queue.tenants.keys() {
                self.shares.open(*tenant, site);
            }
        }
    }

    /// An attempt of the job has ended.
    pub fn reopen_job(&mut self, job: JobId) {
        let sites: Vec<Site> = self.limited.get(&job).map(|sites| sites.keys().cloned().collect()).unwrap_or_default();
        for site in sites {
            self.reopen(&site);
        }
    }

    pub fn reopen_all(&mut self) {
        let sites: Vec<Site> = self.sites.keys().cloned().collect();
        for site in sites {
            self.reopen(&site);
        }
    }

    /// Where the queue has a held candidate.
    pub fn peek(&self, lane: &Arc<Lane>, order: Order) -> Option<QueueKey> {
        let queue = self.sites.get(&lane.host)?.tenants.get(&lane.tenant)?;
        Some(queue.lanes.get(lane)?.get(&order)?.from)
    }

    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    pub fn held(&self) -> usize {
        self.held
    }

    fn has_room(&self, limits: &Limits) -> bool {
        self.held < limits.tasks && (self.bytes < limits.bytes || self.held == 0)
    }

    /// Enough has left to read more: reading one by one would cost a read for each pick.
    pub fn wants_more(&self, limits: &Limits) -> bool {
        self.held < limits.tasks - limits.tasks / 4 && (self.bytes < limits.bytes - limits.bytes / 4 || self.held == 0)
    }

    /// What each tenant may hold while others want room.
    fn share(&self, limits: &Limits, tenants: usize) -> usize {
        (limits.tasks / tenants.max(1)).max(1)
    }

    /// Somebody could make room for somebody else.
    pub fn is_uneven(&self) -> bool {
        self.shares.most() > 1
    }

    /// Reading for the tenant has a use: there is room, or somebody holds more than a share and this one much less.
    pub fn wants_more_of(&self, tenant: TenantKey, limits: &Limits, tenants: usize) -> bool {
        let share = self.share(limits, tenants);
        let (held, most) = (self.shares.held(tenant), self.shares.most());
        self.wants_more(limits) || (held <= share / 2 && most > share) || (held == 0 && most > 1)
    }

    /// Makes room for one candidate of the lane; what has to go for it is returned. None: it does not fit.
    pub fn room_for(&self, lane: &Lane, limits: &Limits, tenants: usize) -> Option<Option<(Order, Arc<Lane>)>> {
        if let Some((job, parallel_max)) = lane.own
            && self.held_of(job) >= job_share(parallel_max, limits)
        {
            return None;
        }
        let here = self.sites.get(&lane.host).filter(|_| lane.host.is_some());
        if let Some(site) = here
            && site.held >= limits.per_host
        {
            let share = self.host_share(site, lane.tenant, limits);
            let most = site.tenants.values().max_by_key(|queue| queue.held)?;
            let mine = site.tenants.get(&lane.tenant).map_or(0, |queue| queue.held);
            let may_push = (mine < share && most.held > share) || (mine == 0 && most.held > 1);
            return may_push.then(|| most.newest());
        }
        if self.has_room(limits) {
            return Some(None);
        }
        let share = self.share(limits, tenants);
        let (held, most) = (self.shares.held(lane.tenant), self.shares.most());
        ((held < share && most > share) || (held == 0 && most > 1)).then(|| self.shares.newest_of_most())
    }

    /// About how many candidates of the lane will fit, if one does.
    fn room_of(&self, lane: &Lane, limits: &Limits) -> usize {
        let site = self.sites.get(&lane.host).filter(|_| lane.host.is_some());
        let here = site.map_or(limits.per_host, |site| {
            let mine = site.tenants.get(&lane.tenant).map_or(0, |queue| queue.held);
            self.host_share(site, lane.tenant, limits).saturating_sub(mine)
        });
        here.min(limits.tasks.saturating_sub(self.held)).max(1)
    }

    fn host_share(&self, site: &SiteQueue, tenant: TenantKey, limits: &Limits) -> usize {
        let waiting = site.tenants.len() + usize::from(!site.tenants.contains_key(&tenant));
        (limits.per_host / waiting.max(1)).max(1)
    }

    fn held_of(&self, job: JobId) -> usize {
        self.limited.get(&job).map_or(0, |sites| sites.values().sum())
    }

    /// Rows set aside that should come back now: of lanes that are not shut and run low.
    pub fn returning(&mut self, rows: usize, limits: &Limits, tenants: usize, gates: &Gates<'_>) -> Vec<QueueKey> {
        if self.aside.lanes() == 0 || gates.now_ms < self.look_again_ms {
            return Vec::new();
        }
        let back = self.aside.oldest(rows, |lane| {
            let may_come = self.wants_more_of(lane.tenant, limits, tenants)
                && self.runs_low(lane, limits)
                && !gates.is_shut(lane)
                && self.room_for(lane, limits, tenants).is_some();
            if may_come { self.room_of(lane, limits) } else { 0 }
        });
        self.look_again_ms = 0;
        if back.is_empty() && self.aside.lanes() > LANES_FREELY {
            self.look_again_ms = gates.now_ms.saturating_add(LOOK_PAUSE_MS);
        }
        back
    }

    /// A row's part for the lane, of so many tasks, cannot be held now. What is remembered of such rows is bounded: beyond that, only from where
    /// they are to be read again, so that reading goes on to what can start.
    pub fn put_aside(
        &mut self,
        from: (JobId, QueueKey),
        lane: &Arc<Lane>,
        tasks: usize,
        limits: &Limits,
        among: Among,
    ) {
        let (job, key) = from;
        let is_full = self.aside.entries_of(lane.tenant) >= aside_share(limits, among.tenants)
            || self.aside.entries() >= (limits.aside / 2).max(limits.aside_min);
        if !is_full {
            self.aside.add(job, key, lane, tasks);
        } else if !self.aside.contains(key, lane) {
            let since_ms = among.now_ms;
            match key {
                QueueKey::Ready { tenant, seq, .. } => {
                    self.skipped.entry(tenant).or_insert_with(|| Skipped::new(seq, since_ms)).add(seq, lane);
                }
                QueueKey::Due { at_ms, .. } => {
                    self.skipped_due.get_or_insert_with(|| Skipped::new(at_ms, since_ms)).add(at_ms, lane);
                }
            }
        }
    }

    /// From where rows passed over are to be read again, now that some may start. `is_read`: reading for the tenant has come to
    /// the end of its rows; None: of those that are due.
    pub fn back(
        &mut self,
        limits: &Limits,
        tenants: usize,
        gates: &Gates<'_>,
        is_read: impl Fn(Option<TenantKey>) -> bool,
    ) -> (Vec<(TenantKey, u64)>, Option<i64>) {
        if self.skips_nothing() || gates.now_ms < self.skipped_look_ms {
            return (Vec::new(), None);
        }
        self.skipped_look_ms = gates.now_ms.saturating_add(SKIPPED_LOOK_MS);
        let could_go = |lane: &Lane| {
            self.wants_more_of(lane.tenant, limits, tenants)
                && self.runs_low(lane, limits)
                && !gates.is_shut(lane)
                && self.room_for(lane, limits, tenants).is_some()
        };
        // Going back before the end was reached for every lane that opens would never let reading get there.
        let is_time = |lanes: &BTreeSet<Arc<Lane>>, is_cut: bool, since_ms: i64, is_read: bool| {
            let is_late = gates.now_ms.saturating_sub(since_ms) >= SKIPPED_LATE_MS;
            let is_wanted = |lane: &Arc<Lane>| (is_late || (is_read && !self.aside.has(lane))) && could_go(lane);
            (is_late && is_read && is_cut) || lanes.iter().any(is_wanted)
        };
        let half = aside_share(limits, tenants).div_ceil(2);
        let has_room = self.aside.entries() < limits.aside / 4;
        let ready = self.skipped.iter().filter(|(tenant, skipped)| {
            (has_room && self.aside.entries_of(**tenant) < half)
                || is_time(&skipped.lanes, skipped.is_cut, skipped.since_ms, is_read(Some(**tenant)))
        });
        let ready: Vec<_> = ready.map(|(tenant, skipped)| (*tenant, skipped.first)).collect();
        let due = self.skipped_due.as_ref();
        let due = due.filter(|skipped| is_time(&skipped.lanes, skipped.is_cut, skipped.since_ms, is_read(None)));
        let due = due.map(|skipped| skipped.first);
        for (tenant, _) in &ready {
            self.skipped.remove(tenant);
        }
        if due.is_some() {
            self.skipped_due = None;
        }
        (ready, due)
    }

    fn skips_nothing(&self) -> bool {
        self.skipped.is_empty() && self.skipped_due.is_none()
    }

    /// When what was put aside or passed over is looked through again.
    pub fn next_look_ms(&self) -> Option<i64> {
        let aside = Some(self.look_again_ms).filter(|at| *at > 0);
        let skipped = (!self.skips_nothing()).then_some(self.skipped_look_ms);
        aside.into_iter().chain(skipped).min()
    }

    fn runs_low(&self, lane: &Lane, limits: &Limits) -> bool {
        let is_low = lane.own.is_none_or(|(job, most)| self.held_of(job) <= job_share(most, limits) / 2);
        let site = self.sites.get(&lane.host).filter(|_| lane.host.is_some());
        is_low
            && site.is_none_or(|site| {
                let held = site.tenants.get(&lane.tenant).map_or(0, |queue| queue.held);
                held <= self.host_share(site, lane.tenant, limits) / 2
            })
    }

    /// Candidates of lanes that are shut: they take the room of others.
    pub fn shut(&self, gates: &Gates<'_>) -> Vec<(Arc<Lane>, Order)> {
        let shut = self.lanes().filter(|(lane, _)| gates.is_shut(lane));
        shut.flat_map(|(lane, held)| held.keys().map(move |order| (lane.clone(), *order))).collect()
    }

    /// Since when the oldest candidate waits that no switch, pause or breaker holds.
    pub fn oldest_ms(&self, gates: &Gates<'_>) -> Option<i64> {
        let open = self.lanes().filter(|(lane, _)| !gates.is_shut(lane));
        open.filter_map(|(_, held)| held.first_key_value().map(|(_, first)| first.since_ms)).min()
    }

    fn lanes(&self) -> impl Iterator<Item = (&Arc<Lane>, &BTreeMap<Order, Candidate>)> {
        self.sites.values().flat_map(|site| site.tenants.values()).flat_map(|queue| queue.lanes.iter())
    }
}

/// Among how many tenants, and when, something is put aside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Among {
    pub tenants: usize,
    pub now_ms: i64,
}

/// Lane entries of rows put aside that a tenant may have.
fn aside_share(limits: &Limits, tenants: usize) -> usize {
    (limits.aside / (2 * tenants.max(1))).max(limits.aside_min)
}

/// What is held of a job that limits its own attempts: enough that none has to wait for a read, and so little that many such
/// jobs at one host leave room for others.
fn job_share(parallel_max: u32, limits: &Limits) -> usize {
    let twice = usize::try_from(parallel_max).unwrap_or(usize::MAX).saturating_mul(2);
    twice.max(limits.per_host / 64).min(limits.per_host).max(1)
}
