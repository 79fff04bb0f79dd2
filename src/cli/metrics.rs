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
/// A chart of fewer says nothing.
const CHART_COLUMNS_MIN: usize = 8;
const HEADER: [&str; 5] = ["series", "avg", "min", "max", "last"];
/// Between two columns, as `out::table` has it.
const GAP: usize = 2;
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
        return out.line(if rows.is_empty() { "no samples" } else { "no rates: they need two samples" });
    };
    let cells: Vec<[String; 5]> = rows.iter().map(Row::cells).collect();
    let [series, avg, min, max, last] = HEADER;
    let mut lines = table(HEADER);
    let charted = chart_columns(lines.width(), &cells);
    if charted.is_some() {
        lines = table([series, avg, min, max, last, "course"]);
    }
    for (row, cells) in rows.iter().zip(cells) {
        let chart = charted.map(|columns| row.course.chart(from, until, columns));
        lines.add_row(cells.into_iter().chain(chart));
    }
    out.table(&lines)?;
    let (steps, length) = (words::time(from), words::duration(until.saturating_sub(from).unsigned_abs()));
    out.line(format_args!("{steps} and {length} on, in steps of {}", words::duration(step_ms.unsigned_abs())))
}

/// What a terminal of this width has left for the chart. None: too little.
fn chart_columns(width: Option<u16>, cells: &[[String; 5]]) -> Option<usize> {
    let Some(width) = width else { return Some(CHART_COLUMNS) };
    let header = HEADER.map(str::to_owned);
    let widest = |at: usize| {
        let column = cells.iter().chain([&header]).filter_map(|row| row.get(at));
        column.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let others: usize = (0..HEADER.len()).map(|at| widest(at) + GAP).sum();
    let left = usize::from(width).saturating_sub(others);
    (left >= CHART_COLUMNS_MIN).then_some(left.min(CHART_COLUMNS))
}

/// A series over everything that was asked for. What was not measured is no number.
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
            last: f64::NAN,
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

    fn cells(&self) -> [String; 5] {
        let avg = if self.samples > 0.0 { self.sum / self.samples } else { f64::NAN };
        let [avg, min, max, last] = [avg, self.min, self.max, self.last].map(|value| self.show(value));
        [self.name.clone(), avg, min, max, last]
    }

    fn show(&self, value: f64) -> String {
        if !value.is_finite() {
            return "-".to_owned();
        }
        let per = if self.counter { "/s" } else { "" };
        match self.unit.as_str() {
            "bytes" => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "not negative; what is cut off is less than a byte"
                )]
                let whole = value.abs().round() as u64;
                // Nothing keeps a sender from a negative one.
                let sign = if value < 0.0 && whole > 0 { "-" } else { "" };
                format!("{sign}{}{per}", words::bytes(whole))
            }
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
        assert_eq!(row.show(-1536.0), "-1.5 KiB", "what was sent is shown");
        assert_eq!(row.show(-0.4), "0 B");
    }

    #[test]
    fn a_rate_that_nobody_could_measure_is_not_shown_as_nothing() {
        let series = wire::MetricSeries {
            name: "net_rx_bytes".into(),
            unit: "bytes".into(),
            counter: true,
            ..Default::default()
        };
        let mut row = Row::new(&series);
        row.add(&wire::MetricPoint { time_ms: 0, last: Some(7.0), count: 1, ..Default::default() });
        assert_eq!(row.cells(), ["net_rx_bytes", "-", "-", "-", "-"]);
    }

    #[test]
    fn the_table_fits_the_terminal() {
        let row = ["disk_write_bytes", "1023.9 KiB/s", "0 B/s", "1023.9 KiB/s", "0 B/s"].map(str::to_owned);
        // The other columns take 18 + 14 + 7 + 14 + 7.
        for (width, columns) in
            [(200, Some(32)), (92, Some(32)), (91, Some(31)), (80, Some(20)), (68, Some(8)), (67, None)]
        {
            assert_eq!(chart_columns(Some(width), std::slice::from_ref(&row)), columns, "{width}");
        }
        assert_eq!(chart_columns(None, &[row]), Some(CHART_COLUMNS), "a file or a pipe has no width");
    }
}
