//! What is there before anything is sent: the object itself, an upload that can go on, or an older object that still holds.
//!
//! Owns: the questions to the store that save a download or an upload. Must not know: how a body is fetched.
//!
//! A store that cannot be reached ends the attempt. One that answers a question with a refusal has told nothing: some answer 403
//! about any key that does not exist.

use std::collections::BTreeMap;

use super::course::{Ended, Recorded, Run};
use super::send::Sending;
use super::{Kept, Known, Stored, Validators, Whole, Worker, kind};
use crate::model::StoredObject;
use crate::objects::{Error, ErrorKind, Head, Part, Place, Unfinished};

pub(super) enum Found {
    Object(Box<Stored>),
    Upload(Box<GoOn>),
    Nothing,
}

/// An upload of an earlier attempt, taken up behind its last part.
pub(super) struct GoOn {
    pub(super) sending: Sending,
    pub(super) validators: Validators,
    pub(super) total: Option<u64>,
    pub(super) landed: Option<[u8; 32]>,
}

impl GoOn {
    /// Nothing is left to be fetched.
    pub(super) fn is_whole(&self) -> bool {
        self.total == Some(self.sending.received)
    }
}

impl Worker {
    /// Looks for whatever saves the download, cheapest first. Most tasks have nothing and cost no request.
    pub(super) async fn found(&self, run: &mut Run<'_>) -> Result<Found, Ended> {
        let assignment = run.assignment;
        if let Some(kept) = &assignment.kept {
            return self.found_upload(run, kept).await;
        }
        let checksum = assignment.spec.checksum;
        if let Some(sha256) = checksum.filter(|_| run.goal.by_content()) {
            // The key is the digest that is asked for: what stands there is the resource.
            let place = run.goal.place(&sha256);
            let there = told(self.objects.of_digest(&place, sha256, None).await).map_err(|error| (error, place));
            let there = match there {
                Ok(there) => there,
                Err((error, place)) => return Err(self.store_failed(error, &place).await),
            };
            if let Some(head) = there {
                let whole = Whole { sha256, size_bytes: head.size_bytes };
                let content_type = kind::content_type(None, assignment.spec.mime_hint.as_deref(), None);
                let object = run.goal.object(&whole, head, content_type);
                let mut found = stored(object, Validators::default(), "reused");
                if let Found::Object(stored) = &mut found {
                    stored.context.insert("bytes".to_owned(), "0".to_owned());
                }
                return Ok(found);
            }
        } else if assignment.interrupted && !run.goal.by_content() {
            let place = run.goal.place(&[0; 32]);
            let there = match told(self.objects.written_by(&place, &format!("{}-", assignment.task)).await) {
                Ok(there) => there,
                Err(error) => return Err(self.store_failed(error, &place).await),
            };
            if let Some((head, content_type)) = there
                && let Some(sha256) = head.sha256.filter(|found| checksum.is_none_or(|wanted| wanted == *found))
            {
                let whole = Whole { sha256, size_bytes: head.size_bytes };
                let object = run.goal.object(&whole, head, content_type);
                return Ok(stored(object, Validators::default(), "found"));
            }
        }
        Ok(Found::Nothing)
    }

    async fn found_upload(&self, run: &mut Run<'_>, kept: &Kept) -> Result<Found, Ended> {
        let begun = &kept.begun;
        let has_parts = !kept.parts.is_empty() && begun.validators.strong_etag().is_some();
        run.traces.recorded = Some(Recorded {
            upload_id: begun.upload_id.clone(),
            place: begun.place.clone(),
            is_incoming: run.goal.is_incoming(&begun.place),
            can_go_on: has_parts || kept.completing.is_some(),
        });
        let is_same_goal = run.goal.may_come_from(&begun.place);
        if let Some(whole) = kept.completing.filter(|_| is_same_goal) {
            if let Some(object) = self.completed(run, kept, &whole).await? {
                return Ok(stored(object, begun.validators.clone(), "found"));
            }
        } else if is_same_goal
            && has_parts
            && let Some(last) = kept.parts.last()
        {
            let resumed = match told(self.objects.resume(&begun.place, &unfinished(kept)).await.map(Some)) {
                Ok(resumed) => resumed.flatten(),
                Err(error) => return Err(self.store_failed(error, &begun.place).await),
            };
            if let (Some(upload), Some(sending)) = (resumed, Sending::after(begun, last)) {
                run.traces.upload = Some(upload);
                let (validators, total, landed) = (begun.validators.clone(), begun.total_bytes, begun.landed);
                return Ok(Found::Upload(Box::new(GoOn { sending, validators, total, landed })));
            }
        }
        self.drop_upload(run).await;
        Ok(Found::Nothing)
    }

    /// The whole body was sent and its completion asked for; what became of that, the store knows. Asks it before anything is
    /// done, completes again what is not complete, and answers None only when there is neither object nor upload.
    async fn completed(&self, run: &mut Run<'_>, kept: &Kept, whole: &Whole) -> Result<Option<StoredObject>, Ended> {
        let (from, place) = (&kept.begun.place, run.goal.place(&whole.sha256));
        let content_type = kept.begun.content_type.clone();
        if run.goal.by_content() {
            if let Some(head) = self.same_content(run, whole).await? {
                self.drop_upload(run).await;
                return Ok(Some(run.goal.object(whole, head, content_type)));
            }
        } else if let Some(head) = self.written(&place, kept, whole).await? {
            return Ok(Some(run.goal.object(whole, head, content_type)));
        }
        if !run.progress.still_mine().await {
            return Err(Ended::Lost);
        }
        if self.objects.copies()
            && *from != place
            && let Some(head) = self.written(from, kept, whole).await?
        {
            let head = self.move_into_place(from, &place, whole, head).await?;
            return Ok(Some(run.goal.object(whole, head, content_type)));
        }
        if kept.parts.last().is_none_or(|last| last.end_bytes != whole.size_bytes) {
            return Ok(None);
        }
        match self.objects.resume(from, &unfinished(kept)).await {
            Ok(Some(upload)) => run.traces.upload = Some(upload),
            Ok(None) => return Ok(None),
            Err(error) => return Err(self.store_failed(error, from).await),
        }
        run.set_completing();
        match self.complete(run, whole).await {
            Ok(head) => Ok(Some(run.goal.object(whole, head, content_type))),
            Err(failed) => {
                let goes_on =
                    run.traces.upload.as_ref().is_none_or(|upload| upload.can_go_on() || upload.is_doubtful());
                if goes_on { Err(failed) } else { Ok(None) }
            }
        }
    }

    async fn written(&self, place: &Place, kept: &Kept, whole: &Whole) -> Result<Option<Head>, Ended> {
        let written = self.objects.written(place, &kept.begun.stage, whole.sha256, whole.size_bytes).await;
        match told(written) {
            Ok(written) => Ok(written),
            Err(error) => Err(self.store_failed(error, place).await),
        }
    }

    /// For a key that is a digest: what stands there already, with this size.
    pub(super) async fn same_content(&self, run: &Run<'_>, whole: &Whole) -> Result<Option<Head>, Ended> {
        if !run.goal.by_content() {
            return Ok(None);
        }
        let place = run.goal.place(&whole.sha256);
        match told(self.objects.of_digest(&place, whole.sha256, Some(whole.size_bytes)).await) {
            Ok(there) => Ok(there),
            Err(error) => Err(self.store_failed(error, &place).await),
        }
    }

    /// Whether the object we know is what this task asks for: its manifest need not be the one the object was stored for, and
    /// nothing is checked any more once the origin has said that it has not changed.
    pub(super) fn would_do(&self, run: &Run<'_>, known: &Known) -> bool {
        let object = &known.object;
        let place = run.goal.place(&object.sha256);
        run.assignment.spec.checksum.is_none_or(|wanted| wanted == object.sha256)
            && (&place.bucket, &place.key) == (&object.bucket, &object.key)
            && object.size_bytes <= self.bytes_max(run.assignment)
    }

    /// The origin says that the version we know is still the one. None: our object of it is not what it was.
    pub(super) async fn not_changed(
        &self,
        run: &Run<'_>,
        mut context: BTreeMap<String, String>,
    ) -> Result<Option<Stored>, Ended> {
        let Some(known) = &run.assignment.known else { return Ok(None) };
        let place = Place { bucket: known.object.bucket.clone(), key: known.object.key.clone() };
        let there = match told(self.objects.head(&place).await) {
            Ok(there) => there,
            Err(error) => return Err(self.store_failed(error, &place).await),
        };
        let same = |head: &Head| head.size_bytes == known.object.size_bytes && head.etag == known.object.etag;
        if !there.is_some_and(|head| same(&head)) {
            return Ok(None);
        }
        context.insert("not_changed".to_owned(), "true".to_owned());
        Ok(Some(Stored { object: known.object.clone(), validators: known.validators.clone(), context }))
    }

    /// What was sent is of no use: nothing of it stays, here or in the store.
    pub(super) async fn drop_upload(&self, run: &mut Run<'_>) {
        let (upload, recorded) = (run.traces.upload.take(), run.traces.recorded.take());
        self.remove(upload, recorded, run.progress).await;
    }
}

fn unfinished(kept: &Kept) -> Unfinished {
    let part =
        |part: &super::PartStored| Part { index: part.index, id: part.part_id.clone(), end_bytes: part.end_bytes };
    Unfinished {
        upload_id: kept.begun.upload_id.clone(),
        stage: kept.begun.stage.clone(),
        part_bytes: kept.begun.part_bytes,
        parts: kept.parts.iter().map(part).collect(),
    }
}

fn stored(object: StoredObject, validators: Validators, how: &str) -> Found {
    let context = BTreeMap::from([(how.to_owned(), "true".to_owned())]);
    Found::Object(Box::new(Stored { object, validators, context }))
}

/// An answer, or that the store gives none. A refusal tells nothing.
fn told<T>(answer: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    match answer {
        Err(error) if error.kind == ErrorKind::Unavailable => Err(error),
        Err(error) => {
            tracing::debug!(%error, "the store does not say what stands there");
            Ok(None)
        }
        Ok(answer) => Ok(answer),
    }
}
