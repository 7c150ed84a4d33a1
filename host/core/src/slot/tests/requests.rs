//! Requests over HTTP: made when they are durable, at least once and with one key, and answered once; what is shown of an
//! answer is durable.

use super::*;
use crate::{
    effects::{
        Caused, Effect, Origin,
        http::{Failure, Got, Outcome, Request, Response},
        rows::{self, Name},
    },
    log::record::Entry,
    operation::Delete,
    slot::request::{Again, Attempt, Attempted, NotMade, RESTARTED, Requester},
};
use std::sync::atomic::AtomicBool;

/// An attempt, as the server of a test has it.
struct Made {
    body: Bytes,
    idempotency_key: String,
    failures: u32,
    chunks: Option<mpsc::Sender<String>>,
    answer: oneshot::Sender<Attempted>,
    /// The slot waits for it no more.
    is_over: Arc<AtomicBool>,
}

struct Server(mpsc::UnboundedSender<Made>);

struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Requester for Server {
    fn check(&self, _: &ServiceName, request: &Request) -> Result<(), NotMade> {
        match &request.body[..] {
            b"forbidden" => Err(NotMade::Forbidden("says the test".into())),
            b"invalid" => Err(NotMade::Invalid("says the test".into())),
            _ => Ok(()),
        }
    }

    fn attempt(
        &self,
        attempt: Attempt,
        chunks: Option<mpsc::Sender<String>>,
    ) -> BoxFuture<'static, Attempted> {
        let (answer, answered) = oneshot::channel();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Over(is_over.clone());
        let Attempt { request, idempotency_key, .. } = attempt;
        let body = request.body.clone();
        let failures = request.failures;
        let made = Made { body, idempotency_key, failures, chunks, answer, is_over };
        let _ = self.0.send(made);
        async move {
            let _over = over;
            match answered.await {
                Ok(attempted) => attempted,
                Err(_) => std::future::pending().await,
            }
        }
        .boxed()
    }
}

fn response(status: u16, body: &str) -> Attempted {
    let outcome = Outcome::Response(Response { status, headers: Vec::new() });
    let body = Bytes::copy_from_slice(body.as_bytes());
    let got = Got { outcome, content_type: "text/plain".into(), body, was_made: true };
    Attempted { got, again: None, held: Box::new(()) }
}

/// In vain, and tried again after so many milliseconds.
fn vain(wait_ms: u64, counts: bool) -> Attempted {
    let failure =
        Failure { code: "connect".into(), reason: "says the test".into(), response: None };
    let outcome = Outcome::Failure(failure);
    let body = Bytes::from_static(b"efailed");
    let got = Got { outcome, content_type: "text/plain".into(), body, was_made: counts };
    let again = Some(Again { wait: Duration::from_millis(wait_ms), counts });
    Attempted { got, again, held: Box::new(()) }
}

impl Made {
    fn answers(self, attempted: Attempted) {
        assert!(self.answer.send(attempted).is_ok(), "nobody waits for it");
    }

    async fn shows(&self, text: &str) {
        self.chunks.as_ref().unwrap().send(text.into()).await.unwrap();
    }
}

struct Requests {
    fixture: Fixture,
    made: mpsc::UnboundedReceiver<Made>,
}

impl Requests {
    async fn new() -> Self {
        let mut requests = Self::held().await;
        requests.fixture.pass_all();
        requests
    }

    async fn held() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plugins = testkit::host_with_memory(&dir.path().join("plugins"), 1 << 30);
        let plugin = plugins.add(testkit::requesting_guest().into()).await.unwrap();
        let mut fixture =
            Fixture::over(dir, plugins, plugin.digest(), crate::limits::ENGINE_TIMEOUT);
        fixture.wake();
        let (server, made) = mpsc::unbounded_channel();
        assert!(fixture.context.requester.set(Arc::new(Server(server))).is_ok());
        Self { fixture, made }
    }

    async fn say(&self, body: &str) -> Sent {
        self.fixture.say(body.as_bytes()).await.unwrap().unwrap()
    }

    async fn made(&mut self) -> Made {
        timeout(TEST_TIMEOUT, self.made.recv()).await.expect("no request is made").unwrap()
    }

    /// Ends the slot, and opens it again.
    async fn again(&mut self) {
        self.fixture.stop().await;
        self.fixture.again();
        self.fixture.pass_all();
    }

    fn effects(&self) -> effects::Effects {
        let store = self.fixture.data.state();
        let head = store.head(SLOT, &key()).unwrap().unwrap();
        effects::Effects::load(&*store, SLOT, head.session_number).unwrap()
    }

    async fn until_over(&self, is_over: &AtomicBool) {
        let until = Instant::now() + TEST_TIMEOUT;
        while !is_over.load(Ordering::Relaxed) {
            assert!(Instant::now() < until, "it goes on");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn answered(entry: &Entry) -> Option<(&str, &Outcome, u32, u32)> {
    let Some(Origin::Http(answered)) = entry.origin.as_deref() else { return None };
    Some((&answered.id, &answered.outcome, answered.attempts, answered.attempt))
}

/// The kinds and bodies of the events of parts, in order.
fn shown(history: &[Arc<Entry>]) -> Vec<(String, String)> {
    let parts = history.iter().filter(|it| matches!(it.origin.as_deref(), Some(Origin::Part(_))));
    let events = parts.flat_map(|entry| &entry.events);
    let text = |body: &Bytes| String::from_utf8(body.to_vec()).unwrap();
    events.map(|event| (event.kind.clone(), text(&event.body))).collect()
}

/// A request of a message that a crash takes back would be made all the same.
#[tokio::test]
async fn a_request_is_made_once_it_is_durable_and_answered_once() {
    let mut requests = Requests::held().await;
    let asked = requests.fixture.say(b"Qx-hello");
    let word = requests.fixture.append().await;
    requests.fixture.look_for_due().await;
    assert!(requests.made.try_recv().is_err(), "its message may never be durable");
    word.send(Word::Pass).unwrap();
    assert_eq!(&asked.await.unwrap().unwrap().body[..], [1]);
    let made = requests.made().await;
    assert_eq!((&made.body[..], made.failures, made.chunks.is_none()), (&b"hello"[..], 0, true));
    requests.fixture.pass_all();
    made.answers(response(404, "edone"));
    let history = requests.fixture.entries(0, 2).await;
    let [asking, entry] = &history[..] else { panic!("{history:?}") };
    assert_eq!(asking.caused, [Caused::Request { id: "x".into() }]);
    assert!(entry.caused.is_empty());
    let (id, outcome, attempts, attempt) = answered(entry).unwrap();
    assert_eq!((id, attempts, attempt), ("x", 1, 1));
    assert!(matches!(outcome, Outcome::Response(response) if response.status == 404));
    assert_eq!((&entry.body[..], &entry.reply[..]), (&b"edone"[..], &b"done"[..]));
    assert_eq!(requests.fixture.due_rows(), 0);
    requests.again().await;
    requests.say("eend").await;
    assert!(requests.made.try_recv().is_err(), "it is made again");
}

/// A request that never commits must not be made; one whose slot ends is made again, under the same key.
#[tokio::test]
async fn a_request_outlives_its_slot_under_one_key() {
    let mut requests = Requests::held().await;
    let asked = requests.fixture.say(b"Qx-lost");
    requests.fixture.append().await.send(Word::Refuse).unwrap();
    assert!(asked.await.unwrap().is_err());
    drop(requests.fixture.task_lock.lock().await);
    requests.fixture.again();
    requests.fixture.pass_all();
    requests.say("Qx-kept").await;
    let first = requests.made().await;
    assert_eq!(&first.body[..], b"kept");
    requests.again().await;
    let second = requests.made().await;
    assert_eq!(first.idempotency_key, second.idempotency_key);
    assert!(first.is_over.load(Ordering::Relaxed));
    second.answers(response(200, "edone"));
    requests.fixture.entries(1, 1).await;
    requests.say("Qx-kept").await;
    let other = requests.made().await;
    assert_ne!(first.idempotency_key, other.idempotency_key, "it is another request");
}

/// What is tried again too often, or not at all; or not counted.
#[tokio::test]
async fn what_is_in_vain_is_tried_again_until_its_attempts_are_over() {
    let mut requests = Requests::new().await;
    requests.say("Qx-hello").await;
    let first = requests.made().await;
    let one_key = first.idempotency_key.clone();
    // What the node lacks is no attempt.
    first.answers(vain(1, false));
    for failures in 0..crate::limits::REQUEST_ATTEMPTS {
        let made = requests.made().await;
        assert_eq!((made.failures, &made.idempotency_key), (failures, &one_key));
        made.answers(vain(1, true));
    }
    let history = requests.fixture.entries(1, 1).await;
    let (_, outcome, attempts, _) = answered(&history[0]).unwrap();
    assert_eq!(attempts, crate::limits::REQUEST_ATTEMPTS);
    assert!(matches!(outcome, Outcome::Failure(failure) if failure.code == "connect"));
    assert_eq!(requests.fixture.due_rows(), 0);
}

/// A reader that connects again would miss text, or see it twice; or take two attempts for one answer.
#[tokio::test]
async fn what_is_shown_is_in_the_history_and_a_second_attempt_says_so() {
    let mut requests = Requests::new().await;
    requests.say("Qxshello").await;
    let first = requests.made().await;
    for text in ["to", "ken", "s a"] {
        first.shows(text).await;
    }
    let all = |events: &[(String, String)]| {
        events.iter().map(|(_, body)| body.as_str()).collect::<String>()
    };
    let until = Instant::now() + TEST_TIMEOUT;
    while all(&shown(&requests.fixture.entries(1, 1).await)) != "tokens a" {
        assert!(Instant::now() < until, "it is not shown");
    }
    let before = requests.fixture.entries(1, 1).await;
    assert!(shown(&before).iter().all(|(kind, _)| kind == "tok"));
    requests.again().await;
    let second = requests.made().await;
    second.shows("all of it").await;
    second.answers(response(200, "eall of it"));
    let until = Instant::now() + TEST_TIMEOUT;
    let history = loop {
        let history = requests.fixture.entries(1, before.len() + 2).await;
        if history.iter().any(|entry| answered(entry).is_some()) {
            break history;
        }
        assert!(Instant::now() < until, "it is not answered");
    };
    assert_eq!(history[..before.len()], before[..]);
    let after = shown(&history[before.len()..]);
    assert_eq!(after[0], (RESTARTED.to_owned(), r#"{"attempt":2,"id":"x"}"#.to_owned()));
    assert_eq!(after[1..], [("tok".to_owned(), "all of it".to_owned())]);
    assert!(answered(history.last().unwrap()).is_some(), "the answer comes after its parts");
    let seqs: Vec<_> = history.iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, (2..2 + history.len() as u64).collect::<Vec<_>>());
}

/// An answer that its handler can't take would be lost, or the request made again for it.
#[tokio::test]
async fn an_answer_that_the_handler_fails_is_kept_and_the_request_not_made_again() {
    let mut requests = Requests::new().await;
    requests.say("Qx-hello").await;
    requests.made().await.answers(response(200, "twrong"));
    let until = Instant::now() + TEST_TIMEOUT;
    loop {
        requests.fixture.flush().await;
        if let Some(Effect::Answer(answer)) = requests.effects().get(&Name::Answer("x".into())) {
            assert_eq!((answer.failures, answer.attempts), (1, 1));
            break;
        }
        assert!(Instant::now() < until, "it is not kept");
    }
    assert!(requests.effects().get(&Name::Request("x".into())).is_none());
    requests.again().await;
    requests.say("eother").await;
    assert!(requests.made.try_recv().is_err(), "it is made again");
    // Another request under the same id takes its place.
    requests.say("Qx-other").await;
    requests.made().await.answers(response(200, "eright"));
    let history = requests.fixture.entries(3, 1).await;
    assert_eq!(answered(&history[0]).unwrap().3, 1);
    requests.fixture.flush().await;
    assert_eq!(requests.fixture.due_rows(), 0);
}

/// An answer that nobody waits for would come to a session that is closed, or to another request.
#[tokio::test]
async fn what_is_cancelled_replaced_closed_or_deleted_is_ended() {
    let mut requests = Requests::new().await;
    requests.say("Qx-first").await;
    let first = requests.made().await;
    requests.say("Qx-second").await;
    requests.until_over(&first.is_over).await;
    let second = requests.made().await;
    assert_eq!(&second.body[..], b"second");
    assert_eq!(&requests.say("Dx").await.body[..], [1]);
    requests.until_over(&second.is_over).await;
    assert_eq!(&requests.say("Dx").await.body[..], [0]);
    requests.say("Qy-third").await;
    let third = requests.made().await;
    let (reply, deleted) = oneshot::channel();
    let mail = Delete { key: key() }.mail(reply);
    assert!(matches!(requests.fixture.slot.mailbox().try_mail(mail, || {}), Ok(Ok(()))));
    deleted.await.unwrap().unwrap();
    requests.until_over(&third.is_over).await;
    requests.say("Qz-fourth").await;
    let fourth = requests.made().await;
    requests.say("L").await;
    requests.until_over(&fourth.is_over).await;
    requests.fixture.flush().await;
    assert_eq!(requests.fixture.due_rows(), 0);
}

/// A session that is over would go on; and after a restart nobody would know.
#[tokio::test]
async fn a_closed_session_takes_no_more_messages() {
    let mut requests = Requests::new().await;
    requests.say("shere").await;
    requests.say("L").await;
    for _ in 0..2 {
        let error = requests.fixture.say(b"emore").await.unwrap().unwrap_err();
        assert_eq!(error.code, Code::SessionClosed);
        let described = requests.fixture.describe().await.unwrap().unwrap();
        assert_eq!(described.seq, 2);
        requests.again().await;
    }
}

/// A message would be kept whose request may not be made.
#[tokio::test]
async fn a_request_that_may_not_be_made_ends_its_call() {
    let mut requests = Requests::new().await;
    let error = requests.fixture.say(b"Qx-forbidden").await.unwrap().unwrap_err();
    assert!(error.code == Code::RequestRefused && error.detail.contains("effects.http"), "{error}");
    let error = requests.fixture.say(b"Qx-invalid").await.unwrap().unwrap_err();
    assert!(error.code == Code::PluginLimit && error.detail.contains("says the test"), "{error}");
    assert!(requests.fixture.describe().await.unwrap().is_err(), "the session was made");
    assert!(requests.made.try_recv().is_err());
}

/// Who shows that somebody is there would show it for ever, or never.
#[tokio::test]
async fn a_handler_that_wants_to_is_told_of_the_first_subscriber_and_the_last() {
    let mut requests = Requests::new().await;
    requests.say("W").await;
    let subscribed = requests.fixture.subscribe().await.unwrap().unwrap();
    let presence = |entry: &Entry| match entry.origin.as_deref() {
        Some(Origin::Presence(present)) => Some(*present),
        _ => None,
    };
    let until = Instant::now() + TEST_TIMEOUT;
    while !requests.fixture.entries(0, 1).await.iter().any(|it| presence(it) == Some(true)) {
        assert!(Instant::now() < until, "it is not told");
    }
    // The next owner waits for who connects again.
    drop(subscribed);
    requests.again().await;
    let until = Instant::now() + TEST_TIMEOUT;
    loop {
        requests.fixture.flush().await;
        let store = requests.fixture.data.state();
        let head = store.head(SLOT, &key()).unwrap().unwrap();
        let history = store.history(SLOT, head.session_number, 0, 1_000, 1 << 20).unwrap();
        let told: Vec<_> = history.iter().filter_map(|it| presence(it)).collect();
        if told == [true, false] {
            break;
        }
        assert!(told == [true] && Instant::now() < until, "{told:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    requests.fixture.flush().await;
    let due = requests.fixture.data.state().scan(SLOT, rows::DUE, b"", None, 100, 1 << 20).unwrap();
    assert!(due.is_empty(), "it is looked at for ever");
}
