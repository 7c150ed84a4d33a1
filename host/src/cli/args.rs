//! The definition of the command line.

use super::{
    client::{ADMIN, API, Client},
    cluster::ClusterCmd,
    dev::Dev,
    exit::{CliError, Exit},
};
use crate::{
    config::{
        Kind, Loaded, Sources, Value,
        docs::flag_help,
        keys::{KEYS, Key},
        load,
    },
    limits,
};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand};
use slotd_toolchains::Lang;
use std::{ffi::OsString, path::PathBuf, sync::LazyLock, time::Duration};

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
    Deploy(Deploy),
    /// Roll back to the previous version
    Rollback(Rollback),
    /// List the deployed services
    Services(AdminOnly),
    /// List a service's deployments, and how many sessions each handled last
    Deployments(AdminService),
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
    /// Drain a node: move all its slots to other nodes, then stop it
    #[command(subcommand)]
    Node(NodeCmd),
    /// List moves of slots between nodes, or cancel one
    Moves(Moves),
    /// Run a cluster, or its log engine, on this machine
    #[command(subcommand)]
    Cluster(ClusterCmd),

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
    pub said: SaidArgs,
    /// Wait until every slot has switched
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// What becomes of sessions that the version to run does not take over by itself.
#[derive(Debug, Args)]
pub struct SaidArgs {
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
    pub said: SaidArgs,
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
    /// As `slotd swap status`, from before it was called that
    #[arg(hide = true, required = true)]
    pub service: Option<String>,
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
pub struct Send {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// The body; `-` reads it from standard input [default: empty]
    #[arg(allow_hyphen_values = true)]
    pub body: Option<String>,
    /// The body's type [default: application/json if it is JSON, else text or bytes]
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// The sender's name
    #[arg(long, value_name = "NAME")]
    pub sender: Option<String>,
    /// The idempotency key: messages with the same key are applied once and get the same reply
    #[arg(long, value_name = "KEY")]
    pub id: Option<String>,
    #[command(flatten)]
    pub api: ApiArgs,
}

#[derive(Debug, Args)]
pub struct Query {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// The body; `-` reads it from standard input [default: empty]
    #[arg(allow_hyphen_values = true)]
    pub body: Option<String>,
    /// The body's type [default: application/json if it is JSON, else text or bytes]
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    #[command(flatten)]
    pub api: ApiArgs,
}

#[derive(Debug, Args)]
pub struct Tail {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// Keep printing new events until Ctrl-C; reconnects without gaps or repeats
    #[arg(long, short)]
    pub follow: bool,
    /// Start after this message (0: from the beginning), or after this position, such as an event's
    /// id
    #[arg(long, value_name = "SEQ", conflicts_with = "last")]
    pub after: Option<String>,
    /// Start with the events of the last N messages
    #[arg(short = 'n', value_name = "N", default_value_t = 10)]
    pub last: u64,
    #[command(flatten)]
    pub api: ApiArgs,
}

#[derive(Debug, Args)]
pub struct History {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// Messages after this position (as printed by slotd) or message number (0: from the first),
    /// instead of the last ones
    #[arg(long, value_name = "SEQ")]
    pub after: Option<String>,
    /// The maximum number to list
    #[arg(short = 'n', value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=limits::PAGE_ENTRIES_MAX as u64))]
    pub limit: u64,
    #[command(flatten)]
    pub api: ApiArgs,
}

#[derive(Debug, Args)]
pub struct Sessions {
    /// The service's name
    pub service: String,
    /// Only ids that start with this
    #[arg(long)]
    pub prefix: Option<String>,
    /// Only ids after this one
    #[arg(long, value_name = "SESSION")]
    pub after: Option<String>,
    /// The maximum number to list
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Only sessions that stay on an older version, because the newer one refused to migrate them
    #[arg(long, conflicts_with = "prefix")]
    pub pinned: bool,
    #[command(flatten)]
    pub api: ApiArgs,
    #[command(flatten)]
    pub admin: AdminOnlyArgs,
}

#[derive(Debug, Subcommand)]
pub enum SessionCmd {
    /// Show a session
    Show(SessionArgs),
    /// Print a session's state, or the raw bytes of one value
    State(SessionState),
    /// Correct a value of a session's state, without its handler
    ///
    /// The correction is recorded in the session's history with its own number, who made it and
    /// why. Works even if the handler can't read the state.
    Set(SessionSet),
    /// Write a session to a file, with its state and history
    Export(SessionExport),
    /// Create a session from a file that `export` wrote
    Import(SessionImport),
    /// Delete a session, or all sessions with an id prefix, permanently
    Delete(SessionDelete),
}

#[derive(Debug, Args)]
pub struct SessionState {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// Print only this key's value, as raw bytes
    pub key: Option<String>,
    /// Only keys that start with this
    #[arg(long, conflicts_with = "key")]
    pub prefix: Option<String>,
    /// Only keys after this one
    #[arg(long, value_name = "KEY", conflicts_with = "key")]
    pub after: Option<String>,
    /// The maximum number to list
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct SessionSet {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// The key
    pub key: String,
    /// The value, as JSON; `-` reads it from standard input
    #[arg(allow_hyphen_values = true, conflicts_with = "delete")]
    pub value: Option<String>,
    /// Delete the key
    #[arg(long)]
    pub delete: bool,
    /// Store the value's bytes as they are, JSON or not
    #[arg(long)]
    pub raw: bool,
    /// The reason, for the session's history
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Your name, for the session's history [default: $USER, else $LOGNAME, else "operator"]
    #[arg(long = "as", value_name = "NAME")]
    pub who: Option<String>,
    /// Only if the session is still at this position, which `session state` prints (`as of ...`):
    /// nothing is done if a message has come since
    #[arg(long, value_name = "POSITION")]
    pub if_position: Option<String>,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct SessionExport {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// The file to write [default, and `-`: standard output]
    pub file: Option<PathBuf>,
    /// Leave the history out
    #[arg(long)]
    pub no_history: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct SessionImport {
    /// The service's name
    pub service: String,
    /// The session's id; may differ from the exported one
    pub session: String,
    /// The file
    pub file: PathBuf,
    /// Replace an existing session, and delete its history
    #[arg(long)]
    pub replace: bool,
    /// Assume that the current version can read the state, if the service never had the version
    /// that wrote it
    #[arg(long)]
    pub assume_current: bool,
    /// Your name, for the session's history [default: $USER, else $LOGNAME, else "operator"]
    #[arg(long = "as", value_name = "NAME")]
    pub who: Option<String>,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct SessionDelete {
    /// The service's name
    pub service: String,
    /// The session's id; to delete by prefix, use --prefix
    #[arg(conflicts_with = "prefix")]
    pub session: Option<String>,
    /// Delete all sessions whose ids start with this. Counts them first. If interrupted, run it again
    #[arg(long)]
    pub prefix: Option<String>,
    /// Only count the sessions
    #[arg(long, requires = "prefix", conflicts_with = "yes")]
    pub dry_run: bool,
    /// Delete the counted sessions
    #[arg(long, requires = "prefix")]
    pub yes: bool,
    #[command(flatten)]
    pub api: ApiArgs,
    #[command(flatten)]
    pub admin: AdminOnlyArgs,
}

#[derive(Debug, Args)]
pub struct SessionArgs {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    #[command(flatten)]
    pub api: ApiArgs,
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
    Test {
        /// The plugin's folder
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// Play scripts to the built component [default: script.jsonl and tests/*.jsonl]
        #[arg(long, value_name = "SCRIPT", num_args = 0..)]
        wasm: Option<Vec<PathBuf>>,
        /// With --wasm: test this component instead of building one
        #[arg(long, value_name = "FILE", requires = "wasm")]
        component: Option<PathBuf>,
        /// More arguments for the test runner
        #[arg(last = true, conflicts_with = "wasm")]
        args: Vec<OsString>,
    },
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
}

#[derive(Debug, Subcommand)]
pub enum ConfigCmd {
    /// Print every value and its source, as a valid configuration file
    Print(ConfigArgs),
    /// Only check that the configuration is valid
    Check(ConfigArgs),
}

// ---- where to, and who -------------------------------------------------------------------------

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct ApiArgs {
    /// The URL of the node's API
    #[arg(long, env = "SLOTD_URL", value_name = "URL", default_value = "http://127.0.0.1:7070")]
    #[arg(hide_env_values = true)]
    pub url: String,
    /// The API's bearer token
    #[arg(long, env = "SLOTD_API_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct AdminArgs {
    #[command(flatten)]
    pub admin: AdminOnlyArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct AdminOnlyArgs {
    /// The URL of the node's admin API
    #[arg(long, env = "SLOTD_ADMIN_URL", value_name = "URL")]
    #[arg(default_value = "http://127.0.0.1:7071", hide_env_values = true)]
    pub admin_url: String,
    /// The admin API's bearer token
    #[arg(long, env = "SLOTD_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub admin_token: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct WaitArgs {
    /// How long to wait for an answer [default: 30s; 3m for a deploy]
    #[arg(long, env = "SLOTD_TIMEOUT", value_name = "TIME", hide_env_values = true)]
    #[arg(value_parser = timeout)]
    pub timeout: Option<Duration>,
}

fn timeout(raw: &str) -> Result<Duration, String> {
    let kind =
        Kind::Duration { min: Duration::from_millis(1), max: Duration::from_secs(24 * 3_600) };
    match kind.parse(raw) {
        Some(Value::Duration(time)) => Ok(time),
        _ => Err(format!("it must be {}", kind.allowed())),
    }
}

fn given(token: &Option<String>) -> Option<String> {
    token.clone().filter(|token| !token.is_empty())
}

impl ApiArgs {
    /// # Errors
    /// The URL is invalid.
    pub fn client(&self) -> Result<Client, CliError> {
        let timeout = self.wait.timeout.unwrap_or(limits::CLIENT_TIMEOUT_DEFAULT);
        Client::new(&self.url, given(&self.token), timeout, API)
    }
}

impl AdminOnlyArgs {
    /// # Errors
    /// The URL is invalid.
    pub fn client(&self, timeout: Duration) -> Result<Client, CliError> {
        Client::new(&self.admin_url, given(&self.admin_token), timeout, ADMIN)
    }
}

impl AdminArgs {
    /// # Errors
    /// The URL is invalid.
    pub fn client(&self) -> Result<Client, CliError> {
        self.client_waiting(limits::CLIENT_TIMEOUT_DEFAULT)
    }
    /// With another default for how long to wait.
    ///
    /// # Errors
    /// The URL is invalid.
    pub fn client_waiting(&self, timeout: Duration) -> Result<Client, CliError> {
        self.admin.client(self.wait.timeout.unwrap_or(timeout))
    }
}

// ---- the configuration's flags -----------------------------------------------------------------

/// `--config`, and a flag for every key, made from the table of keys.
#[derive(Clone, Debug, Default)]
pub struct ConfigArgs {
    pub file: Option<PathBuf>,
    pub flags: Vec<(&'static str, String)>,
}

impl ConfigArgs {
    /// # Errors
    /// Everything that is wrong with the configuration.
    pub fn load(self) -> Result<Loaded, CliError> {
        load(&Sources::of_process(self.file, self.flags))
            .map_err(|problems| CliError::new(Exit::Usage, problems.to_string()))
    }
}

impl FromArgMatches for ConfigArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }
    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.file = matches.get_one::<PathBuf>("config").cloned();
        for key in KEYS {
            if let Some(value) = matches.get_one::<String>(key.name) {
                self.flags.push((key.name, value.clone()));
            }
        }
        Ok(())
    }
}

impl Args for ConfigArgs {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help(
                "The configuration file [default: $SLOTD_CONFIG, else ./slotd.toml if it exists]",
            );
        // clap keeps names for as long as the program runs.
        static FLAGS: LazyLock<Vec<String>> =
            LazyLock::new(|| KEYS.iter().map(Key::flag).collect());
        KEYS.iter().zip(&*FLAGS).fold(command.arg(file), |command, (key, flag)| {
            let help = flag_help(key);
            // The short help has the first sentence; `--help` has all.
            let short = help.split(". ").next().unwrap_or(&help).trim_end_matches('.').to_string();
            let arg = Arg::new(key.name)
                .long(flag.as_str())
                .help_heading("Configuration (docs/configuration.md)")
                .help(short)
                .long_help(help)
                .action(ArgAction::Set);
            command.arg(match key.kind {
                Kind::Flag => arg
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true")
                    .value_name("true|false"),
                kind => arg.value_name(value_name(&kind)).allow_hyphen_values(true),
            })
        })
    }
    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn value_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Count { .. } | Kind::OneOf(_) => "N",
        Kind::Size { .. } => "SIZE",
        Kind::Duration { .. } => "TIME",
        Kind::Address => "IP:PORT",
        Kind::Name | Kind::ClusterName => "NAME",
        Kind::Path => "PATH",
        Kind::Secret => "TOKEN",
        Kind::Choice(_) => "WORD",
        Kind::NatsServers => "URLS",
        Kind::Monitors => "URLS",
        Kind::Seeds => "PEERS",
        Kind::Snapshots => "URL",
        Kind::Filter => "FILTER",
        Kind::Flag => "true|false",
    }
}
