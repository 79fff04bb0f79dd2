//! LedgerService.
//!
//! Owns: which room answers which method. Must not know: how.

use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use tonic::{Request, Response, Status};

use super::door::{Answers, Call, Door};
use super::{append, convert, errors};
use crate::clock::Clock;
use crate::ledger::{LogPage, Tail};
use crate::model::{DeadLetterSelector, JobId, Refusal};
use crate::proto::fetchbox::v1 as pb;
use crate::proto::fetchbox::v1::ledger_service_server::LedgerService;

/// Job ids one replay names in its answer.
const REPLAYED_IDS_MAX: usize = 1_000;

type Pages = BoxStream<'static, Result<LogPage, Refusal>>;

#[tonic::async_trait]
impl LedgerService for Door {
    async fn update_job_status(
        &self,
        request: Request<pb::UpdateJobStatusRequest>,
    ) -> Result<Response<pb::Job>, Status> {
        self.once(Call::client("UpdateJobStatus"), async {
            let update = convert::status_update(request.into_inner(), self.api.clock.now_ms(), |path, text| {
                self.api.job_id(path, text)
            })?;
            Ok(convert::job(&self.api.ingest.update_status(update).await?))
        })
        .await
    }

    async fn query_metrics(
        &self,
        request: Request<pb::QueryMetricsRequest>,
    ) -> Result<Response<pb::QueryMetricsResponse>, Status> {
        self.once(Call::client("QueryMetrics"), async {
            let request = request.into_inner();
            let query = convert::metric_query(&request)?;
            let no_job = || Refusal::not_found(format!("job {}", request.job_id)).with_job(&request.job_id);
            let id = self.known(&request.job_id).await?.ok_or_else(no_job)?.id;
            let page = self.read(move |ledger| ledger.metrics(id, &query)).await?;
            Ok(convert::metrics(page, &convert::functions(&request)))
        })
        .await
    }

    type SearchLogsStream = Answers<pb::SearchLogsResponse>;

    async fn search_logs(
        &self,
        request: Request<pb::SearchLogsRequest>,
    ) -> Result<Response<Self::SearchLogsStream>, Status> {
        let request = request.into_inner();
        let pages = convert::search(&request, |path, text| self.api.job_id(path, text))
            .and_then(|query| self.api.ledger.search(&query, &request.page_token))
            .map_err(|refusal| errors::status(&refusal))?;
        Ok(self.stream(Call::operator("SearchLogs"), pages.map(|page| page.map(convert::search_page)).boxed()))
    }

    async fn append_logs(
        &self,
        request: Request<pb::AppendLogsRequest>,
    ) -> Result<Response<pb::AppendLogsResponse>, Status> {
        self.once(Call::client("AppendLogs"), append::append_logs(&self.api, request.into_inner())).await
    }

    type QueryLogsStream = Answers<pb::QueryLogsResponse>;

    async fn query_logs(
        &self,
        request: Request<pb::QueryLogsRequest>,
    ) -> Result<Response<Self::QueryLogsStream>, Status> {
        let request = request.into_inner();
        let (job_id, pages) = self.log_pages(&request).map_err(|refusal| errors::status(&refusal))?;
        let messages = pages.flat_map(move |page| match page {
            Ok(page) => stream::iter(convert::log_messages(&page, &job_id).into_iter().map(Ok).collect::<Vec<_>>()),
            Err(refusal) => stream::iter(vec![Err(refusal)]),
        });
        Ok(self.stream(Call::client("QueryLogs"), messages.boxed()))
    }

    async fn list_recent_failures(
        &self,
        request: Request<pb::ListRecentFailuresRequest>,
    ) -> Result<Response<pb::ListRecentFailuresResponse>, Status> {
        self.once(Call::operator("ListRecentFailures"), async {
            let request = request.into_inner();
            let filter = convert::failure_filter(&request)?;
            let page = convert::page(request.page_size, &request.page_token)?;
            self.read(move |ledger| {
                let page = ledger.failures(&filter, &page)?;
                let failures = page.items.iter().map(convert::recent_failure).collect();
                Ok(pb::ListRecentFailuresResponse { failures, next_page_token: page.next_token })
            })
            .await
        })
        .await
    }

    async fn list_dead_letters(
        &self,
        request: Request<pb::ListDeadLettersRequest>,
    ) -> Result<Response<pb::ListDeadLettersResponse>, Status> {
        self.once(Call::operator("ListDeadLetters"), async {
            let request = request.into_inner();
            let selector = self.selector(request.selector)?;
            let page = convert::page(request.page_size, &request.page_token)?;
            let places = self.api.places.clone();
            self.read(move |ledger| {
                let page = ledger.dead_letters(&selector, &page)?;
                let dead_letters = page.items.iter().map(|letter| convert::dead_letter(letter, &places)).collect();
                Ok(pb::ListDeadLettersResponse { dead_letters, next_page_token: page.next_token })
            })
            .await
        })
        .await
    }

    async fn get_dead_letter(
        &self,
        request: Request<pb::GetDeadLetterRequest>,
    ) -> Result<Response<pb::DeadLetterTask>, Status> {
        self.once(Call::operator("GetDeadLetter"), async {
            let id = convert::dead_letter_id("id", &request.get_ref().id)?;
            Ok(convert::dead_letter(&self.api.ledger.dead_letter(id)?, &self.api.places))
        })
        .await
    }

    async fn replay_dead_letters(
        &self,
        request: Request<pb::ReplayDeadLettersRequest>,
    ) -> Result<Response<pb::ReplayDeadLettersResponse>, Status> {
        self.once(Call::bulk("ReplayDeadLetters"), async {
            let report = self.api.dispatch.replay(self.selector(request.into_inner().selector)?).await?;
            Ok(pb::ReplayDeadLettersResponse {
                matched: report.matched,
                replayed: report.replayed,
                job_ids: report.jobs.iter().take(REPLAYED_IDS_MAX).map(JobId::to_string).collect(),
            })
        })
        .await
    }

    async fn purge_dead_letters(
        &self,
        request: Request<pb::PurgeDeadLettersRequest>,
    ) -> Result<Response<pb::PurgeDeadLettersResponse>, Status> {
        self.once(Call::bulk("PurgeDeadLetters"), async {
            let selector = self.selector(request.into_inner().selector)?;
            let (matched, purged) = self.api.retention.purge(selector).await?;
            Ok(pb::PurgeDeadLettersResponse { matched, purged })
        })
        .await
    }

    async fn cleanup_old_data(
        &self,
        request: Request<pb::CleanupOldDataRequest>,
    ) -> Result<Response<pb::CleanupOldDataResponse>, Status> {
        self.once(Call::bulk("CleanupOldData"), async {
            let started = Clock::instant();
            let report = self.api.retention.cleanup(convert::cleanup(request.get_ref())?).await?;
            let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            Ok(convert::cleanup_report(report, duration_ms))
        })
        .await
    }

    async fn get_stats(
        &self,
        _request: Request<pb::GetStatsRequest>,
    ) -> Result<Response<pb::GetStatsResponse>, Status> {
        self.once(Call::operator("GetStats"), self.stats()).await
    }

    async fn control_queue(
        &self,
        request: Request<pb::ControlQueueRequest>,
    ) -> Result<Response<pb::ControlQueueResponse>, Status> {
        self.once(Call::operator("ControlQueue"), async {
            let change = convert::control_change(request.into_inner())?;
            Ok(convert::controls(self.api.dispatch.control(change).await?))
        })
        .await
    }

    async fn get_health(
        &self,
        _request: Request<pb::GetHealthRequest>,
    ) -> Result<Response<pb::GetHealthResponse>, Status> {
        self.once(Call::client("GetHealth"), async {
            let live = self.api.health.live().await;
            Ok(convert::health(&live, &self.api.readiness().await))
        })
        .await
    }
}

impl Door {
    /// Pages, and the id they are shown under.
    fn log_pages(&self, request: &pb::QueryLogsRequest) -> Result<(String, Pages), Refusal> {
        let id = self.api.job_id("job_id", &request.job_id)?;
        let shown = self.api.ledger.job(id)?.public_id();
        let query = convert::log_query(request)?;
        if request.follow {
            return Ok((shown, self.api.ledger.follow(id, query)));
        }
        let door = self.clone();
        if query.tail > 0 {
            return Ok((shown, door.tail_pages(id, Tail::new(&query)?)));
        }
        let page = async move { door.read(move |ledger| ledger.logs(id, &query)).await };
        Ok((shown, stream::once(page).boxed()))
    }

    /// Where a tail begins is looked for in turns, so that a long search stands in nobody's way and ends with its caller.
    fn tail_pages(self, id: JobId, tail: Tail) -> Pages {
        let pages = stream::try_unfold(Some(tail), move |tail| {
            let door = self.clone();
            async move {
                let Some(tail) = tail else { return Ok(None) };
                door.read(move |ledger| ledger.tail(id, tail)).await.map(Some)
            }
        });
        pages.try_filter_map(|page| std::future::ready(Ok(page))).boxed()
    }

    fn selector(&self, selector: Option<pb::DeadLetterSelector>) -> Result<DeadLetterSelector, Refusal> {
        convert::selector(selector, |path, text| self.api.job_id_of_old(path, text))
    }

    async fn stats(&self) -> Result<pb::GetStatsResponse, Refusal> {
        let status = self.api.dispatch.status();
        self.read(move |ledger| {
            let counters = ledger.counters();
            let sizes = ledger.sizes();
            let controls = convert::controls(ledger.controls());
            Ok(pb::GetStatsResponse {
                queue_depth: counters.tasks_open.saturating_sub(counters.tasks_leased),
                tasks_in_flight: status.in_flight,
                queue_lag_ms: status.lag_ms,
                dlq_size: counters.dead_letters.values().sum(),
                dlq_by_code: counters.dead_letters.into_iter().collect(),
                jobs_by_state: counters.jobs.into_iter().map(|(state, jobs)| (state.name().to_owned(), jobs)).collect(),
                bytes_by_keyspace: sizes.keyspaces.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect(),
                journal_bytes: sizes.journal_bytes,
                paused: controls.paused,
                draining: controls.draining,
                paused_job_types: controls.paused_job_types,
                paused_hosts: controls.paused_hosts,
                free_disk_bytes: sizes.free_disk_bytes,
                sequence: ledger.sequence(),
                storage_alarm: status.storage_alarm,
            })
        })
        .await
    }
}
