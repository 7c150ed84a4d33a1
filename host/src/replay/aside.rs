//! Threads beside those that serve: of a low priority, as many as a node gives permits for.

use super::check::Progress;
use crate::{
    limits,
    plugin::give_way,
    telemetry::panics::{self, Panicked},
};
use std::{future::Future, io, sync::Arc};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, oneshot},
};

/// Has a thread of its own do `work`, on the runtime of whoever calls, and lets go of `held` behind it. Where what is given
/// is dropped, the work ends.
///
/// # Errors
/// The system has no room for one more thread.
pub fn start<T, F>(
    name: &'static str,
    what: &'static str,
    held: impl Send + 'static,
    work: impl FnOnce() -> F + Send + 'static,
) -> io::Result<oneshot::Receiver<Result<T, Panicked>>>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let (mut ended, end) = oneshot::channel();
    let runtime = Handle::current();
    crate::thread::start(name, move || {
        give_way(limits::REPLAY_NICE);
        let worked = runtime.block_on(async {
            tokio::select! {
                biased;
                // Nobody waits for it any more.
                () = ended.closed() => None,
                worked = panics::contain(what, async { work().await }) => Some(worked),
            }
        });
        drop(held);
        if let Some(worked) = worked {
            let _ = ended.send(worked);
        }
    })?;
    Ok(end)
}

/// Threads that do the same, each until nothing is left.
pub struct Threads {
    ends: Vec<oneshot::Receiver<Result<(), Panicked>>>,
    /// Why there are fewer.
    missing: Vec<String>,
}

impl Threads {
    /// Starts one in any case, once there is a permit for it, and as many more as there are permits for, up to `most`.
    /// `None`: there was none for as long as `progress` had time.
    pub async fn start<F>(
        name: &'static str,
        what: &'static str,
        permits: &Arc<Semaphore>,
        most: usize,
        progress: &Progress,
        work: impl Fn() -> F + Clone + Send + 'static,
    ) -> Option<Self>
    where
        F: Future<Output = ()>,
    {
        let mut next = loop {
            let permit = permits.clone().acquire_owned();
            match tokio::time::timeout(limits::REPLAY_THREAD_LOOK, permit).await {
                Ok(first) => break Some(first.ok()?),
                // Others have them all.
                Err(_) if progress.is_over() => return None,
                Err(_) => {}
            }
        };
        let mut threads = Self { ends: Vec::new(), missing: Vec::new() };
        let mut wanted = most.max(1);
        while let Some(permit) = next {
            match start(name, what, permit, work.clone()) {
                Ok(end) => threads.ends.push(end),
                Err(error) => threads.missing.push(format!("no thread for it: {error}")),
            }
            wanted -= 1;
            next = (wanted > 0).then(|| permits.clone().try_acquire_owned().ok()).flatten();
        }
        Some(threads)
    }

    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// Waits for all of them. Gives why some have not done their part.
    pub async fn end(self) -> Vec<String> {
        let mut why = self.missing;
        for end in self.ends {
            if let Ok(Err(panicked)) = end.await {
                why.push(panicked.to_string());
            }
        }
        why
    }
}
