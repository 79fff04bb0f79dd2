//! What is wrong is refused, all of it at once, each with its path.

use super::*;
use crate::model::RefusalCode;

/// Fields of a resource, and where the fault must be reported below `resources[0]`.
const RESOURCE_FAULTS: &[(&str, &str)] = &[
    (r#""headers":{"Host":"x"}"#, "headers[0].name"),
    (r#""headers":{"Transfer-Encoding":"chunked"}"#, "headers[0].name"),
    (r#""headers":{"":"x"}"#, "headers[0].name"),
    (r#""headers":{"X-A":"a\r\nHost: evil"}"#, "headers[0].value"),
    (r#""headers":[{"name":"X\nA","value":"x"}]"#, "headers[0].name"),
    (r#""headers":[{"name":"X-A","value":"x","more":1}]"#, "headers[0].more"),
    (r#""headers":[{"name":"X-A","name":"X-B","value":"x"}]"#, "headers[0].name"),
    (r#""headers":["x"]"#, "headers[0]"),
    (r#""headers":{"X-A":1}"#, "headers.X-A"),
    (r#""headers":{"X-A":"1","x-a":"2"}"#, "headers.x-a"),
    (r#""headers":"X-A: 1""#, "headers"),
    (r#""tags":{"":"x"}"#, "tags"),
    (r#""tags":{"a":["x"]}"#, "tags.a"),
    (r#""tags":{"a":"x","a":"y"}"#, "tags.a"),
    (r#""tags":{"a":"\u0000"}"#, "tags.a"),
    (r#""tags":["a"]"#, "tags"),
    (r#""checksum":"md5:00""#, "checksum"),
    (r#""checksum":"sha256:00""#, "checksum"),
    (r#""checksum":"sha256:zz7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad""#, "checksum"),
    (r#""checksum":5"#, "checksum"),
    (r#""mime_hint":"image""#, "mime_hint"),
    (r#""max_bytes":-1"#, "max_bytes"),
    (r#""max_bytes":1.5"#, "max_bytes"),
    (r#""max_bytes":"1""#, "max_bytes"),
    (r#""max_bytes":99999999999999999999"#, "max_bytes"),
    (r#""storage_hint":{"bucket":"foreign"}"#, "storage_hint.bucket"),
    (r#""storage_hint":{"bucket":"../x"}"#, "storage_hint.bucket"),
    (r#""storage_hint":{"key_prefix":"../x"}"#, "storage_hint.key_prefix"),
    (r#""storage_hint":{"key_prefix":"a/%2e%2e/b"}"#, "storage_hint.key_prefix"),
    (r#""storage_hint":{"key_prefix":"/"}"#, "storage_hint.key_prefix"),
    (r#""storage_hint":{"metadata":{"Upper":"x"}}"#, "storage_hint.metadata.Upper"),
    (r#""storage_hint":{"metadata":{"sha256":"x"}}"#, "storage_hint.metadata.sha256"),
    (r#""storage_hint":{"metadata":{"a":"ä"}}"#, "storage_hint.metadata.a"),
    (r#""storage_hint":{"region":"eu"}"#, "storage_hint.region"),
    (r#""storage_hint":[]"#, "storage_hint"),
    (r#""proxy_hint":{"primary_pool":"us"}"#, "proxy_hint.primary_pool"),
    (r#""proxy_hint":{"primary_pool":"eu","fallbacks":["eu","us"]}"#, "proxy_hint.fallbacks[1]"),
    (r#""proxy_hint":{"primary_pool":"eu","fallbacks":[1]}"#, "proxy_hint.fallbacks[0]"),
    (r#""proxy_hint":{"primary_pool":"eu","fallbacks":"us"}"#, "proxy_hint.fallbacks"),
    (r#""proxy_hint":{}"#, "proxy_hint.primary_pool"),
    (r#""name":"b""#, "name"),
    (r#""id":"b""#, "id"),
    (r#""colour":"red""#, "colour"),
];

#[test]
fn each_field_of_a_resource_is_judged_at_its_path() {
    for (fields, below) in RESOURCE_FAULTS {
        let found = paths(prepare(with_resource(&format!(",{fields}"))));
        assert_eq!(found, [format!("resources[0].{below}")], "{fields}");
    }
}

#[test]
fn ids_and_urls_that_lead_elsewhere_are_refused() {
    let of = |id: &str, url: &str| {
        let (id, url) = (serde_json::to_string(id).unwrap(), serde_json::to_string(url).unwrap());
        json(format!(r#"{{"manifest_version":"v1","resources":[{{"id":{id},"url":{url}}}]}}"#))
    };
    for id in ["", "..", "../../etc/passwd", "a/b", "a\\b", "%2e%2e", ".hidden", "a\u{0}b", &"a".repeat(129)] {
        assert_eq!(paths(prepare(of(id, "http://h/"))), ["resources[0].id"], "{id:?}");
    }
    let long = format!("http://h/{}", "a".repeat(8_192));
    let urls = [
        "",
        "ftp://h/",
        "file:///etc/passwd",
        "http://u:p@h/",
        "http://u@h/",
        "http://h/\r\nX: y",
        "http://h/ x",
        "http://",
        &long,
    ];
    for url in urls {
        assert_eq!(paths(prepare(of("a", url))), ["resources[0].url"], "{url:?}");
    }
}

#[test]
fn each_field_of_a_manifest_is_judged_at_its_path() {
    let resources = r#""resources":[{"id":"a","url":"http://h/"}]"#;
    let deep = format!("{}{}", "[".repeat(101), "]".repeat(101));
    let faults = [
        (resources.to_owned(), "manifest_version"),
        (format!(r#""manifest_version":"v2",{resources}"#), "manifest_version"),
        (format!(r#""manifest_version":1,{resources}"#), "manifest_version"),
        (format!(r#""manifest_version":"v1","manifest_version":"v1",{resources}"#), "manifest_version"),
        (format!(r#""manifest_version":"v1","metadata":[],{resources}"#), "metadata"),
        (format!(r#""manifest_version":"v1","metadata":null,{resources}"#), "metadata"),
        (format!(r#""manifest_version":"v1","metadata":{{"a":{deep}}},{resources}"#), "metadata"),
        (format!(r#""manifest_version":"v1","attributes":"x",{resources}"#), "attributes"),
        (
            format!(r#""manifest_version":"v1","storage":{{"manifest_file":"a/../b"}},{resources}"#),
            "storage.manifest_file",
        ),
        (format!(r#""manifest_version":"v1","storage":{{"manifest_file":"a/"}},{resources}"#), "storage.manifest_file"),
        (
            format!(r#""manifest_version":"v1","storage":{{"resource_key_prefix":".x"}},{resources}"#),
            "storage.resource_key_prefix",
        ),
        (format!(r#""manifest_version":"v1","storage":{{"bucket":"x"}},{resources}"#), "storage.bucket"),
        (format!(r#""manifest_version":"v1","storage":7,{resources}"#), "storage"),
        (format!(r#""manifest_version":"v1","priority":7,{resources}"#), "priority"),
        (r#""manifest_version":"v1","resources":{}"#.to_owned(), "resources"),
        (r#""manifest_version":"v1","resources":[null]"#.to_owned(), "resources[0]"),
        (
            r#""manifest_version":"v1","resources":[{"id":"a","url":"http://h/"},{"id":"a","url":"http://h/"}]"#
                .to_owned(),
            "resources[1].id",
        ),
    ];
    for (fields, path) in faults {
        assert_eq!(paths(prepare(json(format!("{{{fields}}}")))), [path], "{fields}");
    }
}

#[test]
fn the_request_around_the_manifest_is_judged_with_it() {
    let submission = Submission {
        job_type: "../x".into(),
        tenant: "A".into(),
        idempotency_key: "k".repeat(257),
        trace_parent: "x".into(),
        ..json(r#"{"manifest_version":"v1","resources":[{"id":"a"}]}"#)
    };
    let expected = ["job_type", "tenant", "idempotency_key", "trace_parent", "resources[0].url"];
    assert_eq!(paths(prepare(submission)), expected);
}

#[test]
fn a_manifest_wrong_everywhere_is_told_everything_at_once() {
    let fields: Vec<&str> = RESOURCE_FAULTS.iter().map(|(fields, _)| *fields).collect();
    let resources: Vec<String> =
        fields.iter().map(|fields| format!(r#"{{"id":"a","url":"http://h/",{fields}}}"#)).collect();
    let text = format!(r#"{{"manifest_version":"v1","metadata":3,"extra":1,"resources":[{}]}}"#, resources.join(","));
    let found = paths(prepare(json(text)));
    for (index, (_, below)) in RESOURCE_FAULTS.iter().enumerate() {
        assert!(found.contains(&format!("resources[{index}].{below}")), "{below} in {found:?}");
    }
    for path in ["metadata", "extra", "resources[1].id"] {
        assert!(found.contains(&path.to_owned()), "{path}");
    }
}

#[test]
fn a_thousand_wrong_resources_get_a_bounded_answer() {
    let resources = vec![r#"{"id":"/","url":"/","tags":5,"more":1}"#; 1_000].join(",");
    let refusal = prepare(json(format!(r#"{{"manifest_version":"v1","resources":[{resources}]}}"#))).unwrap_err();
    assert_eq!(refusal.violations.len(), 101);
    assert!(refusal.violations[100].message.contains("4899 more"), "{:?}", refusal.violations[100]);
}

#[test]
fn a_syntax_error_is_one_violation_with_its_line_and_column() {
    for text in [
        "",
        "{",
        "[1",
        "{\"a\" 1}",
        "{\"manifest_version\":\"v1\",\n\"resources\":[{\"id\":5}}",
        "\u{feff}{}",
        "{} x",
        "{'a':1}",
    ] {
        let refusal = prepare(json(text)).unwrap_err();
        assert_eq!(refusal.violations.len(), 1, "{text:?}: {refusal}");
        assert_eq!(refusal.violations[0].path, "manifest");
        assert!(refusal.message.contains("line ") && refusal.message.contains("column "), "{refusal}");
    }
    assert_eq!(paths(prepare(json("[]"))).first().map(String::as_str), Some("manifest"));
    let broken = submission(Source::Json(b"{\"manifest_version\":\"\xff\"}".to_vec()));
    assert!(prepare(broken).unwrap_err().message.contains("byte 21"));
}

#[test]
fn a_body_that_is_no_object_is_reported_once() {
    for text in ["[]", "null", "5", "\"x\"", "true"] {
        assert_eq!(paths(prepare(json(text))), ["manifest"], "{text}");
    }
}

#[test]
fn sizes_are_bounded_in_every_encoding() {
    let padded = |bytes: usize| {
        let head = r#"{"manifest_version":"v1","resources":[{"id":"a","url":"http://h/"}],"metadata":{"x":""#;
        format!("{head}{}\"}}}}", "y".repeat(bytes - head.len() - 3))
    };
    let (fits, over) = (padded(5_000_000), padded(5_000_001));
    assert_eq!(fits.len(), 5_000_000);
    assert!(prepare(json(fits.clone())).is_ok());
    assert!(prepare(submission(Source::JsonGzip(gzip(fits.as_bytes())))).is_ok());
    assert_eq!(prepare(json(over.clone())).unwrap_err().code, RefusalCode::PayloadTooLarge);
    let packed = submission(Source::JsonGzip(gzip(over.as_bytes())));
    assert_eq!(prepare(packed).unwrap_err().code, RefusalCode::PayloadTooLarge);
    let bomb = submission(Source::JsonGzip(gzip(&vec![b' '; 100_000_000])));
    assert_eq!(prepare(bomb).unwrap_err().code, RefusalCode::PayloadTooLarge);
    let raw = crate::ingest::RawManifest { metadata_json: over, ..Default::default() };
    assert_eq!(prepare(submission(Source::Fields(Box::new(raw)))).unwrap_err().code, RefusalCode::PayloadTooLarge);
}

#[test]
fn a_broken_gzip_body_is_a_violation_of_the_manifest() {
    let whole = gzip(br#"{"manifest_version":"v1","resources":[{"id":"a","url":"http://h/"}]}"#);
    assert!(prepare(submission(Source::JsonGzip(whole.clone()))).is_ok());
    let mut trailing = whole.clone();
    trailing.push(7);
    for body in [Vec::new(), whole[..whole.len() - 3].to_vec(), trailing, b"{}".to_vec()] {
        assert_eq!(paths(prepare(submission(Source::JsonGzip(body)))), ["manifest"]);
    }
}

#[test]
fn a_million_empty_resources_do_not_fill_memory() {
    let text = format!(r#"{{"manifest_version":"v1","resources":[{}{{}}]}}"#, "{},".repeat(1_000_000));
    let refusal = prepare(json(text)).unwrap_err();
    assert!(refusal.violations[0].message.contains("1000001 entries"), "{refusal}");
}

#[test]
fn endless_nesting_ends_nothing_but_itself() {
    for open in ["[", "{\"a\":"] {
        let text = format!(r#"{{"manifest_version":"v1","x":{}"#, open.repeat(800_000));
        assert_eq!(paths(prepare(json(text))), ["manifest"]);
        let text = format!(r#"{{"manifest_version":"v1","metadata":{{"x":{}"#, open.repeat(800_000));
        assert_eq!(paths(prepare(json(text))), ["manifest"]);
    }
    let closed = format!(r#"{{"manifest_version":"v1","resources":[{}{}]}}"#, "[".repeat(800_000), "]".repeat(800_000));
    assert_eq!(paths(prepare(json(closed))), ["resources[0]"]);
}

#[test]
fn messages_do_not_repeat_header_values() {
    let refusal = prepare(with_resource(r#","headers":{"Authorization":"secret\n"}"#)).unwrap_err();
    assert!(!format!("{refusal:?}").contains("secret"));
}

#[test]
fn objects_of_one_job_cannot_meet() {
    let text = r#"{"manifest_version":"v1","storage":{"manifest_file":"x/a"},"resources":[
        {"id":"a","url":"http://h/","storage_hint":{"key_prefix":"x"}},{"id":"b","url":"http://h/"}]}"#;
    assert_eq!(paths(prepare(json(text))), ["resources[0]"]);
}
