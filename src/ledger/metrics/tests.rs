//! Metrics on a real database against the definition written out: sealed or not, late or in order, whatever step is asked for.
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers made here")]

use std::hash::{BuildHasher as _, RandomState};

use super::*;
use crate::model::series::tests::{close, naive};
use crate::model::{JobName, JobType, LogStream, NewOutput, OutputShare, Tenant};
use crate::store::{NamedJob, Opened, Options, OutputBatch, open, output};
use crate::telemetry::Metrics;

fn varint(field: u8, mut value: u64, into: &mut Vec<u8>) {
    into.push(field << 3);
    while value >= 0x80 {
        into.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn message(field: u8, inner: &[u8], into: &mut Vec<u8>) {
    into.push(field << 3 | 2);
    assert!(inner.len() < 16_384);
    into.extend([(inner.len() & 0x7f) as u8 | 0x80, (inner.len() >> 7) as u8]);
    into.extend_from_slice(inner);
}

/// As joblet's core would send it. A gauge that says nothing is no number.
fn encoded(sample: &Sample) -> Vec<u8> {
    let mut data = Vec::new();
    for (field, gauge) in [(1, sample.gauges[0]), (3, sample.gauges[2])] {
        data.push(field << 3 | 1);
        data.extend(gauge.unwrap_or(f64::NAN).to_le_bytes());
    }
    varint(2, sample.gauges[1].unwrap() as u64, &mut data);
    for (field, counters) in [(4, &sample.counters[..4]), (5, &sample.counters[4..])] {
        if counters[0].is_none() {
            continue;
        }
        let mut io = Vec::new();
        for (at, counter) in counters.iter().enumerate() {
            varint(at as u8 + 1, counter.unwrap(), &mut io);
        }
        message(field, &io, &mut data);
    }
    let mut whole = Vec::new();
    message(4, &data, &mut whole);
    whole
}

fn opened(dir: &std::path::Path) -> Opened {
    let output = output::Options { block_bytes: 2 << 10, tail_bytes_max: 8 << 10, ..output::Options::default() };
    open(dir, &Options { output, ..Options::default() }, Metrics::new()).unwrap()
}

/// Numbers by chance from a seed (xorshift).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end.max(1)
    }

    fn time(&mut self, end: i64) -> i64 {
        self.below(end.unsigned_abs()).cast_signed()
    }

    /// Once in so many times.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

struct Run {
    random: Chance,
    now_ns: i64,
    dense: bool,
    counters: [u64; COUNTERS],
    samples: Vec<Sample>,
}

impl Run {
    /// Mostly a little later than the one before; now and then late, at the same time, or hours later.
    fn sample(&mut self) -> Sample {
        let random = &mut self.random;
        if random.once_in(40) {
            self.dense = !self.dense;
        }
        let usual_ms = random.time(if self.dense { 30 } else { 9_000 });
        let time_ns = match random.below(100) {
            0 => {
                self.now_ns += random.time(7_000) * 1_000 * MS;
                self.now_ns
            }
            1..9 => (self.now_ns - random.time(if self.dense { 2_000 } else { 400_000 }) * MS).max(0),
            9..12 => self.samples.last().map_or(0, |last| last.time_ns),
            _ => {
                self.now_ns += usual_ms * MS;
                self.now_ns
            }
        };
        for counter in &mut self.counters {
            *counter = if random.once_in(25) { random.below(50) } else { *counter + random.below(3_000) };
        }
        let (disk, network) = (!random.once_in(10), !random.once_in(3));
        let mut counters = self.counters.map(Some);
        counters[..4].iter_mut().filter(|_| !disk).for_each(|counter| *counter = None);
        counters[4..].iter_mut().filter(|_| !network).for_each(|counter| *counter = None);
        let gauge = |random: &mut Chance| Some(random.below(8_000) as f64 / 999.0).filter(|_| !random.once_in(10));
        let gauges = [gauge(random), Some(random.below(1_000_000) as f64), gauge(random)];
        let sample = Sample { time_ns, ordinal: self.samples.len() as u64, gauges, counters };
        self.samples.push(sample);
        sample
    }

    fn check(&mut self, ledger: &Ledger, id: JobId) {
        const STEPS_MS: [i64; 12] = [
            1_000, 1_500, 10_000, 15_000, 30_000, 60_000, 90_000, 600_000, 3_600_000, 5_400_000, 7_200_000, 86_400_000,
        ];
        let random = &mut self.random;
        let step_ms = random.one_of(&STEPS_MS);
        let border = |random: &mut Chance| match random.below(3) {
            0 => 0,
            1 => random.time(self.now_ns / MS + 1) * MS,
            _ => floor(random.time(self.now_ns + 1), 10_000 * MS),
        };
        let (from_ns, until_ns) = (border(random), border(random));
        let limit = random.one_of(&[3, 40, 0]);
        let mut query = MetricQuery { from_ns, until_ns, step_ms, series: Vec::new(), limit, token: String::new() };
        let mut got: Vec<Vec<MetricPoint>> = vec![Vec::new(); Series::ALL.len()];
        loop {
            let page = ledger.metrics(id, &query).unwrap();
            for (series, points) in page.series {
                assert!(limit == 0 || points.len() <= limit as usize);
                got[series as usize].extend(points);
            }
            query.token = page.next_token;
            if query.token.is_empty() {
                break;
            }
        }
        let end_ns = if until_ns > 0 { until_ns } else { i64::MAX };
        for series in Series::ALL {
            let expected = naive(&self.samples, series, step_ms * MS, from_ns..end_ns.max(from_ns));
            let got = &got[series as usize];
            let what = format!("{series:?} by {step_ms} ms in {from_ns}..{until_ns}");
            assert_eq!(got.len(), expected.len(), "{what}");
            for (point, (start_ns, values)) in got.iter().zip(&expected) {
                assert_eq!(point.time_ns, *start_ns, "{what}");
                assert!(close(&point.values, values), "{what}: at {start_ns} {:?} is not {values:?}", point.values);
            }
        }
    }

    fn check_raw(&self, ledger: &Ledger, id: JobId) {
        let mut expected: Vec<&Sample> = self.samples.iter().collect();
        expected.sort_by_key(|sample| sample.place());
        let series = Series::CpuUsage;
        let mut query = MetricQuery { limit: 70, series: vec![series], ..MetricQuery::default() };
        let mut got = Vec::new();
        loop {
            let page = ledger.metrics(id, &query).unwrap();
            got.extend(page.series[0].1.iter().map(|point| (point.time_ns, point.values.last.unwrap())));
            query.token = page.next_token;
            if query.token.is_empty() {
                break;
            }
        }
        let expected: Vec<(i64, f64)> =
            expected.into_iter().filter_map(|sample| Some((sample.time_ns, sample.value(series)?))).collect();
        assert_eq!(got, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_every_length_is_what_its_samples_say_sealed_or_not_late_or_in_order() {
    let seed = std::env::var("FETCHBOX_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("FETCHBOX_SEED={seed}");
    let mut random = Chance(seed | 1);
    let dir = tempfile::tempdir().unwrap();
    let mut store = opened(dir.path());
    for round in 0..3u8 {
        let id = JobId::from_bytes([round + 1; 16]);
        let job = NamedJob {
            name: JobName::parse(&format!("job-{round}")).unwrap(),
            id,
            job_type: JobType::default(),
            tenant: Tenant::default(),
            now_ms: 5,
        };
        store.store.open_named(vec![job]).await.unwrap();
        let mut run = Run {
            random: Chance(random.next() | 1),
            now_ns: random.time(1_000_000) * 1_000 * MS,
            dense: false,
            counters: [1_000; COUNTERS],
            samples: Vec::new(),
        };
        for _ in 0..25 {
            let count = 1 + random.below(29);
            let records = (0..count).map(|_| {
                let sample = run.sample();
                let (time_ns, data) = (sample.time_ns, encoded(&sample).into());
                let (kind, stream) = (OutputKind::Metric, LogStream::Stdout);
                NewOutput { kind, stream, time_ns, sequence: sample.ordinal, label: None, data }
            });
            let shares = [OutputShare { job: id, expected: None, records: records.collect() }];
            let (tell, told) = tokio::sync::oneshot::channel();
            store.store.append_output(OutputBatch::new(&shares, 9), move |done| tell.send(done).unwrap());
            told.await.unwrap().unwrap();
            if random.once_in(8) {
                // Closing seals what there is.
                drop(store);
                store = opened(dir.path());
            }
            let ledger = Ledger::new(store.reader.clone());
            for _ in 0..2 {
                run.check(&ledger, id);
            }
        }
        run.check_raw(&Ledger::new(store.reader.clone()), id);
        assert!(!store.reader.rollups(id, 3_600, 0, i64::MAX / MS, 9).unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_question_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::new(opened(dir.path()).reader);
    let id = JobId::from_bytes([1; 16]);
    let query = MetricQuery { step_ms: 60_000, ..MetricQuery::default() };
    let token = write_token(&query, (5, 0));
    let refusal = ledger.metrics(id, &MetricQuery { token: token.clone(), ..MetricQuery::default() }).unwrap_err();
    assert_eq!(refusal.violations[0].path, "page_token");
    let refusal = ledger.metrics(id, &MetricQuery { step_ms: 999, ..MetricQuery::default() }).unwrap_err();
    assert_eq!(refusal.violations[0].path, "step_ms");
    assert_eq!(
        ledger.metrics(id, &MetricQuery { token, ..query }).unwrap_err().code,
        crate::model::RefusalCode::NotFound
    );
}
