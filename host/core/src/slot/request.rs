//! Has requests over HTTP made that sessions ask for, once they are durable, and writes down what came of them.

mod answer;
mod stream;

pub use stream::RESTARTED;
use stream::{Shown, gather};

use crate::{
    clock::milliseconds,
    effects::{
        Effect,
        http::{Answer, Got, Outcome, Request},
        rows::{Due, Name},
    },
    error::{Cause, Error},
    limits,
    names::{ServiceName, SessionKey},
    plugin::Failure,
    slot::{overlay::Transaction, session::Session, shell::Shell},
    telemetry::repeats,
};
use futures_util::{FutureExt, future::BoxFuture};
use std::{
    any::Any,
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

/// Makes requests over HTTP, within what a node's operator allows.
pub trait Requester: Send + Sync + 'static {
    /// Whether a request may be made at all: what can be known without the network.
    ///
    /// # Errors
    /// Why not.
    fn check(&self, from: &ServiceName, request: &Request) -> Result<(), NotMade>;

    /// Makes one attempt, when it is its turn. What comes of a body that is shown, as text or as the data of one
    /// event, goes to `chunks` meanwhile; the server waits for who takes them. Dropping the future ends the attempt.
    fn attempt(
        &self,
        attempt: Attempt,
        chunks: Option<mpsc::Sender<String>>,
    ) -> BoxFuture<'static, Attempted>;
}

/// Why a request is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotMade {
    /// The service may not; the sentence says what.
    Forbidden(String),
    /// It is no request that can be made.
    Invalid(String),
}

/// One attempt at a request.
pub struct Attempt {
    pub from: SessionKey,
    pub request: Arc<Request>,
    /// The same for each attempt at it.
    pub idempotency_key: String,
    /// Until its deadline.
    pub left: Duration,
}

/// What came of one.
pub struct Attempted {
    pub got: Got,
    /// `None`: that is the answer. Else another attempt is to be made, unless the request's own attempts are over.
    pub again: Option<Again>,
    /// Memory that is charged for the answer until it is written down.
    pub held: Box<dyn Any + Send>,
}

/// When a request is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    pub wait: Duration,
    /// It was an attempt, and not that the node lacked something.
    pub counts: bool,
}

/// An open request, and its session.
type Open = (Box<Session>, Arc<Request>);

/// What has become of an attempt.
pub(super) enum Requested {
    /// Something has come that is shown.
    Shown(Shown),
    Ended(Ended),
}

/// Of which request of which session it is.
#[derive(Clone, Debug)]
struct Which {
    due: Due,
    key: SessionKey,
    id: String,
    /// A later request may have the same id.
    asked_by: u64,
}

pub(super) struct Ended {
    which: Arc<Which>,
    attempted: Option<Attempted>,
}

/// The attempts that a slot has under way. What of them is not written down when the slot ends is made again by its next
/// owner.
pub(super) struct Requesting {
    attempts: JoinSet<Ended>,
    by_row: HashMap<Due, AbortHandle>,
    shown: mpsc::Receiver<Shown>,
    show: mpsc::Sender<Shown>,
}

impl Default for Requesting {
    fn default() -> Self {
        // One that waits for each stream at most.
        let (show, shown) = mpsc::channel(limits::STREAM_PARTS_WAITING_MAX);
        Self { attempts: JoinSet::new(), by_row: HashMap::new(), shown, show }
    }
}

impl Requesting {
    pub(super) fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Requested> {
        if self.attempts.is_empty() {
            return Poll::Pending;
        }
        if let Poll::Ready(Some(shown)) = self.shown.poll_recv(cx) {
            return Poll::Ready(Requested::Shown(shown));
        }
        loop {
            match self.attempts.poll_join_next(cx) {
                Poll::Ready(Some(Ok(ended))) => return Poll::Ready(Requested::Ended(ended)),
                // It was aborted.
                Poll::Ready(Some(Err(_))) => {}
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Shell {
    /// Whether the requests of a message may be made.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check_requests(&self, tx: &Transaction) -> Result<(), Failure> {
        let from = &tx.session().key.service;
        for (id, request) in tx.requests() {
            let checked = match self.context.requester.get() {
                Some(requester) => requester.check(from, request),
                None => Err(NotMade::Forbidden("this node makes no requests over HTTP".into())),
            };
            checked.map_err(|why| match why {
                NotMade::Forbidden(why) => Failure::RequestForbidden(format!(
                    "service {from} may not make the request {id:?}: {why}; its operator allows it with \
                     `effects.http`"
                )),
                NotMade::Invalid(why) => {
                    Failure::Limit(format!("requests: {id:?} can't be made: {why}"))
                }
            })?;
        }
        Ok(())
    }

    /// Has a request made that is due; its answer instead, if it is too late for another attempt.
    ///
    /// # Errors
    /// Why it can't be made now.
    pub(super) fn begin_request(
        &mut self,
        session: &Session,
        due: &Due,
        (id, request): (String, Arc<Request>),
        now_ms: u64,
    ) -> Result<Option<Answer>, Error> {
        if now_ms >= request.deadline_ms {
            return Ok(Some(request.too_late(now_ms)));
        }
        let Some(requester) = self.context.requester.get().cloned() else {
            return Err(Error::of(Cause::NotYet, "this node makes no requests over HTTP"));
        };
        let now = crate::clock::now();
        if self.requesting.by_row.len() >= limits::REQUESTS_UNDER_WAY_MAX {
            let wait = limits::REQUESTS_FULL_PAUSE + self.core.due().crowd();
            self.core.due().park(due, &session.key, now + wait);
            return Ok(None);
        }
        let which = Arc::new(Which {
            due: due.clone(),
            key: session.key.clone(),
            id,
            asked_by: request.asked_by,
        });
        let attempt = Attempt {
            from: session.key.clone(),
            idempotency_key: idempotency_key(&which, &request),
            left: Duration::from_millis(request.deadline_ms - now_ms),
            request: request.clone(),
        };
        let show = self.requesting.show.clone();
        let attempted = async move {
            let Some(_) = request.stream else {
                return Ended {
                    attempted: unless_panicked(requester.attempt(attempt, None)).await,
                    which,
                };
            };
            let (to, chunks) = mpsc::channel(limits::STREAM_CHUNKS_WAITING_MAX);
            let attempted = unless_panicked(requester.attempt(attempt, Some(to)));
            let shown = gather(which.clone(), chunks, show);
            // What was shown is written down before the answer is.
            let (attempted, ()) = tokio::join!(attempted, shown);
            Ended { which, attempted }
        };
        let task = crate::task::run_in(&mut self.requesting.attempts, attempted);
        self.requesting.by_row.insert(due.clone(), task);
        self.core.due().begins(due, &session.key);
        // Its end is polled by the slot's task.
        self.attention = true;
        Ok(None)
    }

    /// Ends what nobody waits for any more: it was cancelled, or its session is closed or deleted.
    pub(super) fn abort_cancelled(&mut self) {
        for row in self.core.due().take_cancelled() {
            if let Some(task) = self.requesting.by_row.remove(&row) {
                task.abort();
            }
        }
    }

    pub(super) async fn on_requested(&mut self, requested: Requested) {
        match requested {
            Requested::Shown(shown) => self.on_shown(shown),
            Requested::Ended(ended) => {
                self.requesting.by_row.remove(&ended.which.due);
                self.core.used(crate::clock::now());
                self.core.begin_mail();
                self.on_ended(ended).await;
                self.core.end_mail();
            }
        }
    }

    /// The request that something is of, with its session, if it is still the same.
    ///
    /// # Errors
    /// The store's.
    fn requested(&mut self, which: &Which) -> Result<Option<Open>, Error> {
        let mut session = self.take_session(&which.key)?;
        if session.exists() && session.head.session_number == which.due.session_number {
            match session.load_effects(&*self.context.store, self.slot) {
                Ok(effects) => {
                    let request = effects.request(&which.id);
                    let request = request.filter(|request| request.asked_by == which.asked_by);
                    if let Some(request) = request.cloned() {
                        return Ok(Some((session, request)));
                    }
                }
                Err(error) => {
                    self.put_session(session);
                    return Err(error.into());
                }
            }
        }
        self.put_session(session);
        Ok(None)
    }

    /// An attempt has ended: the handler gets the answer, or another attempt is made later.
    async fn on_ended(&mut self, Ended { which, attempted }: Ended) {
        let (now, now_ms) = (crate::clock::now(), crate::clock::now_ms());
        // It can't be read, or the attempt has panicked: it is made again.
        let later = now + limits::EFFECT_HOLD_MAX;
        let (session, request) = match self.requested(&which) {
            Ok(Some(found)) => found,
            // Another has taken its place, in the same millisecond, or there is none.
            Ok(None) => return self.core.due().ended(&which.due),
            Err(_) => return self.core.due().park(&which.due, &which.key, later),
        };
        // From here on the row is due again, goes, or is parked.
        self.core.due().ended(&which.due);
        let Some(Attempted { got, again, held }) = attempted else {
            self.put_session(session);
            return self.core.due().park(&which.due, &which.key, later);
        };
        let again = again.filter(|again| {
            let made = request.failures.saturating_add(u32::from(again.counts));
            let next_ms = now_ms.saturating_add(milliseconds(again.wait));
            made < request.attempts_max && next_ms < request.deadline_ms
        });
        let Some(again) = again else {
            let answer = request.answer(got, now_ms);
            let id = which.id.clone();
            let (session, delivered) = self.deliver_fresh(session, id, answer).await;
            self.put_session(session);
            if let Err(error) = delivered {
                self.core.due().hold_for(&which.key.service, limits::EFFECT_HOLD_MIN, now);
                if repeats::admit("the answer to a request waits", &which.key.service) {
                    tracing::warn!(slot = self.slot, session = %which.key, %error, "the answer to a request over HTTP waits");
                }
            }
            drop(held);
            return;
        };
        let mut session = session;
        if again.counts {
            let reason = reason_of(&got);
            let next = request.again(&reason, now_ms, milliseconds(again.wait));
            let name = Name::Request(which.id.clone());
            self.record_effects(&mut session, |effects| {
                Ok(vec![effects.change(name, Some(Effect::Request(next.into())))?])
            });
        } else {
            // Nothing to write down: it is the node that lacks something.
            let wait = again.wait + self.core.due().crowd();
            self.core.due().park(&which.due, &which.key, now + wait);
        }
        self.put_session(session);
    }
}

/// `None`: it has panicked.
async fn unless_panicked(attempt: BoxFuture<'static, Attempted>) -> Option<Attempted> {
    AssertUnwindSafe(attempt).catch_unwind().await.ok()
}

/// The same for each attempt at a request, and for no other request.
fn idempotency_key(which: &Which, request: &Request) -> String {
    let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
    let Which { due, key, id, asked_by } = which;
    hasher.update(key.to_string().as_bytes());
    for number in [due.session_number, *asked_by, request.asked_ms] {
        hasher.update(&number.to_be_bytes());
    }
    hasher.update(id.as_bytes());
    format!("slotd-{:032x}", hasher.digest128())
}

/// Why an attempt was in vain.
fn reason_of(got: &Got) -> String {
    match &got.outcome {
        Outcome::Response(response) => format!("status {}", response.status),
        Outcome::Failure(failure) => format!("{}: {}", failure.code, failure.reason),
    }
}
