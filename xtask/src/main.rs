//! The project's development commands: `cargo xtask setup|test|demo|bench|soak|clients|lint`.

mod circles;
mod clients;
mod languages;
mod nats;
mod old;
mod packages;
mod seams;

use anyhow::{Context, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use languages::{LANGUAGES, Language, Paths};
use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// The included components in Rust, each from its crate under `plugins/`.
const PLUGINS: &[&str] = &[
    "counter",
    "counter-1-0",
    "chat-v1",
    "chat-v2",
    "context-window",
    "hostile-v1",
    "hostile-v2",
    "kitchen-sink",
    "reservation",
];

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Sets up, tests, shows and measures slotd")]
struct Args {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs the tools for building plugins and reports what it did; does nothing the second time
    Setup,
    /// Runs every test: the workspace's and the plugins' own
    Test {
        /// Passed on to `cargo test --workspace`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<OsString>,
    },
    /// Runs the demo: replays conversations and swaps the plugin meanwhile
    Demo {
        /// Show a cluster: replay while nodes join, leave and are killed
        #[arg(long)]
        cluster: bool,
        /// Show agents: sessions that ask a language model, while a node is killed and the plugin is swapped
        #[arg(long, conflicts_with_all = ["cluster", "conversations", "clients"])]
        agent: bool,
        /// Stop after the report instead of serving until Ctrl-C
        #[arg(long)]
        exit: bool,
        /// A folder of JSONL conversations [default: examples/conversations]
        #[arg(long, value_name = "DIR")]
        conversations: Option<PathBuf>,
        /// Concurrent clients, at least one per conversation
        #[arg(long, value_name = "N")]
        clients: Option<usize>,
        #[arg(long, value_enum, default_value = "release")]
        profile: Profile,
    },
    /// Benchmarks slotd against a minimal durable server, and measures its memory
    Bench {
        /// Measure a cluster of three nodes and three NATS servers
        #[arg(long)]
        cluster: bool,
        /// Measure the cost of a handler in each language
        #[arg(long, conflicts_with = "cluster")]
        languages: bool,
        /// Measure only what handlers let slotd do: the parts `ephemeral`, `timers` and `sends`
        #[arg(long, conflicts_with_all = ["cluster", "languages"])]
        effects: bool,
        /// Passed on to the benchmark, as in `--parts sockets`: see `cargo xtask bench [--cluster|--languages|--effects] -- --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<OsString>,
    },
    /// Runs hostile plugins, clients and uploads against a node or a cluster, and reports what failed
    Soak {
        /// Minutes under pressure [default: 2]
        #[arg(long, value_name = "N")]
        minutes: Option<f64>,
        /// Hours under pressure
        #[arg(long, value_name = "N", conflicts_with = "minutes")]
        hours: Option<f64>,
        /// Use three nodes with three NATS servers instead of one node
        #[arg(long)]
        cluster: bool,
        #[arg(long, value_enum, default_value = "release")]
        profile: Profile,
        /// Passed on: see `cargo xtask soak -- --help`
        #[arg(last = true)]
        rest: Vec<OsString>,
    },
    /// Builds the client libraries into the target directory, and runs their own tests
    Clients,
    /// Checks the format, lints, and that slotd's modules have no cyclic dependencies
    Lint,
}

#[derive(Clone, Copy, ValueEnum)]
enum Profile {
    Dev,
    Release,
}

/// Which of the included plugins a program needs.
#[derive(Clone, Copy)]
enum Plugins {
    Rust,
    All,
}

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let work = Workshop { root: root.to_owned(), started: Instant::now() };
    match Args::parse().command {
        Task::Setup => {
            work.build(Profile::Dev)?;
            work.setup(Profile::Dev)?;
            work.nats()?;
            work.languages();
            Ok(())
        }
        Task::Test { rest } => work.test(&rest),
        Task::Demo { cluster, agent, exit, conversations, clients, profile } => {
            let mut args: Vec<OsString> = Vec::new();
            args.extend(exit.then(|| "--exit".into()));
            if let Some(dir) = conversations {
                args.extend(["--conversations".into(), std::path::absolute(dir)?.into()]);
            }
            args.extend(
                clients.into_iter().flat_map(|n| ["--clients".into(), n.to_string().into()]),
            );
            let name = match (cluster, agent) {
                (_, true) => "demo-agent",
                (true, false) => "demo-cluster",
                (false, false) => "demo",
            };
            work.program(name, profile, Plugins::Rust, cluster || agent, &args)
        }
        Task::Bench { cluster, languages, effects, rest } => {
            // The rest includes everything after its first argument.
            let is_name = |arg: &OsString| {
                ["--cluster", "--languages", "--effects"].iter().any(|it| arg == it)
            };
            let (named, mut rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(is_name);
            let named = |name: &str| named.iter().any(|arg| arg == name);
            let cluster = cluster || named("--cluster");
            let languages = languages || named("--languages");
            let effects = effects || named("--effects");
            let name = match (cluster, languages, effects) {
                (true, false, false) => "bench-cluster",
                (false, true, false) => "bench-languages",
                (false, false, _) => "bench",
                _ => bail!("--cluster, --languages and --effects are benchmarks of their own"),
            };
            if effects {
                rest.extend(["--parts".into(), "ephemeral,timers,sends,requests".into()]);
            }
            let plugins = match name {
                "bench-languages" => Plugins::All,
                "bench" if measures_languages(&rest) => Plugins::All,
                _ => Plugins::Rust,
            };
            work.program(name, Profile::Release, plugins, name == "bench-cluster", &rest)
        }
        Task::Soak { minutes, hours, cluster, profile, mut rest } => {
            for (name, value) in [("--minutes", minutes), ("--hours", hours)] {
                rest.extend(value.into_iter().flat_map(|n| [name.into(), n.to_string().into()]));
            }
            rest.extend(cluster.then(|| "--cluster".into()));
            work.program("soak", profile, Plugins::Rust, cluster, &rest)
        }
        Task::Clients => {
            let out = work.target().join("clients");
            clients::typescript_tests(&work.root, &out, &work.clients(&out)?)
        }
        Task::Lint => work.lint(),
    }
}

/// Whether the benchmark's part `languages` is requested: by its name, or with all parts.
fn measures_languages(rest: &[OsString]) -> bool {
    let parts = |arg: &OsString| arg.to_string_lossy().starts_with("--parts");
    let languages = |arg: &OsString| arg.to_string_lossy().contains("languages");
    rest.iter().any(languages) || !rest.iter().any(parts)
}

/// The languages whose plugins are built, and those whose tools are not available, with the reason.
struct Found {
    paths: Paths,
    found: Vec<&'static Language>,
    without: Vec<(&'static str, String)>,
}

impl Found {
    fn plugins(&self) -> impl Iterator<Item = &'static str> {
        self.found.iter().flat_map(|language| language.plugins.iter().copied())
    }
}

/// The workspace and its tools.
struct Workshop {
    root: PathBuf,
    started: Instant,
}

impl Workshop {
    fn test(&self, rest: &[OsString]) -> anyhow::Result<()> {
        let old = old::build(&self.root, &self.target(), &|what| self.say(what));
        self.build(Profile::Dev)?;
        self.setup(Profile::Dev)?;
        let nats = self.nats()?;
        self.browser();
        let plugins = self.plugins(Profile::Dev)?;
        let languages = self.languages_plugins(Profile::Dev, &plugins)?;
        let path = languages.paths.variable()?;
        let clients = self.target().join("clients");
        let has_node = languages.found.iter().any(|language| language.name == "ts");
        if has_node {
            self.say("building the client library for TypeScript");
            clients::typescript(&self.root, &self.tools(), &clients, &path)?;
        }
        self.say("testing the workspace");
        let without: Vec<_> = languages.without.iter().map(|(name, _)| *name).collect();
        let skipped = self.target().join("skipped-tests");
        std::fs::write(&skipped, "")?;
        let tested = run(self
            .cargo()
            .args(["test", "--workspace", "--no-fail-fast"])
            .args(rest)
            .env("PATH", &path)
            .env("SLOTD_TEST_PLUGINS", &plugins)
            .env("SLOTD_TEST_CLIENTS", &clients)
            .env("SLOTD_TEST_BIN", self.slotd(Profile::Dev))
            .env("SLOTD_TEST_WITHOUT", without.join(","))
            .env("SLOTD_TEST_SKIPPED", &skipped)
            .env("SLOTD_TEST_TOOLS", self.tools())
            .env("SLOTD_TEST_OLD_BIN", old.unwrap_or_default())
            .env("SLOTD_NATS_SERVER", nats));
        if tested.is_err() {
            self.not_tested(&skipped, &languages)?;
        }
        tested?;
        if rest.is_empty() {
            self.say("testing the plugins natively");
            run(self.cargo().arg("test").current_dir(self.root.join("plugins")))?;
            for language in &languages.found {
                let [program, args @ ..] = language.sdk_tests else { continue };
                self.say(&format!("testing the SDK for {}", language.name));
                let mut test = match *program {
                    "slotd" => Command::new(self.slotd(Profile::Dev)),
                    program => Command::new(program),
                };
                test.args(args).current_dir(&self.root);
                // Fetched tools, and Python's compiled files, stay out of the clone.
                test.env("SLOTD_TOOLS_DIR", self.tools()).env("PYTHONDONTWRITEBYTECODE", "1");
                run(test.env("PATH", &path).env("PYTHONPATH", "guest-sdk/python"))?;
            }
            if has_node {
                self.say("testing the client library for TypeScript");
                clients::typescript_tests(&self.root, &clients, &path)?;
            }
            for plugin in languages.plugins() {
                self.say(&format!("testing the plugin {plugin}"));
                let mut test = self.plugin_command(Profile::Dev, "test", plugin, &path);
                run(&mut test)?;
            }
        }
        self.not_tested(&skipped, &languages)?;
        self.say("all tests passed");
        Ok(())
    }

    /// Prints what this machine did not let the tests check, each once.
    fn not_tested(&self, skipped: &Path, languages: &Found) -> anyhow::Result<()> {
        let skipped = std::fs::read_to_string(skipped)?;
        let mut lines: BTreeSet<String> = skipped.lines().map(str::to_owned).collect();
        lines.extend(languages.without.iter().map(|(name, why)| {
            format!("plugins in {name}, whose tools can't be had: {}", why.replace('\n', " "))
        }));
        lines.iter().for_each(|line| self.say(&format!("NOT TESTED: {line}")));
        Ok(())
    }

    fn program(
        &self,
        name: &str,
        profile: Profile,
        needs: Plugins,
        needs_nats: bool,
        args: &[OsString],
    ) -> anyhow::Result<()> {
        self.build(profile)?;
        self.setup(profile)?;
        let nats = if needs_nats { Some(self.nats()?) } else { None };
        let plugins = self.plugins(profile)?;
        let path = match needs {
            Plugins::Rust => std::env::var_os("PATH").unwrap_or_default(),
            Plugins::All => self.languages_plugins(profile, &plugins)?.paths.variable()?,
        };
        let clients = self.target().join("clients");
        if name == "demo-agent"
            && let Err(why) = self.clients(&clients)
        {
            println!("  the page can't be shown without the client library: {why:#}");
        }
        self.say(&format!("starting the {name}"));
        let mut program = Command::new(self.built(profile, name));
        // Replaces this process, so that Ctrl-C ends only the program.
        let error = program
            .args(args)
            .env("PATH", path)
            .env("SLOTD_TEST_BIN", self.slotd(profile))
            .env("SLOTD_TEST_TOOLS", self.tools())
            .env("SLOTD_TEST_PLUGINS", plugins)
            .env("SLOTD_TEST_CLIENTS", clients)
            .envs(nats.map(|nats| ("SLOTD_NATS_SERVER", nats)))
            .exec();
        Err(error).with_context(|| format!("starting {program:?}"))
    }

    /// Builds the client library for TypeScript; returns the `PATH` with what it needs.
    fn clients(&self, out: &Path) -> anyhow::Result<OsString> {
        self.say("building the client library for TypeScript");
        let mut paths = Paths::default();
        let typescript = LANGUAGES.iter().find(|language| language.name == "ts");
        typescript.context("no TypeScript")?.ensure(&self.tools(), &mut paths)?;
        let path = paths.variable()?;
        clients::typescript(&self.root, &self.tools(), out, &path)?;
        Ok(path)
    }

    /// Ensures the tools of every plugin language. A language whose tools are not available on this
    /// machine is skipped with a message.
    fn languages(&self) -> Found {
        let (mut paths, mut found, mut without) = (Paths::default(), Vec::new(), Vec::new());
        for language in LANGUAGES {
            self.say(&format!("looking for the tools of {}", language.name));
            match language.ensure(&self.tools(), &mut paths) {
                Ok(what) => {
                    println!("  {what}");
                    found.push(language);
                }
                Err(why) => {
                    println!("  they can't be had: {why:#}");
                    without.push((language.name, format!("{why:#}")));
                }
            }
        }
        Found { paths, found, without }
    }

    /// The folder of fetched tools, shared by all plugins.
    fn tools(&self) -> PathBuf {
        self.target().join("tools")
    }

    /// `slotd plugin VERB` for an included plugin.
    fn plugin_command(&self, profile: Profile, verb: &str, name: &str, path: &OsStr) -> Command {
        let mut command = Command::new(self.slotd(profile));
        command.args(["plugin", verb]).arg(self.root.join("plugins").join(name));
        command.env("SLOTD_TOOLS_DIR", self.tools()).env("PATH", path);
        command
    }

    fn build_plugin(
        &self,
        profile: Profile,
        name: &str,
        out: &Path,
        path: &OsStr,
    ) -> anyhow::Result<()> {
        self.say(&format!("building the plugin {name}"));
        let mut build = self.plugin_command(profile, "build", name, path);
        run(build.arg("--out").arg(out.join(name).with_extension("wasm")))
    }

    /// A browser that pages of examples are tested in. Without one, those tests say so.
    fn browser(&self) {
        self.say("looking for a browser to test pages in");
        let found = ["chromium", "chromium-browser", "google-chrome"]
            .iter()
            .any(|name| packages::run(Command::new(name).arg("--version")).is_ok());
        if !found && let Err(why) = packages::apt(&["chromium"]) {
            println!("  it can't be had: {why:#}");
        }
    }

    /// The nats-server that clusters are tested with.
    fn nats(&self) -> anyhow::Result<PathBuf> {
        self.say("looking for a nats-server, the log engine of clusters");
        nats::get(&self.tools(), &|what| println!("  {what}"))
    }

    fn lint(&self) -> anyhow::Result<()> {
        for dir in [self.root.clone(), self.root.join("plugins")] {
            run(self.cargo().args(["fmt", "--all", "--check"]).current_dir(&dir))?;
            let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
            run(self.cargo().args(clippy).current_dir(&dir))?;
        }
        seams::check(&self.root.join("host/core"))?;
        [
            "host/core/src",
            "host/src",
            "host/access/src",
            "host/outbound/src",
            "host/quota/src",
            "host/toolchains/src",
        ]
        .into_iter()
        .try_for_each(|src| circles::check(&self.root.join(src)))
    }

    /// Sets up the toolchain for plugins; slotd's own command prints what it did.
    fn setup(&self, profile: Profile) -> anyhow::Result<()> {
        self.say("setting up what building plugins needs");
        run(Command::new(self.slotd(profile)).args(["plugin", "setup"]).current_dir(&self.root))
    }

    /// Ensures the tools of the other languages, and builds their included plugins into `out`.
    fn languages_plugins(&self, profile: Profile, out: &Path) -> anyhow::Result<Found> {
        let languages = self.languages();
        let path = languages.paths.variable()?;
        for plugin in languages.plugins() {
            self.build_plugin(profile, plugin, out, &path)?;
        }
        Ok(languages)
    }

    /// Builds the included Rust plugins into one folder, and returns it.
    fn plugins(&self, profile: Profile) -> anyhow::Result<PathBuf> {
        let out = self.target().join("plugins");
        std::fs::create_dir_all(&out)?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        for name in PLUGINS {
            self.build_plugin(profile, name, &out, &path)?;
        }
        Ok(out)
    }

    /// In the dev profile everything at once, with the same features as the tests: what `cargo
    /// test` needs later is then built already.
    fn build(&self, profile: Profile) -> anyhow::Result<()> {
        self.say("building slotd (the first time takes minutes)");
        let what: &[&str] = match profile {
            Profile::Dev => &["--workspace", "--all-targets"],
            Profile::Release => &["--release", "-p", "slotd", "-p", "slotd-tests", "--bins"],
        };
        run(self.cargo().arg("build").args(what))
    }

    fn cargo(&self) -> Command {
        cargo_in(&self.root)
    }

    fn slotd(&self, profile: Profile) -> PathBuf {
        self.built(profile, "slotd")
    }

    fn built(&self, profile: Profile, name: &str) -> PathBuf {
        let folder = match profile {
            Profile::Dev => "debug",
            Profile::Release => "release",
        };
        self.target().join(folder).join(name)
    }

    fn target(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| self.root.join("target"), |dir| self.root.join(dir))
    }

    fn say(&self, what: &str) {
        eprintln!("==> {what} ({} s)", self.started.elapsed().as_secs());
    }
}

fn cargo_in(dir: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(dir);
    cargo
}

/// Runs a command that prints its own output.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}
