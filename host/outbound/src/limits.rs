//! Every limit of this crate, with its reason. What a rule set may choose has a maximum here.

use std::time::Duration;

/// Rules, and grants of secrets, of a rule set: each request looks at all of them.
pub const RULES_MAX: usize = 256;
/// Bytes of a rule. A name of DNS has 253 at most.
pub const RULE_BYTES_MAX: usize = 320;

/// Bytes of a method: the longest that is registered has 17.
pub const METHOD_BYTES_MAX: usize = 32;
/// Bytes of a URL, before secrets are put in and after, and of where a redirect leads. Many servers take no more.
pub const URL_BYTES_MAX: usize = 8 * 1024;
/// Headers of a request. Servers commonly take a hundred, and some are added.
pub const REQUEST_HEADERS_MAX: usize = 64;
/// Bytes of a request's headers, with their names and with secrets. Servers commonly take 8 to 16 KiB.
pub const REQUEST_HEADER_BYTES_MAX: usize = 16 * 1024;
/// Bytes of an idempotency key: those who take one take at least as much (Stripe: 255).
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Bytes of a request's body unless a rule set says less. It is a row of a session until it is carried out.
pub const REQUEST_BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of an answer's headers, with their names. The client takes more (some 400 KiB over
/// HTTP/1.1, twice this over HTTP/2), but then the request fails.
pub const ANSWER_HEADER_BYTES_MAX: usize = 32 * 1024;
/// Names of headers that an answer is to keep.
pub const ANSWER_HEADER_NAMES_MAX: usize = 64;
/// Bytes of an answer's body, when it is decompressed, unless a rule set says less. It becomes the body of a message.
/// A request in flight has so much in memory, and once more for what takes secrets out.
pub const ANSWER_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The longest that an attempt may take: streams of language models take minutes.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(15 * 60);
/// To find the addresses, to connect to one of them, and to agree on TLS.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept. Many servers close theirs after a minute, and a request on a connection that
/// is being closed is an attempt in vain.
pub const CONNECTION_IDLE: Duration = Duration::from_secs(30);
/// Idle connections to one server. With the rate of a rule set and the time above, all of them are bounded.
pub const CONNECTIONS_IDLE_MAX: usize = 8;
/// Addresses of a name that are looked at, and tried: one that is not tried need not be checked.
pub const ADDRESSES_MAX: usize = 16;
/// Names that are looked up at once with the system's resolver, by all rule sets: each takes a thread until it
/// ends, which can't be cut short.
pub const LOOKUPS_MAX: usize = 16;
/// Redirects that can be followed: browsers take 20, and no API needs so many.
pub const REDIRECTS_MAX: u8 = 10;

/// Attempts at once at one target on behalf of one scope.
pub const AT_ONCE_MAX: usize = 1_024;
pub const AT_ONCE: usize = 64;
/// Attempts a second at one target on behalf of one scope. So many may also come at once after a quiet time. If nothing is said,
/// what is at once is bound enough for most.
pub const PER_SECOND_MAX: u32 = 100_000;
pub const PER_SECOND: u32 = 1_000;
/// Attempts at once of all: each has a connection, with some 100 KiB of memory and a file descriptor.
pub const ALL_AT_ONCE_MAX: usize = 1_024;
/// Bytes of answers of all attempts, until who asked has them. Each may be large, and few are.
pub const BYTES_MAX: usize = 256 * 1024 * 1024;
/// Attempts at one target that wait for a turn; more are told to come back. Each is a request in memory.
pub const WAITING_MAX: usize = 256;
/// The same of all targets.
pub const ALL_WAITING_MAX: usize = 8 * 1_024;
/// When those who are told so come back.
pub const BUSY_WAIT: Duration = Duration::from_secs(2);
/// So many targets, of attempts under way or a second ago, are remembered before it is looked whose time is over.
pub const LINES_MIN: usize = 64;

/// Chunks of a stream that wait for who reads them; then the server waits.
pub const CHUNKS_WAITING_MAX: usize = 64;
/// Bytes of a chunk of text.
pub const CHUNK_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a server-sent event while it is read: its data, and its line.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;
/// Bytes of an event's id and of its name: both are said again with later events, or not at all. Longer ones are
/// ignored.
pub const EVENT_NAME_BYTES_MAX: usize = 256;
/// Bytes and steps of a path into JSON.
pub const PATH_BYTES_MAX: usize = 256;
pub const PATH_STEPS_MAX: usize = 16;

/// Secrets of a source. What servers say is searched for all of them at once.
pub const SECRETS_MAX: usize = 256;
/// Bytes of a secret's name.
pub const SECRET_NAME_BYTES_MAX: usize = 64;
/// The shortest secret: a shorter one would be found everywhere in what servers say.
pub const SECRET_BYTES_MIN: usize = 8;
/// The longest: long tokens have some kilobytes. So much of a stream can be held back until it is known not to be one.
pub const SECRET_BYTES_MAX: usize = 4 * 1024;
/// Bytes of a file of secrets.
pub const SECRET_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The longest that a server's `Retry-After` is waited for. One that says more is asked again then.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);
/// How long after a failure a request is tried again: doubled each time. The same as for messages that fail.
pub const RETRY_MIN: Duration = Duration::from_secs(1);
pub const RETRY_MAX: Duration = Duration::from_secs(5 * 60);
/// Bytes of the sentence that says what went wrong: it is kept with the request.
pub const REASON_BYTES_MAX: usize = 512;
