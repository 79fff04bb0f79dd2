//! Pages and tails of a log in memory, whose older part stands in blocks.

use proptest::prelude::*;

use super::super::tail::Tail;
use super::*;
use crate::model::NewLog;

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

/// Records `from..to`; those below `sealed` in blocks of 64.
#[derive(Clone)]
struct Lines {
    from: u64,
    to: u64,
    sealed: u64,
    stream: LogStream,
}

fn lines(from: u64, to: u64) -> Lines {
    Lines { from, to, sealed: 0, stream: LogStream::Job }
}

impl Records for Lines {
    fn job(&self, _: JobId) -> Result<Option<Job>, Refusal> {
        Ok(None)
    }
    fn readable(&self, _: JobId, log_count: u64) -> u64 {
        log_count.min(self.to)
    }
    fn slice(&self, _: JobId, from: u64, limit: OutputLimit, _: &Filter) -> Result<(LogSlice, usize), Refusal> {
        let all = (from.max(self.from)..self.to).map(|at| LogRecord { stream: self.stream, ..record(at) });
        let records: Vec<LogRecord> = all.take(limit.rows).collect();
        let next = records.last().map_or(self.to.max(from), |last| last.offset + 1);
        Ok((LogSlice { records, next, end: next >= self.to }, 0))
    }
    fn block_before(&self, _: JobId, before: u64, filter: &Filter) -> Result<Option<(u64, u64, bool)>, Refusal> {
        let sealed = self.sealed.min(before);
        let Some(last) = sealed.checked_sub(1).filter(|_| sealed > 0) else { return Ok(None) };
        let first = last / 64 * 64;
        let last = (first + 63).min(self.sealed - 1);
        let wanted = (first..=last).any(|at| filter.keeps(&LogRecord { stream: self.stream, ..record(at) }));
        Ok(Some((first, last, wanted)))
    }
    fn kept_from(&self, _: JobId) -> Result<u64, Refusal> {
        Ok(self.from)
    }
}

fn query() -> LogQuery {
    LogQuery { min_level: LogLevel::Trace, ..LogQuery::default() }
}

/// All pages of a tail.
fn tail_of<R: Records>(source: &R, query: &LogQuery, log_count: u64, tail: u32) -> Vec<u64> {
    let mut rest = Some(Tail::new(&LogQuery { tail, ..query.clone() }).unwrap());
    let mut got = Vec::new();
    while let Some(tail) = rest {
        let (page, left) = tail.page(source, JobId::MIN, log_count).unwrap();
        assert!(page.as_ref().is_none_or(|page| page.end == left.is_none()), "the last page says that it is the last");
        got.extend(page.iter().flat_map(offsets));
        rest = left;
    }
    got
}

fn offsets(page: &LogPage) -> Vec<u64> {
    page.records.iter().map(|record| record.offset).collect()
}

proptest! {
    #[test]
    fn pages_of_a_log_are_the_whole_log_once(kept_from in 0u64..800, more in 0u64..1_500, limit in 1u32..400, warn: bool) {
        let (from, to) = (kept_from, kept_from + more);
        let min_level = if warn { LogLevel::Warn } else { LogLevel::Trace };
        let filter = Filter::new(&LogQuery { min_level, ..query() }).unwrap();
        let (mut got, mut at) = (Vec::new(), 0);
        loop {
            let page = forward(&lines(from, to), JobId::MIN, &filter, at, limit).unwrap();
            got.extend(offsets(&page));
            at = page.next_offset;
            if page.end { break }
        }
        let expected: Vec<u64> = (from..to).filter(|o| record(*o).entry.level >= min_level).collect();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn a_tail_is_the_end_of_what_a_full_read_shows(
        kept_from in 0u64..800, more in 0u64..4_500, tail in 1u32..700, rare in 0u64..40, sealed in 0u64..5_000, output: bool,
        late in 0u64..30,
    ) {
        let (from, to) = (kept_from, kept_from + more);
        let stream = if output { LogStream::Stdout } else { LogStream::Job };
        let query = LogQuery { text: format!("{rare}"), streams: vec![stream], ..query() };
        let source = Lines { sealed: sealed.min(to), stream, ..lines(from, to) };
        // The count was read a moment before the log.
        let end = to.saturating_sub(late).max(from);
        let mut expected: Vec<u64> = (from..end).filter(|o| record(*o).entry.message.contains(&format!("{rare}"))).collect();
        expected.drain(..expected.len().saturating_sub(tail as usize));
        let got = tail_of(&source, &query, end, tail);
        // One that came meanwhile may stand behind a tail that is shorter than was asked for.
        prop_assert!(got.starts_with(&expected) && got.len() <= tail as usize, "{:?} of {:?}", got, expected);
    }
}

#[test]
fn a_tail_does_not_pass_over_what_counts_already_and_cannot_be_read_yet() {
    for text in ["", "line"] {
        let query = LogQuery { text: text.to_owned(), ..query() };
        for pending in [1, 5, 5_000] {
            let got = tail_of(&lines(0, 3_000), &query, 3_000 + pending, 10);
            assert_eq!(got, (2_990..3_000).collect::<Vec<_>>());
        }
    }
}

#[test]
fn text_time_and_resource_narrow_a_log() {
    let got =
        |query: LogQuery| offsets(&forward(&lines(0, 40), JobId::MIN, &Filter::new(&query).unwrap(), 0, 0).unwrap());
    assert_eq!(got(LogQuery { text: "line 3".into(), ..query() }), [3, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39]);
    assert_eq!(got(LogQuery { text: "LINE 39".into(), ignore_case: true, ..query() }), [39]);
    assert_eq!(got(LogQuery { regex: "^line .?7$".into(), ..query() }), [7, 17, 27, 37]);
    assert_eq!(got(LogQuery { from_ms: 20, until_ms: 50, ..query() }), [2, 3, 4]);
    assert_eq!(got(LogQuery { resource_id: "r1".into(), until_ms: 80, ..query() }), [1, 4, 7]);
    assert_eq!(got(LogQuery { streams: vec![LogStream::Stderr], ..query() }), [0u64; 0]);
    assert_eq!(got(LogQuery { offset: u64::MAX, from_ms: -5, until_ms: -1, ..query() }), [0u64; 0]);
}

#[test]
fn a_search_for_what_is_not_there_stops_and_says_where_to_go_on() {
    let filter = Filter::new(&LogQuery { text: "nowhere".into(), ..query() }).unwrap();
    let page = forward(&lines(0, 500_000), JobId::MIN, &filter, 0, 10).unwrap();
    assert!(page.records.is_empty() && !page.end);
    assert!((100_000..110_000).contains(&page.next_offset), "{}", page.next_offset);
}

#[test]
fn a_rare_line_far_from_the_end_is_the_tail_all_the_same() {
    for (text, expected) in [("line 17$", vec![17]), ("nowhere", vec![])] {
        for sealed in [0, 400_000] {
            let query = LogQuery { regex: text.into(), streams: vec![LogStream::Stdout], ..query() };
            let source = Lines { sealed, stream: LogStream::Stdout, ..lines(0, 500_000) };
            assert_eq!(tail_of(&source, &query, 500_000, 1), expected, "{text}");
        }
    }
}

/// Each record weighs three megabytes.
#[derive(Clone)]
struct Heavy;

impl Records for Heavy {
    fn job(&self, _: JobId) -> Result<Option<Job>, Refusal> {
        Ok(None)
    }
    fn readable(&self, _: JobId, log_count: u64) -> u64 {
        log_count
    }
    fn slice(&self, _: JobId, from: u64, _: OutputLimit, _: &Filter) -> Result<(LogSlice, usize), Refusal> {
        let chunk = bytes::Bytes::from(vec![b'x'; 3 << 20]);
        let records = (from..5)
            .take(1)
            .map(|at| LogRecord { chunk: chunk.clone(), stream: LogStream::Stdout, ..record(at) })
            .collect();
        Ok((LogSlice { records, next: (from + 1).min(5), end: from >= 4 }, 0))
    }
    fn block_before(&self, _: JobId, _: u64, _: &Filter) -> Result<Option<(u64, u64, bool)>, Refusal> {
        Ok(None)
    }
    fn kept_from(&self, _: JobId) -> Result<u64, Refusal> {
        Ok(0)
    }
}

#[test]
fn a_record_larger_than_a_page_comes_alone() {
    let filter = Filter::new(&query()).unwrap();
    let page = forward(&Heavy, JobId::MIN, &filter, 2, 100).unwrap();
    assert_eq!((offsets(&page), page.next_offset), (vec![2], 3));
    assert_eq!(tail_of(&Heavy, &query(), 5, 3), [2, 3, 4], "a tail of heavy records is as long as any");
}
