//! How a stream enters and leaves a block: enough to see, without reading it, whether a line goes on from one block to the next and
//! what text its cut may hide.
//!
//! Owns: both ends of a stream in a block, as a row and in words. Must not know: who looks for what.

use prost::Message;

use crate::model::{LogStream, OutputRecord};

/// Bytes kept of each end: most words one looks for are shorter, and two streams' ends stay below one percent of a block.
pub const EDGE_BYTES: usize = 48;

/// One stream's ends in a run of records. Streams without a byte have none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Edge {
    /// No line ends in it: a line that comes from before goes on behind.
    pub through: bool,
    /// Its first bytes up to the first line's end, at most [`EDGE_BYTES`].
    pub head: Vec<u8>,
    /// The last bytes behind the last line's end, at most [`EDGE_BYTES`]. Empty: no line is open.
    pub tail: Vec<u8>,
}

/// Standard output and standard error.
pub type Edges = [Option<Edge>; 2];

/// Where a stream stands in [`Edges`]; None: it has no lines.
pub fn edge_index(stream: LogStream) -> Option<usize> {
    match stream {
        LogStream::Job => None,
        LogStream::Stdout => Some(0),
        LogStream::Stderr => Some(1),
    }
}

pub fn edges_of(records: &[OutputRecord]) -> Edges {
    [LogStream::Stdout, LogStream::Stderr].map(|stream| {
        let of = records.iter().filter(|record| record.entry.stream == stream);
        Edge::of(of.map(|record| &*record.entry.data))
    })
}

impl Edge {
    /// None: there is not a byte.
    pub fn of<'a>(pieces: impl DoubleEndedIterator<Item = &'a [u8]> + Clone) -> Option<Self> {
        let (mut head, mut through) = (Vec::new(), true);
        let mut any = false;
        for piece in pieces.clone() {
            any |= !piece.is_empty();
            let line = memchr::memchr(b'\n', piece);
            let part = line.and_then(|end| piece.get(..end)).unwrap_or(piece);
            head.extend(part.iter().take(EDGE_BYTES - head.len()));
            if line.is_some() {
                through = false;
                break;
            }
        }
        // From the last byte backwards.
        let mut tail = Vec::new();
        for piece in pieces.rev() {
            let start = memchr::memrchr(b'\n', piece);
            let part = start.and_then(|at| piece.get(at + 1..)).unwrap_or(piece);
            tail.extend(part.iter().rev().take(EDGE_BYTES - tail.len()));
            if start.is_some() || tail.len() == EDGE_BYTES {
                break;
            }
        }
        tail.reverse();
        any.then_some(Self { through, head, tail })
    }

    /// Whether `text` may stand across the border between this run of records and `next`: some of it at the end here, the rest there.
    pub fn may_join(&self, next: &Edge, text: &[u8], ignore_case: bool) -> bool {
        let same = |a: &[u8], b: &[u8]| if ignore_case { a.eq_ignore_ascii_case(b) } else { a == b };
        (1..text.len()).any(|cut| {
            let (left, right) = text.split_at(cut);
            let (have_left, have_right) = (left.len().min(self.tail.len()), right.len().min(next.head.len()));
            // What is not kept may be anything, if there is more than what is kept.
            let left_known = have_left == left.len() || self.tail.len() == EDGE_BYTES || self.through;
            let right_known = have_right == right.len() || next.head.len() == EDGE_BYTES || next.through;
            left_known
                && right_known
                && same(last(left, have_left), last(&self.tail, have_left))
                && same(first(right, have_right), first(&next.head, have_right))
        })
    }
}

fn first(bytes: &[u8], len: usize) -> &[u8] {
    bytes.get(..len).unwrap_or(bytes)
}

fn last(bytes: &[u8], len: usize) -> &[u8] {
    bytes.get(bytes.len().saturating_sub(len)..).unwrap_or(bytes)
}

#[derive(Clone, PartialEq, Message)]
pub struct EdgeRow {
    /// Position in [`Edges`].
    #[prost(uint32, tag = "1")]
    at: u32,
    #[prost(bool, tag = "2")]
    through: bool,
    #[prost(bytes = "vec", tag = "3")]
    head: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    tail: Vec<u8>,
}

pub fn to_rows(edges: &Edges) -> Vec<EdgeRow> {
    let row = |(edge, at): (&Option<Edge>, u32)| {
        let edge = edge.as_ref()?;
        Some(EdgeRow { at, through: edge.through, head: edge.head.clone(), tail: edge.tail.clone() })
    };
    edges.iter().zip(0..).filter_map(row).collect()
}

pub fn from_rows(rows: Vec<EdgeRow>) -> Edges {
    let mut edges = Edges::default();
    for EdgeRow { at, through, head, tail } in rows {
        if let Some(edge) = usize::try_from(at).ok().and_then(|at| edges.get_mut(at)) {
            *edge = Some(Edge { through, head, tail });
        }
    }
    edges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_text_across_a_border_is_never_ruled_out(
            left in "[ab\n]{0,60}", right in "[ab\n]{0,60}", cut in 0usize..40, length in 2usize..100,
        ) {
            let (Some(before), Some(behind)) = (Edge::of([left.as_bytes()].into_iter()), Edge::of([right.as_bytes()].into_iter()))
            else { return Ok(()) };
            let whole = format!("{left}{right}");
            let from = left.len().saturating_sub(cut + 1);
            let text: String = whole.chars().skip(from).take(length).collect();
            if !text.contains('\n') && from + text.len() > left.len() && from < left.len() {
                prop_assert!(before.may_join(&behind, text.as_bytes(), false));
                prop_assert!(before.may_join(&behind, text.to_uppercase().as_bytes(), true));
            }
        }
    }

    #[test]
    fn ends_are_those_of_the_whole_stream_however_it_was_cut() {
        let edge = Edge::of([&b"ab"[..], b"", b"c\nde\nf", b"g"].into_iter()).unwrap();
        assert_eq!((edge.through, &edge.head[..], &edge.tail[..]), (false, &b"abc"[..], &b"fg"[..]));
        let open = Edge::of([&b"ab"[..], b"c"].into_iter()).unwrap();
        assert!(open.through && open.tail == b"abc");
        assert_eq!(Edge::of([&b""[..]].into_iter()), None);
        assert!(!Edge::of([&b"x\n"[..]].into_iter()).unwrap().may_join(&open, b"xa", false));
        assert_eq!(from_rows(to_rows(&[None, Some(edge.clone())])), [None, Some(edge)]);
    }
}
