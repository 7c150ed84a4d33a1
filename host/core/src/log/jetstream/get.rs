//! Single batches, by the API that the stream's leader answers.

use super::{Found, Shared, encoded};
use crate::{
    backoff::Backoff,
    limits,
    log::{LogError, Logged, Position},
    names::SlotId,
};
use async_nats::{HeaderMap, Subject};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Instant;

/// JetStream's "no message found".
const NO_MESSAGE: u64 = 10_037;
/// As a message's headers begin.
const HEADERS: &str = "NATS/1.0";
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";

#[derive(Deserialize)]
struct Answer {
    error: Option<ApiError>,
    message: Option<Stored>,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct Stored {
    seq: Position,
    #[serde(default)]
    data: String,
    #[serde(default)]
    hdrs: String,
}

/// A batch and the position that it was put after.
pub(super) struct Link {
    pub after: Position,
    pub logged: Logged,
}

impl Shared {
    /// What the slot's log has last, by this one answer: it may be stale.
    pub(super) async fn last_once(&self, slot: SlotId) -> Result<Option<Found>, LogError> {
        let subject = self.slot(slot)?.subject.as_str();
        let link = self.get(slot, json!({ "last_by_subj": subject })).await?;
        link.map(|link| Found::new(slot, link.logged.position, &link.logged.batch)).transpose()
    }

    /// What stands next after `after`, by this one answer: it may be stale.
    pub(super) async fn next(
        &self,
        slot: SlotId,
        after: Position,
    ) -> Result<Option<Link>, LogError> {
        let subject = self.slot(slot)?.subject.as_str();
        self.get(slot, json!({ "seq": after + 1, "next_by_subj": subject })).await
    }

    /// As [`Self::last_once`], trying for [`limits::LOG_WAIT`] to get an answer.
    pub(super) async fn last(&self, slot: SlotId) -> Result<Option<Found>, LogError> {
        let mut tries = Tries::new();
        loop {
            match self.last_once(slot).await {
                Err(LogError::Unavailable(why)) => tries.pause(self, why).await?,
                done => return done,
            }
        }
    }

    async fn get(&self, slot: SlotId, order: Value) -> Result<Option<Link>, LogError> {
        let answer = self.request(&self.slot(slot)?.get, order).await?;
        let unreadable =
            |why: String| LogError::Unavailable(format!("an answer of JetStream: {why}"));
        let answer: Answer =
            serde_json::from_slice(&answer).map_err(|e| unreadable(e.to_string()))?;
        match answer {
            Answer { message: Some(Stored { seq, data, hdrs }), .. } => {
                let batch = STANDARD.decode(data).map_err(|e| unreadable(e.to_string()))?;
                let headers = STANDARD.decode(hdrs).map_err(|e| unreadable(e.to_string()))?;
                let after = expected(&String::from_utf8_lossy(&headers));
                link(slot, seq, after, batch.into()).map(Some)
            }
            Answer { error: Some(error), .. } if error.err_code == NO_MESSAGE => Ok(None),
            Answer { error: Some(error), .. } => Err(LogError::Unavailable(format!(
                "JetStream: {} ({})",
                error.description, error.err_code
            ))),
            Answer { .. } => Err(unreadable("the answer is neither a message nor an error".into())),
        }
    }

    /// Asks JetStream to do something that can be done again.
    pub(super) async fn api(&self, subject: &Subject, order: Value) -> Result<(), LogError> {
        let mut tries = Tries::new();
        loop {
            let why = match self.request(subject, order.clone()).await {
                Ok(answer) => match serde_json::from_slice::<Answer>(&answer) {
                    Ok(Answer { error: None, .. }) => return Ok(()),
                    Ok(Answer { error: Some(e), .. }) => {
                        format!("JetStream: {} ({})", e.description, e.err_code)
                    }
                    Err(e) => e.to_string(),
                },
                Err(e) => e.to_string(),
            };
            tries.pause(self, why).await?;
        }
    }

    async fn request(&self, subject: &Subject, order: Value) -> Result<Bytes, LogError> {
        let wait = self.waits.request;
        let asked = self.nats.inbox.request(subject.clone(), encoded(&order), wait).await;
        asked
            .map(|message| message.payload)
            .map_err(|e| LogError::Unavailable(format!("JetStream: {e}")))
    }
}

/// Links a message to what it was put after.
pub(super) fn link(
    slot: SlotId,
    position: Position,
    after: Option<Position>,
    batch: Bytes,
) -> Result<Link, LogError> {
    // Whoever wrote that could have written anything.
    let foreign = || {
        let why = "written without an expected sequence: something other than slotd wrote to \
            this log";
        LogError::Corrupt(format!("slot {slot}, position {position}: {why}"))
    };
    let after = after.filter(|&after| after < position).ok_or_else(foreign)?;
    Ok(Link { after, logged: Logged { position, batch } })
}

/// The expectation among headers as they are stored.
fn expected(headers: &str) -> Option<Position> {
    let lines = headers.strip_prefix(HEADERS)?.lines().skip(1);
    lines.filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case(EXPECTED).then(|| value.trim().parse().ok())?
    })
}

/// The expectation among headers as they come with a message.
pub(super) fn expected_in(headers: &HeaderMap) -> Option<Position> {
    headers.get(EXPECTED)?.as_str().trim().parse().ok()
}

/// Tries with back-off, [`limits::LOG_WAIT`] in all.
pub(super) struct Tries {
    started: Instant,
    backoff: Backoff,
}

impl Tries {
    pub fn new() -> Self {
        let (min, max) = (limits::LOG_UNDECIDED_RETRY_MIN, limits::LOG_UNDECIDED_RETRY_MAX);
        Self { started: crate::clock::now(), backoff: Backoff::new(min, max) }
    }

    /// # Errors
    /// [`LogError::Unavailable`] with `why` when the time is over.
    pub async fn pause(&mut self, shared: &Shared, why: String) -> Result<(), LogError> {
        let left = limits::LOG_WAIT.saturating_sub(self.started.elapsed());
        if left.is_zero() {
            return Err(LogError::Unavailable(why));
        }
        tokio::time::sleep(self.backoff.next().min(left)).await;
        let _ = tokio::time::timeout(left, shared.nats.wait_connected()).await;
        Ok(())
    }
}
