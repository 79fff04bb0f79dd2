//! What a settled attempt counts as in the metrics.
//!
//! Must not know: anything but settlements.

use crate::model::{Failure, RetryClass};
use crate::store::{End, Settlement};
use crate::telemetry::Metrics;

/// Counts one settlement that was applied.
pub(super) fn count(metrics: &Metrics, settlement: &Settlement) {
    match &settlement.end {
        End::Stored(object) => {
            metrics.tasks_completed.inc();
            metrics.bytes_stored.inc_by(object.size_bytes);
            metrics.download_latency.observe(seconds(settlement));
        }
        End::ManifestStored => {}
        End::Retry { failure, .. } => count_failure(metrics, failure),
        End::Released { failure, .. } => {
            if let Some(failure) = failure {
                count_failure(metrics, failure);
            }
        }
        End::Dead(failure) => {
            count_failure(metrics, failure);
            metrics.tasks_failed.with_label_values(&[failure.code.as_str()]).inc();
            metrics.worker_dlq.inc();
        }
    }
}

/// By whose failure it was.
fn count_failure(metrics: &Metrics, failure: &Failure) {
    let code = failure.code.as_str();
    let is_storage =
        failure.code.class() == RetryClass::Parked || code.starts_with("UPLOAD_") || code.starts_with("STORAGE_");
    let is_download = code.starts_with("DOWNLOAD_") || code.starts_with("AUTH_");
    if is_storage {
        metrics.storage_failures.with_label_values(&[code]).inc();
    } else if is_download {
        metrics.download_failures.with_label_values(&[code]).inc();
    }
}

fn seconds(settlement: &Settlement) -> f64 {
    let ms = settlement.now_ms.saturating_sub(settlement.started_at_ms).max(0);
    std::time::Duration::from_millis(ms.unsigned_abs()).as_secs_f64()
}
