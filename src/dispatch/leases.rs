//! Which task this process holds, under which epoch, and how to stop it.
//!
//! Leases are fenced by epoch and void at boot: only one process opens a data directory, so while it lives nobody else takes a
//! task, and a lease's time is for people to read. Must not know: how attempts run.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::model::TaskRef;

#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<HashMap<TaskRef, Held>>);

#[derive(Debug)]
enum Held {
    /// In a lease call. `stopped`: canceled between the lease's commit and its answer.
    Leasing {
        stopped: bool,
    },
    Running {
        epoch: u64,
        stop: CancellationToken,
    },
}

impl Leases {
    pub fn leasing(&self, task: TaskRef) {
        self.table().insert(task, Held::Leasing { stopped: false });
    }

    /// The attempt starts; `stop` is canceled already if the task was canceled meanwhile.
    pub fn running(&self, task: TaskRef, epoch: u64, stop: CancellationToken) {
        let before = self.table().insert(task, Held::Running { epoch, stop: stop.clone() });
        if let Some(Held::Leasing { stopped: true }) = before {
            stop.cancel();
        }
    }

    /// Settled, or never had.
    pub fn ended(&self, task: TaskRef) {
        self.table().remove(&task);
    }

    /// The task was canceled: whatever runs for it should end.
    pub fn stop(&self, task: TaskRef) {
        match self.table().get_mut(&task) {
            None => {}
            Some(Held::Leasing { stopped }) => *stopped = true,
            Some(Held::Running { stop, .. }) => stop.cancel(),
        }
    }

    /// The attempt may still have an effect.
    pub fn is_held(&self, task: TaskRef, epoch: u64) -> bool {
        match self.table().get(&task) {
            Some(Held::Running { epoch: present, stop }) => *present == epoch && !stop.is_cancelled(),
            None | Some(Held::Leasing { .. }) => false,
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<TaskRef, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::JobId;

    #[test]
    fn a_task_canceled_while_it_is_leased_never_starts_its_effect() {
        let leases = Leases::default();
        let task = TaskRef::manifest(JobId::MIN);
        leases.leasing(task);
        leases.stop(task);
        let stop = CancellationToken::new();
        leases.running(task, 1, stop.clone());
        assert!(stop.is_cancelled() && !leases.is_held(task, 1));
    }

    #[test]
    fn an_attempt_of_an_older_epoch_may_not_complete() {
        let leases = Leases::default();
        let task = TaskRef::manifest(JobId::MIN);
        leases.running(task, 2, CancellationToken::new());
        assert!(leases.is_held(task, 2) && !leases.is_held(task, 1));
        leases.ended(task);
        assert!(!leases.is_held(task, 2));
    }
}
