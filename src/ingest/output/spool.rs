//! What has come in and is not durable yet: bounded by bytes over all doors, in order of arrival, for one writer.
//!
//! Owns: the budget, the queue, when it closes. Must not know: jobs, the store.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::model::{JobId, JobName, NewOutput, Refusal};

/// A part of the budget: given back when what it stands for is durable.
pub type Lease = OwnedSemaphorePermit;

/// What one sender brought in one go. Nobody waits for it.
pub struct Packet {
    pub names: Vec<Arc<JobName>>,
    /// Each with the place of its job in `names`.
    pub records: Vec<(u32, NewOutput)>,
    pub bytes: usize,
    pub at: Instant,
    pub lease: Lease,
}

/// An append that is answered after its sync.
pub struct Call {
    pub job: JobId,
    pub records: Vec<NewOutput>,
    pub expected: Option<u64>,
    pub bytes: usize,
    pub at: Instant,
    pub done: oneshot::Sender<Result<u64, Refusal>>,
    pub lease: Lease,
}

pub enum Item {
    Packet(Packet),
    Call(Call),
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Item::Packet(packet) => packet.bytes,
            Item::Call(call) => call.bytes,
        }
    }
}

/// Kept by whoever may still bring something: the spool closes when the last one is gone.
pub type Pass = mpsc::Sender<()>;

/// How long senders that nobody answers wait for their turn before the disk counts as stalled: then all of the room is theirs.
const TURN_MAX: Duration = Duration::from_millis(50);

pub struct Spool {
    room: Arc<Semaphore>,
    room_bytes: usize,
    /// What is to wait at most while the writer takes it out steadily: more would only be late.
    enough: AtomicUsize,
    state: Mutex<State>,
    arrived: Notify,
    taken: Notify,
    doors: Mutex<Doors>,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    bytes: usize,
    /// Nothing was taken for so long that a sender gave up waiting for its turn.
    stalled: bool,
    closed: bool,
}

struct Doors {
    pass: Option<Pass>,
    returned: Option<mpsc::Receiver<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Spool {
    pub fn new(bytes_max: usize) -> Self {
        let room_bytes = bytes_max.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let (pass, returned) = mpsc::channel(1);
        Self {
            room: Arc::new(Semaphore::new(room_bytes)),
            room_bytes,
            enough: AtomicUsize::new(0),
            state: Mutex::default(),
            arrived: Notify::new(),
            taken: Notify::new(),
            doors: Mutex::new(Doors { pass: Some(pass), returned: Some(returned) }),
        }
    }

    /// Waits for room, first come first served; what is larger than all of it waits until it is alone. None: closed.
    pub async fn lease(&self, bytes: usize) -> Option<Lease> {
        let wanted = u32::try_from(bytes.clamp(1, self.room_bytes)).unwrap_or(u32::MAX);
        Arc::clone(&self.room).acquire_many_owned(wanted).await.ok()
    }

    /// Waits until no more than enough lies here, or the writer does not get on.
    pub async fn turn(&self) {
        let calm = async {
            loop {
                let taken = self.taken.notified();
                {
                    let state = lock(&self.state);
                    if state.stalled || state.closed || state.bytes <= self.enough.load(Ordering::Relaxed) {
                        return;
                    }
                }
                taken.await;
            }
        };
        if tokio::time::timeout(TURN_MAX, calm).await.is_err() {
            lock(&self.state).stalled = true;
        }
    }

    pub fn set_enough(&self, bytes: usize) {
        self.enough.store(bytes, Ordering::Relaxed);
    }

    /// Bytes taken in and not durable yet.
    pub fn used(&self) -> usize {
        self.room_bytes.saturating_sub(self.room.available_permits())
    }

    /// Gives it back when nothing is taken any more.
    pub fn put(&self, item: Item) -> Result<(), Item> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(item);
        }
        state.bytes += item.bytes();
        state.items.push_back(item);
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits until `least` bytes are there, or the spool is closed. Items up to about `most` bytes, at least one; None: closed and empty. Only
    /// one may call it at a time; dropping the future takes nothing.
    pub async fn take(&self, least: usize, most: usize) -> Option<Vec<Item>> {
        loop {
            {
                let mut state = lock(&self.state);
                if !state.items.is_empty() && (state.bytes >= least || state.closed) {
                    let items = state.take(most);
                    state.stalled = false;
                    self.taken.notify_waiters();
                    return Some(items);
                }
                if state.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    pub fn waiting_bytes(&self) -> usize {
        lock(&self.state).bytes
    }

    /// It closes as soon as the doors have brought what they still had.
    pub fn is_closing(&self) -> bool {
        lock(&self.doors).pass.is_none() || lock(&self.state).closed
    }

    /// A pass for a door. None: no more are given.
    pub fn pass(&self) -> Option<Pass> {
        lock(&self.doors).pass.clone()
    }

    /// Takes the answered appends out of the queue, wherever they stand.
    pub fn take_calls(&self) -> Vec<Call> {
        let mut state = lock(&self.state);
        let mut calls = Vec::new();
        for item in std::mem::take(&mut state.items) {
            match item {
                Item::Call(call) => calls.push(call),
                packet @ Item::Packet(_) => state.items.push_back(packet),
            }
        }
        state.bytes -= calls.iter().map(|call| call.bytes).sum::<usize>();
        calls
    }

    /// Waits until every pass is given back, then closes: what is queued can still be taken.
    pub async fn close_after_doors(&self) {
        let returned = {
            let mut doors = lock(&self.doors);
            doors.pass = None;
            doors.returned.take()
        };
        if let Some(mut returned) = returned {
            let _ = returned.recv().await;
        }
        self.close();
    }

    /// Nothing more is taken in, whoever waits for room is sent away.
    pub fn close(&self) {
        lock(&self.state).closed = true;
        self.room.close();
        self.arrived.notify_one();
    }
}

impl State {
    fn take(&mut self, most: usize) -> Vec<Item> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self.items.front() {
            if bytes > 0 && bytes + next.bytes() > most {
                break;
            }
            bytes += next.bytes();
            taken.extend(self.items.pop_front());
        }
        self.bytes -= bytes;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    async fn packet(spool: &Spool, bytes: usize) -> Item {
        let lease = spool.lease(bytes).await.unwrap();
        Item::Packet(Packet { names: Vec::new(), records: Vec::new(), bytes, at: Clock::instant(), lease })
    }

    #[tokio::test]
    async fn what_is_larger_than_the_whole_spool_is_taken_alone_and_not_never() {
        let spool = Spool::new(100);
        assert!(spool.put(packet(&spool, 10).await).is_ok());
        let mut large = Box::pin(packet(&spool, 1_000));
        assert!(futures_util::poll!(&mut large).is_pending());
        drop(spool.take(1, 50).await);
        let large = large.await;
        assert_eq!(spool.used(), 100);
        assert!(spool.put(large).is_ok());
        assert_eq!(spool.take(1, 50).await.unwrap().len(), 1);
        assert_eq!(spool.used(), 0);
    }

    #[tokio::test]
    async fn a_sender_waits_for_its_turn_only_as_long_as_the_writer_is_at_work() {
        let spool = Spool::new(1_000);
        spool.set_enough(10);
        assert!(spool.put(packet(&spool, 10).await).is_ok());
        assert!(futures_util::poll!(Box::pin(spool.turn())).is_ready(), "enough is not too much");
        assert!(spool.put(packet(&spool, 10).await).is_ok());
        let mut waiting = Box::pin(spool.turn());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(spool.take(1, 10).await);
        assert!(futures_util::poll!(&mut waiting).is_ready());
        assert!(spool.put(packet(&spool, 10).await).is_ok());
        let begun = Clock::instant();
        spool.turn().await;
        assert!(begun.elapsed() >= TURN_MAX);
        // Nobody takes anything: the rest of the room is for that.
        assert!(futures_util::poll!(Box::pin(spool.turn())).is_ready());
        assert!(spool.put(packet(&spool, 10).await).is_ok());
        drop(spool.take(1, 10).await);
        assert!(futures_util::poll!(Box::pin(spool.turn())).is_pending());
    }

    #[tokio::test]
    async fn a_closing_spool_waits_for_its_doors_and_then_gives_all_it_has() {
        let spool = Spool::new(100);
        let door = spool.pass().unwrap();
        let mut closing = Box::pin(spool.close_after_doors());
        assert!(futures_util::poll!(&mut closing).is_pending());
        assert!(spool.pass().is_none());
        let item = packet(&spool, 10).await;
        assert!(spool.put(item).is_ok());
        drop(door);
        closing.await;
        assert_eq!(spool.take(1_000, 1).await.unwrap().len(), 1);
        assert!(spool.take(1, 1).await.is_none());
        assert!(spool.lease(1).await.is_none());
    }
}
