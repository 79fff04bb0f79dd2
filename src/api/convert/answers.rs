//! What the rooms answer, as clients read it.
//!
//! Owns: the shape of every answer. Must not know: who asked. Header values leave only inside `Manifest`: they may be credentials.

use base16ct::lower;

use super::{job_state, log_stream, priority};
use crate::api::{Api, Check, Places, errors, health};
use crate::ingest::Validation;
use crate::ledger::{JobStory, LifeEvent, RecentFailure, SearchHit, SearchPage, TaskStory};
use crate::model::{
    CleanupReport, Controls, DeadLetter, Failure, Header, Job, JobId, JobType, Manifest, ProxyHint, Refusal, Resource,
    StorageHint, StoredObject, Task, TaskSpec, TaskState, Tenant,
};
use crate::proto::fetchbox::v1 as pb;

/// What stands where a header's value would.
const HIDDEN: &str = "***";

pub(crate) fn submitted(
    job: JobId,
    manifest_key: String,
    resource_count: u32,
    duplicate: bool,
) -> pb::SubmitJobResponse {
    pb::SubmitJobResponse { job_id: job.to_string(), manifest_key, resource_count, duplicate }
}

pub(crate) fn pong(api: &Api) -> pb::Pong {
    pb::Pong { timestamp_ms: api.clock.now_ms(), version: env!("CARGO_PKG_VERSION").to_owned(), serving: api.serving() }
}

pub(crate) fn validation(validation: Validation) -> pb::ValidateManifestResponse {
    let violations = validation.violations.into_iter();
    let tasks = validation.tasks.into_iter();
    pb::ValidateManifestResponse {
        valid: violations.len() == 0,
        violations: violations.map(|v| pb::FieldViolation { path: v.path, message: v.message }).collect(),
        tasks: tasks
            .map(|t| pb::PlannedTask { resource_id: t.resource_id, url: t.url, bucket: t.bucket, key: t.key })
            .collect(),
    }
}

/// A dry run that was refused as a whole says the same: nothing is valid, and why.
pub(crate) fn refused_validation(refusal: Refusal) -> Result<pb::ValidateManifestResponse, Refusal> {
    if refusal.violations.is_empty() { Err(refusal) } else { Ok(violations_only(&refusal)) }
}

fn violations_only(refusal: &Refusal) -> pb::ValidateManifestResponse {
    pb::ValidateManifestResponse { valid: false, violations: errors::detail(refusal).fields, tasks: Vec::new() }
}

pub(crate) fn job(job: &Job) -> pb::Job {
    pb::Job {
        job_id: job.public_id(),
        job_type: job.job_type.to_string(),
        tenant: job.tenant.to_string(),
        state: job_state(job.state).into(),
        phase: job.phase.clone(),
        resources_total: job.total,
        resources_completed: job.completed,
        resources_failed: job.failed,
        resources_canceled: job.canceled,
        manifest_key: job.manifest_key.clone(),
        last_error: job.errors.last().map(failure),
        errors: job.errors.iter().map(failure).collect(),
        created_at_ms: job.created_at_ms,
        updated_at_ms: job.updated_at_ms,
        completed_at_ms: job.completed_at_ms,
        log_count: job.log_count,
        bytes_stored: job.bytes_stored,
        revision: job.revision,
        trace_id: job.trace_id.clone(),
        priority: priority(job.priority).into(),
        manifest_bucket: job.manifest_bucket.clone(),
    }
}

pub(crate) fn failure(failure: &Failure) -> pb::FailureInfo {
    pb::FailureInfo {
        code: failure.code.as_str().to_owned(),
        message: failure.message.clone(),
        resource_id: failure.resource_id.clone(),
        timestamp_ms: failure.at_ms,
        attempt: failure.attempt,
        context: failure.context.clone().into_iter().collect(),
    }
}

/// What a task's own row does not say about it.
struct Around<'a> {
    job: JobId,
    job_type: &'a JobType,
    tenant: &'a Tenant,
    manifest_key: &'a str,
    trace_id: &'a str,
    attempt: u32,
}

fn download(spec: &TaskSpec, around: &Around<'_>, places: &Places) -> pb::DownloadTask {
    let (bucket, key) = places.of(spec, around.job_type, around.job);
    let hidden = |header: &Header| pb::HttpHeader { name: header.name.clone(), value: HIDDEN.to_owned() };
    pb::DownloadTask {
        job_id: around.job.to_string(),
        job_type: around.job_type.to_string(),
        resource_id: spec.resource_id.clone(),
        url: spec.url.clone(),
        headers: spec.headers.iter().map(hidden).collect(),
        proxy_hint: spec.proxy_hint.as_ref().map(proxy_hint),
        storage_hint: Some(pb::StorageHint {
            bucket: spec.bucket.clone().unwrap_or_default(),
            key_prefix: spec.key_prefix.clone().unwrap_or_default(),
            metadata: spec.object_metadata.clone().into_iter().collect(),
            content_addressed: spec.content_addressed,
        }),
        attributes: Some(pb::TaskAttributes {
            tags: spec.tags.clone().into_iter().collect(),
            checksum_hint: checksum(spec.checksum.as_ref()),
            mime_hint: spec.mime_hint.clone().unwrap_or_default(),
            extra: Default::default(),
        }),
        manifest_key: around.manifest_key.to_owned(),
        attempt: around.attempt,
        tenant: around.tenant.to_string(),
        trace_id: around.trace_id.to_owned(),
        max_bytes: spec.max_bytes.unwrap_or_default(),
        bucket,
        key,
        revalidate: spec.revalidate,
    }
}

pub(crate) fn task(job: &Job, task: &Task, places: &Places) -> pb::Task {
    let around = Around {
        job: job.id,
        job_type: &job.job_type,
        tenant: &job.tenant,
        manifest_key: &job.manifest_key,
        trace_id: &job.trace_id,
        attempt: task.attempts,
    };
    let mut message = pb::Task {
        task_id: task.task.to_string(),
        spec: Some(download(&task.spec, &around, places)),
        state: pb::TaskState::Unknown.into(),
        attempts: task.attempts,
        not_before_ms: 0,
        lease_epoch: 0,
        lease_expires_ms: 0,
        object: None,
        error: task.last_failure.as_ref().map(failure),
        replay_of: task.replay_of.clone(),
        context: task.done_context.clone().into_iter().collect(),
    };
    let state = match &task.state {
        TaskState::Ready => pb::TaskState::Ready,
        TaskState::Leased { until_ms, epoch } => {
            message.lease_expires_ms = *until_ms;
            message.lease_epoch = *epoch;
            pb::TaskState::Leased
        }
        TaskState::RetryWait { not_before_ms } => {
            message.not_before_ms = *not_before_ms;
            pb::TaskState::RetryWait
        }
        TaskState::Done { object } => {
            message.object = Some(stored(object));
            pb::TaskState::Done
        }
        TaskState::Dead { failure: why } => {
            message.error = Some(failure(why));
            pb::TaskState::Dead
        }
        TaskState::Canceled => pb::TaskState::Canceled,
    };
    message.set_state(state);
    message
}

fn stored(object: &StoredObject) -> pb::StoredObject {
    pb::StoredObject {
        bucket: object.bucket.clone(),
        key: object.key.clone(),
        etag: object.etag.clone(),
        size_bytes: object.size_bytes,
        sha256: lower::encode_string(&object.sha256),
        content_type: object.content_type.clone(),
    }
}

pub(crate) fn dead_letter(letter: &DeadLetter, places: &Places) -> pb::DeadLetterTask {
    let around = Around {
        job: letter.id.task.job,
        job_type: &letter.job_type,
        tenant: &letter.tenant,
        manifest_key: "",
        trace_id: "",
        attempt: letter.attempts,
    };
    pb::DeadLetterTask {
        task: Some(download(&letter.spec, &around, places)),
        failure_code: letter.failure.code.as_str().to_owned(),
        failure_message: letter.failure.message.clone(),
        attempts: letter.attempts,
        failed_at_ms: letter.id.died_at_ms,
        id: letter.id.to_string(),
        failure: Some(failure(&letter.failure)),
        meaning: letter.failure.code.meaning().to_owned(),
        action: letter.failure.code.action().to_owned(),
    }
}

pub(crate) fn recent_failure(recent: &RecentFailure) -> pb::RecentFailure {
    pb::RecentFailure {
        job_id: recent.job.to_string(),
        job_type: recent.job_type.to_string(),
        tenant: recent.tenant.to_string(),
        failure: Some(failure(&recent.failure)),
    }
}

/// The manifest as it was accepted, header values included: it is the client's own.
pub(crate) fn manifest(manifest: Manifest) -> pb::Manifest {
    pb::Manifest {
        manifest_version: "v1".to_owned(),
        metadata_json: manifest.metadata_json.into_bytes(),
        resources: manifest.resources.into_iter().map(resource).collect(),
        attributes_json: manifest.attributes_json.into_bytes(),
        storage: Some(pb::StorageLayout {
            manifest_file: manifest.storage.manifest_file.unwrap_or_default(),
            resource_key_prefix: manifest.storage.resource_key_prefix.unwrap_or_default(),
        }),
    }
}

fn resource(resource: Resource) -> pb::Resource {
    pb::Resource {
        id: resource.id,
        url: resource.url,
        headers: resource.headers.into_iter().map(|h| pb::HttpHeader { name: h.name, value: h.value }).collect(),
        tags: resource.tags.into_iter().collect(),
        checksum: checksum(resource.checksum.as_ref()),
        mime_hint: resource.mime_hint.unwrap_or_default(),
        max_bytes: resource.max_bytes.unwrap_or_default(),
        storage_hint: resource.storage_hint.map(storage_hint),
        proxy_hint: resource.proxy_hint.as_ref().map(proxy_hint),
        revalidate: resource.revalidate,
    }
}

fn storage_hint(hint: StorageHint) -> pb::StorageHint {
    pb::StorageHint {
        bucket: hint.bucket.unwrap_or_default(),
        key_prefix: hint.key_prefix.unwrap_or_default(),
        metadata: hint.metadata.into_iter().collect(),
        content_addressed: hint.content_addressed,
    }
}

fn proxy_hint(hint: &ProxyHint) -> pb::ProxyHint {
    pb::ProxyHint { primary_pool: hint.primary_pool.clone(), fallbacks: hint.fallbacks.clone() }
}

fn checksum(digest: Option<&[u8; 32]>) -> String {
    digest.map_or_else(String::new, |digest| format!("sha256:{}", lower::encode_string(digest)))
}

pub(crate) fn search_page(page: SearchPage) -> pb::SearchLogsResponse {
    let hit = |hit: SearchHit| pb::SearchHit {
        job_id: hit.job_id,
        offset: hit.offset,
        stream: log_stream(hit.stream).into(),
        timestamp_ms: hit.timestamp_ms,
        line: hit.line,
    };
    pb::SearchLogsResponse {
        hits: page.hits.into_iter().map(hit).collect(),
        next_page_token: page.next_token,
        progress: Some(pb::SearchProgress {
            blocks: page.progress.blocks,
            blocks_skipped: page.progress.blocks_skipped,
            bytes_searched: page.progress.bytes_searched,
        }),
    }
}

fn life_event(event: LifeEvent) -> pb::LifeEvent {
    pb::LifeEvent {
        timestamp_ms: event.at_ms,
        what: event.what,
        message: event.message,
        failure: event.failure.as_ref().map(failure),
    }
}

pub(crate) fn task_story(job: &Job, story: TaskStory, places: &Places) -> pb::ExplainTaskResponse {
    pb::ExplainTaskResponse {
        task: Some(task(job, &story.task, places)),
        summary: story.summary,
        events: story.events.into_iter().map(life_event).collect(),
    }
}

pub(crate) fn job_story(story: JobStory, places: &Places) -> pb::ExplainJobResponse {
    pb::ExplainJobResponse {
        job: Some(job(&story.job)),
        summary: story.summary,
        events: story.events.into_iter().map(life_event).collect(),
        tasks: story.tasks.into_iter().map(|task| task_story(&story.job, task, places)).collect(),
    }
}

pub(crate) fn cleanup_report(report: CleanupReport, duration_ms: u64) -> pb::CleanupOldDataResponse {
    pb::CleanupOldDataResponse {
        deleted: report.deleted.into_iter().map(|(kind, count)| (kind.name().to_owned(), count)).collect(),
        reclaimed_bytes: report.reclaimed_bytes,
        duration_ms,
        more: report.more,
    }
}

pub(crate) fn controls(controls: Controls) -> pb::ControlQueueResponse {
    pb::ControlQueueResponse {
        paused: controls.paused,
        draining: controls.draining,
        paused_job_types: controls.paused_job_types.iter().map(ToString::to_string).collect(),
        paused_hosts: controls.paused_hosts.into_iter().collect(),
    }
}

pub(crate) fn health(live: &[Check], ready: &[Check]) -> pb::GetHealthResponse {
    let check =
        |check: &Check| pb::HealthCheck { name: check.name.clone(), ok: check.ok, message: check.message.clone() };
    pb::GetHealthResponse {
        live: health::all_ok(live),
        ready: health::all_ok(ready),
        checks: ready.iter().map(check).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// A length as the wire counts.
pub(crate) fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
