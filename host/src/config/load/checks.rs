//! Checks across values, and warnings about allowed ones.

use super::{ACCESS_FILE, Loading, Origin, listener};
use crate::access;
use crate::config::{
    Config,
    keys::{KEYS, Key},
    value::{REDACTED, Value},
};
use crate::{
    modes,
    requests::{self, Grants, Rules},
    tls::certificate,
};
use std::path::{Path, PathBuf};

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
            let [listen, token, file, certificate] =
                ["listen", "token", "token_file", "tls_certificate"].map(|k| format!("{name}.{k}"));
            self.check_tls(name, sound);
            let listener = listener(&mut self.config, &listen).clone();
            if !listener.is_exposed() || self.config.insecure {
                continue;
            }
            let of = match name {
                "api" => slotd_access::Listener::Api,
                _ => slotd_access::Listener::Admin,
            };
            let shown = Some(format!("{:?}", listener.listen));
            let origin = self.origin(&listen);
            if !listener.needs_credentials()
                && !self.is_closed(of)
                && sound(&[&listen, &token, &file, ACCESS_FILE])
            {
                let message = format!(
                    "without a token, anyone who reaches this address can use it: set {token} or \
                     {file}, have access.file say who may use it, or pass --insecure if you mean it"
                );
                self.problem(&listen, shown.clone(), &origin, message);
            }
            if listener.tls().is_none() && !listener.clear_text && sound(&[&listen, &certificate]) {
                let message = format!(
                    "without TLS, anyone on the way to this address can read tokens and messages, \
                     and change them. Set {certificate} and {name}.tls_key (`slotd tls init` makes \
                     both); or, if TLS ends at a proxy in front of this listener, set \
                     {name}.clear_text = true; or pass --insecure if you mean it"
                );
                self.problem(&listen, shown, &origin, message);
            }
        }
        let (api, admin) = (self.config.api.listen, self.config.admin.listen);
        if api == admin && api.port() != 0 && sound(&["api.listen", "admin.listen"]) {
            let message = "the same as api.listen; the two listeners need different addresses";
            let origin = self.origin("admin.listen");
            self.problem("admin.listen", Some(format!("{admin:?}")), &origin, message);
        }
    }

    /// Whether a rule of the policy, or the grant of a named token that a lone node keeps, has a verb of a listener: then
    /// nobody else may use it.
    fn is_closed(&self, listener: slotd_access::Listener) -> bool {
        // With a policy, a listener that others reach is never open, whatever becomes of its rules.
        self.config.access_file.is_some()
            || (!self.config.is_cluster()
                && access::kept_tokens_close(&self.config.data_dir, listener))
    }

    /// Whether the certificate of a listener can be used.
    fn check_tls(&mut self, name: &str, sound: &Sound<'_>) {
        let key = |key: &str| format!("{name}.{key}");
        let (certificate, private) = (key("tls_certificate"), key("tls_key"));
        let authority = key("tls_client_authority");
        let listener = listener(&mut self.config, &certificate).clone();
        let set = [&listener.tls_certificate, &listener.tls_key].map(Option::is_some);
        let pair = [(&certificate, &private, set[0]), (&private, &certificate, set[1])];
        if let Some((set, missing, _)) =
            pair.iter().find(|(.., is_set)| *is_set).filter(|_| set[0] != set[1])
        {
            let message = format!("not set, and {set} is: a listener needs both or none");
            let origin = self.origin(missing);
            self.problem(missing, None, &origin, message);
        }
        if listener.tls_client_authority.is_some() && set == [false, false] {
            let message = format!("certificates are shown in TLS only: set {certificate}, too");
            let origin = self.origin(&authority);
            self.problem(&authority, None, &origin, message);
        }
        if listener.clear_text && set == [true, true] {
            let message = format!("{certificate} is set: the listener speaks TLS only");
            let origin = self.origin(&key("clear_text"));
            self.problem(&key("clear_text"), None, &origin, message);
        }
        if let Some(files) = listener.tls()
            && sound(&[&certificate, &private, &authority])
            && let Err(why) = files.check()
        {
            let origin = self.origin(&certificate);
            self.problem(&certificate, None, &origin, why);
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
        let nats = &self.config.nats;
        let pair = [
            ("nats.tls_certificate", nats.tls_certificate.is_some()),
            ("nats.tls_key", nats.tls_key.is_some()),
        ];
        if let [(set, true), (missing, false)] | [(missing, false), (set, true)] = pair {
            let message = format!("not set, and {set} is: slotd needs both or none");
            let origin = self.origin(missing);
            self.problem(missing, None, &origin, message);
        }
        let tls = self.config.nats.tls();
        let keys = ["nats.tls_authority", "nats.tls_certificate", "nats.tls_key"];
        let set = keys.iter().find(|key| self.origins.contains_key(**key));
        // The system's authorities are not what is asked for here.
        if let Some(key) = set
            && sound(&keys)
            && tls.authority.is_some()
            && let Err(why) = tls.config()
        {
            let origin = self.origin(key);
            self.problem(key, None, &origin, why);
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
        let address = listener.listen;
        if config.insecure && !listener.needs_credentials() && listener.is_exposed() {
            warnings.push(format!(
                "insecure: the {name} listener on {address} has no token; while no rule or grant speaks of it, anyone who \
                 reaches it can use it"
            ));
        }
        if listener.is_exposed() && listener.tls().is_none() && !listener.clear_text {
            warnings.push(format!(
                "insecure: the {name} listener on {address} speaks plain HTTP; anyone on the way to \
                 it can read and change everything"
            ));
        }
        if let Some(files) = listener.tls()
            && let Ok(validity) = files.check()
        {
            let shown = files.certificate.display();
            let now = certificate::now();
            let out_of_time = validity.check(now).err().or_else(|| validity.ends_soon(now));
            warnings
                .extend(out_of_time.map(|why| format!("{shown} ({name}.tls_certificate): {why}")));
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
    let held = KEYS.iter().copied().find(in_file).map(|key| (key.name, file));
    let named = KEYS.iter().filter(|key| names_private_file(key.name)).filter_map(|key| match (key
        .get)(
        config,
    ) {
        Some(Value::Text(path)) => Some((key.name, PathBuf::from(path))),
        _ => None,
    });
    let held = held.and_then(|(key, path)| Some((key, path?.to_owned())));
    let all = held.into_iter().chain(named);
    all.filter_map(|(key, path)| modes::readable_by_all(&path, key)).collect()
}

/// Keys that name a file with a secret, or with who may do what.
fn names_private_file(key: &str) -> bool {
    const LAST: [&str; 6] =
        ["token_file", "secret_file", "secrets_file", "key_file", "tls_key", "credentials"];
    key == "access.file" || key.rsplit('.').next().is_some_and(|last| LAST.contains(&last))
}
