//! Custom sections at a component's top level: `version`, and others that slotd reads.

use anyhow::{Context, ensure};
use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

/// A component's first bytes; a core module ends in `01 00 00 00` instead.
const COMPONENT_HEADER: [u8; 8] = *b"\0asm\x0d\0\x01\0";
/// The id of a custom section.
const CUSTOM: u8 = 0;
const VERSION_SECTION: &str = "version";

/// The component with the custom section `version`, at its top level, set to `version`; an existing
/// one is replaced.
///
/// # Errors
/// If `component` is not a component, or is truncated.
pub fn stamp_version(component: &[u8], version: &str) -> anyhow::Result<Vec<u8>> {
    stamp(component, VERSION_SECTION, version.as_bytes())
}

/// As [`stamp_version`], any section.
///
/// # Errors
/// As [`stamp_version`].
pub fn stamp(component: &[u8], name: &str, data: &[u8]) -> anyhow::Result<Vec<u8>> {
    ensure!(component.starts_with(&COMPONENT_HEADER), "not a WebAssembly component");
    let mut stamped = Vec::with_capacity(component.len() + name.len() + data.len() + 16);
    stamped.extend_from_slice(&COMPONENT_HEADER);
    let mut rest = &component[COMPONENT_HEADER.len()..];
    while !rest.is_empty() {
        let section = rest;
        let (id, content) = section_of(&mut rest).context("the component is truncated")?;
        let is_old = id == CUSTOM && custom_name(content) == Some(name.as_bytes());
        if !is_old {
            stamped.extend_from_slice(&section[..section.len() - rest.len()]);
        }
    }
    let mut content = Vec::new();
    write_leb(&mut content, name.len());
    content.extend_from_slice(name.as_bytes());
    content.extend_from_slice(data);
    stamped.push(CUSTOM);
    write_leb(&mut stamped, content.len());
    stamped.extend_from_slice(&content);
    Ok(stamped)
}

/// Takes a section off the front: its id and content.
fn section_of<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&id, rest) = bytes.split_first()?;
    *bytes = rest;
    let length = read_leb(bytes)?;
    let (content, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some((id, content))
}

fn custom_name(mut content: &[u8]) -> Option<&[u8]> {
    let length = read_leb(&mut content)?;
    content.get(..length)
}

/// An unsigned LEB128 of 32 bits.
fn read_leb(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0_u64;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(value).ok().map(|value| value as usize);
        }
    }
    None
}

fn write_leb(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Writes a file atomically: readers never see half a component.
pub fn write_file(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = file.with_file_name(name);
    let written = fs::File::create(&temporary)
        .and_then(|mut f| f.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, file));
    if written.is_err() {
        _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn custom(name: &[u8], data: &[u8]) -> Vec<u8> {
        let mut content = vec![name.len() as u8];
        content.extend_from_slice(name);
        content.extend_from_slice(data);
        let mut section = vec![CUSTOM];
        write_leb(&mut section, content.len());
        section.extend(content);
        section
    }

    fn component(sections: &[Vec<u8>]) -> Vec<u8> {
        [COMPONENT_HEADER.to_vec(), sections.concat()].concat()
    }

    /// With two version sections, or one in the wrong place, the host shows the wrong version.
    #[test]
    fn a_version_is_stamped_once() -> anyhow::Result<()> {
        let (other, module) = (custom(b"producers", b"x"), [vec![1, 3], vec![7; 3]].concat());
        let plain = component(&[other.clone(), module.clone()]);
        let stamped = stamp_version(&plain, "1.0.0")?;
        assert_eq!(stamped, [plain, custom(b"version", b"1.0.0")].concat());
        let old = component(&[other.clone(), custom(b"version", b"0.9"), module.clone()]);
        let expected = component(&[other, module, custom(b"version", b"1.0.0")]);
        assert_eq!(stamp_version(&old, "1.0.0")?, expected);
        assert_eq!(stamp_version(&stamped, "1.0.0")?, stamped);
        Ok(())
    }

    /// A core module means that the wrong linker was used; it would only fail later.
    #[test]
    fn only_whole_components_are_stamped() {
        for bytes in [&b"\0asm\x01\0\0\0"[..], b"", b"\0asm", b"\0asm\x0d\0\x01\0\x01\x05ab"] {
            assert!(stamp_version(bytes, "1").is_err(), "{bytes:?}");
        }
    }

    proptest! {
        /// Whatever a file contains, stamping ends in an error or a component, never in a panic.
        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let whole = component(&[bytes]);
            if let Ok(stamped) = stamp_version(&whole, "1") {
                prop_assert!(stamped.ends_with(&custom(b"version", b"1")));
            }
        }
    }
}
