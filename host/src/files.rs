//! Reading files that a user names, with a size limit, and regular files only.

use crate::limits;
use std::{
    fmt,
    fs::{File, FileType},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
    time::SystemTime,
};

/// Why a file was not read; behind the file's name it makes a sentence.
#[derive(Debug)]
pub enum ReadError {
    Missing,
    /// What it is instead.
    NoFile(&'static str),
    /// The limit in bytes.
    TooLarge(u64),
    Io(io::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("does not exist"),
            Self::NoFile(what) => write!(f, "is {what}, not a regular file"),
            Self::TooLarge(bytes_max) => write!(f, "is larger than {bytes_max} bytes"),
            Self::Io(error) => write!(f, "can't be read: {error}"),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            _ => Self::Io(error),
        }
    }
}

/// What can't be read to an end. A pipe can: it is what a shell's `<(...)` is.
fn no_file(of: FileType) -> Option<&'static str> {
    if of.is_file() || of.is_fifo() {
        None
    } else if of.is_dir() {
        Some("a folder")
    } else if of.is_char_device() || of.is_block_device() {
        Some("a device")
    } else {
        Some("a socket")
    }
}

/// What tells a file that was changed, or replaced; `None`: it is not there.
pub type Stamp = Option<(SystemTime, u64, u64)>;

/// As the file is now. Blocks on the disk.
pub fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len(), found.ino()))
}

/// A whole file, of at most so many bytes.
///
/// # Errors
/// See [`ReadError`].
pub fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, ReadError> {
    // Before it is opened, which a device may act upon.
    let about = std::fs::metadata(path)?;
    if let Some(what) = no_file(about.file_type()) {
        return Err(ReadError::NoFile(what));
    }
    if about.len() > bytes_max {
        return Err(ReadError::TooLarge(bytes_max));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0));
    File::open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > bytes_max {
        true => Err(ReadError::TooLarge(bytes_max)),
        false => Ok(bytes),
    }
}

/// A small text, such as a manifest.
///
/// # Errors
/// See [`ReadError`].
pub fn read_text(path: &Path) -> Result<String, ReadError> {
    let bytes = read(path, limits::CONFIG_FILE_BYTES_MAX)?;
    let no_text = |_| ReadError::Io(io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"));
    String::from_utf8(bytes).map_err(no_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without it, `slotd plugin check /dev/zero` fills the machine's memory.
    #[test]
    fn what_has_no_end_is_not_read() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        std::fs::write(&file, b"four").unwrap();
        assert_eq!(read(&file, 4).unwrap(), b"four");
        let refusal = |path: &Path, bytes_max| read(path, bytes_max).unwrap_err().to_string();
        assert_eq!(refusal(&file, 3), "is larger than 3 bytes");
        assert_eq!(refusal(Path::new("/dev/zero"), 3), "is a device, not a regular file");
        assert_eq!(refusal(home.path(), 3), "is a folder, not a regular file");
        assert_eq!(refusal(&home.path().join("none"), 3), "does not exist");
        // The kernel says that it has no bytes.
        assert_eq!(refusal(Path::new("/proc/self/status"), 3), "is larger than 3 bytes");
    }
}
