//! A download: one body from its first byte to its last, over as many connections as it takes.
//!
//! Owns: what a download asks for, going on after a break, pace and lengths. Must not know: digests, storage, how a hop is made.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::header;

use super::classify::{self, Failed};
use super::errand::{self, Asked, Coming, Errand, Landed, Reply};
use super::proxy::Way;
pub(super) use super::range::Resume;
use super::target::Target;
use super::{HostGate, Validators, Worker, range};
use crate::clock::Clock;
use crate::model::{FailureCode, TaskSpec};

/// A break after at least this many bytes does not count against `resumes_max`.
const PROGRESS_BYTES: u64 = 64 * 1024;

const ELSEWHERE: &str = "the redirects lead elsewhere now";

/// What is to be downloaded.
pub(super) struct Want<'a> {
    pub(super) spec: &'a TaskSpec,
    /// Of the whole body, wherever it begins.
    pub(super) bytes_max: u64,
    /// What is there already; the answer says from where it really goes on.
    pub(super) from: Option<Resume>,
    /// The version that need not be sent again.
    pub(super) unless: Option<&'a Validators>,
}

pub(super) enum Answered<'a> {
    Body(Box<Fetched<'a>>),
    /// Only if `unless` was given.
    NotChanged {
        context: BTreeMap<String, String>,
    },
}

/// A body that has not been read yet.
pub(super) struct Fetched<'a> {
    errand: Errand<'a>,
    /// None: read to its end, or broken off.
    landed: Option<Landed>,
    is_whole: bool,
    /// Where the present connection's body ends.
    end: Option<u64>,
    offset: u64,
    position: u64,
    total: Option<u64>,
    about: About,
    pace: Pace,
    resumes: Resumes,
}

/// What the headers of the first answer said.
struct About {
    target: Target,
    redirects: u32,
    status: u16,
    http: &'static str,
    content_type: Option<String>,
    validators: Validators,
    has_ranges: bool,
    /// The origin was asked to go on and began anew.
    restarted: Option<String>,
}

#[derive(Default)]
struct Resumes {
    count: u32,
    /// Since the last one that brought `PROGRESS_BYTES`.
    in_a_row: u32,
    first_at: Option<u64>,
    last_at: u64,
}

/// Why there is no next piece.
enum Broken {
    /// Another connection may bring the rest.
    Off(Failed),
    Final(Failed),
}

impl Worker {
    /// Down to the headers of the answer that has the body.
    pub(super) async fn fetch<'a>(&'a self, want: Want<'a>, gate: &'a dyn HostGate) -> Result<Answered<'a>, Failed> {
        let Want { spec, bytes_max, from, unless } = want;
        let mut errand = Errand::new(self, spec, bytes_max, gate);
        let mut from = from.filter(Resume::is_usable);
        let unless = unless.filter(|known| !range::conditions(None, Some(known)).is_empty());
        let mut restarted = None;
        loop {
            match Box::pin(errand.go(Asked { from: from.as_ref(), unless, any_length: false })).await? {
                Reply::NotChanged(landed) => {
                    let about = About::new(&landed, None);
                    return Ok(Answered::NotChanged { context: about.context(&errand.way, &Resumes::default()) });
                }
                // An equal tag of another URL stands for other bytes.
                Reply::Body(landed, coming)
                    if coming.begin > 0 && from.as_ref().is_some_and(|from| !landed.is_where(from.landed)) =>
                {
                    (from, restarted) = (None, Some(ELSEWHERE.to_owned()));
                }
                Reply::Body(landed, coming) => {
                    if let Some(from) = from.filter(|_| coming.begin == 0) {
                        restarted = Some(format!("the origin sent all instead of what follows byte {}", from.offset));
                    }
                    return Ok(Answered::Body(Box::new(Fetched::new(errand, landed, coming, restarted))));
                }
                // Asked once more, for all of it: what is there is thrown away rather than joined to something else.
                Reply::NoSuchRange(why) => (from, restarted) = (None, Some(why)),
            }
        }
    }
}

impl Landed {
    /// `before`: what an earlier attempt's redirects ended at, where it recorded that.
    fn is_where(&self, before: Option<[u8; 32]>) -> bool {
        before.map_or(self.redirects == 0, |before| before == self.target.digest())
    }
}

impl About {
    fn new(landed: &Landed, restarted: Option<String>) -> Self {
        let headers = landed.response.headers();
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        Self {
            target: landed.target.clone(),
            redirects: landed.redirects,
            status: landed.response.status().as_u16(),
            http: match landed.response.version() {
                http::Version::HTTP_2 => "2",
                http::Version::HTTP_10 => "1.0",
                _ => "1.1",
            },
            content_type: content_type.map(str::to_owned),
            validators: range::validators(headers),
            has_ranges: !range::refuses_ranges(headers),
            restarted,
        }
    }

    fn context(&self, way: &Way, resumes: &Resumes) -> BTreeMap<String, String> {
        let mut context = BTreeMap::new();
        let mut put = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                context.insert(key.to_owned(), value);
            }
        };
        put("host", Some(self.target.host_port()));
        put("http", Some(self.http.to_owned()));
        put("redirects", (self.redirects > 0).then(|| self.redirects.to_string()));
        put("restarted", self.restarted.clone());
        put("resumes", (resumes.count > 0).then(|| resumes.count.to_string()));
        put("resumed_at", resumes.first_at.map(|at| at.to_string()));
        put("proxy", way.shown());
        context
    }
}

impl<'a> Fetched<'a> {
    fn new(errand: Errand<'a>, landed: Landed, coming: Coming, restarted: Option<String>) -> Self {
        let about = About::new(&landed, restarted);
        let options = &errand.worker.options;
        let pace = Pace {
            bytes_per_second_min: options.bytes_per_second_min,
            window: Duration::from_millis(options.pace_window_ms),
            ..Pace::default()
        };
        let Coming { begin, end, total } = coming;
        let first_at = (begin > 0).then_some(begin);
        let resumes = Resumes { first_at, last_at: begin, ..Resumes::default() };
        Self {
            errand,
            landed: Some(landed),
            is_whole: false,
            end,
            offset: begin,
            position: begin,
            total,
            about,
            pace,
            resumes,
        }
    }

    /// The next piece of the body, from `offset` on; None at its end, which is where it was said to be.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failed> {
        loop {
            match self.read().await {
                Ok(piece) => return Ok(piece),
                Err(Broken::Final(failed)) => return Err(self.blame(failed)),
                Err(Broken::Off(failed)) => self.go_on(failed).await?,
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Broken> {
        let Some(landed) = self.landed.as_mut() else {
            let gone = || Broken::Final(Failed::new(FailureCode::DownloadInterrupted, "the body broke off before"));
            return if self.is_whole { Ok(None) } else { Err(gone()) };
        };
        let idle = Duration::from_millis(self.errand.worker.options.idle_timeout_ms);
        let begun = Clock::instant();
        let broken = match tokio::time::timeout(idle, landed.response.chunk()).await {
            Ok(Ok(Some(piece))) => return self.take(piece, begun.elapsed()).map(Some),
            Ok(Ok(None)) => {
                let declared = self.end.max(self.total).filter(|declared| self.position < *declared);
                let Some(declared) = declared else {
                    // The host's place is free for others from here on.
                    (self.landed, self.is_whole) = (None, true);
                    self.errand.way.ended();
                    return Ok(None);
                };
                let message = format!("{declared} bytes were declared and {} came", self.position);
                let short = Failed::new(FailureCode::DownloadLengthMismatch, message);
                if self.end == Some(self.position) {
                    // A range shorter than what was asked for, and whole as such.
                    return Err(Broken::Off(short));
                }
                short
            }
            Ok(Err(error)) => classify::body(error, self.end.is_some()),
            Err(_) => Failed::new(FailureCode::DownloadTimeout, format!("silent for {} ms", idle.as_millis())),
        };
        self.errand.way.broke();
        self.errand.heard(&self.about.target.host_port(), false);
        Err(Broken::Off(broken))
    }

    fn take(&mut self, piece: Bytes, waited: Duration) -> Result<Bytes, Broken> {
        let bytes = piece.len() as u64;
        self.position = self.position.saturating_add(bytes);
        if self.position > self.errand.bytes_max {
            return Err(Broken::Final(errand::too_large(self.errand.bytes_max)));
        }
        if let Some(end) = self.end.filter(|end| self.position > *end) {
            let message = format!("{end} bytes were declared and more came");
            return Err(Broken::Final(Failed::new(FailureCode::DownloadLengthMismatch, message)));
        }
        if self.pace.is_too_slow(waited, bytes) {
            self.errand.heard(&self.about.target.host_port(), false);
            let message = format!("slower than {} bytes per second", self.pace.bytes_per_second_min);
            return Err(Broken::Final(Failed::new(FailureCode::DownloadTimeout, message)));
        }
        Ok(piece)
    }

    /// Another connection for the rest of the same version, or `failed`.
    async fn go_on(&mut self, failed: Failed) -> Result<(), Failed> {
        if self.position >= self.resumes.last_at.saturating_add(PROGRESS_BYTES) {
            self.resumes.in_a_row = 0;
        }
        let etag = self.about.validators.etag.clone();
        let from = Resume { offset: self.position, etag, total: self.total, landed: None };
        let may =
            from.is_usable() && self.about.has_ranges && self.resumes.in_a_row < self.errand.worker.options.resumes_max;
        if !may {
            return Err(self.blame(failed));
        }
        // Given back first: where one request at a time is allowed, the next would wait for this one.
        self.landed = None;
        let reply = Box::pin(self.errand.go(Asked { from: Some(&from), ..Asked::default() })).await;
        let broke_off = failed.failure.code.as_str();
        let changed = |why: String| {
            let message = format!("{}; it cannot go on: {why}", failed.failure.message);
            Failed::new(FailureCode::DownloadInterrupted, message)
        };
        match reply.map_err(|failed| self.blame_for_rest(failed).with("broke_off", broke_off))? {
            Reply::Body(landed, coming) if coming.begin == self.position && coming.begin > 0 => {
                // Redirects sign anew each time; what stands in the URL that was asked for is the resource's own.
                let is_same = if landed.redirects > 0 && self.about.redirects > 0 {
                    landed.target.same_resource(&self.about.target)
                } else {
                    landed.target == self.about.target
                };
                if !is_same {
                    return Err(self.blame(changed(ELSEWHERE.into())));
                }
                (self.landed, self.end, self.total) = (Some(landed), coming.end, coming.total);
            }
            Reply::Body(..) | Reply::NotChanged(_) => {
                return Err(self.blame(changed("the origin has another version now".into())));
            }
            Reply::NoSuchRange(why) => return Err(self.blame(changed(why))),
        }
        self.resumes.count += 1;
        self.resumes.in_a_row += 1;
        self.resumes.first_at.get_or_insert(self.position);
        self.resumes.last_at = self.position;
        Ok(())
    }

    /// Where the first piece belongs in the whole body: 0, or what was asked for with `from`.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The whole body's length, if it was told.
    pub(super) fn total(&self) -> Option<u64> {
        self.total
    }

    pub(super) fn validators(&self) -> Validators {
        self.about.validators.clone()
    }

    /// What the redirects ended at.
    pub(super) fn landed(&self) -> [u8; 32] {
        self.about.target.digest()
    }

    pub(super) fn content_type(&self) -> Option<&str> {
        self.about.content_type.as_deref()
    }

    /// How it went so far, for the job's log: host, http, redirects, proxy, restarted, resumes, resumed_at.
    pub(super) fn context(&self) -> BTreeMap<String, String> {
        self.about.context(&self.errand.way, &self.resumes)
    }

    /// Adds who it was and how far it came.
    pub(super) fn blame(&self, failed: Failed) -> Failed {
        errand::at(self.blame_for_rest(failed), &self.about.target, self.about.redirects)
            .with("status", self.about.status)
    }

    /// Without the address and the status: those of the request that asked for the rest are there already.
    fn blame_for_rest(&self, failed: Failed) -> Failed {
        let failed = self.context().into_iter().fold(failed, |failed, (key, value)| {
            if failed.failure.context.contains_key(&key) { failed } else { failed.with(&key, value) }
        });
        failed.with("bytes", self.position)
    }
}

/// Time spent waiting for an origin, and what came of it. Our own waits for the store do not count.
#[derive(Default)]
struct Pace {
    bytes_per_second_min: u64,
    window: Duration,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn is_too_slow(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < self.window {
            return false;
        }
        let wanted = u128::from(self.bytes_per_second_min) * self.waited.as_millis();
        let slow = u128::from(self.bytes) * 1_000 < wanted;
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
        let window = Duration::from_secs(60);
        let mut pace = Pace { bytes_per_second_min: 100, window, ..Pace::default() };
        assert!(!(0..59).any(|_| pace.is_too_slow(second, 1)));
        assert!(pace.is_too_slow(second, 1));
        assert!(!(0..600).any(|_| pace.is_too_slow(second, 100)));
    }
}
