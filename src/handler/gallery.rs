//! The gallery sample: images of a gallery page.
//!
//! Shows what a handler is for: a header derived from the manifest's metadata, a bucket that depends on what is fetched, a
//! proxy for all of it. Owns: that. Must not know: more than any handler may.

use async_trait::async_trait;
use serde::Deserialize;

use super::default::{has_header, plan};
use super::settings::TypeSettings;
use super::{HandlerError, JobHandler, rules};
use crate::model::{HEADER_BYTES_MAX, Header, Manifest, Resource, TaskSpec};

/// Like the default handler, and:
/// - sends `Referer`: `metadata.gallery_url` without its fragment, or without a `gallery_url` the root of the resource's own
///   site. A `Referer` in the manifest wins.
/// - puts images (by `mime_hint`, or without one by the path's extension) into the settings' bucket, everything else into
///   the configured one. A resource's own bucket wins.
/// - downloads through the settings' proxy (say a pool in the EU) unless the resource names another.
#[derive(Debug, Clone, Copy, Default)]
pub struct GalleryHandler;

/// The part of the metadata this handler reads.
#[derive(Deserialize)]
struct Metadata {
    gallery_url: Option<String>,
}

#[async_trait]
impl JobHandler for GalleryHandler {
    async fn build_tasks(&self, manifest: &Manifest, settings: &TypeSettings) -> Result<Vec<TaskSpec>, HandlerError> {
        let gallery = gallery_url(&manifest.metadata_json)?;
        let tasks = manifest.resources.iter().map(|resource| {
            let mut task = plan(resource, &manifest.storage, settings);
            if !has_header(&resource.headers, "referer") {
                task.headers.retain(|header| !header.name.eq_ignore_ascii_case("referer"));
                let value = referer(gallery.as_deref().unwrap_or(&site_root(&resource.url)));
                task.headers.push(Header { name: "Referer".to_owned(), value });
            }
            let own_bucket = resource.storage_hint.as_ref().is_some_and(|hint| hint.bucket.is_some());
            if !own_bucket && !is_image(resource) {
                task.bucket = None;
            }
            task
        });
        Ok(tasks.collect())
    }

    fn changes_manifest(&self) -> bool {
        false
    }
}

fn gallery_url(metadata: &str) -> Result<Option<String>, HandlerError> {
    let metadata = if metadata.is_empty() { "{}" } else { metadata };
    let read: Metadata = serde_json::from_str(metadata)
        .map_err(|_| HandlerError::refused("metadata.gallery_url must be a string, given once"))?;
    let Some(url) = read.gallery_url else { return Ok(None) };
    match rules::url_fault(&url) {
        None => Ok(Some(url)),
        Some(fault) => Err(HandlerError::refused(format!("metadata.gallery_url {fault}"))),
    }
}

/// What may stand in the header: no fragment, ASCII, within a header's limit.
fn referer(url: &str) -> String {
    let Ok(mut parsed) = url::Url::parse(url) else { return site_root(url) };
    parsed.set_fragment(None);
    let text = String::from(parsed);
    if "Referer".len() + text.len() > HEADER_BYTES_MAX { site_root(url) } else { text }
}

fn site_root(url: &str) -> String {
    url::Url::parse(url).map(|parsed| format!("{}/", parsed.origin().ascii_serialization())).unwrap_or_default()
}

fn is_image(resource: &Resource) -> bool {
    if let Some(mime) = &resource.mime_hint {
        return mime.get(..6).is_some_and(|kind| kind.eq_ignore_ascii_case("image/"));
    }
    let path = resource.url.split(['?', '#']).next().unwrap_or_default();
    let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
    ["jpg", "jpeg", "png", "gif", "webp", "avif", "bmp", "svg", "tif", "tiff"]
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::handler::settings::{ProxySettings, StorageSettings};

    fn settings() -> TypeSettings {
        TypeSettings {
            handler: "gallery".into(),
            storage: StorageSettings { bucket: Some("images".into()), ..StorageSettings::default() },
            proxy: Some(ProxySettings { primary: "eu".into(), fallbacks: vec![] }),
            ..TypeSettings::default()
        }
    }

    fn resource(url: &str, mime: Option<&str>) -> Resource {
        Resource { id: "a".into(), url: url.into(), mime_hint: mime.map(str::to_owned), ..Resource::default() }
    }

    fn tasks(metadata: &str, resources: Vec<Resource>) -> Result<Vec<TaskSpec>, HandlerError> {
        let manifest = Manifest { metadata_json: metadata.into(), resources, ..Manifest::default() };
        GalleryHandler.build_tasks(&manifest, &settings()).now_or_never().unwrap()
    }

    fn referer_of(task: &TaskSpec) -> Vec<&str> {
        let named = task.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("referer"));
        named.map(|header| header.value.as_str()).collect()
    }

    #[test]
    fn an_image_gets_the_galleries_referer_bucket_and_proxy() {
        let metadata = r#"{"title":"x","gallery_url":"https://g.example/42?a=b#top"}"#;
        let planned = tasks(metadata, vec![resource("https://cdn.example/1.JPG?w=9", None)]).unwrap();
        assert_eq!(referer_of(&planned[0]), ["https://g.example/42?a=b"]);
        assert_eq!(planned[0].bucket.as_deref(), Some("images"));
        assert_eq!(planned[0].proxy_hint.as_ref().unwrap().primary_pool, "eu");
    }

    #[test]
    fn what_is_no_image_is_fetched_too_and_stays_in_the_usual_bucket() {
        let resources = vec![
            resource("https://cdn.example/1.json", None),
            resource("https://cdn.example/1.jpg", Some("text/html")),
            resource("https://cdn.example/1", Some("image/png")),
        ];
        let planned = tasks("{}", resources).unwrap();
        let buckets: Vec<Option<&str>> = planned.iter().map(|task| task.bucket.as_deref()).collect();
        assert_eq!(buckets, [None, None, Some("images")]);
        assert_eq!(referer_of(&planned[0]), ["https://cdn.example/"]);
    }

    #[test]
    fn the_manifests_own_referer_and_bucket_win() {
        let mut own = resource("https://cdn.example/1.json", None);
        own.headers = vec![Header { name: "referer".into(), value: "https://mine.example/".into() }];
        own.storage_hint =
            Some(crate::model::StorageHint { bucket: Some("mine".into()), ..crate::model::StorageHint::default() });
        let planned = tasks(r#"{"gallery_url":"https://g.example/"}"#, vec![own]).unwrap();
        assert_eq!(referer_of(&planned[0]), ["https://mine.example/"]);
        assert_eq!(planned[0].bucket.as_deref(), Some("mine"));
    }

    #[test]
    fn a_gallery_url_that_is_none_refuses_the_job_and_says_so() {
        let wrong =
            [r#"{"gallery_url":5}"#, r#"{"gallery_url":"ftp://x/"}"#, "{\"gallery_url\":\"http://a/\\r\\nX: y\"}"];
        for metadata in wrong {
            let error = tasks(metadata, vec![]).unwrap_err();
            assert!(error.message.starts_with("metadata.gallery_url ") && !error.retryable, "{}", error.message);
        }
    }

    #[test]
    fn a_very_long_or_foreign_gallery_url_still_makes_a_legal_header() {
        let long = format!(r#"{{"gallery_url":"https://g.example/{}"}}"#, "a".repeat(2_000));
        let planned = tasks(&long, vec![resource("https://cdn.example/1.png", None)]).unwrap();
        assert_eq!(referer_of(&planned[0]), ["https://g.example/"]);
        let foreign = r#"{"gallery_url":"https://münchen.example/ä"}"#;
        let planned = tasks(foreign, vec![resource("https://cdn.example/1.png", None)]).unwrap();
        assert_eq!(rules::header_value_fault("Referer", referer_of(&planned[0])[0]), None);
    }

    /// What stands in a block of a document, from the line that holds `first` on while lines are indented deeper.
    fn block<'a>(text: &'a str, first: &str, comment: &str) -> String {
        let lines = text.lines().map(|line| line.strip_prefix(comment).unwrap_or(line));
        let mut lines = lines.skip_while(|line| line.trim() != first);
        let head: &'a str = lines.next().unwrap();
        let indent = |line: &str| line.len() - line.trim_start().len();
        let rest = lines.take_while(|line| line.trim().is_empty() || indent(line) > indent(head));
        rest.map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn the_documented_gallery_does_everything_its_settings_say() {
        let example = block(include_str!("../../config.example.yml"), "handlers:", "#");
        let manual = block(include_str!("../../docs/operations.md"), "handlers:", "-");
        for (document, text) in [("config.example.yml", example), ("docs/operations.md", manual)] {
            let options: crate::handler::Options =
                serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{document}: {e}"));
            let settings = &options.types["gallery"];
            assert_eq!((settings.handler.as_str(), settings.max_parallel_downloads), ("gallery", 4), "{document}");
            let manifest = Manifest {
                metadata_json: r#"{"gallery_url":"https://g.example/42"}"#.into(),
                resources: vec![resource("https://cdn.example/1.jpg", None)],
                ..Manifest::default()
            };
            let task = GalleryHandler.build_tasks(&manifest, settings).now_or_never().unwrap().unwrap().remove(0);
            assert_eq!(referer_of(&task), ["https://g.example/42"]);
            assert!(task.headers.iter().any(|header| header.name == "Accept" && header.value == "image/*"));
            assert_eq!(task.bucket.as_deref(), Some("images"));
            assert!(task.content_addressed && task.revalidate);
            assert_eq!((task.key_prefix.as_deref(), task.max_bytes), (Some("galleries"), Some(50_000_000)));
            let proxy = task.proxy_hint.unwrap();
            assert_eq!((proxy.primary_pool.as_str(), proxy.fallbacks.as_slice()), ("eu", &["us".to_owned()][..]));
        }
    }
}
