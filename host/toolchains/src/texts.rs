//! Reads the small texts of a plugin's folder: manifests, templates as they were written.

use anyhow::{Context, ensure};
use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

/// More is not a manifest.
const TEXT_BYTES_MAX: u64 = 1024 * 1024;

/// A text; `None` if it does not exist.
///
/// # Errors
/// If it can't be read, with its path.
pub fn read_text(path: &Path) -> anyhow::Result<Option<String>> {
    let can_not = || format!("{} can't be read", path.display());
    // Before it is opened: a pipe or a device may have no end.
    let about = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        about => about.with_context(can_not)?,
    };
    ensure!(about.is_file(), "{} is not a regular file", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(can_not)?;
    file.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(can_not)?;
    ensure!(
        bytes.len() as u64 <= TEXT_BYTES_MAX,
        "{} is larger than {TEXT_BYTES_MAX} bytes",
        path.display()
    );
    String::from_utf8(bytes).map(Some).ok().with_context(|| format!("{}: not UTF-8", can_not()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manifest that is a device would fill the machine's memory.
    #[test]
    fn only_small_files_of_text_are_read() -> anyhow::Result<()> {
        let home = tempfile::tempdir()?;
        let file = home.path().join("file");
        assert_eq!(read_text(&file)?, None);
        fs::write(&file, "four")?;
        assert_eq!(read_text(&file)?.as_deref(), Some("four"));
        let refusal = |path: &Path| read_text(path).unwrap_err().to_string();
        assert!(refusal(Path::new("/dev/zero")).contains("/dev/zero is not a regular file"));
        assert!(refusal(home.path()).contains("is not a regular file"));
        fs::write(&file, [0xff])?;
        assert!(refusal(&file).contains("not UTF-8"));
        File::create(&file)?.set_len(TEXT_BYTES_MAX + 1)?;
        assert!(refusal(&file).contains("is larger than 1048576 bytes"));
        Ok(())
    }
}
