//! What is there now: sockets, and what slots report as they sum it up.
//!
//! Something that is open is counted by a guard, for its service, its subject and its session, and only while it is there. So there
//! are no more entries than open things, whose number has a limit of its own (`api.connections_max`).

use crate::{decision::Level, limits, policy::Limits};
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use std::{collections::HashMap, fmt, hash::BuildHasher, sync::Arc};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gauge {
    /// WebSockets and event streams.
    Sockets,
    /// Messages that are not answered: what `Shares` asks for as `open`.
    Messages,
}

/// How many there may be of a service, of one subject and of one session of it. `None`: any number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Max {
    pub service: Option<u64>,
    pub subject: Option<u64>,
    pub session: Option<u64>,
}

impl Max {
    /// Of sockets.
    pub fn sockets(limits: &Limits) -> Self {
        let count = |count: crate::policy::Count| count.0;
        Self {
            service: limits.sockets.map(count),
            subject: limits.subject.as_ref().and_then(|of| of.sockets).map(count),
            session: limits.session.as_ref().and_then(|of| of.sockets).map(count),
        }
    }
}

/// Of what one is that opens.
#[derive(Clone, Copy, Debug)]
pub struct Opens<'a> {
    pub service: &'a str,
    pub subject: Option<&'a str>,
    pub session: Option<&'a str>,
}

/// Why there can be no more: whose limit, and how many it allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    pub level: Level,
    pub max: u64,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match self.level {
            Level::Service => "service",
            Level::Subject => "subject",
            Level::Session => "session",
        };
        write!(f, "the limit of the {whose} is reached: {}", self.max)
    }
}

#[derive(Debug, Default)]
pub struct Counts(Arc<Shards>);

#[derive(Debug, Default)]
struct Shards {
    hasher: RandomState,
    shards: [Mutex<Shard>; limits::COUNT_SHARDS],
}

type Shard = HashMap<(Gauge, Box<str>), Of, RandomState>;

#[derive(Debug, Default)]
struct Of {
    /// With those of its subjects and sessions.
    all: u64,
    subjects: Named,
    sessions: Named,
}

type Named = HashMap<Box<str>, u64, RandomState>;

fn now(named: &Named, name: Option<&str>) -> u64 {
    name.and_then(|name| named.get(name)).copied().unwrap_or(0)
}

fn enter(named: &mut Named, name: Option<&str>) {
    if let Some(name) = name {
        *named.entry(name.into()).or_default() += 1;
    }
}

fn leave(named: &mut Named, name: Option<&str>) {
    if let Some(name) = name
        && let Some(count) = named.get_mut(name)
    {
        *count -= 1;
        if *count == 0 {
            named.remove(name);
        }
    }
}

/// One that is there; until it is dropped.
#[derive(Debug)]
pub struct Open {
    shards: Arc<Shards>,
    key: (Gauge, Box<str>),
    subject: Option<Box<str>>,
    session: Option<Box<str>>,
}

impl Shards {
    fn of(&self, service: &str) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(service) as usize % self.shards.len()]
    }
}

impl Counts {
    /// Counts one more, unless the service, the subject or the session has as many as it may.
    ///
    /// # Errors
    /// Which limit is reached. Nothing is counted then.
    pub fn open(&self, gauge: Gauge, opens: Opens<'_>, max: Max) -> Result<Open, Full> {
        let Opens { service, subject, session } = opens;
        let key = (gauge, Box::from(service));
        let mut shard = self.0.of(service).lock();
        let counted = shard.get(&key).map_or((0, 0, 0), |of| {
            (of.all, now(&of.subjects, subject), now(&of.sessions, session))
        });
        let levels = [
            (Level::Session, max.session.filter(|_| session.is_some()), counted.2),
            (Level::Subject, max.subject.filter(|_| subject.is_some()), counted.1),
            (Level::Service, max.service, counted.0),
        ];
        for (level, max, now) in levels {
            if let Some(max) = max.filter(|max| now >= *max) {
                return Err(Full { level, max });
            }
        }
        let of = shard.entry(key.clone()).or_default();
        of.all += 1;
        enter(&mut of.subjects, subject);
        enter(&mut of.sessions, session);
        let (subject, session) = (subject.map(Into::into), session.map(Into::into));
        Ok(Open { shards: self.0.clone(), key, subject, session })
    }

    /// How many a service has; those of one subject, if one is given.
    pub fn now(&self, gauge: Gauge, service: &str, subject: Option<&str>) -> u64 {
        let shard = self.0.of(service).lock();
        let Some(of) = shard.get(&(gauge, Box::from(service))) else { return 0 };
        match subject {
            None => of.all,
            Some(_) => now(&of.subjects, subject),
        }
    }

    /// How many each service has that has any.
    pub fn services(&self, gauge: Gauge) -> Vec<(Box<str>, u64)> {
        let mut all = Vec::new();
        for shard in &self.0.shards {
            let shard = shard.lock();
            let of_gauge = shard.iter().filter(|((of, _), _)| *of == gauge);
            all.extend(of_gauge.map(|((_, service), of)| (service.clone(), of.all)));
        }
        all.sort();
        all
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut shard = self.shards.of(&self.key.1).lock();
        let Some(of) = shard.get_mut(&self.key) else { return };
        of.all -= 1;
        leave(&mut of.subjects, self.subject.as_deref());
        leave(&mut of.sessions, self.session.as_deref());
        if of.all == 0 {
            shard.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn held(counts: &Counts) -> usize {
        let of = |of: &Of| 1 + of.subjects.len() + of.sessions.len();
        counts.0.shards.iter().map(|shard| shard.lock().values().map(of).sum::<usize>()).sum()
    }

    fn of<'a>(service: &'a str, subject: Option<&'a str>) -> Opens<'a> {
        Opens { service, subject, session: None }
    }

    #[test]
    fn a_subject_and_a_service_have_limits_of_their_own() {
        let counts = Counts::default();
        let max = Max { service: Some(3), subject: Some(2), session: None };
        let open = |subject| counts.open(Gauge::Sockets, of("chat", subject), max);
        let ann = [open(Some("ann")).unwrap(), open(Some("ann")).unwrap()];
        assert_eq!(open(Some("ann")).unwrap_err(), Full { level: Level::Subject, max: 2 });
        let nobody = open(None).unwrap();
        let full = open(Some("bob")).unwrap_err();
        assert_eq!(full.to_string(), "the limit of the service is reached: 3");
        assert_eq!(counts.now(Gauge::Sockets, "chat", None), 3);
        assert_eq!(counts.now(Gauge::Sockets, "chat", Some("ann")), 2);
        assert_eq!(counts.now(Gauge::Messages, "chat", None), 0);
        drop((ann, nobody));
        // What is gone takes no memory: names come from clients.
        assert_eq!(held(&counts), 0);
        let none = Max { service: Some(0), ..Max::default() };
        assert!(counts.open(Gauge::Sockets, of("chat", None), none).is_err());
        assert_eq!(held(&counts), 0);
    }

    /// A page that is open often would keep everybody else of its service out.
    #[test]
    fn a_session_has_a_limit_of_its_own_whoever_opens_it() {
        let counts = Counts::default();
        let max = Max { session: Some(1), ..Max::default() };
        let open = |session, subject| {
            let opens = Opens { service: "chat", subject: Some(subject), session: Some(session) };
            counts.open(Gauge::Sockets, opens, max)
        };
        let one = open("room", "ann").unwrap();
        let full = open("room", "bob").unwrap_err();
        assert_eq!(full.to_string(), "the limit of the session is reached: 1");
        let other = open("hall", "bob").unwrap();
        drop(one);
        drop((open("room", "bob").unwrap(), other));
        assert_eq!(held(&counts), 0);
    }

    proptest! {
        /// A count that drifted would lock a service out for ever, or let it have any number.
        #[test]
        fn counts_are_what_is_open(steps in prop::collection::vec((0usize..3, 0usize..4, any::<bool>()), 1..300)) {
            let counts = Counts::default();
            let (services, subjects) = (["a", "b", "c"], [None, Some("x"), Some("y"), Some("z")]);
            let max = Max { service: Some(10), subject: Some(4), session: None };
            let mut open: Vec<(usize, usize, Open)> = Vec::new();
            for (service, subject, opens) in steps {
                let of = |open: &[(usize, usize, Open)], own: bool| {
                    open.iter().filter(|(s, n, _)| *s == service && (!own || *n == subject)).count()
                };
                let (all, own) = (of(&open, false), of(&open, true));
                if opens {
                    let result = counts.open(Gauge::Sockets, self::of(services[service], subjects[subject]), max);
                    let fits = all < 10 && (subject == 0 || own < 4);
                    prop_assert_eq!(result.is_ok(), fits);
                    open.extend(result.ok().map(|one| (service, subject, one)));
                } else if let Some(at) = open.iter().position(|(s, n, _)| (*s, *n) == (service, subject)) {
                    open.swap_remove(at);
                }
                prop_assert_eq!(counts.now(Gauge::Sockets, services[service], None) as usize, of(&open, false));
            }
            drop(open);
            prop_assert_eq!(held(&counts), 0);
            prop_assert!(counts.services(Gauge::Sockets).is_empty());
        }
    }
}
