//! Bounds text from others before it goes into answers, logs and terminals.

use crate::limits;
use std::borrow::Cow;

/// `text`, cut to at most `bytes_max` bytes; says how much is missing.
pub fn clip(text: Cow<'_, str>, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max {
        return text;
    }
    let kept = &text[..text.floor_char_boundary(bytes_max)];
    Cow::Owned(format!("{kept}… ({} bytes more)", text.len() - kept.len()))
}

/// The first [`limits::LISTED_MAX`] of `items`, with `separator` between them, "and M more" and at
/// most [`limits::ERROR_DETAIL_BYTES_MAX`] bytes.
pub fn list<T: AsRef<str>>(items: &[T], separator: &str) -> String {
    let mut out = String::new();
    for (number, item) in items.iter().enumerate() {
        // Room for the last words.
        if number == limits::LISTED_MAX || out.len() > limits::ERROR_DETAIL_BYTES_MAX / 2 {
            out.push_str(&format!("{separator}and {} more", items.len() - number));
            break;
        }
        if number > 0 {
            out.push_str(separator);
        }
        out.push_str(&clip(item.as_ref().into(), limits::LISTED_BYTES_MAX));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Without it a component with 200,000 imports is refused in an answer of 13 MB.
    #[test]
    fn a_list_names_the_first_and_counts_the_rest() {
        assert_eq!(list::<&str>(&[], "; "), "");
        assert_eq!(list(&["a", "b"], "; "), "a; b");
        let many: Vec<String> = (0..200_000).map(|n| format!("import {n}")).collect();
        let text = list(&many, "; ");
        assert!(text.starts_with("import 0; import 1; "), "{text}");
        let more = format!("; and {} more", many.len() - limits::LISTED_MAX);
        assert!(text.ends_with(&more), "{text}");
        assert_eq!(clip("äöü".into(), 3), "ä… (4 bytes more)");
        assert_eq!(clip("äöü".into(), 6), "äöü");
    }

    proptest! {
        #[test]
        fn lists_are_bounded_whatever_is_in_them(
            items in proptest::collection::vec("\\PC{0,2000}", 0..100)
        ) {
            prop_assert!(list(&items, "; ").len() <= limits::ERROR_DETAIL_BYTES_MAX);
        }
    }
}
