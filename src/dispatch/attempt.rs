//! What a running attempt asks and tells: whether it still holds its lease, and which uploads it began.
//!
//! Must not know: downloads, the loop.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::leases::Leases;
use super::{is_busy, pause_of};
use crate::clock::Clock;
use crate::model::TaskRef;
use crate::objects::Place;
use crate::store::{Store, UploadRecord};
use crate::worker::{Begun, LeaseLost, PartStored, Progress, Whole};

/// An upload's record is worth waiting for while the committer is busy, but not for ever.
const BUSY_TRIES: u32 = 100;

pub(super) struct LeaseProgress {
    pub store: Store,
    pub clock: Clock,
    pub leases: Arc<Leases>,
    pub task: TaskRef,
    pub epoch: u64,
}

impl LeaseProgress {
    fn record(&self, upload_id: &str, place: &Place) -> UploadRecord {
        UploadRecord {
            task: self.task,
            epoch: self.epoch,
            bucket: place.bucket.clone(),
            key: place.key.clone(),
            upload_id: upload_id.to_owned(),
            begun_at_ms: self.clock.now_ms(),
        }
    }
}

#[async_trait]
impl Progress for LeaseProgress {
    async fn still_mine(&self) -> bool {
        self.leases.is_held(self.task, self.epoch)
    }

    async fn upload_begun(&self, begun: &Begun) -> Result<(), LeaseLost> {
        for _ in 0..BUSY_TRIES {
            if !self.leases.is_held(self.task, self.epoch) {
                return Err(LeaseLost);
            }
            match self.store.upload_begun(self.record(&begun.upload_id, &begun.place)).await {
                Ok(()) => return Ok(()),
                Err(refusal) if is_busy(&refusal) => tokio::time::sleep(pause_of(&refusal)).await,
                Err(refusal) => {
                    tracing::warn!(task = %self.task, %refusal, "an upload could not be recorded");
                    return Err(LeaseLost);
                }
            }
        }
        Err(LeaseLost)
    }

    async fn part_stored(&self, _: &str, _: &PartStored) -> Result<(), LeaseLost> {
        Ok(())
    }

    async fn completing(&self, _: &str, _: &Whole) -> Result<(), LeaseLost> {
        Ok(())
    }

    async fn upload_ended(&self, upload_id: &str) {
        for _ in 0..BUSY_TRIES {
            match self.store.upload_ended(self.record(upload_id, &Place::default())).await {
                Ok(()) => return,
                Err(refusal) if is_busy(&refusal) => {
                    tokio::time::sleep(pause_of(&refusal).max(Duration::from_millis(1))).await;
                }
                Err(refusal) => {
                    // Retention aborts it later: aborting a finished upload does nothing.
                    tracing::debug!(task = %self.task, %refusal, "an upload's end could not be recorded");
                    return;
                }
            }
        }
    }
}
