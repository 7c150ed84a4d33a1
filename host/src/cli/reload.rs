//! SIGHUP: reloads the configuration and applies the values that can change while a node runs.

use super::args::ConfigArgs;
use crate::{
    config::{Config, Loaded, keys::KEYS},
    http::Token,
    limits, telemetry,
};
use tokio::time::timeout;

/// The node's tokens; `None`: that listener requires none.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    pub api: Option<Token>,
    pub admin: Option<Token>,
}

/// A running node's configuration, and the parts that can change.
pub(super) struct Reload {
    sources: ConfigArgs,
    running: Config,
    tokens: Tokens,
}

/// The changes in a new configuration.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    now: Vec<&'static str>,
    at_restart: Vec<&'static str>,
}

impl Reload {
    pub fn new(sources: ConfigArgs, running: Config, tokens: Tokens) -> Self {
        Self { sources, running, tokens }
    }

    /// Reloads the configuration and reports the result. If it is invalid, or can't be read,
    /// nothing changes.
    pub async fn reload(&mut self) {
        let sources = self.sources.clone();
        // A file may be a pipe, or on a disk that hangs.
        let reading = crate::task::blocking(move || sources.load());
        let loaded = match timeout(limits::RELOAD_WAIT, reading).await {
            Ok(Ok(Ok(loaded))) => loaded,
            Ok(Ok(Err(error))) => return refused(&error.message),
            Ok(Err(error)) => return refused(&error.to_string()),
            Err(_) => return refused("a file could not be read in time"),
        };
        match self.take(&loaded) {
            Ok(changes) => report(&changes),
            Err(why) => return refused(&why),
        }
        for line in loaded.notes {
            tracing::info!("{line}");
        }
        for warning in loaded.warnings {
            tracing::warn!("{warning}");
        }
    }

    fn take(&mut self, loaded: &Loaded) -> Result<Changes, String> {
        let new = &loaded.config;
        let mut changes = Changes::default();
        let changed = KEYS
            .iter()
            .filter(|key| (key.get)(&self.running) != (key.get)(new))
            .map(|key| key.name);
        for key in changed.collect::<Vec<_>>() {
            match key {
                "log.filter" => telemetry::set_filter(&new.log_filter)?,
                "api.token" => {
                    let (now, then) = (&self.tokens.api, &new.api.token);
                    if !replace(now, then.as_ref().map(|token| token.reveal()))? {
                        changes.at_restart.push(key);
                        continue;
                    }
                    self.running.api.token.clone_from(then);
                }
                "admin.token" => {
                    let (now, then) = (&self.tokens.admin, &new.admin.token);
                    if !replace(now, then.as_ref().map(|token| token.reveal()))? {
                        changes.at_restart.push(key);
                        continue;
                    }
                    self.running.admin.token.clone_from(then);
                }
                // Their content is what counts.
                "api.token_file" | "admin.token_file" => continue,
                _ => {
                    changes.at_restart.push(key);
                    continue;
                }
            }
            changes.now.push(key);
        }
        self.running.log_filter.clone_from(&new.log_filter);
        Ok(changes)
    }
}

/// Changes a token's value. Whether there is one decides who may use the API at all, and can't
/// change while the node runs.
fn replace(now: &Option<Token>, then: Option<&str>) -> Result<bool, String> {
    match (now, then) {
        (Some(now), Some(then)) => now.replace(then).map(|()| true),
        _ => Ok(false),
    }
}

fn refused(why: &str) {
    tracing::error!("SIGHUP: keeping the old configuration: {why}");
}

fn report(changes: &Changes) {
    let list = |keys: &[&str]| match keys {
        [] => "nothing".to_owned(),
        keys => keys.join(", "),
    };
    tracing::info!(
        changed = list(&changes.now),
        changes_at_the_next_start = list(&changes.at_restart),
        "SIGHUP: reloaded the configuration"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn loaded(flags: &[(&'static str, &str)]) -> Loaded {
        let flags = flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        load(&Sources { flags, ..Sources::default() }).unwrap()
    }

    /// A leaked token must be replaceable without a restart. Whether a listener requires one must
    /// not change by mistake, and unchangeable settings must be reported.
    #[test]
    fn tokens_change_and_what_can_not_is_named() {
        let first = loaded(&[("api.token", "hunter2hunter2")]).config;
        let token = Token::new("hunter2hunter2").unwrap();
        let tokens = Tokens { api: Some(token.clone()), admin: None };
        let mut reload = Reload::new(ConfigArgs::default(), first, tokens);
        let second =
            [("api.token", "another-token"), ("admin.token", "a-token-more"), ("node", "x")];
        let changes = reload.take(&loaded(&second)).unwrap();
        assert_eq!(changes.now, ["api.token"]);
        assert_eq!(changes.at_restart, ["node", "admin.token"]);
        assert!(token.matches(b"another-token") && !token.matches(b"hunter2hunter2"));
        let again = reload.take(&loaded(&second)).unwrap();
        assert!(again.now.is_empty(), "{again:?}");
    }
}
