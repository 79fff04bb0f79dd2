//! Violations as they are found: each with its path, all of them counted, the first hundred kept.
//!
//! Owns: paths, the cap, and that a place of the wrong type is not complained about twice. Must not know: what is checked.

use std::fmt;

use crate::model::{Refusal, Violation};

/// What an answer carries. A manifest that is wrong in each of 1,000 resources need not be told so 10,000 times.
pub const VIOLATIONS_MAX: usize = 100;

/// A place in a request, as `resources[3].url`. Lives on the stack; becomes text only when something is wrong there.
#[derive(Clone, Copy)]
pub enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }

    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => f.write_str(ROOT),
            Path::Key(Path::Root, key) => f.write_str(&shown(key)),
            Path::Key(on, key) => write!(f, "{on}.{}", shown(key)),
            Path::Index(on, index) => write!(f, "{on}[{index}]"),
        }
    }
}

/// How the manifest as a whole is called in a path.
const ROOT: &str = "manifest";

/// A client's text as it may stand in a path or message: short and printable.
pub fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(64).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if out.len() < text.len() && text.chars().nth(64).is_some() {
        out.push('…');
    }
    out
}

#[derive(Debug, Default)]
pub struct Found {
    kept: Vec<Kept>,
    total: usize,
}

#[derive(Debug)]
struct Kept {
    violation: Violation,
    /// The value has the wrong type: nothing below it can be judged.
    whole: bool,
}

impl Kept {
    fn is_above(&self, path: &str) -> bool {
        let own = self.violation.path.as_str();
        own == ROOT || path.strip_prefix(own).is_some_and(|rest| rest.starts_with(['.', '[']))
    }
}

impl Found {
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    pub fn add(&mut self, at: &Path<'_>, message: impl Into<String>) {
        self.push(at, message, false);
    }

    /// The value at this place has the wrong type. What is missing below it is not reported again.
    pub fn add_whole(&mut self, at: &Path<'_>, message: impl Into<String>) {
        self.push(at, message, true);
    }

    /// Appends what was found elsewhere.
    pub fn absorb(&mut self, other: Found) {
        self.total += other.total;
        let room = VIOLATIONS_MAX.saturating_sub(self.kept.len());
        self.kept.extend(other.kept.into_iter().take(room));
    }

    /// Adds the fault, if there is one.
    pub fn check(&mut self, at: &Path<'_>, fault: Option<&'static str>) {
        if let Some(message) = fault {
            self.add(at, message);
        }
    }

    fn push(&mut self, at: &Path<'_>, message: impl Into<String>, whole: bool) {
        if self.kept.len() >= VIOLATIONS_MAX {
            self.total += 1;
            return;
        }
        let path = at.to_string();
        let covered = self.kept.iter().any(|kept| kept.violation.path == path || kept.whole && kept.is_above(&path));
        if !covered {
            self.total += 1;
            self.kept.push(Kept { violation: Violation { path, message: message.into() }, whole });
        }
    }

    /// The kept ones in the order they were found, and if there were more, a last one that says how many.
    pub fn into_violations(self) -> Vec<Violation> {
        let more = self.total - self.kept.len();
        let mut all: Vec<Violation> = self.kept.into_iter().map(|kept| kept.violation).collect();
        if more > 0 {
            let message = format!("has {more} more violations that are not listed");
            all.push(Violation { path: ROOT.to_owned(), message });
        }
        all
    }

    pub fn into_refusal(self) -> Refusal {
        let total = self.total;
        let mut refusal = Refusal::violations(self.into_violations());
        if total > VIOLATIONS_MAX {
            refusal.message = format!("{total} violations, the first {VIOLATIONS_MAX} are listed");
        }
        refusal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_like_the_client_wrote_it() {
        let resources = Path::Root.key("resources");
        let third = resources.index(3);
        assert_eq!(third.key("url").to_string(), "resources[3].url");
        let long = "x".repeat(5_000_000);
        assert!(third.key(&long).to_string().len() < 300);
        assert!(!third.key("a\nb").to_string().contains('\n'));
    }

    #[test]
    fn an_answer_stays_small_and_says_how_much_it_leaves_out() {
        let mut found = Found::default();
        let resources = Path::Root.key("resources");
        for index in 0..412 {
            found.add(&resources.index(index), "is wrong");
        }
        let refusal = found.into_refusal();
        assert_eq!(refusal.violations.len(), VIOLATIONS_MAX + 1);
        assert!(refusal.violations[100].message.contains("312 more"), "{:?}", refusal.violations[100]);
        assert!(refusal.message.contains("412"));
    }

    #[test]
    fn a_value_of_the_wrong_type_is_reported_once() {
        let mut found = Found::default();
        let resources = Path::Root.key("resources");
        found.add_whole(&resources.index(1), "must be an object");
        found.add(&resources.index(1).key("url"), "is missing");
        found.add(&resources.index(10).key("url"), "is missing");
        assert_eq!(found.into_violations().len(), 2);
    }
}
