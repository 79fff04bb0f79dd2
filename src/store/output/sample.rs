//! A metric record's data as a sample.
//!
//! Owns: the part of joblet's metric message that the arithmetic needs. Must not know: series' meaning, roll-ups.

use bytes::Bytes;
use prost::Message;

use crate::model::OutputRecord;
use crate::model::series::Sample;

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, optional, tag = "4")]
    data: Option<MetricData>,
}

#[derive(Clone, PartialEq, Message)]
struct MetricData {
    #[prost(double, tag = "1")]
    cpu_usage: f64,
    #[prost(int64, tag = "2")]
    memory_usage: i64,
    #[prost(double, tag = "3")]
    gpu_usage: f64,
    #[prost(message, optional, tag = "4")]
    disk: Option<Four>,
    #[prost(message, optional, tag = "5")]
    network: Option<Four>,
}

/// DiskIO and NetworkIO are alike.
#[derive(Clone, PartialEq, Message)]
struct Four {
    #[prost(int64, tag = "1")]
    a: i64,
    #[prost(int64, tag = "2")]
    b: i64,
    #[prost(int64, tag = "3")]
    c: i64,
    #[prost(int64, tag = "4")]
    d: i64,
}

/// None: not a metric, or one without data. Numbers that are none are left out, counters and times below 0 count as 0.
pub fn sample(record: &OutputRecord) -> Option<Sample> {
    let data = Metric::decode(Bytes::clone(&record.entry.data)).ok()?.data?;
    let finite = |value: f64| Some(value).filter(|value| value.is_finite());
    let counter = |value: i64| u64::try_from(value).unwrap_or(0);
    let four = |of: Option<Four>| match of {
        Some(Four { a, b, c, d }) => [a, b, c, d].map(|value| Some(counter(value))),
        None => [None; 4],
    };
    let ([a, b, c, d], [e, f, g, h]) = (four(data.disk), four(data.network));
    Some(Sample {
        time_ns: time_of(record.entry.time_ns),
        ordinal: record.ordinal,
        gauges: [finite(data.cpu_usage), Some(data.memory_usage as f64), finite(data.gpu_usage)],
        counters: [a, b, c, d, e, f, g, h],
    })
}

/// As samples are placed in time: none before 1970, and something behind each.
pub fn time_of(time_ns: i64) -> i64 {
    time_ns.clamp(0, i64::MAX - 1)
}
