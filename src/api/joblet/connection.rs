//! One sender on the joblet socket, from its first byte to its end.
//!
//! Owns: reading, the deadline of a frame begun, what is read at shutdown, what is refused. Must not know: what records are for.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::Server;
use super::input::{Input, bodies};
use super::message::{self, Unreadable};
use crate::api::incoming::Seated;
use crate::clock::Clock;
use crate::ingest::{Arrived, Closed, OutputSource};

/// Between two lines about messages that one connection sent and nobody can keep.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);
/// At shutdown, what had arrived at the signal is read in any case. A sender that goes on is listened to no longer than this.
const LISTEN_ON: Duration = Duration::from_secs(1);
/// Bytes of a refused name that are shown.
const SHOWN_BYTES: usize = 64;

/// Reads until the sender ends, breaks the frames' borders, or the daemon stops.
pub(super) async fn run(
    seated: Seated<UnixStream>,
    source: OutputSource,
    server: Arc<Server>,
    stop: CancellationToken,
) {
    let io = &seated.io;
    if let Ok(peer) = io.peer_cred() {
        tracing::debug!(uid = peer.uid(), gid = peer.gid(), pid = peer.pid(), "joblet connection");
    }
    let mut reader = Reader { input: Input::new(server.frame_bytes_max), source, refused: Refused::default(), server };
    let end = match reader.read(io, &stop).await {
        Ok(()) if stop.is_cancelled() => reader.drain(io).await,
        ended => ended,
    };
    reader.refused.complain(true);
    match end {
        Ok(()) => {}
        Err(End::Broken(why)) => tracing::warn!(why, "joblet connection closed"),
        Err(End::Failed(error)) => tracing::debug!(%error, "joblet connection failed"),
        Err(End::Closed(Closed)) => tracing::debug!("joblet connection closed: output is not taken any more"),
    }
    if reader.source.finish().await.is_err() {
        tracing::debug!("the last output of a joblet connection was not taken");
    }
}

enum End {
    Broken(String),
    Failed(io::Error),
    Closed(Closed),
}

impl From<Closed> for End {
    fn from(closed: Closed) -> Self {
        End::Closed(closed)
    }
}

struct Reader {
    input: Input,
    source: OutputSource,
    refused: Refused,
    server: Arc<Server>,
}

impl Reader {
    /// Ends well when the sender does, or at `stop`.
    async fn read(&mut self, io: &UnixStream, stop: &CancellationToken) -> Result<(), End> {
        let mut deadline = None;
        let mut leave = None;
        loop {
            if self.deliver().await? {
                (deadline, leave) = (None, None);
            }
            if let (Some(bytes), None) = (self.input.needs_leave(), &leave) {
                let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
                leave = tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    leave = self.server.large.clone().acquire_many_owned(permits) => leave.ok(),
                };
                deadline = None;
            }
            if self.input.is_partial() {
                deadline.get_or_insert_with(|| Clock::instant() + self.server.frame_timeout);
            }
            let due = self.source.due();
            let wake = [deadline, due].into_iter().flatten().min();
            let timer = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                ready = io.readable() => ready.map_err(End::Failed)?,
                () = stop.cancelled() => return Ok(()),
                () = timer => {
                    if deadline.is_some_and(|deadline| Clock::instant() >= deadline) {
                        return Err(self.break_off("unfinished", "a frame was not finished in time".to_owned()));
                    }
                    continue;
                }
            }
            match self.read_once(io) {
                Ok(0) if self.input.is_partial() => {
                    return Err(self.break_off("unfinished", "it ended within a frame".to_owned()));
                }
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.input.rest(),
                Err(error) => return Err(End::Failed(error)),
            }
            if stop.is_cancelled() {
                return Ok(());
            }
        }
    }

    /// The daemon stops: reads what stands in the socket, then closes.
    async fn drain(&mut self, io: &UnixStream) -> Result<(), End> {
        let began = Clock::instant();
        // Where the system does not say, reading until nothing is there must do.
        let arrived = rustix::io::ioctl_fionread(io).unwrap_or(0);
        let mut taken = 0u64;
        self.deliver().await?;
        loop {
            if taken < arrived {
                io.readable().await.map_err(End::Failed)?;
            } else if began.elapsed() >= LISTEN_ON {
                return Ok(());
            }
            match self.read_once(io) {
                Ok(0) => return Ok(()),
                Ok(read) => taken += read as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && taken >= arrived => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(End::Failed(error)),
            }
            self.deliver().await?;
        }
    }

    fn read_once(&mut self, io: &UnixStream) -> io::Result<usize> {
        let read = io.try_read_buf(&mut self.input.room())?;
        self.input.filled(read);
        self.server.bytes.inc_by(read as u64);
        Ok(read)
    }

    /// Hands over every whole frame that is there. True: there was one.
    async fn deliver(&mut self) -> Result<bool, End> {
        let mut any = false;
        loop {
            let frames = match self.input.whole() {
                Ok(frames) => frames,
                Err(too_large) => return Err(self.break_off("too_large", too_large.to_string())),
            };
            if frames.is_empty() {
                self.source.hand_over().await?;
                return Ok(any);
            }
            any = true;
            self.gather(frames);
        }
    }

    fn gather(&mut self, frames: Bytes) {
        let mut count = 0;
        for body in bodies(frames) {
            count += 1;
            if body.is_empty() {
                self.refuse("empty", &[]);
                continue;
            }
            let message = match message::read(&body) {
                Ok(message) => message,
                Err(Unreadable::Body) => {
                    self.refuse("body", &[]);
                    continue;
                }
                Err(Unreadable::Data) => {
                    self.refuse("data", &[]);
                    continue;
                }
            };
            let job = body.get(message.job).unwrap_or_default();
            let arrived = Arrived {
                job,
                kind: message.kind,
                stream: message.stream,
                time_ns: message.time_ns,
                sequence: message.sequence,
                data: message.data,
            };
            if !self.source.take(arrived) {
                self.refuse("name", job);
            }
        }
        self.server.received.inc_by(count);
    }

    fn refuse(&mut self, reason: &'static str, name: &[u8]) {
        self.server.metrics.persist_refused.with_label_values(&[reason]).inc();
        self.refused.note(reason, name);
    }

    fn break_off(&self, reason: &'static str, why: String) -> End {
        self.server.metrics.persist_refused.with_label_values(&[reason]).inc();
        End::Broken(why)
    }
}

/// Messages refused and not yet complained of: a sender that sends nothing else must not fill the log.
#[derive(Default)]
struct Refused {
    count: u64,
    reason: &'static str,
    name: String,
    told: Option<Instant>,
}

impl Refused {
    fn note(&mut self, reason: &'static str, name: &[u8]) {
        self.count += 1;
        self.reason = reason;
        let shown = name.get(..SHOWN_BYTES.min(name.len())).unwrap_or_default();
        self.name = shown.escape_ascii().to_string();
        self.complain(false);
    }

    fn complain(&mut self, now: bool) {
        if self.count == 0 || (!now && self.told.is_some_and(|told| told.elapsed() < COMPLAIN_EVERY)) {
            return;
        }
        let (count, reason, name) = (std::mem::take(&mut self.count), self.reason, &self.name);
        tracing::warn!(count, last_reason = reason, last_name = %name, "messages of job output cannot be kept");
        self.told = Some(Clock::instant());
    }
}
