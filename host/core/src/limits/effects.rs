//! Effects of handlers: timers, messages to other sessions, and what becomes of messages that fail.

use std::time::Duration;

/// Timers of a session: they are in memory together while it uses one.
pub const TIMERS_MAX: usize = 1_000;
/// Bytes of a timer's name.
pub const TIMER_NAME_BYTES_MAX: usize = 128;
/// Bytes of all timers of a session, with their bodies, for the same reason.
pub const TIMER_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a timer's body: it is the body of a message later, which clients' may be limited to less than.
pub const TIMER_BODY_BYTES_MAX: usize = 64 * 1024;
/// Timers that a message may set or cancel: its record holds each of them.
pub const TIMER_CHANGES_MAX: usize = 256;
/// Timers that one call of `list` gives.
pub const TIMER_LIST_MAX: u32 = 1_000;
/// The shortest period, in milliseconds: what is sent more often is a load and no timer.
pub const TIMER_PERIOD_MIN_MS: u64 = 100;
/// The last time that a timer can be set for, in milliseconds since the Unix epoch: the year 9000 or so. Calendars
/// end with 9999.
pub const TIMER_MS_MAX: u64 = 221_845_392_000_000;
/// Bytes of a cron expression, and of a time zone.
pub const TIMER_CRON_BYTES_MAX: usize = 128;
/// Times of a cron expression that are counted when nobody served: each costs some microseconds.
pub const TIMER_MISSED_COUNTED_MAX: u64 = 1_000;
/// How often the message of an effect is tried before it is given up.
pub const EFFECT_ATTEMPTS_MAX: u32 = 20;
/// How long after a failure it is tried again, in milliseconds: doubled with each failure, up to the
/// second. With these, 20 attempts take an hour: a deploy can mend a handler in that time.
pub const EFFECT_RETRY_MIN_MS: u64 = 1_000;
pub const EFFECT_RETRY_MAX_MS: u64 = 5 * 60 * 1_000;
/// How long what is due waits when the node can't call the handler (no memory, a plugin that is being
/// loaded), which is no failure of the handler's: doubled each time, up to the second.
pub const EFFECT_HOLD_MIN: Duration = Duration::from_millis(100);
pub const EFFECT_HOLD_MAX: Duration = Duration::from_secs(10);
/// Rows that wait so in a slot's memory; more are left to the store until then.
pub const DUE_HELD_MAX: usize = 4 * DUE_ROWS_MAX;
/// A timer's call that took so long is followed by a pause for the timers of its service in the slot, of
/// [`SLOW_FIRING_PAUSES`] times as long: mail, and other services' timers, come in between.
/// By the clock on the wall, so not so short that a busy machine makes every call slow.
pub const SLOW_FIRING: Duration = Duration::from_millis(100);
pub const SLOW_FIRING_PAUSES: u32 = 3;
/// Bytes of why an attempt at a timer's message failed, which is kept with the timer.
pub const TIMER_REASON_BYTES_MAX: usize = 128;
/// Bytes of why a message was given up.
pub const EFFECT_REASON_BYTES_MAX: usize = 512;
/// Messages of a session that were given up and wait for an operator. Past it nothing is given up: it
/// is tried again at the longest interval.
pub const DEAD_MAX: usize = 100;
/// Bytes of them, with their bodies.
pub const DEAD_BYTES_MAX: usize = 1024 * 1024;
/// Rows of what is due that a slot has in memory.
pub const DUE_ROWS_MAX: usize = 256;
/// Pages of such rows that a slot reads before it looks at its mail again.
pub const DUE_PAGES_PER_LOOK: usize = 4;
/// How long a slot fires timers before it looks at its mail again; it fires one at least.
pub const DUE_TURN: Duration = Duration::from_millis(10);
/// Timers that a slot fires before it looks at its mail again.
pub const DUE_PER_TURN_MAX: usize = 16;
/// Rows of what is due that a slot looks at for one page of a service's timers: those of other services are
/// among them. It serves nobody meanwhile.
pub const EFFECTS_LOOKED_AT_MAX: usize = 1_000;
/// Sessions that a slot looks at for one page of a service's dead messages: a read of the store each.
pub const EFFECT_SESSIONS_LOOKED_AT_MAX: usize = 256;
/// Timers or dead messages that a listing of a service asks each slot for, at least: some slots have more than
/// others.
pub const EFFECTS_OF_SLOT_MIN: usize = 25;
/// Requests over HTTP that a session may have open, with answers that its handler has failed: they are in memory
/// together while it uses one.
pub const REQUESTS_MAX: usize = 100;
/// Bytes of them, with their bodies.
pub const REQUESTS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Requests that one message may make: its record holds each of them.
pub const REQUESTS_PER_MESSAGE_MAX: usize = 16;
/// Bytes of a request's id.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// Bytes of a request's body.
pub const REQUEST_BODY_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a request beside its body: method, URL, headers.
pub const REQUEST_HEAD_BYTES_MAX: usize = 32 * 1024;
/// How long an attempt at a request may take, in milliseconds: if nothing is said, and at most. Streams of language
/// models take minutes.
pub const REQUEST_TIMEOUT_MS: u32 = 60_000;
pub const REQUEST_TIMEOUT_MS_MAX: u32 = 600_000;
/// How long all attempts may take together, in milliseconds.
pub const REQUEST_DEADLINE_MS: u32 = 600_000;
pub const REQUEST_DEADLINE_MS_MAX: u32 = 86_400_000;
/// How often a request is made.
pub const REQUEST_ATTEMPTS: u32 = 5;
pub const REQUEST_ATTEMPTS_MAX: u32 = 20;
/// Redirects that are followed.
pub const REQUEST_REDIRECTS: u8 = 5;
pub const REQUEST_REDIRECTS_MAX: u8 = 10;
/// Bytes of an answer's body: it is the body of a message later.
pub const ANSWER_BYTES_MAX: u32 = 1024 * 1024;
/// Names of headers that an answer is to keep, and bytes of one.
pub const ANSWER_HEADERS_KEPT_MAX: usize = 16;
pub const ANSWER_HEADER_NAME_BYTES_MAX: usize = 64;
/// Bytes of the headers that are kept of an answer, with their names: no answer that is taken has more.
pub const ANSWER_HEADER_BYTES_MAX: usize = 32 * 1024;
/// Bytes of the kind of a stream's events, and of the path of its text.
pub const STREAM_KIND_BYTES_MAX: usize = 128;
pub const STREAM_PATH_BYTES_MAX: usize = 256;
/// How long what comes of an answer is gathered before it is written: each part is a record of the slot's log.
pub const STREAM_GATHER: Duration = Duration::from_millis(30);
/// Bytes and events of a part: one is written at once when it has so many.
pub const STREAM_PART_BYTES: usize = 64 * 1024;
pub const STREAM_PART_EVENTS: usize = 256;
/// How often it is looked whether the file of secrets has changed.
pub const SECRETS_LOOK: Duration = Duration::from_secs(5);
/// Bytes of what the names of environment variables that are secrets begin with: a name, and some before it.
pub const SECRET_PREFIX_BYTES_MAX: usize = 64;
/// Requests that a slot has under way: each has a task, which may wait for its turn.
pub const REQUESTS_UNDER_WAY_MAX: usize = 1_024;
/// How long a request waits where a slot has that many.
pub const REQUESTS_FULL_PAUSE: Duration = Duration::from_millis(500);
/// By how much longer it waits for each that waits already: looking at all of them takes some hundredths of a
/// slot's time at most.
pub const PARKED_PAUSE: Duration = Duration::from_millis(4);
/// Effects of a message that its session's history names; of more it says how many there are.
pub const CAUSED_MAX: usize = 32;
/// Parts of all streams of a slot that wait for it: one of each stream at most does.
pub const STREAM_PARTS_WAITING_MAX: usize = 64;
/// Pieces of an answer that wait to be gathered; then the server waits.
pub const STREAM_CHUNKS_WAITING_MAX: usize = 64;
/// How long after the last subscriber has gone a handler is told: one that connects again was not away.
pub const ABSENT_AFTER: Duration = Duration::from_secs(5);
/// How often it is looked whether a subscriber of a session, whose handler wants to know, is still there.
pub const PRESENCE_LOOK: Duration = Duration::from_secs(1);
/// How often a node looks whether the clock of the day has jumped.
pub const WAKE_LOOK: Duration = Duration::from_secs(1);

/// Messages to other sessions that a session may have on their way, and outcomes that its handler has not
/// heard of: they are in memory together while it uses one.
pub const OUTBOX_MAX: usize = 1_000;
/// Bytes of them, with their bodies.
pub const OUTBOX_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Messages on their way from one slot to another. A target that is gone fills this, and no more: others'
/// messages have room of their own.
pub const OUTBOX_PAIR_MAX: usize = 4_096;
/// Messages on their way from all slots of a node: some 200 bytes of memory each.
pub const OUTBOX_NODE_MAX: usize = 500_000;
/// Bytes of messages that a slot has in memory until they are sent; the rest is read again. Most leave within
/// milliseconds.
pub const OUTBOX_BYTES_HELD_MAX: usize = 1024 * 1024;
/// Messages that one message may send: its record holds each of them.
pub const SENDS_MAX: usize = 256;
/// Bytes of the body of one: some of them fit into what goes from slot to slot in one piece, and between nodes.
pub const SEND_BODY_BYTES_MAX: usize = 256 * 1024;
/// Bytes of the name that a reply comes back under.
pub const SEND_NAME_BYTES_MAX: usize = 128;
/// Sends that may follow one from the other: a loop ends here, and a conversation of some hundred questions and
/// answers does not.
pub const SEND_HOPS_MAX: u32 = 1_000;
/// Messages, and bytes of them, that go from slot to slot in one piece; one message may be larger. All pieces of a
/// node together take the room of one peer's connection at most.
pub const DELIVERY_MAX: usize = 64;
pub const DELIVERY_BYTES_MAX: usize = 64 * 1024;
/// Other slots that a slot sends to at a time: each has a request of its own.
pub const DELIVERIES_PER_SLOT_MAX: usize = 32;
/// Pieces that a node sends at a time: with [`DELIVERY_BYTES_MAX`], what one peer may have in flight.
pub const DELIVERIES_MAX: usize = 1_024;
/// Slots at a time of which none answered the last time: they must not take the turns of all others.
pub const DELIVERIES_UNREACHED_MAX: usize = DELIVERIES_PER_SLOT_MAX / 2;
/// Pieces that a slot begins to send before it looks at its mail again: some of it may have to be read.
pub const DELIVERIES_PER_TURN_MAX: usize = 4;
/// How long a slot waits before it sends again to one that could not be reached: doubled each time, up to the
/// second.
pub const DELIVERY_RETRY_MIN: Duration = Duration::from_millis(20);
pub const DELIVERY_RETRY_MAX: Duration = Duration::from_secs(2);
