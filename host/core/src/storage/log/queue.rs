//! What waits for the committer, and when it begins: a commit of several batches is followed by one that
//! waits a moment for as many.
//!
//! Under load the slots that a commit has answered send their next batches within a fraction of the
//! time of a commit. Without the wait the next commit takes the few that came while the last was being written,
//! and each pays more of the sync and of the thread switches. Where the last commit had one batch, nobody waits.

use super::Request;
use crate::limits;
use parking_lot::{Condvar, Mutex};
use std::{collections::VecDeque, time::Duration};

/// Requests for the committer, in order of arrival. Bounded.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    max: usize,
    gather: Duration,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<Request>,
    stopped: bool,
    /// The committer is woken when so many wait; 0: it does not sleep.
    wanted: usize,
}

/// Why a request was not queued; it comes back.
pub(super) enum Refused {
    Closed(Request),
    Full(Request),
}

impl Queue {
    pub fn new(max: usize) -> Self {
        Self::gathering(max, limits::COMMIT_GATHER_MAX)
    }

    fn gathering(max: usize, gather: Duration) -> Self {
        Self { waiting: Mutex::default(), wake: Condvar::new(), max, gather }
    }

    /// # Errors
    /// The queue is full or closed.
    pub fn push(&self, request: Request) -> Result<(), Refused> {
        let mut waiting = self.waiting.lock();
        if waiting.stopped {
            return Err(Refused::Closed(request));
        }
        if waiting.requests.len() >= self.max {
            return Err(Refused::Full(request));
        }
        waiting.requests.push(request);
        let enough = waiting.requests.len() == waiting.wanted;
        drop(waiting);
        if enough {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Nothing is queued any more; what is there is still taken.
    pub fn close(&self) {
        self.waiting.lock().stopped = true;
        self.wake.notify_all();
    }

    /// Waits for something to commit, and adds all that is there to `held`, which the last commit left. `last` is how
    /// many batches that had. `false`: the queue is closed, and nothing is left.
    pub fn take(&self, held: &mut VecDeque<Request>, last: usize) -> bool {
        let mut waiting = self.waiting.lock();
        // What the last commit left all of waits for the store, which says nothing when it has caught up.
        if last == 0 && !held.is_empty() && waiting.requests.is_empty() {
            waiting.wanted = 1;
            let _ = self.wake.wait_for(&mut waiting, limits::LARGE_BATCH_LOOK);
        }
        while waiting.requests.is_empty() && held.is_empty() {
            if waiting.stopped {
                return false;
            }
            waiting.wanted = 1;
            self.wake.wait(&mut waiting);
        }
        // One batch is no sign that others come.
        let wanted = if last > 1 { last.saturating_sub(held.len()) } else { 0 };
        if waiting.requests.len() < wanted && !waiting.stopped {
            waiting.wanted = wanted;
            let until = crate::clock::now() + self.gather;
            while waiting.requests.len() < wanted
                && !waiting.stopped
                && !self.wake.wait_until(&mut waiting, until).timed_out()
            {}
        }
        waiting.wanted = 0;
        held.extend(waiting.requests.drain(..));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Answer, Kind},
        *,
    };
    use std::{sync::Arc, thread};

    const LONG: Duration = Duration::from_secs(3_600);

    fn request(slot: u16) -> Request {
        let kind = Kind::Append { term: 1, after: 0, batch: bytes::Bytes::new() };
        Request { slot, kind, answer: Answer::waiter().0 }
    }

    fn push(queue: &Queue, slot: u16) {
        assert!(queue.push(request(slot)).is_ok());
    }

    /// A single client would wait for others that never come.
    #[test]
    fn a_commit_of_one_batch_is_not_waited_for() {
        let (queue, mut held) = (Queue::gathering(8, LONG), VecDeque::new());
        push(&queue, 0);
        assert!(queue.take(&mut held, 1) && held.len() == 1);
    }

    /// Otherwise each commit under load takes only what came while the last one was written.
    #[test]
    fn a_commit_waits_for_as_many_batches_as_the_last_one_had() {
        let queue = Arc::new(Queue::gathering(8, LONG));
        push(&queue, 0);
        let taken = {
            let queue = queue.clone();
            thread::spawn(move || {
                let mut held = VecDeque::new();
                queue.take(&mut held, 3).then_some(held.len())
            })
        };
        push(&queue, 1);
        push(&queue, 2);
        assert_eq!(taken.join().unwrap(), Some(3));
    }

    /// Clients may have gone: what is there must not wait for them.
    #[test]
    fn the_wait_for_others_ends() {
        let (queue, mut held) = (Queue::gathering(8, Duration::from_micros(1)), VecDeque::new());
        push(&queue, 0);
        assert!(queue.take(&mut held, 3) && held.len() == 1);
        // What the last commit left counts, too.
        let queue = Queue::gathering(8, LONG);
        push(&queue, 1);
        assert!(queue.take(&mut held, 2) && held.len() == 2);
    }

    /// A node that stops would wait for its committer.
    #[test]
    fn a_closed_queue_gives_what_is_left_and_ends() {
        let (queue, mut held) = (Queue::gathering(1, LONG), VecDeque::new());
        push(&queue, 0);
        assert!(matches!(queue.push(request(1)), Err(Refused::Full(_))));
        queue.close();
        assert!(matches!(queue.push(request(1)), Err(Refused::Closed(_))));
        assert!(queue.take(&mut held, 8) && held.len() == 1);
        held.clear();
        assert!(!queue.take(&mut held, 8));
    }
}
