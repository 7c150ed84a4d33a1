//! The definition of the command line. The arguments of commands on sessions, of all client
//! commands, and of `serve` are in the files below.

mod audit;
mod canary;
mod capture;
mod config;
mod connection;
mod gate;
mod replay;
mod session;
mod sim;
mod timer;
mod usage;

pub use self::{
    audit::AuditLog,
    canary::{CanaryArgs, CanaryChangeArgs},
    capture::{Capture, Captures, ReplayArgs},
    config::ConfigArgs,
    connection::{AdminArgs, AdminOnlyArgs, ApiArgs},
    gate::{GateArgs, GateMode, GateOf},
    replay::Audit,
    session::{
        History, Query, Send, SessionCmd, SessionDelete, SessionExport, SessionFork, SessionImport,
        SessionSet, SessionShow, SessionState, Sessions, Tail,
    },
    sim::{Fault, SimArgs},
    timer::{
        DeadArgs, DeadCmd, PageArgs, RequestCancel, RequestCmd, TimerCancel, TimerCmd, Timers,
    },
    usage::{Usage, UsageBy},
};

use super::{
    cluster::ClusterCmd,
    dev::Dev,
    plugin::TypesArgs,
    seal::SealCmd,
    tls::TlsCmd,
    tokens::{AuthCmd, TokenCmd},
};
use crate::limits;
use clap::{Args, Parser, Subcommand};
use slotd_toolchains::Lang;
use std::{ffi::OsString, path::PathBuf};

/// Durable sessions by name; your plugin handles each message, and is swapped while it serves.
#[derive(Debug, Parser)]
#[command(name = "slotd", version, max_term_width = 100, after_help = AFTER_HELP)]
#[command(propagate_version = false, disable_help_subcommand = true, subcommand_required = true)]
#[command(arg_required_else_help = true)]
pub struct Cli {
    /// Print JSON: the server's responses unchanged, and errors as one object on standard error
    #[arg(long, global = true, display_order = 900)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Cmd,
}

const AFTER_HELP: &str = "\
Try a whole cluster on this machine:
  slotd cluster dev

Write a first plugin, built and swapped in on each save (--lang rust, ts, js, python, c):
  slotd plugin new hello && slotd dev hello
  slotd send hello lunch '{\"vote\": \"tea\"}' --sender ann

Exit codes: 0 success, 1 failed on this side, 2 wrong usage or configuration,
3 node not reachable, 4 node refused (4xx), 5 node failed (5xx), 6 serve can't start now,
7 data directory damaged or of another kind, 70 serve stopped itself because of a bug.
More: docs/cli.md.";

#[derive(Debug, Subcommand)]
pub enum Cmd {
    /// Run a node
    ///
    /// Prints one line with its addresses when it is ready, and logs to standard error. SIGTERM or
    /// SIGINT (Ctrl-C) stops it: it accepts no new requests, finishes those in flight, and exits
    /// with 0.
    Serve(Serve),

    /// Deploy a component as a service, or swap a service to it while it serves
    ///
    /// A version that follows another one goes through the gate first: what it would do with the
    /// sessions and messages that there are is found out before any slot switches to it. See
    /// docs/gate.md.
    Deploy(Deploy),
    /// Show what a service's last deploy was found to do before it moved anything
    ///
    /// Exit code 9 if it was stopped. See docs/gate.md.
    Gate(GateOf),
    /// Roll back to the previous version
    Rollback(Rollback),
    /// List the deployed services
    Services(AdminOnly),
    /// List a service's deployments, and how many sessions each handled last
    Deployments(AdminService),
    /// Show a service's limits: of all of it, of each subject and of each session
    Limits(AdminService),
    /// Show the progress of a service's last swap
    Swap(Swap),
    /// Remove a service
    #[command(subcommand)]
    Service(ServiceCmd),

    /// Send a message to a session and print the reply
    Send(Send),
    /// Query a session without changing it
    Query(Query),
    /// Print a session's events; with --follow, also new ones as they come
    Tail(Tail),
    /// Print a session's messages with their replies
    History(History),
    /// List a service's sessions
    Sessions(Sessions),
    /// Show, correct, export, import or delete sessions
    #[command(subcommand)]
    Session(SessionCmd),
    /// List the timers of a service, the next to fire first, or of one session; and when sessions expire
    Timers(Timers),
    /// Cancel a timer
    #[command(subcommand)]
    Timer(TimerCmd),
    /// List a service's outbox, or a session's: messages to other sessions that are on their way or wait, and requests
    /// over HTTP that are open
    Outbox(Timers),
    /// Cancel a request over HTTP
    #[command(subcommand)]
    Request(RequestCmd),
    /// List, retry or drop messages that were given up: of timers, to other sessions, and answers to requests
    #[command(subcommand)]
    Dead(DeadCmd),

    /// List the running slots (the busiest, if there are many)
    Slots(Slots),
    /// Show or drain one slot
    #[command(subcommand)]
    Slot(SlotCmd),
    /// Move slots to the nodes that the ring assigns
    ///
    /// Includes slots drained by hand, which stay off their node until then.
    Rebalance(AdminOnly),
    /// Show which node should have which slots
    Ring(AdminOnly),
    /// List the nodes, their slots, and the members each sees
    ///
    /// Works on any node, which asks all others. OWNS is the number of slots that a node has,
    /// SHOULD the number that the ring of its view assigns; they are equal when the cluster is
    /// settled.
    Nodes(AdminOnly),
    /// Show the feature level in force and what each node can read, or raise it
    ///
    /// The level decides which formats nodes may write. It is raised automatically once every node
    /// has been able to read the next one for `level_wait`; until then you can undo an upgrade.
    Level(Level),
    /// Check whether a node can take requests: exit code 0 if so, 5 if not yet, 3 if unreachable
    ///
    /// For health checks in containers that have no other program.
    Ready(Ready),
    /// Drain a node, or forget one that is gone for good
    #[command(subcommand)]
    Node(NodeCmd),
    /// List moves of slots between nodes, or cancel one
    Moves(Moves),
    /// Run what is stored again, and compare it with what comes out
    ///
    /// Messages run in memory, on the versions that handled them; nothing that is stored changes.
    /// Exit code 1 if something differs, or if not all could be seen. See docs/replay.md.
    Audit(Audit),
    /// Write a message of a session to a file, with the state before it and what came out, to run it again elsewhere
    ///
    /// `slotd plugin replay` runs it, with no server; in a plugin's folder captures/ it is a test. Needs the right
    /// `operate`. See docs/capture.md.
    Capture(Capture),
    /// List the messages that nodes have captured by themselves when handlers trapped or were late; fetch or remove one
    Captures(Captures),
    /// List who changed what, from where, and what came of it
    ///
    /// The latest changes, the oldest of them first; in a cluster, those of all nodes. What is
    /// refused or fails is listed too. See docs/audit.md for what to look for.
    AuditLog(AuditLog),
    /// Show what services and subjects have used: messages, guest time, bytes in, sent and stored
    ///
    /// By service, by day or by subject; in a cluster, over all nodes. GIB HOURS is what was stored over time, STORED what was
    /// stored on the last day.
    Usage(Usage),
    /// Run a cluster, or its log engine, on this machine
    #[command(subcommand)]
    Cluster(ClusterCmd),
    /// Create, list and revoke tokens, or mint one for a session
    #[command(subcommand)]
    Token(TokenCmd),
    /// Explain who may do what
    #[command(subcommand)]
    Auth(AuthCmd),
    /// Make certificates of listeners, of their clients, and of a cluster's nodes
    #[command(subcommand)]
    Tls(TlsCmd),
    /// Make keys to seal data with, and see which are needed
    #[command(subcommand)]
    Seal(SealCmd),

    /// Work on a plugin: run a node with it, and swap it in each time a source file is saved
    ///
    /// Runs a node on this machine, builds the plugin in the folder, deploys it and watches its
    /// sources: each save builds it again, checks it and swaps it in while the node serves. If it
    /// does not build or slotd can't run it, the reason is shown and the previous version keeps
    /// serving. Handlers' log lines appear in between. Sessions are kept; Ctrl-C stops it.
    Dev(Dev),
    /// Create, build, test and check plugins
    #[command(subcommand)]
    Plugin(PluginCmd),
    /// Show or check the configuration that `serve` would use
    #[command(subcommand)]
    Config(ConfigCmd),
    /// Print the OpenAPI document of the HTTP API
    Openapi,
}

/// `serve`, with a flag for every key of the configuration.
#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Write {"api": ADDRESS, "admin": ADDRESS} to this file once the listeners are bound
    ///
    /// For scripts that let the system choose ports. The file appears complete or not at all.
    #[arg(long, value_name = "FILE")]
    pub addresses_file: Option<PathBuf>,
    /// For test suites: `POST /admin/v1/reset` deletes every session. Not in a cluster
    #[arg(long)]
    pub resettable: bool,
}

#[derive(Debug, Args)]
pub struct Deploy {
    /// The service's name
    pub service: String,
    /// The component, as `slotd plugin build` makes it
    pub file: PathBuf,
    /// A name for this version [default: the version in the component]
    #[arg(long)]
    pub version: Option<String>,
    #[command(flatten)]
    pub options: DeployOptionArgs,
    #[command(flatten)]
    pub canary: CanaryArgs,
    #[command(flatten)]
    pub gate: GateArgs,
    /// The component's signature, of slotd or of cosign [default: FILE.sig, if it is there]
    #[arg(long, value_name = "FILE")]
    pub signature: Option<PathBuf>,
    /// Wait until every slot has switched
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// What becomes of sessions that the version to run does not take over by itself.
#[derive(Debug, Args)]
pub struct DeployOptionArgs {
    /// Deploy even if some sessions stay on the version that last handled them
    ///
    /// They keep working on that version. Without this flag, nothing is done if any session would
    /// stay: a version that does not implement migrate takes over sessions only from earlier
    /// versions and its own.
    #[arg(long)]
    pub force: bool,
    /// Declare that this version reads every other version's state as it is: all sessions switch
    ///
    /// Applies to this deploy or rollback only. `slotd deployments` shows it as "same state". A
    /// later one to the same version needs the flag again; without it, sessions stay, or it is
    /// refused.
    #[arg(long)]
    pub same_state: bool,
    /// Your name, for `slotd deployments` [default: $USER, else $LOGNAME, else "operator"]
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
}

#[derive(Debug, Args)]
pub struct Rollback {
    /// The service's name
    pub service: String,
    /// Roll back to this version, label, deployment number or digest prefix (6 digits or more),
    /// instead of the previous version
    #[arg(long, value_name = "VERSION")]
    pub to: Option<String>,
    #[command(flatten)]
    pub options: DeployOptionArgs,
    /// Wait until every slot has switched
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Swap {
    #[command(subcommand)]
    pub cmd: Option<SwapCmd>,
    /// The service whose canary is meant; alone, as `slotd swap status`
    #[arg(required = true)]
    pub service: Option<String>,
    #[command(flatten)]
    pub canary: CanaryChangeArgs,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
pub enum ServiceCmd {
    /// Remove a service with all its sessions and deployments
    ///
    /// This can't be undone. Requests for the service get 404 (`service-not-found`) at once, while
    /// its sessions are deleted in the background; the command waits for that. On a terminal it
    /// shows what will be deleted and asks for the service's name; without one, as in a script, it
    /// needs --yes.
    Rm(ServiceRm),
}

#[derive(Debug, Args)]
pub struct ServiceRm {
    /// The service's name
    pub service: String,
    /// Don't ask; required when standard input is not a terminal
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
pub enum SwapCmd {
    /// Show the progress of a service's last swap, how long slots paused, and what is stuck
    Status(AdminService),
}

#[derive(Debug, Args)]
pub struct AdminService {
    /// The service's name
    pub service: String,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct AdminOnly {
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct Slots {
    /// List stopped slots too; a stopped slot starts at its next message
    #[arg(long, short)]
    pub all: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
pub enum SlotCmd {
    /// Show a slot
    Show(SlotArgs),
    /// Move a slot to another node, and keep it off this one until the next rebalance
    ///
    /// It finishes what is in flight; new messages wait. Refused if there is no other node.
    Drain(SlotArgs),
}

#[derive(Debug, Args)]
pub struct Level {
    /// Raise it permanently: after that no node can go back to an earlier version
    #[arg(long)]
    pub raise: bool,
    /// Raise it to this level instead of the next one
    #[arg(long, value_name = "LEVEL")]
    pub to: Option<u16>,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct Ready {
    /// Only check that the process is alive
    #[arg(long)]
    pub live: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
pub enum NodeCmd {
    /// Move all of a node's slots to other nodes and stop it, as SIGTERM does; works from any node
    ///
    /// The process exits with code 0. A service manager may restart it.
    Drain(NodeDrain),
    /// Forget a node that is gone for good: the feature level no longer waits for it
    ///
    /// Refused while the node is alive. A node that is away for 30 days is forgotten by itself.
    Forget(NodeForget),
}

#[derive(Debug, Args)]
pub struct NodeDrain {
    /// The node's name, as `slotd nodes` shows it
    pub node: String,
    /// Wait until no node sees it any more, for at most --timeout [default: 3m]
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct NodeForget {
    /// The node's name, as `slotd level` shows it
    pub node: String,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct Moves {
    /// Cancel the move with this ID to --node, if the slot has not left yet; it stays until nodes
    /// join or leave, or until a rebalance
    #[arg(long, value_name = "ID", requires = "node")]
    pub cancel: Option<u64>,
    /// The node that the slot was to move to
    #[arg(long, value_name = "NODE", requires = "cancel")]
    pub node: Option<String>,
    /// The maximum number of ended moves to list
    #[arg(short = 'n', value_name = "N", default_value_t = 20, conflicts_with = "cancel")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=limits::PAGE_ENTRIES_MAX as u64))]
    pub last: u64,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct SlotArgs {
    /// The slot's number
    pub slot: u16,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
pub enum PluginCmd {
    /// Create a plugin: a handler, its tests, and the files to build them
    New {
        /// The plugin's name
        name: String,
        /// The language
        #[arg(long, value_enum, default_value_t = Lang::Rust)]
        lang: Lang,
        /// The folder to create [default: ./NAME]
        #[arg(long, value_name = "DIR")]
        path: Option<PathBuf>,
        /// The folder of the Rust guest SDK to depend on
        #[arg(long, value_name = "DIR")]
        sdk: Option<PathBuf>,
    },
    /// Build a plugin into a component
    ///
    /// Missing tools are fetched with the language's package manager, at pinned versions, into the
    /// plugin's folder .slotd/tools, or into $SLOTD_TOOLS_DIR.
    Build {
        /// The plugin's folder
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// The cargo profile, for Rust [default: release]
        #[arg(long)]
        profile: Option<String>,
        /// The file to write the component to
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Run a plugin's own tests with its language's usual test runner
    ///
    /// Uses cargo test, node --test, python -m unittest, or C's test program, and exits with its
    /// exit code.
    ///
    /// With --wasm it builds the component instead and plays scripts to it, in the same plugin host
    /// that a node uses. A script is JSON lines, each a message and its expected result; see
    /// docs/plugins.md.
    ///
    /// Either way, captures in the folder captures/ run on the built component, and have to come out
    /// right; see docs/capture.md.
    Test {
        /// The plugin's folder
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// Play scripts, and captures (*.json), to the built component [default: script.jsonl, tests/*.jsonl and
        /// captures/*.json]
        #[arg(long, value_name = "SCRIPT", num_args = 0..)]
        wasm: Option<Vec<PathBuf>>,
        /// With --wasm: test this component instead of building one
        #[arg(long, value_name = "FILE", requires = "wasm")]
        component: Option<PathBuf>,
        /// More arguments for the test runner
        #[arg(last = true, conflicts_with = "wasm")]
        args: Vec<OsString>,
    },
    /// Run a plugin under virtual time, with failures at every message, and look for what breaks it
    ///
    /// Sends messages that a schema or scripts describe, again and again, fails the node before each
    /// commit, repeats messages, fires timers late, answers in any order, and switches to a second version.
    /// After each step, what must hold is looked at: of every plugin (no trap, no limit, nothing kept
    /// between calls) and by the plugin's own rules. What breaks is shortened to a script, which `slotd plugin test --wasm`
    /// plays. The same seed does the same. Exits with 8 if something breaks. See docs/plugins-sim.md.
    Sim(SimArgs),
    /// Run a capture again, with no server, and show in what it differs
    ///
    /// Without --wasm it runs on the component in the file, and shows whether the same comes out. With
    /// --wasm it runs on a new version, `migrate` first, as in a swap, and has to come out right: as the
    /// file expects, else without the failure that was captured, else as before. Exits with 1 if not.
    /// See docs/capture.md.
    Replay(ReplayArgs),
    /// Install what building Rust or C plugins needs
    ///
    /// For Rust: rustup's targets or, if they can't be fetched, Debian's packages. For C: Debian's
    /// packages of clang, its linker and wasi-libc. Does nothing if all is installed, and prints
    /// what it did. The other languages need no setup: their tools are fetched when a plugin is
    /// built.
    Setup {
        /// The language
        #[arg(long, value_enum, default_value_t = Lang::Rust)]
        lang: Lang,
        /// The folder whose toolchain is set up
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// Show what a file is, what it imports and exports, and whether slotd can run it
    Check {
        /// The component
        file: PathBuf,
    },
    /// Print the types of a plugin's messages, for who writes a client
    ///
    /// For TypeScript: `Message`, `Reply`, `Query`, `Answer`, `Events`, `Notifications`, those that it
    /// has, and `Types` with all of them, for `slotd.session<Types>(...)` of the client library. They
    /// come from the JSON Schemas that the plugin's manifest names and its component carries; see
    /// docs/plugins.md.
    Types(Box<TypesArgs>),
    /// Make a key to sign components with: OUT.pem, which only you can read, and OUT.pub.pem
    ///
    /// Name the public one in the policy as a `[[key]]`, and in the `deploy_keys` of services: then
    /// only what this key has signed can be deployed to them. It prints the public key as the policy
    /// has it. Files that are there are not changed.
    Keygen {
        /// The files' name, without an extension
        out: PathBuf,
    },
    /// Sign a component: writes FILE.sig, which `slotd deploy FILE` sends along
    Sign {
        /// The component
        file: PathBuf,
        /// The private key, as `slotd plugin keygen` makes it
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Check whether the owner of a key has signed a component
    Verify {
        /// The component
        file: PathBuf,
        /// The public key: a file with PEM, also one of cosign
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The signature, of slotd or of cosign [default: FILE.sig]
        #[arg(long, value_name = "FILE")]
        sig: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub enum ConfigCmd {
    /// Print every value and its source, as a valid configuration file
    Print(ConfigArgs),
    /// Only check that the configuration is valid
    Check(ConfigArgs),
}
