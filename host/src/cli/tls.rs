//! `slotd tls`: authorities, and certificates of nodes, listeners and clients.

use super::{exit::CliError, output};
use crate::{
    limits,
    peer::authority::{Authority, lasting_key},
    tls::authority::{Host, ListenerAuthority},
};
use clap::{Args, Subcommand};
use serde_json::json;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

const AUTHORITY: &str = "authority";
const LISTENERS: &str = "listeners";
const API: &str = "api";
/// Begins the files of a client's certificate.
const CLIENT: &str = "client-";

#[derive(Debug, Subcommand)]
pub enum TlsCmd {
    /// Make authorities, and certificates of nodes, listeners and clients
    ///
    /// With --node it writes `authority.pem` and `authority.key` to the folder, if they are not there, and
    /// for each node NAME its `NAME.pem` and `NAME.key`. Give a node `authority.pem` and its own two
    /// files (`cluster.tls_authority`, `cluster.tls_certificate`, `cluster.tls_key`), and keep
    /// `authority.key` where no node is: whoever has it can make nodes. These do not expire.
    ///
    /// With --api it writes `api.pem` and `api.key`, for `api.tls_certificate` and `api.tls_key` (and
    /// `admin.tls_certificate` and `admin.tls_key`, if the names are the same), and with --client
    /// `client-NAME.pem` and `client-NAME.key`, for an operator's `--cert` and `--key`. Both are of an
    /// authority of their own, `listeners.pem` and `listeners.key`: clients get `listeners.pem` (`--ca`),
    /// and nodes have it as `admin.tls_client_authority`. These certificates expire after 397 days, since
    /// browsers take none of more than 398; --renew makes them anew.
    ///
    /// Files that are there are not changed otherwise.
    Init(Init),
}

#[derive(Debug, Args)]
pub struct Init {
    /// The folder
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// A node of this name; may be repeated
    #[arg(long = "node", value_name = "NAME", value_parser = node_name)]
    pub nodes: Vec<String>,
    /// A DNS name or IP address that clients reach the listeners by; may be repeated
    #[arg(long = "api", value_name = "NAME_OR_IP", value_parser = Host::parse)]
    pub api: Vec<Host>,
    /// A client of this name; may be repeated
    #[arg(long = "client", value_name = "NAME", value_parser = client_name)]
    pub clients: Vec<String>,
    /// Replace the listeners' and clients' certificates that are there
    #[arg(long)]
    pub renew: bool,
}

/// A name that is also one of a file.
fn node_name(raw: &str) -> Result<String, String> {
    let fits = (1..=limits::NODE_NAME_BYTES_MAX).contains(&raw.len());
    let plain = raw.bytes().all(|b| b.is_ascii_graphic() && b != b'/') && !raw.starts_with('.');
    let taken = [AUTHORITY, LISTENERS, API].contains(&raw) || raw.starts_with(CLIENT);
    if !fits || !plain || taken {
        return Err("it must be the name of a node, and can't be `authority`, `listeners`, `api` \
                    or `client-...`"
            .into());
    }
    Ok(raw.to_owned())
}

fn client_name(raw: &str) -> Result<String, String> {
    let fits = (1..=limits::CLIENT_NAME_BYTES_MAX).contains(&raw.len());
    match fits && raw.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
        true => Ok(raw.to_owned()),
        false => Err(format!(
            "it must have 1 to {} printable ASCII characters, and no spaces and no /",
            limits::CLIENT_NAME_BYTES_MAX
        )),
    }
}

pub fn run(command: &TlsCmd, json: bool) -> Result<(), CliError> {
    let TlsCmd::Init(args) = command;
    let Made { made, kept } = init(args).map_err(CliError::failure)?;
    let shown = |paths: &[PathBuf]| -> Vec<_> {
        paths.iter().map(|path| path.display().to_string()).collect()
    };
    if json {
        return output::line(&json!({ "made": shown(&made), "kept": shown(&kept) }).to_string());
    }
    for path in shown(&made) {
        output::line(&path)?;
    }
    for path in shown(&kept) {
        output::complain(&format!("{path} is there already; --renew makes it anew"));
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Made {
    made: Vec<PathBuf>,
    /// Certificates that expire, and were asked for, and were there.
    kept: Vec<PathBuf>,
}

fn failed(path: &Path) -> impl Fn(io::Error) -> String + use<> {
    let path = path.display().to_string();
    move |e| format!("{path}: {e}")
}

fn unmade(e: rcgen::Error) -> String {
    format!("can't make a certificate: {e}")
}

/// The files of a name.
fn files(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")))
}

fn init(args: &Init) -> Result<Made, String> {
    let Init { dir, nodes, api, clients, .. } = args;
    fs::create_dir_all(dir).map_err(failed(dir))?;
    let mut made = Made::default();
    // As it was before there were listeners' certificates.
    if !nodes.is_empty() || (api.is_empty() && clients.is_empty()) {
        of_nodes(dir, nodes, &mut made.made)?;
    }
    if !api.is_empty() || !clients.is_empty() {
        of_listeners(args, &mut made)?;
    }
    Ok(made)
}

fn of_nodes(dir: &Path, nodes: &[String], made: &mut Vec<PathBuf>) -> Result<(), String> {
    let (shown, authority_key) = files(dir, AUTHORITY);
    let authority = match fs::read_to_string(&authority_key) {
        Ok(pem) => Authority::from_key_pem(&pem).map_err(|e| no_key(&authority_key, &e))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let (authority, pem) = Authority::generate().map_err(unmade)?;
            write(&authority_key, &pem, true).map_err(failed(&authority_key))?;
            made.push(authority_key);
            authority
        }
        Err(e) => return Err(failed(&authority_key)(e)),
    };
    if !shown.exists() {
        write(&shown, &authority.certificate().pem(), false).map_err(failed(&shown))?;
        made.push(shown);
    }
    for node in nodes {
        let (certificate, key) = files(dir, node);
        if certificate.exists() && key.exists() {
            continue;
        }
        let issued = lasting_key().and_then(|key| authority.issue(Some(node), key));
        let issued = issued.map_err(unmade)?;
        write(&key, &issued.key.serialize_pem(), true).map_err(failed(&key))?;
        write(&certificate, &issued.certificate.pem(), false).map_err(failed(&certificate))?;
        made.extend([certificate, key]);
    }
    Ok(())
}

fn no_key(path: &Path, error: &rcgen::Error) -> String {
    format!("{}: not a key of an authority: {error}", path.display())
}

fn of_listeners(args: &Init, made: &mut Made) -> Result<(), String> {
    let Init { dir, api, clients, renew, .. } = args;
    let (shown, authority_key) = files(dir, LISTENERS);
    let authority = match fs::read_to_string(&authority_key) {
        Ok(pem) => ListenerAuthority::from_key_pem(&pem).map_err(|e| no_key(&authority_key, &e))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let (authority, own) = ListenerAuthority::generate().map_err(unmade)?;
            write(&authority_key, &own.key, true).map_err(failed(&authority_key))?;
            write(&shown, &own.certificate, false).map_err(failed(&shown))?;
            made.made.extend([shown, authority_key]);
            authority
        }
        Err(e) => return Err(failed(&authority_key)(e)),
    };
    let mut wanted = Vec::new();
    if !api.is_empty() {
        wanted.push((API.to_owned(), None));
    }
    wanted.extend(clients.iter().map(|name| (format!("{CLIENT}{name}"), Some(name))));
    for (name, client) in wanted {
        let (certificate, key) = files(dir, &name);
        if certificate.exists() && key.exists() && !renew {
            made.kept.push(certificate);
            continue;
        }
        let pair = match client {
            Some(name) => authority.client(name),
            None => authority.server(api),
        };
        let pair = pair.map_err(unmade)?;
        replace(&key, &pair.key, true).map_err(failed(&key))?;
        replace(&certificate, &pair.certificate, false).map_err(failed(&certificate))?;
        made.made.extend([certificate, key]);
    }
    Ok(())
}

/// Makes a file, or replaces it in one step: a node may be reading it.
fn replace(path: &Path, text: &str, private: bool) -> io::Result<()> {
    let part = path.with_added_extension("part");
    match fs::remove_file(&part) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    write(&part, text, private)?;
    fs::rename(&part, path)
}

/// Makes a file, which must not be there.
pub(super) fn write(path: &Path, text: &str, private: bool) -> io::Result<()> {
    let mode = if private { 0o600 } else { 0o644 };
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        peer::identity::{CertificateFiles, Identity, nodes_of},
        tls::{
            ListenerFiles,
            certificate::{self, Validity},
        },
    };
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    use std::os::unix::fs::PermissionsExt as _;

    fn nothing(dir: &Path) -> Init {
        let (nodes, api, clients) = Default::default();
        Init { dir: dir.into(), nodes, api, clients, renew: false }
    }

    /// Who is trusted as a client, or serves clients, must not be able to be a node, nor a listener
    /// be a client.
    #[test]
    fn certificates_are_good_for_one_thing_alone() {
        let dir = tempfile::tempdir().unwrap();
        let host = |raw: &str| Host::parse(raw).unwrap();
        let args = Init {
            nodes: vec!["n1".into()],
            api: vec![host("slotd.example.com"), host("10.0.0.7"), host("::1")],
            clients: vec!["ann@example.com".into()],
            ..nothing(dir.path())
        };
        let made = init(&args).unwrap();
        assert_eq!(made.made.len(), 10);
        let file = |name: &str| dir.path().join(name);
        for key in ["api.key", "client-ann@example.com.key", "listeners.key"] {
            assert_eq!(fs::metadata(file(key)).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let pem = |name: &str| CertificateDer::from_pem_file(file(name)).unwrap();
        let (api, client) = (pem("api.pem"), pem("client-ann@example.com.pem"));
        assert_eq!(certificate::name(&client).as_deref(), Some("ann@example.com"));
        for other in [&api, &client] {
            assert!(nodes_of(other).unwrap_err().contains("not a node's"));
        }
        // Not even where the two authorities were the same would a client's be a node's.
        for (certificate, key) in
            [("client-ann@example.com", "client-ann@example.com"), ("api", "api")]
        {
            let files = CertificateFiles {
                authority: file("listeners.pem"),
                certificate: file(&format!("{certificate}.pem")),
                key: file(&format!("{key}.key")),
            };
            let told = Identity::new("n1", b"a secret", Some(&files)).err().unwrap();
            assert!(told.contains("not a node's"), "{told}");
        }
        let validity = Validity::of(std::slice::from_ref(&api)).unwrap();
        let days = (validity.until - validity.from) / 86_400;
        assert_eq!(days, 398, "what browsers take");
        let listener = ListenerFiles {
            certificate: file("api.pem"),
            key: file("api.key"),
            client_authority: Some(file("listeners.pem")),
        };
        assert!(listener.check().is_ok());
        let other = ListenerFiles { key: file("n1.key"), ..listener.clone() };
        assert!(other.check().unwrap_err().contains("is not that of the certificate"));

        // Kept until they are to be renewed, and then of the same authority.
        let authority = fs::read(file("listeners.pem")).unwrap();
        let again = Init { nodes: vec![], ..args };
        let second = init(&again).unwrap();
        assert_eq!((second.made.len(), second.kept.len()), (0, 2));
        let third = init(&Init { renew: true, ..again }).unwrap();
        assert_eq!((third.made.len(), third.kept.len()), (4, 0));
        assert!(pem("api.pem") != api && listener.check().is_ok());
        assert_eq!(fs::read(file("listeners.pem")).unwrap(), authority);
        for bad in ["https://x", "x:7070", "", "a b"] {
            assert!(Host::parse(bad).is_err(), "{bad}");
        }
        assert!(client_name("a/b").is_err() && client_name("").is_err());
        assert!(node_name("api").is_err() && node_name("client-x").is_err());
    }

    /// Files that a node can't use would be found at its start; and a second call, for one node more,
    /// must not make the others' useless.
    #[test]
    fn what_is_made_can_be_used_and_is_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let init = |dir: &Path, names: &[&str]| {
            let nodes = names.iter().map(|name| (*name).to_owned()).collect();
            super::init(&Init { nodes, ..nothing(dir) }).map(|made| made.made)
        };
        let made = init(dir.path(), &["node-1", "slotd@10.0.0.7"]).unwrap();
        assert_eq!(made.len(), 6);
        let before: Vec<_> = made.iter().map(|path| fs::read(path).unwrap()).collect();
        let more = init(dir.path(), &["node-1", "node-3"]).unwrap();
        assert_eq!(more, [dir.path().join("node-3.pem"), dir.path().join("node-3.key")]);
        assert_eq!(before, made.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>());
        for node in ["node-1", "slotd@10.0.0.7", "node-3"] {
            let certificate = dir.path().join(format!("{node}.pem"));
            let key = dir.path().join(format!("{node}.key"));
            assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
            let first = CertificateDer::from_pem_file(&certificate).unwrap();
            assert_eq!(nodes_of(&first).unwrap(), [node]);
            let authority = dir.path().join("authority.pem");
            let files = CertificateFiles { authority, certificate, key };
            assert!(Identity::new(node, b"a secret", Some(&files)).is_ok());
            // Peers would refuse each link of it.
            let told = Identity::new("another", b"a secret", Some(&files)).err().unwrap();
            assert!(told.contains(&format!("is of node {node}, and this is another")), "{told}");
            let elsewhere = tempfile::tempdir().unwrap();
            let other = init(elsewhere.path(), &["x"]).unwrap();
            let files = CertificateFiles { authority: other[1].clone(), ..files };
            let told = Identity::new(node, b"a secret", Some(&files)).err().unwrap();
            assert!(told.contains("won't accept the certificate"), "{told}");
        }
        // A mistake is named.
        let (authority, key) = (dir.path().join("authority.pem"), dir.path().join("node-1.key"));
        let files = CertificateFiles { certificate: authority.clone(), authority, key };
        let told = Identity::new("node-1", b"a secret", Some(&files)).err().unwrap();
        assert!(told.contains("authority.pem: the certificate"), "{told}");
        assert!(node_name("../x").is_err() && node_name("authority").is_err());
        assert!(node_name("slotd@10.0.0.7").is_ok());
    }
}
