//! From bytes to compiled plugins: each digest is compiled once, off the worker threads.

use super::{
    Account, Budget, Digest, Needed, OffloadPool, Plugin, PluginError, PluginOptions, Pool,
    Removed, Room,
    bindings::HandlerPre,
    check,
    compile::{Compiler, For, Report, Task},
    engine::{self, Metering},
    guest_log::PluginLog,
    instance::HostState,
    store::{Artifact, Disk},
    workers::Workers,
};
use crate::limits;
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fs::File,
    future::Future,
    io::{Read as _, Seek as _, SeekFrom},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;
use wasmtime::{
    Engine,
    component::{Component, Linker},
};

/// The folder of what is compiled to be counted.
const METERED: &str = "metered";

/// A plugin for as long as someone uses it; its lock is held while it is being made.
type Cell = tokio::sync::Mutex<Weak<Plugin>>;

pub(super) struct Inner {
    engine: Engine,
    compatibility: u64,
    linker: Linker<HostState>,
    disk: Disk,
    options: Arc<PluginOptions>,
    pub(super) budget: Arc<Budget>,
    pub(super) pool: Arc<Pool>,
    pub(super) offload: OffloadPool,
    workers: Workers,
    plugins: Mutex<HashMap<Digest, Arc<Cell>>>,
    pub(super) compiler: Compiler,
    /// In KiB: permits are counted in 32 bits.
    room: Arc<Semaphore>,
    failures: Failures,
    loading: Mutex<HashMap<Digest, Instant>>,
    metering: Metering,
    /// One beside this one that counts, for as long as someone uses it.
    metered: Mutex<Weak<Inner>>,
}

/// A component is being loaded, or added, for as long as this is there.
struct Loading<'a> {
    loading: &'a Mutex<HashMap<Digest, Instant>>,
    digest: Digest,
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        self.loading.lock().remove(&self.digest);
    }
}

/// Components that could not be loaded, and are not tried again before their time: what is refused
/// or too costly today is so a moment later.
#[derive(Default)]
struct Failures(Mutex<HashMap<Digest, (Instant, PluginError)>>);

impl Failures {
    fn of(&self, digest: Digest) -> Option<PluginError> {
        let mut failures = self.0.lock();
        let now = crate::clock::now();
        failures.retain(|_, (until, _)| *until > now);
        failures.get(&digest).map(|(_, error)| error.clone())
    }

    fn remember(&self, digest: Digest, error: &PluginError) {
        let wait = match error {
            PluginError::Refused(_) | PluginError::TooCostly(_) | PluginError::Crashed(_) => {
                limits::COMPILE_RETRY
            }
            _ => limits::COMPILE_RETRY_SOON,
        };
        let mut failures = self.0.lock();
        if failures.len() < limits::COMPILE_FAILURES_MAX {
            failures.insert(digest, (crate::clock::now() + wait, error.clone()));
        }
    }
}

/// Runs work to its end even when its caller is dropped: half a deployment is worth nothing.
pub(super) async fn finish<T: Send + 'static>(
    work: impl Future<Output = Result<T, PluginError>> + Send + 'static,
) -> Result<T, PluginError> {
    crate::task::run(work).await.unwrap_or_else(|e| Err(PluginError::Failed(stopped(&e))))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PluginError> + Send + 'static,
) -> Result<T, PluginError> {
    crate::task::blocking(work).await.unwrap_or_else(|e| Err(PluginError::Failed(stopped(&e))))
}

/// The bytes of the code, if there is any.
fn compiled(report: Report) -> Result<u64, PluginError> {
    match report {
        Report::Compiled { code_bytes } => Ok(code_bytes),
        Report::Refused(why) => Err(PluginError::Refused(why)),
        Report::TooCostly(why) => Err(PluginError::TooCostly(why)),
        Report::Unwritten(why) | Report::Failed(why) => Err(PluginError::Crashed(why)),
        Report::Inspected(_) => Err(PluginError::Crashed("it was not compiled".to_owned())),
    }
}

fn log_compiled(digest: Digest, bytes: usize, code_bytes: u64, elapsed: Duration) {
    crate::telemetry::metrics().compile_seconds.record(elapsed);
    tracing::info!(
        plugin = %digest.short(),
        bytes,
        code_bytes,
        elapsed_ms = elapsed.as_millis() as u64,
        "compiled a plugin"
    );
}

/// A file that is nowhere on a disk.
fn memory_file() -> std::io::Result<File> {
    #[cfg(target_os = "linux")]
    return Ok(rustix::fs::memfd_create("slotd-code", rustix::fs::MemfdFlags::CLOEXEC)?.into());
    #[cfg(not(target_os = "linux"))]
    Err(std::io::Error::other("this system has no files in memory"))
}

fn stopped(error: &tokio::task::JoinError) -> String {
    format!("work on a plugin did not end: {error}")
}

impl Inner {
    pub(super) fn new(options: PluginOptions) -> Result<Self, PluginError> {
        Self::with(options, Metering::None)
    }

    /// One beside this one, with a folder and a budget of its own, whose calls are counted.
    pub(super) fn metered(&self) -> Result<Arc<Self>, PluginError> {
        let mut metered = self.metered.lock();
        if let Some(known) = metered.upgrade() {
            return Ok(known);
        }
        let of = &*self.options;
        let total = of.memory_bytes.saturating_mul(limits::METERED_INSTANCES_MAX);
        let options = PluginOptions {
            dir: of.dir.join(METERED),
            memory_total_bytes: of.memory_total_bytes.min(total),
            // Counting takes time.
            deadline: (of.deadline * 2).min(limits::GUEST_DEADLINE_MAX),
            long_threads: 1,
            source: None,
            ..of.clone()
        };
        let made = Arc::new(Self::with(options, Metering::Fuel)?);
        *metered = Arc::downgrade(&made);
        Ok(made)
    }

    fn with(options: PluginOptions, metering: Metering) -> Result<Self, PluginError> {
        if options.deadline.is_zero() || options.deadline > limits::GUEST_DEADLINE_MAX {
            return Err(PluginError::Failed(format!(
                "a guest's deadline is more than nothing and {:?} at most, not {:?}",
                limits::GUEST_DEADLINE_MAX,
                options.deadline
            )));
        }
        let engine = engine::new(metering)?;
        let linker = engine::linker(&engine)
            .map_err(|e| PluginError::Failed(format!("the host's functions: {e:#}")))?;
        let compatibility = engine::compatibility(&engine);
        let disk = Disk::open(&options.dir, compatibility)?;
        let budget = Budget::new(options.memory_total_bytes);
        let compiler = Compiler::new(options.compile)?;
        let offload = OffloadPool::new(options.long_threads);
        let pool = Arc::new(Pool::new(options.isolation, budget.clone()));
        Ok(Self {
            engine,
            compatibility,
            linker,
            disk,
            options: Arc::new(options),
            budget,
            pool,
            offload,
            workers: Workers::new()?,
            plugins: Mutex::new(HashMap::new()),
            compiler,
            room: Arc::new(Semaphore::new(limits::DEPLOYS_BYTES_MAX / 1024)),
            failures: Failures::default(),
            loading: Mutex::default(),
            metering,
            metered: Mutex::default(),
        })
    }

    pub(super) async fn add(self: &Arc<Self>, bytes: Bytes) -> Result<Arc<Plugin>, PluginError> {
        let looked_at = bytes.clone();
        let look = self.workers.run(move || match check::unlike(&looked_at) {
            None => Ok(Digest::of(&looked_at)),
            Some(problem) => Err(PluginError::Refused(problem)),
        });
        let digest = look.await?;
        let cell = self.cell(digest);
        let mut cell = cell.lock().await;
        if let Some(plugin) = cell.upgrade() {
            // Stored when it was made; a damaged file is made good.
            self.store(digest, bytes).await?;
            return Ok(plugin);
        }
        let _loading = self.begin(digest);
        let plugin = self.make(digest, bytes.clone(), For::Deploy).await?;
        let stored = match self.trial(plugin.clone()).await {
            Ok(()) => self.store(digest, bytes).await,
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
        self.failures.0.lock().remove(&digest);
        Ok(plugin)
    }

    /// Makes an instance once.
    async fn trial(&self, plugin: Arc<Plugin>) -> Result<(), PluginError> {
        let signal = Arc::default();
        let under = Arc::clone(&signal);
        let made = async move {
            let (account, timeout) = (Account::default(), limits::INSTANCE_MEMORY_TIMEOUT);
            plugin.instantiate_under(account, timeout, under).await.map(drop)
        };
        self.offload.run_own(&signal, None, made).await
    }

    pub(super) fn deadline(&self) -> Duration {
        self.options.deadline
    }

    async fn store(self: &Arc<Self>, digest: Digest, bytes: Bytes) -> Result<(), PluginError> {
        let inner = Arc::clone(self);
        self.workers.run(move || inner.disk.put_component(digest, &bytes)).await
    }

    pub(super) async fn load(self: &Arc<Self>, digest: Digest) -> Result<Arc<Plugin>, PluginError> {
        // Whoever gives up while others load it leaves nothing behind that waits.
        let mut cell = self.cell(digest).lock_owned().await;
        if let Some(plugin) = cell.upgrade() {
            return Ok(plugin);
        }
        if let Some(error) = self.failures.of(digest) {
            return Err(error);
        }
        let inner = Arc::clone(self);
        let load = async move {
            let _loading = inner.begin(digest);
            let made = inner.make_stored(digest).await;
            let plugin = made.inspect_err(|error| inner.failures.remember(digest, error))?;
            *cell = Arc::downgrade(&plugin);
            Ok(plugin)
        };
        finish(load).await
    }

    async fn make_stored(self: &Arc<Self>, digest: Digest) -> Result<Arc<Plugin>, PluginError> {
        let bytes = match self.component(digest).await {
            Ok(bytes) => bytes,
            Err(error) => self.fetch(digest, error).await?,
        };
        self.make(digest, bytes, For::Load).await
    }

    /// To be called by whoever holds the component's place: there is one at a time.
    fn begin(&self, digest: Digest) -> Loading<'_> {
        self.loading.lock().insert(digest, crate::clock::now());
        Loading { loading: &self.loading, digest }
    }

    pub(super) fn is_loaded(&self, digest: Digest) -> bool {
        // Whoever holds it loads it.
        self.cell(digest).try_lock().is_ok_and(|cell| cell.upgrade().is_some())
    }

    pub(super) fn loading_since(&self, digest: Digest) -> Option<Instant> {
        self.loading.lock().get(&digest).copied()
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
                let why = format!("the content fetched for component {digest} has another digest");
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

    pub(super) fn room(&self, bytes: usize) -> Result<Room, PluginError> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let permits = Arc::clone(&self.room).try_acquire_many_owned(kib).map_err(|_| {
            PluginError::Busy(
                "other deploys use all memory for components; nothing has changed, try again"
                    .into(),
            )
        })?;
        Ok(Room { _permits: permits })
    }

    pub(super) fn verify(&self, digest: Digest) -> Result<(), PluginError> {
        self.disk.verify(digest)
    }

    pub(super) fn stored(&self) -> Result<Vec<Digest>, PluginError> {
        self.disk.stored()
    }

    pub(super) async fn remove_unneeded(
        self: &Arc<Self>,
        needed: Needed,
    ) -> Result<Removed, PluginError> {
        let inner = Arc::clone(self);
        let remove = move || {
            let mut removed = Removed::default();
            for digest in inner.disk.stored()? {
                let cell = inner.cell(digest);
                // Held for as long as it takes: whoever wants to load it waits, and finds it gone.
                let Ok(plugin) = cell.try_lock() else { continue };
                if plugin.strong_count() > 0 {
                    continue;
                }
                let freed = if !needed.components.contains(&digest) {
                    inner.disk.remove(digest)?
                } else if !needed.compiled.contains(&digest) {
                    inner.disk.remove_unused_code(digest, limits::COMPILED_UNUSED)?
                } else {
                    Removed::default()
                };
                removed.files += freed.files;
                removed.bytes += freed.bytes;
            }
            Ok(removed)
        };
        self.workers.run(remove).await
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

    /// Takes what was compiled before, or has it compiled. The first is quick; the second gives way
    /// to everything else that the node does.
    async fn make(
        self: &Arc<Self>,
        digest: Digest,
        bytes: Bytes,
        who: For,
    ) -> Result<Arc<Plugin>, PluginError> {
        let inner = Arc::clone(self);
        let component = match blocking(move || Ok(inner.compiled(digest))).await? {
            Some(component) => component,
            None => self.compile(digest, bytes.clone(), who).await?,
        };
        let (version, types) =
            blocking(move || Ok((check::version(&bytes), check::types(&bytes)))).await?;
        let refused = |e: wasmtime::Error| PluginError::Refused(format!("{e:#}"));
        let code = component.image_range();
        let pre = self.linker.instantiate_pre(&component).map_err(refused)?;
        Ok(Arc::new(Plugin {
            digest,
            version,
            types,
            pre: HandlerPre::new(pre).map_err(refused)?,
            options: Arc::clone(&self.options),
            budget: Arc::clone(&self.budget),
            code_bytes: code.end.addr() - code.start.addr(),
            log: Arc::new(PluginLog::new(digest)),
            is_metered: self.metering == Metering::Fuel,
        }))
    }

    /// Has a component compiled, and keeps the code: for the next start, and so that it is mapped
    /// from its file, whose pages the system can drop and read again, instead of held in memory.
    async fn compile(
        self: &Arc<Self>,
        digest: Digest,
        bytes: Bytes,
        who: For,
    ) -> Result<Component, PluginError> {
        let place = self.compiler.place(who).await?;
        let started = crate::clock::now();
        let (size, task) =
            (bytes.len(), Task::Compile { digest, compatibility: self.compatibility });
        let inner = Arc::clone(self);
        let begun = blocking(move || inner.disk.begin_compiled()).await;
        let why = match begun {
            Err(error) => error.to_string(),
            Ok((artifact, file)) => {
                match self.compiler.run(&place, task, bytes.clone(), Some(file)).await? {
                    Report::Unwritten(why) => why,
                    report => {
                        let code_bytes = compiled(report)?;
                        log_compiled(digest, size, code_bytes, started.elapsed());
                        let inner = Arc::clone(self);
                        return blocking(move || inner.keep(digest, &artifact)).await;
                    }
                }
            }
        };
        // Without it the next start is slower, that is all.
        tracing::warn!(plugin = %digest.short(), "can't cache compiled code: {why}");
        let file = memory_file().map_err(|e| PluginError::Failed(format!("{why}; {e}")))?;
        let copy = file.try_clone().map_err(|e| PluginError::Failed(e.to_string()))?;
        let code_bytes = match self.compiler.run(&place, task, bytes, Some(copy)).await? {
            Report::Unwritten(why) => return Err(PluginError::Failed(why)),
            report => compiled(report)?,
        };
        log_compiled(digest, size, code_bytes, started.elapsed());
        let inner = Arc::clone(self);
        blocking(move || inner.take(&file, code_bytes)).await
    }

    fn keep(&self, digest: Digest, artifact: &Artifact) -> Result<Component, PluginError> {
        self.disk.keep_compiled(digest, artifact)?;
        self.compiled(digest)
            .ok_or_else(|| PluginError::Failed("can't use compiled code".to_owned()))
    }

    /// Code that was compiled into memory.
    fn take(&self, mut file: &File, code_bytes: u64) -> Result<Component, PluginError> {
        let mut code = Vec::new();
        let read = file
            .seek(SeekFrom::Start(0))
            .and_then(|_| file.take(code_bytes).read_to_end(&mut code));
        read.map_err(|e| PluginError::Failed(format!("can't read the compiled code: {e}")))?;
        // SAFETY: these are the bytes that `precompile_component` of an engine like this one gave a
        // moment ago in a child of this process, by way of memory that only the two share.
        unsafe { Component::deserialize(&self.engine, &code) }
            .map_err(|e| PluginError::Failed(format!("can't use the compiled code: {e:#}")))
    }

    /// What was compiled before and is still good.
    fn compiled(&self, digest: Digest) -> Option<Component> {
        let path = self.disk.compiled(digest)?;
        // SAFETY: the file must hold what `precompile_component` gave, and nobody may alter it as
        // long as it is mapped. It lies in a folder that only this user can open. Only
        // `Disk::keep_compiled` gives a file this name, and only one that this process opened for
        // its own child, slotd itself, which wrote nothing but that; nothing from the network
        // reaches it. It has just passed a checksum over
        // the component's digest, the engine's full compatibility hash and the code, so that a
        // damaged, truncated or renamed file, or one of another engine, does not come here.
        match unsafe { Component::deserialize_file(&self.engine, &path) } {
            Ok(component) => Some(component),
            Err(e) => {
                tracing::warn!(plugin = %digest.short(), "compiling again: {e:#}");
                None
            }
        }
    }
}
