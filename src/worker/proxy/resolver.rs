//! Names, when a proxy stands between.
//!
//! Owns: which names are looked up here, and under whose rule. Must not know: requests.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::super::Guard;
use super::super::resolve::{Blocked, GuardedResolver};
use super::endpoint::{Endpoint, Scheme};

/// For the client of one proxy. The proxy's own name stands under no guard: an operator wrote it.
pub(in crate::worker) struct ProxyResolver {
    guard: Arc<Guard>,
    proxy: String,
    scheme: Scheme,
}

impl ProxyResolver {
    pub(in crate::worker) fn new(endpoint: &Endpoint, guard: Arc<Guard>) -> Self {
        Self { guard, proxy: endpoint.host().to_owned(), scheme: endpoint.scheme }
    }
}

impl Resolve for ProxyResolver {
    fn resolve(&self, name: Name) -> Resolving {
        if name.as_str().eq_ignore_ascii_case(&self.proxy) {
            return Box::pin(async move {
                let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
                Ok(Box::new(found.into_iter()) as Addrs)
            });
        }
        match self.scheme {
            Scheme::Socks5 => resolved_here(&self.guard, name),
            // Nothing but the proxy is ever connected to: a second wall before a direct connection.
            Scheme::Http | Scheme::Https | Scheme::Socks5h => {
                Box::pin(async { Err("only the proxy's own name is looked up".into()) })
            }
        }
    }
}

/// The library asks here for literals too, and leaves the brackets on.
fn resolved_here(guard: &Arc<Guard>, name: Name) -> Resolving {
    let text = name.as_str();
    let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() else {
        return GuardedResolver(guard.clone()).resolve(name);
    };
    let checked = guard.check(address);
    let blocked = |what| Blocked { name: text.to_owned(), address: address.to_string(), what };
    let answer = checked.map_err(blocked);
    Box::pin(async move {
        answer?;
        Ok(Box::new(std::iter::once(SocketAddr::new(address, 0))) as Addrs)
    })
}

/// Whether a name leads to an address that is refused, as far as can be seen from here: a name that only the proxy knows, or
/// that is not answered in time, is left to the proxy.
pub(in crate::worker) async fn leads_inward(guard: &Arc<Guard>, host: &str, patience: Duration) -> Option<Blocked> {
    let name: Name = host.parse().ok()?;
    match tokio::time::timeout(patience, GuardedResolver(guard.clone()).resolve(name)).await {
        Ok(Err(error)) => error.downcast_ref::<Blocked>().cloned(),
        Ok(Ok(_)) | Err(_) => None,
    }
}
