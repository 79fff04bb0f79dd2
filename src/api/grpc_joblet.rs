//! joblet.JobService, as far as it reads output: joblet's clients may ask us directly.
//!
//! Owns: what its two calls mean. Must not know: how records are read and sent (see `pages`).

use tonic::{Request, Response, Status};

use super::door::{Answers, Call, Door};
use super::pages::{Part, Reading};
use super::{convert, errors};
use crate::model::{Job, OutputKind, Refusal};
use crate::proto::joblet as jp;
use crate::proto::joblet::job_service_server::JobService;

#[tonic::async_trait]
impl JobService for Door {
    type GetJobLogsStream = Answers<jp::DataChunk>;

    async fn get_job_logs(
        &self,
        request: Request<jp::GetJobLogsRequest>,
    ) -> Result<Response<Self::GetJobLogsStream>, Status> {
        let job = self.asked_for(&request.into_inner().uuid).await?;
        let reading = Reading::new(convert::output_query(OutputKind::Log, 0, 0), Part::new(0, 0));
        let chunks = self.output(&job, reading.one_after_the_other(), convert::chunk);
        Ok(self.stream(Call::client("JobletGetJobLogs"), chunks))
    }

    type GetJobMetricsStream = Answers<jp::JobMetricsEvent>;

    async fn get_job_metrics(
        &self,
        request: Request<jp::GetJobMetricsRequest>,
    ) -> Result<Response<Self::GetJobMetricsStream>, Status> {
        let request = request.into_inner();
        let job = self.asked_for(&request.job_uuid).await?;
        let query = convert::output_query(OutputKind::Metric, request.start_time, request.end_time);
        let metrics = self.output(&job, Reading::new(query, Part::new(request.limit, 0)), convert::job_metrics);
        Ok(self.stream(Call::client("JobletGetJobMetrics"), metrics))
    }
}

impl Door {
    async fn asked_for(&self, id: &str) -> Result<Job, Status> {
        self.api.metrics.persist_queries.inc();
        let no_job = || Refusal::not_found("this job").with_job(id);
        let found = self.known(id).await.and_then(|job| job.ok_or_else(no_job));
        found.map_err(|refusal| errors::status(&refusal))
    }
}
