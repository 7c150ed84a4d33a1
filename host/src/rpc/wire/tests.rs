#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    buffers::Held,
    effects::Forked,
    log::record::{Entry, Event},
    message::{
        Answer, Consistency, Ephemeral, History, Origin, PinInfo, Published, Range, ReadBy, Sent,
        SessionInfo, Subscribed,
    },
    names::SessionKey,
    operation::{
        ChangeEffect, Delete, Deliver, Describe, List, ListEffects, Notify, Operate, Query,
        ReadHistory, ReadState, Subscribe,
    },
    operator::StatePage,
    position::Incarnation,
    rpc::Callable,
};
use std::{collections::BTreeSet, time::Duration};

mod golden;

fn forked() -> Arc<Forked> {
    let from = SessionKey::parse("chat", "room").unwrap().session;
    Forked { root: from.clone(), from, of: 1, at: 7, first: 6, depth: 2 }.into()
}

fn key() -> SessionKey {
    SessionKey::parse("chat", "room-1").unwrap()
}

fn through(response: Result<Response, Error>) -> Result<Response, Error> {
    decode_response(encode_response(response).unwrap()).unwrap()
}

/// A field that is lost on the way changes what a client is told.
#[test]
fn answers_arrive_as_they_were_sent() {
    let event = Event { kind: "k".into(), content_type: "t".into(), body: "e".into() };
    let entry = Entry {
        seq: 3,
        id: Some("i".into()),
        sender: None,
        time_ms: 5,
        content_type: "text/plain".into(),
        body: Bytes::from(vec![1; 5_000]),
        reply_content_type: "r".into(),
        reply: "reply".into(),
        deployment: 2,
        events: vec![event.clone()],
        origin: None,
        caused: Vec::new(),
    };
    let info = SessionInfo {
        service: key().service,
        session: key().session,
        slot: 7,
        seq: 8,
        created_ms: 1,
        updated_ms: 2,
        plugin: "1+ab".into(),
        state_keys: 3,
        state_bytes: 4,
        pinned: None,
        incarnation: Some(Incarnation::from_wire(9)),
        made_again: true,
        closed: false,
        forked: None,
    };
    let pinned = SessionInfo {
        pinned: Some(PinInfo { against: "2+cd".into(), reason: "no".into() }),
        // Not said in listings.
        incarnation: None,
        made_again: false,
        closed: false,
        ..info.clone()
    };
    let slot = SlotInfo {
        slot: 1,
        owner: "a".into(),
        state: "running".into(),
        term: 2,
        position: 3,
        applied: 4,
        mailbox: 5,
        sessions: 6,
        plugins: [("chat".to_owned(), "1+ab".to_owned())].into(),
    };
    let of = Some(Incarnation::from_wire((1 << 48) - 1));
    let published = Published { seq: 1, incarnation: of, time_ms: 2, events: [event].into() };
    let answers = || {
        [
            Response::Sent(Sent {
                seq: 1,
                incarnation: of,
                slot: 2,
                plugin: "p".into(),
                replayed: true,
                content_type: "c".into(),
                body: "b".into(),
                guest_time: Duration::from_nanos(300),
            }),
            Response::Answer(Answer {
                slot: 2,
                plugin: "p".into(),
                seq: 9,
                content_type: "c".into(),
                body: Bytes::from(vec![2; 9_000]),
                guest_time: Duration::from_secs(1),
            }),
            Response::History(History {
                slot: 3,
                entries: vec![(Arc::new(entry.clone()), "1+ab".into())],
                last_seq: 4,
                incarnation: of,
                made_again: true,
                forked: Some(forked()),
                begins: None,
                held: Held::default(),
            }),
            Response::Session(Box::new(SessionInfo {
                closed: true,
                forked: Some(forked()),
                ..info.clone()
            })),
            Response::Deleted(()),
            Response::Sessions(vec![pinned.clone()]),
            Response::Subscribed(Subscribed {
                backlog: vec![published.clone()],
                live: None,
                incarnation: of,
                held: Held::default(),
            }),
            Response::Slots(vec![slot.clone()]),
            Response::State(Box::new(StatePage {
                info: SessionInfo { made_again: false, ..info.clone() },
                pairs: vec![("k".into(), "v".into())],
                more: true,
            })),
            Response::Effects(golden::effects()),
            Response::Delivered(golden::delivered()),
            Response::Control("x".into()),
            Response::NotOwner { owner: Some("b".into()), term: 4, position: 5 },
        ]
    };
    for (sent, expected) in answers().into_iter().zip(answers()) {
        let got = through(Ok(sent)).unwrap();
        assert_eq!(shown(&got), shown(&expected));
    }
    let live = decode_live(&encode_live(Live::Published(published.clone())).unwrap()).unwrap();
    assert_eq!(format!("{live:?}"), format!("{:?}", Live::Published(published)));
    assert!(matches!(decode_live(&encode_live(Live::Deleted).unwrap()), Ok(Live::Deleted)));
}

fn shown(response: &Response) -> String {
    match response {
        Response::Sent(v) => format!("{v:?}"),
        Response::Answer(v) => format!("{v:?}"),
        Response::History(v) => format!("{v:?}"),
        Response::Session(v) => format!("{v:?}"),
        Response::Deleted(()) => "deleted".into(),
        Response::Sessions(v) => format!("{v:?}"),
        Response::Subscribed(v) => {
            format!("{:?} {} {:?}", v.backlog, v.live.is_some(), v.incarnation)
        }
        Response::Slots(v) => format!("{v:?}"),
        Response::State(v) => format!("{v:?}"),
        Response::Effects(v) => format!("{v:?}"),
        Response::Delivered(v) => format!("{v:?}"),
        Response::Control(v) => format!("{v:?}"),
        Response::NotOwner { owner, term, position } => format!("{owner:?} {term} {position}"),
    }
}

/// A node of an earlier version must understand what this one says of its slots, and the other way
/// round: they serve together while a cluster is brought to another version.
#[test]
fn slots_have_the_form_of_earlier_versions() {
    let earlier = (
        (7_u16, "a", "running", 2_u64, 3_u64, 4_u64, 5_usize, 6_u64),
        (0_u64, 0_u64, BTreeMap::from([("chat", "1+ab")])),
    );
    let list = body(&vec![earlier]).unwrap();
    let read: Vec<Slot> = value(&list).unwrap();
    let info = SlotInfo::from(read.into_iter().next().unwrap());
    assert_eq!((info.slot, info.sessions, info.plugins.len()), (7, 6, 1));
    let sent = encode_response(Ok(Response::Slots(vec![info]))).unwrap();
    assert_eq!(sent.body, list);
}

/// A client must get the peer's own code, also its retry hint and the plugin's rejection.
#[test]
fn refusals_keep_their_code() {
    let mut error = Error::of(Cause::Rejected, "no").with_plugin("1+ab");
    error.rejection =
        Some(Box::new(Rejection { code: "c".into(), message: "m".into(), retriable: true }));
    let got = through(Err(error.clone())).err().unwrap();
    assert_eq!(format!("{got:?}"), format!("{error:?}"));
    for code in Code::ALL {
        let got = through(Err(Error::new(*code, "x"))).err().unwrap();
        assert_eq!((got.code, got.retry_after.is_some()), (*code, code.retriable()));
    }
    let failure = Failure { code: "from-the-future".into(), ..Error::internal("x").into() };
    assert_eq!(Error::from(failure).code, Code::Internal);
}

/// A request that changes on the way would be carried out as another one.
#[test]
fn requests_arrive_as_they_were_sent() {
    let message = Incoming {
        id: Some("i".into()),
        sender: Some("s".into()),
        content_type: "c".into(),
        body: "b".into(),
        trace: None,
        client: None,
    };
    let sent = Request::Message { key: key(), message, lane: 77 };
    match decode_request(encode_request(sent).unwrap()).unwrap() {
        Request::Message { key: k, message, lane: 77 } => {
            assert_eq!(k, key());
            assert_eq!((message.id.as_deref(), message.sender.as_deref()), (Some("i"), Some("s")));
            assert_eq!((&*message.content_type, &*message.body), ("c", &b"b"[..]));
        }
        _ => panic!("another request"),
    }
    let sent = List {
        slot: 300,
        service: key().service,
        prefix: "p".into(),
        after: Some(key().session),
        limit: 10,
        pinned: true,
    };
    match decode_request(encode_request(sent.request()).unwrap()).unwrap() {
        Request::List(List { slot: 300, service, prefix, after, limit: 10, pinned: true }) => {
            assert_eq!((service, &*prefix), (key().service, "p"));
            assert_eq!(after, Some(key().session));
        }
        _ => panic!("another request"),
    }
    let (reader, consistency) = (ReadBy::Client, Consistency::Local);
    let range = Range::After { seq: 4, limit: 5 };
    let sent = ReadHistory { key: key(), range, reader, consistency };
    match decode_request(encode_request(sent.request()).unwrap()) {
        Ok(Request::ReadHistory(ReadHistory {
            range: Range::After { seq: 4, limit: 5 },
            consistency: Consistency::Local,
            ..
        })) => {}
        _ => panic!("another request"),
    }
    let (range, consistency) = (Range::Tail { limit: 6 }, Consistency::Current);
    let sent = ReadHistory { key: key(), range, reader, consistency };
    match decode_request(encode_request(sent.request()).unwrap()) {
        Ok(Request::ReadHistory(ReadHistory {
            range: Range::Tail { limit: 6 },
            consistency: Consistency::Current,
            ..
        })) => {}
        _ => panic!("another request"),
    }
    let sent = Subscribe { key: key(), after: 9 };
    match decode_request(encode_request(sent.request()).unwrap()) {
        Ok(Request::Subscribe(Subscribe { after: 9, .. })) => {}
        _ => panic!("another request"),
    }
}

/// Nodes of the version before are in one cluster with this one while it is upgraded: what they
/// send has to be read, and what they are sent they have to be able to read.
#[test]
fn the_version_before_is_understood_and_understands() {
    let entries: Vec<(Arc<Entry>, Arc<str>)> = Vec::new();
    let before = parts(History::TAG, &(3_u16, 4_u64), body(&entries).unwrap()).unwrap();
    match decode_response(Parts { head: before.head.clone(), body: before.body }) {
        Ok(Ok(Response::History(History { last_seq: 4, incarnation: None, .. }))) => {}
        _ => panic!("another answer"),
    }
    let now = History {
        slot: 3,
        entries: Vec::new(),
        last_seq: 4,
        incarnation: Some(Incarnation::from_wire(7)),
        made_again: true,
        forked: None,
        begins: None,
        held: Held::default(),
    };
    let now = encode_response(Ok(Response::History(now))).unwrap();
    assert!(now.head.len() > before.head.len() && now.head.starts_with(&before.head));
    // It reads the head in this way, and no further.
    let (tag, fields) = split(&now.head).unwrap();
    assert_eq!((tag, value::<(u16, u64)>(fields).unwrap()), (History::TAG, (3, 4)));
    let step = Step { seq: 1, time_ms: 2, events: Arc::new([]) };
    let live = parts(live::PUBLISHED, &(), body(&step).unwrap()).unwrap();
    match decode_live(&live) {
        Ok(Live::Published(Published { seq: 1, incarnation: None, .. })) => {}
        other => panic!("{other:?}"),
    }
}

/// A limit of guest time would not see what is used on other nodes; and a node of the version before has to read an answer
/// that says so.
#[test]
fn what_a_handler_has_used_is_behind_all_that_the_version_before_reads() {
    let used = Duration::from_millis(300);
    let mut error = Error::of(Cause::Deadline, "late").with_plugin("1+ab");
    let before = encode_response(Err(error.clone())).unwrap();
    error.guest_time = used;
    let now = encode_response(Err(error)).unwrap();
    assert!(now.body.len() > before.body.len() && now.body.starts_with(&before.body));
    let read: Failure = value(&now.body).unwrap();
    assert_eq!((&*read.code, read.plugin.as_deref()), ("plugin-deadline", Some("1+ab")));
    let error = decode_response(now).unwrap().err().unwrap();
    assert_eq!((error.code, error.guest_time), (Code::PluginDeadline, used));
    assert_eq!(decode_response(before).unwrap().err().unwrap().guest_time, Duration::ZERO);

    let answer = Answer {
        slot: 2,
        plugin: "p".into(),
        seq: 9,
        content_type: "c".into(),
        body: Bytes::new(),
        guest_time: Duration::ZERO,
    };
    let before = encode_response(Ok(Response::Answer(answer.clone()))).unwrap();
    let now = encode_response(Ok(Response::Answer(Answer { guest_time: used, ..answer }))).unwrap();
    assert!(now.head.len() > before.head.len() && now.head.starts_with(&before.head));
    let (tag, fields) = split(&now.head).unwrap();
    let read: (u16, String, u64, String) = value(fields).unwrap();
    assert_eq!((tag, read), (Answer::TAG, (2, "p".into(), 9, "c".into())));
}

/// A node of the version before must say that it can't discard, rather than do something else; and it
/// must be able to do what it could.
#[test]
fn what_the_version_before_can_not_do_it_does_not_read() {
    use crate::{
        operator::{Action, Entered, Import, Operation},
        position::Cursor,
    };
    #[derive(Debug, Deserialize)]
    struct Before {
        id: String,
        who: String,
        expected: Option<Cursor>,
        action: ActionBefore,
    }
    #[derive(Debug, Deserialize)]
    enum ActionBefore {
        Set(Entered),
        Import(Import),
    }
    let at = Some(Cursor::after(3, Some(Incarnation::from_wire(7))));
    let sent = |action| {
        let operation = Operation::new(Some("k"), "ann".into(), at, action);
        encode_request(Operate { key: key(), operation }.request()).unwrap()
    };
    let set = sent(Action::Set(Entered { changes: Vec::new(), note: "n".into() }));
    let read: Before = value(&set.body).unwrap();
    assert_eq!((&*read.id, &*read.who, read.expected), ("\u{1}operator k", "ann", at));
    assert!(matches!(read.action, ActionBefore::Set(entered) if entered.note == "n"));
    let import = sent(Action::Import(Import {
        replace: true,
        after: 9,
        created_ms: 1,
        deployment: 2,
        history: Vec::new(),
        entered: None,
    }));
    let read: Before = value(&import.body).unwrap();
    assert!(matches!(read.action, ActionBefore::Import(import) if import.after == 9));
    let discard = sent(Action::Discard);
    assert!(value::<Before>(&discard.body).is_err());
    match decode_request(discard) {
        Ok(Request::Operate(Operate { operation, .. })) => {
            assert!(matches!(operation.action, Action::Discard) && operation.expected == at);
        }
        _ => panic!("another request"),
    }
}

/// Bytes that are none of ours must be refused, not guessed at.
#[test]
fn bytes_of_another_format_are_refused() {
    for head in [&b""[..], b"\x02\x00", b"\x01\xff", b"\x01"] {
        let parts = || Parts { head: Bytes::copy_from_slice(head), body: Bytes::new() };
        assert!(decode_request(parts()).is_err(), "{head:?}");
        assert!(decode_response(parts()).is_err(), "{head:?}");
    }
}

/// What can't encode would arrive as an empty answer, or become an empty batch of the log.
#[test]
fn what_can_not_be_encoded_is_refused() {
    struct Unfit;
    impl Serialize for Unfit {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("it has no form"))
        }
    }
    for refused in [parts(0, &Unfit, Bytes::new()).err(), body(&Unfit).err()] {
        let error = refused.unwrap();
        assert!(error.code == Code::Internal && error.detail.contains("can't encode"));
    }
}

/// Two of one tag: a node would take one for the other.
#[test]
fn every_tag_is_one_operations() {
    macro_rules! tags {
        (
            forwarded { $($Op:ident,)* }
            other { $($other:tt)* }
            answers { $($Variant:ident($Answer:ty),)* }
            boxed { $($Boxed:ident($Large:ty),)* }
        ) => {{
            let requests: Vec<&[u32]> = vec![$($Op::TAGS,)*];
            (requests.concat(), vec![$(<$Answer>::TAG,)* $(<$Large>::TAG,)*])
        }};
    }
    let (mut requests, mut answers) = operations!(tags);
    requests.extend([request::MESSAGE, request::TRACED_MESSAGE, request::CLIENTS_MESSAGE]);
    requests.extend([request::SLOTS, request::CONTROL]);
    answers.extend([response::SLOTS, response::CONTROL, response::NOT_OWNER, response::FAILED]);
    for tags in [requests, answers] {
        assert_eq!(tags.iter().collect::<BTreeSet<_>>().len(), tags.len(), "{tags:?}");
    }
}
