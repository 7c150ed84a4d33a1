use crate::plugin::inspect;
use slotd_toolchains::componentize;

/// `deploy` must accept what becomes of a linker's module: C has no other way to a component.
#[test]
fn a_core_module_becomes_a_component_that_fits() -> anyhow::Result<()> {
    let handler = wat::parse_str(include_str!("../../../toolchains/src/handler.wat"))?;
    let found = inspect(&componentize(&handler)?);
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    assert_eq!(found.exports, ["handle", "query", "migrate"]);
    assert!(found.imports.iter().all(|import| import.starts_with("slotd:slot/")));
    Ok(())
}
