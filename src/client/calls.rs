//! One method per call of JobService and LedgerService.
//!
//! Owns: nothing but the list. Must not know: how a call travels.

use futures_util::stream::{BoxStream, Stream, StreamExt as _};

use super::{Client, Error};
use crate::proto::fetchbox::v1 as pb;

/// Answers as they come; an error ends the stream.
pub type Answers<T> = BoxStream<'static, Result<T, Error>>;

macro_rules! calls {
    ($($(#[$doc:meta])* $service:ident.$method:ident: $request:ident => $response:ident;)*) => {
        impl Client {
            $($(#[$doc])*
            pub async fn $method(&self, request: pb::$request) -> Result<pb::$response, Error> {
                Ok(self.$service.clone().$method(request).await?.into_inner())
            })*
        }
    };
}

calls! {
    /// Makes a job durable. Safe to repeat with the same idempotency key.
    jobs.submit_job: SubmitJobRequest => SubmitJobResponse;
    /// A dry run: every violation, the planned tasks.
    jobs.validate_manifest: SubmitJobRequest => ValidateManifestResponse;
    jobs.get_job: GetJobRequest => Job;
    /// Newest first, page by page.
    jobs.list_jobs: ListJobsRequest => ListJobsResponse;
    jobs.list_tasks: ListTasksRequest => ListTasksResponse;
    /// The manifest as it was accepted.
    jobs.get_manifest: GetJobRequest => Manifest;
    jobs.cancel_job: CancelJobRequest => Job;
    /// Queues failed and canceled resources again.
    jobs.retry_job: RetryJobRequest => RetryJobResponse;
    /// Terminal jobs only.
    jobs.delete_job: DeleteJobRequest => DeleteJobResponse;
    jobs.explain_job: ExplainJobRequest => ExplainJobResponse;
    jobs.explain_task: ExplainTaskRequest => ExplainTaskResponse;
    ledger.query_metrics: QueryMetricsRequest => QueryMetricsResponse;
    ledger.update_job_status: UpdateJobStatusRequest => Job;
    ledger.append_logs: AppendLogsRequest => AppendLogsResponse;
    /// Newest first over all jobs.
    ledger.list_recent_failures: ListRecentFailuresRequest => ListRecentFailuresResponse;
    /// Oldest first.
    ledger.list_dead_letters: ListDeadLettersRequest => ListDeadLettersResponse;
    ledger.get_dead_letter: GetDeadLetterRequest => DeadLetterTask;
    ledger.replay_dead_letters: ReplayDeadLettersRequest => ReplayDeadLettersResponse;
    ledger.purge_dead_letters: PurgeDeadLettersRequest => PurgeDeadLettersResponse;
    ledger.cleanup_old_data: CleanupOldDataRequest => CleanupOldDataResponse;
    ledger.get_stats: GetStatsRequest => GetStatsResponse;
    ledger.control_queue: ControlQueueRequest => ControlQueueResponse;
    ledger.get_health: GetHealthRequest => GetHealthResponse;
}

impl Client {
    /// Submits as `jobs` gives them; answers carry each item's number and may come in another order.
    pub async fn submit_jobs(
        &self,
        jobs: impl Stream<Item = pb::SubmitJobsRequest> + Send + 'static,
    ) -> Result<Answers<pb::SubmitJobsResponse>, Error> {
        Ok(answers(self.jobs.clone().submit_jobs(jobs).await?.into_inner()))
    }

    /// Snapshots until the job ends. After a break, resume with the last revision seen.
    pub async fn watch_job(&self, request: pb::WatchJobRequest) -> Result<Answers<pb::Job>, Error> {
        Ok(answers(self.jobs.clone().watch_job(request).await?.into_inner()))
    }

    /// One page in one or more messages, or with `follow` everything until the job ends. After a break, resume at `next_offset`.
    pub async fn query_logs(&self, request: pb::QueryLogsRequest) -> Result<Answers<pb::QueryLogsResponse>, Error> {
        Ok(answers(self.ledger.clone().query_logs(request).await?.into_inner()))
    }

    /// Hits as they are found, with how far the search is; the last message says where to go on.
    pub async fn search_logs(&self, request: pb::SearchLogsRequest) -> Result<Answers<pb::SearchLogsResponse>, Error> {
        Ok(answers(self.ledger.clone().search_logs(request).await?.into_inner()))
    }
}

pub(super) fn answers<T: Send + 'static>(stream: tonic::Streaming<T>) -> Answers<T> {
    stream.map(|item| item.map_err(Error::from)).boxed()
}
