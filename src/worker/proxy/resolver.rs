//! Names, when a proxy stands between.
//!
//! Owns: which names are looked up here, and under whose rule. Must not know: requests.

use std::net::IpAddr;
use std::sync::Arc;

use reqwest::dns::{Name, Resolve, Resolving};

use super::super::Guard;
use super::super::resolve::{Blocked, GuardedResolver, Net, without_port};
use super::endpoint::{Endpoint, Scheme};

/// For the client of one proxy. The proxy's own name stands under no guard: an operator wrote it.
pub(in crate::worker) struct ProxyResolver {
    guard: Arc<Guard>,
    net: Arc<dyn Net>,
    proxy: String,
    scheme: Scheme,
}

impl ProxyResolver {
    pub(in crate::worker) fn new(endpoint: &Endpoint, guard: Arc<Guard>, net: Arc<dyn Net>) -> Self {
        Self { guard, net, proxy: endpoint.host().to_owned(), scheme: endpoint.scheme }
    }
}

impl Resolve for ProxyResolver {
    fn resolve(&self, name: Name) -> Resolving {
        if name.as_str().eq_ignore_ascii_case(&self.proxy) {
            let net = self.net.clone();
            return Box::pin(async move { Ok(without_port(net.lookup(name.as_str()).await?)) });
        }
        match self.scheme {
            Scheme::Socks5 => self.resolved_here(name),
            // Nothing but the proxy is ever connected to: a second wall before a direct connection.
            Scheme::Http | Scheme::Https | Scheme::Socks5h => {
                Box::pin(async { Err("only the proxy's own name is looked up".into()) })
            }
        }
    }
}

impl ProxyResolver {
    /// The library asks here for literals too, and leaves the brackets on.
    fn resolved_here(&self, name: Name) -> Resolving {
        let text = name.as_str();
        let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() else {
            return GuardedResolver { guard: self.guard.clone(), net: self.net.clone() }.resolve(name);
        };
        let checked = self.guard.check(address);
        let blocked = |what| Blocked { name: text.to_owned(), address: address.to_string(), what };
        let answer = checked.map_err(blocked);
        Box::pin(async move {
            answer?;
            Ok(without_port(vec![address]))
        })
    }
}
