//! Manifests as clients write them.

use serde_json::{Value, json};

use super::pb;

/// One resource; more keys with `with`.
#[derive(Clone)]
pub struct Resource(pub Value);

pub fn resource(id: &str, url: &str) -> Resource {
    Resource(json!({ "id": id, "url": url }))
}

impl Resource {
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0[key] = value.into();
        self
    }
}

pub fn document(resources: &[Resource]) -> Value {
    let resources: Vec<&Value> = resources.iter().map(|resource| &resource.0).collect();
    json!({ "manifest_version": "v1", "metadata": { "made_by": "a test" }, "resources": resources })
}

pub fn submission(resources: &[Resource]) -> pb::SubmitJobRequest {
    raw(document(resources).to_string())
}

pub fn raw(json: impl Into<Vec<u8>>) -> pb::SubmitJobRequest {
    let source = Some(pb::submit_job_request::Source::ManifestJson(json.into()));
    pb::SubmitJobRequest { source, ..Default::default() }
}

pub fn keyed(mut request: pb::SubmitJobRequest, key: &str) -> pb::SubmitJobRequest {
    request.idempotency_key = key.to_owned();
    request
}

pub fn typed(mut request: pb::SubmitJobRequest, job_type: &str) -> pb::SubmitJobRequest {
    request.job_type = job_type.to_owned();
    request
}

/// `http://host:port/a/b` → `/a/b`.
pub fn path_of(url: &str) -> &str {
    let host_on = url.split_once("//").map_or("", |(_, rest)| rest);
    host_on.find('/').map_or("/", |at| &host_on[at..])
}
