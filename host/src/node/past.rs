//! Sessions as they were: the history is read from its slot, wherever that is, and run here.

use super::*;
use crate::{
    buffers::Held,
    effects::{Forked, Origin},
    log::record::Entry,
    operation::{Describe, Query, ReadHistory},
    replay::{
        Versions,
        past::{self, Job, Reached, Run},
    },
    replay_engine::{Base, Question},
    slot::failure_error,
};

impl Node {
    /// A session as it was behind message `at`.
    ///
    /// # Errors
    /// `session-not-found`, `seq-not-reached`, `history-unavailable`, `limit-reached`, and errors of its slot.
    pub async fn session_at(&self, key: &SessionKey, at: u64) -> Result<SessionInfo, Error> {
        let now = self.reached(key, at).await?;
        let place = self.run_to(&now, at, None, false).await?.place;
        Ok(SessionInfo {
            seq: place.seq,
            updated_ms: place.updated_ms,
            plugin: self.context.catalogue.label(&key.service, place.deployment).to_string(),
            state_keys: place.state_keys,
            state_bytes: place.state_bytes,
            // No history has it.
            pinned: None,
            closed: place.closed,
            ..now
        })
    }

    /// The answer that a query would have got behind message `at`, from the version that handled it.
    ///
    /// # Errors
    /// As [`Node::session_at`], and the handler's.
    pub async fn query_at(&self, query: Query, at: u64) -> Result<Answer, Error> {
        let Query { key, content_type, body, client, .. } = query;
        let now = self.reached(&key, at).await?;
        let question = Question { content_type, body, client: client.clone() };
        let reached = self.run_to(&now, at, Some(question), false).await?;
        let (place, took) = (reached.place, reached.took);
        self.context.quota.spent(&key, client.as_deref(), took);
        let label = self.context.catalogue.label(&key.service, place.deployment);
        let missing = || Error::internal("a bug: a query was not asked");
        let answer = reached.answer.ok_or_else(missing)?.map_err(|failure| {
            let error = failure_error(&label, failure, self.context.plugins.deadline());
            Error { guest_time: took, ..error }
        })?;
        Ok(Answer {
            slot: now.slot,
            plugin: label,
            seq: place.seq,
            content_type: answer.content_type,
            body: answer.body,
            guest_time: took,
        })
    }

    /// A session that has come to message `at`, as it is now.
    pub(super) async fn reached(&self, key: &SessionKey, at: u64) -> Result<SessionInfo, Error> {
        if at == 0 {
            return Err(Error::new(Code::RequestInvalid, "a session begins with message 1"));
        }
        let describe = Describe { key: key.clone(), consistency: Consistency::Current };
        let now = self.call(describe).await?;
        match at <= now.seq {
            true => Ok(now),
            false => Err(Error::new(
                Code::SeqNotReached,
                format!("{key} is at message {}, and has none of number {at}", now.seq),
            )),
        }
    }

    /// Runs its history up to message `at`.
    pub(super) async fn run_to(
        &self,
        now: &SessionInfo,
        at: u64,
        question: Option<Question>,
        keeps_state: bool,
    ) -> Result<Reached, Error> {
        let key = now.key();
        let (mut base, mut begun) = (Base::default(), 0);
        if let Some(forked) = &now.forked {
            if at < forked.at {
                // It was the other one's.
                let then = self.forked_off(now, forked).await?;
                return Box::pin(self.run_to(&then, at, question, keeps_state)).await;
            }
            begun = forked.first - 1;
            if !self.knows_its_beginning(now, forked).await? {
                let then = self.forked_off(now, forked).await?;
                let reached = Box::pin(self.run_to(&then, forked.at, None, true)).await?;
                base = Base { effects: Vec::new(), ..reached.base.unwrap_or_default() };
                begun = forked.at;
            }
        }
        let (catalogue, plugins) = (self.context.catalogue.clone(), self.context.plugins.clone());
        let versions = Versions::new(key.service.clone(), catalogue, plugins);
        let forked = now.forked.clone();
        let job = Job { versions, key, base, at, forked, question, keeps_state };
        let run = self.past.start(job).await?;
        self.feed(&run, now, begun, at).await?;
        run.end().await
    }

    /// The session that one was forked off, as it is now.
    async fn forked_off(&self, now: &SessionInfo, forked: &Forked) -> Result<SessionInfo, Error> {
        let key = SessionKey { service: now.service.clone(), session: forked.from.clone() };
        let describe = Describe { key: key.clone(), consistency: Consistency::Current };
        let gone = || past::unavailable(format!("it was of {key}, which was deleted"));
        match self.ask(describe).await {
            Ok(info) if is_of(&info, forked) => Ok(info),
            Ok(_) => Err(gone()),
            Err(error) if error.code == Code::SessionNotFound => Err(gone()),
            Err(error) => Err(error),
        }
    }

    /// Whether the history has the state that a session that was forked off another one began with.
    async fn knows_its_beginning(&self, now: &SessionInfo, forked: &Forked) -> Result<bool, Error> {
        let range = Range::After { seq: forked.at - 1, limit: 1 };
        let (reader, consistency) = (ReadBy::Client, Consistency::Current);
        let page = self.ask(ReadHistory { key: now.key(), range, reader, consistency }).await?;
        let first = page.entries.first().and_then(|(entry, _)| entry.origin.as_deref());
        Ok(match first {
            Some(Origin::Inherited(inherited)) => inherited.state.is_some(),
            _ => true,
        })
    }

    /// Gives a run the history behind `after`, up to `at`.
    async fn feed(&self, run: &Run, now: &SessionInfo, after: u64, at: u64) -> Result<(), Error> {
        let mut reached = after;
        while reached < at {
            let (entries, held) = self.entries(now, reached, at).await?;
            reached = entries.last().map_or(at, |entry| entry.seq);
            if !run.feed(entries).await {
                // It says why.
                break;
            }
            drop(held);
        }
        Ok(())
    }

    /// What a session has itself behind message `after`, up to `at`: at least one.
    pub(super) async fn entries(
        &self,
        now: &SessionInfo,
        after: u64,
        at: u64,
    ) -> Result<(Vec<Arc<Entry>>, Held), Error> {
        let key = now.key();
        let left = usize::try_from(at - after).unwrap_or(usize::MAX);
        let range = Range::After { seq: after, limit: left.min(limits::PAGE_ENTRIES_MAX) };
        let (reader, consistency) = (ReadBy::Client, Consistency::Current);
        let page = self.ask(ReadHistory { key: key.clone(), range, reader, consistency });
        let History { entries, incarnation, held, .. } = page.await?;
        // A node of a version before does not say which session it has.
        if incarnation.is_some() && incarnation != now.incarnation {
            let why = format!("{key} was deleted meanwhile");
            return Err(Error::new(Code::SessionNotFound, why));
        }
        match entries.is_empty() {
            true => Err(past::unavailable(format!("its history ends with message {after}"))),
            false => Ok((entries.into_iter().map(|(entry, _)| entry).collect(), held)),
        }
    }

    /// A page of a session's history. What a session that was forked off another one does not have itself is read there, for
    /// as long as that is there.
    ///
    /// # Errors
    /// As [`Node::call`].
    pub async fn history(&self, read: ReadHistory) -> Result<History, Error> {
        let mut own = self.call(read.clone()).await?;
        let Some(forked) = own.forked.clone() else { return Ok(own) };
        let before = forked.first.saturating_sub(1);
        let (after, limit) = match read.range {
            Range::After { seq, limit } if seq < before => {
                (seq, limit.min(usize::try_from(before - seq).unwrap_or(usize::MAX)))
            }
            // It has them all, or the page is full.
            Range::Tail { limit } if own.entries.first().is_some_and(|(it, _)| it.begins()) => {
                let left = limit.saturating_sub(own.entries.len());
                (before.saturating_sub(left as u64), left)
            }
            Range::After { .. } | Range::Tail { .. } => return Ok(own),
        };
        if limit == 0 || before == 0 {
            return Ok(own);
        }
        let key = SessionKey { session: forked.from.clone(), ..read.key.clone() };
        if matches!(read.range, Range::After { .. }) {
            // It is not what was asked for; and a line of forks would hold a page for each.
            own.entries = Vec::new();
            own.held = Held::default();
        }
        let range = Range::After { seq: after, limit };
        let theirs = Box::pin(self.history(ReadHistory { key, range, ..read.clone() })).await;
        let mut theirs = match theirs {
            Ok(page) if is_theirs(&page, &forked) => page,
            Err(error) if error.code != Code::SessionNotFound => return Err(error),
            // It was deleted: what there is begins with the session's own.
            Ok(_) | Err(_) => {
                let own = match read.range {
                    Range::Tail { .. } => own,
                    Range::After { limit, .. } => {
                        let range = Range::After { seq: before, limit };
                        self.call(ReadHistory { range, ..read }).await?
                    }
                };
                return Ok(History { begins: Some(forked.first), ..own });
            }
        };
        theirs.entries.retain(|(entry, _)| entry.seq <= before);
        let reaches = theirs.entries.last().is_some_and(|(entry, _)| entry.seq == before);
        let History { entries, held, begins, .. } = theirs;
        match read.range {
            // As much of it as fits one page; all of it has to be there.
            Range::Tail { .. } if !reaches => Ok(own),
            Range::Tail { .. } => {
                let entries = entries.into_iter().chain(own.entries).collect();
                Ok(History { entries, begins, ..own })
            }
            Range::After { .. } => Ok(History { entries, begins, held, ..own }),
        }
    }
}

/// Whether a page is of the session that one was forked off, and has something.
fn is_theirs(page: &History, forked: &Forked) -> bool {
    page.incarnation.map(Incarnation::to_wire) == Some(forked.of) && !page.entries.is_empty()
}

/// Whether it is the session that one was forked off, and no later one of its name.
fn is_of(info: &SessionInfo, forked: &Forked) -> bool {
    info.incarnation.map(Incarnation::to_wire) == Some(forked.of)
}
