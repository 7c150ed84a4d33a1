//! Tells handlers that want to know it when the first subscriber of their session comes, and when the last has gone. And
//! whether a session is closed, and where it comes from.

use crate::{
    effects::{
        Effect, Forked, Origin,
        http::{NO_TYPE, Watch},
        rows::{Due, Name},
    },
    error::Error,
    level::{EFFECTS_FROM, FORKED_FROM, HTTP_FROM},
    limits,
    slot::{
        apply::Came,
        fire::{is_the_handlers, nobody},
        session::Session,
        shell::Shell,
    },
    telemetry::repeats,
};
use bytes::Bytes;
use std::sync::Arc;

impl Shell {
    /// Whether a session takes no more messages.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn is_closed(&self, session: &mut Session) -> Result<bool, Error> {
        // This node may not have heard yet that the level is above that.
        if !session.exists() || self.context.level.get() < EFFECTS_FROM {
            return Ok(false);
        }
        if let Some(effects) = &session.effects {
            return Ok(effects.is_closed());
        }
        if let Some(was_closed) = session.was_closed {
            return Ok(was_closed);
        }
        let closed = self.effect_of(session, &Name::Closed)?.is_some();
        Ok(*session.was_closed.insert(closed))
    }

    /// Where a session comes from, if it was forked off another one.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn forked(&self, session: &mut Session) -> Result<Option<Arc<Forked>>, Error> {
        if let Some(forked) = &session.forked {
            return Ok(forked.clone());
        }
        let forked = match session.exists() && self.context.level.get() >= FORKED_FROM {
            false => None,
            true => match self.effect_of(session, &Name::Forked)? {
                Some(Effect::Forked(forked)) => Some(forked),
                _ => None,
            },
        };
        // This node may not have heard yet that the level is above that.
        if session.exists() && self.context.level.get() >= FORKED_FROM {
            session.forked = Some(forked.clone());
        }
        Ok(forked)
    }

    /// One effect of a session that is not in the cache: as it has it in memory, else as the store does.
    fn effect_of(&self, session: &Session, name: &Name) -> Result<Option<Effect>, Error> {
        match &session.effects {
            Some(effects) => Ok(effects.get(name).cloned()),
            None => self.effect(&session.key, session.head.session_number, name),
        }
    }

    /// A session has one more subscriber: its handler is told, if it wants to be and does not know of one.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn subscriber_came(&mut self, session: &mut Session) -> Result<(), Error> {
        if !session.exists() || self.context.level.get() < HTTP_FROM {
            return Ok(());
        }
        let Some(Effect::Watch(watch)) = self.effect_of(session, &Name::Watch)? else {
            return Ok(());
        };
        if watch.next_ms.is_some() {
            return Ok(());
        }
        session.load_effects(&*self.context.store, self.slot)?;
        let due = Watch { next_ms: Some(crate::clock::now_ms()), ..watch };
        self.record_effects(session, |effects| {
            Ok(vec![effects.change(Name::Watch, Some(Effect::Watch(due)))?])
        });
        Ok(())
    }

    /// Sees whether the handler is to be told of the session's subscribers.
    ///
    /// # Errors
    /// Why the handler can't be called now.
    pub(super) async fn look_at_subscribers(
        &mut self,
        mut session: Box<Session>,
        due: &Due,
        watch: Watch,
    ) -> (Box<Session>, Result<(), Error>) {
        let (now, number) = (crate::clock::now(), session.head.session_number);
        let is_present = self.subscribers.has(&session.key);
        if is_present {
            self.absent_since.remove(&number);
        }
        match (watch.present, is_present) {
            (true, true) => {
                self.core.due().park(due, &session.key, now + limits::PRESENCE_LOOK);
                (session, Ok(()))
            }
            (true, false) => {
                let since = match self.absent_since.get(&number) {
                    Some(since) => *since,
                    None => {
                        // Sessions may have been deleted meanwhile.
                        let most = 2 * limits::ABSENT_AFTER;
                        self.absent_since.retain(|_, since| now.duration_since(*since) < most);
                        *self.absent_since.entry(number).or_insert(now)
                    }
                };
                let told = since + limits::ABSENT_AFTER;
                if now < told {
                    self.core.due().park(due, &session.key, told.min(now + limits::PRESENCE_LOOK));
                    return (session, Ok(()));
                }
                self.absent_since.remove(&number);
                self.tell_presence(session, watch, false).await
            }
            (false, true) => self.tell_presence(session, watch, true).await,
            (false, false) => {
                self.watch_on(&mut session, Watch { next_ms: None, ..watch });
                (session, Ok(()))
            }
        }
    }

    async fn tell_presence(
        &mut self,
        session: Box<Session>,
        watch: Watch,
        present: bool,
    ) -> (Box<Session>, Result<(), Error>) {
        let next_ms = present.then(crate::clock::now_ms);
        let told = Watch { present, next_ms, ..watch };
        let content = (NO_TYPE.to_owned(), Bytes::new());
        let left = Some((Name::Watch, Some(Effect::Watch(told))));
        let came = Came { origin: Origin::Presence(present), left, asked: None, trace: None };
        let (mut session, handled) = self.apply_effect(session, content, came, &mut nobody).await;
        match handled {
            Ok(()) => {}
            // It is asked for no more than the news: they are old when it would be tried again.
            Err(error) if is_the_handlers(&error) => {
                if repeats::admit("a handler fails news of subscribers", &session.key.service) {
                    tracing::warn!(
                        slot = self.slot,
                        session = %session.key,
                        present,
                        %error,
                        "a handler has failed the news that its session's subscribers came or went"
                    );
                }
                self.watch_on(&mut session, told);
            }
            Err(error) => return (session, Err(error)),
        }
        self.core.due().went(&session.key.service);
        (session, Ok(()))
    }

    fn watch_on(&mut self, session: &mut Session, watch: Watch) {
        self.record_effects(session, |effects| {
            Ok(vec![effects.change(Name::Watch, Some(Effect::Watch(watch)))?])
        });
    }
}
