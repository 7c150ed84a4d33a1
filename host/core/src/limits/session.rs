//! Messages and sessions: bodies, pages, state, corrections, imports, deletes.

use std::time::Duration;

/// A message's or query's body.
pub const BODY_BYTES_DEFAULT: usize = 256 * 1024;
/// The most that the body limit can be configured to: a batch must fit one log record.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A client's subject: longer than what issuers give out (OpenID Connect allows 255), and no longer, as
/// it is kept with each of its messages.
pub const CLIENT_SUBJECT_BYTES_MAX: usize = 256;
/// Claims of a client that are kept with each of its messages: those that handlers decide by, not all
/// of a token.
pub const CLIENT_CLAIMS_MAX: usize = 32;
/// A client's identity in all. It is written with each message, which is a few hundred bytes without; and
/// a page of history has to fit one answer between nodes with the identities of all its entries.
pub const CLIENT_BYTES_MAX: usize = 4 * 1024;
/// Time from a request's arrival to its answer; past it the caller gets 504 `outcome-unknown`.
pub const REQUEST_DEADLINE_DEFAULT: Duration = Duration::from_secs(15);
/// Entries in one page of history or of a listing.
pub const PAGE_ENTRIES_MAX: usize = 1_000;
pub const PAGE_ENTRIES_DEFAULT: usize = 100;
/// Bytes after which a page ends early (it always has one entry at least).
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// A correction of a session's state, as JSON: keys and values of [`STATE_WRITE_BYTES_MAX`], which
/// grow by a third in base64.
pub const CORRECTION_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Why a session's state is corrected, for its history.
pub const REASON_BYTES_MAX: usize = 4 * 1024;
/// Keys that a correction's entry in the history names; of more, it has the number. An entry is read
/// by clients, a page at a time.
pub const NOTE_KEYS_BYTES_MAX: usize = 32 * 1024;
/// An operator's entry that is imported: a part of a file with it fits one batch of the log.
pub const NOTE_BYTES_MAX: usize = STATE_WRITE_BYTES_MAX;
/// How far ahead of this node's clock the time of an imported message may be. A session's times never
/// go back, so those of all later messages would be as late.
pub const IMPORT_AHEAD_MAX: Duration = Duration::from_secs(5 * 60);
/// How long a session of which parts were imported, and not the last, is kept from clients: longer than
/// a file may stall ([`IMPORT_STALL`]).
pub const IMPORT_PART_HOLD: Duration = Duration::from_secs(60);
/// What a key and its value take beside their bytes while a part of a file waits for its end.
pub const IMPORT_PAIR_BYTES: usize = 96;
/// Sessions that are imported at a time: each holds a part of a file in memory.
pub const IMPORTS_MAX: usize = 2;
/// How long a file that is imported is waited for until so much more of it has come: who sends a
/// byte now and then would keep others from importing.
pub const IMPORT_STALL: Duration = Duration::from_secs(30);
pub const IMPORT_STALL_BYTES_MIN: usize = 16 * 1024;
/// A line of a session's file: a message with its reply and events in base64.
pub const IMPORT_LINE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The largest file that `slotd session import` sends: it is read into memory.
pub const IMPORT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Sessions of one request that are deleted at a time.
pub const DELETES_AT_A_TIME: usize = 64;
/// Bytes of a key of a session's state.
pub const STATE_KEY_BYTES_MAX: usize = 1_024;
/// Bytes of a value of a session's state.
pub const STATE_VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Keys and values that one message may write.
pub const STATE_WRITE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// All keys and values of one session: a session lives in one slot's memory when it is busy.
pub const SESSION_STATE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// What an operator writes is kept in the history up to so much, so that it can be run past it: of a correction all,
/// of an import the state of a small session. It is in the state anyway, and a record has room for both.
pub const ENTERED_BYTES_MAX: usize = 256 * 1024;

/// Sessions in a line of which each was forked off the one before: what is read of the first goes through all of them.
pub const FORK_DEPTH_MAX: u32 = 64;
