//! Reading files that a user names, with a size limit, and regular files only; and replacing files durably.

use crate::limits;
use std::{
    fmt,
    fs::{self, File, FileType, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    pin::pin,
    time::{Duration, SystemTime},
};
use tokio::sync::watch;

/// Why a file was not read; behind the file's name it makes a sentence.
#[derive(Debug)]
pub enum ReadError {
    Missing,
    /// What it is instead.
    NoFile(&'static str),
    /// The limit in bytes.
    TooLarge(u64),
    NotText,
    Io(io::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("does not exist"),
            Self::NoFile(what) => write!(f, "is {what}, not a regular file"),
            Self::TooLarge(bytes_max) => write!(f, "is larger than {bytes_max} bytes"),
            Self::NotText => f.write_str("is not UTF-8"),
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

/// Looks again and again whether files have changed, until `ended`: `look` reads them where it may block, since they may be
/// on a disk that hangs, and `then` gets what it has found. The first look is after `every`.
pub async fn follow<T: Send + 'static, F: Future<Output = ()> + Send>(
    every: Duration,
    ended: impl Future<Output = ()> + Send,
    look: impl Fn() -> T + Clone + Send + 'static,
    mut then: impl FnMut(T) -> F + Send,
) {
    let mut ended = pin!(ended);
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = &mut ended => return,
        }
        if let Ok(found) = crate::task::blocking(look.clone()).await {
            then(found).await;
        }
    }
}

/// When a node begins to stop.
pub async fn stopped(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
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
    read_from(File::open(path)?, bytes_max)
}

/// All that there is, of at most so many bytes.
///
/// # Errors
/// There is more, or it can't be read.
pub fn read_from(from: impl io::Read, bytes_max: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    from.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
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
    String::from_utf8(bytes).map_err(|_| ReadError::NotText)
}

/// Who may read a file that is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// Its owner alone.
    Owner,
    /// All whom the umask lets.
    All,
}

impl For {
    fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::All => 0o644,
        }
    }
}

/// Makes a file, or replaces it: whole or not at all, durably, and in one step for whoever reads it. What a crash leaves
/// behind (`FILE.part`), the next call removes.
pub fn replace(path: &Path, bytes: &[u8], readers: For) -> io::Result<()> {
    let part = path.with_added_extension("part");
    match fs::remove_file(&part) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    write_new(&part, bytes, readers)?;
    fs::rename(&part, path)?;
    sync_folder_of(path)
}

/// As [`replace`], of a file that must not be there. A crash may leave a part of it.
pub fn create(path: &Path, bytes: &[u8], readers: For) -> io::Result<()> {
    write_new(path, bytes, readers)?;
    sync_folder_of(path)
}

fn write_new(path: &Path, bytes: &[u8], readers: For) -> io::Result<()> {
    let mut open = OpenOptions::new();
    let mut file = open.write(true).create_new(true).mode(readers.mode()).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crash leaves the file as it was and a part of the next one, which must not stop the next try, nor be what others
    /// read.
    #[test]
    fn a_file_is_replaced_whole_and_what_a_crash_left_is_no_hindrance() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.key");
        fs::write(home.path().join("a.key.part"), b"hal").unwrap();
        for (bytes, readers) in [(b"one", For::Owner), (b"two", For::Owner)] {
            replace(&path, bytes, readers).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        let taken = create(&path, b"three", For::All).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"two");
    }

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
