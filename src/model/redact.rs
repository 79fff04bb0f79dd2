//! What must never be shown, taken out of URLs and of texts that hold some.
//!
//! Owns: which parts of a URL may carry a secret. Must not know: who shows the rest.

/// Without user info, query and fragment: each of them may carry a secret.
pub fn shown_url(text: &str) -> String {
    let Ok(mut url) = url::Url::parse(text) else { return "(a URL that cannot be read)".into() };
    let secret = url.query().is_some() || url.fragment().is_some();
    url.set_query(None);
    url.set_fragment(None);
    // Fails only for URLs that cannot have user info.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    if secret { format!("{url}?…") } else { url.to_string() }
}

/// Each URL in a text as [`shown_url`] shows it.
pub fn clean_text(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = SCHEMES.iter().filter_map(|scheme| rest.find(scheme)).min() {
        let (before, from) = rest.split_at(at);
        let end = from
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ')' | '<' | '>' | '`'))
            .unwrap_or(from.len());
        let (url, behind) = from.split_at(end);
        out.push_str(before);
        out.push_str(&shown_url(url));
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// Of origins and of proxies.
const SCHEMES: [&str; 4] = ["http://", "https://", "socks5://", "socks5h://"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_of_a_url_is_told() {
        assert_eq!(shown_url("https://me:pw@a.example:8443/x/y?sig=s3cret#part"), "https://a.example:8443/x/y?…");
        let text = "GET http://u:pw@h/p?t=s3cret: reset (see https://h2/?k=s3cret) and http://plain/x";
        let clean = clean_text(text);
        assert!(!clean.contains("s3cret") && !clean.contains("pw"), "{clean}");
        assert!(
            clean.contains("http://h/p") && clean.contains("(see https://h2/?…)") && clean.ends_with("http://plain/x")
        );
        assert_eq!(clean_text("é http://"), "é (a URL that cannot be read)");
        assert_eq!(clean_text("through socks5://u:pw@proxy:1080 refused"), "through socks5://proxy:1080 refused");
    }
}
