//! Whether two manifests say the same: a canonical form and its SHA-256.
//!
//! Owns: what counts (everything a manifest says) and what does not (encoding, compression, white space, order of object
//! keys and of headers with different names, how a string is escaped). Must not know: idempotency keys' storage.
//!
//! Every text is written with its length before it, so that no two different manifests have one form.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::model::{Header, JobType, Manifest, Resource, Tenant};

/// SHA-256 of the canonical form.
pub fn body_hash(manifest: &Manifest) -> [u8; 32] {
    let mut form = Form(Vec::with_capacity(256 + 256 * manifest.resources.len() + manifest.metadata_json.len()));
    form.text("fetchbox manifest v1");
    form.json(&manifest.metadata_json);
    form.json(&manifest.attributes_json);
    form.optional(manifest.storage.manifest_file.as_deref());
    form.optional(manifest.storage.resource_key_prefix.as_deref());
    form.count(manifest.resources.len());
    for item in &manifest.resources {
        resource(&mut form, item);
    }
    Sha256::digest(&form.0).into()
}

/// First half of SHA-256 over tenant, job type and key. Neither slug can contain the separator.
pub fn key_hash(tenant: &Tenant, job_type: &JobType, key: &str) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in [tenant.as_str(), "\0", job_type.as_str(), "\0", key] {
        hash.update(part.as_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut half = [0u8; 16];
    half.copy_from_slice(digest.split_at(16).0);
    half
}

fn resource(form: &mut Form, item: &Resource) {
    form.text(&item.id);
    form.text(&item.url);
    headers(form, &item.headers);
    form.pairs(&item.tags);
    form.optional_bytes(item.checksum.as_ref().map(<[u8; 32]>::as_slice));
    form.optional(item.mime_hint.as_deref());
    form.0.extend_from_slice(&item.max_bytes.unwrap_or(0).to_be_bytes());
    match &item.storage_hint {
        None => form.0.push(0),
        Some(hint) => {
            form.0.push(1);
            form.optional(hint.bucket.as_deref());
            form.optional(hint.key_prefix.as_deref());
            form.pairs(&hint.metadata);
        }
    }
    said(form, b'c', item.storage_hint.as_ref().is_some_and(|hint| hint.content_addressed));
    match &item.proxy_hint {
        None => form.0.push(0),
        Some(hint) => {
            form.0.push(1);
            form.text(&hint.primary_pool);
            form.count(hint.fallbacks.len());
            for pool in &hint.fallbacks {
                form.text(pool);
            }
        }
    }
    said(form, b'r', item.revalidate);
}

/// A field that is younger than the form: written only where it is set, so that what was accepted before it came keeps its
/// digest. No other part of the form can stand where the mark does.
fn said(form: &mut Form, mark: u8, is_set: bool) {
    if is_set {
        form.0.push(mark);
    }
}

/// By name: an object has no order. Values of one name keep theirs.
fn headers(form: &mut Form, headers: &[Header]) {
    let mut sorted: Vec<(String, &Header)> = Vec::with_capacity(headers.len());
    sorted.extend(headers.iter().map(|header| (header.name.to_ascii_lowercase(), header)));
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    form.count(sorted.len());
    for (_, header) in sorted {
        form.text(&header.name);
        form.text(&header.value);
    }
}

struct Form(Vec<u8>);

impl Form {
    fn count(&mut self, count: usize) {
        self.0.extend_from_slice(&(count as u64).to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn optional(&mut self, text: Option<&str>) {
        self.optional_bytes(text.map(str::as_bytes));
    }

    fn optional_bytes(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            None => self.0.push(0),
            Some(bytes) => {
                self.0.push(1);
                self.bytes(bytes);
            }
        }
    }

    fn pairs(&mut self, pairs: &BTreeMap<String, String>) {
        self.count(pairs.len());
        for (name, value) in pairs {
            self.text(name);
            self.text(value);
        }
    }

    /// JSON that was found valid and not too deep.
    fn json(&mut self, json: &str) {
        let mut reader = Reader { json, at: 0 };
        let form = if json.is_empty() { vec![OBJECT, 0, 0, 0, 0, 0, 0, 0, 0] } else { reader.value() };
        self.bytes(&form);
    }
}

const OBJECT: u8 = b'{';
const LIST: u8 = b'[';
const TEXT: u8 = b'"';
/// Numbers, true, false, null: as written. 1 and 1.0 are two bodies; to call two numbers equal would need to know who reads them.
const WORD: u8 = b'w';

/// A form that was too long to be copied about.
const DIGEST: u8 = b'#';

/// Walks valid JSON. On text that is not valid it still ends, with some form or other.
struct Reader<'a> {
    json: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self) -> Vec<u8> {
        match self.next_byte() {
            Some(b'{') => self.object(),
            Some(b'[') => self.list(),
            Some(b'"') => tagged(TEXT, &self.string()),
            _ => tagged(WORD, self.word().as_bytes()),
        }
    }

    /// Members sorted by key; keys that repeat keep their order.
    fn object(&mut self) -> Vec<u8> {
        self.at += 1;
        let mut members: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        while self.next_byte() == Some(b'"') {
            let key = self.string();
            self.skip(b':');
            members.push((key, self.value()));
            self.skip(b',');
        }
        self.skip(b'}');
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut form = Form(vec![OBJECT]);
        form.count(members.len());
        for (key, value) in members {
            form.bytes(&key);
            form.0.extend_from_slice(&value);
        }
        short(form.0)
    }

    fn list(&mut self) -> Vec<u8> {
        self.at += 1;
        let mut items = Form(Vec::new());
        let mut count = 0;
        while !matches!(self.next_byte(), None | Some(b']')) {
            let before = self.at;
            items.0.extend_from_slice(&self.value());
            count += 1;
            self.skip(b',');
            if self.at == before {
                break;
            }
        }
        self.skip(b']');
        let mut form = Form(vec![LIST]);
        form.count(count);
        form.0.extend_from_slice(&items.0);
        short(form.0)
    }

    /// The string at the cursor, unescaped. One that means no text (half a surrogate pair) stays as it is written.
    fn string(&mut self) -> Vec<u8> {
        let rest = self.rest();
        let mut escaped = false;
        let mut plain = true;
        let mut end = rest.len();
        for (index, byte) in rest.bytes().enumerate().skip(1) {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => {
                    escaped = true;
                    plain = false;
                }
                b'"' => {
                    end = index + 1;
                    break;
                }
                _ => {}
            }
        }
        let quoted = rest.get(..end).unwrap_or(rest);
        self.at += quoted.len();
        if plain {
            return quoted.trim_matches('"').as_bytes().to_vec();
        }
        match serde_json::from_str::<String>(quoted) {
            Ok(text) => text.into_bytes(),
            // The first byte is in no text: no string that is spelt like this one can be taken for it.
            Err(_) => [&[0xff], quoted.as_bytes()].concat(),
        }
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c: char| c.is_ascii_whitespace() || ",:]}[{\"".contains(c)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    fn rest(&self) -> &'a str {
        self.json.get(self.at..).unwrap_or_default()
    }

    fn next_byte(&mut self) -> Option<u8> {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
        self.rest().bytes().next()
    }

    fn skip(&mut self, byte: u8) {
        if self.next_byte() == Some(byte) {
            self.at += 1;
        }
    }
}

fn tagged(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut form = Form(vec![tag]);
    form.bytes(bytes);
    short(form.0)
}

/// Long forms stand by their digest: otherwise each level of nesting would copy all that is below it.
fn short(form: Vec<u8>) -> Vec<u8> {
    if form.len() <= 1_024 { form } else { [&[DIGEST], Sha256::digest(&form).as_slice()].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(json: &str) -> Vec<u8> {
        let mut form = Form(Vec::new());
        form.json(json);
        form.0
    }

    #[test]
    fn spelling_does_not_make_a_body_another_one() {
        let plain = form(r#"{"a":[1,true,null,"é"],"b":{"c":{},"d":[]}}"#);
        assert_eq!(form("\n{ \"b\" : {\"d\":[ ], \"c\":{ }} ,\t\"a\" :[ 1 , true,null , \"\\u00e9\" ] } "), plain);
        assert_eq!(form(""), form("{ }"));
    }

    #[test]
    fn different_bodies_never_have_one_form() {
        let bodies = [
            "{}",
            r#"{"a":1}"#,
            r#"{"a":"1"}"#,
            r#"{"a":1.0}"#,
            r#"{"a":[1]}"#,
            r#"{"a":{"1":1}}"#,
            r#"{"a":null}"#,
            r#"{"a":[]}"#,
            r#"{"a":{}}"#,
            r#"{"a":[[],1]}"#,
            r#"{"a":[[1]]}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a":2,"a":1}"#,
            r#"{"a":100000000000000000001}"#,
            r#"{"a":100000000000000000002}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":"\ud801"}"#,
            r#"{"a":"b\",\"c"}"#,
            r#"{"a":"b","c":""}"#,
            r#"{"a":"\\"}"#,
            r#"{"a":"\\\\"}"#,
        ];
        let forms: std::collections::BTreeSet<Vec<u8>> = bodies.iter().map(|body| form(body)).collect();
        assert_eq!(forms.len(), bodies.len());
    }

    #[test]
    fn text_that_is_no_json_does_not_hang_the_walk() {
        for text in ["[", "[,", "{\"", "{\"a\"", "[}", "\"\\", "]", "{]", "[:", "{\"a\":"] {
            form(text);
        }
    }

    #[test]
    fn a_key_belongs_to_its_tenant_and_job_type() {
        let slug = |text: &str| (Tenant::parse(text).unwrap(), JobType::parse(text).unwrap());
        let (a, b) = (slug("a"), slug("b"));
        let hashes = [
            key_hash(&a.0, &a.1, "k"),
            key_hash(&b.0, &a.1, "k"),
            key_hash(&a.0, &b.1, "k"),
            key_hash(&a.0, &a.1, "l"),
        ];
        let distinct: std::collections::BTreeSet<[u8; 16]> = hashes.into_iter().collect();
        assert_eq!(distinct.len(), 4);
    }
}
