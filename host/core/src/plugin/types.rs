//! Types of a component as text, to compare and to show them. Names of types and parameters do
//! not count, as they do not when a function is called.

use std::{collections::BTreeMap, fmt::Write as _};
use wasmparser::{
    collections::IndexMap,
    component_types::{
        ComponentDefinedType, ComponentEntityType, ComponentFuncTypeId, ComponentItem,
        ComponentValType,
    },
    types::TypesRef,
};

/// Functions by name, with their types.
pub(super) type Functions = BTreeMap<String, String>;

/// Types are made of others and may be made to be endless: text past these ends in an ellipsis,
/// which no type of slotd's has.
const DEPTH_MAX: usize = 16;
const BYTES_MAX: usize = 2_048;

pub(super) fn functions(types: TypesRef<'_>, items: &IndexMap<String, ComponentItem>) -> Functions {
    items
        .iter()
        .filter_map(|(name, item)| match item.ty {
            ComponentEntityType::Func(id) => Some((name.clone(), function(types, id))),
            _ => None,
        })
        .collect()
}

pub(super) fn function(types: TypesRef<'_>, id: ComponentFuncTypeId) -> String {
    let Some(function) = types.get(id) else { return "unknown".to_owned() };
    let mut text = Text { types, out: String::new() };
    text.out.push_str(if function.async_ { "async func(" } else { "func(" });
    text.list(function.params.iter().map(|(_, ty)| (None, Some(ty))), 0);
    text.out.push(')');
    if let Some(result) = &function.result {
        text.out.push_str(" -> ");
        text.value(result, 0);
    }
    text.out
}

struct Text<'a> {
    types: TypesRef<'a>,
    out: String,
}

impl Text<'_> {
    fn value(&mut self, ty: &ComponentValType, depth: usize) {
        match ty {
            ComponentValType::Primitive(primitive) => self.display(primitive),
            _ if depth > DEPTH_MAX || self.out.len() > BYTES_MAX => self.out.push('…'),
            ComponentValType::Type(id) => match self.types.get(*id) {
                Some(ty) => self.defined(ty, depth + 1),
                None => self.out.push('?'),
            },
        }
    }

    fn defined(&mut self, ty: &ComponentDefinedType, depth: usize) {
        use ComponentDefinedType as T;
        match ty {
            T::Primitive(primitive) => self.display(primitive),
            T::Record(record) => {
                let fields = record.fields.iter();
                self.group(
                    "record{",
                    fields.map(|(n, ty)| (Some(n.as_str()), Some(ty))),
                    "}",
                    depth,
                );
            }
            T::Variant(variant) => {
                let cases = variant.cases.iter();
                let cases = cases.map(|(n, case)| (Some(n.as_str()), case.ty.as_ref()));
                self.group("variant{", cases, "}", depth);
            }
            T::Tuple(tuple) => {
                self.group("tuple<", tuple.types.iter().map(|ty| (None, Some(ty))), ">", depth);
            }
            T::Flags(names) => {
                self.group("flags{", names.iter().map(|n| (Some(n.as_str()), None)), "}", depth);
            }
            T::Enum(names) => {
                self.group("enum{", names.iter().map(|n| (Some(n.as_str()), None)), "}", depth);
            }
            T::List { element, .. } => self.group("list<", [(None, Some(element))], ">", depth),
            T::Option { ty, .. } => self.group("option<", [(None, Some(ty))], ">", depth),
            T::Result { ok: None, err: None, .. } => self.out.push_str("result"),
            T::Result { ok, err, .. } => {
                let parts = [(None, ok.as_ref()), (None, err.as_ref())];
                let shown = if err.is_some() { 2 } else { 1 };
                self.group("result<", parts.into_iter().take(shown), ">", depth);
            }
            T::Own(_) => self.out.push_str("own<resource>"),
            T::Borrow(_) => self.out.push_str("borrow<resource>"),
            T::FixedLengthList { element, length, .. } => {
                self.group("list<", [(None, Some(element))], ", ", depth);
                self.display(length);
                self.out.push('>');
            }
            T::Map { key, value, .. } => {
                self.group("map<", [(None, Some(key)), (None, Some(value))], ">", depth);
            }
            T::Future { ty, .. } => self.group("future<", [(None, ty.as_ref())], ">", depth),
            T::Stream { ty, .. } => self.group("stream<", [(None, ty.as_ref())], ">", depth),
        }
    }

    fn group<'t>(
        &mut self,
        open: &str,
        parts: impl IntoIterator<Item = (Option<&'t str>, Option<&'t ComponentValType>)>,
        close: &str,
        depth: usize,
    ) {
        self.out.push_str(open);
        self.list(parts.into_iter(), depth);
        self.out.push_str(close);
    }

    fn list<'t>(
        &mut self,
        parts: impl Iterator<Item = (Option<&'t str>, Option<&'t ComponentValType>)>,
        depth: usize,
    ) {
        for (number, (name, ty)) in parts.enumerate() {
            if self.out.len() > BYTES_MAX {
                self.out.push('…');
                return;
            }
            if number > 0 {
                self.out.push_str(", ");
            }
            match (name, ty) {
                (Some(name), Some(ty)) => {
                    self.out.push_str(name);
                    self.out.push_str(": ");
                    self.value(ty, depth);
                }
                (Some(name), None) => self.out.push_str(name),
                (None, Some(ty)) => self.value(ty, depth),
                (None, None) => self.out.push('_'),
            }
        }
    }

    fn display(&mut self, value: &impl std::fmt::Display) {
        // Writing to a String can't fail.
        let _ = write!(self.out, "{value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmparser::Validator;

    /// Types that grow with each step of nesting are small to write down and endless to print: an
    /// upload could stop the node.
    #[test]
    fn endless_types_are_cut() {
        let mut wat = String::from("(component (type $t0 (tuple string string))");
        for n in 1..18 {
            let before = n - 1;
            let _ = write!(wat, "(type $t{n} (tuple $t{before} $t{before}))");
        }
        wat.push_str("(import \"f\" (func (param \"p\" $t17))))");
        let bytes = wat::parse_str(&wat).unwrap();
        let types = Validator::new().validate_all(&bytes).unwrap();
        let types = types.as_ref();
        let text = function(types, types.component_function_at(0));
        assert!(text.contains('…') && text.len() < 4_096, "{} bytes", text.len());
    }
}
