//! What a person who works on slotd types: `cargo xtask setup|test|demo|bench|lint`.

mod nats;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// The components that ship, each from its crate under `plugins/`.
const PLUGINS: &[&str] = &["counter", "chat-v1", "chat-v2", "hostile-v1", "hostile-v2"];

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Sets up, tests, shows and measures slotd")]
struct Args {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Sets up what building plugins needs, and says what it did; does nothing the second time
    Setup,
    /// Runs every test: the workspace's and the plugins' own
    Test {
        /// Passed on to `cargo test --workspace`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<OsString>,
    },
    /// Shows slotd at work: replays conversations and swaps the plugin while they talk
    Demo {
        /// Show a cluster: replay while nodes join, leave and are killed
        #[arg(long)]
        cluster: bool,
        /// End after the account instead of serving until Ctrl-C
        #[arg(long)]
        exit: bool,
        /// A folder of JSONL conversations [default: examples/conversations]
        #[arg(long, value_name = "DIR")]
        conversations: Option<PathBuf>,
        /// Clients that talk at once, at least one for each conversation
        #[arg(long, value_name = "N")]
        clients: Option<usize>,
        #[arg(long, value_enum, default_value = "release")]
        profile: Profile,
    },
    /// Measures slotd beside the bare ceiling, and what it needs
    Bench {
        /// Measure a cluster of three nodes and three NATS servers
        #[arg(long)]
        cluster: bool,
        /// Passed on to the benchmark: see `cargo xtask bench [--cluster] -- --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<OsString>,
    },
    /// Checks format and lints
    Lint,
}

#[derive(Clone, Copy, ValueEnum)]
enum Profile {
    Dev,
    Release,
}

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let work = Workshop { root: root.to_owned(), started: Instant::now() };
    match Args::parse().command {
        Task::Setup => {
            work.build(Profile::Dev)?;
            work.setup(Profile::Dev).map(drop)
        }
        Task::Test { rest } => work.test(&rest),
        Task::Demo { cluster, exit, conversations, clients, profile } => {
            let mut args: Vec<OsString> = Vec::new();
            args.extend(exit.then(|| "--exit".into()));
            if let Some(dir) = conversations {
                args.extend(["--conversations".into(), std::path::absolute(dir)?.into()]);
            }
            args.extend(
                clients.into_iter().flat_map(|n| ["--clients".into(), n.to_string().into()]),
            );
            work.program(if cluster { "demo-cluster" } else { "demo" }, profile, &args)
        }
        Task::Bench { cluster, rest } => {
            // What comes after the first of the rest is the rest's.
            let (named, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(|a| a == "--cluster");
            let cluster = cluster || !named.is_empty();
            let name = if cluster { "bench-cluster" } else { "bench" };
            work.program(name, Profile::Release, &rest)
        }
        Task::Lint => work.lint(),
    }
}

/// The workspace and the tools that work on it.
struct Workshop {
    root: PathBuf,
    started: Instant,
}

impl Workshop {
    fn test(&self, rest: &[OsString]) -> anyhow::Result<()> {
        self.build(Profile::Dev)?;
        let nats = self.setup(Profile::Dev)?;
        let plugins = self.plugins(Profile::Dev)?;
        self.say("testing the workspace");
        self.run(
            self.cargo()
                .args(["test", "--workspace", "--no-fail-fast"])
                .args(rest)
                .env("SLOTD_TEST_PLUGINS", &plugins)
                .env("SLOTD_TEST_BIN", self.slotd(Profile::Dev))
                .env("SLOTD_NATS_SERVER", nats),
        )?;
        if rest.is_empty() {
            self.say("testing the plugins natively");
            self.run(self.cargo().arg("test").current_dir(self.root.join("plugins")))?;
        }
        self.say("all tests passed");
        Ok(())
    }

    fn program(&self, name: &str, profile: Profile, args: &[OsString]) -> anyhow::Result<()> {
        self.build(profile)?;
        let nats = self.setup(profile)?;
        let plugins = self.plugins(profile)?;
        self.say(&format!("starting the {name}"));
        let mut program = Command::new(self.built(profile, name));
        // In this process's place, so that Ctrl-C ends the program and nothing else.
        let error = program
            .args(args)
            .env("SLOTD_TEST_PLUGINS", plugins)
            .env("SLOTD_NATS_SERVER", nats)
            .exec();
        Err(error).with_context(|| format!("starting {program:?}"))
    }

    /// The nats-server that clusters are tested with.
    fn nats(&self) -> anyhow::Result<PathBuf> {
        self.say("looking for a nats-server, the log engine of clusters");
        nats::get(&self.target().join("tools"), &|what| println!("  {what}"))
    }

    fn lint(&self) -> anyhow::Result<()> {
        for dir in [self.root.clone(), self.root.join("plugins")] {
            self.run(self.cargo().args(["fmt", "--all", "--check"]).current_dir(&dir))?;
            let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
            self.run(self.cargo().args(clippy).current_dir(&dir))?;
        }
        Ok(())
    }

    /// Sets up the toolchain for plugins (slotd's own command says what it did) and sees to a
    /// nats-server, whose path it gives.
    fn setup(&self, profile: Profile) -> anyhow::Result<PathBuf> {
        self.say("setting up what building plugins needs");
        self.run(
            Command::new(self.slotd(profile)).args(["plugin", "setup"]).current_dir(&self.root),
        )?;
        self.nats()
    }

    /// Builds the plugins that ship into one folder, which it gives.
    fn plugins(&self, profile: Profile) -> anyhow::Result<PathBuf> {
        let out = self.target().join("plugins");
        std::fs::create_dir_all(&out)?;
        for name in PLUGINS {
            self.say(&format!("building the plugin {name}"));
            let component = out.join(name).with_extension("wasm");
            let mut build = Command::new(self.slotd(profile));
            build.args(["plugin", "build"]).arg(self.root.join("plugins").join(name));
            self.run(build.arg("--out").arg(component))?;
        }
        Ok(out)
    }

    /// In the dev profile everything at once, with the same features as the tests have: what
    /// `cargo test` needs later is then there.
    fn build(&self, profile: Profile) -> anyhow::Result<()> {
        self.say("building slotd (the first time takes minutes)");
        let what: &[&str] = match profile {
            Profile::Dev => &["--workspace", "--all-targets"],
            Profile::Release => &["--release", "-p", "slotd", "-p", "slotd-tests", "--bins"],
        };
        self.run(self.cargo().arg("build").args(what))
    }

    fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root);
        cargo
    }

    fn run(&self, command: &mut Command) -> anyhow::Result<()> {
        let status = command.status().with_context(|| format!("starting {command:?}"))?;
        ensure!(status.success(), "{command:?} ended with {status}");
        Ok(())
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
