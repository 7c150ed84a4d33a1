//! Limits at the edge: a request of a client is refused here, before its slot hears of it.

use super::Quota;
use crate::{
    error::{Code, Error},
    limits,
    message::Client,
    names::SessionKey,
    telemetry::services,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use slotd_quota::{
    counts::Open,
    decision::{Decision, Left, Refusal},
    headers,
};
use std::{sync::Arc, time::Duration};

static POLICY: HeaderName = HeaderName::from_static(headers::RATE_LIMIT_POLICY);
static RATE_LIMIT: HeaderName = HeaderName::from_static(headers::RATE_LIMIT);

/// What the gateway asks.
#[derive(Clone)]
pub struct Limiter {
    quota: Quota,
    is_real: Arc<IsReal>,
    refused: Arc<Refused>,
}

/// Whether there is such a service.
type IsReal = dyn Fn(&SessionKey) -> bool + Send + Sync;
/// Told of each that is refused, and of whom, where there is such a service.
type Refused = dyn Fn(&SessionKey, Option<&Client>) + Send + Sync;

/// What an answer tells of rates: nothing where a service has none.
#[derive(Default)]
pub struct Told(Option<Box<Rates>>);

struct Rates {
    policy: Option<Arc<str>>,
    limit: Limit,
}

enum Limit {
    None,
    Left(Left),
    Refused(Refusal),
}

impl Limiter {
    pub fn new(
        quota: Quota,
        is_real: impl Fn(&SessionKey) -> bool + Send + Sync + 'static,
        refused: impl Fn(&SessionKey, Option<&Client>) + Send + Sync + 'static,
    ) -> Self {
        Self { quota, is_real: Arc::new(is_real), refused: Arc::new(refused) }
    }

    /// Lets a message, a query or an ephemeral event through, and draws what it costs. `told` is for its answer.
    ///
    /// # Errors
    /// `rate-limited`. Nothing was drawn.
    pub fn admit(
        &self,
        key: &SessionKey,
        client: Option<&Client>,
        bytes: usize,
        id: Option<&str>,
        told: &mut Told,
    ) -> Result<(), Error> {
        let decision = self.quota.check(key, client, bytes, id, || (self.is_real)(key));
        let (limit, result) = match decision {
            // All that is asked of a service without limits.
            Decision::Allowed(None) => (Limit::None, Ok(())),
            Decision::Allowed(Some(left)) => (Limit::Left(left), Ok(())),
            Decision::Refused(refusal) => {
                self.count(key, client);
                (Limit::Refused(refusal), Err(refused(&refusal)))
            }
        };
        let policy = self.quota.policy_header(key.service.as_str());
        if policy.is_some() || !matches!(limit, Limit::None) {
            told.0 = Some(Box::new(Rates { policy, limit }));
        }
        result
    }

    fn count(&self, key: &SessionKey, client: Option<&Client>) {
        services::failed(&key.service, Code::RateLimited);
        // Clients name services: each name would have an account.
        if (self.is_real)(key) {
            (self.refused)(key, client);
        }
    }

    /// Counts a socket or an event stream until it is dropped.
    ///
    /// # Errors
    /// `rate-limited`: there are as many as there may be.
    pub fn open_socket(&self, key: &SessionKey, client: Option<&Client>) -> Result<Open, Error> {
        self.quota.open_socket(key, client).map_err(|full| {
            self.count(key, client);
            let detail = format!("sockets and event streams: {full}; close one, or retry later");
            let mut error = Error::new(Code::RateLimited, detail);
            error.retry_after = Some(limits::SOCKETS_RETRY_AFTER);
            error
        })
    }
}

fn refused(refusal: &Refusal) -> Error {
    let mut error = Error::new(Code::RateLimited, refusal.to_string());
    // Whole milliseconds, as a socket has them: not before it is true.
    let ms = u64::try_from(refusal.after.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    error.retry_after = Some(Duration::from_millis(ms.max(1)));
    error
}

impl Told {
    /// `Retry-After` is written with the error.
    pub fn write(self, to: &mut HeaderMap) {
        let Some(rates) = self.0 else { return };
        let Rates { policy, limit } = *rates;
        let limit = match limit {
            Limit::None => None,
            Limit::Left(left) => Some(headers::rate_limit(&left)),
            Limit::Refused(refusal) => headers::rate_limit_refused(&refusal),
        };
        let policy = policy.and_then(|policy| HeaderValue::from_str(&policy).ok());
        let limit = limit.and_then(|limit| HeaderValue::try_from(limit).ok());
        for (name, value) in [(&POLICY, policy), (&RATE_LIMIT, limit)] {
            if let Some(value) = value {
                to.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotd_quota::policy::{Count, Limits};
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    /// Whoever names a million services would fill the accounts of a day, and theirs who use what there is would be added up.
    #[test]
    fn what_is_refused_of_a_service_that_is_none_has_no_account() {
        let quota = Quota::default();
        let limits = Limits { sockets: Some(Count(0)), ..Limits::default() };
        quota.set([("*", &limits)]);
        let told = Arc::<AtomicU32>::default();
        let counted = told.clone();
        let limiter = Limiter::new(
            quota,
            |key| key.service.as_str() == "chat",
            move |_, _| _ = counted.fetch_add(1, Relaxed),
        );
        for (service, refused) in [("none", 0), ("chat", 1)] {
            let key = SessionKey::parse(service, "room").unwrap();
            let error = limiter.open_socket(&key, None).unwrap_err();
            assert_eq!((error.code, told.load(Relaxed)), (Code::RateLimited, refused));
        }
    }
}
