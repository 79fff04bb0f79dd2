//! A submission's way from bytes to a job that can be made durable. Needs no store: everything here can be tested alone.
//!
//! Owns: the order of checks, the calls of a handler's hooks, what a job is called and where its manifest goes.
//! Must not know: how a job becomes durable.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::canon;
use super::check::{self, Rules};
use super::found::{Found, Path};
use super::gzip::{self, GzipFault};
use super::json;
use super::raw::{RawManifest, Source, Submission};
use super::vet::{self, Ground};
use super::{IDEMPOTENCY_KEY_BYTES_MAX, Options, PlannedTask, Validation};
use crate::clock::{Clock, JobIds};
use crate::handler::{
    HandlerError, JobHandler, Registry, TypeSettings, manifest_json, manifest_key, run_hook, shown_key,
};
use crate::model::{
    JobId, JobType, MANIFEST_BYTES_MAX, Manifest, Priority, Refusal, RefusalCode, TaskSpec, Tenant, Violation,
};
use crate::store::{Idempotency, NewJob};

/// Everything about intake that needs no store.
pub struct Intake {
    options: Options,
    /// The configured bucket and those a client may name.
    buckets: BTreeSet<String>,
    registry: Registry,
    clock: Clock,
    ids: Arc<JobIds>,
}

/// A submission that passed every check, with the handler that serves it.
struct Accepted {
    job_type: JobType,
    tenant: Tenant,
    priority: Priority,
    trace_id: String,
    idempotency: Option<Idempotency>,
    manifest: Manifest,
    handler: Arc<dyn JobHandler>,
    settings: Arc<TypeSettings>,
}

/// A manifest with its tasks and the manifest's own key.
struct Planned {
    manifest: Manifest,
    tasks: Vec<TaskSpec>,
    manifest_key: String,
}

impl Intake {
    pub fn new(options: Options, registry: Registry, clock: Clock, ids: Arc<JobIds>) -> Self {
        let mut buckets = options.allowed_buckets.clone();
        buckets.insert(options.bucket.clone());
        Self { options, buckets, registry, clock, ids }
    }

    pub fn mint(&self) -> JobId {
        self.ids.mint()
    }

    pub fn ids(&self) -> Arc<JobIds> {
        Arc::clone(&self.ids)
    }

    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// The job that would be made durable.
    ///
    /// # Errors
    /// INVALID_PAYLOAD with every violation, PAYLOAD_TOO_LARGE, UNSUPPORTED_JOB_TYPE, HANDLER_FAILED.
    pub async fn prepare(&self, submission: Submission) -> Result<NewJob, Refusal> {
        let accepted = self.accept(submission)?;
        let id = self.ids.mint();
        let job = id.to_string();
        let (external, idempotency) = (accepted.settings.external, accepted.idempotency);
        let (job_type, tenant) = (accepted.job_type, accepted.tenant);
        let planned = self.plan(&job_type, &job, accepted.manifest, &*accepted.handler, &accepted.settings).await?;
        // An external job has no object of any kind: no key is named that nothing will ever stand at.
        let manifest_bucket = if external { String::new() } else { self.options.bucket.clone() };
        Ok(NewJob {
            id,
            job_type,
            tenant,
            priority: accepted.priority,
            trace_id: accepted.trace_id,
            external,
            idempotency,
            manifest: planned.manifest,
            tasks: planned.tasks,
            manifest_bucket,
            manifest_key: planned.manifest_key,
            now_ms: self.clock.now_ms(),
            open_tasks_max: self.options.open_tasks_max,
            parallel_max: accepted.settings.max_parallel_downloads,
        })
    }

    /// A dry run of `prepare`: violations are an answer, other refusals are errors.
    pub async fn validate(&self, submission: Submission) -> Result<Validation, Refusal> {
        /// Stands in keys where the id would.
        const JOB: &str = "{job_id}";
        let tried = match self.accept(submission) {
            Ok(accepted) => {
                let Accepted { job_type, manifest, handler, settings, .. } = accepted;
                self.plan(&job_type, JOB, manifest, &*handler, &settings).await.map(|planned| (job_type, planned))
            }
            Err(refusal) => Err(refusal),
        };
        match tried {
            Ok((job_type, planned)) => {
                let place = |task: TaskSpec| PlannedTask {
                    key: shown_key(&self.options.key_prefix, &task, &job_type, JOB),
                    bucket: task.bucket.unwrap_or_else(|| self.options.bucket.clone()),
                    resource_id: task.resource_id,
                    url: task.url,
                };
                Ok(Validation { violations: Vec::new(), tasks: planned.tasks.into_iter().map(place).collect() })
            }
            Err(refusal) if refusal.code == RefusalCode::InvalidPayload => {
                Ok(Validation { violations: refusal.violations, tasks: Vec::new() })
            }
            Err(refusal) => Err(refusal),
        }
    }

    fn accept(&self, submission: Submission) -> Result<Accepted, Refusal> {
        let Submission { job_type, tenant, idempotency_key, trace_parent, priority, source } = submission;
        let mut head = Found::default();
        let root = Path::Root;
        let job_type = slug(JobType::parse(&job_type), &root.key("job_type"), &mut head);
        let tenant = slug(Tenant::parse(&tenant), &root.key("tenant"), &mut head);
        if idempotency_key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
            let message = format!("is longer than {IDEMPOTENCY_KEY_BYTES_MAX} bytes");
            head.add(&root.key("idempotency_key"), message);
        }
        let trace_id = trace_id(&trace_parent);
        if trace_id.is_none() {
            head.add(&root.key("trace_parent"), "is not a W3C traceparent");
        }
        let served = match &job_type {
            Some(job_type) => Some(self.registry.get(job_type).ok_or_else(|| unsupported(job_type))?),
            None => None,
        };

        let mut found = head;
        let parsed = !matches!(source, Source::Fields(_));
        let external = served.as_ref().map(|(_, settings)| settings.external);
        let manifest = match read(source, &mut found)? {
            Ok(raw) => {
                let rules = Rules { external, buckets: &self.buckets, pools: &self.options.proxy_pools, parsed };
                check::check(raw, &rules, &mut found)
            }
            Err(violation) => {
                found.add(&root.key(&violation.path), violation.message);
                Manifest::default()
            }
        };
        let (Some(job_type), Some(tenant), Some(trace_id), Some((handler, settings)), true) =
            (job_type, tenant, trace_id, served, found.is_empty())
        else {
            return Err(found.into_refusal());
        };
        let idempotency = (!idempotency_key.is_empty()).then(|| Idempotency {
            key: canon::key_hash(&tenant, &job_type, &idempotency_key),
            body: canon::body_hash(&manifest),
        });
        Ok(Accepted { job_type, tenant, priority, trace_id, idempotency, manifest, handler, settings })
    }

    /// Calls the handler's hooks and looks at what they gave.
    async fn plan(
        &self,
        job_type: &JobType,
        job: &str,
        manifest: Manifest,
        handler: &dyn JobHandler,
        settings: &TypeSettings,
    ) -> Result<Planned, Refusal> {
        let limit = settings.timeout();
        let mut manifest = run_hook(limit, async { handler.prepare(manifest, settings).await })
            .await
            .map_err(|error| refused_by(job_type, "prepare", error))?;
        if handler.changes_manifest() {
            manifest = self.recheck(manifest, job_type, settings)?;
        }
        let tasks = run_hook(limit, async { handler.build_tasks(&manifest, settings).await })
            .await
            .map_err(|error| refused_by(job_type, "build_tasks", error))?;
        let storage_prefix = self.options.key_prefix.as_str();
        let external = settings.external;
        let manifest_key =
            if external { String::new() } else { manifest_key(storage_prefix, &manifest, job_type, job) };
        let ground = Ground {
            job_type,
            job,
            external,
            storage_prefix,
            bucket: &self.options.bucket,
            buckets: &self.buckets,
            own_bucket: settings.storage.bucket.as_deref(),
            manifest_key: &manifest_key,
        };
        vet::vet(&tasks, &manifest, &ground)?;
        Ok(Planned { manifest, tasks, manifest_key })
    }

    /// A handler may change the manifest, and what it made must pass for one that a client could have sent.
    fn recheck(&self, manifest: Manifest, job_type: &JobType, settings: &TypeSettings) -> Result<Manifest, Refusal> {
        let text = String::from_utf8(manifest_json(&manifest)).unwrap_or_default();
        let mut found = Found::default();
        let rules = Rules {
            external: Some(settings.external),
            buckets: &self.buckets,
            pools: &self.options.proxy_pools,
            parsed: true,
        };
        let again = json::parse(&text, &mut found).map(|raw| check::check(raw, &rules, &mut found));
        let faults = found.into_violations();
        let fault = faults.first().map(|fault| format!("{} {}", fault.path, fault.message));
        match (again, fault) {
            (Ok(again), None) if again == manifest => Ok(manifest),
            (Ok(_), None) => Err(unfit(job_type, "texts that are not what they should be")),
            (Ok(_), Some(fault)) => Err(unfit(job_type, &fault)),
            (Err(broken), _) => Err(unfit(job_type, &broken.message)),
        }
    }
}

fn slug<T, E>(parsed: Result<T, E>, at: &Path<'_>, found: &mut Found) -> Option<T> {
    if parsed.is_err() {
        found.add(at, "must match [a-z0-9][a-z0-9._-]{0,63}");
    }
    parsed.ok()
}

/// The outer error ends the submission; the inner one is a violation among others.
fn read(source: Source, found: &mut Found) -> Result<Result<RawManifest, Violation>, Refusal> {
    let body = match source {
        Source::Json(body) => body,
        Source::JsonGzip(packed) => match gzip::inflate(&packed, MANIFEST_BYTES_MAX) {
            Ok(body) => body,
            Err(GzipFault::TooLarge) => return Err(too_large()),
            Err(GzipFault::Broken(why)) => {
                let message = format!("is not valid gzip: {why}");
                return Ok(Err(Violation { path: "manifest".to_owned(), message }));
            }
        },
        Source::Fields(raw) if raw.text_bytes() > MANIFEST_BYTES_MAX => return Err(too_large()),
        Source::Fields(raw) => return Ok(Ok(*raw)),
    };
    if body.len() > MANIFEST_BYTES_MAX {
        return Err(too_large());
    }
    let text = match std::str::from_utf8(&body) {
        Ok(text) => text,
        Err(error) => {
            let message = format!("is not UTF-8 from byte {} on", error.valid_up_to());
            return Ok(Err(Violation { path: "manifest".to_owned(), message }));
        }
    };
    Ok(json::parse(text, found))
}

fn too_large() -> Refusal {
    let message = format!("the manifest is larger than {MANIFEST_BYTES_MAX} bytes after decompression");
    Refusal::new(RefusalCode::PayloadTooLarge, message)
}

fn unsupported(job_type: &JobType) -> Refusal {
    Refusal::new(RefusalCode::UnsupportedJobType, format!("job type {job_type} is not configured here"))
}

fn unfit(job_type: &JobType, what: &str) -> Refusal {
    let message = format!("the handler of job type {job_type} made a manifest that is not valid: {what}");
    Refusal::new(RefusalCode::Handler, message)
}

/// A manifest the handler will never take is the client's to change; everything else is ours.
fn refused_by(job_type: &JobType, hook: &str, error: HandlerError) -> Refusal {
    if error.retryable {
        tracing::warn!(%job_type, hook, error = error.message, "a handler failed");
        let message = format!("the handler of job type {job_type} failed in {hook}: {}", error.message);
        return Refusal::new(RefusalCode::Handler, message);
    }
    Refusal::invalid("manifest", format!("is refused by the handler of job type {job_type}: {}", error.message))
}

/// The trace id of a W3C traceparent; empty for an empty one, None for one that is not well-formed.
fn trace_id(trace_parent: &str) -> Option<String> {
    if trace_parent.is_empty() {
        return Some(String::new());
    }
    let mut parts = trace_parent.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let zero = |text: &str| text.bytes().all(|b| b == b'0');
    let well_formed = hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    // Later versions may append parts; version 00 has exactly four.
    let complete = version != "ff" && (version != "00" || parts.next().is_none()) && trace_parent.len() <= 256;
    (well_formed && complete && !zero(trace) && !zero(parent)).then(|| trace.to_owned())
}
