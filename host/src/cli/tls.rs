//! `slotd tls`: authorities, and certificates of nodes, listeners and clients.

use super::{exit::CliError, output};
use crate::{
    files::{self, For, ReadError, replace},
    limits,
    peer::authority::{Authority, lasting_key},
    tls::{
        ClientFiles,
        authority::{Host, ListenerAuthority},
    },
};
use clap::{Args, Subcommand};
use rcgen::KeyPair;
use serde_json::json;
use std::{
    fs, io,
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

#[derive(Clone, Debug, Args)]
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
fn files_of(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")))
}

fn init(args: &Init) -> Result<Made, String> {
    let Init { dir, nodes, api, clients, renew } = args;
    if *renew && api.is_empty() && clients.is_empty() {
        return Err("--renew is for certificates of listeners and clients: say which, with the names that they have \
                    (--api NAME, --client NAME); those of nodes do not expire"
            .into());
    }
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
    let (shown, authority_key) = files_of(dir, AUTHORITY);
    let authority = match read(&authority_key)? {
        Some(pem) => Authority::from_key_pem(&pem).map_err(|e| no_key(&authority_key, &e))?,
        None => {
            let (authority, pem) = Authority::generate().map_err(unmade)?;
            write(&authority_key, &pem, For::Owner)?;
            made.push(authority_key);
            authority
        }
    };
    if !shown.exists() {
        write(&shown, &authority.certificate().pem(), For::All)?;
        made.push(shown);
    }
    for node in nodes {
        let (certificate, key) = files_of(dir, node);
        if certificate.exists() && key.exists() {
            continue;
        }
        // A crash came between the key and its certificate; or somebody has the key already.
        let own = match read(&key)? {
            Some(pem) => KeyPair::from_pem(&pem).map_err(|e| no_key(&key, &e))?,
            None => lasting_key().map_err(unmade)?,
        };
        let issued = authority.issue(Some(node), own).map_err(unmade)?;
        if !key.exists() {
            write(&key, &issued.key.serialize_pem(), For::Owner)?;
            made.push(key);
        }
        write(&certificate, &issued.certificate.pem(), For::All)?;
        made.push(certificate);
    }
    Ok(())
}

fn no_key(path: &Path, error: &rcgen::Error) -> String {
    format!("{}: not a key that can be used: {error}", path.display())
}

fn of_listeners(args: &Init, made: &mut Made) -> Result<(), String> {
    let Init { dir, api, clients, renew, .. } = args;
    let (shown, authority_key) = files_of(dir, LISTENERS);
    let (authority, certificate) = match read(&authority_key)? {
        Some(pem) => {
            ListenerAuthority::from_key_pem(&pem).map_err(|e| no_key(&authority_key, &e))?
        }
        // What is renewed was made by one, which whoever has its certificate goes on trusting.
        None if *renew => {
            return Err(format!(
                "{} is not there: there is nothing to renew. Is it the right folder?",
                authority_key.display()
            ));
        }
        None => {
            let (authority, own) = ListenerAuthority::generate().map_err(unmade)?;
            write(&authority_key, &own.key, For::Owner)?;
            made.made.push(authority_key);
            (authority, own.certificate)
        }
    };
    // Made anew after a crash: it has the same name and key, so that what was signed is good with both.
    if !shown.exists() {
        write(&shown, &certificate, For::All)?;
        made.made.push(shown.clone());
    }
    let mut wanted = Vec::new();
    if !api.is_empty() {
        wanted.push((API.to_owned(), None));
    }
    wanted.extend(clients.iter().map(|name| (format!("{CLIENT}{name}"), Some(name))));
    for (name, client) in wanted {
        let (certificate, key) = files_of(dir, &name);
        if !renew && is_whole(&shown, &certificate, &key) {
            made.kept.push(certificate);
            continue;
        }
        let pair = match client {
            Some(name) => authority.client(name),
            None => authority.server(api),
        };
        let pair = pair.map_err(unmade)?;
        write(&key, &pair.key, For::Owner)?;
        write(&certificate, &pair.certificate, For::All)?;
        made.made.extend([certificate, key]);
    }
    Ok(())
}

/// Whether a certificate and its key are there, and belong together: a crash may have come between them.
fn is_whole(authority: &Path, certificate: &Path, key: &Path) -> bool {
    let files = ClientFiles {
        authority: Some(authority.to_owned()),
        certificate: Some((certificate.to_owned(), key.to_owned())),
    };
    certificate.exists() && key.exists() && files.config().is_ok()
}

/// `None`: it is not there.
fn read(path: &Path) -> Result<Option<String>, String> {
    match files::read_text(path) {
        Ok(text) => Ok(Some(text)),
        Err(ReadError::Missing) => Ok(None),
        Err(error) => Err(format!("{} {error}", path.display())),
    }
}

/// In one step: a node may be reading it.
fn write(path: &Path, text: &str, readers: For) -> Result<(), String> {
    replace(path, text.as_bytes(), readers).map_err(failed(path))
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
    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
        crypto::ring::default_provider,
        pki_types::{CertificateDer, UnixTime, pem::PemObject as _},
    };
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

    /// A crash leaves some of the files: without `listeners.pem` clients trust nobody, and with the key of another
    /// certificate the node does not start. A second run has to make what is missing, and nothing else.
    #[test]
    fn a_run_makes_what_a_crash_before_it_left_unmade() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        let args = Init {
            nodes: vec!["n1".into()],
            api: vec![Host::parse("slotd.example.com").unwrap()],
            clients: vec!["ann".into()],
            ..nothing(dir.path())
        };
        init(&args).unwrap();
        let listener = ListenerFiles {
            certificate: file("api.pem"),
            key: file("api.key"),
            client_authority: Some(file("listeners.pem")),
        };
        let client = ClientFiles {
            authority: Some(file("listeners.pem")),
            certificate: Some((file("client-ann.pem"), file("client-ann.key"))),
        };
        let (api, other) = (fs::read(file("api.pem")).unwrap(), tempfile::tempdir().unwrap());
        init(&Init { dir: other.path().into(), ..args.clone() }).unwrap();
        let all = ["listeners.pem", "api.pem", "api.key", "client-ann.pem", "client-ann.key"];
        for lost in all.into_iter().chain(["authority.pem", "n1.pem", "n1.key"]) {
            fs::remove_file(file(lost)).unwrap();
            fs::write(file(&format!("{lost}.part")), "half of it").unwrap();
            let made = init(&args).unwrap().made;
            assert!(made.contains(&file(lost)), "{lost}: {made:?}");
            assert!(listener.check().is_ok() && client.config().is_ok(), "{lost}");
            let node = CertificateFiles {
                authority: file("authority.pem"),
                certificate: file("n1.pem"),
                key: file("n1.key"),
            };
            assert!(Identity::new("n1", b"a secret", Some(&node)).is_ok(), "{lost}");
        }
        // The key is the next one's already, and its certificate is not there yet.
        fs::copy(other.path().join("api.key"), file("api.key")).unwrap();
        assert!(listener.check().is_err());
        assert_eq!(init(&args).unwrap().made, [file("api.pem"), file("api.key")]);
        assert!(listener.check().is_ok());
        // What the authority has signed before is good with its certificate that was made anew.
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(file("listeners.pem")).unwrap()).unwrap();
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots.into(), default_provider().into());
        let api = CertificateDer::from_pem_slice(&api).unwrap();
        let now = UnixTime::now();
        let name = "slotd.example.com".try_into().unwrap();
        let verified = verifier.build().unwrap().verify_server_cert(&api, &[], &name, &[], now);
        assert!(verified.is_ok(), "{verified:?}");
    }

    /// With another authority than the one that clients have, everybody would be kept out.
    #[test]
    fn renewal_makes_no_authority() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("another");
        let renew = Init { renew: true, ..nothing(&empty) };
        assert!(init(&renew).unwrap_err().contains("say which"));
        let api = vec![Host::parse("x.example.com").unwrap()];
        let told = init(&Init { api, ..renew }).unwrap_err();
        assert!(told.contains("listeners.key is not there"), "{told}");
        assert!(!empty.exists() || fs::read_dir(&empty).unwrap().next().is_none());
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
        assert_eq!(more, [dir.path().join("node-3.key"), dir.path().join("node-3.pem")]);
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
