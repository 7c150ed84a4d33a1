//! What a version wants of its host, beside the one before.

use super::{
    report::{Example, Group, Kind},
    spec::{GateSpec, Want},
};
use crate::{limits, plugin::Plugin};
use std::collections::BTreeSet;

/// What a component wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Functions that do something outside of a session's state, as `timers.schedule`.
    pub effects: BTreeSet<String>,
    /// Other interfaces of slotd, without their versions.
    pub imports: BTreeSet<String>,
    pub exports: BTreeSet<String>,
    /// Linear memory of an instance that has run nothing.
    pub memory_bytes: u64,
}

impl Needs {
    pub fn of(plugin: &Plugin, memory_bytes: usize) -> Self {
        let name =
            |name: String| name.split_once('@').map_or(name.clone(), |(it, _)| it.to_owned());
        let imports = plugin.imports().into_iter().map(name);
        Self {
            effects: plugin.effects(),
            // WASI is virtual: a clock that stands still, no files, no network.
            imports: imports.filter(|name| !name.starts_with("wasi:")).collect(),
            exports: plugin.exports().into_iter().map(name).collect(),
            memory_bytes: memory_bytes as u64,
        }
    }
}

/// What is new of what a version wants.
#[allow(clippy::cast_precision_loss)]
pub fn wanted(before: &Needs, after: &Needs, spec: &GateSpec) -> Vec<Group> {
    let mut wants = Vec::new();
    let new = after.effects.difference(&before.effects);
    wants.extend(new.map(|effect| (Want::Effect(effect.clone()), "-".to_owned(), effect.clone())));
    for import in after.imports.difference(&before.imports) {
        // What it does is among the effects.
        let interface = import.rsplit_once('/').map_or(import.as_str(), |(_, name)| name);
        let has_effects = after
            .effects
            .iter()
            .any(|it| it.split_once('.').is_some_and(|(of, _)| of == interface));
        if !has_effects {
            wants.push((Want::Import(import.clone()), "-".to_owned(), import.clone()));
        }
    }
    let (old, new) = (before.memory_bytes, after.memory_bytes);
    let is_seen = new.saturating_sub(old) >= limits::GATE_MEMORY_RISE_MIN;
    if is_seen && new as f64 > old as f64 * spec.cost_ratio() {
        wants.push((Want::Memory, format!("{old} bytes"), format!("{new} bytes")));
    }
    let group = |(want, stored, came): (Want, String, String)| Group {
        kind: Kind::Want,
        path: want.to_string(),
        count: 1,
        stops: false,
        example: Example { stored, came, ..Example::default() },
    };
    wants.into_iter().map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(effects: &[&str], imports: &[&str], memory_bytes: u64) -> Needs {
        let set = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
        Needs { effects: set(effects), imports: set(imports), exports: set(&[]), memory_bytes }
    }

    fn paths(before: &Needs, after: &Needs) -> Vec<String> {
        let wanted = wanted(before, after, &GateSpec::default());
        wanted.into_iter().map(|group| group.path).collect()
    }

    #[test]
    fn only_what_is_new_is_wanted() {
        let mib = 1024 * 1024;
        let before = needs(&["timers.schedule"], &["slotd:slot/timers"], 2 * mib);
        let after = needs(
            &["timers.schedule", "http.request"],
            &["slotd:slot/timers", "slotd:slot/http", "slotd:slot/log"],
            9 * mib,
        );
        let new = ["effect:http.request", "import:slotd:slot/log", "memory"];
        assert_eq!(paths(&before, &after), new);
        assert_eq!(paths(&after, &before), [""; 0]);
        let little = needs(&["timers.schedule"], &[], 5 * mib);
        assert_eq!(paths(&before, &little), [""; 0], "3 MiB more are no rise");
    }
}
