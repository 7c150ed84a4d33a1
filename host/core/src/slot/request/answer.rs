//! Gives a session's handler the answers to its requests over HTTP.

use crate::{
    effects::{Effect, GivenUp, Origin, http::Answer, rows::Name},
    error::Error,
    limits,
    slot::{
        apply::Came,
        fire::{is_the_handlers, nobody},
        receive::refusal,
        session::Session,
        shell::Shell,
    },
    telemetry::{metrics, repeats},
};
use std::sync::Arc;

impl Shell {
    /// Gives the handler the answer to a request that is open. If the handler fails it, or can't be called, the answer is
    /// kept in the request's place.
    ///
    /// # Errors
    /// Why the handler can't be called. The answer is kept.
    pub(in crate::slot) async fn deliver_fresh(
        &mut self,
        session: Box<Session>,
        id: String,
        answer: Answer,
    ) -> (Box<Session>, Result<(), Error>) {
        let open = Name::Request(id.clone());
        let (mut session, told) = self.tell(session, &id, &answer, open.clone()).await;
        let Err(error) = told else { return (session, Ok(())) };
        if is_the_handlers(&error) {
            self.answer_failed(&mut session, open, &id, &answer, &error);
            return (session, Ok(()));
        }
        self.record_effects(&mut session, |effects| {
            let gone = effects.change(open, None)?;
            let kept = Effect::Answer(effects.kept(answer).into());
            Ok(vec![gone, effects.change(Name::Answer(id), Some(kept))?])
        });
        (session, Err(error))
    }

    /// As [`Self::deliver_fresh`], of one that was kept.
    pub(in crate::slot) async fn deliver_answer(
        &mut self,
        session: Box<Session>,
        id: String,
        answer: Arc<Answer>,
    ) -> (Box<Session>, Result<(), Error>) {
        let kept = Name::Answer(id.clone());
        let (mut session, told) = self.tell(session, &id, &answer, kept.clone()).await;
        match told {
            Ok(()) => {}
            Err(error) if is_the_handlers(&error) => {
                self.answer_failed(&mut session, kept, &id, &answer, &error);
            }
            Err(error) => return (session, Err(error)),
        }
        self.core.due().went(&session.key.service);
        (session, Ok(()))
    }

    async fn tell(
        &mut self,
        session: Box<Session>,
        id: &str,
        answer: &Answer,
        from: Name,
    ) -> (Box<Session>, Result<(), Error>) {
        let content = (answer.content_type.clone(), answer.body.clone());
        let origin = Origin::Http(answer.answered(id));
        let came = Came { origin, left: Some((from, None)), asked: None, trace: answer.trace };
        self.apply_effect(session, content, came, &mut nobody).await
    }

    /// Writes down that the handler has failed an answer. `from` is where that was.
    fn answer_failed(
        &mut self,
        session: &mut Session,
        from: Name,
        id: &str,
        answer: &Answer,
        error: &Error,
    ) {
        let now_ms = crate::clock::now_ms();
        let refusal = refusal(error);
        let again = answer.failed(&refusal.reason, now_ms);
        let is_final = !refusal.retriable || again.is_exhausted();
        let mut died = false;
        self.record_effects(session, |effects| {
            let gone = effects.change(from, None)?;
            let dead = GivenUp::new(again.clone(), &refusal, now_ms);
            let dead = Effect::DeadAnswer(dead.into());
            if !is_final || !effects.has_room_for(&dead) {
                let later = now_ms.saturating_add(limits::EFFECT_RETRY_MAX_MS);
                let next_ms = if is_final { later } else { again.next_ms };
                let kept = effects.kept(Answer { next_ms, ..again });
                let kept = Effect::Answer(kept.into());
                return Ok(vec![gone, effects.change(Name::Answer(id.to_owned()), Some(kept))?]);
            }
            died = true;
            let mut time = now_ms;
            while effects.get(&Name::DeadAnswer(id.to_owned(), time)).is_some() {
                time += 1;
            }
            Ok(vec![gone, effects.change(Name::DeadAnswer(id.to_owned(), time), Some(dead))?])
        });
        if !died {
            return;
        }
        metrics().requests_dead.increment(1);
        if repeats::admit("an answer was given up", &session.key.service) {
            tracing::warn!(
                slot = self.slot,
                session = %session.key,
                id,
                code = refusal.code,
                reason = refusal.reason,
                "gave up on the answer to a request over HTTP; retry with slotd dead retry"
            );
        }
    }
}
