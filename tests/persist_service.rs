//! joblet's persist service from outside: what was appended comes back byte for byte, in the order and with the words its clients rely on.

use fetchbox::client::persist::Persist;
use fetchbox::config::Config;
use fetchbox::proto::joblet::{ipc, persist as pp};
use futures_util::TryStreamExt as _;
use prost::Message as _;

use crate::harness::host::Host;
use crate::harness::joblet::{Sender, chunk, envelope};
use crate::harness::{checker, eventually, in_time, pb};

const SECOND: i64 = 1_000_000_000;

/// Blocks of a few dozen records, sealed while the test runs.
fn small_blocks(config: &mut Config) {
    config.store.output.block_bytes = 4 << 10;
    config.store.output.tail_bytes_max = 32 << 10;
}

pub fn log(at: u64, stream: pp::StreamType, data: Vec<u8>) -> pp::OutputRecord {
    pp::OutputRecord {
        r#type: 1,
        timestamp: at as i64 / 10 * SECOND + SECOND,
        sequence: at,
        stream: stream.into(),
        data,
    }
}

/// Every third piece is an error.
pub fn piece(at: u64) -> pp::OutputRecord {
    let stream = if at.is_multiple_of(3) { pp::StreamType::Stderr } else { pp::StreamType::Stdout };
    log(at, stream, format!("piece {at} of \u{0}\u{ff} what a service says").into_bytes())
}

async fn append(persist: &Persist, job: &str, records: Vec<pp::OutputRecord>) {
    let count = records.len() as u32;
    let request = pp::AppendRecordsRequest { job_uuid: job.to_owned(), create: true, records, ..Default::default() };
    assert_eq!(persist.append_records(request).await.unwrap().count, count);
}

pub async fn logs(persist: &Persist, request: pp::QueryLogsRequest) -> Vec<pp::LogLine> {
    in_time("the logs", persist.query_logs(request).await.unwrap().try_collect()).await.unwrap()
}

pub fn of(job: &str) -> pp::QueryLogsRequest {
    pp::QueryLogsRequest { job_uuid: job.to_owned(), ..Default::default() }
}

fn query(job: &str) -> pb::QueryLogsRequest {
    pb::QueryLogsRequest { job_id: job.to_owned(), ..Default::default() }
}

fn numbers(lines: &[pp::LogLine]) -> Vec<u64> {
    lines.iter().map(|line| line.sequence).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_wrote_is_answered_byte_for_byte_stream_after_stream_and_after_a_restart() {
    let mut host = Host::start(small_blocks).await;
    let persist = host.client().await.persist();
    let ping = persist.ping(pp::PingRequest {}).await.unwrap();
    assert!(ping.healthy && ping.timestamp > 0);
    for from in (0..600).step_by(50) {
        append(&persist, "job-1", (from..from + 50).map(piece).collect()).await;
    }
    for restarted in [false, true] {
        if restarted {
            host.restart().await;
        }
        let persist = host.client().await.persist();
        let all = logs(&persist, of("job-1")).await;
        let (out, err): (Vec<u64>, Vec<u64>) =
            ((0..600).filter(|at| at % 3 != 0).collect(), (0..600).step_by(3).collect());
        assert_eq!(numbers(&all), [out.clone(), err.clone()].concat());
        for line in &all {
            let sent = piece(line.sequence);
            assert_eq!((&line.content, line.timestamp, line.stream), (&sent.data, sent.timestamp, sent.stream));
            assert_eq!((line.job_uuid.as_str(), line.offset), ("job-1", line.sequence));
        }
        let one = pp::QueryLogsRequest { stream: pp::StreamType::Stderr.into(), limit: 5, offset: 7, ..of("job-1") };
        assert_eq!(numbers(&logs(&persist, one).await), err[7..12]);
        // From the end of stdout into stderr.
        let over = pp::QueryLogsRequest { limit: 4, offset: out.len() as i32 - 2, ..of("job-1") };
        assert_eq!(numbers(&logs(&persist, over).await), [out[out.len() - 2], out[out.len() - 1], 0, 3]);
        // Both ends of a time are included.
        let (start_time, end_time) = (20 * SECOND, 21 * SECOND);
        let timed = pp::QueryLogsRequest { start_time, end_time, arrival_order: true, ..of("job-1") };
        assert_eq!(numbers(&logs(&persist, timed).await), (190..210).collect::<Vec<_>>());
        let tail = pp::QueryLogsRequest { tail: 9, ..of("job-1") };
        assert_eq!(numbers(&logs(&persist, tail).await), (591..600).collect::<Vec<_>>());
        let text = pp::QueryLogsRequest { text: "PIECE 59".into(), ignore_case: true, tail: 3, ..of("job-1") };
        assert_eq!(numbers(&logs(&persist, text).await), [597, 598, 599]);
        let regex = pp::QueryLogsRequest { regex: r"^piece \d7 ".into(), arrival_order: true, ..of("job-1") };
        assert_eq!(numbers(&logs(&persist, regex).await), (17..100).step_by(10).collect::<Vec<_>>());
        let from = pp::QueryLogsRequest { from_offset: 595, arrival_order: true, ..of("job-1") };
        assert_eq!(numbers(&logs(&persist, from).await), (595..600).collect::<Vec<_>>());
        assert_eq!(logs(&persist, of("nobody")).await, []);
        assert_eq!(logs(&persist, of("../x")).await, []);
    }
    let folder = host.data_dir();
    host.stop().await;
    checker::data_is_clean(&folder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follow_joins_history_and_live_and_is_resumed_where_it_broke_off() {
    let host = Host::start(small_blocks).await;
    let persist = host.client().await.persist();
    append(&persist, "live", (0..100).map(piece).collect()).await;
    let writer = tokio::spawn({
        let persist = persist.clone();
        async move {
            for from in (100..900).step_by(10) {
                append(&persist, "live", (from..from + 10).map(piece).collect()).await;
            }
        }
    });
    let (mut got, mut next) = (Vec::new(), 0);
    while got.len() < 900 {
        let request = pp::QueryLogsRequest { follow: true, from_offset: next, ..of("live") };
        let mut stream = persist.query_logs(request).await.unwrap();
        // The connection breaks now and then.
        for _ in 0..130.min(900 - got.len()) {
            let line = in_time("the next record", stream.try_next()).await.unwrap().unwrap();
            next = line.offset + 1;
            got.push(line.sequence);
        }
    }
    writer.await.unwrap();
    assert_eq!(got, (0..900).collect::<Vec<_>>());
    let ended = pb::UpdateJobStatusRequest {
        status: Some(pb::JobStatus {
            job_id: "live".into(),
            state: pb::JobState::Completed.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = pp::QueryLogsRequest { follow: true, tail: 2, ..of("live") };
    let mut stream = persist.query_logs(request).await.unwrap();
    assert_eq!(in_time("history", stream.try_next()).await.unwrap().unwrap().sequence, 898);
    assert_eq!(in_time("history", stream.try_next()).await.unwrap().unwrap().sequence, 899);
    host.client().await.update_job_status(ended).await.unwrap();
    assert_eq!(in_time("the end", stream.try_next()).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follow_of_a_deleted_job_does_not_wait_in_silence_beside_a_new_one_of_its_name() {
    let mut host = Host::start(small_blocks).await;
    let client = host.client().await;
    append(&client.persist(), "again", (0..200).map(piece).collect()).await;
    let delete = pp::DeleteJobRequest { job_uuid: "again".into(), ..Default::default() };
    let deleted = client.persist().delete_job(delete).await.unwrap();
    assert!(deleted.success, "{deleted:?}");
    append(&client.persist(), "again", (0..100).map(piece).collect()).await;
    // What was seen is durable: who saw it is never refused, over a restart either.
    for restarted in [false, true] {
        if restarted {
            host.restart().await;
        }
        let client = host.client().await;
        let follow = |from_offset| pp::QueryLogsRequest { follow: true, from_offset, ..of("again") };
        let refused = client.persist().query_logs(follow(200)).await;
        let refused = match refused {
            Ok(mut stream) => in_time("the refusal", stream.try_next()).await.unwrap_err(),
            Err(refused) => refused,
        };
        assert_eq!(refused.code(), "OUT_OF_RANGE");
        let told = refused.to_string();
        let end = 100 + u64::from(restarted);
        assert!(told.contains("offset 200 ") && told.contains(&format!("job again, which is {end}:")), "{told}");
        let follow = |offset| pb::QueryLogsRequest { follow: true, offset, ..query("again") };
        let mut stream = client.query_logs(follow(200)).await.unwrap();
        assert_eq!(in_time("the refusal", stream.try_next()).await.unwrap_err().code(), "OUT_OF_RANGE");

        let mut ours = client.query_logs(follow(end)).await.unwrap();
        let follow = pp::QueryLogsRequest { follow: true, from_offset: end, ..of("again") };
        let mut theirs = client.persist().query_logs(follow).await.unwrap();
        append(&client.persist(), "again", vec![piece(0)]).await;
        assert_eq!(in_time("what comes", ours.try_next()).await.unwrap().unwrap().records[0].offset, end);
        assert_eq!(in_time("what comes", theirs.try_next()).await.unwrap().unwrap().offset, end);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_a_named_job_is_told_by_its_name_that_it_runs_or_is_gone() {
    let host = Host::start(|_| {}).await;
    let client = host.client().await;
    append(&client.persist(), "nightly", vec![piece(0)]).await;
    let running = pb::DeleteJobRequest { job_id: "nightly".into(), ..Default::default() };
    let refused = client.delete_job(running).await.unwrap_err();
    assert_eq!(refused.to_string(), "ILLEGAL_STATE: job nightly has not ended; cancel it first");
    let mut logs = client.query_logs(pb::QueryLogsRequest { follow: true, ..query("nightly") }).await.unwrap();
    in_time("history", logs.try_next()).await.unwrap().unwrap();
    let watch = pb::WatchJobRequest { job_id: "nightly".into(), ..Default::default() };
    let mut jobs = client.watch_job(watch).await.unwrap();
    in_time("the job", jobs.try_next()).await.unwrap().unwrap();
    let delete = pp::DeleteJobRequest { job_uuid: "nightly".into(), ..Default::default() };
    assert!(client.persist().delete_job(delete).await.unwrap().success);
    let logs_ended = in_time("the end of the log", logs.try_collect::<Vec<_>>()).await.unwrap_err();
    let watch_ended = in_time("the end of the watch", jobs.try_collect::<Vec<_>>()).await.unwrap_err();
    for ended in [logs_ended, watch_ended] {
        assert_eq!(ended.to_string(), "NOT_FOUND: job nightly does not exist");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_binary_pieces_come_back_whole() {
    let host = Host::start(|_| {}).await;
    let persist = host.client().await.persist();
    let data = |seed: u8, bytes: usize| (0..bytes).map(|at| (at as u8).wrapping_mul(31) ^ seed).collect::<Vec<u8>>();
    let pieces = [data(1, 900_000), data(2, 900_000), data(3, 900_000), data(4, 20 << 20)];
    for (at, data) in pieces.iter().enumerate() {
        append(&persist, "large", vec![log(at as u64, pp::StreamType::Stdout, data.clone())]).await;
    }
    let got = logs(&persist, of("large")).await;
    assert!(got.iter().map(|line| &line.content).eq(&pieces));
}

pub fn sample(at: u64) -> ipc::Metric {
    let io = ipc::NetworkIo { rx_bytes: at as i64 * 5_000, tx_bytes: at as i64, ..Default::default() };
    ipc::Metric {
        job_uuid: "ignored".into(),
        timestamp: at as i64 * 5 * SECOND,
        sequence: at,
        data: Some(ipc::MetricData {
            cpu_usage: (at % 4) as f64 / 4.0,
            memory_usage: 1_000 + at as i64,
            gpu_usage: 0.5,
            disk_io: None,
            network_io: Some(io),
        }),
    }
}

pub fn typed(kind: u32, at: u64, data: Vec<u8>) -> pp::OutputRecord {
    pp::OutputRecord { r#type: kind, timestamp: at as i64 * 5 * SECOND, sequence: at, stream: 0, data }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_come_as_samples_and_as_steps_sealed_or_not() {
    let mut host = Host::start(small_blocks).await;
    for half in 0..2u64 {
        let persist = host.client().await.persist();
        let records = (half * 200..(half + 1) * 200).map(|at| typed(2, at, sample(at).encode_to_vec()));
        append(&persist, "measured", records.collect()).await;
        if half == 0 {
            host.restart().await;
        }
    }
    let client = host.client().await;
    let persist = client.persist();
    let ask = pp::QueryMetricsRequest { job_uuid: "measured".into(), ..Default::default() };
    let metrics = async |request: pp::QueryMetricsRequest| -> Vec<pp::Metric> {
        in_time("metrics", persist.query_metrics(request).await.unwrap().try_collect()).await.unwrap()
    };
    let raw = metrics(ask.clone()).await;
    assert_eq!(raw.len(), 400);
    for (at, metric) in raw.iter().enumerate() {
        let (sent, got) = (sample(at as u64).data.unwrap(), metric.data.as_ref().unwrap());
        assert_eq!((got.memory_usage, got.cpu_usage, got.disk_io), (sent.memory_usage, sent.cpu_usage, None));
        assert_eq!((metric.job_uuid.as_str(), metric.timestamp), ("measured", at as i64 * 5 * SECOND));
    }
    let few =
        pp::QueryMetricsRequest { start_time: 10 * SECOND, end_time: 30 * SECOND, limit: 2, offset: 1, ..ask.clone() };
    assert_eq!(metrics(few).await.iter().map(|metric| metric.sequence).collect::<Vec<_>>(), [3, 4]);

    let minutes = metrics(pp::QueryMetricsRequest { step_seconds: 60, ..ask.clone() }).await;
    assert_eq!(minutes.len(), 34);
    for (at, minute) in minutes.iter().enumerate() {
        let data = minute.data.as_ref().unwrap();
        assert_eq!((minute.timestamp, data.disk_io), (at as i64 * 60 * SECOND, None));
        assert_eq!(data.network_io.unwrap().rx_bytes, 1_000, "rate of minute {at}");
    }
    let sums = pp::QueryMetricsRequest { step_seconds: 600, aggregate: pp::Aggregate::Sum.into(), ..ask.clone() };
    let received: Vec<i64> =
        metrics(sums).await.iter().map(|metric| metric.data.as_ref().unwrap().network_io.unwrap().rx_bytes).collect();
    assert_eq!(received, [119 * 5_000, 120 * 5_000, 120 * 5_000, 40 * 5_000]);

    let asked = pb::QueryMetricsRequest {
        job_id: "measured".into(),
        step_ms: 60_000,
        limit: 10,
        series: vec!["cpu_usage".into(), "net_tx_bytes".into(), "disk_read_ops".into()],
        functions: vec![pb::MetricFunction::Avg.into(), pb::MetricFunction::Max.into()],
        ..Default::default()
    };
    let mut pages = vec![client.query_metrics(asked.clone()).await.unwrap()];
    while !pages.last().unwrap().next_page_token.is_empty() {
        let page_token = pages.last().unwrap().next_page_token.clone();
        pages.push(client.query_metrics(pb::QueryMetricsRequest { page_token, ..asked.clone() }).await.unwrap());
    }
    assert_eq!(pages.len(), 4);
    let cpu: Vec<&pb::MetricPoint> = pages.iter().flat_map(|page| &page.series[0].points).collect();
    assert!(cpu.iter().enumerate().all(|(at, point)| point.time_ms == at as i64 * 60_000));
    assert!(cpu[..33].iter().all(|point| point.avg == Some(0.375) && point.max == Some(0.75) && point.sum.is_none()));
    let sent = &pages[0].series[1];
    assert_eq!((sent.name.as_str(), sent.counter, pages[0].series.len()), ("net_tx_bytes", true, 2));
    assert!(sent.points.iter().all(|point| point.avg == Some(0.2)));
    let folder = host.data_dir();
    host.stop().await;
    checker::data_is_clean(&folder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_answered_in_the_numbers_of_the_service_they_are_asked_of() {
    let host = Host::start(|_| {}).await;
    let persist = host.client().await.persist();
    let socket = ipc::SocketDataEvent {
        comm: "curl".into(),
        direction: "send".into(),
        addr: "10.0.0.1".into(),
        port: 443,
        protocol: "tcp".into(),
        bytes: 77,
        ..Default::default()
    };
    let exec = ipc::ExecEvent { pid: 7, filename: "/bin/true".into(), args: vec!["a".into()], ..Default::default() };
    let records = vec![
        typed(6, 1, socket.encode_to_vec()),
        typed(3, 2, exec.encode_to_vec()),
        // Its fourth field is no number: known only to who reads it.
        typed(3, 3, vec![0x22, 1, b'x']),
        typed(3, 4, exec.encode_to_vec()),
        typed(99, 5, vec![1]),
    ];
    append(&persist, "seen", records).await;
    let garbage = vec![typed(3, 6, exec.encode_to_vec()), typed(3, 7, vec![0xff])];
    let request =
        pp::AppendRecordsRequest { job_uuid: "seen".into(), create: false, records: garbage, ..Default::default() };
    let refused = persist.append_records(request).await.unwrap_err();
    assert_eq!(refused.code(), "INVALID_PAYLOAD");
    assert!(refused.to_string().contains("records[1].data"), "{refused}");
    let ask = pp::QueryTelemetryRequest { job_uuid: "seen".into(), ..Default::default() };
    let sockets: Vec<_> = persist.query_socket_data_events(ask.clone()).await.unwrap().try_collect().await.unwrap();
    assert_eq!((sockets[0].bytes, sockets[0].protocol.as_str(), sockets[0].dst_port), (77, "tcp", 443));
    let execs: Vec<_> = persist.query_exec_events(ask.clone()).await.unwrap().try_collect().await.unwrap();
    assert_eq!(execs.iter().map(|event| event.sequence).collect::<Vec<_>>(), [2, 4]);
    assert_eq!((execs[1].filename.as_str(), execs[1].job_uuid.as_str()), ("/bin/true", "seen"));
    let later = pp::QueryTelemetryRequest { offset: 1, ..ask.clone() };
    let execs: Vec<_> = persist.query_exec_events(later).await.unwrap().try_collect().await.unwrap();
    assert_eq!(execs.len(), 1);
    let files: Vec<_> = persist.query_file_events(ask).await.unwrap().try_collect().await.unwrap();
    assert_eq!(files, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_listed_told_about_and_deleted_while_it_runs_and_an_unknown_one_is_deleted_too() {
    let mut host = Host::start(small_blocks).await;
    let client = host.client().await;
    let persist = client.persist();
    for job in ["a", "b", "c"] {
        append(&persist, job, (0..40).map(piece).chain([typed(2, 1, sample(1).encode_to_vec())]).collect()).await;
    }
    let list = persist.list_jobs(pp::ListJobsRequest { limit: 2, ..Default::default() }).await.unwrap();
    assert_eq!((list.total_count, list.jobs.len()), (3, 2));
    let ids: Vec<&str> = list.jobs.iter().map(|job| job.job_id.as_str()).collect();
    assert_eq!(ids, ["c", "b"]);
    let future = pp::ListJobsRequest { since: list.jobs[0].created_at + 3_600, ..Default::default() };
    assert_eq!(persist.list_jobs(future).await.unwrap().total_count, 0);
    let info = persist.get_job_info(pp::GetJobInfoRequest { job_id: "a".into() }).await.unwrap();
    assert_eq!((info.log_count, info.metric_count), (40, 1));
    assert!(info.size_bytes > 0 && info.created_at > 1_600_000_000 && info.last_updated >= info.created_at);
    assert!(persist.get_job_info(pp::GetJobInfoRequest { job_id: "z".into() }).await.is_err());
    let stats = persist.get_stats(pp::GetStatsRequest {}).await.unwrap();
    assert_eq!((stats.total_jobs, stats.total_logs, stats.total_metrics), (3, 120, 3));
    assert!(stats.messages_written >= 123);

    let delete = |job: &str| pp::DeleteJobRequest { job_uuid: job.to_owned(), node_id: String::new() };
    for job in ["a", "a", "nobody", "../x", ""] {
        let answer = persist.delete_job(delete(job)).await.unwrap();
        assert!(answer.success, "{job:?}: {}", answer.message);
    }
    assert_eq!(logs(&persist, of("a")).await, []);
    assert_eq!(logs(&persist, of("b")).await.len(), 40);
    // Its name is free for a new job.
    append(&persist, "a", vec![piece(1)]).await;
    assert_eq!(numbers(&logs(&persist, of("a")).await), [1]);
    let dry = persist.cleanup_old_data(pp::CleanupRequest { dry_run: true }).await.unwrap();
    assert_eq!(dry.jobs_deleted, 0);
    let folder = host.data_dir();
    host.stop().await;
    checker::data_is_clean(&folder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_core_sent_is_what_its_queries_get() {
    let host = Host::start(small_blocks).await;
    let mut sender = Sender::connect(host.joblet_path()).await;
    for at in 0..300u64 {
        sender.send(&chunk("sent", at % 3 == 0, at, format!("line {at}\n"))).await;
        sender.send(&envelope("sent", 2, at, sample(at).encode_to_vec())).await;
        let file = ipc::FileEvent { path: format!("/tmp/{at}"), bytes: at as i64, ..Default::default() };
        sender.send(&envelope("sent", 9, at, file.encode_to_vec())).await;
    }
    sender.finish().await;
    let persist = host.client().await.persist();
    let whole = pp::QueryLogsRequest { follow: true, ..of("sent") };
    // The job is there as soon as its first record is.
    let info = pp::GetJobInfoRequest { job_id: "sent".into() };
    eventually("the job", || async { persist.get_job_info(info.clone()).await.ok() }).await;
    let mut stream = persist.query_logs(whole).await.unwrap();
    for at in 0..300u64 {
        let line = in_time("the next record", stream.try_next()).await.unwrap().unwrap();
        assert_eq!((line.sequence, line.content), (at, format!("line {at}\n").into_bytes()));
    }
    let all = async |ask: pp::QueryTelemetryRequest| -> Vec<pp::FileEvent> {
        persist.query_file_events(ask).await.unwrap().try_collect().await.unwrap()
    };
    let ask = pp::QueryTelemetryRequest { job_uuid: "sent".into(), ..Default::default() };
    let files =
        eventually("every event", || async { Some(all(ask.clone()).await).filter(|got| got.len() == 300) }).await;
    assert!(files.iter().zip(0..).all(|(file, at)| file.bytes == at && file.path == format!("/tmp/{at}")));
    let ask = pp::QueryMetricsRequest { job_uuid: "sent".into(), limit: 3, offset: 290, ..Default::default() };
    let metrics: Vec<pp::Metric> = persist.query_metrics(ask).await.unwrap().try_collect().await.unwrap();
    let memory: Vec<i64> = metrics.iter().map(|metric| metric.data.as_ref().unwrap().memory_usage).collect();
    assert_eq!(memory, [1_290, 1_291, 1_292]);
}

#[tokio::test(flavor = "multi_thread")]
async fn joblets_own_clients_read_logs_and_metrics_here() {
    use fetchbox::proto::joblet as jp;
    use fetchbox::proto::joblet::job_service_client::JobServiceClient;
    let host = Host::start(|_| {}).await;
    let persist = host.client().await.persist();
    append(&persist, "mine", (0..9).map(piece).chain([typed(2, 2, sample(2).encode_to_vec())]).collect()).await;
    let mut service = JobServiceClient::connect(format!("http://{}", host.grpc_tcp())).await.unwrap();
    let chunks = service.get_job_logs(jp::GetJobLogsRequest { uuid: "mine".into() }).await.unwrap().into_inner();
    let got: Vec<u8> =
        chunks.try_collect::<Vec<_>>().await.unwrap().into_iter().flat_map(|chunk| chunk.payload).collect();
    let order = [1, 2, 4, 5, 7, 8, 0, 3, 6];
    assert_eq!(got, order.into_iter().flat_map(|at| piece(at).data).collect::<Vec<u8>>());
    let ask = jp::GetJobMetricsRequest { job_uuid: "mine".into(), ..Default::default() };
    let events: Vec<_> = service.get_job_metrics(ask).await.unwrap().into_inner().try_collect().await.unwrap();
    assert_eq!((events[0].cpu_percent, events[0].gpu_percent), (50.0, 50.0));
    assert_eq!((events[0].timestamp, events[0].net_recv_bytes), (10 * SECOND, 10_000));
    let unknown = service.get_job_logs(jp::GetJobLogsRequest { uuid: "nobody".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
}
