//! Metrics of a job: its samples, or the values of steps.
//!
//! Owns: which part of a question roll-ups answer and which the samples, paging. Must not know: the arithmetic (see
//! `model::series`), rows.
//!
//! A roll-up is the summary of the sealed samples of its step. So a step without unsealed samples is taken from the coarsest roll-up
//! that fits; one with unsealed samples from the finer ones below it, and a 10 s step from its row and the unsealed samples where
//! these are the later ones, else from the samples themselves. What no roll-up fits (a step or a border that is no multiple of 10 s)
//! comes from the samples.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::token::{self, Kind};
use super::{Ledger, no_job};
use crate::model::series::{COUNTERS, Moments, Point, Sample, Series, Step, Steps, Summary, Values};
use crate::model::{JobId, OutputKind, Refusal};
use crate::store::{ROLLUPS_S, Reader, Rollup, Tail};

/// Which metrics. Everything that is set must hold.
#[derive(Debug, Clone, Default)]
pub struct MetricQuery {
    /// At or after, Unix ns.
    pub from_ns: i64,
    /// Before, Unix ns; 0 = open.
    pub until_ns: i64,
    /// Length of a step, at least [`STEP_MS_MIN`]; 0 = the samples themselves.
    pub step_ms: i64,
    /// None means all.
    pub series: Vec<Series>,
    /// Points of a series: 0 means 1000, at most [`POINTS_MAX`].
    pub limit: u32,
    pub token: String,
}

pub const STEP_MS_MIN: i64 = 1_000;
const POINTS_USUAL: usize = 1_000;
/// Of all series some 8 MB in memory.
pub const POINTS_MAX: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MetricPoint {
    /// Where the step begins, or the sample's own time.
    pub time_ns: i64,
    pub values: Values,
}

#[derive(Debug, Clone)]
pub struct MetricPage {
    /// In the order of [`Series::ALL`]; those without a point on this page have none.
    pub series: Vec<(Series, Vec<MetricPoint>)>,
    /// Empty: the end.
    pub next_token: String,
}

const MS: i64 = 1_000_000;
/// Samples read at a time: about 2 MB.
const SAMPLES: usize = 10_000;
/// Roll-ups read at a time: about 250 kB.
const ROWS: usize = 256;
/// Samples and roll-ups after which a page ends with the step it is in: some seconds of reading.
const WORK_MAX: usize = 1_000_000;
/// Finest last, as they are gone through.
const LEVELS: usize = ROLLUPS_S.len();

impl Ledger {
    /// In the order of time.
    pub fn metrics(&self, id: JobId, query: &MetricQuery) -> Result<MetricPage, Refusal> {
        if query.step_ms != 0 && query.step_ms < STEP_MS_MIN {
            return Err(Refusal::invalid("step_ms", format!("must be 0 or at least {STEP_MS_MIN}")));
        }
        let limit = match usize::try_from(query.limit).unwrap_or(POINTS_MAX) {
            0 => POINTS_USUAL,
            limit => limit.min(POINTS_MAX),
        };
        let place = read_token(query)?;
        self.reader.job(id)?.ok_or_else(|| no_job(id))?;
        let series: Vec<Series> =
            Series::ALL.into_iter().filter(|one| query.series.is_empty() || query.series.contains(one)).collect();
        let view = View::new(&self.reader, id)?;
        if query.step_ms == 0 {
            return view.raw(query, &series, place, limit);
        }
        view.steps(query, &series, place.map(|(at, _)| at), limit)
    }
}

const TOKEN_BYTES: usize = 24;

fn read_token(query: &MetricQuery) -> Result<Option<(i64, u64)>, Refusal> {
    let Some(bytes) = token::read::<TOKEN_BYTES>(Kind::Metrics, &query.token)? else { return Ok(None) };
    let mut fields = bytes.as_chunks::<8>().0.iter().map(|field| u64::from_be_bytes(*field));
    let mut field = || fields.next().unwrap_or_default();
    let (step_ms, time_ns, ordinal) = (field().cast_signed(), field().cast_signed(), field());
    // The places of samples and of steps of another length are other ones.
    if step_ms != query.step_ms || time_ns < 0 { Err(token::foreign()) } else { Ok(Some((time_ns, ordinal))) }
}

fn write_token(query: &MetricQuery, (time_ns, ordinal): (i64, u64)) -> String {
    let fields = [query.step_ms.cast_unsigned(), time_ns.cast_unsigned(), ordinal];
    token::write(Kind::Metrics, fields.map(u64::to_be_bytes).as_flattened())
}

/// The job's samples as they stood when the query began.
struct View<'a> {
    reader: &'a Reader,
    id: JobId,
    tail: Tail,
    unsealed: Vec<Sample>,
}

/// Steps on their way into a page.
struct Page {
    steps: Steps,
    done: Vec<Step>,
    limit: usize,
    work: usize,
    /// Where the step begins that did not fit.
    next_ns: Option<i64>,
}

impl Page {
    fn push(&mut self, later: &Summary) -> ControlFlow<()> {
        self.work += 1;
        if let Some(open_ns) = self.steps.open_at() {
            let start_ns = self.steps.start_of(later.last_ns);
            let full = self.done.len() + 1 >= self.limit || self.work > WORK_MAX;
            if start_ns != open_ns && full {
                self.next_ns = Some(start_ns);
                return ControlFlow::Break(());
            }
        }
        self.done.extend(self.steps.push(later));
        ControlFlow::Continue(())
    }
}

fn floor(time_ns: i64, unit_ns: i64) -> i64 {
    time_ns - time_ns.rem_euclid(unit_ns)
}

fn ceil(time_ns: i64, unit_ns: i64) -> i64 {
    floor(time_ns.saturating_add(unit_ns - 1), unit_ns)
}

/// Seconds of a level's step: 0 is the coarsest; None: the samples.
fn resolution(level: usize) -> Option<u16> {
    ROLLUPS_S.into_iter().rev().nth(level)
}

fn resolution_ns(resolution_s: u16) -> i64 {
    i64::from(resolution_s) * 1_000 * MS
}

impl<'a> View<'a> {
    fn new(reader: &'a Reader, id: JobId) -> Result<Self, Refusal> {
        // Before any block or roll-up is read: what is sealed meanwhile is known from here.
        let tail = reader.tail(id, OutputKind::Metric);
        let unsealed = reader.unsealed_samples(&tail)?;
        Ok(Self { reader, id, tail, unsealed })
    }

    fn unsealed_in(&self, from_ns: i64, until_ns: i64) -> &[Sample] {
        let at = |time_ns| self.unsealed.partition_point(|sample| sample.time_ns < time_ns);
        self.unsealed.get(at(from_ns)..at(until_ns)).unwrap_or_default()
    }

    /// The first `rows` samples at or behind a place.
    fn samples(&self, from: (i64, u64), until_ns: i64, rows: usize) -> Result<Vec<Sample>, Refusal> {
        let mut samples = self.reader.sealed_samples(self.id, &self.tail, from, until_ns, rows)?;
        let unsealed = self.unsealed_in(from.0, until_ns).iter().filter(|sample| sample.place() >= from);
        samples.extend(unsealed.take(rows));
        samples.sort_unstable_by_key(Sample::place);
        samples.truncate(rows);
        Ok(samples)
    }

    fn raw(
        &self,
        query: &MetricQuery,
        series: &[Series],
        place: Option<(i64, u64)>,
        limit: usize,
    ) -> Result<MetricPage, Refusal> {
        let from = (query.from_ns.max(0), 0);
        let from = place.map_or(from, |place| place.max(from));
        let mut samples = self.samples(from, until_ns(query), limit + 1)?;
        let more = samples.drain(limit.min(samples.len())..).next().map(|sample| sample.place());
        let point = |sample: &Sample, series: Series| {
            let value = sample.value(series)?;
            let (gauge, last) = (Some(value).filter(|_| !series.is_counter()), Some(value));
            let values = Values { avg: gauge, min: gauge, max: gauge, sum: gauge, last, count: 1 };
            Some(MetricPoint { time_ns: sample.time_ns, values })
        };
        let points = |one: Series| (one, samples.iter().filter_map(|sample| point(sample, one)).collect());
        let next_token = more.map_or(String::new(), |place| write_token(query, place));
        Ok(MetricPage { series: series.iter().copied().map(points).collect(), next_token })
    }

    fn steps(
        &self,
        query: &MetricQuery,
        series: &[Series],
        at: Option<i64>,
        limit: usize,
    ) -> Result<MetricPage, Refusal> {
        let step_ns = query.step_ms.saturating_mul(MS);
        let from_ns = query.from_ns.max(0);
        let from_ns = at.map_or(from_ns, |at| at.max(from_ns));
        let before = if series.iter().any(|series| series.is_counter()) {
            self.points_before(from_ns)?
        } else {
            [None; COUNTERS]
        };
        let level = (0..LEVELS)
            .find(|level| resolution(*level).is_some_and(|resolution_s| step_ns % resolution_ns(resolution_s) == 0));
        let mut page = Page { steps: Steps::new(step_ns, before), done: Vec::new(), limit, work: 0, next_ns: None };
        // Broken off: the page is full.
        let _whole = self.go(level.unwrap_or(LEVELS), from_ns, until_ns(query), &mut |summary| page.push(summary))?;
        page.done.extend(page.steps.finish());
        let points = |one: Series| {
            let point = |step: &Step| Some(MetricPoint { time_ns: step.start_ns, values: step.values(one)? });
            (one, page.done.iter().filter_map(point).collect())
        };
        let next_token = page.next_ns.map_or(String::new(), |at| write_token(query, (at, 0)));
        Ok(MetricPage { series: series.iter().copied().map(points).collect(), next_token })
    }

    /// Gives the summaries of a stretch of time in order, of this level's steps where it has whole ones.
    fn go(
        &self,
        level: usize,
        from_ns: i64,
        until_ns: i64,
        each: &mut dyn FnMut(&Summary) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Refusal> {
        let Some(resolution_s) = resolution(level) else { return self.go_raw(from_ns, until_ns, each) };
        let unit_ns = resolution_ns(resolution_s);
        let (first_ns, end_ns) = (ceil(from_ns, unit_ns), floor(until_ns, unit_ns));
        if first_ns >= end_ns {
            return self.go(level + 1, from_ns, until_ns, each);
        }
        if self.go(level + 1, from_ns, first_ns, each)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let unsealed = self.unsealed_in(first_ns, end_ns).iter();
        let mut touched: BTreeSet<i64> = unsealed.map(|sample| floor(sample.time_ns, unit_ns)).collect();
        let mut at_ns = first_ns;
        loop {
            let rows = self.reader.rollups(self.id, resolution_s, at_ns / MS, end_ns / MS, ROWS)?;
            let more = rows.len() == ROWS;
            let mut steps: Vec<(i64, Option<Rollup>)> =
                rows.into_iter().map(|row| (row.at_ms.saturating_mul(MS), Some(row))).collect();
            let read_to = steps.last().map_or(i64::MIN, |(at, _)| *at);
            // Steps that are not sealed at all have no row yet.
            let known: BTreeSet<i64> = steps.iter().map(|(at, _)| *at).collect();
            let bare = touched.iter().filter(|at| (!more || **at < read_to) && !known.contains(at));
            steps.extend(bare.map(|at| (*at, None)).collect::<Vec<_>>());
            steps.sort_unstable_by_key(|(at, _)| *at);
            for (start_ns, row) in steps {
                let step = (start_ns, start_ns.saturating_add(unit_ns));
                let summary = row.and_then(|row| self.whole(level, step, row, touched.contains(&start_ns)));
                let flow = match summary {
                    Some(summary) => each(&summary),
                    None => self.go(level + 1, step.0, step.1, each)?,
                };
                if flow.is_break() {
                    return Ok(flow);
                }
            }
            if !more {
                break;
            }
            at_ns = read_to.saturating_add(unit_ns);
            touched.retain(|at| *at >= at_ns);
        }
        self.go(level + 1, end_ns, until_ns, each)
    }

    /// The summary of a step from its row, if that is enough.
    fn whole(&self, level: usize, step: (i64, i64), row: Rollup, touched: bool) -> Option<Summary> {
        let mut summary = row.summary?;
        if !touched {
            return Some(summary);
        }
        if level + 1 < LEVELS {
            return None;
        }
        // What was sealed since the query began is in the row already.
        let unsealed = self.unsealed_in(step.0, step.1).iter().filter(|sample| sample.ordinal >= row.until);
        let unsealed: Vec<Sample> = unsealed.copied().collect();
        if let (Some(first), Some(later)) = (unsealed.first(), Summary::of_all(&unsealed)) {
            if first.time_ns <= summary.last_ns {
                return None;
            }
            summary.join(&later);
        }
        Some(summary)
    }

    fn go_raw(
        &self,
        from_ns: i64,
        until_ns: i64,
        each: &mut dyn FnMut(&Summary) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Refusal> {
        let mut place = (from_ns, 0);
        let mut moments = Moments::default();
        while place.0 < until_ns {
            let samples = self.samples(place, until_ns, SAMPLES)?;
            for moment in samples.iter().filter_map(|sample| moments.push(sample)) {
                if each(&moment).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            let Some(last) = samples.last().filter(|_| samples.len() == SAMPLES) else { break };
            place = (last.time_ns, last.ordinal + 1);
        }
        Ok(moments.finish().map_or(ControlFlow::Continue(()), |moment| each(&moment)))
    }

    /// The last point of each counter before a time.
    fn points_before(&self, time_ns: i64) -> Result<[Option<Point>; COUNTERS], Refusal> {
        let [finest_s, .., coarsest_s] = ROLLUPS_S;
        let (finest_ns, coarsest_ns) = (resolution_ns(finest_s), resolution_ns(coarsest_s));
        let mut points = [None; COUNTERS];
        // Of what is sealed; what is not is looked through by itself.
        let (step_ns, hour_ns) = (floor(time_ns, finest_ns), floor(time_ns, coarsest_ns));
        self.take_points(step_ns, time_ns, &mut points)?;
        for (resolution_s, from_ns, until_ns) in [(finest_s, hour_ns, step_ns), (coarsest_s, 0, hour_ns)] {
            let mut end_ns = until_ns;
            while end_ns > from_ns && points.iter().any(Option::is_none) {
                let rows = self.reader.rollups_back(self.id, resolution_s, from_ns / MS, end_ns / MS, ROWS)?;
                let more = rows.len() == ROWS;
                for row in rows {
                    end_ns = row.at_ms.saturating_mul(MS);
                    match row.summary {
                        Some(summary) => fill(&mut points, &summary),
                        None => self.take_points(end_ns, end_ns + resolution_ns(resolution_s), &mut points)?,
                    }
                }
                if !more {
                    break;
                }
            }
        }
        for sample in self.unsealed_in(0, time_ns) {
            for (point, value) in points.iter_mut().zip(sample.counters) {
                if let Some(value) = value
                    && point.is_none_or(|point: Point| point.time_ns <= sample.time_ns)
                {
                    *point = Some(Point { time_ns: sample.time_ns, value });
                }
            }
        }
        Ok(points)
    }

    fn take_points(&self, from_ns: i64, until_ns: i64, points: &mut [Option<Point>; COUNTERS]) -> Result<(), Refusal> {
        let mut whole: Option<Summary> = None;
        let mut join = |moment: &Summary| {
            match &mut whole {
                None => whole = Some(*moment),
                Some(whole) => whole.join(moment),
            }
            ControlFlow::Continue(())
        };
        let _whole = self.go_raw(from_ns, until_ns, &mut join)?;
        if let Some(whole) = &whole {
            fill(points, whole);
        }
        Ok(())
    }
}

/// An earlier summary's last points where nothing later was found.
fn fill(points: &mut [Option<Point>; COUNTERS], earlier: &Summary) {
    for (point, counter) in points.iter_mut().zip(&earlier.counters) {
        if point.is_none() {
            *point = counter.map(|counter| counter.last);
        }
    }
}

fn until_ns(query: &MetricQuery) -> i64 {
    if query.until_ns > 0 { query.until_ns } else { i64::MAX }
}

#[cfg(test)]
mod tests;
