//! Requests and their answers, over one subscription.
//!
//! async-nats has its own, but keeps requests that are never answered (its table only grows while
//! NATS is unavailable), and drops an answer that arrives after the timeout, which may be the one
//! that settles an append.

use crate::telemetry::metrics::metrics;
use async_nats::{Client, HeaderMap, Message, StatusCode, Subject, client::PublishErrorKind};
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

/// Where answers arrive. Cheap to clone.
#[derive(Clone)]
pub struct Inbox(Arc<Shared>);

/// Waiters by token.
#[derive(Clone, Default)]
pub(super) struct Waiters(Arc<Mutex<HashMap<u64, Waiter>>>);

enum Waiter {
    /// One answer; notified at once when the connection is lost.
    One(oneshot::Sender<Message>),
    /// Any number; those above the channel's bound are dropped.
    Many(mpsc::Sender<Message>),
    /// Any number over this connection; its channel closes when the connection is lost.
    Page(mpsc::Sender<Message>),
}

struct Shared {
    client: Client,
    prefix: String,
    next: AtomicU64,
    waiters: Waiters,
    /// The subscription keeps the connection alive: it must end with the inbox.
    dispatcher: JoinHandle<()>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.dispatcher.abort();
    }
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    #[error("no answer in time")]
    Timeout,
    #[error("the connection was lost")]
    Lost,
    #[error("no responder on this subject")]
    NoResponders,
    #[error("larger than the server's max_payload")]
    TooLarge,
}

impl Waiters {
    /// Notifies waiters whose answers can't arrive any more.
    pub fn lose(&self) {
        self.0.lock().retain(|_, waiter| matches!(waiter, Waiter::Many(_)));
    }

    fn give(&self, token: u64, message: Message) {
        let mut waiters = self.0.lock();
        match waiters.get(&token) {
            Some(Waiter::Many(sender) | Waiter::Page(sender)) => {
                let _ = sender.try_send(message);
            }
            Some(Waiter::One(_)) => {
                if let Some(Waiter::One(sender)) = waiters.remove(&token) {
                    let _ = sender.send(message);
                }
            }
            None => {}
        }
    }
}

impl Inbox {
    pub(super) async fn open(
        client: Client,
        waiters: Waiters,
    ) -> Result<Self, async_nats::SubscribeError> {
        let prefix = client.new_inbox();
        let mut answers = client.subscribe(format!("{prefix}.*")).await?;
        let dispatcher = {
            let (waiters, skip) = (waiters.clone(), prefix.len() + 1);
            crate::task::spawn("NATS answers", async move {
                while let Some(message) = answers.next().await {
                    let token = message.subject.get(skip..).and_then(|token| token.parse().ok());
                    if let Some(token) = token {
                        waiters.give(token, message);
                    }
                }
            })
        };
        let next = AtomicU64::new(0);
        Ok(Self(Arc::new(Shared { client, prefix, next, waiters, dispatcher })))
    }

    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.0.waiters.0.lock().len()
    }

    fn token(&self, waiter: Waiter) -> Token {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.waiters.0.lock().insert(number, waiter);
        Token { inbox: self.clone(), number }
    }

    /// Registers a wait for one answer.
    pub fn one(&self) -> Expected<oneshot::Receiver<Message>> {
        let (sender, answers) = oneshot::channel();
        Expected { token: self.token(Waiter::One(sender)), answers }
    }

    /// Registers a wait for up to `count` answers, while this connection lives.
    pub fn page(&self, count: usize) -> Expected<mpsc::Receiver<Message>> {
        let (sender, answers) = mpsc::channel(count.max(1));
        Expected { token: self.token(Waiter::Page(sender)), answers }
    }

    /// Sends a request and waits for its one answer.
    ///
    /// # Errors
    /// See [`NoAnswer`]. After `Timeout` and `Lost` it may have been executed all the same.
    pub async fn request(
        &self,
        subject: impl Into<Subject>,
        payload: Bytes,
        wait: Duration,
    ) -> Result<Message, NoAnswer> {
        let started = crate::clock::now();
        let mut expected = self.one();
        let asked = async {
            expected.token.publish(subject.into(), None, payload).await?;
            (&mut expected.answers).await.map_err(|_| NoAnswer::Lost)
        };
        let message = timeout(wait, asked).await.map_err(|_| NoAnswer::Timeout)??;
        metrics().nats_request_seconds.record(started.elapsed().as_secs_f64());
        match message.status {
            Some(StatusCode::NO_RESPONDERS) => Err(NoAnswer::NoResponders),
            _ => Ok(message),
        }
    }
}

/// Registered waits. Dropping it cancels them.
pub struct Expected<Answers> {
    pub token: Token,
    pub answers: Answers,
}

/// The reply subject: answers to what is published under it arrive here.
pub struct Token {
    inbox: Inbox,
    number: u64,
}

impl Token {
    /// # Errors
    /// `TooLarge` (nothing was sent), or `Lost` if the client is closed.
    pub async fn publish(
        &self,
        subject: Subject,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<(), NoAnswer> {
        let Shared { client, prefix, .. } = &*self.inbox.0;
        let reply = format!("{prefix}.{}", self.number);
        let sent = match headers {
            Some(headers) => {
                client.publish_with_reply_and_headers(subject, reply, headers, payload).await
            }
            None => client.publish_with_reply(subject, reply, payload).await,
        };
        sent.map_err(|e| match e.kind() {
            PublishErrorKind::MaxPayloadExceeded => NoAnswer::TooLarge,
            _ => NoAnswer::Lost,
        })
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.inbox.0.waiters.0.lock().remove(&self.number);
    }
}

impl Expected<oneshot::Receiver<Message>> {
    /// Continues with up to `count` answers, including those that arrived already, over any
    /// connection.
    pub fn many(mut self, count: usize) -> Expected<mpsc::Receiver<Message>> {
        let (sender, answers) = mpsc::channel(count.max(1));
        let Token { inbox, number } = &self.token;
        let mut waiters = inbox.0.waiters.0.lock();
        // Under the lock: an answer goes to either channel, not between them.
        if let Ok(message) = self.answers.try_recv() {
            let _ = sender.try_send(message);
        }
        waiters.insert(*number, Waiter::Many(sender));
        drop(waiters);
        Expected { token: self.token, answers }
    }
}
