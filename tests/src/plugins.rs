//! The included plugins, as components.

use anyhow::Context;
use bytes::Bytes;
use std::path::PathBuf;

/// The folder of built components: `SLOTD_TEST_PLUGINS`, else the workspace's `target/plugins`.
pub fn folder() -> PathBuf {
    std::env::var_os("SLOTD_TEST_PLUGINS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/plugins"),
        PathBuf::from,
    )
}

/// The path of a built component.
pub fn path(name: &str) -> PathBuf {
    folder().join(name).with_extension("wasm")
}

/// A built component, by the name of its folder under `plugins/`.
///
/// # Errors
/// If it is not built; the message says how to.
pub fn load(name: &str) -> anyhow::Result<Bytes> {
    let path = path(name);
    std::fs::read(&path).map(Bytes::from).with_context(|| {
        format!(
            "{} is not built: run `cargo xtask test`, or set SLOTD_TEST_PLUGINS",
            path.display()
        )
    })
}

/// A language that plugins are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lang {
    Rust,
    Js,
    Ts,
    Python,
    C,
}

impl Lang {
    pub const ALL: [Self; 5] = [Self::Rust, Self::Js, Self::Ts, Self::Python, Self::C];

    /// Its name for `slotd plugin new --lang`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Js => "js",
            Self::Ts => "ts",
            Self::Python => "python",
            Self::C => "c",
        }
    }

    /// The plugin, and folder under `plugins/`, that is `plugin` in this language.
    pub fn of(self, plugin: &str) -> String {
        match self {
            Self::Rust => plugin.to_owned(),
            _ => format!("{plugin}-{}", self.name()),
        }
    }

    /// Whether it has the kitchen sink; JavaScript shares TypeScript's SDK.
    pub fn has_kitchen_sink(self) -> bool {
        self != Self::Js
    }

    /// Whether its plugins should be tested: unless `SLOTD_TEST_WITHOUT` names it, which `cargo
    /// xtask test` sets to the languages whose tools are not available on this machine.
    pub fn is_tested(self) -> bool {
        let without = std::env::var("SLOTD_TEST_WITHOUT").unwrap_or_default();
        !without.split(',').any(|name| name == self.name())
    }
}

/// The source folder of an included plugin.
pub fn source(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../plugins").join(name)
}

/// The same component with another digest: an additional custom section, which has no effect.
pub fn variant(component: &[u8], note: &str) -> Bytes {
    with_section(component, "note", note.as_bytes())
}

/// The component with another custom section.
pub fn with_section(component: &[u8], name: &str, data: &[u8]) -> Bytes {
    let mut section = Vec::with_capacity(1 + name.len() + data.len());
    leb128(&mut section, name.len());
    section.extend_from_slice(name.as_bytes());
    section.extend_from_slice(data);
    let mut out = component.to_vec();
    out.push(0);
    leb128(&mut out, section.len());
    out.extend_from_slice(&section);
    out.into()
}

pub(crate) fn leb128(out: &mut Vec<u8>, mut n: usize) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}
