//! The rules, as pure functions over (path, text): each answers with every fault it found.
//!
//! Must not know: where the files are.

use std::collections::{BTreeMap, BTreeSet};

use super::house::{BANNED_PACKAGES, FOREIGN, HOUSE, LINES_MAX, ONLY, Room, SINGLE_PACKAGES, TEST_TOOLS};
use super::lex::{self, Named, Tokens};

pub fn find(name: &str) -> Option<&'static Room> {
    HOUSE.iter().find(|room| room.name == name)
}

/// `src/store/queue.rs` → `["store", "queue"]`, `src/store/mod.rs` → `["store"]`.
pub fn module_of(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    inner.split('/').filter(|part| *part != "mod").map(str::to_owned).collect()
}

/// Where a path leads, from the crate's root, when it stays in this crate.
pub fn resolve(named: &Named, file_module: &[String]) -> Option<Vec<String>> {
    let mut base: Vec<String> = file_module.iter().chain(&named.inside).cloned().collect();
    let first = named.path.first()?;
    let rest = match first.as_str() {
        "crate" => return Some(named.path[1..].to_vec()),
        "fetchbox" if file_module == ["main"] => return Some(named.path[1..].to_vec()),
        "self" => &named.path[1..],
        "super" => {
            let ups = named.path.iter().take_while(|part| *part == "super").count();
            base.truncate(base.len().checked_sub(ups)?);
            &named.path[ups..]
        }
        _ => return None,
    };
    Some(base.into_iter().chain(rest.iter().cloned()).collect())
}

pub fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.ends_with("_test.rs") || path.contains("/tests/")
}

/// Every place where a room names one it may not.
pub fn arrows(path: &str, tokens: &Tokens) -> Vec<String> {
    let module = module_of(path);
    if module == ["lib"] {
        return Vec::new();
    }
    let Some(home) = module.first().and_then(|name| find(name)) else {
        return vec![format!("{path}: this room is not in the table of tests/tidy.rs")];
    };
    let mut faults = Vec::new();
    for named in &tokens.named {
        let Some(target) = resolve(named, &module) else { continue };
        let Some(to) = target.first() else { continue };
        if to == home.name || to == "telemetry" {
            continue;
        }
        let Some(to) = find(to) else {
            faults.push(format!("{path}:{}: names crate::{to}, which is no room", named.line));
            continue;
        };
        let in_test = named.test || is_test_file(path);
        let allowed = home.knows.contains(&to.name) || (in_test && home.tests_know.contains(&to.name));
        if !allowed {
            faults.push(format!("{path}:{}: {} must not name {}", named.line, home.name, to.name));
        }
        let only = ONLY.iter().find(|(from, room, _)| *from == home.name && *room == to.name);
        if let (false, Some((_, _, names))) = (in_test, only) {
            let item = target.get(1).map_or("*", String::as_str);
            if !names.contains(&item) {
                faults.push(format!("{path}:{}: {} must not name {}::{item}", named.line, home.name, to.name));
            }
        }
    }
    faults
}

/// Foreign crates outside their rooms.
pub fn foreigners(path: &str, tokens: &Tokens) -> Vec<String> {
    let module = module_of(path);
    let home = module.first().map_or("", String::as_str);
    let stray = |named: &&Named| {
        let rule = FOREIGN.iter().find(|(name, _)| named.path.first().is_some_and(|first| first == name));
        let tool = (named.test || is_test_file(path))
            && named.path.first().is_some_and(|first| TEST_TOOLS.contains(&first.as_str()));
        !tool && rule.is_some_and(|(_, rooms)| !rooms.contains(&home))
    };
    let named = tokens.named.iter().filter(stray);
    named.map(|n| format!("{path}:{}: {} does not live in {home}", n.line, n.path[0])).collect()
}

/// Asking the system for time or chance anywhere but in `clock.rs`.
pub fn clocks(path: &str, tokens: &Tokens) -> Vec<String> {
    if path == "src/clock.rs" {
        return Vec::new();
    }
    let asks = |named: &&Named| {
        let p: Vec<&str> = named.path.iter().map(String::as_str).collect();
        let timer = p.starts_with(&["tokio", "time"]);
        p.ends_with(&["SystemTime", "now"])
            || (p.ends_with(&["Instant", "now"]) && !timer)
            || p.ends_with(&["Utc", "now"])
            || p.ends_with(&["Timestamp", "now"])
            || p.ends_with(&["Zoned", "now"])
            || p.ends_with(&["Uuid", "now_v7"])
            || p.ends_with(&["Uuid", "new_v4"])
            || (p.first() == Some(&"fastrand") && !p.ends_with(&["with_seed"]))
    };
    let named = tokens.named.iter().filter(asks);
    named.map(|n| format!("{path}:{}: {} belongs in clock.rs", n.line, n.path.join("::"))).collect()
}

/// Each file says first what it owns, and is short or says why not.
pub fn openings(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.starts_with("//!") {
        faults.push(format!("{path}:1: does not open with //!"));
    }
    let lines = text.lines().count();
    let excused = text.lines().take_while(|l| l.starts_with("//!")).any(|l| l.starts_with("//! Long because: "));
    if lines > LINES_MAX && !excused {
        faults.push(format!("{path}: {lines} lines, and no `//! Long because:` line"));
    }
    faults
}

/// `lib.rs` declares each room, and its map speaks of it.
pub fn map_of_rooms(lib: &str, rooms: &BTreeSet<String>) -> Vec<String> {
    let map: String = lib.lines().filter(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n");
    let mut faults = Vec::new();
    for room in rooms {
        if !lib.lines().any(|line| line.trim() == format!("pub mod {room};")) {
            faults.push(format!("src/lib.rs: does not declare {room}"));
        }
        if !lex::words(&map).any(|word| word == room) {
            faults.push(format!("src/lib.rs: its map does not mention {room}"));
        }
    }
    faults
}

/// Who names whom, room by room.
pub fn room_edges(files: &[(String, Tokens)]) -> BTreeMap<String, BTreeSet<String>> {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, tokens) in files {
        let module = module_of(path);
        let Some(home) = module.first().filter(|name| find(name).is_some()) else { continue };
        for named in tokens.named.iter().filter(|named| !named.test) {
            let target = resolve(named, &module).and_then(|target| target.into_iter().next());
            if let Some(to) = target.filter(|to| to != home && find(to).is_some()) {
                edges.entry(home.clone()).or_default().insert(to);
            }
        }
    }
    edges
}

/// Who names whom among the files of one room. A name that `mod.rs` re-exports counts as naming the file it comes from;
/// what `mod.rs` itself defines or composes is the room's own face and makes no edge.
pub fn inner_edges(room: &str, files: &[(String, Tokens)]) -> BTreeMap<String, BTreeSet<String>> {
    let parts: Vec<(Vec<String>, &String, &Tokens)> = files
        .iter()
        .map(|(path, tokens)| (module_of(path), path, tokens))
        .filter(|(module, ..)| module.first().is_some_and(|first| first == room))
        .collect();
    let children: BTreeSet<&String> = parts.iter().filter_map(|(module, ..)| module.get(1)).collect();
    let mut exports: BTreeMap<&String, &String> = BTreeMap::new();
    for (_, _, tokens) in parts.iter().filter(|(module, ..)| module.len() == 1) {
        for named in tokens.named.iter().filter(|named| named.exported && named.path.len() >= 2) {
            let path = if named.path[0] == "self" { &named.path[1..] } else { &named.path[..] };
            if let (Some(child), Some(item)) = (path.first().filter(|c| children.contains(c)), path.last()) {
                exports.insert(item, child);
            }
        }
    }
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, path, tokens) in &parts {
        let Some(from) = module.get(1) else { continue };
        for named in tokens.named.iter().filter(|named| !named.test && !is_test_file(path)) {
            let Some(target) = resolve(named, module).filter(|t| t.first().is_some_and(|f| f == room)) else {
                continue;
            };
            let Some(item) = target.get(1) else { continue };
            let to = if children.contains(item) { Some(item) } else { exports.get(item).copied() };
            if let Some(to) = to.filter(|to| *to != from) {
                edges.entry(from.clone()).or_default().insert(to.clone());
            }
        }
    }
    edges
}

/// Some cycle, named, if there is one.
pub fn cycle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(
        at: &String,
        edges: &BTreeMap<String, BTreeSet<String>>,
        trail: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(from) = trail.iter().position(|name| name == at) {
            return Some(trail[from..].iter().chain([at]).cloned().collect());
        }
        if done.contains(at) {
            return None;
        }
        trail.push(at.clone());
        for next in edges.get(at).into_iter().flatten() {
            if let Some(found) = walk(next, edges, trail, done) {
                return Some(found);
            }
        }
        trail.pop();
        done.insert(at.clone());
        None
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|start| walk(start, edges, &mut Vec::new(), &mut done))
}

/// The first cells of the rows of a Markdown table whose first cell is in backticks.
pub fn rows(markdown: &str) -> Vec<Vec<String>> {
    let lines = markdown.lines().filter(|line| line.starts_with("| `"));
    lines
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect())
        .collect()
}

/// A table lists exactly these rows, each cell as it is in the code.
pub fn whole_table<const N: usize>(path: &str, markdown: &str, real: &[[String; N]]) -> Vec<String> {
    let told = rows(markdown);
    let mut faults = Vec::new();
    for row in real {
        match told.iter().find(|cells| cells[0] == row[0]) {
            None => faults.push(format!("{path}: {} is missing", row[0])),
            Some(cells) if cells[..] != row[..] => {
                faults.push(format!("{path}: the row must be | `{}` | {} |", row[0], row[1..].join(" | ")));
            }
            Some(_) => {}
        }
    }
    let known: BTreeSet<&String> = real.iter().map(|row| &row[0]).collect();
    let unknown = told.iter().filter(|cells| !known.contains(&cells[0]));
    faults.extend(unknown.map(|cells| format!("{path}: {} does not exist", cells[0])));
    faults
}

/// `docs/storage.md` has a row "| `0x..` | Name | …" for each variant of the enum of key families, and no other.
pub fn key_table(markdown: &str, keys: &str) -> Vec<String> {
    let told: BTreeSet<(String, String)> = rows(markdown)
        .into_iter()
        .filter(|row| row[0].starts_with("0x") && row.len() > 1)
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    let real: BTreeSet<(String, String)> = lex::discriminants(keys, "Family").into_iter().collect();
    if real.is_empty() {
        return vec!["src/store/keys.rs: no enum Family with numbered variants".to_owned()];
    }
    let missing = real.difference(&told).map(|(tag, name)| format!("docs/storage.md: no row | `{tag}` | {name} |"));
    missing
        .chain(told.difference(&real).map(|(tag, name)| format!("docs/storage.md: {tag} {name} is no key family")))
        .collect()
}

/// Packages that must not be built, or must be there once.
pub fn locked_packages(lock: &str) -> Vec<String> {
    let names: Vec<&str> = lock.lines().filter_map(|l| l.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    let count = |name: &str| names.iter().filter(|n| **n == name).count();
    let banned = BANNED_PACKAGES.iter().filter(|name| count(name) > 0);
    let twice = SINGLE_PACKAGES.iter().filter(|name| count(name) > 1);
    banned
        .map(|name| format!("Cargo.lock: {name} must not be built"))
        .chain(twice.map(|name| format!("Cargo.lock: more than one version of {name}")))
        .collect()
}

/// Relative links in a Markdown file that lead nowhere. `exists` is asked with a path from the repository's root.
pub fn dead_links(path: &str, markdown: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut faults = Vec::new();
    for piece in markdown.split("](").skip(1) {
        let target = piece.split([')', '#', ' ']).next().unwrap_or("");
        if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
        for part in target.split('/') {
            match part {
                ".." => drop(parts.pop()),
                "." | "" => {}
                part => parts.push(part),
            }
        }
        if !exists(&parts.join("/")) {
            faults.push(format!("{path}: the link {target} leads nowhere"));
        }
    }
    faults
}
