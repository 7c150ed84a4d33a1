use super::*;
use crate::{
    WIT, build,
    lang::{Lang, NewOptions},
    new,
    skipped::not_tested,
    test,
};
use std::collections::BTreeSet;
use wit_component::{DecodedWasm, decode};
use wit_parser::{
    Int, Resolve, SizeAlign, Type, TypeDefKind, WorldItem, WorldKey,
    abi::{AbiVariant, WasmType},
};

const COMPONENT: &str = include_str!("../../../../../guest-sdk/c/component.c");

/// The layout of `wit/slot.wit` in memory and in core functions.
struct Abi {
    resolve: Resolve,
    sizes: SizeAlign,
}

impl Abi {
    fn new() -> anyhow::Result<Self> {
        let (mut resolve, mut sizes) = (Resolve::default(), SizeAlign::default());
        resolve.push_str("slot.wit", WIT)?;
        sizes.fill(&resolve);
        Ok(Self { resolve, sizes })
    }

    fn kind(&self, ty: &Type) -> &TypeDefKind {
        match ty {
            Type::Id(id) => match &self.resolve.types[*id].kind {
                TypeDefKind::Type(ty) => self.kind(ty),
                kind => kind,
            },
            _ => panic!("{ty:?} has no layout of its own"),
        }
    }

    /// The offsets of the fields of a record or tuple, or of the parts of an option, result or variant.
    fn offsets(&self, ty: &Type) -> Vec<(String, usize)> {
        let at = |tag: &[Option<&Type>]| {
            self.sizes.payload_offset(Int::U8, tag.iter().copied()).size_wasm32()
        };
        match self.kind(ty) {
            TypeDefKind::Record(record) => {
                let offsets = self.sizes.field_offsets(record.fields.iter().map(|f| &f.ty));
                let names = record.fields.iter().map(|f| f.name.replace('-', "_"));
                names.zip(offsets.into_iter().map(|(offset, _)| offset.size_wasm32())).collect()
            }
            TypeDefKind::Tuple(tuple) => {
                let offsets = self.sizes.field_offsets(&tuple.types);
                let names = ["key", "value"].map(str::to_owned);
                names.into_iter().zip(offsets.into_iter().map(|(o, _)| o.size_wasm32())).collect()
            }
            TypeDefKind::Option(some) => vec![("value".into(), at(&[Some(some)]))],
            TypeDefKind::Result(result) => {
                let offset = at(&[result.ok.as_ref(), result.err.as_ref()]);
                match result.ok {
                    Some(Type::U64) => vec![("due_ms".into(), offset), ("why".into(), offset)],
                    Some(_) => vec![("reply".into(), offset), ("rejection".into(), offset)],
                    None => vec![("message".into(), offset)],
                }
            }
            TypeDefKind::Variant(variant) => {
                let types: Vec<_> = variant.cases.iter().map(|case| case.ty.as_ref()).collect();
                let offset = at(&types);
                // Those that have something.
                let cases = variant.cases.iter().filter(|case| case.ty.is_some());
                cases.map(|case| (case.name.clone(), offset)).collect()
            }
            kind => panic!("unexpected {kind:?}"),
        }
    }

    /// A type's lines in `component.c`.
    fn layout(&self, name: &str, ty: &Type, with_size: bool) -> Vec<String> {
        let offsets = self.offsets(ty).into_iter();
        let mut lines: Vec<_> =
            offsets.map(|(field, at)| format!("LAYOUT({name}, {field}, {at});")).collect();
        if with_size {
            lines.push(format!("SIZE({name}, {});", self.sizes.size(ty).size_wasm32()));
        }
        lines
    }

    /// The lines of what a function takes, where that is too much for parameters.
    fn params_layout(&self, name: &str, function: &wit_parser::Function) -> Vec<String> {
        let params = self.sizes.field_offsets(function.params.iter().map(|param| &param.ty));
        let names = function.params.iter().map(|param| param.name.replace('-', "_"));
        let offsets = params.into_iter().map(|(offset, _)| offset.size_wasm32());
        names.zip(offsets).map(|(field, at)| format!("LAYOUT({name}, {field}, {at});")).collect()
    }

    fn function(&self, interface: &str, function: &str) -> &wit_parser::Function {
        let mut interfaces = self.resolve.interfaces.iter();
        let found = interfaces.find(|(_, it)| it.name.as_deref() == Some(interface));
        &found.unwrap().1.functions[function]
    }

    /// The type of a record's field, or of a variant's case.
    fn part(&self, ty: &Type, name: &str) -> Type {
        let found = match self.kind(ty) {
            TypeDefKind::Record(record) => {
                record.fields.iter().find(|field| field.name == name).map(|field| field.ty)
            }
            TypeDefKind::Variant(variant) => {
                variant.cases.iter().find(|case| case.name == name).and_then(|case| case.ty)
            }
            kind => panic!("{kind:?}"),
        };
        found.unwrap()
    }

    /// Every function, by its interface and name, with its core WebAssembly signature.
    fn functions(&self) -> BTreeSet<String> {
        let mut functions = BTreeSet::new();
        let mut add = |variant, interface: &str, function: &wit_parser::Function| {
            let signature = self.resolve.wasm_signature(variant, function);
            let types = signature.params.iter().map(|ty| match ty {
                // Of a variant, one of whose cases begins with a number of 64 bits.
                WasmType::I64 | WasmType::PointerOrI64 => "i64",
                WasmType::I32 | WasmType::Pointer | WasmType::Length => "i32",
                ty => panic!("{ty:?}"),
            });
            let types: Vec<_> = types.collect();
            let gives = if signature.results.is_empty() { "" } else { " -> i32" };
            functions.insert(format!("{interface} {}({}){gives}", function.name, types.join(",")));
        };
        let (_, world) = self.resolve.worlds.iter().next().unwrap();
        for (key, item) in &world.imports {
            let (WorldKey::Interface(_), WorldItem::Interface { id, .. }) = (key, item) else {
                continue;
            };
            let interface = &self.resolve.interfaces[*id];
            for function in interface.functions.values() {
                let name = interface.name.as_deref().unwrap();
                add(AbiVariant::GuestImport, name, function);
            }
        }
        for item in world.exports.values() {
            let WorldItem::Function(function) = item else { panic!("{item:?}") };
            add(AbiVariant::GuestExport, "", function);
        }
        functions
    }

    fn result_of(&self, interface: Option<&str>, function: &str) -> Type {
        let found = match interface {
            Some(name) => self.function(name, function),
            None => {
                let (_, world) = self.resolve.worlds.iter().next().unwrap();
                match &world.exports[&WorldKey::Name(function.to_owned())] {
                    WorldItem::Function(function) => function,
                    item => panic!("{item:?}"),
                }
            }
        };
        found.result.unwrap()
    }
}

/// A function of `component.c` with its core WebAssembly signature: its parameters are 64-bit
/// numbers, or fit into 32 bits.
fn core_function(name: &str, declaration: &str) -> String {
    let (before, rest) = declaration.split_once('(').unwrap();
    let (params, _) = rest.split_once(')').unwrap();
    let params = params.split(',').map(str::trim).filter(|param| *param != "void");
    let types = params.map(|param| match param.starts_with("uint64_t ") {
        true => "i64",
        false => "i32",
    });
    let types: Vec<_> = types.collect();
    let gives = if before.trim().starts_with("void") { "" } else { " -> i32" };
    format!("{name}({}){gives}", types.join(","))
}

/// The SDK's bindings are written by hand: if they differed from the WIT, a component would misread
/// data.
#[test]
fn the_bindings_are_the_wits() -> anyhow::Result<()> {
    let abi = Abi::new()?;
    let pairs = match abi.kind(&abi.result_of(Some("state"), "scan")) {
        TypeDefKind::List(pair) => *pair,
        kind => panic!("{kind:?}"),
    };
    let result = abi.result_of(None, "handle");
    let (reply, rejection) = match abi.kind(&result) {
        TypeDefKind::Result(result) => (result.ok.unwrap(), result.err.unwrap()),
        kind => panic!("{kind:?}"),
    };
    let timer = abi.result_of(Some("timers"), "get");
    let firing = abi.result_of(Some("timers"), "current");
    let some = |option: &Type| match abi.kind(option) {
        TypeDefKind::Option(some) => *some,
        kind => panic!("{kind:?}"),
    };
    let arrived = abi.result_of(Some("sends"), "current");
    let arrival = some(&arrived);
    let (delivery, answer) = (abi.part(&arrival, "message"), abi.part(&arrival, "answer"));
    let request = abi.function("http", "request");
    let details = request.params[1].ty;
    let options = abi.part(&details, "options");
    let stream = abi.part(&options, "stream");
    let http_answered = abi.result_of(Some("http"), "current");
    let http_answer = some(&http_answered);
    let outcome = abi.part(&http_answer, "outcome");
    let identity = abi.result_of(Some("client"), "current");
    let (response, failure) = (abi.part(&outcome, "response"), abi.part(&outcome, "failure"));
    let expected = [
        abi.layout("abi_option_list", &abi.result_of(Some("state"), "get"), true),
        abi.layout("abi_pair", &pairs, true),
        abi.layout("abi_reply", &reply, false),
        abi.layout("abi_rejection", &rejection, false),
        abi.layout("abi_result", &result, true),
        abi.layout("abi_migrate_result", &abi.result_of(None, "migrate"), true),
        abi.layout("abi_scheduled", &abi.result_of(Some("timers"), "schedule"), true),
        abi.layout("abi_timer", &some(&timer), true),
        abi.layout("abi_option_timer", &timer, true),
        abi.layout("abi_firing", &some(&firing), true),
        abi.layout("abi_option_firing", &firing, true),
        abi.layout("abi_expired", &abi.result_of(Some("session"), "expire"), true),
        abi.layout("abi_sent", &abi.result_of(Some("sends"), "send"), true),
        abi.layout("abi_address", &abi.part(&delivery, "sender"), true),
        abi.layout("abi_delivery", &delivery, true),
        abi.layout("abi_option_rejection", &abi.part(&answer, "refusal"), true),
        abi.layout("abi_answer", &answer, true),
        abi.layout("abi_arrival", &arrival, true),
        abi.layout("abi_option_arrival", &arrived, true),
        abi.layout("abi_option_u32", &abi.part(&options, "timeout-ms"), true),
        abi.layout("abi_option_u8", &abi.part(&options, "redirects"), true),
        abi.layout("abi_form", &abi.part(&some(&stream), "form"), true),
        abi.layout("abi_streaming", &some(&stream), true),
        abi.layout("abi_option_streaming", &stream, true),
        abi.layout("abi_options", &options, true),
        abi.layout("abi_details", &details, true),
        abi.params_layout("abi_request", request),
        abi.layout("abi_requested", &abi.result_of(Some("http"), "request"), true),
        abi.layout("abi_response", &response, true),
        abi.layout("abi_option_response", &abi.part(&failure, "response"), true),
        abi.layout("abi_failure", &failure, true),
        abi.layout("abi_outcome", &outcome, true),
        abi.layout("abi_http_answer", &http_answer, true),
        abi.layout("abi_option_http_answer", &http_answered, true),
        abi.layout("abi_option_presence", &abi.result_of(Some("session"), "current"), true),
        abi.layout("abi_identity", &some(&identity), true),
        abi.layout("abi_option_identity", &identity, true),
    ]
    .concat()
    .join("\n");
    let (_, rest) = COMPONENT.split_once("/* layout: begin */\n").unwrap();
    let (layout, _) = rest.split_once("\n/* layout: end */").unwrap();
    assert_eq!(layout, expected);

    let mut functions = BTreeSet::new();
    for import in COMPONENT.split("\nIMPORT(\"").skip(1) {
        let (interface, rest) = import.split_once("\", \"").unwrap();
        let (name, declaration) = rest.split_once("\")").unwrap();
        functions.insert(core_function(&format!("{interface} {name}"), declaration));
    }
    for export in COMPONENT.split("\nEXPORT(\"").skip(1) {
        let (name, declaration) = export.split_once("\")").unwrap();
        if !name.starts_with("cabi_") {
            functions.insert(core_function(&format!(" {name}"), declaration));
        }
    }
    assert_eq!(functions, abi.functions());
    Ok(())
}

fn poll(dir: PathBuf) -> NewOptions {
    let (name, path) = ("poll".into(), Some(dir));
    NewOptions { lang: Lang::C, name, name_bytes_max: 64, path, sdk: None }
}

/// A user's first steps, from nothing to a component, if the machine has a compiler for it.
#[test]
fn a_new_plugin_passes_its_tests_and_builds() -> anyhow::Result<()> {
    if let Err(lack) = Toolchain::find() {
        not_tested(&format!("a_new_plugin_passes_its_tests_and_builds, in C: {lack}"));
        return Ok(());
    }
    let home = tempfile::tempdir()?;
    let dir = home.path().join("poll");
    new(&poll(dir.clone()))?;
    assert!(test(&dir, &[], &Steps::quiet())?.success());
    let built = build(&BuildOptions { dir: dir.clone(), profile: None }, &Steps::quiet())?;
    let Package { name, version } = &built.package;
    assert_eq!((name.as_str(), version.as_str()), ("poll", "0.1.0"));
    // That a node accepts it is tested with one, in each language.
    let DecodedWasm::Component(resolve, world) = decode(&built.bytes)? else {
        panic!("not a component")
    };
    // The types that its exports use are among them, by their bare names.
    let imports = resolve.worlds[world].imports.iter();
    let imports = imports.filter(|(_, item)| matches!(item, WorldItem::Interface { .. }));
    let imports: Vec<_> = imports.map(|(import, _)| resolve.name_world_key(import)).collect();
    let is_slotds = |import: &String| import.starts_with("slotd:slot/");
    assert!(!imports.is_empty() && imports.iter().all(is_slotds), "{imports:?}");
    // It makes no requests, so it runs where there are none.
    assert!(!imports.iter().any(|import| import.contains("/http@")), "{imports:?}");

    // A failing test must fail the run, and so must a missing one.
    let tests = dir.join("tests/handler_test.c");
    let broken = fs::read_to_string(&tests)?.replace("event_count == 3", "event_count == 4");
    fs::write(&tests, broken)?;
    assert!(!test(&dir, &[], &Steps::quiet())?.success());
    assert!(!test(&dir, &["no_such_test".into()], &Steps::quiet())?.success());
    assert!(test(&dir, &["nobody".into()], &Steps::quiet())?.success());
    Ok(())
}

/// The compiler's guard against a query that writes, sends, asks or sets a timer; without it, only a trap would show it.
#[test]
fn a_query_that_writes_does_not_compile() -> anyhow::Result<()> {
    if let Err(lack) = Toolchain::find() {
        not_tested(&format!("a_query_that_writes_does_not_compile, in C: {lack}"));
        return Ok(());
    }
    for does in [
        "slotd_delete(cx, \"votes\");",
        "slotd_timer_after(cx, \"close\", 1000, slotd_null());",
        "slotd_timer_cancel(cx, \"close\");",
        "slotd_send_to(cx, \"stock/widget\", slotd_null());",
        "slotd_request_send(cx, \"pay\", slotd_request_to(\"GET\", \"https://a\"));",
        "slotd_close(cx);",
        "slotd_watch_subscribers(cx, true);",
    ] {
        does_not_compile_in_a_query(does)?;
    }
    Ok(())
}

fn does_not_compile_in_a_query(does: &str) -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let dir = home.path().join("poll");
    new(&poll(dir.clone()))?;
    let handler = dir.join("src/handler.c");
    let votes = "slotd_json *votes = slotd_object();";
    let text = fs::read_to_string(&handler)?.replace(votes, &format!("{votes} {does}"));
    fs::write(&handler, text)?;
    let failed = build(&BuildOptions { dir, profile: None }, &Steps::quiet()).unwrap_err();
    assert!(format!("{failed:#}").contains("src/handler.c"), "{does}: {failed:#}");
    Ok(())
}
