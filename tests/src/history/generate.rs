//! Histories that a correct cluster could produce, and ways to introduce a violation.

use super::{History, Kept, Kind, Nanos, Outcome, Read, Seen, Send, SessionId, Stream};
use crate::load::Random;
use std::collections::HashMap;

const SESSIONS: u64 = 3;

/// The fate of an attempt to send.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Acknowledged,
    /// The answer is lost; the message may be applied after its client has given up.
    Applied,
    Lost,
    Refused,
}

enum Step {
    Send(Fate, u64),
    Read { stale_allowed: bool, entries: u64 },
}

/// A call with the moment at which it takes effect.
struct Call {
    session: SessionId,
    begun: Nanos,
    effect: Nanos,
    ended: Nanos,
    step: Step,
}

pub fn events_of(message: u64) -> u32 {
    (message % 3) as u32
}

fn reply_of(message: u64) -> u64 {
    message.wrapping_mul(31) + 7
}

/// A history of about `calls` calls by clients that overlap.
pub fn good(seed: u64, calls: usize) -> History {
    let mut random = Random::new(seed);
    let mut planned = plan(&mut random, calls);
    planned.sort_by_key(|call| call.effect);
    let mut history = History { kept: vec![Vec::new(); SESSIONS as usize], ..History::default() };
    let mut places: HashMap<u64, u64> = HashMap::new();
    let mut effects: Vec<Vec<Nanos>> = vec![Vec::new(); SESSIONS as usize];
    for call in planned {
        let Call { session, begun, effect, ended, step } = call;
        let kept = &mut history.kept[session as usize];
        match step {
            Step::Send(fate, message) => {
                let replayed = places.contains_key(&message);
                if !replayed && matches!(fate, Fate::Acknowledged | Fate::Applied) {
                    let (seq, events) = (kept.len() as u64 + 1, events_of(message));
                    kept.push(Kept { seq, message, reply: reply_of(message), events });
                    effects[session as usize].push(effect);
                    places.insert(message, seq);
                }
                let outcome = match fate {
                    Fate::Acknowledged => Outcome::Acknowledged {
                        seq: places[&message],
                        replayed,
                        reply: reply_of(message),
                        counted: message.is_multiple_of(2).then(|| places[&message]),
                    },
                    Fate::Applied | Fate::Lost => Outcome::Unknown,
                    Fate::Refused => Outcome::Refused,
                };
                history.sends.push(Send { session, message, begun, ended, outcome });
            }
            Step::Read { stale_allowed, entries } => {
                let now = kept.len() as u64;
                let last_seq = if stale_allowed { random.below(now + 1) } else { now };
                let from = last_seq.saturating_sub(entries) as usize;
                let page = kept[from..last_seq as usize].iter();
                let entries = page.map(|kept| (kept.seq, kept.message)).collect();
                let read = Read { session, begun, ended, stale_allowed, last_seq, entries };
                history.reads.push(read);
            }
        }
    }
    for (session, effects) in (0..).zip(&effects) {
        for _ in 0..3 {
            let stream = stream(&mut random, session, &history.kept[session as usize], effects);
            history.streams.push(stream);
        }
    }
    history
}

fn plan(random: &mut Random, calls: usize) -> Vec<Call> {
    let mut planned = Vec::with_capacity(calls + calls / 4);
    for message in 0..calls as u64 {
        let session = random.below(SESSIONS) as SessionId;
        let mut begun = message * 10 + random.below(200);
        let again = random.below(4) == 0;
        for attempt in 0..3 {
            let effect = begun + 1 + random.below(100);
            let ended = effect + 1 + random.below(100);
            let fate = match random.below(8) {
                0 => Fate::Applied,
                1 => Fate::Lost,
                2 => Fate::Refused,
                _ => Fate::Acknowledged,
            };
            let step = match random.below(4) {
                0 if attempt == 0 => {
                    let stale_allowed = random.below(3) == 0;
                    Step::Read { stale_allowed, entries: random.below(4) }
                }
                _ => Step::Send(fate, message),
            };
            let late = u64::from(fate == Fate::Applied) * random.below(400);
            let read = matches!(step, Step::Read { .. });
            let effect = if read { effect } else { effect + late };
            planned.push(Call { session, begun, effect, ended, step });
            if read || !again && fate == Fate::Acknowledged {
                break;
            }
            begun = ended + 1 + random.below(50);
        }
    }
    planned
}

fn stream(random: &mut Random, session: SessionId, kept: &[Kept], effects: &[Nanos]) -> Stream {
    let after = random.below(kept.len() as u64 + 1);
    let mut at = 0;
    let mut events = Vec::new();
    for (kept, effect) in kept.iter().zip(effects).skip(after as usize) {
        at = at.max(*effect) + random.below(30);
        events.extend((0..kept.events).map(|index| Seen {
            at,
            seq: kept.seq,
            index,
            message: kept.message,
        }));
    }
    let to_the_end = random.below(2) == 0;
    if !to_the_end {
        events.truncate(random.below(events.len() as u64 + 1) as usize);
    }
    Stream { session, after, events, to_the_end }
}

/// Creates a violation of this kind, if the history permits one.
pub fn spoil(history: &mut History, kind: Kind, seed: u64) -> Option<()> {
    let mut random = Random::new(seed);
    let mut pick = |count: usize| (count > 0).then(|| random.below(count as u64) as usize);
    let acknowledged: Vec<usize> = (0..history.sends.len())
        .filter(|&at| matches!(history.sends[at].outcome, Outcome::Acknowledged { .. }))
        .collect();
    let at = acknowledged[pick(acknowledged.len())?];
    let send = history.sends[at].clone();
    let Outcome::Acknowledged { seq, reply, .. } = send.outcome else { return None };
    let session = send.session;
    let kept = &mut history.kept[session as usize];
    let (place, length) = (seq as usize - 1, kept.len() as u64);
    let read = |begun, last_seq, entries| Read {
        session,
        begun,
        ended: begun + 1,
        stale_allowed: false,
        last_seq,
        entries,
    };
    let end = 1_000_000_000;
    let mut streams = history.streams.iter_mut().filter(|stream| stream.session == session);
    match kind {
        Kind::Lost => {
            kept.remove(place);
            kept.iter_mut().zip(1..).for_each(|(kept, seq)| kept.seq = seq);
        }
        Kind::Moved => {
            let other = (place + 1) % kept.len();
            (other != place).then_some(())?;
            let (message, moved) = (kept[place].message, kept[other].message);
            (kept[place].message, kept[other].message) = (moved, message);
        }
        Kind::Doubled => kept.push(Kept { seq: length + 1, ..kept[place] }),
        Kind::Resurrected => {
            let message = send.message;
            for send in history.sends.iter_mut().filter(|send| send.message == message) {
                send.outcome = Outcome::Refused;
            }
        }
        Kind::Foreign => kept.push(Kept { seq: length + 1, message: end, ..kept[place] }),
        Kind::Gap => kept[place].seq += 1,
        Kind::OutOfOrder => {
            // Only the senders know, and the later one was sent after the earlier one.
            history.reads.retain(|read| read.session != session);
            history.streams.retain(|stream| stream.session != session);
            let begun = |message| {
                let sends = history.sends.iter().filter(move |send| send.message == message);
                sends.map(|send| send.begun).min()
            };
            let later = kept[place + 1..]
                .iter()
                .find(|later| begun(later.message).is_some_and(|begun| begun > send.ended))?;
            let (first, second) = (kept[place].message, later.message);
            let (a, b) = (place, later.seq as usize - 1);
            (kept[a].message, kept[b].message) = (second, first);
            (kept[a].reply, kept[b].reply) = (kept[b].reply, kept[a].reply);
            for send in &mut history.sends {
                if let Outcome::Acknowledged { seq, counted, .. } = &mut send.outcome {
                    let other = if send.message == first { b } else { a } as u64 + 1;
                    if send.message == first || send.message == second {
                        *seq = other;
                        *counted = None;
                    }
                }
            }
        }
        Kind::AppliedTwice | Kind::RepeatDiffers => {
            let other = reply + u64::from(kind == Kind::RepeatDiffers);
            let now = |reply| Outcome::Acknowledged { seq, replayed: false, reply, counted: None };
            history.sends[at].outcome = now(reply);
            history.sends.push(Send { outcome: now(other), ..send });
        }
        Kind::ReplyDiffers => kept[place].reply += 1,
        Kind::Miscounted => {
            let counted = Some(seq + 1);
            history.sends[at].outcome =
                Outcome::Acknowledged { seq, replayed: true, reply, counted };
        }
        Kind::StaleRead => history.reads.push(read(send.ended + 1, seq - 1, Vec::new())),
        Kind::Ahead if seed.is_multiple_of(2) => {
            history.reads.push(read(end, length + 1, Vec::new()))
        }
        Kind::Ahead => {
            let message = kept[place].message;
            let sends = history.sends.iter().filter(|send| send.message == message);
            let begun = sends.map(|send| send.begun).min()?;
            history.reads.push(Read { ended: begun.checked_sub(1)?, ..read(0, seq, Vec::new()) });
        }
        Kind::TornRead => {
            let first = (1, kept[0].message);
            let other = kept.get(2).map_or((3, end), |kept| (kept.seq, kept.message));
            let last_seq = if seed.is_multiple_of(2) { length } else { 0 };
            history.reads.push(read(end, last_seq, vec![first, other]));
        }
        Kind::Changed if seed.is_multiple_of(2) => {
            history.reads.push(read(end, length, vec![(seq, end)]))
        }
        Kind::Changed => {
            let stream = streams.find(|stream| !stream.events.is_empty())?;
            let event = pick(stream.events.len())?;
            stream.events[event].message = end;
        }
        Kind::EventGap => {
            let stream = streams.find(|stream| stream.events.len() > 1)?;
            let event = pick(stream.events.len() - 1)?;
            stream.events.remove(event);
        }
        Kind::EventRepeat => {
            let stream = streams.find(|stream| !stream.events.is_empty())?;
            let event = pick(stream.events.len())?;
            let again = stream.events[event];
            let to = event + 1 + pick(stream.events.len() - event)?;
            stream.events.insert(to, again);
        }
        Kind::EventsMissing => {
            let stream = streams.find(|stream| stream.to_the_end && !stream.events.is_empty())?;
            let left = pick(stream.events.len())?;
            stream.events.truncate(left);
        }
    }
    Some(())
}
