//! How a gRPC call is run: within its time, counted, and ended in our words at shutdown.
//!
//! Owns: deadlines, counting, reads off the threads that serve sockets. Must not know: what any method does.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};

use super::{Api, errors};
use crate::ledger::Ledger;
use crate::model::{Refusal, RefusalCode};
use crate::telemetry::Metrics;

/// Ledger reads that may occupy blocking threads at once; the database serves no more in parallel anyway.
const READS_MAX: usize = 16;
/// How long a call with one answer may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) request: Duration,
    /// For calls that delete or replay in bulk.
    pub(super) bulk: Duration,
}

/// A stream of answers, as tonic wants it.
pub(super) type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// What the services share: the rooms, and how a call is run.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) api: Api,
    pub(super) stop: CancellationToken,
    reads: Arc<Semaphore>,
    timeouts: Timeouts,
}

/// A call's name on `fetchbox_api_requests_total`, and how it is treated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    route: &'static str,
    operator: bool,
    bulk: bool,
}

impl Call {
    pub(super) const fn client(route: &'static str) -> Self {
        Self { route, operator: false, bulk: false }
    }

    /// Lists, controls or cleans.
    pub(super) const fn operator(route: &'static str) -> Self {
        Self { route, operator: true, bulk: false }
    }

    /// The same, and takes as long as there is to do.
    pub(super) const fn bulk(route: &'static str) -> Self {
        Self { route, operator: true, bulk: true }
    }
}

impl Door {
    pub(super) fn new(api: Api, timeouts: Timeouts, stop: CancellationToken) -> Self {
        Self { api, stop, reads: Arc::new(Semaphore::new(READS_MAX)), timeouts }
    }

    /// Runs a call that has one answer.
    pub(super) async fn once<T>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<Response<T>, Status> {
        if call.operator {
            self.api.metrics.operator_requests.inc();
        }
        let mut counted = Counted::new(&self.api.metrics, call.route);
        let limit = if call.bulk { self.timeouts.bulk } else { self.timeouts.request };
        let result = tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(too_slow(limit)));
        counted.ended(result.as_ref().err());
        result.map(Response::new).map_err(|refusal| errors::status(&refusal))
    }

    /// Reads something whose size is not known beforehand, off the threads that serve sockets.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Ledger) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let place = self.reads.clone().acquire_owned().await;
        let ledger = self.api.ledger.clone();
        let done = tokio::task::spawn_blocking(move || {
            let result = read(&ledger);
            drop(place);
            result
        });
        done.await.unwrap_or_else(|_| Err(Refusal::new(RefusalCode::Internal, "the read failed; please report this")))
    }

    /// Runs a call with a stream of answers. At shutdown an unfinished one ends with UNAVAILABLE / DRAINING: a plain end would look
    /// like the job's.
    pub(super) fn stream<T: Send + 'static>(
        &self,
        call: Call,
        items: BoxStream<'static, Result<T, Refusal>>,
    ) -> Response<Answers<T>> {
        self.stream_until(call, items, Box::pin(self.stop.clone().cancelled_owned()))
    }

    /// The same for a stream that looks after its own end at shutdown.
    pub(super) fn stream_to_end<T: Send + 'static>(
        &self,
        call: Call,
        items: BoxStream<'static, Result<T, Refusal>>,
    ) -> Response<Answers<T>> {
        self.stream_until(call, items, Box::pin(std::future::pending()))
    }

    fn stream_until<T: Send + 'static>(
        &self,
        call: Call,
        items: BoxStream<'static, Result<T, Refusal>>,
        stop: BoxFuture<'static, ()>,
    ) -> Response<Answers<T>> {
        let counted = Counted::new(&self.api.metrics, call.route);
        let answers = stream::unfold(Some((items, stop, counted)), |state| async move {
            let (mut items, mut stop, mut counted) = state?;
            let item = tokio::select! {
                biased;
                item = items.next() => item,
                () = &mut stop => Some(Err(stopping())),
            };
            match item {
                None => {
                    counted.ended(None);
                    None
                }
                Some(Ok(item)) => Some((Ok(item), Some((items, stop, counted)))),
                Some(Err(refusal)) => {
                    counted.ended(Some(&refusal));
                    Some((Err(errors::status(&refusal)), None))
                }
            }
        });
        Response::new(answers.boxed())
    }
}

fn too_slow(limit: Duration) -> Refusal {
    let message = format!("not finished within {} s; it may still be done", limit.as_secs());
    Refusal::new(RefusalCode::Unavailable, message)
}

pub(super) fn stopping() -> Refusal {
    Refusal::new(RefusalCode::Draining, "the daemon is stopping; resume where this stream ended")
}

/// Counts a call when it ends, or as CANCELED when its client goes away first.
struct Counted {
    metrics: Metrics,
    route: &'static str,
    status: &'static str,
}

impl Counted {
    fn new(metrics: &Metrics, route: &'static str) -> Self {
        Self { metrics: metrics.clone(), route, status: "CANCELED" }
    }

    fn ended(&mut self, refusal: Option<&Refusal>) {
        self.status = refusal.map_or("OK", |refusal| refusal.code.as_str());
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.api_requests.with_label_values(&[self.status, self.route]).inc();
    }
}

pub(super) fn too_large(status: &Status) -> Refusal {
    Refusal::new(RefusalCode::PayloadTooLarge, status.message())
}
