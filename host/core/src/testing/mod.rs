//! What the tests of this crate and of the one above it share.
#![allow(clippy::unwrap_used)]

pub mod nats;
#[cfg(test)]
pub(crate) mod skipped;

/// Compares a generated document with its file in `docs/`; with `SLOTD_UPDATE_DOCS` set, writes it.
///
/// # Panics
/// They differ.
pub fn assert_current(file: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(file);
    if std::env::var_os("SLOTD_UPDATE_DOCS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let stands = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stands == text,
        "docs/{file} is out of date; renew it with SLOTD_UPDATE_DOCS=1 cargo test -p slotd -p slotd-core --lib docs"
    );
}
