//! Captures: messages that were kept as files, to be run again elsewhere.

/// A capture's file that is read. Its component is in it in base64, and so may be a session's whole state.
pub const CAPTURE_FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// State and effects of a session that is captured when somebody asks for it: the answer is made in memory.
pub const CAPTURE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The same of one that a slot captures by itself: it is read while the slot's other sessions wait.
pub const CAPTURE_BY_ITSELF_BYTES_MAX: usize = 1024 * 1024;
/// Captures that a node keeps of one component and one kind of failure: the next ones mostly show the same.
pub const CAPTURES_OF_A_KIND_MAX: usize = 3;
/// Captures that a node keeps in all; the oldest go first.
pub const CAPTURES_MAX: usize = 200;
/// Bytes of all of them together.
pub const CAPTURES_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Captures that wait to be written: what fails meanwhile is not captured.
pub const CAPTURES_QUEUED_MAX: usize = 4;
/// Bytes of one that a node keeps: another node is asked for it in one message.
pub const CAPTURE_KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of the name of one: its time, kind and component, and a mark.
pub const CAPTURE_NAME_BYTES_MAX: usize = 80;
/// Components and kinds of which it is known how many there are: beyond, nothing more is captured until a restart.
pub const CAPTURE_KINDS_MAX: usize = 1_024;
/// Places that are redacted of one capture, beside those of its service.
pub const CAPTURE_REDACTIONS_MAX: usize = 100;
/// Bytes of one such place.
pub const CAPTURE_REDACTION_BYTES_MAX: usize = 256;
/// How long making one may take when somebody asks for it: all messages before it are run.
pub const CAPTURE_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(60);
/// Captures of a folder that `slotd plugin test` runs.
pub const CAPTURE_FOLDER_MAX: usize = 1_000;
