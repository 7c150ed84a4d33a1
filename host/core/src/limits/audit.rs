//! The audit log.

use std::time::Duration;

/// A text in a line. Session ids, the longest names in a path, are shorter.
pub const AUDIT_TEXT_BYTES_MAX: usize = 1024;
/// What was asked for, what was before, and what is after, each as JSON. Handlers write a few numbers,
/// labels and digests.
pub const AUDIT_PART_BYTES_MAX: usize = 4 * 1024;
/// A line. JSON escapes a byte with up to six: 7 texts and up to 8 names of a path, and three parts.
pub const AUDIT_LINE_BYTES_MAX: usize = 128 * 1024;
/// A file of a lone node. The last one is read at each start, and a whole one for each page.
pub const AUDIT_FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Files of a lone node, 64 MiB in all: some 60,000 changes. The oldest is dropped for another one.
pub const AUDIT_FILES_MAX: usize = 8;
/// Outcomes for which a lone node keeps room on the disk: more changes are not made at a time, as an
/// admin listener has as many connections and most requests are short.
pub const AUDIT_OUTCOMES_RESERVED_MAX: usize = 32;
/// Room on the disk that is kept for one outcome: a usual line with room to spare.
pub const AUDIT_OUTCOME_BYTES: u64 = 16 * 1024;
/// A cluster's lines are dropped when they are as old as this.
pub const AUDIT_AGE_MAX: Duration = Duration::from_secs(400 * 24 * 3_600);
/// Bytes of a cluster's lines: some 250,000 changes. The oldest are dropped.
pub const AUDIT_STREAM_BYTES_MAX: i64 = 256 * 1024 * 1024;
/// Time for one try to write a line of a cluster, which is published again until it is acknowledged.
pub const AUDIT_TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// Time to write a line of a cluster: longer than an election of the engine. A client waits for it
/// twice, and has 30 s by default.
pub const AUDIT_WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of nobody in particular (without a token, or with a wrong one) that are written in a
/// minute on a node; the others are counted. Who tries many finds the log no emptier: a day of it is
/// less than a third of a lone node's.
pub const AUDIT_UNIDENTIFIED_PER_MINUTE: u32 = 10;
/// The same, of those who are known: a program with the wrong rights is to be seen, not to fill the log.
pub const AUDIT_REFUSED_PER_MINUTE: u32 = 60;
/// Lines that are read at a time.
pub const AUDIT_CHUNK_LINES: usize = 500;
/// Lines of a cluster that are asked for at the same time.
pub const AUDIT_READS_AT_A_TIME: usize = 32;
/// Lines in which the outcomes of a page's last changes are looked for: a change ends long before so
/// many others have.
pub const AUDIT_LOOK_AHEAD_LINES: usize = 5_000;
/// An intent that is younger is under way, as far as anybody can say: longer than any request takes,
/// a deploy with its wait included.
pub const AUDIT_UNDER_WAY: Duration = Duration::from_secs(600);
