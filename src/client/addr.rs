//! Where a daemon is, and how to get through to one that is busy.
//!
//! Owns: the text form of addresses, the retries of connecting. Must not know: what is spoken then.

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// `unix:PATH` or `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addr {
    /// A socket's path.
    Unix(PathBuf),
    /// `HOST:PORT`, spoken to without TLS.
    Http(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address: give unix:PATH or http://HOST:PORT")]
pub struct BadAddr(String);

impl FromStr for Addr {
    type Err = BadAddr;

    fn from_str(text: &str) -> Result<Self, BadAddr> {
        let bad = || BadAddr(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")) {
            return if path.is_empty() { Err(bad()) } else { Ok(Addr::Unix(path.into())) };
        }
        let authority = text.strip_prefix("http://").ok_or_else(bad)?.trim_end_matches('/');
        let parsed: http::uri::Authority = authority.parse().map_err(|_| bad())?;
        if parsed.port_u16().is_none() || parsed.host().is_empty() || authority.contains('@') {
            return Err(bad());
        }
        Ok(Addr::Http(authority.to_owned()))
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Addr::Unix(path) => write!(f, "unix:{}", path.display()),
            Addr::Http(authority) => write!(f, "http://{authority}"),
        }
    }
}

/// The first pause between two tries; each next one is up to twice as long.
const PAUSE: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Tries until it works, fails for a reason that will not pass, or `patience` is over. A full backlog answers EAGAIN on a Unix socket; a daemon
/// that restarts refuses for a moment.
pub(super) async fn patiently<T, F: Future<Output = io::Result<T>>>(
    patience: Duration,
    mut connect: impl FnMut() -> F,
) -> io::Result<T> {
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    let tries = async {
        let mut pause = PAUSE;
        loop {
            match connect().await {
                Err(error) if may_pass(&error) => last = error,
                done => return done,
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    };
    match tokio::time::timeout(patience, tries).await {
        Ok(done) => done,
        Err(_) => Err(last),
    }
}

fn may_pass(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Between half of it and all of it, so that a thousand clients do not come back together.
fn jittered(pause: Duration) -> Duration {
    let random = u32::try_from(RandomState::new().hash_one(0) & 0xffff).unwrap_or_default();
    pause / 2 + pause / 2 * random / 0x1_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_its_text() {
        for text in ["unix:/run/fetchbox/grpc.sock", "unix:relative.sock", "http://127.0.0.1:50052", "http://[::1]:5"] {
            assert_eq!(text.parse::<Addr>().unwrap().to_string(), text);
        }
        assert_eq!("unix:///a".parse::<Addr>().unwrap(), Addr::Unix("/a".into()));
        assert_eq!("http://h:1/".parse::<Addr>().unwrap(), Addr::Http("h:1".into()));
        for bad in ["", "unix:", "/a", "https://h:1", "http://h", "http://u@h:1", "h:1"] {
            assert!(bad.parse::<Addr>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_daemon_that_is_busy_for_a_moment_is_reached() {
        let mut failures = vec![io::ErrorKind::ConnectionRefused, io::ErrorKind::WouldBlock];
        let tried = patiently(Duration::from_secs(30), || {
            let next = failures.pop();
            async move { next.map_or(Ok(5), |kind| Err(kind.into())) }
        });
        assert_eq!(tried.await.unwrap(), 5);
    }

    #[tokio::test]
    async fn what_will_not_pass_is_told_at_once_and_what_might_in_time() {
        let missing = patiently(Duration::from_secs(3_600), || async { Err::<(), _>(io::ErrorKind::NotFound.into()) });
        assert_eq!(missing.await.unwrap_err().kind(), io::ErrorKind::NotFound);
        let refused =
            patiently(Duration::from_millis(20), || async { Err::<(), _>(io::ErrorKind::ConnectionRefused.into()) });
        assert_eq!(refused.await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
