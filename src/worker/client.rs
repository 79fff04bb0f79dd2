//! How an HTTP client is made, for direct connections and for those through one proxy.
//!
//! Must not know: tasks, which proxy is chosen for what.

use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::Resolve;
use reqwest::{Client, ClientBuilder, Proxy};

use super::resolve::{GuardedResolver, Net};
use super::{Guard, Options};

/// Idle connections kept for each host: as many as one host usually has in flight.
const IDLE_PER_HOST: usize = 16;
const IDLE_MAX: Duration = Duration::from_secs(30);
/// An HTTP/2 connection is shared and outlives a request that timed out on it: only a ping tells that its other end is gone.
const PING_AFTER: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to nothing but addresses that were checked. The second never uses a connection twice.
pub(super) fn direct(options: &Options, guard: &Arc<Guard>, net: &Arc<dyn Net>) -> Result<(Client, Client), String> {
    let resolver = Arc::new(GuardedResolver { guard: guard.clone(), net: net.clone() });
    let anew = made(options, net.as_ref(), resolver.clone(), |builder| builder.pool_max_idle_per_host(0))?;
    Ok((build(options, net.as_ref(), resolver, None)?, anew))
}

/// `resolver` decides what is connected to: an address in a URL never meets it.
pub(super) fn build(
    options: &Options,
    net: &dyn Net,
    resolver: Arc<dyn Resolve>,
    proxy: Option<Proxy>,
) -> Result<Client, String> {
    made(options, net, resolver, |builder| proxy.iter().cloned().fold(builder, ClientBuilder::proxy))
}

fn made(
    options: &Options,
    net: &dyn Net,
    resolver: Arc<dyn Resolve>,
    but: impl Fn(ClientBuilder) -> ClientBuilder,
) -> Result<Client, String> {
    let builder = || {
        let builder = Client::builder()
            .connect_timeout(Duration::from_millis(options.connect_timeout_ms))
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
        net.wire(but(builder), resolver.clone())
    };
    builder().build().or_else(|error| {
        tracing::warn!(%error, "no certificates on this machine: downloads over https will fail");
        builder().tls_certs_only([]).build().map_err(|error| format!("no HTTP client can be made: {error}"))
    })
}
