//! What clients are told of limits: `RateLimit-Policy`, `RateLimit` and `Retry-After`.
//!
//! The first two as draft-ietf-httpapi-ratelimit-headers-11 has them, structured fields (RFC 9651): each limit is a
//! String with parameters. A bucket is shown as a window: `w` is the time of its burst in whole seconds, `q` what its
//! rate gives in that. `RateLimit` names one limit, the one that is nearest to its end. The draft has no unit for time
//! that a handler uses, so limits of guest time are in `Retry-After` alone.

use crate::{
    decision::{Left, Limit, Refusal, What, retry_after, whole_seconds},
    rate::Quota,
};
use std::fmt::Write;

pub const RATE_LIMIT_POLICY: &str = "ratelimit-policy";
pub const RATE_LIMIT: &str = "ratelimit";
pub const RETRY_AFTER: &str = "retry-after";

/// The largest Integer of structured fields.
const INTEGER_MAX: u64 = 999_999_999_999_999;

/// The value of `RateLimit-Policy`.
pub(crate) fn policy(quotas: impl Iterator<Item = (Limit, Quota)>) -> Option<String> {
    let mut value = String::new();
    for (limit, quota) in quotas {
        if !value.is_empty() {
            value.push_str(", ");
        }
        let (q, w) = (quota.per_window().min(INTEGER_MAX), quota.window_seconds());
        // A `String` takes all that is written to it.
        let _ = write!(value, "\"{limit}\";q={q};w={w}");
        if limit.what == What::Bytes {
            value.push_str(";qu=\"content-bytes\"");
        }
    }
    (!value.is_empty()).then_some(value)
}

/// The value of `RateLimit` in an answer to a message that was let through.
pub fn rate_limit(left: &Left) -> String {
    let (r, t) = (left.remaining.min(INTEGER_MAX), whole_seconds(left.full_in).min(INTEGER_MAX));
    format!("\"{}\";r={r};t={t}", left.limit)
}

/// The value of `RateLimit` in an answer to one that was not. `None`: its limit is none that the draft knows.
pub fn rate_limit_refused(refusal: &Refusal) -> Option<String> {
    let t = retry_after(refusal.after).min(INTEGER_MAX);
    (refusal.limit.what != What::GuestTime).then(|| format!("\"{}\";r=0;t={t}", refusal.limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        buckets::{Asks, Buckets},
        decision::Decision,
        policy::Limits,
    };
    use std::time::Duration;

    #[test]
    fn headers_are_structured_fields_that_name_the_same_limits() {
        let text = "messages = \"1000/s\"\nbytes = \"10MiB/s\"\nburst = \"2500ms\"\nguest_time = \"1s/s\"\n\
                    [session]\nmessages = \"30/m\"";
        let (buckets, limits): (_, Limits) = (Buckets::default(), toml::from_str(text).unwrap());
        buckets.set([("chat", &limits)], Duration::ZERO);
        assert_eq!(
            buckets.policy_header("chat").as_deref(),
            Some(
                "\"service-messages\";q=3000;w=3, \
                 \"service-bytes\";q=31457280;w=3;qu=\"content-bytes\", \
                 \"session-messages\";q=1;w=1"
            )
        );
        let asks = Asks { service: "chat", subject: None, session: "one", bytes: 1, key: None };
        let now = Duration::from_secs(9);
        let Decision::Allowed(Some(left)) = buckets.check(&asks, now) else { panic!() };
        // One of half a message: the next is there in two seconds.
        assert_eq!(rate_limit(&left), "\"session-messages\";r=0;t=2");
        let Decision::Refused(refused) = buckets.check(&asks, now) else { panic!() };
        assert_eq!(rate_limit_refused(&refused).unwrap(), "\"session-messages\";r=0;t=2");
        assert_eq!(retry_after(refused.after), 2);
        assert_eq!(retry_after(Duration::ZERO), 1);
        assert_eq!(retry_after(Duration::from_millis(1_001)), 2);
    }
}
