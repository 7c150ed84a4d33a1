//! Certificates and keys in PEM files.

use crate::limits;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use std::{fs::File, io::Read as _, path::Path};

/// A file's bytes.
///
/// # Errors
/// Why they can't be read, with the file's name.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let most = limits::TLS_FILE_BYTES_MAX;
    let read = File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    let shown = path.display();
    match read {
        Ok(_) if bytes.len() as u64 > most => Err(format!("{shown} is larger than {most} bytes")),
        Ok(_) => Ok(bytes),
        Err(error) => Err(format!("{shown} can't be read: {error}")),
    }
}

/// The certificates in a file's bytes: at least one.
///
/// # Errors
/// There is none, or one that can't be read.
pub fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    match CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>() {
        Ok(all) if all.is_empty() => Err(format!("{shown} has no certificate in PEM")),
        Ok(all) => Ok(all),
        Err(e) => Err(format!("can't read certificates from {shown}: {e}")),
    }
}

/// The private key in a file's bytes.
///
/// # Errors
/// There is none.
pub fn key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(bytes)
        .map_err(|e| format!("can't read a private key from {}: {e}", path.display()))
}
