//! One question to an origin with its redirects, down to the headers of the answer.
//!
//! Owns: hops and the checks before each: guard, robots.txt, gate; what the headers already tell. Must not know: bodies, storage.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, header};

use super::classify::{self, Answer, Failed};
use super::proxy::{Chosen, ProxyResolver, Reached, Way};
use super::range::{self, Resume};
use super::target::{BadHop, Target};
use super::{HostGate, NotNow, Permit, Validators, WhyNot, Worker, client, headers, resolve};
use crate::model::{FailureCode, TaskSpec};

/// A host that says 429 and nothing more is left alone for this long.
const THROTTLE_DEFAULT: Duration = Duration::from_secs(1);

/// What stays the same however often a download has to ask.
pub(super) struct Errand<'a> {
    pub(super) worker: &'a Worker,
    pub(super) spec: &'a TaskSpec,
    /// Of the whole body.
    pub(super) bytes_max: u64,
    pub(super) way: Way,
    /// The latest request did not go through a proxy.
    is_direct: bool,
    pub(super) gate: &'a dyn HostGate,
}

/// What is asked for besides the resource itself.
#[derive(Clone, Copy, Default)]
pub(super) struct Asked<'q> {
    pub(super) from: Option<&'q Resume>,
    pub(super) unless: Option<&'q Validators>,
    /// However long the body is: its reader stops where it has enough.
    pub(super) any_length: bool,
}

/// An answer with the host's place it came through.
pub(super) struct Landed {
    pub(super) response: reqwest::Response,
    pub(super) target: Target,
    pub(super) redirects: u32,
    /// Held until the body has been read.
    pub(super) _permit: Permit,
}

/// What the headers say of the body that follows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Coming {
    /// Where in the whole body it begins.
    pub(super) begin: u64,
    /// One past its last byte, if that is told.
    pub(super) end: Option<u64>,
    pub(super) total: Option<u64>,
}

/// One hop's result.
pub(super) enum Step {
    Body(Landed, Coming),
    NotChanged(Landed),
    /// The origin cannot go on where the question wanted to; why.
    NoSuchRange(String),
    Redirect(Target),
}

/// The end of a chain of hops.
pub(super) enum Reply {
    Body(Landed, Coming),
    NotChanged(Landed),
    NoSuchRange(String),
}

impl<'a> Errand<'a> {
    pub(super) fn new(worker: &'a Worker, spec: &'a TaskSpec, bytes_max: u64, gate: &'a dyn HostGate) -> Self {
        let way = Way::new(worker.proxies.clone(), spec.proxy_hint.as_ref(), worker.clock.clone());
        Self { worker, spec, bytes_max, way, is_direct: true, gate }
    }

    /// Follows redirects from the task's own URL. Range and conditions go with every hop.
    pub(super) async fn go(&mut self, asked: Asked<'_>) -> Result<Reply, Failed> {
        let worker = self.worker;
        let options = &worker.options;
        let bad_url = |message| Failed::new(FailureCode::DownloadBadUrl, message);
        let mut target = Target::parse(&self.spec.url).map_err(bad_url)?;
        let mut headers = headers::outgoing(&self.spec.headers, &options.user_agent).map_err(bad_url)?;
        let mut redirects = 0;
        loop {
            let step = async {
                if options.robots {
                    worker.robots.permits(self, &target).await?;
                }
                self.step(&target, headers.clone(), asked).await
            };
            let step = step.await;
            let next = match step.map_err(|failed| at(self.way.tell(failed), &target, redirects))? {
                Step::Body(landed, coming) => return Ok(Reply::Body(Landed { redirects, ..landed }, coming)),
                Step::NotChanged(landed) => return Ok(Reply::NotChanged(Landed { redirects, ..landed })),
                Step::NoSuchRange(why) => return Ok(Reply::NoSuchRange(why)),
                Step::Redirect(next) => next,
            };
            redirects += 1;
            if redirects > options.redirects_max {
                let message = format!("more than {} redirects", options.redirects_max);
                let failed = Failed::new(FailureCode::DownloadRedirects, message);
                return Err(at(self.way.tell(failed), &target, redirects));
            }
            if !next.same_origin(&target) {
                // For good: a way back to the first origin may have been chosen by the second.
                headers = headers::across_origins(&headers);
            }
            target = next;
        }
    }

    /// One request, and what its answer means.
    pub(super) async fn step(
        &mut self,
        target: &Target,
        mut headers: HeaderMap,
        asked: Asked<'_>,
    ) -> Result<Step, Failed> {
        headers.extend(range::conditions(asked.from, asked.unless));
        let landed = self.send(target, headers).await?;
        let (response, host) = (&landed.response, target.host_port());
        let status = response.status().as_u16();
        if status != 429 {
            self.heard(&host, status < 500);
        }
        let says = |failed: Failed| failed.with("status", status);
        match (status, asked.from, asked.unless) {
            (304, _, Some(_)) => return Ok(Step::NotChanged(landed)),
            (416, Some(_), _) => return Ok(Step::NoSuchRange("the origin has no such range (416)".into())),
            (206, Some(from), _) => {
                return match from.continued_by(response.headers()) {
                    Ok(span) => {
                        let coming = Coming { begin: from.offset, end: Some(span.end), total: Some(span.total) };
                        self.admit(response, coming, asked).map_err(says)?;
                        Ok(Step::Body(landed, coming))
                    }
                    Err(why) => Ok(Step::NoSuchRange(format!("a wrong 206: {why}"))),
                };
            }
            _ => {}
        }
        let pause = response.headers().get(header::RETRY_AFTER);
        let wait = pause.and_then(|value| classify::retry_after(value, self.worker.clock.now_ms()));
        match classify::answer(status, wait.is_some()) {
            Answer::Body => {
                let length = range::length(response.headers());
                let coming = Coming { begin: 0, end: length, total: length };
                self.admit(response, coming, asked).map_err(says)?;
                Ok(Step::Body(landed, coming))
            }
            Answer::Redirect => {
                let location = response.headers().get(header::LOCATION).ok_or_else(|| {
                    let message = format!("the origin answered {status} without saying where to go");
                    says(Failed::new(FailureCode::DownloadUnexpectedStatus, message))
                })?;
                let next = target.redirected(&String::from_utf8_lossy(location.as_bytes()));
                Ok(Step::Redirect(next.map_err(bad_hop)?))
            }
            Answer::Failure(code) => {
                if code == FailureCode::DownloadThrottled {
                    self.gate.throttled(&host, wait.unwrap_or(THROTTLE_DEFAULT));
                }
                let failed = says(Failed::new(code, format!("the origin answered {status}")));
                Err(Failed { retry_after: wait, ..failed })
            }
        }
    }

    async fn send(&mut self, target: &Target, headers: HeaderMap) -> Result<Landed, Failed> {
        let (worker, host) = (self.worker, target.host_port());
        // An address in a URL never meets the resolver, so it is judged here.
        if let Some(address) = target.literal() {
            let refused = |what| blocked(format!("{address} is not a public address: {what}"));
            worker.guard.check(address).map_err(refused)?;
        }
        let mut permit = Some(self.enter(&host).await?);
        let options = &worker.options;
        let limit = Duration::from_millis(options.connect_timeout_ms.saturating_add(options.idle_timeout_ms));
        let mut is_anew = false;
        // Ends with the proxies: each is tried once, and without one there is one try, or a second over a connection of its own.
        loop {
            let proxy = self.way.next()?;
            let held = match permit.take() {
                Some(permit) => permit,
                None => self.enter(&host).await?,
            };
            self.is_direct = proxy.is_none();
            let client = match proxy {
                Some(proxy) => self.client_through(&proxy, target).await?,
                None if is_anew => worker.anew.clone(),
                None => worker.client.clone(),
            };
            let sent = client.get(target.url().clone()).headers(headers.clone()).send();
            let given_up = match tokio::time::timeout(limit, sent).await {
                Ok(Ok(response)) => match self.way.answered(response.status().as_u16(), target) {
                    Some(seen) => Ok(seen),
                    None => return Ok(Landed { response, target: target.clone(), redirects: 0, _permit: held }),
                },
                // It may have been a connection that the origin was just closing.
                Ok(Err(error)) if self.is_direct && !is_anew && classify::is_unanswered(&error) => {
                    is_anew = true;
                    Ok(Reached::Perhaps)
                }
                Ok(Err(error)) => self.way.failed(error, target),
                Err(_) => {
                    self.way.broke();
                    let message = format!("no answer within {} ms", limit.as_millis());
                    Err(Failed::new(FailureCode::DownloadTimeout, message))
                }
            };
            let failed = match given_up {
                // The host may have seen it, so the next try is one more request to it. The place is given back first: where
                // one is all there is, the next would wait for this one.
                Ok(Reached::Perhaps) => continue,
                Ok(Reached::No) => {
                    permit = Some(held);
                    continue;
                }
                Err(failed) => failed,
            };
            if classify::is_the_hosts(failed.failure.code) {
                self.heard(&host, false);
            }
            return Err(failed);
        }
    }

    /// One request to the host, when it is its turn.
    async fn enter(&self, host: &str) -> Result<Permit, Failed> {
        self.gate.enter(host).await.map_err(|NotNow { why, retry_after }| {
            let (code, message) = match why {
                WhyNot::Busy => {
                    let message =
                        "the host cannot be asked now: it asked for a pause, or its turns and places are taken for too long";
                    (FailureCode::DownloadThrottled, message.to_owned())
                }
                WhyNot::Down(since) => {
                    (FailureCode::DownloadHostDown, format!("the host has not answered for {since:?}"))
                }
            };
            Failed { retry_after: Some(retry_after), ..Failed::new(code, message) }
        })
    }

    /// The proxy resolves the name; what can be seen from here must be no inner address either.
    async fn client_through(&self, proxy: &Chosen, target: &Target) -> Result<reqwest::Client, Failed> {
        let (worker, options) = (self.worker, &self.worker.options);
        if target.literal().is_none() {
            let patience = Duration::from_millis(options.connect_timeout_ms);
            let judged = resolve::leads_inside(&worker.guard, worker.net.as_ref(), target.name(), patience).await;
            judged.map_err(|inside| blocked(inside.to_string()))?;
        }
        let make = || {
            let resolver = ProxyResolver::new(&proxy.endpoint, worker.guard.clone(), worker.net.clone());
            client::build(options, worker.net.as_ref(), Arc::new(resolver), Some(proxy.endpoint.settings()?))
        };
        worker.clients.of(proxy.id, make).map_err(|why| Failed::new(FailureCode::DownloadNoProxy, why))
    }

    /// A failure on the way through a proxy may be the proxy's, so it is not held against the host.
    pub(super) fn heard(&self, host: &str, is_well: bool) {
        if is_well || self.is_direct {
            self.gate.heard(host, is_well);
        }
    }

    fn admit(&self, response: &reqwest::Response, coming: Coming, asked: Asked<'_>) -> Result<(), Failed> {
        if let Some(coding) = headers::coding(response.headers()) {
            let coding: String = String::from_utf8_lossy(coding.as_bytes()).chars().take(64).collect();
            return Err(Failed::new(FailureCode::DownloadEncoding, format!("the body came encoded as {coding:?}")));
        }
        match coming.total.max(coming.end) {
            Some(bytes) if bytes > self.bytes_max && !asked.any_length => {
                Err(too_large(self.bytes_max).with("declared_bytes", bytes))
            }
            _ => Ok(()),
        }
    }
}

fn blocked(message: String) -> Failed {
    Failed::new(FailureCode::DownloadBlockedAddress, message)
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

pub(super) fn at(failed: Failed, target: &Target, redirects: u32) -> Failed {
    let failed = failed.with("host", target.host_port()).with("url", target.shown());
    if redirects > 0 { failed.with("redirects", redirects) } else { failed }
}
