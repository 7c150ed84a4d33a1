//! The batch that fills while the one before it commits, and the output gate: what may leave only
//! once the batch is durable.

use crate::{
    error::{Cause, Error},
    limits,
    log::record::Record,
    message::Sent,
    slot::Reply,
};

/// Is told why the batch is not durable, or that it is.
type Later = Box<dyn FnOnce(Option<&Error>) + Send>;

/// An answer that waits behind the gate.
enum Held {
    /// A new message's: nearly all there are.
    Sent(Reply<Sent>, Sent),
    Other(Later),
}

impl Held {
    /// The asker may have gone away meanwhile: nothing to do about it.
    fn answer(self, failed: Option<&Error>) {
        match (self, failed) {
            (Held::Sent(reply, sent), None) => drop(reply.send(Ok(sent))),
            (Held::Sent(reply, _), Some(error)) => drop(reply.send(Err(error.clone()))),
            (Held::Other(answer), failed) => answer(failed),
        }
    }
}

/// What one commit makes durable, and the answers that wait for it.
#[derive(Default)]
pub struct Building {
    /// The batch's number within the task, from 1.
    pub number: u64,
    pub records: Vec<Record>,
    /// About how many bytes the records take.
    bytes: usize,
    /// It is appended even without records: what it holds waits for a commit of its own time.
    pub barrier: bool,
    gate: Gate,
}

impl Building {
    pub fn new(number: u64) -> Self {
        Self { number, ..Self::default() }
    }

    pub fn push(&mut self, record: Record) {
        self.bytes += record_bytes(&record);
        self.records.push(record);
    }

    /// Holds an answer until this batch is durable; if it is not, the asker gets the error.
    pub fn hold<T: Send + 'static>(&mut self, reply: Reply<T>, answer: Result<T, Error>) {
        self.gate.hold(reply, answer);
    }

    /// As [`Building::hold`], for what a new message is answered.
    pub fn hold_sent(&mut self, reply: Reply<Sent>, sent: Sent) {
        self.gate.0.push(Held::Sent(reply, sent));
    }

    /// As [`Building::hold`], for the answer of a read: nothing of it can be kept or lost.
    pub fn hold_read<T: Send + 'static>(&mut self, reply: Reply<T>, answer: Result<T, Error>) {
        self.gate.hold_read(reply, answer);
    }

    pub fn has_records(&self) -> bool {
        !self.records.is_empty()
    }

    /// Whether there is a reason to append it.
    pub fn is_due(&self) -> bool {
        self.has_records() || self.barrier
    }

    pub fn take_gate(&mut self) -> Gate {
        std::mem::take(&mut self.gate)
    }

    pub fn has_room(&self) -> bool {
        self.records.len().max(self.gate.len()) < limits::BATCH_MESSAGES_MAX
            && self.bytes < limits::BATCH_BYTES_MAX
    }
}

/// The answers of one batch.
#[derive(Default)]
pub struct Gate(Vec<Held>);

impl Gate {
    /// Holds an answer until the batch is durable; if it is not, the asker gets the error.
    pub fn hold<T: Send + 'static>(&mut self, reply: Reply<T>, answer: Result<T, Error>) {
        self.0.push(Held::Other(Box::new(move |failed| {
            let answer = match failed {
                // A refusal that rests on uncommitted state is as void as an answer.
                Some(error) => Err(error.clone()),
                None => answer,
            };
            let _ = reply.send(answer);
        })));
    }

    fn hold_read<T: Send + 'static>(&mut self, reply: Reply<T>, answer: Result<T, Error>) {
        self.0.push(Held::Other(Box::new(move |failed| {
            let answer = match failed {
                Some(error) if error.is(Cause::Undecided) => Err(Error::of(
                    Cause::Storage,
                    "the log did not confirm in time that this node still owns the slot",
                )),
                Some(error) => Err(error.clone()),
                None => answer,
            };
            let _ = reply.send(answer);
        })));
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The batch is durable: everything leaves.
    pub fn open(self) {
        self.0.into_iter().for_each(|held| held.answer(None));
    }

    /// The batch is not durable, or nobody knows: every asker is told.
    pub fn refuse(self, error: &Error) {
        self.0.into_iter().for_each(|held| held.answer(Some(error)));
    }
}

/// What an asker is told when its batch failed with `error`.
pub fn commit_error(error: &crate::log::LogError) -> Error {
    use crate::log::LogError;
    match error {
        LogError::Fenced { .. } => Error::of(
            Cause::NotOwner,
            "another node has taken over the slot; the message was not kept",
        ),
        LogError::Unavailable(why) => Error::of(
            Cause::Storage,
            format!("the log refused the write; the message was not kept: {why}"),
        ),
        LogError::Undecided(why) => Error::of(
            Cause::Undecided,
            format!(
                "the write failed and may or may not be durable; \
                 repeat the message with the same idempotency key: {why}"
            ),
        ),
        LogError::Trimmed { .. } => Error::internal(error.to_string()),
        LogError::Corrupt(why) => Error::internal(format!("the log is damaged: {why}")),
    }
}

fn record_bytes(record: &Record) -> usize {
    const RECORD_BYTES: usize = 96;
    match record {
        Record::Message(message) => {
            let entry = &message.entry;
            let writes = message.writes.iter();
            let events = entry.events.iter();
            RECORD_BYTES
                + entry.body.len()
                + entry.reply.len()
                + writes
                    .map(|w| w.key.len() + w.value.as_ref().map_or(0, |v| v.len()))
                    .sum::<usize>()
                + events.map(|e| e.kind.len() + e.body.len()).sum::<usize>()
        }
        _ => RECORD_BYTES,
    }
}
