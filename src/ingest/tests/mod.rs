//! The in-door without a store.

mod same;
mod submit;
mod wrong;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::FutureExt as _;

use super::admit::Intake;
use super::{Options, Source, Submission, Validation};
use crate::clock::{Clock, JobIds};
use crate::handler::{JobHandler, Registry, TypeSettings};
use crate::model::{JobId, Priority, Refusal};
use crate::store::NewJob;

fn intake_with(options: Options, registry: Registry) -> Intake {
    let clock = Clock::manual(1_800_000_000_000);
    Intake::new(options, registry, clock.clone(), Arc::new(JobIds::new(clock, JobId::MIN)))
}

/// With job type `external`, bucket `allowed` and pool `eu` besides the defaults.
fn intake() -> Intake {
    let external = TypeSettings { external: true, ..TypeSettings::default() };
    let gallery = TypeSettings { handler: "gallery".into(), ..TypeSettings::default() };
    let types = BTreeMap::from([("external".to_owned(), external), ("gallery".to_owned(), gallery)]);
    let options = Options {
        allowed_buckets: BTreeSet::from(["allowed".to_owned()]),
        proxy_pools: BTreeSet::from(["eu".to_owned()]),
        ..Options::default()
    };
    intake_with(options, Registry::new(types, []).unwrap())
}

fn intake_of(handler: impl JobHandler + 'static) -> Intake {
    let mut registry = Registry::default();
    registry.register("default", Arc::new(handler));
    intake_with(Options::default(), registry)
}

fn submission(source: Source) -> Submission {
    Submission {
        job_type: String::new(),
        tenant: String::new(),
        idempotency_key: String::new(),
        trace_parent: String::new(),
        priority: Priority::Normal,
        source,
    }
}

fn json(text: impl Into<String>) -> Submission {
    submission(Source::Json(text.into().into_bytes()))
}

fn keyed(source: Source) -> Submission {
    Submission { idempotency_key: "k".into(), ..submission(source) }
}

/// Built-in handlers await nothing, so that one poll is enough.
fn prepare(submission: Submission) -> Result<NewJob, Refusal> {
    intake().prepare(submission).now_or_never().expect("ready at the first poll")
}

fn validate(submission: Submission) -> Validation {
    intake().validate(submission).now_or_never().expect("ready at the first poll").unwrap()
}

fn paths(prepared: Result<NewJob, Refusal>) -> Vec<String> {
    prepared.unwrap_err().violations.into_iter().map(|violation| violation.path).collect()
}

fn with_resource(fields: &str) -> Submission {
    json(format!(r#"{{"manifest_version":"v1","resources":[{{"id":"a","url":"http://h/"{fields}}}]}}"#))
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}
