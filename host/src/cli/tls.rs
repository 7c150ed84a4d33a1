//! `slotd tls`: an authority for a cluster, and certificates for its nodes.

use super::{exit::CliError, output};
use crate::{
    limits,
    peer::authority::{Authority, lasting_key},
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

#[derive(Debug, Subcommand)]
pub enum TlsCmd {
    /// Make an authority, and certificates of nodes
    ///
    /// Writes `authority.pem` and `authority.key` to the folder, if they are not there, and for each
    /// node NAME its `NAME.pem` and `NAME.key`. Give a node `authority.pem` and its own two files
    /// (`cluster.tls_authority`, `cluster.tls_certificate`, `cluster.tls_key`), and keep
    /// `authority.key` where no node is: whoever has it can make nodes. Files that are there are
    /// not changed. The certificates do not expire.
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
}

/// A name that is also one of a file.
fn node_name(raw: &str) -> Result<String, String> {
    let fits = (1..=limits::NODE_NAME_BYTES_MAX).contains(&raw.len());
    let plain = raw.bytes().all(|b| b.is_ascii_graphic() && b != b'/') && !raw.starts_with('.');
    if !fits || !plain || raw == AUTHORITY {
        return Err("it must be the name of a node, and can't be `authority`".into());
    }
    Ok(raw.to_owned())
}

pub fn run(command: &TlsCmd, json: bool) -> Result<(), CliError> {
    let TlsCmd::Init(Init { dir, nodes }) = command;
    let made = init(dir, nodes).map_err(CliError::failure)?;
    if json {
        let made: Vec<_> = made.iter().map(|path| path.display().to_string()).collect();
        return output::line(&json!({ "made": made }).to_string());
    }
    for path in &made {
        output::line(&path.display().to_string())?;
    }
    Ok(())
}

/// The files that were made.
fn init(dir: &Path, nodes: &[String]) -> Result<Vec<PathBuf>, String> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |e: io::Error| format!("{path}: {e}")
    };
    let unmade = |e: rcgen::Error| format!("can't make a certificate: {e}");
    fs::create_dir_all(dir).map_err(failed(dir))?;
    let mut made = Vec::new();
    let certificate = |name: &str| dir.join(format!("{name}.pem"));
    let key = |name: &str| dir.join(format!("{name}.key"));
    let authority_key = key(AUTHORITY);
    let authority = match fs::read_to_string(&authority_key) {
        Ok(pem) => Authority::from_key_pem(&pem)
            .map_err(|e| format!("{}: not a key of an authority: {e}", authority_key.display()))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let (authority, pem) = Authority::generate().map_err(unmade)?;
            write(&authority_key, &pem, true).map_err(failed(&authority_key))?;
            made.push(authority_key);
            authority
        }
        Err(e) => return Err(failed(&authority_key)(e)),
    };
    let shown = certificate(AUTHORITY);
    if !shown.exists() {
        write(&shown, &authority.certificate().pem(), false).map_err(failed(&shown))?;
        made.push(shown);
    }
    for node in nodes {
        let (certificate, key) = (certificate(node), key(node));
        if certificate.exists() && key.exists() {
            continue;
        }
        let issued = lasting_key().and_then(|key| authority.issue(Some(node), key));
        let issued = issued.map_err(unmade)?;
        write(&key, &issued.key.serialize_pem(), true).map_err(failed(&key))?;
        write(&certificate, &issued.certificate.pem(), false).map_err(failed(&certificate))?;
        made.extend([certificate, key]);
    }
    Ok(made)
}

/// Makes a file, which must not be there.
fn write(path: &Path, text: &str, private: bool) -> io::Result<()> {
    let mode = if private { 0o600 } else { 0o644 };
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::identity::{CertificateFiles, Identity, nodes_of};
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    use std::os::unix::fs::PermissionsExt as _;

    /// Files that a node can't use would be found at its start; and a second call, for one node more,
    /// must not make the others' useless.
    #[test]
    fn what_is_made_can_be_used_and_is_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let made = init(dir.path(), &names(&["node-1", "slotd@10.0.0.7"])).unwrap();
        assert_eq!(made.len(), 6);
        let before: Vec<_> = made.iter().map(|path| fs::read(path).unwrap()).collect();
        let more = init(dir.path(), &names(&["node-1", "node-3"])).unwrap();
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
            let other = init(elsewhere.path(), &names(&["x"])).unwrap();
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
