//! An authority for listeners: it signs their certificates, and those of their clients.
//!
//! It is not the cluster's: that one signs nodes, and whoever trusts the listeners of a cluster, or
//! is trusted by them, must not be able to be one. What it signs ends on a date, so that what is
//! lost is not good for ever.

use crate::limits;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use std::{net::IpAddr, time::Duration};

/// The same for all of them, so that one can be used again by its key alone.
const NAME: &str = "slotd listener authority";

/// An authority that can sign.
pub struct ListenerAuthority(Issuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// What a listener is reached by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Name(String),
    Address(IpAddr),
}

impl Host {
    /// # Errors
    /// It is neither a DNS name nor an address.
    pub fn parse(raw: &str) -> Result<Self, String> {
        if let Ok(address) = raw.parse() {
            return Ok(Self::Address(address));
        }
        let wildcard = raw.strip_prefix("*.").unwrap_or(raw);
        match rustls::pki_types::DnsName::try_from(wildcard) {
            Ok(_) => Ok(Self::Name(raw.to_owned())),
            Err(_) => Err("it must be a DNS name or an IP address, without scheme and port".into()),
        }
    }
}

impl ListenerAuthority {
    /// A new one, with its key and certificate.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn generate() -> Result<(Self, Pair), rcgen::Error> {
        let key = key()?;
        let pem = key.serialize_pem();
        let (this, certificate) = Self::of(key)?;
        Ok((this, Pair { certificate, key: pem }))
    }

    /// One that [`Self::generate`] made, from its key; with a certificate of it, which lasts from now on.
    ///
    /// # Errors
    /// It is no such key.
    pub fn from_key_pem(pem: &str) -> Result<(Self, String), rcgen::Error> {
        Self::of(KeyPair::from_pem(pem)?)
    }

    fn of(key: KeyPair) -> Result<(Self, String), rcgen::Error> {
        let mut params = params(NAME, limits::LISTENER_AUTHORITY_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok((Self(Issuer::new(params, key)), certificate))
    }

    /// A certificate of a listener with these names.
    ///
    /// # Errors
    /// A name is not ASCII.
    pub fn server(&self, hosts: &[Host]) -> Result<Pair, rcgen::Error> {
        let mut params = params("slotd", limits::LISTENER_CERTIFICATE_LIFE);
        for host in hosts {
            params.subject_alt_names.push(match host {
                Host::Name(name) => SanType::DnsName(name.as_str().try_into()?),
                Host::Address(address) => SanType::IpAddress(*address),
            });
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// A certificate of a client of this name.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn client(&self, name: &str) -> Result<Pair, rcgen::Error> {
        let mut params = params(name, limits::LISTENER_CERTIFICATE_LIFE);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Pair, rcgen::Error> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = key()?;
        let certificate = params.signed_by(&key, &self.0)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }
}

/// Of the kind that other tools know best.
fn key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

fn params(name: &str, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = Duration::from_millis(crate::clock::now_ms());
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(limits::LISTENER_CERTIFICATE_BEFORE);
    params.not_after = epoch + now + life;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
