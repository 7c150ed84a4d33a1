//! What a guest sees of WASI.

use super::*;

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
