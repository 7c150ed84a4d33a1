use super::*;
use proptest::prelude::*;
use serde_json::json;

const ROOM: &str = include_str!("tests/room.json");

/// What people read, and their editors: a change of it has to be seen. `SLOTD_UPDATE_DOCS=1` writes it anew.
#[test]
fn a_chat_rooms_types_are_as_written() -> anyhow::Result<()> {
    let made = typescript(&serde_json::from_str(ROOM)?, "chat 2.0.0");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/typescript/tests/room.ts");
    if std::env::var_os("SLOTD_UPDATE_DOCS").is_some() {
        std::fs::write(file, &made)?;
    }
    assert_eq!(made, std::fs::read_to_string(file)?);
    Ok(())
}

/// The body of one type.
fn message(document: &Value) -> String {
    let made = typescript(document, "x");
    check(&made).unwrap_or_else(|why| panic!("{why}\n{made}"));
    let start = made.find("export type Message = ").expect("no alias");
    let rest = &made[start + "export type Message = ".len()..];
    rest[..rest.find(";\n\n").expect("no end")].to_owned()
}

fn of(schema: Value) -> String {
    message(&json!({ "format": 1, "message": schema }))
}

/// Each form that schemars, pydantic or an author writes; a wrong one would let a client send what is refused, or refuse
/// what is right.
#[test]
fn schemas_become_their_types() {
    for (schema, expected) in [
        (json!(true), "unknown"),
        (json!(false), "never"),
        (json!({}), "unknown"),
        (json!({"type": "integer", "format": "uint64", "minimum": 0}), "number"),
        (json!({"type": ["string", "null"]}), "string | null"),
        (json!({"const": "a\"b"}), "\"a\\\"b\""),
        (json!({"enum": ["a", 1, null, true, "a"]}), "\"a\" | 1 | null | true"),
        (json!({"enum": [false, true]}), "boolean"),
        (
            json!({"items": {"const": {"a": [1, {}]}}}),
            "{\n  a: [1, {\n    [key: string]: never;\n  }];\n}[]",
        ),
        (json!({"type": "array"}), "unknown[]"),
        (json!({"items": {"type": ["number", "null"]}}), "(number | null)[]"),
        (
            json!({"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}], "minItems": 2, "maxItems": 2}),
            "[string, number]",
        ),
        (
            json!({"prefixItems": [{"type": "string"}, {"type": ["number", "null"]}], "minItems": 1, "items": {"type": "boolean"}}),
            "[string, (number | null)?, ...boolean[]]",
        ),
        (json!({"items": [{"type": "string"}], "additionalItems": false}), "[string?]"),
        (
            json!({"anyOf": [{"type": "string"}, {"$ref": "#/nowhere"}]}),
            "unknown /* $ref: \"#/nowhere\" */",
        ),
        (
            json!({"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "object"}]}}),
            "(string | {\n  [key: string]: unknown;\n})[]",
        ),
        (json!({"allOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}), "string"),
        (json!({"oneOf": []}), "never"),
        (json!({"type": "date"}), "unknown /* type: \"date\" */"),
        (json!({"enum": 1}), "unknown /* enum: 1 */"),
        (json!({"$ref": "https://example.com/x"}), "unknown /* $ref: \"https://example.com/x\" */"),
        (json!({"not": {"type": "string"}}), "unknown"),
        (json!({"type": "string", "not": {"const": ""}}), "string"),
        (json!({"$ref": "#/message"}), "unknown /* Message would be itself */"),
        (json!({"items": {"$ref": "#/message"}}), "Message[]"),
        (
            json!({"anyOf": [{"type": "null"}, {"$ref": "#/message"}]}),
            "null | unknown /* Message would be itself */",
        ),
        (json!(["no", "schema"]), "unknown /* no schema: [\"no\",\"schema\"] */"),
    ] {
        assert_eq!(of(schema.clone()), expected, "{schema}");
    }
}

#[test]
fn objects_have_their_members() {
    let interface = |schema: Value| {
        let made = typescript(&json!({ "message": schema }), "x");
        check(&made).unwrap_or_else(|why| panic!("{why}\n{made}"));
        let (_, rest) = made.split_once("export interface Message {\n").expect("no interface");
        rest.split_once("}\n").expect("no end").0.to_owned()
    };
    let string = json!({"type": "string"});
    for (schema, expected) in [
        (
            json!({"properties": {"a": string, "b-c": string}, "required": ["a"]}),
            "  a: string;\n  \"b-c\"?: string;\n",
        ),
        (json!({"type": "object", "required": ["x"]}), "  x: unknown;\n"),
        (json!({"type": "object"}), "  [key: string]: unknown;\n"),
        (json!({"type": "object", "additionalProperties": false}), "  [key: string]: never;\n"),
        (
            json!({"type": "object", "additionalProperties": {"type": "number"}}),
            "  [key: string]: number;\n",
        ),
        (
            json!({"properties": {"a": string}, "additionalProperties": true}),
            "  a?: string;\n  [key: string]: unknown;\n",
        ),
        (
            json!({"properties": {"a": string}, "additionalProperties": {"type": "number"}}),
            "  a?: string;\n  [key: string]: unknown /* the others are of one type, which is not that of all */;\n",
        ),
        (
            json!({"patternProperties": {"^a": string, "^b": {"type": "number"}}, "additionalProperties": false}),
            "  [key: string]: string | number;\n",
        ),
    ] {
        assert_eq!(interface(schema.clone()), expected, "{schema}");
    }
}

/// A definition under another's name would be another type; two of one name are an error to TypeScript.
#[test]
fn names_are_identifiers_and_each_has_one_meaning() {
    let keys =
        ["Reply", "a-b", "a_b", "aB", "1st", "größe", "", "x/y", "Map<string>", "Types", "Say"];
    let referred: Vec<Value> = keys
        .iter()
        .map(|key| key.replace('/', "~1").replace(' ', "%20"))
        .map(|key| json!({ "$ref": format!("#/$defs/{key}") }))
        .collect();
    let made = typescript(
        &json!({
            "message": {"$ref": "#/$defs/Say"},
            "reply": {"anyOf": referred},
            "$defs": {
                "Say": {"type": "object", "properties": {"text": {"$ref": "#/$defs/Text%20line"}}},
                "Text line": {"type": "string"},
                "Reply": {"const": 1}, "a-b": {"const": 2}, "a_b": {"const": 3}, "aB": {"const": 4}, "1st": {"const": 5},
                "größe": {"const": 6}, "": {"const": 7}, "x/y": {"const": 8}, "Map<string>": {"const": 9},
                "Types": {"const": 10}, "never used": {"const": 11},
            },
        }),
        "x",
    );
    check(&made).unwrap();
    for expected in [
        "export interface Message {\n  text?: TextLine;\n}",
        "export type Reply = Reply2 | AB | AB2 | AB3 | Type1st | GrE | Type | XY | MapString | Types2 | Message;",
        "export type TextLine = string;",
        "export type Types2 = 10;",
    ] {
        assert!(made.contains(expected), "{expected}\n{made}");
    }
    assert!(!made.contains("11"), "{made}");
}

/// Comments are an author's text: one that ended them would be code in every client.
#[test]
fn descriptions_stay_comments() {
    let text = "a */ export const x = 1; /*\n\u{2028}*/\u{202e}b\r\n\n // c */*/";
    let made = typescript(
        &json!({
            "message": {"description": text, "type": "string"},
            "events": {"*/": {"description": text, "$ref": format!("#/{text}")}},
        }),
        "x\n*/ y",
    );
    check(&made).unwrap_or_else(|why| panic!("{why}\n{made}"));
    assert!(made.starts_with("// Types of x *\\/ y. Made by"), "{made}");
    assert!(!made.contains(['\u{2028}', '\u{202e}', '\r']), "{made}");
}

/// Whoever reads the types would see another literal, or another name, than the one that compiles.
#[test]
fn what_is_not_seen_in_a_literal_stands_there_by_its_number() {
    let hidden = "a\u{202e}b\u{2066}c\u{2028}d\u{200f}e\u{feff}f\u{7f}g\u{61c}h";
    let made = typescript(
        &json!({
            "message": {
                "type": "object",
                "properties": {(hidden): {"const": hidden}, "in": {"enum": [[hidden], {"k": hidden}]}},
                "required": [hidden],
            },
            "query": {"description": hidden, "const": "größe"},
        }),
        "x",
    );
    check(&made).unwrap_or_else(|why| panic!("{why}\n{made}"));
    let shown = r#""a\u202eb\u2066c\u2028d\u200fe\ufefff\u007fg\u061ch""#;
    assert!(made.contains(&format!("{shown}: {shown};")), "{made}");
    assert!(made.contains("größe"), "{made}");
    let unseen = |c: char| c != '\n' && (hidden.contains(c) && !c.is_ascii_alphabetic());
    assert!(!made.contains(unseen), "{made}");
}

/// Types that are only each other are an error to TypeScript, all of them.
#[test]
fn circles_of_names_are_cut() {
    let made = typescript(
        &json!({
            "message": {"$ref": "#/$defs/A"},
            "query": {"$ref": "#/$defs/Tree"},
            "$defs": {
                "A": {"anyOf": [{"$ref": "#/$defs/B"}, {"type": "string"}]},
                "B": {"allOf": [{"$ref": "#/$defs/C"}, {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}}]},
                "C": {"$ref": "#/$defs/A"},
                "Tree": {"anyOf": [{"type": "null"}, {"prefixItems": [{"$ref": "#/$defs/Tree"}, {"$ref": "#/$defs/Tree"}], "minItems": 1}]},
            },
        }),
        "x",
    );
    check(&made).unwrap();
    assert_eq!(
        made.matches("A would be itself").count() + made.matches("Message would be itself").count(),
        1,
        "{made}"
    );
    assert!(made.contains("export type Query = null | [Query, unknown /* Query would be itself */?, ...unknown[]];"), "{made}");
}

/// A plugin that says nothing of its events has any; one that says that it has none has none.
#[test]
fn what_is_not_said_is_left_out() {
    let made = typescript(&json!({"format": 1, "reply": true, "events": {}}), "x");
    assert!(
        made.ends_with("export interface Types {\n  reply: Reply;\n  events: Events;\n}\n"),
        "{made}"
    );
    assert!(made.contains("export interface Events {}\n"), "{made}");
    let nothing = typescript(&Value::Null, "x");
    assert!(nothing.ends_with("export interface Types {\n}\n"), "{nothing}");
}

/// Reads the declarations as far as it takes to see that they are whole: brackets, literals, comments; each name is declared
/// once, and each that is used.
fn check(text: &str) -> Result<(), String> {
    let (mut open, mut words) = (Vec::new(), Vec::<String>::new());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(comment) = rest.strip_prefix("//") {
            rest = comment.split_once('\n').ok_or("a comment has no end")?.1;
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").ok_or("a comment has no end")?.1;
        } else if c == '"' {
            let mut literal = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            literal.next().ok_or("no literal")?.map_err(|error| error.to_string())?;
            rest = &rest[literal.byte_offset()..];
            words.push("\"\"".into());
        } else if c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '-') {
            let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '-' | '+');
            let number = |c: char| word(c) || c == '.';
            let is_number = c.is_ascii_digit() || c == '-';
            let end = rest.find(|c| if is_number { !number(c) } else { !word(c) });
            let (found, after) = rest.split_at(end.unwrap_or(rest.len()));
            words.push(found.into());
            rest = after;
        } else {
            match c {
                '{' | '(' | '[' => open.push(c),
                '}' | ')' | ']' => {
                    let pair = open.pop().map(|open| (open, c));
                    if !matches!(pair, Some(('{', '}') | ('(', ')') | ('[', ']'))) {
                        return Err(format!("{c:?} closes {pair:?}"));
                    }
                }
                ' ' | '\n' | ';' | ':' | '?' | '|' | '&' | ',' | '=' | '.' => {}
                other => return Err(format!("{other:?} is in the text")),
            }
            words.push(c.into());
            rest = &rest[c.len_utf8()..];
        }
    }
    if !open.is_empty() {
        return Err(format!("not closed: {open:?}"));
    }
    let words: Vec<&str> =
        words.iter().map(String::as_str).filter(|w| !matches!(*w, " " | "\n")).collect();
    let mut declared = BTreeSet::new();
    for pair in words
        .windows(2)
        .filter(|pair| matches!(pair[0], "type" | "interface") && pair[1] != ":" && pair[1] != "?")
    {
        if !declared.insert(pair[1]) {
            return Err(format!("{} is declared twice", pair[1]));
        }
    }
    // A word that no `:` or `?:` follows is a type.
    let known = ["unknown", "never", "null", "boolean", "number", "string", "true", "false"];
    let keywords = ["export", "type", "interface"];
    for (n, word) in words.iter().enumerate() {
        let next = |k: usize| words.get(n + k).copied();
        let is_member = next(1) == Some(":") || (next(1) == Some("?") && next(2) == Some(":"));
        let is_name = word.starts_with(|c: char| c.is_ascii_alphabetic());
        if is_name
            && !is_member
            && !known.contains(word)
            && !keywords.contains(word)
            && !declared.contains(word)
        {
            return Err(format!("{word} is not declared"));
        }
    }
    Ok(())
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("A".to_owned()),
        Just("a b".to_owned()),
        Just("*/ x /* \"".to_owned()),
        Just("type".to_owned()),
        Just("Message".to_owned()),
        any::<String>(),
    ]
}

fn references() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!("#/$defs/A")),
        Just(json!("#/$defs/B%20b")),
        Just(json!("#/message")),
        Just(json!("#/events/A")),
        texts().prop_map(|text| json!(format!("#/$defs/{text}"))),
        texts().prop_map(Value::from),
    ]
}

/// Values that look like schemas, and some that do not.
fn schemas() -> impl Strategy<Value = Value> {
    let types = prop::sample::select(vec![
        "object", "array", "string", "integer", "boolean", "null", "thing",
    ]);
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        types.prop_map(|name| json!({ "type": name })),
        texts().prop_map(|text| json!({ "const": text })),
        any::<f64>().prop_map(|number| json!({ "enum": [number, -1, null, {"a": []}] })),
        references().prop_map(|reference| json!({ "$ref": reference })),
        texts().prop_map(|text| json!({ "description": text })),
        texts().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 4, |inner| {
        let many = prop::collection::vec(inner.clone(), 0..4);
        let named = || prop::collection::btree_map(texts(), inner.clone(), 0..4);
        prop_oneof![
            (named(), inner.clone(), texts()).prop_map(|(properties, more, doc)| json!({
                "type": "object", "properties": properties, "required": ["A", doc],
                "additionalProperties": more, "description": doc,
            })),
            named().prop_map(|patterns| json!({ "patternProperties": patterns })),
            (many.clone(), inner.clone(), 0..4_u64)
                .prop_map(|(first, rest, least)| json!({"prefixItems": first, "items": rest, "minItems": least})),
            inner.clone().prop_map(|items| json!({ "items": items })),
            (many.clone(), many.clone(), references()).prop_map(|(any, all, reference)| json!({
                "anyOf": any, "allOf": all, "$ref": reference,
            })),
            (prop::sample::select(vec!["oneOf", "anyOf", "allOf", "enum", "type", "$ref", "properties", "items"]), many)
                .prop_map(|(keyword, values)| json!({ keyword: values })),
        ]
    })
}

fn documents() -> impl Strategy<Value = Value> {
    let named = || prop::collection::btree_map(texts(), schemas(), 0..3);
    (schemas(), schemas(), schemas(), named(), named(), schemas(), schemas()).prop_map(
        |(message, reply, query, events, mut defs, a, b)| {
            defs.insert("A".into(), a);
            defs.insert("B b".into(), b);
            json!({"message": message, "reply": reply, "query": query, "events": events, "$defs": defs})
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Whatever an author, or somebody hostile, has put into the section, it becomes TypeScript.
    #[test]
    fn any_document_becomes_whole_declarations(document in documents(), of in texts()) {
        let made = typescript(&document, &of);
        if let Err(why) = check(&made) {
            prop_assert!(false, "{}\n{}\n{}", why, document, made);
        }
    }
}

/// The most that fits into the section: it neither overflows the stack nor makes much more of it.
#[test]
fn the_largest_documents_are_bounded() {
    let names = 8_000;
    let chain: Map<String, Value> = (0..names)
        .map(|n| (n.to_string(), json!({"$ref": format!("#/$defs/{}", (n + 1) % names)})))
        .collect();
    let made = typescript(&json!({"message": {"$ref": "#/$defs/0"}, "$defs": chain}), "x");
    check(&made).unwrap();
    assert_eq!(made.matches("would be itself").count(), 1);
    // As deep as JSON is read.
    let mut deep = "{\"items\":".repeat(120);
    deep += "{}";
    deep += &"}".repeat(120);
    let deep: Value = serde_json::from_str(&deep).unwrap();
    check(&typescript(&json!({ "message": deep }), "x")).unwrap();
    let many: Vec<Value> =
        (0..100).map(|n| json!({ "anyOf": [{"const": n}, {"const": format!("{n}")}] })).collect();
    assert_eq!(of(json!({ "allOf": many })), "unknown /* there are too many combinations */");
}
