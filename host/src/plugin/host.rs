//! From bytes to compiled plugins: each digest is compiled once, off the threads that serve.

use super::{
    Account, Budget, Digest, Plugin, PluginError, PluginOptions, bindings::HandlerPre, check,
    engine, guest_log::PluginLog, instance::HostState, store::Disk, workers::Workers,
};
use crate::limits;
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Weak},
    time::Instant,
};
use tokio::sync::Semaphore;
use wasmtime::{
    Engine,
    component::{Component, Linker},
};

/// A plugin for as long as someone uses it; its lock is held while it is being made.
type Cell = tokio::sync::Mutex<Weak<Plugin>>;

pub(super) struct Inner {
    engine: Engine,
    linker: Linker<HostState>,
    disk: Disk,
    options: Arc<PluginOptions>,
    pub(super) budget: Arc<Budget>,
    workers: Workers,
    plugins: Mutex<HashMap<Digest, Arc<Cell>>>,
    compiles: Semaphore,
}

/// Runs work to its end even when its caller is dropped: half a deployment is worth nothing.
pub(super) async fn finish<T: Send + 'static>(
    work: impl Future<Output = Result<T, PluginError>> + Send + 'static,
) -> Result<T, PluginError> {
    tokio::spawn(work).await.unwrap_or_else(|e| Err(PluginError::Failed(stopped(&e))))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PluginError> + Send + 'static,
) -> Result<T, PluginError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(PluginError::Failed(stopped(&e))))
}

fn stopped(error: &tokio::task::JoinError) -> String {
    format!("work on a plugin did not end: {error}")
}

impl Inner {
    pub(super) fn new(options: PluginOptions) -> Result<Self, PluginError> {
        if options.deadline.is_zero() || options.deadline > limits::GUEST_DEADLINE_MAX {
            return Err(PluginError::Failed(format!(
                "a guest's deadline is more than nothing and {:?} at most, not {:?}",
                limits::GUEST_DEADLINE_MAX,
                options.deadline
            )));
        }
        let engine = engine::new()?;
        let linker = engine::linker(&engine)
            .map_err(|e| PluginError::Failed(format!("the host's functions: {e:#}")))?;
        let disk = Disk::open(&options.dir, engine::compatibility(&engine))?;
        let budget = Budget::new(options.memory_total_bytes);
        Ok(Self {
            engine,
            linker,
            disk,
            options: Arc::new(options),
            budget,
            workers: Workers::new()?,
            plugins: Mutex::new(HashMap::new()),
            compiles: Semaphore::new(limits::COMPILES_MAX),
        })
    }

    pub(super) async fn add(self: &Arc<Self>, bytes: Bytes) -> Result<Arc<Plugin>, PluginError> {
        let checked = bytes.clone();
        let check = self.workers.run(move || {
            let inspection = check::inspect(&checked);
            match inspection.problems.as_slice() {
                [] => Ok((Digest::of(&checked), inspection.version)),
                problems => Err(PluginError::Refused(crate::text::list(problems, "; "))),
            }
        });
        let (digest, version) = check.await?;
        let cell = self.cell(digest);
        let mut cell = cell.lock().await;
        if let Some(plugin) = cell.upgrade() {
            // Stored when it was made; a damaged file is made good.
            self.store(digest, bytes).await?;
            return Ok(plugin);
        }
        let plugin = self.make(digest, version, bytes.clone()).await?;
        let trial = plugin.instantiate(Account::default(), limits::INSTANCE_PATIENCE).await;
        let stored = match trial {
            Ok(_) => self.store(digest, bytes).await,
            Err(error) => Err(error),
        };
        if let Err(error) = stored {
            let inner = Arc::clone(self);
            let forgotten = blocking(move || {
                inner.disk.forget_compiled(digest);
                Ok(())
            });
            forgotten.await?;
            return Err(error);
        }
        *cell = Arc::downgrade(&plugin);
        Ok(plugin)
    }

    async fn store(self: &Arc<Self>, digest: Digest, bytes: Bytes) -> Result<(), PluginError> {
        let inner = Arc::clone(self);
        self.workers.run(move || inner.disk.put_component(digest, &bytes)).await
    }

    pub(super) async fn load(self: &Arc<Self>, digest: Digest) -> Result<Arc<Plugin>, PluginError> {
        let cell = self.cell(digest);
        let mut cell = cell.lock().await;
        if let Some(plugin) = cell.upgrade() {
            return Ok(plugin);
        }
        let bytes = match self.component(digest).await {
            Ok(bytes) => bytes,
            Err(error) => self.fetch(digest, error).await?,
        };
        let plugin = self.make(digest, check::version(&bytes), bytes).await?;
        *cell = Arc::downgrade(&plugin);
        Ok(plugin)
    }

    /// Gets a component from elsewhere that can't be had here because of `error`.
    async fn fetch(
        self: &Arc<Self>,
        digest: Digest,
        error: PluginError,
    ) -> Result<Bytes, PluginError> {
        let Some(source) = &self.options.source else { return Err(error) };
        let found = source.fetch(digest).await;
        let bytes = found.map_err(|why| PluginError::Failed(format!("{error}; {why}")))?;
        let bytes = bytes.ok_or(error)?;
        let inner = Arc::clone(self);
        blocking(move || {
            if Digest::of(&bytes) != digest {
                let why = format!("what was fetched as component {digest} has another digest");
                return Err(PluginError::Failed(why));
            }
            inner.disk.put_component(digest, &bytes)?;
            Ok(bytes)
        })
        .await
    }

    pub(super) async fn component(self: &Arc<Self>, digest: Digest) -> Result<Bytes, PluginError> {
        let inner = Arc::clone(self);
        blocking(move || inner.disk.component(digest).map(Bytes::from)).await
    }

    pub(super) fn verify(&self, digest: Digest) -> Result<(), PluginError> {
        self.disk.verify(digest)
    }

    /// The place of a plugin in memory. Places that nobody uses any more go, so that there are as
    /// many as plugins in use.
    fn cell(&self, digest: Digest) -> Arc<Cell> {
        let mut plugins = self.plugins.lock();
        plugins.retain(|_, cell| {
            let unused = Arc::strong_count(cell) == 1
                && cell.try_lock().is_ok_and(|plugin| plugin.strong_count() == 0);
            !unused
        });
        Arc::clone(plugins.entry(digest).or_default())
    }

    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.plugins.lock().len()
    }

    /// Takes what was compiled before, or compiles. The first is quick; the second gives way to
    /// everything else that the node does.
    async fn make(
        self: &Arc<Self>,
        digest: Digest,
        version: Option<String>,
        bytes: Bytes,
    ) -> Result<Arc<Plugin>, PluginError> {
        let inner = Arc::clone(self);
        let kept = blocking(move || Ok(inner.compiled(digest))).await?;
        let component = match kept {
            Some(component) => component,
            None => {
                // Closed never; if it were, compiling without a permit is still right.
                let _permit = self.compiles.acquire().await;
                let inner = Arc::clone(self);
                self.workers.run(move || inner.compile(digest, &bytes)).await?
            }
        };
        let refused = |e: wasmtime::Error| PluginError::Refused(format!("{e:#}"));
        let code = component.image_range();
        let pre = self.linker.instantiate_pre(&component).map_err(refused)?;
        Ok(Arc::new(Plugin {
            digest,
            version,
            pre: HandlerPre::new(pre).map_err(refused)?,
            options: Arc::clone(&self.options),
            budget: Arc::clone(&self.budget),
            code_bytes: code.end.addr() - code.start.addr(),
            log: Arc::new(PluginLog::new(digest)),
        }))
    }

    /// Compiles, and keeps the code: for the next start, and so that it is mapped from its file,
    /// whose pages the system can drop and read again, instead of held in memory.
    fn compile(&self, digest: Digest, bytes: &[u8]) -> Result<Component, PluginError> {
        let started = Instant::now();
        let code = self.engine.precompile_component(bytes);
        let code = code.map_err(|e| PluginError::Refused(format!("it does not compile: {e:#}")))?;
        let elapsed = started.elapsed();
        crate::telemetry::metrics().compile_seconds.record(elapsed);
        tracing::info!(
            plugin = %digest.short(),
            bytes = bytes.len(),
            code_bytes = code.len(),
            elapsed_ms = elapsed.as_millis() as u64,
            "compiled a plugin"
        );
        let kept = self.disk.put_compiled(digest, &code);
        let component = match kept {
            Ok(()) => self.compiled(digest),
            Err(e) => {
                // Without it the next start is slower, that is all.
                tracing::warn!(plugin = %digest.short(), "compiled code is not kept: {e}");
                None
            }
        };
        match component {
            Some(component) => Ok(component),
            // SAFETY: these are the bytes that `precompile_component` of this engine gave a moment
            // ago, unaltered.
            None => unsafe { Component::deserialize(&self.engine, &code) }.map_err(|e| {
                PluginError::Failed(format!("what was compiled can't be used: {e:#}"))
            }),
        }
    }

    /// What was compiled before and is still good.
    fn compiled(&self, digest: Digest) -> Option<Component> {
        let path = self.disk.compiled(digest)?;
        // SAFETY: the file must hold what `precompile_component` gave, and nobody may alter it as
        // long as it is mapped. It lies in a folder that only this user can open, and only
        // `Disk::put_compiled` writes there, with nothing but that, by renaming a whole new file
        // to this name; nothing from the network reaches it. It has just passed a checksum over
        // the component's digest, the engine's full compatibility hash and the code, so that a
        // damaged, truncated or renamed file, or one of another engine, does not come here.
        match unsafe { Component::deserialize_file(&self.engine, &path) } {
            Ok(component) => Some(component),
            Err(e) => {
                tracing::warn!(plugin = %digest.short(), "compiling anew: {e:#}");
                None
            }
        }
    }
}
