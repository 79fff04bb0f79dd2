//! The house, as a test: which room may name which, which foreign crate lives where, and that the documents tell the truth.
//!
//! The table is `tidy/house.rs`, the rules are `tidy/rules.rs`. Here they meet the real repository, and then, rule by rule, a
//! fault that is planted in memory and must be found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::Path;

#[path = "tidy/house.rs"]
mod house;
#[path = "tidy/lex.rs"]
mod lex;
#[path = "tidy/rules.rs"]
mod rules;

use house::HOUSE;
use lex::Tokens;
use rules::*;

// ---- the real repository ----

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn walk(folder: &str, ending: &str, found: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(root().join(folder)) else { return };
    for entry in entries {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            walk(&path, ending, found);
        } else if path.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
}

fn sources() -> Vec<(String, String)> {
    let mut paths = Vec::new();
    walk("src", ".rs", &mut paths);
    paths.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

fn lexed() -> Vec<(String, Tokens)> {
    sources().into_iter().map(|(path, text)| (path.clone(), Tokens::of(&path, &text))).collect()
}

#[track_caller]
fn clean(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_room_names_only_the_rooms_its_line_allows() {
    clean(lexed().iter().flat_map(|(path, tokens)| arrows(path, tokens)).collect());
}

#[test]
fn every_foreign_crate_stays_in_its_rooms() {
    clean(lexed().iter().flat_map(|(path, tokens)| foreigners(path, tokens)).collect());
}

#[test]
fn time_and_chance_come_from_the_clock() {
    clean(lexed().iter().flat_map(|(path, tokens)| clocks(path, tokens)).collect());
}

#[test]
fn every_file_opens_with_what_it_owns_and_is_short() {
    let mut tests = Vec::new();
    walk("tests", ".rs", &mut tests);
    let tests = tests.into_iter().map(|path| (path.clone(), read(&path)));
    clean(sources().into_iter().chain(tests).flat_map(|(path, text)| openings(&path, &text)).collect());
}

#[test]
fn the_library_lists_every_room() {
    let top = |path: &str| module_of(path).first().cloned();
    let rooms: BTreeSet<String> = sources().iter().filter_map(|(path, _)| top(path)).collect();
    let rooms = rooms.into_iter().filter(|room| room != "lib" && room != "main").collect();
    clean(map_of_rooms(&read("src/lib.rs"), &rooms));
}

#[test]
fn no_rooms_and_no_files_of_a_room_form_a_cycle() {
    let files = lexed();
    assert_eq!(cycle(&room_edges(&files)), None, "between rooms");
    let found: Vec<String> = HOUSE
        .iter()
        .filter_map(|room| Some(format!("in {}: {}", room.name, cycle(&inner_edges(room.name, &files))?.join(" → "))))
        .collect();
    clean(found);
}

#[test]
fn the_table_of_rooms_is_a_ladder() {
    for (at, room) in HOUSE.iter().enumerate() {
        for known in room.knows {
            let above = HOUSE.iter().position(|other| other.name == *known);
            assert!(
                above.is_some_and(|above| above < at),
                "{} knows {known}, which does not stand above it",
                room.name
            );
        }
    }
}

#[test]
fn the_failure_codes_in_the_documents_are_the_real_ones() {
    use fetchbox::model::FailureCode;
    let codes: Vec<_> = FailureCode::ALL
        .iter()
        .map(|c| {
            let plain = |word: String| word.to_lowercase();
            let (class, budget) = (plain(format!("{:?}", c.class())), plain(format!("{:?}", c.budget())));
            [c.as_str().to_owned(), class, budget, c.meaning().to_owned(), c.action().to_owned()]
        })
        .collect();
    clean(whole_table("docs/failures.md", &read("docs/failures.md"), &codes));
}

#[test]
fn the_metrics_in_the_documents_are_the_real_ones() {
    let told = fetchbox::telemetry::Metrics::TABLE.iter();
    let rows: Vec<_> = told
        .map(|(name, kind, labels, help)| {
            [(*name).to_owned(), (*kind).to_owned(), labels.join(", "), (*help).to_owned()]
        })
        .collect();
    clean(whole_table("docs/metrics.md", &read("docs/metrics.md"), &rows));
}

#[test]
fn the_key_table_in_the_documents_is_the_real_one() {
    clean(key_table(&read("docs/storage.md"), &read("src/store/keys.rs")));
}

#[test]
fn the_example_configuration_is_the_default_one() {
    let load = |file| {
        let nothing = std::iter::empty::<(std::ffi::OsString, std::ffi::OsString)>();
        let config = fetchbox::config::load(file, nothing).unwrap_or_else(|invalid| panic!("{invalid}"));
        serde_yaml::to_string(&config).unwrap()
    };
    let (example, defaults) = (load(Some(&root().join("config.example.yml"))), load(None));
    let differ = |(shown, real): (&str, &str)| {
        (shown != real).then(|| format!("config.example.yml says `{}`, the default is `{}`", shown.trim(), real.trim()))
    };
    clean(example.lines().zip(defaults.lines()).filter_map(differ).collect());
}

#[test]
fn the_lock_file_holds_one_tls_provider() {
    clean(locked_packages(&read("Cargo.lock")));
}

#[test]
fn no_link_in_the_documents_is_dead() {
    let mut pages = vec!["README.md".to_owned()];
    walk("docs", ".md", &mut pages);
    let exists = |path: &str| root().join(path).exists();
    clean(pages.iter().flat_map(|path| dead_links(path, &read(path), &exists)).collect());
}

// ---- faults, planted ----

fn tokens(text: &str) -> Tokens {
    Tokens::of("planted.rs", text)
}

#[test]
fn tidy_fails_when_an_arrow_is_planted() {
    let planted = [
        ("src/worker/fetch.rs", "use crate::store::Store;"),
        ("src/worker/fetch.rs", "use crate::{model::Task, store};"),
        ("src/worker/fetch.rs", "use crate::{model::{Task, TaskRef}, clock, store::{Reader as R}};"),
        ("src/worker/fetch.rs", "fn f() { let x = crate::dispatch::Options::default(); }"),
        ("src/worker/fetch.rs", "use super::super::store::Store;"),
        ("src/worker/mod.rs", "use super::store::Store;"),
        ("src/worker/mod.rs", "mod deep { use super::super::store::Store; }"),
        ("src/worker/mod.rs", "macro_rules! m { () => { $crate::store::Store } }"),
        ("src/worker/mod.rs", "#[cfg(test)] mod tests { use crate::store::Store; }"),
        ("src/worker/tests.rs", "use crate::store::Store;"),
        ("src/api/grpc.rs", "use crate::store::Reader;"),
        ("src/ledger/mod.rs", "use crate::store::{Reader, Store};"),
        ("src/ledger/mod.rs", "use crate::store::*;"),
        ("src/model/mod.rs", "use crate::clock::Clock;"),
        ("src/main.rs", "fn main() { fetchbox::store::open(); }"),
        ("src/newroom/mod.rs", "//! A room nobody knows."),
    ];
    for (path, text) in planted {
        assert_eq!(arrows(path, &tokens(text)).len(), 1, "{path}: {text}: {:?}", arrows(path, &tokens(text)));
    }
    let fine = [
        ("src/worker/fetch.rs", "use crate::{clock, model::Task, objects::{Objects, Place}, telemetry::Metrics};"),
        (
            "src/worker/fetch.rs",
            "// use crate::store::Store;\n/// [`crate::store::Store`]\nconst T: &str = \"crate::store\";",
        ),
        ("src/worker/fetch.rs", "use super::Options; mod tests { use super::super::Outcome; }"),
        ("src/ledger/mod.rs", "#[cfg(test)] mod tests { use crate::store::Store; }"),
        ("src/ledger/mod.rs", "use crate::store::{Reader, Counters};"),
    ];
    for (path, text) in fine {
        clean(arrows(path, &tokens(text)));
    }
}

#[test]
fn tidy_fails_when_a_foreign_crate_strays() {
    assert_eq!(foreigners("src/api/grpc.rs", &tokens("use fjall::Database;")).len(), 1);
    assert_eq!(foreigners("src/ingest/mod.rs", &tokens("#[derive(prost::Message)] struct A;")).len(), 1);
    assert_eq!(foreigners("src/dispatch/mod.rs", &tokens("fn f() -> ::reqwest::Client { todo!() }")).len(), 1);
    assert_eq!(foreigners("src/daemon.rs", &tokens("use {tokio::time, clap::Parser};")).len(), 1);
    clean(foreigners("src/store/keys.rs", &tokens("use fjall::Database; // tonic::Status")));
    clean(foreigners("src/ingest/mod.rs", &tokens("#[cfg(test)] mod tests { use serde_yaml::from_str; }")));
    clean(foreigners("src/ingest/mod.rs", &tokens("fn f(prost: u8) -> u8 { prost }")));
}

#[test]
fn tidy_fails_when_somebody_else_looks_at_the_clock() {
    for text in [
        "fn f() { std::time::SystemTime::now(); }",
        "fn f() { let t = Instant::now(); }",
        "use fastrand::Rng;",
        "fn f() { jiff::Timestamp::now(); }",
        "fn f() { uuid::Uuid::now_v7(); }",
    ] {
        assert_eq!(clocks("src/dispatch/mod.rs", &tokens(text)).len(), 1, "{text}");
        clean(clocks("src/clock.rs", &tokens(text)));
    }
    clean(clocks("src/dispatch/mod.rs", &tokens("fn f() { tokio::time::Instant::now(); clock.now_ms(); }")));
    clean(clocks("src/dispatch/mod.rs", &tokens("fn f() { fastrand::Rng::with_seed(7); }")));
}

#[test]
fn tidy_fails_on_a_silent_or_endless_file() {
    assert_eq!(openings("src/a.rs", "use std::fs;\n").len(), 1);
    let long = format!("//! A file.\n{}", "\n".repeat(500));
    assert_eq!(openings("src/a.rs", &long).len(), 1);
    clean(openings("src/a.rs", &format!("//! A file.\n//! Long because: one table.\n{}", "\n".repeat(500))));
}

#[test]
fn tidy_fails_when_the_map_forgets_a_room() {
    let rooms = BTreeSet::from(["store".to_owned(), "model".to_owned()]);
    clean(map_of_rooms("//! model, then store\npub mod model;\npub mod store;\n", &rooms));
    assert_eq!(map_of_rooms("//! model\npub mod model;\npub mod store;\n", &rooms).len(), 1);
    assert_eq!(map_of_rooms("//! model store\npub mod model;\n", &rooms).len(), 1);
}

#[test]
fn tidy_fails_on_a_cycle() {
    let rooms = [("src/store/mod.rs", "use crate::ingest::A;"), ("src/ingest/mod.rs", "use crate::store::B;")];
    let lex = |files: &[(&str, &str)]| -> Vec<(String, Tokens)> {
        files.iter().map(|(path, text)| ((*path).to_owned(), tokens(text))).collect()
    };
    assert!(cycle(&room_edges(&lex(&rooms))).is_some());
    let inner = [
        ("src/store/mod.rs", "mod a; mod b; pub use a::A; pub use b::{B, C};"),
        ("src/store/a.rs", "use super::B;"),
        ("src/store/b.rs", "fn f() { crate::store::a::go(); }"),
    ];
    assert!(cycle(&inner_edges("store", &lex(&inner))).is_some());
    assert!(cycle(&inner_edges("store", &lex(&inner[..2]))).is_none());
}

#[test]
fn tidy_fails_when_a_document_lies() {
    let codes = [["A_B", "permanent", "It broke.", "Mend `it`, then go on."].map(str::to_owned)];
    let told = "| code | class |\n|---|---|\n| `A_B` | permanent | It broke. | Mend `it`, then go on. |\n";
    clean(whole_table("f.md", told, &codes));
    for (real, lie) in
        [("permanent", "transient"), ("broke", "works"), ("Mend", "Keep"), (" Mend `it`, then go on. |", "")]
    {
        assert_eq!(whole_table("f.md", &told.replace(real, lie), &codes).len(), 1, "{lie}");
    }
    assert_eq!(whole_table("f.md", &told.replace("A_B", "A_C"), &codes).len(), 2);
    let keys = "/// x\npub enum Family {\n  /// A job.\n  Job = 0x01,\n  /// A log.\n  Log = 0x10,\n}";
    clean(key_table("| `0x01` | Job | a |\n| `0x10` | Log | b |", keys));
    assert_eq!(key_table("| `0x01` | Job | a |\n| `0x11` | Log | b |", keys).len(), 2);
    assert_eq!(key_table("", "enum Other { A = 1 }").len(), 1);
    assert_eq!(
        dead_links("docs/a.md", "see [b](../README.md#x) and [c](gone.md)", &|path| path == "README.md").len(),
        1
    );
}

#[test]
fn tidy_fails_when_a_second_tls_provider_moves_in() {
    assert_eq!(locked_packages("[[package]]\nname = \"aws-lc-sys\"\n").len(), 1);
    assert_eq!(locked_packages("name = \"ring\"\nversion = \"1\"\nname = \"ring\"\n").len(), 1);
    clean(locked_packages("name = \"ring\"\n"));
}
