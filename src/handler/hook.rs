//! Runs a handler's hook so that nothing in it can hurt its caller.
//!
//! Owns: the time limit and the catching of panics. Must not know: which hook it is.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::poll_immediate;

use super::HandlerError;

/// Awaits `hook` for at most `limit`. A panic or a timeout becomes a retryable error.
///
/// Only a hook that awaits can be timed out: one that blocks its thread holds it.
pub async fn run_hook<T>(
    limit: Duration,
    hook: impl Future<Output = Result<T, HandlerError>>,
) -> Result<T, HandlerError> {
    let mut hook = pin!(AssertUnwindSafe(hook).catch_unwind());
    // A hook that awaits nothing is done at the first poll and pays for no timer.
    let ended = match poll_immediate(hook.as_mut()).await {
        Some(ended) => ended,
        None => match tokio::time::timeout(limit, hook).await {
            Ok(ended) => ended,
            Err(_) => {
                return Err(HandlerError::retryable(format!("did not return within {} ms", limit.as_millis())));
            }
        },
    };
    ended.unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        tracing::error!(panic = said, "a job handler panicked");
        Err(HandlerError::retryable("panicked; the daemon's log has the message"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panicking_hook_is_an_error_and_not_a_dead_connection() {
        let ended = run_hook::<()>(Duration::from_secs(1), async { panic!("boom") }).await;
        assert!(ended.unwrap_err().message.contains("panicked"));
    }

    #[tokio::test]
    async fn a_hook_that_never_returns_is_given_up() {
        let ended = run_hook::<()>(Duration::from_millis(50), std::future::pending()).await;
        assert_eq!(ended.unwrap_err().message, "did not return within 50 ms");
    }

    #[test]
    fn a_hook_that_awaits_nothing_needs_no_runtime() {
        let done = run_hook(Duration::ZERO, async { Ok(7) }).now_or_never();
        assert_eq!(done.unwrap().unwrap(), 7);
    }
}
