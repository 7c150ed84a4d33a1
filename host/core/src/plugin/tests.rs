//! Guests that behave, and guests that do not.

use super::{testkit::*, *};
use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    task::Poll,
    time::Instant,
};

async fn fresh(dir: &Path) -> Instance {
    host(dir).add(guest().into()).await.unwrap().fresh().await.unwrap()
}

async fn fresh_with(dir: &Path, change: impl FnOnce(&mut PluginOptions)) -> Instance {
    let mut options = options(dir);
    change(&mut options);
    let host = PluginHost::new(options).unwrap();
    host.add(guest().into()).await.unwrap().fresh().await.unwrap()
}

/// A call fails as it must, its state comes back without a trace of events, and the instance is
/// spent if the failure is fatal.
async fn fails(instance: &mut Instance, input: Input) -> Failure {
    let outcome = outcome(instance, input).await;
    assert_eq!(outcome.events, []);
    let failure = outcome.result.unwrap_err();
    let again = ask(instance, b"eagain").await;
    if failure.is_fatal() {
        assert!(again.unwrap_err().to_string().contains("had ended in an earlier call"));
    } else {
        assert_eq!(again.unwrap(), b"again");
    }
    failure
}

macro_rules! failure {
    ($body:expr, $kind:literal, $says:literal) => {{
        let dir = tempfile::tempdir().unwrap();
        let mut instance = fresh(dir.path()).await;
        let failure = fails(&mut instance, message($body)).await;
        assert_eq!(failure.kind(), $kind, "{failure}");
        assert!(failure.to_string().contains($says), "{failure}");
    }};
}

/// The shape of a message must reach the guest, and its answer the caller.
#[tokio::test]
async fn a_message_goes_in_and_a_reply_comes_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = fresh(dir.path()).await;
    let outcome = outcome(&mut instance, message(b"ehello")).await;
    let reply = outcome.result.as_ref().unwrap();
    assert_eq!((reply.content_type.as_str(), &reply.body[..]), ("text/plain", &b"hello"[..]));
    assert_eq!(outcome.host_calls, 0);
    assert!(outcome.elapsed.is_some_and(|elapsed| elapsed > Duration::ZERO));
    // An empty body is answered with the session's id.
    assert_eq!(ask(&mut instance, b"").await.unwrap(), b"one");
    assert_eq!(instance.memory_bytes(), 65_536);
}

/// A handler reads its own writes, and what it wrote comes back with the outcome.
#[tokio::test]
async fn state_and_events_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = fresh(dir.path()).await;
    let written = outcome(&mut instance, message(b"uvalue")).await;
    assert_eq!((written.result.clone().unwrap().body, written.host_calls), ("value".into(), 2));
    let mut next = call(message(b"g"));
    next.state = written.state;
    let read = instance.call(next).await;
    assert_eq!(read.result.as_ref().unwrap().body, "value");
    let mut next = call(message(b"d"));
    next.state = read.state;
    assert!(state_of(instance.call(next).await).is_empty());

    let emitted = outcome(&mut instance, message(b"mnews")).await;
    let event = Event {
        kind: "note".into(),
        content_type: "text/plain".into(),
        body: Bytes::from_static(b"news"),
    };
    assert_eq!(emitted.events, [event]);
    // The next call begins without the events of this one.
    assert_eq!(outcome(&mut instance, message(b"ex")).await.events, []);
}

/// A guest that asks for everything gets no more than a page.
#[tokio::test]
async fn a_scan_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = fresh(dir.path()).await;
    let keys = (0..1_500).map(|n| (format!("a{n:04}"), Bytes::new()));
    let mut all = call(message(b"ca"));
    all.state = Box::new(MapState(keys.collect()));
    let reply = instance.call(all).await.result.unwrap();
    assert_eq!(reply.body[..], 1_000_u32.to_le_bytes());
    let mut none = call(message(b"cb"));
    none.state = Box::new(MapState([("a".to_owned(), Bytes::new())].into()));
    assert_eq!(instance.call(none).await.result.unwrap().body[..], 0_u32.to_le_bytes());
}

/// A refusal is the guest's right: its instance goes on, what it emitted does not leave.
#[tokio::test]
async fn a_rejection_is_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = fresh(dir.path()).await;
    let Failure::Rejected(rejection) = fails(&mut instance, message(b"xevent")).await else {
        panic!("not a rejection")
    };
    let expected =
        Rejection { code: "bad-luck".into(), message: "it was not to be".into(), retriable: true };
    assert_eq!(rejection, expected);
}

#[tokio::test]
async fn an_instance_keeps_its_memory_between_calls() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = fresh(dir.path()).await;
    for expected in 1..4_u32 {
        assert_eq!(ask(&mut instance, b"w").await.unwrap(), expected.to_le_bytes());
    }
}

/// The state must come back when the guest dies too: the slot goes on with it.
#[tokio::test]
async fn a_trap_gives_the_state_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = fresh(dir.path()).await;
    let outcome = outcome(&mut instance, message(b"tdirty")).await;
    let failure = outcome.result.as_ref().unwrap_err();
    assert_eq!(failure.kind(), "trap");
    assert!(failure.to_string().contains("unreachable executed"), "{failure}");
    assert_eq!(state_of(outcome).get("k").unwrap(), "dirty");
}

#[tokio::test]
async fn deep_recursion_is_contained() {
    failure!(b"r", "trap", "stack overflow: it recursed too deeply for its stack of 512 KiB");
    // So ends recursion in a guest whose own stack ends first, as Rust's and C's do.
    failure!(b"p", "trap", "out-of-bounds memory access (most likely deep recursion or");
}

/// Without it, "unreachable" is all that an author is told of a guest that ran out of memory.
#[tokio::test]
async fn memory_is_limited_and_the_limit_is_named() {
    failure!(b"a", "limit", "memory: an instance may have 67108864 bytes");
}

/// What the node lacks is not the plugin's fault, and must not be seen by the guest, which could
/// then answer one thing on a busy node and another on an idle one.
#[tokio::test]
async fn the_nodes_memory_is_limited_over_all_instances() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = fresh_with(dir.path(), |o| o.memory_total_bytes = 4 << 20).await;
    let failure = fails(&mut instance, message(b"a")).await;
    assert_eq!(failure.kind(), "no-memory");
    assert!(failure.to_string().contains("(guests.memory_total)"), "{failure}");

    let host = host_with_memory(dir.path(), 3 * GUEST_BYTES);
    let plugin = host.add(guest().into()).await.unwrap();
    let mut instances = Vec::new();
    for count in 1..4 {
        instances.push(plugin.fresh().await.unwrap());
        assert_eq!(instances[0].counted_bytes(), GUEST_BYTES);
        assert_eq!(host.budget().bytes_used(), count * GUEST_BYTES);
    }
    let refused = plugin.fresh().await.map(|_| ()).unwrap_err();
    assert!(matches!(refused, PluginError::NoMemory(_)), "{refused}");
    // One that waits has it as soon as another goes.
    let waiting = tokio::spawn({
        let plugin = plugin.clone();
        async move { plugin.instantiate(Account::default(), Duration::from_secs(20)).await }
    });
    host.budget().lacks().await;
    drop(instances.pop());
    instances.push(waiting.await.unwrap().unwrap());
    assert_eq!(host.budget().bytes_used(), 3 * GUEST_BYTES);
    drop(instances);
    assert_eq!(host.budget().bytes_used(), 0);
}

/// Code that is held instead of mapped from its file would cost a Python plugin 35 MB for good.
#[tokio::test]
async fn compiled_code_is_mapped_from_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let added = host(dir.path()).add(guest().into()).await.unwrap();
    let is_mapped = || {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let folder = dir.path().join("compiled");
        maps.lines().any(|line| line.contains(&*folder.to_string_lossy()))
    };
    assert!(is_mapped());
    assert!(added.code_bytes() > 4_096);
    drop(added);
    assert!(!is_mapped());
    let loaded = host(dir.path()).load(Digest::of(&guest())).await.unwrap();
    assert!(is_mapped());
    drop(loaded);
}

/// What is not counted comes to the kernel's limit of maps, where the process ends.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_instance_has_no_more_maps_than_it_counts_for() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = host(dir.path()).add(guest().into()).await.unwrap();
    let maps = || fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let (before, mut instances) = (maps(), Vec::new());
    for _ in 0..300 {
        let mut instance = plugin.fresh().await.unwrap();
        ask(&mut instance, b"e").await.unwrap();
        instances.push(instance);
    }
    let (grown, counted) = (maps() - before, instances[0].counted_maps());
    // Other tests of this process have some, too.
    assert!(grown <= 300 * counted + 600, "{grown} maps, counted {counted} for each of 300");
    println!("{:.2} maps an instance, counted for {counted}", grown as f64 / 300.0);
}

#[tokio::test]
async fn host_calls_are_limited() {
    failure!(b"h", "limit", "host calls: a call may make at most 100000");
}

#[tokio::test]
async fn what_a_guest_gives_is_limited() {
    failure!(b"b", "limit", "a reply may have 1048576 bytes; this one has 1048577");
    failure!(b"z", "limit", "a host call or a reply may carry at most 1114112 bytes");
    failure!(b"v", "limit", "a host call or a reply may carry at most 1114112 bytes");
    failure!(b"X", "limit", "a rejection's message may have 4096 bytes; this one has 5000");
    failure!(b"Mx", "limit", "events: a message may emit at most 256");
    failure!(b"K", "trap", "an event's kind is a word, not \"line of the guest\"");
    failure!(b"T", "trap", "the content type of a reply is printable ASCII, not \"t\\nxt/plain\"");
    let mut large = vec![b'x'; 5_000];
    large[0] = b'M';
    failure!(&large, "limit", "events: all events of a message may have at most 1048576 bytes");
}

/// The state's own limits and failures must reach the caller as what they are: a full disk is not
/// the plugin's fault.
#[tokio::test]
async fn the_states_faults_are_told() {
    failure!(b"slimit", "limit", "state: a session may have 1 key");
    failure!(b"sstore-fails", "store", "state store unavailable: no disk");
}

/// A query that could write would break "a query changes nothing".
#[tokio::test]
async fn a_query_reads_only() {
    let dir = tempfile::tempdir().unwrap();
    let host = host(dir.path());
    let plugin = host.add(guest().into()).await.unwrap();
    for (body, says) in [
        (b"sx".as_slice(), "a query may not write state"),
        (b"d", "a query may not write state"),
        (b"mx", "a query may not emit events"),
    ] {
        let mut instance = plugin.fresh().await.unwrap();
        let failure = fails(&mut instance, query(body)).await;
        assert_eq!(failure.kind(), "trap");
        assert!(failure.to_string().contains(says), "{failure}");
    }
    let mut instance = plugin.fresh().await.unwrap();
    let reply = outcome(&mut instance, query(b"eanswer")).await.result.unwrap();
    assert_eq!(reply.body, "answer");
}

/// `migrate` brings state over; it can refuse, and it can't speak to subscribers.
#[tokio::test]
async fn migrate_writes_or_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = fresh(dir.path()).await;
    let from = |from: &str| Input::Migrate { from: from.into() };
    let done = outcome(&mut instance, from("1.0")).await;
    assert_eq!(done.result.as_ref().unwrap(), &Reply::default());
    assert_eq!(state_of(done).get("from").unwrap(), "1.0");
    let Failure::Rejected(refused) = fails(&mut instance, from("!")).await else {
        panic!("not a rejection")
    };
    assert_eq!((refused.code.as_str(), refused.retriable), ("migrate-refused", false));
    assert_eq!(refused.message, "it was not to be");
    let failure = fails(&mut instance, from("m")).await;
    assert!(failure.to_string().contains("`migrate` may not emit events"), "{failure}");
}

/// The log is no way to fill a disk or to slow the node.
#[tokio::test]
async fn a_log_flood_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = fresh(dir.path()).await;
    let outcome = outcome(&mut instance, message(b"o")).await;
    assert_eq!((outcome.result.is_ok(), outcome.host_calls), (true, 1_000));
}

/// One guest in a loop must cost its own session only: on one thread, all others go on, and the
/// loop ends at its deadline.
#[tokio::test(flavor = "current_thread")]
async fn a_spinning_guest_lets_others_run_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let deadline = Duration::from_millis(300);
    let mut spinning = fresh_with(dir.path(), |options| options.deadline = deadline).await;
    let ended = Arc::new(AtomicBool::new(false));
    let turns = Arc::new(AtomicU32::new(0));
    let others = tokio::spawn({
        let (ended, turns) = (Arc::clone(&ended), Arc::clone(&turns));
        async move {
            while !ended.load(Ordering::Relaxed) {
                turns.fetch_add(1, Ordering::Relaxed);
                // Through the timer, as what waits for a socket would go through the driver.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let started = Instant::now();
    let outcome = outcome(&mut spinning, message(b"l")).await;
    let took = started.elapsed();
    ended.store(true, Ordering::Relaxed);
    others.await.unwrap();
    assert!(matches!(outcome.result, Err(Failure::Deadline(d)) if d == deadline));
    assert!(took >= deadline, "{took:?}");
    let turns = turns.load(Ordering::Relaxed);
    assert!(turns >= 3, "the others had {turns} turns");
}

/// A client that goes away drops the call's future: no state may be lost to it but that call's,
/// and the half-run instance must not answer again.
#[tokio::test]
async fn a_dropped_call_spends_its_instance() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = fresh(dir.path()).await;
    {
        let mut call = std::pin::pin!(instance.call(call(message(b"l"))));
        // Once polled, it runs until its first epoch.
        let polled = std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
    }
    let failure = ask(&mut instance, b"e").await.unwrap_err();
    assert!(failure.to_string().contains("had ended in an earlier call"), "{failure}");
}

// --- components -------------------------------------------------------------------------------

fn files(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for folder in ["components", "compiled"] {
        for entry in fs::read_dir(dir.join(folder)).unwrap() {
            names.push(entry.unwrap().file_name().into_string().unwrap());
        }
    }
    names.sort();
    names
}

/// A refused component must leave the node as it was.
#[tokio::test]
async fn a_refused_component_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let host = host(dir.path());
    let spins = guest_with(";;START", "(func $start (loop $l (br $l))) (start $start)");
    let traps = guest_with(";;START", "(func $start unreachable) (start $start)");
    let calls = guest_with(
        ";;START",
        "(func $start (call $delete (i32.const 16) (i32.const 1))) (start $start)",
    );
    let hungry = guest_with(";;START", "(memory $second 2000)");
    let mut cut = guest();
    cut.truncate(2_000);
    for (bytes, says) in [
        (cut, "truncated"),
        (traps, "it can't be instantiated: it trapped: unreachable executed"),
        (
            calls,
            "it can't be instantiated: it trapped: called a host function during instantiation",
        ),
        (hungry, "it can't be instantiated: it exceeded a limit: memory: an instance may have"),
    ] {
        let Err(PluginError::Refused(reason)) = host.add(bytes.into()).await else {
            panic!("not refused: {says}")
        };
        assert!(reason.contains(says), "{reason}");
        assert_eq!(files(dir.path()), [""; 0]);
    }
    let mut options = options(dir.path());
    options.deadline = Duration::from_millis(100);
    let host = PluginHost::new(options).unwrap();
    let Err(PluginError::Refused(reason)) = host.add(spins.into()).await else {
        panic!("not refused")
    };
    assert!(reason.contains("it exceeded its deadline of 100ms"), "{reason}");
    assert_eq!(files(dir.path()), [""; 0]);
}

/// What was deployed must run after a restart, without compiling it again.
#[tokio::test]
async fn a_stored_component_is_loaded_from_its_compiled_code() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = guest();
    let digest = Digest::of(&bytes);
    {
        let host = host(dir.path());
        assert!(matches!(host.load(digest).await, Err(PluginError::Missing(d)) if d == digest));
        let plugin = host.add(bytes.clone().into()).await.unwrap();
        assert_eq!((plugin.digest(), plugin.version()), (digest, Some("1.2.3")));
        // Deploying the same again is a no-op.
        let again = host.add(bytes.clone().into()).await.unwrap();
        assert!(Arc::ptr_eq(&plugin, &again));
        assert_eq!(files(dir.path()).len(), 2);
    }
    let compiled = dir.path().join("compiled");
    let compiled = fs::read_dir(compiled).unwrap().next().unwrap().unwrap().path();
    let written = fs::metadata(&compiled).unwrap().modified().unwrap();
    let host = host(dir.path());
    assert_eq!(host.component(digest).await.unwrap(), bytes);
    let plugin = host.load(digest).await.unwrap();
    assert_eq!(plugin.version(), Some("1.2.3"));
    let mut instance = plugin.fresh().await.unwrap();
    assert_eq!(ask(&mut instance, b"ehello").await.unwrap(), b"hello");
    assert_eq!(fs::metadata(&compiled).unwrap().modified().unwrap(), written);
}

/// Damaged native code would crash the node: it is made again from the component.
#[tokio::test]
async fn damaged_code_is_compiled_again() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = guest();
    let digest = Digest::of(&bytes);
    drop(host(dir.path()).add(bytes.into()).await.unwrap());
    let compiled = dir.path().join("compiled");
    let compiled = fs::read_dir(compiled).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&compiled).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 0x40;
    for bad in [&damaged[..], &whole[..whole.len() / 2], b"", b"slotdcw1"] {
        fs::write(&compiled, bad).unwrap();
        let plugin = host(dir.path()).load(digest).await.unwrap();
        let mut instance = plugin.fresh().await.unwrap();
        assert_eq!(ask(&mut instance, b"ehello").await.unwrap(), b"hello");
        // And kept again.
        assert_eq!(fs::read(&compiled).unwrap().len(), whole.len());
    }
}

/// 512 slots that start at once load one plugin: compiling it 512 times would stop the node.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_loads_compile_once() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = guest();
    let digest = Digest::of(&bytes);
    drop(host(dir.path()).add(bytes.clone().into()).await.unwrap());
    fs::remove_dir_all(dir.path().join("compiled")).unwrap();
    let host = host(dir.path());
    let loads = (0..32).map(|n| {
        let (host, bytes) = (host.clone(), bytes.clone());
        tokio::spawn(async move {
            if n % 4 == 0 { host.add(bytes.into()).await } else { host.load(digest).await }
        })
    });
    let mut plugins = Vec::new();
    for load in loads.collect::<Vec<_>>() {
        plugins.push(load.await.unwrap().unwrap());
    }
    assert!(plugins.windows(2).all(|pair| Arc::ptr_eq(&pair[0], &pair[1])));
}

/// A deadline that overflows the clock would panic on the first message.
#[test]
fn options_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    for deadline in [Duration::ZERO, Duration::MAX] {
        let mut options = options(dir.path());
        options.deadline = deadline;
        assert!(matches!(PluginHost::new(options), Err(PluginError::Failed(_))));
    }
}

/// A plugin that no slot runs any more must not stay in memory.
#[tokio::test]
async fn a_plugin_goes_with_its_last_user() {
    let dir = tempfile::tempdir().unwrap();
    let host = host(dir.path());
    let first = host.add(guest().into()).await.unwrap();
    let weak = Arc::downgrade(&first);
    drop(first);
    assert!(weak.upgrade().is_none());
    host.add(wasi_guest().into()).await.unwrap();
    assert_eq!(host.inner.places(), 1);
}

/// A component that a slot still runs must not go; one that nothing names must, with its code.
#[tokio::test]
async fn unneeded_components_go_and_those_in_use_stay() {
    let dir = tempfile::tempdir().unwrap();
    let host = host(dir.path());
    let used = host.add(guest().into()).await.unwrap();
    let kept = host.add(wasi_guest().into()).await.unwrap().digest();
    let other = host.add(guest_with("\"1.2.3\"", "\"1.2.4\"").into()).await.unwrap().digest();
    let needed = || Needed { components: [kept].into(), compiled: HashSet::new() };
    let removed = host.remove_unneeded(needed()).await.unwrap();
    assert_eq!(removed.files, 2);
    assert!(matches!(host.load(other).await, Err(PluginError::Missing(_))));
    assert_eq!(used.fresh().await.unwrap().memory_bytes(), 65_536);
    let digest = used.digest();
    drop(used);
    assert_eq!(host.remove_unneeded(needed()).await.unwrap().files, 2);
    assert!(matches!(host.load(digest).await, Err(PluginError::Missing(_))));
    host.load(kept).await.unwrap();
}

// --- WASI -------------------------------------------------------------------------------------

async fn fresh_wasi(dir: &Path) -> (Arc<Plugin>, Instance) {
    let plugin = host(dir).add(wasi_guest().into()).await.unwrap();
    let instance = plugin.fresh().await.unwrap();
    (plugin, instance)
}

/// A clock of the machine's would make two replays of one message differ.
#[tokio::test]
async fn clocks_stand_at_the_messages_time() {
    let dir = tempfile::tempdir().unwrap();
    let (_, mut instance) = fresh_wasi(dir.path()).await;
    let now = ask(&mut instance, b"n").await.unwrap();
    let mut expected = 1_700_000_000_123_000_000_u64.to_le_bytes().to_vec();
    expected.extend(1_700_000_000_u64.to_le_bytes());
    expected.extend(123_000_000_u32.to_le_bytes());
    assert_eq!(now, expected);
    assert_eq!(ask(&mut instance, b"n").await.unwrap(), now);
}

/// Randomness of the machine's, or of the instance's past, would make two replays differ.
#[tokio::test]
async fn random_comes_from_the_session_and_the_message() {
    let dir = tempfile::tempdir().unwrap();
    let (plugin, mut instance) = fresh_wasi(dir.path()).await;
    let first = ask(&mut instance, b"r").await.unwrap();
    assert_ne!(first[..8], first[8..]);
    // The same message on the same instance, and on another.
    assert_eq!(ask(&mut instance, b"r").await.unwrap(), first);
    let mut other = plugin.fresh().await.unwrap();
    assert_eq!(ask(&mut other, b"r").await.unwrap(), first);
    // Another message, another session, another kind of call.
    let mut next = call(message(b"r"));
    next.seq = 2;
    let mut elsewhere = call(message(b"r"));
    elsewhere.session = SessionKey::parse("test", "two").unwrap();
    for call in [next, elsewhere, call(query(b"r"))] {
        assert_ne!(other.call(call).await.result.unwrap().body, first);
    }
    // Pinned: a change would make replayed messages differ from what they did.
    let hex: String = first[..8].iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, "51a156a2f08ec4d2");
    // What a guest keeps from its first call, to order its maps by, is the same in all.
    let seed = ask(&mut instance, b"i").await.unwrap();
    let mut next = call(message(b"i"));
    next.seq = 9;
    assert_eq!(other.call(next).await.result.unwrap().body, seed);
}

/// A guest that waits holds its slot: a timer is over at once, and never later than the deadline.
#[tokio::test]
async fn a_sleep_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let (_, mut instance) = fresh_wasi(dir.path()).await;
    let outcome = outcome(&mut instance, message(b"s")).await;
    assert!(outcome.result.is_ok());
    assert!(outcome.elapsed.is_some_and(|elapsed| elapsed < Duration::from_secs(19)));
}

#[tokio::test]
async fn the_rest_of_wasi_is_empty_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let (plugin, mut instance) = fresh_wasi(dir.path()).await;
    assert!(ask(&mut instance, b"phello\nworld").await.is_ok());
    assert_eq!(ask(&mut instance, b"v").await.unwrap(), 0_u32.to_le_bytes());
    for (body, kind, says) in [
        (b"S", "limit", "handles: an instance may hold at most 1000"),
        (b"R", "limit", "one call gives at most 65536"),
        (b"x", "trap", "it exited with code"),
    ] {
        let mut instance = plugin.fresh().await.unwrap();
        let failure = ask(&mut instance, body).await.unwrap_err();
        assert_eq!(failure.kind(), kind, "{failure}");
        assert!(failure.to_string().contains(says), "{failure}");
    }
}

/// The timer behind a call that waits on the host, which none does today: were one to, the
/// deadline must hold all the same.
#[tokio::test]
async fn a_call_that_waits_ends_at_its_deadline() {
    let (signal, limit) = (super::Signal::default(), Duration::from_millis(20));
    let waiting = instance::unless_stuck(&signal, limit, std::future::pending::<()>());
    assert!(waiting.await.is_none());
    let ready = instance::unless_stuck(&signal, limit, std::future::ready(7));
    assert_eq!(ready.await, Some(7));
}

/// Not a test of anything: prints what calls cost. `cargo test -p slotd --lib -- --ignored
/// --nocapture plugin::tests::costs`.
#[ignore = "measures"]
#[tokio::test]
async fn costs() {
    let dir = tempfile::tempdir().unwrap();
    let host = host(dir.path());
    let plugin = host.add(guest().into()).await.unwrap();
    let rss = || {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4
    };
    let body = |op: u8| Bytes::from([&[op][..], &[b'x'; 255]].concat());
    for (what, op) in [("echo", b'e'), ("get and set", b'u'), ("emit", b'm')] {
        let mut instance = plugin.fresh().await.unwrap();
        let (body, mut state) = (body(op), Some(Box::new(MapState::default()) as Box<dyn State>));
        let key = SessionKey::parse("test", "one").unwrap();
        let mut best = Duration::MAX;
        // Short rounds, and the best of many: other work on the machine falls between them.
        for _ in 0..400 {
            let started = Instant::now();
            for seq in 0..500 {
                let call = Call {
                    session: key.clone(),
                    seq,
                    time_ms: 0,
                    state: state.take().unwrap(),
                    input: Input::Handle {
                        id: None,
                        sender: None,
                        content_type: String::new(),
                        body: body.clone(),
                    },
                };
                let outcome = instance.call(call).await;
                assert!(outcome.result.is_ok());
                state = Some(outcome.state);
            }
            best = best.min(started.elapsed() / 500);
        }
        println!("{what}: {best:?} a call");
    }
    for bytes in [guest(), wasi_guest()] {
        let plugin = host.add(bytes.into()).await.unwrap();
        let before = rss();
        let mut instances = Vec::new();
        let (mut made, mut dropped) = (Vec::new(), Vec::new());
        for _ in 0..512 {
            let started = Instant::now();
            instances.push(plugin.fresh().await.unwrap());
            made.push(started.elapsed());
        }
        println!("512 instances, not called: {} KiB", rss() - before);
        for instance in &mut instances {
            let _ = ask(instance, b"n").await;
            let _ = ask(instance, b"ex").await;
        }
        println!("512 instances, called: {} KiB", rss() - before);
        for instance in instances {
            let started = Instant::now();
            drop(instance);
            dropped.push(started.elapsed());
        }
        made.sort();
        dropped.sort();
        println!("instantiate: best {:?}, half within {:?}", made[0], made[256]);
        println!("drop: best {:?}, half within {:?}", dropped[0], dropped[256]);
    }
    let started = Instant::now();
    for _ in 0..1_000 {
        assert!(inspect(&guest()).problems.is_empty());
    }
    println!("inspect {} bytes: {:?}", guest().len(), started.elapsed() / 1_000);
}

/// Gives what it is told to.
#[derive(Debug)]
struct Source(Result<Option<Bytes>, String>);

impl ComponentSource for Source {
    fn fetch(
        &self,
        _: Digest,
    ) -> futures_util::future::BoxFuture<'static, Result<Option<Bytes>, String>> {
        Box::pin(std::future::ready(self.0.clone()))
    }
}

/// A node that joins has none of the cluster's components; it must run the very ones that were
/// deployed, or say why not.
#[tokio::test]
async fn a_component_that_is_not_here_is_fetched_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let component = Bytes::from(guest());
    let digest = Digest::of(&component);
    let host = |source: Result<Option<Bytes>, String>| {
        let source: Arc<dyn ComponentSource> = Arc::new(Source(source));
        PluginHost::new(PluginOptions { source: Some(source), ..options(dir.path()) }).unwrap()
    };
    let absent = host(Ok(None)).load(digest).await;
    assert!(matches!(absent, Err(PluginError::Missing(d)) if d == digest));
    let unreachable = host(Err("no quorum".into())).load(digest).await.unwrap_err().to_string();
    assert!(unreachable.contains("not stored on this node; no quorum"), "{unreachable}");
    let lie = host(Ok(Some("something else".into()))).load(digest).await.unwrap_err().to_string();
    assert!(lie.contains("has another digest"), "{lie}");
    assert_eq!(host(Ok(Some(component.clone()))).load(digest).await.unwrap().digest(), digest);
    // From now on it is stored here.
    assert_eq!(host(Ok(None)).component(digest).await.unwrap(), component);
    let path = dir.path().join("components").join(format!("{digest}.wasm"));
    std::fs::write(&path, b"damaged").unwrap();
    assert!(host(Ok(None)).load(digest).await.is_err());
    host(Ok(Some(component.clone()))).load(digest).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), component, "and made good");
}

/// With the source away, all slots of a plugin would each try it anew, one after the other, for as long as
/// one try takes.
#[tokio::test]
async fn a_source_that_fails_is_not_asked_again_by_each_who_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (source, digest) = (Arc::<HeldSource>::default(), Digest::of(&guest()));
    let held: Arc<dyn ComponentSource> = source.clone();
    let host =
        PluginHost::new(PluginOptions { source: Some(held), ..options(dir.path()) }).unwrap();
    let load = || {
        let host = host.clone();
        tokio::spawn(async move { host.load(digest).await })
    };
    let loads: Vec<_> = (0..8).map(|_| load()).collect();
    while source.asked.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(host.loading_since(digest).is_some());
    source.given.send_replace(Some(Err("no quorum".into())));
    for load in loads {
        let error = load.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("no quorum"), "{error}");
    }
    assert_eq!(source.asked.load(Ordering::Relaxed), 1);
    assert!(host.loading_since(digest).is_none());
    // It is tried again a moment later.
    source.given.send_replace(Some(Ok(guest().into())));
    let again = async {
        loop {
            match host.load(digest).await {
                Ok(plugin) => return plugin,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), again).await.unwrap();
    assert_eq!(source.asked.load(Ordering::Relaxed), 2);
}

/// What is said of a call that was cut is read by people.
#[test]
fn cuts_are_told_in_words() {
    for (why, says) in [
        (Cut::Full, "too many long-running calls on this node"),
        (Cut::Ending, "the slot must stop or switch its version"),
        (Cut::Gone, "no client is waiting for it any more"),
        (Cut::Crowded, "others are waiting for its slot"),
    ] {
        assert_eq!(Failure::Cut(why).to_string(), format!("ended early: {says}"));
        let unmade = PluginError::Cut(why).to_string();
        assert_eq!(unmade, format!("instantiating it took too long: {says}"));
    }
}
