//! From a JSON Schema to a type.

use super::{Member, ONE, Type, doc_of, print};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Where definitions are.
const DEFS: &str = "$defs";
/// The most that is quoted of a schema in a comment, in characters.
const QUOTED_MAX: usize = 60;
/// Of a name, in characters; the rest is a number where it is needed.
const NAME_MAX: usize = 64;
/// The most combinations that an intersection of unions is written out for: tsc makes one type of each, and gives up at 100,000.
const COMBINATIONS_MAX: usize = 1_000;

/// Reads schemas of one document, and names the definitions that they refer to.
pub(super) struct Reader<'a> {
    document: &'a Map<String, Value>,
    taken: BTreeSet<String>,
    /// How often a name was asked for.
    wanted: BTreeMap<String, usize>,
    /// By their keys in the document.
    definitions: BTreeMap<String, String>,
    /// Those that are to be read.
    waiting: VecDeque<String>,
}

/// A schema that is a definition and nothing else: that one's key.
pub(super) fn is_only_reference(schema: &Value) -> Option<String> {
    let schema = schema.as_object()?;
    let annotates = |name: &str| matches!(name, "$ref" | "description" | "title" | "$schema");
    let is_only = schema.keys().all(|name| annotates(name));
    let reference = schema.get("$ref").filter(|_| is_only)?.as_str()?;
    match Target::of(reference)? {
        Target::Definition(key) => Some(key),
        Target::Member(_) => None,
    }
}

enum Target {
    Definition(String),
    /// One of the document's own: the name of its type.
    Member(&'static str),
}

impl Target {
    fn of(reference: &str) -> Option<Self> {
        let path = reference.strip_prefix("#/")?;
        if let Some((_, name)) = ONE.iter().find(|(member, _)| *member == path) {
            return Some(Self::Member(name));
        }
        let key = path.strip_prefix(DEFS)?.strip_prefix('/')?;
        (!key.contains('/')).then(|| Self::Definition(unescaped(key)))
    }
}

/// A part of a JSON pointer in a URI's fragment.
fn unescaped(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = (*first == b'%').then(|| tail.get(..2)).flatten();
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).replace("~1", "/").replace("~0", "~")
}

impl<'a> Reader<'a> {
    pub(super) fn new(document: &'a Map<String, Value>) -> Self {
        Self {
            document,
            taken: BTreeSet::new(),
            wanted: BTreeMap::new(),
            definitions: BTreeMap::new(),
            waiting: VecDeque::new(),
        }
    }

    pub(super) fn take_name(&mut self, name: &str) {
        self.taken.insert(name.to_owned());
    }

    /// The name that a definition is declared under; false if there is none, or it has another.
    pub(super) fn name_definition(&mut self, key: &str, name: &str) -> bool {
        let is_new = self.has(key) && !self.definitions.contains_key(key);
        if is_new {
            self.definitions.insert(key.to_owned(), name.to_owned());
            self.waiting.push_back(key.to_owned());
        }
        is_new
    }

    /// Another definition that something has referred to, and its name.
    pub(super) fn next_definition(&mut self) -> Option<(String, String)> {
        let key = self.waiting.pop_front()?;
        let name = self.definitions.get(&key)?.clone();
        Some((key, name))
    }

    pub(super) fn definition(&self, key: &str) -> &'a Value {
        let found = self.document.get(DEFS).and_then(|defs| defs.get(key));
        found.unwrap_or(&Value::Bool(true))
    }

    fn has(&self, key: &str) -> bool {
        self.document.get(DEFS).is_some_and(|defs| defs.get(key).is_some())
    }

    pub(super) fn read(&mut self, schema: &Value) -> Type {
        let schema = match schema {
            Value::Bool(true) => return Type::Unknown(String::new()),
            Value::Bool(false) => return plain("never"),
            Value::Object(schema) => schema,
            other => return unknown("no schema", other),
        };
        let mut parts = Vec::new();
        if let Some(reference) = schema.get("$ref") {
            parts.push(self.reference(reference));
        }
        if let Some(reference) = schema.get("$dynamicRef") {
            parts.push(unknown("$dynamicRef", reference));
        }
        match (schema.get("const"), schema.get("enum")) {
            (Some(value), _) => parts.push(literal(value)),
            (None, Some(Value::Array(values))) => {
                parts.push(union(values.iter().map(literal).collect()));
            }
            (None, Some(other)) => parts.push(unknown("enum", other)),
            (None, None) => parts.extend(self.shape(schema)),
        }
        for (keyword, make) in [("anyOf", union as fn(_) -> _), ("oneOf", union), ("allOf", all)] {
            match schema.get(keyword) {
                Some(Value::Array(schemas)) => {
                    let schemas = schemas.iter().map(|schema| self.read(schema)).collect();
                    parts.push(make(schemas));
                }
                Some(other) => parts.push(unknown(keyword, other)),
                None => {}
            }
        }
        // "An object", besides what object it is.
        if parts.len() > 1 {
            parts.retain(|part| *part != any_object());
        }
        all(parts)
    }

    fn reference(&mut self, reference: &Value) -> Type {
        let target = reference.as_str().and_then(Target::of);
        match target {
            Some(Target::Member(name)) if self.taken.contains(name) => Type::Name(name.to_owned()),
            Some(Target::Definition(key)) if self.has(&key) => {
                if !self.definitions.contains_key(&key) {
                    let name = self.free_name(&key);
                    self.name_definition(&key, &name);
                }
                Type::Name(self.definitions[&key].clone())
            }
            _ => unknown("$ref", reference),
        }
    }

    /// A name for a definition: an identifier that nothing else has.
    fn free_name(&mut self, key: &str) -> String {
        let words = key.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let capitalised = words.map(|word| word[..1].to_ascii_uppercase() + &word[1..]);
        let mut name = capitalised.collect::<String>();
        name.truncate(NAME_MAX);
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            name.insert_str(0, "Type");
        }
        let named = |n: usize| if n == 1 { name.clone() } else { format!("{name}{n}") };
        let wanted = self.wanted.entry(name.clone()).or_default();
        // It ends: those that are taken are finite. From where it ended the last time, or thousands of equal names would take
        // long.
        loop {
            *wanted += 1;
            let free = named(*wanted);
            if self.taken.insert(free.clone()) {
                return free;
            }
        }
    }

    /// What `type` says, or the keywords of a type.
    fn shape(&mut self, schema: &Map<String, Value>) -> Option<Type> {
        let has = |names: &[&str]| names.iter().any(|name| schema.contains_key(*name));
        let types: Vec<&Value> = match schema.get("type") {
            Some(Value::Array(types)) => types.iter().collect(),
            Some(one) => vec![one],
            None if has(&[
                "properties",
                "required",
                "patternProperties",
                "additionalProperties",
            ]) =>
            {
                return Some(self.object(schema));
            }
            None if has(&["items", "prefixItems"]) => return Some(self.array(schema)),
            None => return None,
        };
        let types = types.into_iter().map(|name| match name.as_str() {
            Some("object") => self.object(schema),
            Some("array") => self.array(schema),
            Some("integer" | "number") => plain("number"),
            Some(name @ ("string" | "boolean" | "null")) => plain(name),
            _ => unknown("type", name),
        });
        Some(union(types.collect()))
    }

    fn object(&mut self, schema: &Map<String, Value>) -> Type {
        let none = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
        let required = schema.get("required").and_then(Value::as_array);
        let required: BTreeSet<&str> =
            required.into_iter().flatten().filter_map(Value::as_str).collect();
        let mut members = Vec::new();
        for (name, schema) in properties {
            let (doc, optional) = (doc_of(schema), !required.contains(name.as_str()));
            members.push(Member { name: name.clone(), doc, optional, of: self.read(schema) });
        }
        for name in required.into_iter().filter(|name| !properties.contains_key(*name)) {
            let of = Type::Unknown(String::new());
            members.push(Member { name: name.to_owned(), doc: None, optional: false, of });
        }
        let mut rest: Vec<Type> = Vec::new();
        for schema in
            schema.get("patternProperties").and_then(Value::as_object).into_iter().flatten()
        {
            rest.push(self.read(schema.1));
        }
        match schema.get("additionalProperties") {
            Some(Value::Bool(false)) => {}
            Some(more) => rest.push(self.read(more)),
            None => {}
        }
        let rest = match (rest.is_empty(), members.is_empty()) {
            (false, true) => Some(union(rest)),
            // To TypeScript, the members would have to be of that type as well.
            (false, false) => Some(match union(rest) {
                Type::Unknown(why) => Type::Unknown(why),
                _ => Type::Unknown("the others are of one type, which is not that of all".into()),
            }),
            (true, false) => None,
            (true, true) if schema.get("additionalProperties").is_some() => Some(plain("never")),
            (true, true) => return any_object(),
        };
        Type::Object(members, rest.map(Box::new))
    }

    fn array(&mut self, schema: &Map<String, Value>) -> Type {
        let count = |name: &str| schema.get(name).and_then(Value::as_u64);
        let first = schema.get("prefixItems").or_else(|| {
            // Before 2020-12.
            schema.get("items").filter(|items| items.is_array())
        });
        let Some(Value::Array(first)) = first else {
            return Type::Array(Box::new(match schema.get("items") {
                Some(items) => self.read(items),
                None => Type::Unknown(String::new()),
            }));
        };
        let items: Vec<Type> = first.iter().map(|schema| self.read(schema)).collect();
        let length = items.len() as u64;
        let needed = usize::try_from(count("minItems").unwrap_or(0).min(length)).unwrap_or(0);
        let after = schema.get("items").filter(|items| !items.is_array());
        let rest = match after.or_else(|| schema.get("additionalItems")) {
            Some(Value::Bool(false)) => None,
            _ if count("maxItems").is_some_and(|most| most <= length) => None,
            Some(items) => Some(self.read(items)),
            None => Some(Type::Unknown(String::new())),
        };
        Type::Tuple(items, needed, rest.map(Box::new))
    }
}

fn plain(name: &str) -> Type {
    Type::Plain(name.to_owned())
}

fn any_object() -> Type {
    Type::Object(Vec::new(), Some(Box::new(Type::Unknown(String::new()))))
}

fn unknown(what: &str, value: &Value) -> Type {
    let value = value.to_string();
    let mut shown: String = value.chars().take(QUOTED_MAX).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    Type::Unknown(format!("{what}: {shown}"))
}

fn literal(value: &Value) -> Type {
    match value {
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(literal).collect();
            let needed = items.len();
            Type::Tuple(items, needed, None)
        }
        Value::Object(members) if members.is_empty() => {
            Type::Object(Vec::new(), Some(Box::new(plain("never"))))
        }
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| Member {
                name: name.clone(),
                doc: None,
                optional: false,
                of: literal(value),
            });
            Type::Object(members.collect(), None)
        }
        scalar => Type::Plain(print::literal(scalar)),
    }
}

/// One of several.
fn union(parts: Vec<Type>) -> Type {
    let mut flat: Vec<Type> = Vec::new();
    for part in parts {
        match part {
            // Whatever the others are.
            Type::Unknown(why) => return Type::Unknown(why),
            Type::Union(parts) => flat.extend(parts),
            part => flat.push(part),
        }
    }
    let never = plain("never");
    let mut seen = BTreeSet::new();
    flat.retain(|part| match part {
        Type::Plain(name) | Type::Name(name) => *part != never && seen.insert(name.clone()),
        _ => true,
    });
    let both = ["true", "false"].map(plain);
    if both.iter().all(|value| flat.contains(value)) {
        flat.retain(|part| !both.contains(part));
        flat.push(plain("boolean"));
    }
    match flat.len() {
        0 => never,
        1 => flat.remove(0),
        _ => Type::Union(flat),
    }
}

/// All of several.
fn all(parts: Vec<Type>) -> Type {
    let mut flat: Vec<Type> = Vec::new();
    let mut reasons = Vec::new();
    for part in parts {
        match part {
            Type::Unknown(why) => reasons.extend(Some(why).filter(|why| !why.is_empty())),
            Type::All(parts) => flat.extend(parts),
            part if flat.contains(&part) => {}
            part => flat.push(part),
        }
    }
    let combinations = flat.iter().fold(1_usize, |product, part| match part {
        Type::Union(parts) => product.saturating_mul(parts.len()),
        _ => product,
    });
    match flat.len() {
        0 => Type::Unknown(reasons.into_iter().next().unwrap_or_default()),
        1 => flat.remove(0),
        _ if combinations > COMBINATIONS_MAX => {
            Type::Unknown("there are too many combinations".into())
        }
        _ => Type::All(flat),
    }
}
