//! From an attempt's outcome to what is written about it: the task's end and the line in the job's log.
//!
//! Pure: time and jitter come in. Must not know: who runs attempts, how a settlement is stored.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use base16ct::lower;

use super::backoff::{Policy, Verdict};
use super::lane::{JobPart, Lane};
use super::parking::Parking;
use crate::model::{Failure, FailureCode, JobId, LogLevel, NewLog, RetryClass, StoredObject, Way, clean_text, grouped};
use crate::store::{End, Lease, Settlement};
use crate::worker::{Outcome, Stored};

/// Manifests that failed and are waited for; beyond it their backoff starts anew.
const MANIFEST_TRIES_MAX: usize = 10_000;

/// An attempt that runs or has run.
#[derive(Debug, Clone)]
pub(super) struct Attempted {
    pub lease: Lease,
    pub job: Arc<JobPart>,
    pub lane: Arc<Lane>,
    /// Empty for the manifest's own task.
    pub resource_id: String,
    pub started_at_ms: i64,
}

/// Decides how attempts end.
#[derive(Debug)]
pub(super) struct Judge {
    policy: Policy,
    pub parking: Parking,
    /// A manifest's attempts are not counted by the store, for no budget ends them: its backoff counts here.
    manifest_tries: HashMap<JobId, u32>,
}

impl Judge {
    pub fn new(policy: Policy, parking: Parking) -> Self {
        Self { policy, parking, manifest_tries: HashMap::new() }
    }

    pub fn settlement(&mut self, attempted: &Attempted, outcome: Outcome, now_ms: i64, unit: f64) -> Settlement {
        let end = self.end_of(attempted, outcome, now_ms, unit);
        let log = log_line(attempted, &end, now_ms);
        Settlement {
            task: attempted.lease.task,
            epoch: attempted.lease.epoch,
            now_ms,
            started_at_ms: attempted.started_at_ms,
            end,
            log: Some(log),
        }
    }

    /// It was leased and did not begin: there is nothing to tell of it.
    pub fn given_back(&mut self, attempted: &Attempted, now_ms: i64) -> Settlement {
        self.parking.ended(attempted.lease.task);
        Settlement {
            task: attempted.lease.task,
            epoch: attempted.lease.epoch,
            now_ms,
            started_at_ms: attempted.started_at_ms,
            end: End::Released { failure: None, not_before_ms: now_ms },
            log: None,
        }
    }

    fn end_of(&mut self, attempted: &Attempted, outcome: Outcome, now_ms: i64, unit: f64) -> End {
        let task = attempted.lease.task;
        match outcome {
            Outcome::Stored(stored) => {
                // What stood there already says that the store can be read, not that it takes anything.
                if was_written(&stored) {
                    self.parking.succeeded();
                } else {
                    self.parking.ended(task);
                }
                self.manifest_tries.remove(&task.job);
                if task.is_manifest() { End::ManifestStored } else { stored_end(*stored, attempted, now_ms) }
            }
            Outcome::Failed { failure, retry_after } => {
                let failure = completed(failure, attempted, now_ms);
                self.failed(&attempted.lease, failure, retry_after, now_ms, unit)
            }
            Outcome::Released => {
                self.parking.ended(task);
                let failure = Failure::new(FailureCode::SystemInterrupted, "the daemon stopped while the attempt ran");
                End::Released { failure: Some(completed(failure, attempted, now_ms)), not_before_ms: now_ms }
            }
        }
    }

    fn failed(
        &mut self,
        lease: &Lease,
        failure: Failure,
        retry_after: Option<Duration>,
        now_ms: i64,
        unit: f64,
    ) -> End {
        let task = lease.task;
        let verdict = self.policy.verdict(failure.code, lease.tried, retry_after, now_ms, unit);
        if verdict == Verdict::Park {
            let not_before_ms = self.parking.refused(task, &failure, now_ms);
            return End::Released { failure: Some(failure), not_before_ms };
        }
        self.parking.ended(task);
        // It is never given up while it may be stored some day.
        if task.is_manifest() && failure.code.class() != RetryClass::Permanent {
            let not_before_ms = now_ms.saturating_add(self.manifest_wait_ms(task.job, unit));
            return End::Released { failure: Some(failure), not_before_ms };
        }
        if task.is_manifest() {
            self.manifest_tries.remove(&task.job);
        }
        match verdict {
            Verdict::Retry { not_before_ms } => End::Retry { failure, not_before_ms },
            Verdict::Dead | Verdict::Park => End::Dead(failure),
        }
    }

    fn manifest_wait_ms(&mut self, job: JobId, unit: f64) -> i64 {
        if self.manifest_tries.len() >= MANIFEST_TRIES_MAX {
            self.manifest_tries.clear();
        }
        let tries = self.manifest_tries.entry(job).or_default();
        *tries = tries.saturating_add(1);
        self.policy.wait_ms(*tries, unit)
    }
}

fn was_written(stored: &Stored) -> bool {
    !["not_changed", "reused", "found"].iter().any(|how| stored.context.contains_key(*how))
}

/// A panic in an attempt, as a failure of it.
pub(super) fn panicked(what: &str) -> Outcome {
    Outcome::Failed {
        failure: Failure::new(FailureCode::SystemPanic, format!("the attempt panicked: {what}")),
        retry_after: None,
    }
}

/// What the worker need not know about its attempt.
fn completed(mut failure: Failure, attempted: &Attempted, now_ms: i64) -> Failure {
    failure.resource_id.clone_from(&attempted.resource_id);
    failure.attempt = attempted.lease.attempt;
    if failure.at_ms == 0 {
        failure.at_ms = now_ms;
    }
    if let Some(host) = &attempted.lane.host {
        failure.context.entry("host".to_owned()).or_insert_with(|| host.to_string());
    }
    failure
}

/// The same for one that ended well.
fn stored_end(stored: Stored, attempted: &Attempted, now_ms: i64) -> End {
    let Stored { object, validators, mut context } = stored;
    context.values_mut().for_each(|value| *value = clean_text(value));
    context.insert("took_ms".to_owned(), took_ms(attempted, now_ms).to_string());
    if let Some(host) = &attempted.lane.host {
        context.entry("host".to_owned()).or_insert_with(|| host.to_string());
    }
    End::Stored { object, validators, context }
}

fn took_ms(attempted: &Attempted, now_ms: i64) -> i64 {
    now_ms.saturating_sub(attempted.started_at_ms).max(0)
}

/// One line for each attempt, at its end. No URL in it shows more than it may.
fn log_line(attempted: &Attempted, end: &End, now_ms: i64) -> NewLog {
    let mut fields = BTreeMap::new();
    let mut field = |key: &str, value: String| drop(fields.insert(key.to_owned(), value));
    field("attempt", attempted.lease.attempt.to_string());
    field("took_ms", took_ms(attempted, now_ms).to_string());
    if let Some(host) = &attempted.lane.host {
        field("host", host.to_string());
    }
    let mut failed = |failure: &Failure| {
        for (key, value) in &failure.context {
            field(key, clean_text(value));
        }
        field("code", failure.code.as_str().to_owned());
    };
    let (level, message) = match end {
        End::Stored { object, validators: _, context } => {
            for (key, value) in context {
                field(key, value.clone());
            }
            let way = Way(context);
            let received = way.bytes_received(object.size_bytes);
            if received != object.size_bytes {
                field("bytes_received", received.to_string());
            }
            field("bytes", object.size_bytes.to_string());
            field("sha256", lower::encode_string(&object.sha256));
            field("bucket", object.bucket.clone());
            field("key", object.key.clone());
            (LogLevel::Info, stored_words(object, way))
        }
        End::ManifestStored => {
            field("bucket", attempted.job.manifest_bucket.clone());
            field("key", attempted.job.manifest_key.clone());
            let place = format!("{}/{}", attempted.job.manifest_bucket, attempted.job.manifest_key);
            (LogLevel::Info, format!("manifest stored as {place}"))
        }
        End::Retry { failure, not_before_ms } => {
            failed(failure);
            field("next_attempt_ms", not_before_ms.to_string());
            let asked = match failure.code.class() {
                RetryClass::Throttled => ", as the origin asked",
                RetryClass::Transient | RetryClass::Unlikely | RetryClass::Permanent | RetryClass::Parked => "",
            };
            let wait = seconds(not_before_ms.saturating_sub(now_ms));
            (LogLevel::Warn, format!("{}; next attempt in {wait}{asked}", clean(failure)))
        }
        End::Released { failure: Some(failure), .. } if failure.code == FailureCode::SystemInterrupted => {
            failed(failure);
            (LogLevel::Info, format!("{}; it is made again and does not count", failure.message))
        }
        End::Released { failure: Some(failure), not_before_ms } => {
            failed(failure);
            field("next_attempt_ms", not_before_ms.to_string());
            let wait = seconds(not_before_ms.saturating_sub(now_ms));
            (LogLevel::Warn, format!("{}; asks again in {wait}, and the attempt does not count", clean(failure)))
        }
        End::Released { failure: None, .. } => (LogLevel::Info, "the attempt did not begin".to_owned()),
        End::Dead(failure) => {
            failed(failure);
            let attempts = match attempted.lease.attempt {
                1 => "1 attempt".to_owned(),
                many => format!("{many} attempts"),
            };
            (LogLevel::Error, format!("{}; given up after {attempts}", clean(failure)))
        }
    };
    NewLog {
        resource_id: attempted.resource_id.clone(),
        level,
        timestamp_ms: now_ms,
        message,
        fields,
        trace_id: attempted.job.trace_id.clone(),
    }
}

/// "stored 1,048,576 bytes as b/k, through proxy eu, resumed at byte 524,288"
fn stored_words(object: &StoredObject, way: Way<'_>) -> String {
    let (bytes, place) = (grouped(object.size_bytes), format!("{}/{}", object.bucket, object.key));
    let mut message = if way.is_not_changed() {
        format!("not changed since {bytes} bytes were stored as {place}: nothing was downloaded")
    } else {
        format!("stored {bytes} bytes as {place}")
    };
    let way = way.to_string();
    if !way.is_empty() {
        let _ = write!(message, ", {way}");
    }
    message
}

fn clean(failure: &Failure) -> String {
    clean_text(&failure.to_string())
}

fn seconds(ms: i64) -> String {
    format!("{:.1} s", Duration::from_millis(ms.max(0).unsigned_abs()).as_secs_f64())
}

/// Tells the daemon's own log what was settled: what was given up as a warning, everything else for those who look for it.
pub(super) fn tell(settlement: &Settlement) {
    let Settlement { task, started_at_ms, now_ms, end, log: Some(log), .. } = settlement else { return };
    let took_ms = now_ms.saturating_sub(*started_at_ms).max(0);
    let (job_id, task_id, trace_id, resource) = (task.job, task, &log.trace_id, &log.resource_id);
    let attempt = log.fields.get("attempt").map_or("", String::as_str);
    let host = log.fields.get("host").map_or("", String::as_str);
    let code = log.fields.get("code").map_or("", String::as_str);
    match end {
        End::Dead(_) => {
            tracing::warn!(%job_id, %task_id, resource, attempt, trace_id, host, code, took_ms, "{}", log.message);
        }
        End::Stored { .. } | End::ManifestStored | End::Retry { .. } | End::Released { .. } => {
            tracing::debug!(%job_id, %task_id, resource, attempt, trace_id, host, code, took_ms, "{}", log.message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::parking::Allowance;
    use crate::model::{JobType, Priority, TaskIndex, TaskRef};
    use crate::store::{TenantKey, Tried};

    fn judge() -> Judge {
        let policy = Policy {
            attempts_max: 5,
            upload_attempts_max: 8,
            unlikely_attempts_max: 2,
            throttled_attempts_max: 20,
            min_ms: 1_000,
            max_ms: 300_000,
        };
        Judge::new(policy, Parking::new(1_000, 60_000))
    }

    fn attempted(index: TaskIndex, attempt: u32) -> Attempted {
        let task = TaskRef { job: JobId::first_at_ms(1), index };
        let job = JobPart {
            job_type: JobType::default(),
            tenant: TenantKey(0),
            parallel_max: 0,
            priority: Priority::Normal,
            trace_id: "t".to_owned(),
            manifest_bucket: "b".to_owned(),
            manifest_key: "m".to_owned(),
        };
        let lane = Lane { host: Some("a:80".into()), tenant: TenantKey(0), job_type: JobType::default(), own: None };
        Attempted {
            lease: Lease { task, epoch: 7, attempt, tried: Tried::default() },
            job: Arc::new(job),
            lane: Arc::new(lane),
            resource_id: "r".to_owned(),
            started_at_ms: 500,
        }
    }

    fn fail(code: FailureCode) -> Outcome {
        Outcome::Failed { failure: Failure::new(code, "x"), retry_after: None }
    }

    #[test]
    fn a_manifest_is_not_given_up_while_the_store_may_take_it_some_day() {
        let mut judge = judge();
        let mut last = 0;
        for _ in 0..30 {
            let end =
                judge.settlement(&attempted(TaskIndex::MANIFEST, 1), fail(FailureCode::UploadFailed), 1_000, 1.0).end;
            let End::Released { failure: Some(_), not_before_ms } = end else { panic!("{end:?}") };
            assert!(not_before_ms >= last, "waits grow although the store counts no attempts");
            last = not_before_ms;
        }
        let stored = judge.settlement(&attempted(TaskIndex::MANIFEST, 1), Outcome::Stored(Box::default()), 1_000, 1.0);
        assert!(matches!(stored.end, End::ManifestStored));
        // However small the budget is, only a refusal for good is one.
        judge.policy.upload_attempts_max = 1;
        let end = judge.settlement(&attempted(TaskIndex::MANIFEST, 1), fail(FailureCode::UploadFailed), 1_000, 1.0).end;
        assert!(matches!(end, End::Released { .. }), "{end:?}");
        // Else its job would never end.
        let refused =
            judge.settlement(&attempted(TaskIndex::MANIFEST, 1), fail(FailureCode::UploadRejected), 1_000, 1.0);
        assert!(matches!(refused.end, End::Dead(_)), "{:?}", refused.end);
    }

    #[test]
    fn the_log_says_when_it_is_tried_again_and_why_not() {
        let mut judge = judge();
        let retried = judge.settlement(&attempted(TaskIndex(0), 1), fail(FailureCode::DownloadServerError), 1_000, 0.0);
        assert!(matches!(retried.end, End::Retry { not_before_ms: 2_000, .. }), "{:?}", retried.end);
        let log = retried.log.unwrap();
        assert_eq!(log.level, LogLevel::Warn);
        assert_eq!(log.fields.get("next_attempt_ms").unwrap(), "2000");
        assert_eq!(log.fields.get("took_ms").unwrap(), "500");

        let dead = judge.settlement(&attempted(TaskIndex(0), 1), fail(FailureCode::DownloadNotFound), 1_000, 0.0);
        let End::Dead(failure) = &dead.end else { panic!("{:?}", dead.end) };
        assert_eq!((failure.host(), failure.attempt, failure.resource_id.as_str()), ("a:80", 1, "r"));
        assert_eq!(dead.log.unwrap().level, LogLevel::Error);
    }

    #[test]
    fn the_log_says_how_a_resource_came_to_its_place() {
        let object = StoredObject { bucket: "b".into(), key: "k".into(), size_bytes: 1_048_576, ..Default::default() };
        let stored = |context: &[(&str, &str)]| {
            let context = context.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let outcome = Outcome::Stored(Box::new(Stored { object: object.clone(), context, ..Stored::default() }));
            judge().settlement(&attempted(TaskIndex(0), 2), outcome, 1_000, 0.0)
        };
        let plain = stored(&[]);
        assert_eq!(plain.log.unwrap().message, "stored 1,048,576 bytes as b/k");
        let End::Stored { context, .. } = plain.end else { panic!("{:?}", plain.end) };
        assert_eq!((context["took_ms"].as_str(), context["host"].as_str()), ("500", "a:80"));

        let resumed = [("proxy", "eu"), ("continued_at", "524288"), ("host", "cdn:443")];
        let log = stored(&resumed).log.unwrap();
        assert_eq!(
            log.message,
            "stored 1,048,576 bytes as b/k, through proxy eu, continued at byte 524,288 with what an earlier attempt had stored"
        );
        let fields = ["host", "proxy", "bytes", "bytes_received", "continued_at"].map(|key| log.fields[key].as_str());
        assert_eq!(fields, ["cdn:443", "eu", "1048576", "524288", "524288"]);
        let unchanged = stored(&[("not_changed", "true")]).log.unwrap().message;
        assert_eq!(unchanged, "not changed since 1,048,576 bytes were stored as b/k: nothing was downloaded");
        let reused = stored(&[("reused", "true")]).log.unwrap().message;
        assert_eq!(reused, "stored 1,048,576 bytes as b/k, the same bytes were there already");
    }

    #[test]
    fn no_secret_of_a_url_gets_into_the_log() {
        let failure = Failure::new(FailureCode::DownloadNotFound, "GET http://u:pw@h/x?sig=s3cret is gone")
            .with("url", "http://h/x?sig=s3cret");
        let outcome = Outcome::Failed { failure, retry_after: None };
        let log = judge().settlement(&attempted(TaskIndex(0), 2), outcome, 1_000, 0.0).log.unwrap();
        assert_eq!(log.message, "DOWNLOAD_NOT_FOUND: GET http://h/x?… is gone; given up after 2 attempts");
        assert!(!format!("{log:?}").contains("s3cret"), "{log:?}");
    }

    #[test]
    fn a_full_store_parks_instead_of_filling_the_dead_letters() {
        let mut judge = judge();
        let end = judge.settlement(&attempted(TaskIndex(0), 99), fail(FailureCode::StorageFull), 1_000, 0.0).end;
        assert!(matches!(end, End::Released { failure: Some(_), not_before_ms: 2_000 }), "{end:?}");
        assert!(judge.parking.alarm().contains("STORAGE_FULL"));
        // Else all attempts start again and download what a full store refuses once more.
        for how in ["not_changed", "reused", "found"] {
            let context = [(how.to_owned(), "true".to_owned())].into();
            let there = Outcome::Stored(Box::new(Stored { context, ..Stored::default() }));
            judge.parking.probing(attempted(TaskIndex(1), 1).lease.task, 2_000);
            judge.settlement(&attempted(TaskIndex(1), 1), there, 3_000, 0.0);
            assert!(!judge.parking.alarm().is_empty(), "{how}");
            assert_eq!(judge.parking.allowance(3_000), Allowance::One, "{how}: another one may probe");
        }
        judge.settlement(&attempted(TaskIndex(1), 1), Outcome::Stored(Box::default()), 4_000, 0.0);
        assert_eq!(judge.parking.allowance(4_000), Allowance::All);
    }
}
