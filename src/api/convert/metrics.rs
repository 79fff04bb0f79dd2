//! QueryMetrics: which metrics are asked for, and their points.
//!
//! Owns: both messages. Must not know: the arithmetic.

use crate::ledger::{MetricPage, MetricQuery};
use crate::model::Refusal;
use crate::model::series::Series;
use crate::proto::fetchbox::v1 as pb;

pub(crate) fn metric_query(request: &pb::QueryMetricsRequest) -> Result<MetricQuery, Refusal> {
    let known = |(at, name): (usize, &String)| {
        let unknown = || {
            let names: Vec<&str> = Series::ALL.into_iter().map(Series::name).collect();
            Refusal::invalid(format!("series[{at}]"), format!("is none of {}", names.join(", ")))
        };
        Series::from_name(name).ok_or_else(unknown)
    };
    Ok(MetricQuery {
        from_ns: request.from_ms.saturating_mul(1_000_000),
        until_ns: request.until_ms.saturating_mul(1_000_000),
        step_ms: request.step_ms,
        series: request.series.iter().enumerate().map(known).collect::<Result<_, _>>()?,
        limit: request.limit,
        token: request.page_token.clone(),
    })
}

/// Which values a point carries; none means all.
pub(crate) fn functions(request: &pb::QueryMetricsRequest) -> Vec<pb::MetricFunction> {
    request.functions().filter(|function| *function != pb::MetricFunction::Unspecified).collect()
}

/// Series without a point are left out.
pub(crate) fn metrics(page: MetricPage, functions: &[pb::MetricFunction]) -> pb::QueryMetricsResponse {
    let wanted = |function, value: Option<f64>| value.filter(|_| functions.is_empty() || functions.contains(&function));
    let series = page.series.into_iter().filter(|(_, points)| !points.is_empty()).map(|(series, points)| {
        let point = |point: crate::ledger::MetricPoint| pb::MetricPoint {
            time_ms: point.time_ns.div_euclid(1_000_000),
            avg: wanted(pb::MetricFunction::Avg, point.values.avg),
            min: wanted(pb::MetricFunction::Min, point.values.min),
            max: wanted(pb::MetricFunction::Max, point.values.max),
            sum: wanted(pb::MetricFunction::Sum, point.values.sum),
            last: wanted(pb::MetricFunction::Last, point.values.last),
            count: point.values.count,
        };
        pb::MetricSeries {
            name: series.name().to_owned(),
            unit: series.unit().to_owned(),
            counter: series.is_counter(),
            points: points.into_iter().map(point).collect(),
        }
    });
    pb::QueryMetricsResponse { series: series.collect(), next_page_token: page.next_token }
}
