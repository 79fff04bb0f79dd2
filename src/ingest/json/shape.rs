//! Tolerant reading: a value of any type is taken, one of the wrong type is noted with its path, and reading goes on.
//!
//! Owns: objects with known fields, texts, whole numbers, verbatim objects. Must not know: what a manifest is.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::ingest::found::{Found, Path, shown};

/// A place that wants an object, a list or both, and notes everything else.
pub(super) trait Shape<'de>: Sized {
    const WANTS: &'static str;
    /// Null counts as absent.
    const OPTIONAL: bool = true;

    fn wrong(self, is: &'static str);

    fn map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        self.wrong("an object");
        Ok(())
    }

    fn seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        self.wrong("a list");
        Ok(())
    }
}

pub(super) struct As<S>(pub S);

impl<'de, S: Shape<'de>> DeserializeSeed<'de> for As<S> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, S: Shape<'de>> Visitor<'de> for As<S> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(S::WANTS)
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.0.wrong("a boolean");
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.0.wrong("a number");
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.0.wrong("a number");
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.0.wrong("a number");
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        self.0.wrong("a string");
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        if !S::OPTIONAL {
            self.0.wrong("null");
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.0.map(map)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        self.0.seq(seq)
    }
}

pub(super) fn note(found: &mut Found, at: &Path<'_>, wants: &str, is: &str) {
    found.add_whole(at, format!("must be {wants}, is {is}"));
}

/// A key: the index of a known one, or the text of another.
enum Key {
    Known(usize),
    Other(String),
}

struct KeyOf<'k>(&'k [&'static str]);

impl<'de> DeserializeSeed<'de> for KeyOf<'_> {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyOf<'_> {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, text: &str) -> Result<Key, E> {
        let known = self.0.iter().position(|key| *key == text);
        Ok(known.map_or_else(|| Key::Other(shown(text)), Key::Known))
    }
}

/// Walks an object with known keys. Unknown and repeated ones are noted and skipped; `read` takes the value of the others.
pub(super) fn fields<'de, A: MapAccess<'de>>(
    mut map: A,
    at: &Path<'_>,
    found: &mut Found,
    known: &'static [&'static str],
    mut read: impl FnMut(usize, &mut A, &Path<'_>, &mut Found) -> Result<(), A::Error>,
) -> Result<(), A::Error> {
    let mut seen = 0u32;
    while let Some(key) = map.next_key_seed(KeyOf(known))? {
        match key {
            Key::Known(index) => {
                let place = at.key(known.get(index).copied().unwrap_or_default());
                if seen & (1 << index) == 0 {
                    seen |= 1 << index;
                    read(index, &mut map, &place, found)?;
                } else {
                    map.next_value::<IgnoredAny>()?;
                    found.add(&place, "is given twice");
                }
            }
            Key::Other(name) => {
                map.next_value::<IgnoredAny>()?;
                found.add(&at.key(&name), format!("is not a known field; known: {}", known.join(", ")));
            }
        }
    }
    Ok(())
}

/// A text; anything else is noted and reads as empty.
pub(super) struct TextShape<'a> {
    pub out: &'a mut String,
    pub at: &'a Path<'a>,
    pub found: &'a mut Found,
}

impl<'de> DeserializeSeed<'de> for TextShape<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let mut as_any = Scalar::default();
        ScalarSeed(&mut as_any).deserialize(deserializer)?;
        match as_any {
            Scalar::Text(text) => *self.out = text,
            Scalar::Null => {}
            Scalar::Uint(_) | Scalar::Number => note(self.found, self.at, "a string", "a number"),
            Scalar::Bool(_) => note(self.found, self.at, "a string", "a boolean"),
            Scalar::Other(is) => note(self.found, self.at, "a string", is),
        }
        Ok(())
    }
}

#[derive(Default)]
pub(super) enum Scalar {
    #[default]
    Null,
    Text(String),
    Uint(u64),
    /// Negative or with a fraction.
    Number,
    Bool(bool),
    Other(&'static str),
}

pub(super) struct ScalarSeed<'a>(pub &'a mut Scalar);

impl<'de> DeserializeSeed<'de> for ScalarSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        *self.0 = deserializer.deserialize_any(ScalarVisitor)?;
        Ok(())
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Scalar, E> {
        Ok(Scalar::Number)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar::Uint(value))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Scalar, E> {
        Ok(Scalar::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other("an object"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other("a list"))
    }
}

pub(super) fn text<'de, A: MapAccess<'de>>(
    map: &mut A,
    out: &mut String,
    at: &Path<'_>,
    found: &mut Found,
) -> Result<(), A::Error> {
    map.next_value_seed(TextShape { out, at, found })
}

/// True or false; anything else is noted and reads as false.
pub(super) fn flag<'de, A: MapAccess<'de>>(
    map: &mut A,
    out: &mut bool,
    at: &Path<'_>,
    found: &mut Found,
) -> Result<(), A::Error> {
    let mut value = Scalar::Null;
    map.next_value_seed(ScalarSeed(&mut value))?;
    match value {
        Scalar::Null => {}
        Scalar::Bool(value) => *out = value,
        Scalar::Text(_) => note(found, at, "true or false", "a string"),
        Scalar::Uint(_) | Scalar::Number => note(found, at, "true or false", "a number"),
        Scalar::Other(is) => note(found, at, "true or false", is),
    }
    Ok(())
}

/// An object whose text is kept byte for byte.
pub(super) fn verbatim<'de, A: MapAccess<'de>>(
    map: &mut A,
    out: &mut String,
    at: &Path<'_>,
    found: &mut Found,
    optional: bool,
) -> Result<(), A::Error> {
    let raw = map.next_value::<&RawValue>()?.get();
    match raw.as_bytes().first() {
        Some(b'{') => raw.clone_into(out),
        Some(b'n') if optional => {}
        Some(b'n') => note(found, at, "an object", "null"),
        Some(b'[') => note(found, at, "an object", "a list"),
        Some(b'"') => note(found, at, "an object", "a string"),
        Some(b't' | b'f') => note(found, at, "an object", "a boolean"),
        _ => note(found, at, "an object", "a number"),
    }
    Ok(())
}
