//! Components: uploads, compiling, and what one may be made of.

use std::time::Duration;

/// A component that is uploaded: Python's are 18 MB.
pub const COMPONENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Deploys whose components are compiled at the same time, each in a process of its own. One more is
/// kept for what a node must load to serve.
pub const COMPILES_MAX: usize = 2;
/// Deploys that wait for one of these places; more get 503 `unavailable`.
pub const COMPILES_WAITING_MAX: usize = 16;
/// Bytes of all components that deploys hold, from their arrival until they are stored or refused:
/// four of the largest. Past it 503 `unavailable`.
pub const DEPLOYS_BYTES_MAX: usize = 4 * COMPONENT_BYTES_MAX;
/// Time to check and compile one component, and as much processor time for each thread. Python's
/// take 13 s on two cores that do nothing else. Also how long a deploy waits for a place.
pub const COMPILE_DEADLINE_DEFAULT: Duration = Duration::from_secs(120);
/// The most that it can be configured to.
pub const COMPILE_DEADLINE_MAX: Duration = Duration::from_secs(3_600);
/// Address space of the process that compiles one component: its program, its threads' stacks, and
/// what the compiler allocates.
pub const COMPILE_MEMORY_BYTES_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;
/// Below this the process does not start.
pub const COMPILE_MEMORY_BYTES_MIN: u64 = 256 * 1024 * 1024;
/// One part in so many of the machine's memory (or of what the container may have) that it takes at
/// most by default.
pub const COMPILE_MEMORY_SHARE: u64 = 2;
/// Threads that compile one component: more make a deploy little faster, and each has memory of its
/// own.
pub const COMPILE_THREADS_MAX: usize = 4;
/// Threads that hash and store components, at the same priority.
pub const COMPONENT_THREADS: usize = 2;
/// How far they, and deploys that are compiled, give way to others, as for nice(1). A thread that
/// serves and wakes up runs at once; where every core is busy with serving, compiling gets a tenth of
/// them. At 19 it would be a hundredth: two seconds of work took 75 on a machine with a queue of
/// twenty.
pub const COMPILE_NICE: i32 = 10;
/// The same for a component without which the node serves no slot, or keeps a deploy of the whole
/// cluster waiting: a quarter.
pub const COMPILE_NICE_LOAD: i32 = 5;
/// Native code of one component: Python's has 40 MB.
pub const COMPILED_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// File descriptors of the process that compiles: its three, and what the runtime opens for a moment.
pub const COMPILE_FILES_MAX: u64 = 32;
/// How often its end is polled where the system can't notify of it.
pub const COMPILE_LOOK: Duration = Duration::from_millis(20);
/// The output of that process: its report, or why it crashed.
pub const COMPILE_REPORT_BYTES_MAX: usize = 256 * 1024;
/// A component that was refused, or took too much, is not tried again by itself for this long; after
/// another failure, for the shorter time.
pub const COMPILE_RETRY: Duration = Duration::from_secs(600);
pub const COMPILE_RETRY_SOON: Duration = Duration::from_secs(2);
/// Such components that are remembered.
pub const COMPILE_FAILURES_MAX: usize = 256;
/// Bytes of the reasons why a component does not fit: of one, and of all.
pub const COMPONENT_PROBLEM_BYTES_MAX: usize = 1_024;
pub const COMPONENT_PROBLEMS_BYTES_MAX: usize = 8 * 1_024;
/// How often a node looks for components that nothing needs. What is one at two looks is removed.
pub const COMPONENTS_TIDY_INTERVAL: Duration = Duration::from_secs(3_600);
/// Code of a deployment that is not current, nor the one before, is removed when nothing has used it
/// for this long: it can be compiled again.
pub const COMPILED_UNUSED: Duration = Duration::from_secs(24 * 3_600);
/// Names of imports and of exports that `plugin check` lists, each up to
/// [`COMPONENT_PROBLEM_BYTES_MAX`].
pub const COMPONENT_NAMES_LISTED_MAX: usize = 200;

// What a component may be made of, counted before it is validated: what validating and compiling
// take more than linear time or memory for. In brackets what the largest of the plugins that ship
// has, in Rust, C, JavaScript (QuickJS) and Python (CPython with its libraries, 18 MB).

/// Levels of components and modules in each other [3].
pub const COMPONENT_DEPTH_MAX: u64 = 8;
/// Components in a component, at all levels [3]: each takes memory of all around it.
pub const COMPONENT_COMPONENTS_MAX: u64 = 256;
/// Core modules [14].
pub const COMPONENT_MODULES_MAX: u64 = 256;
/// Instances of components and modules [68].
pub const COMPONENT_INSTANCES_MAX: u64 = 1_000;
/// Types [1,235], those in other types not counted: their bytes [17 KB] are bounded too.
pub const COMPONENT_TYPES_MAX: u64 = 20_000;
pub const COMPONENT_TYPE_BYTES_MAX: u64 = 1024 * 1024;
/// Imports [2,313] and exports [4,218] of a component and of all its modules: a dynamic library of
/// C exports everything.
pub const COMPONENT_IMPORTS_MAX: u64 = 25_000;
pub const COMPONENT_EXPORTS_MAX: u64 = 50_000;
/// Aliases [1,356]: a component that links dynamic libraries has one for each name.
pub const COMPONENT_ALIASES_MAX: u64 = 20_000;
/// Functions that are lifted or lowered [130].
pub const COMPONENT_CANONICALS_MAX: u64 = 5_000;
/// Functions of modules [13,367].
pub const COMPONENT_FUNCTIONS_MAX: u64 = 200_000;
/// Globals of modules [874].
pub const COMPONENT_GLOBALS_MAX: u64 = 20_000;
/// Tags of exceptions [0].
pub const COMPONENT_TAGS_MAX: u64 = 1_000;
/// Element segments [8], and as many data segments [10,004]: a snapshot of memory has many.
pub const COMPONENT_SEGMENTS_MAX: u64 = 100_000;
/// Bytes of a name of an import or export [162]: C++ puts types into names.
pub const COMPONENT_NAME_BYTES_MAX: u64 = 16 * 1024;
/// Code of all functions [6.6 MB].
pub const COMPONENT_CODE_BYTES_MAX: u64 = 48 * 1024 * 1024;
/// Code of one function [427 KB]: interpreters have large ones. The compiler takes one at a time.
pub const FUNCTION_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Local variables of one function [271]: the compiler keeps each over every branch.
pub const FUNCTION_LOCALS_MAX: u64 = 10_000;
/// Of all functions [47,790].
pub const COMPONENT_LOCALS_MAX: u64 = 1_000_000;
/// Targets of the `br_table`s of one function: an edge each, over which all locals are kept. An
/// interpreter has one a byte code, some hundreds.
pub const FUNCTION_BRANCH_TARGETS_MAX: u64 = 16_384;
/// Of all functions.
pub const COMPONENT_BRANCH_TARGETS_MAX: u64 = 1_000_000;
/// Of a component, or its code, that is written to the disk before the next sync.
pub const DISK_PIECE_BYTES: usize = 1024 * 1024;
/// What a component says of the types of its messages (JSON Schema): the largest API of one service has some hundred types of a
/// few hundred bytes. A node keeps it for each plugin that it has loaded.
pub const COMPONENT_TYPES_SECTION_BYTES_MAX: usize = 256 * 1024;
/// A component's signature: Ed25519 has 64 bytes, ECDSA on P-256 up to 72.
pub const SIGNATURE_BYTES_MAX: usize = 256;
/// A signature's file: a bundle of cosign has a few KiB, with what its transparency log says.
pub const SIGNATURE_FILE_BYTES_MAX: u64 = 256 * 1024;
/// A file with a key: a few lines of PEM.
pub const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;
