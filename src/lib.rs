//! FetchBox: manifests in by socket, objects in the store, history by gRPC.
//!
//! ```text
//! socket / gRPC ─▶ ingest ─admit─▶ store ◀─lease, settle─ dispatch ⇄ worker ─▶ origin, object store
//! gRPC / HTTP  ◀─ ledger ◀─read── store ◀──────prune───── retention
//! ```
//!
//! The rooms, along the data's path; each names only rooms above it that `tests/tidy.rs` allows:
//! `model` `clock` `priority` `objects` `handler` `store` `ingest` `worker` `dispatch` `ledger` `retention` `proto` `api` `client`
//! `telemetry` `config` `daemon` `cli`.
//!
//! Invariants:
//! - What was acknowledged is synced. An answer leaves after the sync of the group that holds its change, never before.
//! - One committer writes. A task's end moves task, job, counters, log line, dead letter and indexes in one batch.
//! - An attempt is counted before it runs, and its epoch fences every older result.
//! - A job is never terminal while a task is open, nor before its manifest is stored.
//! - A damaged row is an error with its name, never a short list.
#![forbid(unsafe_code)]

pub mod api;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod dispatch;
pub mod handler;
pub mod ingest;
pub mod ledger;
pub mod model;
pub mod objects;
pub mod priority;
pub mod proto;
pub mod retention;
pub mod store;
pub mod telemetry;
pub mod worker;
