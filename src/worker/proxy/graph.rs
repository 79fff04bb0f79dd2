//! Pools and their fallbacks as a graph: in which order pools are asked, and where they go round in a circle.
//!
//! Owns: the two walks, pure. Must not know: what a pool is made of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Each pool and its fallbacks, best first. A fallback that is no pool leads nowhere.
pub(super) type Edges<'a> = BTreeMap<&'a str, &'a [String]>;

/// A fallback that leads back to a pool it is a fallback of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cycle<'a> {
    /// The pool that names it, and at which place of its list.
    pub(super) pool: &'a str,
    pub(super) at: usize,
    /// From a pool back to itself: its first element is its last.
    pub(super) path: Vec<&'a str>,
}

/// `from`, then its fallbacks, then theirs. Each pool once, however many ways lead to it.
pub(super) fn breadth_first<'a>(from: &'a str, edges: &Edges<'a>) -> Vec<&'a str> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::from([from]);
    let mut waiting = VecDeque::from([from]);
    while let Some(pool) = waiting.pop_front() {
        let Some(fallbacks) = edges.get(pool) else { continue };
        order.push(pool);
        waiting.extend(fallbacks.iter().map(String::as_str).filter(|next| seen.insert(next)));
    }
    order
}

/// Every edge that closes a circle. Two ways to one pool are none.
pub(super) fn cycles<'a>(edges: &Edges<'a>) -> Vec<Cycle<'a>> {
    let mut walk = Walk { edges, trail: Vec::new(), done: BTreeSet::new(), found: Vec::new() };
    for pool in edges.keys() {
        walk.visit(pool);
    }
    walk.found
}

struct Walk<'e, 'a> {
    edges: &'e Edges<'a>,
    trail: Vec<&'a str>,
    /// Everything that can be reached from these was seen.
    done: BTreeSet<&'a str>,
    found: Vec<Cycle<'a>>,
}

impl<'a> Walk<'_, 'a> {
    /// As deep as there are pools, which are counted before.
    fn visit(&mut self, pool: &'a str) {
        if self.done.contains(pool) {
            return;
        }
        self.trail.push(pool);
        let fallbacks = self.edges.get(pool).copied().unwrap_or_default();
        for (at, next) in fallbacks.iter().enumerate() {
            match self.trail.iter().position(|passed| passed == next) {
                Some(from) => {
                    let path = self.trail.iter().skip(from).copied().chain([next.as_str()]).collect();
                    self.found.push(Cycle { pool, at, path });
                }
                None => self.visit(next),
            }
        }
        self.trail.pop();
        self.done.insert(pool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(text: &str) -> BTreeMap<String, Vec<String>> {
        let pool = |line: &str| {
            let (name, fallbacks) = line.split_once(':').unwrap();
            (name.trim().to_owned(), fallbacks.split_whitespace().map(str::to_owned).collect())
        };
        text.split(';').map(pool).collect()
    }

    fn edges(lists: &BTreeMap<String, Vec<String>>) -> Edges<'_> {
        lists.iter().map(|(name, fallbacks)| (name.as_str(), fallbacks.as_slice())).collect()
    }

    #[test]
    fn tiers_come_in_order_and_a_diamond_is_walked_once() {
        let lists = lists("eu: de fr; de: world; fr: world; world: ; us: ");
        assert_eq!(breadth_first("eu", &edges(&lists)), ["eu", "de", "fr", "world"]);
        assert_eq!(breadth_first("us", &edges(&lists)), ["us"]);
        assert_eq!(breadth_first("gone", &edges(&lists)), [""; 0]);
        assert_eq!(cycles(&edges(&lists)), []);
    }

    #[test]
    fn a_circle_is_told_with_its_whole_path() {
        let lists = lists("eu: world; world: de; de: us eu; us: ; me: me");
        let told: Vec<_> = cycles(&edges(&lists)).into_iter().map(|c| (c.pool, c.at, c.path.join(" → "))).collect();
        assert_eq!(told, [("world", 0, "de → eu → world → de".to_owned()), ("me", 0, "me → me".to_owned())]);
    }

    #[test]
    fn a_hundred_pools_that_all_name_each_other_are_walked_in_time() {
        let names: Vec<String> = (0..100).map(|at| format!("p{at:03}")).collect();
        let lists: BTreeMap<_, _> =
            names.iter().enumerate().map(|(at, n)| (n.clone(), names[at + 1..].to_vec())).collect();
        assert_eq!(cycles(&edges(&lists)), []);
        assert_eq!(breadth_first("p000", &edges(&lists)).len(), 100);
    }
}
