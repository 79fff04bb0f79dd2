//! What is looked for in text: a literal or a regular expression, as a request gave it.
//!
//! Owns: which patterns are taken, matching, what a match needs of a block. Must not know: lines, records, who asks.

use memchr::memmem::Finder;
use regex::bytes::{Regex, RegexBuilder};

use super::required::{self, Clause, Literal};
use crate::model::Refusal;
use crate::store::{Edge, TextFilter};

/// Bytes of a text or an expression: nobody types more.
const PATTERN_BYTES_MAX: usize = 4_096;
/// Bytes of a compiled expression: some thousand states, a bound on what one byte of text can cost.
const COMPILED_BYTES_MAX: usize = 512 << 10;
/// Of the cache in which an expression is made fast while it runs.
const CACHE_BYTES_MAX: usize = 2 << 20;
/// How deep an expression may nest.
const NEST_MAX: u32 = 64;

#[derive(Debug, Clone)]
pub struct Pattern {
    matcher: Matcher,
    clauses: Vec<Clause>,
}

#[derive(Debug, Clone)]
enum Matcher {
    Text(Box<Finder<'static>>),
    Regex(Regex),
}

impl Pattern {
    /// The patterns a request sets, `text` and `regex`; none where both are empty.
    ///
    /// # Errors
    /// INVALID_PAYLOAD with `text` or `regex` as its path: too long, does not compile, too large compiled.
    pub fn of(text: &str, regex: &str, ignore_case: bool) -> Result<Vec<Self>, Refusal> {
        let mut patterns = Vec::new();
        if !text.is_empty() {
            patterns.push(Self::text(text, ignore_case)?);
        }
        if !regex.is_empty() {
            patterns.push(Self::regex("regex", regex, ignore_case)?);
        }
        Ok(patterns)
    }

    fn text(text: &str, ignore_case: bool) -> Result<Self, Refusal> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(too_long("text"));
        }
        if ignore_case {
            return Self::regex("text", &regex::escape(text), true);
        }
        let literal = Literal { bytes: text.as_bytes().to_vec(), ignore_case: false };
        let matcher = Matcher::Text(Box::new(Finder::new(text.as_bytes()).into_owned()));
        Ok(Self { matcher, clauses: vec![vec![literal]] })
    }

    fn regex(path: &str, text: &str, ignore_case: bool) -> Result<Self, Refusal> {
        // An escaped text is up to twice as long.
        if text.len() > 2 * PATTERN_BYTES_MAX || (path == "regex" && text.len() > PATTERN_BYTES_MAX) {
            return Err(too_long(path));
        }
        let hir = regex_syntax::ParserBuilder::new()
            .utf8(false)
            .case_insensitive(ignore_case)
            .multi_line(true)
            .nest_limit(NEST_MAX)
            .build()
            .parse(text)
            .map_err(|error| wrong(path, &error.to_string()))?;
        let regex = RegexBuilder::new(text)
            .case_insensitive(ignore_case)
            .multi_line(true)
            .nest_limit(NEST_MAX)
            .size_limit(COMPILED_BYTES_MAX)
            .dfa_size_limit(CACHE_BYTES_MAX)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => {
                    Refusal::invalid(path, format!("is too large: more than {COMPILED_BYTES_MAX} bytes compiled"))
                }
                error => wrong(path, &error.to_string()),
            })?;
        Ok(Self { matcher: Matcher::Regex(regex), clauses: required::clauses(&hir) })
    }

    pub fn is_regex(&self) -> bool {
        matches!(self.matcher, Matcher::Regex(_))
    }

    pub fn is_match(&self, text: &[u8]) -> bool {
        match &self.matcher {
            Matcher::Text(finder) => finder.find(text).is_some(),
            Matcher::Regex(regex) => regex.is_match(text),
        }
    }

    /// Where the first match begins.
    pub fn find(&self, text: &[u8]) -> Option<usize> {
        match &self.matcher {
            Matcher::Text(finder) => finder.find(text),
            Matcher::Regex(regex) => regex.find(text).map(|found| found.start()),
        }
    }

    /// Whether a single record of a block with this filter may match.
    pub fn may_match(&self, filter: &TextFilter) -> bool {
        self.needed_of(|literal| filter.may_contain(&literal.bytes, literal.ignore_case)) == self.all()
    }

    /// A bit for each thing that every match contains.
    pub fn all(&self) -> u32 {
        // At most 24 of them.
        (1u32 << self.clauses.len().min(required::CLAUSES_MAX)) - 1
    }

    /// Which of them a block with this filter may contain.
    pub fn needed_in(&self, filter: &TextFilter) -> u32 {
        self.needed_of(|literal| filter.may_contain(&literal.bytes, literal.ignore_case))
    }

    /// Which of them may stand across a border.
    pub fn needed_across(&self, before: &Edge, behind: &Edge) -> u32 {
        self.needed_of(|literal| before.may_join(behind, &literal.bytes, literal.ignore_case))
    }

    /// Which of them a text contains.
    pub fn needed_in_text(&self, text: &[u8]) -> u32 {
        let lower = self.clauses.iter().flatten().any(|literal| literal.ignore_case).then(|| text.to_ascii_lowercase());
        self.needed_of(|literal| {
            let text = if literal.ignore_case { lower.as_deref().unwrap_or(text) } else { text };
            memchr::memmem::find(text, &literal.bytes).is_some()
        })
    }

    fn needed_of(&self, has: impl Fn(&Literal) -> bool) -> u32 {
        self.clauses.iter().zip(0u32..).fold(0, |bits, (clause, at)| bits | u32::from(clause.iter().any(&has)) << at)
    }
}

fn too_long(path: &str) -> Refusal {
    Refusal::invalid(path, format!("at most {PATTERN_BYTES_MAX} bytes"))
}

/// The parser draws a picture over several lines; its last one says what is wrong.
fn wrong(path: &str, error: &str) -> Refusal {
    let why = error.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or(error);
    Refusal::invalid(path, format!("does not compile: {}", why.trim().trim_start_matches("error: ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str, regex: &str, ignore_case: bool) -> Result<Pattern, Refusal> {
        Ok(Pattern::of(text, regex, ignore_case)?.remove(0))
    }

    #[test]
    fn patterns_that_would_cost_too_much_are_refused_by_name() {
        let long = "a".repeat(5_000);
        let cases = [
            ("", "(", "regex"),
            ("", "a{1000}{1000}", "regex"),
            ("", r"(\w{100}){100}", "regex"),
            ("", &"(".repeat(2_000), "regex"),
            ("", r"(a)\1", "regex"),
            ("", &long, "regex"),
            (&long, "", "text"),
        ];
        for (text, regex, path) in cases {
            let refusal = one(text, regex, true).unwrap_err();
            assert_eq!(refusal.violations[0].path, path, "{text} {regex}");
            assert!(!refusal.violations[0].message.contains('\n'), "{refusal:?}");
        }
    }

    #[test]
    fn text_is_found_letter_by_letter_or_in_either_case() {
        assert!(one("a.c", "", false).unwrap().is_match(b"xa.cx"));
        assert!(!one("a.c", "", false).unwrap().is_match(b"abc"));
        assert!(!one("MÜLL", "", false).unwrap().is_match("müll".as_bytes()));
        assert!(one("MÜLL.", "", true).unwrap().is_match("müll.".as_bytes()));
        assert!(one("", r"id=\d+$", false).unwrap().is_match(b"\xff id=12\nx"));
        assert!(Pattern::of("", "", true).unwrap().is_empty());
    }

    #[test]
    fn what_a_match_needs_is_known_in_text_and_across_borders() {
        let pattern = one("", "(?i)alpha.*beta", false).unwrap();
        assert_eq!(pattern.all(), 0b11);
        assert_eq!(pattern.needed_in_text(b"ALPHA bet").count_ones(), 1);
        let edge = |bytes: &'static [u8]| Edge::of([bytes].into_iter()).unwrap();
        assert_eq!(pattern.needed_across(&edge(b"x\nalp"), &edge(b"HA\nbeta")).count_ones(), 1);
        assert_eq!(pattern.needed_across(&edge(b"x\n"), &edge(b"alpha\nbeta")), 0);
    }
}
