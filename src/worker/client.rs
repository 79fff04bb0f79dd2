//! Which HTTP client makes a request: the direct one, or one that goes through a proxy.
//!
//! Owns: how clients are made, and how many are kept. Must not know: tasks, which proxy is chosen for what.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Client;

use super::resolve::{GuardedResolver, Net};
use super::{Guard, Options};

/// Idle connections kept for each host: as many as one host usually has in flight.
const IDLE_PER_HOST: usize = 16;
const IDLE_MAX: Duration = Duration::from_secs(30);
/// An HTTP/2 connection is shared and outlives a request that timed out on it: only a ping tells that its other end is gone.
const PING_AFTER: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Proxies whose connections are kept. A client costs its idle connections and a TLS configuration, and few pools rotate
/// over more proxies than this at a time.
const CLIENTS_MAX: usize = 64;

/// The way a request takes.
#[derive(Clone)]
pub(super) enum Via {
    Direct,
    #[allow(dead_code)]
    Proxy {
        /// One client for each: it stands for the address and the credentials.
        key: String,
        /// For the job's log, without credentials.
        name: String,
        /// The proxy's host as its URL has it; the guard does not judge it.
        host: String,
        proxy: Box<reqwest::Proxy>,
    },
}

impl Via {
    pub(super) fn is_direct(&self) -> bool {
        match self {
            Via::Direct => true,
            Via::Proxy { .. } => false,
        }
    }
}

pub(super) struct Clients {
    connect_timeout: Duration,
    guard: Arc<Guard>,
    net: Arc<dyn Net>,
    direct: Client,
    /// The latest used last.
    through: Mutex<VecDeque<(String, Client)>>,
}

impl Clients {
    pub(super) fn new(options: &Options, guard: Arc<Guard>, net: Arc<dyn Net>) -> Result<Self, String> {
        let connect_timeout = Duration::from_millis(options.connect_timeout_ms);
        let resolver = GuardedResolver { guard: guard.clone(), net: net.clone(), trusted: None };
        let direct = build(connect_timeout, net.as_ref(), Arc::new(resolver), None)?;
        Ok(Self { connect_timeout, guard, net, direct, through: Mutex::default() })
    }

    pub(super) fn direct(&self) -> &Client {
        &self.direct
    }

    /// The client of this proxy, made at its first use. `Err`: the settings make no client.
    pub(super) fn through(&self, proxy: &reqwest::Proxy, host: &str, key: &str) -> Result<Client, String> {
        let mut kept = self.through.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(|(known, _)| known == key) {
            let found = kept.remove(at).map(|(_, client)| client);
            if let Some(client) = found {
                kept.push_back((key.to_owned(), client.clone()));
                return Ok(client);
            }
        }
        let (guard, net) = (self.guard.clone(), self.net.clone());
        let resolver = GuardedResolver { guard, net, trusted: Some(host.to_owned()) };
        let client = build(self.connect_timeout, self.net.as_ref(), Arc::new(resolver), Some(proxy))?;
        if kept.len() >= CLIENTS_MAX {
            kept.pop_front();
        }
        kept.push_back((key.to_owned(), client.clone()));
        Ok(client)
    }

    pub(super) fn of(&self, via: &Via) -> Result<Client, String> {
        match via {
            Via::Direct => Ok(self.direct().clone()),
            Via::Proxy { key, host, proxy, .. } => self.through(proxy, host, key),
        }
    }
}

fn build(
    connect_timeout: Duration,
    net: &dyn Net,
    resolver: Arc<GuardedResolver>,
    proxy: Option<&reqwest::Proxy>,
) -> Result<Client, String> {
    let builder = || {
        let builder = Client::builder()
            .connect_timeout(connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            // The queue is the one that retries, and it remembers.
            .retry(reqwest::retry::never())
            // The environment must not be able to send our requests elsewhere.
            .no_proxy()
            .referer(false)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .pool_idle_timeout(IDLE_MAX)
            .http2_keep_alive_interval(PING_AFTER)
            .http2_keep_alive_timeout(PING_TIMEOUT);
        let builder = proxy.cloned().into_iter().fold(builder, reqwest::ClientBuilder::proxy);
        net.wire(builder, resolver.clone())
    };
    builder().build().or_else(|error| {
        tracing::warn!(%error, "no certificates on this machine: downloads over https will fail");
        builder().tls_certs_only([]).build().map_err(|error| format!("no HTTP client can be made: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::resolve::System;
    use super::*;

    #[test]
    fn a_crowd_of_proxies_does_not_keep_clients_without_end() {
        crate::objects::install_tls_provider();
        let options = Options::default();
        let clients = Clients::new(&options, Arc::default(), Arc::new(System)).unwrap();
        let proxy = reqwest::Proxy::all("http://127.0.0.1:9").unwrap();
        let keys = || clients.through.lock().unwrap().iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
        for at in 0..CLIENTS_MAX {
            clients.through(&proxy, "127.0.0.1", &at.to_string()).unwrap();
        }
        clients.through(&proxy, "127.0.0.1", "0").unwrap();
        clients.through(&proxy, "127.0.0.1", "new").unwrap();
        let keys = keys();
        assert_eq!(keys.len(), CLIENTS_MAX);
        assert!(keys.contains(&"0".to_owned()) && !keys.contains(&"1".to_owned()), "the least used one goes");
    }
}
