//! One attempt from its first byte to its object.
//!
//! Owns: digest, upload, the last checks before an object appears, and cleaning up behind an attempt that did not make it.
//! Must not know: how a request is made, how a store keeps objects.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::classify::Failed;
use super::errand::too_large;
use super::fetch::{Answered, Fetched, Want};
use super::{Assignment, Begun, HostGate, Outcome, Progress, Stored, Worker, kind};
use crate::model::{FailureCode, StoredObject};
use crate::objects::{Label, Place, Upload};

/// How long a completion that is already under way may go on after a stop.
const COMPLETE_GRACE: Duration = Duration::from_secs(5);
/// How long the cleaning up may take; what is left then is swept later.
const CLEAN_UP_MAX: Duration = Duration::from_secs(5);
/// User metadata: what the first bytes look like, whatever the origin says.
const SEEN_TYPE: &str = "fetchbox-seen-type";

/// Why an attempt ended without an object.
enum Ended {
    Failed(Box<Failed>),
    /// The lease went to somebody else.
    Lost,
}

impl From<Failed> for Ended {
    fn from(failed: Failed) -> Self {
        Ended::Failed(Box::new(failed))
    }
}

/// What an attempt leaves to clean up, kept outside of it so that it can be stopped at any point.
#[derive(Default)]
struct Traces {
    upload: Option<Upload>,
    /// The multipart upload the queue knows of.
    recorded: Option<String>,
}

impl Worker {
    /// Runs one attempt to its end. Never panics outward; never holds more than one part of the body in memory.
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
            let attempt = self.attempt(&assignment, progress, gate, &mut traces, &completing);
            unless(stopped(&stop, &completing), attempt).await.unwrap_or(Err(Ended::Lost))
        };
        match ended {
            Ok(stored) => Outcome::Stored(Box::new(stored)),
            Err(ended) => {
                traces.clean_up(&assignment.place, progress).await;
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
                let mut failure = stored_at(error.into(), &place).failure;
                failure.at_ms = self.clock.now_ms();
                Outcome::Failed { failure, retry_after: None }
            }
        }
    }

    fn failed(&self, failed: Failed, assignment: &Assignment) -> Outcome {
        let Failed { mut failure, retry_after } = failed;
        failure.resource_id.clone_from(&assignment.spec.resource_id);
        failure.at_ms = self.clock.now_ms();
        failure.attempt = assignment.attempt;
        Outcome::Failed { failure, retry_after }
    }

    async fn attempt(
        &self,
        assignment: &Assignment,
        progress: &dyn Progress,
        gate: &dyn HostGate,
        traces: &mut Traces,
        completing: &AtomicBool,
    ) -> Result<Stored, Ended> {
        let Assignment { spec, place, .. } = assignment;
        let bytes_max = spec.max_bytes.map_or(self.options.max_bytes, |own| own.min(self.options.max_bytes));
        let want = Want { spec, bytes_max, from: None, unless: None };
        let mut fetched = match self.fetch(want, gate).await? {
            Answered::Body(fetched) => fetched,
            Answered::NotChanged { .. } => {
                let message = "the origin answered 304 to an unconditional request";
                return Err(Failed::new(FailureCode::DownloadUnexpectedStatus, message).into());
            }
        };

        let first = read_first(&mut fetched, bytes_max).await?;
        let label = label(assignment, &fetched, &first);
        let content_type = label.content_type.clone();
        let stage = format!("{}-{}", assignment.task, assignment.epoch);
        let length_max = fetched.total().unwrap_or(bytes_max);
        let begun = self.objects.begin(place, label, &stage, length_max);
        let upload = traces.upload.insert(begun.map_err(|error| stored_at(error.into(), place))?);

        let mut digest = Sha256::new();
        let mut received = 0;
        let mut pieces = first.into_iter();
        loop {
            let piece = match pieces.next() {
                Some(piece) => piece,
                None => match fetched.next().await? {
                    Some(piece) => piece,
                    None => break,
                },
            };
            received += piece.len() as u64;
            if received > bytes_max {
                return Err(fetched.blame(too_large(bytes_max)).into());
            }
            digest.update(&piece);
            if let Some(id) = upload.write(piece).await.map_err(|error| stored_at(error.into(), place))? {
                let begun =
                    Begun { upload_id: id.clone(), stage: stage.clone(), place: place.clone(), ..Begun::default() };
                progress.upload_begun(&begun).await.map_err(|_| Ended::Lost)?;
                traces.recorded = Some(id);
            }
        }
        let sha256: [u8; 32] = digest.finalize().into();
        check_whole(&fetched, received, spec.checksum, sha256)?;
        let context = fetched.context();
        // The host's place is free for others while the store works.
        drop(fetched);

        if !progress.still_mine().await {
            return Err(Ended::Lost);
        }
        completing.store(true, Ordering::Relaxed);
        let head = upload.complete(sha256).await.map_err(|error| stored_at(error.into(), place))?;
        if let Some(id) = traces.recorded.take() {
            progress.upload_ended(&id).await;
        }
        let object = StoredObject {
            bucket: place.bucket.clone(),
            key: place.key.clone(),
            etag: head.etag,
            size_bytes: head.size_bytes,
            sha256,
            content_type,
        };
        Ok(Stored { object, context, ..Stored::default() })
    }
}

impl Traces {
    async fn clean_up(mut self, place: &Place, progress: &dyn Progress) {
        let Some(mut upload) = self.upload.take() else { return };
        match tokio::time::timeout(CLEAN_UP_MAX, upload.abort()).await {
            Ok(Ok(())) => {
                if let Some(id) = self.recorded {
                    progress.upload_ended(&id).await;
                }
            }
            Ok(Err(error)) => tracing::debug!(key = %place.key, %error, "an upload is left to the sweep"),
            Err(_) => tracing::debug!(key = %place.key, "an upload is left to the sweep: the store does not answer"),
        }
    }
}

/// Enough of the body to see what it is.
async fn read_first(fetched: &mut Fetched<'_>, bytes_max: u64) -> Result<Vec<Bytes>, Failed> {
    let (mut first, mut bytes) = (Vec::new(), 0);
    while bytes < kind::SNIFF_BYTES {
        let Some(piece) = fetched.next().await? else { break };
        bytes += piece.len();
        if bytes as u64 > bytes_max {
            return Err(fetched.blame(too_large(bytes_max)));
        }
        first.push(piece);
    }
    Ok(first)
}

fn label(assignment: &Assignment, fetched: &Fetched<'_>, first: &[Bytes]) -> Label {
    let spec = &assignment.spec;
    let start: Vec<u8> = first.iter().flatten().copied().take(kind::SNIFF_BYTES).collect();
    let seen = kind::seen(&start);
    let mut metadata = spec.object_metadata.clone();
    if let Some(seen) = seen {
        metadata.insert(SEEN_TYPE.to_owned(), seen.to_owned());
    }
    let content_type = kind::content_type(fetched.content_type(), spec.mime_hint.as_deref(), seen);
    // A digest that is demanded can stand in the metadata from the start: another one never completes.
    Label { content_type, metadata, sha256: spec.checksum.unwrap_or_default() }
}

fn check_whole(fetched: &Fetched<'_>, received: u64, wanted: Option<[u8; 32]>, got: [u8; 32]) -> Result<(), Failed> {
    if let Some(declared) = fetched.total().filter(|declared| *declared != received) {
        let message = format!("{declared} bytes were declared and {received} came");
        return Err(fetched.blame(Failed::new(FailureCode::DownloadLengthMismatch, message)));
    }
    match wanted {
        Some(wanted) if wanted != got => {
            let failed = Failed::new(FailureCode::DownloadChecksum, "the body is not the one the manifest names")
                .with("sha256_wanted", hex(&wanted))
                .with("sha256", hex(&got));
            Err(fetched.blame(failed))
        }
        _ => Ok(()),
    }
}

fn stored_at(failed: Failed, place: &Place) -> Failed {
    failed.with("bucket", &place.bucket).with("key", &place.key)
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
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
