//! Roll-ups of metrics at 10 s, 1 m and 1 h, written when samples are sealed.
//!
//! Owns: the row of one step, and recomputing the steps that sealed samples touch. Must not know: queries.
//!
//! A row is the summary of exactly the samples of its step with ordinals below `until`, and of nothing outside it: increases over a
//! step's border are made when rows are joined. So a late sample changes the three rows of its own time and no other. Samples behind all others of
//! their step are joined to its row; among them, the step is read anew from its blocks; where that would be many blocks the row only
//! says that the samples must be asked. Minutes are joined from 10 s, hours from minutes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use prost::Message;

use super::block::{BlockHead, read_block, read_head};
use super::codec::Window;
use super::sample::{sample, time_of};
use super::tails::Due;
use crate::model::series::{Counter, Gauge, Point, Rates, Sample, Summary, per_second};
use crate::model::{JobId, OutputKind, Refusal};
use crate::store::keys::{self, Family, Fields, Key, Space};
use crate::store::records::{self, JobRow, damaged};
use crate::store::spaces::Spaces;

/// Seconds of a step, finest first; each is a multiple of the one before.
pub const RESOLUTIONS_S: [u16; 3] = [10, 60, 3_600];
/// Blocks that one seal reads again for late samples of one job: some 4 MiB.
const BLOCKS_MAX: usize = 16;
/// Heads that it looks at to find them.
const HEADS_MAX: usize = 1_024;

/// The metrics of one step that are sealed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rollup {
    pub at_ms: i64,
    /// Behind the last ordinal in it.
    pub until: u64,
    /// None: it has to be made of the samples.
    pub summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct RollupRow {
    #[prost(uint64, tag = "1")]
    until: u64,
    #[prost(bool, tag = "2")]
    ask_samples: bool,
    /// From the step's beginning, as all times here.
    #[prost(uint64, tag = "3")]
    last_at: u64,
    #[prost(message, repeated, tag = "4")]
    gauges: Vec<GaugeRow>,
    #[prost(message, repeated, tag = "5")]
    counters: Vec<CounterRow>,
}

#[derive(Clone, PartialEq, Message)]
struct GaugeRow {
    #[prost(uint32, tag = "1")]
    series: u32,
    #[prost(uint64, tag = "2")]
    count: u64,
    #[prost(double, tag = "3")]
    last: f64,
    /// Of one sample all values are alike.
    #[prost(double, optional, tag = "4")]
    sum: Option<f64>,
    #[prost(double, optional, tag = "5")]
    min: Option<f64>,
    #[prost(double, optional, tag = "6")]
    max: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct CounterRow {
    #[prost(uint32, tag = "1")]
    series: u32,
    #[prost(uint64, tag = "2")]
    count: u64,
    #[prost(uint64, tag = "3")]
    first_at: u64,
    #[prost(uint64, tag = "4")]
    first: u64,
    #[prost(uint64, tag = "5")]
    last_at: u64,
    #[prost(uint64, tag = "6")]
    last: u64,
    #[prost(uint64, tag = "7")]
    increase: u64,
    /// 0: there is no increase.
    #[prost(uint64, tag = "8")]
    covered_ns: u64,
    /// Rates; missing where they all are increase ÷ covered time.
    #[prost(double, optional, tag = "9")]
    min: Option<f64>,
    #[prost(double, optional, tag = "10")]
    max: Option<f64>,
    #[prost(double, optional, tag = "11")]
    last_rate: Option<f64>,
}

impl GaugeRow {
    fn new(series: usize, gauge: Gauge) -> Self {
        let several = |value| Some(value).filter(|_| gauge.count > 1);
        Self {
            series: u32::try_from(series).unwrap_or(u32::MAX),
            count: gauge.count,
            last: gauge.last,
            sum: several(gauge.sum),
            min: several(gauge.min),
            max: several(gauge.max),
        }
    }

    fn gauge(&self) -> Gauge {
        let or_last = |value: Option<f64>| value.unwrap_or(self.last);
        Gauge {
            count: self.count,
            sum: or_last(self.sum),
            min: or_last(self.min),
            max: or_last(self.max),
            last: self.last,
        }
    }
}

impl CounterRow {
    fn new(series: usize, start_ns: i64, counter: Counter) -> Self {
        let at = |point: Point| u64::try_from(point.time_ns.saturating_sub(start_ns)).unwrap_or(0);
        let (increase, covered_ns) = counter.rates.map_or((0, 0), |rates| (rates.increase, rates.covered_ns));
        let several = counter.rates.filter(|rates| {
            let even = per_second(rates.increase, rates.covered_ns);
            [rates.min, rates.max, rates.last].iter().any(|rate| rate.to_bits() != even.to_bits())
        });
        Self {
            series: u32::try_from(series).unwrap_or(u32::MAX),
            count: counter.count,
            first_at: at(counter.first),
            first: counter.first.value,
            last_at: at(counter.last),
            last: counter.last.value,
            increase,
            covered_ns,
            min: several.map(|rates| rates.min),
            max: several.map(|rates| rates.max),
            last_rate: several.map(|rates| rates.last),
        }
    }

    fn counter(&self, start_ns: i64) -> Counter {
        let point = |at: u64, value| Point { time_ns: start_ns.saturating_add_unsigned(at), value };
        let even = per_second(self.increase, self.covered_ns);
        let rates = Rates {
            increase: self.increase,
            covered_ns: self.covered_ns,
            min: self.min.unwrap_or(even),
            max: self.max.unwrap_or(even),
            last: self.last_rate.unwrap_or(even),
        };
        Counter {
            count: self.count,
            first: point(self.first_at, self.first),
            last: point(self.last_at, self.last),
            rates: (self.covered_ns > 0).then_some(rates),
        }
    }
}

impl Rollup {
    fn start_ns(&self) -> i64 {
        self.at_ms.saturating_mul(1_000_000)
    }

    fn encode(&self) -> Vec<u8> {
        let start_ns = self.start_ns();
        let summary = self.summary.unwrap_or_default();
        let gauges = summary.gauges.iter().enumerate().filter_map(|(at, gauge)| Some(GaugeRow::new(at, (*gauge)?)));
        let counters =
            summary.counters.iter().enumerate().filter_map(|(at, sums)| Some(CounterRow::new(at, start_ns, (*sums)?)));
        let row = RollupRow {
            until: self.until,
            ask_samples: self.summary.is_none(),
            last_at: u64::try_from(summary.last_ns.saturating_sub(start_ns)).unwrap_or(0),
            gauges: gauges.collect(),
            counters: counters.collect(),
        };
        row.encode_to_vec()
    }

    /// From its row.
    pub fn read(key: &[u8], value: &[u8]) -> Result<Self, Refusal> {
        let at = Fields::of(Family::Rollup, key).and_then(|mut fields| {
            let _of = (fields.job()?, fields.u16()?);
            fields.time()
        });
        let at_ms = at.ok_or_else(|| damaged("a Rollup key"))?;
        let row: RollupRow = records::decode("roll-up", value)?;
        let mut rollup = Self { at_ms, until: row.until, summary: None };
        if row.ask_samples {
            return Ok(rollup);
        }
        let start_ns = rollup.start_ns();
        let mut summary = Summary { last_ns: start_ns.saturating_add_unsigned(row.last_at), ..Summary::default() };
        for gauge in &row.gauges {
            let place = usize::try_from(gauge.series).ok().and_then(|at| summary.gauges.get_mut(at));
            *place.ok_or_else(|| damaged("a roll-up's series"))? = Some(gauge.gauge());
        }
        for counter in &row.counters {
            let place = usize::try_from(counter.series).ok().and_then(|at| summary.counters.get_mut(at));
            *place.ok_or_else(|| damaged("a roll-up's series"))? = Some(counter.counter(start_ns));
        }
        rollup.summary = Some(summary);
        Ok(rollup)
    }
}

/// Where the step of a time begins.
fn start_ms(time_ns: i64, resolution_s: u16) -> i64 {
    let ms = time_of(time_ns) / 1_000_000;
    ms - ms % (i64::from(resolution_s) * 1_000)
}

/// Rows to put for the steps that the samples of `due` touch. What of it is not sealed now is there again the next time, and then known
/// by its ordinals.
pub fn recompute<'a>(
    spaces: &Spaces,
    due: impl Iterator<Item = &'a Due>,
) -> Result<Vec<(JobId, Key, Vec<u8>)>, Refusal> {
    let mut rows = Vec::new();
    for due in due {
        let Some(first) = due.chunks.first().map(|chunk| chunk.first) else { continue };
        let row = spaces.get(&keys::job(due.job))?;
        let row: Option<JobRow> = row.map(|row| records::decode("job", &row)).transpose()?;
        let kept_from = row.map_or(0, |row| row.kept_from(OutputKind::Metric));
        let mut samples: Vec<Sample> = Vec::new();
        for chunk in &due.chunks {
            // One that cannot be read is not sealed either: the sealer says so.
            let Ok(records) = chunk.records(due.kind) else { break };
            samples.extend(records.iter().filter(|record| record.ordinal >= kept_from).filter_map(sample));
        }
        samples.sort_unstable_by_key(Sample::place);
        for (resolution_s, rollup) in of_job(spaces, due.job, first, &samples)? {
            rows.push((due.job, keys::rollup(due.job, resolution_s, rollup.at_ms), rollup.encode()));
        }
    }
    Ok(rows)
}

/// `samples` in the order of their places; those with ordinals below `first` are in blocks.
fn of_job(spaces: &Spaces, job: JobId, first: u64, samples: &[Sample]) -> Result<Vec<(u16, Rollup)>, Refusal> {
    let [finest_s, coarser @ ..] = RESOLUTIONS_S;
    let mut changed = finest(spaces, job, first, samples, finest_s)?;
    let mut rows: Vec<(u16, Rollup)> = changed.values().map(|rollup| (finest_s, *rollup)).collect();
    let mut child_s = finest_s;
    for resolution_s in coarser {
        let mut parents: BTreeMap<i64, Rollup> = BTreeMap::new();
        for at_ms in changed.keys().map(|at_ms| start_ms(at_ms.saturating_mul(1_000_000), resolution_s)) {
            if let Entry::Vacant(place) = parents.entry(at_ms) {
                let end_ms = at_ms + i64::from(resolution_s) * 1_000;
                place.insert(parent(spaces, job, child_s, at_ms..end_ms, &changed)?);
            }
        }
        rows.extend(parents.values().map(|rollup| (resolution_s, *rollup)));
        (changed, child_s) = (parents, resolution_s);
    }
    Ok(rows)
}

/// Joined from its steps of the next finer resolution; `changed` stand before what is stored.
fn parent(
    spaces: &Spaces,
    job: JobId,
    child_s: u16,
    span_ms: std::ops::Range<i64>,
    changed: &BTreeMap<i64, Rollup>,
) -> Result<Rollup, Refusal> {
    let (from, until) = (keys::rollup(job, child_s, span_ms.start), keys::rollup(job, child_s, span_ms.end));
    let mut children: BTreeMap<i64, Rollup> = BTreeMap::new();
    for row in spaces.range(Space::Output, &from.bytes, &until.bytes) {
        let (key, value) = row?;
        let child = Rollup::read(&key, &value)?;
        children.insert(child.at_ms, child);
    }
    children.extend(changed.range(span_ms.clone()).map(|(at, child)| (*at, *child)));
    let until = children.values().map(|child| child.until).max().unwrap_or(0);
    let summary = children.values().map(|child| child.summary).reduce(|earlier, later| {
        let mut whole = earlier?;
        whole.join(&later?);
        Some(whole)
    });
    Ok(Rollup { at_ms: span_ms.start, until, summary: summary.flatten() })
}

fn finest(
    spaces: &Spaces,
    job: JobId,
    sealed_end: u64,
    samples: &[Sample],
    resolution_s: u16,
) -> Result<BTreeMap<i64, Rollup>, Refusal> {
    let mut changed = BTreeMap::new();
    let mut anew: BTreeMap<i64, Vec<Sample>> = BTreeMap::new();
    for step in samples.chunk_by(|a, b| start_ms(a.time_ns, resolution_s) == start_ms(b.time_ns, resolution_s)) {
        let Some(at_ms) = step.first().map(|first| start_ms(first.time_ns, resolution_s)) else { continue };
        let key = keys::rollup(job, resolution_s, at_ms);
        let known = spaces.get(&key)?.map(|value| Rollup::read(&key.bytes, &value)).transpose()?;
        let seen = known.map_or(0, |known| known.until);
        let fresh: Vec<Sample> = step.iter().filter(|sample| sample.ordinal >= seen).copied().collect();
        let (Some(first), Some(summary)) = (fresh.first(), Summary::of_all(&fresh)) else { continue };
        let until = fresh.iter().map(|sample| sample.ordinal + 1).max().unwrap_or(0);
        let summary = match known.map(|known| known.summary) {
            None => Some(summary),
            Some(None) => None,
            Some(Some(mut known)) if known.last_ns < first.time_ns => {
                known.join(&summary);
                Some(known)
            }
            Some(Some(_)) => {
                anew.insert(at_ms, step.to_vec());
                None
            }
        };
        changed.insert(at_ms, Rollup { at_ms, until, summary });
    }
    if add_sealed(spaces, job, sealed_end, resolution_s, &mut anew)? {
        for (at_ms, mut step) in anew {
            step.sort_unstable_by_key(Sample::place);
            if let Some(rollup) = changed.get_mut(&at_ms) {
                rollup.summary = Summary::of_all(&step);
            }
        }
    }
    Ok(changed)
}

/// Adds to each step its sealed samples. False: they stand in too many blocks.
fn add_sealed(
    spaces: &Spaces,
    job: JobId,
    sealed_end: u64,
    resolution_s: u16,
    steps: &mut BTreeMap<i64, Vec<Sample>>,
) -> Result<bool, Refusal> {
    if steps.is_empty() {
        return Ok(true);
    }
    let (from, until) =
        (keys::block_head(job, OutputKind::Metric, 0), keys::block_head(job, OutputKind::Metric, u64::MAX));
    let (mut wanted, mut heads): (Vec<BlockHead>, usize) = (Vec::new(), 0);
    for row in spaces.range(Space::Output, &from.bytes, &until.bytes).rev() {
        let (key, value) = row?;
        let head = read_head(&key, &value)?;
        heads += 1;
        let first_ms = start_ms(head.time_min_ns, resolution_s);
        let last_ms = start_ms(head.time_max_ns, resolution_s);
        if steps.range(first_ms..=last_ms).next().is_some() {
            wanted.push(head);
        }
        if wanted.len() > BLOCKS_MAX || heads > HEADS_MAX {
            return Ok(false);
        }
    }
    for head in wanted {
        for sample in
            read_block(&head, Window::ALL, |key| spaces.get(key))?.unwrap_or_default().iter().filter_map(sample)
        {
            if sample.ordinal < sealed_end
                && let Some(step) = steps.get_mut(&start_ms(sample.time_ns, resolution_s))
            {
                step.push(sample);
            }
        }
    }
    Ok(true)
}
