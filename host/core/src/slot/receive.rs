//! Handles what sessions of other slots have sent to those of this one.
//!
//! A message and the number that it came with are one batch, so it is handled once however often it is sent. What
//! can't be handled is refused and leaves no trace; nothing behind it is looked at, since a later number would say
//! that it had arrived.

use crate::{
    effects::{
        Origin, Outcome, Outgoing, Received,
        rows::Value as _,
        send::{Arrival, Asked, Content, Mark, Place, Refusal},
    },
    error::{Cause, Code, Error},
    level::SENDS_FROM,
    limits,
    log::record::{self, Record},
    message::Consistency,
    names::SlotId,
    operation::{Deliver, Delivered, Delivery, Refused},
    plugin::Caller,
    slot::{
        Reply, apply::Came, fire::is_the_handlers, mail::Serve, session::Session, shell::Shell,
    },
    telemetry::{metrics, repeats},
};
impl Serve for Deliver {
    async fn serve(self, shell: &mut Shell, mut reply: Reply<Delivered>) {
        let received = shell.receive(self, &mut |cx| reply.poll_closed(cx)).await;
        let last = shell.core.last_change();
        match &received {
            // A refusal rests on what the slot has: another node must not have written meanwhile.
            Ok(delivered) if delivered.refused.is_none() => shell.hold(last, reply, received),
            _ => shell.hold_read(last, Consistency::Current, reply, received),
        }
    }
}

/// Why a message is not handled.
enum Failed {
    /// It is refused.
    Refused { refusal: Refusal, counts: bool },
    /// Nothing more is handled now: the slot moves or stops, or nothing can be kept.
    Later(Error),
}

impl Failed {
    /// By what a call, or what it needs, has ended with. What says something of one service or session must hold up
    /// no other.
    fn of(error: &Error) -> Self {
        let all = |cause: Cause| match cause {
            Cause::NotYet => false,
            Cause::Storage | Cause::Full | Cause::Undecided => true,
            cause => cause.may_be_elsewhere(),
        };
        if error.cause.is_some_and(all) {
            return Self::Later(error.clone());
        }
        // What will not go away by itself comes to an end some time.
        let lasts = error.is(Cause::NoService) || error.code == Code::Internal;
        Self::Refused { refusal: refusal(error), counts: lasts || is_the_handlers(error) }
    }

    /// What it leads to has no room in its session. That is no attempt.
    fn full(detail: String) -> Self {
        let error = Error::of(Cause::OutboxFull, detail);
        Self::Refused { refusal: refusal(&error), counts: false }
    }

    /// It can never be handled.
    fn for_good(reason: String) -> Self {
        let code = Code::Internal.as_str().to_owned();
        Self::Refused { refusal: Refusal { code, reason, retriable: false }, counts: true }
    }
}

impl Shell {
    async fn receive(
        &mut self,
        Deliver { from, to: _, round, messages }: Deliver,
        caller: &mut Caller<'_>,
    ) -> Result<Delivered, Error> {
        let slot_count = self.context.options.slot_count;
        if self.context.level.get() < SENDS_FROM {
            let detail = format!("messages between sessions need feature level {SENDS_FROM}");
            return Err(Error::of(Cause::NotYet, detail));
        }
        let is_of_here =
            |it: &Delivery| it.from.slot(slot_count) == from && it.number.term <= round.term;
        if from >= slot_count
            || messages.len() > limits::DELIVERY_MAX
            || !messages.iter().all(is_of_here)
        {
            return Err(Error::new(Code::RequestInvalid, "these are no messages of that slot"));
        }
        let mut mark = self.core.outbox().received(from);
        match mark.arrival(round) {
            Arrival::New => {}
            // What it has may have been taken back.
            Arrival::Void => return Ok(Delivered { last: mark.last, refused: None }),
            Arrival::OfEarlierTerm => {
                let detail = format!(
                    "slot {from} is at term {}, and has sent at term {}: its log may have been \
                     restored to an earlier time",
                    round.term, mark.round.term
                );
                if repeats::admit("messages of an earlier term", from) {
                    tracing::error!(slot = self.slot, from, "{detail}; its messages wait");
                }
                return Err(Error::of(Cause::ViewsDiffer, detail));
            }
        }
        mark.round = round;
        let (begun, mut handled, mut refused) = (crate::clock::now(), 0, None);
        for message in messages {
            let number = message.number;
            if mark.has(number) {
                handled += 1;
                continue;
            }
            // Mail and orders come in between.
            if handled > 0 && (begun.elapsed() >= limits::DUE_TURN || !self.core.batch_has_room()) {
                break;
            }
            let received = self.receive_one(from, message, caller).await;
            match received {
                Ok(()) => {
                    handled += 1;
                    mark.last = number;
                }
                Err(Failed::Refused { refusal, counts }) => {
                    refused = Some(Refused { number, refusal, counts });
                }
                Err(Failed::Later(error)) if handled == 0 => return Err(error),
                Err(Failed::Later(_)) => break,
            }
            // A refusal, too: what comes late of an earlier piece must not be handled after it.
            self.mark(from, mark);
            self.see_commits().await;
            if refused.is_some() || self.core.is_broken() || self.long.are_likely() {
                break;
            }
        }
        // Where nothing was new, too: its sender takes earlier pieces for void from now on.
        if self.core.outbox().received(from).round != round {
            self.mark(from, mark);
        }
        Ok(Delivered { last: mark.last, refused })
    }

    fn mark(&mut self, from: SlotId, mark: Mark) {
        self.core.push(Record::Received(record::Received { from, mark }));
    }

    async fn receive_one(
        &mut self,
        from: SlotId,
        delivery: Delivery,
        caller: &mut Caller<'_>,
    ) -> Result<(), Failed> {
        let outgoing = Outgoing::decode(&delivery.outgoing);
        let outgoing = outgoing.map_err(|why| {
            Failed::for_good(format!("a message from slot {from} can't be decoded: {why}"))
        })?;
        if outgoing.to.slot(self.context.options.slot_count) != self.slot {
            return Err(Failed::for_good(format!("{} is not in slot {}", outgoing.to, self.slot)));
        }
        let service = self.check_not_removed(&outgoing.to.service);
        service.map_err(|error| Failed::of(&error))?;
        let session = self.take_session(&outgoing.to).map_err(|error| Failed::of(&error))?;
        let (session, received) = match outgoing.content.clone() {
            Content::Message { reply } => {
                self.receive_message(session, delivery, outgoing, reply, caller).await
            }
            Content::Reply(asked) => {
                self.receive_reply(session, asked, delivery, outgoing, caller).await
            }
        };
        self.put_session(session);
        received
    }

    async fn receive_message(
        &mut self,
        mut session: Box<Session>,
        delivery: Delivery,
        outgoing: Outgoing,
        reply: Option<String>,
        caller: &mut Caller<'_>,
    ) -> (Box<Session>, Result<(), Failed>) {
        // Its reply has to have room.
        if reply.is_some() {
            match session.load_effects(&*self.context.store, self.slot) {
                Ok(effects) if effects.outbox_has_room() => {}
                Ok(_) => {
                    let detail = format!("{} has too many messages on their way", session.key);
                    return (session, Err(Failed::full(detail)));
                }
                Err(error) => return (session, Err(Failed::of(&error.into()))),
            }
        }
        let (number, asker) = (delivery.number, delivery.from.clone());
        let asked = reply.map(|name| Asked {
            name,
            place: Place { to: self.slot, number },
            session_number: delivery.session_number,
            sent_by: outgoing.sent_by,
        });
        let received = Received {
            from: asker.clone(),
            sent_by: outgoing.sent_by,
            attempt: outgoing.failures.saturating_add(1),
            hops: outgoing.hops,
            reply: asked.is_some(),
        };
        let came = Came {
            origin: Origin::Session(received),
            left: None,
            asked: asked.map(|asked| (asker, asked)),
            trace: outgoing.trace,
        };
        let content = (outgoing.content_type, outgoing.body);
        let (session, handled) = self.apply_effect(session, content, came, caller).await;
        if handled.is_ok() {
            metrics().sends_received.increment(1);
        }
        (session, handled.map_err(|error| Failed::of(&error)))
    }

    async fn receive_reply(
        &mut self,
        mut session: Box<Session>,
        asked: Asked,
        delivery: Delivery,
        outgoing: Outgoing,
        caller: &mut Caller<'_>,
    ) -> (Box<Session>, Result<(), Failed>) {
        // Who asked was deleted: nobody waits for it, and it must not make the session anew.
        if !session.exists() || session.head.session_number != asked.session_number {
            return (session, Ok(()));
        }
        match session.load_effects(&*self.context.store, self.slot) {
            // Nor does a session that is closed hear of it.
            Ok(effects) if effects.is_closed() => return (session, Ok(())),
            Ok(_) => {}
            Err(error) => return (session, Err(Failed::of(&error.into()))),
        }
        let outcome = Outcome {
            of: delivery.from,
            name: asked.name,
            refusal: None,
            content_type: outgoing.content_type.clone(),
            body: outgoing.body.clone(),
            hops: outgoing.hops,
            failures: 0,
            next_ms: 0,
            reason: String::new(),
            sent_by: asked.sent_by,
        };
        let origin = Origin::Answer(outcome.answered());
        let came = Came { origin, left: None, asked: None, trace: outgoing.trace };
        let content = (outgoing.content_type, outgoing.body);
        let (mut session, handled) = self.apply_effect(session, content, came, caller).await;
        let received = match handled {
            Ok(()) => {
                metrics().sends_received.increment(1);
                Ok(())
            }
            Err(error) if is_the_handlers(&error) => {
                // It is the handler's that asked: kept here, and tried again here.
                self.keep_outcome(&mut session, asked.place, &outcome, &error)
            }
            Err(error) => Err(Failed::of(&error)),
        };
        (session, received)
    }

    fn keep_outcome(
        &mut self,
        session: &mut Session,
        place: Place,
        outcome: &Outcome,
        error: &Error,
    ) -> Result<(), Failed> {
        let room = session.effects.as_ref().is_some_and(|effects| effects.outbox_has_room());
        if !room {
            let detail = format!("{} has too many outcomes that its handler failed", session.key);
            return Err(Failed::full(detail));
        }
        self.outcome_failed(session, place, outcome, error);
        Ok(())
    }
}

/// What the sender is told: a handler's own rejection, or why slotd did not have it handled.
pub(super) fn refusal(error: &Error) -> Refusal {
    match &error.rejection {
        Some(rejection) => Refusal {
            code: rejection.code.clone(),
            reason: crate::text::cut(&rejection.message, limits::EFFECT_REASON_BYTES_MAX)
                .to_owned(),
            retriable: rejection.retriable,
        },
        None => Refusal {
            code: error.code.as_str().to_owned(),
            reason: crate::text::cut(&error.detail, limits::EFFECT_REASON_BYTES_MAX).to_owned(),
            // A later version of the handler may do it.
            retriable: !error.is(Cause::Closed),
        },
    }
}
