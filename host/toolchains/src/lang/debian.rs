//! Debian packages, for tools that no language's own package manager has.

use crate::steps::command_line;
use std::{
    path::Path,
    process::{Command, Stdio},
};

/// The command to install packages.
pub fn commands(sudo: &str, packages: &[&str]) -> [String; 2] {
    let packages = packages.join(" ");
    [
        format!("{sudo}apt-get update"),
        format!("{sudo}apt-get install -y --no-install-recommends {packages}"),
    ]
}

/// Installs packages if this is Debian and we may; adds what was done and what failed to the lists.
pub fn install(packages: &[&str], did: &mut Vec<String>, failed: &mut Vec<String>) {
    if !Path::new("/usr/bin/apt-get").exists() {
        return failed.push("apt-get: this is not Debian".into());
    }
    let sudo = if rustix::process::geteuid().is_root() { "" } else { "sudo -n " };
    for command in commands(sudo, packages) {
        let mut words = command.split_whitespace();
        let mut apt = Command::new(words.next().unwrap_or_default());
        apt.args(words).env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut apt, did, failed);
    }
}

/// Runs a command and records it in one of the two lists.
pub fn run(command: &mut Command, did: &mut Vec<String>, failed: &mut Vec<String>) {
    let line = command_line(command);
    // stdout is for our own report.
    let ended = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    match ended {
        Ok(status) if status.success() => did.push(line),
        Ok(status) => failed.push(format!("{line} ({status})")),
        Err(error) => failed.push(format!("{line} ({error})")),
    }
}
