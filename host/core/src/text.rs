//! Text from outside (guests, clients, peers, files), bounded and made fit for answers, logs and
//! terminals: it must not look like several lines, move the cursor, or turn the rest of the line
//! around.

use std::{borrow::Cow, fmt::Write as _};

/// Whether a character does something instead of being seen: control characters (C0, DEL, C1),
/// separators of lines and paragraphs, and format characters, such as those that change the
/// direction of writing. Joiners stay: some scripts and many emoji need them.
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'
                | '\u{200e}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// What a text keeps of the characters that do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    Nothing,
    Tabs,
    /// And tabs.
    Lines,
}

/// What [`is_harmful`] as escapes, but what is to be kept. Without its lines it is one: a line break
/// at the end goes.
pub fn printable(text: &str, keep: Keep) -> Cow<'_, str> {
    let text = match keep {
        Keep::Lines => text,
        Keep::Nothing | Keep::Tabs => text.trim_end_matches(['\n', '\r']),
    };
    let keeps = |c: char| match keep {
        Keep::Nothing => false,
        Keep::Tabs => c == '\t',
        Keep::Lines => matches!(c, '\t' | '\n'),
    };
    let escapes = |c: char| is_harmful(c) && !keeps(c);
    if !text.contains(escapes) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match escapes(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// The longest start of `text` that has at most `bytes_max` bytes.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// A line of JSON whose strings may hold such characters, with JSON's own escapes for them; `None`
/// when it has none.
pub fn in_json(line: &str) -> Option<String> {
    let body = line.trim_end_matches('\n');
    if !body.contains(is_harmful) {
        return None;
    }
    let mut out = String::with_capacity(line.len() + 16);
    for c in body.chars() {
        if !is_harmful(c) {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a String can't fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out.push_str(&line[body.len()..]);
    Some(out)
}

/// `text`, cut to at most `bytes_max` bytes, with how much is missing.
pub fn clip(text: Cow<'_, str>, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max {
        return text;
    }
    let kept = cut(&text, bytes_max);
    Cow::Owned(format!("{kept}… ({} bytes more)", text.len() - kept.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clipped_text_says_how_much_is_missing() {
        assert_eq!(clip("äöü".into(), 3), "ä… (4 bytes more)");
        assert_eq!(clip("äöü".into(), 6), "äöü");
    }

    /// A guest, a client or a peer could otherwise forge lines of the node's log, or hide them.
    #[test]
    fn a_line_stays_one_line_and_reads_from_left_to_right() {
        assert_eq!(printable("a\nb\u{1b}[31m\tc\r\n", Keep::Tabs), "a\\nb\\u{1b}[31m\tc");
        let hidden = "x\u{202e}y\u{2028}z\u{9b}2J\u{2066}\u{feff}\u{200b}\u{e0041}";
        let shown = printable(hidden, Keep::Tabs);
        assert!(!shown.contains(is_harmful), "{shown}");
        assert_eq!(&shown[..16], "x\\u{202e}y\\u{202");
        for fine in ["häß 漢字 عربى", "👩\u{200d}👩\u{200d}👧", "می\u{200c}خواهم"]
        {
            assert!(
                matches!(printable(fine, Keep::Tabs), Cow::Borrowed(same) if same == fine),
                "{fine}"
            );
        }
        assert_eq!(printable("a\nb\u{7}\n", Keep::Lines), "a\nb\\u{7}\n");
        assert_eq!(cut("häß", 2), "h");
    }

    /// A reader of JSON must get back what was logged, and a terminal must not act on it.
    #[test]
    fn json_keeps_the_text_and_hides_what_it_does() {
        let value = serde_json::json!({"message": "a\u{202e}b\u{e0041}\u{85}"});
        let line = format!("{value}\n");
        let clean = in_json(&line).unwrap();
        assert!(!clean.trim_end_matches('\n').contains(is_harmful), "{clean}");
        assert!(clean.ends_with("}\n"));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&clean).unwrap(), value);
        assert_eq!(in_json("{\"a\":1}\n"), None);
    }
}
