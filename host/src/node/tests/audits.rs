//! Audits of a node that stands alone, over its own store.

use super::*;
use crate::{
    log::record::Head,
    node::audit_report::Verdict,
    replay::{AuditSpec, report::Looks},
    state::changes::Changes,
};

pub(super) async fn audited(fixture: &Fixture, spec: AuditSpec) -> AuditReport {
    let Fixture { node, service, .. } = fixture;
    let mut report = node.start_audit(service, spec).await.unwrap();
    let until = crate::clock::now() + TIMEOUT;
    while report.verdict == Verdict::Running {
        assert!(crate::clock::now() < until, "{report:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
        report = node.audit_of(service, &report.audit).await.unwrap();
    }
    report
}

async fn send_all(fixture: &Fixture, sessions: u64, bodies: &[&'static [u8]]) {
    for session in 0..sessions {
        let key = SessionKey::parse("s", &format!("session-{session}")).unwrap();
        for body in bodies {
            fixture.node.send(&key, message(body)).await.unwrap();
        }
    }
}

/// The slot and the head of a session, as the store has it.
fn stored(fixture: &Fixture, session: &str) -> (SlotId, Head) {
    let key = SessionKey::parse("s", session).unwrap();
    let slot = fixture.node.router.slot_of(&key);
    let head = fixture.node.context.store.head(slot, &key).unwrap();
    (slot, head.unwrap())
}

/// Writes past the slot, as damage does.
fn damage(fixture: &Fixture, slot: SlotId, changes: &Changes) {
    let store = &fixture.node.context.store;
    let meta = store.slot(slot).unwrap();
    store.apply(slot, changes, &meta).unwrap();
}

/// What it would say of a sound node is what it is worth: over a swap, with what was rejected in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_comes_out_again_over_a_swap() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    send_all(&fixture, 5, &[b"sone", b"g", b"mhello"]).await;
    assert!(fixture.node.send(&key(), message(b"x")).await.is_err(), "a rejection");
    let next = testkit::guest_with("bad-luck", "badluck2");
    fixture.deploy("2.0.0", next.into()).await.unwrap();
    send_all(&fixture, 4, &[b"g", b"utwo", b"cfr"]).await;
    let report = audited(&fixture, AuditSpec::default()).await;
    assert_eq!(report.verdict, Verdict::Same, "{report:?}");
    assert_eq!((report.sessions, report.same, report.messages), (5, 5, 5 * 3 + 4 * 3));
    let spec = AuditSpec { sample: Some(2), seed: 7, ..AuditSpec::default() };
    let sample = audited(&fixture, spec).await;
    assert_eq!((sample.verdict, sample.sessions), (Verdict::Same, 2), "{sample:?}");
    let session = SessionId::parse("session-1").ok();
    let range = AuditSpec { session, to: Some(2), ..AuditSpec::default() };
    let one = audited(&fixture, range).await;
    assert_eq!((one.verdict, one.sessions, one.messages), (Verdict::Same, 1, 2), "{one:?}");
}

/// A plugin that keeps something is the likeliest fault, and no restore of a backup mends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_that_keeps_memory_is_told_from_damage() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    send_all(&fixture, 3, &[b"sone", b"w", b"g"]).await;
    let report = audited(&fixture, AuditSpec::default()).await;
    assert_eq!(report.verdict, Verdict::Differs, "{report:?}");
    assert!(!report.findings.is_empty());
    for finding in &report.findings {
        assert_eq!((finding.looks_like, finding.seq), (Looks::KeepsMemory, 2), "{finding:?}");
        assert!(finding.because.contains("message 2 gives another reply"), "{finding:?}");
    }
}

/// An audit that missed a flipped value, a changed reply or a gap would be worth nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_found_where_it_is() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    send_all(&fixture, 4, &[b"sone", b"g"]).await;
    assert_eq!(audited(&fixture, AuditSpec::default()).await.verdict, Verdict::Same);
    let store = fixture.node.context.store.clone();
    // A value.
    let (slot, head) = stored(&fixture, "session-0");
    let mut changes = Changes::default();
    let of = changes.sessions.entry(head.session_number).or_default();
    of.state.insert(Bytes::from_static(b"k"), Some(Bytes::from_static(b"two")));
    damage(&fixture, slot, &changes);
    // A reply.
    let (slot, head) = stored(&fixture, "session-1");
    let entries = store.history(slot, head.session_number, 0, 10, usize::MAX).unwrap();
    let mut last = (*entries[1]).clone();
    last.reply = "two".into();
    let mut changes = Changes::default();
    let of = changes.sessions.entry(head.session_number).or_default();
    of.history = vec![entries[0].clone(), last.into()];
    damage(&fixture, slot, &changes);
    // A message that is missing.
    let (slot, head) = stored(&fixture, "session-2");
    let entries = store.history(slot, head.session_number, 0, 10, usize::MAX).unwrap();
    let mut changes = Changes::default();
    let of = changes.sessions.entry(head.session_number).or_default();
    of.history = vec![entries[1].clone()];
    damage(&fixture, slot, &changes);
    let report = audited(&fixture, AuditSpec::default()).await;
    assert_eq!((report.verdict, report.same, report.differing), (Verdict::Differs, 1, 3));
    let found = |session: &str| {
        let finding = report.findings.iter().find(|finding| finding.session == session).unwrap();
        let what = finding.differences[0].what.as_str();
        (finding.seq, what, finding.looks_like, finding.differences[0].clone())
    };
    let (seq, what, looks, shown) = found("session-0");
    assert_eq!((seq, what, looks), (2, "state", Looks::StoredDiffers));
    assert_eq!((&*shown.stored, &*shown.came), ("\"k\": two", "\"k\": one"));
    let (seq, what, looks, shown) = found("session-1");
    assert_eq!((seq, what, looks), (2, "reply", Looks::StoredDiffers));
    assert_eq!((&*shown.stored, &*shown.came), ("two", "one"));
    let (_, what, looks, shown) = found("session-2");
    assert_eq!((what, looks), ("history", Looks::Damage), "{shown:?}");
}

/// An audit that ended the node at what it is there to find could not report it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_does_not_decode_is_damage_and_the_node_goes_on() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    send_all(&fixture, 3, &[b"sone", b"g"]).await;
    assert_eq!(audited(&fixture, AuditSpec::default()).await.verdict, Verdict::Same);
    let (slot, head) = stored(&fixture, "session-1");
    fixture.node.data_dir.damage_history(slot, head.session_number).unwrap();
    let report = audited(&fixture, AuditSpec::default()).await;
    assert_eq!((report.verdict, report.same, report.differing), (Verdict::Differs, 2, 1));
    let finding = &report.findings[0];
    assert_eq!((&*finding.session, finding.looks_like), ("session-1", Looks::Damage));
    assert_eq!(*fixture.node.health.borrow(), Health::Ready);
}

/// One damaged head would hide all other sessions of its slot, damaged ones too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_does_not_decode_is_found_and_its_slot_looked_at_to_the_end() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    let slot_of = |n: u64| {
        let key = SessionKey::parse("s", &format!("session-{n}")).unwrap();
        (fixture.node.router.slot_of(&key), key)
    };
    let (slot, _) = slot_of(0);
    // In one slot: something before it, and behind it.
    let mut keys: Vec<_> = (0..).map(slot_of).filter(|of| of.0 == slot).take(5).collect();
    for (_, key) in &keys {
        fixture.node.send(key, message(b"sone")).await.unwrap();
    }
    assert_eq!(audited(&fixture, AuditSpec::default()).await.verdict, Verdict::Same);
    keys.sort_by(|one, other| one.1.session.as_str().cmp(other.1.session.as_str()));
    fixture.node.data_dir.damage_head(slot, &keys[2].1).unwrap();
    for sample in [None, Some(100)] {
        let report = audited(&fixture, AuditSpec { sample, ..AuditSpec::default() }).await;
        assert_eq!((report.verdict, report.same, report.differing), (Verdict::Differs, 4, 1));
        assert_eq!(report.slots_unseen, 0, "{report:?}");
        let finding = &report.findings[0];
        assert_eq!(finding.session, keys[2].1.session.to_string());
        assert_eq!((finding.seq, finding.looks_like), (0, Looks::Damage));
    }
    // Nor does counting the sessions for a sample's share end the node.
    assert_eq!(fixture.node.stored_sessions(&fixture.service).await.unwrap(), 5);
    assert_eq!(*fixture.node.health.borrow(), Health::Ready);
}

/// What the history does not have must not be called a difference, nor the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_kept_is_said() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    send_all(&fixture, 2, &[b"sone", b"g"]).await;
    let set = async |session: &str, bytes: usize| {
        let value = Some(Bytes::from(vec![b'x'; bytes]));
        let entered =
            Entered { changes: vec![("k".into(), value)], note: "{\"action\":\"set\"}".into() };
        let operation = Operation::new(None, "ann".into(), None, Action::Set(entered));
        let key = SessionKey::parse("s", session).unwrap();
        fixture.node.operate(&key, operation).await.unwrap();
        fixture.node.send(&key, message(b"g")).await.unwrap();
    };
    // What is small is kept.
    set("session-0", 10).await;
    set("session-1", limits::ENTERED_BYTES_MAX).await;
    let report = audited(&fixture, AuditSpec::default()).await;
    assert_eq!((report.same, report.partly, report.differing), (1, 1, 0), "{report:?}");
    assert_eq!(report.reasons[0].example, "session-1");
}

/// What is wrong with a request, and what is not known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_audited_is_refused() {
    let fixture = Fixture::new().await;
    let start = async |spec| fixture.node.start_audit(&fixture.service, spec).await.map(|_| ());
    let code = |result: Result<(), Error>| result.map_err(|error| error.code).unwrap_err();
    assert_eq!(code(start(AuditSpec::default()).await), Code::ServiceNotFound);
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    let spec = AuditSpec { session: SessionId::parse("x").ok(), ..AuditSpec::default() };
    assert_eq!(code(start(spec).await), Code::SessionNotFound);
    let spec = AuditSpec { from: Some(1), ..AuditSpec::default() };
    assert_eq!(code(start(spec).await), Code::RequestInvalid);
    let unknown = fixture.node.audit_of(&fixture.service, &"0".repeat(32)).await;
    assert_eq!(code(unknown.map(|_| ())), Code::AuditNotFound);
    // A new one ends the one before.
    let first = fixture.node.start_audit(&fixture.service, AuditSpec::default()).await.unwrap();
    audited(&fixture, AuditSpec::default()).await;
    let first = fixture.node.cancel_audit(&fixture.service, &first.audit).await.unwrap();
    assert_ne!(first.verdict, Verdict::Running);
}
