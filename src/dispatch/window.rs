//! The window: a bounded part of the queue in memory, from which attempts are picked.
//!
//! Pure: says what it wants read, takes what was read, gives picks. The database stays the truth: whatever is here can be
//! dropped and read again. Must not know: how reading and leasing are done.
//!
//! Each class has a third of the window, so that low work cannot keep high work out. No host holds more than a share of its
//! class, and lanes that are shut hold nothing: their rows are put *aside*, by key only, and read again when they can run.

use std::collections::HashMap;
use std::sync::Arc;

use super::class::{Class, Limits};
use super::hosts::HostTable;
use super::lane::{Candidate, Gates, Lane, Order, Row};
use crate::model::{Controls, Priority, TaskRef};
use crate::store::{DueCursor, QueueKey, ReadyPage};

/// A lower class is served after so many picks went past it: it is slow then, never starved.
const NORMAL_PATIENCE: u32 = 8;
const LOW_PATIENCE: u32 = 16;
/// Tasks of one read of the ready index: a page's plans are in memory at once.
const READY_PAGE: usize = 128;
const DUE_PAGE: usize = 64;
const RETURN_PAGE: usize = 16;

/// What is to be read next.
#[derive(Debug, Default)]
pub(super) struct Reads {
    pub ready: Vec<ReadyRead>,
    /// Rows put aside before.
    pub again: Vec<(Priority, QueueKey)>,
    pub due: Option<DueRead>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ReadyRead {
    pub priority: Priority,
    pub after: u64,
    pub tasks: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct DueRead {
    pub from: DueCursor,
    pub until_ms: i64,
    pub rows: usize,
}

impl Reads {
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.again.is_empty() && self.due.is_none()
    }
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    pub ready: Vec<(Priority, ReadyPage)>,
    /// None: the row is gone.
    pub again: Vec<(Priority, QueueKey, Option<Row>)>,
    pub due: Option<DuePage>,
}

#[derive(Debug)]
pub(super) struct DuePage {
    pub rows: Vec<Row>,
    pub next: DueCursor,
    /// When the first task behind `next` is due, if the page reached the present.
    pub end: Option<Option<i64>>,
}

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
    held: HashMap<TaskRef, (Priority, Arc<Lane>)>,
    /// Picked and not settled yet, with the due entry that was read meanwhile: no task is here twice.
    out: HashMap<TaskRef, Option<i64>>,
    rows: HashMap<QueueKey, Held>,
    spent: Vec<QueueKey>,
    due: Due,
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
            held: HashMap::new(),
            out: HashMap::new(),
            rows: HashMap::new(),
            spent: Vec::new(),
            due: Due { cursor: DueCursor { at_ms: 0, task: None }, rest: None },
        }
    }

    /// A commit may have added ready rows.
    pub fn ready_changed(&mut self) {
        for class in &mut self.classes {
            class.at_end = false;
        }
    }

    /// A due entry may stand at `at_ms` or later that was not there when the cursor passed.
    pub fn pull_back(&mut self, at_ms: i64) {
        let from = DueCursor { at_ms, task: None };
        self.due.cursor = self.due.cursor.min(from);
        self.due.rest = self.due.rest.map(|next| Some(next.map_or(at_ms, |next| next.min(at_ms))));
    }

    /// When a task becomes due that was not when it was last looked.
    pub fn next_due_ms(&self) -> Option<i64> {
        self.due.rest.flatten()
    }

    /// What to read now; empty when nothing would fit or nothing is there.
    pub fn wanted(&self, gates: &Gates<'_>) -> Reads {
        let mut reads = Reads::default();
        let aside: usize = self.classes.iter().map(|class| class.aside.entries()).sum();
        let reads_on = aside < self.limits.aside;
        for class in self.classes.iter().filter(|class| class.wants_more(&self.limits)) {
            let back = class.returning(RETURN_PAGE, &self.limits, gates);
            let room = self.limits.tasks.saturating_sub(class.held());
            if back.is_empty() && !class.at_end && reads_on {
                let tasks = room.min(READY_PAGE);
                reads.ready.push(ReadyRead { priority: class.priority, after: class.after, tasks });
            }
            reads.again.extend(back.into_iter().map(|key| (class.priority, key)));
        }
        let is_due = match self.due.rest {
            None => true,
            Some(next) => next.is_some_and(|next| next <= gates.now_ms),
        };
        if is_due && reads_on {
            reads.due = Some(DueRead { from: self.due.cursor, until_ms: gates.now_ms, rows: DUE_PAGE });
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
        for (priority, page) in fetched.ready {
            for entry in page.entries {
                self.admit(&Row { key: entry.key, plan: entry.plan, tasks: entry.tasks }, gates);
            }
            let class = self.class(priority);
            class.after = class.after.max(page.next_seq);
            class.at_end = page.end;
        }
    }

    /// Up to `n` picks, in order of class and age. Each has its place at its host reserved.
    pub fn take(&mut self, n: usize, controls: &Controls, hosts: &mut HostTable, now_ms: i64) -> Taken {
        let mut taken = Taken { picks: Vec::new(), spent: std::mem::take(&mut self.spent) };
        while taken.picks.len() < n {
            let gates = Gates { controls, hosts, now_ms };
            let Some((priority, order, lane)) = self.next_pick(&gates) else { break };
            let Some(candidate) = self.remove(priority, &lane, order) else { break };
            if let Some(host) = &lane.host {
                hosts.reserve(host);
            }
            self.note_pick(priority);
            self.out.insert(candidate.task, None);
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
            let missed = self.out.remove(&candidate.task).flatten();
            if let Some(at_ms) = missed {
                self.pull_back(at_ms);
            }
            self.hold(candidate, whole);
        }
        // Rows without a candidate stay spent.
        let empty = taken.spent.into_iter().filter(|key| !self.rows.contains_key(key));
        self.spent.extend(empty);
    }

    /// The task's attempt is over, or it was not to be had: it may be read again.
    pub fn forget(&mut self, task: TaskRef) {
        if let Some(Some(missed)) = self.out.remove(&task) {
            self.pull_back(missed);
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
                if let Some(candidate) = self.remove(priority, &lane, order) {
                    made = true;
                    self.class(priority).aside.add(candidate.task.job, candidate.from, &lane);
                    self.leave_row_aside(candidate.from);
                }
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
        let mut whole = true;
        for &index in &row.tasks {
            let task = TaskRef { job: row.plan.job, index };
            if let Some(missed) = self.out.get_mut(&task) {
                if let QueueKey::Due { at_ms, .. } = row.key {
                    *missed = Some(missed.map_or(at_ms, |earlier| earlier.min(at_ms)));
                }
                continue;
            }
            let Some(candidate) = row.candidate(index, &job) else { continue };
            if self.is_held_from(task, row.key) {
                continue;
            }
            let limits = self.limits;
            let class = self.class(priority);
            if class.has_room(&limits) && class.fits(&candidate.lane, &limits) && !gates.is_shut(&candidate.lane) {
                self.hold(candidate, false);
            } else {
                class.aside.add(task.job, row.key, &candidate.lane);
                whole = false;
            }
        }
        if let QueueKey::Ready { .. } = row.key {
            match self.rows.get_mut(&row.key) {
                Some(held) => held.whole = whole,
                None if whole => self.spent.push(row.key),
                None => {}
            }
        }
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
        self.class(priority).insert(candidate);
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

    fn leave_row_aside(&mut self, key: QueueKey) {
        if let Some(row) = self.rows.get_mut(&key) {
            row.whole = false;
        }
        self.leave_row(key);
    }

    fn next_pick(&self, gates: &Gates<'_>) -> Option<(Priority, Order, Arc<Lane>)> {
        let [high, normal, low] = &self.classes;
        let aged = [(low, LOW_PATIENCE), (normal, NORMAL_PATIENCE)];
        let aged = aged.into_iter().filter(|(class, patience)| class.passed >= *patience).map(|(class, _)| class);
        let mut classes = aged.chain([high, normal, low]);
        classes.find_map(|class| {
            let (order, lane) = class.first_open(gates)?;
            Some((class.priority, order, lane))
        })
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

    fn class(&mut self, priority: Priority) -> &mut Class {
        let [high, normal, low] = &mut self.classes;
        match priority {
            Priority::High => high,
            Priority::Normal => normal,
            Priority::Low => low,
        }
    }

    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.held.len()
    }
}
