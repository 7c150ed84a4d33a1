//! The cluster's secret: making one, and refusing weak ones.
//!
//! Messages between nodes are authenticated by keys derived from the secret, over data that anyone
//! on the path can read. Anyone who captures one such message can guess secrets offline, as fast as
//! their machines compute. So the secret itself must be unguessable, and no slow key derivation
//! makes up for one that a person invented.

use crate::{limits, random};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// Identifies the text wherever it turns up, and lets scanners for leaked secrets find it.
const PREFIX: &str = "slotd-";

/// A new secret of 256 random bits, valid in a header, an environment variable and a line of a
/// file.
pub fn generate() -> String {
    loop {
        let secret = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random::bytes::<32>()));
        // Random output may by chance look like words.
        if check(&secret).is_ok() {
            return secret;
        }
    }
}

/// An upper estimate of the bits that an attacker has to guess, from the form of the secret; at
/// least [`limits::CLUSTER_SECRET_BITS_MIN`] are required.
///
/// It adds up what each character may be worth, by the alphabet in use: 4 bits in hexadecimal, 6 in
/// base64. Words count 2 bits per letter, and repeats count once. It is an estimate that refuses
/// secrets made up by people; it can't tell that a secret is random.
pub fn strength_bits(secret: &str) -> u32 {
    let unit = without_repeats(secret.as_bytes());
    let mut distinct = unit.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let distinct = distinct.len() as u32;
    // Of 32 random hexadecimal digits, fewer than 8 are distinct once in 27 million times.
    if distinct < 8 {
        return distinct * 4;
    }
    unit.len() as u32 * hundredths_of_bits(unit) / 100
}

/// What one character is worth.
fn hundredths_of_bits(secret: &[u8]) -> u32 {
    let any = |is: fn(&u8) -> bool| secret.iter().any(is);
    let (lower, upper) = (any(u8::is_ascii_lowercase), any(u8::is_ascii_uppercase));
    if secret.iter().all(u8::is_ascii_digit) {
        332
    } else if secret.iter().all(u8::is_ascii_hexdigit) {
        400
    } else if is_words(secret) {
        200
    } else if lower && upper {
        600
    } else if any(u8::is_ascii_digit) {
        517
    } else {
        470
    }
}

/// The part that is repeated; all of it if nothing is.
fn without_repeats(secret: &[u8]) -> &[u8] {
    let repeats = |every: &usize| secret.iter().zip(&secret[*every..]).all(|(a, b)| a == b);
    // An end that equals the beginning is coincidence, not a repeat.
    let unit = (1..=secret.len() / 2).find(repeats).unwrap_or(secret.len());
    &secret[..unit]
}

/// Whether letters follow each other as in words: half of all pairs are among the most frequent
/// ones of English, against one in 11 in random letters.
fn is_words(secret: &[u8]) -> bool {
    const PAIRS: &[u8] = b"alanarasatbabecechclcodeeaecedeleneresethahehihoicinioisitlalelilllo\
        mamendnengntofomonoroupararerirosesisttatethtitourusve";
    let (mut pairs, mut frequent) = (0, 0);
    for pair in secret.windows(2) {
        if pair.iter().all(u8::is_ascii_alphabetic) {
            pairs += 1;
            let pair = pair.to_ascii_lowercase();
            frequent += usize::from(PAIRS.chunks_exact(2).any(|known| known == pair));
        }
    }
    pairs >= 6 && 2 * frequent >= pairs
}

/// Why a secret must not be used, and how to fix it.
///
/// # Errors
/// It has fewer than [`limits::CLUSTER_SECRET_BITS_MIN`] bits.
pub fn check(secret: &str) -> Result<(), String> {
    let (bits, least) = (strength_bits(secret), limits::CLUSTER_SECRET_BITS_MIN);
    if bits >= least {
        return Ok(());
    }
    Err(format!(
        "too weak: it looks like {bits} bits, and anyone who captures one message between nodes \
         can guess it. At least {least} bits are needed: 22 random base64 characters, or 32 \
         hexadecimal. Make one with `slotd cluster secret`. To keep using this one until all \
         nodes can be stopped and changed, set cluster.accept_weak_secret = true"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;

    /// A secret that the program generates must never be refused, nor one that is as long as the
    /// documentation asks for, whatever the random output.
    #[test]
    fn random_secrets_are_strong() {
        let mut weak = 0;
        for _ in 0..2_000 {
            let made = generate();
            assert!(made.len() == PREFIX.len() + 43 && check(&made).is_ok(), "{made}");
            let hex = random::hex_id();
            assert!(check(&hex).is_ok(), "{hex}");
            let base64 = STANDARD.encode(random::bytes::<32>());
            assert!(check(&base64).is_ok(), "{base64}");
            weak += usize::from(check(&STANDARD.encode(random::bytes::<16>())).is_err());
        }
        // 22 characters and their padding: too few to distinguish from words each time.
        assert!(weak <= 20, "{weak} of 2000");
    }

    /// Each of these can be guessed by trying what people use.
    #[test]
    fn secrets_that_people_make_up_are_weak() {
        for secret in [
            "password",
            "correct-horse-battery-staple",
            "another-secret-altogether",
            "replace-me-cluster-secret",
            "this-is-my-very-long-cluster-secret",
            "Our-Production-Cluster-Secret",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "0123456789012345678901234567890123456789",
            "Tr0ub4dor&3Tr0ub4dor&3Tr0ub4dor&3",
            "1f2e3d4c5b6a79881f2e3d4c5b6a7988",
        ] {
            let told = check(secret).unwrap_err();
            assert!(told.contains("`slotd cluster secret`") && !told.contains(secret), "{told}");
        }
        // Ten random words of a list are 129 bits.
        let drawn = "bronze-lantern-meadow-thirteen-oyster-cabinet-velvet-harness-pilot-orchard";
        assert!(check(drawn).is_ok());
    }
}
