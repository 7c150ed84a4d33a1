//! The log as a list of changes: an intent and its outcome are one.

use super::{
    Audit,
    line::{Change, Kind, Line},
};
use crate::{clock, limits};
use serde::Serialize;
use std::collections::{HashMap, VecDeque};

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was made, or was made already.
    Done,
    /// Not allowed: nothing was changed.
    Refused,
    /// It failed; its error says what that means.
    Failed,
    /// It was begun, and may still be under way.
    UnderWay,
    /// It was begun, and its outcome was not written, as the node ended: it may have been made.
    Unknown,
}

/// A change as it is listed.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// Of its last line: for `after`.
    pub number: u64,
    pub at_ms: u64,
    pub node: String,
    pub outcome: Outcome,
    #[serde(flatten)]
    pub change: Change,
}

#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// The oldest first.
    pub changes: Vec<Listed>,
    /// There may be later ones: those after this number.
    pub next_after: u64,
    /// Whether there are later ones now.
    pub more: bool,
}

/// A line as it is stored.
#[derive(Clone, Debug, Serialize)]
pub struct RawLine {
    pub number: u64,
    pub line: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct RawPage {
    pub lines: Vec<RawLine>,
    pub more: bool,
}

pub(super) async fn raw(audit: &Audit, after: u64, limit: usize) -> Result<RawPage, String> {
    let Some((first, last)) = audit.bounds().await? else {
        return Ok(RawPage { lines: Vec::new(), more: false });
    };
    let lines = audit.read(first.max(after.saturating_add(1)), limit).await?;
    let more = lines.last().is_some_and(|(number, _)| *number < last);
    let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
    let lines = lines.iter().map(|(number, line)| RawLine { number: *number, line: text(line) });
    Ok(RawPage { lines: lines.collect(), more })
}

pub(super) async fn page(
    audit: &Audit,
    after: Option<u64>,
    since_ms: Option<u64>,
    limit: usize,
) -> Result<Page, String> {
    let next_after = after.unwrap_or(0);
    let Some((first, last)) = audit.bounds().await? else {
        return Ok(Page { changes: Vec::new(), next_after, more: false });
    };
    let begin = match (after, since_ms) {
        (Some(after), _) => first.max(after.saturating_add(1)),
        (None, Some(since)) => find(audit, first, last, since).await?,
        // Each has at most two lines.
        (None, None) => first.max((last + 1).saturating_sub(2 * limit as u64)),
    };
    let latest = after.is_none() && since_ms.is_none();
    let mut reading = Reading {
        node: &audit.inner.node,
        since_ms: since_ms.unwrap_or(0),
        found: VecDeque::new(),
        open: HashMap::new(),
        reached: 0,
        now_ms: clock::now_ms(),
    };
    let mut from = begin;
    // What is after the page is read for outcomes of what is on it.
    let (mut beyond, mut is_full) = (0, false);
    while from <= last {
        let lines = audit.read(from, limits::AUDIT_CHUNK_LINES).await?;
        let Some((end, _)) = lines.last() else { break };
        from = end + 1;
        for (number, bytes) in lines {
            // It stays so, also if something goes from it: what comes in between would be left out.
            is_full |= !latest && reading.found.len() >= limit;
            beyond += usize::from(is_full);
            reading.line(audit, number, &bytes, is_full);
        }
        is_full |= !latest && reading.found.len() >= limit;
        if is_full && (reading.open.is_empty() || beyond >= limits::AUDIT_LOOK_AHEAD_LINES) {
            break;
        }
    }
    Ok(reading.page(limit, latest, last, next_after))
}

/// The first line that is not older than `since_ms`, as far as the nodes' clocks agree.
async fn find(audit: &Audit, first: u64, last: u64, since_ms: u64) -> Result<u64, String> {
    let (mut low, mut high) = (first, last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let lines = audit.read(middle, 1).await?;
        let at_ms = lines.first().and_then(|(_, line)| Line::decode(line).ok()).map(|l| l.at_ms);
        match at_ms {
            Some(at_ms) if at_ms < since_ms => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

struct Reading<'a> {
    /// This one.
    node: &'a str,
    now_ms: u64,
    since_ms: u64,
    /// By the number of the line.
    found: VecDeque<Listed>,
    /// Intents on the page whose outcome has not come: their lines' numbers.
    open: HashMap<String, u64>,
    /// The last line that was read for the page.
    reached: u64,
}

impl Reading<'_> {
    fn line(&mut self, audit: &Audit, number: u64, bytes: &[u8], is_full: bool) {
        let Ok(line) = Line::decode(bytes) else {
            if !is_full {
                self.reached = number;
                self.found.push_back(unreadable(number));
            }
            return;
        };
        if line.kind == Kind::Outcome
            && let Some(intent) = self.open.remove(&line.change.id)
            && let Ok(at) = self.found.binary_search_by_key(&intent, |listed| listed.number)
        {
            // It is one with its outcome, which is shown.
            self.found.remove(at);
        }
        if is_full {
            return;
        }
        self.reached = number;
        if line.at_ms < self.since_ms {
            return;
        }
        let outcome = self.outcome(audit, number, &line);
        let Line { at_ms, node, change, .. } = line;
        self.found.push_back(Listed { number, at_ms, node, outcome, change });
    }

    fn outcome(&mut self, audit: &Audit, number: u64, line: &Line) -> Outcome {
        match (line.kind, line.change.status) {
            (Kind::Event, _) => Outcome::Done,
            (Kind::Intent, _) => {
                self.open.insert(line.change.id.clone(), number);
                // What another process of this node has begun, nobody goes on with.
                let is_gone = line.node == self.node && !audit.is_under_way(&line.change.id);
                let under_way = clock::milliseconds(limits::AUDIT_UNDER_WAY);
                match is_gone || line.at_ms.saturating_add(under_way) < self.now_ms {
                    true => Outcome::Unknown,
                    false => Outcome::UnderWay,
                }
            }
            (Kind::Outcome, Some(401 | 403)) => Outcome::Refused,
            (Kind::Outcome, Some(200..=399)) => Outcome::Done,
            (Kind::Outcome, _) if line.change.code.as_deref() == Some("outcome-unknown") => {
                Outcome::Unknown
            }
            (Kind::Outcome, _) => Outcome::Failed,
        }
    }

    fn page(self, limit: usize, latest: bool, last: u64, next_after: u64) -> Page {
        let mut changes = self.found;
        while latest && changes.len() > limit {
            changes.pop_front();
        }
        let next_after = self.reached.max(next_after);
        Page { changes: changes.into(), next_after, more: next_after < last }
    }
}

/// It is damaged, or a later version's. `slotd audit-log --verify` says more.
fn unreadable(number: u64) -> Listed {
    Listed {
        number,
        at_ms: 0,
        node: String::new(),
        outcome: Outcome::Unknown,
        change: Change::event("line-unreadable"),
    }
}
