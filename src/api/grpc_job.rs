//! JobService.
//!
//! Owns: which room answers which method. Must not know: how.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::answer::answer_once;
use super::door::{Answers, Call, Door, stopping, too_large};
use super::{convert, errors};
use crate::ingest::Ingest;
use crate::ledger::{Ledger, Present};
use crate::model::{Refusal, RefusalCode};
use crate::proto::fetchbox::v1 as pb;
use crate::proto::fetchbox::v1::job_service_server::JobService;
use crate::proto::fetchbox::v1::submit_jobs_response::Result as ItemResult;

/// Items of one SubmitJobs stream that may be unanswered, answers not yet read included.
const ITEMS_IN_FLIGHT: usize = 256;

#[tonic::async_trait]
impl JobService for Door {
    async fn submit_job(
        &self,
        request: Request<pb::SubmitJobRequest>,
    ) -> Result<Response<pb::SubmitJobResponse>, Status> {
        let trace = trace_parent(request.metadata());
        let mut request = request.into_inner();
        self.once(Call::client("SubmitJob"), async {
            if request.trace_parent.is_empty() {
                request.trace_parent = trace;
            }
            let job = self.api.ingest.submit_and_wait(convert::submission(request)?).await?;
            Ok(convert::submitted(job.job, job.manifest_key, job.resource_count, job.duplicate))
        })
        .await
    }

    type SubmitJobsStream = Answers<pb::SubmitJobsResponse>;

    async fn submit_jobs(
        &self,
        request: Request<Streaming<pb::SubmitJobsRequest>>,
    ) -> Result<Response<Self::SubmitJobsStream>, Status> {
        let items = request.into_inner();
        let (answers, ready) = mpsc::channel(ITEMS_IN_FLIGHT);
        let intake = take_items(items, self.api.ingest.clone(), answers, self.stop.clone());
        // Both halves run inside the answer stream: it is polled by the connection, so no task outlives the call.
        let intake = intake.into_stream().filter_map(|ended| async move { ended.err().map(Err) });
        let answered = ReceiverStream::new(ready).map(|(answer, place): (_, OwnedSemaphorePermit)| {
            drop(place);
            Ok(answer)
        });
        Ok(self.stream_to_end(Call::client("SubmitJobs"), stream::select(answered, intake).boxed()))
    }

    async fn validate_manifest(
        &self,
        request: Request<pb::SubmitJobRequest>,
    ) -> Result<Response<pb::ValidateManifestResponse>, Status> {
        self.once(Call::client("ValidateManifest"), async {
            let submission = match convert::submission(request.into_inner()) {
                Ok(submission) => submission,
                Err(refusal) => return convert::refused_validation(refusal),
            };
            match self.api.ingest.validate(submission).await {
                Ok(validation) => Ok(convert::validation(validation)),
                Err(refusal) => convert::refused_validation(refusal),
            }
        })
        .await
    }

    async fn get_job(&self, request: Request<pb::GetJobRequest>) -> Result<Response<pb::Job>, Status> {
        self.once(Call::client("GetJob"), async {
            let id = self.api.job_id("job_id", &request.get_ref().job_id)?;
            Ok(convert::job(&self.api.ledger.job(id)?))
        })
        .await
    }

    async fn list_jobs(&self, request: Request<pb::ListJobsRequest>) -> Result<Response<pb::ListJobsResponse>, Status> {
        self.once(Call::operator("ListJobs"), async {
            let request = request.into_inner();
            let filter = convert::job_filter(&request)?;
            let page = convert::page(request.page_size, &request.page_token)?;
            self.read(move |ledger| {
                let page = ledger.jobs(&filter, &page)?;
                let jobs = page.items.iter().map(convert::job).collect();
                Ok(pb::ListJobsResponse { jobs, next_page_token: page.next_token })
            })
            .await
        })
        .await
    }

    type WatchJobStream = Answers<pb::Job>;

    async fn watch_job(&self, request: Request<pb::WatchJobRequest>) -> Result<Response<Self::WatchJobStream>, Status> {
        let request = request.into_inner();
        let id = self.api.job_id("job_id", &request.job_id).map_err(|refusal| errors::status(&refusal))?;
        let jobs = self.api.ledger.watch(id, request.after_revision);
        Ok(self.stream(Call::client("WatchJob"), jobs.map(|job| job.map(|job| convert::job(&job))).boxed()))
    }

    async fn list_tasks(
        &self,
        request: Request<pb::ListTasksRequest>,
    ) -> Result<Response<pb::ListTasksResponse>, Status> {
        self.once(Call::operator("ListTasks"), async {
            let request = request.into_inner();
            let id = self.api.job_id("job_id", &request.job_id)?;
            let states = convert::task_states(&request.states)?;
            let page = convert::page(request.page_size, &request.page_token)?;
            let places = self.api.places.clone();
            self.read(move |ledger| {
                let job = ledger.job(id)?;
                let page = ledger.tasks(id, &states, &page)?;
                let tasks = page.items.iter().map(|task| convert::task(&job, task, &places)).collect();
                Ok(pb::ListTasksResponse { tasks, next_page_token: page.next_token })
            })
            .await
        })
        .await
    }

    async fn get_manifest(&self, request: Request<pb::GetJobRequest>) -> Result<Response<pb::Manifest>, Status> {
        self.once(Call::client("GetManifest"), async {
            let id = self.api.job_id("job_id", &request.get_ref().job_id)?;
            self.read(move |ledger| Ok(convert::manifest(ledger.manifest(id)?))).await
        })
        .await
    }

    async fn cancel_job(&self, request: Request<pb::CancelJobRequest>) -> Result<Response<pb::Job>, Status> {
        self.once(Call::operator("CancelJob"), async {
            let request = request.into_inner();
            let id = self.api.job_id("job_id", &request.job_id)?;
            Ok(convert::job(&self.api.dispatch.cancel(id, request.reason).await?))
        })
        .await
    }

    async fn retry_job(&self, request: Request<pb::RetryJobRequest>) -> Result<Response<pb::RetryJobResponse>, Status> {
        self.once(Call::operator("RetryJob"), async {
            let request = request.into_inner();
            let id = self.api.job_id("job_id", &request.job_id)?;
            let (job, requeued) = self.api.dispatch.retry(id, request.resource_ids).await?;
            Ok(pb::RetryJobResponse { job: Some(convert::job(&job)), requeued })
        })
        .await
    }

    async fn delete_job(
        &self,
        request: Request<pb::DeleteJobRequest>,
    ) -> Result<Response<pb::DeleteJobResponse>, Status> {
        self.once(Call::bulk("DeleteJob"), async {
            let request = request.into_inner();
            let id = self.api.job_id("job_id", &request.job_id)?;
            let objects_deleted = self.api.retention.delete_job(id, request.delete_objects).await?;
            Ok(pb::DeleteJobResponse { objects_deleted })
        })
        .await
    }

    async fn explain_job(
        &self,
        request: Request<pb::ExplainJobRequest>,
    ) -> Result<Response<pb::ExplainJobResponse>, Status> {
        self.once(Call::client("ExplainJob"), async {
            let id = self.api.job_id("job_id", &request.get_ref().job_id)?;
            let places = self.api.places.clone();
            self.explained(move |ledger, present| Ok(convert::job_story(ledger.explain_job(id, present)?, &places)))
                .await
        })
        .await
    }

    async fn explain_task(
        &self,
        request: Request<pb::ExplainTaskRequest>,
    ) -> Result<Response<pb::ExplainTaskResponse>, Status> {
        self.once(Call::client("ExplainTask"), async {
            let request = request.into_inner();
            let id = self.api.job_id("job_id", &request.job_id)?;
            let places = self.api.places.clone();
            self.explained(move |ledger, present| {
                let job = ledger.job(id)?;
                Ok(convert::task_story(&job, ledger.explain_task(id, &request.resource_id, present)?, &places))
            })
            .await
        })
        .await
    }
}

impl Door {
    /// A read that is told what only the dispatcher knows.
    async fn explained<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Ledger, &Present<'_>) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let dispatch = self.api.dispatch.clone();
        self.read(move |ledger| {
            let host = |name: &str| dispatch.hold(name).map(|hold| (hold.until_ms, hold.has_asked));
            read(ledger, &Present { storage_alarm: &dispatch.status().storage_alarm, host: &host })
        })
        .await
    }
}

type Answered = (pb::SubmitJobsResponse, OwnedSemaphorePermit);

/// Reads and submits items while fewer than [`ITEMS_IN_FLIGHT`] are unanswered. Whatever ends it, what was read is still answered.
async fn take_items(
    mut items: Streaming<pb::SubmitJobsRequest>,
    ingest: Ingest,
    answers: mpsc::Sender<Answered>,
    stop: tokio_util::sync::CancellationToken,
) -> Result<(), Refusal> {
    let places = Arc::new(Semaphore::new(ITEMS_IN_FLIGHT));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let item = tokio::select! {
            () = stop.cancelled() => Err(stopping()),
            item = items.message() => item.map_err(|status| match status.code() {
                Code::OutOfRange => too_large(&status),
                _ => Refusal::new(RefusalCode::InvalidPayload, status.message()),
            }),
        };
        let pb::SubmitJobsRequest { item, job } = match item {
            Ok(Some(item)) => item,
            Ok(None) => return Ok(()),
            Err(refusal) => {
                drop(place);
                // What was begun is answered first: an error ends the answers too.
                let _ = places.acquire_many(convert::count(ITEMS_IN_FLIGHT)).await;
                return Err(refusal);
            }
        };
        let answers = answers.clone();
        let done = answer_once(move |result: Result<pb::SubmitJobResponse, Refusal>| {
            let result = match result {
                Ok(accepted) => ItemResult::Accepted(accepted),
                Err(refusal) => ItemResult::Error(errors::detail(&refusal)),
            };
            // Each place has its slot in the channel, so only a client that is gone is not told.
            let _ = answers.try_send((pb::SubmitJobsResponse { item, result: Some(result) }, place));
        });
        match job.ok_or_else(|| Refusal::invalid("job", "is required")).and_then(convert::submission) {
            Err(refusal) => done(Err(refusal)),
            Ok(submission) => {
                let submitted =
                    ingest.submit(submission, move |result| {
                        done(result.map(|job| {
                            convert::submitted(job.job, job.manifest_key, job.resource_count, job.duplicate)
                        }));
                    });
                submitted.await;
            }
        }
    }
}

/// W3C trace context, as HTTP carries it.
fn trace_parent(metadata: &tonic::metadata::MetadataMap) -> String {
    metadata.get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}
