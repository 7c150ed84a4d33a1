//! Certificates of listeners, made by `slotd tls init`, and clients that trust them.

use crate::node::run_slotd;
use anyhow::{Context, ensure};
use slotd_core::tls::ClientFiles;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::TempDir;
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

/// The name that the certificates are for.
pub const HOST: &str = "localhost";

/// A folder of `slotd tls init`: `listeners.pem`, `api.pem`, `api.key`.
pub struct Certificates(TempDir);

impl Certificates {
    /// Makes them, and a certificate of each client.
    ///
    /// # Errors
    /// When `slotd tls init` fails.
    pub async fn make(clients: &[&str]) -> anyhow::Result<Self> {
        let this = Self(tempfile::Builder::new().prefix("slotd-tls-").tempdir()?);
        let clients = clients.iter().flat_map(|name| ["--client", name]);
        this.init(&clients.collect::<Vec<_>>()).await?;
        Ok(this)
    }

    async fn init(&self, more: &[&str]) -> anyhow::Result<()> {
        let dir = self.0.path().to_string_lossy();
        let args = ["tls", "init", &*dir, "--api", HOST];
        let made = run_slotd(&[&args[..], more].concat()).await?;
        ensure!(made.status.success(), "{made:?}");
        Ok(())
    }

    /// Replaces the listeners' certificate.
    ///
    /// # Errors
    /// When `slotd tls init` fails.
    pub async fn renew(&self) -> anyhow::Result<()> {
        self.init(&["--renew"]).await
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }
    pub fn authority(&self) -> PathBuf {
        self.path("listeners.pem")
    }

    /// The arguments of a node whose API speaks TLS.
    pub fn api_args(&self) -> Vec<String> {
        let flag = |flag: &str, file: &str| [flag.to_owned(), self.text(file)];
        [flag("--api-tls-certificate", "api.pem"), flag("--api-tls-key", "api.key")].concat()
    }
}

/// A client that trusts this authority.
///
/// # Errors
/// When the file can't be used.
pub fn connector(authority: &Path) -> anyhow::Result<TlsConnector> {
    let files = ClientFiles { authority: Some(authority.into()), certificate: None };
    let mut config = files.config().map_err(anyhow::Error::msg)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config).into())
}

/// [`HOST`].
///
/// # Errors
/// Never.
pub fn host() -> anyhow::Result<ServerName<'static>> {
    ServerName::try_from(HOST).context("no name of a host")
}
