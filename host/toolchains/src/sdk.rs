//! The SDKs embedded in slotd, written to where a plugin's build finds them, so that SDK and slotd
//! always match.

use crate::stamp::write_file;
use anyhow::Context;
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// slotd's own folder in a plugin's: it can be deleted at any time.
pub const OWN_DIR: &str = ".slotd";

/// An SDK's files: paths in its folder, and contents.
pub type Files = &'static [(&'static str, &'static str)];

/// Writes `files` to `.slotd/sdk` in the plugin's folder, if they differ from the existing ones,
/// and removes other files there. Returns that folder.
///
/// # Errors
/// A file can't be written.
pub fn write(dir: &Path, files: &[(&str, &str)]) -> anyhow::Result<PathBuf> {
    let sdk = dir.join(OWN_DIR).join("sdk");
    let can_not = |path: &Path| format!("can't write the SDK to {}", path.display());
    fs::create_dir_all(&sdk).with_context(|| can_not(&sdk))?;
    for (name, contents) in files {
        let file = sdk.join(name);
        if fs::read(&file).is_ok_and(|there| there == contents.as_bytes()) {
            continue;
        }
        let folder = file.parent().unwrap_or(&sdk);
        fs::create_dir_all(folder).with_context(|| can_not(folder))?;
        write_file(&file, contents.as_bytes()).with_context(|| can_not(&file))?;
    }
    remove_others(&sdk, &sdk, files).with_context(|| can_not(&sdk))?;
    Ok(sdk)
}

/// A build would find and use files of an earlier version. Python's compiled files and the like may
/// stay.
fn remove_others(sdk: &Path, dir: &Path, files: &[(&str, &str)]) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let own = path.strip_prefix(sdk).unwrap_or(&path);
        if files.iter().any(|(name, _)| Path::new(name) == own) {
            continue;
        }
        let holds_some = files.iter().any(|(name, _)| Path::new(name).starts_with(own));
        let removed = if holds_some {
            remove_others(sdk, &path, files)
        } else if path.is_dir() {
            match own.file_name().is_some_and(|name| name == "__pycache__") {
                true => Ok(()),
                false => fs::remove_dir_all(&path),
            }
        } else if path.extension().is_some_and(|extension| extension == "tmp") {
            // Another build is writing it right now.
            Ok(())
        } else {
            fs::remove_file(&path)
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plugin created by an older slotd must be built with this one's SDK, and nothing else;
    /// unchanged files must keep their time, or every build would start from scratch.
    #[test]
    fn what_differs_is_written_and_what_is_gone_removed() -> anyhow::Result<()> {
        let home = tempfile::tempdir()?;
        let first = [("slotd.py", "1"), ("old/a.py", "a"), ("wit/slot.wit", "w")];
        let sdk = write(home.path(), &first)?;
        assert_eq!(sdk, home.path().join(".slotd/sdk"));
        let written = fs::metadata(sdk.join("wit/slot.wit"))?.modified()?;
        fs::create_dir(sdk.join("__pycache__"))?;
        write(home.path(), &[("slotd.py", "2"), ("wit/slot.wit", "w")])?;
        assert_eq!(fs::read_to_string(sdk.join("slotd.py"))?, "2");
        assert!(!sdk.join("old").exists() && sdk.join("__pycache__").exists());
        assert_eq!(fs::metadata(sdk.join("wit/slot.wit"))?.modified()?, written);
        Ok(())
    }
}
