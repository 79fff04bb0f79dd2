//! The gRPC servers: one set of services on a Unix socket and on TCP.
//!
//! Owns: assembly and limits. Must not know: what any method does, how a call is run (see `door`).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::util::MapResponseLayer;

use super::door::{Door, Timeouts, too_large};
use super::frame::FRAME_BYTES_MAX;
use super::incoming::{Accept, Gate};
use super::{Api, errors, grpc_health};
use crate::proto::DESCRIPTORS;
use crate::proto::fetchbox::v1::job_service_server::JobServiceServer;
use crate::proto::fetchbox::v1::ledger_service_server::LedgerServiceServer;
use crate::proto::joblet::job_service_server::JobServiceServer as JobletServer;
use crate::proto::joblet::persist::persist_service_server::PersistServiceServer;

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

/// Messages of joblet's services: a record may have as much as its wire carries in one message.
const OUTPUT_BYTES_MAX: usize = 128 << 20;
/// Around the record stand its job, its offset and its numbers, on its way out and on its way back in: with less, the largest record
/// that the socket takes could be exported and not imported.
const RECORD_BYTES_MAX: usize = OUTPUT_BYTES_MAX + (64 << 10);

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

/// tonic answers a message beyond the limit with OUT_OF_RANGE and without our details; what we refuse so has them.
fn in_our_words(response: http::Response<Body>) -> http::Response<Body> {
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() == Code::OutOfRange && status.details().is_empty() => {
            errors::status(&too_large(&status)).into_http()
        }
        Some(_) | None => response,
    }
}

/// Every service this daemon speaks.
fn routes(api: Api, options: &Options, stop: CancellationToken) -> Result<Routes, tonic_reflection::server::Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let limit = options.message_bytes_max;
    let timeouts = Timeouts {
        request: Duration::from_millis(options.request_timeout_ms),
        bulk: Duration::from_millis(options.bulk_timeout_ms),
    };
    let door = Door::new(api, timeouts, stop);
    let mut routes = Routes::builder();
    routes
        .add_service(JobServiceServer::new(door.clone()).max_decoding_message_size(limit))
        .add_service(LedgerServiceServer::new(door.clone()).max_decoding_message_size(limit))
        .add_service(
            PersistServiceServer::new(door.clone())
                .max_decoding_message_size(RECORD_BYTES_MAX)
                .max_encoding_message_size(RECORD_BYTES_MAX),
        )
        .add_service(
            JobletServer::new(door.clone())
                .max_decoding_message_size(RECORD_BYTES_MAX)
                .max_encoding_message_size(RECORD_BYTES_MAX),
        )
        .add_service(grpc_health::service(door))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(routes.routes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Refusal, RefusalCode};

    #[test]
    fn a_message_beyond_the_limit_is_refused_with_the_documented_code() {
        let tonics = Status::out_of_range("decoded message length too large").into_http();
        let told = Status::from_header_map(in_our_words(tonics).headers()).unwrap();
        assert_eq!(told.code(), Code::ResourceExhausted);
        let kept = Status::not_found("x").into_http();
        assert_eq!(Status::from_header_map(in_our_words(kept).headers()).unwrap().code(), Code::NotFound);
        let ours = errors::status(&Refusal::new(RefusalCode::OutOfRange, "behind the end")).into_http();
        assert_eq!(Status::from_header_map(in_our_words(ours).headers()).unwrap().code(), Code::OutOfRange);
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
