//! A file system small enough to fill.

use crate::notice::not_tested;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::TempDir;

/// A separate file system, unmounted when dropped.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None`, with a printed line, if mounting is not allowed.
    ///
    /// # Errors
    /// If there is no space for it.
    pub fn mount_or_skip(test: &str, mib: u32) -> anyhow::Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        if status.is_ok_and(|status| status.success()) {
            return Ok(Some(Self(dir)));
        }
        not_tested(&format!("{test}: mounting a tmpfs is not allowed"));
        Ok(None)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a node that was just killed may still use it for a moment.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// The files below a folder that have a text in them.
///
/// # Errors
/// They can't be read.
pub fn files_with(folder: &Path, text: &str) -> anyhow::Result<Vec<PathBuf>> {
    files_with_bytes(folder, text.as_bytes())
}

/// As [`files_with`], bytes.
///
/// # Errors
/// As [`files_with`].
pub fn files_with_bytes(folder: &Path, text: &[u8]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_with_bytes(&path, text)?);
            continue;
        }
        match std::fs::read(&path) {
            Ok(bytes) if memchr::memmem::find(&bytes, text).is_some() => {
                found.push(path);
            }
            Ok(_) => {}
            // It is gone since it was listed: a server is at work there.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(found)
}
