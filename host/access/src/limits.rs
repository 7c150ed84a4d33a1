//! Every limit of this crate, with its reason.

use std::time::Duration;

/// Bytes of what is shown as a bearer. Servers commonly take 8 KiB of a header, and tokens of the large issuers have 1 to
/// 4 KiB.
pub const BEARER_BYTES_MAX: usize = 8 * 1024;

/// Named tokens of a cluster. They are one value of the registry, at some 300 bytes each, and all nodes have them in memory.
pub const TOKENS_MAX: usize = 1_000;
/// Grants of a named token: each request of it looks at all of them.
pub const GRANTS_MAX: usize = 32;
/// Patterns of a rule or a grant.
pub const PATTERNS_MAX: usize = 64;
/// Rules of a policy: each request looks at all of them, which takes some 20 µs for so many.
pub const RULES_MAX: usize = 1_000;
/// Who a rule is for, at most.
pub const WHO_MAX: usize = 64;
/// Claims that a rule asks for in `when`.
pub const WHEN_MAX: usize = 16;
/// Issuers of a policy. Each has its keys in memory and is asked for them.
pub const ISSUERS_MAX: usize = 32;
/// Audiences of an issuer.
pub const AUDIENCES_MAX: usize = 32;
/// Keys that sign components.
pub const SIGNING_KEYS_MAX: usize = 256;
/// Tables of services in a policy, as many as there may be services with settings of their own.
pub const SERVICES_MAX: usize = 1_024;
/// Places that are redacted in captures of a service: each is looked for in each value.
pub const REDACTIONS_MAX: usize = 100;
/// Origins of a service: each request with an `Origin` looks at all of them.
pub const ORIGINS_MAX: usize = 64;
/// Bytes of the policy's file: so many rules, with room. A larger one is some other file.
pub const POLICY_BYTES_MAX: usize = 1024 * 1024;
/// Faults of a policy that are listed. Nobody reads more.
pub const FAULTS_MAX: usize = 100;

/// Bytes of a pattern. A service's name has 64 at most, a session's id 256.
pub const PATTERN_BYTES_MAX: usize = 512;
/// Bytes of the name of a token, an issuer or a key, as those of services.
pub const NAME_BYTES_MAX: usize = 64;

/// Bytes of a subject. It is written into each record of a message, and shown.
pub const SUBJECT_BYTES_MAX: usize = 256;
/// Claims of an identity, and of an issuer's `claims`. Handlers get them with each message.
pub const CLAIMS_MAX: usize = 32;
/// Bytes of an identity's claims, with their names: they are written into each record of a message.
pub const CLAIMS_BYTES_MAX: usize = 4 * 1024;
/// Bytes of the name of a claim. Some are URLs.
pub const CLAIM_NAME_BYTES_MAX: usize = 128;

/// The shortest life of a minted token: less would end before it is used.
pub const MINTED_TTL_MIN: Duration = Duration::from_secs(1);
/// The longest life of a minted token: it can't be revoked by itself.
pub const MINTED_TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The life of a minted token unless its minter says otherwise: long enough for a page to ask for the next in time.
pub const MINTED_TTL_DEFAULT: Duration = Duration::from_secs(10 * 60);
/// How far the clock of the node that minted a token may be ahead. Nodes of a cluster have their clocks set.
pub const MINTED_SKEW: Duration = Duration::from_secs(60);

/// How far an issuer's clock may be from this node's, unless its table says otherwise.
pub const SKEW_DEFAULT: Duration = Duration::from_secs(30);
/// The most that an issuer's `skew` may be: tokens live so much longer than they say.
pub const SKEW_MAX: Duration = Duration::from_secs(5 * 60);
/// The last time that a token may name, in seconds: the end of the year 9999. What is more is no date.
pub const TIME_MAX: u64 = 253_402_300_799;

/// Bytes of a JWKS, and of a discovery document. The large issuers have 2 to 10 KiB.
pub const KEYS_BYTES_MAX: usize = 256 * 1024;
/// Keys of a JWKS. Issuers have some two to ten; a set of more is refused as a whole, so that it is seen.
pub const KEYS_MAX: usize = 100;
/// Keys that a signature is tried with, if the token does not name one, or several have that name.
pub const KEYS_TRIED_MAX: usize = 4;
/// Bytes of a key's `kid`. They are hashes or UUIDs mostly.
pub const KEY_ID_BYTES_MAX: usize = 512;
/// How long keys are kept at least, whatever their `Cache-Control` says: an issuer is not asked for each request.
pub const KEYS_KEPT_MIN: Duration = Duration::from_secs(60);
/// How long keys are kept at most, whatever their `Cache-Control` says: a key that was withdrawn has to end.
pub const KEYS_KEPT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long keys are kept if nothing is said of it.
pub const KEYS_KEPT_DEFAULT: Duration = Duration::from_secs(10 * 60);
/// From one fetch of an issuer's keys to the next: tokens of unknown keys, which anybody can send, ask for no more.
pub const KEYS_FETCH_PAUSE: Duration = Duration::from_secs(10);
/// Characters of a claim that an explanation shows: enough to see what is wrong with a URL or a list.
pub const CLAIM_SHOWN_CHARS: usize = 200;
/// How far the time of a request may be before that of a fetch until the clock counts as set back. It is that of another
/// thread, which may have been paused.
pub const CLOCK_BACK_MAX: Duration = Duration::from_secs(60);
/// To fetch an issuer's keys, discovery included. Requests wait for it.
pub const KEYS_FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// To connect to an issuer, so that one that does not answer leaves time to say so.
pub const KEYS_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
