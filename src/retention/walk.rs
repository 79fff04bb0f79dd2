//! One cleanup as a row of short steps, dry or real: the same walk decides both, only the commit differs.
//!
//! Owns: the order of the kinds, cursors, the limit of deletions, what is counted. Must not know: schedules, who asked.
//!
//! The kinds go in an order in which no deletion changes what a later kind finds: failures, letters and uploads first, then
//! jobs whole, then parts of the jobs that stay. That is why a dry run counts what the real run deletes.
//!
//! A limit of deletions never cuts a block of output: the walk ends before the block that would exceed it.

mod output;

pub use output::weigh;

use std::collections::BTreeSet;

use crate::model::{CleanupKind, CleanupReport, DeadLetterId, Job, JobId, Refusal, TaskRef};
use crate::store::Prune;

use super::policy::{self, Cutoffs, Idle, Parts, Verdict, is_past};
use super::world::World;

/// What the store takes in one call.
const ITEMS_MAX: usize = 1_000;

const PHASES: [CleanupKind; 8] = [
    CleanupKind::Queue,
    CleanupKind::Dlq,
    CleanupKind::Uploads,
    CleanupKind::Jobs,
    CleanupKind::Logs,
    CleanupKind::Metrics,
    CleanupKind::Events,
    CleanupKind::Idempotency,
];

/// What to do.
#[derive(Debug, Clone)]
pub struct Order {
    pub cutoffs: Cutoffs,
    pub kinds: BTreeSet<CleanupKind>,
    pub dry_run: bool,
    /// None: no limit.
    pub max: Option<u64>,
    /// Letters beyond this go, oldest first; 0: no cap.
    pub dlq_bytes_max: u64,
    /// Ended jobs go, oldest first, until about so many bytes are given back.
    pub ledger_excess_bytes: u64,
    /// Output of ended jobs goes, of the oldest job first, until about so many bytes are given back.
    pub output_excess_bytes: u64,
    /// Which jobs that nobody ends count as ended.
    pub idle: Option<Idle>,
    /// Ends them, whether something of them goes or not, and finishes deletions that were broken off.
    pub tidies: bool,
    /// Rows read at a time.
    pub rows: usize,
}

/// How far each kind has been looked through.
#[derive(Debug, Clone, Default)]
pub struct Cursors {
    failures: Option<DeadLetterId>,
    letters: Option<DeadLetterId>,
    sources: Option<[u8; 16]>,
    jobs: Option<JobId>,
    logs: Option<JobId>,
    metrics: Option<JobId>,
    events: Option<JobId>,
    keys: Option<JobId>,
}

impl Cursors {
    fn of(&mut self, part: Part) -> &mut Option<JobId> {
        match part {
            Part::Whole => &mut self.jobs,
            Part::Output(CleanupKind::Metrics) => &mut self.metrics,
            Part::Output(CleanupKind::Events) => &mut self.events,
            Part::Output(_) => &mut self.logs,
            Part::Key => &mut self.keys,
        }
    }
}

/// What of a job a phase looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    /// Records of this kind.
    Output(CleanupKind),
    Key,
}

pub struct Walk {
    order: Order,
    cursors: Cursors,
    /// Index into `PHASES`; behind them all: done.
    phase: usize,
    planned: u64,
    dlq_excess: Option<u64>,
    ledger_excess: u64,
    output_excess: u64,
    /// What is done ahead of the kinds, and how far it has come: each walk begins anew.
    ahead: Option<(output::Ahead, JobId)>,
    /// How far the uploads have been looked through: each walk begins anew.
    uploads: Option<(TaskRef, u64)>,
    sources_done: bool,
    report: CleanupReport,
}

/// Something to delete and what it counts for.
struct Item {
    prune: Prune,
    count: u64,
    /// The job that goes whole, and what clients call it.
    job: Option<(JobId, String)>,
}

impl Item {
    fn new(prune: Prune, count: u64) -> Self {
        Self { prune, count, job: None }
    }
}

impl Walk {
    pub fn new(order: Order, cursors: Cursors) -> Self {
        let (ledger_excess, output_excess) = (order.ledger_excess_bytes, order.output_excess_bytes);
        let ahead = output::Ahead::first(&order).map(|ahead| (ahead, JobId::MIN));
        Self {
            order,
            cursors,
            phase: 0,
            planned: 0,
            dlq_excess: None,
            ledger_excess,
            output_excess,
            ahead,
            uploads: None,
            sources_done: false,
            report: CleanupReport::default(),
        }
    }

    pub fn is_done(&self) -> bool {
        self.phase >= PHASES.len()
    }

    pub fn is_dry(&self) -> bool {
        self.order.dry_run
    }

    pub fn report(&self) -> &CleanupReport {
        &self.report
    }

    pub fn deleted(&self, kind: CleanupKind) -> u64 {
        self.report.deleted.get(&kind).copied().unwrap_or(0)
    }

    /// The report, and where a later walk may go on.
    pub fn finish(self) -> (CleanupReport, Cursors) {
        (self.report, self.cursors)
    }

    /// Looks at no more than one read of rows and deletes what is due of them. Returns how many it looked at.
    pub async fn step<W: World>(&mut self, world: &W) -> Result<usize, Refusal> {
        if let Some((ahead, after)) = self.ahead {
            return self.step_ahead(world, ahead, after).await;
        }
        let Some(kind) = PHASES.get(self.phase).copied() else { return Ok(0) };
        if !self.order.kinds.contains(&kind) {
            self.phase += 1;
            return Ok(0);
        }
        // Every kind asked for stands in the report, be it with 0.
        self.report.deleted.entry(kind).or_default();
        match kind {
            CleanupKind::Queue => self.step_failures(world).await,
            CleanupKind::Dlq => self.step_letters(world).await,
            CleanupKind::Uploads => self.step_uploads(world).await,
            CleanupKind::Jobs if !self.sources_done => self.step_sources(world).await,
            CleanupKind::Jobs => self.step_jobs(world, Part::Whole).await,
            CleanupKind::Logs | CleanupKind::Metrics | CleanupKind::Events => {
                self.step_jobs(world, Part::Output(kind)).await
            }
            CleanupKind::Idempotency => self.step_jobs(world, Part::Key).await,
        }
    }

    /// How many of `count` deletions may still be done. Fewer end the walk.
    fn allow(&mut self, count: u64) -> u64 {
        let left = self.order.max.map_or(u64::MAX, |max| max.saturating_sub(self.planned));
        let allowed = count.min(left);
        self.planned = self.planned.saturating_add(allowed);
        if allowed < count {
            self.stop();
        }
        allowed
    }

    /// The limit is reached: what is left is another cleanup's.
    fn stop(&mut self) {
        self.report.more = true;
        self.phase = PHASES.len();
    }

    fn end_phase(&mut self, end: bool) {
        // A limit may have ended the whole walk.
        if end && !self.is_done() {
            self.phase += 1;
        }
    }

    async fn step_failures<W: World>(&mut self, world: &W) -> Result<usize, Refusal> {
        let rows = world.failures_after(self.cursors.failures, self.order.rows)?;
        let mut end = rows.len() < self.order.rows;
        let mut active = Activity::default();
        let mut items = Vec::new();
        for id in &rows {
            if !is_past(id.died_at_ms, self.order.cutoffs.queue) {
                end = true;
                break;
            }
            if !active.holds(world, id.task.job, self.order.idle)? {
                if self.allow(1) == 0 {
                    break;
                }
                self.report.reclaimed_bytes += policy::FAILURE_BYTES;
                items.push(Item::new(Prune::FailureRow(*id), 1));
            }
            self.cursors.failures = Some(*id);
        }
        self.commit(world, CleanupKind::Queue, items).await?;
        self.end_phase(end);
        Ok(rows.len())
    }

    async fn step_letters<W: World>(&mut self, world: &W) -> Result<usize, Refusal> {
        let cap = self.order.dlq_bytes_max;
        let mut excess = match self.dlq_excess {
            Some(excess) => excess,
            None if cap == 0 => 0,
            None => world.letters_bytes_total().saturating_sub(cap),
        };
        let letters = world.letters_after(self.cursors.letters, self.order.rows)?;
        let mut end = letters.len() < self.order.rows;
        let mut active = Activity::default();
        let mut items = Vec::new();
        for letter in &letters {
            if excess == 0 && !is_past(letter.id.died_at_ms, self.order.cutoffs.dlq) {
                end = true;
                break;
            }
            if !active.holds(world, letter.id.task.job, self.order.idle)? {
                let bytes = world.letter_bytes(letter.id)?;
                if self.allow(1) == 0 {
                    break;
                }
                excess = excess.saturating_sub(bytes);
                self.report.reclaimed_bytes += bytes;
                items.push(Item::new(Prune::DeadLetter(letter.id), 1));
            }
            self.cursors.letters = Some(letter.id);
        }
        self.dlq_excess = Some(excess);
        self.commit(world, CleanupKind::Dlq, items).await?;
        self.end_phase(end);
        Ok(letters.len())
    }

    async fn step_uploads<W: World>(&mut self, world: &W) -> Result<usize, Refusal> {
        let cutoff = self.order.cutoffs.uploads;
        let uploads = world.uploads(self.uploads, self.order.rows)?;
        let examined = uploads.len();
        let mut dropped = 0;
        for upload in uploads {
            let (task, epoch) = (upload.task, upload.epoch);
            if policy::is_abandoned(&upload, world.standing(task)?, cutoff) {
                if self.allow(1) == 0 {
                    break;
                }
                let ended = if self.order.dry_run { Ok(()) } else { world.drop_upload(upload).await };
                match ended {
                    Ok(()) => dropped += 1,
                    // The next cleanup tries again; one bad upload must not keep the others.
                    Err(refusal) => tracing::warn!(%task, %refusal, "an abandoned upload could not be aborted"),
                }
            }
            self.uploads = Some((task, epoch));
        }
        self.report.reclaimed_bytes += dropped * policy::UPLOAD_BYTES;
        self.count(CleanupKind::Uploads, dropped);
        if examined == self.order.rows {
            return Ok(examined);
        }
        if let Some(before_ms) = cutoff.filter(|_| !self.is_done()) {
            self.sweep_unrecorded(world, before_ms).await?;
            // All staged files or none: they cannot be told apart here, and a limit holds over all of them.
            let (files, bytes) = world.sweep_staging(before_ms, true).await?;
            let left = self.order.max.map_or(u64::MAX, |max| max.saturating_sub(self.planned));
            if files <= left {
                self.allow(files);
                let real = !self.order.dry_run && files > 0;
                let (files, bytes) = if real { world.sweep_staging(before_ms, false).await? } else { (files, bytes) };
                self.report.reclaimed_bytes += bytes;
                self.count(CleanupKind::Uploads, files);
            } else {
                self.report.more = true;
            }
        }
        self.end_phase(true);
        Ok(examined)
    }

    /// All of them or none, like staged files. A store that cannot be asked keeps nobody from the rest.
    async fn sweep_unrecorded<W: World>(&mut self, world: &W, before_ms: i64) -> Result<(), Refusal> {
        let found = match world.sweep_unrecorded(before_ms, true).await {
            Ok(found) => found,
            Err(refusal) => {
                tracing::warn!(%refusal, "uploads that were never recorded could not be looked for");
                return Ok(());
            }
        };
        let left = self.order.max.map_or(u64::MAX, |max| max.saturating_sub(self.planned));
        if found > left {
            self.report.more = true;
            return Ok(());
        }
        self.allow(found);
        let real = !self.order.dry_run && found > 0;
        let swept = if real { world.sweep_unrecorded(before_ms, false).await? } else { found };
        self.count(CleanupKind::Uploads, swept);
        Ok(())
    }

    /// What is known of objects' versions goes with the age of jobs. Not counted and not limited: losing a row costs at most one
    /// download.
    async fn step_sources<W: World>(&mut self, world: &W) -> Result<usize, Refusal> {
        let rows = world.sources_after(self.cursors.sources, self.order.rows)?;
        self.sources_done = rows.len() < self.order.rows;
        let past = rows.iter().filter(|(_, at_ms)| is_past(*at_ms, self.order.cutoffs.jobs));
        let items: Vec<Prune> = past.map(|(hash, _)| Prune::Source(*hash)).collect();
        if !items.is_empty() && !self.order.dry_run {
            world.prune(items).await?;
        }
        self.cursors.sources = rows.last().map_or(self.cursors.sources, |(hash, _)| Some(*hash));
        Ok(rows.len())
    }

    async fn step_jobs<W: World>(&mut self, world: &W, part: Part) -> Result<usize, Refusal> {
        let cutoffs = &self.order.cutoffs;
        let (kind, cutoff) = match part {
            Part::Whole => (CleanupKind::Jobs, cutoffs.jobs),
            Part::Output(CleanupKind::Metrics) => (CleanupKind::Metrics, cutoffs.metrics),
            Part::Output(CleanupKind::Events) => (CleanupKind::Events, cutoffs.events),
            Part::Output(kind) => (kind, cutoffs.logs),
            Part::Key => (CleanupKind::Idempotency, cutoffs.idempotency),
        };
        let ids_end = policy::ids_end(cutoff);
        let after = self.cursors.of(part).unwrap_or(JobId::MIN);
        let mut jobs = world.jobs_after(after, self.order.rows)?;
        let examined = jobs.len();
        let mut end = examined < self.order.rows;
        let capped = part == Part::Whole && self.ledger_excess > 0;
        if let Some(young) = jobs.iter().position(|job| job.id >= ids_end && !capped) {
            jobs.truncate(young);
            end = true;
        }
        self.seal(world, jobs.iter().filter(|job| self.is_due(job, part))).await?;
        let mut items = Vec::new();
        for job in &jobs {
            if self.is_due(job, part) && self.end_if_idle(world, job).await? {
                match part {
                    Part::Whole => items.extend(self.whole(world, job).await?),
                    Part::Output(kind) => {
                        for output in policy::output_of(kind) {
                            items.extend(self.output(world, job, output, None).await?.map(|(item, _)| item));
                        }
                    }
                    Part::Key => items.extend(self.key(world, job)?),
                }
            }
            if self.is_done() {
                break;
            }
            *self.cursors.of(part) = Some(job.id);
        }
        self.commit(world, kind, items).await?;
        self.end_phase(end);
        Ok(examined)
    }

    fn is_due(&self, job: &Job, part: Part) -> bool {
        let verdict = policy::judge(job, self.order.idle, &self.order.cutoffs, &self.order.kinds);
        match (part, verdict) {
            (Part::Whole, Verdict::Whole) => true,
            (Part::Whole, Verdict::Keep | Verdict::Parts(_)) => {
                self.ledger_excess > 0 && policy::ended_ms(job, self.order.idle).is_some()
            }
            (Part::Output(CleanupKind::Metrics), Verdict::Parts(Parts { metrics, .. })) => metrics,
            (Part::Output(CleanupKind::Events), Verdict::Parts(Parts { events, .. })) => events,
            (Part::Output(_), Verdict::Parts(Parts { logs, .. })) => logs,
            (Part::Key, Verdict::Parts(Parts { key, .. })) => key,
            (Part::Output(_) | Part::Key, Verdict::Keep | Verdict::Whole) => false,
        }
    }

    async fn whole<W: World>(&mut self, world: &W, job: &Job) -> Result<Option<Item>, Refusal> {
        if self.allow(1) == 0 {
            return Ok(None);
        }
        let bytes = output::weigh(world, job, self.order.rows).await?;
        self.ledger_excess = self.ledger_excess.saturating_sub(bytes);
        self.report.reclaimed_bytes += bytes;
        Ok(Some(Item { job: Some((job.id, job.public_id())), ..Item::new(Prune::Job(job.id), 1) }))
    }

    fn key<W: World>(&mut self, world: &W, job: &Job) -> Result<Option<Item>, Refusal> {
        if !world.has_key(job.id)? || self.allow(1) == 0 {
            return Ok(None);
        }
        self.report.reclaimed_bytes += policy::KEY_BYTES;
        Ok(Some(Item::new(Prune::Idempotency(job.id), 1)))
    }

    fn count(&mut self, kind: CleanupKind, count: u64) {
        *self.report.deleted.entry(kind).or_default() += count;
    }

    /// A dry run only counts.
    async fn commit<W: World>(&mut self, world: &W, kind: CleanupKind, items: Vec<Item>) -> Result<(), Refusal> {
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            let mut group: Vec<Item> = items.by_ref().take(ITEMS_MAX).collect();
            let jobs: Vec<(JobId, String)> = group.iter_mut().filter_map(|item| item.job.take()).collect();
            let deleted = if self.order.dry_run {
                group.iter().map(|item| item.count).sum()
            } else {
                // Fewer than planned where something was deleted or started again since it was read.
                world.prune(group.into_iter().map(|item| item.prune).collect()).await?
            };
            self.count(kind, deleted);
            for (id, job) in jobs {
                if self.report.jobs.len() < CleanupReport::JOBS_MAX && (self.order.dry_run || world.job(id)?.is_none())
                {
                    self.report.jobs.push(job);
                }
            }
        }
        Ok(())
    }
}

/// Which jobs are active, asked once per job and step.
#[derive(Default)]
struct Activity {
    last: Option<(JobId, bool)>,
}

impl Activity {
    fn holds<W: World>(&mut self, world: &W, id: JobId, idle: Option<Idle>) -> Result<bool, Refusal> {
        if let Some((_, active)) = self.last.filter(|(known, _)| *known == id) {
            return Ok(active);
        }
        let active = world.job(id)?.is_some_and(|job| policy::ended_ms(&job, idle).is_none());
        self.last = Some((id, active));
        Ok(active)
    }
}

#[cfg(test)]
mod tests;
