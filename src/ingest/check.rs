//! Fields → manifest, or everything that is wrong with them.
//!
//! Owns: every limit of a manifest, applied to all encodings alike. Pure. Must not know: who submits, the database, handlers'
//! work beyond whether a job type is external.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::value::RawValue;

use super::found::{Found, Path};
use super::raw::{RawManifest, RawResource, RawStorageHint};
use crate::handler::{is_others_place, is_some_jobs_place, rules};
use crate::model::{HEADERS_MAX, Header, Manifest, ProxyHint, RESOURCES_MAX, Resource, StorageHint, StorageLayout};

/// Tags of one resource.
pub const TAGS_MAX: usize = 32;
/// Bytes of a tag's name, and of its value.
pub const TAG_BYTES_MAX: usize = 256;
/// Nesting of metadata and attributes: whoever reads them later must not run out of stack.
pub const DEPTH_MAX: usize = 100;
/// Proxy pools of one resource besides the first.
pub const FALLBACKS_MAX: usize = 16;

/// What the limits depend on.
pub struct Rules<'a> {
    /// The job type has no resources; None while the job type itself is in doubt.
    pub external: Option<bool>,
    /// Buckets a client may name.
    pub buckets: &'a BTreeSet<String>,
    /// Proxy pools a client may name.
    pub pools: &'a BTreeSet<String>,
    /// Metadata and attributes are known to be JSON: they were cut out of a parsed document.
    pub parsed: bool,
}

/// Checks everything. The result is a manifest only if `found` is still empty.
pub fn check(raw: RawManifest, rules: &Rules<'_>, found: &mut Found) -> Manifest {
    let root = Path::Root;
    let version = root.key("manifest_version");
    match raw.manifest_version.as_str() {
        "v1" => {}
        "" => found.add(&version, "is missing; must be \"v1\""),
        _ => found.add(&version, "must be \"v1\""),
    }
    let metadata_json = object(raw.metadata_json, &root.key("metadata"), rules, found);
    let attributes_json = object(raw.attributes_json, &root.key("attributes"), rules, found);
    let at = root.key("storage");
    let manifest_file = some(raw.manifest_file);
    if let Some(file) = &manifest_file {
        let at = at.key("manifest_file");
        found.check(&at, rules::key_fault(file));
        if is_others_place(file) {
            found.add(&at, "is the place of other objects, or a folder of theirs");
        }
    }
    let resource_key_prefix = prefix(raw.resource_key_prefix, &at.key("resource_key_prefix"), found);

    let at = root.key("resources");
    let given = raw.resources.len();
    match rules.external {
        Some(true) if given > 0 => found.add(&at, "must be empty: jobs of this type are external"),
        Some(false) if given == 0 => found.add(&at, "is empty; at least one is needed"),
        _ if given > RESOURCES_MAX => {
            found.add(&at, format!("has {given} entries, at most {RESOURCES_MAX} are allowed"));
        }
        _ => {}
    }
    let resources: Vec<Resource> = raw
        .resources
        .into_iter()
        .take(RESOURCES_MAX)
        .enumerate()
        .map(|(index, raw)| resource(raw, &at.index(index), rules, found))
        .collect();
    repeated_ids(&resources, &at, found);
    Manifest {
        metadata_json,
        attributes_json,
        resources,
        storage: StorageLayout { manifest_file, resource_key_prefix },
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// A JSON object, kept as it is but for white space around it. Empty becomes `{}`.
fn object(json: String, at: &Path<'_>, rules: &Rules<'_>, found: &mut Found) -> String {
    if json.is_empty() {
        return "{}".to_owned();
    }
    if !rules.parsed {
        match serde_json::from_str::<&RawValue>(&json) {
            Ok(_) => {}
            Err(error) => {
                found.add_whole(at, format!("is not valid JSON: {error}"));
                return json;
            }
        }
    }
    if !json.trim_start().starts_with('{') {
        found.add_whole(at, "must be an object");
    } else if deeper_than(&json, DEPTH_MAX) {
        found.add_whole(at, format!("is nested deeper than {DEPTH_MAX}"));
    }
    let trimmed = json.trim_matches(JSON_SPACE);
    if trimmed.len() == json.len() { json } else { trimmed.to_owned() }
}

const JSON_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Of text that is valid JSON.
fn deeper_than(json: &str, limit: usize) -> bool {
    if json.len() <= limit {
        return false;
    }
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for byte in json.bytes() {
        if quoted {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => quoted = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// A key prefix, one trailing slash allowed and dropped.
fn prefix(mut text: String, at: &Path<'_>, found: &mut Found) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    if text.ends_with('/') {
        text.pop();
    }
    found.check(at, rules::key_fault(&text));
    if is_some_jobs_place(&text) {
        found.add(at, "is the place of a job's own objects");
    }
    Some(text)
}

fn resource(raw: RawResource, at: &Path<'_>, rules: &Rules<'_>, found: &mut Found) -> Resource {
    found.check(&at.key("id"), rules::resource_id_fault(&raw.id));
    found.check(&at.key("url"), rules::url_fault(&raw.url));
    if !raw.mime_hint.is_empty() {
        found.check(&at.key("mime_hint"), rules::mime_fault(&raw.mime_hint));
    }
    let checksum = checksum(&raw.checksum, &at.key("checksum"), found);
    Resource {
        headers: headers(raw.headers, &at.key("headers"), found),
        tags: tags(raw.tags, &at.key("tags"), found),
        checksum,
        mime_hint: some(raw.mime_hint),
        max_bytes: (raw.max_bytes > 0).then_some(raw.max_bytes),
        storage_hint: raw.storage_hint.map(|hint| storage_hint(hint, &at.key("storage_hint"), rules, found)),
        proxy_hint: raw.proxy_hint.map(|hint| proxy_hint(hint, &at.key("proxy_hint"), rules, found)),
        revalidate: raw.revalidate,
        id: raw.id,
        url: raw.url,
    }
}

fn repeated_ids(resources: &[Resource], at: &Path<'_>, found: &mut Found) {
    if resources.len() < 2 {
        return;
    }
    let mut first: HashMap<&str, usize> = HashMap::with_capacity(resources.len());
    for (index, resource) in resources.iter().enumerate() {
        // A missing id was already reported as such.
        if resource.id.is_empty() {
            continue;
        }
        if let Some(earlier) = first.insert(&resource.id, index) {
            found.add(&at.index(index).key("id"), format!("is also the id of resources[{earlier}]"));
            first.insert(&resource.id, earlier);
        }
    }
}

fn headers(raw: Vec<(String, String)>, at: &Path<'_>, found: &mut Found) -> Vec<Header> {
    if raw.len() > HEADERS_MAX {
        found.add(at, format!("has more than {HEADERS_MAX} entries"));
    }
    let checked = raw.into_iter().take(HEADERS_MAX).enumerate().map(|(index, (name, value))| {
        found.check(&at.index(index).key("name"), rules::header_name_fault(&name));
        found.check(&at.index(index).key("value"), rules::header_value_fault(&name, &value));
        Header { name, value }
    });
    checked.collect()
}

fn tags(raw: Vec<(String, String)>, at: &Path<'_>, found: &mut Found) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::new();
    if raw.len() > TAGS_MAX {
        found.add(at, format!("has more than {TAGS_MAX} entries"));
    }
    for (name, value) in raw.into_iter().take(TAGS_MAX) {
        let place = at.key(&name);
        if name.is_empty() {
            found.add(at, "has an empty name");
        } else if name.len() > TAG_BYTES_MAX || value.len() > TAG_BYTES_MAX {
            found.add(&place, format!("is longer than {TAG_BYTES_MAX} bytes in name or value"));
        } else if rules::has_control(&name) || rules::has_control(&value) {
            found.add(&place, "contains control characters");
        } else if tags.contains_key(&name) {
            found.add(&place, "is given twice");
        }
        tags.insert(name, value);
    }
    tags
}

/// `sha256:` and 64 hexadecimal digits.
fn checksum(text: &str, at: &Path<'_>, found: &mut Found) -> Option<[u8; 32]> {
    if text.is_empty() {
        return None;
    }
    let digest = text.strip_prefix("sha256:").and_then(digest);
    if digest.is_none() {
        found.add(at, "must be \"sha256:\" and 64 hexadecimal digits");
    }
    digest
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0u8; 32];
    if hex.len() != 64 {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let mut digits = pair.iter().map(|digit| char::from(*digit).to_digit(16));
        let (high, low) = (digits.next()??, digits.next()??);
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(digest)
}

fn storage_hint(raw: RawStorageHint, at: &Path<'_>, rules: &Rules<'_>, found: &mut Found) -> StorageHint {
    let bucket = some(raw.bucket);
    if bucket.as_ref().is_some_and(|bucket| !rules.buckets.contains(bucket)) {
        found.add(&at.key("bucket"), "is neither the configured bucket nor in storage.allowed_buckets");
    }
    let key_prefix = prefix(raw.key_prefix, &at.key("key_prefix"), found);
    let place = at.key("metadata");
    let bytes: usize = raw.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if raw.metadata.len() > TAGS_MAX || bytes > rules::OBJECT_METADATA_BYTES_MAX {
        found.add(&place, format!("has more than {TAGS_MAX} entries or {} bytes", rules::OBJECT_METADATA_BYTES_MAX));
    }
    let mut metadata = BTreeMap::new();
    for (name, value) in raw.metadata.into_iter().take(TAGS_MAX) {
        metadata_entry(&name, &value, &place.key(&name), found);
        if metadata.contains_key(&name) {
            found.add(&place.key(&name), "is given twice");
        }
        metadata.insert(name, value);
    }
    StorageHint { bucket, key_prefix, metadata, content_addressed: raw.content_addressed }
}

/// What travels as an S3 user metadata header. Stores fold names to lower case, so only that is taken.
fn metadata_entry(name: &str, value: &str, at: &Path<'_>, found: &mut Found) {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    if name.is_empty() || !plain {
        found.add(at, "must have a name of a-z 0-9 - _");
    } else if name == "sha256" || name.starts_with("fetchbox") {
        found.add(at, "is written by FetchBox itself");
    } else if !value.bytes().all(|b| (b' '..=b'~').contains(&b)) || value.trim() != value {
        found.add(at, "may only contain visible ASCII, with no space at either end");
    }
}

fn proxy_hint(raw: (String, Vec<String>), at: &Path<'_>, rules: &Rules<'_>, found: &mut Found) -> ProxyHint {
    let (primary_pool, fallbacks) = raw;
    let place = at.key("primary_pool");
    if primary_pool.is_empty() {
        found.add(&place, "is missing");
    } else if !rules.pools.contains(&primary_pool) {
        found.add(&place, NO_SUCH_POOL);
    }
    let place = at.key("fallbacks");
    if fallbacks.len() > FALLBACKS_MAX {
        found.add(&place, format!("has more than {FALLBACKS_MAX} entries"));
    }
    for (index, pool) in fallbacks.iter().take(FALLBACKS_MAX).enumerate() {
        if !rules.pools.contains(pool) {
            found.add(&place.index(index), NO_SUCH_POOL);
        }
    }
    ProxyHint { primary_pool, fallbacks }
}

const NO_SUCH_POOL: &str = "is no such pool";
