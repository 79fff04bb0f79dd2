//! Calls to the store with their second tries: a busy committer is waited for, one damaged row does not fail the others.
//!
//! Must not know: the loop's state.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::effects::Effects;
use super::window::Taken;
use super::{is_busy, pause_of};
use crate::clock::Clock;
use crate::model::{Refusal, RefusalCode};
use crate::store::{Lease, LeaseWant, Settled, Settlement, Turned};

pub(super) type Leased = (Taken, Result<Vec<Option<Lease>>, Refusal>);
/// Each settlement with what became of it, or why the store serves no longer.
pub(super) type SettledAll = Result<Vec<(Settlement, Settled)>, Refusal>;

/// Boot: the last run's leases are void. Waits for a busy committer, unless it is told to stop.
pub(super) async fn void_leases<E: Effects>(
    effects: &E,
    clock: &Clock,
    interrupted_max: u32,
    stop: &CancellationToken,
) -> Result<(), Refusal> {
    loop {
        match effects.void_leases(clock.now_ms(), interrupted_max).await {
            Ok(0) => return Ok(()),
            Ok(voided) => {
                tracing::info!(voided, "attempts the last run left open are queued again");
                return Ok(());
            }
            Err(refusal) if !is_busy(&refusal) => return Err(refusal),
            Err(_) if stop.is_cancelled() => return Ok(()),
            Err(refusal) => tokio::time::sleep(pause_of(&refusal)).await,
        }
    }
}

/// What came of one call.
pub(super) struct Called {
    pub leased: Leased,
    pub settled: SettledAll,
}

/// Ends attempts and leases picks in one group. A lease call that was refused as busy is the caller's to wait for: its picks may
/// have become the wrong ones by then. A result is never dropped while the store serves.
pub(super) async fn call<E: Effects>(
    effects: Arc<E>,
    batch: Vec<Settlement>,
    taken: Taken,
    now_ms: i64,
    until_ms: i64,
) -> Called {
    let wants: Vec<LeaseWant> =
        taken.picks.iter().map(|pick| LeaseWant { task: pick.task, from: pick.from, until_ms }).collect();
    let Turned { settled, leased } =
        effects.settle_and_lease(batch.clone(), wants.clone(), taken.spent.clone(), now_ms).await;
    let settled = settle_all(effects.as_ref(), batch, settled).await;
    let leased = match leased {
        Err(refusal) if !is_final(&refusal) && !is_busy(&refusal) => {
            lease_apart(effects.as_ref(), wants, &taken, now_ms, refusal).await
        }
        answer => answer,
    };
    Called { leased: (taken, leased), settled }
}

/// One of the picks cannot be leased: find out which, and lease the others.
async fn lease_apart<E: Effects>(
    effects: &E,
    wants: Vec<LeaseWant>,
    taken: &Taken,
    now_ms: i64,
    first: Refusal,
) -> Result<Vec<Option<Lease>>, Refusal> {
    tracing::error!(refusal = %first, "a lease call failed; its tasks are leased one by one");
    let mut leases = Vec::with_capacity(wants.len());
    let mut calls = wants.into_iter().map(|want| (vec![want], Vec::new())).collect::<Vec<_>>();
    calls.push((Vec::new(), taken.spent.clone()));
    for (wants, spent) in calls {
        let task = wants.first().map(|want| want.task);
        let answer = loop {
            match effects.settle_and_lease(Vec::new(), wants.clone(), spent.clone(), now_ms).await.leased {
                Err(refusal) if is_busy(&refusal) => tokio::time::sleep(pause_of(&refusal)).await,
                answer => break answer,
            }
        };
        match (task, answer) {
            (Some(_), Ok(lease)) => leases.push(lease.into_iter().next().flatten()),
            (None, Ok(_)) => {}
            (_, Err(refusal)) if is_final(&refusal) => return Err(refusal),
            (Some(task), Err(refusal)) => {
                tracing::error!(%task, %refusal, "a task cannot be leased");
                leases.push(None);
            }
            (None, Err(refusal)) => tracing::error!(%refusal, "queue rows cannot be deleted"),
        }
    }
    Ok(leases)
}

/// Settles until it is done, `first` being the first answer.
async fn settle_all<E: Effects>(
    effects: &E,
    batch: Vec<Settlement>,
    first: Result<Vec<Settled>, Refusal>,
) -> SettledAll {
    match settle_patiently(effects, &batch, Some(first)).await {
        Ok(settled) => Ok(paired(batch, settled)),
        Err(refusal) if is_final(&refusal) => Err(refusal),
        Err(refusal) => {
            tracing::error!(%refusal, "results could not be written together; they are written one by one");
            let mut done = Vec::with_capacity(batch.len());
            for settlement in batch {
                let one = vec![settlement];
                match settle_patiently(effects, &one, None).await {
                    Ok(settled) => done.extend(paired(one, settled)),
                    Err(refusal) if is_final(&refusal) => return Err(refusal),
                    Err(refusal) => {
                        tracing::error!(%refusal, "a result cannot be written; its task is run again after a restart");
                        done.extend(paired(one, Vec::new()));
                    }
                }
            }
            Ok(done)
        }
    }
}

/// `answer`: what came of it already.
async fn settle_patiently<E: Effects>(
    effects: &E,
    batch: &[Settlement],
    mut answer: Option<Result<Vec<Settled>, Refusal>>,
) -> Result<Vec<Settled>, Refusal> {
    loop {
        let settled = match answer.take() {
            Some(answer) => answer,
            None => effects.settle_and_lease(batch.to_vec(), Vec::new(), Vec::new(), 0).await.settled,
        };
        match settled {
            Err(refusal) if is_busy(&refusal) => tokio::time::sleep(pause_of(&refusal)).await,
            answer => return answer,
        }
    }
}

fn paired(batch: Vec<Settlement>, settled: Vec<Settled>) -> Vec<(Settlement, Settled)> {
    let settled = settled.into_iter().chain(std::iter::repeat(Settled::Stale));
    batch.into_iter().zip(settled).collect()
}

/// The store serves no longer.
fn is_final(refusal: &Refusal) -> bool {
    refusal.code == RefusalCode::Unavailable
}
