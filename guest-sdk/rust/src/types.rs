//! The types of a plugin's messages as JSON Schemas, made of its own Rust types, for who writes a client.
//!
//! They are kept in a file that the manifest names, `[package.metadata.slotd] types = "types.json"`: `slotd plugin build` puts it
//! into the component, `slotd plugin types` makes TypeScript of it, and who reviews a change sees what it is to clients. A test
//! holds the file against the types, and writes it when it is told to, with `SLOTD_UPDATE_TYPES=1`.
//!
//! ```
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//! use slotd_guest::types::Types;
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Say {
//!     text: String,
//! }
//! #[derive(Serialize, JsonSchema)]
//! struct Line<'a> {
//!     n: u64,
//!     text: &'a str,
//! }
//!
//! // In a plugin, `#[test]`, and `.check("types.json")` instead of `.into_json()`.
//! let types = Types::new().message::<Say>().reply::<u64>().event::<Line>("line");
//! assert!(types.into_json().contains("\"format\": 1"));
//! ```

use schemars::{
    JsonSchema, Schema,
    generate::{SchemaGenerator, SchemaSettings},
};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

/// Has a test write the file instead of holding it against the types.
const UPDATE: &str = "SLOTD_UPDATE_TYPES";
const DEFS: &str = "$defs";

/// What a plugin's messages are. What is left out is not said, and can be anything to a client.
#[derive(Debug)]
#[must_use = "`check` it against the file"]
pub struct Types {
    /// Of what a client gives: a field with a default may be missing.
    given: SchemaGenerator,
    /// Of what the handler gives: such a field is there.
    made: SchemaGenerator,
    given_members: Map<String, Value>,
    made_members: Map<String, Value>,
}

impl Default for Types {
    fn default() -> Self {
        Self::new()
    }
}

impl Types {
    pub fn new() -> Self {
        let settings = SchemaSettings::draft2020_12;
        Self {
            given: settings().for_deserialize().into_generator(),
            made: settings().for_serialize().into_generator(),
            given_members: Map::new(),
            made_members: Map::new(),
        }
    }

    /// A message's body: [`Handler::Message`](crate::Handler::Message), or what of it clients may send.
    pub fn message<T: JsonSchema + ?Sized>(mut self) -> Self {
        let schema = self.given.subschema_for::<T>();
        self.given_members.insert("message".into(), schema.into());
        self
    }
    /// The body of the reply to a message.
    pub fn reply<T: JsonSchema + ?Sized>(mut self) -> Self {
        let schema = self.made.subschema_for::<T>();
        self.made_members.insert("reply".into(), schema.into());
        self
    }
    /// A query's body: [`Handler::Query`](crate::Handler::Query).
    pub fn query<T: JsonSchema + ?Sized>(mut self) -> Self {
        let schema = self.given.subschema_for::<T>();
        self.given_members.insert("query".into(), schema.into());
        self
    }
    /// The body of the answer to a query.
    pub fn answer<T: JsonSchema + ?Sized>(mut self) -> Self {
        let schema = self.made.subschema_for::<T>();
        self.made_members.insert("answer".into(), schema.into());
        self
    }
    /// The body of the events of a kind ([`Context::emit`](crate::Context::emit)).
    pub fn event<T: JsonSchema + ?Sized>(mut self, kind: &str) -> Self {
        let schema = self.made.subschema_for::<T>();
        self.of_kind("events", kind, schema);
        self
    }
    /// The body of the ephemeral events of a kind ([`Context::notify`](crate::Context::notify), or of clients).
    pub fn notification<T: JsonSchema + ?Sized>(mut self, kind: &str) -> Self {
        let schema = self.made.subschema_for::<T>();
        self.of_kind("notifications", kind, schema);
        self
    }

    fn of_kind(&mut self, member: &str, kind: &str, schema: Schema) {
        let kinds = self.made_members.entry(member).or_insert_with(|| json!({}));
        kinds[kind] = schema.into();
    }

    /// The document, as it is in the file.
    #[must_use]
    pub fn into_json(mut self) -> String {
        format!("{:#}\n", self.document())
    }

    fn document(&mut self) -> Value {
        let mut given = self.given.take_definitions(true);
        let mut definitions = self.made.take_definitions(true);
        // A type that is both given and made, and is not the same then, is two: the given one is `LineInput`.
        let apart = apart(&given, &definitions);
        let renamed = |name: &str| apart.contains(name).then(|| format!("{name}Input"));
        let mut members = std::mem::take(&mut self.given_members);
        for schema in members.values_mut().chain(given.values_mut()) {
            rename(schema, &renamed);
        }
        for (name, schema) in given {
            definitions.insert(renamed(&name).unwrap_or(name), schema);
        }
        members.extend(std::mem::take(&mut self.made_members));
        members.insert("format".into(), json!(1));
        if !definitions.is_empty() {
            members.insert(DEFS.into(), definitions.into());
        }
        members.into()
    }

    /// Holds the file, from the crate's folder, against the types; with `SLOTD_UPDATE_TYPES=1` it is written.
    ///
    /// # Panics
    /// If the file is not as the types are, or can't be read or written: this is for a test.
    #[track_caller]
    pub fn check(mut self, file: impl AsRef<Path>) {
        let file = file.as_ref();
        // Of the test that cargo runs, not of this crate.
        let folder = env::var_os("CARGO_MANIFEST_DIR").map_or_else(PathBuf::new, PathBuf::from);
        let path = folder.join(file);
        let is = self.document();
        if env::var_os(UPDATE).is_some_and(|set| !set.is_empty() && set != "0") {
            let written = fs::write(&path, format!("{is:#}\n"));
            return written.unwrap_or_else(|e| panic!("{} can't be written: {e}", path.display()));
        }
        let there = fs::read_to_string(&path).ok();
        let there: Option<Value> = there.and_then(|text| serde_json::from_str(&text).ok());
        assert!(
            there.as_ref() == Some(&is),
            "{} is not what the plugin's types are. Have the test write it, and look at what has \
             changed for clients:\n  {UPDATE}=1 cargo test",
            path.display()
        );
    }
}

/// The definitions of both that are not the same in both, or that refer to such a one.
fn apart(given: &Map<String, Value>, made: &Map<String, Value>) -> BTreeSet<String> {
    let both: Vec<_> =
        given.iter().filter_map(|(name, schema)| Some((name, schema, made.get(name)?))).collect();
    let differ = both.iter().filter(|(_, given, made)| given != made);
    let mut apart: BTreeSet<String> = differ.map(|(name, ..)| (*name).clone()).collect();
    loop {
        let before = apart.len();
        for (name, schema, _) in &both {
            if !apart.contains(*name) && refers_to(schema, &apart) {
                apart.insert((*name).clone());
            }
        }
        if apart.len() == before {
            return apart;
        }
    }
}

/// The definition that a schema's `$ref` names.
fn referred(key: &str, value: &Value) -> Option<String> {
    let name = value.as_str().filter(|_| key == "$ref")?.strip_prefix("#/$defs/")?;
    Some(name.to_owned())
}

fn refers_to(schema: &Value, names: &BTreeSet<String>) -> bool {
    match schema {
        Value::Object(members) => members.iter().any(|(key, value)| {
            referred(key, value).is_some_and(|name| names.contains(&name))
                || refers_to(value, names)
        }),
        Value::Array(items) => items.iter().any(|item| refers_to(item, names)),
        _ => false,
    }
}

fn rename(schema: &mut Value, renamed: &impl Fn(&str) -> Option<String>) {
    match schema {
        Value::Object(members) => {
            for (key, value) in members {
                match referred(key, value).and_then(|name| renamed(&name)) {
                    Some(name) => *value = Value::from(format!("#/$defs/{name}")),
                    None => rename(value, renamed),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, renamed)),
        _ => {}
    }
}
