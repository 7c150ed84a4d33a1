//! The keys that a node seals with, and `slotd seal`, which makes one.

use super::{
    args::AdminOnly,
    exit::CliError,
    output::{self, Table, harmless, list, text},
};
use crate::{config::Config, limits, seal, seal::Keyring};
use clap::Subcommand;
use serde_json::{Value, json};
use std::{
    io::{Read as _, Write as _},
    os::unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
};

#[derive(Debug, Subcommand)]
pub enum SealCmd {
    /// Make a key to seal data with
    ///
    /// Prints 32 random bytes in base64, a line of the file that `seal.key_file` names. The first line of
    /// that file is what new data is sealed with; older keys stay below it, to open what they have sealed, until
    /// `slotd seal status` says that nothing needs them. Without its key, data can't be read by anyone: keep a copy of
    /// it elsewhere.
    Key {
        /// Write the key to this file, which only its owner can read and which must not exist, and print its id
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show how data is sealed, and what still needs which key
    ///
    /// A key that was in use, and that nothing needs any more, can be deleted. With `--json` the answer of the admin API.
    Status(AdminOnly),
}

pub async fn run(command: SealCmd, json: bool) -> Result<(), CliError> {
    match command {
        SealCmd::Key { out } => make_key(out.as_deref(), json),
        SealCmd::Status(args) => status(args, json).await,
    }
}

fn make_key(out: Option<&Path>, json: bool) -> Result<(), CliError> {
    let key = seal::generate().map_err(CliError::failure)?;
    let id = seal::parse(&key).map_err(CliError::failure)?.ids().next().map(|id| id.to_string());
    let id = id.unwrap_or_default();
    let text = format!("# {id}\n{key}");
    let Some(file) = out else {
        return match json {
            true => output::line(&json!({ "key": key, "id": id }).to_string()),
            false => output::line(&text),
        };
    };
    write_new(file, &format!("{text}\n"))
        .map_err(|e| CliError::failure(format!("can't make {}: {e}", file.display())))?;
    match json {
        true => output::line(&json!({ "file": file, "id": id }).to_string()),
        false => output::line(&format!("key {id} is in {}", file.display())),
    }
}

/// Never in the place of another one.
fn write_new(file: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut made = options.write(true).create_new(true).mode(0o600).open(file)?;
    made.write_all(text.as_bytes()).and_then(|()| made.sync_all()).inspect_err(|_| {
        // Half a key is none.
        let _ = std::fs::remove_file(file);
    })
}

async fn status(args: AdminOnly, json: bool) -> Result<(), CliError> {
    let answer = args.admin.client()?.get("/admin/v1/seal").await?.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    let mut table = Table::new(&["KEY", "HERE", "NEEDED BY"]);
    for key in list(&answer, "keys") {
        let here = match (&key["held"], &key["seals"]) {
            (_, seals) if seals == true => "seals",
            (held, _) if held == true => "opens",
            _ => "missing",
        };
        let by: Vec<_> = list(key, "needed_by").iter().filter_map(Value::as_str).collect();
        let by = match by.is_empty() {
            true => "nothing".to_owned(),
            false => by.join(", "),
        };
        table.row([text(key, "id"), here.into(), harmless(&by, false)]);
    }
    output::print(&table.render())?;
    notes(&answer).iter().for_each(|note| output::complain(note));
    Ok(())
}

/// What the table does not show.
fn notes(answer: &Value) -> Vec<String> {
    let mut notes =
        vec![format!("new data on {} is {}", text(answer, "node"), kept(&text(answer, "kept_as")))];
    let directory = &answer["directory"];
    if directory["done"] != true {
        let doing = text(directory, "doing");
        let doing = if doing.is_empty() { "not begun".to_owned() } else { doing };
        notes.push(format!(
            "its data directory is being sealed anew: {doing}; {} rows looked at, {} written",
            text(directory, "looked_at"),
            text(directory, "rewritten")
        ));
    }
    let cluster = &answer["cluster"];
    if cluster.is_object() && cluster["done"] != true {
        let waits = list(cluster, "waits_for");
        let waits: Vec<_> = waits.iter().filter_map(Value::as_str).collect();
        notes.push(match waits.is_empty() {
            true => format!(
                "the cluster's logs and snapshots are being kept anew: {} of {} slots are {}",
                text(cluster, "slots_done"),
                text(cluster, "slots"),
                kept(&text(cluster, "kept_as"))
            ),
            false => harmless(
                &format!(
                    "the cluster's logs and snapshots are not sealed anew yet: some nodes do not seal with {}: {}",
                    text(cluster, "kept_as"),
                    waits.join(", ")
                ),
                false,
            ),
        });
    }
    notes
}

fn kept(as_: &str) -> String {
    match as_ {
        seal::CLEAR => "in clear text".into(),
        id => format!("sealed with {id}"),
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

    /// A second key in the place of the first would be the end of what that has sealed; and others would read it.
    #[test]
    fn a_key_is_written_to_a_new_file_that_only_its_owner_can_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        make_key(Some(&file), true).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let made = std::fs::read_to_string(&file).unwrap();
        assert!(of(Some(file.to_str().unwrap()), None).unwrap().sealing().is_some());
        let refused = make_key(Some(&file), true).unwrap_err();
        assert!(refused.message.contains("exists"), "{}", refused.message);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), made);
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
