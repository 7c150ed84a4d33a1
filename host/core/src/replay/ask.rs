//! What a session is, and answers, where a replay has come to.

use super::{
    instances::{Instances, Version},
    session::{Replay, SLOT, Unable, call},
};
use crate::{
    client::Client,
    level::NEWEST,
    log::record::DeploymentId,
    plugin::{self, Failure, Input},
    slot::overlay::Transaction,
};
use bytes::Bytes;
use std::sync::Arc;

/// A query.
#[derive(Clone, Debug)]
pub struct Question {
    pub content_type: String,
    pub body: Bytes,
    /// Who asks, if that was shown.
    pub client: Option<Arc<Client>>,
}

/// A session at a place of its history, as its description has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub seq: u64,
    pub updated_ms: u64,
    /// Whose shape the state has.
    pub deployment: DeploymentId,
    pub state_keys: u64,
    pub state_bytes: u64,
    /// Its handler has closed it.
    pub closed: bool,
}

impl Replay {
    pub fn place(&self) -> Place {
        let Some(session) = &self.session else { return Place::default() };
        let head = &session.head;
        Place {
            seq: head.seq,
            updated_ms: head.updated_ms,
            deployment: head.deployment,
            state_keys: head.state_keys,
            state_bytes: head.state_bytes,
            closed: session.effects.as_ref().is_some_and(|effects| effects.is_closed()),
        }
    }

    /// Asks the session, which stays as it is. The handler's clock stands at the last message, so that the same query gets
    /// the same answer whenever it is asked.
    ///
    /// # Errors
    /// Why it can't be asked. What the handler said, or did, is inside.
    pub async fn query(
        &mut self,
        question: Question,
        on: &Version,
        instances: &mut Instances,
    ) -> Result<Result<plugin::Reply, Failure>, Unable> {
        let session = self.take()?;
        let place = (session.head.seq, session.head.updated_ms);
        let tx = Transaction::new(SLOT, self.store.0.clone(), session).at_level(NEWEST);
        let Question { content_type, body, client } = question;
        let input = Input::Query { content_type, body, client };
        match call(Box::new(tx).read_only(true), place, on, input, instances).await {
            Ok((tx, called)) => {
                self.session = Some(tx.discard());
                Ok(called.result)
            }
            Err((session, why)) => {
                self.session = session;
                Err(why)
            }
        }
    }
}
