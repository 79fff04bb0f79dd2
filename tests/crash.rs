//! Killed at any moment, under load, again and again: nothing acknowledged is lost, nothing is done twice in effect.
//!
//! `FETCHBOX_KILL_ROUNDS=200 cargo test --test it crash::` makes it longer; a printed `FETCHBOX_SEED` can be given back.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fetchbox::client::Options;
use fetchbox::client::ipc::IpcClient;
use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::harness::binary::{Binary, Home};
use crate::harness::checker::{self, AckLog, Checker, Shelf, Truth};
use crate::harness::manifest::{keyed, path_of, resource, submission};
use crate::harness::origin::{Behaviour, Origin};
use crate::harness::{ask, eventually, pb, rounds, seed};

const CONNECTIONS: usize = 8;
/// Submissions of one connection in one round, so that the last life can work off everything.
const JOBS_PER_ROUND: usize = 8;
/// After the last start every job must have ended within this.
const FINISH: Duration = Duration::from_secs(120);
/// How long a daemon may drain in the SIGTERM rounds.
const DRAIN: Duration = Duration::from_secs(8);

/// What decides how a path behaves.
fn nature(path: &str) -> u64 {
    path.bytes().fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
}

fn behaviour(path: &str) -> Behaviour {
    let seed = nature(path);
    let body = Behaviour::body(200 + (seed % 2_000) as usize, seed);
    match seed % 10 {
        0 => Behaviour::status(404),
        1 => body.delay_ms(100),
        _ => body,
    }
}

fn truth(task: &pb::DownloadTask) -> Option<Truth> {
    let path = path_of(&task.url);
    let behaviour = behaviour(path);
    Some(match nature(path) % 10 {
        0 => Truth::Dead("DOWNLOAD_NOT_FOUND"),
        _ => Truth::Stored { sha256: behaviour.sha256(), size_bytes: behaviour.len() },
    })
}

/// What one connection still wants acknowledged: sent again, under the same key, in the next life.
type Unanswered = Arc<Mutex<BTreeMap<usize, Vec<String>>>>;

struct Load {
    home: Home,
    origin: Origin,
    acks: Arc<AckLog>,
    unanswered: Unanswered,
    rng: fastrand::Rng,
    next_key: usize,
    /// First submissions of a key that a life's end left without an answer.
    cut_off: usize,
}

fn request_for(origin: &str, key: &str) -> (pb::SubmitJobRequest, Vec<String>) {
    let count = 1 + key.bytes().map(usize::from).sum::<usize>() % 2;
    let ids: Vec<String> = (0..count).map(|at| format!("r{at}")).collect();
    let one = |id: &String| resource(id, &format!("http://{origin}/{key}/{id}"));
    (keyed(submission(&ids.iter().map(one).collect::<Vec<_>>()), key), ids)
}

impl Load {
    async fn new() -> Load {
        let origin = Origin::start().await;
        origin.on_fn("/", |seen| behaviour(&seen.path));
        let mut home = Home::new();
        // There is one origin only; a backlog of two hundred lives must be worked off by the last one.
        home.config.dispatch.per_host = home.config.dispatch.in_flight;
        home.config.drain_deadline_ms = DRAIN.as_millis() as u64;
        Load {
            home,
            origin,
            acks: Arc::new(AckLog::new()),
            unanswered: Arc::default(),
            rng: fastrand::Rng::with_seed(seed()),
            next_key: 0,
            cut_off: 0,
        }
    }

    /// One life: eight connections submit while it lasts, and all at once what they have left just before `end` ends it.
    async fn round<F: Future<Output = ()>>(&mut self, end: impl FnOnce(Binary) -> F) {
        let daemon = self.home.start().await;
        let wait_ms = self.rng.u64(1..400);
        let burst = CancellationToken::new();
        let connections: Vec<_> = (0..CONNECTIONS)
            .map(|connection| {
                let mut keys = self.unanswered.lock().unwrap().remove(&connection).unwrap_or_default();
                keys.extend(self.repeated_key());
                while keys.len() < JOBS_PER_ROUND {
                    keys.push(format!("k{}", self.next_key));
                    self.next_key += 1;
                }
                let pauses = keys.iter().map(|_| self.rng.u64(0..=2 * wait_ms)).collect();
                let producer = Producer {
                    socket: daemon.ipc_path(),
                    origin: self.origin.host(),
                    acks: self.acks.clone(),
                    burst: burst.clone(),
                };
                let unanswered = self.unanswered.clone();
                tokio::spawn(async move {
                    let left = producer.submit_all(keys, pauses).await;
                    unanswered.lock().unwrap().insert(connection, left);
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        burst.cancel();
        tokio::time::sleep(Duration::from_micros(self.rng.u64(0..20_000))).await;
        end(daemon).await;
        for connection in connections {
            connection.await.unwrap();
        }
        self.cut_off += self.unanswered.lock().unwrap().values().map(Vec::len).sum::<usize>();
    }

    /// A key that was acknowledged in an earlier life; sent again, it must be answered with the same job.
    fn repeated_key(&mut self) -> Option<String> {
        let acks = self.acks.read();
        (!acks.is_empty()).then(|| acks[self.rng.usize(..acks.len())].key.clone())
    }

    /// The last life: everything ends, then everything is checked, awake and stopped.
    async fn finish(self) {
        let daemon = self.home.start().await;
        let began = Instant::now();
        let client = daemon.client().await;
        let mut acks = self.acks.read();
        acks.sort_by(|a, b| a.job_id.cmp(&b.job_id));
        assert!(!acks.is_empty(), "nothing was acknowledged: the rounds are too short");
        // Jobs that were admitted, but whose answer was lost with the process, are kept and finished as well.
        let open = eventually("the end of every job", || async {
            let by_state = ask::stats(&client).await.jobs_by_state;
            let open = ["queued", "in_progress"].map(|state| by_state.get(state).copied().unwrap_or(0));
            (open == [0, 0]).then_some(by_state)
        })
        .await;
        println!("after {:?}: {open:?}", began.elapsed());
        assert!(began.elapsed() < FINISH, "the last job ended after {:?}", began.elapsed());
        let checker =
            Checker { objects: Shelf::Folder(self.home.objects()), acks: &acks, truth: &truth, orphans_allowed: false };
        checker.check(&client).await;
        drop(client);
        let (code, _) = daemon.terminate().await;
        assert_eq!(code, Some(0));
        checker::data_is_clean(&self.home.data_dir()).await;
        println!("{} acknowledgements kept, {} first submissions were cut off", acks.len(), self.cut_off);
    }
}

/// One connection's side of a round.
struct Producer {
    socket: PathBuf,
    origin: String,
    acks: Arc<AckLog>,
    burst: CancellationToken,
}

impl Producer {
    /// Submits the keys, then sends the acknowledged ones again until the life ends: each life ends under load, whatever the
    /// machine, and the backlog does not grow. Returns the keys that were not acknowledged.
    async fn submit_all(&self, keys: Vec<String>, pauses: Vec<u64>) -> Vec<String> {
        let options = Options { connect_timeout_ms: 1_000, ..Options::default() };
        let Ok(ipc) = IpcClient::connect(&self.socket, &options).await else { return keys };
        let one_by_one = keys.into_iter().zip(pauses).map(|(key, pause)| {
            let ipc = &ipc;
            async move {
                self.burst.run_until_cancelled(tokio::time::sleep(Duration::from_millis(pause))).await;
                self.submit(ipc, key).await
            }
        });
        // A few at once, so that a burst meets the committer as a group.
        let outcomes: Vec<_> = futures_util::stream::iter(one_by_one).buffer_unordered(4).collect().await;
        let (acknowledged, left): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(|(_, job_id)| job_id.is_some());
        for (key, known) in acknowledged.iter().cycle() {
            let Ok(accepted) = ipc.submit(request_for(&self.origin, key).0).await else { break };
            assert_eq!(Some(&accepted.job_id), known.as_ref(), "{key} became two jobs");
        }
        left.into_iter().map(|(key, _)| key).collect()
    }

    /// The key, and its job if it was acknowledged.
    async fn submit(&self, ipc: &IpcClient, key: String) -> (String, Option<String>) {
        let (request, ids) = request_for(&self.origin, &key);
        match ipc.submit(request).await {
            Ok(accepted) => {
                self.acks.record(&key, &accepted.job_id, &ids);
                (key, Some(accepted.job_id))
            }
            Err(error) => {
                assert!(error.retryable(), "{key}: {error}");
                (key, None)
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_the_daemon_is_killed_at_random_moments() {
    let mut load = Load::new().await;
    for round in 0..rounds("FETCHBOX_KILL_ROUNDS", 25) {
        load.round(|daemon| async move {
            assert!(!daemon.stderr().contains("panicked"), "round {round}: {}", daemon.stderr());
            daemon.kill().await;
        })
        .await;
    }
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_termination_under_load_drains_within_its_deadline_and_loses_nothing() {
    let mut load = Load::new().await;
    for round in 0..rounds("FETCHBOX_TERM_ROUNDS", 8) {
        load.round(|daemon| async move {
            let (code, took) = daemon.terminate().await;
            assert_eq!(code, Some(0), "round {round}");
            assert!(took < DRAIN + Duration::from_secs(2), "round {round}: the drain took {took:?}");
        })
        .await;
    }
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_termination_ends_at_once() {
    let origin = Origin::start().await;
    origin.on("/", Behaviour::silent());
    let mut home = Home::new();
    home.config.drain_deadline_ms = 60_000;
    let daemon = home.start().await;
    let client = daemon.client().await;
    let job_id = ask::submit(&client, submission(&[resource("a", &origin.url("/hold"))])).await;
    ask::job_when(&client, &job_id, |job| job.state() == pb::JobState::InProgress).await;
    drop(client);
    daemon.signal(rustix::process::Signal::TERM);
    eventually("the drain", || async { daemon.stderr().contains("draining").then_some(()) }).await;
    // Signals within a tenth of a second count as one wish.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (_, took) = daemon.terminate().await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    let daemon = home.start().await;
    let job = ask::job(&daemon.client().await, &job_id).await;
    assert!(!ask::is_terminal(&job), "{job:?}");
    daemon.kill().await;
}
