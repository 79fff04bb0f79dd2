//! A URL we are willing to fetch, and where a redirect may lead.
//!
//! Owns: pure decisions about URLs. Must not know: sockets, headers' values, names' addresses.

use std::net::IpAddr;

use sha2::{Digest as _, Sha256};
use url::{Host, Url};

use crate::model::URL_BYTES_MAX;

/// An http or https URL with a host and without user info, in the one spelling the connection will use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    url: Url,
}

/// Why a hop is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BadHop {
    /// No URL that can be fetched.
    Url(String),
    /// From https to http.
    Downgrade,
}

impl Target {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > URL_BYTES_MAX {
            return Err(format!("the URL is longer than {URL_BYTES_MAX} bytes"));
        }
        Self::from_url(Url::parse(text).map_err(|error| format!("not a URL: {error}"))?)
    }

    fn from_url(mut url: Url) -> Result<Self, String> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("scheme {} is not http or https", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the URL carries a user name or password".into());
        }
        if url.host_str().is_none_or(|host| host.trim_end_matches('.').is_empty()) {
            return Err("the URL has no host".into());
        }
        if url.port() == Some(0) {
            return Err("port 0 is none".into());
        }
        url.set_fragment(None);
        Ok(Self { url })
    }

    /// Where `location` leads from here.
    pub(super) fn redirected(&self, location: &str) -> Result<Self, BadHop> {
        if location.len() > URL_BYTES_MAX {
            return Err(BadHop::Url(format!("a redirect longer than {URL_BYTES_MAX} bytes")));
        }
        let url = self.url.join(location).map_err(|error| BadHop::Url(format!("a redirect to no URL: {error}")))?;
        let next = Self::from_url(url).map_err(BadHop::Url)?;
        if self.url.scheme() == "https" && next.url.scheme() == "http" {
            return Err(BadHop::Downgrade);
        }
        Ok(next)
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// The address, when the host is one and not a name.
    pub(super) fn literal(&self) -> Option<IpAddr> {
        match self.url.host()? {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        }
    }

    /// The host as the connection will look it up; empty for none.
    pub(super) fn name(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// `host:port` in lower case, without a trailing dot.
    pub(super) fn host_port(&self) -> String {
        let host = self.url.host_str().unwrap_or_default().trim_end_matches('.');
        format!("{host}:{}", self.url.port_or_known_default().unwrap_or_default())
    }

    /// Whether headers meant for `other` may be shown here.
    pub(super) fn same_origin(&self, other: &Target) -> bool {
        self.url.origin() == other.url.origin()
    }

    /// Tells this URL from every other one without keeping it: queries may hold credentials.
    pub(super) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.url.as_str()).into()
    }

    /// The same but for the query, where signatures and their times stand.
    pub(super) fn same_resource(&self, other: &Target) -> bool {
        self.same_origin(other) && self.url.path() == other.url.path()
    }

    /// Where the rules for this origin stand.
    pub(super) fn robots_txt(&self) -> Target {
        let mut url = self.url.clone();
        url.set_path("/robots.txt");
        url.set_query(None);
        Target { url }
    }

    /// For logs and rows: queries may hold credentials.
    pub(super) fn shown(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.to_string()
    }
}

/// The key by which a URL's host is limited and paused: normalised `host:port`. None: not a URL that can be fetched.
pub fn host_port(url: &str) -> Option<String> {
    Target::parse(url).ok().map(|target| target.host_port())
}

/// The beginning of a URL that alone decides its [`host_port`]: URLs that have it in common have one host. The whole of an
/// unusual one, because no other is like it.
pub fn host_part(url: &str) -> &str {
    let scheme = ["http://", "https://"].iter().find(|scheme| url.starts_with(**scheme));
    let Some(rest) = scheme.and_then(|scheme| url.get(scheme.len()..)).filter(|_| url.len() <= URL_BYTES_MAX) else {
        return url;
    };
    match rest.find(|byte: char| byte <= ' ' || matches!(byte, '/' | '\\' | '?' | '#')) {
        // More slashes are passed over, and so is white space: there the host begins later, or does not end.
        Some(end) if end > 0 && rest.as_bytes().get(end).is_some_and(|byte| *byte > b' ') => {
            url.get(..url.len() - rest.len() + end).unwrap_or(url)
        }
        Some(_) | None => url,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Else requests to one host are counted as another's.
        #[test]
        fn what_is_taken_for_one_host_is_one_host(
            pieces in proptest::collection::vec(
                prop::sample::select(vec![
                    "http://", "https://", "HTTP://", "http:", "//", "/", "\\", "?", "#", "@", ":", "a.example", "B.example", "127.1",
                    "[::1]", "80", "443", "%61", "\t", "\n", " ", ".", "é", "。",
                ]),
                0..7,
            ),
            begin in prop::sample::select(vec!["http://", "https://", "http://a.example", "https://a.example:80", ""]),
        ) {
            let url = format!("{begin}{}", pieces.concat());
            prop_assert_eq!(host_port(&url), host_port(host_part(&url)), "{:?} and {:?}", url, host_part(&url));
        }
    }

    #[test]
    fn urls_of_one_site_have_their_beginning_in_common() {
        for url in ["http://a.example:81/x", "http://a.example:81?x", "http://a.example:81#x", "http://a.example:81"] {
            assert_eq!(host_part(url), "http://a.example:81");
        }
    }

    #[test]
    fn one_host_has_one_name() {
        for url in ["http://Example.COM/a", "http://example.com:80", "http://example.com./x?y", "http://example.com#f"]
        {
            assert_eq!(host_port(url).as_deref(), Some("example.com:80"), "{url}");
        }
        assert_eq!(host_port("https://[::1]/").as_deref(), Some("[::1]:443"));
        assert_eq!(host_port("http://0x7f.1:8080/").as_deref(), Some("127.0.0.1:8080"));
        assert_eq!(host_port("https://bücher.example/").as_deref(), Some("xn--bcher-kva.example:443"));
    }

    #[test]
    fn what_is_no_http_url_is_not_fetched() {
        for url in [
            "",
            "x",
            "file:///etc/passwd",
            "ftp://example.com/",
            "http://",
            "http:///x y",
            "http://u:p@example.com/",
            "http://u@example.com/",
            "http://example.com:0/",
            "http://example.com:99999/",
            "http://./",
            "data:,x",
            "javascript:1",
            "http://exa mple.com/",
            "unix:///run/x.sock",
            "gopher://example.com/",
        ] {
            assert!(Target::parse(url).is_err(), "{url:?}");
        }
        assert!(Target::parse(&format!("http://example.com/{}", "a".repeat(9_000))).is_err());
    }

    #[test]
    fn a_redirect_never_leaves_https_nor_http_itself() {
        let from = Target::parse("https://a.example/x/y?token=1#f").unwrap();
        assert_eq!(from.shown(), "https://a.example/x/y");
        assert_eq!(from.redirected("../z").unwrap().url().as_str(), "https://a.example/z");
        assert_eq!(from.redirected("//b.example/").unwrap().host_port(), "b.example:443");
        assert_eq!(from.redirected("http://a.example/"), Err(BadHop::Downgrade));
        for bad in ["file:///etc/passwd", "https://u:p@a.example/", "https://[::1", "data:,x"] {
            assert!(matches!(from.redirected(bad), Err(BadHop::Url(_))), "{bad}");
        }
        let plain = Target::parse("http://a.example/").unwrap();
        let up = plain.redirected("https://a.example/").unwrap();
        assert!(!up.same_origin(&plain), "credentials are for the origin they were given for");
        assert!(from.same_origin(&Target::parse("https://A.example:443/other").unwrap()));
    }
}
