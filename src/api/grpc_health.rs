//! grpc.health.v1, answered from the same readiness as `/health/ready`.
//!
//! Owns: which service names exist. Must not know: what is checked. Nothing is probed while nobody asks: a probe writes to the object store.

use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::door::{Answers, Call, Door};
use super::health::all_ok;
use crate::model::Refusal;

/// How often a watcher's answer is looked up again.
const WATCH_EVERY: Duration = Duration::from_secs(5);

/// The service, on its own type so that `Door` has no two methods of one name.
pub(super) fn service(door: Door) -> HealthServer<Probe> {
    HealthServer::new(Probe(door))
}

#[derive(Clone)]
pub(super) struct Probe(Door);

impl Probe {
    fn knows(service: &str) -> bool {
        matches!(service, "" | "fetchbox.v1.JobService" | "fetchbox.v1.LedgerService")
    }

    async fn status(&self) -> ServingStatus {
        if self.0.stop.is_cancelled() || !all_ok(&self.0.api.readiness().await) {
            ServingStatus::NotServing
        } else {
            ServingStatus::Serving
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for Probe {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.0
            .once(Call::client("health.Check"), async {
                let service = &request.get_ref().service;
                if !Self::knows(service) {
                    return Err(Refusal::not_found(format!("service {service:?}")));
                }
                Ok(response(self.status().await))
            })
            .await
    }

    type WatchStream = Answers<HealthCheckResponse>;

    /// Sends the status now and whenever it changes.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = Self::knows(&request.get_ref().service);
        let probe = self.clone();
        let statuses = stream::unfold((probe, None), move |(probe, last)| async move {
            loop {
                let status = if known { probe.status().await } else { ServingStatus::ServiceUnknown };
                if Some(status) != last {
                    return Some((Ok(response(status)), (probe, Some(status))));
                }
                tokio::time::sleep(WATCH_EVERY).await;
            }
        });
        Ok(self.0.stream(Call::client("health.Watch"), statuses.boxed()))
    }
}
