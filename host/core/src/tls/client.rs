//! Whom a client of TLS trusts, and what it shows.

use super::pem;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, ring},
};
use rustls_platform_verifier::Verifier;
use std::{path::PathBuf, sync::Arc};

/// The files of a client of TLS, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// The authorities that servers' certificates must have; `None`: the system's.
    pub authority: Option<PathBuf>,
    /// The certificate to show, and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl ClientFiles {
    /// Reads the files, and the system's authorities if they are asked for: not for a thread that
    /// serves.
    ///
    /// # Errors
    /// Why they can't be used.
    pub fn config(&self) -> Result<ClientConfig, String> {
        let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let config = match &self.authority {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in pem::certificates(path, &pem::read(path)?)? {
                    roots.add(authority).map_err(|e| format!("{}: {e}", path.display()))?;
                }
                config.with_root_certificates(roots)
            }
            None => {
                let verifier = Verifier::new(provider)
                    .map_err(|e| format!("the system's certificate authorities: {e}"))?;
                // It checks as the usual one does.
                config.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let Some((certificate, key)) = &self.certificate else {
            return Ok(config.with_no_client_auth());
        };
        let chain = pem::certificates(certificate, &pem::read(certificate)?)?;
        let private = pem::key(key, &pem::read(key)?)?;
        config.with_client_auth_cert(chain, private).map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => format!(
                "the key in {} is not that of the certificate in {}",
                key.display(),
                certificate.display()
            ),
            e => format!("{}: {e}", certificate.display()),
        })
    }
}
