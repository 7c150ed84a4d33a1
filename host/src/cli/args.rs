//! The command line, described.

use super::{
    client::{ADMIN, API, Client},
    cluster::ClusterCmd,
    dev::Dev,
    exit::{CliError, Exit},
    plugin::Lang,
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
use std::{ffi::OsString, path::PathBuf, sync::LazyLock, time::Duration};

/// A WebAssembly-pluggable sharding host: durable sessions, handled by plugins that are swapped
/// while they serve.
#[derive(Debug, Parser)]
#[command(name = "slotd", version, max_term_width = 100, after_help = AFTER_HELP)]
#[command(propagate_version = false, disable_help_subcommand = true, subcommand_required = true)]
#[command(arg_required_else_help = true)]
pub struct Cli {
    /// Print JSON: the server's own answers as they came, and errors as one object on standard error
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
    /// SIGINT (Ctrl-C) stops it: it takes no more, finishes what is in flight, and exits with 0.
    Serve(Serve),

    /// Deploy a component as a service, or swap a service to it while it serves
    Deploy(Deploy),
    /// Go back to the version before
    Rollback(Rollback),
    /// List what is deployed
    Services(AdminOnly),
    /// List a service's deployments, with the sessions that each handled last
    Deployments(AdminService),
    /// Show how far a service's last swap is
    Swap(Swap),
    /// Remove a service
    #[command(subcommand)]
    Service(ServiceCmd),

    /// Send a message to a session and print the reply
    Send(Send),
    /// Ask a session something without changing it
    Query(Query),
    /// Print a session's events, and with --follow what comes
    Tail(Tail),
    /// Print a session's messages with their replies
    History(History),
    /// List a service's sessions
    Sessions(Sessions),
    /// Show, correct, export, import or delete sessions
    #[command(subcommand)]
    Session(SessionCmd),

    /// List the slots that run, the busiest if they are many
    Slots(Slots),
    /// Show or drain one slot
    #[command(subcommand)]
    Slot(SlotCmd),
    /// Move slots to where the ring wants them
    ///
    /// Also those that were drained by hand: they are kept off their node until then.
    Rebalance(AdminOnly),
    /// Show which node should have which slots
    Ring(AdminOnly),
    /// List the nodes, what each has and whom it sees
    ///
    /// Ask any node: it asks all others. OWNS are the slots that a node has, SHOULD those that the
    /// ring of its view gives it; they are equal when all is settled.
    Nodes(AdminOnly),
    /// Ask whether a node can take requests: exit code 0 if so, 5 if not yet, 3 if it is not there
    ///
    /// For health checks of containers without another program in them.
    Ready(Ready),
    /// Drain a node: it gives all its slots away and ends
    #[command(subcommand)]
    Node(NodeCmd),
    /// List slots on their way between nodes, or cancel a move
    Moves(Moves),
    /// Run a cluster, or its log engine, on this machine
    #[command(subcommand)]
    Cluster(ClusterCmd),

    /// Work on a plugin: run a node with it, and swap it in each time a source file is saved
    ///
    /// Runs a node on this machine, builds the plugin in the folder, deploys it and watches its
    /// sources: each save builds it anew, checks it and swaps it in while the node serves. What
    /// does not build or does not fit is shown, and the version before goes on. Handlers' log
    /// lines stand between. Sessions are kept; Ctrl-C ends it.
    Dev(Dev),
    /// Begin, build, test and check plugins
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
    /// For scripts that let the system choose ports. The file is there in whole or not at all.
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
    /// A name for this version; without it the one that the component carries
    #[arg(long)]
    pub version: Option<String>,
    #[command(flatten)]
    pub said: SaidArgs,
    /// Wait until every slot has moved
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// What becomes of sessions that the version to run does not take over by itself.
#[derive(Debug, Args)]
pub struct SaidArgs {
    /// Go on although sessions stay behind, on the version that handled them last
    ///
    /// They keep working there. Without it nothing is done where some would: a version that has no
    /// migrate of its own takes sessions over from earlier versions and from its own only.
    #[arg(long)]
    pub force: bool,
    /// Say that this version reads the state of every other one as it is: all sessions go over
    ///
    /// It holds for this deploy or rollback. `slotd deployments` shows it as "same state"; another one
    /// to the same version has to say it again, and without it sessions stay, or it is refused.
    #[arg(long)]
    pub same_state: bool,
    /// Who does it, for `slotd deployments` [default: $USER, else $LOGNAME, else "operator"]
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
}

#[derive(Debug, Args)]
pub struct Rollback {
    /// The service's name
    pub service: String,
    /// Go to this version, label, deployment's number or digest's first digits (6 or more), not to
    /// what ran before
    #[arg(long, value_name = "VERSION")]
    pub to: Option<String>,
    #[command(flatten)]
    pub said: SaidArgs,
    /// Wait until every slot has moved
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
    /// Nothing brings them back. From then on requests for the service are refused with 404
    /// (`service-not-found`), while its sessions are deleted in the background; the command waits for
    /// that. On a terminal it says first what there is, and asks for the service's name; where there
    /// is none, as in a script, it needs --yes.
    Rm(ServiceRm),
}

#[derive(Debug, Args)]
pub struct ServiceRm {
    /// The service's name
    pub service: String,
    /// Don't ask; needed where standard input is no terminal
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
pub enum SwapCmd {
    /// Show how far a service's last swap is, how long slots paused, and what does not proceed
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
    /// The body; `-` reads it from standard input; without it the body is empty
    #[arg(allow_hyphen_values = true)]
    pub body: Option<String>,
    /// The body's type; without it application/json where it is JSON, else text or bytes
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// Who sends it
    #[arg(long, value_name = "NAME")]
    pub sender: Option<String>,
    /// The idempotency key: a message with the same one is applied once, and answered the same
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
    /// The body; `-` reads it from standard input; without it the body is empty
    #[arg(allow_hyphen_values = true)]
    pub body: Option<String>,
    /// The body's type; without it application/json where it is JSON, else text or bytes
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
    /// Go on with what comes, until Ctrl-C; reconnects without gap or repeat
    #[arg(long, short)]
    pub follow: bool,
    /// Begin after this message (0: at the beginning), or after this position, as given (an
    /// event's id, say)
    #[arg(long, value_name = "SEQ", conflicts_with = "last")]
    pub after: Option<String>,
    /// Begin with the events of the last N messages
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
    /// Messages after this position, as slotd gave it, or after a message's number (0: from the
    /// first), rather than the last
    #[arg(long, value_name = "SEQ")]
    pub after: Option<String>,
    /// At most so many
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
    /// At most so many
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Only those that stay on an older version, because the newer one refused to migrate them
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
    /// Print a session's state, or one value of it as it is
    State(SessionState),
    /// Correct a value of a session's state, beside its handler
    ///
    /// The correction stands in the session's history, with a number of its own, who made it and
    /// why. It works where the handler can't read the state.
    Set(SessionSet),
    /// Write a session to a file, with its state and history
    Export(SessionExport),
    /// Make a session of a file that `export` wrote
    Import(SessionImport),
    /// Delete a session, or all whose ids begin alike, with all they have; there is no way back
    Delete(SessionDelete),
}

#[derive(Debug, Args)]
pub struct SessionState {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// Only this key's value, as it is
    pub key: Option<String>,
    /// Only keys that start with this
    #[arg(long, conflicts_with = "key")]
    pub prefix: Option<String>,
    /// Only keys after this one
    #[arg(long, value_name = "KEY", conflicts_with = "key")]
    pub after: Option<String>,
    /// At most so many
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
    /// Take the value as it is, be it JSON or not
    #[arg(long)]
    pub raw: bool,
    /// Why, for the session's history
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Who does it, for the session's history [default: $USER, else $LOGNAME, else "operator"]
    #[arg(long = "as", value_name = "NAME")]
    pub who: Option<String>,
    /// Only if the session is still at this position, which `session state` prints (`as of ...`):
    /// nothing is done if a message came since
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
    /// Where to; without it, or with `-`, standard output
    pub file: Option<PathBuf>,
    /// The state alone
    #[arg(long)]
    pub no_history: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct SessionImport {
    /// The service's name
    pub service: String,
    /// The session's id; need not be the one that was exported
    pub session: String,
    /// The file
    pub file: PathBuf,
    /// In place of a session that is there, which goes with its history
    #[arg(long)]
    pub replace: bool,
    /// Take the state for one of the current version, if the service never had its own
    #[arg(long)]
    pub assume_current: bool,
    /// Who does it, for the session's history [default: $USER, else $LOGNAME, else "operator"]
    #[arg(long = "as", value_name = "NAME")]
    pub who: Option<String>,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct SessionDelete {
    /// The service's name
    pub service: String,
    /// The session's id; for all whose ids begin alike there is --prefix
    #[arg(conflicts_with = "prefix")]
    pub session: Option<String>,
    /// All whose ids start with this; they are counted first. May be run again when it was cut short
    #[arg(long)]
    pub prefix: Option<String>,
    /// Only count them
    #[arg(long, requires = "prefix", conflicts_with = "yes")]
    pub dry_run: bool,
    /// Delete what was counted
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
    /// Every slot, also those that are stopped; they start at their next message
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
    /// It finishes what it has in flight; messages that come meanwhile wait. Where there is no other
    /// node it is refused.
    Drain(SlotArgs),
}

#[derive(Debug, Args)]
pub struct Ready {
    /// Only whether the process serves
    #[arg(long)]
    pub live: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
pub enum NodeCmd {
    /// Have a node give all its slots away and end, as SIGTERM does; from any node
    ///
    /// The process ends with exit code 0. A service manager that starts it again brings it back.
    Drain(NodeDrain),
}

#[derive(Debug, Args)]
pub struct NodeDrain {
    /// The node's name, as `slotd nodes` shows it
    pub node: String,
    /// Wait until no node sees it any more, at most --timeout [default: 3m]
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct Moves {
    /// Cancel the move of this ID to --node, while the slot still is where it was; it stays there
    /// until the view changes, or a rebalance
    #[arg(long, value_name = "ID", requires = "node")]
    pub cancel: Option<u64>,
    /// The node that the slot would move to
    #[arg(long, value_name = "NODE", requires = "cancel")]
    pub node: Option<String>,
    /// At most so many that have ended
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
    /// Write a plugin to begin with: a handler, its tests, and what builds them
    New {
        /// The plugin's name
        name: String,
        /// The language
        #[arg(long, value_enum, default_value_t = Lang::Rust)]
        lang: Lang,
        /// Where to put it; without it a folder of that name here
        #[arg(long, value_name = "DIR")]
        path: Option<PathBuf>,
        /// The folder of Rust's guest SDK to depend on
        #[arg(long, value_name = "DIR")]
        sdk: Option<PathBuf>,
    },
    /// Build a plugin to a component
    ///
    /// What is missing is fetched with the language's own package manager, at pinned versions, into
    /// the plugin's folder .slotd/tools, or that which $SLOTD_TOOLS_DIR names.
    Build {
        /// The plugin's folder
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// The cargo profile, for Rust [default: release]
        #[arg(long)]
        profile: Option<String>,
        /// Where to put the component
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Run a plugin's own tests, with its language's usual runner
    ///
    /// cargo test, node --test, python -m unittest, or C's test program. Ends with its exit code.
    ///
    /// With --wasm it builds the component instead and plays scripts to it, in the plugin host that
    /// a node has: JSON lines, each a message and what must come of it, as docs/plugins.md says.
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
        /// Further arguments, for the runner
        #[arg(last = true, conflicts_with = "wasm")]
        args: Vec<OsString>,
    },
    /// Set up what building Rust or C plugins needs, and say what was done
    ///
    /// For Rust, rustup's targets or, where they cannot be fetched, Debian's packages; for C,
    /// Debian's packages of clang, its linker and wasi-libc. Does nothing where all is there. The
    /// other languages need nothing, and it says so: what building them needs is fetched when they
    /// are built.
    Setup {
        /// The language
        #[arg(long, value_enum, default_value_t = Lang::Rust)]
        lang: Lang,
        /// The folder whose toolchain counts
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// Say what a file is, what it imports and exports, and whether slotd can run it
    Check {
        /// The component
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum ConfigCmd {
    /// Print every value and where it came from, as a file that could be used
    Print(ConfigArgs),
    /// Only say whether all is well
    Check(ConfigArgs),
}

// ---- where to, and who -------------------------------------------------------------------------

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct ApiArgs {
    /// The node's API
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
    /// The node's admin API
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
    /// How long to wait for an answer [default: 30s, for a deploy 3m]
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
    /// The URL is none.
    pub fn client(&self) -> Result<Client, CliError> {
        let timeout = self.wait.timeout.unwrap_or(limits::CLIENT_TIMEOUT_DEFAULT);
        Client::new(&self.url, given(&self.token), timeout, API)
    }
}

impl AdminOnlyArgs {
    /// # Errors
    /// The URL is none.
    pub fn client(&self, timeout: Duration) -> Result<Client, CliError> {
        Client::new(&self.admin_url, given(&self.admin_token), timeout, ADMIN)
    }
}

impl AdminArgs {
    /// # Errors
    /// The URL is none.
    pub fn client(&self) -> Result<Client, CliError> {
        self.client_waiting(limits::CLIENT_TIMEOUT_DEFAULT)
    }
    /// With another default for how long to wait.
    ///
    /// # Errors
    /// The URL is none.
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
                "The configuration file; without it $SLOTD_CONFIG, else ./slotd.toml if it exists",
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
