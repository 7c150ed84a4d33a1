//! What a node proves itself with on links, and whom it accepts: certificates and the configuration
//! of TLS made of them.

use super::{
    authority::{self, Authority, NODE_DNS_NAME, NODE_URI_PREFIX},
    keys::ClusterKeys,
};
use crate::tls::pem;
use ring::hmac;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier as _},
    crypto::{CryptoProvider, ring::default_provider},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// What nodes speak inside TLS (ALPN, RFC 7301).
pub const PROTOCOL: &[u8] = b"slotd-peer/1";
/// Begins the caller's [knock](Identity::knock) among the protocols that it offers.
const KNOCK: &[u8] = b"slotd-knock:";
const KNOCK_NONCE_BYTES: usize = 16;

/// Certificates of the cluster's own authority, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The authorities that are accepted: one, or two while it is replaced.
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// A node's certificate, and the authority that those of its peers must have.
pub struct Identity {
    pub server: Arc<ServerConfig>,
    pub client: Arc<ClientConfig>,
    knock: hmac::Key,
}

impl Identity {
    /// Of this node, with the authority that follows from the secret, or the one in `files`.
    ///
    /// # Errors
    /// What is wrong with the files, in words for the operator: also that peers would refuse this node.
    pub fn new(
        node: &str,
        secret: &[u8],
        files: Option<&CertificateFiles>,
    ) -> Result<Self, String> {
        Self::checked(secret, files, |files, roots, chain| {
            check(files, roots, chain, node)
                .map_err(|why| format!("{}: {why}", files.certificate.display()))
        })
    }

    /// One that peers may refuse.
    #[cfg(test)]
    pub fn unchecked(secret: &[u8], files: Option<&CertificateFiles>) -> Result<Self, String> {
        Self::checked(secret, files, |_, _, _| Ok(()))
    }

    fn checked(
        secret: &[u8],
        files: Option<&CertificateFiles>,
        check: impl FnOnce(&CertificateFiles, &Arc<RootCertStore>, &[Der]) -> Result<(), String>,
    ) -> Result<Self, String> {
        let keys = ClusterKeys::new(secret);
        let (authorities, chain, key) = match files {
            Some(files) => read(files)?,
            None => derive(&keys).map_err(|e| format!("can't make a certificate: {e}"))?,
        };
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority).map_err(|e| format!("the cluster's authority: {e}"))?;
        }
        let roots = Arc::new(roots);
        if let Some(files) = files {
            check(files, &roots, &chain)?;
        }
        let provider = Arc::new(default_provider());
        let server = server(&provider, &roots, chain.clone(), key.clone_key());
        let client = client(&provider, &roots, chain, key);
        let knock = keys.knock().ok_or("can't derive keys from the secret")?;
        let unusable = |e: String| format!("this node's certificate can't be used: {e}");
        Ok(Self {
            server: Arc::new(server.map_err(unusable)?),
            client: Arc::new(client.map_err(|e| unusable(e.to_string()))?),
            knock,
        })
    }

    /// What a caller offers besides [`PROTOCOL`]: it shows that it knows the secret. Without it the
    /// called node would show its certificate to anyone, and secrets could be tried against the
    /// authority that signed it.
    pub fn knock(&self) -> Vec<u8> {
        let nonce = crate::random::bytes::<KNOCK_NONCE_BYTES>();
        let tag = hmac::sign(&self.knock, &nonce);
        [KNOCK, &nonce, tag.as_ref()].concat()
    }

    /// Whether this is a knock of a node with the same secret.
    pub fn knows(&self, knock: &[u8]) -> bool {
        let parts = knock.strip_prefix(KNOCK).and_then(|it| it.split_at_checked(KNOCK_NONCE_BYTES));
        parts.is_some_and(|(nonce, tag)| hmac::verify(&self.knock, nonce, tag).is_ok())
    }
}

type Der = CertificateDer<'static>;
type Material = (Vec<Der>, Vec<Der>, PrivateKeyDer<'static>);

fn derive(keys: &ClusterKeys) -> Result<Material, rcgen::Error> {
    let authority = Authority::derived(keys)?;
    let own = authority.issue(None, authority::ephemeral_key()?)?;
    let key = PrivateKeyDer::Pkcs8(own.key.serialize_der().into());
    Ok((vec![authority.certificate().der().clone()], vec![own.certificate.der().clone()], key))
}

/// Whether peers with the same authorities accept this node's certificate, today. A node that they don't would take
/// slots that nobody reaches.
///
/// # Errors
/// Why they don't.
fn check(
    files: &CertificateFiles,
    roots: &Arc<RootCertStore>,
    chain: &[Der],
    node: &str,
) -> Result<(), String> {
    let (own, others) = chain.split_first().ok_or("it has no certificate")?;
    let nodes = nodes_of(own)?;
    if !nodes.is_empty() && !nodes.iter().any(|name| name == node) {
        return Err(format!("the certificate is of node {}, and this is {node}", nodes.join(", ")));
    }
    let provider = Arc::new(default_provider());
    let callers = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let callers = callers.build().map_err(|e| e.to_string())?;
    let called = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider);
    let called = called.build().map_err(|e| e.to_string())?;
    let name = server_name().ok_or("no name to look for")?;
    let now = UnixTime::since_unix_epoch(Duration::from_millis(crate::clock::now_ms()));
    let as_caller = callers.verify_client_cert(own, others, now).map(drop);
    let as_called = called.verify_server_cert(own, others, &name, &[], now).map(drop);
    as_caller.and(as_called).map_err(|e| {
        let authority = files.authority.display();
        format!("peers with the authority {authority} won't accept the certificate: {e}")
    })
}

fn read(files: &CertificateFiles) -> Result<Material, String> {
    let certificates = |path: &PathBuf| pem::certificates(path, &pem::read(path)?);
    let key = pem::key(&files.key, &pem::read(&files.key)?)?;
    let chain = certificates(&files.certificate)?;
    Ok((certificates(&files.authority)?, chain, key))
}

/// Nothing is resumed: each link proves anew who is at its ends.
fn server(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, String> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let verifier = verifier.build().map_err(|e| e.to_string())?;
    let config = ServerConfig::builder_with_provider(provider.clone());
    let config = config.with_protocol_versions(&[&TLS13]).map_err(|e| e.to_string())?;
    let config = config.with_client_cert_verifier(verifier).with_single_cert(chain, key);
    let mut config = config.map_err(|e| e.to_string())?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, rustls::Error> {
    let config = ClientConfig::builder_with_provider(provider.clone());
    let config = config.with_protocol_versions(&[&TLS13])?.with_root_certificates(roots.clone());
    let mut config = config.with_client_auth_cert(chain, key)?;
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// The name that certificates of nodes are valid for.
pub fn server_name() -> Option<ServerName<'static>> {
    ServerName::try_from(NODE_DNS_NAME).ok()
}

/// The nodes that a certificate is for; none: for any.
///
/// # Errors
/// It is no certificate of a node.
pub fn nodes_of(certificate: &CertificateDer<'_>) -> Result<Vec<String>, String> {
    let parsed = webpki::EndEntityCert::try_from(certificate);
    let parsed = parsed.map_err(|e| format!("the certificate can't be read: {e}"))?;
    let name = server_name().ok_or("no name to look for")?;
    parsed.verify_is_valid_for_subject_name(&name).map_err(|_| {
        format!("the certificate is not a node's: it is not valid for the DNS name {NODE_DNS_NAME}")
    })?;
    let names = parsed.valid_uri_names().filter_map(|uri| uri.strip_prefix(NODE_URI_PREFIX));
    Ok(names.map(str::to_owned).collect())
}
