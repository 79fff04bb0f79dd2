//! What of a body an answer of the scriptable origin carries: all of it, the rest from where a client left off, or nothing.
//!
//! Owns: Range, If-Range and If-None-Match, honoured or answered wrongly. Must not know: how an answer is sent.

use super::{Behaviour, Seen};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ranges {
    Right,
    /// 206 with a Content-Range nobody asked for.
    FromTheStart,
}

pub(super) struct Cut {
    pub status: u16,
    pub from: usize,
    pub to: usize,
    /// Lines of the answer's head, each with its end.
    pub headers: String,
}

/// Only `bytes=N-` is known: it is what somebody who goes on asks for.
pub(super) fn cut(behaviour: &Behaviour, seen: &Seen) -> Cut {
    let length = behaviour.body.len();
    let whole = |status| Cut { status, from: 0, to: length, headers: String::new() };
    let Some(etag) = behaviour.etag.as_deref().filter(|_| behaviour.status == 200) else {
        return whole(behaviour.status);
    };
    let tagged = |cut: Cut| Cut { headers: format!("ETag: {etag}\r\n{}", cut.headers), ..cut };
    if seen.header("if-none-match") == Some(etag) {
        return tagged(Cut { status: 304, from: 0, to: 0, headers: String::new() });
    }
    let from = seen.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let same = seen.header("if-range").is_none_or(|version| version == etag && !etag.starts_with("W/"));
    match from.filter(|_| same) {
        None => tagged(whole(200)),
        Some(from) if from >= length => {
            tagged(Cut { status: 416, from: 0, to: 0, headers: format!("Content-Range: bytes */{length}\r\n") })
        }
        Some(from) => {
            let from = if behaviour.ranges == Ranges::Right { from } else { 0 };
            let headers = format!("Content-Range: bytes {from}-{}/{length}\r\n", length - 1);
            tagged(Cut { status: 206, from, to: length, headers })
        }
    }
}

impl Behaviour {
    /// The same with another status, for answers that are no right ones.
    pub fn answers(mut self, status: u16) -> Self {
        self.status = status;
        self
    }
}
