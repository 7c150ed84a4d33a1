//! Who works on a slot's state. One at a time: whoever brings a message while nobody does applies it
//! there and then; the slot's own task does all else.
//!
//! A message that comes while somebody works waits in the mailbox, in order. One that can't be
//! finished at once (its handler computes for long, a plugin has to be loaded) is given to the task
//! as it is. So whoever brings a message never waits, and may go away at any time.

use crate::{
    error::{Cause, Error},
    limits,
    log::{LogError, Position},
    names::ServiceName,
    slot::{Mail, SlotStats, shell::Shell},
    telemetry::panics,
};
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use slotd_quota::share::Share;
use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// What ended of a commit.
pub(super) type Decided = Result<Position, LogError>;

/// A mail that is being taken; gives the state back.
pub(super) type Begun = BoxFuture<'static, Box<Shell>>;

pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// So much mail of one service may wait, where no other wants a place.
    pub mailbox_max: usize,
    stats: Arc<SlotStats>,
}

#[derive(Default)]
struct Inner {
    /// The slot's state. `None`: somebody works on it, or the slot is not open yet or any more.
    idle: Option<Box<Shell>>,
    mailbox: VecDeque<Mail>,
    places: Option<Places>,
    /// Takes no more mail.
    closed: bool,
    /// What somebody has begun and could not finish at once: the task goes on with it.
    begun: Option<Begun>,
    /// The commit in flight has ended, and whoever works has not seen it.
    decided: Option<Decided>,
    /// Of who waits for that while it works.
    commit_waker: Option<Waker>,
    /// Of the slot's task.
    task_waker: Option<Waker>,
    /// The task has something to do and could not have the state: nobody else takes it before.
    wanted: bool,
    /// Somebody else's work has panicked; the state is gone.
    panicked: bool,
}

/// What became of mail.
pub(super) enum Put {
    /// It is taken, or waits.
    Done,
    /// Too much waits already.
    Full(Mail),
    /// The slot takes none any more.
    Closed(Mail),
}

/// What the task goes on with.
pub(super) enum Turn {
    /// It has the state.
    Free(Box<Shell>),
    /// It finishes what somebody has begun.
    Begun(Begun),
    /// A panic while somebody else worked: the slot ends as if it had been the task's own.
    Panicked,
}

/// The mailbox's places, by service: one that sends without end must leave some to others.
struct Places {
    share: Share<ServiceName>,
    since: Instant,
}

impl Places {
    /// For so much of one service, and some for the first of another.
    fn new(mailbox_max: usize) -> Self {
        let reserve = (mailbox_max / (slotd_quota::limits::SHARE_RESERVE as usize - 1)).max(1);
        let share = Share::new((mailbox_max + reserve) as u64);
        Self { share, since: crate::clock::now() }
    }

    fn take(&mut self, mail: &Mail) -> bool {
        let passed: Duration = self.since.elapsed();
        mail.service().is_none_or(|service| self.share.take(service, 1, passed))
    }

    fn give_back(&mut self, mail: &Mail) {
        if let Some(service) = mail.service() {
            self.share.give_back(service, 1);
        }
    }
}

impl Shared {
    /// `shares`: the mailbox is divided between services.
    pub fn new(mailbox_max: usize, shares: bool, stats: Arc<SlotStats>) -> Arc<Self> {
        let places = shares.then(|| Places::new(mailbox_max));
        let inner = Mutex::new(Inner { places, ..Inner::default() });
        Arc::new(Self { inner, mailbox_max, stats })
    }

    pub fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }

    pub fn mailbox_depth(&self) -> usize {
        self.stats.waiting.load(Ordering::Relaxed)
    }

    /// Takes mail at once if nobody works on the slot, else as [`Shared::queue`]. Does not wait, but for
    /// a handler's first slice.
    ///
    /// `placed` is called once the mail has its place before all that comes later, and before its handler
    /// runs.
    pub fn put(self: &Arc<Self>, mail: Mail, placed: impl FnOnce()) -> Put {
        let mut inner = self.inner.lock();
        // What waits was there first, be it mail or an order.
        let free = !inner.closed && inner.mailbox.is_empty() && !inner.wanted && mail.is_short();
        if free && let Some(shell) = inner.idle.take_if(|shell| shell.may_take_at_once()) {
            drop(inner);
            placed();
            self.contained(|| self.take_at_once(shell, mail));
            return Put::Done;
        }
        let put = self.push(inner, mail);
        if matches!(put, Put::Done) {
            placed();
        }
        put
    }

    /// Takes mail at once, if nobody works on the slot, until then, and for as long as there is a next one and the slot
    /// can: with few commits for all of it, and with what is around a handler done once.
    pub fn put_ready(self: &Arc<Self>, until: Instant, mut next: impl FnMut() -> Option<Mail>) {
        let mut inner = self.inner.lock();
        let free = !inner.closed && inner.mailbox.is_empty() && !inner.wanted;
        if free && let Some(shell) = inner.idle.take_if(|shell| shell.may_take_at_once()) {
            drop(inner);
            self.contained(|| {
                let mut shell = Some(shell);
                for taken in 1.. {
                    let Some(free) = shell else { return };
                    shell = match next() {
                        Some(mail) => self.begin_at_once(free, mail),
                        None => return self.give_back(free),
                    };
                    let submits = taken % limits::READY_UNCOMMITTED_MAX == 0;
                    shell = shell.and_then(|shell| self.keep(shell, submits, until));
                }
            });
        }
    }

    /// The state again, for the next mail, with the end of a commit that has ended meanwhile. `None`: it has been
    /// given back.
    fn keep(
        self: &Arc<Self>,
        mut shell: Box<Shell>,
        submits: bool,
        until: Instant,
    ) -> Option<Box<Shell>> {
        let mut inner = self.inner.lock();
        let others = inner.closed || inner.wanted || !inner.mailbox.is_empty();
        let decided = inner.decided.take_if(|_| !others);
        drop(inner);
        if let Some(decided) = decided {
            shell.on_committed(decided);
        }
        // Whoever waits for it comes first.
        let ends = others || crate::clock::now() >= until;
        if ends || shell.needs_its_task() || !shell.may_take_at_once() {
            self.give_back(shell);
            return None;
        }
        if submits {
            shell.submit();
        }
        Some(shell)
    }

    /// Puts mail into the mailbox, for the slot's task: who brings it has more to do.
    pub fn queue(&self, mail: Mail) -> Put {
        self.push(self.inner.lock(), mail)
    }

    fn push(&self, mut inner: MutexGuard<'_, Inner>, mail: Mail) -> Put {
        if inner.closed {
            return Put::Closed(mail);
        }
        // What is out of date in a moment takes no place that a message would need.
        let passing_max = self.mailbox_max.div_ceil(limits::MAILBOX_PASSING_SHARE);
        let waiting = inner.mailbox.len();
        let has_place = match &mut inner.places {
            _ if mail.is_passing() && waiting >= passing_max => false,
            Some(places) if mail.service().is_some() => places.take(&mail),
            _ => waiting < self.mailbox_max,
        };
        if !has_place {
            return Put::Full(mail);
        }
        inner.mailbox.push_back(mail);
        self.stats.waiting.store(inner.mailbox.len(), Ordering::Relaxed);
        // Whoever works looks into the mailbox at the end.
        let waker = inner.task_waker.as_ref().filter(|_| inner.idle.is_some()).cloned();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        Put::Done
    }

    /// Does work on the slot's state that is not its task's. A panic ends the slot and nothing else, as if
    /// the task had met it.
    fn contained(&self, work: impl FnOnce()) {
        if panics::contain_sync("slot", work).is_err() {
            let mut inner = self.inner.lock();
            (inner.panicked, inner.closed) = (true, true);
            self.wake_task(inner);
        }
    }

    /// Applies mail where it came in: as far as it gets without waiting.
    fn take_at_once(self: &Arc<Self>, shell: Box<Shell>, mail: Mail) {
        if let Some(shell) = self.begin_at_once(shell, mail) {
            self.give_back(shell);
        }
    }

    /// As [`Shared::take_at_once`], and has the state again; `None`: the slot's task goes on with it.
    fn begin_at_once(self: &Arc<Self>, mut shell: Box<Shell>, mail: Mail) -> Option<Box<Shell>> {
        let mut begun: Begun = Box::pin(async move {
            shell.take(mail).await;
            shell
        });
        // Whoever goes on with it asks again.
        match begun.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(shell) => Some(shell),
            Poll::Pending => {
                let mut inner = self.inner.lock();
                if inner.closed {
                    // The slot's task has gone, and with it who would ever end this one.
                    drop(inner);
                    drop(begun);
                } else {
                    inner.begun = Some(begun);
                    self.wake_task(inner);
                }
                None
            }
        }
    }

    fn wake_task(&self, inner: MutexGuard<'_, Inner>) {
        let waker = inner.task_waker.clone();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Gives the state back, with what filled sent to the log, and has the task do what only it can.
    pub fn give_back(self: &Arc<Self>, mut shell: Box<Shell>) {
        loop {
            shell.submit();
            shell.ask_to_be_woken();
            let mut inner = self.inner.lock();
            if let Some(decided) = inner.decided.take() {
                drop(inner);
                shell.on_committed(decided);
                continue;
            }
            if inner.closed {
                drop(inner);
                return drop(shell);
            }
            let attention = shell.needs_its_task() || !inner.mailbox.is_empty();
            inner.idle = Some(shell);
            let wakes = attention || inner.wanted;
            let waker = inner.task_waker.as_ref().filter(|_| wakes).cloned();
            drop(inner);
            if let Some(waker) = waker {
                waker.wake();
            }
            return;
        }
    }

    /// The commit in flight has ended. Called where the log says so.
    pub fn committed(self: &Arc<Self>, decided: Decided) {
        let mut inner = self.inner.lock();
        match inner.idle.take() {
            Some(mut shell) => {
                drop(inner);
                self.contained(|| {
                    shell.on_committed(decided);
                    self.give_back(shell);
                });
            }
            None => {
                inner.decided = Some(decided);
                let waker = inner.commit_waker.take();
                drop(inner);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        }
    }

    /// For who works: the end of the commit in flight, if the log tells of it here.
    pub fn poll_decided(&self, cx: &mut Context<'_>) -> Poll<Decided> {
        let mut inner = self.inner.lock();
        match inner.decided.take() {
            Some(decided) => Poll::Ready(decided),
            None => {
                if inner.commit_waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                    inner.commit_waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// For who works: the next of what waits.
    pub fn next_mail(&self) -> Option<Mail> {
        let mut inner = self.inner.lock();
        let mail = inner.mailbox.pop_front();
        if let (Some(places), Some(mail)) = (&mut inner.places, &mail) {
            places.give_back(mail);
        }
        if inner.mailbox.is_empty() && inner.mailbox.capacity() > limits::MAILBOX_KEPT {
            inner.mailbox = VecDeque::new();
        }
        self.stats.waiting.store(inner.mailbox.len(), Ordering::Relaxed);
        mail
    }

    /// For the slot's task: has the state when `ready` says that there is something to do with it.
    pub async fn turn(
        &self,
        mut ready: impl FnMut(&mut Shell, bool, &mut Context<'_>) -> bool,
    ) -> Turn {
        poll_fn(|cx| {
            #[cfg(test)]
            self.stats.turns.fetch_add(1, Ordering::Relaxed);
            let mut inner = self.inner.lock();
            if inner.task_waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                inner.task_waker = Some(cx.waker().clone());
            }
            inner.wanted = false;
            if inner.panicked {
                return Poll::Ready(Turn::Panicked);
            }
            if let Some(begun) = inner.begun.take() {
                return Poll::Ready(Turn::Begun(begun));
            }
            let has_mail = !inner.mailbox.is_empty();
            let Inner { idle, wanted, .. } = &mut *inner;
            match idle.take_if(|shell| ready(shell, has_mail, cx)) {
                Some(shell) => Poll::Ready(Turn::Free(shell)),
                None => {
                    *wanted = idle.is_none();
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Takes no more mail; what waits stays, and what has waited on its way here is behind it. What of that has no
    /// place, or comes to a mailbox that is closed, goes back to who sent it, with all that is behind it.
    pub fn close(&self, waiting: Vec<Mail>) {
        let mut inner = self.inner.lock();
        let was_closed = std::mem::replace(&mut inner.closed, true);
        let (mut back, max) = (Vec::new(), self.mailbox_max);
        for mail in waiting {
            let room = !was_closed && back.is_empty() && inner.mailbox.len() < max;
            let has_place = room
                && match &mut inner.places {
                    Some(places) => places.take(&mail),
                    None => true,
                };
            match has_place {
                true => inner.mailbox.push_back(mail),
                false => back.push(mail),
            }
        }
        self.stats.waiting.store(inner.mailbox.len(), Ordering::Relaxed);
        drop(inner);
        for mail in back {
            // One that is asked for from another node finds where the slot goes.
            mail.refuse(Error::of(
                Cause::NotOwner,
                "the slot is leaving this node; nothing was kept",
            ));
        }
    }

    /// The slot has ended: nothing of it is kept.
    pub fn end(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        let Inner { idle, mailbox, places, begun, task_waker, commit_waker, .. } = &mut *inner;
        *places = places.take().map(|_| Places::new(self.mailbox_max));
        let gone = (
            idle.take(),
            std::mem::take(mailbox),
            begun.take(),
            task_waker.take(),
            commit_waker.take(),
        );
        MutexGuard::unlocked(&mut inner, || drop(gone));
        self.stats.waiting.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{message::Consistency, names::SessionKey, operation::Describe, slot::Mailed};
    use tokio::sync::oneshot;

    fn mail(service: &str) -> Mail {
        let key = SessionKey::parse(service, "x").unwrap();
        Describe { key, consistency: Consistency::Current }.mail(oneshot::channel().0)
    }

    fn fill(shared: &Shared, service: &str) -> usize {
        (0..).take_while(|_| matches!(shared.queue(mail(service)), Put::Done)).count()
    }

    /// One service's messages would fill the mailbox of a slot, and all others' there be refused.
    #[test]
    fn a_full_mailbox_has_places_for_another_service() {
        let shared = Shared::new(32, true, Arc::default());
        assert_eq!(fill(&shared, "flood"), 32, "as many as are configured");
        assert!(fill(&shared, "quiet") > 0);
        assert_eq!(fill(&shared, "flood"), 0);
        for _ in 0..24 {
            shared.next_mail().unwrap();
        }
        assert!(fill(&shared, "quiet") >= 8);
        shared.end();
        assert_eq!(shared.mailbox_depth(), 0);
        let without = Shared::new(32, false, Arc::default());
        assert_eq!((fill(&without, "flood"), fill(&without, "quiet")), (32, 0));
    }
}
