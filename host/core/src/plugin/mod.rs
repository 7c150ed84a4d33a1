//! The plugin host: stores components by digest, checks and compiles them once, creates instances
//! as needed, calls them with a session's state, and contains them when they misbehave.

mod bindings;
mod budget;
mod check;
mod compile;
pub mod declared;
mod engine;
mod guest_log;
mod host;
mod imports;
mod instance;
mod limiter;
mod no_memory;
pub(crate) mod offload;
pub(crate) mod pool;
mod probe;
mod signal;
mod store;
mod structure;
#[cfg(any(test, feature = "testing"))]
pub mod testkit;
#[cfg(test)]
mod tests;
mod types;
mod wasi;
mod workers;

pub use budget::{Account, Budget};
pub use check::inspect;
pub use compile::{CompileOptions, child as compile_child};
pub use imports::{check_content_type, check_event_kind};
pub use no_memory::NoMemory;
pub use offload::{Begin, Caller, OffloadPool, Work};
pub use pool::{Guests, Isolation, Pool};
pub use probe::{Migrates, NoProbe};
pub use signal::{Cut, Signal};
pub use workers::give_way;

#[cfg(doc)]
use crate::limits;
use crate::{
    effects::{Expiry, Origin, Outgoing, Timer, http},
    error::{Rejection, StateError},
    log::record::Event,
    message::{Client, Incoming},
    names::{SessionId, SessionKey},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::{
    any::Any,
    collections::{BTreeSet, HashSet},
    fmt,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};
use wasmtime::component::types::ComponentItem;

/// The sha-256 of a component's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

/// What a guest sees of its session's state during one call; owned by the slot's transaction.
/// Every fault ends the call: the guest traps and nothing is kept.
pub trait State: Any + Send {
    fn get(&mut self, key: &str) -> Result<Option<Bytes>, StateFault>;
    fn set(&mut self, key: &str, value: Bytes) -> Result<(), StateFault>;
    fn delete(&mut self, key: &str) -> Result<(), StateFault>;
    /// Up to `limit` pairs whose key starts with `prefix` and is greater than `after`, in order
    /// of the keys' bytes.
    fn scan(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(String, Bytes)>, StateFault>;

    /// Sets a timer, in place of one of that name: when it fires first.
    fn schedule(&mut self, name: &str, timer: Timer) -> Result<(), StateFault>;
    /// Whether there was one.
    fn cancel(&mut self, name: &str) -> Result<bool, StateFault>;
    fn timer(&mut self, name: &str) -> Result<Option<Arc<Timer>>, StateFault>;
    /// Up to `limit` timers whose name is greater than `after`, in order of the names' bytes.
    fn timers(
        &mut self,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(String, Arc<Timer>)>, StateFault>;

    /// When the session is deleted; `None`: not at all.
    fn expire(&mut self, expiry: Option<Expiry>) -> Result<(), StateFault>;
    /// Sends a message to another session, once this one is durable.
    fn send(&mut self, outgoing: Outgoing) -> Result<(), StateFault>;

    /// Makes a request over HTTP, once this message is durable, in place of an open one of that id.
    fn request(&mut self, id: &str, request: http::Request) -> Result<(), StateFault>;
    /// Ends a request, or drops its answer: whether there was one.
    fn cancel_request(&mut self, id: &str) -> Result<bool, StateFault>;
    /// The ids of those that are open, in order.
    fn open_requests(&mut self) -> Result<Vec<String>, StateFault>;
    /// The session takes no more messages.
    fn close(&mut self, closed: http::Closed) -> Result<(), StateFault>;
    /// The session whose name random bytes are made of, if not its own.
    fn seed(&self) -> Option<&SessionId> {
        None
    }
    /// The handler is told of the session's subscribers; `None`: no more.
    fn watch(&mut self, watch: Option<http::Watch>) -> Result<(), StateFault>;
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum StateFault {
    #[error("a query may not write state")]
    ReadOnly,
    /// One of the limits of `limits/`; the sentence names it.
    #[error("{0}")]
    Limit(String),
    #[error(transparent)]
    Store(#[from] StateError),
    /// What it does is not written at the feature level in force; the sentence says which one does.
    #[error("{0}")]
    Level(String),
    /// There is no room for what it sends; the sentence says how much there is.
    #[error("{0}")]
    Full(String),
}

/// What one call is about.
pub struct Call {
    pub session: SessionKey,
    /// The sequence number that the message will have (for a query: the last message's).
    pub seq: u64,
    /// The guest's clock, milliseconds since the Unix epoch.
    pub time_ms: u64,
    pub state: Box<dyn State>,
    pub input: Input,
}

#[derive(Clone)]
pub enum Input {
    Handle {
        /// Shared with whoever records it, who is alone with it again after the call.
        message: Arc<Incoming>,
        /// `None`: a client of whom nothing is known.
        origin: Option<Box<Origin>>,
    },
    Query {
        content_type: String,
        body: Bytes,
        /// Who asks, if that was shown.
        client: Option<Arc<Client>>,
    },
    /// From the version (human, else short digest) whose shape the state has.
    Migrate { from: String },
}

impl Input {
    /// The client for which it is called, as far as that is known.
    pub fn client(&self) -> Option<&Arc<Client>> {
        match self {
            Self::Handle { origin, .. } => match origin.as_deref() {
                Some(Origin::Client(client)) => Some(client),
                _ => None,
            },
            Self::Query { client, .. } => client.as_ref(),
            Self::Migrate { .. } => None,
        }
    }
}

/// How one call ended. The state comes back in every case.
pub struct Outcome {
    pub state: Box<dyn State>,
    /// For `migrate` the reply is empty.
    pub result: Result<Reply, Failure>,
    pub events: Vec<Event>,
    pub ephemeral: Vec<Event>,
    pub host_calls: u32,
    /// Whether the guest read or wrote the state.
    pub used_state: bool,
    /// What it has computed, about one for each instruction; 0 where that is not counted.
    pub fuel: u64,
    /// From the call's begin to its end, with the times that it let others run; `None`: nothing was
    /// called.
    pub elapsed: Option<Duration>,
}

impl Outcome {
    /// Nothing was called.
    fn without_a_call(state: Box<dyn State>, failure: Failure) -> Self {
        Self {
            state,
            result: Err(failure),
            events: Vec::new(),
            ephemeral: Vec::new(),
            host_calls: 0,
            used_state: false,
            fuel: 0,
            elapsed: None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub content_type: String,
    pub body: Bytes,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The guest's own refusal (for `migrate`: code `migrate-refused`). The instance goes on.
    #[error("rejected: {} ({})", .0.message, .0.code)]
    Rejected(Rejection),
    #[error("trapped: {0}")]
    Trapped(String),
    #[error("exceeded its deadline of {0:?}")]
    Deadline(Duration),
    #[error("exceeded a limit: {0}")]
    Limit(String),
    /// The state store failed under the call: not the plugin's fault.
    #[error(transparent)]
    Store(#[from] StateError),
    /// It did something that is not written at the feature level in force. Nor is that its fault.
    #[error("{0}")]
    Level(String),
    /// There is no room for what it sends to other sessions.
    #[error("{0}")]
    Full(String),
    /// There is no room for it on the way to another slot: of the node, not of the session.
    #[error("{0}")]
    Crowded(String),
    /// It may not send to that service.
    #[error("{0}")]
    Forbidden(String),
    /// It may not make that request.
    #[error("{0}")]
    RequestForbidden(String),
    /// The node has no memory left for instances: not the plugin's fault either.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// There is no instance to call.
    #[error(transparent)]
    NoInstance(PluginError),
    /// It computed for long and was ended, as it had not done anything wrong.
    #[error("ended early: {0}")]
    Cut(Cut),
}

impl Failure {
    /// Whether the instance must be thrown away: all but a guest's own refusal.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Failure::Rejected(_))
    }
    /// For the metric of traps by kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Failure::Rejected(_) => "rejected",
            Failure::Trapped(_) => "trap",
            Failure::Deadline(_) => "deadline",
            Failure::Limit(_) => "limit",
            Failure::Store(_) => "store",
            Failure::Level(_) => "level",
            Failure::Full(_) => "outbox-full",
            Failure::Crowded(_) => "sends-full",
            Failure::Forbidden(_) => "send-refused",
            Failure::RequestForbidden(_) => "request-refused",
            Failure::NoMemory(_) => "no-memory",
            Failure::NoInstance(_) => "no-instance",
            Failure::Cut(_) => "cut",
        }
    }
}

/// The plugin host's options; defaults in [`crate::limits`].
#[derive(Clone, Debug)]
pub struct PluginOptions {
    /// Holds `components/<digest>.wasm` and `compiled/<digest>-<engine hash>.cwasm`; private.
    pub dir: PathBuf,
    /// Of one instance.
    pub memory_bytes: usize,
    /// Of all instances together.
    pub memory_total_bytes: usize,
    pub deadline: Duration,
    pub host_calls: u32,
    pub compile: CompileOptions,
    pub isolation: Isolation,
    /// Threads for calls that compute for long.
    pub long_threads: usize,
    /// Where components are looked for that are not stored here; `None`: nowhere.
    pub source: Option<Arc<dyn ComponentSource>>,
}

/// Where a node finds components that were deployed elsewhere.
pub trait ComponentSource: fmt::Debug + Send + Sync + 'static {
    /// The bytes of a component; `None`: it does not have it. An error is why it can't be asked.
    fn fetch(&self, digest: Digest) -> BoxFuture<'static, Result<Option<Bytes>, String>>;
}

/// Why a component can't be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PluginError {
    /// The component's own fault: not a component, truncated, lacks an export, asks for more
    /// than slotd gives. The sentence names the reason and the fix.
    #[error("{0}")]
    Refused(String),
    /// Checking and compiling it takes more than it may: what, and the limit, is in the sentence.
    #[error("{0}")]
    TooCostly(String),
    /// The compiler ended on it as it never should: a bug of the compiler's.
    #[error("{0}")]
    Crashed(String),
    /// This node can't compile it now; the component may be fine.
    #[error("{0}")]
    Busy(String),
    /// No component of that digest is stored here.
    #[error("component {0} is not stored on this node")]
    Missing(Digest),
    /// The disk, or the engine.
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// The instance took long to be made, and was not waited for.
    #[error("instantiating it took too long: {0}")]
    Cut(Cut),
}

/// What `slotd plugin check` reports of a component; pure, from the bytes alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inspection {
    pub bytes: usize,
    pub digest: String,
    /// `component`, `core module`, or what else it looks like.
    pub kind: String,
    /// From the component's `version` custom section, if it has one.
    pub version: Option<String>,
    /// Linear memory that its modules begin with.
    pub memory_bytes: u64,
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// What its messages can do outside of their session's state: functions that it imports.
    #[serde(default)]
    pub effects: Vec<String>,
    /// What of its messages it says the types of, as `message` or `event line`.
    #[serde(default)]
    pub types: Vec<String>,
    /// Empty: it fits. Else the reasons why it does not.
    pub problems: Vec<String>,
    /// The reason is a count that is over its limit; nothing else was looked at.
    pub too_costly: bool,
}

/// Reports what a file is and whether it fits, as a node would: in a process of its own, with limits
/// of memory and time.
///
/// # Errors
/// [`PluginError::TooCostly`] when it passed these limits, or what kept the process from its work.
pub async fn inspect_apart(component: Bytes) -> Result<Inspection, PluginError> {
    compile::inspect(component).await
}

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }
    /// The first 12 hex digits, for labels.
    pub fn short(&self) -> String {
        let mut hex = self.to_string();
        hex.truncate(12);
        hex
    }
}
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for Digest {
    type Err = String;
    fn from_str(hex: &str) -> Result<Self, String> {
        let bad = || format!("{hex:?} is not a sha-256 digest of 64 hex digits");
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(bad());
        }
        let mut out = [0; 32];
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(out))
    }
}
impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The engine, the stored components and the compiled plugins of a node. Cheap to share.
#[derive(Clone)]
pub struct PluginHost {
    inner: Arc<host::Inner>,
}

/// A compiled component, ready to be instantiated.
pub struct Plugin {
    digest: Digest,
    version: Option<String>,
    types: Option<Box<[u8]>>,
    pre: bindings::HandlerPre<instance::HostState>,
    options: Arc<PluginOptions>,
    budget: Arc<Budget>,
    /// Of its compiled code, which all of its instances share.
    code_bytes: usize,
    log: Arc<guest_log::PluginLog>,
    /// What its calls compute is counted.
    is_metered: bool,
}

/// What must stay of what is stored; see [`PluginHost::remove_unneeded`].
#[derive(Clone, Debug, Default)]
pub struct Needed {
    /// Whose components stay.
    pub components: HashSet<Digest>,
    /// Whose code stays too, used or not.
    pub compiled: HashSet<Digest>,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    pub files: u64,
    pub bytes: u64,
}

/// See [`PluginHost::room`].
pub struct Room {
    _permits: tokio::sync::OwnedSemaphorePermit,
}

/// One instance of a plugin. Dropped after any fatal failure.
pub struct Instance {
    /// It goes to a call and back with each message, and is large.
    inner: Box<instance::Inner>,
}

impl PluginHost {
    /// Makes the engine and opens the folder of components, which is made if it is not there.
    ///
    /// # Errors
    /// [`PluginError::Failed`] when the folder can't be made or read, or an option is out of
    /// bounds.
    pub fn new(options: PluginOptions) -> Result<Self, PluginError> {
        Ok(Self { inner: Arc::new(host::Inner::new(options)?) })
    }
    /// Checks, stores by digest, compiles and instantiates once on trial. Storing what is already
    /// stored is a no-op. On an error nothing is left behind. Goes on when the caller gives up, for
    /// twice [`CompileOptions::deadline`] at most: waiting for others, and compiling.
    ///
    /// # Errors
    /// [`PluginError::Refused`] with the reasons that are known without running it, else with the
    /// first that compiling or instantiating showed; [`PluginError::TooCostly`],
    /// [`PluginError::Crashed`] or [`PluginError::Busy`] when it was not compiled;
    /// [`PluginError::Failed`] for the disk.
    pub async fn add(&self, component: Bytes) -> Result<Arc<Plugin>, PluginError> {
        let inner = Arc::clone(&self.inner);
        host::finish(async move { inner.add(component).await }).await
    }
    /// A stored component, compiled (from the cache where it has it). Verifies the digest of what
    /// it reads. One that is not stored here, or damaged, is fetched from
    /// [`PluginOptions::source`] and stored. Concurrent calls for one digest fetch and compile
    /// once; what has begun goes on when all of them give up. What failed is not tried again for a
    /// while ([`limits::COMPILE_RETRY`], [`limits::COMPILE_RETRY_SOON`]).
    ///
    /// # Errors
    /// [`PluginError::Missing`] when it is stored nowhere; [`PluginError::Failed`] when what is
    /// stored is damaged (the sentence names the file), or for the disk or the source.
    pub async fn load(&self, digest: Digest) -> Result<Arc<Plugin>, PluginError> {
        self.inner.load(digest).await
    }
    /// Whether a component is loaded, in use or not.
    pub fn is_loaded(&self, digest: Digest) -> bool {
        self.inner.is_loaded(digest)
    }
    /// Since when a component is being loaded; `None`: it is not.
    pub fn loading_since(&self, digest: Digest) -> Option<Instant> {
        self.inner.loading_since(digest)
    }
    /// Reads a component that must be stored here, and verifies its digest. Blocks.
    ///
    /// # Errors
    /// [`PluginError::Failed`], with the file's name.
    pub fn verify(&self, digest: Digest) -> Result<(), PluginError> {
        self.inner.verify(digest)
    }
    /// Reserves memory for the bytes of a component that is to be added, until it is dropped.
    ///
    /// # Errors
    /// [`PluginError::Busy`] when the deploys under way hold [`limits::DEPLOYS_BYTES_MAX`].
    pub fn room(&self, bytes: usize) -> Result<Room, PluginError> {
        self.inner.room(bytes)
    }
    /// Ends what is being compiled, at once, and compiles nothing any more.
    pub fn stop_compiling(&self) {
        self.inner.compiler.stop();
    }
    /// The components that are stored here. Blocks.
    ///
    /// # Errors
    /// [`PluginError::Failed`] when the folder can't be read.
    pub fn stored(&self) -> Result<Vec<Digest>, PluginError> {
        self.inner.stored()
    }
    /// Removes components that are not in [`Needed::components`], with their code, and code beside
    /// [`Needed::compiled`] that nothing has used for [`limits::COMPILED_UNUSED`]. What is in use,
    /// or being added or loaded, stays. The caller sees to it that whoever deploys meanwhile holds
    /// its plugin until the catalogue names it.
    ///
    /// # Errors
    /// [`PluginError::Failed`] for the disk.
    pub async fn remove_unneeded(&self, needed: Needed) -> Result<Removed, PluginError> {
        let inner = Arc::clone(&self.inner);
        host::finish(async move { inner.remove_unneeded(needed).await }).await
    }
    /// The memory of all instances.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.inner.budget
    }
    /// The instances of all deployments.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.inner.pool
    }
    /// Makes sure that an instance of a deployment can be made.
    ///
    /// # Errors
    /// As [`Guests::try_one`].
    pub async fn try_one(&self, guests: &Arc<Guests>) -> Result<(), PluginError> {
        let signal = Arc::default();
        let future = guests.clone().try_one(Arc::clone(&signal));
        self.inner.offload.run_own(&signal, Some(&guests.service), future).await
    }
    /// A host beside this one that counts what calls compute, with a folder and a budget of its own. It has no
    /// components until they are added. It is the same one for as long as somebody has it.
    ///
    /// # Errors
    /// As [`PluginHost::new`].
    pub fn metered(&self) -> Result<Self, PluginError> {
        Ok(Self { inner: self.inner.metered()? })
    }
    /// Running time that a call may have.
    pub fn deadline(&self) -> Duration {
        self.inner.deadline()
    }
    /// Where calls run that compute for long.
    pub fn offload_pool(&self) -> &OffloadPool {
        &self.inner.offload
    }
    /// The bytes of a stored component.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn component(&self, digest: Digest) -> Result<Bytes, PluginError> {
        self.inner.component(digest).await
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plugin({} {})", self.digest.short(), self.version.as_deref().unwrap_or("-"))
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instance({} bytes)", self.memory_bytes())
    }
}

impl Plugin {
    pub fn digest(&self) -> Digest {
        self.digest
    }
    /// The version that the component itself carries, if any.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }
    /// What it says of the types of its messages, if it does, in a format that this slotd knows.
    pub fn types(&self) -> Option<serde_json::Value> {
        declared::parse(self.types.as_deref()?).ok().flatten()
    }
    /// What it can do outside of its session's state, as `timers.schedule`, in order.
    pub fn effects(&self) -> BTreeSet<String> {
        let pre = self.pre.instance_pre();
        let component = pre.component().component_type();
        let engine = pre.engine();
        let mut effects = BTreeSet::new();
        for (interface, item) in component.imports(engine) {
            let ComponentItem::ComponentInstance(instance) = item.ty else { continue };
            for (function, item) in instance.exports(engine) {
                if let ComponentItem::ComponentFunc(_) = item.ty {
                    effects.extend(check::effect(interface, function));
                }
            }
        }
        effects
    }
    /// The names of what it imports.
    pub fn imports(&self) -> BTreeSet<String> {
        let pre = self.pre.instance_pre();
        let component = pre.component().component_type();
        component.imports(pre.engine()).map(|(name, _)| name.to_owned()).collect()
    }
    /// The names of what it exports.
    pub fn exports(&self) -> BTreeSet<String> {
        let pre = self.pre.instance_pre();
        let component = pre.component().component_type();
        component.exports(pre.engine()).map(|(name, _)| name.to_owned()).collect()
    }
    /// Bytes of its compiled code: once in memory, however many instances there are.
    pub fn code_bytes(&self) -> usize {
        self.code_bytes
    }
    /// A new instance, made within the deadline of a call and counted for `account`. Where the
    /// node has no memory left it waits up to `timeout` for others to give some up.
    ///
    /// # Errors
    /// [`PluginError::Refused`] when the component's own start fails, or asks for too much;
    /// [`PluginError::NoMemory`].
    pub async fn instantiate(
        &self,
        account: Account,
        timeout: Duration,
    ) -> Result<Instance, PluginError> {
        self.instantiate_under(account, timeout, Arc::default()).await
    }
    /// As [`Plugin::instantiate`], with a way to end it early.
    ///
    /// # Errors
    /// As [`Plugin::instantiate`], and [`PluginError::Cut`].
    pub async fn instantiate_under(
        &self,
        account: Account,
        timeout: Duration,
        signal: Arc<Signal>,
    ) -> Result<Instance, PluginError> {
        instance::instantiate(self, account, timeout, signal).await
    }
}

impl Instance {
    /// Runs one call to its end, its deadline or its limit. Yields to other tasks after each slice.
    /// After an outcome whose failure [`Failure::is_fatal`], and after this future was dropped
    /// unfinished, the instance must be dropped: a further call fails at once.
    pub async fn call(&mut self, call: Call) -> Outcome {
        self.call_under(call, Arc::default()).await
    }
    /// As [`Instance::call`], with a way to end it early.
    pub async fn call_under(&mut self, call: Call, signal: Arc<Signal>) -> Outcome {
        self.inner.call(call, signal).await
    }
    /// Has its calls log nothing: what a message logs was logged when it was handled.
    #[must_use]
    pub fn muted(mut self) -> Self {
        self.inner.muted = true;
        self
    }
    /// Linear memory that the instance holds; it never shrinks.
    pub fn memory_bytes(&self) -> usize {
        self.inner.memory_bytes()
    }
    /// Memory maps that the instance counts for.
    pub fn counted_maps(&self) -> usize {
        self.inner.counted_maps()
    }
    /// What the instance counts for in all, with what it needs beside its memories.
    pub fn counted_bytes(&self) -> usize {
        self.inner.counted_bytes()
    }
}
