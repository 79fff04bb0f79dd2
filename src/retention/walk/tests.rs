//! Cleanups of random worlds.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::model::{JobName, JobState, OutputKind, TaskIndex, TaskRef, TaskState};
use crate::retention::Options;
use crate::retention::fake::{Fake, LETTER_BYTES, State, job_at, letter_at, upload_at};
use crate::retention::world::Block;

const DAY_MS: i64 = 86_400_000;
const NOW_MS: i64 = 200 * DAY_MS;

/// State, day created, days it took, log records, whether it has a key, how many letters and failures, whether another program named it
/// and what it put out.
type Seed = (usize, i64, i64, u64, bool, u8, (bool, u64, u64));

fn seeds() -> impl Strategy<Value = Vec<Seed>> {
    let logs = prop_oneof![8 => 0u64..50, 1 => 9_990u64..35_000];
    let output = (any::<bool>(), 0u64..40, 0u64..40);
    prop::collection::vec((0usize..6, 0i64..210, 0i64..60, logs, any::<bool>(), 0u8..4, output), 0..60)
}

/// Blocks of seven ordinals, with gaps between them where `kind` has lines, and a tail.
fn fill(state: &mut State, id: JobId, kind: OutputKind, count: u64) {
    let gap = u64::from(kind == OutputKind::Log);
    let tail = count - count % 9;
    let mut first = 0;
    while first + 7 <= tail {
        let records = if kind == OutputKind::Log { 5 } else { 7 };
        let block = Block { first, last: first + 6, records, bytes: 70 };
        state.blocks.entry((id, kind)).or_default().push(block);
        first += 7 + gap;
    }
    if kind != OutputKind::Log && count > first {
        state.tails.insert((id, kind), first);
    } else if tail < count && first <= tail {
        state.tails.insert((id, kind), tail);
    }
}

fn world(seeds: &[Seed]) -> State {
    let mut state = State::default();
    for (at, (job_state, day, took, logs, key, letters, (named, metrics, events))) in seeds.iter().enumerate() {
        // A clock that went back makes jobs that end in the future, too.
        let created = day * DAY_MS + 1 + i64::try_from(at).unwrap();
        let job_state = JobState::ALL[*job_state];
        let mut job = job_at(job_state, created, if job_state.is_terminal() { created + took * DAY_MS } else { 0 });
        job.log_count = *logs;
        if *named {
            job.name = JobName::parse(&format!("job-{at}"));
            job.output_counts = vec![0, *metrics, *events, 0, 0, 0, 0, 0, 0, *events / 2];
            job.output_at_ms = created + took * DAY_MS;
            for kind in OutputKind::ALL {
                fill(&mut state, job.id, kind, job.records_of(kind));
            }
        }
        let id = job.id;
        if *key {
            state.keys.insert(id);
        }
        for n in 0..i64::from(*letters) {
            let letter = letter_at(created + n, id);
            state.failures.insert(letter.id);
            state.letters.insert(letter.id, letter);
            state.staged.push(created + n);
        }
        let task = TaskRef { job: id, index: TaskIndex(0) };
        state.uploads.push(upload_at(task, &at.to_string(), created));
        state.unrecorded.push(created);
        state.sources.insert(u128::try_from(at).unwrap().to_be_bytes(), created);
        state.jobs.insert(id, job);
    }
    state
}

fn filled(seeds: &[Seed]) -> Fake {
    let fake = Fake::with(world(seeds));
    let active: Vec<JobId> =
        fake.state().jobs.values().filter(|job| !job.state.is_terminal()).map(|job| job.id).collect();
    for id in active {
        fake.add_task(id, 0, TaskState::Leased { until_ms: 0, epoch: 1 });
    }
    fake
}

fn order(kinds: &[CleanupKind], asked: Option<u32>, max: Option<u64>) -> Order {
    let options = Options::default();
    Order {
        cutoffs: asked.map_or(Cutoffs::configured(&options, NOW_MS), |days| Cutoffs::asked(days, NOW_MS)),
        kinds: kinds.iter().copied().collect(),
        dry_run: false,
        max,
        dlq_bytes_max: 0,
        ledger_excess_bytes: 0,
        output_excess_bytes: 0,
        idle: Idle::configured(&options, NOW_MS),
        tidies: false,
        rows: 7,
    }
}

fn run(fake: &Fake, order: Order) -> CleanupReport {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut walk = Walk::new(order, Cursors::default());
    runtime.block_on(async {
        while !walk.is_done() {
            walk.step(fake).await.unwrap();
        }
    });
    walk.finish().0
}

fn kinds() -> impl Strategy<Value = Vec<CleanupKind>> {
    prop::sample::subsequence(CleanupKind::ALL.to_vec(), 1..=8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_dry_run_reports_what_the_real_run_does_and_changes_nothing(
        seeds in seeds(), kinds in kinds(), asked in prop::option::of(0u32..100), max in prop::option::of(0u64..60), cap in 0u64..5_000,
    ) {
        let fake = filled(&seeds);
        let before = fake.state().clone();
        let order = Order { dlq_bytes_max: cap, ..order(&kinds, asked, max) };
        let dry = run(&fake, Order { dry_run: true, ..order.clone() });
        prop_assert_eq!(fake.state().commits, 0);
        let real = run(&fake, order.clone());
        prop_assert_eq!(&dry, &real);
        // A kind that had nothing says so.
        prop_assert!(real.more || real.deleted.len() == kinds.len());

        // What is reported is what is gone.
        let after = fake.state().clone();
        let went = before.jobs.values().filter(|job| !after.jobs.contains_key(&job.id)).map(Job::public_id);
        prop_assert_eq!(real.jobs.iter().cloned().collect::<BTreeSet<_>>(), went.collect::<BTreeSet<_>>());
        let gone = |kind| real.deleted.get(&kind).copied().unwrap_or(0);
        prop_assert_eq!(gone(CleanupKind::Jobs), (before.jobs.len() - after.jobs.len()) as u64);
        prop_assert_eq!(gone(CleanupKind::Dlq), (before.letters.len() - after.letters.len()) as u64);
        prop_assert_eq!(gone(CleanupKind::Queue), (before.failures.len() - after.failures.len()) as u64);
        let files = before.uploads.len() + before.staged.len() + before.unrecorded.len()
            - after.uploads.len() - after.staged.len() - after.unrecorded.len();
        prop_assert_eq!(gone(CleanupKind::Uploads), files as u64);
        for kind in [CleanupKind::Logs, CleanupKind::Metrics, CleanupKind::Events] {
            let kept = |state: &State| -> u64 {
                let of = |job: &Job| policy::output_of(kind).map(|of| job.records_of(of) - state.kept_from(job.id, of)).sum::<u64>();
                state.jobs.values().filter(|job| after.jobs.contains_key(&job.id)).map(of).sum()
            };
            prop_assert_eq!(gone(kind), kept(&before) - kept(&after));
        }
        for ((id, kind), blocks) in &after.blocks {
            prop_assert!(blocks.iter().all(|block| block.first >= after.kept_from(*id, *kind)), "a block was cut");
        }
        if let Some(max) = max {
            prop_assert!(real.deleted.values().sum::<u64>() <= max);
        }

        // A second run finds nothing more, unless the first was stopped by its limit.
        if !real.more {
            let again = run(&fake, order);
            prop_assert_eq!(again.deleted.values().sum::<u64>(), 0);
        }
    }

    #[test]
    fn no_cleanup_ever_touches_an_active_job(
        seeds in seeds(), kinds in kinds(), asked in prop::option::of(0u32..100), cap in 1u64..2_000, excess in 0u64..500_000,
    ) {
        let fake = filled(&seeds);
        let before = fake.state().clone();
        let all = order(&kinds, asked, None);
        let idle = all.idle;
        run(&fake, Order { dlq_bytes_max: cap, ledger_excess_bytes: excess, output_excess_bytes: excess / 100, ..all });
        let after = fake.state();
        for job in before.jobs.values().filter(|job| policy::ended_ms(job, idle).is_none()) {
            prop_assert_eq!(after.jobs.get(&job.id), Some(job));
            prop_assert_eq!(after.keys.contains(&job.id), before.keys.contains(&job.id));
            prop_assert!(after.kept.keys().all(|(id, _)| *id != job.id));
            let blocks = |state: &State| OutputKind::ALL.map(|kind| state.blocks.get(&(job.id, kind)).cloned());
            prop_assert_eq!(blocks(&after), blocks(&before));
            let of_job = |id: &&DeadLetterId| id.task.job == job.id;
            prop_assert_eq!(after.letters.keys().filter(of_job).count(), before.letters.keys().filter(of_job).count());
            prop_assert_eq!(after.failures.iter().filter(of_job).count(), before.failures.iter().filter(of_job).count());
            prop_assert!(after.uploads.iter().any(|upload| upload.task.job == job.id));
        }
        prop_assert!(after.read_most <= 7);
    }

    #[test]
    fn everything_goes_when_everything_ended_is_asked_for(seeds in seeds()) {
        let fake = filled(&seeds);
        run(&fake, order(&CleanupKind::ALL, Some(0), None));
        let idle = Idle::configured(&Options::default(), NOW_MS);
        prop_assert!(fake.state().jobs.values().all(|job| policy::ended_ms(job, idle).is_none()));
        let active = |id: &DeadLetterId| fake.state().jobs.contains_key(&id.task.job);
        let letters: Vec<_> = fake.state().letters.keys().copied().collect();
        prop_assert!(letters.iter().all(active));
    }
}

#[test]
fn a_full_dead_letter_queue_loses_its_oldest_letters_only() {
    let fake = Fake::default();
    for at in 0..20 {
        fake.add_letter(letter_at(NOW_MS + at, JobId::first_at_ms(at)));
    }
    let report = run(&fake, Order { dlq_bytes_max: 15 * LETTER_BYTES, ..order(&[CleanupKind::Dlq], None, None) });
    assert_eq!(report.deleted[&CleanupKind::Dlq], 5);
    assert!(fake.state().letters.keys().all(|id| id.died_at_ms >= NOW_MS + 5));
}

#[test]
fn a_ledger_over_its_cap_loses_its_oldest_ended_jobs_and_no_more_than_needed() {
    let fake = Fake::default();
    for at in 0..30 {
        let state = if at == 3 { JobState::InProgress } else { JobState::Completed };
        fake.add(job_at(state, NOW_MS + at, NOW_MS + at));
    }
    let each = policy::job_bytes(fake.state().jobs.values().next().unwrap(), 0);
    let order = Order { ledger_excess_bytes: 9 * each + 1, ..order(&[CleanupKind::Jobs], None, None) };
    let report = run(&fake, Order { cutoffs: Cutoffs::default(), ..order });
    assert_eq!(report.deleted[&CleanupKind::Jobs], 10);
    let left: Vec<i64> = fake.state().jobs.values().map(|job| job.created_at_ms - NOW_MS).collect();
    assert_eq!(left[..2], [3, 11]);
}

#[test]
fn logs_are_cut_to_the_record_where_a_limit_ends() {
    let fake = Fake::default();
    let mut job = job_at(JobState::Completed, 1, 2);
    job.log_count = 25_000;
    let id = fake.add(job);
    let report = run(&fake, order(&[CleanupKind::Logs], None, Some(12_345)));
    assert_eq!((report.deleted[&CleanupKind::Logs], report.more), (12_345, true));
    assert_eq!(fake.state().kept[&(id, OutputKind::Log)], 12_345);
    let report = run(&fake, order(&[CleanupKind::Logs], None, None));
    assert_eq!((report.deleted[&CleanupKind::Logs], report.more), (12_655, false));
}

#[test]
fn a_walk_goes_on_where_the_last_one_ended() {
    let fake = Fake::default();
    for at in 1..=100 {
        fake.add(job_at(JobState::InProgress, at, 0));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let walk_through = |cursors: Cursors| {
        let mut walk = Walk::new(order(&[CleanupKind::Jobs], None, None), cursors);
        let mut examined = 0;
        runtime.block_on(async {
            while !walk.is_done() {
                let rows = walk.step(&fake).await.unwrap();
                assert!(rows <= 7);
                examined += rows;
            }
        });
        (examined, walk.finish().1)
    };
    let (examined, cursors) = walk_through(Cursors::default());
    assert_eq!(examined, 100);
    assert_eq!(walk_through(cursors).0, 0);
}

fn named_at(state: JobState, created: i64, heard: i64) -> Job {
    let mut job = job_at(state, created, if state.is_terminal() { heard } else { 0 });
    (job.name, job.output_at_ms) = (JobName::parse(&format!("job-{created}")), heard);
    job
}

#[test]
fn a_limit_ends_before_the_block_it_would_cut_and_says_that_there_is_more() {
    let fake = Fake::default();
    let mut job = named_at(JobState::Completed, 1, 2);
    job.log_count = 30;
    let id = fake.add(job);
    let block = |first, last, records| Block { first, last, records, bytes: 100 };
    // Two lines stand before the first block and one in it.
    fake.state().blocks.insert((id, OutputKind::Log), vec![block(2, 9, 7), block(10, 19, 10)]);
    for (max, gone, left) in [(1, 1, 29), (5, 1, 28), (12, 8, 20), (25, 20, 0)] {
        let report = run(&fake, order(&[CleanupKind::Logs], Some(0), Some(max)));
        assert_eq!((report.deleted[&CleanupKind::Logs], report.more), (gone, left > 0), "at most {max}");
    }
    assert!(fake.state().blocks[&(id, OutputKind::Log)].is_empty());
}

#[test]
fn a_job_that_nobody_ends_is_ended_when_it_has_been_silent_and_not_before() {
    let fake = Fake::default();
    let silent = fake.add(named_at(JobState::InProgress, 1, NOW_MS - 25 * 3_600_000));
    let heard = fake.add(named_at(JobState::InProgress, 2, NOW_MS - 23 * 3_600_000));
    let ours = fake.add(job_at(JobState::InProgress, 3, 0));
    let tidy = Order { tidies: true, ..order(&[], None, None) };
    run(&fake, Order { idle: None, ..tidy.clone() });
    assert!(fake.state().jobs.values().all(|job| !job.state.is_terminal()), "0 hours means never");
    run(&fake, tidy);
    let state = fake.state();
    assert_eq!(
        (state.jobs[&silent].state, state.jobs[&silent].phase.as_str()),
        (JobState::Completed, "no output for 24 h")
    );
    assert_eq!(state.jobs[&silent].completed_at_ms, NOW_MS - 25 * 3_600_000);
    assert!(!state.jobs[&heard].state.is_terminal() && !state.jobs[&ours].state.is_terminal());
}

#[test]
fn a_job_that_still_puts_out_is_not_old_however_long_ago_it_was_ended() {
    let fake = Fake::default();
    let mut job = named_at(JobState::Completed, 1, DAY_MS);
    job.output_at_ms = NOW_MS - DAY_MS;
    let id = fake.add(job);
    let report = run(&fake, order(&[CleanupKind::Jobs], Some(3), None));
    assert_eq!(report.deleted[&CleanupKind::Jobs], 0);
    assert!(fake.state().jobs.contains_key(&id));
}

#[test]
fn a_full_disk_loses_the_output_of_the_oldest_ended_jobs_and_no_job() {
    let fake = Fake::default();
    let ids: Vec<JobId> = (1..=10)
        .map(|at| {
            let mut job = named_at(if at == 2 { JobState::InProgress } else { JobState::Completed }, at, NOW_MS + at);
            (job.log_count, job.output_counts) = (20, vec![0, 20, 20]);
            fake.add(job)
        })
        .collect();
    for id in &ids {
        for kind in [OutputKind::Log, OutputKind::Metric, OutputKind::Exec] {
            let blocks = [0, 10].map(|first| Block { first, last: first + 9, records: 10, bytes: 100 });
            fake.state().blocks.insert((*id, kind), blocks.to_vec());
        }
    }
    let report = run(&fake, Order { output_excess_bytes: 950, ..order(&[], None, None) });
    assert_eq!(report.reclaimed_bytes, 1_000);
    let state = fake.state();
    assert_eq!(state.jobs.len(), 10);
    let left = |at: usize| {
        [OutputKind::Exec, OutputKind::Metric, OutputKind::Log].map(|kind| state.blocks[&(ids[at], kind)].len())
    };
    assert_eq!([left(0), left(1), left(2), left(3)], [[0, 0, 0], [2, 2, 2], [0, 0, 2], [2, 2, 2]]);
}

#[test]
fn a_deletion_that_was_broken_off_is_finished_by_the_next_sweep() {
    let fake = Fake::default();
    let (left, other) =
        (fake.add(named_at(JobState::Canceled, 1, NOW_MS)), fake.add(named_at(JobState::Completed, 2, NOW_MS)));
    fake.state().leaving.insert(left);
    run(&fake, Order { tidies: true, ..order(&[CleanupKind::Jobs], None, None) });
    assert!(!fake.state().jobs.contains_key(&left) && fake.state().jobs.contains_key(&other));
}
