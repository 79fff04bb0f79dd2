//! Where the last records that pass begin: looked for from the log's end backward, a part at a time.
//!
//! Owns: the search, which keeps offsets and no records, so that neither heavy records nor rare ones make a tail shorter. Must not
//! know: pages, following.

use std::collections::VecDeque;
use std::ops::Range;

use super::logs::{Budget, EXAMINED_MAX, Filter, Records, SLICE, forward, read};
use super::scan::page_rows;
use super::{LogPage, LogQuery};
use crate::model::{JobId, LogStream, Refusal};

/// Records of the first step back; each further step is twice as long.
const STEP_BACK: u64 = 1_024;

/// A search that can be left at any time and gone on with.
#[derive(Debug)]
pub struct TailSearch {
    want: usize,
    step: u64,
    /// Kept records from `high` on, the last `want` at most.
    found: VecDeque<u64>,
    /// Everything from here on was looked at, to where the log ended when the search began. None: it has not begun.
    looked: Option<Range<u64>>,
    part: Option<Part>,
}

/// The stretch below `high` that is looked at now.
#[derive(Debug)]
struct Part {
    low: u64,
    /// Looked at from `low` to here.
    at: u64,
    found: VecDeque<u64>,
}

impl TailSearch {
    /// For the last `tail` records, at most 1,000.
    pub fn new(tail: u32) -> Self {
        let want = page_rows(tail);
        Self { want, step: STEP_BACK.max(want as u64), found: VecDeque::new(), looked: None, part: None }
    }

    /// Looks a while longer, at a job that has `log_count` records. `Some`: the tail begins there.
    pub fn go_on<R: Records>(
        &mut self,
        source: &R,
        id: JobId,
        filter: &Filter,
        log_count: u64,
    ) -> Result<Option<u64>, Refusal> {
        let floor = source.kept_from(id)?;
        let begin = || {
            let end = source.readable(id, log_count);
            end..end
        };
        let Range { start: mut high, end } = self.looked.take().unwrap_or_else(begin);
        if filter.keeps_all() {
            return Ok(Some(end.saturating_sub(self.want as u64).max(floor)));
        }
        let mut budget = Budget::new(EXAMINED_MAX);
        while !budget.is_spent() {
            let is_over = self.found.len() >= self.want || (self.part.is_none() && high <= floor);
            if is_over {
                return Ok(Some(self.found.front().copied().unwrap_or(end)));
            }
            high = self.look(source, id, filter, floor..high, &mut budget)?;
        }
        self.looked = Some(high..end);
        Ok(None)
    }

    /// One slice of the present part, or a block that holds nothing of it. Returns from where on everything was looked at.
    fn look<R: Records>(
        &mut self,
        source: &R,
        id: JobId,
        filter: &Filter,
        Range { start: floor, end: high }: Range<u64>,
        budget: &mut Budget,
    ) -> Result<u64, Refusal> {
        let mut part = match self.part.take() {
            Some(part) => part,
            None => {
                let before = source.block_before(id, high, filter)?;
                if let Some((first, last, false)) = before
                    && last.saturating_add(1) >= high
                    && !filter.has_stream(LogStream::Job)
                {
                    budget.passed_over(1);
                    return Ok(first);
                }
                let low = high.saturating_sub(self.step).max(floor);
                self.step = self.step.saturating_mul(2);
                // From a block's beginning: it is unpacked as a whole.
                let block = source.block_before(id, low.saturating_add(1), filter)?;
                let low = block.filter(|(_, last, _)| *last >= low).map_or(low, |(first, ..)| first.max(floor));
                Part { low, at: low, found: VecDeque::new() }
            }
        };
        let rows = usize::try_from(high.saturating_sub(part.at)).unwrap_or(SLICE.rows);
        let kept = read(source, id, filter, part.at, rows, budget)?;
        let want = self.want - self.found.len();
        for record in kept.records.iter().filter(|record| record.offset < high) {
            part.found.push_back(record.offset);
            if part.found.len() > want {
                part.found.pop_front();
            }
        }
        part.at = part.at.max(kept.next);
        if part.at < high && !kept.end {
            self.part = Some(part);
            return Ok(high);
        }
        part.found.append(&mut self.found);
        self.found = part.found;
        Ok(part.low)
    }
}

/// A tail that is given page by page.
#[derive(Debug)]
pub struct Tail {
    filter: Filter,
    search: Option<TailSearch>,
    next: u64,
    left: usize,
}

impl Tail {
    /// # Errors
    /// INVALID_PAYLOAD for patterns that cannot be used.
    pub fn new(query: &LogQuery) -> Result<Self, Refusal> {
        let search = TailSearch::new(query.tail);
        Ok(Self { filter: Filter::new(query)?, left: search.want, search: Some(search), next: 0 })
    }

    /// The next page, if it is found already, and what is left; the last page is the `end`.
    pub fn page<R: Records>(
        mut self,
        source: &R,
        id: JobId,
        log_count: u64,
    ) -> Result<(Option<LogPage>, Option<Self>), Refusal> {
        if let Some(search) = &mut self.search {
            match search.go_on(source, id, &self.filter, log_count)? {
                Some(start) => (self.search, self.next) = (None, start),
                None => return Ok((None, Some(self))),
            }
        }
        let mut page = forward(source, id, &self.filter, self.next, u32::try_from(self.left).unwrap_or(u32::MAX))?;
        self.next = page.next_offset;
        self.left = self.left.saturating_sub(page.records.len());
        page.end |= self.left == 0;
        let rest = (!page.end).then_some(self);
        Ok((Some(page), rest))
    }
}
