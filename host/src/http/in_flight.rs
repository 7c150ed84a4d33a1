//! A socket's messages in flight: read, and not answered.

use super::messages::outcome_unknown;
use crate::{
    buffers::{Buffers, Charge},
    error::Error,
    message::Pending,
    node::Sent,
};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::time::Instant;

/// A message's id, and what became of it.
pub(super) type Decided = (String, Result<Sent, Error>);

pub(super) struct Message {
    pub id: String,
    pub answer: Pending,
    /// When it is not waited for any longer. The socket's timer sees to it: a timer for each message
    /// would cost more than the rest of it.
    pub until: Instant,
    pub _held: Charge<Arc<Buffers>>,
}

/// An idle socket keeps room for so many.
const KEPT: usize = 4;

/// They are of one session, so those in a slot of this node are decided in their order, but for repeats and
/// refusals, which may wait for what is before them: only the first is waited for, and a commit of
/// many wakes the socket once. Those that go to other nodes are each waited for.
#[derive(Default)]
pub(super) struct InFlight {
    here: VecDeque<Waiting>,
    around: FuturesUnordered<Waiting>,
}

struct Waiting {
    message: Message,
    late: bool,
}

impl Future for Waiting {
    type Output = Decided;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Decided> {
        let result = match self.message.answer.poll_unpin(cx) {
            Poll::Ready(result) => result,
            Poll::Pending if self.late => Err(outcome_unknown()),
            Poll::Pending => return Poll::Pending,
        };
        Poll::Ready((std::mem::take(&mut self.message.id), result))
    }
}

impl InFlight {
    pub(super) fn len(&self) -> usize {
        self.here.len() + self.around.len()
    }

    pub(super) fn push(&mut self, message: Message) {
        let is_here = message.answer.is_here();
        let waiting = Waiting { message, late: false };
        match is_here {
            true => self.here.push_back(waiting),
            false => self.around.push(waiting),
        }
    }

    /// The next one that is decided, or late; `None`: there are no more.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Decided>> {
        if let Some(first) = self.here.front_mut()
            && let Poll::Ready(decided) = first.poll_unpin(cx)
        {
            self.here.pop_front();
            if self.here.is_empty() && self.here.capacity() > KEPT {
                self.here = VecDeque::new();
            }
            return Poll::Ready(Some(decided));
        }
        match self.around.poll_next_unpin(cx) {
            Poll::Ready(None) if !self.here.is_empty() => Poll::Pending,
            next => next,
        }
    }

    /// Gives up those whose time is over; says when the next one's is.
    pub(super) fn give_up_late(&mut self, now: Instant) -> Option<Instant> {
        let late = |waiting: &Waiting| waiting.late || waiting.message.until <= now;
        for waiting in &mut self.here {
            waiting.late = late(waiting);
        }
        // In a new set, which looks at each of them once more.
        self.around = std::mem::take(&mut self.around)
            .into_iter()
            .map(|waiting| Waiting { late: late(&waiting), ..waiting })
            .collect();
        let all = self.here.iter().chain(self.around.iter());
        all.map(|waiting| waiting.message.until).filter(|&until| until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{buffers::Kind, error::Code};
    use std::{task::Waker, time::Duration};
    use tokio::sync::oneshot;

    type Answer = oneshot::Sender<Result<Sent, Error>>;

    fn message(id: &str, until: Instant, answer: Pending) -> Message {
        let charge = Charge::new(Arc::new(Buffers::new(0)), Kind::Bodies);
        Message { id: id.to_owned(), answer, until, _held: charge }
    }

    fn here(in_flight: &mut InFlight, id: &str, until: Instant) -> Answer {
        let (answer, pending) = oneshot::channel();
        in_flight.push(message(id, until, Pending::here(pending)));
        answer
    }

    /// The next that is decided, with its error's code; `None`: there is none now.
    fn next(in_flight: &mut InFlight) -> Option<(String, Code)> {
        match in_flight.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some((id, result))) => Some((id, result.unwrap_err().code)),
            Poll::Ready(None) | Poll::Pending => None,
        }
    }

    fn refused() -> Result<Sent, Error> {
        Err(Error::new(Code::MailboxFull, "says the test"))
    }

    /// A message on its way to another node would hold up those that are decided here, or the other way round.
    #[tokio::test]
    async fn those_of_this_node_and_those_of_others_do_not_wait_for_each_other() {
        let (mut in_flight, until) = (InFlight::default(), crate::clock::timer_now());
        let first = here(&mut in_flight, "first", until);
        let (there, pending) = oneshot::channel();
        let pending = async move { pending.await.unwrap() };
        in_flight.push(message("there", until, Pending::on_its_way(Box::pin(pending))));
        let second = here(&mut in_flight, "second", until);
        assert_eq!((in_flight.len(), next(&mut in_flight)), (3, None));
        there.send(refused()).unwrap();
        assert_eq!(next(&mut in_flight), Some(("there".into(), Code::MailboxFull)));
        second.send(refused()).unwrap();
        assert_eq!(next(&mut in_flight), None, "it was decided with the first, or waits for it");
        first.send(refused()).unwrap();
        assert_eq!(next(&mut in_flight), Some(("first".into(), Code::MailboxFull)));
        assert_eq!(next(&mut in_flight), Some(("second".into(), Code::MailboxFull)));
        assert_eq!((in_flight.len(), next(&mut in_flight)), (0, None));
    }

    /// A client would wait for ever for the answer of a message that its slot does not come to.
    #[tokio::test]
    async fn messages_whose_time_is_over_are_given_up() {
        let (mut in_flight, now) = (InFlight::default(), crate::clock::timer_now());
        let later = now + Duration::from_secs(1);
        let [first, second] = ["first", "second"].map(|id| here(&mut in_flight, id, now));
        let (there, pending) = oneshot::channel::<Result<Sent, Error>>();
        let pending = async move { pending.await.unwrap() };
        in_flight.push(message("there", now, Pending::on_its_way(Box::pin(pending))));
        let third = here(&mut in_flight, "third", later);
        assert_eq!((in_flight.give_up_late(now), in_flight.len()), (Some(later), 4));
        // What is decided in the last moment counts.
        second.send(refused()).unwrap();
        assert_eq!(next(&mut in_flight), Some(("first".into(), Code::OutcomeUnknown)));
        assert_eq!(next(&mut in_flight), Some(("second".into(), Code::MailboxFull)));
        assert_eq!(next(&mut in_flight), Some(("there".into(), Code::OutcomeUnknown)));
        assert_eq!(next(&mut in_flight), None);
        assert!(first.is_closed() && there.is_closed(), "a slot would apply it for nobody");
        assert!(!third.is_closed());
        assert_eq!(in_flight.give_up_late(later), None);
        assert_eq!(next(&mut in_flight), Some(("third".into(), Code::OutcomeUnknown)));
    }

    /// Each of many thousand idle sockets would keep room for all that it may have in flight.
    #[tokio::test]
    async fn an_idle_socket_keeps_no_room_for_a_burst() {
        let (mut in_flight, until) = (InFlight::default(), crate::clock::timer_now());
        let answers: Vec<_> = (0..64).map(|_| here(&mut in_flight, "", until)).collect();
        for answer in answers {
            answer.send(refused()).unwrap();
            assert!(next(&mut in_flight).is_some());
        }
        assert!(in_flight.here.capacity() <= KEPT, "{}", in_flight.here.capacity());
    }
}
