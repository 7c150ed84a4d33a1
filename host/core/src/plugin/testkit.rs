//! Guests written by hand, so that tests need no toolchain, and a state in memory.
#![allow(clippy::unwrap_used)]
// Most of it is for the tests of this module.
#![cfg_attr(not(test), allow(dead_code))]

use super::{
    Call, Failure, Input, Instance, Outcome, PluginHost, PluginOptions, State, StateFault,
};
use crate::{
    effects::{Expiry, Outgoing, Timer, http},
    limits,
    message::Incoming,
    names::SessionKey,
};
use bytes::Bytes;
use std::{
    any::Any,
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const TYPES: &str = include_str!("guests/types.wat");
const GUEST: &str = include_str!("guests/guest.wat");
const WASI: &str = include_str!("guests/wasi.wat");

fn encode(text: &str) -> Vec<u8> {
    wat::parse_str(text.replace(";;TYPES", TYPES)).unwrap_or_else(|e| panic!("{e}"))
}

/// Does what the first byte of a message says; see `guests/guest.wat`.
pub fn guest() -> Vec<u8> {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| encode(GUEST)).clone()
}

/// The guest with a part of its text replaced.
pub fn guest_with(from: &str, to: &str) -> Vec<u8> {
    assert!(GUEST.contains(from), "{from:?}");
    encode(&GUEST.replace(from, to))
}

/// The guest against the current version of the interface: where the other emits, it sends ephemeral
/// events.
pub fn notifying_guest() -> Vec<u8> {
    let (log, emit) = ("  (import \"slotd:slot/log@", "(canon lower (func $effects \"emit\")");
    assert!(GUEST.contains(log) && GUEST.contains(emit));
    let session = "  (import \"slotd:slot/session@1.0.0\" (instance $session
    (alias outer 1 $event (type $e))
    (export \"event\" (type $event (eq $e)))
    (export \"notify\" (func (param \"event\" $event)))
  ))\n";
    let text = GUEST.replace(log, &format!("{session}{log}"));
    let text = text.replace(emit, "(canon lower (func $session \"notify\")");
    encode(&text.replace(";;TYPES", TYPES).replace("@1.0.0", "@1.1.0"))
}

/// The guest against the current version of the interface, with two more things that it does: `S`, a
/// name of one byte, `@` (at), `+` (after) or `*` (every), and a number of eight bytes (little-endian)
/// set a timer whose message's body is what follows; `C` and a name cancel it. `E` and such a number have the session
/// expire then, and at 0 not at all. They reply with a byte: whether that went well.
pub fn timing_guest() -> Vec<u8> {
    current(&timing(GUEST.to_owned()))
}

fn timing(text: String) -> String {
    let log = "  (import \"slotd:slot/log@";
    let timers = "  (import \"slotd:slot/timers@1.0.0\" (instance $timers
    (type $c (record (field \"expression\" string) (field \"zone\" string)))
    (export \"cron\" (type $cron (eq $c)))
    (type $m (variant (case \"at\" u64) (case \"after\" u64) (case \"every\" u64)
      (case \"cron\" $cron)))
    (export \"moment\" (type $moment (eq $m)))
    (export \"schedule\" (func (param \"name\" string) (param \"when\" $moment)
      (param \"content-type\" string) (param \"body\" (list u8))
      (result (result u64 (error string)))))
    (export \"cancel\" (func (param \"name\" string) (result bool)))
  ))
  (import \"slotd:slot/session@1.0.0\" (instance $session
    (export \"expire\" (func (param \"at\" (option u64)) (result (result (error string)))))
  ))\n";
    let lower = "  (core module $guest";
    let lowered = "  (core func $schedule (canon lower (func $timers \"schedule\")
    (memory $libc \"memory\") (realloc (func $libc \"realloc\"))))
  (core func $cancel (canon lower (func $timers \"cancel\") (memory $libc \"memory\")))
  (core func $expire (canon lower (func $session \"expire\")
    (memory $libc \"memory\") (realloc (func $libc \"realloc\"))))\n";
    let import = "    (import \"host\" \"get\"";
    let imported = "    (import \"host\" \"schedule\" (func $schedule
      (param i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32)))
    (import \"host\" \"cancel\" (func $cancel (param i32 i32) (result i32)))
    (import \"host\" \"expire\" (func $expire (param i32 i64 i32)))\n";
    let op = "      (if (i32.eq (local.get $op) (i32.const 0x77)) ;; w";
    let ops = "      (if (i32.eq (local.get $op) (i32.const 0x53)) ;; S: set a timer
        (then
          (local.set $n (i32.load8_u (i32.add (local.get $at) (i32.const 1))))
          (call $schedule (local.get $at) (i32.const 1)
            (select (i32.const 0) (select (i32.const 1) (i32.const 2)
              (i32.eq (local.get $n) (i32.const 0x2b)))
              (i32.eq (local.get $n) (i32.const 0x40)))
            (i64.load align=1 (i32.add (local.get $at) (i32.const 2)))
            (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 96) (i32.const 10)
            (i32.add (local.get $at) (i32.const 10)) (i32.sub (local.get $len) (i32.const 10))
            (i32.const 320))
          (i32.store8 (i32.const 340) (i32.eqz (i32.load8_u (i32.const 320))))
          (return (call $reply (i32.const 340) (i32.const 1)))))
      (if (i32.eq (local.get $op) (i32.const 0x45)) ;; E: expire
        (then
          (call $expire (i64.ne (i64.load align=1 (local.get $at)) (i64.const 0))
            (i64.load align=1 (local.get $at)) (i32.const 320))
          (i32.store8 (i32.const 340) (i32.eqz (i32.load8_u (i32.const 320))))
          (return (call $reply (i32.const 340) (i32.const 1)))))
      (if (i32.eq (local.get $op) (i32.const 0x43)) ;; C: cancel one
        (then
          (i32.store8 (i32.const 340) (call $cancel (local.get $at) (i32.const 1)))
          (return (call $reply (i32.const 340) (i32.const 1)))))\n";
    let with = "      (export \"get\" (func $get))";
    let given = " (export \"schedule\" (func $schedule)) (export \"cancel\" (func $cancel))
      (export \"expire\" (func $expire))";
    replaced(
        text,
        &[
            (log, timers, ""),
            (lower, lowered, ""),
            (import, imported, ""),
            (op, ops, ""),
            (with, "", given),
        ],
    )
}

/// What [`timing_guest`] and [`sending_guest`] do, both.
pub fn timing_and_sending_guest() -> Vec<u8> {
    current(&sending(timing(GUEST.to_owned())))
}

/// The guest against the current version of the interface, with one more thing that it does: `P`, the name of a
/// session of one byte, and `?` or another byte, send a message whose body is what follows to that session of the
/// service `s`; with `?` the outcome comes back as `r`. It replies with a byte: whether that went well. What it
/// rejects is not to be tried again.
pub fn sending_guest() -> Vec<u8> {
    current(&sending(GUEST.to_owned()))
}

fn sending(text: String) -> String {
    let log = "  (import \"slotd:slot/log@";
    let sends = "  (import \"slotd:slot/sends@1.0.0\" (instance $sends
    (type $a (record (field \"service\" string) (field \"session\" string)))
    (export \"address\" (type $address (eq $a)))
    (export \"send\" (func (param \"to\" $address) (param \"content-type\" string)
      (param \"body\" (list u8)) (param \"reply-as\" (option string))
      (result (result (error string)))))
  ))\n";
    let lower = "  (core module $guest";
    let lowered = "  (core func $send (canon lower (func $sends \"send\")
    (memory $libc \"memory\") (realloc (func $libc \"realloc\"))))\n";
    let import = "    (import \"host\" \"get\"";
    let imported = "    (import \"host\" \"send\" (func $send
      (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
    (data (i32.const 300) \"s\") (data (i32.const 304) \"r\")\n";
    let op = "      (if (i32.eq (local.get $op) (i32.const 0x77)) ;; w";
    let ops = "      (if (i32.eq (local.get $op) (i32.const 0x50)) ;; P: send a message
        (then
          (call $send (i32.const 300) (i32.const 1) (local.get $at) (i32.const 1)
            (i32.const 96) (i32.const 10)
            (i32.add (local.get $at) (i32.const 2)) (i32.sub (local.get $len) (i32.const 2))
            (i32.eq (i32.load8_u (i32.add (local.get $at) (i32.const 1))) (i32.const 0x3f))
            (i32.const 304) (i32.const 1)
            (i32.const 320))
          (i32.store8 (i32.const 340) (i32.eqz (i32.load8_u (i32.const 320))))
          (return (call $reply (i32.const 340) (i32.const 1)))))\n";
    let with = "      (export \"get\" (func $get))";
    let given = " (export \"send\" (func $send))";
    replaced(
        text,
        &[
            (log, sends, ""),
            (
                "(i32.store8 (i32.const 276) (i32.const 1))",
                "",
                "(i32.store8 (i32.const 276) (i32.const 0))",
            ),
            (lower, lowered, ""),
            (import, imported, ""),
            (op, ops, ""),
            (with, "", given),
        ],
    )
}

/// The guest against the current version of the interface, with four more things that it does: `Q`, the id of a request of
/// one byte, and `s` or another byte, have a request made whose body is what follows; with `s` its answer is shown as events
/// of the kind `tok`. `D` and an id cancel one, `L` closes the session, and `W` has it told of subscribers. They reply
/// with a byte: whether that went well.
pub fn requesting_guest() -> Vec<u8> {
    let log = "  (import \"slotd:slot/log@";
    let http = "  (import \"slotd:slot/http@1.0.0\" (instance $http
    (type $f (variant (case \"text\") (case \"data\") (case \"joined\" string)))
    (export \"stream-form\" (type $form (eq $f)))
    (type $s (record (field \"kind\" string) (field \"form\" $form)))
    (export \"streaming\" (type $streaming (eq $s)))
    (type $o (record (field \"timeout-ms\" (option u32)) (field \"deadline-ms\" (option u32))
      (field \"attempts\" (option u32)) (field \"redirects\" (option u8))
      (field \"answer-bytes\" (option u32)) (field \"keep-headers\" (list string))
      (field \"stream\" (option $streaming))))
    (export \"options\" (type $options (eq $o)))
    (type $d (record (field \"method\" string) (field \"url\" string)
      (field \"headers\" (list (tuple string string))) (field \"body\" (list u8))
      (field \"options\" $options)))
    (export \"details\" (type $details (eq $d)))
    (export \"request\" (func (param \"id\" string) (param \"details\" $details)
      (result (result (error string)))))
    (export \"cancel\" (func (param \"id\" string) (result bool)))
  ))
  (import \"slotd:slot/session@1.0.0\" (instance $session
    (export \"close\" (func))
    (export \"watch-subscribers\" (func (param \"wanted\" bool)))
  ))\n";
    let lower = "  (core module $guest";
    let lowered = "  (core func $request (canon lower (func $http \"request\")
    (memory $libc \"memory\") (realloc (func $libc \"realloc\"))))
  (core func $cancel (canon lower (func $http \"cancel\") (memory $libc \"memory\")))
  (core func $close (canon lower (func $session \"close\")))
  (core func $watch (canon lower (func $session \"watch-subscribers\")))\n";
    let import = "    (import \"host\" \"get\"";
    let imported = "    (import \"host\" \"request\" (func $request (param i32 i32)))
    (import \"host\" \"cancel\" (func $cancel (param i32 i32) (result i32)))
    (import \"host\" \"close\" (func $close))
    (import \"host\" \"watch\" (func $watch (param i32)))
    (data (i32.const 300) \"http://t/\") (data (i32.const 312) \"POST\")
    (data (i32.const 316) \"tok\")\n";
    let op = "      (if (i32.eq (local.get $op) (i32.const 0x77)) ;; w";
    // What is not set there is zero: nothing is given.
    let ops = "      (if (i32.eq (local.get $op) (i32.const 0x51)) ;; Q: have a request made
        (then
          (memory.fill (i32.const 400) (i32.const 0) (i32.const 108))
          (i32.store (i32.const 400) (local.get $at))
          (i32.store (i32.const 404) (i32.const 1))
          (i32.store (i32.const 408) (i32.const 312))
          (i32.store (i32.const 412) (i32.const 4))
          (i32.store (i32.const 416) (i32.const 300))
          (i32.store (i32.const 420) (i32.const 9))
          (i32.store (i32.const 432) (i32.add (local.get $at) (i32.const 2)))
          (i32.store (i32.const 436) (i32.sub (local.get $len) (i32.const 2)))
          (i32.store8 (i32.const 484)
            (i32.eq (i32.load8_u (i32.add (local.get $at) (i32.const 1))) (i32.const 0x73)))
          (i32.store (i32.const 488) (i32.const 316))
          (i32.store (i32.const 492) (i32.const 3))
          (call $request (i32.const 400) (i32.const 320))
          (i32.store8 (i32.const 340) (i32.eqz (i32.load8_u (i32.const 320))))
          (return (call $reply (i32.const 340) (i32.const 1)))))
      (if (i32.eq (local.get $op) (i32.const 0x44)) ;; D: cancel one
        (then
          (i32.store8 (i32.const 340) (call $cancel (local.get $at) (i32.const 1)))
          (return (call $reply (i32.const 340) (i32.const 1)))))
      (if (i32.eq (local.get $op) (i32.const 0x4c)) ;; L: close
        (then
          (call $close)
          (return (call $reply (local.get $at) (i32.const 0)))))
      (if (i32.eq (local.get $op) (i32.const 0x57)) ;; W: watch
        (then
          (call $watch (i32.const 1))
          (return (call $reply (local.get $at) (i32.const 0)))))\n";
    let with = "      (export \"get\" (func $get))";
    let given = " (export \"request\" (func $request)) (export \"cancel\" (func $cancel))
      (export \"close\" (func $close)) (export \"watch\" (func $watch))";
    grown(&[
        (log, http, ""),
        (lower, lowered, ""),
        (import, imported, ""),
        (op, ops, ""),
        (with, "", given),
    ])
}

/// The guest against the current version of the interface, with one more thing that it does: `I` and `k`, `s` or `c` reply
/// with the kind of its client, its subject, or the value of its first claim, and with nothing where there is none.
/// Its `migrate` traps where it is told of a client.
pub fn asking_guest() -> Vec<u8> {
    let log = "  (import \"slotd:slot/log@";
    let client = "  (import \"slotd:slot/client@1.0.0\" (instance $client
    (type $i (record (field \"subject\" (option string)) (field \"kind\" string)
      (field \"claims\" (list (tuple string string)))))
    (export \"identity\" (type $identity (eq $i)))
    (export \"current\" (func (result (option $identity))))
  ))\n";
    let lower = "  (core module $guest";
    let lowered = "  (core func $current (canon lower (func $client \"current\")
    (memory $libc \"memory\") (realloc (func $libc \"realloc\"))))\n";
    let import = "    (import \"host\" \"get\"";
    let imported = "    (import \"host\" \"current\" (func $current (param i32)))\n";
    let op = "      (if (i32.eq (local.get $op) (i32.const 0x77)) ;; w";
    let ops = "      (if (i32.eq (local.get $op) (i32.const 0x49)) ;; I: who asks
        (then
          (call $current (i32.const 320))
          (if (i32.eqz (i32.load8_u (i32.const 320)))
            (then (return (call $reply (local.get $at) (i32.const 0)))))
          (local.set $n (i32.load8_u (local.get $at)))
          (if (i32.eq (local.get $n) (i32.const 0x6b)) ;; k
            (then (return (call $reply (i32.load (i32.const 336)) (i32.load (i32.const 340))))))
          (if (i32.eq (local.get $n) (i32.const 0x63)) ;; c
            (then
              (local.set $n (i32.load (i32.const 344)))
              (return (call $reply (i32.load offset=8 (local.get $n))
                (i32.load offset=12 (local.get $n))))))
          (return (call $reply (i32.load (i32.const 328))
            (select (i32.load (i32.const 332)) (i32.const 0) (i32.load8_u (i32.const 324)))))))\n";
    let migrates = "      (call $set (i32.const 160) (i32.const 4) (local.get $from)";
    let unasked = "      (call $current (i32.const 320))
      (if (i32.load8_u (i32.const 320)) (then unreachable))\n";
    let with = "      (export \"get\" (func $get))";
    let given = " (export \"current\" (func $current))";
    grown(&[
        (log, client, ""),
        (lower, lowered, ""),
        (import, imported, ""),
        (op, ops, ""),
        (migrates, unasked, ""),
        (with, "", given),
    ])
}

/// The guest against the current version of the interface, with something before and behind some places.
fn grown(places: &[(&str, &str, &str)]) -> Vec<u8> {
    current(&replaced(GUEST.to_owned(), places))
}

fn replaced(mut text: String, places: &[(&str, &str, &str)]) -> String {
    for (place, before, after) in places {
        assert!(text.contains(place), "{place}");
        text = text.replacen(place, &format!("{before}{place}{after}"), 1);
    }
    text
}

/// Against the current version of the interface.
fn current(text: &str) -> Vec<u8> {
    encode(&text.replace(";;TYPES", TYPES).replace("@1.0.0", "@1.1.0"))
}

/// The guest with a `migrate` as SDKs export it for who has written none.
pub fn guest_without_migrate() -> Vec<u8> {
    let writes = "(call $set (i32.const 160) (i32.const 4) (local.get $from) \
                  (local.get $from-len))";
    guest_with(writes, "")
}

/// Uses WASI as the first byte of a message says; see `guests/wasi.wat`.
pub(super) fn wasi_guest() -> Vec<u8> {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| encode(WASI)).clone()
}

/// Other crates' tests have no slotd to execute either.
static COMPILES_IN_PROCESS: AtomicBool = AtomicBool::new(cfg!(test));

pub(super) fn compiles_in_process() -> bool {
    COMPILES_IN_PROCESS.load(Ordering::Relaxed)
}

/// From here on, this process compiles by itself, not by children.
pub fn options(dir: &Path) -> PluginOptions {
    COMPILES_IN_PROCESS.store(true, Ordering::Relaxed);
    PluginOptions {
        dir: dir.to_owned(),
        memory_bytes: limits::GUEST_MEMORY_BYTES_DEFAULT,
        memory_total_bytes: 1 << 30,
        deadline: Duration::from_secs(20),
        host_calls: limits::HOST_CALLS_MAX,
        compile: super::CompileOptions::default(),
        isolation: super::Isolation::default(),
        long_threads: 1,
        source: None,
    }
}

pub fn host(dir: &Path) -> PluginHost {
    PluginHost::new(options(dir)).unwrap()
}

/// A host whose instances may have so much memory together.
pub fn host_with_memory(dir: &Path, bytes: usize) -> PluginHost {
    PluginHost::new(PluginOptions { memory_total_bytes: bytes, ..options(dir) }).unwrap()
}

/// A host whose instances may have so much memory each, and calls some seconds.
pub fn host_with_instances_of(dir: &Path, bytes: usize) -> PluginHost {
    let deadline = Duration::from_secs(4);
    PluginHost::new(PluginOptions { memory_bytes: bytes, deadline, ..options(dir) }).unwrap()
}

/// A source of one component that stands still until it may give it, or fail.
#[derive(Debug, Default)]
pub struct HeldSource {
    pub asked: std::sync::atomic::AtomicU32,
    pub given: tokio::sync::watch::Sender<Option<Result<Bytes, String>>>,
}

impl super::ComponentSource for HeldSource {
    fn fetch(
        &self,
        _: super::Digest,
    ) -> futures_util::future::BoxFuture<'static, Result<Option<Bytes>, String>> {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut given = self.given.subscribe();
        Box::pin(async move {
            let given = given.wait_for(Option::is_some).await.map_err(|e| e.to_string())?;
            given.clone().transpose()
        })
    }
}

/// What one instance of [`guest`] counts for: a page, and what it needs beside.
pub const GUEST_BYTES: usize = 64 * 1024 + limits::INSTANCE_BYTES_BESIDE;

/// A state in memory. The key `store-fails` fails as a broken store does, `limit` as one that is
/// full.
#[derive(Default)]
pub(super) struct MapState(
    pub(super) BTreeMap<String, Bytes>,
    pub(super) BTreeMap<String, Arc<Timer>>,
);

impl State for MapState {
    fn get(&mut self, key: &str) -> Result<Option<Bytes>, StateFault> {
        Ok(self.0.get(key).cloned())
    }
    fn set(&mut self, key: &str, value: Bytes) -> Result<(), StateFault> {
        match &value[..] {
            b"store-fails" => {
                Err(StateFault::Store(crate::error::StateError::Unavailable("no disk".into())))
            }
            b"limit" => Err(StateFault::Limit("state: a session may have 1 key".into())),
            _ => {
                self.0.insert(key.to_owned(), value);
                Ok(())
            }
        }
    }
    fn delete(&mut self, key: &str) -> Result<(), StateFault> {
        self.0.remove(key);
        Ok(())
    }
    fn scan(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(String, Bytes)>, StateFault> {
        assert!(limit <= limits::STATE_SCAN_ENTRIES_MAX);
        let pairs = self.0.iter().filter(|(k, _)| k.starts_with(prefix));
        let pairs = pairs.filter(|(k, _)| after.is_none_or(|after| k.as_str() > after));
        Ok(pairs.take(limit as usize).map(|(k, v)| (k.clone(), v.clone())).collect())
    }
    fn schedule(&mut self, name: &str, timer: Timer) -> Result<(), StateFault> {
        self.1.insert(name.to_owned(), Arc::new(timer));
        Ok(())
    }
    fn expire(&mut self, _expiry: Option<Expiry>) -> Result<(), StateFault> {
        Ok(())
    }
    fn request(&mut self, _: &str, _: http::Request) -> Result<(), StateFault> {
        Ok(())
    }
    fn cancel_request(&mut self, _: &str) -> Result<bool, StateFault> {
        Ok(false)
    }
    fn open_requests(&mut self) -> Result<Vec<String>, StateFault> {
        Ok(Vec::new())
    }
    fn close(&mut self, _: http::Closed) -> Result<(), StateFault> {
        Ok(())
    }
    fn watch(&mut self, _: Option<http::Watch>) -> Result<(), StateFault> {
        Ok(())
    }
    fn send(&mut self, _outgoing: Outgoing) -> Result<(), StateFault> {
        Ok(())
    }
    fn cancel(&mut self, name: &str) -> Result<bool, StateFault> {
        Ok(self.1.remove(name).is_some())
    }
    fn timer(&mut self, name: &str) -> Result<Option<Arc<Timer>>, StateFault> {
        Ok(self.1.get(name).cloned())
    }
    fn timers(
        &mut self,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(String, Arc<Timer>)>, StateFault> {
        let timers =
            self.1.iter().filter(|(name, _)| after.is_none_or(|after| name.as_str() > after));
        Ok(timers.take(limit as usize).map(|(name, timer)| (name.clone(), timer.clone())).collect())
    }
}

pub(super) fn call(input: Input) -> Call {
    Call {
        session: SessionKey::parse("test", "one").unwrap(),
        seq: 1,
        time_ms: 1_700_000_000_123,
        state: Box::new(MapState::default()),
        input,
    }
}

pub(super) fn message(body: &[u8]) -> Input {
    let message = Incoming {
        id: Some("id".into()),
        sender: Some("ann".into()),
        content_type: "text/plain".into(),
        body: Bytes::copy_from_slice(body),
        trace: None,
        client: None,
    };
    Input::Handle { message: Arc::new(message), origin: None }
}

pub(super) fn query(body: &[u8]) -> Input {
    Input::Query {
        content_type: "text/plain".into(),
        body: Bytes::copy_from_slice(body),
        client: None,
    }
}

/// Calls and gives what came of it: the reply's body, or the failure.
pub(super) async fn ask(instance: &mut Instance, body: &[u8]) -> Result<Vec<u8>, Failure> {
    outcome(instance, message(body)).await.result.map(|reply| reply.body.to_vec())
}

pub(super) async fn outcome(instance: &mut Instance, input: Input) -> Outcome {
    instance.call(call(input)).await
}

/// What a call left in its state.
pub(super) fn state_of(outcome: Outcome) -> BTreeMap<String, Bytes> {
    let state: Box<dyn Any> = outcome.state;
    state.downcast::<MapState>().unwrap().0
}

impl super::Plugin {
    /// An instance that nobody in particular owns.
    pub async fn fresh(&self) -> Result<Instance, super::PluginError> {
        self.instantiate(super::Account::default(), limits::INSTANCE_MEMORY_TIMEOUT).await
    }
}
