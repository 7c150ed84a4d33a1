//! Several nodes in one process: each with a store of its own, over one real log.

use super::*;
use crate::{
    captures::Redactions,
    cluster::reports::MoveState,
    database::StorageOptions,
    log::{Append, Claim, LogError, Logged, Position, SlotLog},
    message::{Consistency, Incoming, Range, ReadBy},
    names::SessionKey,
    node::{Foundation, Node, NodeOptions, Shared},
    operation::ReadHistory,
    peer::member::Member,
    plugin::testkit,
    quota::Quota,
    rpc::{Handler, PeerError, Peers},
    service::{Catalogue, catalogue::Service},
    state::snapshot::{Objects, SnapshotOptions, Snapshots, Target},
    storage::DataDir,
};
use bytes::Bytes;
use std::time::Duration;
use tokio::time::timeout;

const SLOTS: u16 = 24;

mod moves;
mod trouble;

fn history(key: &SessionKey, range: Range, consistency: Consistency) -> ReadHistory {
    ReadHistory { key: key.clone(), range, reader: ReadBy::Client, consistency }
}

/// One node's way to the log, which can be cut.
struct Link {
    log: Arc<dyn SlotLog>,
    stands: watch::Receiver<bool>,
    held: watch::Receiver<Held>,
}

/// What of it waits, or fails, though the engine answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Held {
    #[default]
    Nothing,
    Claims,
    Reads,
    /// Commits are refused.
    Commits,
}

impl Link {
    fn through<T: Send + 'static>(
        &self,
        held: Held,
        call: impl FnOnce(&dyn SlotLog) -> BoxFuture<'static, T> + Send + 'static,
    ) -> BoxFuture<'static, T> {
        let (log, mut stands, mut now) = (self.log.clone(), self.stands.clone(), self.held.clone());
        Box::pin(async move {
            stands.wait_for(|stands| *stands).await.unwrap();
            now.wait_for(|now| held == Held::Nothing || *now != held).await.unwrap();
            call(&*log).await
        })
    }
}

impl SlotLog for Link {
    fn claim(&self, slot: SlotId, claimant: &str) -> BoxFuture<'static, Result<Claim, LogError>> {
        let claimant = claimant.to_owned();
        self.through(Held::Claims, move |log| log.claim(slot, &claimant))
    }
    fn commit(&self, append: Append) -> BoxFuture<'static, Result<Position, LogError>> {
        if *self.held.borrow() == Held::Commits {
            let refused = LogError::Unavailable("refused, says the test".into());
            return Box::pin(std::future::ready(Err(refused)));
        }
        self.through(Held::Nothing, move |log| log.commit(append))
    }
    fn read(
        &self,
        slot: SlotId,
        after: Position,
        bytes_max: usize,
    ) -> BoxFuture<'static, Result<Vec<Logged>, LogError>> {
        self.through(Held::Reads, move |log| log.read(slot, after, bytes_max))
    }
    fn trim(&self, slot: SlotId, up_to: Position) -> BoxFuture<'static, Result<(), LogError>> {
        self.through(Held::Nothing, move |log| log.trim(slot, up_to))
    }
}

/// Every node's door, and which pairs can't reach each other.
#[derive(Default)]
struct Wires {
    handlers: Mutex<HashMap<Arc<str>, Arc<dyn Handler>>>,
    cut: Mutex<HashSet<(Arc<str>, Arc<str>)>>,
}

struct Wire {
    own: Arc<str>,
    wires: Arc<Wires>,
}

impl Peers for Wire {
    fn call(
        &self,
        peer: &str,
        request: Request,
    ) -> Result<BoxFuture<'static, Result<Response, PeerError>>, PeerError> {
        let peer: Arc<str> = peer.into();
        let unreachable =
            || PeerError::Unreachable { peer: peer.clone(), why: "cut, says the test".into() };
        if self.wires.cut.lock().contains(&(self.own.clone(), peer.clone())) {
            return Err(unreachable());
        }
        let handler = self.wires.handlers.lock().get(&peer).cloned().ok_or_else(unreachable)?;
        let answer = handler.handle(&self.own, request);
        Ok(Box::pin(async move { answer.await.map_err(PeerError::Refused) }))
    }
}

/// What all nodes share.
struct World {
    log: DataDir,
    wires: Arc<Wires>,
    placement: watch::Sender<Arc<Placement>>,
    home: tempfile::TempDir,
    nodes: Vec<TestNode>,
    /// What every node sees.
    views: Views,
    /// Messages that may wait for a slot that moves, at nodes that start from now on.
    held_max: usize,
}

type Views = Arc<Mutex<Vec<watch::Sender<Arc<Members>>>>>;

struct TestNode {
    name: Arc<str>,
    node: Arc<Node>,
    members: watch::Sender<Arc<Members>>,
    engine: watch::Sender<bool>,
    held: watch::Sender<Held>,
    leaving: watch::Receiver<bool>,
    _data: Arc<DataDir>,
}

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let options = StorageOptions { slot_count: SLOTS, ..StorageOptions::default() };
        let log = DataDir::open(&home.path().join("log"), options).unwrap();
        let placement = watch::Sender::new(Arc::default());
        let (wires, nodes, views) = Default::default();
        Self { log, wires, placement, home, nodes, views, held_max: 1_000 }
    }

    async fn with_nodes(names: &[&str]) -> Self {
        Self::new().and_nodes(names).await
    }

    async fn and_nodes(self, names: &[&str]) -> Self {
        let mut world = self;
        for name in names {
            world.start(name, names).await;
        }
        world.settled().await;
        world
    }

    /// Starts a node that sees `names`, by itself too.
    async fn start(&mut self, name: &str, names: &[&str]) {
        let home = self.home.path().join(name);
        let options =
            StorageOptions { slot_count: SLOTS, clustered: true, ..StorageOptions::default() };
        let data = Arc::new(DataDir::open(&home.join("data"), options).unwrap());
        let plugins = testkit::host(&home.join("plugins"));
        let plugin = plugins.add(testkit::guest().into()).await.unwrap();
        let service = ServiceName::parse("s").unwrap();
        let service = Service::deployed(
            None,
            &service,
            Some("1"),
            plugin.digest(),
            &crate::service::Change::default(),
        )
        .unwrap();
        let catalogue = Catalogue::of_cluster();
        assert!(catalogue.learn(service.unwrap()));
        let name: Arc<str> = name.into();
        let members = watch::Sender::new(members(1, &name, names, &[]));
        let handler = Arc::new(LateHandler::default());
        let (leave, leaving) = watch::channel(false);
        let (engine, stands) = watch::channel(true);
        let held = watch::Sender::new(Held::Nothing);
        let log = Link { log: self.log.log(), stands: stands.clone(), held: held.subscribe() };
        let log = Arc::new(log);
        self.views.lock().push(members.clone());
        let (views, own) = (self.views.clone(), name.clone());
        let target = Target::Directory(self.home.path().join("snapshots"));
        let objects = Objects::open(&target, "test", None).await.unwrap();
        let snapshots = Arc::new(Snapshots::new(objects, SnapshotOptions::default()));
        let change = self.placement.clone();
        let shared = Shared {
            log,
            snapshots,
            catalogue: Arc::new(catalogue),
            peers: Arc::new(Wire { own: name.clone(), wires: self.wires.clone() }),
            handler: handler.clone(),
            members: members.subscribe(),
            registry: None,
            placement: self.placement.subscribe(),
            leave: Box::new(move || {
                leave.send_replace(true);
            }),
            level: None,
            report_unfit: Box::new(move |unfit| report_unfit(&views, &own, unfit)),
            engine: Box::new(move || {
                let stands = *stands.borrow();
                Box::pin(std::future::ready(stands))
            }),
            change_placement: Box::new(move |by| {
                change.send_modify(|placement| by(&mut Arc::make_mut(placement).avoid));
                Box::pin(std::future::ready(Ok(())))
            }),
            audit: None,
            options: ClusterOptions {
                request_deadline: Duration::from_secs(20),
                held_max: self.held_max,
                instance: instance(&name),
            },
        };
        let options = NodeOptions {
            level_wait: limits::LEVEL_WAIT_DEFAULT,
            sends: Arc::default(),
            in_order: Arc::default(),
            name: name.to_string(),
            slot_count: SLOTS,
            mailbox_messages: 1_000,
            slot_idle: Duration::from_secs(300),
            instance_idle: Duration::from_secs(300),
            session_cache_bytes: 1 << 20,
            resettable: false,
            shares: false,
        };
        let plugins = Arc::new(plugins);
        let (data_dir, shared) = (data.clone(), Some(shared));
        let foundation = Foundation {
            data_dir,
            plugins,
            shared,
            requester: None,
            quota: Quota::default(),
            redactions: Redactions::default(),
        };
        let node = Node::start(options, foundation).unwrap();
        self.wires.handlers.lock().insert(name.clone(), handler);
        self.nodes.push(TestNode { name, node, members, engine, held, leaving, _data: data });
    }

    fn node(&self, name: &str) -> &TestNode {
        self.nodes.iter().find(|node| *node.name == *name).unwrap()
    }

    fn cluster(&self, name: &str) -> &Arc<Cluster> {
        self.node(name).node.cluster().unwrap()
    }

    /// Has a node see others.
    fn sees(&self, name: &str, names: &[&str], leaving: &[&str]) {
        let node = self.node(name);
        let number = node.members.borrow().number + 1;
        node.members.send_replace(members(number, &node.name, names, leaving));
    }

    fn cut(&self, a: &str, b: &str) {
        self.wires.cut.lock().extend([(a.into(), b.into()), (b.into(), a.into())]);
    }

    async fn settled(&self) {
        until("all settled", || {
            let nodes = self.nodes.iter();
            nodes.map(|node| node.node.cluster().unwrap()).all(|cluster| cluster.is_settled())
        })
        .await;
    }

    async fn send(&self, via: &str, session: &str, body: &str) -> Result<u64, Error> {
        self.send_under(None, via, session, body).await
    }

    async fn send_under(
        &self,
        id: Option<&str>,
        via: &str,
        session: &str,
        body: &str,
    ) -> Result<u64, Error> {
        let node = &self.node(via).node;
        let message = Incoming {
            id: id.map(Into::into),
            sender: None,
            content_type: "text/plain".into(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            trace: None,
            client: None,
        };
        node.send(&key(session), message).await.map(|sent| sent.seq)
    }

    async fn bodies(&self, via: &str, session: &str) -> Vec<Bytes> {
        let node = &self.node(via).node;
        let mut bodies = Vec::new();
        loop {
            let range = Range::After { seq: bodies.len() as u64, limit: 1_000 };
            let page =
                node.call(history(&key(session), range, Consistency::Current)).await.unwrap();
            if page.entries.is_empty() {
                return bodies;
            }
            for (entry, _) in &page.entries {
                bodies.push(entry.body.clone());
                assert_eq!(entry.seq, bodies.len() as u64);
            }
        }
    }
}

fn key(session: &str) -> SessionKey {
    SessionKey::parse("s", session).unwrap()
}

fn instance(name: &str) -> u128 {
    name.bytes().fold(7, |sum, byte| sum * 257 + u128::from(byte))
}

fn members(number: u64, own: &Arc<str>, names: &[&str], leaving: &[&str]) -> Arc<Members> {
    let address = "127.0.0.1:1".parse().unwrap();
    let member = |name: &&str| Member {
        name: (*name).into(),
        peer: address,
        api: address,
        boot: 1,
        instance: instance(name),
        leaving: leaving.contains(name),
        unfit: None,
        version: "0".into(),
    };
    let mut alive: Vec<Member> = names.iter().map(member).collect();
    alive.sort_by(|a, b| a.name.cmp(&b.name));
    Arc::new(Members { number, own: own.clone(), alive: alive.into() })
}

/// All hear of it at once.
fn report_unfit(views: &Views, name: &str, unfit: Option<Unfit>) {
    for view in &*views.lock() {
        view.send_modify(|members| {
            let members = Arc::make_mut(members);
            let mut alive = members.alive.to_vec();
            for member in alive.iter_mut().filter(|member| *member.name == *name) {
                member.unfit = unfit;
            }
            members.number += 1;
            members.alive = alive.into();
        });
    }
}

async fn until(what: &str, reached: impl Fn() -> bool) {
    let wait = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Without it a node would answer for slots that are not its own, or not find those that are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_takes_any_request() {
    let world = World::with_nodes(&["a", "b", "c"]).await;
    for number in 0..30 {
        let (session, via) = (format!("x{number}"), ["a", "b", "c"][number % 3]);
        assert_eq!(world.send(via, &session, "sone").await.unwrap(), 1);
        assert_eq!(world.send(["b", "c", "a"][number % 3], &session, "stwo").await.unwrap(), 2);
        assert_eq!(world.bodies(["c", "a", "b"][number % 3], &session).await, ["sone", "stwo"]);
    }
    let service = ServiceName::parse("s").unwrap();
    let listed = world.node("a").node.sessions(&service, "", None, 100).await.unwrap();
    assert_eq!(listed.len(), 30);
    let owned: usize = ["a", "b", "c"].iter().map(|name| world.cluster(name).here().count()).sum();
    assert_eq!(owned, usize::from(SLOTS));
}

/// A planned move that lost, doubled, reordered or refused a message would show here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_under_load_without_loss() {
    let mut world = World::with_nodes(&["a", "b"]).await;
    world.start("c", &["a", "b", "c"]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let node = world.node(["a", "b"][writer % 2]).node.clone();
            let stop = stop.clone();
            tokio::spawn(async move {
                let key = key(&format!("w{writer}"));
                let mut sent = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    // Two on their way at a time: the order of the calls is the order that counts.
                    let mut pending = Vec::new();
                    for _ in 0..2 {
                        let body = Bytes::from(format!("s{}", sent.len()));
                        let message = Incoming {
                            id: None,
                            sender: None,
                            content_type: "text/plain".into(),
                            body: body.clone(),
                            trace: None,
                            client: None,
                        };
                        pending.push(node.enqueue(&key, message).await.unwrap());
                        sent.push(body);
                    }
                    // Both are looked at, as a socket does, so that one can't overtake the other.
                    let answers = futures_util::future::join_all(pending).await;
                    for (n, answer) in answers.into_iter().enumerate() {
                        assert_eq!(answer.unwrap().seq as usize, sent.len() - 1 + n);
                    }
                }
                sent
            })
        })
        .collect();
    for names in [&["a", "b", "c"][..], &["a", "c"], &["a", "b", "c"], &["b", "c"]] {
        let leaving: Vec<&str> =
            ["a", "b", "c"].into_iter().filter(|name| !names.contains(name)).collect();
        for name in ["a", "b", "c"] {
            world.sees(name, &["a", "b", "c"], &leaving);
        }
        until("moved", || {
            let total: usize = names.iter().map(|name| world.cluster(name).here().count()).sum();
            total == usize::from(SLOTS)
        })
        .await;
        world.settled().await;
    }
    stop.store(true, Ordering::Relaxed);
    for (writer, task) in writers.into_iter().enumerate() {
        let sent = task.await.unwrap();
        assert!(sent.len() > 10, "writer {writer} sent {}", sent.len());
        assert_eq!(world.bodies("b", &format!("w{writer}")).await, sent);
    }
    let moves = world.cluster("c").moves.list();
    assert!(moves.iter().any(|one| one.state == MoveState::Done && one.pause_ms.is_some()));
}

/// Safety that depended on views would fail here: a node that is thought dead, and works on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_view_costs_time_only() {
    let world = World::with_nodes(&["a", "b"]).await;
    for number in 0..20 {
        world.send("a", &format!("x{number}"), "sone").await.unwrap();
    }
    world.cut("a", "b");
    world.sees("b", &["b"], &[]);
    until("b has all", || world.cluster("b").here().count() == usize::from(SLOTS)).await;
    // It believes that it has slots which b has claimed: neither reads nor writes may pass.
    let stale = (0..20).map(|n| format!("x{n}")).find(|x| {
        let slot = key(x).slot(SLOTS);
        world.cluster("a").here().any(|here| here == slot)
    });
    let stale = stale.unwrap();
    world.send("b", &stale, "stwo").await.unwrap();
    // Fenced by the read itself, and perhaps the owner again by then; but never behind.
    assert_eq!(world.bodies("a", &stale).await, ["sone", "stwo"]);
    // They see each other again: what is a's by the ring comes back.
    world.wires.cut.lock().clear();
    world.sees("b", &["a", "b"], &[]);
    world.sees("a", &["a", "b"], &[]);
    world.settled().await;
    assert_eq!(world.bodies("a", &stale).await, ["sone", "stwo"]);
}

/// An operator's drain must stick although the ring wants the slot back, until he says otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_slot_stays_away() {
    let world = World::with_nodes(&["a", "b"]).await;
    let slot = world.cluster("a").here().next().unwrap();
    let drained = world.node("b").node.drain_slot(slot).await.unwrap();
    assert_eq!((drained.to.as_str(), drained.slot), ("b", slot));
    world.sees("a", &["a", "b"], &[]);
    world.settled().await;
    assert!(world.cluster("b").here().any(|here| here == slot));
    let rebalanced = world.node("b").node.rebalance().await.unwrap();
    assert_eq!(rebalanced.moves, 1);
    until("back", || world.cluster("a").here().any(|here| here == slot)).await;
}

/// A node that is told to stop must leave nothing that only it can serve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_node_gives_everything_away() {
    let world = World::with_nodes(&["a", "b"]).await;
    world.send("a", "x", "sone").await.unwrap();
    let a = world.node("a");
    let stopping = tokio::spawn({
        let node = a.node.clone();
        async move {
            node.give_away(Duration::from_secs(20)).await;
            node.stop(Duration::from_secs(20)).await
        }
    });
    let mut leaving = a.leaving.clone();
    leaving.wait_for(|leaving| *leaving).await.unwrap();
    for name in ["a", "b"] {
        world.sees(name, &["a", "b"], &["a"]);
    }
    assert_eq!(stopping.await.unwrap(), 0);
    assert_eq!(world.cluster("b").here().count(), usize::from(SLOTS));
    assert_eq!(world.bodies("b", "x").await, ["sone"]);
}

/// A slot that no node has was in no node's count, and the sum was told for the whole.
#[test]
fn owners_are_whole_when_each_slot_has_one() {
    let owners = |slots: &[(SlotId, Term)]| Owners {
        owners: slots.iter().map(|slot| (*slot, Arc::from("a"))).collect(),
        slot_count: 3,
    };
    assert!(owners(&[(0, 1), (1, 4), (2, 1)]).is_whole());
    assert!(!owners(&[(0, 1), (2, 1)]).is_whole(), "nobody has slot 1");
    assert!(!owners(&[(0, 1), (1, 1), (1, 2), (2, 1)]).is_whole(), "two say that they have slot 1");
    assert!(!owners(&[(0, 1), (1, 1), (1, 2)]).is_whole());
}
