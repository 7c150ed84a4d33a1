//! The registry on a real server.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::{gate::GateRecord, plugin::Digest, testing::nats::Server};
use bytes::Bytes;

fn settings() -> Settings {
    Settings {
        slot_count: 512,
        ring_scheme: "scheme-1".into(),
        streams: 16,
        id: "one".into(),
        level: level::OLDEST,
        unknown: Unknown::default(),
    }
}

async fn node(server: &Server, cluster: &str) -> (Registry, Arc<Catalogue>) {
    let catalogue = Arc::new(Catalogue::of_cluster());
    let nats = server.connect_as(cluster).await;
    let registry = Registry::open(&nats, &settings(), Some(16), catalogue.clone()).await.unwrap();
    (registry, catalogue)
}

fn name() -> ServiceName {
    ServiceName::parse("chat").unwrap()
}

fn deployed(catalogue: &Catalogue, digest: u8) -> Service {
    let existing = catalogue.get(&name());
    let digest = Digest([digest; 32]);
    Service::deployed(
        existing.as_deref(),
        &name(),
        Some("1.0.0"),
        digest,
        &crate::service::Change::default(),
    )
    .unwrap()
    .unwrap()
}

/// Waits until a node's watch has seen a generation.
async fn until(registry: &Registry, generation: u64) {
    let mut changes = registry.changes();
    let wait = async {
        while let Some(services) = changes.next().await {
            if services.iter().any(|service| service.generation >= generation) {
                return;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.unwrap();
}

/// If both won, slots would run different plugins under one generation, permanently.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_deploys_one_wins_and_all_see_it() {
    let server = Server::start().await;
    let (a, of_a) = node(&server, "race").await;
    let (b, of_b) = node(&server, "race").await;
    for round in 0..10u8 {
        let (from_a, from_b) = (deployed(&of_a, 2 * round + 1), deployed(&of_b, 2 * round + 2));
        let generation = from_a.generation;
        assert_eq!(from_b.generation, generation);
        let (in_a, in_b) = tokio::join!(a.put(from_a.clone()), b.put(from_b.clone()));
        let winner = match (in_a, in_b) {
            (Ok(_), Err(error)) => {
                assert_eq!(error.code, Code::SwapInProgress, "{error}");
                from_a
            }
            (Err(error), Ok(_)) => {
                assert_eq!(error.code, Code::SwapInProgress, "{error}");
                from_b
            }
            (a, b) => panic!("{a:?} and {b:?}"),
        };
        // The loser has the winner's at once; repeating its own change is refused here.
        until(&a, generation).await;
        until(&b, generation).await;
        assert_eq!(*of_a.get(&name()).unwrap(), winner);
        assert_eq!(*of_b.get(&name()).unwrap(), winner);
        let mut stale = winner;
        stale.previous.clear();
        stale.purged = 1;
        assert_eq!(a.put(stale).await.unwrap_err().code, Code::SwapInProgress);
    }
    // One that joins later sees the current state when it is open.
    let (_c, of_c) = node(&server, "race").await;
    assert_eq!(of_c.get(&name()), of_a.get(&name()));
}

/// Of two operators, one would create a token that is nowhere, or bring a revoked one back; and a node that hears nothing
/// of it would go on as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_tokens_add_up_and_all_see_them() {
    let server = Server::start().await;
    let (a, _) = node(&server, "tokens").await;
    let (b, _) = node(&server, "tokens").await;
    let mut seen = b.tokens();
    assert!(seen.borrow_and_update().is_none(), "none were ever stored");
    let add = async |registry: &Registry, name: &str| {
        let change = |before: Option<&serde_json::Value>| {
            let mut all = before.and_then(|it| it.as_array().cloned()).unwrap_or_default();
            all.push(name.into());
            Ok(all.into())
        };
        registry.change_tokens(change).await.unwrap();
    };
    for round in 0..5 {
        let names = [format!("a{round}"), format!("b{round}")];
        tokio::join!(add(&a, &names[0]), add(&b, &names[1]));
        // Each has its own at once.
        assert!(a.tokens().borrow().as_ref().unwrap().to_string().contains(&names[0]));
        assert!(b.tokens().borrow().as_ref().unwrap().to_string().contains(&names[1]));
    }
    let whole = |tokens: &TokensValue| {
        tokens.as_ref().is_some_and(|all| all.as_array().is_some_and(|all| all.len() == 10))
    };
    let wait = seen.wait_for(whole);
    tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.unwrap().unwrap();
    let refused = a.change_tokens(|_| Err(Error::new(Code::TokenExists, "twice"))).await;
    assert_eq!(refused.unwrap_err().code, Code::TokenExists);
    let (c, _) = node(&server, "tokens").await;
    assert!(whole(&c.tokens().borrow()), "one that starts knows them");
}

/// A node with another slot count or ring would look for sessions in other places than its peers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_other_settings_is_refused() {
    let server = Server::start().await;
    let _first = node(&server, "settings").await;
    let _same = node(&server, "settings").await;
    let nats = server.connect_as("settings").await;
    let other =
        Settings { slot_count: 64, ring_scheme: "scheme-2".into(), streams: 4, ..settings() };
    let catalogue = || Arc::new(Catalogue::of_cluster());
    let refused = Registry::open(&nats, &other, Some(4), catalogue()).await;
    let Err(NatsError::Refused(why)) = refused else { panic!("not refused") };
    for part in [
        "slot_count is 512 in the cluster and 64",
        "scheme-1",
        "streams is 16 in the cluster and 4",
    ] {
        assert!(why.contains(part), "{why}");
    }
    // A node that does not configure the streams uses the cluster's number: the default may change.
    let without_streams = Settings { streams: 3, ..settings() };
    let joined = Registry::open(&nats, &without_streams, None, catalogue()).await.unwrap();
    assert_eq!(joined.settings().streams, 16);
}

/// What is known of nodes that are gone would hold the level back and grow without end; and a record that
/// was just written again must not go with the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_forgotten_leaves_nothing_and_may_come_back() {
    let server = Server::start().await;
    let (a, _) = node(&server, "forget").await;
    let (b, _) = node(&server, "forget").await;
    let reader = |name: &str, instance: u128| Reader {
        name: name.into(),
        newest: level::OLDEST,
        instance: crate::random::hex(instance),
        version: "1".into(),
    };
    let known = |registry: &Registry| -> Vec<String> {
        registry.readers().iter().map(|reader| reader.name.to_string()).collect()
    };
    let until_known = async |registry: &Registry, names: &[&str]| {
        let wait = async {
            while known(registry) != names {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.unwrap();
    };
    for name in ["gone@10.0.0.1", "stays"] {
        a.introduce(&reader(name, 1)).await.unwrap();
    }
    until_known(&b, &["gone@10.0.0.1", "stays"]).await;
    // By a node that has it from its watch only.
    let forgotten = b.forget("gone@10.0.0.1").await.unwrap();
    assert_eq!(forgotten, Some(reader("gone@10.0.0.1", 1)));
    until_known(&a, &["stays"]).await;
    until_known(&b, &["stays"]).await;
    assert_eq!(a.forget("gone@10.0.0.1").await.unwrap(), None, "once");
    let mut keys = a.inner.bucket.store.stream.info_with_subjects(">").await.unwrap();
    let mut subjects = Vec::new();
    while let Some(subject) = futures_util::StreamExt::next(&mut keys).await {
        subjects.push(subject.unwrap().0);
    }
    assert!(!subjects.iter().any(|subject| subject.contains("gone")), "{subjects:?}");
    // One that sees the cluster from now on does not know it, and it can come back.
    let (c, _) = node(&server, "forget").await;
    assert_eq!(known(&c), ["stays"]);
    a.introduce(&reader("gone@10.0.0.1", 2)).await.unwrap();
    until_known(&b, &["gone@10.0.0.1", "stays"]).await;
    assert!(b.knows(&reader("gone@10.0.0.1", 2)));
    // What was written since is kept, whoever believes that it is old.
    let (old, _) = a.inner.bucket.read("node.stays").await.unwrap().unwrap();
    a.introduce(&reader("stays", 3)).await.unwrap();
    assert!(!b.inner.bucket.remove("node.stays", old).await.unwrap());
    assert_eq!(b.forget_old(|_| false).await.unwrap(), []);
    a.retire(&reader("stays", 1)).await.unwrap();
    until_known(&c, &["gone@10.0.0.1", "stays"]).await;
    a.retire(&reader("gone@10.0.0.1", 2)).await.unwrap();
    until_known(&c, &["stays"]).await;
}

/// A deploy while NATS is unavailable must be settled when it is back, once; and no node may stay
/// behind because its watch broke.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_outlast_a_restart_of_the_engine() {
    let mut server = Server::start().await;
    let (a, of_a) = node(&server, "restart").await;
    let (b, of_b) = node(&server, "restart").await;
    a.put(deployed(&of_a, 1)).await.unwrap();
    until(&b, 1).await;
    for round in 0..2u64 {
        let before = a.inner.bucket.read("service.chat").await.unwrap().unwrap().0;
        server.kill();
        let next = deployed(&of_a, round as u8 + 2);
        let putting = tokio::spawn({
            let a = a.clone();
            async move { a.put(next).await }
        });
        server.start_again();
        assert_eq!(putting.await.unwrap().unwrap().generation, round + 2);
        let after = a.inner.bucket.read("service.chat").await.unwrap().unwrap().0;
        assert_eq!(after, before + 1, "written once");
        until(&b, round + 2).await;
        assert_eq!(of_b.get(&name()), of_a.get(&name()));
    }
}

/// A slot's log may refer to a deployment that this node has not seen yet: without it the slot
/// could not be taken over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_that_is_not_known_yet_is_looked_up() {
    let server = Server::start().await;
    let (a, of_a) = node(&server, "ensure").await;
    let (b, of_b) = node(&server, "ensure").await;
    b.inner.task.abort();
    a.put(deployed(&of_a, 1)).await.unwrap();
    assert_eq!(of_b.get(&name()), None);
    let found = b.ensure(&name(), 1).await.unwrap();
    assert_eq!(*found, *of_a.get(&name()).unwrap());
    assert_eq!(of_b.get(&name()), Some(found));
    // Values older than the known one change nothing.
    let (revision, old) = b.inner.bucket.read("service.chat").await.unwrap().unwrap();
    a.put(deployed(&of_a, 2)).await.unwrap();
    b.ensure(&name(), 2).await.unwrap();
    b.inner.shared.learn("service.chat", revision, &old);
    assert_eq!(of_b.get(&name()).unwrap().generation, 2);
}

/// Drains of different slots from different nodes must not undo one another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_the_placement_are_all_kept() {
    let server = Server::start().await;
    let (a, _) = node(&server, "placement").await;
    let (b, _) = node(&server, "placement").await;
    let mut tasks = Vec::new();
    for slot in 0..8u16 {
        let registry = if slot % 2 == 0 { a.clone() } else { b.clone() };
        tasks.push(tokio::spawn(async move {
            let avoid: Arc<str> = format!("node-{slot}").into();
            registry.change_placement(|p| drop(p.avoid.insert(slot, avoid.clone()))).await
        }));
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    for registry in [&a, &b] {
        let mut placement = registry.placement();
        let all = placement.wait_for(|placement| placement.avoid.len() == 8);
        let all = tokio::time::timeout(std::time::Duration::from_secs(20), all).await;
        let all = all.unwrap().unwrap();
        assert!(all.avoid.iter().all(|(slot, node)| **node == *format!("node-{slot}")));
    }
    let none = a.change_placement(|placement| placement.avoid.clear()).await.unwrap();
    assert_eq!(*none, Placement::default());
}

/// A follower of deploys must get each service, and each once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_tell_of_what_is_new() {
    let server = Server::start().await;
    let (a, of_a) = node(&server, "changes").await;
    let (b, _) = node(&server, "changes").await;
    a.put(deployed(&of_a, 1)).await.unwrap();
    let mut early = b.changes();
    until(&b, 1).await;
    let generations = |services: Vec<Arc<Service>>| -> Vec<u64> {
        services.iter().map(|service| service.generation).collect()
    };
    assert_eq!(generations(early.next().await.unwrap()), [1]);
    let mut late = b.changes();
    assert_eq!(generations(late.next().await.unwrap()), [1]);
    a.put(deployed(&of_a, 2)).await.unwrap();
    assert_eq!(generations(late.next().await.unwrap()), [2]);
    assert_eq!(generations(early.next().await.unwrap()), [2]);
}

/// A node must run exactly the component that was deployed, or none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_are_verified_and_made_good() {
    let server = Server::start().await;
    let (a, _) = node(&server, "components").await;
    let (b, _) = node(&server, "components").await;
    let bytes: Bytes = (0..700_000u32).map(|i| (i / 3) as u8).collect::<Vec<_>>().into();
    let digest = Digest::of(&bytes);
    assert_eq!(b.components().get(digest).await.unwrap(), None);
    assert!(a.components().put(digest, "another".into()).await.is_err());
    let (in_a, in_b) = tokio::join!(
        a.components().put(digest, bytes.clone()),
        b.components().put(digest, bytes.clone())
    );
    in_a.unwrap();
    in_b.unwrap();
    assert_eq!(b.components().get(digest).await.unwrap(), Some(bytes.clone()));
    // Something else under its name.
    let nats = server.connect_as("components").await;
    let store = nats.jetstream.get_object_store("slotd-components-plugins").await.unwrap();
    store.put(digest.to_string().as_str(), &mut &b"something else"[..]).await.unwrap();
    let error =
        tokio::time::timeout(std::time::Duration::from_secs(40), b.components().get(digest));
    assert!(error.await.unwrap().unwrap_err().contains("another digest"));
    a.components().put(digest, bytes.clone()).await.unwrap();
    assert_eq!(b.components().get(digest).await.unwrap(), Some(bytes.clone()));
    // Leftovers of a broken upload are removed, at the second check; the rest stays.
    let left = "$O.slotd-components-plugins.C.left";
    nats.jetstream.publish(left, "half".into()).await.unwrap().await.unwrap();
    let suspects = a.components().sweep(Default::default()).await;
    assert!(suspects.contains(left));
    assert_eq!(a.components().sweep(suspects).await.len(), 0);
    assert_eq!(a.components().orphans().await.unwrap(), [""; 0]);
    assert_eq!(b.components().get(digest).await.unwrap(), Some(bytes));
}

/// Two nodes that both went on with a gate would each switch the service in the end; and a node that does not hear of it
/// could not go on with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_nodes_that_take_a_gate_over_one_has_it() {
    let server = Server::start().await;
    let (a, _) = node(&server, "gates").await;
    let (b, _) = node(&server, "gates").await;
    let record = crate::gate::record::tests::record();
    let put = a.put_gate(&record, 0).await.unwrap();
    let GatePut::Won(kept) = put else { panic!("somebody else has it") };
    let mut seen = b.watch_gates();
    let known = seen.wait_for(|gates| gates.contains_key(&record.service));
    tokio::time::timeout(std::time::Duration::from_secs(20), known).await.unwrap().unwrap();
    assert_eq!(*b.gate(&record.service).unwrap().record, record);
    let by = |name: &str| GateRecord { driver: name.into(), beat: 2, ..record.clone() };
    let (of_a, of_b) = (by("a"), by("b"));
    let revision = kept.revision;
    let both = tokio::join!(a.put_gate(&of_a, revision), b.put_gate(&of_b, revision));
    let (won, lost) = match (both.0.unwrap(), both.1.unwrap()) {
        (GatePut::Won(won), GatePut::Lost(lost)) | (GatePut::Lost(lost), GatePut::Won(won)) => {
            (won, lost.unwrap())
        }
        _ => panic!("both have it, or none"),
    };
    assert_eq!((won.revision, &won.record), (lost.revision, &lost.record));
    // What is deployed is kept, a few of them.
    for id in ["1", "2", "2"] {
        a.keep_gate_report(&GateRecord { id: id.into(), ..record.clone() }).await.unwrap();
    }
    let reports = b.gate_reports(&record.service).await.unwrap();
    assert_eq!(reports.iter().map(|of| of.id.as_str()).collect::<Vec<_>>(), ["1", "2"]);
}
