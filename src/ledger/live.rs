//! Streams that stay: a job's snapshots, and its log from history into the present.
//!
//! Owns: the order of registering, reading and waiting that loses and repeats nothing. Must not know: what wakes it.
//!
//! A stream holds what one read gave, two megabytes or a single larger record, and reads only when it was taken. It registers for changes before it reads: what is committed between reading and
//! waiting wakes it again.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::Semaphore;

use super::logs::{self, Budget, Filter, Kept, Records};
use super::scan::page_rows;
use super::tail::TailSearch;
use super::{LogPage, LogQuery, behind_the_end, no_job};
use crate::model::{Job, JobId, LogRecord, Refusal, RefusalCode};
use crate::store::{JobWatch, Reader};

/// Records a follow looks at in one read before it lets others read.
const EXAMINED_AT_ONCE: usize = 10_000;
/// About the bytes of one batch.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// What a woken follow waits for more to come: so much for each follow there is, but at least and at most so long.
const GATHER_US_EACH: u64 = 500;
const GATHER_US_MIN: u64 = 1_000;
const GATHER_US_MAX: u64 = 100_000;
/// Records that match nothing before a follow says how far it is.
const SKIPPED_SILENTLY_MAX: u64 = 10_000;

/// What a stream reads and waits for. The store's reader; tests inject their own.
pub trait Source: Records {
    type Wake: Wake;

    /// Wakes for every commit that touches the job from now on.
    fn wake(&self, id: JobId) -> Self::Wake;
}

pub trait Wake: Send + 'static {
    /// Returns after the next change; an error when there can be no more.
    fn changed(&mut self) -> impl Future<Output = Result<(), Refusal>> + Send;
}

impl Source for Reader {
    type Wake = StoreWake;

    fn wake(&self, id: JobId) -> StoreWake {
        StoreWake { job: self.watch_job(id), fault: self.fault_watch() }
    }
}

/// Wakes for every commit that touches one job, and when there can be no more.
pub struct StoreWake {
    job: JobWatch,
    fault: tokio::sync::watch::Receiver<Option<String>>,
}

impl Wake for StoreWake {
    fn changed(&mut self) -> impl Future<Output = Result<(), Refusal>> + Send {
        StoreWake::changed(self)
    }
}

impl StoreWake {
    pub async fn changed(&mut self) -> Result<(), Refusal> {
        tokio::select! {
            () = self.job.changed() => Ok(()),
            _ = self.fault.wait_for(Option::is_some) => {
                Err(Refusal::new(RefusalCode::Unavailable, "the store serves no longer; ask again after a restart"))
            }
        }
    }
}

fn find<S: Source>(source: &S, id: JobId) -> Result<Job, Refusal> {
    source.job(id)?.ok_or_else(|| no_job(id))
}

/// A job that goes while it streams is told by the id under which its reader knows it.
fn told(refusal: Refusal, shown: &str) -> Refusal {
    if refusal.code == RefusalCode::NotFound { no_job(shown) } else { refusal }
}

struct Watching<S: Source> {
    source: S,
    id: JobId,
    /// The id that clients see.
    shown: String,
    after: u64,
    wake: S::Wake,
}

/// Snapshots with a revision above `after`, each above the one before; ends after a terminal one.
pub fn watch<S: Source>(source: S, id: JobId, after: u64) -> BoxStream<'static, Result<Job, Refusal>> {
    let wake = source.wake(id);
    let shown = match find(&source, id) {
        Ok(job) => job.public_id(),
        Err(refusal) => return stream::iter([Err(refusal)]).boxed(),
    };
    let start = Watching { source, id, shown, after, wake };
    stream::unfold(Some(start), async |state| {
        let mut state = state?;
        match next_snapshot(&mut state).await {
            Ok(None) => None,
            Ok(Some(job)) => {
                let rest = if job.state.is_terminal() { None } else { Some(state) };
                Some((Ok(job), rest))
            }
            Err(refusal) => Some((Err(told(refusal, &state.shown)), None)),
        }
    })
    .boxed()
}

/// None: the terminal snapshot is one the caller has.
async fn next_snapshot<S: Source>(state: &mut Watching<S>) -> Result<Option<Job>, Refusal> {
    loop {
        let job = find(&state.source, state.id)?;
        if job.revision > state.after {
            state.after = job.revision;
            return Ok(Some(job));
        }
        if job.state.is_terminal() {
            return Ok(None);
        }
        state.wake.changed().await?;
    }
}

/// Of all follows together: how many there are, and how many may read at once.
pub struct Followers {
    count: AtomicUsize,
    /// Reads that may occupy blocking threads: more would only take memory.
    turns: Arc<Semaphore>,
}

impl Followers {
    const READS_MAX: usize = 8;

    pub fn new() -> Arc<Self> {
        Arc::new(Self { count: AtomicUsize::new(0), turns: Arc::new(Semaphore::new(Self::READS_MAX)) })
    }

    /// How long a woken follow lets more arrive before it reads: all together read some two thousand times a second, however many they
    /// are and however often a job writes.
    fn patience(&self) -> Duration {
        let micros = self.count.load(Ordering::Relaxed) as u64 * GATHER_US_EACH;
        Duration::from_micros(micros.clamp(GATHER_US_MIN, GATHER_US_MAX))
    }
}

/// Counts one follow for as long as it lives.
struct Seat(Arc<Followers>);

impl Seat {
    fn take(followers: Arc<Followers>) -> Self {
        followers.count.fetch_add(1, Ordering::Relaxed);
        Self(followers)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Following<S: Source> {
    source: S,
    id: JobId,
    /// The id that clients see.
    shown: String,
    filter: Arc<Filter>,
    limit: usize,
    /// Until it is found where the tail begins.
    tail: Option<TailSearch>,
    /// Behind the last record that was read.
    next: u64,
    /// Read, kept, not given yet: one slice.
    ahead: VecDeque<LogRecord>,
    reached: Reached,
    skipped: u64,
    wake: S::Wake,
    seat: Seat,
}

/// Where the last read ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    Middle,
    /// All there was.
    Present,
    /// All there will be.
    End,
}

/// Kept records from `query.offset` on, or the last `query.tail` and what comes after them; ends when the job is terminal
/// and all it has was looked at.
pub fn follow<S: Source>(
    source: S,
    id: JobId,
    query: LogQuery,
    followers: Arc<Followers>,
) -> BoxStream<'static, Result<LogPage, Refusal>> {
    let filter = match Filter::new(&query) {
        Ok(filter) => Arc::new(filter),
        Err(refusal) => return stream::iter([Err(refusal)]).boxed(),
    };
    let next = if query.tail > 0 { 0 } else { query.offset };
    let shown = match begin(&source, id, next) {
        Ok(job) => job.public_id(),
        Err(refusal) => return stream::iter([Err(refusal)]).boxed(),
    };
    let wake = source.wake(id);
    let start = Following {
        source,
        id,
        shown,
        filter,
        limit: page_rows(query.limit),
        tail: (query.tail > 0).then(|| TailSearch::new(query.tail)),
        next,
        ahead: VecDeque::new(),
        reached: Reached::Middle,
        skipped: 0,
        wake,
        seat: Seat::take(followers),
    };
    stream::unfold(Some(start), async |state| {
        let mut state = state?;
        match next_page(&mut state).await {
            Ok(None) => None,
            Ok(Some(page)) => Some((Ok(page), Some(state))),
            Err(refusal) => Some((Err(told(refusal, &state.shown)), None)),
        }
    })
    .boxed()
}

/// What a reader has seen is counted, over restarts as well: only a position that this job never had is refused.
fn begin<S: Source>(source: &S, id: JobId, offset: u64) -> Result<Job, Refusal> {
    let job = find(source, id)?;
    if offset > job.log_count { Err(behind_the_end(&job, offset, job.log_count)) } else { Ok(job) }
}

async fn next_page<S: Source>(state: &mut Following<S>) -> Result<Option<LogPage>, Refusal> {
    loop {
        if !state.ahead.is_empty() {
            // A page takes half a millisecond to be encoded: others have their turn between two.
            tokio::task::yield_now().await;
            return give(state).map(Some);
        }
        // Now and then a page without records tells how far a resumed follow need not look.
        if state.skipped >= SKIPPED_SILENTLY_MAX && state.reached == Reached::Middle {
            return give(state).map(Some);
        }
        match state.reached {
            Reached::End => return Ok(None),
            Reached::Present => {
                state.wake.changed().await?;
                tokio::time::sleep(state.seat.0.patience()).await;
            }
            Reached::Middle => {}
        }
        read_on(state).await?;
    }
}

/// One batch of what was read ahead.
fn give<S: Source>(state: &mut Following<S>) -> Result<LogPage, Refusal> {
    let (mut count, mut bytes) = (0, 0);
    for record in state.ahead.iter().take(state.limit) {
        bytes += logs::weigh(record);
        if bytes > BATCH_BYTES_MAX && count > 0 {
            break;
        }
        count += 1;
    }
    let records: Vec<LogRecord> = state.ahead.drain(..count).collect();
    state.skipped = 0;
    let next_offset = match (state.ahead.front(), records.last()) {
        (Some(_), Some(last)) => last.offset + 1,
        (_, _) => state.next,
    };
    // As it is now, not as it was when these were read: a slow reader is to see it grow.
    let count = find(&state.source, state.id)?.log_count;
    Ok(LogPage { records, next_offset, end: false, behind: count.saturating_sub(next_offset) })
}

async fn read_on<S: Source>(state: &mut Following<S>) -> Result<(), Refusal> {
    let (source, filter) = (state.source.clone(), Arc::clone(&state.filter));
    let (id, next, tail) = (state.id, state.next, state.tail.take());
    let stopped = || Refusal::new(RefusalCode::Unavailable, "the daemon is stopping");
    let turn = Arc::clone(&state.seat.0.turns).acquire_owned().await.map_err(|_| stopped())?;
    let read = tokio::task::spawn_blocking(move || {
        let read = read_ahead(&source, id, &filter, next, tail);
        drop(turn);
        read
    });
    match read.await.map_err(|_| stopped())?? {
        Ahead::Search(tail) => state.tail = Some(tail),
        Ahead::Read { from, kept, reached } => {
            if kept.records.is_empty() {
                state.skipped += kept.next.saturating_sub(from);
            }
            state.ahead = kept.records;
            // `next` is what the read itself saw: the job's count is ahead of what can be read by a moment.
            state.next = from.max(kept.next);
            state.reached = reached;
        }
    }
    Ok(())
}

/// What one turn brought.
enum Ahead {
    /// The tail's beginning is not found yet.
    Search(TailSearch),
    Read {
        from: u64,
        kept: Kept,
        reached: Reached,
    },
}

fn read_ahead<S: Source>(
    source: &S,
    id: JobId,
    filter: &Filter,
    next: u64,
    tail: Option<TailSearch>,
) -> Result<Ahead, Refusal> {
    // The job before its log: a terminal job's count is then one the log reaches.
    let job = find(source, id)?;
    let from = match tail {
        None => next,
        Some(mut tail) => match tail.go_on(source, id, filter, job.log_count)? {
            Some(start) => start,
            None => return Ok(Ahead::Search(tail)),
        },
    };
    let mut budget = Budget::new(EXAMINED_AT_ONCE);
    let mut kept = logs::read(source, id, filter, from, logs::SLICE.rows, &mut budget)?;
    while kept.records.is_empty() && !kept.end && !budget.is_spent() {
        kept = logs::read(source, id, filter, kept.next, logs::SLICE.rows, &mut budget)?;
    }
    let reached = match kept.end {
        false => Reached::Middle,
        true if job.state.is_terminal() && kept.next >= job.log_count => Reached::End,
        true => Reached::Present,
    };
    Ok(Ahead::Read { from, kept, reached })
}

#[cfg(test)]
mod tests;
