//! What clients ask, as the rooms take it.
//!
//! Owns: refusals for what cannot be said in the model's words. Must not know: whether a request is allowed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost::Message as _;

use super::{cleanup_kind_in, job_state_in, log_level_in, log_stream_in, priority_in, task_state_in};
use crate::ingest::{NewRecord, RawManifest, RawResource, RawStorageHint, Source, StatusUpdate, Submission};
use crate::ledger::{FailureFilter, JobFilter, LogQuery, PageRequest, SearchQuery};
use crate::model::{
    Cleanup, ControlChange, DeadLetterId, DeadLetterSelector, Failure, FailureCode, JobId, JobState, JobType, LogLevel,
    LogStream, MANIFEST_BYTES_MAX, NewLog, Refusal, RefusalCode, Tenant, Violation,
};
use crate::proto::fetchbox::v1 as pb;

/// Rows of one page.
const PAGE_MAX: u32 = 1_000;
/// Records of one append.
const RECORDS_MAX: usize = 1_000;
/// Hits of one search.
const HITS_MAX: u32 = 10_000;
/// Ids one selector may name.
const IDS_MAX: usize = 1_000;
/// Bytes of a failure code a client reports.
const CODE_BYTES_MAX: usize = 64;

pub(crate) fn submission(request: pb::SubmitJobRequest) -> Result<Submission, Refusal> {
    let Some(source) = request.source else {
        return Err(Refusal::invalid("source", "one of manifest, manifest_json, manifest_json_gzip is required"));
    };
    let priority = known::<pb::Priority, _>("priority", request.priority)?;
    Ok(Submission {
        job_type: request.job_type,
        tenant: request.tenant,
        idempotency_key: request.idempotency_key,
        trace_parent: request.trace_parent,
        priority: priority_in(priority),
        source: match source {
            pb::submit_job_request::Source::ManifestJson(json) => Source::Json(json),
            pb::submit_job_request::Source::ManifestJsonGzip(gzip) => Source::JsonGzip(gzip),
            pb::submit_job_request::Source::Manifest(manifest) => Source::Fields(Box::new(raw_manifest(manifest)?)),
        },
    })
}

fn raw_manifest(manifest: pb::Manifest) -> Result<RawManifest, Refusal> {
    let bytes = manifest.encoded_len();
    if bytes > MANIFEST_BYTES_MAX {
        let message = format!("the manifest has {bytes} bytes; the limit is {MANIFEST_BYTES_MAX}");
        return Err(Refusal::new(RefusalCode::PayloadTooLarge, message));
    }
    let mut violations = Vec::new();
    let mut text = |path: &str, bytes: Vec<u8>| {
        String::from_utf8(bytes).unwrap_or_else(|_| {
            violations.push(Violation { path: path.to_owned(), message: "is not UTF-8".to_owned() });
            String::new()
        })
    };
    let metadata_json = text("metadata", manifest.metadata_json);
    let attributes_json = text("attributes", manifest.attributes_json);
    if !violations.is_empty() {
        return Err(Refusal::violations(violations));
    }
    let storage = manifest.storage.unwrap_or_default();
    Ok(RawManifest {
        manifest_version: manifest.manifest_version,
        metadata_json,
        attributes_json,
        resources: manifest.resources.into_iter().map(raw_resource).collect(),
        manifest_file: storage.manifest_file,
        resource_key_prefix: storage.resource_key_prefix,
    })
}

fn raw_resource(resource: pb::Resource) -> RawResource {
    RawResource {
        id: resource.id,
        url: resource.url,
        headers: resource.headers.into_iter().map(|header| (header.name, header.value)).collect(),
        tags: pairs(resource.tags),
        checksum: resource.checksum,
        mime_hint: resource.mime_hint,
        max_bytes: resource.max_bytes,
        storage_hint: resource.storage_hint.map(|hint| RawStorageHint {
            bucket: hint.bucket,
            key_prefix: hint.key_prefix,
            metadata: pairs(hint.metadata),
            content_addressed: hint.content_addressed,
        }),
        proxy_hint: resource.proxy_hint.map(|hint| (hint.primary_pool, hint.fallbacks)),
        revalidate: resource.revalidate,
    }
}

/// In order of the keys: the wire has none, and violations should not jump about.
fn pairs(map: HashMap<String, String>) -> Vec<(String, String)> {
    map.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect()
}

pub(crate) fn job_filter(request: &pb::ListJobsRequest) -> Result<JobFilter, Refusal> {
    let mut states: Vec<JobState> = Vec::new();
    for (at, state) in request.states.iter().enumerate() {
        let path = format!("states[{at}]");
        let state =
            job_state_in(known(&path, *state)?).ok_or_else(|| Refusal::invalid(&path, "UNKNOWN is no state"))?;
        states.push(state);
    }
    Ok(JobFilter {
        tenant: tenant(&request.tenant)?,
        job_type: job_type(&request.job_type)?,
        states,
        created_from_ms: request.created_from_ms,
        created_until_ms: request.created_until_ms,
        id_prefix: request.id_prefix.clone(),
    })
}

pub(crate) fn page(size: u32, token: &str) -> Result<PageRequest, Refusal> {
    if size > PAGE_MAX {
        return Err(Refusal::invalid("page_size", format!("at most {PAGE_MAX}")));
    }
    Ok(PageRequest { size, token: token.to_owned() })
}

pub(crate) fn task_states(states: &[i32]) -> Result<Vec<&'static str>, Refusal> {
    let each = states.iter().enumerate().map(|(at, state)| {
        let path = format!("states[{at}]");
        task_state_in(known(&path, *state)?).ok_or_else(|| Refusal::invalid(path, "UNKNOWN is no state"))
    });
    each.collect()
}

/// Empty: not restricted.
fn tenant(text: &str) -> Result<Option<Tenant>, Refusal> {
    (!text.is_empty()).then(|| Tenant::parse(text)).transpose().map_err(|_| bad_slug("tenant"))
}

fn job_type(text: &str) -> Result<Option<JobType>, Refusal> {
    (!text.is_empty()).then(|| JobType::parse(text)).transpose().map_err(|_| bad_slug("job_type"))
}

fn bad_slug(path: &str) -> Refusal {
    Refusal::invalid(path, "must be like [a-z0-9][a-z0-9._-]{0,63}")
}

pub(crate) fn new_records(records: Vec<pb::LogRecord>) -> Result<Vec<NewRecord>, Refusal> {
    if records.is_empty() || records.len() > RECORDS_MAX {
        return Err(Refusal::invalid("records", format!("1 to {RECORDS_MAX} are taken at a time")));
    }
    records.into_iter().enumerate().map(|(at, record)| new_record(at, record)).collect()
}

fn new_record(at: usize, record: pb::LogRecord) -> Result<NewRecord, Refusal> {
    use pb::log_record::Content;

    let stream = log_stream_in(known(&format!("records[{at}].stream"), record.stream)?);
    let wrong = |field: &str, why: &str| Err(Refusal::invalid(format!("records[{at}].{field}"), why));
    let (message, chunk) = match (stream, record.content) {
        (LogStream::Job, Some(Content::Message(message))) => (message, None),
        (LogStream::Job, Some(Content::Chunk(_))) => {
            return wrong("chunk", "is for the streams STDOUT and STDERR; a line of stream JOB is a message");
        }
        (LogStream::Job, None) => return wrong("message", "is required"),
        (LogStream::Stdout | LogStream::Stderr, Some(Content::Chunk(chunk))) => (String::new(), Some(chunk)),
        (LogStream::Stdout | LogStream::Stderr, Some(Content::Message(_))) => {
            return wrong("message", "is for stream JOB; what a job wrote to STDOUT or STDERR is a chunk");
        }
        (LogStream::Stdout | LogStream::Stderr, None) => return wrong("chunk", "is required"),
    };
    let level = match log_level_in(known(&format!("records[{at}].level"), record.level)?) {
        // The wire's zero: of a piece of output, which has no level of its own, nothing was said.
        LogLevel::Trace if chunk.is_some() => LogLevel::default(),
        level => level,
    };
    let label = NewLog {
        resource_id: record.resource_id,
        level,
        timestamp_ms: record.timestamp_ms,
        message,
        fields: record.fields.into_iter().collect(),
        trace_id: record.trace_id,
    };
    Ok(match chunk {
        None => NewRecord::Line(label),
        // A copy: it may wait for the disk, and a slice would keep the whole request with it.
        Some(chunk) => NewRecord::Chunk { stream, label, chunk: bytes::Bytes::copy_from_slice(&chunk) },
    })
}

/// `find` reads a job id as the door does.
pub(crate) fn status_update(
    request: pb::UpdateJobStatusRequest,
    now_ms: i64,
    find: impl FnOnce(&str, &str) -> Result<JobId, Refusal>,
) -> Result<StatusUpdate, Refusal> {
    let status = request.status.ok_or_else(|| Refusal::invalid("status", "is required"))?;
    let failure = failure_in(&status, now_ms)?;
    Ok(StatusUpdate {
        job: find("status.job_id", &status.job_id)?,
        state: job_state_in(known("status.state", status.state)?),
        phase: (!status.phase.is_empty()).then_some(status.phase),
        failure,
        expected_revision: (request.expected_revision != 0).then_some(request.expected_revision),
    })
}

/// A client's own code is kept beside ours: the codes FetchBox acts on are a closed list.
fn failure_in(status: &pb::JobStatus, now_ms: i64) -> Result<Option<Failure>, Refusal> {
    let (code, message) = (&status.last_error_code, &status.last_error_message);
    if code.is_empty() && message.is_empty() {
        return Ok(None);
    }
    let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    if code.len() > CODE_BYTES_MAX || !code.bytes().all(plain) {
        return Err(Refusal::invalid(
            "status.last_error_code",
            format!("must be like [A-Z0-9_]{{0,{CODE_BYTES_MAX}}}"),
        ));
    }
    let mut failure = match FailureCode::parse(code) {
        Some(known) => Failure::new(known, message.clone()),
        None if code.is_empty() => Failure::new(FailureCode::HandlerFailed, message.clone()),
        None => Failure::new(FailureCode::HandlerFailed, message.clone()).with("client_code", code),
    };
    failure.at_ms = if status.timestamp_ms > 0 { status.timestamp_ms } else { now_ms };
    Ok(Some(failure))
}

pub(crate) fn log_query(request: &pb::QueryLogsRequest) -> Result<LogQuery, Refusal> {
    for (path, size) in [("limit", request.limit), ("tail", request.tail)] {
        if size > PAGE_MAX {
            return Err(Refusal::invalid(path, format!("at most {PAGE_MAX}")));
        }
    }
    let level: LogLevel = log_level_in(known("min_level", request.min_level)?);
    let streams = request.streams.iter().enumerate();
    let streams = streams.map(|(at, stream)| Ok(log_stream_in(known(&format!("streams[{at}]"), *stream)?)));
    Ok(LogQuery {
        offset: request.offset,
        limit: request.limit,
        min_level: level,
        streams: streams.collect::<Result<_, Refusal>>()?,
        resource_id: request.resource_id.clone(),
        from_ms: request.from_ms,
        until_ms: request.until_ms,
        text: request.text.clone(),
        regex: request.regex.clone(),
        ignore_case: request.ignore_case,
        tail: request.tail,
    })
}

/// `find` reads a job id as the door does.
pub(crate) fn search(
    request: &pb::SearchLogsRequest,
    find: impl Fn(&str, &str) -> Result<JobId, Refusal>,
) -> Result<SearchQuery, Refusal> {
    if request.limit > HITS_MAX {
        return Err(Refusal::invalid("limit", format!("at most {HITS_MAX}")));
    }
    if request.job_ids.len() > IDS_MAX {
        return Err(Refusal::invalid("job_ids", format!("at most {IDS_MAX}")));
    }
    let jobs = request.job_ids.iter().enumerate().map(|(at, id)| find(&format!("job_ids[{at}]"), id));
    let streams = request.streams.iter().enumerate().map(|(at, stream)| {
        let path = format!("streams[{at}]");
        match log_stream_in(known(&path, *stream)?) {
            LogStream::Job => Err(Refusal::invalid(path, "one of STDOUT and STDERR: own lines are not searched")),
            stream @ (LogStream::Stdout | LogStream::Stderr) => Ok(stream),
        }
    });
    Ok(SearchQuery {
        text: request.text.clone(),
        regex: request.regex.clone(),
        ignore_case: request.ignore_case,
        jobs: jobs.collect::<Result<_, Refusal>>()?,
        job_type: job_type(&request.job_type)?,
        tenant: tenant(&request.tenant)?,
        streams: streams.collect::<Result<_, Refusal>>()?,
        from_ms: request.from_ms,
        until_ms: request.until_ms,
        limit: request.limit,
    })
}

pub(crate) fn failure_filter(request: &pb::ListRecentFailuresRequest) -> Result<FailureFilter, Refusal> {
    Ok(FailureFilter {
        tenant: tenant(&request.tenant)?,
        job_type: job_type(&request.job_type)?,
        code_prefix: request.code_prefix.clone(),
        host: request.host.clone(),
    })
}

pub(crate) fn dead_letter_id(path: &str, text: &str) -> Result<DeadLetterId, Refusal> {
    text.parse().map_err(|_| Refusal::invalid(path, "is not a dead letter's id, as ListDeadLetters gives it"))
}

/// `find` reads a job id as the door does.
pub(crate) fn selector(
    selector: Option<pb::DeadLetterSelector>,
    find: impl FnOnce(&str, &str) -> Result<JobId, Refusal>,
) -> Result<DeadLetterSelector, Refusal> {
    let selector = selector.unwrap_or_default();
    if selector.ids.len() > IDS_MAX {
        return Err(Refusal::invalid("selector.ids", format!("at most {IDS_MAX}")));
    }
    let ids = selector.ids.iter().enumerate();
    let ids = ids.map(|(at, id)| dead_letter_id(&format!("selector.ids[{at}]"), id));
    let job = (!selector.job_id.is_empty()).then(|| find("selector.job_id", &selector.job_id));
    Ok(DeadLetterSelector {
        ids: ids.collect::<Result<_, _>>()?,
        job: job.transpose()?,
        code_prefix: selector.code_prefix,
        host: selector.host,
        before_ms: selector.before_ms,
        max: selector.max,
        dry_run: selector.dry_run,
        confirm_all: selector.confirm_all,
    })
}

pub(crate) fn cleanup(request: &pb::CleanupOldDataRequest) -> Result<Cleanup, Refusal> {
    let mut kinds = BTreeSet::new();
    for (at, kind) in request.kinds.iter().enumerate() {
        let path = format!("kinds[{at}]");
        let kind = cleanup_kind_in(known(&path, *kind)?);
        kinds.insert(kind.ok_or_else(|| Refusal::invalid(path, "UNSPECIFIED is no kind"))?);
    }
    Ok(Cleanup {
        older_than_days: request.older_than_days,
        kinds,
        dry_run: request.dry_run,
        max_deletes: request.max_deletes,
        compact: request.compact,
    })
}

pub(crate) fn control_change(request: pb::ControlQueueRequest) -> Result<ControlChange, Refusal> {
    let action: pb::ControlAction = known("action", request.action)?;
    let job_type = job_type(&request.job_type)?;
    if job_type.is_some() && !request.host.is_empty() {
        return Err(Refusal::invalid("host", "at most one of job_type and host"));
    }
    let host = (!request.host.is_empty()).then_some(request.host);
    match (action, job_type, host) {
        (pb::ControlAction::Unspecified, _, _) => {
            Err(Refusal::invalid("action", "one of PAUSE, RESUME, DRAIN is required"))
        }
        (pb::ControlAction::Pause, Some(job_type), _) => Ok(ControlChange::PauseJobType(job_type)),
        (pb::ControlAction::Pause, None, Some(host)) => Ok(ControlChange::PauseHost(host)),
        (pb::ControlAction::Pause, None, None) => Ok(ControlChange::Pause),
        (pb::ControlAction::Resume, Some(job_type), _) => Ok(ControlChange::ResumeJobType(job_type)),
        (pb::ControlAction::Resume, None, Some(host)) => Ok(ControlChange::ResumeHost(host)),
        (pb::ControlAction::Resume, None, None) => Ok(ControlChange::Resume),
        (pb::ControlAction::Drain, None, None) => Ok(ControlChange::Drain),
        (pb::ControlAction::Drain, Some(_), _) => Err(Refusal::invalid("job_type", "drain is for everything")),
        (pb::ControlAction::Drain, None, Some(_)) => Err(Refusal::invalid("host", "drain is for everything")),
    }
}

/// The enum value behind a number.
fn known<E, N>(path: &str, number: N) -> Result<E, Refusal>
where
    E: TryFrom<N>,
    N: Copy + std::fmt::Display,
{
    E::try_from(number).map_err(|_| Refusal::invalid(path, format!("{number} is not a known value")))
}
