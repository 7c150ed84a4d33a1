//! Pages of a slot's log.

use super::{
    Shared, encoded,
    get::{Link, Tries, expected_in, link},
};
use crate::{
    limits,
    log::{LogError, Logged, Position, Term, record},
    names::SlotId,
};
use async_nats::{HeaderMap, StatusCode};
use serde_json::json;
use std::sync::atomic::Ordering;
use tokio::time::timeout_at;

const SEQUENCE: &str = "Nats-Sequence";
/// Comes with each message of a page, from servers that know pages (2.11).
const PENDING: &str = "Nats-Num-Pending";
/// "End of batch".
const END: u16 = 204;

impl Shared {
    /// A page by whichever server is near: each link of the chain is verified, so that a server
    /// which lacks the newest batches can shorten a page, but not tear a hole into it. What this
    /// process itself has appended, or was notified of, is always seen.
    pub(super) async fn read(
        &self,
        slot: SlotId,
        after: Position,
        bytes_max: usize,
    ) -> Result<Vec<Logged>, LogError> {
        let mut tries = Tries::new();
        let names = self.slot(slot)?;
        let known = names.chain.lock().last.max(names.reported.load(Ordering::Relaxed));
        loop {
            let why = match self.page(slot, after, bytes_max).await {
                Ok(links) => {
                    let page = verified(slot, after, links)?;
                    if !page.is_empty() || after >= known {
                        return Ok(page);
                    }
                    // That server is behind. The leader knows more, and is asked for one.
                    match self.next(slot, after).await? {
                        Some(link) => return verified(slot, after, vec![link]),
                        None => format!("no server has batch {known} of slot {slot}"),
                    }
                }
                Err(LogError::Unavailable(why)) => why,
                Err(e) => return Err(e),
            };
            tries.pause(self, why).await?;
        }
    }

    async fn page(
        &self,
        slot: SlotId,
        after: Position,
        bytes_max: usize,
    ) -> Result<Vec<Link>, LogError> {
        let names = self.slot(slot)?;
        let order = json!({
            "seq": after + 1,
            "next_by_subj": names.subject.as_str(),
            "batch": limits::LOG_PAGE_BATCHES_MAX,
            "max_bytes": bytes_max.max(1),
        });
        // Room for all of them and the end: none is dropped.
        let mut expected = self.nats.inbox.page(limits::LOG_PAGE_BATCHES_MAX + 1);
        let sent = expected.token.publish(names.direct.clone(), None, encoded(&order));
        sent.await.map_err(|e| LogError::Unavailable(format!("JetStream: {e}")))?;
        let mut links = Vec::new();
        let mut bytes = 0;
        loop {
            let deadline = crate::clock::timer_now() + self.waits.request;
            let Ok(Some(message)) = timeout_at(deadline, expected.answers.recv()).await else {
                if links.is_empty() {
                    return Err(LogError::Unavailable("JetStream: no answer".into()));
                }
                // Half a page is a page.
                return Ok(links);
            };
            match message.status.map(|status| status.as_u16()) {
                None => {}
                Some(END) => return Ok(links),
                Some(404) => return Ok(links),
                Some(status) => {
                    let why = message.description.unwrap_or_default();
                    let why = match StatusCode::NO_RESPONDERS.as_u16() == status {
                        true => "no server answers".into(),
                        false => format!("{status} {why}"),
                    };
                    return Err(LogError::Unavailable(format!("JetStream: {why}")));
                }
            }
            let headers = message.headers.unwrap_or_default();
            let position = number(&headers, SEQUENCE).ok_or_else(|| {
                LogError::Unavailable("JetStream: a message without its sequence".into())
            })?;
            bytes += message.payload.len();
            links.push(link(slot, position, expected_in(&headers), message.payload)?);
            // A server that knows no pages sends one message, and no end.
            let alone = number(&headers, PENDING).is_none();
            if alone || bytes >= bytes_max || links.len() >= limits::LOG_PAGE_BATCHES_MAX {
                return Ok(links);
            }
        }
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.as_str().parse().ok()
}

/// The batches as far as each stands right after the one before. Terms must not fall.
fn verified(slot: SlotId, after: Position, links: Vec<Link>) -> Result<Vec<Logged>, LogError> {
    let mut page: Vec<Logged> = Vec::with_capacity(links.len());
    let mut last = after;
    let mut current: Option<Term> = None;
    for Link { after: expected, logged } in links {
        if expected != last {
            match page.is_empty() {
                // What comes next is for the next page to find out.
                false => break,
                true if expected > after => return Err(LogError::Trimmed { slot, after }),
                true => {
                    return Err(LogError::Corrupt(format!(
                        "the log of slot {slot} has no position {after}: {} follows {expected}",
                        logged.position
                    )));
                }
            }
        }
        let (_, term, _) = record::Batch::peek(&logged.batch)?;
        if current.is_some_and(|current| term < current) {
            return Err(LogError::Corrupt(format!(
                "slot {slot}, position {}: term {term} after a later one",
                logged.position
            )));
        }
        current = Some(term);
        last = logged.position;
        page.push(logged);
    }
    Ok(page)
}
