//! Discovery and membership: DNS, datagrams, probes, greetings, leaving.

use std::time::Duration;

/// Names that are asked for in one look (seeds; DNS): each costs two questions.
pub const DISCOVERY_NAMES_MAX: usize = 32;
/// Addresses of peers that a node keeps; a faulty name server can't make it write to thousands.
pub const DISCOVERY_ADDRESSES_MAX: usize = 256;
/// Time between two looks at the DNS.
pub const DNS_POLL_INTERVAL_DEFAULT: Duration = Duration::from_millis(5_000);
/// More often is a load on the name server, more seldom leaves new nodes alone for too long.
pub const DNS_POLL_INTERVAL_MIN: Duration = Duration::from_millis(50);
pub const DNS_POLL_INTERVAL_MAX: Duration = Duration::from_secs(3_600);
/// `basename@ip` is no longer than a node's name: an IPv6 address has 39 bytes.
pub const DNS_BASENAME_BYTES_MAX: usize = 24;
/// For one try of one question; there are two.
pub const DNS_TIMEOUT: Duration = Duration::from_secs(2);
/// For one question with its tries and the change to TCP.
pub const DNS_QUESTION_DEADLINE: Duration = Duration::from_secs(6);
/// For one name with all that the search list makes of it.
pub const DNS_NAME_DEADLINE: Duration = Duration::from_secs(15);
/// What a search list makes of one name; resolv.conf(5) has six entries at most.
pub const DNS_CANDIDATES_MAX: usize = 7;
/// One datagram of the peer port, with its start and its tag: fits IPv6's smallest MTU (1280)
/// behind both headers, so that nothing is ever fragmented.
pub const PEER_DATAGRAM_BYTES_MAX: usize = 1_232;
/// The refusing side's text in a refusal.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 96;
/// Refusals that a node remembers for people to see.
pub const REFUSALS_KEPT_MAX: usize = 32;
/// Answers to unauthenticated senders: one per address in this time, and for so many addresses.
pub const REFUSAL_INTERVAL: Duration = Duration::from_millis(100);
pub const REFUSAL_ADDRESSES_MAX: usize = 64;
/// Log lines about one address and reason: one in this time, and so many addresses.
pub const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(30);
pub const REFUSAL_LOG_KEYS_MAX: usize = 64;
/// Processes for which replayed datagrams are detected.
pub const PEER_WINDOWS_MAX: usize = 4_096;
/// Orders that wait for the task of membership; it takes one in microseconds.
pub const MEMBERSHIP_ORDERS_MAX: usize = 16;
/// Datagrams that are read before timers have their turn.
pub const DATAGRAMS_PER_TURN_MAX: usize = 512;
/// Times in a row that the peer port may fail to be read, a little pause between two.
pub const SOCKET_FAILURES_MAX: u32 = 200;
pub const SOCKET_FAILURE_PAUSE: Duration = Duration::from_millis(20);
/// A node is probed by each of its peers in turn; in a cluster of n one of them does so about this
/// often. See `membership::Timings` for how the four hang together.
pub const PROBE_PERIOD: Duration = Duration::from_millis(250);
/// A probe that is not answered by then is sent through others too.
pub const PROBE_RTT: Duration = Duration::from_millis(100);
/// From suspicion to death.
pub const SUSPICION: Duration = Duration::from_millis(1_250);
/// A node whose machine refuses connections to it is declared dead after so much time, if nothing is heard
/// of it: time for several greetings and their answers, and for two rounds of gossip each way, in which it
/// hears of the suspicion from others and refutes it.
pub const ENDED_WAIT: Duration = Duration::from_millis(400);
/// A node that turns out to be alive although connections to it are refused is not suspected of that for
/// so long: something stands between the two, and will go on to refuse.
pub const ENDED_MISTAKEN: Duration = Duration::from_secs(10);
/// Gossip is sent in datagrams of its own this often, while there is any.
pub const GOSSIP_PERIOD: Duration = Duration::from_millis(100);
/// Changes become a view when so much time passed without another one, at most so much later.
pub const VIEW_QUIET: Duration = Duration::from_millis(100);
pub const VIEW_DELAY_MAX: Duration = Duration::from_millis(250);
/// How long the first view, and the first one after a node was alone, waits for those that were
/// greeted and have not answered: five greetings. Long enough for a live node on a busy machine, which
/// would otherwise lose its slots to this one; short beside what a start takes.
pub const FIRST_VIEW_WAIT: Duration = Duration::from_secs(1);
/// How often addresses that are not known as members are greeted, on the way in and afterwards.
pub const GREETING_INTERVAL_JOINING: Duration = Duration::from_millis(200);
pub const GREETING_INTERVAL: Duration = Duration::from_secs(1);
/// Hellos in one turn; the rest has the next one.
pub const GREETINGS_PER_TURN_MAX: usize = 64;
/// Hellos that wait for their answer, and how long.
pub const GREETINGS_PENDING_MAX: usize = 512;
pub const GREETING_WAIT: Duration = Duration::from_secs(2);
/// A node that greets its peers waits this long for discovery to have an answer at all.
pub const DISCOVERY_WAIT: Duration = Duration::from_secs(15);
/// A refusal that is older than this has no part in what a node does next.
pub const REFUSAL_FRESH: Duration = Duration::from_secs(5);
/// How often, and how far apart, another process with this node's name is challenged before it
/// counts as gone.
pub const CHALLENGE_TRIES: u32 = 3;
pub const CHALLENGE_INTERVAL: Duration = Duration::from_millis(200);
/// How long dead nodes are remembered, and greeted.
pub const DEAD_REMEMBERED: Duration = Duration::from_secs(600);
pub const DEAD_REMEMBERED_MAX: usize = 256;
/// How often a leaving node announces it, and how far apart.
pub const LEAVE_NOTICES: u32 = 5;
pub const LEAVE_NOTICE_INTERVAL: Duration = Duration::from_millis(30);
/// If timers are later than this, the process was paused: that time does not count.
pub const TIMER_GRACE: Duration = Duration::from_millis(50);
/// How long a leaving node waits until its notices are sent and its links have ended.
pub const LEAVE_WAIT: Duration = Duration::from_secs(3);
