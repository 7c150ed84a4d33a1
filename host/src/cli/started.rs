//! What a node begins with, as a line of the audit log: what was changed while it was down has no line of its own, and is
//! seen by comparing this one with the one before.

use super::reload::AccessParts;
use crate::{
    access::TokenStore,
    audit::{Audit, Change},
    config::{Config, keys::KEYS},
    files,
    plugin::Digest,
};
use slotd_access::{Listener, limits as access_limits};
use std::{fmt::Write as _, path::Path};

/// Writes the line. It goes on without it: a node that does not start helps nobody.
pub(super) async fn note(
    audit: &Audit,
    config: &Config,
    access: &AccessParts,
    tokens: &TokenStore,
) {
    let (config, access, tokens) = (config.clone(), access.clone(), tokens.clone());
    // Files may be on a disk that hangs.
    match crate::task::blocking(move || change(&config, &access, &tokens)).await {
        Ok(change) => audit.note(change).await,
        Err(error) => tracing::error!(%error, "the node's start is not in the audit log"),
    }
}

fn change(config: &Config, access: &AccessParts, tokens: &TokenStore) -> Change {
    let decides = access.decider.access();
    let mut change = Change::event("started");
    let policy = access.policy.as_ref().and_then(|policy| policy.digest());
    let named = decides.policy();
    let authority = config.admin.tls_client_authority.as_deref().map(Path::new);
    for (name, value) in [
        ("slotd", Some(env!("CARGO_PKG_VERSION").to_owned())),
        ("config", Some(of_config(config).to_string())),
        ("policy", policy.map(|digest| digest.to_string())),
        ("policy_files", of_files(named.files().iter().map(AsRef::as_ref))),
        ("client_authority", of_files(authority)),
        ("tokens", of_tokens(tokens)),
        ("api_token", decides.fingerprint_of_static(Listener::Api)),
        ("admin_token", decides.fingerprint_of_static(Listener::Admin)),
    ] {
        if let Some(value) = value {
            change.after.insert(name.into(), value.into());
        }
    }
    change
}

/// Of all that is configured, but for what is secret.
fn of_config(config: &Config) -> Digest {
    let mut text = String::new();
    for key in KEYS.iter() {
        if let Some(value) = (key.get)(config).map(|value| value.to_string()) {
            let _ = writeln!(text, "{} = {}", key.name, key.masked(&value).unwrap_or(value));
        }
    }
    Digest::of(text.as_bytes())
}

/// Of the contents of files; `None`: there are none.
fn of_files<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Option<String> {
    let mut all = Vec::new();
    for path in paths {
        let read = files::read(path, access_limits::KEYS_BYTES_MAX as u64);
        all.extend(read.map_or([0; 32], |bytes| Digest::of(&bytes).0));
    }
    (!all.is_empty()).then(|| Digest::of(&all).to_string())
}

fn of_tokens(tokens: &TokenStore) -> Option<String> {
    let tokens = tokens.all().ok().filter(|tokens| !tokens.tokens.is_empty())?;
    Some(Digest::of(&serde_json::to_vec(&tokens).ok()?).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access::{Decider, PolicyFile},
        config::{Sources, load},
    };

    /// A policy or a token that was exchanged while the node was down would be in no line, and a token in a line would be
    /// one that readers of the log have.
    #[test]
    fn what_was_changed_while_a_node_was_down_is_seen_and_no_secret_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        let started = |flags: &[(&'static str, &str)], token: &str, policy: &str| {
            let flags = flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
            let config = load(&Sources { flags, ..Sources::default() }).unwrap().config;
            std::fs::write(&path, policy).unwrap();
            let decider = Decider::new(crate::access::of_test(Some(token), None), || {});
            let policy = Some(PolicyFile::open(path.clone(), decider.clone()).unwrap());
            let change = change(&config, &AccessParts { decider, policy }, &TokenStore::none());
            assert_eq!((&*change.action, &*change.who), ("started", "slotd"));
            change.after
        };
        let rule = "[[rule]]\nwho = 'anyone'\nallow = 'send'\non = 'chat'";
        let before = started(&[], "hunter2hunter2", rule);
        assert_eq!(before, started(&[], "hunter2hunter2", rule));
        assert!(!serde_json::to_string(&before).unwrap().contains("hunter2"));
        let differing = |after: serde_json::Map<String, serde_json::Value>| {
            let differs = before.iter().filter(|(name, value)| after.get(*name) != Some(value));
            differs.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(differing(started(&[], "hunter3hunter3", rule)), ["api_token"]);
        assert_eq!(differing(started(&[], "hunter2hunter2", "")), ["policy"]);
        assert_eq!(differing(started(&[("node", "x")], "hunter2hunter2", rule)), ["config"]);
    }
}
