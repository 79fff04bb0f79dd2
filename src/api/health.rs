//! What the daemon passes in so that the doors can say whether it is alive and ready.
//!
//! Owns: the handle. Must not know: what is checked or how.

use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

/// One part's condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// `store`, `dispatcher`, `objects`: a small fixed set, it becomes a metric's label.
    pub name: String,
    pub ok: bool,
    /// Why not, or a short word about the state.
    pub message: String,
}

type Probe = Arc<dyn Fn() -> BoxFuture<'static, Vec<Check>> + Send + Sync>;

/// Two questions. Answers are taken as they come: whoever passes the probes in bounds and caches them.
#[derive(Clone)]
pub struct Health {
    live: Probe,
    ready: Probe,
}

impl Health {
    /// `live`: would a restart help? `ready`: can work be done now?
    pub fn new<L, R>(
        live: impl Fn() -> L + Send + Sync + 'static,
        ready: impl Fn() -> R + Send + Sync + 'static,
    ) -> Self
    where
        L: Future<Output = Vec<Check>> + Send + 'static,
        R: Future<Output = Vec<Check>> + Send + 'static,
    {
        Self { live: Arc::new(move || live().boxed()), ready: Arc::new(move || ready().boxed()) }
    }

    pub async fn live(&self) -> Vec<Check> {
        (self.live)().await
    }

    pub async fn ready(&self) -> Vec<Check> {
        (self.ready)().await
    }
}

/// Every part is well.
pub(super) fn all_ok(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.ok)
}
