//! The loop that owns the dispatcher's state: wait for one event, apply it, act.
//!
//! A call to the store and all attempts run beside each other; the loop waits for whichever ends first. It never waits for a
//! commit or an attempt alone. Must not know: what is decided (`plan`), how effects are done (`effects`).

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::calls::{Called, call, void_leases};
use super::effects::{Effects, Start};
use super::gate::{AttemptGate, Hosts};
use super::handle::Board;
use super::inbox::Inbox;
use super::lane::Candidate;
use super::leases::Leases;
use super::plan::Planner;
use super::settle::{Attempted, panicked, tell};
use super::stock::Ahead;
use super::wait::{changed, gauge, or_never, panic_text};
use super::window::Taken;
use super::{Options, is_busy, pause_of, tally};
use crate::clock::{Clock, random_unit};
use crate::model::{Refusal, RefusalCode};
use crate::store::{Lease, Settled, Settlement};
use crate::telemetry::Metrics;
use crate::worker::Outcome;

/// The loop turns at least this often, so that health can tell a quiet dispatcher from one that hangs.
const TURN_MAX: Duration = Duration::from_secs(1);
/// Reads of one turn: between turns results are collected.
const READS_PER_TURN: usize = 4;
/// From one call's beginning to the next while attempts are quick and half of the places are taken: a sync costs as much as an
/// attempt, and serves many as well as one.
const CALL_PAUSE_MS: i64 = 2;
/// After a read failed.
const READ_PAUSE_MS: i64 = 1_000;
/// Damaged things told apart in the log.
const UNREADABLE_MAX: usize = 10_000;
/// What stopped attempts may take to notice.
const STOPPED_GRACE: Duration = Duration::from_secs(2);

pub(super) struct Shared {
    pub clock: Clock,
    pub metrics: Metrics,
    pub inbox: Arc<Inbox>,
    pub leases: Arc<Leases>,
    pub board: Arc<Board>,
    pub hosts: Arc<Hosts>,
}

pub(super) struct Engine<E> {
    options: Options,
    effects: Arc<E>,
    shared: Shared,
    hosts: Arc<Hosts>,
    planner: Planner,
    stage: Stage,
    attempts: JoinSet<Outcome>,
    running: HashMap<Id, Attempted>,
    stop_attempts: CancellationToken,
    /// At most one is under way: results go out, leases come in.
    call: Option<BoxFuture<'static, Called>>,
    /// Results that wait for the next call: as many at most as ran or were leased ahead, for each call takes all of them.
    results: Vec<Settlement>,
    /// When the latest call began.
    called_at_ms: i64,
    work: Option<watch::Receiver<u64>>,
    deadline: Option<Pin<Box<Sleep>>>,
    read_again_ms: i64,
    /// The last turn left reads for the next.
    is_behind: bool,
    lag_at_ms: i64,
    /// What of the queue could not be read.
    unreadable: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Serving,
    /// Nothing new starts; attempts may end by themselves.
    Finishing,
    /// Attempts were told to stop.
    Stopping,
    /// Attempts that did not listen were dropped.
    Dropped,
}

enum Event {
    Called(Called),
    Ended(Result<(Id, Outcome), JoinError>),
    Work(bool),
    Stop,
    Deadline,
    /// Somebody rang, or it is time to look.
    Look,
}

impl<E: Effects> Engine<E> {
    pub fn new(options: Options, effects: E, shared: Shared) -> Self {
        Self {
            hosts: shared.hosts.clone(),
            planner: Planner::new(&options, crate::model::Controls::default()),
            options,
            effects: Arc::new(effects),
            shared,
            stage: Stage::Serving,
            attempts: JoinSet::new(),
            running: HashMap::new(),
            stop_attempts: CancellationToken::new(),
            call: None,
            results: Vec::new(),
            called_at_ms: i64::MIN,
            work: None,
            deadline: None,
            read_again_ms: 0,
            is_behind: false,
            lag_at_ms: 0,
            unreadable: BTreeSet::new(),
        }
    }

    pub async fn run(mut self, stop: CancellationToken, stop_grace: Duration) -> Result<(), Refusal> {
        let ready = self.shared.metrics.service_ready.with_label_values(&["dispatcher"]);
        let ended = match self.boot(&stop).await {
            Ok(()) => {
                ready.set(1);
                self.serve(&stop, stop_grace).await
            }
            Err(refusal) => Err(refusal),
        };
        ready.set(0);
        if let Err(refusal) = &ended {
            tracing::error!(%refusal, "the dispatcher stops: the store does not serve");
            self.stop_attempts.cancel();
            // What these attempts have done is found at the next start.
            self.attempts.shutdown().await;
        }
        self.publish(true);
        ended
    }

    async fn boot(&mut self, stop: &CancellationToken) -> Result<(), Refusal> {
        void_leases(self.effects.as_ref(), &self.shared.clock, self.options.interrupted_max, stop).await?;
        self.work = Some(self.effects.work());
        self.planner.controls_changed(self.effects.controls());
        Ok(())
    }

    async fn serve(&mut self, stop: &CancellationToken, stop_grace: Duration) -> Result<(), Refusal> {
        loop {
            self.turn().await;
            if self.stage != Stage::Serving && self.is_idle() {
                return Ok(());
            }
            let event = self.next(stop).await;
            self.apply(event, stop_grace)?;
            while let Some(ended) = self.attempts.try_join_next_with_id() {
                self.ended(ended);
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.attempts.is_empty() && self.call.is_none() && self.results.is_empty() && self.planner.stocked() == 0
    }

    /// Everything that can be done now without waiting for anybody.
    async fn turn(&mut self) {
        let news = self.shared.inbox.take();
        if news.controls {
            self.planner.controls_changed(self.effects.controls());
            self.give_back(true);
        }
        if let Some(at_ms) = news.due_at_ms {
            self.planner.due_changed(at_ms);
        }
        let clock = &self.shared.clock;
        let now_ms = clock.steady_ms();
        self.planner.wall_is_ahead(clock.now_ms().saturating_sub(now_ms));
        self.hosts.table().expire(now_ms);
        let is_serving = self.stage == Stage::Serving;
        self.give_back(!is_serving);
        if is_serving {
            while let Some(next) = self.planner.start_next() {
                self.start(next);
            }
            self.refill().await;
        }
        self.start_call(is_serving);
        self.publish(false);
    }

    async fn refill(&mut self) {
        let now_ms = self.shared.clock.steady_ms();
        self.is_behind = false;
        if now_ms < self.read_again_ms {
            return;
        }
        for _ in 0..READS_PER_TURN {
            let reads = self.planner.wanted(&self.hosts.table(), now_ms);
            if reads.is_empty() {
                return;
            }
            let (mut fetched, trouble) = self.effects.read(reads).await;
            self.passed_over(std::mem::take(&mut fetched.damaged));
            self.planner.absorb(fetched, &self.hosts.table(), now_ms);
            if let Some(refusal) = trouble {
                tracing::error!(%refusal, "part of the queue cannot be read");
                self.read_again_ms = now_ms.saturating_add(READ_PAUSE_MS);
                return;
            }
        }
        self.is_behind = true;
    }

    /// What is damaged stands in nobody's way, and is told of once.
    fn passed_over(&mut self, damaged: Vec<Refusal>) {
        for refusal in damaged {
            if self.unreadable.len() < UNREADABLE_MAX && self.unreadable.insert(refusal.message.clone()) {
                tracing::error!(%refusal, "something in the queue cannot be read and is passed over: run `fetchbox check`");
            }
        }
    }

    fn start_call(&mut self, is_serving: bool) {
        let now_ms = self.shared.clock.steady_ms();
        if self.call.is_some() || self.call_from_ms(now_ms) > now_ms {
            return;
        }
        let taken = if is_serving { self.planner.choose(&mut self.hosts.table(), now_ms) } else { None };
        if taken.is_none() && self.results.is_empty() {
            return;
        }
        let taken = taken.unwrap_or_default();
        for pick in &taken.picks {
            self.shared.leases.leasing(pick.task);
        }
        let batch = std::mem::take(&mut self.results);
        self.called_at_ms = now_ms;
        let now_ms = self.shared.clock.now_ms();
        let until_ms = now_ms.saturating_add_unsigned(self.options.lease_ms);
        self.call = Some(Box::pin(call(self.effects.clone(), batch, taken, now_ms, until_ms)));
    }

    /// The earliest time for the next call.
    fn call_from_ms(&self, now_ms: i64) -> i64 {
        if self.stage == Stage::Serving && self.planner.is_quick(now_ms) {
            self.called_at_ms.saturating_add(CALL_PAUSE_MS)
        } else {
            now_ms
        }
    }

    async fn next(&mut self, stop: &CancellationToken) -> Event {
        let look = self.look_in();
        let wants_news = self.stage == Stage::Serving && self.planner.wants_news(self.shared.clock.steady_ms());
        let is_serving = self.stage == Stage::Serving;
        tokio::select! {
            called = or_never(&mut self.call) => Event::Called(called),
            Some(ended) = self.attempts.join_next_with_id() => Event::Ended(ended),
            is_open = changed(&mut self.work), if wants_news => Event::Work(is_open),
            () = stop.cancelled(), if is_serving => Event::Stop,
            () = or_never(&mut self.deadline) => Event::Deadline,
            () = self.shared.inbox.rung() => Event::Look,
            () = tokio::time::sleep(look) => Event::Look,
        }
    }

    fn look_in(&self) -> Duration {
        if self.stage != Stage::Serving {
            return TURN_MAX;
        }
        if self.is_behind {
            return Duration::ZERO;
        }
        let now_ms = self.shared.clock.steady_ms();
        let next = self.planner.next_look_ms(&self.hosts.table(), now_ms);
        let call = Some(self.call_from_ms(now_ms)).filter(|at| self.call.is_none() && *at > now_ms);
        let next = next.into_iter().chain(call).min();
        let next = next.map(|at| Duration::from_millis(at.saturating_sub(now_ms).max(1).unsigned_abs()));
        next.map_or(TURN_MAX, |next| next.min(TURN_MAX))
    }

    fn apply(&mut self, event: Event, stop_grace: Duration) -> Result<(), Refusal> {
        match event {
            Event::Called(Called { leased: (taken, answer), settled }) => {
                self.call = None;
                for (settlement, settled) in settled? {
                    self.settled(&settlement, &settled);
                }
                self.leased(taken, answer)
            }
            Event::Ended(ended) => {
                self.ended(ended);
                Ok(())
            }
            Event::Work(true) => {
                self.planner.ready_changed(&self.effects.ready_news());
                Ok(())
            }
            Event::Work(false) => {
                self.work = None;
                Err(Refusal::new(RefusalCode::Unavailable, "the store has stopped"))
            }
            Event::Stop => {
                self.stage = Stage::Finishing;
                self.deadline = Some(Box::pin(tokio::time::sleep(stop_grace)));
                Ok(())
            }
            Event::Deadline => {
                self.deadline_passed();
                Ok(())
            }
            Event::Look => Ok(()),
        }
    }

    fn deadline_passed(&mut self) {
        self.deadline = None;
        match self.stage {
            Stage::Serving | Stage::Dropped => {}
            Stage::Finishing => {
                self.stage = Stage::Stopping;
                self.stop_attempts.cancel();
                self.deadline = Some(Box::pin(tokio::time::sleep(STOPPED_GRACE)));
            }
            Stage::Stopping => {
                self.stage = Stage::Dropped;
                tracing::warn!(attempts = self.attempts.len(), "attempts did not stop in time and are dropped");
                self.attempts.abort_all();
            }
        }
    }

    fn leased(&mut self, taken: Taken, answer: Result<Vec<Option<Lease>>, Refusal>) -> Result<(), Refusal> {
        let leases = match answer {
            Ok(leases) => leases,
            Err(refusal) if is_busy(&refusal) => {
                for pick in &taken.picks {
                    self.shared.leases.ended(pick.task);
                }
                let wait = i64::try_from(pause_of(&refusal).as_millis()).unwrap_or(READ_PAUSE_MS);
                let retry_at_ms = self.shared.clock.steady_ms().saturating_add(wait);
                self.planner.lease_refused(taken, &mut self.hosts.table(), retry_at_ms);
                return Ok(());
            }
            Err(refusal) => return Err(refusal),
        };
        self.planner.lease_answered();
        let now_ms = self.shared.clock.steady_ms();
        let mut leases = leases.into_iter();
        for pick in taken.picks {
            match leases.next().flatten() {
                Some(lease) => self.planner.had(pick, lease, now_ms),
                None => {
                    self.shared.leases.ended(pick.task);
                    if let Some(host) = &pick.lane.host {
                        self.hosts.cancel(host);
                    }
                    self.planner.not_had(pick.task);
                }
            }
        }
        Ok(())
    }

    /// Leased tasks that will not start, or have waited for too long: they are queued again at once, and nothing counts.
    fn give_back(&mut self, all: bool) {
        let now_ms = self.shared.clock.steady_ms();
        while let Some(Ahead { candidate, lease, .. }) = self.planner.give_back(all, now_ms) {
            drop(AttemptGate::holding(self.hosts.clone(), candidate.lane.host.clone()));
            let attempted = self.attempted(&candidate, lease);
            self.results.push(self.planner.given_back(&attempted, self.shared.clock.now_ms()));
        }
    }

    fn attempted(&self, candidate: &Candidate, lease: Lease) -> Attempted {
        Attempted {
            lease,
            job: candidate.job.clone(),
            lane: candidate.lane.clone(),
            resource_id: candidate.spec.as_ref().map_or_else(String::new, |spec| spec.resource_id.clone()),
            started_at_ms: self.shared.clock.now_ms(),
        }
    }

    fn start(&mut self, Ahead { candidate, lease, .. }: Ahead) {
        let attempted = self.attempted(&candidate, lease);
        let gate = AttemptGate::holding(self.hosts.clone(), candidate.lane.host.clone());
        let stop = self.stop_attempts.child_token();
        self.shared.leases.running(lease.task, lease.epoch, stop.clone());
        let span = tracing::info_span!(
            "attempt",
            job_id = %lease.task.job,
            task_id = %lease.task,
            attempt = lease.attempt,
            resource = %attempted.resource_id,
            host = candidate.lane.host.as_deref().unwrap_or_default(),
            trace_id = %candidate.job.trace_id,
        );
        let attempt = self.effects.clone().attempt(Start { candidate, lease, gate, stop });
        // Boxed: it has several KiB, and spawning moves what it is given some ten times.
        let id = self.attempts.spawn(Box::pin(attempt.instrument(span))).id();
        self.running.insert(id, attempted);
    }

    fn ended(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let (id, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let id = error.id();
                match error.try_into_panic() {
                    Ok(panic) => {
                        let what = panic_text(panic.as_ref());
                        tracing::error!(what, "an attempt panicked");
                        (id, panicked(what))
                    }
                    Err(_) => (id, Outcome::Released),
                }
            }
        };
        if let Some(attempted) = self.running.remove(&id) {
            self.result(&attempted, outcome);
        }
    }

    fn result(&mut self, attempted: &Attempted, outcome: Outcome) {
        let was_parked = !self.planner.alarm().is_empty();
        let settlement = self.planner.ended(attempted, outcome, self.shared.clock.now_ms(), random_unit());
        match (was_parked, self.planner.alarm()) {
            (true, "") => tracing::info!("the object store takes objects again"),
            (false, alarm) if !alarm.is_empty() => tracing::error!(alarm, "the object store takes nothing: tasks wait"),
            (true | false, _) => {}
        }
        let is_parked = !was_parked && !self.planner.alarm().is_empty();
        self.results.push(settlement);
        if is_parked {
            self.give_back(true);
        }
    }

    fn settled(&mut self, settlement: &Settlement, settled: &Settled) {
        self.shared.leases.ended(settlement.task);
        self.planner.settled(settlement.task, &settlement.end);
        match settled {
            Settled::Applied { ended } => {
                tally::count(&self.shared.metrics, settlement);
                tell(settlement);
                if ended.is_some() {
                    self.effects.job_ended(settlement.task.job);
                }
            }
            Settled::Stale => tracing::debug!(task = %settlement.task, "a result came too late and changed nothing"),
        }
    }

    fn publish(&mut self, is_last: bool) {
        let (now_ms, wall_ms) = (self.shared.clock.steady_ms(), self.shared.clock.now_ms());
        let metrics = &self.shared.metrics;
        metrics.storage_parked.set(i64::from(!self.planner.alarm().is_empty()));
        metrics.worker_busy.set(gauge(self.planner.busy()));
        metrics.tasks_inflight.set(gauge(self.planner.running()));
        // These look at each lane and host: once a second is enough.
        let slow = (is_last || now_ms.saturating_sub(self.lag_at_ms) >= 1_000).then(|| {
            self.lag_at_ms = now_ms;
            let depths = self.effects.depths();
            metrics.queue_depth.set(i64::try_from(depths.waiting).unwrap_or(i64::MAX));
            metrics.dlq_size.set(i64::try_from(depths.dead_letters).unwrap_or(i64::MAX));
            let hosts = self.hosts.table();
            let (paused, down) = hosts.counts(now_ms);
            metrics.hosts_paused.set(i64::try_from(paused).unwrap_or(i64::MAX));
            metrics.breakers_open.set(i64::try_from(down).unwrap_or(i64::MAX));
            (self.planner.lag_ms(&hosts, now_ms), paused, down)
        });
        self.shared.board.write(|status| {
            status.in_flight = self.planner.running() as u64;
            status.last_turn_ms = wall_ms;
            if status.storage_alarm != self.planner.alarm() {
                self.planner.alarm().clone_into(&mut status.storage_alarm);
            }
            status.unreadable = self.unreadable.len() as u64;
            if let Some((lag_ms, paused, down)) = slow {
                (status.lag_ms, status.hosts_paused, status.hosts_down) = (lag_ms, paused, down);
            }
        });
    }
}
