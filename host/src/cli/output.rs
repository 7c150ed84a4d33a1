//! The output of commands: tables, times, and text from untrusted sources.

use super::exit::CliError;
use crate::{
    telemetry::sink,
    text::{self, Keep},
};
use serde_json::Value;
use std::{
    borrow::Cow,
    io::{self, IsTerminal as _},
};

/// Writes to standard output.
///
/// # Errors
/// Also when the reader is gone; `println!` would panic.
pub fn print(text: &str) -> Result<(), CliError> {
    write_bytes(text.as_bytes())
}

/// As [`print`], with a line break.
///
/// # Errors
/// As [`print`].
pub fn line(text: &str) -> Result<(), CliError> {
    write_bytes(format!("{text}\n").as_bytes())
}

/// As [`print`].
///
/// # Errors
/// As [`print`].
pub fn write_bytes(bytes: &[u8]) -> Result<(), CliError> {
    Ok(sink::out(bytes)?)
}

/// Writes a line to standard error; errors are ignored.
pub fn complain(text: &str) {
    let _ = sink::err(format!("{text}\n").as_bytes());
}

/// Messages on standard error: on a terminal, long lines are broken between words.
pub fn for_terminal(text: &str) -> Cow<'_, str> {
    match io::stderr().is_terminal() {
        true => wrapped(text, WIDTH).into(),
        false => text.into(),
    }
}

/// A width at which long sentences are easy to read.
const WIDTH: usize = 100;

fn wrapped(text: &str, width: usize) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for (number, line) in text.lines().enumerate() {
        if number > 0 {
            out.push('\n');
        }
        let indent = line.len() - line.trim_start().len();
        let mut column = 0;
        for word in line[indent..].split(' ') {
            let chars = word.chars().count();
            match column {
                0 => {
                    out.push_str(&line[..indent]);
                    column = indent;
                }
                _ if column + 1 + chars > width => {
                    out.push('\n');
                    out.extend(std::iter::repeat_n(' ', indent + 2));
                    column = indent + 2;
                }
                _ => {
                    out.push(' ');
                    column += 1;
                }
            }
            out.push_str(word);
            column += chars;
        }
    }
    out
}

/// Writes a body unchanged; on a terminal, escaped and ended with a line break.
///
/// # Errors
/// As [`print`].
pub fn body(bytes: &[u8]) -> Result<(), CliError> {
    if !io::stdout().is_terminal() {
        return write_bytes(bytes);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => line(&harmless(text, true)),
        Err(_) => {
            complain(&format!(
                "({} bytes that are not text; redirect the output to get them)",
                bytes.len()
            ));
            Ok(())
        }
    }
}

/// Control and format characters as escapes: external text must not control the reader's terminal.
pub fn harmless(text: &str, keep_lines: bool) -> String {
    text::printable(text, if keep_lines { Keep::Lines } else { Keep::Nothing }).into_owned()
}

/// Columns with a heading; numbers right-aligned.
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A heading that starts with `>` is a column of numbers.
    pub fn new(headings: &[&str]) -> Self {
        Self {
            right: headings.iter().map(|h| h.starts_with('>')).collect(),
            rows: vec![headings.iter().map(|h| h.trim_start_matches('>').to_string()).collect()],
        }
    }
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(|cell| harmless(&cell.into(), false)).collect());
    }
    pub fn render(&self) -> String {
        let width = |column: usize| {
            self.rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max()
        };
        let widths: Vec<usize> = (0..self.right.len()).map(|c| width(c).unwrap_or(0)).collect();
        let mut out = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).zip(&self.right).map(|((cell, width), right)| {
                if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// A field of a JSON answer as text: strings without quotes, `-` for a missing one.
pub fn text(value: &Value, path: &str) -> String {
    match path.split('.').try_fold(value, |v, key| v.get(key)) {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// A field that is a list.
pub fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A field that is a number.
pub fn number(value: &Value, name: &str) -> f64 {
    value.get(name).and_then(Value::as_f64).unwrap_or(0.0)
}

/// Milliseconds since the Unix epoch as `2026-01-31 09:05:07Z`; `-` for none.
pub fn time(value: &Value, name: &str) -> String {
    format_time(value.get(name).and_then(Value::as_u64).unwrap_or(0))
}

/// As [`time`].
pub fn format_time(ms: u64) -> String {
    if ms == 0 {
        return "-".into();
    }
    let seconds = ms / 1_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days to a date in the proleptic Gregorian calendar, with years that start in March, so that
    // the leap day is a year's last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}Z")
}

/// Microseconds in the most readable unit.
pub fn micros(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us:.0} µs"),
        us if us < 1_000_000.0 => format!("{:.1} ms", us / 1_000.0),
        us => format!("{:.1} s", us / 1_000_000.0),
    }
}

/// Bytes, for people.
pub fn bytes(n: f64) -> String {
    const KIB: f64 = 1024.0;
    match n {
        n if n < KIB => format!("{n:.0} B"),
        // 1023.6 KiB would be shown as 1024.
        n if n < KIB * (KIB - 0.5) => format!("{:.0} KiB", n / KIB),
        n if n < KIB * KIB * KIB => format!("{:.1} MiB", n / KIB / KIB),
        n => format!("{:.2} GiB", n / KIB / KIB / KIB),
    }
}

/// `1 slot`, `2 slots`.
pub fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Operators read these in an incident; a day off sends them to the wrong log.
    #[test]
    fn times_are_right_across_leap_years() {
        for (ms, text) in [
            (1, "1970-01-01 00:00:00Z"),
            (951_782_400_000, "2000-02-29 00:00:00Z"),
            (1_709_251_199_999, "2024-02-29 23:59:59Z"),
            (1_709_251_200_000, "2024-03-01 00:00:00Z"),
            (4_107_542_399_000, "2100-02-28 23:59:59Z"),
            (4_107_542_400_000, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(format_time(ms), text);
        }
    }

    #[test]
    fn tables_line_up_and_untrusted_text_is_harmless() {
        let mut table = Table::new(&["NAME", ">SLOTS"]);
        table.row(["ünï", "7"]);
        table.row(["a\u{1b}[2J", "512"]);
        assert_eq!(table.render(), "NAME        SLOTS\nünï             7\na\\u{1b}[2J    512\n");
        assert_eq!(harmless("a\n\tb\u{7}", true), "a\n\tb\\u{7}");
    }

    /// Without it, an error of several sentences is one line that a terminal breaks within words.
    #[test]
    fn long_lines_are_broken_between_words() {
        assert_eq!(wrapped("one two three\n  four five", 9), "one two\n  three\n  four\n    five");
        assert_eq!(wrapped("averylongword b", 5), "averylongword\n  b");
        assert_eq!(wrapped("a  b\n\nc", 9), "a  b\n\nc");
    }

    #[test]
    fn fields_that_are_not_there_are_dashes() {
        let value = serde_json::json!({"a": {"b": "x"}, "n": 3, "none": null});
        assert_eq!(
            ["a.b", "n", "none", "a.c", "z.z"].map(|p| text(&value, p)),
            ["x", "3", "-", "-", "-"]
        );
        assert_eq!(
            (micros(12.3), micros(1_234.0), micros(2e6)),
            ("12 µs".into(), "1.2 ms".into(), "2.0 s".into())
        );
    }
}
