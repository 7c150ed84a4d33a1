//! Scripts, and simulations of plugins: what a person asks of one process on their own machine.

use std::time::Duration;

/// A place in a JSON value, as a script names it. The longest that make sense have some dozens.
pub const SCRIPT_PLACE_BYTES_MAX: usize = 1024;
/// A file of rules, or of a JSON Schema.
pub const SIM_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Runs of one simulation, unless asked for otherwise: some seconds for a plugin in Rust.
pub const SIM_RUNS_DEFAULT: u32 = 100;
/// Steps of one run, unless asked for otherwise: enough for a fault that takes a handful to come together by chance.
pub const SIM_STEPS_DEFAULT: u32 = 60;
/// All steps of a run are in memory, with their bodies.
pub const SIM_STEPS_MAX: u32 = 100_000;
/// A second run of the same seeds shows nothing new, and seeds are 64 bits.
pub const SIM_RUNS_MAX: u32 = 10_000_000;
/// Sessions of one run, unless asked for otherwise: few, so that they meet each other's messages.
pub const SIM_SESSIONS_DEFAULT: u32 = 3;
/// After each step, what all of them wait for is looked at.
pub const SIM_SESSIONS_MAX: usize = 256;
/// How long a simulation begins new runs, unless asked for otherwise.
pub const SIM_TIME_DEFAULT: Duration = Duration::from_secs(60);
/// Steps behind the last one of a run, until nothing is under way any more. A timer that is set again each time has no end.
pub const SIM_SETTLE_STEPS_MAX: usize = 200;
/// Scripts that are tried to shorten one that fails, and how long. The first bounds what a seed comes to, whatever the
/// machine; the second is for handlers that take long.
pub const SIM_SHRINK_TRIES_MAX: usize = 3_000;
pub const SIM_SHRINK_TIME_MAX: Duration = Duration::from_secs(60);
/// How often a message to another session, and the outcome of one, is tried: fewer than on a node, so that one that always fails
/// does not fill a run.
pub const SIM_ATTEMPTS_MAX: u32 = 3;
/// Messages of one session that wait to be delivered; what is sent beyond is refused.
pub const SIM_FLIGHTS_MAX: usize = 1_000;
/// How deep a value that is made from a schema is: a schema may refer to itself.
pub const SIM_SCHEMA_DEPTH_MAX: usize = 24;
/// Parts of one schema: each `properties`, `items` and the like is some.
pub const SIM_SCHEMA_PARTS_MAX: usize = 20_000;
/// Parts of a schema in one another, by nesting or by reference, that are read, or followed for one value: each takes some of
/// the stack.
pub const SIM_SCHEMA_NESTING_MAX: usize = 200;
/// How often a value is made that its schema does not allow, as when `oneOf` overlaps, before the schema is given up.
pub const SIM_SCHEMA_TRIES_MAX: usize = 200;
/// Steps of checking one value against a schema that refers to itself many times over.
pub const SIM_SCHEMA_CHECKS_MAX: usize = 200_000;
/// Elements of a made array, beyond what its schema asks for at least.
pub const SIM_SCHEMA_ELEMENTS_MAX: u64 = 4;
/// Characters or elements that a schema may ask for at least: more would be more than a message may have.
pub const SIM_SCHEMA_LENGTH_MAX: u64 = 100_000;
