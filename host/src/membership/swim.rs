//! SWIM's configuration, and its datagrams: what they contain, and what is taken out of them.

use super::{Timings, id::Id, wire::GOSSIP_BYTES_MAX};
use crate::limits;
use bytes::Buf;
use foca::{Codec, Foca, Message, PostcardCodec, State};
use rand::{SeedableRng, rngs::StdRng};
use std::num::{NonZeroU8, NonZeroUsize};

pub(super) type Swim = Foca<Id, PostcardCodec, StdRng, foca::NoCustomBroadcast>;

/// A SWIM instance that knows nobody yet.
pub(super) fn swim(own: Id, timings: &Timings, rng: &mut StdRng) -> Swim {
    let some = |n: usize| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
    let each = |frequency, n| Some(foca::PeriodicParams { frequency, num_members: some(n) });
    let config = foca::Config {
        probe_period: timings.probe_period,
        probe_rtt: timings.probe_rtt,
        num_indirect_probes: some(3),
        // Enough for clusters of hundreds (4 x log10 of their size); more than needed in small
        // ones.
        max_transmissions: NonZeroU8::new(10).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: timings.suspicion,
        remove_down_after: Some(limits::DEAD_REMEMBERED),
        max_packet_size: some(GOSSIP_BYTES_MAX),
        notify_down_members: true,
        // A feed has at most a dozen members: a node that joined a large cluster asks again for
        // more.
        periodic_announce: each(timings.probe_period * 20, 1),
        // Greetings do this, with an answer for nodes that changed meanwhile.
        periodic_announce_to_down_members: None,
        periodic_gossip: each(timings.gossip_period, 3),
    };
    Foca::new(own, config, StdRng::from_rng(rng), PostcardCodec)
}

/// The same SWIM datagram without the members that it reports dead.
pub(super) fn without_deaths(mut data: &[u8]) -> Option<Vec<u8>> {
    let whole = data;
    let _: foca::Header<Id> = PostcardCodec.decode_header(&mut data).ok()?;
    let mut less = whole.get(..whole.len() - data.len())?.to_vec();
    if data.len() < 2 {
        return None;
    }
    let (mut count, mut kept) = (0u16, Vec::new());
    for _ in 0..data.get_u16() {
        let member: foca::Member<Id> = PostcardCodec.decode_member(&mut data).ok()?;
        if member.state() != State::Down {
            count += 1;
            PostcardCodec.encode_member(&member, &mut kept).ok()?;
        }
    }
    less.extend(count.to_be_bytes());
    less.extend(kept);
    Some(less)
}

/// Parses a SWIM datagram without acting on it: its sender, and the members with their reported
/// state. `None` if it is malformed or names an impossible node.
pub(super) fn inspect(mut body: &[u8]) -> Option<(Id, Vec<(Id, bool)>)> {
    let header: foca::Header<Id> = PostcardCodec.decode_header(&mut body).ok()?;
    let mut updates = Vec::new();
    if header.message != Message::Announce && body.len() >= 2 {
        for _ in 0..body.get_u16() {
            let member: foca::Member<Id> = PostcardCodec.decode_member(&mut body).ok()?;
            updates.push((member.id().clone(), member.state() != State::Down));
        }
    }
    let sound = header.src.is_sound() && updates.iter().all(|(id, _)| id.is_sound());
    (sound && body.is_empty()).then_some((header.src, updates))
}
