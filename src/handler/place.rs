//! Where objects stand: the keys of a job's manifest and resources.
//!
//! Owns: the default layouts and how a client's or an operator's layout changes them. Must not know: buckets' contents, the
//! object store.

use std::borrow::Cow;

use crate::model::{JobId, JobType, Manifest, TaskSpec};

/// `manifests/{job_type}/{job_id}/metadata.json` or the client's own layout, under the configured prefix.
pub fn manifest_key(storage_prefix: &str, manifest: &Manifest, job_type: &JobType, job: &str) -> String {
    let mut key = under(storage_prefix, 64 + job.len() + job_type.as_str().len());
    match &manifest.storage.manifest_file {
        Some(file) => key.push_str(&expand(file, job_type, job)),
        None => push_all(&mut key, &["manifests/", job_type.as_str(), "/", job, "/metadata.json"]),
    }
    key
}

/// `resources/{job_type}/{job_id}/{resource_id}` or the task's own prefix, under the configured prefix.
///
/// `{job_id}` and `{job_type}` in a task's prefix stand for this job's: a replay into a new job gets a key of its own. A
/// content-addressed object does not stand here but under its digest, see [`shown_key`].
pub fn resource_key(storage_prefix: &str, spec: &TaskSpec, job_type: &JobType, job: &str) -> String {
    let mut key = resource_folder(storage_prefix, spec.key_prefix.as_deref(), job_type, job);
    key.push_str(&spec.resource_id);
    key
}

/// The key as far as it is known before the download: of a content-addressed object the pattern
/// `{prefix}/sha256/{aa}/{sha256}`, braces included.
pub fn shown_key(storage_prefix: &str, spec: &TaskSpec, job_type: &JobType, job: &str) -> String {
    if !spec.content_addressed {
        return resource_key(storage_prefix, spec, job_type, job);
    }
    let mut key = digest_folder(storage_prefix, spec.key_prefix.as_deref(), job_type, job);
    key.push_str("sha256/{aa}/{sha256}");
    key
}

/// Everything of a content-addressed object's key before `sha256/`, trailing slash included. By default nothing but the
/// configured prefix: jobs share it, else each would store the same bytes again.
pub fn digest_folder(storage_prefix: &str, key_prefix: Option<&str>, job_type: &JobType, job: &str) -> String {
    match key_prefix {
        Some(prefix) => resource_folder(storage_prefix, Some(prefix), job_type, job),
        None => under(storage_prefix, 80),
    }
}

/// Whether a key is one that an object named by its digest would have. Nobody else may write there: what stands under a digest
/// is taken for the bytes it names.
pub fn is_some_digests_place(key: &str) -> bool {
    let hex = |text: &str, digits: usize| text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    let mut segments = key.rsplit('/');
    let (name, folder, area) = (segments.next(), segments.next(), segments.next());
    area == Some("sha256") && folder.is_some_and(|folder| hex(folder, 2)) && name.is_some_and(|name| hex(name, 64))
}

/// Everything of a resource's key before its id, trailing slash included.
pub fn resource_folder(storage_prefix: &str, key_prefix: Option<&str>, job_type: &JobType, job: &str) -> String {
    let mut key = under(storage_prefix, 160 + job.len());
    match key_prefix {
        Some(prefix) => push_all(&mut key, &[&expand(prefix, job_type, job), "/"]),
        None => push_all(&mut key, &["resources/", job_type.as_str(), "/", job, "/"]),
    }
    key
}

/// Whether a client's layout names the default place of some job by its id. Nobody may write there but that job.
pub fn is_some_jobs_place(layout: &str) -> bool {
    let mut segments = layout.split('/');
    let area = segments.next();
    let _job_type = segments.next();
    matches!(area, Some("manifests" | "resources")) && segments.next().is_some_and(|id| id.parse::<JobId>().is_ok())
}

/// Whether an object with this key, without the configured prefix, would stand in some job's place, or be a file where others need a
/// folder: a store of files would then take nothing of theirs.
pub fn is_others_place(key: &str) -> bool {
    let mut segments = key.split('/');
    let is_area = matches!(segments.next(), Some("manifests" | "resources"));
    let (job_type, is_deeper) = (segments.next(), segments.next().is_some());
    // A placeholder becomes a type's name.
    let is_type = |name: &str| JobType::parse(&name.replace("{job_type}", "x")).is_ok();
    let is_types_folder = is_area && !is_deeper && job_type.is_none_or(is_type);
    let mut upward = key.rsplit('/');
    let (last, above) = (upward.next(), upward.next());
    let is_hex = |name: &str| name.len() == 2 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let is_digests_folder = last == Some("sha256") || (above == Some("sha256") && last.is_some_and(is_hex));
    is_some_jobs_place(key) || is_types_folder || is_digests_folder
}

fn under(storage_prefix: &str, room: usize) -> String {
    let prefix = storage_prefix.trim_matches('/');
    let mut key = String::with_capacity(prefix.len() + 1 + room);
    if !prefix.is_empty() {
        push_all(&mut key, &[prefix, "/"]);
    }
    key
}

fn push_all(key: &mut String, parts: &[&str]) {
    for part in parts {
        key.push_str(part);
    }
}

fn expand<'a>(layout: &'a str, job_type: &JobType, job: &str) -> Cow<'a, str> {
    if layout.contains('{') {
        Cow::Owned(layout.replace("{job_type}", job_type.as_str()).replace("{job_id}", job))
    } else {
        Cow::Borrowed(layout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StorageLayout;

    fn gallery() -> JobType {
        JobType::parse("gallery").unwrap()
    }

    #[test]
    fn objects_stand_where_the_documentation_says() {
        let spec = TaskSpec { resource_id: "a.jpg".into(), ..TaskSpec::default() };
        assert_eq!(resource_key("", &spec, &gallery(), "J"), "resources/gallery/J/a.jpg");
        assert_eq!(resource_key("/pre/fix/", &spec, &gallery(), "J"), "pre/fix/resources/gallery/J/a.jpg");
        assert_eq!(manifest_key("", &Manifest::default(), &gallery(), "J"), "manifests/gallery/J/metadata.json");
        assert_eq!(manifest_key("p", &Manifest::default(), &gallery(), "J"), "p/manifests/gallery/J/metadata.json");
    }

    #[test]
    fn the_same_bytes_of_two_jobs_have_one_place() {
        let spec = TaskSpec { resource_id: "a".into(), content_addressed: true, ..TaskSpec::default() };
        assert_eq!(shown_key("p", &spec, &gallery(), "J"), "p/sha256/{aa}/{sha256}");
        let own = TaskSpec { key_prefix: Some("pics".into()), ..spec };
        assert_eq!(shown_key("", &own, &gallery(), "J"), "pics/sha256/{aa}/{sha256}");
        let plain = TaskSpec { content_addressed: false, ..own };
        assert_eq!(shown_key("", &plain, &gallery(), "J"), "pics/a");
    }

    #[test]
    fn what_stands_under_a_digest_was_put_there_by_that_digest() {
        let digits = "ab".repeat(32);
        assert!(is_some_digests_place(&format!("sha256/ab/{digits}")));
        assert!(is_some_digests_place(&format!("pics/sha256/AB/{}", digits.to_uppercase())));
        for key in [format!("sha256/ab/{digits}0"), format!("ab/{digits}"), format!("md5/ab/{digits}"), digits] {
            assert!(!is_some_digests_place(&key), "{key}");
        }
    }

    #[test]
    fn a_clients_layout_replaces_the_default_one() {
        let spec = TaskSpec {
            resource_id: "a".into(),
            key_prefix: Some("g/{job_type}/{job_id}".into()),
            ..TaskSpec::default()
        };
        assert_eq!(resource_key("p", &spec, &gallery(), "J"), "p/g/gallery/J/a");
        // The dry run's stand-in for an id stays readable.
        assert_eq!(resource_key("", &spec, &gallery(), "{job_id}"), "g/gallery/{job_id}/a");
        let storage = StorageLayout { manifest_file: Some("m/{job_id}.json".into()), resource_key_prefix: None };
        let manifest = Manifest { storage, ..Manifest::default() };
        assert_eq!(manifest_key("", &manifest, &gallery(), "J"), "m/J.json");
    }

    #[test]
    fn nobody_writes_into_another_jobs_place() {
        let id = JobId::first_at_ms(1_700_000_000_000);
        assert!(is_some_jobs_place(&format!("resources/default/{id}")));
        assert!(is_some_jobs_place(&format!("manifests/default/{id}/metadata.json")));
        assert!(!is_some_jobs_place("resources/default/2024"));
        assert!(!is_some_jobs_place("resources/default/{job_id}"));
        assert!(!is_some_jobs_place(&format!("mine/default/{id}")));
    }

    #[test]
    fn nobody_puts_a_file_where_others_need_a_folder() {
        for key in [
            "resources",
            "manifests/gallery",
            "manifests/{job_type}",
            "resources/a-{job_type}",
            "sha256",
            "pics/sha256",
            "sha256/2c",
        ] {
            assert!(is_others_place(key), "{key}");
        }
        for key in ["manifests/{job_id}.json", "mine/gallery", "sha256/2c/notes", "pics/sha256.txt", "sha256/xy", "a"] {
            assert!(!is_others_place(key), "{key}");
        }
    }
}
