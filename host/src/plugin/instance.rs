//! One instance: a store with its host state, and one call at a time through it.

use super::{
    Account, Call, Failure, Input, Instance, Outcome, Plugin, PluginError, Reply, State,
    bindings::{
        Handler,
        slotd::slot::types::{Message, Origin, QueryRequest, Rejection as GuestRejection},
    },
    budget::{Lease, NoMapping, NoMemory},
    guest_log::{CallLog, PluginLog, Stdio},
    imports::check_content_type,
    limiter::Limiter,
    wasi::Random,
};
use crate::{
    error::Rejection,
    limits,
    log::record::Event,
    names::{SessionId, SessionKey},
    telemetry::{metrics, text},
};
use bytes::Bytes;
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
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
    ends_at: Instant,
    // WASI: handles, an empty environment, no files, no network, and what was printed.
    pub(super) table: ResourceTable,
    pub(super) cli: WasiCliCtx,
    pub(super) files: WasiFilesystemCtx,
    pub(super) network: WasiSocketsCtx,
    pub(super) stdio: Option<Arc<Stdio>>,
}

/// One call.
pub(super) struct Current {
    pub(super) mode: Mode,
    pub(super) session: SessionKey,
    pub(super) seq: u64,
    pub(super) time_ms: u64,
    pub(super) state: Box<dyn State>,
    pub(super) events: Vec<Event>,
    pub(super) event_bytes: usize,
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
    /// A call began and did not end well, or its future was dropped: the guest's memory is in an
    /// unknown state.
    spent: bool,
}

/// Makes an instance, within the deadline of a call. Waits up to `patience` for memory, and in its
/// calls for as long as calls may.
pub(super) async fn instantiate(
    plugin: &Plugin,
    account: Account,
    patience: Duration,
) -> Result<Instance, PluginError> {
    let options = &plugin.options;
    // A call that waits must have time left to tell why it fails.
    let of_call = limits::INSTANCE_PATIENCE.min(options.deadline / 2);
    let patience = patience.min(options.deadline / 2);
    let lease = Lease::open(&plugin.budget, account, patience);
    let started = Instant::now();
    let ends_at = started + options.deadline;
    let mut table = ResourceTable::new();
    table.set_max_capacity(limits::GUEST_HANDLES_MAX);
    let state = HostState {
        limiter: Limiter::new(options.memory_bytes, lease),
        host_calls_max: options.host_calls,
        log: Arc::clone(&plugin.log),
        current: None,
        ends_at,
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
    store.epoch_deadline_callback(|store| {
        if Instant::now() >= store.data().ends_at {
            return Ok(UpdateDeadline::Interrupt);
        }
        // Through tokio, so that its driver runs too, not only the tasks that are ready.
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    let made = until(ends_at, plugin.pre.instantiate_async(&mut store)).await;
    let failure = match made {
        Some(Ok(handler)) => {
            store.data_mut().limiter.started(of_call).await?;
            metrics().instantiations.increment(1);
            metrics().instantiate_seconds.record(started.elapsed());
            let inner = Inner { store, handler, deadline: options.deadline, spent: false };
            return Ok(Instance { inner });
        }
        Some(Err(error)) => store.data_mut().failure_of(&error, options.deadline),
        None => Failure::Deadline(options.deadline),
    };
    if let Failure::NoMemory(error) = failure {
        return Err(PluginError::NoMemory(error));
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

    pub(super) async fn call(&mut self, call: Call) -> Outcome {
        let started = Instant::now();
        let Call { session, seq, time_ms, state, input } = call;
        if self.spent {
            let sentence = "the instance had ended in an earlier call".to_owned();
            return Outcome {
                state,
                result: Err(Failure::Trapped(sentence)),
                events: Vec::new(),
                host_calls: 0,
                used_state: false,
                elapsed: Duration::ZERO,
            };
        }
        self.spent = true;
        let id = session.session.clone();
        self.begin(session, seq, time_ms, state, &input, started);
        let ends_at = self.store.data().ends_at;
        let result = self.run(&id, seq, time_ms, &input, ends_at).await;
        self.finish(result, started)
    }

    fn begin(
        &mut self,
        session: SessionKey,
        seq: u64,
        time_ms: u64,
        state: Box<dyn State>,
        input: &Input,
        started: Instant,
    ) {
        let host = self.store.data_mut();
        host.ends_at = started + self.deadline;
        host.limiter.take_refusal();
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
            events: Vec::new(),
            event_bytes: 0,
            host_calls: 0,
            used_state: false,
            log: CallLog::default(),
            random: None,
            failure: None,
        }));
        self.store.set_epoch_deadline(1);
    }

    /// Calls the guest and checks what it answered. `None`: the deadline passed while the guest
    /// waited.
    async fn run(
        &mut self,
        session: &SessionId,
        seq: u64,
        time_ms: u64,
        input: &Input,
        ends_at: Instant,
    ) -> Option<wasmtime::Result<Result<Reply, Failure>>> {
        let session = session.as_str();
        match input {
            Input::Handle { id, sender, content_type, body } => {
                let message = Message {
                    session,
                    seq,
                    id: id.as_deref(),
                    origin: Origin::Client(sender.as_deref()),
                    content_type,
                    body,
                    time_ms,
                };
                let call = self.handler.call_handle(&mut self.store, message);
                Some(until(ends_at, call).await?.map(|answer| match answer {
                    Ok(reply) => check_reply(reply.content_type, reply.body),
                    Err(rejection) => Err(check_rejection(rejection)),
                }))
            }
            Input::Query { content_type, body } => {
                let query = QueryRequest { session, seq, content_type, body, time_ms };
                let call = self.handler.call_query(&mut self.store, query);
                Some(until(ends_at, call).await?.map(|answer| match answer {
                    Ok(reply) => check_reply(reply.content_type, reply.body),
                    Err(rejection) => Err(check_rejection(rejection)),
                }))
            }
            Input::Migrate { from } => {
                let call = self.handler.call_migrate(&mut self.store, from);
                Some(until(ends_at, call).await?.map(|answer| match answer {
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
        let host = self.store.data_mut();
        host.flush_stdio();
        let Some(current) = host.current.take() else {
            // `begin` put it there and nothing else takes it.
            unreachable!("a call without its state")
        };
        current.log.finish(&host.log, &current.session);
        self.spent = result.as_ref().is_err_and(Failure::is_fatal);
        let events = if result.is_ok() { current.events } else { Vec::new() };
        Outcome {
            state: current.state,
            result,
            events,
            host_calls: current.host_calls,
            used_state: current.used_state,
            elapsed: started.elapsed(),
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
        tell_frames(error);
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
                "it gave up, with exit code {code} (an error that it did not catch, most likely)"
            ));
        }
        let cause = error.root_cause().to_string();
        let table = error.downcast_ref::<ResourceTableError>();
        if matches!(table, Some(ResourceTableError::Full)) || cause.contains("store handle limit") {
            let handles = limits::GUEST_HANDLES_MAX;
            return Failure::Limit(format!("handles: an instance may hold {handles}"));
        }
        if cause.contains("fuel allocated for hostcalls") {
            let bytes = limits::HOST_CALL_BYTES_MAX;
            return Failure::Limit(format!("a host call or a reply may carry {bytes} bytes"));
        }
        Failure::Trapped(match trap {
            Some(Trap::StackOverflow) => format!(
                "stack overflow: it recursed too deep for its stack of {} KiB",
                limits::GUEST_STACK_BYTES / 1024
            ),
            // Rust and C keep a stack of their own at the bottom of their memory.
            Some(Trap::MemoryOutOfBounds) => {
                "it reached outside of its memory (it recursed too deep, or has a bad pointer)"
                    .to_owned()
            }
            Some(Trap::UnreachableCodeReached) => {
                "it reached unreachable code (a panic or an abort, most likely)".to_owned()
            }
            _ => text::cut(&text::printable(&cause), limits::TRAP_TEXT_BYTES_MAX).to_owned(),
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
fn tell_frames(error: &wasmtime::Error) {
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
            "a reply may have {} bytes, this one has {}",
            limits::REPLY_BYTES_MAX,
            body.len()
        )));
    }
    Ok(Reply { content_type, body: Bytes::from(body) })
}

fn check_rejection(rejection: GuestRejection) -> Failure {
    let too_long = |what: &str, bytes_max: usize, bytes: usize| {
        Failure::Limit(format!(
            "a rejection's {what} may have {bytes_max} bytes, this one has {bytes}"
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

/// Runs a future until it ends, or until the time is up while it waits. A guest that computes is
/// stopped by its epochs; this is for one that waits on the host. The timer is made only when the
/// future waits at all: most calls never do.
pub(super) async fn until<F: Future>(ends_at: Instant, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut sleep = pin!(None::<tokio::time::Sleep>);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if sleep.is_none() {
            // An epoch later than a guest that computes would be stopped, which says more.
            let at = tokio::time::Instant::from_std(ends_at + limits::GUEST_EPOCH);
            sleep.set(Some(tokio::time::sleep_until(at)));
        }
        match sleep.as_mut().as_pin_mut() {
            Some(sleep) => sleep.poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}
