//! One attempt from its first byte to its object.
//!
//! Owns: what an attempt does in which order, the last checks before an object appears, and what it leaves behind when it did not
//! make it. Must not know: how a request is made, how a store keeps objects.
//!
//! ```text
//! found (is it there already? can an upload go on?) → fetch → send (digest, parts) → finish (place, complete) → Stored
//! ```

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base16ct::lower;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::classify::Failed;
use super::course::{Ended, Recorded, Run, Traces, stored_at};
use super::fetch::{Answered, Fetched, Resume, Want};
use super::found::{Found, GoOn};
use super::goal::Goal;
use super::send::Sending;
use super::{Assignment, HostGate, Outcome, Progress, Stored, Validators, Worker};
use crate::model::{FailureCode, RetryClass, StoredObject};
use crate::objects::{self, Label, Place, Upload};

/// How long a completion that is already under way may go on after a stop.
const COMPLETE_GRACE: Duration = Duration::from_secs(5);
/// How long the cleaning up may take; what is left then is swept later.
const CLEAN_UP_MAX: Duration = Duration::from_secs(5);

impl Worker {
    /// Runs one attempt to its end. Never panics outward; never holds more than one part of the body in memory, and the piece
    /// that came last.
    pub async fn run(
        &self,
        assignment: Assignment,
        progress: &dyn Progress,
        gate: &dyn HostGate,
        stop: CancellationToken,
    ) -> Outcome {
        let mut traces = Traces::default();
        let completing = AtomicBool::new(false);
        let ended = {
            let goal = Goal::of(&assignment);
            let run =
                Run { assignment: &assignment, goal, progress, gate, traces: &mut traces, completing: &completing };
            let attempt = Box::pin(self.attempt(run));
            unless(stopped(&stop, &completing), attempt).await.unwrap_or(Err(Ended::Lost))
        };
        match ended {
            Ok(stored) => Outcome::Stored(Box::new(stored)),
            Err(ended) => {
                self.clean_up(traces, &ended, progress).await;
                match ended {
                    Ended::Lost => Outcome::Released,
                    Ended::Failed(failed) => self.failed(*failed, &assignment),
                }
            }
        }
    }

    /// Stores a job's manifest (JSON). Storage errors only; the caller retries for ever.
    pub async fn store_manifest(&self, place: Place, json: Bytes) -> Outcome {
        let sha256: [u8; 32] = Sha256::digest(&json).into();
        let content_type = "application/json".to_owned();
        let label = Label { content_type: content_type.clone(), sha256, ..Label::default() };
        match self.objects.put(&place, json, &label).await {
            Ok(head) => {
                let object = StoredObject {
                    bucket: place.bucket,
                    key: place.key,
                    etag: head.etag,
                    size_bytes: head.size_bytes,
                    sha256,
                    content_type,
                };
                Outcome::Stored(Box::new(Stored { object, ..Stored::default() }))
            }
            Err(error) => {
                let error = self.objects.judged(error, &place).await;
                let mut failure = stored_at(error.into(), &place).failure;
                failure.at_ms = self.clock.now_ms();
                Outcome::Failed { failure, retry_after: None }
            }
        }
    }

    /// Removes what an attempt left for a later one that will not come. An upload that is gone already is fine.
    pub async fn abandon(&self, place: &Place, upload_id: &str) -> Result<(), objects::Error> {
        self.objects.abort(place, upload_id).await
    }

    fn failed(&self, failed: Failed, assignment: &Assignment) -> Outcome {
        let Failed { mut failure, retry_after } = failed;
        failure.resource_id.clone_from(&assignment.spec.resource_id);
        failure.at_ms = self.clock.now_ms();
        failure.attempt = assignment.attempt;
        Outcome::Failed { failure, retry_after }
    }

    async fn attempt<'a>(&'a self, mut run: Run<'a>) -> Result<Stored, Ended> {
        let mut context = BTreeMap::new();
        let go_on = match self.found(&mut run).await? {
            Found::Object(stored) => return Ok(*stored),
            Found::Upload(go_on) if go_on.is_whole() => {
                // Every byte is there: the origin need not be asked.
                context.insert("continued_at".to_owned(), go_on.sending.received.to_string());
                return self.finish(run, go_on.sending, go_on.validators, context).await;
            }
            Found::Upload(go_on) => Some(go_on),
            Found::Nothing => None,
        };
        let mut fetched = match self.body(&run, go_on.as_deref()).await? {
            Body::Comes(fetched) => fetched,
            Body::NotChanged(stored) => return Ok(*stored),
        };
        let validators = fetched.validators();
        let mut sending = match go_on {
            Some(go_on) if fetched.offset() == go_on.sending.received => {
                context.insert("continued_at".to_owned(), fetched.offset().to_string());
                go_on.sending
            }
            _ => {
                // The origin has another version now, or does not give ranges.
                self.drop_upload(&mut run).await;
                if fetched.offset() > 0 {
                    let message = format!("the body begins at byte {} and nobody asked for that", fetched.offset());
                    return Err(fetched.blame(Failed::new(FailureCode::DownloadInterrupted, message)).into());
                }
                self.begin(&mut run, &mut fetched).await?
            }
        };
        while let Some(piece) = fetched.next().await? {
            self.send(&mut run, &mut sending, piece, &fetched, &validators).await?;
        }
        check_whole(&fetched, sending.received, run.assignment.spec.checksum, sending.sha256())?;
        // Only now: how often a body went on shows at its end.
        context.extend(fetched.context());
        // The host's place is free for others while the store works.
        drop(fetched);
        self.finish(run, sending, validators, context).await
    }

    /// Asks the origin, as conditionally as what is known allows.
    async fn body<'a>(&'a self, run: &Run<'a>, go_on: Option<&GoOn>) -> Result<Body<'a>, Ended> {
        let spec = &run.assignment.spec;
        let bytes_max = self.bytes_max(run.assignment);
        let from = go_on.map(|go_on| Resume {
            offset: go_on.sending.received,
            etag: go_on.validators.etag.clone(),
            total: go_on.total,
            landed: go_on.landed,
        });
        let known = run.assignment.known.as_ref().filter(|known| from.is_none() && self.would_do(run, known));
        let unless = known.map(|known| &known.validators);
        match self.fetch(Want { spec, bytes_max, from, unless }, run.gate).await? {
            Answered::Body(fetched) => return Ok(Body::Comes(fetched)),
            Answered::NotChanged { context } => {
                if let Some(stored) = self.not_changed(run, context).await? {
                    return Ok(Body::NotChanged(Box::new(stored)));
                }
            }
        }
        // The object went away, or somebody replaced it.
        match self.fetch(Want { spec, bytes_max, from: None, unless: None }, run.gate).await? {
            Answered::Body(fetched) => Ok(Body::Comes(fetched)),
            Answered::NotChanged { .. } => {
                let message = "the origin answered 304 without being asked for a change";
                Err(Failed::new(FailureCode::DownloadUnexpectedStatus, message).into())
            }
        }
    }

    pub(super) fn bytes_max(&self, assignment: &Assignment) -> u64 {
        assignment.spec.max_bytes.map_or(self.options.max_bytes, |own| own.min(self.options.max_bytes))
    }

    /// Everything is in hand or in the store: the object appears.
    async fn finish(
        &self,
        mut run: Run<'_>,
        sending: Sending,
        validators: Validators,
        mut context: BTreeMap<String, String>,
    ) -> Result<Stored, Ended> {
        self.send_last(&mut run, &sending).await?;
        if !run.progress.still_mine().await {
            return Err(Ended::Lost);
        }
        let whole = sending.whole();
        if let Some(head) = self.same_content(&run, &whole).await? {
            context.insert("reused".to_owned(), "true".to_owned());
            self.drop_upload(&mut run).await;
            let object = run.goal.object(&whole, head, sending.content_type);
            return Ok(Stored { object, validators, context });
        }
        if let Some(recorded) = &run.traces.recorded {
            run.progress.completing(&recorded.upload_id, &whole).await.map_err(|_| Ended::Lost)?;
        }
        run.set_completing();
        let head = self.complete(&mut run, &whole).await?;
        // What is recorded of the upload goes when the task is settled: until then it tells whose the object is.
        let object = run.goal.object(&whole, head, sending.content_type);
        Ok(Stored { object, validators, context })
    }

    /// An attempt that can be followed by another one leaves what is safely stored; any other cleans up behind itself.
    async fn clean_up(&self, traces: Traces, ended: &Ended, progress: &dyn Progress) {
        let Traces { upload, recorded } = traces;
        let another = match ended {
            Ended::Lost => true,
            Ended::Failed(failed) => match failed.failure.code.class() {
                RetryClass::Transient | RetryClass::Throttled | RetryClass::Parked | RetryClass::Unlikely => true,
                RetryClass::Permanent => false,
            },
        };
        let is_doubtful = upload.as_ref().is_some_and(Upload::is_doubtful);
        let goes_on = recorded.as_ref().is_some_and(|recorded| recorded.can_go_on)
            && upload.as_ref().is_none_or(Upload::can_go_on);
        if is_doubtful || (another && goes_on) {
            if let Some(upload) = upload {
                upload.leave().await;
            }
            return;
        }
        self.remove(upload, recorded, progress).await;
    }

    /// Takes an upload out of the store and out of the records. What cannot be removed now stays recorded, for the sweep.
    pub(super) async fn remove(&self, upload: Option<Upload>, recorded: Option<Recorded>, progress: &dyn Progress) {
        let abort = async {
            if let Some(mut upload) = upload {
                upload.abort().await?;
            } else if let Some(recorded) = &recorded {
                self.objects.abort(&recorded.place, &recorded.upload_id).await?;
            }
            match recorded.as_ref().filter(|recorded| recorded.is_incoming) {
                Some(recorded) => self.objects.delete(&recorded.place).await,
                None => Ok(()),
            }
        };
        let ended = tokio::time::timeout(CLEAN_UP_MAX, abort).await;
        let Some(recorded) = recorded else { return };
        match ended {
            Ok(Ok(())) => progress.upload_ended(&recorded.upload_id).await,
            Ok(Err(error)) => tracing::debug!(key = %recorded.place.key, %error, "an upload is left to the sweep"),
            Err(_) => tracing::debug!(key = %recorded.place.key, "an upload is left to the sweep: no answer"),
        }
    }

    /// A storage error as a failure of this attempt.
    pub(super) async fn store_failed(&self, error: objects::Error, place: &Place) -> Ended {
        stored_at(self.objects.judged(error, place).await.into(), place).into()
    }
}

enum Body<'a> {
    Comes(Box<Fetched<'a>>),
    NotChanged(Box<Stored>),
}

fn check_whole(fetched: &Fetched<'_>, received: u64, wanted: Option<[u8; 32]>, got: [u8; 32]) -> Result<(), Failed> {
    if let Some(total) = fetched.total().filter(|total| *total != received) {
        let message = format!("{total} bytes were declared and {received} came");
        return Err(fetched.blame(Failed::new(FailureCode::DownloadLengthMismatch, message)));
    }
    match wanted {
        Some(wanted) if wanted != got => {
            let failed = Failed::new(FailureCode::DownloadChecksum, "the body is not the one the manifest names")
                .with("sha256_wanted", lower::encode_string(&wanted))
                .with("sha256", lower::encode_string(&got));
            Err(fetched.blame(failed))
        }
        _ => Ok(()),
    }
}

/// Ends when the attempt must go: at once, or a little later if its object is just being completed.
async fn stopped(stop: &CancellationToken, completing: &AtomicBool) {
    stop.cancelled().await;
    if completing.load(Ordering::Relaxed) {
        tokio::time::sleep(COMPLETE_GRACE).await;
    }
}

/// `work`'s result, or None if `end` came first. Work that is done counts, even at the same moment.
async fn unless<T>(end: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = end => None,
    }
}
