//! Forks sessions: makes one with another one's history up to a message.
//!
//! The slot of the new one is given the last message and the state behind it, and where the rest is. That goes as an
//! operator's import does: by the way that every operation has to its slot, wherever that is.

use super::*;
use crate::{
    effects::{Entered, Forked, Inherited, Origin},
    log::record::{DeploymentId, Entry, Pin},
    message::Client,
    operation::{Describe, Operate},
    operator::{Action, Fork, Operation, StateRange, session_exists},
    replay::past,
    rpc::or_too_old,
};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct ForkAsk {
    pub key: SessionKey,
    pub to: SessionId,
    /// The last message that the new one has of it; `None`: the last one that there is.
    pub at: Option<u64>,
    /// What the new one runs on: the deployment that handled that message, or the current one. `None`: as any session, it
    /// goes over to the current one with its next message.
    pub deployment: Option<DeploymentId>,
    /// Who forks it: the new one counts for that subject.
    pub by: Option<Arc<Client>>,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct ForkDone {
    pub key: SessionKey,
    pub slot: SlotId,
    pub forked: Arc<Forked>,
    pub incarnation: Option<Incarnation>,
}

/// How much of a state goes at a time: as of an import.
const PART_BYTES: usize = limits::STATE_WRITE_BYTES_MAX / 2;

impl Node {
    /// Forks a session. Asked for again it gives the same answer, whatever has become of the new one since.
    ///
    /// # Errors
    /// `session-not-found`, `seq-not-reached`, `history-unavailable`, `session-exists`, `deployment-not-found`,
    /// `request-invalid`, and errors of both slots.
    pub async fn fork(&self, ask: ForkAsk) -> Result<ForkDone, Error> {
        let ForkAsk { key, to, at, deployment, by } = ask;
        if to == key.session {
            let why = "a session can't be forked to its own name".to_owned();
            return Err(Error::new(Code::RequestInvalid, why));
        }
        let now = self.reached(&key, at.unwrap_or(1)).await?;
        let new = SessionKey { session: to, ..key.clone() };
        if let Some(done) = self.forked_before(&now, &new, at).await? {
            return Ok(done);
        }
        let at = at.unwrap_or(now.seq);
        let last = self.inherited(&now, at, 1).await?;
        let last = last.last().ok_or_else(|| past::unavailable("the message is missing"))?.clone();
        let pinned = self.pin(&key.service, last.deployment, deployment)?;
        let state = match at == now.seq {
            true => self.state_now(&now).await?,
            false => None,
        };
        let state = match state {
            Some(state) => state,
            None => {
                let reached = self.run_to(&now, at, None, true).await?;
                reached.base.unwrap_or_default().state
            }
        };
        let parts = parts(state);
        let first = (at + 1).checked_sub(parts.len() as u64).filter(|first| *first > 0);
        let first = first.ok_or_else(|| {
            let why = format!(
                "the state has too many bytes for {at} messages to bring it along: export the session, and import it"
            );
            Error::new(Code::RequestInvalid, why)
        })?;
        let mut history = self.inherited(&now, at, parts.len()).await?;
        let root = now.forked.as_ref().map_or(&key.session, |forked| &forked.root).clone();
        let depth = now.forked.as_ref().map_or(0, |forked| forked.depth) + 1;
        if depth > limits::FORK_DEPTH_MAX {
            let most = limits::FORK_DEPTH_MAX;
            let why =
                format!("{key} is a fork of a fork, and so on, {most} times: fork another one");
            return Err(Error::new(Code::RequestInvalid, why));
        }
        let of = now.incarnation.unwrap_or(Incarnation::NONE).to_wire();
        let forked = Arc::new(Forked { from: key.session.clone(), of, at, first, root, depth });
        inherit(&mut history, &forked, kept(&parts), by);
        self.send_parts(&now, &new, &forked, pinned, history, parts).await
    }

    /// What there is of that name: the same fork, which was made before; or nothing.
    async fn forked_before(
        &self,
        now: &SessionInfo,
        new: &SessionKey,
        at: Option<u64>,
    ) -> Result<Option<ForkDone>, Error> {
        let describe = Describe { key: new.clone(), consistency: Consistency::Current };
        let there = match self.ask(describe).await {
            Ok(there) => there,
            Err(error) if error.code == Code::SessionNotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_same = |forked: &Forked| {
            forked.from == now.session
                && now.incarnation.map(Incarnation::to_wire) == Some(forked.of)
                && at.is_none_or(|at| at == forked.at)
        };
        let Some(forked) = there.forked.filter(|forked| is_same(forked)) else {
            return Err(session_exists(new));
        };
        if there.seq >= forked.at {
            let (slot, incarnation) = (there.slot, there.incarnation);
            return Ok(Some(ForkDone { key: new.clone(), slot, forked, incarnation }));
        }
        // Its last parts have not come, and nobody is there any more to send them.
        self.discard(new, Cursor::after(there.seq, there.incarnation)).await?;
        Ok(None)
    }

    async fn discard(&self, key: &SessionKey, at: Cursor) -> Result<(), Error> {
        let operation = Operation::new(None, String::new(), Some(at), Action::Discard);
        self.ask(Operate { key: key.clone(), operation }).await.map(drop).map_err(or_too_old)
    }

    /// Why the new session stays on its deployment, if it is to.
    fn pin(
        &self,
        service: &ServiceName,
        handled: DeploymentId,
        wanted: Option<DeploymentId>,
    ) -> Result<Option<Pin>, Error> {
        let Some(wanted) = wanted else { return Ok(None) };
        let known = self.context.catalogue.require(service)?;
        if known.deployment(wanted).is_none() {
            let why = format!("{service} has no deployment {wanted}");
            return Err(Error::new(Code::DeploymentNotFound, why));
        }
        let current = known.target().id();
        if wanted == current {
            return Ok(None);
        }
        if wanted != handled {
            let why = format!(
                "the message was handled by deployment {handled}: the session can stay on that, or go over to the current \
                 one, {current}"
            );
            return Err(Error::new(Code::RequestInvalid, why));
        }
        let reason = format!("it was forked to stay on deployment {wanted}");
        Ok(Some(Pin { against: current, reason }))
    }

    /// The last `count` messages up to `at`, without what this session has added to them.
    async fn inherited(
        &self,
        now: &SessionInfo,
        at: u64,
        count: usize,
    ) -> Result<Vec<Entry>, Error> {
        let mut after = at.saturating_sub(count as u64);
        let mut all = Vec::with_capacity(count);
        while after < at {
            let left = usize::try_from(at - after).unwrap_or(usize::MAX);
            let range = Range::After { seq: after, limit: left.min(limits::PAGE_ENTRIES_MAX) };
            let (reader, consistency) = (ReadBy::Client, Consistency::Current);
            let read = operation::ReadHistory { key: now.key(), range, reader, consistency };
            let page = self.history(read).await?;
            let last = page.entries.last().map(|(entry, _)| entry.seq);
            let next = page.entries.first().is_some_and(|(entry, _)| entry.seq == after + 1);
            let Some(last) = last.filter(|_| next && page.incarnation == now.incarnation) else {
                return Err(past::unavailable(format!("there is no message {}", after + 1)));
            };
            after = last;
            all.extend(page.entries.into_iter().map(|(entry, _)| {
                let mut entry = Arc::unwrap_or_clone(entry);
                entry.origin = match entry.origin.map(|origin| *origin) {
                    Some(Origin::Inherited(inherited)) => inherited.origin,
                    other => other.map(Box::new),
                };
                entry
            }));
        }
        Ok(all)
    }

    /// Its state, as long as it is where it was seen; `None`: it has moved on.
    async fn state_now(&self, now: &SessionInfo) -> Result<Option<Vec<(String, Bytes)>>, Error> {
        let (mut state, mut after) = (Vec::new(), None);
        loop {
            let limit = limits::STATE_SCAN_ENTRIES_MAX;
            let range = StateRange { prefix: String::new(), after, limit };
            let page = self.session_state(&now.key(), range).await?;
            if (page.info.seq, page.info.incarnation) != (now.seq, now.incarnation) {
                return Ok(None);
            }
            state.extend(page.pairs);
            if !page.more {
                return Ok(Some(state));
            }
            after = state.last().map(|(key, _)| key.clone());
        }
    }

    async fn send_parts(
        &self,
        now: &SessionInfo,
        new: &SessionKey,
        forked: &Arc<Forked>,
        pinned: Option<Pin>,
        history: Vec<Entry>,
        parts: Vec<Vec<(String, Bytes)>>,
    ) -> Result<ForkDone, Error> {
        let deployment = history.last().map_or(0, |entry| entry.deployment);
        let mut at: Option<Cursor> = None;
        let mut slot = new.slot(self.router.slot_count());
        for (entry, values) in history.into_iter().zip(parts) {
            let part = Fork {
                forked: (**forked).clone(),
                created_ms: now.created_ms,
                deployment,
                pinned: pinned.clone(),
                after: at.map_or(0, |at| at.seq),
                history: vec![entry],
                values,
            };
            let operation = Operation::new(None, String::new(), at, Action::Fork(part.into()));
            let sent = self.ask(Operate { key: new.clone(), operation }).await;
            match sent.map_err(or_too_old) {
                Ok(sent) => {
                    (at, slot) = (Some(Cursor::after(sent.seq, sent.incarnation)), sent.slot);
                }
                Err(error) => {
                    // If it does not succeed, the next one who asks does it.
                    if let Some(at) = at
                        && let Err(why) = self.discard(new, at).await
                    {
                        tracing::warn!(session = %new, %why, "a failed fork left data behind");
                    }
                    return Err(error);
                }
            }
        }
        let incarnation = at.and_then(|at| at.of);
        Ok(ForkDone { key: new.clone(), slot, forked: forked.clone(), incarnation })
    }
}

/// A state in parts of which each fits a batch: one at least.
fn parts(state: Vec<(String, Bytes)>) -> Vec<Vec<(String, Bytes)>> {
    let (mut parts, mut bytes) = (vec![Vec::new()], 0);
    for (key, value) in state {
        let more = key.len() + value.len() + limits::IMPORT_PAIR_BYTES;
        if bytes > 0 && bytes + more > PART_BYTES {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += more;
        if let Some(part) = parts.last_mut() {
            part.push((key, value));
        }
    }
    parts
}

/// Says of entries that they are another session's: the last has the state behind it, and the first who forks it.
fn inherit(
    history: &mut [Entry],
    forked: &Arc<Forked>,
    state: Option<Entered>,
    mut by: Option<Arc<Client>>,
) {
    for entry in history {
        let state = state.clone().filter(|_| entry.seq == forked.at);
        let (origin, forked) = (entry.origin.take(), forked.clone());
        let inherited = Inherited { origin, forked, state, by: by.take() };
        entry.origin = Some(Box::new(Origin::Inherited(inherited.into())));
    }
}

/// What the history keeps of a state; `None`: it is too large.
fn kept(parts: &[Vec<(String, Bytes)>]) -> Option<Entered> {
    let [state] = parts else { return None };
    let bytes: usize = state.iter().map(|(key, value)| key.len() + value.len() + 8).sum();
    let writes = || state.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
    (bytes <= limits::ENTERED_BYTES_MAX).then(|| Entered { writes: writes() })
}
