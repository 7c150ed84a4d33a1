//! Shares of a busy node. Those of the decisions are in `slotd_quota::limits`.

use std::time::Duration;

/// Services whose work is counted one by one, as many as have shares of their own.
pub const LOADS_MAX: usize = slotd_quota::limits::SHARES_SERVICES_MAX;
/// Messages of a service that wait for their share: as many as there may be connections with one each, at some 400
/// bytes beside their bodies, which count as connection buffers. More get 503 `mailbox-full`.
pub const SHARES_LINE_MAX: usize = 10_000;
/// Of all services together: 16 MB.
pub const SHARES_WAITING_MAX: usize = 40_000;
/// A message waits no longer for its share; then it gets 503 `mailbox-full`, so that its client knows that nothing was
/// kept. Below [`REQUEST_DEADLINE_DEFAULT`](super::REQUEST_DEADLINE_DEFAULT).
pub const SHARES_LINE_WAIT: Duration = Duration::from_secs(10);
/// Smaller bodies are not counted as their service's part of the connections' buffers: [`SHARES_LINE_MAX`] of them are
/// 40 MB.
pub const BODY_SHARED_BYTES_MIN: usize = 4 * 1024;
/// Messages that leave their lines in one go: then others have the locks.
pub const SHARES_RELEASED_AT_A_TIME: usize = 64;
/// How often it is looked what may leave its line: it is a thread that wakes up, and a message waits so long for
/// others anyway.
pub const SHARES_LOOK: Duration = Duration::from_micros(500);
/// Between two ticks of a node that has time to spare: one that gets busy between two of them is noticed by what
/// piles up.
pub const SHARES_TICK_IDLE: Duration = Duration::from_millis(100);
/// Use of the processor from which on ticks come as often as they do on a busy node.
pub const SHARES_TICK_OFTEN: f64 = 0.3;
/// What is due of a service that is beyond its share is put off so often, then one goes as a debt: messages that wait
/// in line would be before it for ever.
pub const SHARES_DUE_PUT_OFF_MAX: u32 = 10;
