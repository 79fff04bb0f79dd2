//! The same manifest is the same, however it is sent; and what is stored reads back as what was accepted.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;
use crate::ingest::{RawManifest, RawResource, RawStorageHint};
use crate::model::Manifest;

fn body(submission: Submission) -> [u8; 32] {
    prepare(submission).unwrap().idempotency.unwrap().body
}

fn pairs(keys: &'static str, values: &'static str) -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map(keys, values, 0..4)
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        "[\\x00-\\x7f]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z\\PC]{0,3}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

prop_compose! {
    fn any_object()(map in proptest::collection::btree_map("[a-zé\"\\\\]{0,3}", any_json(), 0..4)) -> String {
        Value::Object(map.into_iter().collect()).to_string()
    }
}

prop_compose! {
    fn any_resource()(
        url in "https?://[a-z]{1,8}\\.example/[a-zA-Z0-9/_.~%-]{0,12}(\\?[a-z=&]{0,6})?",
        headers in pairs("x-[a-z]{1,6}", "[ -~]{0,12}"),
        tags in pairs("[a-z.é]{1,6}", "[ -~é\"]{0,6}"),
        digest in proptest::option::of(any::<[u8; 32]>()),
        mime_hint in "(image/(png|jpeg))?",
        max_bytes in prop_oneof![Just(0u64), any::<u64>()],
        hint in proptest::option::of(("(allowed)?", "(own/\\{job_id\\}|pics/)?", pairs("[a-z-]{1,4}", "[a-z]{0,4}"), any::<bool>())),
        proxy in proptest::option::of(proptest::collection::vec(Just("eu".to_owned()), 0..3)),
        revalidate in any::<bool>(),
    ) -> RawResource {
        RawResource {
            id: String::new(),
            url,
            headers: headers.into_iter().collect(),
            tags: tags.into_iter().collect(),
            checksum: digest.map(|digest| crate::handler::checksum_text(&digest)).unwrap_or_default(),
            mime_hint,
            max_bytes,
            storage_hint: hint.map(|(bucket, key_prefix, metadata, content_addressed)| {
                RawStorageHint { bucket, key_prefix, metadata: metadata.into_iter().collect(), content_addressed }
            }),
            proxy_hint: proxy.map(|fallbacks| ("eu".to_owned(), fallbacks)),
            revalidate,
        }
    }
}

prop_compose! {
    fn any_manifest()(
        metadata_json in any_object(),
        attributes_json in any_object(),
        resources in proptest::collection::vec(any_resource(), 1..5),
        manifest_file in "(mine/\\{job_id\\}\\.json)?",
        resource_key_prefix in "(theirs/\\{job_id\\})?",
    ) -> RawManifest {
        let numbered = resources.into_iter().enumerate().map(|(n, raw)| RawResource { id: format!("r{n}"), ..raw });
        RawManifest {
            manifest_version: "v1".into(),
            metadata_json,
            attributes_json,
            resources: numbered.collect(),
            manifest_file,
            resource_key_prefix,
        }
    }
}

/// The manifest as a client might write it: keys backwards, much white space, every second list of headers an object.
fn written(raw: &RawManifest, pretty: bool) -> String {
    let text = |text: &str| Value::from(text);
    let object = |pairs: &[(String, String)]| {
        Value::Object(pairs.iter().rev().map(|(key, value)| (key.clone(), text(value))).collect())
    };
    let resource = |(index, item): (usize, &RawResource)| {
        let mut map = Map::new();
        map.insert("revalidate".into(), item.revalidate.into());
        if let Some((primary, fallbacks)) = &item.proxy_hint {
            map.insert("proxy_hint".into(), serde_json::json!({"fallbacks": fallbacks, "primary_pool": primary}));
        }
        if let Some(hint) = &item.storage_hint {
            let hint = serde_json::json!({"content_addressed": hint.content_addressed, "metadata": object(&hint.metadata),
                "key_prefix": hint.key_prefix, "bucket": hint.bucket});
            map.insert("storage_hint".into(), hint);
        }
        map.insert("max_bytes".into(), item.max_bytes.into());
        map.insert("mime_hint".into(), text(&item.mime_hint));
        map.insert("checksum".into(), text(&item.checksum));
        map.insert("tags".into(), object(&item.tags));
        let listed = item.headers.iter().map(|(name, value)| serde_json::json!({"value": value, "name": name}));
        let headers = if index % 2 == 0 { object(&item.headers) } else { listed.collect() };
        map.insert("headers".into(), headers);
        map.insert("url".into(), text(&item.url));
        map.insert(if index % 2 == 0 { "id" } else { "name" }.into(), text(&item.id));
        Value::Object(map)
    };
    let backwards = |json: &str| {
        let Value::Object(map) = serde_json::from_str(json).unwrap() else { panic!("{json}") };
        Value::Object(map.into_iter().rev().collect())
    };
    let mut map = Map::new();
    map.insert(
        "storage".into(),
        serde_json::json!({"resource_key_prefix": raw.resource_key_prefix, "manifest_file": raw.manifest_file}),
    );
    map.insert("attributes".into(), backwards(&raw.attributes_json));
    map.insert("resources".into(), raw.resources.iter().enumerate().map(resource).collect());
    map.insert("metadata".into(), backwards(&raw.metadata_json));
    map.insert("manifest_version".into(), text("v1"));
    let value = Value::Object(map);
    if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() }
}

fn accepted(source: Source) -> Manifest {
    prepare(submission(source)).unwrap().manifest
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_resend_in_another_encoding_is_the_same_job(raw in any_manifest(), pretty in any::<bool>()) {
        let text = written(&raw, pretty);
        let fields = body(keyed(Source::Fields(Box::new(raw))));
        prop_assert_eq!(body(keyed(Source::Json(text.clone().into_bytes()))), fields);
        prop_assert_eq!(body(keyed(Source::JsonGzip(gzip(text.as_bytes())))), fields);
    }

    #[test]
    fn what_is_stored_reads_back_as_what_was_accepted(raw in any_manifest()) {
        let manifest = accepted(Source::Fields(Box::new(raw.clone())));
        prop_assert_eq!(&manifest.metadata_json, &raw.metadata_json);
        let stored = crate::ingest::manifest_json(&manifest);
        prop_assert_eq!(accepted(Source::Json(stored.clone())), manifest);
        let again = accepted(Source::Json(stored.clone()));
        prop_assert_eq!(crate::ingest::manifest_json(&again), stored);
    }

    #[test]
    fn no_bytes_make_the_door_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = prepare(submission(Source::Json(bytes.clone())));
        let _ = prepare(submission(Source::JsonGzip(bytes)));
    }

    #[test]
    fn no_near_manifest_makes_the_door_panic(raw in any_manifest(), cut in any::<prop::sample::Index>(), with in any::<u8>()) {
        let mut bytes = written(&raw, true).into_bytes();
        let at = cut.index(bytes.len());
        bytes[at] = with;
        let _ = prepare(keyed(Source::Json(bytes)));
    }
}

#[test]
fn any_difference_that_matters_is_another_body() {
    let with = |fields: &str| {
        let text = format!(r#"{{"manifest_version":"v1","resources":[{{"id":"a","url":"http://h/"{fields}}}]}}"#);
        keyed(Source::Json(text.into_bytes()))
    };
    let all = [
        "",
        r#","headers":{"x-a":"1"}"#,
        r#","headers":[{"name":"x-a","value":"1"},{"name":"x-a","value":"2"}]"#,
        r#","headers":[{"name":"x-a","value":"2"},{"name":"x-a","value":"1"}]"#,
        r#","tags":{"x-a":"1"}"#,
        r#","max_bytes":1"#,
        r#","mime_hint":"a/b""#,
        r#","storage_hint":{"key_prefix":"a"}"#,
        r#","storage_hint":{"bucket":"allowed"}"#,
        r#","storage_hint":{"bucket":"allowed","content_addressed":true}"#,
        r#","revalidate":true"#,
        r#","storage_hint":{"content_addressed":true}"#,
        r#","proxy_hint":{"primary_pool":"eu"}"#,
        r#","checksum":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad""#,
    ];
    let bodies: BTreeSet<[u8; 32]> = all.iter().map(|fields| body(with(fields))).collect();
    assert_eq!(bodies.len(), all.len());
}

#[test]
fn priority_and_trace_do_not_make_a_body_another_one() {
    let plain = Submission { idempotency_key: "k".into(), ..with_resource("") };
    let other = Submission {
        priority: Priority::High,
        trace_parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
        ..plain.clone()
    };
    assert_eq!(prepare(plain).unwrap().idempotency, prepare(other).unwrap().idempotency);
}

#[test]
fn without_a_key_every_submission_is_a_job_of_its_own() {
    assert_eq!(prepare(with_resource("")).unwrap().idempotency, None);
}
