//! TypeScript declarations of a plugin's messages, from the JSON Schemas in its types document.
//!
//! Of JSON Schema 2020-12 it takes what says which shape a value has: `type`, `properties`, `required`,
//! `additionalProperties`, `patternProperties`, `items`, `prefixItems`, `enum`, `const`, `anyOf`, `oneOf`, `allOf`, and `$ref`
//! to `#/$defs/NAME` and the document's own members. What only narrows that (`minimum`, `pattern`, `not`, `if`, ...) is left
//! out: the type is wider then, never wrong. What it can't tell is `unknown`, with the reason in a comment.
//!
//! A schema is whatever its author has written, also a hostile one: the text that comes out is valid TypeScript all the same,
//! and not longer than in proportion to the document.

mod print;
mod schema;
#[cfg(test)]
mod tests;

use self::{
    print::{comment, declaration, quoted_unless_name},
    schema::{Reader, is_only_reference},
};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The members of the document that are one schema, and the names of their types.
const ONE: [(&str, &str); 4] =
    [("message", "Message"), ("reply", "Reply"), ("query", "Query"), ("answer", "Answer")];
/// Those that have a schema for each kind.
const BY_KIND: [(&str, &str); 2] = [("events", "Events"), ("notifications", "Notifications")];

/// A type, as far as TypeScript has it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Type {
    /// Why it is not known; nothing, if the schema allows everything.
    Unknown(String),
    /// A type of the language, or a literal.
    Plain(String),
    Name(String),
    Array(Box<Type>),
    /// The items, the number of those that are always there, and what may come after them.
    Tuple(Vec<Type>, usize, Option<Box<Type>>),
    Object(Vec<Member>, Option<Box<Type>>),
    Union(Vec<Type>),
    All(Vec<Type>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    /// As in the document.
    name: String,
    doc: Option<String>,
    optional: bool,
    of: Type,
}

/// A named type.
struct Declared {
    name: String,
    doc: Option<String>,
    of: Type,
}

/// The declarations of a types document, for a file of their own: `Message`, `Reply`, `Query`, `Answer`, `Events`,
/// `Notifications`, those of them that there are, and `Types` with all of them, for the client library. `of` says in a comment
/// whose they are.
pub fn typescript(document: &Value, of: &str) -> String {
    let nothing = Map::new();
    let document = document.as_object().unwrap_or(&nothing);
    let mut reader = Reader::new(document);
    let mut own = BTreeMap::new();
    for (member, name) in ONE.into_iter().chain(BY_KIND) {
        if document.contains_key(member) {
            reader.take_name(name);
            own.insert(member, name);
        }
    }
    reader.take_name("Types");
    // A definition that is the whole of a member gets the member's name.
    let mut declared = Vec::new();
    for (member, name) in ONE {
        let Some(schema) = document.get(member) else { continue };
        let definition = is_only_reference(schema);
        if definition.is_some_and(|definition| reader.name_definition(&definition, name)) {
            continue;
        }
        let of = reader.read(schema);
        declared.push(Declared { name: name.into(), doc: doc_of(schema), of });
    }
    let by_kind = BY_KIND.map(|(member, name)| {
        let kinds = document.get(member)?.as_object()?;
        let members = kinds.iter().map(|(kind, schema)| Member {
            name: kind.clone(),
            doc: doc_of(schema),
            optional: false,
            of: reader.read(schema),
        });
        Some((name, members.collect::<Vec<_>>()))
    });
    while let Some((definition, name)) = reader.next_definition() {
        let schema = reader.definition(&definition);
        let of = reader.read(schema);
        declared.push(Declared { name, doc: doc_of(schema), of });
    }
    cut_circles(&mut declared);

    let mut text = format!(
        "// Types of {}. Made by `slotd plugin types`: make them again instead of changing them.\n",
        comment(of).replace('\n', " ")
    );
    for declared in &declared {
        text += "\n";
        text += &declaration(declared);
    }
    for (name, members) in by_kind.into_iter().flatten() {
        text += &format!("\nexport interface {name} {}\n", print::object(&members, None, 0));
    }
    text += "\n/** All of them: `slotd.session<Types>(service, session)`. */\nexport interface Types {\n";
    for (member, name) in ONE.into_iter().chain(BY_KIND) {
        if own.contains_key(member) {
            text += &format!("  {}: {name};\n", quoted_unless_name(member));
        }
    }
    text += "}\n";
    text
}

/// What the schema says of itself.
fn doc_of(schema: &Value) -> Option<String> {
    let said = schema.get("description").and_then(Value::as_str);
    let mut text = said.filter(|text| !text.trim().is_empty()).map(str::to_owned);
    if schema.get("deprecated") == Some(&Value::Bool(true)) {
        let before = text.map_or_else(String::new, |text| text + "\n");
        text = Some(before + "@deprecated");
    }
    text
}

/// A type may refer to itself within an object or an array. Where it would be itself, or one of several of which it is one, it
/// is cut: to TypeScript that is an error.
fn cut_circles(declared: &mut [Declared]) {
    let at: BTreeMap<String, usize> =
        declared.iter().enumerate().map(|(n, d)| (d.name.clone(), n)).collect();
    let edges: Vec<Vec<usize>> = declared
        .iter()
        .map(|declared| {
            let mut names = BTreeSet::new();
            direct(&declared.of, Place::Now, &mut names);
            names.iter().filter_map(|name| at.get(*name).copied()).collect()
        })
        .collect();
    let mut cut = vec![BTreeSet::new(); declared.len()];
    // Depth first, without recursion: a document can have a chain of thousands.
    let (mut begun, mut done) = (vec![false; declared.len()], vec![false; declared.len()]);
    for start in 0..declared.len() {
        if done[start] {
            continue;
        }
        let mut path = vec![(start, 0)];
        while let Some((node, next)) = path.last_mut() {
            let node = *node;
            begun[node] = true;
            let edge = edges[node].get(*next).copied();
            *next += 1;
            match edge {
                None => {
                    done[node] = true;
                    path.pop();
                }
                Some(to) if done[to] => {}
                Some(to) if begun[to] => {
                    cut[node].insert(declared[to].name.clone());
                }
                Some(to) => path.push((to, 0)),
            }
        }
    }
    for (declared, cut) in declared.iter_mut().zip(&cut) {
        if !cut.is_empty() {
            without(&mut declared.of, Place::Now, cut);
        }
    }
}

/// Where a name stands in a type.
#[derive(Clone, Copy)]
enum Place {
    /// TypeScript resolves it to know what the type is.
    Now,
    /// In an array, or an item of a tuple: when it is needed.
    Later,
    /// In an item of a tuple that may be missing: now, whatever it is in there, but in an object.
    Optional,
}

impl Place {
    fn inside(self) -> Self {
        match self {
            Self::Optional => Self::Optional,
            Self::Now | Self::Later => Self::Later,
        }
    }

    fn of_item(self, is_needed: bool) -> Self {
        if is_needed { self.inside() } else { Self::Optional }
    }
}

/// The names that are resolved with the type itself.
fn direct<'a>(of: &'a Type, place: Place, names: &mut BTreeSet<&'a str>) {
    match of {
        Type::Name(name) if !matches!(place, Place::Later) => {
            names.insert(name);
        }
        Type::Union(parts) | Type::All(parts) => {
            parts.iter().for_each(|part| direct(part, place, names));
        }
        Type::Array(item) => direct(item, place.inside(), names),
        Type::Tuple(items, needed, rest) => {
            for (n, item) in items.iter().enumerate() {
                direct(item, place.of_item(n < *needed), names);
            }
            rest.iter().for_each(|rest| direct(rest, place.inside(), names));
        }
        _ => {}
    }
}

/// Cuts these of [`direct`].
fn without(of: &mut Type, place: Place, cut: &BTreeSet<String>) {
    match of {
        Type::Name(name) if !matches!(place, Place::Later) && cut.contains(name) => {
            *of = Type::Unknown(format!("{name} would be itself"));
        }
        Type::Union(parts) | Type::All(parts) => {
            parts.iter_mut().for_each(|part| without(part, place, cut));
        }
        Type::Array(item) => without(item, place.inside(), cut),
        Type::Tuple(items, needed, rest) => {
            for (n, item) in items.iter_mut().enumerate() {
                without(item, place.of_item(n < *needed), cut);
            }
            rest.iter_mut().for_each(|rest| without(rest, place.inside(), cut));
        }
        _ => {}
    }
}
