//! `metrics`: what a job used, as numbers and as a chart.
//!
//! Owns: folding a job's steps into one row per series. Must not know: how steps are computed.

use super::args::Global;
use super::args_output::Metrics;
use super::chart::Course;
use super::exit::{Exit, Failure, Result};
use super::out::{Out, table};
use super::{connect, now_ms, wire, words};

const CHART_COLUMNS: usize = 32;
/// Points of each series in one answer.
const PAGE: u32 = 5_000;

pub async fn run(global: &Global, args: Metrics, out: Out) -> Result {
    if args.step < 1_000 {
        return Err(Failure::new(Exit::Usage, "--step: at least 1s"));
    }
    let client = connect::grpc(global).await?;
    let mut request = wire::QueryMetricsRequest {
        job_id: args.id,
        from_ms: args.since.map_or(0, |age_ms| now_ms().saturating_sub(age_ms).max(1)),
        step_ms: args.step,
        series: args.series,
        limit: PAGE,
        ..Default::default()
    };
    let mut rows: Vec<Row> = Vec::new();
    loop {
        let answer = client.query_metrics(request.clone()).await.map_err(connect::refused)?;
        for series in &answer.series {
            if out.is_json() {
                out.json(series)?;
                continue;
            }
            let at = rows.iter().position(|row| row.name == series.name).unwrap_or_else(|| {
                rows.push(Row::new(series));
                rows.len() - 1
            });
            if let Some(row) = rows.get_mut(at) {
                series.points.iter().for_each(|point| row.add(point));
            }
        }
        if answer.next_page_token.is_empty() {
            break;
        }
        request.page_token = answer.next_page_token;
    }
    if out.is_json() { Ok(()) } else { print(&rows, args.step, out) }
}

fn print(rows: &[Row], step_ms: i64, out: Out) -> Result {
    let spans = rows.iter().filter_map(|row| row.course.span());
    let Some((from, until)) = spans.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1))) else {
        return out.line("no samples");
    };
    let mut lines = table(["series", "avg", "min", "max", "last", "course"]);
    for row in rows {
        let avg = if row.samples > 0.0 { row.sum / row.samples } else { 0.0 };
        let chart = row.course.chart(from, until, CHART_COLUMNS);
        let values = [avg, row.min, row.max, row.last].map(|value| row.show(value));
        let [avg, min, max, last] = values;
        lines.add_row([row.name.clone(), avg, min, max, last, chart]);
    }
    out.table(&lines)?;
    let (steps, length) = (words::time(from), words::duration(until.saturating_sub(from).unsigned_abs()));
    out.line(format_args!("{steps} and {length} on, in steps of {}", words::duration(step_ms.unsigned_abs())))
}

/// A series over everything that was asked for.
struct Row {
    name: String,
    unit: String,
    counter: bool,
    sum: f64,
    samples: f64,
    min: f64,
    max: f64,
    last: f64,
    course: Course,
}

impl Row {
    fn new(series: &wire::MetricSeries) -> Self {
        Self {
            name: words::tame(&series.name),
            unit: series.unit.clone(),
            counter: series.counter,
            sum: 0.0,
            samples: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            last: 0.0,
            course: Course::default(),
        }
    }

    /// The mean is that of the samples: a step with many counts as many times.
    fn add(&mut self, point: &wire::MetricPoint) {
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 samples")]
        let samples = point.count.max(1) as f64;
        if let Some(avg) = point.avg {
            self.sum += avg * samples;
            self.samples += samples;
            self.course.push(point.time_ms, avg);
        }
        self.min = point.min.map_or(self.min, |min| self.min.min(min));
        self.max = point.max.map_or(self.max, |max| self.max.max(max));
        // A counter's reading says nothing beside rates.
        let last = if self.counter { point.avg } else { point.last };
        self.last = last.unwrap_or(self.last);
    }

    fn show(&self, value: f64) -> String {
        if !value.is_finite() {
            return "-".to_owned();
        }
        let per = if self.counter { "/s" } else { "" };
        match self.unit.as_str() {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "sizes are not negative, and what is cut off is less than a byte"
            )]
            "bytes" => format!("{}{per}", words::bytes(value.round() as u64)),
            "ratio" => format!("{:.1} %", value * 100.0),
            "operations" | "packets" => format!("{value:.1}{per}"),
            _ => format!("{value:.2}{per}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(time_ms: i64, avg: f64, min: f64, max: f64, count: u64) -> wire::MetricPoint {
        let (avg, min, max) = (Some(avg), Some(min), Some(max));
        wire::MetricPoint { time_ms, avg, min, max, sum: None, last: max, count }
    }

    #[test]
    fn the_mean_is_that_of_all_samples_and_the_extremes_are_kept() {
        let series = wire::MetricSeries { name: "memory_usage".into(), unit: "bytes".into(), ..Default::default() };
        let mut row = Row::new(&series);
        row.add(&point(0, 1024.0, 512.0, 2048.0, 3));
        row.add(&point(10_000, 5120.0, 5120.0, 5120.0, 1));
        assert_eq!(row.show(row.sum / row.samples), "2.0 KiB");
        assert_eq!(
            (row.show(row.min), row.show(row.max), row.show(row.last)),
            ("512 B".into(), "5.0 KiB".into(), "5.0 KiB".into())
        );
        assert_eq!(row.show(f64::NEG_INFINITY), "-");
    }
}
