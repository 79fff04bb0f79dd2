//! Metric names and log output.
//!
//! Owns: the Prometheus registry with every name FetchBox publishes, and the set-up of `tracing`.
//! Must not know: any room. Every room may name it.
//!
//! A job id is never a label.

use std::io::IsTerminal as _;

use serde::{Deserialize, Serialize};

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// A counter whose label is already looked up, for paths that run for every request.
pub use prometheus::IntCounter as Counter;

/// Seconds, from a tenth of a millisecond to a minute.
const LATENCY_BUCKETS: [f64; 14] =
    [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0];

macro_rules! metrics {
    ($($field:ident: $kind:ident $name:literal $([$($label:literal),*])? $help:literal;)*) => {
        /// Everything a daemon counts. One per daemon, shared by reference.
        #[derive(Clone)]
        pub struct Metrics {
            registry: Registry,
            $(#[doc = $help] pub $field: $kind,)*
        }

        impl Metrics {
            /// # Panics
            /// Only if two metrics below had the same name, which a test would show.
            #[allow(clippy::expect_used)]
            pub fn new() -> Self {
                let registry = Registry::new();
                $(let $field = $kind::made($name, $help, &[$($($label),*)?]);
                registry.register(Box::new($field.clone())).expect("metric names are unique");)*
                Self { registry, $($field,)* }
            }

            /// Every name with its kind, labels and meaning, for the documentation's test.
            pub const TABLE: &'static [(&'static str, &'static str, &'static [&'static str], &'static str)] =
                &[$(($name, $kind::KIND, &[$($($label),*)?], $help)),*];
        }
    };
}

metrics! {
    jobs_accepted: IntCounter "fetchbox_jobs_accepted_total" "Jobs made durable.";
    tasks_completed: IntCounter "fetchbox_tasks_completed_total" "Resources stored.";
    tasks_failed: IntCounterVec "fetchbox_tasks_failed_total" ["code"] "Resources given up, by failure code.";
    queue_depth: IntGauge "fetchbox_queue_depth" "Tasks that wait.";
    dlq_size: IntGauge "fetchbox_dlq_size" "Dead letters kept.";
    worker_busy: IntGauge "fetchbox_worker_busy_count" "Worker places in use.";
    api_requests: IntCounterVec "fetchbox_api_requests_total" ["status", "route"] "Requests answered, by status and route.";
    ingest_jobs: IntCounterVec "fetchbox_ingest_jobs_total" ["result"] "Submissions, by result.";
    ingest_bytes: IntCounter "fetchbox_ingest_bytes_total" "Bytes of submitted manifests.";
    ingest_duration: Histogram "fetchbox_ingest_duration_seconds" "From a submission's arrival to its acknowledgement.";
    operator_requests: IntCounter "fetchbox_operator_requests_total" "Requests that list, control or clean.";
    tasks_inflight: IntGauge "fetchbox_worker_tasks_inflight" "Attempts that run.";
    download_latency: Histogram "fetchbox_worker_download_latency_seconds" "From an attempt's start to its object being stored.";
    download_failures: IntCounterVec "fetchbox_worker_download_failures_total" ["code"] "Failed attempts that were the origin's, by code.";
    storage_failures: IntCounterVec "fetchbox_worker_storage_failures_total" ["code"] "Failed attempts that were the object store's, by code.";
    worker_dlq: IntCounter "fetchbox_worker_dlq_total" "Dead letters written.";
    proxy_requests: IntCounterVec "fetchbox_proxy_requests_total" ["pool"] "Requests sent through a proxy, by pool.";
    proxy_failures: IntCounterVec "fetchbox_proxy_failures_total" ["pool"] "Requests that a proxy failed, or may have failed, by pool.";
    bytes_stored: IntCounter "fetchbox_worker_bytes_stored_total" "Bytes of stored objects.";
    bytes_downloaded: IntCounter "fetchbox_worker_bytes_downloaded_total" "Bytes of bodies received, by failed attempts as well.";
    resumes: IntCounter "fetchbox_worker_resumes_total" "Downloads that broke off and went on where they were.";
    unchanged: IntCounter "fetchbox_worker_unchanged_total" "Resources not downloaded because the origin said they had not changed.";
    reused: IntCounter "fetchbox_worker_reused_total" "Resources not uploaded because the same bytes were there already.";
    throttled: IntCounter "fetchbox_worker_throttled_total" "Attempts that were asked to wait (429, or 503 with Retry-After).";
    hosts_paused: IntGauge "fetchbox_worker_hosts_paused" "Hosts that asked for a pause which is not over.";
    breakers_open: IntGauge "fetchbox_worker_breakers_open" "Hosts that do not answer and get nothing but probes.";
    storage_parked: IntGauge "fetchbox_worker_storage_parked" "1 while the object store takes nothing and tasks wait.";
    ledger_jobs_created: IntCounter "fetchbox_ledger_jobs_created_total" "Job rows created.";
    ledger_jobs_updated: IntCounter "fetchbox_ledger_jobs_updated_total" "Job rows changed.";
    ledger_logs_written: IntCounter "fetchbox_ledger_logs_written_total" "Log records written.";
    ledger_idempotency_hits: IntCounter "fetchbox_ledger_idempotency_hits_total" "Submissions answered with an earlier job.";
    ledger_idempotency_misses: IntCounter "fetchbox_ledger_idempotency_misses_total" "Submissions with a key that was new.";
    ledger_pruned_jobs: IntCounter "fetchbox_ledger_pruned_jobs_total" "Jobs deleted by retention.";
    ledger_pruned_logs: IntCounter "fetchbox_ledger_pruned_logs_total" "Log records deleted by retention.";
    commit_latency: Histogram "fetchbox_commit_latency_seconds" "One group's write and sync.";
    commit_groups: IntCounter "fetchbox_commit_groups_total" "Groups committed.";
    persist_received: IntCounter "persist_ipc_messages_received_total" "Messages that came by the joblet socket, refused ones included.";
    persist_bytes_received: IntCounter "persist_bytes_received_total" "Bytes that came by the joblet socket.";
    persist_written: IntCounter "persist_records_written_total" "Records of job output made durable, by any door.";
    persist_storage_bytes: IntCounter "persist_storage_bytes_total" "Bytes of compressed job output made durable, before they are sealed.";
    persist_write_latency: Histogram "persist_write_latency_seconds" "From a batch's first record taken in to its sync.";
    persist_queries: IntCounter "persist_query_requests_total" "Queries of job output.";
    persist_gaps: IntCounter "persist_gaps_total" "Records that senders counted and that never came.";
    persist_refused: IntCounterVec "persist_refused_total" ["reason"] "Messages of job output that were not kept.";
    persist_seal_lag: IntGauge "persist_seal_lag_seconds" "How long the oldest unsealed output has waited.";
    persist_buffer_bytes: IntGauge "persist_buffer_bytes" "Job output taken in and not yet durable.";
    persist_undecodable: IntCounter "persist_undecodable_total" "Stored records of job output that could not be read as what they are, and were left out of an answer.";
    service_ready: IntGaugeVec "service_ready" ["service"] "1 while the part can do its work.";
}

impl Metrics {
    /// The text a Prometheus server scrapes.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The one way each kind of metric is made here.
trait Made: Sized {
    const KIND: &'static str;
    fn made(name: &str, help: &str, labels: &[&str]) -> Self;
}

macro_rules! made {
    ($kind:ident, $called:literal, |$name:ident, $help:ident, $labels:ident| $make:expr) => {
        impl Made for $kind {
            const KIND: &'static str = $called;

            #[allow(clippy::expect_used)]
            fn made($name: &str, $help: &str, $labels: &[&str]) -> Self {
                let _ = $labels;
                $make.expect("metric names and labels are valid")
            }
        }
    };
}

made!(IntCounter, "counter", |name, help, labels| IntCounter::new(name, help));
made!(IntGauge, "gauge", |name, help, labels| IntGauge::new(name, help));
made!(IntCounterVec, "counter", |name, help, labels| IntCounterVec::new(Opts::new(name, help), labels));
made!(IntGaugeVec, "gauge", |name, help, labels| IntGaugeVec::new(Opts::new(name, help), labels));
made!(Histogram, "histogram", |name, help, labels| Histogram::with_opts(
    HistogramOpts::new(name, help).buckets(LATENCY_BUCKETS.to_vec())
));

/// How the daemon writes its log (config `log`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub format: LogFormat,
    /// As tracing's env-filter reads it: a level, or `target=level` pairs separated by commas.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info,fjall=warn,lsm_tree=warn".to_owned() }
    }
}

impl Log {
    /// # Errors
    /// What is wrong with the filter.
    pub fn check(&self) -> Result<(), String> {
        self.parsed().map(drop)
    }

    fn parsed(&self) -> Result<tracing_subscriber::EnvFilter, String> {
        tracing_subscriber::EnvFilter::try_new(&self.filter).map_err(|error| error.to_string())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// Starts the process's log on stderr. Only the first call has an effect.
///
/// # Errors
/// What is wrong with the filter.
pub fn init(log: &Log) -> Result<(), String> {
    let base = tracing_subscriber::fmt().with_env_filter(log.parsed()?).with_writer(std::io::stderr);
    // A second daemon in one process (tests) keeps the first one's log.
    let _ = match log.format {
        LogFormat::Json => base.json().flatten_event(true).try_init(),
        // Under systemd the journal has its own times, and escape codes would be noise.
        LogFormat::Text if std::env::var_os("JOURNAL_STREAM").is_some() => {
            base.without_time().with_ansi(false).try_init()
        }
        LogFormat::Text => base.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_published_name_is_scraped() {
        let metrics = Metrics::new();
        metrics.tasks_failed.with_label_values(&["DOWNLOAD_NOT_FOUND"]).inc();
        metrics.api_requests.with_label_values(&["OK", "GetJob"]).inc();
        metrics.ingest_jobs.with_label_values(&["accepted"]).inc();
        metrics.download_failures.with_label_values(&["DOWNLOAD_TIMEOUT"]).inc();
        metrics.storage_failures.with_label_values(&["UPLOAD_FAILED"]).inc();
        metrics.proxy_requests.with_label_values(&["eu"]).inc();
        metrics.proxy_failures.with_label_values(&["eu"]).inc();
        metrics.persist_refused.with_label_values(&["name"]).inc();
        metrics.service_ready.with_label_values(&["store"]).set(1);
        let text = metrics.render();
        for (name, ..) in Metrics::TABLE {
            assert!(text.contains(name), "{name} is missing");
        }
    }
}
