//! The programs that a build needs: finds those that are installed, and fetches others, at pinned
//! versions, into the plugin's folder.

use crate::{sdk, steps::Steps};
use anyhow::{Context, bail};
use sha2::{Digest as _, Sha256};
use std::{
    env, fs,
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// Names a shared folder for fetched tools, for users with many plugins.
pub const TOOLS_DIR: &str = "SLOTD_TOOLS_DIR";
/// Marks a complete folder of tools: its contents.
const DONE: &str = ".slotd-done";

/// The folder of a plugin's fetched tools.
#[derive(Clone, Debug)]
pub struct Tools {
    dir: PathBuf,
    /// Other plugins, perhaps for another slotd, may use the same.
    shared: bool,
}

impl Tools {
    /// The folder for the plugin in `dir`: its `.slotd/tools`, or `$SLOTD_TOOLS_DIR`.
    ///
    /// # Errors
    /// The folder's path can't be determined.
    pub fn of(dir: &Path) -> anyhow::Result<Self> {
        let shared = env::var_os(TOOLS_DIR).filter(|dir| !dir.is_empty());
        let tools = match &shared {
            Some(dir) => PathBuf::from(dir),
            None => dir.join(sdk::OWN_DIR).join("tools"),
        };
        // Programs run in another directory.
        let tools = std::path::absolute(&tools)
            .with_context(|| format!("finding the folder {}", tools.display()))?;
        Ok(Self { dir: tools, shared: shared.is_some() })
    }

    /// The folder of the tools called `name` at the versions in `pinned`: versions, lock files,
    /// everything that distinguishes one set from another. If it does not exist yet, `fetch` fills
    /// an empty folder, which counts only when `fetch` has succeeded. Concurrent builds wait for
    /// the first one's.
    ///
    /// # Errors
    /// The folder can't be written, or fetching fails.
    pub fn ensure(
        &self,
        name: &str,
        pinned: &str,
        steps: &Steps,
        fetch: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<PathBuf> {
        let full = format!("{name}-{}", digest(pinned));
        let dir = self.dir.join(&full);
        if is_done(&dir, pinned) {
            return Ok(dir);
        }
        let can_not = |what: &str, path: &Path| format!("can't {what} {}", path.display());
        fs::create_dir_all(&self.dir).with_context(|| can_not("make", &self.dir))?;
        let lock_file = self.dir.join(format!("{full}.lock"));
        let lock = File::create(&lock_file).with_context(|| can_not("make", &lock_file))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                steps.say(format_args!("waiting for another slotd that is fetching {name}"));
                lock.lock().with_context(|| can_not("lock", &lock_file))?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| can_not("lock", &lock_file));
            }
        }
        if is_done(&dir, pinned) {
            return Ok(dir);
        }
        // Its contents are incomplete.
        remove(&dir).with_context(|| can_not("remove", &dir))?;
        fs::create_dir(&dir).with_context(|| can_not("make", &dir))?;
        fetch(&dir)?;
        let done = dir.join(DONE);
        fs::write(&done, pinned).with_context(|| can_not("write", &done))?;
        if !self.shared {
            self.remove_others(name, &full);
        }
        Ok(dir)
    }

    /// Those of earlier versions of slotd; failing to remove one is not an error.
    fn remove_others(&self, name: &str, full: &str) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let entry_name = entry.file_name();
            let Some(rest) = entry_name.to_str().and_then(|n| n.strip_prefix(name)) else {
                continue;
            };
            let other = rest.strip_prefix('-').is_some_and(|rest| !rest.contains('-'));
            if other && !rest.ends_with(".lock") && entry_name != full {
                let _ = remove(&entry.path());
            }
        }
    }
}

/// 12 hex digits tell the versions of one tool apart.
fn digest(pinned: &str) -> String {
    Sha256::digest(pinned).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

fn is_done(dir: &Path, pinned: &str) -> bool {
    fs::read(dir.join(DONE)).is_ok_and(|done| done == pinned.as_bytes())
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Finds a program that is installed: the first of `names` in the path. An environment variable, if
/// set, overrides it.
///
/// # Errors
/// If there is none: the names, where they were searched, and `get`, the way to get one.
pub fn need(what: &str, names: &[&str], variable: &str, get: &str) -> anyhow::Result<PathBuf> {
    if let Some(program) = env::var_os(variable).filter(|program| !program.is_empty()) {
        let program = PathBuf::from(program);
        return match find(&program) {
            Some(found) => Ok(found),
            None => bail!("{what} does not exist: ${variable} is {}", program.display()),
        };
    }
    if let Some(found) = names.iter().find_map(|name| find(Path::new(name))) {
        return Ok(found);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    bail!(
        "{what} is not installed: looked for {} in {}\n  {get}\n  or set ${variable} to its path",
        names.join(", "),
        path.display()
    )
}

/// A program by its path, or by its name in the `PATH`.
pub fn find(program: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let runs = |path: &Path| {
        fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if program.components().count() > 1 {
        return Some(program.into()).filter(|program: &PathBuf| runs(program));
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|program| runs(program))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    fn tools(dir: &Path, shared: bool) -> Tools {
        Tools { dir: dir.join("tools"), shared }
    }

    /// Two concurrent builds must not install into one folder, nor fetch twice.
    #[test]
    fn parallel_builds_fetch_once() -> anyhow::Result<()> {
        let home = tempfile::tempdir()?;
        let (tools, fetched) = (tools(home.path(), true), AtomicUsize::new(0));
        let get = || {
            tools.ensure("js", "1.0", &Steps::quiet(), |dir| {
                fetched.fetch_add(1, Ordering::SeqCst);
                assert_eq!(fs::read_dir(dir)?.count(), 0);
                Ok(fs::write(dir.join("tool"), "x")?)
            })
        };
        let dirs = thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(get)).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect::<anyhow::Result<Vec<_>>>()
        })?;
        assert_eq!(fetched.load(Ordering::SeqCst), 1);
        assert!(dirs.iter().all(|dir| *dir == dirs[0] && dir.join("tool").is_file()));
        Ok(())
    }

    /// A download that broke off must not be used as a tool, nor another version.
    #[test]
    fn only_what_is_whole_and_of_the_version_counts() -> anyhow::Result<()> {
        let home = tempfile::tempdir()?;
        let (steps, tools) = (Steps::quiet(), tools(home.path(), false));
        let failed = tools.ensure("js", "1.0", &steps, |dir| {
            fs::write(dir.join("half"), "x")?;
            bail!("no network")
        });
        assert_eq!(failed.unwrap_err().to_string(), "no network");
        let first = tools.ensure("js", "1.0", &steps, |dir| {
            assert_eq!(fs::read_dir(dir)?.count(), 0, "the half is gone");
            Ok(())
        })?;
        assert_eq!(tools.ensure("js", "1.0", &steps, |_| bail!("again"))?, first);
        let other = tools.ensure("js-types", "1.0", &steps, |_| Ok(()))?;
        let second = tools.ensure("js", "1.1", &steps, |_| Ok(()))?;
        assert!(!first.exists() && second.exists() && other.exists());
        Ok(())
    }

    /// "No such file or directory" would leave the user guessing.
    #[test]
    fn what_is_missing_is_said_with_how_to_get_it() -> anyhow::Result<()> {
        let names = ["no-such-program-1", "no-such-program-2"];
        let message =
            need("npm", &names, "SLOTD_TEST_NPM", "apt install npm").unwrap_err().to_string();
        for part in ["npm is not installed", "no-such-program-1, no-such-program-2", "/bin"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(
            message.contains("apt install npm") && message.contains("$SLOTD_TEST_NPM"),
            "{message}"
        );
        assert!(need("sh", &["no-such-program-1", "sh"], "SLOTD_TEST_SH", "")?.ends_with("sh"));
        assert!(find(Path::new("/etc/passwd")).is_none(), "not every file is a program");
        Ok(())
    }
}
