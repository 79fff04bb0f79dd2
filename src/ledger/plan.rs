//! Which blocks of a job a search must read: those that may hold a match by themselves, and those that may share a line that does.
//!
//! Owns: that decision, from heads alone. Must not know: filters (it is told what each block may contain), records, where heads come
//! from.
//!
//! A line may begin in one block and end in another. What a match needs may then be spread over both, or stand across their border. So
//! open lines are carried from head to head, with what the blocks they pass may contain together; a block is passed over only when
//! neither it nor any line through it can match.

use std::collections::VecDeque;

use crate::store::{Edge, Edges};

/// A block as far as the plan must know it.
pub struct Seen<B> {
    pub block: B,
    pub edges: Edges,
    /// What it may contain of what a match needs, a bit each.
    pub has: u32,
    /// It has bytes of a wanted stream, and a line that is asked for may begin in it.
    pub may_begin: bool,
    /// Only a part of it counts: its edges say too little, so that it is read.
    pub is_part: bool,
}

/// A block that was decided about.
pub struct Decided<B> {
    pub block: B,
    pub read: bool,
    /// By stream: whether a line is open behind it; None: it has nothing of the stream.
    pub open_behind: [Option<bool>; 2],
}

/// A line that is open behind the last block.
struct Run {
    /// The block it began in.
    from: u64,
    has: u32,
    edge: Edge,
    may_begin: bool,
}

pub struct Plan<B> {
    all: u32,
    wanted: [bool; 2],
    blocks: VecDeque<Decided<B>>,
    /// Number of the first of them.
    base: u64,
    runs: [Option<Run>; 2],
    closed: bool,
}

impl<B> Plan<B> {
    /// `all`: every bit that a match needs. `wanted`: streams that are searched.
    pub fn new(all: u32, wanted: [bool; 2]) -> Self {
        Self { all, wanted, blocks: VecDeque::new(), base: 0, runs: [None, None], closed: false }
    }

    /// The next block in order. `across` tells what may stand across the border of two of them.
    pub fn add(&mut self, seen: Seen<B>, across: impl Fn(&Edge, &Edge) -> u32) {
        let Seen { block, edges, has, may_begin, is_part } = seen;
        let number = self.base + self.blocks.len() as u64;
        let has = if is_part { self.all } else { has };
        let read = is_part || (may_begin && has == self.all);
        self.blocks.push_back(Decided { block, read, open_behind: [None, None] });
        let mut must_read = Vec::new();
        let streams = self.runs.iter_mut().zip(edges).zip(self.wanted).enumerate();
        for (stream, ((run, edge), _)) in streams.filter(|(_, (_, wanted))| *wanted) {
            let Some(edge) = edge else { continue };
            let mut next = Run { from: number, has, edge, may_begin: may_begin || is_part };
            if let Some(before) = run.take() {
                let joined = before.has | has | across(&before.edge, &next.edge);
                if before.may_begin && (is_part || joined == self.all) {
                    must_read.push(before.from);
                }
                if next.edge.through {
                    next = Run { from: before.from, has: joined, may_begin: before.may_begin, ..next };
                }
            }
            let is_open = !next.edge.tail.is_empty();
            if let Some(open) = self.blocks.back_mut().and_then(|block| block.open_behind.get_mut(stream)) {
                *open = Some(is_open);
            }
            *run = is_open.then_some(next);
        }
        if let Some(from) = must_read.into_iter().min() {
            self.read_from(from);
        }
    }

    /// What is not in a block follows, and is looked through in any case.
    pub fn add_tail(&mut self, edges: &Edges, has: [u32; 2], across: impl Fn(&Edge, &Edge) -> u32) {
        let mut must_read: Option<u64> = None;
        for ((run, edge), has) in self.runs.iter().zip(edges).zip(has) {
            if let (Some(run), Some(edge)) = (run, edge)
                && run.may_begin
                && run.has | has | across(&run.edge, edge) == self.all
            {
                must_read = Some(must_read.map_or(run.from, |from| from.min(run.from)));
            }
        }
        if let Some(from) = must_read {
            self.read_from(from);
        }
        self.close();
    }

    /// Nothing follows.
    pub fn close(&mut self) {
        self.closed = true;
        self.runs = [None, None];
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    fn read_from(&mut self, from: u64) {
        let skip = usize::try_from(from.saturating_sub(self.base)).unwrap_or(usize::MAX);
        for block in self.blocks.iter_mut().skip(skip) {
            block.read = true;
        }
    }

    /// The next block nothing more can change the decision about.
    pub fn next(&mut self) -> Option<Decided<B>> {
        if self.runs.iter().flatten().any(|run| run.from <= self.base) {
            return None;
        }
        let block = self.blocks.pop_front()?;
        self.base += 1;
        Some(block)
    }

    /// The first block that was not taken yet.
    pub fn first(&self) -> Option<&B> {
        self.blocks.front().map(|block| &block.block)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::pattern::Pattern;

    fn edge(block: &[u8]) -> Option<Edge> {
        Edge::of([block].into_iter())
    }

    /// Numbers of the blocks that are read, all in all.
    fn read(pattern: &Pattern, blocks: &[&[u8]], tail: &[u8]) -> Vec<usize> {
        let mut plan = Plan::new(pattern.all(), [true, true]);
        for (at, block) in blocks.iter().enumerate() {
            let has = pattern.needed_in_text(block);
            let seen = Seen { block: at, edges: [edge(block), None], has, may_begin: true, is_part: false };
            plan.add(seen, |a, b| pattern.needed_across(a, b));
        }
        let has = [pattern.needed_in_text(tail), 0];
        plan.add_tail(&[edge(tail), None], has, |a, b| pattern.needed_across(a, b));
        let mut read = Vec::new();
        while let Some(block) = plan.next() {
            if block.read {
                read.push(block.block);
            }
        }
        read
    }

    proptest! {
        #[test]
        fn a_line_that_matches_is_read_whole_however_it_lies_in_blocks(
            text in "[abc\n]{0,120}", cuts in prop::collection::vec(0usize..120, 1..9), word in "[abc]{1,5}", other in "[abc]{1,4}",
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            cuts.dedup();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let Some((tail, blocks)) = pieces.split_last() else { return Ok(()) };
            for regex in [word.clone(), format!("{word}.*{other}"), format!("(?i){word}.?{other}")] {
                let pattern = Pattern::of("", &regex, false).unwrap().remove(0);
                let read = read(&pattern, blocks, tail);
                let mut begin = 0;
                for line in text.split('\n') {
                    let end = begin + line.len();
                    if pattern.is_match(line.as_bytes()) {
                        for (at, pair) in cuts.windows(2).enumerate().take(blocks.len()) {
                            let shares = pair[0] < end && begin < pair[1];
                            prop_assert!(!shares || read.contains(&at), "{regex} block {at} of {pieces:?}, read {read:?}");
                        }
                    }
                    begin = end + 1;
                }
            }
        }
    }

    #[test]
    fn blocks_without_a_part_in_a_match_are_not_read() {
        let pattern = Pattern::of("needle", "", false).unwrap().remove(0);
        let hay: &[u8] = b"hay\nhay and";
        assert_eq!(read(&pattern, &[hay, hay, b"x needle\n", hay, hay], b"more"), [1, 2]);
        assert_eq!(read(&pattern, &[hay, b"nee", b"dle\n", hay, b"ne"], b"edle"), [0, 1, 2, 3, 4]);
        assert_eq!(read(&pattern, &[b"hay\n", b"nee\n", b"dle\n"], b""), [0usize; 0]);
    }
}
