//! The key of the tokens that nodes mint for one session.

use super::{FOLDER, file};
use crate::{files, peer::keys::ClusterKeys};
use slotd_access::MintingKey;
use std::path::Path;

const FILE: &str = "minting.key";

/// Of a cluster: from its secret, so that each node reads what another has minted. Of a lone node: a random one, made
/// at its first start. `audience` is the cluster or the data directory. Blocks on the disk.
///
/// # Errors
/// A sentence: the file can't be read, written, or is no key.
pub fn minting_key(
    secret: Option<&[u8]>,
    data_dir: &Path,
    audience: &str,
) -> Result<MintingKey, String> {
    let key = match secret {
        Some(secret) => ClusterKeys::new(secret).minting().ok_or("no key could be derived")?,
        None => kept(data_dir)?,
    };
    MintingKey::new(&key, audience).map_err(|error| error.to_string())
}

fn kept(data_dir: &Path) -> Result<[u8; 32], String> {
    let path = data_dir.join(FOLDER).join(FILE);
    let shown = path.display();
    match files::read(&path, 32) {
        Ok(bytes) => bytes.try_into().map_err(|_| format!("{shown} is not a key of 32 bytes")),
        Err(files::ReadError::Missing) => {
            let key = MintingKey::random().map_err(|error| error.to_string())?;
            file::replace(&path, &key).map_err(|error| format!("can't write {shown}: {error}"))?;
            Ok(key)
        }
        Err(error) => Err(format!("{shown} {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With another key after a restart, what pages have would be of no use; with one that was cut off, anybody could
    /// guess it.
    #[test]
    fn a_lone_node_keeps_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let first = kept(dir.path()).unwrap();
        assert_eq!(kept(dir.path()).unwrap(), first);
        std::fs::write(dir.path().join("access/minting.key"), b"short").unwrap();
        assert!(kept(dir.path()).unwrap_err().contains("not a key"));
    }
}
