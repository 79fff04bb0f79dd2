//! One cleanup as a row of short steps, dry or real: the same walk decides both, only the commit differs.
//!
//! Owns: the order of the kinds, cursors, the limit of deletions, what is counted. Must not know: schedules, who asked.
//!
//! The kinds go in an order in which no deletion changes what a later kind finds: failures, letters and uploads first, then
//! jobs whole, then parts of the jobs that stay. That is why a dry run counts what the real run deletes.

use std::collections::BTreeSet;

use crate::model::{CleanupKind, CleanupReport, DeadLetterId, Job, JobId, Refusal, TaskRef};
use crate::store::Prune;

use super::policy::{self, Cutoffs, Verdict, is_past};
use super::world::World;

/// Rows one commit may delete: other work waits for a commit. The store deletes no more log records for one item.
const GROUP_ROWS_MAX: u64 = 10_000;

const PHASES: [CleanupKind; 6] = [
    CleanupKind::Queue,
    CleanupKind::Dlq,
    CleanupKind::Uploads,
    CleanupKind::Jobs,
    CleanupKind::Logs,
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
    keys: Option<JobId>,
}

impl Cursors {
    fn of(&mut self, part: Part) -> &mut Option<JobId> {
        match part {
            Part::Whole => &mut self.jobs,
            Part::Logs => &mut self.logs,
            Part::Key => &mut self.keys,
        }
    }
}

/// What of a job a phase looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    Logs,
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
    /// How far the uploads have been looked through: each walk begins anew.
    uploads: Option<(TaskRef, u64)>,
    sources_done: bool,
    report: CleanupReport,
}

/// Something to delete and what it counts for.
struct Item {
    prune: Prune,
    count: u64,
    rows: u64,
}

impl Walk {
    pub fn new(order: Order, cursors: Cursors) -> Self {
        let ledger_excess = order.ledger_excess_bytes;
        Self {
            order,
            cursors,
            phase: 0,
            planned: 0,
            dlq_excess: None,
            ledger_excess,
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
            // Not walked yet.
            CleanupKind::Metrics | CleanupKind::Events => {
                self.phase += 1;
                Ok(0)
            }
            CleanupKind::Jobs if !self.sources_done => self.step_sources(world).await,
            CleanupKind::Jobs => self.step_jobs(world, Part::Whole).await,
            CleanupKind::Logs => self.step_jobs(world, Part::Logs).await,
            CleanupKind::Idempotency => self.step_jobs(world, Part::Key).await,
        }
    }

    /// How many of `count` deletions may still be done. Fewer end the walk.
    fn allow(&mut self, count: u64) -> u64 {
        let left = self.order.max.map_or(u64::MAX, |max| max.saturating_sub(self.planned));
        let allowed = count.min(left);
        self.planned = self.planned.saturating_add(allowed);
        if allowed < count {
            self.report.more = true;
            self.phase = PHASES.len();
        }
        allowed
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
            if !active.holds(world, id.task.job)? {
                if self.allow(1) == 0 {
                    break;
                }
                self.report.reclaimed_bytes += policy::FAILURE_BYTES;
                items.push(Item { prune: Prune::FailureRow(*id), count: 1, rows: 1 });
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
            if !active.holds(world, letter.id.task.job)? {
                let bytes = world.letter_bytes(letter.id)?;
                if self.allow(1) == 0 {
                    break;
                }
                excess = excess.saturating_sub(bytes);
                self.report.reclaimed_bytes += bytes;
                items.push(Item { prune: Prune::DeadLetter(letter.id), count: 1, rows: 1 });
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
            Part::Logs => (CleanupKind::Logs, cutoffs.logs),
            Part::Key => (CleanupKind::Idempotency, cutoffs.idempotency),
        };
        let ids_end = policy::ids_end(cutoff);
        let after = self.cursors.of(part).unwrap_or(JobId::MIN);
        let jobs = world.jobs_after(after, self.order.rows)?;
        let mut end = jobs.len() < self.order.rows;
        let mut items = Vec::new();
        for job in &jobs {
            let capped = part == Part::Whole && self.ledger_excess > 0;
            if job.id >= ids_end && !capped {
                end = true;
                break;
            }
            items.extend(match part {
                Part::Whole => self.whole(world, job).await?,
                Part::Logs => self.logs(world, job).await?,
                Part::Key => self.key(world, job)?,
            });
            if self.is_done() {
                break;
            }
            *self.cursors.of(part) = Some(job.id);
        }
        self.commit(world, kind, items).await?;
        self.end_phase(end);
        Ok(jobs.len())
    }

    fn verdict(&self, job: &Job) -> Verdict {
        policy::judge(job, &self.order.cutoffs, &self.order.kinds)
    }

    async fn whole<W: World>(&mut self, world: &W, job: &Job) -> Result<Option<Item>, Refusal> {
        let capped = self.ledger_excess > 0 && job.state.is_terminal();
        if (!capped && self.verdict(job) != Verdict::Whole) || self.allow(1) == 0 {
            return Ok(None);
        }
        let bytes = policy::job_bytes(job);
        self.ledger_excess = self.ledger_excess.saturating_sub(bytes);
        self.report.reclaimed_bytes += bytes;
        if !self.order.dry_run {
            trim_long_log(world, job).await?;
        }
        let rows = 4 + u64::from(job.total) + job.log_count.min(GROUP_ROWS_MAX);
        Ok(Some(Item { prune: Prune::Job(job.id), count: 1, rows }))
    }

    /// Counts records, not jobs.
    async fn logs<W: World>(&mut self, world: &W, job: &Job) -> Result<Option<Item>, Refusal> {
        if !matches!(self.verdict(job), Verdict::Parts { logs: true, .. }) {
            return Ok(None);
        }
        let mut from = world.logs_from(job.id)?.min(job.log_count);
        let until = from + self.allow(job.log_count - from);
        self.report.reclaimed_bytes += (until - from) * policy::LOG_BYTES;
        while until - from > GROUP_ROWS_MAX {
            from += GROUP_ROWS_MAX;
            self.commit(world, CleanupKind::Logs, vec![logs_item(job.id, from, GROUP_ROWS_MAX)]).await?;
        }
        Ok((until > from).then(|| logs_item(job.id, until, until - from)))
    }

    fn key<W: World>(&mut self, world: &W, job: &Job) -> Result<Option<Item>, Refusal> {
        if !matches!(self.verdict(job), Verdict::Parts { key: true, .. })
            || !world.has_key(job.id)?
            || self.allow(1) == 0
        {
            return Ok(None);
        }
        self.report.reclaimed_bytes += policy::KEY_BYTES;
        Ok(Some(Item { prune: Prune::Idempotency(job.id), count: 1, rows: 1 }))
    }

    fn count(&mut self, kind: CleanupKind, count: u64) {
        *self.report.deleted.entry(kind).or_default() += count;
    }

    /// Deletes in groups that other work need not wait long for. A dry run only counts.
    async fn commit<W: World>(&mut self, world: &W, kind: CleanupKind, items: Vec<Item>) -> Result<(), Refusal> {
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            let (mut group, mut rows) = (Vec::new(), 0);
            while let Some(item) = items.next_if(|item| group.is_empty() || rows + item.rows <= GROUP_ROWS_MAX) {
                rows += item.rows;
                group.push(item);
            }
            let deleted = if self.order.dry_run {
                group.iter().map(|item| item.count).sum()
            } else {
                // Fewer than planned where something was deleted or started again since it was read.
                world.prune(group.into_iter().map(|item| item.prune).collect()).await?
            };
            self.count(kind, deleted);
        }
        Ok(())
    }
}

fn logs_item(job: JobId, until: u64, count: u64) -> Item {
    Item { prune: Prune::Logs { job, until }, count, rows: count }
}

/// Deletes most of a long log ahead of its job, group by group, so that no commit is long.
pub async fn trim_long_log<W: World>(world: &W, job: &Job) -> Result<(), Refusal> {
    if job.log_count <= GROUP_ROWS_MAX {
        return Ok(());
    }
    let mut until = world.logs_from(job.id)?;
    while until + GROUP_ROWS_MAX < job.log_count {
        until += GROUP_ROWS_MAX;
        world.prune(vec![Prune::Logs { job: job.id, until }]).await?;
    }
    Ok(())
}

/// Which jobs are active, asked once per job and step.
#[derive(Default)]
struct Activity {
    last: Option<(JobId, bool)>,
}

impl Activity {
    fn holds<W: World>(&mut self, world: &W, id: JobId) -> Result<bool, Refusal> {
        if let Some((_, active)) = self.last.filter(|(known, _)| *known == id) {
            return Ok(active);
        }
        let active = world.job(id)?.is_some_and(|job| !job.state.is_terminal());
        self.last = Some((id, active));
        Ok(active)
    }
}

#[cfg(test)]
mod tests;
