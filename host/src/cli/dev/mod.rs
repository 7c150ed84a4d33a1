//! `slotd dev`: runs a node, and builds and swaps in one plugin whenever its source changes.

mod show;
mod watch;

use super::{
    admin::{self, Moved},
    args::ConfigArgs,
    assemble,
    client::{ADMIN, Client},
    exit::{CliError, Exit},
    output,
    plugin::component,
    serve::{self, Running},
    serving::Serving,
    signals::Signals,
};
use crate::{
    config::Loaded, files, limits, names::ServiceName, plugin::Digest, telemetry, tls::ClientFiles,
};
use clap::{Args, Command, FromArgMatches as _};
use serde_json::json;
use show::{Show, Tone};
use slotd_toolchains::{BuildOptions, Component, Lang, OWN_DIR, Steps, as_written};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};
use watch::Watch;

/// The default API port: client commands look there by default.
const PORT_DEFAULT: u16 = 7070;
/// How many changed files are named; of more, only the count.
const NAMED_MAX: usize = 3;

#[derive(Debug, Args)]
pub struct Dev {
    /// The plugin's folder
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Deploy it as this service [default: the plugin's name]
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Keep the node's sessions in this folder [default: .slotd/data in the plugin's folder]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The API's port; the admin port is the next one. 0: any free ports
    #[arg(long, value_name = "PORT", default_value_t = PORT_DEFAULT)]
    pub port: u16,
    /// For test suites: `POST /admin/v1/reset` on the admin port deletes every session
    #[arg(long)]
    pub resettable: bool,
    /// The cargo profile, for Rust [default: release]
    #[arg(long)]
    pub profile: Option<String>,
    /// More flags for the node, as for `slotd serve`
    #[arg(last = true, value_name = "FLAGS")]
    pub serve: Vec<OsString>,
}

pub async fn dev(args: Dev, json: bool, serving: Serving) -> Result<(), CliError> {
    let dir = args.dir.canonicalize().map_err(|error| {
        CliError::usage(format!("there is no folder {}: {error}", args.dir.display()))
    })?;
    let lang = Lang::of(&dir).map_err(|error| CliError::failure(format!("{error:#}")))?;
    let service = args.service.as_deref().map(ServiceName::parse).transpose()?;
    let loaded = configuration(&args, &dir)?;

    telemetry::sink::start();
    let show = Show::new(json);
    let configured = loaded.origins.contains_key("log.filter");
    show.init_log(if configured { &loaded.config.log_filter } else { show::FILTER })?;
    telemetry::panics::install_hook();
    telemetry::metrics();
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let options = BuildOptions { dir, profile: args.profile };
    serve::or_a_bug(run(loaded, lang, options, service, show, serving)).await
}

/// The node's flags: like `serve`, except for its folders and addresses.
fn configuration(args: &Dev, dir: &Path) -> Result<Loaded, CliError> {
    let command = Command::new("slotd dev --").no_binary_name(true).disable_help_flag(true);
    let command = <ConfigArgs as Args>::augment_args(command);
    let matches = command.try_get_matches_from(&args.serve);
    let matches = matches.map_err(|error| {
        CliError::usage(format!("after --: {}", error.to_string().trim_start_matches("error: ")))
    })?;
    let mut config = ConfigArgs::from_arg_matches(&matches)
        .map_err(|error| CliError::usage(format!("after --: {error}")))?;
    let (api, admin) = match args.port {
        0 => (0, 0),
        port => (port, port.checked_add(1).ok_or_else(|| CliError::usage("--port: too large"))?),
    };
    let data = args.data.clone().unwrap_or_else(|| dir.join(OWN_DIR).join("data"));
    let data = data.to_str().ok_or_else(|| {
        CliError::usage(format!("the data directory's path is not UTF-8: {}", data.display()))
    })?;
    // Flags after `--` are explicit: they come later and win.
    let own = [
        ("data_dir", data.to_owned()),
        ("api.listen", format!("127.0.0.1:{api}")),
        ("admin.listen", format!("127.0.0.1:{admin}")),
    ];
    config.flags.splice(0..0, own);
    let mut loaded = config.load()?;
    loaded.config.resettable = args.resettable;
    if loaded.config.is_cluster() {
        return Err(CliError::usage(
            "slotd dev runs a single node; unset nats.servers, or use `slotd cluster dev`",
        ));
    }
    if loaded.config.admin.tls().is_some() {
        return Err(CliError::usage(
            "slotd dev deploys over plain HTTP on this machine: unset admin.tls_certificate and \
             admin.tls_key",
        ));
    }
    Ok(loaded)
}

async fn run(
    loaded: Loaded,
    lang: Lang,
    options: BuildOptions,
    service: Option<ServiceName>,
    show: Show,
    serving: Serving,
) -> Result<(), CliError> {
    let config = &loaded.config;
    let watchdog = serving.watch(config.stall_limit)?;
    let mut signals = Signals::listen()?;
    let running = tokio::select! {
        _ = signals.stop_or_hangup() => return Ok(()),
        running = assemble::start(config, &serving) => running.map_err(|error| {
            let mut error = CliError::from(error);
            if error.exit == Exit::CannotStart {
                // Those are flags of `serve`.
                for name in ["api", "admin"] {
                    let flag = format!(": choose another address with --{name}-listen");
                    error.message = error.message.replace(&flag, "");
                }
                error.message.push_str(
                    "\n  `slotd dev --port PORT` uses that port and the next; --port 0 uses free \
                     ports",
                );
            }
            error
        })?,
    };
    let Running { api, admin, stop, mut failed, drained, tls, .. } = running;
    let scheme = if tls.api.is_some() { "https" } else { "http" };
    let (api, admin) = (format!("{scheme}://{api}"), format!("http://{admin}"));
    let token = config.admin.token.as_ref().map(|token| token.reveal().to_owned());
    let steps = Arc::new(Steps::stoppable(
        move |what| show.say(Tone::Plain, what),
        || telemetry::sink::flush(limits::LOG_FLUSH_WAIT),
    ));
    show.say(Tone::Plain, &format!("the {lang} plugin in {}", options.dir.display()));
    show.say(
        Tone::Plain,
        &format!("API {api}, admin {admin}, data in {}", config.data_dir.display()),
    );
    show.event(&json!({
        "event": "ready", "api": api, "admin": admin, "data_dir": config.data_dir,
    }))?;
    let mut plugin = Plugin {
        admin: Client::new(
            &admin,
            token,
            limits::CLIENT_DEPLOY_TIMEOUT,
            ADMIN,
            &ClientFiles::default(),
        )?,
        api,
        options,
        service,
        steps: steps.clone(),
        show,
        running: None,
        tried: false,
    };
    let ended: Result<(), CliError> = tokio::select! {
        name = signals.stop_or_hangup() => {
            show.say(Tone::Plain, &format!("{name}: stopping"));
            Ok(())
        }
        () = drained => Ok(()),
        reason = &mut failed => {
            Err(CliError::new(Exit::Bug, format!("a part of the node failed: {reason}")))
        }
        ended = plugin.serve() => ended,
    };
    // A running compiler would keep the process alive.
    steps.stop();
    let stopped = serve::end(stop, config.shutdown_grace, &mut signals, &serving, &watchdog).await;
    ended.and(stopped)
}

/// The plugin under development.
struct Plugin {
    admin: Client,
    api: String,
    options: BuildOptions,
    service: Option<ServiceName>,
    steps: Arc<Steps>,
    show: Show,
    /// The last deployed component.
    running: Option<(Digest, String)>,
    /// Whether the hint how to try it was printed.
    tried: bool,
}

impl Plugin {
    /// Builds and deploys, again after each change. Returns only when output is no longer possible.
    async fn serve(&mut self) -> Result<(), CliError> {
        let mut watch = Watch::begin(self.sources().await);
        let files = match watch.files() {
            n if n >= watch::FILES_MAX => format!("the first {n} files"),
            n => output::count(n, "file"),
        };
        self.show.say(Tone::Plain, &format!("watching {files}; Ctrl-C stops"));
        loop {
            self.turn().await?;
            // A path may have been added by the change.
            watch.set_roots(self.sources().await);
            let changed = watch.changed().await;
            self.show.say(Tone::Plain, &format!("changed: {}", self.named(&changed)));
            self.show.event(&json!({"event": "changed", "files": changed}))?;
        }
    }

    async fn sources(&self) -> Vec<PathBuf> {
        let dir = self.options.dir.clone();
        let found = crate::task::blocking(move || {
            let sources = Lang::of(&dir).map(|lang| lang.sources(&dir));
            // With a broken manifest the folder is still watched: the fix happens there.
            sources.unwrap_or_else(|_| vec![dir])
        });
        found.await.unwrap_or_else(|_| vec![self.options.dir.clone()])
    }

    fn named(&self, files: &[PathBuf]) -> String {
        let short = |file: &PathBuf| {
            file.strip_prefix(&self.options.dir).unwrap_or(file).display().to_string()
        };
        let mut names: Vec<_> = files.iter().take(NAMED_MAX).map(short).collect();
        if files.len() > NAMED_MAX {
            names.push(format!("and {} more", files.len() - NAMED_MAX));
        }
        names.join(", ")
    }

    /// One build and deploy. Errors of the plugin are shown; a returned error is `dev`'s.
    async fn turn(&mut self) -> Result<(), CliError> {
        let started = crate::clock::now();
        let (options, steps) = (self.options.clone(), self.steps.clone());
        let built = crate::task::blocking(move || component(&options, &steps)).await;
        let component = match built {
            Ok(Ok(component)) => component,
            Ok(Err(error)) => return self.failed("build-failed", &format!("{error:#}")),
            Err(error) => return self.failed("build-failed", &error.to_string()),
        };
        match self.deploy(component, started).await {
            Ok(()) => Ok(()),
            // Nobody reads the output.
            Err(error) if error.message.is_empty() => Err(error),
            Err(error) => self.failed("refused", &error.message),
        }
    }

    fn failed(&self, event: &str, why: &str) -> Result<(), CliError> {
        self.show.say(Tone::Bad, why);
        let goes_on = match &self.running {
            Some((_, label)) => format!("{label} keeps serving; fix it and save"),
            None => "nothing is running yet; fix it and save".to_owned(),
        };
        self.show.say(Tone::Plain, &goes_on);
        let runs = self.running.as_ref().map(|(_, label)| label);
        self.show.event(&json!({"event": event, "error": why, "runs": runs}))
    }

    async fn deploy(&mut self, component: Component, started: Instant) -> Result<(), CliError> {
        let Component { package, bytes, .. } = component;
        let service = match &self.service {
            Some(service) => service.clone(),
            None => ServiceName::parse(&package.name).map_err(|error| {
                CliError::usage(format!("{}: name the service with --service", error.detail))
            })?,
        };
        let (digest, size) = (Digest::of(&bytes), bytes.len());
        if self.running.as_ref().is_some_and(|(running, _)| *running == digest) {
            self.show.say(Tone::Plain, "the component has not changed; nothing to swap");
            return self.show.event(&json!({"event": "same", "digest": digest}));
        }
        let Moved { answer, changed, label } =
            admin::deploy_and_wait(&self.admin, service.as_str(), bytes.into()).await?;
        // Keeps this name from now on, even if the manifest changes.
        self.service = Some(service.clone());
        self.running = Some((digest, label.clone()));
        let took = output::micros(started.elapsed().as_micros() as f64);
        let size = output::bytes(size as f64);
        let did = match changed {
            true => format!("{service} runs {label} ({size}, ready in {took})"),
            false => format!("{service} still runs {label} ({size})"),
        };
        self.show.say(Tone::Good, &did);
        for line in admin::outlook(&answer).lines() {
            self.show.say(Tone::Bad, line.trim());
        }
        if let Some(swapped) = admin::swapped(&answer["swap"]) {
            self.show.say(Tone::Plain, &swapped);
        }
        if !self.tried {
            self.tried = true;
            self.show.say(Tone::Plain, &self.to_try(&service, &package.name));
        }
        self.show.event(&json!({
            "event": "deployed", "service": service.as_str(), "label": label, "changed": changed,
            "digest": digest, "swap": answer["swap"],
        }))
    }

    fn to_try(&self, service: &ServiceName, plugin: &str) -> String {
        let mut to_try = String::from("to try, in another terminal:\n");
        if self.api != format!("http://127.0.0.1:{PORT_DEFAULT}") {
            let (api, admin) = (&self.api, self.admin.url());
            to_try += &format!("  export SLOTD_URL={api} SLOTD_ADMIN_URL={admin}\n");
        }
        to_try + "  " + &line_to_try(&self.options.dir, service, plugin)
    }
}

/// A message that the handler probably understands.
fn line_to_try(dir: &Path, service: &ServiceName, plugin: &str) -> String {
    let readme = files::read_text(&dir.join("README.md")).ok();
    let (handler, shows) =
        Lang::of(dir).map_or((false, false), |lang| as_written(dir, lang, plugin));
    // A README written by `slotd plugin new` fits that handler.
    let readme = readme.filter(|_| handler || !shows);
    let shown = readme.and_then(|text| first_send(&text, plugin, service.as_str()));
    shown.unwrap_or_else(|| format!("slotd send {service} room-1 '{ANY_MESSAGE}'"))
}

/// For a handler whose messages are unknown.
pub const ANY_MESSAGE: &str = "<a message for your handler>";

/// The first message in the plugin's own README, which fits the handler.
fn first_send(readme: &str, plugin: &str, service: &str) -> Option<String> {
    let rest = readme.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("slotd send ")?.strip_prefix(plugin)?;
        rest.starts_with(' ').then_some(rest)
    })?;
    Some(format!("slotd send {service}{rest}"))
}

#[cfg(test)]
mod tests;
