//! One proxy: where it is, how it is spoken to, and who we are to it.
//!
//! Owns: the spelling of an endpoint, and its settings for the HTTP client. Must not know: whether it works.

use std::fmt;

use super::secrets::Credentials;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
    /// Names are resolved here, and the proxy is given addresses.
    Socks5,
    /// The proxy is given names.
    Socks5h,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Socks5 => "socks5",
            Scheme::Socks5h => "socks5h",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Scheme::Http, Scheme::Https, Scheme::Socks5, Scheme::Socks5h].into_iter().find(|scheme| scheme.name() == text)
    }

    fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
            Scheme::Socks5 | Scheme::Socks5h => 1080,
        }
    }
}

/// A proxy. Its credentials never show in `{:?}` nor in `shown`.
#[derive(Clone)]
pub(in crate::worker) struct Endpoint {
    pub(super) scheme: Scheme,
    /// A name in lower case or an address, IPv6 in brackets.
    host: String,
    port: u16,
    credentials: Option<Credentials>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.shown())
    }
}

impl Endpoint {
    /// `scheme://host:port`. The error never repeats the text: a password may stand in it.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("is not a URL like http://10.0.0.1:3128")?;
        let scheme = Scheme::parse(scheme).ok_or("its scheme is not http, https, socks5 or socks5h")?;
        if rest.contains('@') {
            return Err("carries a user name or password: they belong in username_file and password_file");
        }
        // As http, because only then are hosts spelt in one way and addresses understood.
        let parsed = url::Url::parse(&format!("http://{rest}")).map_err(|_| "has no valid host or port")?;
        if parsed.path() != "/" || parsed.query().is_some() || parsed.fragment().is_some() {
            return Err("has a path: a proxy is a host and a port");
        }
        let host = parsed.host_str().filter(|host| !host.trim_end_matches('.').is_empty()).ok_or("has no host")?;
        // Port 80 is what a URL without a port has in http; only the text tells whether it was written.
        let written = rest.trim_end_matches('/').rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let port = parsed.port().or(written).unwrap_or(scheme.default_port());
        if port == 0 {
            return Err("port 0 is none");
        }
        Ok(Self { scheme, host: host.to_owned(), port, credentials: None })
    }

    /// # Errors
    /// If the client library would not understand it: it would then connect directly, without a word.
    pub(super) fn with(mut self, credentials: Option<Credentials>) -> Result<Self, &'static str> {
        self.credentials = credentials;
        let user_info = self.encoded().map(|(user, password)| format!("{user}:{password}@")).unwrap_or_default();
        let url = format!("{}://{user_info}{}:{}/", self.scheme.name(), self.host, self.port);
        match url.parse::<http::Uri>() {
            Ok(uri) if uri.authority().is_some() => Ok(self),
            _ => Err("cannot be used as a proxy's address"),
        }
    }

    /// `host:port`, for people.
    pub(in crate::worker) fn shown(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The name that has to be resolved to reach it.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Requests for http URLs are not tunnelled through it but read and made again by it.
    pub(super) fn forwards(&self) -> bool {
        matches!(self.scheme, Scheme::Http | Scheme::Https)
    }

    /// For all requests of a client.
    pub(in crate::worker) fn settings(&self) -> Result<reqwest::Proxy, String> {
        let url = format!("{}://{}:{}", self.scheme.name(), self.host, self.port);
        let proxy = reqwest::Proxy::all(url).map_err(|error| format!("proxy {}: {error}", self.shown()))?;
        Ok(match self.encoded() {
            Some((user, password)) => proxy.basic_auth(&user, &password),
            None => proxy,
        })
    }

    /// Percent-encoded whole: the library puts them into a URL, and a `%` of a password's own must survive that.
    fn encoded(&self) -> Option<(String, String)> {
        let Credentials { username, password } = self.credentials.as_ref()?;
        let encode = |text: &str| {
            text.bytes().fold(String::with_capacity(text.len() * 3), |mut out, byte| {
                match byte {
                    b if b.is_ascii_alphanumeric() => out.push(char::from(b)),
                    b => out.push_str(&format!("%{b:02X}")),
                }
                out
            })
        };
        Some((encode(username), encode(password)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_read_in_one_spelling() {
        let shown = |text: &str| format!("{:?}", Endpoint::parse(text).unwrap());
        assert_eq!(shown("http://Proxy.Example:3128/"), "http://proxy.example:3128");
        assert_eq!(shown("http://10.0.0.1"), "http://10.0.0.1:80");
        assert_eq!(shown("https://p"), "https://p:443");
        assert_eq!(shown("https://p:80"), "https://p:80");
        assert_eq!(shown("socks5://p2"), "socks5://p2:1080");
        assert_eq!(shown("socks5h://[::1]:80"), "socks5h://[::1]:80");
        assert_eq!(shown("socks5://[::1]"), "socks5://[::1]:1080");
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_repeating_it() {
        for text in [
            "",
            "10.0.0.1:3128",
            "ftp://p:1",
            "socks4://p:1",
            "http://",
            "http://:3128",
            "http://p:0",
            "http://p:99999",
            "http://p/path",
            "http://p?x",
            "socks5://a b:1",
            "http://me:secret@p:1",
        ] {
            let why = Endpoint::parse(text).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
    }

    #[test]
    fn any_password_can_be_sent_and_none_is_shown() {
        let credentials = Credentials { username: "me@home".into(), password: "a%41:/?#[]@ é\"".into() };
        let endpoint = Endpoint::parse("socks5://p:1").unwrap().with(Some(credentials)).unwrap();
        assert_eq!(endpoint.encoded().unwrap().1, "a%2541%3A%2F%3F%23%5B%5D%40%20%C3%A9%22");
        assert!(endpoint.settings().is_ok());
        assert_eq!(format!("{endpoint:?} {}", endpoint.shown()), "socks5://p:1 p:1");
    }
}
