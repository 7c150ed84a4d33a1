//! A socket's messages on their way to their slot.

use super::{
    super::{
        Api,
        frames::{Frame, SendFrame},
        in_flight,
        messages::{outcome_unknown, room_for},
        websocket::{Heard, Message},
    },
    End, Session,
};
use crate::{
    buffers::{Buffers, Charge},
    error::Error,
    limits,
    names::SessionKey,
    node::Incoming,
    quota::Told,
};
use futures_util::FutureExt;
use std::{collections::VecDeque, pin::pin, sync::Arc};

/// Messages whose frames came together.
#[derive(Default)]
struct Burst {
    messages: VecDeque<Incoming>,
    /// Of each, in the same order.
    ids: VecDeque<(String, Charge<Arc<Buffers>>)>,
}

impl Burst {
    /// # Errors
    /// The message's id, and that there is no room for its body, or that it is over a limit.
    fn add(
        &mut self,
        api: &Api,
        key: &SessionKey,
        frame: SendFrame,
    ) -> Result<(), (String, Error)> {
        let SendFrame { id, message } = frame;
        let bytes = message.body.len();
        let mut charge = room_for(api, api.buffers().clone(), &key.service, Some(bytes));
        let admitted = charge.take(bytes).and_then(|()| {
            let client = message.client.as_deref();
            api.limiter().admit(key, client, bytes, Some(&id), &mut Told::default())
        });
        if let Err(refused) = admitted {
            return Err((id, refused));
        }
        self.messages.push_back(message);
        self.ids.push_back((id, charge));
        Ok(())
    }
}

impl Session {
    /// Puts a message, and those behind it that have been read too, into its slot's mailbox before anything
    /// else is read, so that the order of the frames is the order of the messages.
    pub(super) async fn send(&mut self, first: SendFrame) -> Result<(), End> {
        let mut burst = Burst::default();
        let mut next = Some(first);
        let mut refused = None;
        while let Some(frame) = next.take() {
            if let Err(full) = burst.add(&self.api, &self.key, frame) {
                // Those before it do not wait for its answer.
                refused = Some(full);
                break;
            }
            if self.pending.len() + burst.ids.len() < limits::SOCKET_IN_FLIGHT_MAX {
                next = self.next_send();
            }
        }
        let sent = self.enqueue(burst).await;
        match refused {
            Some((id, error)) => {
                // Many frames may have been read at once.
                tokio::task::consume_budget().await;
                sent.and(self.decided(&id, Err(error)).await)
            }
            None => sent,
        }
    }

    /// The next message, if its frame has been read and nothing else comes before it.
    fn next_send(&mut self) -> Option<SendFrame> {
        let heard = self.wire.next_of_rest()?;
        if let Heard::Message(Message::Text(text)) = &heard
            && let Ok(Frame::Send(frame)) = self.parse(text)
        {
            return Some(frame);
        }
        self.wire.put_back(heard);
        None
    }

    /// Several at once as far as their slot takes them, else one after the other.
    async fn enqueue(&mut self, burst: Burst) -> Result<(), End> {
        let Burst { mut messages, mut ids } = burst;
        let until = crate::clock::timer_now() + self.api.options().request_deadline;
        let mut taken = true;
        while taken && messages.len() > 1 {
            let before = messages.len();
            let (pending, late_at) = (&mut self.pending, &mut self.late_at);
            self.api.backend().enqueue_ready(&self.key, &mut messages, |answer| {
                if let Some((id, charge)) = ids.pop_front() {
                    late_at.get_or_insert(until);
                    pending.push(in_flight::Message { id, answer, until, _held: charge });
                }
            });
            taken = messages.len() < before;
            // Their handlers have run right here: now it is others' turn.
            if taken && !messages.is_empty() {
                tokio::task::yield_now().await;
            }
        }
        let mut ended = Ok(());
        for (message, (id, charge)) in messages.into_iter().zip(ids) {
            let queued = {
                let mut enqueue = pin!(self.api.backend().enqueue(&self.key, message));
                // Without a timer if it need not wait, which is nearly always.
                match enqueue.as_mut().now_or_never() {
                    Some(queued) => Ok(queued),
                    None => tokio::time::timeout_at(until, enqueue).await,
                }
            };
            let refused = match queued {
                Ok(Ok(answer)) => {
                    self.late_at.get_or_insert(until);
                    self.pending.push(in_flight::Message { id, answer, until, _held: charge });
                    continue;
                }
                Ok(Err(error)) => error,
                Err(_) => outcome_unknown(),
            };
            ended = ended.and(self.decided(&id, Err(refused)).await);
        }
        ended
    }
}
