//! Whose fault it is that a request through a proxy failed.
//!
//! Owns: that decision, pure. Must not know: what follows from it.

use std::error::Error as StdError;
use std::fmt::Write as _;

use super::endpoint::Endpoint;
use super::pools::Heard;
use crate::model::FailureCode;

/// Between us and the proxy: nobody else has a part in these. The client library keeps the types of its tunnels' errors to
/// itself, so their texts are what there is; a test meets each of them.
const ITS_OWN: [&str; 9] = [
    "tunnel error: failed to create underlying connection",
    "tunnel error: proxy authorization required",
    "tunnel error: proxy response headers too long",
    "SOCKS error: failed to create underlying connection",
    "SOCKS error: failed parsing server response",
    // One that cannot reach the origin says so; one that hangs up in between does not speak the protocol.
    "SOCKS error: io error during SOCKS handshake",
    "SOCKS error: server does not support user/pass authentication",
    "SOCKS error: server implements authentication incorrectly",
    "SOCKS error: credentials not accepted",
];

/// A request that got no answer. `text`: the whole chain of causes; `code`: what it would mean without a proxy. None: the proxy
/// has no part in it.
pub(super) fn of_error(
    text: &str,
    is_connect: bool,
    code: FailureCode,
    endpoint: &Endpoint,
    is_https: bool,
) -> Option<Heard> {
    let decided_here = matches!(
        code,
        FailureCode::DownloadNoHost
            | FailureCode::DownloadDns
            | FailureCode::DownloadBlockedAddress
            | FailureCode::DownloadBadUrl
    );
    if decided_here {
        return None;
    }
    of_text(text, is_connect, endpoint.forwards() && !is_https, is_https)
}

/// `is_forwarded`: the proxy itself reads the request and answers it.
fn of_text(text: &str, is_connect: bool, is_forwarded: bool, is_https: bool) -> Option<Heard> {
    match is_connect {
        true if is_forwarded || ITS_OWN.iter().any(|own| text.contains(own)) => Some(Heard::Broken),
        // It would not or could not open a tunnel, or what is at the other end is not who it should be.
        true => Some(Heard::Doubtful),
        // What came through TLS came from the origin.
        false if is_https => None,
        false => Some(Heard::Doubtful),
    }
}

/// An answer that may be the proxy's own refusal to serve us. An origin behind it can forge every header of one, so it is never
/// held against the proxy alone; a refusal to open a tunnel is an error, and nobody else's.
pub(super) fn may_refuse(status: u16, endpoint: &Endpoint, is_https: bool) -> bool {
    status == 407 && endpoint.forwards() && !is_https
}

/// Any other answer. None: it tells nothing yet, because the body is still to come.
pub(super) fn of_answer(status: u16, endpoint: &Endpoint, is_https: bool) -> Option<Heard> {
    match status {
        // A proxy that cannot reach an origin says the same as an origin whose own backend is down.
        502..=504 if endpoint.forwards() && !is_https => Some(Heard::Doubtful),
        200..=299 => None,
        _ => Some(Heard::Well),
    }
}

/// The chain of causes in one line.
pub(super) fn text_of(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _ = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_us_and_the_proxy_is_its_fault_and_the_rest_is_in_doubt() {
        let connect = |text: &str, is_https: bool| of_text(text, true, !is_https, is_https).unwrap();
        assert_eq!(connect("tcp connect error: Connection refused", false), Heard::Broken);
        assert_eq!(connect("x: tunnel error: proxy authorization required", true), Heard::Broken);
        assert_eq!(connect("x: tunnel error: unsuccessful", true), Heard::Doubtful);
        assert_eq!(connect("invalid peer certificate: UnknownIssuer", true), Heard::Doubtful);
        assert_eq!(connect("operation timed out", true), Heard::Doubtful);
        let socks = |text: &str| of_text(&format!("SOCKS error: {text}"), true, false, false).unwrap();
        assert_eq!(socks("credentials not accepted"), Heard::Broken);
        assert_eq!(socks("io error during SOCKS handshake"), Heard::Broken);
        assert_eq!(socks("host unreachable"), Heard::Doubtful);
        assert_eq!(of_text("connection closed before message completed", false, true, false), Some(Heard::Doubtful));
        assert_eq!(of_text("invalid HTTP version parsed", false, false, true), None);
    }

    #[test]
    fn an_origins_answer_through_a_tunnel_is_the_origins() {
        let (http, socks) = (Endpoint::parse("http://p").unwrap(), Endpoint::parse("socks5h://p").unwrap());
        assert!(may_refuse(407, &http, false) && !may_refuse(407, &http, true) && !may_refuse(407, &socks, false));
        assert!(!may_refuse(403, &http, false));
        assert_eq!(of_answer(502, &http, false), Some(Heard::Doubtful));
        for (status, endpoint, is_https) in
            [(407, &http, true), (502, &http, true), (407, &socks, false), (404, &http, false)]
        {
            assert_eq!(of_answer(status, endpoint, is_https), Some(Heard::Well));
        }
        assert_eq!(of_answer(200, &http, false), None);
    }
}
