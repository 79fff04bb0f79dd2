//! What a running attempt asks and tells: whether it still holds its lease, what earlier ones left, and how its upload goes.
//!
//! Must not know: downloads, the loop.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::leases::Leases;
use super::{is_busy, pause_of};
use crate::clock::Clock;
use crate::model::{Refusal, TaskRef, TaskSpec};
use crate::objects::Place;
use crate::store::{Left, Reader, Source, Standing, Store, UploadPart, UploadRecord};
use crate::worker::{Begun, Kept, Known, LeaseLost, PartStored, Progress, Stored, Validators, Whole, Worker};

/// An upload's record is worth waiting for while the committer is busy, but not for ever.
const BUSY_TRIES: u32 = 100;

pub(super) struct LeaseProgress {
    pub store: Store,
    pub clock: Clock,
    pub leases: Arc<Leases>,
    pub task: TaskRef,
    pub epoch: u64,
    /// The upload it was to go on with, and the epoch under which that is recorded.
    pub kept: Option<(String, u64)>,
}

impl LeaseProgress {
    /// Under which epoch an upload is recorded: that of the attempt that began it.
    fn epoch_of(&self, upload_id: &str) -> u64 {
        self.kept.as_ref().filter(|(kept, _)| kept == upload_id).map_or(self.epoch, |(_, epoch)| *epoch)
    }

    /// Waits while the committer is busy and the lease holds.
    async fn record<F>(&self, what: &str, verb: impl Fn() -> F + Send + Sync) -> Result<(), LeaseLost>
    where
        F: Future<Output = Result<(), Refusal>> + Send,
    {
        for _ in 0..BUSY_TRIES {
            if !self.leases.is_held(self.task, self.epoch) {
                return Err(LeaseLost);
            }
            match verb().await {
                Ok(()) => return Ok(()),
                Err(refusal) if is_busy(&refusal) => tokio::time::sleep(pause_of(&refusal)).await,
                Err(refusal) => {
                    tracing::warn!(task = %self.task, %refusal, "{what} could not be recorded");
                    return Err(LeaseLost);
                }
            }
        }
        Err(LeaseLost)
    }
}

#[async_trait]
impl Progress for LeaseProgress {
    async fn still_mine(&self) -> bool {
        self.leases.is_held(self.task, self.epoch)
    }

    async fn upload_begun(&self, begun: &Begun) -> Result<(), LeaseLost> {
        let record = UploadRecord {
            task: self.task,
            epoch: self.epoch,
            bucket: begun.place.bucket.clone(),
            key: begun.place.key.clone(),
            upload_id: begun.upload_id.clone(),
            begun_at_ms: self.clock.now_ms(),
            stage: begun.stage.clone(),
            part_bytes: begun.part_bytes,
            etag: begun.validators.etag.clone(),
            last_modified: begun.validators.last_modified.clone(),
            landed: begun.landed,
            total_bytes: begun.total_bytes,
            content_type: begun.content_type.clone(),
            metadata: begun.metadata.clone(),
            completing: None,
        };
        self.record("an upload", || self.store.upload_begun(record.clone())).await
    }

    async fn part_stored(&self, upload_id: &str, part: &PartStored) -> Result<(), LeaseLost> {
        let epoch = self.epoch_of(upload_id);
        let part = UploadPart {
            index: part.index,
            part_id: part.part_id.clone(),
            end_bytes: part.end_bytes,
            digest_state: part.digest_state.clone(),
        };
        self.record("a part", || self.store.part_stored(self.task, epoch, part.clone())).await
    }

    async fn completing(&self, upload_id: &str, whole: &Whole) -> Result<(), LeaseLost> {
        let (epoch, whole) = (self.epoch_of(upload_id), *whole);
        let verb = || self.store.upload_completing(self.task, epoch, whole.sha256, whole.size_bytes);
        self.record("a completion", verb).await
    }

    async fn upload_ended(&self, upload_id: &str) {
        let epoch = self.epoch_of(upload_id);
        for _ in 0..BUSY_TRIES {
            match self.store.upload_ended(self.task, epoch).await {
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

/// What an attempt knows of the time before it.
#[derive(Debug, Default)]
pub(super) struct Before {
    pub interrupted: bool,
    pub kept: Option<Kept>,
    /// Under which the kept upload is recorded.
    pub kept_epoch: u64,
    pub known: Option<Known>,
}

impl Before {
    /// One or two point reads of rows just written; what cannot be read is not used, and the body is fetched from its start.
    pub fn read(reader: &Reader, task: TaskRef, spec: &TaskSpec, place: &Place) -> Self {
        let unreadable =
            |refusal: Refusal| tracing::warn!(%task, %refusal, "what earlier attempts left cannot be read");
        let Left { interrupted, upload } = reader.left(task).map_err(unreadable).unwrap_or_default();
        let known = if spec.revalidate {
            reader.source(&place.bucket, &place.key, &asked_of(spec)).map_err(unreadable).unwrap_or_default()
        } else {
            None
        };
        let kept_epoch = upload.as_ref().map_or(0, |(upload, _)| upload.epoch);
        Self { interrupted, kept: upload.map(kept), kept_epoch, known: known.map(known_of) }
    }
}

fn kept((upload, parts): (UploadRecord, Vec<UploadPart>)) -> Kept {
    let part = |part: UploadPart| PartStored {
        index: part.index,
        part_id: part.part_id,
        end_bytes: part.end_bytes,
        digest_state: part.digest_state,
    };
    Kept {
        completing: upload.completing.map(|(sha256, size_bytes)| Whole { sha256, size_bytes }),
        // A gap cannot be: each part is recorded before the next is sent.
        parts: parts.into_iter().zip(0u32..).take_while(|(part, at)| part.index == *at).map(|(p, _)| part(p)).collect(),
        begun: Begun {
            upload_id: upload.upload_id,
            stage: upload.stage,
            place: Place { bucket: upload.bucket, key: upload.key },
            part_bytes: upload.part_bytes,
            validators: Validators { etag: upload.etag, last_modified: upload.last_modified },
            landed: upload.landed,
            total_bytes: upload.total_bytes,
            content_type: upload.content_type,
            metadata: upload.metadata,
        },
    }
}

/// What is asked of the origin, whole: it may answer another header, a credential above all, with another body.
fn asked_of(spec: &TaskSpec) -> Cow<'_, str> {
    if spec.headers.is_empty() {
        return Cow::Borrowed(&spec.url);
    }
    let mut headers: Vec<_> =
        spec.headers.iter().map(|header| (header.name.to_ascii_lowercase(), &header.value)).collect();
    // Their order means nothing, but among those of one name.
    headers.sort_by(|(a, _), (b, _)| a.cmp(b));
    // Neither a URL nor a header has a line break.
    Cow::Owned(headers.iter().fold(spec.url.clone(), |asked, (name, value)| format!("{asked}\n{name}: {value}")))
}

fn known_of(source: Source) -> Known {
    let validators = Validators { etag: source.etag, last_modified: source.last_modified };
    Known { object: source.object, validators }
}

/// Keeps which version of the resource the object holds, before its task is settled: it is true whatever becomes of that.
pub(super) async fn remember(store: &Store, now_ms: i64, spec: &TaskSpec, place: &Place, stored: &Stored) {
    let Validators { etag, last_modified } = stored.validators.clone();
    if !spec.revalidate || (etag.is_empty() && last_modified.is_empty()) {
        return;
    }
    let source = Source { object: stored.object.clone(), etag, last_modified, at_ms: now_ms };
    if let Err(refusal) = store.remember_source(&place.bucket, &place.key, &asked_of(spec), source).await {
        tracing::debug!(%refusal, "the version of an object is not remembered: the next job downloads it again");
    }
}

/// After an attempt that was stopped: a task that was canceled has no use for its upload; one of a daemon that stops goes on with
/// it at the next start.
pub(super) async fn abandon(store: &Store, reader: &Reader, worker: &Worker, task: TaskRef) {
    // Else the sweep finds it.
    let (Ok(Standing::Closed), Ok(left)) = (reader.standing(task), reader.left(task)) else { return };
    // What may be complete by now is more than an abort can undo: the sweep looks.
    let Some((upload, _)) = left.upload.filter(|(upload, _)| upload.completing.is_none()) else { return };
    let place = Place { bucket: upload.bucket, key: upload.key };
    let aborted = worker.abandon(&place, &upload.upload_id).await;
    if aborted.is_ok()
        && let Err(refusal) = store.upload_ended(task, upload.epoch).await
    {
        tracing::debug!(%task, %refusal, "an upload's end could not be recorded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Header;

    /// Else who asks with one credential is given what another one was shown.
    #[test]
    fn an_object_is_known_by_the_headers_it_was_asked_with() {
        let asked = |headers: &[(&str, &str)]| {
            let header = |(name, value): &(&str, &str)| Header { name: (*name).into(), value: (*value).into() };
            let spec = TaskSpec {
                url: "http://h/x".into(),
                headers: headers.iter().map(header).collect(),
                ..Default::default()
            };
            asked_of(&spec).into_owned()
        };
        assert_eq!(asked(&[]), "http://h/x");
        assert_ne!(asked(&[("authorization", "a")]), asked(&[("authorization", "b")]));
        assert_ne!(asked(&[("authorization", "a")]), asked(&[]));
        assert_ne!(asked(&[("accept", "a"), ("accept", "b")]), asked(&[("accept", "b"), ("accept", "a")]));
        assert_eq!(asked(&[("A", "1"), ("b", "2")]), asked(&[("B", "2"), ("a", "1")]));
    }
}
