//! What becomes of Rust's types, as clients read it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use slotd_guest::{Value, json, types::Types};

#[derive(Serialize, Deserialize, JsonSchema)]
struct Line {
    text: String,
    #[serde(default)]
    mentions: Vec<String>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Page {
    lines: Vec<Line>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Same {
    n: u64,
}

fn document(types: Types) -> Value {
    serde_json::from_str(&types.into_json()).expect("it is JSON")
}

/// A client that had to send what has a default, or could miss what always comes, would be told something wrong.
#[test]
fn a_type_that_is_given_and_made_is_two_where_they_differ() {
    let document = document(
        Types::new()
            .message::<Page>()
            .query::<Same>()
            .reply::<Page>()
            .answer::<Same>()
            .event::<Line>("line")
            .notification::<bool>("typing"),
    );
    assert_eq!(document["format"], 1);
    assert_eq!(document["message"], json!({"$ref": "#/$defs/PageInput"}));
    assert_eq!(document["reply"], json!({"$ref": "#/$defs/Page"}));
    // What only refers to such a type differs, too.
    assert_eq!(
        document["$defs"]["PageInput"]["properties"]["lines"]["items"]["$ref"],
        "#/$defs/LineInput"
    );
    assert_eq!(document["$defs"]["Page"]["properties"]["lines"]["items"]["$ref"], "#/$defs/Line");
    assert_eq!(document["$defs"]["LineInput"]["required"], json!(["text"]));
    assert_eq!(document["$defs"]["Line"]["required"], json!(["text", "mentions"]));
    assert_eq!(document["query"], document["answer"]);
    assert_eq!(document["events"], json!({"line": {"$ref": "#/$defs/Line"}}));
    assert_eq!(document["notifications"], json!({"typing": {"type": "boolean"}}));
    let names: Vec<_> = document["$defs"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["Line", "LineInput", "Page", "PageInput", "Same"]);
}

/// A file that is behind the types would be built into the component.
#[test]
fn a_file_that_is_not_as_the_types_are_fails_the_test() {
    let dir = std::env::temp_dir().join(format!("slotd-guest-types-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("types.json");
    let types = || Types::new().message::<Same>();
    let fails = |types: Types| {
        let check = std::panic::AssertUnwindSafe(|| types.check(&file));
        std::panic::catch_unwind(check).is_err()
    };
    assert!(fails(types()), "there is none");
    std::fs::write(&file, types().into_json()).unwrap();
    assert!(!fails(types()));
    // How it is written is its author's.
    std::fs::write(&file, types().into_json().replace(['\n', ' '], "")).unwrap();
    assert!(!fails(types()));
    assert!(fails(types().reply::<Same>()));
    std::fs::remove_dir_all(&dir).unwrap();
}
