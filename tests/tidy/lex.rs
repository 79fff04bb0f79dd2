//! Reads Rust text as tokens and lists every path it names: comments, doc lines and strings fall away by themselves.
//!
//! Owns: the reading. Must not know: which paths are allowed.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A path as it stands in the text, `use` groups spread out: `use a::{b, c::d}` gives `a::b` and `a::c::d`.
#[derive(Debug, Clone)]
pub struct Named {
    pub path: Vec<String>,
    pub line: usize,
    /// Inside something marked `#[cfg(test)]`.
    pub test: bool,
    /// Part of a `use` item, so that its last segment becomes a name of this module.
    pub exported: bool,
    /// The inline modules around it, outermost first.
    pub inside: Vec<String>,
}

pub struct Tokens {
    pub named: Vec<Named>,
}

#[derive(Clone, Default)]
struct Place {
    test: bool,
    inside: Vec<String>,
}

impl Tokens {
    /// # Panics
    /// When the text is not made of Rust tokens; then it does not compile either.
    pub fn of(path: &str, text: &str) -> Tokens {
        let stream: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut named = Vec::new();
        read(&stream.into_iter().collect::<Vec<_>>(), &Place::default(), &mut named);
        Tokens { named }
    }
}

fn is_punct(token: Option<&TokenTree>, mark: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == mark)
}

fn is_double_colon(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')
}

fn ident(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

fn group(token: Option<&TokenTree>, delimiter: Delimiter) -> Option<Vec<TokenTree>> {
    match token {
        Some(TokenTree::Group(group)) if group.delimiter() == delimiter => Some(group.stream().into_iter().collect()),
        _ => None,
    }
}

/// `#[cfg(test)]` stands here.
fn is_cfg_test(tokens: &[TokenTree], at: usize) -> bool {
    let Some(attribute) = group(tokens.get(at + 1), Delimiter::Bracket).filter(|_| is_punct(tokens.get(at), '#'))
    else {
        return false;
    };
    let condition = group(attribute.get(1), Delimiter::Parenthesis).unwrap_or_default();
    ident(attribute.first()).is_some_and(|word| word == "cfg")
        && ident(condition.first()).is_some_and(|word| word == "test")
}

/// The position just behind the item that starts at `at`: behind its `;` or its braces.
fn end_of_item(tokens: &[TokenTree], at: usize) -> usize {
    let ends = |token: &TokenTree| is_punct(Some(token), ';') || group(Some(token), Delimiter::Brace).is_some();
    tokens.iter().skip(at).position(ends).map_or(tokens.len(), |more| at + more + 1)
}

fn read(tokens: &[TokenTree], place: &Place, named: &mut Vec<Named>) {
    let mut at = 0;
    while at < tokens.len() {
        if !place.test && is_cfg_test(tokens, at) {
            // `use a::{b};` has braces of its own: take the item up to its `;`.
            let starts_use = tokens.iter().skip(at + 2).take(4).any(|t| ident(Some(t)).is_some_and(|w| w == "use"));
            let end = if starts_use {
                tokens.iter().skip(at).position(|t| is_punct(Some(t), ';')).map_or(tokens.len(), |more| at + more + 1)
            } else {
                end_of_item(tokens, at + 2)
            };
            read(&tokens[at + 2..end], &Place { test: true, ..place.clone() }, named);
            at = end;
            continue;
        }
        if let (Some("mod"), Some(name), Some(body)) =
            (ident(tokens.get(at)).as_deref(), ident(tokens.get(at + 1)), group(tokens.get(at + 2), Delimiter::Brace))
        {
            let mut inner = place.clone();
            inner.inside.push(name);
            read(&body, &inner, named);
            at += 3;
            continue;
        }
        // Not `impl Trait + use<'a>`.
        if ident(tokens.get(at)).is_some_and(|word| word == "use") && !is_punct(tokens.get(at + 1), '<') {
            let end =
                tokens.iter().skip(at).position(|t| is_punct(Some(t), ';')).map_or(tokens.len(), |more| at + more);
            use_tree(&tokens[at + 1..end], &[], place, named);
            at = end + 1;
            continue;
        }
        if ident(tokens.get(at)).is_some() {
            at = plain_path(tokens, at, place, named);
            continue;
        }
        if let Some(TokenTree::Group(inner)) = tokens.get(at) {
            read(&inner.stream().into_iter().collect::<Vec<_>>(), place, named);
        }
        at += 1;
    }
}

/// A path in code, from its first segment; one without `::` is a mere name and is not listed.
fn plain_path(tokens: &[TokenTree], start: usize, place: &Place, named: &mut Vec<Named>) -> usize {
    let mut path = Vec::new();
    let mut at = start;
    while let Some(segment) = ident(tokens.get(at)) {
        path.push(segment);
        if !is_double_colon(tokens, at + 1) {
            at += 1;
            break;
        }
        at += 3;
    }
    // `<T>::name` goes on from a type; `-> ::name` and `=> ::name` begin at the root.
    let mark = |back: usize, mark: char| start >= back && is_punct(tokens.get(start - back), mark);
    let continues = mark(1, ':') && mark(3, '>') && !mark(4, '-') && !mark(4, '=');
    if path.len() > 1 && !continues {
        let line = tokens[start].span().start().line;
        named.push(Named { path, line, test: place.test, exported: false, inside: place.inside.clone() });
    }
    at.max(start + 1)
}

/// One tree of a `use` item, with what stood before its braces.
fn use_tree(tokens: &[TokenTree], prefix: &[String], place: &Place, named: &mut Vec<Named>) {
    let mut path = prefix.to_vec();
    let line = tokens.first().map_or(0, |token| token.span().start().line);
    for (at, token) in tokens.iter().enumerate() {
        if let Some(inner) = group(Some(token), Delimiter::Brace) {
            for branch in inner.split(|token| is_punct(Some(token), ',')).filter(|branch| !branch.is_empty()) {
                use_tree(branch, &path, place, named);
            }
            return;
        }
        match token {
            TokenTree::Ident(word) if word == "as" => break,
            TokenTree::Ident(word) if word == "self" && at == 0 && !prefix.is_empty() => {}
            TokenTree::Ident(word) => path.push(word.to_string()),
            TokenTree::Punct(mark) if mark.as_char() == '*' => path.push("*".to_owned()),
            _ => {}
        }
    }
    named.push(Named { path, line, test: place.test, exported: true, inside: place.inside.clone() });
}

pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// `(tag, name)` of each variant of `enum name { Variant = tag, … }`.
pub fn discriminants(text: &str, name: &str) -> Vec<(String, String)> {
    let Ok(stream) = text.parse::<TokenStream>() else { return Vec::new() };
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let is_enum = |at: &usize| {
        ident(tokens.get(*at)).is_some_and(|word| word == "enum")
            && ident(tokens.get(at + 1)).is_some_and(|word| word == name)
    };
    let Some(body) = (0..tokens.len()).find(is_enum).and_then(|at| group(tokens.get(at + 2), Delimiter::Brace)) else {
        return Vec::new();
    };
    let variant = |at: usize| {
        let tag = tokens_text(body.get(at + 2)).filter(|_| is_punct(body.get(at + 1), '='))?;
        Some((tag, ident(body.get(at))?))
    };
    (0..body.len()).filter_map(variant).collect()
}

fn tokens_text(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Literal(literal)) => Some(literal.to_string()),
        _ => None,
    }
}
