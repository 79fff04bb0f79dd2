//! The JSON document a job's manifest is stored as.
//!
//! Owns: its shape and field order; reading it again gives an equal manifest. Must not know: where it is stored.

use std::collections::BTreeMap;

use crate::model::{Header, Manifest, Resource, StorageHint};

/// The JSON under which a job's manifest is stored: the shape clients send, `metadata` and `attributes` byte for byte as
/// they came, fields in a fixed order, what is absent left out.
pub fn manifest_json(manifest: &Manifest) -> Vec<u8> {
    let room = 256 + manifest.metadata_json.len() + manifest.attributes_json.len() + 256 * manifest.resources.len();
    let mut out = Writer { out: Vec::with_capacity(room), first: true };
    out.open('{');
    out.text_field("manifest_version", "v1");
    out.raw_field("metadata", object_or_empty(&manifest.metadata_json));
    out.key("resources");
    out.open('[');
    for item in &manifest.resources {
        out.comma();
        resource(&mut out, item);
    }
    out.close(']');
    let attributes = object_or_empty(&manifest.attributes_json);
    if attributes != "{}" {
        out.raw_field("attributes", attributes);
    }
    let storage = &manifest.storage;
    if storage.manifest_file.is_some() || storage.resource_key_prefix.is_some() {
        out.key("storage");
        out.open('{');
        out.optional("manifest_file", storage.manifest_file.as_deref());
        out.optional("resource_key_prefix", storage.resource_key_prefix.as_deref());
        out.close('}');
    }
    out.close('}');
    out.out
}

fn object_or_empty(json: &str) -> &str {
    if json.is_empty() { "{}" } else { json }
}

fn resource(out: &mut Writer, item: &Resource) {
    out.open('{');
    out.text_field("id", &item.id);
    out.text_field("url", &item.url);
    if !item.headers.is_empty() {
        headers(out, &item.headers);
    }
    out.pairs("tags", &item.tags);
    if let Some(digest) = &item.checksum {
        out.text_field("checksum", &checksum_text(digest));
    }
    out.optional("mime_hint", item.mime_hint.as_deref());
    if let Some(max) = item.max_bytes {
        out.raw_field("max_bytes", &max.to_string());
    }
    if let Some(hint) = &item.storage_hint {
        storage_hint(out, hint);
    }
    if let Some(hint) = &item.proxy_hint {
        out.key("proxy_hint");
        out.open('{');
        out.text_field("primary_pool", &hint.primary_pool);
        if !hint.fallbacks.is_empty() {
            out.key("fallbacks");
            out.open('[');
            for pool in &hint.fallbacks {
                out.comma();
                out.text(pool);
            }
            out.close(']');
        }
        out.close('}');
    }
    out.flag("revalidate", item.revalidate);
    out.close('}');
}

/// Always as a list: an object could not carry the same name twice.
fn headers(out: &mut Writer, headers: &[Header]) {
    out.key("headers");
    out.open('[');
    for header in headers {
        out.comma();
        out.open('{');
        out.text_field("name", &header.name);
        out.text_field("value", &header.value);
        out.close('}');
    }
    out.close(']');
}

fn storage_hint(out: &mut Writer, hint: &StorageHint) {
    out.key("storage_hint");
    out.open('{');
    out.optional("bucket", hint.bucket.as_deref());
    out.optional("key_prefix", hint.key_prefix.as_deref());
    out.pairs("metadata", &hint.metadata);
    out.flag("content_addressed", hint.content_addressed);
    out.close('}');
}

/// `sha256:` and 64 lower-case hexadecimal digits.
pub fn checksum_text(digest: &[u8; 32]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(71);
    text.push_str("sha256:");
    for byte in digest {
        for half in [byte >> 4, byte & 15] {
            text.push(DIGITS.get(usize::from(half)).map_or('0', |digit| char::from(*digit)));
        }
    }
    text
}

/// JSON that is spliced rather than built: raw text goes through untouched.
struct Writer {
    out: Vec<u8>,
    /// Nothing stands yet between the last bracket and here.
    first: bool,
}

impl Writer {
    fn open(&mut self, bracket: char) {
        self.out.push(bracket as u8);
        self.first = true;
    }

    fn close(&mut self, bracket: char) {
        self.out.push(bracket as u8);
        self.first = false;
    }

    fn comma(&mut self) {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
    }

    fn key(&mut self, key: &str) {
        self.comma();
        self.text(key);
        self.out.push(b':');
    }

    fn text(&mut self, text: &str) {
        // Writing a string into memory has no way to fail.
        let _ = serde_json::to_writer(&mut self.out, text);
    }

    fn text_field(&mut self, key: &str, text: &str) {
        self.key(key);
        self.text(text);
    }

    fn raw_field(&mut self, key: &str, raw: &str) {
        self.key(key);
        self.out.extend_from_slice(raw.as_bytes());
    }

    fn optional(&mut self, key: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text_field(key, text);
        }
    }

    fn flag(&mut self, key: &str, is_set: bool) {
        if is_set {
            self.raw_field(key, "true");
        }
    }

    fn pairs(&mut self, key: &str, pairs: &BTreeMap<String, String>) {
        if pairs.is_empty() {
            return;
        }
        self.key(key);
        self.open('{');
        for (name, value) in pairs {
            self.text_field(name, value);
        }
        self.close('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_stored_as_it_was_sent_white_space_and_all() {
        let metadata = "{ \"b\" : 1e400,\n \"a\":\"\\u00e9\", \"a\":2 }";
        let manifest = Manifest { metadata_json: metadata.into(), ..Manifest::default() };
        let text = String::from_utf8(manifest_json(&manifest)).unwrap();
        assert_eq!(text, format!(r#"{{"manifest_version":"v1","metadata":{metadata},"resources":[]}}"#));
    }
}
