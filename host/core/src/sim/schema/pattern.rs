//! Texts that match a regular expression.

use crate::sim::chance::Chance;
use regex::Regex;
use regex_syntax::hir::{Class, Hir, HirKind};

/// A regular expression, found anywhere in a text.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: Regex,
    read: Hir,
}

/// How often what may be repeated without an end is, at most, beyond what it must.
const REPEATS_MAX: u32 = 4;
/// Characters of a text that is made of one.
const CHARS_MAX: usize = 4_096;

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, String> {
        let regex = Regex::new(text).map_err(|error| brief(&error.to_string()))?;
        let read = regex_syntax::parse(text).map_err(|error| brief(&error.to_string()))?;
        Ok(Self { regex, read })
    }

    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// Matches mostly: what an anchor in the middle asks for is not looked at.
    pub fn make(&self, chance: &mut Chance) -> String {
        let mut out = String::new();
        make(&self.read, chance, &mut out);
        out
    }
}

/// What the last line of a message says: those before draw the place.
fn brief(message: &str) -> String {
    message.lines().next_back().unwrap_or_default().trim().to_owned()
}

fn make(hir: &Hir, chance: &mut Chance, out: &mut String) {
    if out.len() > CHARS_MAX {
        return;
    }
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => out.push_str(&String::from_utf8_lossy(&literal.0)),
        HirKind::Class(class) => out.extend(character(class, chance)),
        HirKind::Repetition(repetition) => {
            let least = repetition.min;
            let most = repetition.max.unwrap_or(u32::MAX).min(least.saturating_add(REPEATS_MAX));
            for _ in 0..chance.between(least.into(), most.into()) {
                make(&repetition.sub, chance, out);
            }
        }
        HirKind::Capture(capture) => make(&capture.sub, chance, out),
        HirKind::Concat(all) => all.iter().for_each(|each| make(each, chance, out)),
        HirKind::Alternation(all) => {
            all.get(chance.index(all.len())).into_iter().for_each(|each| make(each, chance, out));
        }
    }
}

/// One that can be read, if there is one: who else checks a text may not mean the same by `\d`.
fn character(class: &Class, chance: &mut Chance) -> Option<char> {
    let ranges: Vec<(u32, u32)> = match class {
        Class::Unicode(class) => {
            class.ranges().iter().map(|it| (it.start().into(), it.end().into())).collect()
        }
        Class::Bytes(class) => {
            class.ranges().iter().map(|it| (it.start().into(), it.end().into())).collect()
        }
    };
    let readable = ranges.iter().map(|(from, to)| ((*from).max(0x20), (*to).min(0x7e)));
    let readable: Vec<_> = readable.filter(|(from, to)| from <= to).collect();
    let (from, to) = *chance.pick(if readable.is_empty() { &ranges } else { &readable })?;
    let made = u32::try_from(chance.between(from.into(), to.into())).ok().and_then(char::from_u32);
    made.or(char::from_u32(from))
}
