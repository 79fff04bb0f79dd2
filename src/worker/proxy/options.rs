//! What operators say about proxies (config section `proxies`), and everything that cannot be true of it.
//!
//! Owns: the shape of the section and its checks. Must not know: the file it is read from, which proxy works.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::endpoint::Endpoint;
use super::graph;
use super::health::Limits;
use crate::model::Violation;

/// A label of metrics each, and the depth of a walk.
const POOLS_MAX: usize = 100;
/// Of all pools together: what is kept for each in memory.
const ENDPOINTS_MAX: usize = 1_000;
/// A day: whoever wants a proxy out for longer takes it out of the section.
const COOL_OFF_MAX_MS: u64 = 24 * 60 * 60 * 1_000;

/// The `proxies` section.
///
/// ```yaml
/// proxies:
///   pools:
///     eu: { endpoints: ["http://10.0.0.1:3128", "socks5h://p2"], fallbacks: [world] }
///     world: { endpoints: ["https://proxy.example:8443"], username_file: /etc/fetchbox/user, password_file: /etc/fetchbox/password }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Failures in a row after which a proxy cools off.
    pub failures_max: u32,
    /// The first cooling off; each further one in a row is twice as long.
    pub cool_off_min_ms: u64,
    pub cool_off_max_ms: u64,
    pub pools: BTreeMap<String, PoolOptions>,
}

/// Proxies that stand for each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolOptions {
    /// `http://`, `https://`, `socks5://` or `socks5h://`, host and port; used in turns.
    pub endpoints: Vec<String>,
    /// Files with the user name and the password for all of them, one line each.
    pub username_file: Option<PathBuf>,
    pub password_file: Option<PathBuf>,
    /// Pools that are used when none of these proxies works, best first.
    pub fallbacks: Vec<String>,
    /// Whoever demands this pool may be served without a proxy when no proxy works.
    pub allow_direct: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { failures_max: 3, cool_off_min_ms: 10_000, cool_off_max_ms: 300_000, pools: BTreeMap::new() }
    }
}

impl Options {
    /// The names a proxy hint may use.
    pub fn pool_names(&self) -> BTreeSet<String> {
        self.pools.keys().cloned().collect()
    }

    /// Everything wrong with the section by itself, by key within it. Reads no file: whoever only
    /// looks for the daemon's sockets need not be allowed to read secrets.
    pub fn violations(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut add = |path: String, message: String| found.push(Violation { path, message });
        if self.failures_max == 0 {
            add("failures_max".into(), "must be at least 1".into());
        }
        if self.cool_off_min_ms == 0 || self.cool_off_max_ms > COOL_OFF_MAX_MS {
            add("cool_off_min_ms".into(), "cooling off takes from 1 ms to a day".into());
        }
        if self.cool_off_min_ms > self.cool_off_max_ms {
            add("cool_off_max_ms".into(), "is less than cool_off_min_ms".into());
        }
        let endpoints: usize = self.pools.values().map(|pool| pool.endpoints.len()).sum();
        if self.pools.len() > POOLS_MAX || endpoints > ENDPOINTS_MAX {
            let message = format!("at most {POOLS_MAX} pools and {ENDPOINTS_MAX} endpoints in all");
            add("pools".into(), message);
            return found;
        }
        for (name, pool) in &self.pools {
            let at = format!("pools.{name}");
            if !is_pool_name(name) {
                add(at.clone(), "is not a pool's name: [a-z0-9][a-z0-9._-]{0,63}".into());
            }
            pool.check(&at, &self.pools, &mut add);
        }
        for cycle in graph::cycles(&self.edges()) {
            let path = format!("pools.{}.fallbacks[{}]", cycle.pool, cycle.at);
            add(path, format!("leads back to where it came from: {}", cycle.path.join(" → ")));
        }
        found
    }

    pub(super) fn edges(&self) -> graph::Edges<'_> {
        self.pools.iter().map(|(name, pool)| (name.as_str(), pool.fallbacks.as_slice())).collect()
    }

    pub(super) fn limits(&self) -> Limits {
        let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        Limits {
            failures_max: self.failures_max,
            cool_off_min_ms: ms(self.cool_off_min_ms),
            cool_off_max_ms: ms(self.cool_off_max_ms),
        }
    }
}

impl PoolOptions {
    fn check(&self, at: &str, pools: &BTreeMap<String, PoolOptions>, add: &mut impl FnMut(String, String)) {
        if self.endpoints.is_empty() && self.fallbacks.is_empty() {
            add(format!("{at}.endpoints"), "a pool needs a proxy, or a pool to fall back to".into());
        }
        for (index, text) in self.endpoints.iter().enumerate() {
            if let Err(why) = Endpoint::parse(text) {
                add(format!("{at}.endpoints[{index}]"), why.into());
            }
        }
        for (index, fallback) in self.fallbacks.iter().enumerate() {
            let path = format!("{at}.fallbacks[{index}]");
            if !pools.contains_key(fallback) {
                add(path, format!("no proxy pool is called {fallback:?}"));
            } else if self.fallbacks.iter().take(index).any(|earlier| earlier == fallback) {
                add(path, format!("names {fallback:?} a second time"));
            }
        }
        match (&self.username_file, &self.password_file) {
            (Some(_), None) => add(format!("{at}.password_file"), "is missing beside username_file".into()),
            (None, Some(_)) => add(format!("{at}.username_file"), "is missing beside password_file".into()),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
}

fn is_pool_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 64
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|byte| plain(byte) || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(yaml: &str) -> Vec<(String, String)> {
        let options: Options = serde_yaml::from_str(yaml).unwrap();
        options.violations().into_iter().map(|found| (found.path, found.message)).collect()
    }

    #[test]
    fn everything_wrong_is_told_at_once_by_its_key() {
        let told = found(
            "failures_max: 0\ncool_off_min_ms: 20\ncool_off_max_ms: 10\npools:\n  EU: { endpoints: ['http://p'] }\n  a: {}\n  \
             b: { endpoints: ['http://p', 'p:1', 'http://u:secret@p'], fallbacks: [a, gone, a], username_file: x }\n",
        );
        let paths: Vec<&str> = told.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "failures_max",
                "cool_off_max_ms",
                "pools.EU",
                "pools.a.endpoints",
                "pools.b.endpoints[1]",
                "pools.b.endpoints[2]",
                "pools.b.fallbacks[1]",
                "pools.b.fallbacks[2]",
                "pools.b.password_file",
            ]
        );
        assert!(!format!("{told:?}").contains("secret"));
    }

    #[test]
    fn a_circle_of_fallbacks_is_told_with_its_path_and_a_diamond_is_fine() {
        let pools = |text: &str| format!("pools: {{ {text} }}");
        let one = |fallbacks: &str| format!("{{ endpoints: ['http://p'], fallbacks: [{fallbacks}] }}");
        let circle = pools(&format!("eu: {}, world: {}", one("world"), one("eu")));
        let [(path, message)] = found(&circle).try_into().unwrap();
        assert_eq!(path, "pools.world.fallbacks[0]");
        assert!(message.contains("eu → world → eu"), "{message}");
        let (top, side, end) = (one("left, right"), one("end"), one(""));
        assert_eq!(found(&pools(&format!("top: {top}, left: {side}, right: {side}, end: {end}"))), []);
    }

    #[test]
    fn a_section_larger_than_the_bounds_is_refused() {
        let endpoints = vec!["http://p".to_owned(); 501];
        let pool = PoolOptions { endpoints, ..PoolOptions::default() };
        let pools = |count: usize, pool: &PoolOptions| {
            let pools = (0..count).map(|at| (format!("p{at}"), pool.clone())).collect();
            Options { pools, ..Options::default() }.violations().len()
        };
        assert_eq!((pools(1, &pool), pools(2, &pool)), (0, 1));
        let small = PoolOptions { endpoints: vec!["http://p".to_owned()], ..PoolOptions::default() };
        assert_eq!((pools(100, &small), pools(101, &small)), (0, 1));
    }
}
