//! What a component may import and must export: slotd's own interface, from the bindings that the host
//! is built with, and parts of WASI.

use super::{Names, Problems};
use crate::plugin::{
    bindings, engine,
    types::{self, Functions},
    wasi,
};
use std::{collections::BTreeMap, sync::LazyLock};
use wasmparser::{
    Validator,
    component_types::{ComponentAnyTypeId, ComponentEntityType},
};

const PACKAGE: &str = "slotd:slot";
const REBUILD: &str = "build it with `slotd plugin build`, or wrap it with wasm-component-ld or \
                       `wasm-tools component new`";

/// What `wit/` defines: taken from the bindings that the host is built with.
struct World {
    version: String,
    /// By interface, without its version.
    imports: BTreeMap<String, Functions>,
    exports: Functions,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    world().unwrap_or_else(|| World {
        version: String::new(),
        imports: BTreeMap::new(),
        exports: Functions::new(),
    })
});

/// `None` only if the bindings' own description were not what it is; a test sees to that.
fn world() -> Option<World> {
    let types = Validator::new().validate_all(bindings::COMPONENT_TYPE).ok()?;
    let types = types.as_ref();
    let component = |entity: &ComponentEntityType| match entity {
        ComponentEntityType::Component(id)
        | ComponentEntityType::Type { referenced: ComponentAnyTypeId::Component(id), .. } => {
            types.get(*id)
        }
        _ => None,
    };
    let package = component(&types.component_item_for_export("handler")?.ty)?;
    let (name, item) = package.exports.iter().next()?;
    let world = component(&item.ty)?;
    let mut imports = BTreeMap::new();
    for (name, item) in &world.imports {
        if let ComponentEntityType::Instance(id) = item.ty {
            let functions = types::functions(types, &types.get(id)?.exports);
            imports.insert(split(name).0.to_owned(), functions);
        }
    }
    Some(World {
        version: split(name).1.to_owned(),
        imports,
        exports: types::functions(types, &world.exports),
    })
}

/// An interface's name and its version.
fn split(name: &str) -> (&str, &str) {
    name.split_once('@').unwrap_or((name, ""))
}

/// The numbers of a version.
fn numbers(version: &str) -> Vec<u64> {
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    numbers.split('.').map_while(|number| number.parse().ok()).collect()
}

/// What to do about something of slotd's interface that this slotd does not have.
fn not_here(version: &str) -> String {
    let own = &WORLD.version;
    match numbers(version) > numbers(own) {
        true => format!(
            "which this slotd ({PACKAGE}@{own}) does not provide: run it on a slotd that supports \
             {PACKAGE}@{version}, or build it without"
        ),
        false => format!("which no {PACKAGE}@{own} has: build it against slotd's wit folder"),
    }
}

/// Versions with one track are compatible: `1` for 1.x, `0.2` for 0.2.x.
fn track(version: &str) -> &str {
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let mut dots = numbers.match_indices('.').map(|(at, _)| at);
    let end = if version.starts_with("0.") { dots.nth(1) } else { dots.next() };
    &numbers[..end.unwrap_or(numbers.len())]
}

/// Interfaces whose functions have effects outside of a session's state.
const EFFECTS: &[&str] = &[
    "slotd:slot/effects",
    "slotd:slot/session",
    "slotd:slot/timers",
    "slotd:slot/sends",
    "slotd:slot/http",
];
/// Those of their functions that only look.
const LOOKS: &[&str] = &["current", "get", "list", "open"];

/// Whether a component is valid, and imports and exports what slotd gives and calls. Returns the effects
/// that it imports.
pub(super) fn check_component(
    bytes: &[u8],
    names: &Names<'_>,
    problems: &mut Problems,
) -> Vec<String> {
    let types = match Validator::new_with_features(engine::features()).validate_all(bytes) {
        Ok(types) => types,
        Err(e) if e.message().contains("unexpected end") => {
            problems.push(format!(
                "the file is truncated: it has {} bytes, and something that begins at byte {} \
                 goes on after them; copy it again",
                bytes.len(),
                e.offset()
            ));
            return Vec::new();
        }
        Err(e) => {
            problems.push(format!(
                "it is not a valid component: {} (at byte {}); it is damaged, or uses a part of \
                 WebAssembly that slotd does not run",
                e.message(),
                e.offset()
            ));
            return Vec::new();
        }
    };
    let types = types.as_ref();
    let mut effects = Vec::new();
    for name in &names.imports {
        let entity = types.component_item_for_import(name).map(|item| item.ty);
        if let Some(ComponentEntityType::Instance(id)) = entity
            && let Some(instance) = types.get(id)
        {
            let functions = types::functions(types, &instance.exports).into_keys();
            effects.extend(functions.filter_map(|function| effect(name, &function)));
        }
        check_import(types, name, entity, problems);
    }
    let mut lacking = Vec::new();
    for (name, wanted) in &WORLD.exports {
        match types.component_item_for_export(name).map(|item| item.ty) {
            Some(entity) => {
                if let Some(problem) = check_export(types, name, wanted, entity) {
                    problems.push(problem);
                }
            }
            None => lacking.push(format!("`{name}`")),
        }
    }
    if let Some((last, others)) = lacking.split_last() {
        let (s, them) = match others {
            [] => ("", last.clone()),
            _ => ("s", format!("{} and {last}", others.join(", "))),
        };
        problems.push(format!(
            "it lacks the export{s} {them}: build it against the world `handler` of \
             {PACKAGE}@{}; {REBUILD}",
            WORLD.version
        ));
    }
    for name in &names.exports {
        let (interface, version) = split(name);
        if of_package(interface) && track(version) != track(&WORLD.version) {
            problems.push(other_version("exports", name));
        }
    }
    effects
}

/// An imported function as people know it, if it has effects: `timers.schedule`.
pub(in crate::plugin) fn effect(interface: &str, function: &str) -> Option<String> {
    let interface = split(interface).0;
    let has_effects = EFFECTS.contains(&interface) && !LOOKS.contains(&function);
    let (_, name) = interface.rsplit_once('/')?;
    has_effects.then(|| format!("{name}.{function}"))
}

fn of_package(interface: &str) -> bool {
    interface.strip_prefix(PACKAGE).is_some_and(|rest| rest.starts_with('/'))
}

fn other_version(does: &str, name: &str) -> String {
    format!(
        "it {does} {name}, but this slotd supports {PACKAGE}@{}: build it against that version, \
         or run it on a slotd that supports its own",
        WORLD.version
    )
}

fn check_import(
    types: wasmparser::types::TypesRef<'_>,
    name: &str,
    entity: Option<ComponentEntityType>,
    problems: &mut Problems,
) {
    let (interface, version) = split(name);
    if of_package(interface) {
        if track(version) != track(&WORLD.version) {
            return problems.push(other_version("imports", name));
        }
        if let (Some(given), Some(ComponentEntityType::Instance(id))) =
            (WORLD.imports.get(interface), entity)
        {
            let Some(instance) = types.get(id) else { return };
            for (function, wanted) in &types::functions(types, &instance.exports) {
                match given.get(function) {
                    Some(given) if given == wanted => {}
                    Some(given) => problems.push(format!(
                        "it imports `{function}` of {name} as {wanted}, but slotd provides \
                         {given}: build it against slotd's wit folder"
                    )),
                    None => problems
                        .push(format!("it imports `{function}` of {name}, {}", not_here(version))),
                }
            }
            return;
        }
        if !WORLD.imports.contains_key(interface) {
            return problems.push(format!("it imports {name}, {}", not_here(version)));
        }
    } else if wasi::INTERFACES.contains(&interface) && track(version) == "0.2" {
        return;
    }
    let hint = match interface.split('/').next().unwrap_or_default() {
        "wasi:sockets" | "wasi:http" => ": handlers have no network; build it without",
        _ if interface.starts_with("wasi:") && track(version) != "0.2" => {
            ": slotd provides parts of WASI 0.2; build it for wasip2, or without WASI"
        }
        package if package.starts_with("wasi:") => {
            ": of WASI, slotd provides clocks, random, stdio, and an empty environment and \
             filesystem"
        }
        _ => ": build it without",
    };
    problems.push(format!("it imports {name}, which slotd does not provide{hint}"));
}

fn check_export(
    types: wasmparser::types::TypesRef<'_>,
    name: &str,
    wanted: &str,
    entity: ComponentEntityType,
) -> Option<String> {
    let found = match entity {
        ComponentEntityType::Func(id) => types::function(types, id),
        _ => "something that is not a function".to_owned(),
    };
    (found != wanted).then(|| {
        format!(
            "its export `{name}` is {found}, but slotd calls {wanted}: build it against slotd's \
             wit folder"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Were the interface's description unreadable, every component would be found fit.
    #[test]
    fn the_world_is_known() {
        assert_eq!(WORLD.version, "1.1.0");
        let exports: Vec<_> = WORLD.exports.keys().map(String::as_str).collect();
        assert_eq!(exports, ["handle", "migrate", "query"]);
        assert_eq!(WORLD.exports["migrate"], "func(string) -> result<_, string>");
        let state: Vec<_> = WORLD.imports["slotd:slot/state"].keys().collect();
        assert_eq!(state, ["delete", "get", "scan", "set"]);
        assert_eq!(WORLD.imports["slotd:slot/effects"].len(), 1);
        let session: Vec<_> = WORLD.imports["slotd:slot/session"].keys().collect();
        assert_eq!(session, ["close", "current", "expire", "notify", "watch-subscribers"]);
        // One that is added acts, or only looks: `LOOKS`.
        let timers: Vec<_> = WORLD.imports["slotd:slot/timers"].keys().collect();
        assert_eq!(timers, ["cancel", "current", "get", "list", "schedule"]);
        let sends: Vec<_> = WORLD.imports["slotd:slot/sends"].keys().collect();
        assert_eq!(sends, ["current", "send"]);
        let http: Vec<_> = WORLD.imports["slotd:slot/http"].keys().collect();
        assert_eq!(http, ["cancel", "current", "open", "request"]);
        let client: Vec<_> = WORLD.imports["slotd:slot/client"].keys().collect();
        assert_eq!(client, ["current"]);
        for interface in EFFECTS {
            assert!(WORLD.imports.contains_key(*interface), "{interface}");
        }
        assert_eq!(WORLD.imports["slotd:slot/log"].len(), 1);
    }

    #[test]
    fn versions_with_one_track_are_compatible() {
        for (version, expected) in [
            ("1.0.0", "1"),
            ("1.12.3", "1"),
            ("2.0.0", "2"),
            ("0.2.12", "0.2"),
            ("0.3.0-rc", "0.3"),
            ("", ""),
        ] {
            assert_eq!(track(version), expected, "{version}");
        }
    }
}
