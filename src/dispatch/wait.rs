//! Waiting for what may not be there, and putting what comes into words and numbers.
//!
//! Must not know: the loop's state.

use std::future::pending;

use tokio::sync::watch;

/// Waits for a call that may not be under way.
pub(super) async fn or_never<F: Future + Unpin>(call: &mut Option<F>) -> F::Output {
    match call {
        Some(call) => call.await,
        None => pending().await,
    }
}

/// False: nobody will ever tick again.
pub(super) async fn changed(work: &mut Option<watch::Receiver<u64>>) -> bool {
    match work {
        Some(work) => work.changed().await.is_ok(),
        None => pending().await,
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// A count as gauges take it.
pub(super) fn gauge(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
