//! Typed clients of slotd's two HTTP interfaces.

use crate::{
    http::{Answer, Client},
    socket::Socket,
    sse::Sse,
};
use anyhow::{Context, ensure};
use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The API of a node.
#[derive(Clone)]
pub struct Api {
    pub client: Client,
}

/// The admin API of a node.
#[derive(Clone)]
pub struct Admin {
    pub client: Client,
}

/// A message as a client sends it.
#[derive(Clone, Debug, Default)]
pub struct Message {
    pub body: Bytes,
    pub content_type: Option<String>,
    pub key: Option<String>,
    pub sender: Option<String>,
}

/// A successful reply to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub seq: u64,
    pub slot: u16,
    /// The plugin's label.
    pub plugin: String,
    pub replayed: bool,
    pub content_type: String,
    pub body: Bytes,
}

/// One page of a session's history.
#[derive(Clone, Debug, Deserialize)]
pub struct History {
    pub entries: Vec<Entry>,
    pub last_seq: u64,
    pub next_after: Option<u64>,
}

/// A message in the history. A body is a JSON value, a string, or else base64.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Entry {
    pub seq: u64,
    pub id: Option<String>,
    pub sender: Option<String>,
    pub time_ms: u64,
    pub plugin: String,
    pub content_type: String,
    pub body: Option<Value>,
    pub body_base64: Option<String>,
    pub reply_content_type: String,
    pub reply: Option<Value>,
    pub reply_base64: Option<String>,
    pub events: Vec<Event>,
    /// Which timer it comes from, if from one.
    pub timer: Option<Fired>,
    /// Which session has sent it, if one has.
    pub delivery: Option<Delivered>,
    /// Which message of the session it is the outcome of, if it is one.
    pub answer: Option<Answered>,
    /// Which request over HTTP it is the answer to, if it is one.
    pub http: Option<HttpAnswered>,
    /// Which request's answer it has a part of, if it has one.
    pub part: Option<HttpPart>,
    /// What subscribers did, if it comes from that.
    pub presence: Option<Presence>,
    /// Who its client was shown to be, if it was.
    pub client: Option<Value>,
}

/// What came of a request over HTTP.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct HttpAnswered {
    pub id: String,
    /// The message that asked.
    pub asked_by: u64,
    pub status: Option<u16>,
    pub failure: Option<String>,
    pub reason: Option<String>,
    pub attempts: u32,
    pub attempt: u32,
}

/// Of what something was shown.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct HttpPart {
    pub id: String,
    pub asked_by: u64,
    pub attempt: u32,
}

/// Whether there are subscribers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Presence {
    pub present: bool,
}

/// What sent a message.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Delivered {
    /// `service/session`.
    pub sender: String,
    pub sent_by: u64,
    pub attempt: u32,
    pub reply_wanted: bool,
}

/// What came of a message that a session has sent.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Answered {
    pub name: String,
    /// The session that was asked: `service/session`.
    pub sender: String,
    pub sent_by: u64,
    pub attempt: u32,
    pub refusal: Option<Value>,
}

/// Which time of a timer a message is for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Fired {
    pub name: String,
    pub due_ms: u64,
    pub missed: u64,
    pub attempt: u32,
}

/// An ephemeral event from an event stream or a socket.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Ephemeral {
    /// On an event stream.
    pub ephemeral: Option<bool>,
    pub kind: String,
    pub origin: String,
    pub sender: Option<String>,
    pub time_ms: u64,
    pub content_type: String,
    pub body: Option<Value>,
    pub body_base64: Option<String>,
}

/// An event from the history, an event stream or a socket.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Event {
    pub seq: u64,
    pub index: u32,
    pub kind: String,
    pub time_ms: u64,
    pub content_type: String,
    pub body: Option<Value>,
    pub body_base64: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Deployment {
    pub deployment: u32,
    pub version: String,
    pub digest: String,
    pub label: String,
}

/// A swap's progress or result. Pauses are microseconds.
#[derive(Clone, Debug, Deserialize)]
pub struct Swap {
    pub generation: u64,
    pub from: Option<String>,
    pub to: String,
    pub slots: u32,
    pub moved: u32,
    pub done: bool,
    #[serde(default)]
    pub error: Option<String>,
    pub elapsed_ms: f64,
    pub pause_p50_us: f64,
    pub pause_p99_us: f64,
    pub pause_max_us: f64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Deployed {
    pub service: String,
    pub current: Deployment,
    pub changed: bool,
    pub swap: Option<Swap>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Service {
    pub service: String,
    pub current: Deployment,
    pub previous: Option<Deployment>,
    pub generation: u64,
    pub memory: ServiceMemory,
    pub swap: Option<Swap>,
}

/// A service's instances on the queried node.
#[derive(Clone, Debug, Deserialize)]
pub struct ServiceMemory {
    pub instances: u64,
    pub bytes: u64,
    pub code_bytes: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Slot {
    pub slot: u16,
    /// The node that owns it.
    pub owner: String,
    pub state: String,
    pub term: u64,
    pub position: u64,
    pub sessions: u64,
    pub plugins: BTreeMap<String, String>,
}

/// The views of the nodes of a cluster.
#[derive(Clone, Debug, Deserialize)]
pub struct Nodes {
    pub nodes: Vec<NodeView>,
    /// Members that did not answer.
    pub silent: Vec<Value>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct NodeView {
    pub node: String,
    pub members: Vec<String>,
    pub leaving: Vec<String>,
    pub owned: u32,
    pub proposed: u32,
    pub moving: u32,
    pub not_ready: Option<String>,
    pub unfit: Option<String>,
}

/// A move of a slot between nodes; `from` is `None` when its owner was gone.
#[derive(Clone, Debug, Deserialize)]
pub struct Move {
    pub slot: u16,
    pub from: Option<String>,
    pub to: String,
    pub state: String,
    pub started_ms: u64,
    pub pause_ms: Option<f64>,
}

/// One page of sessions.
#[derive(Clone, Debug, Deserialize)]
pub struct Sessions {
    pub sessions: Vec<Session>,
    pub next_after: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Session {
    pub service: String,
    pub session: String,
    pub slot: u16,
    pub seq: u64,
    pub plugin: String,
    pub state_keys: u64,
    pub state_bytes: u64,
    pub pinned: Option<Pin>,
}

/// Why a session stays on an older plugin.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Pin {
    pub against: String,
    pub reason: String,
}

impl Message {
    /// A JSON message.
    pub fn json(value: &Value) -> Self {
        Self::bytes(value.to_string()).typed("application/json")
    }
    pub fn bytes(body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }
    #[must_use]
    pub fn typed(mut self, content_type: &str) -> Self {
        self.content_type = Some(content_type.into());
        self
    }
    /// With an idempotency key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }
    #[must_use]
    pub fn from(mut self, sender: impl Into<String>) -> Self {
        self.sender = Some(sender.into());
        self
    }
}

impl Reply {
    /// # Errors
    /// If the answer is not a success with all of slotd's headers.
    pub fn of(answer: Answer) -> anyhow::Result<Self> {
        let answer = answer.success()?;
        let header = |name: &str| answer.header(name).with_context(|| format!("no header {name}"));
        Ok(Self {
            seq: header("slotd-seq")?.parse()?,
            slot: header("slotd-slot")?.parse()?,
            plugin: header("slotd-plugin")?.into(),
            replayed: answer.header("slotd-replayed") == Some("true"),
            content_type: answer.header("content-type").unwrap_or_default().into(),
            body: answer.body.clone(),
        })
    }
    /// # Errors
    /// When the body is not JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&self.body)?)
    }
}

/// The path of a session; names are percent-encoded.
pub fn session_path(service: &str, session: &str) -> String {
    format!("/v1/services/{}/sessions/{}", encode(service), encode(session))
}

/// Percent-encodes all but unreserved characters.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl Api {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Sends a message and returns the answer, whatever its status.
    ///
    /// # Errors
    /// If the connection breaks: the outcome is then unknown.
    pub async fn post(
        &self,
        service: &str,
        session: &str,
        message: Message,
    ) -> anyhow::Result<Answer> {
        let headers: Vec<(&str, &str)> = [
            ("content-type", &message.content_type),
            ("idempotency-key", &message.key),
            ("slotd-sender", &message.sender),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.as_deref().map(|value| (name, value)))
        .collect();
        let path = session_path(service, session) + "/messages";
        self.client.request(Method::POST, &path, &headers, message.body.clone()).await
    }

    /// Sends a message that must succeed.
    ///
    /// # Errors
    /// When it does not.
    pub async fn send(
        &self,
        service: &str,
        session: &str,
        message: Message,
    ) -> anyhow::Result<Reply> {
        Reply::of(self.post(service, session, message).await?)
            .with_context(|| format!("a message to {service}/{session}"))
    }

    /// Sends a JSON query that must succeed.
    ///
    /// # Errors
    /// When it does not, or its answer is not JSON.
    pub async fn query(
        &self,
        service: &str,
        session: &str,
        query: &Value,
    ) -> anyhow::Result<Value> {
        let path = session_path(service, session) + "/query";
        let headers = [("content-type", "application/json")];
        let answer = self.client.request(Method::POST, &path, &headers, query.to_string()).await?;
        answer.success()?.json()
    }

    /// A page of history after a sequence number.
    ///
    /// # Errors
    /// When the answer is not one.
    pub async fn history(
        &self,
        service: &str,
        session: &str,
        after: u64,
        limit: usize,
    ) -> anyhow::Result<History> {
        let path =
            format!("{}/messages?after={after}&limit={limit}", session_path(service, session));
        self.client.get(&path).await?.success()?.json()
    }

    /// All of a session's history, page by page. Checks that the pages are consecutive.
    ///
    /// # Errors
    /// If a page is not the requested one.
    pub async fn whole_history(&self, service: &str, session: &str) -> anyhow::Result<Vec<Entry>> {
        let mut all: Vec<Entry> = Vec::new();
        loop {
            let after = all.last().map_or(0, |entry| entry.seq);
            let page = self.history(service, session, after, 1000).await?;
            all.extend(page.entries);
            let end = all.last().map_or(0, |entry| entry.seq);
            match page.next_after {
                Some(next) => {
                    ensure!(next == end && next > after, "a page ends at {end}, not {next}")
                }
                None => {
                    ensure!(end == page.last_seq, "history ends at {end} of {}", page.last_seq);
                    return Ok(all);
                }
            }
        }
    }

    /// # Errors
    /// When there is no such session.
    pub async fn session(&self, service: &str, session: &str) -> anyhow::Result<Session> {
        self.client.get(&session_path(service, session)).await?.success()?.json()
    }

    pub async fn delete(&self, service: &str, session: &str) -> anyhow::Result<Answer> {
        self.client.request(Method::DELETE, &session_path(service, session), &[], "").await
    }

    /// Sends an ephemeral event, whatever the answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn notify(
        &self,
        service: &str,
        session: &str,
        kind: &str,
        event: Message,
    ) -> anyhow::Result<Answer> {
        let headers = [("content-type", &event.content_type), ("slotd-sender", &event.sender)];
        let headers: Vec<(&str, &str)> = headers
            .into_iter()
            .filter_map(|(name, value)| value.as_deref().map(|value| (name, value)))
            .collect();
        let path = format!("{}/notify?kind={}", session_path(service, session), encode(kind));
        self.client.request(Method::POST, &path, &headers, event.body.clone()).await
    }

    /// Opens the event stream of a session; `after` is `None` for new events.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn events(
        &self,
        service: &str,
        session: &str,
        after: Option<u64>,
        last_id: Option<&str>,
    ) -> anyhow::Result<Sse> {
        let after = after.map(|seq| format!("?after={seq}")).unwrap_or_default();
        let path = format!("{}/events{after}", session_path(service, session));
        Sse::open(&self.client, &path, last_id).await
    }

    /// Opens a WebSocket on a session.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn socket(
        &self,
        service: &str,
        session: &str,
        after: Option<u64>,
    ) -> anyhow::Result<Socket> {
        let after = after.map(|seq| format!("?after={seq}")).unwrap_or_default();
        let path = format!("{}/socket{after}", session_path(service, session));
        Socket::open(&self.client, &path).await
    }
}

impl Admin {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Uploads a component, whatever the answer.
    ///
    /// Past the gate: what becomes of sessions that a version can't take over, and how slots switch, is what most tests
    /// are about. [`Admin::upload_with`] goes through it.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn upload(&self, service: &str, component: Bytes) -> anyhow::Result<Answer> {
        self.upload_past_gate(service, component, "").await
    }

    /// As [`Admin::upload`], with these query parameters and no others.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn upload_with(
        &self,
        service: &str,
        component: Bytes,
        query: &str,
    ) -> anyhow::Result<Answer> {
        let path = format!("/admin/v1/services/{}/deploy{query}", encode(service));
        let headers = [("content-type", "application/wasm")];
        self.client.request(Method::POST, &path, &headers, component).await
    }

    async fn upload_past_gate(
        &self,
        service: &str,
        component: Bytes,
        more: &str,
    ) -> anyhow::Result<Answer> {
        let query = format!("?gate=off{more}");
        let answer = self.upload_with(service, component.clone(), &query).await;
        // A version of before the gate refuses the parameter, and may close the connection before it has read the component.
        let refused = |answer: &Answer| answer.status == 400 && answer.text().contains("gate");
        if answer.as_ref().is_ok_and(|answer| !refused(answer)) {
            return answer;
        }
        let query = more.replacen('&', "?", 1);
        // The connection that it closes may be tried once more.
        match self.upload_with(service, component.clone(), &query).await {
            Err(_) => self.upload_with(service, component, &query).await,
            answer => answer,
        }
    }

    /// A service's last gate.
    ///
    /// # Errors
    /// When there is none.
    pub async fn gate(&self, service: &str) -> anyhow::Result<Value> {
        let path = format!("/admin/v1/services/{}/gate", encode(service));
        self.client.get(&path).await?.success()?.json()
    }

    /// Deploys a component and waits until every slot runs it.
    ///
    /// # Errors
    /// When it is refused or the swap stalls.
    pub async fn deploy(&self, service: &str, component: Bytes) -> anyhow::Result<Deployed> {
        let deployed = self.upload(service, component).await?.success()?.json()?;
        self.swapped(deployed).await
    }

    /// As [`Admin::deploy`], under another version than the component's.
    ///
    /// # Errors
    /// As [`Admin::deploy`].
    pub async fn deploy_as(
        &self,
        service: &str,
        component: Bytes,
        version: &str,
    ) -> anyhow::Result<Deployed> {
        let version = format!("&version={}", encode(version));
        let answer = self.upload_past_gate(service, component, &version).await?;
        self.swapped(answer.success()?.json()?).await
    }

    /// Rolls back and waits until every slot runs the earlier version.
    ///
    /// # Errors
    /// When it is refused or the swap stalls.
    pub async fn rollback(&self, service: &str) -> anyhow::Result<Deployed> {
        let path = format!("/admin/v1/services/{}/rollback", encode(service));
        let deployed = self.client.post(&path, "").await?.success()?.json()?;
        self.swapped(deployed).await
    }

    async fn swapped(&self, mut deployed: Deployed) -> anyhow::Result<Deployed> {
        if deployed.swap.as_ref().is_some_and(|swap| !swap.done) {
            let swap = crate::node::eventually("the swap's end", async || {
                let swap = self.service(&deployed.service).await?.swap.context("no swap")?;
                Ok(swap.done.then_some(swap))
            })
            .await?;
            deployed.swap = Some(swap);
        }
        let error = deployed.swap.as_ref().and_then(|swap| swap.error.as_deref());
        ensure!(error.is_none(), "the swap failed: {error:?}");
        Ok(deployed)
    }

    /// # Errors
    /// When it is not deployed.
    pub async fn service(&self, service: &str) -> anyhow::Result<Service> {
        let path = format!("/admin/v1/services/{}", encode(service));
        self.client.get(&path).await?.success()?.json()
    }

    pub async fn slots(&self) -> anyhow::Result<Vec<Slot>> {
        #[derive(Deserialize)]
        struct Slots {
            slots: Vec<Slot>,
        }
        let all: Slots = self.client.get("/admin/v1/slots").await?.success()?.json()?;
        Ok(all.slots)
    }

    /// # Errors
    /// When the answer is not a listing.
    pub async fn nodes(&self) -> anyhow::Result<Nodes> {
        self.client.get("/admin/v1/nodes").await?.success()?.json()
    }

    /// Moves in progress, and the latest `limit` finished ones.
    ///
    /// # Errors
    /// When the answer is not a listing.
    pub async fn moves(&self, limit: usize) -> anyhow::Result<Vec<Move>> {
        #[derive(Deserialize)]
        struct Moves {
            moves: Vec<Move>,
        }
        let path = format!("/admin/v1/moves?limit={limit}");
        let all: Moves = self.client.get(&path).await?.success()?.json()?;
        Ok(all.moves)
    }

    /// Sessions that the current version could not migrate.
    ///
    /// # Errors
    /// When the answer is not a listing.
    pub async fn pinned(&self, service: &str) -> anyhow::Result<Vec<Session>> {
        let path = format!("/admin/v1/services/{}/pinned", encode(service));
        let page: Sessions = self.client.get(&path).await?.success()?.json()?;
        Ok(page.sessions)
    }

    /// The sum of a metric over all its labels (those that match, if some are given as
    /// `name="value"`); 0 if it is missing.
    ///
    /// # Errors
    /// When the metrics can't be read.
    pub async fn metric(&self, name: &str, label: &str) -> anyhow::Result<f64> {
        let text = self.client.get("/metrics").await?.success()?.text();
        Ok(metric(&text, name, label))
    }
}

/// As [`Admin::metric`], of a text in Prometheus's format.
pub fn metric(text: &str, name: &str, label: &str) -> f64 {
    text.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            labels.contains(label).then(|| value.trim().parse::<f64>().ok()).flatten()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sum over a longer name (`_sum`, `_count`) would make every figure of the benchmark wrong.
    #[test]
    fn a_metric_is_summed_over_its_own_name_only() {
        let text = "# TYPE a counter\na{x=\"1\"} 2\na{x=\"2\"} 3\na_sum 10\nab 100\n";
        assert_eq!(metric(text, "a", ""), 5.0);
        assert_eq!(metric(text, "a", "x=\"2\""), 3.0);
        assert_eq!(metric(text, "a_sum", ""), 10.0);
    }
}
