//! Output on a real database: what was appended is read back in order, sealed or not, after a restart or not.

use std::time::Duration;

use super::*;
use crate::store::output;

fn line(n: u64) -> NewOutput {
    let stream = if n.is_multiple_of(3) { LogStream::Stderr } else { LogStream::Stdout };
    let data = format!("line {n} of a service that says much the same again and again\n").into();
    NewOutput { kind: OutputKind::Log, stream, time_ns: 1_700_000_000_000_000_000, sequence: n, label: None, data }
}

pub fn open_small(dir: &Path) -> Opened {
    let output = output::Options { block_bytes: 8 << 10, tail_bytes_max: 64 << 10, ..output::Options::default() };
    open(dir, &Options { output, ..Options::default() }, Metrics::new()).unwrap()
}

pub async fn named(store: &Store, name: &str, n: u8) -> JobId {
    let job = NamedJob {
        name: JobName::parse(name).unwrap(),
        id: JobId::from_bytes([n; 16]),
        job_type: JobType::default(),
        tenant: Tenant::default(),
        now_ms: 5,
    };
    store.open_named(vec![job]).await.unwrap()[0]
}

pub async fn append(store: &Store, shares: Vec<OutputShare>) -> Vec<Result<u64, Refusal>> {
    let (send, wait) = tokio::sync::oneshot::channel();
    store.append_output(OutputBatch::new(&shares, 9), move |result| send.send(result).unwrap());
    wait.await.unwrap().unwrap()
}

fn whole(reader: &Reader, job: JobId) -> Vec<u64> {
    let (mut got, mut from) = (Vec::new(), 0);
    loop {
        let slice = reader.log_slice(job, from, OutputLimit { rows: 100, bytes: 1 << 20 }, &|_| true).unwrap();
        for record in &slice.records {
            got.push(record.offset);
            if record.stream != LogStream::Job {
                assert!(record.chunk.starts_with(b"line "), "{record:?}");
            }
        }
        from = slice.next;
        if slice.end {
            return got;
        }
    }
}

#[tokio::test]
async fn output_of_two_jobs_and_their_own_lines_are_one_sequence_each_through_sealing_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open_small(dir.path());
    let (a, b) = (named(&opened.store, "a", 1).await, named(&opened.store, "b", 2).await);
    assert_eq!(named(&opened.store, "a", 3).await, a);
    let mut next = 0;
    for round in 0..60u64 {
        let records =
            |job| OutputShare { job, expected: None, records: (0..20).map(|n| line(round * 20 + n)).collect() };
        let firsts = append(&opened.store, vec![records(a), records(b)]).await;
        assert_eq!(firsts, [Ok(next), Ok(next)]);
        next += 20;
        if round % 10 == 0 {
            for job in [a, b] {
                let said = NewLog { message: format!("round {round}"), timestamp_ms: 1, ..NewLog::default() };
                assert_eq!(opened.store.append_logs(job, vec![said]).await.unwrap(), next);
            }
            next += 1;
        }
        if round == 31 {
            drop(opened);
            opened = open_small(dir.path());
        }
        assert_eq!(whole(&opened.reader, a), (0..next).collect::<Vec<_>>(), "round {round}");
    }
    while opened.reader.heads_of(b, OutputKind::Log, 0, 100).unwrap().len() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(whole(&opened.reader, b), (0..next).collect::<Vec<_>>());
    drop(opened);
    let opened = open_small(dir.path());
    assert_eq!(whole(&opened.reader, a), (0..next).collect::<Vec<_>>());
    assert_eq!(opened.reader.find_job("b").unwrap(), Some(b));
}

#[tokio::test]
async fn output_of_a_job_that_is_gone_is_refused_and_the_others_stands() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open_small(dir.path());
    let a = named(&opened.store, "a", 1).await;
    let shares = [JobId::from_bytes([9; 16]), a].map(|job| OutputShare { job, expected: None, records: vec![line(1)] });
    let firsts = append(&opened.store, shares.to_vec()).await;
    assert_eq!(firsts[0].as_ref().unwrap_err().code, RefusalCode::NotFound);
    assert_eq!(firsts[1], Ok(0));
    assert_eq!(whole(&opened.reader, a), [0]);
}

#[tokio::test]
async fn output_for_another_place_than_the_next_is_refused_and_stays_so_through_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open_small(dir.path());
    let (a, b) = (named(&opened.store, "a", 1).await, named(&opened.store, "b", 2).await);
    let share = |job, expected, n| OutputShare { job, expected, records: vec![line(n), line(n + 1)] };
    let shares =
        vec![share(a, Some(0), 1), share(a, Some(0), 1), share(b, None, 1), share(a, Some(2), 3), share(b, Some(7), 3)];
    let firsts = append(&opened.store, shares).await;
    let codes: Vec<_> = firsts.iter().map(|first| first.as_ref().map_err(|refusal| refusal.code).copied()).collect();
    let refused = Err(RefusalCode::IllegalState);
    assert_eq!(codes, [Ok(0), refused, Ok(0), Ok(2), refused]);
    let why = firsts[4].as_ref().unwrap_err().to_string();
    assert!(why.contains("number 2, not 7"), "{why}");
    let alone = append(&opened.store, vec![share(a, Some(3), 5)]).await;
    assert_eq!(alone[0].as_ref().unwrap_err().code, RefusalCode::IllegalState);
    drop(opened);
    let opened = open_small(dir.path());
    assert_eq!(whole(&opened.reader, a), [0, 1, 2, 3]);
    assert_eq!(whole(&opened.reader, b), [0, 1]);
    assert_eq!(append(&opened.store, vec![share(a, Some(4), 5)]).await, [Ok(4)]);
}

/// The data of all records of a job, in order, with their ordinals.
fn texts(reader: &Reader, job: JobId, kind: OutputKind) -> Vec<(u64, bytes::Bytes)> {
    let (mut got, mut from) = (Vec::new(), 0);
    loop {
        let slice = reader.output(job, kind, from, OutputLimit { rows: 500, bytes: 1 << 20 }, &|_| true).unwrap();
        got.extend(slice.records.into_iter().map(|record| (record.ordinal, record.entry.data)));
        from = slice.next;
        if slice.end {
            return got;
        }
    }
}

/// Until the sealer has nothing to do: what is not sealed is too little for a block.
async fn sealed(opened: &Opened, blocks: usize, job: JobId) {
    while opened.reader.heads_of(job, OutputKind::Log, 0, 1_000).unwrap().len() < blocks {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_restart_after_any_number_of_appends_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut written = [0u64; 3];
    let mut jobs = Vec::new();
    for round in 0..40u64 {
        let opened = open_small(dir.path());
        if round == 0 {
            for n in 1..=3 {
                jobs.push(named(&opened.store, &format!("job-{n}"), n).await);
            }
        }
        for append_n in 0..=round % 4 {
            let mut shares = Vec::new();
            for (at, job) in jobs.iter().enumerate() {
                // Jobs of different speed, so that batches are needed by some and not by others.
                let count = [40, 9, u64::from(append_n == 0)][at];
                shares.push(OutputShare {
                    job: *job,
                    expected: None,
                    records: (0..count).map(|n| line(written[at] + n)).collect(),
                });
                written[at] += count;
            }
            shares.push(OutputShare { job: JobId::from_bytes([9; 16]), expected: None, records: vec![line(0)] });
            append(&opened.store, shares).await;
        }
        if round % 8 == 7 {
            sealed(&opened, 2, jobs[0]).await;
        }
        for (job, written) in jobs.iter().zip(written) {
            let got = texts(&opened.reader, *job, OutputKind::Log);
            let expected: Vec<_> = (0..written).map(|n| (n, line(n).data)).collect();
            assert_eq!(got, expected, "round {round}");
        }
        drop(opened);
        let report = check(dir.path()).unwrap();
        assert!(report.is_clean(), "round {round}: {:?}", report.problems);
        assert_eq!(report.output_records, written.iter().sum::<u64>(), "round {round}: sealed or not, each once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_see_each_record_once_and_in_order_while_it_is_appended_and_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open_small(dir.path());
    let (a, b) = (named(&opened.store, "a", 1).await, named(&opened.store, "b", 2).await);
    const LINES: u64 = 6_000;
    let readers: Vec<_> = [a, b, a, b]
        .into_iter()
        .enumerate()
        .map(|(n, job)| {
            let reader = opened.reader.clone();
            std::thread::spawn(move || {
                let (mut from, mut seen) = (0, 0);
                while seen < LINES {
                    // One follows, one reads from anywhere to the end.
                    let limit = OutputLimit { rows: 64 + n * 100, bytes: 1 << 20 };
                    let slice = reader.log_slice(job, from, limit, &|_| true).unwrap();
                    for record in &slice.records {
                        assert_eq!(record.offset, seen);
                        assert_eq!(record.chunk, line(seen).data);
                        seen += 1;
                    }
                    from = slice.next;
                    assert_eq!(from, seen);
                    let start = seen / 2;
                    let whole = reader.output(job, OutputKind::Log, start, limit, &|_| true).unwrap();
                    for (n, record) in whole.records.iter().enumerate() {
                        assert_eq!(record.ordinal, start + n as u64);
                    }
                }
            })
        })
        .collect();
    let writers: Vec<_> = [a, b]
        .into_iter()
        .map(|job| {
            let store = opened.store.clone();
            tokio::spawn(async move {
                let mut next = 0;
                while next < LINES {
                    let count = (1 + next % 70).min(LINES - next);
                    let records = (next..next + count).map(line).collect();
                    assert_eq!(append(&store, vec![OutputShare { job, expected: None, records }]).await, [Ok(next)]);
                    next += count;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    tokio::task::spawn_blocking(move || readers.into_iter().for_each(|reader| reader.join().unwrap())).await.unwrap();
    sealed(&opened, 10, a).await;
    drop(opened);
    assert_eq!(check(dir.path()).unwrap().problems, Vec::<String>::new());
}

#[tokio::test]
async fn a_record_larger_than_a_row_and_any_bytes_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open_small(dir.path());
    let a = named(&opened.store, "a", 1).await;
    let mut seed = 1u64;
    let mut noise = |bytes: usize| -> bytes::Bytes {
        let words = (0..bytes / 8).flat_map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed ^ seed >> 29).to_le_bytes()
        });
        words.collect::<Vec<u8>>().into()
    };
    let datas = [noise(900_000), noise(900_000), noise(9 << 20), bytes::Bytes::new(), noise(64)];
    for data in &datas {
        let record = NewOutput { data: data.clone(), ..line(0) };
        append(&opened.store, vec![OutputShare { job: a, expected: None, records: vec![record] }]).await;
    }
    for _ in 0..2 {
        let got = texts(&opened.reader, a, OutputKind::Log);
        assert!(got.iter().map(|(_, data)| data).eq(&datas));
        sealed(&opened, 3, a).await;
        drop(opened);
        opened = open_small(dir.path());
    }
    drop(opened);
    assert_eq!(check(dir.path()).unwrap().problems, Vec::<String>::new());
}

#[tokio::test]
async fn blocks_end_where_lines_end_so_that_a_search_reads_one() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open_small(dir.path());
    let a = named(&opened.store, "a", 1).await;
    let text: Vec<u8> = (0..2_000).flat_map(|n| line(n).data.to_vec()).collect();
    // Pieces that do not care where lines end.
    for pieces in text.chunks(5_000) {
        let pieces = pieces.chunks(170).map(|data| NewOutput {
            stream: LogStream::Stdout,
            data: bytes::Bytes::copy_from_slice(data),
            ..line(0)
        });
        append(&opened.store, vec![OutputShare { job: a, expected: None, records: pieces.collect() }]).await;
    }
    sealed(&opened, 10, a).await;
    let heads = opened.reader.heads_of(a, OutputKind::Log, 0, 1_000).unwrap();
    let whole = heads.iter().filter(|head| head.open_streams == 0).count();
    assert!(whole * 10 >= heads.len(), "{whole} of {} blocks end with a line", heads.len());
    let joined: Vec<u8> =
        texts(&opened.reader, a, OutputKind::Log).iter().flat_map(|(_, data)| data.to_vec()).collect();
    assert_eq!(joined, text);
}

fn one_chunk(batch: u64, bytes: usize) -> output::Committed {
    let chunk = output::Chunk { batch, first: batch, count: 1, body: vec![0; bytes].into() };
    let job = JobId::from_bytes([u8::try_from(batch).unwrap(); 16]);
    output::Committed { batch, rows: 1, chunks: vec![(job, OutputKind::Log, chunk)] }
}

#[test]
fn what_a_burst_left_is_packed_to_the_end_when_little_comes_and_a_trickle_is_not() {
    let options = output::Options { tail_bytes_max: 80_000, seal_after_ms: 60_000, ..output::Options::default() };
    let tails = output::Tails::new(options.clone());
    let due = |tails: &output::Tails| tails.due(Duration::ZERO, 1_000);
    for batch in 1..=10 {
        tails.add(one_chunk(batch, 2_000));
        tails.tick();
        assert_eq!(due(&tails).len(), 0, "much came in the last second");
    }
    tails.add(one_chunk(11, 1_000));
    tails.tick();
    assert!(!tails.is_settled());
    for left in (0..11).rev() {
        let due = due(&tails).remove(0);
        assert_eq!(due.chunks.len(), 1, "a round takes one job's, and they go on below what began them");
        tails.sealed(vec![output::Done { job: due.job, kind: due.kind, chunks: due.chunks, rest: None }]);
        assert_eq!(tails.bytes() == 0, left == 0);
    }
    assert_eq!((due(&tails).len(), tails.is_settled(), tails.sealed_bytes()), (0, true, 21_000));
    let tails = output::Tails::new(options);
    (1..=4).for_each(|batch| tails.add(one_chunk(batch, 2_000)));
    for _ in 0..50 {
        tails.tick();
        assert_eq!(due(&tails).len(), 0, "too little to be worth blocks of their own");
    }
    assert!(tails.is_settled());
}

#[test]
fn appends_wait_at_half_as_much_again_as_may_lie_unsealed() {
    let options = output::Options { tail_bytes_max: 8_000, ..output::Options::default() };
    let tails = output::Tails::new(options);
    (1..=5).for_each(|batch| tails.add(one_chunk(batch, 1_920)));
    assert_eq!((tails.wait_for_room(Duration::ZERO), tails.is_behind()), (true, false));
    tails.add(one_chunk(6, 1_920));
    assert_eq!((tails.wait_for_room(Duration::ZERO), tails.is_behind()), (true, true));
    tails.add(one_chunk(7, 1_920));
    assert_eq!((tails.wait_for_room(Duration::ZERO), tails.is_behind()), (false, true));
}

#[tokio::test]
async fn a_tail_keeps_no_other_jobs_output_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path(), &Options::default(), Metrics::new()).unwrap();
    let mut jobs = Vec::new();
    for n in 1..=3 {
        jobs.push(named(&opened.store, &format!("job-{n}"), n).await);
    }
    // Little by its data and messages, and much by what else a line may have.
    let fields = (0..30).map(|n| (format!("field_{n}"), "x".repeat(1_000))).collect();
    let label = Some(Box::new(NewLog { fields, timestamp_ms: 1, ..NewLog::default() }));
    let heavy = NewOutput { stream: LogStream::Job, label, data: bytes::Bytes::new(), ..line(0) };
    let records = [vec![line(1), line(2)], vec![heavy], vec![line(3)]];
    let shares: Vec<_> =
        jobs.iter().zip(records).map(|(job, records)| OutputShare { job: *job, expected: None, records }).collect();
    let batch = OutputBatch::new(&shares, 9);
    let bodies: Vec<_> = batch.pieces.iter().map(|piece| piece.body.clone()).collect();
    assert!(bodies[1].len() > 30_000);
    let end = |body: &bytes::Bytes| body.as_ptr().wrapping_add(body.len());
    assert_eq!(end(&bodies[0]), bodies[2].as_ptr(), "small ones lie side by side");
    assert_ne!(end(&bodies[0]), bodies[1].as_ptr());
    append(&opened.store, shares.clone()).await;
    for (job, share) in jobs.iter().zip(&shares) {
        let tail = opened.reader.tail(*job, OutputKind::Log);
        let entries = tail.chunks().iter().flat_map(|chunk| chunk.records(OutputKind::Log).unwrap());
        assert_eq!(entries.map(|record| record.entry).collect::<Vec<_>>(), share.records);
    }
}

#[path = "../../../tests/bench/corpus.rs"]
mod corpus;

#[tokio::test]
async fn service_logs_cost_nineteen_bytes_a_line_and_a_word_that_is_not_there_lets_blocks_be_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path(), &Options::default(), Metrics::new()).unwrap();
    let a = named(&opened.store, "a", 1).await;
    let (mut rng, mut time_ms, mut bytes) = (7, 1_772_000_000_000, 0);
    const LINES: u64 = 12_000;
    for _ in 0..6 {
        let mut line = || {
            let mut data = Vec::new();
            corpus::line(&mut rng, &mut time_ms, &mut data);
            bytes += data.len() as u64;
            let time_ns = i64::try_from(time_ms / 1_000 * 1_000_000_000).unwrap();
            NewOutput { stream: LogStream::Stdout, time_ns, data: data.into(), ..super::output::line(0) }
        };
        let records = (0..LINES / 6).map(|_| line()).collect();
        append(&opened.store, vec![OutputShare { job: a, expected: None, records }]).await;
    }
    assert!((115..127).contains(&(bytes / LINES)), "{bytes}");
    let expected = texts(&opened.reader, a, OutputKind::Log);
    // The rest is sealed when it is old.
    while !opened.reader.tail(a, OutputKind::Log).chunks().is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(texts(&opened.reader, a, OutputKind::Log), expected);
    let heads = opened.reader.heads_of(a, OutputKind::Log, 0, 1_000).unwrap();
    let stored: u64 = heads.iter().map(|head| head.stored_bytes).sum();
    assert!(stored <= 19 * LINES, "{stored} bytes of {LINES} lines in {} blocks", heads.len());
    assert!(heads.iter().all(|head| !head.filter.may_contain(b"panicked at", false)));
    assert!(heads.iter().all(|head| head.filter.may_contain(b"UPSTREAM-timeout", true)));
}

#[tokio::test]
async fn a_lost_head_is_named_by_the_check_and_made_anew_by_salvage() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open_small(dir.path());
    let a = named(&opened.store, "a", 1).await;
    for round in 0..40u64 {
        append(
            &opened.store,
            vec![OutputShare { job: a, expected: None, records: (0..20).map(|n| line(round * 20 + n)).collect() }],
        )
        .await;
    }
    sealed(&opened, 4, a).await;
    let before = texts(&opened.reader, a, OutputKind::Log);
    let lost = opened.reader.heads_of(a, OutputKind::Log, 0, 100).unwrap()[1].first;
    drop(opened);
    let spaces = open::open_database(&dir.path().join("db"), &Options::default()).unwrap();
    let gone = [(keys::block_head(a, OutputKind::Log, lost), None)];
    spaces.commit(gone.iter().map(|(key, value)| (key, value))).unwrap();
    drop(spaces);
    let problems = check(dir.path()).unwrap().problems;
    assert!(problems.iter().any(|problem| problem.contains("has no head")), "{problems:?}");
    assert!(problems.iter().any(|problem| problem.contains("lacks records")), "{problems:?}");
    let into = dir.path().join("salvaged");
    let report = salvage(dir.path(), &into).unwrap();
    assert_eq!(report.lost, Vec::<String>::new());
    assert_eq!(check(&into).unwrap().problems, Vec::<String>::new());
    let opened = open_small(&into);
    assert_eq!(texts(&opened.reader, a, OutputKind::Log), before);
}
