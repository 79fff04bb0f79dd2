//! What the demo asks for.
//!
//! Owns: the list of resources, their sizes and their bodies. Must not know: who serves them.

use sha2::{Digest as _, Sha256};

use super::origin::Origin;

/// One resource and how its origin behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Sends the body in pieces over about this long.
    Serve { over_ms: u64 },
    /// Answers 500 once, then serves.
    FailOnce,
    /// Answers 404, always.
    Missing,
}

#[derive(Debug, Clone, Copy)]
pub struct Item {
    pub name: &'static str,
    pub bytes: usize,
    pub manner: Manner,
}

const fn item(name: &'static str, bytes: usize, over_ms: u64) -> Item {
    Item { name, bytes, manner: Manner::Serve { over_ms } }
}

const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;

/// 24 resources: two misbehave, the rest differ in size and speed.
pub const ITEMS: [Item; 24] = [
    item("cover.jpg", 180 * KIB, 300),
    item("page-01.jpg", 420 * KIB, 600),
    item("page-02.jpg", 512 * KIB, 900),
    item("page-03.jpg", 388 * KIB, 1200),
    item("page-04.jpg", 610 * KIB, 1500),
    item("page-05.jpg", 295 * KIB, 1800),
    item("page-06.jpg", 701 * KIB, 2100),
    Item { name: "page-07.jpg", bytes: 333 * KIB, manner: Manner::FailOnce },
    item("page-08.jpg", 480 * KIB, 2400),
    item("page-09.jpg", 256 * KIB, 2700),
    item("page-10.jpg", 550 * KIB, 3000),
    item("page-11.jpg", 620 * KIB, 3300),
    item("page-12.jpg", 470 * KIB, 3600),
    Item { name: "page-13.jpg", bytes: 0, manner: Manner::Missing },
    item("page-14.jpg", 530 * KIB, 2500),
    item("page-15.jpg", 610 * KIB, 1700),
    item("page-16.jpg", 90 * KIB, 900),
    item("thumbs.tar", 3 * MIB, 2000),
    item("audio.ogg", 6 * MIB, 2800),
    item("film.mp4", 12 * MIB, 4000),
    item("index.html", 4 * KIB, 0),
    item("style.css", 900, 0),
    item("robots.txt", 26, 0),
    item("empty.txt", 0, 0),
];

/// The same bytes for a name, always: a cheap generator seeded by the name.
pub fn body(item: &Item) -> Vec<u8> {
    let seed = Sha256::digest(item.name).iter().fold(0, |seed: u64, byte| seed.rotate_left(8) ^ u64::from(*byte));
    let mut state = seed | 1;
    let mut body = Vec::with_capacity(item.bytes + 8);
    while body.len() < item.bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        body.extend_from_slice(&state.to_le_bytes());
    }
    body.truncate(item.bytes);
    body
}

/// The manifest as a client would write it.
pub fn json(origin: &Origin) -> Vec<u8> {
    let resource = |item: &Item| serde_json::json!({ "id": item.name, "url": origin.url(item.name) });
    let manifest = serde_json::json!({
        "manifest_version": "v1",
        "metadata": { "title": "A FetchBox demo", "pages": 16 },
        "resources": ITEMS.iter().map(resource).collect::<Vec<_>>(),
    });
    manifest.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_shows_a_retry_a_loss_and_many_successes() {
        assert!(ITEMS.len() >= 20);
        assert_eq!(ITEMS.iter().filter(|item| item.manner == Manner::FailOnce).count(), 1);
        assert_eq!(ITEMS.iter().filter(|item| item.manner == Manner::Missing).count(), 1);
        let names: std::collections::BTreeSet<_> = ITEMS.iter().map(|item| item.name).collect();
        assert_eq!(names.len(), ITEMS.len());
    }

    #[test]
    fn a_body_is_as_long_as_promised_and_always_the_same() {
        for item in ITEMS.iter().filter(|item| item.bytes < MIB) {
            assert_eq!(body(item).len(), item.bytes);
            assert_eq!(body(item), body(item));
        }
        assert_ne!(body(&ITEMS[1])[..64], body(&ITEMS[2])[..64]);
    }
}
