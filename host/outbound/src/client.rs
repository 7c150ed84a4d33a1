//! Carries out attempts.

use crate::{
    address::Reach,
    clock, errors, limits,
    network::{Network, SetupError},
    outcome::{Answer, Failure, Kind, Outcome},
    policy::{self, Policy},
    redact::Redactor,
    request::{self, Chunk, Request, Stream},
    retry,
    secrets::{Known, Secrets, has_secret},
    sse::{Parser, is_event_stream},
    stream::{Form, Sink, Utf8},
    turn::Turn,
};
use bytes::{Bytes, BytesMut};
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use std::{collections::BTreeSet, fmt, sync::Arc};
use tokio::{
    sync::mpsc::{self, Sender},
    time::timeout_at,
};

/// Carries out the requests of one rule set. Clones are the same one.
///
/// Another policy is another `Outbound`: what is under way ends under the policy that it began with.
#[derive(Clone)]
pub struct Outbound(Arc<Inner>);

struct Inner {
    policy: Policy,
    secrets: Secrets,
    /// For hosts with public addresses only, and for those that may have private ones.
    public: Client,
    private: Client,
}

/// A request as it is sent, or sent on.
struct Prepared {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Bytes,
}

/// What has come of an answer.
#[derive(Default)]
struct Coming {
    answer: Option<Answer>,
    body: BytesMut,
}

/// A channel for the chunks of a stream.
pub fn chunks() -> (Sender<Chunk>, mpsc::Receiver<Chunk>) {
    mpsc::channel(limits::CHUNKS_WAITING_MAX)
}

impl Outbound {
    /// For one rule set.
    ///
    /// # Errors
    /// If the policy asks for more than there is, or the client can't be made.
    pub fn new(policy: Policy, secrets: Secrets, network: &Network) -> Result<Self, SetupError> {
        policy.check()?;
        let public = network.client(Reach::Public)?;
        let private = network.client(Reach::Private)?;
        Ok(Self(Arc::new(Inner { policy, secrets, public, private })))
    }

    /// Whether an attempt would be made at all: what can be known without the network. For the moment at which a
    /// handler asks, so that it hears of it at once.
    ///
    /// # Errors
    /// What an attempt would end with.
    pub fn check(&self, request: &Request) -> Result<(), Failure> {
        let known = self.0.secrets.known();
        let prepared = self.0.prepare(request, &known);
        prepared.map(drop).map_err(|failure| redacted_failure(failure, &known))
    }

    /// Takes secrets out of what is made of an answer: texts that were apart in it may be one.
    pub fn redaction(&self) -> Redaction {
        Redaction { known: self.0.secrets.known(), redactor: Redactor::default() }
    }

    /// Where a request goes first, as `scheme://host:port`: what [`Turns`](crate::Turns) tell apart.
    ///
    /// # Errors
    /// The URL is none.
    pub fn target(request: &Request) -> Result<String, Failure> {
        policy::target(&parse(&request.url)?)
    }

    /// Makes one attempt, and follows redirects. Dropping the future ends it: the connection is closed, or the stream
    /// of HTTP/2 reset. What was sent by then may have its effect.
    ///
    /// With a [`Stream`], what comes is handed over to `chunks` meanwhile, and the server waits for who reads them. If
    /// nobody does any more, the body is read to its end all the same. The whole is returned in any case; the
    /// channel ends with the attempt, however that ends.
    pub async fn attempt(&self, request: &Request, chunks: Option<Sender<Chunk>>) -> Outcome {
        self.attempt_in(request, chunks, None).await
    }

    /// The same in a turn, which is charged for the memory of the answer. Past its room the attempt ends with
    /// [`Kind::Busy`].
    pub async fn attempt_in(
        &self,
        request: &Request,
        chunks: Option<Sender<Chunk>>,
        turn: Option<&Turn>,
    ) -> Outcome {
        let known = self.0.secrets.known();
        let mut coming = Coming::default();
        let ended = self.0.attempt(request, &known, chunks, turn, &mut coming).await;
        let mut answer = coming.answer.map(|answer| redacted(answer, coming.body, &known));
        let max = self.0.answer_bytes_max(request);
        match (ended, answer.take()) {
            // What is said instead of a secret may be longer.
            (Ok(()), Some(mut answer)) if answer.body.len() > max => {
                answer.body.truncate(max);
                let reason =
                    format!("the answer has more than {max} bytes after its secrets were replaced");
                let failure = Failure::new(Kind::TooLarge, reason);
                Err(Failure { so_far: Some(Box::new(answer)), ..failure })
            }
            (Ok(()), Some(answer)) => Ok(answer),
            (Ok(()), None) => Err(Failure::new(Kind::Protocol, "the answer was lost")),
            (Err(failure), answer) => {
                let failure = redacted_failure(failure, &known);
                let cut = |mut answer: Answer| {
                    answer.body.truncate(max);
                    Box::new(answer)
                };
                Err(Failure { so_far: answer.map(cut), ..failure })
            }
        }
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Outbound")
            .field("policy", &self.0.policy)
            .field("secrets", &self.0.secrets)
            .finish_non_exhaustive()
    }
}

/// Takes secrets out of text that comes piece by piece.
pub struct Redaction {
    known: Arc<Known>,
    redactor: Redactor,
}

impl Redaction {
    /// What can be said after this.
    pub fn feed(&mut self, text: &str) -> String {
        let said = self.redactor.feed(self.known.finder(), text.as_bytes());
        // A secret begins, and ends, between characters.
        String::from_utf8_lossy(&said).into_owned()
    }

    /// What is left at the end.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&self.redactor.finish(self.known.finder())).into_owned()
    }

    /// A whole text.
    pub fn text(&self, text: String) -> String {
        self.known.finder().text(text)
    }
}

impl Inner {
    fn answer_bytes_max(&self, request: &Request) -> usize {
        request.options.answer_bytes_max.min(self.policy.limits.answer_bytes)
    }

    /// The request with its secrets, if it may be sent.
    fn prepare(&self, request: &Request, known: &Known) -> Result<Prepared, Failure> {
        let method = request.check()?;
        if request.body.len() > self.policy.limits.request_bytes {
            let max = self.policy.limits.request_bytes;
            let reason = format!("the body of the request has more than {max} bytes");
            return Err(Failure::new(Kind::TooLarge, reason));
        }
        let url = self.url(&request.url, known)?;
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            let name = Request::header_name(name)?;
            headers.append(name, self.header_value(value, &url, known)?);
        }
        let key = HeaderValue::from_str(&request.idempotency_key)
            .map_err(|_| Failure::invalid("the idempotency key can't be a header"))?;
        headers.insert(request::IDEMPOTENCY_KEY, key);
        let bytes = header_bytes(&headers);
        if bytes > limits::REQUEST_HEADER_BYTES_MAX {
            let max = limits::REQUEST_HEADER_BYTES_MAX;
            let reason = format!("the headers of the request have more than {max} bytes");
            return Err(Failure::new(Kind::TooLarge, reason));
        }
        Ok(Prepared { method, url, headers, body: request.body.clone() })
    }

    /// The URL with its secrets, if a rule lets it. A secret has no part in where it leads: it comes in when that has
    /// been decided, and behind the host.
    fn url(&self, text: &str, known: &Known) -> Result<Url, Failure> {
        let bare = parse(text)?;
        self.policy.admit(&bare)?;
        if !has_secret(text) {
            return Ok(bare);
        }
        let filled = known.fill(text, true, |secret| self.policy.check_secret(secret, &bare))?;
        if filled.len() > limits::URL_BYTES_MAX {
            return Err(Failure::invalid("the URL is too long with its secrets"));
        }
        let url = parse(&filled)?;
        if url.origin() != bare.origin() {
            return Err(Failure::invalid("a secret can't be part of a URL's host"));
        }
        Ok(url)
    }

    fn header_value(&self, text: &str, url: &Url, known: &Known) -> Result<HeaderValue, Failure> {
        let filled = known.fill(text, false, |secret| self.policy.check_secret(secret, url))?;
        let mut value = HeaderValue::from_str(&filled)
            .map_err(|_| Failure::invalid("a header value must be printable ASCII on one line"))?;
        // HTTP/2 does not put it into its table then, and `Debug` does not show it. It is how secrets are known
        // when a redirect leads elsewhere, too.
        value.set_sensitive(has_secret(text));
        Ok(value)
    }

    async fn attempt(
        &self,
        request: &Request,
        known: &Known,
        chunks: Option<Sender<Chunk>>,
        turn: Option<&Turn>,
        coming: &mut Coming,
    ) -> Result<(), Failure> {
        let prepared = self.prepare(request, known)?;
        let longest = request.options.timeout.min(limits::TIMEOUT_MAX);
        let sent = self.send(prepared, request, known, chunks, turn, coming);
        let Ok(ended) = timeout_at(clock::now() + longest, sent).await else {
            let reason = format!("no complete answer within {longest:?}");
            return Err(Failure::new(Kind::Timeout, reason));
        };
        ended
    }

    /// Sends the request, and sends it on where redirects lead.
    async fn send(
        &self,
        mut prepared: Prepared,
        request: &Request,
        known: &Known,
        chunks: Option<Sender<Chunk>>,
        turn: Option<&Turn>,
        coming: &mut Coming,
    ) -> Result<(), Failure> {
        let redirects_max = request.options.redirects.min(limits::REDIRECTS_MAX);
        let mut redirects = 0;
        loop {
            let response = self.send_once(&prepared).await?;
            let location = location(&response).filter(|_| redirects_max > 0);
            let Some(location) = location else {
                let read = self.read(response, &prepared, request, known, chunks, turn, coming);
                return read.await;
            };
            if redirects == redirects_max {
                let reason = format!("more than {redirects_max} redirects");
                return Err(Failure::new(Kind::Redirect, reason));
            }
            redirects += 1;
            self.follow(&mut prepared, response.status(), location, known)?;
        }
    }

    async fn send_once(&self, prepared: &Prepared) -> Result<Response, Failure> {
        let reach = self.policy.admit(&prepared.url)?;
        let client = if reach == Reach::Public { &self.public } else { &self.private };
        let mut sent = client
            .request(prepared.method.clone(), prepared.url.clone())
            .headers(prepared.headers.clone());
        let has_body = [Method::POST, Method::PUT, Method::PATCH].contains(&prepared.method);
        if has_body || !prepared.body.is_empty() {
            sent = sent.body(prepared.body.clone());
        }
        let host = prepared.url.host_str().unwrap_or_default();
        let response = sent.send().await.map_err(|error| errors::failure(&error, host))?;
        // It has been looked at before; this holds whatever the client does.
        if response.remote_addr().is_none_or(|address| !reach.has(address.ip())) {
            return Err(Failure::refused(format!(
                "{host} was reached at an address that no rule allows"
            )));
        }
        if header_bytes(response.headers()) > limits::ANSWER_HEADER_BYTES_MAX {
            let max = limits::ANSWER_HEADER_BYTES_MAX;
            let reason = format!("the headers of {host} have more than {max} bytes");
            return Err(Failure::new(Kind::TooLarge, reason));
        }
        Ok(response)
    }

    /// Makes of a request the one that a redirect asks for: <https://fetch.spec.whatwg.org/#http-redirect-fetch>.
    fn follow(
        &self,
        prepared: &mut Prepared,
        status: StatusCode,
        location: &HeaderValue,
        known: &Known,
    ) -> Result<(), Failure> {
        let wrong = |reason: &str| Failure::new(Kind::Redirect, format!("a redirect {reason}"));
        let location = location.to_str().map_err(|_| wrong("has an invalid Location"))?;
        if location.len() > limits::URL_BYTES_MAX {
            return Err(wrong("leads to a URL that is too long"));
        }
        let mut next = prepared.url.join(location).map_err(|_| wrong("has an invalid Location"))?;
        next.set_fragment(None);
        if let Err(failure) = self.policy.admit(&next) {
            let reason = format!("a redirect was not followed: {}", failure.reason);
            return Err(Failure { reason, ..failure });
        }
        if next.origin() != prepared.url.origin() {
            // The server may have put the URL that it was asked for, or a secret, into the new one.
            let finder = known.finder();
            let secrets: BTreeSet<_> =
                finder.names(next.as_str()).into_iter().chain(finder.names(location)).collect();
            for secret in secrets {
                self.policy.check_secret(secret, &next)?;
            }
            keep(&mut prepared.headers, |name, value| {
                request::goes_to_another_origin(name) && !value.is_sensitive()
            });
        }
        let becomes_get = match status {
            StatusCode::SEE_OTHER => ![Method::GET, Method::HEAD].contains(&prepared.method),
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => prepared.method == Method::POST,
            _ => false,
        };
        if becomes_get {
            prepared.method = Method::GET;
            prepared.body = Bytes::new();
            keep(&mut prepared.headers, |name, _| !name.as_str().starts_with("content-"));
        }
        prepared.url = next;
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "what an attempt has, once")]
    async fn read(
        &self,
        mut response: Response,
        prepared: &Prepared,
        request: &Request,
        known: &Known,
        chunks: Option<Sender<Chunk>>,
        turn: Option<&Turn>,
        coming: &mut Coming,
    ) -> Result<(), Failure> {
        let host = prepared.url.host_str().unwrap_or_default();
        let form = chunks.zip(form(request.options.stream, &response));
        let mut sink = form.map(|(chunks, form)| Sink::new(known.finder(), form, chunks));
        coming.answer = Some(answer(&response, request));
        let max = self.answer_bytes_max(request);
        let too_large = || {
            let reason = format!("the answer of {host} has more than {max} bytes");
            Err(Failure::new(Kind::TooLarge, reason))
        };
        let is_head = prepared.method == Method::HEAD;
        if !is_head && response.content_length().is_some_and(|length| length > max as u64) {
            return too_large();
        }
        loop {
            let chunk = response.chunk().await.map_err(|error| errors::failure(&error, host))?;
            let Some(chunk) = chunk else { break };
            // What is decompressed comes without a wait: others have their turn in between.
            tokio::task::consume_budget().await;
            let room = max.saturating_sub(coming.body.len());
            let taken = chunk.get(..room).unwrap_or(&chunk[..]);
            // Once as it comes, and once for what takes secrets out.
            if turn.is_some_and(|turn| !turn.charge(2 * taken.len())) {
                let reason = "the node has no memory for the answer";
                return Err(Failure::new(Kind::Busy, reason));
            }
            coming.body.extend_from_slice(taken);
            if let Some(sink) = &mut sink {
                sink.feed(taken).await?;
            }
            if taken.len() < chunk.len() {
                return too_large();
            }
        }
        match &mut sink {
            Some(sink) => sink.finish().await,
            None => Ok(()),
        }
    }
}

fn parse(text: &str) -> Result<Url, Failure> {
    let mut url = Url::parse(text).map_err(|_| Failure::invalid("invalid URL"))?;
    url.set_fragment(None);
    Ok(url)
}

fn location(response: &Response) -> Option<&HeaderValue> {
    let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    response.headers().get(header::LOCATION).filter(|_| is_redirect)
}

fn form(stream: Stream, response: &Response) -> Option<Form> {
    if !response.status().is_success() {
        return None;
    }
    match stream {
        Stream::No => None,
        Stream::Text => Some(Form::Text(Utf8::default())),
        Stream::Events => {
            let content_type = response.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
            is_event_stream(content_type).then(|| Form::Events(Parser::default()))
        }
    }
}

fn answer(response: &Response, request: &Request) -> Answer {
    let kept = response.headers().iter().filter(|(name, _)| request.options.keeps(name.as_str()));
    let headers = kept.map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let retry_after = response.headers().get(header::RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok());
    Answer {
        status: response.status().as_u16(),
        headers: headers.collect(),
        body: Bytes::new(),
        retry_after: retry_after.and_then(|value| retry::retry_after(value, clock::wall())),
    }
}

/// As HTTP/2 counts them.
fn header_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

fn keep(headers: &mut HeaderMap, keeps: impl Fn(&HeaderName, &HeaderValue) -> bool) {
    let all = std::mem::take(headers);
    for (name, value) in &all {
        if keeps(name, value) {
            headers.append(name.clone(), value.clone());
        }
    }
}

fn redacted(answer: Answer, body: BytesMut, known: &Known) -> Answer {
    let finder = known.finder();
    let headers = answer.headers.into_iter().map(|(name, value)| (name, finder.text(value)));
    Answer {
        headers: headers.collect(),
        body: finder.bytes(&body).map_or_else(|| body.freeze(), Bytes::from),
        ..answer
    }
}

fn redacted_failure(failure: Failure, known: &Known) -> Failure {
    let reason = known.finder().text(failure.reason);
    Failure { reason, ..failure }.shortened()
}
