//! TLS of the client: whom it trusts, what it shows, and what its errors mean for the user.

use crate::{limits, text::clip, tls::ClientFiles};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error as TlsError, InvalidMessage,
    pki_types::ServerName,
};
use std::{error::Error, io, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// TLS to one host.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// # Errors
    /// The files can't be used, or a certificate can't name this host.
    pub fn new(host: &str, files: &ClientFiles) -> Result<Self, String> {
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name =
            ServerName::try_from(name).map_err(|_| format!("{host} is no name of a host"))?;
        let mut config = files.config()?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), name })
    }

    /// # Errors
    /// The handshake failed.
    pub async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(self.config.clone()).connect(self.name.clone(), stream).await
    }
}

/// What an error of TLS means, and what to do; `None`: it is none.
pub(super) fn explain(error: &(dyn Error + 'static)) -> Option<String> {
    let tls = cause(error)?;
    let said = match tls {
        TlsError::InvalidCertificate(why) => return Some(of_certificate(why)),
        TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "that port does not speak TLS: begin the URL with http:// (or is it another port?)"
                .to_owned()
        }
        TlsError::AlertReceived(AlertDescription::CertificateRequired) => {
            "it requires a client certificate: give one with --cert and --key, or $SLOTD_CERT and \
             $SLOTD_KEY"
                .to_owned()
        }
        TlsError::AlertReceived(alert) if is_about_certificates(*alert) => format!(
            "it does not accept the client certificate (--cert): {}",
            alert.as_str().unwrap_or("refused")
        ),
        other => format!("TLS failed: {other}"),
    };
    Some(clip(said.into(), limits::ERROR_DETAIL_BYTES_MAX).into_owned())
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    matches!(
        alert,
        A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied
            | A::DecryptError
    )
}

fn of_certificate(why: &CertificateError) -> String {
    use CertificateError as C;
    let said = match why {
        C::UnknownIssuer => {
            "its certificate is of an authority that is not trusted here: give that authority's \
             file with --ca FILE or $SLOTD_CA"
                .to_owned()
        }
        C::NotValidForName => {
            "its certificate is for another name than the URL has: use a name that it is for"
                .to_owned()
        }
        C::NotValidForNameContext { presented, .. } => format!(
            "its certificate is for another name than the URL has; it is for {}",
            presented.join(", ")
        ),
        C::Expired | C::ExpiredContext { .. } => {
            format!("its certificate has expired, or this machine's clock is wrong ({why})")
        }
        C::NotValidYet | C::NotValidYetContext { .. } => {
            format!("its certificate is not valid yet, or this machine's clock is wrong ({why})")
        }
        why => format!("its certificate is not accepted: {why}"),
    };
    clip(said.into(), limits::ERROR_DETAIL_BYTES_MAX).into_owned()
}

fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a TlsError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<TlsError>() {
            return Some(tls);
        }
        // An I/O error shows the cause of its cause, and not the cause itself.
        if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            let inner: &(dyn Error + 'static) = inner;
            if let Some(tls) = inner.downcast_ref::<TlsError>() {
                return Some(tls);
            }
        }
        next = error.source();
    }
    None
}
