//! Deleting output on a real database: what is gone stays gone, what stays is whole, and no deletion leaves a row of a job that is not there.

use super::output::{append, named, open_small};
use super::*;

fn line(n: u64, kind: OutputKind) -> NewOutput {
    let data = format!("record {n} {:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into();
    NewOutput { kind, stream: LogStream::Stdout, time_ns: 1, sequence: n, label: None, data }
}

fn share(job: JobId, kind: OutputKind, records: std::ops::Range<u64>) -> OutputShare {
    OutputShare { job, expected: None, records: records.map(|n| line(n, kind)).collect() }
}

async fn end(store: &Store, job: JobId) {
    let state = Some(JobState::Completed);
    let change = StatusChange { job, state, phase: None, failure: None, expected_revision: None, now_ms: 20 };
    store.update_status(change).await.unwrap();
}

fn ordinals(reader: &Reader, job: JobId, kind: OutputKind) -> Vec<u64> {
    let limit = OutputLimit { rows: 1_000_000, bytes: 1 << 30 };
    let slice = reader.output(job, kind, 0, limit, &|_| true).unwrap();
    assert!(slice.end);
    slice.records.into_iter().map(|record| record.ordinal).collect()
}

fn seal(opened: &Opened, jobs: &[JobId]) {
    tokio::task::block_in_place(|| opened.store.seal_now(jobs, std::time::Duration::from_secs(60)));
    assert!(jobs.iter().all(|job| !opened.reader.has_tail(*job)));
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_output_does_not_come_back_with_the_batches_that_other_jobs_still_need() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open_small(dir.path());
    let (a, b) = (named(&opened.store, "a", 1).await, named(&opened.store, "b", 2).await);
    append(&opened.store, vec![share(a, OutputKind::Exec, 0..5)]).await;
    seal(&opened, &[a]);
    append(&opened.store, vec![share(a, OutputKind::Exec, 5..9), share(b, OutputKind::Exec, 0..9)]).await;
    append(&opened.store, vec![share(a, OutputKind::Log, 0..9), share(b, OutputKind::Log, 0..9)]).await;
    let prune = |kind, until| vec![Prune::Output { job: a, kind, until }];
    assert_eq!(opened.store.prune(prune(OutputKind::Log, 9)).await.unwrap(), 0, "an active job's output was deleted");
    end(&opened.store, a).await;
    assert_eq!(opened.store.prune(prune(OutputKind::Exec, 3)).await.unwrap(), 0, "a block was cut");
    assert_eq!(opened.store.prune(prune(OutputKind::Exec, 5)).await.unwrap(), 5);
    assert_eq!(ordinals(&opened.reader, a, OutputKind::Exec), [5, 6, 7, 8]);
    assert_eq!(opened.store.prune(prune(OutputKind::Exec, 99)).await.unwrap(), 4);
    assert_eq!(opened.store.prune(prune(OutputKind::Log, 9)).await.unwrap(), 9);
    for _ in 0..2 {
        for kind in [OutputKind::Log, OutputKind::Exec] {
            assert!(ordinals(&opened.reader, a, kind).is_empty());
            assert_eq!(ordinals(&opened.reader, b, kind).len(), 9);
        }
        drop(opened);
        opened = open_small(dir.path());
    }
    // A late record goes on behind what was deleted.
    assert_eq!(append(&opened.store, vec![share(a, OutputKind::Exec, 9..11)]).await, [Ok(9)]);
    seal(&opened, &[a, b]);
    assert_eq!(ordinals(&opened.reader, a, OutputKind::Exec), [9, 10]);
    assert_eq!(opened.reader.kept(a, OutputKind::Exec).unwrap(), (9, 11));
    drop(opened);
    checked(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_and_output_of_one_sequence_are_counted_together_and_go_up_to_the_same_place() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open_small(dir.path());
    let a = named(&opened.store, "a", 1).await;
    let said = |n: usize| (0..n).map(|_| NewLog { message: "said".into(), ..NewLog::default() }).collect::<Vec<_>>();
    for n in 0..6 {
        opened.store.append_logs(a, said(2_500)).await.unwrap();
        append(&opened.store, vec![share(a, OutputKind::Log, n * 40..n * 40 + 40)]).await;
    }
    seal(&opened, &[a]);
    let count = 6 * 2_540;
    end(&opened.store, a).await;
    let head = opened.reader.heads_of(a, OutputKind::Log, 0, 9).unwrap().remove(0);
    let until = head.last;
    let gone = opened.store.prune(vec![Prune::Output { job: a, kind: OutputKind::Log, until }]).await.unwrap();
    assert_eq!((gone, opened.reader.kept(a, OutputKind::Log).unwrap()), (head.first, (head.first, count)));
    let limit = OutputLimit { rows: 1_000_000, bytes: 1 << 30 };
    let left = opened.reader.log_slice(a, 0, limit, &|_| true).unwrap().records;
    assert_eq!(left.iter().map(|record| record.offset).collect::<Vec<_>>(), (head.first..count).collect::<Vec<_>>());
    let gone = opened.store.prune(vec![Prune::Output { job: a, kind: OutputKind::Log, until: count }]).await.unwrap();
    assert_eq!(gone, count - head.first);
    assert!(opened.reader.log_slice(a, 0, limit, &|_| true).unwrap().records.is_empty());
    assert!(opened.reader.heads_after(None, 9).unwrap().is_empty());
    drop(opened);
    checked(dir.path());
}

/// Rows of jobs that are not there any more.
fn orphans(reader: &Reader) -> Vec<JobId> {
    let jobs = reader.heads_after(None, 1_000_000).unwrap().into_iter().map(|head| head.job);
    let tails = OutputKind::ALL.into_iter().flat_map(|kind| reader.jobs_with_tail(kind));
    jobs.chain(tails).filter(|job| reader.job(*job).unwrap().is_none()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_deleted_while_its_output_arrives_leaves_nothing_and_the_rest_makes_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open_small(dir.path());
    let first = named(&opened.store, "a", 1).await;
    // More than one group can delete.
    for _ in 0..13 {
        opened.store.append_logs(first, (0..1_000).map(|_| NewLog::default()).collect()).await.unwrap();
    }
    let store = opened.store.clone();
    let writer = tokio::spawn(async move {
        let (mut jobs, mut refused, mut last) = (vec![first], 0u64, first);
        for n in 0..400u64 {
            while append(&store, vec![share(last, OutputKind::Log, n..n + 1)]).await[0].is_err() {
                refused += 1;
                last = named(&store, "a", 2 + u8::try_from(jobs.len()).unwrap()).await;
                jobs.push(last);
            }
        }
        (jobs, refused)
    });
    let mut deleted = 0;
    while !writer.is_finished() && deleted < 5 {
        let id = opened.reader.find_job("a").unwrap();
        if let Some(id) = id {
            deleted += opened.store.prune(vec![Prune::Named(id)]).await.unwrap();
        }
    }
    let (jobs, refused) = writer.await.unwrap();
    assert!(deleted >= 1 && refused >= deleted.saturating_sub(1), "{deleted} deleted, {refused} refused");
    let left: Vec<_> = jobs.iter().filter(|job| opened.reader.job(**job).unwrap().is_some()).copied().collect();
    assert!(left.len() <= 1);
    seal(&opened, &left);
    assert_eq!(orphans(&opened.reader), []);
    assert!(opened.reader.logs(first, 0, 10).unwrap().is_empty());
    assert_eq!(opened.reader.find_job("a").unwrap(), left.first().copied());
    drop(opened);
    let opened = open_small(dir.path());
    assert_eq!(orphans(&opened.reader), []);
    let running: u64 = opened.reader.counters().jobs.values().sum();
    assert_eq!(running, left.len() as u64, "the totals count a job that is gone");
    drop(opened);
    checked(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turned_journal_and_a_compaction_lose_nothing_and_give_the_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open_small(dir.path());
    let (a, b) = (named(&opened.store, "a", 1).await, named(&opened.store, "b", 2).await);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut noise = || -> Vec<u8> { (0..8_000).map(|_| rng.u8(..)).collect() };
    for n in 0..200 {
        let mut noisy = || NewOutput { data: noise().into(), ..line(n, OutputKind::Log) };
        let mut records = |job| OutputShare { job, expected: None, records: (0..8).map(|_| noisy()).collect() };
        let shares = if n % 20 == 0 { vec![records(a), records(b)] } else { vec![records(a)] };
        append(&opened.store, shares).await;
    }
    seal(&opened, &[a, b]);
    let before = used(dir.path());
    end(&opened.store, a).await;
    opened.store.prune(vec![Prune::Job(a)]).await.unwrap();
    tokio::task::block_in_place(|| opened.store.compact_output()).unwrap();
    let after = used(dir.path());
    assert!(after < before / 4, "{before} bytes were used, and {after} still are");
    for _ in 0..2 {
        assert_eq!(ordinals(&opened.reader, b, OutputKind::Log), (0..80).collect::<Vec<_>>());
        drop(opened);
        opened = open_small(dir.path());
    }
    drop(opened);
    checked(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn space_that_a_slow_reader_holds_is_told_and_comes_back_when_the_reader_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open_small(dir.path());
    let a = named(&opened.store, "a", 1).await;
    let mut rng = fastrand::Rng::with_seed(2);
    for n in 0..100 {
        let data: Vec<u8> = (0..40_000).map(|_| rng.u8(..)).collect();
        let records = vec![NewOutput { data: data.into(), ..line(n, OutputKind::Log) }];
        append(&opened.store, vec![OutputShare { job: a, expected: None, records }]).await;
    }
    seal(&opened, &[a]);
    end(&opened.store, a).await;
    let compact = || tokio::task::block_in_place(|| opened.store.compact_output()).unwrap();
    compact();
    let mut reading = opened.store.spaces.range(keys::Space::Output, &[], &[0xff]);
    assert!(reading.next().is_some());
    opened.store.prune(vec![Prune::Job(a)]).await.unwrap();
    let standing = compact();
    assert!(standing > 3_900_000, "the tables went under a reader: {standing} bytes stand");
    assert!(reading.all(|row| row.is_ok()));
    drop(reading);
    let left = tokio::task::block_in_place(|| opened.store.let_go_of_tables()).unwrap();
    assert!(left < 1_000_000 && used(dir.path()) < 5_000_000, "{left} bytes still stand, {} in all", used(dir.path()));
}

/// What the files under the folder occupy.
fn used(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    entries
        .map(|entry| {
            if entry.path().is_dir() {
                used(&entry.path())
            } else {
                entry.metadata().map_or(0, |file| file.blocks() * 512)
            }
        })
        .sum()
}
