//! A job's manifest and planned tasks. A task that is a plain copy of its resource is written as nothing.

use prost::Message;

use super::{Pairs, damaged, digest};
use crate::model::{Header, Manifest, ProxyHint, Refusal, Resource, StorageHint, StorageLayout, TaskSpec};

#[derive(Clone, PartialEq, Message)]
pub struct SpecRow {
    #[prost(string, tag = "1")]
    pub metadata_json: String,
    #[prost(string, tag = "2")]
    pub attributes_json: String,
    #[prost(message, repeated, tag = "3")]
    pub resources: Vec<TaskSpecRow>,
    #[prost(string, optional, tag = "4")]
    pub manifest_file: Option<String>,
    #[prost(string, optional, tag = "5")]
    pub resource_key_prefix: Option<String>,
    /// Empty: one task per resource, each a copy.
    #[prost(message, repeated, tag = "6")]
    pub tasks: Vec<TaskSpecRow>,
}

#[derive(Clone, PartialEq, Message)]
pub struct HeaderRow {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// A resource, or a planned task: they have the same fields.
#[derive(Clone, PartialEq, Message)]
pub struct TaskSpecRow {
    #[prost(string, tag = "1")]
    pub resource_id: String,
    #[prost(string, tag = "2")]
    pub url: String,
    #[prost(message, repeated, tag = "3")]
    pub headers: Vec<HeaderRow>,
    #[prost(btree_map = "string, string", tag = "4")]
    pub tags: Pairs,
    #[prost(bytes = "vec", optional, tag = "5")]
    pub checksum: Option<Vec<u8>>,
    #[prost(string, optional, tag = "6")]
    pub mime_hint: Option<String>,
    #[prost(uint64, optional, tag = "7")]
    pub max_bytes: Option<u64>,
    #[prost(string, optional, tag = "8")]
    pub proxy_pool: Option<String>,
    #[prost(string, repeated, tag = "9")]
    pub proxy_fallbacks: Vec<String>,
    #[prost(string, optional, tag = "10")]
    pub bucket: Option<String>,
    #[prost(string, optional, tag = "11")]
    pub key_prefix: Option<String>,
    #[prost(btree_map = "string, string", tag = "12")]
    pub object_metadata: Pairs,
    /// A resource came with a storage hint, even an empty one.
    #[prost(bool, tag = "13")]
    pub has_storage_hint: bool,
    #[prost(bool, tag = "14")]
    pub content_addressed: bool,
    #[prost(bool, tag = "15")]
    pub revalidate: bool,
}

impl TaskSpecRow {
    pub fn from_spec(spec: &TaskSpec) -> Self {
        Self {
            resource_id: spec.resource_id.clone(),
            url: spec.url.clone(),
            headers: spec.headers.iter().map(HeaderRow::from_header).collect(),
            tags: spec.tags.clone(),
            checksum: spec.checksum.map(|sum| sum.to_vec()),
            mime_hint: spec.mime_hint.clone(),
            max_bytes: spec.max_bytes,
            proxy_pool: spec.proxy_hint.as_ref().map(|hint| hint.primary_pool.clone()),
            proxy_fallbacks: spec.proxy_hint.as_ref().map(|hint| hint.fallbacks.clone()).unwrap_or_default(),
            bucket: spec.bucket.clone(),
            key_prefix: spec.key_prefix.clone(),
            object_metadata: spec.object_metadata.clone(),
            has_storage_hint: false,
            content_addressed: spec.content_addressed,
            revalidate: spec.revalidate,
        }
    }

    fn from_resource(resource: &Resource) -> Self {
        let hint = resource.storage_hint.clone();
        Self { has_storage_hint: hint.is_some(), ..Self::from_spec(&copy_of(resource)) }
    }

    pub fn into_spec(self) -> Result<TaskSpec, Refusal> {
        let fallbacks = self.proxy_fallbacks;
        Ok(TaskSpec {
            resource_id: self.resource_id,
            url: self.url,
            headers: self.headers.into_iter().map(|h| Header { name: h.name, value: h.value }).collect(),
            tags: self.tags,
            checksum: self.checksum.map(|sum| digest("checksum", &sum)).transpose()?,
            mime_hint: self.mime_hint,
            max_bytes: self.max_bytes,
            proxy_hint: self.proxy_pool.map(|primary_pool| ProxyHint { primary_pool, fallbacks }),
            bucket: self.bucket,
            key_prefix: self.key_prefix,
            object_metadata: self.object_metadata,
            content_addressed: self.content_addressed,
            revalidate: self.revalidate,
        })
    }

    fn into_resource(self) -> Result<Resource, Refusal> {
        let has_hint = self.has_storage_hint;
        let spec = self.into_spec()?;
        let hint = StorageHint {
            bucket: spec.bucket,
            key_prefix: spec.key_prefix,
            metadata: spec.object_metadata,
            content_addressed: spec.content_addressed,
        };
        Ok(Resource {
            id: spec.resource_id,
            url: spec.url,
            headers: spec.headers,
            tags: spec.tags,
            checksum: spec.checksum,
            mime_hint: spec.mime_hint,
            max_bytes: spec.max_bytes,
            storage_hint: has_hint.then_some(hint),
            proxy_hint: spec.proxy_hint,
            revalidate: spec.revalidate,
        })
    }
}

impl HeaderRow {
    fn from_header(header: &Header) -> Self {
        Self { name: header.name.clone(), value: header.value.clone() }
    }
}

/// The task that does exactly what the resource says.
fn copy_of(resource: &Resource) -> TaskSpec {
    let hint = resource.storage_hint.clone().unwrap_or_default();
    TaskSpec {
        resource_id: resource.id.clone(),
        url: resource.url.clone(),
        headers: resource.headers.clone(),
        tags: resource.tags.clone(),
        checksum: resource.checksum,
        mime_hint: resource.mime_hint.clone(),
        max_bytes: resource.max_bytes,
        proxy_hint: resource.proxy_hint.clone(),
        bucket: hint.bucket,
        key_prefix: hint.key_prefix,
        object_metadata: hint.metadata,
        content_addressed: hint.content_addressed,
        revalidate: resource.revalidate,
    }
}

impl SpecRow {
    pub fn new(manifest: &Manifest, tasks: &[TaskSpec]) -> Self {
        let copies = manifest.resources.len() == tasks.len()
            && manifest.resources.iter().zip(tasks).all(|(resource, task)| copy_of(resource) == *task);
        Self {
            metadata_json: manifest.metadata_json.clone(),
            attributes_json: manifest.attributes_json.clone(),
            resources: manifest.resources.iter().map(TaskSpecRow::from_resource).collect(),
            manifest_file: manifest.storage.manifest_file.clone(),
            resource_key_prefix: manifest.storage.resource_key_prefix.clone(),
            tasks: if copies { Vec::new() } else { tasks.iter().map(TaskSpecRow::from_spec).collect() },
        }
    }

    pub fn into_manifest(self) -> Result<Manifest, Refusal> {
        Ok(Manifest {
            metadata_json: self.metadata_json,
            attributes_json: self.attributes_json,
            resources: self.resources.into_iter().map(TaskSpecRow::into_resource).collect::<Result<_, _>>()?,
            storage: StorageLayout { manifest_file: self.manifest_file, resource_key_prefix: self.resource_key_prefix },
        })
    }

    pub fn into_tasks(self) -> Result<Vec<TaskSpec>, Refusal> {
        let rows = if self.tasks.is_empty() { self.resources } else { self.tasks };
        rows.into_iter().map(TaskSpecRow::into_spec).collect()
    }

    /// One planned task.
    pub fn task(&self, index: usize) -> Result<TaskSpec, Refusal> {
        let rows = if self.tasks.is_empty() { &self.resources } else { &self.tasks };
        rows.get(index).cloned().ok_or_else(|| damaged(format!("task {index} of a job")))?.into_spec()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn manifest() -> Manifest {
        let hint = StorageHint {
            bucket: None,
            key_prefix: Some("a/b".into()),
            metadata: BTreeMap::new(),
            content_addressed: true,
        };
        let resource = |id: &str, storage_hint| Resource {
            id: id.into(),
            url: format!("https://example.com/{id}"),
            headers: vec![Header { name: "x".into(), value: "y".into() }],
            checksum: Some([7; 32]),
            max_bytes: Some(9),
            revalidate: id == "c",
            storage_hint,
            ..Resource::default()
        };
        Manifest {
            metadata_json: "{ \"a\" : 1 }".into(),
            attributes_json: "{}".into(),
            resources: vec![
                resource("a", None),
                resource("b", Some(hint)),
                resource("c", Some(StorageHint::default())),
            ],
            storage: StorageLayout::default(),
        }
    }

    #[test]
    fn a_manifest_reads_back_as_it_was_accepted() {
        let manifest = manifest();
        let tasks: Vec<TaskSpec> = manifest.resources.iter().map(copy_of).collect();
        let row = SpecRow::new(&manifest, &tasks);
        assert!(row.tasks.is_empty(), "copies cost nothing");
        assert_eq!(row.clone().into_tasks().unwrap(), tasks);
        assert_eq!(row.into_manifest().unwrap(), manifest);
    }

    #[test]
    fn a_handlers_own_plan_reads_back() {
        let manifest = manifest();
        let tasks = vec![TaskSpec { resource_id: "z".into(), url: "http://z".into(), ..TaskSpec::default() }];
        let row = SpecRow::new(&manifest, &tasks);
        assert_eq!(row.task(0).unwrap(), tasks[0]);
        assert!(row.task(1).is_err());
        assert_eq!(row.into_tasks().unwrap(), tasks);
    }
}
