//! One page out of a long index.
//!
//! Owns: how many rows a page may look at, hold and weigh, and where the next one begins. Must not know: what the rows are.

use crate::model::Refusal;

/// Rows one page looks at, kept or not: what a request may cost whatever it filters for.
pub const EXAMINED_MAX: usize = 10_000;
/// Rows of one read: a few milliseconds of work.
pub const READ_ROWS_MAX: usize = 1_000;
/// About what a page may weigh: with room to spare under the 4 MiB that gRPC clients take by default.
pub const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
const PAGE_ROWS_DEFAULT: u32 = 100;
const PAGE_ROWS_MAX: u32 = 1_000;

/// A page's rows: 0 means 100, more than 1,000 are cut to that.
pub fn page_rows(size: u32) -> usize {
    let size = if size == 0 { PAGE_ROWS_DEFAULT } else { size.min(PAGE_ROWS_MAX) };
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    Keep,
    Skip,
    /// Neither this row nor any behind it.
    Stop,
}

impl From<bool> for Take {
    fn from(keep: bool) -> Self {
        if keep { Take::Keep } else { Take::Skip }
    }
}

/// An index to page through.
pub trait Rows {
    type Row;
    type Cursor: Clone;

    /// Up to `rows` rows behind `cursor`. Fewer mean that there are no more.
    fn read(&self, cursor: &Self::Cursor, rows: usize) -> Result<Vec<Self::Row>, Refusal>;
    fn cursor_of(&self, row: &Self::Row) -> Self::Cursor;
    fn take(&self, row: &Self::Row) -> Take;
    /// About the bytes the row adds to an answer.
    fn weigh(&self, row: &Self::Row) -> usize;
}

/// A page's rows, and where to go on.
pub type Scanned<R> = (Vec<<R as Rows>::Row>, Option<<R as Rows>::Cursor>);

/// Up to `size` rows behind `cursor`, and where to go on: None at the end.
pub fn scan<R: Rows>(rows: &R, size: usize, cursor: R::Cursor) -> Result<Scanned<R>, Refusal> {
    let mut cursor = cursor;
    let (mut kept, mut bytes, mut examined) = (Vec::new(), 0, 0);
    let mut chunk = 1;
    while examined < EXAMINED_MAX {
        // One more than is needed shows whether anything stands behind the page.
        let want = (size - kept.len() + 1).max(chunk).min(READ_ROWS_MAX).min(EXAMINED_MAX - examined);
        let read = rows.read(&cursor, want)?;
        let end = read.len() < want;
        for row in read {
            let take = rows.take(&row);
            let full = kept.len() == size || bytes >= PAGE_BYTES_MAX;
            match take {
                Take::Stop => return Ok((kept, None)),
                Take::Keep | Take::Skip if full => return Ok((kept, Some(cursor))),
                Take::Skip => cursor = rows.cursor_of(&row),
                Take::Keep => {
                    cursor = rows.cursor_of(&row);
                    bytes += rows.weigh(&row);
                    kept.push(row);
                }
            }
            examined += 1;
        }
        if end {
            return Ok((kept, None));
        }
        // Most rows are skipped: read in strides.
        chunk = READ_ROWS_MAX;
    }
    Ok((kept, Some(cursor)))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    struct Numbers {
        rows: Vec<u32>,
        keep_every: u32,
        weight: usize,
        read_most: Cell<usize>,
    }

    impl Rows for Numbers {
        type Row = u32;
        type Cursor = u32;
        fn read(&self, cursor: &u32, rows: usize) -> Result<Vec<u32>, Refusal> {
            self.read_most.set(self.read_most.get().max(rows));
            Ok(self.rows.iter().copied().filter(|row| row > cursor).take(rows).collect())
        }
        fn cursor_of(&self, row: &u32) -> u32 {
            *row
        }
        fn take(&self, row: &u32) -> Take {
            row.is_multiple_of(self.keep_every).into()
        }
        fn weigh(&self, _: &u32) -> usize {
            self.weight
        }
    }

    fn numbers(up_to: u32, keep_every: u32, weight: usize) -> Numbers {
        Numbers { rows: (1..=up_to).collect(), keep_every, weight, read_most: Cell::new(0) }
    }

    fn all_pages(rows: &Numbers, size: usize) -> (Vec<u32>, usize) {
        let (mut got, mut pages, mut cursor) = (Vec::new(), 0, 0);
        loop {
            let (page, next) = scan(rows, size, cursor).unwrap();
            assert!(page.len() <= size);
            got.extend(page);
            pages += 1;
            match next {
                Some(next) => cursor = next,
                None => return (got, pages),
            }
        }
    }

    proptest! {
        #[test]
        fn pages_together_are_the_whole_list_once(up_to in 0u32..3_000, keep in 1u32..40, size in 1usize..300, weight in 0usize..100_000) {
            let rows = numbers(up_to, keep, weight);
            let (got, _) = all_pages(&rows, size);
            let expected: Vec<u32> = (1..=up_to).filter(|row| row % keep == 0).collect();
            prop_assert_eq!(got, expected);
            prop_assert!(rows.read_most.get() <= READ_ROWS_MAX);
        }
    }

    #[test]
    fn a_full_last_page_has_no_token() {
        assert_eq!(all_pages(&numbers(1_000, 1, 0), 1_000), ((1..=1_000).collect(), 1));
        assert_eq!(scan(&numbers(100, 1, 0), 100, 0).unwrap().1, None);
        assert_eq!(scan(&numbers(101, 1, 0), 100, 0).unwrap().1, Some(100));
    }

    #[test]
    fn a_filter_that_matches_nothing_answers_after_ten_thousand_rows() {
        let (page, next) = scan(&numbers(25_000, 1_000_000, 0), 10, 0).unwrap();
        assert_eq!((page.len(), next), (0, Some(10_000)));
    }

    #[test]
    fn a_page_of_heavy_rows_is_short_but_never_empty() {
        let (page, next) = scan(&numbers(10, 1, 3 * PAGE_BYTES_MAX), 10, 0).unwrap();
        assert_eq!((page, next), (vec![1], Some(1)));
    }

    #[test]
    fn a_page_size_has_a_default_and_a_cap() {
        assert_eq!((page_rows(0), page_rows(7), page_rows(5_000)), (100, 7, 1_000));
    }
}
