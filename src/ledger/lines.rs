//! Lines put together from the pieces of a stream.
//!
//! Owns: where a line begins and ends, lines that are cut because they are too long. Must not know: blocks, patterns.

/// Bytes of a line that are looked at together. A longer line is looked at in parts of this size.
pub const LINE_BYTES_MAX: usize = 64 << 10;
/// By which such parts overlap: what is shorter is found wherever it stands.
const OVERLAP_BYTES: usize = 4 << 10;

/// A line, or a part of a long one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// The record in which the line begins, and that record's time.
    pub offset: u64,
    pub time_ns: i64,
    /// Without its end.
    pub bytes: &'a [u8],
    /// Another part follows.
    goes_on: bool,
}

impl Line<'_> {
    /// Whether something found at `at` belongs to this part, not to the next one, which begins with the same bytes.
    pub fn owns(&self, at: usize) -> bool {
        !self.goes_on || at < LINE_BYTES_MAX - OVERLAP_BYTES
    }
}

/// One stream's open line.
#[derive(Debug, Default)]
pub struct Joiner {
    bytes: Vec<u8>,
    begin: Option<(u64, i64)>,
    /// Bytes that were given out with the last line.
    spent: usize,
    /// The line that stands here began where nobody looked: it is passed over.
    discard: bool,
}

impl Joiner {
    /// The next line that ends in `data`, from `at` on; `at` moves behind it. None: the rest is kept until more comes.
    pub fn next<'a>(&'a mut self, offset: u64, time_ns: i64, data: &'a [u8], at: &mut usize) -> Option<Line<'a>> {
        self.bytes.drain(..self.spent);
        self.spent = 0;
        let mut rest = data.get(*at..).unwrap_or_default();
        if self.discard {
            let Some(end) = memchr::memchr(b'\n', rest) else {
                *at = data.len();
                return None;
            };
            self.discard = false;
            *at += end + 1;
            rest = data.get(*at..).unwrap_or_default();
        }
        if rest.is_empty() {
            return None;
        }
        let (offset, time_ns) = *self.begin.get_or_insert((offset, time_ns));
        let room = LINE_BYTES_MAX - self.bytes.len();
        let near = rest.get(..=room).unwrap_or(rest);
        if let Some(end) = memchr::memchr(b'\n', near) {
            *at += end + 1;
            self.begin = None;
            let last = rest.get(..end).unwrap_or_default();
            let bytes = if self.bytes.is_empty() {
                last
            } else {
                self.bytes.extend_from_slice(last);
                self.spent = self.bytes.len();
                &self.bytes
            };
            let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
            return Some(Line { offset, time_ns, bytes, goes_on: false });
        }
        let part = near.get(..room).unwrap_or(near);
        self.bytes.extend_from_slice(part);
        *at += part.len();
        if part.len() == rest.len() {
            return None;
        }
        self.spent = LINE_BYTES_MAX - OVERLAP_BYTES;
        Some(Line { offset, time_ns, bytes: &self.bytes, goes_on: true })
    }

    /// The line that has not ended yet, when nothing follows.
    pub fn last(&mut self) -> Option<Line<'_>> {
        self.bytes.drain(..self.spent);
        self.spent = self.bytes.len();
        let (offset, time_ns) = self.begin.take()?;
        (!self.bytes.is_empty()).then_some(Line { offset, time_ns, bytes: &self.bytes, goes_on: false })
    }

    /// Something was passed over, at whose end a line was open or not.
    pub fn lose(&mut self, is_open: bool) {
        self.bytes.clear();
        self.spent = 0;
        self.begin = None;
        self.discard = is_open;
    }

    /// The record in which the open line begins.
    pub fn begins_at(&self) -> Option<u64> {
        self.begin.map(|begin| begin.0)
    }

    pub fn discards(&self) -> bool {
        self.discard
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines_of(pieces: &[&[u8]]) -> Vec<(u64, Vec<u8>)> {
        let (mut joiner, mut lines) = (Joiner::default(), Vec::new());
        for (offset, piece) in (0u64..).zip(pieces) {
            let mut at = 0;
            while let Some(line) = joiner.next(offset, 0, piece, &mut at) {
                lines.push((line.offset, line.bytes.to_vec()));
            }
        }
        lines.extend(joiner.last().map(|line| (line.offset, line.bytes.to_vec())));
        lines
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_were_cut(text in "[ab\n]{0,200}", cuts in prop::collection::vec(0usize..200, 0..8)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let got: Vec<Vec<u8>> = lines_of(&pieces).into_iter().map(|line| line.1).collect();
            let mut expected: Vec<Vec<u8>> = text.split('\n').map(|line| line.as_bytes().to_vec()).collect();
            if expected.last().is_some_and(Vec::is_empty) {
                expected.pop();
            }
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn a_line_begins_in_the_record_that_holds_its_first_byte() {
        let lines = lines_of(&[b"a\nb", b"", b"c", b"d\r\ne"]);
        let told: Vec<(u64, &[u8])> = lines.iter().map(|(at, line)| (*at, line.as_slice())).collect();
        assert_eq!(told, [(0, &b"a"[..]), (0, b"bcd"), (3, b"e")]);
    }

    #[test]
    fn a_line_without_end_is_looked_at_in_parts_that_overlap() {
        let long = vec![b'x'; 200_000];
        let pieces: Vec<&[u8]> = long.chunks(7_000).collect();
        let parts = lines_of(&pieces);
        assert!(parts.iter().all(|(at, part)| *at == 0 && part.len() <= LINE_BYTES_MAX));
        let fresh: usize = parts.iter().map(|(_, part)| part.len() - OVERLAP_BYTES).sum();
        assert_eq!(fresh + OVERLAP_BYTES, long.len());
    }
}
