//! Checks across values, and warnings about allowed ones.

use super::{Loading, Origin, listener};
use crate::config::{
    Config, Listener,
    keys::{KEYS, Key},
    value::{REDACTED, Value},
};
use crate::requests::{self, Grants, Rules};
use std::{os::unix::fs::PermissionsExt as _, path::Path};

/// Whether all of some keys have valid values.
type Sound<'a> = dyn Fn(&[&str]) -> bool + 'a;

impl Loading {
    /// Checks across values. Skipped for values that are invalid themselves: the defaults in their
    /// place would cause misleading errors.
    pub(super) fn cross_checks(&mut self) {
        let bad: Vec<String> = self.problems.iter().map(|p| p.key.clone()).collect();
        let sound = |keys: &[&str]| !keys.iter().any(|key| bad.iter().any(|b| b == key));
        self.check_listeners(&sound);
        self.check_cluster(&sound);
        self.check_guests(&sound);
    }

    fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    fn check_listeners(&mut self, sound: &Sound<'_>) {
        for name in ["api", "admin"] {
            let [listen, token, file] =
                ["listen", "token", "token_file"].map(|k| format!("{name}.{k}"));
            let Listener { listen: address, token: secret, .. } =
                listener(&mut self.config, &listen).clone();
            let exposed = !address.ip().to_canonical().is_loopback();
            if exposed
                && secret.is_none()
                && !self.config.insecure
                && sound(&[&listen, &token, &file])
            {
                let message = format!(
                    "without a token, anyone who reaches this address can use it: set {token} or \
                     {file}, or pass --insecure if you mean it"
                );
                let origin = self.origin(&listen);
                self.problem(&listen, Some(format!("{address:?}")), &origin, message);
            }
        }
        let (api, admin) = (self.config.api.listen, self.config.admin.listen);
        if api == admin && api.port() != 0 && sound(&["api.listen", "admin.listen"]) {
            let message = "the same as api.listen; the two listeners need different addresses";
            let origin = self.origin("admin.listen");
            self.problem("admin.listen", Some(format!("{admin:?}")), &origin, message);
        }
    }

    fn check_guests(&mut self, sound: &Sound<'_>) {
        let (memory, total) =
            (self.config.guest_memory_bytes, self.config.guest_memory_total_bytes);
        if memory as u64 > total && sound(&["guests.memory", "guests.memory_total"]) {
            let message = format!(
                "more than guests.memory_total ({}), so no instance could ever use it",
                Value::Size(total)
            );
            let shown = Value::Size(memory as u64).to_string();
            let origin = self.origin("guests.memory");
            self.problem("guests.memory", Some(format!("{shown:?}")), &origin, message);
        }
        if self.config.guest_deadline > self.config.request_deadline
            && sound(&["guests.deadline", "api.request_deadline"])
        {
            let message = format!(
                "longer than api.request_deadline ({}), so a call could outlast its request",
                Value::Duration(self.config.request_deadline)
            );
            let shown = Value::Duration(self.config.guest_deadline).to_string();
            let origin = self.origin("guests.deadline");
            self.problem("guests.deadline", Some(format!("{shown:?}")), &origin, message);
        }
    }

    fn check_cluster(&mut self, sound: &Sound<'_>) {
        let cluster = self.config.cluster.clone();
        if !self.config.is_cluster() {
            return;
        }
        if cluster.secret.is_none() && sound(&["cluster.secret", "cluster.secret_file"]) {
            let message = "not set; the nodes of a cluster authenticate each other with it. Make \
                one with `slotd cluster secret`";
            let origin = self.origin("cluster.secret");
            self.problem("cluster.secret", None, &origin, message);
        }
        if let Some(secret) = &cluster.secret
            && !cluster.accept_weak_secret
            && let Err(weak) = crate::peer::secret::check(secret.reveal())
        {
            let origin = self.origin("cluster.secret");
            self.problem("cluster.secret", Some(REDACTED.into()), &origin, weak);
        }
        let certificates = [
            ("cluster.tls_authority", &cluster.tls_authority),
            ("cluster.tls_certificate", &cluster.tls_certificate),
            ("cluster.tls_key", &cluster.tls_key),
        ];
        if let Some((set, _)) = certificates.iter().find(|(_, path)| path.is_some()) {
            for (key, _) in certificates.iter().filter(|(_, path)| path.is_none()) {
                let message = format!("not set, and {set} is: a node needs all three or none");
                let origin = self.origin(key);
                self.problem(key, None, &origin, message);
            }
        }
        let advertised = cluster.advertise.unwrap_or(cluster.listen);
        if advertised.ip().is_unspecified() && sound(&["cluster.listen", "cluster.advertise"]) {
            let message = "peers can't connect to this address; set cluster.advertise to one they \
                can reach";
            let key =
                if cluster.advertise.is_some() { "cluster.advertise" } else { "cluster.listen" };
            let origin = self.origin(key);
            self.problem(key, Some(format!("{advertised:?}")), &origin, message);
        }
    }
}

/// Allowed settings that deserve a warning.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    for (name, listener) in [("api", &config.api), ("admin", &config.admin)] {
        if listener.token.is_none() && !listener.listen.ip().to_canonical().is_loopback() {
            let address = listener.listen;
            warnings.push(format!(
                "insecure: the {name} listener on {address} has no token; anyone who reaches it can use it"
            ));
        }
    }
    if config.is_cluster()
        && let Some(secret) = &config.cluster.secret
        && let Err(weak) = crate::peer::secret::check(secret.reveal())
    {
        warnings.push(format!(
            "insecure: cluster.accept_weak_secret is set, and cluster.secret is {weak}"
        ));
    }
    if !config.is_cluster() && (config.cluster.seeds.is_some() || config.cluster.secret.is_some()) {
        warnings.push("cluster.* is set but nats.servers is not: running as a single node".into());
    }
    if config.api.token.is_some() && config.api.token == config.admin.token {
        warnings.push(
            "api.token and admin.token are the same: every API client can also deploy".into(),
        );
    }
    let rules = parsed(config.http_rules.as_deref(), Rules::parse);
    let grants = parsed(config.http_secrets.as_deref(), Grants::parse);
    warnings.extend(requests::warnings(&rules, &grants));
    if config.http_secrets.is_some() && config.http_rules.is_none() {
        warnings.push(
            "effects.http_secrets is set but effects.http is not: no request is allowed".into(),
        );
    }
    warnings
}

/// It was checked as it was read.
fn parsed<T: Default>(text: Option<&str>, parse: impl Fn(&str) -> Result<T, String>) -> T {
    text.and_then(|text| parse(text).ok()).unwrap_or_default()
}

/// Files with secrets that every user of the machine can read.
pub(super) fn open_files(loading: &Loading, file: Option<&Path>) -> Vec<String> {
    let config = &loading.config;
    let in_file = |key: &&Key| {
        let from = loading.origins.get(key.name);
        let of_file = matches!(from, Some(Origin::File { path, .. }) if Some(&**path) == file);
        // The source of a secret read from its own file is that of the file's name.
        let own_file = loading.origins.get(format!("{}_file", key.name).as_str());
        // Servers' URLs contain a secret only if they name a user.
        let names_user = config.nats.servers.as_ref().is_some_and(|urls| urls.contains('@'));
        let holds = key.is_secret() || (key.name == "nats.servers" && names_user);
        holds && of_file && own_file != from
    };
    let held = KEYS.iter().find(in_file).map(|key| (key.name, file));
    let named = [
        ("api.token_file", &config.api.token_file),
        ("admin.token_file", &config.admin.token_file),
        ("cluster.secret_file", &config.cluster.secret_file),
        ("cluster.tls_key", &config.cluster.tls_key),
        ("nats.credentials", &config.nats.credentials),
        ("effects.secrets_file", &config.secrets_file),
    ];
    let named = named.into_iter().map(|(key, path)| (key, path.as_deref().map(Path::new)));
    let all = held.into_iter().chain(named).filter_map(|(key, path)| Some((key, path?)));
    all.filter_map(|(key, path)| {
        let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
        let shown = path.display();
        (mode & 0o004 != 0).then(|| {
            format!(
                "every user of this machine can read {shown}, which holds {key} (mode {mode:04o}): \
                 chmod o-rwx {shown}"
            )
        })
    })
    .collect()
}
