//! Threads for work that is in no hurry. They give way to every other thread of the machine: while
//! a component is compiled (Python's takes every core for seconds), or a slot's state is made ready
//! for a move, no message of another slot may wait for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use tokio::sync::oneshot;

/// A pool of threads that give way.
pub struct Workers(rayon::ThreadPool);

/// The work ended in a panic, which was contained, or could not be begun.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("work in the background ended in a panic")]
pub struct Panicked;

impl Workers {
    /// At most `threads`, and not more than there are cores. `nice` is how far they give way, as
    /// for nice(1).
    ///
    /// # Errors
    /// When the system has no threads to give.
    pub fn new(name: &'static str, threads: usize, nice: i32) -> Result<Self, String> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        rayon::ThreadPoolBuilder::new()
            .num_threads(cores.min(threads))
            .thread_name(move |number| format!("slotd-{name}-{number}"))
            .start_handler(move |_| give_way(nice))
            .build()
            .map(Self)
            .map_err(|e| format!("no threads to {name} with: {e}"))
    }

    /// Runs work on these threads, what came first first; what it does in parallel (wasmtime
    /// compiles so) stays on them. It is done also when nobody waits for it any more.
    ///
    /// # Errors
    /// [`Panicked`].
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        let (done, result) = oneshot::channel();
        self.0.spawn_fifo(move || {
            // Nobody waits any more: nothing to tell.
            let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
        });
        match result.await {
            Ok(Ok(result)) => Ok(result),
            _ => Err(Panicked),
        }
    }
}

/// Has the scheduler prefer every other thread to this one.
fn give_way(nice: i32) {
    #[cfg(target_os = "linux")]
    // SAFETY: changes how the calling thread is scheduled and touches no memory of ours.
    #[allow(unsafe_code, reason = "libc has no safe interface for it")]
    unsafe {
        // Fails nowhere: everyone may lower a priority. On Linux it is the calling thread's own.
        libc::setpriority(libc::PRIO_PROCESS, 0, nice);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = nice;
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Threads that compile at the priority of those that serve would delay every message of the
    /// node for seconds.
    #[tokio::test]
    async fn who_is_in_no_hurry_gives_way() {
        use rayon::prelude::*;
        let workers = Workers::new("test", 8, 7).unwrap();
        let priorities = workers.run(|| {
            let all = (0..64).into_par_iter().map(|_| {
                // SAFETY: asks for a number of the calling thread.
                #[allow(unsafe_code, reason = "libc has no safe interface for it")]
                unsafe {
                    libc::getpriority(libc::PRIO_PROCESS, 0)
                }
            });
            all.collect::<Vec<_>>()
        });
        let priorities = priorities.await.unwrap();
        assert!(priorities.iter().all(|nice| *nice >= 7), "{priorities:?}");
    }

    /// A panic in the compiler must not take the node with it, nor the next deploy.
    #[tokio::test]
    async fn a_panic_is_contained() {
        let workers = Workers::new("test", 1, 7).unwrap();
        assert!(workers.run::<()>(|| panic!("as the test wants it")).await.is_err());
        assert!(workers.run(|| 1).await.is_ok_and(|one| one == 1));
    }
}
