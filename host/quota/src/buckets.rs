//! Rate limits of messages: by service, by subject and by session, all checked together.
//!
//! A message passes all limits that it is under or draws from none of them. For that its buckets are locked
//! together, always in the same order: the session's, the subject's, the service's. Those of the first two are
//! in many shards, so what all threads share for a service with limits is its own two buckets, for some 20 ns. A
//! service without limits costs a look into a map that nobody locks; without any limits, one relaxed load.
//!
//! The time of guests is known only afterwards. It is drawn then ([`Buckets::spent`]), and a message passes
//! while its buckets are not overdrawn.

use crate::{
    decision::{Decision, Left, Level, Limit, Refusal, What},
    headers, limits,
    policy::{Limits, Rates},
    rate::{Quota, nanos},
    repeats::Repeats,
    table::{Table, Taps},
};
use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// The service in a policy that stands for all that are not in it.
pub const REST: &str = "*";

/// A message that asks to be let through.
#[derive(Clone, Copy, Debug)]
pub struct Asks<'a> {
    pub service: &'a str,
    /// Of its token. Without one, limits of subjects do not hold.
    pub subject: Option<&'a str>,
    pub session: &'a str,
    /// Of its body.
    pub bytes: u64,
    /// Its idempotency key. A message that was let through has one repeat that is let through, too, for a minute and with no
    /// more bytes.
    pub key: Option<&'a str>,
}

/// The rates of a policy, and the buckets of all who are under them.
#[derive(Debug, Default)]
pub struct Buckets {
    /// Whether there is any rate: all that a message without limits looks at.
    any: AtomicBool,
    policy: ArcSwap<Policy>,
    /// Held by whoever sets the policy.
    setting: Mutex<()>,
    repeats: Repeats,
    refused: AtomicU64,
}

type Map<V> = HashMap<Box<str>, V, RandomState>;

#[derive(Debug, Default)]
struct Policy {
    named: Map<Option<Service>>,
    rest: Option<Rest>,
}

/// A service's rates and its buckets.
#[derive(Clone, Debug)]
struct Service {
    rates: Arc<AllRates>,
    state: Arc<State>,
}

/// The rates of services that are not named, and their buckets.
#[derive(Clone, Debug)]
struct Rest {
    rates: Arc<AllRates>,
    states: Arc<RestStates>,
}

#[derive(Debug)]
struct RestStates {
    shards: Box<[Mutex<Map<Arc<State>>>]>,
    hasher: RandomState,
    /// In all shards: a bound for each would be reached by some long before all places are taken.
    held: AtomicUsize,
    /// Of those that there is no place for.
    beyond: Arc<State>,
}

/// Whose buckets are under rates that change.
enum Held {
    One(Arc<State>),
    Rest(Arc<RestStates>),
}

#[derive(Debug, Default, PartialEq, Eq)]
struct AllRates {
    service: Rates,
    subject: Rates,
    session: Rates,
    /// The header `RateLimit-Policy`, if it has anything to say.
    header: Option<Arc<str>>,
}

#[derive(Debug)]
struct State {
    service: Mutex<Taps>,
    subjects: Table,
    sessions: Table,
}

impl Default for State {
    fn default() -> Self {
        Self {
            service: Mutex::default(),
            subjects: Table::new(limits::SUBJECTS_KNOWN_MAX),
            sessions: Table::new(limits::SESSIONS_KNOWN_MAX),
        }
    }
}

impl State {
    /// See [`Buckets::set`].
    fn clamp(&self, before: &AllRates, rates: &AllRates, now_ns: u64) {
        if before.service != rates.service {
            self.service.lock().clamp(&before.service, &rates.service, now_ns);
        }
        for (table, before, rates) in [
            (&self.subjects, &before.subject, &rates.subject),
            (&self.sessions, &before.session, &rates.session),
        ] {
            if before != rates {
                table.each(|taps| taps.clamp(before, rates, now_ns));
            }
        }
    }
}

impl AllRates {
    fn of(limits: &Limits) -> Option<Self> {
        let mut rates = Self {
            service: limits.rates(),
            subject: limits.subject_rates(),
            session: limits.session_rates(),
            header: None,
        };
        let levels = [&rates.service, &rates.subject, &rates.session];
        if levels.iter().all(|rates| rates.is_none()) {
            return None;
        }
        let quotas = Self::LEVELS.into_iter().zip(levels).flat_map(|(level, rates)| {
            let on = |what| move |quota| (Limit { level, what }, quota);
            let messages = rates.messages.map(on(What::Messages));
            messages.into_iter().chain(rates.bytes.map(on(What::Bytes)))
        });
        rates.header = headers::policy(quotas).map(Into::into);
        Some(rates)
    }

    const LEVELS: [Level; 3] = [Level::Service, Level::Subject, Level::Session];
}

impl Default for RestStates {
    fn default() -> Self {
        Self {
            shards: (0..limits::COUNT_SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            held: AtomicUsize::new(0),
            beyond: Arc::default(),
        }
    }
}

impl RestStates {
    /// `None`: it has none yet, and `is_real` says that there is no such service.
    fn of(&self, service: &str, is_real: impl FnOnce() -> bool) -> Option<Arc<State>> {
        use std::hash::BuildHasher;
        let shard = self.hasher.hash_one(service) as usize % self.shards.len();
        let mut states = self.shards[shard].lock();
        if let Some(state) = states.get(service) {
            return Some(state.clone());
        }
        if !is_real() {
            return None;
        }
        let one_more = |held| (held < limits::REST_SERVICES_MAX).then_some(held + 1);
        if self.held.fetch_update(Relaxed, Relaxed, one_more).is_err() {
            return Some(self.beyond.clone());
        }
        Some(states.entry(service.into()).or_default().clone())
    }

    fn each(&self, mut work: impl FnMut(&State)) {
        for shard in &self.shards {
            // Whoever comes meanwhile does not wait for the work.
            let states: Vec<_> = shard.lock().values().cloned().collect();
            states.iter().for_each(|state| work(state));
        }
        work(&self.beyond);
    }
}

impl Buckets {
    /// Takes the limits of a policy, by service; [`REST`] is all others. What services have drawn stays drawn; but where
    /// a rate or its burst is another one, nobody has less than an empty bucket of it: what he owes at a rate that was wrong
    /// would keep him out long after it is right.
    pub fn set<'a>(&self, limits: impl IntoIterator<Item = (&'a str, &'a Limits)>, now: Duration) {
        let _setting = self.setting.lock();
        let before = self.policy.load_full();
        let mut changed = Vec::new();
        let mut policy = Policy::default();
        for (service, limits) in limits {
            let rates = AllRates::of(limits).map(Arc::new);
            if service == REST {
                let states = before.rest.as_ref().map(|rest| rest.states.clone());
                let states = states.unwrap_or_default();
                if let (Some(before), Some(now)) = (&before.rest, &rates) {
                    changed.push((before.rates.clone(), now.clone(), Held::Rest(states.clone())));
                }
                policy.rest = rates.map(|rates| Rest { rates, states });
                continue;
            }
            // One that is named and has no rate is not under those of the rest.
            let service_now = rates.map(|rates| {
                let kept = before.state(service, || false);
                if let (Some(kept), Some(before)) = (&kept, before.rates(service)) {
                    changed.push((before.clone(), rates.clone(), Held::One(kept.clone())));
                }
                Service { rates, state: kept.unwrap_or_default() }
            });
            policy.named.insert(service.into(), service_now);
        }
        let any = policy.rest.is_some() || policy.named.values().any(Option::is_some);
        self.policy.store(Arc::new(policy));
        self.any.store(any, Relaxed);
        // Afterwards: what is drawn from now on is drawn at the new rates.
        for (before, rates, held) in changed.iter().filter(|(before, rates, _)| before != rates) {
            match held {
                Held::One(state) => state.clamp(before, rates, nanos(now)),
                Held::Rest(states) => states.each(|state| state.clamp(before, rates, nanos(now))),
            }
        }
    }

    /// Whether there is any rate.
    pub fn has_rates(&self) -> bool {
        self.any.load(Relaxed)
    }

    /// Decides on one message, with its `now` from any start that stays the same.
    pub fn check(&self, asks: &Asks<'_>, now: Duration) -> Decision {
        self.check_if(asks, now, || true)
    }

    /// As [`Self::check`]; one to a service that is none draws from nothing. It is asked only where buckets would be made
    /// for it, of which there are [`limits::REST_SERVICES_MAX`]: clients name services.
    pub fn check_if(
        &self,
        asks: &Asks<'_>,
        now: Duration,
        is_real: impl FnOnce() -> bool,
    ) -> Decision {
        match self.any.load(Relaxed) {
            false => Decision::Allowed(None),
            true => self.check_limits(asks, nanos(now), is_real),
        }
    }

    fn check_limits(
        &self,
        asks: &Asks<'_>,
        now_ns: u64,
        is_real: impl FnOnce() -> bool,
    ) -> Decision {
        let policy = self.policy.load();
        let decide = |rates: &AllRates, state: &State| decide(rates, state, asks, now_ns);
        let decision = policy.with(asks.service, is_real, decide);
        let Some(decision) = decision else { return Decision::Allowed(None) };
        let repeats = asks.key.map(|key| (asks.service, asks.subject, asks.session, key));
        match (decision, repeats) {
            (Decision::Allowed(_), Some(key)) => self.repeats.note(key, asks.bytes, now_ns),
            (Decision::Refused(_), Some(key)) if self.repeats.take(key, asks.bytes, now_ns) => {
                return Decision::Allowed(None);
            }
            (Decision::Refused(_), _) => {
                self.refused.fetch_add(1, Relaxed);
            }
            (Decision::Allowed(_), None) => {}
        }
        decision
    }

    /// A message's handler has used so much time.
    pub fn spent(&self, asks: &Asks<'_>, guest_time: Duration, now: Duration) {
        if !self.any.load(Relaxed) {
            return;
        }
        let (now_ns, amount) = (nanos(now), nanos(guest_time));
        self.policy.load().with(
            asks.service,
            || true,
            |rates, state| {
                if let Some(quota) = rates.session.guest_time {
                    state
                        .sessions
                        .of(asks.session, now_ns)
                        .guest_time
                        .overdraw(quota, amount, now_ns);
                }
                if let (Some(quota), Some(subject)) = (rates.subject.guest_time, asks.subject) {
                    state.subjects.of(subject, now_ns).guest_time.overdraw(quota, amount, now_ns);
                }
                if let Some(quota) = rates.service.guest_time {
                    state.service.lock().guest_time.overdraw(quota, amount, now_ns);
                }
            },
        );
    }

    /// The header `RateLimit-Policy` of a service's answers.
    pub fn policy_header(&self, service: &str) -> Option<Arc<str>> {
        match self.any.load(Relaxed) {
            false => None,
            true => self.policy.load().rates(service)?.header.clone(),
        }
    }

    /// Messages that were refused, since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Sessions and subjects of a service that were forgotten before their buckets were full, since the start: more are in
    /// use than there is room for.
    pub fn forgotten(&self, service: &str) -> u64 {
        let state = self.policy.load().state(service, || false);
        state.map_or(0, |state| state.sessions.forgotten() + state.subjects.forgotten())
    }
}

impl Policy {
    fn with<T>(
        &self,
        service: &str,
        is_real: impl FnOnce() -> bool,
        work: impl FnOnce(&AllRates, &State) -> T,
    ) -> Option<T> {
        match (self.named.get(service), &self.rest) {
            (Some(Some(service)), _) => Some(work(&service.rates, &service.state)),
            (Some(None), _) | (None, None) => None,
            (None, Some(rest)) => Some(work(&rest.rates, &*rest.states.of(service, is_real)?)),
        }
    }

    fn rates(&self, service: &str) -> Option<&Arc<AllRates>> {
        match (self.named.get(service), &self.rest) {
            (Some(service), _) => service.as_ref().map(|service| &service.rates),
            (None, rest) => rest.as_ref().map(|rest| &rest.rates),
        }
    }

    fn state(&self, service: &str, is_real: impl FnOnce() -> bool) -> Option<Arc<State>> {
        match (self.named.get(service), &self.rest) {
            (Some(service), _) => service.as_ref().map(|service| service.state.clone()),
            (None, rest) => rest.as_ref().and_then(|rest| rest.states.of(service, is_real)),
        }
    }
}

/// What the limits of one message say together.
struct Verdict<'a> {
    asks: &'a Asks<'a>,
    now_ns: u64,
    /// The latest of the times at which a limit lets it through.
    refused: Option<(u64, Limit)>,
}

impl Verdict<'_> {
    fn look(&mut self, level: Level, rates: &Rates, taps: &Taps) {
        let mut ask = |what, at: u64| {
            if at > self.now_ns && self.refused.is_none_or(|(latest, _)| at > latest) {
                self.refused = Some((at, Limit { level, what }));
            }
        };
        if let Some(quota) = rates.messages {
            ask(What::Messages, taps.messages.ready_at(quota, 1));
        }
        if let Some(quota) = rates.bytes {
            ask(What::Bytes, taps.bytes.ready_at(quota, self.asks.bytes));
        }
        if let Some(quota) = rates.guest_time {
            ask(What::GuestTime, taps.guest_time.paid_at(quota));
        }
    }

    fn draw(&self, level: Level, rates: &Rates, taps: &mut Taps, least: &mut Least) {
        if let Some(quota) = rates.messages {
            taps.messages.draw(quota, 1, self.now_ns);
            least.see(Limit { level, what: What::Messages }, taps.messages, quota, self.now_ns);
        }
        if let Some(quota) = rates.bytes {
            taps.bytes.draw(quota, self.asks.bytes, self.now_ns);
            least.see(Limit { level, what: What::Bytes }, taps.bytes, quota, self.now_ns);
        }
    }
}

/// The limit that has the least left, of what it lets through at once.
#[derive(Default)]
struct Least(Option<(u64, Left)>);

impl Least {
    fn see(&mut self, limit: Limit, bucket: crate::rate::Bucket, quota: Quota, now_ns: u64) {
        let (remaining, part) = bucket.left(quota, now_ns);
        if self.0.is_none_or(|(least, _)| part < least) {
            let full_in = Duration::from_nanos(bucket.full_in(now_ns));
            self.0 = Some((part, Left { limit, remaining, full_in }));
        }
    }
}

fn decide(rates: &AllRates, state: &State, asks: &Asks<'_>, now_ns: u64) -> Decision {
    // Nobody takes a lock of an earlier kind while it holds one of a later: session, subject, service.
    let mut session = (!rates.session.is_none()).then(|| state.sessions.of(asks.session, now_ns));
    let subject = asks.subject.filter(|_| !rates.subject.is_none());
    let mut subject = subject.map(|subject| state.subjects.of(subject, now_ns));
    let mut service = (!rates.service.is_none()).then(|| state.service.lock());
    let mut verdict = Verdict { asks, now_ns, refused: None };
    if let Some(taps) = &session {
        verdict.look(Level::Session, &rates.session, taps);
    }
    if let Some(taps) = &subject {
        verdict.look(Level::Subject, &rates.subject, taps);
    }
    if let Some(taps) = &service {
        verdict.look(Level::Service, &rates.service, taps);
    }
    if let Some((at, limit)) = verdict.refused {
        return Decision::Refused(Refusal { limit, after: Duration::from_nanos(at - now_ns) });
    }
    let mut least = Least::default();
    if let Some(taps) = &mut session {
        verdict.draw(Level::Session, &rates.session, taps, &mut least);
    }
    if let Some(taps) = &mut subject {
        verdict.draw(Level::Subject, &rates.subject, taps, &mut least);
    }
    if let Some(taps) = &mut service {
        verdict.draw(Level::Service, &rates.service, taps, &mut least);
    }
    Decision::Allowed(least.0.map(|(_, left)| left))
}

#[cfg(test)]
mod tests;
