//! The cluster's authority, and the certificates of nodes that it signs.
//!
//! Where the secret is all that the nodes have in common, each of them computes the same authority
//! from it, and signs a certificate for itself at its start. `slotd tls init` makes one that is in
//! files instead.
//!
//! These certificates are valid in all of history: what nodes do must not depend on their clocks, and
//! a cluster must not stop on some date. Whoever wants them to end brings certificates of their own.

use super::keys::ClusterKeys;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ED25519, PublicKeyData, SanType, SignatureAlgorithm, SigningKey,
};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

/// What every certificate of a node is valid for: one of the same authority that was made for
/// something else is not a node's.
pub const NODE_DNS_NAME: &str = "slotd-peer";
/// A certificate with names that begin so is good for the nodes named in them only.
pub const NODE_URI_PREFIX: &str = "slotd:node:";
/// The same for every authority that slotd makes, so that one can be used again by its key alone.
const AUTHORITY_NAME: &str = "slotd cluster authority";

/// An authority that can sign.
pub struct Authority<K: SigningKey = KeyPair> {
    issuer: Issuer<'static, K>,
    certificate: Certificate,
}

/// A certificate and its key.
pub struct Issued {
    pub certificate: Certificate,
    pub key: KeyPair,
}

impl Authority<Derived> {
    /// The one that the secret gives.
    ///
    /// # Errors
    /// Never, for a key of this length.
    pub fn derived(keys: &ClusterKeys) -> Result<Self, rcgen::Error> {
        let seed = keys.authority().ok_or(rcgen::Error::RingUnspecified)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed);
        Self::of(Derived(pair.map_err(|_| rcgen::Error::RingUnspecified)?))
    }
}

impl Authority {
    /// A new one, with its key in PEM.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn generate() -> Result<(Self, String), rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let pem = key.serialize_pem();
        Ok((Self::of(key)?, pem))
    }

    /// One that [`Authority::generate`] made, from its key.
    ///
    /// # Errors
    /// It is no such key.
    pub fn from_key_pem(pem: &str) -> Result<Self, rcgen::Error> {
        Self::of(KeyPair::from_pem(pem)?)
    }
}

impl<K: SigningKey> Authority<K> {
    fn of(key: K) -> Result<Self, rcgen::Error> {
        let mut params = params(AUTHORITY_NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key)?;
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// A certificate of a node; without a name, of any.
    ///
    /// # Errors
    /// The name is not ASCII.
    pub fn issue(&self, node: Option<&str>, key: KeyPair) -> Result<Issued, rcgen::Error> {
        let mut params = params(node.unwrap_or("slotd node"));
        params.subject_alt_names = vec![SanType::DnsName(NODE_DNS_NAME.try_into()?)];
        if let Some(node) = node {
            let name = format!("{NODE_URI_PREFIX}{node}");
            params.subject_alt_names.push(SanType::URI(name.try_into()?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Ok(Issued { certificate: params.signed_by(&key, &self.issuer)?, key })
    }
}

/// A key for a certificate that lasts as long as its process.
///
/// # Errors
/// The system has no random numbers.
pub fn ephemeral_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ED25519)
}

/// A key for a certificate in a file, of the kind that other tools know best.
///
/// # Errors
/// As [`ephemeral_key`].
pub fn lasting_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    // A machine without a clock of its own starts here.
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// The key of an authority that the secret gives.
pub struct Derived(Ed25519KeyPair);

impl PublicKeyData for Derived {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

impl SigningKey for Derived {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}
