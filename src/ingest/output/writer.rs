//! The writer: the only one who commits output. One batch is on its way to the disk while the next one is grouped and packed.
//!
//! Owns: how large a batch is, names' ids, what becomes of a batch that was not committed. Must not know: who sends.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::group::{Batch, Kept, Owner, group};
use super::spool::Spool;
use super::{Traffic, no_room};
use crate::clock::{Clock, JobIds};
use crate::model::{JobId, JobName, JobType, OutputShare, Refusal, RefusalCode, Tenant};
use crate::store::{NamedJob, OutputBatch, Reader, Store};

/// A batch of few jobs, some 1,200 lines: on disk in some milliseconds.
pub(super) const BATCH_BYTES: usize = 256 << 10;
/// The same while somebody follows one of them: a line is shown three to four batches later.
const FOLLOWED_BYTES: usize = 128 << 10;
/// However many jobs share it, while somebody follows one of them.
const FOLLOWED_BYTES_MAX: usize = 384 << 10;
/// So long after the last output of such a job batches stay small.
const FOLLOWED_FOR: Duration = Duration::from_secs(10);
/// Microseconds that may take. On a slower disk batches are as many times larger, so that its syncs are paid for.
const COMMIT_US: u64 = 2_500;
/// A batch of many jobs has this much of each, as far as it may: the rows of a job are paid for once.
const JOB_BYTES: usize = 16 << 10;
/// A batch of very many jobs, and of what waited while the disk stalled.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Names whose ids are remembered, some 20 MB.
const NAMES_MAX: usize = 100_000;
/// Between two attempts to commit a batch, and two looks at a disk without room.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub struct OutputWriter {
    pub(super) spool: Arc<Spool>,
    pub(super) store: Store,
    pub(super) reader: Reader,
    pub(super) clock: Clock,
    pub(super) ids: Arc<JobIds>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) names: HashMap<Arc<JobName>, JobId>,
    /// What the next batch is to hold.
    pub(super) batch_bytes: usize,
    /// Microseconds that the last commits took, smoothed.
    pub(super) commit_us: Arc<AtomicU64>,
    pub(super) followed: Followed,
}

/// When a batch last held output of a job that somebody followed.
#[derive(Default)]
pub(super) struct Followed(Option<Instant>);

impl Followed {
    /// Whether the next batch is to be small. This one says little of it: it may be the end of a burst, without the job that is followed.
    fn note(&mut self, is_watched: bool, now: Instant) -> bool {
        if is_watched {
            self.0 = Some(now);
        }
        self.0.is_some_and(|at| now.duration_since(at) < FOLLOWED_FOR)
    }
}

/// A batch that the store has.
struct Flight {
    shares: Arc<Vec<OutputShare>>,
    kept: Vec<Kept>,
    batch: Batch,
    packed_bytes: usize,
    answer: oneshot::Receiver<Answer>,
    /// Its jobs were opened anew because they were gone.
    again: bool,
}

type Answer = Result<Vec<Result<u64, Refusal>>, Refusal>;

impl OutputWriter {
    /// Works until `stop`; then until every door has brought what it still had and all of that is durable.
    pub async fn run(self, stop: CancellationToken) {
        let (spool, traffic, reader) = (Arc::clone(&self.spool), Arc::clone(&self.traffic), self.reader.clone());
        let closing = async {
            stop.cancelled().await;
            spool.close_after_doors().await;
        };
        let gauges = async {
            loop {
                traffic.metrics.persist_buffer_bytes.set(i64::try_from(spool.used()).unwrap_or(i64::MAX));
                traffic.metrics.persist_seal_lag.set(i64::try_from(reader.unsealed().1).unwrap_or(i64::MAX));
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let mut work = std::pin::pin!(self.work());
        tokio::select! {
            () = &mut work => return,
            () = closing => {}
            () = gauges => {}
        }
        work.await;
    }

    async fn work(mut self) {
        self.spool.set_enough(self.batch_bytes);
        let mut flight: Option<Flight> = None;
        loop {
            let taken = match &mut flight {
                None => {
                    self.wait_for_disk().await;
                    self.spool.take(1, self.most()).await
                }
                Some(Flight { answer, .. }) => tokio::select! {
                    biased;
                    answer = answer => {
                        if let Some(flight) = flight.take() {
                            self.land(flight, answer.unwrap_or_else(|_| Err(stopped()))).await;
                        }
                        continue;
                    }
                    taken = self.spool.take(self.batch_bytes / 2, self.most()), if !self.lacks_room() => taken,
                },
            };
            let Some(items) = taken else { break };
            let batch = group(items);
            let jobs = batch.parts.len();
            let Some((shares, kept, batch)) = self.shares(batch).await else { continue };
            let is_watched = self.reader.is_any_watched(shares.iter().map(|share| share.job));
            let is_followed = self.followed.note(is_watched, Clock::instant());
            self.batch_bytes = batch_bytes(jobs, self.commit_us.load(Ordering::Relaxed), is_followed);
            // The next batch is begun with half of one: while somebody follows, more would only be late.
            self.spool.set_enough(if is_followed { self.batch_bytes / 2 } else { self.batch_bytes });
            let packed = self.pack(Arc::clone(&shares)).await;
            if let Some(flight) = flight.take() {
                self.land_in_turn(flight).await;
            }
            flight = packed.map(|packed| self.commit(packed, shares, kept, batch, false));
            if self.reader.fault().is_some() {
                self.spool.close();
            }
        }
        if let Some(flight) = flight {
            self.land_in_turn(flight).await;
        }
    }

    fn lacks_room(&self) -> bool {
        !self.spool.is_closing() && self.reader.short_of_output_room().is_some()
    }

    fn most(&self) -> usize {
        if self.spool.waiting_bytes() > 4 * self.batch_bytes { BATCH_BYTES_MAX } else { self.batch_bytes }
    }

    /// Output goes first when the disk fills up: nothing is taken out of the spool until there is room. At shutdown what is in it is
    /// written anyway: it is little, and nobody else keeps it.
    async fn wait_for_disk(&self) {
        let mut told = false;
        while self.lacks_room() {
            let Some((free, wanted)) = self.reader.short_of_output_room() else { return };
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(free, wanted, "the data disk is nearly full: output of jobs is not taken");
            }
            for call in self.spool.take_calls() {
                let _ = call.done.send(Err(no_room(free, wanted)));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Finds or makes the jobs. None: the store has stopped, everybody is told.
    async fn shares(&mut self, mut batch: Batch) -> Option<(Arc<Vec<OutputShare>>, Vec<Kept>, Batch)> {
        let parts = std::mem::take(&mut batch.parts);
        let names: Vec<Arc<JobName>> = parts
            .iter()
            .filter_map(|part| if let Owner::Named(name) = &part.owner { Some(Arc::clone(name)) } else { None })
            .collect();
        let opened = self.open(&names).await;
        let (mut shares, mut keep) = (Vec::with_capacity(parts.len()), Vec::with_capacity(parts.len()));
        for part in parts {
            let job = match &part.owner {
                Owner::Calls(job, _) => Some(*job),
                Owner::Named(name) => self.names.get(name).copied(),
            };
            let records = part.records.len() as u64;
            let Some(job) = job else {
                self.traffic.refused("job", records);
                continue;
            };
            let (share, kept) = part.into_share(job);
            if let Err(refusal) = &opened {
                kept.refuse(refusal);
                continue;
            }
            shares.push(share);
            keep.push(kept);
        }
        (!shares.is_empty()).then(|| (Arc::new(shares), keep, batch))
    }

    /// Afterwards the id of each name is in `names`, unless it cannot be had at all. Err: the store has stopped.
    async fn open(&mut self, names: &[Arc<JobName>]) -> Result<(), Refusal> {
        if self.names.len() + names.len() > NAMES_MAX {
            self.names.clear();
        }
        let mut missing = Vec::new();
        for name in names {
            if self.names.contains_key(name) {
                continue;
            }
            match self.reader.find_job(name.as_str()) {
                Ok(Some(id)) => drop(self.names.insert(Arc::clone(name), id)),
                Ok(None) => missing.push(Arc::clone(name)),
                Err(refusal) => tracing::error!(%refusal, job = name.as_str(), "its output cannot be kept"),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let now_ms = self.clock.now_ms();
        let named = |name: &Arc<JobName>| NamedJob {
            name: JobName::clone(name),
            id: self.ids.mint(),
            job_type: JobType::parse("joblet").unwrap_or_default(),
            tenant: Tenant::default(),
            now_ms,
        };
        let jobs: Vec<NamedJob> = missing.iter().map(named).collect();
        let mut wait = RETRY_MIN;
        loop {
            match self.store.open_named(jobs.clone()).await {
                Ok(ids) => {
                    self.names.extend(missing.into_iter().zip(ids));
                    return Ok(());
                }
                Err(refusal) => {
                    if self.reader.fault().is_some() {
                        return Err(refusal);
                    }
                    if !refusal.code.retryable() {
                        tracing::error!(%refusal, jobs = missing.len(), "their output cannot be kept");
                        return Ok(());
                    }
                    pause(&mut wait).await;
                }
            }
        }
    }

    /// Compresses, once the sealer has kept up. None: the runtime ends.
    async fn pack(&self, shares: Arc<Vec<OutputShare>>) -> Option<OutputBatch> {
        let (store, reader, now_ms) = (self.store.clone(), self.reader.clone(), self.clock.now_ms());
        let packed = tokio::task::spawn_blocking(move || {
            while !store.wait_for_output_room(RETRY_MAX) && reader.fault().is_none() {}
            OutputBatch::new(&shares, now_ms)
        });
        packed.await.inspect_err(|error| tracing::error!(%error, "output could not be packed; please report this")).ok()
    }

    fn commit(
        &self,
        packed: OutputBatch,
        shares: Arc<Vec<OutputShare>>,
        kept: Vec<Kept>,
        batch: Batch,
        again: bool,
    ) -> Flight {
        let (tell, answer) = oneshot::channel();
        let (began, packed_bytes) = (Clock::instant(), packed.bytes());
        let commit_us = Arc::clone(&self.commit_us);
        self.store.append_output(packed, move |answer| {
            let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            let before = commit_us.load(Ordering::Relaxed);
            commit_us.store(before - before / 8 + took / 8, Ordering::Relaxed);
            let _ = tell.send(answer);
        });
        Flight { shares, kept, batch, packed_bytes, answer, again }
    }

    async fn land_in_turn(&mut self, mut flight: Flight) {
        let answer = (&mut flight.answer).await.unwrap_or_else(|_| Err(stopped()));
        self.land(flight, answer).await;
    }

    /// What the store said: callers are answered, jobs that were gone are opened again once, a batch that was refused waits and is
    /// committed again before anything behind it.
    async fn land(&mut self, flight: Flight, answer: Answer) {
        let (mut flight, mut answer, mut wait) = (flight, answer, RETRY_MIN);
        loop {
            match answer {
                Ok(firsts) => match self.settle(flight, firsts).await {
                    Some(rest) => flight = rest,
                    None => return,
                },
                Err(refusal) if self.reader.fault().is_some() => return self.give_up(flight, &refusal),
                Err(refusal) if !refusal.code.retryable() => return self.one_by_one(flight, &refusal).await,
                Err(refusal) => {
                    tracing::warn!(%refusal, "output waits");
                    pause(&mut wait).await;
                    let Some(packed) = self.pack(Arc::clone(&flight.shares)).await else { return };
                    let Flight { shares, kept, batch, again, .. } = flight;
                    flight = self.commit(packed, shares, kept, batch, again);
                }
            }
            answer = (&mut flight.answer).await.unwrap_or_else(|_| Err(stopped()));
        }
    }

    fn give_up(&self, flight: Flight, refusal: &Refusal) {
        let records = flight.shares.iter().map(|share| share.records.len() as u64).sum();
        self.traffic.refused("store", records);
        tracing::error!(%refusal, records, "output was not made durable");
        flight.kept.into_iter().for_each(|kept| kept.refuse(refusal));
    }

    /// The store cannot take the batch, for something that one of its jobs has: the others are not to suffer for it.
    async fn one_by_one(&mut self, flight: Flight, refusal: &Refusal) {
        if flight.shares.len() == 1 {
            return self.give_up(flight, refusal);
        }
        for (share, kept) in flight.shares.iter().zip(flight.kept) {
            let shares = Arc::new(vec![share.clone()]);
            let Some(packed) = self.pack(Arc::clone(&shares)).await else { return };
            let batch = Batch { parts: Vec::new(), bytes: 0, oldest: flight.batch.oldest, leases: Vec::new() };
            let single = self.commit(packed, shares, vec![kept], batch, flight.again);
            Box::pin(self.land_in_turn(single)).await;
        }
    }

    /// Answers callers and counts. Some: the part of the batch whose jobs are gone, on its way again.
    async fn settle(&mut self, flight: Flight, firsts: Vec<Result<u64, Refusal>>) -> Option<Flight> {
        let Flight { shares, kept, batch, packed_bytes, again, .. } = flight;
        let mut at = 0;
        let (mut gone, mut written) = (Vec::new(), 0);
        for (place, kept) in kept.into_iter().enumerate() {
            let pieces = firsts.get(at..at + kept.kinds.len()).unwrap_or_default();
            at += kept.kinds.len();
            let records: u64 = kept.kinds.iter().map(|(_, count)| count).sum();
            if pieces.iter().all(Result::is_ok) {
                written += records;
                kept.answer(pieces);
                continue;
            }
            match &kept.owner {
                Owner::Named(name) if !again => {
                    self.names.remove(name);
                    gone.push((place, kept));
                }
                Owner::Named(_) => self.traffic.refused("job", records),
                Owner::Calls(..) => kept.answer(pieces),
            }
        }
        self.traffic.metrics.persist_written.inc_by(written);
        self.traffic.metrics.persist_storage_bytes.inc_by(packed_bytes as u64);
        if let Some(oldest) = batch.oldest {
            self.traffic.metrics.persist_write_latency.observe(oldest.elapsed().as_secs_f64());
        }
        if gone.is_empty() {
            return None;
        }
        let names: Vec<_> = gone
            .iter()
            .filter_map(|(_, kept)| if let Owner::Named(name) = &kept.owner { Some(Arc::clone(name)) } else { None })
            .collect();
        self.open(&names).await.ok()?;
        let (mut again, mut keep) = (Vec::new(), Vec::new());
        for (place, kept) in gone {
            let Owner::Named(name) = &kept.owner else { continue };
            let (Some(job), Some(share)) = (self.names.get(name), shares.get(place)) else { continue };
            again.push(OutputShare { job: *job, expected: None, records: share.records.clone() });
            keep.push(kept);
        }
        let shares = Arc::new(again);
        let packed = self.pack(Arc::clone(&shares)).await?;
        Some(self.commit(packed, shares, keep, batch, true))
    }
}

/// So many bytes of each job, and of all of them what a disk takes at once.
fn batch_bytes(jobs: usize, commit_us: u64, is_followed: bool) -> usize {
    let slowness = usize::try_from(commit_us / COMMIT_US).unwrap_or(usize::MAX).max(1);
    let (few, many) = if is_followed { (FOLLOWED_BYTES, FOLLOWED_BYTES_MAX) } else { (BATCH_BYTES, BATCH_BYTES_MAX) };
    let of_jobs = jobs.saturating_mul(JOB_BYTES).min(many);
    few.saturating_mul(slowness).max(of_jobs).min(BATCH_BYTES_MAX)
}

async fn pause(wait: &mut Duration) {
    tokio::time::sleep(*wait).await;
    *wait = (*wait * 2).min(RETRY_MAX);
}

fn stopped() -> Refusal {
    Refusal::new(RefusalCode::Unavailable, "the store stopped before it answered")
}

/// Whoever waits in a spool that nobody empties any more.
impl Drop for OutputWriter {
    fn drop(&mut self) {
        self.spool.close();
        for call in self.spool.take_calls() {
            let _ = call.done.send(Err(stopped()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_small_where_the_disk_is_fast_and_grow_with_jobs_and_slow_syncs() {
        assert_eq!(batch_bytes(1, 300, false), BATCH_BYTES);
        assert_eq!(batch_bytes(1, 10 * COMMIT_US, false), 10 * BATCH_BYTES);
        assert_eq!(batch_bytes(100, 300, false), 100 * JOB_BYTES);
        assert_eq!(batch_bytes(100_000, u64::MAX, false), BATCH_BYTES_MAX);
    }

    #[test]
    fn the_end_of_a_burst_without_the_followed_job_does_not_make_the_next_burst_late() {
        let (mut followed, now) = (Followed::default(), Clock::instant());
        assert!(!followed.note(false, now));
        assert!(followed.note(true, now));
        assert!(followed.note(false, now + FOLLOWED_FOR / 2));
        assert!(!followed.note(false, now + FOLLOWED_FOR));
    }

    #[test]
    fn who_follows_a_job_does_not_wait_for_the_large_batches_of_many() {
        assert_eq!(batch_bytes(1, 300, true), FOLLOWED_BYTES);
        assert_eq!(batch_bytes(500, 300, true), FOLLOWED_BYTES_MAX);
        // A slow disk must be paid for all the same.
        assert_eq!(batch_bytes(500, 100 * COMMIT_US, true), BATCH_BYTES_MAX);
    }
}
