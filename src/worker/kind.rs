//! What kind of content a body is: what its origin says, what the manifest says, what its first bytes say.

/// Longer ones are noise.
const TYPE_BYTES_MAX: usize = 255;
pub(super) const UNKNOWN: &str = "application/octet-stream";
/// How much of a body is looked at.
pub(super) const SNIFF_BYTES: usize = 8 * 1024;

/// The type to store: declared, else hinted, else seen, else unknown.
pub(super) fn content_type(declared: Option<&str>, hint: Option<&str>, seen: Option<&str>) -> String {
    let known = declared.and_then(sanitised).or_else(|| hint.and_then(sanitised));
    known.or_else(|| seen.map(str::to_owned)).unwrap_or_else(|| UNKNOWN.to_owned())
}

/// What the first bytes look like.
pub(super) fn seen(first: &[u8]) -> Option<&'static str> {
    infer::get(first.get(..SNIFF_BYTES).unwrap_or(first)).map(|kind| kind.mime_type())
}

/// `type/subtype` with its parameters, nothing else; the types that say nothing are none.
fn sanitised(text: &str) -> Option<String> {
    let text = text.trim();
    let (essence, parameters) = text.split_once(';').map_or((text, None), |(essence, rest)| (essence, Some(rest)));
    let (kind, subtype) = essence.trim().split_once('/')?;
    let token =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b));
    if text.len() > TYPE_BYTES_MAX || !token(kind) || !token(subtype) {
        return None;
    }
    let essence = format!("{kind}/{subtype}").to_ascii_lowercase();
    if essence == UNKNOWN || essence == "binary/octet-stream" {
        return None;
    }
    match parameters.map(str::trim) {
        Some(rest) if !rest.is_empty() && rest.bytes().all(|b| (b' '..=b'~').contains(&b)) => {
            Some(format!("{essence}; {rest}"))
        }
        _ => Some(essence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_witness_names_the_type() {
        assert_eq!(content_type(Some("Text/HTML; charset=utf-8"), Some("image/png"), None), "text/html; charset=utf-8");
        assert_eq!(content_type(Some("application/octet-stream"), Some("image/png"), Some("image/gif")), "image/png");
        assert_eq!(content_type(Some("nonsense"), None, Some("image/gif")), "image/gif");
        assert_eq!(content_type(Some("a/b\r\nx: y"), None, None), UNKNOWN);
        assert_eq!(content_type(None, None, None), UNKNOWN);
        assert_eq!(seen(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), Some("image/png"));
        assert_eq!(seen(b""), None);
    }
}
