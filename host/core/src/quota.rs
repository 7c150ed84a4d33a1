//! What limits decide on a node: its gateway asks before it lets something through, and its slots say what calls have used.
//!
//! The decisions are [`slotd_quota`]'s, the limits are the policy's. Rates and sockets hold for this node: for what
//! comes in here. Guest time is counted where it is used, and again where its message came in, if that is another
//! node: its answer says how long it took.

use crate::{
    client::Client,
    names::{ServiceName, SessionKey},
    state::stored::Stored,
    usage::with_account,
};
use parking_lot::RwLock;
use slotd_quota::{
    buckets::{Asks, Buckets, REST},
    counts::{Counts, Full, Gauge, Max, Open, Opens},
    decision::Decision,
    policy::Limits,
};
use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// A node's limits, and how much of them is used. Cheap to clone.
#[derive(Clone)]
pub struct Quota(Arc<Inner>);

struct Inner {
    /// What the times of buckets are since.
    began: Instant,
    buckets: Buckets,
    sockets: Counts,
    limits: RwLock<HashMap<Box<str>, Arc<Limits>>>,
    /// Whether there is a limit on what is kept: all that a message without one looks at.
    keeps: AtomicBool,
    stored: OnceLock<Arc<dyn Stored>>,
    /// Told of each policy's limits.
    follower: OnceLock<Box<Follower>>,
}

type Follower = dyn Fn(&mut dyn Iterator<Item = (&str, &Limits)>) + Send + Sync;

impl Default for Quota {
    fn default() -> Self {
        Self(Arc::new(Inner {
            began: crate::clock::now(),
            buckets: Buckets::default(),
            sockets: Counts::default(),
            limits: RwLock::default(),
            keeps: AtomicBool::new(false),
            stored: OnceLock::new(),
            follower: OnceLock::new(),
        }))
    }
}

fn keeps(limits: &Limits) -> bool {
    let of_session = limits.session.as_ref().is_some_and(|session| session.stored.is_some());
    limits.sessions.is_some() || limits.stored.is_some() || of_session || keeps_by_subject(limits)
}

fn keeps_by_subject(limits: &Limits) -> bool {
    let of = limits.subject.as_ref();
    of.is_some_and(|of| of.sessions.is_some() || of.stored.is_some())
}

impl Quota {
    /// Takes the limits of a policy. What was used stays used, as far as limits that are other ones have room for it.
    pub fn set<'a>(&self, limits: impl IntoIterator<Item = (&'a str, &'a Limits)>) {
        let limits: HashMap<Box<str>, Arc<Limits>> =
            limits.into_iter().map(|(name, of)| (name.into(), Arc::new(of.clone()))).collect();
        let mut now = self.0.limits.write();
        self.0.buckets.set(limits.iter().map(|(name, of)| (&**name, &**of)), self.now());
        self.0.keeps.store(limits.values().any(|limits| keeps(limits)), Relaxed);
        *now = limits;
        self.tell(&now);
    }

    /// From now on, `take` has the limits of each policy, with those that hold now: for shares of a busy node. Once.
    pub fn follow(
        &self,
        take: impl Fn(&mut dyn Iterator<Item = (&str, &Limits)>) + Send + Sync + 'static,
    ) {
        let now = self.0.limits.write();
        if self.0.follower.set(Box::new(take)).is_ok() {
            self.tell(&now);
        }
    }

    fn tell(&self, limits: &HashMap<Box<str>, Arc<Limits>>) {
        if let Some(take) = self.0.follower.get() {
            take(&mut limits.iter().map(|(name, of)| (&**name, &**of)));
        }
    }

    fn now(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// The limits of a service: its own, or those of all that have none.
    pub fn limits(&self, service: &str) -> Option<Arc<Limits>> {
        let limits = self.0.limits.read();
        limits.get(service).or_else(|| limits.get(REST)).cloned()
    }

    /// Whether the limits of a service are its own.
    pub fn has_own(&self, service: &str) -> bool {
        self.0.limits.read().contains_key(service)
    }

    /// Whether there is any rate: all that a message without one costs.
    pub fn has_rates(&self) -> bool {
        self.0.buckets.has_rates()
    }

    /// Decides on a message, query or ephemeral event of a client, with `bytes` of body. `id`: its idempotency key.
    /// `is_real`: whether there is such a service.
    pub fn check(
        &self,
        key: &SessionKey,
        client: Option<&Client>,
        bytes: usize,
        id: Option<&str>,
        is_real: impl FnOnce() -> bool,
    ) -> Decision {
        if !self.has_rates() {
            return Decision::Allowed(None);
        }
        with_account(client, |subject| {
            let (service, session) = (key.service.as_str(), key.session.as_str());
            let asks = Asks { service, subject, session, bytes: bytes as u64, key: id };
            self.0.buckets.check_if(&asks, self.now(), is_real)
        })
    }

    /// A handler has used so much time for a message of a client, or for none.
    pub fn spent(&self, key: &SessionKey, client: Option<&Client>, time: Duration) {
        if time.is_zero() || !self.has_rates() {
            return;
        }
        with_account(client, |subject| {
            let (service, session) = (key.service.as_str(), key.session.as_str());
            let asks = Asks { service, subject, session, bytes: 0, key: None };
            self.0.buckets.spent(&asks, time, self.now());
        });
    }

    /// The header `RateLimit-Policy` of a service's answers.
    pub fn policy_header(&self, service: &str) -> Option<Arc<str>> {
        self.0.buckets.policy_header(service)
    }

    /// Counts a socket or an event stream, while it is open.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn open_socket(&self, key: &SessionKey, client: Option<&Client>) -> Result<Open, Full> {
        let service = key.service.as_str();
        let max = self.limits(service).map_or_else(Max::default, |limits| Max::sockets(&limits));
        with_account(client, |subject| {
            let opens = Opens { service, subject, session: Some(key.session.as_str()) };
            self.0.sockets.open(Gauge::Sockets, opens, max)
        })
    }

    /// Sockets and event streams of a service that are open here.
    pub fn sockets(&self, service: &str) -> u64 {
        self.0.sockets.now(Gauge::Sockets, service, None)
    }

    /// From now on, limits on what is kept hold. Once.
    pub fn follow_stored(&self, stored: Arc<dyn Stored>) {
        let _ = self.0.stored.set(stored);
    }

    /// Whether a service may keep more: `makes`, also one more session. By what all nodes had stored when it was looked at
    /// last.
    ///
    /// # Errors
    /// A sentence: which limit is reached.
    pub fn check_stored(&self, service: &ServiceName, makes: bool) -> Result<(), String> {
        if !self.0.keeps.load(Relaxed) {
            return Ok(());
        }
        let (Some(limits), Some(stored)) = (self.limits(service.as_str()), self.0.stored.get())
        else {
            return Ok(());
        };
        let stored = stored.of(service);
        if let Some(max) = limits.stored.map(|max| max.0).filter(|max| stored.bytes >= *max) {
            return Err(format!(
                "{service} stores {} bytes, and may store {max} (`limits.stored`); nothing was kept, and \
                 deleting sessions makes room",
                stored.bytes
            ));
        }
        if let Some(max) = limits.sessions.map(|max| max.0).filter(|max| stored.sessions >= *max)
            && makes
        {
            return Err(format!(
                "{service} has {} sessions, and may have {max} (`limits.sessions`); nothing was kept, and \
                 deleting sessions makes room",
                stored.sessions
            ));
        }
        Ok(())
    }

    /// Whether a service limits what sessions of a subject keep.
    pub fn keeps_by_subject(&self, service: &ServiceName) -> bool {
        self.0.keeps.load(Relaxed)
            && self.limits(service.as_str()).is_some_and(|limits| keeps_by_subject(&limits))
    }

    /// As [`Self::check_stored`], of the sessions that a subject has made. Others may send to them too: the subject is not named.
    ///
    /// # Errors
    /// A sentence: which limit is reached.
    pub fn check_stored_of(
        &self,
        service: &ServiceName,
        subject: &str,
        makes: bool,
    ) -> Result<(), String> {
        let limits = self.limits(service.as_str());
        let of = limits.as_ref().and_then(|limits| limits.subject.as_ref());
        let (Some(of), Some(stored)) = (of, self.0.stored.get()) else { return Ok(()) };
        let stored = stored.of_subject(service, subject);
        if let Some(max) = of.stored.map(|max| max.0).filter(|max| stored.bytes >= *max) {
            return Err(format!(
                "the sessions of {service} that one subject has made store {} bytes, and may store {max} \
                 (`limits.subject.stored`); nothing was kept, and deleting some of them makes room",
                stored.bytes
            ));
        }
        if let Some(max) = of.sessions.map(|max| max.0).filter(|max| stored.sessions >= *max)
            && makes
        {
            return Err(format!(
                "this subject has made {} sessions of {service} that exist, and may have {max} \
                 (`limits.subject.sessions`); nothing was kept, and deleting some of them makes room",
                stored.sessions
            ));
        }
        Ok(())
    }

    /// How much state a session of a service may have.
    pub fn session_stored(&self, service: &ServiceName) -> Option<u64> {
        if !self.0.keeps.load(Relaxed) {
            return None;
        }
        self.limits(service.as_str())?.session.as_ref()?.stored.map(|max| max.0)
    }

    /// What a service had stored on all nodes when that was looked at last: sessions, and bytes.
    pub fn stored(&self, service: &ServiceName) -> Option<(u64, u64)> {
        let stored = self.0.stored.get()?.of(service);
        Some((stored.sessions, stored.bytes))
    }

    /// Requests that rates have refused on this node, since its start.
    pub fn refused(&self) -> u64 {
        self.0.buckets.refused()
    }

    /// As [`Buckets::forgotten`].
    pub fn forgotten(&self, service: &str) -> u64 {
        self.0.buckets.forgotten(service)
    }
}

impl std::fmt::Debug for Quota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Quota")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use slotd_quota::policy::Count;

    fn client(kind: &str) -> Client {
        Client { kind: kind.into(), subject: Some("ann".into()), claims: Vec::new() }
    }

    /// What follows late would have no limits until somebody edits the policy.
    #[test]
    fn whoever_follows_has_the_limits_that_hold_and_those_of_each_policy() {
        let (quota, told) = (Quota::default(), Arc::<Mutex<Vec<String>>>::default());
        let limits = Limits::default();
        quota.set([("chat", &limits)]);
        let names = told.clone();
        quota.follow(move |limits| {
            let mut all: Vec<_> = limits.map(|(name, _)| name.to_owned()).collect();
            all.sort();
            names.lock().push(all.join(" "));
        });
        quota.set([("*", &limits), ("board", &limits)]);
        assert_eq!(*told.lock(), ["chat", "* board"]);
        assert!(quota.has_own("board") && !quota.has_own("chat"));
        assert!(quota.limits("chat").is_some(), "those of all others");
    }

    /// One issuer's user would use up what another's may have, who has the same name there.
    #[test]
    fn a_subject_is_one_of_its_kind() {
        let quota = Quota::default();
        let mut limits = Limits::default();
        limits.subject.get_or_insert_default().sockets = Some(Count(1));
        quota.set([("*", &limits)]);
        let key = SessionKey::parse("chat", "room").unwrap();
        let first = quota.open_socket(&key, Some(&client("accounts"))).unwrap();
        assert!(quota.open_socket(&key, Some(&client("accounts"))).is_err());
        let other = quota.open_socket(&key, Some(&client("partners"))).unwrap();
        let nobody = [(); 2].map(|()| quota.open_socket(&key, None).unwrap());
        assert_eq!(quota.sockets("chat"), 4);
        drop((first, other, nobody));
        quota.open_socket(&key, Some(&client("accounts"))).unwrap();
    }
}
