//! Swaps and imports on a node that stands alone.

use super::*;
use crate::slot::SlotHandle;
use crate::{
    database::StorageOptions,
    log::record::Entry,
    message::{Client, ReadBy},
    operation::{Describe, Query, ReadHistory},
    operator::{Action, Entered, Import, Imported, Operation},
    plugin::{Digest, testkit},
};
use std::collections::BTreeSet;
use tokio::time::timeout;

mod audits;
mod captures;
mod fork;
mod gate_stages;
mod past;

const SLOTS: u16 = 8;
const TIMEOUT: Duration = Duration::from_secs(20);

struct Fixture {
    node: Arc<Node>,
    plugins: Arc<PluginHost>,
    service: ServiceName,
    _dir: tempfile::TempDir,
}

/// Its instances need 2 MiB at once.
fn large() -> Bytes {
    let grow = "(func $start (if (i32.eq (i32.const -1) (memory.grow (i32.const 32)))
        (then unreachable))) (start $start)";
    testkit::guest_with(";;START", grow).into()
}

fn key() -> SessionKey {
    SessionKey::parse("s", "x").unwrap()
}

async fn describe(fixture: &Fixture, key: SessionKey) -> Result<SessionInfo, Error> {
    fixture.node.call(Describe { key, consistency: Consistency::Current }).await
}

fn message(body: &'static [u8]) -> Incoming {
    Incoming {
        id: None,
        sender: None,
        content_type: "text/plain".into(),
        body: Bytes::from_static(body),
        trace: None,
        client: None,
    }
}

impl Fixture {
    /// A node with 1 MiB per instance, which has stored [`large`] all the same.
    async fn new() -> Self {
        Self::with(false).await
    }

    async fn with(shares: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("plugins");
        testkit::host(&folder).add(large()).await.unwrap();
        let plugins = Arc::new(testkit::host_with_instances_of(&folder, 1 << 20));
        let storage = StorageOptions { slot_count: SLOTS, ..StorageOptions::default() };
        let data_dir = Arc::new(DataDir::open(&dir.path().join("data"), storage).unwrap());
        let options = NodeOptions {
            name: "n".into(),
            slot_count: SLOTS,
            mailbox_messages: 100,
            slot_idle: Duration::from_secs(300),
            instance_idle: Duration::from_secs(300),
            session_cache_bytes: 1 << 20,
            resettable: false,
            shares,
            level_wait: limits::LEVEL_WAIT_DEFAULT,
            sends: Arc::default(),
            in_order: Arc::default(),
        };
        let foundation = Foundation {
            data_dir,
            plugins: plugins.clone(),
            shared: None,
            requester: None,
            quota: Quota::default(),
            redactions: Redactions::default(),
        };
        let node = Node::start(options, foundation).unwrap();
        let service = ServiceName::parse("s").unwrap();
        Self { node, plugins, service, _dir: dir }
    }

    async fn deploy(&self, version: &str, component: Bytes) -> Result<Deployed, Error> {
        let options = DeployOptions::default();
        self.node.deploy(&self.service, Some(version.into()), component, options).await
    }

    async fn rollback(&self, to: Option<&str>, options: DeployOptions) -> Result<Deployed, Error> {
        timeout(TIMEOUT, self.node.rollback(&self.service, to, options)).await.unwrap()
    }

    async fn send_to(&self, session: &str) -> Sent {
        let key = SessionKey::parse("s", session).unwrap();
        self.node.send(&key, message(b"sone")).await.unwrap()
    }

    async fn send(&self) -> u64 {
        self.send_to("x").await.seq
    }

    /// Waits until a guest runs a call.
    async fn until_called(&self) {
        let guests = self.node.context.plugins.pool().get(&self.service, 1).unwrap();
        while guests.idle() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The generations of the slots.
    fn generations(&self) -> BTreeSet<Option<u64>> {
        let running = self.node.router.all_running();
        assert_eq!(running.len(), usize::from(SLOTS));
        let at = |handle: &SlotHandle| handle.stats.active.lock().get(&self.service).map(|a| a.0);
        running.iter().map(|(_, handle)| at(handle)).collect()
    }
}

/// One service's messages would keep the others' from their handlers; and a node that stops would leave those that wait
/// without an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_quiet_service_pass_those_of_one_beyond_its_share() {
    let fixture = Fixture::with(true).await;
    let (node, flood) = (&fixture.node, ServiceName::parse("flood").unwrap());
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    let (options, guest) = (DeployOptions::default(), testkit::guest().into());
    node.deploy(&flood, Some("1.0.0".into()), guest, options).await.unwrap();
    // Hardly any time for its handlers, so that it waits on any machine.
    let limits = toml::from_str::<slotd_quota::policy::Limits>("guest_time = \"1ms/h\"").unwrap();
    node.context.quota.set([("flood", &limits)]);
    let waiting =
        || node.shares.as_ref().unwrap().waiting().iter().map(|(_, count)| count).sum::<usize>();
    let key = SessionKey::parse("flood", "x").unwrap();
    let mut pending = Vec::new();
    while waiting() < 50 {
        pending.push(node.enqueue(&key, message(b"sone")).await.unwrap());
        tokio::task::yield_now().await;
    }
    // In its slot, too.
    for number in 0..100 {
        fixture.send_to(&format!("{number}")).await;
    }
    assert!(waiting() > 0, "all were let out: the others have passed nothing");
    timeout(TIMEOUT, node.stop(TIMEOUT)).await.unwrap();
    let (mut numbers, mut refused) = (Vec::new(), 0);
    for answer in pending {
        match answer.await {
            Ok(sent) => numbers.push(sent.seq),
            Err(error) => {
                assert_eq!(error.code, Code::Unavailable, "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && !numbers.is_empty(), "{refused} refused, {} handled", numbers.len());
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "in order");
}

/// A handler would not know whom it answers; and who sent a message would be lost on its way into the history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_and_a_history_have_who_a_client_is() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::asking_guest().into()).await.unwrap();
    let client = |subject: &str| {
        let claims = vec![("role".into(), "staff".into())];
        Arc::new(Client { kind: "accounts".into(), subject: Some(subject.into()), claims })
    };
    let of = |who: &str| Incoming { client: Some(client(who)), ..message(b"Is") };
    assert_eq!(fixture.node.send(&key(), of("ann")).await.unwrap().body, "ann");
    let pending = fixture.node.enqueue(&key(), of("bob")).await.unwrap();
    assert_eq!(pending.await.unwrap().body, "bob");
    let (mut messages, mut ready) = (VecDeque::from([of("eve")]), Vec::new());
    while ready.is_empty() {
        // It takes what can be taken at once.
        fixture.node.enqueue_ready(&key(), &mut messages, |pending| ready.push(pending));
        tokio::task::yield_now().await;
    }
    assert_eq!(ready.remove(0).await.unwrap().body, "eve");
    assert_eq!(fixture.node.send(&key(), message(b"Is")).await.unwrap().body, "");
    let (content_type, body) = ("text/plain".to_owned(), Bytes::from_static(b"Ic"));
    let (consistency, client_) = (Consistency::Current, Some(client("ann")));
    let query = Query { key: key(), content_type, body, consistency, client: client_ };
    assert_eq!(fixture.node.call(query).await.unwrap().body, "staff");
    let (range, reader) = (Range::After { seq: 0, limit: 10 }, ReadBy::Client);
    let read = ReadHistory { key: key(), range, reader, consistency };
    let entries = fixture.node.call(read).await.unwrap().entries;
    let clients: Vec<_> = entries.iter().map(|(entry, _)| entry.client().cloned()).collect();
    let kept = ["ann", "bob", "eve"].map(|who| Some(client(who)));
    assert_eq!(clients[..3], kept);
    assert_eq!(clients[3], None);
}

/// A version whose instances can't be created would answer every message with an error. It must not
/// become current, and the previous one continues.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cant_be_instantiated_does_not_become_current() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    assert_eq!(fixture.send().await, 1);
    // As if its trial had succeeded, on a node with more memory for instances.
    let _kept = fixture.plugins.load(Digest::of(&large())).await.unwrap();
    let refused = fixture.deploy("2.0.0", large()).await.unwrap_err();
    assert_eq!(refused.code, Code::PluginUnavailable);
    assert!(refused.detail.contains("memory"), "{refused}");
    assert_eq!(fixture.node.service(&fixture.service).unwrap().generation, 1);
    assert_eq!(fixture.send().await, 2);
    assert_eq!(fixture.generations(), [Some(1)].into());
    assert_eq!(fixture.node.stop(TIMEOUT).await, 0);
}

/// Without it there would be no way back from a swap that can't finish: it retries forever, and a
/// rollback would wait for it and be refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_ends_a_swap_that_does_not_proceed() {
    let fixture = Fixture::new().await;
    let first = fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    assert_eq!(fixture.send().await, 1);
    // A slot switches between two messages, and this one takes long.
    let spinning = tokio::spawn({
        let node = fixture.node.clone();
        async move { node.send(&key(), message(b"l")).await }
    });
    fixture.until_called().await;
    let (node, service) = (fixture.node.clone(), fixture.service.clone());
    let next = testkit::guest_with("bad-luck", "badluck2").into();
    let deploying = tokio::spawn(async move {
        // Past the gate, which would wait for the slot.
        node.deploy(&service, Some("2.0.0".into()), next, FORCE).await
    });
    let stuck = async {
        loop {
            let swap = fixture.node.service(&fixture.service).unwrap().swap.unwrap();
            if swap.generation == 2 && swap.moved == u32::from(SLOTS) - 1 {
                return swap;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(!timeout(TIMEOUT, stuck).await.unwrap().done);

    let back = fixture.rollback(None, DeployOptions::default()).await.unwrap();
    let swap = back.swap.unwrap();
    assert!(back.changed && swap.done && swap.moved == u32::from(SLOTS), "{swap:?}");
    assert_eq!((swap.generation, back.current.label), (3, first.current.label));
    assert_eq!(fixture.generations(), [Some(3)].into());
    // The caller of the deploy gets the result.
    let deployed = timeout(TIMEOUT, deploying).await.unwrap().unwrap().unwrap();
    let swap = deployed.swap.unwrap();
    assert_eq!(
        (deployed.current.version.as_str(), swap.generation, swap.done),
        ("2.0.0", 2, false)
    );
    assert_eq!(swap.error.as_deref(), Some("superseded by generation 3"));
    // By its own deadline, or because the slot could not wait for it.
    let ended = spinning.await.unwrap().unwrap_err().code;
    assert!([Code::PluginDeadline, Code::Unavailable].contains(&ended), "{ended:?}");
    assert_eq!(fixture.send().await, 2);
    assert_eq!(fixture.node.stop(TIMEOUT).await, 0);
}

/// In a cluster each registry change has its own follower, and loading a plugin takes a while:
/// slots would be shown as still switching to an older deployment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_that_is_late_ends_at_once() {
    let fixture = Fixture::new().await;
    fixture.deploy("1", testkit::guest().into()).await.unwrap();
    let start = |generation| {
        let mut service =
            (*fixture.node.context.catalogue.require(&fixture.service).unwrap()).clone();
        service.generation = generation;
        fixture.node.start_swap(Activation { target: service.target() }, None)
    };
    let newer = start(3);
    let late = start(2);
    newer.wait(TIMEOUT).await;
    assert!(newer.is_done() && !late.is_done() && late.has_ended());
    assert_eq!(late.info().error.as_deref(), Some("superseded by generation 3"));
    assert_eq!(fixture.node.service(&fixture.service).unwrap().swap.unwrap().generation, 3);
    assert_eq!(fixture.generations(), [Some(3)].into());
    assert_eq!(fixture.node.stop(TIMEOUT).await, 0);
}

/// A component without its own migrate, and an identical one with another digest.
fn without_migrate(n: u8) -> Bytes {
    let mut component = testkit::guest_without_migrate();
    // A custom section without effect, for another digest.
    component.extend([0, 3, 1, b'n', n]);
    component.into()
}

const AS_CONFIGURED: GateOptions = GateOptions {
    mode: None,
    accept: Vec::new(),
    sessions: None,
    messages: None,
    seed: None,
    time_ms: None,
    threads: None,
    dry_run: false,
    confirm: false,
};
const FORCE: DeployOptions = DeployOptions {
    force: true,
    same_state: false,
    by: Author { said: None, identity: None },
    signature: None,
    canary: None,
    gate: AS_CONFIGURED,
};
const SAME_STATE: DeployOptions = DeployOptions {
    force: false,
    same_state: true,
    by: Author { said: None, identity: None },
    signature: None,
    canary: None,
    gate: AS_CONFIGURED,
};

/// Without it two state formats are silently mixed: an older version gets a newer one's state of a
/// session, accepts it because it has no migrate, and continues.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_version_without_a_migrate_takes_no_session_back() {
    let fixture = Fixture::new().await;
    let first = fixture.deploy("0.1.0", without_migrate(1)).await.unwrap().current;
    fixture.send_to("touched").await;
    fixture.send_to("untouched").await;
    // Going forward, nothing is asked and nothing counted.
    let second = fixture.deploy("0.2.0", without_migrate(2)).await.unwrap();
    assert_eq!(second.sessions, []);
    assert_eq!(*fixture.send_to("touched").await.plugin, *second.current.label);

    let refused = fixture.rollback(None, DeployOptions::default()).await.unwrap_err();
    assert_eq!(refused.code, Code::SessionsWouldStay);
    for says in ["1 session of s", "0.1.0 does not implement migrate", "--same-state", "--force"] {
        assert!(refused.detail.contains(says), "{says:?} is not in {}", refused.detail);
    }
    let service = fixture.node.service(&fixture.service).unwrap();
    assert_eq!((service.generation, service.current.label), (2, second.current.label.clone()));
    // The same by deploying the older component.
    let refused = fixture.deploy("0.1.0", without_migrate(1)).await.unwrap_err();
    assert_eq!(refused.code, Code::SessionsWouldStay);

    let back = fixture.rollback(None, FORCE).await.unwrap();
    assert_eq!(back.current.label, first.label);
    let [stays] = &back.sessions[..] else { panic!("{:?}", back.sessions) };
    assert_eq!((stays.from.as_str(), stays.sessions), (second.current.label.as_str(), 1));
    assert!(stays.stays.as_ref().is_some_and(|why| why.contains("0.2.0 is later")), "{stays:?}");
    // It keeps working on its version; the others, and new ones, use the current one.
    let stayed = fixture.send_to("touched").await;
    assert_eq!((stayed.seq, &*stayed.plugin), (3, second.current.label.as_str()));
    assert_eq!(*fixture.send_to("untouched").await.plugin, *first.label);
    assert_eq!(*fixture.send_to("new").await.plugin, *first.label);
    let pinned = fixture.node.pinned(&fixture.service, None, 10).await.unwrap();
    let pinned: Vec<_> = pinned.iter().map(|info| info.session.as_str()).collect();
    assert_eq!(pinned, ["touched"]);

    // An operator who knows that the format is the same declares it, which also covers pinned
    // sessions.
    let back = fixture.rollback(Some("0.1.0"), SAME_STATE).await.unwrap();
    assert!(back.changed && back.current.same_state, "{back:?}");
    assert_eq!(back.current.version, "0.1.0");
    let taken = fixture.send_to("touched").await;
    assert_eq!((taken.seq, &*taken.plugin), (4, back.current.label.as_str()));
    let pinned = fixture.node.pinned(&fixture.service, None, 10).await.unwrap();
    assert!(pinned.is_empty(), "{pinned:?}");
    assert_eq!(fixture.node.stop(TIMEOUT).await, 0);
}

/// The fix recommended for a version without a migrate is one that goes back: it must need no
/// force.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_version_with_a_migrate_is_asked_of_each_session() {
    let fixture = Fixture::new().await;
    let first = fixture.deploy("0.1.0", testkit::guest().into()).await.unwrap().current;
    let second = fixture.deploy("0.2.0", without_migrate(2)).await.unwrap().current;
    assert_eq!(*fixture.send_to("x").await.plugin, *second.label);
    let back = fixture.rollback(None, DeployOptions::default()).await.unwrap();
    let asked = SessionsOutlook { from: second.label, sessions: 1, stays: None };
    assert_eq!(back.sessions, [asked]);
    let sent = fixture.send_to("x").await;
    assert_eq!((sent.seq, &*sent.plugin), (2, first.label.as_str()));
    assert_eq!(fixture.node.stop(TIMEOUT).await, 0);
}

/// Without it, a service deployed under the name of a removed one would find its sessions, or
/// return its stored replies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_service_leaves_nothing_to_one_of_its_name() {
    let fixture = Fixture::new().await;
    let other = ServiceName::parse("other").unwrap();
    let kept = SessionKey::parse("other", "x").unwrap();
    let guest = || Bytes::from(testkit::guest());
    fixture.deploy("1.0.0", without_migrate(1)).await.unwrap();
    fixture.deploy("1.1.0", without_migrate(2)).await.unwrap();
    fixture.node.deploy(&other, None, guest(), DeployOptions::default()).await.unwrap();
    let message = |id: &str| Incoming {
        id: Some(id.into()),
        sender: None,
        content_type: "text/plain".into(),
        body: Bytes::from_static(b"sone"),
        trace: None,
        client: None,
    };
    let key = |n: usize| SessionKey::parse("s", &format!("session-{n}")).unwrap();
    for n in 0..100 {
        assert_eq!(fixture.node.send(&key(n), message("once")).await.unwrap().seq, 1);
    }
    assert_eq!(fixture.node.send(&kept, message("once")).await.unwrap().seq, 1);

    let removed = fixture.node.remove_service(&fixture.service, Author::default()).await.unwrap();
    assert!(removed.done && removed.deleted == 100, "{removed:?}");
    let not_found = |code: Code| assert_eq!(code, Code::ServiceNotFound);
    not_found(fixture.node.send(&key(0), message("again")).await.unwrap_err().code);
    not_found(describe(&fixture, key(0)).await.unwrap_err().code);
    not_found(fixture.node.sessions(&fixture.service, "", None, 10).await.unwrap_err().code);
    not_found(fixture.rollback(None, FORCE).await.unwrap_err().code);
    not_found(fixture.node.deployments(&fixture.service, true).await.unwrap_err().code);
    let never = ServiceName::parse("never").unwrap();
    not_found(fixture.node.remove_service(&never, Author::default()).await.unwrap_err().code);
    let services = fixture.node.services();
    assert_eq!(services.iter().map(|s| s.service.clone()).collect::<Vec<_>>(), [other]);
    // It reports the same again, and deletes nothing.
    let again = fixture.node.remove_service(&fixture.service, Author::default()).await.unwrap();
    assert!(again.done, "{again:?}");

    let new = fixture.deploy("0.1.0", without_migrate(1)).await.unwrap();
    assert_eq!(new.current.deployment, 3, "no number stands for two deployments");
    assert_eq!(fixture.node.service(&fixture.service).unwrap().generation, 4);
    let listed = fixture.node.sessions(&fixture.service, "", None, 10).await.unwrap();
    assert!(listed.is_empty(), "{listed:?}");
    let sent = fixture.node.send(&key(0), message("once")).await.unwrap();
    assert_eq!((sent.seq, sent.replayed, &*sent.plugin), (1, false, new.current.label.as_str()));
    assert_eq!(fixture.node.send(&kept, message("twice")).await.unwrap().seq, 2);
    assert_eq!(fixture.node.stop(TIMEOUT).await, 0);
}

/// A cluster runs this for every service that was ever removed, every few seconds: each would cost
/// the node more the longer it runs, and stay in its reports.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_was_removed_costs_nothing_later() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    fixture.send_to("x").await;
    let shown = || {
        let snapshot = fixture.node.snapshot();
        let held = snapshot.services.iter().any(|(service, _)| *service == fixture.service);
        (held, snapshot.deployed.contains(&fixture.service))
    };
    fixture.plugins.pool().sweep(Duration::ZERO);
    assert_eq!(shown(), (true, true));
    assert!(fixture.node.remove_service(&fixture.service, Author::default()).await.unwrap().done);
    let removed = fixture.node.context.catalogue.get(&fixture.service).unwrap();
    let purge = fixture.node.purges.lock().get(&fixture.service).unwrap().clone();
    let forgotten = async {
        while purge.runs() || shown() != (false, false) {
            fixture.plugins.pool().sweep(Duration::ZERO);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TIMEOUT, forgotten).await.expect("it is still shown");
    for _ in 0..100 {
        fixture.node.follow_removal(&removed);
        assert!(!purge.runs(), "nothing has changed");
    }
    // A slot that comes back may have some.
    purge.forget_slot(3);
    fixture.node.follow_removal(&removed);
    let seen_again = async {
        while purge.runs() || !purge.has_seen(3) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TIMEOUT, seen_again).await.expect("the slot was not looked at");
    // Nor does the next start look: with a hundred services it took half a minute.
    let kept = fixture.node.context.catalogue.get(&fixture.service).unwrap();
    assert_eq!((kept.purged, kept.generation), (kept.since, removed.generation));
    fixture.node.purges.lock().clear();
    fixture.node.resume_removal(&kept, &fixture.node.purgeable());
    let purge = fixture.node.purges.lock().get(&fixture.service).unwrap().clone();
    assert!(purge.share().done && !purge.runs());
    assert_eq!(fixture.node.stop(TIMEOUT).await, 0);
}

/// A slot that missed a removal, because its node was isolated, must not take its sessions for the
/// new service's: the new one waits for that slot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_missed_a_removal_is_cleared_first() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", without_migrate(1)).await.unwrap();
    fixture.send_to("x").await;
    // The catalogue advances without the slots.
    let catalogue = &fixture.node.context.catalogue;
    let known = catalogue.require(&fixture.service).unwrap();
    let removed = known.removed(&Change::default());
    let digest = known.deployments[0].digest;
    let next = Service::deployed(
        Some(&removed),
        &fixture.service,
        Some("2.0.0"),
        digest,
        &Change::default(),
    );
    let next = catalogue.put(next.unwrap().unwrap()).unwrap();
    assert_eq!((next.since, next.generation, next.target().id()), (2, 3, 2));
    let key = SessionKey::parse("s", "x").unwrap();
    let refused = describe(&fixture, key).await.unwrap_err();
    assert_eq!(refused.code, Code::Unavailable, "{refused}");
    let activation = fixture.node.activation(&next).await.unwrap();
    let swap = fixture.node.start_swap(activation, None);
    let stuck = async {
        while swap.info().error.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TIMEOUT, stuck).await.unwrap();
    let error = swap.info().error.unwrap();
    assert!(error.contains("still being deleted"), "{error}");
    fixture.node.follow_removal(&next);
    timeout(TIMEOUT, swap.wait(TIMEOUT)).await.unwrap();
    assert!(swap.is_done(), "{:?}", swap.info());
    let sent = fixture.send_to("x").await;
    assert_eq!((sent.seq, sent.plugin.starts_with("2.0.0")), (1, true));
    assert_eq!(fixture.node.stop(TIMEOUT).await, 0);
}

/// Without it a node would serve a plugin damaged by a failing disk, or report the damage only at
/// the service's first message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_current_component_that_is_damaged_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let plugins = testkit::host(dir.path());
    let (old, new) = (testkit::guest(), testkit::guest_with("bad-luck", "badluck2"));
    let name = ServiceName::parse("s").unwrap();
    let deploy = |known: Option<&Service>, component: &[u8]| {
        Service::deployed(
            known,
            &name,
            None,
            Digest::of(component),
            &crate::service::Change::default(),
        )
        .unwrap()
        .unwrap()
    };
    let first = deploy(None, &old);
    let catalogue = Catalogue::of_cluster();
    assert!(catalogue.learn(deploy(Some(&first), &new)));
    for component in [&old, &new] {
        plugins.add(component.clone().into()).await.unwrap();
    }
    let file = |component: &[u8]| {
        dir.path().join("components").join(format!("{}.wasm", Digest::of(component)))
    };
    // A component that does not run is not read.
    std::fs::write(file(&old), b"damaged").unwrap();
    services::verify_components(&catalogue, &plugins).unwrap();
    std::fs::write(file(&new), b"damaged").unwrap();
    let damaged = services::verify_components(&catalogue, &plugins).unwrap_err().to_string();
    let path = file(&new).display().to_string();
    assert!(damaged.contains(&format!("{path} is damaged")), "{damaged}");
    std::fs::remove_file(file(&new)).unwrap();
    let missing = services::verify_components(&catalogue, &plugins).unwrap_err().to_string();
    assert!(missing.contains(&format!("{path} is missing")), "{missing}");
}

fn part(after: u64, replace: bool, times: &[u64]) -> Action {
    let history = times.iter().map(|time_ms| Imported {
        id: None,
        is_operators: false,
        sender: None,
        time_ms: *time_ms,
        content_type: "text/plain".into(),
        body: Bytes::from_static(b"then"),
        reply_content_type: String::new(),
        reply: Bytes::new(),
        deployment: 1,
        events: Vec::new(),
        origin: None,
    });
    let history = history.collect();
    let entered = None;
    Action::Import(Import { replace, after, created_ms: 1, deployment: 1, history, entered })
}

fn last_part(after: u64) -> Action {
    let Action::Import(part) = part(after, false, &[]) else { unreachable!() };
    let entered = Some(Entered { changes: Vec::new(), note: "{}".into() });
    Action::Import(Import { entered, ..part })
}

/// A part's answer may be lost and the part repeated: it would be imported twice, or leave half of
/// a session. Nor may a client's message be mistaken for the part with its number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_an_import_is_brought_in_once() {
    let fixture = Fixture::new().await;
    fixture.deploy("1", testkit::guest().into()).await.unwrap();
    let key = SessionKey::parse("s", "x").unwrap();
    let import = async |action| {
        let operation = Operation::new(None, "ann".into(), None, action);
        fixture.node.operate(&key, operation).await.map(|sent| sent.seq).map_err(|e| e.code)
    };
    for replace in [false, true] {
        for _ in 0..2 {
            assert_eq!(import(part(0, replace, &[5, 6])).await, Ok(2));
        }
        for _ in 0..2 {
            assert_eq!(import(part(2, replace, &[7])).await, Ok(3));
        }
        assert_eq!(import(part(0, false, &[5])).await, Err(Code::SessionExists));
        assert_eq!(import(last_part(3)).await, Ok(4));
        assert_eq!(fixture.send().await, 5);
        assert_eq!(import(part(4, replace, &[8])).await, Err(Code::SessionChanged));
        assert_eq!(fixture.send().await, 6);
    }
    assert_eq!(fixture.node.stop(TIMEOUT).await, 0);
}
