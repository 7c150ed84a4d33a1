//! One request and its answer.

use super::{
    super::{
        access::cors::{self, Verdict},
        connection::{ConnShared, InFlight},
        messages::Deadline,
        problem,
        server::{self, App},
    },
    answer::{Answer, Piece},
    body::Received,
    share::Turn,
};
use crate::{error::Error, limits};
use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts,
};
use http_body::Body as _;
use std::{cell::RefCell, future::poll_fn, sync::Arc, time::SystemTime};
use tokio::time::Instant;

/// How an exchange was over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Also with an error, or by slotd's own reset.
    Answered,
    /// By the peer, which has reset its stream or is gone.
    Reset,
    /// The same, as soon as it had begun.
    ResetAtOnce,
}

impl From<Result<(), h2::Error>> for Ended {
    fn from(sent: Result<(), h2::Error>) -> Self {
        sent.map_or(Self::Reset, |()| Self::Answered)
    }
}

pub(super) struct Exchange {
    app: App,
    connection: Arc<ConnShared>,
    respond: SendResponse<Piece>,
    is_head: bool,
    began: Instant,
    /// `None`: there are too many.
    turn: Option<Turn>,
    /// What a page of another origin is told.
    verdict: Option<Verdict>,
    _in_flight: InFlight,
}

impl Exchange {
    pub(super) fn new(
        app: &App,
        connection: &Arc<ConnShared>,
        respond: SendResponse<Piece>,
    ) -> Self {
        let in_flight = connection.request();
        Self {
            app: app.clone(),
            connection: connection.clone(),
            respond,
            is_head: false,
            began: crate::clock::timer_now(),
            turn: app.share().take(connection.in_flight()),
            verdict: None,
            _in_flight: in_flight,
        }
    }

    /// A message that was sent is decided whatever becomes of its stream; anything else ends with
    /// it.
    pub(super) async fn run(self, request: Request<RecvStream>) -> Ended {
        let began = self.began;
        match self.answered(request).await {
            Ended::Reset if began.elapsed() < limits::HTTP2_RESET_AT_ONCE => Ended::ResetAtOnce,
            ended => ended,
        }
    }

    async fn answered(mut self, request: Request<RecvStream>) -> Ended {
        let (mut head, body) = request.into_parts();
        let body = Received::new(body, &head.headers);
        name_host(&mut head);
        self.is_head = head.method == Method::HEAD;
        let held = self.connection.holds_head(size(&head));
        let request = Request::from_parts(head, body);
        let checked = server::check(&self.app, &self.connection, &request);
        self.verdict = server::verdict(&self.app, &checked, &request);
        let accepted = checked.and_then(|has_origin| {
            server::check_turn(self.turn.is_some(), &request)?;
            Ok((has_origin, held?))
        });
        let (has_origin, _held) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                drop(request);
                return self.refuse(&error).await;
            }
        };
        if let Some(answer) = cors::preflight(&request, self.verdict.as_ref()) {
            return self.whole(answer).await;
        }
        if !request.body().is_end_stream() && request.headers().contains_key(header::EXPECT) {
            let mut go_on = Response::new(());
            *go_on.status_mut() = StatusCode::CONTINUE;
            let _ = self.respond.send_informational(go_on);
        }
        let app = self.app.clone();
        if let Some((api, key)) = server::message_in(&app, &request) {
            let began = self.began;
            let deadline = Deadline::Timer(began + api.options().request_deadline);
            let connection = self.connection.clone();
            let response =
                server::message(api, key, &connection, request, has_origin, deadline, began).await;
            return self.whole(response).await;
        }
        // Boxed, so that the future of a message stays small.
        let routed = Box::pin(server::routed(&app, &self.connection, request));
        let response = tokio::select! {
            biased;
            response = routed => response,
            _ = poll_fn(|cx| self.respond.poll_reset(cx)) => return Ended::Reset,
        };
        let (head, body) = response.into_parts();
        match Answer::of(body, &self.connection) {
            Ok(body) => Box::pin(self.answer(Response::from_parts(head, body))).await,
            Err(full) => self.refuse(&full).await,
        }
    }

    async fn refuse(self, error: &Error) -> Ended {
        self.whole(problem::response(error)).await
    }

    async fn whole(self, response: Response<Bytes>) -> Ended {
        let response = response.map(|body| Answer::whole(body, &self.connection));
        Box::pin(self.answer(response)).await
    }

    async fn answer(mut self, response: Response<Answer>) -> Ended {
        let (mut head, body) = response.into_parts();
        if let Some(verdict) = &self.verdict {
            verdict.tell(&mut head.headers);
        }
        for name in &OF_CONNECTIONS {
            head.headers.remove(name);
        }
        if let Some(length) = body.length().filter(|length| *length > 0) {
            head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
        }
        head.headers.entry(header::DATE).or_insert_with(date);
        let ends = self.is_head || body.is_empty();
        match self.respond.send_response(Response::from_parts(head, ()), ends) {
            Err(_) => Ended::Reset,
            Ok(_) if ends => Ended::Answered,
            Ok(stream) => body.send(stream, self.app.shutdown()).await,
        }
    }
}

/// Fields that are about a connection, which an answer by HTTP/2 must not have (RFC 9113, 8.2.2).
static OF_CONNECTIONS: [HeaderName; 3] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE];

/// The host of HTTP/2's `:authority`, where HTTP/1.1 has it: whatever asks for it looks there. If both
/// are given, they are compared like those of HTTP/1.1 (`strict`).
fn name_host(head: &mut Parts) {
    if let Some(authority) = head.uri.authority()
        && !head.headers.contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        head.headers.insert(header::HOST, host);
    }
}

/// What a head takes, as HTTP/2 counts (RFC 9113, 6.5.2).
fn size(head: &Parts) -> usize {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let fields = head.headers.iter();
    fields.fold(target, |sum, (name, value)| sum + name.as_str().len() + value.len() + 32)
}

/// The date, made once a second.
fn date() -> HeaderValue {
    thread_local! {
        static LAST: RefCell<(u64, HeaderValue)> =
            const { RefCell::new((0, HeaderValue::from_static(""))) };
    }
    let now = crate::clock::wall();
    let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|(of, value)| {
        if *of != second
            && let Ok(new) = HeaderValue::from_str(&httpdate::fmt_http_date(now))
        {
            (*of, *value) = (second, new);
        }
        value.clone()
    })
}
