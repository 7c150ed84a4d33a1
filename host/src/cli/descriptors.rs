//! File descriptors: how many the process may have, and how they are divided.

use crate::{http::PlaceLimits, limits};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The listeners' share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    pub api: PlaceLimits,
    pub admin: PlaceLimits,
    /// For the store, components, links to NATS and to peers, requests of sessions.
    pub kept: u64,
}

/// Requests as many as the system allows, and divides them. Logs the result.
/// `outbound`: connections of requests that sessions make.
pub fn divide(api: usize, api_per_address: usize, outbound: usize) -> Descriptors {
    let limit = raise();
    let divided = of(limit, api, api_per_address, outbound);
    let Descriptors { api: for_api, admin, kept } = divided;
    tracing::info!(
        limit,
        kept,
        api = for_api.max,
        api_per_address = for_api.per_address,
        admin = admin.max,
        "file descriptors assigned"
    );
    if for_api.max < api {
        tracing::warn!(
            limit,
            asked = api,
            connections = for_api.max,
            "too few file descriptors for api.connections, so the API accepts fewer connections; \
             raise the limit (ulimit -n), or lower api.connections"
        );
    }
    divided
}

/// Many systems give 1,024 unless asked. `None`: unlimited.
fn raise() -> Option<u64> {
    let now = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: now.maximum, maximum: now.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => now.maximum,
        Err(_) => now.current,
    }
}

/// `per_address` 0: half of the API's.
fn of(limit: Option<u64>, api: usize, per_address: usize, outbound: usize) -> Descriptors {
    let share = |max: usize| match per_address {
        0 => max.div_ceil(2),
        given => given.min(max),
    };
    let (mut for_api, mut admin) =
        (PlaceLimits::new(api), PlaceLimits::new(limits::ADMIN_CONNECTIONS_MAX));
    for_api.per_address = share(api);
    let wanted = limits::FILES_BESIDE_CONNECTIONS + outbound as u64;
    let Some(limit) = limit else {
        return Descriptors { api: for_api, admin, kept: wanted };
    };
    let kept = wanted.min(limit / 2);
    let mut left = usize::try_from(limit - kept).unwrap_or(usize::MAX);
    // The admin listener first: it matters most when there are few.
    let mut give = |listener: &mut PlaceLimits, part: usize| {
        let beside = listener.probes + listener.ending;
        let most = left / part;
        if beside > most / 4 {
            listener.probes = (most / 12).max(1);
            listener.ending = (most / 6).max(1);
        }
        let beside = listener.probes + listener.ending;
        listener.max = listener.max.min(most.saturating_sub(beside)).max(1);
        left = left.saturating_sub(listener.descriptors());
    };
    give(&mut admin, 4);
    admin.per_address = admin.max.div_ceil(2);
    give(&mut for_api, 1);
    for_api.per_address = share(for_api.max);
    Descriptors { api: for_api, admin, kept }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Without it open connections use up the descriptors that the store needs to write.
    #[test]
    fn where_there_are_few_the_store_keeps_its_own() {
        let plenty = of(Some(1_048_576), 10_000, 0, 0);
        assert_eq!((plenty.api.max, plenty.api.per_address), (10_000, 5_000));
        assert_eq!((plenty.admin.max, plenty.kept), (256, 512));
        assert_eq!(of(None, 10_000, 0, 0), plenty);
        assert_eq!(of(None, 10_000, 20_000, 0).api.per_address, 10_000);
        let usual = of(Some(1_024), 10_000, 0, 0);
        assert!((100..500).contains(&usual.api.max) && usual.admin.max > 80, "{usual:?}");
        assert_eq!(usual.kept, 512);
        let few = of(Some(128), 10_000, 0, 0);
        assert!(few.kept == 64 && few.api.max > 20 && few.admin.max > 5, "{few:?}");
        // Nor may requests that sessions make use them up.
        assert_eq!(of(Some(1_048_576), 10_000, 0, 1_024).kept, 1_536);
    }

    proptest! {
        #[test]
        fn no_more_is_given_than_there_is(
            limit in 32_u64..2_000_000, api in 1_usize..1_000_000, each in 0_usize..1_000_000,
            outbound in 0_usize..2_000,
        ) {
            let Descriptors { api: given, admin, kept } = of(Some(limit), api, each, outbound);
            let sum = given.descriptors() as u64 + admin.descriptors() as u64 + kept;
            prop_assert!(sum <= limit, "{given:?} {admin:?} {kept}");
            prop_assert!((1..=api).contains(&given.max) && admin.max >= 1);
            prop_assert!((1..=given.max).contains(&given.per_address));
        }
    }
}
