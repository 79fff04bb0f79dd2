//! joblet's files: what is exported is imported as the same, what is torn is taken as far as it can be read, and nothing twice.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Output;

use fetchbox::client::persist::Persist;
use fetchbox::proto::joblet::{ipc, persist as pb};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt as _;
use prost::Message as _;

use crate::harness::binary::{Binary, Home};

async fn persist(daemon: &Binary) -> Persist {
    daemon.client().await.persist()
}

async fn append(persist: &Persist, job: &str, records: Vec<pb::OutputRecord>) {
    let count = records.len();
    let request = pb::AppendRecordsRequest { job_uuid: job.to_owned(), create: true, records, ..Default::default() };
    assert_eq!(persist.append_records(request).await.unwrap().count as usize, count);
}

fn log(stream: pb::StreamType, sequence: u64, content: &[u8]) -> pb::OutputRecord {
    let timestamp = 1_700_000_000_000_000_000 + sequence as i64;
    pb::OutputRecord {
        r#type: ipc::MessageType::Log as u32,
        timestamp,
        sequence,
        stream: stream as i32,
        data: content.to_vec(),
    }
}

async fn logs(persist: &Persist, job: &str, stream: pb::StreamType) -> Vec<Vec<u8>> {
    let request = pb::QueryLogsRequest { job_uuid: job.to_owned(), stream: stream as i32, ..Default::default() };
    let answers = persist.query_logs(request).await.unwrap();
    answers.map(|line| line.unwrap().content).collect().await
}

/// One record of every kind that joblet has a file for, besides logs.
fn every_kind(job: &str) -> Vec<pb::OutputRecord> {
    let job_uuid = || job.to_owned();
    let sample = ipc::MetricData {
        cpu_usage: 0.25,
        memory_usage: 1 << 40,
        disk_io: Some(ipc::DiskIo { read_bytes: 7, ..Default::default() }),
        ..Default::default()
    };
    macro_rules! event {
        ($kind:ident, $message:ident { $($field:ident: $value:expr),* }) => {{
            // A metric has no more fields than are named.
            #[allow(clippy::needless_update)]
            let message = ipc::$message {
                job_uuid: job_uuid(),
                timestamp: 1_700_000_000_000_000_005,
                sequence: 3,
                $($field: $value,)*
                ..Default::default()
            };
            (ipc::MessageType::$kind, message.encode_to_vec())
        }};
    }
    let all = [
        event!(Metric, Metric { data: Some(sample) }),
        event!(ExecEvent, ExecEvent { pid: 9, args: vec!["sh".into(), "-c".into()] }),
        event!(ConnectEvent, ConnectEvent { dst_addr: "10.0.0.1".into(), dst_port: 443 }),
        event!(AcceptEvent, AcceptEvent { src_addr: "::1".into(), protocol: "tcp".into() }),
        event!(SocketDataEvent, SocketDataEvent { direction: "send".into(), addr: "h".into(), port: 1, bytes: 512 }),
        event!(MmapEvent, MmapEvent { addr: u64::MAX, length: 4096 }),
        event!(MprotectEvent, MprotectEvent { addr: 1, prot: 5 }),
        event!(FileEvent, FileEvent { path: "/etc/x".into(), operation: "open".into() }),
    ];
    let record = |(kind, data): (ipc::MessageType, Vec<u8>)| pb::OutputRecord {
        r#type: kind as u32,
        timestamp: 1_700_000_000_000_000_005,
        sequence: 3,
        stream: 0,
        data,
    };
    all.into_iter().map(record).collect()
}

fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.strip_prefix(root).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

fn zcat(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

fn member(lines: &[String]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    lines.iter().for_each(|line| writeln!(encoder, "{line}").unwrap());
    encoder.finish().unwrap()
}

/// As an early joblet wrote it.
fn old_line(number: u64) -> String {
    let content = ["bGluZSAwCg==", "bGluZSAxCg==", "bGluZSAyCg=="][number as usize % 3];
    format!(r#"{{"job_id":"old","stream":1,"timestamp":{},"sequence":{number},"content":"{content}"}}"#, 5_000 + number)
}

fn put(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// The last line of a report in JSON.
fn total(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_else(|| panic!("{output:?}"))).unwrap()
}

async fn import(home: &Home, dir: &Path) -> (Option<i32>, serde_json::Value, String) {
    let output = home.run(&["--output", "json", "import", dir.to_str().unwrap()]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), total(&output), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_imported_elsewhere_and_exported_again_is_the_same_byte_for_byte() {
    let (here, there) = (Home::new(), Home::new());
    let (daemon, other) = (here.start().await, there.start().await);
    let source = persist(&daemon).await;
    let all_bytes: Vec<u8> = (0..=255).collect();
    for round in 0..5 {
        let first = round * 1_000;
        let lines = (first..first + 1_000)
            .map(|n| log(pb::StreamType::Stdout, n, format!("line {n} with {}\n", n * 7_919).as_bytes()));
        append(&source, "job-a", lines.collect()).await;
    }
    append(&source, "job-a", vec![log(pb::StreamType::Stderr, 1, &all_bytes), log(pb::StreamType::Stderr, 0, b"")])
        .await;
    append(&source, "job-a", every_kind("job-a")).await;
    append(&source, "0198c1f2-7c1e-4d2a-9d4e-0123456789ab", vec![log(pb::StreamType::Stdout, 0, &vec![7; 2 << 20])])
        .await;

    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let exported = here.run(&["export", "--all", one.to_str().unwrap()]).await;
    assert!(exported.status.success(), "{exported:?}");
    let files = tree(&one);
    assert_eq!(files.len(), 11, "{:?}", files.keys());
    let text = zcat(&files[Path::new("logs/job-a/stdout.log.gz")]);
    assert_eq!(text.lines().count(), 5_000);
    let expected =
        r#"{"job_uuid":"job-a","stream":1,"timestamp":1700000000000000000,"content":"bGluZSAwIHdpdGggMAo="}"#;
    assert_eq!(text.lines().next(), Some(expected));
    let event = zcat(&files[Path::new("events/job-a/socket_data_events.jsonl.gz")]);
    assert!(event.contains(r#""addr":"h","port":1,"bytes":512"#), "{event}");

    let (code, report, _) = import(&there, &one).await;
    assert_eq!((code, &report["new"], &report["there"]), (Some(0), &5_011.into(), &0.into()), "{report}");
    let again = there.run(&["export", "--all", two.to_str().unwrap()]).await;
    assert!(again.status.success(), "{again:?}");
    assert!(tree(&two) == files, "other files came back");

    let (code, report, _) = import(&there, &one).await;
    assert_eq!((code, &report["new"], &report["there"]), (Some(0), &0.into(), &5_011.into()), "{report}");
    assert_eq!(daemon.terminate().await.0, Some(0));
    assert_eq!(other.terminate().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_file_loses_only_what_is_torn_and_a_second_import_adds_nothing() {
    let home = Home::new();
    let daemon = home.start().await;
    let dir = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (0..300).map(old_line).collect();
    let mut torn = member(&lines[..100]);
    torn.truncate(torn.len() - 5);
    torn.extend(member(&lines[100..200]));
    torn.extend(member(&[lines[200].clone(), "no json".to_owned(), lines[201].clone()]));
    let mut tail = member(&lines[202..300]);
    tail.truncate(tail.len() - 5);
    torn.extend(tail);
    put(dir.path(), "logs/old/stdout.log.gz", &torn);
    put(dir.path(), "logs/.../stdout.log.gz", &member(&lines));
    put(dir.path(), "events/plain", b"no folder, as the name of a job may be");
    put(dir.path(), "logs/plain/stdout.log.gz", b"");
    put(
        dir.path(),
        "logs/old/exec_events.jsonl.gz",
        &member(&[r#"{"job_id":"old","timestamp":1,"pid":7}"#.to_owned()]),
    );
    for new in [301, 0] {
        let (code, report, text) = import(&home, dir.path()).await;
        assert_eq!(code, Some(1), "something was left out: {text}");
        assert_eq!((&report["new"], &report["there"]), (&new.into(), &(301 - new).into()), "{text}");
        assert!(
            text.contains(r#""leftOut":true"#) && text.contains("logs/...") && text.contains("events/plain"),
            "{text}"
        );
        let told: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of_file = told.iter().find(|line| line["path"].as_str().is_some_and(|p| p.ends_with("old/stdout.log.gz")));
        let problems = of_file.unwrap()["problems"].as_array().unwrap();
        let places: Vec<_> = problems.iter().map(|p| (p["member"].as_u64(), p["line"].as_u64())).collect();
        assert_eq!(places, [(Some(1), Some(100)), (Some(3), Some(202)), (Some(4), Some(301))], "{problems:?}");
        assert!(problems[1]["why"].as_str().unwrap().contains("no json"), "{problems:?}");
    }
    let kept = logs(&persist(&daemon).await, "old", pb::StreamType::Stdout).await;
    assert_eq!(kept.len(), 300);
    for (number, content) in kept.iter().enumerate() {
        assert_eq!(*content, format!("line {}\n", number % 3).into_bytes(), "order of the file");
    }
    assert_eq!(daemon.terminate().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_torn_in_its_middle_gives_no_record_that_never_was() {
    let home = Home::new();
    let daemon = home.start().await;
    let dir = tempfile::tempdir().unwrap();
    let line = |n: u64| {
        format!(r#"{{"job_id":"x","stream":1,"timestamp":{},"sequence":{n},"content":"bGluZQo="}}"#, 7_919 * n)
    };
    let lines: Vec<String> = (0..200).map(line).collect();
    let (one, two) = (member(&lines[..150]), member(&lines[150..]));
    let jobs: Vec<(String, usize)> = (9..one.len() - 10).step_by(23).map(|cut| (format!("c{cut}"), cut)).collect();
    for (job, cut) in &jobs {
        put(dir.path(), &format!("logs/{job}/stdout.log.gz"), &[&one[..one.len() - cut], &two].concat());
    }
    assert_eq!(import(&home, dir.path()).await.0, Some(1), "the tears are told");
    let persist = persist(&daemon).await;
    for (job, _) in &jobs {
        let request = pb::QueryLogsRequest { job_uuid: job.clone(), ..Default::default() };
        let kept: Vec<_> = persist.query_logs(request).await.unwrap().map(Result::unwrap).collect().await;
        let numbers: Vec<u64> = kept.iter().map(|line| line.sequence).collect();
        let before = (kept.len() as u64).checked_sub(50).unwrap();
        assert_eq!(numbers, (0..before).chain(150..200).collect::<Vec<_>>(), "{job}");
        assert!(
            kept.iter().all(|line| line.timestamp as u64 == 7_919 * line.sequence && line.content == b"line\n"),
            "{job}"
        );
    }
    assert_eq!(daemon.terminate().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_imports_at_once_put_nothing_there_twice() {
    let home = Home::new();
    let daemon = home.start().await;
    let dir = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (0..6_000).map(old_line).collect();
    put(dir.path(), "logs/old/stdout.log.gz", &member(&lines));
    let arguments = ["import", dir.path().to_str().unwrap()];
    let (one, other) = tokio::join!(home.run(&arguments), home.run(&arguments));
    for output in [one, other] {
        let text = String::from_utf8_lossy(&output.stderr);
        let told = text.contains("somebody else appends to it") && text.contains("run the same import again");
        assert!(output.status.success() || (output.status.code() == Some(1) && told), "{output:?}");
    }
    let (code, report, _) = import(&home, dir.path()).await;
    assert_eq!(code, Some(0), "{report}");
    let kept = logs(&persist(&daemon).await, "old", pb::StreamType::Stdout).await;
    assert_eq!(kept.len(), 6_000);
    assert!(kept.iter().zip(0..).all(|(content, n)| *content == format!("line {}\n", n % 3).into_bytes()));
    assert_eq!(daemon.terminate().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_goes_on_behind_what_is_there_and_never_into_it() {
    let home = Home::new();
    let daemon = home.start().await;
    let dir = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (0..30).map(old_line).collect();
    put(dir.path(), "logs/old/stdout.log.gz", &member(&lines[..10]));
    let (code, report, _) = import(&home, dir.path()).await;
    assert_eq!((code, &report["new"]), (Some(0), &10.into()));
    // The file has grown, as it does where joblet still writes it.
    put(dir.path(), "logs/old/stdout.log.gz", &[member(&lines[..10]), member(&lines[10..])].concat());
    let (code, report, _) = import(&home, dir.path()).await;
    assert_eq!((code, &report["new"], &report["there"]), (Some(0), &20.into(), &10.into()));
    // Another file of the same name.
    let mut other = lines.clone();
    other[4] = old_line(5);
    other.extend((30..40).map(old_line));
    put(dir.path(), "logs/old/stdout.log.gz", &member(&other));
    let (code, report, text) = import(&home, dir.path()).await;
    assert_eq!((code, &report["new"], &report["there"]), (Some(1), &0.into(), &4.into()), "{text}");
    assert!(text.contains("record 5 is another one"), "{text}");
    assert_eq!(logs(&persist(&daemon).await, "old", pb::StreamType::Stdout).await.len(), 30);
    assert_eq!(daemon.terminate().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_put_out_is_read_on_the_command_line() {
    let home = Home::new();
    let daemon = home.start().await;
    let source = persist(&daemon).await;
    let pieces: [&[u8]; 3] = [b"one\ntw", b"o\x1b[31m\xff", b"\nthree"];
    let records = pieces.iter().enumerate().map(|(at, piece)| log(pb::StreamType::Stdout, at as u64, piece));
    append(&source, "j", records.chain([log(pb::StreamType::Stderr, 9, b"oops\n")]).collect()).await;
    append(&source, "j", every_kind("j")).await;

    let raw = home.run(&["logs", "j", "--stream", "stdout"]).await;
    assert_eq!(raw.stdout, b"one\ntwo\x1b[31m\xff\nthree", "a pipe gets the job's own bytes");
    let lines = home.run(&["logs", "j"]).await;
    let text = String::from_utf8(lines.stdout).unwrap();
    let told: Vec<_> = text.lines().filter_map(|line| line.split_once("| ")).map(|(_, line)| line).collect();
    assert_eq!(told, ["one", "two\u{fffd}[31m\u{fffd}", "oops", "three"], "{text}");
    let json = home.run(&["--output", "json", "logs", "j", "--stream", "stderr"]).await;
    let record: serde_json::Value = serde_json::from_slice(json.stdout.trim_ascii()).unwrap();
    assert_eq!((&record["jobId"], &record["chunk"]), (&"j".into(), &"b29wcwo=".into()));

    let found = home.run(&["search", "TWO", "-i"]).await;
    assert_eq!(found.status.code(), Some(0), "{found:?}");
    let text = String::from_utf8(found.stdout).unwrap();
    assert!(
        text.starts_with("j ") && text.ends_with("| two\u{fffd}[31m\u{fffd}\n"),
        "a line in pieces is one line: {text}"
    );
    assert_eq!(home.run(&["search", "--regex", "t.ree", "--job", "j"]).await.status.code(), Some(0));
    assert_eq!(home.run(&["search", "nowhere"]).await.status.code(), Some(1), "nothing found");

    let metrics = home.run(&["metrics", "j"]).await;
    let text = String::from_utf8(metrics.stdout).unwrap();
    let row = text.lines().find(|line| line.starts_with("memory_usage")).unwrap_or_else(|| panic!("{text}"));
    assert!(row.contains("1.0 TiB"), "{text}");
    assert_eq!(daemon.terminate().await.0, Some(0));
}
