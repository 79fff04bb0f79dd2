//! What a job says of its output, on a real database: never less than was acknowledged and never twice, whether it stands in the job's
//! row, in batches, or in both.

use std::time::Duration;

use super::output::{append, named, open_small};
use super::*;
use crate::store::Prune;

const KINDS: [OutputKind; 3] = [OutputKind::Log, OutputKind::Metric, OutputKind::Other];

/// What each job is to say.
#[derive(Debug, Clone, Default, PartialEq)]
struct Expected {
    ends: [u64; KINDS.len()],
    bytes: u64,
}

fn said(job: &Job) -> Expected {
    Expected { ends: KINDS.map(|kind| job.records_of(kind)), bytes: job.output_bytes }
}

fn record(kind: OutputKind, n: u64) -> NewOutput {
    let data = "x".repeat(usize::try_from(n % 7).unwrap()).into();
    NewOutput { kind, stream: LogStream::Stdout, time_ns: 1, sequence: n, label: None, data }
}

/// Appends to each job as many records of each kind as `counts` says.
async fn append_some(store: &Store, counts: &[[u64; 3]], jobs: &[JobId], expected: &mut [Expected]) {
    let (mut shares, mut firsts) = (Vec::new(), Vec::new());
    for ((job, expected), counts) in jobs.iter().zip(expected).zip(counts) {
        let mut records = Vec::new();
        for ((kind, end), count) in KINDS.into_iter().zip(&mut expected.ends).zip(*counts) {
            if count > 0 {
                firsts.push(Ok(*end));
            }
            *end += count;
            expected.bytes += (0..count).map(|n| n % 7).sum::<u64>();
            records.extend((0..count).map(|n| record(kind, n)));
        }
        shares.push(OutputShare { job: *job, expected: None, records });
    }
    assert_eq!(append(store, shares).await, firsts);
}

fn compare(opened: &Opened, jobs: &[JobId], expected: &[Expected], at: &str) {
    for (job, expected) in jobs.iter().zip(expected) {
        let alone = opened.reader.job(*job).unwrap().unwrap();
        assert_eq!(said(&alone), *expected, "{at}: {job}");
        let listed = opened.reader.jobs_after(JobId::MIN, 100).unwrap();
        assert_eq!(listed.iter().find(|listed| listed.id == *job), Some(&alone), "{at}: oldest first");
        let listed = opened.reader.jobs_before(JobId::from_bytes([255; 16]), JobId::MIN, 100).unwrap();
        assert_eq!(listed.iter().find(|listed| listed.id == *job), Some(&alone), "{at}: newest first");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_counts_all_of_its_output_whatever_is_sealed_changed_deleted_or_restarted_in_between() {
    for seed in 0..8 {
        let mut random = fastrand::Rng::with_seed(seed);
        let dir = tempfile::tempdir().unwrap();
        let mut opened = open_small(dir.path());
        let mut jobs = Vec::new();
        for n in 1..=3 {
            jobs.push(named(&opened.store, &format!("job-{n}"), n).await);
        }
        let mut expected = vec![Expected::default(); jobs.len()];
        for step in 0..60 {
            let one = random.usize(0..jobs.len());
            let (job, store) = (jobs[one], &opened.store);
            match random.u8(0..12) {
                0 => {
                    let said = NewLog { message: "said".into(), timestamp_ms: 1, ..NewLog::default() };
                    assert_eq!(store.append_logs(job, vec![said]).await.unwrap(), expected[one].ends[0]);
                    expected[one].ends[0] += 1;
                }
                1 => {
                    let phase = Some(format!("phase {step}"));
                    let change =
                        StatusChange { job, state: None, phase, failure: None, expected_revision: None, now_ms: 20 };
                    assert_eq!(said(&store.update_status(change).await.unwrap()), expected[one]);
                }
                2 => tokio::task::block_in_place(|| store.seal_now(&jobs[..one], Duration::from_secs(60))),
                3 => {
                    drop(opened);
                    let report = check(dir.path()).unwrap();
                    assert!(report.is_clean(), "seed {seed}, step {step}: {:?}", report.problems);
                    opened = open_small(dir.path());
                }
                4 if step % 3 == 0 => {
                    // Deleted; its name goes to another job.
                    store.prune(vec![Prune::Named(job)]).await.unwrap();
                    jobs[one] = named(store, &format!("job-{}", one + 1), 10 + step).await;
                    expected[one] = Expected::default();
                }
                _ => {
                    let counts = [[(); 3]; 3].map(|job| job.map(|()| random.u64(0..30)));
                    append_some(store, &counts, &jobs, &mut expected).await;
                }
            }
            compare(&opened, &jobs, &expected, &format!("seed {seed}, step {step}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_not_seen_to_lose_output_while_its_row_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open_small(dir.path());
    let job = named(&opened.store, "a", 1).await;
    let (reader, done) = (opened.reader.clone(), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let over = std::sync::Arc::clone(&done);
    let watcher = std::thread::spawn(move || {
        let (mut last, mut looks) = (0, 0u64);
        while !over.load(std::sync::atomic::Ordering::Relaxed) {
            let alone = reader.job(job).unwrap().unwrap().log_count;
            let listed = reader.jobs_after(JobId::MIN, 10).unwrap()[0].log_count;
            assert!(last <= alone && alone <= listed, "{last}, then {alone}, then {listed}");
            last = listed;
            looks += 1;
        }
        looks
    });
    for n in 0..150 {
        let records = (0..20).map(|n| record(OutputKind::Log, n)).collect();
        append(&opened.store, vec![OutputShare { job, expected: None, records }]).await;
        if n % 2 == 0 {
            tokio::task::block_in_place(|| opened.store.seal_now(&[job], Duration::from_secs(60)));
        }
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(watcher.join().unwrap() > 100);
    assert_eq!(opened.reader.job(job).unwrap().unwrap().log_count, 3_000);
}
