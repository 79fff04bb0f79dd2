//! A body on its way into the store: its digest, its parts, and what is recorded of them.
//!
//! Owns: that a part is recorded with the digest's state at its very end. Must not know: origins' answers, what was there before.

use bytes::Bytes;
use sha2::digest::common::hazmat::SerializableState as _;
use sha2::{Digest as _, Sha256};

use super::classify::Failed;
use super::course::{Ended, Recorded, Run};
use super::fetch::Fetched;
use super::{Begun, PartStored, Validators, Whole, Worker, kind};
use crate::objects::{Head, Label, Objects, Place};

/// User metadata: what the first bytes look like, whatever the origin says.
const SEEN_TYPE: &str = "fetchbox-seen-type";

/// How far the body has come.
pub(super) struct Sending {
    pub(super) received: u64,
    digest: Sha256,
    /// Where it is sent.
    pub(super) place: Place,
    pub(super) content_type: String,
    metadata: std::collections::BTreeMap<String, String>,
    total: Option<u64>,
    landed: Option<[u8; 32]>,
}

impl Sending {
    /// Behind what an earlier attempt stored. None: the digest's state is not one of ours.
    pub(super) fn after(begun: &Begun, last: &PartStored) -> Option<Self> {
        let digest = Sha256::deserialize(&last.digest_state.as_slice().try_into().ok()?).ok()?;
        Some(Self {
            received: last.end_bytes,
            digest,
            place: begun.place.clone(),
            content_type: begun.content_type.clone(),
            metadata: begun.metadata.clone(),
            total: begun.total_bytes,
            landed: begun.landed,
        })
    }

    pub(super) fn sha256(&self) -> [u8; 32] {
        self.digest.clone().finalize().into()
    }

    pub(super) fn whole(&self) -> Whole {
        Whole { sha256: self.sha256(), size_bytes: self.received }
    }
}

impl Worker {
    /// Reads enough of the body to see what it is, and begins an upload with it.
    pub(super) async fn begin(&self, run: &mut Run<'_>, fetched: &mut Fetched<'_>) -> Result<Sending, Ended> {
        let bytes_max = self.bytes_max(run.assignment);
        let (mut first, mut bytes) = (Vec::new(), 0);
        while bytes < kind::SNIFF_BYTES {
            let Some(piece) = fetched.next().await? else { break };
            bytes += piece.len();
            first.push(piece);
            if bytes as u64 > bytes_max {
                break;
            }
        }
        let spec = &run.assignment.spec;
        let label = label(run, fetched, &first);
        let place = run.goal.first_place(spec.checksum.as_ref());
        let length_max = fetched.total().unwrap_or(bytes_max);
        if fetched.total().is_some() {
            self.check_move(run, length_max)?;
        }
        let mut sending = Sending {
            received: 0,
            digest: Sha256::new(),
            place: place.clone(),
            content_type: label.content_type.clone(),
            metadata: label.metadata.clone(),
            total: fetched.total(),
            landed: Some(fetched.landed()),
        };
        let begun = self.objects.begin(&place, label, run.goal.stage(), length_max);
        match begun {
            Ok(upload) => run.traces.upload = Some(upload),
            Err(error) => return Err(self.store_failed(error, &place).await),
        }
        let validators = fetched.validators();
        for piece in first {
            self.send(run, &mut sending, piece, fetched, &validators).await?;
        }
        Ok(sending)
    }

    /// Takes the next piece of the body; whenever a part is full and more comes, the part is stored and recorded.
    pub(super) async fn send(
        &self,
        run: &mut Run<'_>,
        sending: &mut Sending,
        mut piece: Bytes,
        fetched: &Fetched<'_>,
        validators: &Validators,
    ) -> Result<(), Ended> {
        let bytes_max = self.bytes_max(run.assignment);
        if sending.received.saturating_add(piece.len() as u64) > bytes_max {
            return Err(fetched.blame(super::errand::too_large(bytes_max)).into());
        }
        self.check_move(run, sending.received)?;
        while !piece.is_empty() {
            let room = run.traces.upload.as_ref().map_or(u64::MAX, |upload| upload.room());
            if room == 0 {
                self.send_part(run, sending, validators).await?;
                continue;
            }
            let fits = usize::try_from(room).unwrap_or(usize::MAX).min(piece.len());
            let head = piece.split_to(fits);
            sending.digest.update(&head);
            sending.received += head.len() as u64;
            if let Some(upload) = &mut run.traces.upload
                && let Err(error) = upload.write(head).await
            {
                return Err(self.store_failed(error, &sending.place).await);
            }
        }
        Ok(())
    }

    /// Better said before everything was sent than after.
    fn check_move(&self, run: &Run<'_>, bytes: u64) -> Result<(), Failed> {
        let moves = run.goal.by_content() && run.assignment.spec.checksum.is_none() && self.objects.copies();
        if moves { Objects::check_rename(bytes).map_err(Failed::from) } else { Ok(()) }
    }

    /// Stores what is in hand as a part. The digest stands at that part's end, for nothing behind it was taken yet.
    async fn send_part(&self, run: &mut Run<'_>, sending: &Sending, validators: &Validators) -> Result<(), Ended> {
        let Some(upload) = &mut run.traces.upload else { return Err(Ended::Lost) };
        if upload.upload_id().is_none() {
            let upload_id = match upload.begin_parts().await {
                Ok(upload_id) => upload_id,
                Err(error) => return Err(self.store_failed(error, &sending.place).await),
            };
            let begun = Begun {
                upload_id: upload_id.clone(),
                stage: run.goal.stage().to_owned(),
                place: sending.place.clone(),
                part_bytes: upload.part_bytes(),
                validators: validators.clone(),
                landed: sending.landed,
                total_bytes: sending.total,
                content_type: sending.content_type.clone(),
                metadata: sending.metadata.clone(),
            };
            run.progress.upload_begun(&begun).await.map_err(|_| Ended::Lost)?;
            let place = sending.place.clone();
            let is_incoming = run.goal.is_incoming(&place);
            run.traces.recorded = Some(Recorded { upload_id, place, is_incoming, can_go_on: false });
        }
        let part = match upload.store_part().await {
            Ok(part) => part,
            Err(error) => return Err(self.store_failed(error, &sending.place).await),
        };
        let part = PartStored {
            index: part.index,
            part_id: part.id,
            end_bytes: part.end_bytes,
            digest_state: sending.digest.serialize().to_vec(),
        };
        if let Some(recorded) = &mut run.traces.recorded {
            run.progress.part_stored(&recorded.upload_id, &part).await.map_err(|_| Ended::Lost)?;
            recorded.can_go_on |= validators.strong_etag().is_some();
        }
        Ok(())
    }

    /// The last part, if the body is sent in parts: after it everything is in the store, or all of it is in hand.
    pub(super) async fn send_last(&self, run: &mut Run<'_>, sending: &Sending) -> Result<(), Ended> {
        let in_parts = run
            .traces
            .upload
            .as_ref()
            .is_some_and(|upload| upload.upload_id().is_some() && upload.room() < upload.part_bytes());
        if in_parts {
            self.send_part(run, sending, &Validators::default()).await?;
        }
        if let Some(recorded) = &mut run.traces.recorded {
            // Nothing of the body is missing: whatever its version was, a later attempt needs no origin.
            recorded.can_go_on = true;
        }
        Ok(())
    }

    /// Makes the object of what was sent, and moves it if its key was not known before.
    pub(super) async fn complete(&self, run: &mut Run<'_>, whole: &Whole) -> Result<Head, Ended> {
        let place = run.goal.place(&whole.sha256);
        let Some(upload) = &mut run.traces.upload else { return Err(Ended::Lost) };
        let from = run.traces.recorded.as_ref().map(|recorded| recorded.place.clone());
        let made = match upload.redirect(&place) {
            Ok(redirected) => upload.complete(whole.sha256).await.map(|head| (head, redirected)),
            Err(error) => Err(error),
        };
        match (made, from) {
            (Ok((head, redirected)), from) => {
                // From here on only what was recorded can be left behind.
                run.traces.upload = None;
                match from.filter(|from| !redirected && *from != place) {
                    Some(from) => self.move_into_place(&from, &place, whole, head).await,
                    None => Ok(head),
                }
            }
            (Err(error), _) => Err(self.store_failed(error, &place).await),
        }
    }

    /// From where it was sent to the key made of its digest.
    pub(super) async fn move_into_place(
        &self,
        from: &Place,
        place: &Place,
        whole: &Whole,
        head: Head,
    ) -> Result<Head, Ended> {
        match self.objects.rename(from, place, whole.size_bytes).await {
            Ok(moved) => Ok(moved.unwrap_or(head)),
            Err(error) => Err(self.store_failed(error, place).await),
        }
    }
}

fn label(run: &Run<'_>, fetched: &Fetched<'_>, first: &[Bytes]) -> Label {
    let spec = &run.assignment.spec;
    let seen = match first {
        [first] => kind::seen(first),
        pieces => kind::seen(&pieces.iter().flatten().copied().take(kind::SNIFF_BYTES).collect::<Vec<_>>()),
    };
    let mut metadata = spec.object_metadata.clone();
    if let Some(seen) = seen {
        metadata.insert(SEEN_TYPE.to_owned(), seen.to_owned());
    }
    let content_type = kind::content_type(fetched.content_type(), spec.mime_hint.as_deref(), seen);
    // A digest that is demanded can stand in the metadata from the start: another one never completes.
    Label { content_type, metadata, sha256: spec.checksum.unwrap_or_default() }
}
