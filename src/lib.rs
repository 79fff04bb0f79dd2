//! FetchBox: manifests in by socket, objects in the store, history by gRPC.
#![forbid(unsafe_code)]

pub mod api;
pub mod client;
pub mod clock;
pub mod dispatch;
pub mod handler;
pub mod ingest;
pub mod ledger;
pub mod model;
pub mod objects;
pub mod proto;
pub mod retention;
pub mod store;
pub mod telemetry;
pub mod worker;
