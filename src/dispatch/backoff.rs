//! What a failed attempt means for its task: try again, wait without counting, or give up.
//!
//! Pure: the time and the jitter come in. Must not know: queues, stores, who runs.

use std::time::Duration;

use crate::model::{Budget, FailureCode, RetryClass};
use crate::store::Tried;

/// No origin can make a task wait longer than this.
const RETRY_AFTER_MAX_MS: i64 = 24 * 60 * 60 * 1_000;

/// The numbers retries follow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    pub attempts_max: u32,
    pub upload_attempts_max: u32,
    pub unlikely_attempts_max: u32,
    pub throttled_attempts_max: u32,
    pub min_ms: i64,
    pub max_ms: i64,
}

/// What is done with the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Another attempt, no sooner than this.
    Retry { not_before_ms: i64 },
    /// Our own storage cannot take it: waits, and the attempt does not count.
    Park,
    /// No attempt is left, or none would help.
    Dead,
}

impl Policy {
    /// `tried` is what had failed before this failure; each budget counts its own kind. `unit` is uniform in `0.0..1.0`.
    pub fn verdict(
        &self,
        code: FailureCode,
        tried: Tried,
        retry_after: Option<Duration>,
        now_ms: i64,
        unit: f64,
    ) -> Verdict {
        let unlikely_max = match code.class() {
            RetryClass::Transient | RetryClass::Throttled => u32::MAX,
            RetryClass::Unlikely => self.unlikely_attempts_max,
            RetryClass::Permanent => return Verdict::Dead,
            RetryClass::Parked => return Verdict::Park,
        };
        let (before, budget) = match code.budget() {
            Budget::Download => (tried.downloads, self.attempts_max),
            Budget::Upload => (tried.uploads, self.upload_attempts_max),
            Budget::Throttled => (tried.throttled, self.throttled_attempts_max),
            Budget::None => return Verdict::Park,
        };
        let attempt = before.saturating_add(1);
        if attempt >= budget.min(unlikely_max) {
            return Verdict::Dead;
        }
        let own = self.wait_ms(attempt, unit);
        let asked = retry_after.map_or(0, capped_ms);
        // Jitter also above what was asked: else all tasks of a throttling host come back in one instant.
        let wait = asked.saturating_add(own.min(asked)).max(own);
        Verdict::Retry { not_before_ms: now_ms.saturating_add(wait) }
    }

    /// Full jitter between the minimum and a ceiling that doubles with each attempt up to the maximum.
    pub fn wait_ms(&self, attempt: u32, unit: f64) -> i64 {
        let doubled = self.min_ms.saturating_mul(1i64.checked_shl(attempt.min(40)).unwrap_or(i64::MAX));
        let span = doubled.min(self.max_ms).saturating_sub(self.min_ms).max(0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "a span is at most minutes in milliseconds: exact"
        )]
        let jitter = (span as f64 * unit.clamp(0.0, 1.0)) as i64;
        self.min_ms.saturating_add(jitter)
    }
}

fn capped_ms(wait: Duration) -> i64 {
    i64::try_from(wait.as_millis()).unwrap_or(i64::MAX).min(RETRY_AFTER_MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: Policy = Policy {
        attempts_max: 5,
        upload_attempts_max: 8,
        unlikely_attempts_max: 2,
        throttled_attempts_max: 20,
        min_ms: 1_000,
        max_ms: 300_000,
    };

    /// After so many failures of each kind.
    fn after(downloads: u32, uploads: u32, throttled: u32) -> Tried {
        Tried { downloads, uploads, throttled }
    }

    fn is_tried_again(code: FailureCode, tried: Tried) -> bool {
        matches!(POLICY.verdict(code, tried, None, 0, 0.5), Verdict::Retry { .. })
    }

    #[test]
    fn a_missing_page_is_not_asked_for_twice() {
        assert_eq!(POLICY.verdict(FailureCode::DownloadNotFound, after(0, 0, 0), None, 0, 0.5), Verdict::Dead);
    }

    #[test]
    fn a_flaky_origin_gets_all_its_attempts_and_no_more() {
        assert!((0..4).all(|before| is_tried_again(FailureCode::DownloadServerError, after(before, 0, 0))));
        assert!(!is_tried_again(FailureCode::DownloadServerError, after(4, 0, 0)));
        assert!(is_tried_again(FailureCode::DownloadTls, after(0, 0, 0)));
        assert!(!is_tried_again(FailureCode::DownloadTls, after(1, 0, 0)));
    }

    #[test]
    fn being_throttled_or_a_flaky_store_uses_up_no_download() {
        assert!(is_tried_again(FailureCode::DownloadTimeout, after(3, 7, 19)));
        assert!(is_tried_again(FailureCode::UploadFailed, after(4, 6, 19)));
        assert!(!is_tried_again(FailureCode::UploadFailed, after(0, 7, 0)));
        assert!(is_tried_again(FailureCode::DownloadThrottled, after(4, 7, 18)));
        assert!(!is_tried_again(FailureCode::DownloadThrottled, after(0, 0, 19)));
    }

    #[test]
    fn a_full_disk_never_uses_up_attempts() {
        for code in FailureCode::ALL.iter().filter(|code| code.as_str().starts_with("STORAGE_")) {
            assert_eq!(POLICY.verdict(*code, after(999, 999, 999), None, 0, 0.5), Verdict::Park);
            assert_eq!(code.budget(), Budget::None);
        }
    }

    #[test]
    fn an_origin_cannot_put_a_task_to_sleep_for_a_year() {
        let year = Some(Duration::from_secs(365 * 86_400));
        let verdict = POLICY.verdict(FailureCode::DownloadThrottled, after(0, 0, 0), year, 0, 1.0);
        let Verdict::Retry { not_before_ms } = verdict else { panic!("a throttled task is retried") };
        assert!(not_before_ms <= RETRY_AFTER_MAX_MS + POLICY.max_ms, "{not_before_ms}");
    }

    proptest! {
        #[test]
        fn a_wait_is_never_shorter_than_asked_nor_longer_than_the_cap(
            before in 0u32..4, wait in 0u64..100_000, unit in 0.0f64..1.0, now in 0i64..1_000_000_000_000,
        ) {
            let asked = Duration::from_millis(wait);
            let verdict = POLICY.verdict(FailureCode::DownloadThrottled, after(0, 0, before), Some(asked), now, unit);
            let Verdict::Retry { not_before_ms } = verdict else { panic!("{verdict:?}") };
            let asked_ms = i64::try_from(wait).unwrap();
            prop_assert!(not_before_ms - now >= asked_ms.max(POLICY.min_ms));
            prop_assert!(not_before_ms - now <= asked_ms + POLICY.max_ms);
        }

        #[test]
        fn waits_grow_with_attempts_and_stay_in_bounds(attempt in 0u32..u32::MAX, unit in 0.0f64..1.0) {
            let wait = POLICY.wait_ms(attempt, unit);
            prop_assert!((POLICY.min_ms..=POLICY.max_ms).contains(&wait));
            prop_assert!(POLICY.wait_ms(attempt.saturating_add(1), unit) >= wait);
        }
    }
}
