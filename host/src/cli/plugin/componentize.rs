//! Turns a linker's core module into a component of the world `handler`.

use super::WIT;
use anyhow::Context;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const WORLD: &str = "handler";

/// Makes a component of a core module whose imports and exports are exactly those of the world
/// `handler` of `slotd:slot`, by the names of the canonical ABI.
///
/// # Errors
/// If it is not a module, or does not fit the world.
pub fn componentize(core_module: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("slot.wit", WIT)?;
    let world = resolve.select_world(&[package], Some(WORLD))?;
    let mut module = core_module.to_vec();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .context("describing the module's interface")?;
    ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.validate(true).encode())
        .context("making a component of the module")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::inspect;

    /// The smallest handler: returns an empty reply, writes a line to the log.
    const HANDLER: &str = r#"(module
        (import "slotd:slot/log@1.0.0" "write" (func $log (param i32 i32 i32)))
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
        (func (export "handle")
            (param i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64) (result i32)
            (call $log (i32.const 2) (i32.const 0) (i32.const 0)) (i32.const 512))
        (func (export "query") (param i32 i32 i64 i32 i32 i32 i32 i64) (result i32) (i32.const 512))
        (func (export "migrate") (param i32 i32) (result i32) (i32.const 512)))"#;

    /// `deploy` must accept its output: C has no other way to a component.
    #[test]
    fn a_core_module_becomes_a_component_that_fits() -> anyhow::Result<()> {
        let component = componentize(&wat::parse_str(HANDLER)?)?;
        let found = inspect(&component);
        assert!(found.problems.is_empty(), "{:?}", found.problems);
        assert_eq!(found.exports, ["handle", "query", "migrate"]);
        assert!(found.imports.iter().all(|import| import.starts_with("slotd:slot/")));
        Ok(())
    }

    /// A missing function must be named at build time.
    #[test]
    fn what_does_not_fit_is_named() -> anyhow::Result<()> {
        let without = HANDLER.replace("(export \"query\")", "");
        let failed = componentize(&wat::parse_str(without)?).unwrap_err();
        assert!(format!("{failed:#}").contains("query"), "{failed:#}");
        let foreign = HANDLER.replace("slotd:slot/log@1.0.0", "env");
        assert!(componentize(&wat::parse_str(foreign)?).is_err());
        assert!(componentize(b"no module").is_err());
        Ok(())
    }
}
