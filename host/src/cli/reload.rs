//! SIGHUP: reloads the configuration and applies the values that can change while a node runs.

use super::args::ConfigArgs;
use crate::{
    access::{Decider, PolicyFile, static_token},
    audit::{Audit, Change},
    config::{Config, Loaded, Secret, keys::KEYS},
    limits, telemetry,
    tls::ListenerTls,
};
use slotd_access::Listener;
use std::sync::Arc;
use tokio::time::timeout;

/// What decides who may do what on a running node.
#[derive(Clone)]
pub struct AccessParts {
    pub decider: Decider,
    pub policy: Option<Arc<PolicyFile>>,
}

/// The listeners' TLS; `None`: that listener has none.
#[derive(Clone, Default)]
pub struct Certificates {
    pub api: Option<ListenerTls>,
    pub admin: Option<ListenerTls>,
}

impl Certificates {
    fn all(&self) -> impl Iterator<Item = &ListenerTls> {
        self.api.iter().chain(&self.admin)
    }
    /// Looks at the files until the process ends.
    pub fn follow(&self) {
        for tls in self.all() {
            crate::task::spawn("certificates", tls.clone().follow());
        }
    }
}

/// A running node's configuration, and the parts that can change.
pub(super) struct Reload {
    sources: ConfigArgs,
    running: Config,
    access: AccessParts,
    tls: Certificates,
    audit: Option<Audit>,
    /// The warnings that were logged and still hold: each is logged once, until it is gone.
    told: Vec<String>,
}

/// The changes in a new configuration.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    now: Vec<&'static str>,
    at_restart: Vec<&'static str>,
}

impl Reload {
    pub fn new(
        sources: ConfigArgs,
        running: Config,
        access: AccessParts,
        tls: Certificates,
        audit: Option<Audit>,
        told: Vec<String>,
    ) -> Self {
        Self { sources, running, access, tls, audit, told }
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
        if let Err(why) = self.audit(&loaded).await {
            return refused(&why);
        }
        for tls in self.tls.all() {
            tls.clone().looked(true).await;
        }
        match self.take(&loaded) {
            Ok(changes) => report(&changes),
            Err(why) => return refused(&why),
        }
        if let Some(policy) = self.access.policy.clone() {
            let read = crate::task::blocking(move || policy.reload());
            match timeout(limits::RELOAD_WAIT, read).await {
                Ok(read) => {
                    let change = read.ok().flatten();
                    if let Some((audit, change)) = self.audit.as_ref().zip(change) {
                        audit.note(change).await;
                    }
                }
                Err(_) => {
                    tracing::error!("SIGHUP: the policy (access.file) could not be read in time");
                }
            }
        }
        for line in loaded.notes {
            tracing::info!("{line}");
        }
        for warning in self.untold(loaded.warnings) {
            tracing::warn!("{warning}");
        }
    }

    /// Those of the warnings that were not logged, or were gone meanwhile.
    fn untold(&mut self, warnings: Vec<String>) -> Vec<String> {
        let told = std::mem::replace(&mut self.told, warnings);
        self.told.iter().filter(|warning| !told.contains(warning)).cloned().collect()
    }

    /// Writes which tokens are about to be replaced; without a line none is.
    async fn audit(&self, loaded: &Loaded) -> Result<(), String> {
        let new = &loaded.config;
        let listeners = [
            ("api", &self.running.api.token, &new.api.token),
            ("admin", &self.running.admin.token, &new.admin.token),
        ];
        for (name, now, then) in listeners {
            let replaced = now.is_some() && then.is_some() && now != then;
            let Some(audit) = self.audit.as_ref().filter(|_| replaced) else { continue };
            let mut change = Change::event("static-token-replaced");
            change.subject.insert("listener".into(), name.into());
            audit.event(change).await.map_err(|error| error.detail.into_owned())?;
        }
        Ok(())
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
                    let (now, then) = (&self.running.api.token, &new.api.token);
                    if !self.replace(Listener::Api, now.as_ref(), then.as_ref())? {
                        changes.at_restart.push(key);
                        continue;
                    }
                    self.running.api.token.clone_from(then);
                }
                "admin.token" => {
                    let (now, then) = (&self.running.admin.token, &new.admin.token);
                    if !self.replace(Listener::Admin, now.as_ref(), then.as_ref())? {
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

    /// Changes a token's value. Whether there is one decides who may use the API at all, and can't
    /// change while the node runs.
    fn replace(
        &self,
        listener: Listener,
        now: Option<&Secret>,
        then: Option<&Secret>,
    ) -> Result<bool, String> {
        let (Some(_), Some(then)) = (now, then) else { return Ok(false) };
        self.access.decider.set_static(listener, Some(static_token(then.reveal())?));
        Ok(true)
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
        let access = crate::access::of_test(Some("hunter2hunter2"), None);
        let decider = Decider::new(access.clone(), || {});
        let parts = AccessParts { decider, policy: None };
        let mut reload = Reload::new(
            ConfigArgs::default(),
            first,
            parts,
            Certificates::default(),
            None,
            Vec::new(),
        );
        let second =
            [("api.token", "another-token"), ("admin.token", "a-token-more"), ("node", "x")];
        let changes = reload.take(&loaded(&second)).unwrap();
        assert_eq!(changes.now, ["api.token"]);
        assert_eq!(changes.at_restart, ["node", "admin.token"]);
        let shown = |token: &str| access.identify_now(Listener::Api, token.as_bytes(), 0);
        assert!(shown("another-token").is_some_and(|it| it.is_ok()));
        assert!(shown("hunter2hunter2").is_some_and(|it| it.is_err()));
        let again = reload.take(&loaded(&second)).unwrap();
        assert!(again.now.is_empty(), "{again:?}");
    }

    /// Whoever reloads often would no longer read what is new.
    #[test]
    fn a_warning_is_said_once_until_it_is_gone() {
        let access = crate::access::of_test(Some("hunter2hunter2"), None);
        let parts = AccessParts { decider: Decider::new(access, || {}), policy: None };
        let told = vec!["all can read a".to_owned()];
        let config = Config::default();
        let mut reload =
            Reload::new(ConfigArgs::default(), config, parts, Certificates::default(), None, told);
        let mut untold = |warnings: &[&str]| {
            reload.untold(warnings.iter().map(|&warning| warning.to_owned()).collect())
        };
        assert_eq!(untold(&["all can read a", "b"]), ["b"]);
        assert!(untold(&["b", "all can read a"]).is_empty());
        assert!(untold(&["b"]).is_empty());
        assert_eq!(untold(&["all can read a"]), ["all can read a"]);
    }
}
