//! What each request of the native socket asks of which room.
//!
//! Owns: the checks of the envelope, the one answer each request gets, the counts. Must not know: bytes, sockets.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;

use super::Server;
use super::outbox::Outbox;
use crate::api::{Api, answer, append, convert, errors};
use crate::model::Refusal;
use crate::proto::fetchbox::v1::{self as pb, ipc_request, ipc_response};
use crate::telemetry::{Counter, Metrics};

/// The only version of the envelope there is.
const VERSION: u32 = 1;

/// Starts what a request asks for and sends its one reply. What it returns must be polled at once and in the order of the requests,
/// then until it ends.
pub(super) type Work = Arc<dyn Fn(ipc_request::Body, String, Reply) -> Started + Send + Sync>;

/// None: the reply is sent, or somebody who will send it has it.
pub(super) type Started = Option<BoxFuture<'static, ()>>;

/// What the requests of one connection share: cloned per request, so it is one reference count that other connections never touch.
pub(super) struct Peer {
    pub(super) outbox: Outbox,
    work: Work,
    server: Arc<Server>,
}

impl Peer {
    pub(super) fn new(server: Arc<Server>) -> Self {
        Self { outbox: Outbox::new(server.window), work: (server.work)(), server }
    }
}

/// Which request, as `fetchbox_api_requests_total{route}` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Submit,
    AppendLogs,
    UpdateStatus,
    GetJob,
    Ping,
    /// What could not be told apart.
    Invalid,
}

impl Route {
    fn name(self) -> &'static str {
        match self {
            Route::Submit => "ipc.submit",
            Route::AppendLogs => "ipc.append_logs",
            Route::UpdateStatus => "ipc.update_status",
            Route::GetJob => "ipc.get_job",
            Route::Ping => "ipc.ping",
            Route::Invalid => "ipc.invalid",
        }
    }
}

/// Counters of the outcomes that come a hundred thousand times a second, looked up once.
pub(super) struct Counted {
    submitted: Counter,
    metrics: Metrics,
}

impl Counted {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let submitted = metrics.api_requests.with_label_values(&["OK", Route::Submit.name()]);
        Self { submitted, metrics: metrics.clone() }
    }

    fn count(&self, route: Route, status: &str) {
        if route == Route::Submit && status == "OK" {
            self.submitted.inc();
        } else {
            self.metrics.api_requests.with_label_values(&[status, route.name()]).inc();
        }
    }
}

/// The answer a request is owed. Dropping it answers UNAVAILABLE, so that no client waits for ever.
pub(super) struct Reply {
    peer: Option<Arc<Peer>>,
    request_id: u64,
    route: Route,
    /// The memory a large frame occupied, free for others once it is answered.
    leave: Option<OwnedSemaphorePermit>,
}

impl Reply {
    pub(super) fn new(peer: Arc<Peer>, request_id: u64, leave: Option<OwnedSemaphorePermit>) -> Self {
        Self { peer: Some(peer), request_id, route: Route::Invalid, leave }
    }

    fn to(mut self, route: Route) -> Self {
        self.route = route;
        self
    }

    pub(super) fn send(mut self, result: Result<ipc_response::Body, Refusal>) {
        self.give(result);
    }

    fn give(&mut self, result: Result<ipc_response::Body, Refusal>) {
        let Some(peer) = self.peer.take() else { return };
        self.leave = None;
        let (status, body) = match result {
            Ok(body) => ("OK", body),
            Err(refusal) => (refusal.code.as_str(), ipc_response::Body::Error(errors::detail(&refusal))),
        };
        peer.server.counted.count(self.route, status);
        peer.outbox.push(self.request_id, body);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.give(Err(answer::lost()));
    }
}

/// Checks the envelope of one request and starts it.
pub(super) fn start(peer: &Arc<Peer>, request: pb::IpcRequest, leave: Option<OwnedSemaphorePermit>) -> Started {
    let reply = Reply::new(peer.clone(), request.request_id, leave);
    let wrong = if request.version != VERSION {
        Refusal::invalid("version", format!("{} is not spoken here; {VERSION} is", request.version))
    } else if request.request_id == 0 {
        Refusal::invalid("request_id", "counts from 1; 0 stands for requests that cannot be told apart")
    } else if let Some(body) = request.body {
        return (peer.work)(body, request.trace_parent, reply);
    } else {
        Refusal::invalid("body", "one of submit, append_logs, update_status, get_job, ping is required")
    };
    reply.send(Err(wrong));
    None
}

/// The real work: what each request asks of which room.
pub(super) fn rooms(api: Api) -> Work {
    let api = Arc::new(api);
    Arc::new(move |body, trace_parent, reply| match body {
        ipc_request::Body::Ping(pb::Ping {}) => {
            reply.to(Route::Ping).send(Ok(ipc_response::Body::Pong(convert::pong(&api))));
            None
        }
        ipc_request::Body::GetJob(get) => {
            let found = api.job_id("job_id", &get.job_id).and_then(|id| api.ledger.job(id));
            reply.to(Route::GetJob).send(found.map(|job| ipc_response::Body::Job(convert::job(&job))));
            None
        }
        ipc_request::Body::Submit(submit) => start_submit(&api, submit, trace_parent, reply.to(Route::Submit)),
        ipc_request::Body::AppendLogs(append) => {
            let (api, reply) = (api.clone(), reply.to(Route::AppendLogs));
            Some(Box::pin(async move {
                let answer = append::append_logs(&api, append).await;
                reply.send(answer.map(ipc_response::Body::AppendLogs));
            }))
        }
        ipc_request::Body::UpdateStatus(update) => {
            let (api, reply) = (api.clone(), reply.to(Route::UpdateStatus));
            Some(Box::pin(async move {
                let answer = update_status(&api, update).await;
                reply.send(answer.map(ipc_response::Body::Ack));
            }))
        }
    })
}

fn start_submit(api: &Arc<Api>, mut submit: pb::SubmitJobRequest, trace_parent: String, reply: Reply) -> Started {
    if submit.trace_parent.is_empty() {
        submit.trace_parent = trace_parent;
    }
    let submission = match convert::submission(submit) {
        Ok(submission) => submission,
        Err(refusal) => {
            reply.send(Err(refusal));
            return None;
        }
    };
    let api = api.clone();
    Some(Box::pin(async move {
        let submitted = api.ingest.submit(submission, move |result| {
            reply.send(result.map(|job| {
                let response = convert::submitted(job.job, job.manifest_key, job.resource_count, job.duplicate);
                ipc_response::Body::Submit(response)
            }));
        });
        submitted.await;
    }))
}

async fn update_status(api: &Api, update: pb::UpdateJobStatusRequest) -> Result<pb::Ack, Refusal> {
    let update = convert::status_update(update, api.clock.now_ms(), |path, text| api.job_id(path, text))?;
    let job = api.ingest.update_status(update).await?;
    Ok(pb::Ack { revision: job.revision })
}
