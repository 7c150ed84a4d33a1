//! A slot over the real log and store, with a hand on the moment at which its appends end.

use super::*;
use crate::{
    database::StorageOptions,
    error::Code,
    level,
    log::{
        Append, Claim, LogError, Logged,
        record::{Batch, Record},
    },
    message::{Consistency, Incoming, Live, Sent, SessionInfo, Subscribed},
    names::SessionKey,
    operation::{Describe, Message, Subscribe},
    plugin::{Digest, PluginOptions, testkit},
    service::catalogue::Service,
    storage::DataDir,
    telemetry::captured_log::CapturedLog,
};
use bytes::Bytes;
use faulty::Faulty;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::timeout;

mod at_once;
mod effect_operations;
mod ephemeral;
mod faulty;
mod identity;
mod long;
mod operate;
mod quota;
mod requests;
mod sends;
mod timers;
mod usage;

fn message_under(
    id: Option<&str>,
    session: &SessionKey,
    body: impl Into<Bytes>,
) -> (Mail, oneshot::Receiver<Result<Sent, Error>>) {
    let (reply, answer) = oneshot::channel();
    let (id, content_type) = (id.map(Into::into), "text/plain".into());
    let message =
        Incoming { id, sender: None, content_type, body: body.into(), trace: None, client: None };
    (Message::new(session.clone(), message).mail(reply), answer)
}

/// The embedded log; each append waits for the test's word, and can be refused by it.
struct HeldLog {
    log: Arc<dyn SlotLog>,
    appends: mpsc::UnboundedSender<oneshot::Sender<Word>>,
    /// Appends whose end the slot was told.
    ended: Arc<AtomicU64>,
}

#[derive(Debug, PartialEq)]
enum Word {
    Pass,
    Refuse,
    /// Nobody knows what became of it.
    Lose,
    Fence,
}

impl SlotLog for HeldLog {
    fn claim(&self, slot: SlotId, claimant: &str) -> BoxFuture<'static, Result<Claim, LogError>> {
        self.log.claim(slot, claimant)
    }
    fn commit(&self, append: Append) -> BoxFuture<'static, Result<Position, LogError>> {
        let (decide, decided) = oneshot::channel();
        let _ = self.appends.send(decide);
        let log = self.log.clone();
        async move {
            match decided.await {
                Ok(Word::Refuse) => Err(LogError::Unavailable("no room, says the test".into())),
                Ok(Word::Lose) => Err(LogError::Undecided("says the test".into())),
                Ok(Word::Fence) => {
                    // Somebody else claims the slot while the append is on its way.
                    log.claim(append.slot, "another").await?;
                    log.commit(append).await
                }
                _ => log.commit(append).await,
            }
        }
        .boxed()
    }
    fn commit_then(
        &self,
        append: Append,
        then: crate::log::Then,
    ) -> Option<BoxFuture<'static, Result<Position, LogError>>> {
        let commit = self.commit(append);
        let ended = self.ended.clone();
        tokio::spawn(async move {
            then(commit.await);
            ended.fetch_add(1, Ordering::Release);
        });
        None
    }
    fn read(
        &self,
        slot: SlotId,
        after: Position,
        bytes_max: usize,
    ) -> BoxFuture<'static, Result<Vec<Logged>, LogError>> {
        self.log.read(slot, after, bytes_max)
    }
    fn trim(&self, slot: SlotId, up_to: Position) -> BoxFuture<'static, Result<(), LogError>> {
        self.log.trim(slot, up_to)
    }
}

struct Fixture {
    slot: SlotHandle,
    task_lock: TaskLock,
    context: Arc<SlotContext>,
    appends: mpsc::UnboundedReceiver<oneshot::Sender<Word>>,
    /// The store gives no values.
    store_fails: Arc<AtomicBool>,
    at_read: faulty::AtRead,
    /// As in [`HeldLog`].
    ended: Arc<AtomicU64>,
    data: DataDir,
    _dir: tempfile::TempDir,
}

const SLOT: SlotId = 3;
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

impl Fixture {
    async fn new() -> Self {
        Self::with(1 << 30, crate::limits::ENGINE_TIMEOUT).await
    }

    /// A slot that is open, and has its plugin.
    async fn warm() -> Self {
        let mut fixture = Self::new().await;
        let first = fixture.send(b"sone");
        fixture.append().await.send(Word::Pass).unwrap();
        first.await.unwrap().unwrap();
        fixture.describe().await.unwrap().unwrap();
        fixture
    }

    /// A slot of a node whose instances may have so much memory together.
    async fn with_memory(bytes: usize) -> Self {
        Self::with(bytes, crate::limits::ENGINE_TIMEOUT).await
    }

    /// A slot that waits so long for its log.
    async fn with_timeout(timeout: Duration) -> Self {
        Self::with(1 << 30, timeout).await
    }

    async fn with(bytes: usize, timeout: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plugins = testkit::host_with_memory(&dir.path().join("plugins"), bytes);
        let plugin = plugins.add(testkit::guest().into()).await.unwrap();
        Self::over(dir, plugins, plugin.digest(), timeout)
    }

    /// A slot whose calls may take so long.
    async fn with_deadline(deadline: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = testkit::options(&dir.path().join("plugins"));
        let plugins = PluginHost::new(PluginOptions { deadline, ..options }).unwrap();
        let plugin = plugins.add(testkit::guest().into()).await.unwrap();
        Self::over(dir, plugins, plugin.digest(), crate::limits::ENGINE_TIMEOUT)
    }

    /// A slot whose plugin has to be fetched, which takes as long as the test wants.
    fn over_source(deadline: Duration) -> (Self, Arc<testkit::HeldSource>) {
        let (dir, source) = (tempfile::tempdir().unwrap(), Arc::<testkit::HeldSource>::default());
        let options = testkit::options(&dir.path().join("plugins"));
        let options = PluginOptions { deadline, source: Some(source.clone()), ..options };
        let (plugins, digest) = (PluginHost::new(options).unwrap(), Digest::of(&testkit::guest()));
        (Self::over(dir, plugins, digest, crate::limits::ENGINE_TIMEOUT), source)
    }

    fn over(
        dir: tempfile::TempDir,
        plugins: PluginHost,
        digest: Digest,
        engine_timeout: Duration,
    ) -> Self {
        let data = DataDir::open(&dir.path().join("data"), StorageOptions::default()).unwrap();
        let name = ServiceName::parse("s").unwrap();
        let service =
            Service::deployed(None, &name, Some("1"), digest, &crate::service::Change::default())
                .unwrap();
        let catalogue = Catalogue::of_cluster();
        assert!(catalogue.learn(service.unwrap()));
        let (sender, appends) = mpsc::unbounded_channel();
        let (store_fails, ended) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicU64>::default());
        let at_read = faulty::AtRead::default();
        let context = Arc::new(SlotContext {
            node: "n".into(),
            log: Arc::new(HeldLog { log: data.log(), appends: sender, ended: ended.clone() }),
            store: Arc::new(Faulty {
                store: data.state(),
                fails: store_fails.clone(),
                at_read: at_read.clone(),
            }),
            plugins: Arc::new(plugins),
            catalogue: Arc::new(catalogue),
            kept: KeptPlugins::default(),
            cached_bytes: 0.into(),
            mail_taken: 0.into(),
            wakes: Wakes::default(),
            courier: OnceLock::new(),
            requester: OnceLock::new(),
            failures: OnceLock::new(),
            outbox: 0.into(),
            trials: Trials::default(),
            quota: Quota::default(),
            usage: Meter::default(),
            loads: None,
            turns: OnceLock::new(),
            options: SlotOptions {
                mailbox_messages: 16,
                cache_bytes: 1 << 20,
                engine_timeout,
                slot_count: sends::SLOTS,
                sends: Arc::new(SendRules::parse("s>s").unwrap()),
                in_order: Arc::default(),
            },
            level: Arc::new(FeatureLevel::new(level::NEWEST)),
            cluster: None,
        });
        let task_lock = TaskLock::default();
        let slot = SlotHandle::spawn(SLOT, task_lock.clone(), context.clone());
        Self { slot, task_lock, context, appends, store_fails, at_read, ended, data, _dir: dir }
    }

    /// A context like its own, over another log or at another level.
    fn context_over(&self, log: Arc<dyn SlotLog>, level: Arc<FeatureLevel>) -> SlotContext {
        let context = &self.context;
        SlotContext {
            node: "n".into(),
            log,
            store: context.store.clone(),
            plugins: context.plugins.clone(),
            catalogue: context.catalogue.clone(),
            kept: KeptPlugins::default(),
            cached_bytes: 0.into(),
            mail_taken: 0.into(),
            wakes: Wakes::default(),
            courier: OnceLock::new(),
            requester: OnceLock::new(),
            failures: OnceLock::new(),
            outbox: 0.into(),
            trials: Trials::default(),
            quota: Quota::default(),
            usage: Meter::default(),
            loads: None,
            turns: OnceLock::new(),
            options: context.options.clone(),
            level,
            cluster: None,
        }
    }

    fn send(&self, body: &'static [u8]) -> oneshot::Receiver<Result<Sent, Error>> {
        self.send_under(None, body)
    }

    fn send_under(
        &self,
        id: Option<&str>,
        body: &'static [u8],
    ) -> oneshot::Receiver<Result<Sent, Error>> {
        let (mail, answer) = message_under(id, &key(), body);
        assert!(matches!(self.slot.mailbox().try_mail(mail, || {}), Ok(Ok(()))));
        answer
    }

    fn subscribe(&self) -> oneshot::Receiver<Result<Subscribed, Error>> {
        let (reply, answer) = oneshot::channel();
        let mail = Subscribe { key: key(), after: 0 }.mail(reply);
        assert!(matches!(self.slot.mailbox().try_mail(mail, || {}), Ok(Ok(()))));
        answer
    }

    /// Asks for the description of the session, which needs no handler.
    fn describe(&self) -> oneshot::Receiver<Result<SessionInfo, Error>> {
        let (reply, answer) = oneshot::channel();
        let mail = Describe { key: key(), consistency: Consistency::Local }.mail(reply);
        assert!(matches!(self.slot.mailbox().try_mail(mail, || {}), Ok(Ok(()))));
        answer
    }

    /// Lets all appends pass from now on.
    fn pass_all(&mut self) {
        let (_, none) = mpsc::unbounded_channel();
        let mut appends = std::mem::replace(&mut self.appends, none);
        tokio::spawn(async move {
            while let Some(word) = appends.recv().await {
                let _ = word.send(Word::Pass);
            }
        });
    }

    /// The next append, held.
    async fn append(&mut self) -> oneshot::Sender<Word> {
        timeout(Duration::from_secs(20), self.appends.recv()).await.unwrap().unwrap()
    }

    /// Waits until the slot has taken so much mail.
    async fn taken(&self, mail: u64) {
        while self.context.mail_taken.load(Ordering::Relaxed) < mail {
            tokio::task::yield_now().await;
        }
    }

    /// Sequence numbers of the slot's messages, as its log has them.
    async fn logged(&self) -> Vec<u64> {
        let after = self.data.state().slot(SLOT).unwrap().applied;
        let batches = self.data.log().read(SLOT, after, usize::MAX).await.unwrap();
        let records = batches.iter().flat_map(|b| Batch::decode(&b.batch).unwrap().records);
        let messages = records.filter_map(|record| match record {
            Record::Message(message) => Some(message.entry.seq),
            _ => None,
        });
        messages.collect()
    }
}

fn key() -> SessionKey {
    SessionKey::parse("s", "x").unwrap()
}

/// Invariant 2: a reply or an event that leaves before its batch is durable may tell of something
/// that a crash then takes back.
#[tokio::test]
async fn nothing_leaves_before_its_batch_is_durable() {
    let mut fixture = Fixture::new().await;
    let subscribed = fixture.subscribe().await.unwrap().unwrap();
    let mut live = subscribed.live.unwrap();
    let mut first = fixture.send(b"mhello");
    let word = fixture.append().await;
    // A read of what is not durable waits too.
    let mut seen = fixture.subscribe();
    fixture.taken(3).await;
    assert!(first.try_recv().is_err() && seen.try_recv().is_err());
    assert!(live.recv().now_or_never().is_none());
    word.send(Word::Pass).unwrap();
    assert_eq!(first.await.unwrap().unwrap().seq, 1);
    assert_eq!(seen.await.unwrap().unwrap().backlog.len(), 1);
    assert!(matches!(live.recv().await, Some(Live::Published(p)) if p.seq == 1));
}

/// Invariants 3 and 4: what filled while a commit failed rests on what was refused. Were it
/// appended, a refused message's writes would be durable and its number missing.
#[tokio::test]
async fn nothing_that_rests_on_a_failed_commit_reaches_the_log() {
    let mut fixture = Fixture::new().await;
    let first = fixture.send(b"sone");
    let word = fixture.append().await;
    let second = fixture.send(b"stwo");
    fixture.taken(2).await;
    word.send(Word::Refuse).unwrap();
    assert_eq!(first.await.unwrap().unwrap_err().code, Code::StorageUnavailable);
    assert_eq!(second.await.unwrap().unwrap_err().code, Code::StorageUnavailable);
    drop(fixture.task_lock.lock().await);
    assert!(fixture.appends.try_recv().is_err(), "the second batch was sent to the log");
    assert!(fixture.logged().await.is_empty());
    // The next task begins from the log.
    fixture.slot = SlotHandle::spawn(SLOT, fixture.task_lock.clone(), fixture.context.clone());
    let again = fixture.send(b"sone");
    fixture.append().await.send(Word::Pass).unwrap();
    assert_eq!(again.await.unwrap().unwrap().seq, 1);
    assert_eq!(fixture.logged().await, [1]);
}

/// Invariant 1: a writer whose slot was claimed meanwhile must tell its callers so and stop.
#[tokio::test]
async fn a_fenced_slot_tells_its_callers_and_stops() {
    let mut fixture = Fixture::new().await;
    let first = fixture.send(b"sone");
    fixture.append().await.send(Word::Fence).unwrap();
    assert_eq!(first.await.unwrap().unwrap_err().code, Code::Fenced);
    drop(fixture.task_lock.lock().await);
    assert!(fixture.slot.is_closed());
    assert!(fixture.logged().await.is_empty());
}

/// Without it memory that idle instances hold could never be had by those that are asked, and a
/// message that finds none would wait for ever.
#[tokio::test]
async fn idle_instances_are_given_up_for_others() {
    let mut fixture = Fixture::with_memory(2 * testkit::GUEST_BYTES).await;
    let plugins = fixture.context.plugins.clone();
    let first = fixture.send(b"eone");
    fixture.append().await.send(Word::Pass).unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(plugins.budget().service(&key().service).instances(), 1);
    let plugin = plugins.load(Digest::of(&testkit::guest())).await.unwrap();
    let other = plugin.fresh().await.unwrap();
    let waiting = tokio::spawn({
        let plugin = plugin.clone();
        async move { plugin.instantiate(Default::default(), Duration::from_secs(20)).await }
    });
    plugins.budget().lacks().await;
    assert_eq!(plugins.pool().shed(plugins.budget().bytes_lacking(), 0), 1);
    let another = waiting.await.unwrap().unwrap();
    // Now the slot finds none.
    let error = fixture.send(b"etwo").await.unwrap().unwrap_err();
    assert_eq!((error.code, error.code.status()), (Code::MemoryFull, 503));
    assert!(error.retry_after.is_some());
    drop((other, another));
    let again = fixture.send(b"etwo");
    fixture.append().await.send(Word::Pass).unwrap();
    assert_eq!(again.await.unwrap().unwrap().seq, 2);
}

/// A swap that waited for an instance in each slot would hold its messages up, and need the memory
/// of all of them at once.
#[tokio::test]
async fn a_slot_goes_over_without_an_instance_of_its_own() {
    let mut fixture = Fixture::new().await;
    let first = fixture.send(b"sone");
    fixture.append().await.send(Word::Pass).unwrap();
    first.await.unwrap().unwrap();
    let plugins = fixture.context.plugins.clone();
    let service = key().service;
    let made = plugins.budget().service(&service).instances();
    #[expect(clippy::async_yields_async, reason = "the order is taken; its answer comes later")]
    let order = async |fixture: &Fixture, to: &Service| {
        let (reply, moved) = oneshot::channel();
        let activation = Activation { target: to.target() };
        let order = Order::Activate { activation, reply };
        assert!(fixture.slot.order(order).await.is_ok());
        moved
    };
    let known = fixture.context.catalogue.require(&service).unwrap();
    let (digest, change) = (Digest([2; 32]), crate::service::Change::default());
    let next = Service::deployed(Some(&known), &service, Some("2"), digest, &change);
    let moved = order(&fixture, &next.unwrap().unwrap()).await;
    fixture.append().await.send(Word::Pass).unwrap();
    moved.await.unwrap().unwrap();
    let late = order(&fixture, &known).await.await.unwrap();
    assert_eq!(late.unwrap(), Duration::ZERO);
    assert_eq!(plugins.budget().service(&service).instances(), made);
}

/// Clients that give up on a call that computes for long must not leave its slot with it for the
/// rest of its time: the next message would wait for nothing.
#[tokio::test]
async fn a_call_that_nobody_waits_for_ends() {
    let mut fixture = Fixture::new().await;
    let spinning = fixture.send(b"lone");
    fixture.taken(1).await;
    drop(spinning);
    let mut next = fixture.send(b"sone");
    let answered = async {
        // What the slot switches to may be in a batch of its own.
        loop {
            tokio::select! {
                word = fixture.append() => word.send(Word::Pass).unwrap(),
                answer = &mut next => return answer.unwrap().unwrap(),
            }
        }
    };
    let answer = timeout(Duration::from_secs(15), answered).await;
    let answer = answer.expect("the slot was left with a call of 20 s");
    assert_eq!(answer.seq, 1, "what was given up used a number up");
}

/// Invariant 3: the message was kept. "Not kept" would be a lie, told to a client that asks because
/// it wants to know.
#[tokio::test]
async fn a_repeat_rests_on_its_first_alone() {
    let mut fixture = Fixture::new().await;
    let first = fixture.send_under(Some("k"), b"sone");
    let word = fixture.append().await;
    // Behind the first, of the same session, and not to be kept.
    let later = fixture.send(b"stwo");
    let repeat = fixture.send_under(Some("k"), b"sone");
    fixture.taken(3).await;
    word.send(Word::Pass).unwrap();
    assert_eq!(first.await.unwrap().unwrap().seq, 1);
    let word = fixture.append().await;
    let again = fixture.send_under(Some("k"), b"sone");
    fixture.taken(4).await;
    word.send(Word::Refuse).unwrap();
    assert_eq!(later.await.unwrap().unwrap_err().code, Code::StorageUnavailable);
    for repeat in [repeat, again] {
        let sent = repeat.await.unwrap().unwrap();
        assert!(sent.seq == 1 && sent.replayed);
    }
}

/// As above, while nobody knows yet what becomes of the first.
#[tokio::test]
async fn a_repeat_of_what_is_undecided_is_undecided() {
    let mut fixture = Fixture::new().await;
    let first = fixture.send_under(Some("k"), b"sone");
    let word = fixture.append().await;
    let later = fixture.send(b"stwo");
    let repeat = fixture.send_under(Some("k"), b"sone");
    fixture.taken(3).await;
    word.send(Word::Lose).unwrap();
    for open in [first, repeat] {
        assert_eq!(open.await.unwrap().unwrap_err().code, Code::OutcomeUnknown);
    }
    assert_eq!(later.await.unwrap().unwrap_err().code, Code::StorageUnavailable);
}

/// A slot that is given away while the log does not answer would be nobody's for as long as that
/// lasts: its successor, here or elsewhere, waits for it to end.
#[tokio::test]
async fn a_slot_that_ends_does_not_wait_for_ever() {
    let mut fixture = Fixture::with_timeout(Duration::from_millis(200)).await;
    let first = fixture.send(b"sone");
    let word = fixture.append().await;
    let (reply, stopped) = oneshot::channel();
    assert!(fixture.slot.order(Order::Stop { release: true, loaded: None, reply }).await.is_ok());
    let stopped = timeout(Duration::from_secs(20), stopped).await;
    assert_eq!(stopped.unwrap().unwrap().unwrap_err().code, Code::StorageUnavailable);
    assert_eq!(first.await.unwrap().unwrap_err().code, Code::OutcomeUnknown);
    drop(fixture.task_lock.lock().await);
    drop(word);
}

/// A plugin that has to be fetched and compiled would stop all sessions of its slot for minutes, and the
/// slot itself, for the sake of one that is pinned to it.
#[tokio::test]
async fn a_slot_does_not_wait_for_a_load_for_longer_than_for_a_call() {
    let (mut fixture, source) = Fixture::over_source(Duration::from_millis(300));
    fixture.pass_all();
    let first = fixture.send(b"sone");
    fixture.taken(1).await;
    let read =
        timeout(TEST_TIMEOUT, fixture.describe()).await.expect("the slot waits for the load");
    assert_eq!(read.unwrap().unwrap_err().code, Code::SessionNotFound);
    let error = first.await.unwrap().unwrap_err();
    assert_eq!((error.code, error.code.status()), (Code::PluginUnavailable, 503));
    assert!(error.retry_after.is_some() && error.detail.contains("being loaded"), "{error}");
    // Who comes later waits for the same load.
    let later = fixture.send(b"sone");
    assert!(timeout(TEST_TIMEOUT, fixture.describe()).await.is_ok());
    assert_eq!(later.await.unwrap().unwrap_err().code, Code::PluginUnavailable);
    // Without others a message waits as long as its client; without that, not at all.
    drop(fixture.send(b"sone"));
    assert!(timeout(TEST_TIMEOUT, fixture.describe()).await.is_ok());
    // What was begun went on meanwhile.
    source.given.send_replace(Some(Ok(testkit::guest().into())));
    let again = timeout(TEST_TIMEOUT, fixture.send(b"sone")).await;
    assert_eq!(again.unwrap().unwrap().unwrap().seq, 1);
    assert_eq!(source.asked.load(Ordering::Relaxed), 1);
}

/// As above: a slot that has to move would not come to it.
#[tokio::test]
async fn a_slot_that_waits_for_a_load_stops_in_time() {
    let (mut fixture, source) = Fixture::over_source(Duration::from_millis(300));
    fixture.pass_all();
    let first = fixture.send(b"sone");
    while source.asked.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    let (reply, stopped) = oneshot::channel();
    assert!(fixture.slot.order(Order::Stop { release: true, loaded: None, reply }).await.is_ok());
    assert!(timeout(TEST_TIMEOUT, stopped).await.expect("it waits for the load").unwrap().is_ok());
    assert_eq!(first.await.unwrap().unwrap_err().code, Code::Unavailable);
}

/// Each queued call would take as long as a call may, and whoever takes the slot over would give up.
#[tokio::test]
async fn a_slot_that_stops_waits_for_one_call_and_not_for_each() {
    let deadline = Duration::from_secs(3);
    let mut fixture = Fixture::with_deadline(deadline).await;
    fixture.pass_all();
    let spinning: Vec<_> = (0..10).map(|_| fixture.send(b"lone")).collect();
    fixture.taken(1).await;
    let (reply, stopped) = oneshot::channel();
    let asked = Instant::now();
    assert!(fixture.slot.order(Order::Stop { release: true, loaded: None, reply }).await.is_ok());
    stopped.await.unwrap().unwrap();
    let took = asked.elapsed();
    assert!(took < 5 * deadline, "{took:?}");
    let mut refused = 0;
    for call in spinning {
        let error = call.await.unwrap().unwrap_err();
        match error.code {
            Code::Unavailable => refused += 1,
            // The first may have had all of its time.
            code => assert_eq!(code, Code::PluginDeadline),
        }
    }
    assert!(refused >= 8, "{refused}");
    drop(fixture.task_lock.lock().await);
    assert!(fixture.logged().await.is_empty());
}

/// A plugin that can't be loaded, or started, fails each message: nobody but its clients would know.
#[tokio::test]
async fn a_plugin_without_instances_is_told_of() {
    let captured = CapturedLog::default();
    let _listening = captured.listen();
    // Its trial went well on a node that gave its instances more.
    let start = "(func $start (if (i32.eq (i32.const -1) (memory.grow (i32.const 32)))
        (then unreachable))) (start $start)";
    let (dir, large) = (tempfile::tempdir().unwrap(), testkit::guest_with(";;START", start));
    let folder = dir.path().join("plugins");
    testkit::host(&folder).add(large.clone().into()).await.unwrap();
    let (plugins, digest) = (testkit::host_with_instances_of(&folder, 1 << 20), Digest::of(&large));
    let mut fixture = Fixture::over(dir, plugins, digest, crate::limits::ENGINE_TIMEOUT);
    fixture.pass_all();
    let error = fixture.send(b"sone").await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::PluginUnavailable);
    let label = error.plugin.unwrap();
    let text = captured.text();
    assert!(text.contains(&format!("can't instantiate {label}: ")), "{text}");

    let (mut fixture, source) = Fixture::over_source(TEST_TIMEOUT);
    fixture.pass_all();
    source.given.send_replace(Some(Err("the source is away".into())));
    let error = fixture.send(b"sone").await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::PluginUnavailable);
    let text = captured.text();
    let line = text.lines().find(|line| line.contains("can't load"));
    assert!(line.is_some_and(|line| line.contains("the source is away")), "{text}");
}
