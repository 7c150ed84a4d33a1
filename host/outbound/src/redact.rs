//! Finds secrets in what servers say, and puts their names in their place, in a whole body or in a stream.

use aho_corasick::{AhoCorasick, MatchKind};
use std::{collections::BTreeSet, sync::Arc};

/// Searches for all forms of all secrets at once.
#[derive(Default)]
pub(crate) struct Finder {
    /// `None` without secrets.
    search: Option<AhoCorasick>,
    /// By the number of the form: the secret's name, and what is said instead.
    secrets: Vec<(String, Arc<str>)>,
    /// In order, for what a stream ends with.
    sorted: Vec<Vec<u8>>,
    longest: usize,
}

impl Finder {
    /// Of forms, each with the name of its secret and what is said instead.
    pub(crate) fn new(mut forms: Vec<(String, String, Arc<str>)>) -> Result<Self, ()> {
        forms.sort();
        forms.dedup_by(|one, other| one.0 == other.0);
        let sorted: Vec<Vec<u8>> =
            forms.iter().map(|(form, ..)| form.clone().into_bytes()).collect();
        let longest = sorted.iter().map(Vec::len).max().unwrap_or(0);
        let search = if sorted.is_empty() {
            None
        } else {
            let builder =
                AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&sorted);
            Some(builder.map_err(drop)?)
        };
        let secrets = forms.into_iter().map(|(_, name, instead)| (name, instead)).collect();
        Ok(Self { search, secrets, sorted, longest })
    }

    /// The names of the secrets that a text has.
    pub(crate) fn names(&self, text: &str) -> BTreeSet<&str> {
        let Some(search) = &self.search else { return BTreeSet::new() };
        let found =
            search.find_iter(text).filter_map(|found| self.secrets.get(found.pattern().as_usize()));
        found.map(|(name, _)| name.as_str()).collect()
    }

    /// A text without secrets.
    pub(crate) fn text(&self, text: String) -> String {
        if self.search.as_ref().is_none_or(|search| !search.is_match(&text)) {
            return text;
        }
        String::from_utf8_lossy(&self.replaced(text.as_bytes())).into_owned()
    }

    /// Bytes without secrets; `None` if they are as they should be.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let search = self.search.as_ref()?;
        search.is_match(bytes).then(|| self.replaced(bytes))
    }

    fn replaced(&self, bytes: &[u8]) -> Vec<u8> {
        let mut replaced = Vec::with_capacity(bytes.len());
        self.take(bytes, true, &mut replaced);
        replaced
    }

    /// Adds what is known to be no beginning of a secret, and is no secret, and says where it ends.
    fn take(&self, held: &[u8], is_end: bool, to: &mut Vec<u8>) -> usize {
        let Some(search) = &self.search else {
            to.extend_from_slice(held);
            return held.len();
        };
        let mut open = if is_end { Vec::new() } else { self.open(held) }.into_iter().peekable();
        let mut at = 0;
        loop {
            while open.next_if(|start| *start < at).is_some() {}
            let hold = open.peek().copied().unwrap_or(held.len());
            let rest = held.get(at..).unwrap_or_default();
            // A match from where something is open may become a longer one.
            let found = search.find(rest).filter(|found| at + found.start() < hold);
            let Some(found) = found else {
                to.extend_from_slice(held.get(at..hold).unwrap_or_default());
                return hold;
            };
            to.extend_from_slice(rest.get(..found.start()).unwrap_or_default());
            if let Some((_, instead)) = self.secrets.get(found.pattern().as_usize()) {
                to.extend_from_slice(instead.as_bytes());
            }
            at += found.end();
        }
    }

    /// Where in `held` something begins that, with more behind it, may be a secret.
    fn open(&self, held: &[u8]) -> Vec<usize> {
        let first = held.len().saturating_sub(self.longest.saturating_sub(1));
        let begins = |start: &usize| {
            let tail = held.get(*start..).unwrap_or_default();
            let after = self.sorted.partition_point(|form| form.as_slice() <= tail);
            self.sorted.get(after).is_some_and(|form| form.starts_with(tail))
        };
        (first..held.len()).filter(begins).collect()
    }
}

/// Takes secrets out of a stream, whose chunks may end within one.
#[derive(Default)]
pub(crate) struct Redactor {
    /// What may be the beginning of a secret.
    held: Vec<u8>,
}

impl Redactor {
    /// What can be said after this.
    pub(crate) fn feed(&mut self, finder: &Finder, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let mut said = Vec::with_capacity(self.held.len());
        let end = finder.take(&self.held, false, &mut said);
        self.held.drain(..end);
        said
    }

    /// What is left at the end.
    pub(crate) fn finish(&mut self, finder: &Finder) -> Vec<u8> {
        let mut said = Vec::new();
        finder.take(&std::mem::take(&mut self.held), true, &mut said);
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::tests::known;
    use proptest::prelude::*;

    #[test]
    fn secrets_are_found_in_the_forms_in_which_they_are_said_again() {
        let known = known(&[("A", "p\"ss w/rd"), ("B", "12345678")]);
        let finder = known.finder();
        let text =
            r#"p"ss w/rd, p%22ss%20w%2Frd, {"k":"p\"ss w/rd", "l":"p\"ss w\/rd"} and 12345678"#;
        let expected =
            r#"[secret A], [secret A], {"k":"[secret A]", "l":"[secret A]"} and [secret B]"#;
        assert_eq!(finder.text(text.to_owned()), expected);
        assert_eq!(finder.bytes(text.as_bytes()).as_deref(), Some(expected.as_bytes()));
        assert_eq!(finder.bytes(b"1234567"), None);
        assert_eq!(finder.names(text).into_iter().collect::<Vec<_>>(), ["A", "B"]);
    }

    #[test]
    fn a_stream_holds_back_no_more_than_what_may_be_a_secret() {
        let known = known(&[("A", "sk-12345678")]);
        let mut redactor = Redactor::default();
        assert_eq!(redactor.feed(known.finder(), b"hello "), b"hello ");
        assert_eq!(redactor.feed(known.finder(), b"world, sk-12"), b"world, ");
        assert_eq!(redactor.feed(known.finder(), b"345678 and s"), b"[secret A] and ");
        assert_eq!(redactor.feed(known.finder(), b"o"), b"so");
        assert_eq!(redactor.feed(known.finder(), b"sk-1"), b"");
        assert_eq!(redactor.finish(known.finder()), b"sk-1");
    }

    proptest! {
        /// However a server cuts it, a secret does not come through, and nothing else changes.
        #[test]
        fn the_chunks_of_a_stream_decide_nothing(
            parts in prop::collection::vec(prop_oneof![
                Just("aabaabaa"), Just("aabaabaab"), Just("baabaabaacc"), Just("a"), Just("aab"), Just("c"), Just("zz"),
            ], 0..24),
            cuts in prop::collection::vec(1..7_usize, 1..40),
        ) {
            let known = known(&[("A", "aabaabaa"), ("B", "aabaabaab"), ("C", "baabaabaacc")]);
            let text = parts.concat();
            let whole = known.finder().text(text.clone());
            let (mut redactor, mut said, mut rest) = (Redactor::default(), Vec::new(), text.as_bytes());
            for cut in cuts.iter().cycle() {
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                said.extend(redactor.feed(known.finder(), chunk));
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            said.extend(redactor.finish(known.finder()));
            prop_assert_eq!(String::from_utf8(said).expect("text"), whole.clone());
            for value in ["aabaabaa", "baabaabaacc"] {
                prop_assert!(!whole.contains(value));
            }
        }
    }
}
