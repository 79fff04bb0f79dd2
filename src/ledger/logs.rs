//! Log queries: what a query keeps, one page forward, the last records backward.
//!
//! Owns: the filter and both ways to read. Must not know: where records come from (a closure reads them), following (see `live`).

use super::lists::within;
use super::scan::{EXAMINED_MAX, PAGE_BYTES_MAX, page_rows};
use super::{LogPage, LogQuery};
use crate::model::{LogLevel, LogRecord, LogStream, Refusal, RefusalCode};

/// Records of one read. One may have 64 KiB: this bounds a read to 16 MiB.
pub const READ_ROWS: usize = 256;

/// What a query keeps.
#[derive(Debug, Clone)]
pub struct Filter {
    min_level: LogLevel,
    streams: Vec<LogStream>,
    resource_id: String,
    from_ms: i64,
    until_ms: i64,
    text: String,
}

impl Filter {
    /// UNIMPLEMENTED when only streams are asked for that are not stored.
    pub fn new(query: &LogQuery) -> Result<Self, Refusal> {
        if !query.streams.is_empty() && !query.streams.contains(&LogStream::Job) {
            return Err(Refusal::new(
                RefusalCode::Unimplemented,
                "this version stores the JOB stream only: STDOUT and STDERR cannot be read",
            ));
        }
        Ok(Self {
            min_level: query.min_level,
            streams: query.streams.clone(),
            resource_id: query.resource_id.clone(),
            from_ms: query.from_ms,
            until_ms: query.until_ms,
            text: query.text.clone(),
        })
    }

    pub fn keeps(&self, record: &LogRecord) -> bool {
        record.entry.level >= self.min_level
            && (self.streams.is_empty() || self.streams.contains(&record.stream))
            && (self.resource_id.is_empty() || self.resource_id == record.entry.resource_id)
            && within(record.entry.timestamp_ms, self.from_ms, self.until_ms)
            && (self.text.is_empty() || record.entry.message.contains(&self.text))
    }
}

fn weigh(record: &LogRecord) -> usize {
    let fields = record.entry.fields.iter().map(|(key, value)| key.len() + value.len() + 4);
    128 + record.entry.message.len() + fields.sum::<usize>()
}

/// Up to `limit` kept records from `offset` on. `read(from, rows)` gives up to `rows` records with offsets from `from` on,
/// fewer when there are no more. Stops short after about `examined_max` records.
pub fn forward(
    filter: &Filter,
    offset: u64,
    limit: u32,
    examined_max: usize,
    mut read: impl FnMut(u64, usize) -> Result<Vec<LogRecord>, Refusal>,
) -> Result<LogPage, Refusal> {
    let limit = page_rows(limit);
    let mut page = LogPage { records: Vec::new(), next_offset: offset, end: false };
    let (mut examined, mut bytes) = (0, 0);
    while examined < examined_max {
        let records = read(page.next_offset, READ_ROWS)?;
        let end = records.len() < READ_ROWS;
        for record in records {
            if page.records.len() == limit || bytes >= PAGE_BYTES_MAX {
                return Ok(page);
            }
            page.next_offset = record.offset + 1;
            examined += 1;
            if filter.keeps(&record) {
                bytes += weigh(&record);
                page.records.push(record);
            }
        }
        if end {
            page.end = true;
            return Ok(page);
        }
    }
    Ok(page)
}

/// The last `tail` kept records (at most 1,000) of those below and about `log_count`, in order.
pub fn backward(
    filter: &Filter,
    log_count: u64,
    tail: u32,
    mut read: impl FnMut(u64, usize) -> Result<Vec<LogRecord>, Refusal>,
) -> Result<LogPage, Refusal> {
    let tail = page_rows(tail);
    let mut newest_first: Vec<LogRecord> = Vec::new();
    let (mut examined, mut bytes) = (0, 0);
    let (mut next_offset, mut high) = (log_count, log_count);
    'whole: while high > 0 && examined < EXAMINED_MAX {
        let low = high.saturating_sub(READ_ROWS as u64);
        let rows = usize::try_from(high - low).unwrap_or(READ_ROWS);
        let mut records = read(low, rows)?;
        // Where records below were deleted the read slides up into what was read before.
        let deleted_below = records.first().is_none_or(|record| record.offset > low);
        if high < log_count {
            records.retain(|record| record.offset < high);
        }
        for record in records.into_iter().rev() {
            next_offset = next_offset.max(record.offset + 1);
            examined += 1;
            if filter.keeps(&record) {
                bytes += weigh(&record);
                newest_first.push(record);
                if newest_first.len() == tail || bytes >= PAGE_BYTES_MAX {
                    break 'whole;
                }
            }
        }
        if deleted_below {
            break;
        }
        high = low;
    }
    newest_first.reverse();
    Ok(LogPage { records: newest_first, next_offset, end: true })
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{JobId, NewLog};

    pub fn record(offset: u64) -> LogRecord {
        let level = LogLevel::ALL[usize::try_from(offset % 5).unwrap()];
        let entry = NewLog {
            level,
            message: format!("line {offset}"),
            timestamp_ms: i64::try_from(offset).unwrap() * 10,
            resource_id: format!("r{}", offset % 3),
            ..NewLog::default()
        };
        LogRecord { job: JobId::MIN, offset, stream: LogStream::Job, entry, chunk: Default::default() }
    }

    fn reader(from: u64, to: u64) -> impl FnMut(u64, usize) -> Result<Vec<LogRecord>, Refusal> {
        move |at, rows| Ok((at.max(from)..to).take(rows).map(record).collect())
    }

    fn query() -> LogQuery {
        LogQuery { min_level: LogLevel::Trace, ..LogQuery::default() }
    }

    proptest! {
        #[test]
        fn pages_of_a_log_are_the_whole_log_once(kept_from in 0u64..800, more in 0u64..1_500, limit in 1u32..400, warn: bool) {
            let (from, to) = (kept_from, kept_from + more);
            let min_level = if warn { LogLevel::Warn } else { LogLevel::Trace };
            let filter = Filter::new(&LogQuery { min_level, ..query() }).unwrap();
            let (mut got, mut at) = (Vec::new(), 0);
            loop {
                let page = forward(&filter, at, limit, EXAMINED_MAX, reader(from, to)).unwrap();
                got.extend(page.records.iter().map(|r| r.offset));
                at = page.next_offset;
                if page.end { break }
            }
            let expected: Vec<u64> = (from..to).filter(|o| record(*o).entry.level >= min_level).collect();
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn a_tail_is_the_end_of_what_a_full_read_shows(kept_from in 0u64..800, more in 0u64..1_500, tail in 1u32..700, warn: bool) {
            let (from, to) = (kept_from, kept_from + more);
            let min_level = if warn { LogLevel::Warn } else { LogLevel::Trace };
            let filter = Filter::new(&LogQuery { min_level, ..query() }).unwrap();
            let page = backward(&filter, to, tail, reader(from, to)).unwrap();
            let mut expected: Vec<u64> = (from..to).filter(|o| record(*o).entry.level >= min_level).collect();
            expected.drain(..expected.len().saturating_sub(tail as usize));
            prop_assert_eq!(page.records.iter().map(|r| r.offset).collect::<Vec<_>>(), expected);
            prop_assert_eq!(page.next_offset, to);
        }
    }

    #[test]
    fn text_time_and_resource_narrow_a_log() {
        let got = |query: LogQuery| {
            let page = forward(&Filter::new(&query).unwrap(), 0, 0, EXAMINED_MAX, reader(0, 40)).unwrap();
            page.records.into_iter().map(|r| r.offset).collect::<Vec<_>>()
        };
        assert_eq!(got(LogQuery { text: "line 3".into(), ..query() }), [3, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39]);
        assert_eq!(got(LogQuery { from_ms: 20, until_ms: 50, ..query() }), [2, 3, 4]);
        assert_eq!(got(LogQuery { resource_id: "r1".into(), until_ms: 80, ..query() }), [1, 4, 7]);
    }

    #[test]
    fn a_search_for_what_is_not_there_stops_and_says_where_to_go_on() {
        let filter = Filter::new(&LogQuery { text: "nowhere".into(), ..query() }).unwrap();
        let page = forward(&filter, 0, 10, EXAMINED_MAX, reader(0, 50_000)).unwrap();
        assert!(page.records.is_empty() && !page.end);
        assert!((10_000..11_000).contains(&page.next_offset));
    }

    #[test]
    fn streams_that_are_not_stored_are_refused_instead_of_looking_empty() {
        let only = |streams: Vec<LogStream>| Filter::new(&LogQuery { streams, ..query() });
        assert_eq!(only(vec![LogStream::Stdout, LogStream::Stderr]).unwrap_err().code, RefusalCode::Unimplemented);
        assert!(only(vec![LogStream::Stdout, LogStream::Job]).is_ok());
    }
}
