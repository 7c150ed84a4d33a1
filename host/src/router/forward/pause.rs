//! How a request waits until it is worth another try.

use crate::{backoff::Backoff, error::Error, limits, slot::seat::Place};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// Where a slot was in an attempt's time.
pub(super) struct Seen {
    /// The attempt went by it.
    at: Place,
    /// Once whoever was asked had named another owner; else the same.
    since: Place,
}

impl Seen {
    pub fn of(at: Place) -> Self {
        Self { since: at.clone(), at }
    }

    /// The slot's place after whoever was asked had named another owner.
    pub fn then(&mut self, place: Place) {
        self.since = place;
    }

    fn is_left(&self, place: &Place) -> bool {
        *place != self.at && *place != self.since
    }
}

/// Half to all of a step.
pub(super) fn backoff() -> Backoff {
    Backoff::new(limits::FORWARD_RETRY_MIN, limits::FORWARD_RETRY_MAX).spread(0.5..1.0)
}

/// Waits for one back-off step, or until the slot is at neither place of `seen`. Requests that ask
/// nodes which name each other change the place to and fro: that wakes none of them.
///
/// # Errors
/// `trouble`, when the deadline has passed.
pub(super) async fn pause(
    mut place: watch::Receiver<Place>,
    seen: &Seen,
    backoff: &mut Backoff,
    deadline: Instant,
    trouble: Error,
) -> Result<(), Error> {
    let until = (crate::clock::timer_now() + backoff.next()).min(deadline);
    // Also a change before the subscription counts.
    let _ = timeout_at(until, place.wait_for(|place| seen.is_left(place))).await;
    match crate::clock::timer_now() < deadline {
        true => Ok(()),
        false => Err(trouble),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Cause;
    use futures_util::poll;
    use std::{pin::pin, time::Duration};

    const STEP: Duration = Duration::from_secs(1);

    fn away(owner: &str, term: u64) -> Place {
        Place::Away { owner: Some(owner.into()), term }
    }

    fn trouble() -> Error {
        Error::of(Cause::NoOwner, "nobody")
    }

    /// The request went to `b`, which named `c`.
    fn seen() -> (watch::Sender<Place>, Seen, Backoff) {
        let mut seen = Seen::of(away("b", 1));
        seen.then(away("c", 1));
        (watch::Sender::new(away("c", 1)), seen, Backoff::new(STEP, STEP))
    }

    /// A request that never tried again by itself would depend on news that may not come, and one that
    /// outlived its deadline would keep its client waiting.
    #[tokio::test(start_paused = true)]
    async fn without_news_a_request_waits_for_a_step_and_never_past_its_deadline() {
        let (place, seen, mut backoff) = seen();
        let start = Instant::now();
        let deadline = start + STEP + STEP / 2;
        let mut waits =
            async || pause(place.subscribe(), &seen, &mut backoff, deadline, trouble()).await;
        waits().await.unwrap();
        assert!(start.elapsed() >= STEP && Instant::now() < deadline);
        assert!(waits().await.is_err_and(|error| error.is(Cause::NoOwner)));
        assert!(Instant::now() < deadline + STEP / 10);
    }

    /// Otherwise each request would wait out its step after the slot has come to rest; or, woken by every
    /// change, requests that ask two nodes which name each other would keep each other awake.
    #[tokio::test(start_paused = true)]
    async fn only_a_place_that_is_news_ends_the_wait() {
        let (place, seen, mut backoff) = seen();
        let start = Instant::now();
        let deadline = start + 9 * STEP;
        {
            let mut wait = pin!(pause(place.subscribe(), &seen, &mut backoff, deadline, trouble()));
            for known in [away("b", 1), away("c", 1), away("b", 1)] {
                assert!(poll!(&mut wait).is_pending());
                place.send_replace(known);
            }
            assert!(poll!(&mut wait).is_pending());
            place.send_replace(Place::Moving);
            wait.await.unwrap();
        }
        // Before it began to wait.
        pause(place.subscribe(), &seen, &mut backoff, deadline, trouble()).await.unwrap();
        assert_eq!(Instant::now(), start);
    }
}
