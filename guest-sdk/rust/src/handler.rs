use crate::{
    Answer, Context, Error, MigrateContext, QueryContext, Rejection, encode::to_json, http,
    sends::Arrival,
};
use serde::{Serialize, de::DeserializeOwned};

/// What decides what happens to the messages of a session, with JSON in and out.
///
/// A handler has no `self`: whatever it must remember is in the session's state, because its own
/// memory may be thrown away between any two calls. What it computes may depend only on the
/// message, the state and its own code.
pub trait Handler {
    /// A message's body.
    type Message: DeserializeOwned;
    /// A query's body.
    type Query: DeserializeOwned;

    /// Applies a message. On `Ok` all that it wrote and emitted is committed with the message and
    /// the reply goes out once that is durable; on `Err`, or on a panic, nothing is kept.
    fn handle(cx: &mut Context, message: Self::Message) -> Result<impl Serialize, Rejection>;

    /// Whether it has an [`answer`](Self::answer) of its own. Where it has none, its component need not ask the node what
    /// a message from a session is, and so runs on a slotd that knows no messages between sessions. An answer that comes all
    /// the same is a message to [`handle`](Self::handle) there; the harness rejects it, so that a test finds it.
    const ANSWERS: bool = false;

    /// Applies what came of a message that this session has sent and asked the reply of
    /// ([`Outgoing::reply_as`](crate::Outgoing::reply_as)). It is a message like any other, with what that may do.
    /// [`ANSWERS`](Self::ANSWERS) goes with it.
    fn answer(_cx: &mut Context, _answer: Answer) -> Result<impl Serialize, Rejection> {
        Err::<(), _>(no_answers())
    }

    /// Whether it has an [`http_answer`](Self::http_answer) of its own. Where it has none, its component need not ask the
    /// node what came of a request, and so runs on a slotd that knows no requests; an answer that comes all the same is
    /// rejected as `no-requests`.
    const REQUESTS: bool = false;

    /// Applies what came of a request over HTTP ([`Context::http`]): the answer, whatever its status, or why there is
    /// none. It is a message like any other, with what that may do. [`REQUESTS`](Self::REQUESTS) goes with it.
    fn http_answer(_cx: &mut Context, _answer: http::Answer) -> Result<impl Serialize, Rejection> {
        Err::<(), _>(no_requests())
    }

    /// Whether it has a [`presence`](Self::presence) of its own. Where it has none, its component need not ask the node
    /// for it, and so runs on a slotd that does not know it. What comes all the same is a message to
    /// [`handle`](Self::handle) there; the harness rejects it, so that a test finds it.
    const PRESENCE: bool = false;

    /// Is told that the session's first subscriber has come, or that the last one has been gone for some seconds, if it
    /// has asked for that ([`Context::watch_subscribers`]). It is a message like any other, with what that may do, but
    /// is not tried again. [`PRESENCE`](Self::PRESENCE) goes with it.
    fn presence(_cx: &mut Context, _present: bool) -> Result<impl Serialize, Rejection> {
        Err::<(), _>(no_presence())
    }

    /// Answers a question from the state; it can't change anything.
    fn query(_cx: &QueryContext, _query: Self::Query) -> Result<impl Serialize, Rejection> {
        Err::<(), _>(Rejection::new("no-queries", "this plugin answers no queries"))
    }

    /// Brings a session's state from the shape that version `from` left to this version's. Called
    /// once a session, in the transaction of its first message under this version, never for a new
    /// session. An error leaves the session on `from`, working.
    ///
    /// It is called on the way back too: `from` may be a later version. Without a `migrate` of its
    /// own a version takes sessions over from earlier versions and from its own, as they are, and
    /// from no later one.
    fn migrate(cx: &mut MigrateContext, _from: &str) -> Result<(), String> {
        cx.is_default = true;
        Ok(())
    }
}

/// As [`Handler`], with bytes in and out. Every [`Handler`] is one.
pub trait RawHandler {
    /// As [`Handler::handle`].
    fn handle(cx: &mut Context, body: Vec<u8>) -> Result<Reply, Rejection>;
    /// As [`Handler::query`].
    fn query(_cx: &QueryContext, _body: Vec<u8>) -> Result<Reply, Rejection> {
        Err(Rejection::new("no-queries", "this plugin answers no queries"))
    }
    /// As [`Handler::migrate`].
    fn migrate(cx: &mut MigrateContext, _from: &str) -> Result<(), String> {
        cx.is_default = true;
        Ok(())
    }
}

impl<H: Handler> RawHandler for H {
    fn handle(cx: &mut Context, body: Vec<u8>) -> Result<Reply, Rejection> {
        // Constants in a component: where one is false, nothing of what is behind it is in there.
        let is_native = cfg!(not(target_family = "wasm"));
        if (H::ANSWERS || is_native)
            && let Some(Arrival::Answer { name, sender, attempt, refusal }) = cx.arrival()
        {
            if !H::ANSWERS {
                return Err(no_answers());
            }
            let content_type = cx.content_type().to_owned();
            let result = refusal.map_or(Ok(Reply { content_type, body }), Err);
            let answer = Answer { name, sender, attempt, result };
            return Ok(Reply::json(&H::answer(cx, answer)?)?);
        }
        if (H::PRESENCE || is_native)
            && let Some(present) = cx.presence()
        {
            if !H::PRESENCE {
                return Err(no_presence());
            }
            return Ok(Reply::json(&H::presence(cx, present)?)?);
        }
        if cx.is_http_answer() && !H::REQUESTS {
            return Err(no_requests());
        }
        if H::REQUESTS
            && let Some(http::Answered { id, outcome, attempts, attempt }) = cx.http_answer()
        {
            let content_type = cx.content_type().to_owned();
            let answer = http::Answer { id, outcome, content_type, body, attempts, attempt };
            return Ok(Reply::json(&H::http_answer(cx, answer)?)?);
        }
        let message = serde_json::from_slice(&body)?;
        drop(body);
        Ok(Reply::json(&H::handle(cx, message)?)?)
    }
    fn query(cx: &QueryContext, body: Vec<u8>) -> Result<Reply, Rejection> {
        let query = serde_json::from_slice(&body).map_err(|e| Rejection::bad_query(&e))?;
        Ok(Reply::json(&H::query(cx, query)?)?)
    }
    fn migrate(cx: &mut MigrateContext, from: &str) -> Result<(), String> {
        H::migrate(cx, from)
    }
}

fn no_answers() -> Rejection {
    let why = "this plugin takes no answers: `Handler::ANSWERS` is false";
    Rejection::new("no-answers", why)
}

fn no_requests() -> Rejection {
    let why = "this plugin takes no answers of requests: `Handler::REQUESTS` is false";
    Rejection::new("no-requests", why)
}

fn no_presence() -> Rejection {
    let why = "this plugin is not told of subscribers: `Handler::PRESENCE` is false";
    Rejection::new("no-presence", why)
}

/// What the sender gets once its message is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub content_type: String,
    pub body: Vec<u8>,
}

impl Reply {
    /// # Errors
    /// When `value` has no form in JSON that comes back as it was (a map with keys that are no
    /// strings, `NaN`): see [`crate::State::set`].
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        let body =
            to_json(value).map_err(|error| Error::Encode { what: "the reply".into(), error })?;
        Ok(Self { content_type: "application/json".into(), body })
    }
    pub fn bytes(body: impl Into<Vec<u8>>) -> Self {
        Self { content_type: "application/octet-stream".into(), body: body.into() }
    }
    pub fn text(text: impl Into<String>) -> Self {
        Self { content_type: "text/plain; charset=utf-8".into(), body: text.into().into_bytes() }
    }
    /// The body as JSON, for tests.
    ///
    /// # Errors
    /// When the body is not the JSON of a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}
