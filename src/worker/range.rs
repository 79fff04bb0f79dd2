//! Going on where a body broke off, and leaving out what has not changed: what is asked with, and what an answer to it is worth.
//!
//! Owns: pure decisions about Range, If-Range, Content-Range and validators. Must not know: sockets, tasks.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::Validators;

/// Longer validators are none: they are kept in rows and sent back.
const VALIDATOR_BYTES_MAX: usize = 1024;

/// Where a body that is there in part goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resume {
    /// Bytes that are there, from the start without gaps.
    pub(super) offset: u64,
    /// Of the version they are from; a weak one resumes nothing.
    pub(super) etag: String,
    /// The whole body's length, if it was told.
    pub(super) total: Option<u64>,
    /// What the redirects of the answer it is from ended at, where that is known (`Target::digest`).
    pub(super) landed: Option<[u8; 32]>,
}

/// What a 206 that may be joined to what is there brings. Where the whole ends is always known: the end of a range says nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// One past its last byte, in the whole body.
    pub(super) end: u64,
    pub(super) total: u64,
}

impl Resume {
    /// Whether there is something to go on from, and the right to.
    pub(super) fn is_usable(&self) -> bool {
        let own = Validators { etag: self.etag.clone(), ..Validators::default() };
        self.offset > 0 && own.strong_etag().is_some() && HeaderValue::from_str(&self.etag).is_ok()
    }

    /// `Err` says why the answer must not be joined to what is there.
    pub(super) fn continued_by(&self, headers: &HeaderMap) -> Result<Span, String> {
        let etag = validators(headers).etag;
        if etag != self.etag {
            return Err("another version came".into());
        }
        let mut ranges = headers.get_all(header::CONTENT_RANGE).iter();
        let (Some(range), None) = (ranges.next(), ranges.next()) else {
            return Err("not one Content-Range came".into());
        };
        let (first, last, told) =
            range.to_str().ok().and_then(content_range).ok_or("its Content-Range cannot be understood")?;
        if first != self.offset {
            return Err(format!("it begins at byte {first} instead of {}", self.offset));
        }
        let total = match (told, self.total) {
            (Some(told), Some(known)) if told != known => return Err(format!("{known} bytes became {told}")),
            (told, known) => told.or(known).ok_or("nobody says where the whole ends")?,
        };
        let end = last.checked_add(1).filter(|end| *end <= total);
        let end = end.ok_or("it goes on beyond the body's end")?;
        match length(headers) {
            Some(length) if length != end - first => Err(format!("{} bytes were said to be {length}", end - first)),
            _ => Ok(Span { end, total }),
        }
    }
}

/// The headers that ask for the rest of a version, or for nothing if the version is still `unless`.
pub(super) fn conditions(from: Option<&Resume>, unless: Option<&Validators>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut put = |name: HeaderName, text: &str| {
        if let (false, Ok(value)) = (text.is_empty(), HeaderValue::from_str(text)) {
            headers.insert(name, value);
        }
    };
    if let Some(from) = from {
        put(header::RANGE, &format!("bytes={}-", from.offset));
        put(header::IF_RANGE, &from.etag);
    }
    if let Some(unless) = unless {
        put(header::IF_NONE_MATCH, &unless.etag);
        put(header::IF_MODIFIED_SINCE, &unless.last_modified);
    }
    headers
}

pub(super) fn validators(headers: &HeaderMap) -> Validators {
    let text = |name| {
        let value = headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::trim);
        value.filter(|text| text.len() <= VALIDATOR_BYTES_MAX).unwrap_or_default().to_owned()
    };
    Validators { etag: text(header::ETAG), last_modified: text(header::LAST_MODIFIED) }
}

/// Whether the origin says that it has no ranges. Many that have them do not say so.
pub(super) fn refuses_ranges(headers: &HeaderMap) -> bool {
    let value = headers.get(header::ACCEPT_RANGES).and_then(|value| value.to_str().ok());
    value.is_some_and(|text| text.trim().eq_ignore_ascii_case("none"))
}

pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|value| digits(value.to_str().ok()?.trim()))
}

/// `bytes 5-9/10` or `bytes 5-9/*`: first, last, total.
fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (unit, rest) = text.trim().split_once(' ')?;
    let (range, total) = rest.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (digits(first)?, digits(last)?);
    let total = if total == "*" { None } else { Some(digits(total)?) };
    let holds = unit.eq_ignore_ascii_case("bytes") && first <= last && total.is_none_or(|total| last < total);
    holds.then_some((first, last, total))
}

/// Without the sign that `parse` would take.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(offset: u64, total: Option<u64>) -> Resume {
        Resume { offset, etag: "\"v1\"".into(), total, landed: None }
    }

    fn answer(etag: &'static str, range: &'static str, length: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [(header::ETAG, etag), (header::CONTENT_RANGE, range), (header::CONTENT_LENGTH, length)] {
            if !value.is_empty() {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
        headers
    }

    #[test]
    fn only_the_rest_of_the_same_version_is_joined() {
        let span = |etag, range, length| from(5, Some(10)).continued_by(&answer(etag, range, length));
        assert_eq!(span("\"v1\"", "bytes 5-9/10", "5"), Ok(Span { end: 10, total: 10 }));
        assert_eq!(span("\"v1\"", "bytes 5-9/*", ""), Ok(Span { end: 10, total: 10 }));
        assert_eq!(span("\"v1\"", "Bytes 5-6/10", "2"), Ok(Span { end: 7, total: 10 }), "less is fine");
        let first_told = |range| from(5, None).continued_by(&answer("\"v1\"", range, ""));
        assert_eq!(first_told("bytes 5-9/10"), Ok(Span { end: 10, total: 10 }));
        assert!(first_told("bytes 5-9/*").is_err(), "the end of a range is not the end of the body");
        for (etag, range, length) in [
            ("\"v2\"", "bytes 5-9/10", "5"),
            ("W/\"v1\"", "bytes 5-9/10", "5"),
            ("", "bytes 5-9/10", "5"),
            ("\"v1\"", "", "5"),
            ("\"v1\"", "bytes 0-9/10", "10"),
            ("\"v1\"", "bytes 4-9/10", "6"),
            ("\"v1\"", "bytes 6-9/10", "4"),
            ("\"v1\"", "bytes 5-9/11", "5"),
            ("\"v1\"", "bytes 5-10/*", "6"),
            ("\"v1\"", "bytes 5-9/10", "6"),
            ("\"v1\"", "bytes 9-5/10", ""),
            ("\"v1\"", "bytes 5-10/10", ""),
            ("\"v1\"", "bytes */10", ""),
            ("\"v1\"", "bytes +5-9/10", "5"),
            ("\"v1\"", "bytes 5-18446744073709551615/*", ""),
            ("\"v1\"", "items 5-9/10", "5"),
            ("\"v1\"", "5-9/10", "5"),
        ] {
            assert!(span(etag, range, length).is_err(), "{etag} {range} {length}");
        }
        let mut twice = answer("\"v1\"", "bytes 5-9/10", "5");
        twice.append(header::CONTENT_RANGE, HeaderValue::from_static("bytes 5-9/10"));
        assert!(from(5, Some(10)).continued_by(&twice).is_err());
    }

    #[test]
    fn nothing_is_resumed_without_a_strong_tag() {
        let usable = |offset, etag: &str| Resume { offset, etag: etag.into(), total: None, landed: None }.is_usable();
        assert!(usable(1, "\"v1\""));
        assert!(!usable(0, "\"v1\"") && !usable(1, "W/\"v1\"") && !usable(1, "") && !usable(1, "\"\""));
        assert!(!usable(1, "\"a\nb\""));
    }

    #[test]
    fn a_question_says_what_is_there_and_nothing_else() {
        let unless = Validators { etag: "W/\"a\"".into(), last_modified: String::new() };
        let asked = conditions(Some(&from(7, None)), Some(&unless));
        assert_eq!(asked.len(), 3);
        assert!(asked["range"] == "bytes=7-" && asked["if-range"] == "\"v1\"");
        assert_eq!(asked["if-none-match"], "W/\"a\"");
        assert!(conditions(None, None).is_empty());
        assert!(conditions(None, Some(&Validators { etag: "a\r\nb: c".into(), ..unless })).is_empty());
    }
}
