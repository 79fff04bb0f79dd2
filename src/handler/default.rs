//! The default handler: one task for each resource.
//!
//! Owns: how a resource, the manifest's layout and the type's settings become a task. Must not know: keys, buckets' contents.

use async_trait::async_trait;

use super::settings::TypeSettings;
use super::{HandlerError, JobHandler};
use crate::model::{Header, Manifest, Resource, StorageLayout, TaskSpec};

/// Downloads what the manifest lists, with the job type's default headers, place and proxy where the manifest does not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct DefaultHandler;

#[async_trait]
impl JobHandler for DefaultHandler {
    async fn build_tasks(&self, manifest: &Manifest, settings: &TypeSettings) -> Result<Vec<TaskSpec>, HandlerError> {
        Ok(manifest.resources.iter().map(|resource| plan(resource, &manifest.storage, settings)).collect())
    }

    fn changes_manifest(&self) -> bool {
        false
    }
}

/// One resource's task. Who says first: the resource, the manifest's layout, the settings. A header of the manifest wins over
/// one of the same name in the settings.
pub fn plan(resource: &Resource, layout: &StorageLayout, settings: &TypeSettings) -> TaskSpec {
    let hint = resource.storage_hint.as_ref();
    let bucket = hint.and_then(|hint| hint.bucket.clone()).or_else(|| settings.storage.bucket.clone());
    let content_addressed = settings.storage.content_addressed || hint.is_some_and(|hint| hint.content_addressed);
    let key_prefix = hint
        .and_then(|hint| hint.key_prefix.clone())
        .or_else(|| layout.resource_key_prefix.clone())
        .or_else(|| settings.task_prefix(content_addressed));
    TaskSpec {
        resource_id: resource.id.clone(),
        url: resource.url.clone(),
        headers: merged_headers(resource, settings),
        tags: resource.tags.clone(),
        checksum: resource.checksum,
        mime_hint: resource.mime_hint.clone(),
        max_bytes: resource.max_bytes.or(settings.max_bytes),
        proxy_hint: resource.proxy_hint.clone().or_else(|| settings.proxy_hint()),
        bucket,
        key_prefix,
        object_metadata: hint.map(|hint| hint.metadata.clone()).unwrap_or_default(),
        content_addressed,
        revalidate: resource.revalidate || settings.revalidate,
    }
}

fn merged_headers(resource: &Resource, settings: &TypeSettings) -> Vec<Header> {
    let mut headers = Vec::with_capacity(resource.headers.len() + settings.headers.len());
    headers.extend_from_slice(&resource.headers);
    for (name, value) in &settings.headers {
        if !has_header(&resource.headers, name) {
            headers.push(Header { name: name.clone(), value: value.clone() });
        }
    }
    headers
}

pub(super) fn has_header(headers: &[Header], name: &str) -> bool {
    headers.iter().any(|header| header.name.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::handler::settings::{ProxySettings, StorageSettings};
    use crate::model::{ProxyHint, StorageHint};

    fn settings() -> TypeSettings {
        let mut settings = TypeSettings {
            storage: StorageSettings {
                bucket: Some("set".into()),
                key_prefix: Some("set".into()),
                ..StorageSettings::default()
            },
            max_bytes: Some(1_000),
            proxy: Some(ProxySettings { primary: "eu".into(), fallbacks: vec!["us".into()] }),
            ..TypeSettings::default()
        };
        settings.headers.insert("User-Agent".into(), "set".into());
        settings.headers.insert("X-Set".into(), "set".into());
        settings
    }

    #[test]
    fn what_the_manifest_says_wins_over_the_settings() {
        let resource = Resource {
            id: "a".into(),
            url: "http://example.org/".into(),
            headers: vec![Header { name: "user-agent".into(), value: "mine".into() }],
            storage_hint: Some(StorageHint { bucket: Some("mine".into()), ..StorageHint::default() }),
            proxy_hint: Some(ProxyHint { primary_pool: "mine".into(), fallbacks: vec![] }),
            ..Resource::default()
        };
        let task = plan(&resource, &StorageLayout::default(), &settings());
        let headers: Vec<(&str, &str)> = task.headers.iter().map(|h| (h.name.as_str(), h.value.as_str())).collect();
        assert_eq!(headers, [("user-agent", "mine"), ("X-Set", "set")]);
        assert_eq!(task.bucket.as_deref(), Some("mine"));
        assert_eq!(task.key_prefix.as_deref(), Some("set/{job_id}"));
        assert_eq!(task.proxy_hint.unwrap().primary_pool, "mine");
    }

    #[test]
    fn the_settings_fill_what_the_manifest_leaves_open() {
        let layout = StorageLayout { manifest_file: None, resource_key_prefix: Some("layout".into()) };
        let task = plan(&Resource::default(), &layout, &settings());
        assert_eq!(task.bucket.as_deref(), Some("set"));
        assert_eq!(task.key_prefix.as_deref(), Some("layout"));
        assert_eq!(task.proxy_hint.unwrap(), ProxyHint { primary_pool: "eu".into(), fallbacks: vec!["us".into()] });
    }

    #[test]
    fn what_the_settings_switch_on_holds_for_every_resource_and_a_resource_may_switch_it_on_for_itself() {
        let layout = StorageLayout::default();
        let own = Resource {
            revalidate: true,
            max_bytes: Some(9),
            storage_hint: Some(StorageHint { content_addressed: true, ..StorageHint::default() }),
            ..Resource::default()
        };
        let task = plan(&own, &layout, &settings());
        assert!(task.revalidate && task.content_addressed);
        assert_eq!((task.key_prefix.as_deref(), task.max_bytes), (Some("set"), Some(9)), "one folder for all jobs");
        let task = plan(&Resource::default(), &layout, &settings());
        assert!(!task.revalidate && !task.content_addressed);
        assert_eq!((task.key_prefix.as_deref(), task.max_bytes), (Some("set/{job_id}"), Some(1_000)));
        let mut settings = settings();
        (settings.revalidate, settings.storage.content_addressed) = (true, true);
        let task = plan(&Resource::default(), &layout, &settings);
        assert!(task.revalidate && task.content_addressed);
    }

    #[test]
    fn planning_is_done_at_the_first_poll() {
        let manifest = Manifest { resources: vec![Resource::default(); 3], ..Manifest::default() };
        let settings = TypeSettings::default();
        let tasks = DefaultHandler.build_tasks(&manifest, &settings).now_or_never().unwrap().unwrap();
        assert_eq!(tasks.len(), 3);
        assert_eq!(DefaultHandler.prepare(manifest.clone(), &settings).now_or_never().unwrap().unwrap(), manifest);
    }
}
