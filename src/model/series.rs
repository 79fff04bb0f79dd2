//! Metrics of running jobs: what a sample says, and how samples become the values of a step.
//!
//! Owns: the series, the arithmetic of gauges and counters. Must not know: where samples are kept, roll-ups, any wire.
//!
//! Samples are taken in the order of their times; of equal times the later arrival is the later one.
//!
//! - **Gauge**: mean, least, greatest, sum, last and number of the step's samples.
//! - **Counter**: two samples that follow each other, (t0, v0) and (t1, v1), are an increase of v1 − v0, or of v1 where v1 < v0 (it
//!   began anew at 0). It belongs to the step of t1, whatever lies between. Its rate is increase ÷ (t1 − t0) per second. Of a
//!   step: sum = the increases, avg = the increases ÷ the time they cover, min, max and last = of the rates, count = samples. Of
//!   samples with one and the same time only the last arrival counts, so no time is divided by zero. The job's first sample increases
//!   nothing: a step that holds nothing else has a count and no values.

/// One of the series a sample may have a value of. The numbers stand in the database: they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Series {
    CpuUsage,
    MemoryUsage,
    GpuUsage,
    DiskReadBytes,
    DiskWriteBytes,
    DiskReadOps,
    DiskWriteOps,
    NetRxBytes,
    NetTxBytes,
    NetRxPackets,
    NetTxPackets,
}

pub const GAUGES: usize = 3;
pub const COUNTERS: usize = 8;

impl Series {
    /// Gauges first, counters behind them.
    pub const ALL: [Series; GAUGES + COUNTERS] = [
        Series::CpuUsage,
        Series::MemoryUsage,
        Series::GpuUsage,
        Series::DiskReadBytes,
        Series::DiskWriteBytes,
        Series::DiskReadOps,
        Series::DiskWriteOps,
        Series::NetRxBytes,
        Series::NetTxBytes,
        Series::NetRxPackets,
        Series::NetTxPackets,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Series::CpuUsage => "cpu_usage",
            Series::MemoryUsage => "memory_usage",
            Series::GpuUsage => "gpu_usage",
            Series::DiskReadBytes => "disk_read_bytes",
            Series::DiskWriteBytes => "disk_write_bytes",
            Series::DiskReadOps => "disk_read_ops",
            Series::DiskWriteOps => "disk_write_ops",
            Series::NetRxBytes => "net_rx_bytes",
            Series::NetTxBytes => "net_tx_bytes",
            Series::NetRxPackets => "net_rx_packets",
            Series::NetTxPackets => "net_tx_packets",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|series| series.name() == name)
    }

    pub fn unit(self) -> &'static str {
        match self {
            Series::CpuUsage => "cores",
            Series::GpuUsage => "ratio",
            Series::MemoryUsage
            | Series::DiskReadBytes
            | Series::DiskWriteBytes
            | Series::NetRxBytes
            | Series::NetTxBytes => "bytes",
            Series::DiskReadOps | Series::DiskWriteOps => "operations",
            Series::NetRxPackets | Series::NetTxPackets => "packets",
        }
    }

    pub fn is_counter(self) -> bool {
        self as usize >= GAUGES
    }
}

/// What a job said of itself at one time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sample {
    /// Unix ns, never below 0.
    pub time_ns: i64,
    /// Its place in the order of arrival.
    pub ordinal: u64,
    /// Finite numbers, in the order of [`Series::ALL`]; None: nothing was said.
    pub gauges: [Option<f64>; GAUGES],
    pub counters: [Option<u64>; COUNTERS],
}

impl Sample {
    pub fn place(&self) -> (i64, u64) {
        (self.time_ns, self.ordinal)
    }

    pub fn value(&self, series: Series) -> Option<f64> {
        let at = series as usize;
        match at.checked_sub(GAUGES) {
            None => self.gauges.get(at).copied().flatten(),
            Some(at) => self.counters.get(at).copied().flatten().map(|value| value as f64),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gauge {
    pub count: u64,
    pub sum: f64,
    pub min: f64,
    pub max: f64,
    pub last: f64,
}

impl Gauge {
    fn of(value: f64) -> Self {
        Self { count: 1, sum: value, min: value, max: value, last: value }
    }

    fn join(&mut self, later: &Gauge) {
        self.count += later.count;
        self.sum += later.sum;
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        self.last = later.last;
    }
}

/// A counter's value at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    pub time_ns: i64,
    pub value: u64,
}

/// What increases come to. There is at least one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    pub increase: u64,
    /// Never 0.
    pub covered_ns: u64,
    pub min: f64,
    pub max: f64,
    pub last: f64,
}

impl Rates {
    /// None: no time lies between them.
    fn between(before: Point, after: Point) -> Option<Self> {
        let covered_ns = u64::try_from(after.time_ns.saturating_sub(before.time_ns)).ok().filter(|ns| *ns > 0)?;
        let increase = if after.value >= before.value { after.value - before.value } else { after.value };
        let rate = per_second(increase, covered_ns);
        Some(Self { increase, covered_ns, min: rate, max: rate, last: rate })
    }

    fn join(self, later: Option<Self>) -> Self {
        let Some(later) = later else { return self };
        Self {
            increase: self.increase.saturating_add(later.increase),
            covered_ns: self.covered_ns.saturating_add(later.covered_ns),
            min: self.min.min(later.min),
            max: self.max.max(later.max),
            last: later.last,
        }
    }
}

pub fn per_second(increase: u64, covered_ns: u64) -> f64 {
    increase as f64 / (covered_ns as f64 / 1e9)
}

fn joined(earlier: Option<Rates>, later: Option<Rates>) -> Option<Rates> {
    earlier.map_or(later, |earlier| Some(earlier.join(later)))
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Counter {
    pub count: u64,
    pub first: Point,
    pub last: Point,
    /// Of the increases between `first` and `last`; in a step also of the one that leads to `first`.
    pub rates: Option<Rates>,
}

/// Adds what is later than everything in `sums`. `before`: the series' last point before `later`.
fn follow(sums: &mut Option<Counter>, later: &Counter, before: Option<Point>) {
    let rates = joined(before.and_then(|before| Rates::between(before, later.first)), later.rates);
    match sums {
        None => *sums = Some(Counter { rates, ..*later }),
        Some(sums) => {
            sums.count += later.count;
            sums.last = later.last;
            sums.rates = joined(sums.rates, rates);
        }
    }
}

/// What samples of some stretch of time come to. Two of stretches that follow each other can be joined: the result is that of all
/// their samples.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Summary {
    /// Of its last sample.
    pub last_ns: i64,
    pub gauges: [Option<Gauge>; GAUGES],
    pub counters: [Option<Counter>; COUNTERS],
}

impl Summary {
    pub fn of(sample: &Sample) -> Self {
        let point = |value| {
            let point = Point { time_ns: sample.time_ns, value };
            Counter { count: 1, first: point, last: point, rates: None }
        };
        Self {
            last_ns: sample.time_ns,
            gauges: sample.gauges.map(|value| value.map(Gauge::of)),
            counters: sample.counters.map(|value| value.map(point)),
        }
    }

    /// One more sample of the only time in here, arrived later.
    fn again(&mut self, sample: &Sample) {
        let Summary { gauges, counters, .. } = Self::of(sample);
        self.join_gauges(&gauges);
        for (sums, same) in self.counters.iter_mut().zip(counters) {
            let Some(same) = same else { continue };
            let count = sums.map_or(0, |sums| sums.count);
            *sums = Some(Counter { count: count + 1, ..same });
        }
    }

    fn join_gauges(&mut self, later: &[Option<Gauge>; GAUGES]) {
        for (sums, later) in self.gauges.iter_mut().zip(later) {
            match (sums, later) {
                (Some(sums), Some(later)) => sums.join(later),
                (sums @ None, Some(later)) => *sums = Some(*later),
                (_, None) => {}
            }
        }
    }

    /// Every sample of `later` has a later time than those in here.
    pub fn join(&mut self, later: &Summary) {
        self.last_ns = later.last_ns;
        self.join_gauges(&later.gauges);
        for (sums, later) in self.counters.iter_mut().zip(&later.counters) {
            if let Some(later) = later {
                let before = sums.map(|sums| sums.last);
                follow(sums, later, before);
            }
        }
    }

    /// Of samples in the order of [`Sample::place`]. None: there are none.
    pub fn of_all(samples: &[Sample]) -> Option<Self> {
        let (mut whole, mut moments) = (None, Moments::default());
        let mut take = |moment: Summary| match &mut whole {
            None => whole = Some(moment),
            Some(whole) => whole.join(&moment),
        };
        samples.iter().filter_map(|sample| moments.push(sample)).for_each(&mut take);
        moments.finish().into_iter().for_each(take);
        whole
    }
}

/// Joins samples of equal times.
#[derive(Debug, Default)]
pub struct Moments {
    open: Option<Summary>,
}

impl Moments {
    /// Samples in the order of [`Sample::place`]. Gives the moment that is complete now.
    pub fn push(&mut self, sample: &Sample) -> Option<Summary> {
        match &mut self.open {
            Some(open) if open.last_ns == sample.time_ns => {
                open.again(sample);
                None
            }
            open => open.replace(Summary::of(sample)),
        }
    }

    pub fn finish(self) -> Option<Summary> {
        self.open
    }
}

/// The values of one step; what cannot be said is None.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Values {
    pub avg: Option<f64>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub sum: Option<f64>,
    pub last: Option<f64>,
    pub count: u64,
}

/// One step with at least one sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    pub start_ns: i64,
    sums: Summary,
}

impl Step {
    /// None: no sample of the step has the series.
    pub fn values(&self, series: Series) -> Option<Values> {
        let at = series as usize;
        match at.checked_sub(GAUGES) {
            None => self.sums.gauges.get(at).copied().flatten().map(|gauge| Values {
                avg: Some(gauge.sum / gauge.count as f64),
                min: Some(gauge.min),
                max: Some(gauge.max),
                sum: Some(gauge.sum),
                last: Some(gauge.last),
                count: gauge.count,
            }),
            Some(at) => self.sums.counters.get(at).copied().flatten().map(|counter| Values {
                avg: counter.rates.map(|rates| per_second(rates.increase, rates.covered_ns)),
                min: counter.rates.map(|rates| rates.min),
                max: counter.rates.map(|rates| rates.max),
                sum: counter.rates.map(|rates| rates.increase as f64),
                last: counter.rates.map(|rates| rates.last),
                count: counter.count,
            }),
        }
    }
}

/// Puts summaries into steps [k × step, (k + 1) × step).
#[derive(Debug)]
pub struct Steps {
    step_ns: i64,
    /// The last point of each counter so far.
    before: [Option<Point>; COUNTERS],
    open: Option<Step>,
}

impl Steps {
    /// `before`: each counter's last point before the first summary.
    pub fn new(step_ns: i64, before: [Option<Point>; COUNTERS]) -> Self {
        Self { step_ns: step_ns.max(1), before, open: None }
    }

    /// Where the step of a time begins.
    pub fn start_of(&self, time_ns: i64) -> i64 {
        time_ns - time_ns.rem_euclid(self.step_ns)
    }

    /// Where the step that takes summaries now begins.
    pub fn open_at(&self) -> Option<i64> {
        self.open.map(|open| open.start_ns)
    }

    /// Adds a summary that lies in one step, later than all before it. Gives the step before when this one begins another.
    pub fn push(&mut self, later: &Summary) -> Option<Step> {
        let start_ns = self.start_of(later.last_ns);
        let done = self.open.take_if(|open| open.start_ns != start_ns);
        let open = self.open.get_or_insert_with(|| Step { start_ns, sums: Summary::default() });
        open.sums.last_ns = later.last_ns;
        open.sums.join_gauges(&later.gauges);
        let sums = open.sums.counters.iter_mut().zip(&later.counters);
        for ((sums, later), before) in sums.zip(&mut self.before) {
            if let Some(later) = later {
                follow(sums, later, *before);
                *before = Some(later.last);
            }
        }
        done
    }

    pub fn finish(self) -> Option<Step> {
        self.open
    }
}

#[cfg(test)]
pub mod tests;
