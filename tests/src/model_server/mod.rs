//! A server of a language model, for the demo and for tests: `POST /v1/chat/completions`, streamed or not. It streams like one,
//! with pauses, errors, connections that break and a limit of requests at once, and keeps account of all that it was asked.
//!
//! What it says follows from the request's `idempotency-key`: [`plan`].

pub mod plan;
#[cfg(test)]
mod tests;

use anyhow::Context;
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::stream;
use plan::{Question, Trouble};
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};

#[derive(Clone, Copy, Debug)]
pub struct ModelOptions {
    /// Requests at once; more are refused with 429.
    pub at_once: usize,
    /// Between two words.
    pub pace: Duration,
    /// Before some words.
    pub pause: Duration,
    /// Whether some attempts fail.
    pub troubles: bool,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            at_once: 128,
            pace: Duration::from_millis(25),
            pause: Duration::from_millis(400),
            troubles: true,
        }
    }
}

/// What became of one request, over all of its attempts.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Asked {
    pub attempts: u32,
    /// Attempts whose answer was written to its end.
    pub finished: u32,
    pub words: u64,
}

/// All that the server was asked.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Ledger {
    /// By idempotency key.
    pub requests: BTreeMap<String, Asked>,
    /// Attempts that were answered with 500, with 429 as in trouble, and with 429 since there were too many at once.
    pub errors: u64,
    pub busy: u64,
    pub over_limit: u64,
    /// Connections that it broke.
    pub cut: u64,
    /// Answers whose reader went away.
    pub abandoned: u64,
    /// The most at once.
    pub at_once: usize,
}

/// A running server. Dropping it ends it.
pub struct ModelServer {
    pub address: SocketAddr,
    model: Arc<Model>,
    task: JoinHandle<io::Result<()>>,
}

struct Model {
    options: ModelOptions,
    places: Arc<Semaphore>,
    ledger: Mutex<Ledger>,
}

impl ModelServer {
    /// # Errors
    /// When it can't listen there.
    pub async fn start(listen: SocketAddr, options: ModelOptions) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen).await;
        let listener = listener.with_context(|| format!("listening on {listen}"))?;
        let address = listener.local_addr()?;
        let places = Arc::new(Semaphore::new(options.at_once));
        let model = Arc::new(Model { options, places, ledger: Mutex::default() });
        let router = Router::new()
            .route("/v1/chat/completions", post(complete))
            .route("/account", get(account))
            .with_state(model.clone());
        let task = tokio::spawn(async { axum::serve(listener, router).await });
        Ok(Self { address, model, task })
    }

    /// Of chat completions.
    pub fn url(&self) -> String {
        format!("http://{}/v1/chat/completions", self.address)
    }

    /// All that it was asked so far.
    pub fn ledger(&self) -> Ledger {
        self.model.ledger().clone()
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Model {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn account(State(model): State<Arc<Model>>) -> Json<Ledger> {
    Json(model.ledger().clone())
}

async fn complete(State(model): State<Arc<Model>>, headers: HeaderMap, body: Bytes) -> Response {
    let question: Question = match serde_json::from_slice(&body) {
        Ok(question) => question,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let Some(key) = headers.get("idempotency-key").and_then(|key| key.to_str().ok()) else {
        return refusal(StatusCode::BAD_REQUEST, "an idempotency-key is missing");
    };
    let place = model.places.clone().try_acquire_owned();
    let attempt = {
        let mut ledger = model.ledger();
        if place.is_err() {
            ledger.over_limit += 1;
        }
        ledger.at_once =
            ledger.at_once.max(model.options.at_once - model.places.available_permits());
        let asked = ledger.requests.entry(key.to_owned()).or_default();
        asked.attempts += 1;
        asked.attempts
    };
    let Ok(place) = place else { return busy("too many requests at once") };
    let trouble = if model.options.troubles { plan::trouble(key, attempt) } else { None };
    match trouble {
        Some(Trouble::Error) => {
            model.ledger().errors += 1;
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "the model has stumbled")
        }
        Some(Trouble::Busy) => {
            model.ledger().busy += 1;
            busy("the model has too much to do")
        }
        _ if !question.stream => whole(&model, key, &question),
        trouble => streamed(model, key, &question, trouble, place),
    }
}

fn refusal(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": { "message": message } }))).into_response()
}

fn busy(message: &str) -> Response {
    let refusal = refusal(StatusCode::TOO_MANY_REQUESTS, message);
    ([("retry-after", "1")], refusal).into_response()
}

fn finish(calls: &[Value]) -> &'static str {
    if calls.is_empty() { "stop" } else { "tool_calls" }
}

/// A token a word; what was asked counts by its length.
fn usage(question: &Question, words: usize) -> Value {
    let asked = question.messages.iter().filter_map(|said| said.content.as_ref());
    let prompt = asked.map(|text| text.len() / 4 + 4).sum::<usize>();
    json!({ "prompt_tokens": prompt, "completion_tokens": words, "total_tokens": prompt + words })
}

/// The answer's id, from which a checker gets the key.
pub fn id(key: &str) -> String {
    format!("chatcmpl-{key}")
}

fn whole(model: &Model, key: &str, question: &Question) -> Response {
    let (words, calls) = (plan::words(key), plan::calls(question));
    let finish = finish(&calls);
    let mut message = json!({ "role": "assistant", "content": words.concat() });
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    if let Some(asked) = model.ledger().requests.get_mut(key) {
        asked.words += words.len() as u64;
        asked.finished += 1;
    }
    Json(json!({
        "id": id(key),
        "object": "chat.completion",
        "model": question.model,
        "choices": [{ "index": 0, "message": message, "finish_reason": finish }],
        "usage": usage(question, words.len()),
    }))
    .into_response()
}

/// What comes next in a stream.
enum Piece {
    Word(usize, Value),
    Other(Value),
    Cut,
    Done,
}

/// An answer that is being written. Dropping it before its end is the reader's doing.
struct Writing {
    model: Arc<Model>,
    key: String,
    pieces: VecDeque<Piece>,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.is_over {
            self.model.ledger().abandoned += 1;
        }
    }
}

impl Writing {
    fn asked(&self, change: impl FnOnce(&mut Asked)) {
        if let Some(asked) = self.model.ledger().requests.get_mut(&self.key) {
            change(asked);
        }
    }

    /// The next bytes. An error breaks the connection.
    async fn next(&mut self) -> Option<Result<Bytes, io::Error>> {
        let piece = self.pieces.pop_front()?;
        let event = |data: &Value| Bytes::from(format!("data: {data}\n\n"));
        match piece {
            Piece::Word(number, data) => {
                let ModelOptions { pace, pause, .. } = self.model.options;
                let waits = if plan::pauses(&self.key, number) { pause } else { pace };
                tokio::time::sleep(waits).await;
                self.asked(|asked| asked.words += 1);
                Some(Ok(event(&data)))
            }
            Piece::Other(data) => Some(Ok(event(&data))),
            Piece::Cut => {
                self.is_over = true;
                self.model.ledger().cut += 1;
                Some(Err(io::ErrorKind::ConnectionAborted.into()))
            }
            Piece::Done => {
                self.is_over = true;
                self.asked(|asked| asked.finished += 1);
                Some(Ok(Bytes::from_static(b"data: [DONE]\n\n")))
            }
        }
    }
}

fn streamed(
    model: Arc<Model>,
    key: &str,
    question: &Question,
    trouble: Option<Trouble>,
    place: OwnedSemaphorePermit,
) -> Response {
    let (words, calls) = (plan::words(key), plan::calls(question));
    let chunk = |delta: Value, finish: Option<&str>| {
        json!({
            "id": id(key),
            "object": "chat.completion.chunk",
            "model": question.model,
            "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }],
        })
    };
    let mut pieces = VecDeque::new();
    pieces.push_back(Piece::Other(chunk(json!({ "role": "assistant", "content": "" }), None)));
    for (number, word) in words.iter().enumerate() {
        pieces.push_back(Piece::Word(number, chunk(json!({ "content": word }), None)));
    }
    // The arguments of a call come in pieces, too.
    for (index, call) in calls.iter().enumerate() {
        let function = &call["function"];
        let begin = json!({ "name": function["name"], "arguments": "" });
        let begin =
            json!({ "index": index, "id": call["id"], "type": "function", "function": begin });
        pieces.push_back(Piece::Other(chunk(json!({ "tool_calls": [begin] }), None)));
        let arguments = function["arguments"].as_str().unwrap_or_default();
        let (first, second) = arguments.split_at(arguments.len() / 2);
        for part in [first, second] {
            let part = json!({ "index": index, "function": { "arguments": part } });
            pieces.push_back(Piece::Other(chunk(json!({ "tool_calls": [part] }), None)));
        }
    }
    pieces.push_back(Piece::Other(chunk(json!({}), Some(finish(&calls)))));
    if question.stream_options.as_ref().is_some_and(|options| options.include_usage) {
        let mut last = chunk(json!({}), None);
        last["choices"] = json!([]);
        last["usage"] = usage(question, words.len());
        pieces.push_back(Piece::Other(last));
    }
    pieces.push_back(Piece::Done);
    if let Some(Trouble::Cut(words)) = trouble {
        // Behind so many words, and the first piece.
        pieces.truncate(words + 1);
        pieces.push_back(Piece::Cut);
    }
    let key = key.to_owned();
    let writing = Writing { model, key, pieces, is_over: false, _place: place };
    let body = stream::unfold(writing, |mut writing| async move {
        writing.next().await.map(|bytes| (bytes, writing))
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (hyper::header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(body)).into_response()
}

/// Runs until the process ends.
///
/// # Errors
/// When the server fails.
pub async fn run(server: ModelServer) -> anyhow::Result<Infallible> {
    let mut server = server;
    (&mut server.task).await??;
    anyhow::bail!("the server has ended")
}
