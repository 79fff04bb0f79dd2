//! The gRPC servers: one set of services on a Unix socket and on TCP.
//!
//! Owns: assembly, limits, deadlines, counting, the way streams end at shutdown. Must not know: what any method does.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Response, Status};
use tower::util::MapResponseLayer;

use super::frame::FRAME_BYTES_MAX;
use super::incoming::{Accept, Gate};
use super::{Api, errors, grpc_health};
use crate::ledger::Ledger;
use crate::model::{Refusal, RefusalCode};
use crate::proto::DESCRIPTORS;
use crate::proto::fetchbox::v1::job_service_server::JobServiceServer;
use crate::proto::fetchbox::v1::ledger_service_server::LedgerServiceServer;
use crate::telemetry::Metrics;

/// Limits of each gRPC listener.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Open connections of one listener; more wait to be accepted.
    pub connections_max: usize,
    /// Calls one connection may have open.
    pub streams_max: u32,
    /// The largest request message.
    pub message_bytes_max: usize,
    /// How long a call that is answered once may take, unless it deletes or replays in bulk.
    pub request_timeout_ms: u64,
    /// The same for calls that delete or replay in bulk.
    pub bulk_timeout_ms: u64,
    /// At shutdown: how long open calls may take to end.
    pub drain_timeout_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections_max: 1_024,
            streams_max: 256,
            message_bytes_max: FRAME_BYTES_MAX,
            request_timeout_ms: 30_000,
            bulk_timeout_ms: 900_000,
            drain_timeout_ms: 5_000,
        }
    }
}

/// Ledger reads that may occupy blocking threads at once; the database serves no more in parallel anyway.
const READS_MAX: usize = 16;
/// A peer that is gone is noticed after these two.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(60);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);
/// Bytes a call, and a connection, may send ahead of being read.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Resets of calls that were not even accepted, after which the peer is cut off (CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 20;
/// Request headers: trace context and little else.
const HEADER_BYTES_MAX: u32 = 16 * 1024;

/// Serves every service on a Unix socket until `stop`.
pub async fn serve_grpc_unix(listener: UnixListener, api: Api, options: &Options, stop: CancellationToken) {
    serve(Gate::new(listener, "grpc_unix", options.connections_max), api, options, stop).await;
}

/// Serves every service on TCP until `stop`.
pub async fn serve_grpc_tcp(listener: TcpListener, api: Api, options: &Options, stop: CancellationToken) {
    serve(Gate::new(listener, "grpc_tcp", options.connections_max), api, options, stop).await;
}

async fn serve<L: Accept>(gate: Gate<L>, api: Api, options: &Options, stop: CancellationToken) {
    let routes = match routes(api, options, stop.clone()) {
        Ok(routes) => routes,
        Err(error) => {
            // The descriptor set is part of the binary: a test would have shown this.
            tracing::error!(%error, "gRPC reflection cannot be built; gRPC is not served");
            return;
        }
    };
    let server = tonic::transport::Server::builder()
        .timeout(Duration::from_millis(options.bulk_timeout_ms.max(options.request_timeout_ms)))
        .max_concurrent_streams(options.streams_max)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .layer(MapResponseLayer::new(in_our_words))
        .add_routes(routes)
        .serve_with_incoming_shutdown(gate.into_stream(), stop.clone().cancelled_owned());
    let drained = async {
        stop.cancelled().await;
        tokio::time::sleep(Duration::from_millis(options.drain_timeout_ms)).await;
    };
    tokio::select! {
        served = server => if let Err(error) = served {
            tracing::error!(%error, "gRPC server failed");
        },
        () = drained => tracing::warn!("gRPC calls were still open at shutdown"),
    }
}

/// tonic answers a message beyond the limit with OUT_OF_RANGE, a code we never use, and without our details.
fn in_our_words(response: http::Response<Body>) -> http::Response<Body> {
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() == Code::OutOfRange => errors::status(&too_large(&status)).into_http(),
        Some(_) | None => response,
    }
}

pub(super) fn too_large(status: &Status) -> Refusal {
    Refusal::new(RefusalCode::PayloadTooLarge, status.message())
}

/// Every service this daemon speaks.
fn routes(api: Api, options: &Options, stop: CancellationToken) -> Result<Routes, tonic_reflection::server::Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let limit = options.message_bytes_max;
    let door = Door::new(api, options, stop);
    let mut routes = Routes::builder();
    routes
        .add_service(JobServiceServer::new(door.clone()).max_decoding_message_size(limit))
        .add_service(LedgerServiceServer::new(door.clone()).max_decoding_message_size(limit))
        .add_service(grpc_health::service(door))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(routes.routes())
}

/// A stream of answers, as tonic wants it.
pub(super) type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// What the services share: the rooms, and how a call is run.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) api: Api,
    pub(super) stop: CancellationToken,
    reads: Arc<Semaphore>,
    request_timeout: Duration,
    bulk_timeout: Duration,
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
    fn new(api: Api, options: &Options, stop: CancellationToken) -> Self {
        Self {
            api,
            stop,
            reads: Arc::new(Semaphore::new(READS_MAX)),
            request_timeout: Duration::from_millis(options.request_timeout_ms),
            bulk_timeout: Duration::from_millis(options.bulk_timeout_ms),
        }
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
        let limit = if call.bulk { self.bulk_timeout } else { self.request_timeout };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_beyond_the_limit_is_refused_with_the_documented_code() {
        let tonics = Status::out_of_range("decoded message length too large").into_http();
        let told = Status::from_header_map(in_our_words(tonics).headers()).unwrap();
        assert_eq!(told.code(), Code::ResourceExhausted);
        let kept = Status::not_found("x").into_http();
        assert_eq!(Status::from_header_map(in_our_words(kept).headers()).unwrap().code(), Code::NotFound);
    }

    #[test]
    fn reflection_can_be_built_from_the_descriptors_in_the_binary() {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        builder().build_v1().unwrap();
        builder().build_v1alpha().unwrap();
    }
}
