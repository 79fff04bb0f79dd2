//! The pools as they are now: which proxy takes the next request.
//!
//! Owns: tiers, turns, and every proxy's health. Must not know: how a request is made, what its error means.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::endpoint::Endpoint;
use super::graph;
use super::health::{Fault, Health, Limits, Taken};
use super::options::{Options, PoolOptions};
use super::secrets::{Credentials, Unread};
use crate::model::{ProxyHint, Violation};
use crate::telemetry::{Counter, Metrics};

/// Every configured pool. Cheap to clone; all clones share one view of the proxies' health.
#[derive(Clone)]
pub struct Proxies(Arc<Inner>);

struct Inner {
    pools: Vec<Pool>,
    by_name: BTreeMap<String, usize>,
    limits: Limits,
    /// One for each pool. Held for moments, never across an await.
    turns: Mutex<Vec<Turns>>,
}

struct Pool {
    name: Arc<str>,
    endpoints: Vec<Arc<Endpoint>>,
    /// Number of its first endpoint among all.
    first: usize,
    /// It and its fallbacks, as pools are asked.
    chain: Vec<usize>,
    allow_direct: bool,
    requests: Counter,
    failures: Counter,
}

struct Turns {
    /// The place that is looked at first.
    next: usize,
    health: Vec<Health>,
}

/// How the next request goes.
#[derive(Debug, Clone)]
pub(super) enum Route {
    Proxy(Chosen),
    /// Without one: an operator allows it.
    Direct,
}

#[derive(Debug, Clone)]
pub(in crate::worker) struct Chosen {
    /// Its number among all: the same as long as the daemon runs.
    pub(in crate::worker) id: usize,
    pub(super) pool: Arc<str>,
    pub(in crate::worker) endpoint: Arc<Endpoint>,
    pool_at: usize,
    place: usize,
    taken: Taken,
}

/// What a request through a proxy showed of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    Well,
    /// It does not answer, does not want us, or talks nonsense.
    Broken,
    /// It failed, and the origin behind it may be the reason.
    Doubtful,
}

/// No proxy of the pools that were named can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoProxy {
    pub(super) message: String,
    /// When the first of them is tried again; None: they work, but each was tried already.
    pub(super) retry_after: Option<Duration>,
}

impl Proxies {
    /// Everything about the pools' files with secrets that [`Proxies::new`] would fail on, by key within the section. Reads them.
    pub fn secret_faults(options: &Options) -> Vec<Violation> {
        let faults = options.pools.iter().flat_map(|(name, pool)| {
            let faults = credentials(pool).err().unwrap_or_default().into_iter();
            faults.map(move |(key, message)| Violation { path: format!("pools.{name}.{key}"), message })
        });
        faults.collect()
    }

    /// Reads the pools' credentials.
    ///
    /// # Errors
    /// `proxies.key: why`, for the operator.
    pub fn new(options: &Options, metrics: &Metrics) -> Result<Self, String> {
        if let Some(first) = options.violations().first() {
            return Err(format!("proxies.{}: {}", first.path, first.message));
        }
        let by_name: BTreeMap<String, usize> =
            options.pools.keys().enumerate().map(|(at, name)| (name.clone(), at)).collect();
        let edges = options.edges();
        let mut pools: Vec<Pool> = Vec::with_capacity(by_name.len());
        for (name, pool) in &options.pools {
            let at = |why: &str| format!("proxies.pools.{name}.{why}");
            let first = |faults: Vec<Unread>| {
                faults.first().map_or_else(String::new, |(key, why)| at(&format!("{key}: {why}")))
            };
            let credentials = credentials(pool).map_err(first)?;
            let endpoint = |text: &String| Endpoint::parse(text)?.with(credentials.clone()).map(Arc::new);
            let endpoints = pool.endpoints.iter().map(endpoint).collect::<Result<Vec<_>, _>>();
            let chain = graph::breadth_first(name, &edges);
            pools.push(Pool {
                name: name.as_str().into(),
                endpoints: endpoints.map_err(|why| at(&format!("endpoints: {why}")))?,
                first: pools.last().map_or(0, |before| before.first + before.endpoints.len()),
                chain: chain.into_iter().filter_map(|name| by_name.get(name).copied()).collect(),
                allow_direct: pool.allow_direct,
                requests: metrics.proxy_requests.with_label_values(&[name]),
                failures: metrics.proxy_failures.with_label_values(&[name]),
            });
        }
        let turns = pools.iter().map(|pool| Turns { next: 0, health: vec![Health::default(); pool.endpoints.len()] });
        let turns = Mutex::new(turns.collect());
        Ok(Self(Arc::new(Inner { by_name, limits: options.limits(), turns, pools })))
    }

    /// No pools: whoever demands one is refused.
    pub(in crate::worker) fn none() -> Self {
        let limits = Options::default().limits();
        Self(Arc::new(Inner { pools: Vec::new(), by_name: BTreeMap::new(), limits, turns: Mutex::default() }))
    }

    /// The next proxy for whoever wants these pools, without those whose numbers are in `tried`: breadth-first over the
    /// first pool and its fallbacks, then over the hint's own fallbacks; within a pool in turns.
    pub(super) fn route(&self, hint: &ProxyHint, tried: &[usize], now_ms: i64) -> Result<Route, NoProxy> {
        let inner = &*self.0;
        let order = inner.order(hint);
        if order.is_empty() {
            let message = format!("no proxy pool is called {:?}", hint.primary_pool);
            return Err(NoProxy { message, retry_after: None });
        }
        let mut turns = inner.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // A second look for those that may be well: better than none.
        for is_last_look in [false, true] {
            for &at in &order {
                let (Some(pool), Some(turns)) = (inner.pools.get(at), turns.get_mut(at)) else { continue };
                if let Some(chosen) = pool.take(at, turns, tried, now_ms, inner.limits, is_last_look) {
                    pool.requests.inc();
                    return Ok(Route::Proxy(chosen));
                }
            }
        }
        let demanded = inner.by_name.get(&hint.primary_pool).and_then(|at| inner.pools.get(*at));
        if demanded.is_some_and(|pool| pool.allow_direct) {
            return Ok(Route::Direct);
        }
        let all = order.iter().filter_map(|at| turns.get(*at)).flat_map(|turns| &turns.health);
        let soonest = all.map(|health| health.wait_ms(now_ms, inner.limits)).min().filter(|wait| *wait > 0);
        Err(NoProxy {
            message: format!("no proxy of pool {:?} and its fallbacks can be used now", hint.primary_pool),
            retry_after: soonest.map(|wait| Duration::from_millis(wait.unsigned_abs())),
        })
    }

    pub(super) fn report(&self, chosen: &Chosen, heard: Heard, now_ms: i64) {
        let inner = &*self.0;
        let mut turns = inner.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(pool), Some(turns)) = (inner.pools.get(chosen.pool_at), turns.get_mut(chosen.pool_at)) else {
            return;
        };
        let Some(health) = turns.health.get_mut(chosen.place) else { return };
        let fault = match heard {
            Heard::Well => {
                if health.well() {
                    tracing::info!(pool = %pool.name, proxy = chosen.endpoint.shown(), "the proxy works again");
                }
                return;
            }
            Heard::Broken => Fault::Its,
            Heard::Doubtful => Fault::Maybe,
        };
        pool.failures.inc();
        if let Some(wait_ms) = health.failed(fault, chosen.taken, now_ms, inner.limits) {
            tracing::warn!(pool = %pool.name, proxy = chosen.endpoint.shown(), wait_ms, "the proxy fails and is left alone");
        }
    }
}

impl Inner {
    /// Pools as they are asked, each once.
    fn order(&self, hint: &ProxyHint) -> Vec<usize> {
        let named = std::iter::once(&hint.primary_pool).chain(&hint.fallbacks);
        let chains = named.filter_map(|name| self.by_name.get(name)).filter_map(|at| self.pools.get(*at));
        let mut order = Vec::new();
        for at in chains.flat_map(|pool| &pool.chain) {
            if !order.contains(at) {
                order.push(*at);
            }
        }
        order
    }
}

impl Pool {
    fn take(
        &self,
        pool_at: usize,
        turns: &mut Turns,
        tried: &[usize],
        now_ms: i64,
        limits: Limits,
        is_last_look: bool,
    ) -> Option<Chosen> {
        let count = self.endpoints.len();
        for place in (0..count).map(|step| (turns.next + step) % count) {
            if tried.contains(&(self.first + place)) {
                continue;
            }
            let (Some(endpoint), Some(health)) = (self.endpoints.get(place), turns.health.get_mut(place)) else {
                continue;
            };
            let taken = match health.take(now_ms, limits) {
                None if is_last_look && health.may_serve() => Some(Taken::Usual),
                taken => taken,
            };
            if let Some(taken) = taken {
                turns.next = (place + 1) % count;
                let (id, pool, endpoint) = (self.first + place, self.name.clone(), endpoint.clone());
                return Some(Chosen { id, pool, endpoint, pool_at, place, taken });
            }
        }
        None
    }
}

/// None: these proxies want none.
fn credentials(pool: &PoolOptions) -> Result<Option<Credentials>, Vec<Unread>> {
    match (&pool.username_file, &pool.password_file) {
        (Some(username), Some(password)) => Credentials::read(username, password).map(Some),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(yaml: &str) -> Proxies {
        let options: Options = serde_yaml::from_str(yaml).unwrap();
        Proxies::new(&options, &Metrics::new()).unwrap()
    }

    fn tiers() -> Proxies {
        proxies(
            "pools:\n  eu: { endpoints: ['http://e1:1', 'http://e2:1'], fallbacks: [de, fr] }\n  \
             de: { endpoints: ['http://d:1'], fallbacks: [world] }\n  fr: { endpoints: ['http://f:1'], fallbacks: [world] }\n  \
             world: { endpoints: ['http://w:1'] }\n  us: { endpoints: ['http://u:1'] }\n  \
             open: { endpoints: ['http://o:1'], fallbacks: [us], allow_direct: true }\n",
        )
    }

    fn hint(primary: &str, fallbacks: &[&str]) -> ProxyHint {
        ProxyHint { primary_pool: primary.into(), fallbacks: fallbacks.iter().map(|f| (*f).into()).collect() }
    }

    fn chosen(proxies: &Proxies, hint: &ProxyHint, tried: &[usize], now_ms: i64) -> Chosen {
        match proxies.route(hint, tried, now_ms) {
            Ok(Route::Proxy(chosen)) => chosen,
            other => panic!("{other:?}"),
        }
    }

    /// Every proxy in the order in which they are tried when each fails.
    fn tried_in_order(proxies: &Proxies, hint: &ProxyHint, now_ms: i64) -> Vec<String> {
        let (mut tried, mut shown) = (Vec::new(), Vec::new());
        while let Ok(Route::Proxy(chosen)) = proxies.route(hint, &tried, now_ms) {
            tried.push(chosen.id);
            shown.push(chosen.endpoint.shown());
        }
        shown
    }

    fn fail(proxies: &Proxies, hint: &ProxyHint, heard: Heard, now_ms: i64) {
        for _ in 0..3 {
            let mut tried = Vec::new();
            while let Ok(Route::Proxy(chosen)) = proxies.route(hint, &tried, now_ms) {
                tried.push(chosen.id);
                proxies.report(&chosen, heard, now_ms);
            }
        }
    }

    #[test]
    fn tiers_are_asked_in_order_then_the_hints_own_and_each_proxy_once() {
        let proxies = tiers();
        assert_eq!(
            tried_in_order(&proxies, &hint("eu", &["us", "de"]), 0),
            ["e1:1", "e2:1", "d:1", "f:1", "w:1", "u:1"]
        );
        assert_eq!(tried_in_order(&proxies, &hint("gone", &["us"]), 0), ["u:1"]);
    }

    #[test]
    fn the_proxies_of_a_pool_take_turns() {
        let proxies = tiers();
        let shown: Vec<_> = (0..4).map(|_| chosen(&proxies, &hint("eu", &[]), &[], 0).endpoint.shown()).collect();
        assert_eq!(shown, ["e1:1", "e2:1", "e1:1", "e2:1"]);
    }

    #[test]
    fn a_dead_pool_is_passed_over_until_its_cooling_off_ends() {
        let proxies = tiers();
        let us = hint("us", &[]);
        fail(&proxies, &us, Heard::Broken, 1_000);
        let none = proxies.route(&us, &[], 2_000).unwrap_err();
        assert_eq!(none.retry_after, Some(Duration::from_millis(9_000)));
        assert_eq!(chosen(&proxies, &hint("us", &["world"]), &[], 2_000).endpoint.shown(), "w:1");
        let probe = chosen(&proxies, &us, &[], 11_000);
        assert!(proxies.route(&us, &[], 11_000).is_err(), "one probe");
        proxies.report(&probe, Heard::Well, 11_000);
        chosen(&proxies, &us, &[], 11_000);
        chosen(&proxies, &us, &[], 11_000);
    }

    #[test]
    fn dead_origins_do_not_leave_a_pool_without_proxies() {
        let proxies = tiers();
        let eu = hint("eu", &[]);
        fail(&proxies, &eu, Heard::Doubtful, 0);
        assert_eq!(tried_in_order(&proxies, &eu, 1).len(), 5);
        let healthy = hint("eu", &["us"]);
        assert_eq!(chosen(&proxies, &healthy, &[], 1).endpoint.shown(), "u:1", "a proxy without doubt goes first");
    }

    #[test]
    fn nobody_goes_directly_but_who_demands_a_pool_that_allows_it() {
        let proxies = tiers();
        let unknown = proxies.route(&hint("gone", &[]), &[], 0).unwrap_err();
        assert_eq!((unknown.message.contains("gone"), unknown.retry_after), (true, None));
        fail(&proxies, &hint("open", &[]), Heard::Broken, 0);
        assert!(matches!(proxies.route(&hint("open", &[]), &[], 1), Ok(Route::Direct)));
        assert!(proxies.route(&hint("us", &["open"]), &[], 1).is_err(), "a client cannot ask for it");
    }

    #[test]
    fn failures_and_requests_are_counted_by_pool() {
        let options = "pools: { eu: { endpoints: ['http://e:1'] } }";
        let metrics = Metrics::new();
        let proxies = Proxies::new(&serde_yaml::from_str(options).unwrap(), &metrics).unwrap();
        fail(&proxies, &hint("eu", &[]), Heard::Broken, 0);
        let text = metrics.render();
        assert!(text.contains("fetchbox_proxy_failures_total{pool=\"eu\"} 3"), "{text}");
        assert!(text.contains("fetchbox_proxy_requests_total{pool=\"eu\"} 3"), "{text}");
    }
}
