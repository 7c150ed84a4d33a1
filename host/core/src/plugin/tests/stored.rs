//! Components that are stored, loaded, fetched and removed.

use super::*;

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

/// Returns what it was made with.
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
