//! Names to addresses, with the guard in between: a connection is made to nothing but an address that was checked.

use std::net::SocketAddr;
use std::sync::Arc;

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

pub(super) struct GuardedResolver(pub(super) Arc<Guard>);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.0.clone();
        Box::pin(async move {
            let name = name.as_str().to_owned();
            let looked_up = tokio::net::lookup_host((name.as_str(), 0)).await.map(Iterator::collect::<Vec<SocketAddr>>);
            let found = match looked_up {
                Ok(found) => found,
                Err(error) if is_no_host(&error.to_string()) => return Err(NoHost { name }.into()),
                Err(error) => return Err(LookupFailed { name, why: error.to_string() }.into()),
            };
            let checked = admit(&guard, &name, found)?;
            Ok(Box::new(checked.into_iter()) as Addrs)
        })
    }
}

/// One bad address refuses the name: an attacker who mixes them must not get a draw.
fn admit(
    guard: &Guard,
    name: &str,
    found: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, Box<dyn std::error::Error + Send + Sync>> {
    if found.is_empty() {
        return Err(NoHost { name: name.to_owned() }.into());
    }
    for address in &found {
        if let Err(what) = guard.check(address.ip()) {
            return Err(Blocked { name: name.to_owned(), address: address.ip().to_string(), what }.into());
        }
    }
    Ok(found)
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
        let public: SocketAddr = "8.8.8.8:0".parse().unwrap();
        let inner: SocketAddr = "[::ffff:169.254.169.254]:0".parse().unwrap();
        assert_eq!(admit(&guard, "a.example", vec![public]).unwrap(), [public]);
        let error = admit(&guard, "a.example", vec![public, inner]).unwrap_err();
        assert!(error.is::<Blocked>());
        assert!(admit(&guard, "a.example", vec![]).unwrap_err().is::<NoHost>());
    }

    #[test]
    fn a_resolver_that_is_down_is_not_a_missing_host() {
        assert!(is_no_host("failed to lookup address information: Name or service not known"));
        assert!(!is_no_host("failed to lookup address information: Temporary failure in name resolution"));
    }
}
