//! Deleting one job, and purging dead letters, because somebody asked.
//!
//! Owns: both requests' rules. Must not know: ages, schedules.

use std::fmt::Display;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::model::{DeadLetter, DeadLetterId, DeadLetterSelector, JobId, Refusal, RefusalCode, TaskIndex, TaskState};
use crate::objects::Place;
use crate::store::Prune;

use super::world::World;

/// Objects deleted at the same time: enough to hide a round trip, few beside the workers' own requests.
const OBJECTS_AT_ONCE: usize = 8;

/// Deletes an ended job and frees its idempotency key; with `objects_too` first everything it stored. Returns how many objects
/// were deleted. After an error the job is still there and the same call goes on where it stopped.
pub async fn job<W: World>(world: &W, id: JobId, objects_too: bool, rows: usize) -> Result<u32, Refusal> {
    let job = world.job(id)?.ok_or_else(|| no_job(id))?;
    let shown = job.public_id();
    if !job.state.is_terminal() {
        return Err(still_active(shown));
    }
    let mut objects = 0;
    if objects_too {
        let mut from = TaskIndex(0);
        loop {
            let tasks = world.tasks(id, from, rows)?;
            let end = tasks.len() < rows;
            from = tasks.last().map_or(from, |task| TaskIndex(task.task.index.0.saturating_add(1)));
            // What is known by its content may be another job's object as well.
            let own = tasks.into_iter().filter(|task| !task.spec.content_addressed);
            let stored = own.filter_map(|task| place_of(task.state));
            objects += delete_objects(world, stored.collect()).await?;
            if end {
                break;
            }
        }
        if job.manifest_stored {
            let manifest = Place { bucket: job.manifest_bucket.clone(), key: job.manifest_key.clone() };
            objects += delete_objects(world, vec![manifest]).await?;
        }
    }
    if world.prune(vec![Prune::Job(id)]).await? == 0 {
        // Deleted or retried by somebody else meanwhile.
        return Err(if world.job(id)?.is_some() { still_active(shown) } else { no_job(shown) });
    }
    Ok(objects)
}

/// Deletes a job that another program named with everything of it, whatever its state. What arrives for it from the first group on makes
/// a new job of that name. After an error the same call goes on where it stopped.
pub async fn named<W: World>(world: &W, id: JobId) -> Result<(), Refusal> {
    let shown = world.job(id)?.map_or_else(|| id.to_string(), |job| job.public_id());
    if world.prune(vec![Prune::Named(id)]).await? == 0 {
        // Gone meanwhile, or nobody has named it.
        return Err(if world.job(id)?.is_some() { still_active(shown) } else { no_job(shown) });
    }
    Ok(())
}

/// By the id that clients see, where it is known.
fn no_job(id: impl Display) -> Refusal {
    Refusal::not_found(format!("job {id}")).with_job(id)
}

fn still_active(id: impl Display) -> Refusal {
    Refusal::new(RefusalCode::IllegalState, format!("job {id} has not ended; cancel it first")).with_job(id)
}

fn place_of(state: TaskState) -> Option<Place> {
    match state {
        TaskState::Done { object } => Some(Place { bucket: object.bucket, key: object.key }),
        TaskState::Ready
        | TaskState::Leased { .. }
        | TaskState::RetryWait { .. }
        | TaskState::Dead { .. }
        | TaskState::Canceled => None,
    }
}

async fn delete_objects<W: World>(world: &W, places: Vec<Place>) -> Result<u32, Refusal> {
    let deletions = stream::iter(places.into_iter().map(|place| world.delete_object(place)));
    deletions.buffer_unordered(OBJECTS_AT_ONCE).try_fold(0, async |count, ()| Ok(count + 1)).await
}

/// Deletes the letters the selector matches, oldest first, at most `selector.max`: (matched, purged). A dry run deletes none. An
/// unrestricted selector needs `confirm_all` unless it is a dry run.
pub async fn letters<W: World>(world: &W, selector: &DeadLetterSelector, rows: usize) -> Result<(u32, u32), Refusal> {
    if selector.is_unrestricted() && !selector.confirm_all && !selector.dry_run {
        return Err(Refusal::invalid(
            "selector.confirm_all",
            "the selector names nothing: this would purge every dead letter",
        ));
    }
    let mut ids = selector.ids.clone();
    ids.sort_unstable();
    ids.dedup();
    let (mut matched, mut purged, mut after) = (0u32, 0u64, None);
    loop {
        let page = read(world, &ids, after, rows)?;
        let end = page.len() < rows;
        after = page.last().map_or(after, |(id, _)| Some(*id));
        let past = |id: &DeadLetterId| selector.before_ms != 0 && id.died_at_ms >= selector.before_ms;
        let end = end || page.last().is_some_and(|(id, _)| past(id));
        let left = if selector.max == 0 { usize::MAX } else { (selector.max - matched) as usize };
        let due = page.into_iter().filter_map(|(_, letter)| letter).filter(|letter| selector.matches(letter));
        let due: Vec<Prune> = due.take(left).map(|letter| Prune::DeadLetter(letter.id)).collect();
        matched = matched.saturating_add(u32::try_from(due.len()).unwrap_or(u32::MAX));
        if !selector.dry_run && !due.is_empty() {
            purged += world.prune(due).await?;
        }
        if end || (selector.max != 0 && matched >= selector.max) {
            return Ok((matched, u32::try_from(purged).unwrap_or(u32::MAX)));
        }
        tokio::task::yield_now().await;
    }
}

/// The named letters, or all, behind `after`. None: a named one that does not exist.
fn read<W: World>(
    world: &W,
    ids: &[DeadLetterId],
    after: Option<DeadLetterId>,
    rows: usize,
) -> Result<Vec<(DeadLetterId, Option<DeadLetter>)>, Refusal> {
    if ids.is_empty() {
        return Ok(world.letters_after(after, rows)?.into_iter().map(|letter| (letter.id, Some(letter))).collect());
    }
    let named = ids.iter().filter(|id| after.is_none_or(|after| **id > after)).take(rows);
    named.map(|id| Ok((*id, world.letter(*id)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{JobState, StoredObject};
    use crate::retention::fake::{Fake, job_at, letter_at};

    fn select() -> DeadLetterSelector {
        DeadLetterSelector::default()
    }

    #[tokio::test]
    async fn a_job_that_runs_is_not_deleted() {
        let fake = Fake::default();
        let running = fake.add(job_at(JobState::InProgress, 10, 0));
        assert_eq!(job(&fake, running, true, 10).await.unwrap_err().code, RefusalCode::IllegalState);
        assert_eq!(job(&fake, JobId::MAX, true, 10).await.unwrap_err().code, RefusalCode::NotFound);
        assert!(fake.job(running).unwrap().is_some());
    }

    #[tokio::test]
    async fn objects_go_only_when_asked_and_before_the_job() {
        for objects_too in [false, true] {
            let fake = Fake::default();
            let mut ended = job_at(JobState::Partial, 10, 20);
            (ended.manifest_stored, ended.manifest_key, ended.log_count) = (true, "m".into(), 25_000);
            let id = fake.add(ended);
            fake.state().keys.insert(id);
            for index in 0..25 {
                let object = StoredObject { bucket: "b".into(), key: format!("{index}"), ..Default::default() };
                let state = if index % 5 == 0 { TaskState::Canceled } else { TaskState::Done { object } };
                fake.add_task(id, index, state);
            }
            let deleted = job(&fake, id, objects_too, 10).await.unwrap();
            assert_eq!(deleted, if objects_too { 21 } else { 0 });
            assert_eq!(fake.state().objects_deleted.len(), deleted as usize);
            assert!(fake.job(id).unwrap().is_none() && fake.state().keys.is_empty());
        }
    }

    #[tokio::test]
    async fn an_object_that_other_jobs_may_share_stays_when_its_job_goes() {
        let fake = Fake::default();
        let id = fake.add(job_at(JobState::Completed, 10, 20));
        for index in 0..2 {
            let object = StoredObject { bucket: "b".into(), key: format!("sha256/aa/{index}"), ..Default::default() };
            fake.add_task(id, index, TaskState::Done { object });
        }
        let first = crate::model::TaskRef { job: id, index: TaskIndex(0) };
        fake.state().tasks.get_mut(&first).unwrap().spec.content_addressed = true;
        assert_eq!(job(&fake, id, true, 10).await.unwrap(), 1);
        assert_eq!(fake.state().objects_deleted[0].key, "sha256/aa/1");
    }

    #[tokio::test]
    async fn a_job_whose_objects_cannot_be_deleted_stays_whole() {
        let fake = Fake::default();
        let id = fake.add(job_at(JobState::Completed, 10, 20));
        fake.add_task(id, 0, TaskState::Done { object: StoredObject::default() });
        fake.state().objects_fail = true;
        assert_eq!(job(&fake, id, true, 10).await.unwrap_err().code, RefusalCode::Unavailable);
        assert!(fake.job(id).unwrap().is_some());
    }

    #[tokio::test]
    async fn a_job_that_another_program_named_is_deleted_while_it_runs_and_ours_is_not() {
        let fake = Fake::default();
        let mut theirs = job_at(JobState::InProgress, 10, 0);
        theirs.name = crate::model::JobName::parse("theirs");
        let (theirs, ours) = (fake.add(theirs), fake.add(job_at(JobState::InProgress, 11, 0)));
        let refused = job(&fake, theirs, false, 10).await.unwrap_err();
        assert_eq!(refused.message, "job theirs has not ended; cancel it first");
        assert_eq!(refused.job_id, "theirs");
        named(&fake, theirs).await.unwrap();
        assert_eq!(named(&fake, theirs).await.unwrap_err().code, RefusalCode::NotFound);
        assert_eq!(named(&fake, ours).await.unwrap_err().code, RefusalCode::IllegalState);
        assert!(fake.job(theirs).unwrap().is_none() && fake.job(ours).unwrap().is_some());
    }

    #[tokio::test]
    async fn purging_everything_must_be_meant() {
        let fake = Fake::default();
        for at in 0..30 {
            fake.add_letter(letter_at(at, JobId::first_at_ms(at)));
        }
        assert_eq!(letters(&fake, &select(), 7).await.unwrap_err().code, RefusalCode::InvalidPayload);
        let dry = DeadLetterSelector { dry_run: true, ..select() };
        assert_eq!(letters(&fake, &dry, 7).await.unwrap(), (30, 0));
        let all = DeadLetterSelector { confirm_all: true, ..select() };
        assert_eq!(letters(&fake, &all, 7).await.unwrap(), (30, 30));
        assert_eq!(letters(&fake, &all, 7).await.unwrap(), (0, 0));
    }

    #[tokio::test]
    async fn a_purge_takes_the_oldest_and_no_more_than_asked() {
        let fake = Fake::default();
        let ids: Vec<_> = (1..=30).map(|at| fake.add_letter(letter_at(at, JobId::first_at_ms(at)))).collect();
        let some = DeadLetterSelector { max: 5, before_ms: 20, ..select() };
        assert_eq!(letters(&fake, &some, 3).await.unwrap(), (5, 5));
        assert!(!fake.state().letters.contains_key(&ids[4]) && fake.state().letters.contains_key(&ids[5]));
        let rest = DeadLetterSelector { before_ms: 20, ..select() };
        assert_eq!(letters(&fake, &rest, 3).await.unwrap(), (14, 14));
        let named = DeadLetterSelector { ids: vec![ids[0], ids[25], ids[25], ids[29]], ..select() };
        assert_eq!(letters(&fake, &named, 2).await.unwrap(), (2, 2));
        assert_eq!(fake.state().letters.len(), 9);
    }
}
