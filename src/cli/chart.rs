//! A row of blocks that shows how values went.
//!
//! Owns: fitting points into columns and columns into blocks. Must not know: what the values are.

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Points by time, so many at most: beyond, two neighbours become one, and the chart loses nothing it could show.
#[derive(Debug, Clone, Default)]
pub struct Course {
    points: Vec<(i64, f64)>,
    /// Points that one of `points` stands for; 0 and 1 are the same.
    each: u32,
    /// Of the one that is being put together: its time, sum and count.
    open: Option<(i64, f64, u32)>,
}

/// Far more than a terminal has columns.
const POINTS_MAX: usize = 4_096;

impl Course {
    pub fn push(&mut self, time: i64, value: f64) {
        let (first, sum, count) =
            self.open.map_or((time, value, 1), |(first, sum, count)| (first, sum + value, count + 1));
        if count < self.each {
            self.open = Some((first, sum, count));
            return;
        }
        self.open = None;
        self.points.push((first, sum / f64::from(count)));
        if self.points.len() >= POINTS_MAX {
            self.points = self.points.chunks(2).filter_map(merged).collect();
            self.each = self.each.max(1) * 2;
        }
    }

    pub fn span(&self) -> Option<(i64, i64)> {
        let last = self.open.map(|(first, ..)| first).or(self.points.last().map(|point| point.0));
        Some((self.points.first().map(|point| point.0).or(last)?, last?))
    }

    /// `columns` characters from `from` to `until`, both included. A column in which nothing was measured is a gap; the scale goes from
    /// 0, or the lowest value below it, to the highest.
    pub fn chart(&self, from: i64, until: i64, columns: usize) -> String {
        let mut cells = vec![(0.0, 0_u32); columns];
        let span = i128::from(until.saturating_sub(from)).max(1) + 1;
        let open = self.open.map(|(first, sum, count)| (first, sum / f64::from(count)));
        for (time, value) in self.points.iter().copied().chain(open) {
            let at = i128::from(time.saturating_sub(from)) * columns as i128 / span;
            if let Some(cell) = usize::try_from(at).ok().and_then(|at| cells.get_mut(at)) {
                *cell = (cell.0 + value, cell.1 + 1);
            }
        }
        let means: Vec<Option<f64>> =
            cells.iter().map(|(sum, count)| (*count > 0).then(|| sum / f64::from(*count))).collect();
        let low = means.iter().flatten().copied().fold(0.0, f64::min);
        let high = means.iter().flatten().copied().fold(0.0, f64::max);
        means.into_iter().map(|mean| mean.map_or(' ', |value| block(value, low, high))).collect()
    }
}

fn merged(pair: &[(i64, f64)]) -> Option<(i64, f64)> {
    match pair {
        [one, other] => Some((one.0, f64::midpoint(one.1, other.1))),
        [one] => Some(*one),
        _ => None,
    }
}

fn block(value: f64, low: f64, high: f64) -> char {
    let share = if high > low { (value - low) / (high - low) } else { 0.0 };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=7; 0 for what is no number"
    )]
    let at = (share * 7.0).round().clamp(0.0, 7.0) as usize;
    BLOCKS.get(at).copied().unwrap_or(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(points: impl IntoIterator<Item = (i64, f64)>) -> Course {
        let mut course = Course::default();
        points.into_iter().for_each(|(time, value)| course.push(time, value));
        course
    }

    #[test]
    fn a_rise_a_gap_and_a_fall_are_seen() {
        let rise = course([(0, 0.0), (1, 3.5), (2, 7.0), (5, 7.0), (6, 3.5), (7, 0.0)]);
        assert_eq!(rise.span(), Some((0, 7)));
        assert_eq!(rise.chart(0, 7, 8), "▁▅█  █▅▁");
        assert_eq!(course([]).chart(0, 0, 3), "   ");
        assert_eq!(course([]).span(), None);
        assert_eq!(course([(5, 1.0)]).chart(5, 5, 2), "█ ");
    }

    #[test]
    fn any_number_of_points_keeps_its_shape_in_bounded_memory() {
        let long = course((0..1_000_000).map(|at| (at, if at < 500_000 { 0.0 } else { 8.0 })));
        assert!(long.points.len() < POINTS_MAX);
        let (from, until) = long.span().unwrap();
        assert_eq!(long.chart(from, until, 8), "▁▁▁▁████");
    }

    #[test]
    fn what_is_no_number_breaks_nothing() {
        assert_eq!(
            course([(0, f64::NAN), (1, f64::INFINITY), (i64::MAX, -1.0)]).chart(i64::MIN, i64::MAX, 4).chars().count(),
            4
        );
    }
}
