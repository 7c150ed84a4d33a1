//! The plugins that ship, as components.

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

/// A built component: `counter`, `chat-v1`, `chat-v2`, `hostile-v1` or `hostile-v2`.
///
/// # Errors
/// When it is not built; the message says how to.
pub fn load(name: &str) -> anyhow::Result<Bytes> {
    let path = path(name);
    std::fs::read(&path).map(Bytes::from).with_context(|| {
        format!(
            "{} is not built: run `cargo xtask test`, or set SLOTD_TEST_PLUGINS",
            path.display()
        )
    })
}

/// The same component with another digest: a custom section more, which changes nothing that
/// it does.
pub fn variant(component: &[u8], note: &str) -> Bytes {
    let name = b"note";
    let note = note.as_bytes();
    let mut section = Vec::with_capacity(1 + name.len() + note.len());
    leb128(&mut section, name.len());
    section.extend_from_slice(name);
    section.extend_from_slice(note);
    let mut out = component.to_vec();
    out.push(0);
    leb128(&mut out, section.len());
    out.extend_from_slice(&section);
    out.into()
}

fn leb128(out: &mut Vec<u8>, mut n: usize) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}
