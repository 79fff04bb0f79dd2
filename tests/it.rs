//! The integration tests: whole daemons, in process or as the real binary, driven as a client would.
//!
//! One binary, because linking is what they cost. `harness` starts things and checks the invariants; the other modules each
//! hold one promise to the user.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]

mod harness;

mod api_control;
mod api_read;
mod api_write;
mod bad_frames;
mod bad_manifests;
mod bad_start;
mod big;
mod crash;
mod files;
mod flips;
mod limits;
mod lives;
mod metrics;
mod output_in;
mod output_kept;
mod output_query;
mod persist_append;
mod persist_mode;
mod persist_service;
mod polite;
mod proxies;
mod story;
mod uploads_faulty;
mod uploads_killed;
mod whole;
