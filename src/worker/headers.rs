//! Which of a manifest's headers are sent, and to whom.
//!
//! Owns: pure decisions about request headers. Must not know: URLs, sockets.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::model::Header;

/// What intake refuses already, once more for what came before it did. Ours alone: framing, connection handling, and what would make the body something other than the whole resource as it is.
const RESERVED: [&str; 21] = [
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

/// What may follow a redirect to another origin. Everything else could be a credential under a name nobody knows.
const HARMLESS: [&str; 6] = ["accept", "accept-language", "cache-control", "pragma", "referer", "user-agent"];

/// The headers of the first request. Reserved ones are left out; `Err` names one that cannot be sent.
pub(super) fn outgoing(wanted: &[Header], user_agent: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for Header { name, value } in wanted {
        let parsed =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} cannot be a header's name"))?;
        let value = HeaderValue::from_str(value).map_err(|_| format!("the value of header {name} cannot be sent"))?;
        if !RESERVED.contains(&parsed.as_str()) {
            headers.append(parsed, value);
        }
    }
    // Checked with the options; without a user agent a request still is one.
    if let (false, Ok(value)) = (headers.contains_key(header::USER_AGENT), HeaderValue::from_str(user_agent)) {
        headers.insert(header::USER_AGENT, value);
    }
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Ok(headers)
}

/// What is left of them for another origin.
pub(super) fn across_origins(headers: &HeaderMap) -> HeaderMap {
    let stays = |name: &HeaderName| HARMLESS.contains(&name.as_str()) || name == header::ACCEPT_ENCODING;
    headers.iter().filter(|(name, _)| stays(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The coding in which a body came that nobody here undoes. None: what comes is the resource itself, or chunks of it.
pub(super) fn coding(headers: &HeaderMap) -> Option<&HeaderValue> {
    let content = headers.get_all(header::CONTENT_ENCODING).iter().find(|coding| !is_made_of(coding, &["identity"]));
    let transfer = headers.get_all(header::TRANSFER_ENCODING).iter();
    content.or(transfer.into_iter().find(|coding| !is_made_of(coding, &["identity", "chunked"])))
}

fn is_made_of(codings: &HeaderValue, plain: &[&str]) -> bool {
    let is_plain = |part: &str| part.is_empty() || plain.iter().any(|plain| part.eq_ignore_ascii_case(plain));
    codings.to_str().is_ok_and(|text| text.split(',').map(str::trim).all(is_plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: &str) -> Header {
        Header { name: name.into(), value: value.into() }
    }

    #[test]
    fn credentials_stay_with_the_origin_they_were_given_for() {
        let wanted = [
            header("Authorization", "Bearer x"),
            header("Cookie", "a=b"),
            header("X-Api-Key", "k"),
            header("Private-Token", "t"),
            header("Referer", "https://gallery.example/"),
            header("Accept-Language", "de"),
        ];
        let first = outgoing(&wanted, "fetchbox/1").unwrap();
        assert_eq!(first.len(), 8);
        let mut left: Vec<String> = across_origins(&first).keys().map(ToString::to_string).collect();
        left.sort();
        assert_eq!(left, ["accept-encoding", "accept-language", "referer", "user-agent"]);
    }

    #[test]
    fn a_manifest_cannot_change_what_a_request_is() {
        let wanted = [
            header("Host", "inner"),
            header("Accept-Encoding", "gzip"),
            header("Range", "bytes=0-1"),
            header("Transfer-Encoding", "chunked"),
            header("User-Agent", "mine"),
        ];
        let sent = outgoing(&wanted, "fetchbox/1").unwrap();
        assert_eq!(sent.len(), 2);
        assert_eq!(sent["accept-encoding"], "identity");
        assert_eq!(sent["user-agent"], "mine");
        assert!(outgoing(&[header("a b", "x")], "").is_err());
        let error = outgoing(&[header("x", "secret\r\ninjected: 1")], "").unwrap_err();
        assert!(!error.contains("secret"));
    }

    /// Else a manifest's header is accepted and never sent, and nobody is told.
    #[test]
    fn what_is_left_out_is_what_intake_refuses() {
        let rules = include_str!("../handler/rules.rs");
        let (_, list) = rules.split_once("= reserved![").unwrap();
        let refused: Vec<&str> = list.split_once("];").unwrap().0.split('"').skip(1).step_by(2).collect();
        assert_eq!(refused, RESERVED);
    }

    #[test]
    fn only_what_nobody_coded_is_the_resource_itself() {
        let is_plain = |name: http::HeaderName, text: &'static str| {
            coding(&HeaderMap::from_iter([(name, HeaderValue::from_static(text))])).is_none()
        };
        for text in ["identity", "", "Identity"] {
            assert!(is_plain(header::CONTENT_ENCODING, text) && is_plain(header::TRANSFER_ENCODING, text), "{text}");
        }
        for text in ["gzip", "identity, br", "gzip, chunked"] {
            assert!(!is_plain(header::CONTENT_ENCODING, text) && !is_plain(header::TRANSFER_ENCODING, text), "{text}");
        }
        assert!(is_plain(header::TRANSFER_ENCODING, "Chunked") && !is_plain(header::CONTENT_ENCODING, "chunked"));
    }
}
