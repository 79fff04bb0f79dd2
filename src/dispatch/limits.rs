//! What operators allow hosts to be asked: settings, their checks, and which of them count for a host.
//!
//! Pure. Must not know: attempts, what runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::rate::Rate;
use super::{Options, breaker, millis};
use crate::model::Violation;
use crate::worker::host_port;

/// Hosts that can have settings of their own.
const OVERRIDES_MAX: usize = 10_000;
/// One request in an hour; slower would hold attempts for longer than anybody waits.
const PER_SECOND_MIN: f64 = 1.0 / 3_600.0;
const PER_SECOND_MAX: f64 = 1_000_000.0;

/// What is different for one host; what is left out is as for all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostOptions {
    /// Attempts that run at once there.
    pub in_flight: Option<u32>,
    /// Requests a second; 0: no limit.
    pub per_second: Option<f64>,
    /// Requests that may come at once after a rest.
    pub burst: Option<u32>,
}

/// The limits of one host.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostRules {
    pub in_flight: u32,
    pub rate: Rate,
}

#[derive(Debug, Clone)]
pub(super) struct Rules {
    each: HostRules,
    /// By `host` or `host:port`.
    own: BTreeMap<String, HostRules>,
    /// Of all hosts together.
    pub rate: Rate,
    pub breaker: breaker::Rules,
    /// Attempts that may wait at one host they came to from elsewhere: each holds one of the places of all hosts.
    pub waiting_max: u32,
}

impl Rules {
    pub fn new(options: &Options) -> Self {
        let each = |own: &HostOptions| HostRules {
            in_flight: own.in_flight.unwrap_or(options.per_host).max(1),
            rate: Rate::new(
                own.per_second.unwrap_or(options.per_host_per_second),
                own.burst.unwrap_or(options.per_host_burst),
            ),
        };
        Self {
            each: each(&HostOptions::default()),
            own: options.hosts.iter().map(|(host, own)| (host.clone(), each(own))).collect(),
            rate: Rate::new(options.per_second, 1),
            breaker: breaker::Rules {
                failures: options.breaker_failures,
                min_ms: millis(options.breaker_min_ms),
                max_ms: millis(options.breaker_max_ms),
                give_up_ms: millis(options.breaker_give_up_ms),
            },
            waiting_max: (options.in_flight / 4).max(1),
        }
    }

    /// `host` is normalised `host:port`.
    pub fn of(&self, host: &str) -> HostRules {
        if self.own.is_empty() {
            return self.each;
        }
        let name = || host.rsplit_once(':').and_then(|(name, _)| self.own.get(name));
        self.own.get(host).or_else(name).copied().unwrap_or(self.each)
    }
}

/// What makes no sense in the settings above.
pub(super) fn violations(options: &Options) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut wrong = |path: String, message: &str| found.push(Violation { path, message: message.to_owned() });
    for (path, rate) in [("per_second", options.per_second), ("per_host_per_second", options.per_host_per_second)] {
        if !is_rate(rate) {
            wrong(path.to_owned(), RATE);
        }
    }
    if options.per_host_burst == 0 {
        wrong("per_host_burst".to_owned(), "must be at least 1");
    }
    if options.hosts.len() > OVERRIDES_MAX {
        wrong("hosts".to_owned(), "has more than 10000 entries");
    }
    for (host, own) in &options.hosts {
        let at = |key: &str| format!("hosts.{host}{key}");
        if !is_name(host) {
            wrong(at(""), "is not a host, or host:port, in the form FetchBox uses: lower case, no scheme, no path");
        }
        if own.in_flight == Some(0) {
            wrong(at(".in_flight"), "must be at least 1");
        }
        if own.burst == Some(0) {
            wrong(at(".burst"), "must be at least 1");
        }
        if own.per_second.is_some_and(|rate| !is_rate(rate)) {
            wrong(at(".per_second"), RATE);
        }
    }
    if options.breaker_min_ms == 0 || options.breaker_min_ms > options.breaker_max_ms {
        wrong("breaker_min_ms".to_owned(), "must be at least 1 and not greater than breaker_max_ms");
    }
    found
}

const RATE: &str = "must be 0 for no limit, or between one in an hour (0.00028) and 1000000";

fn is_rate(rate: f64) -> bool {
    rate == 0.0 || (PER_SECOND_MIN..=PER_SECOND_MAX).contains(&rate)
}

fn is_name(host: &str) -> bool {
    let name = host_port(&format!("http://{host}/"));
    name.is_some_and(|name| name == host || name.strip_suffix(":80") == Some(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(host: &str) -> Options {
        let own = HostOptions { in_flight: Some(2), ..HostOptions::default() };
        Options { hosts: [(host.to_owned(), own)].into(), ..Options::default() }
    }

    #[test]
    fn a_host_is_named_with_its_port_or_for_all_its_ports() {
        for (named, host, in_flight) in [
            ("example.com", "example.com:443", 2),
            ("example.com", "example.com:8080", 2),
            ("example.com:443", "example.com:443", 2),
            ("example.com:443", "example.com:80", 16),
            ("[::1]", "[::1]:80", 2),
        ] {
            assert!(violations(&own(named)).is_empty(), "{named}");
            assert_eq!(Rules::new(&own(named)).of(host).in_flight, in_flight, "{named} {host}");
        }
    }

    #[test]
    fn a_name_that_would_never_match_is_refused() {
        for bad in ["Example.com", "http://example.com", "example.com/", "", "a b", "example.com.", "u@example.com"] {
            assert!(!violations(&own(bad)).is_empty(), "{bad}");
        }
    }

    #[test]
    fn a_rate_that_is_no_rate_is_refused() {
        for bad in [-1.0, f64::NAN, f64::INFINITY, 1e-9, 1e9] {
            let options = Options { per_host_per_second: bad, ..Options::default() };
            assert_eq!(violations(&options).len(), 1, "{bad}");
        }
    }
}
