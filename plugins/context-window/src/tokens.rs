//! How many tokens a text has, where nobody has counted.

/// What a message costs beside its text: role and marks around it.
const PER_MESSAGE: u64 = 4;

/// About how many tokens a message has for a language model: a token is four characters of ASCII, or three bytes of anything
/// else. Within a fifth or so for prose in most languages; who has the model's own tokenizer gives `tokens` with the message.
pub(crate) fn estimate(text: &str) -> u64 {
    let ascii = text.bytes().filter(u8::is_ascii).count() as u64;
    let other = text.len() as u64 - ascii;
    // Of both together: ceil(ascii / 4 + other / 3).
    PER_MESSAGE + (3 * ascii + 4 * other).div_ceil(12)
}

/// The beginning of a text that has at most so many tokens, and says so where something is missing.
pub(crate) fn cut(text: &str, tokens: u64) -> String {
    const MARK: &str = "... (cut)";
    if estimate(text) <= tokens {
        return text.to_owned();
    }
    let left = tokens.saturating_sub(estimate(MARK)) * 12;
    let mut spent = 0;
    let end = text.char_indices().find_map(|(at, char)| {
        spent += if char.is_ascii() { 3 } else { 4 * char.len_utf8() as u64 };
        (spent > left).then_some(at)
    });
    format!("{}{MARK}", &text[..end.unwrap_or(text.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The estimate is rough, but must not be off by a language.
    #[test]
    fn tokens_are_estimated() {
        assert_eq!(estimate(""), 4);
        assert_eq!(estimate("The quick brown fox jumps over the lazy dog."), 4 + 11);
        assert_eq!(estimate("天地玄黄宇宙洪荒"), 4 + 8);
        assert_eq!(estimate("Съешь ещё этих мягких булок"), 4 + 17);
    }

    /// What is cut must fit: else a tool with much to say would end the agent's turn.
    #[test]
    fn what_is_cut_fits() {
        for text in ["a".repeat(1_000), "語".repeat(1_000), "aé".repeat(500)] {
            for tokens in [10, 50, 200] {
                let short = cut(&text, tokens);
                assert!(estimate(&short) <= tokens, "{} of {tokens}", estimate(&short));
                assert!(short.len() + 40 > tokens as usize * 2, "too little: {short}");
            }
            assert_eq!(cut(&text, 100_000), text);
        }
    }
}
