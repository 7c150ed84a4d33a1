//! Signatures of components: who vouches for what is deployed.
//!
//! What is signed, and how a key checks it, is in `slotd_access::PublicKey`, with the policy's keys. Here is
//! what makes signatures, and how they come in files: one line of JSON ([`SignatureFile`]), or what
//! cosign writes.

use crate::{limits, plugin::Digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use slotd_access::{
    Policy,
    signing::{pem, signed},
};

pub use slotd_access::{PublicKey, signing::Component};

/// Of a signature's file.
pub const FORMAT: u32 = 1;
/// A signature's file is named as the component's, with this behind.
pub const EXTENSION: &str = ".sig";

/// Makes a key: the private one as PEM (PKCS #8), and the public one.
///
/// # Errors
/// The system has no random numbers.
pub fn generate() -> Result<(String, PublicKey), String> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
    let document = document.map_err(|_| "the system has no random numbers".to_owned())?;
    let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|e| e.to_string())?;
    Ok((pem("PRIVATE KEY", document.as_ref()), public(&pair)?))
}

/// Signs a component with a private key in PEM.
///
/// # Errors
/// A sentence, without anything of the key.
pub fn sign(private_pem: &str, component: &[u8]) -> Result<(SignatureFile, PublicKey), String> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(private_pem.as_bytes()).map_err(|_| {
        "it is not a private key (PEM, -----BEGIN PRIVATE KEY-----) as `slotd plugin keygen` makes \
         it; with a key of cosign, sign by `cosign sign-blob --key`"
            .to_owned()
    })?;
    // Those of OpenSSL have no public key in them.
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_pkcs8_der());
    let pair = pair.map_err(|_| "it is not a key of Ed25519".to_owned())?;
    let digest = Digest::of(component);
    let signature = STANDARD.encode(pair.sign(&signed(&digest.0)));
    let file = SignatureFile { format: FORMAT, algorithm: "ed25519".into(), digest, signature };
    Ok((file, public(&pair)?))
}

fn public(pair: &Ed25519KeyPair) -> Result<PublicKey, String> {
    let key = pair.public_key().as_ref().try_into();
    Ok(PublicKey::Ed25519(key.map_err(|_| "a public key of another size".to_owned())?))
}

/// The signature's file: one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureFile {
    format: u32,
    algorithm: String,
    /// For people, and to say that a file is of another component; what counts is the signature.
    digest: Digest,
    signature: String,
}

impl SignatureFile {
    pub fn to_line(&self) -> String {
        serde_json::json!(self).to_string() + "\n"
    }
}

/// The signature in a file: slotd's, or cosign's: the detached signature, or a bundle.
///
/// # Errors
/// A sentence.
pub fn read(text: &str, component: &[u8]) -> Result<Vec<u8>, String> {
    let text = text.trim();
    if !text.starts_with('{') {
        return decode(text);
    }
    let not_json = |e: serde_json::Error| format!("it is no JSON: {e}");
    let json: serde_json::Value = serde_json::from_str(text).map_err(not_json)?;
    // Sigstore's bundle, and that of cosign before version 3.
    let of_cosign = [json.pointer("/messageSignature/signature"), json.get("base64Signature")];
    if let Some(signature) = of_cosign.into_iter().flatten().find_map(|value| value.as_str()) {
        return decode(signature);
    }
    let file: SignatureFile =
        serde_json::from_value(json).map_err(|e| format!("it is no signature of slotd: {e}"))?;
    if (file.format, &*file.algorithm) != (FORMAT, "ed25519") {
        let SignatureFile { format, algorithm, .. } = file;
        return Err(format!(
            "it has format {format} and algorithm {algorithm}; this slotd reads {FORMAT} and ed25519"
        ));
    }
    let digest = Digest::of(component);
    if file.digest != digest {
        return Err(format!(
            "it is for another component: one with the digest {}, and this one has {digest}",
            file.digest
        ));
    }
    decode(&file.signature)
}

/// A signature as the header `Slotd-Signature` has it.
///
/// # Errors
/// A sentence.
pub fn decode(base64: &str) -> Result<Vec<u8>, String> {
    let bad = || {
        let most = limits::SIGNATURE_BYTES_MAX;
        format!("it is not a signature: base64 of up to {most} bytes")
    };
    let fits = (1..=limits::SIGNATURE_BYTES_MAX.div_ceil(3) * 4).contains(&base64.len());
    let bytes = STANDARD.decode(base64).ok().filter(|_| fits).ok_or_else(bad)?;
    (bytes.len() <= limits::SIGNATURE_BYTES_MAX).then_some(bytes).ok_or_else(bad)
}

pub fn encode(signature: &[u8]) -> String {
    STANDARD.encode(signature)
}

/// A key with its name in the policy.
pub use slotd_access::SigningKey as DeployKey;

/// The keys that may sign what is deployed to a service, by its name; `None`: it need not be signed.
pub type DeployKeys = dyn Fn(&str) -> Option<Vec<DeployKey>> + Send + Sync;

/// What a policy says of a service.
pub fn deploy_keys(policy: &Policy, service: &str) -> Option<Vec<DeployKey>> {
    let names = &policy.service(service).deploy_keys;
    let named = |key: &&DeployKey| names.contains(&key.name);
    (!names.is_empty()).then(|| policy.keys().iter().filter(named).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPONENT: &[u8] = b"a component";

    /// Without it a later version would refuse what was signed by now.
    #[test]
    fn a_signature_keeps_its_form() {
        // Of the first test of RFC 8032, as `openssl genpkey` writes it.
        let private = "-----BEGIN PRIVATE KEY-----\n\
             MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
             -----END PRIVATE KEY-----\n";
        let Ok((file, public)) = sign(private, COMPONENT) else {
            unreachable!("the key is a good one")
        };
        let again = sign(private, COMPONENT).unwrap().0;
        assert_eq!(file, again);
        let line = file.to_line();
        let digest = Digest::of(COMPONENT);
        let start = format!(
            "{{\"algorithm\":\"ed25519\",\"digest\":\"{digest}\",\"format\":1,\"signature\":\""
        );
        assert!(line.starts_with(&start), "{line}");
        let signature = read(&line, COMPONENT).unwrap();
        assert!(public.has_signed(&Component::new(COMPONENT), &signature));
        assert_eq!(PublicKey::parse(&public.to_pem()), Ok(public.clone()));
        assert_eq!(PublicKey::parse(&public.to_string()), Ok(public));
    }

    /// What the signatures are for.
    #[test]
    fn only_the_owner_of_the_key_can_have_signed_just_that() {
        let (private, public) = generate().unwrap();
        let (file, same) = sign(&private, COMPONENT).unwrap();
        assert_eq!(public, same);
        let signature = read(&file.to_line(), COMPONENT).unwrap();
        assert!(public.has_signed(&Component::new(COMPONENT), &signature));
        assert!(!public.has_signed(&Component::new(b"another one"), &signature));
        assert!(!public.has_signed(&Component::new(COMPONENT), &signature[1..]));
        assert!(!public.has_signed(&Component::new(COMPONENT), &[]));
        assert!(!generate().unwrap().1.has_signed(&Component::new(COMPONENT), &signature));
        // A signature of the bytes or of the bare digest, made for something else.
        let der = PrivatePkcs8KeyDer::from_pem_slice(private.as_bytes()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
        for other in [COMPONENT, &Digest::of(COMPONENT).0] {
            assert!(!public.has_signed(&Component::new(COMPONENT), pair.sign(other).as_ref()));
        }
        let told = read(&file.to_line(), b"another one").unwrap_err();
        assert!(told.contains("another component"), "{told}");
        assert!(read("{}", COMPONENT).is_err() && read("not base64!", COMPONENT).is_err());
        assert!(decode(&"A".repeat(100_000)).is_err() && decode("").is_err());
    }

    /// As cosign makes them: ECDSA over the bytes, alone and in its bundles.
    #[test]
    fn what_cosign_has_signed_is_taken() {
        let random = SystemRandom::new();
        let algorithm = &ring::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
        let document = ring::signature::EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = ring::signature::EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random);
        let pair = pair.unwrap();
        let point: [u8; 65] = pair.public_key().as_ref().try_into().unwrap();
        let public = PublicKey::P256(Box::new(point));
        assert_eq!(PublicKey::parse(&public.to_pem()), Ok(public.clone()));
        let signature = pair.sign(&random, COMPONENT).unwrap();
        let base64 = encode(signature.as_ref());
        for text in [
            format!("{base64}\n"),
            format!(r#"{{"base64Signature":"{base64}","cert":"","rekorBundle":{{}}}}"#),
            format!(
                r#"{{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","messageSignature":{{"messageDigest":{{}},"signature":"{base64}"}}}}"#
            ),
        ] {
            let found = read(&text, COMPONENT).unwrap();
            assert!(public.has_signed(&Component::new(COMPONENT), &found));
            assert!(!public.has_signed(&Component::new(b"another one"), &found));
        }
        // The key says how it is checked.
        let (private, own) = generate().unwrap();
        let file = sign(&private, COMPONENT).unwrap().0;
        let ours = read(&file.to_line(), COMPONENT).unwrap();
        assert!(
            !public.has_signed(&Component::new(COMPONENT), &ours)
                && !own.has_signed(&Component::new(COMPONENT), signature.as_ref())
        );
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for bad in [
            "",
            "ed25519:",
            "ed25519:AAAA",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        ] {
            assert!(PublicKey::parse(bad).is_err(), "{bad}");
        }
        assert!(sign("no key", COMPONENT).is_err());
        let (_, public) = generate().unwrap();
        assert!(sign(&public.to_pem(), COMPONENT).is_err());
    }
}
