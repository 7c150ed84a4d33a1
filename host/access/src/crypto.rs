//! The cryptography of tokens: jsonwebtoken reads and checks them, `ring` computes.

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error as JwtError, ErrorKind, new_error},
};
use ring::{
    hmac,
    signature::{self as public, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm},
};
use signature::{Error as SignatureError, Signer, Verifier};

/// The private half of a minting key is signed with HS256 alone; all else is only verified.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

/// Has jsonwebtoken compute with `ring`. It is per process; the first call counts.
pub(crate) fn install() {
    // Whoever installed another one before has one that works, too.
    let _ = PROVIDER.install_default();
}

fn wrong_key() -> JwtError {
    new_error(ErrorKind::InvalidKeyFormat)
}

fn unsupported() -> JwtError {
    new_error(ErrorKind::UnsupportedAlgorithm)
}

struct Hmac(hmac::Key);

impl Signer<Vec<u8>> for Hmac {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        Ok(hmac::sign(&self.0, message).as_ref().to_vec())
    }
}

impl JwtSigner for Hmac {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl Verifier<Vec<u8>> for Hmac {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        hmac::verify(&self.0, message, signature).map_err(|_| SignatureError::new())
    }
}

impl JwtVerifier for Hmac {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>, JwtError> {
    match algorithm {
        Algorithm::HS256 => Ok(Box::new(Hmac(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())))),
        _ => Err(unsupported()),
    }
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, JwtError> {
    // Else a public key could be used as the secret of an HMAC.
    if key.family() != algorithm.family() {
        return Err(new_error(ErrorKind::InvalidAlgorithm));
    }
    let rsa: &'static public::RsaParameters = match algorithm {
        Algorithm::HS256 => {
            return Ok(Box::new(Hmac(hmac::Key::new(hmac::HMAC_SHA256, key.try_get_as_bytes()?))));
        }
        Algorithm::ES256 => return plain(*algorithm, &public::ECDSA_P256_SHA256_FIXED, key),
        Algorithm::ES384 => return plain(*algorithm, &public::ECDSA_P384_SHA384_FIXED, key),
        Algorithm::EdDSA => return plain(*algorithm, &public::ED25519, key),
        Algorithm::RS256 => &public::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &public::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &public::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &public::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &public::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &public::RSA_PSS_2048_8192_SHA512,
        _ => return Err(unsupported()),
    };
    match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => {
            let key = RsaPublicKeyComponents { n: bare(n), e: bare(e) };
            Ok(Box::new(Rsa { algorithm: *algorithm, parameters: rsa, key }))
        }
        DecodingKeyKind::SecretOrDer(_) => Err(wrong_key()),
    }
}

/// Without zeros in front, which some issuers have and `ring` does not take.
fn bare(number: &[u8]) -> Vec<u8> {
    number.iter().copied().skip_while(|byte| *byte == 0).collect()
}

fn plain(
    algorithm: Algorithm,
    how: &'static dyn VerificationAlgorithm,
    key: &DecodingKey,
) -> Result<Box<dyn JwtVerifier>, JwtError> {
    let key = UnparsedPublicKey::new(how, key.try_get_as_bytes()?.to_vec());
    Ok(Box::new(Plain { algorithm, key }))
}

struct Plain {
    algorithm: Algorithm,
    key: UnparsedPublicKey<Vec<u8>>,
}

impl Verifier<Vec<u8>> for Plain {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        self.key.verify(message, signature).map_err(|_| SignatureError::new())
    }
}

impl JwtVerifier for Plain {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

struct Rsa {
    algorithm: Algorithm,
    parameters: &'static public::RsaParameters,
    key: RsaPublicKeyComponents<Vec<u8>>,
}

impl Verifier<Vec<u8>> for Rsa {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        self.key.verify(self.parameters, message, signature).map_err(|_| SignatureError::new())
    }
}

impl JwtVerifier for Rsa {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
