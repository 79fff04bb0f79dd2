//! Is it alive, is it ready: asked by /health, gRPC health and the CLI.
//!
//! Owns: the three checks and their caching. Must not know: who asks.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::pulse::Pulse;
use crate::api::{Check, Health};
use crate::clock::Clock;
use crate::objects::Objects;

/// The object store is not probed more often, however many ask.
const PROBE_KEPT: Duration = Duration::from_secs(5);
/// A probe that takes longer has failed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the checks look at.
#[derive(Clone)]
pub struct Condition(Arc<Inner>);

struct Inner {
    pulse: Pulse,
    objects: Objects,
    stopping: AtomicBool,
    /// Locked while a probe runs, so that many askers share one.
    probed: Mutex<Option<(Instant, Check)>>,
}

impl Condition {
    pub fn new(pulse: Pulse, objects: Objects) -> Self {
        let stopping = AtomicBool::new(false);
        Self(Arc::new(Inner { pulse, objects, stopping, probed: Mutex::new(None) }))
    }

    /// From now on nothing is ready.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    pub fn handle(&self) -> Health {
        let (live, ready) = (self.clone(), self.clone());
        Health::new(move || live.clone().live(), move || ready.clone().ready())
    }

    fn live(self) -> impl Future<Output = Vec<Check>> + Send + 'static {
        std::future::ready(vec![self.store(), self.dispatcher()])
    }

    async fn ready(self) -> Vec<Check> {
        let mut store = self.store();
        if store.ok && self.0.stopping.load(Ordering::Relaxed) {
            store = check("store", Some("the daemon is stopping".to_owned()));
        }
        vec![store, self.dispatcher(), self.objects().await]
    }

    fn store(&self) -> Check {
        check("store", self.0.pulse.reader.fault())
    }

    fn dispatcher(&self) -> Check {
        let stuck = self.0.pulse.dispatcher_stuck();
        check("dispatcher", stuck.map(|ms| format!("has not turned for {} s", ms / 1000)))
    }

    async fn objects(&self) -> Check {
        let mut probed = self.0.probed.lock().await;
        if let Some((at, check)) = probed.as_ref()
            && at.elapsed() < PROBE_KEPT
        {
            return check.clone();
        }
        let fault = match tokio::time::timeout(PROBE_TIMEOUT, self.0.objects.probe()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())),
        };
        let check = check("objects", fault);
        *probed = Some((Clock::instant(), check.clone()));
        check
    }
}

fn check(name: &str, fault: Option<String>) -> Check {
    Check { name: name.to_owned(), ok: fault.is_none(), message: fault.unwrap_or_default() }
}
