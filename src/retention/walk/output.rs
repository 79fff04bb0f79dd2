//! A walk's way through output: where a deletion ends, what it gives back, jobs that nobody ends, the cap.
//!
//! Owns: the rule that blocks go whole. Must not know: what is old (see `policy`), how blocks are read or deleted.

use super::{Item, Order, Walk};
use crate::model::{CleanupKind, Job, JobId, OutputKind, Refusal};
use crate::retention::policy;
use crate::retention::world::World;
use crate::store::Prune;

/// What a walk does ahead of the kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// Deletions that a kill or an error has broken off are finished.
    Leaving,
    /// Jobs that count as ended are ended.
    Idle,
    /// Output goes until there is room.
    Room,
}

impl Ahead {
    pub fn first(order: &Order) -> Option<Self> {
        match order {
            Order { dry_run: true, .. } => None,
            Order { tidies: true, .. } => Some(Self::Leaving),
            Order { output_excess_bytes: 1.., .. } => Some(Self::Room),
            Order { .. } => None,
        }
    }
}

/// The kinds in the order in which a full disk loses them: what is read least goes first.
const BY_WORTH: [CleanupKind; 3] = [CleanupKind::Events, CleanupKind::Metrics, CleanupKind::Logs];

impl Walk {
    pub(super) async fn step_ahead<W: World>(
        &mut self,
        world: &W,
        ahead: Ahead,
        after: JobId,
    ) -> Result<usize, Refusal> {
        let (examined, next) = match ahead {
            Ahead::Leaving => {
                let (leaving, next) = world.leaving_after(after, self.order.rows)?;
                if !leaving.is_empty() {
                    world.prune(leaving.into_iter().map(Prune::Job).collect()).await?;
                }
                (self.order.rows, next.map(|next| (Ahead::Leaving, next)).or(Some((Ahead::Idle, JobId::MIN))))
            }
            Ahead::Idle => {
                let jobs = world.jobs_after(after, self.order.rows)?;
                for job in &jobs {
                    self.end_if_idle(world, job).await?;
                }
                (jobs.len(), behind(&jobs, self.order.rows).map(|next| (Ahead::Idle, next)))
            }
            Ahead::Room => {
                let jobs = world.jobs_after(after, self.order.rows)?;
                for job in &jobs {
                    self.make_room(world, job).await?;
                }
                let next = behind(&jobs, self.order.rows).filter(|_| self.output_excess > 0);
                (jobs.len(), next.map(|next| (Ahead::Room, next)))
            }
        };
        self.ahead = next;
        Ok(examined)
    }

    async fn make_room<W: World>(&mut self, world: &W, job: &Job) -> Result<(), Refusal> {
        if self.output_excess == 0 || policy::ended_ms(job, self.order.idle).is_none() {
            return Ok(());
        }
        self.seal(world, std::iter::once(job)).await?;
        if !self.end_if_idle(world, job).await? {
            return Ok(());
        }
        for kind in BY_WORTH {
            for output in policy::output_of(kind) {
                if self.output_excess == 0 {
                    return Ok(());
                }
                if let Some((item, bytes)) = self.output(world, job, output, Some(self.output_excess)).await? {
                    self.output_excess = self.output_excess.saturating_sub(bytes);
                    self.commit(world, kind, vec![item]).await?;
                }
            }
        }
        Ok(())
    }

    /// False: the job is active after all.
    pub(super) async fn end_if_idle<W: World>(&self, world: &W, job: &Job) -> Result<bool, Refusal> {
        match self.order.idle.filter(|_| policy::is_idle(job, self.order.idle)) {
            Some(idle) if !self.order.dry_run => world.end_idle(job.id, idle).await,
            Some(_) | None => Ok(true),
        }
    }

    /// A dry run as well: what goes whole must not differ between it and the real one, and sealing loses nothing.
    pub(super) async fn seal<W: World>(&self, world: &W, jobs: impl Iterator<Item = &Job>) -> Result<(), Refusal> {
        let open: Vec<JobId> = jobs.map(|job| job.id).filter(|id| world.has_tail(*id)).collect();
        if open.is_empty() { Ok(()) } else { world.seal(open).await }
    }

    /// Records of one kind from the oldest on, as many as may go: what gives back no more than about `bytes_max`, and how much that is.
    /// Counts records, not jobs or blocks.
    pub(super) async fn output<W: World>(
        &mut self,
        world: &W,
        job: &Job,
        kind: OutputKind,
        bytes_max: Option<u64>,
    ) -> Result<Option<(Item, u64)>, Refusal> {
        let (from, end) = world.kept(job.id, kind)?;
        if from >= end || self.is_done() {
            return Ok(None);
        }
        let left = self.order.max.map_or(u64::MAX, |max| max.saturating_sub(self.planned));
        let limit = end.min(from.saturating_add(left));
        let run = measure(world, job.id, kind, from..end, limit, bytes_max, self.order.rows).await?;
        let count = run.until - from;
        self.planned += count;
        self.report.reclaimed_bytes += run.bytes;
        if limit < end {
            self.stop();
        }
        let prune = Prune::Output { job: job.id, kind, until: run.until };
        Ok((count > 0).then_some((Item::new(prune, count), run.bytes)))
    }
}

/// Where the next page begins.
fn behind(jobs: &[Job], rows: usize) -> Option<JobId> {
    jobs.last().filter(|_| jobs.len() == rows).map(|job| job.id)
}

/// Records below `until` can go without a block being cut.
struct Run {
    until: u64,
    bytes: u64,
}

/// How far a deletion from `range.start` goes that ends at `limit` at the latest.
async fn measure<W: World>(
    world: &W,
    job: JobId,
    kind: OutputKind,
    range: std::ops::Range<u64>,
    limit: u64,
    bytes_max: Option<u64>,
    rows: usize,
) -> Result<Run, Refusal> {
    // Taken before the blocks: what is sealed meanwhile stands in one of the two.
    let tail = world.tail_from(job, kind).unwrap_or(range.end);
    let (mut until, mut bytes, mut in_blocks, mut at) = (limit, 0, 0, range.start);
    'pages: loop {
        let page = world.blocks(job, kind, at, rows)?;
        let last = page.len() < rows;
        for block in page {
            if block.last >= limit {
                until = limit.min(block.first);
                break 'pages;
            }
            bytes += block.bytes;
            in_blocks += block.records;
            at = block.last + 1;
            if bytes_max.is_some_and(|max| bytes >= max) {
                until = at;
                break 'pages;
            }
        }
        if last {
            break;
        }
        tokio::task::yield_now().await;
    }
    // What could not be sealed stays for the next cleanup: nothing else tells where it may be cut.
    until = until.min(tail.max(range.start));
    if kind == OutputKind::Log {
        bytes += policy::LOG_BYTES * (until - range.start).saturating_sub(in_blocks);
    }
    Ok(Run { until, bytes })
}

/// About what deleting the job whole gives back.
pub async fn weigh<W: World>(world: &W, job: &Job, rows: usize) -> Result<u64, Refusal> {
    let mut bytes = policy::job_bytes(job, 0);
    for kind in OutputKind::ALL.into_iter().filter(|kind| job.records_of(*kind) > 0) {
        let (from, end) = world.kept(job.id, kind)?;
        bytes += measure(world, job.id, kind, from..end, end, None, rows).await?.bytes;
    }
    Ok(bytes)
}
