use crate::plugin::inspect;
use serde_json::json;
use slotd_toolchains::{Types, componentize};

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

/// What `build` puts into a component is what `deploy` and clients read.
#[test]
fn the_types_that_are_built_in_are_those_that_are_read() -> anyhow::Result<()> {
    let handler = wat::parse_str(include_str!("../../../toolchains/src/handler.wat"))?;
    let document = json!({"format": 1, "message": {"type": "string"}, "events": {"line": true}});
    let types = Types { file: "types.json".into(), document };
    let component = types.stamp(&componentize(&handler)?)?;
    let found = inspect(&component);
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    assert_eq!(found.types, ["message", "event line"]);
    Ok(())
}
