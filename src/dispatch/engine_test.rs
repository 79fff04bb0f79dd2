//! The loop against a naive queue: what happens when attempts panic, hang or race with a stop, and when the store refuses.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::Options;
use super::effects::{Depths, Effects, Start};
use super::engine::{Engine, Shared};
use super::gate::Hosts;
use super::handle::Board;
use super::inbox::Inbox;
use super::leases::Leases;
use super::limits::Rules;
use super::model_queue::{Queue, State};
use super::reads::{Fetched, Reads};
use crate::clock::Clock;
use crate::model::{Controls, JobId, JobState, Priority, Refusal, RefusalCode};
use crate::store::{End, Lease, LeaseWant, QueueKey, ReadyNews, Settled, Settlement, Tried, Turned};
use crate::telemetry::Metrics;
use crate::worker::Outcome;

/// What attempts do, by host: `a` stores, `b` panics, `c` waits to be stopped, `d` does not even listen.
struct Fake {
    queue: Mutex<Queue>,
    controls: Mutex<Controls>,
    work: watch::Sender<u64>,
    epochs: AtomicU64,
    attempts: Mutex<std::collections::HashMap<crate::model::TaskRef, u32>>,
    /// Lease and settle calls that are refused as busy first.
    busy: AtomicU32,
    is_down: std::sync::atomic::AtomicBool,
    /// Settle calls wait for a permit.
    settles: Semaphore,
    ends: Mutex<Vec<End>>,
    settle_calls: AtomicU32,
    started: watch::Sender<u64>,
    job_ends: AtomicU32,
}

#[derive(Clone)]
struct Handle(Arc<Fake>);

impl Fake {
    fn refusal(&self) -> Result<(), Refusal> {
        if self.is_down.load(Ordering::Relaxed) {
            return Err(Refusal::new(RefusalCode::Unavailable, "the journal could not be synced"));
        }
        let busy = self.busy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if busy.is_ok() { Err(Refusal::new(RefusalCode::RateLimited, "busy")) } else { Ok(()) }
    }

    fn submit(&self, hosts: &[u8]) {
        self.queue.lock().unwrap().submit(Priority::Normal, hosts, "x", 0);
        self.work.send_modify(|tick| *tick += 1);
    }
}

impl Effects for Handle {
    async fn void_leases(&self, now_ms: i64, _: u32) -> Result<u64, Refusal> {
        self.0.queue.lock().unwrap().void(now_ms);
        Ok(0)
    }

    async fn read(&self, reads: Reads) -> (Fetched, Option<Refusal>) {
        (self.0.queue.lock().unwrap().fetch(&reads), None)
    }

    async fn settle_and_lease(
        &self,
        settlements: Vec<Settlement>,
        wants: Vec<LeaseWant>,
        spent: Vec<QueueKey>,
        _: i64,
    ) -> Turned {
        let settled = if settlements.is_empty() { Ok(Vec::new()) } else { self.settle(settlements).await };
        Turned { settled, leased: self.lease(&wants, &spent) }
    }

    async fn attempt(self: Arc<Self>, start: Start) -> Outcome {
        self.0.started.send_modify(|started| *started += 1);
        match start.candidate.lane.host.as_deref() {
            Some("b:80") => panic!("a bug"),
            Some("c:80") => {
                start.stop.cancelled().await;
                Outcome::Released
            }
            Some("d:80") => std::future::pending().await,
            Some(_) | None => Outcome::Stored(Box::default()),
        }
    }

    fn controls(&self) -> Controls {
        self.0.controls.lock().unwrap().clone()
    }

    fn work(&self) -> watch::Receiver<u64> {
        self.0.work.subscribe()
    }

    fn ready_news(&self) -> ReadyNews {
        std::mem::take(&mut self.0.queue.lock().unwrap().news)
    }

    fn depths(&self) -> Depths {
        Depths::default()
    }

    fn job_ended(&self, _: JobId) {
        self.0.job_ends.fetch_add(1, Ordering::Relaxed);
    }
}

impl Handle {
    fn lease(&self, wants: &[LeaseWant], spent: &[QueueKey]) -> Result<Vec<Option<Lease>>, Refusal> {
        self.0.refusal()?;
        let picks: Vec<_> = wants.iter().map(|want| (want.task, want.from)).collect();
        let had = self.0.queue.lock().unwrap().lease(&picks, spent);
        let mut attempts = self.0.attempts.lock().unwrap();
        let leases = wants.iter().zip(had).map(|(want, had)| {
            had.then(|| {
                let attempt = attempts.entry(want.task).or_default();
                *attempt += 1;
                Lease {
                    task: want.task,
                    epoch: self.0.epochs.fetch_add(1, Ordering::Relaxed),
                    attempt: *attempt,
                    tried: Tried { downloads: *attempt - 1, ..Tried::default() },
                }
            })
        });
        Ok(leases.collect())
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Settled>, Refusal> {
        drop(self.0.settles.acquire().await.unwrap());
        self.0.refusal()?;
        self.0.settle_calls.fetch_add(1, Ordering::Relaxed);
        let mut queue = self.0.queue.lock().unwrap();
        let settled = settlements.into_iter().map(|settlement| {
            queue.settle(settlement.task, &settlement.end);
            self.0.ends.lock().unwrap().push(settlement.end);
            let ended = queue.is_done().then_some(JobState::Completed);
            Settled::Applied { ended }
        });
        Ok(settled.collect())
    }
}

struct Running {
    fake: Arc<Fake>,
    inbox: Arc<Inbox>,
    leases: Arc<Leases>,
    board: Arc<Board>,
    metrics: Metrics,
    stop: CancellationToken,
    run: tokio::task::JoinHandle<Result<(), Refusal>>,
}

fn start(options: Options, grace: Duration, prepare: impl FnOnce(&Fake)) -> Running {
    let fake = Arc::new(Fake {
        queue: Mutex::default(),
        controls: Mutex::default(),
        work: watch::Sender::new(0),
        epochs: AtomicU64::new(1),
        attempts: Mutex::default(),
        busy: AtomicU32::new(0),
        is_down: false.into(),
        settles: Semaphore::new(1),
        ends: Mutex::default(),
        settle_calls: AtomicU32::new(0),
        started: watch::Sender::new(0),
        job_ends: AtomicU32::new(0),
    });
    prepare(&fake);
    let (inbox, leases, board) = (Arc::<Inbox>::default(), Arc::<Leases>::default(), Arc::<Board>::default());
    let metrics = Metrics::new();
    let shared = Shared {
        hosts: Hosts::new(Rules::new(&options), Clock::system(), inbox.clone()),
        clock: Clock::system(),
        metrics: metrics.clone(),
        inbox: inbox.clone(),
        leases: leases.clone(),
        board: board.clone(),
    };
    let stop = CancellationToken::new();
    let engine = Engine::new(options, Handle(fake.clone()), shared);
    let run = tokio::spawn(engine.run(stop.clone(), grace));
    Running { fake, inbox, leases, board, metrics, stop, run }
}

impl Running {
    async fn until(&self, what: &str, is_so: impl Fn(&Fake) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(30), async {
            while !is_so(&self.fake) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("never: {what}; {:?}", self.fake.queue.lock().unwrap().states));
    }

    async fn stopped(self) -> (Arc<Fake>, Result<(), Refusal>) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(30), self.run).await.expect("run returns");
        (self.fake, ended.unwrap())
    }
}

fn quick() -> Options {
    Options { backoff_min_ms: 1, backoff_max_ms: 2, ..Options::default() }
}

fn is_done(fake: &Fake) -> bool {
    fake.queue.lock().unwrap().is_done()
}

#[tokio::test]
async fn jobs_that_come_while_others_run_all_end() {
    let running = start(quick(), Duration::ZERO, |fake| fake.submit(&[0; 50]));
    for _ in 0..50 {
        running.fake.submit(&[0; 20]);
        tokio::task::yield_now().await;
    }
    running.until("all stored", is_done).await;
    let calls = running.fake.settle_calls.load(Ordering::Relaxed);
    let (fake, ended) = running.stopped().await;
    ended.unwrap();
    assert!(fake.job_ends.load(Ordering::Relaxed) > 0);
    assert!(calls < 600, "1,101 results in {calls} calls: they are settled together");
    assert!(fake.queue.lock().unwrap().rows.is_empty(), "rows of ended jobs stay in the queue");
}

#[tokio::test]
async fn a_panic_costs_its_task_and_nobody_else() {
    let running = start(quick(), Duration::ZERO, |fake| fake.submit(&[0, 1, 0, 1, 0]));
    running.until("all ended", is_done).await;
    assert_eq!(running.metrics.tasks_completed.get(), 3);
    assert_eq!(running.metrics.tasks_failed.with_label_values(&["SYSTEM_PANIC"]).get(), 2);
    let (fake, _) = running.stopped().await;
    let dead = fake.ends.lock().unwrap().iter().filter(|end| matches!(end, End::Dead(_))).count();
    assert_eq!(dead, 2);
}

#[tokio::test]
async fn a_stop_settles_everything_also_what_does_not_listen() {
    let running = start(quick(), Duration::from_millis(20), |fake| fake.submit(&[0, 2, 3, 2]));
    running.until("all started", |fake| *fake.started.borrow() >= 5).await;
    assert!(running.board.read().last_turn_ms > 0);
    let (fake, ended) = running.stopped().await;
    ended.unwrap();
    let queue = fake.queue.lock().unwrap();
    assert!(queue.states.values().all(|state| *state != State::Leased), "{:?}", queue.states);
    assert_eq!(queue.states.values().filter(|state| matches!(state, State::Due(_))).count(), 3);
}

#[tokio::test]
async fn a_busy_committer_delays_and_loses_nothing() {
    let running = start(quick(), Duration::ZERO, |fake| {
        fake.busy.store(9, Ordering::Relaxed);
        fake.submit(&[0; 40]);
    });
    running.until("all stored", is_done).await;
    running.stopped().await.1.unwrap();
}

#[tokio::test]
async fn a_store_that_fails_ends_the_run_with_its_reason() {
    let running = start(quick(), Duration::ZERO, |fake| fake.submit(&[2]));
    running.until("started", |fake| *fake.started.borrow() >= 1).await;
    running.fake.is_down.store(true, Ordering::Relaxed);
    running.fake.submit(&[0]);
    let ended = tokio::time::timeout(Duration::from_secs(10), running.run).await.expect("run returns").unwrap();
    assert_eq!(ended.unwrap_err().code, RefusalCode::Unavailable);
    assert_eq!(running.metrics.service_ready.with_label_values(&["dispatcher"]).get(), 0);
}

#[tokio::test]
async fn results_that_wait_for_a_commit_are_few_and_none_is_lost() {
    let options = Options { in_flight: 4, ..quick() };
    let running = start(options, Duration::ZERO, |fake| {
        fake.settles.forget_permits(1);
        fake.submit(&[0; 100]);
    });
    running.until("as many start as fit", |fake| *fake.started.borrow() >= 4).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(*running.fake.started.borrow() <= 6, "no more start than have places or were leased ahead");
    running.fake.settles.add_permits(1);
    running.until("all stored", is_done).await;
    running.stopped().await.1.unwrap();
}

#[tokio::test]
async fn nothing_starts_while_paused_and_everything_after() {
    let running = start(quick(), Duration::ZERO, |fake| {
        fake.controls.lock().unwrap().paused = true;
        fake.submit(&[0; 10]);
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(*running.fake.started.borrow(), 0);
    running.fake.controls.lock().unwrap().paused = false;
    running.inbox.controls_changed();
    running.until("all stored", is_done).await;
    running.stopped().await.1.unwrap();
}

#[tokio::test]
async fn a_canceled_attempt_is_told_to_stop() {
    let running = start(quick(), Duration::from_secs(20), |fake| fake.submit(&[2]));
    running.until("started", |fake| *fake.started.borrow() >= 2).await;
    let task = {
        let queue = running.fake.queue.lock().unwrap();
        *queue.states.iter().find(|(task, _)| !task.is_manifest()).unwrap().0
    };
    running.leases.stop(task);
    running.until("its result is in", |fake| fake.ends.lock().unwrap().len() >= 2).await;
    drop(running.run);
}
