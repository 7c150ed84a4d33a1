//! Requests of operators on the effects of sessions: timers, messages to other sessions, requests over HTTP, and messages that
//! were given up.

use super::*;
use crate::{
    level::{EFFECTS_FROM, HTTP_FROM, Level, SENDS_FROM},
    operation::{ChangeEffect, EffectAction, EffectsPage, ListEffects, Which},
    rpc::or_too_old,
    slot::open::read_copy,
};

/// What of a service is listed over all slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EffectKind {
    /// Timers, and what is tried again of them: in order of the time.
    Due,
    /// By session.
    Dead,
    /// What was sent to other sessions, or asked for over HTTP, and is not done with.
    Outbox,
}

impl EffectKind {
    /// Below this feature level there is none of it, and not every node knows what is asked.
    fn level(self) -> Level {
        match self {
            Self::Due | Self::Dead => EFFECTS_FROM,
            Self::Outbox => SENDS_FROM,
        }
    }
}

impl Node {
    /// All effects of a session.
    ///
    /// # Errors
    /// `session-not-found`, `service-not-found`, and any error of a read.
    pub async fn session_effects(&self, key: &SessionKey) -> Result<EffectsPage, Error> {
        if self.context.level.get() < EFFECTS_FROM {
            // There are none; but the session may not be there either.
            let consistency = Consistency::Current;
            self.ask(operation::Describe { key: key.clone(), consistency }).await?;
            return Ok(EffectsPage::default());
        }
        let slot = key.slot(self.router.slot_count());
        let which = Which::Session(key.clone());
        let limit = limits::PAGE_ENTRIES_MAX;
        self.ask(ListEffects { slot, which, limit }).await.map_err(or_too_old)
    }

    /// Effects of a service over all slots, after a place among them. A page may have fewer than `limit`,
    /// or none, and not be the last: each slot looks at some of what it has.
    ///
    /// # Errors
    /// `service-not-found`, and any error of a read of one of the slots.
    pub async fn effects(
        &self,
        service: &ServiceName,
        kind: EffectKind,
        after: Option<Bytes>,
        limit: usize,
    ) -> Result<EffectsPage, Error> {
        self.context.catalogue.require(service)?;
        if self.context.level.get() < kind.level() {
            return Ok(EffectsPage::default());
        }
        let slots = 0..self.router.slot_count();
        // Most of what one page shows is of several slots.
        let of_slot = (4 * limit / slots.len() + limits::EFFECTS_OF_SLOT_MIN).min(limit);
        let asked = slots.map(|slot| {
            let (service, after) = (service.clone(), after.clone());
            let which = match kind {
                EffectKind::Due => Which::Due { service, after },
                EffectKind::Dead => Which::Dead { service, after },
                EffectKind::Outbox => Which::Outbox { service, after },
            };
            self.effects_of_slot(ListEffects { slot, which, limit: of_slot })
        });
        let mut asked = futures_util::stream::iter(asked).buffered(limits::SLOTS_LISTED_AT_A_TIME);
        let mut pages = Vec::new();
        while let Some(page) = asked.next().await {
            pages.push(page?);
        }
        Ok(merged(pages, limit))
    }

    /// As `Node::list_slot`: a running slot answers itself, for one that does not run the store has everything.
    async fn effects_of_slot(&self, listing: ListEffects) -> Result<EffectsPage, Error> {
        let (slot, service) = (listing.slot, listing.which.service());
        let since = self.context.catalogue.get(service).map_or(0, |known| known.since);
        if !self.router.rests(slot)?
            || (since > 0 && self.may_have_sessions(service, slot, since)?)
        {
            return self.ask(listing).await.map_err(or_too_old);
        }
        let (reply, answer) = oneshot::channel();
        read_copy(slot, self.context.clone(), listing.mail(reply)).await;
        answer.await.unwrap_or_else(|_| Err(gone(Purpose::Read)))
    }

    /// Does something with an effect of a session.
    ///
    /// # Errors
    /// `timer-not-found`, the slot's error; `outcome-unknown` if it is not known whether it was done.
    pub async fn change_effect(&self, key: &SessionKey, action: EffectAction) -> Result<(), Error> {
        let (level, what) = match action {
            EffectAction::RetryDeadSend(_) | EffectAction::DropDeadSend(_) => {
                (SENDS_FROM, "messages to other sessions")
            }
            EffectAction::CancelRequest { .. }
            | EffectAction::RetryDeadAnswer { .. }
            | EffectAction::DropDeadAnswer { .. } => (HTTP_FROM, "requests over HTTP"),
            EffectAction::CancelTimer { .. }
            | EffectAction::RetryDead { .. }
            | EffectAction::DropDead { .. } => (EFFECTS_FROM, "timers"),
        };
        if self.context.level.get() < level {
            // Nobody has one, and not every node knows what is asked.
            return Err(Error::new(
                Code::TimerNotFound,
                format!("{key} has no {what}: they need feature level {level}"),
            ));
        }
        let done = self.ask(ChangeEffect { key: key.clone(), action: action.clone() });
        done.await.map_err(or_too_old)?;
        tracing::info!(session = %key, ?action, "an operator changed an effect of a session");
        Ok(())
    }
}

/// The first of all slots' pages, up to where every slot has looked. What has the same place is kept together:
/// the next page begins behind it.
fn merged(pages: Vec<EffectsPage>, limit: usize) -> EffectsPage {
    let horizon = pages.iter().filter_map(|page| page.reached.clone()).min();
    let mut found: Vec<_> = pages.into_iter().flat_map(|page| page.found).collect();
    found.retain(|it| horizon.as_ref().is_none_or(|horizon| it.place <= *horizon));
    found.sort_by(|a, b| a.place.cmp(&b.place));
    let last = limit.checked_sub(1).and_then(|at| found.get(at)).map(|it| it.place.clone());
    let Some(last) = last else { return EffectsPage { found, reached: horizon } };
    let shown = found.partition_point(|it| it.place <= last);
    let is_cut = shown < found.len() || horizon.is_some();
    found.truncate(shown);
    EffectsPage { found, reached: Some(last).filter(|_| is_cut) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        effects::{Effect, Timer, When, rows::Name},
        operation::Found,
    };
    use proptest::prelude::*;

    fn found(place: u8, name: u16) -> Found {
        let timer = Timer {
            when: When::Once,
            due_ms: 0,
            next_ms: 0,
            failures: 0,
            reason: String::new(),
            content_type: String::new(),
            body: Bytes::new(),
            set_by: 1,
        };
        let session = SessionId::parse("s").unwrap_or_else(|error| panic!("{error}"));
        let name = Name::Timer(name.to_string());
        Found::new(Bytes::copy_from_slice(&[place]), session, name, Effect::Timer(timer.into()))
    }

    /// As a slot does: up to `limit` after a place, all of one place together.
    fn page(of: &[Found], after: Option<&Bytes>, limit: usize) -> EffectsPage {
        let mut found = Vec::new();
        let mut rest = of.iter().filter(|it| after.is_none_or(|after| it.place > *after));
        let mut reached = None;
        for it in rest.by_ref() {
            if found.len() >= limit && reached.as_ref() != Some(&it.place) {
                return EffectsPage { found, reached };
            }
            reached = Some(it.place.clone());
            found.push(it.clone());
        }
        EffectsPage { found, reached: None }
    }

    proptest! {
        /// A dead message that no page shows is never tried again; one that two pages show is confusing. Two
        /// slots may have something at the same place.
        #[test]
        fn pages_show_everything_once(
            slots in proptest::collection::vec(proptest::collection::vec(0u8..12, 0..30), 1..6),
            limit in 1usize..8,
            of_slot in 1usize..8,
        ) {
            let mut names = 0..;
            let slots: Vec<Vec<Found>> = slots.into_iter().map(|mut places| {
                places.sort_unstable();
                places.into_iter().map(|place| found(place, names.next().unwrap_or(0))).collect()
            }).collect();
            let mut wanted: Vec<_> = slots.iter().flatten().map(|it| it.name.clone()).collect();
            let (mut shown, mut after) = (Vec::new(), None);
            for _ in 0..1_000 {
                let pages = slots.iter().map(|slot| page(slot, after.as_ref(), of_slot)).collect();
                let page = merged(pages, limit);
                prop_assert!(page.reached.is_none() || page.reached > after, "no progress");
                shown.extend(page.found);
                after = page.reached;
                if after.is_none() {
                    break;
                }
            }
            prop_assert!(shown.is_sorted_by_key(|it| &it.place));
            let mut names: Vec<_> = shown.into_iter().map(|it| it.name).collect();
            names.sort();
            wanted.sort();
            prop_assert_eq!(names, wanted);
        }
    }
}
