//! Streams that stay: a job's snapshots, and its log from history into the present.
//!
//! Owns: the order of registering, reading and waiting that loses and repeats nothing. Must not know: what wakes it.
//!
//! A stream holds one page at a time. It registers for changes before it reads: what is committed between reading and
//! waiting wakes it again.

use std::future::Future;

use futures_util::stream::{self, BoxStream, StreamExt};

use super::logs::{self, Filter};
use super::{LogPage, LogQuery};
use crate::model::{Job, JobId, LogRecord, Refusal, RefusalCode};
use crate::store::{JobWatch, Reader};

/// Records a follow looks at before it lets other work go on.
const EXAMINED_AT_ONCE: usize = 1_000;
/// Records that match nothing before a follow says how far it is.
const SKIPPED_SILENTLY_MAX: u64 = 10_000;

/// What a stream reads and waits for. The store's reader; tests inject their own.
pub trait Source: Send + Sync + 'static {
    type Wake: Wake;

    fn job(&self, id: JobId) -> Result<Option<Job>, Refusal>;
    fn logs(&self, id: JobId, from: u64, rows: usize) -> Result<Vec<LogRecord>, Refusal>;
    /// Wakes for every commit that touches the job from now on.
    fn wake(&self, id: JobId) -> Self::Wake;
}

pub trait Wake: Send + 'static {
    /// Returns after the next change; an error when there can be no more.
    fn changed(&mut self) -> impl Future<Output = Result<(), Refusal>> + Send;
}

impl Source for Reader {
    type Wake = StoreWake;

    fn job(&self, id: JobId) -> Result<Option<Job>, Refusal> {
        Reader::job(self, id)
    }
    fn logs(&self, id: JobId, from: u64, rows: usize) -> Result<Vec<LogRecord>, Refusal> {
        Reader::logs(self, id, from, rows)
    }
    fn wake(&self, id: JobId) -> StoreWake {
        StoreWake { job: self.watch_job(id), fault: self.fault_watch() }
    }
}

pub struct StoreWake {
    job: JobWatch,
    fault: tokio::sync::watch::Receiver<Option<String>>,
}

impl Wake for StoreWake {
    async fn changed(&mut self) -> Result<(), Refusal> {
        tokio::select! {
            () = self.job.changed() => Ok(()),
            _ = self.fault.wait_for(Option::is_some) => {
                Err(Refusal::new(RefusalCode::Unavailable, "the store serves no longer; ask again after a restart"))
            }
        }
    }
}

fn find<S: Source>(source: &S, id: JobId) -> Result<Job, Refusal> {
    source.job(id)?.ok_or_else(|| Refusal::not_found(format!("job {id}")).with_job(id))
}

struct Watching<S: Source> {
    source: S,
    id: JobId,
    after: u64,
    wake: S::Wake,
}

/// Snapshots with a revision above `after`, each above the one before; ends after a terminal one.
pub fn watch<S: Source>(source: S, id: JobId, after: u64) -> BoxStream<'static, Result<Job, Refusal>> {
    let wake = source.wake(id);
    let start = Watching { source, id, after, wake };
    stream::unfold(Some(start), async |state| {
        let mut state = state?;
        match next_snapshot(&mut state).await {
            Ok(None) => None,
            Ok(Some(job)) => {
                let rest = if job.state.is_terminal() { None } else { Some(state) };
                Some((Ok(job), rest))
            }
            Err(refusal) => Some((Err(refusal), None)),
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

struct Following<S: Source> {
    source: S,
    id: JobId,
    filter: Filter,
    limit: u32,
    /// Only before the first page.
    tail: u32,
    next: u64,
    wake: S::Wake,
}

/// Kept records from `query.offset` on, or the last `query.tail` and what comes after them; ends when the job is terminal
/// and all it has was looked at.
pub fn follow<S: Source>(source: S, id: JobId, query: LogQuery) -> BoxStream<'static, Result<LogPage, Refusal>> {
    let filter = match Filter::new(&query) {
        Ok(filter) => filter,
        Err(refusal) => return stream::iter([Err(refusal)]).boxed(),
    };
    let wake = source.wake(id);
    let next = if query.tail > 0 { 0 } else { query.offset };
    let start = Following { source, id, filter, limit: query.limit, tail: query.tail, next, wake };
    stream::unfold(Some(start), async |state| {
        let mut state = state?;
        match next_page(&mut state).await {
            Ok(None) => None,
            Ok(Some(page)) => Some((Ok(page), Some(state))),
            Err(refusal) => Some((Err(refusal), None)),
        }
    })
    .boxed()
}

async fn next_page<S: Source>(state: &mut Following<S>) -> Result<Option<LogPage>, Refusal> {
    let mut skipped = 0;
    loop {
        // The job before its log: a terminal job's count is then one the log has reached.
        let job = find(&state.source, state.id)?;
        let mut page = read_page(state, job.log_count)?;
        // Deleted records leave no rows: the count says how far there is nothing more to wait for.
        if page.end {
            page.next_offset = page.next_offset.max(job.log_count);
        }
        skipped += page.next_offset.saturating_sub(state.next);
        state.next = state.next.max(page.next_offset);
        let caught_up = std::mem::take(&mut page.end);
        // Now and then a page without records tells how far a resumed follow need not look.
        if !page.records.is_empty() || (skipped >= SKIPPED_SILENTLY_MAX && !caught_up) {
            return Ok(Some(page));
        }
        match (caught_up, job.state.is_terminal()) {
            (true, true) => return Ok(None),
            (true, false) => state.wake.changed().await?,
            (false, _) => tokio::task::yield_now().await,
        }
    }
}

fn read_page<S: Source>(state: &mut Following<S>, log_count: u64) -> Result<LogPage, Refusal> {
    let Following { source, id, filter, limit, tail, next, .. } = state;
    let read = |from, rows| source.logs(*id, from, rows);
    if *tail > 0 {
        return logs::backward(filter, log_count, std::mem::take(tail), read);
    }
    logs::forward(filter, *next, *limit, EXAMINED_AT_ONCE, read)
}

#[cfg(test)]
mod tests;
