//! Manifest JSON → fields, tolerantly: wrong types, unknown and duplicate keys are noted with their path and reading goes on,
//! so that a client learns everything at once.
//!
//! Owns: the JSON shape of a manifest. Must not know: what values are legal; that is asked afterwards, for every encoding alike.

mod shape;

use serde::de::{DeserializeSeed as _, IgnoredAny, MapAccess, SeqAccess};

use self::shape::{As, Scalar, ScalarSeed, Shape, TextShape, fields, flag, note, text, verbatim};
use super::found::{Found, Path};
use super::raw::{RawManifest, RawResource, RawStorageHint};
use crate::model::{HEADERS_MAX, RESOURCES_MAX, Violation};

/// Kept of one list of pairs or pools: enough to see that it is too long, too few to fill memory.
const KEPT_MAX: usize = 33;

/// Reads a manifest. What is wrong with its shape goes into `found`.
///
/// # Errors
/// The text is not JSON: one violation with line and column.
pub fn parse(text: &str, found: &mut Found) -> Result<RawManifest, Violation> {
    let mut raw = RawManifest::default();
    let mut json = serde_json::Deserializer::from_str(text);
    // Kept apart: what was noted before the syntax broke would only distract.
    let mut noted = Found::default();
    let shape = ManifestShape { raw: &mut raw, found: &mut noted };
    let read = As(shape).deserialize(&mut json).and_then(|()| json.end());
    match read {
        Ok(()) => {
            found.absorb(noted);
            Ok(raw)
        }
        Err(error) => Err(Violation { path: "manifest".to_owned(), message: format!("is not valid JSON: {error}") }),
    }
}

struct ManifestShape<'a> {
    raw: &'a mut RawManifest,
    found: &'a mut Found,
}

impl<'de> Shape<'de> for ManifestShape<'_> {
    const WANTS: &'static str = "an object";
    const OPTIONAL: bool = false;

    fn wrong(self, is: &'static str) {
        note(self.found, &Path::Root, Self::WANTS, is);
    }

    fn map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        const KNOWN: &[&str] = &["manifest_version", "metadata", "resources", "attributes", "storage"];
        let raw = self.raw;
        fields(map, &Path::Root, self.found, KNOWN, |key, map, at, found| match key {
            0 => text(map, &mut raw.manifest_version, at, found),
            1 => verbatim(map, &mut raw.metadata_json, at, found, false),
            2 => map.next_value_seed(As(ResourcesShape { out: &mut raw.resources, at, found })),
            3 => verbatim(map, &mut raw.attributes_json, at, found, true),
            _ => map.next_value_seed(As(LayoutShape { raw: &mut *raw, at, found })),
        })
    }
}

struct LayoutShape<'a> {
    raw: &'a mut RawManifest,
    at: &'a Path<'a>,
    found: &'a mut Found,
}

impl<'de> Shape<'de> for LayoutShape<'_> {
    const WANTS: &'static str = "an object";

    fn wrong(self, is: &'static str) {
        note(self.found, self.at, Self::WANTS, is);
    }

    fn map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let raw = self.raw;
        fields(map, self.at, self.found, &["manifest_file", "resource_key_prefix"], |key, map, at, found| {
            let out = if key == 0 { &mut raw.manifest_file } else { &mut raw.resource_key_prefix };
            text(map, out, at, found)
        })
    }
}

struct ResourcesShape<'a> {
    out: &'a mut Vec<RawResource>,
    at: &'a Path<'a>,
    found: &'a mut Found,
}

impl<'de> Shape<'de> for ResourcesShape<'_> {
    const WANTS: &'static str = "a list";

    fn wrong(self, is: &'static str) {
        note(self.found, self.at, Self::WANTS, is);
    }

    fn seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        loop {
            let at = self.at.index(self.out.len());
            let mut resource = RawResource::default();
            let shape = ResourceShape { out: &mut resource, at: &at, found: self.found };
            if seq.next_element_seed(As(shape))?.is_none() {
                return Ok(());
            }
            self.out.push(resource);
            if self.out.len() == RESOURCES_MAX {
                break;
            }
        }
        // Counted, not kept: five megabytes of `{},` must not become a gigabyte.
        let mut given = self.out.len();
        while seq.next_element::<IgnoredAny>()?.is_some() {
            given += 1;
        }
        if given > RESOURCES_MAX {
            self.found.add(self.at, format!("has {given} entries, at most {RESOURCES_MAX} are allowed"));
        }
        Ok(())
    }
}

struct ResourceShape<'a> {
    out: &'a mut RawResource,
    at: &'a Path<'a>,
    found: &'a mut Found,
}

impl<'de> Shape<'de> for ResourceShape<'_> {
    const WANTS: &'static str = "an object";
    const OPTIONAL: bool = false;

    fn wrong(self, is: &'static str) {
        note(self.found, self.at, Self::WANTS, is);
    }

    fn map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        const KNOWN: &[&str] = &[
            "id",
            "name",
            "url",
            "headers",
            "tags",
            "checksum",
            "mime_hint",
            "max_bytes",
            "storage_hint",
            "proxy_hint",
            "revalidate",
        ];
        let out = self.out;
        let mut named = false;
        fields(map, self.at, self.found, KNOWN, |key, map, at, found| match key {
            0 | 1 => {
                if std::mem::replace(&mut named, true) {
                    found.add(at, "is given twice: name is another word for id");
                    return map.next_value::<IgnoredAny>().map(drop);
                }
                text(map, &mut out.id, at, found)
            }
            2 => text(map, &mut out.url, at, found),
            3 => map.next_value_seed(As(PairsShape::headers(&mut out.headers, at, found))),
            4 => map.next_value_seed(As(PairsShape::texts(&mut out.tags, at, found))),
            5 => text(map, &mut out.checksum, at, found),
            6 => text(map, &mut out.mime_hint, at, found),
            7 => {
                let mut value = Scalar::Null;
                map.next_value_seed(ScalarSeed(&mut value))?;
                match value {
                    Scalar::Null => {}
                    Scalar::Uint(max) => out.max_bytes = max,
                    Scalar::Number => found.add_whole(at, "must be a whole number of bytes, 0 or more"),
                    Scalar::Text(_) => note(found, at, "a number", "a string"),
                    Scalar::Bool(_) => note(found, at, "a number", "a boolean"),
                    Scalar::Other(is) => note(found, at, "a number", is),
                }
                Ok(())
            }
            8 => map.next_value_seed(As(StorageHintShape { out: &mut out.storage_hint, at, found })),
            9 => map.next_value_seed(As(ProxyHintShape { out: &mut out.proxy_hint, at, found })),
            _ => flag(map, &mut out.revalidate, at, found),
        })
    }
}

/// An object of texts; for headers also a list of `{name, value}`.
struct PairsShape<'a> {
    out: &'a mut Vec<(String, String)>,
    at: &'a Path<'a>,
    found: &'a mut Found,
    headers: bool,
    kept_max: usize,
}

impl<'a> PairsShape<'a> {
    fn headers(out: &'a mut Vec<(String, String)>, at: &'a Path<'a>, found: &'a mut Found) -> Self {
        Self { out, at, found, headers: true, kept_max: HEADERS_MAX + 1 }
    }

    fn texts(out: &'a mut Vec<(String, String)>, at: &'a Path<'a>, found: &'a mut Found) -> Self {
        Self { out, at, found, headers: false, kept_max: KEPT_MAX }
    }

    fn repeats(&self, name: &str) -> bool {
        self.out.iter().any(|(known, _)| known == name || self.headers && known.eq_ignore_ascii_case(name))
    }
}

impl<'de> Shape<'de> for PairsShape<'_> {
    const WANTS: &'static str = "an object";

    fn wrong(self, is: &'static str) {
        let wants = if self.headers { "an object or a list" } else { Self::WANTS };
        note(self.found, self.at, wants, is);
    }

    fn map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while self.out.len() < self.kept_max {
            let Some(name) = map.next_key::<String>()? else { return Ok(()) };
            let mut value = String::new();
            text(&mut map, &mut value, &self.at.key(&name), self.found)?;
            if self.repeats(&name) {
                self.found.add(&self.at.key(&name), "is given twice");
            } else {
                self.out.push((name, value));
            }
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if !self.headers {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            self.wrong("a list");
            return Ok(());
        }
        while self.out.len() < self.kept_max {
            let at = self.at.index(self.out.len());
            let mut pair = (String::new(), String::new());
            let shape = HeaderShape { out: &mut pair, at: &at, found: self.found };
            if seq.next_element_seed(As(shape))?.is_none() {
                return Ok(());
            }
            self.out.push(pair);
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

struct HeaderShape<'a> {
    out: &'a mut (String, String),
    at: &'a Path<'a>,
    found: &'a mut Found,
}

impl<'de> Shape<'de> for HeaderShape<'_> {
    const WANTS: &'static str = "an object of name and value";
    const OPTIONAL: bool = false;

    fn wrong(self, is: &'static str) {
        note(self.found, self.at, Self::WANTS, is);
    }

    fn map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let (name, value) = self.out;
        fields(map, self.at, self.found, &["name", "value"], |key, map, at, found| {
            text(map, if key == 0 { &mut *name } else { &mut *value }, at, found)
        })
    }
}

struct StorageHintShape<'a> {
    out: &'a mut Option<RawStorageHint>,
    at: &'a Path<'a>,
    found: &'a mut Found,
}

impl<'de> Shape<'de> for StorageHintShape<'_> {
    const WANTS: &'static str = "an object";

    fn wrong(self, is: &'static str) {
        note(self.found, self.at, Self::WANTS, is);
    }

    fn map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let out = self.out.insert(RawStorageHint::default());
        const KNOWN: &[&str] = &["bucket", "key_prefix", "metadata", "content_addressed"];
        fields(map, self.at, self.found, KNOWN, |key, map, at, found| match key {
            0 => text(map, &mut out.bucket, at, found),
            1 => text(map, &mut out.key_prefix, at, found),
            2 => map.next_value_seed(As(PairsShape::texts(&mut out.metadata, at, found))),
            _ => flag(map, &mut out.content_addressed, at, found),
        })
    }
}

struct ProxyHintShape<'a> {
    out: &'a mut Option<(String, Vec<String>)>,
    at: &'a Path<'a>,
    found: &'a mut Found,
}

impl<'de> Shape<'de> for ProxyHintShape<'_> {
    const WANTS: &'static str = "an object";

    fn wrong(self, is: &'static str) {
        note(self.found, self.at, Self::WANTS, is);
    }

    fn map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let (primary, fallbacks) = self.out.insert(Default::default());
        fields(map, self.at, self.found, &["primary_pool", "fallbacks"], |key, map, at, found| match key {
            0 => text(map, primary, at, found),
            _ => map.next_value_seed(As(TextsShape { out: &mut *fallbacks, at, found })),
        })
    }
}

struct TextsShape<'a> {
    out: &'a mut Vec<String>,
    at: &'a Path<'a>,
    found: &'a mut Found,
}

impl<'de> Shape<'de> for TextsShape<'_> {
    const WANTS: &'static str = "a list of strings";

    fn wrong(self, is: &'static str) {
        note(self.found, self.at, Self::WANTS, is);
    }

    fn seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while self.out.len() < KEPT_MAX {
            let at = self.at.index(self.out.len());
            let mut item = String::new();
            if seq.next_element_seed(TextShape { out: &mut item, at: &at, found: self.found })?.is_none() {
                return Ok(());
            }
            self.out.push(item);
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}
