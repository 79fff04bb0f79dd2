//! One connection of the native socket, from its first byte to its end.
//!
//! Owns: the turn (handle what is buffered, write what is answered, read what is there, wait), the deadlines, the end.
//! Must not know: what requests ask for.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, PollSemaphore, WaitForCancellationFuture};

use super::Server;
use super::requests::{self, Peer, Reply};
use crate::api::frame::{FrameBuffer, FrameError, Next};
use crate::api::incoming::Seated;
use crate::clock::Clock;
use crate::model::{Refusal, RefusalCode};
use crate::proto::fetchbox::v1::IpcRequest;

/// Unread answers of one connection beyond which no further request of it is looked at.
const OUTBOX_PAUSE_BYTES: usize = 64 * 1024;
/// What a stalled client may leave unread even when all of them together leave too much.
const UNREAD_ALWAYS_BYTES: usize = 16 * 1024;
/// Requests handled before other connections get their turn on this thread.
const REQUESTS_PER_TURN: u32 = 64;
/// After a broken frame: how long, and how much of what the client still sends, is read away so that it can read our answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// Serves one connection until either side ends it.
pub(super) async fn run(seated: Seated<UnixStream>, server: Arc<Server>, stop: CancellationToken) {
    let mut connection = Connection::new(seated, server);
    let end = {
        let mut stopped = pin!(stop.cancelled());
        poll_fn(|cx| connection.poll(cx, stopped.as_mut())).await
    };
    match end {
        End::Finished => {}
        End::BrokenFrame => connection.linger().await,
        End::Dropped(why) => tracing::debug!(why, "ipc connection dropped"),
        End::Failed(error) => tracing::debug!(%error, "ipc connection failed"),
    }
}

enum End {
    /// Everything that was asked is answered.
    Finished,
    /// The same, and the client must still learn that its frame was broken.
    BrokenFrame,
    Dropped(&'static str),
    Failed(io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The client sends no more. What it has sent is still answered.
    Ended,
    /// The frame's borders are lost.
    Broken,
    /// The daemon stops: nothing new is looked at, what is in flight is answered.
    Stopping,
}

struct Connection {
    seated: Seated<UnixStream>,
    server: Arc<Server>,
    peer: Arc<Peer>,
    phase: Phase,
    input: FrameBuffer,
    large: PollSemaphore,
    leave: Option<OwnedSemaphorePermit>,
    /// Answers being written: those before `written` have left.
    output: Vec<u8>,
    written: usize,
    output_answers: u32,
    /// Requests handled and not yet answered with every byte written.
    in_flight: u32,
    /// Whole requests may stand in `input` that the window has no room for.
    paused: bool,
    /// Requests that wait for something other than the committer.
    side: FuturesUnordered<BoxFuture<'static, ()>>,
    frame_deadline: Option<Instant>,
    unread_deadline: Option<Instant>,
    /// What this connection has on the server's account of unread bytes.
    unread: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    fn new(seated: Seated<UnixStream>, server: Arc<Server>) -> Self {
        Self {
            seated,
            peer: Arc::new(Peer::new(server.clone())),
            phase: Phase::Open,
            input: FrameBuffer::new(server.frame_bytes_max),
            large: PollSemaphore::new(server.large.clone()),
            leave: None,
            output: Vec::new(),
            written: 0,
            output_answers: 0,
            in_flight: 0,
            paused: false,
            side: FuturesUnordered::new(),
            frame_deadline: None,
            unread_deadline: None,
            unread: 0,
            timer: None,
            server,
        }
    }

    /// Turns until there is nothing to do, then waits for bytes, answers, room to write, a deadline or the stop.
    fn poll(&mut self, cx: &mut Context<'_>, mut stopped: Pin<&mut WaitForCancellationFuture<'_>>) -> Poll<End> {
        let mut handled = 0;
        loop {
            self.peer.outbox.awake();
            handled += self.handle_frames(cx);
            while let Poll::Ready(Some(())) = self.side.poll_next_unpin(cx) {}
            let blocked = match self.poll_write(cx) {
                Poll::Ready(Ok(())) => false,
                Poll::Ready(Err(error)) => return Poll::Ready(End::Failed(error)),
                Poll::Pending => true,
            };
            if let Some(end) = self.ended() {
                return Poll::Ready(end);
            }
            if handled >= REQUESTS_PER_TURN {
                if self.phase == Phase::Open && stopped.as_mut().poll(cx).is_ready() {
                    self.phase = Phase::Stopping;
                }
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if self.paused && self.has_room() {
                continue;
            }
            if self.phase == Phase::Open && !self.paused {
                match self.poll_read(cx) {
                    Poll::Ready(Ok(0)) => {
                        self.phase = Phase::Ended;
                        continue;
                    }
                    Poll::Ready(Ok(_)) => continue,
                    Poll::Ready(Err(error)) => return Poll::Ready(End::Failed(error)),
                    Poll::Pending => {}
                }
            }
            self.peer.outbox.wake_me(cx.waker());
            if !blocked && self.peer.outbox.bytes() > 0 {
                continue;
            }
            if self.phase != Phase::Stopping && stopped.as_mut().poll(cx).is_ready() {
                self.phase = Phase::Stopping;
                continue;
            }
            return self.poll_deadlines(cx, blocked).map(End::Dropped);
        }
    }

    fn has_room(&self) -> bool {
        self.in_flight < self.server.window && self.peer.outbox.bytes() < OUTBOX_PAUSE_BYTES
    }

    /// Starts every whole request that is buffered and that the window has room for; returns how many.
    fn handle_frames(&mut self, cx: &mut Context<'_>) -> u32 {
        let mut handled = 0;
        while matches!(self.phase, Phase::Open | Phase::Ended) {
            self.paused = !self.has_room();
            if self.paused {
                self.frame_deadline = None;
                break;
            }
            match self.input.next() {
                Ok(Next::Partial { .. }) => break,
                Ok(Next::Frame(len)) => {
                    let request = IpcRequest::decode(self.input.body(len));
                    self.input.consume(len);
                    self.frame_deadline = None;
                    let leave = self.leave.take();
                    self.in_flight += 1;
                    handled += 1;
                    match request {
                        Ok(request) => self.start(request, leave, cx),
                        Err(error) => self.refuse(Refusal::invalid("body", format!("not an IpcRequest: {error}"))),
                    }
                }
                Err(error) => {
                    self.in_flight += 1;
                    self.phase = Phase::Broken;
                    self.refuse(broken(error));
                }
            }
        }
        handled
    }

    fn start(&self, request: IpcRequest, leave: Option<OwnedSemaphorePermit>, cx: &mut Context<'_>) {
        if let Some(mut work) = requests::start(&self.peer, request, leave) {
            // The first poll, in the order of arrival, hands most requests over completely.
            if work.as_mut().poll(cx).is_pending() {
                self.side.push(work);
            }
        }
    }

    /// Answers something whose id is unknown.
    fn refuse(&self, refusal: Refusal) {
        Reply::new(self.peer.clone(), 0, None).send(Err(refusal));
    }

    /// Writes answers until none is left (ready) or the client must read first (pending).
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.written == self.output.len() {
                self.in_flight = self.in_flight.saturating_sub(std::mem::take(&mut self.output_answers));
                self.output.clear();
                self.written = 0;
                if self.peer.outbox.bytes() == 0 {
                    self.unread_deadline = None;
                    self.settle_unread(0);
                    return Poll::Ready(Ok(()));
                }
                self.output_answers = self.peer.outbox.take(&mut self.output);
            }
            let rest = self.output.get(self.written..).unwrap_or_default();
            let written = ready!(Pin::new(&mut self.seated.io).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
            self.unread_deadline = None;
        }
    }

    /// Reads once. Zero bytes are the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let total = match self.input.next() {
            Ok(Next::Partial { total }) => total,
            // Whole or broken frames are handled before anything is read.
            Ok(Next::Frame(_)) | Err(_) => return Poll::Pending,
        };
        if self.leave.is_none() && self.input.needs_leave(total) {
            let permits = u32::try_from(total).unwrap_or(u32::MAX);
            self.leave = ready!(self.large.poll_acquire_many(cx, permits));
        }
        let read = {
            let mut room = self.input.room(total);
            let mut reading = pin!(self.seated.io.read_buf(&mut room));
            ready!(reading.as_mut().poll(cx))?
        };
        self.input.filled(read);
        Poll::Ready(Ok(read))
    }

    /// Nothing is left to do.
    fn ended(&self) -> Option<End> {
        let idle = self.in_flight == 0 && self.written == self.output.len() && self.peer.outbox.bytes() == 0;
        match self.phase {
            Phase::Open => None,
            Phase::Ended if idle && !self.paused => Some(End::Finished),
            Phase::Broken if idle => Some(End::BrokenFrame),
            Phase::Stopping if idle => Some(End::Finished),
            Phase::Ended | Phase::Broken | Phase::Stopping => None,
        }
    }

    /// Pending until the client has broken one of its deadlines. Called only when about to wait: a busy connection never reads the clock.
    fn poll_deadlines(&mut self, cx: &mut Context<'_>, blocked: bool) -> Poll<&'static str> {
        if self.input.is_empty() {
            self.input.rest();
        } else if self.phase == Phase::Open && !self.paused {
            let timeout = self.server.frame_timeout;
            self.frame_deadline.get_or_insert_with(|| Clock::instant() + timeout);
        }
        if blocked {
            if self.hoards() {
                return Poll::Ready("too many answers were left unread");
            }
            let timeout = self.server.unread_timeout;
            self.unread_deadline.get_or_insert_with(|| Clock::instant() + timeout);
        }
        loop {
            let Some(first) = self.frame_deadline.into_iter().chain(self.unread_deadline).min() else {
                return Poll::Pending;
            };
            let at = tokio::time::Instant::from_std(first);
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if timer.deadline() > at {
                timer.as_mut().reset(at);
            }
            ready!(timer.as_mut().poll(cx));
            // The timer may have been set for an earlier deadline that was met: it is moved at most once per timeout.
            if timer.deadline() >= at {
                let unread = self.unread_deadline == Some(first);
                return Poll::Ready(if unread {
                    "answers were not read in time"
                } else {
                    "a frame was not finished in time"
                });
            }
            timer.as_mut().reset(at);
        }
    }

    /// This client's unread answers are more than a little, and everybody's together are too many.
    fn hoards(&mut self) -> bool {
        let unread = self.output.len() - self.written + self.peer.outbox.bytes();
        self.settle_unread(unread);
        unread > UNREAD_ALWAYS_BYTES && self.server.unread.load(Ordering::Relaxed) > self.server.unread_bytes_max
    }

    fn settle_unread(&mut self, unread: usize) {
        if unread > self.unread {
            self.server.unread.fetch_add(unread - self.unread, Ordering::Relaxed);
        } else if unread < self.unread {
            self.server.unread.fetch_sub(self.unread - unread, Ordering::Relaxed);
        }
        self.unread = unread;
    }

    /// A socket closed with bytes unread resets the other side, which then may never see our answer.
    async fn linger(&mut self) {
        let _ = self.seated.io.shutdown().await;
        let mut away = [0_u8; 8 * 1024];
        let _ = tokio::time::timeout(LINGER, async {
            let mut total = 0;
            while total < LINGER_BYTES {
                match self.seated.io.read(&mut away).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => total += read,
                }
            }
        })
        .await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.settle_unread(0);
    }
}

fn broken(error: FrameError) -> Refusal {
    let code = match error {
        FrameError::Empty => RefusalCode::InvalidPayload,
        FrameError::TooLarge { .. } => RefusalCode::PayloadTooLarge,
    };
    Refusal::new(code, error.to_string())
}
