//! The HTTP clients of the proxies that were used last: a client has one proxy for all its requests.
//!
//! Owns: how many there are. Must not know: how one is made.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Each keeps its connections and the certificates it trusts in memory.
const CLIENTS_MAX: usize = 64;

/// Least recently used goes first.
#[derive(Default)]
pub(in crate::worker) struct Clients(Mutex<VecDeque<(usize, reqwest::Client)>>);

impl Clients {
    /// The client of the proxy with this number; made if there is none.
    pub(in crate::worker) fn of(
        &self,
        id: usize,
        make: impl FnOnce() -> Result<reqwest::Client, String>,
    ) -> Result<reqwest::Client, String> {
        if let Some(client) = self.used(id) {
            return Ok(client);
        }
        // Not under the lock: it reads the machine's certificates. Of two made at once, one is dropped after its requests.
        let client = make()?;
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|(other, _)| *other != id);
        clients.push_back((id, client.clone()));
        if clients.len() > CLIENTS_MAX {
            clients.pop_front();
        }
        Ok(client)
    }

    fn used(&self, id: usize) -> Option<reqwest::Client> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = clients.iter().position(|(other, _)| *other == id)?;
        let found = clients.remove(at)?;
        let client = found.1.clone();
        clients.push_back(found);
        Some(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_used_last_keeps_its_connections_and_memory_stays_bounded() {
        crate::objects::install_tls_provider();
        let client = reqwest::Client::builder().tls_certs_only([]).build().unwrap();
        let clients = Clients::default();
        let of = |id: usize| {
            let mut made = false;
            let make = || {
                made = true;
                Ok(client.clone())
            };
            clients.of(id, make).unwrap();
            made
        };
        assert!((0..CLIENTS_MAX).all(of));
        assert!(!of(0), "it is there");
        assert!(of(CLIENTS_MAX), "a new one pushes out the one that was not used for longest");
        assert!(!of(0) && of(1));
        assert_eq!(clients.0.lock().unwrap().len(), CLIENTS_MAX);
        assert_eq!(clients.of(999, || Err("no".into())).unwrap_err(), "no");
    }
}
