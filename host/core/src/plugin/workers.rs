//! The threads that hash, read and write whole components. They have the lowest priority, so that
//! no message waits for them.

use super::PluginError;
use crate::{limits, telemetry::panics};
use tokio::sync::oneshot;

pub(super) struct Workers(rayon::ThreadPool);

impl Workers {
    pub(super) fn new() -> Result<Self, PluginError> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(limits::COMPONENT_THREADS)
            .thread_name(|number| format!("slotd-component-{number}"))
            .start_handler(|_| give_way(limits::COMPILE_NICE))
            .build()
            .map(Self)
            .map_err(|e| PluginError::Failed(format!("no threads for components: {e}")))
    }

    /// Runs work on one of these threads.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PluginError> + Send + 'static,
    ) -> Result<T, PluginError> {
        let (done, result) = oneshot::channel();
        self.0.spawn(move || {
            // Nobody waits for the result any more.
            let _ = done.send(panics::contain_sync("work on a plugin", work));
        });
        match result.await {
            Ok(Ok(result)) => result,
            Ok(Err(panicked)) => Err(PluginError::Failed(panicked.to_string())),
            Err(_) => Err(PluginError::Failed("work on a plugin was dropped".to_owned())),
        }
    }
}

/// Has the scheduler prefer every other thread to this one, and to those that it starts, as far as
/// `nice` goes.
#[cfg_attr(not(target_os = "linux"), allow(unused_variables))]
pub fn give_way(nice: i32) {
    #[cfg(target_os = "linux")]
    // SAFETY: changes how the calling thread is scheduled and touches no memory of ours.
    #[allow(unsafe_code, reason = "libc has no safe interface for it")]
    unsafe {
        // Fails nowhere: everyone may lower a priority. On Linux it is the calling thread's own.
        libc::setpriority(libc::PRIO_PROCESS, 0, nice);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Threads that hash 64 MiB at the priority of those that serve would delay every message.
    #[tokio::test]
    async fn whoever_works_on_components_gives_way() {
        use rayon::prelude::*;
        let workers = Workers::new().unwrap();
        let priorities = workers.run(|| {
            let all = (0..64).into_par_iter().map(|_| {
                // SAFETY: asks for a number of the calling thread.
                #[allow(unsafe_code, reason = "libc has no safe interface for it")]
                unsafe {
                    libc::getpriority(libc::PRIO_PROCESS, 0)
                }
            });
            Ok(all.collect::<Vec<_>>())
        });
        let priorities = priorities.await.unwrap();
        assert!(priorities.iter().all(|nice| *nice > 0), "{priorities:?}");
    }

    /// A panic in the compiler must not take the node with it, nor the next deploy.
    #[tokio::test]
    async fn a_panic_is_contained() {
        let workers = Workers::new().unwrap();
        let failed = workers.run::<()>(|| panic!("as the test wants it")).await.unwrap_err();
        assert!(matches!(failed, PluginError::Failed(_)));
        assert!(workers.run(|| Ok(panics::is_contained())).await.unwrap(), "to the hook too");
    }
}
