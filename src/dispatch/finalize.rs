//! Finalize hooks: user code that is owed to each job that ended, called at least once, its effect recorded once.
//!
//! Runs beside the loop and never holds it up. What is owed stands in the store: news of ended jobs only saves looking.
//! Must not know: tasks, leases.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::backoff::Policy;
use super::off_thread;
use super::{is_busy, pause_of};
use crate::clock::{Clock, random_unit};
use crate::handler::Registry;
use crate::model::{JobId, LogLevel, NewLog};
use crate::store::{Reader, Store};

/// News of ended jobs that wait; what does not fit is found by the next look.
const NEWS_MAX: usize = 10_000;
/// Hooks that run at once: each ends in a commit that they share.
const HOOKS_MAX: usize = 64;
/// Hooks that failed and wait for their next time.
const WAITING_MAX: usize = 10_000;
const HOOK_TIMEOUT: Duration = Duration::from_secs(30);
/// A job can end by other hands than the dispatcher's; its hook is found by looking.
const LOOK_EVERY_MS: i64 = 60_000;
const LOOK_ROWS: usize = 256;
/// What a hook still may take once the daemon stops.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Where news of ended jobs goes.
#[derive(Clone)]
pub(super) struct Owed(mpsc::Sender<JobId>);

impl Owed {
    pub fn push(&self, job: JobId) {
        // Full: the next look finds it.
        let _ = self.0.try_send(job);
    }
}

pub(super) fn news() -> (Owed, mpsc::Receiver<JobId>) {
    let (sender, receiver) = mpsc::channel(NEWS_MAX);
    (Owed(sender), receiver)
}

pub(super) struct Finalizer {
    pub store: Store,
    pub reader: Reader,
    pub registry: Registry,
    pub clock: Clock,
    pub policy: Policy,
    pub news: mpsc::Receiver<JobId>,
}

/// How a call of a hook ended.
enum Called {
    Done,
    Again(String),
}

#[derive(Default)]
struct State {
    running: JoinSet<Called>,
    jobs: HashMap<Id, JobId>,
    /// Running or waiting: a job's hook does not run twice at once.
    known: HashSet<JobId>,
    waiting: BTreeSet<(i64, JobId)>,
    tries: HashMap<JobId, u32>,
    look: Option<JobId>,
    next_look_ms: i64,
}

impl Finalizer {
    pub async fn run(mut self, stop: CancellationToken) {
        let mut state = State { look: Some(JobId::MIN), ..State::default() };
        loop {
            let now_ms = self.clock.now_ms();
            self.start_waiting(&mut state, now_ms);
            self.look(&mut state, now_ms).await;
            let has_room = state.running.len() < HOOKS_MAX;
            let wait = state.next_ms(has_room).saturating_sub(now_ms).clamp(1, LOOK_EVERY_MS);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = state.running.join_next_with_id() => self.ended(&mut state, ended),
                Some(job) = self.news.recv(), if has_room => self.start(&mut state, job),
                () = tokio::time::sleep(Duration::from_millis(wait.unsigned_abs())) => {}
            }
        }
        let rest = async { while state.running.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_GRACE, rest).await.is_err() {
            tracing::warn!(
                hooks = state.running.len(),
                "finalize hooks did not end in time; they are called again at the next start"
            );
        }
        state.running.shutdown().await;
    }

    /// Reads what is owed, at the start and from time to time.
    async fn look(&self, state: &mut State, now_ms: i64) {
        if state.look.is_none() && now_ms >= state.next_look_ms {
            state.look = Some(JobId::MIN);
        }
        while let Some(after) = state.look
            && state.running.len() < HOOKS_MAX
        {
            let reader = self.reader.clone();
            let read = off_thread(move || reader.owed_after(after, LOOK_ROWS)).await.and_then(|read| read);
            state.next_look_ms = now_ms.saturating_add(LOOK_EVERY_MS);
            let jobs: Vec<JobId> = match read {
                Ok(owed) => owed.into_iter().map(|(job, _)| job).collect(),
                Err(refusal) => {
                    tracing::warn!(%refusal, "owed finalize hooks cannot be read");
                    state.look = None;
                    return;
                }
            };
            state.look = if jobs.len() < LOOK_ROWS { None } else { jobs.last().copied() };
            for job in jobs {
                if state.running.len() >= HOOKS_MAX {
                    // The rest of the page is read again from here.
                    state.look = Some(before(job));
                    break;
                }
                self.start(state, job);
            }
        }
    }

    fn start_waiting(&self, state: &mut State, now_ms: i64) {
        while state.running.len() < HOOKS_MAX
            && state.waiting.first().is_some_and(|(at, _)| *at <= now_ms)
            && let Some((_, job)) = state.waiting.pop_first()
        {
            state.known.remove(&job);
            self.start(state, job);
        }
    }

    fn start(&self, state: &mut State, job: JobId) {
        if !state.known.insert(job) {
            return;
        }
        let (store, reader, registry, clock) =
            (self.store.clone(), self.reader.clone(), self.registry.clone(), self.clock.clone());
        let handle = state.running.spawn(async move { call(&store, &reader, &registry, &clock, job).await });
        state.jobs.insert(handle.id(), job);
    }

    fn ended(&self, state: &mut State, ended: Result<(Id, Called), JoinError>) {
        let (id, called) = match ended {
            Ok((id, called)) => (id, called),
            Err(error) => (error.id(), Called::Again(format!("the hook panicked: {error}"))),
        };
        let Some(job) = state.jobs.remove(&id) else { return };
        state.known.remove(&job);
        match called {
            Called::Done => {
                state.tries.remove(&job);
            }
            Called::Again(why) => {
                let tries = state.tries.get(&job).copied().unwrap_or(0).saturating_add(1);
                let wait_ms = self.policy.wait_ms(tries, random_unit());
                tracing::warn!(job_id = %job, why, wait_ms, "a finalize hook is called again");
                if state.waiting.len() < WAITING_MAX {
                    state.tries.insert(job, tries);
                    state.known.insert(job);
                    state.waiting.insert((self.clock.now_ms().saturating_add(wait_ms), job));
                }
            }
        }
    }
}

impl State {
    fn next_ms(&self, has_room: bool) -> i64 {
        let waiting = self.waiting.first().map(|(at, _)| *at).filter(|_| has_room);
        waiting.map_or(self.next_look_ms, |at| at.min(self.next_look_ms))
    }
}

/// The id before: where a scan continues so that it sees `job` again.
fn before(job: JobId) -> JobId {
    JobId::from_bytes(u128::from_be_bytes(*job.as_bytes()).saturating_sub(1).to_be_bytes())
}

async fn call(store: &Store, reader: &Reader, registry: &Registry, clock: &Clock, id: JobId) -> Called {
    let source = reader.clone();
    // News and looking may both have found the job: what is owed no longer is not called again.
    let read = move || match source.owed(id)? {
        Some(revision) => Ok(source.job(id)?.map(|job| (job, revision))),
        None => Ok(None),
    };
    let (job, revision) = match off_thread(read).await.and_then(|read| read) {
        Ok(Some(owed)) => owed,
        Ok(None) => return Called::Done,
        Err(refusal) => return Called::Again(refusal.to_string()),
    };
    let Some((handler, _)) = registry.get(&job.job_type) else {
        return Called::Again(format!("no handler serves job type {}", job.job_type));
    };
    let log = match tokio::time::timeout(HOOK_TIMEOUT, handler.finalize(&job)).await {
        Err(_) => return Called::Again(format!("the hook took longer than {} s", HOOK_TIMEOUT.as_secs())),
        Ok(Err(error)) if error.retryable => return Called::Again(error.message),
        Ok(Err(error)) => Some(NewLog {
            level: LogLevel::Error,
            timestamp_ms: clock.now_ms(),
            message: format!("the finalize hook failed and is not called again: {}", error.message),
            trace_id: job.trace_id.clone(),
            ..NewLog::default()
        }),
        Ok(Ok(())) => None,
    };
    record(store, id, revision, log).await
}

async fn record(store: &Store, job: JobId, revision: u64, log: Option<NewLog>) -> Called {
    loop {
        match store.finalized(job, revision, log.clone()).await {
            Ok(()) => return Called::Done,
            Err(refusal) if is_busy(&refusal) => tokio::time::sleep(pause_of(&refusal)).await,
            Err(refusal) => return Called::Again(refusal.to_string()),
        }
    }
}
