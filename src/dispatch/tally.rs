//! What a settled attempt counts as in the metrics.
//!
//! Must not know: anything but settlements.

use crate::model::{Failure, RetryClass, Way};
use crate::store::{End, Settlement};
use crate::telemetry::Metrics;

/// Counts one settlement that was applied.
pub(super) fn count(metrics: &Metrics, settlement: &Settlement) {
    match &settlement.end {
        End::Stored { object, validators: _, context } => {
            metrics.tasks_completed.inc();
            count_way(metrics, Way(context), object.size_bytes);
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
            // A manifest that is refused leaves no dead letter.
            if settlement.task.is_manifest() {
                return;
            }
            metrics.tasks_failed.with_label_values(&[failure.code.as_str()]).inc();
            metrics.worker_dlq.inc();
        }
    }
}

/// What was moved, and what did not have to be.
fn count_way(metrics: &Metrics, way: Way<'_>, size_bytes: u64) {
    metrics.resumes.inc_by(way.resumes());
    if way.is_not_changed() {
        metrics.unchanged.inc();
        return;
    }
    metrics.bytes_stored.inc_by(if way.is_reused() { 0 } else { size_bytes });
    metrics.bytes_downloaded.inc_by(way.bytes_received(size_bytes));
    if way.is_reused() {
        metrics.reused.inc();
    }
}

/// By whose failure it was.
fn count_failure(metrics: &Metrics, failure: &Failure) {
    metrics.bytes_downloaded.inc_by(Way(&failure.context).bytes_received(0));
    if failure.code.class() == RetryClass::Throttled {
        metrics.throttled.inc();
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FailureCode, JobId, StoredObject, TaskIndex, TaskRef, Validators};

    fn settled(metrics: &Metrics, end: End) {
        let task = TaskRef { job: JobId::MIN, index: TaskIndex(0) };
        count(metrics, &Settlement { task, epoch: 1, now_ms: 2_000, started_at_ms: 1_000, end, log: None });
    }

    fn stored(context: &[(&str, &str)]) -> End {
        let context = context.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let object = StoredObject { size_bytes: 1_000, ..StoredObject::default() };
        End::Stored { object, validators: Validators::default(), context }
    }

    #[test]
    fn bytes_are_counted_where_they_were_moved_and_only_there() {
        let metrics = Metrics::new();
        let counted = || (metrics.bytes_downloaded.get(), metrics.bytes_stored.get());
        settled(&metrics, stored(&[]));
        assert_eq!(counted(), (1_000, 1_000));
        let broke = Failure::new(FailureCode::DownloadInterrupted, "x").with("bytes", 400);
        settled(&metrics, End::Retry { failure: broke, not_before_ms: 3_000 });
        settled(&metrics, stored(&[("continued_at", "400")]));
        assert_eq!((counted(), metrics.resumes.get()), ((2_000, 2_000), 1));
        settled(&metrics, stored(&[("not_changed", "true")]));
        settled(&metrics, stored(&[("reused", "true")]));
        assert_eq!(counted(), (3_000, 2_000));
        assert_eq!((metrics.unchanged.get(), metrics.reused.get(), metrics.tasks_completed.get()), (1, 1, 4));
    }

    #[test]
    fn a_failure_is_counted_on_the_side_it_belongs_to() {
        let metrics = Metrics::new();
        let fail = |code| settled(&metrics, End::Retry { failure: Failure::new(code, "x"), not_before_ms: 1 });
        fail(FailureCode::DownloadThrottled);
        fail(FailureCode::UploadFailed);
        settled(&metrics, End::Dead(Failure::new(FailureCode::AuthRejected, "x")));
        assert_eq!(metrics.throttled.get(), 1);
        assert_eq!(metrics.download_failures.with_label_values(&["DOWNLOAD_THROTTLED"]).get(), 1);
        assert_eq!(metrics.download_failures.with_label_values(&["AUTH_REJECTED"]).get(), 1);
        assert_eq!(metrics.storage_failures.with_label_values(&["UPLOAD_FAILED"]).get(), 1);
        assert_eq!((metrics.worker_dlq.get(), metrics.tasks_completed.get()), (1, 0));
    }
}
