//! What sessions stand at: what may come of them next.

use super::{Runner, SLOT};
use crate::{
    effects::{Effect, http::Form, rows::Name},
    names::SessionKey,
};

/// A session after a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub key: SessionKey,
    pub seq: u64,
    /// It takes no more messages.
    pub closed: bool,
    /// When each of its timers is tried, by name.
    pub timers: Vec<(String, u64)>,
    pub expires_ms: Option<u64>,
    /// Its open requests, by id.
    pub requests: Vec<Waiting>,
    /// It is told of its subscribers, and what it was told last.
    pub present: Option<bool>,
}

/// A request that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub id: String,
    pub url: String,
    pub attempts_max: u32,
    /// What is shown of its answer while it comes, if that is.
    pub shows: Option<Form>,
}

impl Runner {
    /// All sessions that there are, in order.
    ///
    /// # Errors
    /// The store's.
    pub fn standing(&mut self) -> anyhow::Result<Vec<Standing>> {
        let mut all = Vec::with_capacity(self.sessions.len());
        for session in self.sessions.values_mut().filter(|session| session.exists()) {
            let (key, seq) = (session.key.clone(), session.head.seq);
            let effects = session.load_effects(&*self.store, SLOT)?;
            let mut standing = Standing {
                key,
                seq,
                closed: effects.is_closed(),
                timers: Vec::new(),
                expires_ms: None,
                requests: Vec::new(),
                present: None,
            };
            for (name, effect) in effects.iter() {
                match (name, effect) {
                    (Name::Timer(name), Effect::Timer(timer)) => {
                        standing.timers.push((name.clone(), timer.next_ms));
                    }
                    (Name::Request(id), Effect::Request(request)) => {
                        standing.requests.push(Waiting {
                            id: id.clone(),
                            url: request.url.clone(),
                            attempts_max: request.attempts_max,
                            shows: request.stream.as_ref().map(|stream| stream.form.clone()),
                        });
                    }
                    (_, Effect::Expiry(expiry)) => standing.expires_ms = Some(expiry.at_ms),
                    (_, Effect::Watch(watch)) => standing.present = Some(watch.present),
                    _ => {}
                }
            }
            all.push(standing);
        }
        all.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(all)
    }
}
