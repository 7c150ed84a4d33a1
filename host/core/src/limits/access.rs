//! Who may do what. What identities, tokens and policies may be like is in `slotd-access`.

use std::time::Duration;

/// How often it is looked whether the policy has changed, as long as secrets.
pub const POLICY_LOOK: Duration = Duration::from_secs(5);
/// The body of a request about tokens and rights: a bearer of 8 KiB, or a grant of 64 patterns of 512 bytes.
pub const ACCESS_BODY_BYTES_MAX: usize = 64 * 1024;
/// The shortest life of a named token: less would end before it is used.
pub const NAMED_TTL_MIN: Duration = Duration::from_secs(1);
/// The longest life that a named token can be given; without one, it does not end.
pub const NAMED_TTL_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3_600);
/// The longest that a timer is set to for a token's end: far away, it is looked at again before.
pub const TOKEN_END_LOOK: Duration = Duration::from_secs(24 * 3_600);
/// The file of a lone node's named tokens: a thousand, with room. A larger file is some other one.
pub const TOKENS_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// For how long a browser need not ask again whether a page may send a request. Browsers keep it for two hours at most, and
/// what the policy says may change.
pub const PREFLIGHT_KEPT: Duration = Duration::from_secs(600);
/// Of a field's name in an error about a body. Those that there are, are shorter.
pub const FIELD_SHOWN_BYTES: usize = 128;
