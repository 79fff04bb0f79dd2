//! One GET with its redirects, down to the headers of the answer that has the body.
//!
//! Owns: the client, hops, what the headers already tell. Must not know: digests, storage.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use super::classify::{self, Answer, Failed};
use super::resolve::GuardedResolver;
use super::target::{BadHop, Target};
use super::{Guard, HostGate, Options, Permit, Validators, Worker, headers};
use crate::clock::Clock;
use crate::model::{FailureCode, TaskSpec};

/// A host that says 429 and nothing more is left alone for this long.
const THROTTLE_DEFAULT: Duration = Duration::from_secs(1);
/// Idle connections kept for each host: as many as one host usually has in flight.
const IDLE_PER_HOST: usize = 16;
/// The stretch over which an origin's pace is judged.
const PACE_WINDOW: Duration = Duration::from_secs(60);

pub(super) fn client(options: &Options, guard: Arc<Guard>) -> Result<reqwest::Client, String> {
    let builder = || {
        reqwest::Client::builder()
            .dns_resolver(GuardedResolver(guard.clone()))
            .connect_timeout(Duration::from_millis(options.connect_timeout_ms))
            .redirect(reqwest::redirect::Policy::none())
            // The queue is the one that retries, and it remembers.
            .retry(reqwest::retry::never())
            // The environment must not be able to send our requests elsewhere.
            .no_proxy()
            .referer(false)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .pool_idle_timeout(Duration::from_secs(30))
    };
    builder().build().or_else(|error| {
        tracing::warn!(%error, "no certificates on this machine: downloads over https will fail");
        builder().tls_certs_only([]).build().map_err(|error| format!("no HTTP client can be made: {error}"))
    })
}

/// What is asked of an origin.
pub(super) struct Want<'a> {
    pub(super) spec: &'a TaskSpec,
    /// Of the whole body.
    pub(super) bytes_max: u64,
    /// From here on, if it is still the same version; from the start otherwise.
    pub(super) from: Option<Resume>,
    /// Nothing, while it is still this version.
    pub(super) unless: Option<&'a Validators>,
}

pub(super) struct Resume {
    pub(super) offset: u64,
    pub(super) etag: String,
    /// Of the whole body, where it is known.
    pub(super) total: Option<u64>,
}

pub(super) enum Answered<'a> {
    Body(Box<Fetched<'a>>),
    NotChanged { context: BTreeMap<String, String> },
}

/// An answer whose body has not been read yet.
pub(super) struct Fetched<'a> {
    _asked: PhantomData<&'a ()>,
    response: reqwest::Response,
    target: Target,
    /// The host's place is taken until the body has been read.
    _permit: Permit,
    /// Content-Length, where one came.
    declared: Option<u64>,
    offset: u64,
    idle: Duration,
    pace: Pace,
    received: u64,
}

impl Worker {
    /// Follows redirects until there is a body of at most `bytes_max` bytes, as far as the headers tell.
    pub(super) async fn fetch<'a>(&'a self, want: Want<'a>, gate: &'a dyn HostGate) -> Result<Answered<'a>, Failed> {
        let Want { spec, bytes_max, .. } = want;
        let bad_url = |message| Failed::new(FailureCode::DownloadBadUrl, message);
        let mut target = Target::parse(&spec.url).map_err(bad_url)?;
        let mut headers = headers::outgoing(&spec.headers, &self.options.user_agent).map_err(bad_url)?;
        conditions(&want, &mut headers);
        let mut redirects = 0;
        loop {
            let hop = self.hop(&target, headers.clone(), gate).await;
            let (response, permit) = hop.map_err(|failed| at(failed, &target, redirects))?;
            if response.status() == 304 && want.unless.is_some() {
                let context = BTreeMap::from([("host".to_owned(), target.host_port())]);
                return Ok(Answered::NotChanged { context });
            }
            if let Some(from) = want.from.as_ref().filter(|from| continues(&response, from)) {
                let idle = Duration::from_millis(self.options.idle_timeout_ms);
                let pace = Pace { bytes_per_second_min: self.options.bytes_per_second_min, ..Pace::default() };
                let (declared, offset) = (response.content_length(), from.offset);
                let fetched = Fetched {
                    _asked: PhantomData,
                    response,
                    target,
                    _permit: permit,
                    declared,
                    offset,
                    idle,
                    pace,
                    received: 0,
                };
                return Ok(Answered::Body(Box::new(fetched)));
            }
            match self.judge(&response, &target, bytes_max, gate).map_err(|failed| at(failed, &target, redirects))? {
                Judged::Body { declared } => {
                    let idle = Duration::from_millis(self.options.idle_timeout_ms);
                    let pace = Pace { bytes_per_second_min: self.options.bytes_per_second_min, ..Pace::default() };
                    let fetched = Fetched {
                        _asked: PhantomData,
                        response,
                        target,
                        _permit: permit,
                        declared,
                        offset: 0,
                        idle,
                        pace,
                        received: 0,
                    };
                    return Ok(Answered::Body(Box::new(fetched)));
                }
                Judged::Redirect { location } => {
                    redirects += 1;
                    if redirects > self.options.redirects_max {
                        let message = format!("more than {} redirects", self.options.redirects_max);
                        return Err(at(Failed::new(FailureCode::DownloadRedirects, message), &target, redirects));
                    }
                    let next = target.redirected(&location).map_err(|bad| at(bad_hop(bad), &target, redirects))?;
                    if !next.same_origin(&target) {
                        headers = headers::across_origins(&headers);
                    }
                    target = next;
                }
            }
        }
    }

    async fn hop(
        &self,
        target: &Target,
        headers: HeaderMap,
        gate: &dyn HostGate,
    ) -> Result<(reqwest::Response, Permit), Failed> {
        // A literal never meets the resolver, so it is checked here.
        if let Some(address) = target.literal() {
            self.guard.check(address).map_err(|what| {
                Failed::new(FailureCode::DownloadBlockedAddress, format!("{address} is not a public address: {what}"))
            })?;
        }
        let permit = gate.enter(&target.host_port()).await.map_err(|down| {
            let failed = Failed::new(FailureCode::DownloadHostDown, down.to_string());
            Failed { retry_after: Some(down.retry_after), ..failed }
        })?;
        let limit = Duration::from_millis(self.options.connect_timeout_ms.saturating_add(self.options.idle_timeout_ms));
        let sent = self.client.get(target.url().clone()).headers(headers).send();
        match tokio::time::timeout(limit, sent).await {
            Ok(Ok(response)) => Ok((response, permit)),
            Ok(Err(error)) => Err(classify::request(error)),
            Err(_) => {
                Err(Failed::new(FailureCode::DownloadTimeout, format!("no answer within {} ms", limit.as_millis())))
            }
        }
    }

    fn judge(
        &self,
        response: &reqwest::Response,
        target: &Target,
        bytes_max: u64,
        gate: &dyn HostGate,
    ) -> Result<Judged, Failed> {
        let status = response.status().as_u16();
        let asked = response.headers().get(header::RETRY_AFTER);
        let wait = asked.and_then(|value| classify::retry_after(value, self.clock.now_ms()));
        match classify::answer(status, wait.is_some()) {
            Answer::Failure(code) => {
                if code == FailureCode::DownloadThrottled {
                    gate.throttled(&target.host_port(), wait.unwrap_or(THROTTLE_DEFAULT));
                }
                let failed = Failed::new(code, format!("the origin answered {status}")).with("status", status);
                Err(Failed { retry_after: wait, ..failed })
            }
            Answer::Redirect => {
                let location = response.headers().get(header::LOCATION);
                match location.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()) {
                    Some(location) => Ok(Judged::Redirect { location }),
                    None => Err(Failed::new(
                        FailureCode::DownloadUnexpectedStatus,
                        format!("the origin answered {status} without saying where to go"),
                    )
                    .with("status", status)),
                }
            }
            Answer::Body => judge_body(response, bytes_max).map_err(|failed| failed.with("status", status)),
        }
    }
}

fn conditions(want: &Want<'_>, headers: &mut HeaderMap) {
    let mut set = |name: header::HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    if let Some(from) = &want.from {
        set(header::RANGE, &format!("bytes={}-", from.offset));
        set(header::IF_RANGE, &from.etag);
    }
    if let Some(unless) = want.unless {
        if !unless.etag.is_empty() {
            set(header::IF_NONE_MATCH, &unless.etag);
        } else if !unless.last_modified.is_empty() {
            set(header::IF_MODIFIED_SINCE, &unless.last_modified);
        }
    }
}

fn continues(response: &reqwest::Response, from: &Resume) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let wanted = match from.total {
        Some(total) => format!("bytes {}-{}/{total}", from.offset, total.saturating_sub(1)),
        None => format!("bytes {}-", from.offset),
    };
    response.status() == 206 && range.is_some_and(|range| range.starts_with(&wanted))
}

enum Judged {
    Body { declared: Option<u64> },
    Redirect { location: String },
}

fn judge_body(response: &reqwest::Response, bytes_max: u64) -> Result<Judged, Failed> {
    if let Some(encoding) =
        response.headers().get_all(header::CONTENT_ENCODING).iter().find(|e| !headers::is_identity(e))
    {
        let encoding: String = String::from_utf8_lossy(encoding.as_bytes()).chars().take(64).collect();
        return Err(Failed::new(FailureCode::DownloadEncoding, format!("the body came encoded as {encoding:?}")));
    }
    let declared = response.headers().get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    match declared {
        Some(bytes) if bytes > bytes_max => Err(too_large(bytes_max).with("declared_bytes", bytes)),
        declared => Ok(Judged::Body { declared }),
    }
}

fn bad_hop(bad: BadHop) -> Failed {
    match bad {
        BadHop::Url(message) => Failed::new(FailureCode::DownloadBadUrl, message),
        BadHop::Downgrade => Failed::new(FailureCode::DownloadRedirects, "a redirect from https to http"),
    }
}

pub(super) fn too_large(bytes_max: u64) -> Failed {
    Failed::new(FailureCode::DownloadTooLarge, format!("the body is larger than {bytes_max} bytes"))
        .with("bytes_max", bytes_max)
}

fn at(failed: Failed, target: &Target, redirects: u32) -> Failed {
    let failed = failed.with("host", target.host_port()).with("url", target.shown());
    if redirects > 0 { failed.with("redirects", redirects) } else { failed }
}

impl Fetched<'_> {
    /// The next piece of the body; None at its end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failed> {
        let begun = Clock::instant();
        let piece = match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(Ok(piece)) => piece,
            Ok(Err(error)) => return Err(self.blame(classify::body(error, self.declared.is_some()))),
            Err(_) => {
                let message = format!("silent for {} ms", self.idle.as_millis());
                return Err(self.blame(Failed::new(FailureCode::DownloadTimeout, message)));
            }
        };
        let bytes = piece.as_ref().map_or(0, Bytes::len) as u64;
        self.received += bytes;
        if piece.is_some() && self.pace.is_too_slow(begun.elapsed(), bytes) {
            let message = format!("slower than {} bytes per second", self.pace.bytes_per_second_min);
            return Err(self.blame(Failed::new(FailureCode::DownloadTimeout, message)));
        }
        Ok(piece)
    }

    /// Where in the whole body this one begins; 0: from the start.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of the whole body, as declared.
    pub(super) fn total(&self) -> Option<u64> {
        self.declared.map(|declared| declared.saturating_add(self.offset))
    }

    pub(super) fn validators(&self) -> Validators {
        let text = |name| {
            let value = self.response.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        Validators { etag: text(header::ETAG), last_modified: text(header::LAST_MODIFIED) }
    }

    pub(super) fn context(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("host".to_owned(), self.target.host_port())])
    }

    pub(super) fn content_type(&self) -> Option<&str> {
        self.response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok())
    }

    /// Adds who it was and how far it came.
    pub(super) fn blame(&self, failed: Failed) -> Failed {
        at(failed, &self.target, 0).with("bytes", self.received).with("status", self.response.status().as_u16())
    }
}

/// Time spent waiting for an origin, and what came of it. Our own waits for the store do not count.
#[derive(Default)]
struct Pace {
    bytes_per_second_min: u64,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn is_too_slow(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < PACE_WINDOW {
            return false;
        }
        let slow = self.bytes < self.bytes_per_second_min.saturating_mul(self.waited.as_secs());
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_given_up_and_a_slow_line_is_not() {
        let second = Duration::from_secs(1);
        let mut pace = Pace { bytes_per_second_min: 100, ..Pace::default() };
        assert!(!(0..59).any(|_| pace.is_too_slow(second, 1)));
        assert!(pace.is_too_slow(second, 1));
        assert!(!(0..600).any(|_| pace.is_too_slow(second, 100)));
    }
}
