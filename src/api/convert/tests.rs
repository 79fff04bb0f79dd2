//! Round trips: what a client says is what the rooms hear, and the other way round.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::ingest::{NewRecord, RawManifest, Source};
use crate::model::{
    ControlChange, DeadLetter, DeadLetterId, DeadLetterSelector, Failure, FailureCode, Header, Job, JobId, JobType,
    LogRecord, Manifest, NewLog, ProxyHint, Refusal, RefusalCode, Resource, StorageHint, StorageLayout, StoredObject,
    Task, TaskIndex, TaskRef, TaskSpec, TaskState, Tenant,
};

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 äß/._-]{0,12}"
}

fn maybe(s: String) -> Option<String> {
    (!s.is_empty()).then_some(s)
}

prop_compose! {
    fn resource()(
        id in "[a-z]{1,8}", url in text(), headers in vec((text(), text()), 0..3), tags in btree_map(text(), text(), 0..3),
        checksum in any::<Option<[u8; 32]>>(), mime in text(), max_bytes in any::<u64>(),
        storage in proptest::option::of((text(), text(), btree_map(text(), text(), 0..3), any::<bool>())),
        proxy in proptest::option::of((text(), vec(text(), 0..3))), revalidate in any::<bool>(),
    ) -> Resource {
        Resource {
            id, url, tags, checksum,
            headers: headers.into_iter().map(|(name, value)| Header { name, value }).collect(),
            mime_hint: maybe(mime),
            max_bytes: (max_bytes != 0).then_some(max_bytes),
            storage_hint: storage.map(|(bucket, prefix, metadata, content_addressed)| {
                StorageHint { bucket: maybe(bucket), key_prefix: maybe(prefix), metadata, content_addressed }
            }),
            proxy_hint: proxy.map(|(primary_pool, fallbacks)| ProxyHint { primary_pool, fallbacks }),
            revalidate,
        }
    }
}

prop_compose! {
    fn any_manifest()(
        metadata_json in text(), attributes_json in text(), resources in vec(resource(), 0..4), file in text(), prefix in text(),
    ) -> Manifest {
        let storage = StorageLayout { manifest_file: maybe(file), resource_key_prefix: maybe(prefix) };
        Manifest { metadata_json, attributes_json, resources, storage }
    }
}

prop_compose! {
    fn new_log_entry()(
        resource_id in text(), level in 0..5_usize, timestamp_ms in any::<i64>(), message in text(),
        fields in btree_map(text(), text(), 0..3), trace_id in text(),
    ) -> NewLog {
        NewLog { resource_id, level: LogLevel::ALL[level], timestamp_ms, message, fields, trace_id }
    }
}

/// What a client reads of records.
fn shown(records: Vec<LogRecord>) -> Vec<pb::LogRecord> {
    let job_id = records.first().map(|record| record.job.to_string()).unwrap_or_default();
    let page = crate::ledger::LogPage { records, next_offset: 9, end: true, behind: 3 };
    let read = received(&log_messages(&page, &job_id)[0]);
    assert_eq!((read.next_offset, read.end, read.behind), (9, true, 3));
    read.records
}

fn received(message: &pb::QueryLogsResponse) -> pb::QueryLogsResponse {
    let bytes = message.encode_to_vec();
    assert_eq!(bytes.len(), message.encoded_len());
    pb::QueryLogsResponse::decode(bytes.as_slice()).unwrap()
}

/// What validation would make of the raw fields, without judging them.
fn accepted(raw: RawManifest) -> Manifest {
    let digest = |text: &str| {
        let hex = text.strip_prefix("sha256:")?;
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        Some(<[u8; 32]>::try_from(bytes).unwrap())
    };
    let resource = |raw: crate::ingest::RawResource| Resource {
        id: raw.id,
        url: raw.url,
        headers: raw.headers.into_iter().map(|(name, value)| Header { name, value }).collect(),
        tags: raw.tags.into_iter().collect(),
        checksum: digest(&raw.checksum),
        mime_hint: maybe(raw.mime_hint),
        max_bytes: (raw.max_bytes != 0).then_some(raw.max_bytes),
        storage_hint: raw.storage_hint.map(|hint| StorageHint {
            bucket: maybe(hint.bucket),
            key_prefix: maybe(hint.key_prefix),
            metadata: hint.metadata.into_iter().collect(),
            content_addressed: hint.content_addressed,
        }),
        proxy_hint: raw.proxy_hint.map(|(primary_pool, fallbacks)| ProxyHint { primary_pool, fallbacks }),
        revalidate: raw.revalidate,
    };
    Manifest {
        metadata_json: raw.metadata_json,
        attributes_json: raw.attributes_json,
        resources: raw.resources.into_iter().map(resource).collect(),
        storage: StorageLayout {
            manifest_file: maybe(raw.manifest_file),
            resource_key_prefix: maybe(raw.resource_key_prefix),
        },
    }
}

fn submit(source: Option<pb::submit_job_request::Source>) -> pb::SubmitJobRequest {
    pb::SubmitJobRequest { source, ..Default::default() }
}

proptest! {
    #[test]
    fn a_manifest_read_back_and_submitted_again_is_the_same(one in any_manifest()) {
        let message = manifest(one.clone());
        let again = submission(submit(Some(pb::submit_job_request::Source::Manifest(message)))).unwrap();
        let Source::Fields(raw) = again.source else { panic!("not fields") };
        prop_assert_eq!(raw.manifest_version.as_str(), "v1");
        prop_assert_eq!(accepted(*raw), one);
    }

    #[test]
    fn a_log_line_read_back_and_appended_again_is_the_same(entry in new_log_entry(), offset in any::<u64>()) {
        let job = JobId::first_at_ms(77);
        let record = LogRecord { job, offset, stream: LogStream::Job, entry: entry.clone(), chunk: Default::default() };
        let shown = shown(vec![record]).remove(0);
        prop_assert_eq!((shown.offset, &shown.job_id), (offset, &job.to_string()));
        prop_assert_eq!(new_records(vec![shown]).unwrap(), vec![NewRecord::Line(entry)]);
    }

    #[test]
    fn a_clients_log_record_is_the_one_that_was_kept(
        entry in new_log_entry(), offset in any::<u64>(), stream in 0..3usize, chunk in vec(any::<u8>(), 0..300),
    ) {
        let job = JobId::first_at_ms(77);
        let stream = [LogStream::Job, LogStream::Stdout, LogStream::Stderr][stream];
        let record = LogRecord { job, offset, stream, entry, chunk: chunk.into() };
        let expected = pb::LogRecord {
            offset,
            job_id: job.to_string(),
            resource_id: record.entry.resource_id.clone(),
            stream: log_stream(stream).into(),
            level: log_level(record.entry.level).into(),
            timestamp_ms: record.entry.timestamp_ms,
            fields: record.entry.fields.clone().into_iter().collect(),
            trace_id: record.entry.trace_id.clone(),
            content: Some(match stream {
                LogStream::Job => pb::log_record::Content::Message(record.entry.message.clone()),
                _ => pb::log_record::Content::Chunk(record.chunk.clone()),
            }),
        };
        prop_assert_eq!(shown(vec![record.clone(), record]), vec![expected.clone(), expected]);
    }

    #[test]
    fn a_selector_means_what_it_says(
        died in vec((0..i64::MAX, any::<u16>()), 0..3), with_job in any::<bool>(), code_prefix in text(), host in text(),
        before_ms in any::<i64>(), max in any::<u32>(), dry_run in any::<bool>(), confirm_all in any::<bool>(),
    ) {
        let job = JobId::first_at_ms(5);
        let id = |(died_at_ms, index)| DeadLetterId { died_at_ms, task: TaskRef { job, index: TaskIndex(index) } };
        let ids: Vec<DeadLetterId> = died.into_iter().map(id).collect();
        let heard = selector(Some(pb::DeadLetterSelector {
            ids: ids.iter().map(ToString::to_string).collect(),
            job_id: if with_job { job.to_string() } else { String::new() },
            code_prefix: code_prefix.clone(), host: host.clone(), before_ms, max, dry_run, confirm_all,
        }), own_id).unwrap();
        let job = with_job.then_some(job);
        prop_assert_eq!(heard, DeadLetterSelector { ids, job, code_prefix, host, before_ms, max, dry_run, confirm_all });
    }
}

/// Where every id is one of ours.
fn own_id(path: &str, text: &str) -> Result<JobId, Refusal> {
    text.parse().map_err(|_| Refusal::invalid(path, "is not a job id"))
}

#[test]
fn every_enum_value_has_one_counterpart() {
    for state in JobState::ALL {
        assert_eq!(job_state_in(job_state(state)), Some(state));
    }
    for level in LogLevel::ALL {
        assert_eq!(log_level_in(log_level(level)), level);
    }
    for stream in [LogStream::Job, LogStream::Stdout, LogStream::Stderr] {
        assert_eq!(log_stream_in(log_stream(stream)), stream);
    }
    for class in [Priority::Low, Priority::Normal, Priority::High] {
        assert_eq!(priority_in(priority(class)), class);
    }
    for kind in CleanupKind::ALL {
        let number = pb::CleanupKind::from_str_name(&format!("CLEANUP_KIND_{}", kind.name())).unwrap();
        assert_eq!(cleanup_kind_in(number), Some(kind));
    }
}

fn places() -> crate::api::Places {
    crate::api::Places::new(|spec, job_type, job| {
        ("fetchbox".into(), format!("r/{job_type}/{job}/{}", spec.resource_id))
    })
}

fn a_job() -> Job {
    Job {
        id: JobId::first_at_ms(1),
        job_type: JobType::parse("gallery").unwrap(),
        tenant: Tenant::parse("").unwrap(),
        priority: Priority::High,
        state: JobState::Partial,
        phase: "done".into(),
        total: 4,
        completed: 1,
        failed: 2,
        canceled: 1,
        manifest_bucket: "b".into(),
        manifest_key: "k".into(),
        manifest_stored: true,
        errors: vec![
            Failure::new(FailureCode::DownloadDns, "a"),
            Failure::new(FailureCode::DownloadNotFound, "b").with("status", 404),
        ],
        created_at_ms: 1,
        updated_at_ms: 2,
        completed_at_ms: 3,
        log_count: 9,
        bytes_stored: 10,
        revision: 11,
        trace_id: "t".into(),
        external: false,
        cancel_requested: false,
        name: None,
        output_counts: Vec::new(),
        output_bytes: 0,
        output_at_ms: 0,
    }
}

#[test]
fn a_job_shows_its_latest_failure_first_and_keeps_all() {
    let message = job(&a_job());
    assert_eq!(message.last_error.as_ref().unwrap().code, "DOWNLOAD_NOT_FOUND");
    assert_eq!(message.last_error.unwrap().context["status"], "404");
    assert_eq!((message.errors.len(), message.resources_canceled, message.revision), (2, 1, 11));
    assert_eq!(message.state, pb::JobState::Partial as i32);
}

fn a_spec() -> TaskSpec {
    let secret = Header { name: "authorization".into(), value: "Bearer secret".into() };
    TaskSpec { resource_id: "a".into(), headers: vec![secret], checksum: Some([0xab; 32]), ..Default::default() }
}

#[test]
fn a_task_shows_what_its_state_carries_and_never_a_header_value() {
    let object = StoredObject { sha256: [1; 32], key: "k".into(), ..Default::default() };
    let why = Failure::new(FailureCode::DownloadTooLarge, "big");
    let states = [
        TaskState::Ready,
        TaskState::Leased { until_ms: 5, epoch: 6 },
        TaskState::RetryWait { not_before_ms: 7 },
        TaskState::Done { object },
        TaskState::Dead { failure: why },
        TaskState::Canceled,
    ];
    for state in states {
        let name = state.name();
        let row = Task {
            task: TaskRef { job: a_job().id, index: TaskIndex(3) },
            spec: a_spec(),
            state,
            attempts: 2,
            last_failure: None,
            replay_of: String::new(),
            updated_at_ms: 0,
            done_context: Default::default(),
        };
        let message = task(&a_job(), &row, &places());
        assert_eq!(task_state_in(message.state()), Some(name));
        assert!(!format!("{message:?}").contains("secret"));
        assert_eq!(message.lease_epoch == 6, name == "leased");
        assert_eq!(message.not_before_ms == 7, name == "retry_wait");
        assert_eq!(message.object.map(|o| o.sha256), (name == "done").then(|| "01".repeat(32)));
        assert_eq!(message.error.map(|e| e.code), (name == "dead").then(|| "DOWNLOAD_TOO_LARGE".to_owned()));
        let spec = message.spec.unwrap();
        assert_eq!(spec.attributes.unwrap().checksum_hint, format!("sha256:{}", "ab".repeat(32)));
        assert!(spec.key.ends_with("/a"));
        assert_eq!(spec.attempt, 2);
    }
}

#[test]
fn a_dead_letter_tells_why_without_credentials() {
    let id = DeadLetterId { died_at_ms: 8, task: TaskRef { job: a_job().id, index: TaskIndex(0) } };
    let letter = DeadLetter {
        id,
        job_type: a_job().job_type,
        tenant: a_job().tenant,
        spec: a_spec(),
        failure: Failure::new(FailureCode::DownloadNotFound, "gone"),
        attempts: 1,
        replay_of: String::new(),
    };
    let message = dead_letter(&letter, &places());
    assert_eq!(dead_letter_id("id", &message.id).unwrap(), id);
    assert_eq!((message.failure_code.as_str(), message.failed_at_ms), ("DOWNLOAD_NOT_FOUND", 8));
    assert!(message.meaning.contains("404") && message.action.contains("replay"), "{message:?}");
    assert!(!format!("{message:?}").contains("secret"));
}

#[test]
fn a_piece_of_output_is_taken_and_one_in_the_wrong_place_is_named() {
    use pb::log_record::Content;

    let record =
        |stream: pb::LogStream, content| pb::LogRecord { stream: stream.into(), content, ..Default::default() };
    let bytes = || Some(Content::Chunk(vec![0, 255].into()));
    let text = || Some(Content::Message("m".to_owned()));
    let taken = new_records(vec![record(pb::LogStream::Stderr, bytes()), record(pb::LogStream::Job, text())]).unwrap();
    let label = NewLog { message: "m".to_owned(), level: LogLevel::Trace, ..NewLog::default() };
    let chunk = NewRecord::Chunk { stream: LogStream::Stderr, label: NewLog::default(), chunk: vec![0, 255].into() };
    assert_eq!(taken, [chunk, NewRecord::Line(label)]);
    for (wrong, path) in [
        (record(pb::LogStream::Stdout, text()), "records[0].message"),
        (record(pb::LogStream::Stdout, None), "records[0].chunk"),
        (record(pb::LogStream::Job, bytes()), "records[0].chunk"),
        (record(pb::LogStream::Job, None), "records[0].message"),
        (pb::LogRecord { stream: 9, ..Default::default() }, "records[0].stream"),
    ] {
        let refusal = new_records(vec![wrong]).unwrap_err();
        assert_eq!((refusal.code, refusal.violations[0].path.as_str()), (RefusalCode::InvalidPayload, path));
    }
}

#[test]
fn a_client_that_names_no_source_or_an_unknown_priority_is_told_so() {
    assert_eq!(submission(submit(None)).unwrap_err().violations[0].path, "source");
    let json = Some(pb::submit_job_request::Source::ManifestJson(b"{}".to_vec()));
    let odd = pb::SubmitJobRequest { priority: 44, ..submit(json) };
    assert_eq!(submission(odd).unwrap_err().violations[0].path, "priority");
}

#[test]
fn a_failure_code_of_the_clients_own_is_kept() {
    let update = |code: &str| {
        let status = pb::JobStatus {
            job_id: JobId::first_at_ms(1).to_string(),
            state: pb::JobState::Failed.into(),
            last_error_code: code.into(),
            last_error_message: "exit 3".into(),
            ..Default::default()
        };
        status_update(pb::UpdateJobStatusRequest { status: Some(status), expected_revision: 0 }, 50, own_id)
    };
    let own = update("EXIT_3").unwrap();
    let failure = own.failure.unwrap();
    assert_eq!((failure.code, failure.context["client_code"].as_str()), (FailureCode::HandlerFailed, "EXIT_3"));
    assert_eq!((failure.at_ms, own.expected_revision, own.state), (50, None, Some(JobState::Failed)));
    assert_eq!(update("DOWNLOAD_DNS").unwrap().failure.unwrap().code, FailureCode::DownloadDns);
    assert!(update("exit 3\n").is_err());
}

#[test]
fn drain_is_for_everything_and_a_switch_has_one_target() {
    let change = |action: pb::ControlAction, job_type: &str, host: &str| {
        control_change(pb::ControlQueueRequest { action: action.into(), job_type: job_type.into(), host: host.into() })
    };
    assert_eq!(change(pb::ControlAction::Pause, "", "").unwrap(), ControlChange::Pause);
    assert_eq!(change(pb::ControlAction::Resume, "", "h:80").unwrap(), ControlChange::ResumeHost("h:80".into()));
    assert!(matches!(change(pb::ControlAction::Pause, "a", "").unwrap(), ControlChange::PauseJobType(_)));
    assert!(change(pb::ControlAction::Drain, "a", "").is_err());
    assert!(change(pb::ControlAction::Pause, "a", "h").is_err());
    assert!(change(pb::ControlAction::Unspecified, "", "").is_err());
}

#[test]
fn a_page_of_long_lines_is_cut_into_messages_every_client_takes() {
    let entry = NewLog { message: "x".repeat(60_000), ..Default::default() };
    let record = |offset| LogRecord {
        job: a_job().id,
        offset,
        stream: LogStream::Job,
        entry: entry.clone(),
        chunk: Default::default(),
    };
    let page =
        crate::ledger::LogPage { records: (0..100).map(record).collect(), next_offset: 150, end: true, behind: 0 };
    let messages: Vec<_> = log_messages(&page, "j").iter().map(received).collect();
    assert!(messages.len() > 4);
    let mut expected = 0;
    for message in &messages {
        assert!(prost::Message::encoded_len(message) < 1_200_000);
        for record in &message.records {
            assert_eq!(record.offset, expected);
            expected += 1;
        }
    }
    assert_eq!(expected, 100);
    assert_eq!(messages.iter().filter(|m| m.end).count(), 1);
    assert_eq!(messages.last().unwrap().next_offset, 150);
    assert_eq!(messages[0].next_offset, messages[1].records[0].offset);
}
