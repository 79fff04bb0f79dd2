//! Appends to joblet's persist service: what is refused leaves nothing, two who append at once never mix, the largest record fits.

use fetchbox::proto::joblet::{ipc, persist as pp};
use prost::Message as _;

use crate::harness::host::Host;
use crate::harness::joblet::Sender;
use crate::harness::{checker, eventually, in_time};
use crate::persist_service::{log, logs, of, piece, sample, typed};

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_cannot_be_taken_says_why_and_leaves_nothing() {
    let host = Host::start(|_| {}).await;
    let persist = host.client().await.persist();
    let request = |job: &str, create, records| pp::AppendRecordsRequest {
        job_uuid: job.to_owned(),
        create,
        records,
        ..Default::default()
    };
    let unknown = persist.append_records(request("nobody", false, vec![piece(1)])).await.unwrap_err();
    assert!(unknown.to_string().contains("does not exist"), "{unknown}");
    for name in ["../x", "", "a\0b", &"a".repeat(1 << 20)] {
        assert!(persist.append_records(request(name, true, vec![piece(1)])).await.is_err());
    }
    assert!(persist.append_records(request("many", true, vec![piece(1); 10_001])).await.is_err());
    let unclear = log(1, pp::StreamType::Unspecified, vec![1]);
    assert!(persist.append_records(request("many", true, vec![unclear])).await.is_err());
    assert_eq!(persist.list_jobs(pp::ListJobsRequest::default()).await.unwrap().total_count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_append_to_one_job_never_mix_when_they_say_where_they_stand() {
    let mut host = Host::start(|_| {}).await;
    let persist = host.client().await.persist();
    let request = |expected, records| pp::AppendRecordsRequest {
        job_uuid: "a".into(),
        create: true,
        records,
        expected_ordinal: Some(expected),
    };
    // Nobody is there of whom it could have records.
    let early = persist.append_records(request(3, vec![piece(1)])).await.unwrap_err();
    assert_eq!(early.code(), "NOT_FOUND", "{early}");
    let mixed = vec![piece(1), typed(2, 1, sample(1).encode_to_vec())];
    assert_eq!(persist.append_records(request(0, mixed)).await.unwrap_err().code(), "INVALID_PAYLOAD");
    let mut next = 0;
    for round in 0..20u64 {
        let both = |from: u64| persist.append_records(request(next, (from..from + 5).map(piece).collect()));
        let (one, other) = tokio::join!(both(round * 10), both(round * 10 + 5));
        let refused = if one.is_ok() { other } else { one }.unwrap_err();
        assert_eq!(refused.code(), "ILLEGAL_STATE", "{refused}");
        assert!(refused.to_string().contains(&format!("number {}, not {next}", next + 5)), "{refused}");
        next += 5;
    }
    let metric = persist.append_records(request(0, vec![typed(2, 1, sample(1).encode_to_vec())])).await;
    assert_eq!(metric.unwrap().count, 1, "each type counts for itself");
    let info = persist.get_job_info(pp::GetJobInfoRequest { job_id: "a".into() }).await.unwrap();
    assert_eq!(info.next_ordinals, [(1, next), (2, 1)].into());
    let seen = logs(&persist, pp::QueryLogsRequest { arrival_order: true, ..of("a") }).await;
    assert_eq!(seen.iter().map(|line| line.offset).collect::<Vec<_>>(), (0..next).collect::<Vec<_>>());
    let folder = host.data_dir();
    host.stop().await;
    checker::data_is_clean(&folder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_record_that_the_socket_takes_can_be_appended_again() {
    let host = Host::start(|_| {}).await;
    let largest = 128 << 20;
    let message = |content: usize| ipc::IpcMessage {
        version: 1,
        r#type: 1,
        job_uuid: "sent".into(),
        data: ipc::LogLine { content: vec![b'x'; content].into(), ..Default::default() }.encode_to_vec().into(),
        ..Default::default()
    };
    let around = message(largest - 100).encoded_len() - (largest - 100);
    let message = message(largest - around);
    assert_eq!(message.encoded_len(), largest);
    let mut sender = Sender::connect(host.joblet_path()).await;
    sender.send(&(largest as u32).to_be_bytes()).await;
    sender.send(&message.encode_to_vec()).await;
    sender.finish().await;
    drop(message);
    let persist = host.client().await.persist();
    let line = eventually("the record", || async { logs(&persist, of("sent")).await.pop() }).await;
    assert_eq!(line.content.len(), largest - around);
    let records =
        vec![pp::OutputRecord { r#type: 1, timestamp: line.timestamp, sequence: 0, stream: 1, data: line.content }];
    let request =
        pp::AppendRecordsRequest { job_uuid: "back".into(), create: true, records, expected_ordinal: Some(0) };
    assert!(request.encoded_len() > largest);
    assert_eq!(in_time("the append", persist.append_records(request)).await.unwrap().count, 1);
}
