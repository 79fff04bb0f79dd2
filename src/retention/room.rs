//! Giving the space of deleted output back to the file system, in the background.
//!
//! Owns: when it is worth it, and that it happens soon. Must not know: what was deleted, how tables are merged.
//!
//! A deleted row keeps its place until its table is merged with others. That is done for the keyspace of output alone: queries of
//! everything else go on untouched, and those of output read the tables that are being merged.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Inner;
use crate::model::{Refusal, RefusalCode};

/// Less than this is left to the merging that goes on anyway.
const BYTES_MIN: u64 = 8 << 20;
/// And less than this part of all output: merging reads and writes the whole of it.
const SHARE_MIN: u64 = 20;
/// What is deleted within this time is given back together.
const GATHER: Duration = Duration::from_secs(5);

/// Tables that were merged stay as long as a reader is in the middle of them, and are let go at the next look.
const LET_GO_AFTER_MS: [u64; 6] = [200, 500, 1_000, 2_000, 5_000, 10_000];

/// What was deleted since the last time.
#[derive(Default)]
pub struct Room {
    bytes: AtomicU64,
    bell: Notify,
}

impl Room {
    pub fn add(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) >= BYTES_MIN {
            self.bell.notify_one();
        }
    }
}

/// Until `stop`.
pub async fn give_back(inner: &Inner, stop: &CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = inner.room.bell.notified() => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(GATHER) => {}
        }
        let output = inner.live.reader.sizes().keyspaces.get("output").copied().unwrap_or(0);
        let freed = inner.room.bytes.load(Ordering::Relaxed);
        if freed < BYTES_MIN.max(output / SHARE_MIN) {
            continue;
        }
        if let Err(refusal) = compact_output(inner, stop).await {
            tracing::warn!(%refusal, "the space of deleted output could not be given back; the next cleanup tries again");
        }
    }
}

/// Now, whatever there is. Returns within one merge of `stop`.
pub async fn compact_output(inner: &Inner, stop: &CancellationToken) -> Result<(), Refusal> {
    let freed = inner.room.bytes.swap(0, Ordering::Relaxed);
    let store = inner.live.store.clone();
    let mut replaced_bytes = blocking(move || store.compact_output()).await.inspect_err(|_| {
        inner.room.bytes.fetch_add(freed, Ordering::Relaxed);
    })?;
    for wait in LET_GO_AFTER_MS.map(Duration::from_millis) {
        if replaced_bytes < BYTES_MIN || stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            break;
        }
        let store = inner.live.store.clone();
        replaced_bytes = blocking(move || store.let_go_of_tables()).await?;
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    let failed = |error| Refusal::new(RefusalCode::Internal, format!("compaction: {error}"));
    tokio::task::spawn_blocking(work).await.map_err(failed).flatten()
}
