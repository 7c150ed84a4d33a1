//! A plugin that misbehaves as its message says, to test that slotd contains it.
//!
//! A message is `{"do": ..}` with one of [`Deed`]'s names in kebab-case and its fields, all of
//! which have defaults. Those that come back reply `{"version": 1, ..}`.
//!
//! A query is one of [`Question`]'s: `{"do": "get", "key": ".."}`, `{"do": "write"}`, ...
//!
//! `migrate` does what the session's state says under the key `migrate` (written by
//! `{"do": "set", "key": "migrate", "value": "trap"}`): `trap`, `refuse`, `spin`, `emit`,
//! `write-then-trap`, `write-then-refuse`; with anything else, or nothing, it writes
//! `migrated-from` and is content.

use serde::Deserialize;
use slotd_guest::{
    Context, Handler, MigrateContext, QueryContext, Rejection, Value, json, log_info,
};
use std::{
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
};

/// Version `V` of the plugin; they differ in nothing but the number that they reply with.
pub struct Hostile<const V: u32>;

#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Deed {
    /// Never comes back.
    Spin,
    /// Works for that many rounds (about 1 ns each) and comes back.
    Work {
        #[serde(default = "two_million")]
        rounds: u64,
    },
    /// Takes memory, a MiB at a time, and keeps it; by default until there is no more. Then spins,
    /// if told to.
    Allocate {
        #[serde(default = "no_end")]
        mib: u64,
        #[serde(default)]
        spin: bool,
    },
    /// Calls itself; by default until the stack ends.
    Recurse {
        #[serde(default = "no_end")]
        depth: u64,
    },
    /// Executes `unreachable`.
    Trap,
    /// Panics, which logs the message and traps.
    Panic {
        #[serde(default)]
        message: String,
    },
    /// Replies with that many bytes.
    HugeReply {
        #[serde(default = "two_million")]
        bytes: u64,
    },
    /// Rejects with a message of that many bytes.
    HugeRejection {
        #[serde(default = "two_million")]
        bytes: u64,
    },
    /// Reads the state that many times.
    HostCalls {
        #[serde(default = "two_million")]
        count: u64,
    },
    /// Logs that many lines of that many bytes.
    LogFlood {
        #[serde(default = "ten_thousand")]
        lines: u64,
        #[serde(default = "hundred")]
        bytes: u64,
    },
    /// Writes `{key: value}`, emits an event, then traps.
    WriteThenTrap {
        #[serde(default = "key")]
        key: String,
    },
    /// Writes `{key: value}`, emits an event, then rejects.
    WriteThenReject {
        #[serde(default = "key")]
        key: String,
    },
    /// Writes one value of that many bytes.
    HugeValue {
        #[serde(default = "three_million")]
        bytes: u64,
    },
    /// Writes under a key of that many bytes.
    HugeKey {
        #[serde(default = "two_million")]
        bytes: u64,
    },
    /// Emits that many events of that many bytes.
    ManyEvents {
        #[serde(default = "two_million")]
        count: u64,
        #[serde(default = "hundred")]
        bytes: u64,
    },
    /// Writes that many new keys with values of that many bytes, beside those of earlier messages.
    GrowState {
        #[serde(default = "hundred")]
        keys: u64,
        #[serde(default = "thousand")]
        bytes: u64,
    },
    /// Scans with that limit.
    Scan {
        #[serde(default = "two_million")]
        limit: u64,
    },
    /// Counts in the instance's own memory, as a plugin must not: tells a fresh instance from a
    /// kept one.
    Remember,
    /// Rejects with that code.
    Reject {
        #[serde(default)]
        code: String,
        #[serde(default)]
        retriable: bool,
    },
    /// Well-behaved: writes a value.
    Set { key: String, value: Value },
    /// Well-behaved: deletes a key.
    Delete { key: String },
    /// Well-behaved: emits an event.
    Emit { kind: String, body: Value },
    /// Well-behaved: emits an event, then sends `times` ephemeral ones, whose bodies are their numbers.
    EmitAndNotify { kind: String, times: u64 },
    /// Well-behaved: replies with `body` and what it was told of the message.
    Echo {
        #[serde(default)]
        body: Value,
    },
}

#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Question {
    /// Well-behaved: the value under `key`.
    Get {
        key: String,
    },
    /// Well-behaved: the number of keys.
    Count,
    /// Writes, which a query may not.
    Write,
    /// Deletes, which a query may not.
    Delete,
    /// Emits an event, which a query may not.
    Emit,
    Spin,
    Trap,
    HugeReply {
        #[serde(default = "two_million")]
        bytes: u64,
    },
    Remember,
}

fn no_end() -> u64 {
    u64::MAX
}
fn hundred() -> u64 {
    100
}
fn thousand() -> u64 {
    1_000
}
fn ten_thousand() -> u64 {
    10_000
}
fn two_million() -> u64 {
    2_000_000
}
fn three_million() -> u64 {
    3_000_000
}
fn key() -> String {
    "written".into()
}

impl<const V: u32> Handler for Hostile<V> {
    type Message = Deed;
    type Query = Question;

    fn handle(cx: &mut Context, deed: Deed) -> Result<impl serde::Serialize, Rejection> {
        match deed {
            Deed::Spin => spin(),
            Deed::Work { rounds } => (0..rounds).for_each(|i| _ = black_box(i)),
            Deed::Allocate { mib, spin: then } => {
                for _ in 0..mib {
                    // Touched, so that it is really there; leaked, so that it stays.
                    black_box(Vec::leak(vec![1_u8; 1024 * 1024]));
                }
                if then {
                    spin();
                }
            }
            Deed::Recurse { depth } => _ = black_box(recurse(depth)),
            Deed::Trap => trap(),
            Deed::Panic { message } => panic!("{message}"),
            Deed::HugeReply { bytes } => {
                return Ok(json!({"version": V, "body": text(bytes)}));
            }
            Deed::HugeRejection { bytes } => return Err(Rejection::new("huge", text(bytes))),
            Deed::HostCalls { count } => {
                for _ in 0..count {
                    black_box(cx.state().get_bytes("k"));
                }
            }
            Deed::LogFlood { lines, bytes } => {
                let text = text(bytes);
                for i in 0..lines {
                    log_info!(cx, "{i} {text}");
                }
            }
            Deed::WriteThenTrap { key } => {
                write(cx, &key)?;
                trap();
            }
            Deed::WriteThenReject { key } => {
                write(cx, &key)?;
                return Err(Rejection::new("as-told", "written, then rejected"));
            }
            Deed::HugeValue { bytes } => cx.state().set("huge", &text(bytes))?,
            Deed::HugeKey { bytes } => cx.state().set(&text(bytes), &1)?,
            Deed::ManyEvents { count, bytes } => {
                let body = text(bytes);
                for _ in 0..count {
                    cx.emit("many", &body)?;
                }
            }
            Deed::GrowState { keys, bytes } => {
                let (seq, value) = (cx.seq(), text(bytes));
                for i in 0..keys {
                    cx.state().set(&format!("grow/{seq:010}/{i:06}"), &value)?;
                }
            }
            Deed::Scan { limit } => {
                let limit = u32::try_from(limit).unwrap_or(u32::MAX);
                return Ok(json!({"version": V, "pairs": cx.state().page("", None, limit).len()}));
            }
            Deed::Remember => return Ok(json!({"version": V, "calls": remember()})),
            Deed::Reject { code, retriable } => {
                let rejection = Rejection::new(code, "as told");
                return Err(if retriable { rejection.retriable() } else { rejection });
            }
            Deed::Set { key, value } => cx.state().set(&key, &value)?,
            Deed::Delete { key } => cx.state().delete(&key),
            Deed::Emit { kind, body } => cx.emit(&kind, &body)?,
            Deed::EmitAndNotify { kind, times } => {
                cx.notify(&kind, &0)?;
                cx.emit(&kind, &0)?;
                for number in 1..times {
                    cx.notify(&kind, &number)?;
                }
            }
            Deed::Echo { body } => {
                return Ok(json!({
                    "version": V, "body": body, "session": cx.session(), "seq": cx.seq(),
                    "id": cx.id(), "sender": cx.sender(), "content_type": cx.content_type(),
                    "time_ms": cx.time_ms(),
                }));
            }
        }
        Ok(json!({"version": V}))
    }

    fn query(cx: &QueryContext, question: Question) -> Result<impl serde::Serialize, Rejection> {
        match question {
            Question::Get { key } => {
                return Ok(json!({"version": V, "value": cx.state().get::<Value>(&key)?}));
            }
            Question::Count => {
                return Ok(json!({"version": V, "keys": cx.state().scan_bytes("").count()}));
            }
            Question::Write => cx.forbidden().state().set("written-by-query", &true)?,
            Question::Delete => cx.forbidden().state().delete("anything"),
            Question::Emit => cx.forbidden().emit("by-query", &true)?,
            Question::Spin => spin(),
            Question::Trap => trap(),
            Question::HugeReply { bytes } => {
                return Ok(json!({"version": V, "body": text(bytes)}));
            }
            Question::Remember => return Ok(json!({"version": V, "calls": remember()})),
        }
        Ok(json!({"version": V}))
    }

    fn migrate(cx: &mut MigrateContext, from: &str) -> Result<(), String> {
        let told: Option<Value> = cx.state().get("migrate")?;
        let told = told.as_ref().and_then(Value::as_str).unwrap_or_default();
        if told.starts_with("write-then-") {
            cx.state().set("half-migrated", &true)?;
        }
        match told {
            "trap" | "write-then-trap" => trap(),
            "refuse" | "write-then-refuse" => Err(format!("told to refuse version {from}")),
            "spin" => spin(),
            "emit" => Ok(cx.forbidden().emit("by-migrate", &true)?),
            _ => Ok(cx.state().set("migrated-from", from)?),
        }
    }
}

fn spin() -> ! {
    let mut i = 0_u64;
    loop {
        i = black_box(i.wrapping_add(1));
    }
}

fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    std::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    panic!("unreachable")
}

/// What a call leaves on the stack keeps it from becoming a loop.
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 16]);
    if depth == 0 { 0 } else { recurse(depth - 1).wrapping_add(black_box(&frame)[3]) }
}

fn write(cx: &mut Context, key: &str) -> Result<(), Rejection> {
    cx.state().set(key, &"value")?;
    Ok(cx.emit("written", &key)?)
}

fn remember() -> u64 {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    CALLS.fetch_add(1, Ordering::Relaxed) + 1
}

fn text(bytes: u64) -> String {
    "x".repeat(usize::try_from(bytes).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotd_guest::test::{Failure, Harness};

    /// The tests of the host rely on each deed doing what its name says.
    #[test]
    fn misbehaves_and_leaves_no_trace() {
        let mut h = Harness::<Hostile<1>>::new();
        h.send("ann", &json!({"do": "set", "key": "k", "value": 1})).unwrap();
        let before = h.session().clone();
        for deed in [
            "trap",
            "panic",
            "huge-reply",
            "huge-rejection",
            "host-calls",
            "write-then-trap",
            "huge-value",
            "huge-key",
            "many-events",
            "scan",
        ] {
            let failed = h.send("ann", &json!({"do": deed}));
            assert!(matches!(failed, Err(Failure::Trapped(_))), "{deed}: {failed:?}");
        }
        let rejected = h.send("ann", &json!({"do": "write-then-reject"})).unwrap_err();
        assert_eq!(rejected.code(), Some("as-told"));
        for question in ["write", "delete", "emit", "trap", "huge-reply"] {
            let failed = h.query(&json!({"do": question}));
            assert!(matches!(failed, Err(Failure::Trapped(_))), "{question}: {failed:?}");
        }
        assert_eq!(h.session(), &before);
    }

    /// And the well-behaved ones must not fail, or they would prove nothing beside the others.
    #[test]
    fn behaves_where_it_should() {
        let mut h = Harness::<Hostile<2>>::new();
        for deed in [
            json!({"do": "echo", "body": [1]}),
            json!({"do": "work", "rounds": 10}),
            json!({"do": "recurse", "depth": 10}),
            json!({"do": "allocate", "mib": 1}),
            json!({"do": "log-flood", "lines": 1_000}),
            json!({"do": "grow-state", "keys": 10}),
            json!({"do": "many-events", "count": 3}),
            json!({"do": "remember"}),
            json!({"do": "emit", "kind": "k", "body": null}),
        ] {
            let reply: Value = h.send("ann", &deed).unwrap().parse().unwrap();
            assert_eq!(reply["version"], 2, "{deed}");
        }
        assert_eq!(h.take_log().len(), 100);
        let count: Value = h.query(&json!({"do": "count"})).unwrap().parse().unwrap();
        assert_eq!(count["keys"], 10);
    }

    /// A swap's tests tell the session, through its state, how its migration is to go.
    #[test]
    fn migrates_as_the_state_says() {
        for told in ["trap", "refuse", "emit", "write-then-trap", "write-then-refuse"] {
            let mut h = Harness::<Hostile<1>>::new();
            h.send(None, &json!({"do": "set", "key": "migrate", "value": told})).unwrap();
            let before = h.session().clone();
            let mut h = Harness::<Hostile<2>>::over(h.into_session());
            assert!(h.migrate("1.0.0").is_err(), "{told}");
            assert_eq!(h.session(), &before, "{told}");
        }
        let mut h = Harness::<Hostile<2>>::new();
        h.migrate("1.0.0").unwrap();
        assert_eq!(h.get::<String>("migrated-from").as_deref(), Some("1.0.0"));
    }
}
