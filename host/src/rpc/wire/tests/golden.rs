//! Every request, answer and live item, byte for byte: nodes of other versions read and write them.

use super::*;
use crate::{
    effects::{
        Effect, Timer, When,
        rows::Name,
        send::{Number, Place, Refusal},
    },
    message::Client,
    operation::{Delivered, Delivery, EffectAction, EffectsPage, Found, Refused, Which},
    operator::{Action, Entered, Operation, StateRange},
    position::Cursor,
    trace::Trace,
};
use std::{fmt::Write, time::Duration};

/// A head and a body.
type Golden = (&'static str, &'static str);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Bytes {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn parts_of((head, body): Golden) -> Parts {
    Parts { head: unhex(head), body: unhex(body) }
}

#[track_caller]
fn is(parts: &Parts, (head, body): Golden) {
    let got = (hex(&parts.head), hex(&parts.body));
    assert_eq!((got.0.as_str(), got.1.as_str()), (head, body));
}

fn incarnation() -> Option<Incarnation> {
    Some(Incarnation::from_wire(300))
}

const CURRENT: Consistency = Consistency::Current;
const LOCAL: Consistency = Consistency::Local;

fn history(range: Range, consistency: Consistency) -> Request {
    ReadHistory { key: key(), range, reader: ReadBy::Client, consistency }.request()
}

fn effects_of(which: Which) -> Request {
    ListEffects { slot: 7, which, limit: 300 }.request()
}

fn place() -> Place {
    Place { to: 7, number: Number { term: 300, index: 9 } }
}

fn change(action: EffectAction) -> Request {
    ChangeEffect { key: key(), action }.request()
}

pub(super) fn effects() -> EffectsPage {
    let timer = Timer {
        when: When::Every { period_ms: 1_000 },
        due_ms: 5_000,
        next_ms: 6_000,
        failures: 2,
        reason: "r".into(),
        content_type: "t".into(),
        body: Bytes::from_static(b"b"),
        set_by: 7,
    };
    let name = Name::Timer("n".into());
    let found = Found::new("p".into(), key().session, name, Effect::Timer(timer.into()));
    EffectsPage { found: vec![found], reached: Some("p".into()) }
}

pub(super) fn delivered() -> Delivered {
    let refusal = Refusal { code: "c".into(), reason: "m".into(), retriable: true };
    let number = place().number;
    Delivered { last: number, refused: Some(Refused { number, refusal, counts: true }) }
}

fn requests() -> Vec<Request> {
    let (text, body) = (|| "t/x".to_owned(), || Bytes::from_static(b"body"));
    let incoming = |id, sender| Incoming {
        id,
        sender,
        content_type: "t/x".to_owned(),
        body: body(),
        trace: None,
        client: None,
    };
    let query = |body, consistency, client| Query {
        key: key(),
        content_type: text(),
        body,
        consistency,
        client,
    };
    let action = Action::Set(Entered {
        changes: vec![("k".into(), Some("v".into())), ("gone".into(), None)],
        note: "note".into(),
    });
    let expected = Some(Cursor::after(3, incarnation()));
    let operation = |action| Operation::new(Some("fix"), "ann".into(), expected, action);
    let trace = Trace::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let of_client =
        |trace| Incoming { trace, client: Some(client(Some("ann"))), ..incoming(None, None) };
    let number = place().number;
    let delivery = Delivery { number, from: key(), session_number: 5, outgoing: "o".into() };
    vec![
        Request::Message { key: key(), message: incoming(Some("i".into()), None), lane: 300 },
        Request::Message { key: key(), message: incoming(None, Some("s".into())), lane: 0 },
        query(body(), LOCAL, None).request(),
        query(Bytes::new(), CURRENT, None).request(),
        history(Range::After { seq: 300, limit: 5 }, CURRENT),
        history(Range::Tail { limit: 6 }, LOCAL),
        Describe { key: key(), consistency: LOCAL }.request(),
        Describe { key: key(), consistency: CURRENT }.request(),
        Delete { key: key() }.request(),
        List {
            slot: 7,
            service: key().service,
            prefix: "p".into(),
            after: Some(key().session),
            limit: 300,
            pinned: true,
        }
        .request(),
        Subscribe { key: key(), after: 300 }.request(),
        Request::Slots,
        Request::Control(body()),
        ReadState {
            key: key(),
            range: StateRange { prefix: "p".into(), after: Some("a".into()), limit: 300 },
        }
        .request(),
        Operate { key: key(), operation: operation(action) }.request(),
        Operate { key: key(), operation: operation(Action::Discard) }.request(),
        Notify { key: key(), sender: Some("ann".into()), event: event() }.request(),
        Notify { key: key(), sender: None, event: event() }.request(),
        effects_of(Which::Session(key())),
        effects_of(Which::Due { service: key().service, after: Some("p".into()) }),
        effects_of(Which::Dead { service: key().service, after: None }),
        change(EffectAction::CancelTimer { timer: "t".into() }),
        change(EffectAction::RetryDead { timer: "t".into(), due_ms: 300 }),
        change(EffectAction::DropDead { timer: "t".into(), due_ms: 300 }),
        effects_of(Which::Outbox { service: key().service, after: Some("p".into()) }),
        change(EffectAction::RetryDeadSend(place())),
        change(EffectAction::DropDeadSend(place())),
        Deliver { from: 7, to: 3, round: number, messages: vec![delivery] }.request(),
        Request::Message { key: key(), message: of_client(None), lane: 300 },
        Request::Message { key: key(), message: of_client(trace), lane: 300 },
        query(body(), LOCAL, Some(client(None))).request(),
    ]
}

fn client(subject: Option<&str>) -> Arc<Client> {
    let claims = vec![("r".into(), "s".into())];
    Arc::new(Client { kind: "k".into(), subject: subject.map(Into::into), claims })
}

const REQUESTS: [Golden; 31] = [
    ("0100046368617406726f6f6d2d310101690003742f78ac02", "626f6479"),
    ("0100046368617406726f6f6d2d310001017303742f7800", "626f6479"),
    ("0101046368617406726f6f6d2d3103742f7801", "626f6479"),
    ("0101046368617406726f6f6d2d3103742f7800", ""),
    ("0102046368617406726f6f6d2d31ac020500", ""),
    ("0103046368617406726f6f6d2d310601", ""),
    ("0104046368617406726f6f6d2d3101", ""),
    ("0104046368617406726f6f6d2d3100", ""),
    ("0105046368617406726f6f6d2d31", ""),
    ("0106", "0107046368617401700106726f6f6d2d31ac0201"),
    ("0107046368617406726f6f6d2d31ac02", ""),
    ("0108", ""),
    ("0109", "626f6479"),
    ("010a046368617406726f6f6d2d31", "0170010161ac02"),
    (
        "010b046368617406726f6f6d2d31",
        "0d016f70657261746f722066697803616e6e01030001ac020002016b01017604676f6e6500046e6f7465",
    ),
    ("010b046368617406726f6f6d2d31", "0d016f70657261746f722066697803616e6e01030001ac0202"),
    ("010c046368617406726f6f6d2d310103616e6e016b0174", "65"),
    ("010c046368617406726f6f6d2d3100016b0174", "65"),
    ("010d", "0700046368617406726f6f6d2d31ac02"),
    ("010d", "07010463686174010170ac02"),
    ("010d", "0702046368617400ac02"),
    ("010e046368617406726f6f6d2d31000174", ""),
    ("010e046368617406726f6f6d2d31010174ac02", ""),
    ("010e046368617406726f6f6d2d31020174ac02", ""),
    ("010d", "07030463686174010170ac02"),
    ("010e046368617406726f6f6d2d310307ac0209", ""),
    ("010e046368617406726f6f6d2d310407ac0209", ""),
    ("010f0703ac0209", "01ac0209046368617406726f6f6d2d3105016f"),
    ("0111046368617406726f6f6d2d31000003742f78ac0200016b0103616e6e0101720173", "626f6479"),
    (
        "0111046368617406726f6f6d2d31000003742f78ac02014bf92f3577b34da6a3ce929d0e0e473600f067aa0ba902b701016b0103616e6e0101720173",
        "626f6479",
    ),
    ("0112046368617406726f6f6d2d3103742f7801016b000101720173", "626f6479"),
];

fn info() -> SessionInfo {
    SessionInfo {
        service: key().service,
        session: key().session,
        slot: 300,
        seq: 2,
        created_ms: 3,
        updated_ms: 4,
        plugin: "1+ab".into(),
        state_keys: 5,
        state_bytes: 6,
        pinned: Some(PinInfo { against: "2+cd".into(), reason: "no".into() }),
        incarnation: incarnation(),
        made_again: true,
        closed: false,
        forked: None,
    }
}

fn event() -> Event {
    Event { kind: "k".into(), content_type: "t".into(), body: "e".into() }
}

fn published() -> Published {
    Published { seq: 1, incarnation: incarnation(), time_ms: 300, events: [event()].into() }
}

fn live() -> [Live; 4] {
    let ephemeral =
        |origin| Live::Ephemeral(Arc::new(Ephemeral { origin, time_ms: 300, event: event() }));
    [
        Live::Published(published()),
        Live::Deleted,
        ephemeral(Origin::Handler),
        ephemeral(Origin::Client(Some("ann".into()))),
    ]
}

fn responses() -> Vec<Result<Response, Error>> {
    let body = || Bytes::from_static(b"body");
    let sent = Sent {
        seq: 300,
        incarnation: incarnation(),
        slot: 2,
        plugin: "1+ab".into(),
        replayed: true,
        content_type: "t/x".into(),
        body: body(),
        guest_time: Duration::ZERO,
    };
    let entry = Entry {
        seq: 3,
        id: Some("i".into()),
        sender: None,
        time_ms: 5,
        content_type: "t/x".into(),
        body: body(),
        reply_content_type: "r".into(),
        reply: "reply".into(),
        deployment: 2,
        events: published().events.to_vec(),
        origin: None,
        caused: Vec::new(),
    };
    let history = History {
        slot: 3,
        entries: vec![(Arc::new(entry), "1+ab".into())],
        last_seq: 300,
        incarnation: incarnation(),
        made_again: true,
        forked: None,
        begins: None,
        held: Held::default(),
    };
    let subscribed = Subscribed {
        backlog: vec![published()],
        live: None,
        incarnation: incarnation(),
        held: Held::default(),
    };
    let slot = SlotInfo {
        slot: 1,
        owner: "a".into(),
        state: "running".into(),
        term: 2,
        position: 300,
        applied: 4,
        mailbox: 5,
        sessions: 6,
        plugins: [("chat".to_owned(), "1+ab".to_owned())].into(),
    };
    let mut error = Error::new(Code::Rejected, "no").with_plugin("1+ab");
    error.rejection =
        Some(Box::new(Rejection { code: "c".into(), message: "m".into(), retriable: true }));
    vec![
        Ok(Response::Sent(sent.clone())),
        Ok(Response::Sent(Sent { incarnation: None, replayed: false, ..sent })),
        Ok(Response::Answer(Answer {
            slot: 2,
            plugin: "1+ab".into(),
            seq: 300,
            content_type: "t/x".into(),
            body: body(),
            guest_time: Duration::ZERO,
        })),
        Ok(Response::History(history)),
        Ok(Response::Session(Box::new(info()))),
        Ok(Response::Deleted(())),
        Ok(Response::Sessions(vec![info(), SessionInfo { pinned: None, ..info() }])),
        Ok(Response::Subscribed(subscribed)),
        Ok(Response::Slots(vec![slot])),
        Ok(Response::Control(body())),
        Ok(Response::NotOwner { owner: Some("b".into()), term: 300, position: 5 }),
        Err(error),
        Ok(Response::State(Box::new(StatePage {
            info: info(),
            pairs: vec![("k".into(), "v".into())],
            more: true,
        }))),
        Ok(Response::Effects(effects())),
        Ok(Response::Delivered(delivered())),
    ]
}

const RESPONSES: [Golden; 15] = [
    ("0100ac020204312b61620103742f7801ac0200", "626f6479"),
    ("0100ac020204312b61620003742f780000", "626f6479"),
    ("01010204312b6162ac0203742f78", "626f6479"),
    (
        "010203ac0201ac0201",
        "0103010169000503742f7804626f64790172057265706c790201016b0174016504312b6162",
    ),
    ("010301ac0201", "046368617406726f6f6d2d31ac0202030404312b616205060104322b6364026e6f"),
    ("0104", ""),
    (
        "0105",
        "02046368617406726f6f6d2d31ac0202030404312b616205060104322b6364026e6f046368617406726f6f6d2d31ac0202030404312b6162050600",
    ),
    ("010601ac0200", "0101ac0201016b01740165"),
    ("0107", "010101610772756e6e696e6702ac02040506000001046368617404312b6162"),
    ("0108", "626f6479"),
    ("0109010162ac0205", ""),
    ("010a", "0872656a6563746564026e6f0104312b6162010163016d0100"),
    (
        "010b01ac0200",
        "046368617406726f6f6d2d31ac0202030404312b616205060104322b6364026e6f01016b017601",
    ),
    ("010c010170", "01017006726f6f6d2d3102016e100101e8078827f02e020172017401620701"),
    ("010dac020901ac02090163016d0101", ""),
];

const LIVE: [Golden; 4] = [
    ("010001ac0200", "01ac0201016b01740165"),
    ("0101", ""),
    ("0102", "00ac02016b01740165"),
    ("0102", "010103616e6eac02016b01740165"),
];

#[test]
fn a_request_has_the_bytes_that_it_always_had() {
    for (request, golden) in requests().into_iter().zip(REQUESTS) {
        is(&encode_request(request).unwrap(), golden);
        is(&encode_request(decode_request(parts_of(golden)).unwrap()).unwrap(), golden);
    }
    assert_eq!(requests().len(), REQUESTS.len());
}

#[test]
fn an_answer_has_the_bytes_that_it_always_had() {
    for (response, golden) in responses().into_iter().zip(RESPONSES) {
        is(&encode_response(response).unwrap(), golden);
        is(&encode_response(decode_response(parts_of(golden)).unwrap()).unwrap(), golden);
    }
    assert_eq!(responses().len(), RESPONSES.len());
}

#[test]
fn a_live_item_has_the_bytes_that_it_always_had() {
    for (item, golden) in live().into_iter().zip(LIVE) {
        is(&encode_live(item).unwrap(), golden);
        is(&encode_live(decode_live(&parts_of(golden)).unwrap()).unwrap(), golden);
    }
}
