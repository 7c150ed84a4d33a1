//! Makes requests over HTTP for sessions, within what the operator allows.
//!
//! What a request may do and how it is carried out is in the crate `slotd-outbound`. Here it is said for which service, when
//! another attempt is made, and what an answer becomes.

use super::*;
use crate::{
    effects::http::{
        DEADLINE, Failure, Form, Got, NO_TYPE, Outcome, Request, Response, Stream, TEXT_TYPE,
    },
    files::{self, Stamp, stamp},
    requests::{self, Grants, Rules},
    slot::request::{Again, Attempt, Attempted, NotMade, Requester},
    telemetry::metrics,
    trace::TRACEPARENT,
};
use ::metrics::Gauge;
use slotd_outbound::{
    Answer, Chunk, JsonPath, Kind, Next, Options, Outbound, Pace, Redaction, Retries, Secrets,
    SecretsError, Source, Turns,
};
use std::path::PathBuf;
use tokio::time::Instant;

/// What an operator has said of requests over HTTP.
#[derive(Clone, Debug, Default)]
pub struct RequestOptions {
    pub rules: Rules,
    pub grants: Grants,
    pub pace: Pace,
    pub secrets_file: Option<PathBuf>,
    /// What the names of environment variables that are secrets begin with.
    pub secrets_prefix: Option<String>,
}

/// The requests of a node's slots.
pub struct OfNode {
    /// Of services that a rule or a secret names.
    named: BTreeMap<ServiceName, Outbound>,
    /// Of all others.
    others: Option<Outbound>,
    turns: Turns,
    secrets: Secrets,
    secrets_file: Option<PathBuf>,
    /// The file as it was when it was first read.
    stamp: Stamp,
    /// Names of secrets that somebody may use.
    granted: BTreeSet<String>,
}

impl OfNode {
    /// Reads the secrets, and the system's roots of TLS: not for a thread that serves.
    ///
    /// # Errors
    /// What is wrong with the secrets, or why no request can be made at all.
    pub fn open(options: RequestOptions) -> Result<Self, String> {
        let RequestOptions { rules, grants, pace, secrets_file, secrets_prefix } = options;
        let stamp = secrets_file.as_deref().and_then(stamp);
        let source = Source { file: secrets_file.clone(), prefix: secrets_prefix };
        let secrets = Secrets::open(source).map_err(|error| error.to_string())?;
        let mut all = Self {
            named: BTreeMap::new(),
            others: None,
            turns: Turns::new(pace),
            secrets,
            secrets_file,
            stamp,
            granted: grants.all().map(|grant| grant.secret().to_owned()).collect(),
        };
        if rules.is_empty() {
            return Ok(all);
        }
        let failed = |error| format!("requests over HTTP can't be made (effects.http): {error}");
        let network = slotd_outbound::Network::system([]).map_err(failed)?;
        let outbound = |service: Option<&ServiceName>| {
            let policy = requests::policy(&rules, &grants, service);
            match policy.rules.is_empty() {
                true => Ok(None),
                false => Outbound::new(policy, all.secrets.clone(), &network).map(Some),
            }
        };
        let mut named = BTreeMap::new();
        for service in requests::named(&rules, &grants) {
            if let Some(outbound) = outbound(Some(&service)).map_err(failed)? {
                named.insert(service, outbound);
            }
        }
        let others = outbound(None).map_err(failed)?;
        (all.named, all.others) = (named, others);
        all.warn_of_missing();
        Ok(all)
    }

    fn of(&self, service: &ServiceName) -> Option<&Outbound> {
        self.named.get(service).or(self.others.as_ref())
    }

    fn warn_of_missing(&self) {
        let known: BTreeSet<_> = self.secrets.names().into_iter().collect();
        let missing: Vec<_> = self.granted.difference(&known).cloned().collect();
        if !missing.is_empty() {
            tracing::warn!(
                secrets = missing.join(", "),
                "effects.http_secrets names secrets that do not exist"
            );
        }
    }

    /// Says what came of reading the secrets again. If that failed, those from before stay.
    fn was_read(&self, again: Result<usize, SecretsError>) {
        match again {
            Ok(secrets) => {
                tracing::info!(secrets, "effects.secrets_file was read again");
                self.warn_of_missing();
            }
            Err(error) => {
                tracing::error!(%error, "effects.secrets_file is invalid; keeping the old secrets");
            }
        }
    }
}

impl Requester for OfNode {
    fn check(&self, from: &ServiceName, request: &Request) -> Result<(), NotMade> {
        let outbound = self.of(from).ok_or_else(|| NotMade::Forbidden(no_rule(from)))?;
        let checked = asked(request, "checked").and_then(|(asked, _)| outbound.check(&asked));
        checked.map_err(|failure| match failure.kind {
            Kind::Refused | Kind::SecretUnknown => {
                metrics().requests_refused.increment(1);
                NotMade::Forbidden(failure.reason)
            }
            _ => NotMade::Invalid(failure.reason),
        })
    }

    fn attempt(
        &self,
        attempt: Attempt,
        chunks: Option<mpsc::Sender<String>>,
    ) -> BoxFuture<'static, Attempted> {
        let outbound = self.of(&attempt.from.service).cloned();
        let turns = self.turns.clone();
        async move {
            let until = crate::clock::timer_now() + attempt.left;
            match outbound {
                Some(outbound) => made(&outbound, &turns, &attempt, until, chunks).await,
                None => {
                    let reason = no_rule(&attempt.from.service);
                    failed(slotd_outbound::Failure::new(Kind::Refused, reason))
                }
            }
        }
        .boxed()
    }
}

fn no_rule(service: &ServiceName) -> String {
    format!("effects.http has no rule for service {service}")
}

/// Makes one attempt when it is its turn, which is no part of its time.
async fn made(
    outbound: &Outbound,
    turns: &Turns,
    attempt: &Attempt,
    until: Instant,
    chunks: Option<mpsc::Sender<String>>,
) -> Attempted {
    let request = &*attempt.request;
    let asked = asked(request, &attempt.idempotency_key);
    let named = asked.and_then(|(asked, path)| Ok((Outbound::target(&asked)?, asked, path)));
    let (target, mut asked, path) = match named {
        Ok(named) => named,
        Err(failure) => return failed(failure),
    };
    let waiting = Counted::begin(&metrics().requests_waiting);
    let turn = match turns.take(attempt.from.service.as_str(), &target, until).await {
        Ok(turn) => turn,
        Err(failure) => return without_turn(failure, until),
    };
    drop(waiting);
    let under_way = Counted::begin(&metrics().requests_under_way);
    let left = until.saturating_duration_since(crate::clock::timer_now());
    asked.options.timeout = asked.options.timeout.min(left);
    let begun = crate::clock::now();
    let outcome = match chunks.filter(|_| request.stream.is_some()) {
        None => outbound.attempt_in(&asked, None, Some(&turn)).await,
        Some(shown) => {
            let (sender, chunks) = slotd_outbound::chunks();
            let attempt = outbound.attempt_in(&asked, Some(sender), Some(&turn));
            let redaction = outbound.redaction();
            tokio::join!(attempt, show(chunks, path.as_ref(), redaction, shown)).0
        }
    };
    metrics().request_seconds.record(begun.elapsed().as_secs_f64());
    metrics().request_bytes_out.increment(request.body.len() as u64);
    let left = until.saturating_duration_since(crate::clock::timer_now());
    let retries = Retries::new(request.attempts_max);
    let spread = crate::random::spread(Duration::from_secs(1), 0.0..1.0).as_secs_f64();
    let again = match retries.next(&outcome, request.failures.saturating_add(1), left, spread) {
        Next::Again(wait) => Some(Again { wait, counts: true }),
        Next::Done | Next::GiveUp(_) => None,
    };
    if let Err(failure) = &outcome {
        metrics().request_failed(failure.kind.code());
        tracing::debug!(
            session = %attempt.from, code = failure.kind.code(), reason = failure.reason, ?again,
            "an attempt at a request over HTTP failed"
        );
    }
    let ended = match (&again, &outcome) {
        (Some(_), _) => &metrics().requests_retried,
        (None, Ok(_)) => &metrics().requests_answered,
        (None, Err(_)) => &metrics().requests_failed,
    };
    ended.increment(1);
    let got = got(outcome, path.as_ref().map(|path| (path, outbound.redaction())).as_ref());
    metrics().request_bytes_in.increment(got.body.len() as u64);
    // What holds the memory of the answer.
    Attempted { got, again, held: Box::new((turn, under_way)) }
}

/// It was not its turn: no attempt, and another time if there is one.
fn without_turn(failure: slotd_outbound::Failure, until: Instant) -> Attempted {
    let left = until.saturating_duration_since(crate::clock::timer_now());
    let wait = failure.retry_after.unwrap_or_default();
    let wait = wait + crate::random::spread(wait, 0.0..0.5);
    if wait >= left {
        let reason = format!("its deadline passed before its turn: {}", failure.reason);
        let outcome = Outcome::Failure(Failure { code: DEADLINE.into(), reason, response: None });
        metrics().requests_failed.increment(1);
        metrics().request_failed(DEADLINE);
        let (content_type, body) = (NO_TYPE.into(), Bytes::new());
        let got = Got { outcome, content_type, body, was_made: false };
        return Attempted { got, again: None, held: Box::new(()) };
    }
    metrics().requests_busy.increment(1);
    let again = Some(Again { wait, counts: false });
    let got = Got { was_made: false, ..got(Err(failure), None) };
    Attempted { got, again, held: Box::new(()) }
}

/// It was not made at all, nor will be.
fn failed(failure: slotd_outbound::Failure) -> Attempted {
    metrics().requests_failed.increment(1);
    metrics().request_failed(failure.kind.code());
    Attempted { got: got(Err(failure), None), again: None, held: Box::new(()) }
}

/// As the crate that makes it takes it, and the path of what of its events is shown.
fn asked(
    request: &Request,
    idempotency_key: &str,
) -> Result<(slotd_outbound::Request, Option<JsonPath>), slotd_outbound::Failure> {
    let (stream, path) = match &request.stream {
        None => (slotd_outbound::Stream::No, None),
        Some(Stream { form: Form::Text, .. }) => (slotd_outbound::Stream::Text, None),
        Some(Stream { form: Form::Data, .. }) => (slotd_outbound::Stream::Events, None),
        Some(Stream { form: Form::Joined(path), .. }) => {
            let wrong = |error: slotd_outbound::NoPath| {
                slotd_outbound::Failure::new(Kind::Invalid, error.to_string())
            };
            (slotd_outbound::Stream::Events, Some(path.parse::<JsonPath>().map_err(wrong)?))
        }
    };
    let asked = slotd_outbound::Request {
        method: request.method.clone(),
        url: request.url.clone(),
        headers: traced(request),
        body: request.body.clone(),
        idempotency_key: idempotency_key.to_owned(),
        options: Options {
            // Only the whole has a time: a model may think for long.
            timeout: Duration::from_millis(request.timeout_ms.into()),
            redirects: request.redirects,
            answer_bytes_max: request.answer_bytes_max as usize,
            keep_headers: request.keep_headers.clone(),
            stream,
        },
    };
    Ok((asked, path))
}

/// The headers of a request, with what it is a part of; what the handler says of that is its own.
fn traced(request: &Request) -> Vec<(String, String)> {
    let mut headers = request.headers.clone();
    let is_own = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(TRACEPARENT));
    // A client's trace must not be what makes a request too large.
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
    let has_room = headers.len() < slotd_outbound::limits::REQUEST_HEADERS_MAX
        && bytes < slotd_outbound::limits::REQUEST_HEADER_BYTES_MAX / 2;
    if let Some(trace) = request.trace.filter(|_| !is_own && has_room) {
        let span = u64::from_le_bytes(crate::random::bytes());
        headers.push((TRACEPARENT.to_owned(), trace.child(span).to_string()));
    }
    headers
}

/// Passes on what is shown. The server waits for who takes it; if nobody does any more, the answer is read on.
async fn show(
    mut chunks: mpsc::Receiver<Chunk>,
    path: Option<&JsonPath>,
    mut redaction: Redaction,
    shown: mpsc::Sender<String>,
) {
    while let Some(chunk) = chunks.recv().await {
        let text = match (chunk, path) {
            (Chunk::Text(text), _) => text,
            (Chunk::Event(event), None) => event.data,
            // Joined, what was apart may be a secret.
            (Chunk::Event(event), Some(path)) => {
                path.text(&event.data).map(|text| redaction.feed(&text)).unwrap_or_default()
            }
        };
        if (path.is_none() || !text.is_empty()) && shown.send(text).await.is_err() {
            return;
        }
    }
    let left = redaction.finish();
    if !left.is_empty() {
        let _ = shown.send(left).await;
    }
}

/// What the handler gets.
fn got(outcome: slotd_outbound::Outcome, path: Option<&(&JsonPath, Redaction)>) -> Got {
    match outcome {
        Ok(answer) => {
            let (response, content_type, body) = content(answer, path);
            let outcome = Outcome::Response(response);
            Got { outcome, content_type, body, was_made: true }
        }
        Err(failure) => {
            // Nothing is sent of what these refuse, unless a redirect led there.
            let is_none =
                matches!(failure.kind, Kind::Refused | Kind::Invalid | Kind::SecretUnknown);
            let was_made = !is_none || failure.so_far.is_some();
            let (code, reason) = (failure.kind.code().to_owned(), failure.reason);
            let so_far = failure.so_far.map(|answer| content(*answer, path));
            let (response, content_type, body) = match so_far {
                Some((response, content_type, body)) => (Some(response), content_type, body),
                None => (None, NO_TYPE.to_owned(), Bytes::new()),
            };
            let outcome = Outcome::Failure(Failure { code, reason, response });
            Got { outcome, content_type, body, was_made }
        }
    }
}

/// An answer, or what came of one. What was shown joined is joined here too.
fn content(answer: Answer, path: Option<&(&JsonPath, Redaction)>) -> (Response, String, Bytes) {
    let Answer { status, headers, body, .. } = answer;
    let content_type = headers.iter().find(|(name, _)| name == "content-type");
    let content_type = content_type.map_or("", |(_, value)| value.as_str());
    let is_events = slotd_outbound::sse::is_event_stream(content_type);
    let joined = path.filter(|_| is_events && (200..300).contains(&status));
    let joined = joined
        .and_then(|(path, redaction)| path.join_body(&body).ok().map(|text| redaction.text(text)));
    let is_fit = (1..=limits::CONTENT_TYPE_BYTES_MAX).contains(&content_type.len())
        && content_type.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let (content_type, body) = match joined {
        Some(text) => (TEXT_TYPE, text.into()),
        None if is_fit => (content_type, body),
        None => (NO_TYPE, body),
    };
    let content_type = content_type.to_owned();
    (Response { status, headers }, content_type, body)
}

/// One of a number that a gauge shows.
struct Counted(&'static Gauge);

impl Counted {
    fn begin(gauge: &'static Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Reads the secrets again when their file has changed.
pub(super) async fn follow_secrets(
    requester: Arc<OfNode>,
    every: Duration,
    stopping: watch::Receiver<bool>,
) {
    let Some(file) = requester.secrets_file.clone() else { return };
    let (seen, secrets) = (Arc::new(Mutex::new(requester.stamp)), requester.secrets.clone());
    let look = move || {
        let now = stamp(&file);
        let before = std::mem::replace(&mut *seen.lock(), now);
        (before != now).then(|| secrets.reload())
    };
    files::follow(every, files::stopped(stopping), look, |again| {
        if let Some(again) = again {
            requester.was_read(again);
        }
        std::future::ready(())
    })
    .await;
}

#[cfg(test)]
mod tests;
