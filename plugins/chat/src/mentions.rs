//! Who may be meant by the words of a line.

use crate::NICK_BYTES_MAX;

/// What surrounds a word in prose and is no part of a nick.
const BEFORE: &[char] = &['@', '(', '"', '\'', '<', '*', '“', '‘', '«'];
const AFTER: &[char] =
    &[':', ',', '.', ';', '!', '?', ')', '"', '\'', '>', '*', '”', '’', '»', '…'];

/// The words of a text that may be nicks, each once, in order of first appearance:
///
/// - what stands at the start of the line before its first `:` or `,` (nicks can have spaces);
/// - each run of other characters than white space, without the punctuation around it.
pub fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut add = |word| {
        if !str::is_empty(word) && word.len() <= NICK_BYTES_MAX && !words.contains(&word) {
            words.push(word);
        }
    };
    if let Some((addressed, _)) = text.split_once([':', ',']) {
        add(addressed);
        add(addressed.trim_start_matches('@'));
    }
    for token in text.split_whitespace() {
        add(token.trim_start_matches(BEFORE).trim_end_matches(AFTER));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::words;

    /// Each line is of a form that people address each other with; one that is missed is a mention
    /// that the person never sees.
    #[test]
    fn finds_who_is_addressed() {
        for (text, nick) in [
            ("ann: hello", "ann"),
            ("ann, hello", "ann"),
            ("ann:hello", "ann"),
            ("@ann: hello", "ann"),
            ("hello ann", "ann"),
            ("hello ann!", "ann"),
            ("is (ann) here?", "ann"),
            ("thanks, \"ann\".", "ann"),
            ("[dlp]: try again", "[dlp]"),
            ("|trey|, top in the list", "|trey|"),
            ("actionparsnip!, thanks", "actionparsnip"),
            ("s3[mn] rain: hi", "s3[mn] rain"),
            ("ask joshua__ or `bob`", "joshua__"),
            ("ask joshua__ or `bob`", "`bob`"),
            ("größe: ja", "größe"),
        ] {
            assert!(words(text).contains(&nick), "{text:?} mentions {nick:?}: {:?}", words(text));
        }
    }

    /// A nick inside another word is no mention: `an` would be mentioned by every second line.
    #[test]
    fn finds_no_parts_of_words() {
        for (text, nick) in
            [("banana", "an"), ("ann's book", "ann"), ("a/ann/b", "ann"), ("Ann", "ann")]
        {
            assert!(!words(text).contains(&nick), "{text:?} does not mention {nick:?}");
        }
        assert!(words("").is_empty());
        assert!(words(&"x".repeat(65)).is_empty());
    }
}
