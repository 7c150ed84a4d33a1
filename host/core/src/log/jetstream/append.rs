//! One append, until it is settled.

use super::{Found, Shared, Slot};
use crate::{
    backoff::Backoff,
    limits,
    log::{LogError, Position, Term},
    names::SlotId,
    nats::inbox::NoAnswer,
    telemetry::metrics::metrics,
};
use async_nats::{
    HeaderMap, HeaderValue, Message, StatusCode, header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
};
use bytes::Bytes;
use serde::Deserialize;
use std::time::Instant;
use tokio::{sync::mpsc, time::timeout};

/// JetStream's "wrong last sequence: N".
const WRONG_LAST: u64 = 10_071;
/// The same without the number: returned for appends in progress, and spuriously.
const CONFLICT: u64 = 10_164;

/// One batch to be put right after a position.
pub(super) struct Attempt {
    pub slot: SlotId,
    pub term: Term,
    /// Unique to the batch: how it is known again.
    pub attempt: u128,
    pub after: Position,
    pub batch: Bytes,
}

#[derive(Debug)]
pub(super) enum Settled {
    Stored(Position),
    /// This stands where the batch was to stand, so that it never will.
    Lost(Found),
}

/// What one answer means.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Stored(Position),
    /// The last position is another one.
    WrongLast(Position),
    /// Any other answer: inconclusive.
    Other(String),
}

#[derive(Deserialize)]
struct Ack<'a> {
    #[serde(default)]
    seq: u64,
    #[serde(borrow)]
    error: Option<AckError<'a>>,
}

#[derive(Deserialize)]
struct AckError<'a> {
    #[serde(default)]
    err_code: u64,
    #[serde(default, borrow)]
    description: std::borrow::Cow<'a, str>,
}

impl Answer {
    fn of(message: &Message) -> Self {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Self::Other("no server has the stream".into());
        }
        match serde_json::from_slice::<Ack>(&message.payload) {
            Ok(Ack { seq, error: None }) if seq > 0 => Self::Stored(seq),
            Ok(Ack { error: Some(AckError { err_code, description }), .. }) => {
                let last = description.rsplit(' ').next().and_then(|last| last.parse().ok());
                match (err_code, last) {
                    (WRONG_LAST, Some(last)) => Self::WrongLast(last),
                    (CONFLICT, _) => {
                        metrics().log_conflicts.increment(1);
                        Self::Other(description.into_owned())
                    }
                    _ => Self::Other(format!("{description} ({err_code})")),
                }
            }
            _ => Self::Other("not a JetStream acknowledgement".into()),
        }
    }
}

impl Shared {
    /// Appends, and comes back when it is certain whether the batch stands: an acknowledgement, or
    /// something that stands after `after`. Waits for that as long as it takes; the caller gives
    /// up by dropping the future, and then the batch may still come to stand there.
    ///
    /// # Errors
    /// [`LogError::Unavailable`]: nothing was sent, because it is too large.
    /// [`LogError::Corrupt`]: the log has lost what it had acknowledged.
    pub(super) async fn append(&self, attempt: Attempt) -> Result<Settled, LogError> {
        let started = crate::clock::now();
        let slot = self.slot(attempt.slot)?;
        let mut expected = self.nats.inbox.one();
        let asked = async {
            expected
                .token
                .publish(slot.subject.clone(), Some(headers(attempt.after)), attempt.batch.clone())
                .await?;
            (&mut expected.answers).await.map_err(|_| NoAnswer::Lost)
        };
        let first = match timeout(self.waits.append, asked).await {
            Ok(Ok(message)) => Answer::of(&message),
            Ok(Err(NoAnswer::TooLarge)) => {
                let bytes = attempt.batch.len();
                let why = format!("a batch of {bytes} bytes is over the servers' max_payload");
                return Err(LogError::Unavailable(why));
            }
            Ok(Err(e)) => Answer::Other(e.to_string()),
            Err(_) => Answer::Other(NoAnswer::Timeout.to_string()),
        };
        let settled = match first {
            Answer::Stored(position) => Settled::Stored(position),
            first => {
                metrics().log_undecided.increment(1);
                let answers = expected.many(limits::LOG_ANSWERS_MAX);
                Box::pin(self.settle(slot, &attempt, first, answers, started)).await?
            }
        };
        metrics().log_append_seconds.record(started.elapsed().as_secs_f64());
        Ok(settled)
    }

    /// Reads what stands where the batch was to stand. That decides; `None` does not: a read may be
    /// stale, and the batch may come to stand there yet.
    async fn stands(&self, attempt: &Attempt) -> Result<Option<Settled>, LogError> {
        let Ok(Some(link)) = self.next(attempt.slot, attempt.after).await else { return Ok(None) };
        if link.after != attempt.after {
            // Another owner has trimmed what stood there: it may have been this batch.
            return Err(LogError::Undecided(format!(
                "the log of slot {} was trimmed after position {}",
                attempt.slot, attempt.after
            )));
        }
        let (position, batch) = (link.logged.position, &link.logged.batch);
        let found = Found::new(attempt.slot, position, batch)?;
        let own = found.term == attempt.term && found.attempt == attempt.attempt;
        let position = found.position;
        Ok(Some(if own { Settled::Stored(position) } else { Settled::Lost(found) }))
    }

    /// The slow way: publishes again what was undecided until it is known what became of it.
    async fn settle(
        &self,
        slot: &Slot,
        attempt: &Attempt,
        mut answer: Answer,
        mut expected: crate::nats::inbox::Expected<mpsc::Receiver<Message>>,
        started: Instant,
    ) -> Result<Settled, LogError> {
        let mut pause =
            Backoff::new(limits::LOG_UNDECIDED_RETRY_MIN, limits::LOG_UNDECIDED_RETRY_MAX)
                .spread(0.5..1.5);
        let mut behind_since: Option<Instant> = None;
        let mut warned = false;
        loop {
            match answer {
                Answer::Stored(position) => return Ok(Settled::Stored(position)),
                Answer::WrongLast(last) if last < attempt.after => {
                    // `after` was acknowledged. A server that was paused, and takes itself for the
                    // leader, can answer so for a while; not for ever.
                    let since = *behind_since.get_or_insert_with(crate::clock::now);
                    if since.elapsed() > self.waits.behind {
                        return Err(LogError::Corrupt(format!(
                            "the log of slot {} ends at {last}, but {} was acknowledged: the NATS \
                             servers lost data (is their `sync_interval` set to always?)",
                            attempt.slot, attempt.after
                        )));
                    }
                }
                // It is behind, or the answer is inconclusive.
                Answer::WrongLast(_) => {
                    behind_since = None;
                    pause.reset();
                }
                Answer::Other(ref why) => {
                    tracing::debug!(slot = attempt.slot, after = attempt.after, why, "undecided");
                    if !warned && started.elapsed() > limits::LOG_UNDECIDED_WARN {
                        warned = true;
                        tracing::warn!(
                            slot = attempt.slot,
                            term = attempt.term,
                            after = attempt.after,
                            why,
                            seconds = started.elapsed().as_secs(),
                            "the result of an append to the log is unknown; still trying"
                        );
                    }
                }
            }
            // An acknowledgement that was only late ends it all.
            let paused = timeout(pause.next(), late(&mut expected.answers)).await;
            if let Ok(position) = paused {
                return Ok(Settled::Stored(position));
            }
            self.nats.wait_connected().await;
            if let Some(settled) = self.stands(attempt).await? {
                return Ok(settled);
            }
            metrics().log_republished.increment(1);
            let asked = async {
                let batch = attempt.batch.clone();
                expected
                    .token
                    .publish(slot.subject.clone(), Some(headers(attempt.after)), batch)
                    .await?;
                expected.answers.recv().await.ok_or(NoAnswer::Lost)
            };
            answer = match timeout(self.waits.append, asked).await {
                Ok(Ok(message)) => Answer::of(&message),
                Ok(Err(e)) => Answer::Other(e.to_string()),
                Err(_) => Answer::Other(NoAnswer::Timeout.to_string()),
            };
        }
    }
}

/// The expectation: the fence.
pub(super) fn headers(after: Position) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(after));
    headers
}

/// The position of an acknowledgement among the answers; never ends without one.
async fn late(answers: &mut mpsc::Receiver<Message>) -> Position {
    loop {
        match answers.recv().await {
            Some(message) => {
                if let Answer::Stored(position) = Answer::of(&message) {
                    return position;
                }
            }
            None => std::future::pending().await,
        }
    }
}
