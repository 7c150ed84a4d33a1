//! From bytes to compiled plugins: each digest is compiled once, off the threads that serve.

use super::{
    Digest, Plugin, PluginError, PluginOptions, bindings::HandlerPre, check, engine,
    guest_log::PluginLog, instance::HostState, store::Disk,
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
        Ok(Self {
            engine,
            linker,
            disk,
            options: Arc::new(options),
            plugins: Mutex::new(HashMap::new()),
            compiles: Semaphore::new(limits::COMPILES_MAX),
        })
    }

    pub(super) async fn add(self: &Arc<Self>, bytes: Bytes) -> Result<Arc<Plugin>, PluginError> {
        let checked = bytes.clone();
        let (digest, version) = blocking(move || {
            let inspection = check::inspect(&checked);
            match inspection.problems.as_slice() {
                [] => Ok((Digest::of(&checked), inspection.version)),
                problems => Err(PluginError::Refused(problems.join("; "))),
            }
        })
        .await?;
        let cell = self.cell(digest);
        let mut cell = cell.lock().await;
        if let Some(plugin) = cell.upgrade() {
            // Stored when it was made; a damaged file is made good.
            let inner = Arc::clone(self);
            blocking(move || inner.disk.put_component(digest, &bytes)).await?;
            return Ok(plugin);
        }
        let (plugin, code) = self.compile(digest, version, bytes.clone()).await?;
        plugin.instantiate().await?;
        let inner = Arc::clone(self);
        blocking(move || {
            inner.disk.put_component(digest, &bytes)?;
            inner.keep(digest, code.as_deref());
            Ok(())
        })
        .await?;
        *cell = Arc::downgrade(&plugin);
        Ok(plugin)
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
        let (plugin, code) = self.compile(digest, check::version(&bytes), bytes).await?;
        if code.is_some() {
            let inner = Arc::clone(self);
            blocking(move || {
                inner.keep(digest, code.as_deref());
                Ok(())
            })
            .await?;
        }
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

    /// Compiles, or takes what was compiled before. Gives the code where it is new.
    async fn compile(
        self: &Arc<Self>,
        digest: Digest,
        version: Option<String>,
        bytes: Bytes,
    ) -> Result<(Arc<Plugin>, Option<Vec<u8>>), PluginError> {
        // Closed never; if it were, compiling without a permit is still right.
        let permit = self.compiles.acquire().await;
        let inner = Arc::clone(self);
        let made = blocking(move || {
            let (component, code) = match inner.compiled(digest) {
                Some(component) => (component, None),
                None => {
                    let (component, code) = inner.compile_now(digest, &bytes)?;
                    (component, Some(code))
                }
            };
            let refused = |e: wasmtime::Error| PluginError::Refused(format!("{e:#}"));
            let pre = inner.linker.instantiate_pre(&component).map_err(refused)?;
            let plugin = Plugin {
                digest,
                version,
                pre: HandlerPre::new(pre).map_err(refused)?,
                options: Arc::clone(&inner.options),
                log: Arc::new(PluginLog::new(digest)),
            };
            Ok((Arc::new(plugin), code))
        })
        .await;
        drop(permit);
        made
    }

    fn compile_now(
        &self,
        digest: Digest,
        bytes: &[u8],
    ) -> Result<(Component, Vec<u8>), PluginError> {
        let started = Instant::now();
        let component = Component::from_binary(&self.engine, bytes)
            .map_err(|e| PluginError::Refused(format!("it does not compile: {e:#}")))?;
        let code = component
            .serialize()
            .map_err(|e| PluginError::Failed(format!("what was compiled can't be kept: {e:#}")))?;
        crate::telemetry::metrics().compile_seconds.record(started.elapsed());
        crate::memory::give_back();
        tracing::info!(
            plugin = %digest.short(),
            bytes = bytes.len(),
            code_bytes = code.len(),
            elapsed_ms = started.elapsed().as_millis() as u64,
            "compiled a plugin"
        );
        Ok((component, code))
    }

    /// What was compiled before and is still good.
    fn compiled(&self, digest: Digest) -> Option<Component> {
        let compiled = self.disk.compiled(digest)?;
        // SAFETY: the code must be what `Component::serialize` gave, unaltered. The file lies in
        // a folder that only this user can open, and only `Disk::put_compiled` writes there, with
        // nothing but that; nothing from the network reaches it. These very bytes (wasmtime
        // copies them) have just passed a checksum over the component's digest, the engine's full
        // compatibility hash and the code, so that a damaged, truncated or renamed file, or one
        // of another engine, does not come here.
        match unsafe { Component::deserialize(&self.engine, compiled.code()) } {
            Ok(component) => Some(component),
            Err(e) => {
                tracing::warn!(plugin = %digest.short(), "compiling anew: {e:#}");
                None
            }
        }
    }

    /// Keeps compiled code. Without it a start is slower, that is all.
    fn keep(&self, digest: Digest, code: Option<&[u8]>) {
        let Some(code) = code else { return };
        if let Err(e) = self.disk.put_compiled(digest, code) {
            tracing::warn!(plugin = %digest.short(), "compiled code is not kept: {e}");
        }
    }
}
