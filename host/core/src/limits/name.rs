//! Names, and what texts may quote.

/// A service name is part of every key and metric label.
pub const SERVICE_NAME_BYTES_MAX: usize = 64;
/// Long enough for a UUID with prefixes or an e-mail address; part of one key a session.
pub const SESSION_ID_BYTES_MAX: usize = 256;
/// An idempotency key is stored with each message.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// A sender's name is stored with each message.
pub const SENDER_BYTES_MAX: usize = 256;
/// A content type is stored with each message.
pub const CONTENT_TYPE_BYTES_MAX: usize = 128;
/// The text of an error: a few sentences; what it quotes is cut to fit.
pub const ERROR_DETAIL_BYTES_MAX: usize = 8 * 1024;
/// Items that a text lists before it counts the rest, and the bytes of each.
pub const LISTED_MAX: usize = 16;
pub const LISTED_BYTES_MAX: usize = 1024;
/// A plugin's human version, shown in headers and tables.
pub const PLUGIN_VERSION_BYTES_MAX: usize = 64;
/// A node's name is part of claims, tables and the ring.
pub const NODE_NAME_BYTES_MAX: usize = 64;
/// A cluster's name is part of streams' names and of every hello.
pub const CLUSTER_NAME_BYTES_MAX: usize = 64;
/// A node's version travels with its identity.
pub const NODE_VERSION_BYTES_MAX: usize = 32;
