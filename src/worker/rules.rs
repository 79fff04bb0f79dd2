//! What a robots.txt says to us, by RFC 9309.
//!
//! Owns: reading the rules and matching a path, pure. Must not know: where the text comes from.

/// Rules kept of one site. Longer files are hardly written by hand; what follows is not obeyed.
const RULES_MAX: usize = 10_000;
const PATTERN_BYTES_MAX: usize = 2_048;

/// The rules for one user agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rules {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    allows: bool,
    /// In the spelling of `normalised`.
    pattern: String,
}

impl Rules {
    /// Of the groups that name `product` (in lower case); if there are none, of those for everybody.
    pub(super) fn parse(text: &str, product: &str) -> Self {
        let (mut own, mut all) = (None::<Self>, Self::default());
        let (mut for_own, mut for_all, mut in_names) = (false, false, false);
        // The standard's line ends are LF, CR and both; the empty line between those two says nothing.
        for line in text.trim_start_matches('\u{feff}').split(['\r', '\n']) {
            let line = line.split('#').next().unwrap_or_default();
            let Some((key, value)) = line.split_once(':') else { continue };
            let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
            let allows = match key.as_str() {
                "user-agent" => {
                    if !in_names {
                        (for_own, for_all, in_names) = (false, false, true);
                    }
                    for_all |= value == "*";
                    if product_of(value) == product {
                        for_own = true;
                        own.get_or_insert_default();
                    }
                    continue;
                }
                "allow" => true,
                "disallow" => false,
                _ => continue,
            };
            in_names = false;
            if let (true, Some(own)) = (for_own, own.as_mut()) {
                own.add(allows, value);
            }
            if for_all {
                all.add(allows, value);
            }
        }
        own.unwrap_or(all)
    }

    fn add(&mut self, allows: bool, pattern: &str) {
        if !pattern.is_empty() && pattern.len() <= PATTERN_BYTES_MAX && self.rules.len() < RULES_MAX {
            self.rules.push(Rule { allows, pattern: normalised(pattern) });
        }
    }

    /// The rule that forbids `path` (with its query); None: it is allowed. The longest rule decides, and of equals the kinder one.
    pub(super) fn forbids(&self, path: &str) -> Option<&str> {
        let path = normalised(path);
        if path == "/robots.txt" {
            return None;
        }
        let matching = self.rules.iter().filter(|rule| rule.matches(&path));
        let decides = matching.max_by_key(|rule| (rule.pattern.len(), rule.allows))?;
        (!decides.allows).then_some(decides.pattern.as_str())
    }

    /// About what they take in memory.
    pub(super) fn bytes(&self) -> usize {
        self.rules.iter().map(|rule| size_of::<Rule>() + rule.pattern.len()).sum()
    }
}

impl Rule {
    /// Each part between stars is looked for from where the one before ended: the first place is always good enough, so no
    /// pattern makes this slow.
    fn matches(&self, path: &str) -> bool {
        let (pattern, to_the_end) = match self.pattern.strip_suffix('$') {
            Some(pattern) => (pattern, true),
            None => (self.pattern.as_str(), false),
        };
        let mut parts = pattern.split('*');
        let Some(mut rest) = path.strip_prefix(parts.next().unwrap_or_default()) else { return false };
        let mut parts: Vec<&str> = parts.collect();
        let last = if to_the_end { parts.pop() } else { None };
        for part in parts {
            match rest.find(part).and_then(|at| rest.get(at + part.len()..)) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        match (to_the_end, last) {
            (false, _) => true,
            (true, Some(last)) => rest.ends_with(last),
            (true, None) => rest.is_empty(),
        }
    }
}

/// The name by which a user agent is addressed: `FetchBox` of `FetchBox/1.0 (contact)`, in lower case.
pub(super) fn product_of(agent: &str) -> String {
    let is_part = |c: &char| c.is_ascii_alphabetic() || matches!(c, '-' | '_');
    agent.trim().chars().take_while(is_part).collect::<String>().to_ascii_lowercase()
}

/// One spelling for what means the same: escapes in capitals, unreserved characters bare, everything outside ASCII escaped.
fn normalised(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let Some((&first, rest)) = bytes.split_first() {
        let escaped = match (first, rest) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        let (byte, was_escaped) = escaped.map_or((first, false), |byte| (byte, true));
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if unreserved || (!was_escaped && byte.is_ascii_graphic()) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        bytes = rest.get(if was_escaped { 2 } else { 0 }..).unwrap_or_default();
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(rules: &str, path: &str) -> bool {
        Rules::parse(rules, "fetchbox").forbids(path).is_none()
    }

    #[test]
    fn a_site_decides_for_us_by_name_and_otherwise_for_everybody() {
        let text = "User-agent: *\nDisallow: /all\n\nuser-AGENT: FetchBox/9.9\nUser-agent: other\ndisallow: /own # why\n\
                    Sitemap: https://a.example/map\nAllow: /own/open\n\nUser-agent: fetchbox\nDisallow: /more\n";
        assert!(
            allowed(text, "/all") && !allowed(text, "/own") && allowed(text, "/own/open") && !allowed(text, "/more")
        );
        let everybody = "User-agent: fetchboxer\nUser-agent: *\nDisallow: /all\nUser-agent: other\nDisallow: /other";
        assert!(!allowed(everybody, "/all") && allowed(everybody, "/other"));
        let nothing_for_us = "User-agent: *\nDisallow: /\nUser-agent: fetchbox\nDisallow:\n";
        assert!(allowed(nothing_for_us, "/x"), "an empty rule forbids nothing, and the group is ours all the same");
        for harmless in ["", "Disallow: /", "nonsense", "User-agent: *", "\u{feff}", "User-agent: *\nDisallow /"] {
            assert!(allowed(harmless, "/x"), "{harmless:?}");
        }
        for end in ["\n", "\r\n", "\r"] {
            let text = format!("\u{feff}User-agent: *{end}# all{end}Disallow: /{end}{end}Allow: /open{end}");
            assert!(!allowed(&text, "/x") && allowed(&text, "/open"), "{end:?}");
        }
        assert!(allowed("User-agent: *\nDisallow: /", "/robots.txt"));
    }

    #[test]
    fn the_longest_rule_decides_and_of_equal_ones_the_kinder() {
        let rules = "User-agent: *\nDisallow: /a\nAllow: /a/b\nDisallow: /a/b/c\nAllow: /same\nDisallow: /same";
        for (path, is) in
            [("/", true), ("/a", false), ("/ab", false), ("/a/b", true), ("/a/b/c", false), ("/same", true)]
        {
            assert_eq!(allowed(rules, path), is, "{path}");
        }
    }

    #[test]
    fn stars_and_ends_match_as_the_standard_says() {
        for (pattern, path, hit) in [
            ("/*.gif$", "/x/y.gif", true),
            ("/*.gif$", "/x/y.gif?a", false),
            ("/*.gif", "/x/y.gif?a", true),
            ("/*.gif$", "/a.gif/b.gif", true),
            ("/fish*", "/fish", true),
            ("/fish$", "/fish", true),
            ("/fish$", "/fishes", false),
            ("/a*b*c$", "/a-b-b-c", true),
            ("/a*b*c$", "/a-c-b", false),
            ("*x", "/any/x", true),
            ("/*?", "/a?b=c", true),
            ("/$", "/", true),
            ("/$", "/a", false),
            ("/a**b", "/a1b", true),
            ("x", "/x", false),
        ] {
            let rules = format!("User-agent: *\nDisallow: {pattern}");
            assert_eq!(!allowed(&rules, path), hit, "{pattern} {path}");
        }
    }

    #[test]
    fn spellings_of_one_path_are_one_path() {
        for (pattern, path) in [("/%7Ejoe", "/~joe"), ("/~joe", "/%7ejoe"), ("/ü", "/%c3%bc"), ("/a%2fb", "/a%2Fb")] {
            assert!(!allowed(&format!("User-agent: *\nDisallow: {pattern}"), path), "{pattern} {path}");
        }
        assert!(allowed("User-agent: *\nDisallow: /a/b", "/a%2Fb"), "an escaped slash is no slash");
        assert!(allowed("User-agent: *\nDisallow: /a%", "/b%z"));
    }

    #[test]
    fn hostile_rules_cost_little() {
        let evil = format!("User-agent: *\n{}", format!("Disallow: /{}b$\n", "*a".repeat(1_000)).repeat(250));
        assert!(allowed(&evil, &format!("/{}", "a".repeat(8_000))));
        assert_eq!(product_of("FetchBox/0.1 (+https://a.example)"), "fetchbox");
    }
}
