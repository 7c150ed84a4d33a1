//! Snapshots that need nothing from before their term.

use super::*;
use crate::seal::{self, Keyring};

/// A slot whose older snapshots stay, or are counted on, would be lost with the key that they are sealed with.
#[tokio::test]
async fn after_a_snapshot_anew_the_key_of_before_is_not_needed() {
    let home = scratch();
    let made = [(); 2].map(|()| seal::generate().unwrap());
    let keys = |texts: &[&String]| -> Keyring {
        let texts: Vec<_> = texts.iter().map(|text| text.as_str()).collect();
        seal::parse(&texts.join("\n")).unwrap()
    };
    let plain = directory(&home.path().join("objects")).await;
    let with = |keys: &Keyring| Snapshots::new(plain.clone().sealed(keys), small());
    let log = Arc::new(MemoryLog::default());
    // Bases, deltas and history by the first owner.
    let old = with(&keys(&[&made[0]]));
    let dir = open(&home.path().join("a"));
    let mut owner = Owner::start(&log, &dir).await;
    for round in 0..60 {
        owner.send(&format!("{}", round % 3), &[b'x'; 200], vec![write("k", "v")]).await;
        if round % 10 == 9 {
            owner.take_and_trim(&old).await;
        }
    }
    // The next one has another key in use.
    let both = with(&keys(&[&made[1], &made[0]]));
    let mut owner = Owner::start(&log, &dir).await;
    let term = owner.claim.term;
    let take_anew =
        async |owner: &Owner| both.take_anew(SLOT, term, &*owner.log, &owner.store).await.unwrap();
    let mut positions = Vec::new();
    for round in 0..3 {
        if round == 2 {
            owner.send("0", b"more", vec![write("k", "more")]).await;
            owner.flush();
        }
        let position = take_anew(&owner).await;
        positions.push(position);
        owner.commit(Vec::new()).await.unwrap();
        assert_eq!(both.is_all_since(SLOT, term).await.unwrap(), round > 0);
        log.trim(SLOT, position).await.unwrap();
        both.collect(SLOT, term).await.unwrap();
        assert!(both.is_all_since(SLOT, term).await.unwrap());
    }
    assert_eq!(positions[0], positions[1], "once is enough");
    // Deltas follow, and whoever has the new key alone restores all of it.
    owner.send("1", b"after", vec![write("k", "after")]).await;
    let taken = owner.take_and_trim(&both).await;
    assert!(taken.new);
    check_restore(&with(&keys(&[&made[1]])), &owner, taken).await;
    let dir = open(&home.path().join("b"));
    let refused = with(&keys(&[&made[0]])).restore(SLOT, &*log, &dir.state()).await.unwrap_err();
    assert!(matches!(refused, SnapshotError::Refused(_)), "{refused}");
}
