#![allow(clippy::unwrap_used)]

use super::*;
use crate::effects::{
    Caused, Effect, Entered, Firing, Forked, Inherited, http,
    rows::Name,
    send::{self},
};
use crate::{level::IDENTITY_FROM, message::Client};
use proptest::prelude::*;

fn message(seq: u64, body: &[u8], pinned: Option<Pin>) -> Message {
    let entry = Entry {
        seq,
        id: seq.is_multiple_of(2).then(|| format!("key-{seq}")),
        sender: Some("ann".into()),
        time_ms: 1_700_000_000_000 + seq,
        content_type: "text/plain".into(),
        body: Bytes::copy_from_slice(body),
        reply_content_type: "application/json".into(),
        reply: Bytes::from_static(b"7"),
        deployment: 3,
        events: vec![Event { kind: "line".into(), content_type: "t".into(), body: "e".into() }],
        origin: None,
        caused: Vec::new(),
    };
    let head = Head {
        session_number: 5,
        seq,
        created_ms: 1_700_000_000_000,
        updated_ms: 1_700_000_000_000 + seq,
        deployment: 2,
        pinned,
        state_keys: 1,
        state_bytes: 9,
    };
    Message {
        key: SessionKey::parse("chat", "room-1").unwrap(),
        session_number: 5,
        entry: entry.into(),
        fingerprint: u128::MAX / 3,
        writes: vec![
            Write { key: "n".into(), value: Some("8".into()) },
            Write { key: "gone".into(), value: None },
        ],
        head,
        effects: Vec::new(),
    }
}

/// Of every kind of record.
fn batch(seq: u64, body: &[u8], pinned: Option<Pin>) -> Batch {
    let service = ServiceName::parse("chat").unwrap();
    let records = vec![
        Record::Claim { node: "node-1".into() },
        Record::Activate(Activate { service, generation: 4, deployment: 3 }),
        Record::Message(Box::new(message(seq, body, pinned))),
        Record::Delete(Delete::new(SessionKey::parse("chat", "room-2").unwrap(), 6)),
        Record::Release { node: "node-1".into() },
    ];
    Batch { slot: 511, term: 1 << 40, attempt: u128::MAX - 1, records }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Who a client was shown to be, of every form.
fn client() -> impl Strategy<Value = Client> {
    let claims = proptest::collection::btree_map(".{0,8}", ".{0,40}", 0..5);
    ("[a-z]{1,9}", proptest::option::of(".{0,20}"), claims).prop_map(|(kind, subject, claims)| {
        let (kind, subject) = (kind.into(), subject.map(Into::into));
        Client { kind, subject, claims: claims.into_iter().collect() }
    })
}

/// The batch with its message sent by a client.
fn of_client(mut batch: Batch, client: Client, caused: Vec<Caused>) -> Batch {
    for record in &mut batch.records {
        if let Record::Message(message) = record {
            let entry = Arc::make_mut(&mut message.entry);
            entry.origin = Some(Box::new(Origin::Client(client.clone().into())));
            entry.caused = caused.clone();
        }
    }
    batch
}

proptest! {
    /// Who sent a message would be lost, or be somebody else.
    #[test]
    fn an_identity_is_given_back_as_it_was_written(
        client in client(),
        seq in 1..u64::MAX,
        has_led_to_something in any::<bool>(),
    ) {
        let caused = if has_led_to_something { vec![Caused::Closed] } else { Vec::new() };
        let batch = of_client(batch(seq, b"b", None), client, caused);
        let encoded = batch.encode_at(IDENTITY_FROM).unwrap();
        prop_assert_eq!(&Batch::decode(&encoded).unwrap(), &batch);
        let Record::Message(message) = &batch.records[2] else { panic!() };
        // Stores and snapshots have it alone.
        let entry = postcard::to_stdvec(&message.entry).unwrap();
        prop_assert_eq!(&postcard::from_bytes::<Entry>(&entry).unwrap(), &*message.entry);
    }

    /// A field that is lost, or read as another, is another history.
    #[test]
    fn every_format_gives_back_what_was_written(
        seq in 1..u64::MAX,
        body in proptest::collection::vec(any::<u8>(), 0..5_000),
        reason in proptest::option::of(".{0,40}"),
    ) {
        let pinned = reason.map(|reason| Pin { against: 9, reason });
        let batch = batch(seq, &body, pinned);
        for level in [1, 2] {
            let encoded = batch.encode_at(level).unwrap();
            prop_assert_eq!(u16::from(encoded[0]), level);
            prop_assert_eq!(Batch::peek(&encoded).unwrap(), (batch.slot, batch.term, batch.attempt));
            prop_assert_eq!(&Batch::decode(&encoded).unwrap(), &batch);
        }
    }

    /// The log's own checksums find damage; what is damaged all the same must not end the process.
    #[test]
    fn damage_is_an_error(at in any::<prop::sample::Index>(), flip in 1..255_u8, level in 1..=2_u16) {
        let mut encoded = batch(1, b"body", None).encode_at(level).unwrap().to_vec();
        let at = at.index(encoded.len());
        let _ = Batch::decode(&encoded[..at]).unwrap_err();
        encoded[at] ^= flip;
        let _ = Batch::decode(&encoded);
        let _ = Batch::peek(&encoded);
    }
}

/// What is on the disks and in the streams of those who have run these versions.
#[test]
fn bytes_that_were_written_are_read() {
    let batch = batch(2, b"hello", Some(Pin { against: 9, reason: "no".into() }));
    for (level, written) in [(1, FORMAT_1), (2, FORMAT_2)] {
        let encoded = batch.encode_at(level).unwrap();
        assert_eq!(hex(&encoded), written.replace(char::is_whitespace, ""), "format {level}");
    }
}

/// A log that is replayed without what an older slotd does not know is another history.
#[test]
fn what_a_later_version_wrote_is_refused() {
    let claim =
        Batch { slot: 1, term: 2, attempt: 3, records: vec![Record::Claim { node: "a".into() }] };
    let encoded = claim.encode_at(2).unwrap().to_vec();
    // 2 | slot, term, attempt, count | kind, length | the node's length and name
    assert_eq!(encoded, [2, 1, 2, 3, 1, 1, 2, 0, 0, 0, 1, b'a']);
    let refused = |bytes: &[u8]| Batch::decode(bytes).unwrap_err().to_string();
    let mut kind = encoded.clone();
    kind[5] = 77;
    assert!(refused(&kind).contains("kind 77"), "{}", refused(&kind));
    let mut fields = encoded.clone();
    fields[6] = 3;
    fields.push(0);
    assert!(refused(&fields).contains("1 bytes of a record"), "{}", refused(&fields));
    let mut more = encoded.clone();
    more.push(0);
    assert!(refused(&more).contains("1 bytes follow"), "{}", refused(&more));
    let mut sealed = encoded.clone();
    sealed[0] = 3;
    assert!(refused(&sealed).contains("set seal.key_file"), "{}", refused(&sealed));
    let mut format = encoded;
    format[0] = 4;
    assert!(refused(&format).contains("format 4; this slotd reads 1 to 3"), "{}", refused(&format));
    assert!(Batch::peek(&format).is_err());
}

const FORMAT_1: &str = "\
    01ff03808080808020feffffffffffffffffffffffffffffffffff030500066e6f64652d3102046368617404\
    0303046368617406726f6f6d2d31050201056b65792d320103616e6e82d095ffbc310a746578742f706c6169\
    6e0568656c6c6f106170706c69636174696f6e2f6a736f6e01370301046c696e6501740165d5aad5aad5aad5\
    aad5aad5aad5aad5aad5aa0102016e01013804676f6e6500050280d095ffbc3182d095ffbc31020109026e6f\
    010904046368617406726f6f6d2d320601066e6f64652d31";
const FORMAT_2: &str = "\
    02ff03808080808020feffffffffffffffffffffffffffffffffff03050107000000066e6f64652d31030700\
    0000046368617404030482000000046368617406726f6f6d2d31050201056b65792d320103616e6e82d095ff\
    bc310a746578742f706c61696e0568656c6c6f106170706c69636174696f6e2f6a736f6e01370301046c696e\
    6501740165d5aad5aad5aad5aad5aad5aad5aad5aad5aa0102016e01013804676f6e650080d095ffbc3182d0\
    95ffbc31020109026e6f0109050d000000046368617406726f6f6d2d32060207000000066e6f64652d31";

/// A timer's message, and what else is written of effects.
fn batch_with_effects() -> Batch {
    let change = |value: Option<&'static str>, was_due, due| Change {
        row: Bytes::from_static(b"\x01close"),
        value: value.map(Bytes::from),
        was_due,
        due,
    };
    let mut message = message(3, b"hi", None);
    let entry = Arc::make_mut(&mut message.entry);
    let firing = Firing { name: "close".into(), due_ms: 5_000, missed: 2, attempt: 1 };
    (entry.id, entry.sender) = (None, None);
    entry.origin = Some(Box::new(Origin::Timer(firing)));
    message.effects = vec![change(None, Some(5_000), None)];
    let key = SessionKey::parse("chat", "room-2").unwrap();
    let effects = vec![change(Some("timer"), Some(300), Some(400))];
    let delete = Delete { key: key.clone(), session_number: 6, effects: effects.clone() };
    let effects = Effects { key, session_number: 7, changes: effects };
    let records = vec![
        Record::Message(Box::new(message)),
        Record::Delete(delete),
        Record::Effects(Box::new(effects)),
    ];
    Batch { slot: 511, term: 9, attempt: 1, records }
}

/// What is in logs stays as it is; and a version that can't read it is never given it: it would replay
/// another history.
#[test]
fn effects_keep_their_form_and_need_their_level() {
    let batch = batch_with_effects();
    for level in [1, 3] {
        assert!(batch.encode_at(level).is_err(), "at level {level}");
    }
    let bytes = batch.encode_at(4).unwrap();
    assert_eq!(Batch::decode(&bytes).unwrap(), batch);
    let mut plain = batch.clone();
    for record in &mut plain.records {
        match record {
            Record::Message(message) => {
                message.effects.clear();
                Arc::make_mut(&mut message.entry).origin = None;
            }
            Record::Delete(delete) => delete.effects.clear(),
            _ => {}
        }
    }
    plain.records.pop();
    // A message without effects is as it was.
    assert_eq!(plain.encode_at(4).unwrap(), plain.encode_at(2).unwrap());
    assert_eq!(hex(&bytes), EFFECTS);
}

/// A message of another session, and what else is written of messages between sessions.
#[test]
fn messages_between_sessions_keep_their_form_and_need_their_level() {
    let from = SessionKey::parse("cart", "c").unwrap();
    let mut message = message(3, b"hi", None);
    let entry = Arc::make_mut(&mut message.entry);
    (entry.id, entry.sender) = (None, None);
    let received =
        send::Received { from: from.clone(), sent_by: 4, attempt: 1, hops: 2, reply: true };
    entry.origin = Some(Box::new(Origin::Session(received)));
    let refusal = send::Refusal { code: "c".into(), reason: "w".into(), retriable: false };
    let answered = send::Answered {
        of: from,
        name: "r".into(),
        sent_by: 4,
        attempt: 1,
        hops: 2,
        refusal: Some(refusal),
    };
    let mut answer = message.clone();
    Arc::make_mut(&mut answer.entry).origin = Some(Box::new(Origin::Answer(answered)));
    let number = |index| send::Number { term: 7, index };
    let mark = send::Mark { last: number(8), round: number(9) };
    let row = Name::Outgoing(send::Place { to: 3, number: number(1) }).row();
    let change = Change { row, value: Some("sent".into()), was_due: None, due: None };
    let key = SessionKey::parse("chat", "room-2").unwrap();
    let effects = Effects { key, session_number: 7, changes: vec![change] };
    let records = vec![
        Record::Message(Box::new(message)),
        Record::Message(Box::new(answer)),
        Record::Received(Received { from: 5, mark }),
        Record::Effects(Box::new(effects)),
    ];
    for record in &records {
        let batch = Batch { slot: 511, term: 9, attempt: 1, records: vec![record.clone()] };
        assert!(batch.encode_at(4).is_err(), "{record:?} at level 4");
    }
    let batch = Batch { slot: 511, term: 9, attempt: 1, records };
    let bytes = batch.encode_at(5).unwrap();
    assert_eq!(Batch::decode(&bytes).unwrap(), batch);
    assert_eq!(hex(&bytes), SENDS);
}

/// What comes of a request over HTTP, and of subscribers.
#[test]
fn messages_of_requests_keep_their_form_and_need_their_level() {
    let response = http::Response { status: 200, headers: vec![("h".into(), "v".into())] };
    let failure =
        http::Failure { code: "c".into(), reason: "r".into(), response: Some(response.clone()) };
    let answered =
        |outcome| http::Answered { id: "i".into(), outcome, attempts: 2, asked_by: 3, attempt: 4 };
    let origins = [
        Origin::Http(answered(http::Outcome::Response(response))),
        Origin::Http(answered(http::Outcome::Failure(failure))),
        Origin::Part(http::Part { id: "i".into(), attempt: 1, asked_by: 2 }),
        Origin::Presence(true),
    ];
    let mut records: Vec<_> = origins
        .into_iter()
        .map(|origin| {
            let mut message = message(3, b"hi", None);
            let entry = Arc::make_mut(&mut message.entry);
            (entry.id, entry.sender, entry.origin) = (None, None, Some(Box::new(origin)));
            Record::Message(Box::new(message))
        })
        .collect();
    let key = SessionKey::parse("chat", "room-2").unwrap();
    let names = [Name::Request("i".into()), Name::Closed, Name::Watch];
    let changes = names.map(|name| Change {
        row: name.row(),
        value: Some("v".into()),
        was_due: None,
        due: None,
    });
    for change in changes {
        let effects = Effects { key: key.clone(), session_number: 7, changes: vec![change] };
        records.push(Record::Effects(Box::new(effects)));
    }
    // What a message has led to, of a client's and of another one.
    let caused = vec![
        Caused::Timer { name: "t".into(), due_ms: 1 },
        Caused::Sent { to: key.clone(), reply: Some("r".into()) },
        Caused::Request { id: "i".into() },
        Caused::Expires { at_ms: 2 },
        Caused::Closed,
        Caused::More(3),
    ];
    for origin in [None, Some(Box::new(Origin::Presence(false)))] {
        let mut message = message(3, b"hi", None);
        let entry = Arc::make_mut(&mut message.entry);
        (entry.origin, entry.caused) = (origin, caused.clone());
        records.push(Record::Message(Box::new(message)));
    }
    for record in &records {
        let batch = Batch { slot: 511, term: 9, attempt: 1, records: vec![record.clone()] };
        assert!(batch.encode_at(5).is_err(), "{record:?} at level 5");
    }
    let batch = Batch { slot: 511, term: 9, attempt: 1, records };
    let bytes = batch.encode_at(6).unwrap();
    assert_eq!(Batch::decode(&bytes).unwrap(), batch);
    assert_eq!(hex(&bytes), REQUESTS);
}

/// A version from before would take the message for damaged, or for another one.
#[test]
fn messages_with_an_identity_keep_their_form_and_need_their_level() {
    let claims = vec![("org".into(), "tea".into()), ("role".into(), String::new())];
    let ann = Client { kind: "accounts".into(), subject: Some("ann".into()), claims };
    let root = Client { kind: "root".into(), subject: None, claims: Vec::new() };
    let message = |client: &Client, caused| {
        let record = Record::Message(Box::new(message(3, b"hi", None)));
        let batch = Batch { slot: 511, term: 9, attempt: 1, records: vec![record] };
        of_client(batch, client.clone(), caused)
    };
    let batches =
        [message(&ann, vec![]), message(&root, vec![]), message(&ann, vec![Caused::Closed])];
    for (batch, written) in batches.iter().zip(IDENTITIES) {
        assert!(batch.encode_at(6).is_err(), "{batch:?} at level 6");
        let bytes = batch.encode_at(8).unwrap();
        assert_eq!(Batch::decode(&bytes).unwrap(), *batch);
        assert_eq!(hex(&bytes), written);
    }
}

/// What an operator has written, so that the history can be run past it.
#[test]
fn what_an_operator_has_written_keeps_its_form_and_needs_its_level() {
    let writes = vec![("k".into(), Some("new".into())), ("gone".into(), None)];
    let mut message = message(3, b"{}", None);
    let entry = Arc::make_mut(&mut message.entry);
    entry.origin = Some(Box::new(Origin::Operator(Entered { writes }.into())));
    let records = vec![Record::Message(Box::new(message))];
    let batch = Batch { slot: 511, term: 9, attempt: 1, records };
    assert!(batch.encode_at(7).is_err(), "at level 7");
    let bytes = batch.encode_at(8).unwrap();
    assert_eq!(Batch::decode(&bytes).unwrap(), batch);
    assert_eq!(hex(&bytes), ENTERED);
}

/// What a session has of the one that it was forked off. A version from before would count the session as none, or take it for
/// damaged.
#[test]
fn a_fork_keeps_its_form_and_needs_its_level() {
    let key = SessionKey::parse("chat", "room-1").unwrap();
    let (from, root) = (key.session.clone(), key.session.clone());
    let forked = Arc::new(Forked { from, of: 300, at: 3, first: 3, root, depth: 1 });
    let state = Some(Entered { writes: vec![("k".into(), Some("v".into()))] });
    let origin = Some(Box::new(Origin::Presence(true)));
    let by = Client { kind: "token".into(), subject: Some("bob".into()), claims: Vec::new() };
    let inherited = Inherited { origin, forked: forked.clone(), state, by: Some(by.into()) };
    let mut message = message(3, b"hi", None);
    Arc::make_mut(&mut message.entry).origin = Some(Box::new(Origin::Inherited(inherited.into())));
    assert!(message.entry.begins());
    let of_row = Effect::Forked(forked).put(&Name::Forked, None).unwrap();
    let alone = Batch {
        slot: 511,
        term: 9,
        attempt: 1,
        records: vec![Record::Effects(Box::new(super::Effects {
            key,
            session_number: 5,
            changes: vec![of_row.clone()],
        }))],
    };
    assert!(alone.encode_at(7).is_err(), "the row at level 7");
    let records = vec![Record::Message(Box::new(message.clone()))];
    let batch = Batch { slot: 511, term: 9, attempt: 1, records };
    assert!(batch.encode_at(7).is_err(), "the entry at level 7");
    message.effects = vec![of_row];
    let records = vec![Record::Message(Box::new(message))];
    let batch = Batch { slot: 511, term: 9, attempt: 1, records };
    let bytes = batch.encode_at(8).unwrap();
    assert_eq!(Batch::decode(&bytes).unwrap(), batch);
    assert_eq!(hex(&bytes), FORKED);
}

const FORKED: &str = concat!(
    "02ff0309010106bd000000046368617406726f6f6d2d310500010801050106726f6f6d2d31ac02030306726f6f6d",
    "2d31010101016b0101760105746f6b656e0103626f620003000103616e6e83d095ffbc310a746578742f706c6169",
    "6e026869106170706c69636174696f6e2f6a736f6e01370301046c696e6501740165d5aad5aad5aad5aad5aad5aa",
    "d5aad5aad5aa0102016e01013804676f6e650080d095ffbc3183d095ffbc310200010901010f01140106726f6f6d",
    "2d31ac02030306726f6f6d2d31010000",
);
const ENTERED: &str = concat!(
    "02ff030901010486000000046368617406726f6f6d2d310500010702016b01036e657704676f6e65000300010361",
    "6e6e83d095ffbc310a746578742f706c61696e027b7d106170706c69636174696f6e2f6a736f6e01370301046c69",
    "6e6501740165d5aad5aad5aad5aad5aad5aad5aad5aad5aa0102016e01013804676f6e650080d095ffbc3183d095",
    "ffbc3102000109",
);
const IDENTITIES: [&str; 3] = [
    concat!(
        "02ff030901010495000000046368617406726f6f6d2d3105000106086163636f756e74730103616e6e02036f7267",
        "0374656104726f6c650003000103616e6e83d095ffbc310a746578742f706c61696e026869106170706c69636174",
        "696f6e2f6a736f6e01370301046c696e6501740165d5aad5aad5aad5aad5aad5aad5aad5aad5aa0102016e010138",
        "04676f6e650080d095ffbc3183d095ffbc3102000109",
    ),
    concat!(
        "02ff03090101047f000000046368617406726f6f6d2d310500010604726f6f74000003000103616e6e83d095ffbc",
        "310a746578742f706c61696e026869106170706c69636174696f6e2f6a736f6e01370301046c696e6501740165d5",
        "aad5aad5aad5aad5aad5aad5aad5aad5aa0102016e01013804676f6e650080d095ffbc3183d095ffbc3102000109",
    ),
    concat!(
        "02ff030901010498000000046368617406726f6f6d2d310500020106086163636f756e74730103616e6e02036f72",
        "670374656104726f6c6500010403000103616e6e83d095ffbc310a746578742f706c61696e026869106170706c69",
        "636174696f6e2f6a736f6e01370301046c696e6501740165d5aad5aad5aad5aad5aad5aad5aad5aad5aa0102016e",
        "01013804676f6e650080d095ffbc3183d095ffbc3102000109",
    ),
];
const REQUESTS: &str = concat!(
    "02ff030901090481000000046368617406726f6f6d2d3105000103016900c801010168017602030403000083d095",
    "ffbc310a746578742f706c61696e026869106170706c69636174696f6e2f6a736f6e01370301046c696e65017401",
    "65d5aad5aad5aad5aad5aad5aad5aad5aad5aa0102016e01013804676f6e650080d095ffbc3183d095ffbc310200",
    "01090486000000046368617406726f6f6d2d31050001030169010163017201c801010168017602030403000083d0",
    "95ffbc310a746578742f706c61696e026869106170706c69636174696f6e2f6a736f6e01370301046c696e650174",
    "0165d5aad5aad5aad5aad5aad5aad5aad5aad5aa0102016e01013804676f6e650080d095ffbc3183d095ffbc3102",
    "0001090478000000046368617406726f6f6d2d31050001040169010203000083d095ffbc310a746578742f706c61",
    "696e026869106170706c69636174696f6e2f6a736f6e01370301046c696e6501740165d5aad5aad5aad5aad5aad5",
    "aad5aad5aad5aa0102016e01013804676f6e650080d095ffbc3183d095ffbc310200010904750000000463686174",
    "06726f6f6d2d31050001050103000083d095ffbc310a746578742f706c61696e026869106170706c69636174696f",
    "6e2f6a736f6e01370301046c696e6501740165d5aad5aad5aad5aad5aad5aad5aad5aad5aa0102016e0101380467",
    "6f6e650080d095ffbc3183d095ffbc31020001090816000000046368617406726f6f6d2d320701020a6901017600",
    "000815000000046368617406726f6f6d2d320701010d01017600000815000000046368617406726f6f6d2d320701",
    "010e01017600000495000000046368617406726f6f6d2d3105000200060001740101046368617406726f6f6d2d32",
    "010172020169030204050303000103616e6e83d095ffbc310a746578742f706c61696e026869106170706c696361",
    "74696f6e2f6a736f6e01370301046c696e6501740165d5aad5aad5aad5aad5aad5aad5aad5aad5aa0102016e0101",
    "3804676f6e650080d095ffbc3183d095ffbc31020001090497000000046368617406726f6f6d2d31050002010500",
    "060001740101046368617406726f6f6d2d32010172020169030204050303000103616e6e83d095ffbc310a746578",
    "742f706c61696e026869106170706c69636174696f6e2f6a736f6e01370301046c696e6501740165d5aad5aad5aa",
    "d5aad5aad5aad5aad5aad5aa0102016e01013804676f6e650080d095ffbc3183d095ffbc3102000109",
);
const SENDS: &str = concat!(
    "02ff03090104047f000000046368617406726f6f6d2d3105000101046361727401630401020103000083d095ffbc",
    "310a746578742f706c61696e026869106170706c69636174696f6e2f6a736f6e01370301046c696e6501740165d5",
    "aad5aad5aad5aad5aad5aad5aad5aad5aa0102016e01013804676f6e650080d095ffbc3183d095ffbc3102000109",
    "0486000000046368617406726f6f6d2d310500010204636172740163017204010201016301770003000083d095ff",
    "bc310a746578742f706c61696e026869106170706c69636174696f6e2f6a736f6e01370301046c696e6501740165",
    "d5aad5aad5aad5aad5aad5aad5aad5aad5aa0102016e01013804676f6e650080d095ffbc3183d095ffbc31020001",
    "0909050000000507080709082a000000046368617406726f6f6d2d32070113040003000000000000000700000000",
    "00000001010473656e740000",
);
const EFFECTS: &str = concat!(
    "02ff03090103",
    "068b000000046368617406726f6f6d2d310500010005636c6f73658827020103000083d095ffbc310a746578742f",
    "706c61696e026869106170706c69636174696f6e2f6a736f6e01370301046c696e6501740165d5aad5aad5aad5aa",
    "d5aad5aad5aad5aad5aa0102016e01013804676f6e650080d095ffbc3183d095ffbc3102000109010601636c6f73",
    "650001882700",
    "0722000000046368617406726f6f6d2d3206010601636c6f7365010574696d657201ac02019003",
    "0822000000046368617406726f6f6d2d3207010601636c6f7365010574696d657201ac02019003",
);
