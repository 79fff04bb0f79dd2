//! Random events against a naive queue: what a user would lose if the planner were wrong.
//!
//! Long because: the naive model, its events and the comparison are one argument and read as one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use proptest::prelude::*;

use super::Options;
use super::hosts::{Entry, HostTable, Standing};
use super::lane::{Candidate, Lane, Order, host_of};
use super::limits::Rules;
use super::model_queue::{HOSTS, Queue, State};
use super::plan::Planner;
use super::settle::Attempted;
use super::stock::Ahead;
use super::window::Taken;
use crate::model::{ControlChange, Controls, Failure, FailureCode, JobId, JobType, Priority, TaskIndex, TaskRef};
use crate::store::{End, Lease, Plan, TenantKey, Tried};
use crate::worker::Outcome;

const TYPES: [&str; 2] = ["x", "y"];

#[derive(Debug, Clone)]
enum Event {
    Submit {
        tenant: u8,
        parallel_max: u8,
        priority: u8,
        hosts: Vec<u8>,
        job_type: u8,
    },
    Later(u16),
    /// Refill, and make a lease call if none is under way.
    Turn,
    /// The lease call that is under way is answered, or refused as a whole.
    Answer {
        refused: bool,
    },
    /// An attempt ends, and its result is committed.
    End {
        which: u8,
        how: u8,
    },
    /// The loop hears of a committed result.
    Settled,
    /// Canceled and retried: the task is queued anew, wherever it stood.
    Requeue {
        which: u8,
    },
    Throttle {
        host: u8,
        ms: u16,
    },
    /// A request to the host was answered, or not.
    Heard {
        host: u8,
        is_well: bool,
    },
    Control(u8),
    Restart,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (any::<[u8; 4]>(), prop::collection::vec(any::<u8>(), 1..12))
            .prop_map(|([tenant, parallel_max, priority, job_type], hosts)| {
                Event::Submit { tenant, parallel_max, priority, hosts, job_type }
            }),
        3 => any::<u16>().prop_map(Event::Later),
        8 => Just(Event::Turn),
        8 => any::<u8>().prop_map(|n| Event::Answer { refused: n % 8 == 0 }),
        6 => Just(Event::Settled),
        8 => (any::<u8>(), any::<u8>()).prop_map(|(which, how)| Event::End { which, how }),
        1 => any::<u8>().prop_map(|which| Event::Requeue { which }),
        1 => (any::<u8>(), any::<u16>()).prop_map(|(host, ms)| Event::Throttle { host, ms }),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(host, how)| Event::Heard { host, is_well: how % 4 == 0 }),
        2 => any::<u8>().prop_map(Event::Control),
        1 => Just(Event::Restart),
    ];
    prop::collection::vec(event, 1..120)
}

pub(super) struct World {
    pub options: Options,
    pub queue: Queue,
    pub planner: Planner,
    pub hosts: HostTable,
    controls: Controls,
    pub running: Vec<(Attempted, Option<Arc<str>>)>,
    /// Leased, and not started: in the planner's order.
    stock: Vec<(TaskRef, u64, Option<Arc<str>>)>,
    /// The lease call under way, with what the store decided at its commit; none: it will be refused.
    leasing: Option<(Taken, Option<Vec<bool>>)>,
    /// Committed, and not heard of by the planner.
    settling: Vec<(TaskRef, End)>,
    /// Requests, with the time they leave.
    sent: Vec<(Arc<str>, i64)>,
    /// Epochs of attempts whose task was queued anew meanwhile: their results are stale.
    stolen: BTreeSet<u64>,
    pub now: i64,
    epoch: u64,
    /// The window is large enough to hold everything: strict order can be checked.
    checks_order: bool,
}

impl World {
    pub fn new(options: Options, checks_order: bool) -> Self {
        let planner = planner(&options, Controls::default());
        let hosts = HostTable::new(Rules::new(&options));
        Self {
            options,
            queue: Queue::default(),
            planner,
            hosts,
            controls: Controls::default(),
            running: Vec::new(),
            stock: Vec::new(),
            leasing: None,
            settling: Vec::new(),
            stolen: BTreeSet::new(),
            sent: Vec::new(),
            now: 1_000,
            epoch: 0,
            checks_order,
        }
    }

    pub fn turn(&mut self) {
        self.begin(false);
        self.answer();
    }

    fn begin(&mut self, refused: bool) {
        self.hosts.expire(self.now);
        self.start();
        for round in 0.. {
            let reads = self.planner.wanted(&self.hosts, self.now);
            if reads.is_empty() {
                break;
            }
            assert!(round < 1_000, "reads for ever: {reads:?}");
            let fetched = self.queue.fetch(&reads);
            self.planner.absorb(fetched, &self.hosts, self.now);
        }
        if self.leasing.is_some() {
            return;
        }
        let is_shut = |host: &&str| self.hosts.is_shut(&format!("{host}:80"), self.now);
        let shut: BTreeSet<String> =
            HOSTS.iter().filter(|host| is_shut(host)).map(|host| format!("{host}:80")).collect();
        let Some(taken) = self.planner.choose(&mut self.hosts, self.now) else { return };
        self.check_picks(&taken, &shut);
        let picks: Vec<_> = taken.picks.iter().map(|pick| (pick.task, pick.from)).collect();
        let had = (!refused).then(|| self.queue.lease(&picks, &taken.spent));
        self.leasing = Some((taken, had));
    }

    fn answer(&mut self) {
        let Some((taken, had)) = self.leasing.take() else { return };
        let Some(had) = had else {
            self.planner.lease_refused(taken, &mut self.hosts, self.now);
            return;
        };
        self.planner.lease_answered();
        for (pick, had) in taken.picks.into_iter().zip(had) {
            if !had {
                if let Some(host) = &pick.lane.host {
                    self.hosts.unreserve(host);
                    self.hosts.release(host);
                }
                self.planner.not_had(pick.task);
                continue;
            }
            self.epoch += 1;
            let lease = Lease { task: pick.task, epoch: self.epoch, attempt: 1, tried: Tried::default() };
            self.stock.push((pick.task, self.epoch, pick.lane.host.clone()));
            self.planner.had(pick, lease, self.now);
        }
        self.start();
    }

    /// As many of the leased tasks start as there are places for.
    fn start(&mut self) {
        self.give_back(false);
        while let Some(Ahead { candidate, lease, .. }) = self.planner.start_next() {
            self.stock.remove(0);
            if let Some(host) = &candidate.lane.host {
                self.send(host);
            }
            self.running.push((self.attempted(&candidate, lease), candidate.lane.host.clone()));
        }
        self.check_limits();
    }

    fn attempted(&self, candidate: &Candidate, lease: Lease) -> Attempted {
        Attempted {
            lease,
            job: candidate.job.clone(),
            lane: candidate.lane.clone(),
            resource_id: String::new(),
            started_at_ms: self.now,
        }
    }

    /// Leased tasks that do not start go back into the queue.
    fn give_back(&mut self, all: bool) {
        while let Some(Ahead { candidate, lease, .. }) = self.planner.give_back(all, self.now) {
            self.stock.remove(0);
            if let Some(host) = &candidate.lane.host {
                self.hosts.unreserve(host);
                self.hosts.release(host);
            }
            let attempted = self.attempted(&candidate, lease);
            self.settle(&attempted, Outcome::Released);
        }
    }

    /// The attempt's first request leaves, or would have to wait: it is not sent then.
    fn send(&mut self, host: &Arc<str>) {
        if let Entry::Go { at_ms } = self.hosts.enter(host, Standing::Picked, self.now) {
            self.sent.push((host.clone(), at_ms));
        } else {
            self.hosts.unreserve(host);
        }
    }

    fn check_rate(&self) {
        let rate = self.options.per_host_per_second;
        for host in HOSTS.map(|host| format!("{host}:80")) {
            let sent: Vec<i64> = self.sent.iter().filter(|(at, _)| **at == *host).map(|(_, at)| *at).collect();
            for (i, first) in sent.iter().enumerate().filter(|_| rate > 0.0) {
                for (n, last) in (1u32..).zip(&sent[i..]) {
                    #[expect(clippy::cast_precision_loss, reason = "minutes in milliseconds: exact")]
                    let most = f64::from(self.options.per_host_burst) + rate * (last - first) as f64 / 1e3;
                    assert!(f64::from(n) <= most + 1e-6, "{n} requests to {host} in {} ms", last - first);
                }
            }
        }
    }

    fn check_limits(&self) {
        assert!(self.running.len() <= self.options.in_flight as usize, "more run than allowed");
        let mut per_host: HashMap<&str, u32> = HashMap::new();
        let mut tasks = BTreeSet::new();
        let mut per_job: HashMap<JobId, u32> = HashMap::new();
        for (attempted, host) in &self.running {
            assert!(tasks.insert(attempted.lease.task), "{} runs twice", attempted.lease.task);
            if let Some(host) = host {
                *per_host.entry(host).or_default() += 1;
                *per_job.entry(attempted.lease.task.job).or_default() += 1;
            }
        }
        let leasing = self.leasing.iter().flat_map(|(taken, _)| taken.picks.iter().map(|pick| &pick.lane.host));
        for host in self.stock.iter().map(|(_, _, host)| host).chain(leasing).flatten() {
            *per_host.entry(host).or_default() += 1;
        }
        for (job, n) in per_job {
            let most = self.queue.plan(job).parallel_max;
            assert!(most == 0 || n <= most, "{n} of job {job} run");
        }
        for (host, n) in per_host {
            assert!(n <= self.options.per_host, "{n} at {host}");
            assert_eq!(n, self.hosts.in_use(host), "places at {host} leak");
        }
    }

    fn check_picks(&self, taken: &Taken, shut: &BTreeSet<String>) {
        for pick in &taken.picks {
            assert!(!self.controls.paused, "picked while everything is paused");
            assert!(!self.controls.paused_job_types.contains(&pick.lane.job_type), "picked a paused type");
            if let Some(host) = &pick.lane.host {
                assert!(!self.controls.paused_hosts.contains(&**host), "picked a paused host");
                assert!(!shut.contains(&**host), "picked a host that asked for a pause or is dead");
            }
            assert!(self.running.iter().all(|(a, _)| a.lease.task != pick.task), "picked a running task");
            assert!(self.stock.iter().all(|(task, _, _)| *task != pick.task), "picked a leased task");
        }
        if self.checks_order {
            self.check_order(taken);
        }
    }

    /// Within a class, each pick comes after all older tasks of its own lane, and nobody waits without reason.
    fn check_order(&self, taken: &Taken) {
        let picked: BTreeSet<TaskRef> = taken.picks.iter().map(|pick| pick.task).collect();
        for pick in &taken.picks {
            for (&task, state) in &self.queue.states {
                let could_start = match state {
                    State::Ready => true,
                    State::Due(at) => *at <= self.now,
                    State::Leased | State::Done => false,
                };
                let plan = self.queue.plan(task.job);
                let older = plan.priority == pick.job.priority && Order::of(task) < Order::of(pick.task);
                // Its earlier attempt is still known to the planner: it runs, stolen, or its end was not heard of.
                let is_unheard = self.settling.iter().any(|(settling, _)| *settling == task)
                    || self.running.iter().any(|(attempted, _)| attempted.lease.task == task)
                    || self.stock.iter().any(|(stocked, _, _)| *stocked == task);
                if !could_start || !older || is_unheard || picked.contains(&task) {
                    continue;
                }
                let lane = lane_of(&plan, task);
                assert_ne!(&lane, &*pick.lane, "{} overtook {task} of its own lane", pick.task);
            }
        }
    }

    pub fn end(&mut self, which: usize, how: u8) {
        self.commit(which, how);
        self.hear();
    }

    fn hear(&mut self) {
        for (task, end) in self.settling.drain(..) {
            self.planner.settled(task, &end);
        }
    }

    fn commit(&mut self, which: usize, how: u8) {
        if self.running.is_empty() {
            return;
        }
        let (attempted, host) = self.running.swap_remove(which % self.running.len());
        if let Some(host) = host {
            self.hosts.heard(&host, !how.is_multiple_of(8), self.now);
            self.hosts.release(&host);
        }
        let fail = |code| Outcome::Failed { failure: Failure::new(code, "x"), retry_after: None };
        let outcome = match how % 8 {
            0 => fail(FailureCode::DownloadServerError),
            1 => fail(FailureCode::StorageUnavailable),
            2 => Outcome::Released,
            3 => fail(FailureCode::DownloadThrottled),
            4 => fail(FailureCode::DownloadNotFound),
            _ => Outcome::Stored(Box::default()),
        };
        self.settle(&attempted, outcome);
    }

    fn settle(&mut self, attempted: &Attempted, outcome: Outcome) {
        let settlement = self.planner.ended(attempted, outcome, self.now, 0.5);
        if !self.stolen.remove(&settlement.epoch) {
            self.queue.settle(settlement.task, &settlement.end);
        }
        self.settling.push((settlement.task, settlement.end));
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Submit { tenant, parallel_max, priority, hosts, job_type } => {
                let priority = [Priority::High, Priority::Normal, Priority::Low][usize::from(*priority) % 3];
                let job_type = TYPES[usize::from(*job_type) % TYPES.len()];
                let parallel_max = u32::from(parallel_max % 4);
                self.queue.submit_for(usize::from(*tenant), parallel_max, priority, hosts, job_type, self.now);
                self.tell();
            }
            Event::Later(ms) => self.now += i64::from(*ms),
            Event::Turn => self.begin(false),
            Event::Answer { refused } => {
                self.answer();
                if *refused {
                    self.begin(true);
                }
            }
            Event::End { which, how } => self.commit(usize::from(*which), *how),
            Event::Settled => self.hear(),
            Event::Requeue { which } => self.requeue(usize::from(*which)),
            Event::Throttle { host, ms } => {
                let host = host_of(&format!("http://{}/", HOSTS[usize::from(*host) % HOSTS.len()]));
                self.hosts.pause(&host.as_str().into(), self.now + i64::from(*ms));
            }
            Event::Heard { host, is_well } => {
                let host = host_of(&format!("http://{}/", HOSTS[usize::from(*host) % HOSTS.len()]));
                self.hosts.heard(&host.as_str().into(), *is_well, self.now);
            }
            Event::Control(n) => {
                let host = host_of(&format!("http://{}/", HOSTS[usize::from(*n) % HOSTS.len()]));
                let job_type = JobType::parse(TYPES[usize::from(*n) % TYPES.len()]).unwrap();
                let change = match n / 8 % 6 {
                    0 => ControlChange::Pause,
                    1 => ControlChange::PauseHost(host),
                    2 => ControlChange::PauseJobType(job_type),
                    3 => ControlChange::ResumeHost(host),
                    4 => ControlChange::ResumeJobType(job_type),
                    _ => ControlChange::Resume,
                };
                self.control(&change);
            }
            Event::Restart => {
                self.running.clear();
                self.stock.clear();
                self.leasing = None;
                self.settling.clear();
                self.stolen.clear();
                // A rate's past is not kept over a restart.
                self.check_rate();
                self.sent.clear();
                self.queue.void(self.now);
                self.planner = planner(&self.options, self.controls.clone());
                self.hosts = HostTable::new(Rules::new(&self.options));
            }
        }
    }

    /// The planner hears of new rows.
    pub fn tell(&mut self) {
        self.planner.ready_changed(&std::mem::take(&mut self.queue.news));
    }

    fn requeue(&mut self, which: usize) {
        let leasing: BTreeSet<TaskRef> =
            self.leasing.iter().flat_map(|(taken, _)| taken.picks.iter().map(|pick| pick.task)).collect();
        let open: Vec<TaskRef> = self
            .queue
            .states
            .iter()
            // One that is in a lease call has no epoch here yet: canceling it is a test of its own.
            .filter(|(task, state)| **state != State::Done && !leasing.contains(task))
            .map(|(task, _)| *task)
            .collect();
        let Some(task) = open.get(which % open.len().max(1)) else { return };
        let running = self.running.iter().map(|(attempted, _)| (attempted.lease.task, attempted.lease.epoch));
        let leased = running.chain(self.stock.iter().map(|(task, epoch, _)| (*task, *epoch)));
        self.stolen.extend(leased.filter(|(leased, _)| leased == task).map(|(_, epoch)| epoch));
        self.queue.states.insert(*task, State::Due(self.now));
        self.planner.due_changed(self.now);
    }

    pub fn control(&mut self, change: &ControlChange) {
        self.controls = self.controls.clone().after(change);
        self.planner.controls_changed(self.controls.clone());
        self.give_back(true);
    }

    /// Everything is let go: all that was ever submitted must come to its end.
    pub fn finish(&mut self) {
        self.control(&ControlChange::Resume);
        self.tell();
        self.answer();
        self.hear();
        for round in 0.. {
            self.turn();
            while !self.running.is_empty() {
                self.end(0, 7);
            }
            self.hear();
            if self.queue.is_done() {
                break;
            }
            self.now = self.planner.next_look_ms(&self.hosts, self.now).unwrap_or(self.now);
            assert!(round < 5_000, "some tasks never start: {:?}", self.queue.states);
        }
        self.turn();
        self.check_rate();
        assert!(self.queue.rows.is_empty(), "rows stay behind: {:?}", self.queue.rows);
        assert_eq!(self.planner.held(), 0);
    }
}

/// A small window goes with so little put aside that the bound is met.
fn planner(options: &Options, controls: Controls) -> Planner {
    let planner = Planner::new(options, controls);
    if options.window_tasks < 20 { planner.bound_aside(options.window_tasks as usize) } else { planner }
}

pub(super) fn lane_of(plan: &Plan, task: TaskRef) -> Lane {
    let spec = plan.tasks.get(usize::from(task.index.0));
    Lane {
        host: spec.map(|spec| host_of(&spec.url).as_str().into()),
        tenant: TenantKey::of(&plan.tenant),
        job_type: plan.job_type.clone(),
        own: (plan.parallel_max > 0 && spec.is_some()).then_some((plan.job, plan.parallel_max)),
    }
}

pub(super) fn options(in_flight: u32, per_host: u32, window_tasks: u32) -> Options {
    Options { in_flight, per_host, window_tasks, ..Options::default() }
}

proptest! {
    #[test]
    fn whatever_happens_no_task_is_lost_and_no_limit_is_passed(
        events in events(), in_flight in 1u32..6, per_host in 1u32..4, window_tasks in 1u32..40, rate in 0u32..3,
    ) {
        let options = Options {
            per_host_per_second: [0.0, 2.0, 50.0][rate as usize], breaker_failures: 3, ..options(in_flight, per_host, window_tasks)
        };
        let mut world = World::new(options, false);
        for event in &events {
            world.apply(event);
        }
        world.finish();
    }

    #[test]
    fn within_a_class_and_a_host_no_tenants_task_overtakes_an_older_one(events in events(), in_flight in 1u32..6, per_host in 1u32..4) {
        let mut world = World::new(options(in_flight, per_host, 100_000), true);
        for event in &events {
            world.apply(event);
        }
        world.finish();
    }
}

#[test]
fn while_storage_is_parked_one_probe_at_a_time_asks() {
    let mut world = World::new(options(8, 8, 300), false);
    world.queue.submit(Priority::Normal, &[0, 1, 2, 3, 0, 1, 2, 3], "x", 0);
    world.turn();
    assert_eq!(world.running.len(), 8);
    while !world.running.is_empty() {
        world.end(0, 1);
    }
    for _ in 0..5 {
        world.turn();
        assert_eq!(world.running.len(), 0, "storage was asked before its time");
        world.now = world.planner.next_look_ms(&world.hosts, world.now).unwrap();
        world.turn();
        world.turn();
        assert_eq!(world.running.len(), 1);
        world.end(0, 1);
    }
    assert!(world.planner.alarm().contains("STORAGE_UNAVAILABLE"));
    world.now += 60_000;
    world.turn();
    world.end(0, 7);
    world.turn();
    assert_eq!(world.running.len(), 8, "all go on at the first success");
    world.finish();
}

#[test]
fn a_row_read_again_while_its_last_task_is_in_a_refused_lease_call_is_not_deleted() {
    let mut world = World::new(options(1, 1, 6), false);
    world.queue.submit(Priority::Normal, &[0, 0], "x", 0);
    world.turn();
    world.end(0, 7);
    // One of host a is held, the other aside. The held one goes into a call that will be refused …
    world.begin(true);
    let job = world.queue.jobs[0].job;
    // … and the other leaves the row meanwhile, so that the row, read again, has nothing left to hold.
    world.queue.states.insert(TaskRef { job, index: TaskIndex(1) }, State::Due(world.now));
    world.planner.due_changed(world.now);
    world.begin(false);
    world.answer();
    // With the host shut, the next call has no picks, only spent rows: this one must not be among them.
    world.hosts.pause(&"a:80".into(), world.now + 1_000);
    world.turn();
    world.finish();
}
