//! Swaps and imports on a node that stands alone.

use super::*;
use crate::{
    operator::{Action, Import, Imported, Operation},
    plugin::{Digest, testkit},
    storage::StorageOptions,
};
use tokio::time::timeout;

const SLOTS: u16 = 8;
const PATIENCE: Duration = Duration::from_secs(20);

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

impl Fixture {
    /// A node whose instances may have 1 MiB each, and which has [`large`] stored all the same.
    async fn new() -> Self {
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
        };
        let foundation = Foundation { data_dir, plugins: plugins.clone(), shared: None };
        let node = Node::start(options, foundation).unwrap();
        let service = ServiceName::parse("s").unwrap();
        Self { node, plugins, service, _dir: dir }
    }

    async fn deploy(&self, version: &str, component: Bytes) -> Result<Deployed, Error> {
        self.node.deploy(&self.service, Some(version.into()), component).await
    }

    async fn send(&self) -> u64 {
        let key = SessionKey::parse("s", "x").unwrap();
        let message = Incoming {
            id: None,
            sender: None,
            content_type: "text/plain".into(),
            body: Bytes::from_static(b"sone"),
        };
        self.node.send(&key, message).await.unwrap().seq
    }

    /// The generations that the slots run.
    fn generations(&self) -> BTreeSet<Option<u64>> {
        let running = self.node.router.all_running();
        assert_eq!(running.len(), usize::from(SLOTS));
        let at = |handle: &SlotHandle| handle.stats.active.lock().get(&self.service).map(|a| a.0);
        running.iter().map(|(_, handle)| at(handle)).collect()
    }
}

/// Without it there would be no way back from a plugin whose instances can't be made in a slot:
/// its swap tries for ever, and a rollback would wait for it and be refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_ends_a_swap_that_does_not_proceed() {
    let fixture = Fixture::new().await;
    let first = fixture.deploy("1", testkit::guest().into()).await.unwrap();
    // Only a slot in which it is used needs an instance to go over.
    assert_eq!(fixture.send().await, 1);
    // As if its trial had gone well.
    let _kept = fixture.plugins.load(Digest::of(&large())).await.unwrap();
    let (node, service) = (fixture.node.clone(), fixture.service.clone());
    let deploying =
        tokio::spawn(async move { node.deploy(&service, Some("2".into()), large()).await });
    let stuck = async {
        loop {
            let swap = fixture.node.service(&fixture.service).unwrap().swap.unwrap();
            if swap.generation == 2 && swap.moved == u32::from(SLOTS) - 1 && swap.error.is_some() {
                return swap;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let stuck = timeout(PATIENCE, stuck).await.unwrap();
    assert!(!stuck.done && stuck.error.as_ref().is_some_and(|e| e.contains("memory")), "{stuck:?}");
    assert_eq!(fixture.send().await, 2, "the old version goes on there");

    let back = timeout(PATIENCE, fixture.node.rollback(&fixture.service)).await.unwrap().unwrap();
    let swap = back.swap.unwrap();
    assert!(back.changed && swap.done && swap.moved == u32::from(SLOTS), "{swap:?}");
    assert_eq!((swap.generation, back.current.label), (3, first.current.label));
    assert_eq!(fixture.generations(), [Some(3)].into());
    // Whoever deployed it hears what became of it.
    let deployed = timeout(PATIENCE, deploying).await.unwrap().unwrap().unwrap();
    let swap = deployed.swap.unwrap();
    assert_eq!((deployed.current.version.as_str(), swap.generation, swap.done), ("2", 2, false));
    assert_eq!(swap.error.as_deref(), Some("superseded by generation 3"));
    assert_eq!(fixture.send().await, 3);
    assert_eq!(fixture.node.stop(PATIENCE).await, 0);
}

/// In a cluster each change of the registry has a follower of its own, and loading a plugin takes
/// as long as it takes: slots would be shown as on their way to what is current no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_that_is_late_ends_at_once() {
    let fixture = Fixture::new().await;
    fixture.deploy("1", testkit::guest().into()).await.unwrap();
    let plugin = fixture.plugins.load(Digest::of(&testkit::guest())).await.unwrap();
    let start = |generation| {
        let service = fixture.service.clone();
        let record = crate::log::record::Activate { service, generation, deployment: 1 };
        fixture.node.start_swap(Activation { record, plugin: plugin.clone() }, None)
    };
    let newer = start(3);
    let late = start(2);
    newer.wait(PATIENCE).await;
    assert!(newer.is_done() && !late.is_done() && late.has_ended());
    assert_eq!(late.info().error.as_deref(), Some("superseded by generation 3"));
    assert_eq!(fixture.node.service(&fixture.service).unwrap().swap.unwrap().generation, 3);
    assert_eq!(fixture.generations(), [Some(3)].into());
    assert_eq!(fixture.node.stop(PATIENCE).await, 0);
}

/// Without it a node would serve with what a failing disk made of its plugin, or only say so at the
/// service's first message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_current_component_that_is_damaged_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let plugins = testkit::host(dir.path());
    let (old, new) = (testkit::guest(), testkit::guest_with("bad-luck", "badluck2"));
    let name = ServiceName::parse("s").unwrap();
    let deploy = |known: Option<&Service>, component: &[u8]| {
        Service::deployed(known, &name, None, Digest::of(component), 0).unwrap().unwrap()
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
    // One that does not run is not read.
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
    });
    let history = history.collect();
    let entered = None;
    Action::Import(Import { replace, after, created_ms: 1, deployment: 1, history, entered })
}

/// A part's answer may be lost, and the part comes again: it would be brought in twice, or leave half
/// of a session. Nor may a client's message be taken for the part that is to have its number.
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
        assert_eq!(fixture.send().await, 4);
        assert_eq!(import(part(3, replace, &[8])).await, Err(Code::SessionChanged));
        assert_eq!(fixture.send().await, 5);
    }
    assert_eq!(fixture.node.stop(PATIENCE).await, 0);
}
