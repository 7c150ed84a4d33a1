//! Turns a linker's core module into a component of the world `handler`.

use crate::WIT;
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

    /// The smallest handler. (The host tests that it accepts what becomes of it.)
    const HANDLER: &str = include_str!("handler.wat");

    /// A missing function must be named at build time.
    #[test]
    fn what_does_not_fit_is_named() -> anyhow::Result<()> {
        let without = HANDLER.replace("(export \"query\")", "");
        let failed = componentize(&wat::parse_str(without)?).unwrap_err();
        assert!(format!("{failed:#}").contains("query"), "{failed:#}");
        let foreign = HANDLER.replace("slotd:slot/log@1.1.0", "env");
        assert!(componentize(&wat::parse_str(foreign)?).is_err());
        assert!(componentize(b"no module").is_err());
        Ok(())
    }
}
