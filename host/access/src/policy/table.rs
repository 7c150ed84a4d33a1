//! Reads tables, and remembers what is wrong with them.

use super::Fault;
use crate::limits;
use std::{collections::BTreeSet, fmt, ops::Range};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// All that is wrong so far.
pub(super) struct Faults<'t> {
    text: &'t str,
    found: Vec<Fault>,
}

impl<'t> Faults<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, found: Vec::new() }
    }

    pub(super) fn add(&mut self, at: Option<Range<usize>>, what: impl fmt::Display) {
        if self.found.len() < limits::FAULTS_MAX {
            let line = at.map(|at| self.line(at.start));
            self.found.push(Fault { line, what: what.to_string() });
        }
    }

    pub(super) fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().get(..at).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    /// By lines.
    pub(super) fn done(mut self) -> Vec<Fault> {
        self.found.sort_by_key(|fault| fault.line);
        self.found
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}

/// A text, and where it is.
#[derive(Clone)]
pub(super) struct Text<'a> {
    pub(super) text: &'a str,
    pub(super) at: Range<usize>,
}

/// A table of which keys are asked for; those that nobody asks for are faults.
pub(super) struct Table<'a> {
    table: &'a DeTable<'a>,
    /// As errors name it.
    name: String,
    pub(super) at: Range<usize>,
    known: BTreeSet<&'static str>,
}

impl<'a> Table<'a> {
    pub(super) fn new(name: impl Into<String>, table: &'a DeTable<'a>, at: Range<usize>) -> Self {
        Self { table, name: name.into(), at, known: BTreeSet::new() }
    }

    pub(super) fn rename(&mut self, name: String) {
        self.name = name;
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn value(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.insert(key);
        let mut entries = self.table.iter();
        entries.find(|(name, _)| &**name.get_ref() == key).map(|(_, value)| value)
    }

    fn wrong(&self, faults: &mut Faults<'_>, key: &str, value: &Spanned<DeValue<'_>>, what: &str) {
        let is = value.get_ref().type_str();
        faults
            .add(Some(value.span()), format_args!("{}: `{key}` is {what}, not a {is}", self.name));
    }

    pub(super) fn text(&mut self, faults: &mut Faults<'_>, key: &'static str) -> Option<Text<'a>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(Text { text, at: value.span() }),
            _ => {
                self.wrong(faults, key, value, "a text");
                None
            }
        }
    }

    pub(super) fn required(
        &mut self,
        faults: &mut Faults<'_>,
        key: &'static str,
    ) -> Option<Text<'a>> {
        if self.value(key).is_none() {
            self.lacks(faults, key);
        }
        self.text(faults, key)
    }

    pub(super) fn lacks(&self, faults: &mut Faults<'_>, key: &str) {
        faults.add(Some(self.at.clone()), format_args!("{} has no `{key}`", self.name));
    }

    pub(super) fn boolean(&mut self, faults: &mut Faults<'_>, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        let is = value.get_ref().as_bool();
        if is.is_none() {
            self.wrong(faults, key, value, "true or false");
        }
        is
    }

    /// A list of texts, or one text that stands for a list of it.
    pub(super) fn texts(
        &mut self,
        faults: &mut Faults<'_>,
        key: &'static str,
        count: std::ops::RangeInclusive<usize>,
    ) -> Option<Vec<Text<'a>>> {
        let value = self.value(key)?;
        let values = match value.get_ref() {
            DeValue::String(text) => return Some(vec![Text { text, at: value.span() }]),
            DeValue::Array(values) => values,
            _ => {
                self.wrong(faults, key, value, "a list of texts");
                return None;
            }
        };
        if !count.contains(&values.len()) {
            let (least, most) = (count.start(), count.end());
            let what = format_args!("{}: `{key}` has to have {least} to {most} texts", self.name);
            faults.add(Some(value.span()), what);
            return None;
        }
        let mut texts = Vec::new();
        for value in values.iter() {
            match value.get_ref() {
                DeValue::String(text) => texts.push(Text { text, at: value.span() }),
                _ => self.wrong(faults, key, value, "a list of texts"),
            }
        }
        Some(texts)
    }

    /// Faults for the keys that nobody has asked for.
    pub(super) fn finish(self, faults: &mut Faults<'_>) {
        for (key, _) in self.table.iter() {
            let name = &**key.get_ref();
            if self.known.contains(name) {
                continue;
            }
            let known = self.known.iter().copied().collect::<Vec<_>>().join(", ");
            let what = format_args!("{} has no key `{name}`; there are: {known}", self.name);
            faults.add(Some(key.span()), what);
        }
    }
}
