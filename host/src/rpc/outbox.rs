//! The write queue of one link, and how it is packed into frames.
//!
//! Senders push items here; the link's connection takes as many as are ready whenever it can
//! write, so the frames grow with the load. Three lanes: control messages of the link go
//! first; requests, small answers and live items keep their order; large answers go last, a piece
//! of one of them in each frame, so that they delay nothing else for long and starve nobody.

use super::proto::{Frame, Item, kind};
use crate::{limits, telemetry::metrics};
use futures_util::Stream;
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

// A full frame, an item more with its head, and a piece with its head.
const _: () =
    assert!(limits::PEER_FRAME_BYTES + 4 * limits::PEER_PIECE_BYTES < limits::PEER_FRAME_BYTES_MAX);

#[derive(Default)]
pub(super) struct Outbox(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    urgent: VecDeque<Item>,
    ordered: VecDeque<Item>,
    bulk: VecDeque<Item>,
    /// Of `ordered` and `bulk`.
    bytes: usize,
    /// The id of the last item of `ordered` of which something was written.
    written: u64,
    items: u64,
    frames: u64,
    closed: bool,
    /// Of the connection that writes.
    writer: Option<Waker>,
    /// Of the one that waits for room.
    producer: Option<Waker>,
}

/// What an outbox did.
#[derive(Default)]
pub(super) struct Counts {
    /// Items in order that wait.
    pub waiting: usize,
    /// Items and frames that were written.
    pub items: u64,
    pub frames: u64,
}

impl Outbox {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Goes before everything else. For words about the link, which its own rules bound.
    pub fn urgent(&self, item: Item) {
        self.push(|queue| queue.urgent.push_back(item));
    }

    /// Keeps the order of these calls.
    pub fn ordered(&self, item: Item) {
        self.push(|queue| {
            queue.bytes += item.cost();
            queue.ordered.push_back(item);
        });
    }

    /// May be overtaken by everything else.
    pub fn bulk(&self, item: Item) {
        self.push(|queue| {
            queue.bytes += item.cost();
            queue.bulk.push_back(item);
        });
    }

    /// As [`Outbox::ordered`], within the bounds of a caller's queue.
    ///
    /// # Errors
    /// The queue is full: the item was not taken.
    pub fn offer(&self, item: Item) -> Result<(), &'static str> {
        let mut full = None;
        self.push(|queue| {
            if queue.ordered.len() >= limits::PEER_QUEUE_ITEMS_MAX {
                full = Some("its queue is full");
            } else if queue.bytes.saturating_add(item.cost()) > limits::PEER_QUEUE_BYTES_MAX {
                full = Some("its queue has too many bytes");
            } else {
                queue.bytes += item.cost();
                queue.ordered.push_back(item);
            }
        });
        full.map_or(Ok(()), Err)
    }

    fn push(&self, add: impl FnOnce(&mut Queue)) {
        let writer = {
            let mut queue = self.0.lock();
            if queue.closed {
                return;
            }
            add(&mut queue);
            queue.writer.take()
        };
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// Takes back an item that was offered, if nothing of it was written. Ids must have been
    /// offered in rising order.
    pub fn withdraw(&self, id: u64) -> bool {
        let queue = &mut *self.0.lock();
        if id <= queue.written {
            return false;
        }
        let Ok(at) = queue.ordered.binary_search_by_key(&id, |item| item.id) else { return false };
        let Some(item) = queue.ordered.remove(at) else { return false };
        queue.bytes -= item.cost();
        true
    }

    /// The id of the last item of those in order of which something was written.
    pub fn written(&self) -> u64 {
        self.0.lock().written
    }

    pub fn counts(&self) -> Counts {
        let queue = self.0.lock();
        Counts { waiting: queue.ordered.len(), items: queue.items, frames: queue.frames }
    }

    pub fn has_room(&self) -> bool {
        self.0.lock().bytes < limits::PEER_ANSWER_BYTES_MAX
    }

    /// Resolves when less than [`limits::PEER_ANSWER_BYTES_MAX`] waits. One task may wait.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.0.lock();
        if queue.bytes < limits::PEER_ANSWER_BYTES_MAX {
            return Poll::Ready(());
        }
        queue.producer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Nothing more is taken; what waits is still written, then the stream ends.
    pub fn close(&self) {
        let writer = {
            let mut queue = self.0.lock();
            queue.closed = true;
            queue.writer.take()
        };
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    pub fn is_closed(&self) -> bool {
        self.0.lock().closed
    }

    /// What the connection writes.
    pub fn stream(self: &Arc<Self>) -> Frames {
        Frames(self.clone())
    }
}

/// The frames of an [`Outbox`], each made when it can be written.
pub(super) struct Frames(Arc<Outbox>);

impl Stream for Frames {
    type Item = Frame;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        let (frame, bytes, producer) = {
            let queue = &mut *self.0.0.lock();
            let (items, bytes) = queue.pack();
            if items.is_empty() {
                if queue.closed {
                    return Poll::Ready(None);
                }
                queue.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            queue.items += items.len() as u64;
            queue.frames += 1;
            let room = queue.bytes < limits::PEER_ANSWER_BYTES_MAX;
            (Frame { items }, bytes, if room { queue.producer.take() } else { None })
        };
        if let Some(producer) = producer {
            producer.wake();
        }
        let metrics = metrics();
        metrics.peer_frames_out.increment(1);
        metrics.peer_bytes_out.increment(bytes as u64);
        metrics.peer_frame_items.record(frame.items.len() as f64);
        Poll::Ready(Some(frame))
    }
}

impl Queue {
    /// The items of the next frame, and their bytes. At most [`limits::PEER_FRAME_BYTES`] in
    /// order, an item more, and a piece.
    fn pack(&mut self) -> (Vec<Item>, usize) {
        let mut items = Vec::with_capacity(
            self.urgent.len().min(64) + self.ordered.len().min(64) + self.bulk.len().min(1),
        );
        let mut bytes = 0;
        while bytes < limits::PEER_FRAME_BYTES {
            let Some(item) = self.urgent.pop_front() else { break };
            bytes += item.cost();
            items.push(item);
        }
        while bytes < limits::PEER_FRAME_BYTES {
            let Some(item) = self.ordered.pop_front() else { break };
            self.written = item.id;
            self.bytes -= item.cost();
            let (piece, rest) = split(item);
            if let Some(rest) = rest {
                self.bytes += rest.cost();
                self.ordered.push_front(rest);
            }
            bytes += piece.cost();
            items.push(piece);
        }
        if let Some(item) = self.bulk.pop_front() {
            self.bytes -= item.cost();
            let (piece, rest) = split(item);
            if let Some(rest) = rest {
                self.bytes += rest.cost();
                // In turns, but few at a time: the peer holds what it has of each.
                let turn = self.bulk.len().min(limits::PEER_PIECED_MAX - 1);
                self.bulk.insert(turn, rest);
            }
            bytes += piece.cost();
            items.push(piece);
        }
        (items, bytes)
    }
}

/// What goes into this frame, and what is left of an item that is too large for one.
fn split(mut item: Item) -> (Item, Option<Item>) {
    if item.body.len() <= limits::PEER_PIECE_BYTES {
        return (item, None);
    }
    let mut rest = Item::new(kind::PIECE, item.id);
    if item.kind != kind::PIECE {
        item.total = item.body.len() as u64;
    }
    rest.body = item.body.split_off(limits::PEER_PIECE_BYTES);
    (item, Some(rest))
}

/// Puts the pieces of items together.
#[derive(Default)]
pub(super) struct Assembler {
    /// By id; at most [`limits::PEER_PIECED_MAX`] and one.
    open: Vec<(Item, Vec<u8>)>,
}

impl Assembler {
    /// Gives the item once it is whole.
    ///
    /// # Errors
    /// The peer breaks the rules of the protocol.
    pub fn take(&mut self, item: Item) -> Result<Option<Item>, String> {
        let total = usize::try_from(item.total).unwrap_or(usize::MAX);
        let at = self.open.iter().position(|(open, _)| open.id == item.id);
        match item.kind {
            kind::PIECE => {
                let Some(at) = at else { return Err("a fragment without an item".into()) };
                let Some((open, body)) = self.open.get_mut(at) else { return Ok(None) };
                let total = open.total as usize;
                if item.body.is_empty() || item.body.len() > total - body.len() {
                    return Err("a fragment of the wrong size".into());
                }
                body.extend_from_slice(&item.body);
                if body.len() < total {
                    return Ok(None);
                }
                let (mut whole, body) = self.open.swap_remove(at);
                whole.body = body.into();
                whole.total = 0;
                Ok(Some(whole))
            }
            kind::REQUEST | kind::RESPONSE | kind::RESPONSE_LIVE | kind::LIVE if total > 0 => {
                if total > limits::PEER_ITEM_BYTES_MAX {
                    return Err(format!(
                        "an item of {total} bytes; the limit is {}",
                        limits::PEER_ITEM_BYTES_MAX
                    ));
                }
                if at.is_some() || self.open.len() > limits::PEER_PIECED_MAX {
                    return Err("too many fragmented items".into());
                }
                if item.body.len() >= total {
                    return Err("a fragment of the wrong size".into());
                }
                let mut body = Vec::with_capacity(total);
                body.extend_from_slice(&item.body);
                self.open.push((Item { body: Default::default(), ..item }, body));
                Ok(None)
            }
            _ => Ok(Some(item)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures_util::StreamExt as _;

    fn item(id: u64, size: usize) -> Item {
        Item { body: vec![id as u8; size].into(), ..Item::new(kind::RESPONSE, id) }
    }

    fn frames(outbox: &Arc<Outbox>) -> Vec<Frame> {
        let (mut stream, mut all) = (outbox.stream(), Vec::new());
        let waker = futures_util::task::noop_waker();
        let mut cx = Context::from_waker(&waker);
        while let Poll::Ready(Some(frame)) = stream.poll_next_unpin(&mut cx) {
            all.push(frame);
        }
        all
    }

    /// A page of megabytes in one piece would hold up the answers behind it.
    #[test]
    fn small_items_overtake_large_ones() {
        let outbox = Outbox::new();
        for id in 1..=20 {
            outbox.bulk(item(id, 1_000_000));
        }
        outbox.ordered(item(100, 10));
        outbox.urgent(item(101, 10));
        let frames = frames(&outbox);
        let ids: Vec<u64> = frames[0].items.iter().map(|item| item.id).collect();
        assert_eq!(ids, [101, 100, 1]);
        let (mut assembler, mut whole) = (Assembler::default(), Vec::new());
        for frame in frames {
            let size: usize = frame.items.iter().map(|item| item.body.len()).sum();
            assert!(size <= 2 * limits::PEER_PIECE_BYTES);
            for item in frame.items {
                whole.extend(assembler.take(item).unwrap());
            }
        }
        assert!(assembler.open.is_empty());
        assert_eq!(whole.len(), 22);
        for item in &whole[2..] {
            assert_eq!(item.body, Bytes::from(vec![item.id as u8; 1_000_000]));
        }
        // In turns, a few at a time: the last to come is not finished before the first.
        assert!(whole[2..].iter().position(|i| i.id == 20) > Some(limits::PEER_PIECED_MAX));
        assert_eq!(outbox.0.lock().bytes, 0);
    }

    /// Requests out of order would be messages out of order.
    #[test]
    fn what_is_in_order_stays_in_order() {
        let outbox = Outbox::new();
        let sizes = [10, 3 * limits::PEER_PIECE_BYTES, 20, limits::PEER_PIECE_BYTES + 1, 0];
        for (id, size) in (1..).zip(sizes) {
            outbox.ordered(item(id, size));
        }
        let mut assembler = Assembler::default();
        let mut whole = Vec::new();
        for item in frames(&outbox).into_iter().flat_map(|frame| frame.items) {
            whole.extend(assembler.take(item).unwrap());
        }
        let got: Vec<(u64, usize)> = whole.iter().map(|i| (i.id, i.body.len())).collect();
        assert_eq!(got, (1..).zip(sizes).collect::<Vec<_>>());
    }

    /// A message that its sender gave up must not be sent, and one of which a part is written
    /// must be sent whole.
    #[test]
    fn only_what_is_not_written_can_be_withdrawn() {
        let outbox = Outbox::new();
        for id in 1..=3 {
            outbox.offer(item(id, 2 * limits::PEER_FRAME_BYTES)).unwrap();
        }
        let first = outbox.0.lock().pack().0;
        assert_eq!(first.len(), 1);
        assert!(!outbox.withdraw(1));
        assert!(outbox.withdraw(2));
        assert!(!outbox.withdraw(2));
        let rest: Vec<u64> =
            frames(&outbox).into_iter().flat_map(|f| f.items).map(|i| i.id).collect();
        assert_eq!(rest, [1, 3, 3]);
        assert_eq!(outbox.written(), 3);
        assert_eq!(outbox.0.lock().bytes, 0);
    }

    /// Without a bound a slow peer would fill this node's memory.
    #[test]
    fn a_full_queue_refuses() {
        let outbox = Outbox::new();
        for id in 0..limits::PEER_QUEUE_ITEMS_MAX {
            outbox.offer(item(id as u64, 0)).unwrap();
        }
        assert_eq!(outbox.offer(item(0, 0)), Err("its queue is full"));
        let outbox = Outbox::new();
        outbox.offer(item(1, limits::PEER_QUEUE_BYTES_MAX - 100)).unwrap();
        assert_eq!(outbox.offer(item(2, 100)), Err("its queue has too many bytes"));
    }

    /// Pieces that don't fit together, or too many, are a peer that must not be believed.
    #[test]
    fn wrong_pieces_are_refused() {
        let first = |id, total| Item { total, ..item(id, 10) };
        let piece = |id, size| Item { kind: kind::PIECE, ..item(id, size) };
        let mut open = Assembler::default();
        assert!(open.take(piece(1, 5)).is_err());
        assert!(open.take(first(1, 10)).is_err());
        assert!(open.take(first(1, limits::PEER_ITEM_BYTES_MAX as u64 + 1)).is_err());
        assert_eq!(open.take(first(1, 20)), Ok(None));
        assert!(open.take(first(1, 20)).is_err());
        assert!(open.take(piece(1, 0)).is_err());
        assert!(open.take(piece(1, 11)).is_err());
        assert_eq!(open.take(piece(1, 9)), Ok(None));
        let whole = open.take(piece(1, 1)).unwrap().unwrap();
        assert_eq!((whole.kind, whole.body.len(), whole.total), (kind::RESPONSE, 20, 0));
        for id in 0..=limits::PEER_PIECED_MAX as u64 {
            assert_eq!(open.take(first(id, 20)), Ok(None));
        }
        assert!(open.take(first(99, 20)).is_err());
    }
}
