//! Whether a file is a component that slotd can run, from its bytes alone: nothing is compiled.
//!
//! [`unlike`] takes no time whatever it is given, and is for the node itself, as [`version`] and [`types`] are, which
//! are for what has compiled. [`inspect`] validates, which a hostile file can make endless, or crash:
//! see `compile/`. What a component has to import and export is in [`world`].

mod world;

pub(super) use self::world::effect;

use self::world::check_component;
use super::{Digest, Inspection, declared, structure};
use crate::{limits, names::check_plugin_version, text};
use wasmparser::{Chunk, ComponentTypeRef, Parser, Payload, TypeBounds};

const VERSION: &str = "version";

/// Why a file can't be a component, by its size and its first bytes.
pub(super) fn unlike(file: &[u8]) -> Option<String> {
    if file.len() > limits::COMPONENT_BYTES_MAX {
        return Some(format!(
            "it has {} bytes; a component may have {}. Strip its debug information, or build it \
             for size",
            file.len(),
            limits::COMPONENT_BYTES_MAX
        ));
    }
    kind_of(file).1.map(str::to_owned)
}

/// Reports what a file is and whether it fits; never fails. Lists and findings are cut to what
/// people read.
pub fn inspect(component: &[u8]) -> Inspection {
    let mut inspection = Inspection {
        bytes: component.len(),
        digest: Digest::of(component).to_string(),
        kind: kind_of(component).0.to_owned(),
        version: None,
        memory_bytes: 0,
        imports: Vec::new(),
        exports: Vec::new(),
        effects: Vec::new(),
        types: Vec::new(),
        problems: Vec::from_iter(unlike(component)),
        too_costly: false,
    };
    if component.len() > limits::COMPONENT_BYTES_MAX {
        return inspection;
    }
    if let Err(excess) = structure::check(component) {
        inspection.problems.push(format!("it exceeds a limit: {excess}"));
        inspection.too_costly = true;
        return inspection;
    }
    let names = Names::read(component);
    let mut problems = Problems::default();
    if Parser::is_component(component) {
        match names.version.map(version_text) {
            Some(Ok(version)) => inspection.version = Some(version),
            Some(Err(problem)) => problems.push(problem),
            None => {}
        }
        match names.types.map(declared::parse) {
            Some(Ok(document)) => {
                inspection.types =
                    listed(document.as_ref().map(declared::names).unwrap_or_default());
            }
            Some(Err(problem)) => {
                problems.push(format!("its `{}` section: {problem}", declared::SECTION));
            }
            None => {}
        }
        inspection.effects = listed(check_component(component, &names, &mut problems));
    } else if Parser::is_core_wasm(component) && names.broken {
        problems.push("its end is missing or damaged: copy the file again".to_owned());
    }
    inspection.problems.extend(problems.into_texts());
    inspection.memory_bytes = names.memory_bytes;
    inspection.imports = listed(names.imports);
    inspection.exports = listed(names.exports);
    inspection
}

/// Text of someone else's, bounded.
pub(super) fn shortened(text: String, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text;
    }
    format!("{}…", text::cut(&text, bytes_max))
}

fn listed(names: Vec<String>) -> Vec<String> {
    let more = names.len().saturating_sub(limits::COMPONENT_NAMES_LISTED_MAX);
    let shown = names.into_iter().take(limits::COMPONENT_NAMES_LISTED_MAX);
    let shown = shown.map(|name| shortened(name, limits::COMPONENT_PROBLEM_BYTES_MAX));
    shown.chain((more > 0).then(|| format!("… and {more} more"))).collect()
}

/// Problems as far as anybody reads them; the others are counted.
#[derive(Default)]
struct Problems {
    shown: Vec<String>,
    bytes: usize,
    more: usize,
}

impl Problems {
    fn push(&mut self, problem: String) {
        let problem = shortened(problem, limits::COMPONENT_PROBLEM_BYTES_MAX);
        if self.bytes + problem.len() > limits::COMPONENT_PROBLEMS_BYTES_MAX {
            self.more += 1;
            return;
        }
        self.bytes += problem.len();
        self.shown.push(problem);
    }

    fn into_texts(self) -> impl Iterator<Item = String> {
        let more = (self.more > 0).then(|| format!("and {} more problems", self.more));
        self.shown.into_iter().chain(more)
    }
}

/// The version that a component carries in its `version` section, if that is a good one.
pub(super) fn version(component: &[u8]) -> Option<String> {
    section(component, VERSION).and_then(|bytes| version_text(bytes).ok())
}

/// What a component says of its types, if it is no more than is kept.
pub(super) fn types(component: &[u8]) -> Option<Box<[u8]>> {
    let section = section(component, declared::SECTION)?;
    (section.len() <= limits::COMPONENT_TYPES_SECTION_BYTES_MAX).then(|| section.into())
}

/// The last custom section of this name. Looks at nothing that is nested.
pub(super) fn section<'a>(component: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (mut parser, mut at, mut found) = (Parser::new(0), 0_usize, None);
    while let Ok(Chunk::Parsed { consumed, payload }) = parser.parse(component.get(at..)?, true) {
        at = at.saturating_add(consumed);
        match payload {
            Payload::CustomSection(section) if section.name() == name => {
                found = Some(section.data());
            }
            Payload::ModuleSection { unchecked_range, .. }
            | Payload::ComponentSection { unchecked_range, .. } => {
                // The parser has counted them as read.
                at = unchecked_range.end.max(at);
            }
            Payload::End(_) => break,
            _ => {}
        }
    }
    found
}

fn version_text(bytes: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(bytes);
    let version = text.trim();
    check_plugin_version(version).map_err(|why| format!("its `version` section: {why}"))?;
    Ok(version.to_owned())
}

/// What a file looks like, and why that will not do.
fn kind_of(bytes: &[u8]) -> (&'static str, Option<&'static str>) {
    if Parser::is_component(bytes) {
        return ("component", None);
    }
    if Parser::is_core_wasm(bytes) {
        return (
            "core module",
            Some(
                "this is a core module, not a component: build it with `slotd plugin build`, or \
                 wrap it with wasm-component-ld or `wasm-tools component new`",
            ),
        );
    }
    if bytes.is_empty() {
        return ("empty file", Some("the file is empty"));
    }
    if b"\0asm".starts_with(&bytes[..bytes.len().min(4)]) {
        if bytes.len() < 8 {
            return ("truncated file", Some("the file ends within its header: copy it again"));
        }
        return (
            "unknown WebAssembly",
            Some(
                "its header names an encoding of WebAssembly that slotd does not know: build it \
                 with current tools, as a component",
            ),
        );
    }
    if bytes.starts_with(b"\x7fELF") {
        return (
            "native code",
            Some("this is native or precompiled code: give the component (.wasm) itself"),
        );
    }
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(256)]);
    let start = start.trim_start();
    if start.starts_with("(component") || start.starts_with("(module") {
        return (
            "WebAssembly text",
            Some("this is WebAssembly in text form: encode it with `wasm-tools parse`"),
        );
    }
    if bytes.starts_with(&[0x1f, 0x8b]) || bytes.starts_with(b"PK") {
        return ("archive", Some("this is a compressed file: unpack it first"));
    }
    ("not WebAssembly", Some("this is not WebAssembly: give a component (.wasm)"))
}

/// What the top level of a file names, as far as it can be read.
#[derive(Default)]
struct Names<'a> {
    imports: Vec<String>,
    exports: Vec<String>,
    version: Option<&'a [u8]>,
    types: Option<&'a [u8]>,
    /// Of all its modules, each taken once: most have but one that is theirs.
    memory_bytes: u64,
    broken: bool,
}

impl<'a> Names<'a> {
    fn read(bytes: &'a [u8]) -> Self {
        let mut names = Self::default();
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(bytes) {
            let Ok(payload) = payload else {
                names.broken = true;
                break;
            };
            match payload {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::MemorySection(section) => {
                    for memory in section.into_iter().flatten() {
                        let page = 1_u64 << memory.page_size_log2.unwrap_or(16).min(16);
                        let bytes = memory.initial.saturating_mul(page);
                        names.memory_bytes = names.memory_bytes.saturating_add(bytes);
                    }
                }
                _ if depth > 0 => {}
                Payload::CustomSection(section) if section.name() == VERSION => {
                    names.version = Some(section.data());
                }
                Payload::CustomSection(section) if section.name() == declared::SECTION => {
                    names.types = Some(section.data());
                }
                Payload::ComponentImportSection(section) => {
                    // A type that is named again is nothing that anyone must give.
                    let given = |ty| !matches!(ty, ComponentTypeRef::Type(TypeBounds::Eq(_)));
                    let found = section.into_iter().flatten().filter(|import| given(import.ty));
                    names.imports.extend(found.map(|import| import.name.name.to_owned()));
                }
                Payload::ComponentExportSection(section) => {
                    let found = section.into_iter().flatten();
                    names.exports.extend(found.map(|export| export.name.name.to_owned()));
                }
                Payload::ImportSection(section) => {
                    let found = section.into_imports().flatten();
                    names.imports.extend(found.map(|i| format!("{} {}", i.module, i.name)));
                }
                Payload::ExportSection(section) => {
                    let found = section.into_iter().flatten();
                    names.exports.extend(found.map(|export| export.name.to_owned()));
                }
                _ => {}
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testkit, *};
    use proptest::prelude::*;

    fn problems(bytes: &[u8]) -> String {
        inspect(bytes).problems.join("; ")
    }

    /// An author must see what is in a component that fits.
    #[test]
    fn a_component_that_fits_has_no_problems() {
        let inspection = inspect(&testkit::guest());
        assert_eq!(inspection.problems, [""; 0]);
        assert_eq!(inspection.kind, "component");
        assert_eq!(inspection.version.as_deref(), Some("1.2.3"));
        assert_eq!(inspection.memory_bytes % (64 * 1024), 0);
        assert_ne!(inspection.memory_bytes, 0);
        assert_eq!(inspection.exports, ["handle", "query", "migrate"]);
        let interfaces = ["types", "state", "effects", "log"];
        assert_eq!(inspection.imports, interfaces.map(|name| format!("slotd:slot/{name}@1.0.0")));
        assert_eq!(inspection.effects, ["effects.emit"]);
        let wasi = inspect(&testkit::wasi_guest());
        assert_eq!(wasi.problems, [""; 0]);
        assert_eq!(wasi.version, None);
        // Built before the interface had timers.
        let notifying = inspect(&testkit::notifying_guest());
        assert_eq!(notifying.problems, [""; 0]);
        assert_eq!(notifying.effects, ["effects.emit", "session.notify"]);
        // An operator must see that it may delete sessions.
        let timing = inspect(&testkit::timing_guest());
        assert_eq!(timing.problems, [""; 0]);
        assert!(timing.effects.contains(&"session.expire".to_owned()), "{:?}", timing.effects);
        // Who a client is is no effect.
        let asking = inspect(&testkit::asking_guest());
        assert_eq!((asking.problems.len(), asking.effects), (0, vec!["effects.emit".to_owned()]));
        // And which hosts it may reach.
        let requesting = inspect(&testkit::requesting_guest());
        assert_eq!(requesting.problems, [""; 0]);
        let effects = requesting.effects;
        assert!(effects.contains(&"http.request".to_owned()), "{effects:?}");
    }

    /// Each of these is deployed by mistake one day; the answer must say what to do.
    #[test]
    fn files_that_are_something_else_are_named() {
        let module = wat::parse_str("(module (func (export \"handle\")))").unwrap();
        for (bytes, kind, says) in [
            (b"".as_slice(), "empty file", "empty"),
            (b"\0as", "truncated file", "within its header"),
            (b"\0asm\x07\0\x03\0", "unknown WebAssembly", "encoding"),
            (b"\x7fELF...", "native code", "precompiled"),
            (b"  (component)", "WebAssembly text", "wasm-tools parse"),
            (b"PK\x03\x04", "archive", "unpack"),
            (b"hello, world", "not WebAssembly", "not WebAssembly"),
            (&module, "core module", "slotd plugin build"),
        ] {
            let inspection = inspect(bytes);
            assert_eq!(inspection.kind, kind);
            assert_eq!(inspection.problems.len(), 1, "{:?}", inspection.problems);
            assert!(inspection.problems[0].contains(says), "{:?}", inspection.problems);
        }
        assert_eq!(inspect(&module).exports, ["handle"]);
    }

    #[test]
    fn a_component_over_the_limit_is_refused_without_reading_it() {
        let mut large = testkit::guest();
        large.resize(limits::COMPONENT_BYTES_MAX + 1, 0);
        let inspection = inspect(&large);
        assert_eq!(inspection.problems.len(), 1);
        assert!(inspection.problems[0].contains("a component may have 67108864"));
    }

    /// Half an upload must be reported as that, not as a riddle.
    #[test]
    fn truncated_components_are_refused() {
        let whole = testkit::guest();
        let mut truncated = 0;
        for end in 8..whole.len() {
            let problems = problems(&whole[..end]);
            if problems.is_empty() {
                // Only its last section is gone, of names for debuggers.
                assert!(whole[end..].windows(14).any(|w| w == b"component-name"), "cut at {end}");
            }
            truncated += usize::from(problems.contains("truncated"));
        }
        // The others are cut between two sections.
        assert!(truncated > (whole.len() - 8) * 9 / 10, "{truncated} of {}", whole.len());
    }

    #[test]
    fn what_is_missing_or_too_much_is_named() {
        let lacking = problems(&testkit::guest_with(
            "(func (export \"query\") (param \"query\"",
            "(func (export \"enquire\") (param \"query\"",
        ));
        assert!(lacking.contains("it lacks the export `query`"), "{lacking}");

        let wrong = problems(
            &wat::parse_str(
                r#"(component
                    (core module $m (func (export "f")))
                    (core instance $i (instantiate $m))
                    (func (export "handle") (canon lift (core func $i "f")))
                    (component (export "query")))"#,
            )
            .unwrap(),
        );
        assert!(
            wrong.contains("its export `handle` is func(), but slotd calls func(record{"),
            "{wrong}"
        );
        assert!(
            wrong.contains("its export `query` is something that is not a function"),
            "{wrong}"
        );
        assert!(wrong.contains("it lacks the export `migrate`"), "{wrong}");

        let greedy = problems(
            &wat::parse_str(
                r#"(component
                    (import "wasi:http/outgoing-handler@0.2.0" (instance))
                    (import "wasi:http/types@0.3.0" (instance))
                    (import "wasi:clocks/wall-clock@0.3.0" (instance))
                    (import "wasi:keyvalue/store@0.2.0" (instance))
                    (import "acme:db/query" (instance))
                    (import "run" (func))
                    (import "slotd:slot/clock@1.0.0" (instance))
                    (import "slotd:slot/oracle@1.999.0" (instance))
                    (import "slotd:slot/log@2.0.0" (instance))
                    (import "slotd:slot/session@1.999.0" (instance (export "foresee" (func))))
                    (import "slotd:slot/effects@1.0.0" (instance
                        (export "schedule" (func)) (export "emit" (func)))))"#,
            )
            .unwrap(),
        );
        for says in [
            "imports wasi:http/outgoing-handler@0.2.0, which slotd does not provide: handlers have no network",
            "imports wasi:http/types@0.3.0, which",
            "imports wasi:clocks/wall-clock@0.3.0, which slotd does not provide: slotd provides parts of WASI 0.2",
            "imports wasi:keyvalue/store@0.2.0, which slotd does not provide: of WASI, slotd provides clocks",
            "imports acme:db/query, which",
            "imports run, which",
            "imports slotd:slot/clock@1.0.0, which no slotd:slot@1.1.0 has: build it against",
            "imports slotd:slot/oracle@1.999.0, which this slotd (slotd:slot@1.1.0) does not provide: \
             run it on a slotd that supports slotd:slot@1.999.0",
            "imports slotd:slot/log@2.0.0, but this slotd supports slotd:slot@1.1.0",
            "imports `foresee` of slotd:slot/session@1.999.0, which this slotd (slotd:slot@1.1.0) does \
             not provide: run it on a slotd that supports slotd:slot@1.999.0",
            "imports `schedule` of slotd:slot/effects@1.0.0, which no slotd:slot@1.1.0 has",
            "imports `emit` of slotd:slot/effects@1.0.0 as func(), but slotd provides func(record{",
        ] {
            assert!(greedy.contains(says), "{says:?} is not in: {greedy}");
        }
    }

    #[test]
    fn a_bad_version_section_is_refused() {
        for bad in ["", "a b", "1/2", &"9".repeat(65)] {
            let guest = testkit::guest_with("\"1.2.3\"", &format!("\"{bad}\""));
            assert!(problems(&guest).contains("`version` section"), "{bad:?}");
        }
    }

    /// An author must see what clients are told, and what they can't be told.
    #[test]
    fn what_a_component_says_of_its_types_is_shown() {
        let with = |document: &str| {
            let section = format!("(@custom \"slotd:types\" {document:?}) (@custom \"version\"");
            testkit::guest_with("(@custom \"version\"", &section)
        };
        let document = r#"{"format":1,"message":{"type":"string"},"events":{"line":true}}"#;
        let component = with(document);
        let inspection = inspect(&component);
        assert_eq!(inspection.problems, [""; 0]);
        assert_eq!(inspection.types, ["message", "event line"]);
        assert_eq!(types(&component).as_deref(), Some(document.as_bytes()));
        assert_eq!(version(&component).as_deref(), Some("1.2.3"));
        assert_eq!(types(&testkit::guest()), None);
        let later = inspect(&with(r#"{"format":2}"#));
        assert_eq!((later.problems, later.types), (vec![], vec![]));
        let bad = problems(&with(r#"{"format":1,"event":{}}"#));
        assert!(
            bad.starts_with("its `slotd:types` section: it has \"event\"; format 1 has"),
            "{bad}"
        );
        assert_eq!(types(&with(&"x".repeat(limits::COMPONENT_TYPES_SECTION_BYTES_MAX + 1))), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        /// Whatever is uploaded, the node must answer rather than die.
        #[test]
        fn damaged_components_never_panic(
            at in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
            end in any::<prop::sample::Index>(),
            cut in any::<bool>(),
        ) {
            let mut bytes = testkit::guest();
            for (index, byte) in at {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
            if cut {
                bytes.truncate(end.index(bytes.len()));
            }
            let _ = inspect(&bytes);
            let _ = version(&bytes);
        }

        #[test]
        fn arbitrary_bytes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            for header in [b"".as_slice(), b"\0asm\x0d\0\x01\0", b"\0asm\x01\0\0\0"] {
                let _ = inspect(&[header, &tail].concat());
            }
        }
    }
}
