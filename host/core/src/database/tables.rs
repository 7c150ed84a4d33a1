//! Checks fjall's tables and manifests before fjall opens them.
//!
//! lsm-tree keeps a checksum of each manifest and of each table file but compares neither when it
//! opens (a block's own checksum is compared when it is read). A damaged manifest could make it
//! delete tables that it no longer sees as its own, so both are compared here first.

use super::OpenError;
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// A table file and what its bytes must hash to.
#[derive(Clone, Debug)]
pub struct TableFile {
    pub path: PathBuf,
    pub bytes: u64,
    checksum: u128,
}

/// Checks the manifests of keyspaces `0..=last_keyspace` and lists their tables.
pub fn check_manifests(db: &Path, last_keyspace: u64) -> Result<Vec<TableFile>, OpenError> {
    let marker = db.join("version");
    if fs::read(&marker).map_err(|e| OpenError::io(&marker, e))? != b"FJL\x03" {
        return Err(OpenError::corrupt(&marker, "not the version of the store that slotd uses"));
    }
    let mut tables = Vec::new();
    for keyspace in 0..=last_keyspace {
        list_tables(&db.join("keyspaces").join(keyspace.to_string()), &mut tables)?;
    }
    Ok(tables)
}

/// Appends the tables of one keyspace's folder.
pub fn list_tables(folder: &Path, tables: &mut Vec<TableFile>) -> Result<(), OpenError> {
    let current = folder.join("current");
    let bytes = fs::read(&current).map_err(|e| OpenError::io(&current, e))?;
    let Ok::<[u8; 25], _>(bytes) = bytes.try_into() else {
        return Err(OpenError::corrupt(&current, "not 25 bytes long"));
    };
    let mut reader = &bytes[..];
    let version = u64::from_le_bytes(array(&mut reader).map_err(|e| OpenError::io(&current, e))?);
    let checksum = u128::from_le_bytes(array(&mut reader).map_err(|e| OpenError::io(&current, e))?);
    let manifest = folder.join(format!("v{version}"));
    let content = match fs::read(&manifest) {
        Ok(content) => content,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::corrupt(
                &current,
                format!("it names {manifest:?}, which is not there"),
            ));
        }
        Err(e) => return Err(OpenError::io(&manifest, e)),
    };
    if bytes[24] != 0 || xxh3_128(&content) != checksum {
        let why = format!("its checksum is not the one in {}", current.display());
        return Err(OpenError::corrupt(&manifest, why));
    }
    let mut parse = || -> io::Result<()> {
        let archive = sfa::Reader::new(&manifest).map_err(io::Error::other)?;
        let section = archive.toc().section(b"tables");
        let section = section.ok_or_else(|| io::Error::other("it lists no tables"))?;
        let start = section.pos() as usize;
        let mut reader = content.get(start..).unwrap_or_default();
        for _ in 0..array::<1>(&mut reader)?[0] {
            for _ in 0..array::<1>(&mut reader)?[0] {
                for _ in 0..u32::from_le_bytes(array(&mut reader)?) {
                    let id = u64::from_le_bytes(array(&mut reader)?);
                    let _kind = array::<1>(&mut reader)?;
                    let checksum = u128::from_le_bytes(array(&mut reader)?);
                    let _seqno = array::<8>(&mut reader)?;
                    let path = folder.join("tables").join(id.to_string());
                    let bytes = path.metadata().map(|m| m.len());
                    let bytes = bytes.map_err(|e| io::Error::other(format!("table {id}: {e}")))?;
                    tables.push(TableFile { path, bytes, checksum });
                }
            }
        }
        Ok(())
    };
    parse().map_err(|e| OpenError::corrupt(&manifest, e.to_string()))
}

impl TableFile {
    /// Reads the whole file and compares its checksum. A file that is gone was compacted away.
    pub fn check(&self) -> Result<(), OpenError> {
        let run = || -> io::Result<u128> {
            let mut file = fs::File::open(&self.path)?;
            let mut hasher = Xxh3::new();
            let mut buffer = vec![0; 256 * 1024];
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(hasher.digest128()),
                    n => hasher.update(&buffer[..n]),
                }
            }
        };
        match run() {
            Ok(checksum) if checksum == self.checksum => Ok(()),
            Ok(_) => Err(OpenError::corrupt(&self.path, "its checksum is wrong")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(OpenError::io(&self.path, e)),
        }
    }
}

fn array<const N: usize>(reader: &mut &[u8]) -> io::Result<[u8; N]> {
    let mut out = [0; N];
    reader.read_exact(&mut out)?;
    Ok(out)
}
