//! The keys that a node seals with, and `slotd seal`, which makes one.

use super::{exit::CliError, output};
use crate::{config::Config, limits, seal, seal::Keyring};
use clap::Subcommand;
use serde_json::json;
use std::{
    io::Read as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
};

#[derive(Debug, Subcommand)]
pub enum SealCmd {
    /// Make a key to seal data with
    ///
    /// Prints 32 random bytes in base64, a line of the file that `seal.key_file` names. The first line of
    /// that file is what new data is sealed with; older keys stay below it, to open what they have sealed.
    /// Without its key, data can't be read by anyone: keep a copy of it elsewhere.
    Key,
}

pub fn run(command: &SealCmd, json: bool) -> Result<(), CliError> {
    let SealCmd::Key = command;
    let key = seal::generate().map_err(CliError::failure)?;
    let id = seal::parse(&key).map_err(CliError::failure)?.ids().next().map(|id| id.to_string());
    match json {
        true => output::line(&json!({ "key": key, "id": id }).to_string()),
        false => output::line(&format!("# {}\n{key}", id.unwrap_or_default())),
    }
}

/// The keys that the configuration names; none: nothing is sealed. Blocks on the file, or the command.
///
/// # Errors
/// A sentence for the operator, without any part of a key.
pub fn keyring(config: &Config) -> Result<Keyring, String> {
    match &config.seal.key_command {
        Some(command) if config.seal.key_file.is_none() => {
            let keys = run_key_command(command).and_then(|text| seal::parse(&text));
            keys.map_err(|why| format!("seal.key_command: {why}"))
        }
        _ => keyring_of_file(config),
    }
}

/// As [`keyring`], without running a command.
///
/// # Errors
/// As [`keyring`].
pub fn keyring_of_file(config: &Config) -> Result<Keyring, String> {
    match (&config.seal.key_file, &config.seal.key_command) {
        (None, _) => Ok(Keyring::default()),
        (Some(_), Some(_)) => {
            Err("both seal.key_file and seal.key_command are set; use one of them".into())
        }
        (Some(file), None) => {
            let keys = read(file.as_ref()).and_then(|text| seal::parse(&text));
            keys.map_err(|why| format!("seal.key_file {file:?}: {why}"))
        }
    }
}

fn read(file: &Path) -> Result<String, String> {
    let file = std::fs::File::open(file).map_err(|e| e.to_string())?;
    bounded(file)
}

fn bounded(from: impl std::io::Read) -> Result<String, String> {
    let mut text = String::new();
    let read = from.take(limits::SEAL_KEYS_BYTES_MAX + 1).read_to_string(&mut text);
    match read {
        Ok(n) if n as u64 > limits::SEAL_KEYS_BYTES_MAX => Err("it is too long".into()),
        Ok(_) => Ok(text),
        // It says nothing of what was read.
        Err(e) => Err(e.to_string()),
    }
}

/// What a command prints, such as one that asks a key service.
fn run_key_command(command: &str) -> Result<String, String> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // So that what it has started ends with it.
        .process_group(0)
        .spawn()
        .map_err(|e| format!("it can't be started: {e}"))?;
    let out = child.stdout.take().ok_or("it has no output")?;
    let (done, text) = mpsc::channel();
    // It may hang: this thread waits no longer than it has to.
    let reading = crate::thread::start("seal-key", move || {
        // Nobody waits for it any more where it is late.
        let _ = done.send(bounded(out));
    });
    reading.map_err(|e| e.to_string())?;
    let Ok(text) = text.recv_timeout(limits::SEAL_COMMAND_TIMEOUT) else {
        end(&mut child);
        return Err(format!("no answer within {:?}", limits::SEAL_COMMAND_TIMEOUT));
    };
    let text = text.and_then(|text| {
        // Its output has ended, and so has it, nearly always.
        let status = child.wait().map_err(|e| e.to_string())?;
        if status.success() { Ok(text) } else { Err(format!("it ended with {status}")) }
    });
    if text.is_err() {
        end(&mut child);
    }
    text
}

/// Ends it, with all of its group.
fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SealConfig;

    fn of(key_file: Option<&str>, key_command: Option<&str>) -> Result<Keyring, String> {
        let seal = SealConfig {
            key_file: key_file.map(Into::into),
            key_command: key_command.map(Into::into),
        };
        keyring(&Config { seal, ..Config::default() })
    }

    /// A node would start without sealing, or say what a key is.
    #[test]
    fn keys_come_from_a_file_or_a_command_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        let key = seal::generate().unwrap();
        std::fs::write(&file, &key).unwrap();
        let file = file.to_str().unwrap();
        let id = |keys: Keyring| keys.ids().next().map(|id| id.to_string());
        let from_file = id(of(Some(file), None).unwrap());
        assert!(from_file.is_some() && of(None, None).unwrap().is_empty());
        assert_eq!(id(of(None, Some(&format!("cat {file}"))).unwrap()), from_file);
        for (key_file, command, why) in [
            (Some(file), Some("true"), "use one of them"),
            (Some("/no/such/file"), None, "No such file"),
            (None, Some("true"), "it has no key"),
            (None, Some("echo something"), "line 1 is no key"),
            (None, Some("cat /dev/zero"), "it is too long"),
            (None, Some(&*format!("cat {file}; exit 3")), "exit status: 3"),
        ] {
            let told = of(key_file, command).unwrap_err();
            assert!(told.contains(why) && !told.contains(&key), "{told}");
        }
    }
}
