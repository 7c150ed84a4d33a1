//! The output of `slotd config print`: a valid configuration file.

use super::{
    keys::{KEYS, TABLES},
    load::{Loaded, Origin},
};
use std::fmt::Write as _;

impl Loaded {
    /// TOML, each value with its source. Values with a token or a password are shown as a redacted
    /// comment.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        let tables = std::iter::once(None).chain(TABLES.iter().map(|(name, _)| Some(*name)));
        for table in tables {
            if let Some(table) = table {
                let _ = writeln!(out, "\n[{table}]");
            }
            let rows: Vec<(String, String)> = KEYS
                .iter()
                .filter(|key| key.split().0 == table)
                .map(|key| {
                    let name = key.split().1;
                    match (key.get)(&self.config) {
                        None => (format!("# {name} is not set"), String::new()),
                        Some(value) => match key.masked(&value.to_string()) {
                            Some(masked) => (format!("# {name} = {masked}"), self.origin(key.name)),
                            None => {
                                (format!("{name} = {}", value.to_toml()), self.origin(key.name))
                            }
                        },
                    }
                })
                .collect();
            let width = rows.iter().map(|(left, _)| left.chars().count()).max().unwrap_or(0);
            for (left, origin) in rows {
                let _ = match origin.as_str() {
                    "" => writeln!(out, "{left}"),
                    _ => writeln!(out, "{left:width$}  # {origin}"),
                };
            }
        }
        out
    }

    /// `{"file": ..., "values": [{"key", "value", "origin"}]}`; durations and sizes as text.
    pub fn to_json(&self) -> serde_json::Value {
        let values: Vec<serde_json::Value> = KEYS
            .iter()
            .map(|key| {
                serde_json::json!({
                    "key": key.name,
                    "value": (key.get)(&self.config).map(|value| {
                        let text = value.to_string();
                        key.masked(&text).unwrap_or(text)
                    }),
                    "origin": self.origin(key.name),
                    "env": key.env(),
                    "flag": format!("--{}", key.flag()),
                })
            })
            .collect();
        serde_json::json!({
            "file": self.file.as_ref().map(|file| file.display().to_string()),
            "values": values,
        })
    }

    fn origin(&self, key: &str) -> String {
        self.origins.get(key).unwrap_or(&Origin::Default).to_string()
    }
}
