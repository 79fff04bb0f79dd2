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
        let records = |job| OutputShare { job, records: (0..20).map(|n| line(round * 20 + n)).collect() };
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
    let shares = [JobId::from_bytes([9; 16]), a].map(|job| OutputShare { job, records: vec![line(1)] });
    let firsts = append(&opened.store, shares.to_vec()).await;
    assert_eq!(firsts[0].as_ref().unwrap_err().code, RefusalCode::NotFound);
    assert_eq!(firsts[1], Ok(0));
    assert_eq!(whole(&opened.reader, a), [0]);
}
