//! Sealing what is kept: log, store and snapshots, with a key of the operator's.
//!
//! What is sealed is encrypted by ChaCha20-Poly1305 and bound to its place: a value that is put in
//! the place of another does not open. The nonce is derived from what is sealed and from its place,
//! under a key of its own, as synthetic nonces are (RFC 5297 does it for AES): nothing has to be counted
//! over restarts and machines, and the same bytes in the same place give the same sealed bytes, as
//! snapshots need, whose objects are named by what is in them. So whoever sees two versions of a
//! row can tell that they are the same, and nothing else.
//!
//! | bytes | |
//! |---|---|
//! | 4 | the key's id |
//! | 12 | the nonce |
//! | | what is sealed, encrypted |
//! | 16 | the tag |
//!
//! What is before that says that it is sealed, and is its place's to define.

use crate::limits;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{aead, hkdf, hmac};
use std::{fmt, sync::Arc};

const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 4;
const TAG_BYTES: usize = 16;
/// What sealing adds.
pub const OVERHEAD: usize = ID_BYTES + aead::NONCE_LEN + TAG_BYTES;
const SALT: &[u8] = b"slotd seal, 1";

/// Which key it is: the same for the same key everywhere, and it tells nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; ID_BYTES]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The key that sealed bytes, as [`Keyring::seal`] makes them, are sealed with; `None`: they are cut short.
pub fn key_of(sealed: &[u8]) -> Option<KeyId> {
    sealed.first_chunk().copied().map(KeyId)
}

struct Key {
    id: KeyId,
    seal: aead::LessSafeKey,
    nonces: hmac::Key,
}

/// How something is kept that is not sealed.
pub const CLEAR: &str = "clear text";

/// The keys of a node: the first one seals, but for those that only open; all of them open. Cheap to clone;
/// without keys nothing is sealed.
#[derive(Clone, Default)]
pub struct Keyring {
    keys: Arc<[Key]>,
    /// Which of them seals; `None`: none does.
    seals: Option<usize>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

/// Why something does not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    #[error("it is sealed with the key {0}, which this node does not have")]
    NoKey(KeyId),
    #[error("it is not what was sealed")]
    Damaged,
}

/// Keys of 32 bytes in base64, a line each; the first one seals. One with `open:` before it only opens: so that all
/// nodes of a cluster have a key before one seals with it. Lines that begin with `#` are comments.
///
/// # Errors
/// What is wrong, and in which line. It never has a part of a key.
pub fn parse(text: &str) -> Result<Keyring, String> {
    let mut keys: Vec<Key> = Vec::new();
    let mut seals = None;
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (line, only_opens) = match line.strip_prefix("open:") {
            Some(line) => (line.trim(), true),
            None => (line, false),
        };
        let bytes = STANDARD.decode(line).ok().and_then(|it| <[u8; KEY_BYTES]>::try_from(it).ok());
        let bytes = bytes.ok_or_else(|| {
            format!("line {number} is no key: a key is {KEY_BYTES} random bytes in base64")
        })?;
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return Err(format!("the key in line {number} is not random"));
        }
        let key = Key::of(&bytes).ok_or("can't derive keys")?;
        if keys.iter().any(|other| other.id == key.id) {
            return Err(format!("the key in line {number} is there twice"));
        }
        if !only_opens && seals.is_none() {
            seals = Some(keys.len());
        }
        keys.push(key);
    }
    match keys.len() {
        0 => Err("it has no key".into()),
        1..=limits::SEAL_KEYS_MAX => Ok(Keyring { keys: keys.into(), seals }),
        n => Err(format!("it has {n} keys; {} are allowed", limits::SEAL_KEYS_MAX)),
    }
}

/// A new key, as [`parse`] reads it.
///
/// # Errors
/// The system has no random numbers.
pub fn generate() -> Result<String, String> {
    let mut key = [0; KEY_BYTES];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut key)
        .map_err(|_| "the system gives no random numbers".to_owned())?;
    Ok(STANDARD.encode(key))
}

impl Key {
    /// `None`: never, for keys of these lengths.
    fn of(bytes: &[u8; KEY_BYTES]) -> Option<Self> {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(bytes);
        let seal = root.expand(&[b"seal"], &aead::CHACHA20_POLY1305).ok()?;
        let nonces = root.expand(&[b"nonce"], hmac::HMAC_SHA256).ok()?;
        let (mut id, mut all) = ([0; ID_BYTES], [0; KEY_BYTES]);
        root.expand(&[b"id"], hkdf::HKDF_SHA256).ok()?.fill(&mut all).ok()?;
        id.copy_from_slice(&all[..ID_BYTES]);
        let seal = aead::LessSafeKey::new(aead::UnboundKey::from(seal));
        Some(Self { id: KeyId(id), seal, nonces: nonces.into() })
    }

    fn nonce(&self, place: &[&[u8]], bytes: &[u8]) -> [u8; aead::NONCE_LEN] {
        let mut context = hmac::Context::with_key(&self.nonces);
        for part in place {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.update(bytes);
        let mut nonce = [0; aead::NONCE_LEN];
        nonce.copy_from_slice(&context.sign().as_ref()[..aead::NONCE_LEN]);
        nonce
    }
}

/// One text of the parts of a place.
fn associated(place: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(place.iter().map(|part| 8 + part.len()).sum());
    for part in place {
        out.extend((part.len() as u64).to_be_bytes());
        out.extend(*part);
    }
    out
}

impl Keyring {
    /// Nothing is sealed, or opened.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Of its keys.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.keys.iter().map(|key| key.id)
    }

    /// Of the key that seals; `None`: what is written is not sealed.
    pub fn sealing(&self) -> Option<KeyId> {
        self.sealing_key().map(|key| key.id)
    }

    /// How what is written now is kept: the id of a key, or [`CLEAR`].
    pub fn kept_as(&self) -> String {
        self.sealing().map_or_else(|| CLEAR.to_owned(), |id| id.to_string())
    }

    fn sealing_key(&self) -> Option<&Key> {
        self.keys.get(self.seals?)
    }

    /// Appends `bytes`, sealed for a place, to what is in `out`. Without keys, or with more bytes than any value
    /// has (64 GiB), it is an error.
    ///
    /// # Errors
    /// A bug: the caller asks first whether there are keys.
    pub fn seal(&self, place: &[&[u8]], bytes: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let key = self.sealing_key().ok_or("there is no key to seal with")?;
        let nonce = key.nonce(place, bytes);
        out.reserve(OVERHEAD + bytes.len());
        out.extend(key.id.0);
        out.extend(nonce);
        let at = out.len();
        out.extend_from_slice(bytes);
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let place = aead::Aad::from(associated(place));
        let tag = key.seal.seal_in_place_separate_tag(nonce, place, &mut out[at..]);
        out.extend(tag.map_err(|_| "it is too long to be sealed")?.as_ref());
        Ok(())
    }

    /// What [`Self::seal`] has sealed for the same place.
    ///
    /// # Errors
    /// [`Unopened`].
    pub fn open(&self, place: &[&[u8]], sealed: &[u8]) -> Result<Vec<u8>, Unopened> {
        let (id, rest) = sealed.split_first_chunk::<ID_BYTES>().ok_or(Unopened::Damaged)?;
        let (nonce, rest) = rest.split_first_chunk().ok_or(Unopened::Damaged)?;
        let key = self.keys.iter().find(|key| key.id.0 == *id);
        let key = key.ok_or(Unopened::NoKey(KeyId(*id)))?;
        let mut bytes = rest.to_vec();
        let nonce = aead::Nonce::assume_unique_for_key(*nonce);
        let place = aead::Aad::from(associated(place));
        let length = key.seal.open_in_place(nonce, place, &mut bytes);
        let length = length.map_err(|_| Unopened::Damaged)?.len();
        bytes.truncate(length);
        Ok(bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const OTHER: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

    fn sealed(keys: &Keyring, place: &[&[u8]], bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        keys.seal(place, bytes, &mut out).unwrap();
        out
    }

    proptest! {
        /// What does not come back as it was is lost.
        #[test]
        fn what_is_sealed_opens_in_its_place_alone(
            bytes in proptest::collection::vec(any::<u8>(), 0..2_000),
            place in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..4),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u32,
        ) {
            let keys = parse(ONE).unwrap();
            let place: Vec<&[u8]> = place.iter().map(Vec::as_slice).collect();
            let sealed = sealed(&keys, &place, &bytes);
            prop_assert_eq!(sealed.len(), bytes.len() + OVERHEAD);
            prop_assert_eq!(keys.open(&place, &sealed).unwrap(), bytes.clone());
            let mut elsewhere = place.clone();
            elsewhere.push(b"");
            prop_assert_eq!(keys.open(&elsewhere, &sealed), Err(Unopened::Damaged));
            let at = at.index(sealed.len());
            prop_assert!(keys.open(&place, &sealed[..at]).is_err());
            let mut damaged = sealed;
            damaged[at] ^= 1_u8 << bit;
            prop_assert!(keys.open(&place, &damaged).is_err());
            prop_assert!(bytes.len() < 16 || !damaged.windows(16).any(|it| it == &bytes[..16]));
        }
    }

    /// After a key is replaced, what the old one has sealed would be lost, or the new one not be used.
    #[test]
    fn the_first_key_seals_and_all_of_them_open() {
        let (old, new) =
            (parse(ONE).unwrap(), parse(&format!("# new\n{OTHER}\n\n{ONE}\n")).unwrap());
        let before = sealed(&old, &[b"a"], b"bytes");
        assert_eq!(new.open(&[b"a"], &before).unwrap(), b"bytes");
        let after = sealed(&new, &[b"a"], b"bytes");
        assert_ne!(before, after);
        // One that only opens seals nothing.
        let opens = parse(&format!("open:{OTHER}\n{ONE}\n")).unwrap();
        assert_eq!(opens.sealing(), old.sealing());
        assert_eq!(opens.open(&[b"a"], &after).unwrap(), b"bytes");
        assert_eq!(parse(&format!("open: {ONE}")).unwrap().sealing(), None);
        let missing = new.ids().next().unwrap();
        assert_eq!(old.open(&[b"a"], &after), Err(Unopened::NoKey(missing)));
        assert_eq!(new.ids().nth(1), old.ids().next());
        assert!(!format!("{new:?}").contains("AAEC"));
    }

    /// A snapshot's objects are named by their bytes: a put that is repeated must be the same put.
    #[test]
    fn the_same_bytes_in_the_same_place_are_sealed_to_the_same() {
        let keys = parse(ONE).unwrap();
        assert_eq!(sealed(&keys, &[b"a"], b"x"), sealed(&keys, &[b"a"], b"x"));
        assert_ne!(sealed(&keys, &[b"a"], b"x"), sealed(&keys, &[b"b"], b"x"));
        assert_ne!(sealed(&keys, &[b"ab", b"c"], b"x"), sealed(&keys, &[b"a", b"bc"], b"x"));
    }

    /// What an earlier slotd has sealed would not open any more. Computed apart from this code, in Python.
    #[test]
    fn what_was_sealed_before_opens() {
        let keys = parse(ONE).unwrap();
        let hex: String = sealed(&keys, &[b"rows", b"key"], b"value")
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let expected = "ed621b207ecee2c3f31eec58d78d33340ad3c61053685335ef2fa72681ed2165937c1fec27";
        assert_eq!(hex, expected);
    }

    /// A mistake in the file would be found when something has to be opened, and the key be in a log.
    #[test]
    fn what_is_no_key_is_refused_by_its_line() {
        for (text, why) in [
            ("", "no key"),
            ("# only a comment", "no key"),
            ("AAAA", "line 1 is no key"),
            (&format!("{ONE}\nsecret"), "line 2 is no key"),
            (&format!("{ONE}\n{ONE}"), "twice"),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "not random"),
        ] {
            let told = parse(text).unwrap_err();
            assert!(told.contains(why) && !told.contains("secret"), "{told}");
        }
        let many = (0..=limits::SEAL_KEYS_MAX).map(|_| generate().unwrap()).collect::<Vec<_>>();
        assert!(parse(&many.join("\n")).unwrap_err().contains("are allowed"));
        assert!(Keyring::default().is_empty() && !parse(&many[0]).unwrap().is_empty());
    }
}
