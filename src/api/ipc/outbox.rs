//! One connection's answers on their way out.
//!
//! Owns: encoding answers where they are decided, waking the connection's task once for many of them.
//! Must not know: sockets, what an answer says.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures_util::task::AtomicWaker;

use crate::api::frame::put_frame;
use crate::proto::fetchbox::v1::{IpcResponse, ipc_response::Body};

/// A buffer that one burst made larger than this is not kept.
const KEEP_BYTES: usize = 64 * 1024;

/// Bounded by the window: each request is answered once, and no request is read while the window is full.
pub(super) struct Outbox {
    queued: Mutex<Queued>,
    /// Bytes queued, readable without the lock.
    bytes: AtomicUsize,
    waker: AtomicWaker,
    credits: u32,
}

#[derive(Default)]
struct Queued {
    frames: Vec<u8>,
    answers: u32,
}

impl Outbox {
    pub(super) fn new(credits: u32) -> Self {
        Self { queued: Mutex::default(), bytes: AtomicUsize::new(0), waker: AtomicWaker::new(), credits }
    }

    /// From any thread; does not block but for the few hundred nanoseconds another answer is encoded in.
    pub(super) fn push(&self, request_id: u64, body: Body) {
        let response = IpcResponse { request_id, credits: self.credits, body: Some(body) };
        let first = {
            let mut queued = self.lock();
            put_frame(&mut queued.frames, &response);
            queued.answers += 1;
            self.bytes.store(queued.frames.len(), Ordering::Release);
            queued.answers == 1
        };
        // The task takes everything there is when it wakes: later answers need not wake it again.
        if first {
            self.waker.wake();
        }
    }

    /// Moves everything queued into `into`, which must be empty, and returns how many answers it is.
    pub(super) fn take(&self, into: &mut Vec<u8>) -> u32 {
        if into.capacity() > KEEP_BYTES {
            *into = Vec::new();
        }
        let mut queued = self.lock();
        std::mem::swap(&mut queued.frames, into);
        self.bytes.store(0, Ordering::Release);
        std::mem::take(&mut queued.answers)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    /// The task is about to wait. It must look at [`Outbox::bytes`] after this and before it does.
    pub(super) fn wake_me(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// The task runs and will look by itself: answers given meanwhile need not schedule it again.
    pub(super) fn awake(&self) {
        drop(self.waker.take());
    }

    fn lock(&self) -> MutexGuard<'_, Queued> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
