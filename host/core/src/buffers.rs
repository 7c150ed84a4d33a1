//! The memory of connection buffers: one budget, in bytes, for all connections.
//!
//! Everything that a peer can make the node keep is charged here, by [`Kind`]: a body or frame from
//! its arrival until its message is answered, an answer until its peer has read it, an event until
//! its last subscriber has. New data that does not fit is refused at once with `buffers-full`;
//! existing data is still served.
//!
//! Incoming and outgoing data may each use three quarters of it, so peers that read nothing can't
//! block messages, nor the other way round.
//!
//! On a node with shares, what messages bring is also charged to their service: one that holds much leaves some to
//! others ([`Buffers::share`]).
//!
//! An event is stored and charged once, however many subscribers wait for it: its bytes are
//! released with the last queue that has it. Each queue is also charged for its own entries.

use crate::{
    error::{Code, Error},
    limits,
    loads::Load,
};
use std::{
    ops::Deref,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// What memory is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bodies of messages and queries, from their arrival until they are answered.
    Bodies,
    /// Heads of requests and frames of WebSockets that are not whole.
    Frames,
    /// Answers and frames that are not yet taken by their peer.
    Answers,
    /// Events that wait for subscribers.
    Events,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Bodies, Self::Frames, Self::Answers, Self::Events];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bodies => "bodies",
            Self::Frames => "frames",
            Self::Answers => "answers",
            Self::Events => "events",
        }
    }

    fn is_outgoing(self) -> bool {
        matches!(self, Self::Answers | Self::Events)
    }

    /// The kinds that share one part of the budget with this one.
    fn direction(self) -> [Self; 2] {
        match self {
            Self::Bodies | Self::Frames => [Self::Bodies, Self::Frames],
            Self::Answers | Self::Events => [Self::Answers, Self::Events],
        }
    }
}

/// The budget.
pub struct Buffers {
    limit: AtomicUsize,
    held: [AtomicUsize; 4],
}

static SHARED: LazyLock<Arc<Buffers>> =
    LazyLock::new(|| Arc::new(Buffers::new(limits::BUFFERS_BYTES_DEFAULT)));

/// The process's own: memory belongs to the process.
pub fn shared() -> &'static Arc<Buffers> {
    &SHARED
}

impl Buffers {
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.into(), held: [const { AtomicUsize::new(0) }; 4] }
    }

    pub fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Relaxed);
    }

    /// Bytes that are held now.
    pub fn held(&self, kind: Kind) -> usize {
        self.held[kind as usize].load(Relaxed)
    }

    /// Whether so many bytes more would fit now. Takes none: who announces and does not send must
    /// not keep others out.
    ///
    /// # Errors
    /// `buffers-full`.
    pub fn check(&self, kind: Kind, bytes: usize) -> Result<(), Error> {
        match self.fits(kind, bytes) {
            true => Ok(()),
            false => Err(self.full()),
        }
    }

    /// As [`Buffers::check`], for callers with an error of their own.
    pub fn fits(&self, kind: Kind, bytes: usize) -> bool {
        let sum = |kinds: &[Kind]| {
            kinds.iter().fold(bytes, |sum, kind| sum.saturating_add(self.held(*kind)))
        };
        let limit = self.limit.load(Relaxed);
        sum(&Kind::ALL) <= limit && sum(&kind.direction()) <= limit - limit / 4
    }

    /// What a service may hold of one direction, of which `most` may be used and `used` is, `own` of it by the service:
    /// all while half is free; then half of it, and no more than twice what is free, so that there is always some for
    /// others. What it has can't be taken back. Where others have next to nothing, all but a reserve for the first of them.
    fn share(most: usize, used: usize, own: usize) -> usize {
        use slotd_quota::limits::{SHARE_OF_FREE, SHARE_RESERVE};
        let reserve = most / SHARE_RESERVE as usize;
        if used <= most / 2 {
            most
        } else if used.saturating_sub(own) <= reserve {
            most - reserve
        } else {
            (most / 2).min(most.saturating_sub(used).saturating_mul(SHARE_OF_FREE as usize))
        }
    }

    /// Whether a service that holds so much may hold so many bytes more.
    fn fits_share(&self, kind: Kind, load: &Load, bytes: usize) -> bool {
        let limit = self.limit.load(Relaxed);
        let most = limit - limit / 4;
        let used =
            kind.direction().iter().fold(0_usize, |sum, kind| sum.saturating_add(self.held(*kind)));
        let own = load.buffers(kind.is_outgoing()).load(Relaxed);
        own.saturating_add(bytes) <= Self::share(most, used, own)
    }

    fn full(&self) -> Error {
        Error::new(
            Code::BuffersFull,
            format!(
                "connection buffers are full: {} bytes (api.buffers) of bodies, answers and \
                 events are waiting; slow down",
                self.limit.load(Relaxed)
            ),
        )
    }
}

/// What one holder has of it; given back when dropped.
#[derive(Debug)]
pub struct Charge<B: Deref<Target = Buffers> = Arc<Buffers>> {
    buffers: B,
    kind: Kind,
    bytes: usize,
    /// Whose it is, where a service leaves some to others.
    load: Option<Arc<Load>>,
}

impl<B: Deref<Target = Buffers>> Charge<B> {
    pub fn new(buffers: B, kind: Kind) -> Self {
        Self { buffers, kind, bytes: 0, load: None }
    }

    /// On behalf of a service. Before anything is taken.
    #[must_use]
    pub fn of(mut self, load: Option<Arc<Load>>) -> Self {
        debug_assert_eq!(self.bytes, 0);
        self.load = load;
        self
    }

    /// Whether it may take so many bytes more; see [`Buffers::check`].
    ///
    /// # Errors
    /// `buffers-full`.
    pub fn check(&self, bytes: usize) -> Result<(), Error> {
        self.buffers.check(self.kind, bytes)?;
        match &self.load {
            Some(load) if !self.buffers.fits_share(self.kind, load, bytes) => Err(Error::new(
                Code::BuffersFull,
                "connection buffers are nearly full, and this service has its share of them; slow down",
            )),
            _ => Ok(()),
        }
    }

    /// Takes so many bytes more.
    ///
    /// # Errors
    /// `buffers-full`. Then they are counted all the same, until it is dropped.
    pub fn take(&mut self, bytes: usize) -> Result<(), Error> {
        self.set(self.bytes.saturating_add(bytes))
    }

    /// Holds so many bytes from now on.
    ///
    /// # Errors
    /// `buffers-full`, when they are more than before. Then they are counted all the same.
    pub fn set(&mut self, bytes: usize) -> Result<(), Error> {
        let more = bytes > self.bytes;
        self.hold(bytes);
        match more {
            true => self.check(0),
            false => Ok(()),
        }
    }

    /// Holds so many bytes from now on, whatever others have: for what can't be refused any more.
    pub fn hold(&mut self, bytes: usize) {
        let own = self.load.as_ref().map(|load| load.buffers(self.kind.is_outgoing()));
        for held in [Some(&self.buffers.held[self.kind as usize]), own].into_iter().flatten() {
            match bytes.cmp(&self.bytes) {
                std::cmp::Ordering::Greater => drop(held.fetch_add(bytes - self.bytes, Relaxed)),
                std::cmp::Ordering::Less => drop(held.fetch_sub(self.bytes - bytes, Relaxed)),
                std::cmp::Ordering::Equal => {}
            }
        }
        self.bytes = bytes;
    }
}

impl<B: Deref<Target = Buffers>> Drop for Charge<B> {
    fn drop(&mut self) {
        self.hold(0);
    }
}

/// The charge of something that is handed on: it goes with that, and ends with its last copy. Of
/// what is not charged, nothing.
#[derive(Clone, Debug, Default)]
pub struct Held(Option<Arc<Charge>>);

impl Held {
    /// Bytes that are charged.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |charge| charge.bytes)
    }
}

impl From<Charge> for Held {
    fn from(charge: Charge) -> Self {
        Self(Some(Arc::new(charge)))
    }
}

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(Kind::ALL.map(|kind| (kind, self.held(kind)))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One service's large bodies, or the events that its subscribers don't read, would have everybody else's messages
    /// refused.
    #[test]
    fn a_service_that_holds_much_leaves_some_to_others() {
        let buffers = Buffers::new(4_000);
        let of = |load: &Arc<Load>| Charge::new(&buffers, Kind::Bodies).of(Some(load.clone()));
        let (greedy, quiet) = (Arc::<Load>::default(), Arc::<Load>::default());
        let fill = |load: &Arc<Load>| -> Vec<_> {
            let one = || Some(of(load)).and_then(|mut one| one.take(50).is_ok().then_some(one));
            std::iter::from_fn(one).collect()
        };
        let mut all = fill(&greedy);
        assert_eq!(buffers.held(Kind::Bodies), 2_800, "alone it has all but a sixteenth of 3,000");
        let others = fill(&quiet);
        assert!(!others.is_empty(), "the other one finds no room");
        assert!(of(&greedy).check(50).is_err());
        // What is given back is for the one that has less.
        all.truncate(20);
        let more = fill(&quiet);
        assert!(more.len() >= 8, "{}", more.len());
        drop((all, others, more));
        assert_eq!(greedy.buffers(false).load(Relaxed), 0);
        assert!(of(&quiet).check(2_000).is_ok(), "there is room for all");
    }

    /// Without it one side of what connections hold could keep the other out, or a holder that is
    /// gone would count for ever.
    #[test]
    fn each_direction_leaves_room_for_the_other() {
        let buffers = Buffers::new(1_000);
        let mut answers = Charge::new(&buffers, Kind::Answers);
        let mut events = Charge::new(&buffers, Kind::Events);
        assert!(answers.take(500).is_ok() && events.take(250).is_ok());
        assert_eq!(events.take(1).map_err(|e| e.code), Err(Code::BuffersFull));
        let mut bodies = Charge::new(&buffers, Kind::Bodies);
        assert!(bodies.take(249).is_ok(), "a quarter is left for what comes in");
        assert!(bodies.check(1).is_err() && bodies.set(100).is_ok());
        drop(answers);
        assert_eq!(buffers.held(Kind::Answers), 0);
        assert!(bodies.set(700).is_ok());
        events.hold(10_000);
        assert!(bodies.set(701).is_err() && bodies.set(10).is_ok());
    }
}
