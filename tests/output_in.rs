//! What jobs put out and how it comes in: all of it, in order, byte for byte; what cannot be kept is refused and counted.
//!
//! `FETCHBOX_OUTPUT_KILLS=100 cargo test --test it output_in::` makes the kill test longer, `FETCHBOX_OUTPUT_TERMS=100` the one that stops it with
//! full sockets.

use std::path::Path;

use fetchbox::client::Client;
use fetchbox::daemon::Ended;
use fetchbox::model::{LogRecord, LogStream, OutputKind, OutputRecord};
use fetchbox::store::{self, OutputLimit, Reader};
use fetchbox::telemetry::Metrics;
use futures_util::TryStreamExt as _;

use crate::harness::binary::Home;
use crate::harness::host::Host;
use crate::harness::joblet::{Sender, chunk, envelope, framed};
use crate::harness::{eventually, http_get, pb, rounds, seed};

const LIMIT: OutputLimit = OutputLimit { rows: 1_000, bytes: 4 << 20 };

/// The database of a daemon that has stopped.
struct Kept {
    _opened: store::Opened,
    reader: Reader,
}

impl Kept {
    fn open(data_dir: &Path) -> Kept {
        let opened = store::open(data_dir, &store::Options::default(), Metrics::new()).unwrap();
        Kept { reader: opened.reader.clone(), _opened: opened }
    }

    fn logs(&self, name: &str) -> Vec<LogRecord> {
        let Some(job) = self.reader.find_job(name).unwrap() else { return Vec::new() };
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            let slice = self.reader.log_slice(job, from, LIMIT, &|_| true).unwrap();
            all.extend(slice.records);
            from = slice.next;
            if slice.end {
                let offsets: Vec<u64> = all.iter().map(|record| record.offset).collect();
                assert_eq!(offsets, (0..all.len() as u64).collect::<Vec<_>>(), "{name} has a hole");
                return all;
            }
        }
    }

    /// Of the streams, without the daemon's own lines.
    fn chunks(&self, name: &str) -> Vec<(LogStream, Vec<u8>)> {
        let written = self.logs(name).into_iter().filter(|record| record.stream != LogStream::Job);
        written.map(|record| (record.stream, record.chunk.to_vec())).collect()
    }

    fn of_kind(&self, name: &str, kind: OutputKind) -> Vec<OutputRecord> {
        let job = self.reader.find_job(name).unwrap().unwrap();
        self.reader.output(job, kind, 0, LIMIT, &|_| true).unwrap().records
    }

    fn jobs(&self) -> usize {
        usize::try_from(self.reader.counters().jobs.values().sum::<u64>()).unwrap()
    }
}

/// Starts with this, or the sum over all labels.
async fn metric(host: &Host, name: &str) -> u64 {
    let (_, text) = http_get(host.http(), "/metrics").await;
    let of_name = |line: &&str| line.starts_with(name);
    text.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

async fn written(host: &Host, records: u64) {
    eventually("all records durable", || async {
        (metric(host, "persist_records_written_total").await >= records).then_some(())
    })
    .await;
}

async fn refused(host: &Host, reason: &str, count: u64) {
    let name = format!("persist_refused_total{{reason=\"{reason}\"}}");
    eventually(&name, || async { (metric(host, &name).await == count).then_some(()) }).await;
}

async fn stopped(host: &mut Host) -> Kept {
    assert_eq!(host.stop().await, Ended::Drained);
    Kept::open(&host.data_dir())
}

fn line(job: usize, n: u64) -> (bool, Vec<u8>) {
    let mut content = format!("job {job} says \u{1b}[3{}m{n}\0 and more of the same", n % 8).into_bytes();
    content.push(0xff);
    (n.is_multiple_of(5), content)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_burst_of_two_senders_over_many_jobs_is_kept_in_order_byte_for_byte() {
    const JOBS: usize = 40;
    const LINES: u64 = 500;
    let mut host = Host::start(|config| config.ingest.output.buffer_bytes = 1 << 20).await;
    let mut senders = Vec::new();
    for half in 0..2 {
        let path = host.joblet_path().to_owned();
        senders.push(tokio::spawn(async move {
            let mut bytes = Vec::new();
            for n in 0..LINES {
                for job in (half..JOBS).step_by(2) {
                    let (stderr, content) = line(job, n);
                    bytes.extend(chunk(&format!("burst-{job}"), stderr, n, content));
                }
            }
            let mut sender = Sender::connect(&path).await;
            // Pieces that end anywhere but where frames do.
            for piece in bytes.chunks(70_001) {
                sender.send(piece).await;
            }
            sender.finish().await;
        }));
    }
    for sender in senders {
        sender.await.unwrap();
    }
    written(&host, JOBS as u64 * LINES).await;
    assert_eq!(metric(&host, "persist_ipc_messages_received_total").await, JOBS as u64 * LINES);
    assert_eq!(metric(&host, "persist_gaps_total").await, 0);
    assert!(metric(&host, "persist_storage_bytes_total").await > 0);
    assert!(metric(&host, "persist_write_latency_seconds_count").await > 0);
    let kept = stopped(&mut host).await;
    for job in 0..JOBS {
        let expected: Vec<_> = (0..LINES)
            .map(|n| line(job, n))
            .map(|(stderr, content)| (if stderr { LogStream::Stderr } else { LogStream::Stdout }, content))
            .collect();
        assert!(kept.chunks(&format!("burst-{job}")) == expected, "job {job}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_any_size_and_any_bytes_come_back_identical() {
    let mut host = Host::start(|_| {}).await;
    let mut rng = fastrand::Rng::with_seed(seed());
    let mut noise = |bytes: usize| -> Vec<u8> {
        let mut noise = vec![0; bytes];
        rng.fill(&mut noise);
        noise
    };
    let chunks = [noise(900_000), noise(900_000), noise(900_000), noise(100 << 20), Vec::new(), noise(1)];
    let mut sender = Sender::connect(host.joblet_path()).await;
    for (n, content) in chunks.iter().enumerate() {
        sender.send(&chunk("large", false, n as u64, content.clone())).await;
    }
    written(&host, chunks.len() as u64).await;
    let kept = stopped(&mut host).await;
    let back: Vec<Vec<u8>> = kept.chunks("large").into_iter().map(|(_, content)| content).collect();
    assert!(back == chunks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_named_as_a_path_writes_nowhere() {
    let mut host = Host::start(|_| {}).await;
    let long = "a".repeat(1 << 20);
    let hostile = ["../x", "", &long, "a\0b", "/etc/passwd", "..", "a/../../b", ".hidden", "a b"];
    let mut sender = Sender::connect(host.joblet_path()).await;
    let parent = host.data_dir().parent().unwrap().to_owned();
    let list = |folder: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = (list(&parent), list(&host.data_dir()));
    for name in hostile {
        sender.send(&chunk(name, false, 0, "x")).await;
    }
    sender.send(&chunk("good", false, 0, "kept")).await;
    written(&host, 1).await;
    refused(&host, "name", hostile.len() as u64).await;
    assert_eq!((list(&parent), list(&host.data_dir())), before);
    let kept = stopped(&mut host).await;
    assert_eq!((kept.jobs(), kept.chunks("good").len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_messages_cost_only_themselves_and_unknown_kinds_are_kept_whole() {
    let mut host = Host::start(|_| {}).await;
    let mut sender = Sender::connect(host.joblet_path()).await;
    sender.send(&framed(b"\xff\xff\xff not protobuf")).await;
    sender.send(&framed(b"")).await;
    sender.send(&envelope("j", 1, 0, b"\x0a\xff".to_vec())).await;
    sender.send(&envelope("j", 2, 0, b"\x22\x02\x09\x00".to_vec())).await;
    let unknown = envelope("j", 77, 3, b"of a later version".to_vec());
    sender.send(&unknown).await;
    sender.send(&envelope("j", 3, 0, Vec::new())).await;
    sender.send(&chunk("j", false, 1, "still here")).await;
    written(&host, 3).await;
    for (reason, count) in [("body", 1), ("empty", 1), ("data", 2)] {
        refused(&host, reason, count).await;
    }
    // Half a frame, and one that nobody may send.
    let mut torn = Sender::connect(host.joblet_path()).await;
    let whole = chunk("torn", false, 0, "whole");
    torn.send(&[&whole[..], &whole[..whole.len() / 2]].concat()).await;
    torn.finish().await;
    refused(&host, "unfinished", 1).await;
    let mut endless = Sender::connect(host.joblet_path()).await;
    endless.send(&[&chunk("endless", false, 0, "before")[..], &[0xff; 4]].concat()).await;
    endless.until_closed().await;
    refused(&host, "too_large", 1).await;
    written(&host, 5).await;
    sender.send(&chunk("j", false, 2, "and here")).await;
    written(&host, 6).await;
    let kept = stopped(&mut host).await;
    assert_eq!(kept.chunks("j").len(), 2);
    assert_eq!((kept.chunks("torn").len(), kept.chunks("endless").len()), (1, 1));
    let other = kept.of_kind("j", OutputKind::Other);
    assert_eq!(other.iter().map(|record| record.entry.data.to_vec()).collect::<Vec<_>>(), [unknown[4..].to_vec()]);
    assert_eq!(kept.of_kind("j", OutputKind::Exec).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sender_left_out_is_counted_and_said_in_the_jobs_own_log() {
    let mut host = Host::start(|_| {}).await;
    let mut sender = Sender::connect(host.joblet_path()).await;
    for sequence in [0, 1, 2, 10, 11, 0, 1] {
        sender.send(&chunk("gappy", false, sequence, format!("{sequence}"))).await;
    }
    written(&host, 8).await;
    assert_eq!(metric(&host, "persist_gaps_total").await, 7);
    let kept = stopped(&mut host).await;
    let logs = kept.logs("gappy");
    let at = logs.iter().position(|record| record.stream == LogStream::Job && record.entry.message.contains("missing"));
    assert_eq!(at, Some(3), "{logs:?}");
    assert!(logs[3].entry.message.contains("7 log records before sequence 10"), "{}", logs[3].entry.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_deleted_under_its_sender_begins_anew() {
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    let mut sender = Sender::connect(host.joblet_path()).await;
    sender.send(&chunk("again", false, 0, "first life")).await;
    written(&host, 1).await;
    let jobs = || async { client.list_jobs(pb::ListJobsRequest::default()).await.unwrap().jobs };
    let job_id = jobs().await[0].job_id.clone();
    let status = pb::JobStatus { job_id: job_id.clone(), state: pb::JobState::Completed.into(), ..Default::default() };
    let update = pb::UpdateJobStatusRequest { status: Some(status), expected_revision: 0 };
    client.update_job_status(update).await.unwrap();
    client.delete_job(pb::DeleteJobRequest { job_id, ..Default::default() }).await.unwrap();
    assert_eq!(jobs().await.len(), 0);
    sender.send(&chunk("again", false, 1, "second life")).await;
    written(&host, 2).await;
    assert_eq!(jobs().await.len(), 1);
    let mut host = host;
    let kept = stopped(&mut host).await;
    assert_eq!(kept.chunks("again"), [(LogStream::Stdout, b"second life".to_vec())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_disk_nearly_full_appends_are_refused_and_what_the_socket_took_waits_and_is_not_lost() {
    let mut host = Host::start(|_| {}).await;
    let mut sender = Sender::connect(host.joblet_path()).await;
    sender.send(&chunk("patient", false, 0, "line 0")).await;
    written(&host, 1).await;
    host.configure(|config| {
        config.ingest.output.buffer_bytes = 100_000;
        config.store.free_min_bytes = u64::MAX;
        config.store.free_min_percent = 100;
    });
    host.restart().await;
    let client = host.client().await;
    let job_id = client.list_jobs(pb::ListJobsRequest::default()).await.unwrap().jobs[0].job_id.clone();
    let records = vec![written_record(pb::LogStream::Stdout, b"x")];
    let append = client.append_logs(pb::AppendLogsRequest { job_id, records });
    assert_eq!(append.await.unwrap_err().code(), "STORAGE_FULL");
    let sender = Sender::connect(host.joblet_path()).await;
    let frames: Vec<u8> = (1..100_000).flat_map(|n| chunk("patient", false, n, format!("line {n}"))).collect();
    // The spool fills, then the socket: then nobody reads.
    let mut sent = 0;
    while sent < 1_000_000 {
        sent += sender.fill(&frames[sent..]);
        if metric(&host, "persist_buffer_bytes").await == 100_000 && sender.fill(&frames[sent..]) == 0 {
            break;
        }
    }
    assert!(sent < frames.len(), "a full spool does not pause the sender");
    assert_eq!(metric(&host, "persist_records_written_total").await, 0);
    let kept = stopped(&mut host).await;
    let lines = kept.chunks("patient");
    assert!(lines.len() > 1_000, "{} lines", lines.len());
    for (n, (_, content)) in lines.iter().enumerate() {
        assert_eq!(content, format!("line {n}").as_bytes());
    }
}

fn written_record(stream: pb::LogStream, bytes: &[u8]) -> pb::LogRecord {
    let content = match stream {
        pb::LogStream::Job => pb::log_record::Content::Message(String::from_utf8(bytes.to_vec()).unwrap()),
        _ => pb::log_record::Content::Chunk(bytes.to_vec().into()),
    };
    pb::LogRecord { stream: stream.into(), content: Some(content), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_and_lines_appended_together_are_one_sequence_by_both_doors() {
    let mut host = Host::start(|_| {}).await;
    let client = host.client().await;
    let mut sender = Sender::connect(host.joblet_path()).await;
    sender.send(&chunk("mixed", false, 0, "by the socket")).await;
    written(&host, 1).await;
    let job_id = client.list_jobs(pb::ListJobsRequest::default()).await.unwrap().jobs[0].job_id.clone();
    let large = vec![0xfe; 3 << 20];
    let records = vec![
        written_record(pb::LogStream::Stdout, &large),
        written_record(pb::LogStream::Job, b"about the job"),
        written_record(pb::LogStream::Stderr, b"\xff\x00"),
    ];
    let append = pb::AppendLogsRequest { job_id: job_id.clone(), records };
    let ipc = host.ipc().await;
    let by_ipc = ipc.append_logs(append.clone()).await.unwrap();
    let by_grpc = client.append_logs(append.clone()).await.unwrap();
    assert_eq!((by_ipc.first_offset, by_ipc.count), (1, 3));
    assert_eq!((by_grpc.first_offset, by_grpc.count), (4, 3));
    // Pipelined: each append's offsets are its own, in the order in which they were sent.
    let one = |n: u32| {
        let records = vec![written_record(pb::LogStream::Stdout, &n.to_be_bytes()); 2];
        ipc.append_logs(pb::AppendLogsRequest { job_id: job_id.clone(), records })
    };
    let answers = futures_util::future::join_all((0..40).map(one)).await;
    let firsts: Vec<u64> = answers.into_iter().map(|answer| answer.unwrap().first_offset).collect();
    assert_eq!(firsts, (0..40).map(|n| 7 + 2 * n).collect::<Vec<_>>());
    let unknown = pb::AppendLogsRequest { job_id: "0190a7c2-0000-7000-8000-000000000000".to_owned(), ..append };
    assert_eq!(client.append_logs(unknown).await.unwrap_err().code(), "NOT_FOUND");
    let kept = stopped(&mut host).await;
    let logs = kept.logs("mixed");
    assert_eq!(logs.len(), 87);
    assert_eq!((logs[4].stream, logs[4].chunk.as_ref() == large), (LogStream::Stdout, true));
    assert_eq!((logs[5].stream, logs[5].entry.message.as_str()), (LogStream::Job, "about the job"));
    assert_eq!((logs[6].stream, logs[6].chunk.as_ref()), (LogStream::Stderr, &b"\xff\x00"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stood_in_the_socket_at_sigterm_is_kept() {
    for _ in 0..rounds("FETCHBOX_OUTPUT_TERMS", 1) {
        stopped_with_full_sockets().await;
    }
}

async fn stopped_with_full_sockets() {
    let home = Home::new();
    let binary = home.start().await;
    // One whose connection is known, and one that stands in the backlog unaccepted.
    let mut known = Sender::connect(&binary.joblet_path()).await;
    known.send(&chunk("known", false, 0, "before")).await;
    let client = binary.client().await;
    eventually("the job", || async {
        (!client.list_jobs(pb::ListJobsRequest::default()).await.unwrap().jobs.is_empty()).then_some(())
    })
    .await;
    drop(client);
    binary.signal(rustix::process::Signal::STOP);
    let late = Sender::connect(&binary.joblet_path()).await;
    let mut stood = Vec::new();
    for (name, sender) in [("known", &known), ("late", &late)] {
        let frames: Vec<u8> = (1..200_000).flat_map(|n| chunk(name, false, n, format!("line {n} of {name}"))).collect();
        let sent = sender.fill(&frames);
        assert!(sent < frames.len(), "the socket took everything");
        let (mut whole, mut at) = (0u64, 0);
        while let Some(header) = frames.get(at..at + 4) {
            at += 4 + u32::from_be_bytes(header.try_into().unwrap()) as usize;
            if at > sent {
                break;
            }
            whole += 1;
        }
        stood.push((name, whole));
    }
    binary.signal(rustix::process::Signal::TERM);
    binary.signal(rustix::process::Signal::CONT);
    let (code, _) = binary.terminate().await;
    assert_eq!(code, Some(0));
    let kept = Kept::open(&home.data_dir());
    for (name, whole) in stood {
        let lines = kept.chunks(name);
        let first = u64::from(name == "late");
        for (n, (_, content)) in (first..).zip(&lines) {
            let expected = if n == 0 { "before".to_owned() } else { format!("line {n} of {name}") };
            assert_eq!(content, expected.as_bytes());
        }
        assert_eq!(lines.len() as u64, whole + 1 - first, "{name}");
    }
}

/// How many records of the job a query shows now.
async fn last_seen(client: &Client, name: &str) -> u64 {
    let query = pb::QueryLogsRequest { job_id: name.to_owned(), tail: 1, ..Default::default() };
    // A job that nobody has heard of yet.
    let Ok(mut pages) = client.query_logs(query).await else { return 0 };
    let Ok(Some(page)) = pages.try_next().await else { return 0 };
    page.records.last().map_or(0, |record| record.offset + 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_while_writing_nothing_durable_is_lost_torn_or_left_out() {
    const JOBS: usize = 20;
    let mut rng = fastrand::Rng::with_seed(seed());
    let home = Home::new();
    // By job: how many of its lines are known to be kept from earlier lives, and how many were ever sent.
    let mut next = vec![0u64; JOBS];
    let mut sure = 0;
    for round in 0..rounds("FETCHBOX_OUTPUT_KILLS", 3) {
        let binary = home.start().await;
        let http = binary.ready_line.split_whitespace().find_map(|word| word.strip_prefix("http=")).unwrap();
        let http = http.parse().unwrap();
        let mut sender = Sender::connect(&binary.joblet_path()).await;
        let base = next.clone();
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let sending = tokio::spawn(async move {
            loop {
                let mut bytes = Vec::new();
                for (job, next) in next.iter_mut().enumerate() {
                    for _ in 0..5 {
                        bytes.extend(chunk(&format!("killed-{job}"), false, *next, format!("{job}:{next}")));
                        *next += 1;
                    }
                }
                let sent = sender.try_send(&bytes).await;
                if sent < bytes.len() || stopped.try_recv().is_ok() {
                    return next;
                }
            }
        });
        let wait = std::time::Duration::from_millis(rng.u64(50..600));
        tokio::time::sleep(wait).await;
        let (_, text) = http_get(http, "/metrics").await;
        let durable = text.lines().find(|line| line.starts_with("persist_records_written_total "));
        let durable: u64 = durable.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0);
        let seen = last_seen(&binary.client().await, "killed-0").await;
        binary.kill().await;
        let _ = stop.send(());
        next = sending.await.unwrap();
        let kept = Kept::open(&home.data_dir());
        assert!(kept.logs("killed-0").len() as u64 >= seen, "round {round}: {seen} records had been queried");
        let mut total = 0;
        for (job, next) in next.iter_mut().enumerate() {
            let lines = kept.chunks(&format!("killed-{job}"));
            for (n, (_, content)) in lines.iter().enumerate() {
                assert_eq!(content, format!("{job}:{n}").as_bytes(), "round {round}");
            }
            let count = lines.len() as u64;
            assert!(count >= base[job] && count <= *next, "round {round}: {count} of {next}");
            total += count;
            // What was not durable is sent again.
            *next = count;
        }
        assert!(total >= sure + durable, "round {round}: {total} lines are there, {sure} + {durable} were durable");
        sure = total;
    }
    assert!(sure > 0);
}
