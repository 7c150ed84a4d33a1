//! What happens after a panic: a bug in slotd.
//!
//! A panic leaves everything that the thread or task owned in an unknown state, so nothing
//! continues with it. There are two kinds.
//!
//! - **Contained**: the task owns everything that it touched, and its owner recreates it. An
//!   example is a slot's task: it is dropped with its memory, and the slot restarts from its log,
//!   as after a crash. Otherwise one message that triggers a bug would stop the other slots too.
//!   Such a task runs under [`contain`].
//! - **Fatal**: everything else (the committer, the store's threads, the epoch ticker). Others wait
//!   for it or share its data, so the process ends with [`EXIT_CODE`] and recovers from its log
//!   after a restart. `slotd serve` waits for [`fatal`].
//!
//! Both are logged with their location and counted in `slotd_panics_total`. Nothing else catches a panic:
//! the hook would take for fatal what somebody goes on after.

#![expect(clippy::disallowed_methods, reason = "this is their home")]

use crate::limits;
use futures_util::FutureExt;
use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    cell::Cell,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind},
    pin::pin,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::watch;

/// The process's exit code after a fatal panic.
pub const EXIT_CODE: u8 = 70;

/// The cause, once there is one.
static FATAL: std::sync::LazyLock<watch::Sender<Option<String>>> =
    std::sync::LazyLock::new(|| watch::Sender::new(None));

thread_local! {
    /// How many contained scopes this thread is in.
    static CONTAINED: Cell<u32> = const { Cell::new(0) };
    /// The name of what it runs; empty: none.
    static RUNS: Cell<&'static str> = const { Cell::new("") };
}

/// A contained panic. The log has more.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what} panicked: {message}")]
pub struct Panicked {
    pub what: &'static str,
    pub message: String,
}

/// The value to restore at the end.
struct Scope {
    contained: u32,
    ran: &'static str,
}
impl Scope {
    fn named(what: &'static str) -> Self {
        Self { contained: CONTAINED.get(), ran: RUNS.replace(what) }
    }
    fn contained(what: &'static str) -> Self {
        let this = Self::named(what);
        CONTAINED.set(this.contained + 1);
        this
    }
}
impl Drop for Scope {
    fn drop(&mut self) {
        CONTAINED.set(self.contained);
        RUNS.set(self.ran);
    }
}

/// Runs a future whose panics are reported under a name.
pub async fn named<F: Future>(what: &'static str, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|context| {
        let _scope = Scope::named(what);
        future.as_mut().poll(context)
    })
    .await
}

/// Runs a future whose panic ends only itself. The caller must drop or rebuild whatever the future
/// could have left half done.
///
/// # Errors
/// The panic.
pub async fn contain<F: Future>(what: &'static str, future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(AssertUnwindSafe(future).catch_unwind());
    poll_fn(|context| {
        let _scope = Scope::contained(what);
        future.as_mut().poll(context)
    })
    .await
    .map_err(|payload| Panicked { what, message: message(&*payload).into() })
}

/// As [`contain`], for a function.
///
/// # Errors
/// The panic.
pub fn contain_sync<T>(what: &'static str, work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch(what, true, work).map_err(|payload| Panicked { what, message: message(&*payload).into() })
}

/// Catches a panic that goes on elsewhere ([`std::panic::resume_unwind`]), where it is contained or not
/// ([`is_contained`]).
///
/// # Errors
/// What was panicked with.
pub fn catch<T>(
    what: &'static str,
    contained: bool,
    work: impl FnOnce() -> T,
) -> std::thread::Result<T> {
    let _scope = match contained {
        true => Scope::contained(what),
        false => Scope::named(what),
    };
    catch_unwind(AssertUnwindSafe(work))
}

/// Whether a panic at this place is contained.
pub fn is_contained() -> bool {
    CONTAINED.get() > 0
}

/// Resolves with the cause after an uncontained panic.
pub async fn fatal() -> String {
    let mut cause = FATAL.subscribe();
    match cause.wait_for(Option::is_some).await {
        Ok(cause) => cause.clone().unwrap_or_default(),
        // The sender is static: it never goes away.
        Err(_) => std::future::pending().await,
    }
}

/// Logs, counts and classifies every panic from now on.
pub fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(hook)));
}

fn hook(panic: &PanicHookInfo<'_>) {
    let contained = is_contained();
    let message = message(panic.payload());
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let task = Some(RUNS.get()).filter(|name| !name.is_empty());
    let who = task.map_or_else(|| format!("thread {thread}"), |task| format!("task {task:?}"));
    super::metrics().panics.increment(1);
    if tracing::dispatcher::has_been_set() {
        let consequence = if contained { "nothing else ends by it" } else { "the process ends" };
        tracing::error!(%message, %place, thread, task, "panic, a bug in slotd; {consequence}");
    } else {
        let line = format!("slotd: a bug: {who} panicked at {place}: {message}\n");
        let _ = super::sink::err(line.as_bytes());
    }
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        match contained {
            true => log_later(backtrace),
            false => log_backtrace(&backtrace),
        }
    }
    if !contained {
        FATAL.send_if_modified(|cause| {
            let first = cause.is_none();
            cause.get_or_insert_with(|| format!("{who} panicked at {place}: {message}"));
            first
        });
    }
}

/// Symbolizes a backtrace, which takes seconds, on another thread than the one that serves. One at
/// a time: a repeated panic has the same backtrace.
fn log_later(backtrace: Backtrace) {
    static BUSY: AtomicBool = AtomicBool::new(false);
    if BUSY.swap(true, Ordering::AcqRel) {
        return;
    }
    let started = crate::thread::start("slotd-backtrace", move || {
        log_backtrace(&backtrace);
        BUSY.store(false, Ordering::Release);
    });
    if started.is_err() {
        BUSY.store(false, Ordering::Release);
    }
}

fn log_backtrace(backtrace: &Backtrace) {
    let text = backtrace.to_string();
    let lines = text.lines().take(limits::BACKTRACE_LINES_MAX);
    if tracing::dispatcher::has_been_set() {
        lines.for_each(|line| tracing::error!("{line}"));
    } else {
        let lines: Vec<&str> = lines.collect();
        let _ = super::sink::err(format!("{}\n", lines.join("\n")).as_bytes());
    }
}

fn message(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "(no message)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without it one message that triggers a bug would stop every slot of the node.
    #[tokio::test]
    async fn a_contained_panic_ends_only_its_task() {
        let result = contain("a slot", async {
            tokio::task::yield_now().await;
            panic!("on {}", "purpose")
        });
        let panicked: Result<(), Panicked> = result.await;
        assert_eq!(panicked.unwrap_err().to_string(), "a slot panicked: on purpose");
        assert_eq!(contain("fine", async { 7 }).await.unwrap(), 7);
        let failed: Result<(), Panicked> = contain_sync("work", || panic!("on purpose"));
        assert!(failed.is_err());
        assert!(contain_sync("work", is_contained).unwrap());
        assert!(catch("part of a contained task", true, is_contained).unwrap());
        assert!(!catch("part of another", false, is_contained).unwrap());
        assert_eq!(named("x", async { RUNS.get() }).await, "x");
        assert_eq!((CONTAINED.get(), RUNS.get()), (0, ""));
    }
}
