//! The admin API: deploys, slots, the ring, metrics.

use super::{
    Admin,
    access::Who,
    audit::Note,
    canary, gate,
    messages::{Deadline, outcome_unknown},
    params::{self, Query, invalid},
    problem::Failed,
    views::{Binary, Services, SessionsPage, Slots, json},
};
use crate::{
    error::{Code, Error},
    names::{ServiceName, SessionId, check_plugin_version},
    node::{
        DeployOptions, Deployed, Deployments, Drained, GateOptions, LevelInfo, MoveCancelled,
        MovesInfo, Node, NodeDraining, NodeForgotten, NodesInfo, Rebalanced, RingInfo, SealInfo,
        ServiceInfo, ServiceRemoved, ServiceTypes, SlotInfo,
    },
    plugin::Digest,
    service::Author,
    signing,
};
use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
};
use http::{HeaderMap, HeaderValue, Response, Uri, header};
use serde::Serialize;
use std::sync::Arc;

type Answer = Result<Response<Body>, Failed>;

impl Admin {
    pub(super) fn node(&self) -> Result<&Arc<Node>, Error> {
        self.0.node.as_ref().ok_or_else(|| Error::new(Code::Unavailable, "no node is running"))
    }
    /// `None` in this folder's own tests.
    pub(super) fn audit(&self) -> Option<&crate::audit::Audit> {
        self.0.node.as_ref().map(|node| node.audit())
    }
    pub(super) fn request_deadline(&self) -> std::time::Duration {
        self.0.options.request_deadline
    }
    /// Awaits a read within the request's deadline.
    pub(super) async fn reading<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let deadline = Deadline::after(self.0.options.request_deadline);
        let late = || Error::new(Code::Unavailable, "no answer before the deadline");
        deadline.limit(std::pin::pin!(work)).await.unwrap_or_else(|| Err(late()))
    }
}

/// Runs a change to completion even if the client disconnects in the middle of it.
pub(super) fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> impl Future<Output = Result<T, Error>> {
    let running = crate::task::run(work);
    async { running.await.map_err(|_| outcome_unknown())? }
}

/// As [`to_its_end`], answering with its result, of which `noted` are fields for the audit log.
pub(super) async fn change<T: Serialize + Send + 'static>(
    note: &Note,
    noted: &[&str],
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Answer {
    let answer = to_its_end(work).await?;
    note.after_of(&answer, noted);
    Ok(json(&answer))
}

/// What the audit log has of a deploy or rollback.
const DEPLOYED: [&str; 9] = [
    "current.deployment",
    "current.version",
    "current.digest",
    "current.signed_by",
    "changed",
    "canary.state",
    "canary.deployment.version",
    "gate.gate",
    "gate.verdict",
];

/// What a service runs before a change.
pub(super) fn note_current(note: &Note, node: &Node, service: &ServiceName) {
    if let Ok(before) = node.service(service) {
        note.before("deployment", before.current.deployment);
        note.before("version", before.current.version);
        note.before("digest", before.current.digest.to_string());
        if let Some(key) = before.current.signed_by {
            note.before("signed_by", key);
        }
    }
}

fn note_options(note: &Note, options: &DeployOptions) {
    for (name, set) in [("force", options.force), ("same_state", options.same_state)] {
        if set {
            note.asked(name, true);
        }
    }
    if let Some(canary) = &options.canary {
        let steps: Vec<_> = canary.steps.iter().map(u16::to_string).collect();
        note.asked("canary", steps.join(","));
    }
    if let Some(by) = &options.by.said {
        note.asked("by", &**by);
    }
}

/// Lists the services
#[utoipa::path(
    get,
    path = "/admin/v1/services",
    tag = "admin",
    responses((status = 200, description = "The list", body = Services, content_type = "application/json"))
)]
pub(super) async fn services(State(admin): State<Admin>, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    Ok(json(&Services { services: admin.node()?.services() }))
}

/// Describes a service
#[utoipa::path(
    get,
    path = "/admin/v1/services/{service}",
    tag = "admin",
    params(("service" = String, Path, description = "The service")),
    responses((status = 200, description = "The deployments", body = ServiceInfo, content_type = "application/json"))
)]
pub(super) async fn service(State(admin): State<Admin>, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let service = params::admin_service_of(&uri)?;
    Ok(json(&admin.node()?.service(&service)?))
}

/// Deploys a plugin
///
/// The body is the component. It is checked, compiled and stored; then every slot switches to it,
/// each between two messages. The response is sent when all have switched, or earlier with
/// `swap.done` false. A component that slotd can't run is refused, and nothing changes; so is one
/// that would leave sessions behind, unless `force` is set. Deploying the version that already runs
/// does nothing (`changed` is false).
///
/// A version that follows another one goes through the gate first: it is run on the sessions and messages that there are,
/// in memory, and is refused with `gate-stopped` if it fails where the one before did not; see docs/gate.md. That may
/// take longer than the request: the answer has `gate` with `verdict` `running` then. Ask for
/// `/admin/v1/services/{service}/gate` until it has ended.
#[utoipa::path(
    post,
    path = "/admin/v1/services/{service}/deploy",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service; created if it does not exist"),
        ("version" = Option<String>, Query, description = "The version's name, 1 to 64 of A-Z a-z 0-9 . _ + -; default: the version in the component"),
        ("force" = Option<bool>, Query, description = "Deploy even if some sessions stay on the version that last handled them, because the new version is not later and has no migrate that takes them over. Default: refuse with `sessions-would-stay`"),
        ("same_state" = Option<bool>, Query, description = "This version reads every other version's state as it is, so all sessions switch"),
        ("canary" = Option<String>, Query, description = "Try the version in some of the slots first: in how many thousandths of them, step by step, as `10,100,500`; `1000` is added. Empty: `10,100,500,1000`. The answer is sent when the slots of the first step have switched"),
        ("pause" = Option<u64>, Query, description = "Of a canary: how many seconds a step takes at least. Default 300"),
        ("canary_messages" = Option<u64>, Query, minimum = 20, description = "Of a canary: how many messages and queries its version has to have handled in a step before it goes on. Default 500"),
        ("gate" = Option<String>, Query, description = "`strict`: whatever differs stops it; `report`: what fails, costs too much or wants what nobody accepted stops it; `off`: there is no gate. Default: what the policy says for the service, else `report`; with `force`, `off`"),
        ("accept" = Option<String>, Query, description = "New wants that are accepted, with commas between them: `http:HOST`, `secret:NAME`, `effect:FUNCTION`, `import:NAME`, `memory`"),
        ("dry_run" = Option<bool>, Query, description = "The gate, and no more: `changed` is false"),
        ("confirm" = Option<bool>, Query, description = "If anything differs, the gate waits for `POST /admin/v1/services/{service}/gate` before slots switch"),
        ("sessions" = Option<u64>, Query, minimum = 1, maximum = 100000, description = "Sessions whose history is run, chosen by the seed"),
        ("messages" = Option<u64>, Query, minimum = 1, description = "The last messages of each that are run on the new version"),
        ("seed" = Option<u64>, Query, description = "The same seed chooses the same sessions again; default: a random one, which the report names"),
        ("time_ms" = Option<u64>, Query, minimum = 1, maximum = 86400000, description = "How long a stage may take, in milliseconds; what was not seen by then is named"),
        ("threads" = Option<u64>, Query, minimum = 1, maximum = 64, description = "Threads of each node"),
        ("Slotd-Signature" = Option<String>, Header, description = "The component's signature, in base64; needed where the policy has `deploy_keys` for the service"),
    ),
    request_body(content = Binary, content_type = "application/wasm", description = "A WebAssembly component, up to 64 MiB"),
    responses((status = 200, description = "The result", body = Deployed, content_type = "application/json"))
)]
pub(super) async fn deploy(
    State(admin): State<Admin>,
    Extension(who): Extension<Arc<Who>>,
    note: Note,
    request: Request,
) -> Answer {
    let (head, body) = request.into_parts();
    let service = params::admin_service_of(&head.uri)?;
    let known =
        [&["version", "force", "same_state"], &canary::PARAMETERS[..], &gate::PARAMETERS[..]]
            .concat();
    let query = Query::parse(&head.uri, &known)?;
    let version = query.get("version").map(|v| check_version("version", v)).transpose()?;
    let options = deploy_options(&query, &head.headers, &who)?;
    let signature = params::text(&head.headers, &params::SIGNATURE)?.map(|text| {
        signing::decode(text).map_err(|why| invalid(format!("header slotd-signature: {why}")))
    });
    let (canary, gate) = (canary::options(&query)?, gate::options(&query)?);
    gate::note(&note, &gate);
    let options = DeployOptions { signature: signature.transpose()?, canary, gate, ..options };
    let node = admin.node()?.clone();
    note_current(&note, &node, &service);
    note_options(&note, &options);
    let upload = admin.0.uploads.receive(body).await?;
    note.asked("bytes", upload.component.len());
    let digest = note.clone();
    change(&note, &DEPLOYED, async move {
        let component = upload.component.clone();
        let hashed = component.clone();
        let component_digest = crate::task::blocking(move || Digest::of(&hashed)).await;
        let component_digest =
            component_digest.map_err(|_| Error::internal("the component was not hashed"))?;
        digest.asked("digest", component_digest.to_string());
        node.deploy(&service, version, component, options).await
    })
    .await
}

fn check_version(parameter: &str, version: &str) -> Result<String, Error> {
    check_plugin_version(version)
        .map_err(|why| invalid(format!("query parameter {parameter:?}: {why}")))?;
    Ok(version.to_owned())
}

/// Who asks: as the request says, and as it was shown.
pub(super) fn author(headers: &HeaderMap, who: &Who) -> Result<Author, Error> {
    let said = params::sender(headers)?.map(Into::into);
    Ok(Author { said, identity: who.text().map(Into::into) })
}

fn deploy_options(query: &Query, headers: &HeaderMap, who: &Who) -> Result<DeployOptions, Error> {
    Ok(DeployOptions {
        by: author(headers, who)?,
        force: query.bool("force")?.unwrap_or(false),
        same_state: query.bool("same_state")?.unwrap_or(false),
        signature: None,
        canary: None,
        gate: GateOptions::default(),
    })
}

/// Rolls back to the previous version, or to another one
///
/// Sessions that a later version has handled switch back only if the earlier version's `migrate`
/// accepts them, or if `same_state` is set. If some would stay behind, the rollback is refused with
/// their number (`sessions-would-stay`), unless `force` is set.
#[utoipa::path(
    post,
    path = "/admin/v1/services/{service}/rollback",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("to" = Option<String>, Query, description = "A version, label, deployment number or digest prefix (6 digits or more); default: the previous version"),
        ("force" = Option<bool>, Query, description = "Roll back even if some sessions stay behind; they keep working on the version that last handled them"),
        ("same_state" = Option<bool>, Query, description = "The version reads every other version's state as it is, so all sessions switch. Applies to this rollback only; a later one must set it again"),
    ),
    responses((status = 200, description = "The result", body = Deployed, content_type = "application/json"))
)]
pub(super) async fn rollback(
    State(admin): State<Admin>,
    Extension(who): Extension<Arc<Who>>,
    note: Note,
    uri: Uri,
    headers: HeaderMap,
) -> Answer {
    let service = params::admin_service_of(&uri)?;
    let query = Query::parse(&uri, &["to", "force", "same_state"])?;
    let to = query.get("to").map(|to| check_version("to", to)).transpose()?;
    let options = deploy_options(&query, &headers, &who)?;
    let node = admin.node()?.clone();
    note_current(&note, &node, &service);
    note_options(&note, &options);
    if let Some(to) = &to {
        note.asked("to", to.as_str());
    }
    let work = async move { node.rollback(&service, to.as_deref(), options).await };
    change(&note, &DEPLOYED, work).await
}

/// Removes a service with all its sessions
///
/// From now on, requests for it get 404 `service-not-found`. Its sessions are deleted in the
/// background, slot by slot, between other services' messages. The response is sent when all are
/// gone, or earlier with `done` false: deletion then continues, also after a restart. Repeat the
/// request to see its progress. A service of the same name can be deployed at any time and sees
/// none of the old sessions.
#[utoipa::path(
    delete,
    operation_id = "remove_service",
    path = "/admin/v1/services/{service}",
    tag = "admin",
    params(("service" = String, Path, description = "The service")),
    responses((status = 200, description = "The service is removed", body = ServiceRemoved, content_type = "application/json"))
)]
pub(super) async fn remove(
    State(admin): State<Admin>,
    Extension(who): Extension<Arc<Who>>,
    note: Note,
    uri: Uri,
    headers: HeaderMap,
) -> Answer {
    params::no_query(&uri)?;
    let service = params::admin_service_of(&uri)?;
    let by = author(&headers, &who)?;
    let node = admin.node()?.clone();
    note_current(&note, &node, &service);
    let work = async move { node.remove_service(&service, by).await };
    change(&note, &["deleted", "done"], work).await
}

/// Lists a service's deployments
///
/// The latest first, each with the number of sessions that it handled last. Counting reads the head
/// of every session on every node: about two seconds per million.
#[utoipa::path(
    get,
    path = "/admin/v1/services/{service}/deployments",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("sessions" = Option<bool>, Query, description = "Whether to count sessions; default true"),
    ),
    responses((status = 200, description = "The list", body = Deployments, content_type = "application/json"))
)]
pub(super) async fn deployments(State(admin): State<Admin>, uri: Uri) -> Answer {
    let service = params::admin_service_of(&uri)?;
    let count = Query::parse(&uri, &["sessions"])?.bool("sessions")?.unwrap_or(true);
    Ok(json(&admin.reading(admin.node()?.deployments(&service, count)).await?))
}

/// Shows the types of a service's messages
///
/// JSON Schemas of its messages, replies, queries, answers and events, as the current version's
/// component has them; slotd does not hold messages against them.
#[utoipa::path(
    get,
    operation_id = "service_types",
    path = "/admin/v1/services/{service}/types",
    tag = "admin",
    params(("service" = String, Path, description = "The service")),
    responses((status = 200, description = "The types, if the component has any", body = ServiceTypes, content_type = "application/json"))
)]
pub(super) async fn types(State(admin): State<Admin>, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let service = params::admin_service_of(&uri)?;
    Ok(json(&admin.reading(admin.node()?.types(&service)).await?))
}

/// Lists the sessions that stay on an older version
///
/// Those that the newer version's `migrate` refused, each with the reason.
#[utoipa::path(
    get,
    operation_id = "pinned_sessions",
    path = "/admin/v1/services/{service}/pinned",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("after" = Option<String>, Query, description = "Only ids after this one"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "The maximum number of sessions; default 100"),
    ),
    responses((status = 200, description = "A page", body = SessionsPage, content_type = "application/json"))
)]
pub(super) async fn pinned(State(admin): State<Admin>, uri: Uri) -> Answer {
    let service = params::admin_service_of(&uri)?;
    let query = Query::parse(&uri, &["after", "limit"])?;
    let limit = query.limit()?;
    let after = query.get("after").map(SessionId::parse).transpose()?;
    let found = admin.reading(admin.node()?.pinned(&service, after.as_ref(), limit + 1)).await?;
    Ok(json(&SessionsPage::new(found, limit)))
}

/// Lists the slots
#[utoipa::path(
    get,
    path = "/admin/v1/slots",
    tag = "admin",
    responses((status = 200, description = "The list", body = Slots, content_type = "application/json"))
)]
pub(super) async fn slots(State(admin): State<Admin>, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let slots = admin.reading(admin.node()?.slots()).await?;
    Ok(json(&Slots { slots }))
}

/// Describes a slot
#[utoipa::path(
    get,
    path = "/admin/v1/slots/{slot}",
    tag = "admin",
    params(("slot" = u16, Path, description = "The slot's number")),
    responses((status = 200, description = "The slot", body = SlotInfo, content_type = "application/json"))
)]
pub(super) async fn slot(State(admin): State<Admin>, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let slot = params::slot_of(&uri)?;
    Ok(json(&admin.reading(admin.node()?.slot(slot)).await?))
}

/// Drains a slot
///
/// The slot finishes the messages that it has and releases its term in its log; new messages wait.
/// Another node takes it over, and it stays off this node until the next rebalance. If there is no
/// other node, the request is refused (`no-other-node`). A node started with `--resettable`, for
/// test suites, drains the slot anyway; the slot starts again at its next message.
#[utoipa::path(
    post,
    operation_id = "drain_slot",
    path = "/admin/v1/slots/{slot}/drain",
    tag = "admin",
    params(("slot" = u16, Path, description = "The slot's number")),
    responses((status = 200, description = "The slot is drained", body = Drained, content_type = "application/json"))
)]
pub(super) async fn drain(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let slot = params::slot_of(&uri)?;
    let node = admin.node()?.clone();
    change(&note, &["term", "position", "to"], async move { node.drain_slot(slot).await }).await
}

/// Moves slots to the nodes that the ring assigns
///
/// Clears the list of slots drained by hand, and starts the resulting moves.
#[utoipa::path(
    post,
    path = "/admin/v1/rebalance",
    tag = "admin",
    responses((status = 200, description = "The moves that were started", body = Rebalanced, content_type = "application/json"))
)]
pub(super) async fn rebalance(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let node = admin.node()?.clone();
    change(&note, &["view", "moves"], async move { node.rebalance().await }).await
}

/// Describes the ring
#[utoipa::path(
    get,
    path = "/admin/v1/ring",
    tag = "admin",
    responses((status = 200, description = "Nodes and their slots", body = RingInfo, content_type = "application/json"))
)]
pub(super) async fn ring(State(admin): State<Admin>, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    Ok(json(&admin.node()?.ring()))
}

/// Lists the nodes and what each sees
///
/// The node that receives the request asks all others. If they differ (in the number of members, or
/// in slots owned and proposed), the cluster is not settled yet, or links are down.
#[utoipa::path(
    get,
    path = "/admin/v1/nodes",
    tag = "admin",
    responses((status = 200, description = "The list", body = NodesInfo, content_type = "application/json"))
)]
pub(super) async fn nodes(State(admin): State<Admin>, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let node = admin.node()?;
    Ok(json(&admin.reading(async { Ok(node.nodes().await) }).await?))
}

/// Shows how data is sealed, and what still needs which key
///
/// A key that nothing needs, and that no node seals with, can be deleted. In a cluster, as far as nodes have said what they
/// need: each says so when it starts, and again when that changes.
#[utoipa::path(
    get,
    path = "/admin/v1/seal",
    tag = "admin",
    responses((status = 200, description = "The keys, and what needs them", body = SealInfo, content_type = "application/json"))
)]
pub(super) async fn seal(State(admin): State<Admin>, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let node = admin.node()?;
    Ok(json(&admin.reading(node.sealing()).await?))
}

/// Shows the feature level in force, and what the nodes can read
///
/// The level decides which formats nodes may write, while earlier versions have to read them.
#[utoipa::path(
    get,
    path = "/admin/v1/level",
    tag = "admin",
    responses((status = 200, description = "The level", body = LevelInfo, content_type = "application/json"))
)]
pub(super) async fn level(State(admin): State<Admin>, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    Ok(json(&admin.node()?.level()))
}

/// Raises the feature level
///
/// Permanent: after that you can't go back to an earlier version. Refused while a node can't read
/// the level's formats (`level-unreadable`), also one that is away. It is raised automatically once all nodes have been
/// able to for `level_wait`.
#[utoipa::path(
    post,
    path = "/admin/v1/level",
    tag = "admin",
    params(("to" = Option<u16>, Query, description = "The level; default: the next one")),
    responses((status = 200, description = "The level in force", body = LevelInfo, content_type = "application/json"))
)]
pub(super) async fn raise_level(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    let query = Query::parse(&uri, &["to"])?;
    let to = query
        .get("to")
        .map(|to| to.parse::<u16>().map_err(|_| invalid("query parameter \"to\": not a level")));
    let to = to.transpose()?;
    let node = admin.node()?.clone();
    note.before("level", node.level_now());
    if let Some(to) = to {
        note.asked("to", to);
    }
    change(&note, &["level"], async move { node.raise_level(to).await }).await
}

/// Drains a node: moves all its slots to other nodes, then stops it
///
/// As SIGTERM does. Any node forwards the request. The response is sent when the drain has begun;
/// when it is done, the node is no longer in `/admin/v1/nodes`.
#[utoipa::path(
    post,
    path = "/admin/v1/nodes/{node}/drain",
    tag = "admin",
    params(("node" = String, Path, description = "The node's name")),
    responses((status = 200, description = "The drain has begun", body = NodeDraining, content_type = "application/json"))
)]
pub(super) async fn drain_node(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let name = params::node_of(&uri)?;
    let node = admin.node()?.clone();
    change(&note, &["slots", "takers"], async move { node.drain_node(&name).await }).await
}

/// Forgets a node that is gone for good
///
/// Removes the record of what it can read, so that the feature level no longer waits for it. A node that
/// comes back all the same writes it again, or is refused if the level has risen past it.
#[utoipa::path(
    delete,
    path = "/admin/v1/nodes/{node}",
    tag = "admin",
    params(("node" = String, Path, description = "The node's name")),
    responses((status = 200, description = "The node is forgotten", body = NodeForgotten, content_type = "application/json"))
)]
pub(super) async fn forget_node(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let name = params::node_of(&uri)?;
    let node = admin.node()?.clone();
    change(&note, &["reads"], async move { node.forget_node(&name).await }).await
}

/// Lists moves of slots between nodes
///
/// All moves in progress and the latest ended ones, of all nodes.
#[utoipa::path(
    get,
    path = "/admin/v1/moves",
    tag = "admin",
    params(("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "The maximum number of ended moves; default 100")),
    responses((status = 200, description = "The moves", body = MovesInfo, content_type = "application/json"))
)]
pub(super) async fn moves(State(admin): State<Admin>, uri: Uri) -> Answer {
    let limit = Query::parse(&uri, &["limit"])?.limit()?;
    let node = admin.node()?;
    Ok(json(&admin.reading(async { Ok(node.moves(limit).await) }).await?))
}

/// Cancels a move of a slot
///
/// Possible until the old owner is asked to release the slot. The slot stays where it is until the
/// view changes (a node joins, leaves, or can't serve), the slot is drained, or the cluster is
/// rebalanced. A takeover, of a slot that no node serves, is tried again. To keep a slot off a node,
/// drain it there.
#[utoipa::path(
    delete,
    path = "/admin/v1/moves/{node}/{id}",
    tag = "admin",
    params(
        ("node" = String, Path, description = "The node that the slot was to move to"),
        ("id" = u64, Path, description = "The move's number on that node"),
    ),
    responses((status = 200, description = "The move is cancelled", body = MoveCancelled, content_type = "application/json"))
)]
pub(super) async fn cancel_move(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let (name, id) = (params::node_of(&uri)?, params::move_of(&uri)?);
    let node = admin.node()?.clone();
    change(&note, &[], async move { node.cancel_move(&name, id).await }).await
}

/// Returns the metrics in Prometheus' text format
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "admin",
    responses((status = 200, description = "The list", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(admin): State<Admin>, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let mut response = Response::new(Body::from((admin.0.metrics)()));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    Ok(response)
}
