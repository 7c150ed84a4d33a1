//! From a type to its text.

use super::{Declared, Member, Type};
use serde_json::Value;

/// The most of a description that is shown, in characters.
const DOC_MAX: usize = 2_000;

/// Text in a comment of `/* */`: it can't end it, nor do anything else than be read.
pub(super) fn comment(text: &str) -> String {
    let mut clean: String = text.chars().take(DOC_MAX).collect();
    if clean.len() < text.len() {
        clean.push('…');
    }
    let clean: String = clean
        .chars()
        .map(|c| match c {
            '\n' => '\n',
            c if is_unseen(c) => ' ',
            c => c,
        })
        .collect();
    clean.replace("*/", "*\\/")
}

/// Whether whoever reads the text does not see it, or sees something else than what is there: controls, ends of lines that look
/// like none, and what changes the direction of the text around it.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A value of JSON as TypeScript has it: what is not seen stands in it by its number.
pub(super) fn literal(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        match is_unseen(c) {
            // All of them have four digits.
            true => out += &format!("\\u{:04x}", u32::from(c)),
            false => out.push(c),
        }
    }
    out
}

/// With the text before it as its comment.
fn documented(doc: Option<&str>, indent: usize) -> String {
    let Some(doc) = doc else { return String::new() };
    let (doc, pad) = (comment(doc), "  ".repeat(indent));
    let lines: Vec<&str> = doc.trim().lines().map(str::trim_end).collect();
    match lines.as_slice() {
        [] => String::new(),
        [line] => format!("{pad}/** {line} */\n"),
        lines => {
            let lines =
                lines.iter().map(|line| format!("{pad} * {line}").trim_end().to_owned() + "\n");
            format!("{pad}/**\n{}{pad} */\n", lines.collect::<String>())
        }
    }
}

pub(super) fn declaration(declared: &Declared) -> String {
    let Declared { name, doc, of } = declared;
    let doc = documented(doc.as_deref(), 0);
    match of {
        Type::Object(members, rest) => {
            format!("{doc}export interface {name} {}\n", object(members, rest.as_deref(), 0))
        }
        of => format!("{doc}export type {name} = {};\n", text(of, 0)),
    }
}

/// A name of a member, as it is if it may be.
pub(super) fn quoted_unless_name(name: &str) -> String {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == '$';
    match name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit()) {
        true => name.to_owned(),
        false => literal(&Value::from(name)),
    }
}

pub(super) fn object(members: &[Member], rest: Option<&Type>, indent: usize) -> String {
    if members.is_empty() && rest.is_none() {
        return "{}".to_owned();
    }
    let pad = "  ".repeat(indent + 1);
    let mut out = "{\n".to_owned();
    for Member { name, doc, optional, of } in members {
        out += &documented(doc.as_deref(), indent + 1);
        let (name, mark) = (quoted_unless_name(name), if *optional { "?" } else { "" });
        out += &format!("{pad}{name}{mark}: {};\n", text(of, indent + 1));
    }
    if let Some(rest) = rest {
        out += &format!("{pad}[key: string]: {};\n", text(rest, indent + 1));
    }
    out + &"  ".repeat(indent) + "}"
}

fn text(of: &Type, indent: usize) -> String {
    match of {
        Type::Unknown(why) if why.is_empty() => "unknown".to_owned(),
        Type::Unknown(why) => format!("unknown /* {} */", comment(why).replace('\n', " ")),
        Type::Plain(name) | Type::Name(name) => name.clone(),
        Type::Array(item) => format!("{}[]", in_brackets(item, indent)),
        Type::Tuple(items, needed, rest) => {
            let items = items.iter().enumerate().map(|(n, item)| match n < *needed {
                true => text(item, indent),
                // The mark is part of the item.
                false => format!("{}?", in_brackets(item, indent)),
            });
            let rest = rest.iter().map(|rest| format!("...{}[]", in_brackets(rest, indent)));
            format!("[{}]", items.chain(rest).collect::<Vec<_>>().join(", "))
        }
        Type::Object(members, rest) => object(members, rest.as_deref(), indent),
        Type::Union(parts) => {
            parts.iter().map(|part| text(part, indent)).collect::<Vec<_>>().join(" | ")
        }
        Type::All(parts) => {
            parts.iter().map(|part| in_brackets(part, indent)).collect::<Vec<_>>().join(" & ")
        }
    }
}

fn in_brackets(of: &Type, indent: usize) -> String {
    match of {
        Type::Union(_) | Type::All(_) => format!("({})", text(of, indent)),
        of => text(of, indent),
    }
}
