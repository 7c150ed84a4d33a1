//! The TypeScript that `slotd plugin types` makes, as TypeScript's own compiler and the client library see it.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    clients::typescript_or_skip,
    node::{finish, run_slotd, scenario},
    plugins,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const ROOM: &str = include_str!("../../../host/toolchains/src/typescript/tests/room.json");

/// A session of the room in `ROOM`, with what has to be an error.
const USE: &str = r#"
import { connect } from "slotd-client";
import type { Line, Message, Types } from "./room.ts";

const room = connect("http://127.0.0.1").session<Types>("chat", "room-17");
const message: Message = { kind: "say", text: "hi", from: null, more: [1] };
export const n: number = (await room.send(message)).body.n;
// @ts-expect-error: there is no such kind
await room.send({ kind: "shout", text: "hi" });
// @ts-expect-error: a text is needed
await room.send({ kind: "say" });
const lines: Line[] | null = await room.query({ query: "search" });
export const first: number | undefined = lines?.[0]?.at[0];
// @ts-expect-error: there is no such query
await room.query({ query: "who" });
room.on("line", ({ body }) => {
  const inner: Line | undefined = body.answers[0];
  // @ts-expect-error: it may be missing
  const old: string = body.old;
  return [inner, old];
});
room.on("room-closed", ({ body }) => body satisfies null);
room.on("*", ({ kind }) => kind);
// @ts-expect-error: there is no such event
room.on("lines", () => {});
room.onNotify("typing", ({ body }) => body satisfies boolean);
await room.notify("typing", true);
// @ts-expect-error: it is a boolean
await room.notify("typing", "yes");
"#;

/// What an author could write by mistake, or somebody else on purpose.
fn documents() -> Vec<Value> {
    let of = |name: &str| json!({ "$ref": format!("#/$defs/{name}") });
    vec![
        json!({"format": 1}),
        json!({"format": 1, "message": false, "reply": {}, "events": {}, "notifications": {"a-b": true, "constructor": {}}}),
        // Circles, some of them allowed.
        json!({"format": 1, "message": of("A"), "query": {"$ref": "#/query"}, "reply": of("T"), "$defs": {
            "A": {"anyOf": [of("B"), {"type": "null"}]}, "B": {"allOf": [of("C"), {"required": ["x"]}]}, "C": of("A"),
            "T": {"anyOf": [{"items": of("T")}, {"type": "object", "additionalProperties": of("T")}, {"prefixItems": [of("T"), of("T")], "minItems": 1}]},
        }}),
        // Names that are none, and names of the language.
        json!({"format": 1, "message": {"properties": {"a b": of("a b"), "": of(""), "constructor": of("string"), "new": of("Array"), "get": of("Record"),
            "__proto__": of("Promise"), "*/": of("a-b"), "\u{2028}": of("1"), "'\"\\\n": of("Types"), "readonly": of("Message"), "ü": of("ü")}},
            "$defs": {"a b": {"const": "\u{2028}\"\\"}, "": true, "string": {"type": "string"}, "Array": {"items": {"type": "string"}}, "Record": {"type": "object"},
            "Promise": {"const": 1e300}, "a-b": {"const": -1.5}, "1": {"enum": [18_446_744_073_709_551_615_u64, -0.0]}, "Types": false, "Message": {"const": {"a": [{}, []]}}, "ü": {"type": "wrong"}}}),
        // Text that would end a comment, or a line.
        json!({"format": 1, "message": {"description": "*/ export const evil = 1; /*\n// \u{2028}*/\r\n@", "type": ["integer", "boolean"]},
            "events": {"*/": {"description": "*/", "$ref": "*/ evil"}, "//": {"type": "*/"}, "`${x}`": {"const": "`${x}`"}}}),
        // What contradicts itself.
        json!({"format": 1, "message": {"type": "string", "properties": {"a": {"type": "string"}}, "allOf": [{"type": "number"}], "required": ["a", "b"]},
            "reply": {"properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "number"}, "patternProperties": {"x": {"type": "null"}}},
            "answer": {"oneOf": [], "anyOf": 1, "allOf": [], "enum": [], "type": []}, "query": {"items": [{"type": "string"}, true], "minItems": 9, "maxItems": 1}}),
        // Unions of unions.
        json!({"format": 1, "message": {"allOf": (0..12).map(|n| json!({"anyOf": [{"required": [format!("a{n}")]}, {"required": [format!("b{n}")]}]})).collect::<Vec<_>>()}}),
        nested("items", 100),
        nested("not", 100),
        json!({"format": 1, "message": of("0"), "$defs": (0..2_000).map(|n| (n.to_string(), of(&((n + 1) % 2_000).to_string()))).collect::<serde_json::Map<_, _>>()}),
    ]
}

fn nested(keyword: &str, depth: usize) -> Value {
    let inner = (0..depth).fold(json!({"type": "string"}), |inner, _| json!({ keyword: inner }));
    json!({"format": 1, "message": inner})
}

/// Its own folder, which looks like a plugin's.
async fn made(dir: &Path, name: &str, document: &Value) -> anyhow::Result<()> {
    let plugin = dir.join("plugins").join(name);
    fs::create_dir_all(&plugin)?;
    let manifest = json!({"name": name, "version": "1.0.0", "slotd": {"entry": "handler.js", "types": "types.json"}});
    fs::write(plugin.join("package.json"), manifest.to_string())?;
    fs::write(plugin.join("types.json"), document.to_string())?;
    let (from, out) = (plugin.to_string_lossy(), dir.join(format!("{name}.ts")));
    let finished = run_slotd(&["plugin", "types", &from, "--out", &out.to_string_lossy()]).await?;
    ensure!(finished.status.success(), "{document}: {finished:?}");
    Ok(())
}

/// Has the compiler of the client library's own lock file check `files` in `dir`.
async fn check(dir: &Path, types: &Path, files: &[&str], strict: bool) -> anyhow::Result<()> {
    let tools = std::env::var_os("SLOTD_TEST_TOOLS").context("SLOTD_TEST_TOOLS is not set")?;
    let modules = PathBuf::from(tools).join("clients-ts/node_modules");
    let config = json!({
        "compilerOptions": {
            "target": "es2022", "lib": ["es2022", "dom", "dom.iterable"], "types": [], "module": "esnext",
            "moduleResolution": "bundler", "allowImportingTsExtensions": true, "verbatimModuleSyntax": true,
            "noEmit": true, "allowJs": true, "strict": strict, "noUncheckedIndexedAccess": strict, "skipLibCheck": false,
            "paths": {"slotd-client": [types]},
        },
        "files": files,
    });
    fs::write(dir.join("tsconfig.json"), config.to_string())?;
    let mut tsc = Command::new("node");
    tsc.arg(modules.join("typescript/bin/tsc")).arg("--project").arg(dir);
    let checked = finish(tsc).await?;
    ensure!(checked.status.success(), "{}{}", checked.stdout, checked.stderr);
    Ok(())
}

/// A generated file with an error in it would be everybody's who builds a client; one with a wrong type would find no error in
/// theirs.
#[test]
fn what_is_made_of_any_schema_is_typescript_and_fits_the_client() {
    scenario(async {
        let Some(types) = typescript_or_skip("types/index.d.ts", "generated types")? else {
            return Ok(());
        };
        let dir = tempfile::tempdir()?;
        made(dir.path(), "room", &serde_json::from_str(ROOM)?).await?;
        let mut files = vec!["use.ts".to_owned()];
        fs::write(dir.path().join("use.ts"), USE)?;
        for (n, document) in documents().iter().enumerate() {
            made(dir.path(), &format!("d{n}"), document).await?;
            files.push(format!("d{n}.ts"));
        }
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        check(dir.path(), &types, &files, true).await
    });
}

/// The example would show code that does not fit its plugin any more.
#[test]
fn the_page_of_the_example_fits_what_its_plugin_says() {
    scenario(async {
        let Some(types) = typescript_or_skip("types/index.d.ts", "the page's types")? else {
            return Ok(());
        };
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/browser");
        let component = plugins::path("chat-v1");
        let made = run_slotd(&["plugin", "types", &component.to_string_lossy()]).await?;
        ensure!(made.status.success(), "{made:?}");
        let rest = |text: &str| text.split_once('\n').map(|(_, rest)| rest.to_owned());
        let kept = fs::read_to_string(example.join("chat.ts"))?;
        ensure!(
            rest(&made.stdout) == rest(&kept),
            "examples/browser/chat.ts is not what the plugin says; its README says how it is made:\n{}",
            made.stdout
        );
        let dir = tempfile::tempdir()?;
        let page = fs::read_to_string(example.join("page.js"))?;
        fs::write(dir.path().join("page.js"), &page)?;
        fs::write(dir.path().join("chat.ts"), kept)?;
        let library = format!("export * from {:?};\n", types.with_file_name("index.js"));
        fs::write(dir.path().join("slotd.d.ts"), library)?;
        check(dir.path(), &types, &["page.js"], false).await?;
        // It is checked: what it takes from the plugin has to be there.
        let wrong = page.replace("body.from ??", "body.author ??");
        ensure!(wrong != page, "the page does not show who has written a line");
        fs::write(dir.path().join("page.js"), wrong)?;
        let checked = check(dir.path(), &types, &["page.js"], false).await;
        let why = checked.err().context("nobody has checked the page")?.to_string();
        ensure!(why.contains("author"), "{why}");
        Ok(())
    });
}
