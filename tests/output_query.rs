//! What jobs put out is found again: followed while it comes, read from its end, searched over many jobs; each record once.
//!
//! `FETCHBOX_FOLLOWS=200 cargo test --test it output_query::` makes the follow tests longer.

use std::collections::BTreeSet;
use std::time::Duration;

use fetchbox::client::Client;
use futures_util::TryStreamExt as _;

use crate::harness::binary::Home;
use crate::harness::host::Host;
use crate::harness::manifest::{raw, typed};
use crate::harness::{ask, in_time, pb, rounds, seed};

fn outside(config: &mut fetchbox::config::Config) {
    let settings = fetchbox::handler::TypeSettings { external: true, ..Default::default() };
    config.handlers.types.insert("outside".to_owned(), settings);
    // Small blocks and tails: output is sealed while it is followed.
    config.store.output.block_bytes = 16 << 10;
    config.store.output.tail_bytes_max = 64 << 10;
}

async fn job(client: &Client) -> String {
    let job_id = ask::submit(client, typed(raw(r#"{"manifest_version":"v1","resources":[]}"#), "outside")).await;
    state(client, &job_id, pb::JobState::InProgress).await;
    job_id
}

async fn state(client: &Client, job_id: &str, state: pb::JobState) {
    let status = pb::JobStatus { job_id: job_id.to_owned(), state: state.into(), ..Default::default() };
    client.update_job_status(pb::UpdateJobStatusRequest { status: Some(status), expected_revision: 0 }).await.unwrap();
}

fn chunk(stream: pb::LogStream, bytes: impl Into<Vec<u8>>) -> pb::LogRecord {
    let content = Some(pb::log_record::Content::Chunk(bytes.into().into()));
    pb::LogRecord { stream: stream.into(), content, timestamp_ms: 1_000, ..Default::default() }
}

fn line(at: usize) -> pb::LogRecord {
    if at.is_multiple_of(97) {
        let content = Some(pb::log_record::Content::Message(format!("own {at}")));
        return pb::LogRecord { content, ..Default::default() };
    }
    let stream = if at.is_multiple_of(5) { pb::LogStream::Stderr } else { pb::LogStream::Stdout };
    chunk(stream, format!("line {at} of a job that talks and talks about what it does\n"))
}

async fn append(client: &Client, job_id: &str, records: Vec<pb::LogRecord>) -> u64 {
    let request = pb::AppendLogsRequest { job_id: job_id.to_owned(), records };
    client.append_logs(request).await.unwrap().first_offset
}

fn said(record: &pb::LogRecord) -> Vec<u8> {
    match record.content.clone().unwrap() {
        pb::log_record::Content::Message(text) => text.into_bytes(),
        pb::log_record::Content::Chunk(bytes) => bytes.to_vec(),
    }
}

fn query(job_id: &str) -> pb::QueryLogsRequest {
    pb::QueryLogsRequest { job_id: job_id.to_owned(), limit: 1_000, ..Default::default() }
}

async fn page(client: &Client, request: pb::QueryLogsRequest) -> Vec<pb::LogRecord> {
    let pages: Vec<_> = client.query_logs(request).await.unwrap().try_collect().await.unwrap();
    pages.into_iter().flat_map(|page| page.records).collect()
}

/// Every record once, in order, as it was written.
fn whole(records: &[pb::LogRecord], count: usize) {
    let offsets: Vec<u64> = records.iter().map(|record| record.offset).collect();
    assert_eq!(offsets, (0..records.len() as u64).collect::<Vec<_>>());
    let ours: Vec<Vec<u8>> =
        records.iter().map(said).filter(|text| text.starts_with(b"line ") || text.starts_with(b"own ")).collect();
    assert_eq!(ours.len(), count);
    for (at, text) in ours.into_iter().enumerate() {
        assert_eq!(text, said(&line(at)), "record {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follow_begun_at_any_moment_of_a_burst_and_resumed_anywhere_gives_each_record_once() {
    const RECORDS: usize = 3_000;
    let mut random = fastrand::Rng::with_seed(seed());
    let host = Host::start(outside).await;
    let client = host.client().await;
    for round in 0..rounds("FETCHBOX_FOLLOWS", 10) {
        let job_id = job(&client).await;
        let writer = tokio::spawn({
            let (client, job_id, mut random) = (host.client().await, job_id.clone(), random.fork());
            async move {
                let mut at = 0;
                while at < RECORDS {
                    let count = random.usize(1..120).min(RECORDS - at);
                    append(&client, &job_id, (at..at + count).map(line).collect()).await;
                    at += count;
                }
                state(&client, &job_id, pb::JobState::Completed).await;
            }
        });
        let begin = random.usize(..RECORDS) as u64;
        let moment = pb::WatchJobRequest { job_id: job_id.clone(), after_revision: 0 };
        drop(client.watch_job(moment).await.unwrap());
        in_time("the moment", async {
            while ask::job(&client, &job_id).await.log_count < begin.min(RECORDS as u64 / 2) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        // Every other round the connection breaks at random records.
        let breaks = round % 2 == 1;
        let (mut heard, mut offset) = (Vec::new(), 0);
        in_time("the follow", async {
            'follow: loop {
                let limit = random.u32(..400);
                let request = pb::QueryLogsRequest { offset, follow: true, limit, ..query(&job_id) };
                let mut pages = client.query_logs(request).await.unwrap();
                while let Some(page) = pages.try_next().await.unwrap() {
                    heard.extend(page.records);
                    offset = page.next_offset;
                    if breaks && random.u8(..6) == 0 {
                        continue 'follow;
                    }
                }
                break;
            }
        })
        .await;
        writer.await.unwrap();
        whole(&heard, RECORDS);
        assert_eq!(heard.len() as u64, ask::job(&client, &job_id).await.log_count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_long_log_a_level_a_stream_a_text_are_what_a_full_read_shows() {
    let host = Host::start(outside).await;
    let client = host.client().await;
    let job_id = job(&client).await;
    for at in (0..20_000).step_by(1_000) {
        append(&client, &job_id, (at..at + 1_000).map(line).collect()).await;
    }
    let mut all = Vec::new();
    let mut offset = 0;
    loop {
        let pages = client.query_logs(pb::QueryLogsRequest { offset, ..query(&job_id) }).await.unwrap();
        let pages: Vec<pb::QueryLogsResponse> = pages.try_collect().await.unwrap();
        let last = pages.last().unwrap().clone();
        all.extend(pages.into_iter().flat_map(|page| page.records));
        offset = last.next_offset;
        if last.end {
            break;
        }
    }
    whole(&all, 20_000);
    let tail = page(&client, pb::QueryLogsRequest { tail: 1_000, ..query(&job_id) }).await;
    assert_eq!(tail, all[all.len() - 1_000..]);
    for (text, regex, ignore_case) in
        [("line 77", "", false), ("LINE 77", "", true), ("", r"(line|own) \d*97\b", false)]
    {
        let wanted = all.iter().filter(|record| {
            let text = String::from_utf8(said(record)).unwrap();
            if regex.is_empty() {
                text.contains("line 77")
            } else {
                text.split(' ').nth(1).is_some_and(|n| n.ends_with("97"))
            }
        });
        let wanted: Vec<_> = wanted.cloned().collect();
        let request = || pb::QueryLogsRequest { text: text.into(), regex: regex.into(), ignore_case, ..query(&job_id) };
        assert_eq!(page(&client, request()).await, wanted);
        let tail = page(&client, pb::QueryLogsRequest { tail: 7, ..request() }).await;
        assert_eq!(tail, wanted[wanted.len() - 7..]);
    }
    let streams = vec![pb::LogStream::Stderr.into()];
    let stderr = page(&client, pb::QueryLogsRequest { tail: 50, streams, ..query(&job_id) }).await;
    assert!(stderr.len() == 50 && stderr.iter().all(|record| record.stream() == pb::LogStream::Stderr));
    // Output that says no level is as good as INFO.
    let min_level = pb::LogLevel::Warn.into();
    assert!(page(&client, pb::QueryLogsRequest { min_level, tail: 50, ..query(&job_id) }).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_over_jobs_gives_every_line_once_newest_job_first() {
    let host = Host::start(outside).await;
    let client = host.client().await;
    let mut jobs = Vec::new();
    for number in 0..6 {
        let job_id = job(&client).await;
        for part in 0..10 {
            let text = |at: usize| {
                format!("{number} said {at}\nhay that fills a block with some more words {number}{at}{part}\nnee")
            };
            let mut records: Vec<_> =
                (0..100).map(|at| chunk(pb::LogStream::Stdout, format!("{}dle\n", text(at)))).collect();
            records.push(chunk(pb::LogStream::Stderr, "NEEDLE in two p"));
            records.push(chunk(pb::LogStream::Stdout, "nothing\n"));
            records.push(chunk(pb::LogStream::Stderr, "ieces\nlast"));
            append(&client, &job_id, records).await;
        }
        jobs.push(job_id);
    }
    let search = async |request: pb::SearchLogsRequest| {
        let (mut hits, mut token, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let request = pb::SearchLogsRequest { page_token: token, ..request.clone() };
            let messages: Vec<_> = client.search_logs(request).await.unwrap().try_collect().await.unwrap();
            token = messages.last().unwrap().next_page_token.clone();
            hits.extend(messages.into_iter().flat_map(|message| message.hits));
            pages += 1;
            if token.is_empty() {
                return (hits, pages);
            }
        }
    };
    let text = |text: &str| pb::SearchLogsRequest { text: text.to_owned(), ..Default::default() };
    let (hits, pages) = search(pb::SearchLogsRequest { limit: 700, ..text("needle") }).await;
    assert_eq!((hits.len(), pages), (6_000, 9));
    let order: Vec<&str> = hits.iter().map(|hit| hit.job_id.as_str()).collect();
    assert_eq!(order[0], jobs[5]);
    assert!(order.windows(2).all(|pair| pair[0] >= pair[1]));
    let places: BTreeSet<(&str, u64)> = hits.iter().map(|hit| (hit.job_id.as_str(), hit.offset)).collect();
    assert_eq!(places.len(), 6_000, "each once");
    let (hits, _) =
        search(pb::SearchLogsRequest { job_ids: vec![jobs[2].clone()], limit: 10_000, ..text("two pieces") }).await;
    assert_eq!(hits.len(), 10);
    assert!(
        hits.iter().all(|hit| hit.line.ends_with(b"NEEDLE in two pieces") && hit.stream() == pb::LogStream::Stderr)
    );
    let regex = pb::SearchLogsRequest { regex: r"^\d said 4[27]$".to_owned(), limit: 10_000, ..Default::default() };
    assert_eq!(search(regex).await.0.len(), 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_would_cost_too_much_or_mean_nothing_are_refused_by_name() {
    let host = Host::start(outside).await;
    let client = host.client().await;
    let job_id = job(&client).await;
    append(&client, &job_id, (0..10).map(line).collect()).await;
    let refused = async |request: pb::QueryLogsRequest| match client.query_logs(request).await {
        Err(error) => error.code().to_owned(),
        Ok(pages) => pages.try_collect::<Vec<_>>().await.unwrap_err().code().to_owned(),
    };
    for regex in ["(", "a{1000}{1000}", r"(\w{100}){100}", r"(a)\1"] {
        assert_eq!(refused(pb::QueryLogsRequest { regex: regex.into(), ..query(&job_id) }).await, "INVALID_PAYLOAD");
        let follow = pb::QueryLogsRequest { regex: regex.into(), follow: true, ..query(&job_id) };
        assert_eq!(refused(follow).await, "INVALID_PAYLOAD");
        let search = pb::SearchLogsRequest { regex: regex.into(), ..Default::default() };
        assert_eq!(client.search_logs(search).await.err().unwrap().code(), "INVALID_PAYLOAD");
    }
    for request in [
        pb::SearchLogsRequest::default(),
        pb::SearchLogsRequest { text: "a".into(), limit: 10_001, ..Default::default() },
        pb::SearchLogsRequest { text: "a".into(), streams: vec![pb::LogStream::Job.into()], ..Default::default() },
        pb::SearchLogsRequest { text: "a".into(), page_token: "ff".into(), ..Default::default() },
        pb::SearchLogsRequest { text: "a".into(), job_ids: vec!["../x".into()], ..Default::default() },
    ] {
        assert_eq!(client.search_logs(request.clone()).await.err().unwrap().code(), "INVALID_PAYLOAD", "{request:?}");
    }
    assert_eq!(refused(pb::QueryLogsRequest { limit: 1_001, ..query(&job_id) }).await, "INVALID_PAYLOAD");
    assert_eq!(refused(query("../x")).await, "INVALID_PAYLOAD");
    assert_eq!(refused(query("nobody-s-job")).await, "NOT_FOUND");
    let count = async |request| page(&client, request).await.len();
    assert!(count(pb::QueryLogsRequest { limit: 0, ..query(&job_id) }).await >= 10);
    assert_eq!(count(pb::QueryLogsRequest { offset: u64::MAX, ..query(&job_id) }).await, 0);
    assert_eq!(count(pb::QueryLogsRequest { from_ms: i64::MIN, until_ms: -1, ..query(&job_id) }).await, 0);
    // Slow in most engines, plain work in this one.
    assert_eq!(count(pb::QueryLogsRequest { regex: "(a*)*(a|aa)+$b".into(), ..query(&job_id) }).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_after_a_jobs_end_is_history_and_a_follow_still_ends() {
    let host = Host::start(outside).await;
    let client = host.client().await;
    let job_id = job(&client).await;
    append(&client, &job_id, (0..50).map(line).collect()).await;
    state(&client, &job_id, pb::JobState::Completed).await;
    append(&client, &job_id, (50..90).map(line).collect()).await;
    whole(&ask::followed_log(&client, &job_id).await, 90);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_costs_the_daemon_little_and_loses_nothing() {
    let mut home = Home::new();
    outside(&mut home.config);
    let daemon = home.start().await;
    let client = daemon.client().await;
    let job_id = job(&client).await;
    append(&client, &job_id, vec![line(0)]).await;
    let request = pb::QueryLogsRequest { follow: true, ..query(&job_id) };
    let mut slow = client.query_logs(request).await.unwrap();
    let first = slow.try_next().await.unwrap().unwrap();
    let before = daemon.resident_bytes();
    let big: Vec<u8> = (0..50_000).map(|at| b'a' + (at % 26) as u8).collect();
    let writer = daemon.client().await;
    for _ in 0..60 {
        append(&writer, &job_id, (0..20).map(|_| chunk(pb::LogStream::Stdout, big.clone())).collect()).await;
    }
    state(&writer, &job_id, pb::JobState::Completed).await;
    let grown = daemon.resident_bytes().saturating_sub(before);
    assert!(grown < 200 << 20, "60 MB unread made the daemon {grown} bytes larger");
    let mut heard = first.records.len();
    let mut behind = 0;
    in_time("the rest", async {
        while let Some(page) = slow.try_next().await.unwrap() {
            heard += page.records.len();
            behind = behind.max(page.behind);
        }
    })
    .await;
    assert!(heard > 1_200 && behind > 500, "{heard} heard, told to be {behind} behind");
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_another_program_named_is_called_so_at_every_door() {
    use crate::harness::joblet::{self, Sender};
    let host = Host::start(outside).await;
    let client = host.client().await;
    let name = "0f8fad5b-d9cb-469f-a165-70867728950e";
    let mut sender = Sender::connect(host.joblet_path()).await;
    sender.send(&joblet::chunk(name, false, 0, "hello needle\n")).await;
    let known = || {
        let client = client.clone();
        async move {
            let job = client.get_job(pb::GetJobRequest { job_id: name.to_owned() }).await.ok()?;
            (job.log_count > 0).then_some(job)
        }
    };
    let job = crate::harness::eventually("the job", known).await;
    assert_eq!(job.job_id, name);
    let records = page(&client, query(name)).await;
    assert!(records.iter().all(|record| record.job_id == name) && !records.is_empty());
    let search = pb::SearchLogsRequest { text: "needle".into(), job_ids: vec![name.into()], ..Default::default() };
    let found: Vec<_> = client.search_logs(search).await.unwrap().try_collect().await.unwrap();
    assert_eq!(found[0].hits[0].job_id, name);
    assert_eq!(host.ipc().await.get_job(name).await.unwrap().job_id, name);
    append(&client, name, vec![line(1)]).await;
    let list = async |prefix: &str| {
        let request = pb::ListJobsRequest { id_prefix: prefix.to_owned(), ..Default::default() };
        client.list_jobs(request).await.unwrap().jobs.len()
    };
    assert_eq!((list("0f8fad").await, list(name).await, list("0f8fae").await), (1, 1, 0));
    let watched = client.watch_job(pb::WatchJobRequest { job_id: name.to_owned(), after_revision: 0 }).await.unwrap();
    state(&client, name, pb::JobState::Completed).await;
    let last: Vec<pb::Job> = in_time("the watch", watched.try_collect()).await.unwrap();
    assert_eq!(last.last().unwrap().job_id, name);
    tokio::time::timeout(Duration::from_secs(60), ask::followed_log(&client, name)).await.unwrap();
}
