//! The daemon's top-level tasks, by name.
//!
//! Owns: that each is tracked, and that a drain says who did not end. Must not know: what they do.

use std::collections::HashMap;
use std::future::Future;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

#[derive(Default)]
pub struct Tasks {
    set: JoinSet<()>,
    names: HashMap<Id, &'static str>,
    groups: Vec<CancellationToken>,
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// A token for tasks that are stopped together. Cancelled at the latest when the drain begins.
    pub fn group(&mut self) -> CancellationToken {
        let token = CancellationToken::new();
        self.groups.push(token.clone());
        token
    }

    pub fn spawn<T: Send + 'static>(&mut self, name: &'static str, task: impl Future<Output = T> + Send + 'static) {
        let handle = self.set.spawn(async move {
            task.await;
        });
        self.names.insert(handle.id(), name);
    }

    pub fn spawn_on<T: Send + 'static>(
        &mut self,
        threads: &Handle,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) {
        let handle = self.set.spawn_on(
            async move {
                task.await;
            },
            threads,
        );
        self.names.insert(handle.id(), name);
    }

    /// The next task to end, for good or by a panic.
    pub async fn next(&mut self) -> &'static str {
        let (id, panicked) = match self.set.join_next_with_id().await {
            Some(Ok((id, ()))) => (id, false),
            Some(Err(error)) => (error.id(), error.is_panic()),
            None => std::future::pending().await,
        };
        let name = self.names.remove(&id).unwrap_or("a task");
        if panicked {
            tracing::error!(task = name, "panicked: a bug, please report it");
        }
        name
    }

    /// Waits for all of them; who is left at the deadline is aborted and named.
    pub async fn drain(mut self, deadline: Instant) -> Vec<&'static str> {
        self.groups.iter().for_each(CancellationToken::cancel);
        while !self.set.is_empty() {
            if tokio::time::timeout_at(deadline.into(), self.next()).await.is_err() {
                break;
            }
        }
        let mut left: Vec<_> = self.names.values().copied().collect();
        left.sort_unstable();
        self.set.shutdown().await;
        left
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    #[tokio::test]
    async fn a_task_that_will_not_end_is_named_and_does_not_hold_up_the_exit() {
        let mut tasks = Tasks::new();
        let good = tasks.group();
        let stop = good.clone();
        tasks.spawn("good", async move { stop.cancelled().await });
        tasks.spawn("stubborn", std::future::pending::<()>());
        assert_eq!(tasks.drain(Clock::instant() + Duration::from_millis(50)).await, ["stubborn"]);
        assert!(good.is_cancelled());
    }

    #[tokio::test]
    async fn a_part_that_dies_is_noticed() {
        let mut tasks = Tasks::new();
        tasks.spawn("steady", std::future::pending::<()>());
        tasks.spawn("fragile", async { panic!("for the test") });
        assert_eq!(tasks.next().await, "fragile");
        assert_eq!(tasks.drain(Clock::instant()).await, ["steady"]);
    }
}
