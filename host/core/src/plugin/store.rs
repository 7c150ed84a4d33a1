//! Components on the disk, by digest, and their compiled code beside them. Blocking.
//!
//! A component is what was uploaded, and is durable before `add` returns. Compiled code is a
//! cache: made by a child of this process from a component, for one engine, in a folder that only
//! this user can open; it is thrown away and made again whenever anything about it is in doubt.

use super::{Digest, PluginError, Removed};
use crate::limits;
use std::{
    fs, io,
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use xxhash_rust::xxh3::Xxh3Default;

const TEMPORARY: &str = ".tmp-";
/// Ends a file of compiled code: the code comes first, so that the file can be mapped as it is, then
/// the checksum, then this.
const COMPILED_MAGIC: &[u8; 8] = b"slotdcw2";
const CHECKSUM_BYTES: usize = 16;
const TRAILER_BYTES: u64 = (CHECKSUM_BYTES + COMPILED_MAGIC.len()) as u64;

pub(super) struct Disk {
    components: PathBuf,
    compiled: PathBuf,
    /// Of the engine that compiles and runs here.
    compatibility: u64,
    next_temporary: AtomicU64,
}

impl Disk {
    /// Opens the folders, and clears away what a crash or another version of slotd left there.
    pub(super) fn open(dir: &Path, compatibility: u64) -> Result<Self, PluginError> {
        let disk = Self {
            components: dir.join("components"),
            compiled: dir.join("compiled"),
            compatibility,
            next_temporary: AtomicU64::new(0),
        };
        for folder in [dir, &disk.components, &disk.compiled] {
            private_folder(folder).map_err(|e| failed("make", folder, &e))?;
        }
        for (folder, cache) in [(&disk.components, false), (&disk.compiled, true)] {
            disk.sweep(folder, cache).map_err(|e| failed("clear", folder, &e))?;
        }
        Ok(disk)
    }

    fn sweep(&self, folder: &Path, cache: bool) -> io::Result<()> {
        let ours = format!("-{:016x}.cwasm", self.compatibility);
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let of =
                |name: &str| name.strip_suffix(&ours)?.parse().ok().map(|d| self.component_path(d));
            let stale = cache
                && name.ends_with(".cwasm")
                && !of(&name).is_some_and(|component| component.exists());
            if (stale || name.starts_with(TEMPORARY)) && entry.file_type()?.is_file() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn component_path(&self, digest: Digest) -> PathBuf {
        self.components.join(format!("{digest}.wasm"))
    }

    fn compiled_path(&self, digest: Digest) -> PathBuf {
        self.compiled.join(format!("{digest}-{:016x}.cwasm", self.compatibility))
    }

    /// A stored component; its digest is verified.
    pub(super) fn component(&self, digest: Digest) -> Result<Vec<u8>, PluginError> {
        let path = self.component_path(digest);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(PluginError::Missing(digest));
            }
            Err(e) => return Err(failed("read", &path, &e)),
        };
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(PluginError::Failed(format!(
                "{} is damaged: the sha-256 of its {} bytes is {found}, not its name. Replace it \
                 with any copy of that component",
                path.display(),
                bytes.len()
            )));
        }
        Ok(bytes)
    }

    /// Reads a component that must be stored, and verifies its digest.
    pub(super) fn verify(&self, digest: Digest) -> Result<(), PluginError> {
        match self.component(digest) {
            Err(PluginError::Missing(_)) => Err(PluginError::Failed(format!(
                "{} is missing. Put any copy of that component there",
                self.component_path(digest).display()
            ))),
            read => read.map(drop),
        }
    }

    /// Stores a component durably. A no-op where it is stored already, undamaged.
    pub(super) fn put_component(&self, digest: Digest, bytes: &[u8]) -> Result<(), PluginError> {
        if self.component(digest).is_ok() {
            return Ok(());
        }
        let path = self.component_path(digest);
        self.put(&path, &[bytes]).map_err(|e| failed("write", &path, &e))
    }

    /// The file of compiled code that this process may run: of this component, for this engine,
    /// undamaged.
    pub(super) fn compiled(&self, digest: Digest) -> Option<PathBuf> {
        let path = self.compiled_path(digest);
        match self.is_intact(digest, &path) {
            Ok(true) => {
                // For `remove_unused_code`. Where it can't be set the code is compiled again one day.
                let _ = fs::File::open(&path).and_then(|file| {
                    file.set_times(fs::FileTimes::new().set_accessed(crate::clock::wall()))
                });
                return Some(path);
            }
            Ok(false) => tracing::warn!("{} is damaged; compiling again", path.display()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => tracing::warn!("can't read {}; compiling again: {e}", path.display()),
        }
        None
    }

    fn is_intact(&self, digest: Digest, path: &Path) -> io::Result<bool> {
        let mut file = fs::File::open(path)?;
        let Some(code_bytes) = file.metadata()?.len().checked_sub(TRAILER_BYTES) else {
            return Ok(false);
        };
        let mut checksum = Checksum::new(digest, self.compatibility);
        io::copy(&mut (&mut file).take(code_bytes), &mut checksum)?;
        let mut trailer = Vec::new();
        file.take(TRAILER_BYTES).read_to_end(&mut trailer)?;
        let sum = trailer.strip_suffix(COMPILED_MAGIC);
        Ok(code_bytes > 0 && sum.is_some_and(|sum| *sum == checksum.sum()))
    }

    /// A file for the compiling process, under a name that compiled code never has.
    pub(super) fn begin_compiled(&self) -> Result<(Artifact, fs::File), PluginError> {
        let path = self.temporary(&self.compiled);
        let file = create(&path).map_err(|e| failed("write", &path, &e))?;
        Ok((Artifact { path }, file))
    }

    /// Keeps what [`write_compiled`] wrote into the file, if it is whole, for this start and the
    /// next ones.
    pub(super) fn keep_compiled(
        &self,
        digest: Digest,
        artifact: &Artifact,
    ) -> Result<(), PluginError> {
        let path = self.compiled_path(digest);
        let kept = self.is_intact(digest, &artifact.path).and_then(|intact| match intact {
            true => rename(&artifact.path, &path),
            false => Err(io::Error::other("the compiled code did not arrive completely")),
        });
        kept.map_err(|e| failed("write", &path, &e))
    }

    /// The components that are stored here.
    pub(super) fn stored(&self) -> Result<Vec<Digest>, PluginError> {
        let read = || -> io::Result<Vec<Digest>> {
            let mut stored = Vec::new();
            for entry in fs::read_dir(&self.components)? {
                let name = entry?.file_name();
                let digest = name.to_str().and_then(|name| name.strip_suffix(".wasm"));
                stored.extend(digest.and_then(|digest| digest.parse::<Digest>().ok()));
            }
            Ok(stored)
        };
        read().map_err(|e| failed("read", &self.components, &e))
    }

    /// Removes a component and its code. A process that has the code mapped keeps it.
    pub(super) fn remove(&self, digest: Digest) -> Result<Removed, PluginError> {
        let mut removed = Removed::default();
        // The code first: alone it would be swept at the next start.
        for path in [self.compiled_path(digest), self.component_path(digest)] {
            remove(&path, &mut removed)?;
        }
        Ok(removed)
    }

    /// Removes the code of a component if nothing has asked for it for so long.
    pub(super) fn remove_unused_code(
        &self,
        digest: Digest,
        unused: Duration,
    ) -> Result<Removed, PluginError> {
        let mut removed = Removed::default();
        let path = self.compiled_path(digest);
        let used = fs::metadata(&path).and_then(|data| Ok(data.accessed()?.max(data.modified()?)));
        let since = used.map(|used| crate::clock::wall().duration_since(used));
        if since.is_ok_and(|since| since.is_ok_and(|since| since >= unused)) {
            remove(&path, &mut removed)?;
        }
        Ok(removed)
    }

    /// Removes the compiled code of what is not stored after all.
    pub(super) fn forget_compiled(&self, digest: Digest) {
        if !self.component_path(digest).exists() {
            // Left behind it would be swept at the next start.
            let _ = fs::remove_file(self.compiled_path(digest));
        }
    }

    /// Writes a file whole or not at all: temporary file, sync, rename, sync of the folder.
    fn put(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let temporary = self.temporary(path.parent().unwrap_or(Path::new(".")));
        let written = (|| {
            write_parts(&mut create(&temporary)?, parts)?;
            rename(&temporary, path)
        })();
        if written.is_err() {
            // The error that is reported is the one that made it fail.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn temporary(&self, folder: &Path) -> PathBuf {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        folder.join(format!("{TEMPORARY}{}-{number}", std::process::id()))
    }
}

/// A file that is being compiled into. Gone with this, unless it was kept.
pub(super) struct Artifact {
    path: PathBuf,
}

impl Drop for Artifact {
    fn drop(&mut self) {
        // Kept: it has another name then. Left behind it would be swept at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes compiled code as [`Disk::keep_compiled`] wants it.
pub(super) fn write_compiled(
    file: &mut fs::File,
    digest: Digest,
    compatibility: u64,
    code: &[u8],
) -> io::Result<()> {
    let mut checksum = Checksum::new(digest, compatibility);
    checksum.0.update(code);
    write_parts(file, &[code, &checksum.sum(), COMPILED_MAGIC])
}

fn remove(path: &Path, removed: &mut Removed) -> Result<(), PluginError> {
    let bytes = fs::metadata(path).map_or(0, |data| data.len());
    match fs::remove_file(path) {
        Ok(()) => {
            removed.files += 1;
            removed.bytes += bytes;
            Ok(())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("remove", path, &e)),
    }
}

fn create(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// In pieces: what else syncs to this disk, the log of every message, would wait behind one large
/// write.
fn write_parts(file: &mut fs::File, parts: &[&[u8]]) -> io::Result<()> {
    for piece in parts.iter().flat_map(|part| part.chunks(limits::DISK_PIECE_BYTES)) {
        file.write_all(piece)?;
        file.sync_data()?;
    }
    file.sync_all()
}

/// Gives a whole file its name, durably.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    fs::File::open(to.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Binds the code to its component and engine, so that a renamed file is not trusted either. It
/// is there against damage: who can write into the folder is this process's own user.
struct Checksum(Xxh3Default);

impl Checksum {
    fn new(digest: Digest, compatibility: u64) -> Self {
        let mut hash = Xxh3Default::new();
        hash.update(&digest.0);
        hash.update(&compatibility.to_le_bytes());
        Self(hash)
    }
    fn sum(&self) -> [u8; CHECKSUM_BYTES] {
        self.0.digest128().to_le_bytes()
    }
}

impl io::Write for Checksum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes a folder that only this user can open, or makes one that is there private.
fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let mut permissions = fs::metadata(path)?.permissions();
    if permissions.mode() & 0o077 != 0 {
        permissions.set_mode(0o700);
        fs::set_permissions(path, permissions)?;
    }
    Ok(())
}

fn failed(what: &str, path: &Path, error: &io::Error) -> PluginError {
    PluginError::Failed(format!("can't {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Disk {
        /// What compiling leaves.
        fn put_compiled(&self, digest: Digest, code: &[u8]) -> Result<(), PluginError> {
            let (artifact, mut file) = self.begin_compiled()?;
            write_compiled(&mut file, digest, self.compatibility, code).unwrap();
            self.keep_compiled(digest, &artifact)
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// wasmtime runs whatever native code it is given: a damaged file would crash the node, or do
    /// anything at all.
    #[test]
    fn damaged_code_is_never_given() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path(), 7).unwrap();
        let digest = Digest::of(b"component");
        assert!(disk.compiled(digest).is_none());
        disk.put_compiled(digest, b"native code").unwrap();
        let path = disk.compiled(digest).unwrap();
        let file = fs::read(&path).unwrap();
        assert!(file.starts_with(b"native code"));
        for cut in 0..file.len() {
            fs::write(&path, &file[..cut]).unwrap();
            assert!(disk.compiled(digest).is_none(), "cut at {cut}");
        }
        for at in 0..file.len() {
            let mut flipped = file.clone();
            flipped[at] ^= 1;
            fs::write(&path, flipped).unwrap();
            assert!(disk.compiled(digest).is_none(), "flipped at {at}");
        }
        // Nor is another component's, nor another engine's.
        let other = Digest::of(b"other");
        fs::write(disk.compiled_path(other), &file).unwrap();
        assert!(disk.compiled(other).is_none());
        fs::write(&path, &file).unwrap();
        assert!(disk.compiled(digest).is_some());
    }

    /// A folder of native code that others could write to would let them run code as slotd.
    #[test]
    fn folders_and_files_are_private() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("compiled")).unwrap();
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(dir.path().join("compiled"), open).unwrap();
        let disk = Disk::open(dir.path(), 7).unwrap();
        let digest = Digest::of(b"component");
        disk.put_component(digest, b"component").unwrap();
        disk.put_compiled(digest, b"code").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&disk.compiled), 0o700);
        assert_eq!(mode(&disk.components), 0o700);
        assert_eq!(mode(&disk.compiled_path(digest)), 0o600);
    }

    /// A crash while writing, or an upgrade, would otherwise leave files that nobody deletes.
    #[test]
    fn leftovers_are_cleared_at_start() {
        let dir = tempfile::tempdir().unwrap();
        let old = Disk::open(dir.path(), 1).unwrap();
        let digest = Digest::of(b"component");
        old.put_component(digest, b"component").unwrap();
        old.put_compiled(digest, b"old code").unwrap();
        fs::write(dir.path().join("components/.tmp-1-1"), b"half").unwrap();
        fs::write(dir.path().join("compiled/.tmp-1-2"), b"half").unwrap();
        let new = Disk::open(dir.path(), 2).unwrap();
        assert_eq!(names(&new.components), [format!("{digest}.wasm")]);
        assert_eq!(names(&new.compiled), [""; 0]);
        // Code of what was refused after it had been compiled, when the node died between the two.
        new.put_compiled(digest, b"code").unwrap();
        new.put_compiled(Digest::of(b"refused"), b"code").unwrap();
        let again = Disk::open(dir.path(), 2).unwrap();
        assert_eq!(names(&again.compiled), [format!("{digest}-{:016x}.cwasm", 2)]);
    }

    /// The node must say which file is damaged rather than run something else; a new upload heals.
    #[test]
    fn a_damaged_component_is_named_and_can_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path(), 7).unwrap();
        let digest = Digest::of(b"component");
        assert!(matches!(disk.component(digest), Err(PluginError::Missing(d)) if d == digest));
        disk.put_component(digest, b"component").unwrap();
        fs::write(disk.component_path(digest), b"componenT").unwrap();
        let error = disk.component(digest).unwrap_err().to_string();
        assert!(error.contains(&format!("{digest}.wasm is damaged")), "{error}");
        disk.put_component(digest, b"component").unwrap();
        assert_eq!(disk.component(digest).unwrap(), b"component");
    }

    /// Code that nobody asks for any more would fill the disk with every deploy; what was used a
    /// moment ago is used again.
    #[test]
    fn unused_code_goes_and_removed_components_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path(), 7).unwrap();
        let digest = Digest::of(b"component");
        disk.put_component(digest, b"component").unwrap();
        disk.put_compiled(digest, b"code").unwrap();
        assert_eq!(disk.stored().unwrap(), [digest]);
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(100);
        let path = disk.compiled_path(digest);
        let age = |path: &Path| {
            let times = fs::FileTimes::new().set_accessed(long_ago).set_modified(long_ago);
            fs::File::options().write(true).open(path).unwrap().set_times(times).unwrap();
        };
        age(&path);
        assert!(disk.compiled(digest).is_some());
        let unused = Duration::from_secs(50);
        assert_eq!(disk.remove_unused_code(digest, unused).unwrap(), Removed::default());
        age(&path);
        assert_eq!(disk.remove_unused_code(digest, unused).unwrap().files, 1);
        assert!(disk.compiled(digest).is_none());
        disk.put_compiled(digest, b"code").unwrap();
        assert_eq!(disk.remove(digest).unwrap().files, 2);
        assert_eq!(disk.stored().unwrap(), []);
        assert_eq!(disk.remove(digest).unwrap(), Removed::default());
    }

    /// A full disk must not leave half a file under a good name, nor a temporary one.
    #[test]
    fn a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path(), 7).unwrap();
        let digest = Digest::of(b"component");
        // A folder in the file's place makes the rename fail, after everything was written.
        fs::create_dir(disk.component_path(digest)).unwrap();
        assert!(matches!(disk.put_component(digest, b"component"), Err(PluginError::Failed(_))));
        assert_eq!(names(&disk.components), [format!("{digest}.wasm")]);
    }
}
