//! The keys of an issuer that are fetched: kept for a while, and fetched by one at a time.
//!
//! ```text
//!   fetched ──── young: used ────> old: used, fetched meanwhile ────> stale: waited for
//!                                   (4/5 of the time)                  (used at once while the issuer is down)
//! ```

mod fetch;

pub(crate) use fetch::is_fetchable;

use super::KeySet;
use crate::{clock, duration::ms, limits};
use fetch::{Fetched, Fetcher};
use parking_lot::Mutex;
use reqwest::Url;
use std::{
    fmt,
    sync::{Arc, OnceLock},
};
use tokio::sync::watch;

/// Where keys are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RemoteKeys {
    At(Url),
    /// The discovery document says where. It has to be this issuer's.
    Discovered {
        from: Url,
        issuer: String,
    },
}

/// What is called when keys are gone.
type Hook = Box<dyn Fn() + Send + Sync>;

/// An issuer's keys, and how to get them.
pub(crate) struct Remote {
    keys: RemoteKeys,
    roots: Option<Vec<u8>>,
    fetcher: Fetcher,
    state: Mutex<State>,
    /// Counts fetches that have ended.
    ended: watch::Sender<u64>,
    gone: OnceLock<Hook>,
}

/// Times are milliseconds since 1970, of the callers' clock.
#[derive(Default)]
struct State {
    set: Option<Arc<KeySet>>,
    fetched_ms: u64,
    kept_ms: u64,
    /// When the last fetch began.
    tried_ms: Option<u64>,
    /// Of the last fetch.
    error: Option<String>,
    is_fetching: bool,
    /// Something was let in before there were keys, by what they may not have.
    is_owed: bool,
}

/// The keys as they are now.
pub(crate) struct Look {
    pub(crate) set: Option<Arc<KeySet>>,
    /// They should be fetched before anything is decided by them.
    pub(crate) is_stale: bool,
    /// They are being fetched, or may be.
    pub(crate) can_fetch: bool,
    /// Why the last fetch failed, if it did.
    pub(crate) error: Option<String>,
}

impl State {
    /// A clock that was set back makes keys old. Requests that are under way together have times that differ a little.
    fn age_ms(&self, now_ms: u64) -> u64 {
        match self.fetched_ms.checked_sub(now_ms) {
            Some(ahead) if ahead > ms(limits::CLOCK_BACK_MAX) => u64::MAX,
            _ => now_ms.saturating_sub(self.fetched_ms),
        }
    }

    fn may_begin(&self, now_ms: u64) -> bool {
        let pause_ms = ms(limits::KEYS_FETCH_PAUSE);
        self.tried_ms.is_none_or(|tried| now_ms.abs_diff(tried) >= pause_ms)
    }
}

impl Remote {
    /// # Errors
    /// If the roots are none, or TLS can't be set up.
    pub(crate) fn new(keys: RemoteKeys, roots: Option<Vec<u8>>) -> Result<Self, String> {
        let fetcher = Fetcher::new(&keys, roots.as_deref())?;
        let (ended, _) = watch::channel(0);
        let (state, gone) = (Mutex::default(), OnceLock::new());
        Ok(Self { keys, roots, fetcher, state, ended, gone })
    }

    /// Whether it has the same keys from the same place.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.keys == other.keys && self.roots == other.roots
    }

    /// Calls this when keys are withdrawn. Only the first one counts.
    pub(crate) fn on_gone(&self, hook: impl Fn() + Send + Sync + 'static) {
        let _ = self.gone.set(Box::new(hook));
    }

    /// The keys as they are now. Those that are old are fetched meanwhile.
    pub(crate) fn look(self: &Arc<Self>, now_ms: u64) -> Look {
        let state = self.state.lock();
        let age_ms = state.age_ms(now_ms);
        let is_old = age_ms >= state.kept_ms / 5 * 4;
        let can_fetch = state.is_fetching || state.may_begin(now_ms);
        let look = Look {
            set: state.set.clone(),
            // While the issuer is down, nobody waits for it again and again.
            is_stale: age_ms >= state.kept_ms && state.error.is_none(),
            can_fetch,
            error: state.error.clone(),
        };
        drop(state);
        if is_old && look.set.is_some() && can_fetch {
            self.begin(now_ms);
        }
        look
    }

    /// The keys that are known.
    pub(crate) fn known(&self) -> Option<Arc<KeySet>> {
        self.state.lock().set.clone()
    }

    /// Whether the key of this fingerprint is still there, as far as that is known. While no keys have been fetched it
    /// counts as there, and whoever was let in by it is looked at again when they are.
    pub(crate) fn may_have(self: &Arc<Self>, fingerprint: &str, now_ms: u64) -> bool {
        if let Some(set) = self.look(now_ms).set {
            return set.has(fingerprint);
        }
        let mut state = self.state.lock();
        if let Some(set) = &state.set {
            return set.has(fingerprint);
        }
        state.is_owed = true;
        drop(state);
        self.begin(now_ms);
        true
    }

    /// Waits until keys have been fetched, or can't be: by this call, or by another one that began before.
    pub(crate) async fn fetch(self: &Arc<Self>, now_ms: u64) {
        let mut ended = self.ended.subscribe();
        if self.begin(now_ms) {
            // It ends: by its timeout, or with its runtime.
            let _ = ended.changed().await;
        }
    }

    /// Returns whether keys are being fetched now. The fetch is a task: whoever waits may give up, and others wait, too.
    fn begin(self: &Arc<Self>, now_ms: u64) -> bool {
        let Some(runtime) = clock::runtime() else { return false };
        let mut state = self.state.lock();
        if state.is_fetching {
            return true;
        }
        if !state.may_begin(now_ms) {
            return false;
        }
        state.is_fetching = true;
        state.tried_ms = Some(now_ms);
        drop(state);
        let fetching = Fetching { remote: Arc::clone(self), now_ms, fetched: None };
        clock::start(&runtime, async move {
            let fetched = fetching.remote.fetcher.fetch(&fetching.remote.keys).await;
            fetching.end(fetched);
        });
        true
    }

    fn end(&self, now_ms: u64, fetched: Option<Result<Fetched, String>>) {
        let mut is_gone = false;
        let mut state = self.state.lock();
        state.is_fetching = false;
        match fetched.unwrap_or_else(|| Err("the fetch was cancelled".into())) {
            Ok(Fetched { set, kept }) => {
                let is_lacking = state.set.as_ref().is_some_and(|before| set.lacks_of(before));
                is_gone = std::mem::take(&mut state.is_owed) || is_lacking;
                state.set = Some(Arc::new(set));
                state.kept_ms = ms(kept);
                state.fetched_ms = now_ms;
                state.error = None;
            }
            Err(error) => {
                tracing::warn!(keys = %self.keys, %error, "an issuer's keys can't be fetched");
                state.error = Some(error);
            }
        }
        drop(state);
        if is_gone && let Some(hook) = self.gone.get() {
            hook();
        }
        self.ended.send_modify(|ended| *ended += 1);
    }
}

/// A fetch under way. Dropped, it has ended, whatever became of it.
struct Fetching {
    remote: Arc<Remote>,
    now_ms: u64,
    fetched: Option<Result<Fetched, String>>,
}

impl Fetching {
    fn end(mut self, fetched: Result<Fetched, String>) {
        self.fetched = Some(fetched);
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.remote.end(self.now_ms, self.fetched.take());
    }
}

impl fmt::Display for RemoteKeys {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::At(url) | Self::Discovered { from: url, .. }) = self;
        write!(to, "{}{}", url.origin().ascii_serialization(), url.path())
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Remote").field("keys", &self.keys.to_string()).finish_non_exhaustive()
    }
}
