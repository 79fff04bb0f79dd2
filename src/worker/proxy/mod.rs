//! Proxies: which one a request goes through, and which one is left alone.
//!
//! Owns: config section `proxies`, the graph of pools, each proxy's health, and what an error says about a proxy. Must not know:
//! digests, uploads, the queue, who may be asked when.
//!
//! ```text
//! options (is the section sound?) → graph (which pools, in which order?) → pools (which proxy now?) → way (one attempt's tries)
//!        ← blame (whose fault was it?) ← health (how long is it left alone?)
//! ```
//!
//! A task that demands a proxy is never sent directly, unless the operator allowed it for the pool it demands.

mod blame;
mod clients;
mod endpoint;
mod graph;
mod health;
mod options;
mod pools;
mod resolver;
mod secrets;
mod way;

pub use options::{Options, PoolOptions};
pub use pools::Proxies;

pub(super) use clients::Clients;
pub(super) use pools::Chosen;
pub(super) use resolver::ProxyResolver;
pub(super) use way::{Reached, Way};
