//! What every match of a regular expression contains: found in its syntax, so that whatever cannot contain it is not read.
//!
//! Owns: clauses of literals. Must not know: where they are looked for. It errs on one side only: too little is demanded, never too much.

use regex_syntax::hir::{Class, Hir, HirKind};

/// Alternatives of one clause, and members of a class that are written out: more would cost more to look for than it saves.
const ALTERNATIVES_MAX: usize = 16;
/// Clauses of one expression.
pub const CLAUSES_MAX: usize = 24;
/// A longer literal is not rarer.
const LITERAL_BYTES_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Literal {
    /// Lower case in ASCII where `ignore_case` is set.
    pub bytes: Vec<u8>,
    /// In ASCII.
    pub ignore_case: bool,
}

/// One of these is there.
pub type Clause = Vec<Literal>;

/// Each clause holds of every text that matches. None: nothing is known.
pub fn clauses(hir: &Hir) -> Vec<Clause> {
    let Needs { exact, mut clauses } = needs(hir);
    clauses.extend(exact);
    clauses.retain(|clause| clause.iter().all(|literal| !literal.bytes.is_empty()));
    // Long ones first: they rule out most.
    clauses.sort_by_key(|clause| std::cmp::Reverse(shortest(clause)));
    clauses.truncate(CLAUSES_MAX);
    clauses
}

fn shortest(clause: &Clause) -> usize {
    clause.iter().map(|literal| literal.bytes.len()).min().unwrap_or(0)
}

/// What a part of an expression needs.
#[derive(Default)]
struct Needs {
    /// It matches one of these and nothing else.
    exact: Option<Clause>,
    clauses: Vec<Clause>,
}

impl Needs {
    fn exactly(clause: Clause) -> Self {
        Self { exact: Some(clause), clauses: Vec::new() }
    }
}

fn empty() -> Clause {
    vec![Literal { bytes: Vec::new(), ignore_case: false }]
}

fn needs(hir: &Hir) -> Needs {
    match hir.kind() {
        // What only looks around takes no room between its neighbours.
        HirKind::Empty | HirKind::Look(_) => Needs::exactly(empty()),
        HirKind::Literal(literal) => Needs::exactly(vec![Literal { bytes: literal.0.to_vec(), ignore_case: false }]),
        HirKind::Class(class) => class_of(class).map_or_else(Needs::default, Needs::exactly),
        HirKind::Capture(capture) => needs(&capture.sub),
        HirKind::Repetition(repetition) => {
            if repetition.min == 0 {
                return Needs::default();
            }
            let Needs { exact, mut clauses } = needs(&repetition.sub);
            if (repetition.min, repetition.max) == (1, Some(1)) {
                return Needs { exact, clauses };
            }
            clauses.extend(exact);
            Needs { exact: None, clauses }
        }
        HirKind::Concat(parts) => concat(parts),
        HirKind::Alternation(parts) => alternation(parts),
    }
}

fn concat(parts: &[Hir]) -> Needs {
    let (mut run, mut clauses, mut broken) = (empty(), Vec::new(), false);
    for part in parts {
        let Needs { exact, clauses: inner } = needs(part);
        clauses.extend(inner);
        match exact {
            Some(next) => match join(&run, &next) {
                Some(longer) => run = longer,
                None => {
                    clauses.push(std::mem::replace(&mut run, next));
                    broken = true;
                }
            },
            None => {
                clauses.push(std::mem::replace(&mut run, empty()));
                broken = true;
            }
        }
    }
    if broken {
        clauses.push(run);
        clauses.retain(|clause| shortest(clause) > 0);
        return Needs { exact: None, clauses };
    }
    Needs { exact: Some(run), clauses }
}

/// Each of the one followed by each of the other. None: too many, or too long.
fn join(left: &Clause, right: &Clause) -> Option<Clause> {
    if left.len() * right.len() > ALTERNATIVES_MAX {
        return None;
    }
    let mut joined = Vec::with_capacity(left.len() * right.len());
    for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (a, b))) {
        let ignore_case = a.ignore_case || b.ignore_case;
        let mut bytes = [a.bytes.as_slice(), b.bytes.as_slice()].concat();
        if bytes.len() > LITERAL_BYTES_MAX {
            return None;
        }
        if ignore_case {
            bytes.make_ascii_lowercase();
        }
        joined.push(Literal { bytes, ignore_case });
    }
    joined.sort_unstable();
    joined.dedup();
    Some(joined)
}

fn alternation(parts: &[Hir]) -> Needs {
    let each: Vec<Needs> = parts.iter().map(needs).collect();
    let all_exact = each.iter().all(|part| part.exact.is_some() && part.clauses.is_empty());
    let mut union = Clause::new();
    for part in each {
        let best = part.exact.into_iter().chain(part.clauses).max_by_key(shortest);
        // A branch that needs nothing: then nothing is needed.
        let Some(best) = best else { return Needs::default() };
        union.extend(best);
    }
    union.sort_unstable();
    union.dedup();
    if union.len() > ALTERNATIVES_MAX {
        return Needs::default();
    }
    if all_exact { Needs::exactly(union) } else { Needs { exact: None, clauses: vec![union] } }
}

/// The members of a small class, letters of both cases as one.
fn class_of(class: &Class) -> Option<Clause> {
    let mut members: Vec<Vec<u8>> = Vec::new();
    match class {
        Class::Unicode(class) => {
            for range in class.ranges() {
                for member in range.start()..=range.end() {
                    if members.len() == ALTERNATIVES_MAX {
                        return None;
                    }
                    members.push(member.to_string().into_bytes());
                }
            }
        }
        Class::Bytes(class) => {
            for range in class.ranges() {
                for member in range.start()..=range.end() {
                    if members.len() == ALTERNATIVES_MAX {
                        return None;
                    }
                    members.push(vec![member]);
                }
            }
        }
    }
    if members.is_empty() {
        return None;
    }
    let mut folded: Vec<Vec<u8>> = members.iter().map(|member| member.to_ascii_lowercase()).collect();
    folded.sort_unstable();
    folded.dedup();
    let ignore_case = folded.len() < members.len();
    let members = if ignore_case { folded } else { members };
    Some(members.into_iter().map(|bytes| Literal { bytes, ignore_case }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pattern: &str) -> Vec<Vec<String>> {
        let hir = regex_syntax::ParserBuilder::new().utf8(false).build().parse(pattern).unwrap();
        let show = |literal: &Literal| {
            let text = String::from_utf8_lossy(&literal.bytes).into_owned();
            if literal.ignore_case { format!("~{text}") } else { text }
        };
        let mut clauses: Vec<Vec<String>> =
            clauses(&hir).iter().map(|clause| clause.iter().map(show).collect()).collect();
        clauses.sort();
        clauses
    }

    #[test]
    fn what_a_pattern_needs_is_seen_in_it() {
        assert_eq!(told("error"), [["error"]]);
        assert_eq!(told("error .* timeout$"), [[" timeout"], ["error "]]);
        assert_eq!(told("(?i)Error"), [["~error"]]);
        assert_eq!(told("(?i)task"), [["~task", "~tas\u{212a}", "~taſk", "~taſ\u{212a}"]]);
        assert_eq!(told("(GET|POST) /x"), [["GET /x", "POST /x"]]);
        assert_eq!(told("(foo.*bar|bazz+y)"), [["bar", "baz"]]);
        assert_eq!(told("a(bc)+d"), [["a"], ["bc"], ["d"]]);
        assert_eq!(told(r"\bid=(\d+)"), [["id="]]);
    }

    #[test]
    fn a_pattern_that_needs_nothing_is_not_said_to_need_something() {
        for open in [".*", "(error)?", "(a|.*)", "x{0,3}", "", "^$", "(a|)"] {
            assert!(told(open).is_empty(), "{open}: {:?}", told(open));
        }
    }

    #[test]
    fn a_bomb_of_alternatives_stays_small() {
        let many = told(&"(ab|cd|ef)".repeat(40));
        assert!(many.len() <= CLAUSES_MAX && many.iter().all(|clause| clause.len() <= ALTERNATIVES_MAX), "{many:?}");
    }
}
