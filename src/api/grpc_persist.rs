//! joblet.persist.PersistService: what joblet's core and its clients ask about the output of jobs.
//!
//! Owns: what each call means to joblet (an unknown job is an empty answer, a deletion never fails as a call), our additions to them.
//! Must not know: how records are read and sent (see `pages`), rows.

use futures_util::stream::{self, StreamExt as _};
use tonic::{Request, Response, Status};

use super::convert::{self, Show};
use super::door::{Answers, Call, Door};
use super::errors;
use super::pages::{Items, Part, Reading};
use crate::ledger::MetricQuery;
use crate::model::{Cleanup, CleanupKind, Job, OutputKind, Refusal, RefusalCode};
use crate::proto::joblet::persist as pp;
use crate::proto::joblet::persist::persist_service_server::PersistService;

/// Jobs in one answer: some 8 MB.
const JOBS_MAX: usize = 100_000;
/// What persist keeps.
const CLEANED: [CleanupKind; 4] = [CleanupKind::Jobs, CleanupKind::Logs, CleanupKind::Metrics, CleanupKind::Events];

macro_rules! events {
    ($($method:ident, $stream:ident, $event:ident, $name:literal: $kind:ident by $show:path;)*) => {
        #[tonic::async_trait]
        impl PersistService for Door {
            $(type $stream = Answers<pp::$event>;

            async fn $method(
                &self,
                request: Request<pp::QueryTelemetryRequest>,
            ) -> Result<Response<Self::$stream>, Status> {
                self.telemetry($name, OutputKind::$kind, request.into_inner(), $show).await
            })*

            async fn ping(&self, _request: Request<pp::PingRequest>) -> Result<Response<pp::PingResponse>, Status> {
                let timestamp = self.api.clock.now_ms().saturating_mul(1_000_000);
                let healthy = self.api.ledger.fault().is_none();
                self.once(Call::client("PersistPing"), async { Ok(pp::PingResponse { healthy, timestamp }) }).await
            }

            type QueryLogsStream = Answers<pp::LogLine>;

            async fn query_logs(
                &self,
                request: Request<pp::QueryLogsRequest>,
            ) -> Result<Response<Self::QueryLogsStream>, Status> {
                let request = request.into_inner();
                let found = self.known(&request.job_uuid).await;
                let items = found.and_then(|job| self.logs_of(job, &request));
                self.query("PersistQueryLogs", items)
            }

            type QueryMetricsStream = Answers<pp::Metric>;

            async fn query_metrics(
                &self,
                request: Request<pp::QueryMetricsRequest>,
            ) -> Result<Response<Self::QueryMetricsStream>, Status> {
                let request = request.into_inner();
                let found = self.known(&request.job_uuid).await;
                self.query("PersistQueryMetrics", found.map(|job| self.metrics_of(job, &request)))
            }

            async fn delete_job(
                &self,
                request: Request<pp::DeleteJobRequest>,
            ) -> Result<Response<pp::DeleteJobResponse>, Status> {
                let request = request.into_inner();
                self.once(Call::bulk("PersistDeleteJob"), async {
                    Ok(match self.delete_output(&request.job_uuid).await {
                        Ok(message) => pp::DeleteJobResponse { success: true, message },
                        Err(refusal) => pp::DeleteJobResponse { success: false, message: refusal.to_string() },
                    })
                })
                .await
            }

            async fn get_job_info(
                &self,
                request: Request<pp::GetJobInfoRequest>,
            ) -> Result<Response<pp::GetJobInfoResponse>, Status> {
                let request = request.into_inner();
                self.once(Call::client("PersistGetJobInfo"), async {
                    let no_job = || Refusal::not_found("this job").with_job(&request.job_id);
                    let job = self.known(&request.job_id).await?.ok_or_else(no_job)?;
                    let pp::JobInfo { job_id, created_at, last_updated, log_count, metric_count, size_bytes } =
                        convert::job_info(&job);
                    Ok(pp::GetJobInfoResponse {
                        job_id,
                        created_at,
                        last_updated,
                        log_count,
                        metric_count,
                        size_bytes,
                        next_ordinals: convert::next_ordinals(&job),
                    })
                })
                .await
            }

            async fn list_jobs(
                &self,
                request: Request<pp::ListJobsRequest>,
            ) -> Result<Response<pp::ListJobsResponse>, Status> {
                self.once(Call::bulk("PersistListJobs"), self.jobs_of(request.into_inner())).await
            }

            async fn get_stats(
                &self,
                _request: Request<pp::GetStatsRequest>,
            ) -> Result<Response<pp::GetStatsResponse>, Status> {
                self.once(Call::bulk("PersistGetStats"), self.output_stats()).await
            }

            async fn cleanup_old_data(
                &self,
                request: Request<pp::CleanupRequest>,
            ) -> Result<Response<pp::CleanupResponse>, Status> {
                let dry_run = request.into_inner().dry_run;
                self.once(Call::bulk("PersistCleanupOldData"), self.clean_output(dry_run)).await
            }

            async fn append_records(
                &self,
                request: Request<pp::AppendRecordsRequest>,
            ) -> Result<Response<pp::AppendRecordsResponse>, Status> {
                self.once(Call::client("PersistAppendRecords"), self.append(request.into_inner())).await
            }
        }
    };
}

events! {
    query_exec_events, QueryExecEventsStream, ExecEvent, "PersistQueryExecEvents": Exec by convert::exec;
    query_connect_events, QueryConnectEventsStream, ConnectEvent, "PersistQueryConnectEvents": Connect by convert::connect;
    query_mmap_events, QueryMmapEventsStream, MmapEvent, "PersistQueryMmapEvents": Mmap by convert::mmap;
    query_mprotect_events, QueryMprotectEventsStream, MprotectEvent, "PersistQueryMprotectEvents": Mprotect by convert::mprotect;
    query_file_events, QueryFileEventsStream, FileEvent, "PersistQueryFileEvents": File by convert::file;
    query_accept_events, QueryAcceptEventsStream, AcceptEvent, "PersistQueryAcceptEvents": Accept by convert::accept;
    query_socket_data_events, QuerySocketDataEventsStream, SocketDataEvent, "PersistQuerySocketDataEvents": SocketData by convert::socket_data;
}

impl Door {
    /// The job of an id or a name, if there is one.
    pub(super) async fn known(&self, id: &str) -> Result<Option<Job>, Refusal> {
        let id = id.to_owned();
        self.read(move |ledger| ledger.find(&id)).await
    }

    /// A stream of answers, counted. None: nothing, and a clean end.
    fn query<T: Send + 'static>(
        &self,
        route: &'static str,
        items: Result<Option<Items<T>>, Refusal>,
    ) -> Result<Response<Answers<T>>, Status> {
        self.api.metrics.persist_queries.inc();
        let items = items.map_err(|refusal| errors::status(&refusal))?;
        Ok(self.stream(Call::client(route), items.unwrap_or_else(|| stream::empty().boxed())))
    }

    async fn telemetry<T: Send + 'static>(
        &self,
        route: &'static str,
        kind: OutputKind,
        request: pp::QueryTelemetryRequest,
        show: Show<T>,
    ) -> Result<Response<Answers<T>>, Status> {
        let items = |job: Job| {
            let query = convert::output_query(kind, request.start_time, request.end_time);
            self.output(&job, Reading::new(query, Part::new(request.limit, request.offset)), show)
        };
        self.query(route, self.known(&request.job_uuid).await.map(|job| job.map(items)))
    }

    fn logs_of(&self, job: Option<Job>, request: &pp::QueryLogsRequest) -> Result<Option<Items<pp::LogLine>>, Refusal> {
        let mut query = convert::output_query(OutputKind::Log, request.start_time, request.end_time);
        query.stream = convert::stream_in(request.stream);
        query.look_for(&request.text, &request.regex, request.ignore_case)?;
        let Some(job) = job else { return Ok(None) };
        if request.follow {
            self.api.ledger.begin(&job, OutputKind::Log, request.from_offset)?;
        }
        let both = query.stream.is_none();
        let mut part = Part::new(request.limit, request.offset);
        let tail = u64::from(request.tail);
        if tail > 0 && !request.follow {
            part = part.at_most(tail);
        }
        let mut reading = Reading::new(query, part);
        (reading.from, reading.tail, reading.follow) = (request.from_offset, tail, request.follow);
        if both && tail == 0 && !request.follow && !request.arrival_order {
            reading = reading.one_after_the_other();
        }
        Ok(Some(self.output(&job, reading, convert::log_line)))
    }

    fn metrics_of(&self, job: Option<Job>, request: &pp::QueryMetricsRequest) -> Option<Items<pp::Metric>> {
        let job = job?;
        let part = Part::new(request.limit, request.offset);
        if request.step_seconds == 0 {
            let query = convert::output_query(OutputKind::Metric, request.start_time, request.end_time);
            return Some(self.output(&job, Reading::new(query, part), convert::metric));
        }
        let query = MetricQuery {
            from_ns: request.start_time,
            // The end is included.
            until_ns: if request.end_time > 0 { request.end_time.saturating_add(1) } else { 0 },
            step_ms: i64::from(request.step_seconds) * 1_000,
            ..MetricQuery::default()
        };
        Some(self.step_metrics(&job, query, request.aggregate(), part))
    }

    /// What was done, in words.
    async fn delete_output(&self, id: &str) -> Result<String, Refusal> {
        let Some(job) = self.known(id).await? else { return Ok(String::from("there is no such job")) };
        match self.api.retention.delete_output_job(job.id).await {
            Err(refusal) if refusal.code != RefusalCode::NotFound => Err(refusal),
            Ok(_) | Err(_) => Ok(String::from("the job and all its output are deleted")),
        }
    }

    async fn jobs_of(&self, request: pp::ListJobsRequest) -> Result<pp::ListJobsResponse, Refusal> {
        let limit = match usize::try_from(request.limit).unwrap_or(0) {
            0 => JOBS_MAX,
            limit => limit.min(JOBS_MAX),
        };
        let offset = usize::try_from(request.offset).unwrap_or(0);
        self.read(move |ledger| {
            let (mut jobs, mut total) = (Vec::new(), 0usize);
            ledger.output_jobs(|job| {
                let info = convert::job_info(&job);
                let late = request.since > 0 && info.created_at < request.since;
                if late || (request.until > 0 && info.created_at > request.until) {
                    return;
                }
                if total >= offset && jobs.len() < limit {
                    jobs.push(info);
                }
                total += 1;
            })?;
            Ok(pp::ListJobsResponse { jobs, total_count: i32::try_from(total).unwrap_or(i32::MAX) })
        })
        .await
    }

    async fn output_stats(&self) -> Result<pp::GetStatsResponse, Refusal> {
        let metrics = &self.api.metrics;
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let (received, written) = (number(metrics.persist_received.get()), number(metrics.persist_written.get()));
        let lost = |reason| metrics.persist_refused.with_label_values(&[reason]).get();
        let write_errors = number(lost("job").saturating_add(lost("store")));
        self.read(move |ledger| {
            let mut stats = pp::GetStatsResponse {
                messages_received: received,
                messages_written: written,
                write_errors,
                ..Default::default()
            };
            ledger.output_jobs(|job| {
                let info = convert::job_info(&job);
                stats.total_jobs += 1;
                stats.total_logs = stats.total_logs.saturating_add(info.log_count);
                stats.total_metrics = stats.total_metrics.saturating_add(info.metric_count);
                stats.total_size_bytes = stats.total_size_bytes.saturating_add(info.size_bytes);
            })?;
            Ok(stats)
        })
        .await
    }

    async fn clean_output(&self, dry_run: bool) -> Result<pp::CleanupResponse, Refusal> {
        let cleanup = Cleanup { kinds: CLEANED.into(), dry_run, compact: !dry_run, ..Cleanup::default() };
        let report = self.api.retention.cleanup(cleanup).await?;
        let jobs = report.deleted.get(&CleanupKind::Jobs).copied().unwrap_or(0);
        Ok(pp::CleanupResponse {
            jobs_deleted: i32::try_from(jobs).unwrap_or(i32::MAX),
            bytes_freed: i64::try_from(report.reclaimed_bytes).unwrap_or(i64::MAX),
            deleted_job_ids: report.jobs,
        })
    }

    async fn append(&self, request: pp::AppendRecordsRequest) -> Result<pp::AppendRecordsResponse, Refusal> {
        let pp::AppendRecordsRequest { job_uuid, create, records, expected_ordinal } = request;
        let count = convert::count(records.len());
        // The largest request takes tens of milliseconds to copy.
        let name = job_uuid.clone();
        let converted = tokio::task::spawn_blocking(move || convert::new_outputs(&name, records)).await;
        let records = converted.unwrap_or_else(|error| Err(Refusal::new(RefusalCode::Internal, error.to_string())))?;
        let first = records.first().map(|record| record.kind);
        if expected_ordinal.is_some() && records.iter().any(|record| Some(record.kind) != first) {
            return Err(Refusal::invalid("records", "must be of one type where an ordinal is expected"));
        }
        // Who expects records there does not mean a new job.
        let job = if create && expected_ordinal.unwrap_or_default() == 0 {
            self.api.ingest.open_job(&job_uuid).await?
        } else {
            let no_job = || Refusal::not_found("this job").with_job(&job_uuid);
            self.known(&job_uuid).await?.ok_or_else(no_job)?.id
        };
        if !records.is_empty() {
            self.api.ingest.append_output(job, records, expected_ordinal).await?;
        }
        Ok(pp::AppendRecordsResponse { count })
    }
}
