//! One instance: a store with its host state, and one call at a time through it.

use super::{
    Account, Call, Failure, Input, Instance, Outcome, Plugin, PluginError, Reply, State,
    bindings::{
        Handler,
        slotd::slot::types::{
            Message, Origin as GuestOrigin, QueryRequest, Rejection as GuestRejection,
        },
    },
    budget::Lease,
    guest_log::{CallLog, PluginLog, Stdio},
    imports::{Events, check_content_type},
    limiter::Limiter,
    no_memory::{NoMapping, NoMemory},
    signal::{Signal, thread_time},
    wasi::Random,
};
use crate::{
    effects::Origin,
    error::Rejection,
    limits,
    message::Client,
    names::{SessionId, SessionKey},
    telemetry::metrics,
    text::{self, Keep},
};
use bytes::Bytes;
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    thread::ThreadId,
    time::{Duration, Instant},
};
use wasmtime::{Store, Trap, UpdateDeadline, WasmBacktrace, component::ResourceTable};
use wasmtime_wasi::{
    I32Exit, ResourceTableError, cli::WasiCliCtx, filesystem::WasiFilesystemCtx,
    sockets::WasiSocketsCtx,
};

/// What the host knows of an instance; the data of its store.
pub(super) struct HostState {
    pub(super) limiter: Limiter,
    pub(super) host_calls_max: u32,
    pub(super) log: Arc<PluginLog>,
    /// The call that is under way; none while the instance is being made.
    pub(super) current: Option<Box<Current>>,
    clock: Clock,
    // WASI: handles, an empty environment, no files, no network, and what was printed.
    pub(super) table: ResourceTable,
    pub(super) cli: WasiCliCtx,
    pub(super) files: WasiFilesystemCtx,
    pub(super) network: WasiSocketsCtx,
    pub(super) stdio: Option<Arc<Stdio>>,
}

/// The running time of a call: what others do while it waits for its turn is not in it.
struct Clock {
    deadline: Duration,
    begun: Instant,
    used: Duration,
    /// Since it went on last.
    slice: Duration,
    /// The thread that was last seen to run it, with that thread's time then, and the world's; `None`:
    /// it has gone on since.
    seen: Option<(ThreadId, Duration, Instant)>,
    /// Epochs that it has come to since it went on last.
    epochs: u32,
    /// It has come to one at all.
    looked: bool,
    signal: Arc<Signal>,
}

/// One call.
pub(super) struct Current {
    pub(super) mode: Mode,
    pub(super) session: SessionKey,
    pub(super) seq: u64,
    pub(super) time_ms: u64,
    pub(super) state: Box<dyn State>,
    /// What the message comes from; `None`: a client of whom nothing is known.
    pub(super) origin: Option<Box<Origin>>,
    /// Who sent the message, or asks; `None`: nobody was shown to be it.
    pub(super) client: Option<Arc<Client>>,
    pub(super) events: Events,
    pub(super) ephemeral: Events,
    pub(super) host_calls: u32,
    pub(super) used_state: bool,
    pub(super) log: CallLog,
    /// Made when first asked for.
    pub(super) random: Option<Box<Random>>,
    /// Why the host trapped the guest.
    pub(super) failure: Option<Failure>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Handle,
    Query,
    Migrate,
}

/// The store and the exports of an instance.
pub(super) struct Inner {
    store: Store<HostState>,
    handler: Handler,
    deadline: Duration,
    /// What its calls log is not written.
    pub(super) muted: bool,
    is_metered: bool,
    /// A call began and did not end well, or its future was dropped: the guest's memory is in an
    /// unknown state.
    spent: bool,
}

/// Of a call that is counted: no call gets to its end, as its deadline is before.
const FUEL: u64 = 1 << 62;

/// Makes an instance, within the deadline of a call. Waits up to `timeout` for memory, and in its
/// calls for as long as calls may.
pub(super) async fn instantiate(
    plugin: &Plugin,
    account: Account,
    timeout: Duration,
    signal: Arc<Signal>,
) -> Result<Instance, PluginError> {
    let options = &plugin.options;
    // A call that waits must have time left to report why it fails.
    let of_call = limits::INSTANCE_MEMORY_TIMEOUT.min(options.deadline / 2);
    let timeout = timeout.min(options.deadline / 2);
    let lease = Lease::open(&plugin.budget, account, timeout);
    let started = crate::clock::now();
    let mut table = ResourceTable::new();
    table.set_max_capacity(limits::GUEST_HANDLES_MAX);
    let state = HostState {
        limiter: Limiter::new(options.memory_bytes, lease),
        host_calls_max: options.host_calls,
        log: Arc::clone(&plugin.log),
        current: None,
        clock: Clock::new(options.deadline, signal.clone()),
        table,
        cli: WasiCliCtx::default(),
        files: WasiFilesystemCtx::default(),
        network: WasiSocketsCtx::default(),
        stdio: None,
    };
    let mut store = Store::new(plugin.pre.engine(), state);
    store.limiter_async(|state| &mut state.limiter);
    store.set_hostcall_fuel(limits::HOST_CALL_BYTES_MAX);
    store.set_max_component_handles(limits::GUEST_HANDLES_MAX);
    store.set_epoch_deadline(1);
    if plugin.is_metered {
        // It never fails where fuel is counted.
        let _ = store.set_fuel(FUEL);
    }
    store.epoch_deadline_callback(|mut store| {
        let host = store.data_mut();
        let waited = host.limiter.take_waited();
        Ok(host.clock.at_epoch(waited))
    });
    let made = {
        let made = pin!(plugin.pre.instantiate_async(&mut store));
        unless_stuck(&signal, options.deadline, made).await
    };
    let failure = match made {
        Some(Ok(handler)) => {
            store.data_mut().limiter.started(of_call).await?;
            metrics().instantiations.increment(1);
            metrics().instantiate_seconds.record(started.elapsed());
            let (deadline, muted) = (options.deadline, false);
            let is_metered = plugin.is_metered;
            let inner = Inner { store, handler, deadline, muted, is_metered, spent: false };
            return Ok(Instance { inner: Box::new(inner) });
        }
        Some(Err(error)) => store.data_mut().failure_of(&error, options.deadline),
        None => Failure::Deadline(options.deadline),
    };
    match failure {
        Failure::NoMemory(error) => return Err(PluginError::NoMemory(error)),
        Failure::Cut(why) => return Err(PluginError::Cut(why)),
        _ => {}
    }
    Err(PluginError::Refused(format!("it can't be instantiated: it {failure}")))
}

impl Inner {
    pub(super) fn memory_bytes(&self) -> usize {
        self.store.data().limiter.memory()
    }

    pub(super) fn counted_bytes(&self) -> usize {
        self.store.data().limiter.bytes()
    }

    pub(super) fn counted_maps(&self) -> usize {
        self.store.data().limiter.maps()
    }

    pub(super) async fn call(&mut self, call: Call, signal: Arc<Signal>) -> Outcome {
        let started = crate::clock::now();
        let Call { session, seq, time_ms, state, input } = call;
        if self.spent {
            let sentence = "the instance had ended in an earlier call".to_owned();
            return Outcome::without_a_call(state, Failure::Trapped(sentence));
        }
        self.spent = true;
        let id = session.session.clone();
        let from = session_of(&input, &session);
        self.begin(session, seq, time_ms, state, &input, &signal);
        let result = self.run(&id, &from, seq, time_ms, &input, &signal).await;
        self.finish(result, started)
    }

    fn begin(
        &mut self,
        session: SessionKey,
        seq: u64,
        time_ms: u64,
        state: Box<dyn State>,
        input: &Input,
        signal: &Arc<Signal>,
    ) {
        let host = self.store.data_mut();
        host.clock = Clock::new(self.deadline, signal.clone());
        host.limiter.renew();
        host.current = Some(Box::new(Current {
            mode: match input {
                Input::Handle { .. } => Mode::Handle,
                Input::Query { .. } => Mode::Query,
                Input::Migrate { .. } => Mode::Migrate,
            },
            session,
            seq,
            time_ms,
            state,
            origin: match input {
                Input::Handle { origin, .. } => origin.clone(),
                _ => None,
            },
            client: match input {
                // As it is recorded.
                Input::Handle { origin, .. } => origin.as_deref().and_then(Origin::client).cloned(),
                Input::Query { client, .. } => client.clone(),
                Input::Migrate { .. } => None,
            },
            events: Events::default(),
            ephemeral: Events::default(),
            host_calls: 0,
            used_state: false,
            log: CallLog::new(self.muted),
            random: None,
            failure: None,
        }));
        self.store.set_epoch_deadline(1);
        if self.is_metered {
            let _ = self.store.set_fuel(FUEL);
        }
    }

    /// Calls the guest and checks what it answered. `None`: the deadline passed while the guest
    /// waited.
    async fn run(
        &mut self,
        session: &SessionId,
        from: &str,
        seq: u64,
        time_ms: u64,
        input: &Input,
        signal: &Signal,
    ) -> Option<wasmtime::Result<Result<Reply, Failure>>> {
        let (session, limit) = (session.as_str(), self.deadline);
        match input {
            Input::Handle { message: incoming, origin } => {
                let origin = match origin.as_deref() {
                    // No guest is called for a part, for what an operator does, or for what another session handled.
                    None
                    | Some(
                        Origin::Client(_)
                        | Origin::Part(_)
                        | Origin::Operator(_)
                        | Origin::Inherited(_),
                    ) => GuestOrigin::Client(incoming.sender.as_deref()),
                    Some(Origin::Timer(firing)) => GuestOrigin::Timer(&firing.name),
                    Some(Origin::Session(_) | Origin::Answer(_) | Origin::Presence(_)) => {
                        GuestOrigin::Session(from)
                    }
                    Some(Origin::Http(answered)) => GuestOrigin::Http(&answered.id),
                };
                let message = Message {
                    session,
                    seq,
                    id: incoming.client_key(),
                    origin,
                    content_type: &incoming.content_type,
                    body: &incoming.body,
                    time_ms,
                };
                let call = pin!(self.handler.call_handle(&mut self.store, message));
                Some(unless_stuck(signal, limit, call).await?.map(|answer| match answer {
                    Ok(reply) => check_reply(reply.content_type, reply.body),
                    Err(rejection) => Err(check_rejection(rejection)),
                }))
            }
            Input::Query { content_type, body, .. } => {
                let query = QueryRequest { session, seq, content_type, body, time_ms };
                let call = pin!(self.handler.call_query(&mut self.store, query));
                Some(unless_stuck(signal, limit, call).await?.map(|answer| match answer {
                    Ok(reply) => check_reply(reply.content_type, reply.body),
                    Err(rejection) => Err(check_rejection(rejection)),
                }))
            }
            Input::Migrate { from } => {
                let call = pin!(self.handler.call_migrate(&mut self.store, from));
                Some(unless_stuck(signal, limit, call).await?.map(|answer| match answer {
                    Ok(()) => Ok(Reply::default()),
                    Err(message) => Err(check_rejection(GuestRejection {
                        code: "migrate-refused".to_owned(),
                        message,
                        retriable: false,
                    })),
                }))
            }
        }
    }

    fn finish(
        &mut self,
        result: Option<wasmtime::Result<Result<Reply, Failure>>>,
        started: Instant,
    ) -> Outcome {
        let result = match result {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => Err(self.store.data_mut().failure_of(&error, self.deadline)),
            None => Err(Failure::Deadline(self.deadline)),
        };
        let fuel = match self.is_metered {
            true => self.store.get_fuel().map_or(0, |left| FUEL.saturating_sub(left)),
            false => 0,
        };
        let host = self.store.data_mut();
        host.flush_stdio();
        let Some(current) = host.current.take() else {
            // `begin` put it there and nothing else takes it.
            unreachable!("a call without its state")
        };
        current.log.finish(&host.log, &current.session);
        self.spent = result.as_ref().is_err_and(Failure::is_fatal);
        let sent = |events: Events| if result.is_ok() { events.list } else { Vec::new() };
        Outcome {
            state: current.state,
            events: sent(current.events),
            ephemeral: sent(current.ephemeral),
            result,
            host_calls: current.host_calls,
            used_state: current.used_state,
            fuel,
            elapsed: Some(started.elapsed()),
        }
    }
}

impl HostState {
    /// What a trap means. The host's own reasons go before what wasmtime saw of them.
    fn failure_of(&mut self, error: &wasmtime::Error, deadline: Duration) -> Failure {
        if let Some(failure) = self.current.as_mut().and_then(|current| current.failure.take()) {
            return failure;
        }
        if let Some(error) = error.downcast_ref::<NoMemory>() {
            return Failure::NoMemory(*error);
        }
        if let Some(why) = NoMapping::behind(error) {
            return Failure::NoMemory(why.into());
        }
        if let Some(why) = self.clock.signal.is_cut() {
            return Failure::Cut(why);
        }
        log_frames(error);
        let trap = error.downcast_ref::<Trap>();
        if trap == Some(&Trap::Interrupt) {
            return Failure::Deadline(deadline);
        }
        if let Some(refused) = self.limiter.take_refusal() {
            return Failure::Limit(refused);
        }
        if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
            // JavaScript has no other way to trap: its SDK has logged what was thrown.
            return Failure::Trapped(format!(
                "it exited with code {code} (most likely an uncaught error in the handler; see \
                 the node's log)"
            ));
        }
        let cause = error.root_cause().to_string();
        let table = error.downcast_ref::<ResourceTableError>();
        if matches!(table, Some(ResourceTableError::Full)) || cause.contains("store handle limit") {
            let handles = limits::GUEST_HANDLES_MAX;
            return Failure::Limit(format!("handles: an instance may hold at most {handles}"));
        }
        if cause.contains("fuel allocated for hostcalls") {
            let bytes = limits::HOST_CALL_BYTES_MAX;
            return Failure::Limit(format!(
                "a host call or a reply may carry at most {bytes} bytes"
            ));
        }
        Failure::Trapped(match trap {
            Some(Trap::StackOverflow) => format!(
                "stack overflow: it recursed too deeply for its stack of {} KiB",
                limits::GUEST_STACK_BYTES / 1024
            ),
            // Rust and C keep a stack of their own at the bottom of their memory.
            Some(Trap::MemoryOutOfBounds) => {
                "out-of-bounds memory access (most likely deep recursion or a bad pointer)"
                    .to_owned()
            }
            Some(Trap::UnreachableCodeReached) => {
                "unreachable executed (most likely a panic or an abort)".to_owned()
            }
            _ => text::cut(&text::printable(&cause, Keep::Tabs), limits::TRAP_TEXT_BYTES_MAX)
                .to_owned(),
        })
    }

    fn flush_stdio(&mut self) {
        let (Some(stdio), Some(current)) = (&self.stdio, &mut self.current) else { return };
        let (lines, dropped) = stdio.take();
        for (level, line) in lines {
            current.log.write(&self.log, &current.session, level, &line);
        }
        current.log.drop_lines(dropped);
    }
}

/// Shows whoever writes a handler where it trapped: the guest's own frames, and none of the host's.
fn log_frames(error: &wasmtime::Error) {
    if !tracing::enabled!(target: "slotd::guest", tracing::Level::DEBUG) {
        return;
    }
    let trace = error.downcast_ref::<WasmBacktrace>().map(ToString::to_string).unwrap_or_default();
    // Below a heading, one a line: number, place, module and function.
    let frames = trace.lines().skip(1).filter_map(|line| Some(line.split_once('!')?.1));
    let frames: Vec<_> = frames
        .take(limits::TRAP_FRAMES_MAX)
        .map(|name| text::cut(name, limits::TRAP_FRAME_BYTES_MAX))
        .collect();
    let cause = error.root_cause().to_string();
    tracing::debug!(
        target: "slotd::guest",
        frames = frames.join(" < "),
        "a guest trapped: {}",
        text::cut(&cause, limits::TRAP_TEXT_BYTES_MAX)
    );
}

fn check_reply(content_type: String, body: Vec<u8>) -> Result<Reply, Failure> {
    check_content_type(&content_type, "a reply")?;
    if body.len() > limits::REPLY_BYTES_MAX {
        return Err(Failure::Limit(format!(
            "a reply may have {} bytes; this one has {}",
            limits::REPLY_BYTES_MAX,
            body.len()
        )));
    }
    Ok(Reply { content_type, body: Bytes::from(body) })
}

fn check_rejection(rejection: GuestRejection) -> Failure {
    let too_long = |what: &str, bytes_max: usize, bytes: usize| {
        Failure::Limit(format!(
            "a rejection's {what} may have {bytes_max} bytes; this one has {bytes}"
        ))
    };
    let GuestRejection { code, message, retriable } = rejection;
    if code.len() > limits::REJECTION_CODE_BYTES_MAX {
        return too_long("code", limits::REJECTION_CODE_BYTES_MAX, code.len());
    }
    if message.len() > limits::REJECTION_MESSAGE_BYTES_MAX {
        return too_long("message", limits::REJECTION_MESSAGE_BYTES_MAX, message.len());
    }
    Failure::Rejected(Rejection { code, message, retriable })
}

impl Clock {
    fn new(deadline: Duration, signal: Arc<Signal>) -> Self {
        Self {
            deadline,
            begun: crate::clock::now(),
            used: Duration::ZERO,
            slice: Duration::ZERO,
            seen: None,
            epochs: 0,
            looked: false,
            signal,
        }
    }

    /// Looks what a call has used, at an epoch. It ends, goes on, or has had its slice. `waited`: it
    /// waited for memory, and others ran on its thread meanwhile.
    fn at_epoch(&mut self, waited: bool) -> UpdateDeadline {
        let (thread, now, at) = (std::thread::current().id(), thread_time(), crate::clock::now());
        // What goes by where it can't run, as it waits for a disk or a processor, counts in part: a call
        // has to end on any machine.
        let (since, passed) = match self.seen {
            Some((seen, then, at)) if seen == thread && !waited => {
                (now.saturating_sub(then), at.elapsed())
            }
            // No clock of the thread was read at the call's begin, which costs more than a short
            // call: what it used till now is an epoch at most.
            _ if !self.looked => (self.begun.elapsed().min(limits::GUEST_EPOCH), Duration::ZERO),
            _ => (Duration::ZERO, Duration::ZERO),
        };
        self.used += since.max(passed / limits::GUEST_DEADLINE_STRETCH);
        self.seen = Some((thread, now, at));
        if self.used >= self.deadline || self.signal.is_cut().is_some() {
            return UpdateDeadline::Interrupt;
        }
        self.epochs += 1;
        if !std::mem::replace(&mut self.looked, true) {
            return UpdateDeadline::Continue(1);
        }
        self.slice += since;
        // One that waits for the disk in its host calls uses no time, and holds the thread all the same.
        if self.slice < limits::GUEST_SLICE && self.epochs < limits::GUEST_SLICE_EPOCHS {
            return UpdateDeadline::Continue(1);
        }
        (self.slice, self.seen, self.epochs) = (Duration::ZERO, None, 0);
        // Asked again as soon as it goes on: it may have been cut short meanwhile.
        UpdateDeadline::YieldCustom(0, Box::pin(self.signal.clone().pause()))
    }
}

/// Runs a future until it ends, or until it has waited for the host for `limit`. A guest that
/// computes is stopped by its epochs, and does not count while it waits for its turn; this is for
/// one that waits for the host. The timer is made only when the future waits at all: most calls
/// never do. It is pinned by the caller: by value it would have its place here twice.
pub(super) async fn unless_stuck<F: Future>(
    signal: &Signal,
    limit: Duration,
    mut future: Pin<&mut F>,
) -> Option<F::Output> {
    let mut sleep = pin!(None::<tokio::time::Sleep>);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if signal.is_paused() {
            sleep.set(None);
            return Poll::Pending;
        }
        if sleep.is_none() {
            sleep.set(Some(tokio::time::sleep(limit + limits::GUEST_EPOCH)));
        }
        match sleep.as_mut().as_pin_mut() {
            Some(sleep) => sleep.poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}

/// The session that a message comes from, as a guest sees it; empty if it comes from none.
fn session_of(input: &Input, own: &SessionKey) -> String {
    let Input::Handle { origin: Some(origin), .. } = input else { return String::new() };
    match &**origin {
        Origin::Session(received) => received.from.to_string(),
        Origin::Answer(answered) => answered.of.to_string(),
        Origin::Presence(_) => own.to_string(),
        Origin::Timer(_)
        | Origin::Http(_)
        | Origin::Part(_)
        | Origin::Client(_)
        | Origin::Inherited(_)
        | Origin::Operator(_) => String::new(),
    }
}
