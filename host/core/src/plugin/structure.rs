//! What a component is made of, counted in one pass before anything is validated or compiled.
//!
//! Validation and compiling take more than linear time and memory for some shapes: components
//! nested in each other, one function with a huge `br_table`. The pass stops at the first count
//! over its limit. It goes over each byte once, and keeps a number for each kind of thing and a
//! parser for each level of nesting, which is bounded first.

use crate::limits as max;
use serde::{Deserialize, Serialize};
use std::fmt;
use wasmparser::{BinaryReaderError, FunctionBody, Operator, Parser, Payload};

/// Counts over the whole component, with all that is nested in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Levels of components and modules; a component without others in it has 1.
    pub depth: u64,
    pub components: u64,
    pub modules: u64,
    /// Of components and of modules.
    pub instances: u64,
    pub types: u64,
    /// Bytes of all type sections: types are made of others.
    pub type_bytes: u64,
    pub imports: u64,
    pub exports: u64,
    pub aliases: u64,
    /// Functions that are lifted or lowered, and resources' own.
    pub canonicals: u64,
    pub functions: u64,
    pub globals: u64,
    pub tables: u64,
    pub memories: u64,
    pub tags: u64,
    pub elements: u64,
    pub data: u64,
    pub code_bytes: u64,
    /// Of all functions.
    pub locals: u64,
    /// Of all functions.
    pub branch_targets: u64,
    /// The longest name of an import or export.
    pub name_bytes_most: u64,
    /// The largest function.
    pub body_bytes_most: u64,
    /// Of one function.
    pub locals_most: u64,
    /// Of one function: targets of its `br_table`s.
    pub branch_targets_most: u64,
}

/// A count over its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    what: &'static str,
    found: u64,
    limit: u64,
    /// Byte of the file.
    at: usize,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, found, limit, at } = self;
        write!(f, "{what}: {found} by byte {at} of the file; a component may have {limit}")
    }
}

/// Why the pass ended early.
enum Stop {
    Excess(Excess),
    /// It is not a component: validation reports it better.
    Unreadable,
}

impl From<BinaryReaderError> for Stop {
    fn from(_: BinaryReaderError) -> Self {
        Self::Unreadable
    }
}

/// Counts until the end, the first damage, or the first excess.
///
/// # Errors
/// What there is too much of.
pub fn check(bytes: &[u8]) -> Result<Counts, Excess> {
    let mut pass = Pass::default();
    match pass.run(bytes) {
        Err(Stop::Excess(excess)) => Err(excess),
        Ok(()) | Err(Stop::Unreadable) => Ok(pass.counts),
    }
}

#[derive(Default)]
struct Pass {
    counts: Counts,
    depth: u64,
}

/// Adds to a count, or raises it, and stops when that is over its limit.
macro_rules! count {
    ($self:ident.$count:ident += $n:expr, $limit:expr, $at:expr, $what:literal) => {
        $self.counts.$count = $self.counts.$count.saturating_add(u64::from($n));
        within($what, $self.counts.$count, $limit as u64, $at)?;
    };
    ($self:ident.$count:ident >= $n:expr, $limit:expr, $at:expr, $what:literal) => {
        $self.counts.$count = $self.counts.$count.max($n);
        within($what, $self.counts.$count, $limit as u64, $at)?;
    };
}

fn within(what: &'static str, found: u64, limit: u64, at: usize) -> Result<(), Stop> {
    match found > limit {
        true => Err(Stop::Excess(Excess { what, found, limit, at })),
        false => Ok(()),
    }
}

impl Pass {
    fn run(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        for payload in Parser::new(0).parse_all(bytes) {
            self.payload(payload?)?;
        }
        Ok(())
    }

    fn payload(&mut self, payload: Payload<'_>) -> Result<(), Stop> {
        match payload {
            Payload::Version { range, .. } => {
                self.depth += 1;
                count!(self.depth >= self.depth, max::COMPONENT_DEPTH_MAX, range.start, "nesting");
            }
            Payload::End(_) => self.depth = self.depth.saturating_sub(1),
            Payload::ModuleSection { unchecked_range: range, .. } => {
                count!(self.modules += 1_u32, max::COMPONENT_MODULES_MAX, range.start, "modules");
            }
            Payload::ComponentSection { unchecked_range: range, .. } => {
                count!(
                    self.components += 1_u32,
                    max::COMPONENT_COMPONENTS_MAX,
                    range.start,
                    "nested components"
                );
            }
            Payload::InstanceSection(s) => self.instances(s.count(), s.range().start)?,
            Payload::ComponentInstanceSection(s) => self.instances(s.count(), s.range().start)?,
            Payload::TypeSection(s) => self.types(s.count(), s.range())?,
            Payload::CoreTypeSection(s) => self.types(s.count(), s.range())?,
            // Not read: they may be nested without end, and reading them recurses.
            Payload::ComponentTypeSection(s) => self.types(s.count(), s.range())?,
            Payload::ImportSection(s) => {
                let at = s.range().start;
                self.imports(s.count(), at)?;
                for import in s.into_imports() {
                    let import = import?;
                    self.name(import.module.len(), at)?;
                    self.name(import.name.len(), at)?;
                }
            }
            Payload::ComponentImportSection(s) => {
                let at = s.range().start;
                self.imports(s.count(), at)?;
                for import in s {
                    self.name(import?.name.name.len(), at)?;
                }
            }
            Payload::ExportSection(s) => {
                let at = s.range().start;
                self.exports(s.count(), at)?;
                for export in s {
                    self.name(export?.name.len(), at)?;
                }
            }
            Payload::ComponentExportSection(s) => {
                let at = s.range().start;
                self.exports(s.count(), at)?;
                for export in s {
                    self.name(export?.name.name.len(), at)?;
                }
            }
            Payload::CodeSectionEntry(body) => self.function(&body)?,
            other => self.definitions(other)?,
        }
        Ok(())
    }

    /// Sections of which only the number of entries counts.
    fn definitions(&mut self, payload: Payload<'_>) -> Result<(), Stop> {
        match payload {
            Payload::ComponentAliasSection(s) => {
                let at = s.range().start;
                count!(self.aliases += s.count(), max::COMPONENT_ALIASES_MAX, at, "aliases");
            }
            Payload::ComponentCanonicalSection(s) => {
                let at = s.range().start;
                count!(
                    self.canonicals += s.count(),
                    max::COMPONENT_CANONICALS_MAX,
                    at,
                    "lifted and lowered functions"
                );
            }
            Payload::FunctionSection(s) => {
                let at = s.range().start;
                count!(self.functions += s.count(), max::COMPONENT_FUNCTIONS_MAX, at, "functions");
            }
            Payload::GlobalSection(s) => {
                let at = s.range().start;
                count!(self.globals += s.count(), max::COMPONENT_GLOBALS_MAX, at, "globals");
            }
            Payload::TableSection(s) => {
                let at = s.range().start;
                count!(self.tables += s.count(), max::GUEST_TABLES_MAX, at, "tables");
            }
            Payload::MemorySection(s) => {
                let at = s.range().start;
                count!(self.memories += s.count(), max::GUEST_MEMORIES_MAX, at, "memories");
            }
            Payload::TagSection(s) => {
                let at = s.range().start;
                count!(self.tags += s.count(), max::COMPONENT_TAGS_MAX, at, "tags");
            }
            Payload::ElementSection(s) => {
                let at = s.range().start;
                let n = s.count();
                count!(self.elements += n, max::COMPONENT_SEGMENTS_MAX, at, "element segments");
            }
            Payload::DataSection(s) => {
                let at = s.range().start;
                count!(self.data += s.count(), max::COMPONENT_SEGMENTS_MAX, at, "data segments");
            }
            _ => {}
        }
        Ok(())
    }

    fn instances(&mut self, n: u32, at: usize) -> Result<(), Stop> {
        count!(self.instances += n, max::COMPONENT_INSTANCES_MAX, at, "instances");
        Ok(())
    }

    fn types(&mut self, n: u32, range: std::ops::Range<usize>) -> Result<(), Stop> {
        let (at, bytes) = (range.start, range.len() as u64);
        count!(self.types += n, max::COMPONENT_TYPES_MAX, at, "types");
        count!(self.type_bytes += bytes, max::COMPONENT_TYPE_BYTES_MAX, at, "bytes of types");
        Ok(())
    }

    fn imports(&mut self, n: u32, at: usize) -> Result<(), Stop> {
        count!(self.imports += n, max::COMPONENT_IMPORTS_MAX, at, "imports");
        Ok(())
    }

    fn exports(&mut self, n: u32, at: usize) -> Result<(), Stop> {
        count!(self.exports += n, max::COMPONENT_EXPORTS_MAX, at, "exports");
        Ok(())
    }

    fn name(&mut self, bytes: usize, at: usize) -> Result<(), Stop> {
        let bytes = bytes as u64;
        count!(self.name_bytes_most >= bytes, max::COMPONENT_NAME_BYTES_MAX, at, "bytes of a name");
        Ok(())
    }

    fn function(&mut self, body: &FunctionBody<'_>) -> Result<(), Stop> {
        let (at, bytes) = (body.range().start, body.range().len() as u64);
        count!(
            self.body_bytes_most >= bytes,
            max::FUNCTION_BYTES_MAX,
            at,
            "bytes of code in one function"
        );
        count!(self.code_bytes += bytes, max::COMPONENT_CODE_BYTES_MAX, at, "bytes of code");
        let mut locals = 0_u64;
        for group in body.get_locals_reader()? {
            locals = locals.saturating_add(u64::from(group?.0));
        }
        count!(
            self.locals_most >= locals,
            max::FUNCTION_LOCALS_MAX,
            at,
            "local variables of one function"
        );
        count!(
            self.locals += locals,
            max::COMPONENT_LOCALS_MAX,
            at,
            "local variables of all functions"
        );
        let mut targets = 0_u64;
        for operator in body.get_operators_reader()? {
            if let Operator::BrTable { targets: table } = operator? {
                targets = targets.saturating_add(u64::from(table.len()));
            }
        }
        count!(
            self.branch_targets_most >= targets,
            max::FUNCTION_BRANCH_TARGETS_MAX,
            at,
            "targets of br_table in one function"
        );
        count!(
            self.branch_targets += targets,
            max::COMPONENT_BRANCH_TARGETS_MAX,
            at,
            "targets of br_table in all functions"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::testkit;
    use std::fmt::Write as _;

    fn leb(mut n: usize, out: &mut Vec<u8>) {
        while n >= 0x80 {
            out.push(n as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
    }

    /// The guest with empty components in it, each in the one before or all side by side.
    fn with_components(count: usize, nested: bool) -> Vec<u8> {
        const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";
        let section = |inner: &[u8]| {
            let mut out = vec![4];
            leb(inner.len(), &mut out);
            [out.as_slice(), inner].concat()
        };
        let mut inner = Vec::new();
        for _ in 0..count {
            match nested {
                true => inner = section(&[EMPTY, &inner].concat()),
                false => inner.extend(section(EMPTY)),
            }
        }
        [testkit::guest(), inner].concat()
    }

    fn excess(text: &str) -> String {
        check(&wat::parse_str(text).unwrap()).unwrap_err().to_string()
    }

    /// Such a component took 800 MB at 5,000 levels, and the machine at 30,000.
    #[test]
    fn nested_components_are_refused_by_their_depth() {
        for count in [10, 500, 2_000] {
            let found = check(&with_components(count, true)).unwrap_err().to_string();
            assert!(found.contains("nesting: 9 by byte "), "{found}");
            assert!(found.contains("a component may have 8"), "{found}");
        }
        let found = check(&with_components(300, false)).unwrap_err().to_string();
        assert!(found.contains("nested components: 257 by byte "), "{found}");
        assert!(check(&with_components(6, true)).is_ok());
    }

    /// A `br_table` over many locals compiled for minutes.
    #[test]
    fn large_functions_are_refused() {
        let table = format!(
            "(component (core module (func (block (br_table {} (i32.const 0))))))",
            "0 ".repeat(20_000)
        );
        assert!(excess(&table).contains("targets of br_table in one function: 19999 by byte"));
        let locals =
            format!("(component (core module (func (local {}))))", "i32 i64 ".repeat(15_000));
        assert!(excess(&locals).contains("local variables of one function: 30000 by byte"));
        let body = format!("(component (core module (func {})))", "nop ".repeat(4_200_000));
        assert!(excess(&body).contains("bytes of code in one function"));
    }

    /// A refusal with each of 200,000 imports in it was an answer of 13 MB.
    #[test]
    fn many_names_and_long_ones_are_refused() {
        let mut text = String::from("(component (core module ");
        for n in 0..60_000 {
            let _ = write!(text, "(import \"a\" \"{n}\" (func))");
        }
        text += "))";
        assert!(excess(&text).contains("imports: 60000 by byte"));
        let text =
            format!("(component (core module (import \"a\" \"{}\" (func))))", "x".repeat(20_000));
        assert!(excess(&text).contains("bytes of a name: 20000 by byte"));
    }

    /// What is counted must be what is there.
    #[test]
    fn a_guest_is_counted() {
        let guest = testkit::guest();
        let counts = check(&guest).unwrap();
        let payloads = wasmparser::Parser::new(0).parse_all(&guest);
        let is_module = |payload: &Result<_, _>| {
            matches!(payload, Ok(wasmparser::Payload::ModuleSection { .. }))
        };
        let modules = payloads.filter(is_module).count();
        assert!(modules > 0);
        assert_eq!((counts.depth, counts.modules as usize, counts.memories), (2, modules, 1));
        assert!(counts.functions > 5 && counts.code_bytes > 500, "{counts:?}");
        assert!(counts.imports >= 4 && counts.exports >= 3, "{counts:?}");
    }

    /// Prints what components have: `SLOTD_COMPONENTS=FOLDER cargo test -p slotd-core --lib -- --ignored
    /// --nocapture structure::tests::counts_of_components`.
    #[ignore = "measures"]
    #[test]
    fn counts_of_components() {
        let folder = std::env::var("SLOTD_COMPONENTS").unwrap();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let started = std::time::Instant::now();
            let counts = check(&bytes);
            let took = started.elapsed();
            println!("{} {} bytes, {took:?}: {counts:?}", path.display(), bytes.len());
        }
    }
}
