//! An owner that was paused while another one claimed the slot.

use super::*;

struct World {
    home: tempfile::TempDir,
    objects: Objects,
    log: Arc<MemoryLog>,
    a: Owner,
    a_snapshots: Snapshots,
}

impl World {
    /// Owner `a` with two snapshots, both confirmed.
    async fn new() -> Self {
        let home = scratch();
        let objects = directory(&home.path().join("objects")).await;
        let log = Arc::new(MemoryLog::default());
        let a_snapshots = Snapshots::new(objects.clone(), small());
        let mut a = Owner::start(&log, &open(&home.path().join("a"))).await;
        for round in 0..40 {
            a.send(&format!("{}", round % 3), &[b'x'; 200], vec![write("k", "v")]).await;
            if round % 20 == 19 {
                a.take(&a_snapshots).await.unwrap();
                a.commit(Vec::new()).await.unwrap();
            }
        }
        Self { home, objects, log, a, a_snapshots }
    }

    /// Another node's store, at the newest snapshot, after its claim.
    async fn node(&self, name: &str, snapshots: &Snapshots) -> Owner {
        let dir = open(&self.home.path().join(name));
        snapshots.restore(SLOT, &*self.log, &dir.state()).await.unwrap();
        Owner::start(&self.log, &dir).await
    }

    async fn names(&self) -> Vec<String> {
        let listed = self.objects.list(SLOT).await.unwrap();
        listed.into_iter().map(|object| object.name).collect()
    }
}

/// Were a paused owner to delete what its successor has just put, the successor's snapshot would
/// be lost the moment its log is trimmed.
#[tokio::test]
async fn what_a_zombie_collects_is_not_its_successors() {
    let mut world = World::new().await;
    let b_snapshots = Snapshots::new(world.objects.clone(), small());
    let mut b = world.node("b", &b_snapshots).await;
    b.send("b", &[b'b'; 5_000], vec![write("k", "b")]).await;
    // All of b's objects are there, its manifest is not yet.
    let before = world.names().await;
    let faults = Faults::manifests(false);
    let cut = b_snapshots.with_objects(Objects::Failing(world.objects.clone().into(), faults));
    assert!(b.take(&cut).await.is_err());
    let with_b = world.names().await;
    assert!(with_b.len() > before.len());
    world.a_snapshots.collect(SLOT, world.a.claim.term).await.unwrap();
    let fresh: Vec<_> = with_b.iter().filter(|name| !before.contains(name)).collect();
    let left = world.names().await;
    assert!(fresh.iter().all(|name| left.contains(name)), "the zombie deleted {fresh:?}");
    let taken = b.take(&b_snapshots).await.unwrap();
    world.log.trim(SLOT, taken.position).await.unwrap();
    check_restore(&b_snapshots, &b, taken).await;
    // Once there is a newer owner's manifest, it deletes nothing at all.
    assert_eq!(world.a_snapshots.collect(SLOT, world.a.claim.term).await.unwrap(), 0);
    assert!(world.a.commit(Vec::new()).await.is_err(), "and it is fenced");
}

/// A zombie's late manifest must not become what the next node starts from.
#[tokio::test]
async fn a_zombies_manifest_is_older_and_goes_away() {
    let mut world = World::new().await;
    // Committed before the claim of b, and not in any snapshot.
    world.a.send("late", &[b'l'; 900], vec![]).await;
    let b_snapshots = Snapshots::new(world.objects.clone(), small());
    let mut b = world.node("b", &b_snapshots).await;
    let taken = b.take_and_trim(&b_snapshots).await;
    let late = world.a.take(&world.a_snapshots).await.unwrap();
    assert!(late.new && late.position < taken.position);
    check_restore(&b_snapshots, &b, taken).await;
    b.send("b", b"more", vec![]).await;
    let taken = b.take_and_trim(&b_snapshots).await;
    check_restore(&b_snapshots, &b, taken).await;
    let names = world.names().await;
    let late = format!("m-{:020}-", late.position);
    assert!(!names.iter().any(|name| name.starts_with(&late)), "{names:?}");
    // A process of an older term that has just looked refuses by itself.
    let a_snapshots = Snapshots::new(world.objects.clone(), small());
    let error = world.a.take(&a_snapshots).await.unwrap_err();
    assert!(error.to_string().contains("another node owns it"), "{error}");
}

/// A put whose answer is lost may have put: to collect without it, or to forget it, would leave a
/// manifest that others build on without its objects.
#[tokio::test]
async fn an_undecided_manifest_counts_as_put() {
    for lands in [false, true] {
        let mut world = World::new().await;
        world.a.send("more", &[b'm'; 100], vec![]).await;
        let faults = Faults::manifests(lands);
        let failing = Objects::Failing(world.objects.clone().into(), faults);
        let broken = world.a_snapshots.with_objects(failing);
        assert!(world.a.take(&broken).await.is_err());
        let undecided = world.a.meta.applied;
        world.a.commit(Vec::new()).await.unwrap();
        let term = world.a.claim.term;
        assert_eq!(world.a_snapshots.collect(SLOT, term).await.unwrap(), 0);
        world.a.send("more", &[b'n'; 100], vec![]).await;
        let taken = world.a.take(&world.a_snapshots).await.unwrap();
        assert_eq!(taken.before, undecided, "the put was repeated first");
        world.a.commit(Vec::new()).await.unwrap();
        assert!(world.a_snapshots.collect(SLOT, term).await.unwrap() > 0);
        world.log.trim(SLOT, taken.position).await.unwrap();
        world.a.flush();
        let home = scratch();
        let dir = open(home.path());
        let meta = world.a_snapshots.restore(SLOT, &*world.log, &dir.state()).await.unwrap();
        assert_eq!(meta.applied, taken.position);
    }
}

/// A snapshot by a node that has not seen its own claim could be older than one of the owner
/// before, and take its place.
#[tokio::test]
async fn a_take_before_the_claim_is_applied_is_refused() {
    let world = World::new().await;
    let claim = world.log.claim(SLOT, "b").await.unwrap();
    let (log, store) = (&*world.log, &world.a.store);
    let error = world.a_snapshots.take(SLOT, claim.term, log, store).await.unwrap_err();
    assert!(error.to_string().contains("no snapshot of term 2 yet"), "{error}");
}
