//! Forks on a node that stands alone.

use super::*;
use crate::{
    node::audit_report::Verdict,
    operation::Delete,
    operator::{Fork, StateRange},
};

fn named(session: &str) -> SessionKey {
    SessionKey::parse("s", session).unwrap()
}

fn ask(to: &str, at: Option<u64>) -> ForkAsk {
    ForkAsk { key: named("x"), to: named(to).session, at, deployment: None, by: None }
}

/// What a client sees of an entry.
type Shown = (u64, Bytes, Bytes, u64, Option<String>);

/// All of it, page by page; and where it begins, if that is not with the first.
async fn history(fixture: &Fixture, session: &str, range: Range) -> (Vec<Shown>, Option<u64>) {
    let (mut range, mut shown, mut began) = (range, Vec::new(), None);
    loop {
        let (reader, consistency) = (ReadBy::Client, Consistency::Current);
        let read = ReadHistory { key: named(session), range, reader, consistency };
        let page = fixture.node.history(read).await.unwrap();
        began = began.or(page.begins);
        shown.extend(page.entries.iter().map(|(entry, _)| {
            let Entry { seq, body, reply, time_ms, id, .. } = &**entry;
            (*seq, body.clone(), reply.clone(), *time_ms, id.clone())
        }));
        let seq = page.entries.last().unwrap().0.seq;
        if seq == page.last_seq {
            return (shown, began);
        }
        range = Range::After { seq, limit: 100 };
    }
}

async fn state(fixture: &Fixture, session: &str) -> Vec<(String, Bytes)> {
    let range = StateRange { prefix: String::new(), after: None, limit: 100 };
    fixture.node.session_state(&named(session), range).await.unwrap().pairs
}

async fn send_all(fixture: &Fixture, session: &str, bodies: &[&'static [u8]]) -> Vec<Bytes> {
    let mut replies = Vec::new();
    for body in bodies {
        replies.push(fixture.node.send(&named(session), message(body)).await.unwrap().body);
    }
    replies
}

fn code<T>(result: Result<T, Error>) -> Code {
    result.map(drop).map_err(|error| error.code).unwrap_err()
}

const ALL: Range = Range::After { seq: 0, limit: 100 };

/// A fork is what its session was, and is its own from there on; what was before is read where it is, and is the same
/// for whoever reads it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_has_the_history_before_and_goes_on_by_itself() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    let later: [&[u8]; 3] = [b"g", b"ufour", b"g"];
    send_all(&fixture, "x", &[b"sone", b"g", b"stwo"]).await;
    let replies = send_all(&fixture, "x", &later).await;
    let (parents, _) = history(&fixture, "x", ALL).await;
    let done = fixture.node.fork(ask("y", Some(3))).await.unwrap();
    assert_eq!((done.forked.at, done.forked.first), (3, 3), "only the last one is copied");
    let there = describe(&fixture, named("y")).await.unwrap();
    assert_eq!((there.seq, there.state_bytes), (3, 4));
    assert_eq!(state(&fixture, "y").await, [("k".to_owned(), Bytes::from_static(b"two"))]);
    assert_eq!(history(&fixture, "y", ALL).await, (parents[..3].to_vec(), None));
    // The same messages give the same replies, and the other one knows nothing of it.
    assert_eq!(send_all(&fixture, "y", &later).await, replies);
    assert_eq!(history(&fixture, "x", ALL).await.0, parents);
    let (own, _) = history(&fixture, "y", ALL).await;
    assert_eq!((own.len(), &own[..3]), (6, &parents[..3]));
    for limit in 1..=6 {
        let (tail, _) = history(&fixture, "y", Range::Tail { limit }).await;
        assert_eq!(tail, own[6 - limit..], "the last {limit}");
        let (page, _) = history(&fixture, "y", Range::After { seq: 1, limit }).await;
        assert_eq!(page[0], own[1], "behind 1");
    }
    // One of a fork, in what it has itself, and in what the first has.
    let of_y = |to: &str, at| ForkAsk { key: named("y"), ..ask(to, Some(at)) };
    fixture.node.fork(of_y("z", 5)).await.unwrap();
    fixture.node.fork(of_y("a", 2)).await.unwrap();
    assert_eq!(history(&fixture, "z", ALL).await.0, own[..5]);
    assert_eq!(history(&fixture, "a", ALL).await.0, own[..2]);
    assert_eq!(state(&fixture, "a").await, [("k".to_owned(), Bytes::from_static(b"one"))]);
    // What a read gave then, of each.
    for (session, at, value) in
        [("y", 1, "one"), ("y", 3, "two"), ("y", 5, "four"), ("z", 2, "one")]
    {
        let (content_type, body) = ("text/plain".into(), Bytes::from_static(b"g"));
        let consistency = Consistency::Current;
        let query = Query { key: named(session), content_type, body, consistency, client: None };
        assert_eq!(fixture.node.query_at(query, at).await.unwrap().body, value, "{session} {at}");
    }
    let report = audits::audited(&fixture, AuditSpec::default()).await;
    assert_eq!((report.verdict, report.same), (Verdict::Same, 4), "{report:?}");
}

/// What was deleted is gone, also for those who only look at it; what they have themselves is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_outlives_the_session_that_it_was_made_of() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    send_all(&fixture, "x", &[b"sone", b"g", b"stwo", b"g"]).await;
    fixture.node.fork(ask("y", Some(3))).await.unwrap();
    send_all(&fixture, "y", &[b"g", b"sfour"]).await;
    fixture.node.call(Delete { key: named("x") }).await.unwrap();
    // Another one of its name is not taken for it.
    for _ in 0..2 {
        let (left, begins) = history(&fixture, "y", ALL).await;
        assert_eq!((left.len(), left[0].0, begins), (3, 3, Some(3)));
        let (tail, begins) = history(&fixture, "y", Range::Tail { limit: 9 }).await;
        assert_eq!((tail.len(), begins), (3, Some(3)));
        assert_eq!(code(fixture.node.session_at(&named("y"), 2).await), Code::HistoryUnavailable);
        assert_eq!(fixture.node.session_at(&named("y"), 4).await.unwrap().seq, 4);
        send_all(&fixture, "x", &[b"snew", b"g", b"g", b"g"]).await;
    }
    let report = audits::audited(&fixture, AuditSpec::default()).await;
    assert_eq!((report.verdict, report.same), (Verdict::Same, 2), "{report:?}");
    send_all(&fixture, "y", &[b"g"]).await;
    fixture.node.call(Delete { key: named("y") }).await.unwrap();
    assert_eq!(fixture.node.fork(ask("y", None)).await.unwrap().forked.at, 8, "the name is free");
}

/// Whoever had no answer asks again: there is one fork, and one answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_gets_the_same_answer() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    send_all(&fixture, "x", &[b"sone", b"g"]).await;
    let first = fixture.node.fork(ask("y", Some(2))).await.unwrap();
    send_all(&fixture, "y", &[b"g"]).await;
    send_all(&fixture, "x", &[b"g"]).await;
    for at in [Some(2), None] {
        let again = fixture.node.fork(ask("y", at)).await.unwrap();
        assert_eq!((&again.forked, again.incarnation), (&first.forked, first.incarnation));
    }
    assert_eq!(code(fixture.node.fork(ask("y", Some(1))).await), Code::SessionExists);
    let many = futures_util::future::join_all((0..8).map(|_| fixture.node.fork(ask("z", Some(3)))));
    let done: Vec<_> = many.await.into_iter().map(|done| done.unwrap().incarnation).collect();
    assert!(done.windows(2).all(|pair| pair[0] == pair[1]), "{done:?}");
    assert_eq!(describe(&fixture, named("z")).await.unwrap().seq, 3);
}

/// None of these may leave something behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_forked_is_refused() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    let fork = async |ask| code(fixture.node.fork(ask).await);
    assert_eq!(fork(ask("y", None)).await, Code::SessionNotFound);
    send_all(&fixture, "x", &[b"sone", b"g"]).await;
    send_all(&fixture, "other", &[b"sone"]).await;
    assert_eq!(fork(ask("x", Some(1))).await, Code::RequestInvalid);
    assert_eq!(fork(ask("y", Some(0))).await, Code::RequestInvalid);
    assert_eq!(fork(ask("y", Some(3))).await, Code::SeqNotReached);
    assert_eq!(fork(ask("other", Some(1))).await, Code::SessionExists);
    let on = |deployment| ForkAsk { deployment: Some(deployment), ..ask("y", Some(1)) };
    assert_eq!(fork(on(7)).await, Code::DeploymentNotFound);
    // More than the history keeps of a correction: behind it is known what the session is now, and no more.
    let value = Some(Bytes::from(vec![b'x'; limits::ENTERED_BYTES_MAX]));
    let entered = Entered { changes: vec![("k".into(), value)], note: "{}".into() };
    let set = Operation::new(None, "ann".into(), None, Action::Set(entered));
    fixture.node.operate(&named("x"), set).await.unwrap();
    send_all(&fixture, "x", &[b"e"]).await;
    assert_eq!(fork(ask("y", Some(3))).await, Code::HistoryUnavailable);
    assert_eq!(code(describe(&fixture, named("y")).await), Code::SessionNotFound);
    fixture.node.fork(ask("y", Some(4))).await.unwrap();
    assert_eq!(state(&fixture, "y").await, state(&fixture, "x").await);
    // Its own beginning is not in its history, as it is too large.
    let report = audits::audited(&fixture, AuditSpec::default()).await;
    assert_eq!((report.same, report.partly, report.differing), (1, 2, 0), "{report:?}");
}

/// It stays on the version that has handled its message, or goes over to the current one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_runs_on_the_deployment_that_is_asked_for() {
    let fixture = Fixture::new().await;
    let first = fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    send_all(&fixture, "x", &[b"sone", b"g"]).await;
    let next = testkit::guest_with("bad-luck", "badluck2");
    let second = fixture.deploy("2.0.0", next.into()).await.unwrap();
    send_all(&fixture, "x", &[b"g"]).await;
    let (old, new) = (first.current.deployment, second.current.deployment);
    let runs = [("a", 2, None, new), ("b", 2, Some(old), old), ("c", 2, Some(new), new)];
    for (to, at, deployment, runs_on) in runs {
        fixture.node.fork(ForkAsk { deployment, ..ask(to, Some(at)) }).await.unwrap();
        for _ in 0..2 {
            let sent = fixture.node.send(&named(to), message(b"g")).await.unwrap();
            let label = if runs_on == old { &first.current.label } else { &second.current.label };
            assert_eq!(*sent.plugin, **label, "{to}");
        }
    }
    let wrong = ForkAsk { deployment: Some(old), ..ask("d", Some(3)) };
    assert_eq!(code(fixture.node.fork(wrong).await), Code::RequestInvalid);
    let report = audits::audited(&fixture, AuditSpec::default()).await;
    assert_eq!((report.verdict, report.same), (Verdict::Same, 4), "{report:?}");
}

/// A state that does not fit one batch comes in parts, with as many messages; and what a fork that was broken off has left
/// is no obstacle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_state_comes_in_parts() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    send_all(&fixture, "x", &[b"sone"]).await;
    for key in ["a", "b", "c", "d", "e", "f"] {
        let value = Some(Bytes::from(key.repeat(1_000_000)));
        let entered = Entered { changes: vec![(key.into(), value)], note: "{}".into() };
        let set = Operation::new(None, "ann".into(), None, Action::Set(entered));
        fixture.node.operate(&named("x"), set).await.unwrap();
    }
    let done = fixture.node.fork(ask("y", None)).await.unwrap();
    assert_eq!((done.forked.first, done.forked.at), (5, 7), "three parts");
    assert_eq!(state(&fixture, "y").await, state(&fixture, "x").await);
    let sent = fixture.node.send(&named("y"), message(b"g")).await.unwrap();
    assert_eq!((sent.seq, &sent.body[..]), (8, &b"one"[..]));
    assert_eq!(history(&fixture, "y", ALL).await.0.len(), 8);
    // The first part of another one, and then nothing.
    let (reader, consistency) = (ReadBy::Client, Consistency::Current);
    let range = Range::After { seq: 4, limit: 1 };
    let read = ReadHistory { key: named("y"), range, reader, consistency };
    let entry = (*fixture.node.call(read).await.unwrap().entries[0].0).clone();
    let part = Fork {
        forked: (*done.forked).clone(),
        created_ms: 1,
        deployment: 1,
        pinned: None,
        after: 0,
        history: vec![entry],
        values: Vec::new(),
    };
    let operation = Operation::new(None, String::new(), None, Action::Fork(part.into()));
    fixture.node.operate(&named("z"), operation).await.unwrap();
    assert_eq!(describe(&fixture, named("z")).await.unwrap().seq, 5);
    let early = fixture.node.send(&named("z"), message(b"g")).await;
    assert_eq!(code(early), Code::Unavailable, "half a state");
    fixture.node.fork(ask("z", Some(7))).await.unwrap();
    assert_eq!(state(&fixture, "z").await, state(&fixture, "x").await);
    assert_eq!(describe(&fixture, named("z")).await.unwrap().seq, 7);
    let there = fixture.node.sessions(&fixture.service, "", None, 9).await.unwrap();
    assert_eq!(there.len(), 3, "each is counted once");
}

/// Whoever may fork would make as many sessions as he likes, each with a copy of a state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subject_that_has_as_many_sessions_as_it_may_forks_none() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    let limits =
        toml::from_str::<slotd_quota::policy::Limits>("subject = { sessions = 0 }").unwrap();
    fixture.node.context.quota.set([("s", &limits)]);
    send_all(&fixture, "x", &[b"sone", b"stwo"]).await;
    let client = Client { kind: "accounts".into(), subject: Some("ann".into()), claims: vec![] };
    let of_ann = ForkAsk { by: Some(client.into()), ..ask("y", Some(2)) };
    assert_eq!(code(fixture.node.fork(of_ann).await), Code::QuotaExceeded);
    assert_eq!(code(describe(&fixture, named("y")).await), Code::SessionNotFound);
    fixture.node.fork(ask("y", Some(2))).await.unwrap();
}
