//! What a handler planned, looked at before it is believed: a handler is code from outside, and its tasks reach the network
//! and the object store.
//!
//! Owns: the checks on tasks and that no two objects of a job share a key. Must not know: how tasks came about.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::handler::{
    digest_folder, is_others_place, is_some_digests_place, resource_folder, resource_key, rules, shown_key,
};
use crate::model::{JobType, Manifest, RESOURCES_MAX, Refusal, RefusalCode, TaskSpec, Violation};

/// Where the job's objects are to stand, and what may be named.
pub struct Ground<'a> {
    pub job_type: &'a JobType,
    /// The job's id as it stands in keys.
    pub job: &'a str,
    pub external: bool,
    pub storage_prefix: &'a str,
    /// Bucket of tasks that name none.
    pub bucket: &'a str,
    /// Buckets clients may name.
    pub buckets: &'a BTreeSet<String>,
    /// The bucket the job type's settings name.
    pub own_bucket: Option<&'a str>,
    pub manifest_key: &'a str,
}

/// # Errors
/// HANDLER_FAILED for tasks no handler may plan, INVALID_PAYLOAD where the manifest's own layout makes keys meet.
pub fn vet(tasks: &[TaskSpec], manifest: &Manifest, ground: &Ground<'_>) -> Result<(), Refusal> {
    let unfit = |what: String| {
        let message = format!("the handler of job type {} {what}", ground.job_type);
        Err(Refusal::new(RefusalCode::Handler, message))
    };
    match (ground.external, tasks.len()) {
        (true, 1..) => return unfit("planned tasks for an external job".to_owned()),
        (false, 0) => return unfit("planned no task".to_owned()),
        (_, count) if count > RESOURCES_MAX => {
            return unfit(format!("planned {count} tasks, more than {RESOURCES_MAX}"));
        }
        _ => {}
    }
    let mut as_listed = tasks.len() == manifest.resources.len();
    for (index, task) in tasks.iter().enumerate() {
        let listed = manifest.resources.get(index).is_some_and(|r| r.id == task.resource_id && r.url == task.url);
        as_listed &= listed;
        if let Some(fault) = fault_of(task, listed, ground) {
            return unfit(format!("planned task {index}, whose {fault}"));
        }
    }
    if !as_listed {
        let mut ids = HashSet::with_capacity(tasks.len());
        if let Some(task) = tasks.iter().find(|task| !ids.insert(task.resource_id.as_str())) {
            return unfit(format!("planned two tasks with the id {}", task.resource_id));
        }
    }
    let violations = meeting_keys(tasks, manifest, ground);
    if violations.is_empty() { Ok(()) } else { Err(Refusal::violations(violations)) }
}

/// `listed`: id and URL are the manifest's and were checked there.
fn fault_of(task: &TaskSpec, listed: bool, ground: &Ground<'_>) -> Option<String> {
    let said = |place: &str, fault: Option<&'static str>| fault.map(|fault| format!("{place} {fault}"));
    if !listed {
        let fault =
            said("id", rules::resource_id_fault(&task.resource_id)).or(said("url", rules::url_fault(&task.url)));
        if fault.is_some() {
            return fault;
        }
    }
    if task.headers.len() > rules::TASK_HEADERS_MAX {
        return Some(format!("headers are more than {}", rules::TASK_HEADERS_MAX));
    }
    for header in &task.headers {
        let fault =
            rules::header_name_fault(&header.name).or_else(|| rules::header_value_fault(&header.name, &header.value));
        if fault.is_some() {
            return said("header", fault);
        }
    }
    let bucket = task.bucket.as_deref();
    if bucket.is_some_and(|bucket| !ground.buckets.contains(bucket) && ground.own_bucket != Some(bucket)) {
        return Some("bucket is not configured".to_owned());
    }
    said("key prefix", task.key_prefix.as_deref().and_then(rules::key_fault))
}

/// Keys that are too long, used twice, or would need to be an object and a folder at once.
fn meeting_keys(tasks: &[TaskSpec], manifest: &Manifest, ground: &Ground<'_>) -> Vec<Violation> {
    let Some(first) = tasks.first() else { return Vec::new() };
    let with_first = |task: &TaskSpec| {
        task.bucket == first.bucket
            && task.key_prefix == first.key_prefix
            && task.content_addressed == first.content_addressed
    };
    let one_folder = tasks.iter().all(with_first);
    if one_folder {
        // Ids are unique and hold no slash, so their keys cannot meet; only the manifest's own may stand among them.
        let folder = if first.content_addressed { digest_folder } else { resource_folder };
        let folder = folder(ground.storage_prefix, first.key_prefix.as_deref(), ground.job_type, ground.job);
        let longest = tasks.iter().map(|task| task.resource_id.len()).max().unwrap_or(0).max(DIGEST_KEY_BYTES);
        let apart = !ground.manifest_key.starts_with(&folder) && !is_folder_of(ground.manifest_key, &folder);
        let named = !first.content_addressed && is_digest_folder(&folder) || is_some_digests_place(ground.manifest_key);
        let apart = apart && !tasks.iter().any(|task| is_in_others_place(task, ground));
        let fits = folder.len() + longest <= rules::KEY_BYTES_MAX && ground.manifest_key.len() <= rules::KEY_BYTES_MAX;
        if apart && fits && !named {
            return Vec::new();
        }
    }
    compare_all(tasks, manifest, ground)
}

/// Where a client or a job type chose the folder: the key may then be one that others need. This job's own place is not meant.
fn is_in_others_place(task: &TaskSpec, ground: &Ground<'_>) -> bool {
    let is_chosen = task.key_prefix.is_some() && !task.content_addressed;
    is_chosen && is_others_place(&resource_key("", task, ground.job_type, "{job_id}"))
}

/// Whether a key in this folder could be one of an object named by its digest.
fn is_digest_folder(folder: &str) -> bool {
    folder.trim_end_matches('/').rsplit('/').nth(1) == Some("sha256")
}

/// What a digest adds to a folder: `sha256/aa/` and 64 digits.
const DIGEST_KEY_BYTES: usize = 74;
/// What stands for it in a shown key.
const SHOWN_DIGEST_BYTES: usize = "sha256/{aa}/{sha256}".len();

/// Whether an object called `key` stands where `longer` needs a folder.
fn is_folder_of(key: &str, longer: &str) -> bool {
    longer.strip_prefix(key).is_some_and(|rest| rest.starts_with('/'))
}

fn compare_all(tasks: &[TaskSpec], manifest: &Manifest, ground: &Ground<'_>) -> Vec<Violation> {
    const OF_MANIFEST: usize = usize::MAX;
    let mut found = Vec::new();
    let mut add = |index: usize, message: String| {
        found.push(Violation { path: path_of(index, tasks, manifest), message });
    };
    let keys = tasks.iter().enumerate().map(|(index, task)| {
        let bucket = task.bucket.as_deref().unwrap_or(ground.bucket);
        ((bucket, shown_key(ground.storage_prefix, task, ground.job_type, ground.job)), index)
    });
    let own = ((ground.bucket, ground.manifest_key.to_owned()), OF_MANIFEST);
    let mut taken: HashMap<(&str, String), usize> = HashMap::with_capacity(tasks.len() + 1);
    for (place, index) in std::iter::once(own).chain(keys) {
        let is_addressed = tasks.get(index).is_some_and(|task| task.content_addressed);
        let bytes = place.1.len() + if is_addressed { DIGEST_KEY_BYTES - SHOWN_DIGEST_BYTES } else { 0 };
        if bytes > rules::KEY_BYTES_MAX {
            add(index, format!("has an object key of {bytes} bytes, longer than {}", rules::KEY_BYTES_MAX));
        }
        if tasks.get(index).is_some_and(|task| is_in_others_place(task, ground)) {
            add(index, "has an object key in the place of other objects, or of a folder of theirs".to_owned());
        }
        if !is_addressed && is_some_digests_place(&place.1) {
            add(index, "has an object key that belongs to whatever has this digest".to_owned());
        }
        match taken.get(&place) {
            // One digest is one object, whoever else has it.
            Some(_) if is_addressed => {}
            Some(earlier) => add(index, format!("has the same object key as {}", path_of(*earlier, tasks, manifest))),
            None => drop(taken.insert(place, index)),
        }
    }
    for ((bucket, key), index) in &taken {
        let slashes = key.match_indices('/').filter_map(|(at, _)| key.get(..at));
        for folder in slashes {
            if let Some(other) = taken.get(&(*bucket, folder.to_owned())) {
                let other = path_of(*other, tasks, manifest);
                add(*index, format!("has an object key inside the one of {other}, which is no folder"));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found.truncate(super::found::VIOLATIONS_MAX);
    found
}

fn path_of(index: usize, tasks: &[TaskSpec], manifest: &Manifest) -> String {
    let Some(task) = tasks.get(index) else { return "storage.manifest_file".to_owned() };
    // Where the handler planned something else, the id is all the client can know it by.
    match manifest.resources.iter().position(|resource| resource.id == task.resource_id) {
        Some(listed) => format!("resources[{listed}]"),
        None => format!("task {}", task.resource_id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::manifest_key;
    use crate::model::{Resource, StorageLayout};

    fn spec(id: &str, prefix: Option<&str>) -> TaskSpec {
        TaskSpec {
            resource_id: id.into(),
            url: "http://example.org/".into(),
            key_prefix: prefix.map(str::to_owned),
            ..TaskSpec::default()
        }
    }

    fn vetted(tasks: &[TaskSpec], file: Option<&str>, prefix: &str) -> Result<(), Refusal> {
        let job_type = JobType::default();
        let listed =
            |task: &TaskSpec| Resource { id: task.resource_id.clone(), url: task.url.clone(), ..Resource::default() };
        let manifest = Manifest {
            resources: tasks.iter().map(listed).collect(),
            storage: StorageLayout { manifest_file: file.map(str::to_owned), resource_key_prefix: None },
            ..Manifest::default()
        };
        let key = manifest_key(prefix, &manifest, &job_type, "J");
        let buckets = BTreeSet::from(["fetchbox".to_owned()]);
        let ground = Ground {
            job_type: &job_type,
            job: "J",
            external: false,
            storage_prefix: prefix,
            bucket: "fetchbox",
            buckets: &buckets,
            own_bucket: Some("own"),
            manifest_key: &key,
        };
        vet(tasks, &manifest, &ground)
    }

    fn paths(refused: Result<(), Refusal>) -> Vec<String> {
        let refusal = refused.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::InvalidPayload, "{refusal}");
        refusal.violations.into_iter().map(|violation| violation.path).collect()
    }

    #[test]
    fn no_two_objects_of_a_job_overwrite_each_other() {
        assert_eq!(vetted(&[spec("a", None), spec("b", Some("x"))], Some("x/a"), "p"), Ok(()));
        let meets_manifest = vetted(&[spec("m.json", Some("x")), spec("b", Some("x"))], Some("x/m.json"), "p");
        assert_eq!(paths(meets_manifest), ["resources[0]"]);
        let default_place = vetted(&[spec("metadata.json", Some("manifests/default/{job_id}"))], None, "");
        assert_eq!(paths(default_place), ["resources[0]"]);
    }

    #[test]
    fn objects_named_by_their_digest_may_meet_each_other_and_nothing_else() {
        let addressed = |id: &str| TaskSpec { content_addressed: true, ..spec(id, Some("x")) };
        assert_eq!(vetted(&[addressed("a"), addressed("b")], None, ""), Ok(()));
        assert_eq!(vetted(&[addressed("a"), addressed("b"), spec("c", Some("x"))], None, ""), Ok(()));
        // An object called sha256 where the digests need a folder.
        assert_eq!(
            paths(vetted(&[addressed("a"), spec("sha256", Some("x"))], None, "")),
            ["resources[0]", "resources[1]"]
        );
        let long = "p/".repeat(420);
        assert_eq!(paths(vetted(&[addressed("a"), addressed("b")], None, &long)).len(), 2);
    }

    #[test]
    fn nobody_puts_a_file_where_others_need_a_folder() {
        let id = crate::model::JobId::first_at_ms(1_700_000_000_000).to_string();
        for (prefix, id) in [("resources", "gallery"), ("x", "sha256"), ("sha256", "2c"), ("resources/default", &id)] {
            assert_eq!(paths(vetted(&[spec(id, Some(prefix))], None, "p")), ["resources[0]"], "{prefix}/{id}");
        }
        for (prefix, id) in [(None, "sha256"), (Some("resources/{job_type}/{job_id}"), "a"), (Some("x/{job_id}"), "a")]
        {
            assert_eq!(vetted(&[spec(id, prefix)], None, "p"), Ok(()), "{prefix:?}/{id}");
        }
    }

    #[test]
    fn nobody_puts_other_bytes_where_a_digest_is_taken_for_them() {
        let digits = "ab".repeat(32);
        assert_eq!(paths(vetted(&[spec(&digits, Some("x/sha256/ab"))], None, "")), ["resources[0]"]);
        assert_eq!(
            paths(vetted(&[spec("a", None)], Some(&format!("sha256/ab/{digits}")), "")),
            ["storage.manifest_file"]
        );
        assert_eq!(vetted(&[spec("a", Some("x/sha256/ab"))], None, ""), Ok(()));
        assert_eq!(vetted(&[spec(&digits, Some("x"))], None, ""), Ok(()));
    }

    #[test]
    fn an_object_is_not_asked_to_be_a_folder() {
        assert_eq!(paths(vetted(&[spec("a", Some("x")), spec("b", Some("x/a"))], None, "")), ["resources[1]"]);
        assert_eq!(paths(vetted(&[spec("a", Some("x/y"))], Some("x"), "")), ["resources[0]"]);
        assert_eq!(paths(vetted(&[spec("a", Some("x"))], Some("x/a/m.json"), "")), ["storage.manifest_file"]);
        assert_eq!(vetted(&[spec("a", Some("x/yz"))], Some("x/y"), ""), Ok(()));
    }

    #[test]
    fn a_key_that_no_store_takes_is_refused_while_it_can_be_changed() {
        let long = "p/".repeat(460);
        assert_eq!(paths(vetted(&[spec("a", None)], None, &long)), ["resources[0]", "storage.manifest_file"]);
    }

    #[test]
    fn what_a_handler_may_not_plan_is_its_fault_and_not_the_clients() {
        let mut unfit = vec![vec![], vec![spec("../x", None)], vec![spec("a", None), spec("a", None)]];
        unfit.push(vec![TaskSpec { url: "file:///etc/passwd".into(), ..spec("a", None) }]);
        unfit.push(vec![TaskSpec { bucket: Some("foreign".into()), ..spec("a", None) }]);
        unfit.push(vec![spec("a", Some("../x"))]);
        unfit.push((0..1_001).map(|n| spec(&n.to_string(), None)).collect());
        for tasks in unfit {
            // Nothing is listed in the manifest, so everything is looked at.
            let manifest = Manifest::default();
            let buckets = BTreeSet::new();
            let ground = Ground {
                job_type: &JobType::default(),
                job: "J",
                external: false,
                storage_prefix: "",
                bucket: "fetchbox",
                buckets: &buckets,
                own_bucket: None,
                manifest_key: "m",
            };
            assert_eq!(vet(&tasks, &manifest, &ground).unwrap_err().code, RefusalCode::Handler);
        }
        assert_eq!(vetted(&[TaskSpec { bucket: Some("own".into()), ..spec("a", None) }], None, ""), Ok(()));
    }
}
