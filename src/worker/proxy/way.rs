//! The way one attempt's requests go: directly, or through one proxy after another until one works.
//!
//! Owns: how many proxies an attempt tries, and what it says when none worked. Must not know: how a request is made.

use super::super::classify::{self, Failed};
use super::super::target::Target;
use super::blame;
use super::pools::{Chosen, Heard, NoProxy, Proxies, Route};
use crate::clock::Clock;
use crate::model::{FailureCode, ProxyHint};

/// Each may take a whole connect timeout: a task should not hold its host's place for longer.
const ROUTES_MAX: usize = 3;

/// Whether a request that is tried again may have come to the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum Reached {
    No,
    Perhaps,
}

/// One attempt's way. Without a hint it is direct, and everything here is a no-op.
pub(in crate::worker) struct Way {
    proxies: Proxies,
    hint: Option<ProxyHint>,
    clock: Clock,
    /// What is used now, for all hops, so that an origin sees one client.
    route: Option<Route>,
    tried: Vec<usize>,
    /// Why the latest of them was given up.
    last: Option<Failed>,
    /// All that were given up may be well, and the origin dead.
    in_doubt: bool,
    /// One of them was, at least.
    any_doubt: bool,
}

impl Way {
    pub(in crate::worker) fn new(proxies: Proxies, hint: Option<&ProxyHint>, clock: Clock) -> Self {
        Self {
            proxies,
            hint: hint.cloned(),
            clock,
            route: None,
            tried: Vec::new(),
            last: None,
            in_doubt: true,
            any_doubt: false,
        }
    }

    /// What the next request goes through; None: directly, because no proxy is demanded or an operator allows it.
    ///
    /// # Errors
    /// None is left, or the attempt has tried enough.
    pub(in crate::worker) fn next(&mut self) -> Result<Option<Chosen>, Failed> {
        let Some(hint) = &self.hint else { return Ok(None) };
        let route = match self.route.take() {
            Some(route) => route,
            None if self.tried.len() >= ROUTES_MAX => return Err(self.none_left(None)),
            None => match self.proxies.route(hint, &self.tried, self.clock.now_ms()) {
                // An origin can make any proxy look like that, and would learn our own address.
                Ok(Route::Direct) if self.any_doubt => return Err(self.none_left(None)),
                Ok(route) => route,
                Err(none) => return Err(self.none_left(Some(none))),
            },
        };
        let chosen = match &route {
            Route::Proxy(chosen) => Some(chosen.clone()),
            Route::Direct => None,
        };
        self.route = Some(route);
        Ok(chosen)
    }

    /// A request got no answer. `Ok`: the next proxy can be tried.
    pub(in crate::worker) fn failed(&mut self, error: reqwest::Error, target: &Target) -> Result<Reached, Failed> {
        let Some(Route::Proxy(chosen)) = &self.route else { return Err(classify::request(error)) };
        let (text, is_connect) = (blame::text_of(&error), error.is_connect());
        let failed = classify::request(error);
        match blame::of_error(&text, is_connect, failed.failure.code, &chosen.endpoint, is_https(target)) {
            None => Err(failed),
            Some(heard) => {
                self.give_up(heard, failed);
                Ok(reached(heard))
            }
        }
    }

    /// An answer came. `Some`: it may be the proxy's own, and the next one is to be tried.
    pub(in crate::worker) fn answered(&mut self, status: u16, target: &Target) -> Option<Reached> {
        let Some(Route::Proxy(chosen)) = &self.route else { return None };
        if blame::may_refuse(status, &chosen.endpoint, is_https(target)) {
            // Not the origin's word on the resource as long as it may be the proxy's on us.
            let message = format!("the proxy, or the origin behind it, answered {status}");
            self.give_up(Heard::Doubtful, Failed::new(FailureCode::DownloadNoProxy, message));
            return Some(Reached::Perhaps);
        }
        if let Some(heard) = blame::of_answer(status, &chosen.endpoint, is_https(target)) {
            self.report(heard);
        }
        None
    }

    /// The whole body came.
    pub(in crate::worker) fn ended(&self) {
        self.report(Heard::Well);
    }

    /// Silence, or a body that broke off: the next attempt may take another proxy.
    pub(in crate::worker) fn broke(&self) {
        self.report(Heard::Doubtful);
    }

    /// For people: pool and proxy, without credentials. None: no proxy is demanded.
    pub(in crate::worker) fn shown(&self) -> Option<String> {
        let hint = self.hint.as_ref()?;
        Some(match &self.route {
            Some(Route::Proxy(chosen)) => shown(chosen),
            Some(Route::Direct) => format!("{} direct", hint.primary_pool),
            None => hint.primary_pool.clone(),
        })
    }

    /// Adds which proxy it was, unless that is known.
    pub(in crate::worker) fn tell(&self, failed: Failed) -> Failed {
        match self.shown() {
            Some(shown) if !failed.failure.context.contains_key("proxy") => failed.with("proxy", shown),
            _ => failed,
        }
    }

    fn report(&self, heard: Heard) {
        if let Some(Route::Proxy(chosen)) = &self.route {
            self.proxies.report(chosen, heard, self.clock.now_ms());
        }
    }

    fn give_up(&mut self, heard: Heard, failed: Failed) {
        self.report(heard);
        self.in_doubt &= heard == Heard::Doubtful;
        self.any_doubt |= heard == Heard::Doubtful;
        if let Some(Route::Proxy(chosen)) = self.route.take() {
            self.last = Some(failed.with("proxy", shown(&chosen)));
            self.tried.push(chosen.id);
        }
    }

    fn none_left(&mut self, none: Option<NoProxy>) -> Failed {
        let last = match self.last.take() {
            // As many proxies as that do not fail alike: it is the origin.
            Some(last) if self.in_doubt => return last,
            last => last,
        };
        let retry_after = none.as_ref().and_then(|none| none.retry_after);
        let mut message =
            none.map_or_else(|| "the proxies that were tried do not work".to_owned(), |none| none.message);
        if let Some(last) = last {
            let proxy = last.failure.context.get("proxy").map_or("", String::as_str);
            message.push_str(&format!("; {proxy}: {}", last.failure.message));
        }
        let pool = self.hint.as_ref().map_or("", |hint| hint.primary_pool.as_str());
        let failed = Failed::new(FailureCode::DownloadNoProxy, message).with("proxy", pool);
        Failed { retry_after, ..failed }
    }
}

fn reached(heard: Heard) -> Reached {
    if heard == Heard::Doubtful { Reached::Perhaps } else { Reached::No }
}

fn is_https(target: &Target) -> bool {
    target.url().scheme() == "https"
}

fn shown(chosen: &Chosen) -> String {
    format!("{} {}", chosen.pool, chosen.endpoint.shown())
}
