//! The checker. Linear in the number of calls and events, except for sorting them by time.

use super::{
    History, Kept, Kind, MessageId, Nanos, Outcome, Read, Report, Send, SessionId, Stream,
    Violation,
};
use std::collections::HashMap;

/// Violations that a report shows; the rest is counted.
const SPELLED_OUT_MAX: usize = 40;

/// What all attempts to send a message show about it.
#[derive(Default)]
struct Sent {
    first_begun: Nanos,
    attempts: u32,
    refused: u32,
    acknowledged: Option<(u64, u64)>,
    applied_now: bool,
}

/// One session's part of the history.
struct Session<'a> {
    id: SessionId,
    sends: Vec<&'a Send>,
    reads: Vec<&'a Read>,
    streams: Vec<&'a Stream>,
    kept: &'a [Kept],
}

/// Checks a history.
pub fn check(history: &History) -> Report {
    let mut report = Report::default();
    let mut sessions: Vec<Session> = (0..)
        .zip(&history.kept)
        .map(|(id, kept)| Session {
            id,
            sends: Vec::new(),
            reads: Vec::new(),
            streams: Vec::new(),
            kept,
        })
        .collect();
    for send in &history.sends {
        sessions[send.session as usize].sends.push(send);
    }
    for read in &history.reads {
        sessions[read.session as usize].reads.push(read);
    }
    for stream in &history.streams {
        sessions[stream.session as usize].streams.push(stream);
    }
    for session in &sessions {
        session.check(&mut report);
    }
    report
}

impl Report {
    fn add(&mut self, kind: Kind, session: SessionId, detail: impl FnOnce() -> String) {
        self.violations_total += 1;
        if self.violations.len() < SPELLED_OUT_MAX {
            self.violations.push(Violation { kind, session, detail: detail() });
        }
    }
}

impl<'a> Session<'a> {
    fn check(&self, report: &mut Report) {
        let places = self.check_kept(report);
        let sent = self.check_sends(&places, report);
        self.check_presence(&sent, &places, report);
        // When each number was first known to a client.
        let mut known = vec![Nanos::MAX; self.kept.len() + 1];
        self.check_reads(&mut known, report);
        for stream in &self.streams {
            self.check_stream(stream, &mut known, report);
        }
        self.check_order(&sent, known, report);
    }

    /// The message under a number.
    fn at(&self, seq: u64) -> Option<&'a Kept> {
        self.kept.get(usize::try_from(seq).ok()?.checked_sub(1)?)
    }

    /// Checks the final reading alone. Returns the (first) number of every message.
    fn check_kept(&self, report: &mut Report) -> HashMap<MessageId, u64> {
        let mut places = HashMap::with_capacity(self.kept.len());
        for (kept, place) in self.kept.iter().zip(1_u64..) {
            if kept.seq != place {
                report.add(Kind::Gap, self.id, || format!("{} in place {place}", kept.seq));
            }
            if let Some(before) = places.insert(kept.message, place) {
                report.add(Kind::Doubled, self.id, || {
                    format!("message {} has the numbers {before} and {place}", kept.message)
                });
                places.insert(kept.message, before);
            }
        }
        places
    }

    /// Checks every answer against the final reading and against other answers to the same message.
    fn check_sends(
        &self,
        places: &HashMap<MessageId, u64>,
        report: &mut Report,
    ) -> HashMap<MessageId, Sent> {
        let mut all: HashMap<MessageId, Sent> = HashMap::with_capacity(self.kept.len());
        for send in &self.sends {
            let message = send.message;
            let sent = all.entry(message).or_default();
            sent.first_begun =
                if sent.attempts == 0 { send.begun } else { sent.first_begun.min(send.begun) };
            sent.attempts += 1;
            let Outcome::Acknowledged { seq, replayed, reply, counted } = send.outcome else {
                let refused = send.outcome == Outcome::Refused;
                sent.refused += u32::from(refused);
                report.refused += u64::from(refused);
                report.unknown += u64::from(!refused);
                continue;
            };
            let before = sent.acknowledged.get_or_insert((seq, reply));
            if *before != (seq, reply) {
                report.add(Kind::RepeatDiffers, self.id, || {
                    format!("message {message}: first {before:?}, then {:?}", (seq, reply))
                });
            }
            if !replayed && std::mem::replace(&mut sent.applied_now, true) {
                report.add(Kind::AppliedTwice, self.id, || format!("message {message}, {seq}"));
            }
            if counted.is_some_and(|counted| counted != seq) {
                report.add(Kind::Miscounted, self.id, || {
                    format!("message {message} has number {seq} and counts {counted:?}")
                });
            }
            match places.get(&message) {
                None => report.add(Kind::Lost, self.id, || {
                    format!("message {message}, acknowledged as {seq} of now {}", self.kept.len())
                }),
                Some(&place) if self.at(seq).is_none_or(|kept| kept.message != message) => {
                    report.add(Kind::Moved, self.id, || {
                        format!("message {message}, acknowledged as {seq}, is {place}")
                    });
                }
                Some(_) if self.at(seq).is_some_and(|kept| kept.reply != reply) => {
                    report.add(Kind::ReplyDiffers, self.id, || format!("message {message}, {seq}"));
                }
                Some(_) => {}
            }
        }
        all
    }

    /// Everything stored must have been sent, and not refused.
    fn check_presence(
        &self,
        all: &HashMap<MessageId, Sent>,
        places: &HashMap<MessageId, u64>,
        report: &mut Report,
    ) {
        report.messages += all.len() as u64;
        for (message, sent) in all {
            let kept = places.contains_key(message);
            report.acknowledged += u64::from(sent.acknowledged.is_some());
            report.unknown_kept += u64::from(kept && sent.acknowledged.is_none());
            if kept && sent.refused == sent.attempts {
                report.add(Kind::Resurrected, self.id, || format!("message {message}"));
            }
        }
        for kept in self.kept.iter().filter(|kept| !all.contains_key(&kept.message)) {
            report.add(Kind::Foreign, self.id, || format!("{kept:?}"));
        }
    }

    /// Records that a number was known to a client, if it is stored in the end.
    fn note(&self, known: &mut [Nanos], seq: u64, at: Nanos, report: &mut Report) -> bool {
        if seq == 0 {
            return true;
        }
        match usize::try_from(seq).ok().and_then(|seq| known.get_mut(seq)) {
            Some(first) => {
                *first = at.min(*first);
                true
            }
            None => {
                report.add(Kind::Ahead, self.id, || {
                    format!("{seq} was shown at {at}, the end is {}", self.kept.len())
                });
                false
            }
        }
    }

    fn check_reads(&self, known: &mut [Nanos], report: &mut Report) {
        report.reads += self.reads.len() as u64;
        // What is public from a time on: acknowledgements, answered reads, events.
        let mut facts: Vec<(Nanos, u64)> = Vec::with_capacity(self.sends.len() + self.reads.len());
        for send in &self.sends {
            if let Outcome::Acknowledged { seq, .. } = send.outcome {
                facts.push((send.ended, seq));
                if let Some(first) = known.get_mut(usize::try_from(seq).unwrap_or(usize::MAX)) {
                    *first = send.ended.min(*first);
                }
            }
        }
        for read in &self.reads {
            if self.note(known, read.last_seq, read.ended, report) {
                facts.push((read.ended, read.last_seq));
            }
            self.check_page(read, report);
        }
        for stream in &self.streams {
            facts.extend(stream.events.iter().map(|event| (event.at, event.seq)));
        }
        facts.sort_unstable();
        let mut reads = self.reads.clone();
        reads.sort_unstable_by_key(|read| read.begun);
        let mut facts = facts.into_iter().peekable();
        let mut must = (0, 0);
        for read in reads {
            while let Some(fact) = facts.next_if(|&(at, _)| at < read.begun) {
                must = if fact.1 > must.1 { fact } else { must };
            }
            if !read.stale_allowed && read.last_seq < must.1 {
                report.add(Kind::StaleRead, self.id, || {
                    format!(
                        "a read from {} to {} saw {}; {} was known at {}",
                        read.begun, read.ended, read.last_seq, must.1, must.0
                    )
                });
            }
        }
    }

    /// Checks a page of history against itself and the final reading.
    fn check_page(&self, read: &Read, report: &mut Report) {
        let mut before = None;
        for &(seq, message) in &read.entries {
            if before.is_some_and(|before| seq != before + 1) || seq > read.last_seq {
                report.add(Kind::TornRead, self.id, || {
                    format!("{seq} comes after {before:?}, the end is {}", read.last_seq)
                });
            }
            before = Some(seq);
            if self.at(seq).is_some_and(|kept| kept.message != message) {
                report.add(Kind::Changed, self.id, || format!("{seq} was message {message}"));
            }
        }
    }

    fn check_stream(&self, stream: &Stream, known: &mut [Nanos], report: &mut Report) {
        report.events += stream.events.len() as u64;
        let first = usize::try_from(stream.after).unwrap_or(usize::MAX).min(self.kept.len());
        let mut expected = self.kept[first..]
            .iter()
            .flat_map(|kept| (0..kept.events).map(|index| (kept.seq, index)))
            .peekable();
        for event in &stream.events {
            let place = (event.seq, event.index);
            if !self.note(known, event.seq, event.at, report) {
                continue;
            }
            if self.at(event.seq).is_some_and(|kept| kept.message != event.message) {
                report.add(Kind::Changed, self.id, || format!("{event:?}"));
            }
            let missed = expected.peek().copied().filter(|next| *next < place);
            while expected.next_if(|next| *next < place).is_some() {}
            if let Some(missed) = missed {
                report.add(Kind::EventGap, self.id, || format!("{missed:?} before {event:?}"));
            }
            if expected.next_if(|next| *next == place).is_none() {
                report.add(Kind::EventRepeat, self.id, || format!("{event:?}"));
            }
        }
        if let Some(next) = expected.next().filter(|_| stream.to_the_end) {
            report.add(Kind::EventsMissing, self.id, || {
                format!("from {next:?} on, of a stream after {}", stream.after)
            });
        }
    }

    /// Checks the order of the numbers against real time.
    fn check_order(&self, sent: &HashMap<MessageId, Sent>, known: Vec<Nanos>, report: &mut Report) {
        // The earliest time at which a number above the present one was known, and that number.
        let mut earliest = (Nanos::MAX, 0);
        for (kept, &own) in self.kept.iter().zip(known.iter().skip(1)).rev() {
            let Some(sent) = sent.get(&kept.message) else { continue };
            let begun = sent.first_begun;
            if own < begun {
                report.add(Kind::Ahead, self.id, || {
                    format!("{} was known at {own} and sent at {begun}", kept.seq)
                });
            } else if earliest.0 < begun {
                report.add(Kind::OutOfOrder, self.id, || {
                    format!(
                        "{} was sent at {begun}; {} was known at {}",
                        kept.seq, earliest.1, earliest.0
                    )
                });
            }
            earliest = earliest.min((own, kept.seq));
        }
    }
}
