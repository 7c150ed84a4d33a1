//! Sessions as they were: the history is read from its slot, wherever that is, and run here.

use super::*;
use crate::{
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
        let place = self.run_to(&now, at, None).await?.place;
        Ok(SessionInfo {
            seq: place.seq,
            created_ms: place.created_ms,
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
        let reached = self.run_to(&now, at, Some(question)).await?;
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
    async fn reached(&self, key: &SessionKey, at: u64) -> Result<SessionInfo, Error> {
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
    async fn run_to(
        &self,
        now: &SessionInfo,
        at: u64,
        question: Option<Question>,
    ) -> Result<Reached, Error> {
        let key = now.key();
        let (catalogue, plugins) = (self.context.catalogue.clone(), self.context.plugins.clone());
        let versions = Versions::new(key.service.clone(), catalogue, plugins);
        let base = Base::default();
        let begun = base.seq;
        let run = Job { versions, key: key.clone(), base, at, question };
        let run = self.past.start(run).await?;
        self.feed(&run, now, begun, at).await?;
        run.end().await
    }

    /// Gives a run the history behind `after`, up to `at`.
    async fn feed(&self, run: &Run, now: &SessionInfo, after: u64, at: u64) -> Result<(), Error> {
        let key = now.key();
        let mut reached = after;
        while reached < at {
            let left = usize::try_from(at - reached).unwrap_or(usize::MAX);
            let limit = left.min(limits::PAGE_ENTRIES_MAX);
            let range = Range::After { seq: reached, limit };
            let (reader, consistency) = (ReadBy::Client, Consistency::Current);
            let page = self.ask(ReadHistory { key: key.clone(), range, reader, consistency });
            let History { entries, incarnation, held, .. } = page.await?;
            // A node of a version before does not say which session it has.
            if incarnation.is_some() && incarnation != now.incarnation {
                let why = format!("{key} was deleted meanwhile");
                return Err(Error::new(Code::SessionNotFound, why));
            }
            let Some((last, _)) = entries.last() else {
                return Err(past::unavailable(format!("its history ends with message {reached}")));
            };
            reached = last.seq;
            if !run.feed(entries.into_iter().map(|(entry, _)| entry).collect()).await {
                // It says why.
                break;
            }
            drop(held);
        }
        Ok(())
    }
}
