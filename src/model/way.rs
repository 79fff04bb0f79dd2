//! How an attempt that stored its resource went, told from its context.
//!
//! Owns: which facts of the context are worth a word, and the words. Must not know: who hands the facts in, who shows them.
//!
//! | key | value |
//! |---|---|
//! | `proxy` | the pool, or pool and proxy, it went through; with ` direct` behind it, none |
//! | `redirects` | how many were followed |
//! | `http` | the protocol's version, as `HTTP/2.0` |
//! | `resumes` | how often the body broke off and went on within the attempt |
//! | `resumed_at` | the byte at which it first went on |
//! | `continued_at` | the byte at which it went on with what an earlier attempt had stored |
//! | `restarted` | why it could not go on and began again |
//! | `not_changed` | the origin said so: nothing was downloaded |
//! | `reused` | an object with the same bytes was there already: nothing was uploaded |
//! | `found` | the object was there already, stored by an attempt whose end nobody saw |
//! | `bytes` | how far it came, from the body's first byte; of a stored one its size if absent |
//! | `host`, `took_ms` | as their names say |

use std::collections::BTreeMap;
use std::fmt;

use super::redact::clean_text;

/// Shown as `through proxy eu, after 2 redirects, resumed at byte 524,288`; as nothing where there is nothing to tell.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a>(pub &'a BTreeMap<String, String>);

impl Way<'_> {
    /// Something went otherwise than one download and one upload.
    pub fn is_eventful(&self) -> bool {
        ["resumed_at", "resumes", "continued_at", "restarted", "found"].into_iter().any(|key| self.flag(key))
    }

    /// Nothing was downloaded: the object of an earlier job is still the present one.
    pub fn is_not_changed(&self) -> bool {
        self.flag("not_changed")
    }

    /// Nothing was uploaded: the same bytes were there.
    pub fn is_reused(&self) -> bool {
        self.flag("reused")
    }

    /// Nothing was done at all: an attempt before had stored it.
    pub fn is_found(&self) -> bool {
        self.flag("found")
    }

    /// How often the body went on where it had broken off, in this attempt or from an earlier one.
    pub fn resumes(&self) -> u64 {
        self.within() + u64::from(self.number("continued_at").is_some_and(|at| at > 0))
    }

    /// How often within this attempt.
    fn within(&self) -> u64 {
        // What went on with what was there before began in the middle, and did not break off for that.
        let is_own = self.flag("resumed_at") && self.number("resumed_at") != self.number("continued_at");
        self.number("resumes").unwrap_or(u64::from(is_own))
    }

    /// What this attempt received of a body of which it came as far as `bytes`, or as far as `end` where the context does not say.
    pub fn bytes_received(&self, end: u64) -> u64 {
        if self.is_not_changed() || self.is_found() {
            return 0;
        }
        let begun = self.number("continued_at").unwrap_or(0);
        self.number("bytes").unwrap_or(end).saturating_sub(begun)
    }

    pub fn took_ms(&self) -> Option<i64> {
        self.0.get("took_ms")?.parse().ok()
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.0.get(key)?.parse().ok()
    }

    fn flag(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
    }
}

impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(proxy) = self.0.get("proxy").filter(|proxy| !proxy.is_empty()) {
            parts.push(match proxy.strip_suffix(" direct") {
                Some(pool) => format!("directly, as proxy pool {} allows", clean_text(pool)),
                None => format!("through proxy {}", clean_text(proxy)),
            });
        }
        match self.number("redirects") {
            None | Some(0) => {}
            Some(1) => parts.push("after 1 redirect".to_owned()),
            Some(many) => parts.push(format!("after {many} redirects")),
        }
        if let Some(at) = self.number("continued_at").filter(|at| *at > 0) {
            parts.push(format!("continued at byte {} with what an earlier attempt had stored", grouped(at)));
        }
        match (self.number("resumed_at").filter(|at| *at > 0), self.within()) {
            (Some(at), times) if self.number("continued_at") == Some(at) => match times {
                0 => {}
                1 => parts.push("broken off and resumed once after that".to_owned()),
                times => parts.push(format!("broken off and resumed {times} times after that")),
            },
            (Some(at), 0 | 1) => parts.push(format!("resumed at byte {}", grouped(at))),
            (Some(at), times) => parts.push(format!("resumed {times} times, first at byte {}", grouped(at))),
            (None, 0) => {}
            (None, 1) => parts.push("resumed once".to_owned()),
            (None, times) => parts.push(format!("resumed {times} times")),
        }
        if let Some(why) = self.0.get("restarted").filter(|why| !why.is_empty()) {
            parts.push(format!("begun again ({})", clean_text(why)));
        }
        if self.is_reused() {
            parts.push("the same bytes were there already".to_owned());
        }
        if self.is_found() {
            parts.push("found complete from an attempt before".to_owned());
        }
        f.write_str(&parts.join(", "))
    }
}

/// `1048576` → `1,048,576`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pairs: &[(&str, &str)]) -> String {
        let context = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Way(&context).to_string()
    }

    #[test]
    fn what_happened_on_the_way_is_told_and_what_did_not_is_not() {
        assert_eq!(told(&[("host", "h:80"), ("redirects", "0"), ("reused", "false"), ("took_ms", "5")]), "");
        let all = [("proxy", "eu"), ("redirects", "2"), ("resumes", "1"), ("resumed_at", "524288")];
        assert_eq!(told(&all), "through proxy eu, after 2 redirects, resumed at byte 524,288");
        assert_eq!(told(&[("resumes", "3"), ("resumed_at", "1000")]), "resumed 3 times, first at byte 1,000");
        assert_eq!(
            told(&[("redirects", "1"), ("reused", "true")]),
            "after 1 redirect, the same bytes were there already"
        );
        let continued = "continued at byte 8 with what an earlier attempt had stored";
        assert_eq!(told(&[("continued_at", "8")]), continued);
        assert_eq!(told(&[("continued_at", "8"), ("resumed_at", "9")]), format!("{continued}, resumed at byte 9"));
        assert_eq!(told(&[("restarted", "another version")]), "begun again (another version)");
        assert_eq!(told(&[("proxy", "eu direct")]), "directly, as proxy pool eu allows");
        assert_eq!(told(&[("proxy", "http://u:pw@p:1/")]), "through proxy http://p:1/");
    }

    #[test]
    fn large_numbers_are_readable() {
        let shown = [0, 999, 1_000, 524_288, 1_048_576, u64::MAX].map(grouped);
        assert_eq!(shown, ["0", "999", "1,000", "524,288", "1,048,576", "18,446,744,073,709,551,615"]);
    }
}
