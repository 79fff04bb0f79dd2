//! The window: a bounded part of the queue in memory, from which attempts are picked.
//!
//! Pure: says what it wants read, takes what was read, gives picks. The database stays the truth: whatever is here can be
//! dropped and read again. Must not know: how reading and leasing are done.
//!
//! Each class has a third of the window, so that low work cannot keep high work out. In a class, no host holds more than a
//! share, and a tenant that holds more than its share makes room for others. What does not fit, or is shut, is put *aside*, by
//! key only, and read again when it can run. The ready index is read tenant by tenant (`cursors`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::class::{Among, Class, Found, Limits};
use super::cursors::Cursors;
use super::hosts::HostTable;
use super::lane::{Candidate, Gates, Lane, Order, Row, Seat, Site};
use super::reads::{DueRead, Fetched, Reads, ReadyRead};
use crate::model::{Controls, JobId, Priority, TaskRef};
use crate::store::{DueCursor, QueueKey, ReadyNews, TenantKey};

/// A lower class is served after so many picks went past it: it is slow then, never starved.
const NORMAL_PATIENCE: u32 = 8;
const LOW_PATIENCE: u32 = 16;
/// Tasks of one read of the ready index: a page's plans are in memory at once.
const READY_PAGE: usize = 128;
/// Tenants read together, of one class.
const READY_TENANTS: usize = 4;
const DUE_PAGE: usize = 64;
const RETURN_PAGE: usize = 16;

/// Picks to lease, and rows that are empty once they are leased.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub picks: Vec<Candidate>,
    pub spent: Vec<QueueKey>,
}

/// A ready row of which candidates are held.
#[derive(Debug)]
struct Held {
    tasks: usize,
    /// No part of it is aside: when the last candidate goes, the row is spent.
    whole: bool,
}

#[derive(Debug)]
pub(super) struct Window {
    limits: Limits,
    /// High, normal, low.
    classes: [Class; 3],
    /// Of each class, what of the ready index was not read yet.
    cursors: [Cursors; 3],
    held: HashMap<TaskRef, (Priority, Arc<Lane>)>,
    /// Picked and not settled yet: no task is here twice.
    out: HashMap<TaskRef, Out>,
    /// How many of them are at each host.
    loads: HashMap<Site, u32>,
    /// How many of them belong to a job that limits its own attempts.
    jobs_out: HashMap<JobId, u32>,
    rows: HashMap<QueueKey, Held>,
    spent: Vec<QueueKey>,
    due: Due,
}

#[derive(Debug)]
struct Out {
    /// The due entry that was read meanwhile.
    missed_ms: Option<i64>,
    lane: Arc<Lane>,
}

#[derive(Debug)]
struct Due {
    cursor: DueCursor,
    /// Everything up to the present was read; the next task is due then.
    rest: Option<Option<i64>>,
}

impl Window {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            classes: [Class::new(Priority::High), Class::new(Priority::Normal), Class::new(Priority::Low)],
            cursors: [Cursors::default(), Cursors::default(), Cursors::default()],
            held: HashMap::new(),
            out: HashMap::new(),
            loads: HashMap::new(),
            jobs_out: HashMap::new(),
            rows: HashMap::new(),
            spent: Vec::new(),
            due: Due { cursor: DueCursor { at_ms: 0, task: None }, rest: None },
        }
    }

    /// Commits have added ready rows.
    pub fn ready_changed(&mut self, news: &ReadyNews) {
        for (&(class, tenant), &first) in &news.first {
            if let Some(cursors) = self.cursors.get_mut(class) {
                cursors.note(tenant, first);
            }
        }
        if news.is_cut {
            self.cursors.iter_mut().for_each(Cursors::look_again);
        }
    }

    /// A switch was turned.
    pub fn controls_changed(&mut self) {
        self.classes.iter_mut().for_each(Class::reopen_all);
    }

    /// A due entry may stand at `at_ms` or later that was not there when the cursor passed.
    pub fn pull_back(&mut self, at_ms: i64) {
        let from = DueCursor { at_ms, task: None };
        self.due.cursor = self.due.cursor.min(from);
        self.due.rest = self.due.rest.map(|next| Some(next.map_or(at_ms, |next| next.min(at_ms))));
    }

    /// When rows put aside are looked through again, if there are many.
    pub fn next_aside_ms(&self) -> Option<i64> {
        self.classes.iter().filter_map(Class::next_look_ms).min()
    }

    /// When a task becomes due that was not when it was last looked.
    pub fn next_due_ms(&self) -> Option<i64> {
        self.due.rest.flatten()
    }

    /// What to read now; empty when nothing would fit or nothing is there.
    pub fn wanted(&mut self, gates: &Gates<'_>) -> Reads {
        let mut reads = Reads::default();
        let (limits, is_due_read) = (self.limits, self.due.rest.is_some());
        let mut due_back = None;
        for (class, cursors) in self.classes.iter_mut().zip(&mut self.cursors) {
            let priority = class.priority;
            // One more than are here: there is always room for somebody who comes.
            let tenants = cursors.tenants().max(class.shares.count()).max(class.aside.tenants()) + 1;
            let is_read = |tenant: Option<TenantKey>| tenant.map_or(is_due_read, |tenant| cursors.is_read(tenant));
            let (back, due) = class.back(&limits, tenants, gates, is_read);
            back.into_iter().for_each(|(tenant, first)| cursors.note(tenant, first));
            due_back = due_back.into_iter().chain(due).min();
            reads.tenants.extend(cursors.search().map(|from| (priority, from)));
            let back = class.returning(RETURN_PAGE, &limits, tenants, gates);
            reads.again.extend(back.into_iter().map(|key| (priority, key)));
            let is_roomy = class.wants_more(&limits);
            if !is_roomy && !class.is_uneven() {
                continue;
            }
            let next = cursors.next(READY_TENANTS, |tenant| class.wants_more_of(tenant, &limits, tenants));
            let room = if is_roomy { limits.tasks.saturating_sub(class.held()).min(READY_PAGE) } else { READY_TENANTS };
            let tasks = (room / next.len().max(1)).max(1);
            let read = |(tenant, after)| ReadyRead { priority, tenant, after, tasks };
            reads.ready.extend(next.into_iter().map(read));
        }
        due_back.into_iter().for_each(|at_ms| self.pull_back(at_ms));
        let is_due = match self.due.rest {
            None => true,
            Some(next) => next.is_some_and(|next| next <= gates.wall_ms),
        };
        if is_due {
            reads.due = Some(DueRead { from: self.due.cursor, until_ms: gates.wall_ms, rows: DUE_PAGE });
        }
        reads
    }

    pub fn absorb(&mut self, fetched: Fetched, gates: &Gates<'_>) {
        // Rows that come back are older than anything read for the first time.
        for (priority, key, row) in fetched.again {
            self.class(priority).aside.remove(key);
            match row {
                Some(row) => self.admit(&row, gates),
                None => drop(self.rows.remove(&key)),
            }
        }
        if let Some(page) = fetched.due {
            for row in &page.rows {
                self.admit(row, gates);
            }
            self.due.cursor = page.next;
            self.due.rest = page.end;
        }
        for (priority, found) in fetched.tenants {
            self.cursors(priority).found(found);
        }
        for (read, page) in fetched.ready {
            for entry in page.entries {
                self.admit(&Row { key: entry.key, plan: entry.plan, tasks: entry.tasks }, gates);
            }
            self.spent.extend(page.gone);
            self.cursors(read.priority).read(read.tenant, read.after, page.next_seq, page.end);
        }
    }

    /// Up to `n` picks, in order of class and turn. Each has its place and turn at its host reserved.
    pub fn take(&mut self, n: usize, controls: &Controls, hosts: &mut HostTable, now_ms: i64) -> Taken {
        for host in hosts.take_opened() {
            let site = Some(host);
            self.classes.iter_mut().for_each(|class| class.reopen(&site));
        }
        let mut taken = Taken { picks: Vec::new(), spent: std::mem::take(&mut self.spent) };
        while taken.picks.len() < n {
            let Some(candidate) = self.pick(controls, hosts, now_ms) else { break };
            if let Some(host) = &candidate.lane.host {
                hosts.reserve(host, now_ms);
            }
            self.held.remove(&candidate.task);
            self.note_pick(candidate.job.priority);
            if let Some((job, _)) = candidate.lane.own {
                *self.jobs_out.entry(job).or_default() += 1;
            }
            self.change_load(&candidate.lane.host, 1);
            self.out.insert(candidate.task, Out { missed_ms: None, lane: candidate.lane.clone() });
            self.leave_row(candidate.from);
            taken.picks.push(candidate);
        }
        taken.spent.append(&mut self.spent);
        taken
    }

    /// The lease call did not happen: everything as before it.
    pub fn give_back(&mut self, taken: Taken) {
        for candidate in taken.picks {
            let whole = taken.spent.contains(&candidate.from) || self.spent.contains(&candidate.from);
            self.spent.retain(|key| *key != candidate.from);
            self.forget(candidate.task);
            self.hold(candidate, whole);
        }
        // Rows without a candidate stay spent.
        let empty = taken.spent.into_iter().filter(|key| !self.rows.contains_key(key));
        self.spent.extend(empty);
    }

    /// The task's attempt is over, or it was not to be had: it may be read again.
    pub fn forget(&mut self, task: TaskRef) {
        let Some(out) = self.out.remove(&task) else { return };
        if let Some(at_ms) = out.missed_ms {
            self.pull_back(at_ms);
        }
        self.change_load(&out.lane.host, -1);
        if out.lane.own.is_some() {
            if let Some(n) = self.jobs_out.get_mut(&task.job) {
                *n -= 1;
                if *n == 0 {
                    self.jobs_out.remove(&task.job);
                }
            }
            self.classes.iter_mut().for_each(|class| class.reopen_job(task.job));
        }
    }

    /// Puts aside what is shut in classes that are full. True when room was made.
    pub fn make_room(&mut self, gates: &Gates<'_>) -> bool {
        let mut made = false;
        for at in 0..self.classes.len() {
            let Some(class) = self.classes.get_mut(at) else { continue };
            if class.wants_more(&self.limits) {
                continue;
            }
            let priority = class.priority;
            for (lane, order) in class.shut(gates) {
                made |= self.set_aside(priority, &lane, order, gates.now_ms);
            }
        }
        made
    }

    /// Spent rows that wait for a lease call to be deleted with.
    pub fn spent_waiting(&self) -> usize {
        self.spent.len()
    }

    /// Since when the oldest task waits that could start.
    pub fn oldest_ms(&self, gates: &Gates<'_>) -> Option<i64> {
        self.classes.iter().filter_map(|class| class.oldest_ms(gates)).min()
    }

    fn admit(&mut self, row: &Row, gates: &Gates<'_>) {
        let priority = row.plan.priority;
        let job = row.job_part();
        // Most tasks of a job have few hosts: a lane is made once, with the number of its tasks that are put aside.
        let mut lanes: BTreeMap<Seat<'_>, (Arc<Lane>, usize)> = BTreeMap::new();
        for &index in &row.tasks {
            let task = TaskRef { job: row.plan.job, index };
            if let Some(out) = self.out.get_mut(&task) {
                if let QueueKey::Due { at_ms, .. } = row.key {
                    out.missed_ms = Some(out.missed_ms.map_or(at_ms, |earlier| earlier.min(at_ms)));
                }
                continue;
            }
            let Some(seat) = row.seat(index) else { continue };
            if self.is_held_from(task, row.key) {
                continue;
            }
            let (lane, aside) = lanes.entry(seat).or_insert_with(|| (row.lane(seat, &job), 0));
            // What did not fit for one task of a lane does not fit for the next.
            if *aside == 0 && !gates.is_shut(lane) && self.make_place(priority, lane, gates.now_ms) {
                self.hold(row.candidate(index, &job, lane), false);
            } else {
                *aside += 1;
            }
        }
        let mut whole = true;
        for (lane, aside) in lanes.into_values().filter(|(_, aside)| *aside > 0) {
            self.put_aside(priority, (row.plan.job, row.key), &lane, aside, gates.now_ms);
            whole = false;
        }
        if let QueueKey::Ready { .. } = row.key {
            match self.rows.get_mut(&row.key) {
                Some(held) => held.whole = whole,
                None if whole => self.spent.push(row.key),
                None => {}
            }
        }
    }

    /// True: one more of the lane may be held. Somebody's youngest may have had to go for it.
    fn make_place(&mut self, priority: Priority, lane: &Lane, now_ms: i64) -> bool {
        let (limits, tenants) = (self.limits, self.tenants(priority));
        match self.class(priority).room_for(lane, &limits, tenants) {
            None => false,
            Some(None) => true,
            Some(Some((order, lane))) => self.set_aside(priority, &lane, order, now_ms),
        }
    }

    fn tenants(&mut self, priority: Priority) -> usize {
        let readers = self.cursors(priority).tenants();
        let class = self.class(priority);
        readers.max(class.shares.count()).max(class.aside.tenants()) + 1
    }

    fn put_aside(&mut self, priority: Priority, from: (JobId, QueueKey), lane: &Arc<Lane>, tasks: usize, now_ms: i64) {
        let (limits, among) = (self.limits, Among { tenants: self.tenants(priority), now_ms });
        self.class(priority).put_aside(from, lane, tasks, &limits, among);
    }

    fn set_aside(&mut self, priority: Priority, lane: &Arc<Lane>, order: Order, now_ms: i64) -> bool {
        let Some(candidate) = self.remove(priority, lane, order) else { return false };
        self.put_aside(priority, (candidate.task.job, candidate.from), lane, 1, now_ms);
        if let Some(row) = self.rows.get_mut(&candidate.from) {
            row.whole = false;
        }
        self.leave_row(candidate.from);
        true
    }

    /// A task held from elsewhere was queued anew since (retried, replayed): the newer place counts.
    fn is_held_from(&mut self, task: TaskRef, key: QueueKey) -> bool {
        let Some((priority, lane)) = self.held.get(&task).cloned() else { return false };
        let same = self.class(priority).peek(&lane, Order::of(task)) == Some(key);
        if !same && let Some(old) = self.remove(priority, &lane, Order::of(task)) {
            self.leave_row(old.from);
        }
        same
    }

    fn hold(&mut self, candidate: Candidate, whole: bool) {
        if let QueueKey::Ready { .. } = candidate.from {
            self.rows.entry(candidate.from).or_insert(Held { tasks: 0, whole }).tasks += 1;
        }
        let priority = candidate.job.priority;
        self.held.insert(candidate.task, (priority, candidate.lane.clone()));
        let load = self.loads.get(&candidate.lane.host).copied().unwrap_or(0);
        self.class(priority).insert(candidate, load);
    }

    fn remove(&mut self, priority: Priority, lane: &Arc<Lane>, order: Order) -> Option<Candidate> {
        let candidate = self.class(priority).remove(lane, order)?;
        self.held.remove(&candidate.task);
        Some(candidate)
    }

    fn leave_row(&mut self, key: QueueKey) {
        let Some(row) = self.rows.get_mut(&key) else { return };
        row.tasks -= 1;
        if row.tasks == 0 {
            if row.whole {
                self.spent.push(key);
            }
            self.rows.remove(&key);
        }
    }

    fn pick(&mut self, controls: &Controls, hosts: &mut HostTable, now_ms: i64) -> Option<Candidate> {
        let only_store = !hosts.has_turn(now_ms);
        let [_, normal, low] = &self.classes;
        let aged = [(2, low.passed >= LOW_PATIENCE), (1, normal.passed >= NORMAL_PATIENCE)];
        let aged = aged.into_iter().filter(|(_, is_due)| *is_due).map(|(at, _)| at);
        let order: Vec<usize> = aged.chain(0..self.classes.len()).collect();
        let jobs_out = &self.jobs_out;
        let may_run = |lane: &Lane| {
            lane.own.is_none_or(|(job, parallel_max)| jobs_out.get(&job).is_none_or(|running| *running < parallel_max))
        };
        for at in order {
            let Some(class) = self.classes.get_mut(at) else { continue };
            loop {
                match class.look(&Gates { controls, hosts, now_ms, wall_ms: now_ms }, only_store, may_run) {
                    Found::Pick(order, lane, tenant) => return class.start(&lane, order, tenant),
                    Found::Shut(host) if !hosts.is_open(&host, now_ms) => hosts.watch(&host, now_ms),
                    // Switched off: a switch will tell.
                    Found::Shut(_) => {}
                    Found::Nothing => break,
                }
            }
        }
        None
    }

    fn change_load(&mut self, site: &Site, by: i32) {
        let load = self.loads.entry(site.clone()).or_default();
        *load = load.saturating_add_signed(by);
        let load = *load;
        if load == 0 {
            self.loads.remove(site);
        }
        self.classes.iter_mut().for_each(|class| class.load(site, load));
    }

    fn note_pick(&mut self, picked: Priority) {
        for class in &mut self.classes {
            if class.priority == picked {
                class.passed = 0;
            } else if class.priority < picked && !class.is_empty() {
                class.passed = class.passed.saturating_add(1);
            }
        }
    }

    fn cursors(&mut self, priority: Priority) -> &mut Cursors {
        let [high, normal, low] = &mut self.cursors;
        match priority {
            Priority::High => high,
            Priority::Normal => normal,
            Priority::Low => low,
        }
    }

    fn class(&mut self, priority: Priority) -> &mut Class {
        let [high, normal, low] = &mut self.classes;
        match priority {
            Priority::High => high,
            Priority::Normal => normal,
            Priority::Low => low,
        }
    }

    #[cfg(test)]
    pub fn bound_aside(&mut self, aside: usize) {
        (self.limits.aside, self.limits.aside_min) = (aside, 1);
    }

    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.held.len()
    }
}
