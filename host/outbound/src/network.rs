//! What all rule sets have in common: how names are found, and whom TLS trusts.

use crate::{
    address::Reach,
    limits,
    policy::PolicyError,
    resolve::{Guard, Resolve, SystemResolver},
};
use reqwest::{Client, redirect, retry};
use rustls::{
    ClientConfig,
    crypto::{CryptoProvider, ring},
    pki_types::CertificateDer,
};
use rustls_platform_verifier::Verifier;
use std::{fmt, sync::Arc};

/// How names are found, and whom TLS trusts. Clones are the same.
#[derive(Clone)]
pub struct Network {
    tls: Arc<ClientConfig>,
    resolver: Arc<dyn Resolve>,
}

/// Why requests can't be made at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("the roots of TLS: {0}")]
    Tls(rustls::Error),
    #[error("the HTTP client: {0}")]
    Client(reqwest::Error),
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

impl Network {
    /// The system's resolver and roots, and these roots beside them. It reads files: not for a thread that serves.
    ///
    /// # Errors
    /// If there are no roots, or one of those that are given is none.
    pub fn system(
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, SetupError> {
        let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
        let verifier = Verifier::new_with_extra_roots(roots, Arc::clone(&provider));
        let verifier = Arc::new(verifier.map_err(SetupError::Tls)?);
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(SetupError::Tls)?
            // It checks as the usual one does, with the system's roots.
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { tls: Arc::new(tls), resolver: Arc::new(SystemResolver::default()) })
    }

    /// With another resolver. What it finds is checked all the same.
    #[must_use]
    pub fn with_resolver(self, resolver: impl Resolve) -> Self {
        Self { resolver: Arc::new(resolver), ..self }
    }

    /// A client for hosts that have such addresses. Its connections are its own: a host that may be private does not
    /// lend its connections to one that may not.
    pub(crate) fn client(&self, reach: Reach) -> Result<Client, SetupError> {
        let guard = Guard { resolver: Arc::clone(&self.resolver), reach };
        Client::builder()
            .tls_backend_preconfigured((*self.tls).clone())
            .dns_resolver(Arc::new(guard))
            // The environment's would see secrets, and connect where nobody looks.
            .no_proxy()
            // Followed here, each under the policy.
            .redirect(redirect::Policy::none())
            // One attempt is one attempt.
            .retry(retry::never())
            .referer(false)
            .user_agent(concat!("slotd/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(limits::CONNECT_TIMEOUT)
            .pool_idle_timeout(limits::CONNECTION_IDLE)
            .pool_max_idle_per_host(limits::CONNECTIONS_IDLE_MAX)
            // More than the limit, so that the limit can say what is wrong.
            .http2_max_header_list_size(2 * limits::ANSWER_HEADER_BYTES_MAX as u32)
            .build()
            .map_err(SetupError::Client)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Network").finish_non_exhaustive()
    }
}
