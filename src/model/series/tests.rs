//! The arithmetic of series against a second one that is written as the definition reads.
use proptest::prelude::*;

use super::*;

/// The definition, word by word, over all samples of one series at once. What lies outside of `span` counts only as the sample before.
pub fn naive(samples: &[Sample], series: Series, step_ns: i64, span: std::ops::Range<i64>) -> Vec<(i64, Values)> {
    let mut all: Vec<(i64, u64, f64)> =
        samples.iter().filter_map(|s| Some((s.time_ns, s.ordinal, s.value(series)?))).collect();
    all.sort_by_key(|(time, ordinal, _)| (*time, *ordinal));
    let step_of = |time: i64| time.div_euclid(step_ns) * step_ns;
    let within = |time: &i64| span.contains(time);
    let mut starts: Vec<i64> = all.iter().filter(|(time, ..)| within(time)).map(|(time, ..)| step_of(*time)).collect();
    starts.dedup();
    let mut last_of_times: Vec<(i64, f64)> = Vec::new();
    for (time, _, value) in &all {
        last_of_times.retain(|(known, _)| known != time);
        last_of_times.push((*time, *value));
    }
    let mut answer = Vec::new();
    for start in starts {
        let inside: Vec<f64> =
            all.iter().filter(|(time, ..)| within(time) && step_of(*time) == start).map(|(.., v)| *v).collect();
        let count = inside.len() as u64;
        let least = |values: &[f64]| values.iter().copied().reduce(f64::min);
        let most = |values: &[f64]| values.iter().copied().reduce(f64::max);
        if !series.is_counter() {
            let sum: f64 = inside.iter().sum();
            let avg = Some(sum / count as f64);
            let (min, max, last) = (least(&inside), most(&inside), inside.last().copied());
            answer.push((start, Values { avg, min, max, sum: Some(sum), last, count }));
            continue;
        }
        let (mut rates, mut increase, mut covered) = (Vec::new(), 0.0, 0);
        for pair in last_of_times.windows(2) {
            let ((t0, v0), (t1, v1)) = (pair[0], pair[1]);
            if within(&t1) && step_of(t1) == start {
                let grown = if v1 >= v0 { v1 - v0 } else { v1 };
                increase += grown;
                covered += t1 - t0;
                rates.push(grown / ((t1 - t0) as f64 / 1e9));
            }
        }
        let known = !rates.is_empty();
        answer.push((
            start,
            Values {
                avg: known.then(|| increase / (covered as f64 / 1e9)),
                min: least(&rates),
                max: most(&rates),
                sum: known.then_some(increase),
                last: rates.last().copied(),
                count,
            },
        ));
    }
    answer
}

pub fn close(a: &Values, b: &Values) -> bool {
    let near = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-300),
        _ => false,
    };
    a.count == b.count
        && near(a.avg, b.avg)
        && near(a.min, b.min)
        && near(a.max, b.max)
        && near(a.sum, b.sum)
        && near(a.last, b.last)
}

/// Times collide, counters begin anew, values are missing.
pub fn any_samples(most: usize) -> impl Strategy<Value = Vec<Sample>> {
    let one = (0i64..400, prop::option::weighted(0.9, 0.0f64..8.0), prop::option::weighted(0.8, 0u64..5_000));
    prop::collection::vec(one, 0..most).prop_map(|rows| {
        let sample = |(at, (time, gauge, counter)): (usize, (i64, Option<f64>, Option<u64>))| Sample {
            time_ns: time * 250_000_000,
            ordinal: at as u64,
            gauges: [gauge, Some(at as f64), None],
            counters: [counter; COUNTERS],
        };
        rows.into_iter().enumerate().map(sample).collect()
    })
}

proptest! {
    #[test]
    fn a_step_says_what_its_definition_says_however_samples_came_and_were_joined(
        samples in any_samples(120), step in 1i64..40, cut in 1i64..6,
    ) {
        let step_ns = step * 1_000_000_000;
        let mut sorted = samples.clone();
        sorted.sort_by_key(Sample::place);
        // Joined in pieces of cut-th parts of a step, as roll-ups are.
        let piece_of = |s: &Sample| (s.time_ns.div_euclid(step_ns), s.time_ns.rem_euclid(step_ns) * cut / step_ns);
        let mut steps = Steps::new(step_ns, [None; COUNTERS]);
        let mut got = Vec::new();
        for piece in sorted.chunk_by(|a, b| piece_of(a) == piece_of(b)) {
            got.extend(steps.push(&Summary::of_all(piece).unwrap()));
        }
        got.extend(steps.finish());
        for series in Series::ALL {
            let expected = naive(&samples, series, step_ns, 0..i64::MAX);
            let values: Vec<(i64, Values)> =
                got.iter().filter_map(|step| Some((step.start_ns, step.values(series)?))).collect();
            prop_assert_eq!(values.len(), expected.len());
            for (a, b) in values.iter().zip(&expected) {
                prop_assert!(a.0 == b.0 && close(&a.1, &b.1), "{:?}: {:?} is not {:?}", series, a, b);
            }
        }
    }
}

#[test]
fn a_counter_that_restarts_is_never_a_negative_rate() {
    let sample = |second: i64, value| Sample {
        time_ns: second * 1_000_000_000,
        counters: [Some(value); COUNTERS],
        ..Sample::default()
    };
    let whole = Summary::of_all(&[sample(1, 100), sample(3, 160), sample(4, 7), sample(4, 9)]).unwrap();
    let mut steps = Steps::new(10_000_000_000, [None; COUNTERS]);
    assert_eq!(steps.push(&whole), None);
    let values = steps.finish().unwrap().values(Series::NetRxBytes).unwrap();
    let expected =
        Values { avg: Some(23.0), min: Some(9.0), max: Some(30.0), sum: Some(69.0), last: Some(9.0), count: 4 };
    assert_eq!(values, expected);
}

#[test]
fn names_are_found_again() {
    for series in Series::ALL {
        assert_eq!(Series::from_name(series.name()), Some(series));
    }
    assert_eq!(Series::ALL.into_iter().filter(|series| series.is_counter()).count(), COUNTERS);
}
