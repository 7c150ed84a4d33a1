#![allow(clippy::unwrap_used)]

use super::*;
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
    }
}

/// Of every kind of record.
fn batch(seq: u64, body: &[u8], pinned: Option<Pin>) -> Batch {
    let service = ServiceName::parse("chat").unwrap();
    let records = vec![
        Record::Claim { node: "node-1".into() },
        Record::Activate(Activate { service, generation: 4, deployment: 3 }),
        Record::Message(Box::new(message(seq, body, pinned))),
        Record::Delete(Delete {
            key: SessionKey::parse("chat", "room-2").unwrap(),
            session_number: 6,
        }),
        Record::Release { node: "node-1".into() },
    ];
    Batch { slot: 511, term: 1 << 40, attempt: u128::MAX - 1, records }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

proptest! {
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
    let mut format = encoded;
    format[0] = 3;
    assert!(refused(&format).contains("format 3; this slotd reads 1 to 2"), "{}", refused(&format));
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
