//! A session of the kitchen sink, and what happens in it.

use crate::suite::{SINK, Suite};
use anyhow::{Context, ensure};
use serde_json::Value;
use slotd_tests::{
    api::{Api, Event, Message},
    sse::Sse,
};
use std::time::Duration;

/// For something that must come.
const SOON: Duration = Duration::from_secs(60);

/// A session with a stream of its events.
pub struct Watched {
    pub api: Api,
    pub session: &'static str,
    stream: Sse,
}

impl Watched {
    pub async fn new(suite: &Suite, session: &'static str) -> anyhow::Result<Self> {
        let api = suite.node.api();
        let stream = api.events(SINK, session, Some(0), None).await?;
        Ok(Self { api, session, stream })
    }

    pub async fn tell(&self, message: &Value) -> anyhow::Result<Value> {
        self.api.send(SINK, self.session, Message::json(message)).await?.json()
    }

    /// The next event, which is of this kind: the number of its message, and its body.
    pub async fn next(&mut self, kind: &str) -> anyhow::Result<(u64, Value)> {
        let next = tokio::time::timeout(SOON, self.stream.next()).await;
        let event = next.with_context(|| format!("no event {kind} in time"))??;
        let told: Event = event.context("the stream ended")?.json()?;
        ensure!(told.kind == kind, "{told:?}");
        Ok((told.seq, told.body.context("no body")?))
    }
}
