//! The TLS of one listener: its certificate, and whose certificates it accepts.

use super::{
    certificate::{self, Validity},
    pem,
};
use crate::{files, limits, telemetry::metrics};
use parking_lot::{Mutex, RwLock};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring::{Ticketer, default_provider},
    server::{
        NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier, danger::ClientCertVerifier,
    },
};
use sha2::{Digest as _, Sha256};
use std::{
    future::{pending, ready},
    path::PathBuf,
    sync::Arc,
};
use tokio::{sync::Semaphore, time::timeout};

/// What is offered inside TLS (ALPN, RFC 7301), the best first.
pub const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// The files of one listener, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerFiles {
    /// Its certificate, and those between it and its authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The authorities of its clients' certificates, if they may show any.
    pub client_authority: Option<PathBuf>,
}

/// The TLS of one listener. There is one certificate, whatever name a client asks for. Cheap to
/// clone; clones are the same.
#[derive(Clone)]
pub struct ListenerTls(Arc<Inner>);

struct Inner {
    listener: &'static str,
    files: ListenerFiles,
    current: RwLock<Arc<Current>>,
    /// Held by the one that looks: on a disk that hangs, others would only wait, too.
    looking: Mutex<()>,
    /// What was refused last, and whether it is in the log.
    refused: Mutex<Option<(String, bool)>>,
    /// Keeps what it gave out when the certificate changes.
    ticketer: Arc<dyn ProducesTickets>,
    computing: Semaphore,
}

struct Current {
    config: Arc<ServerConfig>,
    validity: Validity,
    /// Of the files.
    digest: [u8; 32],
    /// Of the authorities of clients.
    authority: [u8; 32],
}

/// Who has shown a certificate on a connection, and for how long that is good.
pub struct Certified {
    pub name: Arc<str>,
    /// The end of its validity, in seconds since 1970.
    pub until: i64,
    /// Those that it was checked by.
    pub authority: [u8; 32],
    pub tls: ListenerTls,
}

impl Certified {
    /// The name, while the certificate has not expired and its authority is still accepted.
    pub fn name(&self) -> Option<&Arc<str>> {
        let is_good = certificate::now() <= self.until && self.tls.has_authority(&self.authority);
        is_good.then_some(&self.name)
    }
}

/// The bytes of the files.
struct Read {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_authority: Option<Vec<u8>>,
}

impl ListenerFiles {
    /// When their certificate is valid.
    ///
    /// # Errors
    /// Why they can't be used.
    pub fn check(&self) -> Result<Validity, String> {
        Ok(self.load(&ticketer()?)?.validity)
    }

    fn read(&self) -> Result<Read, String> {
        Ok(Read {
            certificate: pem::read(&self.certificate)?,
            key: pem::read(&self.key)?,
            client_authority: self.client_authority.as_deref().map(pem::read).transpose()?,
        })
    }

    fn load(&self, ticketer: &Arc<dyn ProducesTickets>) -> Result<Current, String> {
        self.made_of(&self.read()?, ticketer)
    }

    fn made_of(&self, read: &Read, ticketer: &Arc<dyn ProducesTickets>) -> Result<Current, String> {
        let chain = pem::certificates(&self.certificate, &read.certificate)?;
        let key = pem::key(&self.key, &read.key)?;
        let of_certificate = |why: String| format!("{}: {why}", self.certificate.display());
        let validity = Validity::of(&chain).map_err(of_certificate)?;
        let provider = Arc::new(default_provider());
        let clients = match (&self.client_authority, &read.client_authority) {
            (Some(path), Some(bytes)) => {
                let mut roots = RootCertStore::empty();
                let of_authority = |e: rustls::Error| format!("{}: {e}", path.display());
                for authority in pem::certificates(path, bytes)? {
                    roots.add(authority).map_err(of_authority)?;
                }
                Some(verifier(roots).map_err(|e| format!("{}: {e}", path.display()))?)
            }
            _ => None,
        };
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let verified = clients.is_some();
        let config = match clients {
            Some(clients) => config.with_client_cert_verifier(clients),
            None => config.with_no_client_auth(),
        };
        let mut config = config.with_single_cert(chain, key).map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => format!(
                "the key in {} is not that of the certificate in {}",
                self.key.display(),
                self.certificate.display()
            ),
            e => of_certificate(e.to_string()),
        })?;
        config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if verified {
            // A resumed session is that of a certificate which nobody checks again.
            config.send_tls13_tickets = 0;
        } else {
            config.ticketer = ticketer.clone();
        }
        let authority = read.client_authority.as_deref().unwrap_or_default();
        let authority = Sha256::digest(authority).into();
        Ok(Current { config: Arc::new(config), validity, digest: read.digest(), authority })
    }
}

fn verifier(roots: RootCertStore) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let provider = Arc::new(default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    clients.allow_unauthenticated().build().map_err(|e| e.to_string())
}

fn ticketer() -> Result<Arc<dyn ProducesTickets>, String> {
    Ticketer::new().map_err(|e| format!("can't make keys for tickets: {e}"))
}

impl Read {
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let none = Vec::new();
        let authority = self.client_authority.as_ref().unwrap_or(&none);
        for part in [&self.certificate, &self.key, authority] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

impl ListenerTls {
    /// Reads the files: not for a thread that serves. A certificate that has expired is used: the
    /// clock may be what is wrong.
    ///
    /// # Errors
    /// Why they can't be used.
    pub fn open(listener: &'static str, files: ListenerFiles) -> Result<Self, String> {
        let ticketer = ticketer()?;
        let current = files.load(&ticketer)?;
        // Others than handshakes always have a thread.
        let threads = crate::thread::processors();
        let tls = Self(Arc::new(Inner {
            listener,
            files,
            current: RwLock::new(Arc::new(current)),
            looking: Mutex::new(()),
            refused: Mutex::new(None),
            ticketer,
            computing: Semaphore::new((threads / 2).max(1)),
        }));
        tls.measure();
        Ok(tls)
    }

    pub fn listener(&self) -> &'static str {
        self.0.listener
    }

    /// What connections that begin now use.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.0.current.read().config.clone()
    }

    /// As [`Self::config`], with the authorities that its clients' certificates are checked by.
    pub fn config_and_authority(&self) -> (Arc<ServerConfig>, [u8; 32]) {
        let current = self.0.current.read();
        (current.config.clone(), current.authority)
    }

    /// Whether certificates are still checked by these.
    fn has_authority(&self, authority: &[u8; 32]) -> bool {
        self.0.current.read().authority == *authority
    }

    /// Permits to compute for a handshake.
    pub fn computing(&self) -> &Semaphore {
        &self.0.computing
    }

    /// Uses what is in the files now, if it can be used and has changed. What can't is logged once:
    /// at once if `ordered`, else when it is still so at the next look, since two files are not
    /// replaced in one step. Reads files: not for a thread that serves.
    pub fn look(&self, ordered: bool) {
        let Inner { listener, files, current, looking, refused, ticketer, .. } = &*self.0;
        let Some(_looking) = looking.try_lock() else { return };
        let before = current.read().clone();
        let looked = files.read().and_then(|read| match read.digest() == before.digest {
            true => Ok(None),
            false => files.made_of(&read, ticketer).map(Some),
        });
        let now = certificate::now();
        // One that is out of its time does not replace one that is in it.
        let looked = looked.and_then(|new| match new {
            Some(new) if before.validity.check(now).is_ok() => {
                new.validity.check(now).map(|()| Some(new))
            }
            new => Ok(new),
        });
        let mut refused = refused.lock();
        match looked {
            Ok(None) => *refused = None,
            Ok(Some(new)) => {
                *refused = None;
                let days = (new.validity.until - now) / certificate::DAY_SECONDS;
                *current.write() = Arc::new(new);
                tracing::info!(listener, days_left = days, "the listener has a new certificate");
            }
            Err(why) => {
                let (same, logged) = match &*refused {
                    Some((before, logged)) => (*before == why, *logged),
                    None => (false, false),
                };
                let log = !(same && logged) && (ordered || same);
                if log {
                    tracing::error!(listener, "keeping the old certificate: {why}");
                }
                *refused = Some((why, log || (same && logged)));
            }
        }
        drop(refused);
        self.measure();
    }

    /// Looks every [`limits::TLS_LOOK`].
    pub async fn follow(self) {
        let mut warned = None;
        let mut warn = || {
            let now = certificate::now();
            let validity = self.0.current.read().validity;
            if let Some(why) = validity.ends_soon(now)
                && warned.is_none_or(|at| now - at >= certificate::DAY_SECONDS)
            {
                warned = Some(now);
                tracing::warn!(listener = self.0.listener, "{why}");
            }
        };
        warn();
        let this = self.clone();
        let look = move || this.look(false);
        files::follow(limits::TLS_LOOK, pending(), look, |()| {
            warn();
            ready(())
        })
        .await;
    }

    /// As [`Self::look`], elsewhere. A disk that hangs holds up nothing else.
    pub async fn looked(self, ordered: bool) {
        let looking = crate::task::blocking(move || self.look(ordered));
        let _ = timeout(limits::RELOAD_WAIT, looking).await;
    }

    fn measure(&self) {
        let left = self.0.current.read().validity.until.saturating_sub(certificate::now());
        metrics().certificate_expires(self.0.listener, left as f64);
    }
}
