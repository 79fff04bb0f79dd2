//! The dispatcher's handle: what operators and clients may do to the queue.
//!
//! Each verb is durable when it answers; the loop is told afterwards. Must not know: any wire.

use std::sync::{Arc, Mutex, PoisonError};

use super::finalize::Owed;
use super::gate::Hosts;
use super::hosts::Hold;
use super::inbox::Inbox;
use super::leases::Leases;
use super::off_thread;
use super::replay::Replay;
use super::{ReplayReport, Status};
use crate::clock::{Clock, JobIds};
use crate::model::{ControlChange, Controls, DeadLetterSelector, Job, JobId, Refusal};
use crate::store::{Reader, Store};

/// Clonable handle.
#[derive(Clone)]
pub struct Dispatch {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub store: Store,
    pub reader: Reader,
    pub clock: Clock,
    pub ids: Arc<JobIds>,
    pub default_bucket: String,
    pub storage_prefix: String,
    pub inbox: Arc<Inbox>,
    pub leases: Arc<Leases>,
    pub owed: Owed,
    pub board: Arc<Board>,
    pub hosts: Arc<Hosts>,
}

/// Where the loop writes what it looks like from outside.
#[derive(Debug, Default)]
pub(super) struct Board(Mutex<Status>);

impl Board {
    pub fn write(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn read(&self) -> Status {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Dispatch {
    /// Cancels every open resource of the job and stops its running attempts.
    ///
    /// # Errors
    /// NOT_FOUND, ILLEGAL_STATE for a job that has ended, UNAVAILABLE.
    pub async fn cancel(&self, job: JobId, reason: String) -> Result<Job, Refusal> {
        let inner = &self.inner;
        let now_ms = inner.clock.now_ms();
        let canceled = inner.store.cancel(job, reason, now_ms).await?;
        for task in canceled.running {
            inner.leases.stop(task);
        }
        if canceled.job.state.is_terminal() {
            inner.owed.push(job);
        }
        // The manifest is still to be stored: its task may stand at the present.
        inner.inbox.due_at(now_ms);
        Ok(canceled.job)
    }

    /// Queues failed and canceled resources again, all or those named; returns the job and how many.
    ///
    /// # Errors
    /// NOT_FOUND for the job or a resource, ILLEGAL_STATE, UNAVAILABLE.
    pub async fn retry(&self, job: JobId, resource_ids: Vec<String>) -> Result<(Job, u32), Refusal> {
        let now_ms = self.inner.clock.now_ms();
        let retried = self.inner.store.retry(job, resource_ids, now_ms).await?;
        self.inner.inbox.due_at(now_ms);
        Ok(retried)
    }

    /// Queues the selected dead letters again. What was replayed before an error stays replayed.
    ///
    /// # Errors
    /// INVALID_PAYLOAD when everything is selected without `confirm_all`; UNAVAILABLE, DATA_LOSS.
    pub async fn replay(&self, selector: DeadLetterSelector) -> Result<ReplayReport, Refusal> {
        let inner = &self.inner;
        let now_ms = inner.clock.now_ms();
        let replay = Replay {
            store: &inner.store,
            reader: &inner.reader,
            ids: &inner.ids,
            default_bucket: &inner.default_bucket,
            storage_prefix: &inner.storage_prefix,
            now_ms,
        };
        let report = replay.run(selector).await;
        // Also after an error: some may have been queued.
        inner.inbox.due_at(now_ms);
        report
    }

    /// Turns a durable switch.
    ///
    /// # Errors
    /// INVALID_PAYLOAD beyond [`Controls::PAUSED_MAX`] paused hosts or job types; UNAVAILABLE.
    pub async fn control(&self, change: ControlChange) -> Result<Controls, Refusal> {
        let inner = &self.inner;
        let reader = inner.reader.clone();
        let after = off_thread(move || reader.controls()).await?.after(&change);
        let most = after.paused_hosts.len().max(after.paused_job_types.len());
        if most > Controls::PAUSED_MAX {
            return Err(Refusal::invalid("target", format!("more than {} are paused already", Controls::PAUSED_MAX)));
        }
        let resumed = match &change {
            ControlChange::ResumeHost(host) => Some(host.clone()),
            _ => None,
        };
        let controls = inner.store.control(change).await?;
        // Also from what the host asked for itself, and from what it has shown.
        if let Some(host) = resumed {
            inner.hosts.lift(&host);
        }
        inner.inbox.controls_changed();
        Ok(controls)
    }

    /// Why nothing is sent to `host:port` now, if it is for longer than a turn.
    pub fn hold(&self, host: &str) -> Option<Hold> {
        let clock = &self.inner.clock;
        let steady_ms = clock.steady_ms();
        let hold = self.inner.hosts.table().hold(host, steady_ms)?;
        let wait_ms = hold.until_ms.saturating_sub(steady_ms);
        Some(Hold { until_ms: clock.now_ms().saturating_add(wait_ms), ..hold })
    }

    pub fn status(&self) -> Status {
        self.inner.board.read()
    }
}
