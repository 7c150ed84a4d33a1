//! Detects changes of a plugin's sources, by content, not by timestamps.
//!
//! It polls each file's content instead of waiting for the system's notifications: that works on
//! every mount, needs no watch per folder, and handles editors that write a copy and rename it,
//! checkouts, and saves that change nothing. A plugin has few sources; with many, it polls less
//! often.

use slotd_toolchains::is_source;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};
use tokio::time::sleep;
use xxhash_rust::xxh3::xxh3_64;

/// Minimum interval between scans: less than a person notices.
const LOOK: Duration = Duration::from_millis(100);
/// Interval as a multiple of a scan's duration: a folder of many files costs 4% of a CPU.
const LOOK_SHARE: u32 = 25;
/// Maximum interval: a single slow scan (a laptop that slept, a busy disk) must not hide a save for
/// many times its duration.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// Editors and checkouts write several files at once: how long the files must stay unchanged.
const QUIET: Duration = Duration::from_millis(50);
/// If they never stay unchanged, the change counts after this time.
const QUIET_MAX: Duration = Duration::from_secs(1);
/// Maximum number of files: a folder with more contains more than a plugin, and is watched
/// partially.
pub const FILES_MAX: usize = 10_000;
/// Larger files are compared by length and time.
const HASHED_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Maximum depth of folders.
const DEPTH_MAX: usize = 32;

/// A plugin's sources, to detect changes.
pub struct Watch {
    roots: Vec<PathBuf>,
    /// Their state when the last build began.
    seen: Files,
}

/// Every file with a fingerprint of its content, and their folders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Files {
    files: BTreeMap<PathBuf, u64>,
    /// Against link cycles.
    folders: BTreeSet<PathBuf>,
}

impl Watch {
    /// Watches files, and folders with everything in them that [`is_source`] accepts.
    pub fn begin(roots: Vec<PathBuf>) -> Self {
        Self { seen: Files::under(&roots), roots }
    }

    /// Replaces the roots. New files count as seen; a change to a watched file does not.
    pub fn set_roots(&mut self, roots: Vec<PathBuf>) {
        if roots == self.roots {
            return;
        }
        let added: Vec<_> = roots.iter().filter(|r| !self.roots.contains(r)).cloned().collect();
        self.seen.files.retain(|file, _| roots.iter().any(|root| file.starts_with(root)));
        for (file, print) in Files::under(&added).files {
            self.seen.files.entry(file).or_insert(print);
        }
        self.roots = roots;
    }

    /// How many files are watched.
    pub fn files(&self) -> usize {
        self.seen.files.len()
    }

    /// Waits until something differs from the last seen state, and returns it, sorted.
    pub async fn changed(&mut self) -> Vec<PathBuf> {
        loop {
            let (mut now, took) = self.look().await;
            if !now.differing(&self.seen).is_empty() {
                let until = crate::clock::timer_now() + QUIET_MAX;
                loop {
                    sleep(QUIET).await;
                    let before = std::mem::replace(&mut now, self.look().await.0);
                    if now == before || crate::clock::timer_now() > until {
                        break;
                    }
                }
                let changed = now.differing(&self.seen);
                self.seen = now;
                // A change that was reverted meanwhile is not a change.
                if !changed.is_empty() {
                    return changed;
                }
            }
            sleep(pause_after(took)).await;
        }
    }

    /// Scans the current state, and measures how long that took.
    async fn look(&self) -> (Files, Duration) {
        let (roots, began) = (self.roots.clone(), crate::clock::timer_now());
        let found = crate::task::blocking(move || Files::under(&roots)).await;
        // It does not run only if the process is ending.
        (found.unwrap_or_else(|_| self.seen.clone()), began.elapsed())
    }
}

/// How long to wait after a scan of this duration.
fn pause_after(took: Duration) -> Duration {
    took.saturating_mul(LOOK_SHARE).clamp(LOOK, LOOK_MAX)
}

impl Files {
    fn under(roots: &[PathBuf]) -> Self {
        let mut files = Self::default();
        for root in roots {
            // Missing is a state too: of a removed file.
            let _ = match root.is_dir() {
                true => files.folder(root, 0),
                false => files.file(root.clone()),
            };
        }
        files
    }

    fn folder(&mut self, folder: &Path, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX || !self.folders.insert(folder.into()) {
            return Ok(());
        }
        for entry in fs::read_dir(folder)?.flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            // For a link, its target counts.
            let Ok(about) = fs::metadata(&path) else { continue };
            if self.files.len() >= FILES_MAX || !is_source(&name.to_string_lossy(), about.is_dir())
            {
                continue;
            }
            let _ = match about.is_dir() {
                true => self.folder(&path, depth + 1),
                false => self.file(path),
            };
        }
        Ok(())
    }

    fn file(&mut self, path: PathBuf) -> io::Result<()> {
        let about = fs::metadata(&path)?;
        if !about.is_file() {
            return Ok(());
        }
        let print = if about.len() <= HASHED_BYTES_MAX {
            xxh3_64(&fs::read(&path)?)
        } else {
            let time = about.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            xxh3_64(format!("{} {}", about.len(), time.as_nanos()).as_bytes())
        };
        self.files.insert(path, print);
        Ok(())
    }

    fn differing(&self, other: &Self) -> Vec<PathBuf> {
        let paths: BTreeSet<_> = self.files.keys().chain(other.files.keys()).collect();
        let differs = |path: &&&PathBuf| self.files.get(**path) != other.files.get(**path);
        paths.iter().filter(differs).map(|path| (*path).clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    async fn next(watch: &mut Watch) -> anyhow::Result<Vec<String>> {
        let changed = tokio::time::timeout(SOON, watch.changed()).await?;
        let name = |path: &PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
        Ok(changed.iter().filter_map(name).collect())
    }

    /// A single scan of a minute made the watch miss saves for 25 minutes.
    #[test]
    fn one_slow_look_does_not_make_it_deaf() {
        assert_eq!(pause_after(Duration::ZERO), LOOK);
        assert_eq!(pause_after(Duration::from_millis(10)), Duration::from_millis(250));
        for slow in [Duration::from_secs(60), Duration::MAX] {
            assert_eq!(pause_after(slow), LOOK_MAX);
        }
    }

    /// How editors save: write in place, write a copy and rename it, remove and recreate. A missed
    /// save means that a user waits for a build that never starts.
    #[tokio::test]
    async fn every_way_of_saving_is_seen() -> anyhow::Result<()> {
        let home = tempfile::tempdir()?;
        let (src, file) = (home.path().join("src"), home.path().join("src/handler.py"));
        fs::create_dir(&src)?;
        fs::write(&file, "1")?;
        let mut watch = Watch::begin(vec![home.path().into()]);
        assert_eq!(watch.files(), 1);

        fs::write(&file, "2")?;
        assert_eq!(next(&mut watch).await?, ["handler.py"]);
        fs::write(src.join(".handler.py.new"), "3")?;
        fs::rename(src.join(".handler.py.new"), &file)?;
        assert_eq!(next(&mut watch).await?, ["handler.py"]);
        fs::rename(&file, src.join("handler.py~"))?;
        fs::write(&file, "4")?;
        assert_eq!(next(&mut watch).await?, ["handler.py"]);
        // After each of these the watch must still follow the current files.
        fs::write(&file, "5")?;
        assert_eq!(next(&mut watch).await?, ["handler.py"]);
        fs::remove_file(&file)?;
        assert_eq!(next(&mut watch).await?, ["handler.py"]);
        Ok(())
    }

    /// Folders appear and disappear while `dev` runs, most often by `git checkout`.
    #[tokio::test]
    async fn new_folders_are_watched() -> anyhow::Result<()> {
        let home = tempfile::tempdir()?;
        let mut watch = Watch::begin(vec![home.path().into()]);
        for _ in 0..2 {
            let deep = home.path().join("src/deep");
            fs::create_dir_all(&deep)?;
            fs::write(deep.join("a.rs"), "1")?;
            assert_eq!(next(&mut watch).await?, ["a.rs"]);
            fs::write(deep.join("b.rs"), "1")?;
            assert_eq!(next(&mut watch).await?, ["b.rs"]);
            fs::remove_dir_all(home.path().join("src"))?;
            assert_eq!(next(&mut watch).await?, ["a.rs", "b.rs"]);
        }
        Ok(())
    }

    /// A path dependency added by one save must not hide the next save, which came during the
    /// build.
    #[tokio::test]
    async fn new_roots_hide_no_change() -> anyhow::Result<()> {
        let home = tempfile::tempdir()?;
        let (own, other) = (home.path().join("own"), home.path().join("other"));
        for dir in [&own, &other] {
            fs::create_dir(dir)?;
            fs::write(dir.join("lib.rs"), "1")?;
        }
        let mut watch = Watch::begin(vec![own.clone()]);
        fs::write(own.join("lib.rs"), "2")?;
        watch.set_roots(vec![own.clone(), other.clone()]);
        assert_eq!(tokio::time::timeout(SOON, watch.changed()).await?, [own.join("lib.rs")]);
        fs::write(other.join("lib.rs"), "2")?;
        assert_eq!(tokio::time::timeout(SOON, watch.changed()).await?, [other.join("lib.rs")]);
        watch.set_roots(vec![own]);
        assert_eq!(watch.look().await.0.differing(&watch.seen), Vec::<PathBuf>::new());
        Ok(())
    }

    /// A build triggered by the build's own output, or by a touch, would repeat forever.
    #[tokio::test]
    async fn what_is_the_same_or_no_source_is_no_change() -> anyhow::Result<()> {
        let home = tempfile::tempdir()?;
        fs::write(home.path().join("a.rs"), "1")?;
        let mut watch = Watch::begin(vec![home.path().into()]);
        fs::create_dir(home.path().join("target"))?;
        fs::write(home.path().join("target/b.rs"), "1")?;
        fs::write(home.path().join("poll-0.1.0.wasm"), "1")?;
        fs::write(home.path().join("a.rs"), "1")?;
        assert_eq!(watch.look().await.0, watch.seen);
        fs::write(home.path().join("c.rs"), "1")?;
        assert_eq!(next(&mut watch).await?, ["c.rs"]);
        Ok(())
    }
}
