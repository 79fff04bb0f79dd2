//! Names to addresses, with the guard in between: a connection is made to nothing but an address that was checked.
//!
//! Must not know: URLs, requests, which proxy is used.

use std::error::Error as StdError;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::ClientBuilder;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::Guard;

/// The name leads to an address that is not public and not allowed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{name} leads to {address}, which is {what}")]
pub(super) struct Blocked {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) what: &'static str,
}

/// The name has no address.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{name} has no address")]
pub(super) struct NoHost {
    pub(super) name: String,
}

/// The name could not be looked up now.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{name} could not be resolved: {why}")]
pub(super) struct LookupFailed {
    pub(super) name: String,
    pub(super) why: String,
}

/// What stands between a download and the network. Tests put a trap in its place.
#[async_trait]
pub(super) trait Net: Send + Sync {
    /// All addresses of a name, unchecked.
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>>;

    /// `resolver` hands out checked addresses; a connection is made to nothing else.
    fn wire(&self, builder: ClientBuilder, resolver: Arc<dyn Resolve>) -> ClientBuilder {
        builder.dns_resolver(resolver)
    }
}

/// The machine's own resolver and network.
pub(super) struct System;

#[async_trait]
impl Net for System {
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.map(|found| found.ip()).collect())
    }
}

pub(super) struct GuardedResolver {
    pub(super) guard: Arc<Guard>,
    pub(super) net: Arc<dyn Net>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, net) = (self.guard.clone(), self.net.clone());
        Box::pin(async move {
            let found = lookup(net.as_ref(), name.as_str()).await?;
            admit(&guard, name.as_str(), &found)?;
            Ok(without_port(found))
        })
    }
}

/// The connector puts its own port in place of 0.
pub(super) fn without_port(found: Vec<IpAddr>) -> Addrs {
    Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0)))
}

type Refused = Box<dyn StdError + Send + Sync>;

/// Whether a name leads to an address that is refused, as far as can be seen from here: a name that only a proxy knows, or
/// that is not answered in time, is left to the proxy.
pub(super) async fn leads_inside(guard: &Guard, net: &dyn Net, name: &str, patience: Duration) -> Result<(), Blocked> {
    match tokio::time::timeout(patience, net.lookup(name)).await {
        Ok(Ok(found)) => admit(guard, name, &found),
        Ok(Err(_)) | Err(_) => Ok(()),
    }
}

async fn lookup(net: &dyn Net, name: &str) -> Result<Vec<IpAddr>, Refused> {
    match net.lookup(name).await {
        Ok(found) if found.is_empty() => Err(NoHost { name: name.to_owned() }.into()),
        Ok(found) => Ok(found),
        Err(error) if is_no_host(&error.to_string()) => Err(NoHost { name: name.to_owned() }.into()),
        Err(error) => Err(LookupFailed { name: name.to_owned(), why: error.to_string() }.into()),
    }
}

/// One bad address refuses the name: an attacker who mixes them must not get a draw.
fn admit(guard: &Guard, name: &str, found: &[IpAddr]) -> Result<(), Blocked> {
    for address in found {
        guard.check(*address).map_err(|what| Blocked { name: name.to_owned(), address: address.to_string(), what })?;
    }
    Ok(())
}

/// The resolver tells "no such name" and "no answer" apart by text only.
fn is_no_host(text: &str) -> bool {
    [
        "Name or service not known",
        "Name does not resolve",
        "No address associated with hostname",
        "nodename nor servname",
    ]
    .iter()
    .any(|known| text.contains(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_one_inner_address_is_refused_whole() {
        let guard = Guard::default();
        let public: IpAddr = "8.8.8.8".parse().unwrap();
        let inner: IpAddr = "::ffff:169.254.169.254".parse().unwrap();
        assert!(admit(&guard, "a.example", &[public]).is_ok());
        assert_eq!(admit(&guard, "a.example", &[public, inner]).unwrap_err().what, "link-local");
    }

    #[test]
    fn a_resolver_that_is_down_is_not_a_missing_host() {
        assert!(is_no_host("failed to lookup address information: Name or service not known"));
        assert!(!is_no_host("failed to lookup address information: Temporary failure in name resolution"));
    }
}
