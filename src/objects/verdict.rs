//! What a store's refusal is about: one object, or everything.
//!
//! Owns: whom a probe is made for, and how often. Must not know: how a probe is made, what follows from a verdict.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Backend, Error, ErrorKind, Objects, Place, s3_error};
use crate::clock::Clock;

/// While a store is in trouble every attempt asks: one probe answers them all.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// The last probe of each bucket. Who waits for the lock finds what the one before has found.
#[derive(Default)]
pub(super) struct Probes(Mutex<HashMap<String, Arc<tokio::sync::Mutex<Option<Probed>>>>>);

#[derive(Clone, Copy)]
struct Probed {
    began: Instant,
    ended: Instant,
    took: bool,
}

impl Objects {
    /// What an error met at `place` means for everything else. A store that denies one key while its bucket takes others refuses
    /// that object only. One that fails an object while the bucket works is no reason to stop: else an object it can never take
    /// would be tried, and hold up all others, for ever. Costs a probe where it cannot be told otherwise.
    pub async fn judged(&self, error: Error, place: &Place) -> Error {
        let Backend::S3(_) = &self.backend else { return error };
        if s3_error::may_be_one_object(&error) {
            // It is final, so only a probe that began after the refusal can tell.
            let kind =
                if self.takes(&place.bucket, Some(Clock::instant())).await { ErrorKind::Rejected } else { error.kind };
            return Error { kind, ..error };
        }
        if s3_error::may_be_one_request(&error) && self.takes(&place.bucket, None).await {
            return Error { kind: ErrorKind::Failed, ..error };
        }
        error
    }

    /// Whether the bucket takes a small object, as far as the last probe tells. What it took before `since` tells nothing.
    async fn takes(&self, bucket: &str, since: Option<Instant>) -> bool {
        let probed =
            self.probes.0.lock().unwrap_or_else(PoisonError::into_inner).entry(bucket.to_owned()).or_default().clone();
        let mut probed = probed.lock().await;
        let holds = |probed: &Probed| {
            let is_new = Clock::instant().saturating_duration_since(probed.ended) < PROBE_EVERY;
            is_new && (!probed.took || since.is_none_or(|since| probed.began >= since))
        };
        if let Some(probed) = probed.as_ref().filter(|probed| holds(probed)) {
            return probed.took;
        }
        let began = Clock::instant();
        let took = self.probe_of(bucket).await.is_ok();
        *probed = Some(Probed { began, ended: Clock::instant(), took });
        took
    }
}
