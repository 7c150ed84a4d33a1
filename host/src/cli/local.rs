//! Commands that need no node: plugins and the configuration.

use super::{
    admin::read_component,
    args::{ConfigArgs, ConfigCmd, Fault, PluginCmd, ReplayArgs, SimArgs},
    exit::{CliError, Exit},
    output,
    plugin::{self, ReplayOptions, ScriptOptions, SimOptions},
    signing,
};
use crate::{
    config::{Config, keys::KEYS},
    limits,
    plugin::inspect_apart,
    random,
    sim::Faults,
    telemetry,
    text::clip,
};
use serde::Serialize;
use slotd_outbound::{Secrets, Source};
use slotd_toolchains::{self as toolchains, BuildOptions, Lang, NewOptions, Steps};
use std::{ffi::OsString, fmt, path::Path};

pub async fn plugin(command: PluginCmd, json: bool) -> Result<(), CliError> {
    match command {
        PluginCmd::New { name, lang, path, sdk } => {
            let name_bytes_max = limits::SERVICE_NAME_BYTES_MAX;
            report(toolchains::new(&NewOptions { lang, name, name_bytes_max, path, sdk }), json)
        }
        PluginCmd::Build { dir, profile, out } => {
            let steps = if json { Steps::quiet() } else { Steps::shown() };
            let options = BuildOptions { dir, profile };
            report(plugin::build(&options, out.as_deref(), &steps), json)
        }
        PluginCmd::Test { dir, wasm: None, args, .. } => {
            test(&dir, &args)?;
            let captures = plugin::folder_captures(&dir);
            let captures = captures.map_err(|error| CliError::failure(format!("{error:#}")))?;
            if captures.is_empty() {
                return Ok(());
            }
            let options = ScriptOptions { dir, only_captures: true, ..ScriptOptions::default() };
            play(&options, json).await
        }
        PluginCmd::Test { dir, wasm: Some(scripts), component, .. } => {
            play(&ScriptOptions { dir, scripts, component, only_captures: false }, json).await
        }
        PluginCmd::Replay(args) => replay(args, json).await,
        PluginCmd::Sim(args) => simulate(args, json).await,
        PluginCmd::Setup { lang: Lang::Rust, dir } => report(toolchains::setup_rust(&dir), json),
        PluginCmd::Setup { lang: Lang::C, .. } => report(toolchains::setup_c(), json),
        PluginCmd::Setup { lang, .. } => {
            let message =
                format!("{lang} needs no setup: its tools are fetched at the first build");
            match json {
                true => {
                    output::line(&serde_json::json!({"lang": lang, "needed": false}).to_string())
                }
                false => output::line(&message),
            }
        }
        PluginCmd::Check { file } => check(&file, json).await,
        PluginCmd::Types(args) => plugin::types(*args, json).await,
        PluginCmd::Keygen { out } => signing::keygen(&out, json),
        PluginCmd::Sign { file, key } => signing::sign(&file, &key, json),
        PluginCmd::Verify { file, key, sig } => signing::verify(&file, &key, sig.as_deref(), json),
    }
}

fn report<T: Serialize + fmt::Display>(
    result: anyhow::Result<T>,
    json: bool,
) -> Result<(), CliError> {
    let report = result.map_err(|error| CliError::failure(format!("{error:#}")))?;
    match json {
        true => output::line(&serde_json::json!(report).to_string()),
        false => output::line(report.to_string().trim_end()),
    }
}

/// Ends with the runner's own exit code.
fn test(dir: &Path, args: &[OsString]) -> Result<(), CliError> {
    let status = toolchains::test(dir, args, &Steps::shown())
        .map_err(|error| CliError::failure(format!("{error:#}")))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => std::process::exit(code),
        None => Err(CliError::failure(format!("the tests were killed: {status}"))),
    }
}

/// Fails if a call did not match its script.
async fn play(options: &ScriptOptions, json: bool) -> Result<(), CliError> {
    let steps = if json { Steps::quiet() } else { Steps::shown() };
    // The handler's log, above all why it trapped.
    telemetry::init_plain_log("off,slotd::guest=debug");
    let played = plugin::play(options, &steps).await;
    let report = played.map_err(|error| CliError::failure(format!("{error:#}")))?;
    match json {
        true => output::line(&serde_json::json!(report).to_string())?,
        false => output::print(&output::harmless(&report.to_string(), true))?,
    }
    match report.failed() {
        0 => Ok(()),
        n => Err(CliError::failure(format!(
            "{} not as expected",
            if n == 1 {
                "1 call or capture was".to_owned()
            } else {
                format!("{n} calls or captures were")
            }
        ))),
    }
}

/// Fails if something else comes out than should.
async fn replay(args: ReplayArgs, json: bool) -> Result<(), CliError> {
    let ReplayArgs { file, wasm, accept } = args;
    // The handler's log, above all why it trapped.
    telemetry::init_plain_log("off,slotd::guest=debug");
    let replayed = plugin::replay(&ReplayOptions { file, wasm, accept }).await;
    let replayed = replayed.map_err(|error| CliError::failure(format!("{error:#}")))?;
    match json {
        true => output::line(&serde_json::json!(replayed).to_string())?,
        false => output::print(&output::harmless(&replayed.to_string(), true))?,
    }
    match replayed.good || replayed.accepted {
        true => Ok(()),
        false => Err(CliError::failure("something else comes out than should")),
    }
}

/// Fails if something does not hold.
async fn simulate(args: SimArgs, json: bool) -> Result<(), CliError> {
    let steps = if json { Steps::quiet() } else { Steps::shown() };
    let does = |fault| !args.without.contains(&fault);
    let faults = Faults {
        crash: does(Fault::Crash),
        repeat: does(Fault::Repeat),
        late: does(Fault::Late),
        fail: does(Fault::Fail),
    };
    let seed = args.seed.unwrap_or_else(|| random::seed() % SEEDS);
    let options = SimOptions {
        dir: args.dir,
        component: args.component,
        next: args.next,
        rules: args.rules,
        messages: args.messages,
        scripts: args.scripts,
        sessions: args.sessions,
        runs: args.runs,
        steps: args.steps,
        seed,
        time: args.time,
        faults,
        out: args.out,
    };
    let report = plugin::simulate(&options, &steps).await;
    let report = report.map_err(|error| CliError::failure(format!("{error:#}")))?;
    match json {
        true => output::line(&serde_json::json!(report).to_string())?,
        false => output::print(&output::harmless(&report.to_string(), true))?,
    }
    match &report.found {
        None => Ok(()),
        Some(found) => Err(CliError::new(
            Exit::Broken,
            format!("what must hold does not; {} shows it", found.script.display()),
        )),
    }
}

/// A seed by chance is below: short enough to be read out.
const SEEDS: u64 = 1_000_000_000;

/// Limit of imports and exports shown without `--json`.
const NAMES_SHOWN: usize = 64;

/// Fails if the component does not fit, for scripts.
async fn check(file: &Path, json: bool) -> Result<(), CliError> {
    let found = inspect_apart(read_component(file)?.into()).await;
    let found = found.map_err(|error| CliError::failure(format!("slotd can't run it: {error}")))?;
    if json {
        output::line(&serde_json::json!(found).to_string())?;
    } else {
        let mut out = format!("{}: {}, {} bytes\n", file.display(), found.kind, found.bytes);
        out += &format!("  digest   {}\n", found.digest);
        out +=
            &format!("  version  {}\n", found.version.as_deref().unwrap_or("(none in the file)"));
        out += &format!("  memory   {} bytes to begin with\n", found.memory_bytes);
        let lists = [
            ("imports", &found.imports),
            ("exports", &found.exports),
            ("effects", &found.effects),
            ("types", &found.types),
        ];
        for (title, names) in lists {
            for (index, name) in names.iter().take(NAMES_SHOWN).enumerate() {
                let name = clip(name.into(), limits::LISTED_BYTES_MAX);
                out += &format!("  {:<8} {name}\n", if index == 0 { title } else { "" });
            }
            if names.len() > NAMES_SHOWN {
                out += &format!("           and {} more\n", names.len() - NAMES_SHOWN);
            }
            if names.is_empty() && title != "types" {
                out += &format!("  {title:<8} nothing\n");
            }
        }
        for problem in found.problems.iter().take(limits::LISTED_MAX) {
            let problem = clip(problem.into(), limits::ERROR_DETAIL_BYTES_MAX);
            out += &format!("  problem  {problem}\n");
        }
        if found.problems.len() > limits::LISTED_MAX {
            out += &format!("  and {} more\n", found.problems.len() - limits::LISTED_MAX);
        }
        if found.problems.is_empty() {
            let (needs, most) = (found.memory_bytes, limits::GUEST_MEMORY_BYTES_DEFAULT as u64);
            out += &match needs > most {
                true => format!(
                    "OK: slotd can run it if guests.memory is at least {needs} bytes (default: \
                     {most}).\n"
                ),
                false => "OK: slotd can run it.\n".to_owned(),
            };
        }
        output::print(&output::harmless(&out, true))?;
    }
    match found.problems.len() {
        0 => Ok(()),
        n => Err(CliError::failure(format!("slotd can't run it: {}", output::count(n, "problem")))),
    }
}

pub fn config(command: ConfigCmd, json: bool) -> Result<(), CliError> {
    match command {
        ConfigCmd::Print(args) => {
            let loaded = load(args)?;
            match json {
                true => output::line(&loaded.to_json().to_string()),
                false => output::print(&loaded.to_toml()),
            }
        }
        ConfigCmd::Check(args) => {
            let loaded = load(args)?;
            let secrets = secrets(&loaded.config)?;
            // A command is not run: it may ask somebody for something.
            super::seal::keyring_of_file(&loaded.config).map_err(CliError::usage)?;
            let file = loaded.file.as_ref().map(|file| file.display().to_string());
            if json {
                let value = serde_json::json!({
                    "ok": true, "file": file, "warnings": loaded.warnings, "secrets": secrets,
                });
                return output::line(&value.to_string());
            }
            let set = loaded.origins.len();
            let from = file.unwrap_or_else(|| "no file".into());
            let secrets = match secrets.as_slice() {
                [] => String::new(),
                names => format!("; secrets: {}", names.join(", ")),
            };
            output::line(&format!(
                "the configuration is valid ({from}; {set} of {} keys set{secrets})",
                KEYS.len()
            ))
        }
    }
}

/// The names of the secrets that a node would begin with. It does not start if they can't be read.
fn secrets(config: &Config) -> Result<Vec<String>, CliError> {
    let file = config.secrets_file.as_deref().map(Into::into);
    let secrets = Secrets::open(Source { file, prefix: config.secrets_env.clone() });
    Ok(secrets.map_err(|error| CliError::usage(error.to_string()))?.names())
}

fn load(args: ConfigArgs) -> Result<crate::config::Loaded, CliError> {
    let loaded = args.load()?;
    loaded.warnings.iter().for_each(|warning| output::complain(&format!("warning: {warning}")));
    Ok(loaded)
}

/// `slotd openapi`.
///
/// # Errors
/// The document could not be made.
pub fn openapi() -> Result<(), CliError> {
    let document = super::serve::openapi_document()
        .ok_or_else(|| CliError::new(Exit::Failure, "this build has no HTTP API"))?;
    output::line(&document)
}
