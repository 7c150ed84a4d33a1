#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn schema(value: &Value) -> Schema {
    Schema::parse(value, "").unwrap_or_else(|why| panic!("{value}: {why}"))
}

/// One that leads to itself, or on and on, would use up the stack: a quarter of a thread's is enough.
#[test]
fn schemas_that_go_on_and_on_are_bounded() {
    let check = || {
        let endless = schema(&json!({"anyOf": [{"$ref": "#"}, {"type": "string"}]}));
        assert!(!endless.allows(&json!(1)));
        let chain = |of: usize| {
            let refer = |n| (format!("{n}"), json!({"$ref": format!("#/$defs/{}", n + 1)}));
            let mut parts = (0..of).map(refer).collect::<Map<_, _>>();
            parts.insert(of.to_string(), json!({"type": "string"}));
            json!({"$ref": "#/$defs/0", "$defs": parts})
        };
        // The document itself and the last part are two.
        let longest = limits::SIM_SCHEMA_NESTING_MAX - 2;
        let most = schema(&chain(longest));
        assert!(most.allows(&json!("")) && !most.allows(&json!(1)));
        let refused = Schema::parse(&chain(longest + 1), "").map(|_| ()).unwrap_err();
        assert!(refused.contains("one in the other"), "{refused}");
    };
    let thread = std::thread::Builder::new().stack_size(512 << 10).spawn(check).unwrap();
    thread.join().unwrap();
}

/// As the specification says, one keyword after the other: what is made is held against this.
#[test]
fn a_value_is_allowed_as_the_specification_says() {
    for (of, allowed, refused) in [
        (json!(true), vec![json!(1)], vec![]),
        (json!({"properties": {"a": false}}), vec![json!({})], vec![json!({"a": 1})]),
        (json!({"type": "integer"}), vec![json!(1), json!(1.0)], vec![json!(1.5), json!("1")]),
        (json!({"type": "number"}), vec![json!(1), json!(1.5)], vec![json!(null)]),
        (json!({"type": ["string", "null"]}), vec![json!("a"), json!(null)], vec![json!(1)]),
        (json!({"type": "boolean"}), vec![json!(true)], vec![json!(0)]),
        (json!({"enum": [1, "a"]}), vec![json!(1.0), json!("a")], vec![json!(2)]),
        (json!({"const": {"a": [1]}}), vec![json!({"a": [1.0]})], vec![json!({"a": [2]})]),
        (json!({"minimum": 2}), vec![json!(2), json!("x")], vec![json!(1)]),
        (json!({"maximum": 2}), vec![json!(2)], vec![json!(2.1)]),
        (json!({"exclusiveMinimum": 2}), vec![json!(2.1)], vec![json!(2)]),
        (json!({"exclusiveMaximum": 2}), vec![json!(1)], vec![json!(2)]),
        (json!({"multipleOf": 3}), vec![json!(9), json!(0)], vec![json!(10)]),
        (json!({"multipleOf": 0.1}), vec![json!(0.3), json!(1)], vec![json!(0.35)]),
        (
            json!({"minLength": 2, "maxLength": 3}),
            vec![json!("éé")],
            vec![json!("é"), json!("aaaa")],
        ),
        (json!({"pattern": "^a+$"}), vec![json!("aa")], vec![json!("ab")]),
        (json!({"pattern": "b"}), vec![json!("abc")], vec![json!("ac")]),
        (json!({"required": ["a"]}), vec![json!({"a": 1}), json!(1)], vec![json!({"b": 1})]),
        (
            json!({"properties": {"a": {"type": "string"}}, "additionalProperties": false}),
            vec![json!({}), json!({"a": ""})],
            vec![json!({"a": 1}), json!({"b": 1})],
        ),
        (
            json!({"additionalProperties": {"type": "integer"}, "minProperties": 1, "maxProperties": 2}),
            vec![json!({"x": 1})],
            vec![json!({"x": ""}), json!({}), json!({"a": 1, "b": 1, "c": 1})],
        ),
        (
            json!({"type": "object", "unevaluatedProperties": false}),
            vec![json!({})],
            vec![json!({"a": 1})],
        ),
        (
            json!({"items": {"type": "integer"}, "minItems": 1, "maxItems": 2, "uniqueItems": true}),
            vec![json!([1]), json!([1, 2])],
            vec![json!([]), json!([1, 1.0]), json!(["a"]), json!([1, 2, 3])],
        ),
        (
            json!({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}),
            vec![json!(["a", 1]), json!([])],
            vec![json!([1]), json!(["a", "b"])],
        ),
        (
            json!({"oneOf": [{"minimum": 2}, {"multipleOf": 2}]}),
            vec![json!(3), json!(0)],
            vec![json!(4), json!(1)],
        ),
        (json!({"anyOf": [{"const": 1}, {"const": 2}]}), vec![json!(1)], vec![json!(3)]),
        (
            json!({"allOf": [{"minimum": 1}, {"maximum": 2}]}),
            vec![json!(1)],
            vec![json!(0), json!(3)],
        ),
        (json!({"not": {"const": 1}}), vec![json!(2)], vec![json!(1)]),
        (
            json!({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 1}}}),
            vec![json!(1)],
            vec![json!(2)],
        ),
        (
            json!({"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": false}),
            vec![json!({"next": {"next": {}}})],
            vec![json!({"next": 1}), json!({"next": {"x": 1}})],
        ),
    ] {
        let schema = schema(&of);
        allowed.iter().for_each(|value| assert!(schema.allows(value), "{of} and {value}"));
        refused.iter().for_each(|value| assert!(!schema.allows(value), "{of} but {value}"));
    }
}

/// What is passed over would be messages that nobody meant.
#[test]
fn what_is_not_known_is_refused_with_its_place() {
    for (of, part) in [
        (json!({"properties": {"a": {"if": true}}}), "#/properties/a: if is not supported"),
        (json!({"$ref": "other.json"}), "#: $ref is a place"),
        (json!({"$ref": "#/$defs/x"}), "#/$defs/x: there is no such place"),
        (json!({"type": "text"}), "type is the name"),
        (json!({"type": []}), "type is the name"),
        (json!({"enum": []}), "enum is a list"),
        (json!({"oneOf": {}}), "oneOf is a list"),
        (json!({"pattern": "(?=a)"}), "look-around"),
        (json!({"minLength": -1}), "a whole number"),
        (json!({"minLength": 1e9 as u64}), "more than a message"),
        (json!({"multipleOf": 0}), "above 0"),
        (json!({"minimum": "1"}), "a number"),
        (json!(1), "a schema is an object"),
        (
            json!({"properties": {"next": {"$ref": "#"}}, "required": ["next"], "type": "object"}),
            "without an end",
        ),
        (json!({"allOf": [{"$ref": "#"}]}), "without an end"),
    ] {
        let why = Schema::parse(&of, "").expect_err(&of.to_string());
        assert!(why.contains(part), "{of}: {why}");
    }
}

/// A schema that allows nothing is found out, and in bounded time.
#[test]
fn where_no_value_can_be_made_that_is_said() {
    for of in [
        json!({"type": "integer", "minimum": 3, "maximum": 2}),
        json!({"oneOf": [{"const": 1}, {"const": 1}]}),
        json!({"enum": [1], "not": {"const": 1}}),
        json!({"type": "array", "items": {"const": 1}, "minItems": 2, "uniqueItems": true}),
    ] {
        let why = schema(&of).make(&mut Chance::of(1)).unwrap_err();
        assert!(why.contains("it allowed none"), "{of}: {why}");
    }
}

use crate::sim::chance::Chance;

/// A schema, of keywords as they are used together.
fn any_schema() -> impl Strategy<Value = Value> {
    let number = (-20_i64..20, 0_u64..30, proptest::option::of(1_u64..4)).prop_map(
        |(least, span, multiple)| {
            let most = least + i64::try_from(span).unwrap() + 4;
            let mut of = json!({"type": "integer", "minimum": least, "maximum": most});
            if let Some(multiple) = multiple {
                of["multipleOf"] = json!(multiple);
            }
            of
        },
    );
    let inexact = (-5.0_f64..5.0, 0.5_f64..9.0).prop_map(
        |(least, span)| json!({"type": "number", "minimum": least, "maximum": least + span}),
    );
    let text = (0_u64..8, 0_u64..8).prop_map(
        |(least, more)| json!({"type": "string", "minLength": least, "maxLength": least + more}),
    );
    let pattern = proptest::sample::select(vec![
        "^[a-z]{2,5}$",
        "^(tea|milk)-\\d+$",
        "x",
        "^[A-F0-9]{4}(-[A-F0-9]{2})*$",
        "é|ü",
        "^\\w+\\s?$",
    ])
    .prop_map(|pattern| json!({"type": "string", "pattern": pattern}));
    let format = proptest::sample::select(vec!["date-time", "uuid", "email", "date", "uri"])
        .prop_map(|format| json!({"type": "string", "format": format}));
    let plain = proptest::sample::select(vec![
        json!(true),
        json!({"type": "null"}),
        json!({"type": "boolean"}),
        json!({"enum": ["a", 1, null]}),
        json!({"const": {"do": "x"}}),
        json!({"exclusiveMinimum": 3}),
        json!({"$ref": "#/$defs/tree"}),
        json!({"type": ["integer", "string"]}),
        json!({}),
    ]);
    let leaf = prop_oneof![number, inexact, text, pattern, format, plain];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let members =
            proptest::collection::btree_map("[a-d]", (inner.clone(), any::<bool>()), 0..4);
        let object = (members, any::<bool>()).prop_map(|(members, closed)| {
            let required = members.iter().filter(|(_, (_, required))| *required);
            let required: Vec<_> = required.map(|(name, _)| name.clone()).collect();
            let properties: Map<String, Value> =
                members.into_iter().map(|(name, (of, _))| (name, of)).collect();
            let mut of = json!({"type": "object", "properties": properties, "required": required});
            if closed {
                of["additionalProperties"] = json!(false);
            }
            of
        });
        let array = (inner.clone(), 0_u64..3, 0_u64..3).prop_map(|(of, least, more)| {
            json!({"type": "array", "items": of, "minItems": least, "maxItems": least + more})
        });
        let tuple = proptest::collection::vec(inner.clone(), 1..3).prop_map(|all| {
            json!({"type": "array", "prefixItems": all, "minItems": all.len(), "items": false})
        });
        let map = inner.clone().prop_map(
            |of| json!({"type": "object", "additionalProperties": of, "minProperties": 1}),
        );
        let any_of =
            proptest::collection::vec(inner.clone(), 1..4).prop_map(|all| json!({"anyOf": all}));
        // As enums of Rust and unions of TypeScript are written.
        let tagged = proptest::collection::vec(inner, 1..4).prop_map(|all| {
            let cases = all.into_iter().enumerate().map(|(at, of)| {
                json!({
                    "type": "object", "required": ["do", "with"],
                    "properties": {"do": {"const": format!("case-{at}")}, "with": of},
                })
            });
            json!({"oneOf": cases.collect::<Vec<_>>()})
        });
        prop_oneof![object, array, tuple, map, any_of, tagged]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A message that its schema does not allow tests the wrong thing; and the same seed must make the same.
    #[test]
    fn what_is_made_is_allowed(of in any_schema(), seed in any::<u64>()) {
        let document = json!({"allOf": [of], "$defs": {"tree": {
            "type": "object", "required": ["leaf"], "properties": {
                "leaf": {"type": "integer"},
                "trees": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
            },
        }}});
        let schema = schema(&document);
        let (mut chance, mut same) = (Chance::of(seed), Chance::of(seed));
        for _ in 0..8 {
            let made = schema.make(&mut chance);
            prop_assert!(made.is_ok(), "{}: {:?}", document, made);
            let made = made.unwrap();
            prop_assert!(schema.allows(&made), "{} made {}", document, made);
            prop_assert_eq!(made, schema.make(&mut same).unwrap());
        }
    }
}
