//! HTTP for machines that watch: `/metrics`, `/health/live`, `/health/ready`.
//!
//! Owns: the routes and their listener. Must not know: what the figures mean.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::health::all_ok;
use super::incoming::Gate;
use super::{Api, Check};

/// Limits of the HTTP listener.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Open connections; more wait to be accepted.
    pub connections_max: usize,
    /// From a connection's first byte, or the last answer, to the next request's whole header.
    pub header_timeout_ms: u64,
    /// At shutdown: how long open requests may take.
    pub drain_timeout_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { connections_max: 256, header_timeout_ms: 30_000, drain_timeout_ms: 2_000 }
    }
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, api: Api, options: &Options, stop: CancellationToken) {
    let gate = Gate::new(listener, "http", options.connections_max);
    let service = TowerToHyperService::new(router(api));
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    let header_timeout = Duration::from_millis(options.header_timeout_ms);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout);
    let connections = TaskTracker::new();
    loop {
        let seated = tokio::select! {
            () = stop.cancelled() => break,
            seated = gate.next() => seated,
        };
        let (builder, service, stop) = (builder.clone(), service.clone(), stop.clone());
        connections.spawn(async move {
            let connection = builder.serve_connection(TokioIo::new(seated), service);
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(error, "http connection failed");
            }
        });
    }
    drop(gate);
    connections.close();
    let _ = tokio::time::timeout(Duration::from_millis(options.drain_timeout_ms), connections.wait()).await;
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .fallback(absent)
        .with_state(api)
}

async fn metrics(State(api): State<Api>) -> Response {
    let counters = api.ledger.counters();
    let depth = counters.tasks_open.saturating_sub(counters.tasks_leased);
    api.metrics.queue_depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
    let dead: u64 = counters.dead_letters.values().sum();
    api.metrics.dlq_size.set(i64::try_from(dead).unwrap_or(i64::MAX));
    count(&api, "http.metrics", StatusCode::OK);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], api.metrics.render()).into_response()
}

async fn live(State(api): State<Api>) -> Response {
    health(&api, "http.health_live", &api.health.live().await)
}

async fn ready(State(api): State<Api>) -> Response {
    health(&api, "http.health_ready", &api.readiness().await)
}

async fn absent(State(api): State<Api>) -> Response {
    count(&api, "http.absent", StatusCode::NOT_FOUND);
    (StatusCode::NOT_FOUND, "not here; there are /metrics, /health/live and /health/ready\n").into_response()
}

/// 200 when every check is well, 503 otherwise; the body names each.
fn health(api: &Api, route: &str, checks: &[Check]) -> Response {
    let ok = all_ok(checks);
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    count(api, route, status);
    let each = |check: &Check| serde_json::json!({"name": check.name, "ok": check.ok, "message": check.message});
    let body = serde_json::json!({"ok": ok, "checks": checks.iter().map(each).collect::<Vec<_>>()});
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

fn count(api: &Api, route: &str, status: StatusCode) {
    api.metrics.api_requests.with_label_values(&[status.as_str(), route]).inc();
}
