//! Keys that sign components, and what is signed.
//!
//! With Ed25519, that is [`DOMAIN`] and the component's SHA-256: a signature for slotd is one for nothing
//! else.
//!
//! A public key of ECDSA on P-256 is taken for one of cosign: then the signature is what
//! `cosign sign-blob --key` makes, over the bytes of the component. The key decides, never the signature,
//! so nobody can choose a weaker check. Nothing here uses the network: cosign's transparency log is not
//! asked.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    digest::{SHA256, digest},
    signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey},
};
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use std::fmt;

/// Before the digest in what is signed: the purpose and the format's version.
pub const DOMAIN: &[u8] = b"slotd component signature, version 1\n";

/// What precedes the key in its `SubjectPublicKeyInfo`: RFC 8410, and RFC 5480 for an uncompressed
/// point on P-256.
const ED25519_PREFIX: &[u8] =
    &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A key that components are checked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// `slotd plugin keygen` makes such.
    Ed25519([u8; 32]),
    /// `cosign generate-key-pair` makes such: an uncompressed point.
    P256(Box<[u8; 65]>),
}

impl PublicKey {
    /// Reads `ed25519:BASE64` or PEM (`-----BEGIN PUBLIC KEY-----`) of either kind.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || {
            "it is not a public key: `ed25519:` and 32 bytes in base64, or PEM (-----BEGIN PUBLIC \
             KEY-----) of Ed25519 or of ECDSA on P-256"
                .to_owned()
        };
        let text = text.trim();
        if let Some(raw) = text.strip_prefix("ed25519:") {
            let raw = STANDARD.decode(raw).map_err(|_| bad())?;
            return Ok(Self::Ed25519(raw.try_into().map_err(|_| bad())?));
        }
        let der = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()).map_err(|_| bad())?;
        if let Some(key) = der.strip_prefix(ED25519_PREFIX) {
            return Ok(Self::Ed25519(key.try_into().map_err(|_| bad())?));
        }
        let key = der.strip_prefix(P256_PREFIX).ok_or_else(bad)?;
        Ok(Self::P256(Box::new(key.try_into().map_err(|_| bad())?)))
    }

    /// As PEM.
    pub fn to_pem(&self) -> String {
        let der = match self {
            Self::Ed25519(key) => [ED25519_PREFIX, key].concat(),
            Self::P256(key) => [P256_PREFIX, key.as_slice()].concat(),
        };
        pem("PUBLIC KEY", &der)
    }

    /// Of the key's own bytes: its identity, whatever its name.
    pub fn fingerprint(&self) -> [u8; 32] {
        match self {
            Self::Ed25519(key) => sha256(key),
            Self::P256(key) => sha256(key.as_slice()),
        }
    }

    /// Whether this key's owner has signed the component.
    pub fn has_signed(&self, component: &Component<'_>, signature: &[u8]) -> bool {
        match self {
            Self::Ed25519(key) => {
                let key = UnparsedPublicKey::new(&ED25519, key);
                key.verify(&signed(&component.digest), signature).is_ok()
            }
            Self::P256(key) => {
                let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.as_slice());
                key.verify(component.bytes, signature).is_ok()
            }
        }
    }
}

/// `ed25519:BASE64`, as a policy has it; one of cosign as its fingerprint.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ed25519(key) => write!(f, "ed25519:{}", STANDARD.encode(key)),
            Self::P256(_) => {
                f.write_str("cosign (ECDSA on P-256) ")?;
                self.fingerprint()[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// What is signed, hashed once for all keys.
pub struct Component<'a> {
    bytes: &'a [u8],
    digest: [u8; 32],
}

impl<'a> Component<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, digest: sha256(bytes) }
    }
}

/// What is signed with Ed25519: of a component's SHA-256.
pub fn signed(digest: &[u8; 32]) -> Vec<u8> {
    [DOMAIN, digest].concat()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// Bytes as PEM.
pub fn pem(label: &str, der: &[u8]) -> String {
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in STANDARD.encode(der).as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}
