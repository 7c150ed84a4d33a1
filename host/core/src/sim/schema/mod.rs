//! A part of JSON Schema (2020-12): enough to say what messages look like, to make some, and to tell whether a value is
//! one. What it does not know is refused, not passed over: a message that is made against it would be wrong.

mod check;
mod make;
mod pattern;
#[cfg(test)]
mod tests;

use crate::limits;
use pattern::Pattern;
use serde_json::{Map, Number, Value};
use std::collections::{HashMap, VecDeque};

/// A schema, read.
#[derive(Clone, Debug)]
pub struct Schema {
    parts: Vec<Part>,
    root: usize,
    /// How deep the smallest value of each part is; `None`: it has none that ends.
    depths: Vec<Option<usize>>,
}

/// One of its (sub)schemas. Others are named by their place among [`Schema::parts`].
#[derive(Clone, Debug, Default)]
struct Part {
    /// `true` and `false` are schemas.
    allows: Option<bool>,
    types: Vec<Type>,
    values: Option<Vec<Value>>,
    constant: Option<Value>,
    /// `examples` and `default`: nothing holds a value against them.
    examples: Vec<Value>,
    reference: Option<usize>,
    all: Vec<usize>,
    any: Vec<usize>,
    one: Vec<usize>,
    not: Option<usize>,
    properties: Vec<(String, usize)>,
    required: Vec<String>,
    additional: Option<usize>,
    properties_min: u64,
    properties_max: Option<u64>,
    prefix: Vec<usize>,
    items: Option<usize>,
    items_min: u64,
    items_max: Option<u64>,
    unique: bool,
    minimum: Option<Number>,
    maximum: Option<Number>,
    above: Option<Number>,
    below: Option<Number>,
    multiple_of: Option<Number>,
    length_min: u64,
    length_max: Option<u64>,
    pattern: Option<Pattern>,
    format: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Null,
    Boolean,
    Object,
    Array,
    Number,
    Integer,
    String,
}

impl Type {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "null" => Self::Null,
            "boolean" => Self::Boolean,
            "object" => Self::Object,
            "array" => Self::Array,
            "number" => Self::Number,
            "integer" => Self::Integer,
            "string" => Self::String,
            _ => return None,
        })
    }
}

/// Keywords that say something of a value and are not known here.
const UNKNOWN: [&str; 17] = [
    "$anchor",
    "$dynamicAnchor",
    "$dynamicRef",
    "$recursiveRef",
    "additionalItems",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "patternProperties",
    "propertyNames",
    "then",
    "unevaluatedItems",
];

impl Schema {
    /// Reads the schema at `place` of a document, a JSON pointer ("" is all of it).
    ///
    /// # Errors
    /// What is wrong with it, or not known here, with its place.
    pub fn parse(document: &Value, place: &str) -> Result<Self, String> {
        let mut reading =
            Reading { document, known: HashMap::new(), unread: VecDeque::new(), depth: 0 };
        let root = reading.part(place.to_owned())?;
        let mut parts = Vec::new();
        while let Some((place, depth)) = reading.unread.pop_front() {
            reading.depth = depth;
            parts.push(reading.read(&place)?);
        }
        let mut schema = Self { parts, root, depths: Vec::new() };
        schema.depths = schema.find_depths();
        if schema.depths[root].is_none() {
            return Err("no value fits it: it contains itself without an end".into());
        }
        Ok(schema)
    }

    /// Grows them until nothing changes: a value is one deeper than what it needs.
    fn find_depths(&self) -> Vec<Option<usize>> {
        let mut depths: Vec<Option<usize>> = vec![None; self.parts.len()];
        loop {
            let mut changed = false;
            for (at, part) in self.parts.iter().enumerate() {
                let depth = part.depth(&depths);
                if depths[at].is_none() && depth.is_some() {
                    (depths[at], changed) = (depth, true);
                }
            }
            if !changed {
                return depths;
            }
        }
    }
}

impl Part {
    fn depth(&self, depths: &[Option<usize>]) -> Option<usize> {
        if self.allows == Some(false) {
            return None;
        }
        if self.constant.is_some() || self.values.is_some() {
            return Some(0);
        }
        let mut deepest = 0;
        let mut needed: Vec<usize> = self.reference.into_iter().chain(self.all.clone()).collect();
        let may_be = |ty| self.types.is_empty() || self.types == [ty];
        if may_be(Type::Object) {
            let names = self.properties.iter().filter(|(name, _)| self.required.contains(name));
            needed.extend(names.map(|(_, part)| *part));
        }
        if may_be(Type::Array) && self.items_min > 0 {
            let prefix = usize::try_from(self.items_min).unwrap_or(usize::MAX);
            needed.extend(self.prefix.iter().take(prefix).copied());
            needed.extend(self.items.filter(|_| self.prefix.len() < prefix));
        }
        for part in needed {
            deepest = deepest.max(depths[part]?);
        }
        for choice in [&self.any, &self.one].into_iter().filter(|choice| !choice.is_empty()) {
            deepest = deepest.max(choice.iter().filter_map(|part| depths[*part]).min()?);
        }
        Some(deepest + 1)
    }
}

fn shown(place: &str) -> String {
    if place.is_empty() { "#".to_owned() } else { format!("#{place}") }
}

struct Reading<'a> {
    document: &'a Value,
    /// Which part a place is: a schema may refer to one that contains it.
    known: HashMap<String, usize>,
    /// Places, each with its depth, in the order of the parts that they become: read one after the other, since one in the
    /// other would use up the stack.
    unread: VecDeque<(String, usize)>,
    /// Of the part that is read, in parts.
    depth: usize,
}

impl Reading<'_> {
    /// Which part a place is, which is read later.
    fn part(&mut self, place: String) -> Result<usize, String> {
        if let Some(known) = self.known.get(&place) {
            return Ok(*known);
        }
        let at = self.known.len();
        if at >= limits::SIM_SCHEMA_PARTS_MAX {
            return Err(format!("it has more than {} parts", limits::SIM_SCHEMA_PARTS_MAX));
        }
        let (depth, most) = (self.depth + 1, limits::SIM_SCHEMA_NESTING_MAX);
        if depth > most {
            let shown = shown(&place);
            return Err(format!("{shown}: more than {most} parts lead to it, one in the other"));
        }
        self.known.insert(place.clone(), at);
        self.unread.push_back((place, depth));
        Ok(at)
    }

    fn read(&mut self, place: &str) -> Result<Part, String> {
        let (shown, document) = (shown(place), self.document);
        match document.pointer(place) {
            Some(Value::Bool(allows)) => Ok(Part { allows: Some(*allows), ..Part::default() }),
            Some(Value::Object(members)) => self.object(place, &shown, members),
            Some(_) => Err(format!("{shown}: a schema is an object, true or false")),
            None => Err(format!("{shown}: there is no such place in the document")),
        }
    }

    fn object(
        &mut self,
        place: &str,
        shown: &str,
        members: &Map<String, Value>,
    ) -> Result<Part, String> {
        if let Some(unknown) = UNKNOWN.iter().find(|name| members.contains_key(**name)) {
            return Err(format!("{shown}: {unknown} is not supported"));
        }
        let wrong = |name: &str, what: &str| format!("{shown}: {name} is {what}");
        let mut part = Part {
            types: types(members).map_err(|why| format!("{shown}: {why}"))?,
            constant: members.get("const").cloned(),
            ..Part::default()
        };
        if let Some(values) = members.get("enum") {
            let values = values.as_array().filter(|it| !it.is_empty());
            part.values = Some(values.ok_or_else(|| wrong("enum", "a list of values"))?.clone());
        }
        part.examples =
            members.get("examples").and_then(Value::as_array).cloned().unwrap_or_default();
        part.examples.extend(members.get("default").cloned());
        if let Some(reference) = members.get("$ref") {
            let to = reference.as_str().and_then(|text| text.strip_prefix('#'));
            let to = to.filter(|to| to.is_empty() || to.starts_with('/'));
            let to =
                to.ok_or_else(|| wrong("$ref", "a place in the same document, as #/$defs/x"))?;
            let to = percent_encoding::percent_decode_str(to).decode_utf8_lossy().into_owned();
            part.reference = Some(self.part(to)?);
        }
        for (name, to) in [
            ("allOf", &mut part.all),
            ("anyOf", &mut part.any),
            ("oneOf", &mut part.one),
            ("prefixItems", &mut part.prefix),
        ] {
            let Some(list) = members.get(name) else { continue };
            let list = list.as_array().filter(|list| !list.is_empty());
            let list = list.ok_or_else(|| wrong(name, "a list of schemas"))?;
            for index in 0..list.len() {
                to.push(self.part(format!("{place}/{name}/{index}"))?);
            }
        }
        for (name, to) in [
            ("not", &mut part.not),
            ("additionalProperties", &mut part.additional),
            ("items", &mut part.items),
        ] {
            if members.contains_key(name) {
                *to = Some(self.part(format!("{place}/{name}"))?);
            }
        }
        // Where nothing else brings members, both say the same.
        if let Some(unevaluated) = members.get("unevaluatedProperties") {
            let is_alone = part.additional.is_none()
                && part.reference.is_none()
                && [&part.all, &part.any, &part.one].iter().all(|list| list.is_empty());
            match (unevaluated, is_alone) {
                (Value::Bool(true), _) => {}
                (_, true) => {
                    part.additional = Some(self.part(format!("{place}/unevaluatedProperties"))?);
                }
                _ => {
                    return Err(format!(
                        "{shown}: unevaluatedProperties is not supported beside other schemas"
                    ));
                }
            }
        }
        if let Some(properties) = members.get("properties") {
            let properties = properties.as_object();
            for name in properties.ok_or_else(|| wrong("properties", "an object"))?.keys() {
                let escaped = name.replace('~', "~0").replace('/', "~1");
                let of = self.part(format!("{place}/properties/{escaped}"))?;
                part.properties.push((name.clone(), of));
            }
        }
        if let Some(required) = members.get("required") {
            let names = required.as_array().map(|list| list.iter().map(Value::as_str));
            let names = names.and_then(|names| names.collect::<Option<Vec<_>>>());
            let names = names.ok_or_else(|| wrong("required", "a list of names"))?;
            part.required = names.into_iter().map(str::to_owned).collect();
        }
        let count = |name: &str| match members.get(name).map(Value::as_u64) {
            None => Ok(None),
            Some(Some(count)) => Ok(Some(count)),
            Some(None) => Err(wrong(name, "a whole number of 0 or more")),
        };
        let least = |name: &str| match count(name)?.unwrap_or(0) {
            least if least > limits::SIM_SCHEMA_LENGTH_MAX => {
                Err(wrong(name, "more than a message may have"))
            }
            least => Ok(least),
        };
        (part.properties_min, part.properties_max) =
            (least("minProperties")?, count("maxProperties")?);
        (part.items_min, part.items_max) = (least("minItems")?, count("maxItems")?);
        (part.length_min, part.length_max) = (least("minLength")?, count("maxLength")?);
        part.unique = members.get("uniqueItems").and_then(Value::as_bool).unwrap_or(false);
        for (name, to) in [
            ("minimum", &mut part.minimum),
            ("maximum", &mut part.maximum),
            ("exclusiveMinimum", &mut part.above),
            ("exclusiveMaximum", &mut part.below),
            ("multipleOf", &mut part.multiple_of),
        ] {
            match members.get(name) {
                None => {}
                Some(Value::Number(number)) => *to = Some(number.clone()),
                Some(_) => return Err(wrong(name, "a number")),
            }
        }
        if part.multiple_of.as_ref().is_some_and(|it| it.as_f64().is_none_or(|it| it <= 0.0)) {
            return Err(wrong("multipleOf", "a number above 0"));
        }
        if let Some(pattern) = members.get("pattern") {
            let text = pattern.as_str().ok_or_else(|| wrong("pattern", "a text"))?;
            let pattern = Pattern::parse(text);
            part.pattern =
                Some(pattern.map_err(|why| format!("{shown}: pattern {text:?}: {why}"))?);
        }
        part.format = members.get("format").and_then(Value::as_str).map(str::to_owned);
        Ok(part)
    }
}

fn types(members: &Map<String, Value>) -> Result<Vec<Type>, String> {
    let names = match members.get("type") {
        None => return Ok(Vec::new()),
        Some(Value::Array(names)) => names.iter().collect(),
        Some(name) => vec![name],
    };
    let types = names.into_iter().map(|name| name.as_str().and_then(Type::parse));
    let types = types.collect::<Option<Vec<_>>>().filter(|types| !types.is_empty());
    types.ok_or_else(|| "type is the name of a JSON type, or a list of such".to_owned())
}
