//! The batch that fills while the one before it commits.

use crate::{effects::Change, limits, loads::UnderWay, log::record::Record};

/// What one commit makes durable, and the answers that wait for it.
pub(super) struct Filling<H> {
    /// The batch's number within the task, from 1.
    pub number: u64,
    pub records: Vec<Record>,
    /// About how many bytes the records take, and what is kept beside them.
    bytes: usize,
    /// It is appended even without records: what it holds waits for a commit of its own time.
    pub barrier: bool,
    /// It was due before the mail that is being carried out began.
    pub was_due: bool,
    pub gate: Vec<H>,
    /// Whose bytes they are, on a node with shares.
    pub under_way: Vec<UnderWay>,
}

impl<H> Filling<H> {
    pub fn new(number: u64) -> Self {
        Self {
            number,
            records: Vec::new(),
            bytes: 0,
            barrier: false,
            was_due: false,
            gate: Vec::new(),
            under_way: Vec::new(),
        }
    }

    /// Gives about how many bytes it takes.
    pub fn push(&mut self, record: Record) -> usize {
        let bytes = record_bytes(&record);
        self.bytes += bytes;
        self.records.push(record);
        bytes
    }

    pub fn is_under_way(&mut self, bytes: UnderWay) {
        // A batch is of one service as a rule.
        let bytes = match self.under_way.last_mut() {
            Some(last) => last.join(bytes),
            None => Some(bytes),
        };
        self.under_way.extend(bytes);
    }

    pub fn keep_beside(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Whether there is a reason to append it.
    pub fn is_due(&self) -> bool {
        !self.records.is_empty() || self.barrier
    }

    pub fn has_room(&self) -> bool {
        self.records.len().max(self.gate.len()) < limits::BATCH_MESSAGES_MAX
            && self.bytes < limits::BATCH_BYTES_MAX
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
                + entry.page_bytes()
                + entry.caused.iter().map(|it| 16 + it.memory()).sum::<usize>()
                + writes
                    .map(|w| w.key.len() + w.value.as_ref().map_or(0, |v| v.len()))
                    .sum::<usize>()
                + events.map(|e| e.kind.len() + e.body.len()).sum::<usize>()
                + message.effects.iter().map(Change::bytes).sum::<usize>()
        }
        Record::Delete(delete) => {
            RECORD_BYTES + delete.effects.iter().map(Change::bytes).sum::<usize>()
        }
        Record::Effects(effects) => {
            RECORD_BYTES + effects.changes.iter().map(Change::bytes).sum::<usize>()
        }
        _ => RECORD_BYTES,
    }
}
