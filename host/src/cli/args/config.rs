//! `--config`, and a flag for every key of the configuration.

use crate::{
    cli::exit::{CliError, Exit},
    config::{Kind, Loaded, Sources, docs::flag_help, keys::KEYS, load},
};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use std::{path::PathBuf, sync::LazyLock};

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
        for key in KEYS.iter() {
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
            LazyLock::new(|| KEYS.iter().map(|key| key.flag()).collect());
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
        Kind::Command => "COMMAND",
        Kind::Secret => "TOKEN",
        Kind::Choice(_) => "WORD",
        Kind::NatsServers => "URLS",
        Kind::Monitors => "URLS",
        Kind::Seeds => "PEERS",
        Kind::Sends => "PAIRS",
        Kind::HttpRules => "RULES",
        Kind::HttpGrants => "SECRETS",
        Kind::Prefix => "PREFIX",
        Kind::Services => "SERVICES",
        Kind::Snapshots => "URL",
        Kind::Filter => "FILTER",
        Kind::Flag => "true|false",
    }
}
