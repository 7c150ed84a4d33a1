//! Ephemeral events from clients: to whoever is subscribed to a session now. They are no messages: no handler
//! sees them, nothing keeps them.

use super::{
    Api,
    access::Who,
    frames::NotifyFrame,
    messages::{Deadline, body_late, read_body},
    params::{self, Query, invalid},
    problem,
    views::Binary,
};
use crate::{
    buffers::{Charge, Kind},
    error::{Code, Error},
    limits,
    log::record::Event,
    message::Client,
    names::{ServiceName, SessionKey, is_reserved_kind},
    operation::Notify,
    quota::Told,
    rpc,
};
use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use http::{Response, StatusCode};
use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

/// The services whose clients may send ephemeral events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notifiers {
    all: bool,
    services: Arc<[String]>,
}

impl Notifiers {
    /// From `api.notify`: names with commas between, or `*`.
    pub fn parse(text: &str) -> Self {
        let services = text.split(',').map(|name| name.trim().to_owned()).collect();
        Self { all: text.trim() == "*", services }
    }

    fn check(&self, service: &ServiceName) -> Result<(), Error> {
        if self.all || self.services.iter().any(|name| name == service.as_str()) {
            return Ok(());
        }
        Err(Error::new(
            Code::NotifyRefused,
            format!(
                "clients of {service} may not send ephemeral events: its operator allows it with the \
                 setting api.notify"
            ),
        ))
    }
}

/// Sends an ephemeral event to the subscribers of a session
///
/// The body is the event's. Whoever is subscribed now gets it, without a position; it is not kept, no handler
/// sees it, and a subscriber that reads too slowly misses it. The session need not exist, and nobody need be
/// subscribed: the answer is the same. For clients of services that `api.notify` names.
#[utoipa::path(
    post,
    operation_id = "notify",
    path = "/v1/services/{service}/sessions/{session}/notify",
    tag = "sessions",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("kind" = String, Query, description = "The event's name: a word of 1 to 64 bytes, not `error`, and not beginning with `slotd.`"),
        ("Slotd-Sender" = Option<String>, Header, description = "The sender, 1 to 256 bytes; the event names it"),
    ),
    request_body(content = Binary, content_type = "*/*", description = "The event's body, of any content type, up to 16 KiB"),
    responses((status = 202, description = "Sent to whoever was subscribed"))
)]
pub(super) async fn post(
    State(api): State<Api>,
    Extension(who): Extension<Arc<Who>>,
    request: Request,
) -> Response<Body> {
    let mut told = Told::default();
    let sent = post_one(&api, &who, request, &mut told).await;
    let mut response = match sent {
        Ok(()) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::ACCEPTED;
            response
        }
        Err(error) => problem::response(&error).map(Body::from),
    };
    told.write(response.headers_mut());
    response
}

async fn post_one(api: &Api, who: &Who, request: Request, told: &mut Told) -> Result<(), Error> {
    let (head, body) = request.into_parts();
    let key = params::session_of(&head.uri)?;
    let query = Query::parse(&head.uri, &["kind"])?;
    api.options().notify.check(&key.service)?;
    let kind =
        query.get("kind").ok_or_else(|| invalid("the query parameter \"kind\" is missing"))?;
    check_kind(kind)?;
    let (kind, content_type) = (kind.to_owned(), params::content_type(&head.headers)?);
    let admitted = api.gate().admitted(who, key.service.as_str());
    let sender = admitted.sender(params::sender(&head.headers)?)?;
    let deadline = Deadline::after(api.options().request_deadline);
    let mut room = Charge::new(&**api.buffers(), Kind::Bodies);
    let body = deadline
        .limit(pin!(read_body(body, body_bytes_max(api), &mut room)))
        .await
        .unwrap_or_else(|| Err(body_late()))?;
    api.limiter().admit(&key, admitted.client.as_deref(), body.len(), None, told)?;
    send(api, Notify { key, sender, event: Event { kind, content_type, body } }).await
}

pub(super) fn body_bytes_max(api: &Api) -> usize {
    api.options().body_bytes_max.min(limits::NOTIFY_BODY_BYTES_MAX)
}

/// As a handler's: it becomes a line of its own in a stream of events.
pub(super) fn check_kind(kind: &str) -> Result<(), Error> {
    let what = "the kind of an ephemeral event";
    params::check_name(what, kind, limits::EVENT_KIND_BYTES_MAX)?;
    if kind.contains(char::is_whitespace) {
        return Err(Error::name_invalid(format!("{what} is a word; this one has a space")));
    }
    if is_reserved_kind(kind) {
        return Err(Error::name_invalid(format!(
            "{what} is not \"error\" and does not begin with \"slotd.\": event streams use these"
        )));
    }
    Ok(())
}

/// Sends an event on its way, for a service that allows it. What has not arrived in time is out of date.
///
/// # Errors
/// `notify-refused`, `limit-reached`, or why the session's slot could not be reached.
pub(super) async fn send(api: &Api, notify: Notify) -> Result<(), Error> {
    api.options().notify.check(&notify.key.service)?;
    match tokio::time::timeout(limits::NOTIFY_TIMEOUT, api.backend().call(notify)).await {
        Ok(sent) => sent.map_err(rpc::or_too_old),
        Err(_) => Err(Error::new(
            Code::Unavailable,
            "the session's slot could not be reached in time; the event may not have been sent",
        )),
    }
}

/// Of a connection's event that failed: its id, if it has one, and why.
type NotSent = (Option<String>, Error);

/// Ephemeral events of one WebSocket that are on their way.
#[derive(Default)]
pub(super) struct Notifying(FuturesUnordered<BoxFuture<'static, Result<(), NotSent>>>);

impl Notifying {
    /// Sends an event on its way, which most have behind them at once.
    pub(super) fn send(
        &mut self,
        api: &Api,
        key: &SessionKey,
        client: Option<&Client>,
        frame: NotifyFrame,
    ) -> Option<NotSent> {
        let NotifyFrame { id, sender, event } = frame;
        if self.0.len() >= limits::SOCKET_NOTIFIES_MAX {
            let why = format!(
                "{} ephemeral events of this connection are still on their way",
                limits::SOCKET_NOTIFIES_MAX
            );
            return Some((id, Error::new(Code::LimitReached, why)));
        }
        let mut charge = Charge::new(api.buffers().clone(), Kind::Bodies);
        let bytes = event.body.len();
        let admitted = charge.take(bytes).and_then(|()| {
            // Before it draws anything.
            api.options().notify.check(&key.service)?;
            api.limiter().admit(key, client, bytes, None, &mut Told::default())
        });
        if let Err(refused) = admitted {
            return Some((id, refused));
        }
        let (api, key) = (api.clone(), key.clone());
        let sending = async move {
            let _held = charge;
            send(&api, Notify { key, sender, event }).await.map_err(|error| (id, error))
        };
        let mut sending = sending.boxed();
        match (&mut sending).now_or_never() {
            Some(sent) => sent.err(),
            None => {
                self.0.push(sending);
                None
            }
        }
    }

    /// The next one that failed. Otherwise it wakes `cx` when there may be one.
    pub(super) fn failed(&mut self, cx: &mut Context<'_>) -> Option<NotSent> {
        while let Poll::Ready(Some(sent)) = self.0.poll_next_unpin(cx) {
            if let Err(failed) = sent {
                return Some(failed);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service that was not meant would relay what anyone says to its clients.
    #[test]
    fn only_named_services_let_clients_notify() {
        let service = |name| ServiceName::parse(name).expect("a name");
        let allows = |list, name| Notifiers::parse(list).check(&service(name)).is_ok();
        assert!(Notifiers::default().check(&service("chat")).is_err());
        assert!(allows("*", "chat"));
        assert!(allows("board, chat", "chat") && allows("board, chat", "board"));
        assert!(!allows("board,chat", "cha") && !allows("board", "chat"));
    }

    /// A kind with a line break would end the event; a reserved one would end the stream.
    #[test]
    fn kinds_of_clients_are_words() {
        for good in ["typing", "größe-😀", "cursor.moved", &"k".repeat(64)] {
            assert!(check_kind(good).is_ok(), "{good:?}");
        }
        let bad = ["", "two words", "a\nb", "a\u{a0}b", "error", "slotd.gap", &"k".repeat(65)];
        for bad in bad {
            assert_eq!(check_kind(bad).map_err(|e| e.code), Err(Code::NameInvalid), "{bad:?}");
        }
    }
}
