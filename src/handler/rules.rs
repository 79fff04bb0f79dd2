//! What a URL, a header, a key or a name may look like: one set of rules for what clients send, what operators configure
//! and what handlers plan.
//!
//! Owns: the rules, as pure functions that say in a few words what is wrong. Must not know: where a value came from, what
//! its path is called.

use crate::model::{HEADER_BYTES_MAX, HEADERS_MAX, RESOURCE_ID_BYTES_MAX, URL_BYTES_MAX};

/// What S3 (1,024) leaves after a margin for the names that clean-up and staging put around a key.
pub const KEY_BYTES_MAX: usize = 900;
/// What common file systems take as one name: the embedded store keeps one folder per segment.
pub const KEY_SEGMENT_BYTES_MAX: usize = 255;
/// What S3 takes as the user metadata of one object.
pub const OBJECT_METADATA_BYTES_MAX: usize = 2_048;
/// Headers of one job type's settings.
pub const TYPE_HEADERS_MAX: usize = 54;
/// Headers of one task: the client's, the job type's, and one that the handler adds by itself, as the gallery's Referer. Common
/// servers take a hundred, and some are the downloader's own.
pub const TASK_HEADERS_MAX: usize = HEADERS_MAX + TYPE_HEADERS_MAX + 1;

/// The part a fault is in, and what it is.
type Fault = Option<&'static str>;

/// `[A-Za-z0-9][A-Za-z0-9._@+=-]{0,127}`
pub fn resource_id_fault(id: &str) -> Fault {
    let bytes = id.as_bytes();
    match bytes.first() {
        None => Some("is missing"),
        Some(_) if bytes.len() > RESOURCE_ID_BYTES_MAX => Some("is longer than 128 bytes"),
        Some(first) if !first.is_ascii_alphanumeric() => Some("must start with a letter or a digit"),
        Some(_) if !bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._@+=-".contains(b)) => {
            Some("may only contain letters, digits and . _ @ + = -")
        }
        Some(_) => None,
    }
}

/// http or https with a host, no user info, nothing that two parsers could read differently.
pub fn url_fault(url: &str) -> Fault {
    if url.is_empty() {
        return Some("is missing");
    }
    if url.len() > URL_BYTES_MAX {
        return Some("is longer than 8192 bytes");
    }
    if has_blank_or_control(url) {
        return Some("contains white space or control characters");
    }
    let Some(rest) = strip_scheme(url, "https://").or_else(|| strip_scheme(url, "http://")) else {
        return Some("must start with http:// or https://");
    };
    // Browsers read a backslash as a slash, other parsers do not: the host would depend on who looks.
    if url.contains('\\') {
        return Some("contains a backslash; write %5C");
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Some("contains user info; send an Authorization header instead");
    }
    if authority.is_empty() || authority.starts_with(':') {
        return Some("has no host");
    }
    match url::Url::parse(url) {
        // Nothing can be connected to there: told now, and not when the job fails.
        Ok(parsed) if parsed.port() == Some(0) => Some("has port 0"),
        Ok(parsed) if parsed.has_host() => None,
        Ok(_) => Some("has no host"),
        Err(_) => Some("is not a valid URL"),
    }
}

fn strip_scheme<'a>(url: &'a str, scheme: &str) -> Option<&'a str> {
    let head = url.get(..scheme.len())?;
    head.eq_ignore_ascii_case(scheme).then(|| &url[scheme.len()..])
}

fn has_blank_or_control(text: &str) -> bool {
    if text.is_ascii() {
        return text.bytes().any(|b| b <= b' ' || b == 0x7f);
    }
    text.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// Anything but printable text: line breaks included.
pub fn has_control(text: &str) -> bool {
    if text.is_ascii() {
        return text.bytes().any(|b| b < b' ' || b == 0x7f);
    }
    text.chars().any(char::is_control)
}

/// A header's length is judged with its name: name and value together.
pub fn header_name_fault(name: &str) -> Fault {
    if name.is_empty() {
        return Some("is missing");
    }
    if name.len() > HEADER_BYTES_MAX {
        return Some("is longer than 1024 bytes");
    }
    if !is_token(name) {
        return Some("is not an HTTP token");
    }
    RESERVED.iter().find(|(reserved, _)| name.eq_ignore_ascii_case(reserved)).map(|(_, fault)| *fault)
}

macro_rules! reserved {
    ($($name:literal),* $(,)?) => {
        &[$(($name, concat!("cannot be ", $name, ": the downloader sets it itself"))),*]
    };
}

/// Headers that frame the message, belong to one hop, or decide what bytes come back, each with what is said to who brings it.
/// The worker leaves them out of what it sends, so one that passed here would be lost without a word.
const RESERVED: &[(&str, &str)] = reserved![
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "accept-encoding",
    "range",
    "if-range",
    "if-none-match",
    "if-modified-since",
    "if-match",
    "if-unmodified-since",
    "http2-settings",
];

pub fn header_value_fault(name: &str, value: &str) -> Fault {
    if name.len() + value.len() > HEADER_BYTES_MAX {
        return Some("is longer than 1024 bytes, name included");
    }
    if !value.bytes().all(|b| (b' '..=b'~').contains(&b) || b == b'\t') {
        return Some("may only contain visible ASCII, spaces and tabs");
    }
    None
}

/// RFC 9110 token: header names, media types, metadata names.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// `type/subtype`, parameters allowed behind a semicolon.
pub fn mime_fault(mime: &str) -> Fault {
    if mime.len() > 255 {
        return Some("is longer than 255 bytes");
    }
    let (essence, parameters) = mime.split_once(';').unwrap_or((mime, ""));
    let fits = essence.trim_end_matches(' ').split_once('/').is_some_and(|(kind, sub)| is_token(kind) && is_token(sub));
    if fits && parameters.bytes().all(|b| (b' '..=b'~').contains(&b)) { None } else { Some("must be type/subtype") }
}

/// A relative key, or a prefix without its trailing slash. `{job_id}` and `{job_type}` may stand in it.
pub fn key_fault(key: &str) -> Fault {
    if key.is_empty() {
        return Some("is empty");
    }
    if key.len() > KEY_BYTES_MAX {
        return Some("is longer than 900 bytes");
    }
    if key.starts_with('/') {
        return Some("must be relative");
    }
    if key.starts_with('.') {
        return Some("must not start with a dot");
    }
    if has_control(key) || key.contains('\\') {
        return Some("contains control characters or a backslash");
    }
    if key.contains(['{', '}']) && key.replace("{job_id}", "").replace("{job_type}", "").contains(['{', '}']) {
        return Some("knows no other placeholders than {job_id} and {job_type}");
    }
    key.split('/').find_map(segment_fault)
}

fn segment_fault(segment: &str) -> Fault {
    match segment {
        "" => Some("has an empty segment"),
        "." | ".." => Some("has a . or .. segment"),
        long if long.len() > KEY_SEGMENT_BYTES_MAX => Some("has a segment longer than 255 bytes"),
        encoded if hides_a_path(encoded) => Some("has a percent-encoded path in a segment"),
        _ => None,
    }
}

/// Whether somebody who decodes the segment, even several times over, would see a separator, a dot segment or a control
/// character.
fn hides_a_path(segment: &str) -> bool {
    let mut bytes = segment.as_bytes().to_vec();
    // Each round shortens the text by two bytes for each escape, so this ends.
    while bytes.contains(&b'%') {
        let decoded = percent_decode(&bytes);
        if decoded.len() == bytes.len() {
            return false;
        }
        bytes = decoded;
        let text = bytes.as_slice();
        if text == b"." || text == b".." || text.iter().any(|b| *b < b' ' || *b == 0x7f || *b == b'/' || *b == b'\\') {
            return true;
        }
    }
    false
}

fn percent_decode(bytes: &[u8]) -> Vec<u8> {
    let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (*byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

/// What S3 and folders both take: 3 to 63 of `[a-z0-9.-]`, a letter or digit at both ends, no two dots in a row.
pub fn bucket_fault(bucket: &str) -> Fault {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = bucket.as_bytes();
    let fits = (3..=63).contains(&bytes.len())
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|b| plain(b) || b".-".contains(b))
        && !bucket.contains("..");
    if fits { None } else { Some("is not a bucket name: 3 to 63 of a-z 0-9 . - with a letter or digit at both ends") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_two_parsers_read_differently_is_refused() {
        let fine = [
            "http://example.org",
            "HTTPS://example.org:8443/a%20b?q=a@b#c",
            "http://[::1]:80/",
            "http://münchen.de/ä",
            "http://127.0.0.1/x",
        ];
        for url in fine {
            assert_eq!(url_fault(url), None, "{url}");
        }
        let wrong = [
            "",
            "ftp://example.org/",
            "file:///etc/passwd",
            "gopher://example.org/",
            "//example.org/",
            "http:example.org",
            "http:///example.org",
            "http://",
            "http://:80/",
            "http://?x",
            "http://user:secret@example.org/",
            "http://user@example.org/",
            "http://@example.org/",
            "http://example.org\\@evil.example/",
            "http:\\\\example.org/",
            "http://exa mple.org/",
            "http://example.org/a\nb",
            "http://example.org/a\tb",
            " http://example.org/",
            "http://example.org/\u{0}",
            "http://example.org/\u{7f}",
            "http://example.org/\u{2028}",
            "http://example.org:99999/",
            "http://example.org:0/",
            "https://[::1]:000/",
            "http://[::1/",
            "é",
        ];
        for url in wrong {
            assert!(url_fault(url).is_some(), "{url:?}");
        }
        assert!(url_fault(&format!("http://example.org/{}", "a".repeat(URL_BYTES_MAX))).is_some());
    }

    #[test]
    fn a_header_cannot_smuggle_a_second_one() {
        assert_eq!(header_value_fault("X-A", "plain\tvalue ~"), None);
        for value in ["a\r\nHost: evil", "a\nb", "a\rb", "a\0b", "ä", "\u{7f}"] {
            assert!(header_value_fault("X-A", value).is_some(), "{value:?}");
        }
        for name in
            ["", "X A", "X:A", "X\r\nY", "Ä", "Host", "HOST", "Transfer-Encoding", "content-length", "TE", "Range"]
        {
            assert!(header_name_fault(name).is_some(), "{name:?}");
        }
        assert_eq!(header_name_fault("Authorization"), None);
        let conditional = header_name_fault("If-None-Match").unwrap();
        assert!(conditional.contains("if-none-match"), "{conditional}: it is told which one");
        assert!(header_value_fault("X-A", &"a".repeat(1_022)).is_some());
        assert_eq!(header_value_fault("X-A", &"a".repeat(1_021)), None);
    }

    #[test]
    fn a_key_cannot_leave_its_bucket() {
        for key in ["a", "a/b.json", "galleries/{job_id}/x", "100%/x", "ä/ö", "a..b", "{job_type}/{job_id}", "a/.b"] {
            assert_eq!(key_fault(key), None, "{key}");
        }
        let wrong = [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "../a",
            "a/../b",
            "a/./b",
            ".staging/a",
            "a\\b",
            "a\0b",
            "a\nb",
            "%2e%2e/a",
            "a/%2E%2E/b",
            "a/%2e./b",
            "a/%252e%252e/b",
            "a%2fb",
            "a%5cb",
            "a%00b",
            "{job}/a",
            "a{",
            "a}b",
        ];
        for key in wrong {
            assert!(key_fault(key).is_some(), "{key:?}");
        }
        assert!(key_fault(&"a/".repeat(500)).is_some());
        assert!(key_fault(&"a".repeat(256)).is_some());
    }

    #[test]
    fn an_id_that_is_a_path_is_refused() {
        for id in ["a", "A-1_2.jpg", "a@b+c=d", &"x".repeat(128)] {
            assert_eq!(resource_id_fault(id), None, "{id}");
        }
        for id in ["", ".", "..", "../x", "a/b", "-a", "a b", "a\0", "ä", "a%2fb", &"x".repeat(129)] {
            assert!(resource_id_fault(id).is_some(), "{id:?}");
        }
    }

    #[test]
    fn media_types_and_buckets_have_their_usual_form() {
        for mime in ["image/png", "text/html; charset=utf-8", "application/vnd.api+json"] {
            assert_eq!(mime_fault(mime), None, "{mime}");
        }
        for mime in ["image", "image/", "/png", "a b/c", "a/b\r\n", "a/b/c", "text/html;\u{1}"] {
            assert!(mime_fault(mime).is_some(), "{mime:?}");
        }
        for bucket in ["", "ab", "A-b", "a..b", "-ab", "a/b", ".staging", "../x"] {
            assert!(bucket_fault(bucket).is_some(), "{bucket:?}");
        }
        assert_eq!(bucket_fault("fetchbox"), None);
    }
}
